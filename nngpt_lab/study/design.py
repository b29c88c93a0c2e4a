"""What the papers' experiments are as data: a design, and the arms that differ from it in one thing each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, ClassVar, TypeVar

import pandas as pd

from nngpt_lab.candidates.protocols import Protocol, get_protocol
from nngpt_lab.ground.errors import UsageError
from nngpt_lab.ground.formatting import words
from nngpt_lab.ground.hashing import sha256_json
from nngpt_lab.ground.names import all_named, did_you_mean
from nngpt_lab.ground.seeds import SCHEME
from nngpt_lab.llm.decoding import Decoding
from nngpt_lab.llm.prompts import identity, is_file
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
        return sha256_json(self._hashed() | {"seeds": SCHEME})

    def _hashed(self) -> dict[str, Any]:
        left_out = ("name", "source", *self.NOT_HASHED)
        return {name: value for name, value in asdict(self).items() if name not in left_out}


@dataclass(frozen=True, kw_only=True)
class LoopDesign(Design):
    """A design of a loop that writes candidates and trains them.

    Attributes:
        coder: which model, by its name in ``llm/catalogue.py``.
        prompt: what it is asked, by its name in the paper's ``prompts/``.
        protocol: how a candidate is scored (``candidates/protocols.py``).
        samples: candidates of one cycle or epoch.
        images: a data set in the place of the protocol's; None: the protocol's own.
    """

    coder: str
    prompt: str
    protocol: str
    samples: int
    images: str | None = None

    def hash(self) -> str:
        return sha256_json([super().hash(), identity(self.prompt)]) if is_file(self.prompt) else super().hash()

    def _hashed(self) -> dict[str, Any]:
        values = super()._hashed()
        if self.images is None:  # designs had no such field before 0.2, and their runs go on
            values.pop("images", None)
        if is_file(self.prompt):  # where it lies is not what it says
            values.pop("prompt", None)
        return values

    def scored_by(self) -> Protocol:
        """The protocol, on the design's own images where it has such."""
        protocol = get_protocol(self.protocol)
        return replace(protocol, images=self.images, norm=None) if self.images else protocol


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


SETTING = ["setting", "value"]
SIZES = ("cycles", "epochs", "samples", "train", "test", "altered")
PARTS = {"rank": ("recipe", "rank"), "lr": ("recipe", "lr"), "lora_epochs": ("recipe", "epochs"),
         "temperature": ("decoding", "temperature")}  # what is called so, of which part of a design  # fmt: skip


def resized(design: D, **changes: Any) -> D:
    """The design with other values of some fields; None keeps its own.

    ``rank``, ``lr``, ``lora_epochs`` and ``temperature`` are those of its recipe and decoding; alpha keeps its ratio to
    the rank. ``threshold`` is the one that selects, where a design has several. A design that differs in more than its
    size is called ``changed``: no claim of a paper is judged by it.

    UsageError if there is no such field, or it cannot have that value.
    """
    known, before = [each.name for each in fields(design)], design
    taken = [*known, *PARTS, *["threshold"] * ("thresholds" in known)]
    for name, value in changes.items():
        if name not in taken:
            raise UsageError(f"a design has no {name!r}", f"{did_you_mean(name, taken)}use some of {', '.join(taken)}")
        if value is None:
            continue
        if name in PARTS:
            part, field_name = PARTS[name]
            own = getattr(design, part)
            also = {"alpha": own.alpha / own.rank * value} if name == "rank" and value > 0 else {}
            design = replace(design, **{part: replace(own, **{field_name: value}, **also)})
        elif name == "threshold" and not 0 <= value <= 1:
            raise UsageError(f"a threshold of {value} selects nothing", "accuracies and quantiles lie between 0 and 1")
        elif name == "threshold" and "thresholds" in known:
            design = replace(design, thresholds=(value, *design.thresholds[1:]))  # type: ignore
        else:
            design = replace(design, **{name: value})
    if changes.get("images") and "fields" in known:  # what prompts call the data set
        told = dict(design.fields)  # type: ignore[attr-defined]
        design = replace(design, fields=tuple((told | {"dataset": changes["images"]}).items()))  # type: ignore[call-arg]
    sizes = {name: getattr(before, name) for name in SIZES if name in known}
    return design if replace(design, **sizes) == before else replace(design, name=f"{before.name}, changed")


def get_arms(names: str, arms: Mapping[str, A]) -> list[A]:
    """Arms by their names, separated by commas, or ``all``; in the order of ``arms``: the loop first.

    UsageError if there is no such arm, or one that takes as many pairs as the loop is named without it.
    """
    chosen = all_named("arm", names, arms)
    for arm in chosen:
        if arm.choice == "random" and arms["loop"] not in chosen:
            raise UsageError(f"{arm.name!r} takes as many pairs as the loop", "name the arm 'loop', too")
    return chosen


def describe(design: Design, own: Design | None = None) -> pd.DataFrame:
    """A design or protocol as a table of its fields: columns setting, value. ``own``: the design as the profile has it;
    where that differs, a column ``instead_of`` says what was replaced."""
    table = pd.DataFrame([(words(name), _said(value)) for name, value in vars(design).items()], columns=SETTING)
    if own is None or own == design:
        return table
    return table.assign(
        instead_of=[_said(old, new) for old, new in zip(vars(own).values(), vars(design).values(), strict=True)]
    )


def _said(value: Any, new: Any = ...) -> str:
    """A field's value; of one that was replaced only what differs, and nothing where nothing does."""
    if value == new:
        return ""
    if is_dataclass(value) and not isinstance(value, type):
        parts = {key: part for key, part in asdict(value).items() if new is ... or getattr(new, key) != part}
        return ", ".join(f"{key.replace('_', ' ')} {part}" for key, part in parts.items())
    return "none" if value is None else str(value)
