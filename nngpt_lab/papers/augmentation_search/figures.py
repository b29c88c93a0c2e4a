"""Figures of paper A's live loop, from the tables of ``tables.py``; each returns a ``matplotlib`` Figure.

Fractions in the tables are drawn in per cent. Arms and lines differ in marker and dashes, not in colour alone.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from nngpt_lab.papers.augmentation_search.tables import BEST_START, FIRST, LAST, NO_POLICY, START
from nngpt_lab.statistics import plots
from nngpt_lab.statistics.style import MUTED, OTHER, OURS, PAPER, new_figure
from nngpt_lab.study.budget import Independent
from nngpt_lab.study.looks import LOOKS, arm_looks

BANDS = ("loop", "no tuning")  # more of them would cover each other


def epochs(pooled: pd.DataFrame, limit: float | None = None, alone: Independent | None = None) -> Figure:
    """Valid rate, mean and best accuracy per LLM epoch (``pooled_epochs``), a line an arm; bands for the loop and the
    untuned model. ``limit``: the accuracy from which functions joined the archive; None if it differs by seed.
    ``alone``: as many independent samples, lines to beat."""
    figure, (valid, mean, best) = new_figure(1, 3, width=12, height=4)
    best.sharey(mean)
    looks = arm_looks(pooled)
    bands = [arm for arm in looks if arm in BANDS or arm not in LOOKS]
    for ax, name in ((valid, "valid"), (mean, "mean"), (best, "best")):
        ends = ("best_lowest", "best_highest") if name == "best" else None
        plots.lines(ax, pooled, "arm", "epoch", name, looks, bands, ends=ends, scale=100)
        ax.set(xlabel="LLM epoch", ylabel="accuracy after one epoch, %")
        plots.whole_numbers(ax.xaxis)
        if alone is not None:
            ax.axhline(100 * alone.values[name], color="black", linestyle="--", linewidth=0.9, zorder=1.5,
                       label=alone.label)  # fmt: skip
    if limit is not None:
        plots.reference_line(mean, 100 * limit, "threshold", MUTED)
    by_seed = len(pooled) and (pooled["unit"] == "seeds").all()
    valid.set(ylabel="valid, % of the samples", ylim=(0, 102), title="Valid (band: Wilson)")
    mean.set(title=f"Mean (band: {'t-interval over seeds' if by_seed else 'bootstrap over candidates'})")
    best.set(title="Best (band: lowest to highest seed)")
    plots.legend_below(figure)
    return figure


def search(curves: pd.DataFrame, start_best: float | None = None) -> Figure:
    """Best so far against evaluations (``search_curve``): the mean over seeds, the band from the lowest to the highest
    of them. ``start_best``: accuracy of the best function that the runs started with."""
    figure, ax = new_figure(width=8, height=4.2)
    looks = arm_looks(curves)
    plots.lines(ax, curves, "arm", "evaluations", "best", looks, bands=looks, ends=("lowest", "highest"), scale=100,
                marker="", drawstyle="steps-post")  # fmt: skip
    if start_best is not None:
        plots.reference_line(ax, 100 * start_best, "best of the start", MUTED)
    if not len(curves):
        plots.no_data(ax, "nothing was trained")
    seeds = int(curves["seeds"].max()) if len(curves) else 0
    title = "Best so far" + (f" (mean of {seeds} seeds; band: lowest to highest)" if seeds > 1 else " (one seed)")
    ax.set(xlabel="functions evaluated", ylabel="best accuracy so far, %", title=title)
    plots.whole_numbers(ax.xaxis)
    plots.legend_below(figure)
    return figure


def policies(table: pd.DataFrame) -> Figure:
    """Accuracy on the test images of each policy and found function (``policy_table``), a panel for each number of
    epochs. Hollow: no interval."""
    names, budgets = list(dict.fromkeys(table["policy"])), list(dict.fromkeys(table["epochs"]))
    titles = [f"{budget} epoch{'s' * (budget != 1)}" for budget in budgets]
    figure, axes = plots.panels(titles, width=10, height=1.6 + 0.34 * len(names))
    for ax, budget in zip(axes, budgets, strict=False):
        part = table[table["epochs"] == budget]
        bounded = part[["mean_low", "mean_high"]].notna().all(axis=1)
        colours = [OURS if name.startswith("best of") else PAPER if name == NO_POLICY else OTHER
                   for name in part["policy"]]  # fmt: skip
        looks = [{"color": colour, "markerfacecolor": colour if filled else "white"}
                 for colour, filled in zip(colours, bounded, strict=True)]  # fmt: skip
        rows = plots.rows_of(part["policy"], names)
        plots.points(ax, rows, part, "mean", scale=100, horizontal=True, looks=looks, markersize=6)
        for bare in part.loc[part["policy"] == NO_POLICY, "mean"].dropna():
            ax.axvline(100 * bare, color=PAPER, linestyle="--", linewidth=1, zorder=1)
        ax.set_xlabel("accuracy on the test images, %")
    plots.name_rows(axes[0], names)
    if not names:
        plots.no_data(axes[0], "no policies were scored")
    figure.suptitle("Policies and found functions (bars: t-interval over seeds; hollow: none)", fontsize=11)
    return figure


def operation_use(shift: pd.DataFrame, arm: str = "loop") -> Figure:
    """In how many functions an arm uses each operation, from its first third to its last, beside the start's functions
    (``operation_shift``); ordered by how much more often the best of the start use it."""
    shift = shift.set_index("operation")
    start, best = shift[shift["part"] == START], shift[shift["part"] == BEST_START]
    first, last = (shift[(shift["arm"] == arm) & (shift["part"] == part)] for part in (FIRST, LAST))
    order = (best["share"] - start["share"]).sort_values(kind="stable").index
    places = np.arange(len(order))
    figure, ax = new_figure(width=9, height=6)
    for label, rows, style in (
        (START, start, {"color": MUTED, "marker": "|", "markersize": 12, "markeredgewidth": 2}),
        (BEST_START, best, {"color": PAPER, "marker": "D", "markersize": 5, "markerfacecolor": "white"}),
        (f"{arm}, {FIRST}", first, {"color": OURS, "marker": "o", "markersize": 6, "markerfacecolor": "white"}),
    ):
        ax.plot(100 * rows["share"].reindex(order), places, linestyle="none", label=_counted(label, rows), **style)
    plots.points(ax, places, last.reindex(order), "share", scale=100, horizontal=True, color=OURS, markersize=6,
                 label=_counted(f"{arm}, {LAST}", last))  # fmt: skip
    ax.set_yticks(places, order)
    ax.set(xlabel="functions that use it, % (bar: Wilson interval of the last third)", xlim=(-1, None))
    ax.set_title("Operations, on top those that the best of the start favour most")
    plots.legend_below(figure)
    return figure


def _counted(label: str, rows: pd.DataFrame) -> str:
    return f"{label} (n = {int(rows['functions'].max()) if len(rows) else 0})"
