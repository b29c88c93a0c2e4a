"""The parent side of the sandbox: give it a trusted function's name, get back plain data, whatever the candidate did.

    with Sandbox(Limits(wall_seconds=60), setup="nngpt_lab.candidates.training", shared={"train": images}) as sandbox:
        report = sandbox.run("train_and_predict", {"code": text}, expect={"logits": ("float32", (300, 10))})

``setup`` is a module of ours; its function gets ``(payload, shared)``, executes the candidate's code in a confined
process of its own and returns ``(value, arrays)``. What to rely on:

* Labels to score against are never passed, so nothing in the child can find them; score the returned predictions here.
* A candidate shares its process with the function that answers, so it can forge an answer. That is why an answer is
  only predictions: this side checks names, types, shapes, sizes and finiteness, and ``value`` is the candidate's word.
* The deadline, the memory of all processes together and the amount of output are watched from here.
* Nothing is unpickled, and a broken answer is a status, never an exception. SandboxError means that *we* failed.

What is not covered: side channels (time, caches), bugs of the kernel, names and sizes of files (``stat`` works on all
paths), and on a GPU its memory and its driver (see ``gpu``). Worker processes of a DataLoader do not work inside. Where
a layer is lacking, ``Sandbox.isolation`` does not name it; outside Linux that is all but limits, process group,
environment, descriptors. Below a stated minimum no task is run unless the user said so (``ground.isolation``).
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Self

import numpy as np

from nngpt_lab.ground import isolation, paths
from nngpt_lab.ground.errors import LabError
from nngpt_lab.sandbox import confine, readable
from nngpt_lab.sandbox.child import code_sha256
from nngpt_lab.sandbox.parcels import ALIGNMENT, JSON_BYTES, Expected, Report, nbytes, parcel, printable, read_answer
from nngpt_lab.sandbox.status import Status
from nngpt_lab.sandbox.task import written

log = logging.getLogger(__name__)

BOOT = """\
import importlib.util, json, sys
config = json.loads(sys.argv[1])
sys.path += config["path"]
place = config["package"]  # first of all, and wherever another copy of the package is installed
spec = importlib.util.spec_from_file_location("nngpt_lab", f"{place}/__init__.py", submodule_search_locations=[place])
sys.modules["nngpt_lab"] = package = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
from nngpt_lab.sandbox import child
child.main(sys.argv[1])
"""
OURS = code_sha256()  # when this process read it
NO_DRIVER = Path(__file__).with_name("no_driver")
PASSED_ON = ("LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "CUDA_HOME")  # the machine's, not the user's
TICK_SECONDS = 0.2  # how often memory is looked at
START_SECONDS, GRACE_SECONDS = 300.0, 15.0  # for importing torch on a loaded machine; for a zygote to obey
PAUSE_SECONDS = 2.0  # without a look, and this process was stopped itself: the candidate's time does not run on
TRIES = 3  # of a task that the machine, not its own code, has ended
TAIL_BYTES = 8192


class SandboxError(LabError):
    """The sandbox itself failed; nothing is said about the candidate."""

    exit_code = 6


class _MachineFault(Exception):
    """A task was ended by what it cannot have done itself, perhaps before it had begun."""

    def __init__(self, what: str, begun: bool = True):
        super().__init__(what)
        self.begun = begun


@dataclass(frozen=True)
class Limits:
    """What one task may use.

    Attributes:
        wall_seconds: until the parent kills it.
        cpu_seconds: of each of its processes.
        memory_mib: above what the zygote holds already; of each process by the kernel, of all together by the parent.
        processes: processes and threads at a time.
        file_mib: of the private disk, which lies in memory.
        output_kib: to standard output and error.
    """

    wall_seconds: float = 60.0
    cpu_seconds: int = 120
    memory_mib: int = 4096
    processes: int = 64
    file_mib: int = 64
    output_kib: int = 1024


class Sandbox:
    """A zygote that runs one task at a time; use as a context manager. Started on first use, replaced when in doubt.

    Args:
        limits: for every task; ``run`` may be given others.
        setup: module or modules imported before the first task; import torch there.
        shared: arrays that every task sees, sent once, read-only; or a parcel of them (``parcels.parcel``), which
            several sandboxes then hold in common.
        threads: torch's, in a task.
        hidden: folders that a task finds empty, where there are namespaces: answers that lie among the packages.
        require: layers (names as in ``isolation``) without which nothing is run.
        namespaces: False does without, as if the machine refused them.
        gpu: let a task reach the CUDA devices; then its address space is not limited, GPU memory is for the task to
            limit (``torch.cuda.set_per_process_memory_fraction``), and the driver is part of what is trusted.
        fresh: a new zygote for every task, which imports everything anew: seconds instead of milliseconds.
        warm: a task and its payload, to be done in every child before there is anything known of what it will run; the
            arrays that it returns are added to what that sees. The next child gets warm while one is at work, confined
            as all are. Wall-clock and CPU time count from when a warm child is given its task; memory, as ever, from
            what the zygote holds, so with what warming took.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        setup: str | Sequence[str] = (),
        *,
        shared: Mapping[str, np.ndarray] | int | None = None,
        threads: int = 1,
        hidden: Sequence[str | Path] = (),
        require: Sequence[str] = (),
        namespaces: bool = True,
        gpu: bool = False,
        fresh: bool = False,
        warm: tuple[str, Any] | None = None,
    ):
        self.limits = limits or Limits()
        self.isolation: tuple[str, ...] = ()
        self.zygotes = 0  # how many were started, for those who wonder
        self._leaving = False
        self._setup = [setup] if isinstance(setup, str) else list(setup)
        self._require, self._fresh = tuple(require), fresh
        self._options = {"threads": threads, "namespaces": namespaces, "gpu": gpu, "setup": self._setup}
        self._options["hidden"] = [str(Path(path).resolve()) for path in hidden]
        self._options["warm"] = warm and {"task": self._task(warm[0]), "payload": warm[1]}
        self._shared = os.dup(shared) if isinstance(shared, int) else parcel(None, shared or {})
        self._process: subprocess.Popen | None = None
        self._control: socket.socket | None = None
        self._folder = ""
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()

    def start(self) -> None:
        """Start the zygote if there is none; SandboxError if it cannot be, or lacks a required layer."""
        if self._process is not None:
            return
        try:
            self._folder = tempfile.mkdtemp(prefix="nngpt-sandbox-")
        except OSError as error:
            cure = "free some space there, or let TMPDIR name another folder"
            raise SandboxError(f"the sandbox gets no folder for temporary files: {error.strerror}", cure) from error
        ours, theirs = socket.socketpair()
        config = self._options | {"control": theirs.fileno(), "shared": self._shared, "folder": self._folder}
        config |= {"path": [str(Path(entry).resolve()) for entry in sys.path], "package": str(paths.PACKAGE)}
        self._control = ours
        self._process = subprocess.Popen(
            [sys.executable, "-s", "-P", "-c", BOOT, json.dumps(config)],
            env=_environment(self._folder, self._options["gpu"]),
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno(), self._shared],
            start_new_session=True,
        )
        theirs.close()
        self.zygotes += 1
        places = parcel(readable.places() if confine.LINUX else [[], []], {})  # found while the zygote imports
        with contextlib.suppress(OSError):  # a zygote that is gone does not say hello
            socket.send_fds(ours, [b"places"], [places])
        os.close(places)
        hello = self._hear(time.monotonic() + START_SECONDS)
        if "ready" not in hello:
            self._stop()
            raise SandboxError("the sandbox's zygote did not start", f"see above; can {self._setup} be imported?")
        if hello["code"] != OURS:
            self._stop()
            cure = "start it again (in JupyterLab: restart the kernel)"
            raise SandboxError("the lab's own files have changed since this process began", cure)
        self.isolation = tuple(hello["ready"])
        missing = [layer for layer in self._require if layer not in self.isolation]
        if missing or hello["threads"]:
            self._stop()
            if missing:
                raise SandboxError(f"this machine lacks: {', '.join(missing)}", "see `nngpt-lab doctor`, isolation")
            named = f"{self._setup} starts threads when imported ({', '.join(hello['threads'])})"
            raise SandboxError(named, "start none before the task runs")

    def stop(self) -> None:
        """From another thread: end the task that runs now, whose report then means nothing. For leaving early."""
        control, self._leaving = self._control, True
        if control is not None:
            with contextlib.suppress(OSError):
                control.shutdown(socket.SHUT_RDWR)  # the zygote takes it for our end, and so does the waiting thread

    def close(self) -> None:
        """End the zygote and everything below it, and remove its folder. Can be called twice."""
        self._stop()
        if self._shared >= 0:
            os.close(self._shared)
            self._shared = -1

    def run(self, task: str, payload: Any, expect: Expected | None = None, limits: Limits | None = None) -> Report:
        """Run one trusted function, of the setup module or ``module:function``, in a process of its own.

        ``payload``: JSON values: the candidate's code, seeds, sizes. Never labels to score against. ``expect``: what
        must come back, as name -> (dtype, shape); any other array, type or shape is Status.SHAPE, a value that is not
        finite Status.NON_FINITE.

        Raises:
            IsolationError: what confines a task here is less than the minimum; nothing was run.
            SandboxError: no child could be started or confined, or the machine ended it each time it was tried: the
                kernel for want of memory, say.
        """
        name, used = self._task(task), limits or self.limits
        with self._lock:
            self._leaving = False
            for tries in range(1, TRIES + 1):
                try:
                    report = self._run(name, payload, expect or {}, used)
                    break
                except _MachineFault as fault:
                    if tries < TRIES:
                        log.warning("%s; the candidate, whose fault that is not, is run again", fault)
                    elif "pid namespace" in self.isolation or not fault.begun:  # no candidate can reach what was killed
                        cure = "free memory or use fewer workers, and repeat the call"
                        raise SandboxError(f"{fault}, {TRIES} times one after the other", cure) from None
                    else:
                        report = Report(Status.CRASH, message=f"{fault}, {TRIES} times one after the other")
            if self._fresh or (report.killed and "pid namespace" not in self.isolation):
                self._stop()  # without a namespace nobody can swear that nothing survived
            return replace(report, isolation=self.isolation)

    def _run(self, name: str, payload: Any, expect: Expected, limits: Limits) -> Report:
        """Run it once; _MachineFault if the machine ended it."""
        self.start()
        isolation.require(self.isolation)
        if self._options["warm"]:
            self._await_warm_child(limits)
        sent = parcel({"task": name, "payload": payload, "limits": asdict(limits)}, {})
        try:
            return _Run(self, limits, expect).run(sent)
        except BaseException:  # an interrupt, for example: the zygote may still be at work
            self._stop()
            raise

    def _task(self, name: str) -> str:
        """``module:function``, of a module that the zygote imports."""
        module, colon, function = name.rpartition(":")
        module = module if colon else self._setup[0]
        if module not in self._setup:
            raise SandboxError(f"{module} is not imported in the sandbox", f"one of {self._setup}, or add it to setup")
        return f"{module}:{function}"

    def _await_warm_child(self, limits: Limits) -> None:
        """SandboxError if none gets warm, which is no task's fault; _MachineFault if the zygote is gone."""
        deadline = time.monotonic() + START_SECONDS
        try:
            with contextlib.suppress(OSError):  # a zygote that is gone does not answer
                self._control.sendall(json.dumps(asdict(limits)).encode() + b"\n")
            said = self._hear(deadline)
            if not said and time.monotonic() < deadline and not self._leaving:
                raise _MachineFault("the sandbox's zygote was killed", begun=False)
            reason = said.get("not warm", "the zygote does not answer")
            if reason:
                raise SandboxError(f"no child of the sandbox gets ready: {reason}", "see `nngpt-lab doctor`, isolation")
        except BaseException:
            self._stop()
            raise

    def _hear(self, deadline: float) -> dict[str, Any]:
        """One line from the zygote; empty if none comes or it is gone."""
        text = b""
        while not text.endswith(b"\n"):
            ready = wait([self._control], max(0.0, deadline - time.monotonic()))
            more = b""
            with contextlib.suppress(ConnectionResetError):  # it died with something unread
                more = self._control.recv(1 << 16) if ready else b""
            if not more:
                return {}
            text += more
        return json.loads(text)

    def _stop(self) -> None:
        """Hang up, which ends the zygote and all below it; kill what does not listen."""
        if self._control is not None:
            with contextlib.suppress(OSError):  # unlike closing, it counts even if a fork of ours holds a copy
                self._control.shutdown(socket.SHUT_RDWR)
            self._control.close()
        if self._process is not None:
            try:
                self._process.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                for pid in (*confine.descendants(self._process.pid), self._process.pid):
                    with contextlib.suppress(OSError):
                        os.kill(pid, signal.SIGKILL)
                self._process.wait()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._process, self._control, self._folder = None, None, ""


