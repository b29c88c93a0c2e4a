"""Paper A (2601.03808), live: generate -> check -> duplicates -> train one epoch -> pairs -> LoRA, again and again.

    with open_lab(design, ledger, folder) as lab:             # augmentation_runs.py
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

import contextlib
import functools
import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from nngpt_lab.candidates import pool
from nngpt_lab.candidates.ledger import Ledger
from nngpt_lab.candidates.outcome import Candidate, Kind
from nngpt_lab.candidates.proxy import Proxy
from nngpt_lab.candidates.screening import Screened
from nngpt_lab.corpora.augmentations import parse_pipeline
from nngpt_lab.corpora.code import code_hash, tidy
from nngpt_lab.ground.errors import LabError
from nngpt_lab.ground.hashing import sha256_json
from nngpt_lab.ground.seeds import derive, generator
from nngpt_lab.llm.lora import Example
from nngpt_lab.llm.models import Coder
from nngpt_lab.llm.prompts import encode_pair, prompt
from nngpt_lab.papers.augmentation_search.design import Arm, AugmentationDesign
from nngpt_lab.papers.augmentation_search.generator import SIDE, generate
from nngpt_lab.papers.augmentation_search.pairs import draw_pairs
from nngpt_lab.papers.augmentation_search.rationales import answer
from nngpt_lab.sandbox.status import VALID, Status
from nngpt_lab.study.proposals import file_text, score, write
from nngpt_lab.study.run_state import RunState

PAPER = "paper A"  # what the keys of all seeds begin with
FEWEST = 4  # scored functions without which there is nothing to refer to
NO_TAIL = "the pipeline does not end with Resize(({0}, {0})), ToTensor, Normalize: close Compose's list with them"


@dataclass(frozen=True)
class Lab:
    """What all runs of a design share.

    Attributes:
        coder: the base model, bare between runs.
        proxy, pool: what scores functions, and the processes that do it.
        ledger: every sample and outcome.
        corpus: the published functions, one row per tidied code: name, code, code_hash, operations, score (recorded
            accuracy; null if the authors' run failed).
        folder: adapters and epoch records, a folder a run.
    """

    design: AugmentationDesign
    coder: Coder
    proxy: Proxy
    pool: pool.Pool
    ledger: Ledger
    corpus: pd.DataFrame
    folder: Path
    progress: bool = True


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
    with RunState(lab.coder, design.recipe, lab.folder / run_name(lab, arm, seed), seed) as state:
        epochs = tqdm(range(1, design.epochs + 1), f"{arm.name}, seed {seed}", leave=False, disable=_hidden(lab))
        for epoch in epochs:
            proposed = state.timed_steps("sampling", propose(lab, arm, seed, epoch, archive, state))
            with state.timed("evaluation"):
                screened, rows = score(lab, new_ones(proposed, seen), seed)
            with state.timed("selection"):
                rows = judge(rows, screened, seen, lab.corpus, limit)
                archive = pd.concat([archive, joining(rows, screened)], ignore_index=True)
                pairs = draw_pairs(archive, generator(PAPER, "pairs", seed, epoch), shuffled=arm.shuffled)
            with state.timed("tuning"):
                if arm.tuned and epoch < design.epochs:
                    examples = [example(lab, pair) for pair in pairs.head(design.pairs_per_epoch).itertuples()]
                    state.tune(epoch, examples, derive(PAPER, "tuning", seed, epoch))
            if arm.proposer == "generator":
                rows["tokens"] = 0
            tables.append(rows.assign(arm=arm.name, seed=seed, epoch=epoch, **state.end_cycle(epoch)))
            epochs.set_postfix(_summary(tables), refresh=False)
    return pd.concat(tables, ignore_index=True)


# -------------------------------------------------------------------------------------------------------------- archive


def start_archive(lab: Lab, seed: int) -> pd.DataFrame:
    """The corpus functions that a run starts with, scored by the design's protocol with the run's seed.

    Columns name, code, code_hash, operations, recorded (the authors' accuracy), status, score (null unless ok).
    """
    scored = lab.corpus.dropna(subset="score")
    drawn = stratified(scored, lab.design.start, generator(PAPER, "start", seed))
    candidates = [Candidate("", code, Kind.AUGMENTATION) for code in drawn["code"]]
    outcomes = pool.evaluate(candidates, lab.proxy, lab.ledger, seeds=(seed,), pool=lab.pool, progress=lab.progress)
    drawn = drawn[["name", "code", "code_hash", "operations", "score"]].rename(columns={"score": "recorded"})
    scores = [np.nan if outcome.score is None else outcome.score for outcome in outcomes]
    return drawn.assign(status=[outcome.status.value for outcome in outcomes], score=np.array(scores, float))


def stratified(functions: pd.DataFrame, count: int, rng: np.random.Generator) -> pd.DataFrame:
    """``count`` functions (all if there are no more), one from each of as many slices of the recorded scores."""
    ordered = functions.sort_values(["score", "name"], ignore_index=True)
    edges = np.linspace(0, len(ordered), min(count, len(ordered)) + 1).astype(int)
    return ordered.iloc[rng.integers(edges[:-1], edges[1:])].reset_index(drop=True)


def threshold(design: AugmentationDesign, archive: pd.DataFrame) -> float:
    """The accuracy from which a function joins the archive.

    LabError if too few of the start's functions can be scored to go on with.
    """
    scores = archive["score"].dropna()
    if len(scores) < FEWEST:
        raise LabError(
            f"only {len(scores)} of {len(archive)} corpus functions can be scored with protocol {design.protocol!r}",
            "raise the design's start, or look at their statuses in the ledger",
        )
    return float(np.quantile(scores, design.threshold)) if design.relative else design.threshold


def joining(rows: pd.DataFrame, screened: Sequence[Screened]) -> pd.DataFrame:
    """The accepted rows as rows of the archive."""
    accepted = rows[rows["accepted"]]
    codes = [tidy(screened[position].candidate.code) for position in accepted["position"]]
    found = accepted[["status", "score"]].assign(name=accepted["code_hash"].str[:10], code=codes)
    return found.assign(code_hash=[code_hash(code) for code in codes], operations=accepted["operations"])


# ---------------------------------------------------------------------------------------------------------------- texts


def propose(
    lab: Lab, arm: Arm, seed: int, epoch: int, archive: pd.DataFrame, state: RunState
) -> Iterator[tuple[int, Screened]]:
    """The epoch's texts as they end, with their positions, held against the contract; each is in the ledger."""
    design, name = lab.design, epoch_name(lab, arm, seed, epoch)
    if arm.proposer == "generator":
        for place in range(design.samples):
            code = generate(generator(PAPER, "random generator", seed, epoch, place))
            yield place, file_text(lab, name, place, code, None)
        return
    asked = questions(design, archive, generator(PAPER, "references", seed, epoch))
    seeds = [derive(PAPER, "sampling", seed, epoch, place) for place in range(design.samples)]
    yield from write(lab, name, asked, seeds, lambda: state.coder(epoch))


def questions(design: AugmentationDesign, archive: pd.DataFrame, rng: np.random.Generator) -> list[list[dict]]:
    """An epoch's prompts: functions drawn at random, each with another one; neither needs to be the better [C]."""
    asked, found = prompt(design.prompt), []
    for first in rng.choice(len(archive), design.samples, replace=design.samples > len(archive)):
        second = rng.choice(np.delete(np.arange(len(archive)), first))
        one, other = (archive.iloc[row] for row in (first, second))
        fields = {"transform_code": one["code"], "accuracy": _written(one["score"])}
        fields |= {"addon_transform_code": other["code"], "addon_accuracy": _written(other["score"])}
        found.append(asked.messages(**{name: value for name, value in fields.items() if name in asked.fields}))
    return found


def example(lab: Lab, pair) -> Example:
    """A training text: the worse function asks, the better one answers in the design's style."""
    asked = prompt(lab.design.pair_prompt).messages(transform_code=pair.worse_code, accuracy=_written(pair.worse_score))
    references = [(pair.worse_code, pair.worse_score)]
    ids, length = encode_pair(lab.coder.tokenizer, asked, answer(lab.design.style, references, pair.better_code))
    return Example(tuple(ids), length)


# --------------------------------------------------------------------------------------------------------------- checks


@dataclass(frozen=True)
class Reading:
    """What a function's source says.

    Attributes:
        code_hash: of the tidied code, so that layout and comments make no difference.
        operations: names in order, without the fixed tail.
        parameters: JSON, one object per operation.
    """

    code_hash: str
    operations: tuple[str, ...]
    parameters: str


@functools.lru_cache(maxsize=2**14)
def read(code: str) -> Reading | None:
    """What a function says; None if it does not end with the fixed Resize, ToTensor and Normalize."""
    try:
        pipeline = parse_pipeline(code)
        if not pipeline.has_tail or pipeline.resize != SIDE:
            return None
        return Reading(code_hash(tidy(code)), pipeline.operations, json.dumps(pipeline.parameters))
    except (SyntaxError, ValueError, RecursionError):
        return None


def new_ones(proposed: Generator[tuple[int, Screened]], seen: Mapping[str, bool]) -> Generator[tuple[int, Screened]]:
    """The same texts, with the status contract where the structure is not kept, and duplicate where it is known."""
    with contextlib.closing(proposed):
        for place, one in proposed:
            if one.status == Status.OK:
                found = read(one.candidate.code)
                if found is None:
                    one = replace(one, status=Status.CONTRACT, message=NO_TAIL.format(SIDE))
                elif found.code_hash in seen:
                    one = replace(one, status=Status.DUPLICATE, message="it is in the corpus or was written before")
            yield place, one


def judge(
    rows: pd.DataFrame, screened: Sequence[Screened], seen: dict[str, bool], corpus: pd.DataFrame, limit: float
) -> pd.DataFrame:
    """Add what :func:`run` says of a sample; what is new is added to ``seen``, with whether it is valid.

    Of equal functions of one epoch the first by position counts, whichever was finished first.
    """
    kept = (Status.OK, Status.DUPLICATE)
    found = [read(one.candidate.code) if one.status in kept else None for one in screened]
    sequences, copies, rows = set(corpus["operations"]), set(corpus["code_hash"]), rows.drop(columns="parameters")
    facts = []
    for row, reading in zip(rows.itertuples(), found, strict=True):
        status, value = row.status, row.score
        valid = status in VALID
        if reading is not None:
            if reading.code_hash in seen:
                status, value, valid = Status.DUPLICATE.value, np.nan, seen[reading.code_hash]
            seen.setdefault(reading.code_hash, valid)
        facts.append(
            {
                "status": status,
                "score": value,
                "valid": valid,
                "accepted": value >= limit,
                "copy": reading is not None and reading.code_hash in copies,
                "known_sequence": reading is not None and reading.operations in sequences,
                "operations": reading.operations if reading else None,
                "parameters": reading.parameters if reading else None,
            }
        )
    return rows.assign(**pd.DataFrame(facts, index=rows.index))


# ---------------------------------------------------------------------------------------------------------------- names


def run_name(lab: Lab, arm: Arm, seed: int) -> str:
    """A name that changes with all that the run's texts depend on."""
    identity = sha256_json([lab.design.hash(), lab.coder.identity, lab.proxy.protocol_hash])[:10]
    return f"{identity} {arm.name} seed {seed}".replace(" ", "-")


def epoch_name(lab: Lab, arm: Arm, seed: int, epoch: int) -> str:
    """What the texts of one LLM epoch are filed under in the ledger."""
    return f"{run_name(lab, arm, seed)} epoch {epoch:03d}"


def _written(accuracy: float) -> str:
    return f"{accuracy:.2f}"


def _hidden(lab: Lab) -> bool | None:
    return None if lab.progress else True


def _summary(tables: list[pd.DataFrame]) -> dict[str, str]:
    rows = pd.concat(tables)
    last = tables[-1]
    return {
        "valid": f"{last['valid'].mean():.0%}",
        "mean": f"{last['score'].mean():.2f}",
        "best so far": f"{rows['score'].max():.2f}",
    }
