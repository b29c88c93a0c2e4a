"""What is repeated and what is not, on tiny notebooks: up to date, changed, interrupted, stopped."""

import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import nbformat
import psutil
import pytest

from nngpt_lab import runner
from nngpt_lab.ground.errors import BusyError
from nngpt_lab.records import manifest
from tests.helpers.tiny_notebooks import LAB, WRITES_A_TABLE, counting, run_notebook, times, write_notebook
from tests.helpers.waiting import LIMIT, wait_for


def test_only_what_changed_is_run_again(tmp_path):
    counter, out = tmp_path / "counter", tmp_path / "out"
    notebook = write_notebook(tmp_path / "n.ipynb", counting(counter), WRITES_A_TABLE, parameters="top = 1")

    def run(expected: str, **options) -> None:
        before = times(counter)
        outcome = run_notebook(notebook, output=out, **options)
        assert (outcome.status, times(counter) - before) == (expected, int(expected == "ok"))

    run("ok")
    run("up to date")
    place = out / "n" / "seed-0"
    (place / "executed.html").write_text("rendered by the report")
    run("up to date")
    run("ok", force=True)
    (place / "tables" / "t.csv").unlink()
    (place / "tables" / "stale.csv").write_text("of an earlier run")
    run("ok")
    assert not (place / "tables" / "stale.csv").exists()
    run("ok", seed=1)
    run("up to date")  # another seed is another run
    run("ok", seed=1, parameters={"top": "2"})
    write_notebook(notebook, counting(counter), WRITES_A_TABLE + "# edited", parameters="top = 1")
    run("ok", seed=1, parameters={"top": "2"})
    run("up to date", seed=1, parameters={"top": "2"})


def test_the_fingerprint_covers_code_and_data_but_not_place_and_outputs(tmp_path, monkeypatch):
    notebook = nbformat.read(write_notebook(tmp_path / "n.ipynb", "1"), 4)
    data = {"some": "data"}
    first = manifest.fingerprint(notebook, {"seed": 0, "output": "here"}, data)
    notebook.cells[1].outputs = [nbformat.v4.new_output("stream", text="saved in JupyterLab")]
    assert manifest.fingerprint(notebook, {"seed": 0, "output": "there"}, data) == first
    with monkeypatch.context() as patch:
        patch.setattr(manifest, "code_sha256", lambda: "other code")
        assert manifest.fingerprint(notebook, {"seed": 0}, data) != first
    assert manifest.fingerprint(notebook, {"seed": 0}, {"other": "data"}) != first


@pytest.mark.parametrize("text", ["", "{", "[]", '{"status": "ok"}'])
def test_a_damaged_manifest_counts_as_none(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    assert not manifest.is_current(tmp_path, "anything")


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_a_kernel_that_ends_before_it_begins_is_started_once_more(tmp_path, monkeypatch):
    """As one does whose port was taken meanwhile; what ends a second time is an error."""
    python = f"exec {sys.executable} -m ipykernel_launcher -f {{connection_file}}"
    counter = tmp_path / "starts"
    for ends, status in (1, "ok"), (2, "failed"):
        shell = f"echo x >> {counter}; if [ $(wc -l < {counter}) -gt {ends} ]; then {python}; fi"
        monkeypatch.setattr("ipykernel.kernelspec.get_kernel_dict", lambda shell=shell: {"argv": ["sh", "-c", shell]})
        outcome = run_notebook(write_notebook(tmp_path / "x.ipynb", "1 + 1"), output=tmp_path / status)
        assert (outcome.status, times(counter)) == (status, 2)
        counter.unlink()
    assert "before replying" in outcome.error["message"]


def test_interrupted_busy_and_continued(tmp_path):
    """Ctrl-C in mid-notebook leaves no manifest and no kernel; meanwhile a second run is refused; a third continues."""
    counter, begun, go_on = tmp_path / "counter", tmp_path / "begun", tmp_path / "go_on"
    first = write_notebook(tmp_path / "first.ipynb", counting(counter))
    waits = f"import os, pathlib, time\npathlib.Path({str(begun)!r}).write_text(str(os.getpid()))\n"
    waits += f"while not pathlib.Path({str(go_on)!r}).exists(): time.sleep(0.05)"
    second = write_notebook(tmp_path / "second.ipynb", "1 + 1", waits)
    command = [*LAB, "run", str(first), str(second), "--output", str(tmp_path / "out")]

    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: begun.exists() and begun.read_text())
        with pytest.raises(BusyError) as error:  # even the notebook that has already run: its call is not over
            run_notebook(first, output=tmp_path / "out")
        assert f"process {running.pid} on " in error.value.cause
        busy = subprocess.run([*command[:4], str(second), *command[-2:]], capture_output=True, text=True, timeout=LIMIT)
        assert (busy.returncode, times(counter)) == (4, 1)
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=LIMIT)
    finally:
        running.kill()
    assert running.returncode == 130
    assert said == "interrupted: nothing that was finished is lost; the same command continues\n"
    wait_for(lambda: not psutil.pid_exists(int(begun.read_text())))
    assert (tmp_path / "out" / "second" / "seed-0" / "executed.ipynb").exists()
    assert not (tmp_path / "out" / "second" / "seed-0" / "manifest.json").exists()

    go_on.touch()
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0
    assert "first  up to date" in done.stdout
    assert times(counter) == 1
    assert manifest.read(tmp_path / "out" / "second" / "seed-0")["status"] == "ok"


