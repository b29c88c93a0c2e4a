"""Processes for tests, forked from one that has imported what takes long: a kernel imports for eight CPU seconds before
its first cell, once for all notebooks here. Run as a program this file is that process; only Linux has it.

It imports nothing before the first process is asked for, and ends with the session that started it (``server``).
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

ADDRESS = "NNGPT_LAB_TESTS_FORKS"  # a variable of the environment: the workers of pytest share one server
IMPORTED = (  # by most notebooks or by a loop
    "ipykernel.kernelapp",
    "seaborn",
    "nngpt_lab.llm.lora",
    "nngpt_lab.papers.architecture_loop.loop",
    "nngpt_lab.papers.architecture_loop.figures",
    "nngpt_lab.papers.architecture_loop.tables",
)


@contextlib.contextmanager
def server() -> Iterator[None]:
    """One for all processes that inherit the environment."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ[ADDRESS] = f"{folder}/socket"
        here = Path(__file__).resolve()
        process = subprocess.Popen(
            [sys.executable, "-P", here, os.environ[ADDRESS]], stdin=subprocess.PIPE, start_new_session=True
        )
        try:
            while not Path(os.environ[ADDRESS]).exists() and process.poll() is None:
                select.select([], [], [], 0.01)
            yield
        finally:
            del os.environ[ADDRESS]
            process.stdin.close()
            process.wait()


class Fork:
    """What of ``subprocess.Popen`` its users need. ``arguments``: those of Python, a script or ``-m`` and a module, and
    its own; ``folder``: where it runs; ``errors``: the file of its messages."""

    stdin = stdout = stderr = returncode = None

    def __init__(
        self, arguments: list[str], folder: Path, env: dict[str, str] | None = None, errors: Path = Path(os.devnull)
    ):
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._server.connect(os.environ[ADDRESS])
        job = {
            "arguments": arguments,
            "env": env or dict(os.environ),
            "folder": str(folder.resolve()),
            "errors": str(errors),
        }
        self._server.sendall(json.dumps(job).encode())
        self.pid = int(self._server.recv(99))

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._server], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self._server.settimeout(timeout)
            self.returncode = int(self._server.recv(99) or -signal.SIGKILL)  # nothing: the server itself was killed
            self._server.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


@contextlib.contextmanager
def kernels() -> Iterator[None]:
    """Where there is a server, Jupyter's kernels are forked from it."""
    if ADDRESS not in os.environ:
        yield
        return

    def launch(command: list[str], *, env: dict[str, str], cwd: str | None = None, **_) -> Fork:
        return Fork(command[command.index("-m") :], Path(cwd or ""), env)

    with mock.patch("jupyter_client.provisioning.local_provisioner.launch_kernel", launch):
        yield


def serve(address: str) -> dict | None:
    """Returns in each process that is forked, with what it has to do; in the server, once nobody holds its input."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(address)
    listener.listen()
    running: dict[int, socket.socket] = {}
    while True:
        readable = select.select([listener, sys.stdin], [], [], 0.05 if running else None)[0]
        if sys.stdin in readable:
            return None
        if listener in readable:
            client, _ = listener.accept()
            job = json.loads(client.recv(1 << 20)) | {"server": os.getpid()}
            os.environ.update({name: text for name, text in job["env"].items() if name.endswith("_NUM_THREADS")})
            with contextlib.suppress(Exception):  # whoever needs it will say what is wrong with it
                for name in IMPORTED:
                    importlib.import_module(name)
            gc.freeze()  # a collection in a process that was forked would touch, and so copy, every page
            if not (pid := os.fork()):
                os.setpgid(0, 0)
                return job
            with contextlib.suppress(OSError):  # it may have done so itself, and even have ended
                os.setpgid(pid, pid)
            running[pid] = client
            try:
                client.sendall(str(pid).encode())
            except BrokenPipeError:  # whoever asked has gone
                os.kill(pid, signal.SIGKILL)
        for pid in list(running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                with running.pop(pid) as client, contextlib.suppress(BrokenPipeError):
                    client.sendall(str(os.waitstatus_to_exitcode(status)).encode())


def become(job: dict) -> None:
    """Run a program in this process, with nothing left of the server but what it has imported: ``serve`` has returned,
    and so closed its sockets."""
    for number, name in enumerate((os.devnull, os.devnull, job["errors"])):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT), number)
    os.chdir(job["folder"])
    os.environ.clear()
    os.environ.update(job["env"] | {"JPY_PARENT_PID": str(job["server"])})  # a kernel ends with it
    if job["arguments"][0] == "-m":
        sys.argv = job["arguments"][1:]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = job["arguments"]
        runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__" and (task := serve(sys.argv[1])):
    become(task)
