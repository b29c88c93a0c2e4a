"""The walkthrough's story: three texts station by station, and a table of codes down the whole path, resumed."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from nngpt_lab.candidates import pool
from nngpt_lab.candidates.ledger import Ledger
from nngpt_lab.candidates.novelty import NoveltyIndex
from nngpt_lab.candidates.outcome import Kind
from nngpt_lab.candidates.protocols import get_protocol
from nngpt_lab.candidates.proxy import prepare
from nngpt_lab.candidates.screening import EXAMPLES, example, screen
from nngpt_lab.study.design import describe, resized
from nngpt_lab.walkthroughs import text_to_score


@pytest.fixture(scope="module")
def proxy():
    return prepare(replace(get_protocol("digits"), train_limit=320, max_parameters=100_000))


@pytest.fixture(scope="module")
def evaluator(proxy):
    with proxy.evaluator() as one:
        yield one


def stations(name, evaluator):
    table = text_to_score.stations(example(name), name, Kind.ARCHITECTURE, NoveltyIndex(), evaluator, seed=0)
    return table.set_index("station")


def test_the_good_text_reaches_a_score(evaluator):
    table = stations("good", evaluator)
    assert list(table.index) == ["extract", "contract", "novelty", "sandbox", "one epoch", "score", "ledger"]
    assert table["verdict"].drop("score").tolist() == ["fence", "holds", "new", "nothing forbidden", "done", "ok"]
    assert 0 <= float(table.loc["score", "verdict"]) <= 1
    assert evaluator.proxy.protocol_hash[:10] in table.loc["ledger", "what it found"]


def test_the_subtle_failure_passes_the_static_stations_and_gets_no_score(evaluator):
    table = stations("subtle", evaluator)
    assert table.loc["contract", "verdict"] == "holds"
    assert table.loc[["one epoch", "score", "ledger"], "verdict"].tolist() == ["failed", "none", "non_finite"]


def test_the_attack_is_stopped(evaluator):
    table = stations("attack", evaluator)
    if "network namespace" not in evaluator.sandbox.isolation and "seccomp" not in evaluator.sandbox.isolation:
        pytest.skip("nothing here keeps a process from the network")
    assert table.loc[["sandbox", "ledger"], "verdict"].tolist() == ["stopped it", "forbidden"]


def test_a_text_without_code_ends_at_the_first_station(evaluator):
    table = text_to_score.stations("no", "x", Kind.ARCHITECTURE, NoveltyIndex(), evaluator, 0)
    assert table["station"].tolist() == ["extract"]


def code(name):
    return screen(example(name), Kind.ARCHITECTURE).candidate.code


@pytest.fixture
def table():
    good = code("good")
    codes = {
        "a": good,
        "b": good.replace("# ", "#  ") + "\n# the same again\n",
        "c": code("subtle"),
        "d": "class Net:\n    pass\n",
        "e": good.replace(
            "GatedStep(in_shape[1], 24), GatedStep(24, 48)", "GatedStep(in_shape[1], 24), GatedStep(32, 48)"
        ),
    }
    rows = {"name": list(codes), "group": ["x", "x", "y", "y", "y"], "code": list(codes.values()), "recorded": np.nan}
    return pd.DataFrame(rows)


def test_published_code_goes_down_the_whole_path_and_is_never_computed_twice(table, proxy, tmp_path, monkeypatch):
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        sent = text_to_score.send(table, Kind.ARCHITECTURE, proxy, ledger, "run", 0, 2)
        assert sent["status"].tolist() == ["ok", "ok", "non_finite", "contract", "shape"]
        assert sent["novelty"].fillna("not asked").tolist()[:4] == ["new", "duplicate", "new", "not asked"]
        assert sent.loc[1, "nearest"] == "a", "recorded, not enforced: the duplicate has a score as well"
        assert sent["score"].notna().tolist() == [True, True, False, False, False]
        assert "32" in sent.loc[4, "message"] and len(ledger.table("samples")) == 5

        def no_pool(*_, **__):
            raise AssertionError("something was computed again")

        monkeypatch.setattr(pool, "open_pool", no_pool)
        again = text_to_score.send(table, Kind.ARCHITECTURE, proxy, ledger, "run", 0, 2)
        pd.testing.assert_frame_equal(sent, again)
        fewer = text_to_score.send(table.iloc[1:], Kind.ARCHITECTURE, proxy, ledger, "run", 0, 2)
        assert fewer["score"].tolist()[0] == sent["score"].tolist()[1], "another draw reuses what it shares"
        assert len(ledger.table("samples")) == 5 + 4


def test_a_resized_protocol_is_another_protocol():
    digits = get_protocol("digits")
    assert resized(digits, max_parameters=digits.max_parameters, batch=None).hash("") == digits.hash("")
    changed = resized(digits, batch=64, train_limit=100, wall_seconds=30)
    assert (changed.batch, changed.train_limit, changed.wall_seconds) == (64, 100, 30)
    assert changed.hash("") != digits.hash("") != replace(digits, max_parameters=None).hash("")


def test_a_protocol_is_described_field_by_field():
    described = describe(get_protocol("paper-b")).set_index("setting")["value"]
    assert described["Max parameters"] == "500000" and described["Batch"] == "64"


def test_there_are_three_examples():
    assert sorted(path.stem for path in EXAMPLES.glob("*.md")) == ["attack", "good", "subtle"]
