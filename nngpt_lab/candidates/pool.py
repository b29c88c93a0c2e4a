"""Evaluate many candidates: workers on this machine, or on a Ray cluster, with one interface and one driver.

    with Ledger(path) as ledger:
        outcomes = evaluate(candidates, prepare("digits"), ledger, workers=2)

What to rely on: results come as they complete; the driver alone writes them, each at once; what the ledger holds is not
run again, so an interrupted call is continued by repeating it. Whatever ends a run early (Ctrl-C, an error of the lab's
own, every node lost): what had finished is written first, what had not is dropped, and nothing is left running.

A :class:`Recipe` says how evaluators are made, a :class:`Crew` owns those of one node, a :class:`Pool` hands out jobs.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import chain
from typing import Any, Protocol, Self

import numpy as np
from tqdm import tqdm

from nngpt_lab.candidates.ledger import Ledger
from nngpt_lab.candidates.outcome import Candidate, Outcome, Status
from nngpt_lab.ground.errors import LabError, UsageError
from nngpt_lab.sandbox.parcels import parcel

Job = tuple[Candidate, int]  # a candidate and the seed to evaluate it with
TICK_SECONDS = 0.2  # how soon an interrupt is noticed


class Evaluator(Protocol):
    """What evaluates one candidate at a time; used from one thread at a time, except for ``stop``."""

    def evaluate(self, candidate: Candidate, seed: int) -> Outcome:
        """An outcome, whatever the candidate does; an exception says that the lab failed, and ends the run."""

    def stop(self) -> None:
        """From another thread: make a running ``evaluate`` return soon, with whatever. Otherwise without effect."""

    def close(self) -> None:
        """Free what it holds."""


class Recipe(Protocol):
    """How a node makes its evaluators. Pickled, it leaves its arrays behind: they travel once per node.

    Attributes:
        protocol_hash: what the outcomes are filed under.
        record: what that hash stands for.
        gpu: whether evaluators need a CUDA device; may be absent, which means no.
    """

    protocol_hash: str
    record: dict[str, Any]

    def arrays(self) -> dict[str, np.ndarray]:
        """What all evaluators of a node share."""

    def open(self, shared: int) -> Evaluator:
        """An evaluator; ``shared`` is the descriptor of a parcel of the arrays, and remains the caller's."""


class Crew:
    """The evaluators of one node: made when first needed, kept between jobs, over one copy of the arrays."""

    def __init__(self, recipe: Recipe, arrays: dict[str, np.ndarray]):
        self._recipe, self._shared = recipe, parcel(None, arrays)
        self._free: list[Evaluator] = []
        self._busy: list[Evaluator] = []
        self._stopping = False
        self._lock = threading.Lock()

    def evaluate(self, candidate: Candidate, seed: int) -> Outcome | None:
        """What came of a candidate; None if it was stopped. Call it from as many threads as there shall be evaluators:
        each call has one to itself."""
        with self._lock:
            if self._stopping:
                return None
            evaluator = self._free.pop() if self._free else None
        evaluator = evaluator or self._recipe.open(self._shared)
        with self._lock:
            self._busy.append(evaluator)
        outcome = None
        try:
            outcome = None if self._stopping else evaluator.evaluate(candidate, seed)
        except Exception:
            if not self._stopping:
                raise
        finally:
            with self._lock:
                self._busy = [other for other in self._busy if other is not evaluator]
                stopped = self._stopping  # so a stop comes wholly before the end of this evaluation or after it
                if not stopped:
                    self._free.append(evaluator)
            if stopped:
                evaluator.close()  # a stop may have struck it between two jobs and broken the next
        return None if stopped else outcome

    def stop(self) -> None:
        """End what runs now and drop its results. Does not wait; repeat it until every call has returned, because an
        evaluator that was about to begin has not heard it."""
        with self._lock:
            self._stopping = True
            for evaluator in self._busy:
                evaluator.stop()

    def resume(self) -> None:
        """Take jobs again, once all that was stopped has returned."""
        self._stopping = False

    def close(self) -> None:
        """Free everything. Nothing may be running."""
        with self._lock:
            evaluators, self._free = self._free, []
        for evaluator in evaluators:
            evaluator.close()
        if self._shared >= 0:
            os.close(self._shared)
            self._shared = -1


