"""The loop of paper B in numbers: its cycles, its controls, and what failed.

``candidates`` is what ``loop.run`` returns, for any number of arms and seeds one after the
other: one row per sample, with columns arm, seed, cycle (from 1), position, code_hash, tokens, status, score,
parameters, nearest, jaccard, passed, novel, accepted, and the cycle's seconds by stage. Accuracies and shares are
fractions in every table. *Valid* is a network that ran (its loss may have been infinite), *trained* one with a score,
*novel* one that became a training pair and is no near copy of the corpus or of an earlier one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd

from nngpt_lab.ground.errors import UsageError
from nngpt_lab.sandbox.status import VALID, Status
from nngpt_lab.statistics import intervals
from nngpt_lab.study.run_state import STAGES

SHARES = ("share_40", "share_35", "share_30")
"""Columns of the shares over the three thresholds; the paper's thresholds name them, whatever the thresholds are."""
LOOP = "loop"
SEEDS = 3  # from so many on, a run is the unit that intervals resample
FEWEST = 5  # candidates: a bootstrap of fewer promises far too much

MEASURES = {
    "mean": "mean accuracy",
    "valid": "valid, of the samples",
    "over": "over the threshold, of those trained",
    "novel": "distinct novel, of the samples",
    "best": "best of a cycle, mean over cycles",
}
"""What arms are compared by. The best is a cycle's, because the best of more samples is better by itself."""

PAIRED = "paired t over seeds"
EQUAL = "paired, but equal in all seeds: no interval"
NEWCOMBE = "Newcombe over candidates; does not cover the seed"
BOOTSTRAP = "bootstrap over candidates; does not cover the seed"
MAXIMUM = "no interval: resampling candidates cannot bound a maximum"
TOO_FEW = "no interval: fewer than five candidates"

_RESULT = ["difference", "difference_low", "difference_high", "n", "method"]
MEMORISATION = ["arm", "cycle", "form", "networks", "median", "lower_quartile", "upper_quartile", "verbatim",
                "verbatim_low", "verbatim_high", "renamed", "renamed_low", "renamed_high"]  # fmt: skip
ACCEPTED = ["arm", "seed", "cycle", "code_hash", "score", "parameters", "nearest", "jaccard", "novel"]


# ------------------------------------------------------------------------------------------------------------- cycles


def cycle_table(
    candidates: pd.DataFrame, thresholds: tuple[float, float, float], profile: str, protocol: str
) -> pd.DataFrame:
    """One row per arm, seed and cycle: the table ``cycles.csv``.

    Args:
        thresholds: accuracies that the columns share_40, share_35 and share_30 count from, in this order.
        profile, protocol: written into every row.

    Returns:
        profile, protocol, arm, seed, cycle; sampled, valid, trained (counts); mean, median, best (accuracy of those
        trained, nan without any); share_40, share_35, share_30 (of those trained); accepted, novel, cumulative_novel
        (counts); tokens; sampling_seconds, evaluation_seconds, selection_seconds, tuning_seconds (wall
        clock: sampling goes on while other candidates are evaluated, and evaluation is what was waited for beside it).
    """
    rows = []
    for (arm, seed, cycle), part in _parts(candidates, ["seed", "cycle"]):
        scores = part["score"].dropna()
        row = {"profile": profile, "protocol": protocol, "arm": arm, "seed": seed, "cycle": cycle}
        row |= {"sampled": len(part), "valid": int(part["status"].isin(VALID).sum()), "trained": len(scores)}
        row |= {"mean": scores.mean(), "median": scores.median(), "best": scores.max()}
        row |= {name: _share(*_over(scores, at)) for name, at in zip(SHARES, thresholds, strict=True)}
        row |= {"accepted": int(part["accepted"].sum()), "novel": int(_novel(part).sum()), "cumulative_novel": 0}
        row |= {"tokens": int(part["tokens"].sum())}
        rows.append(row | {f"{stage}_seconds": float(part[stage].iloc[0]) for stage in STAGES})
    table = pd.DataFrame(rows)
    table["cumulative_novel"] = table.groupby(["arm", "seed"])["novel"].cumsum()
    return table


