"""Batched augmentations are torchvision's on PIL images, pixel for pixel, given the same draws."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import functional as F

from nngpt_lab.candidates import batched_operations as operations
from nngpt_lab.candidates.batched_steps import Perspective
from nngpt_lab.candidates.batched_transforms import batch_pipeline, pil_pipeline
from tests.helpers.batches import from_pil, generator, pictures, step_of, to_pil

SIDES = ((32, 32), (29, 37), (42, 42))
NORM = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))


# --- pixels: torchvision on PIL images with the parameters that were drawn --------------------------------------------


def sometimes(function: Callable) -> Callable:
    return lambda image, operation, chosen: function(image, operation) if chosen else image


def crop(image, operation, top, left):
    return F.crop(image, int(top), int(left), *operation.size)


def resized_crop(image, operation, box):
    return F.resized_crop(image, *box.tolist(), operation.size, operation.interpolation)


def rotate(image, operation, angle, *_):
    return F.rotate(image, float(angle), operation.interpolation, fill=operation.fill)


def affine(image, operation, angle, x, y, scale, shear_x, shear_y):
    moved, sheared = [int(x), int(y)], [float(shear_x), float(shear_y)]
    return F.affine(image, float(angle), moved, float(scale), sheared, operation.interpolation, operation.fill)


def perspective(image, operation, chosen, moves):
    if not chosen:
        return image
    start, end = Perspective.corners(torch.empty(1, 3, image.height, image.width), moves[None])
    return F.perspective(image, start.tolist(), end[0].tolist(), operation.interpolation, operation.fill)


def jitter(image, operation, order, *factors):
    spans = operation.brightness, operation.contrast, operation.saturation, operation.hue
    adjust = F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue
    for index in order.tolist():
        if spans[index] is not None:
            image = adjust[index](image, float(factors[index]))
    return image


def itself(image, operation):
    return operation(image)


T = transforms
EQUAL = [
    *((T.CenterCrop(size), itself) for size in (24, 29, 32, (50, 31))),
    *((T.ColorJitter(**{name: 0.9 if name != "hue" else 0.5}), jitter)
      for name in ("brightness", "contrast", "saturation", "hue")),
    (T.ColorJitter(0.2, 1.19, (0.8, 1.2), 0.1), jitter),
    (T.ColorJitter(0, 0.5, 3, 0), jitter),
    (T.Grayscale(3), itself),
    *((T.Pad(width, fill=(219, 105, 67), padding_mode=mode), itself)
      for mode in ("constant", "edge", "reflect", "symmetric") for width in (0, 3, (1, 40), (0, 2, 5, 1))),
    (T.Pad([2], fill=9), itself),
    *((T.RandomAdjustSharpness(factor, p), sometimes(lambda i, o: F.adjust_sharpness(i, o.sharpness_factor)))
      for factor, p in ((0.5, 1), (1.47, 0.5), (0.0, 1), (2.0, 1))),
    (T.RandomAffine(17, (0.13, 0.03), (0.81, 1.9), (0.84, 9.18)), affine),
    (T.RandomAffine(0, shear=(-20, 20, -30, 10), fill=(1, 2, 3)), affine),
    (T.RandomAffine((90, 270), scale=(0.1, 0.4)), affine),
    (T.RandomAutocontrast(0.6), sometimes(lambda i, o: F.autocontrast(i))),
    *((T.RandomCrop(size), crop) for size in (24, 29, (25, 28))),
    (T.RandomEqualize(0.6), sometimes(lambda i, o: F.equalize(i))),
    (T.RandomGrayscale(0.6), sometimes(lambda i, o: F.rgb_to_grayscale(i, 3))),
    (T.RandomHorizontalFlip(0.4), sometimes(lambda i, o: F.hflip(i))),
    (T.RandomInvert(0.4), sometimes(lambda i, o: F.invert(i))),
    *((T.RandomPerspective(scale, 0.7, fill=fill), perspective)
      for scale, fill in ((0.1, 0), (0.3, (9, 8, 7)), (0.5, 1))),
    *((T.RandomPosterize(bits, 0.5), sometimes(lambda i, o: F.posterize(i, o.bits))) for bits in (1, 4, 8)),
    *((T.RandomResizedCrop(size, (0.5, 0.9), (0.75, 2.17)), resized_crop) for size in (32, 20, (40, 64), 45)),
    (T.RandomResizedCrop(32, (0.01, 0.05), (0.2, 5.0)), resized_crop),
    (T.RandomResizedCrop(32, (0.9, 1.0), (4.0, 5.0)), resized_crop),
    *((T.RandomRotation(degrees, fill=3), rotate) for degrees in (0, 30, 180, (90, 90), (180, 180), (-90, -90))),
    *((T.RandomSolarize(level, 0.5), sometimes(lambda i, o: F.solarize(i, o.threshold)))
      for level in (0, 58, 91.5, 255, 300)),
    (T.RandomVerticalFlip(0.6), sometimes(lambda i, o: F.vflip(i))),
    *((T.Resize(size), itself) for size in ((64, 64), (256, 256), (20, 45), 64, [48])),
]  # fmt: skip


@pytest.mark.parametrize(("operation", "function"), EQUAL, ids=lambda part: getattr(part, "__name__", str(part)))
@pytest.mark.parametrize("sides", SIDES, ids=str)
def test_every_pixel_is_torchvisions(operation, function, sides):
    images, step = pictures(*sides), step_of(operation)
    draws = step.draw(images, generator())
    expected = [
        from_pil(function(to_pil(image), operation, *(part[i] for part in draws))) for i, image in enumerate(images)
    ]
    torch.testing.assert_close(step.apply(images, *draws), torch.stack(expected), rtol=0, atol=0)


@pytest.mark.parametrize("size", [3, 5, (3, 7)])
def test_blur_is_torchvisions_but_for_ties_of_its_rounding(size):
    operation, images = transforms.GaussianBlur(size, (0.1, 2.0)), pictures(29, 37, 400)
    step = step_of(operation)
    (sigma,) = step.draw(images, generator())
    found = step.apply(images, sigma)
    expected = [
        from_pil(F.gaussian_blur(to_pil(image), operation.kernel_size, [float(s), float(s)]))
        for image, s in zip(images, sigma, strict=True)
    ]
    difference = (found.int() - torch.stack(expected).int()).abs()
    assert difference.max() <= 1
    assert (difference > 0).double().mean() < 1e-4


def test_every_colour_goes_to_hsv_and_back_as_in_pil():
    """Every 37th of the 2^24 colours, in rows that PIL takes at once; 37 is coprime to 256, so all levels meet."""
    codes = torch.arange(0, 1 << 24, 37)
    codes = codes[: len(codes) // 512 * 512]
    colours = torch.stack((codes >> 16, codes >> 8 & 255, codes & 255)).to(torch.uint8).view(1, 3, -1, 512)
    for factor in (-0.5, -0.03, 0.0, 0.1):
        expected = from_pil(F.adjust_hue(to_pil(colours[0]), factor))
        assert torch.equal(operations.hue(colours, torch.tensor([factor]))[0], expected)


def test_resampling_is_pils_for_all_sizes_up_to_64():
    """Both kernels: torch's for bytes, where it is exact, and products in double precision, where it is not."""
    for side in range(1, 65):
        images = pictures(side, 65 - side, 4)
        for target in ((64, 64), (33, 20), (20, 33), (16, 8)):
            expected = torch.stack([from_pil(to_pil(image).resize(target[::-1], Image.BILINEAR)) for image in images])
            assert torch.equal(operations.resize(images, *target), expected), (side, target)


def test_the_tail_is_to_tensor_and_normalize_bit_by_bit():
    tail = transforms.Compose([transforms.Resize((64, 64)), transforms.ToTensor(), transforms.Normalize(*NORM)])
    images = pictures()
    found = batch_pipeline(tail)(images, generator())
    assert found.dtype == torch.float32
    assert torch.equal(found, pil_pipeline(tail, images))


def test_random_crop_pads_first():
    operation, images = transforms.RandomCrop(32, padding=4, fill=(1, 2, 3)), pictures()
    pipeline = batch_pipeline(transforms.Compose([operation, transforms.ToTensor()]))
    draws = pipeline.steps[1].draw(torch.empty(len(images), 3, 40, 40), generator())
    expected = [
        F.to_tensor(crop(F.pad(to_pil(image), 4, (1, 2, 3)), operation, top, left))
        for image, top, left in zip(images, *draws, strict=True)
    ]
    assert torch.equal(pipeline(images, generator()), torch.stack(expected))
