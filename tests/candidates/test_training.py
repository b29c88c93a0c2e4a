"""The child's side of the proxy, in process: batches, images, hyperparameters, the network's making, predictions.

How failures are typed is in ``test_training_failures.py``; the whole, confined, in ``test_proxy.py``.
"""

from __future__ import annotations

import json
import random
import textwrap
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from nngpt_lab.candidates import training
from nngpt_lab.candidates.protocols import CIFAR_10_NORM, get_protocol
from nngpt_lab.candidates.training import CANDIDATE, Batches, fixed, hyperparameters
from nngpt_lab.sandbox.status import Status
from nngpt_lab.sandbox.task import Failure
from tests.helpers.single_thread import one_thread  # noqa: F401

PROTOCOL = replace(get_protocol("digits"), max_parameters=None)
CPU = torch.device("cpu")
PIECES = {
    "top": "",
    "init": "self.fc = nn.Linear(3 * 64, 10)",
    "forward": "return self.fc(nn.functional.avg_pool2d(x, 4).flatten(1))",
    "learn": "",
    "hyperparameters": "return {'lr', 'momentum'}",
}


def network(**pieces: str) -> str:
    """Code under LEMUR's contract; a piece replaces one of ``PIECES``. ``learn`` runs before the usual training."""
    body = {name: textwrap.indent(textwrap.dedent(text).strip(), " " * 8) for name, text in (PIECES | pieces).items()}
    return f"""import torch
from torch import nn
{textwrap.dedent(body["top"])}
class Net(nn.Module):
    def __init__(self, in_shape, out_shape, prm, device):
        super().__init__()
        self.in_shape, self.prm, self.device = in_shape, prm, device
{body["init"]}
    def forward(self, x):
{body["forward"]}
    def train_setup(self, prm):
        self.loss = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.SGD(self.parameters(), lr=prm["lr"], momentum=prm["momentum"])
    def learn(self, train_data):
{body["learn"]}
        for inputs, labels in train_data:
            self.optimizer.zero_grad()
            self.loss(self(inputs), labels).backward()
            self.optimizer.step()
def supported_hyperparameters():
{body["hyperparameters"]}
"""


def noise(count: int, side: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (count, 3, side, side), dtype=np.uint8))


def as_pil(images: torch.Tensor) -> list[Image.Image]:
    return [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]


def build(code: str, seed: int = 0, **changes):
    return training.build((code, CANDIDATE), replace(PROTOCOL, **changes), (16, 3, 32, 32), 10, CPU, seed)


def run(code: str, seed: int = 0, images: int = 48, **changes) -> tuple[dict, np.ndarray]:
    """The whole task on made-up images."""
    arrays = {"train_images": noise(images, 32).numpy(), "predict_images": noise(20, 32, seed=1).numpy()}
    arrays["train_labels"] = np.arange(images) % 10
    payload = {"code": code, "network": "", "norm": CIFAR_10_NORM, "classes": 10, "seed": seed, "device": "cpu"}
    payload["protocol"] = replace(PROTOCOL, **changes).as_dict()
    value, results = training.train_and_predict(payload, arrays)
    return value, results["logits"]


# --- batches ------------------------------------------------------------------------------------------------------


def batches(count: int, batch: int) -> Batches:
    images = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return Batches(images, torch.arange(count), order, batch, lambda part: part.float())


def test_each_image_comes_once_with_its_own_label():
    passed = batches(100, 16)
    inputs, labels = map(torch.cat, zip(*passed, strict=True))
    assert torch.equal(inputs.flatten().long(), labels)
    assert sorted(labels.tolist()) == list(range(100)) and labels.tolist() != list(range(100))
    assert torch.equal(labels, torch.randperm(100, generator=torch.Generator().manual_seed(0)))


def test_the_last_batch_holds_what_is_left():
    passed = batches(100, 16)
    assert len(passed) == 7 and passed.batch_size == 16
    assert [len(labels) for _, labels in passed] == [16] * 6 + [4] and len(passed) == 7


