"""Paper A's ``transform(norm)`` on whole batches, without changing what it means.

The authors apply a torchvision ``Compose`` to one PIL image at a time. :func:`batch_pipeline` recognises its operations
and does the same to a batch: every image has draws of its own, from the same distributions, and the arithmetic is PIL's
(:mod:`nngpt_lab.candidates.batched_operations`). Whatever it does not know goes through :func:`pil_pipeline`, the
faithful path. Given the same draws, batched results on a CPU equal torchvision's on PIL images bit by bit, except that
GaussianBlur differs by one grey level in 13 of a million values of CIFAR-10 (``tests/candidates``; Pillow 13,
torchvision 0.24). On a GPU, which divides by reciprocals, ToTensor and Normalize may differ in the last digit.

Known, as torchvision.transforms (v1) has them: bilinear Resize, RandomResizedCrop and RandomPerspective; RandomRotation
and RandomAffine without interpolation; the 15 other operations of
:data:`nngpt_lab.corpora.augmentations.OPERATIONS`; then ToTensor and Normalize. Not batched: other operations,
subclasses, operations whose attributes were tampered with, other interpolations, ``expand`` and ``center``, one-channel
Grayscale, unusual or invalid parameters.

Only the *distribution* of the draws equals torchvision's, not their sequence: a seed gives other images than it would
give there. Everything is drawn on the CPU, so that a seed draws the same on every device.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from nngpt_lab.candidates import batched_operations as operations
from nngpt_lab.candidates import batched_steps as steps
from nngpt_lab.candidates.batched_operations import Images
from nngpt_lab.candidates.batched_steps import Fixed, Sometimes, Step
from nngpt_lab.ground.errors import UsageError


@dataclass(frozen=True)
class Batched:
    """A recognised pipeline: steps on levels, then ToTensor, then one Normalize (mean, std) after another."""

    steps: tuple[Step, ...]
    norms: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...]

    def __call__(self, images: Images, generator: torch.Generator) -> torch.Tensor:
        """Transform each image (uint8 (N, 3, H, W), on any device) with draws of its own: float32 (N, 3, h, w) there.
        The same state of the CPU ``generator`` gives the same draws whatever the device. UsageError: ``images`` is
        something else; ValueError: a crop is larger than its image, worded as by torchvision."""
        _check_images(images)
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            for step in self.steps:
                images = step.apply(images, *step.draw(images, generator))
            values = images.to(torch.float32).div_(255)
            for norm in self.norms:
                mean, std = (operations.channels(part, torch.float32, values.device) for part in norm)
                values.sub_(mean).div_(std)
        return values


def pil_pipeline(transform: Callable[[Image.Image], torch.Tensor], images: Images) -> torch.Tensor:
    """Image by image through PIL, as torchvision's CIFAR-10 hands them out (mode RGB), with draws from the global
    states of torch and ``random``, which the caller seeds.

    ``images``: uint8 (N, 3, H, W), on any device. Returns what ``transform`` gives, stacked, on that device: float32
    (N, C, h, w) if it ends in ToTensor. Raises UsageError if ``images`` is something else, torch's RuntimeError or
    TypeError where results cannot be stacked, and whatever ``transform`` raises.
    """
    _check_images(images)
    pixels = images.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return torch.stack([transform(Image.fromarray(image)) for image in pixels]).to(images.device)


def _check_images(images: Any) -> None:
    if not isinstance(images, torch.Tensor) or images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise UsageError("these are no images to augment", "give a uint8 tensor of shape (N, 3, H, W)")


# --- recognition ------------------------------------------------------------------------------------------------------


class Unknown(Exception):
    """This is to go through PIL."""


def batch_pipeline(transform: Any) -> Batched | None:
    """What a ``transform(norm)`` returned, for batches; None if :func:`pil_pipeline` must do it. The object comes from
    code that may be hostile: only exact types count, and only attributes that their own constructors set. Nothing of
    the object is called."""
    try:
        flat = list(_flat(transform))
        places = [i for i, operation in enumerate(flat) if type(operation) is transforms.ToTensor]
        _need(len(places) == 1 and not vars(flat[places[0]]))
        on_levels, on_values = flat[: places[0]], flat[places[0] + 1 :]
        recognised = tuple(step for operation in on_levels for step in _recognise(operation, STEPS))
        norms = tuple(_recognise(operation, {transforms.Normalize: _norm}) for operation in on_values)
        return Batched(recognised, norms)
    except Unknown:
        return None


def _need(condition: bool) -> None:
    if not condition:
        raise Unknown


def _flat(transform: Any) -> Iterator[Any]:
    """The operations of a Compose and of those within it."""
    _need(type(transform) is transforms.Compose and vars(transform).keys() == {"transforms"})
    _need(type(transform.transforms) in (list, tuple))
    for operation in transform.transforms:
        if type(operation) is transforms.Compose:
            yield from _flat(operation)
        else:
            yield operation


def _recognise(operation: Any, table: dict[type, Callable]) -> Any:
    """What the table makes of the operation's attributes, which must be those that the table's function names."""
    _need(type(operation) in table)
    recognise = table[type(operation)]
    of_module = vars(torch.nn.Module())
    attributes = {name: value for name, value in vars(operation).items() if name not in of_module}
    _need(attributes.keys() == inspect.signature(recognise).parameters.keys())  # a method put on it would be one more
    _need(all(not value for name, value in vars(operation).items() if name in of_module and name != "training"))
    return recognise(**attributes)


# --- checks of attributes; types are compared, not asked, since a subclass may answer what it likes -------------------


def _number(value: Any, low: float = -math.inf, high: float = math.inf) -> float:
    _need(type(value) in (int, float) and math.isfinite(value) and low <= value <= high)
    return value


def _whole(value: Any, low: int, high: int = 4096) -> int:
    _need(type(value) is int and low <= value <= high)
    return value


def _sequence(value: Any, *lengths: int) -> tuple:
    _need(type(value) in (list, tuple) and len(value) in lengths)
    return tuple(value)


def _span(value: Any, low: float = -math.inf, high: float = math.inf) -> tuple[float, float]:
    first, last = (_number(part, low, high) for part in _sequence(value, 2))
    _need(first <= last)
    return first, last


def _size(value: Any) -> tuple[int, int]:
    height, width = (_whole(part, 1) for part in _sequence(value, 2))
    return height, width


def _fill(value: Any) -> tuple[int, ...]:
    """Red, green and blue as PIL takes them: cut off to whole levels."""
    colours = _sequence(value, 1, 3) if type(value) in (list, tuple) else (value,)
    levels = tuple(int(_number(level, 0, 255)) for level in colours)
    return levels * 3 if len(levels) == 1 else levels


def _borders(value: Any) -> tuple[int, ...]:
    """Left, top, right, bottom, px, from torchvision's short forms."""
    given = _sequence(value, 1, 2, 4) if type(value) in (list, tuple) else (value,)
    return tuple(_whole(part, 0) for part in given * (4 // len(given)))


# --- one function for each of torchvision's classes; its parameters are that class's attributes -----------------------


def _norm(mean, std, inplace) -> tuple[tuple[float, ...], tuple[float, ...]]:
    mean, std = (tuple(_number(part) for part in _sequence(values, 3)) for values in (mean, std))
    _need(all(torch.tensor(std, dtype=torch.float32)))
    return mean, std


def _resize(size, interpolation, max_size, antialias) -> tuple[Step, ...]:
    _need(interpolation is InterpolationMode.BILINEAR and max_size is None)  # PIL is always antialiased
    if type(size) in (list, tuple) and len(size) == 2:
        height, width = _size(size)
        return _fixed(operations.resize, height=height, width=width)
    (size,) = _sequence(size, 1) if type(size) in (list, tuple) else (size,)
    return _fixed(_resize_shorter, side=_whole(size, 1))


def _resize_shorter(images: Images, side: int) -> Images:
    """The shorter side to ``side`` px, the longer one in proportion."""
    height, width = images.shape[2:]
    longer = int(side * max(height, width) / min(height, width))
    return operations.resize(images, *((longer, side) if width <= height else (side, longer)))


def _pad(padding, fill, padding_mode) -> tuple[Step, ...]:
    _need(type(padding_mode) is str and padding_mode in ("constant", "edge", "reflect", "symmetric"))
    colours = _fill(fill) if padding_mode == "constant" else ()
    return _fixed(operations.pad, borders=_borders(padding), mode=padding_mode, fill=colours)


def _crop_centre(images: Images, size: tuple[int, int]) -> Images:
    """The middle; black where the image is smaller."""
    down, across = (max(wanted - had, 0) for wanted, had in zip(size, images.shape[2:], strict=True))
    if down or across:
        borders = (across // 2, down // 2, (across + 1) // 2, (down + 1) // 2)
        images = operations.pad(images, borders, "constant", (0, 0, 0))
    top, left = (round((had - wanted) / 2) for wanted, had in zip(size, images.shape[2:], strict=True))
    return images[:, :, top : top + size[0], left : left + size[1]]


def _random_crop(size, padding, pad_if_needed, fill, padding_mode) -> tuple[Step, ...]:
    _need(pad_if_needed is False)
    padded = () if padding is None else _pad(padding, fill, padding_mode)
    return (*padded, steps.Crop(*_size(size)))


def _resized_crop(size, scale, ratio, interpolation, antialias) -> tuple[Step, ...]:
    _need(interpolation is InterpolationMode.BILINEAR)
    return (steps.ResizedCrop(*_size(size), _span(scale, 0), _span(ratio, 1e-3)),)


def _rotation(degrees, center, interpolation, expand, fill) -> tuple[Step, ...]:
    _need(interpolation is InterpolationMode.NEAREST and expand is False and center is None)
    return (steps.Affine(_span(degrees), (0, 0), (1, 1), (0, 0, 0, 0), _fill(fill), clockwise=False),)


def _affine(degrees, translate, scale, shear, interpolation, fill, center) -> tuple[Step, ...]:
    _need(interpolation is InterpolationMode.NEAREST and center is None)
    translate = (0, 0) if translate is None else tuple(_number(part, 0, 1) for part in _sequence(translate, 2))
    scale = (1, 1) if scale is None else _span(scale, 0.1)  # these bounds keep 500 px within PIL's fixed point
    shear = (0, 0) if shear is None else _sequence(shear, 2, 4)
    shear = _span(shear[:2], -60, 60) + _span(shear[2:] or (0, 0), -60, 60)
    degrees = _span(degrees)
    _need(any((*degrees, *shear)))  # PIL has other arithmetic for scaling alone
    return (steps.Affine(degrees, translate, scale, shear, _fill(fill)),)


def _perspective(p, interpolation, distortion_scale, fill) -> tuple[Step, ...]:
    _need(interpolation is InterpolationMode.BILINEAR)
    return (Sometimes(_number(p), steps.Perspective(_number(distortion_scale, 0, 0.9), _fill(fill))),)


def _jitter(brightness, contrast, saturation, hue) -> tuple[Step, ...]:
    spans = [None if span is None else _span(span, 0) for span in (brightness, contrast, saturation)]
    return (steps.Jitter((*spans, None if hue is None else _span(hue, -0.5, 0.5))),)


def _blur(kernel_size, sigma) -> tuple[Step, ...]:
    width, height = _size(kernel_size)  # this class alone has the width first
    _need(height % 2 == width % 2 == 1)
    return (steps.Blur((width, height), _span(sigma, 1e-3)),)


def _grayscale(num_output_channels) -> tuple[Step, ...]:
    _whole(num_output_channels, 3, 3)
    return _fixed(operations.grayscale)


def _sometimes(p: Any, operation: Callable[..., Images], **constants: Any) -> tuple[Step, ...]:
    return (Sometimes(_number(p), *_fixed(operation, **constants)),)


def _fixed(operation: Callable[..., Images], **constants: Any) -> tuple[Step, ...]:
    return (Fixed(functools.partial(operation, **constants)),)


STEPS: dict[type, Callable[..., tuple[Step, ...]]] = {
    transforms.CenterCrop: lambda size: _fixed(_crop_centre, size=_size(size)),
    transforms.ColorJitter: _jitter,
    transforms.GaussianBlur: _blur,
    transforms.Grayscale: _grayscale,
    transforms.Pad: _pad,
    transforms.RandomAdjustSharpness: lambda sharpness_factor, p: _sometimes(
        p, operations.sharpness, factor=_number(sharpness_factor)
    ),
    transforms.RandomAffine: _affine,
    transforms.RandomAutocontrast: lambda p: _sometimes(p, operations.autocontrast),
    transforms.RandomCrop: _random_crop,
    transforms.RandomEqualize: lambda p: _sometimes(p, operations.equalize),
    transforms.RandomGrayscale: lambda p: _sometimes(p, operations.grayscale),
    transforms.RandomHorizontalFlip: lambda p: _sometimes(p, torch.flip, dims=(3,)),
    transforms.RandomInvert: lambda p: _sometimes(p, torch.bitwise_not),
    transforms.RandomPerspective: _perspective,
    transforms.RandomPosterize: lambda bits, p: _sometimes(p, operations.posterize, bits=_whole(bits, 1, 8)),
    transforms.RandomResizedCrop: _resized_crop,
    transforms.RandomRotation: _rotation,
    transforms.RandomSolarize: lambda threshold, p: _sometimes(p, operations.solarize, threshold=_number(threshold)),
    transforms.RandomVerticalFlip: lambda p: _sometimes(p, torch.flip, dims=(2,)),
    transforms.Resize: _resize,
}
