"""Intervals and rank statistics against other implementations, enumeration, published examples and simulation."""

from __future__ import annotations

from itertools import combinations, pairwise, permutations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.power import NormalIndPower
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint, proportion_effectsize
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

from nngpt_lab.statistics import intervals as s

pytestmark = pytest.mark.filterwarnings("error")  # a mean of nothing or 0/0 on the way to a nan would warn


@given(st.integers(1, 500), st.data())
def test_wilson_against_statsmodels(n, data):
    successes = data.draw(st.integers(0, n))
    found = s.wilson(successes, n)
    low, high = proportion_confint(successes, n, 0.05, method="wilson")
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-9)
    assert found.value == successes / n and found.n == n


def test_wilson_of_nothing():
    empty = s.wilson(0, 0)
    assert np.isnan(empty.value) and (empty.low, empty.high, empty.n) == (0, 1, 0)


@pytest.mark.parametrize(("n", "p"), [(10, 0.5), (30, 0.8), (100, 0.05)])
def test_wilson_covers(n, p):
    """Exact coverage, by enumeration over the binomial; Wilson's wobbles around the nominal 95 %."""
    covered = [low.low <= p <= low.high for low in (s.wilson(k, n) for k in range(n + 1))]
    assert 0.93 <= (stats.binom.pmf(np.arange(n + 1), n, p) * covered).sum() <= 0.99


def test_difference_of_proportions_newcombes_example():
    """Newcombe (1998), table II, example (a), method 10: 56/70 against 48/80."""
    found = s.difference_of_proportions(56, 70, 48, 80)
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)


@given(st.integers(1, 60), st.integers(1, 60), st.data())
def test_difference_of_proportions_against_statsmodels(n_a, n_b, data):
    a, b = data.draw(st.integers(0, n_a)), data.draw(st.integers(0, n_b))
    found, back = s.difference_of_proportions(a, n_a, b, n_b), s.difference_of_proportions(b, n_b, a, n_a)
    assert (found.low, found.high) == pytest.approx(confint_proportions_2indep(a, n_a, b, n_b, method="newcomb"))
    assert (back.low, back.high) == pytest.approx((-found.high, -found.low))


def coverage(interval, truth: float, repeats: int, seed: int) -> float:
    inside = [(e := interval(rng)).low <= truth <= e.high for rng in np.random.default_rng(seed).spawn(repeats)]
    return float(np.mean(inside))


def test_bootstrap_is_the_percentiles_of_the_statistic_over_rows_drawn_again():
    rows = np.array([[1.0, 2], [3, 5], [4, 1]])
    found = s.bootstrap(rows, lambda drawn: drawn[:, 0].sum() / drawn[:, 1].sum(), np.random.default_rng(3), 40)
    rng = np.random.default_rng(3)
    drawn = [rows[[*rng.integers(0, 3, 3)]].sum(axis=0) for _ in range(40)]
    assert (found.low, found.high) == pytest.approx(np.quantile([a / b for a, b in drawn], [0.025, 0.975]))
    assert (found.value, found.n) == (1, 3)


def test_bootstrap_covers():
    def interval(rng):
        return s.bootstrap(rng.exponential(1, 60), np.mean, rng, 200)

    assert 0.88 <= coverage(interval, 1.0, 300, seed=1) <= 0.98  # a skewed mean at n = 60; SE of the simulation 1.4 %


def test_cluster_mean_covers_where_a_plain_bootstrap_does_not():
    clusters = np.repeat(np.arange(40), 10)

    def values(rng):
        return (rng.normal(0, 1, 40)[clusters]) + rng.normal(0, 0.5, 400)

    def clustered(rng):
        return s.cluster_mean(values(rng), clusters, rng, 400)

    def naive(rng):
        return s.bootstrap(values(rng), np.mean, rng, 200)

    assert 0.89 <= coverage(clustered, 0.0, 300, seed=2) <= 0.98
    assert coverage(naive, 0.0, 100, seed=3) < 0.7


