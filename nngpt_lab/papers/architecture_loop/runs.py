"""All that a notebook shows of paper B's loop: arms and seeds, run or read back, as tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from nngpt_lab.candidates.protocols import get_protocol
from nngpt_lab.corpora import images
from nngpt_lab.papers.architecture_loop import loop
from nngpt_lab.papers.architecture_loop.base_model import sample_base_model, thresholds
from nngpt_lab.papers.architecture_loop.design import ARMS, Arm, Design
from nngpt_lab.papers.architecture_loop.lab import Lab, known_networks, open_lab
from nngpt_lab.papers.architecture_loop.pairs import messages
from nngpt_lab.papers.architecture_loop.transfer import transfer
from nngpt_lab.records.results import Results
from nngpt_lab.study.comparison import RESULT, Statistic, compare
from nngpt_lab.study.design import describe
from nngpt_lab.study.estimate import Work, of_a_loop
from nngpt_lab.study.lab import opened, run_ahead
from nngpt_lab.study.samples import LOOP

TRANSFER = {  # protocol of the loop -> data sets of the transfer, and how many images of each are trained on
    "digits-loop": (("cifar-10", 2000),),
    "paper-b": (("cifar-100", None), ("svhn", None)),
    "paper-b-code": (("cifar-100", None), ("svhn", None)),
}


@dataclass(frozen=True)
class LoopRuns:
    """What came of the runs.

    Attributes:
        candidates: a row per sample of every arm and seed, as :func:`loop.run` returns them.
        base: the samples of the untuned model that set the thresholds; empty where thresholds are accuracies.
        thresholds: three accuracies; the first one selects.
        transfer: networks on other data sets: columns as of :func:`transfer`, and dataset; empty if none was here.
        codes: code by code hash, for every candidate.
        corpus: columns name, family, code: what was known before.
    """

    candidates: pd.DataFrame
    base: pd.DataFrame
    thresholds: tuple[float, ...]
    transfer: pd.DataFrame
    codes: dict[str, str]
    corpus: pd.DataFrame


def described(design: Design, own: Design | None = None) -> pd.DataFrame:
    """Every number of the design: columns setting, value; and how many of the corpus's networks may be tuned on;
    ``instead_of`` as of :func:`describe`, where ``own`` differs."""
    table, most = describe(design, own), design.scored_by().max_parameters
    if not design.corpus_pairs:
        return table
    left = f"{len(known_networks(design.corpus, most)):,} networks"
    return pd.concat([table, pd.DataFrame({"setting": ["left for corpus pairs"], "value": [left]})], ignore_index=True)


def example_prompt(design: Design) -> str:
    """What the model is asked for the first network of the first cycle."""
    return "\n\n".join(f"{each['role']}: {each['content']}" for each in messages(design, 0, 1, 0))


def work(design: Design, arms: Sequence[Arm], seeds: int) -> Work:
    """What the runs take at most."""
    samples, base = design.cycles * design.samples, design.base_samples
    pairs = design.corpus_pairs + (design.cycles - 1) * (design.pairs_per_cycle or design.corpus_pairs + samples // 2)
    return of_a_loop(design, arms, seeds, texts=samples * design.tries, candidates=samples, pairs=pairs, once=base)


def run_arms(
    results: Results, design: Design, arms: Sequence[Arm], seeds: Sequence[int], workers: int = 2, transfer_to: int = 32
) -> LoopRuns:
    """Run every arm with every seed, or read back what was run; and the transfer: ``transfer_to`` samples a model, but
    no more than a cycle has."""
    with opened(results, "loops", open_lab, design, workers) as lab:
        for dataset, _ in TRANSFER[design.protocol] if lab.proxy.gpu else ():
            images.load(dataset)  # what cannot be had is told now, not after the loop
        base = sample_base_model(lab)
        limits = thresholds(design, base)
        quotas: dict[int, list[int]] = {}  # networks of each cycle that the loop chose, by seed
        done: dict[tuple[Arm, int], pd.DataFrame] = {}
        for random in (False, True):  # who chooses as many at random comes after the loop
            todo = [(arm, seed) for arm in arms if (arm.choice == "random") is random for seed in seeds]
            asked = {(arm, seed): (limits[0], quotas.get(seed, ()) if random else ()) for arm, seed in todo}
            run_ahead(lab, open_lab, loop.run, [(design, *one, *asked[one]) for one in todo], workers)
            done |= {(arm, seed): loop.run(lab, arm, seed, *asked[arm, seed]) for arm, seed in todo}
            loops = {seed: table for (arm, seed), table in done.items() if arm == ARMS["loop"]}
            quotas = {seed: table.groupby("cycle")["passed"].sum().tolist() for seed, table in loops.items()}
        candidates = pd.concat([done[arm, seed] for arm in arms for seed in seeds], ignore_index=True)
        samples = min(transfer_to, design.samples)
        moved = _transfer(lab, seeds, samples, workers) if ARMS["loop"] in arms and samples else pd.DataFrame()
        codes = lab.ledger.table("codes").set_index("hash")["code"].to_dict()
        return LoopRuns(candidates, base, limits, moved, codes, lab.corpus)


def _transfer(lab: Lab, seeds: Sequence[int], samples: int, workers: int) -> pd.DataFrame:
    """The transfer to data sets that are here already; on a GPU to all of them. A laptop downloads none for this."""
    tables = []
    for dataset, limit in TRANSFER[lab.design.protocol]:
        if images.is_here(dataset) or lab.proxy.gpu:
            there = replace(
                get_protocol(lab.design.protocol),
                name=f"transfer to {dataset}",
                images=dataset,
                norm=None,
                train_limit=limit,
            )
            tables.append(transfer(lab, seeds, there, samples, workers).assign(dataset=dataset))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


@dataclass(frozen=True)
class Best:
    """The loop's network with the highest accuracy, the first of equals; ``nearest_code`` is empty if the novelty index
    found none like it."""

    summary: str
    code: str
    nearest_code: str


def best_network(runs: LoopRuns) -> Best:
    """The loop's best network, over all seeds and cycles: a best of many, so an optimistic estimate of itself."""
    rows = runs.candidates[(runs.candidates["arm"] == LOOP) & runs.candidates["score"].notna()]
    if rows.empty:
        return Best("no network of the loop could be trained", "", "")
    row = rows.loc[rows["score"].idxmax()]
    near = runs.corpus.loc[runs.corpus["name"] == row["nearest"], "code"]
    likeness = f"nearest known network: {row['nearest']}, Jaccard {row['jaccard']:.2f}" if len(near) else "none alike"
    summary = f"{100 * row['score']:.1f} % on the holdout, the best of {len(rows)}; {row['parameters']:,} parameters; "
    return Best(
        f"{summary}seed {row['seed']}, cycle {row['cycle']}; {likeness}",
        runs.codes[row["code_hash"]],
        near.iloc[0] if len(near) else "",
    )


TRANSFERRED: dict[str, Statistic] = {
    "trained, of the samples": Statistic("trained", lambda part: part["score"].notna().mean()),
    "mean accuracy": Statistic("mean accuracy", lambda part: part.groupby("dataset")["score"].mean().mean()),
}
"""What base and tuned model are compared by on other data sets, of which each counts alike."""


def transfer_table(runs: LoopRuns) -> pd.DataFrame:
    """Base and tuned model on other data sets, with intervals over seeds.

    Columns dataset ("all" last, if there are several), measure, base, tuned, difference, difference_low,
    difference_high, n, method."""
    moved, rows = runs.transfer, []
    parts = list(moved.groupby("dataset")) if len(moved) else []
    for dataset, part in [*parts, ("all", moved)] if len(parts) > 1 else parts:
        tuned, base = (part[part["model"] == model] for model in ("tuned", "base"))
        for name, measure in TRANSFERRED.items():
            rows.append({"dataset": dataset, "measure": name} | compare(tuned, base, measure).columns("tuned", "base"))
    return pd.DataFrame(rows, columns=["dataset", "measure", "base", "tuned", *RESULT])
