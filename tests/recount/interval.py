"""Three 95 % intervals, written out: Student's over few units, a bootstrap over clusters, and of a share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats


class Found(NamedTuple):
    """A number with its interval."""

    value: float
    low: float
    high: float


def student(values: Sequence[float]) -> Found:
    """Mean of independent values."""
    values = np.asarray(values, float)
    reach = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return Found(values.mean(), values.mean() - reach, values.mean() + reach)


def clustered(values: Sequence[float], clusters: Sequence, draws: int = 500) -> Found:
    """Mean of values of which those of one cluster belong together."""
    code = pd.factorize(np.asarray(clusters))[0]
    sums, sizes = np.bincount(code, weights=values), np.bincount(code)
    rng = np.random.default_rng(0)
    drawn = [rng.integers(0, len(sums), len(sums)) for _ in range(draws)]
    means = [sums[chosen].sum() / sizes[chosen].sum() for chosen in drawn]
    return Found(sums.sum() / sizes.sum(), *np.quantile(means, [0.025, 0.975]))


def share(successes: int, n: int) -> Found:
    """Wilson's interval."""
    z, p = stats.norm.ppf(0.975), successes / n
    middle, reach = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return Found(p, (middle - reach) / (1 + z**2 / n), (middle + reach) / (1 + z**2 / n))
