"""What a run leaves, on tiny notebooks: outputs, a manifest, failures and warnings."""

import json
import subprocess
import sys
from pathlib import Path

import nbformat

from nngpt_lab import runner
from nngpt_lab.records import manifest
from tests.helpers.tiny_notebooks import WRITES_A_TABLE, refused, run_notebook, write_notebook
from tests.helpers.waiting import LIMIT


def test_a_run_and_its_manifest(tmp_path, monkeypatch):
    """One run in an awkward folder, from another working directory, holds most of what a run promises."""
    folder = tmp_path / "a {b} %s c"
    folder.mkdir()
    monkeypatch.chdir("/")
    elsewhere = tmp_path / "jupyter" / "kernels" / "python3"  # a user's kernelspec of that name wins over everything
    elsewhere.mkdir(parents=True)
    other = {"argv": ["false", "{connection_file}"], "display_name": "another Python", "language": "python"}
    (elsewhere / "kernel.json").write_text(json.dumps(other))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    there_before, write = [], manifest.write

    def spy(place: Path, record: dict) -> None:
        there_before.extend(path.name for path in place.rglob("*"))
        write(place, record)

    monkeypatch.setattr(manifest, "write", spy)
    facts = "import os, sys, json; json.dump([os.getcwd(), sys.executable, os.environ['CUBLAS_WORKSPACE_CONFIG'], "
    notebook = write_notebook(
        folder / "01_x.ipynb",
        WRITES_A_TABLE,
        facts + "pair, {1: 2} | keyed, place], open(output + '/facts.json', 'w'))",
        parameters="pair = (1, 2)\nkeyed = {3: 4}\nplace = 'here'",
    )
    outcome = run_notebook(notebook, "demo", 7, {"place": str(tmp_path)}, output=folder / "out")

    place = outcome.job.folder
    assert place.parent == folder / "out" / "01_x" and place.name.startswith("seed-7-place-")
    assert outcome.lines() == [f"ok  01_x  {outcome.seconds:.1f} s  {str(place).removeprefix('/')}"]
    cwd, python, cublas, pair, keyed, given = json.loads((place / "facts.json").read_text())
    assert (cwd, python, cublas) == (str(folder), sys.executable, ":4096:8")
    assert (pair, keyed, given) == ([1, 2], {"1": 2, "3": 4}, str(tmp_path))
    assert (place / "tables" / "t.csv").read_text() == "demo,7"

    record = manifest.read(place)
    assert {"t.csv", "executed.ipynb", "facts.json"} <= set(there_before)
    assert "manifest.json" not in there_before  # written last
    assert set(record["outputs"]) == {"executed.ipynb", "facts.json", "tables/t.csv"}
    assert (record["status"], record["profile"], record["seed"], record["error"]) == ("ok", "demo", 7, None)
    assert record["warnings"] == []
    assert [cell["index"] for cell in record["cells"]] == [1, 2, 3, 4]
    assert {"commit", "dirty", "python", "platform", "device", "cores", "threads", "memory_gib"} <= set(record)
    assert {"torch", "papermill", "ipykernel"} <= set(record["packages"])
    assert all(len(digest) == 64 for digest in record["data"].values())
    text = (place / "manifest.json").read_text()
    for private in (str(tmp_path), str(Path.home()), sys.prefix):
        assert private not in text


