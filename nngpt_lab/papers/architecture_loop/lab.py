"""What the loop needs, opened together: model, corpus, novelty index, evaluator pool."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from nngpt_lab.candidates import contract
from nngpt_lab.candidates.ledger import Ledger
from nngpt_lab.candidates.novelty import NoveltyIndex, NoveltySettings
from nngpt_lab.candidates.outcome import Kind
from nngpt_lab.candidates.pool import open_pool
from nngpt_lab.candidates.proxy import prepare
from nngpt_lab.corpora import architectures, narrow
from nngpt_lab.ground import paths
from nngpt_lab.ground.errors import DataError, UsageError
from nngpt_lab.ground.hashing import sha256_json
from nngpt_lab.llm import models
from nngpt_lab.llm.models import one_thread
from nngpt_lab.papers.architecture_loop.design import Design
from nngpt_lab.papers.architecture_loop.loop import Lab
from nngpt_lab.sandbox.status import Status


@contextlib.contextmanager
def open_lab(
    design: Design,
    ledger: Ledger,
    folder: Path,
    *,
    device: str = "cpu",
    workers: int = 2,
    progress: bool = True,
    coder: models.Coder | None = None,
) -> Iterator[Lab]:
    """Everything that the runs of a design share.

    Args:
        ledger: where samples and outcomes are filed.
        folder: where adapters are kept.
        device: of the language model and of the candidates.
        workers: candidates trained at a time.
        coder: a model that is loaded already, instead of the design's own.

    Raises:
        UsageError, DataError: model, device, memory or data are missing; before any work.
    """
    if coder is None:
        models.check(design.coder, device)  # before the corpus and the images are read
    proxy = prepare(design.protocol, device=device)
    corpus = known_networks(design.corpus)
    known = known_index(design.corpus, corpus, design.novelty)
    retry_known = known_index(design.corpus, corpus, design.retry_novelty) if design.retry_novelty else None
    coder = coder or models.load(design.coder, device)
    with open_pool(proxy, workers) as pool, one_thread():
        yield Lab(design, coder, proxy, pool, ledger, corpus, known, Path(folder), progress, retry_known)


def known_networks(corpus: str) -> pd.DataFrame:
    """What is known before the first cycle, in the order of the names: columns name, family, code.

    ``lemur``: every published network that keeps the contract. ``narrow``: those of them, at reduced width, that the
    nano coder's data card lists as sound, whether it was trained on them or not.
    """
    if corpus == "narrow":
        return narrow.load()[["name", "family", "code"]]
    if corpus != "lemur":
        raise UsageError(f"there is no corpus {corpus!r}", "use 'lemur' or 'narrow'")
    table = architectures.load().architectures.sort_values("name")[["name", "family", "code"]]
    sound = [contract.check(code, Kind.ARCHITECTURE).status == Status.OK for code in table["code"]]
    return table[sound].astype({"name": str, "family": str}).reset_index(drop=True)


def known_index(name: str, corpus: pd.DataFrame, settings: NoveltySettings) -> NoveltyIndex:
    """The index of a corpus, from the user's cache; built on first use, which takes seconds."""
    key = sha256_json([list(corpus["name"]), list(corpus["code"]), vars(settings)])[:16]
    path = paths.cache_folder() / "novelty" / f"{name}-{key}.npz"
    with contextlib.suppress(DataError):
        return NoveltyIndex.load(path, settings)
    index = NoveltyIndex(settings)
    index.add_many(corpus["name"], corpus["code"])
    path.parent.mkdir(parents=True, exist_ok=True)
    index.save(path)
    return index
