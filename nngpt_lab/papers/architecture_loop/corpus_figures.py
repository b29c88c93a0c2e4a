"""Figures of what LEMUR's published records say: each takes a table and returns a ``matplotlib`` Figure."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from nngpt_lab.papers.architecture_loop.lemur_overview import CYCLES
from nngpt_lab.statistics.style import COLOURS, MUTED, OURS, PAPER, error_bars, new_figure, reference_line

# ---- paper B ---------------------------------------------------------------------------------------------------------


def families_and_sizes(architectures: pd.DataFrame) -> Figure:
    """LEMUR's families: how many architectures, and how long their code is (lines that hold code)."""
    order = architectures["family"].value_counts().index
    figure, (left, right) = new_figure(1, 2, width=9, height=3.8, sharey=True)
    counts = architectures["family"].value_counts()[order]
    left.barh(order, counts, color=OURS)
    for family, count in counts.items():
        left.annotate(f"{count:,}", (count, family), xytext=(3, 0), textcoords="offset points", va="center", fontsize=8)
    left.set(title="Architectures", xlabel="count", xlim=(0, counts.max() * 1.15))
    groups = [architectures.loc[architectures["family"] == family, "lines"] for family in order]
    right.boxplot(groups, positions=range(len(order)), orientation="horizontal", showfliers=False, widths=0.6,
                  medianprops={"color": PAPER})  # fmt: skip
    right.set(title="Length of the code", xlabel="lines that hold code (log scale)", xscale="log")
    right.set_xticks([30, 60, 100, 200, 400], ["30", "60", "100", "200", "400"])
    right.minorticks_off()
    left.set_yticks(range(len(order)), order)
    left.invert_yaxis()
    return figure


def duplicates(table: pd.DataFrame) -> Figure:
    """Share of redundant files per family at three levels of likeness (columns of ``duplicate_structure``)."""
    figure, ax = new_figure(height=3.6)
    sns.barplot(table, x="family", y="redundant", hue="level", ax=ax, palette=COLOURS[:3], errorbar=None)
    ax.set(
        ylabel="files that repeat another, %", xlabel="", title="How many sources are copies of another in their family"
    )
    ax.legend(title="")
    return figure


def one_epoch_by_family(best: pd.DataFrame) -> Figure:
    """One-epoch CIFAR-10 accuracy per architecture (columns family, accuracy) beside paper B's cycle means."""
    order = best["family"].value_counts().index
    figure, ax = new_figure(width=9, height=4.4)
    percent = best.assign(accuracy=100 * best["accuracy"])
    sns.violinplot(percent, x="family", y="accuracy", order=order, ax=ax, color=OURS, alpha=0.35, linewidth=0.8,
                   cut=0, inner="quart", density_norm="width")  # fmt: skip
    for cycle, mean in CYCLES[["cycle", "mean"]].itertuples(index=False):
        reference_line(ax, mean, f"paper B, cycle {cycle}", place="right below" if cycle == 22 else "right")
    ax.set_xticks(range(len(order)), [f"{family}\nn = {(best['family'] == family).sum()}" for family in order])
    ax.set(ylabel="best one-epoch accuracy, %", xlabel="", ylim=(0, 100), title="CIFAR-10 after one epoch, by family")
    return figure


def share_over_thresholds(table: pd.DataFrame) -> Figure:
    """Share of each family at or above 40, 35 and 30 % after one epoch, beside paper B's share at 40 %."""
    figure, ax = new_figure(width=9, height=4)
    positions = np.arange(len(table))
    for i, threshold in enumerate((40, 35, 30)):
        name = f"share_{threshold}"
        error_bars(ax, positions + (i - 1) * 0.18, table[name], table[f"{name}_low"], table[f"{name}_high"],
                   color=COLOURS[i], label=f"at least {threshold} %")  # fmt: skip
    for cycle, over, trained in CYCLES[["cycle", "over_40", "trained"]].itertuples(index=False):
        text = (
            f"paper B, cycle {cycle}:\n{over} of {trained} over 40 %"
            if cycle < 18
            else f"cycle {cycle}: {over} of {trained}"
        )
        reference_line(ax, 100 * over / trained, text, place="right below" if cycle == 22 else "right")
    ax.set_xticks(positions, [f"{family}\nn = {n}" for family, n in table[["family", "n"]].itertuples(index=False)])
    ax.set(
        ylabel="share of architectures, %", ylim=(-2, 102), title="Share above the thresholds after one epoch, CIFAR-10"
    )
    ax.legend(loc="lower right")
    return figure


