"""Numbers that a user may choose, and what holds where none is chosen."""

from __future__ import annotations

from nngpt_lab.ground.errors import UsageError


def choose(name: str, value: int | None, own: int, least: int = 1) -> int:
    """``value``, or the profile's ``own`` where it is None. UsageError, which calls it ``name``, if it is no whole
    number, or smaller than ``least``."""
    if value is None:
        return own
    if type(value) is not int or value < least:
        raise UsageError(
            f"{name} takes a whole number from {least} up, not {value!r}",
            f"use None for the profile's own (on the command line: -p {name} none)",
        )
    return value
