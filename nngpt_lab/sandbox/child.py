"""The child side of the sandbox: a process that has imported everything forks one confined process per task.

    parent -> launcher -> zygote -> supervisor -> task

The *launcher* enters new namespaces and waits. The *zygote* is process 1 of its PID namespace, imports torch and the
trusted task modules once, never runs a candidate's code, and forks for every task. The *supervisor* is process 1 of the
task's own PID namespace: it mounts the private disk, watches the task and tells the zygote how it ended; when it exits,
the kernel kills whatever the task has left behind. The *task* confines itself, calls one trusted function, which is the
one that executes the candidate's code, and dies. Where namespaces are refused the same processes do the same work with
process groups and adopted orphans instead; ``isolation`` in every report says which.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import importlib
import json
import os
import re
import select
import shutil
import signal
import socket
import sys
import sysconfig
import traceback
from pathlib import Path
from typing import Any, NoReturn

from nngpt_lab.sandbox import confine
from nngpt_lab.sandbox.parcels import open_parcel, pack
from nngpt_lab.sandbox.status import Status

ANSWER = 3  # the descriptor a task answers on
HOME = os.environ.get("HOME") or "/"  # in a child its private folder, which has another name each time
FOLDER = re.compile(r'File "[^"\n]*/([^/"\n]+)"')
DENIED = {"EPERM", "EACCES", "EROFS", "ENOSPC", "EFBIG", "EDQUOT", "EMFILE", "EAGAIN"}
NO_MEMORY = (
    *("DefaultCPUAllocator", "annot allocate memory", "not enough memory", "bad_alloc"),
    *("CUDA out of memory", "CUDA error: out of memory", "STATUS_ALLOC_FAILED"),  # torch's, the driver's, cuBLAS' words
)
SYSTEM_FILES = ("/proc/cpuinfo", "/proc/meminfo", "/sys/devices/system/cpu", "/dev/urandom", "/etc/ld.so.cache")
GPU_FILES = (
    *("/proc/driver/nvidia", "/proc/driver/nvidia-uvm", "/proc/self", "/proc/devices", "/proc/modules", "/proc/sys/vm"),
    *("/sys/bus/pci", "/sys/devices", "/sys/module/nvidia"),
)


class Failure(Exception):
    """What a trusted task raises to end with a status of its own choice."""

    def __init__(self, status: Status, message: str):
        super().__init__(message)
        self.status = status


# --- launcher and zygote ------------------------------------------------------------------------------------------


def main(text: str) -> NoReturn:
    """What the parent starts, with its configuration as JSON. Never returns."""
    config = json.loads(text)
    config["namespaces"] = config["namespaces"] and confine.namespaces_work(config["folder"])
    if config["namespaces"]:
        confine.enter_namespaces()
        zygote = os.fork()
        if zygote:
            os.closerange(3, 1 << 16)
            os.waitpid(zygote, 0)
            os._exit(0)
        confine.die_with_parent()
    elif confine.LINUX:
        confine.adopt_orphans()
    try:
        Zygote(config).serve()
    except (BrokenPipeError, ConnectionResetError):  # the parent was killed, perhaps before it had heard of us
        leave(config["folder"])
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def leave(folder: str) -> NoReturn:
    """End, because the parent did, and everything below with it."""
    confine.kill_below()
    with contextlib.suppress(OSError):  # a parent that was killed cannot remove it; one that lives does
        empty(folder)
        Path(folder).rmdir()
    os._exit(0)


class Zygote:
    """Forks a supervisor per task; single-threaded, so that a fork copies no lock that another thread holds."""

    def __init__(self, config: dict[str, Any]):
        self.config = config
        self.control = socket.socket(fileno=config["control"])
        self.home = os.open("/proc/self/ns/pid", os.O_RDONLY) if config["namespaces"] else -1
        _, self.shared = open_parcel(config["shared"])
        for module in config["setup"]:
            importlib.import_module(module)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(1)
        for folder in config["hidden"] if config["namespaces"] else ():
            confine.private_disk(folder, 1)  # an empty one on top
        config["landlock"], config["seccomp"] = confine.landlock_abi(), confine.seccomp_works()
        config["readable"] = readable_places() + (driver_places() if config["gpu"] else [])
        gc.collect()
        gc.freeze()  # a collection in a task would touch, and so copy, every page with an object on it
        threads = len(confine._listing("/proc/self/task")) or 1
        self.say({"ready": layers(config), "threads": threads})

    def say(self, message: dict[str, Any]) -> None:
        """One line to the parent."""
        self.control.sendall(json.dumps(message).encode() + b"\n")

    def serve(self) -> NoReturn:
        """Until the parent hangs up, which a dead parent does too."""
        while True:
            text, descriptors, _, _ = socket.recv_fds(self.control, 1 << 16, 8)
            if not text:
                leave(self.config["folder"])
            if text.endswith(b"run\n"):  # anything else is an order to kill that came after the end
                self.say({"done": self.run(descriptors)})

    def run(self, descriptors: list[int]) -> dict[str, Any]:
        """Run one task to its end; how it ended, from the supervisor's own pipe."""
        witness, testimony = os.pipe()
        pid = confine.fork_into_pid_namespace(self.home) if self.home >= 0 else os.fork()
        if pid == 0:
            try:
                self.control.close()
                os.close(witness)
                supervise(self.config, descriptors, self.shared, testimony)
            finally:
                os._exit(1)
        for descriptor in (*descriptors, testimony):
            os.close(descriptor)
        text = self.listen(witness)
        os.close(witness)
        confine.kill_below(pid)
        return json.loads(text) if text else {}

    def listen(self, witness: int) -> bytes:
        """What the supervisor says; nothing once the parent wants the task dead."""
        poll = select.poll()
        poll.register(witness, select.POLLIN)
        poll.register(self.control, select.POLLIN)
        text = b""
        while True:
            for descriptor, _ in poll.poll():
                if descriptor == witness:
                    more = os.read(witness, 1 << 16)
                    if not more:
                        return text
                    text += more
                elif not self.control.recv(1 << 10):
                    leave(self.config["folder"])
                else:
                    return b""