def test_cluster_mean_is_the_bootstrap_of_whole_clusters():
    rng = np.random.default_rng(8)
    clusters = rng.integers(0, 20, 200).astype(str)
    values = rng.normal(size=200) + clusters.astype(int)
    rows = {name: values[clusters == name] for name in clusters}
    by_rows = s.bootstrap(np.unique(clusters), lambda drawn: np.concatenate([rows[c] for c in drawn]).mean(), rng, 2000)
    by_sums = s.cluster_mean(values, clusters, rng, 2000)
    assert by_rows.value == pytest.approx(by_sums.value) and by_sums.n == 20
    assert (by_rows.low, by_rows.high) == pytest.approx((by_sums.low, by_sums.high), abs=0.3)
    assert by_rows.high - by_rows.low > 2 * np.ptp(
        [getattr(s.bootstrap(values, np.mean, rng, 500), k) for k in ("low", "high")]
    )


def test_difference_of_means():
    a, b = np.random.default_rng(0).normal(1, 3, 12), np.random.default_rng(1).normal(0, 1, 40)
    found = s.difference_of_means(a, b)
    low, high = CompareMeans(DescrStatsW(a), DescrStatsW(b)).tconfint_diff(usevar="unequal")
    assert (found.low, found.high, found.n) == (pytest.approx(low), pytest.approx(high), 52)
    assert found.value == pytest.approx(a.mean() - b.mean())


def test_cluster_mean_of_unequal_clusters():
    values, clusters = np.array([1.0, 1, 1, 1, 0]), np.array(["a", "a", "a", "a", "b"])
    found = s.cluster_mean(values, clusters, np.random.default_rng(0), 500)
    assert (found.value, found.n) == (0.8, 2)  # the mean of the values, not of the clusters' means
    assert (found.low, found.high) == (0, 1)
    evenly = s.cluster_mean(values, clusters, np.random.default_rng(0), 500, np.array([1, 1, 1, 1, 4.0]))
    assert evenly.value == 0.5 and (evenly.low, evenly.high) == (0, 1)


def test_share_of_all_or_none_claims_no_certainty():
    rng, clusters = np.random.default_rng(0), np.repeat(np.arange(20), 5)
    assert s.widened(s.cluster_mean(np.ones(100), clusters, rng, 50)) == s.wilson(20, 20)
    assert s.widened(s.cluster_mean(np.zeros(100), clusters, rng, 50, np.linspace(0.1, 2, 100))) == s.wilson(0, 20)
    mixed = np.arange(100) % 3 / 2
    plain = s.cluster_mean(mixed, clusters, np.random.default_rng(1), 50)
    assert s.widened(s.cluster_mean(mixed, clusters, np.random.default_rng(1), 50)) == plain
    assert s.widened(s.Estimate(n=0)).n == 0  # of nothing there is no share


def test_share_near_one_is_covered_where_resampling_alone_is_not():
    """40 networks, each right in 97 of 100: in 30 of 100 samples all are right, and a resample knows nothing else."""

    def of_networks(interval):
        return lambda rng: interval((rng.random(40) < 0.97).astype(float), np.arange(40), rng, 200)

    assert coverage(of_networks(s.cluster_mean), 0.97, 300, seed=4) < 0.75
    assert coverage(of_networks(lambda *given: s.widened(s.cluster_mean(*given))), 0.97, 300, seed=4) >= 0.93


def test_resamples_of_a_cluster_mean_in_which_nothing_counts_are_left_out():
    values, clusters = np.array([1.0, 2.0]), np.array(["unasked", "asked"])
    found = s.cluster_mean(values, clusters, np.random.default_rng(0), 50, np.array([0.0, 1.0]))
    assert found == s.Estimate(2, 2, 2, 2)


def test_resample_counts_are_draws_with_replacement():
    counts = s.resample_counts(np.random.default_rng(0), 5, 20_000)
    assert counts.shape == (20_000, 5) and (counts.sum(axis=1) == 5).all()
    expected = stats.binom(5, 1 / 5)
    for k in range(4):
        assert (counts == k).mean() == pytest.approx(expected.pmf(k), abs=0.01)
    assert np.corrcoef(counts[:, 0], counts[:, 1])[0, 1] == pytest.approx(-1 / 4, abs=0.03)


