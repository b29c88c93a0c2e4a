"""Paper A's live loop in numbers: its LLM epochs, its controls, and what its functions are made of.

``candidates`` is what ``loop.run`` returns, for any number of arms and seeds one after the
other: one row per sample, with columns arm, seed, epoch (from 1), position, code_hash, tokens, status, score, valid,
accepted, copy, known_sequence, operations, parameters, and the epoch's seconds by stage. ``start`` holds the functions
that each seed's runs start with: seed, code_hash, operations, recorded, status, score.

Accuracies and shares are fractions. *Valid* is a sample that runs, or a copy of a function that does; *trained* one
with a score of its own, which duplicates do not get; a *third* is a third of the epochs, rounded up.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

import numpy as np
import pandas as pd

from nngpt_lab.corpora.augmentations import OPERATIONS
from nngpt_lab.ground.errors import UsageError
from nngpt_lab.papers.architecture_loop.tables import LOOP, SEEDS, arms, pooled_cycles
from nngpt_lab.sandbox.status import Status
from nngpt_lab.statistics import intervals
from nngpt_lab.statistics.intervals import Estimate
from nngpt_lab.study.run_state import STAGES

FIRST, LAST, START, BEST_START = "first third", "last third", "start", "best of the start"
NO_POLICY = "no augmentation"
PAIRED = "paired t over seeds"
EQUAL = "equal differences: no interval"
NEWCOMBE = "Newcombe over candidates; does not cover the seed"
WELCH = "Welch over candidates; does not cover the seed"
TOO_FEW = "fewer than three seeds: no interval"

MEASURES = {
    "mean": "mean accuracy, last third",
    "best": "best so far",
    "best_at_equal": "best so far, equal evaluations",
    "valid": "valid, of the samples",
}
"""What arms are compared by."""


# ---------------------------------------------------------------------------------------------------------- LLM epochs


def epoch_table(candidates: pd.DataFrame, profile: str, protocol: str) -> pd.DataFrame:
    """One row per arm, seed and LLM epoch: the table ``live_epochs.csv``.

    Returns:
        profile, protocol, arm, seed, epoch; sampled, valid, duplicates, trained (counts); mean, median, best (accuracy
        of those trained, nan without any), best_so_far; accepted; evaluated (so far in this run); tokens;
        sampling_seconds, evaluation_seconds, selection_seconds, tuning_seconds.
    """
    _check(candidates)
    rows = []
    for arm in arms(candidates):
        for (seed, epoch), part in candidates[candidates["arm"] == arm].groupby(["seed", "epoch"]):
            scores, duplicate = part["score"].dropna(), part["status"] == Status.DUPLICATE
            row = {"profile": profile, "protocol": protocol, "arm": arm, "seed": seed, "epoch": epoch}
            row |= {"sampled": len(part), "valid": int(part["valid"].sum()), "duplicates": int(duplicate.sum())}
            row |= {"trained": len(scores), "mean": scores.mean(), "median": scores.median(), "best": scores.max()}
            row |= {"best_so_far": scores.max(), "accepted": int(part["accepted"].sum()), "evaluated": len(scores)}
            row |= {"tokens": int(part["tokens"].sum())}
            rows.append(row | {f"{stage}_seconds": float(part[stage].iloc[0]) for stage in STAGES})
    table = pd.DataFrame(rows)
    runs = table.groupby(["arm", "seed"], sort=False)
    return table.assign(
        best_so_far=runs["best_so_far"].transform(lambda best: best.cummax().ffill()),
        evaluated=runs["evaluated"].cumsum(),
    )


def pooled_epochs(candidates: pd.DataFrame, rng: np.random.Generator, resamples: int) -> pd.DataFrame:
    """One row per arm and LLM epoch, over all seeds, with 95 % intervals.

    Returns:
        arm, epoch, seeds, sampled, trained; valid, mean, median, each with ``_low`` and ``_high`` (Wilson; bootstrap
        over seeds from three on, else over candidates, as ``unit`` says); best (mean over the seeds of the epoch's
        best), best_lowest, best_highest (of the seeds). See :func:`pooled_cycles`.
    """
    _check(candidates)
    ran = candidates["valid"].astype(bool)
    status = candidates["status"].where(~ran, Status.OK.value)  # a copy of what runs is valid here
    table = pooled_cycles(candidates.assign(status=status, cycle=candidates["epoch"]), (0.0,) * 3, rng, resamples)
    return table.rename(columns={"cycle": "epoch"}).drop(columns=table.filter(like="share_").columns)


def search_curve(candidates: pd.DataFrame) -> pd.DataFrame:
    """Best so far against evaluations: arm, evaluations, seeds, best (mean over seeds), lowest, highest (of the seeds).

    A curve ends where the first of its seeds has no more candidates, so that every point is a mean over the same runs.
    """
    rows = []
    for arm, runs in _best_so_far(candidates).items():
        shortest = min(map(len, runs.values()))
        curves = np.array([run[:shortest] for run in runs.values()]).reshape(len(runs), shortest)
        for k, column in enumerate(curves.T, start=1):
            rows.append((arm, k, len(runs), column.mean(), column.min(), column.max()))
    return pd.DataFrame(rows, columns=["arm", "evaluations", "seeds", "best", "lowest", "highest"])


def _best_so_far(candidates: pd.DataFrame) -> dict[str, dict[int, np.ndarray]]:
    """Per arm and seed, the best score after each candidate that has one, in the order of epochs and positions."""
    _check(candidates)
    ordered = candidates.sort_values(["epoch", "position"], kind="stable")
    return {
        arm: {
            seed: np.maximum.accumulate(part["score"].dropna().to_numpy())
            for seed, part in ordered[ordered["arm"] == arm].groupby("seed")
        }
        for arm in arms(candidates)
    }


# --------------------------------------------------------------------------------------------------------- comparisons


def controls_table(candidates: pd.DataFrame) -> pd.DataFrame:
    """The loop minus each control by every measure of :data:`MEASURES`: the table ``live_controls.csv``.

    Runs of the same seed are compared with each other; from three seeds on the interval is a t-interval over their
    differences. With fewer it covers the candidates of these runs only, and ``method`` says so. The intervals are not
    adjusted for their number.

    Returns:
        control, measure, loop, control_value, difference, difference_low, difference_high, n (seeds if paired, else
        candidates of both), method. No rows without a loop or without a control.
    """
    best, rows = _best_so_far(candidates), []
    parts = {arm: candidates[candidates["arm"] == arm] for arm in arms(candidates)}
    for arm in [arm for arm in parts if arm != LOOP and LOOP in parts]:
        seeds = sorted(set(best[LOOP]) & set(best[arm]))
        values = [_measures(parts, best, arm, seed) for seed in seeds]
        for measure in MEASURES:
            pairs = np.array([value[measure] for value in values], float).reshape(-1, 2)
            pairs = pairs[np.isfinite(pairs).all(axis=1)]
            runs = [parts[name][parts[name]["seed"].isin(seeds)] for name in (LOOP, arm)]
            rows.append((arm, measure, *(_paired(pairs) if len(pairs) >= SEEDS else _within(measure, *runs, pairs))))
    columns = ["control", "measure", "loop", "control_value", "difference", "difference_low", "difference_high"]
    return pd.DataFrame(rows, columns=[*columns, "n", "method"])


def _measures(parts: dict, best: dict, arm: str, seed: int) -> dict[str, tuple[float, float]]:
    """Each measure's value for the loop and for the arm, of one seed."""
    runs = [parts[name][parts[name]["seed"] == seed] for name in (LOOP, arm)]
    curves = [best[name][seed] for name in (LOOP, arm)]
    shared = min(map(len, curves))
    return {
        "mean": tuple(_third(run, LAST)["score"].mean() for run in runs),
        "best": tuple(curve[-1] if len(curve) else np.nan for curve in curves),
        "best_at_equal": tuple(curve[shared - 1] if shared else np.nan for curve in curves),
        "valid": tuple(run["valid"].mean() for run in runs),
    }


