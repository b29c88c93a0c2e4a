"""What comes back from the sandbox, honest, broken or forged; and a sandbox's life. Attacks: ``test_parent.py``."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from multiprocessing import connection
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from nngpt_lab.ground import paths
from nngpt_lab.sandbox import confine, parcels, parent
from nngpt_lab.sandbox.parent import Sandbox, SandboxError
from nngpt_lab.sandbox.status import Status
from tests.helpers.waiting import alive, settled, wait_for, when
from tests.sandbox import test_parent

LIMITS, PREDICTIONS = test_parent.LIMITS, test_parent.PREDICTIONS
attack, box, unharmed = test_parent.attack, test_parent.box, test_parent.unharmed

ENDINGS = {
    "import os\nos._exit(0)": (Status.CRASH, "malformed answer"),
    "import os\nos._exit(7)": (Status.CRASH, "code 7"),
    "import sys\nsys.exit(0)": (Status.CRASH, "SystemExit"),
    "raise KeyboardInterrupt": (Status.CRASH, "KeyboardInterrupt"),
    "import ctypes\nctypes.string_at(0)": (Status.CRASH, "SIGSEGV"),
    "import os\nos.abort()": (Status.CRASH, "SIGABRT"),
    "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)": (Status.CRASH, "SIGKILL"),
    "def f(n): return f(n + 1)\nf(0)": (Status.CRASH, "RecursionError"),
    "raise MemoryError": (Status.OUT_OF_MEMORY, "MemoryError"),
    "raise RuntimeError('CUDA error: out of memory')": (Status.OUT_OF_MEMORY, "RuntimeError"),
    "raise RuntimeError('CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate')": (
        Status.OUT_OF_MEMORY,
        "RuntimeError",
    ),
    "raise RuntimeError('cuDNN error: CUDNN_STATUS_ALLOC_FAILED')": (Status.OUT_OF_MEMORY, "RuntimeError"),
    "1 +": (Status.SYNTAX, "SyntaxError"),
    "class E(Exception):\n  def __str__(self): raise SystemExit\nraise E": (Status.CRASH, "code 70"),
    "raise ValueError('\\x1b[2J' * 9999)": (Status.CRASH, "ValueError: ?[2J"),
}


@pytest.mark.parametrize("code", ENDINGS)
def test_endings(box, code):
    report = attack(box, code)
    status, text = ENDINGS[code]
    assert report.status == status and text in report.message, report
    assert "\x1b" not in str(report) and len(report.message) < 1000 and report.value is None


def test_what_an_error_says_does_not_depend_on_where_libraries_lie(box):
    report = attack(box, "import torch\nfrom torch.nn import Nosuch")
    assert report.message == "ImportError: cannot import name 'Nosuch' from 'torch.nn' (torch/nn/__init__.py)"
    report = attack(box, "from nngpt_lab import nosuch")
    assert "(nngpt_lab/__init__.py)" in report.message and str(paths.PACKAGE) not in report.traceback


# --- predictions --------------------------------------------------------------------------------------------------

ARRAYS = {
    "right": ("np.zeros((8, 3), 'f4')", Status.OK),
    "wrong shape": ("np.zeros((3, 8), 'f4')", Status.SHAPE),
    "wrong length": ("np.zeros((7, 3), 'f4')", Status.SHAPE),
    "wrong type": ("np.zeros((8, 3), 'f8')", Status.SHAPE),
    "other byte order": ("np.zeros((8, 3), '>f4')", Status.SHAPE),
    "nan": ("np.full((8, 3), np.nan, 'f4')", Status.NON_FINITE),
    "infinite": ("np.full((8, 3), np.inf, 'f4')", Status.NON_FINITE),
    "too large": ("np.zeros((8000, 3000), 'f4')", Status.FORBIDDEN),
    "objects": ("np.array([[print] * 3] * 8)", Status.CRASH),
    "text": ("np.array([['x'] * 3] * 8)", Status.SHAPE),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_predictions(box, name):
    array, status = ARRAYS[name]
    code = f"import numpy as np\nout = {{'predictions': {array}}}"
    report = box.run("execute", {"code": code}, expect=PREDICTIONS)
    assert report.status == status, report
    assert set(report.arrays) == ({"predictions"} if status == Status.OK else set())


@pytest.mark.parametrize("out", ["{}", "{'other': np.zeros((8, 3), 'f4')}", "{'predictions': P, 'labels': P}"])
def test_other_names_than_expected(box, out):
    code = f"import numpy as np\nP = np.zeros((8, 3), 'f4')\nout = {out}"
    assert box.run("execute", {"code": code}, expect=PREDICTIONS).status == Status.SHAPE


# --- forged and broken answers ------------------------------------------------------------------------------------

FORGED = {
    "garbage": b"garbage" * 99,
    "nothing": b"",
    "half a header": b"nngp",
    "endless header": parcels.HEADER.pack(parcels.MAGIC, 0xFFFFFFFF),
    "no json": parcels.HEADER.pack(parcels.MAGIC, 4) + b"{{{{",
    "deep json": parcels.HEADER.pack(parcels.MAGIC, 100_000) + b"[" * 100_000,
    "other json": parcels.HEADER.pack(parcels.MAGIC, 2) + b"[]",
    "unknown status": b"".join(parcels.pack({"status": "great", "value": 1.0}, {})),
    "status of another type": b"".join(parcels.pack({"status": ["ok"]}, {})),
    "no value": b"".join(parcels.pack({"status": "ok"}, {"predictions": np.zeros((8, 3), "f4")})),
    "a score": b"".join(parcels.pack({"status": "ok", "value": 1, "score": 1.0}, {})) + b"!",
    "missing bytes": b"".join(parcels.pack({"status": "ok", "value": 1}, {"predictions": np.zeros((8, 3), "f4")}))[:-9],
    "twice": b"".join(parcels.pack({"status": "ok", "value": 1}, {"predictions": np.zeros((8, 3), "f4")})) * 2,
    "a pickle": b"cos\nsystem\n(S'touch /tmp/canary-pickle'\ntR.",
    "a huge number": parcels.HEADER.pack(parcels.MAGIC, 9002) + b"[" + b"9" * 9000 + b"]",
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_message_on_every_descriptor(box, name):
    code = """if True:
        import os
        for number in range(256):
            try: os.write(number, bytes.fromhex(payload["message"]))
            except OSError: pass
        os._exit(0)
    """
    report = box.run(
        "execute",
        {"code": code, "message": FORGED[name].hex()},
        expect=PREDICTIONS,
    )
    assert report.status in (Status.CRASH, Status.SHAPE) and report.value is None and not report.arrays, report
    assert not Path("/tmp/canary-pickle").exists()


def test_a_forged_message_before_the_true_one_spoils_it(box):
    forged = b"".join(parcels.pack({"status": "ok", "value": {"accuracy": 1.0}}, {}))
    report = attack(box, "import os\nos.write(3, bytes.fromhex(payload['message']))", message=forged.hex())
    assert (report.status, report.value) == (Status.CRASH, None), report


def test_objects_that_execute_when_unpickled_cannot_be_returned(box):
    code = """
        import os
        class Evil:
            def __reduce__(self): return os.system, ("touch /tmp/canary-pickle",)
        value = Evil()
    """
    assert attack(box, code).status == Status.CRASH
    assert attack(box, "import numpy as np\nout = {'x': np.array([print], dtype=object)}").status == Status.CRASH
    assert not Path("/tmp/canary-pickle").exists()


def test_fuzzed_answers_never_raise():
    rng = np.random.default_rng(0)
    good = b"".join(parcels.pack({"status": "ok", "value": 1}, {"predictions": np.zeros((8, 3), "f4")}))
    assert parcels.read_answer(good, PREDICTIONS).status == Status.OK
    for _ in range(500):
        bad = bytearray(good)
        for place in rng.integers(0, len(bad), 3):
            bad[place] = rng.integers(256)
        try:
            parcels.read_answer(bytes(bad), PREDICTIONS)
        except (ValueError, TypeError, KeyError, RecursionError):
            continue  # what the sandbox turns into Status.CRASH


def test_no_label_is_to_be_found(box):
    labels = np.random.default_rng().integers(0, 10, 5000)  # held here for as long as the task runs
    code = """
        import gc, hashlib, sys
        frames, frame = [], sys._getframe()
        while frame:
            frames, frame = [*frames, frame], frame.f_back
        places = [things for f in frames for things in (f.f_locals, f.f_globals)] + gc.get_objects()
        seen = [*places, *gc.get_referents(*places)]
        raw = [bytes(x) if isinstance(x, (bytes, bytearray, memoryview)) else x.tobytes()
               for x in seen if isinstance(x, (bytes, bytearray, memoryview)) or type(x).__name__ == "ndarray"]
        value = [len(raw), sum(hashlib.sha256(x).hexdigest() == payload["hash"] for x in raw)]
    """
    wanted = hashlib.sha256(labels.tobytes()).hexdigest()
    report = attack(box, code, hash=wanted)
    assert report.value[0] > 0 and report.value[1] == 0, report
    assert hashlib.sha256(labels.tobytes()).hexdigest() == wanted


# --- the life of a sandbox ----------------------------------------------------------------------------------------


def test_a_hundred_tasks_leave_nothing(box):
    def state():
        process = psutil.Process()
        files = list(Path(box._folder).rglob("*"))
        return process.num_fds(), len(process.children(recursive=True)), files, box.zygotes

    endings = ("value = 1", "raise ValueError", "import os; os._exit(3)", "open('x', 'w').write('x' * 9999)")
    attack(box, "value = 1")
    before = settled(state)  # where a spare gets warm, the next one may still be forking
    for number in range(100):
        attack(box, endings[number % 4])
    assert settled(state) == before


def task_runs(box):
    """A condition: the sandbox, at rest now, has forked a task."""

    def processes():
        return len(psutil.Process(box._process.pid).children(recursive=True))

    resting = settled(processes)  # where spares get warm, the next one may still be forking
    return lambda: processes() > resting


# --- faults of the machine, which are no candidate's --------------------------------------------------------------


def run_again(caplog) -> int:
    return sum("is run again" in record.getMessage() for record in caplog.records)


def test_a_task_whose_zygote_was_killed_runs_again(box, caplog):
    attack(box, "value = 'started'")
    started, payload = box.zygotes, {"code": "import time\ntime.sleep(payload['seconds'])\nvalue = 5", "seconds": 600}

    def kill():
        payload["seconds"] = 0  # for the second try
        psutil.Process(box._process.pid).kill()

    killer = when(task_runs(box), kill)
    report = box.run("execute", payload)
    killer.join()
    assert (report.status, report.value, box.zygotes) == (Status.OK, 5, started + 1)
    assert run_again(caplog) == 1


def test_what_is_killed_each_time_is_an_error_of_ours(box, caplog, monkeypatch):
    """For the task's zygote, and for a task that the kernel kills for want of memory."""
    kills = itertools.count()
    monkeypatch.setattr(parent, "kills_for_memory", lambda: next(kills))
    suicide = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"
    if "pid namespace" in box.isolation:
        with pytest.raises(SandboxError, match="want of memory, 3 times") as error:
            attack(box, suicide)
        assert "fewer workers" in error.value.cure
    else:  # without one it may have been the candidate
        assert attack(box, suicide).status == Status.CRASH
    assert run_again(caplog) == parent.TRIES - 1
    monkeypatch.setattr(parent, "kills_for_memory", lambda: 7)  # killed, but not by the kernel: its own doing
    assert attack(box, suicide).message == "killed by SIGKILL"
    assert run_again(caplog) == parent.TRIES - 1


