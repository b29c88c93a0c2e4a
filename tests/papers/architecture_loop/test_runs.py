"""What notebooks make of the loop's runs, and its settings varied one at a time."""

import numpy as np
import pandas as pd
import pytest

from nngpt_lab.ground.errors import UsageError
from nngpt_lab.papers.architecture_loop import runs as paper_runs
from nngpt_lab.papers.architecture_loop import settings
from nngpt_lab.papers.architecture_loop.base_model import threshold_labels
from nngpt_lab.papers.architecture_loop.design import DEMO, PAPER
from nngpt_lab.papers.architecture_loop.runs import LoopRuns
from tests.helpers.loop_candidates import frame, row

CORPUS = pd.DataFrame({"name": ["net"], "family": ["ga"], "code": ["known = 1"]})


def runs(candidates: pd.DataFrame, transfer: pd.DataFrame | None = None) -> LoopRuns:
    moved = pd.DataFrame() if transfer is None else transfer
    return LoopRuns(candidates, pd.DataFrame(), (0.5, 0.4, 0.3), moved, {"a": "x = 1", "b": "x = 2"}, CORPUS)


def test_labels_say_what_a_threshold_is():
    assert threshold_labels(PAPER, PAPER.thresholds) == ["40 %", "35 %", "30 %"]
    assert threshold_labels(DEMO, (0.71, 0.6, 0.5))[0] == "71.0 % (70 % quantile of the base model)"


def test_the_best_network_is_the_loops_own():
    candidates = frame(
        [
            row(score=0.4, code_hash="a"),
            row(position=1, score=0.8, code_hash="b", cycle=2, jaccard=0.61),
            row(position=2),
            row(arm="no tuning", score=0.9, code_hash="a"),
        ]
    )
    best = paper_runs.best_network(runs(candidates))
    assert (best.code, best.nearest_code) == ("x = 2", "known = 1")
    assert best.summary.startswith("80.0 % on the holdout, the best of 2; 1,000 parameters; seed 0, cycle 2")
    assert "net, Jaccard 0.61" in best.summary


def test_without_a_trained_network_there_is_no_best():
    best = paper_runs.best_network(runs(frame([row()])))
    assert best.code == "" and "could be trained" in best.summary


def test_transfer_is_tuned_minus_base_of_the_same_seed():
    scores = [0.2, 0.3, np.nan, np.nan, 0.5, 0.6, 0.7, np.nan]
    one = pd.DataFrame({"dataset": "svhn", "model": ["base"] * 4 + ["tuned"] * 4, "seed": 0, "score": scores})
    found = paper_runs.transfer_table(runs(frame([row()]), one)).set_index("measure")
    assert found.loc["trained, of the samples", ["base", "tuned", "difference"]].tolist() == [0.5, 0.75, 0.25]
    assert found.loc["mean accuracy", "difference"] == pytest.approx(0.35)
    assert found["difference_low"].isna().all() and set(found["method"]) == {"one seed: no interval"}
    assert paper_runs.transfer_table(runs(frame([row()]))).empty


def test_transfer_to_several_data_sets_counts_each_alike_and_each_seed_once():
    gains = {
        ("svhn", 0): 0.1,
        ("svhn", 1): 0.2,
        ("svhn", 2): 0.3,
        ("mnist", 0): 0.3,
        ("mnist", 1): 0.2,
        ("mnist", 2): 0.4,
    }
    table = pd.DataFrame(
        [
            {"dataset": dataset, "model": model, "seed": seed, "score": 0.4 + gain * (model == "tuned")}
            for (dataset, seed), gain in gains.items()
            for model in ("base", "tuned")
            for _ in range(9 if dataset == "svhn" else 2)  # more samples there are no more weight
        ]
    )
    last = paper_runs.transfer_table(runs(frame([row()]), table)).iloc[-1]
    assert (last["dataset"], last["measure"], last["n"]) == ("all", "mean accuracy", 3)
    assert last["difference"] == pytest.approx(0.25)
    of_seeds = np.array([0.2, 0.2, 0.35])
    half = 4.302653 * of_seeds.std(ddof=1) / np.sqrt(3)
    assert last["difference_high"] - last["difference"] == pytest.approx(half, rel=1e-5)


# ------------------------------------------------------------------------------------------------------------ settings


def test_every_variation_changes_one_thing():
    found = dict(settings.variations(DEMO, list(settings.AXES)))
    assert found.pop("loop") == DEMO and len(found) == sum(len(values) for _, values in settings.AXES.values())
    assert len({design.hash() for design in found.values()} | {DEMO.hash()}) == len(found) + 1
    for name, design in found.items():
        changed = [field for field, value in vars(design).items() if value != getattr(DEMO, field)]
        assert len(changed) == 1, name


def test_a_variation_that_changes_nothing_is_left_out():
    names = [name for name, _ in settings.variations(DEMO, ["epochs"])]
    assert names == ["loop", "epochs 1", "epochs 5"]
    one = settings.changed(DEMO, "epochs", 1)
    assert [name for name, _ in settings.variations(one, ["epochs"])] == ["loop", "epochs 5"]


def test_an_unknown_setting_is_refused():
    with pytest.raises(UsageError, match="did you mean 'rank'"):
        list(settings.variations(DEMO, ["ranks"]))
