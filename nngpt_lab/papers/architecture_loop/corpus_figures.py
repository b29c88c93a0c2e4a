"""Figures of what LEMUR's published records say: each takes a table and returns a ``matplotlib`` Figure."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from nngpt_lab.ground.seeds import generator
from nngpt_lab.papers.architecture_loop.lemur_overview import CYCLES
from nngpt_lab.statistics.plots import legend_right, line, name_rows, panels, points, reference_line
from nngpt_lab.statistics.style import COLOURS, MUTED, OURS, PAPER, new_figure


def families_and_sizes(architectures: pd.DataFrame) -> Figure:
    """LEMUR's families: how many architectures, and how long their code is (lines that hold code)."""
    counts = architectures["family"].value_counts()
    figure, (left, right) = panels(["Architectures", "Length of the code"], width=9, height=3.8)
    left.bar_label(left.barh(range(len(counts)), counts, color=OURS), fmt="{:,.0f}", padding=3, fontsize=8)
    left.set(xlabel="count", xlim=(0, counts.max() * 1.15))
    lengths = [architectures.loc[architectures["family"] == family, "lines"] for family in counts.index]
    right.boxplot(lengths, positions=range(len(counts)), orientation="horizontal", showfliers=False, widths=0.6,
                  medianprops={"color": PAPER})  # fmt: skip
    right.set(xlabel="lines that hold code (log scale)", xscale="log")
    right.set_xticks([30, 60, 100, 200, 400], ["30", "60", "100", "200", "400"])
    right.minorticks_off()
    name_rows(left, counts.index)
    return figure


def weights(counts: pd.DataFrame, most: int) -> Figure:
    """How many weights LEMUR's networks have, by family (columns family, weights), beside a limit."""
    known, families = counts.dropna(subset="weights"), list(counts["family"].value_counts().index)
    figure, ax = new_figure(width=9, height=3.8)
    jitter = generator("figure of weights").uniform(-0.3, 0.3, len(known))  # seaborn's own comes from global numbers
    ax.scatter(known["weights"].astype(float), known["family"].map(families.index) + jitter, 2, OURS, alpha=0.4, lw=0)
    ax.axvline(most, color=PAPER, linestyle="--")
    ax.text(most, -0.6, f"paper B's limit, {most:,} ", color=PAPER, ha="right", va="bottom", fontsize=8)
    ax.set(xscale="log", xlabel="weights (log scale)")
    name_rows(ax, families)
    return figure


def duplicates(table: pd.DataFrame) -> Figure:
    """Share of redundant files per family at three levels of likeness (columns of ``duplicate_structure``)."""
    figure, ax = new_figure(height=3.6)
    sns.barplot(table, x="family", y="redundant", hue="level", ax=ax, palette=COLOURS[:3], errorbar=None)
    title = "How many sources are copies of another in their family"
    ax.set(ylabel="files that repeat another, %", xlabel="", title=title)
    ax.legend(title="")
    return figure


def one_epoch_by_family(best: pd.DataFrame) -> Figure:
    """One-epoch CIFAR-10 accuracy per architecture (columns family, accuracy) beside paper B's cycle means."""
    counts = best["family"].value_counts()
    figure, ax = new_figure(width=9, height=4.4)
    percent = best.assign(accuracy=100 * best["accuracy"])
    sns.violinplot(percent, x="family", y="accuracy", order=counts.index, ax=ax, color=OURS, alpha=0.35, linewidth=0.8,
                   cut=0, inner="quart", density_norm="width")  # fmt: skip
    for cycle, mean in CYCLES[["cycle", "mean"]].itertuples(index=False):
        reference_line(ax, mean, f"paper B, cycle {cycle}", place="right below" if cycle == 22 else "right")
    ax.set_xticks(range(len(counts)), [f"{family}\nn = {n}" for family, n in counts.items()])
    ax.set(ylabel="best one-epoch accuracy, %", xlabel="", ylim=(0, 100), title="CIFAR-10 after one epoch, by family")
    return figure


def share_over_thresholds(table: pd.DataFrame) -> Figure:
    """Share of each family at or above 40, 35 and 30 % after one epoch, beside paper B's share at 40 %."""
    figure, ax = new_figure(width=9, height=4)
    positions = np.arange(len(table))
    for threshold, shift, colour in ((40, -0.18, COLOURS[0]), (35, 0, COLOURS[1]), (30, 0.18, COLOURS[2])):
        points(ax, positions + shift, table, f"share_{threshold}", color=colour, label=f"at least {threshold} %")
    for row in CYCLES.itertuples():
        counts = f"{row.over_40} of {row.trained}"
        text = f"paper B, cycle {row.cycle}:\n{counts} over 40 %" if row.cycle < 18 else f"cycle {row.cycle}: {counts}"
        reference_line(ax, 100 * row.over_40 / row.trained, text, place="right below" if row.cycle == 22 else "right")
    ax.set_xticks(positions, [f"{row.family}\nn = {row.n}" for row in table.itertuples()])
    title = "Share above the thresholds after one epoch, CIFAR-10"
    ax.set(ylabel="share of architectures, %", ylim=(-2, 102), title=title)
    ax.legend(loc="lower right")
    return figure


