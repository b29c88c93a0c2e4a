"""Hashes at three levels of likeness: what must, and what must not, change each of them."""

from __future__ import annotations

import ast
import doctest
import gc
import importlib
import pkgutil
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

import nngpt_lab
from nngpt_lab.corpora import code
from nngpt_lab.corpora.code import MARK, NameEraser, code_hash, describe, no_collection, parse, strip_docstrings

NET = '''"""A small net."""
import torch.nn as nn
import torch.nn.functional as F

class Net(nn.Module):
    """It has one layer."""

    def __init__(self, in_shape, out_shape):
        super().__init__()
        self.conv = nn.Conv2d(in_shape[1], 32, kernel_size=3, padding=1)  # the only one
        self.head = nn.Linear(32, out_shape[0])

    def features(self, x):
        try:
            pooled = self.conv(x).mean((2, 3))
        except RuntimeError as error:
            raise ValueError(str(error))
        return F.relu(pooled)

    def forward(self, x):
        return self.head(self.features(x))
'''
HASHES = ("code_hash", "ast_hash", "nameless_hash")


def changed(other: str, original: str = NET) -> set[str]:
    """Which of the three hashes differ between two sources that both parse."""
    a, b = describe(original), describe(other)
    assert a.parses and b.parses
    return {name for name in HASHES if getattr(a, name) != getattr(b, name)}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("  # the only one", ""),
        ("# the only one", "# some other remark"),
        ('"""A small net."""', ""),
        ("It has one layer.", "It has a layer, and a head."),
        ("    def forward", "\n\n\n    # forward\n    def forward"),
        ("kernel_size=3, padding=1", "\n            kernel_size=3,\n            padding=1,\n        "),
        ("self.conv(x).mean((2, 3))", "(self.conv( x )).mean( (2,3) )"),
    ],
)
def test_comments_docstrings_and_layout_change_the_text_only(old, new):
    assert old in NET
    assert changed(NET.replace(old, new)) == {"code_hash"}


@given(st.text(st.characters(codec="ascii", exclude_characters="\r\n\x00\x0c"), max_size=40), st.integers(0, 8))
def test_any_comment_anywhere_changes_the_text_only(comment, blank_lines):
    for anchor in ("    def features", "        return F.relu", "import torch.nn as nn"):
        indent = anchor[: len(anchor) - len(anchor.lstrip())]
        assert changed(NET.replace(anchor, f"{indent}#{comment}\n" + "\n" * blank_lines + anchor)) == {"code_hash"}


@pytest.mark.parametrize(
    ("old", "new"),
    [("Net", "Model"), ("in_shape", "size"), ("pooled", "y"), ("conv", "stem"), ("features", "body"), ("error", "e"),
     ("head", "relu")],
)  # fmt: skip
def test_renaming_what_the_source_binds_keeps_the_structure(old, new):
    assert changed(NET.replace(old, new)) == {"code_hash", "ast_hash"}


NAME = st.from_regex(r"[a-z]{2,8}_[a-z]{1,4}", fullmatch=True)


@given(st.lists(NAME, min_size=5, max_size=5, unique=True))
def test_any_consistent_renaming_keeps_the_structure(names):
    other = NET
    for old, new in zip(("Net", "in_shape", "pooled", "conv", "features"), names, strict=True):
        other = other.replace(old, f"own_{new}")
    assert changed(other) == {"code_hash", "ast_hash"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("32, kernel", "64, kernel"),
        ("kernel_size=3", "kernel_size=5"),
        ("padding=1", "dilation=1"),
        ("nn.Linear", "nn.LazyLinear"),
        ("F.relu", "F.gelu"),
        ("RuntimeError", "TypeError"),
        ("        return F.relu", "        pooled = nn.Dropout()(pooled)\n        return F.relu"),
        ("return self.head(self.features(x))", "return self.features(self.head(x))"),
    ],
)
def test_another_program_changes_all_three(old, new):
    assert old in NET
    assert changed(NET.replace(old, new)) == set(HASHES)


MARKED = ["x = 1", f"{MARK}0{MARK} = '{MARK}1{MARK}'", f"def {MARK}(a): return f'{{a}}{MARK * 2}0{MARK * 2}'"]


@pytest.mark.parametrize("code", [NET, *MARKED, "class a:\n  a = 1\n  def b(self): self.a = a.a"])
def test_both_trees_are_hashed_as_if_each_were_written_out(code):
    tree = parse(code)
    strip_docstrings(tree)
    facts = describe(code)
    assert facts.ast_hash == code_hash(ast.unparse(tree))
    NameEraser(ast.walk(tree)).erase()
    assert facts.nameless_hash == code_hash(ast.unparse(tree))


def test_an_inconsistent_renaming_is_another_program():
    assert changed(NET.replace("return F.relu(pooled)", "return F.relu(x)")) == set(HASHES)


def test_two_names_are_not_confused_with_one():
    assert "nameless_hash" in changed("def f(a, b):\n    return a - a\n", "def f(a, b):\n    return a - b\n")


