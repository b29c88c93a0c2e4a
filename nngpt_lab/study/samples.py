"""The samples of a loop's runs, counted arm by arm and step by step.

A table of samples has one row per sample, with columns arm, seed, position, status, score (nan if it was not trained),
tokens, the seconds of each stage, and the number of its step, from 1: a *cycle* in paper B, an *LLM epoch*
in paper A. ``step`` is the name of that column. Accuracies and shares are fractions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from nngpt_lab.ground.errors import UsageError
from nngpt_lab.statistics import intervals
from nngpt_lab.statistics.intervals import Estimate

LOOP = "loop"
STAGES = ("sampling", "evaluation", "selection", "tuning")  # of a step, as its seconds are counted
SEEDS = 3  # from so many on, a run is the unit that intervals rest on
FEWEST = 5  # samples: intervals of fewer promise too much


def arms(table: pd.DataFrame) -> list[str]:
    """The arms of a table in order of appearance, the loop first."""
    return sorted(dict.fromkeys(table["arm"]), key=lambda arm: arm != LOOP)


def controls(table: pd.DataFrame) -> list[str]:
    """The arms that the loop is compared with; none where the loop was not run."""
    every = arms(table)
    return every[1:] if every[:1] == [LOOP] else []


def check(samples: pd.DataFrame, step: str) -> None:
    """A UsageError if there are no samples, or one of them is there twice."""
    if not len(samples):
        raise UsageError("there are no candidates", "run at least one arm of the loop")
    if samples.duplicated(["arm", "seed", step, "position"]).any():
        raise UsageError("a sample is there twice", "concatenate each run of the loop once")


def parts(samples: pd.DataFrame, step: str, keys: Sequence[str]) -> Iterator[tuple[tuple, pd.DataFrame]]:
    """The samples of each arm and key, arms in order of appearance, keys ascending."""
    check(samples, step)
    for arm in arms(samples):
        for key, part in samples[samples["arm"] == arm].groupby(list(keys)):
            yield (arm, *key), part


def over(scores: pd.Series, threshold: float) -> tuple[int, int]:
    """How many of those trained reach an accuracy, and how many were trained."""
    return int((scores >= threshold).sum()), int(scores.count())


def step_table(
    samples: pd.DataFrame, step: str, counted: Callable[[pd.DataFrame], Mapping[str, float]], **constant: str
) -> pd.DataFrame:
    """One row per arm, seed and step, from samples with a column ``valid``, too; ``counted`` gives more columns of a
    row, ``constant`` columns that are alike in every row.

    Columns: the constant ones; arm, seed, ``step``; sampled, valid, trained (counts); mean, median, best (accuracy of
    those trained, nan without any); what ``counted`` gives; tokens; and sampling_seconds, evaluation_seconds,
    selection_seconds, tuning_seconds (wall clock: sampling goes on while other candidates are evaluated, and
    evaluation is what was waited for beside it).
    """
    rows = []
    for (arm, seed, number), part in parts(samples, step, ["seed", step]):
        scores = part["score"].dropna()
        row = {**constant, "arm": arm, "seed": seed, step: number}
        row |= {"sampled": len(part), "valid": int(part["valid"].sum()), "trained": len(scores)}
        row |= {"mean": scores.mean(), "median": scores.median(), "best": scores.max()}
        row |= {**counted(part), "tokens": int(part["tokens"].sum())}
        rows.append(row | {f"{stage}_seconds": float(part[stage].iloc[0]) for stage in STAGES})
    return pd.DataFrame(rows)


def pooled_steps(
    samples: pd.DataFrame, step: str, thresholds: Mapping[str, float], rng: np.random.Generator, resamples: int
) -> pd.DataFrame:
    """One row per arm and step, over all seeds, with 95 % intervals.

    Shares have Wilson intervals, which take samples of different seeds as one sample. Mean and median are those of
    the seeds, with t-intervals, where at least three have a trained sample in this step, and of all samples with
    bootstrap intervals otherwise (column ``unit``): these say nothing about another run.

    ``samples``: with a column ``valid``, too; ``thresholds``: accuracies by the name of the column that holds the share
    of those trained that reach it. Columns: arm, ``step``, seeds, sampled, trained; valid, a column per threshold,
    mean, median, each with ``_low`` and ``_high``; best (mean over the seeds of the step's best), best_lowest,
    best_highest (of the seeds); unit.
    """
    rows = []
    for (arm, number), part in parts(samples, step, [step]):
        row = {"arm": arm, step: number, "seeds": part["seed"].nunique()}
        row |= {"sampled": len(part), "trained": int(part["score"].count())}
        row |= intervals.wilson(part["valid"].sum(), len(part)).columns("valid")
        for name, threshold in thresholds.items():
            row |= intervals.wilson(*over(part["score"], threshold)).columns(name)
        runs = [run.to_numpy() for _, run in part.dropna(subset="score").groupby("seed")["score"]]
        row |= over_runs(runs, np.mean, rng, resamples).columns("mean")
        row |= over_runs(runs, np.median, rng, resamples).columns("median")
        best = [run.max() for run in runs] or [np.nan]
        row |= {"best": np.mean(best), "best_lowest": min(best), "best_highest": max(best)}
        rows.append(row | {"unit": "seeds" if len(runs) >= SEEDS else "candidates"})
    return pd.DataFrame(rows)


def over_runs(runs: Sequence[np.ndarray], statistic: Callable, rng: np.random.Generator, resamples: int) -> Estimate:
    """A statistic of runs: from three on its mean over them with a t-interval, else of all values with a bootstrap's.

    The t-interval covers another run as often as it says (``intervals.t_interval``); the bootstrap covers the values of
    these runs alone. ``runs``: values of each, shape (n,) or (n, k); ``statistic`` takes an array and the axis along
    which values stand, as ``numpy.mean`` does. No interval (nan) for fewer than :data:`FEWEST` values, or where a run
    has none.
    """
    values = np.concatenate(runs) if runs else np.zeros(0)
    whole = float(statistic(values, axis=0)) if len(values) else np.nan
    if len(values) < FEWEST:
        return Estimate(whole, n=len(values))
    if len(runs) < SEEDS:
        draws = statistic(values[rng.integers(0, len(values), (resamples, len(values)))], axis=1)
        return Estimate(whole, *intervals.percentile_interval(draws), len(values))
    of_runs = np.array([statistic(run, axis=0) for run in runs], float)
    return intervals.t_interval(of_runs) if np.isfinite(of_runs).all() else Estimate(whole, n=len(runs))
