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
from nngpt_lab.statistics.style import COLOURS, MUTED, OURS, error_bars, new_figure, reference_line

LOOKS = {
    "LLM, tuned": {"color": OURS, "marker": "o", "linestyle": "-", "linewidth": 2.2, "zorder": 5},
    "LLM, shuffled pairs": {"color": COLOURS[2], "marker": "^", "linestyle": "-.", "zorder": 4},
    "LLM, untuned (likelihood)": {"color": COLOURS[4], "marker": "v", "linestyle": ":"},
    "ridge regression": {"color": COLOURS[1], "marker": "s", "linestyle": "-"},
    "nearest neighbours": {"color": COLOURS[5], "marker": "D", "linestyle": "--"},
    "Parzen estimator": {"color": COLOURS[9], "marker": "P", "linestyle": (0, (5, 1, 1, 1))},
    RANDOM: {"color": "black", "marker": "x", "linestyle": (0, (1, 2)), "linewidth": 1.8},
}
MAIN = tuple(LOOKS)
"""The methods of the figure with curves: more would hide one another. Tables hold all."""
BANDED = ("LLM, tuned", "ridge regression", RANDOM)


def look(method: str) -> dict:
    """How a method is drawn; grey if :data:`LOOKS` does not know it."""
    return {"markersize": 5, "linewidth": 1.5, **LOOKS.get(method, {"color": MUTED, "marker": "p", "linestyle": "--"})}


def best_so_far(bands: pd.DataFrame, methods: Sequence[str] = MAIN) -> Figure:
    """Best score so far against the number of evaluations, a panel per size of the start set.

    ``bands``: method, n0, evaluated, best_so_far(_low, _high) (``replay.bands``). Before the start set is used up all
    methods are one; the dotted upright line marks its end. Bands are drawn for :data:`BANDED` alone.
    """
    sizes = sorted(bands["n0"].unique())
    figure, axes = new_figure(1, len(sizes), width=max(6, 4 * len(sizes)), height=4.4, sharey=True, squeeze=False)
    for ax, n0 in zip(axes[0], sizes, strict=True):
        part = bands[bands["n0"] == n0]
        for method in _present(part, methods):
            curve = part[part["method"] == method].sort_values("evaluated")
            curve = curve if method == RANDOM else curve[curve["evaluated"] >= n0]
            style = {**look(method), "marker": ""}
            ax.plot(curve["evaluated"], 100 * curve["best_so_far"], label=method, **style)
            if method in BANDED:
                low, high = 100 * curve["best_so_far_low"], 100 * curve["best_so_far_high"]
                ax.fill_between(curve["evaluated"], low, high, color=style["color"], alpha=0.15, linewidth=0)
        ax.axvline(n0, color=MUTED, linestyle=":", linewidth=1)
        ax.set(xscale="log", xlabel="functions evaluated, start set included", title=f"{n0} functions to learn from")
        ax.set_xlim(n0 / 1.5, part["evaluated"].max())
        _plain_log(ax)
    _fit_heights(axes[0], bands, methods)
    axes[0][0].set_ylabel("best accuracy so far, %")
    _legend_below(figure, axes[0][0], columns=4)
    return figure


def evaluations_needed(summary: pd.DataFrame, n0: int, targets: Sequence[str] | None = None) -> Figure:
    """Mean number of evaluations until each target is reached, a panel per target; an arrow where it is a lower limit.

    ``summary``: method, n0, target, seeds, reached, evaluations(_low, _high), random (``replay.summary``).
    """
    part = summary[summary["n0"] == n0]
    targets = list(targets or dict.fromkeys(part["target"]))
    names = list(dict.fromkeys(part["method"]))
    figure, axes = new_figure(1, len(targets), width=3 + 2.3 * len(targets), height=1.6 + 0.32 * len(names),
                              sharey=True, squeeze=False)  # fmt: skip
    for ax, target in zip(axes[0], targets, strict=True):
        rows = part[part["target"] == target]
        for row in rows.itertuples():
            y, values = names.index(row.method), ([row.evaluations], [row.evaluations_low], [row.evaluations_high])
            style = look(row.method)
            error_bars(ax, [y], *values, horizontal=True, color=style["color"], fmt=style["marker"], markersize=6)
            if row.reached < row.seeds:
                ax.annotate("→", (row.evaluations_high, y), xytext=(3, 0), textcoords="offset points", va="center")
        ax.axvline(n0, color=MUTED, linestyle=":", linewidth=1)
        reference_line(ax, rows["random"].mean(), "random", colour="black", vertical=True)
        ax.set(xscale="log", ylim=(len(names) - 0.5, -0.9), title=target)
        _plain_log(ax)
    axes[0][0].set_yticks(range(len(names)), names)
    figure.supxlabel(f"functions evaluated until the target is reached, the {n0} of the start set included; dotted: "
                     "end of the start set", fontsize=9)  # fmt: skip
    return figure


def ordering_accuracy(summary: pd.DataFrame) -> Figure:
    """Share of pairs ordered as their recorded scores, a panel per test, between coin toss and what noise allows.

    ``summary``: test, method, accuracy(_low, _high), rerun, oracle (``replay.ordering_summary``).
    """
    tests, names = list(dict.fromkeys(summary["test"])), list(dict.fromkeys(summary["method"]))
    figure, axes = new_figure(1, len(tests), width=3 + 2.4 * len(tests), height=1.9 + 0.32 * len(names),
                              sharey=True, sharex=True, squeeze=False)  # fmt: skip
    for ax, test in zip(axes[0], tests, strict=True):
        rows = summary[summary["test"] == test]
        ax.axvline(50, color="black", linewidth=0.8)
        rerun, oracle = 100 * rows["rerun"].mean(), 100 * rows["oracle"].mean()
        ax.axvspan(oracle, 100, color=MUTED, alpha=0.2, linewidth=0)
        ax.axvline(rerun, color=MUTED, linestyle="--", linewidth=1)
        for row in rows.itertuples():
            values = [[100 * value] for value in (row.accuracy, row.accuracy_low, row.accuracy_high)]
            style = look(row.method)
            y = names.index(row.method)
            error_bars(ax, [y], *values, horizontal=True, color=style["color"], fmt=style["marker"], markersize=6)
        ax.set(ylim=(len(names) - 0.5, -0.5), title=test)
    widest = np.nanmin(summary["accuracy_low"].to_numpy(float)) if summary["accuracy_low"].notna().any() else 0.4
    axes[0][0].set_xlim(max(0, min(40, 100 * widest - 3)), 100)
    axes[0][0].set_yticks(range(len(names)), names)
    figure.supxlabel("pairs ordered as recorded, %; solid: coin toss, dashed: a second run of both, grey: out of reach "
                     "even for the true means", fontsize=9)  # fmt: skip
    return figure


# ------------------------------------------------------------------------------------------------------------- helpers


def _present(table: pd.DataFrame, methods: Sequence[str]) -> list[str]:
    found = set(table["method"])
    return [method for method in methods if method in found]


def _fit_heights(axes: Sequence[Axes], bands: pd.DataFrame, methods: Sequence[str]) -> None:
    """The axis begins where the start sets end, and not at the first draw of a random order."""
    shown = bands[bands["method"].isin(methods) & (bands["evaluated"] >= bands["n0"])]
    low, high = 100 * shown["best_so_far_low"].min(), 100 * shown["best_so_far_high"].max()
    axes[0].set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))


def _plain_log(ax: Axes) -> None:
    low, high = ax.get_xlim()
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.xaxis.set_minor_formatter(NullFormatter())


def _legend_below(figure: Figure, ax: Axes, columns: int) -> None:
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)
