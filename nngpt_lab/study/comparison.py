"""Two sets of runs compared: the loop with a control, its last cycles with its first, one style of prompt with another.

A run is the unit: from :data:`SEEDS` seeds that both sets have, the interval is a t-interval over the differences
between runs of the same seed. With fewer there is none: samples of a tuned model depend on one another, and say nothing
of another run. Only samples of untuned models are independent; they are taken together, and the interval is the
measure's own, as :attr:`Comparison.method` says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from nngpt_lab.statistics import intervals
from nngpt_lab.statistics.intervals import Estimate
from nngpt_lab.study.samples import FEWEST, SEEDS

PAIRED = "paired t over seeds"
EQUAL = "paired, but the same difference in all seeds: no interval"
MCNEMAR = "McNemar over samples (interval: Bonett and Price)"
WELCH = "Welch over samples; does not cover the seed"
RATIO = "linearised ratio over samples; does not cover the seed"
TOO_FEW_SEEDS = (  # by number of those where both have a value
    "no seed with a value in both: no interval", "one seed: no interval", "two seeds: no interval",
)  # fmt: skip
TOO_FEW_SAMPLES = "no interval: too few samples, or all alike"

RESULT = ["difference", "difference_low", "difference_high", "n", "method"]
"""Columns of a comparison, behind those of its two values."""


@dataclass(frozen=True)
class Comparison:
    """``first`` minus ``second`` by one measure; ``difference.n`` counts seeds or samples, as ``method`` says.

    ``p_value`` is nan where the method has no test.
    """

    first: float
    second: float
    difference: Estimate
    method: str
    p_value: float = np.nan

    def columns(self, first: str, second: str) -> dict:
        """As columns of a table: the two values under the names given, then :data:`RESULT`."""
        values = {first: self.first, second: self.second} | self.difference.columns("difference")
        return values | {"n": self.difference.n, "method": self.method}


# What runs are compared by. ``label`` is what a figure calls it; ``value`` is that of one run, or of the samples of
# several taken together (nan where there is none); ``within`` is what the samples of one or two runs say.


@dataclass(frozen=True)
class Statistic:
    """Any number of a run, a maximum or a share, say. Samples of fewer than :data:`SEEDS` runs give it no interval."""

    label: str
    value: Callable[[pd.DataFrame], float]

    def within(self, first: pd.DataFrame, second: pd.DataFrame) -> Comparison:
        """No interval; n counts seeds."""
        return _of_few_runs(first, second, self)


@dataclass(frozen=True)
class PairedProportion:
    """A share of samples that stand in pairs, those that succeed in ``column``: rows of both tables are the same
    samples in the same order."""

    label: str
    column: str

    def value(self, samples: pd.DataFrame) -> float:
        return samples[self.column].mean()

    def within(self, first: pd.DataFrame, second: pd.DataFrame) -> Comparison:
        """McNemar's exact test with Bonett and Price's interval; n counts pairs."""
        ours, theirs = (table[self.column].to_numpy(bool) for table in (first, second))
        alone = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
        difference = intervals.difference_of_paired_proportions(*alone, len(ours))
        return Comparison(ours.mean(), theirs.mean(), difference, MCNEMAR, intervals.mcnemar(*alone))


@dataclass(frozen=True)
class Mean:
    """A mean of values, ``values`` of some samples; nan is left out.

    From one run it has Welch's interval, not the bootstrap's. Of 5 values against 5 from normal, skewed and two-peaked
    distributions Welch's 95 % hold the difference in 95 to 97 of 100 cases (bootstrap: 87 to 89), of 10 against 10 in
    94 to 97 (91 to 93), of 50 against 50 in 94 to 95 (93 to 94). Of 5 against 40 both fall short, Welch's with 84 to 94
    (81 to 86): see tests/study/test_comparison.py.
    """

    label: str
    values: Callable[[pd.DataFrame], pd.Series]

    def value(self, samples: pd.DataFrame) -> float:
        return self.values(samples).mean()

    def within(self, first: pd.DataFrame, second: pd.DataFrame) -> Comparison:
        """Welch's interval; n counts the values of both."""
        values = [self.values(table).dropna().to_numpy(float) for table in (first, second)]
        means = self.value(first), self.value(second)
        if min(map(len, values)) < FEWEST or max(map(np.ptp, values)) == 0:
            return Comparison(*means, Estimate(means[0] - means[1], n=sum(map(len, values))), TOO_FEW_SAMPLES)
        return Comparison(*means, intervals.difference_of_means(*values), WELCH)


