"""Puts an edit in its place, strictly: a ladder of ever looser readings of one thing only, where the place is.

What goes and what comes is what the model wrote, at every rung. For each hunk the rungs are climbed until one finds a
place; two places at that rung are one too many, and nothing further is tried:

1. ``exact``: the lines to be found stand there, character by character;
2. ``whitespace``: the same but for white space within and at the end of lines, and tabs for spaces;
3. ``re-indented``: the same but for one shift of the whole hunk, which the new lines then follow;
4. ``near``: context may be misspelt, invented or left out, as long as :data:`NEAR` holds. A line to be removed must be
   there, and where new lines go must follow from a line beside them.

Hunks of a diff come in the file's order, so a hunk with several exact places is put where only one order is possible.
Nothing is ever placed by a line number. All refusals are typed (``edits.Outcome``), and the work is bounded.
"""

from __future__ import annotations

import difflib
import functools
import itertools
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from nngpt_lab.candidates.contract import MAX_CHARACTERS
from nngpt_lab.corpora.code import UNREADABLE, describe
from nngpt_lab.papers.delta_search.edits import (
    Blocks,
    Edit,
    Hunk,
    Hunks,
    Mutations,
    Outcome,
    Refused,
    WholeFile,
    definitions,
    lines_joined,
    read,
)
from nngpt_lab.papers.delta_search.mutations import mutate


class Rung(StrEnum):
    """How a hunk was found, the strictest first."""

    EXACT = "exact"
    WHITESPACE = "whitespace"
    REINDENTED = "re-indented"
    NEAR = "near"


@dataclass(frozen=True)
class Near:
    """When a place that fits only nearly is the place. Tuned on ``tests/papers/delta_search/noise.py``, audited on
    ``applier_audit.py``, which shares no code with it.

    Attributes:
        alike: least difflib ratio of a line of context with the line that it is taken for.
        share: least share of the hunk's old lines that is found; lines without a letter or digit count little.
        least: found lines that a place rests on, or all that the hunk has.
        lost: what a line of the file that the hunk leaves out costs, in found lines.
        ahead: by how much of the hunk's lines, of LONG at most, the place must lead the next best.
    """

    alike: float = 0.8
    share: float = 0.35
    least: float = 1.5
    lost: float = 0.3
    ahead: float = 0.15


NEAR = Near()
MAX_PLACES = 32  # more are ambiguous in any case
MAX_CELLS = 2_000_000  # of the table in which a near place is looked for
MAX_UNKNOWN = 40  # lines of a hunk that the file does not hold; with more it is of another file
LONG = 20
SHORT = 300  # characters; longer lines are compared as equal or not


@dataclass(frozen=True)
class Change:
    """Lines ``start`` to ``end`` (past it, from 0) of the file give way to ``new``."""

    start: int
    end: int
    new: tuple[str, ...]


@dataclass(frozen=True)
class Place:
    """A place of a hunk: its changes, from ``start`` to ``end`` (past it) in the file."""

    start: int
    end: int
    changes: tuple[Change, ...]


@dataclass(frozen=True)
class Applied:
    """What an answer came to.

    Attributes:
        code: the new source, whatever ``outcome`` says of it; None where nothing was applied.
        rungs: how each hunk was found.
        repaired: headers whose counts contradicted their hunks.
    """

    outcome: Outcome
    code: str | None = None
    detail: str = ""
    rungs: tuple[Rung, ...] = ()
    repaired: int = 0


def apply_answer(base: str, answer: str, form: str, ancestors: Iterable[str] = (), complete: bool = True) -> Applied:
    """Read an answer in a format (a name of ``edits.FORMATS``), and apply it to ``base``. Never raises for anything in
    the answer. ``ancestors``: sources that the edit must not lead back to; ``complete``: whether the model, and not the
    token limit, ended the answer."""
    try:
        edit = read(answer, form, complete)
        code, rungs = apply(base, edit)
    except Refused as refused:
        return Applied(refused.outcome, detail=refused.detail)
    repaired = edit.repaired if isinstance(edit, Hunks) else 0
    outcome, detail = judged(base, code, ancestors)
    return Applied(outcome, code, detail, rungs, repaired)


