"""One function on many items, on all cores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from joblib import Parallel, delayed
from tqdm import tqdm

Item = TypeVar("Item")
Result = TypeVar("Result")
FEW = 500  # items: fewer are done sooner than processes have started


def in_processes(
    function: Callable[[Item], Result], items: Sequence[Item], title: str, few: int = FEW
) -> Iterator[Result]:
    """``function`` of each item, in order, with a bar on a terminal. The processes set to work at once, before a
    result is asked for; up to ``few`` items are done in this process, as they are asked for.

    For pure Python, which threads do not speed up. joblib's workers start from notebooks and scripts alike.
    """
    parallel = Parallel(n_jobs=-1 if len(items) > few else 1, batch_size=64, return_as="generator")
    results = parallel(delayed(function)(item) for item in items)
    return iter(tqdm(results, title, len(items), disable=None, leave=False))