def test_same_seed_same_numbers():
    values, clusters = np.random.default_rng(0).normal(size=50), np.arange(50) % 7
    for draw in (
        lambda rng: s.bootstrap(values, np.median, rng, 50),
        lambda rng: s.cluster_mean(values, clusters, rng, 50),
    ):
        assert draw(np.random.default_rng(5)) == draw(np.random.default_rng(5)) != draw(np.random.default_rng(6))


def test_percentile_interval_leaves_out_what_could_not_be_computed():
    assert s.percentile_interval(np.array([0.0, np.nan, 1.0])) == pytest.approx((0.025, 0.975))
    assert np.isnan(s.percentile_interval(np.array([np.nan]))).all()


PAIRS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=3, max_size=40)


@given(PAIRS)
def test_rank_correlations_against_scipy_with_ties(rows):
    pairs = np.array(rows, dtype=float)
    if (np.ptp(pairs, axis=0) == 0).any():
        assert np.isnan(s.spearman(pairs)) and np.isnan(s.kendall(pairs))
    else:
        assert s.spearman(pairs) == pytest.approx(stats.spearmanr(*pairs.T).statistic)
        assert s.kendall(pairs) == pytest.approx(stats.kendalltau(*pairs.T).statistic)


def test_top_share_kept():
    x = np.arange(40.0)
    assert s.top_share_kept(np.column_stack([x, x])) == 1
    assert s.top_share_kept(np.column_stack([x, -x])) == 0
    half = x.copy()
    half[[38, 39]] = -1  # two of the best four fall behind
    assert s.top_share_kept(np.column_stack([x, half])) == 0.5
    last = np.where(x < 4, x + 100, x)  # the last four become the best
    assert s.top_share_kept(np.column_stack([x, last])) == 0 == s.top_share_kept(np.column_stack([last, x]))
    assert s.top_share_kept(np.column_stack([x, last]), share=0.2) == 0.5


def test_top_share_of_few_is_the_best_one_and_among_equals_the_first():
    assert s.top_share_kept(np.array([[3, 1], [2, 3], [1, 2.0]])) == 0 == s.top_share_kept(np.array([[1, 2], [2, 1.0]]))
    ties = np.tile([1.0, 2, 2], 20)  # six of the forty twos are taken
    first = np.where(np.arange(60) < 9, 1.0, 0)
    assert s.top_share_kept(np.column_stack([ties, ties + first])) == 1
    assert s.top_share_kept(np.column_stack([ties, ties - first])) == 0


def test_fisher_interval():
    """Bonett & Wright's error by hand, and coverage for a rank correlation of normal data."""
    found = s.fisher_interval(0.5, 28)
    reach = 1.959964 * np.sqrt(1.125 / 25)
    assert (found.low, found.high) == pytest.approx(np.tanh([np.arctanh(0.5) - reach, np.arctanh(0.5) + reach]))
    assert (found.value, found.n) == (0.5, 28)
    truth = 6 / np.pi * np.arcsin(0.6 / 2)  # Spearman's rho of a normal pair with r = 0.6

    def interval(rng):
        return s.fisher_interval(s.spearman(rng.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], 40)), 40)

    assert 0.91 <= coverage(interval, truth, 500, seed=4) <= 0.98


EDGES = np.array([0, 1, 3, 5.0])


@given(PAIRS)
def test_pair_agreement_against_a_double_loop(rows):
    first, second = np.array(rows, dtype=float).T
    found = s.pair_agreement(first, second, EDGES)
    assert list(found) == ["gap_low", "gap_high", "pairs", "still_better", "ci_low", "ci_high"]
    assert [*zip(found["gap_low"], found["gap_high"], strict=True)] == [*pairwise(EDGES)]
    assert (found["pairs"].dtype, found[["ci_low", "ci_high"]].isna().all(axis=1).tolist()) == (
        int, (found["pairs"] == 0).tolist())  # fmt: skip
    for b, (low, high) in enumerate(pairwise(EDGES)):
        alike = [
            float((second[i] > second[j]) == (first[i] > first[j])) if second[i] != second[j] else 0.5
            for i, j in combinations(range(len(first)), 2)
            if first[i] != first[j] and low <= abs(first[i] - first[j]) < high
        ]
        assert found["pairs"][b] == len(alike)
        assert found["still_better"][b] == pytest.approx(np.mean(alike) if alike else np.nan, nan_ok=True)


