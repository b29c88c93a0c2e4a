"""What paper B's loop needs, opened together: model, corpus, novelty indices, evaluator pool."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from nngpt_lab.candidates import contract
from nngpt_lab.candidates.ledger import Ledger
from nngpt_lab.candidates.novelty import NoveltyIndex, NoveltySettings
from nngpt_lab.candidates.outcome import Kind
from nngpt_lab.corpora import architectures, narrow
from nngpt_lab.ground.cache import read_or_make
from nngpt_lab.ground.errors import DataError, UsageError
from nngpt_lab.ground.hashing import sha256_json
from nngpt_lab.papers.architecture_loop.design import Design
from nngpt_lab.sandbox.status import Status
from nngpt_lab.study.lab import Bench, open_bench
from nngpt_lab.study.weight_counts import keep_limit


@dataclass(frozen=True)
class Lab(Bench[Design]):
    """What all runs of a design share, with the novelty index of its ``corpus``, what is known before the first cycle
    (columns name, family, code), and the same under the design's ``retry_novelty``, if it has one."""

    known: NoveltyIndex
    retry_known: NoveltyIndex | None


@contextlib.contextmanager
def open_lab(design: Design, ledger: Ledger, folder: Path, **options) -> Iterator[Lab]:
    """Everything that the runs of a design share; arguments and errors as of :func:`open_bench`."""
    corpus = functools.partial(known_networks, design.corpus)
    with open_bench(design, corpus, ledger, folder, **options) as bench:
        known = known_index(design.corpus, bench.corpus, design.novelty)
        retry_known = known_index(design.corpus, bench.corpus, design.retry_novelty) if design.retry_novelty else None
        yield Lab(**vars(bench), known=known, retry_known=retry_known)


def known_networks(corpus: str, most: int | None = None) -> pd.DataFrame:
    """What is known before the first cycle, in the order of the names: columns name, family, code.

    ``lemur``: every published network that keeps the contract. ``narrow``: those of them, at reduced width, that the
    nano coder's data card lists as sound, whether it was trained on them or not. ``most``: only those that are known to
    have at most so many weights (``weight_counts.keep_limit``).
    """
    if corpus == "narrow":
        return narrow.load()[["name", "family", "code"]]
    if corpus != "lemur":
        raise UsageError(f"there is no corpus {corpus!r}", "use 'lemur' or 'narrow'")
    table = architectures.load().architectures.sort_values("name")[["name", "family", "code"]]
    table = table[keep_limit(table["code"], corpus, most)]
    sound = [contract.check(code, Kind.ARCHITECTURE).status == Status.OK for code in table["code"]]
    return table[sound].astype({"name": str, "family": str}).reset_index(drop=True)


def known_index(name: str, corpus: pd.DataFrame, settings: NoveltySettings) -> NoveltyIndex:
    """The index of a corpus, from the user's cache; built on first use, which takes seconds, by one process for all."""
    key = sha256_json([list(corpus["name"]), list(corpus["code"]), vars(settings)])[:16]

    def read(path: Path) -> NoveltyIndex | None:
        with contextlib.suppress(DataError):
            return NoveltyIndex.load(path, settings)
        return None

    def make(path: Path, _: Path) -> NoveltyIndex:
        index = NoveltyIndex(settings)
        index.add_many(corpus["name"], corpus["code"])
        index.save(path)
        return index

    return read_or_make(f"novelty/{name}-{key}.npz", read, make)
