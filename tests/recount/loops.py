"""What the live loops did, from the tables of cycles (or LLM epochs) and seeds that the reference runs keep, and, where
they keep them, from the texts and scores themselves."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pandas as pd

from tests.recount.interval import Found, student

LAST = 5  # cycles of paper B's loop that count


def pooled(rows: pd.DataFrame, share: str, of: str) -> float:
    """A column's mean over the samples behind the rows, of which a row has ``of``."""
    return float((rows[share].fillna(0) * rows[of]).sum() / rows[of].sum())


def over(rows: pd.DataFrame) -> str:
    """The column with the share at or above the threshold that selects; older tables call it by an accuracy."""
    return "over_threshold" if "over_threshold" in rows else "share_40"


MEASURES: dict[str, Callable[[pd.DataFrame], float]] = {
    "mean": lambda rows: pooled(rows, "mean", "trained"),
    "valid": lambda rows: rows["valid"].sum() / rows["sampled"].sum(),
    "over": lambda rows: pooled(rows, over(rows), "trained"),
    "best": lambda rows: rows["best"].mean(),
}


def controls(cycles: pd.DataFrame) -> dict[tuple[str, str], Found]:
    """Paper B's loop minus each other arm over the last cycles, in points, by (arm, measure); a seed is a unit."""
    late = cycles[cycles["cycle"] > cycles["cycle"].max() - LAST]
    runs = dict(iter(late.groupby(["arm", "seed"])))
    seeds = sorted({seed for arm, seed in runs if arm == "loop"})
    return {
        (arm, name): student([100 * (of(runs["loop", seed]) - of(runs[arm, seed])) for seed in seeds])
        for arm in sorted({arm for arm, _ in runs} - {"loop"})
        for name, of in MEASURES.items()
    }


def live(epochs: pd.DataFrame) -> dict[tuple[str, str], Found]:
    """Paper A's loop minus each other arm, in points: mean score in the last third of the LLM epochs, and the best."""
    last, found = epochs["epoch"].max(), {}
    late = epochs["epoch"] > last - np.ceil(last / 3)
    for arm in sorted(set(epochs["arm"]) - {"loop"}):
        seeds = sorted(set(epochs.loc[epochs["arm"] == "loop", "seed"]) & set(epochs.loc[epochs["arm"] == arm, "seed"]))
        means, bests = [], []
        for seed in seeds:
            ours, theirs = (epochs[(epochs["arm"] == name) & (epochs["seed"] == seed)] for name in ("loop", arm))
            of_late = [pooled(rows[late.loc[rows.index]], "mean", "trained") for rows in (ours, theirs)]
            means.append(100 * (of_late[0] - of_late[1]))
            bests.append(100 * (ours["best"].max() - theirs["best"].max()))
        found |= {(arm, "mean"): student(means), (arm, "best"): student(bests)}
    return found


def styles(rows: pd.DataFrame) -> dict[str, Found]:
    """Tuned answers, direct minus chain of thought, in points, without the LLM epoch before any tuning; and each one's
    share of valid and of new answers."""
    tuned = rows[(rows["model"] == "nano-coder") & rows["tuned"] & (rows["epoch"] > 1)]
    by_seed = tuned.groupby(["style", "seed"])
    counts = by_seed[["sampled", "valid", "new"]].sum()
    shares = counts[["valid", "new"]].div(counts["sampled"], axis=0) * 100
    scores = 100 * by_seed[["mean", "new"]].apply(lambda own: pooled(own, "mean", "new"))  # a copy is not scored again
    found = {f"{name} {style}": Found(shares.loc[style, name].mean(), np.nan, np.nan)
             for name in ("valid", "new") for style in ("direct", "cot")}  # fmt: skip
    found["valid"] = student(shares.loc["direct", "valid"] - shares.loc["cot", "valid"])
    return found | {"mean": student(scores.loc["direct"] - scores.loc["cot"])}


def cycles_from_texts(samples: pd.DataFrame, evaluations: pd.DataFrame) -> pd.DataFrame:
    """A row per arm, seed and cycle of paper B's loop, from its texts and scores: sampled, valid, trained, mean, best.

    A network is valid if it ran, even to an infinite loss. Texts of other origin (the untuned model's, those written
    again) are left out; so are evaluations under other protocols than the loop's, the one with most of them.
    """
    named = samples["run"].str.extract(r"^\w+-(?P<arm>.+)-seed-(?P<seed>\d+) cycle (?P<cycle>\d+)$").dropna()
    own = samples.join(named, how="inner").astype({"seed": int, "cycle": int})
    own["arm"] = [re.sub("-", " ", arm) for arm in own["arm"]]
    most = evaluations["protocol_hash"].mode()[0]
    said = evaluations[evaluations["protocol_hash"] == most].rename(columns={"status": "outcome"})
    both = own.merge(said[["code_hash", "seed", "outcome", "score"]], on=["code_hash", "seed"], how="left")
    both["valid"] = (both["status"] == "ok") & both["outcome"].isin(["ok", "non_finite"])
    both["score"] = both["score"].where(both["valid"])
    groups = both.groupby(["arm", "seed", "cycle"])
    counts = {"sampled": ("valid", "size"), "valid": ("valid", "sum"), "trained": ("score", "count")}
    return groups.agg(**counts, mean=("score", "mean"), best=("score", "max")).reset_index()