def pooled_cycles(
    candidates: pd.DataFrame, thresholds: tuple[float, float, float], rng: np.random.Generator, resamples: int
) -> pd.DataFrame:
    """One row per arm and cycle, over all seeds, with 95 % intervals.

    Shares have Wilson intervals, which take samples of different seeds as one sample. Mean and median have bootstrap
    intervals that resample seeds where at least three have a trained network in this cycle, and candidates otherwise
    (column ``unit``); with three to five seeds such an interval is coarse and too narrow, with one it says nothing
    about another run.

    Returns:
        arm, cycle, seeds, sampled, trained; valid, share_40, share_35, share_30, mean, median, each with ``_low`` and
        ``_high``; best (mean over the seeds of the cycle's best), best_lowest, best_highest (of the seeds); unit.
    """
    rows = []
    for (arm, cycle), part in _parts(candidates, ["cycle"]):
        scores = part["score"].dropna()
        row = {"arm": arm, "cycle": cycle, "seeds": part["seed"].nunique()}
        row |= {"sampled": len(part), "trained": len(scores)}
        row |= intervals.wilson(part["status"].isin(VALID).sum(), len(part)).columns("valid")
        for name, at in zip(SHARES, thresholds, strict=True):
            row |= intervals.wilson(*_over(scores, at)).columns(name)
        groups = [group.to_numpy() for _, group in part.dropna(subset="score").groupby("seed")["score"]]
        row |= _bootstrap(groups, np.mean, rng, resamples).columns("mean")
        row |= _bootstrap(groups, np.median, rng, resamples).columns("median")
        best = [group.max() for group in groups] or [np.nan]
        row |= {"best": np.mean(best), "best_lowest": min(best), "best_highest": max(best)}
        rows.append(row | {"unit": "seeds" if len(groups) >= SEEDS else "candidates"})
    return pd.DataFrame(rows)


def failure_table(candidates: pd.DataFrame) -> pd.DataFrame:
    """How the samples ended: arm, cycle, status, count, share (of the cycle's samples), over all seeds.

    Every cycle has a row for every status that occurs anywhere, ``ok`` first, in the order in which they can happen.
    """
    found = [status.value for status in Status if status.value in set(candidates["status"])]
    rows = []
    for (arm, cycle), part in _parts(candidates, ["cycle"]):
        counts = part["status"].value_counts()
        for status in found:
            count = int(counts.get(status, 0))
            rows.append((arm, cycle, status, count, count / len(part)))
    return pd.DataFrame(rows, columns=["arm", "cycle", "status", "count", "share"])


def accepted_table(candidates: pd.DataFrame) -> pd.DataFrame:
    """The networks that became training pairs, the table ``accepted.csv``; columns :data:`ACCEPTED`.

    ``nearest`` and ``jaccard``: the most similar network of the corpus that the novelty index found.
    """
    _check(candidates)
    return candidates.loc[candidates["accepted"].astype(bool), ACCEPTED].reset_index(drop=True)


def memorisation_table(neighbours: pd.DataFrame) -> pd.DataFrame:
    """Likeness of a cycle's accepted networks to the corpus, from ``candidates.memorisation.nearest_neighbours``.

    Columns arm, cycle, form; networks; median, lower_quartile, upper_quartile (of the Jaccard index with the nearest);
    verbatim, renamed (shares of the networks), each with ``_low`` and ``_high`` (Wilson). A cycle that accepted nothing
    has no row.
    """
    rows = []
    ordered = neighbours.sort_values("cycle", kind="stable")
    for (arm, cycle, form), part in ordered.groupby(["arm", "cycle", "form"], sort=False):
        lower, middle, upper = part["jaccard"].quantile([0.25, 0.5, 0.75])
        row = {"arm": arm, "cycle": cycle, "form": form, "networks": len(part)}
        row |= {"median": middle, "lower_quartile": lower, "upper_quartile": upper}
        for name in ("verbatim", "renamed"):
            row |= intervals.wilson(part[name].sum(), len(part)).columns(name)
        rows.append(row)
    return pd.DataFrame(rows, columns=None if rows else MEMORISATION)


