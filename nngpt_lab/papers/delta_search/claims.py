"""Paper D's claims, from LEMUR's records and from a run of the comparison.

Only a run of the published protocol can reproduce or refute what is claimed of it. Any other adds a note that says what
happened there, and the claim stays "not yet run". A format that was not tested adds that word, and no number.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from nngpt_lab.corpora.architectures import Lemur
from nngpt_lab.ground.formatting import bracketed
from nngpt_lab.papers.delta_search.design import PAPER, Design
from nngpt_lab.papers.delta_search.tables import ARM, FORM, TESTED, WHOLE
from nngpt_lab.papers.delta_search.targets import POOLS, best_at, share_saved
from nngpt_lab.statistics import intervals
from nngpt_lab.statistics.claims import Measured, load_claims
from nngpt_lab.statistics.intervals import Estimate

PULL_REQUEST = {"deepseek": 83, "qwen": 51, "mistral": 68}  # ABrain-One/nn-dataset#204
FALLS = {"deepseek": 9, "qwen": 12, "mistral": 12}  # of 21, 2605.30103, cycle_data.csv
WITHIN = {"mnist": 0.75, "celeba-gender": 0.83}  # 2605.30103, proxy_full_pairs.csv, recomputed in the notes
APPLIED, WHOLE_VALID, CANDIDATES = 0.7133, 0.506, 3300
MODELS = {"DeepSeek-Coder-7B": "deepseek", "Qwen2.5-Coder-7B": "qwen", "Mistral-7B": "mistral"}
OF_A_RUN = ("D-more-valid", "D-better", "D-improves", "D-tokens", "D-theory-growing", "D-theory-monotone")


def facts(levels: pd.DataFrame) -> dict[str, float]:
    """What need only be counted, by the fact's id; ``levels`` as ``parents.levels`` returns it."""
    valid = [claim.value for key, claim in load_claims().items() if key.startswith("D-valid-")]
    counted = {
        "D-trained": sum(round(share / 100 * CANDIDATES / 3) for share in valid),
        "D-cifar-100": levels.set_index("dataset")["admitted"]["cifar-100"],
        "D-theory-applied": round(APPLIED * CANDIDATES),
        "D-theory-ratio": round(APPLIED / WHOLE_VALID, 2),
    }
    counted |= {f"D-admitted-{name}": count for name, count in PULL_REQUEST.items()}
    counted |= {f"D-theory-falls-{name}": count for name, count in FALLS.items()}
    return counted | {f"D-within-{name}": value for name, value in WITHIN.items()}


def recorded(lemur: Lemur, drawn: pd.DataFrame, rng: np.random.Generator, resamples: int) -> dict[str, Measured]:
    """What the published data say, by the claim's id; ``drawn`` as ``targets.targets`` returns it."""
    measured = {"D-shorter": Measured(share_saved(drawn, POOLS[0], "baseline first", rng, resamples))}
    early, late = (best_at(lemur, epoch).query("dataset == 'cifar-10'") for epoch in (1, 50))
    both = early.merge(late[["architecture", "accuracy"]], on="architecture", suffixes=("", "_late"))
    rho = intervals.spearman(both[["accuracy", "accuracy_late"]].to_numpy())
    ours = intervals.fisher_interval(rho, len(both))
    for key, claim in load_claims().items():
        if key.startswith("D-spearman-") and claim.n:
            own = intervals.fisher_interval(claim.value, claim.n)
            said = bracketed(ours.value, ours.low, ours.high, digits=".2f")
            allowed = f"at N = {claim.n} the paper's own value allows {own.low:.2f} to {own.high:.2f}."
            measured[key] = Measured(None, f"LEMUR's on CIFAR-10: {said}, n = {len(both)}; {allowed}")
    return measured


def published(design: Design) -> str:
    """Which of the paper's models a design runs by the paper's own protocol; empty if it is another design or model."""
    own = design.hash() == replace(PAPER, coder=design.coder).hash()
    return MODELS.get(design.coder, "") if own else ""


