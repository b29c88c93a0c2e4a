"""Exercises: nothing answered is no error, a right answer is right, a wrong one is not, and nothing is given away."""

from __future__ import annotations

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch

from nngpt_lab.ground import paths
from nngpt_lab.ground.errors import UsageError
from nngpt_lab.walkthroughs import lora, minhash, solutions
from nngpt_lab.walkthroughs.solutions import NOTEBOOKS, Exercises

PAIRS = pd.DataFrame({"pair": ["a-b", "a-b", "a-b", "a-c"], "answer": ["a", "b", "a", "c"]})
RUNS = pd.DataFrame({"run": list("abcd"), "difference": [6.0, 0.3, 1.0, -5.0], "low": [3.0, -1.2, -4.0, -7.5],
                     "high": [9.0, 1.8, 6.0, -2.5]})  # fmt: skip
DATA = {
    ("00_tour", 1): {"base": np.array([0.3, 0.1, 0.5, 0.2, 0.4, 0.6])},
    ("00_tour", 2): {"scores": np.arange(99.0), "noise": 0.5},
    ("00_tour", 3): {"train": PAIRS, "test": PAIRS.iloc[1:], "even": PAIRS.iloc[:2]},
    ("00_tour", 4): {"four_runs": RUNS},
}
ALL = [(notebook, number) for notebook, exercises in NOTEBOOKS.items() for number in exercises]


@pytest.fixture(params=ALL, ids=lambda one: f"{one[0]}-{one[1]}")
def asked(request):
    notebook, number = request.param
    exercises = Exercises(notebook)
    exercises.ask(number, **DATA.get(request.param, {}))
    return exercises, number, NOTEBOOKS[notebook][number].solve(**DATA.get(request.param, {}))


def said(capsys, call, *arguments) -> str:
    call(*arguments)
    return capsys.readouterr().out


def test_nothing_answered_is_said_and_gives_nothing_away(asked, capsys):
    exercises, number, right = asked
    for answer in (None, ..., dict.fromkeys(right) if isinstance(right, dict) else None):
        out = said(capsys, exercises.check, number, answer)
        assert "nothing answered yet" in out and f"hint({number})" in out
    assert len(said(capsys, exercises.hint, number)) > 40


def test_the_solution_passes_its_own_check_and_is_shown_as_code(asked, capsys):
    exercises, number, right = asked
    assert f"Exercise {number}: right." in said(capsys, exercises.check, number, right)
    shown = said(capsys, exercises.solution, number)
    assert shown.startswith("def ") and "return" in shown and len(shown.splitlines()) > 4


@pytest.mark.parametrize("answer", ["x", -1, [], {"a": object()}, {1: -1}, lambda pair: pair[7]])
def test_no_answer_raises_and_a_wrong_one_is_not_right(asked, capsys, answer):
    exercises, number, _ = asked
    assert "right." not in said(capsys, exercises.check, number, answer)


def test_each_part_of_an_answer_is_judged(capsys):
    tour = Exercises("00_tour")
    tour.ask(1, **DATA["00_tour", 1])
    out = said(capsys, tour.check, 1, {2: 0.9, 4: 0.1, 6: None})
    assert "2: too high; 4: too low; 6: nothing yet" in out
    tour.ask(4, **DATA["00_tour", 4])
    assert "a: right; b: another one; c: nothing yet" in said(capsys, tour.check, 4, {"a": " Reproduced", "b": "no"})


def test_counts_are_exact_and_other_numbers_need_not_be(capsys):
    hashes, tour = Exercises("minhash"), Exercises("00_tour")
    hashes.ask(1)
    assert "too high" in said(capsys, hashes.check, 1, 191) and "right." in said(capsys, hashes.check, 1, 190.0)
    tour.ask(2, **DATA["00_tour", 2])  # 98 and 97 are within two SD of 98: (99 + 1) / (2 + 1) draws
    assert "right." in said(capsys, tour.check, 2, 33.3) and "too low" in said(capsys, tour.check, 2, 32)


def test_an_answerer_may_be_a_dictionary_a_series_or_a_function(capsys):
    tour = Exercises("00_tour")
    tour.ask(3, **DATA["00_tour", 3])
    table = {"a-b": "a", "a-c": "c"}
    for answer in (table, pd.Series(table), table.get):
        assert "right." in said(capsys, tour.check, 3, answer)
    assert "all questions: too low" in said(capsys, tour.check, 3, {"a-b": "b"})


def test_the_verdicts_are_the_labs():
    assert solutions.verdicts_by_rule(RUNS) == {
        "a": "reproduced", "b": "no effect", "c": "inconclusive", "d": "not reproduced",
    }  # fmt: skip


def test_one_changed_token_by_hand():
    """The solution's formula against sets that are laid side by side, one shingle below it and at it."""
    for shingles, duplicate in ((189, False), (190, True)):
        tokens = [f"token{i}" for i in range(shingles + 9)]
        sets = [minhash.shingles(text, 10) for text in (tokens, [*tokens[:100], "another", *tokens[101:]])]
        assert len(sets[0]) == shingles and (float(minhash.jaccard(*sets)) >= 0.90) is duplicate
    assert solutions.one_token_changed() == 190


def test_which_starts_learn_by_their_gradients():
    draw = torch.Generator().manual_seed(0)
    inputs, upstream, random_b = (torch.randn(*shape, generator=draw) for shape in ((8, 6), (8, 4), (4, 2)))
    zero_a, starts = torch.zeros(2, 6), {"A and B zero": torch.zeros(4, 2), "A zero, B random": random_b}
    moves = {
        name: any(bool(g.any()) for g in lora.gradients(inputs, upstream, zero_a, b, alpha=4))
        for name, b in starts.items()
    }
    assert moves == solutions.starts_that_learn()


def test_the_adapter_of_k_proj_by_its_counts():
    by_rank = {rank: lora.counts({"k_proj": (64, 256)}, rank).iloc[0] for rank in (32, 51, 52)}
    found = solutions.adapter_of_k_proj()
    assert by_rank[32]["share"] == found["share"] and by_rank[51]["share"] < 1 < by_rank[found["from rank"]]["share"]


def test_what_is_not_there_is_said():
    with pytest.raises(UsageError, match="no exercise 9"):
        Exercises("minhash").hint(9)
    with pytest.raises(UsageError, match="not asked yet"):
        Exercises("00_tour").check(1, None)
    with pytest.raises(UsageError, match="00_tour"):
        Exercises("01")


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_a_notebook_asks_all_its_exercises_and_shows_no_solution(notebook):
    path = next(paths.notebooks_folder().rglob(f"{notebook}.ipynb"))
    code = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    for number in NOTEBOOKS[notebook]:
        assert sum(f"exercises.ask({number}" in source for source in code) == 1
        assert sum(f"exercises.check({number}, your_answer)" in source for source in code) == 1
    assert not any(".solution(" in source or ".hint(" in source for source in code)