# ---------------------------------------------------------------------------------------------------------- comparisons


def controls_table(
    candidates: pd.DataFrame,
    thresholds: tuple[float, float, float],
    rng: np.random.Generator,
    resamples: int,
    last: int = 5,
) -> pd.DataFrame:
    """The loop minus each control over the last cycles that both have, by every measure of :data:`MEASURES`.

    Runs of the same seed are compared with each other; with at least three such seeds the interval is a t-interval
    over their differences. With fewer it covers the candidates of these runs only, and ``method`` says so. The
    intervals are not adjusted for their number.

    Returns:
        control, measure, loop, control_value, difference, difference_low, difference_high, n (seeds if paired, else
        candidates of both), method. No rows without a loop or without a control.
    """
    _check(candidates)
    loop, tables = candidates[candidates["arm"] == LOOP], []
    for arm in arms(candidates):
        control = candidates[candidates["arm"] == arm]
        if arm == LOOP or not len(loop):
            continue
        end = min(loop["cycle"].max(), control["cycle"].max())
        window = [part[part["cycle"].between(end - last + 1, end)] for part in (loop, control)]
        found = _compare(*window, thresholds[0], rng, resamples)
        tables.append(found.rename(columns={"first": "loop", "second": "control_value"}).assign(control=arm))
    columns = ["control", "measure", "loop", "control_value", *_RESULT]
    return pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)


def rise_table(
    candidates: pd.DataFrame,
    thresholds: tuple[float, float, float],
    rng: np.random.Generator,
    resamples: int,
    last: int = 5,
) -> pd.DataFrame:
    """Within each arm, its last cycles minus its first; measures and intervals as in :func:`controls_table`.

    The first cycle is never among the last. Columns: arm, measure, last, first, difference, difference_low,
    difference_high, n, method. An arm with one cycle has no rows.
    """
    _check(candidates)
    tables = []
    for arm in arms(candidates):
        part = candidates[candidates["arm"] == arm]
        end = part["cycle"].max()
        late = part[part["cycle"].between(max(end - last + 1, 2), end)]
        if len(late):
            found = _compare(late, part[part["cycle"] == 1], thresholds[0], rng, resamples)
            tables.append(found.rename(columns={"first": "last", "second": "first"}).assign(arm=arm))
    columns = ["arm", "measure", "last", "first", *_RESULT]
    return pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)


def _compare(
    a: pd.DataFrame, b: pd.DataFrame, threshold: float, rng: np.random.Generator, resamples: int
) -> pd.DataFrame:
    """``a`` minus ``b`` by every measure: columns measure, first, second, and the result's."""
    seeds = sorted(set(a["seed"]) & set(b["seed"]))
    if seeds:
        a, b = a[a["seed"].isin(seeds)], b[b["seed"].isin(seeds)]
    per_seed = [
        pd.DataFrame([measures(part[part["seed"] == seed], threshold) for seed in seeds], columns=list(MEASURES))
        for part in (a, b)
    ]
    rows = []
    for name in MEASURES:
        pairs = np.array([values[name] for values in per_seed], float).reshape(2, -1)
        pairs = pairs[:, np.isfinite(pairs).all(axis=0)]
        if pairs.shape[1] >= SEEDS:
            rows.append((name, *_paired(*pairs)))
        else:
            rows.append((name, *_within(name, a, b, threshold, rng, resamples)))
    return pd.DataFrame(rows, columns=["measure", "first", "second", *_RESULT])


def measures(part: pd.DataFrame, threshold: float) -> dict[str, float]:
    """The value of every measure of :data:`MEASURES` for some rows of ``candidates``; nan where nothing was trained."""
    values = {name: _share(*count) for name, count in _counts(part, threshold).items()}
    return values | {"mean": part["score"].mean(), "best": part.groupby("cycle")["score"].max().mean()}


def _counts(part: pd.DataFrame, threshold: float) -> dict[str, tuple[int, int]]:
    """Successes and trials of the measures that are shares."""
    distinct = part.loc[_novel(part), ["arm", "seed", "code_hash"]].drop_duplicates()
    return {
        "valid": (int(part["status"].isin(VALID).sum()), len(part)),
        "over": _over(part["score"].dropna(), threshold),
        "novel": (len(distinct), len(part)),
    }