def test_one_pass_only():
    passed = batches(100, 16)
    assert len(list(passed)) == 7 and list(passed) == [] and passed.steps == 7
    with pytest.raises(StopIteration):
        next(passed)


def test_a_network_may_write_to_its_progress_bar_which_shows_nothing(capfd):
    told = "train_data.set_description('epoch 1')\ntrain_data.set_postfix(loss=0.5)\ntrain_data.write('.', end='')\n"
    told += "train_data.update(0)\ntrain_data.refresh()\nassert len(train_data) == 3 and train_data.total == 3"
    threads = threading.active_count()
    assert np.array_equal(run(network(learn=told))[1], run(network())[1])
    assert threading.active_count() == threads
    assert capfd.readouterr() == (".", "")  # what tqdm.write is given goes to the child's output


def test_learn_that_loops_twice_trains_once():
    value, once = run(network())
    twice = network().replace("for inputs, labels in train_data:", "for inputs, labels in [*train_data, *train_data]:")
    assert value["steps"] == 3 and np.array_equal(run(twice)[1], once)
    used_up, untrained = network(learn="for batch in train_data: pass"), network(learn="train_data = []")
    assert np.array_equal(run(used_up)[1], run(untrained)[1])
    assert not np.array_equal(run(untrained)[1], once)


def test_another_seed_brings_another_order():
    order = "self.order = torch.cat([labels for _, labels in train_data]).tolist(); train_data = []"
    code = network(learn=order, forward="return torch.tensor([self.order[:10]] * len(x)).float()")
    first, same, other = (run(code, seed)[1] for seed in (0, 0, 1))
    assert np.array_equal(first, same) and not np.array_equal(first, other)


def test_each_epoch_has_an_order_of_its_own_and_the_first_is_the_one_of_a_single_epoch():
    note = "self.seen = getattr(self, 'seen', []) + [torch.cat([labels for _, labels in train_data])]; train_data = []"
    shown = "return torch.stack([self.seen[-1][:10]] * len(x)).float()"
    first, second, third = (run(network(learn=note, forward=shown), epochs=epochs)[1][0] for epochs in (1, 2, 3))
    assert len({tuple(order) for order in (first, second, third)}) == 3
    assert np.array_equal(run(network(learn=note, forward=shown.replace("[-1]", "[0]")), epochs=3)[1][0], first)


def test_more_epochs_train_on():
    value, logits = run(network(), epochs=3)
    assert value["steps"] == 9 and not np.array_equal(logits, run(network())[1])
    prm = hyperparameters({"lr", "epoch_max"}, replace(PROTOCOL, epochs=3))
    assert prm["epoch"] == prm["epoch_max"] == 3  # the second is given by nn-dataset after 2.1.2


# --- images -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("old", "new"), [(32, 64), (32, 256), (8, 32), (64, 32), (32, 31), (48, 32), (32, 80)])
def test_resizing_is_pils_to_the_bit(old, new):
    images, unchanged = noise(12, old), ((0.0,) * 3, (1.0,) * 3)
    levels = [np.array(image.resize((new, new), Image.BILINEAR)) for image in as_pil(images)]
    wanted = torch.from_numpy(np.stack(levels)).permute(0, 3, 1, 2) / 255
    assert torch.equal(fixed(unchanged, new, None)(images), wanted)
    assert torch.equal(fixed(unchanged, old, None)(images), images / 255)


def test_normalisation_is_torchvisions_to_the_bit():
    images = noise(12, 32)
    reference = transforms.Compose([transforms.ToTensor(), transforms.Normalize(*CIFAR_10_NORM)])
    wanted = torch.stack([reference(image) for image in as_pil(images)])
    assert torch.equal(fixed(CIFAR_10_NORM, None, None)(images), wanted)


