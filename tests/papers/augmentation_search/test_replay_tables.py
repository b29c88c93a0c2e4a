"""The replay's tables, on searches whose course is known."""

from __future__ import annotations

import subprocess
import sys
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from nngpt_lab.papers.augmentation_search import replay_figures, replay_tables
from nngpt_lab.papers.augmentation_search.replay_tables import RANDOM, Run
from nngpt_lab.papers.augmentation_search.scores import CHANCE
from nngpt_lab.statistics import intervals

NAN = np.nan


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def run(found, universe=None, method="it", n0=2, seed=0) -> Run:
    found = np.asarray(found, float)
    return Run(method, n0, seed, found, found if universe is None else np.asarray(universe, float))


# ------------------------------------------------------------------------------------------------------------- curves


def test_a_curve_is_the_best_so_far_and_a_failure_changes_nothing():
    table = replay_tables.curves([run([0.3, NAN, 0.2, 0.5, 0.4])])
    mine = table[table["method"] == "it"]
    assert mine["evaluated"].to_list() == [1, 2, 3, 4, 5]
    assert mine["best_so_far"].to_list() == [0.3, 0.3, 0.3, 0.5, 0.5]
    assert mine["quantile"].to_list() == [0.4, 0.4, 0.4, 0.8, 0.8]  # two of five are below 0.3


def test_a_search_that_begins_with_failures_holds_chance():
    assert replay_tables.curves([run([NAN, 0.3])])["best_so_far"].iloc[0] == CHANCE


def test_random_order_is_the_mean_over_all_orders():
    scores = np.array([0.3, NAN, 0.2, 0.5, 0.5])
    best = [np.maximum.accumulate(np.nan_to_num(order, nan=CHANCE)) for order in permutations(scores)]
    table = replay_tables.curves([run(scores)])
    exact = table[table["method"] == RANDOM]
    assert exact["best_so_far"].to_numpy() == pytest.approx(np.mean(best, axis=0))
    below = [np.searchsorted([CHANCE, 0.2, 0.3, 0.5, 0.5], one) / 5 for one in best]
    assert exact["quantile"].to_numpy() == pytest.approx(np.mean(below, axis=0))


def test_a_search_that_ends_early_has_a_curve_that_ends_there_and_random_order_is_there_once():
    universe = rng().random(400)
    table = replay_tables.curves([run(universe[:30], universe), run(universe, universe, "other")])
    assert table.groupby("method")["evaluated"].max().to_dict() == {"it": 30, "other": 400, RANDOM: 400}
    assert not table.duplicated(["method", "n0", "seed", "evaluated"]).any()
    assert len(table[table["method"] == RANDOM]) < 150


def test_bands_hold_the_mean_and_stop_where_the_first_seed_stops():
    runs = [run(rng(seed).permutation(60) / 60, seed=seed) for seed in range(8)]
    runs[3] = run(runs[3].scores[:20], runs[3].universe, seed=3)
    curve = replay_tables.curves(runs)
    band = replay_tables.bands(curve)
    mine = band[band["method"] == "it"]
    assert mine["evaluated"].max() <= 20 and set(mine["seeds"]) == {8}
    means = curve[curve["method"] == "it"].groupby("evaluated")["best_so_far"].mean()
    assert mine["best_so_far"].to_numpy() == pytest.approx(means[mine["evaluated"]].to_numpy())
    spread = mine["best_so_far_low"].notna()  # all searches may hold the same after the last of them
    assert spread.sum() > 5 and (mine["best_so_far_low"] < mine["best_so_far"])[spread].all()
    assert (mine["best_so_far_high"] > mine["best_so_far"])[spread].all()
    two = replay_tables.bands(curve[curve["seed"] < 2])
    assert two["best_so_far_low"].isna().all() and set(two["seeds"]) == {2}


# ------------------------------------------------------------------------------------------------- evaluations needed


