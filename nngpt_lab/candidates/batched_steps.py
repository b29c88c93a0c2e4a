"""Paper A's random operations on batches: what is drawn for each image, and what is then done to it.

A step's ``draw`` gives every image parameters of its own, from the distribution of torchvision's ``get_params``; its
``apply`` needs nothing but them, so that a test can hand the same parameters to torchvision and compare pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from nngpt_lab.candidates import batched_operations as operations
from nngpt_lab.candidates.batched_operations import Images

Draws = tuple[torch.Tensor, ...]
"""CPU tensors with one row per image."""


class Step(Protocol):
    """One operation: what is random about it, and what it does then."""

    def draw(self, images: Images, generator: torch.Generator) -> Draws:
        """Parameters for each of the images, of which only the shape is looked at."""

    def apply(self, images: Images, *draws: torch.Tensor) -> Images:
        """The images after the operation with these parameters."""


def _uniform(n: int, span: Sequence[float], generator: torch.Generator) -> torch.Tensor:
    return torch.empty(n, dtype=torch.float32, device="cpu").uniform_(*span, generator=generator)


def _below(bounds: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Whole numbers, int64, uniform in [0, bound), in the shape of ``bounds``."""
    shares = torch.rand(bounds.shape, generator=generator, dtype=torch.float64, device="cpu")
    return (shares * bounds).long()


@dataclass(frozen=True)
class Fixed:
    """An operation without anything random."""

    operation: Callable[[Images], Images]

    def draw(self, images: Images, generator: torch.Generator) -> Draws:
        return ()

    def apply(self, images: Images) -> Images:
        return self.operation(images)


@dataclass(frozen=True)
class Sometimes:
    """A step that each image takes with probability ``p``."""

    p: float
    step: Step

    def draw(self, images: Images, generator: torch.Generator) -> Draws:
        """Chosen (N,), and the step's own draws."""
        chosen = _uniform(len(images), (0, 1), generator) < self.p
        return chosen, *self.step.draw(images, generator)

    def apply(self, images: Images, chosen: torch.Tensor, *draws: torch.Tensor) -> Images:
        return _where(chosen, self.step.apply, images, *draws)


def _where(chosen: torch.Tensor, operation: Callable[..., Images], images: Images, *draws: torch.Tensor) -> Images:
    """``operation`` on the chosen images (N,), with their rows of the draws; the others stay."""
    rows = chosen.nonzero()[:, 0]
    if not len(rows):
        return images
    draws = tuple(part[rows] for part in draws)
    if len(rows) == len(images):
        return operation(images, *draws)
    n = len(images)
    source = torch.arange(n)
    source[rows] = torch.arange(n, n + len(rows))
    changed = operation(images.index_select(0, operations.sent(rows, images.device)), *draws)
    source = operations.sent(source, images.device)
    return torch.cat((images, changed)).index_select(0, source)  # faster than index_copy


