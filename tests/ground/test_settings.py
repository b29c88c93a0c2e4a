"""A number that a user may choose: None is the profile's own, 0 is 0."""

import pytest

from nngpt_lab.ground.errors import UsageError
from nngpt_lab.ground.settings import choose


def test_none_is_the_profiles_own_and_zero_is_zero():
    assert choose("seeds", None, own=3) == 3
    assert choose("seeds", 7, own=3) == 7
    assert choose("policy_seeds", 0, own=3, least=0) == 0


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "3"])
def test_what_is_no_whole_number_from_the_least_up_is_refused(value):
    with pytest.raises(UsageError, match=f"seeds takes a whole number from 1 up, not {value!r}") as error:
        choose("seeds", value, own=3)
    assert "-p seeds none" in error.value.cure