def agreement_of(n: int, rng: np.random.Generator) -> pd.DataFrame:
    true = rng.normal(0, 1, n)
    return s.pair_agreement(*(true + rng.normal(0, 1, (2, n))), np.array([0, 100.0]))


def test_pair_agreement_interval_covers_and_shrinks():
    rng = np.random.default_rng(5)
    small, large = [agreement_of(40, rng) for _ in range(200)], [agreement_of(160, rng) for _ in range(20)]
    truth = 0.5 + np.arcsin(0.5) / np.pi  # two readings that correlate at 1/2 order a pair alike
    inside = np.mean([a["ci_low"][0] <= truth <= a["ci_high"][0] for a in small])
    assert 0.88 <= inside <= 0.99
    width = [np.mean([a["ci_high"] - a["ci_low"] for a in group]) for group in (small, large)]
    assert width[1] == pytest.approx(width[0] / 2, rel=0.2)  # four times the units, half the width


def test_pair_agreement_by_clusters():
    """The jackknife over clusters, recomputed by leaving rows out; singletons are the plain jackknife."""
    rng = np.random.default_rng(6)
    first, second, clusters = rng.normal(size=30), rng.normal(size=30), rng.integers(0, 6, 30)
    found = s.pair_agreement(first, second, EDGES, clusters)
    left_out = np.array(
        [s.pair_agreement(first[clusters != c], second[clusters != c], EDGES)["still_better"] for c in range(6)]
    )
    reach = 1.959964 * np.sqrt(5 / 6 * ((left_out - left_out.mean(0)) ** 2).sum(0))
    assert found["ci_high"].to_numpy() == pytest.approx(np.clip(found["still_better"] + reach, 0, 1).to_numpy())
    plain, single = s.pair_agreement(first, second, EDGES), s.pair_agreement(first, second, EDGES, np.arange(30))
    assert plain["ci_low"].to_numpy() == pytest.approx(single["ci_low"].to_numpy())
    assert (plain["pairs"] == found["pairs"]).all()


def test_pair_agreement_without_a_cluster_that_all_pairs_need():
    """By hand: unit 0 is in all four pairs, of which three agree; without it nothing is left to say otherwise."""
    first, second = np.array([0, 2, 2, 2, 2.0]), np.array([0, 1, 1, 1, -1.0])
    found = s.pair_agreement(first, second, np.array([1, 3.0])).loc[0]
    left_out = np.array([3 / 4, 2 / 3, 2 / 3, 2 / 3, 1])
    reach = 1.959964 * np.sqrt(4 / 5 * ((left_out - left_out.mean()) ** 2).sum())
    assert (found["still_better"], found["pairs"]) == (0.75, 4)
    assert (found["ci_low"], found["ci_high"]) == (pytest.approx(0.75 - reach), 1)
    turned = s.pair_agreement(first, -second, np.array([1, 3.0])).loc[0]
    assert (turned["ci_low"], turned["ci_high"]) == (0, pytest.approx(0.25 + reach))
    two = s.pair_agreement(first[[0, 1, 4]], second[[0, 1, 4]], np.array([1, 3.0])).loc[0]
    assert (two["still_better"], two["ci_low"], two["ci_high"]) == (0.5, 0, 1)  # each of two pairs decides alone


@pytest.mark.parametrize(("size", "n"), [(1, 1), (6, 1), (6, 3), (6, 6), (9, 4)])
def test_best_of_n_weights_by_enumeration(size, n):
    best = [max(subset) for subset in combinations(range(size), n)]
    expected = np.bincount(best, minlength=size) / len(best)
    assert s.best_of_n_weights(size, n) == pytest.approx(expected)


@pytest.mark.parametrize("n", [1, 7, 300, 6000])
def test_best_of_n_weights_sum_to_one(n):
    assert s.best_of_n_weights(6000, n).sum() == pytest.approx(1)


