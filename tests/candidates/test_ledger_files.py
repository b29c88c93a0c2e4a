"""The ledger's file: strangers' files, damage, several drivers, interrupts. What lies in it: ``test_ledger.py``."""

from __future__ import annotations

import multiprocessing
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nngpt_lab.candidates import ledger as ledger_module
from nngpt_lab.candidates.ledger import ORDERS, Ledger
from nngpt_lab.candidates.outcome import Candidate, Kind, Outcome
from nngpt_lab.ground.errors import BusyError, DataError
from nngpt_lab.sandbox.status import Status

PROTOCOL = "p" * 64
ROUNDS = 4
GOOD = Outcome(Status.OK, 0.5, 0, PROTOCOL)


def candidate(code: str = "class Net: pass") -> Candidate:
    return Candidate("", code, Kind.ARCHITECTURE)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "new" / "ledger.sqlite"


@pytest.fixture
def ledger(path):
    with Ledger(path) as opened:
        opened.add_protocol(PROTOCOL, {})
        yield opened


def plain(path) -> sqlite3.Connection:
    """Somebody else's connection, which knows nothing of the lab."""
    return closing(sqlite3.connect(path))


# --- files --------------------------------------------------------------------------------------------------------


def test_a_file_that_is_no_data_base_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("not a data base, but long enough to be taken for one " * 20, encoding="utf-8")
    with pytest.raises(DataError, match=r"damaged.*\n.*cure: move it away"):
        Ledger(tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text(encoding="utf-8").startswith("not a data base")


def test_another_programs_data_base_is_refused_and_untouched(tmp_path):
    with plain(tmp_path / "other.sqlite") as other:
        other.execute("CREATE TABLE mine (x)")
        other.commit()
        with pytest.raises(DataError, match="not a ledger"):
            Ledger(tmp_path / "other.sqlite")
        assert other.execute("SELECT name FROM sqlite_master").fetchall() == [("mine",)]


def test_a_newer_ledger_is_refused(ledger, path):
    ledger.close()
    with plain(path) as other:
        other.execute(f"PRAGMA user_version = {ledger_module.VERSION + 1}")
    with pytest.raises(DataError, match=r"version 2.*\n.*update nngpt-lab"):
        Ledger(path)


def test_a_damaged_ledger_says_so(ledger, path):
    for position in range(50):
        ledger.add_sample("run", position, candidate(str(position) * 500), Status.OK, "")
    ledger.close()
    content = bytearray(path.read_bytes())
    content[4096 * 8 :] = np.random.default_rng(0).bytes(len(content) - 4096 * 8)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"damaged.*\n.*\.recover"), Ledger(path) as again:
        for name in ORDERS:
            again.table(name)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot use the ledger"):
        Ledger(tmp_path / "file" / "ledger.sqlite")


def test_opening_creates_a_ledger_that_a_kill_left_empty(path):
    path.parent.mkdir()
    with plain(path) as other:
        other.execute("PRAGMA journal_mode = WAL")  # as far as an interrupted creation may have come
    with Ledger(path) as ledger:
        ledger.add_protocol(PROTOCOL, {})


# --- several drivers ----------------------------------------------------------------------------------------------


def drive(folder: Path, worker: int, together, wins) -> None:
    """One of several drivers: the same codes as all the others, samples of its own; they meet at each creation, too."""
    for round_ in range(ROUNDS):
        together.wait(300)
        with Ledger(folder / f"{round_}.sqlite") as ledger:
            ledger.add_protocol(PROTOCOL, {})
            for position in range(15):
                ledger.add_sample(f"run-{worker}", position, candidate(str(position)), Status.OK, "")
            outcome = replace(GOOD, score=worker / 10)
            wins.put((round_, worker, [i for i in range(15) if ledger.add_outcome(candidate(str(i)), outcome)]))


def test_several_drivers_share_a_ledger(tmp_path):
    context = multiprocessing.get_context("spawn")
    together, wins = context.Barrier(4), context.Queue()
    drivers = [context.Process(target=drive, args=(tmp_path, worker, together, wins)) for worker in range(4)]
    for driver in drivers:
        driver.start()
    answers = [wins.get(timeout=300) for _ in range(4 * ROUNDS)]
    for driver in drivers:
        driver.join(60)
    assert [driver.exitcode for driver in drivers] == [0] * 4
    for round_ in range(ROUNDS):
        winners = {code: worker for told, worker, codes in answers if told == round_ for code in codes}
        assert sum(len(codes) for told, _, codes in answers if told == round_) == len(winners) == 15
        with Ledger(tmp_path / f"{round_}.sqlite") as ledger:
            scores = ledger.table("evaluations").set_index("code_hash")["score"]
            assert all(scores[candidate(str(code)).code_hash] == worker / 10 for code, worker in winners.items())
            assert len(ledger.table("samples")) == 60 and len(ledger.table("codes")) == 15


def test_a_file_that_another_driver_is_creating_is_waited_for(path):
    """SQLite by itself waits for every lock but the one that switches the log on."""
    path.parent.mkdir()
    with plain(path) as other:
        other.execute("BEGIN IMMEDIATE")
        opener = threading.Thread(target=lambda: Ledger(path).close())
        opener.start()
        opener.join(0.3)
        assert opener.is_alive()
        other.rollback()
        opener.join(60)
    with Ledger(path) as ledger:
        assert ledger._connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"


def test_a_ledger_that_stays_locked_is_reported(ledger, path, monkeypatch):
    monkeypatch.setattr(ledger_module, "BUSY_SECONDS", 0.1)
    with Ledger(path) as second, plain(path) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(BusyError, match="another process keeps"):
            second.add_outcome(candidate(), GOOD)
        other.rollback()
        assert second.add_outcome(candidate(), GOOD)  # and nothing is left of the attempt


def test_an_interrupt_leaves_whole_rows_or_none(ledger, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ledger, "_insert", interrupted)
        ledger.add_outcome(candidate(), GOOD)
    assert ledger.table("codes").empty
    assert ledger.add_outcome(candidate(), GOOD)


def test_it_is_durable_and_needs_no_torch(path):
    with Ledger(path) as ledger:
        assert ledger._connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        assert ledger._connection.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL
        assert ledger._connection.execute("PRAGMA foreign_keys").fetchone()[0] == 1
    code = "import sys, nngpt_lab.candidates.ledger; print('torch' in sys.modules, 'pandas' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.split() == ["False", "False"]