def judged(base: str, code: str, ancestors: Iterable[str]) -> tuple[Outcome, str]:
    """What the new source is beside the one it was made from: ``applied`` unless it is nothing new, or no Python."""
    if len(code) > MAX_CHARACTERS:
        return Outcome.TOO_LARGE, f"the edited source has {len(code):,} characters"
    program = _program(code)
    if program is None:
        return Outcome.DOES_NOT_PARSE, "the edited source is no Python"
    if code == base or program == _program(base):
        return Outcome.NO_OP, "the program is the same as before"
    if program in map(_program, ancestors):
        return Outcome.REVERTS, "the program is that of an ancestor"
    return Outcome.APPLIED, ""


@functools.lru_cache(maxsize=256)
def _program(code: str) -> str | None:
    """A hash of what a source says, whatever its layout; None if it is no Python."""
    return describe(code).ast_hash


def apply(base: str, edit: Edit) -> tuple[str, tuple[Rung, ...]]:
    """The edited source, with the base's kind of line break, and how each hunk was found; Refused if one was not."""
    text = lines_joined(base)
    rungs: tuple[Rung, ...] = ()
    match edit:
        case WholeFile(code):
            text = code
        case Hunks():
            lines = text.split("\n")
            placed = [places(hunk, lines) for hunk in edit.hunks]
            rungs = tuple(rung for rung, _ in placed)
            text = "\n".join(changed(lines, _chosen([each for _, each in placed], edit.ordered)))
        case Blocks():
            text = "\n".join(changed(text.split("\n"), list(_block_changes(text, edit))))
        case Mutations():
            text = mutate(text, edit)
    return text.replace("\n", "\r\n") if base.count("\r\n") > base.count("\n") / 2 else text, rungs


def changed(lines: Sequence[str], changes: Collection[Change]) -> list[str]:
    """The lines after all changes; Refused where two of them touch the same lines, or one place."""
    result, position, last = [], 0, None
    for change in sorted(changes, key=lambda each: (each.start, each.end)):
        if change.start < position or (last is not None and change.start == last.start):
            raise Refused(Outcome.OVERLAP, f"two changes meet at line {change.start + 1}")
        result += [*lines[position : change.start], *change.new]
        position, last = change.end, change
    return [*result, *lines[position:]]


def _chosen(places_of: Sequence[list[Place]], ordered: bool) -> list[Change]:
    """The one place of every hunk; of several those that alone keep the hunks in order, if ``ordered``."""
    kept = [list(each) for each in places_of]
    for number in range(1, len(kept) if ordered else 0):  # what starts before the hunk above can have ended is out
        edge = min(place.end for place in kept[number - 1])
        kept[number] = [place for place in kept[number] if place.start >= edge] or kept[number]
    for number in range(len(kept) - 2 if ordered else -1, -1, -1):  # and what ends after the one below must have begun
        edge = max(place.start for place in kept[number + 1])
        kept[number] = [place for place in kept[number] if place.end <= edge] or kept[number]
    if any(len(each) > 1 for each in kept):
        raise Refused(Outcome.AMBIGUOUS, f"a hunk fits in {max(map(len, kept))} places")
    return [change for each in kept for change in each[0].changes]


def places(hunk: Hunk, lines: Sequence[str]) -> tuple[Rung, list[Place]]:
    """All places of a hunk at the first rung that has any, and that rung; Refused if no rung has."""
    old = [text for _, text in hunk.old]
    if not any(text.strip() for text in old):
        raise Refused(Outcome.CONTEXT_ABSENT, "the hunk does not say where it belongs")
    for rung, key in KEYS.items():
        found = []
        for start in _windows([key(text) for text in old], [key(line) for line in lines]):
            place = _place(hunk, list(range(start, start + len(old))), lines, rung)
            found += [place] if place else []
        if found:
            return rung, found
    return Rung.NEAR, [_near(hunk, lines)]


