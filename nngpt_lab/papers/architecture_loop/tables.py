"""The loop of paper B in numbers: its cycles, its controls, and what failed.

``candidates`` is what ``loop.run`` returns, one row per sample, for any number of arms and seeds one after the other.
Accuracies and shares are fractions in every table. *Valid* is a network that ran (its loss may have been infinite),
*trained* one with a score, *novel* one that became a training pair and is no near copy of the corpus or of an earlier
one.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from nngpt_lab.sandbox.status import VALID, Status
from nngpt_lab.statistics import intervals
from nngpt_lab.study import budget, samples
from nngpt_lab.study.budget import Independent
from nngpt_lab.study.comparison import RESULT, Mean, Measure, Statistic, compare, share
from nngpt_lab.study.samples import LOOP, arms, controls

SHARES = ("over_threshold", "over_second", "over_third")
"""Columns of the shares of those trained that reach the threshold that selects, a second and a third one."""

MEASURES: dict[str, Measure] = {
    "mean": Mean("mean accuracy", lambda part: part["score"]),
    "valid": Statistic("valid, of the samples", lambda part: share(part["valid"].sum(), len(part))),
    "over": Statistic(
        "over the threshold, of those trained", lambda part: share(part["over"].sum(), part["score"].count())
    ),
    "novel": Statistic("distinct novel, of the samples", lambda part: share(_distinct_novel(part), len(part))),
    "best": Statistic("best of a cycle, mean over cycles", lambda part: part.groupby("cycle")["score"].max().mean()),
}
"""What arms are compared by. The best is a cycle's, because the best of more samples is better by itself."""

MEMORISATION = ["arm", "cycle", "form", "networks", "median", "lower_quartile", "upper_quartile", "verbatim",
                "verbatim_low", "verbatim_high", "renamed", "renamed_low", "renamed_high"]  # fmt: skip
ACCEPTED = ["arm", "seed", "cycle", "code_hash", "score", "parameters", "nearest", "jaccard", "novel"]


def cycle_table(
    candidates: pd.DataFrame, thresholds: tuple[float, float, float], profile: str, protocol: str
) -> pd.DataFrame:
    """One row per arm, seed and cycle: the table ``cycles.csv``, as :func:`samples.step_table` with the shares of those
    trained that reach the ``thresholds`` (:data:`SHARES`), accepted, novel, cumulative_novel (counts)."""

    def counted(part: pd.DataFrame) -> dict[str, float]:
        trained = part["score"].dropna()
        shares = {name: (trained >= at).mean() for name, at in zip(SHARES, thresholds, strict=True)}
        novel = int(_novel(part).sum())
        return shares | {"accepted": int(part["accepted"].sum()), "novel": novel, "cumulative_novel": novel}

    table = samples.step_table(_judged(candidates), "cycle", counted, profile=profile, protocol=protocol)
    return table.assign(cumulative_novel=table.groupby(["arm", "seed"])["cumulative_novel"].cumsum())


def pooled_cycles(
    candidates: pd.DataFrame, thresholds: tuple[float, float, float], rng: np.random.Generator, resamples: int
) -> pd.DataFrame:
    """One row per arm and cycle, over all seeds, with 95 % intervals: see :func:`samples.pooled_steps`; the shares over
    the three thresholds are the columns :data:`SHARES`."""
    named = dict(zip(SHARES, thresholds, strict=True))
    return samples.pooled_steps(_judged(candidates), "cycle", named, rng, resamples)


NO_TUNING = "no tuning"  # model and prompts never change in this arm: its samples are independent


def independent(candidates: pd.DataFrame, thresholds: tuple[float, float, float]) -> Independent:
    """What as many independent samples of the untuned model give: the line that the loop has to beat."""
    named = dict(zip(SHARES, thresholds, strict=True))
    return budget.independent(_judged(candidates), "cycle", NO_TUNING, named)


def failure_table(candidates: pd.DataFrame) -> pd.DataFrame:
    """How the samples ended: arm, cycle, status, count, share (of the cycle's samples), over all seeds. Every cycle has
    a row for every status that occurs anywhere, ``ok`` first, in the order in which they can happen."""
    occurring = [status.value for status in Status if status.value in set(candidates["status"])]
    rows = []
    for (arm, cycle), part in samples.parts(candidates, "cycle", ["cycle"]):
        counts = part["status"].value_counts()
        for status in occurring:
            count = int(counts.get(status, 0))
            rows.append((arm, cycle, status, count, count / len(part)))
    return pd.DataFrame(rows, columns=["arm", "cycle", "status", "count", "share"])


