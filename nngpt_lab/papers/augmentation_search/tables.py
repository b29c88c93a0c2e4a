"""Paper A's live loop in numbers: its LLM epochs, its controls, and what its functions are made of.

``candidates`` is what ``loop.run`` returns, for any number of arms and seeds one after the
other: one row per sample, with columns arm, seed, epoch (from 1), position, code_hash, tokens, status, score, valid,
accepted, copy, known_sequence, operations, parameters, and the epoch's seconds by stage. ``start`` holds the functions
that each seed's runs start with: seed, code_hash, operations, recorded, status, score.

Accuracies and shares are fractions. *Valid* is a sample that runs, or a copy of a function that does; *trained* one
with a score of its own, which duplicates do not get; a *third* is a third of the epochs, rounded up.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from nngpt_lab.corpora.augmentations import OPERATIONS
from nngpt_lab.ground.formatting import bracketed
from nngpt_lab.papers.augmentation_search.scores import parameter_values
from nngpt_lab.sandbox.status import Status
from nngpt_lab.statistics import intervals
from nngpt_lab.statistics.intervals import Estimate
from nngpt_lab.study import samples
from nngpt_lab.study.comparison import RESULT, Mean, Measure, Statistic, compare, share
from nngpt_lab.study.samples import LOOP, arms, controls

FIRST, LAST, START, BEST_START = "first third", "last third", "start", "best of the start"
NO_POLICY = "no augmentation"

MEASURES: dict[str, Measure] = {
    "mean": Mean("mean accuracy, last third", lambda part: _third(part, LAST)["score"]),
    "best": Statistic("best so far", lambda part: part["score"].max()),
    "best_at_equal": Statistic(
        "best so far, equal evaluations", lambda part: part.loc[part["within_equal"], "score"].max()
    ),
    "valid": Statistic("valid, of the samples", lambda part: share(part["valid"].sum(), len(part))),
}
"""What arms are compared by."""


def epoch_table(candidates: pd.DataFrame, profile: str, protocol: str) -> pd.DataFrame:
    """One row per arm, seed and LLM epoch: the table ``live_epochs.csv``, as :func:`samples.step_table` with duplicates
    (count), best_so_far, accepted (count) and evaluated (so far in this run)."""

    def counted(part: pd.DataFrame) -> dict[str, float]:
        counts = {"duplicates": int((part["status"] == Status.DUPLICATE).sum()), "best_so_far": part["score"].max()}
        return counts | {"accepted": int(part["accepted"].sum()), "evaluated": int(part["score"].count())}

    table = samples.step_table(candidates, "epoch", counted, profile=profile, protocol=protocol)
    runs = table.groupby(["arm", "seed"], sort=False)
    return table.assign(
        best_so_far=runs["best_so_far"].transform(lambda best: best.cummax().ffill()),
        evaluated=runs["evaluated"].cumsum(),
    )


def pooled_epochs(candidates: pd.DataFrame, rng: np.random.Generator, resamples: int) -> pd.DataFrame:
    """One row per arm and LLM epoch, over all seeds, with 95 % intervals: see :func:`samples.pooled_steps`."""
    return samples.pooled_steps(candidates, "epoch", {}, rng, resamples)


def search_curve(candidates: pd.DataFrame) -> pd.DataFrame:
    """Best so far against evaluations: arm, evaluations, seeds, best (mean over seeds), lowest, highest (of the seeds).
    A curve ends where the first of its seeds has no more candidates, so that every point is a mean over the same
    runs."""
    tables, ordered = [], _in_order(candidates)
    for arm in arms(ordered):
        scores = ordered[ordered["arm"] == arm].groupby("seed")["score"]
        runs = [run.dropna().cummax().reset_index(drop=True) for _, run in scores]
        best = pd.concat(runs, axis="columns", join="inner")
        curve = pd.DataFrame({"arm": arm, "evaluations": best.index + 1, "seeds": len(runs)})
        tables.append(curve.assign(best=best.mean(axis=1), lowest=best.min(axis=1), highest=best.max(axis=1)))
    return pd.concat(tables, ignore_index=True)


def controls_table(candidates: pd.DataFrame) -> pd.DataFrame:
    """The loop minus each control by every measure of :data:`MEASURES`, as :mod:`nngpt_lab.study.comparison` says: the
    table ``controls.csv``. The intervals are not adjusted for their number. Columns: control, measure, loop,
    control_value and :data:`RESULT`; no rows without a loop or without a control."""
    candidates, rows = _in_order(candidates), []
    loop = candidates[candidates["arm"] == LOOP]
    for arm in controls(candidates):
        runs = _marked(loop, candidates[candidates["arm"] == arm])
        for name, measure in MEASURES.items():
            rows.append(
                {"control": arm, "measure": name} | compare(runs[0], runs[1], measure).columns("loop", "control_value")
            )
    return pd.DataFrame(rows, columns=["control", "measure", "loop", "control_value", *RESULT])


def _marked(first: pd.DataFrame, second: pd.DataFrame) -> list[pd.DataFrame]:
    """Both with a column within_equal: evaluated before the run of the same seed that evaluates less has ended."""
    trained = [table["score"].notna().groupby(table["seed"]) for table in (first, second)]
    fewest = trained[0].sum().combine(trained[1].sum(), min, fill_value=0)
    return [
        table.assign(within_equal=so_far.cumsum() <= table["seed"].map(fewest))
        for table, so_far in zip((first, second), trained, strict=True)
    ]


def policy_table(policies: pd.DataFrame) -> pd.DataFrame:
    """torchvision's policies and the best functions found, at each number of epochs, from ``policy_scores``: the table
    ``policies.csv``. Columns policy, epochs, n (seeds with a score), failed; mean with ``_low`` and ``_high``
    (t-interval over seeds); gain with ``_low`` and ``_high``: over no augmentation with the same seed and epochs,
    paired."""
    bare = policies[policies["policy"] == NO_POLICY].set_index(["epochs", "seed"])["score"]
    rows = []
    for (epochs, policy), part in policies.groupby(["epochs", "policy"], sort=False):
        scores = part.set_index(["epochs", "seed"])["score"]
        gains = scores - bare.reindex(scores.index)
        mean, gain = (intervals.t_interval(values.dropna()) for values in (scores, gains))
        row = {"policy": policy, "epochs": epochs, "n": mean.n, "failed": int(scores.isna().sum())}
        rows.append(row | mean.columns("mean") | gain.columns("gain"))
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
    return pd.DataFrame([row | rank.columns("spearman") | offset.columns("offset")])


def agreement_sentence(agreement: pd.DataFrame, same_data: bool) -> str:
    """Whether live and recorded scores can be compared. ``same_data``: ours were measured on CIFAR-10, too."""
    row = agreement.iloc[0]
    rank = bracketed(row["spearman"], row["spearman_low"], row["spearman_high"], digits=".2f")
    over = f"Over {int(row['functions'])} corpus functions: rank correlation {rank}. "
    ranks = "Ranks can be compared" if row["spearman_low"] > 0.5 else "Not even ranks can safely be compared"
    if not same_data:
        return f"{over}Live accuracies belong to other images than the recorded ones and cannot be compared. {ranks}."
    points = 100 * row[["offset", "offset_low", "offset_high"]]
    offset = bracketed(points["offset"], points["offset_low"], points["offset_high"], " points", "+.1f")
    if row["offset_low"] <= 0 <= row["offset_high"]:
        return f"{over}{ranks}; no offset can be seen ({offset}), so accuracies can be compared within that."
    return f"{over}{ranks}; accuracies cannot, unless the offset of {offset} is taken off."


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
            row = {"arm": arm, "part": part, "operation": operation, "functions": len(functions), "uses": uses}
            rows.append(row | intervals.wilson(uses, len(functions)).columns("share"))
    return pd.DataFrame(rows)


def parameter_shift(candidates: pd.DataFrame) -> pd.DataFrame:
    """Parameters of each operation in the first third against the last: the table ``parameter_shift.csv``.

    Numbers only; the parts of a pair are parameters of their own (``scale[0]``). Returns arm, operation, parameter; n,
    mean and sd, each with ``_first`` and ``_last``; difference (last minus first) with ``_low`` and ``_high`` (Welch
    over uses, which does not cover the seed; not adjusted for their number).
    """
    numbers = [
        (arm, part, operation, parameter, float(value))
        for arm, part, written in _thirds(candidates)
        for row in written.dropna(subset="operations").itertuples()
        for operation, parameter, value in parameter_values(row.operations, row.parameters)
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    table = pd.DataFrame(numbers, columns=["arm", "part", "operation", "parameter", "value"])
    rows = []
    for arm, of_arm in table.groupby("arm", sort=False):
        for (operation, parameter), uses in of_arm.groupby(["operation", "parameter"]):
            first, last = (uses.loc[uses["part"] == part, "value"] for part in (FIRST, LAST))
            row: dict[str, Any] = {"arm": arm, "operation": operation, "parameter": parameter}
            for name, values in (("first", first), ("last", last)):
                row |= {f"n_{name}": len(values), f"mean_{name}": values.mean(), f"sd_{name}": values.std()}
            difference = Estimate(last.mean() - first.mean())
            if min(first.nunique(), last.nunique()) > 1:
                difference = intervals.difference_of_means(last, first)
            rows.append(row | difference.columns("difference"))
    return pd.DataFrame(rows)


def novelty_table(candidates: pd.DataFrame) -> pd.DataFrame:
    """How much of what is written was there before, by third: the table ``live_novelty.csv``.

    Over samples that keep the structure. Returns arm, part, functions; copies (of a corpus function, up to layout),
    repeats (of what the same run wrote before), known_sequences (a corpus function has the same operations in the same
    order, whatever their parameters): shares, each with ``_low`` and ``_high`` (Wilson).
    """
    rows = []
    for arm, part, written in _thirds(candidates):
        kept = written.dropna(subset="operations")
        repeat = (kept["status"] == Status.DUPLICATE) & ~kept["copy"]
        row = {"arm": arm, "part": part, "functions": len(kept)}
        shares = {"copies": kept["copy"], "repeats": repeat, "known_sequences": kept["known_sequence"]}
        for name, counts in shares.items():
            row |= intervals.wilson(int(counts.sum()), len(kept)).columns(name)
        rows.append(row)
    return pd.DataFrame(rows)


def _thirds(candidates: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """The rows of each arm's first and last third."""
    samples.check(candidates, "epoch")
    for arm in arms(candidates):
        for part in (FIRST, LAST):
            yield arm, part, _third(candidates[candidates["arm"] == arm], part)


def _third(rows: pd.DataFrame, part: str) -> pd.DataFrame:
    end = rows["epoch"].max()
    length = math.ceil(end / 3)
    return rows[rows["epoch"] <= length] if part == FIRST else rows[rows["epoch"] > end - length]


def _in_order(candidates: pd.DataFrame) -> pd.DataFrame:
    """In the order in which each run wrote them."""
    samples.check(candidates, "epoch")
    return candidates.sort_values(["epoch", "position"], kind="stable")
