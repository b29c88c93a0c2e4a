"""Designs and arms: what all papers share."""

from dataclasses import replace

import pytest

from nngpt_lab.ground.errors import UsageError
from nngpt_lab.papers.architecture_loop import design as architecture_loop
from nngpt_lab.papers.augmentation_search import design as augmentation_search
from nngpt_lab.papers.dataset_prediction import design as dataset_prediction
from nngpt_lab.study import design as study
from nngpt_lab.study.design import describe, resized

DESIGNS = [
    design for room in (architecture_loop, augmentation_search, dataset_prediction) for design in room.DESIGNS.values()
]
DEMO, PAPER = architecture_loop.DEMO, architecture_loop.PAPER


@pytest.mark.parametrize("design", DESIGNS, ids=lambda design: design.name)
def test_another_size_keeps_the_rest(design):
    assert resized(design) == design == resized(design, name=None, recipe=None)
    other = resized(design, batch=design.batch + 1)
    assert replace(other, batch=design.batch) == design and other.hash() != design.hash()


def test_none_is_the_designs_own_and_zero_is_zero():
    design = resized(DEMO, cycles=3, samples=None, corpus_pairs=0)
    assert (design.cycles, design.samples, design.corpus_pairs) == (3, DEMO.samples, 0)
    assert resized(PAPER, corpus_pairs=0).corpus_pairs == 0


@pytest.mark.parametrize("design", DESIGNS, ids=lambda design: design.name)
@pytest.mark.parametrize("size", ["cycles", "epochs", "samples", "train", "test", "altered"])
def test_a_run_of_nothing_is_refused(design, size):
    if size in vars(design):
        with pytest.raises(UsageError, match=f"{size} is 0"):
            resized(design, **{size: 0})


def test_an_unknown_field_is_refused():
    with pytest.raises(UsageError, match="did you mean 'cycles'"):
        resized(DEMO, cylces=3)


@pytest.mark.parametrize("design", DESIGNS, ids=lambda design: design.name)
def test_the_hash_leaves_out_what_changes_no_run(design, monkeypatch):
    assert replace(design, name="other", source="elsewhere").hash() == design.hash()
    assert set(design.NOT_HASHED) <= set(vars(design))
    before = design.hash()
    monkeypatch.setattr(study, "SCHEME", 3)
    assert design.hash() != before  # no run goes on with seeds of another scheme


def test_a_design_is_described_in_full():
    table = describe(PAPER)
    assert set(table.columns) == {"setting", "value"} and len(table) == len(vars(PAPER))
    assert "rank 32" in table.set_index("setting")["value"].iloc[list(vars(PAPER)).index("recipe")]
