"""Neighbours are the nearest by counting, copies are copies, and novelty is counted in order."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from nngpt_lab.candidates import canonical
from nngpt_lab.candidates.novelty import NoveltyIndex, NoveltySettings
from nngpt_lab.ground.errors import UsageError
from nngpt_lab.papers.architecture_loop import memorisation

NET = '''"""A network."""
import torch.nn as nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d({channels}, {width}, kernel_size={kernel}, padding=1)
        self.norm = nn.BatchNorm2d({width})
        self.act = nn.{act}()
        self.last = nn.Linear({width}, 10)
    def forward(self, x):
        x = self.act(self.norm(self.first(x)))
        return self.last(x.mean((2, 3)))
'''


def net(width: int = 64, act: str = "ReLU", kernel: int = 3, channels: int = 3) -> str:
    return NET.format(width=width, act=act, kernel=kernel, channels=channels)


def corpus(**codes: str) -> pd.DataFrame:
    return pd.DataFrame({"name": list(codes), "code": list(codes.values())})


def accepted(*codes: str) -> pd.DataFrame:
    return pd.DataFrame({"arm": "loop", "cycle": range(1, len(codes) + 1), "code": codes})


def jaccard_of_sets(a: str, b: str, form: str, length: int) -> float:
    """From the definition, with Python's own sets."""
    runs = []
    for code in (a, b):
        tokens = canonical.FORMS[form].tokens(code)
        size = min(length, len(tokens))
        runs.append({tuple(tokens[i : i + size]) for i in range(len(tokens) - size + 1)})
    return len(runs[0] & runs[1]) / len(runs[0] | runs[1])


KNOWN = corpus(
    a=net(64), b=net(64, "Tanh"), c=net(256, "GELU", 5), d="import torch\nx = torch.zeros(3)\n", e="not (python"
)
MADE = accepted(net(64), net(128, "Tanh"), net(32, "GELU", 5, 1), "still not (python", "")


def test_neighbours_are_the_nearest_by_definition():
    table = memorisation.nearest_neighbours(MADE, KNOWN, jobs=1)
    assert len(table) == len(MADE) * 4 and "code" not in table
    for form, length in memorisation.SHINGLES.items():
        found = table[table["form"] == form].reset_index(drop=True)
        for i, code in enumerate(MADE["code"][:4]):
            exact = [jaccard_of_sets(code, known, form, length) for known in KNOWN["code"]]
            assert found["jaccard"][i] == pytest.approx(max(exact))
            assert found["nearest"][i] == KNOWN["name"][int(np.argmax(exact))]


def test_no_tokens_are_like_nothing():
    table = memorisation.nearest_neighbours(MADE, KNOWN, jobs=1)
    assert (table[table["cycle"] == 5]["jaccard"] == 0).all()


def test_copies_are_told_from_relatives():
    text, program, renamed = (
        net(64),
        net(64).replace('"""A network."""', "# mine") + "\n",
        net(64).replace("first", "conv"),
    )
    other = net(65)
    table = memorisation.nearest_neighbours(accepted(text, program, renamed, other), KNOWN, {"nn_dup": 10}, jobs=1)
    assert table["verbatim"].tolist() == [True, True, False, False]
    assert table["renamed"].tolist() == [False, False, True, False]
    assert table["jaccard"].tolist() == [1, 1, 1, 1]  # nn_dup sees no numbers and no lower-case names


def test_a_copy_of_what_does_not_parse_is_verbatim_text():
    table = memorisation.nearest_neighbours(accepted("not (python", "not  (python"), KNOWN, {"raw_tokens": 7}, jobs=1)
    assert table["verbatim"].tolist() == [True, False] and not table["renamed"].any()


