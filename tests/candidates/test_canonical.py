"""Canonical forms: what each promises not to see, what it says of a real change, and that it reads any text."""

from __future__ import annotations

import ast
import builtins
import io
import re
import textwrap
import tokenize
from dataclasses import dataclass
from itertools import pairwise
from keyword import iskeyword
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nngpt_lab.candidates.canonical import FORMS, LEXEME, raw_tokens
from nngpt_lab.candidates.novelty import AUTHORS_LOOP, PAPER_B, jaccard, shingle_hashes

SHINGLE = {"raw_tokens": AUTHORS_LOOP.shingle, "nn_dup": PAPER_B.shingle, "ast_nameless": 10, "structure": 1}


def similarity(form: str, a: str, b: str) -> float:
    """Exact Jaccard index of two sources in a form."""
    one, other = (shingle_hashes(FORMS[form].tokens(code), SHINGLE[form]) for code in (a, b))
    return jaccard(one, [other])[0]


# --- generated networks: the same program under other names, comments, layout and numbers ----------------------------


@dataclass(frozen=True)
class Style:
    """All that an author may choose without changing the program."""

    block: str = "Block"
    method: str = "features"
    layer: str = "conv"
    variable: str = "x"
    comment: str = ""
    gap: str = "\n"


def network(widths: list[int], kernel: int, style: Style) -> str:
    s = style
    blocks = "\n".join(f"        self.{s.layer}{i} = {s.block}({a}, {b})" for i, (a, b) in enumerate(pairwise(widths)))
    calls = "\n".join(f"        {s.variable} = self.{s.layer}{i}({s.variable})" for i in range(len(widths) - 1))
    return textwrap.dedent("""\
        import torch
        import torch.nn as nn
        {gap}
        class {block}(nn.Module):  {comment}
            def __init__(self, inputs, outputs):
                super().__init__()
                self.{layer} = nn.Conv2d(inputs, outputs, kernel_size={kernel}, padding=1)
                self.norm = nn.BatchNorm2d(outputs)
            {comment}
            def forward(self, {variable}):
                return torch.relu(self.norm(self.{layer}({variable})))
        {gap}
        class Net(nn.Module):
            def __init__(self, in_shape, out_shape, prm, device):
                super().__init__()
        {blocks}
                self.head = nn.Linear({last}, out_shape[0])
        {gap}
            def {method}(self, {variable}):
        {calls}
                {comment}
                return {variable}.mean((2, 3))
        {gap}
            def forward(self, {variable}):
                return self.head(self.{method}({variable}))
        """).format(blocks=blocks, calls=calls, kernel=kernel, last=widths[-1], **vars(style))


KEPT_OUT = {
    "self",
    "nn",
    "torch",
    "super",
    "inputs",
    "outputs",
    "norm",
    "head",
    "prm",
    "device",
    "in_shape",
    "out_shape",
}
lower = st.from_regex(r"[a-z][a-z_]{1,8}", fullmatch=True).filter(lambda n: n not in KEPT_OUT and not is_reserved(n))
layouts = st.builds(
    Style,
    comment=st.sampled_from(["", "# a remark", "# TODO: 3 Conv2d"]),
    gap=st.sampled_from(["\n", "\n\n\n", "\n  \n"]),
)
programs = st.tuples(
    st.lists(st.sampled_from([3, 16, 32, 64, 100]), min_size=2, max_size=5), st.sampled_from([1, 3, 5])
)


def is_reserved(name: str) -> bool:
    return iskeyword(name) or hasattr(builtins, name) or name in ("forward", "mean", "relu")


@settings(deadline=None)
@given(programs, layouts)
def test_layout_is_nothing_to_any_form_and_comments_only_to_raw_tokens(program, style):
    plain, other = network(*program, Style()), network(*program, style)
    same = {name: form.tokens(plain) == form.tokens(other) for name, form in FORMS.items()}
    assert same == dict.fromkeys(FORMS, True) | {"raw_tokens": style.comment == ""}


