"""How a model may write an edit of a network: formats behind one interface, each with its prompt, parser and writer.

A parser reads what stands in an answer and nothing else: it takes no guess, and what it cannot read is a
:class:`Refused` with a typed outcome. ``application.py`` puts the edit in its place.

========================  =====================================================================================
``whole_file``            the complete new source, in a fence
``unified_diff``          as ``diff -u`` writes it, with line numbers; paper D's format
``numberless_diff``       the same with a bare ``@@`` above each hunk (as the tool aider asks for)
``search_replace``        blocks of lines to find, and of lines to put there
``whole_block``           whole functions, methods or classes, each under ``@@`` and its dotted name
``typed_mutation``        lines such as ``width 2 64``: the small vocabulary of ``mutations.py``
========================  =====================================================================================

Why the lab reads diffs itself: models miscount, and both well-kept parsers believe a header's counts. unidiff 1.0.1
refuses a hunk that is shorter than its header says, and, like whatthepatch 1.0.7, drops without a word those of its
lines that come after the counted ones; without numbers neither finds a hunk at all. Here the body counts, and a header
that contradicts it is counted as ``repaired``. Line numbers are not used to find a place.
"""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath

from nngpt_lab.candidates.contract import MAX_CHARACTERS
from nngpt_lab.candidates.extract import Source, extract
from nngpt_lab.candidates.outcome import Kind
from nngpt_lab.corpora.code import UNREADABLE, parse

CONTEXT = 3
"""Lines of context around a change, as in the authors' training targets (difflib's n)."""


class Outcome(StrEnum):
    """What became of an answer, before anything is trained. After ``applied`` the lab's own statuses go on."""

    APPLIED = "applied"
    NO_EDIT = "no edit"  # nothing in the answer that could be one
    TRUNCATED = "truncated"  # a mark is never closed, or the token limit ended the text
    WRONG_FORMAT = "not in the format"
    SEVERAL_FILES = "several files"
    OUTSIDE = "path outside the folder"
    TOO_LARGE = "too large"
    BINARY = "binary"
    CONTEXT_ABSENT = "context absent"
    DELETION_ABSENT = "deletion absent"  # it removes a line that is not there
    AMBIGUOUS = "ambiguous"  # more than one place
    OVERLAP = "overlapping hunks"
    NO_OP = "no-op"
    REVERTS = "reverts to an ancestor"
    DOES_NOT_PARSE = "does not parse"


class Refused(Exception):
    """An answer that is not applied, and why."""

    def __init__(self, outcome: Outcome, detail: str):
        super().__init__(detail)
        self.outcome, self.detail = outcome, detail


@dataclass(frozen=True)
class Hunk:
    """A place, told by the lines that stand there, and what becomes of them.

    ``lines``: (mark, text) in order; the mark is " " for a line that stays, "-" for one that goes, "+" for a new one.
    """

    lines: tuple[tuple[str, str], ...]

    @property
    def old(self) -> list[tuple[str, str]]:
        """The lines that must be there."""
        return [line for line in self.lines if line[0] != "+"]

    @property
    def changes(self) -> bool:
        return any(mark != " " for mark, _ in self.lines)


@dataclass(frozen=True)
class WholeFile:
    code: str


@dataclass(frozen=True)
class Hunks:
    """``ordered``: whether the format promises that they come in the file's order."""

    hunks: tuple[Hunk, ...]
    ordered: bool
    repaired: int = 0


@dataclass(frozen=True)
class Blocks:
    """New source by a function's, method's or class's dotted name."""

    blocks: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Mutation:
    """``kind`` of change to the layer with that number in the source, from 1; ``value`` as written, or empty."""

    kind: str
    layer: int
    value: str


@dataclass(frozen=True)
class Mutations:
    mutations: tuple[Mutation, ...]


Edit = WholeFile | Hunks | Blocks | Mutations


@dataclass(frozen=True)
class Format:
    """One way to write an edit.

    Attributes:
        name: for tables; its prompt is ``delta_<name>``.
        read: an answer's edit; raises Refused.
        write: the answer that turns one source into another, ``context`` lines around a change where the format has
            any; None where the format cannot say it.
    """

    name: str
    read: Callable[[str], Edit]
    write: Callable[[str, str, int], str | None]

    @property
    def prompt(self) -> str:
        return f"delta_{self.name}"