def _paired(pairs: np.ndarray) -> tuple:
    """Means, mean difference with its t-interval, n, method, of the two columns."""
    difference = t_interval(pairs[:, 0] - pairs[:, 1])
    method = PAIRED if np.isfinite(difference.low) else EQUAL
    return (*pairs.mean(axis=0), difference.value, difference.low, difference.high, len(pairs), method)


def _within(measure: str, loop: pd.DataFrame, control: pd.DataFrame, pairs: np.ndarray) -> tuple:
    """The same from one or two runs of each: what their candidates say, all seeds together."""
    found, method = Estimate(np.nan, np.nan, np.nan, len(pairs)), TOO_FEW
    values = pairs.mean(axis=0) if len(pairs) else np.full(2, np.nan)
    if measure == "valid":
        counts = [(int(part["valid"].sum()), len(part)) for part in (loop, control)]
        found, method = intervals.difference_of_proportions(*counts[0], *counts[1]), NEWCOMBE
    elif measure == "mean":
        scores = [_third(part, LAST)["score"].dropna().to_numpy() for part in (loop, control)]
        if min(map(len, scores)) > 1:
            found, method = intervals.difference_of_means(*scores), WELCH
    difference = values[0] - values[1] if np.isnan(found.value) else found.value
    return (*values, difference, found.low, found.high, found.n, method)


