"""A verdict on code for every model that passes the control, and the paper's peaks only as published."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from nngpt_lab.papers.dataset_prediction import claims as dc
from nngpt_lab.papers.dataset_prediction.questions import published_counts
from nngpt_lab.statistics.claims import UNTESTED, facts_table, load_claims

COLUMNS = ["answerer", "prompt", "split", "accuracy", "low", "high"]


def models(*rows, **more) -> pd.DataFrame:
    facts = {"question_set": "balanced", "state": "tuned", "readout": "both orders", "n": 160, "programs": 120} | more
    return pd.DataFrame(rows, columns=COLUMNS).assign(**facts)


def signal(table: pd.DataFrame) -> pd.DataFrame:
    return dc.code_signal(table, {"m": 3_344_640, "n": 1_000})


def verdicts(*rows) -> list[str]:
    return signal(models(*rows))["verdict"].to_list()


CONTROL = ("m", "scores", "architectures", 90, 80, 95)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(54, 60, "reproduced"), (51, 60, "inconclusive"), (48, 52, "no effect"), (40, 49, "not reproduced")],
)
def test_a_model_that_passes_the_control_has_a_verdict(low, high, verdict):
    assert verdicts(CONTROL, ("m", "code", "architectures", (low + high) / 2, low, high)) == [verdict]


@pytest.mark.parametrize("control", [[("m", "scores", "architectures", 55, 49, 61)], [("other", *CONTROL[1:])], []])
def test_without_a_passed_control_nothing_is_said_about_code(control):
    assert verdicts(*control, ("m", "code", "architectures", 70, 60, 80)) == [UNTESTED]


def test_the_control_of_the_same_split_comes_first_and_every_model_has_a_row():
    asked = [("m", "code", split, 60, 55, 65) for split in ("architectures", "families")]
    elsewhere = ("m", "scores", "families", 70, 60, 80)
    table = signal(models(*asked, ("n", "code_metadata", "architectures", 60, 55, 65), elsewhere, CONTROL))
    assert table.set_index(["model", "split"])["control"].dropna().to_dict() == {
        ("m", "architectures"): 90,
        ("m", "families"): 70,
    }
    assert len(table) == 3 and (table["n"] == 160).all()
    assert table[["model", "weights"]].iloc[0].tolist() == ["n", 1_000]  # the smallest first


@pytest.mark.parametrize("other", [{"state": "untuned"}, {"readout": "text"}, {"question_set": "all"}])
def test_only_tuned_models_in_both_orders_on_the_balanced_set_count(other):
    assert signal(models(CONTROL, ("m", "code", "architectures", 60, 55, 65), **other)).empty


def test_the_sentence_names_each_model_its_numbers_and_its_verdict():
    table = signal(models(CONTROL, ("m", "code", "architectures", 60, 55, 65)))
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


BY_DATASET = pd.DataFrame(
    [("celeba-gender", "names", 87.3), ("celeba-gender", "chance", 50.0), ("svhn", "names", 70.0)],
    columns=["dataset", "baseline", "accuracy"],
)
NAMES_ALONE = (
    "Names alone reach 87.3 % of all held-out questions with this data set; of balanced ones half, by construction."
)


def test_celeba_is_measured_as_published_and_noted_otherwise():
    assert dc.celeba(per_dataset(), BY_DATASET, published=True) == dc.Measured(
        dc.Estimate(90.9, 60.0, 98.0, 11), NAMES_ALONE
    )
    assert dc.celeba(per_dataset(split="architectures"), BY_DATASET, published=True).estimate is None
    assert "reaches 90.9 %" in dc.celeba(per_dataset(model="nano-coder"), BY_DATASET, published=False).note
    assert dc.celeba(per_dataset(prompt="code"), BY_DATASET, published=False).note == NAMES_ALONE


def test_metadata_against_code_is_judged_as_published_and_noted_otherwise():
    row = {"model": "DeepSeek-Coder-7B", "split": "published", "question_set": "all", "named": "cifar-10", "n": 60}
    row |= {"difference": 4.0, "difference_low": 1.0, "difference_high": 7.0, "programs": 40}
    table = pd.DataFrame([row | {"named": "others", "difference": -9.0}, row])
    assert dc.metadata_degrades(table, published=True).estimate == dc.Estimate(4.0, 1.0, 7.0, 40)
    noted = dc.metadata_degrades(table.assign(split="architectures"), published=False)
    assert noted.estimate is None and "DeepSeek-Coder-7B 4.0 points [1.0, 7.0]" in noted.note
    assert dc.metadata_degrades(table.assign(split="architectures"), published=True) == dc.Measured(None)


def test_records_and_baselines_decide_what_they_can():
    within = "balanced within family"
    rows = [
        ("architectures", "all", "names", "all parts", 82.2),
        ("architectures", "balanced", "code_and_names", "svhn", 1.0),
        ("architectures", "balanced", "code_and_names", "all parts", 53.0),
        ("architectures", "balanced", "family_and_names", "all parts", 54.0),
        ("architectures", within, "code_and_names", "all parts", 52.0),
        ("architectures", within, "code_boosting", "all parts", 51.0),
        ("families", "balanced", "code_and_names", "all parts", 50.1),
    ]
    accuracies = pd.DataFrame(rows, columns=["split", "question_set", "baseline", "part", "accuracy"])
    ends = {"ci_low": accuracies["accuracy"] - 1, "ci_high": accuracies["accuracy"] + 1}
    accuracies = accuracies.assign(**ends, n=5000, programs=500)
    inside = models(("m", "code", "architectures", 50, 45, 55), question_set=within)
    told = signal(pd.concat([models(CONTROL, ("m", "code", "architectures", 60, 55, 65)), inside]))
    found = dc.recorded(accuracies, dc.Estimate(0.9, 0.2, 1.6, 500), 2, told)
    assert {key: round(one.estimate.value, 1) for key, one in found.items()} == {
        "C-chance": 82.2,
        "C-code-signal": 53.0,
        "C-reads-more": 52.0,
        "C-code-signal-unseen": 50.1,
        "C-code-beats-names": 0.9,
        "C-code-over-metadata": 10.0,
    }
    assert found["C-chance"].estimate.n == 500  # programs, not answers
    assert "alone gives 54.0 % [53.0, 55.0]. Language models, tuned: m 60.0 %" in found["C-code-signal"].note
    assert "Boosting gives 51.0 % [50.0, 52.0]. Language models, tuned: m 50.0 %" in found["C-reads-more"].note


def test_code_and_metadata_were_asked_the_same_questions_of_few_networks():
    found = dc._code_over_metadata(2)
    assert "takes 294 answers per prompt" in found.note and "The 30 questions are of 2 architectures" in found.note
    narrow, wide = (dc.intervals.difference_of_paired_proportions(3 + k, k, 30).scaled(100) for k in (0, 6))
    assert found.estimate == wide and wide.low < narrow.low < narrow.high < wide.high
    assert f"[{narrow.low:.1f}, {narrow.high:.1f}]" in found.note


def test_the_facts_are_as_stated():
    names = ["celeba-gender", "cifar-10", "cifar-100", "imagenette", "mnist", "places365", "svhn"]
    questions = pd.DataFrame({"dataset_1": names[:-1], "dataset_2": names[1:]})
    assert (facts_table("C", dc.facts(questions))["agrees"] == "yes").all()


def test_the_peaks_and_the_counts_behind_them_agree():
    known = load_claims()
    for key, (prompt, model) in {
        "C-normalised-7b": ("normalised accuracy", "7B"),
        "C-code-7b": ("code only", "7B"),
        "C-metadata-7b": ("metadata", "7B"),
        "C-code-1.3b": ("code only", "1.3B"),
    }.items():
        correct, n = published_counts(prompt, model)
        assert (known[key].n, known[key].value) == (n, pytest.approx(100 * correct / n))


def course(model: str, seed: int, accuracies: list[float]) -> list[dict]:
    fixed = {"readout": "text", "on": "all", "split": "published", "prompt": "code", "model": model, "seed": seed}
    return [fixed | {"epoch": epoch, "accuracy": accuracy} for epoch, accuracy in enumerate(accuracies)]


def test_courses_tell_a_steady_rise_from_a_fluctuation():
    rows: list[dict] = []
    for seed in range(3):
        rows += course("DeepSeek-Coder-7B", seed, [90, 50, 60 + seed, 70, 80])  # epoch 0 is untuned and does not count
        rows += course("DeepSeek-Coder-1.3B", seed, [50, 50, 70 + seed, 50, 70])
    found = dc.courses(pd.DataFrame(rows))
    assert found["C-7b-steady"].estimate.value == 1 and found["C-7b-steady"].estimate.n == 3
    more = found["C-1.3b-fluctuates"].estimate
    assert more.value > 15 and more.low > 0 and more.n == 3
    alone = pd.DataFrame(course("DeepSeek-Coder-7B", 0, [50, 60, 50, 70]))
    assert set(dc.courses(alone)) == {"C-7b-steady"}
    assert np.isnan(dc.courses(alone)["C-7b-steady"].estimate.low)  # one run
    assert dc.courses(alone.assign(split="families")) == {}
