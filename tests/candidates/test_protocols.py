"""Protocols as data: what changes a hash, what does not, and that nothing is lost on the way through JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import fields, replace

import pytest

from nngpt_lab.candidates import protocols
from nngpt_lab.candidates.outcome import Kind
from nngpt_lab.candidates.protocols import LEMUR_RESNET, PROTOCOLS, Protocol, get_protocol
from nngpt_lab.ground.errors import UsageError

PROTOCOL = replace(get_protocol("paper-b"), train_limit=1000)
CHANGES = {
    "images": "svhn",
    "side": 64,
    "flip": True,
    "augment_predictions": True,
    "batch": 65,
    "lr": 0.02,
    "momentum": 0.8,
    "dropout": 0.1,
    "other": 0.4,
    "max_parameters": None,
    "norm": None,
    "holdout_fraction": 0.2,
    "split_seed": 1,
    "train_limit": None,
    "part": "test",
    "wall_seconds": 60.0,
    "memory_mib": 1024,
    "epochs": 2,
}


def test_every_field_is_covered():
    assert {field.name for field in fields(Protocol)} == {*CHANGES, "kind", "network", "name", "source"}


@pytest.mark.parametrize("field", CHANGES)
def test_what_changes_a_score_changes_the_hash(field):
    assert replace(PROTOCOL, **{field: CHANGES[field]}).hash("data") != PROTOCOL.hash("data")


def test_the_kind_the_pinned_network_the_data_and_the_evaluator_change_the_hash(monkeypatch):
    paper_a = get_protocol("paper-a")
    assert replace(paper_a, network="small").hash("data") != paper_a.hash("data")
    architectures = replace(paper_a, kind=Kind.ARCHITECTURE, network=None)
    assert architectures.hash("data") != paper_a.hash("data")
    before = PROTOCOL.hash("data")
    assert PROTOCOL.hash("other data") != before
    monkeypatch.setattr(protocols, "EVALUATOR", protocols.EVALUATOR + 1)
    assert PROTOCOL.hash("data") != before


def test_what_only_describes_leaves_the_hash_alone():
    assert replace(PROTOCOL, name="mine", source="a typo less").hash("data") == PROTOCOL.hash("data")
    assert replace(PROTOCOL, wall_seconds=60).hash("data") == replace(PROTOCOL, wall_seconds=60.0).hash("data")


def test_what_was_scored_keeps_its_hash_until_the_evaluator_changes():
    assert get_protocol("digits-augmentation").hash("data")[:16] == "fb1c970fa81b9bbc"
    assert get_protocol("paper-b").hash("data")[:16] == "6c39425beebf460e"


def test_hashes_hold_from_one_process_to_the_next_and_need_no_torch():
    code = "import sys; from nngpt_lab.candidates.protocols import get_protocol as get\n"
    code += "print(get('paper-b').hash('data'), 'torch' in sys.modules)"
    said = [
        subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True)
        for seed in "12"
    ]
    assert [run.stdout.decode().split() for run in said] == [[get_protocol("paper-b").hash("data"), "False"]] * 2


@pytest.mark.parametrize("name", PROTOCOLS)
def test_round_trip(name):
    protocol = replace(get_protocol(name), train_limit=7)
    again = Protocol.from_dict(json.loads(json.dumps(protocol.as_dict())))
    assert again == protocol and again.hash("data") == protocol.hash("data")


def test_published_protocols_are_distinct():
    assert len({protocol.hash("data") for protocol in PROTOCOLS.values()}) == len(PROTOCOLS)
    paper, code = get_protocol("paper-b"), get_protocol("paper-b-code")
    assert (paper.side, paper.batch, paper.flip, paper.max_parameters) == (32, 64, False, 500_000)
    assert (code.side, code.batch, code.flip, code.max_parameters) == (256, 16, True, None)
    assert code.augment_predictions and not paper.augment_predictions
    assert (code.wall_seconds, code.lr, code.momentum, code.dropout) == (1800, 0.01, 0.9, 0.2)


def test_no_protocol_reads_the_test_set_unless_told_to():
    for protocol in PROTOCOLS.values():
        assert protocol.part == "holdout" and 0 < protocol.holdout_fraction < 1
        assert protocol.for_test().part == "test"
        assert protocol.for_test().hash("data") != protocol.hash("data")
        assert replace(protocol.for_test(), part="holdout") == protocol


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UsageError) as caught:
        get_protocol("paper-B")
    assert "paper-B" in caught.value.cause and "paper-b" in caught.value.cure


NONSENSE = {
    "paper-b": [
        {"part": "train"},
        {"network": "small"},
        {"kind": Kind.AUGMENTATION},
        {"batch": 0},
        {"train_limit": 0},
        {"epochs": 0},
    ],
    "paper-a": [{"network": None}, {"side": 64}, {"flip": True}, {"augment_predictions": False}],
}


@pytest.mark.parametrize(("name", "change"), [(name, change) for name in NONSENSE for change in NONSENSE[name]])
def test_nonsense_is_refused(name, change):
    with pytest.raises(UsageError) as caught:
        replace(get_protocol(name), **change)
    assert caught.value.cure


def test_the_pinned_network_is_lemurs_resnet(lemur):
    table = lemur.architectures
    found = table[table["code_hash"] == LEMUR_RESNET]
    assert "ResNet" in set(found["name"])
    assert "class Net" in found["code"].iloc[0]
