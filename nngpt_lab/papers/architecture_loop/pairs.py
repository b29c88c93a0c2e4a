"""Prompts, and what the model is tuned on: pairs of a prompt and a network that answers it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nngpt_lab.candidates.screening import Screened
from nngpt_lab.ground.seeds import generator
from nngpt_lab.llm.lora import Example
from nngpt_lab.llm.prompts import encode_pair, prompt
from nngpt_lab.papers.architecture_loop.design import KEY, Design, filled
from nngpt_lab.papers.architecture_loop.lab import Lab
from nngpt_lab.study.weight_counts import keep_limit


@dataclass(frozen=True)
class Pair:
    """A training pair: a prompt's messages and the network that answers it."""

    messages: tuple[dict[str, str], ...]
    code: str


def messages(design: Design, *place: int | str) -> tuple[dict[str, str], ...]:
    """The prompt of one sample; what it leaves to chance is drawn for this place (seed, cycle and position)."""
    asked = prompt(design.prompt)
    values = filled(design) | asked.draw(generator(KEY, "prompt", *place))
    return tuple(asked.filled(values))


def pair_of(lab: Lab, seed: int, cycle: int, row, screened: Sequence[Screened]) -> Pair:
    """The training pair that a selected network becomes."""
    code, design = screened[row.position].candidate.code, lab.design
    if design.pair_prompt is None:
        return Pair(messages(design, seed, cycle, row.position), code)
    asked = prompt(design.pair_prompt)
    fields = dict(design.fields) | asked.draw(generator(KEY, "prompt", seed, cycle, row.position))
    fields |= {"accuracy_percent": round(100 * row.score), "max_parameters": int(1.5 * row.parameters)}
    return Pair(tuple(asked.filled(fields)), code)


def corpus_pairs(lab: Lab, seed: int) -> list[Pair]:
    """The pairs that the adapter is tuned on before the first cycle: corpus networks drawn at random, of those that
    keep the protocol's limit. Tuned on larger ones a model writes larger ones, and none of its texts can be trained."""
    rng = generator(KEY, "corpus pairs", seed)
    allowed = np.flatnonzero(keep_limit(lab.corpus["code"], lab.design.corpus, lab.proxy.protocol.max_parameters))
    rows = np.sort(rng.choice(allowed, min(lab.design.corpus_pairs, len(allowed)), replace=False))
    return [Pair(messages(lab.design, seed, "corpus", int(row)), lab.corpus["code"].iloc[row]) for row in rows]


def mix(new: list[Pair], earlier: list[Pair], most: int | None, rng: np.random.Generator) -> list[Pair]:
    """What is trained on after a cycle: its new pairs and earlier ones drawn at random, ``most`` in all (None: all)."""
    room = len(earlier) if most is None else min(len(earlier), max(0, most - len(new)))
    return new[:most] + [earlier[i] for i in np.sort(rng.choice(len(earlier), room, replace=False))]


def examples(lab: Lab, pairs: Sequence[Pair]) -> list[Example]:
    """Pairs as token ids; an answer is one block of code, as the prompts ask."""
    texts = (encode_pair(lab.coder.tokenizer, list(pair.messages), f"```python\n{pair.code}\n```") for pair in pairs)
    return [Example(tuple(ids), prompt_length) for ids, prompt_length in texts]
