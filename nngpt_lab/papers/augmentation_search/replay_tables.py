"""A search replayed on recorded scores: how soon is a good function met, and how well are pairs ordered?

A :class:`Run` holds the scores in the order in which one method evaluated a universe of functions, the start set that
it learnt from first. Everything is counted from the first evaluation on, the start set's included. A function that
failed costs an evaluation and scores nothing.

**Times fewer** is the number of evaluations that random search needs on average to first reach a score, (N + 1)/(k + 1)
draws without replacement where k of N functions reach it, over the average number that the method needed. It compares a
mean with a mean: a random order has 1. Paper A gives no definition of its "up to 600 times"; 6,000 functions over the
10 candidates of one LLM epoch make 600 [I]. The column ``times_fewer_than_all`` is of that kind: all functions of the
universe, evaluated or not needed, over the evaluations; a random order has far more than 1 there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from nngpt_lab.ground.formatting import bracketed
from nngpt_lab.papers.augmentation_search.scores import CHANCE, flip_probability
from nngpt_lab.statistics import intervals
from nngpt_lab.statistics.intervals import Estimate

RANDOM = "random order"
POINTS = 120  # of a curve, over all evaluations, evenly in their logarithm
QUANTILES = (0.9, 0.99, 0.995, 0.999, 1.0)


@dataclass(frozen=True)
class Run:
    """One method's search, after ``n0`` functions to learn from, in one draw: the ``scores`` in the order of
    evaluation, start set first, which may end early, and those of all functions there were; nan where a function
    failed."""

    method: str
    n0: int
    seed: int
    scores: np.ndarray
    universe: np.ndarray

    @property
    def size(self) -> int:
        return len(self.universe)


def curves(runs: Sequence[Run]) -> pd.DataFrame:
    """Best score so far and the share of the universe below it, by number of evaluations: method, n0, seed, evaluated,
    best_so_far, quantile. Random order is exact: the expectation over all orders of that seed's universe, in which a
    draw that failed holds :data:`CHANCE`."""
    tables = []
    for run in runs:
        points = _points(run, len(run.scores))
        best = np.maximum.accumulate(np.nan_to_num(run.scores, nan=CHANCE))[points - 1]
        tables.append(_curve(run.method, run, points, best, _below(run, best)))
    for _, run in sorted({(run.n0, run.seed): run for run in runs}.items()):
        points, scores = _points(run, run.size), np.sort(np.nan_to_num(run.universe, nan=CHANCE))
        weights, below = [intervals.best_of_n_weights(run.size, int(n)) for n in points], _below(run, scores)
        tables.append(_curve(RANDOM, run, points, [w @ scores for w in weights], [w @ below for w in weights]))
    return pd.concat(tables, ignore_index=True)


def _points(run: Run, last: int) -> np.ndarray:
    """Numbers of evaluations, up to the last, at which a curve is read: dense where the search leaves its start set."""
    points = np.r_[np.geomspace(1, run.size, POINTS).round(), np.arange(run.n0, run.n0 + 10), last]
    return np.unique(points[(points >= 1) & (points <= last)]).astype(int)


def _below(run: Run, scores: np.ndarray) -> np.ndarray:
    """The share of the universe below each score."""
    return np.searchsorted(np.sort(np.nan_to_num(run.universe, nan=CHANCE)), scores) / run.size


def _curve(method: str, run: Run, evaluated: np.ndarray, best, quantile) -> pd.DataFrame:
    values = {"evaluated": evaluated, "best_so_far": best, "quantile": quantile}
    return pd.DataFrame({"method": method, "n0": run.n0, "seed": run.seed, **values})


def bands(curve: pd.DataFrame) -> pd.DataFrame:
    """Mean curve over seeds with a t-interval over seeds, as far as all seeds go; none (nan) over fewer than three.
    Columns: method, n0, evaluated, seeds, best_so_far(_low, _high), quantile(_low, _high)."""
    tables = []
    for (method, n0), group in curve.groupby(["method", "n0"], sort=False):
        band: dict[str, object] = {"method": method, "n0": n0}
        for measure in ("best_so_far", "quantile"):
            values = group.pivot(index="seed", columns="evaluated", values=measure).dropna(axis=1)
            means = [intervals.t_interval(column) for column in values.to_numpy().T]
            band |= {"evaluated": values.columns.to_numpy(), "seeds": len(values)}
            band |= {measure: [mean.value for mean in means]}
            band |= {f"{measure}_{end}": [getattr(mean, end) for mean in means] for end in ("low", "high")}
        tables.append(pd.DataFrame(band))
    return pd.concat(tables, ignore_index=True)


def needed(runs: Sequence[Run], quantiles: Sequence[float] = QUANTILES) -> pd.DataFrame:
    """How many evaluations each run took to first reach each target.

    Targets are the scores that a share of 1 - quantile of the run's universe reaches (quantile 1: its best one).

    Columns: method, n0, seed, target (``top 1%``, ``best``), score, evaluations, reached, random (expected draws of
    random search, exact), universe. A run that ended before the target has ``reached`` False and the number of its
    evaluations, which is a lower limit.
    """
    rows = []
    for run in runs:
        ranked = np.sort(run.universe[~np.isnan(run.universe)])[::-1]
        for quantile in quantiles:
            target = "best" if quantile >= 1 else f"top {100 * (1 - quantile):.3g}%"
            score = ranked[max(1, round((1 - quantile) * run.size)) - 1]
            hits = np.flatnonzero(run.scores >= score)  # nan is not: a failure reaches nothing
            row = {"method": run.method, "n0": run.n0, "seed": run.seed, "target": target, "score": score}
            row |= {"evaluations": int(hits[0]) + 1 if len(hits) else len(run.scores), "reached": bool(len(hits))}
            random = intervals.expected_draws(run.size, int((ranked >= score).sum()))
            rows.append(row | {"random": random, "universe": run.size})
    return pd.DataFrame(rows)


def summary(table: pd.DataFrame, yardstick: str = "", control: str = "") -> pd.DataFrame:
    """Means over seeds of what :func:`needed` found.

    Columns: method, n0, target, score (mean), seeds, reached (seeds), evaluations(_low, _high) (mean), median, random
    (mean of the expected draws), times_fewer(_low, _high) (random over evaluations) and times_fewer_than_all(_low,
    _high) (universe over evaluations), means and ratios of means, whose interval (``intervals.ratio_of_means``) needs
    many seeds; and, with names of methods, times_fewer_than_yardstick and times_fewer_than_control(_low, _high), the
    typical (geometric mean) ratio of their evaluations to this method's over the seeds that both have, whose interval
    needs few.

    Where ``reached`` is below ``seeds`` the runs that ended early count with the evaluations they had, so evaluations
    are a lower and times fewer an upper limit.
    """
    rows = []
    for (n0, target), part in table.groupby(["n0", "target"], sort=False):
        by_method = {name: group.set_index("seed") for name, group in part.groupby("method", sort=False)}
        for method, group in by_method.items():
            row = {"method": method, "n0": n0, "target": target, "score": group["score"].mean(), "seeds": len(group)}
            row |= {"reached": int(group["reached"].sum())}
            row |= intervals.ratio_of_means(group["evaluations"], np.ones(len(group))).columns("evaluations")
            row |= {"median": group["evaluations"].median(), "random": group["random"].mean()}
            for column, name in (("random", "times_fewer"), ("universe", "times_fewer_than_all")):
                row |= intervals.ratio_of_means(group[column], group["evaluations"]).columns(name)
            for role, other in (("yardstick", yardstick), ("control", control)):
                if other in by_method:
                    both = group.join(by_method[other]["evaluations"].rename("theirs"), how="inner")
                    ratio = intervals.typical_ratio(both["theirs"], both["evaluations"])
                    row |= ratio.columns(f"times_fewer_than_{role}")
            rows.append(row)
    return pd.DataFrame(rows).sort_values(["method", "n0"], key=_first_seen, kind="stable", ignore_index=True)


def _first_seen(column: pd.Series) -> pd.Series:
    """Places by which a stable sort keeps the order in which values first came."""
    return pd.Series(pd.factorize(column)[0], column.index)


def sentence(saved: pd.DataFrame, methods: Sequence[str], target: str = "top 0.1%") -> str:
    """How many times fewer evaluations than random order each method took, from the smallest start set, in words;
    ``saved`` as of :func:`summary`."""
    rows = (
        saved[(saved["target"] == target) & (saved["n0"] == saved["n0"].min())].set_index("method").loc[list(methods)]
    )
    said = [f"{row.Index} {fewer(row)} ({row.seeds} universes)" for row in rows.itertuples()]
    return (
        f"Replay on the corpus, {rows['n0'].iloc[0]} functions to learn from: times fewer evaluations than random "
        f"order until the {target} is met: {', '.join(said)}."
    )


def fewer(row) -> str:
    """``times_fewer`` of a row of :func:`summary`, with its interval where it has one."""
    if not np.isfinite(row.times_fewer_low):
        return f"{row.times_fewer:.1f}, no interval"
    return bracketed(row.times_fewer, row.times_fewer_low, row.times_fewer_high)


def choices(runs: Sequence[Run], count: int = 10) -> pd.DataFrame:
    """What each method evaluated first after its start set; paper A writes 10 candidates in an LLM epoch.

    Columns: method, n0, seed, mean_score (of those that did not fail), top_tenth (share of them among the best tenth of
    the universe). Random order is exact.
    """
    chosen = [(run.method, run, run.scores[run.n0 : run.n0 + count]) for run in runs]
    chosen += [(RANDOM, run, run.universe) for run in {(run.n0, run.seed): run for run in runs}.values()]
    rows = []
    for method, run, scores in chosen:
        good = pd.Series(scores >= np.nanquantile(run.universe, 0.9))
        row = {"method": method, "n0": run.n0, "seed": run.seed, "mean_score": pd.Series(scores).mean()}
        rows.append(row | {"top_tenth": good.mean()})
    return pd.DataFrame(rows)


def choices_summary(table: pd.DataFrame, control: str) -> pd.DataFrame:
    """Means over seeds of :func:`choices` with t intervals, and each method's paired difference from ``control``.

    Columns: method, n0, seeds; mean_score and top_tenth, and each with ``_over_control`` behind its name, with ``_low``
    and ``_high``.
    """
    rows = []
    for (method, n0), group in table.groupby(["method", "n0"], sort=False):
        row = {"method": method, "n0": n0, "seeds": len(group)}
        other = table[(table["method"] == control) & (table["n0"] == n0)].set_index("seed")
        for measure in ("mean_score", "top_tenth"):
            values = group.set_index("seed")[measure]
            row |= _t_interval(values.to_numpy()).columns(measure)
            paired = (values - other[measure]).dropna().to_numpy()
            row |= _t_interval(paired, lowest=-1.0).columns(f"{measure}_over_control")
        rows.append(row)
    return pd.DataFrame(rows)


def ordering(
    scores: np.ndarray,
    predicted: np.ndarray,
    sets: Sequence,
    within_sd: float,
    rng: np.random.Generator,
    resamples: int,
    sequences: Sequence | None = None,
) -> dict[str, float]:
    """How often a prediction orders a pair of functions as their recorded scores do, and how often it could.

    ``scores`` and ``predicted``: shape (n,), none missing; a tie in the prediction counts one half. ``sets``: what each
    function belongs to (its operations); resampled together, as they resemble each other. ``within_sd``: SD of a score
    when the same code is run again. ``sequences``: only pairs that agree in this (their operations in order) are asked
    for, which differ in nothing but parameters.

    Returns functions and pairs, accuracy(_low, _high) (pairs whose scores tie are left out), rerun (share of the pairs
    that a second run of both would order alike) and oracle (share that the true means order as recorded, which is the
    most any method can reach); both from normal noise and the spread of these very pairs.
    """
    first, second = np.triu_indices(len(scores), 1)
    asked = scores[first] != scores[second]
    if sequences is not None:
        sequences = np.asarray(sequences, dtype=str)
        asked &= sequences[first] == sequences[second]
    first, second = first[asked], second[asked]
    gap, guess = scores[first] - scores[second], predicted[first] - predicted[second]
    row: dict[str, float] = {"functions": len(np.union1d(first, second)), "pairs": len(gap)}
    alike = (np.sign(gap) * np.sign(guess) + 1) / 2
    row |= _over_sets(alike, first, second, sets, rng, resamples).columns("accuracy")
    return row | ceilings(gap, within_sd)


def ceilings(gap: np.ndarray, within_sd: float) -> dict[str, float]:
    """What noise leaves of a perfect ordering of pairs with these gaps: ``rerun`` and ``oracle`` of :func:`ordering`.

    Given a gap d, the true one is normal with mean ``reliability * d`` and variance ``2 * within_sd**2 * reliability``;
    reliability from these pairs, whose mean squared gap is twice the variance of true scores and noise together.
    """
    if not len(gap):
        return {"rerun": np.nan, "oracle": np.nan}
    reliability = max(0.0, 1 - within_sd**2 / (np.mean(gap**2) / 2))
    rerun = 1 - flip_probability(gap, within_sd, reliability)
    oracle = stats.norm.cdf(np.sqrt(reliability) * np.abs(gap) / (within_sd * np.sqrt(2)))
    return {"rerun": float(rerun.mean()), "oracle": float(oracle.mean())}


def _over_sets(alike, first, second, sets, rng: np.random.Generator, resamples: int) -> Estimate:
    """Mean over pairs, with an interval that resamples whole sets: a pair weighs as often as both its sets are drawn,
    one within a set as often as that is. No resamples, no interval."""
    if not len(alike):
        return Estimate()
    if not resamples:
        return Estimate(float(alike.mean()), n=len(alike))
    _, code = np.unique(np.asarray(sets, dtype=str), return_inverse=True)
    k = int(code.max()) + 1
    cell = code[first] * k + code[second]
    cells, where = np.unique(cell, return_inverse=True)
    a, b = cells // k, cells % k
    count, total = np.bincount(where), np.bincount(where, weights=alike)
    draws = np.empty(resamples)
    for i, times in enumerate(intervals.resample_counts(rng, k, resamples)):
        weight = np.where(a == b, times[a], times[a] * times[b])
        weighed = weight @ count
        draws[i] = weight @ total / weighed if weighed else np.nan
    low, high = intervals.percentile_interval(draws)
    return Estimate(float(alike.mean()), low, high, len(alike))


def ordering_summary(table: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds of :func:`ordering`'s rows (columns test, method, seed, ...), with t intervals over seeds.

    With one seed the interval is that seed's own. Columns: test, method, seeds, functions, pairs (means), accuracy
    (_low, _high), rerun, oracle, of_ceiling (accuracy above one half, as a share of what the oracle has above it; nan
    where it has nothing, as a handful of pairs can have it).
    """
    rows = []
    for (test, method), group in table.groupby(["test", "method"], sort=False):
        accuracy = _t_interval(group["accuracy"].dropna().to_numpy())
        if len(group) == 1:
            accuracy = Estimate(*group[["accuracy", "accuracy_low", "accuracy_high"]].iloc[0], 1)
        means = group[["functions", "pairs", "rerun", "oracle"]].mean()
        row = {"test": test, "method": method, "seeds": len(group), **means[["functions", "pairs"]]}
        row |= accuracy.columns("accuracy") | dict(means[["rerun", "oracle"]])
        ceiling = means["oracle"] - 0.5
        rows.append(row | {"of_ceiling": (accuracy.value - 0.5) / ceiling if ceiling > 0 else np.nan})
    return pd.DataFrame(rows)


def _t_interval(values: np.ndarray, lowest: float = 0.0) -> Estimate:
    """Mean with a t interval, kept within the range of a share or accuracy; of differences with ``lowest`` -1."""
    mean = intervals.t_interval(values)
    return mean.within(lowest, 1)
