"""What a run of the loop may say of the paper's claims, and what it may not."""

import numpy as np
import pandas as pd
import pytest

from nngpt_lab.papers.architecture_loop import claims as paper_claims
from nngpt_lab.papers.architecture_loop import tables
from nngpt_lab.papers.architecture_loop.lemur_overview import CYCLES
from nngpt_lab.statistics import claims
from nngpt_lab.statistics.intervals import exact
from tests.helpers.loop_candidates import runs

THRESHOLDS = (0.5, 0.4, 0.3)


def measured(published, arms=("loop", "no tuning"), cycles=22):
    candidates = runs(arms, seeds=3, cycles=cycles)
    pooled = tables.pooled_cycles(candidates, THRESHOLDS, np.random.default_rng(0), 50)
    per_cycle = tables.cycle_table(candidates, THRESHOLDS, "demo", "digits")
    controls = tables.controls_table(candidates, THRESHOLDS)
    moved = pd.DataFrame({"difference": [0.02, 0.05], "difference_low": 0.01, "difference_high": 0.09, "n": 3})
    return per_cycle, paper_claims.measure(pooled, per_cycle, controls, moved[: 2 if len(controls) else 0], published)


def test_a_scaled_run_adds_notes_and_decides_nothing():
    _, found = measured(published=False)
    assert all(one.estimate is None and one.note.startswith("Our scaled loop") for one in found.values())
    table = claims.claims_table("B", _with(found))
    loop = table[table["claim_id"].isin(found)]
    assert len(loop) == len(found) == 23 and set(loop["verdict"]) == {"not yet run"}


def _with(found):
    known = ("B-first-epoch-guide", "B-first-epoch-architecture")
    return found | dict.fromkeys(known, claims.Measured(exact(0.5, 40)))


def test_the_published_protocol_decides():
    per_cycle, found = measured(published=True)
    assert set(found) <= set(claims.load_claims())
    table = claims.claims_table("B", _with(found)).set_index("claim_id")
    assert set(table.loc[list(found), "verdict"]) <= {
        "reproduced",
        "not reproduced",
        "no effect",
        "inconclusive",
        "not tested",
    }
    rise = found["B-rise"].estimate
    assert rise.n == 3 and np.isfinite([rise.low, rise.high]).all() and "B-filter" not in found
    assert found["B-transfer"].estimate.value == pytest.approx(5) and found["B-transfer"].estimate.n == 3
    loop = per_cycle[per_cycle["arm"] == "loop"]
    assert found["B-novel-total"].estimate.value == pytest.approx(loop.groupby("seed")["novel"].sum().mean())
    assert found["B-mean-accuracy"].estimate.value == pytest.approx(100 * loop["mean"].mean())
    assert found["B-cycle-18-valid"].estimate.n == loop[loop["cycle"] == 18]["sampled"].sum()
    peaks = (loop["valid"] / loop["sampled"]).groupby(loop["seed"]).max()
    assert found["B-peak-valid"].estimate.value == pytest.approx(100 * peaks.mean())
    assert found["B-mean-accuracy"].estimate.n == found["B-peak-valid"].estimate.n == 3  # runs are the unit


def test_a_run_without_the_loop_says_nothing_and_a_short_one_less():
    assert measured(True, arms=("no tuning",))[1] == {}
    assert "B-cycle-10-mean" not in measured(True, cycles=5)[1]


def test_the_records_answer_for_the_guide():
    columns = ["unit", "dataset", "epoch", "n", "clusters", "spearman", "spearman_low", "spearman_high"]
    audit = pd.DataFrame(
        [
            ("fixed_protocol", "cifar-10", 5, 964, 29, 0.36, -0.01, 0.66),
            ("one_run", "cifar-10", 5, 2433, 1515, 0.73, 0.65, 0.81),
            ("one_run", "svhn", 5, 1743, 900, 0.58, 0.54, 0.62),
            ("hyperparameters", "svhn", 5, 1743, 900, 0.31, 0.27, 0.36),
        ],
        columns=columns,
    ).assign(top_decile_kept=0.25)
    table = claims.claims_table("B", paper_claims.recorded(audit, exact(0.1, 29))).set_index("claim_id")
    guide, strict = table.loc["B-first-epoch-guide"], table.loc["B-first-epoch-architecture"]
    assert guide[["our_value", "ci_low", "ci_high", "n"]].to_list() == [0.73, 0.65, 0.81, 1515]
    assert guide["verdict"] == "reproduced" and "0.58 to 0.73; with hyperparameters held 0.31" in guide["note"]
    assert strict[["our_value", "ci_low", "ci_high", "n"]].to_list() == [0.36, -0.01, 0.66, 29]
    assert strict["verdict"] == "inconclusive" and "29 configurations. 25 % of the best tenth" in strict["note"]
    assert "configuration: 0.10." in strict["note"]


def test_the_paper_s_shares_rest_on_the_counts_that_give_them():
    known = claims.load_claims()
    for cycle in CYCLES.itertuples():
        valid, share = known[f"B-cycle-{cycle.cycle}-valid"], known[f"B-cycle-{cycle.cycle}-share-40"]
        assert (valid.n, share.n) == (cycle.generated, cycle.trained)
        assert (round(valid.value * valid.n / 100), round(share.value * share.n / 100)) == (cycle.valid, cycle.over_40)
