"""What can be said of Python source without running it: hashes at three levels of likeness, and simple sizes.

The three levels answer three questions. ``code_hash``: is it the same text? ``ast_hash``: is it the same program up to
comments, docstrings and layout? ``nameless_hash``: is it the same program up to the author's choice of names? The last
two hash ``ast.unparse`` of a normalised tree; Python versions differ slightly in how they unparse, so compare hashes
made by one version only (the compiled tables are made in one go).
"""

from __future__ import annotations

import ast
import gc
import hashlib
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeGuard


@contextmanager
def no_collection() -> Iterator[None]:
    """Without garbage collection, as a block or decorator: a syntax tree is thousands of objects without a cycle, and
    the collector would visit them again and again while they are made, for a third of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


SOURCES = r"<unknown>\Z"  # what ast.parse calls the file of a source
UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError)
"""What parsing raises: ValueError for null bytes and lone surrogates, the last two for nesting too deep."""


def parse(code: str) -> ast.Module:
    """The syntax tree of a source, without Python's warnings about it (an odd escape in a string, say).

    They are filtered by where they come from, for good: ``catch_warnings`` would change, and between threads mix up,
    the filters of the whole process.

    Raises what ``UNREADABLE`` lists.
    """
    first = warnings.filters[0][3] if warnings.filters else None
    if getattr(first, "pattern", None) != SOURCES:
        warnings.filterwarnings("ignore", module=SOURCES)
    return ast.parse(code)


def code_hash(text: str) -> str:
    """SHA-256 of the text's UTF-8, hexadecimal; defined for lone surrogates too, which no source may hold."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class CodeFacts:
    """Facts about one source file; where ``ast.parse`` does not accept it, or it is nested too deeply for it, the two
    tree hashes are None and ``layer_calls``, the calls ``nn.<Layer>(...)`` in the text, 0. ``lines`` are those that
    hold code."""

    code_hash: str
    ast_hash: str | None
    nameless_hash: str | None
    parses: bool
    characters: int
    lines: int
    layer_calls: int


@no_collection()
def describe(text: str) -> CodeFacts:
    """Facts about one Python source, without executing it."""
    lines = sum(1 for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#"))
    try:
        tree = parse(text)
        nodes = list(ast.walk(tree))  # once for both: walking takes as long as parsing
        layer_calls = sum(isinstance(node, ast.Call) and is_layer(node.func) for node in nodes)
        strip_docstrings(tree)
        same_program, same_structure = map(code_hash, _with_and_without_names(tree, NameEraser(nodes), text))
    except UNREADABLE:
        return CodeFacts(code_hash(text), None, None, False, len(text), lines, 0)
    return CodeFacts(code_hash(text), same_program, same_structure, True, len(text), lines, layer_calls)


MARK = "\N{MODIFIER LETTER HALF TRIANGULAR COLON}"  # may stand in a name, so no literal is written otherwise for it


def _with_and_without_names(tree: ast.Module, eraser: NameEraser, source: str) -> tuple[str, str]:
    """``ast.unparse`` of a tree and of what the eraser makes of it, in the time of one: the names are filled in
    afterwards, where a mark that its ``source`` does not hold stands around their number. Changes the tree."""
    mark = MARK
    while mark in source:
        mark += MARK
    own, erased = [], []
    for table in (eraser.names, eraser.attributes):
        for name in table:
            own.append(name)
            erased.append(table[name])
            table[name] = f"{mark}{len(own) - 1}{mark}"
    eraser.erase()
    pieces = ast.unparse(tree).split(mark)  # a number is every second piece
    numbers = [int(number) for number in pieces[1::2]]
    texts = []
    for names in (own, erased):
        pieces[1::2] = [names[number] for number in numbers]
        texts.append("".join(pieces))
    return texts[0], texts[1]


def is_layer(function: ast.expr) -> TypeGuard[ast.Attribute]:
    """Whether it is ``nn.<Name>`` with a capital letter: a layer, or a container of layers."""
    return (
        isinstance(function, ast.Attribute)
        and isinstance(function.value, ast.Name)
        and function.value.id == "nn"
        and function.attr[:1].isupper()
    )


DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def strip_docstrings(tree: ast.AST) -> None:
    """Remove docstrings in place; a body that held nothing else keeps ``pass``."""
    inside = [tree]
    while inside:  # statements alone: no expression has a docstring, and ast.walk would visit them all
        node = inside.pop()
        inside += [child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.expr)]
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]


