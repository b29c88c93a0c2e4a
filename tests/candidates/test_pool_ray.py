"""The Ray engine on three nodes on this machine: the driver's, which only coordinates, and two that work."""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from nngpt_lab.candidates import pool_ray
from nngpt_lab.candidates.ledger import Ledger
from nngpt_lab.candidates.outcome import Candidate, Kind, Outcome
from nngpt_lab.candidates.pool import evaluate
from nngpt_lab.candidates.pool_ray import RayPool
from nngpt_lab.ground.errors import LabError, UsageError
from nngpt_lab.sandbox import confine
from nngpt_lab.sandbox.parent import SandboxError
from nngpt_lab.sandbox.status import Status
from tests.helpers import light_recipe
from tests.helpers.waiting import when

if not confine.LINUX:
    pytest.skip("the sandboxes of its nodes need Linux", allow_module_level=True)


def test_without_ray_the_cure_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(LabError, match=r"needs Ray\n.*nngpt-lab\[cluster\]"):
        RayPool(light_recipe.LightRecipe())


def test_no_workers_is_refused():
    with pytest.raises(UsageError, match="0 workers"):
        RayPool(light_recipe.LightRecipe(), workers=0)


SOON_MISSED = {"health_check_period_ms": 300}  # a node that does not answer is waited for as long as ever


@pytest.fixture(scope="module")
def cluster():
    pytest.importorskip("ray", reason="Ray is not installed (extra cluster)")
    pool_ray.import_ray()  # before its first import, as it reads the environment then
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))  # the nodes need this module and light_recipe
        for attempt in range(3):
            cluster = Cluster()
            try:
                cluster.add_node(num_cpus=0, include_dashboard=False, _system_config=SOON_MISSED)
                cluster.workers = [cluster.add_node(num_cpus=2) for _ in range(2)]
                break
            except Exception as error:  # Ray raises nothing more special
                cluster.shutdown()
                if "timed out during startup" not in str(error):
                    raise
                if attempt == 2:
                    pytest.skip("the machine is too busy for Ray, which gives its agents 15 seconds to start")
        yield cluster
        cluster.shutdown()


@pytest.fixture(scope="module")
def opened(cluster, tmp_path_factory):
    """What is evaluated, and the pool that does it, for all tests: an actor takes seconds to come up."""
    recipe = CountingRecipe(str(tmp_path_factory.mktemp("evaluations") / "log"))
    with RayPool(recipe, workers=2, address=cluster.address) as pool:
        yield recipe, pool


@pytest.fixture
def recipe(opened):
    Path(opened[0].log).unlink(missing_ok=True)
    return opened[0]


@pytest.fixture
def pool(opened):
    return opened[1]


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        yield ledger


class CountingRecipe(light_recipe.LightRecipe):
    """Its arrays can be had in the driver only, and once."""

    def __init__(self, log: str):
        super().__init__(log)
        self.asked, self.driver = 0, os.getpid()

    def arrays(self) -> dict[str, np.ndarray]:
        self.asked += 1
        assert (self.asked, os.getpid()) == (1, self.driver)
        return super().arrays()


def begun(recipe: CountingRecipe) -> list[list[str]]:
    """Node's process, code hash and seed of each evaluation that began, on any node."""
    log = Path(recipe.log)
    return [line.split() for line in log.read_text(encoding="ascii").splitlines()] if log.exists() else []


def test_nodes_share_the_work_and_the_driver_keeps_the_books(pool, recipe, ledger):
    candidates = light_recipe.candidates(12)
    outcomes = evaluate(candidates, recipe, ledger, seeds=(0, 1), pool=pool, progress=False)
    expected = [1 / (2 + i) * factor for i in range(3) for factor in (1, 0.5)]
    assert [outcome.score for outcome in outcomes[:6]] == pytest.approx(expected)
    assert [outcome.status for outcome in outcomes[6:12:2]] == [Status.CRASH, Status.FORBIDDEN, Status.NON_FINITE]
    assert len({node for node, *_ in begun(recipe)}) == 2
    assert len(begun(recipe)) == 24 == len(ledger.known("light"))
    assert evaluate(candidates, recipe, ledger, seeds=(0, 1), pool=pool) == outcomes
    assert len(begun(recipe)) == 24


