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
