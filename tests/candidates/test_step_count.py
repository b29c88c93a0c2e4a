"""Who trains longer than the protocol says is found out, if the code does not hide it; others are left alone."""

from __future__ import annotations

import pytest

from nngpt_lab.sandbox.status import VALID, Status
from nngpt_lab.sandbox.task import Failure
from tests.candidates import test_training
from tests.candidates.test_proxy_augmentations import PLAIN, augmentation
from tests.candidates.test_proxy_augmentations import run as augmented

network, run, one_thread = test_training.network, test_training.run, test_training.one_thread
STEP = "self.loss(self(inputs), labels).backward()\n            "
LONGER = {
    "batches kept": "for inputs, labels in list(train_data) * 3:\n    {step}",
    "a new optimizer each time": """
        kept = list(train_data)
        for _ in range(2):
            self.train_setup(self.prm)
            for inputs, labels in kept:
                {step}
    """,
    "two steps a batch": "for inputs, labels in train_data:\n    {step}\n    {step}",
    "before any batch": "self.optimizer.step()",
    "going on all the same": """
        for inputs, labels in list(train_data) * 3:
            try:
                {step}
            except Exception:
                pass
    """,
}
KEPT = {
    "a list, once": "for inputs, labels in list(train_data):\n    {step}",
    "fewer steps than batches": """
        for number, (inputs, labels) in enumerate(train_data):
            if number % 2:
                {step}
    """,
    "two networks, an optimizer each": """
        halves = [list(half.parameters()) for half in (self, nn.Linear(3, 3))]
        optimizers = [torch.optim.SGD(half, lr=0.01) for half in halves]
        for inputs, labels in train_data:
            {step}
            optimizers[1].step()
    """,
    "an optimizer within another": """
        class Around(torch.optim.Optimizer):
            def __init__(self, inner):
                super().__init__(inner.param_groups, {{}})
                self.inner = inner
            def step(self, closure=None):
                return self.inner.step(closure)
        self.optimizer = Around(self.optimizer)
        for inputs, labels in train_data:
            {step}
    """,
    "a subclass that calls its parent": """
        class Own(torch.optim.SGD):
            def step(self, closure=None):
                return super().step(closure)
        self.optimizer = Own(self.parameters(), lr=0.01)
        for inputs, labels in train_data:
            {step}
    """,
    "a step that raised": """
        for inputs, labels in train_data:
            try:
                self.optimizer.step(closure=lambda: 1 / 0)
            except ZeroDivisionError:
                pass
    """,
}


def learning(learn: str) -> str:
    """A network that learns so, and then finds no batch left."""
    step = "self.loss(self(inputs), labels).backward(); self.optimizer.step()"
    return network(learn=learn.format(step=step))


@pytest.mark.parametrize("name", LONGER)
def test_training_for_longer(name):
    with pytest.raises(Failure, match="more often than it was given batches") as told:
        run(learning(LONGER[name]))
    assert told.value.status == Status.OVERTRAINED and Status.OVERTRAINED not in VALID


@pytest.mark.parametrize("name", KEPT)
def test_keeping_to_one_step_a_batch(name):
    assert run(learning(KEPT[name]))[0]["steps"] == 3


def test_a_step_in_forward_while_it_is_only_to_predict():
    forward = "x = x.mean(dim=(2, 3))\nif not self.training:\n    self.optimizer.step()\nreturn self.layer(x)"
    with pytest.raises(Failure) as told:
        run(network(init="self.layer = nn.Linear(3, 10)", forward=forward))
    assert told.value.status == Status.OVERTRAINED


SWAPPED = """
import sys
train = torch.nn.Module.train
def longer(self, batches):
    {body}
def swap(self, mode=True):
    if type(self).__name__ == "Net" and mode:
        {where} = longer
    return train(self, mode)
torch.nn.Module.train = swap
"""


@pytest.mark.parametrize("where", ["type(self).learn", "self.__dict__['learn']"])
def test_an_augmentation_with_a_learn_of_its_own(where, monkeypatch):
    import torch

    monkeypatch.setattr(torch.nn.Module, "train", torch.nn.Module.train)
    with pytest.raises(Failure, match="replaces the network's learn") as told:
        augmented(augmentation(PLAIN, top=SWAPPED.format(where=where, body="pass")))
    assert told.value.status == Status.FORBIDDEN


REPEATING = """
step = torch.optim.SGD.step
def again(self, closure=None):
    for _ in range(3):
        step(self, closure)
torch.optim.SGD.step = again
"""


def test_an_augmentation_that_repeats_the_optimizers_steps(monkeypatch):
    import torch

    monkeypatch.setattr(torch.optim.SGD, "step", torch.optim.SGD.step)
    with pytest.raises(Failure) as told:
        augmented(augmentation(PLAIN, top=REPEATING))
    assert told.value.status == Status.OVERTRAINED