class Host(Protocol):
    """One node as a pool sees it."""

    def submit(self, job: Job) -> Future:
        """Begin an evaluation: a future of an Outcome, or of None if it was stopped."""

    def failure(self, error: BaseException) -> BaseException | None:
        """The error behind what a future raised; None if the node is lost, and the job must be given to another."""

    def stop(self) -> None:
        """As :meth:`Crew.stop`."""

    def resume(self) -> None:
        """As :meth:`Crew.resume`."""

    def close(self) -> None:
        """As :meth:`Crew.close`."""


class LocalHost:
    """This machine: a crew, and the threads that wait for it."""

    def __init__(self, recipe: Recipe, workers: int):
        self._crew = Crew(recipe, recipe.arrays())
        # The threads live as long as the evaluators: on Linux a child may die with the thread that started it
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="evaluator")
        self.stop, self.resume = self._crew.stop, self._crew.resume

    def submit(self, job: Job) -> Future:
        return self._threads.submit(self._crew.evaluate, *job)

    def failure(self, error: BaseException) -> BaseException:
        return error

    def close(self) -> None:
        self._crew.close()
        self._threads.shutdown()


class Pool:
    """What all engines share: jobs go out as there is room, results come as they complete. A context manager.

    Args:
        hosts: the nodes.
        workers: evaluations at a time on each of them.
    """

    def __init__(self, hosts: Sequence[Host], workers: int):
        self._hosts, self._workers = list(hosts), workers
        self._running: dict[Future, tuple[Job, Host]] = {}
        self._interrupted = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all evaluations and evaluators. Can be called twice."""
        self._halt()  # an iteration that was not ended, because an error's traceback holds on to it
        hosts, self._hosts = self._hosts, []
        with contextlib.ExitStack() as stack:  # each, even if one cannot be closed
            for host in hosts:
                stack.callback(host.close)

    def interrupt(self) -> None:
        """Make ``map`` raise KeyboardInterrupt after what has finished; safe in a signal handler."""
        self._interrupted = True

    def map(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Outcome]]:
        """Evaluate each job, and yield it with its outcome as it completes.

        ``jobs`` is read when there is room, in the thread that iterates. An exception, from reading it or from an
        evaluation, is raised after everything that had finished was yielded. One iteration at a time.
        """
        if self._running:
            raise UsageError("this pool is at work already", "finish that iteration first, or open another pool")
        self._interrupted = False
        for host in self._hosts:
            host.resume()
        source, again, finished = iter(jobs), deque(), deque()
        try:
            while True:
                self._fill(source, again)  # before anything is yielded, so that no worker waits for it
                while finished:
                    yield finished.popleft()
                if not self._running:
                    return
                wait(self._running, TICK_SECONDS, FIRST_COMPLETED)
                if self._interrupted:
                    raise KeyboardInterrupt
                self._collect(again, finished)
        except (Exception, KeyboardInterrupt):
            self._halt()
            with contextlib.suppress(Exception):  # the first failure is the one to tell
                self._collect(again, finished)
            while finished:
                yield finished.popleft()
            raise
        finally:  # the one who iterates may have lost interest
            self._halt()
            self._running.clear()

    def _fill(self, source: Iterator[Job], again: deque[Job]) -> None:
        """Give out jobs while there is room, first those of lost nodes, each to the node with the most room."""
        while True:
            if not self._hosts:
                raise LabError("no node is left to evaluate on", "start the cluster's nodes again and repeat the call")
            loads = [sum(host is other for _, other in self._running.values()) for host in self._hosts]
            if min(loads) >= self._workers or (job := again.popleft() if again else next(source, None)) is None:
                return
            host = self._hosts[loads.index(min(loads))]
            self._running[host.submit(job)] = job, host

    def _collect(self, again: deque[Job], finished: deque[tuple[Job, Outcome]]) -> None:
        """Move what is done to ``finished``, or to ``again`` where a node was lost; then raise the first failure."""
        failure = None
        for future in [future for future in self._running if future.done()]:
            job, host = self._running.pop(future)
            if error := future.exception():
                if reason := host.failure(error):
                    failure = failure or reason
                else:
                    again.append(job)
                    self._hosts = [other for other in self._hosts if other is not host]
            elif outcome := future.result():
                finished.append((job, outcome))
        if failure:
            raise failure

    def _halt(self) -> None:
        """Stop what runs, and wait until it has ended."""
        while wait(self._running, 0).not_done:
            for host in self._hosts:
                host.stop()
            wait(self._running, TICK_SECONDS)


class LocalPool(Pool):
    """Workers on this machine. On a GPU they share it: as many candidates as there are workers at a time."""

    def __init__(self, recipe: Recipe, workers: int = 2):
        if workers < 1:
            raise UsageError(f"{workers} workers evaluate nothing", "use at least one; as many as there are cores")
        super().__init__([LocalHost(recipe, workers)], workers)


def open_pool(recipe: Recipe, workers: int = 2, engine: str = "local") -> Pool:
    """A pool of the engine's kind: ``local``, or ``ray`` (extra ``cluster``), where ``workers`` counts per node."""
    if engine == "local":
        return LocalPool(recipe, workers)
    if engine == "ray":
        from nngpt_lab.candidates.pool_ray import RayPool

        return RayPool(recipe, workers)
    raise UsageError(f"there is no engine {engine!r}", "use 'local' or 'ray'")


