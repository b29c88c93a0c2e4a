"""Pictures to augment and steps to augment them with, for the tests of batched augmentations."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torchvision import transforms

from nngpt_lab.candidates.batched_steps import Step
from nngpt_lab.candidates.batched_transforms import batch_pipeline


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(height: int = 32, width: int = 32, n: int = 48) -> torch.Tensor:
    """Noise, smooth pictures, few levels, and flat ones: uint8 (n, 3, height, width)."""
    rng = np.random.default_rng(7)
    noise = rng.integers(0, 256, (n, 3, height, width))
    waves = rng.uniform(-0.4, 0.4, (2, n, 3, 1, 1))
    smooth = 128 + 127 * np.sin(waves[0] * np.arange(height)[:, None] + waves[1] * np.arange(width) + waves[1] * 9)
    few = rng.integers(90, 93, (n, 3, height, width))
    flat = np.broadcast_to(rng.integers(0, 256, (n, 3, 1, 1)), noise.shape)
    kinds = np.stack((noise, smooth.round(), few, flat))
    return torch.from_numpy(kinds[np.arange(n) % 4, np.arange(n)].astype(np.uint8))


def to_pil(image: torch.Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())


def from_pil(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def step_of(operation) -> Step:
    """The one step that an operation is recognised as."""
    (step,) = batch_pipeline(transforms.Compose([operation, transforms.ToTensor()])).steps
    return step