def measure(
    arms: pd.DataFrame, compared: pd.DataFrame, edits: pd.DataFrame, published: str = ""
) -> dict[str, Measured]:
    """What a run says to each claim, by the claim's id, from ``tables.arm_table``, ``tables.compared`` and the run's
    edits. ``published``: which of the paper's models ran its own protocol (``deepseek``, ``qwen``, ``mistral``); else
    empty."""
    own = arms[(arms["form"] == FORM) & (arms["arm"] == ARM)]
    if own.empty:
        return not_run(f"The run has no {FORM.replace('_', ' ')} that was tuned on the {ARM}.")
    row = own.iloc[0]
    found: dict[str, Estimate | None] = {
        "D-more-valid": _difference(compared, ARM, FORM, WHOLE, "valid, first attempt", 100),
        "D-better": _difference(compared, ARM, FORM, WHOLE, "child minus parent", 100),
        "D-improves": Estimate.of(row, "difference"),
        "D-tokens": _ratio(edits),
        "D-theory-growing": _difference(compared, FORM, "growing corpus", ARM, "child minus parent", 100),
        "D-theory-monotone": _rise(edits),
    }
    if row["state"] != TESTED:  # a small model that does not learn the format says nothing of it; the paper's own would
        found = dict.fromkeys(found) | ({"D-more-valid": found["D-more-valid"]} if published else {})
    if published:
        scores = edits[(edits["form"] == FORM) & (edits["arm"] == ARM)].dropna(subset="score")
        found[f"D-valid-{published}"] = Estimate.of(row, "valid", "sampled")
        found[f"D-mean-{published}"] = intervals.t_interval(100 * scores["score"].to_numpy()).within(0, 100)
        best = scores.groupby("seed")["score"].max().to_numpy()
        found[f"D-best-{published}"] = intervals.t_interval(100 * best).within(0, 100)
        return {key: Measured(value) for key, value in found.items() if value is not None}
    said = {key: _text(value) if value else f"{row['state']}." for key, value in found.items()}
    return {key: Measured(None, f"Our scaled comparison: {text}") for key, text in said.items()}


def not_run(reason: str) -> dict[str, Measured]:
    """What :func:`measure` would say, had the comparison been run: the ``reason`` why it was not."""
    return {key: Measured(None, reason) for key in OF_A_RUN}


def _difference(table: pd.DataFrame, within: str, first: str, second: str, measure: str, scale: float):
    rows = table[(table["within"] == within) & (table["first"] == first) & (table["second"] == second)]
    rows = rows[rows["measure"] == measure]
    return None if rows.empty else Estimate.of(rows.iloc[0], "difference").scaled(scale)


def _ratio(edits: pd.DataFrame) -> Estimate | None:
    """Tokens of whole networks by tokens of diffs, for the same samples; without an interval."""
    tokens = edits[edits["arm"] == ARM].groupby("form")["first_tokens"].sum()
    if not {FORM, WHOLE} <= set(tokens.index):
        return None
    return Estimate(float(tokens[WHOLE] / tokens[FORM]), n=edits["seed"].nunique())


def _rise(edits: pd.DataFrame) -> Estimate | None:
    """Mean accuracy, the last cycle minus the first, run by run."""
    own = edits[(edits["form"] == FORM) & (edits["arm"] == ARM)]
    means = own.groupby(["seed", "cycle"])["score"].mean().unstack()
    if len(means.columns) < 2:
        return None
    return intervals.t_interval(100 * (means.iloc[:, -1] - means.iloc[:, 0]).to_numpy(float))


def _text(estimate: Estimate) -> str:
    if not np.isfinite(estimate.value):
        return "no child could be trained."
    if np.isfinite([estimate.low, estimate.high]).all():
        return f"{bracketed(estimate.value, estimate.low, estimate.high)}, n = {estimate.n}."
    return f"{estimate.value:.1f}, n = {estimate.n}, no interval."
