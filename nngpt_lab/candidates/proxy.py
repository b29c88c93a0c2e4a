"""The one-epoch proxy, parent side: from a candidate's code to a score that can be trusted.

    with prepare("digits").evaluator() as evaluator:
        outcome = evaluator.evaluate(candidate, seed=0)

The child (:mod:`nngpt_lab.candidates.training`) trains for one epoch and returns predictions; they are scored here,
against labels that never left this process. Candidates are selected on a holdout; the test images are read through
``prepare(protocol.for_test())``, whose scores the ledger keeps apart and once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import numpy as np

from nngpt_lab.candidates import contract
from nngpt_lab.candidates.outcome import CROWDED, Candidate, Outcome
from nngpt_lab.candidates.protocols import Protocol, get_protocol
from nngpt_lab.corpora.code import code_hash
from nngpt_lab.ground.errors import DataError, UsageError
from nngpt_lab.ground.seeds import generator
from nngpt_lab.sandbox.parcels import Report
from nngpt_lab.sandbox.parent import TRIES, Limits, Sandbox
from nngpt_lab.sandbox.status import Status

TASK = "nngpt_lab.candidates.training"
STAGES = ("load", "train", "predict")
OWN_NETWORKS = {"small": "small_network.py", "pooled": "pooled_network.py"}
LEAST_SIDE = 32  # px; LEMUR's networks halve their input up to five times


@dataclass(frozen=True, eq=False)
class Proxy:
    """A protocol with its data: what a node needs to evaluate candidates. Made by :func:`prepare`.

    Pickled (for Ray) it leaves the images behind; they travel once per node.

    Attributes:
        protocol_hash: what its scores are filed under; covers protocol, data and pinned network.
        record: what that hash covers, for the ledger.
        norm: mean and standard deviation per channel.
        network: code of the pinned network; empty for architectures.
        labels: int64 (N,), of the images to predict. They stay on this side.
        images: ``train_images``, ``train_labels``, ``predict_images``: what a child sees; None after pickling.
        device, threads: of a child. The number of threads moves a score's last digits, so keep it within a study.
        gpu_fraction: share of the device's memory for one child; a pool gives each of its children an equal one.
    """

    protocol: Protocol
    protocol_hash: str
    record: dict[str, Any]
    classes: int
    norm: tuple[tuple[float, ...], tuple[float, ...]]
    network: str
    labels: np.ndarray
    images: dict[str, np.ndarray] | None
    device: str = "cpu"
    threads: int = 1
    gpu_fraction: float = 1.0

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"images": None}

    @property
    def gpu(self) -> bool:
        """Whether children need a CUDA device."""
        return self.device.startswith("cuda")

    def arrays(self) -> dict[str, np.ndarray]:
        """What every child sees, sent once per node."""
        if self.images is None:
            raise UsageError("this proxy was pickled without its images", "ask the one that prepare() returned")
        return self.images

    def open(self, shared: int) -> Evaluator:
        """An evaluator over images that lie in a parcel already."""
        return Evaluator(self, shared)

    def evaluator(self) -> Evaluator:
        """An evaluator of its own, outside of any pool."""
        return Evaluator(self, self.arrays())


def prepare(protocol: str | Protocol, *, device: str = "cpu", threads: int = 1) -> Proxy:
    """Load the images and pinned network of a protocol, or of the one of that name, for ``cpu`` or a CUDA device;
    ``threads``: torch's, in each child. UsageError: no such protocol or device; DataError: the images or the pinned
    network cannot be had."""
    from nngpt_lab.corpora import images

    protocol = get_protocol(protocol) if isinstance(protocol, str) else protocol
    _device_name(device, threads)
    data = images.load(protocol.images, seed=protocol.split_seed, holdout_fraction=protocol.holdout_fraction)
    train, labels = _limited(data.train_images.numpy(), data.train_labels.numpy(), protocol)
    predict = {"holdout": (data.holdout_images, data.holdout_labels), "test": (data.test_images, data.test_labels)}
    predict_images, predict_labels = (part.numpy() for part in predict[protocol.part])
    if not len(predict_labels):
        raise UsageError(f"protocol {protocol.name!r} leaves no image in the holdout", "raise holdout_fraction")
    network = _pinned_network(protocol)
    channels = 3  # papers A and B feed three; grey images are repeated
    norm: Any = protocol.norm or tuple(part * (channels // len(part)) for part in (data.mean, data.std))
    content = f"{data.content_hash} {code_hash(network)}"
    protocol_hash, record = protocol.hash(content), protocol.meaning(content)
    sent = {"train_images": _enlarged(train), "train_labels": labels, "predict_images": _enlarged(predict_images)}
    meaning = (protocol, protocol_hash, record, data.classes, norm, network)
    return Proxy(*meaning, predict_labels, sent, device, threads)


class Evaluator:
    """Evaluates one candidate at a time, each in a confined process of its own; a context manager. ``stop``, from
    another thread, ends the evaluation that runs now; what it returns then means nothing."""

    def __init__(self, proxy: Proxy, shared: int | dict[str, np.ndarray]):
        self.proxy = proxy
        self._device = _device_name(proxy.device, proxy.threads)
        limits = Limits(
            wall_seconds=proxy.protocol.wall_seconds,
            cpu_seconds=math.ceil(proxy.protocol.wall_seconds * max(2, proxy.threads)),
            memory_mib=proxy.protocol.memory_mib,
        )
        sklearn: Any = find_spec("sklearn")
        answers = Path(sklearn.submodule_search_locations[0], "datasets", "data")  # the digits' labels
        warm = ("get_ready", {"device": proxy.device}) if proxy.gpu else None  # it also shows that CUDA starts at all
        threads, gpu = proxy.threads, proxy.gpu
        self.sandbox = Sandbox(limits, TASK, shared=shared, threads=threads, gpu=gpu, hidden=[answers], warm=warm)
        self.stop, self.close = self.sandbox.stop, self.sandbox.close

    def __enter__(self) -> Self:
        self.sandbox.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def evaluate(self, candidate: Candidate, seed: int) -> Outcome:
        """Check, train for one epoch, predict, score: an outcome, whatever the candidate does. ``seed``: of weights,
        batch order, dropout and augmentation. SandboxError says that the lab failed, not the candidate."""
        proxy, seed = self.proxy, int(seed)
        if seed < 0:
            raise UsageError(f"a seed is a whole number from 0 on, not {seed}", "choose another")
        base = Outcome(Status.NO_CODE, seed=seed, protocol_hash=proxy.protocol_hash, device=self._device)
        if candidate.kind != proxy.protocol.kind:
            raise UsageError(
                f"an {candidate.kind.value} cannot be evaluated under protocol {proxy.protocol.name!r}",
                f"use a protocol for {candidate.kind.value}s",
            )
        inspection = contract.check(candidate.code, candidate.kind)
        if inspection.status != Status.OK:
            return replace(base, status=inspection.status, message=inspection.message)
        payload = {"code": candidate.code, "network": proxy.network, "norm": proxy.norm, "classes": proxy.classes}
        payload |= {"protocol": proxy.protocol.as_dict(), "seed": seed}
        payload |= {"device": proxy.device, "gpu_fraction": proxy.gpu_fraction}
        expect = {"logits": ("float32", (len(proxy.labels), proxy.classes))}
        for _ in range(TRIES):
            report = self.sandbox.run("train_and_predict", payload, expect=expect)
            if report.status != Status.OUT_OF_MEMORY or not report.message.startswith(CROWDED):
                break  # the candidate's own doing; and where it says so wrongly, it gains nothing but another try
        return self._judge(base, report)

    def _judge(self, base: Outcome, report: Report) -> Outcome:
        """The outcome that a report amounts to. Its numbers beside the predictions are the child's word."""
        told = report.value if isinstance(report.value, dict) else {}
        stages = told.get("seconds")
        stages = stages if isinstance(stages, dict) else {}
        seconds = {name: float(stages[name]) for name in STAGES if _plausible(stages.get(name), int, float)}
        parameters = told.get("parameters") if _plausible(told.get("parameters"), int) else None
        score = None
        if report.status == Status.OK:
            score = float((report.arrays["logits"].argmax(axis=1) == self.proxy.labels).mean())
        return replace(
            base,
            status=report.status,
            score=score,
            parameters=parameters,
            seconds=seconds | {"total": report.seconds},
            message=report.message,
            traceback=report.traceback,
            isolation=report.isolation,
        )


