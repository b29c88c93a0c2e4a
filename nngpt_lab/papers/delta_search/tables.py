"""The live comparison in numbers: validity by format and arm, typed outcomes, child minus its own parent, costs.

``edits`` and ``parents`` are those of ``runs.LiveRuns``. *Valid* is an edit that was applied, changed something, and
whose child was trained. Two rows stand beside all formats: *identity*, an edit that changes nothing, which by
construction is valid and as good as its parent; and *re-run*, the same networks trained with another seed, which shows
what difference noise alone makes. A child is *better* than its parent if it is so by more than 1.96 standard deviations
of the re-runs' differences.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from nngpt_lab.statistics import intervals
from nngpt_lab.statistics.intervals import Estimate
from nngpt_lab.study import comparison
from nngpt_lab.study.comparison import RESULT, Mean, Measure, PairedProportion, PairedRatio, compare
from nngpt_lab.study.history import by_step, history
from nngpt_lab.study.ladder import FAILED, JUDGED
from nngpt_lab.study.samples import FEWEST, SEEDS

LEAST = 0.2
"""Valid share below which a format is not tested."""
TESTED, UNTESTED = "tested", "not tested at this scale"
IDENTITY, AGAIN = "identity", "re-run"
WHOLE, FORM, ARM = "whole_file", "unified_diff", "static corpus"
"""What paper D compares with, its own format, and its own arm."""
OVER_PARENTS = "t over parents; does not cover the seed"
MEASURES: dict[str, Measure] = {
    "valid, first attempt": PairedProportion("valid, first attempt", "first_valid"),
    "valid, after retries": PairedProportion("valid, after retries", "valid"),
    "child minus parent": Mean("child minus parent", lambda part: part["difference"]),
    "tokens per valid child": PairedRatio("tokens per valid child", "tokens", "valid"),
}
"""What formats and arms are compared by."""


def noise(parents: pd.DataFrame) -> float:
    """Standard deviation of the difference that training a parent again with another seed makes, fractions."""
    return float((parents["again"] - parents["score"]).std())


def arm_table(edits: pd.DataFrame, parents: pd.DataFrame) -> pd.DataFrame:
    """A row for each format and arm, over all seeds and cycles; identity and re-run first. Shares are in per cent,
    differences in points.

    Columns: form, arm, seeds, sampled, first_valid and valid (Wilson), mean (accuracy of the children), parent_mean (of
    their parents), difference with its interval, n and method, better and worse (of the valid ones, beyond noise),
    tokens (per sample), tokens_per_valid, state.
    """
    least = 1.96 * noise(parents)
    null = parents.assign(first_valid=True, valid=True, tokens=0, parent=parents["name"], parent_score=parents["score"])
    same = null.assign(form="", arm=IDENTITY, difference=0.0)
    again = null.assign(form="", arm=AGAIN, score=parents["again"], difference=parents["again"] - parents["score"])
    rows = []
    for (form, arm), part in pd.concat([same, again, edits]).groupby(["form", "arm"], sort=False):
        row = {"form": form, "arm": arm, "seeds": part["seed"].nunique(), "sampled": len(part)}
        for name in ("first_valid", "valid"):
            row |= intervals.wilson(int(part[name].sum()), len(part)).scaled(100).columns(name)
        good = part[part["valid"].astype(bool)]
        row |= {"mean": 100 * good["score"].mean(), "parent_mean": 100 * good["parent_score"].mean()}
        gain, method = gained(good)
        row |= gain.scaled(100).columns("difference") | {"n": gain.n, "method": method}
        row |= {
            "better": 100 * (good["difference"] > least).mean(),
            "worse": 100 * (good["difference"] < -least).mean(),
        }
        row |= {"tokens": part["tokens"].mean()}
        row["tokens_per_valid"] = part["tokens"].sum() / len(good) if len(good) else np.nan
        rows.append(row | {"state": TESTED if part["valid"].mean() >= LEAST else UNTESTED})
    return pd.DataFrame(rows)


def gained(good: pd.DataFrame) -> tuple[Estimate, str]:
    """Mean of child minus parent: over seeds from three on, else over parents, of which each counts once."""
    runs = good.groupby("seed")["difference"].mean()
    if len(runs) >= SEEDS:
        return intervals.t_interval(runs.to_numpy(float)), comparison.PAIRED
    own = good.groupby(["seed", "parent"])["difference"].mean().to_numpy(float)
    if len(own) < FEWEST or np.ptp(own) == 0:
        return Estimate(float(own.mean()) if len(own) else np.nan, n=len(own)), comparison.TOO_FEW_SAMPLES
    return intervals.t_interval(own), OVER_PARENTS


def outcome_table(edits: pd.DataFrame) -> pd.DataFrame:
    """How first and last attempts ended: form, arm, attempt, outcome, count, sampled, share (per cent, Wilson)."""
    rows = []
    for attempt, column in ("first", "first_outcome"), ("last", "outcome"):
        for (form, arm), part in edits.groupby(["form", "arm"], sort=False):
            for outcome, count in part[column].value_counts().items():
                share = intervals.wilson(int(count), len(part)).scaled(100).columns("share")
                rows.append({"form": form, "arm": arm, "attempt": attempt, "outcome": outcome, "count": count,
                             "sampled": len(part), **share})  # fmt: skip
    return pd.DataFrame(rows)


def edit_types(edits: pd.DataFrame, codes: Mapping[str, str]) -> pd.DataFrame:
    """What the valid edits of each format and arm did, cycle by cycle, over all seeds: form, arm, and the columns of
    ``history.by_step``. A line is re-introduced if another network of the run had it before."""
    parts = []
    for (form, arm), part in edits[edits["valid"].astype(bool)].groupby(["form", "arm"], sort=False):
        runs = [history(run.rename(columns={"cycle": "step"}), codes) for _, run in part.groupby("seed")]
        parts.append(by_step(pd.concat(runs)).assign(form=form, arm=arm).rename(columns={"step": "cycle"}))
    found = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["form", "arm"])
    return found[["form", "arm", *(name for name in found if name not in ("form", "arm", "novelty_corpus"))]]


def compared(edits: pd.DataFrame, arms: Sequence[tuple[str, str]] = ()) -> pd.DataFrame:
    """Formats with the whole file within an arm, and ``arms`` with each other within a format (the first of a pair
    minus the second), sample by sample: within, first, second, measure, first_value, second_value, :data:`RESULT`,
    state. Shares and differences are fractions. A side with less than LEAST valid edits makes a row not tested; whether
    tuning raises the valid share of a format is tested where one side has as many."""
    tasks = []
    for arm, part in edits.groupby("arm", sort=False):
        if WHOLE in set(part["form"]):
            tasks += [(arm, "form", form, WHOLE, part) for form in dict.fromkeys(part["form"]) if form != WHOLE]
    for form, part in edits.groupby("form", sort=False):
        tasks += [(form, "arm", *pair, part) for pair in arms if set(pair) <= set(part["arm"])]
    rows = []
    for within, by, first, second, part in tasks:
        sides = [part[part[by] == name].sort_values(["seed", "cycle", "position"]) for name in (first, second)]
        shares = [side["valid"].mean() for side in sides]
        for name, measure in MEASURES.items():
            row = {"within": within, "first": first, "second": second, "measure": name}
            row |= compare(sides[0], sides[1], measure).columns("first_value", "second_value")
            learnt = max(shares) if by == "arm" and name.startswith("valid") else min(shares)
            rows.append(row | {"state": TESTED if learnt >= LEAST else UNTESTED})
    columns = ["within", "first", "second", "measure", "first_value", "second_value", *RESULT, "state"]
    return pd.DataFrame(rows, columns=columns)


ARM_PAIRS = (("static corpus", "no tuning"), ("static corpus", "shuffled targets"), ("growing corpus", "static corpus"))


def rung(arms: pd.DataFrame, compared: pd.DataFrame) -> dict:
    """What paper D's scale ladder says of a run's model, as :mod:`nngpt_lab.study.ladder` takes it: how much more often
    a diff is valid than a whole file, on the first attempt. The control is the rule of all tables here: of both formats
    at least LEAST are valid in the end; shown is the lesser. Empty where one of the two was not run."""
    sides = arms[(arms["arm"] == ARM) & arms["form"].isin([FORM, WHOLE])]
    row = compared.query("within == @ARM and first == @FORM and second == @WHOLE and measure == 'valid, first attempt'")
    if row.empty:
        return {}
    lesser, found = Estimate.of(sides.loc[sides["valid"].idxmin()], "valid", "sampled"), row.iloc[0]
    state = JUDGED if (sides["state"] == TESTED).all() else FAILED
    own = {"state": state, "n": found["n"], "method": found["method"]}
    return own | Estimate.of(found, "difference").columns("rise") | lesser.scaled(0.01).columns("valid")