@functools.cache
def layers_here() -> tuple[str, ...]:
    """What would confine a task on this machine, as a sandbox finds it; a SandboxError if none starts."""
    with Sandbox() as sandbox:
        return sandbox.isolation


class _Run:
    """One task, from sending it to judging its answer."""

    def __init__(self, sandbox: Sandbox, limits: Limits, expect: Expected):
        self.sandbox, self.limits, self.expect = sandbox, limits, expect
        self.answer, self.output, self.printed = bytearray(), b"", 0
        self.room = JSON_BYTES + sum(nbytes(*spec) + ALIGNMENT for spec in expect.values())
        self.reason: tuple[Status, str] | None = None  # why it was killed
        self.paused, self.killed_before = 0.0, kills_for_memory()

    def run(self, sent: int) -> Report:
        """Send, watch, judge."""
        (result, result_end), (output, output_end) = os.pipe(), os.pipe()
        try:
            try:
                os.set_blocking(result, False)
                os.set_blocking(output, False)
                begin = time.monotonic()
                with contextlib.suppress(OSError):  # a zygote that is gone is noticed when it does not answer
                    socket.send_fds(self.sandbox._control, [b"run\n"], [result_end, output_end, sent])
            finally:
                for descriptor in (sent, result_end, output_end):
                    os.close(descriptor)
            said = self.watch(result, output, begin)
            seconds = time.monotonic() - begin - self.paused
        finally:
            os.close(result)
            os.close(output)
        report = self.judge(said)
        tail = printable(self.output.decode(errors="replace"))
        return replace(report, seconds=seconds, killed=self.reason is not None, output=tail)

    def watch(self, result: int, output: int, begin: float) -> dict[str, Any] | None:
        """Collect what comes until the zygote says that all is over; what it said, None if it had to be replaced."""
        control, patience = self.sandbox._control, None
        deadline, last = begin + self.limits.wall_seconds, begin
        open_ends, look = {result, output}, time.monotonic() + TICK_SECONDS
        while True:
            until = min(deadline if patience is None else patience, look)
            ready = wait([control, *open_ends], max(0.0, until - time.monotonic()))
            for descriptor in open_ends & set(ready):
                if not self.collect(descriptor, descriptor == result):
                    open_ends.discard(descriptor)
            now = time.monotonic()
            if now - last > PAUSE_SECONDS and patience is None:
                self.paused += now - last - TICK_SECONDS
                deadline += now - last - TICK_SECONDS
            last = now
            if now >= look and patience is None:
                self.check_use()
                look = time.monotonic() + TICK_SECONDS
            elif patience is not None:
                look = math.inf
            if now >= deadline and self.reason is None:
                self.reason = Status.TIMEOUT, f"it took longer than {self.limits.wall_seconds:g} s"
            if control in ready:
                said = self.sandbox._hear(time.monotonic() + GRACE_SECONDS)
                if "done" not in said:
                    self.sandbox._stop()
                for descriptor in open_ends:  # all writers are dead, so this ends
                    while self.collect(descriptor, descriptor == result):
                        pass
                return said.get("done")
            if self.reason and patience is None:
                patience = now + GRACE_SECONDS
                with contextlib.suppress(OSError):
                    control.sendall(b"kill\n")
            elif patience is not None and now >= patience:
                self.sandbox._stop()
                return None

    def collect(self, descriptor: int, is_answer: bool) -> bool:
        """Read once, keeping no more than allowed; False at the end, or when there is nothing now."""
        try:
            data = os.read(descriptor, 1 << 18)
        except BlockingIOError:
            return False
        if is_answer:
            self.answer += data[: self.room + 1 - len(self.answer)]
            if len(self.answer) > self.room and self.reason is None:
                self.reason = Status.FORBIDDEN, f"its answer is larger than {self.room} bytes"
        else:
            self.printed += len(data)
            self.output = (self.output + data)[-TAIL_BYTES:]
            if self.printed > self.limits.output_kib << 10 and self.reason is None:
                self.reason = Status.FORBIDDEN, f"it printed more than {self.limits.output_kib} KiB"
        return bool(data)

    def check_use(self) -> None:
        """Sum what the task's processes hold beyond the zygote's own memory, which the kernel limits only one by one;
        count them, which the kernel does not do for root; and without a private disk, sum what it has written."""
        sandbox = self.sandbox
        launcher, *below = sandbox._process.pid, *confine.descendants(sandbox._process.pid)
        zygote = below.pop(0) if "pid namespace" in sandbox.isolation and below else launcher
        if sandbox._options["warm"] and zygote != launcher and below:  # its first child; the second is the next spare
            below = [below[0], *confine.descendants(below[0])]
        base = confine.held(zygote)[0]
        held = [confine.held(pid) for pid in below]
        if sum(max(0, size - base) for size, _ in held) > self.limits.memory_mib << 20:
            self.reason = Status.OUT_OF_MEMORY, f"its processes hold more than {self.limits.memory_mib} MiB together"
        elif sum(threads for _, threads in held) > self.limits.processes + 2:  # the supervisor, and one to spare
            self.reason = Status.FORBIDDEN, f"it runs more than {self.limits.processes} processes and threads"
        elif "private disk" not in sandbox.isolation and written(sandbox._folder) > self.limits.file_mib << 20:
            self.reason = Status.FORBIDDEN, f"it wrote more than {self.limits.file_mib} MiB"

    def judge(self, said: dict[str, Any] | None) -> Report:
        """The status, from the strongest witness to the weakest: us, the supervisor, the task itself."""
        if self.reason is not None:
            return Report(*self.reason[:1], message=self.reason[1])
        if said is None and self.sandbox._leaving:
            return Report(Status.CRASH, message="it was stopped from here, which says nothing about it")
        if said is None:
            raise _MachineFault("the sandbox's zygote was killed")
        if "setup" in said:
            raise SandboxError(f"a task could not be confined: {said['setup']}", "see `nngpt-lab doctor`, isolation")
        code = said.get("exit")
        if code is None:
            raise _MachineFault("the candidate's supervisor was killed, perhaps for memory")
        if said.get("written", 0) > self.limits.file_mib << 20:
            return Report(Status.FORBIDDEN, message=f"it wrote more than {self.limits.file_mib} MiB")
        if code != 0:
            return self.judge_exit(code, said["cpu"])
        try:
            return read_answer(bytes(self.answer), self.expect)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            return Report(Status.CRASH, message=f"malformed answer: {printable(str(error))[:200]}")

    def judge_exit(self, code: int, cpu: float) -> Report:
        """The status of a task that did not end as it should."""
        if code > 0:
            return Report(Status.CRASH, message=f"it exited with code {code} before it had answered")
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        if name in ("SIGXCPU", "SIGKILL") and cpu >= self.limits.cpu_seconds * 0.98:
            return Report(Status.TIMEOUT, message=f"it used more than {self.limits.cpu_seconds} s of CPU time")
        if name == "SIGKILL" and kills_for_memory() > self.killed_before:
            raise _MachineFault("the kernel killed a candidate within its limits for want of memory")
        if name == "SIGSYS":
            return Report(Status.FORBIDDEN, message="killed by SIGSYS: code for another instruction set")
        status = Status.OUT_OF_MEMORY if b"bad_alloc" in self.output else Status.CRASH
        return Report(status, message=f"killed by {name}")