def test_without_its_flip_the_authors_transform_is_ours():
    """norm_256_flip of nn-dataset 2.1.2: Resize(256), CenterCrop(256), RandomHorizontalFlip, ToTensor, Normalize."""
    images = noise(6, 32)
    steps = [transforms.Resize(256), transforms.CenterCrop(256), transforms.ToTensor()]
    reference = transforms.Compose([*steps, transforms.Normalize(*CIFAR_10_NORM)])
    wanted = torch.stack([reference(image) for image in as_pil(images)])
    assert torch.equal(fixed(CIFAR_10_NORM, 256, None)(images), wanted)


def test_flips_are_drawn_per_image_and_mirror_left_and_right():
    images = noise(1, 32).expand(4000, -1, -1, -1)
    prepare = fixed(CIFAR_10_NORM, None, torch.Generator().manual_seed(0))
    plain = fixed(CIFAR_10_NORM, None, None)(images[:1])
    flipped = torch.tensor([not torch.equal(image, plain[0]) for image in prepare(images)])
    assert abs(flipped.float().mean() - 0.5) < 4 * 0.5 / 4000**0.5  # four standard errors
    runs = (flipped[1:] != flipped[:-1]).float().mean()
    assert abs(runs - 0.5) < 4 * 0.5 / 3999**0.5  # independent of the neighbour

    for image in prepare(images[:8]):
        assert torch.equal(image, plain[0]) or torch.equal(image, plain.flip(3)[0])


@pytest.mark.parametrize(("augment", "same"), [(True, False), (False, True)])
def test_predictions_are_flipped_only_where_the_protocol_says_so(augment, same):
    payload = {"norm": CIFAR_10_NORM}
    protocol = replace(PROTOCOL, flip=True, augment_predictions=augment)
    (train, predict), path = training.preparations(payload, protocol, torch.Generator().manual_seed(0))
    plain, images = fixed(CIFAR_10_NORM, 32, None), noise(32, 32)
    assert path == "tensor" and not torch.equal(train(images), plain(images))
    assert torch.equal(predict(images), plain(images)) == same


def test_an_augmentation_is_given_tuples_as_the_authors_pass_them():
    code = "import functools\nfrom torchvision import transforms as T\n\n@functools.lru_cache\ndef transform(norm):\n"
    code += "    return T.Compose([T.ToTensor(), T.Normalize(*norm)])"
    payload = {"code": code, "norm": json.loads(json.dumps(CIFAR_10_NORM))}  # as a parcel brings it
    (prepare, _), _ = training.preparations(payload, get_protocol("digits-augmentation"), torch.Generator())
    assert torch.equal(prepare(noise(4, 32)), fixed(CIFAR_10_NORM, None, None)(noise(4, 32)))


# --- hyperparameters ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [set, list, tuple, dict.fromkeys, iter])
def test_hyperparameters_in_any_container(kind):
    declared = kind(["lr", "momentum", "pretrained", "stochastic_depth_prob", "batch"])
    prm = hyperparameters(declared, PROTOCOL)
    assert (prm["lr"], prm["momentum"], prm["dropout"], prm["batch"]) == (0.01, 0.9, 0.2, 16)
    assert prm["pretrained"] == 0 and prm["stochastic_depth_prob"] == 0.5
    assert hyperparameters([], PROTOCOL) | {"stochastic_depth_prob": 0.5} == prm


def test_their_order_does_not_depend_on_a_sets():
    assert list(hyperparameters({"c", "a", "b"}, PROTOCOL))[:3] == ["a", "b", "c"]


def test_the_network_is_given_what_the_authors_give_it():
    init = "self.fc = nn.Linear(in_shape[1] * 64, out_shape[0])\nassert in_shape == (16, 3, 32, 32)\n"
    init += "assert out_shape == (10,) and prm['lr'] == 0.01 and device.type in ('cpu', 'meta')"
    assert run(network(init=init))[0]["parameters"] == 1930


# --- the network --------------------------------------------------------------------------------------------------


def weights(code: str, **changes) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in build(code, **changes).parameters()]


