"""Published wheel -> Parquet in the user's cache, once; afterwards a warm load is a file read.

A compiled set is a folder ``tables/<name>-<wheel hash>-v<version>/`` with one zstd Parquet file per table. Its pages
carry checksums: a file that is damaged or missing is found when it is read, and compiled again.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from nngpt_lab.corpora import artifacts
from nngpt_lab.ground.cache import read_or_make

log = logging.getLogger(__name__)


def load_or_compile(
    name: str,
    version: int,
    artifact: artifacts.Artifact,
    wanted: Sequence[str],
    compile_tables: Callable[[Path], dict[str, pa.Table]],
) -> dict[str, pa.Table]:
    """The ``wanted`` tables, which ``compile_tables(wheel)`` makes, from the cache if all are there and sound.
    ``version`` belongs to the compiler: raise it when the tables' meaning changes, and old caches are left alone."""

    def make(folder: Path, private: Path) -> dict[str, pa.Table]:
        tables, beside = artifacts.read(artifact, compile_tables), private / folder.name
        beside.mkdir()
        for table in tables:
            pq.write_table(tables[table], beside / f"{table}.parquet", compression="zstd", write_page_checksum=True)
        shutil.rmtree(folder, ignore_errors=True)  # what is there was damaged
        beside.replace(folder)
        return tables

    place = f"tables/{name}-{artifact.sha256[:12]}-v{version}"
    return read_or_make(place, lambda folder: _read(folder, wanted), make)


def _read(folder: Path, wanted: Sequence[str]) -> dict[str, pa.Table] | None:
    if not folder.is_dir():
        return None
    try:
        files = {name: folder / f"{name}.parquet" for name in wanted}
        return {name: pq.read_table(file, page_checksum_verification=True) for name, file in files.items()}
    except (pa.ArrowException, OSError) as error:
        log.warning("the compiled tables in %s are damaged (%s): compiling them again", folder, error)
        return None
