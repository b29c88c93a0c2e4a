"""Is a loop better than asking as often? What independent samples of the untuned model give at the same budget.

A loop spends its samples on cycles that build on one another, or on more seeds of fewer cycles. The line that it has to
beat is that of as many samples of the model as it was, each drawn for itself (arXiv 2602.16805, 2609.19799). A sample
that was not trained costs as much as any other, and finds nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from nngpt_lab.statistics import intervals
from nngpt_lab.statistics.plots import heat_map, no_data
from nngpt_lab.statistics.style import new_figure
from nngpt_lab.study.samples import LOOP, check, over


@dataclass(frozen=True)
class Independent:
    """Independent samples of the untuned model: how many, and what they give, by name: valid (share of them), mean and
    median (accuracy of those trained), a share per threshold (of those trained), and best: expected of as many as a run
    of the loop draws in a step. Nan where nothing was trained."""

    n: int
    values: Mapping[str, float]

    @property
    def label(self) -> str:
        return f"independent samples (n = {self.n:,})"


def independent_samples(samples: pd.DataFrame, step: str, arm: str | None) -> pd.DataFrame:
    """The samples of ``arm``, whose model and prompts never change, if it was run; else the first step of the loop."""
    check(samples, step)
    untuned = samples[samples["arm"] == arm]
    return untuned if len(untuned) else samples[(samples["arm"] == LOOP) & (samples[step] == 1)]


def independent(
    samples: pd.DataFrame, step: str, arm: str | None = None, thresholds: Mapping[str, float] | None = None
) -> Independent:
    """What as many independent samples give in a step; ``samples`` with a column ``valid``, too, ``arm`` as of
    :func:`independent_samples`, ``thresholds``: accuracies by the name of the share that reaches them."""
    drawn = independent_samples(samples, step, arm)
    per_step = samples[(samples["arm"] == LOOP) & (samples[step] == 1)].groupby("seed").size()
    values = {"valid": drawn["valid"].mean(), "mean": drawn["score"].mean(), "median": drawn["score"].median()}
    for name, threshold in (thresholds or {}).items():
        reached, trained = over(drawn["score"], threshold)
        values[name] = reached / trained if trained else np.nan
    scores = np.sort(drawn["score"].fillna(0).to_numpy(float))
    count = min(int(per_step.max()), len(scores)) if len(per_step) and drawn["score"].notna().any() else 0
    best = intervals.best_of_n_weights(len(scores), count) @ scores if count else np.nan
    return Independent(len(drawn), values | {"best": float(best)})


def surface(samples: pd.DataFrame, step: str, arm: str | None = None) -> pd.DataFrame:
    """The loop's best accuracy by how many seeds and steps it is given, beside as many independent samples.

    The best of ``seeds`` of the runs, in their first steps, is the exact mean over all choices of so many runs; the
    best of independent samples that over all choices of so many, without replacement. One search falls far from it.

    Returns:
        seeds, ``step``, evaluated (samples, failed ones included), best, independent (nan for more samples than were
        drawn independently). No rows where the loop was not run.
    """
    loop, pool = samples[samples["arm"] == LOOP], independent_samples(samples, step, arm)
    scores, rows = np.sort(pool["score"].fillna(0).to_numpy(float)), []
    counted = loop.assign(score=loop["score"].fillna(0)).groupby(["seed", step])["score"].agg(["max", "size"])
    best = counted["max"].unstack(step).cummax(axis=1).dropna(axis=1)
    spent = counted["size"].unstack(step).cumsum(axis=1).mean()
    for seeds in range(1, len(best) + 1):
        weights = intervals.best_of_n_weights(len(best), seeds)
        for number in best:
            evaluated = round(seeds * spent[number])
            alone = np.nan
            if evaluated <= len(scores):
                alone = intervals.best_of_n_weights(len(scores), evaluated) @ scores
            rows.append((seeds, number, evaluated, weights @ np.sort(best[number].to_numpy()), alone))
    return pd.DataFrame(rows, columns=["seeds", step, "evaluated", "best", "independent"])


def surface_figure(table: pd.DataFrame, step: str) -> Figure:
    """:func:`surface` as a heat map, per cent; framed where as many independent samples find nothing as good."""
    seeds = table["seeds"].nunique()
    figure, ax = new_figure(width=10, height=1.8 + 0.45 * max(seeds, 1))
    if not len(table):
        no_data(ax, "the loop was not run")
        return figure
    wide = 100 * table.pivot(index="seeds", columns=step, values="best")
    alone = 100 * table.pivot(index="seeds", columns=step, values="independent")
    framed = list(zip(*np.nonzero((wide > alone).to_numpy()), strict=True))
    low, high = float(wide.min(axis=None)), float(wide.max(axis=None))
    heat_map(ax, wide, ".0f", low, 2 * high - low, framed)  # light enough for frames to be seen in print
    unknown = "" if alone.notna().all(axis=None) else "; no frame also where too few were drawn to compare"
    ax.set(xlabel=f"{step}s", ylabel="seeds")
    ax.set_title(f"Best accuracy, % (framed: better than as many independent samples{unknown})", fontsize=10)
    return figure
