"""Evaluation protocols as data: every number with its source. A protocol decides what a score means.

Two scores can be compared if and only if their protocol hashes agree: the hash covers every field that can change a
score and the data's content, and leaves out what only describes.

Sources: [P] the paper, [C] the authors' code, [I] inferred; "lab" is our own choice. What the papers and their code
state differently stands side by side as two protocols.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from nngpt_lab.candidates.outcome import Kind
from nngpt_lab.ground.errors import UsageError
from nngpt_lab.ground.hashing import sha256_json
from nngpt_lab.ground.names import Named
from nngpt_lab.ground.seeds import SCHEME

PARTS = ("holdout", "test")
DESCRIPTIVE = ("name", "source")
EVALUATOR = 2  # raise it when training.py or proxy.py changes what a score means; older scores then stay apart
CIFAR_10_NORM = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))  # [C] nn-dataset 2.1.2, ab/nn/loader/cifar-10.py
LEMUR_RESNET = "8a60109d6cc01a403c502caa481ef3394bc0e0ba9d77561e0a5fcf6b1ab12f44"  # ab/nn/nn/ResNet.py of 2.1.2


@dataclass(frozen=True)
class Protocol:
    """How a candidate is trained and scored.

    Attributes:
        name, source: for people; not part of the hash.
        kind: whether the candidate is a network, or an augmentation for the pinned ``network``.
        images: data set, by its name in :mod:`nngpt_lab.corpora.images`.
        side: height and width in px that a network is given; None where the candidate's augmentation decides.
        flip: random horizontal flip with probability 1/2, drawn per image.
        augment_predictions: whether the images that are predicted pass through the same random operations as the
            training images. The authors' evaluator does that (one transform for both sets); a clean measure does not.
        batch, lr, momentum, dropout: handed to the network as hyperparameters; ``batch`` is also the batch size of
            training and prediction and is never changed silently.
        epochs: how often the network learns from all training images, each time in a new order; the papers' proxy is 1.
        other: value of any further hyperparameter that a network declares. The authors draw each from [0, 1]; this is
            their mean. ``pretrained`` is always 0.
        max_parameters: more is Status.PARAMETERS; None sets no limit.
        norm: mean and standard deviation per channel; None takes those of the train part.
        holdout_fraction, split_seed: the cut of the selection holdout (:func:`nngpt_lab.corpora.images.load`).
        train_limit: use only so many training images, a fixed draw; None uses all.
        part: on which images the score is computed: ``holdout`` selects, ``test`` is read once.
        network: code hash of the pinned network that augmentations are scored with; ``small`` and ``pooled`` are ours.
        wall_seconds, memory_mib: a candidate's limits; Status.TIMEOUT and Status.OUT_OF_MEMORY beyond.
    """

    name: str
    source: str
    kind: Kind
    images: str
    side: int | None
    flip: bool
    augment_predictions: bool
    batch: int
    lr: float = 0.01
    momentum: float = 0.9
    dropout: float = 0.2
    other: float = 0.5
    max_parameters: int | None = None
    norm: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    holdout_fraction: float = 0.1
    split_seed: int = 0
    train_limit: int | None = None
    part: str = "holdout"
    network: str | None = None
    epochs: int = 1
    wall_seconds: float = 1800.0
    memory_mib: int = 8192

    def __post_init__(self):
        if self.part not in PARTS:
            raise UsageError(f"a score is computed on holdout or test, not on {self.part!r}", f"use one of {PARTS}")
        if (self.network is not None) != (self.kind == Kind.AUGMENTATION):
            raise UsageError(
                f"protocol {self.name!r} pins the network {self.network!r} for candidates that are {self.kind.value}s",
                "pin a network if and only if augmentations are scored",
            )
        if self.kind == Kind.AUGMENTATION and (self.side, self.flip, self.augment_predictions) != (None, False, True):
            raise UsageError(
                f"protocol {self.name!r} prepares images in a way of its own, beside the augmentation's",
                "for augmentations leave side None, flip False and augment_predictions True",
            )
        if self.batch < 1 or self.epochs < 1 or (self.train_limit is not None and self.train_limit < 1):
            raise UsageError(f"protocol {self.name!r} trains on nothing", "batch, epochs and train_limit count from 1")

    def for_test(self) -> Self:
        """The same on the test images. It has a hash of its own, so the ledger holds one reading of it per seed."""
        return replace(self, part="test")

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"kind": self.kind.value}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        norm = values["norm"] and tuple(tuple(part) for part in values["norm"])
        return cls(**(values | {"kind": Kind(values["kind"]), "norm": norm}))

    def meaning(self, content_hash: str) -> dict[str, Any]:
        """All that can change a score: the fields, the data's ``content_hash``, and how it is computed here."""
        values = {name: value for name, value in self.as_dict().items() if name not in DESCRIPTIVE}
        values |= {"data": content_hash, "evaluator": EVALUATOR}
        if self.train_limit is not None:  # which images are trained on is drawn
            values["seeds"] = SCHEME
        return json.loads(json.dumps(values), parse_int=float)  # 60 and 60.0 are the same number of seconds

    def hash(self, content_hash: str) -> str:
        """SHA-256 over :meth:`meaning`."""
        return sha256_json(self.meaning(content_hash))


