"""Whole augmentation pipelines: both paths agree, and what is not known exactly goes through PIL."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from nngpt_lab.candidates.batched_transforms import batch_pipeline, pil_pipeline
from nngpt_lab.corpora import augmentations
from nngpt_lab.ground.errors import UsageError
from tests.helpers.batches import generator, pictures

NORM = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
T = transforms


# --- whole pipelines --------------------------------------------------------------------------------------------------


def every_operation() -> transforms.Compose:
    steps = [
        T.RandomAffine(9, (0.1, 0.1), (0.9, 1.4), (1, 5)), T.ColorJitter(0.2, 0.2, 0.2, 0.1), T.Pad(3),
        T.RandomCrop(32), T.RandomEqualize(0.3), T.GaussianBlur(3), T.RandomPerspective(0.2), T.RandomResizedCrop(32),
    ]  # fmt: skip
    return transforms.Compose([*steps, T.Resize((64, 64)), T.ToTensor(), T.Normalize(*NORM)])


def test_a_seed_gives_the_same_batch_twice_and_another_seed_another():
    pipeline = batch_pipeline(every_operation())
    images = pictures(n=64)
    first = pipeline(images, generator(5))
    assert torch.equal(first, pipeline(images, generator(5)))
    assert not torch.equal(first, pipeline(images, generator(6)))


def test_both_paths_give_the_same_distribution_of_images():
    """Mean and spread per channel of 600 images: the difference is within what their draws explain."""
    images = pictures(n=600)
    batched = batch_pipeline(every_operation())(images, generator()).flatten(2)
    torch.manual_seed(0)
    by_pil = pil_pipeline(every_operation(), images).flatten(2)
    for statistic in (torch.mean, torch.std):
        difference = statistic(batched, 2) - statistic(by_pil, 2)
        error = difference.std(0) / len(images) ** 0.5
        assert (difference.mean(0).abs() < 4 * error).all()
        assert (error < 0.1).all()  # else the line above would say nothing


@pytest.mark.parametrize("size", [33, (32, 40)])
def test_a_crop_larger_than_its_image_fails_in_torchvisions_words(size):
    pipeline = transforms.Compose([transforms.RandomCrop(size), transforms.ToTensor()])
    with pytest.raises(ValueError) as theirs:
        pil_pipeline(pipeline, pictures(n=1))
    with pytest.raises(ValueError) as found:
        batch_pipeline(pipeline)(pictures(n=1), generator())
    assert str(found.value) == str(theirs.value)
    assert augmentations.status_of(str(found.value)) == "shape"


def test_the_published_functions_are_all_batched(augmentation_corpus):
    """All 6,043, from their parsed parameters."""
    functions = augmentation_corpus.functions
    tail = [T.Resize((64, 64)), T.ToTensor(), T.Normalize(*NORM)]
    for names, parameters in zip(functions["operations"], functions["parameters"], strict=True):
        made = [getattr(T, name)(**given) for name, given in zip(names, json.loads(parameters), strict=True)]
        assert batch_pipeline(T.Compose(made + tail)) is not None, made


@pytest.mark.parametrize("give", [lambda x: x.float(), lambda x: x[0], lambda x: x[:, :1], lambda x: x.numpy()])
@pytest.mark.parametrize("run", [lambda p, x: batch_pipeline(p)(x, generator()), pil_pipeline])
def test_other_input_is_refused(run, give):
    with pytest.raises(UsageError, match="uint8 tensor of shape"):
        run(every_operation(), give(pictures(n=1)))


def test_autocast_changes_nothing():
    pipeline, images = batch_pipeline(every_operation()), pictures()
    plain = pipeline(images, generator())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(pipeline(images, generator()), plain)


# --- what is left to PIL ----------------------------------------------------------------------------------------------


class Louder(transforms.RandomInvert):
    """A subclass may mean anything."""


class Six(int):
    def __le__(self, other):
        return True


def tampered(operation, **attributes):
    vars(operation).update(attributes)
    return operation


def hooked(operation):
    operation.register_forward_hook(lambda module, given, result: result)
    return operation


LEFT_TO_PIL = [
    T.RandomErasing(), T.Lambda(lambda image: image), T.RandomApply([T.RandomInvert()]), T.ElasticTransform(), Louder(),
    T.Grayscale(1), T.RandomRotation(9, InterpolationMode.BILINEAR), T.RandomRotation(9, expand=True),
    T.RandomRotation(9, center=(1, 2)), T.RandomAffine(0, scale=(0.5, 2)), T.RandomAffine(9, scale=(0.001, 1)),
    T.RandomAffine(9, shear=80), T.RandomAffine(9, interpolation=InterpolationMode.BILINEAR),
    T.RandomPerspective(interpolation=InterpolationMode.NEAREST), T.RandomPerspective(fill=[1, 2]),
    T.Resize((9, 9), InterpolationMode.BICUBIC), T.Resize(9, max_size=12), T.RandomCrop(9, pad_if_needed=True),
    T.Pad(-1), T.Pad(1, fill=300), T.RandomPosterize(0), T.RandomPosterize(9),
    T.RandomInvert("0.5"), T.RandomInvert(float("nan")), T.RandomPosterize(Six(6)),
    tampered(T.RandomInvert(), forward=lambda image: image),
    tampered(T.RandomCrop(9), get_params=lambda *_: (0, 0, 9, 9)), hooked(T.RandomInvert()),
    tampered(T.ToTensor(), extra=1), T.PILToTensor(),
]  # fmt: skip


@pytest.mark.parametrize("operation", [*LEFT_TO_PIL, 3, None, np.asarray], ids=str)
def test_what_is_not_known_exactly_is_left_to_pil(operation):
    assert batch_pipeline(transforms.Compose([operation, transforms.ToTensor()])) is None


T_TAIL = [transforms.ToTensor(), transforms.Normalize(*NORM)]


@pytest.mark.parametrize(
    "transform",
    [
        None,
        transforms.ToTensor(),
        np.asarray,
        transforms.Compose([]),
        transforms.Compose([transforms.Resize(64)]),
        transforms.Compose(transforms.ToTensor()),
        transforms.Compose(iter(T_TAIL)),
        transforms.Compose([transforms.ToTensor(), transforms.RandomInvert()]),
        transforms.Compose([*T_TAIL, transforms.ToTensor()]),
        transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.5], [0.5])]),
        transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5, 0, 0.5])]),
        tampered(transforms.Compose(T_TAIL), __call__=None),
        type("Mine", (transforms.Compose,), {})(T_TAIL),
    ],
)
def test_what_is_no_plain_compose_with_its_tail_is_left_to_pil(transform):
    assert batch_pipeline(transform) is None


def test_a_compose_within_a_compose_is_flattened():
    inner = transforms.Compose([transforms.RandomInvert(1), transforms.ToTensor()])
    outer = transforms.Compose([transforms.Pad(1), inner, transforms.Normalize(*NORM)])
    assert torch.equal(batch_pipeline(outer)(pictures(), generator()), pil_pipeline(outer, pictures()))