def t_interval(values: np.ndarray) -> Estimate:
    """Mean with a t-interval; no interval (nan) for fewer than three values, or for values that do not differ."""
    found = intervals.t_interval(values)
    return found if found.n >= SEEDS else Estimate(found.value, np.nan, np.nan, found.n)


def policy_table(policies: pd.DataFrame) -> pd.DataFrame:
    """torchvision's policies and the best functions found, at each number of epochs: the table ``policies.csv``.

    Args:
        policies: rows policy, epochs, seed, status, score.

    Returns:
        policy, epochs, n (seeds with a score), failed; mean with ``_low`` and ``_high`` (t-interval over seeds); gain
        with ``_low`` and ``_high``: over no augmentation with the same seed and epochs, paired.
    """
    bare = policies[policies["policy"] == NO_POLICY].set_index(["epochs", "seed"])["score"]
    rows = []
    for (epochs, policy), part in policies.groupby(["epochs", "policy"], sort=False):
        scores = part.set_index(["epochs", "seed"])["score"]
        mean, gain = t_interval(scores.dropna()), t_interval((scores - bare.reindex(scores.index)).dropna())
        row = {"policy": policy, "epochs": epochs, "n": mean.n, "failed": int(scores.isna().sum())}
        row |= {"mean": mean.value, "mean_low": mean.low, "mean_high": mean.high}
        rows.append(row | {"gain": gain.value, "gain_low": gain.low, "gain_high": gain.high})
    return pd.DataFrame(rows, columns=None if rows else ["policy", "epochs", "mean"])


def agreement_table(start: pd.DataFrame, rng: np.random.Generator, resamples: int) -> pd.DataFrame:
    """Our scores of corpus functions against their recorded ones, over functions drawn from the whole range.

    A function drawn for several seeds counts once, with its mean. Returns one row: functions, failed; spearman and
    offset (ours minus recorded, mean) with ``_low`` and ``_high`` (bootstrap over functions).
    """
    scored = start.dropna(subset="score").groupby("code_hash")[["recorded", "score"]].mean()
    pairs = scored.to_numpy()
    rank = intervals.bootstrap(pairs, intervals.spearman, rng, resamples)
    offset = intervals.bootstrap(pairs[:, 1] - pairs[:, 0], np.mean, rng, resamples)
    row = {"functions": len(pairs), "failed": int(start["score"].isna().sum())}
    row |= {"spearman": rank.value, "spearman_low": rank.low, "spearman_high": rank.high}
    row |= {"offset": offset.value, "offset_low": offset.low, "offset_high": offset.high}
    return pd.DataFrame([row])


def agreement_sentence(agreement: pd.DataFrame, same_data: bool) -> str:
    """Whether live and recorded scores can be compared. ``same_data``: ours were measured on CIFAR-10, too."""
    row = agreement.iloc[0]
    found = f"rank correlation {row['spearman']:.2f} [{row['spearman_low']:.2f}, {row['spearman_high']:.2f}]"
    found = f"Over {int(row['functions'])} corpus functions: {found}. "
    ranks = "Ranks can be compared" if row["spearman_low"] > 0.5 else "Not even ranks can safely be compared"
    if not same_data:
        return f"{found}Live accuracies belong to other images than the recorded ones and cannot be compared. {ranks}."
    offset = f"{100 * row['offset']:+.1f} points [{100 * row['offset_low']:+.1f}, {100 * row['offset_high']:+.1f}]"
    if row["offset_low"] <= 0 <= row["offset_high"]:
        return f"{found}{ranks}; no offset can be seen ({offset}), so accuracies can be compared within that."
    return f"{found}{ranks}; accuracies cannot, unless the offset of {offset} is taken off."


# ------------------------------------------------------------------------------------------- what functions are made of


def operation_shift(candidates: pd.DataFrame, start: pd.DataFrame, best: float = 0.25) -> pd.DataFrame:
    """In how many functions each operation is used: the table ``operation_shift.csv``.

    Samples that keep the structure, duplicates too: what the model writes, not what it was scored for. Returns arm,
    part (:data:`FIRST`, :data:`LAST`; for arm "" :data:`START` and :data:`BEST_START`, its ``best`` share by our
    scores), operation, functions, uses, share with ``_low`` and ``_high`` (Wilson, over functions of all seeds).
    """
    groups = [(arm, part, rows["operations"].dropna()) for arm, part, rows in _thirds(candidates)]
    scored = start.dropna(subset="score").drop_duplicates("code_hash")
    top = scored[scored["score"].rank(pct=True) > 1 - best]
    groups += [("", START, scored["operations"]), ("", BEST_START, top["operations"])]
    rows = []
    for arm, part, functions in groups:
        for operation in OPERATIONS:
            uses = sum(operation in used for used in functions)
            share = intervals.wilson(uses, len(functions))
            rows.append((arm, part, operation, len(functions), uses, share.value, share.low, share.high))
    columns = ["arm", "part", "operation", "functions", "uses", "share", "share_low", "share_high"]
    return pd.DataFrame(rows, columns=columns)


