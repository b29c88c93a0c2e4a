"""Paper B (2601.02997): generate -> check -> train one epoch -> select -> novelty -> LoRA, again and again.

    with open_lab(design, ledger, folder) as lab:
        limits = thresholds(design, sample_base_model(lab))
        candidates = run(lab, ARMS["loop"], seed=0, threshold=limits[0])

One run is one arm and one seed. Every choice in it follows from design, arm, seed, cycle and position; every text and
outcome lies in the ledger, every adapter on the disk. To resume a run is to repeat the call: it finds what is done and
goes on from there. The adapter is continued from cycle to cycle and never merged.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence

import pandas as pd

from nngpt_lab.candidates.novelty import NoveltyIndex
from nngpt_lab.candidates.screening import Screened
from nngpt_lab.ground.seeds import derive, generator
from nngpt_lab.papers.architecture_loop.design import KEY, Arm
from nngpt_lab.papers.architecture_loop.lab import Lab
from nngpt_lab.papers.architecture_loop.pairs import corpus_pairs, examples, messages, mix, pair_of
from nngpt_lab.papers.architecture_loop.selection import admit, choose
from nngpt_lab.study.lab import ArmRun, summary
from nngpt_lab.study.proposals import file_text, score, write
from nngpt_lab.study.run_state import RunState


def run(lab: Lab, arm: Arm, seed: int, threshold: float, quotas: Sequence[int] = ()) -> pd.DataFrame:
    """All cycles of one arm and seed.

    Args:
        threshold: the accuracy from which a network passes, the first of ``base_model.thresholds``.
        quotas: networks to choose in each cycle; for ``choice="random"``.

    Returns:
        One row per sample: arm, seed, cycle (from 1), position, code_hash, tokens, status, score, parameters, nearest
        and jaccard (in the corpus), passed (selected), novel (null unless passed), accepted (became a training pair),
        and for each stage the cycle's seconds.
    """
    design, accepted, pairs, tables = lab.design, NoveltyIndex(lab.design.novelty), [], []
    with ArmRun(arm, seed).state(lab) as state:
        if arm.tuned and design.corpus_pairs:
            pairs = corpus_pairs(lab, seed)
            state.tune(0, examples(lab, pairs), derive(KEY, "tuning", seed, 0))
        cycles = lab.bar(range(1, design.cycles + 1), f"{arm.name}, seed {seed}")
        for cycle in cycles:
            proposed = state.timed_steps("sampling", propose(lab, arm, seed, cycle, state))
            with state.timed("evaluation"):
                screened, rows = score(lab, proposed, seed)
            with state.timed("selection"):
                rng, quota = generator(KEY, "choice", seed, cycle), quotas[cycle - 1] if quotas else 0
                rows["passed"] = choose(rows, arm.choice, threshold, rng, quota, design.fallback)
                rows = admit(lab.known, accepted, rows, screened, arm.novel)
                new = [pair_of(lab, seed, cycle, row, screened) for row in rows[rows["accepted"]].itertuples()]
            with state.timed("tuning"):
                if arm.tuned and cycle < design.cycles:
                    chosen = mix(new, pairs, design.pairs_per_cycle, generator(KEY, "mix", seed, cycle))
                    state.tune(cycle, examples(lab, chosen), derive(KEY, "tuning", seed, cycle))
            pairs = pairs + new
            tables.append(rows.assign(arm=arm.name, seed=seed, cycle=cycle, **state.end_cycle(cycle)))
            cycles.set_postfix(summary(tables), refresh=False)
    return pd.concat(tables, ignore_index=True)


def propose(lab: Lab, arm: Arm, seed: int, cycle: int, state: RunState) -> Generator[tuple[int, Screened]]:
    """The cycle's texts as they end, with their positions, held against the contract; each is in the ledger."""
    design, run_name = lab.design, f"{ArmRun(arm, seed).name(lab)} cycle {cycle:02d}"
    if arm.proposer == "corpus":
        order = generator(KEY, "random search", seed).permutation(len(lab.corpus))
        chosen = order.take(range((cycle - 1) * design.samples, cycle * design.samples), mode="wrap")
        for position, row in enumerate(chosen):
            yield position, file_text(lab, run_name, position, lab.corpus["code"].iloc[row], None)
        return
    asked = [messages(design, seed, cycle, i) for i in range(design.samples)]
    seeds = [derive(KEY, "sampling", seed, cycle, i) for i in range(design.samples)]
    written: Iterable[tuple[int, Screened]] = write(lab, run_name, asked, seeds, lambda: state.coder(cycle))
    if design.retry_novelty:
        written = enumerate(write_again(lab, run_name, asked, seeds, dict(written), lambda: state.coder(cycle)))
    yield from written


def write_again(
    lab: Lab, run_name: str, asked: list, seeds: Sequence[int], written: dict[int, Screened], coder: Callable
) -> list[Screened]:
    """The authors' rejection sampling: near copies of the corpus or of the cycle's other texts are written again."""
    samples = [written[place] for place in sorted(written)]
    others, corpus = NoveltyIndex(lab.design.retry_novelty or lab.design.novelty), lab.retry_known or lab.known

    def near_copy(name: str, text: str) -> bool:
        return corpus.query(text).duplicate or others.check_and_add(name, text).duplicate

    waiting = list(range(len(samples)))
    for attempt in range(1, lab.design.tries):
        waiting = [i for i in waiting if near_copy(f"{i} {attempt}", samples[i].candidate.text)]
        if not waiting:
            break
        drawn = [derive(KEY, "another try", seeds[i], attempt) for i in waiting]
        name, heat = f"{run_name} try {attempt + 1}", 0.1 * attempt
        for place, sample in write(lab, name, [asked[i] for i in waiting], drawn, coder, heat=heat):
            samples[waiting[place]] = sample
    return samples