def test_an_error_on_a_node_is_told_as_if_it_were_here(pool, recipe, ledger):
    with pytest.raises(SandboxError) as caught:
        evaluate([*light_recipe.candidates(2), light_recipe.BROKEN], recipe, ledger, pool=pool)
    assert (type(caught.value), caught.value.cause, caught.value.cure) == (SandboxError, "the lab failed", "mend it")


def test_an_interrupt_keeps_what_is_finished(pool, recipe, ledger):
    slow = [Candidate("", f"import time; time.sleep({60 + i})", Kind.ARCHITECTURE) for i in range(4)]
    quick = light_recipe.candidates(4)
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    written = {(candidate.code_hash, 0) for candidate in quick}

    def all_slow_ones_run() -> bool:
        with Ledger(ledger.path) as other:  # a connection is its thread's own
            return len(begun(recipe)) == 8 and other.known("light") == written

    interrupt = when(all_slow_ones_run, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        evaluate(quick + slow, recipe, ledger, pool=pool)
    interrupt.join()
    signal.signal(signal.SIGINT, previous)
    assert ledger.known("light") == written  # the slow ones were stopped: their time limit would be an outcome
    assert [outcome.status for outcome in evaluate(quick, recipe, ledger, pool=pool)] == [Status.OK] * 3 + [
        Status.CRASH
    ]


def test_a_node_that_dies_costs_nothing_and_counts_nothing_twice(cluster, pool, recipe, ledger, caplog):
    """One node is killed in the middle of the run, and with the second one nobody is left."""
    candidates = light_recipe.candidates(40, seconds=0.2)
    killer = when(lambda: len(begun(recipe)) > 10, lambda: kill_a_node(cluster))
    counted = CountedLedger(ledger)
    with caplog.at_level(logging.WARNING):
        outcomes = evaluate(candidates, recipe, counted, pool=pool, progress=False)
    killer.join()
    assert "a node was lost" in caplog.text
    assert [outcome.status == Status.OK for outcome in outcomes] == [i % 6 < 3 for i in range(40)]
    assert sorted(counted.written) == sorted(candidate.code_hash for candidate in candidates)
    nodes = {node for node, *_ in begun(recipe)}
    repeated = len(begun(recipe)) - 40
    assert len(nodes) == 2 and 0 <= repeated <= 2  # what the dead node had begun
    survivors = [node for node in nodes if Path(f"/proc/{node}").exists()]
    assert len(survivors) == 1 and begun(recipe)[-1][0] == survivors[0]

    more = light_recipe.candidates(50, seconds=0.25)
    killer = when(lambda: len(begun(recipe)) > 50, lambda: kill_a_node(cluster))
    with pytest.raises(LabError, match="no node is left"):
        evaluate(more, recipe, ledger, pool=pool, progress=False)
    killer.join()
    assert 40 < len(ledger.known("light")) < 90


class CountedLedger:
    """A ledger that remembers what it was given."""

    def __init__(self, ledger: Ledger):
        self.ledger, self.written = ledger, []

    def __getattr__(self, name):
        return getattr(self.ledger, name)

    def add_outcome(self, candidate: Candidate, outcome: Outcome) -> bool:
        self.written.append(candidate.code_hash)
        return self.ledger.add_outcome(candidate, outcome)


def kill_a_node(cluster) -> None:
    cluster.remove_node(cluster.workers.pop(), allow_graceful=False)


def test_a_cluster_without_a_usable_node_is_refused(cluster, tmp_path):
    """After the test above, only the driver's node is left, which has no cores to give."""
    while cluster.workers:
        cluster.remove_node(cluster.workers.pop(), allow_graceful=False)
    with pytest.raises(LabError, match=r"no node of the Ray cluster can be used"):
        RayPool(CountingRecipe(str(tmp_path / "log")), workers=2, address=cluster.address)