def test_time_in_which_the_driver_was_stopped_is_not_the_task_s(box, monkeypatch):
    """As SIGSTOP or a sleeping machine stops it: its clock is hours on when it looks again."""
    clock, waits = SimpleNamespace(now=0.0), []

    def wait(*arguments):
        ready = connection.wait(*arguments)
        waits.append(ready)
        clock.now += 7200 * (len(waits) == 1)
        return ready

    attack(box, "value = 'started'")
    monkeypatch.setattr(parent, "wait", wait)
    monkeypatch.setattr(parent, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + clock.now))
    report = attack(box, "import time\ntime.sleep(0.5)\nvalue = 5")
    assert (report.status, report.value) == (Status.OK, 5) and report.seconds < 7200
    assert attack(box, "while True: pass", limits=test_parent.SHORT).status == Status.TIMEOUT


def test_a_child_runs_the_code_of_its_parent(box, tmp_path, monkeypatch, capfd):
    """Wherever another copy of the package is installed; and it does not start if the code has changed since."""
    place = attack(box, "import nngpt_lab\nvalue = nngpt_lab.__file__").value
    assert Path(place) == paths.PACKAGE / "__init__.py"
    with monkeypatch.context() as patch:
        patch.setattr(parent, "OURS", "of another version")
        with pytest.raises(SandboxError, match="have changed since"), Sandbox(setup="json"):
            pass
    other = tmp_path / "nngpt_lab"
    (other / "sandbox").mkdir(parents=True)
    (other / "__init__.py").touch()
    (other / "sandbox" / "__init__.py").touch()
    (other / "sandbox" / "child.py").write_text("raise SystemExit('it is here')")
    monkeypatch.setattr(paths, "PACKAGE", other)  # where the parent's code would be
    with pytest.raises(SandboxError, match="did not start"), Sandbox(setup="json"):
        pass
    assert "it is here" in capfd.readouterr().err


