"""Profiles: one code path, four sizes. A profile is data; no experiment asks which one it is in.

Recorded evidence (the authors' published data) is used in full by every profile. What differs is how finely the
uncertainty is resolved and, in the notebooks that train something, what is trained on what.
"""

from __future__ import annotations

from dataclasses import dataclass

from nngpt_lab.ground.names import named


@dataclass(frozen=True)
class Profile:
    """One size of run.

    Attributes:
        name: what ``--profile`` takes.
        purpose: one line for ``--help`` and ``doctor``.
        llm: the language models the profile uses, by the names of ``llm/models.py``.
        images: the image data sets it trains on.
        needs_gpu: whether it needs a CUDA device.
        gpu_memory_gib: device memory it needs, GiB.
        disk_gib: free disk it needs in the cache, GiB (published data, models, images).
        minutes: rough wall-clock time of all notebooks on the profile's hardware.
        bootstrap_resamples: resamples behind each bootstrap interval. 100 show the size of an interval, 1,000 its
            ends to about 5 % of its width, 10,000 to about 2 % (Efron & Tibshirani 1993, ch. 13).
        seeds: seeds of everything that is random in an analysis (splits, balanced sets, classifiers).
        protocol, augmentation_protocol: how networks and augmentations are scored, by the names of
            ``candidates/protocols.py``.
        device: what candidates are trained on.
        design, arms, loop_seeds: paper B's loop: its numbers, by the names of ``papers/architecture_loop/design.py``;
            which arms run, and with how many seeds.
        loop_settings: which of its settings the ablation changes.
        replay: size of paper A's replayed search, by the names of ``papers/augmentation_search/replay.py``.
        augmentation_design, live_arms, live_seeds: paper A's live loop, by the names of
            ``papers/augmentation_search/design.py``; which arms run, and with how many seeds.
        policy_seeds: with how many seeds torchvision's policies are trained beside it; 0: not at all.
        dataset_design, llm_seeds: paper C's models (``papers/dataset_prediction/design.py``), and with how many seeds.
        pretraining: how the nano coder is retrained, by the names of ``walkthroughs/nano_coder.py``.
        networks, functions: how many published ones the walkthrough evaluates.
        sources: how many sources of each corpus the novelty ablation compares; more than there are means all.
    """

    name: str
    purpose: str
    llm: tuple[str, ...]
    images: tuple[str, ...]
    needs_gpu: bool
    gpu_memory_gib: float
    disk_gib: float
    minutes: int
    bootstrap_resamples: int
    seeds: int
    protocol: str
    augmentation_protocol: str
    device: str
    design: str
    arms: str
    loop_seeds: int
    loop_settings: str
    replay: str
    augmentation_design: str
    live_arms: str
    live_seeds: int
    policy_seeds: int
    dataset_design: str
    llm_seeds: int
    pretraining: str
    networks: int
    functions: int
    sources: int


PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            "smoke",
            "the notebooks' own defaults: checks that everything runs, on any CPU, under a minute each",
            llm=("nano-coder",),
            images=("digits",),
            needs_gpu=False,
            gpu_memory_gib=0,
            disk_gib=1,
            minutes=3,
            bootstrap_resamples=100,
            seeds=1,
            protocol="digits",
            augmentation_protocol="digits-augmentation",
            device="cpu",
            design="nano-smoke",
            arms="loop, no tuning",
            loop_seeds=1,
            loop_settings="epochs",
            replay="smoke",
            augmentation_design="nano-augment-smoke",
            live_arms="loop, no tuning",
            live_seeds=1,
            policy_seeds=0,
            dataset_design="nano-c-smoke",
            llm_seeds=1,
            pretraining="tiny",
            networks=16,
            functions=4,
            sources=200,
        ),
        Profile(
            "demo",
            "the published data in full and the papers' loops, on a laptop CPU, about a quarter of an hour",
            llm=("nano-coder", "SmolLM2-135M"),
            images=("digits",),
            needs_gpu=False,
            gpu_memory_gib=0,
            disk_gib=2,
            minutes=15,
            bootstrap_resamples=1000,
            seeds=1,
            protocol="digits",
            augmentation_protocol="digits-augmentation",
            device="cpu",
            design="nano",
            arms="loop",
            loop_seeds=1,
            loop_settings="temperature, threshold, rank, epochs, novelty",
            replay="demo",
            augmentation_design="nano-augment",
            live_arms="loop, no tuning",
            live_seeds=1,
            policy_seeds=1,
            dataset_design="nano-c",
            llm_seeds=1,
            pretraining="nano-coder",
            networks=100,
            functions=40,
            sources=20_000,
        ),
        Profile(
            "gpu",
            "ablations and several seeds, on one CUDA device, about an hour a paper",
            llm=("SmolLM2-135M", "Qwen2.5-Coder-0.5B", "Qwen2.5-Coder-1.5B"),
            images=("cifar-10",),
            needs_gpu=True,
            gpu_memory_gib=8,
            disk_gib=20,
            minutes=180,
            bootstrap_resamples=2000,
            seeds=5,
            protocol="paper-b",
            augmentation_protocol="paper-a",
            device="cuda",
            design="small-gpu",
            arms="all",
            loop_seeds=3,
            loop_settings="temperature, threshold, rank, epochs, novelty",
            replay="full",
            augmentation_design="small-augment",
            live_arms="all",
            live_seeds=3,
            policy_seeds=3,
            dataset_design="small-gpu-c",
            llm_seeds=5,
            pretraining="nano-coder",
            networks=500,
            functions=300,
            sources=20_000,
        ),
        Profile(
            "paper",
            "the papers' own protocols, number by number, on one CUDA device with 24 GB or more",
            llm=("DeepSeek-Coder-7B", "DeepSeek-Coder-1.3B", "OlympicCoder-7B"),
            images=("cifar-10", "cifar-100", "svhn"),
            needs_gpu=True,
            gpu_memory_gib=22,
            disk_gib=80,
            minutes=7200,
            bootstrap_resamples=10000,
            seeds=5,
            protocol="paper-b",
            augmentation_protocol="paper-a",
            device="cuda",
            design="paper-b",
            arms="loop, no tuning",
            loop_seeds=1,
            loop_settings="temperature, threshold, rank, epochs, novelty",
            replay="full",
            augmentation_design="paper-a",
            live_arms="loop, no tuning",
            live_seeds=1,
            policy_seeds=3,
            dataset_design="paper-c",
            llm_seeds=1,
            pretraining="nano-coder",
            networks=500,
            functions=300,
            sources=20_000,
        ),
    )
}


def get_profile(name: str) -> Profile:
    """The profile of that name; a UsageError that names the nearest one if there is none."""
    return named("profile", name, PROFILES)
