"""Intervals over few runs: simulated on data whose answer is known, 93 to 97 of 100 hold it, or none is given."""

from __future__ import annotations

import numpy as np
import pytest

from nngpt_lab.statistics import intervals

STUDIES = {3: 3000, 10: 3000, 200: 2000}  # SE of a share of 0.95: 0.4 to 0.5 points


def share_that_hold(n: int, draw, interval, truth: float, seed: int) -> float:
    rng = np.random.default_rng(seed)
    found = [interval(draw(rng, n)) for _ in range(STUDIES[n])]
    return float(np.mean([one.low <= truth <= one.high for one in found]))


def paired_runs(rng: np.random.Generator, n: int) -> np.ndarray:
    """Differences between two arms' accuracies, each the mean of 40 networks, a third of which do not learn."""
    arms = [np.where(rng.random((n, 40)) < 1 / 3, 0.1, rng.normal(mean, 0.08, (n, 40))) for mean in (0.65, 0.6)]
    return np.subtract(*(arm.mean(axis=1) for arm in arms))


@pytest.mark.parametrize("n", STUDIES)
def test_t_interval_of_paired_runs(n):
    truth = (0.65 - 0.6) * 2 / 3
    assert 0.93 <= share_that_hold(n, paired_runs, intervals.t_interval, truth, seed=n) <= 0.97


def search_costs(rng: np.random.Generator, n: int) -> np.ndarray:
    """Evaluations that two searches need in the same universe, shape (2, n): a start set of 50 and a long tail.

    The second needs twice as many in the mean, and in the typical universe.
    """
    return np.stack([50 + rng.exponential(80, n), 100 + rng.exponential(160, n)])


@pytest.mark.parametrize("n", STUDIES)
def test_typical_ratio_of_skewed_costs(n):
    held = share_that_hold(n, search_costs, lambda costs: intervals.typical_ratio(costs[1], costs[0]), 2.0, seed=n)
    assert 0.93 <= held <= 0.97


def test_ratio_of_means_of_skewed_costs_holds_with_many_and_is_bare_with_few():
    held = share_that_hold(200, search_costs, lambda costs: intervals.ratio_of_means(costs[1], costs[0]), 2.0, seed=1)
    assert 0.93 <= held <= 0.97
    few = intervals.ratio_of_means(*search_costs(np.random.default_rng(0), intervals.FEWEST_OF_RATIO - 1))
    assert np.isfinite(few.value) and np.isnan([few.low, few.high]).all()
    least = intervals.ratio_of_means(*search_costs(np.random.default_rng(0), intervals.FEWEST_OF_RATIO))
    assert np.isfinite([least.low, least.high]).all()


@pytest.mark.parametrize("n", [0, 1, 2])
def test_one_or_two_runs_have_no_interval(n):
    for found in (intervals.t_interval(np.arange(n) + 1.0), intervals.typical_ratio(np.arange(n) + 1.0, np.ones(n))):
        assert np.isnan([found.low, found.high]).all() and found.n == n


@pytest.mark.parametrize(("n", "most"), [(3, 0.8), (10, 0.92)])
def test_a_percentile_bootstrap_over_few_runs_would_not_do(n, most):
    """Why no table takes one over seeds."""
    rng, held = np.random.default_rng(n), 0
    for _ in range(1000):
        values = paired_runs(rng, n)
        draws = values[rng.integers(0, n, (400, n))].mean(axis=1)
        low, high = intervals.percentile_interval(draws)
        held += low <= (0.65 - 0.6) * 2 / 3 <= high
    assert held / 1000 < most
