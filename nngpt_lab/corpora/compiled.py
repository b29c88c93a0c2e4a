"""Published wheel -> Parquet in the user's cache, once; afterwards a warm load is a file read.

A compiled set is a folder ``tables/<name>-<wheel hash>-v<version>/`` with one zstd Parquet file per table. It appears
atomically (written beside, then renamed), under a lock (two notebooks may start at once), and its pages carry
checksums: a damaged file is found when it is read, and compiled again.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

from nngpt_lab.corpora import artifacts
from nngpt_lab.ground import paths
from nngpt_lab.ground.errors import DataError

log = logging.getLogger(__name__)


def load_or_compile(
    name: str, version: int, artifact: artifacts.Artifact, compile_tables: Callable[[Path], dict[str, pa.Table]]
) -> dict[str, pa.Table]:
    """The tables that ``compile_tables(wheel)`` makes, from the cache if they are there and sound.

    ``version`` belongs to the compiler: raise it when the tables' meaning changes, and old caches are left alone.
    """
    folder = paths.cache_folder() / "tables" / f"{name}-{artifact.sha256[:12]}-v{version}"
    if (tables := _read(folder)) is not None:
        return tables
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if (tables := _read(folder)) is None:  # another process may have compiled it while we waited
            tables = compile_tables(artifacts.fetch(artifact))
            _write(folder, tables)
    return tables


def _read(folder: Path) -> dict[str, pa.Table] | None:
    if not folder.is_dir():
        return None
    try:
        files = sorted(folder.glob("*.parquet"))
        return {file.stem: pq.read_table(file, page_checksum_verification=True) for file in files} or None
    except (pa.ArrowException, OSError) as error:
        log.warning("the compiled tables in %s are damaged (%s): compiling them again", folder, error)
        return None


def _write(folder: Path, tables: dict[str, pa.Table]) -> None:
    beside = folder.with_name(f".{folder.name}.writing")  # ours alone under the lock, so what is there is a leftover
    try:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir()
        for name, table in tables.items():
            pq.write_table(table, beside / f"{name}.parquet", compression="zstd", write_page_checksum=True)
        shutil.rmtree(folder, ignore_errors=True)  # what is there was damaged
        beside.replace(folder)
    except OSError as error:
        shutil.rmtree(beside, ignore_errors=True)
        raise DataError(
            f"cannot write the compiled tables to {folder.parent}: {error}",
            "free some space there, or set NNGPT_LAB_CACHE to a folder with 1 GB free",
        ) from error
