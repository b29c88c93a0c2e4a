"""Paper C's design end to end, with a random model of some thousand weights and published data made up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from threadpoolctl import threadpool_limits

from nngpt_lab.corpora.architectures import Lemur
from nngpt_lab.ground.errors import UsageError
from nngpt_lab.papers.dataset_prediction import figures, loop
from nngpt_lab.papers.dataset_prediction import runs as paper_runs
from nngpt_lab.papers.dataset_prediction.claims import code_signal
from nngpt_lab.papers.dataset_prediction.design import GPU, Cell, narrowed
from nngpt_lab.records.results import Results
from nngpt_lab.study.design import resized
from tests.papers.dataset_prediction.test_loop import DESIGN, new_coder

SOME = ("cifar-10", "imagenette", "mnist", "svhn")


def made_up_lemur() -> Lemur:
    rng, facts, records = np.random.default_rng(0), [], []
    for i in range(60):
        code = f"class Net:\n    layer{i} = nn.Conv2d({i // 2}, 64, kernel_size=3)\n"  # two are alike up to names
        facts.append({"name": f"net-{i}", "family": f"family-{i % 3}", "nameless_hash": f"p{i // 2}", "code": code}
                     | {"code_hash": f"c{i}", "characters": len(code), "layer_calls": i % 5})  # fmt: skip
        for dataset in SOME:
            row = {"task": "img-classification", "metric": "acc", "epoch": 5, "architecture": f"net-{i}"}
            records.append(row | {"dataset": dataset, "accuracy": rng.random(), "id": f"{rng.random()}"})
    return Lemur(pd.DataFrame(facts), pd.DataFrame(records), pd.DataFrame())


@pytest.fixture(scope="module")
def coder_folder(tmp_path_factory):
    folder, coder = tmp_path_factory.mktemp("tiny-coder"), new_coder()
    coder.model.save_pretrained(folder)
    coder.tokenizer.save_pretrained(folder)
    return folder


CELLS = (Cell("architectures", "balanced"), Cell("near-duplicates", "all", ("code",)))
SMALL = replace(DESIGN, cells=CELLS, epochs=1, networks=True, prompts=("code", "metadata"), swapped_texts=True)


@pytest.fixture(scope="module")
def runs(coder_folder, tmp_path_factory):
    results = Results(tmp_path_factory.mktemp("results"), "smoke")
    with threadpool_limits(1):
        yield (
            results,
            paper_runs.run_design(results, resized(SMALL, coders=(str(coder_folder),)), made_up_lemur(), [0, 1], 1),
        )


@pytest.fixture(scope="module")
def tables(runs):
    return paper_runs.tables(runs[1], np.random.default_rng(0), 50)


def test_every_model_prompt_cell_and_seed_is_there(runs, tables):
    answers = runs[1].answers
    found = set(answers.groupby(["prompt", "split", "question_set", "seed"]).groups)
    cells = [("code", "near-duplicates", "all")] + [(p, "architectures", "balanced") for p in SMALL.prompts]
    assert found == {(*cell, seed) for cell in cells for seed in (0, 1)}
    assert set(tables) == {"llm_epochs", "peaks", "models_and_baselines", "against_baselines", "order_swap"} | {
        "per_dataset", "pair_confusion", "calibration", "code_over_metadata", "input_ablations",
        "network_comparison"}  # fmt: skip
    assert all(len(table) for table in tables.values())
    assert set(runs[1].altered["prompt"]) == {"code"}
    assert set(tables["network_comparison"]["answerer"]) > {"family", "code words"}


def test_models_and_baselines_answer_the_same_questions(runs, tables):
    table = tables["models_and_baselines"]
    for _, cell in table[table["readout"].isin(["both orders", ""])].groupby(["split", "question_set"]):
        assert cell["n"].nunique() == 1
    code = table[(table["prompt"] == "code") & (table["split"] == "architectures") & (table["state"] == "tuned")]
    code = code[(code["question_set"] == "balanced") & (code["readout"] == "both orders")].iloc[0]
    assert 0 <= code["low"] <= code["accuracy"] <= code["high"] <= 100 and code["n"] == 12
    names = table[(table["answerer"] == "names") & (table["question_set"] == "balanced")]
    assert (names["accuracy"] == 50).all()  # that is what balanced means


def test_a_repeated_call_answers_nothing_again(runs, coder_folder, monkeypatch):
    results, first = runs
    monkeypatch.setattr(loop, "answer", None)
    again = paper_runs.run_design(results, resized(SMALL, coders=(str(coder_folder),)), made_up_lemur(), [0, 1], 1)
    pd.testing.assert_frame_equal(again.answers, first.answers)
    pd.testing.assert_frame_equal(again.altered, first.altered)
    pd.testing.assert_frame_equal(again.baselines, first.baselines)


def test_a_model_that_is_not_here_is_said_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(paper_runs, "prepare", None)
    with pytest.raises(UsageError, match="no model 'nano-codr'"):
        paper_runs.run_design(
            Results(tmp_path, "smoke"), resized(SMALL, coders=("nano-codr",)), made_up_lemur(), [0], 1
        )


def test_every_figure_can_be_drawn(runs, tables, tmp_path):
    name, ceilings = runs[1].answers["model"].iloc[0], {"balanced": 65.0, "balanced within family": 64.0}
    drawn = [
        figures.accuracy_per_epoch(tables["llm_epochs"], ceilings),
        figures.models_and_baselines(tables["models_and_baselines"], 65.0),
        figures.models_and_baselines(tables["models_and_baselines"], 85.0, "all"),
        figures.order_consistency(tables["order_swap"]),
        figures.ablations(tables["input_ablations"], ceilings),
        figures.per_dataset(tables["per_dataset"], "architectures", "balanced", ceilings),
        figures.calibration(tables["calibration"]),
        figures.scale_ladder(code_signal(tables["models_and_baselines"], {name: 10_000}), {"balanced": 65.0}),
        figures.models_and_baselines(tables["network_comparison"], 65.0),
    ]
    for place, figure in enumerate(drawn):
        figure.savefig(tmp_path / f"{place}.png")
        assert (tmp_path / f"{place}.png").stat().st_size > 5000
    of_balanced = [drawn[0], drawn[1], drawn[4], drawn[5], drawn[7], drawn[8]]
    said = [[text.get_text() for ax in figure.axes for text in ax.texts] for figure in of_balanced]
    assert all(any("ceiling" in text for text in texts) for texts in said)


def test_how_much_of_the_code_is_shown_is_counted():
    lemur = made_up_lemur()
    questions, code = paper_runs.prepare(SMALL, lemur)
    table = paper_runs.code_views(SMALL, questions, code).set_index("view")
    assert table.loc["all of it", "distinct"] == 60 and table["architectures"].eq(60).all()
    assert "near_duplicates" in questions and questions["near_duplicates"].nunique() == 30


def test_two_networks_are_compared_only_where_they_are_asked_for():
    """The prompt ``networks`` is one of a design's like the others, and none that could stand alone."""
    assert narrowed(GPU, None, None, None).networks
    asked = narrowed(GPU, None, "code, networks", "architectures")
    assert (asked.prompts, asked.networks) == (("code",), True)
    assert not narrowed(GPU, None, "scores, code", None).networks
    assert asked.hash() == replace(asked, networks=False).hash()  # its other runs are the same
    with pytest.raises(UsageError, match="add one of scores"):
        narrowed(GPU, None, "networks", None)
    with pytest.raises(UsageError, match="no prompt 'networks'"):
        narrowed(replace(GPU, networks=False), None, "networks", None)
