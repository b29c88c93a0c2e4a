"""Canonical forms: what of a source counts when two sources are compared.

Each form turns source text into a list of tokens; :mod:`nngpt_lab.candidates.novelty` compares the sets of their
shingles. Two sources with equal tokens are duplicates in that form. What a form cannot see:

=============  =================================================================  ==================================
form           blind to                                                           source
=============  =================================================================  ==================================
raw_tokens     white space                                                        the authors' loop, at generation
nn_dup         and comments, docstrings, numbers, strings, lower-case names, and    nn-dup, lexical stage
               all outside of the ``nn.Module`` classes and their helpers
ast_nameless   white space, comments, docstrings, layout, the author's names      ``corpora.code.NameEraser``
structure      and order, wiring, and sizes within the same power of two            nn-dup, structural stage, changed
=============  =================================================================  ==================================

Where a source does not parse, its raw tokens stand in and ``Canonical.fell_back`` says so. No form runs the source.
"""

from __future__ import annotations

import ast
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from keyword import iskeyword

from nngpt_lab.corpora.code import UNREADABLE, NameEraser, parse, strip_docstrings

VERSION = 1
"""Raise it when the tokens of any form change: saved indices of other versions are then refused."""

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Canonical:
    """A source in a canonical form; ``fell_back`` if it does not parse and the tokens are its raw ones."""

    tokens: list[str]
    fell_back: bool


@dataclass(frozen=True)
class Form:
    """One way to look at source text. ``extract`` may raise what ``UNREADABLE`` lists."""

    extract: Callable[[str], list[str]]

    def canonical(self, code: str) -> Canonical:
        try:
            return Canonical(self.extract(code), False)
        except UNREADABLE:
            return Canonical(raw_tokens(code), True)

    def tokens(self, code: str) -> list[str]:
        return self.canonical(code).tokens


@lru_cache(maxsize=1)
def _nodes(code: str) -> list[ast.AST]:
    """All nodes, to be read only: two forms of a source, one after the other, parse it once."""
    return list(ast.walk(parse(code)))


# --- raw_tokens ------------------------------------------------------------------------------------------------------

RAW_TOKEN = re.compile(r"[A-Za-z_]\w*|[^\s]")


def raw_tokens(code: str) -> list[str]:
    """Identifiers and single other characters of the untouched text (so ``64`` is two tokens); comments included.

    Source: nn-gpt, ``ab/gpt/util/nn_sftcodegen_rag.py``, ``TOKEN_RE`` (papers.md, B.3, discrepancy 2).
    """
    return RAW_TOKEN.findall(code)


# --- nn_dup ----------------------------------------------------------------------------------------------------------

LEXEME = re.compile(
    r"""
      \#[^\r\n]*                                                                       # comment
    | [rRbBuUfF]{0,2}(?:
          \"{3}[^"\\]*(?:(?:\\.|"(?!""))[^"\\]*)*\"{3} | '{3}[^'\\]*(?:(?:\\.|'(?!''))[^'\\]*)*'{3}
        | "[^"\\\r\n]*(?:\\.[^"\\\r\n]*)*" | '[^'\\\r\n]*(?:\\.[^'\\\r\n]*)*' )        # string
    | 0[xXbBoO][\da-fA-F_]+[\w]* | (?:\d[\d_]*(?:\.[\d_]*)?|\.\d[\d_]*)(?:[eE][+-]?\d[\d_]*)?[jJ]?   # number
    | \w+                                                                              # name
    | \*\*= | //= | >>= | <<= | \.\.\. | \*\* | // | << | >> | -> | != | [:+\-*/%&|^@=<>]= | [^\s\w\\]
    """,
    re.VERBOSE | re.DOTALL,
)
"""Python's lexemes without the layout. ``tokenize`` would agree (a test holds that) at ten times the cost."""

