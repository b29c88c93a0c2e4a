"""Tables and figures of evaluated candidates."""

import numpy as np
import pandas as pd
import pytest

from nngpt_lab.walkthroughs import evaluations


@pytest.fixture
def frame():
    rng = np.random.default_rng(0)
    recorded = rng.uniform(0.1, 0.7, 40)
    good = pd.DataFrame({
        "name": [f"n{i:02d}" for i in range(40)],
        "group": ["rag"] * 20 + ["ga"] * 20,
        "status": "ok",
        "score": recorded**2,
        "recorded": recorded,
        "message": "",
        "novelty": ["new", "duplicate"] * 20,
    })  # fmt: skip
    bad = pd.DataFrame({
        "name": ["z1", "z2", "z3", "z0"],
        "group": ["rag", "rag", "ga", "hand"],
        "status": ["shape", "shape", "timeout", "contract"],
        "score": np.nan,
        "recorded": 0.5,
        "message": ["mat1 and mat2 shapes cannot be multiplied (64x256 and 9216x4096)",
                    "mat1 and mat2 shapes cannot be multiplied (16x1024 and 512x10)",
                    "it took longer than 60 s", "line 3: there is no class Net"],
        "novelty": ["new", "new", "new", None],
    })  # fmt: skip
    return pd.concat([good, bad], ignore_index=True)


def test_status_table_counts_every_candidate_once(frame):
    table = evaluations.status_table(frame).set_index("group")
    assert list(table.columns) == ["candidates", "ok", "contract", "shape", "timeout", "ok_share"]
    assert table.loc["all", "candidates"] == len(frame) == table.drop("all")["candidates"].sum()
    assert table.loc["rag", ["ok", "shape"]].tolist() == [20, 2]
    assert table.loc["hand", "ok_share"] == 0


def test_equal_reasons_are_counted_together_and_every_failure_is_there(frame):
    table = evaluations.failure_table(frame)
    assert table["candidates"].sum() == 4
    assert table["status"].tolist() == ["contract", "shape", "timeout"]
    shape = table[table["status"] == "shape"].iloc[0]
    assert (shape["candidates"], shape["example"]) == (2, "z1")
    assert "9216" not in shape["reason"] and "cannot be multiplied" in shape["reason"]


def test_reasons_keep_their_words_and_stay_short():
    assert evaluations.reason("No module named 'timm'") == "No module named 'timm'"
    assert len(evaluations.reason("word " * 200)) <= evaluations.FIRST_SENTENCE
    assert evaluations.reason("first\nsecond") == "first"


def test_agreement_is_over_all_and_within_groups(frame):
    table = evaluations.agreement(frame, seed=0, resamples=50).set_index("group")
    assert table["n"].to_dict() == {"all": 40, "ga": 20, "rag": 20}
    assert np.allclose(table["spearman"], 1)  # squaring keeps the order
    frame.loc[frame["group"] == "ga", "score"] = 0.5 - frame["score"]
    turned = evaluations.agreement(frame, seed=0, resamples=50).set_index("group")
    assert np.isclose(turned.loc["ga", "spearman"], -1) and np.isclose(turned.loc["rag", "spearman"], 1)
    pd.testing.assert_frame_equal(turned, evaluations.agreement(frame, seed=0, resamples=50).set_index("group"))


def test_agreement_of_too_few_is_empty_and_keeps_its_columns(frame):
    table = evaluations.agreement(frame.head(5), seed=0, resamples=10)
    assert table.empty and "spearman" in table


def test_novelty_counts_only_what_was_checked(frame):
    table = evaluations.novelty_table(frame).set_index("group")
    assert table.loc["all", ["candidates", "duplicates"]].tolist() == [43, 20]
    assert "hand" not in table.index
    assert table.loc["ga", "new_share"] == pytest.approx(1 - 10 / 21)


def test_a_stratified_draw_is_even_sorted_and_repeatable():
    table = pd.DataFrame({"name": [f"{group}{i}" for group in "abc" for i in range(100 if group == "a" else 5)]})
    table["group"] = table["name"].str[0]

    def drawn(table, size, seed):
        return evaluations.stratified(table, "group", size, np.random.default_rng(seed))["name"].to_list()

    chosen = drawn(table, 20, 3)
    assert chosen == sorted(chosen) and len(set(chosen)) == 20
    assert {group: sum(name[0] == group for name in chosen) for group in "abc"} == {"a": 10, "b": 5, "c": 5}
    assert chosen == drawn(table.sample(frac=1, random_state=1), 20, 3)
    assert chosen != drawn(table, 20, 4)
    assert len(drawn(table, 1000, 0)) == len(table)


def test_figures_show_every_group_and_status(frame):
    table = evaluations.status_table(frame)
    figure = evaluations.statuses(table)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["ok", "contract", "shape", "timeout"]
    scatter = evaluations.recorded_against_ours(frame, "digits")
    assert [text.get_text() for text in scatter.legends[0].get_texts()] == ["ga (20)", "rag (20)"]
    assert sum(len(points.get_offsets()) for points in scatter.axes[0].collections) == 40


def test_figures_of_nothing_do_not_fail(frame):
    evaluations.recorded_against_ours(frame.tail(3), "digits")