def parameter_shift(candidates: pd.DataFrame) -> pd.DataFrame:
    """Parameters of each operation in the first third against the last: the table ``parameter_shift.csv``.

    Numbers only; the parts of a pair are parameters of their own (``scale[0]``). Returns arm, operation, parameter; n,
    mean and sd, each with ``_first`` and ``_last``; difference (last minus first) with ``_low`` and ``_high`` (Welch
    over uses, which does not cover the seed; not adjusted for their number).
    """
    values = {(arm, part): _numbers(rows) for arm, part, rows in _thirds(candidates)}
    rows = []
    for arm in arms(candidates):
        first, last = values[arm, FIRST], values[arm, LAST]
        for operation, parameter in sorted(first.keys() | last.keys()):
            pair = [np.array(part.get((operation, parameter), []), float) for part in (first, last)]
            row = {"arm": arm, "operation": operation, "parameter": parameter}
            for name, one in zip(("first", "last"), pair, strict=True):
                row |= {f"n_{name}": len(one), f"mean_{name}": one.mean() if len(one) else np.nan}
                row[f"sd_{name}"] = one.std(ddof=1) if len(one) > 1 else np.nan
            found = Estimate(row["mean_last"] - row["mean_first"], np.nan, np.nan, 0)
            if min(map(len, pair)) > 1 and min(map(np.ptp, pair)) > 0:
                found = intervals.difference_of_means(pair[1], pair[0])
            rows.append(row | {"difference": found.value, "difference_low": found.low, "difference_high": found.high})
    return pd.DataFrame(rows)


def _numbers(rows: pd.DataFrame) -> dict[tuple[str, str], list[float]]:
    """Values of each numeric parameter, by operation and parameter."""
    found: dict[tuple[str, str], list[float]] = {}
    for row in rows.dropna(subset="operations").itertuples():
        for operation, parameters in zip(row.operations, json.loads(row.parameters), strict=True):
            for name, value in parameters.items():
                is_list = isinstance(value, list)
                parts = {f"{name}[{i}]": one for i, one in enumerate(value)} if is_list else {name: value}
                for key, one in parts.items():
                    if isinstance(one, int | float) and not isinstance(one, bool):
                        found.setdefault((operation, key), []).append(float(one))
    return found


def novelty_table(candidates: pd.DataFrame) -> pd.DataFrame:
    """How much of what is written was there before, by third: the table ``live_novelty.csv``.

    Over samples that keep the structure. Returns arm, part, functions; copies (of a corpus function, up to layout),
    repeats (of what the same run wrote before), known_sequences (a corpus function has the same operations in the same
    order, whatever their parameters): shares, each with ``_low`` and ``_high`` (Wilson).
    """
    rows = []
    for arm, part, samples in _thirds(candidates):
        kept = samples.dropna(subset="operations")
        repeat = (kept["status"] == Status.DUPLICATE) & ~kept["copy"]
        row = {"arm": arm, "part": part, "functions": len(kept)}
        for name, is_one in (
            ("copies", kept["copy"]),
            ("repeats", repeat),
            ("known_sequences", kept["known_sequence"]),
        ):
            share = intervals.wilson(int(is_one.sum()), len(kept))
            row |= {name: share.value, f"{name}_low": share.low, f"{name}_high": share.high}
        rows.append(row)
    return pd.DataFrame(rows)


# ------------------------------------------------------------------------------------------------------------- helpers


def _thirds(candidates: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """The rows of each arm's first and last third."""
    _check(candidates)
    for arm in arms(candidates):
        for part in (FIRST, LAST):
            yield arm, part, _third(candidates[candidates["arm"] == arm], part)


def _third(rows: pd.DataFrame, part: str) -> pd.DataFrame:
    end = rows["epoch"].max()
    length = math.ceil(end / 3)
    return rows[rows["epoch"] <= length] if part == FIRST else rows[rows["epoch"] > end - length]


def _check(candidates: pd.DataFrame) -> None:
    if not len(candidates):
        raise UsageError("there are no candidates", "run at least one arm of the loop")
    if candidates.duplicated(["arm", "seed", "epoch", "position"]).any():
        raise UsageError("a sample is there twice", "concatenate each run of the loop once")
