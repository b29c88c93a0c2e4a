"""``kill -9`` at many moments: whatever is killed, repeating the run ends in the rows of one that was left alone."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

from nngpt_lab.candidates.ledger import Ledger
from nngpt_lab.sandbox import confine
from tests.helpers.waiting import LIMIT, wait_for

if not confine.LINUX:
    pytest.skip("looks for processes in /proc", allow_module_level=True)

COUNT = 24
CLEAN_SECONDS = 60.0  # after which what belonged to a killed driver counts as left behind; as a rule it takes a tenth
KILLS = [[9, 3, 17], [30, 4]]  # of each run: how many of its 48 evaluations a driver has begun when it is killed
TIMINGS = ["added", "finished", "seconds", "total_seconds"]
DRIVER = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background is born ignoring it
from tests.helpers.light_recipe import LightRecipe, candidates
from nngpt_lab.candidates.pool import evaluate
from nngpt_lab.candidates.ledger import Ledger
with Ledger(sys.argv[1]) as ledger:
    evaluate(candidates(int(sys.argv[3])), LightRecipe(sys.argv[2]), ledger, seeds=(0, 1), workers=2, progress=False)
"""
WRITER = """
import itertools, sys
from tests.helpers.light_recipe import candidates
from nngpt_lab.candidates.outcome import Outcome
from nngpt_lab.sandbox.status import Status
from nngpt_lab.candidates.ledger import Ledger
candidate = candidates(1)[0]
with Ledger(sys.argv[1]) as ledger:
    ledger.add_protocol("light", {})
    for seed in itertools.count(len(ledger.known("light"))):
        ledger.add_outcome(candidate, Outcome(Status.OK, 0.5, seed, "light", message="m" * 3000))
        print(seed, flush=True)
"""


def start(code: str, *arguments: object, folder: Path, **options) -> subprocess.Popen:
    """A Python process of its own session, whose temporary files, and so its sandboxes', are in ``folder``."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "TMPDIR": str(folder)}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, start_new_session=True, **options)


def processes_of(folder: Path) -> list[int]:
    """Those whose command line names the folder: the sandboxes' launchers and all that they have forked."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                found += [int(entry.name)] if str(folder).encode() in (entry / "cmdline").read_bytes() else []
    return found


def left_behind(folder: Path) -> tuple[list[int], list[Path]]:
    """Processes and files of a killed driver that do not go away by themselves."""
    deadline = time.monotonic() + CLEAN_SECONDS
    while any(left := (processes_of(folder), sorted(folder.iterdir()))) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def lines(log: Path) -> list[list[str]]:
    """Process, code hash and seed of each evaluation that began, as far as they are written."""
    return [line.split() for line in log.read_text(encoding="ascii").splitlines()] if log.exists() else []


def has_begun(count: int, log: Path, driver: subprocess.Popen) -> bool:
    return driver.poll() is not None or len(lines(log)) >= count


def check_file(path: Path) -> set[tuple[str, int]]:
    """What a plain reader finds after a kill; the file must be sound."""
    if not path.exists():
        return set()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        if not connection.execute("SELECT name FROM sqlite_master").fetchall():
            return set()
        return {(code, seed) for code, seed in connection.execute("SELECT code_hash, seed FROM evaluations")}


def rows(path: Path) -> dict[str, pd.DataFrame]:
    with Ledger(path) as ledger:
        names = ("protocols", "codes", "evaluations", "scores", "statuses")
        return {name: ledger.table(name).drop(columns=TIMINGS, errors="ignore") for name in names}


def test_a_run_that_is_killed_again_and_again_ends_in_the_same_rows(tmp_path):
    (tmp_path / "tmp").mkdir()
    assert start(DRIVER, tmp_path / "calm.sqlite", "", COUNT, folder=tmp_path / "tmp").wait(LIMIT) == 0
    expected = rows(tmp_path / "calm.sqlite")
    assert expected["evaluations"]["status"].value_counts().to_dict() == {
        "ok": COUNT, "crash": COUNT // 3, "forbidden": COUNT // 3, "non_finite": COUNT // 3
    }  # fmt: skip
    temporary, orphans, killed = tmp_path / "tmp", [], 0
    for number, moments in enumerate(KILLS):
        path = tmp_path / f"{number}.sqlite"
        for life, moment in enumerate([*moments, None]):
            log, known = tmp_path / f"{number}-{life}.log", check_file(path)
            driver = start(DRIVER, path, log, COUNT, folder=temporary)
            if moment is not None:
                wait_for(partial(has_begun, moment, log, driver))
                with contextlib.suppress(ProcessLookupError):  # on a busy machine it may have ended
                    (os.killpg if life % 2 else os.kill)(driver.pid, signal.SIGKILL)
            ended = driver.wait(LIMIT)
            assert ended in (0, -signal.SIGKILL) and (moment is not None or ended == 0)
            killed += ended != 0
            processes, folders = left_behind(temporary)
            assert not processes, f"after kill {life} of run {number}"
            orphans += folders
            for folder in folders:
                folder.rmdir()  # empty, or it is no such orphan
            begun = [(code_hash, int(seed)) for _, code_hash, seed in lines(log)]
            assert len(begun) == len(set(begun)) and not known & set(begun), "evaluated what was known"
            assert known <= check_file(path), "lost what was known"
        for name, table in rows(path).items():
            pd.testing.assert_frame_equal(table, expected[name])
    assert killed >= 3
    assert len(orphans) <= 1  # an instant is left between making a sandbox's folder and starting who removes it


def test_an_interrupt_writes_what_is_finished_and_leaves_nothing(tmp_path):
    (tmp_path / "tmp").mkdir()
    path, log = tmp_path / "ledger.sqlite", tmp_path / "log"
    driver = start(DRIVER, path, log, 400, folder=tmp_path / "tmp", stderr=subprocess.PIPE, text=True)
    wait_for(lambda: len(lines(log)) >= 8)
    driver.send_signal(signal.SIGINT)
    _, told = driver.communicate(timeout=LIMIT)
    assert told.endswith("KeyboardInterrupt\n") and driver.returncode != 0
    assert (processes_of(tmp_path / "tmp"), list((tmp_path / "tmp").iterdir())) == ([], [])
    begun = len(lines(log))
    assert begun - 2 <= len(check_file(path)) <= begun < 800
    statuses = rows(path)["statuses"].set_index("status")["evaluations"]
    assert set(statuses.index) <= {"ok", "crash", "forbidden", "non_finite"} and statuses["ok"] > 1
    assert statuses.get("crash", 0) <= begun / 6 + 2  # what was stopped is not filed as a crash


def test_a_writer_that_is_killed_has_written_what_it_said(tmp_path):
    acknowledged = -1
    for said in (1, 2, 5, 30, 80):
        writer = start(WRITER, tmp_path / "ledger.sqlite", folder=tmp_path, stdout=subprocess.PIPE, text=True)
        for _ in range(said):
            acknowledged = int(writer.stdout.readline())
        writer.kill()
        acknowledged = max([acknowledged, *map(int, writer.stdout.read().split("\n")[:-1])])
        writer.wait()
        writer.stdout.close()
        seeds = sorted(seed for _, seed in check_file(tmp_path / "ledger.sqlite"))
        assert seeds == list(range(len(seeds)))
        assert len(seeds) - 1 in (acknowledged, acknowledged + 1)  # the last may have been written and not yet said
    assert acknowledged > 10
