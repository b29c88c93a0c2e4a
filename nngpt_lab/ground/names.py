"""Looking a thing up by its name, with one error for all of them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TypeVar

from nngpt_lab.ground.errors import UsageError

T = TypeVar("T")


def named(kind: str, name: str, table: Mapping[str, T]) -> T:
    """``table[name]``; a UsageError that names the nearest one if there is none. ``kind``: what to call it."""
    if name in table:
        return table[name]
    raise UsageError(f"there is no {kind} {name!r}", f"{did_you_mean(name, table)}use one of {', '.join(table)}")


class Named(dict[str, T]):
    """Things by their ``name``. Asked for one that is not there, it raises the UsageError of :func:`named`."""

    def __init__(self, kind: str, *things: T):
        super().__init__({thing.name: thing for thing in things})  # type: ignore[attr-defined]  # things have names
        self.kind = kind

    def __missing__(self, name: str) -> T:
        return named(self.kind, name, self)


def all_named(kind: str, names: str, table: Mapping[str, T]) -> list[T]:
    """Those that ``names`` lists, separated by commas, or ``all``; in the order of ``table``. UsageError if none."""
    wanted = list(table) if names == "all" else [name.strip() for name in names.split(",") if name.strip()]
    if not wanted:
        raise UsageError(f"no {kind} is named", f"use 'all' or some of {', '.join(table)}")
    chosen = {name: named(kind, name, table) for name in wanted}
    return [chosen[name] for name in table if name in chosen]


def did_you_mean(word: str, words) -> str:
    """``"did you mean 'demo'? "`` for the word nearest to ``word``, or an empty string when none is near."""
    near = difflib.get_close_matches(str(word), list(words), n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}? " if near else ""
