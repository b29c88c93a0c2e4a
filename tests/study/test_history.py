"""Where a network came from: edits by kind, ancestors recorded or read, lines that come back, novelty by plain sets."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from nngpt_lab.ground.errors import UsageError
from nngpt_lab.study import history
from nngpt_lab.study.history import FIRST, KINDS, NEAREST, RECORDED, edit_kinds

BASE = """import torch.nn as nn


class Net(nn.Module):
    def __init__(self):
        self.a = nn.Conv2d(3, 8, 3)
        self.b = nn.Sequential(nn.ReLU(), nn.Linear(8, 4))

    def forward(self, x):
        return self.b(self.a(x))

    def learn(self, data):
        pass
"""
EDITS = {
    "nothing": [("import torch.nn as nn", "import torch.nn as nn  # neural networks")],
    "argument": [("8, 3)", "16, 3)")],
    "layer exchanged": [("nn.ReLU()", "nn.GELU()")],
    "layer added": [("nn.ReLU(), ", "nn.ReLU(), nn.Dropout(0.5), ")],
    "layer removed": [("nn.ReLU(), ", "")],
    "wiring": [("self.b(self.a(x))", "self.b(self.a(x) + x)")],
    "training": [("pass", "return data")],
    "layer added, wiring": [("        self.b", "        self.c = nn.Tanh()\n        self.b")],
    "layer exchanged, argument": [("nn.ReLU()", "nn.GELU()"), ("(8, 4)", "(8, 5)")],
}


@pytest.mark.parametrize("kinds", EDITS)
def test_an_edit_is_what_it_does_to_the_program(kinds):
    after = BASE
    for old, new in EDITS[kinds]:
        after = after.replace(old, new)
    assert ", ".join(edit_kinds(BASE, after)) == kinds
    assert edit_kinds(BASE, "class Net(") == []


def written(*codes: str, **more: list) -> tuple[pd.DataFrame, dict[str, str]]:
    table = pd.DataFrame({"code_hash": [f"h{k}" for k in range(len(codes))], "step": 1, "score": 0.5} | more)
    return table, {f"h{k}": code for k, code in enumerate(codes)}


def lines(*names: str) -> str:
    return "\n".join(names)


def test_ancestors_novelty_and_lines_that_come_back_are_counted_by_plain_sets():
    first, second, third = lines(*"abcd"), lines(*"abce"), lines(*"abcd", "f")
    networks, codes = written(first, second, third, "", lines(*"xyz"), step=[1, 1, 2, 2, 2])
    table = history.history(networks, codes, corpus=[lines(*"abc"), lines("q")]).set_index("code_hash")
    assert list(table.index) == ["h0", "h1", "h2", "h4"]  # a text without code is no network
    assert table["origin"].tolist() == [FIRST, NEAREST, NEAREST, FIRST]
    assert table["parent_hash"].fillna("").tolist() == ["", "h0", "h0", ""]
    assert table["novelty_parent"].iloc[1:3].tolist() == pytest.approx([1 - 3 / 5, 1 - 4 / 5])
    assert table["novelty_corpus"].tolist() == pytest.approx([1 / 4, 1 / 4, 2 / 5, 1])
    assert table["novelty_step"].iloc[[1, 3]].tolist() == pytest.approx([2 / 5, 1])
    assert np.isnan(table["novelty_step"].iloc[[0, 2]]).all() and table["added"].tolist() == [4, 1, 1, 3]
    assert table["reintroduced"].iloc[1:3].tolist() == [0, 0]
    recorded, codes = written(first, second, first + "\ne", parent_hash=[None, "h0", "h0"])
    back = history.history(recorded, codes).set_index("code_hash")
    assert back.loc["h2", ["reintroduced", "origin"]].tolist() == [1, RECORDED]  # e stood in h1, not in its parent


def test_a_lineage_leads_back_to_the_first_and_steps_are_summed():
    codes = [BASE, BASE.replace("8, 3)", "16, 3)"), BASE.replace("8, 3)", "16, 3)").replace("ReLU", "GELU")]
    networks, known = written(*codes, step=[1, 2, 3], score=[0.1, 0.3, 0.2], parent_hash=[None, "h0", "h1"])
    table = history.history(networks, known)
    chain = history.lineage(table, "h2")
    assert chain["code_hash"].tolist() == ["h0", "h1", "h2"] and chain["kinds"].tolist() == [
        "",
        "argument",
        "layer exchanged",
    ]
    with pytest.raises(UsageError, match="no network"):
        history.lineage(table, "nobody")
    steps = history.by_step(table).set_index("step")
    assert (
        steps.loc[2, "argument"] == 100 and steps.loc[3, "layer exchanged"] == 100 and np.isnan(steps.loc[1, "wiring"])
    )
    assert steps.loc[3, "edits"] == 1 and set(KINDS) <= set(steps.columns)
    assert history.figure(steps.reset_index(), chain).axes[1].lines


def test_a_circle_of_parents_ends():
    networks, codes = written("a", "b", parent_hash=["h1", "h0"])
    assert len(history.lineage(history.history(networks, codes), "h1")) == 2
