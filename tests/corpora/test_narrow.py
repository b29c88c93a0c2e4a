"""LEMUR at reduced width: what the rewrite touches, and what it must not."""

import ast
from pathlib import Path

import pytest

from nngpt_lab.candidates import contract
from nngpt_lab.candidates.outcome import Kind
from nngpt_lab.candidates.small_network import __file__ as SMALL_NETWORK
from nngpt_lab.corpora.code import describe
from nngpt_lab.corpora.narrow import narrow
from nngpt_lab.sandbox.status import Status


@pytest.mark.parametrize(
    ("wide", "narrowed"),
    [
        ("nn.Conv2d(3, 128, 3)", "nn.Conv2d(3, 8, 3)"),
        ("nn.Conv2d(64, 128, 32)", "nn.Conv2d(4, 8, 32)"),  # the third is the kernel
        ("nn.Conv2d(in_channels=64, out_channels=96, groups=32)", "nn.Conv2d(in_channels=4, out_channels=6, groups=2)"),
        ("nn.Conv2d(64, 64, kernel_size=32, padding=16)", "nn.Conv2d(4, 4, kernel_size=32, padding=16)"),
        ("nn.Linear(256 * 6 * 6, 4096)", "nn.Linear(16 * 6 * 6, 256)"),
        ("nn.BatchNorm2d(512)", "nn.BatchNorm2d(32)"),
        ("nn.AdaptiveAvgPool2d((32, 32))", "nn.AdaptiveAvgPool2d((32, 32))"),
        ("F.interpolate(x, size=64)", "F.interpolate(x, size=64)"),
        ("channels = [64, 128, 256]", "channels = [4, 8, 16]"),
        ("image_size = 224", "image_size = 224"),
        ("self.patch_size = 32", "self.patch_size = 32"),
        ("self.width: int = 64", "self.width: int = 4"),
        ("x = 705", "x = 705"),  # no multiple of 16
        ("x = 16", "x = 16"),  # too small
        ("x = 80000000", "x = 80000000"),  # too large
        ("x = True", "x = True"),
        ("x = 64.0", "x = 64.0"),
        ("x = '64'", "x = '64'"),
    ],
)
def test_narrows_widths_and_nothing_else(wide, narrowed):
    assert narrow(wide) == narrowed


def test_defaults_follow_the_names_of_their_parameters():
    code = "def f(a, channels=64, kernel_size=64, *, hidden=32, dropout, stride=32):\n    pass"
    assert narrow(code) == code.replace("channels=64", "channels=4").replace("hidden=32", "hidden=2")


def test_a_network_keeps_its_contract_and_its_structure():
    code = Path(SMALL_NETWORK).read_text(encoding="utf-8")
    narrowed = narrow(code)
    assert "widths = (in_shape[1], 16, 2, 4)" in narrowed
    assert contract.check(narrowed, Kind.ARCHITECTURE).status == Status.OK
    assert describe(narrowed).layer_calls == describe(code).layer_calls
    tree, before = ast.parse(narrowed), ast.parse(ast.unparse(ast.parse(code)))
    assert sum(1 for _ in ast.walk(tree)) <= sum(1 for _ in ast.walk(before))


def test_comments_and_docstrings_go():
    assert narrow('"""Text."""\nx = 64  # wide') == "x = 4"


def test_what_does_not_parse_is_refused():
    with pytest.raises(SyntaxError):
        narrow("class Net(:")
