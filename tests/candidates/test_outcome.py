"""Candidate and Outcome: what they refuse, and that nothing is lost on the way through JSON."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nngpt_lab.candidates.outcome import Candidate, Kind, Outcome
from nngpt_lab.corpora.code import code_hash
from nngpt_lab.sandbox.status import Status

TEXT = st.text(st.characters(codec="utf-8"))
CANDIDATES = st.builds(
    Candidate,
    text=TEXT,
    code=TEXT,
    kind=st.sampled_from(Kind),
    prompt_hash=TEXT,
    sampling_seed=st.none() | st.integers(0, 2**63),
    parent=st.none() | TEXT,
)
COMMON = {
    "seed": st.integers(0, 2**63),
    "protocol_hash": TEXT,
    "seconds": st.dictionaries(TEXT, st.floats(0, 1e6)),
    "device": TEXT,
    "message": TEXT,
    "traceback": TEXT,
    "isolation": st.lists(TEXT).map(tuple),
}
OUTCOMES = st.builds(Outcome, st.just(Status.OK), st.floats(0, 1), **COMMON) | st.builds(
    Outcome, st.sampled_from([status for status in Status if status != Status.OK]), **COMMON
)


@given(CANDIDATES)
def test_a_candidate_survives_json(candidate):
    assert Candidate.from_dict(json.loads(json.dumps(candidate.as_dict()))) == candidate


@given(OUTCOMES)
def test_an_outcome_survives_json(outcome):
    again = Outcome.from_dict(json.loads(json.dumps(outcome.as_dict())))
    assert again == outcome and isinstance(again.status, Status) and isinstance(again.isolation, tuple)


def test_only_plain_values_go_into_json():
    values = Outcome(Status.OK, 0.5, isolation=("seccomp",)).as_dict()
    assert type(values["status"]) is str and values["isolation"] == ["seccomp"]
    assert type(Candidate("t", "c", Kind.AUGMENTATION).as_dict()["kind"]) is str


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


def test_a_forged_row_is_refused():
    row = Outcome(Status.CRASH).as_dict()
    for forged in ({"status": "fine"}, {"status": "ok"}, {"score": 1.0}):
        with pytest.raises(ValueError):
            Outcome.from_dict(row | forged)
    with pytest.raises(TypeError):
        Outcome.from_dict(row | {"surprise": 1})
    with pytest.raises(ValueError):
        Candidate.from_dict(Candidate("t", "c", Kind.AUGMENTATION).as_dict() | {"kind": "poem"})


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
