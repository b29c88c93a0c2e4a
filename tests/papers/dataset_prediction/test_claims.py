"""A verdict on code for every model that passes the control, and the paper's peaks only as published."""

from __future__ import annotations

import pandas as pd
import pytest

from nngpt_lab.papers.dataset_prediction import claims as dc

COLUMNS = ["answerer", "prompt", "split", "accuracy", "low", "high"]


def models(*rows, **more) -> pd.DataFrame:
    facts = {"question_set": "balanced", "state": "tuned", "readout": "both orders", "n": 160} | more
    return pd.DataFrame(rows, columns=COLUMNS).assign(**facts)


def verdicts(*rows) -> list[str]:
    return dc.code_signal(models(*rows))["verdict"].to_list()


CONTROL = ("m", "scores", "architectures", 90, 80, 95)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(51, 60, "reproduced"), (45, 60, "inconclusive"), (40, 49, "not reproduced")],
)
def test_a_model_that_passes_the_control_has_a_verdict(low, high, verdict):
    assert verdicts(CONTROL, ("m", "code", "architectures", (low + high) / 2, low, high)) == [verdict]


@pytest.mark.parametrize("control", [[("m", "scores", "architectures", 55, 49, 61)], [("other", *CONTROL[1:])], []])
def test_without_a_passed_control_nothing_is_said_about_code(control):
    assert verdicts(*control, ("m", "code", "architectures", 70, 60, 80)) == [dc.UNTESTED]


def test_the_control_of_the_same_split_comes_first_and_every_model_has_a_row():
    asked = [("m", "code", split, 60, 55, 65) for split in ("architectures", "families")]
    elsewhere = ("m", "scores", "families", 70, 60, 80)
    table = dc.code_signal(models(*asked, ("n", "code_metadata", "architectures", 60, 55, 65), elsewhere, CONTROL))
    assert table.set_index(["model", "split"])["control"].dropna().to_dict() == {
        ("m", "architectures"): 90,
        ("m", "families"): 70,
    }
    assert len(table) == 3 and (table["n"] == 160).all()


@pytest.mark.parametrize("other", [{"state": "untuned"}, {"readout": "text"}, {"question_set": "all"}])
def test_only_tuned_models_in_both_orders_on_the_balanced_set_count(other):
    assert dc.code_signal(models(CONTROL, ("m", "code", "architectures", 60, 55, 65), **other)).empty


def test_the_sentence_names_each_model_its_numbers_and_its_verdict():
    table = dc.code_signal(models(CONTROL, ("m", "code", "architectures", 60, 55, 65)))
    said = dc.signal_sentence(table, "architectures")
    assert said == "Language models, tuned: m 60.0 % [55.0, 65.0], n = 160: reproduced (positive control 90.0 %)."
    assert dc.signal_sentence(table, "families") == ""


def epochs(model="DeepSeek-Coder-7B", **more) -> pd.DataFrame:
    table = pd.DataFrame({"epoch": [0, 1, 2], "correct": [15.0, 24.0, 21.0]})
    facts = {"model": model, "prompt": "code", "split": "published", "readout": "text", "on": "first 30", "n": 30}
    return table.assign(accuracy=table["correct"] / 0.3, **(facts | more))


def test_a_published_run_gives_the_peak_and_another_a_note():
    peak = dc.peaks(epochs(), published=True)["C-code-7b"]
    assert (peak.estimate.value, peak.estimate.n) == (pytest.approx(80), 30) and "Best of 2 epochs" in peak.note
    assert "C-code-1.3b" not in dc.peaks(epochs(), published=True)
    noted = dc.peaks(epochs("nano-coder"), published=False)["C-code-7b"]
    assert noted.estimate is None and "nano-coder reaches 80.0 %" in noted.note


@pytest.mark.parametrize("other", [{"readout": "both orders"}, {"on": "all"}, {"split": "architectures"}])
def test_the_peak_is_that_of_text_on_the_first_thirty_as_published(other):
    assert dc.peaks(epochs(**other), published=True) == {}


def per_dataset(**more) -> pd.DataFrame:
    row = {"model": "DeepSeek-Coder-7B", "prompt": "metadata", "split": "published", "question_set": "all"}
    row |= {"dataset": "celeba-gender", "n": 11, "accuracy": 90.9, "low": 60.0, "high": 98.0}
    return pd.DataFrame([row | more])


def test_celeba_is_measured_as_published_and_noted_otherwise():
    assert dc.celeba(per_dataset(), published=True).estimate.value == 90.9
    assert dc.celeba(per_dataset(split="architectures"), published=True).estimate is None
    assert "reaches 90.9 %" in dc.celeba(per_dataset(model="nano-coder"), published=False).note
    assert dc.celeba(per_dataset(prompt="code"), published=False).note == ""
