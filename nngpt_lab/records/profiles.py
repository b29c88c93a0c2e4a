"""Profiles: one code path, four sizes. A profile is data; no experiment asks which one it is in.

Recorded evidence (the authors' published data) is used in full by every profile but ``smoke``, which draws a sample of
it where the work grows with it: paper C's baselines, and the novelty ablation. What differs otherwise is how finely the
uncertainty is resolved and, in the notebooks that train something, what is trained on what.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from nngpt_lab.ground.errors import UsageError
from nngpt_lab.ground.names import named


@dataclass(frozen=True)
class LoopSize:
    """A paper's loop: its numbers by the name of a design of the paper's room, which arms run (names separated by
    commas, or ``all``), and with how many seeds each."""

    design: str
    arms: str
    seeds: int


@dataclass(frozen=True)
class ArchitectureLoop(LoopSize):
    """Paper B. ``settings``: what the ablation changes. ``sources``: how many sources of each corpus the novelty
    ablation compares; more than there are means all. ``transfer``: how many networks of each model are trained on other
    data sets, at most."""

    settings: str
    sources: int
    transfer: int = 32


@dataclass(frozen=True)
class AugmentationSearch(LoopSize):
    """Paper A. ``replay``: the replayed search's numbers, by a name of ``replay.py``. ``policy_seeds``: with how many
    seeds torchvision's policies are trained beside the loop; 0: not at all."""

    replay: str
    policy_seeds: int


@dataclass(frozen=True)
class DatasetPrediction:
    """Paper C. ``seeds``: splits and balanced sets of the baselines. ``architectures``: how many are drawn for the
    baselines to answer about; more than there are means all. ``rounds``: of boosting. ``design``: the language models'
    numbers, by name; ``llm_seeds``: with how many seeds each is tuned."""

    seeds: int
    design: str
    llm_seeds: int
    architectures: int = 20_000
    rounds: int = 40


@dataclass(frozen=True)
class DeltaSearch(LoopSize):
    """Paper D. ``pairs``: of how many pairs of networks the training target is measured; ``edits``: how many damaged
    edits go through the appliers; ``formats``: of edits that the language model is asked for."""

    pairs: int
    edits: int
    formats: str


@dataclass(frozen=True)
class Walkthroughs:
    """``pretraining``: how the nano coder is retrained, by a name of ``walkthroughs/nano_coder.py``. ``networks`` and
    ``functions``: how many published ones are evaluated, under ``protocol`` and ``augmentation_protocol``, names of
    ``candidates/protocols.py``."""

    pretraining: str
    networks: int
    protocol: str
    functions: int
    augmentation_protocol: str


@dataclass(frozen=True)
class Tour:
    """Paper B's loop as the tour shows it: its numbers by the name of a design, but with these cycles and samples."""

    design: str
    cycles: int
    samples: int


@dataclass(frozen=True)
class Profile:
    """One size of run: what it needs of a machine, then a size for each paper.

    Attributes:
        name: what ``--profile`` takes.
        purpose: one line for ``--help`` and ``doctor``.
        device: what candidates are trained on.
        gpu_memory_gib: CUDA device memory it needs, GiB; 0: it needs no such device.
        disk_gib: free disk it needs in the cache, GiB (published data, models, images).
        bootstrap_resamples: resamples behind each bootstrap interval. 100 show the size of an interval, 1,000 its
            ends to about 5 % of its width, 10,000 to about 2 % (Efron & Tibshirani 1993, ch. 13).
    """

    name: str
    purpose: str
    device: str
    gpu_memory_gib: float
    disk_gib: float
    bootstrap_resamples: int
    architecture_loop: ArchitectureLoop
    augmentation_search: AugmentationSearch
    dataset_prediction: DatasetPrediction
    delta_search: DeltaSearch
    walkthroughs: Walkthroughs
    tour: Tour = Tour("nano-tour", cycles=5, samples=24)

    def on(self, device: str | None) -> Profile:
        """The same on another device, a CPU without any demand on a GPU's memory; itself for None. UsageError if there
        is no such kind of device."""
        if device is None:
            return self
        if device.partition(":")[0] == "mps":
            cause = (
                "candidates are not trained on mps: the sandbox has no way to Apple's GPU, and no part was tried on it"
            )
            raise UsageError(cause, "use cpu, or cuda on a machine with an NVIDIA GPU")
        if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
            raise UsageError(f"there is no device {device!r}", "use cpu, cuda or cuda:1; None is the profile's own")
        return replace(self, device=device, gpu_memory_gib=0 if device == "cpu" else self.gpu_memory_gib)