NAMED = frozenset(
    (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef, ast.arg, ast.Name, ast.Attribute, ast.ExceptHandler,
     ast.Import, ast.ImportFrom, ast.Global, ast.Nonlocal)
)  # fmt: skip


class NameEraser:
    """Replace every name that the source itself binds by its order of appearance: ``v0``, ``v1``, ...

    Names it merely uses (``range``) stay, and so does all that is reached through an import (``nn.Conv2d``; ``F.relu``
    even beside an own ``self.relu``) and keyword arguments, since most of them belong to the library; two sources that
    differ in the keyword of one of their own functions, or in a name bound in a class body, count as different.
    """

    def __init__(self, nodes: Iterable[ast.AST]):
        """``nodes``: all of the tree, in the order of ``ast.walk``."""
        self.nodes = [node for node in nodes if type(node) in NAMED]
        self.names: dict[str, str] = {}
        self.attributes: dict[str, str] = {}
        self.imported: set[str] = set()
        for node in self.nodes:
            match node:
                case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                    self._bind(self.names, name)
                    self._bind(self.attributes, name)  # a method is reached as an attribute
                case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()) | ast.ExceptHandler(name=str(name)):
                    self._bind(self.names, name)
                case ast.Attribute(attr=name, ctx=ast.Store()):
                    self._bind(self.attributes, name)
                case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                    self.imported |= {alias.asname or alias.name.split(".")[0] for alias in aliases}

    @staticmethod
    def _bind(table: dict[str, str], name: str) -> None:
        table.setdefault(name, f"v{len(table)}")

    def erase(self) -> None:
        """Rename in the tree itself. The outer nodes come first, so the name that an attribute is reached through is
        still its own when it is asked for."""
        for node in self.nodes:
            match node:
                case ast.Name(id=name):
                    node.id = self.names.get(name, name)
                case ast.Attribute(attr=name, value=root):
                    while isinstance(root, ast.Attribute):
                        root = root.value
                    if not (isinstance(root, ast.Name) and root.id in self.imported):
                        node.attr = self.attributes.get(name, name)
                case ast.arg(arg=name):
                    node.arg = self.names[name]
                case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                    node.name = self.names[name]
                case ast.ExceptHandler(name=str(name)):
                    node.name = self.names[name]
                case ast.Global(names=names) | ast.Nonlocal(names=names):
                    node.names = [self.names.get(name, name) for name in names]


def tidy(code: str) -> str:
    """Code as ``ast.unparse`` lays it out, without comments and docstrings."""
    tree = parse(code)
    strip_docstrings(tree)
    return ast.unparse(tree)


LOADERS = ("load_state_dict", "load_state_dict_from_url", "from_pretrained", "torch.load", "torch.hub.load", "hub.load")


def weight_loads(code: str) -> list[str]:
    """Calls that would give a network weights which it has not learnt here, each as ``line N: call``: loaders
    (:data:`LOADERS`), ``pretrained=`` that is not False, 0 or None, and ``weights=`` with a text or a member of a
    torchvision enumeration. Empty for what does not parse."""
    try:
        calls = [node for node in ast.walk(parse(code)) if isinstance(node, ast.Call)]
    except UNREADABLE:
        return []
    found = [(call.lineno, ast.unparse(call)) for call in calls if _loads(call)]
    return [f"line {line}: {text[:80]}" for line, text in sorted(found)]


def _loads(call: ast.Call) -> bool:
    name = ast.unparse(call.func)
    if any(name == loader or name.endswith(f".{loader}") for loader in LOADERS):
        return True
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    asked, weights = given.get("pretrained"), given.get("weights")
    if asked is not None and not (isinstance(asked, ast.Constant) and not asked.value):
        return True
    is_text = isinstance(weights, ast.Constant) and isinstance(weights.value, str)
    return is_text or (isinstance(weights, ast.Attribute) and "Weights" in ast.unparse(weights))
