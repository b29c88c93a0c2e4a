"""The random generator: ranges, contract, layout, and that whatever it writes runs."""

import ast
import functools
import json

import numpy as np
import pytest
import torch

from nngpt_lab.candidates.contract import check
from nngpt_lab.candidates.outcome import Kind
from nngpt_lab.corpora.augmentations import OPERATIONS, parse_pipeline
from nngpt_lab.papers.augmentation_search import generator
from nngpt_lab.papers.augmentation_search.generator import FRAME, POLICIES, RANGES, SIDE, function, generate
from nngpt_lab.sandbox.status import Status

NORM = ((0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
BOUNDS = {  # papers.md, A.2
    ("CenterCrop", "size"): (24, 32),
    ("RandomCrop", "size"): (24, 32),
    ("Pad", "padding"): (0, 5),
    ("RandomRotation", "degrees"): (0, 30),
    ("RandomAffine", "degrees"): (0, 30),
    ("RandomPerspective", "distortion_scale"): (0.1, 0.3),
    ("RandomPosterize", "bits"): (4, 8),
    ("RandomSolarize", "threshold"): (0, 255),
    ("RandomAdjustSharpness", "sharpness_factor"): (0.5, 2),
    ("GaussianBlur", "kernel_size"): (3, 5),
    ("RandomResizedCrop", "size"): (32, 32),
    ("Grayscale", "num_output_channels"): (3, 3),
    **{("ColorJitter", name): (0.8, 1.2) for name in ("brightness", "contrast", "saturation")},
    ("ColorJitter", "hue"): (0, 0.1),
}
PAIRS = {
    ("RandomResizedCrop", "scale"): ((0.5, 0.8), (0.8, 1.0)),
    ("RandomResizedCrop", "ratio"): ((0.75, 1.33), (1.33, 3.0)),
    ("GaussianBlur", "sigma"): ((0.1, 1.0), (1.0, 2.0)),
    ("RandomAffine", "translate"): ((0, 0.2), (0, 0.2)),
    ("RandomAffine", "scale"): ((0.8, 1.2), (1.2, 2.0)),
    ("RandomAffine", "shear"): ((0, 5), (5, 10)),
}


@functools.cache
def drawn(count: int = 2000) -> list[str]:
    rng = np.random.default_rng(0)
    return [generate(rng) for _ in range(count)]


def test_one_to_three_operations_without_repetition_and_the_fixed_tail():
    pipelines = [parse_pipeline(code) for code in drawn()]
    assert all(pipeline.has_tail and pipeline.resize == SIDE for pipeline in pipelines)
    assert all(len(set(pipeline.operations)) == len(pipeline.operations) for pipeline in pipelines)
    counts = np.bincount([len(pipeline.operations) for pipeline in pipelines])
    assert counts[0] == 0 and len(counts) == 4 and min(counts[1:]) > 2000 / 3 - 100
    uses = [name for pipeline in pipelines for name in pipeline.operations]
    assert set(uses) == set(OPERATIONS) == set(RANGES)
    assert min(uses.count(name) for name in OPERATIONS) > 0.7 * len(uses) / len(OPERATIONS)
    assert any(pipeline.operations != tuple(sorted(pipeline.operations)) for pipeline in pipelines)


def test_parameters_fill_their_ranges_and_stay_within():
    found = {}
    for pipeline in map(parse_pipeline, drawn()):
        for name, parameters in zip(pipeline.operations, pipeline.parameters, strict=True):
            for key, value in parameters.items():
                found.setdefault((name, key), []).append(value)
    for (name, key), values in found.items():
        if key == "fill":
            assert {len(value) for value in values} == {3} and 0 <= np.min(values) < 20 and 235 < np.max(values) <= 255
        elif key == "padding_mode":
            assert set(values) == {"constant", "edge", "reflect", "symmetric"}
        elif (name, key) in PAIRS:
            for part, bounds in zip(np.array(values).T, PAIRS[name, key], strict=True):
                within(part, *bounds)
        else:
            within(np.array(values), *(BOUNDS[name, key] if key != "p" else (0.1, 0.9)))
    assert {key for key in found if key[1] not in ("fill", "padding_mode", "p")} == {*BOUNDS, *PAIRS}


def within(values: np.ndarray, low: float, high: float) -> None:
    assert low <= values.min() <= low + 0.1 * (high - low) and high - 0.1 * (high - low) <= values.max() <= high


def test_the_same_generator_gives_the_same_functions():
    first, second = (generate(np.random.default_rng(3)) for _ in range(2))
    assert first == second != generate(np.random.default_rng(4))


def test_the_layout_is_that_of_unparse():
    for code in (*drawn()[:50], *POLICIES.values()):
        assert ast.unparse(ast.parse(code)) == code
    assert function() == FRAME.format("transforms.Resize((64, 64)), transforms.ToTensor(), transforms.Normalize(*norm)")


@pytest.mark.parametrize("name", RANGES)
def test_every_operation_keeps_the_contract_and_runs_on_every_image(name):
    from nngpt_lab.candidates.batched_transforms import batch_pipeline

    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), dtype=np.uint8))
    rng = np.random.default_rng(1)
    for _ in range(20):
        code = function(generator._call(name, rng))
        batched = batch_pipeline(transform_of(code))
        assert check(code, Kind.AUGMENTATION).status == Status.OK
        assert batched is not None, f"{code} is not batched"
        assert batched(images, torch.Generator().manual_seed(0)).shape == (4, 3, SIDE, SIDE)


def test_drawn_functions_run_unless_a_crop_meets_an_image_that_a_crop_made_smaller():
    from nngpt_lab.candidates.batched_transforms import batch_pipeline

    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32), dtype=np.uint8))
    for code in drawn()[:200]:
        assert check(code, Kind.AUGMENTATION).status == Status.OK
        try:
            assert batch_pipeline(transform_of(code))(images, torch.Generator().manual_seed(0)).shape[2:] == (64, 64)
        except ValueError as error:
            assert "RandomCrop" in code and "CenterCrop" in code and "larger than" in str(error)


@pytest.mark.parametrize("name", POLICIES)
def test_policies_keep_the_contract_and_run(name):
    from nngpt_lab.candidates.batched_transforms import pil_pipeline

    code = POLICIES[name]
    pipeline = parse_pipeline(code)
    assert check(code, Kind.AUGMENTATION).status == Status.OK
    assert pipeline.has_tail and len(pipeline.operations) == (name != "no augmentation")
    images = torch.zeros((2, 3, 32, 32), dtype=torch.uint8)
    assert pil_pipeline(transform_of(code), images).shape == (2, 3, SIDE, SIDE)


def transform_of(code: str):
    module = {}
    exec(code, module)  # the generator's own
    return module["transform"](NORM)


def test_parameters_are_json():
    assert all(json.dumps(parse_pipeline(code).parameters) for code in drawn()[:20])
