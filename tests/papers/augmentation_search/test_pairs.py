"""Paper A's pairs: who asks, who answers, and what is kept apart."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from nngpt_lab.ground.errors import UsageError
from nngpt_lab.llm import models
from nngpt_lab.papers.augmentation_search.pairs import distinct, draw_pairs, pair_examples, rename_operations, split
from nngpt_lab.papers.augmentation_search.rationales import answer

CODE = """import torch
import torchvision.transforms as transforms

def transform(norm):
    return transforms.Compose([
    {},
    transforms.Resize((64,64)),
    transforms.ToTensor(),
    transforms.Normalize(*norm)
])
"""


def table(scores, codes=None) -> pd.DataFrame:
    codes = codes or [f"f{i}" for i in range(len(scores))]
    status = ["shape" if np.isnan(score) else "ok" for score in scores]
    return pd.DataFrame({"code": codes, "code_hash": codes, "status": status, "score": np.asarray(scores, float)})


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# -------------------------------------------------------------------------------------------------------------- draws


def test_each_function_asks_once_and_a_strictly_better_one_with_other_code_answers():
    """``b`` asks nothing: only its own second run is better. ``a`` asks with its first score."""
    functions = table([0.3, 0.5, 0.5, np.nan, 0.4, 0.2, 0.6], ["a", "b", "c", "failed", "a", "d", "b"])
    for seed in range(20):
        pairs = draw_pairs(functions, rng(seed))
        assert sorted(pairs["worse_code"]) == ["a", "c", "d"]
        assert (pairs["better_score"] > pairs["worse_score"]).all()
        assert (pairs["better_code"] != pairs["worse_code"]).all()
        assert "failed" not in set(pairs["worse_code"]) | set(pairs["better_code"])


def test_answers_are_uniform_among_the_better():
    functions = table([0.1, 0.2, 0.3, 0.4])
    drawn = draw_pairs(functions, rng(), 3 * 900)
    shares = drawn[drawn["worse_code"] == "f0"]["better_code"].value_counts(normalize=True)
    assert shares.to_dict() == pytest.approx({"f1": 1 / 3, "f2": 1 / 3, "f3": 1 / 3}, abs=0.05)


def test_an_answer_ranks_as_the_density_says_and_shuffling_takes_that_away():
    """-log(1 - r) has mean 3/4 on [0, 1]; with shuffled scores the real rank of an answer has mean 1/2."""
    functions = table(np.linspace(0, 1, 3000))
    real = functions.set_index("code")["score"]
    answers = draw_pairs(functions, rng())["better_code"]
    assert real[answers].mean() == pytest.approx(0.75, abs=0.02)
    shuffled = draw_pairs(functions, rng(), shuffled=True)
    assert real[shuffled["better_code"]].mean() == pytest.approx(0.5, abs=0.025)
    assert (shuffled["better_score"] > shuffled["worse_score"]).all()


def test_count_takes_fewer_or_goes_round_again():
    functions = table([0.1, 0.2, 0.3, 0.4])
    assert len(draw_pairs(functions, rng(), 2)) == 2
    again = draw_pairs(functions, rng(), 7)
    assert len(again) == 7
    assert set(again["worse_code"].value_counts()) <= {2, 3}


@pytest.mark.parametrize("count", [None, 5])
def test_nothing_to_draw_is_an_empty_table(count):
    pairs = draw_pairs(table([0.4, 0.4, np.nan]), rng(), count)
    assert pairs.empty and list(pairs) == ["worse_code", "worse_score", "better_code", "better_score"]


def test_no_pairs_at_all_cannot_be_asked_for():
    with pytest.raises(UsageError):
        draw_pairs(table([0.1, 0.2]), rng(), 0)


def test_the_same_generator_draws_the_same():
    functions = table(rng(1).random(50))
    assert draw_pairs(functions, rng(2)).equals(draw_pairs(functions, rng(2)))
    assert not draw_pairs(functions, rng(2)).equals(draw_pairs(functions, rng(3)))


def test_a_code_scored_again_stands_with_its_first_score():
    found = distinct(table([0.3, 0.5, 0.4], ["a", "a", "b"]))
    assert found["score"].to_list() == [0.3, 0.4]


# ------------------------------------------------------------------------------------------------------ splits, names


def corpus(size: int = 600, seed: int = 0) -> pd.DataFrame:
    names = ["Pad", "RandomCrop", "RandomResizedCrop", "Grayscale", "RandomInvert", "GaussianBlur"]
    draw = rng(seed)
    used = [list(draw.choice(names, 1 + i % 3, replace=False)) for i in range(size)]
    codes = [CODE.format(",\n    ".join(f"transforms.{name}(p={i})" for name in ops)) for i, ops in enumerate(used)]
    frame = table(draw.random(size), codes)
    parameters = [json.dumps([{"p": i}] * len(ops)) for i, ops in enumerate(used)]
    return frame.assign(operations=used, n_operations=[len(ops) for ops in used], parameters=parameters)


def test_no_tested_set_of_operations_was_learnt_from():
    functions = corpus()
    learnt, tested = split(functions, 0.3, rng())
    sets = [set(map(frozenset, part["operations"])) for part in (learnt, tested)]
    assert not sets[0] & sets[1]
    assert not set(learnt["code_hash"]) & set(tested["code_hash"])
    assert len(learnt) + len(tested) == len(functions)
    assert set(tested["n_operations"]) == {1, 2, 3}
    assert 0.3 <= len(tested) / len(functions) < 0.45
    again = split(functions, 0.3, rng())[1]
    assert tested["code"].equals(again["code"])
    assert not tested["code"].equals(split(functions, 0.3, rng(1))[1]["code"])


@pytest.mark.parametrize("share", [0, 1, -0.1])
def test_a_share_lies_between_none_and_all(share):
    with pytest.raises(UsageError):
        split(corpus(12), share, rng())


def test_renaming_reaches_whole_names_of_calls_only():
    functions = corpus(60)
    names = {"RandomCrop": "OP1", "Grayscale": "RandomCrop"}
    renamed = rename_operations(functions, names)
    for (_, before), (_, after) in zip(functions.iterrows(), renamed.iterrows(), strict=True):
        assert after["operations"] == [names.get(name, name) for name in before["operations"]]
        assert all(f"transforms.{name}(" in after["code"] for name in after["operations"])
        assert after["code"].endswith(before["code"][before["code"].index("    transforms.Resize(") :])
        assert ("RandomResizedCrop" in before["code"]) == ("RandomResizedCrop" in after["code"])
    assert renamed["score"].equals(functions["score"])


# -------------------------------------------------------------------------------------------------------------- texts


@pytest.fixture(scope="module")
def tokenizer():
    return models.load("nano-coder").tokenizer


@pytest.mark.parametrize("form", ["transform_nano_train", "transform_direct_train"])
def test_the_worse_asks_and_the_better_is_all_that_is_learnt(tokenizer, form):
    pairs = draw_pairs(corpus(30), rng(), 4)
    for example, pair in zip(pair_examples(tokenizer, pairs, form, "direct"), pairs.itertuples(), strict=True):
        asked = tokenizer.decode(example.ids[: example.prompt_length])
        learnt = tokenizer.decode(example.ids[example.prompt_length :])
        assert learnt == f"{answer('direct', [], pair.better_code)}<|end|>"
        assert answer("direct", [], pair.worse_code) in asked and f"{pair.worse_score:.2f}" in asked
        assert str(pair.better_score)[:6] not in asked + learnt
