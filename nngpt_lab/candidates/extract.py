"""Take the code out of a language model's answer, without changing a character of it.

An answer is read as Markdown (CommonMark, by markdown-it-py), between the tags that the authors ask for (``<nn>``,
``<tr>``, each also where its other end is missing). Each block, and each stretch of text outside of blocks, may be the
answer. Of several the one is taken that

1. defines what the kind asks for (``class Net`` or ``def transform``): a usage example or a shell command does not;
2. stands between tags, which only the final answer is asked to carry;
3. keeps the contract: a fragment that shows one changed method does not replace the whole answer above it;
4. stands in a fence, rather than in none;
5. has both its marks: what never closes was most likely cut off by the token limit, often in a second, run-on answer;
6. comes last: drafts and quoted references come first, and the authors take the last tag too
   (``extract_str`` in nn-gpt 1.0.6, ``ab/gpt/util/Util.py``).

If none defines what is asked for, the same order picks one that looks like Python, so that the model can be told what
is missing. Thoughts (``<think>``) are left out first. Nothing is repaired: stretches are never joined, nothing is
completed; what a list or a quotation puts before each line of a block is Markdown's and goes, as any reader has it.

Models also write what Markdown does not take for a fence: marks glued to a word or to the last line of code, a block
that is opened anew before it closed. Where a first reading leaves such marks over, a second one moves them to lines of
their own. The time is linear in the answer's length; possessive quantifiers (``*+``) see to it that no expression scans
a megabyte of spaces twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import NamedTuple

from markdown_it import MarkdownIt

from nngpt_lab.candidates import contract
from nngpt_lab.candidates.outcome import Kind
from nngpt_lab.corpora.code import UNREADABLE, parse
from nngpt_lab.sandbox.status import Status


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
    """The code of one answer as the model wrote it (empty if there is none), the rule that found it, and whether the
    answer held more than the code and its marks: prose, thoughts, other blocks."""

    code: str
    source: Source
    wrapped: bool


_THOUGHT = (
    re.compile(  # DeepSeek's, Qwen's, Kimi's, Mistral's, Cohere's and OpenThinker's marks, and what prompts ask for
        r"(?P<start>^[ \t]*+)?(?:<\|?|◁|\[(?=/?THINK\]))(?P<end>/|end_(?:of_)?)?+(?:begin_of_|start_)?+(?:seed:)?+"
        r"(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflection|analysis|scratchpad)(?:\|?>|▷|\])",
        re.IGNORECASE | re.MULTILINE,
    )
)
# a tag, also as the authors' models misspell it: `< tr >`, `<.tr>`
_TAG = re.compile(r"<[ .]?(?P<end>/?)[ ]?(?P<name>nn|tr)[ ]?>", re.IGNORECASE)
_COMMONMARK = MarkdownIt("commonmark").disable(["html_block", "reference"])
_FENCES = MarkdownIt("zero").enable("fence")  # without indented code, so that a fence may stand anywhere on its line
for _reader in (_COMMONMARK, _FENCES):
    _reader.core.ruler.enableOnly(["block"])  # neither what stands within a paragraph, nor any change of a character
_RUN = re.compile(r"`{3,}+|^[ \t]*+~{3,}+", re.MULTILINE)
_ANEW = re.compile(r"^(?=[ ]{0,3}(?:`{3,}+|~{3,}+)[ \t]*+(?:python3?|py)\b)", re.IGNORECASE | re.MULTILINE)
_GLUED = re.compile(  # marks after something on their line, with no more than a language behind them; marks before text
    r"(?<=[^\s`])(?P<space>[ \t]*+)(?P<run>`{3,}+)(?=[ \t]*+[\w+#.-]*+[ \t]*+\r?$)"
    r"|^(?P<before>[ ]{0,3}`{3,}+)(?![ \t]*+(?:python3?|py)\b)(?=[ \t]*+(?:[^\w\s`{]|\w\S*+[ \t]++\S))",
    re.IGNORECASE | re.MULTILINE,
)
_MARK = re.compile(
    rf"{_TAG.pattern}|^[ \t>]*+(?:`{{3,}}+|~{{3,}}+)[^`\n]*+\n|`{{3,}}+|~{{3,}}+", re.IGNORECASE | re.MULTILINE
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
    r"|@[A-Za-z_][\w.]*+[ \t]*+(?:\(|\r?$)"
    r"|try:[ \t]*+\r?$)",
    re.MULTILINE,
)
_PREAMBLE = re.compile(r"""\s*+(?:#|$|[rRuU]?["'])""")  # may stand above the first statement: blank, comment, string
# What alone need be no Python, at the margin: a comment, a string, the end or the beginning of something longer, a
# call, a keyword
_PART = re.compile(
    r"""[\s#@)\]}]|[rbfuRBFU]{0,2}["']|[A-Za-z_][\w.]*+[(\[]|[^\n]*[(\[{,\\][ \t\r]*+$"""
    r"""|(?:assert|async|await|break|case|class|continue|def|del|elif|else|except|finally|for|from|global|if|import|"""
    r"""lambda|match|not|pass|print|raise|return|try|type|while|with|yield)\b"""
)
# What is Python by its letters alone: one word, two of which the second is no operator, an item of a list
_WORDS = re.compile(
    r"[^\W\d][\w'’-]*+(?:[,:;!.]?[ ]++(?!(?:and|for|if|in|is|not|or)\b)[^\W\d`“]|[.:!?]?[ \t\r]*+$)|[-*+][ ]"
)
_END_OF_TEXT = re.compile(r"(?:(?<!`)`{3,}+|</\w++>|<\|[^|\n]*+\|>|<｜[^｜\n]*+｜>)[ \t\r]*+$")
_ASSIGNMENT = re.compile(r"[\w.]++(?:,[ ]?[\w.]++)*+(?::[ ][^=]*+)?[ ]*+=[^=]")  # names, perhaps with a type
_LONG = 1_000  # characters: no longer line is given to Python's parser
_QUOTES = re.compile("\"\"\"|'''")
_BREAK, _LAST_BREAK = re.compile(r"[ \t]*+\r?\n"), re.compile(r"\r?\n[ \t]*+\Z")


class _Tag(NamedTuple):
    start: int
    end: int
    name: str
    opens: bool


class _Stretch(NamedTuple):
    """A stretch of the answer: its code, the rule that found it, and what of it is trusted, in the order above."""

    code: str
    source: Source
    tag: bool = False
    fence: bool = False
    closed: bool = False
    first: bool = True  # of the first reading


def extract(text: str, kind: Kind) -> Extraction:
    """Find the code of one kind in a model's answer; an empty string with source ``none`` if there is none.

    Never raises.

    >>> extract("Sure:\\n```python\\ndef transform(norm):\\n    return norm\\n```", Kind.AUGMENTATION)
    Extraction(code='def transform(norm):\\n    return norm', source=<Source.FENCE: 'fence'>, wrapped=True)
    """
    stretches = [*_stretches(_without_thoughts(text))]
    needed = [stretch for stretch in stretches if _NEEDED[kind].search(stretch.code)]
    codes = {stretch.code for stretch in needed}
    whole = {code for code in codes if len(codes) > 1 and contract.check(code, kind).status == Status.OK}
    some = needed or [stretch for stretch in stretches if _STATEMENT.search(stretch.code)]
    best = max(
        enumerate(some),
        key=lambda item: (item[1].tag, item[1].code in whole, *item[1][3:], item[0]),
        default=(0, _Stretch("", Source.NONE)),
    )[1]
    return Extraction(best.code, best.source, wrapped=_words(text) != _words(best.code))


def _words(text: str) -> str:
    """A text without marks and spaces."""
    return "".join(_MARK.sub("", _THOUGHT.sub("", text)).split())


def _without_thoughts(text: str) -> str:
    """The text outside of thoughts. A thought opens at the beginning of a line: else it is spoken of. An end without a
    start (chat templates open the thought) ends all before it, unless nothing follows."""
    kept: list[str] = []
    start, thinking, length = 0, False, len(text.rstrip())
    for mark in _THOUGHT.finditer(text):
        if not mark["end"]:
            if mark["start"] is not None and not thinking:
                kept.append(text[start : mark.start()])
                thinking = True
        elif thinking or mark.end() < length:
            if not thinking:
                kept.clear()
            start, thinking = mark.end(), False
    return "".join(kept) + ("" if thinking else text[start:])


def _stretches(text: str) -> Iterator[_Stretch]:
    """What stands between neighbouring tags (with nested ones these are the innermost), and its blocks.

    What stands between a tag and its own end is taken whole, prose and all; where an end is missing, prose is cut off.
    """
    tags = [_Tag(tag.start(), tag.end(), tag["name"].lower(), not tag["end"]) for tag in _TAG.finditer(text)]
    first, last = _Tag(0, 0, "", opens=False), _Tag(len(text), len(text), "", opens=True)
    for left, right in pairwise((first, *tags, last)):
        inner = text[left.end : right.start]
        closed = left.opens and right.name == left.name and not right.opens
        tagged = left.opens or not right.opens
        if not inner or inner.isspace():
            continue
        readings = [*_readings(inner)]
        yield from (stretch._replace(tag=closed) for stretch in readings if stretch.fence or not tagged)
        if closed:
            yield _Stretch(_without_breaks(inner, ends=True), Source.TAG, tag=True, closed=True)
        elif tagged and not any(stretch.fence and stretch.first for stretch in readings):
            code = _without_breaks(inner, ends=right is not last) if left.opens else inner
            yield _Stretch(_without_prose(code), Source.UNCLOSED_TAG, tag=True)


def _readings(text: str) -> Iterator[_Stretch]:
    """The blocks of a text and what stands outside of them; then, if marks are left over, what else may be blocks."""
    marks = len(_RUN.findall(text))
    for stretch in _blocks(text, _COMMONMARK) if marks else [_outside(text)]:
        marks -= 2 * stretch.closed
        yield stretch
    if marks > 0:
        apart = _GLUED.sub(lambda run: f"{run['space']}\n{run['run']}" if run["run"] else f"{run['before']}\n", text)
        for part in _ANEW.split(apart):
            if _STATEMENT.search(part):
                yield from (block._replace(first=False) for block in _blocks(part, _FENCES) if block.fence)


def _blocks(text: str, reader: MarkdownIt) -> Iterator[_Stretch]:
    """The fenced blocks of a text, and what stands before, between and after them."""
    lines, place = [f"{line}\n" for line in text.split("\n")], 0
    for block in reader.parse("".join(lines).replace("\r\n", " \n")):
        if block.type != "fence" or not block.map:
            continue
        begin, end = block.map
        yield _outside("".join(lines[place:begin]))
        closed, content, place = end - begin == block.content.count("\n") + 2, block.content, end
        if block.level == 0:  # neither in a list nor in a quotation: the lines as they are
            body = lines[begin + 1 : end - closed]
            margin = lines[begin][: len(lines[begin]) - len(lines[begin].lstrip(" \t"))]
            every = all(line.startswith(margin) or line.isspace() for line in body)
            content = "".join(line.removeprefix(margin) if every else line for line in body)
        content = content.removesuffix("\n")
        if closed:
            yield _Stretch(content.removesuffix("\r"), Source.FENCE, fence=True, closed=True)
        else:
            yield _Stretch(_without_prose(content), Source.UNCLOSED_FENCE, fence=True)
    yield _outside("".join(lines[place:])[:-1])


def _outside(text: str) -> _Stretch:
    """What no mark delimits."""
    code = _without_prose(text)
    return _Stretch(code, Source.BARE if code == text else Source.PROSE)


def _without_breaks(inner: str, ends: bool) -> str:
    """Leave out the line break after an opening tag and, only if there was one, the one before the tag that ends it:
    tags on lines of their own and tags beside the code give back the same code."""
    if first := _BREAK.match(inner):
        inner = inner[first.end() :]
        if ends and (last := _LAST_BREAK.search(inner)):
            inner = inner[: last.start()]
    return inner


def _without_prose(text: str) -> str:
    """Cut code out of text that nothing delimits: from its first statement to where code ends.

    Comments, blank lines and strings right above the first statement belong to the code; assignments only at the very
    top, because prose lists settings too. Code ends at a line at the margin that is no Python, in whatever language it
    is, or at a mark that ends a text. Text without a statement gives an empty string.
    """
    begin, begun, quoted, position = 0, False, False, 0
    for line in text.split("\n"):
        quotes = len(_QUOTES.findall(line))
        if not quoted and not begun:
            begun = bool(_STATEMENT.match(line)) and not line[0].isspace()
            above = _PREAMBLE.match(line) or (begin == 0 and _ASSIGNMENT.match(line))
            if not begun and (not above or (position == begin > 0 and not line.strip())):
                begin = position + len(line) + 1  # after prose, and after the blank lines below it
        elif not quoted:
            mark = _END_OF_TEXT.search(line) if not quotes and "#" not in line else None
            if mark or _is_prose(line):
                return text[begin : position + (mark.start() if mark else 0)].rstrip()
        quoted ^= quotes % 2 == 1
        position += len(line) + 1
    return text[begin:] if begun else ""


def _is_prose(line: str) -> bool:
    """Whether a line can be no part of a program. A line that begins like code and has an error in it is none of it."""
    if _PART.match(line) or _ASSIGNMENT.match(line):
        return False
    if _WORDS.match(line):
        return True
    try:
        return len(line) <= _LONG and not parse(line)
    except UNREADABLE:
        return True