def test_library_names_survive_beside_own_attributes_of_the_same_name():
    """`F.relu` and `F.tanh` are different programs, even where the class has an attribute of that name."""
    source = "import torch.nn.functional as F\ndef f(self, x):\n    self.relu = 1\n    return F.relu(x)\n"
    assert "nameless_hash" in changed(source.replace("relu", "tanh"), source)
    assert "nameless_hash" not in changed(source.replace("self.relu", "self.act"), source)


def test_names_of_global_statements_are_renamed_too():
    source = "count = 0\ndef f():\n    global count\n    count += 1\n"
    assert changed(source.replace("count", "total"), source) == {"code_hash", "ast_hash"}


@pytest.mark.parametrize(
    "text", ["def f(:\n", "x = 1\x00", "  x\ny", "(" * 300 + ")" * 300, "-" * 100_000 + "1", "a" + "+a" * 20_000]
)
def test_source_that_does_not_parse_has_a_text_hash_only(text):
    facts = describe(text)
    assert not facts.parses
    assert (facts.ast_hash, facts.nameless_hash, facts.layer_calls) == (None, None, 0)
    assert len(facts.code_hash) == 64 and facts.characters == len(text)


def test_empty_source_parses():
    facts = describe("")
    assert facts.parses and (facts.lines, facts.characters, facts.layer_calls) == (0, 0, 0)
    assert facts.code_hash == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # SHA-256 of nothing
    assert facts.ast_hash == describe("# a remark\n").ast_hash


def test_sizes():
    facts = describe(
        "import torch.nn as nn\n\n# two layers\nx = [nn.ReLU() for _ in range(9)]\nnn.Linear(1, 2)\nnn.init\n"
    )
    assert (facts.lines, facts.layer_calls) == (4, 2)


def test_docstrings_go_wherever_a_definition_can_stand():
    inner = '{0}def f():\n{0}    """gone"""\n{0}    return "kept"\n'
    places = ("", "class C:\n", "if x:\n    pass\nelse:\n", "try:\n    pass\nexcept E:\n", "for i in x:\n",
              "with x:\n", "async def g():\n", "match x:\n  case 1:\n", "try:\n    pass\nfinally:\n")  # fmt: skip
    for place in places:
        tree = ast.parse(place + inner.format("    " if place else ""))
        strip_docstrings(tree)
        assert "gone" not in ast.unparse(tree) and "kept" in ast.unparse(tree), place


@pytest.mark.parametrize("on", [True, False])
def test_collection_is_afterwards_as_it_was(on):
    before = gc.isenabled()
    try:
        (gc.enable if on else gc.disable)()
        with pytest.raises(ZeroDivisionError), no_collection():
            assert not gc.isenabled()
            _ = 1 / 0
        assert gc.isenabled() == on
    finally:
        (gc.enable if before else gc.disable)()


def doctested_modules() -> list[str]:
    found = pkgutil.walk_packages(nngpt_lab.__path__, "nngpt_lab.")
    return [module.name for module in found if not module.name.endswith("__main__")]


@pytest.mark.parametrize("name", doctested_modules())
def test_doctests(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_some_module_has_a_doctest():
    finder = doctest.DocTestFinder(exclude_empty=True)
    examples = [t for n in doctested_modules() for t in finder.find(importlib.import_module(n)) if t.examples]
    assert len(examples) >= 3


def test_parsing_in_threads_leaves_the_filters_of_warnings_alone(monkeypatch):
    """Two sources are parsed so that the first to begin is the first to end: as between a pool's threads."""
    before, began, ended = list(warnings.filters), threading.Event(), threading.Event()
    both, really = threading.Barrier(2), ast.parse

    def slow(source):
        began.set()
        both.wait()
        if source == "2":
            ended.wait()
        return really(source)

    monkeypatch.setattr(ast, "parse", slow)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(code.parse, "1")
        began.wait()
        second = threads.submit(code.parse, "2")
        first.result()
        ended.set()
        second.result()
    added = [entry for entry in warnings.filters if entry not in before]
    assert all(entry[3] is not None and entry[3].pattern == code.SOURCES for entry in added)
    monkeypatch.undo()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        code.parse("x = '\\d'")
        warnings.warn("an odd escape in our own code", SyntaxWarning, stacklevel=1)
    assert [str(one.message) for one in told] == ["an odd escape in our own code"]


@pytest.mark.parametrize(
    ("call", "loads"),
    [
        ("torch.load('w.pt')", True),
        ("self.load_state_dict(torch.hub.load_state_dict_from_url(url))", True),
        ("models.resnet18(pretrained=True)", True),
        ("timm.create_model('x', pretrained=prm['pretrained'])", True),
        ("models.resnet18(weights='DEFAULT')", True),
        ("models.resnet18(weights=models.ResNet18_Weights.DEFAULT)", True),
        ("AutoModel.from_pretrained('x')", True),
        ("models.resnet18(weights=None, pretrained=False)", False),
        ("nn.CrossEntropyLoss(weight=w)", False),
        ("json.load(file)", False),
        ("f(weights=self.weights)", False),
    ],
)
def test_calls_that_ask_for_weights_learnt_elsewhere(call, loads):
    assert code.weight_loads(f"x = 1\ny = {call}")[:1] == [f"line 2: {call}"] * loads


def test_what_does_not_parse_loads_nothing():
    assert code.weight_loads("torch.load(") == []