@pytest.mark.parametrize(("size", "hits"), [(1, 1), (5, 1), (6, 2), (6, 5), (7, 7)])
def test_draws_until_a_hit_by_enumeration(size, hits):
    items = [True] * hits + [False] * (size - hits)
    first = np.array([order.index(True) + 1 for order in permutations(items)])
    assert s.expected_draws(size, hits) == pytest.approx(first.mean())
    for probability in (0.01, 0.5, 0.8, 0.95, 1.0):
        enough = next(n for n in range(1, size + 1) if np.mean(first <= n) >= probability - 1e-12)
        assert s.draws_for(probability, size, hits) == enough


def test_draws_without_any_hit():
    assert s.expected_draws(10, 0) == np.inf
    with pytest.raises(ValueError, match=r"^no item meets the target, so no number of draws does$"):
        s.draws_for(0.5, 10, 0)


def test_sample_size_for_difference():
    assert s.sample_size_for_difference(0.8, 0.7) == s.sample_size_for_difference(0.7, 0.8) == 294  # R: 293.15
    assert s.sample_size_for_difference(0.5, 0.6, power=0.9) == 519  # R's power.prop.test: 518.9
    arcsine = NormalIndPower().solve_power(proportion_effectsize(0.8, 0.7), power=0.8, alpha=0.05)
    assert s.sample_size_for_difference(0.8, 0.7) == pytest.approx(arcsine, abs=3)


def test_estimates():
    estimate = s.Estimate(0.5, 0.4, 0.625, 8)
    assert estimate.scaled(100) == s.Estimate(50, 40, 62.5, 8) and estimate.scaled(-1) == s.Estimate(
        -0.5, -0.625, -0.4, 8
    )
    assert s.exact(3, 9) == s.Estimate(3, 3, 3, 9)
    row = estimate.columns("x") | {"n": 8, "runs": 3}
    assert s.Estimate.of(row, "x") == estimate and s.Estimate.of(pd.Series(row), "x", "runs").n == 3
    assert estimate.columns("x", "a", "b") == {"x": 0.5, "a": 0.4, "b": 0.625}


def test_t_interval_is_scipys_and_claims_nothing_without_spread():
    found = s.t_interval(np.array([0.1, 0.4, 0.3]))
    low, high = stats.t.interval(0.95, 2, loc=np.mean([0.1, 0.4, 0.3]), scale=stats.sem([0.1, 0.4, 0.3]))
    assert (found.low, found.high) == pytest.approx((low, high)) and found.n == 3
    assert s.t_interval(pd.Series([1, 4, 3], dtype=object)) == s.t_interval(np.array([1.0, 4, 3]))
    for values in ([], [0.5], [0.5, 0.6], [0.5, 0.5, 0.5]):
        found = s.t_interval(np.array(values))
        assert np.isnan([found.low, found.high]).all() and found.n == len(values)
        assert found.value == pytest.approx(np.mean(values) if values else np.nan, nan_ok=True)


def test_difference_of_paired_proportions_by_hand():
    """Bonett and Price: of ten pairs nine succeed in the first alone, one in the second alone."""
    found = s.difference_of_paired_proportions(9, 1, 10)
    reach = 1.959964 * np.sqrt((10 / 12 + 2 / 12 - (8 / 12) ** 2) / 12)
    assert (found.value, found.low, found.n) == (pytest.approx(0.8), pytest.approx(8 / 12 - reach), 10)
    assert found.high == 1  # not beyond what a difference of shares can be
    turned = s.difference_of_paired_proportions(1, 9, 10)
    assert (turned.value, turned.low, turned.high) == (-0.8, -1, pytest.approx(reach - 8 / 12))
    many = s.difference_of_paired_proportions(30, 20, 100)
    assert (many.low, many.high) == pytest.approx((-0.0387, 0.2348), abs=1e-3)


