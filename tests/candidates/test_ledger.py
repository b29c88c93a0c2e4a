"""The ledger: what goes in comes out, once, and stays, whatever the text. Its file: ``test_ledger_files.py``."""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
from contextlib import closing
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nngpt_lab.candidates import ledger as ledger_module
from nngpt_lab.candidates.ledger import ORDERS, Ledger
from nngpt_lab.candidates.outcome import Candidate, Kind, Outcome
from nngpt_lab.ground.errors import UsageError
from nngpt_lab.sandbox.status import Status

PROTOCOL = "p" * 64
GOOD = Outcome(Status.OK, 0.5, 0, PROTOCOL, parameters=10, seconds={"train": 1.5, "total": 2.0}, isolation=("seccomp",))
BAD = Outcome(Status.SHAPE, seed=0, protocol_hash=PROTOCOL, message="m", traceback="t", seconds={"total": 0.5})


def candidate(text: str = "class Net: pass", **values) -> Candidate:
    return Candidate(f"Here: {text}", text, Kind.ARCHITECTURE, **values)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "new" / "ledger.sqlite"


@pytest.fixture
def ledger(path):
    with Ledger(path) as opened:
        opened.add_protocol(PROTOCOL, {"name": "digits", "lr": 0.01})
        yield opened


def plain(path) -> sqlite3.Connection:
    """Somebody else's connection, which knows nothing of the lab."""
    return closing(sqlite3.connect(path))


# --- in and out ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", [GOOD, BAD, Outcome(Status.CRASH, protocol_hash=PROTOCOL)])
def test_an_outcome_comes_back_as_it_was(ledger, path, outcome):
    assert ledger.add_outcome(candidate(), outcome)
    assert ledger.outcome(candidate().code_hash, PROTOCOL, outcome.seed) == outcome
    ledger.close()
    with Ledger(path) as again:
        assert again.outcome(candidate().code_hash, PROTOCOL, outcome.seed) == outcome


def test_the_first_outcome_of_a_code_protocol_and_seed_wins(ledger):
    assert ledger.add_outcome(candidate(), GOOD)
    assert not ledger.add_outcome(replace(candidate(), text="another way to say it"), BAD)
    assert ledger.add_outcome(candidate(), replace(GOOD, seed=1, score=0.25))
    assert ledger.outcome(candidate().code_hash, PROTOCOL, 0) == GOOD
    assert ledger.known(PROTOCOL) == {(candidate().code_hash, 0), (candidate().code_hash, 1)}
    assert ledger.known("other") == set()
    assert ledger.outcome(candidate().code_hash, PROTOCOL, 2) is None


def test_a_sample_is_filed_once_per_place(ledger):
    assert ledger.add_sample("run", 0, candidate(sampling_seed=7, parent="q"), Status.OK, "", "fence")
    assert not ledger.add_sample("run", 0, candidate(sampling_seed=7, parent="q"), Status.OK, "told otherwise", "fence")
    assert ledger.add_sample("run", 1, candidate(), Status.DUPLICATE, "of the first")
    row = ledger.table("samples").iloc[0]
    assert (row["text"], row["sampling_seed"], row["parent"], row["source"]) == (candidate().text, 7, "q", "fence")
    assert len(ledger.table("codes")) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"candidate": candidate("x = 1")},
        {"candidate": candidate(sampling_seed=1)},
        {"inspection_status": Status.CONTRACT},
        {"source": "bare"},
    ],
)
def test_a_place_in_a_run_holds_one_text(ledger, other):
    values = {"candidate": candidate(), "inspection_status": Status.OK, "source": "fence"}
    ledger.add_sample("run", 0, message="", **values)
    with pytest.raises(UsageError, match="another text or status at position 0"):
        ledger.add_sample("run", 0, message="", **(values | other))


@pytest.mark.parametrize("status", [status for status in Status if status not in ledger_module.STATIC])
def test_an_inspection_cannot_know_how_an_evaluation_ends(ledger, status):
    with pytest.raises(UsageError, match="no status of an inspection"):
        ledger.add_sample("run", 0, candidate(), status, "")


def test_duplicate_is_no_outcome(ledger):
    with pytest.raises(UsageError, match="refuses a row"):
        ledger.add_outcome(candidate(), Outcome(Status.DUPLICATE, protocol_hash=PROTOCOL))
    assert ledger.table("codes").empty  # the whole of it was undone


def test_a_protocol_hash_has_one_meaning(ledger):
    ledger.add_protocol(PROTOCOL, {"lr": 0.01, "name": "digits"})
    with pytest.raises(UsageError, match="another record"):
        ledger.add_protocol(PROTOCOL, {"lr": 0.1, "name": "digits"})
    assert json.loads(ledger.table("protocols")["record"][0]) == {"lr": 0.01, "name": "digits"}


