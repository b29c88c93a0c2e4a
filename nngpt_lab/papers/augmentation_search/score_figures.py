"""Figures of the recorded scores of paper A's functions: each takes a table and returns a ``matplotlib`` Figure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from nngpt_lab.statistics.plots import line, name_rows, points, reference_line, rows_of
from nngpt_lab.statistics.style import COLOURS, MUTED, OURS, PAPER, new_figure


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
    common: dict[str, Any] = {"scale": 100, "horizontal": True}
    points(ax, rows - 0.15, effects, "difference", color=MUTED, label="with minus without", **common)
    points(ax, rows + 0.15, effects, "effect", color=OURS, label="others held fixed (regression)", **common)
    ax.axvline(0, color="black", linewidth=0.8)
    name_rows(ax, effects["operation"])
    ax.set(xlabel="effect on one-epoch accuracy, points", title="What an operation does to the score")
    ax.legend(loc="upper left")
    return figure


def replicate_scores(groups: pd.DataFrame) -> Figure:
    """Scores of the codes that were scored most often (columns label, score): same code, different result."""
    figure, ax = new_figure(height=4)
    labels = list(dict.fromkeys(groups["label"]))
    spread = (np.arange(len(groups)) * 0.618) % 1 - 0.5  # the golden ratio fills a row evenly, and the same each time
    height = rows_of(groups["label"], labels) + 0.4 * spread
    ax.scatter(100 * groups["score"], height, s=14, alpha=0.6, color=OURS, linewidths=0, rasterized=True)
    name_rows(ax, labels)
    ax.set(xlabel="one-epoch accuracy, %", title="The same code, scored again and again")
    return figure


def pair_flips(flips: pd.DataFrame, within_sd: float) -> Figure:
    """Probability that a better/worse pair flips when both are run again, by the gap first seen."""
    figure, ax = new_figure(height=3.8)
    gap = 100 * (flips["gap_low"] + flips["gap_high"]) / 2
    ax.plot(gap, 100 * flips["model"], color="black", linewidth=1, label="normal noise, the same codes")
    ax.plot(gap, 100 * flips["model_corpus"], color=PAPER, linestyle="--", label="normal noise, the whole corpus")
    points(ax, gap, flips, "observed", scale=100, color=OURS, label="observed, codes that were scored again")
    ax.axvline(100 * within_sd, color=MUTED, linestyle=":", linewidth=1, zorder=1, label="noise SD")
    ax.set(xlabel="gap first seen, points", ylabel="pairs that flip, %", ylim=(0, 55),
           title="How often the better of two is the worse of two next time")  # fmt: skip
    ax.legend(loc="upper right")
    return figure


def best_of_n(curve: pd.DataFrame, marks: tuple[int, ...] = (10, 100, 600)) -> Figure:
    """Best score found by random search after n candidates: exact expectation, and where one search falls."""
    figure, ax = new_figure(height=4)
    for low, high, alpha, label in (
        ("draw_low", "draw_high", 0.15, "where one search falls (95 of 100)"),
        ("ci_low", "ci_high", 0.4, "95 % interval of the mean"),
    ):
        ax.fill_between(curve["n"], 100 * curve[low], 100 * curve[high], color=OURS, alpha=alpha, linewidth=0,
                        label=label)  # fmt: skip
    line(ax, curve, "n", "expected_best", scale=100, color=OURS, marker="o", markersize=3,
         label="mean best score (exact)")  # fmt: skip
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
    points(ax, rows - 0.22, use, "llm", horizontal=True, color=PAPER, label="LLM")
    points(ax, rows, use, "best_tenth", horizontal=True, color=OURS, label="best tenth of the corpus")
    points(ax, rows + 0.22, use, "corpus", horizontal=True, color=MUTED, label="corpus")
    name_rows(ax, use["operation"])
    ax.set(xlabel="functions that use it, %", title="Which operations the LLM writes")
    ax.legend(loc="lower right")
    return figure


def five_epochs(pairs: pd.DataFrame) -> Figure:
    """One-epoch against five-epoch score of the augmentation functions (columns one_epoch, five_epochs)."""
    figure, ax = new_figure(width=6.4, height=4.4)
    one, five = 100 * pairs["one_epoch"], 100 * pairs["five_epochs"]
    ax.scatter(one, five, s=7, alpha=0.35, color=OURS, linewidths=0, rasterized=True)
    ax.set(xlabel="accuracy after one epoch, %", ylabel="accuracy after five epochs, %", title="Augmentation functions")
    return figure
