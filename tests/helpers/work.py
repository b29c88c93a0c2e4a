"""How work grows with the size of its input, counted or compared, since no time is right on every machine."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable


def calls(work: Callable[[], object]) -> int:
    """Calls of functions, Python's and C's, that ``work()`` makes in this thread."""
    count = 0

    def profile(_frame, event, _argument):
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count


def growth(work: Callable[[int], object], small: int, large: int, tries: int = 3) -> float:
    """How many times more processor time ``work(large)`` takes than ``work(small)``, at its least in some tries.

    For work inside C, such as a search with a regular expression, where no calls can be counted. Time that the thread
    waits while others hold the cores does not count, and what disturbs one try seldom disturbs all.
    """
    least = {size: min(_thread_time(work, size) for _ in range(tries)) for size in (small, large)}
    return least[large] / least[small]


def _thread_time(work: Callable[[int], object], size: int) -> int:
    begin = time.thread_time_ns()
    work(size)
    return max(time.thread_time_ns() - begin, 1)