def _within(line: str) -> str:
    """A line but for white space within and at its end."""
    return f"{_indent(line) if line.strip() else ''} {_stripped(line)}"


def _stripped(line: str) -> str:
    return " ".join(line.split())


def _indent(line: str) -> int:
    expanded = line.expandtabs(4)
    return len(expanded) - len(expanded.lstrip())


KEYS: dict[Rung, Callable[[str], str]] = {Rung.EXACT: str, Rung.WHITESPACE: _within, Rung.REINDENTED: _stripped}
"""What of a line must agree at each rung; the shift of a re-indented hunk is looked at when it has a place."""


def _windows(wanted: Sequence[str], there: Sequence[str]) -> list[int]:
    """Where the keys stand one after another, at most MAX_PLACES. Each distinct key becomes a letter, so that Python's
    search of a text in a text, which is linear, does the work."""
    letters: dict[str, str] = {}
    text, word = ("".join(letters.setdefault(key, chr(len(letters))) for key in keys) for keys in (there, wanted))
    found: list[int] = []
    start = text.find(word)
    while start >= 0 and len(found) < MAX_PLACES:
        found.append(start)
        start = text.find(word, start + 1)
    return found


def _place(hunk: Hunk, at: Sequence[int | None], lines: Sequence[str], rung: Rung) -> Place | None:
    """The hunk's changes where its old lines stand at the file's lines ``at`` (None: not there). None if they do not
    follow from that: where new lines go, how far they are indented, or that removed lines are one run."""
    shift = 0 if rung in (Rung.EXACT, Rung.WHITESPACE) else _shift(hunk, at, lines, rung)
    tabs = rung == Rung.EXACT or any(line.startswith("\t") for line in lines)
    spaced = str if tabs else _spaced
    changes, number = [], 0  # of the next old line
    for context, group in itertools.groupby(hunk.lines, lambda line: line[0] == " "):
        block = list(group)
        count = sum(mark == "-" for mark, _ in block) if not context else len(block)
        if not context:
            around = [at[place] if 0 <= place < len(at) else EDGE for place in (number - 1, number + count)]
            span = _span([mark for mark, _ in block], at[number : number + count], around, lines)
            new = _shifted([spaced(text) for mark, text in block if mark == "+"], shift)
            if span is None or new is None:
                return None
            changes.append(Change(*span, tuple(new)))
        number += count
    known = [place for place in at if place is not None]
    return Place(known[0], known[-1] + 1, tuple(changes))


def _spaced(line: str) -> str:
    """With spaces for tabs at its beginning, as in a file that has no tabs there."""
    rest = line.lstrip()
    return line[: len(line) - len(rest)].expandtabs(4) + rest


EDGE = -1
"""In place of a neighbour: the hunk begins or ends here."""


def _span(
    marks: Sequence[str], removed: Sequence[int | None], around: Sequence[int | None], lines: Sequence[str]
) -> tuple[int, int] | None:
    """Which lines of the file a change takes the place of: those removed, or none between its two neighbours. None if
    removed lines are not one run, if a neighbour that new lines stand beside was not found, or if the file has more
    than blank lines between them: before or after these?"""
    above, below = around
    known = [place for place in removed if place is not None]
    if len(known) < len(removed) or any(after != before + 1 for before, after in itertools.pairwise(known)):
        return None
    if known:
        start = known[0]
    elif above is None or below is None or above == below == EDGE:
        return None
    else:
        start = below if above == EDGE else above + 1
    end = start + len(known)
    for new, first, last in ((marks[0] == "+", above, start), (marks[-1] == "+", end - 1, below)):
        if not new or first is None or last is None or EDGE in (first, last):
            continue
        if any(line.strip() for line in lines[first + 1 : last]):
            return None
    return start, end