def test_evaluations_are_counted_from_the_first_of_the_start_set():
    found = [NAN, 0.1, 0.9, 0.3, 1.0, *np.linspace(0.2, 0.8, 95)]
    table = replay_tables.needed([run(found)], (0.9, 0.99, 1.0)).set_index("target")
    assert table["evaluations"].to_dict() == {"top 10%": 3, "top 1%": 5, "best": 5}
    assert table["reached"].all()
    assert table["random"]["best"] == (100 + 1) / 2  # one of a hundred: half way on average
    hits = int((np.nan_to_num(found) >= table["score"]["top 10%"]).sum())
    assert hits == 10 and table["random"]["top 10%"] == intervals.expected_draws(100, 10)


def test_a_search_that_ended_before_the_target_says_so():
    universe = np.arange(10) / 10
    row = replay_tables.needed([run(universe[:4], universe)], (1.0,)).iloc[0]
    assert (row["evaluations"], row["reached"], row["random"]) == (4, False, 5.5)
    summary = replay_tables.summary(pd.DataFrame([row])).iloc[0]
    assert summary["reached"] == 0 and summary["seeds"] == 1


def test_a_random_order_needs_one_time_fewer():
    scores = rng().random(300)
    runs = [run(rng(seed).permutation(scores), seed=seed) for seed in range(1500)]
    found = replay_tables.summary(replay_tables.needed(runs, (0.9, 0.99, 1.0)))
    assert found["times_fewer"].to_numpy() == pytest.approx([1, 1, 1], abs=0.12)
    assert (found["times_fewer_high"] - found["times_fewer_low"]).between(0.05, 0.3).all()
    best = found.set_index("target").loc["best"]
    assert best["times_fewer_than_all"] == pytest.approx(300 / best["evaluations"])  # about 2 for mere luck


def test_a_method_is_compared_with_the_yardstick_seed_by_seed():
    scores = np.arange(100) / 100
    runs = []
    for seed in range(5):
        first = rng(seed).permutation(np.arange(10, 40))
        for name, stretch in (("it", 1), ("plain", 2)):
            found = np.zeros(100)
            found[first[0] * stretch - 1] = 0.99
            runs.append(Run(name, 2, seed, found, scores))
    table = replay_tables.needed(runs, (1.0,))
    found = replay_tables.summary(table, yardstick="plain", control="it").set_index("method")
    assert found["times_fewer_than_yardstick"].to_dict() == {"it": pytest.approx(2), "plain": pytest.approx(1)}
    assert found["times_fewer_than_control"].to_dict() == {"it": pytest.approx(1), "plain": pytest.approx(0.5)}
    assert "times_fewer_than_yardstick" not in replay_tables.summary(table)


def test_a_method_with_fewer_universes_is_compared_on_those_that_both_have():
    scores = np.arange(50) / 50
    runs = [run(rng(seed).permutation(scores), scores, "plain", 2, seed) for seed in range(120)]
    runs += [run(rng(seed + 500).permutation(scores), scores, "it", 2, seed) for seed in range(6)]
    table = replay_tables.needed(runs, (1.0,))
    found = replay_tables.summary(table, yardstick="plain").set_index("method")
    assert found["seeds"].to_dict() == {"plain": 120, "it": 6}
    needed = table.pivot(index="seed", columns="method", values="evaluations").dropna()
    assert len(needed) == 6
    typical = np.exp(np.log(needed["plain"] / needed["it"]).mean())
    assert found.loc["it", "times_fewer_than_yardstick"] == pytest.approx(typical)
    assert np.isfinite(found.loc["it", "times_fewer_than_yardstick_low"])
    assert np.isfinite(found.loc["plain", "times_fewer_low"]) and np.isnan(found.loc["it", "times_fewer_low"])


def test_the_sentence_quotes_the_smallest_start_set():
    universe = rng(3).permutation(1000) / 1000.0
    best_first = np.r_[universe[:2], np.sort(universe[2:])[::-1]]
    runs = [run(best_first, universe, "it", n0, seed) for n0 in (5, 2) for seed in (0, 1)]
    said = replay_tables.sentence(replay_tables.summary(replay_tables.needed(runs)), ["it"])
    expected = 1001 / 2 / 3  # random order needs 500.5 for the best one of 1,000, the method three
    assert f"it {expected:.1f}, no interval (2 universes)" in said
    assert "2 functions to learn from" in said and "top 0.1%" in said