def test_time_up_stops_what_runs_and_the_same_call_goes_on(tmp_path, monkeypatch):
    """The cell that runs is interrupted, later notebooks are not begun, no manifest vouches for half a run."""
    counter, begun, go_on = tmp_path / "counter", tmp_path / "begun", tmp_path / "go_on"
    clock = SimpleNamespace(monotonic=lambda: 1e9 * begun.exists(), perf_counter=lambda: 0.0)
    monkeypatch.setattr(runner, "time", clock)
    waits = "import pathlib, time\nfrom nngpt_lab.ground import progress\nprogress.note('runs', 3, 8)\n"
    waits += f"pathlib.Path({str(begun)!r}).touch()\n"
    waits += f"while not pathlib.Path({str(go_on)!r}).exists(): time.sleep(0.05)"
    first = write_notebook(tmp_path / "first.ipynb", counting(counter))
    second = write_notebook(tmp_path / "second.ipynb", waits, "1 + 1")
    third = write_notebook(tmp_path / "third.ipynb", "1 + 1")
    call = [first, second, third]
    done = runner.run_notebooks(call, output=tmp_path / "out", minutes=1e-3)
    assert [outcome.status for outcome in done] == ["ok", "stopped", "stopped"]
    assert [outcome.left for outcome in done] == ["", "cell 3 of 4, runs: 3 of 8", "not begun"]
    assert "go on: nngpt-lab run" in done[1].lines()[1]
    assert not (tmp_path / "out" / "second" / "seed-0" / "manifest.json").exists()

    (tmp_path / "out").rename(tmp_path / "moved")
    go_on.touch()
    again = runner.run_notebooks(call, output=tmp_path / "moved")
    assert [outcome.status for outcome in again] == ["up to date", "ok", "ok"]
    assert times(counter) == 1
    calls = [manifest.read(tmp_path / "moved" / name / "seed-0")["calls"] for name in ("first", "second", "third")]
    assert [len(each) for each in calls] == [1, 2, 1]  # what was stopped tells where each part of it was made
    assert calls[1][0].keys() == {"started", "commit", "dirty", "code_sha256", "device", "cores"}


def test_a_run_with_a_changed_prompt_file_is_made_anew(tmp_path):
    (tmp_path / "p.txt").write_text("a")
    notebook, counter = tmp_path / "n.ipynb", tmp_path / "counter"
    write_notebook(notebook, counting(counter), parameters="prompt: str | None = None")
    again = {"parameters": {"prompt": str(tmp_path / "p.txt")}, "output": tmp_path / "out"}
    assert [run_notebook(notebook, **again).status for _ in range(2)] == ["ok", "up to date"]
    (tmp_path / "p.txt").write_text("b")
    assert run_notebook(notebook, **again).status == "ok"
    assert times(counter) == 2