def _shift(hunk: Hunk, at: Sequence[int | None], lines: Sequence[str], rung: Rung) -> int | None:
    """By how many columns the hunk's lines stand further right in the file: all of them or, where the place is a near
    one, most. None if they do not agree. One column is a lost mark or a slip, and no shift."""
    shifts: Counter[int] = Counter()
    for (_, text), place in zip(hunk.old, at, strict=True):
        if place is not None and text.strip():
            shift = _indent(lines[place]) - _indent(text)
            shifts[0 if abs(shift) == 1 else shift] += 1
    shift, agreed = shifts.most_common(1)[0] if shifts else (0, 0)
    enough = agreed == shifts.total() or (rung == Rung.NEAR and 2 * agreed > shifts.total())
    return shift if enough else None


def _shifted(new: Sequence[str], shift: int | None) -> list[str] | None:
    """Lines moved by so many columns; None where one would have to leave the margin."""
    if shift is None or any(line.strip() and _indent(line) + shift < 0 for line in new):
        return None
    if not shift:
        return list(new)
    return [" " * (_indent(line) + shift) + line.lstrip() if line.strip() else line for line in new]


# ---- the last rung ---------------------------------------------------------------------------------------------------


def _near(hunk: Hunk, lines: Sequence[str]) -> Place:
    """The only place that fits nearly, by aligning the hunk's old lines with the file; Refused if there is none."""
    keys, there = [(mark, _stripped(text)) for mark, text in hunk.old], [_stripped(line) for line in lines]
    if len(keys) * len(there) > MAX_CELLS:
        raise Refused(Outcome.CONTEXT_ABSENT, "the hunk stands nowhere, and is too long to look for nearly")
    gains = _gains(keys, there)
    whole = sum(map(_weight, (text for _, text in keys)))
    table = Alignment(_removed(hunk), gains, np.array(list(map(_weight, there))) * NEAR.lost)
    best = table.ends.max()
    if not best >= max(NEAR.share * whole, min(NEAR.least, whole)):
        raise Refused(Outcome.CONTEXT_ABSENT, "the lines around the change are not in the file")
    found = {}
    for end in np.flatnonzero(table.ends >= best - NEAR.ahead * min(whole, LONG))[::-1]:
        for late in (False, True):
            place = _place(hunk, table.traced(int(end), late), lines, Rung.NEAR)
            if place is not None:
                found[place.changes] = place
            elif table.ends[end] == best:
                raise Refused(Outcome.AMBIGUOUS, "where the new lines go does not follow from the lines around them")
        if len(found) > 1:
            raise Refused(Outcome.AMBIGUOUS, "the hunk fits nearly in more than one place")
    return next(iter(found.values()))


@functools.lru_cache(maxsize=50_000)
def _weight(text: str) -> float:
    """What a line says about its place: a bracket hardly anything, a blank line next to nothing."""
    return 1.0 if re.search(r"\w", text) else 0.1 if text else 0.01


def _removed(hunk: Hunk) -> list[tuple[bool, bool]]:
    """Of every old line: is it removed, and is the next one of the same run? What lies within a run would be lost."""
    runs = [list(group) for _, group in itertools.groupby(hunk.lines, lambda line: line[0] != " ")]
    removed = []
    for run in runs:
        marks = [mark for mark, _ in run if mark != "+"]
        removed += [(mark == "-", mark == "-" and number < len(marks) - 1) for number, mark in enumerate(marks)]
    return removed


def _gains(keys: Sequence[tuple[str, str]], there: Sequence[str]) -> np.ndarray:
    """What it is worth to take old line i for the file's line j, shape (i, j); minus infinity where it cannot be.
    Refused if a line to be removed is nowhere, or if the hunk is of another file."""
    at: dict[str, list[int]] = {}
    for number, text in enumerate(there):
        at.setdefault(text, []).append(number)
    unknown = [(mark, text) for mark, text in keys if text not in at]
    if missing := [text for mark, text in unknown if mark == "-"]:
        raise Refused(Outcome.DELETION_ABSENT, f"it removes {missing[0][:80]!r}, which is not in the file")
    if len(unknown) > MAX_UNKNOWN:
        raise Refused(Outcome.CONTEXT_ABSENT, f"{len(unknown)} lines around the change are not in the file")
    gains, short = np.full((len(keys), len(there)), -np.inf), [text for text in at if 0 < len(text) <= SHORT]
    for row, (mark, text) in zip(gains, keys, strict=True):
        if text in at:
            row[at[text]] = _weight(text)
        elif mark == " " and len(text) <= SHORT:
            for other in difflib.get_close_matches(text, short, n=3, cutoff=NEAR.alike):
                row[at[other]] = _weight(text) * difflib.SequenceMatcher(None, text, other).ratio()
    return gains