def test_a_failed_notebook_is_kept_and_the_others_run(tmp_path):
    bad = write_notebook(tmp_path / "bad.ipynb", "1 + 1", "\nvalues = [1,\n 2]\nraise KeyError('it broke')", "'never'")
    dead = write_notebook(tmp_path / "dead.ipynb", "import os; os._exit(3)")
    good = write_notebook(tmp_path / "good.ipynb", "2 + 2")
    told = []
    outcomes = runner.run_notebooks([bad, dead, good], output=tmp_path / "out", on_done=told.append)
    assert [outcome.status for outcome in outcomes] == ["failed", "failed", "ok"]
    assert told == outcomes
    where, what, next_step = outcomes[0].lines()
    assert where.startswith("failed  bad  ")
    assert where.endswith("in cell [4]: values = [1,")
    assert what == "  KeyError: 'it broke'"
    assert "executed.ipynb" in next_step
    assert "nngpt-lab run" in next_step
    kept = nbformat.read(tmp_path / "out" / "bad" / "seed-0" / "executed.ipynb", 4)
    assert any(output.output_type == "error" for cell in kept.cells for output in cell.get("outputs", []))
    record = manifest.read(tmp_path / "out" / "bad" / "seed-0")
    assert (record["status"], record["error"]["type"], record["error"]["cell"]) == ("failed", "KeyError", 4)
    assert outcomes[1].error["type"] == "DeadKernelError"
    assert outcomes[1].error["line"] == "import os; os._exit(3)"


def test_a_figure_or_table_that_fails_does_not_end_its_notebook(tmp_path):
    """Whatever it raised, but for errors that the user has a cure for; any other cell ends it, as ever."""
    shows = "from types import SimpleNamespace\nresults = SimpleNamespace(figure=print, table=print)"
    cells = [shows, "results.figure(1 / 0, 'a', 'A.')", "done = 7", "results.table(missing)\nnever = 1", "print(done)"]
    outcome = run_notebook(write_notebook(tmp_path / "n.ipynb", *cells), output=tmp_path / "out")
    record = manifest.read(outcome.job.folder)
    assert outcome.status == record["status"] == "incomplete"
    assert outcome.lines()[0].startswith("incomplete  n  ") and "ZeroDivisionError" in outcome.lines()[1]
    assert [(failure["cell"], failure["type"]) for failure in record["failures"]] == [
        (4, "ZeroDivisionError"),
        (6, "NameError"),
    ]
    assert "7" in (outcome.job.folder / "executed.ipynb").read_text()
    assert not manifest.is_current(outcome.job.folder, record["fingerprint"])  # the same call mends it
    told = "from nngpt_lab.ground.errors import UsageError\nraise UsageError('a', 'b')\nresults.figure(1)"
    for last in (told, "raise KeyboardInterrupt\nresults.figure(1)", "1 / 0"):
        ends = write_notebook(tmp_path / "n.ipynb", *cells[:2], last, "open(output + '/went_on', 'w')")
        outcome = run_notebook(ends, output=tmp_path / "out")
        assert outcome.status == "failed" and not (outcome.job.folder / "went_on").exists()


def test_an_executed_notebook_run_again_takes_the_new_parameters_and_shows_no_folder_of_ours(tmp_path):
    home = "from pathlib import Path\nprint(Path.home(), 'EPOCHS', epochs, 'SEED', seed); 1 / 0"
    notebook = write_notebook(tmp_path / "n.ipynb", home, parameters="epochs = 5")
    first = run_notebook(notebook, parameters={"epochs": "3"}, output=tmp_path / "a")
    again = run_notebook(first.job.folder / "executed.ipynb", "smoke", 4, {"epochs": "7"}, output=tmp_path / "b")
    text = (again.job.folder / "executed.ipynb").read_text()
    assert "~ EPOCHS 7 SEED 4" in text and "EPOCHS 3" not in text
    assert text.count('"injected-parameters"') == 1 and text.count("papermill-error-cell-tag") == 2
    for private in (str(tmp_path), str(Path.home()), sys.prefix):
        assert private not in text, private


