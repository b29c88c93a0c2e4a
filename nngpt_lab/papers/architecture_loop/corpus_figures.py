"""Figures of what LEMUR's published records say: each takes a table and returns a ``matplotlib`` Figure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from nngpt_lab.ground.seeds import generator
from nngpt_lab.papers.architecture_loop.lemur_overview import CYCLES
from nngpt_lab.statistics import plots
from nngpt_lab.statistics.style import COLOURS, MUTED, OURS, PAPER, new_figure


def families_and_sizes(architectures: pd.DataFrame) -> Figure:
    """LEMUR's families: how many architectures, and how long their code is (lines that hold code)."""
    counts = architectures["family"].value_counts()
    figure, (left, right) = plots.panels(["Architectures", "Length of the code"], width=9, height=3.8)
    left.bar_label(left.barh(range(len(counts)), counts, color=OURS), fmt="{:,.0f}", padding=3, fontsize=8)
    left.set(xlabel="count", xlim=(0, counts.max() * 1.15))
    lengths = [architectures.loc[architectures["family"] == family, "lines"] for family in counts.index]
    right.boxplot(lengths, positions=range(len(counts)), orientation="horizontal", showfliers=False, widths=0.6,
                  medianprops={"color": PAPER})  # fmt: skip
    right.set(xlabel="lines that hold code (log scale)", xscale="log")
    right.set_xticks([30, 60, 100, 200, 400], ["30", "60", "100", "200", "400"])
    right.minorticks_off()
    plots.name_rows(left, counts.index)
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
    plots.name_rows(ax, families)
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
        plots.reference_line(ax, mean, f"paper B, cycle {cycle}", place="right below" if cycle == 22 else "right")
    ax.set_xticks(range(len(counts)), [f"{family}\nn = {n}" for family, n in counts.items()])
    ax.set(ylabel="best one-epoch accuracy, %", xlabel="", ylim=(0, 100), title="CIFAR-10 after one epoch, by family")
    return figure


def share_over_thresholds(table: pd.DataFrame) -> Figure:
    """Share of each family at or above 40, 35 and 30 % after one epoch, beside paper B's share at 40 %."""
    figure, ax = new_figure(width=9, height=4)
    positions = np.arange(len(table))
    for threshold, shift, colour in ((40, -0.18, COLOURS[0]), (35, 0, COLOURS[1]), (30, 0.18, COLOURS[2])):
        plots.points(ax, positions + shift, table, f"share_{threshold}", color=colour, label=f"at least {threshold} %")
    for row in CYCLES.itertuples():
        counts = f"{row.over_40} of {row.trained}"
        text = f"paper B, cycle {row.cycle}:\n{counts} over 40 %" if row.cycle < 18 else f"cycle {row.cycle}: {counts}"
        plots.reference_line(
            ax, 100 * row.over_40 / row.trained, text, place="right below" if row.cycle == 22 else "right"
        )
    ax.set_xticks(positions, [f"{row.family}\nn = {row.n}" for row in table.itertuples()])
    title = "Share above the thresholds after one epoch, CIFAR-10"
    ax.set(ylabel="share of architectures, %", ylim=(-2, 102), title=title)
    ax.legend(loc="lower right")
    return figure


def paper_b_cycles(cycles: pd.DataFrame) -> Figure:
    """The recovered cycles of paper B with Wilson intervals at their inferred counts (columns of ``wilson_cycles``)."""
    titles = ["Rates", "First-epoch accuracy (no interval published)"]
    figure, (left, right) = plots.panels(titles, width=9, height=3.6)
    plots.points(left, cycles["cycle"], cycles, "valid", color=OURS, linestyle=":", label="valid")
    plots.points(left, cycles["cycle"], cycles, "over_40", color=PAPER, linestyle=":",
                 label="at least 40 % (of those trained)")  # fmt: skip
    plots.line(right, cycles, "cycle", "mean", color=OURS, marker="o", linestyle=":", label="mean")
    plots.line(right, cycles, "cycle", "best", color=PAPER, marker="o", linestyle=":", label="best")
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