def evaluate(
    candidates: Iterable[Candidate],
    recipe: Recipe,
    ledger: Ledger,
    *,
    seeds: Sequence[int] = (0,),
    workers: int = 2,
    engine: str = "local",
    pool: Pool | None = None,
    progress: bool = True,
) -> list[Outcome]:
    """Evaluate every candidate with every seed, except what the ledger holds already.

    Args:
        candidates: equal codes are evaluated once. An iterator is read as there is room, in this thread: on as many
            cores as there are workers, one core makes the next candidate while the others evaluate.
        recipe: what to evaluate with.
        ledger: where each outcome is written as it completes.
        seeds: replicates of each candidate.
        workers, engine: as for :func:`open_pool`.
        pool: one of this recipe's that is open already, to be used instead; it stays open.
        progress: show candidates per second, valid share and time left on a terminal.

    Returns:
        The ledger's outcomes, candidate by candidate, and seed by seed within each.

    Raises:
        KeyboardInterrupt: after Ctrl-C; repeat the call to continue. LabError: the lab failed, not a candidate.
    """
    protocol = recipe.protocol_hash
    ledger.add_protocol(protocol, recipe.record)
    asked, done = [], ledger.known(protocol)
    total = None
    if isinstance(candidates, Sequence):
        total = len({(candidate.code_hash, seed) for candidate in candidates for seed in seeds} - done)

    def jobs() -> Iterator[Job]:
        for candidate in candidates:
            asked.append(candidate)
            for seed in seeds:
                identity = candidate.code_hash, seed
                # Another driver may be at work on the same ledger: look again when a job's turn comes
                if identity not in done and not ledger.outcome(candidate.code_hash, protocol, seed):
                    yield candidate, seed
                done.add(identity)

    waiting = jobs()
    if first := next(waiting, None):  # no process is started for nothing
        with contextlib.ExitStack() as stack:
            used = pool or stack.enter_context(open_pool(recipe, workers, engine))
            bar = stack.enter_context(_bar(total, progress))
            stack.enter_context(_interrupts_deferred(used.interrupt))
            _record(stack.enter_context(contextlib.closing(used.map(chain([first], waiting)))), ledger, bar)
    return [ledger.outcome(candidate.code_hash, protocol, seed) for candidate in asked for seed in seeds]


def _record(results: Iterator[tuple[Job, Outcome]], ledger: Ledger, bar: tqdm) -> None:
    """Write each result and count it."""
    valid = 0
    for done, ((candidate, seed), outcome) in enumerate(results, start=1):
        if outcome.seed != seed:
            raise ValueError(f"the evaluator answered for seed {outcome.seed} instead of {seed}")
        ledger.add_outcome(candidate, outcome)
        valid += outcome.status == Status.OK
        bar.set_postfix(valid=f"{valid / done:.0%}", refresh=False)
        bar.update()


def _bar(total: int | None, progress: bool) -> tqdm:
    hidden = None if progress else True  # None: shown on a terminal, hidden in a log
    return tqdm(desc="evaluated", total=total, unit=" candidates", disable=hidden, leave=False)


@contextlib.contextmanager
def _interrupts_deferred(notify: Callable[[], None]) -> Iterator[None]:
    """Turn Ctrl-C into a call of ``notify``, so that it cannot fall between receiving a result and writing it; a second
    one is Python's own. KeyboardInterrupt follows at the end if ``notify`` led to nothing."""
    noticed = False

    def notice(*_: object) -> None:
        nonlocal noticed
        noticed = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        notify()

    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield  # nobody's interrupts but Python's own are ours to change
        return
    signal.signal(signal.SIGINT, notice)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if noticed:
        raise KeyboardInterrupt
