"""The pool on a Ray cluster: the same driver, with an actor on each node that owns the node's crew.

Needs the extra ``cluster`` and the same version of the lab on all nodes. A node that dies is dropped and its unfinished
jobs go to the others; a result that the driver has not received counts as unfinished, so nothing is counted twice.
Nodes that join later are not used.
"""

from __future__ import annotations

import contextlib
import logging
import os
from concurrent.futures import Future
from typing import Any

from nngpt_lab.candidates.driver import Crew, Host, Job, Pool
from nngpt_lab.candidates.proxy import Proxy
from nngpt_lab.ground.errors import LabError

log = logging.getLogger(__name__)

START_SECONDS = 120.0  # for an actor to come up, which waits where a node is fully booked
CLOSE_SECONDS = 20.0


class RayPool(Pool):
    """Workers on all nodes of a Ray cluster, or on this machine when Ray starts one here; ``workers`` at a time on each
    node, or on each GPU if the proxy needs one. Each node receives the proxy's arrays once.

    ``address``: of a running cluster (``auto`` finds it); None takes the Ray that this process is connected to, or the
    one that RAY_ADDRESS names, or starts one on this machine. LabError: Ray is not installed, there is no such cluster,
    or no node of it can be used.
    """

    def __init__(self, proxy: Proxy, workers: int = 2, address: str | None = None):
        super().__init__(workers)
        ray = import_ray()
        self._started = not ray.is_initialized()
        if self._started:
            try:  # without dashboard and without other nodes' logs in ours
                ray.init(address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
            except (ConnectionError, RuntimeError, ValueError) as error:
                place, cure = f"at {address!r}" if address else "on this machine", "`ray status` says what runs; "
                raise LabError(f"no Ray cluster {place}: {error}", cure + "`ray start` starts one") from error
        try:
            self._hosts = _hosts(ray, proxy, workers)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        try:
            super().close()
        finally:
            if self._started:
                self._started = False
                import_ray().shutdown()


class RayHost:
    """One actor as a pool sees it."""

    def __init__(self, ray: Any, actor: Any):
        self._ray, self._actor = ray, actor

    def submit(self, job: Job) -> Future:
        evaluate = self._actor.evaluate.options(concurrency_group="work")  # beside it runs only what stops it
        return evaluate.remote(*job).future()

    def failure(self, error: BaseException) -> BaseException | None:
        exceptions = self._ray.exceptions
        if isinstance(error, exceptions.RayTaskError):  # raised over there; what was raised is inside
            return error.cause if isinstance(error.cause, BaseException) else error
        if isinstance(error, exceptions.RayError):
            log.warning("a node was lost, its jobs go to the others: %s", str(error).partition("\n")[0])
            return None
        return error

    def stop(self) -> None:
        self._actor.stop.remote()

    def resume(self) -> None:
        with contextlib.suppress(self._ray.exceptions.RayError):  # a node that died meanwhile: its first job tells
            self._ray.get(self._actor.resume.remote())

    def close(self) -> None:
        with contextlib.suppress(self._ray.exceptions.RayError):  # a dead node needs no closing
            self._ray.get(self._actor.close.remote(), timeout=CLOSE_SECONDS)
        self._ray.kill(self._actor)


def import_ray() -> Any:
    """The module; a LabError where it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # the coming default; else it warns
    try:
        import ray
    except ImportError as error:
        raise LabError("the ray engine needs Ray", 'pip install "nngpt-lab[cluster]"') from error
    return ray


def _hosts(ray: Any, proxy: Proxy, workers: int) -> list[Host]:
    """One actor on every node that can be used: on every GPU, if the proxy needs one."""
    crew = ray.remote(concurrency_groups={"work": workers})(Crew)
    arrays = ray.put(proxy.arrays())  # from here each node fetches it once
    actors = []
    for node in sorted(ray.nodes(), key=lambda node: node["NodeID"]):
        cores, gpus = (int(node["Resources"].get(name, 0)) for name in ("CPU", "GPU"))
        if not node["Alive"] or cores < 1:  # a head that only coordinates has no cores to give
            continue
        place = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        slots = gpus if proxy.gpu else 1
        for _ in range(slots):
            wanted = {"num_cpus": max(1, min(workers, cores // slots)), "num_gpus": int(proxy.gpu)}
            actors.append(crew.options(**wanted, scheduling_strategy=place).remote(proxy, arrays))
    return [RayHost(ray, actor) for actor in _ready(ray, actors)]


def _ready(ray: Any, actors: list[Any]) -> list[Any]:
    """Those that came up in time."""
    refs = [actor.__ray_ready__.remote() for actor in actors]
    if refs:
        ray.wait(refs, num_returns=len(refs), timeout=START_SECONDS)
    ready, reason = [], "none has a core, or the GPU that the proxy needs"
    for actor, ref in zip(actors, refs, strict=True):
        try:
            ray.get(ref, timeout=0)
            ready.append(actor)
        except ray.exceptions.RayError as error:
            reason = str(error).strip().rpartition("\n")[2]
            log.warning("a node cannot be used: %s", reason)
            ray.kill(actor)
    if not ready:
        raise LabError(f"no node of the Ray cluster can be used: {reason}", "see `ray status`, or use engine 'local'")
    return ready
