"""A loop's run in a process of its own that is killed, and what of a run must not depend on when it was interrupted."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from nngpt_lab.candidates.ledger import Ledger
from nngpt_lab.ground import paths
from tests.helpers.forks import ADDRESS, Fork
from tests.helpers.waiting import LIMIT, wait_for


def run_until(condition: Callable[[], object], module: str, folder: Path) -> None:
    """Start ``module.run_all(folder)`` in another process, and ``kill -9`` its group once the condition is true."""
    script = folder / "main.py"
    script.write_text(
        f"import sys; from pathlib import Path; sys.path.insert(0, {str(paths.PACKAGE.parent)!r})\n"
        f"import {module} as tests\nif __name__ == '__main__': tests.run_all(Path(sys.argv[1]))"
    )
    arguments, errors = [str(script), str(folder)], folder / "errors.txt"
    if ADDRESS in os.environ:
        child = Fork(arguments, folder, errors=errors)
    else:
        child = subprocess.Popen([sys.executable, *arguments], start_new_session=True, stderr=errors.open("wb"))
    wait_for(lambda: condition() or child.poll() is not None)
    assert child.poll() is None, f"it ended before it could be killed: {errors.read_text()}"
    os.killpg(child.pid, signal.SIGKILL)
    child.wait(LIMIT)


def samples(folder: Path) -> int:
    """Samples that the run's ledger holds, while another process writes it."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{folder / 'ledger.sqlite'}?mode=ro", uri=True)) as connection:
            return connection.execute("SELECT count(*) FROM samples").fetchone()[0]
    except sqlite3.OperationalError:  # there is no ledger yet, or no table in it
        return 0


def content(folder: Path) -> dict[str, list]:
    """The ledger's rows, without times."""
    with Ledger(folder / "ledger.sqlite") as ledger:
        drawn = ledger.table("samples").drop(columns="drawn").astype(object).fillna("").to_numpy().tolist()
        evaluations = ledger.table("evaluations")[["code_hash", "protocol_hash", "seed", "status", "score"]]
    return {"samples": drawn, "evaluations": evaluations.astype(object).fillna("").to_numpy().tolist()}


def adapters(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*.safetensors"))}
