"""Tables of paper A's live loop: counts, intervals, comparisons, and what they say when there is little to say."""

import numpy as np
import pandas as pd
import pytest

from nngpt_lab.ground.errors import UsageError
from nngpt_lab.papers.augmentation_search import tables as live
from nngpt_lab.study import comparison
from tests.helpers.live_candidates import policies, row, runs, start


def rng():
    return np.random.default_rng(0)


def frame(*rows: dict) -> pd.DataFrame:
    return pd.DataFrame(list(rows))


# ---------------------------------------------------------------------------------------------------------- LLM epochs


def test_an_epoch_is_counted():
    table = live.epoch_table(
        frame(
            row(position=0, score=0.5, accepted=True),
            row(position=1, score=0.7),
            row(position=2, status="duplicate", valid=True, operations=("Pad",), parameters="[{}]", copy=True),
            row(position=3, status="duplicate", valid=False),
            row(position=4),
            row(epoch=2, position=0, score=0.6),
            row(epoch=3, position=0),
        ),
        "demo",
        "digits",
    )
    first = table.iloc[0]
    assert (first["sampled"], first["valid"], first["duplicates"], first["trained"], first["accepted"]) == (
        5,
        3,
        2,
        2,
        1,
    )
    assert (first["mean"], first["best"], first["tokens"]) == (pytest.approx(0.6), 0.7, 50)
    assert table["best_so_far"].tolist() == [0.7, 0.7, 0.7] and table["evaluated"].tolist() == [2, 3, 3]
    assert np.isnan(table["best"][2]) and table["sampling_seconds"].tolist() == [4, 4, 4]
    assert set(table["profile"]) == {"demo"} and set(table["protocol"]) == {"digits"}


def test_each_run_has_a_best_so_far_of_its_own():
    table = live.epoch_table(runs(), "demo", "digits")
    assert len(table) == 4 * 3 * 6 and table["arm"].iloc[0] == "loop"
    for _, part in table.groupby(["arm", "seed"]):
        assert (part["best_so_far"].to_numpy() == np.maximum.accumulate(part["best"])).all()


def test_copies_of_what_runs_are_valid_in_the_pooled_rate():
    copied = frame(row(score=0.5), row(position=1, status="duplicate", valid=True), row(position=2))
    table = live.pooled_epochs(copied, rng(), 50)
    assert table["valid"][0] == pytest.approx(2 / 3) and table["trained"][0] == 1
    assert {"epoch", "mean_low", "best_highest", "unit"} <= set(table.columns) and "over_threshold" not in table


def test_a_curve_ends_with_its_shortest_seed():
    table = live.search_curve(
        frame(
            row(epoch=2, position=0, score=0.9),
            row(epoch=1, position=1, score=0.3),
            row(epoch=1, position=0, score=0.5),
            row(seed=1, epoch=1, position=0, score=0.1),
            row(seed=1, epoch=1, position=1, score=0.2),
        )
    )
    assert table["evaluations"].tolist() == [1, 2] and table["seeds"].tolist() == [2, 2]
    assert table["best"].tolist() == pytest.approx([0.3, 0.35]) and table["highest"].tolist() == [0.5, 0.5]
    assert live.search_curve(frame(row())).empty


# --------------------------------------------------------------------------------------------------------- comparisons


def test_controls_are_paired_over_seeds():
    table = live.controls_table(runs())
    assert len(table) == 3 * len(live.MEASURES) and set(table["n"]) == {3}
    mean = table[table["measure"] == "mean"]
    assert (mean["difference_low"] > 0).all() and (mean["method"] == comparison.PAIRED).all()
    valid = table[table["measure"] == "valid"]
    assert (valid["method"] == comparison.EQUAL).all() and valid["difference_low"].isna().all()
    candidates = runs()
    late = candidates[candidates["epoch"] > 4].groupby(["arm", "seed"])["score"].mean()
    assert mean["difference"].iloc[0] == pytest.approx((late["loop"] - late["no tuning"]).mean())


def test_best_at_equal_evaluations_does_not_reward_more_of_them():
    loop = [row(position=i, score=score) for i, score in enumerate((0.4, 0.5, 0.9))]
    control = [row(arm="no tuning", position=i, score=score) for i, score in enumerate((0.6, 0.2))]
    table = live.controls_table(frame(*loop, *control)).set_index("measure")
    assert table.loc["best", "difference"] == pytest.approx(0.3)
    assert table.loc["best_at_equal", "difference"] == pytest.approx(-0.1)


def test_one_run_has_no_interval():
    table = live.controls_table(runs(seeds=1))
    assert set(table["method"]) == {"one seed: no interval"} and table["difference"].notna().all()
    assert table[["difference_low", "difference_high"]].isna().all(axis=None)


