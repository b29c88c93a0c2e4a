"""The ledger's file: strangers' files, damage, several drivers, interrupts. What lies in it: ``test_ledger.py``."""

from __future__ import annotations

import multiprocessing
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nngpt_lab.candidates import ledger as ledger_module
from nngpt_lab.candidates.ledger import ORDERS, Ledger
from nngpt_lab.candidates.outcome import Candidate, Kind, Outcome
from nngpt_lab.ground.errors import BusyError, DataError, UsageError
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
    with pytest.raises(DataError, match=rf"version {ledger_module.VERSION + 1}.*\n.*update nngpt-lab"):
        Ledger(path)


def version_1(path) -> None:
    """Make of a ledger one as the lab wrote it at first: without the table of what was dropped."""
    with plain(path) as other:
        other.executescript("""
            DROP TRIGGER evaluations_delete; DROP TRIGGER dropped_update; DROP TRIGGER dropped_delete;
            DROP TABLE dropped;
            CREATE TRIGGER evaluations_delete BEFORE DELETE ON evaluations
                BEGIN SELECT RAISE(ABORT, 'a ledger is append-only'); END;
            PRAGMA user_version = 1;
        """)


def test_an_older_ledger_is_migrated_and_rid_of_what_was_misfiled(path):
    """Everything stays but what the machine did: kills, and time in which the driver was stopped."""
    kept = {
        "crash": Outcome(Status.CRASH, protocol_hash=PROTOCOL, message="killed by SIGSEGV"),
        "slow": Outcome(Status.TIMEOUT, protocol_hash=PROTOCOL, message="it took long", seconds={"total": 75.0}),
        "good": GOOD,
    }
    misfiled = {
        "zygote": replace(kept["crash"], message="the sandbox had to be replaced while it ran"),
        "memory": replace(kept["crash"], message="killed by SIGKILL"),
        "stopped": replace(kept["slow"], seconds={"total": 7200.0}),
    }
    with Ledger(path) as ledger:
        ledger.add_protocol(PROTOCOL, {"wall_seconds": 60})
        ledger.add_sample("run", 0, candidate("good"), Status.OK, "")
        for code, outcome in (kept | misfiled).items():
            ledger.add_outcome(candidate(code), outcome)
        before = {name: ledger.table(name) for name in ("protocols", "codes", "samples")}
    version_1(path)
    for _ in range(2):  # and then once more, when there is nothing left to do
        with Ledger(path) as ledger:
            for name, table in before.items():
                assert ledger.table(name).equals(table), name
            assert ledger.known(PROTOCOL) == {(candidate(code).code_hash, 0) for code in kept}
            dropped = ledger.table("dropped")
    assert set(dropped["code_hash"]) == {candidate(code).code_hash for code in misfiled}
    assert "SIGKILL" in "".join(dropped["evaluation"])
    with plain(path) as other, pytest.raises(sqlite3.IntegrityError, match="append-only"):
        other.execute("DELETE FROM evaluations")


def test_what_is_dropped_is_kept_and_can_be_evaluated_anew(ledger):
    assert not ledger.drop(candidate().code_hash, PROTOCOL, 0, "there is none")
    ledger.add_outcome(candidate(), Outcome(Status.TIMEOUT, protocol_hash=PROTOCOL))
    assert ledger.drop(candidate().code_hash, PROTOCOL, 0, "the laptop slept")
    assert ledger.outcome(candidate().code_hash, PROTOCOL, 0) is None
    assert ledger.add_outcome(candidate(), GOOD)
    assert ledger.table("dropped")["reason"].to_list() == ["the laptop slept"]


def test_a_ledger_of_another_thread_is_told_as_such(ledger):
    with ThreadPoolExecutor(1) as threads, pytest.raises(UsageError, match="in the thread that uses it"):
        threads.submit(ledger.known, PROTOCOL).result()


@pytest.mark.parametrize("code", [sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_IOERR | 15 << 8])
def test_a_network_disk_is_named(tmp_path, monkeypatch, code):
    def on_a_network_disk(*_):
        error = sqlite3.OperationalError("locking protocol")
        error.sqlite_errorcode = code
        raise error

    monkeypatch.setattr(ledger_module, "_pragma", on_a_network_disk)
    with pytest.raises(DataError, match="keep it on a local disk"):
        Ledger(tmp_path / "ledger.sqlite")


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