def read(answer: str, form: str, complete: bool = True) -> Edit:
    """The edit in a model's answer; Refused if there is none. Work is linear in the answer's length, which is limited.
    ``complete``: whether the model ended the answer itself, and not the token limit."""
    if len(answer) > MAX_CHARACTERS:
        raise Refused(Outcome.TOO_LARGE, f"the answer has {len(answer):,} characters, more than {MAX_CHARACTERS:,}")
    if BINARY.search(answer):
        raise Refused(Outcome.BINARY, "the answer holds binary data")
    if not answer.strip():
        raise Refused(Outcome.NO_EDIT, "the answer is empty")
    if not complete:
        raise Refused(Outcome.TRUNCATED, "the token limit ended the answer")
    return FORMATS[form].read(lines_joined(answer))


BINARY = re.compile(r"[\x00-\x08\x0e-\x1f]|^GIT binary patch|^Binary files .* differ$", re.MULTILINE)


def lines_joined(text: str) -> str:
    """The text with one kind of line break."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


# ---- the wrapper: <delta> tags, a fence, or nothing ------------------------------------------------------------------

TAG = re.compile(r"<(/?)delta>")
FENCE = re.compile(r"^```[\w+-]*[ ]*$", re.MULTILINE)


def unwrapped(text: str) -> str:
    """What stands between the last pair of ``<delta>`` tags, else in the only fence, else the text itself. Refused
    where a tag or fence is never closed (the rest of the edit is missing), and of several fences (which of them is
    meant?)."""
    tags = list(TAG.finditer(text))
    if tags:
        if tags[-1][1] == "" or len(tags) < 2 or tags[-2][1]:
            raise Refused(Outcome.TRUNCATED, "a <delta> tag has no other end")
        text = text[tags[-2].end() : tags[-1].start()]
    fences = list(FENCE.finditer(text))
    if len(fences) % 2:
        raise Refused(Outcome.TRUNCATED, "a fence is never closed")
    if len(fences) > 2:
        raise Refused(Outcome.WRONG_FORMAT, f"the answer holds {len(fences) // 2} fenced blocks, not one")
    if fences:
        text = text[fences[0].end() : fences[1].start()]
    if not text.strip():
        raise Refused(Outcome.NO_EDIT, "the edit is empty")
    return text.strip("\n")


def wrapped(edit: str) -> str:
    return f"<delta>\n{edit}\n</delta>"


# ---- whole file ------------------------------------------------------------------------------------------------------


def read_whole_file(answer: str) -> WholeFile:
    found = extract(answer, Kind.ARCHITECTURE)
    if found.source == Source.NONE:
        raise Refused(Outcome.NO_EDIT, "the answer holds no code")
    if found.source in (Source.UNCLOSED_FENCE, Source.UNCLOSED_TAG):
        raise Refused(Outcome.TRUNCATED, "a fence is never closed")
    return WholeFile(found.code)


def write_whole_file(before: str, after: str, context: int = CONTEXT) -> str:
    return f"```python\n{after}\n```"


# ---- diffs -----------------------------------------------------------------------------------------------------------

HEADER = re.compile(r"@@(?: -\d{1,9}(?:,(\d{1,9}))? \+\d{1,9}(?:,(\d{1,9}))?(?P<numbers>))?")
PATH = re.compile(r"(?:---|\+\+\+) (\S*)")
MARKS = ("", " ", "-", "+")  # of a hunk's line; a line without any is context that lost its mark
Body = list[tuple[str, str]]


def read_diff(answer: str) -> Hunks:
    """Hunks of a unified diff, with numbers or without."""
    lines = unwrapped(answer).split("\n")
    opened: list[tuple[re.Match[str], Body]] = []
    paths, position = set(), 0
    while position < len(lines):
        line = lines[position]
        if line.startswith("--- ") and "".join(lines[position + 1 : position + 2]).startswith("+++ "):
            paths.add(tuple(_path(text) for text in lines[position : position + 2]))
            position += 1  # the line +++ belongs to it
        elif header := HEADER.match(line):
            opened.append((header, []))
        elif opened and not line.startswith("\\ No newline"):
            opened[-1][1].append((line[:1] or " ", line[1:]) if line[:1] in MARKS else (" ", line))
        position += 1
    if len(paths) > 1:
        raise Refused(Outcome.SEVERAL_FILES, f"the diff is of {len(paths)} files")
    if not opened:
        raise _not_found(answer, bool(paths), "a line @@ that opens a hunk")
    repaired = sum(_miscounted(header, body) for header, body in opened)
    return _changing((_without_end(body) for _, body in opened), ordered=True, repaired=repaired)


def _path(line: str) -> str:
    path = match[1] if (match := PATH.match(line)) else ""
    if path != "/dev/null" and (path.startswith(("/", "~", "\\")) or ":" in path or ".." in PurePosixPath(path).parts):
        raise Refused(Outcome.OUTSIDE, f"the diff names {path[:80]!r}, which is not in the folder")
    return path


def _miscounted(header: re.Match[str], body: Body) -> bool:
    """Whether a header's counts, if it has any, are not the body's, with or without the blank lines at its end."""
    if header["numbers"] is None:
        return False
    counts, blank = (int(header[1] or 1), int(header[2] or 1)), len(body) - len(_without_end(body))
    old, new = (sum(mark != other for mark, _ in body) for other in "+-")
    return not any((old - less, new - less) == counts for less in range(blank + 1))


def _without_end(body: Body) -> Body:
    """Without blank context at its end: such lines stand between an edit and the mark that closes it."""
    end = len(body)
    while end and body[end - 1] == (" ", ""):
        end -= 1
    return body[:end]


def _changing(bodies: Iterable[Body], ordered: bool, repaired: int = 0) -> Hunks:
    hunks = tuple(hunk for body in bodies if (hunk := Hunk(tuple(body))).changes)
    if not hunks:
        raise Refused(Outcome.NO_OP, "no line is added or removed")
    return Hunks(hunks, ordered, repaired)


def _not_found(answer: str, meant: bool, what: str) -> Refused:
    """Where there is a wrapper, an edit was meant."""
    meant = meant or bool(TAG.search(answer) or FENCE.search(answer))
    return Refused(Outcome.WRONG_FORMAT if meant else Outcome.NO_EDIT, f"there is no {what}")


def diff_lines(before: str, after: str, context: int = CONTEXT) -> list[str]:
    """Lines of the unified diff, as difflib makes it, which made the authors' training targets."""
    old, new = before.split("\n"), after.split("\n")
    if old[-1] == new[-1] == "":  # both end with a line break, which opens no line
        old, new = old[:-1], new[:-1]
    return list(difflib.unified_diff(old, new, "baseline.py", "improved.py", n=context, lineterm=""))