_PAPER_A = Protocol(
    "paper-a",
    "[C] TransformEval.py: LEMUR ResNet, batch 64, lr 0.01, momentum 0.9, dropout 0.2; [P] one epoch, 64 px "
    "(the functions' own Resize); test images pass through the candidate's transform as well. Which ResNet was "
    "trained is not recorded: LEMUR's ab/nn/nn/ResNet.py is pinned. Holdout, memory: lab",
    Kind.AUGMENTATION,
    images="cifar-10",
    side=None,
    flip=False,
    augment_predictions=True,
    batch=64,
    norm=CIFAR_10_NORM,
    network=LEMUR_RESNET,
)
_PAPER_B = Protocol(
    "paper-b",
    "[P] CIFAR-10, input (N, 3, 32, 32), at most 500 K parameters, one epoch. Batch 64 with lr 0.01, momentum "
    "0.9, dropout 0.2: [C] the loop's own check of validity; the paper's values are unknown. Holdout: lab",
    Kind.ARCHITECTURE,
    images="cifar-10",
    side=32,
    flip=False,
    augment_predictions=False,
    batch=64,
    max_parameters=500_000,
    norm=CIFAR_10_NORM,
)
_PAPER_B_CODE = replace(
    _PAPER_B,
    name="paper-b-code",
    source="[C] the loop's defaults: batch 16, lr 0.01, momentum 0.9, dropout 0.2, transform norm_256_flip (256 px, "
    "flip, test images flipped too), 30 minutes an epoch, no limit on parameters. Holdout: lab",
    side=256,
    flip=True,
    augment_predictions=True,
    batch=16,
    max_parameters=None,
)
_ON_DIGITS: dict[str, Any] = {"images": "digits", "batch": 16, "norm": None, "wall_seconds": 120.0, "memory_mib": 4096}
_DIGITS = replace(
    _PAPER_B,
    name="digits",
    source="lab: paper B's protocol on a CPU in seconds: scikit-learn's digits at 32 px, grey to RGB; batch 16 gives "
    "81 steps",
    **_ON_DIGITS,
)
_DIGITS_AUGMENTATION = replace(
    _PAPER_A,
    name="digits-augmentation",
    source="lab: paper A's protocol on a CPU in seconds: digits at 32 px, grey to RGB, a small network of the lab's",
    network="small",
    **_ON_DIGITS,
)
_DIGITS_LOOP = replace(
    _DIGITS,
    name="digits-loop",
    source="lab: as digits, on a quarter of the images in batches of 8, so that 22 cycles take two minutes (over 36 "
    "networks two seeds agree with rank correlation 0.82, as with all images: 0.79), and with at most 200,000 "
    "parameters: what the nano coder writes beyond that is often a width that LEMUR's narrowing missed (440 is no "
    "multiple of 16), and takes half a minute to train",
    train_limit=320,
    batch=8,
    max_parameters=200_000,
)
_DIGITS_AUGMENTATION_LOOP = replace(
    _DIGITS_AUGMENTATION,
    name="digits-augmentation-loop",
    source="lab: as digits-augmentation, for a loop of hundreds of candidates: a quarter of the images in 20 steps, "
    "three times as many to predict, and a network that averages the 64 px of the functions' own Resize down to 16. "
    "Over 40 corpus functions two seeds agree with rank correlation 0.84 (digits-augmentation: 0.32), in half the time",
    train_limit=320,
    holdout_fraction=0.3,
    network="pooled",
)
PROTOCOLS = Named(
    "protocol",
    *(_PAPER_A, _PAPER_B, _PAPER_B_CODE, _DIGITS, _DIGITS_AUGMENTATION, _DIGITS_LOOP, _DIGITS_AUGMENTATION_LOOP),
)


def get_protocol(name: str) -> Protocol:
    """The protocol of that name; a UsageError that names the nearest one if there is none."""
    return PROTOCOLS[name]


TWINS = {"digits": "digits-augmentation", "digits-loop": "digits-augmentation-loop", "paper-b": "paper-a"}
"""Protocols on the same images: for architectures, and for augmentations."""


def protocol_for(name: str, kind: Kind) -> Protocol:
    """The protocol of that name, or where it is for candidates of the other kind, its twin; UsageError if there is
    none."""
    protocol, twins = get_protocol(name), TWINS | {twin: own for own, twin in TWINS.items()}
    if protocol.kind == kind:
        return protocol
    if name in twins:
        return get_protocol(twins[name])
    own = ", ".join(each.name for each in PROTOCOLS.values() if each.kind == kind)
    raise UsageError(f"protocol {name!r} does not score {kind.value}s", f"use one of {own}")
