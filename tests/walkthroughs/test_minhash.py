"""MinHash by hand: exact where it says so, in theory where it says so, and equal to the lab's index and datasketch."""

from __future__ import annotations

import re
from fractions import Fraction

import datasketch
import numpy as np
import pytest

from nngpt_lab.candidates import novelty
from nngpt_lab.ground.errors import UsageError
from nngpt_lab.walkthroughs import minhash as hand

CODES = ("x = f(x); y = g(x); return y", "x = f(x); y = h(x); return y", "x = f(x)", "", "f")


def tokens(code: str) -> list[str]:
    return re.findall(r"\w+|\S", code)


def test_shingles_of_a_text_by_hand():
    assert hand.shingles(["a", "b", "a", "b", "c"], 2) == [("a", "b"), ("b", "a"), ("b", "c")]
    assert hand.shingles(["a", "b"], 5) == [("a", "b")]
    assert hand.shingles([], 2) == []
    with pytest.raises(UsageError, match="means nothing"):
        hand.shingles(["a"], 0)


@pytest.mark.parametrize("length", [1, 2, 3, 10])
def test_sets_and_jaccard_are_the_labs(length):
    by_hand = [hand.shingles(tokens(code), length) for code in CODES]
    hashed = [novelty.shingle_hashes(tokens(code), length) for code in CODES]
    assert [len(one) for one in by_hand] == [len(one) for one in hashed]
    for a, one in zip(by_hand, hashed, strict=True):
        assert [float(hand.jaccard(a, b)) for b in by_hand] == pytest.approx(novelty.jaccard(one, hashed))


def test_jaccard_is_exact_and_counts_members_once():
    assert hand.jaccard([1, 1, 2, 3], [2, 3, 4]) == Fraction(1, 2)
    assert hand.jaccard([], []) == 1 and hand.jaccard([], [1]) == 0


def test_membership_numbers_every_run_once():
    a, b = (hand.shingles(tokens(code), 2) for code in CODES[:2])
    table = hand.membership(a, b)
    assert list(table["number"]) == list(range(len(set(a) | set(b))))
    assert table["first"].sum() == len(a) and table["second"].sum() == len(b)
    assert Fraction(int(table["shared"].sum()), len(table)) == hand.jaccard(a, b)


@pytest.mark.parametrize(("a", "b"), [([0], [0]), ([0], [1]), ([0, 1, 2], [1, 2, 3, 4]), ([0, 1, 2, 3, 4, 5], [5])])
def test_over_all_permutations_the_share_is_jaccard(a, b):
    assert hand.share_over_all_permutations(a, b) == hand.jaccard(a, b)


def test_too_many_orders_are_refused():
    with pytest.raises(UsageError, match="not tried"):
        hand.share_over_all_permutations(range(9), [1])


def test_signatures_are_the_minima_of_each_row():
    ranks = np.array([[2, 0, 1, 3], [3, 2, 1, 0]])
    smallest = hand.signatures(np.array([1, 1, 0, 0], bool), np.array([0, 0, 1, 1], bool), ranks)
    assert smallest.tolist() == [[0, 2], [1, 0]]


def test_random_ranks_are_permutations_and_follow_the_seed():
    ranks = hand.random_ranks(7, 50, np.random.default_rng(3))
    assert (np.sort(ranks, axis=1) == np.arange(7)).all()
    assert (ranks == hand.random_ranks(7, 50, np.random.default_rng(3))).all()
    assert not (ranks[1:] == ranks[:-1]).all()


@pytest.mark.parametrize("similarity", [0, 0.1, 0.5, 0.9, 1])
def test_pair_has_the_similarity_asked_for(similarity):
    first, second = hand.pair_of_sets(similarity, 40)
    assert (first | second).all() and first.any() and second.any()
    assert np.mean(first & second) == pytest.approx(similarity, abs=1 / 80)


@pytest.mark.parametrize("similarity", [0.3, 0.5, 0.9])
def test_estimates_are_unbiased_and_spread_as_in_theory(similarity):
    """Mean within four standard errors; a standard deviation from n estimates errs by about 1 / sqrt(2 n)."""
    table = hand.simulate_error(similarity, [8, 64, 256], 400, 40, np.random.default_rng(0))
    error = (table["mean"] - table["jaccard"]) / (table["theory"] / np.sqrt(table["repeats"]))
    assert error.abs().max() < 4
    assert (table["spread"] / table["theory"] - 1).abs().max() < 4 / np.sqrt(2 * 400)


def test_equal_and_disjoint_sets_are_estimated_without_error():
    for similarity in (0, 1):
        table = hand.simulate_error(similarity, [4], 50, 10, np.random.default_rng(0))
        assert table["mean"].item() == similarity and table["spread"].item() == table["theory"].item() == 0


def test_bands_cut_in_order_and_leave_the_rest():
    signature = np.arange(7)
    assert hand.banded(signature, 3, 2) == [(0, 1), (2, 3), (4, 5)]
    assert hand.share_a_band(signature, np.array([9, 1, 2, 3, 4, 9, 6]), 3, 2)
    assert not hand.share_a_band(signature, np.array([9, 1, 2, 9, 9, 5, 6]), 3, 2)  # equal numbers, but no whole band
    assert not hand.share_a_band(signature, np.array([9, 9, 9, 9, 9, 9, 6]), 3, 2)  # equal only where nothing is cut
    with pytest.raises(UsageError, match="need more"):
        hand.banded(signature, 4, 2)


@pytest.mark.parametrize(("bands", "rows"), [(4, 2), (2, 4), (3, 2)])
def test_bands_by_hand_retrieve_what_datasketch_does(bands, rows):
    rng = np.random.default_rng(1)
    theirs = [datasketch.MinHash(num_perm=8) for _ in range(60)]
    for one in theirs:
        one.update_batch([b"%d" % number for number in rng.integers(0, 6, 4)])
    index = datasketch.MinHashLSH(num_perm=8, params=(bands, rows))
    for i, one in enumerate(theirs):
        index.insert(i, one)
    for one in theirs:
        by_hand = (hand.share_a_band(one.hashvalues, other.hashvalues, bands, rows) for other in theirs)
        assert set(index.query(one)) == {i for i, found in enumerate(by_hand) if found}


def test_retrieval_follows_the_s_curve():
    cuts = {"steep": (13, 19), "flat": (8, 4)}
    table = hand.simulate_retrieval([0.5, 0.8, 0.9, 1], cuts, 300, np.random.default_rng(0))
    assert len(table) == 8 and (table[table["jaccard"] == 1]["share"] == 1).all()
    error = (table["share"] - table["theory"]) / np.sqrt(
        np.maximum(table["theory"] * (1 - table["theory"]), 1e-9) / 300
    )
    assert error[table["jaccard"] < 1].abs().max() < 4
    assert hand.retrieval(0.9, 13, 19) == pytest.approx(0.848, abs=1e-3)


def test_figures_show_every_curve():
    error = hand.simulate_error(0.5, [4, 16], 20, 10, np.random.default_rng(0))
    assert len(hand.draw_error(error).axes[0].collections) == 1
    table = hand.simulate_retrieval([0.2, 0.8], {"a": (4, 2), "b": (2, 4)}, 20, np.random.default_rng(0))
    assert [text.get_text() for text in hand.draw_retrieval(table, 0.9).axes[0].get_legend().texts] == [
        "a: 4 bands of 2",
        "b: 2 bands of 4",
    ]
