"""All that a notebook shows of paper A's live loop: arms and seeds, and torchvision's policies, run or read back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from nngpt_lab.candidates import pool, proxy
from nngpt_lab.candidates.ledger import Ledger
from nngpt_lab.candidates.outcome import Candidate, Kind
from nngpt_lab.candidates.protocols import get_protocol
from nngpt_lab.corpora import augmentations
from nngpt_lab.corpora.code import code_hash, tidy
from nngpt_lab.llm import models
from nngpt_lab.llm.models import one_thread
from nngpt_lab.papers.augmentation_search import loop
from nngpt_lab.papers.augmentation_search.design import Arm, AugmentationDesign, get_design
from nngpt_lab.papers.augmentation_search.generator import POLICIES
from nngpt_lab.records.results import Results

FRESH = 1000  # seeds from here on score what was selected with smaller ones
BEST = "best of {}"


@dataclass(frozen=True)
class LiveRuns:
    """What came of the runs.

    Attributes:
        candidates: a row per sample of every arm and seed, as :func:`loop.run` returns them.
        start: the functions that each seed's runs start with, as :func:`loop.start_archive` returns
            them, and seed.
        thresholds: by seed, the accuracy from which a function joined the archive.
        policies: as :func:`policy_scores` returns them; empty if no seeds were asked for.
        codes: code by code hash, for every candidate.
    """

    design: AugmentationDesign
    candidates: pd.DataFrame
    start: pd.DataFrame
    thresholds: dict[int, float]
    policies: pd.DataFrame
    codes: dict[str, str]


def resized(name: str, epochs: int = 0, samples: int = 0, start: int = 0) -> AugmentationDesign:
    """The design of that name with other numbers of LLM epochs, of samples in each, and of functions at the start; 0
    keeps its own."""
    design = get_design(name)
    changes = {"epochs": epochs, "samples": samples, "start": start}
    return replace(design, **{field: value for field, value in changes.items() if value})


@contextlib.contextmanager
def open_lab(
    design: AugmentationDesign,
    ledger: Ledger,
    folder: Path,
    *,
    device: str = "cpu",
    workers: int = 2,
    progress: bool = True,
    coder: models.Coder | None = None,
) -> Iterator[loop.Lab]:
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
        models.check(design.coder, device, four_bit=design.four_bit)  # before the corpus and the images are read
    recipe = proxy.prepare(design.protocol, device=device)
    corpus = known_functions()
    coder = coder or models.load(design.coder, device, four_bit=design.four_bit)
    with pool.open_pool(recipe, workers) as processes, one_thread():
        yield loop.Lab(design, coder, recipe, processes, ledger, corpus, Path(folder), progress)


def known_functions() -> pd.DataFrame:
    """Paper A's 6,000 functions, tidied, one row per program, as ``loop.Lab.corpus`` holds them."""
    table = augmentations.load().brute_force.sort_values("name")
    table = table.assign(code=[tidy(code) for code in table["code"]], operations=table["operations"].map(tuple))
    table = table.assign(code_hash=table["code"].map(code_hash)).drop_duplicates("code_hash")
    return table[["name", "code", "code_hash", "operations", "score"]].reset_index(drop=True)


def run_arms(
    results: Results,
    design: AugmentationDesign,
    arms: Sequence[Arm],
    seeds: Sequence[int],
    workers: int = 2,
    policy_seeds: int = 0,
    policy_epochs: Sequence[int] = (1, 5),
) -> LiveRuns:
    """Run every arm with every seed, or read back what was run; then the policies with ``policy_seeds`` fresh seeds (0:
    none), and the best function of every arm and of the start, trained for each of ``policy_epochs``."""
    device = results.profile.device
    with (
        Ledger(results.ledger_file) as ledger,
        open_lab(design, ledger, results.folder / "live", device=device, workers=workers) as lab,
    ):
        tables = [loop.run(lab, arm, seed) for arm in arms for seed in seeds]
        start = [loop.start_archive(lab, seed).assign(seed=seed) for seed in seeds]
        limits = {seed: loop.threshold(design, archive) for seed, archive in zip(seeds, start, strict=True)}
        candidates, start = pd.concat(tables, ignore_index=True), pd.concat(start, ignore_index=True)
        codes = ledger.table("codes").set_index("hash")["code"].to_dict()
        found = best_functions(pd.concat([start.assign(arm="start"), candidates]), codes)
        policies = policy_scores(lab, found, policy_seeds, policy_epochs, workers)
        return LiveRuns(design, candidates, start, limits, policies, codes)


# ------------------------------------------------------------------------------------------------------------- policies


def best_functions(candidates: pd.DataFrame, codes: Mapping[str, str]) -> dict[str, list[str]]:
    """The best function of every arm, one code for each seed that has any, the first of equals."""
    found: dict[str, list[str]] = {}
    for arm, part in candidates.dropna(subset="score").groupby("arm", sort=False):
        rows = part.loc[part.groupby("seed")["score"].idxmax()]
        found[BEST.format(arm)] = [codes[row] for row in rows["code_hash"]]
    return found


def policy_scores(
    lab: loop.Lab, found: Mapping[str, Sequence[str]], seeds: int, epochs: Sequence[int], workers: int = 2
) -> pd.DataFrame:
    """torchvision's policies, and what was found, trained for some numbers of epochs and scored on the test images.

    Seeds are fresh and images are others than those that selected, so that a best of many is no better for having been
    picked. A policy is scored with each of ``seeds`` seeds, the k-th of the found functions with the k-th seed.

    Returns:
        policy, epochs, seed, code_hash, status, score (null unless ok).
    """
    rows = []
    for count in epochs if seeds else ():
        own = get_protocol(lab.design.protocol).for_test()
        longer = replace(own, epochs=count, wall_seconds=count * own.wall_seconds)
        same = {name: getattr(lab.proxy, name) for name in ("device", "threads", "gpu_fraction")}
        recipe = proxy.prepare(longer, **same)
        with pool.open_pool(recipe, workers) as processes:
            for k in range(max([seeds, *map(len, found.values())])):
                asked = dict(POLICIES) if k < seeds else {}
                asked |= {name: codes[k] for name, codes in found.items() if k < len(codes)}
                candidates = [Candidate("", code, Kind.AUGMENTATION) for code in asked.values()]
                outcomes = pool.evaluate(
                    candidates, recipe, lab.ledger, seeds=(FRESH + k,), pool=processes, progress=lab.progress
                )
                for name, candidate, outcome in zip(asked, candidates, outcomes, strict=True):
                    rows.append((name, count, FRESH + k, candidate.code_hash, outcome.status.value, outcome.score))
    columns = ["policy", "epochs", "seed", "code_hash", "status", "score"]
    return pd.DataFrame(rows, columns=columns).astype({"score": float})
