"""Plain modules under LEMUR's contract: which class is meant, what its constructor is given, and that it trains."""

import pytest
import torch

from nngpt_lab.candidates import contract
from nngpt_lab.candidates.adapter import adapted, kind_of
from nngpt_lab.candidates.outcome import Kind
from nngpt_lab.candidates.proxy import OWN_NETWORKS
from nngpt_lab.ground import paths
from nngpt_lab.ground.errors import UsageError
from nngpt_lab.sandbox.status import Status

PLAIN = '''
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self, inside, outside):
        super(Block, self).__init__()
        self.layer = nn.Conv2d(inside, outside, 3, stride=2, padding=1)

    def forward(self, x):
        return self.layer(x).relu()

class NAME(nn.Module):
    """NAME says its own NAME."""
    def __init__(self, ARGUMENTS):
        super(NAME, self).__init__()
        self.block = Block(3, width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x):
        return self.head(self.block(x).mean((2, 3)))
'''
TRANSFORM = "def transform(norm):\n    return lambda image: image\n"


def plain(name: str = "Mine", arguments: str = "num_classes=1000, width=4") -> str:
    return PLAIN.replace("NAME", name).replace("ARGUMENTS", arguments)


@pytest.mark.parametrize("name", ["Mine", "Net"])
@pytest.mark.parametrize("arguments", ["num_classes=1000, width=4", "num_classes, *, width=4, device=None, **more"])
def test_a_plain_module_keeps_the_contract_and_learns(name, arguments):
    code = adapted(plain(name, arguments))
    assert contract.check(code, Kind.ARCHITECTURE).status == Status.OK
    module: dict = {"__name__": "candidate"}
    exec(compile(code, "candidate.py", "exec"), module)
    torch.manual_seed(0)
    net = module["Net"]((8, 3, 16, 16), (5,), {"lr": 0.1, "momentum": 0.9}, torch.device("cpu"))
    net.train_setup({"lr": 0.1, "momentum": 0.9})
    inputs, labels = torch.randn(8, 3, 16, 16), torch.arange(8) % 5
    assert net(inputs).shape == (8, 5)
    before = net.loss(net(inputs), labels).item()
    net.learn([(inputs, labels)] * 30)
    assert net.loss(net(inputs), labels).item() < before
    assert module["supported_hyperparameters"]() == {"lr", "momentum"}


def test_what_keeps_the_contract_or_tries_to_stays_as_it_is():
    whole = (paths.PACKAGE / "candidates" / OWN_NETWORKS["small"]).read_text(encoding="utf-8")
    for code in (whole, whole.replace("train_setup", "prepare"), "class Net(:", "x = 1", TRANSFORM):
        assert adapted(code) == code


def test_names_in_texts_and_attributes_are_not_renamed():
    code = adapted(plain("Net") + "\nothers = object\nothers.Net = 1\n")
    assert '"""Net says its own Net."""' in code
    assert "others.Net" in code
    assert "class OwnNet(nn.Module)" in code


@pytest.mark.parametrize(
    ("code", "net", "message"),
    [
        (plain() + plain("Other"), None, "any of Mine, Other could be the network"),
        (plain(), "mine", "did you mean 'Mine'"),
        (plain(arguments="num_classes, width, depth"), None, "asks for depth, width"),
    ],
)
def test_what_cannot_be_told_is_said(code, net, message):
    with pytest.raises(UsageError, match=message):
        adapted(code, net)


def test_a_function_that_makes_the_network_can_be_named():
    code = adapted(plain() + "\ndef make(num_classes=7):\n    return Mine(num_classes)\n", "make")
    assert "self.model = make(num_classes=out_shape[0])" in code


def test_the_kind_follows_from_what_is_defined():
    assert kind_of(TRANSFORM) == Kind.AUGMENTATION
    assert {kind_of(code) for code in (plain(), "def f(:", plain() + TRANSFORM)} == {Kind.ARCHITECTURE}