def _plausible(value: Any, *kinds: type) -> bool:
    """Whether a number that a child reports can be filed: neither bool nor nan, and no larger than SQL's integers."""
    return type(value) in kinds and 0 <= value < 2**63


def _limited(images: np.ndarray, labels: np.ndarray, protocol: Protocol) -> tuple[np.ndarray, np.ndarray]:
    """The protocol's share of the training images: a fixed draw, in order."""
    if protocol.train_limit is None or protocol.train_limit >= len(labels):
        return images, labels
    chosen = generator("training images", protocol.split_seed).choice(len(labels), protocol.train_limit, replace=False)
    chosen.sort()
    return images[chosen], labels[chosen]


def _enlarged(images: np.ndarray) -> np.ndarray:
    """uint8 (N, 3, H, W) of at least ``LEAST_SIDE`` px: grey is repeated, small is enlarged as PIL does it."""
    import torch

    from nngpt_lab.candidates import batched_operations as operations

    side = max(LEAST_SIDE, images.shape[-1])
    enlarged = operations.resize(torch.from_numpy(np.ascontiguousarray(images)), side, side)
    return np.ascontiguousarray(enlarged.expand(-1, 3, -1, -1).numpy())


def _pinned_network(protocol: Protocol) -> str:
    """Code of the network that augmentations are scored with; empty for architectures."""
    if protocol.network is None:
        return ""
    if protocol.network in OWN_NETWORKS:
        return Path(__file__).with_name(OWN_NETWORKS[protocol.network]).read_text(encoding="utf-8")
    from nngpt_lab.corpora import architectures

    table = architectures.load().architectures
    source = table.loc[table["code_hash"] == protocol.network, "code"]
    if source.empty:
        raise DataError(f"LEMUR holds no network with code hash {protocol.network[:12]}", "run `nngpt-lab fetch` again")
    return source.iloc[0]


def _device_name(device: str, threads: int) -> str:
    """What outcomes are filed with; a UsageError if there is no such device."""
    import torch

    if device == "cpu":
        return f"cpu, {threads} thread{'s' * (threads != 1)}"
    kind, _, index = device.partition(":")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind != "cuda" or not (index or "0").isdigit() or int(index or 0) >= count:
        raise UsageError(
            f"there is no device {device!r} here", "use 'cpu', or a CUDA device that `nngpt-lab doctor` shows"
        )
    return torch.cuda.get_device_name(device)
