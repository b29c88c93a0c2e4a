"""What passes between the sandbox's two sides: JSON and the bytes of arrays in one piece of memory, never pickle.

Our own parcels are read by :func:`open_parcel`. What a confined task answers is read by :func:`read_answer`, which
believes nothing: it may be garbage, forged or endless.
"""

from __future__ import annotations

import fcntl
import json
import math
import mmap
import os
import struct
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nngpt_lab.sandbox.status import Status

MAGIC = b"nngptlab"
HEADER = struct.Struct("<8sI")  # magic, length of the JSON that follows
ALIGNMENT = 64
JSON_BYTES = 1 << 20  # the most that an answer may hold beside its arrays
Expected = Mapping[str, tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class Report:
    """How a task ended. ``value``, ``message`` and ``traceback`` are the task's word; ``arrays`` are checked.

    Attributes:
        status: OK if the function returned and every expected array came as expected.
        value: the JSON value it returned; None for every failure.
        arrays: exactly the expected ones, or none.
        seconds: wall clock, from sending the task to the end of its last process.
        isolation: what confined it, sorted.
        killed: whether the parent ended it.
        output: the last of what it printed.
    """

    status: Status
    value: Any = None
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    seconds: float = 0.0
    message: str = ""
    traceback: str = ""
    isolation: tuple[str, ...] = ()
    killed: bool = False
    output: str = ""


def pack(value: Any, arrays: Mapping[str, Any]) -> list[bytes | memoryview]:
    """A JSON value and arrays as chunks of bytes: magic, length, JSON, then the arrays' own bytes, aligned."""
    plain = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    if any(array.dtype.hasobject for array in plain.values()):
        raise TypeError("an array of Python objects cannot be sent")
    index = {name: [array.dtype.str, list(array.shape)] for name, array in plain.items()}
    text = json.dumps([value, index]).encode()
    text += b" " * (-(HEADER.size + len(text)) % ALIGNMENT)
    chunks: list[bytes | memoryview] = [HEADER.pack(MAGIC, len(text)) + text]
    for array in plain.values():
        chunks += [memoryview(array.reshape(-1).view(np.uint8)), bytes(-array.nbytes % ALIGNMENT)]
    return chunks


def parcel(value: Any, arrays: Mapping[str, Any]) -> int:
    """A descriptor of memory that holds a parcel and that nobody can change any more, its maker included."""
    chunks = pack(value, arrays)
    if sealing := hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("parcel", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    else:
        descriptor, path = tempfile.mkstemp()
        Path(path).unlink()
    with open(os.dup(descriptor), "wb") as file:  # noqa: PTH123
        file.writelines(chunks)
    if sealing:
        seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


def open_parcel(descriptor: int) -> tuple[Any, dict[str, np.ndarray]]:
    """Value and arrays of a parcel that our own side made; closes the descriptor. The arrays are views of memory that
    is mapped read-only and stays mapped, also over fork."""
    block = memoryview(mmap.mmap(descriptor, 0, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ))
    os.close(descriptor)
    magic, length = HEADER.unpack_from(block)
    if magic != MAGIC:
        raise ValueError("not a parcel")
    place = HEADER.size + length
    value, index = json.loads(bytes(block[HEADER.size : place]))
    arrays = {}
    for name, (dtype, shape) in index.items():
        count = int(np.prod(shape, dtype=np.int64))
        arrays[name] = np.frombuffer(block, np.dtype(dtype), count, place).reshape(shape)
        place += arrays[name].nbytes + -arrays[name].nbytes % ALIGNMENT
    return value, arrays


def read_answer(text: bytes, expect: Expected) -> Report:
    """An answer checked against what is expected; ValueError and its like for what is no answer at all. Types and
    shapes are compared as text and numbers: nothing that the child wrote is ever turned into a dtype or an object."""
    magic, length = HEADER.unpack_from(text) if len(text) >= HEADER.size else (b"", 0)
    place = HEADER.size + length
    if magic != MAGIC or length > JSON_BYTES or place > len(text):
        raise ValueError("no header")
    said, index = json.loads(text[HEADER.size : place])
    status = Status(said["status"])
    if status != Status.OK:
        message, lines = printable(str(said["message"])), printable(str(said["traceback"]))
        return Report(status, message=message[:400], traceback=lines[-3000:])
    wanted = {name: [np.dtype(dtype).str, list(shape)] for name, (dtype, shape) in expect.items()}
    if index != wanted:
        return Report(Status.SHAPE, message=printable(f"it returned {index}, not {wanted}")[:400])
    arrays = {}
    for name, (dtype, shape) in expect.items():
        size = nbytes(dtype, shape)
        arrays[name] = np.frombuffer(text, np.dtype(dtype), size // np.dtype(dtype).itemsize, place).reshape(shape)
        place += size + -size % ALIGNMENT
    if place != len(text):
        raise ValueError(f"{len(text)} bytes instead of {place}")
    for name, array in arrays.items():
        if array.dtype.kind in "fc" and not np.isfinite(array).all():
            return Report(Status.NON_FINITE, message=f"{name} holds values that are not finite")
    return Report(Status.OK, value=said["value"], arrays=arrays)


def printable(text: str) -> str:
    """Text without control characters, which a terminal would obey."""
    return "".join(char if char.isprintable() or char in "\n\t" else "?" for char in text)


def nbytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes of an array."""
    return np.dtype(dtype).itemsize * math.prod(shape)
