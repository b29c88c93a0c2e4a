"""The generator of damaged edits on which the ladder of ``application.py`` was tuned.

It shares no code, no text and no kind of damage by name with the audit's: random edits of the lab's own source files,
line noise of random strength over the text of their diffs.
"""

from __future__ import annotations

import difflib
from typing import NamedTuple

import numpy as np

from nngpt_lab.ground import paths
from nngpt_lab.ground.seeds import generator


class Noisy(NamedTuple):
    before: str
    answer: str
    after: str | None  # None: a removed line was damaged, so that the edit must be refused


def noisy_edits(count: int, seed: int) -> list[Noisy]:
    rng = generator("tests", "noisy edits", seed)
    files = [file.read_text(encoding="utf-8") for file in sorted(paths.PACKAGE.glob("*/*.py"))]
    files = [text for text in files if 40 <= text.count("\n") <= 300]
    edits = []
    while len(edits) < count:
        text, other = (files[i].splitlines() for i in rng.choice(len(files), 2, replace=False))
        changed = random_change(text, other, rng)
        if changed != text:
            edits.append(damaged(text, changed, rng))
    return edits


def random_change(lines: list[str], others: list[str], rng: np.random.Generator) -> list[str]:
    """Up to four runs of lines replaced, removed or added."""
    result = list(lines)
    for _ in range(rng.integers(1, 5)):
        start, gone, new = rng.integers(len(result) - 5), rng.integers(0, 4), rng.integers(0, 4)
        source = rng.integers(len(others) - 5)
        result[start : start + gone] = others[source : source + new]
    return result


def damaged(before: list[str], after: list[str], rng: np.random.Generator) -> Noisy:
    rate, spoil, context = rng.choice([0, 0.04, 0.12, 0.3, 0.5]), rng.random() < 0.2, int(rng.integers(1, 5))
    text = ["<delta>"]
    spoilt, present = False, {"".join(line.split()) for line in before}
    lines = ["", *difflib.unified_diff(before, after, lineterm="", n=context), ""]
    for above, line, below in zip(lines, lines[1:], lines[2:], strict=False):
        roll = rng.random()
        beside = {above[:1], below[:1]} & {"-", "+"}
        if line[:2] in ("--", "++") or line[0] == "+":
            text.append(line)
        elif line[0] == "@":
            text.append(line if roll > rate else "@@ -1,1 +1,1 @@")
        elif line[0] == "-":
            other = letters_swapped(line[1:], rng)
            if spoil and roll < 0.3 and "".join(other.split()) not in present:
                spoilt, line = True, "-" + other
            text.append(line + " " * int(roll < rate))
        elif roll >= rate:
            text.append(line)
        elif roll < rate / 4:
            text.append(" " + letters_swapped(line[1:], rng))
        elif roll < rate / 2:
            text.append(" " + line[1:].replace(" ", "  ", 1) + "\t")
        elif beside:  # without it, the text would be another edit, and a sound one
            text.append(line)
        elif roll < 3 * rate / 4:
            text.append(f"    # {rng.integers(10**6)} lines of the old version were here")
    whole = "\n".join(before) + "\n", "\n".join(after) + "\n"
    return Noisy(whole[0], "\n".join([*text, "</delta>"]), None if spoilt else whole[1])


def letters_swapped(text: str, rng: np.random.Generator) -> str:
    if len(text.strip()) < 6:
        return text
    place = int(rng.integers(len(text) - 2))
    return text[:place] + text[place + 1] + text[place] + text[place + 2 :]
