"""Candidate and Outcome: what they refuse."""

from __future__ import annotations

import dataclasses
import math

import pytest

from nngpt_lab.candidates.outcome import Candidate, Kind, Outcome
from nngpt_lab.corpora.code import code_hash
from nngpt_lab.sandbox.status import Status


@pytest.mark.parametrize("status", [status for status in Status if status != Status.OK])
def test_a_failure_has_no_score(status):
    assert Outcome(status).score is None
    with pytest.raises(ValueError, match="if and only if"):
        Outcome(status, 0.0)


def test_success_has_a_score():
    with pytest.raises(ValueError, match="if and only if"):
        Outcome(Status.OK)
    assert [Outcome(Status.OK, score).score for score in (0, 0.0, 1.0)] == [0, 0.0, 1.0]


@pytest.mark.parametrize("score", [-0.01, 1.01, 63.98, math.nan, math.inf, -math.inf])
def test_a_score_is_an_accuracy(score):
    with pytest.raises(ValueError, match="accuracy"):
        Outcome(Status.OK, score)


def test_both_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Outcome(Status.CRASH).score = 1.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        Candidate("t", "c", Kind.AUGMENTATION).code = "other"


def test_the_key_is_the_code_alone():
    one = Candidate("Sure: x = 1", "x = 1", Kind.ARCHITECTURE, sampling_seed=1)
    other = Candidate("x = 1", "x = 1", Kind.ARCHITECTURE, prompt_hash="p", sampling_seed=2)
    assert one.code_hash == other.code_hash == code_hash("x = 1")
    assert one.code_hash != Candidate("x = 1", "x = 1\n", Kind.ARCHITECTURE).code_hash