def test_an_outcome_needs_its_protocol(ledger):
    with pytest.raises(UsageError, match="add_protocol"):
        ledger.add_outcome(candidate(), replace(GOOD, protocol_hash="unknown"))


def test_numpys_numbers_are_numbers(ledger):
    outcome = Outcome(Status.OK, np.float32(0.25), np.int64(3), PROTOCOL, seconds={"total": np.float64(2)})
    assert ledger.add_outcome(candidate(), outcome) and not ledger.add_outcome(candidate(), outcome)
    assert ledger.outcome(candidate().code_hash, PROTOCOL, np.int64(3)).score == 0.25


def test_what_a_child_reports_cannot_stop_a_run(ledger):
    hostile = replace(GOOD, parameters=2**80, seconds={"train": math.nan, "load": math.inf, "total": 2.0})
    ledger.add_outcome(candidate(), hostile)
    kept = ledger.outcome(candidate().code_hash, PROTOCOL, 0)
    assert (kept.parameters, kept.seconds, kept.score) == (None, {"total": 2.0}, 0.5)


def test_a_seed_beyond_64_bits_is_refused(ledger):
    with pytest.raises(UsageError, match="refuses a row"):
        ledger.add_outcome(candidate(), replace(GOOD, seed=2**63))


# --- any text -----------------------------------------------------------------------------------------------------

ANY_TEXT = st.text(st.characters(exclude_categories=()) | st.sampled_from("\0\r\n\ud800\udfff\"',;"))


@settings(max_examples=60, deadline=None)
@given(ANY_TEXT, ANY_TEXT)
def test_any_text_can_be_filed(text, code):
    wild = Candidate(text, code, Kind.AUGMENTATION)
    with Ledger(":memory:") as ledger:
        ledger.add_protocol(PROTOCOL, {})
        assert ledger.add_sample("run", 0, wild, Status.SYNTAX, text)
        assert not ledger.add_sample("run", 0, wild, Status.SYNTAX, text)
        assert ledger.add_outcome(wild, replace(BAD, message=text))
        assert ledger.outcome(wild.code_hash, PROTOCOL, 0) is not None
        row = ledger.table("samples").merge(ledger.table("codes"), left_on="code_hash", right_on="hash").iloc[0]
        assert row["text"] == text.encode("utf-8", "backslashreplace").decode()
        assert row["code"] == code.encode("utf-8", "backslashreplace").decode()


@given(st.text(st.characters(codec="utf-8")))
def test_the_key_is_the_sha256_of_the_code(code):
    wild = Candidate("", code, Kind.AUGMENTATION)
    assert wild.code_hash == hashlib.sha256(code.encode()).hexdigest()


def test_codes_that_cannot_be_encoded_are_told_apart():
    codes = ["'\ud800'", "'\udfff'", r"'\ud800'", "'?'", "'\ufffd'"]
    wild = [Candidate("", code, Kind.AUGMENTATION) for code in codes]
    assert len({candidate.code_hash for candidate in wild}) == len(codes)


# --- append-only --------------------------------------------------------------------------------------------------

CHANGES = [
    "UPDATE evaluations SET score = 1.0",
    "DELETE FROM evaluations",
    "INSERT OR REPLACE INTO evaluations SELECT * FROM evaluations",
    "UPDATE samples SET status = 'ok'",
    "DELETE FROM samples",
    "INSERT OR REPLACE INTO samples SELECT * FROM samples",
    "UPDATE codes SET code = ''",
    "DELETE FROM codes",
    "INSERT OR REPLACE INTO codes SELECT hash, '' FROM codes",
    "UPDATE protocols SET record = '{}'",
    "DELETE FROM protocols",
    "INSERT OR REPLACE INTO protocols SELECT hash, '{}', added FROM protocols",
]


@pytest.mark.parametrize("change", CHANGES)
def test_nobody_changes_a_row(ledger, path, change):
    ledger.add_sample("run", 0, candidate(), Status.CONTRACT, "")
    ledger.add_outcome(candidate(), GOOD)
    with plain(path) as other, pytest.raises(sqlite3.IntegrityError, match="append-only"):
        other.execute(change)


@pytest.mark.parametrize(
    ("status", "score"), [("ok", None), ("crash", 0.0), ("ok", 1.5), ("ok", -0.1), ("fine", 0.5), ("duplicate", None)]
)
def test_the_file_itself_knows_what_an_outcome_is(ledger, path, status, score):
    ledger.add_outcome(candidate(), GOOD)
    columns = "code_hash, protocol_hash, kind, device, seconds, message, traceback, isolation, finished"
    with plain(path) as other, pytest.raises(sqlite3.IntegrityError, match="CHECK"):
        query = f"INSERT INTO evaluations ({columns}, seed, status, score) SELECT {columns}, 1, ?, ? FROM evaluations"
        other.execute(query, [status, score])


