"""How the lab's figures look: one palette, quiet axes, no global state (``Figure`` objects, not pyplot)."""

from __future__ import annotations

import matplotlib as mpl
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = sns.color_palette("colorblind").as_hex()
OURS, PAPER, OTHER, MUTED = COLOURS[0], COLOURS[3], COLOURS[2], "#8a8a8a"
STYLE = sns.axes_style("whitegrid", {"axes.spines.top": False, "axes.spines.right": False, "grid.color": "#e6e6e6"})
FONTS = {"font.size": 10, "axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left",
         "axes.labelsize": 10, "legend.fontsize": 9, "legend.frameon": False, "figure.dpi": 100}  # fmt: skip


def new_figure(rows: int = 1, columns: int = 1, width: float = 8, height: float = 4, **grid) -> tuple[Figure, Axes]:
    """A figure (inches) and its axes, styled; ``grid`` goes to ``Figure.subplots``."""
    with mpl.rc_context({**STYLE, **FONTS}):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.subplots(rows, columns, **grid)


def error_bars(ax: Axes, x, value, low, high, horizontal: bool = False, **style) -> None:
    """Points with intervals, given as ends rather than lengths."""
    lengths = [[max(v - a, 0) for v, a in zip(value, low, strict=True)],
               [max(b - v, 0) for v, b in zip(value, high, strict=True)]]  # fmt: skip
    style = {"fmt": "o", "markersize": 4, "linewidth": 1.2, "capsize": 2, **style}
    if horizontal:
        ax.errorbar(value, x, xerr=lengths, **style)
    else:
        ax.errorbar(x, value, yerr=lengths, **style)


def reference_line(
    ax: Axes, value: float, text: str, colour: str = PAPER, vertical: bool = False, place: str = "above"
) -> None:
    """A dashed line at ``value`` with its label: ``above`` it inside the axes, or to the right of them.

    To the right the label stands a little higher (``right``) or lower (``right below``) than the line, so that two
    lines that lie close do not print over each other. A vertical line has its label at its top.
    """
    halo = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.5}
    look = {"textcoords": "offset points", "fontsize": 8, "color": colour, "bbox": halo}
    if vertical:
        ax.axvline(value, color=colour, linestyle="--", linewidth=1, zorder=1)
        ax.annotate(text, (value, 1), xycoords=("data", "axes fraction"), xytext=(3, -3), va="top", ha="left", **look)
        return
    ax.axhline(value, color=colour, linestyle="--", linewidth=1, zorder=1)
    offset, side, va = {
        "above": ((-2, 2), "right", "bottom"),
        "right": ((4, -4), "left", "bottom"),
        "right below": ((4, 4), "left", "top"),
    }[place]
    ax.annotate(text, (1, value), xycoords=("axes fraction", "data"), xytext=offset, va=va, ha=side, **look)