@dataclass(frozen=True)
class PairedRatio:
    """A ratio of two sums over samples that stand in pairs, ``above`` by ``below`` (names of columns).

    From one run it has the interval of a linearised ratio (Cochran 1977, ch. 6), which for costs per success held the
    difference in 93 to 99 of 100 simulated cases with 12 to 200 pairs and at least five successes in each style.
    """

    label: str
    above: str
    below: str

    def value(self, samples: pd.DataFrame) -> float:
        below = samples[self.below].sum()
        return float(samples[self.above].sum() / below) if below else np.nan

    def within(self, first: pd.DataFrame, second: pd.DataFrame) -> Comparison:
        """A t-interval over the pairs' linearised differences; n counts pairs."""
        values = self.value(first), self.value(second)
        difference = Estimate(values[0] - values[1], n=len(first))
        if min(table[self.below].sum() for table in (first, second)) < FEWEST:
            return Comparison(*values, difference, TOO_FEW_SAMPLES)
        residuals = [self._residuals(table) for table in (first, second)]
        interval = intervals.t_interval(difference.value + residuals[0] - residuals[1])
        return Comparison(*values, interval, RATIO if np.isfinite(interval.low) else TOO_FEW_SAMPLES)

    def _residuals(self, samples: pd.DataFrame) -> np.ndarray:
        """How far each sample moves the ratio; their mean is zero."""
        above, below = (samples[name].to_numpy(float) for name in (self.above, self.below))
        return (above - self.value(samples) * below) / below.mean()


Measure = Statistic | PairedProportion | Mean | PairedRatio


def compare(first: pd.DataFrame, second: pd.DataFrame, measure: Measure, *, independent: bool = False) -> Comparison:
    """``first`` minus ``second``, tables of samples with a column seed; seeds that one of them lacks are left out.

    Where they have no seed in common the samples are compared as they are. ``independent``: they are of untuned models,
    so that those of few seeds have the measure's own interval.
    """
    seeds = sorted(set(first["seed"]) & set(second["seed"]))
    if seeds:
        first, second = (table[table["seed"].isin(seeds)] for table in (first, second))
    pairs = _runs(first, second, measure)
    if pairs.shape[1] < SEEDS:
        return measure.within(first, second) if independent else _of_few_runs(first, second, measure)
    difference = intervals.t_interval(pairs[0] - pairs[1])
    if not np.isfinite(difference.low):
        return Comparison(*pairs.mean(axis=1), difference, EQUAL)
    return Comparison(*pairs.mean(axis=1), difference, PAIRED, float(stats.ttest_rel(*pairs).pvalue))


def _of_few_runs(first: pd.DataFrame, second: pd.DataFrame, measure: Measure) -> Comparison:
    """No interval; n counts the seeds in which both have a value."""
    values, runs = (measure.value(first), measure.value(second)), _runs(first, second, measure)
    return Comparison(*values, Estimate(values[0] - values[1], n=runs.shape[1]), TOO_FEW_SEEDS[runs.shape[1]])


def _runs(first: pd.DataFrame, second: pd.DataFrame, measure: Measure) -> np.ndarray:
    """The measure's values in the seeds where both have one, shape (2, seeds)."""
    seeds = sorted(set(first["seed"]) & set(second["seed"]))
    runs = [[measure.value(table[table["seed"] == seed]) for seed in seeds] for table in (first, second)]
    pairs = np.array(runs, float).reshape(2, -1)
    return pairs[:, np.isfinite(pairs).all(axis=0)]


def share(successes: float, trials: float) -> float:
    """Successes by trials; nan without any."""
    return float(successes / trials) if trials else np.nan