def layers(config: dict[str, Any]) -> list[str]:
    """Names of what confines a task here, sorted; what is absent is not named."""
    spaces = [f"{kind} namespace" for kind in ("user", "pid", "mount", "network", "ipc")] + ["private disk"]
    names = ["resource limits", "process group", "closed descriptors", "scrubbed environment"]
    names += spaces if config["namespaces"] else []
    names += ["no new privileges", "no capabilities", "killed with parent"] if confine.LINUX else []
    abi = config["landlock"]
    names += ["landlock files"] if abi else []
    names += ["landlock network"] if abi >= 4 else []
    names += ["landlock scopes"] if abi >= 6 else []
    names += ["seccomp"] if config["seccomp"] else []
    return sorted(names)


def readable_places() -> list[str]:
    """Folders and files that Python, torch and this package may still have to read: code, never data or settings."""
    places = {str(Path(__file__).parent.parent), *SYSTEM_FILES, "/lib", "/lib64", "/usr/lib", "/usr/lib64"}
    places |= {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    places |= {entry for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages", "lib-dynload")}
    places |= {entry for entry in sys.path if entry.endswith(".zip")}
    return sorted(places)


def driver_places() -> list[str]:
    """Folders of CUDA's driver library, which lies wherever its installer put it, beside others that it loads later.
    It is loaded here and not started: a driver that runs does not outlive a fork."""
    try:
        ctypes.CDLL("libcuda.so.1")
        maps = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    return sorted({str(Path(line[line.index("/") :]).parent) for line in maps if "/libcuda.so" in line})


# --- supervisor and task ------------------------------------------------------------------------------------------


def supervise(config: dict[str, Any], descriptors: list[int], shared: dict[str, Any], testimony: int) -> NoReturn:
    """Process 1 of the task's own PID namespace: fork the task, wait for it, testify, exit. Never runs its code."""
    said: dict[str, Any] = {}
    try:
        confine.die_with_parent()
        os.setsid()
        request, _ = open_parcel(descriptors.pop())
        limits = request["limits"]
        if config["namespaces"]:
            confine.private_disk(config["folder"], limits["file_mib"])
            if config["gpu"]:
                confine.own_processes()
        else:
            empty(config["folder"])
            if confine.LINUX:
                confine.adopt_orphans()
        task = os.fork()
        if task == 0:
            try:
                begin(config, limits, descriptors, testimony)
                answer(request, shared)
            finally:
                os._exit(70)
        for descriptor in descriptors:
            os.close(descriptor)
        if confine.LINUX:
            confine.hide_memory()
        while True:
            pid, status, usage = os.wait4(-1, 0)
            if pid == task:
                break
        said = {"exit": os.waitstatus_to_exitcode(status), "cpu": usage.ru_utime + usage.ru_stime}
        said["peak_kib"] = usage.ru_maxrss
        if not config["namespaces"]:
            confine.kill_below(task)
            said["written"] = written(config["folder"])
            empty(config["folder"])
    except BaseException as error:
        said = {"setup": f"supervisor: {error!r}"}
    os.write(testimony, json.dumps(said).encode())
    if not confine.LINUX:
        os.killpg(0, signal.SIGKILL)
    os._exit(0)


def empty(folder: str) -> None:
    """Remove what lies in a folder, whatever rights the task gave it. Nobody else is at work in it any more."""
    for base, names, _ in os.walk(folder):
        for path in (Path(base, name) for name in names):
            if not path.is_symlink():
                path.chmod(0o700)
    for path in Path(folder).iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def written(folder: str) -> int:
    """Bytes that files below a folder take on the disk; an entry counts for 4 KiB at least, as it takes an inode."""
    total = 0
    for base, folders, files in os.walk(folder):
        for name in (*folders, *files):
            with contextlib.suppress(OSError):  # gone in the meantime
                total += max(4096, Path(base, name).lstat().st_blocks << 9)
    return total


def begin(config: dict[str, Any], limits: dict[str, Any], descriptors: list[int], testimony: int) -> None:
    """Confine this process. On any failure testify and exit: no candidate runs in less than what was promised."""
    try:
        confine.die_with_parent()
        if confine.LINUX:  # elsewhere it stays in the supervisor's group, which is killed as a whole
            os.setsid()
        rearrange_descriptors(descriptors, testimony)
        os.chdir(config["folder"])
        os.umask(0o077)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        set_limits(config, limits)
        if confine.LINUX:
            lock_up(config)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(config["threads"])
    except BaseException as error:
        os.write(ANSWER + 1, json.dumps({"setup": f"task: {error!r}"}).encode())
        os._exit(70)
    os.close(ANSWER + 1)


def rearrange_descriptors(descriptors: list[int], testimony: int) -> None:
    """0 reads nothing, 1 and 2 are the output pipe, 3 the answer, 4 (until confined) the testimony; the rest closed."""
    result, output = (os.dup(descriptor) for descriptor in descriptors)
    testimony = os.dup(testimony)
    spare = [os.open(os.devnull, os.O_RDONLY), output, output, result, testimony]
    high = [os.dup2(descriptor, 100 + place) for place, descriptor in enumerate(spare)]
    os.closerange(0, 100)
    for place, descriptor in enumerate(high):
        os.dup2(descriptor, place, inheritable=False)
    os.closerange(len(high), 1 << 16)


def set_limits(config: dict[str, Any], limits: dict[str, Any]) -> None:
    """Resource limits of the task. The address space is limited on a CPU only: CUDA reserves huge ranges of it."""
    confine.limit("CORE", 0)
    confine.limit("CPU", limits["cpu_seconds"], limits["cpu_seconds"] + 1)
    confine.limit("FSIZE", limits["file_mib"] << 20)
    confine.limit("NOFILE", 256)
    confine.limit("MEMLOCK", 0)
    confine.limit("MSGQUEUE", 0)
    if not config["gpu"]:
        confine.limit("AS", confine.address_space() + (limits["memory_mib"] << 20))
    # Counted with the task: in a namespace launcher, zygote and supervisor; elsewhere all that the user runs.
    others = 4 if config["namespaces"] else confine.tasks_of(os.getuid())
    confine.limit("NPROC", limits["processes"] + others)


def lock_up(config: dict[str, Any]) -> None:
    """Give up rights, from the ones that the later steps need least."""
    Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")  # first to go when the machine runs short
    confine.drop_root()
    confine.drop_capabilities()
    if config["landlock"]:
        devices = ["/dev/null", "/dev/zero"]
        if config["gpu"]:
            devices += [str(path) for path in Path("/dev").glob("nvidia*")]
            devices += ["/proc/self/task"]  # where a thread is named
        readable = [*config["readable"], *(GPU_FILES if config["gpu"] else ())]
        confine.restrict_files(readable, [config["folder"]], devices)
    confine.hide_memory()
    if config["seccomp"]:
        confine.filter_syscalls(cuda=config["gpu"])


def answer(request: dict[str, Any], arrays: dict[str, Any]) -> NoReturn:
    """Call the trusted function and write its answer, or how it failed, as one parcel."""
    try:
        module, _, name = request["task"].partition(":")
        value, results = getattr(sys.modules[module], name)(request["payload"], arrays)
        chunks = pack({"status": "ok", "value": value}, results)
    except BaseException as error:
        chunks = pack(describe(error), {})
    for chunk in chunks:
        view = memoryview(chunk)
        while view:
            view = view[os.write(ANSWER, view) :]
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            continue
    os._exit(0)


def describe(error: BaseException) -> dict[str, Any]:
    """An exception as plain values; the status is only this process's word, and it can only be a failure."""
    lines = traceback.format_exception(error, limit=-6)
    text = FOLDER.sub(r'File "\1"', "".join(lines))  # where this machine keeps its libraries is no part of a result
    message = str(error) if isinstance(error, Failure) else f"{type(error).__name__}: {error}"
    return {
        "status": status_of(error).value,
        "message": message.replace(HOME, "~")[:400],
        "traceback": text.replace(HOME, "~")[-3000:],
    }


def status_of(error: BaseException | None, depth: int = 8) -> Status:
    """The status that an exception stands for, judged by what it was raised from as well."""
    if error is None or depth == 0:
        return Status.CRASH
    if isinstance(error, Failure) and error.status != Status.OK:
        return error.status
    if isinstance(error, MemoryError) or any(text in str(error) for text in NO_MEMORY):
        return Status.OUT_OF_MEMORY
    if isinstance(error, PermissionError | socket.gaierror) or "can't start new thread" in str(error):
        return Status.FORBIDDEN
    if isinstance(error, OSError) and errno.errorcode.get(error.errno or 0) in DENIED:
        return Status.FORBIDDEN
    if isinstance(error, SyntaxError):
        return Status.SYNTAX
    reason = getattr(error, "reason", None)  # urllib's
    nested = (reason if isinstance(reason, BaseException) else None, error.__cause__, error.__context__)
    return next((s for e in nested if (s := status_of(e, depth - 1)) != Status.CRASH), Status.CRASH)