@settings(deadline=None)
@given(programs, layouts, lower, lower)
def test_lower_case_variables_are_nothing_to_nn_dup(program, style, layer, variable):
    other = Style(layer=layer, variable=variable, comment=style.comment, gap=style.gap)
    assert FORMS["nn_dup"].tokens(network(*program, Style())) == FORMS["nn_dup"].tokens(network(*program, other))


@settings(deadline=None)
@given(programs, layouts, st.lists(lower, min_size=4, max_size=4, unique=True))
def test_all_names_of_the_author_are_nothing_to_the_nameless_forms(program, style, names):
    block, method, layer, variable = names
    other = Style(block.title() + "Unit", method, layer, variable, style.comment, style.gap)
    for name in ("ast_nameless", "structure"):
        assert FORMS[name].tokens(network(*program, Style())) == FORMS[name].tokens(network(*program, other)), name


def test_a_renamed_class_is_seen_by_nn_dup_since_it_keeps_declared_names():
    plain, renamed = (network([3, 16, 32], 3, Style(block=block)) for block in ("Block", "Unit"))
    assert "Unit" in FORMS["nn_dup"].tokens(renamed)
    assert 0.5 < similarity("nn_dup", plain, renamed) < PAPER_B.jaccard_threshold


# --- what each form says of a change ---------------------------------------------------------------------------------

NET = '''\
"""A small network."""
import torch
import torch.nn as nn
import torch.nn.functional as F


def supported_hyperparameters():
    return {"lr", "momentum"}


class ConvUnit(nn.Module):
    """Convolution, norm, activation."""

    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x):
        return F.relu(self.norm(self.conv(x)))


class Net(nn.Module):
    def __init__(self, in_shape, out_shape, prm, device):
        super().__init__()
        self.device = device
        self.stem = nn.Conv2d(in_shape[1], 64, kernel_size=3)
        self.pool = nn.MaxPool2d(2)
        self.first = ConvUnit(64, 128, stride=2)
        self.second = ConvUnit(128, 128)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(128, out_shape[0])

    def forward(self, x):
        x = self.pool(self.stem(x))
        x = self.first(x)
        x = x + self.second(x)  # residual
        x = x.mean((2, 3))
        return self.head(self.drop(x))

    def train_setup(self, prm):
        self.to(self.device)
        self.criteria = nn.CrossEntropyLoss().to(self.device)
        self.optimizer = torch.optim.SGD(self.parameters(), lr=prm["lr"], momentum=prm["momentum"])

    def learn(self, train_data):
        self.train()
        for inputs, labels in train_data:
            self.optimizer.zero_grad()
            loss = self.criteria(self(inputs.to(self.device)), labels.to(self.device))
            loss.backward()
            self.optimizer.step()
'''

CHANGES = {
    "comment": [("# residual", "# skip")],
    "docstring": [("Convolution, norm, activation.", "A unit.")],
    "white space": [("(64, 128, stride=2)", "(\n            64, 128, stride=2\n        )")],
    "variable renamed": [(r"\bx\b", "images")],
    "attribute renamed": [(r"\bstem\b", "entry")],
    "class renamed": [("ConvUnit", "BasicBlock")],
    "code outside the classes": [('"lr", "momentum"}', '"lr"}')],
    "methods swapped": "methods",
    "width 64 -> 80": [("64", "80")],
    "width 64 -> 256": [("64", "256")],
    "kernel 3 -> 5": [("kernel_size=3,", "kernel_size=5,")],
    "kernel 3 -> 7": [("kernel_size=3,", "kernel_size=7,")],
    "max -> average pool": [("MaxPool2d", "AvgPool2d")],
    "residual dropped": [("x = x \\+ self.second", "x = self.second")],
    "block added": [
        ("(128, 128)\n", "(128, 128)\n        self.third = ConvUnit(128, 128)\n"),
        ("x = x.mean", "x = self.third(x)\n        x = x.mean"),
    ],
    "batch norm dropped": [
        (r"        self.norm = nn.BatchNorm2d\(outputs\)\n", ""),
        (r"self.norm\(self.conv\(x\)\)", "self.conv(x)"),
    ],
}