def paper_b_cycles(cycles: pd.DataFrame) -> Figure:
    """The recovered cycles of paper B with Wilson intervals at their inferred counts (columns of ``wilson_cycles``)."""
    figure, (left, right) = new_figure(1, 2, width=9, height=3.6)
    for name, colour, label in (("valid", OURS, "valid"), ("over_40", PAPER, "at least 40 % (of those trained)")):
        error_bars(left, cycles["cycle"], cycles[name], cycles[f"{name}_low"], cycles[f"{name}_high"], color=colour,
                   label=label, linestyle=":")  # fmt: skip
    left.set(title="Rates", xlabel="cycle", ylabel="%", ylim=(0, 100), xlim=(0, 23))
    left.legend(loc="lower right")
    right.plot(cycles["cycle"], cycles["mean"], "o:", color=OURS, label="mean")
    right.plot(cycles["cycle"], cycles["best"], "o:", color=PAPER, label="best")
    right.set(
        title="First-epoch accuracy (no interval published)", xlabel="cycle", ylabel="%", xlim=(0, 23), ylim=(0, 100)
    )
    right.legend(loc="lower right")
    return figure


UNIT_TITLES = {
    "best_of_trials": "best of an architecture's trials",
    "one_run": "one run per architecture",
    "fixed_protocol": "one run, one protocol",
}


def proxy_audit(audit: pd.DataFrame, measure: str = "spearman") -> Figure:
    """Rank correlation of epoch 1 with later epochs, by data set; one panel per kind of unit."""
    datasets = sorted(audit["dataset"].unique())
    figure, axes = new_figure(1, 3, width=11, height=4, sharey=True)
    for ax, (unit, title) in zip(axes, UNIT_TITLES.items(), strict=True):
        for i, dataset in enumerate(datasets):
            part = audit[(audit["unit"] == unit) & (audit["dataset"] == dataset)]
            if len(part):
                place = part["epoch"].clip(upper=6.5) + (i - 3) * 0.06  # the longest horizon stands at the right edge
                error_bars(ax, place, part[measure], part[f"{measure}_low"], part[f"{measure}_high"], color=COLOURS[i],
                           label=dataset, linestyle="-")  # fmt: skip
        ax.set(title=title, xlabel="later epoch", xticks=[2, 3, 4, 5, 6.5], xticklabels=["2", "3", "4", "5", "longest"])
    axes[0].set(ylabel=f"{measure.capitalize()} correlation with epoch 1", ylim=(0, 1.02))
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center")
    return figure


def pair_order(order: pd.DataFrame) -> Figure:
    """How often the better of two at epoch 1 is still better at epoch 5, by their gap at epoch 1."""
    figure, (left, right) = new_figure(1, 2, width=10, height=4, sharey=True)
    at_five = order[order["epoch"] == 5]
    panels = ((left, "best_of_trials"), (right, "fixed_protocol"))
    for ax, unit in panels:
        part = at_five[at_five["unit"] == unit]
        for i, (dataset, rows) in enumerate(part.groupby("dataset")):
            rows = rows[rows["pairs"] >= 100]
            middle = 100 * (rows["gap_low"] + rows["gap_high"]) / 2
            error_bars(ax, middle, 100 * rows["still_better"], 100 * rows["ci_low"], 100 * rows["ci_high"],
                       color=COLOURS[i if unit == "best_of_trials" else 1], label=dataset, linestyle="-")  # fmt: skip
        reference_line(ax, 50, "a coin", MUTED)
        ax.set(title=UNIT_TITLES[unit], xlabel="gap at epoch 1, points (log scale)", xscale="log", ylim=(45, 101))
        ax.set_xticks([0.5, 1.5, 3.5, 7.5, 15, 30, 70], ["<1", "1–2", "2–5", "5–10", "10–20", "20–40", ">40"])
        ax.minorticks_off()
    left.set_ylabel("still better at epoch 5, % of pairs")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center")
    return figure


def fast_learners(ranks: pd.DataFrame) -> Figure:
    """Mean accuracy per FractalNet configuration at epoch 1 and later (columns of ``configuration_ranks``)."""
    figure, ax = new_figure(width=7, height=4.6)
    for colour, (blocks, rows) in zip(COLOURS, ranks.groupby("blocks"), strict=False):
        label = f"{blocks} block{'s' * (blocks > 1)}"
        rows = rows.sort_values("columns")
        ax.plot(100 * rows["mean_first"], 100 * rows["mean_later"], "o-", color=colour, linewidth=0.8, label=label)
        for line in rows.itertuples():
            ax.annotate(line.columns, (100 * line.mean_first, 100 * line.mean_later), xytext=(3, 3), fontsize=8,
                        textcoords="offset points", color=colour)  # fmt: skip
    ax.set(xlabel="mean accuracy after epoch 1, %", ylabel="mean accuracy after epoch 5, %",
           title="The larger the network, the later it shows (numbers: columns)")  # fmt: skip
    ax.legend(loc="lower left")
    return figure
