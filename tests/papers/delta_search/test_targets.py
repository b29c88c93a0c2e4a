"""Training targets: how pairs are drawn, against plain counting and against SQLite."""

from __future__ import annotations

import sqlite3

import numpy as np
import pandas as pd
import pytest

from nngpt_lab.papers.delta_search import parents, targets
from nngpt_lab.papers.delta_search.targets import SCHEMES, draw, first_better

NETWORKS = pd.DataFrame({
    "architecture": list("abcdefgh"), "accuracy": [0.3, 0.1, 0.5, 0.5, 0.2, 0.9, 0.4, 0.6], "group": list("xxxxyyyy"),
})  # fmt: skip


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_target_is_better_and_of_the_same_group(scheme):
    drawn = draw(NETWORKS, scheme, 300, np.random.default_rng(0))
    baseline, target = (NETWORKS.iloc[side].reset_index(drop=True) for side in drawn.T)
    assert drawn.shape == (300, 2) and (target["accuracy"] > baseline["accuracy"]).all()
    assert (target["group"] == baseline["group"]).all()
    pairs = {(int(a), int(b)) for a, b in drawn}
    possible = {
        (a, b) for a in range(8) for b in range(8) if a // 4 == b // 4 and NETWORKS.accuracy[b] > NETWORKS.accuracy[a]
    }
    assert pairs == possible if scheme != "limit one" else pairs < possible


def test_pairs_are_uniform_over_pairs_or_over_baselines():
    rng = np.random.default_rng(1)
    uniform = pd.Series(map(tuple, draw(NETWORKS, "pair uniform", 6000, rng).tolist())).value_counts(normalize=True)
    assert np.allclose(uniform, 1 / len(uniform), atol=0.02)
    first = pd.Series(draw(NETWORKS, "baseline first", 6000, rng)[:, 0]).value_counts(normalize=True)
    assert np.allclose(first, 1 / 5, atol=0.02) and len(first) == 5  # the best of a group is no baseline


def test_limit_one_is_what_sqlite_gives_for_the_authors_query():
    """Their index: the equal columns, then the name, then the accuracy; their query: LIMIT 1 and no order."""
    rng = np.random.default_rng(2)
    names = sorted(f"{number:x}" for number in rng.choice(10**6, 300, replace=False))
    accuracy = rng.random(300).round(2)
    with sqlite3.connect(":memory:") as base:
        base.execute("CREATE TABLE t (id INTEGER, dataset TEXT, nn TEXT, accuracy REAL)")
        rows = [(number, "x", name, value) for number, (name, value) in enumerate(zip(names, accuracy, strict=True))]
        base.executemany("INSERT INTO t VALUES (?, ?, ?, ?)", [rows[i] for i in rng.permutation(300)])
        base.execute("CREATE INDEX i ON t (dataset, nn, accuracy)")
        better = "d2.dataset = d1.dataset AND d2.nn != d1.nn AND d2.accuracy > d1.accuracy"
        query = f"SELECT id, (SELECT d2.id FROM t d2 WHERE {better} LIMIT 1) FROM t d1 ORDER BY id"
        found = [-1 if other is None else other for _, other in base.execute(query)]
    assert first_better(accuracy, np.zeros(300, int)).tolist() == found


def test_measures_are_those_of_the_text():
    files = targets.tokenizers()
    lines, characters, tokens, _, file_lines, file_characters = targets.measure(files, ("a\nb\nc\n", "a\nx\nc\n"))
    assert (lines, file_lines, file_characters) == (7, 4, 6) and 0 < tokens <= characters
    twice, alone = (targets.measure((files[0], other), ("a\n", "b\n"))[2:4] for other in (files[0], ""))
    assert twice[0] == twice[1] == alone[0] and np.isnan(alone[1])


def test_an_interval_is_over_networks_not_pairs():
    """One network in all pairs: drawing it out removes them all, so the interval is as wide as the pairs differ."""
    part = pd.DataFrame({"epoch": 1, "pool": "p", "scheme": "s", "baseline": "a", "target": list("bcdefghi")})
    part = part.assign(lines=[10, 90] * 4, characters=1, tokens=[1, 2000] * 4, file_lines=50, file_characters=1)
    part = part.assign(tokens_smollm2=[np.nan] * 8)
    row = targets.summarise(part, np.random.default_rng(0), 300).iloc[0]
    assert (row["pairs"], row["networks"], row["longer_than_file"], row["within_1024_tokens"]) == (8, 9, 50, 50)
    assert np.isnan(row["within_1024_smollm2"]) and np.isnan(row["within_1024_smollm2_low"])  # was not loaded
    assert row["longer_than_file_low"] < 30 and row["longer_than_file_high"] > 70


def test_published_networks(lemur):
    levels = parents.levels(lemur, np.random.default_rng(0), 20).set_index("dataset")
    assert levels.loc["cifar-100", ["networks", "admitted"]].tolist() == [1854, 0]
    assert levels.loc["cifar-100", "best"] == pytest.approx(35.99)
    few = targets.limit_one(lemur)
    assert (few["targets"] < 0.1 * few["baselines"]).all()
    assert len(targets.targets(lemur, 90, seed=0)) == 90


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("resnet18(weights='DEFAULT')", True),
        ("resnet18(pretrained=True)", True),
        ("net.load_state_dict(x)", True),
        ("resnet18(weights=None)", False),
        ("resnet18(pretrained=False)", False),
        ("self.weights = nn.Parameter(x)", False),
    ],
)
def test_trained_weights_are_recognised(code, says):
    assert parents.loads_weights(code) == says
