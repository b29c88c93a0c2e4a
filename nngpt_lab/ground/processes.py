"""One function on many items, on all cores; or a few long calls side by side, as many as the machine carries."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import islice
from typing import Any, TypeVar

from joblib import Parallel, delayed
from tqdm import tqdm

from nngpt_lab.ground.progress import bar_hidden

Item = TypeVar("Item")
Result = TypeVar("Result")
SECONDS_TO_END = 30  # for a call whose parent died
FEW = 500  # items: fewer are done sooner than processes have started


def parallel(together: int, **options: Any) -> Parallel:
    """joblib's ``Parallel`` with ``together`` processes (-1: all cores; 1: this process). They end with this process,
    however it ends; joblib's own would first finish what they are at, each with a model in memory, say."""
    return Parallel(n_jobs=together, initializer=_end_when_orphaned, **options)


def _end_when_orphaned() -> None:
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def in_processes(
    function: Callable[[Item], Result], items: Sequence[Item], title: str, few: int = FEW
) -> Iterator[Result]:
    """``function`` of each item, in order, with a bar on a terminal; for pure Python, which threads do not speed up.
    The processes set to work at once, before a result is asked for; up to ``few`` items are done in this process, as
    they are asked for. joblib's workers start from notebooks and scripts alike."""
    together = -1 if len(items) > few else 1
    results = parallel(together, batch_size=64, return_as="generator")(delayed(function)(item) for item in items)
    return iter(tqdm(results, title, len(items), disable=bar_hidden(), leave=False))


def carried(most: int, gib: float) -> int:
    """How many processes this machine carries at a time, up to ``most``: it has so many GiB of free memory for each."""
    import psutil

    return max(1, min(most, int(psutil.virtual_memory().available / 2**30 // gib)))


def side_by_side(
    function: Callable[..., Result], calls: Sequence[tuple], together: int
) -> Generator[Result, None, None]:
    """Results of long calls as they end, ``together`` at a time, each in a process of its own; 1: in this process.
    Ctrl-C is each call's KeyboardInterrupt, once; those that wait do not begin. An error ends all of them alike, and so
    does the end of this process. Where a process cannot be interrupted so (Windows), one call follows the other."""
    if together <= 1 or os.name != "posix":
        yield from (function(*call) for call in calls)
        return
    others = set(multiprocessing.active_children())
    spawn = multiprocessing.get_context("spawn")  # a fork may inherit locks that a thread of ours holds
    with ProcessPoolExecutor(min(together, len(calls)), spawn, _begin, (spawn.RLock(),)) as pool:
        waiting = iter(calls)
        running: set[Future] = set()
        try:
            while True:  # no call waits in the pool: its queue would hand one on after an interrupt
                running |= {
                    pool.submit(_interruptible, function, call) for call in islice(waiting, together - len(running))
                }
                if not running:
                    return
                ended, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in ended)
        except BaseException:
            for child in set(multiprocessing.active_children()) - others:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child.pid, signal.SIGINT)  # type: ignore[arg-type]  # it has started
            raise


def _begin(lock: Any) -> None:
    """A process of :func:`side_by_side` begins: a terminal's Ctrl-C goes to its parent, which hands it on."""
    tqdm.set_lock(lock)
    os.setpgrp()
    signal.signal(signal.SIGINT, _note)  # until it has a call
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()  # type: ignore[union-attr]  # it has one
    os.kill(os.getpid(), signal.SIGINT)
    threading.Event().wait(SECONDS_TO_END)
    os._exit(1)


_interrupts: list[int] = []  # those of a process that had no call yet: it was still importing what its call needs


def _note(number: int, _: Any) -> None:
    _interrupts.append(number)


def _interruptible(function: Callable[..., Result], call: tuple) -> Result:
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if _interrupts:
            raise KeyboardInterrupt
        return function(*call)
    finally:
        signal.signal(signal.SIGINT, _note)
        if not multiprocessing.parent_process().is_alive():  # type: ignore[union-attr]  # it has one
            os._exit(1)  # there is nobody to take the result
