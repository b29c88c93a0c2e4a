"""Every figure of the three notebooks: a function that takes a table and returns a ``matplotlib`` Figure.

Tables are those of the other modules of this package; a column pair ``x_low, x_high`` is always a 95 % interval.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from nngpt_lab.analysis.lemur_overview import CYCLES
from nngpt_lab.analysis.style import COLOURS, MUTED, OTHER, OURS, PAPER, error_bars, new_figure, reference_line

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


# ---- paper A ---------------------------------------------------------------------------------------------------------


def score_distributions(functions: pd.DataFrame) -> Figure:
    """Distribution of the recorded scores by number of operations."""
    figure, ax = new_figure(height=3.8)
    for k, colour in zip((1, 2, 3), COLOURS, strict=False):
        scores = 100 * functions.loc[functions["n_operations"] == k, "score"].dropna()
        label = f"{k} operation{'s' * (k > 1)} (n = {len(scores):,}, mean {scores.mean():.1f})"
        sns.histplot(x=scores, ax=ax, binwidth=1, element="step", color=colour, alpha=0.25, label=label)
    reference_line(ax, 40, "paper A accepts from 40 %", vertical=True)
    ax.set(xlabel="one-epoch accuracy, %", ylabel="functions", title="Scores of the 6,000 functions")
    ax.legend(loc="upper left")
    return figure


def operation_effects(effects: pd.DataFrame) -> Figure:
    """Effect of each operation on the score: alone, and with the other operations held fixed."""
    figure, ax = new_figure(height=5.6)
    rows = np.arange(len(effects))
    error_bars(ax, rows - 0.15, 100 * effects["difference"], 100 * effects["difference_low"],
               100 * effects["difference_high"], horizontal=True, color=MUTED, label="with minus without")  # fmt: skip
    error_bars(ax, rows + 0.15, 100 * effects["effect"], 100 * effects["effect_low"], 100 * effects["effect_high"],
               horizontal=True, color=OURS, label="others held fixed (regression)")  # fmt: skip
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_yticks(rows, effects["operation"])
    ax.invert_yaxis()
    ax.set(xlabel="effect on one-epoch accuracy, points", title="What an operation does to the score")
    ax.legend(loc="upper left")
    return figure


def replicate_scores(groups: pd.DataFrame) -> Figure:
    """Scores of the codes that were scored most often (columns label, score): same code, different result."""
    figure, ax = new_figure(height=4)
    labels = list(dict.fromkeys(groups["label"]))
    row = groups["label"].map({label: i for i, label in enumerate(labels)}).to_numpy()
    spread = (np.arange(len(groups)) * 0.618) % 1 - 0.5  # the golden ratio fills a row evenly, and the same each time
    ax.scatter(100 * groups["score"], row + 0.4 * spread, s=14, alpha=0.6, color=OURS, linewidths=0, rasterized=True)
    ax.set_yticks(range(len(labels)), labels)
    ax.invert_yaxis()
    ax.set(xlabel="one-epoch accuracy, %", ylabel="", title="The same code, scored again and again")
    return figure


def pair_flips(flips: pd.DataFrame, within_sd: float) -> Figure:
    """Probability that a better/worse pair flips when both are run again, by the gap first seen."""
    figure, ax = new_figure(height=3.8)
    middle = 100 * (flips["gap_low"] + flips["gap_high"]) / 2
    error_bars(ax, middle, 100 * flips["observed"], 100 * flips["observed_low"], 100 * flips["observed_high"],
               color=OURS, label="observed among replicates", linestyle="-")  # fmt: skip
    ax.plot(middle, 100 * flips["model"], color=PAPER, linestyle="--", label="normal noise, all functions")
    reference_line(ax, 100 * within_sd, "noise SD", MUTED, vertical=True)
    ax.set(xlabel="gap first seen, points", ylabel="pairs that flip, %", ylim=(0, 55),
           title="How often the better of two is the worse of two next time")  # fmt: skip
    ax.legend(loc="upper right")
    return figure


def best_of_n(curve: pd.DataFrame, marks: tuple[int, ...] = (10, 100, 600)) -> Figure:
    """Best score found by random search after n candidates: exact expectation, and where one search falls."""
    figure, ax = new_figure(height=4)
    ax.fill_between(curve["n"], 100 * curve["draw_low"], 100 * curve["draw_high"], color=OURS, alpha=0.15, linewidth=0,
                    label="where one search falls (95 of 100)")  # fmt: skip
    ax.fill_between(curve["n"], 100 * curve["ci_low"], 100 * curve["ci_high"], color=OURS, alpha=0.4, linewidth=0,
                    label="95 % interval of the mean")  # fmt: skip
    ax.plot(curve["n"], 100 * curve["expected_best"], "o-", color=OURS, markersize=3, label="mean best score (exact)")
    for n, best in curve.loc[curve["n"].isin(marks), ["n", "expected_best"]].itertuples(index=False):
        ax.annotate(f"{n:.0f} candidates: {100 * best:.1f} %", (n, 100 * best), xytext=(6, -14), fontsize=8,
                    textcoords="offset points")  # fmt: skip
    reference_line(ax, 100 * curve["expected_best"].iloc[-1], "best of all 6,000")
    ax.set(xscale="log", xlabel="candidates evaluated (log scale)", ylabel="best one-epoch accuracy, %",
           title="What random search over the corpus finds")  # fmt: skip
    ax.legend(loc="lower right")
    return figure


def operation_use(use: pd.DataFrame) -> Figure:
    """Share of functions that use each operation: the LLM's, the corpus', the corpus' best tenth."""
    figure, ax = new_figure(height=5.6)
    rows = np.arange(len(use))
    groups = [("llm", "LLM", PAPER), ("best_tenth", "best tenth of the corpus", OURS), ("corpus", "corpus", MUTED)]
    for i, (name, label, colour) in enumerate(groups):
        error_bars(ax, rows + (i - 1) * 0.22, use[name], use[f"{name}_low"], use[f"{name}_high"], horizontal=True,
                   color=colour, label=label)  # fmt: skip
    ax.set_yticks(rows, use["operation"])
    ax.invert_yaxis()
    ax.set(xlabel="functions that use it, %", title="Which operations the LLM writes")
    ax.legend(loc="lower right")
    return figure


