"""What the papers' experiments are as data: a design, and the arms that differ from it in one thing each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, ClassVar, TypeVar

import pandas as pd

from nngpt_lab.ground.errors import UsageError
from nngpt_lab.ground.formatting import words
from nngpt_lab.ground.hashing import sha256_json
from nngpt_lab.ground.names import all_named, did_you_mean
from nngpt_lab.ground.seeds import SCHEME
from nngpt_lab.llm.decoding import Decoding
from nngpt_lab.llm.recipe import Recipe


@dataclass(frozen=True)
class Design:
    """Every number of an experiment. Two runs can be compared if they differ in the arm or the seed alone.

    Attributes:
        name, source: for people; not part of the hash.
        decoding: how tokens are chosen.
        recipe: the LoRA of one cycle or epoch.
        batch: texts written, or questions answered, at a time.
        four_bit: whether the model is loaded in 4 bits (CUDA only).
    """

    NOT_HASHED: ClassVar[tuple[str, ...]] = ()
    """Fields that add runs, or continue them, and change no sample and no choice of a run that there is."""

    name: str
    source: str
    decoding: Decoding = field(kw_only=True)
    recipe: Recipe = field(default=Recipe(), kw_only=True)
    batch: int = field(default=32, kw_only=True)
    four_bit: bool = field(default=False, kw_only=True)

    def __post_init__(self):
        for name in ("cycles", "epochs", "samples", "train", "test", "altered", "batch"):
            value = getattr(self, name, None)  # None: all that there are
            if value is not None and value < 1:
                raise UsageError(f"design {self.name!r} is too small: {name} is {value}", f"{name} counts from 1")

    def hash(self) -> str:
        """SHA-256 over all that can change a sample, a choice or an answer, the scheme of the seeds included."""
        left_out = ("name", "source", *self.NOT_HASHED)
        values = {name: value for name, value in asdict(self).items() if name not in left_out}
        return sha256_json(values | {"seeds": SCHEME})


@dataclass(frozen=True, kw_only=True)
class LoopDesign(Design):
    """A design of a loop that writes candidates and trains them.

    Attributes:
        coder: which model, by its name in ``llm/catalogue.py``.
        prompt: what it is asked, by its name in the paper's ``prompts/``.
        protocol: how a candidate is scored (``candidates/protocols.py``).
        samples: candidates of one cycle or epoch.
    """

    coder: str
    prompt: str
    protocol: str
    samples: int


@dataclass(frozen=True)
class Arm:
    """The loop, or a control that differs from it in one thing.

    Attributes:
        name: for tables and figures.
        differs: in what, in a few words.
        proposer: who writes: ``coder``, or what the paper's loop has instead of a language model.
        tuned: whether the adapter is tuned at all.
        choice: how training pairs are chosen: ``good`` (by their scores), ``shuffled`` (after scores have changed
            places), or ``random``.
    """

    name: str
    differs: str
    proposer: str = "coder"
    tuned: bool = True
    choice: str = "good"


D = TypeVar("D", bound=Design)
A = TypeVar("A", bound=Arm)


def resized(design: D, **changes: Any) -> D:
    """The design with other values of some fields; None keeps its own.

    UsageError if there is no such field.
    """
    known = [each.name for each in fields(design)]
    for name in changes:
        if name not in known:
            raise UsageError(f"a design has no {name!r}", f"{did_you_mean(name, known)}use some of {', '.join(known)}")
    return replace(design, **{name: value for name, value in changes.items() if value is not None})


def get_arms(names: str, arms: Mapping[str, A]) -> list[A]:
    """Arms by their names, separated by commas, or ``all``; in the order of ``arms``: the loop first.

    UsageError if there is no such arm, or one that takes as many pairs as the loop is named without it.
    """
    chosen = all_named("arm", names, arms)
    for arm in chosen:
        if arm.choice == "random" and arms["loop"] not in chosen:
            raise UsageError(f"{arm.name!r} takes as many pairs as the loop", "name the arm 'loop', too")
    return chosen


def describe(design: Design) -> pd.DataFrame:
    """A design or protocol as a table of its fields: columns setting, value."""
    rows = []
    for name, value in vars(design).items():
        if is_dataclass(value) and not isinstance(value, type):
            value = ", ".join(f"{key.replace('_', ' ')} {part}" for key, part in asdict(value).items())
        rows.append((words(name), "none" if value is None else str(value)))
    return pd.DataFrame(rows, columns=["setting", "value"])
