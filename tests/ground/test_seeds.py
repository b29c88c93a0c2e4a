"""Seeds: one key, one stream; distinct keys, unrelated streams."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nngpt_lab.ground.seeds import derive, generator

PARTS = st.integers() | st.text() | st.sampled_from([0, 5, 2**32, 2**63, "", "0", "5", "s", "i"])
KEYS = st.lists(PARTS, max_size=5).map(tuple)


@given(st.lists(KEYS, min_size=2, max_size=20, unique=True))
def test_distinct_keys_give_distinct_seeds_and_streams(keys):
    assert len({derive(*key) for key in keys}) == len(keys)
    assert len({generator(*key).bytes(16) for key in keys}) == len(keys)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((5,), (5, 0)),
        ((), (0,)),
        ((), ("",)),
        (("a", "b"), ("ab",)),
        (("ab", "c"), ("a", "bc")),
        ((5,), ("5",)),
        ((1, 23), (12, 3)),
        ((0, 1), (2**32,)),  # SeedSequence cuts numbers into words of 32 bits
        ((2**32 + 1,), (1, 1)),
        ((2**64,), (0,)),
        ((-1,), (1,)),
        (("a", "", "b"), ("a", "b", "")),
        (("i" + "\0" * 7 + "\x011",), (1,)),  # a word that spells out how a number is written down
    ],
)
def test_keys_that_are_easily_confused(one, other):
    assert derive(*one) != derive(*other)
    assert generator(*one).bytes(16) != generator(*other).bytes(16)


def test_a_derived_seed_is_no_part_of_its_own_key():
    assert derive(derive(1), 2) != derive(1, 2) != derive(1, derive(2))


@given(KEYS)
def test_seeds_repeat_and_fit_into_sqlite(key):
    assert derive(*key) == derive(*key) and 0 <= derive(*key) < 2**63
    assert generator(*key).bytes(16) == generator(*key).bytes(16)


def test_numpy_numbers_count_as_numbers():
    assert derive(np.int64(3), "a") == derive(3, "a")


def test_the_scheme_is_written_down():
    """Whoever changes these numbers raises SCHEME."""
    assert derive("paper B", "sampling", 0, 1, 2) == 5458799830321800580


@pytest.mark.parametrize("part", [True, 1.0, None, (1, 2), b"a"])
def test_only_whole_numbers_and_words_are_keys(part):
    with pytest.raises(TypeError, match="whole numbers and words"):
        derive("a", part)
