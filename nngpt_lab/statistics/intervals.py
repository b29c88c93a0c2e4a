"""Intervals, all two-sided 95 %, and rank statistics. Whatever is random takes a ``numpy.random.Generator``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats
from scipy.special import gammaln

LEVEL = 0.95
Z = stats.norm.ppf((1 + LEVEL) / 2)


@dataclass(frozen=True)
class Estimate:
    """A number with its interval (nan: none) and the number of independent units behind it."""

    value: float = np.nan
    low: float = np.nan
    high: float = np.nan
    n: int = 0

    @classmethod
    def of(cls, row: Mapping | pd.Series, name: str, units: str = "n") -> Estimate:
        """What :meth:`columns` made, from a row of a table; ``units``: the column that counts them."""
        return cls(float(row[name]), float(row[f"{name}_low"]), float(row[f"{name}_high"]), int(row[units]))

    def scaled(self, factor: float) -> Estimate:
        """The same estimate in another unit, e.g. ``scaled(100)`` for per cent; a negative factor turns it round."""
        return self.mapped(lambda value: value * factor)

    def mapped(self, function: Callable[[float], float]) -> Estimate:
        """The same through a function that only rises or only falls."""
        low, high = sorted(float(function(end)) for end in (self.low, self.high))
        return Estimate(float(function(self.value)), low, high, self.n)

    def within(self, least: float, most: float) -> Estimate:
        """The same with ends that the quantity can have: 0 and 1 of a share, say."""
        low, high = np.clip([self.low, self.high], least, most).tolist()
        return Estimate(self.value, low, high, self.n)

    def columns(self, name: str, low: str = "", high: str = "") -> dict[str, float]:
        """As columns of a table: ``name``, ``name_low`` and ``name_high``, or other names for the ends."""
        return {name: self.value, low or f"{name}_low": self.low, high or f"{name}_high": self.high}


def exact(value: float, n: int) -> Estimate:
    """A count or share of something enumerated completely: no sampling, so no width."""
    return Estimate(value, value, value, n)


def wilson(successes: float, n: int) -> Estimate:
    """A proportion with its Wilson score interval (Wilson 1927); an empty sample gives nan in [0, 1]."""
    if n == 0:
        return Estimate(low=0.0, high=1.0)
    interval = stats.binomtest(round(successes), n).proportion_ci(LEVEL, method="wilson")
    return Estimate(successes / n, interval.low, interval.high, n)


def difference_of_proportions(a: int, n_a: int, b: int, n_b: int) -> Estimate:
    """``a/n_a - b/n_b`` of two independent samples with Newcombe's hybrid score interval (Newcombe 1998, method 10)."""
    first, second = wilson(a, n_a), wilson(b, n_b)
    value = first.value - second.value
    low = value - np.hypot(first.value - first.low, second.high - second.value)
    high = value + np.hypot(first.high - first.value, second.value - second.low)
    return Estimate(value, low, high, n_a + n_b)


def difference_of_paired_proportions(only_first: int, only_second: int, n: int) -> Estimate:
    """Difference of two proportions of the same ``n`` units, of which so many succeed in the one or the other alone,
    with the adjusted Wald interval of Bonett and Price (2012), which adds one to both counts."""
    first, second = ((count + 1) / (n + 2) for count in (only_first, only_second))
    reach = Z * np.sqrt((first + second - (first - second) ** 2) / (n + 2))
    low, high = max(first - second - reach, -1), min(first - second + reach, 1)
    return Estimate((only_first - only_second) / n, float(low), float(high), n)


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact p-value of McNemar's test; 1 where no unit succeeds in one alone."""
    discordant = only_first + only_second
    return float(stats.binomtest(only_first, discordant).pvalue) if discordant else 1.0


def difference_of_means(a: np.ndarray, b: np.ndarray) -> Estimate:
    """``mean(a) - mean(b)`` of two independent samples with Welch's interval (unequal variances)."""
    interval = stats.ttest_ind(a, b, equal_var=False).confidence_interval(LEVEL)
    return Estimate(float(np.mean(a) - np.mean(b)), float(interval.low), float(interval.high), len(a) + len(b))


def bootstrap(values: np.ndarray, statistic: Callable, rng: np.random.Generator, resamples: int) -> Estimate:
    """``statistic(values)``, a float of an array (n,) or (n, k), with a percentile bootstrap interval over its rows."""
    values = np.asarray(values)
    n = len(values)
    if not n:
        return Estimate()
    draws = [statistic(values[rng.integers(0, n, n)]) for _ in range(resamples)]
    return Estimate(float(statistic(values)), *percentile_interval(np.asarray(draws)), n)


def resample_counts(rng: np.random.Generator, units: int, resamples: int) -> np.ndarray:
    """How often each unit is drawn in each bootstrap sample, shape (resamples, units). ``rng.multinomial`` has the same
    law and takes ten times as long where there are thousands of units."""
    drawn = rng.integers(0, units, (resamples, units)) + units * np.arange(resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=resamples * units).reshape(resamples, units)


