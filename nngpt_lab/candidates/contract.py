"""Check from the syntax tree, without running anything, that code offers what its evaluator will call.

The evaluator is the authors' (``ab/nn/util/Train.py`` of nn-dataset 2.1.2). It passes positional arguments, so their
names are free:

* architecture: ``Net(in_shape, out_shape, prm, device)``, an ``nn.Module``; then ``net.train_setup(prm)``,
  ``net.learn(train_data)`` in each epoch and ``net(inputs)``; beside it ``supported_hyperparameters()``;
* augmentation: ``transform(norm)``, whose result is applied to each image.

A rule is broken only where such a call is sure to fail or to do nothing. What the text does not tell (a base class from
a library, a decorator, ``__init_subclass__``, ``setattr``) is left to the sandbox; only ``Net`` and the functions must
be written in the file itself, as paper B asks.

Only ``ast.parse`` is used. ``compile`` would also find a ``return`` outside of a function, but it writes out every
``finally`` twice, so that nested ones are a memory bomb in the parent; the sandbox meets that SyntaxError.
"""

from __future__ import annotations

import ast
import builtins
import math
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass

from nngpt_lab.candidates.outcome import Kind
from nngpt_lab.corpora.code import parse
from nngpt_lab.sandbox.status import Status

MAX_CHARACTERS = 200_000  # LEMUR's longest file has 178,375; parsing a million takes seconds


@dataclass(frozen=True)
class Violation:
    """One broken rule: its short name, for tables; cause and cure in one sentence, fit to feed back to the model; and
    the line of the code, from 1, where there is one to point at."""

    rule: str
    message: str
    line: int | None = None


@dataclass(frozen=True)
class Inspection:
    """What the checks found: a status (``ok``, ``no_code``, ``syntax`` or ``contract``) and its reasons."""

    status: Status
    violations: tuple[Violation, ...] = ()

    @property
    def message(self) -> str:
        """All reasons in one line, with line numbers."""
        return "; ".join(f"line {v.line}: {v.message}" if v.line else v.message for v in self.violations)


def check(code: str, kind: Kind) -> Inspection:
    """Hold code, which is never executed, against the contract of its kind: ``ok``, or why not. Never raises.

    >>> check("def transform():\\n    return 1", Kind.AUGMENTATION).message
    'line 1: transform() is called with 1 argument, but takes at most 0: define it as transform(norm)'
    """
    if len(code) > MAX_CHARACTERS:
        message = f"the code has {len(code):,} characters: answer with at most {MAX_CHARACTERS:,}"
        return Inspection(Status.CONTRACT, (Violation("length", message),))
    try:
        tree = parse(code)
    except (SyntaxError, ValueError) as error:  # ValueError: null bytes, lone surrogates
        line, reason = getattr(error, "lineno", None), getattr(error, "msg", None) or str(error)
        return Inspection(Status.SYNTAX, (Violation("syntax", f"the code does not parse: {reason}", line),))
    except (RecursionError, MemoryError, SystemError):  # how the parser refuses what nests too deeply
        return Inspection(Status.SYNTAX, (Violation("syntax", "the code nests too deeply to be parsed: flatten it"),))
    if not tree.body:
        message = "there is no code: answer with the complete Python source"
        return Inspection(Status.NO_CODE, (Violation("no code", message),))
    rules = _architecture if kind == Kind.ARCHITECTURE else _augmentation
    violations = tuple(rules(_Module(tree)))
    return Inspection(Status.CONTRACT if violations else Status.OK, violations)


# ---- the two contracts -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Call:
    """A call that the evaluator makes, with positional arguments only."""

    name: str
    arguments: tuple[str, ...]
    purpose: str
    is_method: bool = True
    has_result: bool = False  # whether the evaluator uses what it returns
    may_yield: bool = False

    @property
    def signature(self) -> str:
        return f"{self.name}({', '.join(('self',) * self.is_method + self.arguments)})"


_CONSTRUCTOR = _Call("__init__", ("in_shape", "out_shape", "prm", "device"), "it builds the layers")
_FORWARD = _Call("forward", ("x",), "it returns the network's output for a batch of inputs", has_result=True)
_TRAIN_SETUP = _Call("train_setup", ("prm",), "it makes the loss and the optimizer from the hyperparameters prm")
_LEARN = _Call("learn", ("train_data",), "it trains one epoch on batches of (inputs, labels)")
_HYPERPARAMETERS = _Call(
    "supported_hyperparameters",
    (),
    "it returns the names of the hyperparameters that are used, as {'lr', 'momentum'}",
    is_method=False,
    has_result=True,
    may_yield=True,
)
_TRANSFORM = _Call(
    "transform",
    ("norm",),
    "it returns the transformation that is applied to each image",
    is_method=False,
    has_result=True,
)
_PLAIN_MODULES = ("torch.nn.Module", "torch.nn.modules.Module", "torch.nn.modules.module.Module")

_Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def _augmentation(module: _Module) -> Iterator[Violation]:
    yield from _function(module, _TRANSFORM)


def _architecture(module: _Module) -> Iterator[Violation]:
    net = module.decorated("Net")
    if not isinstance(net.value, ast.ClassDef):
        yield _no_net(module, net)
    else:
        lineage = _Lineage(module, net)
        yield from _base(lineage, net.value.lineno)
        for call in (_CONSTRUCTOR, _FORWARD, _TRAIN_SETUP, _LEARN):
            yield from _method(lineage, call, net.value.lineno)
    yield from _function(module, _HYPERPARAMETERS)


def _no_net(module: _Module, net: _Binding) -> Violation:
    if net is not _UNBOUND:
        return Violation("Net", "Net is not a class of this file: define class Net(nn.Module) here")
    classes = [node for node in ast.walk(module.tree) if isinstance(node, ast.ClassDef)]
    if nested := next((node for node in classes if node.name == "Net"), None):
        message = "class Net is defined where no importer finds it: move it to the top level of the file"
        return Violation("Net", message, nested.lineno)
    others = f" (there is {', '.join(node.name for node in classes[:3])})" if classes else ""
    return Violation("Net", f"there is no class Net{others}: define class Net(nn.Module) at the top level")


def _base(lineage: _Lineage, line: int) -> Iterator[Violation]:
    if lineage.undefined:
        name = lineage.undefined
        cure = "add import torch.nn as nn" if name.startswith("nn.") else f"import or define {name} above it"
        yield Violation("base", f"class Net builds on {name}, which is not defined: {cure}", line)
    elif all(root.startswith("builtins.") for root in lineage.roots):
        yield Violation("base", "class Net is not a torch module: write class Net(nn.Module)", line)


def _method(lineage: _Lineage, call: _Call, line: int) -> Iterator[Violation]:
    """A method of Net, or of a class in the file that Net inherits from."""
    method = lineage.members.get(call.name)
    if isinstance(method, _FUNCTIONS):
        yield from _callable(method, call)
    elif method is None and not lineage.may_bring(call.name):
        yield Violation(call.name, f"class Net has no method {call.signature}: add it; {call.purpose}", line)


def _function(module: _Module, call: _Call) -> Iterator[Violation]:
    """A function at the top level."""
    function = module.decorated(call.name)
    if function != module.resolve(call.name):
        return  # what is called is whatever the call made of it
    if isinstance(function.value, _FUNCTIONS):
        yield from _callable(function.value, call)
    elif function is _UNBOUND:
        yield Violation(call.name, f"there is no function {call.signature} at the top level: define it; {call.purpose}")
    else:
        yield Violation(
            call.name, f"{call.name} is not a function of this file: define {call.signature}; {call.purpose}"
        )


def _callable(function: _Function, call: _Call) -> Iterator[Violation]:
    """Whether calling it as the evaluator does can work: not a coroutine, arguments that fit, a result."""

    def violation(cause: str, cure: str) -> Violation:
        return Violation(call.name, f"{call.name}() {cause}: {cure}", function.lineno)

    decorators = {_dotted(node) for node in getattr(function, "decorator_list", ())}
    if decorators - {"staticmethod", "classmethod"}:
        return  # what is called is whatever the decorator made of it
    if isinstance(function, ast.AsyncFunctionDef):
        yield violation("is asynchronous, so that calling it runs nothing", "write def, without async")
    given = len(call.arguments) + (call.is_method and "staticmethod" not in decorators)
    if problem := _misfit(function.args, given, hidden=given - len(call.arguments)):
        yield violation(problem, f"define it as {call.signature}")
    if isinstance(function, ast.Lambda):
        return
    own = list(_own_nodes(function))
    if any(isinstance(node, ast.Yield | ast.YieldFrom) for node in own):
        if not call.may_yield:
            yield violation("has a yield, so that calling it runs nothing", "remove the yield")
    elif call.has_result and not any(isinstance(node, ast.Return) and node.value for node in own):
        yield violation("returns nothing", f"add a return; {call.purpose}")


