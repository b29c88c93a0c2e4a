"""The claims as a table, for papers; and a notebook of one's own with claims of its own."""

import nbformat
import pandas as pd
import pytest

import nngpt_lab
from nngpt_lab import registry
from nngpt_lab.ground import paths
from nngpt_lab.ground.errors import UsageError
from nngpt_lab.records import manifest
from nngpt_lab.statistics.claims import COLUMNS, load_claims
from tests.test_cli import lab


def leave_claims(run, started: str, verdict: str) -> None:
    (run / "tables").mkdir(parents=True)
    row = dict.fromkeys(COLUMNS) | {"claim_id": "C-chance", "verdict": verdict, "our_value": 82.1, "n": 30}
    pd.DataFrame([row | {"ci_low": 81.1, "ci_high": 83.1, "note": "50 % & more"}]).to_csv(run / "tables" / "claims.csv")
    manifest.write(run, {"status": "ok", "started": started})


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Two profiles' results, the second one newer."""
    leave_claims(tmp_path / "demo" / "03_x" / "seed-0", "2026-01-01T00:00:00", "inconclusive")
    leave_claims(tmp_path / "gpu" / "03_x" / "seed-0", "2026-02-01T00:00:00", "wrong comparator")
    monkeypatch.setattr(paths, "results_root", lambda: tmp_path)
    return tmp_path


def test_every_claim_has_the_verdict_of_the_newest_or_of_a_given_folder(results):
    table = nngpt_lab.claims().set_index("claim_id")
    assert list(table.index) == list(load_claims())
    assert (table.loc["C-chance", "verdict"], table.loc["C-chance", "run"]) == ("wrong comparator", "03_x/seed-0")
    assert table["verdict"].drop("C-chance").unique().tolist() == ["not yet run"]
    assert table.loc["C-chance", "n"] == 30
    older = nngpt_lab.claims(results / "demo").set_index("claim_id")
    assert older.loc["C-chance", "verdict"] == "inconclusive"
    assert older["paper_value"].notna().all()
    with pytest.raises(UsageError, match="has a claims table"):
        nngpt_lab.claims(results / "nothing")
    leave_claims(results / "smoke" / "03_x" / "seed-0", "2026-03-01T00:00:00", "not tested")  # the newest of all
    assert nngpt_lab.claims().set_index("claim_id").loc["C-chance", "verdict"] == "wrong comparator"
    assert "claims of" in lab("claims").stderr and "gpu" in lab("claims").stderr


def test_without_any_run_all_wait(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "results_root", lambda: tmp_path)
    assert set(nngpt_lab.claims()["verdict"]) == {"not yet run"}


def test_latex_and_bibtex(results):
    text = lab("claims", "--format", "latex").stdout
    row = next(line for line in text.splitlines() if "wrong comparator" in line)
    assert r"C~\cite{nngpt-C}" in row
    assert r"82.1\,\%" in row
    assert all(word not in text for word in ("≥", "\u202f"))
    assert text.count(r"\\") > len(load_claims())
    entries = registry.bibtex("0123456789abcdef")
    assert entries.count("@misc{nngpt-") == len({claim.paper for claim in load_claims().values()})
    assert "commit 0123456789" in entries
    assert entries.count("{") == entries.count("}")
    assert lab("claims", results / "nothing").exit_code == 2


def test_a_new_notebook_runs_and_judges_its_own_claims(tmp_path):
    made = lab("new", "mine", "--folder", tmp_path)
    assert made.exit_code == 0
    notebook = nbformat.read(tmp_path / "mine.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert all(len(cell.source.splitlines()) <= 18 for cell in notebook.cells if cell.cell_type == "code")
    result = lab("run", tmp_path / "mine.ipynb", "-p", "repeats", 3, "--output", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    run = tmp_path / "out" / "mine" / "latest"
    judged = pd.read_csv(run / "tables" / "claims.csv").iloc[0]
    assert (judged["claim_id"], judged["n"]) == ("mine-centroids", 3)
    assert "own_claims mine.toml" in manifest.read(run)["data"]
    whole = (tmp_path / "mine.toml").read_text()
    for text, message in (
        (None, "cannot be read: No such file"),
        ("claim = ", "mine.toml holds no claims: Invalid"),
        (whole.replace("margin = 2\n", ""), "missing 1 required keyword-only argument: 'margin'"),
        (whole.replace('"at_least"', '"at_most"'), "unknown test or grade"),
        (whole + 'awaits = "later"\n', "there is no 'reasons'"),
    ):
        (tmp_path / "mine.toml").unlink()
        if text is not None:
            (tmp_path / "mine.toml").write_text(text)
        refused = lab("run", tmp_path / "mine.ipynb", "--output", tmp_path / "none")
        assert refused.exit_code == 2 and message in refused.stderr and not (tmp_path / "none").exists(), message
        (tmp_path / "mine.toml").write_text(whole)
    again = lab("new", "mine", "--folder", tmp_path)
    assert (again.exit_code, "is there already" in again.stderr) == (2, True)
    assert "cannot name a notebook" in lab("new", "1/x", "--folder", tmp_path).stderr
