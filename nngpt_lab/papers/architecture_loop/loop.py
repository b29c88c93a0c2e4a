"""Paper B (2601.02997): generate -> check -> novelty -> train one epoch -> select -> LoRA, again and again.

    with open_lab(design, ledger, folder) as lab:
        loop = run(lab, ARMS["loop"], seed=0)

One run is one arm and one seed. Every choice in it follows from design, arm, seed, cycle and position; every text and
outcome lies in the ledger, every adapter on the disk. To resume a run is to repeat the call: it finds what is done and
goes on from there. The adapter is continued from cycle to cycle and never merged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from nngpt_lab.candidates import pool
from nngpt_lab.candidates.ledger import Ledger
from nngpt_lab.candidates.novelty import NoveltyIndex
from nngpt_lab.candidates.proxy import Proxy
from nngpt_lab.candidates.screening import Screened
from nngpt_lab.ground.errors import LabError
from nngpt_lab.ground.hashing import sha256_json
from nngpt_lab.ground.seeds import SCHEME, derive, generator
from nngpt_lab.llm.lora import Example
from nngpt_lab.llm.models import Coder
from nngpt_lab.llm.prompts import encode_pair, prompt
from nngpt_lab.papers.architecture_loop.design import Arm, Design
from nngpt_lab.sandbox.status import VALID
from nngpt_lab.study.proposals import file_text, score, write
from nngpt_lab.study.run_state import RunState

PAPER = "paper B"  # what the keys of all seeds begin with


@dataclass(frozen=True)
class Lab:
    """What all runs of a design share.

    Attributes:
        coder: the base model, bare between runs.
        proxy, pool: what scores networks, and the processes that do it.
        ledger: every sample and outcome.
        corpus: columns name and code: what is known before the first cycle.
        known: the same, to compare with.
        retry_known: the same under the design's ``retry_novelty``, if it has one.
        folder: adapters and cycle records, a folder a run.
    """

    design: Design
    coder: Coder
    proxy: Proxy
    pool: pool.Pool
    ledger: Ledger
    corpus: pd.DataFrame
    known: NoveltyIndex
    folder: Path
    progress: bool = True
    retry_known: NoveltyIndex | None = None


@dataclass(frozen=True)
class Pair:
    """A training pair: a prompt's messages and the network that answers it."""

    messages: tuple[dict[str, str], ...]
    code: str


def run(lab: Lab, arm: Arm, seed: int, quotas: Sequence[int] = ()) -> pd.DataFrame:
    """All cycles of one arm and seed.

    Args:
        quotas: networks to choose in each cycle; for ``choice="random"``.

    Returns:
        One row per sample: arm, seed, cycle (from 1), position, code_hash, tokens, status, score, parameters, nearest
        and jaccard (in the corpus), passed (selected), novel (null unless passed), accepted (became a training pair),
        and for each stage the cycle's seconds.
    """
    design, threshold = lab.design, thresholds(lab)[0]
    accepted, pairs, tables = NoveltyIndex(design.novelty), [], []
    with RunState(lab.coder, design.recipe, lab.folder / run_name(lab, arm, seed), seed) as state:
        if arm.tuned and design.corpus_pairs:
            pairs = corpus_pairs(lab, seed)
            state.tune(0, [example(lab, pair) for pair in pairs], derive(PAPER, "tuning", seed, 0))
        cycles = tqdm(range(1, design.cycles + 1), f"{arm.name}, seed {seed}", leave=False, disable=_hidden(lab))
        for cycle in cycles:
            proposed = state.timed_steps("sampling", propose(lab, arm, seed, cycle, state))
            with state.timed("evaluation"):
                screened, rows = score(lab, proposed, seed)
            with state.timed("selection"):
                rng, quota = generator(PAPER, "choice", seed, cycle), quotas[cycle - 1] if quotas else 0
                rows["passed"] = choose(rows, arm.choice, threshold, rng, quota, design.fallback)
                rows = admit(lab.known, accepted, rows, screened, arm.novel)
                new = [pair_of(lab, seed, cycle, row, screened) for row in rows[rows["accepted"]].itertuples()]
            with state.timed("tuning"):
                if arm.tuned and cycle < design.cycles:
                    chosen = mix(new, pairs, design.pairs_per_cycle, generator(PAPER, "mix", seed, cycle))
                    state.tune(cycle, [example(lab, pair) for pair in chosen], derive(PAPER, "tuning", seed, cycle))
            pairs = pairs + new
            tables.append(rows.assign(arm=arm.name, seed=seed, cycle=cycle, **state.end_cycle(cycle)))
            cycles.set_postfix(_summary(tables), refresh=False)
    return pd.concat(tables, ignore_index=True)


