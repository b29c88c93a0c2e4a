"""The child side of the sandbox: a process that has imported everything forks one confined process per task.

    parent -> launcher -> zygote -> supervisor -> task

The *launcher* enters new namespaces and waits. The *zygote* is process 1 of its PID namespace, imports torch and the
trusted task modules once, never runs a candidate's code, and forks for every task. The *supervisor* is process 1 of the
task's own PID namespace: it mounts the private disk, watches the task and tells the zygote how it ended; when it exits,
the kernel kills whatever the task has left behind. The *task* confines itself, calls one trusted function, which is the
one that executes the candidate's code, and dies. Where namespaces are refused the same processes do the same work with
process groups and adopted orphans instead; ``isolation`` in every report says which.

Where a child is slow to get ready, as on a GPU, the zygote keeps a *spare*: a supervisor and its task, confined and
*warm*: the task has called a trusted function before anything has come for it to do. It does one task, as any other,
while the next spare gets warm.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import hashlib
import importlib
import json
import os
import select
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

from nngpt_lab.sandbox import confine
from nngpt_lab.sandbox.parcels import open_parcel
from nngpt_lab.sandbox.readable import without_data
from nngpt_lab.sandbox.task import WARM, empty, supervise

IDLE_SECONDS = 20.0  # after which a spare that nobody asks for ends: it holds memory, on a card that others use too


def code_sha256() -> str:
    """Hash of the code that parent and child share: were it not the same, neither could rely on the other."""
    digest = hashlib.sha256()
    for room in ("candidates", "ground", "sandbox"):
        for path in sorted(Path(__file__).parents[1].joinpath(room).glob("*.py")):
            digest.update(f"{room}/{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


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
        self.spare: Spare | None = None
        _, self.shared = open_parcel(config["shared"])
        for module in config["setup"]:
            importlib.import_module(module)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(1)
        for folder in config["hidden"] if config["namespaces"] else ():
            confine.private_disk(folder, 1)  # an empty one on top
        config["landlock"], config["seccomp"] = confine.landlock_abi(), confine.seccomp_works()
        _, descriptors, _, _ = socket.recv_fds(self.control, 16, 1)
        (readable, listed), _ = open_parcel(descriptors[0])
        config["rules"] = self.rules(readable, listed) if config["landlock"] else -1
        gc.collect()
        gc.freeze()  # a collection in a task would touch, and so copy, every page with an object on it
        self.say({"ready": layers(config), "threads": confine.other_threads(), "code": code_sha256()})

    def rules(self, readable: list[str], listed: list[str]) -> int:
        """What every task may read, named once; each adds its own folder."""
        rules, devices = confine.file_rules(), ["/dev/null", "/dev/zero"]
        if self.config["gpu"]:
            found = [without_data(os.path.realpath(place)) for place in driver_places()]
            readable += [place for below, _ in found for place in below]
            listed += [place for _, folders in found for place in folders]
            devices += [str(path) for path in Path("/dev").glob("nvidia*")]
        confine.allow_files(rules, readable, devices=devices, listed=listed)
        return rules

    def say(self, message: dict[str, Any]) -> None:
        """One line to the parent."""
        self.control.sendall(json.dumps(message).encode() + b"\n")

    def serve(self) -> NoReturn:
        """Until the parent hangs up, which a dead parent does too."""
        awaited = False  # the order for the spare that was asked for, however long a busy machine takes to send it
        while True:
            if self.spare and not awaited and not select.select([self.control], [], [], IDLE_SECONDS)[0]:
                self.drop_spare()
            text, descriptors, _, _ = socket.recv_fds(self.control, 1 << 16, 8)
            if not text:
                leave(self.config["folder"])
            order = text.splitlines()[-1]
            if order == b"run":  # anything else is an order to kill that came after the end
                self.say({"done": self.run(descriptors)})
                awaited = False
            elif order.startswith(b"{"):
                self.say({"not warm": self.warm(json.loads(order))})
                awaited = True

    def run(self, descriptors: list[int]) -> dict[str, Any]:
        """Run one task to its end; how it ended, from the supervisor's own pipe."""
        spare = self.spare
        while spare and not spare.take(descriptors):  # it died in this very moment
            if reason := self.warm(spare.limits):
                return {"setup": reason}
            spare = self.spare
        pid, witness = (spare.pid, spare.witness) if spare else self.fork(descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        # The next one gets warm meanwhile, if a namespace keeps them apart
        self.spare = Spare(self, spare.limits) if spare and self.home >= 0 else None
        text = self.listen(witness)
        os.close(witness)
        self.end(pid)
        return json.loads(text) if text else {}

    def fork(self, descriptors: list[int], limits: dict[str, Any] | None = None) -> tuple[int, int]:
        """A supervisor, for a spare if there are ``limits``: its number, and the pipe on which it testifies."""
        witness, testimony = os.pipe()
        pid = confine.fork_into_pid_namespace(self.home) if self.home >= 0 else os.fork()
        if pid == 0:
            try:
                self.control.close()
                os.close(witness)
                supervise(self.config, descriptors, self.shared, testimony, limits)
            finally:
                os._exit(1)
        os.close(testimony)
        return pid, witness

    def end(self, pid: int) -> None:
        """Kill a supervisor and all below it; only where there is no spare beside it, all below this process."""
        if not self.spare:
            confine.kill_below(pid)
            return
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)  # which returns when all others of its namespace have ended

    def warm(self, limits: dict[str, Any]) -> str:
        """Have a spare with these limits that is warm: nothing, or why there is none. One that has died, or found no
        room beside the task that ran, is replaced once."""
        reason = ""
        for _ in range(2):
            if self.spare is None or self.spare.limits != limits:
                self.drop_spare()
                self.spare = Spare(self, limits)
            if not (reason := self.spare.listen(self)):
                return ""
            self.drop_spare()
        return reason

    def drop_spare(self) -> None:
        """End the spare, if there is one."""
        spare, self.spare = self.spare, None
        if spare:
            spare.link.close()
            os.close(spare.witness)
            self.end(spare.pid)

    def listen(self, witness: int) -> bytes:
        """What a supervisor or a spare says until it hangs up; nothing once the parent wants the task dead."""
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


class Spare:
    """A supervisor and its task, which is confined and has nothing to do yet."""

    def __init__(self, zygote: Zygote, limits: dict[str, Any]):
        self.limits, self._said = limits, ""
        self.link, theirs = socket.socketpair()
        self.pid, self.witness = zygote.fork([theirs.fileno()], limits)
        theirs.close()

    def listen(self, zygote: Zygote) -> str:
        """Nothing once it is warm, else why it is not."""
        self._said = self._said or zygote.listen(self.link.fileno()).decode()
        if self._said not in ("", WARM):
            return self._said
        if self._said and not select.select([self.witness], [], [], 0)[0]:
            return ""
        return f"it ended with {os.read(self.witness, 1 << 12).decode() or 'its supervisor'}"

    def take(self, descriptors: list[int]) -> bool:
        """Hand over a task; False if it is not there any more."""
        try:
            socket.send_fds(self.link, [b"run"], descriptors)
        except OSError:
            return False
        self.link.close()
        return True


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


def driver_places() -> list[str]:
    """Folders of CUDA's driver library, which lies wherever its installer put it, beside others that it loads later.
    It is loaded here and not started: a driver that runs does not outlive a fork."""
    try:
        ctypes.CDLL("libcuda.so.1")
        maps = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    return sorted({str(Path(line[line.index("/") :]).parent) for line in maps if "/libcuda.so" in line})
