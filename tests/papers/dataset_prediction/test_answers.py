"""From a model's answers to tables: matching that never guesses, and numbers against plain counting."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from nngpt_lab.papers.dataset_prediction import answers as da
from nngpt_lab.papers.dataset_prediction.questions import DATASETS
from nngpt_lab.statistics.intervals import difference_of_paired_proportions

CELL = {"model": "m", "prompt": "code", "split": "architectures", "question_set": "balanced", "part": "a fifth"}


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("cifar-10", "first"),
        ("cifar-100", "second"),
        ("  CIFAR-100\n", "second"),
        ("cifar-10.", "first"),
        ("`cifar-100`", "second"),
        ("The answer is cifar-100, because it is harder.", "second"),
        ("cifar_100", "second"),
        ("CIFAR 10", "first"),
        ("cifar-10 rather than cifar-100", "both"),
        ("cifar 10, not cifar_100", "both"),
        ("cifar-1000", "neither"),
        ("cifar-10-c", "first"),  # only by the last pass: "cifar 10 c" has the words
        ("xcifar-10", "neither"),
        ("cifar10", "neither"),
        ("svhn", "neither"),
        ("", "neither"),
        ("<think>cifar-100? No.</think>cifar-10", "first"),
        ("cifar-10 or CIFAR-10", "first"),
    ],
)
def test_a_name_counts_only_as_a_whole_word_and_two_names_are_no_answer(text, outcome):
    assert da.match(text, "cifar-10", "cifar-100") == outcome
    mirrored = {"first": "second", "second": "first"}.get(outcome, outcome)
    assert da.match(text, "cifar-100", "cifar-10") == mirrored


@pytest.mark.parametrize("first, second", [pair for pair in product(DATASETS, repeat=2) if len(set(pair)) == 2])
def test_every_name_is_told_from_every_other(first, second):
    for text in (first, f"{first}.", first.upper(), f"on {first.replace('-', '_')} it is", f"**{first}**"):
        assert da.match(text, first, second) == "first"
        assert da.match(text, second, first) == "second"
    assert da.match(f"{first}, {second}", first, second) == "both"


def test_letters_that_mask_names_are_words_too():
    assert da.match("B", "A", "B") == "second"
    assert da.match("Answer: A", "C", "A") == "second"
    assert da.match("BA", "A", "B") == "neither"


def answers(rng: np.random.Generator, n: int = 200, epochs: int = 3, skill=lambda e: 0.6) -> pd.DataFrame:
    """A model that is right with probability ``skill(epoch)`` in the published order, and again in the other."""
    names, rows = sorted(DATASETS), []
    for question in range(2 * n):
        first, second = rng.choice(names, 2, replace=False)
        fact = {
            "question": question,
            "subset": "validation" if question < n else "test",
            "group": f"program {question // 2}",
            "pair": " / ".join(sorted((first, second))),
            "dataset_1": first,
            "dataset_2": second,
            "first_wins": bool(rng.random() < 0.5),
            "first": n <= question < n + 30,
            "sampled": True,
        }
        for epoch, swapped in product(range(epochs + 1), (False, True)):
            right = rng.random() < skill(epoch)
            said_first = fact["first_wins"] == right
            outcome = rng.choice(["first" if said_first else "second", "both", "neither"], p=[0.8, 0.1, 0.1])
            odds = (1 if said_first else -1) * rng.exponential()
            rows.append(CELL | fact | {"seed": 0, "epoch": epoch, "swapped": swapped, "log_odds": odds}
                        | {"outcome": outcome if fact["subset"] == "test" else "", "text": "x"})  # fmt: skip
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def made():
    return answers(np.random.default_rng(0))


@pytest.fixture(scope="module")
def decided(made):
    return da.decisions(made)


def test_each_readout_is_what_a_plain_count_says(made, decided):
    for epoch in (0, 2):
        rows = made[(made["epoch"] == epoch) & (made["subset"] == "test")]
        plain = rows[~rows["swapped"]]
        truth = plain.set_index("question")["first_wins"]
        expected = {
            "text": np.mean([o == ("first" if w else "second") for o, w in zip(plain["outcome"], truth, strict=True)]),
            "likelihood": np.mean([(o > 0) == w for o, w in zip(plain["log_odds"], truth, strict=True)]),
            "both orders": np.mean((rows.groupby("question")["log_odds"].sum() > 0).to_numpy() == truth.to_numpy()),
        }
        table = decided[(decided["epoch"] == epoch) & (decided["subset"] == "test")]
        assert table.groupby("readout")["correct"].mean().to_dict() == pytest.approx(expected)
        assert set(table["readout"]) == {"text", "likelihood", "both orders"}
    assert "text" not in set(decided.loc[decided["subset"] == "validation", "readout"])


def test_a_model_that_names_what_stands_first_has_no_opinion():
    made = answers(np.random.default_rng(1))
    made["log_odds"] = np.where(made["swapped"], -1.0, 1.0)
    made["outcome"] = np.where(made["swapped"], "second", "first")
    decided = da.decisions(made)
    assert (decided.loc[decided["readout"] == "both orders", "correct"] == 0.5).all()
    table = da.order_swap(made, da.picked_epochs(decided)).set_index(["state", "readout"])
    assert (table["consistent"] == 0).all() and (table["first_place"] == 100).all() and (table["unanswered"] == 0).all()


def test_a_model_that_ignores_the_order_is_consistent_and_unbiased():
    made = answers(np.random.default_rng(2), skill=lambda epoch: 1.0)
    made["outcome"] = np.where(made["first_wins"], "first", "second")
    decided = da.decisions(made)
    table = da.order_swap(made, da.picked_epochs(decided))
    assert (table["consistent"] == 100).all() and (table["consistent_accuracy"] == 100).all()
    assert (table["first_place"] == 50).all()


def test_texts_in_one_order_alone_give_no_consistency():
    made = answers(np.random.default_rng(3))
    made.loc[made["swapped"], "outcome"] = ""
    table = da.order_swap(made, da.picked_epochs(da.decisions(made))).set_index(["state", "readout"])
    assert table.loc[("tuned", "text"), "n"] == 0 and np.isnan(table.loc[("tuned", "text"), "consistent"])
    assert table.loc[("tuned", "text"), "unanswered"] == pytest.approx(20, abs=8)


def test_the_epoch_is_picked_on_validation_alone_and_is_never_the_untuned_one():
    made = answers(np.random.default_rng(4), skill=lambda epoch: {0: 0.99, 1: 0.5, 2: 0.9, 3: 0.6}[epoch])
    test = made["subset"] == "test"
    made.loc[test & (made["epoch"] == 3), "log_odds"] *= np.where(
        (made.loc[test & (made["epoch"] == 3), "log_odds"] > 0) == made.loc[test & (made["epoch"] == 3), "first_wins"],
        1,
        -1,
    )  # perfect on test, which must not matter
    decided = da.decisions(made)
    assert da.picked_epochs(decided)["epoch"].tolist() == [2]


def test_of_equal_epochs_the_last_is_picked():
    made = answers(np.random.default_rng(5))
    made["log_odds"] = np.where(made["first_wins"], 1.0, -1.0)
    assert da.picked_epochs(da.decisions(made))["epoch"].tolist() == [3]


def test_a_peak_over_coins_is_luck_and_is_called_so(decided):
    rng = np.random.default_rng(0)
    coins = da.decisions(answers(rng, n=100, epochs=12, skill=lambda epoch: 0.5))
    row = da.peaks_table(coins, da.picked_epochs(coins), rng, 400).iloc[0]
    assert row["epochs"] == 12 and row["n"] == 100
    assert row["peak"] > row["picked_accuracy"] - 1e-9
    assert 4 < row["luck_if_equal"] < 14  # the expected best of 12 binomials of n = 100 lies 8.1 points above
    assert row["optimism"] > 3
    steady = answers(rng, n=100, epochs=12)
    first = steady[steady["epoch"] == 1].set_index(["question", "swapped"])["log_odds"]
    steady["log_odds"] = pd.MultiIndex.from_frame(steady[["question", "swapped"]]).map(first)
    same = da.decisions(steady)
    row = da.peaks_table(same, da.picked_epochs(same), rng, 400).iloc[0]
    assert row["peak"] == row["picked_accuracy"] and abs(row["optimism"]) < 1.5  # nothing to pick from


def test_the_epochs_table_counts_the_first_thirty_and_all(decided):
    table = da.epochs_table(decided)
    assert set(table["on"]) == {"first 30", "all"}
    assert set(table.loc[table["on"] == "first 30", "n"]) == {30} and set(table.loc[table["on"] == "all", "n"]) == {200}
    assert ((table["low"] <= table["accuracy"]) & (table["accuracy"] <= table["high"])).all()
    assert np.allclose(table["accuracy"], 100 * table["correct"] / table["n"])


def rivals(decided: pd.DataFrame) -> pd.DataFrame:
    """Baselines: one that is always right, one that never is."""
    asked = decided[(decided["subset"] == "test") & (decided["epoch"] == 1) & (decided["readout"] == "both orders")]
    facts = asked[["split", "part", "question_set", "seed", "question", "group"]]
    return pd.concat(
        [
            facts.assign(baseline="names", trained_on="the same questions", correct=0.0),
            facts.assign(baseline="code_and_names", trained_on="the same questions", correct=1.0),
        ]
    )


def test_a_model_is_held_against_the_best_baseline_question_by_question(decided):
    picked, rng = da.picked_epochs(decided), np.random.default_rng(0)
    table = da.against_baselines(decided, rivals(decided), picked, rng, 200).set_index("baseline")
    right = da.at_picked(decided, picked).query("readout == 'both orders'")["correct"]
    assert table["best"].to_dict() == {"names": False, "code_and_names": True}
    lost = table.loc["code_and_names"]
    assert lost["difference"] == pytest.approx(100 * (right.mean() - 1)) and lost["only_model"] == 0
    assert lost["only_baseline"] == (right == 0).sum()
    assert lost["p"] == pytest.approx(stats.binomtest(0, int((right == 0).sum())).pvalue)
    assert lost["difference_low"] <= lost["difference"] <= lost["difference_high"] < 0
    summary = da.models_table(decided, rivals(decided), picked, rng, 200)
    assert set(summary["state"]) == {"untuned", "tuned", "the same questions"}
    tuned = summary[(summary["state"] == "tuned") & (summary["readout"] == "both orders")].iloc[0]
    assert tuned["accuracy"] == pytest.approx(100 * right.mean()) and tuned["n"] == len(right)


def test_altered_inputs_are_paired_with_the_unaltered_ones(made):
    rng = np.random.default_rng(0)
    plain = made[(made["epoch"] == 1) & (made["subset"] == "test")].assign(outcome="")
    flipped = plain.assign(log_odds=-plain["log_odds"])
    altered = pd.concat([plain.assign(condition="as asked"), plain.assign(condition="no code"),
                         flipped.assign(condition="names masked")])  # fmt: skip
    table = da.ablations_table(da.decisions(altered), rng, 200).set_index("condition")
    assert table.loc["no code", "difference"] == 0 and table.loc["no code", "p"] == 1
    ends = ["difference_low", "difference_high"]
    assert table.loc["as asked", ends].tolist() == [0, 0]  # compared with itself
    none_differs = difference_of_paired_proportions(0, 0, table.loc["no code", "programs"]).scaled(100)
    assert table.loc["no code", ends].tolist() == [none_differs.low, none_differs.high]
    base = table.loc["as asked", "accuracy"]
    assert table.loc["names masked", "difference"] == pytest.approx(100 - 2 * base)
    assert table["changed"].to_dict() == {"as asked": 0, "no code": 0, "names masked": 100}
    assert table.loc["names masked", "only_altered"] == pytest.approx(
        (100 - base) / 100 * table.loc["names masked", "n"]
    )


def test_per_data_set_and_per_pair_each_question_is_counted_where_it_belongs(decided):
    picked, rng = da.picked_epochs(decided), np.random.default_rng(0)
    by_dataset = da.per_dataset(decided, picked, rng, 100)
    assert by_dataset["n"].sum() == 2 * 200
    pairs = da.pair_confusion(decided, picked)
    assert pairs["n"].sum() == 200
    tuned = da.at_picked(decided, picked).query("readout == 'both orders'")
    row = pairs.iloc[0]
    own, name = tuned[tuned["pair"] == row["pair"]], row["pair"].split(" / ")[0]
    winner = np.where(own["first_wins"], own["dataset_1"], own["dataset_2"])
    said = np.where(own["said_first"] == 1, own["dataset_1"], own["dataset_2"])
    assert row["right"] == pytest.approx(100 * np.mean(winner == name))
    assert row["said"] == pytest.approx(100 * np.mean(said == name))


def test_code_minus_metadata_is_paired_by_question():
    def asked(prompt: str, right: list[float]) -> pd.DataFrame:
        table = pd.DataFrame({**CELL, "prompt": prompt, "seed": 0, "question": range(4), "correct": right, "epoch": 1})
        table["dataset_1"], table["dataset_2"] = (
            ["cifar-10", "mnist", "mnist", "mnist"],
            ["mnist", "svhn", "imagenette", "x"],
        )
        return table.assign(group=table["question"], subset="test", sampled=True, readout="both orders")

    picked = pd.DataFrame([CELL | {"prompt": prompt, "seed": 0, "epoch": 1} for prompt in ("code", "metadata")])
    decided = pd.concat([asked("code", [1, 1, 0, 0]), asked("metadata", [0, 1, 1, 1]).iloc[::-1]], ignore_index=True)
    found = da.code_over_metadata(decided, picked, np.random.default_rng(0), 100).set_index("named")
    assert found["difference"].tolist() == [50.0, -100.0] and found["n"].tolist() == [2, 2]
    assert found.loc["cifar-10, cifar-100, svhn", ["only_code", "only_metadata"]].tolist() == [1, 0]
    alone = da.code_over_metadata(decided[decided["prompt"] == "code"], picked, np.random.default_rng(0), 100)
    assert alone.empty and {"named", "difference"} <= set(alone)


def test_confidence_that_is_earned_lies_on_the_diagonal():
    rng = np.random.default_rng(0)
    made = answers(rng, n=3000, epochs=1)
    odds = made.groupby("question")["log_odds"].transform("first") * 2
    wins = pd.Series(rng.random(6000) < 1 / (1 + np.exp(-odds.groupby(made["question"]).first().to_numpy())))
    made = made.assign(log_odds=odds, first_wins=made["question"].map(wins))
    decided = da.decisions(made)
    table = da.calibration(decided, da.picked_epochs(decided))
    assert table["n"].sum() == 3000 and len(table) == 5
    assert ((table["low"] - 2 <= table["confidence"]) & (table["confidence"] <= table["high"] + 2)).all()