# ------------------------------------------------------------------------------------------------------------- texts


def propose(lab: Lab, arm: Arm, seed: int, cycle: int, state: RunState) -> Iterator[tuple[int, Screened]]:
    """The cycle's texts as they end, with their positions, extracted and held against the contract; each is in the
    ledger."""
    design, run = lab.design, f"{run_name(lab, arm, seed)} cycle {cycle:02d}"
    if arm.proposer == "corpus":
        order = generator(PAPER, "random search", seed).permutation(len(lab.corpus))
        chosen = order.take(range((cycle - 1) * design.samples, cycle * design.samples), mode="wrap")
        yield from ((i, file_text(lab, run, i, lab.corpus["code"].iloc[row], None)) for i, row in enumerate(chosen))
        return
    asked = [messages(design, seed, cycle, i) for i in range(design.samples)]
    seeds = [derive(PAPER, "sampling", seed, cycle, i) for i in range(design.samples)]
    found = write(lab, run, asked, seeds, lambda: state.coder(cycle))
    if design.retry_novelty:
        found = enumerate(_again_if_known(lab, run, asked, seeds, dict(found), lambda: state.coder(cycle)))
    yield from found


def _again_if_known(
    lab: Lab, run: str, asked: list, seeds: Sequence[int], written: dict[int, Screened], coder: Callable[[], Coder]
) -> list[Screened]:
    """The authors' rejection sampling: near copies of the corpus or of the cycle's other texts are written again."""
    found, others = [written[place] for place in sorted(written)], NoveltyIndex(lab.design.retry_novelty)

    def near_copy(name: str, text: str) -> bool:
        return lab.retry_known.query(text).duplicate or others.check_and_add(name, text).duplicate

    waiting = list(range(len(found)))
    for attempt in range(1, lab.design.tries):
        waiting = [i for i in waiting if near_copy(f"{i} {attempt}", found[i].candidate.text)]
        if not waiting:
            break
        drawn = [derive(PAPER, "another try", seeds[i], attempt) for i in waiting]
        again = write(lab, f"{run} try {attempt + 1}", [asked[i] for i in waiting], drawn, coder, heat=0.1 * attempt)
        for place, one in again:
            found[waiting[place]] = one
    return found


# -------------------------------------------------------------------------------------------------------- selection


def choose(
    rows: pd.DataFrame,
    choice: str,
    threshold: float,
    rng: np.random.Generator,
    quota: int = 0,
    fallback: tuple[int, float] | None = None,
) -> pd.Series:
    """Which of a cycle's networks are selected, before novelty (see :class:`Arm`).

    >>> rows = pd.DataFrame({"score": [0.1, 0.5, None, 0.6]})
    >>> choose(rows, "good", 0.5, np.random.default_rng(0)).tolist()
    [False, True, False, True]
    """
    scores = rows["score"].copy()
    trained = np.flatnonzero(scores.notna())
    if choice == "random":
        passed = np.zeros(len(rows), bool)
        passed[rng.permutation(trained)[:quota]] = True
        return pd.Series(passed, rows.index)
    if choice == "shuffled":
        scores.iloc[trained] = scores.iloc[rng.permutation(trained)].to_numpy()
    passed = scores >= threshold
    if fallback is not None and passed.sum() < fallback[0]:
        wanted, lowest = fallback
        best = scores[scores >= lowest].sort_values(ascending=False, kind="stable").index[:wanted]
        passed |= rows.index.isin(best)
    return passed


def admit(
    known: NoveltyIndex, accepted: NoveltyIndex, rows: pd.DataFrame, screened: Sequence[Screened], only_novel: bool
) -> pd.DataFrame:
    """Add the columns nearest, jaccard (in ``known``), novel and accepted; what is new is added to ``accepted``.

    In the order of their positions, so that of two near copies in one cycle the first is new.
    """
    found = []
    for row in rows.itertuples():
        code = screened[row.position].candidate.code
        match = known.query(code) if pd.notna(row.score) else None
        novel = None
        if row.passed:
            novel = not (match.duplicate or accepted.check_and_add(f"network {len(accepted)}", code).duplicate)
        found.append(
            {
                "nearest": match.nearest if match else None,
                "jaccard": match.jaccard if match else np.nan,
                "novel": novel,
                "accepted": bool(row.passed and (novel or not only_novel)),
            }
        )
    table = pd.DataFrame(found, index=rows.index).astype({"novel": "boolean"})
    return pd.concat([rows, table], axis=1)


