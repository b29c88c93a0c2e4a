"""Numbers and names as a reader wants them; the report's only taste in typography."""

from __future__ import annotations

import math
import re
from typing import Any

NO_BREAK = "\u202f"  # between a number and its unit


def number(value: Any) -> float | None:
    """``value`` as a finite number, or None."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


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


def format_column(cells: list[str]) -> tuple[str, list[str]]:
    """Class and cells of a table's column: numbers get as many decimals as the column needs, no more than three."""
    values = [number(cell) for cell in cells]
    known = [value for value in values if value is not None]
    if not known or any(present(cell) and value is None for cell, value in zip(cells, values, strict=True)):
        return "", cells
    if all(value.is_integer() for value in known):
        style = ",.0f" if max(map(abs, known)) >= 10_000 else ".0f"
    else:
        style = ",.3f" if max(map(abs, known)) < 1000 else ",.1f"
    return "number", [
        "" if value is None else format(value, ".2g" if 0 < abs(value) < 0.0005 else style) for value in values
    ]


def words(name: str) -> str:
    """A file's name as words: ``proxy_audit`` becomes ``Proxy audit``."""
    text = re.sub(r"[_-]+", " ", name).strip()
    return text[:1].upper() + text[1:]


def slug(text: str) -> str:
    """``text`` as an anchor or a class: letters and digits, joined by hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "x"


def clock(moment: Any) -> str:
    """An ISO date and time to the minute; other text as it is."""
    text = str(moment or "")
    found = re.match(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d)(?::[\d.]+)?(Z|\+00:00)?", text)
    return f"{found[1]} {found[2]}{' UTC' if found[3] else ''}" if found else text