TWO_ARMS = "loop, no tuning"
UNTUNED_ARMS = "no tuning, random mutation"
TUNED_ARMS = f"static corpus, {UNTUNED_ARMS}"
TWO_FORMATS = "whole_file, unified_diff"
SETTINGS = "temperature, threshold, rank, epochs, novelty"
EVERY_SOURCE = 20_000  # LEMUR has 10,482
PUBLISHED = Walkthroughs("nano-coder", networks=500, protocol="paper-b", functions=300, augmentation_protocol="paper-a")

SMOKE = Profile(
    "smoke",
    "the notebooks' own defaults: checks that everything runs, on any CPU, under a minute each",
    device="cpu",
    gpu_memory_gib=0,
    disk_gib=1,
    bootstrap_resamples=100,
    architecture_loop=ArchitectureLoop("nano-smoke", TWO_ARMS, seeds=1, settings="epochs", sources=60, transfer=2),
    augmentation_search=AugmentationSearch("nano-augment-smoke", TWO_ARMS, seeds=1, replay="smoke", policy_seeds=0),
    dataset_prediction=DatasetPrediction(seeds=1, design="nano-c-smoke", llm_seeds=1, architectures=150, rounds=3),
    delta_search=DeltaSearch("nano-delta-smoke", TUNED_ARMS, seeds=1, pairs=180, edits=45, formats=TWO_FORMATS),
    walkthroughs=Walkthroughs(
        "tiny", networks=3, protocol="digits", functions=2, augmentation_protocol="digits-augmentation"
    ),
    tour=Tour("nano-smoke", cycles=2, samples=4),
)
DEMO = Profile(
    "demo",
    "the published data in full and the papers' loops, on a laptop CPU, in about ten minutes",
    device="cpu",
    gpu_memory_gib=0,
    disk_gib=2,
    bootstrap_resamples=1000,
    architecture_loop=ArchitectureLoop("nano", "loop", seeds=1, settings=SETTINGS, sources=EVERY_SOURCE),
    augmentation_search=AugmentationSearch("nano-augment", TWO_ARMS, seeds=1, replay="demo", policy_seeds=1),
    dataset_prediction=DatasetPrediction(seeds=5, design="nano-c", llm_seeds=1),
    delta_search=DeltaSearch("nano-delta", UNTUNED_ARMS, seeds=1, pairs=5_400, edits=1_000, formats=TWO_FORMATS),
    walkthroughs=Walkthroughs(
        "nano-coder", networks=100, protocol="digits", functions=40, augmentation_protocol="digits-augmentation"
    ),
)
GPU = Profile(
    "gpu",
    "ablations and several seeds, on one CUDA device, hours a paper",
    device="cuda",
    gpu_memory_gib=8,
    disk_gib=20,
    bootstrap_resamples=2000,
    architecture_loop=ArchitectureLoop("small-gpu", "all", seeds=3, settings=SETTINGS, sources=EVERY_SOURCE),
    augmentation_search=AugmentationSearch("small-augment", "all", seeds=3, replay="full", policy_seeds=3),
    dataset_prediction=DatasetPrediction(seeds=5, design="small-gpu-c", llm_seeds=5),
    delta_search=DeltaSearch("small-delta", TUNED_ARMS, seeds=1, pairs=200_000, edits=1_000, formats="all"),
    walkthroughs=PUBLISHED,
)
PAPER = Profile(
    "paper",
    "the papers' own protocols, number by number, on one CUDA device with 24 GB or more",
    device="cuda",
    gpu_memory_gib=22,
    disk_gib=80,
    bootstrap_resamples=10_000,
    architecture_loop=ArchitectureLoop("paper-b", TWO_ARMS, seeds=1, settings=SETTINGS, sources=EVERY_SOURCE),
    augmentation_search=AugmentationSearch("paper-a", TWO_ARMS, seeds=1, replay="full", policy_seeds=3),
    dataset_prediction=DatasetPrediction(seeds=5, design="paper-c", llm_seeds=1),
    delta_search=DeltaSearch("paper-d", "all", seeds=1, pairs=200_000, edits=1_000, formats=TWO_FORMATS),
    walkthroughs=PUBLISHED,
)
PROFILES = {profile.name: profile for profile in (SMOKE, DEMO, GPU, PAPER)}


def get_profile(name: str) -> Profile:
    """The profile of that name; a UsageError that names the nearest one if there is none."""
    return named("profile", name, PROFILES)
