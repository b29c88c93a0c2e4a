"""All that a notebook shows of paper D live: every format with every arm and seed, run or read back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import pandas as pd

from nngpt_lab.papers.delta_search import loop, pairs
from nngpt_lab.papers.delta_search.design import MUTATION, Arm, Design
from nngpt_lab.papers.delta_search.lab import open_lab, parents
from nngpt_lab.records.results import Results
from nngpt_lab.study.estimate import Work, of_a_loop
from nngpt_lab.study.lab import opened, run_ahead


@dataclass(frozen=True)
class LiveRuns:
    """What came of the runs.

    Attributes:
        edits: a row per sample, as :func:`loop.run` returns them.
        parents: the pool of each seed: seed, name, code, score, again (under another seed; fractions).
        codes: code by code hash, for parents and children.
    """

    edits: pd.DataFrame
    parents: pd.DataFrame
    codes: dict[str, str]


def planned(formats: Sequence[str], arms: Sequence[Arm]) -> Iterator[tuple[str, Arm]]:
    """Which formats are run in which arms: mutations at random once, and no tuning in what no published pair says."""
    for arm in arms:
        if arm.proposer != "coder":
            yield MUTATION, arm
        for form in formats if arm.proposer == "coder" else ():
            if not arm.tuned or pairs.tunable(form):
                yield form, arm


def work(design: Design, formats: Sequence[str], arms: Sequence[Arm], seeds: int) -> Work:
    """What the runs take at most."""
    samples, pairs = design.cycles * design.samples, design.cycles * design.examples
    texts, every = samples * (1 + design.retries), [arm for _, arm in planned(formats, arms)]
    loops = of_a_loop(design, every, seeds, texts=texts, candidates=samples, pairs=pairs, once=0)
    return replace(loops, candidates=loops.candidates + 2 * seeds * design.parents)


def run_all(
    results: Results,
    design: Design,
    formats: Sequence[str],
    arms: Sequence[Arm],
    seeds: Sequence[int],
    workers: int = 2,
) -> LiveRuns:
    """Run every format with every arm and seed, or read back what was run."""
    with opened(results, "live", open_lab, design, workers) as lab:
        pools = {seed: parents(lab, seed) for seed in seeds}
        calls = [
            (replace(design, form=form), arm, seed, pools[seed])
            for form, arm in planned(formats, arms)
            for seed in seeds
        ]
        run_ahead(lab, open_lab, loop.run, calls, workers)
        tables = [loop.run(replace(lab, design=own), *call) for own, *call in lab.bar(calls, "formats, arms and seeds")]
        rows = [{"seed": seed, **asdict(parent)} for seed, pool in pools.items() for parent in pool]
        codes = lab.ledger.table("codes").set_index("hash")["code"].to_dict()
        return LiveRuns(pd.concat(tables, ignore_index=True), pd.DataFrame(rows), codes)