def accepted_table(candidates: pd.DataFrame) -> pd.DataFrame:
    """The networks that became training pairs, with the most similar network of the corpus that the novelty index
    found: the table ``accepted.csv``; columns :data:`ACCEPTED`."""
    samples.check(candidates, "cycle")
    return candidates.loc[candidates["accepted"].astype(bool), ACCEPTED].reset_index(drop=True)


def memorisation_table(neighbours: pd.DataFrame) -> pd.DataFrame:
    """Likeness of a cycle's accepted networks to the corpus, from ``memorisation.nearest_neighbours``.

    Columns arm, cycle, form; networks; median, lower_quartile, upper_quartile (of the Jaccard index with the nearest);
    verbatim, renamed (shares of the networks), each with ``_low`` and ``_high`` (Wilson). A cycle that accepted nothing
    has no row.
    """
    rows = []
    ordered = neighbours.sort_values("cycle", kind="stable")
    for (arm, cycle, form), part in ordered.groupby(["arm", "cycle", "form"], sort=False):
        row = {"arm": arm, "cycle": cycle, "form": form, "networks": len(part), "median": part["jaccard"].median()}
        row |= {"lower_quartile": part["jaccard"].quantile(0.25), "upper_quartile": part["jaccard"].quantile(0.75)}
        for name in ("verbatim", "renamed"):
            row |= intervals.wilson(part[name].sum(), len(part)).columns(name)
        rows.append(row)
    return pd.DataFrame(rows, columns=MEMORISATION)


def controls_table(candidates: pd.DataFrame, thresholds: tuple[float, float, float], last: int = 5) -> pd.DataFrame:
    """The loop minus each control over the last cycles that both have, by every measure of :data:`MEASURES`, as
    :mod:`nngpt_lab.study.comparison` says; the intervals are not adjusted for their number. Columns: control, measure,
    loop, control_value and :data:`RESULT`; no rows without a loop or without a control."""
    candidates = _judged(candidates, thresholds[0])
    loop, rows = candidates[candidates["arm"] == LOOP], []
    for arm in controls(candidates):
        control = candidates[candidates["arm"] == arm]
        end = min(loop["cycle"].max(), control["cycle"].max())
        late = [part[part["cycle"].between(end - last + 1, end)] for part in (loop, control)]
        for name, measure in MEASURES.items():
            row = {"control": arm, "measure": name}
            rows.append(row | compare(late[0], late[1], measure).columns("loop", "control_value"))
    return pd.DataFrame(rows, columns=["control", "measure", "loop", "control_value", *RESULT])


def rise_table(candidates: pd.DataFrame, thresholds: tuple[float, float, float], last: int = 5) -> pd.DataFrame:
    """Within each arm, its last cycles minus its first, as :func:`controls_table`: arm, measure, last, first and
    :data:`RESULT`. The first cycle is never among the last; an arm with one cycle has no rows."""
    candidates, rows = _judged(candidates, thresholds[0]), []
    for arm in arms(candidates):
        part = candidates[candidates["arm"] == arm]
        end = part["cycle"].max()
        late, first = part[part["cycle"].between(max(end - last + 1, 2), end)], part[part["cycle"] == 1]
        for name, measure in MEASURES.items() if len(late) else ():
            rows.append({"arm": arm, "measure": name} | compare(late, first, measure).columns("last", "first"))
    return pd.DataFrame(rows, columns=["arm", "measure", "last", "first", *RESULT])


def _judged(candidates: pd.DataFrame, threshold: float = np.nan) -> pd.DataFrame:
    """The candidates with the columns valid, and over: whether they reach an accuracy."""
    samples.check(candidates, "cycle")
    return candidates.assign(valid=candidates["status"].isin(VALID), over=candidates["score"] >= threshold)


def _novel(part: pd.DataFrame) -> pd.Series:
    return part["accepted"].astype(bool) & part["novel"].astype("boolean").fillna(False).astype(bool)


def _distinct_novel(part: pd.DataFrame) -> int:
    return len(part.loc[_novel(part), ["arm", "seed", "code_hash"]].drop_duplicates())
