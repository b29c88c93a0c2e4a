"""What a task may read: code and libraries, never data.

An allow-list by construction. Of the folders that Python, torch and this package are read from, those without any file
of a data format are named as they are; of the others what is not data is named piece by piece. So a data set's labels
cannot be read, wherever a package or a user has put a copy: scikit-learn's digits, a CIFAR Parquet file, a cache.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

from nngpt_lab.ground import paths
from nngpt_lab.ground.errors import DataError

DATA = re.compile(  # formats in which labels are kept: tables, arrays, pickles, data bases, archives; MNIST's, CIFAR's
    r"\.(csv|tsv|arff|parquet|feather|np[yz]|mat|h5|hdf5|pkl|pickle|joblib|sqlite3?|libsvm)(\.(gz|bz2|xz|zst|lzma|z))?$|"
    r"\.(tar(\.\w+)?|tgz|zip|7z)$|ubyte(\.gz)?$|(data|test)_batch(_\d)?(\.bin)?$",
    re.IGNORECASE,
)
# Whole, if there are data below: tests, and the packages of another environment
LEFT_OUT = re.compile(r"tests?|(site|dist)-packages|python\d.*")
SYSTEM_FILES = ("/proc/cpuinfo", "/proc/meminfo", "/sys/devices/system/cpu", "/dev/urandom", "/etc/ld.so.cache")
SYSTEM_FOLDERS = ("/usr/lib/locale", "/usr/lib/ssl")


def places() -> tuple[list[str], list[str]]:
    """Folders and files that a task of this interpreter may read, and folders of which it may only list the names."""
    apart = frozenset(os.path.realpath(folder) for folder in _of_data())
    found = [without_data(root, apart) for root in sorted(_roots())]
    readable = {*SYSTEM_FILES, *(place for below, _ in found for place in below)}
    return sorted(readable), sorted({place for _, listed in found for place in listed})


def _of_data() -> Iterable[Path]:
    """The cache and the folder of the user's data, as far as there are any: a home that is read-only has no cache."""
    for find in (paths.cache_folder, paths.data_folder):
        with contextlib.suppress(DataError):
            if folder := find():
                yield folder


def _roots() -> set[str]:
    """Folders of code: the standard library's, installed packages', this package's, and loaded libraries'."""
    roots = {str(paths.PACKAGE), *SYSTEM_FOLDERS, *_library_folders()}
    roots |= {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    roots |= {entry for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages", "lib-dynload")}
    roots |= {entry for entry in sys.path if entry.endswith(".zip")}
    return {os.path.realpath(root) for root in roots}


def _library_folders() -> Iterable[str]:
    """Where the shared libraries lie that this process has loaded: others that packages need lie beside them."""
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    return {os.path.dirname(line[line.index("/") :]) for line in maps if re.search(r"/[^/]*\.so(\.[\d.]+)?$", line)}  # noqa: PTH120


@functools.cache
def without_data(root: str, apart: frozenset[str] = frozenset()) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What lies below a folder and is no data; and the folder itself, for its names, if that is not all of it.
    ``apart``: folders left out as data are. Links are not followed: what they point to is judged where it lies."""
    if not os.path.isdir(root):  # noqa: PTH112
        return (root,), ()
    clean, below = _scan(root, apart)
    return tuple(below), () if clean else (root,)


def _scan(folder: str, apart: frozenset[str]) -> tuple[bool, list[str]]:
    """Whether there are no data below a folder; and what to name: it, or that of its parts which is no data."""
    clean, named = folder not in apart, []
    if not clean:
        return False, []
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return True, []
    for entry in entries:
        if entry.is_symlink():
            continue
        if entry.is_dir():
            without, below = _scan(entry.path, apart)
            clean &= without
            if without or not LEFT_OUT.fullmatch(entry.name):
                named += below
        elif DATA.search(entry.name):
            clean = False
        else:
            named.append(entry.path)
    return clean, [folder] if clean else named
