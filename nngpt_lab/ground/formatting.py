"""Numbers and names as a reader wants them; the report's only taste in typography."""

from __future__ import annotations

import math
import re
from typing import Any

NO_BREAK = "\u202f"  # between a number and its unit


def number(value: Any) -> float | None:
    """``value`` as a finite number, or None."""
    try:
        parsed = float(value)
    except (TypeError, ValueError):
        return None
    return parsed if math.isfinite(parsed) else None


def present(text: Any) -> str:
    """A cell's text, empty where it only says that nothing is there."""
    text = str(text).strip()
    return "" if text.lower() in ("nan", "none", "<na>") else text


def show(text: str, unit: str = "") -> str:
    """A number to four significant digits, thousands apart, with its unit; any other text as it is.

    >>> show("50.612345"), show("118000"), show("≥ 40", "%")
    ('50.61', '118,000', '≥ 40')
    """
    value = number(text)
    if value is None:
        return text
    digits = f"{value:,.0f}" if value.is_integer() or abs(value) >= 10_000 else f"{value:.4g}"
    return f"{digits}{NO_BREAK}{unit}" if unit else digits


def show_estimate(value: str, low: str, high: str, unit: str = "") -> tuple[str, str]:
    """A value with its unit, and its interval, both to the decimals that show the interval's width with two digits.

    A value whose interval has no width was counted, not estimated: it has no interval to show.

    >>> show_estimate("0.35987", "-0.009997", "0.6618"), show_estimate("6000", "6000", "6000")
    (('0.36', '-0.01 to 0.66'), ('6,000', ''))
    """
    start, end = number(low), number(high)
    if start is None or end is None or end <= start:
        return show(value, unit), ""
    decimals = max(0, 1 - math.floor(math.log10(end - start)))
    digits = [f"{number(text):,.{decimals}f}" for text in (value, low, high)]
    return (f"{digits[0]}{NO_BREAK}{unit}" if unit else digits[0]), f"{digits[1]} to {digits[2]}"


def bracketed(value: float, low: float, high: float, unit: str = "", digits: str = ".1f") -> str:
    """A number and its interval within a sentence.

    >>> bracketed(50.61, 48, 53.2, " %"), bracketed(0.4951, -0.1, 0.836, digits=".2f")
    ('50.6 % [48.0, 53.2]', '0.50 [-0.10, 0.84]')
    """
    return f"{value:{digits}}{unit} [{low:{digits}}, {high:{digits}}]"


def format_column(cells: list[str], digits: int | None = None) -> tuple[str, list[str]]:
    """Class and cells of a table's column: numbers get ``digits`` decimals (None: three, or one where they are large),
    whole ones none.

    >>> format_column(["0.12345", "12.5", ""], 1), format_column(["41", "12000"], 1), format_column(["0.12345"])
    (('number', ['0.1', '12.5', '']), ('number', ['41', '12,000']), ('number', ['0.123']))
    """
    values = [number(cell) for cell in cells]
    known = [value for value in values if value is not None]
    if not known or any(present(cell) and value is None for cell, value in zip(cells, values, strict=True)):
        return "", cells
    if all(value.is_integer() for value in known):
        style = ",.0f" if max(map(abs, known)) >= 10_000 else ".0f"
    else:
        digits = digits if digits is not None else 3 if max(map(abs, known)) < 1000 else 1
        style = f",.{digits}f"
    least = 0.5 * 10.0 ** -(digits or 0)  # what is smaller would be shown as 0
    return "number", [
        "" if value is None else format(value, ".2g" if 0 < abs(value) < least else style) for value in values
    ]


def words(name: str) -> str:
    """A file's name as words: ``proxy_audit`` becomes ``Proxy audit``."""
    text = re.sub(r"[_-]+", " ", name).strip()
    return text[:1].upper() + text[1:]


def slug(text: str) -> str:
    """``text`` as an anchor or a class: letters and digits, joined by hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "x"
