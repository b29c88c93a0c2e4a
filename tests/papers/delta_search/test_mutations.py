"""Typed mutations: what each one changes, what it refuses, and that networks stay Python."""

from __future__ import annotations

import numpy as np
import pytest

from nngpt_lab.corpora.code import parse
from nngpt_lab.papers.delta_search.edits import Mutation, Mutations, Outcome, Refused
from nngpt_lab.papers.delta_search.mutations import KINDS, layer_numbers, mutate, random_mutation

NET = """from torch import nn  # é: a letter of two bytes


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, kernel_size=3, padding=1), nn.BatchNorm2d(16), nn.ReLU(inplace=True), nn.MaxPool2d(2),
            nn.Conv2d(16, 16, 3, padding=1),  # é
        )
        self.head = nn.Linear(16, 10)
"""


@pytest.mark.parametrize(
    ("command", "old", "new"),
    [
        (("width", 1, "32"), "nn.Conv2d(3, 16, kernel_size=3, padding=1), nn.BatchNorm2d(16)",
         "nn.Conv2d(3, 32, kernel_size=3, padding=1), nn.BatchNorm2d(32)"),
        (("kernel", 1, "5"), "kernel_size=3, padding=1", "kernel_size=5, padding=2"),
        (("kernel", 5, "1"), "nn.Conv2d(16, 16, 3, padding=1)", "nn.Conv2d(16, 16, 1, padding=0)"),
        (("activation", 3, "GELU"), "nn.ReLU(inplace=True)", "nn.GELU()"),
        (("normalisation", 2, "GroupNorm"), "nn.BatchNorm2d(16)", "nn.GroupNorm(1, 16)"),
        (("normalisation", 5, "BatchNorm2d"), "nn.Conv2d(16, 16, 3, padding=1)",
         "nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16))"),
        (("pooling", 4, "AvgPool2d"), "nn.MaxPool2d(2)", "nn.AvgPool2d(2)"),
        (("depth", 5, "-1"), "nn.Conv2d(16, 16, 3, padding=1)", "nn.Identity()"),
        (("depth", 6, "+1"), "nn.Linear(16, 10)", "nn.Sequential(nn.Linear(16, 10), nn.ReLU(), nn.Linear(10, 10))"),
    ],
)  # fmt: skip
def test_a_mutation_changes_what_it_is_about_and_what_follows(command, old, new):
    wanted = NET.replace(old, new)
    if command == ("width", 1, "32"):
        wanted = wanted.replace("nn.Conv2d(16, 16", "nn.Conv2d(32, 16")
    assert mutate(NET, Mutations((Mutation(*command),))) == wanted != NET


def test_a_skip_brings_the_class_that_it_needs_once():
    code = mutate(NET, Mutations((Mutation("skip", 5, ""),)))
    assert "Skip(nn.Conv2d(16, 16, 3, padding=1))" in code and code.count("class Skip(") == 1
    assert mutate(code, Mutations((Mutation("activation", 3, "ELU"),))).count("class Skip(") == 1


def test_numbers_are_those_of_the_source_as_given():
    both = mutate(NET, Mutations((Mutation("depth", 1, "+1"), Mutation("activation", 3, "GELU"))))
    assert "nn.GELU()" in both and both.count("nn.Conv2d(16, 16, 3, padding=1)") == 2
    assert [text.split("(")[0] for _, text in layer_numbers(NET)] == [
        "nn.Conv2d", "nn.BatchNorm2d", "nn.ReLU", "nn.MaxPool2d", "nn.Conv2d", "nn.Linear"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("command", "outcome"),
    [
        (("width", 3, "32"), Outcome.CONTEXT_ABSENT),
        (("width", 1, "0"), Outcome.WRONG_FORMAT),
        (("width", 1, "9" * 5000), Outcome.WRONG_FORMAT),
        (("activation", 3, "__import__"), Outcome.WRONG_FORMAT),
        (("skip", 1, ""), Outcome.CONTEXT_ABSENT),
        (("depth", 1, "+7"), Outcome.WRONG_FORMAT),
        (("width", 0, "32"), Outcome.CONTEXT_ABSENT),
    ],
)
def test_what_cannot_be_done_is_refused(command, outcome):
    with pytest.raises(Refused) as refused:
        mutate(NET, Mutations((Mutation(*command),)))
    assert refused.value.outcome == outcome


def test_random_mutations_are_of_all_kinds_and_leave_python():
    rng, kinds = np.random.default_rng(0), set()
    for _ in range(120):
        mutation, code = random_mutation(NET, rng)
        parse(code)
        assert code != NET and code == mutate(NET, Mutations((mutation,)))
        kinds.add(mutation.kind)
    assert kinds == set(KINDS)
    assert random_mutation("x = 1", rng) is None and random_mutation("x = (", rng) is None