def change(edits) -> str:
    if edits == "methods":
        setup, learn = NET.index("    def train_setup"), NET.index("    def learn")
        return NET[:setup] + NET[learn:] + "\n" + NET[setup:learn].rstrip() + "\n"
    code = NET
    for old, new in edits:
        pattern = old if "\\" in old else re.escape(old)
        assert re.search(pattern, code), old
        code = re.sub(pattern, lambda _, new=new: new, code)
    ast.parse(code)
    return code


SAYS = {  # Jaccard index with NET: raw_tokens (7), nn_dup (10), ast_nameless (10), structure (1); 1 is "the same"
    "comment": (0.97, 1, 1, 1),
    "docstring": (0.96, 1, 1, 1),
    "white space": (1, 1, 1, 1),
    "variable renamed": (0.76, 1, 1, 1),
    "attribute renamed": (0.94, 1, 1, 1),
    "class renamed": (0.91, 0.89, 1, 1),  # paper B's form calls a renamed block new
    "code outside the classes": (0.97, 1, 0.95, 1),
    "methods swapped": (0.96, 0.92, 0.96, 1),
    "width 64 -> 80": (0.93, 1, 0.90, 1),  # ... and one of any other width or kernel a duplicate
    "width 64 -> 256": (0.93, 1, 0.90, 0.89),
    "kernel 3 -> 5": (0.97, 1, 0.95, 1),  # both are nearest to 4
    "kernel 3 -> 7": (0.97, 1, 0.95, 0.95),
    "max -> average pool": (0.97, 0.95, 0.95, 0.89),
    "residual dropped": (0.97, 0.97, 0.96, 1),  # wiring is not structure's business
    "block added": (0.95, 0.99, 0.98, 0.92),
    "batch norm dropped": (0.91, 0.88, 0.88, 0.94),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_each_form_says_of_a_change(name):
    said = {form: similarity(form, NET, change(CHANGES[name])) for form in FORMS}
    for form, expected in zip(FORMS, SAYS[name], strict=True):
        if expected == 1:
            assert said[form] == 1, form
        else:
            assert said[form] < 1 and said[form] == pytest.approx(expected, abs=0.0051), form


# --- details of the forms --------------------------------------------------------------------------------------------


def test_raw_tokens_are_the_authors_loops():
    assert raw_tokens("x1 = 64.5  # é") == ["x1", "=", "6", "4", ".", "5", "#", "é"]


def test_nn_dup_replaces_as_described():
    code = (
        'class Net(nn.Module):\n    """Doc."""\n    def f(self, x):\n        return F.relu(x[0x1F:.5e-3j], "a", dX)\n'
    )
    expected = "class Net ( ID . Module ) : def f ( ID , ID ) : return ID . ID ( ID [ NUM : NUM ] , STR , dX )"
    assert " ".join(FORMS["nn_dup"].tokens(code)) == expected


def test_nn_dup_keeps_modules_and_the_helpers_they_call():
    code = (
        "def helper():\n    pass\ndef other():\n    pass\nclass Data:\n    pass\nclass Net(Module):\n    y = helper()\n"
    )
    assert " ".join(FORMS["nn_dup"].tokens(code)) == "def helper ( ) : pass class Net ( Module ) : ID = helper ( )"
    assert " ".join(FORMS["nn_dup"].tokens("def f():\n    pass\n")) == "def f ( ) : pass"


def test_ast_nameless_keeps_what_is_not_the_authors():
    code = "from torch import nn\ndef f(a, *, size=3):\n    'doc'\n    b = a\n    return nn.Linear(b, size).weight\n"
    expected = "from torch import nn def ID ( ID , * , ID = 3 ) : ID = ID return nn . Linear ( ID , ID ) . weight"
    assert " ".join(FORMS["ast_nameless"].tokens(code)) == expected


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("nn.Conv2d(3, 60, 3)", ["Conv2d#1", "Conv2d.in_channels=2^2#1", "Conv2d.kernel_size=2^2#1",
                                 "Conv2d.out_channels=2^6#1"]),
        ("torch.nn.Conv2d(3, kernel_size=4, out_channels=64)", ["Conv2d#1", "Conv2d.in_channels=2^2#1",
                                                               "Conv2d.kernel_size=2^2#1",
                                                               "Conv2d.out_channels=2^6#1"]),
        ("Layer(n)", ["Linear#1", "Linear.in_features=?#1"]),
        ("Own(64, width=0)", ["own#1", "own=0#1", "own=2^6#1"]),
        ("nn.Dropout(0.2, inplace=True)", ["Dropout#1", "Dropout.inplace=True#1", "Dropout.p=2^-2#1"]),
        ("nn.MaxPool2d((2, 3))", ["MaxPool2d#1", "MaxPool2d.kernel_size=(2^1,2^2)#1"]),
        ("nn.Dropout(1e999)", ["Dropout#1", "Dropout.p=inf#1"]),
        ("print(len(x))", []),
    ],
)  # fmt: skip
def test_structure_of_a_call(call, expected):
    head = "import torch\nfrom torch import nn\nfrom torch.nn import Linear as Layer\nclass Own(nn.Module):\n    pass\n"
    assert FORMS["structure"].tokens(head + call) == expected