def _paired(a: np.ndarray, b: np.ndarray) -> tuple:
    found = intervals.t_interval(a - b)
    return a.mean(), b.mean(), found.value, found.low, found.high, found.n, EQUAL if np.isnan(found.low) else PAIRED


def _within(
    name: str, a: pd.DataFrame, b: pd.DataFrame, threshold: float, rng: np.random.Generator, resamples: int
) -> tuple:
    """Candidates of all seeds as one sample each: what can be said from one or two runs."""
    first, second = measures(a, threshold)[name], measures(b, threshold)[name]
    head = (first, second, first - second)
    if name in ("valid", "over", "novel"):
        count_a, count_b = _counts(a, threshold)[name], _counts(b, threshold)[name]
        found = intervals.difference_of_proportions(*count_a, *count_b)
        return (*head, found.low, found.high, found.n, NEWCOMBE)
    scores = [part["score"].dropna().to_numpy() for part in (a, b)]
    n = sum(map(len, scores))
    if name == "best":
        return (*head, np.nan, np.nan, n, MAXIMUM)
    if min(map(len, scores)) < FEWEST:
        return (*head, np.nan, np.nan, n, TOO_FEW)
    draws = [_resampled(one, np.mean, rng, resamples) for one in scores]
    return (*head, *intervals.percentile_interval(draws[0] - draws[1]), n, BOOTSTRAP)


# -------------------------------------------------------------------------------------------------------------- helpers


def arms(table: pd.DataFrame) -> list[str]:
    """The arms of a table in order of appearance, the loop first."""
    return sorted(dict.fromkeys(table["arm"]), key=lambda arm: arm != LOOP)


def _parts(candidates: pd.DataFrame, keys: list[str]) -> Iterator[tuple[tuple, pd.DataFrame]]:
    """The rows of each arm and key, arms in order of appearance, keys ascending."""
    _check(candidates)
    for arm in arms(candidates):
        for key, part in candidates[candidates["arm"] == arm].groupby(keys):
            yield (arm, *key), part


def _check(candidates: pd.DataFrame) -> None:
    if not len(candidates):
        raise UsageError("there are no candidates", "run at least one arm of the loop")
    if candidates.duplicated(["arm", "seed", "cycle", "position"]).any():
        raise UsageError("a sample is there twice", "concatenate each run of the loop once")


def _novel(part: pd.DataFrame) -> pd.Series:
    return part["accepted"].astype(bool) & part["novel"].astype("boolean").fillna(False).astype(bool)


def _over(scores: pd.Series, threshold: float) -> tuple[int, int]:
    return int((scores >= threshold).sum()), len(scores)


def _share(successes: int, n: int) -> float:
    return successes / n if n else np.nan


def _bootstrap(
    groups: Sequence[np.ndarray], statistic: Callable, rng: np.random.Generator, resamples: int
) -> intervals.Estimate:
    """A statistic of all values with an interval that resamples ``groups`` (a seed's values each) from three on."""
    values = np.concatenate([*groups, np.zeros(0)])
    if len(values) < FEWEST:
        return intervals.Estimate(statistic(values) if len(values) else np.nan, np.nan, np.nan, len(values))
    if len(groups) < SEEDS:
        draws = _resampled(values, statistic, rng, resamples)
    else:  # few seeds have few distinct resamples, so each is computed once
        chosen = np.sort(rng.integers(0, len(groups), (resamples, len(groups))), axis=1)
        distinct, which = np.unique(chosen, axis=0, return_inverse=True)
        draws = np.array([statistic(np.concatenate([groups[i] for i in row])) for row in distinct])[which.ravel()]
    return intervals.Estimate(float(statistic(values)), *intervals.percentile_interval(draws), len(values))


def _resampled(values: np.ndarray, statistic: Callable, rng: np.random.Generator, resamples: int) -> np.ndarray:
    return statistic(values[rng.integers(0, len(values), (resamples, len(values)))], axis=1)
