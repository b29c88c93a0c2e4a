"""The bootstrap of rank statistics is the plain one, only quicker: each resample is checked on its own rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nngpt_lab.statistics import intervals as s
from nngpt_lab.statistics import rank_bootstrap as r

pytestmark = pytest.mark.filterwarnings("error")
MEASURES = [(r.spearmans, s.spearman), (r.kendalls, s.kendall), (r.tops_kept, s.top_share_kept)]
ROWS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 3)), min_size=3, max_size=40)


@given(ROWS)
def test_counts_give_what_the_drawn_rows_give(rows):
    """Ties in values, rows drawn several times and rows not drawn at all."""
    pairs, counts = np.array(rows, float)[:, :2], np.array([[row[2] for row in rows], [1] * len(rows)])
    for place, drawn in enumerate(counts):
        if not drawn.any():
            continue
        repeated = np.repeat(pairs, drawn, axis=0)
        for ours, plain in MEASURES:
            expected = plain(repeated) if len(repeated) > 1 or plain is s.top_share_kept else np.nan
            assert ours(pairs, counts[[place]])[0] == pytest.approx(expected, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize(("ours", "plain"), MEASURES)
def test_resamples_of_unequal_size_and_many_draws_of_a_row(ours, plain):
    """As of unequal clusters; and sums beyond 2**24, where float32 would round."""
    rng = np.random.default_rng(0)
    pairs, counts = rng.integers(0, 12, (60, 2)).astype(float), rng.integers(0, 4, (6, 60))
    pairs[:, 1] += pairs[:, 0]  # or no best would be kept
    counts[1] *= 5
    expected = [plain(np.repeat(pairs, row, axis=0)) for row in counts]
    assert ours(pairs, counts) == pytest.approx(expected, abs=1e-12) and len({*expected}) > 1
    pairs, counts = np.array([[1, 2], [2, 1], [3, 3.0]]), np.array([[4999, 5003, 5001]])
    assert ours(pairs, counts)[0] == pytest.approx(plain(np.repeat(pairs, counts[0], axis=0)), abs=1e-12)


def test_intervals_are_those_of_the_plain_bootstrap():
    rng = np.random.default_rng(0)
    pairs = rng.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], 150)
    clusters = np.arange(150) // 3
    found = r.rank_bootstrap(pairs, np.random.default_rng(1), 2000, clusters)
    rng = np.random.default_rng(2)  # a row of these is a cluster
    plain = s.bootstrap(pairs.reshape(50, 6), lambda drawn: s.spearman(drawn.reshape(-1, 2)), rng, 2000)
    assert found["spearman"].value == plain.value and found["spearman"].n == 150
    assert (found["spearman"].low, found["spearman"].high) == pytest.approx((plain.low, plain.high), abs=0.02)


def test_whole_clusters_are_drawn_and_the_rest_of_a_thousand_too(monkeypatch):
    pairs = np.repeat(np.random.default_rng(0).normal(size=(20, 2)), 10, axis=0)
    clustered, naive = (r.rank_bootstrap(pairs, np.random.default_rng(1), 700, c) for c in (np.arange(200) // 10, None))
    widths = [found["kendall"].high - found["kendall"].low for found in (clustered, naive)]
    assert widths[0] > 2 * widths[1]
    sizes = []

    def count(pairs, counts):
        assert (counts.sum(axis=1) == len(pairs)).all()  # a resample is as large as the sample
        sizes.append(len(counts))
        return np.zeros(len(counts))

    counted = r.STATISTICS["spearman"][0], count
    monkeypatch.setitem(r.STATISTICS, "spearman", counted)
    r.rank_bootstrap(pairs, np.random.default_rng(1), 700)
    assert sum(sizes) == 700 and max(sizes) <= r.AT_ONCE


def test_same_seed_same_intervals_and_none_without_units():
    pairs = np.random.default_rng(0).normal(size=(30, 2))
    draw = [r.rank_bootstrap(pairs, np.random.default_rng(seed), 50) for seed in (5, 5, 6)]
    assert draw[0] == draw[1] != draw[2]
    assert np.isnan(r.rank_bootstrap(np.empty((0, 2)), np.random.default_rng(0), 50)["kendall"].low)