def write_unified_diff(before: str, after: str, context: int = CONTEXT) -> str:
    return wrapped("\n".join(diff_lines(before, after, context)))


def write_numberless_diff(before: str, after: str, context: int = CONTEXT) -> str:
    lines = diff_lines(before, after, context)
    return wrapped("\n".join("@@" if line.startswith("@@") else line for line in lines))


# ---- search and replace ----------------------------------------------------------------------------------------------

FIND, THEN, DONE = re.compile(r"<{5,9} ?SEARCH\s*$"), re.compile(r"={5,9}\s*$"), re.compile(r">{5,9} ?REPLACE\s*$")


def read_search_replace(answer: str) -> Hunks:
    """Blocks of lines to find and lines to put there. Lines that stand in both stay: they are the context."""
    parts: list[list[str]] | None = None
    bodies: list[Body] = []
    for line in unwrapped(answer).split("\n"):
        if FIND.match(line) and parts is None:
            parts = [[]]
        elif THEN.match(line) and parts is not None and len(parts) == 1:
            parts.append([])
        elif DONE.match(line) and parts is not None and len(parts) == 2:
            bodies.append(_as_hunk(*parts))
            parts = None
        elif parts is not None:
            parts[-1].append(line)
    if parts is not None:
        raise Refused(Outcome.TRUNCATED, "a block has no end")
    if not bodies:
        raise _not_found(answer, False, "block between SEARCH and REPLACE")
    return _changing(bodies, ordered=False)


def _as_hunk(old: list[str], new: list[str]) -> Body:
    body: Body = []
    for tag, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        body += [(" " if tag == "equal" else "-", line) for line in old[a:b]]
        body += [("+", line) for line in new[c:d] if tag != "equal"]
    return body


