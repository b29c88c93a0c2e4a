"""Figures of paper A's live loop, from the tables of ``tables.py``; each returns a ``matplotlib`` Figure.

Fractions in the tables are drawn in per cent. Arms and lines differ in marker and dashes, not in colour alone.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nngpt_lab.papers.architecture_loop.figures import legend_below, say
from nngpt_lab.papers.architecture_loop.tables import LOOP, arms
from nngpt_lab.papers.augmentation_search.tables import BEST_START, FIRST, LAST, NO_POLICY, START
from nngpt_lab.statistics.style import COLOURS, MUTED, OTHER, OURS, PAPER, error_bars, new_figure, reference_line

LOOKS = {
    LOOP: {"color": OURS, "marker": "o", "linestyle": "-", "linewidth": 2.2, "zorder": 4},
    "no tuning": {"color": COLOURS[1], "marker": "s", "linestyle": "--"},
    "shuffled pairs": {"color": COLOURS[2], "marker": "^", "linestyle": "-."},
    "random generator": {"color": "black", "marker": "x", "linestyle": (0, (1, 2))},
}
BANDS = (LOOP, "no tuning")  # more of them would cover each other
OTHERS = {"color": MUTED, "marker": "P", "linestyle": "-"}


def look(arm: str) -> dict:
    """How an arm is drawn; one that :data:`LOOKS` does not know is grey."""
    return {"markersize": 4.5, "linewidth": 1.4, **LOOKS.get(arm, OTHERS)}


def epochs(pooled: pd.DataFrame, limit: float | None = None) -> Figure:
    """Valid rate, mean and best accuracy per LLM epoch, a line an arm; bands for the loop and the untuned model.

    Args:
        pooled: as ``pooled_epochs`` returns it.
        limit: the accuracy from which functions joined the archive, drawn as a line; None if it differs by seed.
    """
    figure, axes = new_figure(1, 3, width=12, height=4)
    for arm in arms(pooled):
        part = pooled[pooled["arm"] == arm]
        for ax, name, low, high in (
            (axes[0], "valid", "valid_low", "valid_high"),
            (axes[1], "mean", "mean_low", "mean_high"),
            (axes[2], "best", "best_lowest", "best_highest"),
        ):
            ax.plot(part["epoch"], 100 * part[name], label=arm, **look(arm))
            _band(ax, part["epoch"], part[low], part[high], arm)
    over = "seeds" if len(pooled) and (pooled["unit"] == "seeds").all() else "candidates"
    axes[0].set(ylabel="valid, % of the samples", ylim=(0, 102), title="Valid (band: Wilson)")
    axes[1].set(ylabel="accuracy after one epoch, %", title=f"Mean (band: bootstrap over {over})")
    axes[2].set(ylabel="accuracy after one epoch, %", title="Best (band: lowest to highest seed)")
    if limit is not None:
        reference_line(axes[1], 100 * limit, "threshold", MUTED)
    for ax in axes:
        ax.set_xlabel("LLM epoch")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _together(*axes[1:])
    legend_below(figure, axes[0])
    return figure


def search(curves: pd.DataFrame, start_best: float | None = None) -> Figure:
    """Best so far against evaluations: the mean over seeds, the band from the lowest to the highest of them.

    Args:
        curves: as ``search_curve`` returns it.
        start_best: accuracy of the best function that the runs started with.
    """
    figure, ax = new_figure(width=8, height=4.2)
    for arm in arms(curves):
        part = curves[curves["arm"] == arm]
        style = {**look(arm), "marker": None, "drawstyle": "steps-post"}
        ax.plot(part["evaluations"], 100 * part["best"], label=arm, **style)
        ax.fill_between(part["evaluations"], 100 * part["lowest"], 100 * part["highest"], step="post",
                        color=style["color"], alpha=0.12, linewidth=0)  # fmt: skip
    if start_best is not None:
        reference_line(ax, 100 * start_best, "best of the start", MUTED)
    if not len(curves):
        say(ax, "nothing was trained")
    seeds = int(curves["seeds"].max()) if len(curves) else 0
    ax.set(xlabel="functions evaluated", ylabel="best accuracy so far, %")
    ax.set_title("Best so far" + (f" (mean of {seeds} seeds; band: lowest to highest)" if seeds > 1 else " (one seed)"))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend_below(figure, ax)
    return figure


def policies(table: pd.DataFrame) -> Figure:
    """Accuracy on the test images of each policy and found function, a panel for each number of epochs.

    ``table``: as ``policy_table`` returns it. Hollow: no interval.
    """
    budgets = list(dict.fromkeys(table["epochs"]))
    names = list(dict.fromkeys(table["policy"]))
    figure, axes = new_figure(
        1, max(len(budgets), 1), width=10, height=1.6 + 0.34 * len(names), sharey=True, squeeze=False
    )
    for ax, budget in zip(axes[0], budgets, strict=False):
        part = table[table["epochs"] == budget]
        for row in part.itertuples():
            found = row.policy.startswith("best of")
            colour = OURS if found else PAPER if row.policy == NO_POLICY else OTHER
            bounded = np.isfinite([row.mean_low, row.mean_high]).all()
            values = [100 * v for v in ((row.mean, row.mean_low, row.mean_high) if bounded else (row.mean,) * 3)]
            style = {"color": colour, "markersize": 6, "markerfacecolor": colour if bounded else "white"}
            error_bars(ax, [names.index(row.policy)], *([v] for v in values), horizontal=True, **style)
        bare = part.loc[part["policy"] == NO_POLICY, "mean"]
        if len(bare) and np.isfinite(bare.iloc[0]):
            ax.axvline(100 * bare.iloc[0], color=PAPER, linestyle="--", linewidth=1, zorder=1)
        ax.set(title=f"{budget} epoch{'s' * (budget != 1)}", xlabel="accuracy on the test images, %")
        ax.set_ylim(len(names) - 0.5, -0.5)
    axes[0, 0].set_yticks(range(len(names)), names)
    if not names:
        say(axes[0, 0], "no policies were scored")
    figure.suptitle("Policies and found functions (bars: t-interval over seeds; hollow: none)", fontsize=11)
    return figure


def operation_use(shift: pd.DataFrame, arm: str = LOOP) -> Figure:
    """In how many functions an arm uses each operation, from its first third to its last, beside the start's functions.

    ``shift``: as ``operation_shift`` returns it. Ordered by how much more often the best of the start use it.
    """
    own = {
        part: shift[(shift["arm"] == arm) & (shift["part"] == part)].set_index("operation") for part in (FIRST, LAST)
    }
    start = {part: shift[shift["part"] == part].set_index("operation") for part in (START, BEST_START)}
    order = (start[BEST_START]["share"] - start[START]["share"]).sort_values(kind="stable").index
    places = np.arange(len(order))
    figure, ax = new_figure(width=9, height=6)
    for part, rows, style in (
        (START, start[START], {"color": MUTED, "marker": "|", "markersize": 12, "markeredgewidth": 2}),
        (BEST_START, start[BEST_START], {"color": PAPER, "marker": "D", "markersize": 5, "markerfacecolor": "white"}),
        (f"{arm}, {FIRST}", own[FIRST], {"color": OURS, "marker": "o", "markersize": 6, "markerfacecolor": "white"}),
    ):
        ax.plot(100 * rows["share"].reindex(order), places, linestyle="none", label=_counted(part, rows), **style)
    rows = own[LAST].reindex(order)
    error_bars(ax, places, *(100 * rows[name] for name in ("share", "share_low", "share_high")), horizontal=True,
               color=OURS, markersize=6, label=_counted(f"{arm}, {LAST}", rows))  # fmt: skip
    ax.set_yticks(places, order)
    ax.set(xlabel="functions that use it, % (bar: Wilson interval of the last third)", xlim=(-1, None))
    ax.set_title("Operations, on top those that the best of the start favour most")
    legend_below(figure, ax)
    return figure


# ------------------------------------------------------------------------------------------------------------- helpers


def _band(ax: Axes, x: pd.Series, low: pd.Series, high: pd.Series, arm: str) -> None:
    if arm not in BANDS and arm in LOOKS:
        return
    known = low.notna() & high.notna()
    ends = (100 * low[known].astype(float), 100 * high[known].astype(float))
    ax.fill_between(x[known], *ends, color=look(arm)["color"], alpha=0.2 if arm == LOOP else 0.08, linewidth=0)


def _together(*axes: Axes) -> None:
    """The same range of values."""
    low, high = (
        pick(end) for pick, end in zip((min, max), zip(*(ax.get_ylim() for ax in axes), strict=True), strict=True)
    )
    for ax in axes:
        ax.set_ylim(low, high)


def _counted(label: str, rows: pd.DataFrame) -> str:
    return f"{label} (n = {int(rows['functions'].max()) if len(rows) else 0})"
