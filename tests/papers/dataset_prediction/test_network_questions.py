"""Which of two networks: parts that share no program, and controls that cannot learn the order."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from nngpt_lab.papers.dataset_prediction import network_questions as nq

DATASETS = ("cifar-10", "mnist", "svhn")


@pytest.fixture(scope="module")
def published():
    """Networks whose accuracy follows from their family and their length; every fifth is a copy of its predecessor."""
    rng = np.random.default_rng(0)
    facts, records = [], []
    for i in range(150):
        long = int(rng.integers(0, 2))
        facts.append({"name": f"net-{i}", "family": f"family-{i % 3}", "nameless_hash": f"p{i - (i % 5 == 4)}"}
                     | {"code_hash": f"c{i}", "characters": 1000 + 3000 * long, "layer_calls": 5})  # fmt: skip
        for dataset in DATASETS:
            accuracy = 0.3 + 0.1 * (i % 3) + 0.03 * long + 0.01 * rng.random()
            records.append({"task": "img-classification", "metric": "acc", "epoch": 5, "architecture": f"net-{i}"}
                           | {"dataset": dataset, "accuracy": accuracy, "id": f"{i}{dataset}"})  # fmt: skip
    return pd.DataFrame(records), pd.DataFrame(facts)


@pytest.fixture(scope="module")
def parts(published):
    return nq.build_parts(*published, np.random.default_rng(1), train=300, validation=60, test=90)


def test_no_program_is_in_two_parts_and_no_question_compares_a_program_with_its_copy(parts, published):
    program = published[1].set_index("name")["nameless_hash"]
    each = vars(parts)
    seen = {part: {*q["architecture"].map(program), *q["architecture_2"].map(program)} for part, q in each.items()}
    for a, b in combinations(seen, 2):
        assert not seen[a] & seen[b]
    for questions in each.values():
        assert (questions["architecture"].map(program) != questions["architecture_2"].map(program)).all()
    every = pd.concat(each.values())
    assert every.index.is_unique


def test_data_sets_are_asked_equally_often_and_the_order_says_nothing(parts):
    assert parts.train["dataset"].value_counts().to_dict() == dict.fromkeys(DATASETS, 100)
    assert len(parts.test) == 90
    assert 0.4 < parts.train["first_wins"].mean() < 0.6
    assert (parts.train["first_wins"] == (parts.train["norm_1"] > parts.train["norm_2"])).all()


def swapped(questions: pd.DataFrame) -> pd.DataFrame:
    names = {"architecture": "architecture_2", "family": "family_2", "characters": "characters_2"}
    names |= {"layers": "layers_2", "norm_1": "norm_2"}
    turned = questions.rename(columns=names | {b: a for a, b in names.items()})
    return turned.assign(first_wins=~questions["first_wins"])


@pytest.mark.parametrize("name", nq.CONTROLS)
def test_a_control_answers_alike_when_the_networks_change_places(name, parts, published):
    rows = published[1].itertuples(index=False)
    code = {row.name: f"class {row.family.replace('-', '')}: x = {row.characters}" for row in rows}
    control = nq.CONTROLS[name]
    straight = control(parts.train, parts.test, code)
    assert control(parts.train, swapped(parts.test), code) == pytest.approx(1 - straight)
    right = ((straight > 0.5) == parts.test["first_wins"]).mean()
    assert right > (0.55 if name == "code length and layers" else 0.75)  # the family decides most, length the rest


def test_a_family_that_was_never_trained_on_has_no_opinion(parts, published):
    test = parts.test.head(4).assign(family="new", family_2="newer")
    assert nq.family(parts.train, test, {}) == pytest.approx(0.5)
    table = nq.answer_controls(parts.train, test, dict.fromkeys(published[1]["name"], "x y"))
    assert (table.loc[table["baseline"] == "family", "correct"] == 0.5).all()