def test_columns_are_carried_along_and_repeated_networks_agree():
    rows = pd.concat([MADE, MADE.assign(arm="no tuning")]).assign(seed=7)
    table = memorisation.nearest_neighbours(rows, KNOWN, {"nn_dup": 10, "structure": 1}, jobs=1)
    loop, other = (
        table[table["arm"] == arm].drop(columns="arm").reset_index(drop=True) for arm in ("loop", "no tuning")
    )
    pd.testing.assert_frame_equal(loop, other)
    assert (table["seed"] == 7).all()


def test_a_corpus_in_parts_is_the_same_corpus(monkeypatch):
    whole = memorisation.nearest_neighbours(MADE, KNOWN, jobs=1)
    for size in (1, 2, 5):
        monkeypatch.setattr(memorisation, "PART", size)
        pd.testing.assert_frame_equal(memorisation.nearest_neighbours(MADE, KNOWN, jobs=1), whole)


def test_processes_change_nothing():
    alone, shared = (memorisation.nearest_neighbours(MADE, KNOWN, jobs=jobs) for jobs in (1, 2))
    pd.testing.assert_frame_equal(alone, shared)


def test_nothing_accepted_gives_no_rows_and_no_corpus_an_error():
    assert memorisation.nearest_neighbours(MADE.iloc[:0], KNOWN, jobs=1).empty
    with pytest.raises(UsageError):
        memorisation.nearest_neighbours(MADE, KNOWN.iloc[:0])


# ---------------------------------------------------------------------------------------------------------- sensitivity


def forms(codes, names):
    return memorisation.canonical_forms(codes, names, jobs=1)


def test_novelty_is_counted_as_the_index_counts_it():
    """Small sets and a low LSH threshold: the index finds every neighbour, so both must agree."""
    settings = itertools.product((16, 32, 64, 128), ("ReLU", "Tanh", "GELU"), (3, 5))
    passed = [net(*setting) for setting in settings]
    shingles = {"raw_tokens": (3, 7), "nn_dup": (10,), "ast_nameless": (5,), "structure": (1,)}
    table = memorisation.novelty_sensitivity(
        passed, forms(KNOWN["code"], shingles), shingles, (0.6, 0.8, 0.9, 1.0), jobs=1
    )
    assert len(table) == 5 * 4
    for line in table.itertuples():
        index = NoveltyIndex(NoveltySettings(line.form, line.shingle, 256, 0.3, line.threshold))
        index.add_many(KNOWN["name"], KNOWN["code"])
        novel = sum(not index.check_and_add(f"network {i}", code).duplicate for i, code in enumerate(passed))
        assert line.novel == novel, line
    assert (table["passed"] == len(passed)).all()
    assert table["share_novel"].tolist() == pytest.approx((table["novel"] / len(passed)).tolist())


def test_a_duplicate_makes_nothing_else_a_duplicate():
    """b is like a, c is like b but not like a: b goes, c stays."""
    a, b, c = "a b c d e f g h", "b c d e f g h i", "c d e f g h i j"
    nothing, shingles = {"raw_tokens": []}, {"raw_tokens": (1,)}
    for passed, novel in (([a, b, c], 2), ([b, a, c], 1)):
        table = memorisation.novelty_sensitivity(passed, nothing, shingles, (0.7,), jobs=1)
        assert table["novel"].tolist() == [novel]


def test_no_networks_are_no_share():
    table = memorisation.novelty_sensitivity([], forms(KNOWN["code"], ["nn_dup"]), {"nn_dup": (10,)}, (0.9,), jobs=1)
    assert table["novel"].tolist() == [0] and np.isnan(table["share_novel"]).all()


# ----------------------------------------------------------------------------------------------------------------- diff


def test_a_diff_shows_the_change_and_no_comments():
    lines = memorisation.diff(net(64, "Tanh").replace("class", "# mine\nclass"), net(64)).splitlines()
    changes = [line for line in lines[2:] if line[0] in "+-"]
    assert changes == ["-        self.act = nn.ReLU()", "+        self.act = nn.Tanh()"]
    assert memorisation.diff(net(), net()) == ""
    assert "+broken (" in memorisation.diff("broken (", net())
