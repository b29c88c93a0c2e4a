"""What one answer of a language model is like: how its code stands in it, and whether the format or the code failed.

Paper A says that chain of thought "introduces syntactic noise". Noise around an answer costs nothing if the code is
found all the same; here the two are told apart.
"""

from __future__ import annotations

import re

from nngpt_lab.candidates.extract import Source, extract
from nngpt_lab.candidates.outcome import Kind

CUT = 0.97
"""An answer of at least this share of the token limit counts as cut. A text read back into tokens does not always give
those that it was written with: of 27 that were cut, the shortest read back as 98 %."""
FORMS = ("tags alone", "text, then tags", "otherwise wrapped", "nothing found")
TYPES = ("clean", "wrapped in noise", "bad code", "bad code in noise", "no answer", "cut off")
WORDS = 5  # more than "Here is the code:"

_WORD = re.compile(r"(?<![<\w])[A-Za-z]{2,}\b(?!>)")  # a tag's name is none
_DEF = re.compile(r"^def transform\b.*", re.DOTALL | re.MULTILINE)


def form(text: str) -> str:
    """How the code stands in an answer, one of :data:`FORMS`; whether it is good code does not matter.

    >>> form("<tr>def transform(norm): ...</tr>"), form("Use a crop. <tr>def transform(norm): ...</tr>")
    ('tags alone', 'text, then tags')
    """
    extracted = extract(text, Kind.AUGMENTATION)
    if extracted.source == Source.NONE:
        return "nothing found"
    if extracted.source == Source.TAG and not extracted.wrapped:
        return "tags alone"
    single = text.count("<tr>") == text.count("</tr>") == 1 and "```" not in text
    return "text, then tags" if single and text.rstrip().endswith("</tr>") else "otherwise wrapped"


def answer_type(text: str, style: str, valid: bool, tokens: int, limit: int) -> str:
    """One of :data:`TYPES`, so that a failure of the format can be told from a failure of the code.

    Noise is what the prompt does not ask for: any text outside the tags in direct prompting; in chain of thought the
    text before a single pair of tags is what it asks for. A valid answer is never *cut off*, even if a run-on was.
    """
    wrapping = form(text)
    asked = ("tags alone",) if style == "direct" else ("tags alone", "text, then tags")
    if valid:
        return "clean" if wrapping in asked else "wrapped in noise"
    if tokens >= CUT * limit:
        return "cut off"
    if wrapping == "nothing found":
        return "no answer"
    return "bad code" if wrapping in asked else "bad code in noise"


def reasons(text: str) -> bool:
    """Whether words stand before the code, or instead of it: at least :data:`WORDS`, as a rationale has. Whether they
    make sense is not asked.

    >>> reasons("Reference 1 uses Pad. So keep Pad. <tr>def transform(norm): ...</tr>"), reasons("<tr>x = 1</tr>")
    (True, False)
    """
    code = extract(text, Kind.AUGMENTATION).code
    before = text.partition(code)[0] if code else text
    return len(_WORD.findall(before)) >= WORDS


def found_by_authors(text: str) -> bool:
    """Whether the authors' extraction gives the code that ours gives.

    Theirs takes what the last pair of ``<tr>`` tags encloses; their first version, failing that, all from ``def
    transform`` on; lines of fences are dropped (nn-gpt 1.0.6, ``Util.extract_transform``, and its history).
    """
    before, end, _ = text.rpartition("</tr>")
    _, start, code = before.rpartition("<tr>")
    if not (start and end):
        function = _DEF.search(text)
        code = function[0] if function else ""
    code = "\n".join(line for line in code.strip().splitlines() if not line.startswith("```"))
    return bool(code) and code.strip() == extract(text, Kind.AUGMENTATION).code.strip()
