"""What is evaluated and what came of it. A failure has a type; it is never a score of 0.0."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from nngpt_lab.corpora.code import code_hash
from nngpt_lab.sandbox.status import Status

CROWDED = "others fill the card"  # how the message of an evaluation begins that ran out of memory within its own share


class Kind(StrEnum):
    """What a candidate's code is."""

    ARCHITECTURE = "architecture"  # LEMUR's contract: class Net, supported_hyperparameters
    AUGMENTATION = "augmentation"  # paper A's: transform(norm)


@dataclass(frozen=True)
class Candidate:
    """One sample of a language model, or a stand-in from a corpus.

    Attributes:
        text: the model's own text, untouched.
        code: what was extracted from it; empty when there was none.
        kind: which contract it is held to.
        prompt_hash: SHA-256 of the prompt; empty for candidates from a corpus.
        sampling_seed: the seed this sample was drawn with; None for candidates from a corpus.
        parent: code hash of the candidate it was derived from, if any.
    """

    text: str
    code: str
    kind: Kind
    prompt_hash: str = ""
    sampling_seed: int | None = None
    parent: str | None = None

    @property
    def code_hash(self) -> str:
        """SHA-256 of the code: with protocol and seed, the ledger's key."""
        return code_hash(self.code)


@dataclass(frozen=True)
class Outcome:
    """What came of evaluating a candidate once.

    Attributes:
        status: ``Status.OK`` if and only if there is a score.
        score: selection score in [0, 1] (holdout accuracy); None for every failure.
        seed: seed of the evaluation.
        protocol_hash: which protocol was run.
        parameters: of the network, as the child counted them; None if it did not come to that.
        seconds: wall-clock seconds by stage (``load``, ``train``, ``predict``, ``total``).
        device: ``cpu`` or a CUDA device's name.
        message: one line for a person, or to feed back to the model.
        traceback: the last lines of the candidate's own traceback, if it raised.
        isolation: what confined the run (``landlock``, ``seccomp``, ``network namespace``, ...), sorted.
    """

    status: Status
    score: float | None = None
    seed: int = 0
    protocol_hash: str = ""
    parameters: int | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    device: str = "cpu"
    message: str = ""
    traceback: str = ""
    isolation: tuple[str, ...] = ()

    def __post_init__(self):
        if (self.status == Status.OK) != (self.score is not None):
            raise ValueError(
                f"an outcome has a score if and only if its status is ok, not {self.status} with {self.score}"
            )
        if self.score is not None and not 0 <= self.score <= 1:
            raise ValueError(f"a score is an accuracy in [0, 1], not {self.score}")
