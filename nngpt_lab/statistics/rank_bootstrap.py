"""Bootstrap of rank statistics, all resamples at once.

A resample is how often each unit was drawn. Ranks of a resample follow from these counts and one sorting of the units,
so that thousands of resamples are a few matrix products. The numbers are those that :mod:`statistics` computes on the
drawn rows themselves, ties included, not an approximation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from nngpt_lab.statistics import intervals
from nngpt_lab.statistics.intervals import Estimate

AT_ONCE = 500  # resamples; 3,000 units take 12 MB a matrix


def rank_bootstrap(
    pairs: np.ndarray,
    rng: np.random.Generator,
    resamples: int,
    clusters: np.ndarray | None = None,
    names: Sequence[str] = ("spearman", "kendall", "top_decile_kept"),
) -> dict[str, Estimate]:
    """Spearman's and Kendall's correlation of the two columns of ``pairs``, shape (n, 2), and the share of the best
    tenth by the first that is among the best tenth by the second, with percentile intervals over the same resamples.

    With ``clusters`` (one label per row) whole clusters are resampled. ``names``: which of the three. Cost:
    O(resamples * n), but for Kendall's, which takes O(resamples * n**2) in one product of matrices.
    """
    if not len(pairs):
        return dict.fromkeys(names, Estimate())
    _, code = np.unique(np.arange(len(pairs)) if clusters is None else np.asarray(clusters), return_inverse=True)
    k, draws = code.max() + 1, []
    for start in range(0, resamples, AT_ONCE):
        counts = intervals.resample_counts(rng, k, min(AT_ONCE, resamples - start))[:, code]
        draws.append(np.stack([STATISTICS[name][1](pairs, counts) for name in names]))
    ends = map(intervals.percentile_interval, np.concatenate(draws, axis=1))
    return {
        name: Estimate(STATISTICS[name][0](pairs), *bounds, len(pairs))
        for name, bounds in zip(names, ends, strict=True)
    }


def spearmans(pairs: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Spearman's correlation in each resample, shape (resamples,); ``counts`` (resamples, n): how often each row is in
    it. Nan where a column is constant."""
    centred = [_ranks(column, counts) - (counts.sum(1, keepdims=True) + 1) / 2 for column in pairs.T]
    (aa, ab), (_, bb) = ([(counts * a * b).sum(1) for b in centred] for a in centred)
    with np.errstate(invalid="ignore"):
        return ab / np.sqrt(aa * bb)


def kendalls(pairs: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Kendall's tau-b in each resample; arguments as of :func:`spearmans`.

    Over ordered pairs of drawn rows: concordant minus discordant, by the geometric mean of those not tied in either.
    """
    first, second = (np.sign(column[:, None] - column[None]).astype(np.float32) for column in pairs.T)
    drawn = counts.astype(np.float32)  # sums of at most n, the size of a resample, are exact far beyond our n
    balance = np.einsum("rn,rn->r", drawn @ (first * second), drawn, dtype=float)
    untied = [counts.sum(1).astype(float) ** 2 - (_group_counts(column, counts)[0] ** 2).sum(1) for column in pairs.T]
    with np.errstate(invalid="ignore"):
        return balance / np.sqrt(untied[0] * untied[1])


def tops_kept(pairs: np.ndarray, counts: np.ndarray, share: float = 0.1) -> np.ndarray:
    """Of the best ``share`` of each resample by the first column, the fraction also among the best by the second;
    among equals the earlier rows are taken. Arguments as of :func:`spearmans`."""
    k = np.maximum(1, np.round(share * counts.sum(1, keepdims=True))).astype(int)
    taken = []
    for column in pairs.T:
        order = np.argsort(-column, kind="stable")
        sorted_counts = counts[:, order]
        room = k - (sorted_counts.cumsum(1) - sorted_counts)  # left when a row's turn comes
        taken.append(np.empty_like(counts))
        taken[-1][:, order] = np.clip(room, 0, sorted_counts)
    return np.minimum(*taken).sum(1) / k[:, 0]


def _ranks(column: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mid-rank of each row in each resample, shape as ``counts``; rows not drawn get the rank they would share."""
    groups, group_of = _group_counts(column, counts)
    return (groups.cumsum(1) - (groups - 1) / 2)[:, group_of]


def _group_counts(column: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many drawn rows have each distinct value, ascending, shape (resamples, values); and each row's value."""
    _, group_of = np.unique(column, return_inverse=True)
    order = np.argsort(group_of)
    starts = np.searchsorted(group_of[order], np.arange(group_of.max() + 1))
    return np.add.reduceat(counts[:, order], starts, axis=1), group_of


STATISTICS: dict[str, tuple[Callable[[np.ndarray], float], Callable[[np.ndarray, np.ndarray], np.ndarray]]] = {
    "spearman": (intervals.spearman, spearmans),
    "kendall": (intervals.kendall, kendalls),
    "top_decile_kept": (intervals.top_share_kept, tops_kept),
}
"""Of the pairs themselves, and of all resamples at once."""
