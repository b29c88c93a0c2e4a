"""The far end of the sandbox: what the zygote forks (``child.py``), a supervisor and its task.

The supervisor mounts the private disk, watches and testifies; the task confines itself, calls one trusted function, and
dies.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import shutil
import signal
import socket
import sys
import sysconfig
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

from nngpt_lab.sandbox import confine
from nngpt_lab.sandbox.parcels import open_parcel, pack
from nngpt_lab.sandbox.readable import SYSTEM_FILES
from nngpt_lab.sandbox.status import Status

ANSWER = 3  # the descriptor a task answers on
WARM = "warm"  # what a spare says when it is
WARM_CPU_SECONDS = 600  # the most a spare takes to get warm; its task's own seconds are counted from then on
HOME = os.environ.get("HOME") or "/"  # in a child its private folder, which has another name each time
FOLDER = re.compile(r'File "[^"\n]*/([^/"\n]+)"')
INSTALLED = {str(Path(__file__).parents[2]), sys.prefix, sys.base_prefix, *sysconfig.get_paths().values()}
INSTALLED |= {entry for entry in sys.path if entry.endswith("-packages")}
DENIED = {"EPERM", "EACCES", "EROFS", "ENOSPC", "EFBIG", "EDQUOT", "EMFILE", "EAGAIN"}
NO_MEMORY = (
    *("DefaultCPUAllocator", "annot allocate memory", "not enough memory", "bad_alloc"),
    *("CUDA out of memory", "CUDA error: out of memory", "STATUS_ALLOC_FAILED"),  # torch's, the driver's, cuBLAS' words
)
GPU_FILES = (
    *("/proc/driver/nvidia", "/proc/driver/nvidia-uvm", "/proc/self", "/proc/devices", "/proc/modules", "/proc/sys/vm"),
    *("/sys/bus/pci", "/sys/devices", "/sys/module/nvidia"),
)


class Failure(Exception):
    """What a trusted task raises to end with a status of its own choice."""

    def __init__(self, status: Status, message: str):
        super().__init__(message)
        self.status = status


def supervise(
    config: dict[str, Any], descriptors: list[int], shared: dict[str, Any], testimony: int, spare: dict[str, Any] | None
) -> NoReturn:
    """Process 1 of the task's own PID namespace: fork the task, wait for it, testify, exit. Never runs its code.
    ``spare``: the limits of a task that is yet to come."""
    said: dict[str, Any] = {}
    try:
        confine.die_with_parent()
        os.setsid()
        request: dict[str, Any] = {} if spare else open_parcel(descriptors.pop())[0]
        limits = spare or request["limits"]
        if config["namespaces"]:
            confine.private_disk(config["folder"], limits["file_mib"])
            if spare:
                confine.own_network()  # no name that the task at work has taken is taken here
            if config["gpu"]:
                confine.own_processes()
        else:
            empty(config["folder"])
            if confine.LINUX:
                confine.adopt_orphans()
        task = os.fork()
        if task == 0:
            try:
                if spare:
                    request, shared = get_warm(config, limits, descriptors, shared, testimony)
                else:
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
        rules = rearrange_descriptors(descriptors, testimony, config["rules"])
        os.chdir(config["folder"])
        os.umask(0o077)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        set_limits(config, limits)
        if confine.LINUX:
            lock_up(config, rules)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(config["threads"])
    except BaseException as error:
        os.write(ANSWER + 1, json.dumps({"setup": f"task: {error!r}"}).encode())
        os._exit(70)
    os.close(ANSWER + 1)


def rearrange_descriptors(descriptors: list[int], testimony: int, rules: int) -> int:
    """0 reads nothing, 1 and 2 are the output pipe, 3 the answer; until confined 4 is the testimony, 5 the rules for
    files, if there are any, whose new number is returned; the rest closed."""
    result, output = (os.dup(descriptor) for descriptor in descriptors)
    kept = [os.dup(descriptor) for descriptor in (testimony, rules) if descriptor >= 0]
    spare = [os.open(os.devnull, os.O_RDONLY), output, output, result, *kept]
    high = [os.dup2(descriptor, 100 + place) for place, descriptor in enumerate(spare)]
    os.closerange(0, 100)
    for place, descriptor in enumerate(high):
        os.dup2(descriptor, place, inheritable=False)
    os.closerange(len(high), 1 << 16)
    return ANSWER + 2


def set_limits(config: dict[str, Any], limits: dict[str, Any]) -> None:
    """Resource limits of the task. The address space is limited on a CPU only: CUDA reserves huge ranges of it."""
    confine.limit("CORE", 0)
    confine.limit("CPU", limits["cpu_seconds"], limits["cpu_seconds"] + 1)
    confine.limit("FSIZE", limits["file_mib"] << 20)
    confine.limit("NOFILE", 256)
    confine.limit("MEMLOCK", 0)
    confine.limit("MSGQUEUE", 0)
    confine.limit("SIGPENDING", 128)  # timers, too
    if not config["gpu"]:
        confine.limit("AS", confine.address_space() + (limits["memory_mib"] << 20))
    # Counted with the task: in a namespace launcher, zygote and supervisor; elsewhere all that the user runs.
    others = 4 if config["namespaces"] else confine.tasks_of(os.getuid())
    confine.limit("NPROC", limits["processes"] + others)


def lock_up(config: dict[str, Any], rules: int) -> None:
    """Give up rights, from the ones that the later steps need least."""
    Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")  # first to go when the machine runs short
    confine.drop_root()
    confine.drop_capabilities()
    if config["landlock"]:
        if config["gpu"]:  # in a /proc of its own, where threads are named
            confine.allow_files(rules, [*SYSTEM_FILES, *GPU_FILES], devices=["/proc/self/task"])
        confine.allow_files(rules, writable=[config["folder"]])
        confine.restrict_files(rules)
    confine.hide_memory()
    if config["seccomp"]:
        confine.filter_syscalls(cuda=config["gpu"])


def get_warm(
    config: dict[str, Any], limits: dict[str, Any], link: list[int], shared: dict[str, Any], testimony: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Confine this process, call the trusted function that warms it, say so, and wait for a task: its request, and what
    it may see. Kept until then: the link to the zygote in the place of the answer, and output that leads nowhere."""
    ahead = {"cpu_seconds": limits["cpu_seconds"] + WARM_CPU_SECONDS, "processes": 2 * limits["processes"]}
    nowhere = os.open(os.devnull, os.O_WRONLY)
    begin(config, limits | ahead, [*link, nowhere], testimony)  # the kernel counts the next spare's threads as well
    zygote = socket.socket(fileno=ANSWER)
    try:
        _, arrays = call(config["warm"], shared)
    except BaseException as error:
        zygote.sendall(describe(error)["message"].encode())
        os._exit(70)
    zygote.sendall(WARM.encode())
    zygote.shutdown(socket.SHUT_WR)
    _, descriptors, _, _ = socket.recv_fds(zygote, 16, 3)
    if not descriptors:
        os._exit(0)
    result, output, sent = descriptors
    request, _ = open_parcel(sent)
    for descriptor, place in ((output, 1), (output, 2), (result, zygote.detach())):
        os.dup2(descriptor, place, inheritable=False)
    os.close(output)
    os.close(result)
    seconds = math.ceil(time.process_time()) + limits["cpu_seconds"]
    confine.limit("CPU", seconds, seconds + 1)
    return request, shared | arrays


def call(request: dict[str, Any], arrays: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """What a trusted function makes of its payload and the arrays."""
    module, _, name = request["task"].partition(":")
    return getattr(sys.modules[module], name)(request["payload"], arrays)


def answer(request: dict[str, Any], arrays: dict[str, Any]) -> NoReturn:
    """Call the trusted function and write its answer, or how it failed, as one parcel."""
    try:
        value, results = call(request, arrays)
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
    text = "".join(traceback.format_exception(error, limit=-6))
    message = str(error) if isinstance(error, Failure) else f"{type(error).__name__}: {error}"
    told = {"message": message, "traceback": FOLDER.sub(r'File "\1"', text)}
    for place in sorted(INSTALLED, key=len, reverse=True):  # where a machine keeps its libraries is no part of a result
        told = {name: said.replace(f"{place}/", "") for name, said in told.items()}
    told = {name: said.replace(HOME, "~") for name, said in told.items()}
    return {"status": status_of(error).value, "message": told["message"][:400], "traceback": told["traceback"][-3000:]}


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
