"""All that a notebook shows of paper A's live loop: arms and seeds, and torchvision's policies, run or read back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from nngpt_lab.candidates import pool, proxy
from nngpt_lab.candidates.outcome import Candidate, Kind
from nngpt_lab.ground.seeds import generator
from nngpt_lab.papers.augmentation_search import loop
from nngpt_lab.papers.augmentation_search.archive import start_archive, threshold
from nngpt_lab.papers.augmentation_search.design import KEY, Arm, Design
from nngpt_lab.papers.augmentation_search.generator import POLICIES
from nngpt_lab.papers.augmentation_search.lab import Lab, known_functions, open_lab
from nngpt_lab.records.results import Results
from nngpt_lab.study.estimate import Work, of_a_loop
from nngpt_lab.study.lab import opened, run_ahead

FRESH = 1000  # seeds from here on score what was selected with smaller ones


@dataclass(frozen=True)
class LiveRuns:
    """What came of the runs.

    Attributes:
        candidates: a row per sample of every arm and seed, as :func:`loop.run` returns them.
        start: the functions that each seed's runs start with, as :func:`start_archive` returns them, and seed.
        thresholds: by seed, the accuracy from which a function joined the archive.
        policies: as :func:`policy_scores` returns them; empty if no seeds were asked for.
    """

    candidates: pd.DataFrame
    start: pd.DataFrame
    thresholds: dict[int, float]
    policies: pd.DataFrame


def example_prompt(design: Design) -> str:
    """What the model is asked for, with the first two functions of the corpus as references."""
    asked = loop.questions(replace(design, samples=1), known_functions().head(2), generator(KEY, "example"))[0]
    return "\n\n".join(f"{each['role']}: {each['content']}" for each in asked)


def work(design: Design, arms: Sequence[Arm], seeds: int) -> Work:
    """What the runs take at most."""
    samples, pairs = design.epochs * design.samples, (design.epochs - 1) * design.pairs_per_epoch
    loops = of_a_loop(design, arms, seeds, texts=samples, candidates=samples, pairs=pairs, once=0)
    return replace(loops, candidates=loops.candidates + seeds * design.start)


def run_arms(
    results: Results,
    design: Design,
    arms: Sequence[Arm],
    seeds: Sequence[int],
    workers: int = 2,
    policy_seeds: int = 0,
    policy_epochs: Sequence[int] = (1, 5),
) -> LiveRuns:
    """Run every arm with every seed, or read back what was run; then the policies with ``policy_seeds`` fresh seeds (0:
    none), and the best function of every arm and of the start, trained for each of ``policy_epochs``."""
    with opened(results, "live", open_lab, design, workers) as lab:
        start = [start_archive(lab, seed).assign(seed=seed) for seed in seeds]
        calls = [(design, arm, seed) for arm in arms for seed in seeds]
        run_ahead(lab, open_lab, loop.run, calls, workers)
        tables = [loop.run(lab, arm, seed) for _, arm, seed in calls]
        limits = {seed: threshold(design, archive) for seed, archive in zip(seeds, start, strict=True)}
        candidates, start = pd.concat(tables, ignore_index=True), pd.concat(start, ignore_index=True)
        codes = lab.ledger.table("codes").set_index("hash")["code"].to_dict()
        best = best_functions(pd.concat([start.assign(arm="start"), candidates]), codes)
        policies = policy_scores(lab, best, policy_seeds, policy_epochs, workers)
        return LiveRuns(candidates, start, limits, policies)


def best_functions(candidates: pd.DataFrame, codes: Mapping[str, str]) -> dict[str, list[str]]:
    """The best function of every arm, one code for each seed that has any, the first of equals."""
    best: dict[str, list[str]] = {}
    for arm, part in candidates.dropna(subset="score").groupby("arm", sort=False):
        rows = part.loc[part.groupby("seed")["score"].idxmax()]
        best[f"best of {arm}"] = [codes[code] for code in rows["code_hash"]]
    return best


def policy_scores(
    lab: Lab, best: Mapping[str, Sequence[str]], seeds: int, epochs: Sequence[int], workers: int = 2
) -> pd.DataFrame:
    """torchvision's policies and the best functions, trained for some numbers of epochs, scored on the test images.

    Seeds are fresh and images are others than those that selected, so that a best of many is no better for having been
    picked. A policy is scored with each of ``seeds`` seeds, the k-th of an arm's best functions with the k-th.

    Returns:
        policy, epochs, seed, code_hash, status, score (null unless ok).
    """
    rows = []
    for count in epochs if seeds else ():
        own = lab.design.scored_by().for_test()
        longer = replace(own, epochs=count, wall_seconds=count * own.wall_seconds)
        same = {name: getattr(lab.proxy, name) for name in ("device", "threads")}
        recipe = proxy.prepare(longer, **same)
        with pool.open_pool(recipe, workers) as processes:
            for k in range(max([seeds, *map(len, best.values())])):
                asked = dict(POLICIES) if k < seeds else {}
                asked |= {name: codes[k] for name, codes in best.items() if k < len(codes)}
                candidates = [Candidate("", code, Kind.AUGMENTATION) for code in asked.values()]
                outcomes = pool.evaluate(
                    candidates, recipe, lab.ledger, seeds=(FRESH + k,), pool=processes, progress=lab.progress
                )
                for name, candidate, outcome in zip(asked, candidates, outcomes, strict=True):
                    rows.append((name, count, FRESH + k, candidate.code_hash, outcome.status.value, outcome.score))
    columns = ["policy", "epochs", "seed", "code_hash", "status", "score"]
    return pd.DataFrame(rows, columns=columns).astype({"score": float})