# ------------------------------------------------------------------------------------------------------ training pairs


def messages(design: Design, *place: int | str) -> tuple[dict[str, str], ...]:
    """The prompt of one sample; what it leaves to chance is drawn for this place (seed, cycle and position)."""
    asked = prompt(design.prompt)
    drawn = asked.draw(generator(PAPER, "prompt", *place))
    return tuple(asked.messages(**dict(design.fields), **drawn))


def pair_of(lab: Lab, seed: int, cycle: int, row, screened: Sequence[Screened]) -> Pair:
    """The training pair that a selected network becomes."""
    code, design = screened[row.position].candidate.code, lab.design
    if design.pair_prompt is None:
        return Pair(messages(design, seed, cycle, row.position), code)
    asked = prompt(design.pair_prompt)
    fields = dict(design.fields) | asked.draw(generator(PAPER, "prompt", seed, cycle, row.position))
    fields |= {"accuracy_percent": round(100 * row.score), "max_parameters": int(1.5 * row.parameters)}
    return Pair(tuple(asked.messages(**{name: fields[name] for name in asked.fields})), code)


def corpus_pairs(lab: Lab, seed: int) -> list[Pair]:
    """The pairs that the adapter is tuned on before the first cycle: corpus networks drawn at random."""
    rng = generator(PAPER, "corpus pairs", seed)
    rows = np.sort(rng.choice(len(lab.corpus), min(lab.design.corpus_pairs, len(lab.corpus)), replace=False))
    return [Pair(messages(lab.design, seed, "corpus", int(row)), lab.corpus["code"].iloc[row]) for row in rows]


def mix(new: list[Pair], earlier: list[Pair], most: int | None, rng: np.random.Generator) -> list[Pair]:
    """What is trained on after a cycle: its new pairs and earlier ones drawn at random, ``most`` in all (None: all)."""
    room = len(earlier) if most is None else min(len(earlier), max(0, most - len(new)))
    return new[:most] + [earlier[i] for i in np.sort(rng.choice(len(earlier), room, replace=False))]


def example(lab: Lab, pair: Pair) -> Example:
    """A pair as token ids; the answer is one block of code, as the prompts ask."""
    ids, length = encode_pair(lab.coder.tokenizer, list(pair.messages), f"```python\n{pair.code}\n```")
    return Example(tuple(ids), length)


# -------------------------------------------------------------------------------------------------------------- names


def thresholds(lab: Lab) -> tuple[float, ...]:
    """The accuracies of ``Design.thresholds``: themselves, or quantiles of the base model's accuracies.

    LabError if the base model writes too few networks that train for a quantile to mean anything.
    """
    design = lab.design
    if not design.base_samples:
        return design.thresholds
    scores = base_rows(lab)["score"].dropna()
    if len(scores) < 4:
        raise LabError(
            f"only {len(scores)} of {design.base_samples} samples of the base model can be trained",
            "raise Design.base_samples, or use thresholds that are accuracies",
        )
    return tuple(float(np.quantile(scores, quantile)) for quantile in design.thresholds)


def base_rows(lab: Lab) -> pd.DataFrame:
    """The samples of the untuned model that set the thresholds: the table that :func:`score` returns."""
    asked = [messages(lab.design, "base model", i) for i in range(lab.design.base_samples)]
    seeds = [derive(PAPER, "sampling", "base model", i) for i in range(lab.design.base_samples)]
    design = lab.design
    key = [lab.coder.identity, design.prompt, design.fields, vars(design.decoding), design.batch, design.base_samples]
    key.append(SCHEME)
    return score(lab, write(lab, f"{sha256_json(key)[:10]} base model", asked, seeds, lambda: lab.coder), seed=0)[1]


def run_name(lab: Lab, arm: Arm, seed: int) -> str:
    """A name that changes with all that the run's texts depend on."""
    return f"{_identity(lab)} {arm.name} seed {seed}".replace(" ", "-")


def _identity(lab: Lab) -> str:
    return sha256_json([lab.design.hash(), lab.coder.identity, lab.proxy.protocol_hash])[:10]


def _hidden(lab: Lab) -> bool | None:
    return None if lab.progress else True


def _summary(tables: list[pd.DataFrame]) -> dict[str, str]:
    rows = tables[-1]
    valid = rows["status"].isin(VALID).mean()
    novel = sum(int((table["accepted"] & table["novel"].fillna(False)).sum()) for table in tables)
    return {
        "valid": f"{valid:.0%}",
        "mean": f"{rows['score'].mean():.2f}",
        "best": f"{rows['score'].max():.2f}",
        "novel": novel,
    }
