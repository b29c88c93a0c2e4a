"""A network as a chain of boxes: its layers read from the text, in the order of its lines, not of the data.

Nothing is run: loops are not unrolled, and arguments that are no literals show as ``…``.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from textwrap import wrap

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Patch

from nngpt_lab.corpora.code import UNREADABLE, parse
from nngpt_lab.statistics.style import COLOURS, MUTED, new_figure

CONTAINERS = re.compile(r"(Sequential|ModuleList|ModuleDict|Module|Parameter|ParameterList|\w*Loss)$")
KINDS = {
    r"Conv": ("convolution", COLOURS[0]),
    r"Linear|Bilinear|Embedding|LSTM|GRU|RNN|Multihead|Transformer": ("dense, attention", COLOURS[3]),
    r"\w*Norm": ("normalisation", COLOURS[2]),
    r"\w*Pool|Flatten|Unflatten|Upsample|\w*Pad": ("pooling, shape", COLOURS[1]),
    r"\w*Dropout": ("dropout", COLOURS[4]),
}
OTHER_KIND = ("activation, other", MUTED)
PER_ROW, MOST = 5, 40  # boxes
LINE = 11  # points


def layers_of(code: str) -> list[str]:
    """The layers that a source makes by ``nn.<Layer>(...)``, names with arguments, in the order of the text, without
    containers and losses; empty if the source does not parse."""
    try:
        calls = [node for node in ast.walk(parse(code)) if isinstance(node, ast.Call) and _layer(node.func)]
    except UNREADABLE:
        return []
    calls.sort(key=lambda node: (node.func.end_lineno, node.func.end_col_offset))
    return [f"{_layer(node.func)}({', '.join(_arguments(node))})" for node in calls]


def _layer(function: ast.expr) -> str:
    """``Conv2d`` for ``nn.Conv2d`` and ``torch.nn.Conv2d``; "" for containers and all else."""
    if not isinstance(function, ast.Attribute):
        return ""
    owner = getattr(function.value, "attr", getattr(function.value, "id", None))
    is_layer = owner == "nn" and function.attr[:1].isupper() and not CONTAINERS.match(function.attr)
    return function.attr if is_layer else ""


def _arguments(call: ast.Call) -> Iterator[str]:
    for value in call.args:
        yield _literal(value)
    for keyword in call.keywords:
        if keyword.arg == "inplace":  # says nothing of the network
            continue
        yield f"{keyword.arg}={_literal(keyword.value)}" if keyword.arg else "…"


def _literal(value: ast.expr) -> str:
    try:
        return repr(ast.literal_eval(value))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return "…"


def layer_diagram(layers: Sequence[str]) -> Figure:
    """A chain of boxes, a row after the other, coloured by kind; ``layers`` as of :func:`layers_of`. A long network
    shows its first and last layers and says how many are left out between them."""
    shown = list(layers)
    if len(shown) > MOST:
        half = MOST // 2
        shown = [*shown[:half], f"{len(shown) - MOST + 1} more layers", *shown[len(shown) - half + 1 :]]
    rows = max(1, -(-len(shown) // PER_ROW))
    tallest = max(len(_lines(layer)) for layer in shown) if shown else 1
    figure, ax = new_figure(width=9, height=0.8 + rows * (0.5 + 0.18 * tallest))
    kinds: dict[str, str] = {}
    for i, layer in enumerate(shown):
        row, column = divmod(i, PER_ROW)
        kind, colour = next((kind for pattern, kind in KINDS.items() if re.match(pattern, layer)), OTHER_KIND)
        if "(" in layer:  # the remark on what is left out is of no kind
            kinds[kind] = colour
        _box(ax, column, row, layer, colour)
        if i + 1 < len(shown):
            _arrow(ax, column, row)
    if not shown:
        ax.text(PER_ROW / 2 - 0.5, 0, "no layers found", ha="center", va="center", color=MUTED)
    ax.set(xlim=(-0.5, PER_ROW - 0.42), ylim=(rows - 0.45, -0.5), title="layers in the order of the text")
    ax.set_axis_off()
    handles = [Patch(facecolor=colour, alpha=0.35, edgecolor=colour) for colour in kinds.values()]
    if handles:
        look = {"frameon": False, "fontsize": 8, "columnspacing": 1}
        figure.legend(handles, list(kinds), loc="outside lower center", ncols=len(kinds), **look)
    return figure


def _box(ax: Axes, column: int, row: int, layer: str, colour: str) -> None:
    box = FancyBboxPatch((column - 0.43, row - 0.32), 0.86, 0.64, boxstyle="round,pad=0,rounding_size=0.05",
                         facecolor=colour, alpha=0.2, edgecolor=colour)  # fmt: skip
    ax.add_patch(box)
    lines = _lines(layer)
    for i, line in enumerate(lines):
        look = {"fontsize": 7.5} if i else {"fontsize": 9, "fontweight": "bold" if "(" in layer else "normal"}
        place = (0, LINE * ((len(lines) - 1) / 2 - i))
        drawn = ax.annotate(line, (column, row), xytext=place, textcoords="offset points", **look)
        drawn.set(ha="center", va="center", parse_math=False)  # a dollar in a network's text is a dollar


def _lines(layer: str) -> list[str]:
    """What stands in a box: the name, and its arguments in at most two lines."""
    name, _, arguments = layer.partition("(")
    lines = wrap(arguments.removesuffix(")"), 28)
    if len(lines) > 2:
        lines = [lines[0], lines[1][:26] + " …"]
    return [name, *lines]


def _arrow(ax: Axes, column: int, row: int) -> None:
    """To the next box: at its right, or at the start of the next row."""
    style = {"arrowstyle": "-|>", "color": "#555555", "linewidth": 1, "shrinkA": 0, "shrinkB": 0}
    if column + 1 < PER_ROW:
        ax.annotate("", (column + 0.57, row), (column + 0.43, row), arrowprops=style)
    else:
        ax.plot([column, column, 0], [row + 0.32, row + 0.5, row + 0.5], color="#555555", linewidth=1)
        ax.annotate("", (0, row + 0.68), (0, row + 0.49), arrowprops=style)
