"""Paper B's claims, from LEMUR's records and from a run of the loop.

Only a run of the published protocol (model, data, threshold, samples) can reproduce or refute what is claimed of the
loop. Any other run adds a note that says what happened there, and the claim stays "not tested".
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from nngpt_lab.ground.formatting import bracketed
from nngpt_lab.papers.architecture_loop.proxy_audit import ADJUSTED
from nngpt_lab.statistics import intervals
from nngpt_lab.statistics.claims import Measured, load_claims
from nngpt_lab.statistics.intervals import Estimate
from nngpt_lab.study.samples import LOOP

CYCLES = (1, 10, 18, 22)  # of the paper, recovered
CONTROLS = {"B-rise": ("no tuning", "mean"), "B-filter": ("no novelty filter", "over")}  # claim -> control, measure
RATES = {"valid": "valid", "mean": "mean", "best": "best", "share-40": "over_threshold"}  # claim's name -> our column


def recorded(audit: pd.DataFrame, within: Estimate) -> dict[str, Measured]:
    """What LEMUR's records say of first-epoch accuracy as a guide, by the claim's id. ``audit``: as of
    ``proxy_audit.audit``; ``within``: mean rank correlation among the variants of one configuration."""
    five = _cifar_10(audit, "fixed_protocol", 5)
    return {
        "B-first-epoch-guide": Measured(
            Estimate.of(_cifar_10(audit, "one_run", 5), "spearman", "clusters"),
            f"On the seven data sets {_span(audit, 'one_run')}; with hyperparameters held {_span(audit, ADJUSTED)}.",
        ),
        "B-first-epoch-architecture": Measured(
            Estimate.of(five, "spearman", "clusters"),
            f"{five['n']} networks of {five['clusters']} configurations. {100 * five['top_decile_kept']:.0f} % of the "
            f"best tenth at epoch 1 are among the best tenth at epoch 5. Within a configuration: {within.value:.2f}.",
        ),
    }


def _span(audit: pd.DataFrame, unit: str) -> str:
    rows = audit[(audit["unit"] == unit) & (audit["epoch"] == 5)]["spearman"]
    return f"{rows.min():.2f} to {rows.max():.2f}"


def _cifar_10(audit: pd.DataFrame, unit: str, epoch: int) -> pd.Series:
    rows = audit[(audit["unit"] == unit) & (audit["dataset"] == "cifar-10") & (audit["epoch"] == epoch)]
    return rows.iloc[0]


def measure(
    pooled: pd.DataFrame, per_cycle: pd.DataFrame, controls: pd.DataFrame, transfer: pd.DataFrame, published: bool
) -> dict[str, Measured]:
    """What the loop says to each claim, by the claim's id. Of one number a run, runs are the unit: one has no interval.

    Args:
        pooled, per_cycle, controls: as ``tables.pooled_cycles``, ``cycle_table`` and ``controls_table`` return.
        transfer: as ``runs.transfer_table`` returns; its last row has the mean accuracy on all other data sets.
        published: whether the run is one of the paper's own protocol.
    """
    loop, runs = (table[table["arm"] == LOOP] for table in (pooled, per_cycle))
    if loop.empty:
        return {}
    measured = {}
    for cycle, (name, column) in ((cycle, rate) for cycle in CYCLES for rate in RATES.items()):
        rows = loop[loop["cycle"] == cycle]
        if len(rows):
            measured[f"B-cycle-{cycle}-{name}"] = _in_per_cent(rows.iloc[0], column)
    of_cycles = runs.assign(rate=100 * runs["valid"] / runs["sampled"], mean=100 * runs["mean"]).groupby("seed")
    recovered = runs[runs["cycle"].isin(CYCLES)].groupby("seed")
    measured["B-mean-accuracy"] = intervals.t_interval(of_cycles["mean"].mean()).within(0, 100)
    measured["B-mean-valid"] = intervals.t_interval(of_cycles["rate"].mean()).within(0, 100)
    measured["B-peak-valid"] = intervals.t_interval(of_cycles["rate"].max()).within(0, 100)
    measured["B-novel-total"] = intervals.t_interval(of_cycles["novel"].sum())
    measured["B-novel-cycles"] = intervals.t_interval(recovered["novel"].sum())
    for key, (control, measure_) in CONTROLS.items():
        rows = controls[(controls["control"] == control) & (controls["measure"] == measure_)]
        if len(rows):
            measured[key] = Estimate.of(rows.iloc[0], "difference").scaled(100)
    if len(transfer):
        measured["B-transfer"] = Estimate.of(transfer.iloc[-1], "difference").scaled(100)
    if published:
        return {key: Measured(value) for key, value in measured.items()}
    return {key: Measured(None, f"Our scaled loop: {_text(value)}.") for key, value in measured.items()}


def not_run(reason: str) -> dict[str, Measured]:
    """What :func:`measure` would say to each claim, had the loop been run: the ``reason`` why it was not."""
    own = ("B-cycle-", "B-mean-", "B-peak-", "B-novel-", "B-rise", "B-filter", "B-transfer")
    return {key: Measured(None, reason) for key in load_claims() if key.startswith(own)}


def _in_per_cent(row: pd.Series, column: str) -> Estimate:
    value = float(row[column])
    low, high = (float(row.get(f"{column}_{end}", np.nan)) for end in ("low", "high"))
    n = int(row["sampled"] if column == "valid" else row["trained"])
    return Estimate(100 * value, 100 * low, 100 * high, n)


def _text(estimate: Estimate) -> str:
    if not np.isfinite(estimate.value):
        return "no network could be trained"
    if np.isfinite([estimate.low, estimate.high]).all() and estimate.low < estimate.high:
        return f"{bracketed(estimate.value, estimate.low, estimate.high)}, n = {estimate.n}"
    return f"{estimate.value:.1f}, n = {estimate.n}"