def test_without_room_for_temporary_files_there_is_a_cure(monkeypatch):
    def full(**_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(parent.tempfile, "mkdtemp", full)
    with pytest.raises(SandboxError, match="No space left") as error, Sandbox(setup="json"):
        pass
    assert "TMPDIR" in error.value.cure


def test_an_interrupt_leaves_nothing_behind(box):
    def interrupt(*_):
        raise KeyboardInterrupt

    attack(box, "value = 'started'")
    ours = {box._process.pid, *confine.descendants(box._process.pid)}
    others = {process.pid for process in psutil.Process().children(recursive=True)} - ours  # other tests' joblib
    before = signal.signal(signal.SIGALRM, interrupt)
    alarm = when(task_runs(box), lambda: os.kill(os.getpid(), signal.SIGALRM))
    try:
        with pytest.raises(KeyboardInterrupt):
            attack(box, "import time\ntime.sleep(600)\nvalue = 'stale'")
    finally:
        alarm.join()
        signal.signal(signal.SIGALRM, before)
    assert {process.pid for process in psutil.Process().children(recursive=True)} <= others
    assert attack(box, "value = 'new'").value == "new"


def test_the_child_dies_with_the_parent(tmp_path):
    script = f"""
import psutil, sys, threading, time
sys.path[:0] = {[str(Path(__file__).parents[2])]!r}
from nngpt_lab.sandbox.parent import Sandbox
assert "torch" not in sys.modules
sandbox = Sandbox(setup="tests.sandbox.test_parent")
sandbox.start()
launcher = psutil.Process(sandbox._process.pid)
resting = len(launcher.children(recursive=True))
threading.Thread(target=sandbox.run, args=("execute", {{"code": "import time; time.sleep(600)"}}), daemon=True).start()
while len(launcher.children(recursive=True)) < resting + 2:
    time.sleep(0.01)
print(sandbox._process.pid, flush=True)
time.sleep(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=os.environ)
    launcher = psutil.Process(int(parent.stdout.readline()))
    family = [launcher, *launcher.children(recursive=True)]
    assert len(family) >= 3
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_for(lambda: not any(map(alive, family)))


def test_what_we_do_wrong_is_an_error_not_a_status(box):
    with pytest.raises(SandboxError, match="not imported"):
        box.run("os:system", {})
    with pytest.raises(TypeError):
        box.run("execute", {"code": object()})
    with pytest.raises(SandboxError, match="lacks: a moat"):
        Sandbox(setup="json", require=["a moat"]).start()
    with pytest.raises(SandboxError, match="did not start"):
        Sandbox(setup="no_such_module").start()


THREAD = """\
import ctypes, threading, time
def live():
    ctypes.CDLL(None).prctl(15, b"pool worker")
    time.sleep({seconds})
threading.Thread(target=live, daemon=True).start()
time.sleep(0.1)
"""  # names itself, PR_SET_NAME


@pytest.mark.skipif(not confine.LINUX, reason="threads are counted in /proc")
def test_a_thread_that_stays_is_named_and_one_that_ends_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    for name, seconds in (("stays", 60), ("ends", 0.3)):
        (tmp_path / f"{name}.py").write_text(THREAD.format(seconds=seconds))
    with pytest.raises(SandboxError, match=r"stays.* starts threads when imported \(pool worker\)"):
        Sandbox(setup="stays").start()
    with Sandbox(setup="ends") as sandbox:
        assert sandbox.isolation


def test_a_fresh_zygote_per_task_is_possible():
    with Sandbox(LIMITS, "tests.sandbox.test_parent", fresh=True) as sandbox:
        assert [attack(sandbox, f"value = {number}").value for number in range(2)] == [0, 1]
        assert sandbox.zygotes == 2
        sandbox.start()
        folder = Path(sandbox._folder)
        assert folder.is_dir()
    assert not folder.exists()


def test_the_report_says_what_confined_it(box):
    report = attack(box, "print('hello')")
    assert report.isolation == tuple(sorted(report.isolation)) == box.isolation
    assert report.output == "hello\n" and json.dumps(report.isolation)