def percentile_interval(draws: np.ndarray) -> tuple[float, float]:
    """Central interval of bootstrap draws, draws that could not be computed (nan) left out."""
    draws = draws[np.isfinite(draws)]
    if not len(draws):
        return np.nan, np.nan
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def cluster_mean(
    values: np.ndarray,
    clusters: np.ndarray,
    rng: np.random.Generator,
    resamples: int,
    weights: np.ndarray | None = None,
) -> Estimate:
    """Mean of ``values`` with a bootstrap interval that resamples whole clusters (questions of one architecture, say).
    ``n`` counts clusters: they are what is independent. Cost: O(resamples * clusters)."""
    weights = np.ones(len(values)) if weights is None else weights
    _, code = np.unique(clusters, return_inverse=True)
    total, count = np.bincount(code, weights=values * weights), np.bincount(code, weights=weights)
    if not len(count):
        return Estimate()
    sums = resample_counts(rng, len(count), resamples) @ np.column_stack([total, count])
    with np.errstate(invalid="ignore"):
        draws = sums[:, 0] / sums[:, 1]
    return Estimate(float(total.sum() / count.sum()), *percentile_interval(draws), len(count))


def widened(share: Estimate) -> Estimate:
    """A share of 0 or 1 with Wilson's interval of its ``n``; any other as it is. Where all outcomes are 0, or all 1,
    every resample says the same, and a width of zero would claim certainty."""
    return wilson(share.value * share.n, share.n) if share.value in (0, 1) else share


FEWEST = 3  # units below which there is no interval
FEWEST_OF_RATIO = 100


def t_interval(values: np.ndarray) -> Estimate:
    """Mean with a t-interval; no interval (nan) for fewer than :data:`FEWEST` values, or for values that do not differ.

    Of 3, 10 and 200 values it holds the mean in 93 to 97 of 100 cases where these are about normal, as differences
    between paired runs are; a percentile bootstrap holds it in 75, 90 and 94 (tests/statistics/test_coverage.py).
    """
    values = np.asarray(values, float)
    mean = float(values.mean()) if len(values) else np.nan
    if len(values) < FEWEST or np.ptp(values) <= 1e-12:  # no spread: a width of zero would claim certainty
        return Estimate(mean, n=len(values))
    interval = stats.ttest_1samp(values, 0).confidence_interval(LEVEL)
    return Estimate(mean, float(interval.low), float(interval.high), len(values))


def ratio_of_means(above: np.ndarray, below: np.ndarray) -> Estimate:
    """``mean(above) / mean(below)`` of paired positive values, with a t-interval of its logarithm (delta method).

    Costs of a search are so skewed that no interval for their mean covers with few units: none is given below
    :data:`FEWEST_OF_RATIO`, from which on this one holds the ratio in 93 to 97 of 100 cases.
    """
    above, below = np.asarray(above), np.asarray(below)
    n, ratio = len(above), float(above.mean() / below.mean())
    if n < FEWEST_OF_RATIO:
        return Estimate(ratio, n=n)
    moved = t_interval(above / above.mean() - below / below.mean())
    return Estimate(ratio, float(ratio * np.exp(moved.low)), float(ratio * np.exp(moved.high)), n)


def typical_ratio(above: np.ndarray, below: np.ndarray) -> Estimate:
    """Geometric mean of ``above / below`` of paired positive values, with a t-interval of the mean logarithm.

    Logarithms of ratios are about symmetric: from 3 pairs on it holds the ratio in 93 to 97 of 100 cases.
    """
    return t_interval(np.log(np.asarray(above, float) / np.asarray(below, float))).mapped(np.exp)


def spearman(pairs: np.ndarray) -> float:
    """Spearman's rank correlation of the two columns of ``pairs``, shape (n, 2); nan when one is constant."""
    a, b = stats.rankdata(pairs[:, 0]), stats.rankdata(pairs[:, 1])
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale else np.nan


def kendall(pairs: np.ndarray) -> float:
    """Kendall's tau-b of the two columns of ``pairs``, shape (n, 2)."""
    return float(stats.kendalltau(pairs[:, 0], pairs[:, 1]).statistic)


def top_share_kept(pairs: np.ndarray, share: float = 0.1) -> float:
    """Of the best ``share`` by the first column, the fraction that is also among the best by the second."""
    k = max(1, round(share * len(pairs)))
    best = [set(np.argsort(-column, kind="stable")[:k]) for column in pairs.T]
    return len(best[0] & best[1]) / k


def fisher_interval(r: float, n: int) -> Estimate:
    """Interval of a published Spearman correlation from its n alone (Fisher's z; error: Bonett & Wright 2000)."""
    reach = np.sqrt((1 + r**2 / 2) / (n - 3)) * Z
    return Estimate(r, float(np.tanh(np.arctanh(r) - reach)), float(np.tanh(np.arctanh(r) + reach)), n)