KNOWN_PREFIX = re.compile(
    "Conv|Batch|Layer|Group|Instance|Max|Avg|Adaptive|Dropout|Linear|Flatten|LSTM|GRU|Multihead|Transformer|Upsample|SE|"
    "Squeeze|Sequential|Module|Fractal|ResNet|Dense|VGG"
)
"""Names that start so are kept. Source: nn-dup 2.2.4 (MIT), ``ab/dup/utils/textproc.py``. Its separate list of layer
hints is not needed: each of those names has such a prefix or an upper-case letter after the first character."""


def nn_dup(code: str) -> list[str]:
    """Tokens as nn-dup's lexical stage sees them, re-implemented from its description (papers.md, B.3).

    Only ``nn.Module`` classes and the functions they call by name count (the whole source if there is no such class).
    Names of keywords, known layers, declared classes and functions stay, and so do names with an upper-case letter
    after the first character; other names become ``ID``, numbers ``NUM``, strings ``STR``.

    Equal to the tokens of nn-dup 2.2.4 for 957 of 960 LEMUR sources tried; in the others nn-dup slips.
    """
    region, declared = _model_region(code, _nodes(code))
    lexemes = [lexeme for lexeme in LEXEME.findall(region) if lexeme[0] != "#"]
    return [lexeme if lexeme in declared else _nn_dup_token(lexeme) for lexeme in lexemes]


@lru_cache(maxsize=1 << 16)
def _nn_dup_token(lexeme: str) -> str:
    if lexeme[-1] in "\"'" and len(lexeme) > 1:
        return "STR"
    if lexeme[0].isdigit() or (lexeme[0] == "." and len(lexeme) > 1 and lexeme[1].isdigit()):
        return "NUM"
    if not lexeme.isidentifier():
        return lexeme
    kept = iskeyword(lexeme) or KNOWN_PREFIX.match(lexeme) or any(c.isupper() for c in lexeme[1:])
    return lexeme if kept else "ID"


def _model_region(code: str, nodes: list[ast.AST]) -> tuple[str, set[str]]:
    """The lines of Module classes and the helpers they call, without string statements; and the names they declare."""
    lines = re.split(r"\r\n|\r|\n", code)  # the parser's idea of a line; str.splitlines has others
    for node in nodes:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            _blank(lines, node)
    definitions = [node for node in nodes if isinstance(node, Definition)]
    kept = _lines(node for node in definitions if isinstance(node, ast.ClassDef) and _is_module(node))
    calls = (node for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name))
    called = {call.func.id for call in calls if call.lineno - 1 in kept}
    kept |= _lines(node for node in definitions if isinstance(node, ast.FunctionDef) and node.name in called)
    kept = kept or set(range(len(lines)))
    declared = {node.name for node in definitions if node.lineno - 1 in kept}
    return "\n".join(lines[i] for i in sorted(kept)), declared


def _lines(definitions: Iterable[Definition]) -> set[int]:
    return {line for node in definitions for line in range(node.lineno - 1, node.end_lineno)}


def _is_module(node: ast.ClassDef) -> bool:
    return any(getattr(base, "attr", getattr(base, "id", None)) == "Module" for base in node.bases)


def _blank(lines: list[str], node: ast.Expr) -> None:
    """Cut the statement out of ``lines``, in place; columns count UTF-8 bytes."""
    first, last = node.lineno - 1, node.end_lineno - 1
    before = lines[first].encode()[: node.col_offset].decode()
    after = lines[last].encode()[node.end_col_offset :].decode()
    lines[first : last + 1] = [before + after] + [""] * (last - first)


# --- ast_nameless ----------------------------------------------------------------------------------------------------


class _Nameless(NameEraser):
    """One placeholder for all names: numbered ones would all shift when a variable is added at the top."""

    @staticmethod
    def _bind(table: dict[str, str], name: str) -> None:
        table[name] = "ID"


