"""Paper A's augmentations under the proxy: the same epoch with a pinned network, images through ``transform(norm)``."""

from __future__ import annotations

import textwrap
from dataclasses import replace

import numpy as np
import pytest

from nngpt_lab.candidates import proxy, training
from nngpt_lab.candidates.outcome import Kind
from nngpt_lab.candidates.protocols import CIFAR_10_NORM, get_protocol
from nngpt_lab.ground.errors import DataError
from nngpt_lab.sandbox.status import Status
from tests.candidates import test_training
from tests.candidates.test_proxy import candidate

noise, one_thread = test_training.noise, test_training.one_thread
PROTOCOL = get_protocol("digits-augmentation")
ENDING = "transforms.ToTensor(), transforms.Normalize(*norm)"
PLAIN = f"[{ENDING}]"
RANDOM = f"[transforms.RandomCrop(32, padding=4), transforms.ColorJitter(0.4, 0.4, 0.4), {ENDING}]"
SLOWLY = "[transforms.Lambda(lambda image: image), "  # what no batch knows


def augmentation(operations: str, top: str = "") -> str:
    top = textwrap.dedent(top)
    return f"""import random, torch
from torchvision import transforms
{top}
def transform(norm):
    return transforms.Compose({operations})
"""


@pytest.fixture(scope="module")
def evaluator():
    with proxy.prepare(PROTOCOL).evaluator() as evaluator:
        yield evaluator


def score(evaluator, code: str, seed: int = 0):
    outcome = evaluator.evaluate(candidate(code, Kind.AUGMENTATION), seed)
    assert outcome.seed == seed and outcome.protocol_hash == evaluator.proxy.protocol_hash
    return outcome


def run(code: str, seed: int = 0, images: int = 32) -> tuple[dict, np.ndarray]:
    """The task in process, on made-up images."""
    arrays = {"train_images": noise(images, 32).numpy(), "predict_images": noise(20, 32, seed=1).numpy()}
    arrays["train_labels"] = np.arange(images) % 10
    network = proxy._pinned_network(PROTOCOL)
    payload = {"code": code, "network": network, "norm": CIFAR_10_NORM, "classes": 10, "seed": seed, "device": "cpu"}
    value, results = training.train_and_predict(payload | {"protocol": PROTOCOL.as_dict()}, arrays)
    return value, results["logits"]


def test_an_augmentation_is_scored(evaluator):
    outcome = score(evaluator, augmentation(PLAIN))
    assert outcome.status == Status.OK and outcome.score > 0.4 and outcome.parameters == 24_458


def test_equal_seeds_give_equal_outcomes(evaluator):
    first, same = (replace(score(evaluator, augmentation(RANDOM)), seconds={}) for _ in range(2))
    assert first.status == Status.OK and first == same


@pytest.mark.parametrize("operations", [RANDOM, SLOWLY + RANDOM[1:]])
def test_other_seeds_give_other_predictions(operations):
    first, same, other = (run(augmentation(operations), seed)[1] for seed in (0, 0, 1))
    assert np.array_equal(first, same) and not np.array_equal(first, other)


def test_batches_and_pil_give_the_same_predictions_to_the_bit():
    for steps in (PLAIN, f"[transforms.Resize(64), transforms.Grayscale(3), {ENDING}]"):
        (batched, fast), (pil, slow) = run(augmentation(steps)), run(augmentation(SLOWLY + steps[1:]))
        assert (batched["path"], pil["path"]) == ("batched", "pil") and np.array_equal(fast, slow)


@pytest.mark.parametrize("first", ["", "transforms.Lambda(lambda image: image), "])
def test_each_image_is_drawn_for_itself(first):
    payload = {"code": augmentation(f"[{first}transforms.RandomHorizontalFlip(), {ENDING}]"), "norm": CIFAR_10_NORM}
    training.seed_everything(0)
    generator = training.torch.Generator().manual_seed(0)
    (prepare, _), _ = training.preparations(payload, PROTOCOL, generator)
    images = prepare(noise(1, 32).expand(400, -1, -1, -1))
    flipped = (images != training.fixed(CIFAR_10_NORM, None, None)(noise(1, 32))).flatten(1).any(1).float()
    assert abs(flipped.mean() - 0.5) < 4 * 0.5 / 400**0.5
    assert abs((flipped[1:] != flipped[:-1]).float().mean() - 0.5) < 4 * 0.5 / 399**0.5


