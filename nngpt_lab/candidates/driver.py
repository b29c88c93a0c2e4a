"""What every pool is made of: a crew owns the evaluators of one node, a pool hands out jobs.

:mod:`nngpt_lab.candidates.pool` is what callers use; ``pool_ray`` puts the same driver on a cluster.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Protocol, Self

import numpy as np

from nngpt_lab.candidates.outcome import Candidate, Outcome
from nngpt_lab.candidates.proxy import Evaluator, Proxy
from nngpt_lab.ground.errors import LabError, UsageError
from nngpt_lab.sandbox.parcels import parcel

Job = tuple[Candidate, int]  # a candidate and the seed to evaluate it with
TICK_SECONDS = 0.2  # how soon an interrupt is noticed


class Crew:
    """The evaluators of one node: made when first needed, kept between jobs, over one copy of the arrays."""

    def __init__(self, proxy: Proxy, arrays: dict[str, np.ndarray]):
        self._proxy, self._shared = proxy, parcel(None, arrays)
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
        evaluator = evaluator or self._proxy.open(self._shared)
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
    """One node as a pool sees it; ``stop``, ``resume`` and ``close`` as for :class:`Crew`."""

    def submit(self, job: Job) -> Future:
        """Begin an evaluation: a future of an Outcome, or of None if it was stopped."""

    def failure(self, error: BaseException) -> BaseException | None:
        """The error behind what a future raised; None if the node is lost, and the job must be given to another."""

    def stop(self) -> None: ...
    def resume(self) -> None: ...
    def close(self) -> None: ...


class Pool:
    """What all engines share: jobs go out as there is room, results come as they complete. A context manager.

    An engine fills ``_hosts``, its nodes; ``workers`` is the number of evaluations at a time on each of them, and
    ``ahead`` the number of jobs that may wait there: no worker then waits while the next job is being made, nor does
    who makes them while all workers are busy.
    """

    def __init__(self, workers: int, ahead: int = 0):
        if workers < 1:
            raise UsageError(f"{workers} workers evaluate nothing", "use at least one; as many as a node has cores")
        self._hosts: list[Host] = []
        self._workers, self._ahead = workers, ahead
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

    def map(self, jobs: Iterable[Job]) -> Generator[tuple[Job, Outcome]]:
        """Evaluate each job, and yield it with its outcome as it completes.

        ``jobs`` is read when there is room, in the thread that iterates. An exception, from reading it or from an
        evaluation, is raised after everything that had finished was yielded. One iteration at a time.
        """
        if self._running:
            raise UsageError("this pool is at work already", "finish that iteration first, or open another pool")
        self._interrupted = False
        for host in self._hosts:
            host.resume()
        source = iter(jobs)
        again: deque[Job] = deque()
        finished: deque[tuple[Job, Outcome]] = deque()
        try:
            while True:
                self._fill(source, again)  # before anything is yielded, so that no worker waits for it
                while finished:
                    yield finished.popleft()
                if not (self._running or self._interrupted):
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
        """Give out jobs while there is room, first those of lost nodes, each to the node with the most room. What has
        finished is not kept waiting for a job that would only wait, nor is an interrupt for one more to be read."""
        while not self._interrupted:
            if not self._hosts:
                raise LabError("no node is left to evaluate on", "start the cluster's nodes again and repeat the call")
            loads = [sum(host is other for _, other in self._running.values()) for host in self._hosts]
            room = self._workers + self._ahead - min(loads)
            if room <= 0 or (room <= self._ahead and any(future.done() for future in self._running)):
                return
            if (job := again.popleft() if again else next(source, None)) is None:
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