# ------------------------------------------------------------------------------------------------------ first choices


def test_first_choices_are_those_after_the_start_set():
    found = [0.9, 0.8, 0.7, NAN, 0.1, *np.linspace(0.2, 0.6, 15)]
    table = replay_tables.choices([run(found, n0=1)], 3).set_index("method")
    row = table.loc["it"]
    assert row["mean_score"] == pytest.approx(0.75)
    assert row["top_tenth"] == pytest.approx(1 / 3)  # 0.8 is among the best two of nineteen, 0.7 is not
    assert table.loc[RANDOM, "mean_score"] == pytest.approx(np.nanmean(found))


def test_first_choices_that_all_failed_have_no_score():
    row = replay_tables.choices([run([0.5, 0.6, NAN, NAN])], 2).iloc[0]
    assert np.isnan(row["mean_score"]) and row["top_tenth"] == 0


def test_first_choices_are_compared_seed_by_seed():
    runs = []
    for seed in range(6):
        scores = rng(seed).permutation(40) / 40
        runs += [run(scores, method="control", seed=seed), run(scores + 0.1 * (seed % 2), method="it", seed=seed)]
    found = replay_tables.choices_summary(replay_tables.choices(runs, 10), "control").set_index("method")
    names = [f"mean_score_over_control{end}" for end in ("", "_low", "_high")]
    low, high = stats.ttest_1samp([0, 0.1] * 3, 0).confidence_interval()
    assert found.loc["it", names].to_list() == pytest.approx([0.05, low, high])
    none = [0, np.nan, np.nan]  # no spread, so no width
    assert found.loc["control", names].to_list() == pytest.approx(none, nan_ok=True)
    assert found.loc["it", "mean_score_low"] < found.loc["it", "mean_score"] < found.loc["it", "mean_score_high"]


# ----------------------------------------------------------------------------------------------------------- ordering


def ordering(scores, predicted, **options):
    sets = options.pop("sets", range(len(scores)))
    return replay_tables.ordering(
        np.asarray(scores, float), np.asarray(predicted, float), sets, 0.01, rng(), 100, **options
    )


def test_perfect_reversed_and_constant_predictions():
    scores = rng().random(30)
    assert ordering(scores, scores)["accuracy"] == 1
    assert ordering(scores, -scores)["accuracy"] == 0
    assert ordering(scores, np.zeros(30))["accuracy"] == 0.5


def test_accuracy_is_that_of_all_pairs_without_ties():
    scores, predicted = rng(1).integers(0, 9, 50) / 10, rng(2).random(50)
    found = ordering(scores, predicted)
    known = intervals.pair_agreement(scores, predicted, np.array([0, 10.0]))
    assert found["accuracy"] == pytest.approx(known["still_better"][0])
    assert found["pairs"] == known["pairs"][0]
    assert found["accuracy_low"] < found["accuracy"] < found["accuracy_high"]


def test_only_pairs_of_one_sequence_are_asked_for():
    """Within a sequence the prediction is right, between sequences wrong."""
    sequences = np.repeat(["Pad", "Pad+RandomCrop"], 10)
    scores = np.r_[np.arange(10), np.arange(20, 30)] / 30
    predicted = np.r_[np.arange(20, 30), np.arange(10)]
    found = ordering(scores, predicted, sequences=sequences)
    assert (found["accuracy"], found["pairs"], found["functions"]) == (1, 90, 20)
    assert ordering(scores, predicted)["accuracy"] < 0.5


def test_functions_that_are_alone_make_no_pairs():
    found = ordering([0.1, 0.2, 0.3], [1, 2, 3], sequences=["a", "b", "c"])
    assert found["pairs"] == 0 and np.isnan(found["accuracy"]) and np.isnan(found["oracle"])


