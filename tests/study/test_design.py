"""Designs and arms: what all papers share."""

from dataclasses import replace

import pytest

from nngpt_lab.candidates.protocols import get_protocol
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
    same = replace(other, batch=design.batch, name=design.name)  # what differs in more than its size says so
    assert same == design and other.hash() != design.hash()


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


def test_rank_rate_passes_temperature_and_threshold_by_their_short_names():
    design = resized(PAPER, rank=8, lr=3e-4, lora_epochs=2, temperature=0.5, threshold=0.5)
    recipe = replace(PAPER.recipe, rank=8, alpha=PAPER.recipe.alpha / 4, lr=3e-4, epochs=2)
    decoding = replace(PAPER.decoding, temperature=0.5)
    wanted = replace(PAPER, recipe=recipe, decoding=decoding, thresholds=(0.5, *PAPER.thresholds[1:]))
    assert design == replace(wanted, name="paper-b, changed")
    assert resized(augmentation_search.PAPER, threshold=0.2).threshold == 0.2
    for name, value in (("rank", 0), ("lr", -1.0), ("lora_epochs", 0), ("temperature", -0.1), ("threshold", 1.5)):
        with pytest.raises(UsageError):
            resized(PAPER, **{name: value})
    with pytest.raises(UsageError, match="has no 'threshold'"):
        resized(dataset_prediction.PAPER, threshold=0.5)


@pytest.mark.parametrize("change", [{"rank": 8}, {"coder": "nano-coder"}, {"images": "svhn"}, {"temperature": 0.9}])
def test_what_differs_in_more_than_its_size_is_not_the_papers(change):
    assert resized(PAPER, cycles=3, samples=4).name == PAPER.name
    assert resized(PAPER, cycles=3, **change).name == "paper-b, changed"


def test_the_table_says_what_was_replaced():
    table = describe(resized(PAPER, rank=8, samples=5), PAPER).set_index("setting")["instead_of"]
    assert table[["Recipe", "Samples", "Decoding", "Cycles"]].tolist() == ["rank 32, alpha 32", "208", "", ""]
    assert list(describe(PAPER, PAPER)) == ["setting", "value"]


def test_images_of_ones_own_are_scored_and_named_and_runs_without_them_go_on():
    own = resized(PAPER, images="svhn")
    assert own.scored_by() == replace(get_protocol("paper-b"), images="svhn", norm=None)
    assert dict(own.fields)["dataset"] == "svhn"
    assert PAPER.scored_by() == get_protocol("paper-b")
    values = {key: value for key, value in vars(PAPER).items() if key != "images"}
    assert "images" not in values
    assert len({PAPER.hash(), own.hash(), resized(PAPER, images="mnist").hash()}) == 3


def test_a_prompt_file_counts_by_what_it_says(tmp_path):
    files = [tmp_path / name for name in ("a.txt", "b.txt", "c.txt")]
    for file, text in zip(files, ("Write $dataset.", "Write $dataset.", "Draw $dataset."), strict=True):
        file.write_text(f"#: fields: dataset\n#: user\n{text}\n")
    first, same, other = (resized(DEMO, prompt=str(file)).hash() for file in files)
    assert first == same
    assert len({first, other, DEMO.hash()}) == 3
