"""Figures of the replayed search: each takes a table of ``replay_tables.py`` and returns a ``matplotlib`` Figure.

Scores are drawn in per cent accuracy. Bands and bars are 95 % intervals over seeds. Methods keep colour, marker and
dashes from figure to figure.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from nngpt_lab.papers.augmentation_search.replay_tables import RANDOM
from nngpt_lab.statistics.plots import legend_below, lines, name_rows, panels, points, reference_line, rows_of
from nngpt_lab.statistics.style import COLOURS, MUTED, OURS

LOOKS = {
    "LLM, tuned": {"color": OURS, "marker": "o", "linestyle": "-", "linewidth": 2.2, "zorder": 5},
    "LLM, shuffled pairs": {"color": COLOURS[2], "marker": "^", "linestyle": "-.", "zorder": 4},
    "LLM, untuned (likelihood)": {"color": COLOURS[4], "marker": "v", "linestyle": ":"},
    "ridge regression": {"color": COLOURS[1], "marker": "s", "linestyle": "-"},
    "nearest neighbours": {"color": COLOURS[5], "marker": "D", "linestyle": "--"},
    "Parzen estimator": {"color": COLOURS[9], "marker": "P", "linestyle": (0, (5, 1, 1, 1))},
    RANDOM: {"color": "black", "marker": "x", "linestyle": (0, (1, 2)), "linewidth": 1.8},
}
"""The methods of the figure with curves: more would hide one another. Tables hold all."""
BANDED = ("LLM, tuned", "ridge regression", RANDOM)
OTHER_METHOD = {"color": MUTED, "marker": "p", "linestyle": "--"}


def best_so_far(bands: pd.DataFrame) -> Figure:
    """Best score so far against the number of evaluations (``replay_tables.bands``, drawn for :data:`BANDED` alone), a
    panel per size of the start set. Before that is used up all methods are alike; the dotted upright line marks its
    end."""
    shown = bands[bands["method"].isin(LOOKS) & ((bands["evaluated"] >= bands["n0"]) | (bands["method"] == RANDOM))]
    sizes = sorted(bands["n0"].unique())
    titles = [f"{n0} functions to learn from" for n0 in sizes]
    figure, axes = panels(titles, width=max(6, 4 * len(sizes)), height=4.4)
    looks = {method: {"linewidth": 1.5, **look, "marker": ""} for method, look in LOOKS.items()
             if method in set(shown["method"])}  # fmt: skip
    for ax, n0 in zip(axes, sizes, strict=True):
        part = shown[shown["n0"] == n0]
        lines(ax, part, "method", "evaluated", "best_so_far", looks, BANDED, scale=100)
        ax.axvline(n0, color=MUTED, linestyle=":", linewidth=1)
        ax.set(xscale="log", xlabel="functions evaluated, start set included")
        ax.set_xlim(n0 / 1.5, part["evaluated"].max())
        _plain_log(ax)
    learnt = shown[shown["evaluated"] >= shown["n0"]]  # the axis begins there, not at the first draw of a random order
    ends = (learnt[f"best_so_far_{end}"].fillna(learnt["best_so_far"]) for end in ("low", "high"))
    low, high = (100 * extreme for extreme in (next(ends).min(), next(ends).max()))
    axes[0].set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    axes[0].set_ylabel("best accuracy so far, %")
    legend_below(figure, ncols=4 if len(sizes) > 1 else 2)
    return figure


def evaluations_needed(summary: pd.DataFrame, n0: int) -> Figure:
    """Mean number of evaluations until each target is reached (``replay_tables.summary``), a panel per target; an arrow
    where it is a lower limit."""
    part = summary[summary["n0"] == n0]
    targets, names = list(dict.fromkeys(part["target"])), list(dict.fromkeys(part["method"]))
    figure, axes = panels(targets, width=3 + 2.3 * len(targets), height=1.6 + 0.32 * len(names))
    for ax, target in zip(axes, targets, strict=True):
        rows = part[part["target"] == target]
        _method_points(ax, rows, names, "evaluations")
        for unreached in rows[rows["reached"] < rows["seeds"]].itertuples():
            right = np.nanmax([unreached.evaluations, unreached.evaluations_high])
            ax.annotate("→", (right, names.index(unreached.method)), (3, 0), textcoords="offset points", va="center")
        ax.axvline(n0, color=MUTED, linestyle=":", linewidth=1)
        reference_line(ax, rows["random"].mean(), "random", colour="black", vertical=True)
        ax.set_xscale("log")
        _plain_log(ax)
    name_rows(axes[0], names, above=0.9)
    figure.supxlabel(f"functions evaluated until the target is reached, the {n0} of the start set included; dotted: "
                     "end of the start set", fontsize=9)  # fmt: skip
    return figure


def ordering_accuracy(summary: pd.DataFrame) -> Figure:
    """Share of pairs ordered as their recorded scores (``replay_tables.ordering_summary``), a panel per test, between
    coin toss and what noise allows."""
    tests, names = list(dict.fromkeys(summary["test"])), list(dict.fromkeys(summary["method"]))
    figure, axes = panels(tests, width=3 + 2.4 * len(tests), height=1.9 + 0.32 * len(names), sharex=True)
    for ax, test in zip(axes, tests, strict=True):
        rows = summary[summary["test"] == test]
        ax.axvline(50, color="black", linewidth=0.8)
        ax.axvspan(100 * rows["oracle"].mean(), 100, color=MUTED, alpha=0.2, linewidth=0)
        ax.axvline(100 * rows["rerun"].mean(), color=MUTED, linestyle="--", linewidth=1)
        _method_points(ax, rows, names, "accuracy", scale=100)
    lowest = 100 * summary["accuracy_low"].min() - 3 if summary["accuracy_low"].notna().any() else 37
    axes[0].set_xlim(max(0, min(40, lowest)), 100)
    name_rows(axes[0], names)
    figure.supxlabel("pairs ordered as recorded, %; solid: coin toss, dashed: a second run of both, grey: out of reach "
                     "even for the true means", fontsize=9)  # fmt: skip
    return figure


def _method_points(ax: Axes, rows: pd.DataFrame, names: Sequence[str], name: str, scale: float = 1) -> None:
    """A point per method, in its row, colour and marker."""
    looks = [{key: LOOKS.get(method, OTHER_METHOD)[key] for key in ("color", "marker")} for method in rows["method"]]
    points(ax, rows_of(rows["method"], names), rows, name, scale=scale, horizontal=True, looks=looks, markersize=6)


def _plain_log(ax: Axes) -> None:
    """Numbers in full on a logarithmic axis, at 1, 2 and 5 where there are less than two decades."""
    low, high = ax.get_xlim()
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