def test_what_lies_where_results_go_is_neither_moved_nor_cleared(tmp_path):
    """A notebook in the very folder that its results get, beside files with the names of results."""
    (tmp_path / "mine").mkdir()
    notebook = write_notebook(tmp_path / "mine" / "mine.ipynb", "1 + 1")
    files = ["mine/figures/mine.png", "mine/tables/by_hand.csv", "mine/executed.html", "mine/data.csv"]
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("by hand")
    outcome = run_notebook(notebook, output=tmp_path)
    assert outcome.status == "ok" and notebook.exists()
    assert all((tmp_path / file).read_text() == "by hand" for file in files)
    (outcome.job.folder / "manifest.json").unlink()
    for trace in (".calls.jsonl", ".lock", "contents.json"):
        (outcome.job.folder / trace).unlink(missing_ok=True)
    assert "not of a run" in refused(notebook, output=tmp_path)
    assert (outcome.job.folder / "executed.ipynb").exists()


def test_a_wrong_value_after_a_good_run_costs_nothing(tmp_path):
    """Neither one that is refused, nor one that fails in the notebook; nor a change after which the same run fails."""
    notebook = write_notebook(tmp_path / "n.ipynb", WRITES_A_TABLE, "assert top < 9", parameters="top = 1")
    good = run_notebook(notebook, output=tmp_path / "out")
    assert "takes a whole number" in refused(notebook, output=tmp_path / "out", parameters={"top": "many"})
    assert run_notebook(notebook, output=tmp_path / "out", parameters={"top": "9"}).status == "failed"
    assert manifest.is_current(good.job.folder, manifest.read(good.job.folder)["fingerprint"])
    write_notebook(notebook, "1 / 0", parameters="top = 1")
    assert run_notebook(notebook, output=tmp_path / "out").job.folder == good.job.folder
    kept = (tmp_path / "out" / "n" / "latest").resolve()
    assert kept.name.startswith("seed-0-before-") and (kept / "tables" / "t.csv").read_text() == "smoke,0"
    assert not manifest.changed_files(kept, manifest.read(kept))


def test_a_disk_that_is_full_at_the_manifest_is_told(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(manifest, "write", full)
    outcome = run_notebook(write_notebook(tmp_path / "n.ipynb", "1 + 1"), output=tmp_path / "out")
    assert outcome.status == "failed" and "No space left on device; make room" in outcome.lines()[1]


def test_cells_that_warn_are_recorded_and_told(tmp_path):
    """Warnings and anything else on stderr, without this machine's paths; told again when the run is up to date."""
    warns = f"warnings.warn_explicit('old name', FutureWarning, {sys.prefix!r} + '/x.py', 3)"
    warns = f"import warnings; print('fine')\n{warns}"
    logs = "import sys\nprint('\\n  a log line\\nand another', file=sys.stderr)"
    notebook = write_notebook(tmp_path / "n.ipynb", "1 + 1", warns, logs)
    outcome = run_notebook(notebook, output=tmp_path / "out")
    assert manifest.read(tmp_path / "out" / "n" / "seed-0")["warnings"] == [
        {"cell": 4, "line": "<python>/x.py:3: FutureWarning: old name"},
        {"cell": 5, "line": "a log line"},
    ]
    assert outcome.status == "ok" and outcome.lines()[0].endswith("warnings in cells 4, 5")
    again = run_notebook(notebook, output=tmp_path / "out")
    assert again.status == "up to date" and again.warned == (4, 5)


def test_plain_papermill_runs_the_same_notebook(tmp_path):
    typed = "resamples: int | None = None\nseeds: int | None = 3\narms: str | None = None"
    notebook = write_notebook(
        tmp_path / "n.ipynb", WRITES_A_TABLE, "table.write_text(f'{profile},{resamples},{seeds},{arms}')",
        parameters=typed,
    )  # fmt: skip
    command = [sys.executable, "-m", "papermill", "n.ipynb", "out.ipynb", "-p", "profile", "demo", "-p", "output", "."]
    command += ["-p", "resamples", "10", "-p", "seeds", "None"]  # papermill's own spelling
    subprocess.run(command, cwd=notebook.parent, check=True, capture_output=True, timeout=LIMIT)
    assert (tmp_path / "tables" / "t.csv").read_text() == "demo,10,None,None"
