"""Waiting for what must happen, however busy the machine is: for conditions, never for a time to pass."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

import psutil

LIMIT = 300  # seconds after which a test gives up: a hundred times what an idle machine needs


def wait_for(condition: Callable[[], object]) -> object:
    """The condition's first true value."""
    end = time.monotonic() + LIMIT
    while not (value := condition()):
        assert time.monotonic() < end, f"not in {LIMIT} seconds"
        time.sleep(0.01)
    return value


def alive(process: psutil.Process | int) -> bool:
    """Whether it still runs. Where process 1 reaps nobody, as in some containers, what has ended stays a zombie."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(process) if isinstance(process, int) else process
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def when(condition: Callable[[], object], action: Callable[[], object]) -> threading.Thread:
    """A thread, started, that acts once the condition is true; join it."""
    thread = threading.Thread(target=lambda: wait_for(condition) and action())
    thread.start()
    return thread


def settled(state: Callable[[], object], looks: int = 10) -> object:
    """The state once so many looks in a row have found it unchanged."""
    seen: list[object] = []

    def unchanged() -> bool:
        seen.append(state())
        time.sleep(0.05)
        return len(seen) >= looks and all(one == seen[-1] for one in seen[-looks:])

    wait_for(unchanged)
    return seen[-1]
