"""Figures of paper C's questions and baselines: each takes a table and returns a ``matplotlib`` Figure."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from nngpt_lab.statistics.style import MUTED, OTHER, OURS, PAPER, error_bars, new_figure, reference_line

# ---- paper B ---------------------------------------------------------------------------------------------------------


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