MARKERS, DASHES = "osD^vPX", ("-", "--", "-.", ":", (0, (6, 2)), (0, (3, 1, 1, 1)), (0, (1, 1)))


def _dataset_looks(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """A marker, dashes and a colour for each data set: in print the first two tell them apart."""
    styles = zip(sorted(table["dataset"].unique()), COLOURS, MARKERS, DASHES, strict=False)
    return {name: {"color": colour, "marker": marker, "linestyle": dash, "label": name}
            for name, colour, marker, dash in styles}  # fmt: skip


def proxy_audit(audit: pd.DataFrame) -> Figure:
    """Spearman's correlation of epoch 1 with epochs 2 and 5, a row a data set, a panel a kind of unit; n at epoch 5."""
    names = sorted(audit["dataset"].unique())
    figure, axes = plots.panels(UNIT_TITLES.values(), width=11, height=4)
    for ax, unit in zip(axes, UNIT_TITLES, strict=True):
        for epoch, shift, marker, face in ((2, -0.17, "s", "white"), (5, 0.17, "o", OURS)):
            part = audit[(audit["unit"] == unit) & (audit["epoch"] == epoch)]
            plots.points(ax, plots.rows_of(part["dataset"], names) + shift, part, "spearman", horizontal=True,
                         color=OURS, label=f"epoch {epoch}", marker=marker, markerfacecolor=face)  # fmt: skip
        for row, place in zip(part.itertuples(), plots.rows_of(part["dataset"], names), strict=True):
            ax.text(1.06, place, f"{row.n:,} / {row.clusters:,}", va="center", fontsize=8)
        ax.axvline(0, color="black", linewidth=0.8)
        ax.set(xlim=(-0.1, 1.55), xticks=[0, 0.5, 1], xlabel="Spearman with epoch 1")
    axes[0].text(1.06, -0.75, "networks /\nclusters", va="center", fontsize=8)
    plots.name_rows(axes[0], names, above=1.2)
    plots.legend_below(figure, axes[0])
    return figure


def when_to_stop(table: pd.DataFrame) -> Figure:
    """How well the order after few epochs is that after 50 (columns of ``proxy_audit.when_to_stop``)."""
    figure, ax = new_figure(width=8, height=4)
    looks, epochs = _dataset_looks(table), sorted(table["epoch"].unique())
    for (name, part), shift in zip(table.groupby("dataset"), plots.side_by_side(len(looks), 0.09), strict=True):
        look: dict[str, Any] = looks[name] | {
            "label": f"{name} ({part['runs'].iloc[0]:,} / {part['clusters'].iloc[0]})"
        }
        plots.points(ax, part["epoch"].map(epochs.index) + shift, part, "spearman", **look)
    ax.set_xticks(range(len(epochs)), [f"{epoch}\n{2 * epoch} %" for epoch in epochs])
    ax.set(xlabel="epoch, and its share of the cost of 50", ylabel="Spearman with epoch 50", ylim=(0.35, 1.01),
           title="When the order is settled")  # fmt: skip
    figure.legend(loc="outside right center", frameon=False, title="runs / clusters")
    return figure


def variance_shares(table: pd.DataFrame) -> Figure:
    """What hyperparameters and architectures make of the variance (columns of ``what_decides.variance_shares``)."""
    figure, ax = new_figure(width=8, height=3.6)
    looks = {
        "hyperparameters": {"label": "hyperparameters", "facecolor": "#bdbdbd"},
        "architecture": {"label": "architecture", "facecolor": "#4d4d4d"},
        "rest": {"label": "noise, and what needs both", "facecolor": "white", "edgecolor": "#8a8a8a", "hatch": "..."},
    }
    plots.stack(ax, table, looks)
    plots.name_rows(ax, [f"{row.dataset} ({row.runs:,} runs)" for row in table.itertuples()])
    ax.set(xlabel="variance of accuracy at epoch 5, %", xlim=(0, 100))
    plots.legend_below(figure)
    return figure


def surrogate(table: pd.DataFrame) -> Figure:
    """How well code ranks networks within a family and of an unknown one (columns of ``what_decides.surrogate``)."""
    figure, ax = new_figure(width=7.5, height=3.6)
    rows = np.arange(len(table))
    plots.points(ax, rows - 0.15, table, "within", horizontal=True, color=OURS, label="learnt within the family")
    plots.points(ax, rows + 0.15, table, "across", horizontal=True, color=PAPER, marker="s", markerfacecolor="white",
                 label="learnt from all other families")  # fmt: skip
    ax.axvline(0, color="black", linewidth=0.8)
    plots.name_rows(ax, [f"{row.family} ({row.n:,} / {row.clusters})" for row in table.itertuples()])
    ax.set(xlabel="Spearman of predicted and recorded accuracy (networks / clusters)", xlim=(-0.4, 1))
    plots.legend_below(figure)
    return figure


def pair_order(order: pd.DataFrame) -> Figure:
    """How often the better of two at epoch 1 is still better at epoch 5, by their gap at epoch 1."""
    looks, units = _dataset_looks(order), ("best_of_trials", "fixed_protocol")
    figure, axes = plots.panels([UNIT_TITLES[unit] for unit in units], width=10, height=4.4)
    for ax, unit in zip(axes, units, strict=True):
        shown = order[(order["epoch"] == 5) & (order["unit"] == unit) & (order["pairs"] >= 100)]
        bins = {low: place for place, low in enumerate(sorted(order["gap_low"].unique()))}
        groups = list(shown.groupby("dataset"))
        for (dataset, part), shift in zip(groups, plots.side_by_side(len(groups), 0.09), strict=True):
            plots.points(ax, part["gap_low"].map(bins) + shift, part, "still_better", ends=("ci_low", "ci_high"),
                         scale=100, **looks[dataset])  # fmt: skip
        ax.axhline(50, color=MUTED, linestyle="--", linewidth=1, zorder=1)
        ax.set(xlabel="gap at epoch 1, points", ylim=(0, 101))
        ax.set_xticks(range(len(bins)), ["<1", "1–2", "2–5", "5–10", "10–20", "20–40", ">40"])
    plots.reference_line(ax, 50, "a coin", MUTED, place="right below")
    axes[0].set_ylabel("still better at epoch 5, % of pairs")
    plots.legend_below(figure, axes[0], ncols=4)
    return figure


def fast_learners(ranks: pd.DataFrame) -> Figure:
    """Mean accuracy per FractalNet configuration at epoch 1 and later (columns of ``configuration_ranks``).

    Each point is a digit, its number of columns; a line joins those of equally many blocks.
    """
    figure, ax = new_figure(width=9, height=5.6)
    for colour, dash, (blocks, rows) in zip(COLOURS, DASHES, ranks.groupby("blocks"), strict=False):
        rows = rows.sort_values("columns")
        first, later = 100 * rows["mean_first"], 100 * rows["mean_later"]
        ax.plot(first, later, linestyle=dash, color=colour, linewidth=1, zorder=1)
        ax.scatter(first, later, 60, "white", linewidths=0, zorder=2)
        for x, y, columns in zip(first, later, rows["columns"], strict=True):
            ax.scatter(x, y, 34, "black", marker=f"${columns}$", linewidths=0.2, zorder=3)
        left = rows["mean_first"].idxmin()
        ax.annotate(f"{blocks} block{'s' * (blocks > 1)}", (first[left], later[left]), (-9, 0), fontsize=9,
                    textcoords="offset points", ha="right", va="center")  # fmt: skip
    ax.set(xlabel="mean accuracy after epoch 1, %", ylabel="mean accuracy after epoch 5, %", xlim=(0, 72),
           title="The larger the network, the later it shows (digits: columns)")  # fmt: skip
    return figure
