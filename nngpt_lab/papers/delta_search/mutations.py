"""Typed mutations: a small vocabulary of changes to the layers of a network, made on its syntax tree.

A layer's number is its place among the calls ``nn.<Layer>(...)`` of the source, from 1, containers left out. Only the
characters that a mutation is about change, so that comments and layout stay.

=====================  ======================================================================================
``width k n``          convolution or linear layer k has n outputs; the layers that read them follow
``depth k +1``         one more of the same width behind layer k; ``-1`` takes layer k out, if it keeps the shape
``kernel k n``         convolution k has an n x n kernel; padding that kept the size keeps it
``activation k X``     activation k becomes ``nn.X()``
``normalisation k X``  normalisation k becomes ``nn.X``, or convolution k gets one behind it
``pooling k X``        pooling k becomes ``nn.X``, with its arguments
``skip k``             what goes into layer k is added to what comes out, if it keeps the shape
=====================  ======================================================================================

Whether the mutated network trains, the sandbox says. The authors' own generators of LEMUR's families
``ast-dimension`` and ``ast-activation`` are not published; these are of their kind.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

import numpy as np

from nngpt_lab.corpora.code import UNREADABLE, is_layer, no_collection, parse
from nngpt_lab.papers.delta_search.edits import Mutation, Mutations, Outcome, Refused

CONTAINERS = ("Sequential", "ModuleList", "ModuleDict", "Parameter", "CrossEntropyLoss")
ACTIVATIONS = ("ReLU", "LeakyReLU", "GELU", "ELU", "SiLU", "Tanh", "Sigmoid", "Mish", "Hardswish", "ReLU6", "SELU")
NORMALISATIONS = {
    "BatchNorm2d": "nn.BatchNorm2d({0})",
    "InstanceNorm2d": "nn.InstanceNorm2d({0})",
    "GroupNorm": "nn.GroupNorm(1, {0})",
    "Identity": "nn.Identity()",
}
POOLINGS = ("MaxPool2d", "AvgPool2d")
OUTPUTS = {"Conv2d": "out_channels", "Linear": "out_features"}
INPUTS = {"Conv2d": "in_channels", "Linear": "in_features", "BatchNorm2d": "num_features"}
POSITIONS = {"in_channels": 0, "in_features": 0, "num_features": 0, "out_channels": 1, "out_features": 1,
             "kernel_size": 2, "stride": 3, "padding": 4, "num_channels": 1}  # fmt: skip
KINDS = ("width", "depth", "kernel", "activation", "normalisation", "pooling", "skip")
MAX_WIDTH, MAX_KERNEL, MAX_MUTATIONS = 8192, 31, 64
SKIP = """class Skip(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return x + self.layer(x)


"""
Piece = tuple[ast.expr, str]
"""An expression of the source, and what takes its place."""


def mutate(code: str, edit: Mutations) -> str:
    """The source after all mutations, whose numbers are those of the source as given; Refused if one cannot be made."""
    if len(edit.mutations) > MAX_MUTATIONS:
        raise Refused(Outcome.TOO_LARGE, f"{len(edit.mutations)} mutations, more than {MAX_MUTATIONS}")
    for mutation in sorted(edit.mutations, key=lambda each: -each.layer):  # the last first: numbers before it stay
        code = Source(code).mutated(mutation)
    return code


def random_mutation(code: str, rng: np.random.Generator, tries: int = 50) -> tuple[Mutation, str] | None:
    """A mutation that can be made, and what it makes: kind, layer and value are drawn uniformly until one can; None
    after ``tries``."""
    values = {
        "width": [str(2**power) for power in range(4, 10)],
        "depth": ["+1", "-1"],
        "kernel": ["1", "3", "5", "7"],
        "activation": list(ACTIVATIONS),
        "normalisation": list(NORMALISATIONS),
        "pooling": list(POOLINGS),
        "skip": [""],
    }
    try:
        source = Source(code)
    except Refused:
        return None
    for _ in range(tries if source.layers else 0):
        kind = KINDS[rng.integers(len(KINDS))]
        value = values[kind][rng.integers(len(values[kind]))]
        mutation = Mutation(kind, int(rng.integers(len(source.layers))) + 1, value)
        try:
            mutated = source.mutated(mutation)
        except Refused:
            continue
        if mutated != code:
            return mutation, mutated
    return None


class Source:
    """A source, its layers in order, and the text of any of its expressions; Refused if it does not parse."""

    @no_collection()
    def __init__(self, code: str):
        try:
            tree = parse(code)
        except UNREADABLE as error:
            raise Refused(Outcome.DOES_NOT_PARSE, f"the baseline does not parse: {error}") from error
        self.bytes = code.encode()  # columns of the syntax tree count bytes
        lengths = [len(line) for line in self.bytes.split(b"\n")]
        self.starts = np.concatenate([[0], np.cumsum(np.array(lengths) + 1)])
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and is_layer(node.func)]
        calls = [call for call in calls if _name(call) not in CONTAINERS]
        self.layers = sorted(calls, key=lambda call: (call.lineno, call.col_offset))

    def mutated(self, mutation: Mutation) -> str:
        if mutation.kind not in KINDS:
            raise Refused(Outcome.WRONG_FORMAT, f"there is no mutation {mutation.kind[:40]!r}")
        if not 1 <= mutation.layer <= len(self.layers):
            raise Refused(Outcome.CONTEXT_ABSENT, f"there is no layer {mutation.layer} among {len(self.layers)}")
        pieces = getattr(self, f"_{mutation.kind}")(self.layers[mutation.layer - 1], mutation.value)
        code = self._with(pieces)
        if mutation.kind == "skip" and "class Skip(" not in code:
            code = code.replace("class Net", f"{SKIP}class Net", 1)
        return code

    def _with(self, pieces: list[Piece]) -> str:
        result = self.bytes
        for node, new in sorted(pieces, key=lambda piece: self._span(piece[0]), reverse=True):
            start, end = self._span(node)
            result = result[:start] + new.encode() + result[end:]
        return result.decode()

    def _span(self, node: ast.expr) -> tuple[int, int]:
        first, last = self.starts[node.lineno - 1], self.starts[(node.end_lineno or node.lineno) - 1]
        return int(first + node.col_offset), int(last + (node.end_col_offset or 0))

    def _text(self, node: ast.expr) -> str:
        start, end = self._span(node)
        return self.bytes[start:end].decode()

    # ---- one method a kind: the pieces that change -------------------------------------------------------------------

    def _width(self, layer: ast.Call, value: str) -> list[Piece]:
        new, old = _number(value, MAX_WIDTH), _literal(_argument(layer, _of(OUTPUTS, layer)))
        pieces = [(_argument(layer, OUTPUTS[_name(layer)]), str(new))]
        for reader in self.layers[self.layers.index(layer) + 1 :]:
            if (name := INPUTS.get(_name(reader))) is None:
                continue
            node = _argument(reader, name, None)
            if not (isinstance(node, ast.Constant) and node.value == old):
                break
            pieces.append((node, str(new)))
            if _name(reader) in OUTPUTS:
                break
        return pieces

    def _depth(self, layer: ast.Call, value: str) -> list[Piece]:
        if value == "-1":
            self._keeps_shape(layer)
            return [(layer, "nn.Identity()")]
        if value not in ("", "+1", "1"):
            raise Refused(Outcome.WRONG_FORMAT, f"depth changes by +1 or -1, not by {value[:40]!r}")
        width = self._text(_argument(layer, _of(OUTPUTS, layer)))
        more = (
            f"nn.Conv2d({width}, {width}, 3, padding=1)" if _name(layer) == "Conv2d" else f"nn.Linear({width}, {width})"
        )
        return [(layer, f"nn.Sequential({self._text(layer)}, nn.ReLU(), {more})")]

    def _kernel(self, layer: ast.Call, value: str) -> list[Piece]:
        _of({"Conv2d": "kernel_size"}, layer)
        new, node = _number(value, MAX_KERNEL), _argument(layer, "kernel_size")
        old, padding = _literal(node), _argument(layer, "padding", None)
        kept = isinstance(padding, ast.Constant) and padding.value == old // 2
        return [(node, str(new)), *([(padding, str(new // 2))] if padding is not None and kept else [])]

    def _activation(self, layer: ast.Call, value: str) -> list[Piece]:
        _of(dict.fromkeys(ACTIVATIONS, ""), layer)
        return [(layer, f"nn.{_one_of(value, ACTIVATIONS)}()")]

    def _normalisation(self, layer: ast.Call, value: str) -> list[Piece]:
        form = NORMALISATIONS[_one_of(value, NORMALISATIONS)]
        channels = {"Conv2d": "out_channels", "BatchNorm2d": "num_features", "InstanceNorm2d": "num_features",
                    "GroupNorm": "num_channels"}  # fmt: skip
        new = form.format(self._text(_argument(layer, _of(channels, layer))))
        return [(layer, f"nn.Sequential({self._text(layer)}, {new})" if _name(layer) == "Conv2d" else new)]

    def _pooling(self, layer: ast.Call, value: str) -> list[Piece]:
        _of(dict.fromkeys(POOLINGS, ""), layer)
        if any(keyword.arg in ("dilation", "return_indices") for keyword in layer.keywords) or len(layer.args) > 3:
            raise Refused(Outcome.CONTEXT_ABSENT, "this pooling has arguments that the other lacks")
        return [(layer.func, f"nn.{_one_of(value, POOLINGS)}")]

    def _skip(self, layer: ast.Call, value: str) -> list[Piece]:
        self._keeps_shape(layer)
        if b"class Net" not in self.bytes:
            raise Refused(Outcome.CONTEXT_ABSENT, "there is no class Net")
        return [(layer, f"Skip({self._text(layer)})")]

    def _keeps_shape(self, layer: ast.Call) -> None:
        sides = [self._text(_argument(layer, _of(side, layer))) for side in (INPUTS, OUTPUTS)]
        kept = sides[0] == sides[1]
        if _name(layer) == "Conv2d":
            stride, padding = _argument(layer, "stride", None), _argument(layer, "padding", None)
            kernel = _literal(_argument(layer, "kernel_size"))
            kept &= stride is None or (isinstance(stride, ast.Constant) and stride.value == 1)
            kept &= kernel % 2 == 1 and (_literal(padding) if padding else 0) == kernel // 2
        if not kept:
            raise Refused(Outcome.CONTEXT_ABSENT, "this layer changes the shape")


def layer_numbers(code: str) -> Iterator[tuple[int, str]]:
    """Number and text of every layer, for a prompt."""
    source = Source(code)
    yield from ((number, source._text(layer)) for number, layer in enumerate(source.layers, 1))


def _name(layer: ast.Call) -> str:
    return layer.func.attr if isinstance(layer.func, ast.Attribute) else ""


def _of(names: dict[str, str], layer: ast.Call) -> str:
    """What ``names`` says of a layer of this class."""
    if _name(layer) not in names:
        raise Refused(Outcome.CONTEXT_ABSENT, f"{_name(layer)} is none of {', '.join(names)}")
    return names[_name(layer)]


_REQUIRED = ast.Constant("required")


def _argument(layer: ast.Call, name: str, default: ast.expr | None = _REQUIRED):
    """An argument by name, or at its usual place."""
    for keyword in layer.keywords:
        if keyword.arg == name:
            return keyword.value
    position = POSITIONS[name]
    if position < len(layer.args) and not any(isinstance(each, ast.Starred) for each in layer.args):
        return layer.args[position]
    if default is _REQUIRED:
        raise Refused(Outcome.CONTEXT_ABSENT, f"{_name(layer)} is not given {name}")
    return default


def _literal(node: ast.expr) -> int:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    raise Refused(Outcome.CONTEXT_ABSENT, f"{ast.unparse(node)[:40]} is not a number")


def _number(value: str, most: int) -> int:
    if value.isascii() and value.isdigit() and 1 <= int(value[:9]) <= most and len(value) < 9:
        return int(value)
    raise Refused(Outcome.WRONG_FORMAT, f"{value[:40]!r} is not a number from 1 to {most}")


def _one_of(value: str, names) -> str:
    if value in names:
        return value
    raise Refused(Outcome.WRONG_FORMAT, f"{value[:40]!r} is none of {', '.join(names)}")
