"""Children that get warm before their task comes: what they bring, what confines them, and what becomes of them."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pandas as pd
import psutil
import pytest

from nngpt_lab.candidates.ledger import Ledger
from nngpt_lab.candidates.pool import evaluate
from nngpt_lab.sandbox import confine
from nngpt_lab.sandbox.parent import Limits, Sandbox, SandboxError
from nngpt_lab.sandbox.status import Status
from tests.helpers.light_recipe import LightRecipe, candidates
from tests.helpers.waiting import alive, wait_for, when
from tests.sandbox import test_confine, test_parent

if not confine.LINUX:
    pytest.skip("Linux confinement", allow_module_level=True)

TASKS = "tests.helpers.warm_tasks"
weak = test_confine.weak
LIMITS, PREDICTIONS, attack = test_parent.LIMITS, test_parent.PREDICTIONS, test_parent.attack


def sandbox(*setup: str, namespaces: bool = True, **payload) -> Sandbox:
    images = np.ones((8, 4), np.float32)
    options = {"namespaces": namespaces, "warm": ("warm", {"factor": 3} | payload)}
    return Sandbox(LIMITS, (TASKS, *setup), shared={"images": images}, **options)


@pytest.fixture(scope="module", params=["namespaces", "no namespaces"])
def box(request, weak):
    with sandbox("torch", namespaces=request.param == "namespaces") as opened:
        if request.param == "no namespaces" and not (confine.landlock_abi() and confine.seccomp_works()):
            pytest.skip("neither namespaces nor the rest")
        yield opened


@pytest.fixture(autouse=True)
def unharmed(request):
    """After each test: the next task is clean, and only the zygote and one whole spare are left."""
    yield
    if "box" not in request.fixturenames:
        return
    box = request.getfixturevalue("box")
    report = box.run("benign", {}, expect=PREDICTIONS)
    assert (report.status, report.value) == (Status.OK, {"clean": True, "left_over": []}), report
    wait_for(lambda: len(confine.descendants(box._process.pid)) == (3 if spares(box) else 0))


def spares(box: Sandbox) -> bool:
    return "pid namespace" in box.isolation


def spare_processes(box: Sandbox) -> list[psutil.Process]:
    """Supervisor and task of the one that waits."""
    wait_for(lambda: len(confine.descendants(box._process.pid)) == 3)
    return [psutil.Process(pid) for pid in confine.descendants(box._process.pid)[1:]]


# --- what it brings -----------------------------------------------------------------------------------------------


def test_a_task_finds_what_was_got_ready_once_and_nothing_of_the_task_before(box):
    code = """
        import os
        value = [float(arrays["ready"].sum()), float(arrays["images"].sum()), os.environ["WARMED"], hasattr(os, "mark")]
        os.mark = os.environ["WARMED"] = "9"
        arrays["ready"][:] = 7
    """
    for _ in range(3):
        assert attack(box, code).value == [96.0, 32.0, "1", False]


def test_output_and_descriptors_are_those_of_any_task(box):
    code = """
        import os
        value = []
        print("mine")
        for number in range(4096):
            try: os.fstat(number)
            except OSError: continue
            value.append(number)
    """
    report = attack(box, code)
    assert (report.value, report.output) == ([0, 1, 2, 3], "mine\n")


@pytest.mark.parametrize("workers", [1, 4])
def test_the_pool_files_the_same_with_and_without_spares(workers, tmp_path):
    tables = []
    for warm in (None, ("get_ready", {})):
        with Ledger(tmp_path / f"{warm is None}.sqlite") as ledger:
            evaluate(candidates(12), LightRecipe(warm=warm), ledger, seeds=(0, 1), workers=workers, progress=False)
            columns = ["code_hash", "seed", "status", "score", "message"]
            tables.append(ledger.table("evaluations")[columns].sort_values(columns[:2], ignore_index=True))
    assert len(tables[0]) == 24
    pd.testing.assert_frame_equal(*tables)


# --- what it may use ----------------------------------------------------------------------------------------------


def test_a_task_s_seconds_are_counted_from_when_it_is_handed_over():
    limits = Limits(wall_seconds=30, cpu_seconds=1, memory_mib=1024)
    with sandbox(cpu=1.2) as box:
        assert attack(box, "import os\nwhile sum(os.times()[:2]) < 1.3: pass\nvalue = 5", limits).value == 5
        report = attack(box, "while True: pass", replace(limits, wall_seconds=60))
        assert (report.status, report.killed) == (Status.TIMEOUT, False), report


def test_what_the_next_spare_takes_is_not_the_task_s():
    code = """
        import threading, time
        held = bytearray(1) * (300 << 20)
        time.sleep(1)  # until it stands
        event = threading.Event()
        threads = [threading.Thread(target=event.wait) for _ in range(16)]
        for thread in threads: thread.start()
        event.set()
    """
    with sandbox(mib=400, threads=6) as box:  # twice 400 and 300 are over LIMITS, as are twice 7 and 16
        assert [attack(box, code).status for _ in range(2)] == [Status.OK] * 2


@pytest.mark.parametrize("name", ["memory", "threads"])
def test_a_task_is_held_to_its_limits_beside_a_spare(box, name):
    code = {"memory": "held = bytearray(1) * (2 << 30)", "threads": test_confine.FORKS}[name]
    assert attack(box, code).status == {"memory": Status.OUT_OF_MEMORY, "threads": Status.FORBIDDEN}[name]


NAMES = """
import socket, time
import numpy as np
def take(payload, shared):
    local = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    taken.append(local)
    try:
        local.bind(b"\\0the-driver's-own")
    except OSError:
        return None, {"free": np.array(False)}
    return None, {"free": np.array(True)}