class Alignment:
    """The best alignments of a hunk's old lines with a file, by where they end (Needleman-Wunsch with free ends).

    ``removed``: see :func:`_removed`; such lines must be found, and a run of them in one piece. ``gains``: shape (old
    lines, file lines); ``lost``: the cost of each of the file's lines that the hunk leaves out. ``ends[j]`` is the
    value of the best alignment that has used nothing past the file's line j. O(old lines x file lines) time and memory.
    """

    def __init__(self, removed: Sequence[tuple[bool, bool]], gains: np.ndarray, lost: np.ndarray):
        self.gains, self.removed = gains, removed
        self.cost = np.concatenate([[0.0], np.cumsum(lost)])
        before = np.zeros(gains.shape[1] + 1)
        self.found, self.after = [before], [before]  # with the last old line dealt with; then with lines left out
        for (gone, goes_on), gain in zip(removed, gains, strict=True):
            here = np.full(len(before), -np.inf) if gone else before.copy()
            here[1:] = np.maximum(here[1:], before[:-1] + gain)
            before = here if goes_on else np.maximum.accumulate(here + self.cost) - self.cost
            self.found.append(here)
            self.after.append(before)
        self.ends = self.found[-1]

    def traced(self, end: int, late: bool) -> list[int | None]:
        """For every old line the file's line, or None: a best alignment up to ``end``. Of equals ``late`` takes the one
        that leaves out a line of the hunk sooner."""
        at: list[int | None] = []
        for row in range(len(self.gains) - 1, -1, -1):
            if row + 1 < len(self.gains):  # lines that the hunk leaves out
                while end and not self._same(self.found[row + 1][end], self.after[row + 1][end]):
                    end -= 1
            value, passed = self.found[row + 1][end], self.after[row][end]
            taken = self.after[row][end - 1] + self.gains[row, end - 1] if end else -np.inf
            skip = not self.removed[row][0] and self._same(value, passed) and (late or not self._same(value, taken))
            at.append(None if skip else end - 1)
            end -= not skip
        return at[::-1]

    @staticmethod
    def _same(a: float, b: float) -> bool:
        return bool(abs(a - b) < 1e-9)


# ---- whole blocks ----------------------------------------------------------------------------------------------------


def _block_changes(text: str, edit: Blocks) -> Iterator[Change]:
    """The lines of each named block give way to its new source, indented as the old one was."""
    try:
        known = definitions(text)
    except UNREADABLE as error:
        raise Refused(Outcome.DOES_NOT_PARSE, f"the baseline does not parse: {error}") from error
    lines = text.split("\n")
    for name, code in edit.blocks:
        spans = known.get(name, [])
        if len(spans) != 1:
            outcome = Outcome.AMBIGUOUS if spans else Outcome.CONTEXT_ABSENT
            raise Refused(outcome, f"the baseline has {len(spans) or 'no'} {name[:80]!r}")
        new = code.split("\n")
        flush = _shifted(new, -_indent(new[0]))
        try:
            own = list(definitions("\n".join(flush or new), inside=False))
        except UNREADABLE as error:
            raise Refused(Outcome.DOES_NOT_PARSE, f"{name[:80]}: {error}") from error
        if own != [name.rpartition(".")[2]]:
            raise Refused(Outcome.WRONG_FORMAT, f"under {name[:80]!r} stand the definitions {own}")
        start, end = spans[0]
        yield Change(start, end, tuple(_shifted(new, _indent(lines[start]) - _indent(new[0])) or new))
