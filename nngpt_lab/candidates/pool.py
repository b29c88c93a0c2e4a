"""Evaluate many candidates: workers on this machine, or on a Ray cluster, with one interface and one driver.

What to rely on: results come as they complete; the driver alone writes them, each at once; what the ledger holds is not
run again, so an interrupted call is continued by repeating it. Whatever ends a run early (Ctrl-C, an error of the lab's
own, every node lost): what had finished is written first, what had not is dropped, and nothing is left running.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import chain

from joblib import cpu_count
from tqdm import tqdm

from nngpt_lab.candidates.driver import Crew, Job, Pool
from nngpt_lab.candidates.ledger import Ledger
from nngpt_lab.candidates.outcome import Candidate, Outcome
from nngpt_lab.candidates.proxy import Proxy
from nngpt_lab.ground import isolation
from nngpt_lab.ground.errors import UsageError
from nngpt_lab.ground.progress import bar_hidden
from nngpt_lab.sandbox.parent import layers_here
from nngpt_lab.sandbox.status import Status

log = logging.getLogger(__name__)

GPU_GIB = 5  # of a card, for one candidate and its spare
CUDA_GIB = 1.3  # of these, what both take for CUDA and the images before a candidate has allocated anything
LEAST_GIB = 0.5  # without which hardly any candidate can be trained
SAMPLING = 0.25  # of a card, left to the keys and values of a language model that writes beside them
JOBS_AHEAD = 256  # on a GPU, where a language model writes faster than candidates are trained: a cycle's and more


class LocalHost(Crew):
    """This machine: a crew, and the threads that wait for it."""

    def __init__(self, proxy: Proxy, workers: int):
        super().__init__(proxy, proxy.arrays())
        # The threads live as long as the evaluators: on Linux a child may die with the thread that started it
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="evaluator")

    def submit(self, job: Job) -> Future:
        return self._threads.submit(self.evaluate, *job)

    def failure(self, error: BaseException) -> BaseException:
        return error

    def close(self) -> None:
        super().close()
        self._threads.shutdown()


class LocalPool(Pool):
    """Workers on this machine. On a GPU they share it: as many candidates as there are workers at a time. ``ahead``:
    jobs that may wait for a worker."""

    def __init__(self, proxy: Proxy, workers: int = 2, ahead: int = 0):
        super().__init__(workers, ahead)
        self._hosts = [LocalHost(proxy, workers)]


def default_workers(device: str = "cpu") -> int:
    """Candidates at a time on this machine: as many as it has cores. On a GPU all but four of them, or half if it has
    few: each candidate keeps a core busy with launching kernels (one H200, 16 cores: 8 at a time gave 1.8 times what 4
    gave), and beside them a language model writes and spares get warm. No more than the card's memory carries."""
    cores = cpu_count()
    if not device.startswith("cuda"):
        return cores
    import torch

    memory = torch.cuda.get_device_properties(device).total_memory / 2**30
    return max(1, min(max(cores // 2, cores - 4), int(memory // GPU_GIB)))


def open_pool(proxy: Proxy, workers: int | None = None, engine: str = "local") -> Pool:
    """A pool of the engine's kind: ``local``, or ``ray`` (extra ``cluster``), where ``workers`` counts per node; there
    are :func:`default_workers` else. On a GPU each candidate may use an equal share of the memory that is free now, but
    for what a language model samples with, and there are no more workers than that carries.

    Raises:
        IsolationError: no candidate may run here (:mod:`nngpt_lab.ground.isolation`).
        UsageError: there is no such engine, or a card is too full for a single candidate.
    """
    if engine == "local":  # each node of a cluster finds out for itself
        layers = layers_here()
        isolation.require(layers)
        log.log(logging.WARNING if isolation.lacking(layers) else logging.INFO, isolation.described(layers))
    workers = default_workers(proxy.device) if workers is None else workers
    if proxy.gpu and workers > 0:
        workers, fraction = _shares(proxy.device, workers) if engine == "local" else (workers, 1 / (workers + 1))
        proxy = replace(proxy, gpu_fraction=fraction)
    if engine == "local":
        return LocalPool(proxy, workers, JOBS_AHEAD if proxy.gpu else 0)
    if engine == "ray":
        from nngpt_lab.candidates.pool_ray import RayPool

        return RayPool(proxy, workers)
    raise UsageError(f"there is no engine {engine!r}", "use 'local' or 'ray'")


def _shares(device: str, workers: int) -> tuple[int, float]:
    """How many of so many workers a card carries beside what is on it, and the part of it that each candidate gets."""
    import torch

    free, total = (size / 2**30 for size in torch.cuda.mem_get_info(device))
    room = free - SAMPLING * total
    carried = max(1, min(workers, int(room // GPU_GIB)))
    share = room / carried - CUDA_GIB
    if share < LEAST_GIB:
        cause = f"{device} has {free:.1f} of {total:.1f} GiB free, too little for a candidate beside a language model"
        raise UsageError(cause, "end what else uses the card, or take a smaller model, or --device cpu")
    if carried < workers:
        log.warning("%s carries %d candidates at a time instead of %d: %.1f of %.1f GiB are free", device, carried,
                    workers, free, total)  # fmt: skip
    return carried, min(share / total, 1 / (carried + 1))


def evaluate(
    candidates: Iterable[Candidate],
    proxy: Proxy,
    ledger: Ledger,
    *,
    seeds: Sequence[int] = (0,),
    workers: int | None = None,
    pool: Pool | None = None,
    progress: bool = True,
) -> list[Outcome]:
    """What the ledger holds of every candidate with every seed, candidate by candidate, and seed by seed within each;
    what it lacks is evaluated, and written as it completes.

    Args:
        candidates: equal codes are evaluated once. An iterator is read as there is room, in this thread: on as many
            cores as there are workers, one core makes the next candidate while the others evaluate. On a GPU more is
            read than there are workers, so that neither waits for the other.
        workers: evaluations at a time on this machine.
        pool: one of this proxy's that is open already (:func:`open_pool`), to be used instead; it stays open.

    Raises:
        KeyboardInterrupt: after Ctrl-C; repeat the call to continue. LabError: the lab failed, not a candidate.
    """
    protocol = proxy.protocol_hash
    ledger.add_protocol(protocol, proxy.record)
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
            used = pool or stack.enter_context(open_pool(proxy, workers))
            bar = stack.enter_context(
                tqdm(desc="evaluated", total=total, unit=" candidates", disable=bar_hidden(progress), leave=False)
            )
            stack.enter_context(_interrupts_deferred(used.interrupt))
            results = stack.enter_context(contextlib.closing(used.map(chain([first], waiting))))
            valid = 0
            for count, ((candidate, seed), outcome) in enumerate(results, start=1):
                if outcome.seed != seed:
                    raise ValueError(f"the evaluator answered for seed {outcome.seed} instead of {seed}")
                ledger.add_outcome(candidate, outcome)
                valid += outcome.status == Status.OK
                bar.set_postfix(valid=f"{valid / count:.0%}", refresh=False)
                bar.update()
    recorded = (ledger.outcome(candidate.code_hash, protocol, seed) for candidate in asked for seed in seeds)
    return list(recorded)  # type: ignore[arg-type]  # each of them is there by now


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
