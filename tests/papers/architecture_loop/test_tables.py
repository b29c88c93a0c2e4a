"""The loop's tables: counted by hand on a few rows, recovered by the intervals on made-up runs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from nngpt_lab.ground.errors import UsageError
from nngpt_lab.papers.architecture_loop import tables as paper_tables
from nngpt_lab.sandbox.status import VALID, Status
from nngpt_lab.statistics import intervals
from nngpt_lab.study import comparison
from nngpt_lab.study.samples import STAGES
from tests.helpers.loop_candidates import ALL_ARMS, frame, row, runs

THRESHOLDS = (0.5, 0.4, 0.3)
RESAMPLES = 200


@pytest.fixture
def rng():
    return np.random.default_rng(1)


@pytest.fixture
def by_hand():
    """Two cycles: in the first 5 samples, 3 trained and 1 of them novel; in the second nothing is valid."""
    chosen = {"passed": True, "accepted": True}
    return frame(
        [
            row(position=0, score=0.5, novel=True, **chosen, code_hash="new"),
            row(position=1, score=0.45, status="ok"),
            row(position=2, score=0.1),
            row(position=3, status="non_finite"),
            row(position=4, status="shape"),
            row(cycle=2, position=0, tuning=9.0),
            row(cycle=2, position=1, tuning=9.0),
        ]
    )


def test_a_cycle_is_counted_as_by_hand(by_hand):
    first, second = paper_tables.cycle_table(by_hand, THRESHOLDS, "demo", "digits").to_dict("records")
    assert (first["profile"], first["protocol"], first["arm"], first["seed"]) == ("demo", "digits", "loop", 0)
    assert (first["sampled"], first["valid"], first["trained"]) == (5, 4, 3)
    assert (first["mean"], first["median"], first["best"]) == pytest.approx((0.35, 0.45, 0.5))
    assert [first[name] for name in paper_tables.SHARES] == pytest.approx([1 / 3, 2 / 3, 2 / 3])  # at or over
    assert (first["accepted"], first["novel"], first["cumulative_novel"], first["tokens"]) == (1, 1, 1, 50)
    assert [first[f"{stage}_seconds"] for stage in STAGES] == [4.0, 3.0, 0.5, 2.5]
    assert (second["sampled"], second["valid"], second["trained"], second["cumulative_novel"]) == (2, 0, 0, 1)
    assert np.isnan([second[name] for name in ("mean", "median", "best", *paper_tables.SHARES)]).all()
    assert second["tuning_seconds"] == 9.0


def test_the_table_has_the_issues_columns(by_hand):
    columns = "profile protocol arm seed cycle sampled valid trained mean median best"
    columns += " over_threshold over_second over_third accepted novel cumulative_novel tokens"
    columns += " sampling_seconds evaluation_seconds selection_seconds tuning_seconds"
    assert list(paper_tables.cycle_table(by_hand, THRESHOLDS, "demo", "digits")) == columns.split()
    columns = "arm seed cycle code_hash score parameters nearest jaccard novel"
    assert list(paper_tables.accepted_table(by_hand)) == columns.split()


def test_valid_is_what_the_loop_calls_valid():
    assert set(VALID) == {Status.OK, Status.NON_FINITE}


def test_near_copies_that_an_arm_accepts_are_not_novel():
    chosen = {"score": 0.6, "passed": True, "accepted": True}
    rows = frame([row(position=0, novel=False, **chosen), row(position=1, novel=True, **chosen)])
    table = paper_tables.cycle_table(rows, THRESHOLDS, "demo", "digits")
    assert table[["accepted", "novel", "cumulative_novel"]].to_numpy().tolist() == [[2, 1, 1]]
    assert len(paper_tables.accepted_table(rows)) == 2


def test_novel_networks_accumulate_within_a_run_only():
    table = paper_tables.cycle_table(runs(), THRESHOLDS, "demo", "digits")
    for _, run in table.groupby(["arm", "seed"]):
        assert run["cumulative_novel"].tolist() == run["novel"].cumsum().tolist()
    assert list(dict.fromkeys(table["arm"])) == list(ALL_ARMS)


def test_the_order_of_the_rows_does_not_matter(rng):
    candidates = runs(("loop", "no tuning"))
    shuffled = candidates.sample(frac=1, random_state=0)
    tables = [paper_tables.cycle_table(one, THRESHOLDS, "demo", "digits") for one in (candidates, shuffled)]
    pd.testing.assert_frame_equal(*tables)


@pytest.mark.parametrize("rows", [[], [row(), row()]], ids=["none", "the same sample twice"])
def test_no_table_without_sound_candidates(rows):
    candidates = frame(rows) if rows else runs(cycles=1).iloc[:0]
    with pytest.raises(UsageError):
        paper_tables.cycle_table(candidates, THRESHOLDS, "demo", "digits")
    with pytest.raises(UsageError):
        paper_tables.controls_table(candidates, THRESHOLDS)


# --------------------------------------------------------------------------------------------------------------- pooled


def test_pooled_shares_are_wilson_over_all_seeds(rng):
    candidates = runs()
    table = paper_tables.pooled_cycles(candidates, THRESHOLDS, rng, RESAMPLES)
    part = candidates.query("arm == 'loop' and cycle == 3")
    line = table.query("arm == 'loop' and cycle == 3").iloc[0]
    valid = intervals.wilson(part["status"].isin(["ok", "non_finite"]).sum(), len(part))
    over = intervals.wilson((part["score"] >= 0.4).sum(), part["score"].notna().sum())
    assert (line["valid"], line["valid_low"], line["valid_high"]) == (valid.value, valid.low, valid.high)
    assert (line["over_second"], line["over_second_low"], line["over_second_high"]) == (over.value, over.low, over.high)
    assert (line["seeds"], line["sampled"], line["unit"]) == (3, 36, "seeds")
    bests = part.groupby("seed")["score"].max()
    assert (line["best"], line["best_lowest"], line["best_highest"]) == (bests.mean(), bests.min(), bests.max())


def test_of_three_seeds_runs_are_the_unit(rng):
    """Runs that differ among themselves but not within: resampling candidates would see almost no spread."""
    rows = [
        row(seed=seed, position=i, score=0.3 + 0.2 * seed + 0.001 * i, code_hash=str(i))
        for seed in range(3)
        for i in range(20)
    ]
    three = paper_tables.pooled_cycles(frame(rows), THRESHOLDS, rng, 2000).iloc[0]
    reach = stats.t.ppf(0.975, 2) * 0.2 / np.sqrt(3)
    assert (three["mean_low"], three["mean_high"]) == pytest.approx((0.5095 - reach, 0.5095 + reach), abs=1e-9)
    two = paper_tables.pooled_cycles(frame(rows[:40]), THRESHOLDS, rng, 2000).iloc[0]
    assert two["unit"] == "candidates"
    assert two["mean_high"] - two["mean_low"] < 0.08


def test_the_bootstrap_agrees_with_the_normal_interval(rng):
    scores = rng.normal(0.5, 0.1, 400)
    rows = frame([row(position=i, score=score) for i, score in enumerate(scores)])
    line = paper_tables.pooled_cycles(rows, THRESHOLDS, rng, 4000).iloc[0]
    reach = 1.96 * scores.std(ddof=1) / 20
    assert (line["mean_low"], line["mean_high"]) == pytest.approx(
        (scores.mean() - reach, scores.mean() + reach), abs=1e-3
    )
    assert line["median_low"] < line["median"] < line["median_high"]


def test_the_same_generator_gives_the_same_table():
    candidates = runs(seeds=2)
    pooled = [paper_tables.pooled_cycles(candidates, THRESHOLDS, np.random.default_rng(5), 100) for _ in range(2)]
    pd.testing.assert_frame_equal(*pooled)


# ---------------------------------------------------------------------------------------------------------- comparisons


def test_controls_are_paired_by_seed(rng):
    candidates = runs()
    table = paper_tables.controls_table(candidates, THRESHOLDS, last=2)
    expected = [(control, measure) for control in ALL_ARMS[1:] for measure in paper_tables.MEASURES]
    assert list(table[["control", "measure"]].itertuples(index=False, name=None)) == expected
    late = candidates[candidates["cycle"] >= 7]
    means = late.groupby(["arm", "seed"])["score"].mean().unstack("arm")
    difference = means["loop"] - means["no tuning"]
    interval = stats.t.interval(0.95, 2, difference.mean(), stats.sem(difference))
    line = table.query("control == 'no tuning' and measure == 'mean'").iloc[0]
    assert (line["loop"], line["control_value"]) == pytest.approx((means["loop"].mean(), means["no tuning"].mean()))
    found = line[["difference", "difference_low", "difference_high"]].astype(float)
    assert tuple(found) == pytest.approx((difference.mean(), *interval))
    assert (line["n"], line["method"]) == (3, comparison.PAIRED)


def test_what_all_seeds_share_does_not_widen_a_paired_interval(rng):
    """Seeds far apart, the loop 0.10 to 0.12 above its control in each: only pairing sees that."""
    rows = [
        row(arm=arm, seed=seed, position=i, score=0.2 * seed + gain, code_hash=f"{arm} {seed} {i}")
        for seed, better in enumerate((0.10, 0.11, 0.12))
        for arm, gain in (("loop", 0.1 + better), ("no tuning", 0.1))
        for i in range(4)
    ]
    table = paper_tables.controls_table(frame(rows), THRESHOLDS)
    line = table[table["measure"] == "mean"].iloc[0]
    assert 0.08 < line["difference_low"] < 0.11 < line["difference_high"] < 0.14


def test_seeds_without_a_partner_are_left_out(rng):
    candidates = runs(("loop", "no tuning"))
    alone = candidates[candidates["arm"].eq("loop") | candidates["seed"].eq(1)]
    table = paper_tables.controls_table(alone, THRESHOLDS, last=2).set_index("measure")
    loop = candidates.query("arm == 'loop' and seed == 1 and cycle >= 7")
    assert table.loc["mean", "loop"] == pytest.approx(loop["score"].mean())
    assert set(table["method"]) == {"one seed: no interval"} and set(table["n"]) == {1}
    assert table["difference"].notna().all() and table[["difference_low", "difference_high"]].isna().all(axis=None)


def test_the_windows_end_where_the_shorter_run_ends(rng):
    candidates = runs(("loop", "no tuning"), seeds=1)
    cut = candidates[candidates["arm"].eq("loop") | candidates["cycle"].le(3)]
    table = paper_tables.controls_table(cut, THRESHOLDS, last=2).set_index("measure")
    assert table.loc["mean", "loop"] == pytest.approx(
        candidates.query("arm == 'loop' and 2 <= cycle <= 3")["score"].mean()
    )


def test_equal_differences_are_no_certainty(rng):
    rows = [row(arm=arm, seed=seed, position=i) for arm in ("loop", "no tuning") for seed in range(3) for i in range(4)]
    line = paper_tables.controls_table(frame(rows), THRESHOLDS).set_index("measure").loc["valid"]
    assert line["difference"] == 0 and np.isnan(line["difference_low"]) and line["method"] == comparison.EQUAL


def test_a_network_written_twice_counts_once(rng):
    chosen = {"score": 0.6, "passed": True, "accepted": True, "novel": True}
    rows = [row(arm=arm, position=i, **chosen, code_hash="same") for arm in ("loop", "no tuning") for i in range(4)]
    table = paper_tables.controls_table(frame(rows), THRESHOLDS).set_index("measure")
    assert table.loc["novel", "loop"] == 0.25


def test_the_rise_leaves_the_first_cycle_out_of_the_last(rng):
    candidates = runs(("loop",), cycles=3)
    table = paper_tables.rise_table(candidates, THRESHOLDS, last=5).set_index("measure")
    late = candidates[candidates["cycle"] > 1].groupby("seed")["score"].mean()
    first = candidates[candidates["cycle"] == 1].groupby("seed")["score"].mean()
    assert table.loc["mean", "difference"] == pytest.approx((late - first).mean())
    best = candidates.groupby(["seed", "cycle"])["score"].max().unstack("cycle")
    assert table.loc["best", "difference"] == pytest.approx((best[[2, 3]].mean(axis=1) - best[1]).mean())


def test_no_comparison_without_a_loop_or_a_second_cycle(rng):
    assert paper_tables.controls_table(runs(("no tuning",)), THRESHOLDS).empty
    assert paper_tables.controls_table(runs(("loop",)), THRESHOLDS).empty
    assert paper_tables.rise_table(runs(cycles=1), THRESHOLDS).empty


def test_everything_stands_the_smallest_run_and_one_in_which_nothing_is_valid(rng):
    for dead in ((), (1,), (2,), (1, 2)):
        candidates = runs(("loop", "no tuning"), seeds=1, cycles=2, samples=6, dead=dead)
        assert len(paper_tables.pooled_cycles(candidates, THRESHOLDS, rng, RESAMPLES)) == 4
        assert len(paper_tables.controls_table(candidates, THRESHOLDS)) == 5
        rise = paper_tables.rise_table(candidates, THRESHOLDS).set_index(["arm", "measure"])
        assert np.isnan(rise.loc[("loop", "mean"), "difference"]) == bool(dead)


# ------------------------------------------------------------------------------------------------- failures and copies


def test_failures_have_every_status_in_every_cycle(by_hand):
    table = paper_tables.failure_table(by_hand)
    assert table["status"].tolist() == ["ok", "syntax", "shape", "non_finite"] * 2
    assert table["count"].tolist() == [3, 0, 1, 1, 0, 2, 0, 0]
    assert table.groupby("cycle")["share"].sum().tolist() == pytest.approx([1, 1])


def test_likeness_to_the_corpus_is_summed_up_per_cycle_and_form():
    rows = [
        {"arm": "loop", "cycle": cycle, "form": form, "jaccard": value, "verbatim": value == 1.0, "renamed": False}
        for form in ("nn_dup", "structure")
        for cycle, values in ((2, (0.5, 0.7, 1.0, 0.6)), (1, (0.2,)))
        for value in values
    ]
    table = paper_tables.memorisation_table(pd.DataFrame(rows))
    assert table["cycle"].tolist() == [1, 1, 2, 2]
    line = table.query("cycle == 2 and form == 'nn_dup'").iloc[0]
    assert (line["networks"], line["median"], line["verbatim"]) == pytest.approx((4, 0.65, 0.25))
    assert (line["lower_quartile"], line["upper_quartile"]) == pytest.approx((0.575, 0.775))
    assert line["verbatim_low"] < 0.25 < line["verbatim_high"] and line["renamed"] == 0
    assert list(paper_tables.memorisation_table(pd.DataFrame(rows).iloc[:0])) == list(table)
