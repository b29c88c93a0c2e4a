"""A plain ``nn.Module`` under LEMUR's contract: the file as it was written, then a ``Net`` that holds the module.

The file is read, never run: what the constructor takes follows from the names of its arguments.
"""

from __future__ import annotations

import ast
import io
import tokenize
from itertools import pairwise

from nngpt_lab.candidates import contract
from nngpt_lab.candidates.outcome import Kind
from nngpt_lab.corpora.code import UNREADABLE, parse
from nngpt_lab.ground.errors import UsageError
from nngpt_lab.ground.names import did_you_mean
from nngpt_lab.sandbox.status import Status

GIVEN = {  # what a constructor's argument of such a name is given, in terms of the contract's own arguments
    "out_shape[0]": "num_classes n_classes nb_classes classes num_class n_class num_labels num_outputs n_outputs "
    "output_size output_dim out_dim out_features",
    "in_shape[1]": "in_channels in_chans in_ch input_channels num_channels n_channels channels",
    "in_shape[2]": "image_size img_size input_size resolution side",
    "in_shape[1:]": "input_shape",
    **{name: name for name in ("in_shape", "out_shape", "prm", "device")},
}
VALUE_OF = {name: value for value, names in GIVEN.items() for name in names.split()}
CONTRACT_NAMES = {"supported_hyperparameters", "train_setup", "learn"}
BASES = {"Module", "Sequential"}
WRAPPER = """

# --- added by nngpt-lab: LEMUR's contract around the module above
import torch as _torch


def supported_hyperparameters():
    return {{"lr", "momentum"}}


class Net(_torch.nn.Module):
    def __init__(self, in_shape, out_shape, prm, device):
        super().__init__()
        self.device = device
        self.model = {call}

    def forward(self, x):
        return self.model(x)

    def train_setup(self, prm):
        self.to(self.device)
        self.loss = _torch.nn.CrossEntropyLoss().to(self.device)
        self.optimizer = _torch.optim.SGD(self.parameters(), lr=prm["lr"], momentum=prm["momentum"])

    def learn(self, train_data):
        for inputs, labels in train_data:
            self.optimizer.zero_grad()
            self.loss(self(inputs.to(self.device)), labels.to(self.device)).backward()
            self.optimizer.step()
"""


def kind_of(code: str) -> Kind:
    """What a file offers: an augmentation if it defines ``transform`` and no class, else an architecture."""
    try:
        body = parse(code).body
    except UNREADABLE:
        return Kind.ARCHITECTURE
    functions = {node.name for node in body if isinstance(node, ast.FunctionDef)}
    offers = "transform" in functions and not any(isinstance(node, ast.ClassDef) for node in body)
    return Kind.AUGMENTATION if offers else Kind.ARCHITECTURE


def adapted(code: str, name: str | None = None) -> str:
    """The code under LEMUR's contract; itself where it keeps the contract, tries to, or cannot be read. ``name``: the
    class, or the function that makes the network; None: the one module that no other part of the file uses. UsageError
    if there is no such class or function, more than one could be meant, or its constructor asks for what the lab cannot
    give."""
    if name is None and contract.check(code, Kind.ARCHITECTURE).status == Status.OK:
        return code
    try:
        tree = parse(code)
    except UNREADABLE:
        return code
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    if name is None and defined & CONTRACT_NAMES:
        return code
    chosen = _chosen(tree, name)
    if chosen is None:
        return code
    call, source = _call(chosen), code
    if chosen.name == "Net" or any(isinstance(node, ast.ClassDef) and node.name == "Net" for node in tree.body):
        source, call = _renamed(code), call.replace("Net(", "OwnNet(", 1) if chosen.name == "Net" else call
    return source.rstrip("\n") + "\n" + WRAPPER.format(call=call)


def _chosen(tree: ast.Module, name: str | None) -> ast.ClassDef | ast.FunctionDef | None:
    """The definition that is meant; None where the file has no module."""
    definitions = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    if name is not None:
        if name in definitions:
            return definitions[name]
        cure = f"{did_you_mean(name, definitions)}it defines {', '.join(definitions) or 'nothing'}"
        raise UsageError(f"the file defines no {name!r} at its top level", cure)
    modules: dict[str, ast.ClassDef] = {}
    for node in definitions.values():
        bases = {ast.unparse(base).rpartition(".")[2] for base in getattr(node, "bases", ())}
        if isinstance(node, ast.ClassDef) and bases & (BASES | modules.keys()):
            modules[node.name] = node
    used = {
        part.id
        for node in definitions.values()
        if isinstance(node, ast.ClassDef)
        for part in ast.walk(node)
        if isinstance(part, ast.Name) and part.id != node.name
    }
    roots = [node for key, node in modules.items() if key not in used]
    if len(roots) > 1:
        names = ", ".join(node.name for node in roots)
        raise UsageError(f"any of {names} could be the network", "say which with --net NAME")
    return roots[0] if roots else None


def _call(definition: ast.ClassDef | ast.FunctionDef) -> str:
    """The expression that makes the network, each argument of a known name by that name."""
    function: ast.AST | None = definition
    if isinstance(definition, ast.ClassDef):
        own = (node for node in definition.body if isinstance(node, ast.FunctionDef) and node.name == "__init__")
        function = next(own, None)
    if not isinstance(function, ast.FunctionDef):
        return f"{definition.name}()"  # what it inherits takes nothing, or says so when it is built
    arguments = function.args
    places = [*arguments.posonlyargs, *arguments.args][isinstance(definition, ast.ClassDef) :]
    needed = {each.arg for each in places[: len(places) - len(arguments.defaults)]}
    needed |= {each.arg for each, own in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if own is None}
    if unknown := sorted(needed - VALUE_OF.keys()):
        raise UsageError(
            f"{definition.name} asks for {', '.join(unknown)}, which the lab does not know how to give",
            "give each a default; num_classes, in_channels and image_size are filled in",
        )
    names = [each.arg for each in [*places, *arguments.kwonlyargs] if each.arg in VALUE_OF]
    return f"{definition.name}({', '.join(f'{each}={VALUE_OF[each]}' for each in names)})"


def _renamed(code: str) -> str:
    """The code with its class ``Net`` called ``OwnNet``, so that the contract's name is free; attributes stay."""
    lines = code.splitlines(keepends=True)
    tokens = list(tokenize.generate_tokens(io.StringIO(code).readline))
    for before, token in reversed(list(pairwise(tokens))):
        if token.type == tokenize.NAME and token.string == "Net" and before.string != ".":
            row, column = token.start
            line = lines[row - 1]
            lines[row - 1] = f"{line[:column]}OwnNet{line[column + 3 :]}"
    return "".join(lines)