def kills_for_memory() -> int:
    """How many processes the kernel has killed for want of memory, here or in this control group, as far as it says."""
    count = 0
    for place in ("/proc/vmstat", "/sys/fs/cgroup/memory.events"):
        with contextlib.suppress(OSError):
            lines = Path(place).read_text(encoding="utf-8").splitlines()
            count += sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
    return count


def _environment(folder: str, gpu: bool = False) -> dict[str, str]:
    """All that the child sees of the environment; home, cache and temporary files are its private folder."""
    names = ("HOME", "TMPDIR", "XDG_CACHE_HOME", "TORCH_HOME", "HF_HOME", "MPLCONFIGDIR", "NNGPT_LAB_CACHE")
    places = dict.fromkeys(names, folder)
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    python = {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}
    kept = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    if gpu:
        kept["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # cuBLAS repeats its sums only so
    else:  # torch starts the driver even to learn that no card is visible, and a process with its threads cannot fork
        kept["CUDA_VISIBLE_DEVICES"] = ""
        kept["LD_LIBRARY_PATH"] = os.pathsep.join([str(NO_DRIVER), *filter(None, [kept.get("LD_LIBRARY_PATH")])])
    fixed = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "MALLOC_ARENA_MAX": "2"}
    fixed |= {"USER": "nobody", "LOGNAME": "nobody"}  # torch.compile asks, and a namespace's user has no name
    fixed |= {"TORCHDYNAMO_DISABLE": "1"}  # torch.compile gives back what it was given: no compiler starts in there
    return fixed | places | threads | python | kept
