"""Take the code out of a language model's answer, without changing a character of it.

Marks (a fence, ``<nn>``, ``<tr>``, each also where its other end is missing) cut the answer into stretches, and code is
one stretch. Of several the one is taken that

1. defines what the kind asks for (``class Net`` or ``def transform``): a usage example or a shell command does not;
2. stands in the most deliberate wrapper: a tag, which only the final answer is asked to carry, then a fence, then none;
3. has both its marks: what never closes was most likely cut off by the token limit, often in a second, run-on answer;
4. comes last: drafts and quoted references come first, and the authors take the last tag too
   (``extract_str`` in nn-gpt 1.0.6, ``ab/gpt/util/Util.py``).

If none defines what is asked for, the same order picks a stretch that looks like Python, so that the model can be told
what is missing. Thoughts (``<think>``) are left out first. Nothing is repaired: stretches are never joined, indentation
stays, nothing is completed. A mark within the code (a fence in a docstring) ends it, as in Markdown. The time is linear
in the answer's length; possessive quantifiers (``*+``) see to it that no expression scans a megabyte of spaces twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import NamedTuple

from nngpt_lab.candidates.outcome import Kind


class Source(StrEnum):
    """Which rule found the code."""

    TAG = "tag"  # between <nn> or <tr> and its end
    UNCLOSED_TAG = "unclosed tag"  # one of the two ends is missing
    FENCE = "fence"  # between a pair of ``` or ~~~
    UNCLOSED_FENCE = "unclosed fence"
    BARE = "bare"  # no wrapper, and no prose above or below
    PROSE = "prose"  # no wrapper, cut out of prose line by line
    NONE = "none"


@dataclass(frozen=True)
class Extraction:
    """The code of one answer.

    Attributes:
        code: as the model wrote it; empty if there is none.
        source: the rule that found it.
        wrapped: whether the answer held more than the code and its marks: prose, thoughts, other blocks.
    """

    code: str
    source: Source
    wrapped: bool


_THOUGHT = re.compile(r"<(/?)think(?:ing)?>", re.IGNORECASE)
_MARK = re.compile(
    # a tilde fence only on a line of its own; backticks anywhere, because models glue them to the last line of code
    r"(?P<fence>`{3,}+|^[ ]{0,3}~{3,}+(?=[ \t]*+\w*+[ \t]*+\r?$))"
    r"(?P<info>[ \t]*+[\w.+#{}-]*+[ \t]*+(?=\r?$)|[ \t]*+(?:python3?|py)\b|)"
    # a tag, also as the authors' models misspell it: `< tr >`, `<.tr>`
    r"|<[ .]?(?P<end>/?)[ ]?(?P<tag>nn|tr)[ ]?>",
    re.IGNORECASE | re.MULTILINE,
)
# A byte order mark, which Python refuses in a string, must not hide the code that it spoils.
_NEEDED = {
    Kind.ARCHITECTURE: re.compile(r"^[ \t\ufeff]*+(?:class[ \t]++Net[ \t]*+[(:]|Net[ \t]*+=(?!=))", re.MULTILINE),
    Kind.AUGMENTATION: re.compile(
        r"^[ \t\ufeff]*+(?:(?:async[ \t]++)?def[ \t]++transform[ \t]*+\(|transform[ \t]*+=(?!=))", re.MULTILINE
    ),
}
_STATEMENT = re.compile(  # a line that opens Python and hardly ever a sentence
    r"^[ \t\ufeff]*+(?:import[ \t]++[\w.]++(?:[ \t]++as[ \t]++\w++)?[ \t]*+(?:[,;#].*)?\r?$"
    r"|from[ \t]++[\w.]++[ \t]++import\b"
    r"|class[ \t]++\w++[ \t]*+[(:]"
    r"|(?:async[ \t]++)?def[ \t]++\w++[ \t]*+\("
    r"|@[A-Za-z_][\w.]*+[ \t]*+(?:\(|\r?$))",
    re.MULTILINE,
)
_PREAMBLE = re.compile(r"""\s*+(?:#|$|[rRuU]?["'])""")  # may stand above the first statement: blank, comment, string
_PROSE = re.compile(  # a line at the margin that is a list item, bold, or two words side by side ...
    r"[-*+>][ ]|\*\*|\d++[.)][ ]|[A-Za-z][\w'’-]*+[,:;!.]?[ ]++(?!(?:and|for|if|in|is|not|or)\b)[A-Za-z`“]"
)
_KEYWORD = re.compile(  # ... unless Python lets the first word stand before another
    r"(?:assert|async|await|case|class|def|del|elif|else|except|finally|for|from|global|if|import|lambda|match|not|"
    r"print|raise|return|try|type|while|with|yield)\b"
)
_ASSIGNMENT = re.compile(r"[\w.]++(?:,[ ]?[\w.]++)*+(?::[ ][^=]*+)?[ ]*+=[^=]")  # names, perhaps with a type
_QUOTES = re.compile("\"\"\"|'''")
_BREAK, _LAST_BREAK = re.compile(r"[ \t]*+\r?\n"), re.compile(r"\r?\n[ \t]*+\Z")


class _Mark(NamedTuple):
    start: int
    end: int
    name: str  # "nn", "tr", or "" for a fence
    opens: bool


class _Stretch(NamedTuple):
    code: str
    source: Source
    trust: tuple[int, bool]  # wrapper (2 tag, 1 fence, 0 none), and whether both its marks are there


def extract(text: str, kind: Kind) -> Extraction:
    """Find the code of one kind in a model's answer; an empty string with source ``none`` if there is none.

    Never raises.

    >>> extract("Sure:\\n```python\\ndef transform(norm):\\n    return norm\\n```", Kind.AUGMENTATION)
    Extraction(code='def transform(norm):\\n    return norm', source=<Source.FENCE: 'fence'>, wrapped=True)
    """
    best, best_rank = None, (False, (0, False))
    for stretch in _stretches(_without_thoughts(text)):
        needed = bool(_NEEDED[kind].search(stretch.code))
        rank = (needed, stretch.trust)
        if rank >= best_rank and (needed or _STATEMENT.search(stretch.code)):  # at equal rank the later one
            best, best_rank = stretch, rank
    rest = _MARK.sub("", _THOUGHT.sub("", text)).strip()
    if best is None:
        return Extraction("", Source.NONE, wrapped=bool(rest))
    return Extraction(best.code, best.source, wrapped=rest != best.code.strip())


def _without_thoughts(text: str) -> str:
    """The text outside ``<think>``. An end without a start (chat templates open the thought) ends all before it."""
    kept: list[str] = []
    start, thinking = 0, False
    for mark in _THOUGHT.finditer(text):
        if mark[1]:  # an end
            if not thinking:
                kept.clear()
            start, thinking = mark.end(), False
        elif not thinking:
            kept.append(text[start : mark.start()])
            thinking = True
    return "".join(kept) + ("" if thinking else text[start:])


def _marks(text: str) -> Iterator[_Mark]:
    """The marks in order. A fence without a language opens or closes by what came before it, as in CommonMark."""
    fence = ""  # the open fence's characters
    for match in _MARK.finditer(text):
        if match["tag"]:
            yield _Mark(match.start(), match.end(), match["tag"].lower(), opens=not match["end"])
            continue
        run = match["fence"].strip()
        if fence and not run.startswith(fence):
            continue  # a shorter run, or the other character, is content
        opens = not fence or bool(match["info"].strip())  # a language within a fence: the one before never closed
        fence = run if opens else ""
        yield _Mark(match.start(), match.end(), "", opens)


def _stretches(text: str) -> Iterator[_Stretch]:
    """The stretches between neighbouring marks; with nested marks these are the innermost.

    What stands between a mark and its own end is taken whole, prose and all; where an end is missing, prose is cut off.
    """
    first, last = _Mark(0, 0, "edge", opens=False), _Mark(len(text), len(text), "edge", opens=True)
    for left, right in pairwise((first, *_marks(text), last)):
        inner = text[left.end : right.start]
        if not inner or inner.isspace():
            continue
        if left.opens and right.name == left.name and not right.opens:
            tag = bool(left.name)
            yield _Stretch(_without_breaks(inner, ends=True), Source.TAG if tag else Source.FENCE, (1 + tag, True))
        elif left.opens or (right.name in ("nn", "tr") and not right.opens):
            tag = bool(left.name if left.opens else right.name)
            code = _without_prose(_without_breaks(inner, ends=right is not last) if left.opens else inner)
            yield _Stretch(code, Source.UNCLOSED_TAG if tag else Source.UNCLOSED_FENCE, (1 + tag, False))
        else:
            code = _without_prose(inner)
            yield _Stretch(code, Source.BARE if code == inner else Source.PROSE, (0, False))


def _without_breaks(inner: str, ends: bool) -> str:
    """Leave out the line break after an opening mark and, only if there was one, the one before the mark that ends it.

    So marks on lines of their own and marks beside the code give back the same code.
    """
    if first := _BREAK.match(inner):
        inner = inner[first.end() :]
        if ends and (last := _LAST_BREAK.search(inner)):
            inner = inner[: last.start()]
    return inner


def _without_prose(text: str) -> str:
    """Cut code out of text that nothing delimits: from its first statement to the first line of prose after it.

    Comments, blank lines and strings right above the first statement belong to the code; assignments only at the very
    top, because prose lists settings too. Only lines at the margin and outside triple quotes can be prose. Text without
    a statement gives an empty string.
    """
    begin, begun, quoted, position = 0, False, False, 0
    for line in text.split("\n"):
        if not quoted and not begun:
            begun = bool(_STATEMENT.match(line)) and not line[0].isspace()
            above = _PREAMBLE.match(line) or (begin == 0 and _ASSIGNMENT.match(line))
            if not begun and (not above or (position == begin > 0 and not line.strip())):
                begin = position + len(line) + 1  # after prose, and after the blank lines below it
        elif not quoted and _PROSE.match(line) and not _KEYWORD.match(line) and not _ASSIGNMENT.match(line):
            return text[begin:position].rstrip()
        quoted ^= len(_QUOTES.findall(line)) % 2 == 1
        position += len(line) + 1
    return text[begin:] if begun else ""
