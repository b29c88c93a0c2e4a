"""Calls side by side: at the same time, each interrupted once, none outliving its caller."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

import nngpt_lab
from nngpt_lab.ground.processes import side_by_side
from tests.helpers.waiting import LIMIT, alive, wait_for

CALLER = """
import sys
from pathlib import Path
from nngpt_lab.ground.processes import side_by_side
from tests.ground.test_processes import waits
if __name__ == "__main__":
    list(side_by_side(waits, [(Path(sys.argv[1]), number) for number in range(3)], 2))
"""


IMPORTING = """
import sys
from pathlib import Path
from nngpt_lab.ground.processes import side_by_side
if __name__ == "__main__":
    from slow import works  # which a process of its own imports when it gets its call
    list(side_by_side(works, [(Path(sys.argv[1]), number) for number in range(2)], 2))
"""
SLOW = """
import multiprocessing, os, sys
from pathlib import Path
from nngpt_lab.ground import processes
from tests.helpers.waiting import wait_for
if multiprocessing.parent_process():
    (Path(sys.argv[-1]) / f"imports {os.getpid()}").touch()
    wait_for(lambda: processes._interrupts)
def works(folder, number):
    (folder / f"worked {number}").touch()
"""

OF_JOBLIB = """
import sys
from pathlib import Path
from nngpt_lab.ground.processes import parallel
from joblib import delayed
from tests.ground.test_processes import notes_and_waits
if __name__ == "__main__":
    parallel(2)(delayed(notes_and_waits)(Path(sys.argv[1]), number) for number in range(4))
"""


def notes_and_waits(folder: Path, number: int) -> None:
    (folder / f"{number} {os.getpid()}").touch()
    wait_for(lambda: False)


def meets(folder: Path, number: int, others: int) -> tuple[int, int]:
    (folder / str(number)).touch()
    wait_for(lambda: len(list(folder.iterdir())) >= others)
    return number, os.getpid()


def waits(folder: Path, number: int) -> None:
    try:
        (folder / f"begun {number}").touch()
        wait_for(lambda: False)
    except KeyboardInterrupt:
        (folder / f"interrupted {number}").touch()
        raise


def fails(folder: Path, number: int) -> None:
    if number == 1:
        wait_for(lambda: (folder / "begun 0").exists())
        raise ValueError("the second call")
    waits(folder, number)


def test_as_many_calls_as_asked_run_at_the_same_time(tmp_path):
    ended = list(side_by_side(meets, [(tmp_path, number, 2) for number in range(3)], 2))
    assert sorted(number for number, _ in ended) == [0, 1, 2]
    assert len({process for _, process in ended} - {os.getpid()}) == 2


def test_one_at_a_time_runs_here_and_in_order(tmp_path):
    assert list(side_by_side(meets, [(tmp_path, number, 1) for number in (1, 0)], 1)) == [
        (1, os.getpid()),
        (0, os.getpid()),
    ]


def test_an_error_ends_the_others(tmp_path):
    with pytest.raises(ValueError, match="the second call"):
        list(side_by_side(fails, [(tmp_path, number) for number in range(3)], 2))
    assert {path.name for path in tmp_path.iterdir()} == {"begun 0", "interrupted 0"}


def started(text: str, place: Path) -> tuple[subprocess.Popen[str], Path]:
    """A script in a process of its own, and the folder that it is given."""
    script, folder = place / "caller.py", place / "said"
    script.write_text(text)
    folder.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, str(script), str(folder)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment), folder


@pytest.mark.skipif(os.name != "posix", reason="elsewhere joblib's processes finish what they are at")
def test_joblib_s_processes_end_with_their_caller(tmp_path):
    caller, folder = started(OF_JOBLIB, tmp_path)
    try:
        wait_for(lambda: len(list(folder.iterdir())) == 2)
        at_work = [int(path.name.split()[1]) for path in folder.iterdir()]
        assert all(map(psutil.pid_exists, at_work))
    finally:
        caller.kill()
        caller.communicate(timeout=LIMIT)
    wait_for(lambda: not any(map(alive, at_work)))


def test_every_room_takes_them_from_there():
    package = Path(nngpt_lab.__file__).parent
    named = [path.name for path in sorted(package.rglob("*.py")) if "import Parallel" in path.read_text()]
    assert named == ["processes.py"]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupt_or_the_end_of_the_caller_ends_what_runs(tmp_path, how):
    caller, folder = started(CALLER, tmp_path)
    try:
        wait_for(lambda: {path.name for path in folder.iterdir()} == {"begun 0", "begun 1"})
        caller.send_signal(how)
        _, said = caller.communicate(timeout=LIMIT)
        wait_for(lambda: len(list(folder.iterdir())) == 4)
    finally:
        caller.kill()
    assert {path.name for path in folder.iterdir()} == {"begun 0", "begun 1", "interrupted 0", "interrupted 1"}
    assert caller.returncode == -how
    assert said.count("KeyboardInterrupt\n") <= 2  # the caller's own, and its cause


def test_an_interrupt_is_heeded_by_a_process_that_still_imports(tmp_path):
    (tmp_path / "slow.py").write_text(SLOW)
    caller, folder = started(IMPORTING, tmp_path)
    try:
        wait_for(lambda: len(list(folder.iterdir())) == 2)
        caller.send_signal(signal.SIGINT)
        caller.communicate(timeout=LIMIT)
    finally:
        caller.kill()
    assert caller.returncode == -signal.SIGINT
    assert all(path.name.startswith("imports") for path in folder.iterdir())  # and none has worked