def test_nothing_trained_compares_nothing():
    table = live.controls_table(frame(row(), row(arm="no tuning"))).set_index("measure")
    assert np.isnan(table.loc["mean", "difference"]) and table.loc["mean", "n"] == 0  # of seeds that have a mean
    assert table.loc["valid", "difference"] == 0
    assert live.controls_table(frame(row(score=0.1))).empty
    assert live.controls_table(frame(row(arm="no tuning", score=0.1))).empty


def test_policies_are_compared_with_none_seed_by_seed():
    table = live.policy_table(policies()).set_index(["epochs", "policy"])
    assert table.loc[(1, "best of loop"), "gain"] == pytest.approx(0.05) and table.loc[(1, "best of loop"), "n"] == 2
    assert table.loc[(5, "RandAugment"), "mean"] == pytest.approx(0.66)
    assert table.loc[(1, "RandAugment"), "mean_low"] < 0.46 < table.loc[(1, "RandAugment"), "mean_high"]
    assert table.loc[(1, "AutoAugment"), ["n", "failed"]].tolist() == [0, 1]
    assert np.isnan(table.loc[(1, "AutoAugment"), "mean"]) and table.loc[(5, "no augmentation"), "gain"] == 0


def test_agreement_says_what_can_be_compared():
    table = live.agreement_table(start(), rng(), 200)
    assert table["functions"][0] == 57 and table["failed"][0] == 3
    assert table["spearman_low"][0] > 0.9 and table["offset_low"][0] < 0.2 < table["offset_high"][0]
    assert "cannot be compared. Ranks can" in live.agreement_sentence(table, same_data=False)
    assert "offset of +20" in live.agreement_sentence(table, same_data=True)
    same = start().assign(score=lambda table: table["recorded"] + 0.01 * rng().normal(size=60))
    assert "can be compared within that" in live.agreement_sentence(live.agreement_table(same, rng(), 200), True)
    blind = start().assign(score=rng().random(60))
    assert "Not even ranks" in live.agreement_sentence(live.agreement_table(blind, rng(), 200), False)


def test_a_function_drawn_for_two_seeds_counts_once():
    twice = pd.concat([start(seeds=1), start(seeds=1).assign(seed=1)])
    assert live.agreement_table(twice, rng(), 20)["functions"][0] == 19


# ----------------------------------------------------------------------------------------------------------- functions


def test_operations_turn_where_the_loop_turns():
    table = live.operation_shift(runs(), start()).set_index(["arm", "part", "operation"])
    flip = "RandomHorizontalFlip"
    assert table.loc[("loop", live.LAST, flip), "share_low"] > table.loc[("loop", live.FIRST, flip), "share_high"]
    assert table.loc[("no tuning", live.LAST, flip), "share_low"] < 0.1
    assert table.loc[("", live.START, "CenterCrop"), "functions"] == 57
    assert table.loc[("", live.BEST_START, flip), "functions"] == 15
    assert table["share"].between(0, 1).all()


def test_parameters_are_compared_part_by_part():
    table = live.parameter_shift(runs()).set_index(["arm", "operation", "parameter"])
    found = table.loc[("loop", "RandomHorizontalFlip", "p")]
    assert found["difference_low"] > 0 and found["mean_last"] > found["mean_first"]
    one = '[{"scale": [0.5, 0.9], "fill": "x", "size": 32}, {"p": 0.5, "flag": true}]'
    two = frame(row(score=0.1, operations=("RandomResizedCrop", "RandomInvert"), parameters=one))
    keys = live.parameter_shift(two)[["operation", "parameter"]].to_numpy().tolist()
    assert keys == [["RandomInvert", "p"], *(["RandomResizedCrop", name] for name in ("scale[0]", "scale[1]", "size"))]


def test_novelty_counts_what_was_there():
    table = live.novelty_table(
        frame(
            row(position=0, score=0.5, known_sequence=True),
            row(position=1, score=0.5),
            row(position=2, score=0.5, status="duplicate", copy=True, known_sequence=True),
            row(position=3, score=0.5, status="duplicate"),
            row(position=4),
        )
    )
    found = table.iloc[0]
    assert (found["functions"], found["copies"], found["repeats"], found["known_sequences"]) == (4, 0.25, 0.25, 0.5)
    assert found["copies_low"] < 0.25 < found["copies_high"]


def test_thirds_of_few_epochs():
    counts = live.novelty_table(runs(arms=["loop"], seeds=1, epochs=4, samples=2))["functions"].tolist()
    assert counts == [2, 2]  # epochs 1 and 2, and 3 and 4


def test_what_is_wrong_is_said():
    with pytest.raises(UsageError, match="no candidates"):
        live.epoch_table(pd.DataFrame(), "demo", "digits")
    with pytest.raises(UsageError, match="twice"):
        live.controls_table(frame(row(), row()))


def test_analysis_needs_no_torch():
    import subprocess
    import sys

    code = "import sys; from nngpt_lab.papers.augmentation_search import figures, tables; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
