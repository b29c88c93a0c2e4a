"""What CUDA's driver does while it starts, without a GPU: run in the sandbox, it shows whether one would start.

Found on an H200 with driver 580: ``cuInit`` fails with error 304 ("OS call failed") unless every thread and a local
socket can be named; later the driver loads libraries from its own folder.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nngpt_lab.sandbox.status import Status
from nngpt_lab.sandbox.task import Failure

READ = ("/proc/driver/nvidia", "/proc/driver/nvidia-uvm", "/proc/modules", "/proc/devices", "/sys/module/nvidia")


def start(payload: Any, shared: Mapping[str, np.ndarray]) -> tuple[None, dict[str, np.ndarray]]:
    """A task of the sandbox, which ends as ``forbidden`` if anything was refused. What is not here is not tried.
    ``payload``: the driver's ``folders``, as :func:`nngpt_lab.sandbox.child.driver_places` finds them."""
    refused: list[str] = []

    def tried(what: str, call: Callable[[], Any]) -> None:
        try:
            call()
        except OSError as error:
            refused.append(f"{what}: {errno.errorcode.get(error.errno or 0, error)}")

    tried("name the main thread", name_thread)
    thread = threading.Thread(target=tried, args=("name another thread", name_thread))
    thread.start()
    thread.join()
    tried("name a local socket", name_socket)
    for place in (*READ, *payload.get("folders", ())):
        if Path(place).exists():
            tried(f"read {place}", partial(read, Path(place)))
    if refused:
        raise Failure(Status.FORBIDDEN, "; ".join(refused))
    return None, {}


def read(place: Path) -> None:
    """A file, or the names in a folder."""
    sorted(place.iterdir()) if place.is_dir() else place.read_bytes()


def name_thread() -> None:
    """As the driver does it. O_TRUNC counts: Landlock asks for the right to truncate from its third version on."""
    descriptor = os.open(f"/proc/self/task/{threading.get_native_id()}/comm", os.O_WRONLY | os.O_TRUNC)
    os.write(descriptor, b"cuda-EvtHandlr")
    os.close(descriptor)


def name_socket() -> None:
    """A socket in the abstract name space, to which nobody ever connects."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as local:
        local.bind(b"\0cuda-uvmfd-stand-in-%d" % os.getpid())
        local.listen(1)