DRAWS = {
    "plain": "self.fc = nn.Linear(5, 5)",
    "refuses meta": "assert device.type != 'meta'\nself.fc = nn.Linear(5, 5)",
    "reads numbers": "self.fc = nn.Linear(5, 5 + int(torch.zeros(1).item()))",
    "numpy": "self.fc = nn.Linear(5, 5)\nnp.random.rand(3)\nself.w = nn.Parameter(torch.tensor(np.random.rand(5)))",
    "random": "self.fc = nn.Linear(5, random.choice(range(5, 50)))",
    "a generator of the module's": "self.w = nn.Parameter(torch.tensor(RNG.random(5)))",
    "a counter of the module's": "self.w = nn.Parameter(torch.full((5,), float(next(COUNTER))))",
    "tensors kept in the module": "self.w = nn.Parameter(KEPT.setdefault('w', torch.rand(5)))",
}


@pytest.mark.parametrize("name", DRAWS)
def test_equal_seeds_give_equal_weights_whether_or_not_there_is_a_limit(name):
    top = "import itertools, random\nimport numpy as np\n"
    top += "RNG, COUNTER, KEPT = np.random.default_rng(0), itertools.count(), {}"
    code = network(top=top, init=DRAWS[name])
    limited, again, free = (weights(code, max_parameters=limit) for limit in (10_000, 10_000, None))
    assert len(limited) == len(free)
    for one, two, three in zip(limited, again, free, strict=True):
        assert one.device.type == "cpu" and torch.equal(one, two) and torch.equal(one, three)


def test_other_seeds_give_other_weights():
    assert not torch.equal(weights(network())[0], weights(network(), seed=1)[0])


def test_a_limit_does_not_move_what_follows():
    """Dropout, order and flips draw after the network is made; a protocol's limit must not change a score."""
    dropped = "x = nn.functional.dropout(nn.functional.avg_pool2d(x, 4), training=self.training)\n"
    code = network(forward=dropped + "return self.fc(x.flatten(1))")
    assert np.array_equal(run(code)[1], run(code, max_parameters=10_000)[1])


FAR_OVER = "self.fc = nn.Parameter(torch.empty(1930 * 101))\nassert False, 'its numbers are drawn'"


@pytest.mark.parametrize(
    ("init", "limit"),
    [("self.fc = nn.Linear(192, 10)", 1929), ("self.fc = nn.Linear(10**9, 10**9)", 500_000), (FAR_OVER, 1930)],
    ids=["one too many", "no memory for it", "far over"],
)
def test_the_limit_is_exact_and_holds_before_memory_is_taken(init, limit):
    """No machine has addresses for the second one's four exabytes, so nothing is taken there either."""
    assert build(network(), max_parameters=1930)
    with pytest.raises(Failure) as caught:
        build(network(init=init), max_parameters=limit)
    assert caught.value.status == Status.PARAMETERS and f"{limit:,}" in str(caught.value)


def test_what_a_constructor_makes_and_throws_away_does_not_count():
    init = "self.fc = nn.Linear(192, 900)\nself.fc = nn.Linear(192, 10)"
    assert training.count_parameters(build(network(init=init), max_parameters=1930)) == 1930


OTHER_ON_META = {  # constructors that make less of a tensor without numbers; 1,930 weights each, and many on meta
    "an exception": "try:\n    n = torch.zeros(192).numpy().size\nexcept Exception:\n    n = 10**7\n",
    "a number": "try:\n    n = int(torch.tensor(192))\nexcept RuntimeError:\n    n = 10**7\n",
    "a truth value": "n = 192\ntry:\n    assert torch.ones(1) > 0\nexcept Exception:\n    n = 10**7\n",
}


@pytest.mark.parametrize("name", OTHER_ON_META)
def test_what_is_counted_is_the_network_that_is_trained(name):
    code = network(init=OTHER_ON_META[name] + "self.fc = nn.Linear(n, 10)")
    assert training.count_parameters(build(code, max_parameters=1930)) == 1930
    payload = {"code": code, "protocol": PROTOCOL.as_dict(), "classes": 10}
    assert training.weights(payload, {})[0] == 1930