def paper_b_cycles(cycles: pd.DataFrame) -> Figure:
    """The recovered cycles of paper B with Wilson intervals at their inferred counts (columns of ``wilson_cycles``)."""
    titles = ["Rates", "First-epoch accuracy (no interval published)"]
    figure, (left, right) = panels(titles, width=9, height=3.6)
    points(left, cycles["cycle"], cycles, "valid", color=OURS, linestyle=":", label="valid")
    points(left, cycles["cycle"], cycles, "over_40", color=PAPER, linestyle=":",
           label="at least 40 % (of those trained)")  # fmt: skip
    line(right, cycles, "cycle", "mean", color=OURS, marker="o", linestyle=":", label="mean")
    line(right, cycles, "cycle", "best", color=PAPER, marker="o", linestyle=":", label="best")
    for ax in (left, right):
        ax.set(xlabel="cycle", ylabel="%", xlim=(0, 23), ylim=(0, 100))
        ax.legend(loc="lower right")
    return figure


UNIT_TITLES = {
    "best_of_trials": "best of an architecture's trials",
    "one_run": "one run per architecture",
    "hyperparameters": "one run, hyperparameters\ntaken away",
    "fixed_protocol": "one run, one protocol",
}


def proxy_audit(audit: pd.DataFrame) -> Figure:
    """Spearman's correlation of epoch 1 with later epochs, by data set; one panel per kind of unit."""
    colours = dict(zip(sorted(audit["dataset"].unique()), COLOURS, strict=False))
    figure, axes = panels(UNIT_TITLES.values(), width=13, height=4)
    for ax, unit in zip(axes, UNIT_TITLES, strict=True):
        for i, (dataset, part) in enumerate(audit[audit["unit"] == unit].groupby("dataset")):
            place = part["epoch"].clip(upper=6.5) + (i - 3) * 0.06  # the longest horizon stands at the right edge
            points(ax, place, part, "spearman", color=colours[dataset], linestyle="-", label=dataset)
        ax.set(xlabel="later epoch", xticks=[2, 3, 4, 5, 6.5], xticklabels=["2", "3", "4", "5", "longest"])
    axes[0].set(ylabel="Spearman correlation with epoch 1", ylim=(0, 1.02))
    legend_right(figure)
    return figure


def pair_order(order: pd.DataFrame) -> Figure:
    """How often the better of two at epoch 1 is still better at epoch 5, by their gap at epoch 1."""
    colours = dict(zip(sorted(order["dataset"].unique()), COLOURS, strict=False))
    units = ("best_of_trials", "fixed_protocol")
    figure, axes = panels([UNIT_TITLES[unit] for unit in units], width=10, height=4)
    for ax, unit in zip(axes, units, strict=True):
        shown = order[(order["epoch"] == 5) & (order["unit"] == unit) & (order["pairs"] >= 100)]
        for dataset, part in shown.groupby("dataset"):
            gap = 100 * (part["gap_low"] + part["gap_high"]) / 2
            points(ax, gap, part, "still_better", ends=("ci_low", "ci_high"), scale=100, color=colours[dataset],
                   linestyle="-", label=dataset)  # fmt: skip
        reference_line(ax, 50, "a coin", MUTED)
        ax.set(xlabel="gap at epoch 1, points (log scale)", xscale="log", ylim=(30, 101))
        ax.set_xticks([0.5, 1.5, 3.5, 7.5, 15, 30, 70], ["<1", "1–2", "2–5", "5–10", "10–20", "20–40", ">40"])
        ax.minorticks_off()
    axes[0].set_ylabel("still better at epoch 5, % of pairs")
    legend_right(figure)
    return figure


def fast_learners(ranks: pd.DataFrame) -> Figure:
    """Mean accuracy per FractalNet configuration at epoch 1 and later (columns of ``configuration_ranks``)."""
    figure, ax = new_figure(width=7, height=4.6)
    for colour, (blocks, rows) in zip(COLOURS, ranks.groupby("blocks"), strict=False):
        rows = rows.sort_values("columns")
        first, later = 100 * rows["mean_first"], 100 * rows["mean_later"]
        ax.plot(first, later, "o-", color=colour, linewidth=0.8, label=f"{blocks} block{'s' * (blocks > 1)}")
        for place, columns in zip(zip(first, later, strict=True), rows["columns"], strict=True):
            ax.annotate(columns, place, xytext=(3, 3), fontsize=8, textcoords="offset points", color=colour)
    ax.set(xlabel="mean accuracy after epoch 1, %", ylabel="mean accuracy after epoch 5, %",
           title="The larger the network, the later it shows (numbers: columns)")  # fmt: skip
    ax.legend(loc="lower left")
    return figure
