"""Paper A (2601.03808), live: generate -> check -> duplicates -> train one epoch -> pairs -> LoRA, again and again.

    with open_lab(design, ledger, folder) as lab:
        candidates = run(lab, ARMS["loop"], seed=0)

The model is shown two functions with their accuracies and writes a third. What is new, keeps the structure (fixed
Resize, ToTensor, Normalize at the end) and reaches the threshold joins the archive; better/worse pairs of the archive
are what the model is tuned on. The archive starts with functions of the published corpus, all scored by the same
protocol as what the model writes.

One run is one arm and one seed. Every choice in it follows from design, arm, seed, epoch and position; every text and
outcome lies in the ledger, every adapter on the disk. To resume a run is to repeat the call: it finds what is done and
goes on from there. The adapter is continued from epoch to epoch and never merged.
"""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
import pandas as pd

from nngpt_lab.candidates.screening import Screened
from nngpt_lab.ground.seeds import derive, generator
from nngpt_lab.llm.prompts import prompt
from nngpt_lab.papers.augmentation_search.archive import joining, start_archive, threshold
from nngpt_lab.papers.augmentation_search.checks import judge, new_ones
from nngpt_lab.papers.augmentation_search.design import KEY, Arm, Design
from nngpt_lab.papers.augmentation_search.generator import generate
from nngpt_lab.papers.augmentation_search.lab import Lab
from nngpt_lab.papers.augmentation_search.pairs import draw_pairs, pair_examples
from nngpt_lab.study.lab import ArmRun, summary
from nngpt_lab.study.proposals import file_text, score, write
from nngpt_lab.study.run_state import RunState


def run(lab: Lab, arm: Arm, seed: int) -> pd.DataFrame:
    """All LLM epochs of one arm and seed.

    Returns:
        One row per sample: arm, seed, epoch (from 1), position, code_hash, tokens, status, score, valid (it ran, or is
        a copy of what did), accepted (it joined the archive), copy (of a corpus function), known_sequence (a corpus
        function has the same operations in this order), operations and their parameters (JSON; null where the structure
        was not kept), and for each stage the epoch's seconds.
    """
    design, archive = lab.design, start_archive(lab, seed)
    limit, archive = threshold(design, archive), archive.dropna(subset="score").reset_index(drop=True)
    seen, tables = dict(zip(lab.corpus["code_hash"], lab.corpus["score"].notna(), strict=True)), []
    with ArmRun(arm, seed).state(lab) as state:
        epochs = lab.bar(range(1, design.epochs + 1), f"{arm.name}, seed {seed}")
        for epoch in epochs:
            proposed = state.timed_steps("sampling", propose(lab, arm, seed, epoch, archive, state))
            with state.timed("evaluation"):
                screened, rows = score(lab, new_ones(proposed, seen), seed)
            with state.timed("selection"):
                rows = judge(rows, screened, seen, lab.corpus, limit)
                archive = pd.concat([archive, joining(rows, screened)], ignore_index=True)
                pairs = draw_pairs(archive, generator(KEY, "pairs", seed, epoch), shuffled=arm.choice == "shuffled")
            with state.timed("tuning"):
                if arm.tuned and epoch < design.epochs:
                    pairs = pairs.head(design.pairs_per_epoch)
                    examples = pair_examples(lab.coder.tokenizer, pairs, design.pair_prompt, design.style)
                    state.tune(epoch, examples, derive(KEY, "tuning", seed, epoch))
            if arm.proposer == "generator":
                rows["tokens"] = 0
            tables.append(rows.assign(arm=arm.name, seed=seed, epoch=epoch, **state.end_cycle(epoch)))
            epochs.set_postfix(summary(tables), refresh=False)
    return pd.concat(tables, ignore_index=True)


def propose(
    lab: Lab, arm: Arm, seed: int, epoch: int, archive: pd.DataFrame, state: RunState
) -> Generator[tuple[int, Screened]]:
    """The epoch's texts as they end, with their positions, held against the contract; each is in the ledger."""
    design, name = lab.design, epoch_name(lab, arm, seed, epoch)
    if arm.proposer == "generator":
        for place in range(design.samples):
            code = generate(generator(KEY, "random generator", seed, epoch, place))
            yield place, file_text(lab, name, place, code, None)
        return
    asked = questions(design, archive, generator(KEY, "references", seed, epoch))
    seeds = [derive(KEY, "sampling", seed, epoch, place) for place in range(design.samples)]
    yield from write(lab, name, asked, seeds, lambda: state.coder(epoch))


def questions(design: Design, archive: pd.DataFrame, rng: np.random.Generator) -> list[list[dict]]:
    """An epoch's prompts: functions drawn at random, each with another one; neither needs to be the better [C]."""
    form, asked = prompt(design.prompt), []
    for first in rng.choice(len(archive), design.samples, replace=design.samples > len(archive)):
        second = rng.choice(np.delete(np.arange(len(archive)), first))
        shown, added = (archive.iloc[row] for row in (first, second))
        fields = {"transform_code": shown["code"], "accuracy": f"{shown['score']:.2f}"}
        fields |= {"addon_transform_code": added["code"], "addon_accuracy": f"{added['score']:.2f}"}
        asked.append(form.filled(fields))
    return asked


def epoch_name(lab: Lab, arm: Arm, seed: int, epoch: int) -> str:
    """What the texts of one LLM epoch are filed under in the ledger."""
    return f"{ArmRun(arm, seed).name(lab)} epoch {epoch:03d}"