@pytest.mark.parametrize("place", ["top", "init", "hyperparameters"])
def test_code_runs_once_so_that_it_never_meets_what_it_left(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = network(**{place: f"import os; os.mkdir('{place}')\n{PIECES[place]}"})
    assert build(code, max_parameters=1930) and (tmp_path / place).is_dir()


LAZY = "self.fc = nn.LazyLinear(10)"


def test_lazy_layers_are_counted_once_they_have_a_shape():
    assert run(network(init=LAZY), max_parameters=1930)[0]["parameters"] == 1930
    with pytest.raises(Failure) as caught:
        run(network(init=LAZY), max_parameters=1929)
    assert caught.value.status == Status.PARAMETERS


def test_frozen_and_shared_weights_count_as_torch_counts_them():
    init = "self.fc = nn.Linear(3 * 64, 10)\nself.same = self.fc\nself.fc.weight.requires_grad_(False)"
    assert training.count_parameters(build(network(init=init))) == 1930


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # the candidate's own affair
def test_the_candidate_is_a_module_like_any_other():
    top = """
        import inspect
        from dataclasses import dataclass

        @dataclass
        class Sizes:
            width: int = 10

        @torch.jit.script
        def gate(x: torch.Tensor, n: int) -> torch.Tensor:
            return x * n

        assert "class Sizes" in inspect.getsource(Sizes) and __name__ != "__main__"
        assert Sizes.__dataclass_fields__["width"].type is int  # no __future__ of ours
    """
    assert run(network(top=textwrap.dedent(top), init="self.fc = nn.Linear(3 * 64, Sizes().width)"))


def test_an_undefined_annotation_is_an_error_as_it_is_for_the_authors():
    with pytest.raises(NameError, match="Tensor"):
        build(network(top="def gate(x: Tensor): pass"))


# --- predictions --------------------------------------------------------------------------------------------------


def test_predictions_are_made_in_evaluation_mode_without_gradients():
    forward = "assert self.training or not torch.is_grad_enabled()\nx = self.fc(x[:, :, ::4, ::4].flatten(1))\n"
    _, logits = run(network(forward=forward + "return x if self.training else torch.zeros_like(x) + len(x)"))
    assert logits.dtype == np.float32 and logits[:, 0].tolist() == [16] * 16 + [4] * 4


def test_predictions_keep_the_images_order():
    _, logits = run(network(forward="return self.fc(x[:, :, ::4, ::4].flatten(1)) * 0 + x.mean((1, 2, 3))[:, None]"))
    wanted = fixed(CIFAR_10_NORM, None, None)(noise(20, 32, seed=1)).mean((1, 2, 3))
    assert np.allclose(logits[:, 3], wanted, atol=1e-6)


@pytest.mark.parametrize("made", ["torch.zeros(len(x), 10).double()", "torch.zeros(len(x), 10, dtype=torch.bfloat16)"])
def test_predictions_of_other_precision_are_taken(made):
    assert run(network(learn="train_data = []", forward=f"return {made}"))[1].dtype == np.float32


@pytest.mark.parametrize(
    "made",
    [
        "(y, y)", "[y]", "{'logits': y}", "None", "y[:, :9]", "y[:-1]", "y.T", "y.flatten()", "y[..., None]", "y[0]",
        "y.numpy()", "torch.cat([y, y], 1)", "y.mean()", "torch.zeros(16, 10)",
    ],
)  # fmt: skip
def test_anything_but_one_row_of_logits_per_image_is_a_shape(made):
    with pytest.raises(Failure) as caught:
        run(network(learn="train_data = []", forward=f"y = torch.zeros(len(x), 10)\nreturn {made}"))
    assert caught.value.status == Status.SHAPE and "Net returned" in str(caught.value)


def test_whatever_was_drawn_before_does_not_matter():
    first = run(network())[1]
    random.seed(5), np.random.seed(5), torch.manual_seed(5)  # noqa: NPY002
    assert np.array_equal(run(network())[1], first)
