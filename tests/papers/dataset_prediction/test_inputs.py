"""What is shown of a network, and near-duplicates against sets counted by hand."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from nngpt_lab.candidates import canonical
from nngpt_lab.candidates.novelty import NoveltySettings
from nngpt_lab.papers.dataset_prediction import inputs as di
from nngpt_lab.papers.dataset_prediction.inputs import Shown, View

NET = '''import torch
import torch.nn as nn


def supported_hyperparameters():
    return {'lr', 'momentum'}


class Net(nn.Module):
    """A network."""

    def train_setup(self, prm):
        self.optimizer = torch.optim.SGD(self.parameters(), lr=prm['lr'])

    def learn(self, data):
        for x, y in data:
            pass

    def __init__(self, in_shape, out_shape):
        super().__init__()
        self.features = nn.Conv2d(3, 96, kernel_size=7)

    def forward(self, x):
        return self.features(x)
'''
CODE = {"net": NET, "other": NET.replace("96", "192"), "third": "class Third: pass"}
SHOWN = Shown("net", (NET[:200],), ("cifar-10", "svhn"))


def test_layer_calls_are_those_of_the_network_in_the_order_of_its_text():
    code = NET.replace(
        "self.features = ", "self.more = nn.Sequential(nn.ReLU(), nn.Linear(4, out_shape[0]))\n        self.f = "
    )
    code = code.replace("torch.optim.SGD", "nn.CrossEntropyLoss")
    assert di.layer_calls(code) == "ReLU()\nLinear(4, out_shape[0])\nConv2d(3, 96, kernel_size=7)"


def test_what_does_not_parse_or_calls_no_layer_is_shown_as_it_is():
    for code in ("class Net(", "import torch", "def learn(self):\n    return nn.ReLU()"):
        assert di.layer_calls(code) == code


def test_a_view_cuts_what_it_shows():
    assert View(10)(NET) == NET[:10]
    assert View(None)(NET) == NET
    assert View(10, layers=True)(NET) == "Conv2d(3, "


@pytest.mark.parametrize("name", di.alterations(View(), (50, None)))
def test_every_alteration_is_the_same_for_the_same_seed_and_changes_one_thing(name):
    alter = di.alterations(View(200), (50, None))[name]
    one, two = (alter(SHOWN, CODE, View(200), np.random.default_rng(3)) for _ in range(2))
    assert one == two
    assert (one.names == SHOWN.names) == (name != "names masked")
    assert (one.codes == SHOWN.codes) == (name == "names masked")


def test_alterations_do_what_they_are_called():
    rng = np.random.default_rng(0)
    masked = di.names_masked(SHOWN, CODE, View(200), rng)
    assert len(set(masked.names)) == 2 and all(len(name) == 1 for name in masked.names)
    shuffled = di.lines_shuffled(SHOWN, CODE, View(200), rng)
    assert sorted(shuffled.codes[0].splitlines()) == sorted(SHOWN.codes[0].splitlines())
    assert di.another_network(SHOWN, CODE, View(None), rng).codes[0] in (CODE["other"], CODE["third"])
    renamed = di.identifiers_renamed(SHOWN, CODE, View(None), rng).codes[0]
    assert "Net" not in renamed and "Conv2d(3, 96" in renamed
    assert di.no_code(SHOWN, CODE, View(200), rng).codes == ("",)
    assert di.cut_at(None)(SHOWN, CODE, View(200), rng).codes == (NET,)
    assert set(di.alterations(View(2000), (500, 2000))) - set(di.alterations(View(), ())) == {"cut at 500"}


def test_networks_that_look_alike_are_counted_as_one_text():
    questions = pd.DataFrame({"architecture": ["net"] * 3 + ["other"] + ["third"] * 2})
    table = di.distinct_views(questions, CODE, {"cut": View(100), "all": View(None)}).set_index("view")
    assert table["distinct"].to_dict() == {"cut": 2, "all": 3} and (table["architectures"] == 3).all()
    assert table["commonest"].to_dict() == {"cut": pytest.approx(100 * 4 / 6), "all": pytest.approx(50)}


def test_near_duplicates_are_linked_exactly_as_sets_say_and_chains_hold_together():
    rng = np.random.default_rng(0)
    base = [f"x{i} = {rng.integers(100)}" for i in range(40)]
    code = {}
    for start in range(3):
        lines = [line.replace("x", f"y{start}_") for line in base]
        for step in range(6):  # each differs a little from the one before it, the last a lot from the first
            lines = lines[3:] + [f"z{start}_{step}_{i} = {rng.integers(10**6)}" for i in range(3)]
            code[f"{start} {step}"] = "\n".join(lines)
    settings = NoveltySettings("raw_tokens", 3, 2, 0.8, 0.75)
    tokens = {name: canonical.FORMS["raw_tokens"].canonical(text).tokens for name, text in code.items()}
    sets = {name: {tuple(t[i : i + 3]) for i in range(len(t) - 2)} for name, t in tokens.items()}
    near = {(a, b) for a, b in combinations(code, 2) if len(sets[a] & sets[b]) / len(sets[a] | sets[b]) >= 0.75}
    assert 0 < len(near) < 60
    group = {name: name for name in code}
    for a, b in near:
        old, new = group[b], group[a]
        group = {name: new if value == old else value for name, value in group.items()}
    found = di.near_duplicates(code, settings)
    for a, b in combinations(code, 2):
        assert (found[a] == found[b]) == (group[a] == group[b])
