"""Random augmentation functions, as the authors' generator draws them: the control that has no language model.

One to three of 19 operations, in random order and without repetition, each with random parameters, then the fixed
Resize, ToTensor and Normalize. Re-implemented from the operations and ranges of paper A's ``GenerateTransform.py``
(nn-gpt 1.0.6); what ranges leave open (rounding, intervals within which pairs lie) is as in its 6,000 functions.

The code is laid out as ``ast.unparse`` does it, so that it can be compared with other tidied code by its text.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nngpt_lab.corpora.augmentations import OPERATIONS

MOST = 3  # operations of a function
SIDE = 64  # px of the fixed Resize
TAIL = (f"Resize(({SIDE}, {SIDE}))", "ToTensor()", "Normalize(*norm)")
FRAME = """import torch
import torchvision.transforms as transforms

def transform(norm):
    return transforms.Compose([{}])"""
Draw = Callable[[np.random.Generator], object]


def generate(rng: np.random.Generator) -> str:
    """The code of one function; with one to three operations, equally likely."""
    used = rng.choice(OPERATIONS, rng.integers(1, MOST + 1), replace=False)
    return function(*(_call(name, rng) for name in used.tolist()))


def function(*calls: str) -> str:
    """``transform(norm)`` of the given operations, each as it is called, and the fixed tail.

    >>> print(function("RandomInvert(p=0.5)").splitlines()[-1].strip()[:60])
    return transforms.Compose([transforms.RandomInvert(p=0.5), t
    """
    return FRAME.format(", ".join(f"transforms.{call}" for call in (*calls, *TAIL)))


def _call(name: str, rng: np.random.Generator) -> str:
    return f"{name}({', '.join(f'{key}={draw(rng)!r}' for key, draw in RANGES[name].items())})"


def _whole(low: int, high: int) -> Draw:
    return lambda rng: int(rng.integers(low, high + 1))


def _real(low: float, high: float) -> Draw:
    return lambda rng: round(float(rng.uniform(low, high)), 2)


def _one_of(*values: object) -> Draw:
    return lambda rng: values[rng.integers(len(values))]


def _each(*draws: Draw) -> Draw:
    return lambda rng: tuple(draw(rng) for draw in draws)


CHANCE = {"p": _real(0.1, 0.9)}
RANGES: dict[str, dict[str, Draw]] = {
    "CenterCrop": {"size": _whole(24, 32)},
    "ColorJitter": dict.fromkeys(("brightness", "contrast", "saturation"), _real(0.8, 1.2)) | {"hue": _real(0, 0.1)},
    "GaussianBlur": {"kernel_size": _one_of(3, 5), "sigma": _each(_real(0.1, 1.0), _real(1.0, 2.0))},
    "Grayscale": {"num_output_channels": _one_of(3)},
    "Pad": {
        "padding": _whole(0, 5),
        "fill": _each(*[_whole(0, 255)] * 3),
        "padding_mode": _one_of("constant", "edge", "reflect", "symmetric"),
    },
    "RandomAdjustSharpness": {"sharpness_factor": _real(0.5, 2.0)} | CHANCE,
    "RandomAffine": {
        "degrees": _whole(0, 30),
        "translate": _each(*[_real(0, 0.2)] * 2),
        "scale": _each(_real(0.8, 1.2), _real(1.2, 2.0)),
        "shear": _each(_real(0, 5), _real(5, 10)),
    },
    "RandomAutocontrast": CHANCE,
    "RandomCrop": {"size": _whole(24, 32)},
    "RandomEqualize": CHANCE,
    "RandomGrayscale": CHANCE,
    "RandomHorizontalFlip": CHANCE,
    "RandomInvert": CHANCE,
    "RandomPerspective": {"distortion_scale": _real(0.1, 0.3)} | CHANCE,
    "RandomPosterize": {"bits": _whole(4, 8)} | CHANCE,
    "RandomResizedCrop": {
        "size": _one_of(32),
        "scale": _each(_real(0.5, 0.8), _real(0.8, 1.0)),
        "ratio": _each(_real(0.75, 1.33), _real(1.33, 3.0)),
    },
    "RandomRotation": {"degrees": _whole(0, 30)},
    "RandomSolarize": {"threshold": _whole(0, 255)} | CHANCE,
    "RandomVerticalFlip": CHANCE,
}
"""Operation -> parameter -> how it is drawn; reals have two decimals, both ends of a range can be met."""


POLICIES = {
    "no augmentation": function(),
    "RandAugment": function("RandAugment()"),
    "TrivialAugmentWide": function("TrivialAugmentWide()"),
    "AutoAugment": function("AutoAugment(transforms.AutoAugmentPolicy.CIFAR10)"),
}
"""torchvision's own policies with its default settings, and no augmentation, as candidates under the same contract."""
