"""LEMUR at reduced width: the demo scaling of the nano coder and of every CPU run.

LEMUR's large families are AlexNet-like stacks with a median of 39 million parameters: seconds per candidate even on
8 x 8 digits, and far beyond paper B's limit of 500,000. :func:`narrow` divides channel and unit counts by a factor and
touches nothing else, so a network keeps its layers, their order, its wiring and its training code. It changes what a
network can learn: wherever a number rests on narrowed networks, that is said beside it. The profiles ``gpu`` and
``paper`` use LEMUR as it is.

Which whole numbers of a source are widths cannot be told for certain from the text. The rule: a multiple of ``factor``
from ``SMALLEST`` to ``LARGEST``, but not where its place says that it is something else (kernel, stride, pooling, image
size, threshold, ...). A number that the rule misses is missed on both sides of an interface in most sources; where it
is not, the shapes no longer fit, and the check by instantiation leaves the network out (``walkthroughs/nano_coder``).
"""

from __future__ import annotations

import ast
import re
import zipfile
from pathlib import Path

import pandas as pd
import pyarrow as pa

from nngpt_lab.corpora import architectures, artifacts, compiled
from nngpt_lab.corpora.code import no_collection, parse, strip_docstrings
from nngpt_lab.ground.processes import in_processes

VERSION = 1
SOUND = ("train", "best", "reserved")
CARD = Path(__file__).parents[1] / "llm" / "nano_coder" / "corpus.parquet"
FACTOR = 16
SMALLEST, LARGEST = 32, 65_536
NOT_WIDTHS = re.compile(
    r"kernel|stride|pad|dilation|output_size|^size|scale|image|img|resolution|patch|window|height|width_mult|"
    r"thresh|epoch|batch|warmup|step|seed|eps|momentum|decay|drop|heads|depth|num_layers|max_len|^p$|^lr$"
)
POOLING = re.compile(r"Pool\dd$|^(Upsample|interpolate|adaptive_\w+|\w+_pool\dd|randn|rand|manual_seed|clip_grad\w*)$")
CONVOLUTION = re.compile(r"^Conv(Transpose)?[123]d$")


def load() -> pd.DataFrame:
    """The narrowed networks that run, as the nano coder's data card lists them (it holds names, no code), by name.

    Columns name, family, part (``train``: the nano coder learnt from it; ``best``, ``reserved``: it did not),
    parameters, code. Compiled into the user's cache on first use (seconds).
    """
    card = pd.read_parquet(CARD).query("part in @SOUND").sort_values("name", ignore_index=True)
    lemur = artifacts.LEMUR
    tables = compiled.load_or_compile("narrow", VERSION, lemur, ["narrow"], lambda wheel: _compile(wheel, card))
    return card.merge(tables["narrow"].to_pandas(), on="name", validate="1:1")


def _compile(wheel: Path, card: pd.DataFrame) -> dict[str, pa.Table]:
    with zipfile.ZipFile(wheel) as archive:
        codes = [archive.read(f"{architectures.CODE}{name}.py").decode() for name in card["name"]]
    return {"narrow": pa.table({"name": card["name"].to_list(), "code": list(in_processes(narrow, codes, "narrowed"))})}


@no_collection()
def narrow(code: str) -> str:
    """The source with its widths divided by ``FACTOR``, laid out by ``ast.unparse`` without comments and docstrings.

    Raises:
        SyntaxError, ValueError, RecursionError: the source does not parse.

    >>> narrow("nn.Conv2d(3, 128, kernel_size=64)  # wide")
    'nn.Conv2d(3, 8, kernel_size=64)'
    """
    tree = parse(code)
    strip_docstrings(tree)
    return ast.unparse(ast.fix_missing_locations(_Narrower().visit(tree)))


class _Narrower(ast.NodeTransformer):
    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        width = type(node.value) is int and SMALLEST <= node.value <= LARGEST and node.value % FACTOR == 0
        return ast.Constant(node.value // FACTOR) if width else node

    def visit_Call(self, node: ast.Call) -> ast.Call:
        name = _name(node.func)
        node.func = self.visit(node.func)
        if POOLING.search(name):
            return node
        positions = 2 if CONVOLUTION.match(name) else len(node.args)  # in and out channels; then comes the kernel
        node.args = [self.visit(arg) for arg in node.args[:positions]] + node.args[positions:]
        node.keywords = [self.visit(keyword) for keyword in node.keywords]
        return node

    def visit_keyword(self, node: ast.keyword) -> ast.keyword:
        return node if NOT_WIDTHS.search(node.arg or "") else self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> ast.Assign:
        return node if any(NOT_WIDTHS.search(_name(each)) for each in node.targets) else self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AnnAssign:
        return node if NOT_WIDTHS.search(_name(node.target)) else self.generic_visit(node)

    def visit_arguments(self, node: ast.arguments) -> ast.arguments:
        """Defaults: ``def __init__(self, channels=64, kernel_size=64)``."""
        positional = [*node.posonlyargs, *node.args]
        named = positional[len(positional) - len(node.defaults) :]
        node.defaults = [self._default(arg, value) for arg, value in zip(named, node.defaults, strict=True)]
        node.kw_defaults = [
            value and self._default(arg, value) for arg, value in zip(node.kwonlyargs, node.kw_defaults, strict=True)
        ]
        return node

    def _default(self, arg: ast.arg, value: ast.expr) -> ast.expr:
        return value if NOT_WIDTHS.search(arg.arg) else self.visit(value)


def _name(target: ast.expr) -> str:
    return target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", "")