@dataclass(frozen=True)
class Perspective:
    """RandomPerspective: corners move inwards by up to ``distortion`` of half a side."""

    distortion: float
    fill: tuple[int, ...]

    def draw(self, images: Images, generator: torch.Generator) -> Draws:
        """The corners' moves (N, 4, 2) in x and y: top left, top right, bottom right, bottom left."""
        height, width = images.shape[2:]
        bounds = torch.tensor([int(self.distortion * (side // 2)) + 1 for side in (width, height)])
        return (_below(bounds.expand(len(images), 4, 2), generator),)

    def apply(self, images: Images, moves: torch.Tensor) -> Images:
        start, end = self.corners(images, moves)
        return operations.perspective(images, _homographies(start, end), self.fill)

    @staticmethod
    def corners(images: Images, moves: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Where the corners (x, y) are before, (4, 2), and after, (N, 4, 2)."""
        right, bottom = images.shape[3] - 1, images.shape[2] - 1
        start = torch.tensor([[0, 0], [right, 0], [right, bottom], [0, bottom]])
        return start, start + moves * torch.tensor([[1, 1], [-1, 1], [-1, -1], [1, -1]])


def _homographies(start: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
    """Coefficients (N, 8) that lead from ``end`` (N, 4, 2) to ``start`` (4, 2), solved and rounded like torchvision."""
    end, one, zero = end.double(), *(torch.full((len(end), 4, 1), value, dtype=torch.float64) for value in (1, 0))
    target = start.double().expand_as(end)
    for_x = torch.cat((end, one, zero, zero, zero, -target[..., :1] * end), dim=2)
    for_y = torch.cat((zero, zero, zero, end, one, -target[..., 1:] * end), dim=2)
    equations = torch.stack((for_x, for_y), dim=2).flatten(1, 2)
    solved = torch.linalg.lstsq(equations, target.reshape(-1, 8, 1), driver="gels").solution
    return solved[..., 0].float().double()


@dataclass(frozen=True)
class Crop:
    """RandomCrop, after its padding."""

    height: int
    width: int

    def draw(self, images: Images, generator: torch.Generator) -> Draws:
        """Top (N,) and left (N,)."""
        height, width = images.shape[2:]
        if height < self.height or width < self.width:
            sizes = f"{(self.height, self.width)} is larger than input image size {(height, width)}"
            raise ValueError(f"Required crop size {sizes}")
        bounds = torch.tensor([height - self.height + 1, width - self.width + 1])
        return _below(bounds.expand(len(images), 2), generator).unbind(1)

    def apply(self, images: Images, top: torch.Tensor, left: torch.Tensor) -> Images:
        return operations.crop(images, top, left, self.height, self.width)


@dataclass(frozen=True)
class ResizedCrop:
    """RandomResizedCrop: a box of random area (share of the image) and aspect ratio, resized."""

    height: int
    width: int
    scale: tuple[float, float]
    ratio: tuple[float, float]
    attempts: int = 10

    def draw(self, images: Images, generator: torch.Generator) -> Draws:
        """Boxes (N, 4): top, left, height, width."""
        (height, width), n = images.shape[2:], len(images)
        areas = height * width * _uniform(n * self.attempts, self.scale, generator).double()
        aspects = _uniform(n * self.attempts, torch.tensor(self.ratio).log().tolist(), generator).exp().double()
        tried = torch.stack(((areas / aspects).sqrt().round(), (areas * aspects).sqrt().round()), dim=1).long()
        tried = tried.view(n, self.attempts, 2)
        space = torch.tensor([height, width])
        fits = ((tried > 0) & (tried <= space)).all(2)
        sizes = tried[torch.arange(n), fits.int().argmax(1)]  # the first that fits
        any_fits = fits.any(1, keepdim=True)
        fallback = torch.tensor(self._fallback(height, width))
        sizes = torch.where(any_fits, sizes, fallback)
        corners = torch.where(any_fits, _below((space - sizes + 1).clamp(min=1), generator), (space - fallback) // 2)
        return (torch.cat((corners, sizes), dim=1),)

    def _fallback(self, height: int, width: int) -> tuple[int, int]:
        """Height and width where no attempt fits: the largest central box of an allowed ratio."""
        if width / height < min(self.ratio):
            return round(width / min(self.ratio)), width
        if width / height > max(self.ratio):
            return height, round(height * max(self.ratio))
        return height, width

    def apply(self, images: Images, boxes: torch.Tensor) -> Images:
        return operations.resized_crop(images, boxes, self.height, self.width)


@dataclass(frozen=True)
class Affine:
    """RandomAffine and, with angles alone, RandomRotation (which turns the other way round)."""

    degrees: tuple[float, float]
    translate: tuple[float, float]
    scale: tuple[float, float]
    shear: tuple[float, float, float, float]
    fill: tuple[int, ...]
    clockwise: bool = True

    def draw(self, images: Images, generator: torch.Generator) -> Draws:
        """Angle (degrees), translation in x and y (px), scale, shear in x and y (degrees): float64 (N,) each."""
        height, width = images.shape[2:]
        reach = self.translate[0] * width, self.translate[1] * height
        spans = (self.degrees, (-reach[0], reach[0]), (-reach[1], reach[1]), self.scale, self.shear[:2], self.shear[2:])
        angle, x, y, scale, *shear = (_uniform(len(images), span, generator).double() for span in spans)
        return angle, x.round(), y.round(), scale, *shear

    def apply(self, images: Images, angle: torch.Tensor, x, y, scale, shear_x, shear_y) -> Images:
        centre = images.shape[3] / 2, images.shape[2] / 2
        angle = angle if self.clockwise else -angle
        return operations.affine(images, _inverse_affine(centre, angle, x, y, scale, shear_x, shear_y), self.fill)


def _inverse_affine(centre: tuple[float, float], angle, x, y, scale, shear_x, shear_y) -> torch.Tensor:
    """Matrices (N, 6) from output to input of: shear, scale and rotate about the centre, then translate."""
    turn, shear_x, shear_y = (torch.deg2rad(part) for part in (angle, shear_x, shear_y))
    a = torch.cos(turn - shear_y) / torch.cos(shear_y)
    b = -a * torch.tan(shear_x) - torch.sin(turn)
    c = torch.sin(turn - shear_y) / torch.cos(shear_y)
    d = -c * torch.tan(shear_x) + torch.cos(turn)
    a, b, c, d = d / scale, -b / scale, -c / scale, a / scale
    e = a * (-centre[0] - x) + b * (-centre[1] - y) + centre[0]
    f = c * (-centre[0] - x) + d * (-centre[1] - y) + centre[1]
    return torch.stack((a, b, e, c, d, f), dim=1)


@dataclass(frozen=True)
class Jitter:
    """ColorJitter: brightness, contrast, saturation and hue, in an order of each image's own."""

    spans: tuple[tuple[float, float] | None, ...]
    OPERATIONS = (operations.brightness, operations.contrast, operations.saturation, operations.hue)

    def draw(self, images: Images, generator: torch.Generator) -> Draws:
        """The order (N, 4) of the operations' indices, and their factors, float32 (N,); 0 for one that is off."""
        order = torch.rand(len(images), 4, generator=generator, dtype=torch.float64, device="cpu").argsort(1)
        return order, *(_uniform(len(images), span or (0, 0), generator) for span in self.spans)

    def apply(self, images: Images, order: torch.Tensor, *factors: torch.Tensor) -> Images:
        for turn in range(4):
            for index, (operation, span) in enumerate(zip(self.OPERATIONS, self.spans, strict=True)):
                if span is not None:
                    images = _where(order[:, turn] == index, operation, images, factors[index])
        return images


@dataclass(frozen=True)
class Blur:
    """GaussianBlur by a kernel of ``size`` (width, height) px."""

    size: tuple[int, int]
    sigma: tuple[float, float]

    def draw(self, images: Images, generator: torch.Generator) -> Draws:
        """Sigma (N,), px."""
        return (_uniform(len(images), self.sigma, generator),)

    def apply(self, images: Images, sigma: torch.Tensor) -> Images:
        return operations.gaussian_blur(images, self.size, sigma)