def pair_agreement(
    first: np.ndarray, second: np.ndarray, edges: np.ndarray, clusters: np.ndarray | None = None
) -> pd.DataFrame:
    """Over all pairs of units: is the better one by ``first`` still the better one by ``second``?

    One row per bin: gap_low, gap_high, pairs, still_better (their share), ci_low, ci_high. Bins are of
    ``|first_i - first_j|``, between ``edges`` (ascending, length b + 1; pairs outside are left out, and so are ties in
    ``first``); a tie in ``second`` counts one half. Exact over all n(n-1)/2 pairs. Pairs share units, so the interval
    is a jackknife over units, or over whole ``clusters`` of them: O(n**2) time, O(n * b) memory. A jackknife of a
    share of 0 or 1 has no width; there it is Wilson's of half the clusters, as many pairs as can share none.
    """
    n, bins = len(first), len(edges) - 1
    code = np.arange(n) if clusters is None else np.unique(np.asarray(clusters), return_inverse=True)[1]
    groups = int(code.max()) + 1
    counts, agreed = np.zeros((groups, bins)), np.zeros((groups, bins))  # pairs that go when a cluster is left out
    total, total_agreed = np.zeros(bins), np.zeros(bins)
    for i in range(n):
        gap, later = first - first[i], second - second[i]
        bin_of = np.searchsorted(edges, np.abs(gap), side="right") - 1
        use = (gap != 0) & (bin_of >= 0) & (bin_of < bins)
        alike = (np.sign(gap[use]) * np.sign(later[use]) + 1) / 2
        once = np.where(code[use] == code[i], 0.5, 1.0)  # a pair inside a cluster is met twice there
        counts[code[i]] += np.bincount(bin_of[use], weights=once, minlength=bins)
        agreed[code[i]] += np.bincount(bin_of[use], weights=once * alike, minlength=bins)
        total += np.bincount(bin_of[use], minlength=bins) / 2
        total_agreed += np.bincount(bin_of[use], weights=alike, minlength=bins) / 2
    share = np.divide(total_agreed, total, out=np.full(bins, np.nan), where=total > 0)
    left = total - counts
    left_out = np.divide(total_agreed - agreed, left, out=np.broadcast_to(share, left.shape).copy(), where=left > 0)
    error = np.sqrt((groups - 1) / groups * ((left_out - left_out.mean(0)) ** 2).sum(0))
    low, high = np.maximum(share - Z * error, 0), np.minimum(share + Z * error, 1)
    for edge in np.flatnonzero((share == 0) | (share == 1)):
        sure = widened(Estimate(share[edge], n=max(1, np.count_nonzero(counts[:, edge]) // 2)))
        low[edge], high[edge] = sure.low, sure.high
    bins_table = {"gap_low": edges[:-1], "gap_high": edges[1:], "pairs": total.astype(int), "still_better": share}
    return pd.DataFrame(bins_table | {"ci_low": low, "ci_high": high})


def best_of_n_weights(size: int, n: int) -> np.ndarray:
    """Probability that the k-th smallest of ``size`` items is the best of ``n`` drawn without replacement.

    Shape (size,), k = 1..size: C(k-1, n-1) / C(size, n). Exact, in logarithms.
    """
    return np.exp(_log_choose(np.arange(size), n - 1) - _log_choose(size, n))


def _log_choose(a, b):
    """Logarithm of C(a, b); minus infinity where b > a."""
    return gammaln(a + 1) - gammaln(b + 1) - gammaln(a - b + 1)


def expected_draws(size: int, hits: int) -> float:
    """Mean number of draws without replacement until the first of ``hits`` among ``size``: (size+1)/(hits+1)."""
    return (size + 1) / (hits + 1) if hits else np.inf


def draws_for(probability: float, size: int, hits: int) -> int:
    """Fewest draws without replacement that meet one of ``hits`` among ``size`` with at least this probability."""
    if hits == 0:
        raise ValueError("no item meets the target, so no number of draws does")
    n = np.arange(size - hits + 2)
    miss = np.exp(_log_choose(size - hits, n) - _log_choose(size, n))
    return int(np.argmax(1 - miss >= probability - 1e-12))


def sample_size_for_difference(p_a: float, p_b: float, power: float = 0.8) -> int:
    """Answers per arm needed to tell two independent proportions apart (two-sided z test at 5 %; Fleiss 1981, without
    continuity correction)."""
    mean = (p_a + p_b) / 2
    spread = Z * np.sqrt(2 * mean * (1 - mean)) + stats.norm.ppf(power) * np.sqrt(p_a * (1 - p_a) + p_b * (1 - p_b))
    return int(np.ceil((spread / (p_a - p_b)) ** 2))
