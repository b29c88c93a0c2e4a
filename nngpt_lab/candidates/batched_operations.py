"""PIL's image operations on batches of images, each image with parameters of its own.

Images are uint8 tensors (N, 3, H, W) on any device; parameters are CPU tensors with N rows, or constants. Every
function repeats Pillow's arithmetic in Pillow's order (``libImaging``: Blend.c, Convert.c, Filter.c, Geometry.c,
Resample.c; and ImageOps.py), down to whether it rounds or cuts off, so that the result is Pillow's, bit by bit. The one
exception is :func:`gaussian_blur`, where torchvision leaves PIL for a float32 convolution;
:mod:`nngpt_lab.candidates.batched_transforms` says how much that differs.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import PIL
import torch
from PIL import Image
from torch.nn import functional
from torchvision.transforms.v2 import functional as v2

Images: TypeAlias = torch.Tensor
"""uint8 (N, 3, H, W)."""

HEIGHT_MAY_GO_FIRST = int(PIL.__version__.split(".")[0]) >= 13
"""Pillow 13 resizes vertically first where height shrinks far more than width (python-pillow/Pillow#9549)."""


# --- what goes to a device --------------------------------------------------------------------------------------------


def sent(draws: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A CPU tensor on a device. The copy to a GPU waits in its queue, not here; torch keeps the memory until then."""
    return draws.contiguous().pin_memory().to(device, non_blocking=True) if device.type == "cuda" else draws.to(device)


@functools.lru_cache(maxsize=256)
def channels(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """A constant for each channel, (1, C, 1, 1): sent once, for who sends waits for the GPU."""
    return torch.tensor(values, dtype=dtype).to(device).view(1, -1, 1, 1)


# --- grey levels ------------------------------------------------------------------------------------------------------


def luma(images: Images) -> torch.Tensor:
    """Grey levels, uint8 (N, 1, H, W), by ITU-R 601-2 in 16-bit fixed point."""
    red, green, blue = images.to(torch.int32).split(1, dim=1)
    return ((red * 19595 + green * 38470 + blue * 7471 + (1 << 15)) >> 16).to(torch.uint8)


def grayscale(images: Images) -> Images:
    """Grey images that keep three channels."""
    return luma(images).repeat(1, 3, 1, 1)


def blend(degenerate: torch.Tensor, images: Images, factor: torch.Tensor | float) -> Images:
    """``degenerate + factor * (images - degenerate)``, cut off to whole levels, as ``ImageEnhance`` does it.

    ``degenerate``: what a factor of 0 gives; float32 with whole values, broadcastable to (N, 3, H, W). ``factor``: (N,)
    or one number; used in single precision.
    """
    if isinstance(factor, float | int):
        factor = torch.tensor([factor], dtype=torch.float32)
    change = (images.float() - degenerate).mul_(sent(factor.float(), images.device).view(-1, 1, 1, 1))
    return change.add_(degenerate).clamp_(0, 255).to(torch.uint8)


def brightness(images: Images, factor: torch.Tensor) -> Images:
    """``ImageEnhance.Brightness``: towards black."""
    return blend(torch.zeros((), device=images.device), images, factor)


def contrast(images: Images, factor: torch.Tensor) -> Images:
    """``ImageEnhance.Contrast``: towards the image's mean grey level, rounded."""
    pixels = images.shape[2] * images.shape[3]
    mean = (2 * luma(images).sum((1, 2, 3), keepdim=True) + pixels) // (2 * pixels)
    return blend(mean.float(), images, factor)


def saturation(images: Images, factor: torch.Tensor) -> Images:
    """``ImageEnhance.Color``: towards grey."""
    return blend(luma(images).float(), images, factor)


def sharpness(images: Images, factor: float) -> Images:
    """``ImageEnhance.Sharpness``: towards the image smoothed by 1 1 1 / 1 5 1 / 1 1 1, except at the rim."""
    degenerate = images.float()
    if min(images.shape[2:]) > 2:
        rows = degenerate[:, :, :-2] + degenerate[:, :, 1:-1] + degenerate[:, :, 2:]
        total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * degenerate[:, :, 1:-1, 1:-1]
        # whole numbers up to 3315, whose thirteenths are never near a half: single precision rounds them right
        degenerate = degenerate.clone()
        degenerate[:, :, 1:-1, 1:-1] = (total / 13 + 0.5).floor()
    return blend(degenerate, images, factor)


def posterize(images: Images, bits: int) -> Images:
    """Keep the upper ``bits`` bits."""
    return images & (0xFF << (8 - bits) & 0xFF)


def solarize(images: Images, threshold: float) -> Images:
    """Invert levels from ``threshold`` on."""
    return torch.where(images.double() < threshold, images, 255 - images)


def autocontrast(images: Images) -> Images:
    """Stretch each channel of each image to 0..255."""
    low, high = (extreme((2, 3), keepdim=True).double() for extreme in (images.amin, images.amax))
    scale = torch.full_like(low, 255) / (high - low)  # 255 / x would be 255 times the rounded reciprocal
    stretched = (images.double() * scale).add_(-low * scale).clamp_(0, 255).to(torch.uint8)
    return torch.where(high > low, stretched, images)


equalize = v2.equalize
"""Give each channel of each image a level histogram; torchvision's own, which counts as PIL does."""


def hue(images: Images, factor: torch.Tensor) -> Images:
    """Turn the colour wheel by ``factor`` (N,) turns, in 8-bit HSV; by PIL itself, the images one below the other."""
    n, _, height, width = images.shape
    pixels = images.permute(0, 2, 3, 1).reshape(n * height, width, 3).cpu().numpy()
    colours = np.array(Image.fromarray(pixels).convert("HSV")).reshape(n, height, width, 3)
    colours[..., 0] += (factor.double() * 255).to(torch.int32).numpy().astype(np.uint8)[:, None, None]  # modulo 256
    turned = np.array(Image.frombytes("HSV", (width, n * height), colours.tobytes()).convert("RGB"))
    return torch.from_numpy(turned).view(n, height, width, 3).permute(0, 3, 1, 2).contiguous().to(images.device)


# --- parts of images --------------------------------------------------------------------------------------------------


def pad(images: Images, borders: Sequence[int], mode: str, fill: Sequence[int]) -> Images:
    """Add ``borders`` (left, top, right, bottom) px; ``mode``: constant (``fill``), edge, reflect or symmetric."""
    left, top, right, bottom = borders
    if mode == "constant":
        padded = functional.pad(images, (left, right, top, bottom))
        inside = functional.pad(torch.ones_like(images[:1, :1]), (left, right, top, bottom)).bool()
        return torch.where(inside, padded, channels(tuple(fill), torch.uint8, images.device))
    rows = np.pad(np.arange(images.shape[2]), (top, bottom), mode)  # NumPy's own rule, as torchvision uses it on PIL
    columns = np.pad(np.arange(images.shape[3]), (left, right), mode)
    rows, columns = (sent(torch.from_numpy(part), images.device) for part in (rows, columns))
    return images.index_select(2, rows).index_select(3, columns)


def crop(images: Images, top: torch.Tensor, left: torch.Tensor, height: int, width: int) -> Images:
    """The part of ``height`` x ``width`` px at ``top``, ``left`` (N,) of each image."""
    rows = (sent(top, images.device)[:, None] + torch.arange(height, device=images.device))[:, None, :, None]
    columns = (sent(left, images.device)[:, None] + torch.arange(width, device=images.device))[:, None, None, :]
    place = (rows * images.shape[3] + columns).flatten(2).expand(-1, images.shape[1], -1)
    return images.flatten(2).gather(2, place).unflatten(2, (height, width))


# --- resampling -------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1024)
def bilinear_weights(source: int, target: int) -> torch.Tensor:
    """Weights by which PIL's bilinear filter makes ``target`` px of ``source`` px: float64 (target, source), multiples
    of 2^-22 (Resample.c), so that sums of weighted levels are exact in double precision."""
    scale = source / target
    support = max(scale, 1.0)
    centres = (np.arange(target) + 0.5) * scale
    distances = np.abs((np.arange(source) - centres[:, None] + 0.5) * (1 / support))
    weights = np.maximum(1 - distances, 0)
    weights /= np.cumsum(weights, axis=1)[:, -1:]  # a running sum, as PIL's, not NumPy's pairwise one
    return torch.from_numpy(np.floor(weights * 2.0**22 + 0.5) / 2.0**22)


def _exact_dtype(weights: torch.Tensor) -> torch.dtype:
    """Single precision where it is exact, also with TF32's 11-bit factors: multiples of 2^-10; else double."""
    return torch.float32 if torch.equal(weights * 1024, (weights * 1024).round()) else torch.float64


@functools.lru_cache(maxsize=64)
def _weights(source: int, target: int, device: torch.device) -> torch.Tensor:
    """``bilinear_weights`` on a device, in single precision where that is exact."""
    weights = bilinear_weights(source, target)
    return weights.to(_exact_dtype(weights)).to(device)


def _resample(images: Images, columns: torch.Tensor, rows: torch.Tensor) -> Images:
    """First along the rows, then along the columns, rounded to levels after each."""
    wide = (images.to(columns.dtype) @ columns.mT).add_(0.5).floor_().clamp_(0, 255)
    return (rows @ wide.to(rows.dtype)).add_(0.5).floor_().clamp_(0, 255).to(torch.uint8)


def _height_first(height, width, new_height: int, new_width: int):
    """Whether PIL resizes along the columns first: bool for numbers, a mask (N,) for tensors."""
    return (height > new_height) & (height - new_height > 2 * (width - new_width)) & HEIGHT_MAY_GO_FIRST


def resize(images: Images, height: int, width: int) -> Images:
    """All images to ``height`` x ``width`` px."""
    if images.shape[2:] == (height, width):
        return images
    sizes = zip(images.shape[2:], (height, width), strict=True)
    rows, columns = (_weights(source, target, images.device) for source, target in sizes)
    if _height_first(*images.shape[2:], height, width):
        return _resample(images.mT, rows, columns).mT
    if images.device.type == "cpu" and rows.dtype == columns.dtype == torch.float32:
        # torch's own kernel for bytes works with 15-bit weights; where those are exact it is PIL's, and twice as fast
        return functional.interpolate(images, (height, width), mode="bilinear", antialias=True)
    return _resample(images, columns, rows)


@functools.lru_cache(maxsize=16)
def _crop_weights(side: int, target: int, device: torch.device) -> torch.Tensor:
    """``bilinear_weights(k, target)`` for k in 0..side: (side + 1, target, 2 * side), after ``side`` zeros each."""
    table = torch.zeros(side + 1, target, 2 * side, dtype=torch.float64)
    for source in range(1, side + 1):
        table[source, :, side : side + source] = bilinear_weights(source, target)
    return table.to(_exact_dtype(table)).to(device)


def _placed_weights(side: int, target: int, start: torch.Tensor, length: torch.Tensor, device) -> torch.Tensor:
    """Weights (N, target, side) that make ``target`` px of the ``length`` px from ``start`` on, both (N,)."""
    table = _crop_weights(side, target, device)
    first = sent(length * (target * 2 * side) + side - start, device).view(-1, 1, 1)  # a window on the zeros shifts
    within = torch.arange(target, device=device)[:, None] * (2 * side) + torch.arange(side, device=device)
    return table.take(first + within)


def resized_crop(images: Images, boxes: torch.Tensor, height: int, width: int) -> Images:
    """The box (top, left, height, width) of each image, int64 (N, 4), resized to ``height`` x ``width`` px."""
    top, left, heights, widths = boxes.unbind(1)
    rows = _placed_weights(images.shape[2], height, top, heights, images.device)[:, None]
    columns = _placed_weights(images.shape[3], width, left, widths, images.device)[:, None]
    resized = _resample(images, columns, rows)
    if len(tall := _height_first(heights, widths, height, width).nonzero()[:, 0]):
        tall = sent(tall, images.device)
        resized[tall] = _resample(images[tall].mT, rows[tall], columns[tall]).mT
    return resized


def gaussian_blur(images: Images, size: Sequence[int], sigma: torch.Tensor) -> Images:
    """Blur by a Gaussian of ``size`` (width, height) px and ``sigma`` (N,) px, with reflected borders."""
    columns = sent(_gaussian_weights(images.shape[3], size[0], sigma), images.device)[:, None]
    rows = sent(_gaussian_weights(images.shape[2], size[1], sigma), images.device)[:, None]
    return (rows @ (images.to(rows.dtype) @ columns.mT)).round_().clamp_(0, 255).to(torch.uint8)


def _gaussian_weights(side: int, size: int, sigma: torch.Tensor) -> torch.Tensor:
    """Band matrices (N, side, side); in double precision, which TF32 does not touch."""
    offsets = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    taps = torch.exp(-0.5 * (offsets / sigma.double()[:, None]) ** 2)
    taps /= taps.sum(1, keepdim=True)
    places = functional.pad(torch.arange(side).float()[None], (size // 2, size // 2), "reflect")[0].long()
    selectors = functional.one_hot(places, side).double().unfold(0, side, 1)  # (size, side, side), pixel by output
    return torch.einsum("nk,kij->nji", taps, selectors)


# --- geometry ---------------------------------------------------------------------------------------------------------


def affine(images: Images, matrices: torch.Tensor, fill: Sequence[int]) -> Images:
    """The pixel that ``matrices`` (N, 6; from output to input, float64) point at, in PIL's 16.16 fixed point."""
    fixed = matrices.clone()
    fixed[:, 2] += matrices[:, 0] * 0.5 + matrices[:, 1] * 0.5
    fixed[:, 5] += matrices[:, 3] * 0.5 + matrices[:, 4] * 0.5
    fixed = sent((fixed * 65536 + 0.5).floor().to(torch.int32), images.device).view(-1, 6, 1, 1)
    height, width = images.shape[2:]
    x = torch.arange(width, dtype=torch.int32, device=images.device)
    y = torch.arange(height, dtype=torch.int32, device=images.device)[:, None]
    columns = (fixed[:, 2] + fixed[:, 1] * y + fixed[:, 0] * x) >> 16
    rows = (fixed[:, 5] + fixed[:, 4] * y + fixed[:, 3] * x) >> 16
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    moved = _pixels(images.flatten(2), rows.clamp_(0, height - 1) * width + columns.clamp_(0, width - 1))
    return torch.where(inside[:, None], moved, channels(tuple(fill), torch.uint8, images.device))


def perspective(images: Images, coefficients: torch.Tensor, fill: Sequence[int]) -> Images:
    """Bilinear interpolation where ``coefficients`` (N, 8; from output to input, float64) point at, then cut off."""
    a, b, c, d, e, f, g, h = sent(coefficients, images.device).view(-1, 8, 1, 1).unbind(1)
    height, width = images.shape[2:]
    x = torch.arange(width, device=images.device) + 0.5
    y = (torch.arange(height, device=images.device) + 0.5)[:, None]
    x, y = x.double(), y.double()
    below = g * x + h * y + 1
    columns, rows = (a * x + b * y + c) / below, (d * x + e * y + f) / below
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    columns, rows = (torch.where(inside, part, 0.5) - 0.5 for part in (columns, rows))
    left, top = columns.floor(), rows.floor()
    across, down = (columns - left)[:, None], (rows - top)[:, None]
    lefts, rights = left.clamp(0, width - 1).long(), (left + 1).clamp(0, width - 1).long()
    pixels = images.flatten(2).double()

    def along(rows: torch.Tensor) -> torch.Tensor:
        start = rows.clamp(0, height - 1).long() * width
        first, second = _pixels(pixels, start + lefts), _pixels(pixels, start + rights)
        return first + (second - first) * across

    upper, lower = along(top), along(top + 1)
    moved = (upper + (lower - upper) * down).to(torch.uint8)
    return torch.where(inside[:, None], moved, channels(tuple(fill), torch.uint8, images.device))


def _pixels(flat: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """``flat`` (N, C, pixels) at ``places`` (N, H, W) -> (N, C, H, W)."""
    index = places.flatten(1).long()[:, None].expand(-1, flat.shape[1], -1)
    return flat.gather(2, index).unflatten(2, places.shape[1:])
