"""The audit of the novelty check: exact where it counts, honest where it compares, the same in every run."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from nngpt_lab.candidates import novelty
from nngpt_lab.candidates.novelty import PAPER_B, STRUCTURE, NoveltyIndex, NoveltySettings
from nngpt_lab.ground.errors import UsageError
from nngpt_lab.papers.architecture_loop import novelty_audit

WORDS = NoveltySettings("raw_tokens", shingle=2, permutations=128, lsh_threshold=0.85, jaccard_threshold=0.90)
NETWORK = """
import torch.nn as nn

class Unit(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(width, 64, kernel_size=3), nn.BatchNorm2d(64), nn.ReLU())

    def forward(self, x):
        return self.layers(x)

class Net(nn.Module):
    def __init__(self, in_shape, out_shape, prm, device):
        super().__init__()
        self.unit = Unit(in_shape[1])
"""


def mutants(count: int, seed: int = 0) -> dict[str, str]:
    """Texts in families of ten: equal ones, near ones, far ones."""
    rng = random.Random(seed)
    codes = {}
    for family in range(count // 10):
        base = [rng.randrange(10_000) for _ in range(rng.randrange(40, 120))]
        for member in range(10):
            text = list(base)
            for _ in range(rng.choice([0, 0, 1, 2, 3, 5])):
                text[rng.randrange(len(text))] = rng.randrange(10_000)
            codes[f"f{family:02d}-{member}"] = " ".join(f"w{word}" for word in text)
    return codes


def brute_force(a: str, b: str, length: int) -> float:
    """Jaccard index on sets of tuples of words: shares no code with the index."""
    one, other = ({tuple(s[i : i + length]) for i in range(len(s) - length + 1)} for s in (a.split(), b.split()))
    return len(one & other) / len(one | other)


# --- samples and edits ------------------------------------------------------------------------------------------------


def test_a_sample_is_sorted_without_repeats_and_follows_its_generator():
    sources = pd.DataFrame({"name": [f"n{i:02d}" for i in range(40)][::-1], "code": [str(i) for i in range(40)][::-1]})
    one, same, other = (novelty_audit.draw(sources, 10, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert one == same != other
    assert list(one) == sorted(one) and len(one) == 10
    assert all(int(name[1:]) == int(code) for name, code in one.items())
    whole = [novelty_audit.draw(sources, size, np.random.default_rng(0)) for size in (0, 40, 41)]
    assert [list(codes) for codes in whole] == [sorted(sources["name"])] * 3


def test_edits_apply_in_order_and_an_edit_of_nothing_is_refused():
    edits = {"widths": {r"\b64\b": "32", r"\b3\b": "64"}, "lines": {r"^class (\w+)": r"# a remark\nclass \1"}}
    versions = novelty_audit.edited(NETWORK, edits)
    assert "width, 32, kernel_size=64" in versions["widths"]
    assert versions["lines"].count("# a remark\nclass ") == 2
    with pytest.raises(UsageError, match="finds no 'Conv3d'"):
        novelty_audit.edited(NETWORK, {"none": {"Conv3d": "Conv2d"}})


def test_each_form_reports_a_change_as_it_sees_it():
    edits = {"number": {"64": "16"}, "class": {r"\bUnit\b": "Part"}, "layer": {r"nn\.ReLU": "nn.GELU"}}
    forms = [replace(PAPER_B, form=form, shingle=5) for form in ("raw_tokens", "nn_dup", "ast_nameless")] + [STRUCTURE]
    table = novelty_audit.similarities(NETWORK, novelty_audit.edited(NETWORK, edits), forms)
    seen = table.pivot(index="change", columns="form", values="jaccard")
    assert seen.loc["number", "nn_dup"] == 1  # blind to numbers
    assert (seen.loc["number", ["raw_tokens", "ast_nameless", "structure"]] < 1).all()
    assert (seen.loc["class", ["ast_nameless", "structure"]] == 1).all()  # rename-proof
    assert (seen.loc["class", ["raw_tokens", "nn_dup"]] < 1).all()
    assert (seen.loc["layer"] < 1).all()
    assert (table["duplicate"] == (table["jaccard"] >= 0.9)).all()


def test_similarities_count_exactly():
    codes = mutants(10)
    base = codes["f00-0"]
    table = novelty_audit.similarities(base, codes, [WORDS]).set_index("change")
    for name, code in codes.items():
        assert table.loc[name, "jaccard"] == pytest.approx(brute_force(base, code, 2), abs=1e-12)
    assert (table["estimate"] - table["jaccard"]).abs().max() < 0.2


# --- pairs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("floor", [0.5, 0.8])
def test_near_pairs_are_all_pairs_by_brute_force(floor):
    codes = mutants(60)
    distinct = {}
    for name in sorted(codes):
        distinct.setdefault(frozenset(zip(codes[name].split(), codes[name].split()[1:], strict=False)), name)
    truth = {}
    for a, b in combinations(sorted(distinct.values()), 2):
        likeness = brute_force(codes[a], codes[b], 2)
        if floor <= likeness < 1:
            truth[frozenset((a, b))] = likeness
    found = novelty_audit.near_pairs(codes, WORDS, floor=floor, jobs=1)
    counted = {frozenset(row[:2]): row[2] for row in found[["first", "second", "jaccard"]].itertuples(index=False)}
    assert len(found) == len(counted) > 20
    assert counted == pytest.approx(truth)


def test_retrieved_is_what_the_index_retrieves():
    codes = mutants(30)
    pairs = novelty_audit.near_pairs(codes, WORDS, [0.6], seeds=[7], floor=0.5, jobs=1)
    assert pairs["seed"].value_counts().to_dict() == {1: len(pairs) / 2, 7: len(pairs) / 2}
    for threshold, seed in ((0.85, 1), (0.6, 1), (0.85, 7)):
        settings = replace(WORDS, lsh_threshold=threshold, seed=seed)
        seen = set()
        for row in pairs[pairs["seed"] == seed].to_dict("records"):
            index = NoveltyIndex(settings)
            index.add_many([row["first"]], [codes[row["first"]]])
            found = index.query(codes[row["second"]])
            assert (found.nearest == row["first"]) == row[f"retrieved_at_{threshold:.2f}"]
            if found.nearest:
                assert found.estimated == pytest.approx(row["estimate"])
            seen.add(found.nearest is not None)
        assert seen == {True, False}


def test_a_corpus_without_near_pairs_gives_empty_tables():
    codes = {"a": "one two three", "b": "four five six", "c": "four five six"}
    pairs = novelty_audit.near_pairs(codes, WORDS, [0.6], jobs=1)
    retrieved = ["retrieved_at_0.85", "retrieved_at_0.60"]
    assert list(pairs.columns) == ["seed", "first", "second", "jaccard", "estimate", *retrieved]
    assert pairs.empty and novelty_audit.retrieval(pairs, 128).empty
    assert novelty_audit.errors_of_judgement(pairs, WORDS).empty


def test_retrieval_table_counts_every_pair_and_knows_the_theory():
    both = novelty_audit.near_pairs(mutants(200), WORDS, [0.6], seeds=[2], floor=0.6, jobs=1)
    table = novelty_audit.retrieval(both, WORDS.permutations, step=0.1)
    for (threshold, seed), part in table.groupby(["lsh_threshold", "seed"]):
        pairs = both[both["seed"] == seed]
        assert part["pairs"].sum() == len(pairs) > 0
        assert part["retrieved"].sum() == pairs[f"retrieved_at_{threshold:.2f}"].sum()
        count, rows = novelty.bands(threshold, WORDS.permutations)
        inside = pairs[(pairs["jaccard"] >= 0.8) & (pairs["jaccard"] < 0.9)]
        row = part[part["jaccard_low"] == 0.8].iloc[0]
        assert row["expected"] == pytest.approx(np.mean([1 - (1 - j**rows) ** count for j in inside["jaccard"]]))
        assert part["expected"].is_monotonic_increasing
        assert ((part["jaccard"] >= part["jaccard_low"]) & (part["jaccard"] < part["jaccard_high"])).all()
        assert (part["share"] - part["expected"]).abs().max() < 0.25


def test_errors_of_judgement_by_hand():
    settings = replace(WORDS, permutations=256)  # margin 0.0375
    rows = [  # exact, estimate, retrieved
        (0.95, 0.95, True),  # right
        (0.85, 0.91, True),  # wrong, near
        (0.91, 0.89, True),  # wrong, near
        (0.85, 0.95, True),  # wrong, far
        (0.92, 0.92, False),  # right, but never retrieved
        (0.82, 0.82, False),  # no duplicate: nothing is missed
    ]
    pairs = pd.DataFrame(rows, columns=["jaccard", "estimate", "retrieved_at_0.85"]).assign(seed=1)
    judged = novelty_audit.errors_of_judgement(pd.concat([pairs, pairs.head(2).assign(seed=2)]), settings)
    assert judged.to_dict("records") == [
        {"seed": 1, "pairs": 6, "duplicates": 3, "estimate_alone": 3, "estimate_far": 1, "not_retrieved": 1},
        {"seed": 2, "pairs": 2, "duplicates": 1, "estimate_alone": 1, "estimate_far": 0, "not_retrieved": 0},
    ]


# --- whole settings ---------------------------------------------------------------------------------------------------


def test_sensitivity_of_several_corpora_is_that_of_each():
    corpora = {"one": mutants(40), "two": mutants(30, seed=1)}
    lengths = {"raw_tokens": (2, 4), "structure": (1,)}
    table = novelty_audit.sensitivity(corpora, lengths, (0.8, 0.95), jobs=2)
    assert list(dict.fromkeys(table["corpus"])) == ["one", "two"]
    for corpus, codes in corpora.items():
        parts = [novelty_audit.sensitivity({corpus: codes}, {f: lengths[f]}, (0.8, 0.95), jobs=1) for f in lengths]
        expected = pd.concat(parts, ignore_index=True).drop(columns="seconds")
        part = table[table["corpus"] == corpus].drop(columns="seconds").reset_index(drop=True)
        pd.testing.assert_frame_equal(part, expected)
    assert (table["seconds"] > 0).all()


def test_settings_beside_each_other():
    codes = mutants(50)
    settings = {"near": WORDS, "equal": replace(WORDS, jaccard_threshold=1.0)}
    table, kept = novelty_audit.compare_settings(codes, settings, jobs=1)
    assert kept["name"].tolist() == sorted(codes)
    assert table["kept"].tolist() == [kept[name].sum() for name in settings]
    assert (table["share_kept"] == table["kept"] / 50).all()
    assert table.loc[1, "kept"] == len(set(codes.values()))
    assert kept["equal"].sum() > kept["near"].sum() and (kept["equal"] | ~kept["near"]).all()
    index = NoveltyIndex(WORDS)
    assert kept["near"].tolist() == [not index.check_and_add(name, codes[name]).duplicate for name in sorted(codes)]