# --- reading ------------------------------------------------------------------------------------------------------


@pytest.fixture
def filled(ledger):
    """Two runs of samples; one code with three scores, one with one score and one failure, one that only failed."""
    a, b, c = (candidate(name) for name in "abc")
    for position, (sample, status) in enumerate([(a, "ok"), (b, "ok"), (a, "duplicate"), (c, "ok"), (c, "contract")]):
        ledger.add_sample("cycle-00", position, sample, Status(status), "")
    ledger.add_sample("cycle-01", 0, Candidate("no idea", "", Kind.ARCHITECTURE), Status.NO_CODE, "")
    for seed, score in enumerate((0.2, 0.4, 0.6)):
        ledger.add_outcome(a, replace(GOOD, seed=seed, score=score))
    ledger.add_outcome(b, replace(GOOD, score=0.9))
    ledger.add_outcome(b, replace(BAD, seed=1))
    ledger.add_outcome(c, BAD)
    return ledger


def test_validity(filled):
    rows = filled.table("validity").set_index("run")
    assert rows.loc["cycle-00", ["samples", "ok", "contract", "duplicate"]].tolist() == [5, 3, 1, 1]
    assert rows.loc["cycle-00", ["valid_share", "kept_share"]].tolist() == [0.8, 0.6]
    assert rows.loc["cycle-01", ["samples", "no_code", "valid_share"]].tolist() == [1, 1, 0.0]
    shares = filled.table("sample_statuses").groupby("run")["share"].sum()
    assert shares.tolist() == [1.0, 1.0]


def test_scores_are_means_over_replicates(filled):
    rows = filled.table("scores").set_index("code_hash")
    a, b, c = (rows.loc[candidate(name).code_hash] for name in "abc")
    assert (a["scored"], a["failed"], a["lowest"], a["highest"]) == (3, 0, 0.2, 0.6)
    assert (a["mean"], a["sd"]) == pytest.approx((0.4, np.std([0.2, 0.4, 0.6], ddof=1)))
    assert (b["scored"], b["failed"], b["mean"]) == (1, 1, 0.9) and math.isnan(b["sd"])
    assert (c["scored"], c["failed"]) == (0, 1) and math.isnan(c["mean"])


def test_best_ranks_the_codes_that_have_a_score(filled):
    rows = filled.table("best")
    assert rows["code_hash"].tolist() == [candidate("b").code_hash, candidate("a").code_hash]
    assert rows["rank"].tolist() == [1, 2]


def test_statuses_and_times(filled):
    rows = filled.table("statuses").set_index("status")
    assert rows["evaluations"].to_dict() == {"ok": 4, "shape": 2}
    assert rows["share"].sum() == pytest.approx(1)
    times = filled.table("times").set_index(["status", "stage"])
    assert times.loc[("ok", "train"), ["total_seconds", "mean_seconds"]].tolist() == [6.0, 1.5]
    assert times.loc[("shape", "total"), "total_seconds"] == 1.0


def test_each_sample_is_found_with_its_evaluations(filled):
    rows = filled.table("sample_outcomes")
    found = rows[(rows["run"] == "cycle-00") & (rows["position"] == 1)]
    assert found["seed"].tolist() == [0, 1] and found["status"].tolist() == ["ok", "shape"]
    assert pd.isna(rows[rows["run"] == "cycle-01"]["status"]).all()
    filled.add_sample("cycle-02", 0, replace(candidate("a"), kind=Kind.AUGMENTATION), Status.OK, "")
    other = filled.table("sample_outcomes").set_index("run").loc["cycle-02"]
    assert pd.isna(other["status"])  # the same text held to another contract was never evaluated


def test_views_answer_plain_sql(filled, path):
    with plain(path) as other:
        assert other.execute("SELECT valid_share FROM validity WHERE run = 'cycle-00'").fetchone() == (0.8,)
        names = {name for (name,) in other.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")}
    assert names == set(ORDERS)


def test_an_empty_ledger_has_tables_with_the_same_types(ledger, filled, tmp_path):
    with Ledger(tmp_path / "empty.sqlite") as empty:
        for name in ORDERS:
            assert empty.table(name).dtypes.to_dict() == filled.table(name).dtypes.to_dict()


def test_an_unknown_table_is_named(ledger):
    with pytest.raises(UsageError, match="no table 'score'"):
        ledger.table("score")
