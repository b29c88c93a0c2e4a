"""What a run will take, said before it starts: at most so many texts, tokens and candidates, hours and disk.

Everything is an upper limit that follows from the design; time is that work at rates that were measured once. It tells
minutes from hours and hours from days, no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nngpt_lab.llm import models
from nngpt_lab.llm.catalogue import GIB
from nngpt_lab.llm.recipe import Recipe
from nngpt_lab.study.design import Arm, LoopDesign


@dataclass(frozen=True)
class Work:
    """Texts and their tokens, tokens that are only read, tokens to tune on, candidates, and adapters that are kept."""

    texts: int = 0
    written: int = 0
    read: int = 0
    tuned: int = 0
    candidates: int = 0
    adapters: int = 0


@dataclass(frozen=True)
class Rates:
    """Tokens that a model of so many weights writes, reads and is tuned on in a second; candidates in an hour."""

    weights: int
    written: float
    read: float
    tuned: float
    candidates: float


RATES = {  # benchmarks/results: gpu.md (one H200, 0.5 B; candidates: paper B's protocol, eight at a time), sampling.md,
    # lora.md (two cores, nano coder), and the demo's loop for candidates
    "cuda": Rates(494_032_768, written=10_000, read=110_000, tuned=20_000, candidates=1_500),
    "cpu": Rates(3_344_640, written=4_200, read=8_000, tuned=2_300, candidates=6_000),
}


def of_a_loop(
    design: LoopDesign, arms: Sequence[Arm], seeds: int, *, texts: int, candidates: int, pairs: int, once: int
) -> Work:
    """What a loop's runs take at most, one for each arm and seed. ``texts``, ``candidates``, ``pairs``: that a run
    writes, trains, and is tuned on in all its cycles; ``once``: texts that are written and trained whatever the
    runs."""
    writing = seeds * sum(arm.proposer == "coder" for arm in arms)
    tuning = seeds * sum(arm.tuned for arm in arms)
    longest = min(design.recipe.max_length, 2 * design.decoding.max_new_tokens)
    written = writing * texts + once
    return Work(
        texts=written,
        written=written * design.decoding.max_new_tokens,
        tuned=tuning * design.recipe.epochs * longest * pairs,
        candidates=seeds * len(arms) * candidates + once,
        adapters=2 * tuning,
    )


def expected(work: Work, coder: str, recipe: Recipe, device: str) -> str:
    """The work in a sentence, with time and disk for a model on a device (``cpu`` or ``cuda``)."""
    weights, _ = models.size(models.find(coder))
    rates = RATES[device.partition(":")[0]]
    tokens = work.written / rates.written + work.read / rates.read + work.tuned / rates.tuned
    hours = tokens * weights / rates.weights / 3600 + work.candidates / rates.candidates
    # LoRA on all projections of a layer has about rank / 900 of its weights; with AdamW's state, three numbers of four
    # bytes each, an adapter's checkpoint takes
    disk = work.adapters * 12 * weights * recipe.rank / 900 / GIB
    parts = [
        (work.texts, f"{work.texts:,} texts of {_short(work.written)} tokens"),
        (work.read, f"{_short(work.read)} tokens to read"),
        (work.tuned, f"{_short(work.tuned)} tokens to tune on"),
        (work.candidates, f"{work.candidates:,} candidates to train"),
    ]
    what = ", ".join(text for count, text in parts if count)
    where = "one H200" if device.startswith("cuda") else "two cores"
    return f"at most {what}; about {_time(hours)} at the rates of {where}, and {max(0.1, disk):.1f} GiB of disk"


def _short(count: float) -> str:
    return f"{count / 1e6:,.1f} million" if count >= 1e6 else f"{count:,.0f}"


def _time(hours: float) -> str:
    return f"{60 * hours:.0f} minutes" if hours < 1.5 else f"{hours:,.0f} hours"