def five_epochs(pairs: pd.DataFrame) -> Figure:
    """One-epoch against five-epoch score of the augmentation functions (columns one_epoch, five_epochs)."""
    figure, ax = new_figure(width=6.4, height=4.4)
    ax.scatter(
        100 * pairs["one_epoch"], 100 * pairs["five_epochs"], s=7, alpha=0.35, color=OURS, linewidths=0, rasterized=True
    )
    ax.set(xlabel="accuracy after one epoch, %", ylabel="accuracy after five epochs, %", title="Augmentation functions")
    return figure


# ---- paper C ---------------------------------------------------------------------------------------------------------


def pair_balance(balance: pd.DataFrame) -> Figure:
    """Per pair of data sets, how often the usual winner wins: what knowing the two names is worth."""
    figure, ax = new_figure(height=5.6)
    rows = np.arange(len(balance))
    ax.barh(rows, balance["share"], color=OURS, alpha=0.6)
    error_bars(ax, rows, balance["share"], balance["share_low"], balance["share_high"], horizontal=True, color="black",
               fmt="none")  # fmt: skip
    reference_line(ax, 50, "the paper's chance level", vertical=True)
    ax.set_yticks(rows, [f"{pair}  (n = {n:,})" for pair, n in balance[["pair", "n"]].itertuples(index=False)])
    ax.invert_yaxis()
    ax.set(xlabel="questions won by the usual winner, %", xlim=(0, 102), title="The answer is mostly in the two names")
    return figure


def published_results(results: pd.DataFrame, names: tuple[float, float, float]) -> Figure:
    """Paper C's peaks with Wilson intervals at their n, against what names alone reach (value, low, high; per cent)."""
    figure, ax = new_figure(height=3.4)
    labels = [
        f"{p}, {m}\n{c} of {n}" for p, m, c, n in results[["prompt", "model", "correct", "n"]].itertuples(index=False)
    ]
    ax.axhspan(names[1], names[2], color=OTHER, alpha=0.25, linewidth=0)
    reference_line(ax, names[0], f"names alone, held-out architectures: {names[0]:.1f} %", OTHER)
    reference_line(ax, 50, "the paper's chance level", MUTED)
    error_bars(
        ax, range(len(results)), results["accuracy"], results["ci_low"], results["ci_high"], color=PAPER, markersize=6
    )
    ax.set_xticks(range(len(results)), labels)
    ax.set(ylabel="accuracy, %", ylim=(40, 103), xlim=(-0.5, len(results) + 0.4),
           title="Paper C's peaks, with the interval that their n allows")  # fmt: skip
    return figure


SPLIT_TITLES = {"published": "as published\n(no hold-out)", "architectures": "held-out\narchitectures",
                "families": "held-out\nfamilies", "dataset": "held-out\ndata set"}  # fmt: skip


def baselines(table: pd.DataFrame) -> Figure:
    """Accuracy of every baseline under every split: on all questions (top) and where names say nothing (bottom)."""
    whole = table[table["part"] == "all parts"]
    order = list(dict.fromkeys(whole["baseline"]))
    figure, axes = new_figure(2, 4, width=11, height=6.4, sharey=True, sharex="row")
    for row, question_set in zip(axes, ("all", "balanced"), strict=True):
        for ax, (split, title) in zip(row, SPLIT_TITLES.items(), strict=True):
            part = (
                whole[(whole["split"] == split) & (whole["question_set"] == question_set)]
                .set_index("baseline")
                .loc[order]
            )
            colours = [OURS if name.startswith("code") else MUTED for name in order]
            for y, (_, line) in enumerate(part.iterrows()):
                error_bars(
                    ax, [y], [line["accuracy"]], [line["ci_low"]], [line["ci_high"]], horizontal=True, color=colours[y]
                )
            ax.axvline(50, color="black", linewidth=0.8)
            ax.set_title(title if question_set == "all" else "", fontsize=10)
            ax.set_yticks(range(len(order)), [name.replace("_", " ") for name in order])
        row[0].set_ylabel("all questions" if question_set == "all" else "balanced questions\n(names carry nothing)")
        row[0].set_xlim((40, 92) if question_set == "all" else (40, 75))
    axes[0, 0].invert_yaxis()
    figure.supxlabel("accuracy, %  (blue: reads the code)", fontsize=10)
    return figure


def label_reliability(table: pd.DataFrame) -> Figure:
    """How often two halves of the trials give a question the same answer, per pair of data sets."""
    pairs = table[table["pair"] != "all"].sort_values("agreement", ascending=False)
    whole = table.loc[table["pair"] == "all", "agreement"].iloc[0]
    figure, ax = new_figure(height=5.6)
    rows = np.arange(len(pairs))
    error_bars(
        ax, rows, pairs["agreement"], pairs["agreement_low"], pairs["agreement_high"], horizontal=True, color=OURS
    )
    reference_line(ax, whole, f"all questions: {whole:.1f} %", PAPER, vertical=True)
    reference_line(ax, 50, "a coin", MUTED, vertical=True)
    ax.set_yticks(rows, pairs["pair"])
    ax.invert_yaxis()
    ax.set(xlabel="questions whose two labels agree, %", xlim=(40, 101), title="How reproducible the right answer is")
    return figure
