"""Runs lie beside each other, and nothing that finished is lost: only ``prune`` removes, and not the newest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nngpt_lab.ground.errors import BusyError, UsageError
from nngpt_lab.records import manifest, run_folders


@pytest.fixture
def notebook(tmp_path) -> Path:
    """A notebook's folder without a run."""
    (tmp_path / "01_story").mkdir()
    return tmp_path / "01_story"


def leave(run: Path, status: str = "ok", day: int = 1, **record) -> Path:
    """What a run of that day leaves, with its table and its ledger; no manifest without a status."""
    (run / "tables").mkdir(parents=True, exist_ok=True)
    (run / "tables" / "t.csv").write_text(f"day {day}")
    (run / "ledger.sqlite").write_text("rows")
    if status:
        outputs = {"tables/t.csv": manifest.sha256_file(run / "tables" / "t.csv"), "ledger.sqlite": "of then"}
        known = {"status": status, "started": f"2026-01-{day:02d}T10:30:00+00:00", "outputs": outputs, **record}
        (run / "manifest.json").write_text(json.dumps(known))
    return run


def test_a_run_s_name_tells_seed_and_parameters(monkeypatch):
    assert run_folders.name(3, {}) == run_folders.name(3, {"workers": 8}) == "seed-3"
    name = run_folders.name(0, {"arms": "loop, no tuning", "samples": 48, "cycles": None})
    assert name.startswith("seed-0-arms-loop-no-tuning-cycles-None-") and run_folders.RUN.fullmatch(name)
    assert run_folders.name(0, {"a": 1}) != run_folders.name(0, {"a": 2}) != run_folders.name(0, {"b": 2})
    monkeypatch.chdir("/usr")
    there, monkey = run_folders.name(0, {"coder": "/usr/share/mine"}), "coder-mine"
    assert monkey in there and "usr" not in there
    monkeypatch.chdir("/opt")
    assert run_folders.name(0, {"coder": "/opt/share/mine"}) == there  # the project was moved


def test_the_latest_is_the_newest_that_finished(notebook):
    assert run_folders.latest(notebook) is None
    leave(notebook / "by-hand", status="")
    assert run_folders.latest(notebook).name == "by-hand"
    leave(notebook / "seed-1", "failed", day=5)
    assert run_folders.latest(notebook).name == "seed-1"
    for name, status, day in ("seed-2", "ok", 2), ("seed-3", "incomplete", 3), ("seed-4", "failed", 9):
        leave(notebook / name, status, day)
    run_folders.link_latest(notebook)
    assert (notebook / "latest").readlink() == Path("seed-3")
    assert {run.name for run in run_folders.runs(notebook)} == {"by-hand", *(f"seed-{seed}" for seed in range(1, 5))}


def test_latest_where_links_cannot_be_made_and_where_copying_made_a_folder_of_it(notebook, monkeypatch):
    leave(notebook / "seed-0")
    leave(notebook / "latest")

    def refuse(*_, **__):
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    run_folders.link_latest(notebook)
    run_folders.link_latest(notebook)
    assert (notebook / "latest").read_text() == "seed-0\n"
    assert (notebook / "latest-copied" / "tables" / "t.csv").exists()
    assert [run.name for run in run_folders.runs(notebook)] == ["seed-0"]


@pytest.mark.parametrize("status", ["ok", "incomplete"])
def test_what_finished_is_set_aside_whole(notebook, status):
    run = leave(notebook / "seed-0", status)
    for number in ("", "-2"):
        run_folders.set_aside(run)
        place = notebook / f"seed-0-before-20260101-103000{number}"
        assert (place / "tables" / "t.csv").read_text() == "day 1"
        assert not manifest.changed_files(place, manifest.read(place))
        assert sorted(path.name for path in run.iterdir()) == ["ledger.sqlite"]  # what a run continues by
        leave(run, status)
    assert run_folders.latest(notebook) in run_folders.runs(notebook)


@pytest.mark.parametrize("status", ["failed", ""])
def test_what_has_not_finished_is_not_set_aside(notebook, status):
    run_folders.set_aside(leave(notebook / "seed-0", status))
    assert [path.name for path in notebook.iterdir()] == ["seed-0"]


def test_two_notebooks_of_one_name_do_not_share_a_folder(tmp_path, notebook):
    mine, other = tmp_path / "a" / "01_story.ipynb", tmp_path / "b" / "01_story.ipynb"
    for path in (mine, other):
        path.parent.mkdir()
        path.touch()
    run_folders.claim(mine, notebook)
    run_folders.claim(mine, notebook)
    with pytest.raises(UsageError, match="another notebook of this name"):
        run_folders.claim(other, notebook)
    mine.unlink()
    run_folders.claim(other, notebook)  # it was moved


def test_moved_together_or_alone_results_still_belong_to_their_notebook(tmp_path):
    for place in ("old", "new"):
        (tmp_path / place / "results" / "n").mkdir(parents=True)
        (tmp_path / place / "n.ipynb").touch()
    note = tmp_path / "old" / "results" / "n"
    run_folders.claim(tmp_path / "old" / "n.ipynb", note)
    (note / ".notebook").replace(tmp_path / "new" / "results" / "n" / ".notebook")
    run_folders.claim(tmp_path / "new" / "n.ipynb", tmp_path / "new" / "results" / "n")


@pytest.mark.parametrize("trace", ["manifest.json", ".calls.jsonl", "ledger.sqlite", ".lock", "contents.json", ""])
def test_a_folder_without_a_trace_of_the_lab_is_not_taken_for_a_run(notebook, trace):
    run = notebook / "seed-0"
    run_folders.check_ours(run)
    (run / "data").mkdir(parents=True)
    run_folders.check_ours(run)  # nothing that would be cleared
    (run / "figures").mkdir()
    (run / "figures" / "mine.png").write_text("by hand")
    if trace:
        (run / trace).touch()
        run_folders.check_ours(run)
        return
    with pytest.raises(UsageError, match="holds figures, which is not of a run"):
        run_folders.check_ours(run)


def test_only_what_was_replaced_or_failed_before_the_newest_finished_run_may_go(notebook):
    for name, status, day in (
        ("seed-0", "ok", 1), ("seed-1", "failed", 2), ("seed-2", "", 0), ("seed-3", "ok", 3), ("seed-4", "failed", 4)
    ):  # fmt: skip
        leave(notebook / name, status, day)
    assert [run.name for run in run_folders.prunable(notebook)] == ["seed-1"]  # seed-0 is another run than seed-3
    run_folders.set_aside(notebook / "seed-0")
    (replaced,) = [run.name for run in run_folders.runs(notebook) if "-before-" in run.name]
    assert [run.name for run in run_folders.prunable(notebook)] == ["seed-1"]  # nothing has taken its place yet
    leave(notebook / "seed-0", "ok", 2)
    assert [run.name for run in run_folders.prunable(notebook)] == [replaced, "seed-1"]
    leave(notebook / "seed-3", "failed", 3)
    found = [run.name for run in run_folders.prunable(notebook)]
    assert found == [replaced, "seed-1"]  # seed-3 failed after seed-0, the newest that finished


def test_a_running_one_is_not_removed(notebook):
    run = leave(notebook / "seed-0")
    with run_folders.hold(run):
        assert not run_folders.remove(run) and run.exists()
        with pytest.raises(BusyError, match="process"), run_folders.hold(run):
            pass
    assert run_folders.size(run) > 0
    assert run_folders.remove(run) and not run.exists()
