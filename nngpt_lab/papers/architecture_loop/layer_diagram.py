"""A network as a chain of boxes: its layers read from the text, or given with shapes and parameters.

What is read from the text is what the text says: loops are not unrolled, arguments that are no literals show as ``…``,
and the order is that of the lines, not of the data. Nothing is run.
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

Layer = tuple[str, str, int | None]
"""Name with arguments, output shape ("" if unknown), number of parameters (None if unknown)."""

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


def layers_of(code: str) -> list[Layer]:
    """The layers that a source makes by ``nn.<Layer>(...)``, as (name with its arguments, "", None).

    From the syntax tree alone, in the order of the text; without containers and losses. Empty if it does not parse.
    """
    try:
        calls = [node for node in ast.walk(parse(code)) if isinstance(node, ast.Call)]
    except UNREADABLE:
        return []
    named = [(node.func.end_lineno, node.func.end_col_offset, _layer(node.func), node) for node in calls if
             _layer(node.func)]  # fmt: skip
    ordered = sorted(named, key=lambda item: item[:2])
    return [(f"{name}({', '.join(_arguments(node))})", "", None) for _, _, name, node in ordered]


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


def layer_diagram(layers: Sequence[Layer], title: str = "") -> Figure:
    """A chain of boxes, a row after the other, coloured by kind; shapes and parameters where they are known.

    A long network shows its first and last layers and says how many are left out between them.
    """
    shown: list[Layer | str] = list(layers)
    if len(shown) > MOST:
        half = MOST // 2
        shown = [*shown[:half], f"{len(shown) - MOST + 1} more layers", *shown[len(shown) - half + 1 :]]
    rows = max(1, -(-len(shown) // PER_ROW))
    tallest = max(len(_lines(layer)) for layer in shown) if shown else 1
    figure, ax = new_figure(width=9, height=0.8 + rows * (0.5 + 0.18 * tallest))
    kinds: dict[str, str] = {}
    for i, layer in enumerate(shown):
        row, column = divmod(i, PER_ROW)
        kind, colour = ("", MUTED) if isinstance(layer, str) else _kind(layer[0])
        if kind:
            kinds[kind] = colour
        _box(ax, column, row, layer, colour)
        if i + 1 < len(shown):
            _arrow(ax, column, row)
    if not shown:
        ax.text(PER_ROW / 2 - 0.5, 0, "no layers found", ha="center", va="center", color=MUTED)
    ax.set(xlim=(-0.5, PER_ROW - 0.42), ylim=(rows - 0.45, -0.5), title=title)
    ax.set_axis_off()
    handles = [Patch(facecolor=colour, alpha=0.35, edgecolor=colour) for colour in kinds.values()]
    if handles:
        look = {"frameon": False, "fontsize": 8, "columnspacing": 1}
        figure.legend(handles, list(kinds), loc="outside lower center", ncols=len(kinds), **look)
    return figure


def _kind(name: str) -> tuple[str, str]:
    return next((kind for pattern, kind in KINDS.items() if re.match(pattern, name)), OTHER_KIND)


def _box(ax: Axes, column: int, row: int, layer: Layer | str, colour: str) -> None:
    box = FancyBboxPatch((column - 0.43, row - 0.32), 0.86, 0.64, boxstyle="round,pad=0,rounding_size=0.05",
                         facecolor=colour, alpha=0.2, edgecolor=colour)  # fmt: skip
    ax.add_patch(box)
    if isinstance(layer, str):
        ax.text(column, row, layer, ha="center", va="center", fontsize=9, style="italic")
        return
    head, *below = _lines(layer)
    for i, line in enumerate([head, *below]):
        look = {"fontsize": 9, "fontweight": "bold"} if i == 0 else {"fontsize": 7.5}
        place = (0, LINE * (len(below) / 2 - i))
        ax.annotate(line, (column, row), xytext=place, textcoords="offset points", ha="center", va="center", **look)


def _lines(layer: Layer | str) -> list[str]:
    """What stands in a box: the name, its arguments in at most two lines, shape and parameters if known."""
    if isinstance(layer, str):
        return [layer]
    name, shape, parameters = layer
    head, _, arguments = name.partition("(")
    lines = wrap(arguments.removesuffix(")"), 28)
    if len(lines) > 2:
        lines = [lines[0], lines[1][:26] + " …"]
    return [line for line in (head, *lines, shape, "" if parameters is None else f"{parameters:,} parameters") if line]


def _arrow(ax: Axes, column: int, row: int) -> None:
    """To the next box: at its right, or at the start of the next row."""
    style = {"arrowstyle": "-|>", "color": "#555555", "linewidth": 1, "shrinkA": 0, "shrinkB": 0}
    if column + 1 < PER_ROW:
        ax.annotate("", (column + 0.57, row), (column + 0.43, row), arrowprops=style)
    else:
        ax.plot([column, column, 0], [row + 0.32, row + 0.5, row + 0.5], color="#555555", linewidth=1)
        ax.annotate("", (0, row + 0.68), (0, row + 0.49), arrowprops=style)
