"""Evaluate many candidates: workers on this machine, or on a Ray cluster, with one interface and one driver.

    with Ledger(path) as ledger:
        outcomes = evaluate(candidates, prepare("digits"), ledger, workers=2)

What to rely on: results come as they complete; the driver alone writes them, each at once; what the ledger holds is not
run again, so an interrupted call is continued by repeating it. Whatever ends a run early (Ctrl-C, an error of the lab's
own, every node lost): what had finished is written first, what had not is dropped, and nothing is left running.

"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain

from tqdm import tqdm

from nngpt_lab.candidates.driver import Crew, EvaluatorFactory, Job, Pool
from nngpt_lab.candidates.ledger import Ledger
from nngpt_lab.candidates.outcome import Candidate, Outcome
from nngpt_lab.ground.errors import UsageError
from nngpt_lab.sandbox.status import Status


class LocalHost:
    """This machine: a crew, and the threads that wait for it."""

    def __init__(self, factory: EvaluatorFactory, workers: int):
        self._crew = Crew(factory, factory.arrays())
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


class LocalPool(Pool):
    """Workers on this machine. On a GPU they share it: as many candidates as there are workers at a time."""

    def __init__(self, factory: EvaluatorFactory, workers: int = 2):
        if workers < 1:
            raise UsageError(f"{workers} workers evaluate nothing", "use at least one; as many as there are cores")
        super().__init__([LocalHost(factory, workers)], workers)


def open_pool(factory: EvaluatorFactory, workers: int = 2, engine: str = "local") -> Pool:
    """A pool of the engine's kind: ``local``, or ``ray`` (extra ``cluster``), where ``workers`` counts per node."""
    if engine == "local":
        return LocalPool(factory, workers)
    if engine == "ray":
        from nngpt_lab.candidates.pool_ray import RayPool

        return RayPool(factory, workers)
    raise UsageError(f"there is no engine {engine!r}", "use 'local' or 'ray'")


def evaluate(
    candidates: Iterable[Candidate],
    factory: EvaluatorFactory,
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
        factory: what to evaluate with.
        ledger: where each outcome is written as it completes.
        seeds: replicates of each candidate.
        workers, engine: as for :func:`open_pool`.
        pool: one of this factory's that is open already, to be used instead; it stays open.
        progress: show candidates per second, valid share and time left on a terminal.

    Returns:
        The ledger's outcomes, candidate by candidate, and seed by seed within each.

    Raises:
        KeyboardInterrupt: after Ctrl-C; repeat the call to continue. LabError: the lab failed, not a candidate.
    """
    protocol = factory.protocol_hash
    ledger.add_protocol(protocol, factory.record)
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
            used = pool or stack.enter_context(open_pool(factory, workers, engine))
            bar = stack.enter_context(_bar(total, progress))
            stack.enter_context(_interrupts_deferred(used.interrupt))
            _record(stack.enter_context(contextlib.closing(used.map(chain([first], waiting)))), ledger, bar)
    recorded = (ledger.outcome(candidate.code_hash, protocol, seed) for candidate in asked for seed in seeds)
    return list(recorded)  # type: ignore[arg-type]  # each of them is there by now


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