def test_the_interval_knows_that_a_set_is_one_draw():
    """Forty copies of each of six functions say no more than six: the interval must not shrink with the copies."""
    scores, guess = rng(3).random(6), rng(4).random(6)
    once = replay_tables.ordering(scores, guess, range(6), 0.01, rng(), 400)
    copies = np.repeat(np.arange(6), 40)
    many = replay_tables.ordering(scores[copies], guess[copies], copies, 0.01, rng(), 400)
    assert many["accuracy"] == pytest.approx(once["accuracy"])
    width = [found["accuracy_high"] - found["accuracy_low"] for found in (once, many)]
    assert width[1] == pytest.approx(width[0], abs=0.1) and width[0] > 0.3


def test_ceilings_are_what_simulated_noise_leaves():
    draw, noise = rng(), 0.02
    true = draw.normal(0.5, 0.03, (2, 100_000))
    first, second = (true + draw.normal(0, noise, true.shape) for _ in range(2))
    gap = first[0] - first[1]
    found = replay_tables.ceilings(gap, noise)
    assert found["oracle"] == pytest.approx(np.mean(np.sign(true[0] - true[1]) == np.sign(gap)), abs=0.005)
    assert found["rerun"] == pytest.approx(np.mean(np.sign(second[0] - second[1]) == np.sign(gap)), abs=0.005)


def test_where_all_is_noise_nothing_can_be_ordered():
    assert replay_tables.ceilings(rng().normal(0, 0.001, 50), 0.02) == {"rerun": 0.5, "oracle": 0.5}


def test_ordering_summary_has_a_t_interval_over_seeds():
    values = [0.6, 0.7, 0.65]
    rows = [{"test": "a", "method": "m", "seed": i, "functions": 9, "pairs": 20, "accuracy": v, "accuracy_low": v - 0.1,
             "accuracy_high": v + 0.1, "rerun": 0.8, "oracle": 0.9} for i, v in enumerate(values)]  # fmt: skip
    row = replay_tables.ordering_summary(pd.DataFrame(rows)).iloc[0]
    low, high = stats.ttest_1samp(values, 0).confidence_interval()
    assert [row["accuracy"], row["accuracy_low"], row["accuracy_high"]] == pytest.approx([0.65, low, high])
    assert row["of_ceiling"] == pytest.approx(0.15 / 0.4)
    noise = replay_tables.ordering_summary(pd.DataFrame([rows[0] | {"oracle": 0.5}])).iloc[0]
    assert np.isnan(noise["of_ceiling"])  # a share of nothing
    alone = replay_tables.ordering_summary(pd.DataFrame(rows[:1])).iloc[0]
    assert [alone["accuracy_low"], alone["accuracy_high"]] == pytest.approx([0.5, 0.7])


# ------------------------------------------------------------------------------------------------------------ figures


def test_figures_show_every_method_and_target():
    methods = ("LLM, tuned", "ridge regression", "one that is not known")
    runs = [
        run(rng(seed).permutation(80) / 80, method=method, n0=n0, seed=seed)
        for method in methods
        for n0 in (10, 20)
        for seed in range(3)
    ]
    curve, summary = replay_tables.curves(runs), replay_tables.summary(replay_tables.needed(runs))
    figure = replay_figures.best_so_far(replay_tables.bands(curve))
    assert [ax.get_title() for ax in figure.axes] == [f"{n} functions to learn from" for n in (10, 20)]
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {*methods[:2], RANDOM}
    figure = replay_figures.evaluations_needed(summary, 10)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == list(methods)
    row = {"seed": 0, "accuracy": 0.6, "accuracy_low": 0.5, "accuracy_high": NAN, "functions": 9, "pairs": 9}
    rows = [row | {"test": test, "method": method, "rerun": 0.8, "oracle": 0.9} for test in "ab" for method in methods]
    figure = replay_figures.ordering_accuracy(replay_tables.ordering_summary(pd.DataFrame(rows)))
    assert [ax.get_title() for ax in figure.axes] == ["a", "b"]


def test_the_tables_need_no_torch():
    code = "import sys, nngpt_lab.papers.augmentation_search.replay_figures; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=300).returncode == 0