def test_structure_counts_repetitions():
    one, three = ("import torch.nn as nn\n" + "nn.ReLU()\n" * n for n in (1, 3))
    assert similarity("structure", one, three) == pytest.approx(1 / 3)


# --- any text --------------------------------------------------------------------------------------------------------

HOSTILE = ["", " \n", "\0", "\ud800", "def", '"""', "(" * 5000, "-" * 20000 + "1", "é = 'ü'; \"d\"\n", "\f", "'x"]


@pytest.mark.parametrize("code", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_is_read(code):
    check_total(code)


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(), st.text(alphabet="'\"\\#\n x1.(=f)").map(lambda t: f"a = {t}")))
def test_any_text_is_read(code):
    check_total(code)


def check_total(code: str) -> None:
    for form in FORMS.values():
        found = form.canonical(code)
        assert found.tokens == form.tokens(code) and all(found.tokens)
        if found.fell_back:
            assert found.tokens == raw_tokens(code)
    assert not FORMS["raw_tokens"].canonical(code).fell_back


def test_the_fallback_is_said():
    broken = NET.replace("def forward(self, x):", "def forward(self, x)")
    assert [form.canonical(broken).fell_back for form in FORMS.values()] == [False, True, True, True]
    assert not any(form.canonical(NET).fell_back for form in FORMS.values())


STDLIB = [
    Path(io.__file__).with_name(f"{name}.py") for name in ("tokenize", "argparse", "dataclasses", "textwrap", "ast")
]


@pytest.mark.parametrize("path", STDLIB, ids=lambda p: p.stem)
def test_lexemes_are_those_of_tokenize(path):
    text = path.read_text()
    ours = ["STR" if t[-1] in "\"'" else t for t in LEXEME.findall(text) if t[0] != "#"]
    assert ours == list(tokenized(text))


def tokenized(text: str):
    depth = 0  # of f-strings, which Python 3.12 and later split up
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        kind = tokenize.tok_name[token.type]
        depth += (kind == "FSTRING_START") - (kind == "FSTRING_END")
        if kind == "STRING" or (kind == "FSTRING_END" and depth == 0):
            yield "STR"
        elif depth == 0 and kind in ("NAME", "NUMBER", "OP"):
            yield token.string


def test_renamed_classes_of_published_networks_are_the_same_without_names(lemur):
    for code in lemur.architectures["code"][::400]:
        for name in ("ast_nameless", "structure"):
            assert FORMS[name].tokens(code) == FORMS[name].tokens(with_renamed_classes(code)), name


def with_renamed_classes(code: str) -> str:
    """Other class names, no comments, and the odd white space that ``untokenize`` leaves."""
    classes = sorted({node.name for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ClassDef)})
    tokens = tokenize.generate_tokens(io.StringIO(code).readline)
    renamed = [
        (t.type, f"Renamed{classes.index(t.string)}" if t.string in classes else t.string)
        for t in tokens
        if t.type != tokenize.COMMENT
    ]
    return tokenize.untokenize(renamed)