def write_search_replace(before: str, after: str, context: int = CONTEXT) -> str:
    blocks: list[tuple[list[str], list[str]]] = []
    for line in diff_lines(before, after, context)[2:]:
        if line.startswith("@@"):
            blocks.append(([], []))
            continue
        for side, other in zip(blocks[-1], "+-", strict=True):
            if line[0] != other:
                side.append(line[1:])
    texts = ["\n".join(["<<<<<<< SEARCH", *old, "=======", *new, ">>>>>>> REPLACE"]) for old, new in blocks]
    return wrapped("\n".join(texts))


# ---- whole blocks ----------------------------------------------------------------------------------------------------

NAMED = re.compile(r"@@ ([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)\s*$")


def read_whole_block(answer: str) -> Blocks:
    blocks: list[tuple[str, list[str]]] = []
    for line in unwrapped(answer).split("\n"):
        if named := NAMED.match(line):
            blocks.append((named[1], []))
        elif blocks:
            blocks[-1][1].append(line)
    if not blocks:
        raise _not_found(answer, False, "line @@ with the name of a function, method or class")
    if len({name for name, _ in blocks}) < len(blocks):
        raise Refused(Outcome.OVERLAP, "one name is given twice")
    return Blocks(tuple((name, "\n".join(lines).strip("\n")) for name, lines in blocks))


def definitions(code: str, inside: bool = True) -> dict[str, list[tuple[int, int]]]:
    """Lines, from 0 and past the end, of every function and class at the top level and, with ``inside``, of every
    method of the latter, by dotted name; decorators included. Raises what ``corpora.code.UNREADABLE`` lists."""
    found: dict[str, list[tuple[int, int]]] = {}
    waiting: list[tuple[str, ast.stmt]] = [("", node) for node in parse(code).body]
    for prefix, node in waiting:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            found.setdefault(prefix + node.name, []).append((first - 1, node.end_lineno or node.lineno))
            if inside and isinstance(node, ast.ClassDef):
                waiting += [(f"{node.name}.", child) for child in node.body]
    return found


def write_whole_block(before: str, after: str, context: int = CONTEXT) -> str | None:
    """Changed methods and functions; where more has changed, whole classes; None where that is not all either."""
    for inside in (True, False):
        try:
            changed = _changed_blocks(before, after, inside)
        except UNREADABLE:
            return None
        if changed:
            return wrapped("\n".join(f"@@ {name}\n{code}" for name, code in changed.items()))
    return None


def _changed_blocks(before: str, after: str, inside: bool) -> dict[str, str] | None:
    """New source of the blocks that differ; None if their names or what stands around them differ, too."""
    around, blocks = [], []
    for code in (before, after):
        lines, places = code.split("\n"), definitions(code, inside)
        if any(len(each) > 1 for each in places.values()):
            return None
        leaves = {
            name: each[0] for name, each in places.items() if not any(key.startswith(f"{name}.") for key in places)
        }
        blocks.append({name: "\n".join(lines[start:end]) for name, (start, end) in leaves.items()})
        for name, (start, end) in sorted(leaves.items(), key=lambda item: -item[1][0]):
            lines[start:end] = [f"@@ {name}"]
        around.append(lines)
    if around[0] != around[1]:
        return None
    return {name: code for name, code in blocks[1].items() if code != blocks[0][name]}


# ---- typed mutations -------------------------------------------------------------------------------------------------

COMMAND = re.compile(r"([a-z]+) (\d{1,6})(?: ([\w+-]+))?\s*$")


def read_typed_mutation(answer: str) -> Mutations:
    found = []
    for line in unwrapped(answer).split("\n"):
        command = COMMAND.match(line.strip())
        if command:
            found.append(Mutation(command[1], int(command[2]), command[3] or ""))
        elif line.strip():
            raise Refused(Outcome.WRONG_FORMAT, f"{line.strip()[:80]!r} is not a mutation")
    return Mutations(tuple(found))


def write_nothing(before: str, after: str, context: int = CONTEXT) -> None:
    """Which mutation leads from one source to another is not looked for."""


FORMATS = {
    each.name: each
    for each in (
        Format("whole_file", read_whole_file, write_whole_file),
        Format("unified_diff", read_diff, write_unified_diff),
        Format("numberless_diff", read_diff, write_numberless_diff),
        Format("search_replace", read_search_replace, write_search_replace),
        Format("whole_block", read_whole_block, write_whole_block),
        Format("typed_mutation", read_typed_mutation, write_nothing),
    )
}