def test_pairs_that_all_agree_claim_no_certainty():
    """Half of the units behind a bin's pairs: as many pairs as can share none. Clusters count as units."""
    values, edges = np.arange(8.0), np.array([0, 3, 6, 100])
    found = s.pair_agreement(values, values, edges)
    assert found["still_better"].tolist() == [1, 1, 1]
    units = [8, 8, 4]  # of gaps from 6 on: 0-6, 0-7, 1-7
    assert found["ci_low"].tolist() == [s.wilson(n // 2, n // 2).low for n in units]
    assert found["ci_high"].tolist() == [1, 1, 1]
    turned = s.pair_agreement(values, -values, edges, np.arange(8) // 2)
    assert turned["still_better"].tolist() == [0, 0, 0]
    assert turned["ci_high"].tolist() == [s.wilson(0, n).high for n in (2, 2, 1)]
    assert s.pair_agreement(values, values, np.array([50, 100.0]))["ci_low"].isna().all()


def test_mcnemar_is_exact():
    assert s.mcnemar(9, 1) == pytest.approx(2 * 11 / 2**10) and s.mcnemar(0, 0) == 1
    assert s.mcnemar(1, 9) == s.mcnemar(9, 1) < s.mcnemar(5, 5)


def test_nothing_has_no_number_and_n_0():
    rng = np.random.default_rng(0)
    nothing = [
        s.bootstrap(np.zeros(0), np.mean, rng, 10),
        s.cluster_mean(np.zeros(0), np.zeros(0), rng, 10),
        s.t_interval(np.zeros(0)),
    ]
    assert all(np.isnan([one.value, one.low, one.high]).all() and one.n == 0 for one in nothing)


def test_every_estimate_says_how_many_units_it_has():
    rng, values = np.random.default_rng(0), np.arange(6.0)
    assert s.bootstrap(values, np.mean, rng, 10).n == 6
    assert s.difference_of_proportions(1, 4, 2, 5).n == 9 == s.difference_of_means(values[:4], values[:5]).n
    assert s.cluster_mean(values, values // 2, rng, 10).n == 3
    assert (s.ratio_of_means(values + 1, values + 2).n, s.typical_ratio(values + 1, values + 2).n) == (
        6,
        6,
    )


def test_weights_of_a_cluster_mean():
    """A value of weight two counts as if it stood there twice, in the mean and in every resample."""
    values, clusters, weights = np.array([0.0, 1.0, 1.0, 0.5]), np.array([0, 0, 1, 2]), np.array([2, 1, 1, 3])
    weighed = s.cluster_mean(values, clusters, np.random.default_rng(0), 400, weights)
    repeated = s.cluster_mean(values.repeat(weights), clusters.repeat(weights), np.random.default_rng(0), 400)
    assert weighed == repeated and weighed.value == pytest.approx(3.5 / 7)


def test_ratio_of_means_is_the_delta_methods():
    rng = np.random.default_rng(0)
    above, below = rng.exponential(2, 300), rng.exponential(1, 300) + 1
    found, ratio = s.ratio_of_means(above, below), above.mean() / below.mean()
    moved = above / above.mean() - below / below.mean()
    reach = stats.t.ppf(0.975, 299) * moved.std(ddof=1) / np.sqrt(300)
    assert (found.value, found.low, found.high) == pytest.approx((ratio, ratio * np.exp(-reach), ratio * np.exp(reach)))


def test_typical_ratio_is_the_geometric_mean_and_pairs_by_position():
    above, below = pd.Series([2, 6, 32], dtype=object), pd.Series([1, 3, 1], dtype=object, index=[2, 1, 0])
    found, logs = s.typical_ratio(above, below), np.log([2, 2, 32])
    reach = stats.t.ppf(0.975, 2) * stats.sem(logs)
    expected = np.exp([logs.mean(), logs.mean() - reach, logs.mean() + reach])
    assert (found.value, found.low, found.high) == pytest.approx(tuple(expected)) and found.n == 3


def test_a_ratio_of_means_of_few_units_is_bare():
    costs = pd.Series(np.random.default_rng(0).exponential(1, s.FEWEST_OF_RATIO) + 1)
    turned = costs[::-1]  # pairs go by position, not by the index of a table
    least, few = s.ratio_of_means(costs, turned), s.ratio_of_means(costs[1:], turned[1:])
    assert np.isfinite([least.low, least.high]).all() and least.n == 100
    assert few.value == pytest.approx(costs[1:].mean() / costs[:-1].mean()) and few.n == 99
    assert np.isnan([few.low, few.high]).all()