def test_predictions_pass_through_the_augmentation_as_the_authors_have_it(evaluator):
    """All images alike: all predictions are the same class."""
    erased = f"[{ENDING}, transforms.Lambda(lambda image: image * 0)]"
    assert score(evaluator, augmentation(erased)).score in {
        (evaluator.proxy.labels == label).mean() for label in range(10)
    }


def test_the_network_is_built_for_the_augmentations_size():
    seen = f"[transforms.Resize((48, 40)), {ENDING}]"
    payload = {"code": augmentation(seen), "norm": CIFAR_10_NORM}
    (prepare, _), path = training.preparations(payload, PROTOCOL, training.torch.Generator().manual_seed(0))
    assert prepare(noise(3, 32)).shape == (3, 3, 48, 40) and path == "batched"


CHECKED = """
    def refuse(image):
        size = image.size[0] // 0
        return image
"""
ENDINGS = {
    "no code": ("", Status.NO_CODE, ""),
    "syntax": ("def transform(norm: return", Status.SYNTAX, ""),
    "contract": ("def transforms(norm): return 1", Status.CONTRACT, "transform"),
    "nothing to call": ("def transform(norm):\n    return [norm]", Status.CONTRACT, "list"),
    "division": (augmentation(f"[refuse, {ENDING}]", CHECKED), Status.CRASH, "ZeroDivisionError"),
    "no tensor": (augmentation("[transforms.Resize(32)]"), Status.CRASH, "TypeError"),
    "other sizes": (augmentation(f"[lambda i: i.resize((32, random.choice((8, 9)))), {ENDING}]"), Status.SHAPE, "size"),
    "no images": (augmentation("[lambda image: torch.zeros(7)]"), Status.SHAPE, "network.py, line "),
    "too large a crop": (augmentation(f"[transforms.RandomCrop(40), {ENDING}]"), Status.SHAPE, "crop"),
    "nan": (augmentation(f"[{ENDING}, lambda image: image / 0 * 0]"), Status.NON_FINITE, ""),
    "a file": (augmentation("open('/etc/passwd')"), Status.FORBIDDEN, "passwd"),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDINGS)
def test_endings(evaluator, name):
    code, status, text = ENDINGS[name]
    outcome = score(evaluator, code)
    assert (outcome.status, outcome.score) == (status, None) and text in outcome.message, outcome


def test_a_crash_shows_the_augmentations_line_not_the_networks(evaluator):
    code = ENDINGS["division"][0]
    line = next(number for number, text in enumerate(code.splitlines(), 1) if "// 0" in text)
    traceback = score(evaluator, code).traceback
    assert f'File "candidate.py", line {line}, in refuse\n    size = image.size[0] // 0' in traceback
    assert traceback.endswith(f"candidate.py, line {line}: size = image.size[0] // 0\n")


def test_an_augmentation_cannot_stand_in_for_the_pinned_network(evaluator):
    """Both are executed in one process; what the augmentation defines is not what is trained."""
    top = "class Net: pass\ndef supported_hyperparameters(): return {}[0]"
    assert score(evaluator, augmentation(PLAIN, top)).score == score(evaluator, augmentation(PLAIN)).score


def test_lemurs_resnet_is_what_paper_a_pins():
    """A node needs no corpus of its own: the code comes with the proxy."""
    try:
        pinned = proxy.prepare(replace(PROTOCOL, network=get_protocol("paper-a").network))
    except DataError as error:
        pytest.skip(f"the published data cannot be had: {error.cause}")
    assert "class Net" in pinned.network and pinned.protocol_hash != proxy.prepare(PROTOCOL).protocol_hash
    with pytest.raises(DataError, match="000000000000"):
        proxy.prepare(replace(PROTOCOL, network="0" * 64))