def _misfit(arguments: ast.arguments, given: int, hidden: int) -> str | None:
    """Why positional arguments do not fit a signature; the ``hidden`` first ones (self) are not spoken of."""
    places = len(arguments.posonlyargs) + len(arguments.args)
    needed = places - len(arguments.defaults)
    named = [a.arg for a, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if default is None]
    if named:
        return f"needs the keyword argument {named[0]}, which is not passed"
    called = f"is called with {given - hidden} argument{'s' * (given - hidden != 1)}"
    if given < needed:
        return f"{called}, but needs {needed - hidden}"
    if given > places and not arguments.vararg:
        return f"{called}, but takes at most {places - hidden}" if places >= hidden else "does not take self"
    return None


# ---- what names stand for --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Binding:
    """What a name stands for: a definition, an expression, or the dotted name of something imported or built in.

    ``order`` counts the bindings of the module: what a definition refers to was bound before it.
    """

    order: int
    value: ast.AST | str | None  # None: the text does not tell


_UNBOUND = _Binding(-1, None)


def _own_nodes(function: ast.FunctionDef) -> Iterator[ast.AST]:
    """All nodes of a function's body except those within functions and classes that it defines."""
    stack: list[ast.AST] = list(function.body)
    while stack:
        node = stack.pop()
        yield node
        if not isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
            stack.extend(ast.iter_child_nodes(node))


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of one scope in order, with those under if, try, with, for, while and match.

    A stack instead of recursion, because a chain of elif nests as deep as it is long. What stands under
    ``if __name__ == "__main__"`` is left out: the evaluator imports the file.
    """
    stack = body[::-1]
    while stack:
        statement = stack.pop()
        yield statement
        if isinstance(statement, (*_FUNCTIONS, ast.ClassDef)):
            continue
        match statement:
            case ast.If(test=ast.Compare(left=ast.Name(id="__name__"), ops=[ast.Eq()])):
                blocks = ("orelse",)
            case _:
                blocks = ("finalbody", "orelse", "cases", "handlers", "body")  # what is pushed last comes first
        for block in blocks:
            stack.extend(reversed(getattr(statement, block, ())))


def _bindings(body: list[ast.stmt]) -> Iterator[tuple[str, ast.AST | str]]:
    """Names that a scope binds, in order, and to what; ``Net.learn = ...`` binds the name ``Net.learn``."""
    for statement in _statements(body):
        match statement:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield statement.name, statement
            case ast.Import():
                for alias in statement.names:
                    root = alias.name.split(".")[0]  # import torch.nn binds torch
                    yield alias.asname or root, alias.name if alias.asname else root
            case ast.ImportFrom():
                for alias in statement.names:
                    yield alias.asname or alias.name, f"{statement.module}.{alias.name}"
            case ast.Assign(value=value):
                yield from ((name, value) for target in statement.targets if (name := _dotted(target)))
            case ast.AnnAssign(value=ast.expr() as value) if name := _dotted(statement.target):
                yield name, value


def _passed(node: ast.AST) -> Iterator[str]:
    """Names that a call is given, anywhere in an expression or a simple statement."""
    if isinstance(node, (*_FUNCTIONS, ast.ClassDef)) or hasattr(node, "body"):
        return
    for call in ast.walk(node):
        if isinstance(call, ast.Call):
            values = (*call.args, *(keyword.value for keyword in call.keywords))
            yield from (value.id for value in values if isinstance(value, ast.Name))


def _dotted(expression: ast.expr) -> str | None:
    """``a.b.c`` as text; None for anything but a name and attributes."""
    parts = []
    while isinstance(expression, ast.Attribute):
        parts.append(expression.attr)
        expression = expression.value
    return ".".join((expression.id, *reversed(parts))) if isinstance(expression, ast.Name) else None


class _Module:
    """The top level of a file: what each name is bound to, and when."""

    def __init__(self, tree: ast.Module):
        self.tree = tree
        self.bound: dict[str, list[_Binding]] = {}
        self.patches: dict[str, dict[str, ast.AST | str]] = {}  # what ``Net.learn = ...`` adds to a class
        self.passed = {name for statement in _statements(tree.body) for name in _passed(statement)}
        for order, (name, value) in enumerate(_bindings(tree.body)):
            owner, _, attribute = name.rpartition(".")
            if owner:
                self.patches.setdefault(owner, {})[attribute] = value
            else:
                self.bound.setdefault(name, []).append(_Binding(order, value))

    def resolve(self, name: str, before: float = math.inf) -> _Binding:
        """Follow a dotted name through aliases and imports; each step goes back in the file, so that it ends."""
        while True:
            root, _, rest = name.partition(".")
            bindings = self.bound.get(root, [])
            count = bisect_left(bindings, before, key=lambda binding: binding.order)
            binding = bindings[count - 1] if count else _UNBOUND
            if binding is _UNBOUND:
                return _Binding(-1, f"builtins.{name}") if hasattr(builtins, root) else self._unseen(root)
            if isinstance(binding.value, str):
                return _Binding(binding.order, f"{binding.value}.{rest}" if rest else binding.value)
            alias = _dotted(binding.value)
            if alias is None:
                return _Binding(binding.order, None) if rest else binding
            name, before = (f"{alias}.{rest}" if rest else alias), binding.order

    def decorated(self, name: str) -> _Binding:
        """The same; where a call was given a class or a function of the file (``Net = traced(Net)``), that one."""
        binding = self.resolve(name)
        if isinstance(binding.value, ast.Call):
            given = (self.resolve(argument, binding.order) for argument in _passed(binding.value))
            definitions = (each for each in given if isinstance(each.value, (ast.ClassDef, *_FUNCTIONS)))
            return next(definitions, binding)
        return binding

    def may_set(self, name: str) -> bool:
        """Whether anything in the file may bind an attribute of that name: an assignment to it, of whatever object, or
        the name as a string, for ``setattr``."""
        for node in ast.walk(self.tree):
            match node:
                case ast.Attribute(attr=own, ctx=ast.Store()) | ast.Name(id=own, ctx=ast.Store()) if own == name:
                    return True
                case ast.Constant(value=str(own)) if own == name:
                    return True
        return False

    def _unseen(self, name: str) -> _Binding:
        """A name without a plain binding may still come from ``import *``, a loop, a tuple, ``:=`` or ``global``."""
        unclear = "*" in self.bound or any(
            isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Store)
            for node in ast.walk(self.tree)
        )
        return _Binding(-1, None) if unclear else _UNBOUND


class _Lineage:
    """A class and all that it inherits from: the file's own classes merged, and what lies outside of the file.

    ``members``: what the class bodies bind: the class before its bases, those from left to right, depth first (which
    differs from Python's order only in diamonds). ``roots``: dotted names of the bases outside of the file; "?" for one
    that the text does not tell. ``undefined``: the first base whose name nothing defines; empty if there is none.
    """

    def __init__(self, module: _Module, net: _Binding):
        self.members: dict[str, ast.AST | str] = {}
        self.roots: list[str] = []
        self.undefined = ""
        self.decorated = False  # whether one of the classes is changed by a decorator, a metaclass or a call
        self._module = module
        stack, seen = [net], set()
        while stack:
            binding = stack.pop()
            if not isinstance(binding.value, ast.ClassDef):
                self.roots.append(binding.value if isinstance(binding.value, str) else "?")
            elif binding.order not in seen:
                seen.add(binding.order)
                stack.extend(reversed(self._take(module, binding)))

    def _take(self, module: _Module, binding: _Binding) -> list[_Binding]:
        """Merge one class of the file; return its bases."""
        self.decorated |= bool(binding.value.decorator_list or binding.value.keywords)
        self.decorated |= binding.value.name in module.passed
        own = dict(_bindings(binding.value.body)) | module.patches.get(binding.value.name, {})
        for name, value in own.items():
            self.members.setdefault(name, value)
        bases = []
        for expression in binding.value.bases:
            name = _dotted(expression)
            base = module.resolve(name, binding.order) if name else _Binding(-1, None)
            if base is _UNBOUND:
                self.undefined = self.undefined or name
            bases.append(base)
        return bases or [_Binding(-1, "builtins.object")]

    def may_bring(self, method: str) -> bool:
        """Whether a method that no class of the file defines may be there all the same."""
        hooks = {"__init_subclass__", "__getattr__", "__getattribute__"}
        if "?" in self.roots or self.decorated or hooks & self.members.keys() or self._module.may_set(method):
            return True
        foreign = any(root not in _PLAIN_MODULES and not root.startswith("builtins.") for root in self.roots)
        if method == _CONSTRUCTOR.name:
            return foreign or "__new__" in self.members
        return method == _FORWARD.name and (foreign or "__call__" in self.members)
