"""The user's cache: what is slow to fetch or compile is made once, whole or not at all, by one process at a time."""

from __future__ import annotations

import errno
import logging
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from nngpt_lab.ground import paths
from nngpt_lab.ground.errors import DataError

log = logging.getLogger(__name__)
T = TypeVar("T")


def read_or_make(place: str, read: Callable[[Path], T | None], make: Callable[[Path, Path], T]) -> T:
    """What ``read`` finds at ``place`` in the cache, else what ``make`` makes there while other processes wait.

    Args:
        place: of a file or folder, ``images/mnist.npz`` say.
        read: of its path; None if nothing is there, or nothing sound. It runs without a lock, and a cache that cannot
            be written serves it.
        make: of its path and of an empty folder beside it. Write there and move what is complete to the path; the
            folder is gone afterwards, or swept by the next call if this process is killed.

    Raises:
        DataError: the disk is full, or the cache cannot be written.
    """
    try:
        path = paths.cache_folder() / place
        if (known := read(path)) is not None:
            return known
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(f"{path.name}.lock"))
        try:
            held = lock.acquire(timeout=0)
        except Timeout:
            log.info("another process is making %s; waiting for it", path.name)
            held = lock.acquire()
        with held:
            if (known := read(path)) is not None:  # another process made it while this one waited
                return known
            prefix = f".{path.name}-"
            for leftover in path.parent.glob(f"{prefix}*"):  # its owner is dead, for the lock is ours
                shutil.rmtree(leftover, ignore_errors=True)
            with tempfile.TemporaryDirectory(prefix=prefix, dir=path.parent, ignore_cleanup_errors=True) as private:
                return make(path, Path(private))
    except OSError as error:
        if error.errno is None:  # not the disk's: some libraries raise OSError for bad contents
            raise
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_full(str(error)) from error
        cure = "make it writable, or set NNGPT_LAB_CACHE to a folder that is"
        raise DataError(f"the cache folder cannot be written: {error}", cure) from error


def require_space(folder: Path, size: float, purpose: str) -> None:
    """A DataError unless so many bytes are free where ``folder`` is."""
    if (free := shutil.disk_usage(folder).free) < size:
        needed = f"{size / 2**20:,.0f} MiB are needed, {free / 2**20:,.0f} MiB are free in {folder}"
        raise disk_full(f"{purpose} needs more room ({needed})")


def disk_full(detail: str) -> DataError:
    cure = "free some space, or set NNGPT_LAB_CACHE to a folder on a larger disk"
    return DataError(f"the disk is full: {detail}", cure)
