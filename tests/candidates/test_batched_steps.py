"""What batched augmentations draw: per image, from torchvision's distributions, the same for the same seed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision import transforms

from nngpt_lab.candidates.batched_steps import Perspective
from nngpt_lab.candidates.batched_transforms import batch_pipeline
from tests.helpers.batches import generator, pictures, step_of

T = transforms
# --- draws ------------------------------------------------------------------------------------------------------------

N = 4000


def torchvisions(get_params: Callable[[], tuple]) -> np.ndarray:
    torch.manual_seed(1)
    return np.array([get_params() for _ in range(N)], dtype=float)


def ours(operation, height: int = 32, width: int = 32) -> tuple[torch.Tensor, ...]:
    return step_of(operation).draw(torch.empty(N, 3, height, width), generator(2))


def assert_same_distributions(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Each column, and all pairs of them by their products, in a two-sample Kolmogorov-Smirnov test."""
    assert ours.shape == theirs.shape
    columns = range(ours.shape[1])
    for i in columns:
        assert stats.ks_2samp(ours[:, i], theirs[:, i]).pvalue > 1e-3, i
        for j in range(i):
            products = (x[:, i] * x[:, j] for x in (ours - theirs.mean(0), theirs - theirs.mean(0)))
            assert stats.ks_2samp(*products).pvalue > 1e-4, (i, j)


BOXES = [  # scale, ratio, sides; the last never fits in ten attempts: the fallback
    ((0.56, 0.96), (0.9, 2.33), (32, 32)),
    ((0.08, 1.0), (0.75, 1.33), (42, 29)),
    ((0.9, 1.0), (2.8, 3.0), (32, 32)),
]


@pytest.mark.parametrize(("scale", "ratio", "sides"), BOXES)
def test_boxes_are_drawn_as_torchvision_draws_them(scale, ratio, sides):
    operation, image = transforms.RandomResizedCrop(32, scale, ratio), torch.empty(3, *sides)
    (boxes,) = ours(operation, *sides)
    assert_same_distributions(boxes.numpy(), torchvisions(lambda: operation.get_params(image, scale, ratio)))


def test_affine_parameters_are_drawn_as_torchvision_draws_them():
    settings = [-17, 17], (0.13, 0.3), (0.81, 1.9), [-2, 9, 1, 5]
    operation = transforms.RandomAffine(*settings)

    def theirs():
        angle, moved, scale, sheared = operation.get_params(*settings, [37, 29])
        return angle, *moved, scale, *sheared

    assert_same_distributions(torch.stack(ours(operation, 29, 37), dim=1).numpy(), torchvisions(theirs))


def test_perspective_corners_are_drawn_as_torchvision_draws_them():
    operation = transforms.RandomPerspective(0.3, p=0.3)
    chosen, moves = ours(operation, 29, 37)
    _, end = Perspective.corners(torch.empty(1, 3, 29, 37), moves)
    theirs = torchvisions(lambda: np.ravel(operation.get_params(37, 29, 0.3)[1]))
    assert_same_distributions(end.flatten(1).numpy(), theirs)
    assert stats.binomtest(int(chosen.sum()), N, 0.3).pvalue > 1e-3


def test_colour_factors_and_orders_are_drawn_as_torchvision_draws_them():
    operation = transforms.ColorJitter(0.2, 0.1, (0.8, 1.3), 0.07)
    order, *factors = ours(operation)
    spans = operation.brightness, operation.contrast, operation.saturation, operation.hue

    def theirs():
        order, *factors = operation.get_params(*spans)
        return np.concatenate((order, factors))

    assert_same_distributions(torch.cat((order, torch.stack(factors, 1)), 1).numpy(), torchvisions(theirs))
    counts = np.unique(order.numpy(), axis=0, return_counts=True)[1]
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 1e-3


def test_crops_angles_and_sigmas_are_drawn_as_torchvision_draws_them():
    crops, turns, blurs = (
        transforms.RandomCrop((25, 20)),
        transforms.RandomRotation((-3, 20)),
        transforms.GaussianBlur(3),
    )
    image = torch.empty(3, 29, 37)
    found = torch.stack((*ours(crops, 29, 37), ours(turns)[0], *ours(blurs)), dim=1)
    theirs = torchvisions(
        lambda: (*crops.get_params(image, (25, 20))[:2], turns.get_params([-3, 20]), blurs.get_params(0.1, 2.0))
    )
    for i in range(4):
        assert stats.ks_2samp(found[:, i].numpy(), theirs[:, i]).pvalue > 1e-3, i


CHANCES = [T.RandomHorizontalFlip, T.RandomVerticalFlip, T.RandomInvert, T.RandomGrayscale, T.RandomEqualize,
           T.RandomAutocontrast, lambda p: T.RandomPosterize(4, p), lambda p: T.RandomSolarize(9, p),
           lambda p: T.RandomAdjustSharpness(2, p)]  # fmt: skip


@pytest.mark.parametrize("operation", CHANCES)
def test_an_operation_happens_with_its_probability(operation):
    for p in (0, 0.13, 0.9, 1):
        (chosen,) = ours(operation(p))
        assert stats.binomtest(int(chosen.sum()), N, p).pvalue > 1e-3


RANDOM = [
    *(make(0.5) for make in CHANCES), T.ColorJitter(0.2), T.ColorJitter(0, 0, 0, 0.1), T.RandomCrop(24),
    T.RandomAffine(9), T.RandomRotation(20), T.RandomPerspective(0.3, p=1), T.RandomResizedCrop(32), T.GaussianBlur(3),
]  # fmt: skip


@pytest.mark.parametrize("operation", RANDOM, ids=str)
def test_equal_images_of_a_batch_get_draws_of_their_own(operation):
    same = pictures(n=3)[2:].repeat(64, 1, 1, 1)
    transform = transforms.Compose([operation, transforms.ToTensor()])
    assert len(batch_pipeline(transform)(same, generator()).unique(dim=0)) > 1
    assert batch_pipeline(transform)(same[:1], generator()).shape[0] == 1


def test_draws_are_made_on_the_cpu_wherever_the_images_are():
    """The meta device has no values to draw from; a GPU is not always at hand."""
    operation = T.RandomAffine(17, (0.13, 0.03), (0.81, 1.9), (0.84, 9.18))
    batches = (torch.empty(9, 3, 32, 32, device=device) for device in ("meta", "cpu"))
    there, here = (step_of(operation).draw(batch, generator()) for batch in batches)
    assert all(torch.equal(a, b) and a.device.type == "cpu" for a, b in zip(there, here, strict=True))
