"""One comparison for all loops: what each kind of measure says of one run, and of several."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from nngpt_lab.study import comparison
from nngpt_lab.study.comparison import Mean, PairedProportion, PairedRatio, Statistic, compare

MEAN = Mean("mean", lambda part: part["score"])
BEST = Statistic("best", lambda part: part["score"].max())


def table(*runs: list[float]) -> pd.DataFrame:
    """A run of scores per seed."""
    return pd.concat([pd.DataFrame({"seed": seed, "score": run}) for seed, run in enumerate(runs)])


@pytest.mark.parametrize("measure", [MEAN, BEST, Statistic("over", lambda part: (part["score"] > 0.5).mean())])
@pytest.mark.parametrize(("seeds", "said"), [(1, "one seed: no interval"), (2, "two seeds: no interval")])
def test_one_seed_no_interval(measure, seeds, said):
    """However many samples it has: those of a tuned model say nothing of another run."""
    scores = np.linspace(0, 1, 80)
    result = compare(table(*[scores] * seeds), table(*[scores / 2] * seeds), measure)
    assert (result.method, result.difference.n) == (said, seeds) and np.isnan(result.p_value)
    assert np.isfinite(result.difference.value) and np.isnan([result.difference.low, result.difference.high]).all()


def test_three_seeds_have_one_and_so_have_untuned_samples_of_one():
    scores = np.linspace(0, 1, 8)
    three = [[*scores, better] for better in (1.0, 1.1, 1.3)]
    assert compare(table(*three), table(*[[*scores, 0]] * 3), MEAN).method == comparison.PAIRED
    untuned = compare(table(scores), table(scores / 2), MEAN, independent=True)
    assert untuned.method == comparison.WELCH and untuned.difference.low < untuned.difference.value
    assert compare(table(scores), table(scores / 2), BEST, independent=True).method == "one seed: no interval"


def test_a_mean_of_few_or_equal_values_has_no_interval():
    for first in ([0.1, 0.2, 0.3, 0.4], [0.5] * 9):
        result = compare(table(first), table([0.5] * 9), MEAN, independent=True)
        assert result.method == comparison.TOO_FEW_SAMPLES and np.isnan(result.difference.low)
        assert result.difference.value == pytest.approx(np.mean(first) - 0.5)


def test_seeds_of_one_side_are_left_out_unless_none_is_shared():
    first, second = table([0.1] * 5, [0.9] * 5), table([0.2] * 5).assign(seed=1)
    assert compare(first, second, BEST).first == 0.9
    apart = compare(first[first["seed"] == 0], second, BEST)
    assert (apart.first, apart.difference.n, apart.method) == (0.1, 0, "no seed with a value in both: no interval")


def test_a_seed_without_a_value_is_not_counted():
    """Three seeds in common, but in two of them one side has nothing to average."""
    first, second = table([0.1] * 5, [0.2] * 5, [0.3] * 5), table([0.2] * 5, [np.nan] * 5, [np.nan] * 5)
    found = compare(first, second, MEAN)
    assert (found.difference.n, found.method) == (1, "one seed: no interval") and np.isnan(found.difference.low)


def test_the_p_value_belongs_to_the_interval():
    result = compare(table([0.5], [0.7], [0.6]), table([0.4], [0.5], [0.3]), MEAN)
    assert result.difference.low < 0 < result.p_value < 1 and result.p_value > 0.05
    assert np.isnan(compare(table([0.5]), table([0.4]), BEST).p_value)


def test_welch_covers_the_difference_of_two_peaked_scores():
    """Five against five from a mixture of networks that learn and networks that do not: 97 of 100 intervals hold it."""
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(300):
        scores = np.where(rng.random((2, 5)) < 0.3, rng.normal(0.1, 0.02, (2, 5)), rng.normal(0.7, 0.08, (2, 5)))
        difference = compare(table(scores[0]), table(scores[1]), MEAN, independent=True).difference
        covered.append(difference.low <= 0 <= difference.high)
    assert np.mean(covered) > 0.93


def test_the_linearised_ratio_covers_the_difference_of_costs():
    rng = np.random.default_rng(0)
    cost, covered, truth = PairedRatio("cost", "tokens", "valid"), [], 50 / 0.5 - 80 / 0.4
    for _ in range(300):
        styles = [
            pd.DataFrame({"seed": 0, "tokens": rng.gamma(4, tokens / 4, 60), "valid": rng.random(60) < share})
            for tokens, share in ((50, 0.5), (80, 0.4))
        ]
        difference = compare(*styles, cost, independent=True).difference
        covered.append(difference.low <= truth <= difference.high)
    assert 0.92 < np.mean(covered) < 0.99


def test_a_cost_per_success_needs_successes():
    one = pd.DataFrame({"seed": 0, "tokens": [10.0] * 8, "valid": [True] * 4 + [False] * 4})
    result = compare(one, one, PairedRatio("cost", "tokens", "valid"), independent=True)
    assert (result.first, result.method) == (20.0, comparison.TOO_FEW_SAMPLES)


def test_pairs_of_samples_go_through_mcnemar():
    first, second = (
        pd.DataFrame({"seed": 0, "valid": valid}) for valid in ([True] * 9 + [False], [False] * 9 + [True])
    )
    result = compare(first, second, PairedProportion("valid", "valid"), independent=True)
    assert (result.method, result.difference.value, result.difference.n) == (comparison.MCNEMAR, 0.8, 10)
    assert result.p_value == pytest.approx(2 * 11 / 2**10)