taken = []
def look(payload, shared):
    time.sleep(1)  # while it holds the name
    return bool(shared["free"]), {}
"""


def test_a_task_takes_no_name_from_the_next_spare(tmp_path, monkeypatch):
    (tmp_path / "names.py").write_text(NAMES.replace("\\\\", "\\"))
    monkeypatch.syspath_prepend(tmp_path)
    with Sandbox(setup="names", gpu=True, warm=("take", None)) as box:
        assert [box.run("look", None).value for _ in range(3)] == [True] * 3


# --- what becomes of it -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 1], ids=["supervisor", "task"])
def test_one_that_was_killed_is_replaced(place):
    with sandbox() as box:
        for number in range(3):
            assert attack(box, f"value = {number} + float(arrays['ready'][0, 0])").value == number + 3
            if not spares(box):
                pytest.skip("no spare waits without namespaces")
            killed = spare_processes(box)[place]
            killed.kill()
            wait_for(lambda: not alive(killed))  # noqa: B023
        assert box.zygotes == 1


def test_one_that_does_not_get_warm_is_an_error_of_ours(tmp_path):
    with sandbox(fails=True) as box:
        for _ in range(2):
            with pytest.raises(SandboxError, match="gets ready: RuntimeError: the driver does not start"):
                attack(box, "value = 1")
            assert box._process is None
    with Ledger(tmp_path / "ledger.sqlite") as ledger, pytest.raises(SandboxError, match="no driver"):
        evaluate(candidates(3), LightRecipe(warm=("get_ready", {"fails": True})), ledger, workers=2, progress=False)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.table("evaluations").empty


def test_one_that_cannot_be_confined_is_an_error_of_ours(tmp_path, monkeypatch):
    refused = (
        "from nngpt_lab.sandbox import confine\ndef refuse(): raise OSError('no')\nconfine.drop_capabilities = refuse"
    )
    (tmp_path / "refused.py").write_text(refused)
    monkeypatch.syspath_prepend(tmp_path)
    with sandbox("refused") as box, pytest.raises(SandboxError, match="task: OSError"):
        attack(box, "value = 1")


def test_one_that_nobody_asks_for_ends(tmp_path, monkeypatch):
    (tmp_path / "impatient.py").write_text("from nngpt_lab.sandbox import child\nchild.IDLE_SECONDS = 0.0")
    monkeypatch.syspath_prepend(tmp_path)
    with sandbox("impatient") as box:
        for number in range(3):
            assert attack(box, f"value = {number}").value == number
            wait_for(lambda: len(confine.descendants(box._process.pid)) == ("pid namespace" in box.isolation))


@pytest.mark.parametrize("moment", ["at rest", "while one gets warm"])
@pytest.mark.parametrize("namespaces", [True, False], ids=["namespaces", "no namespaces"])
def test_a_task_whose_zygote_was_killed_before_it_began_is_run_again(moment, namespaces, weak, caplog):
    with sandbox(namespaces=namespaces, cpu=1.0) as box:
        box.start()
        zygote, forked = psutil.Process(box._process.pid), spares(box)  # the launcher's only child, where it has one
        warming = lambda: len(confine.descendants(zygote.pid)) > forked  # noqa: E731
        killer = when(warming if moment == "while one gets warm" else lambda: True, zygote.kill)
        if moment == "at rest":
            wait_for(lambda: not alive(zygote))
        assert attack(box, "value = 5").value == 5
        killer.join()
        assert (box.zygotes, sum("is run again" in record.getMessage() for record in caplog.records)) == (2, 1)


@pytest.mark.parametrize("namespaces", [True, False], ids=["namespaces", "no namespaces"])
def test_a_zygote_killed_before_each_try_is_never_the_candidate_s_fault(namespaces, weak, monkeypatch):
    with sandbox(namespaces=namespaces) as box:
        start = box.start

        def start_and_kill():
            start()
            box._process.kill()
            box._process.wait()

        monkeypatch.setattr(box, "start", start_and_kill)
        with pytest.raises(SandboxError, match="zygote was killed, 3 times"):
            attack(box, "value = 5")


def test_a_spare_that_was_asked_for_waits_for_its_task_however_late(tmp_path, monkeypatch):
    """A machine may hold this process up between the two: the task must not then find a child that is not warm."""
    (tmp_path / "impatient.py").write_text("from nngpt_lab.sandbox import child\nchild.IDLE_SECONDS = 0.0")
    monkeypatch.syspath_prepend(tmp_path)
    with sandbox("impatient") as box:
        warm = box._await_warm_child
        monkeypatch.setattr(box, "_await_warm_child", lambda limits: (warm(limits), time.sleep(0.3)))
        assert [attack(box, "value = float(arrays['ready'][0, 0])").value for _ in range(3)] == [3.0] * 3


@pytest.mark.parametrize("ending", ["close", "kill"])
def test_it_ends_with_the_sandbox(ending):
    with sandbox() as box:
        attack(box, "value = 1")
        family = [psutil.Process(box._process.pid), *psutil.Process(box._process.pid).children(recursive=True)]
        if ending == "kill":
            family[0].kill()
        else:
            box.close()
        wait_for(lambda: not any(map(alive, family[1:])))


def test_stopping_from_another_thread_while_one_gets_warm():
    with sandbox(cpu=30) as box:
        box.start()
        stopper = when(lambda: len(confine.descendants(box._process.pid)) >= 2, box.stop)
        with pytest.raises(SandboxError, match="does not answer"):
            attack(box, "value = 1")
        stopper.join()
