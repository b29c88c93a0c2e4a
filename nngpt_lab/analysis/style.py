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
    ax: Axes, value: float, text: str, colour: str = PAPER, vertical: bool = False, below: bool = False, at: float = 1
) -> None:
    """A dashed line at ``value``; its label stands above it (or ``below``), ending at the share ``at`` of the width."""
    if vertical:
        ax.axvline(value, color=colour, linestyle="--", linewidth=1, zorder=1)
        place = {"xy": (value, 1), "xycoords": ("data", "axes fraction"), "xytext": (3, -3), "va": "top", "ha": "left"}
    else:
        ax.axhline(value, color=colour, linestyle="--", linewidth=1, zorder=1)
        offset, side = ((-2, -2), "top") if below else ((-2, 2), "bottom")
        place = {"xy": (at, value), "xycoords": ("axes fraction", "data"), "xytext": offset, "va": side, "ha": "right"}
    halo = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.5}
    ax.annotate(text, textcoords="offset points", fontsize=8, color=colour, bbox=halo, **place)