def ast_nameless(code: str) -> list[str]:
    """Tokens of the program without comments, docstrings, layout and the author's names; numbers and strings stay.

    Library names stay; so do keyword arguments, as ``NameEraser`` says. Names are not told apart, so two sources that
    differ only in which of their own variables they use where have equal tokens.
    """
    tree = parse(code)
    strip_docstrings(tree)
    _Nameless(ast.walk(tree)).erase()
    return LEXEME.findall(ast.unparse(tree))


# --- structure -------------------------------------------------------------------------------------------------------

POSITIONAL = {
    "Conv": ("in_channels", "out_channels", "kernel_size", "stride", "padding"),
    "Linear": ("in_features", "out_features"),
    "BatchNorm": ("num_features",),
    "MaxPool": ("kernel_size", "stride", "padding"),
    "AvgPool": ("kernel_size", "stride", "padding"),
    "Adaptive": ("output_size",),
    "Dropout": ("p",),
}
"""Names of positional arguments, by the layer's prefix (torch.nn), so that both spellings of a call are one."""


def structure(code: str) -> list[str]:
    """The bag of library calls and their arguments, sorted; rename-proof, and blind to order and wiring.

    A call gives one token with its library name (``Conv2d``) and one per argument (``Conv2d.out_channels=2^6``, sizes
    rounded to the nearest power of two); a call of the source's own classes and functions gives ``own`` and
    ``own=2^6``. The n-th occurrence of a token ends in ``#n``, so that with shingles of length 1 the Jaccard index of
    two sets is the one of the two bags. Loops are not unrolled. After nn-dup's structural stage (papers.md, B.3), which
    counts every call by the name that the author gave it.
    """
    seen: Counter[str] = Counter()
    tokens = []
    for token in _calls(_nodes(code)):
        seen[token] += 1
        tokens.append(f"{token}#{seen[token]}")
    return sorted(tokens)


def _calls(nodes: list[ast.AST]) -> Iterator[str]:
    aliases = [alias for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names]
    imported = {alias.asname or alias.name.split(".")[0]: alias.name for alias in aliases}
    own = {node.name for node in nodes if isinstance(node, Definition)}
    for node in nodes:
        if not isinstance(node, ast.Call):
            continue
        name = _library_name(node.func, imported)
        if name:
            yield name
            yield from (f"{name}.{key}={_bucket(value)}" for key, value in _arguments(name, node))
        elif getattr(node.func, "attr", getattr(node.func, "id", None)) in own:
            yield "own"
            yield from (f"own={_bucket(value)}" for _, value in _arguments("own", node))


def _library_name(function: ast.expr, imported: dict[str, str]) -> str | None:
    """``Conv2d`` for ``nn.Conv2d``, ``torch.nn.Conv2d`` and what was imported as Conv2d; None for all else."""
    if isinstance(function, ast.Name):
        return imported.get(function.id, "").rpartition(".")[2] or None
    root = function
    while isinstance(root, ast.Attribute):
        root = root.value
    return function.attr if root is not function and isinstance(root, ast.Name) and root.id in imported else None


def _arguments(layer: str, call: ast.Call) -> Iterator[tuple[str, ast.expr]]:
    names = next((names for prefix, names in POSITIONAL.items() if layer.startswith(prefix)), ())
    for i, value in enumerate(call.args):
        yield (names[i] if i < len(names) else str(i)), value
    yield from ((keyword.arg or "**", keyword.value) for keyword in call.keywords)


def _bucket(value: ast.expr) -> str:
    """A literal number as the nearest power of two, a tuple of such, another literal as it is, ``?`` for the rest."""
    if isinstance(value, ast.Tuple | ast.List):
        return "(" + ",".join(map(_bucket, value.elts)) + ")"
    if not isinstance(value, ast.Constant):
        return "?"
    number = value.value
    if isinstance(number, bool) or not isinstance(number, int | float) or number == math.inf:
        return repr(number)
    return f"2^{round(math.log2(number))}" if number > 0 else "0"


FORMS = {form.__name__: Form(form) for form in (raw_tokens, nn_dup, ast_nameless, structure)}
"""The forms by name."""
