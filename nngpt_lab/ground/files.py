"""Files that a reader sees whole or not at all, and folders that others change while one looks."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of ``path`` once it is complete and on the disk. Whatever ends the writing early
    leaves the old file. One writer at a time."""
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def sizes_below(folder: Path) -> Iterator[int]:
    """Bytes of every file below a folder. What another process deletes meanwhile is left out, whole folders too, where
    ``rglob`` would raise."""
    for base, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):
                yield Path(base, name).lstat().st_size
