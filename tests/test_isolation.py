"""Isolation fails closed: below the minimum no candidate is run, what is recorded is shown, and everything says so."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest

from nngpt_lab import report, runner
from nngpt_lab.candidates import pool
from nngpt_lab.candidates.ledger import Ledger, isolation_in
from nngpt_lab.candidates.outcome import Candidate, Kind, Outcome
from nngpt_lab.ground import isolation
from nngpt_lab.ground.errors import UsageError
from nngpt_lab.ground.isolation import MINIMUM, IsolationError
from nngpt_lab.papers.architecture_loop import claims as paper_claims
from nngpt_lab.records import manifest, not_run
from nngpt_lab.sandbox import confine
from nngpt_lab.sandbox.child import layers
from nngpt_lab.sandbox.parent import Sandbox
from nngpt_lab.sandbox.status import Status
from nngpt_lab.statistics.claims import claims_table
from tests.helpers.light_recipe import LightRecipe

ALL = layers({"namespaces": True, "landlock": 7, "seccomp": True})
NEEDED = sorted({layer for needed in MINIMUM.values() for layer in needed})


@pytest.fixture(autouse=True)
def as_chosen(monkeypatch):
    """What a test chooses, the next one does not find."""
    monkeypatch.setenv(isolation.VARIABLE, "minimum")


# --- the minimum ----------------------------------------------------------------------------------------------------


def test_the_minimum_are_layers_that_a_sandbox_has():
    assert set(NEEDED) <= set(ALL) and isolation.lacking(ALL) == []
    isolation.require(ALL)
    assert isolation.described(ALL) == f"isolation: {len(ALL)} layers"


@pytest.mark.parametrize("layer", NEEDED)
def test_each_of_them_is_needed_unless_the_user_says_weak(layer):
    held = [name for name in ALL if name != layer]
    with pytest.raises(IsolationError, match=rf"cannot keep a candidate from .*{layer}.*\n.*--isolation weak"):
        isolation.require(held)
    isolation.choose("weak")
    isolation.require(held)
    assert isolation.described(held).startswith("weak isolation: candidates were not kept from ")
    isolation.choose("minimum")
    with pytest.raises(IsolationError):
        isolation.require(held)


def test_a_misspelt_choice_changes_nothing(monkeypatch):
    with pytest.raises(UsageError, match="did you mean 'weak'"):
        isolation.choose("week")
    assert not isolation.is_weak()
    monkeypatch.setenv(isolation.VARIABLE, "1")
    assert not isolation.is_weak()


# --- nothing runs below it ------------------------------------------------------------------------------------------


@pytest.mark.skipif(not confine.LINUX, reason="elsewhere there is nothing to take away")
def test_a_sandbox_below_it_runs_nothing(tmp_path):
    mark = tmp_path / "ran"
    payload = {"code": f"open({str(mark)!r}, 'w')\nvalue = 1"}
    with Sandbox(setup="tests.helpers.attack_task", namespaces=False) as sandbox:
        with pytest.raises(
            IsolationError, match=r"the network \(network namespace\), other processes \(pid namespace\)"
        ):
            sandbox.run("execute", payload)
        assert not mark.exists()
        isolation.choose("weak")
        assert sandbox.run("execute", {"code": "value = 1"}).value == 1


def test_a_pool_below_it_is_not_opened_and_says_weak_if_it_is(monkeypatch, caplog):
    monkeypatch.setattr(pool, "layers_here", lambda: ("resource limits",))
    with pytest.raises(IsolationError):
        pool.open_pool(LightRecipe(), 1)
    isolation.choose("weak")
    pool.open_pool(LightRecipe(), 1).close()
    assert [record.levelname for record in caplog.records] == ["WARNING"] and "weak isolation" in caplog.text


# --- what every run states ------------------------------------------------------------------------------------------


def filed(path: Path, *confined: tuple[str, ...]) -> Path:
    """A ledger with an outcome confined by each of these."""
    with Ledger(path) as ledger:
        ledger.add_protocol("p", {"name": "p"})
        for number, held in enumerate(confined):
            outcome = Outcome(Status.OK, 0.5, seed=number, protocol_hash="p", isolation=held)
            ledger.add_outcome(Candidate("", "pass", Kind.ARCHITECTURE), outcome)
    return path


def test_a_ledger_says_what_confined_all_of_its_candidates(tmp_path):
    assert isolation_in(tmp_path / "none.sqlite") is None and not list(tmp_path.iterdir())
    assert isolation_in(filed(tmp_path / "empty.sqlite")) is None
    assert isolation_in(filed(tmp_path / "one.sqlite", ("a", "b"))) == ["a", "b"]
    mixed = filed(tmp_path / "mixed.sqlite", tuple(ALL), ("resource limits",), ())
    assert isolation_in(mixed) == ["resource limits"], "one weak candidate makes a weak run; () was not run at all"


CELLS = """\
from pathlib import Path
from nngpt_lab.ground.isolation import IsolationError
from nngpt_lab.records.results import open_results
results = open_results("made_up", profile, output, None, isolation)
kept, best = 1, "of the published ones"
def loop():
    if isolation != "weak":
        raise IsolationError("isolation: this machine cannot keep a candidate from the network", "say weak")
    return 3
---
best = loop()
---
more = best + 1
---
Path(output, "later").write_text(str(kept))
---
import pandas as pd
claims = pd.DataFrame({"claim": ["not tested"], "n": [int(results.not_run)]})
results.table(claims, "loop", "What was run.")
"""


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    parameters = 'profile: str = "smoke"\nseed: int = 0\noutput: str = ""\nisolation: str = "minimum"'
    cells = [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    cells += [nbformat.v4.new_code_cell(text.strip()) for text in CELLS.split("---")]
    path = tmp_path_factory.mktemp("notebooks") / "made_up.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def test_a_notebook_goes_on_without_its_loop_and_says_so(notebook, tmp_path):
    (outcome,) = runner.run_notebooks([notebook], output=tmp_path)
    folder = outcome.job.folder
    assert (outcome.status, outcome.error) == ("incomplete", None)
    told = "\n".join(outcome.lines())
    assert "incomplete  made_up" in told and "not run: cells 4, 5: isolation" in told and "cure: say weak" in told
    record = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert record["status"] == "incomplete" and list(record["not_run"]) == ["4", "5"]
    executed = nbformat.read(folder / manifest.EXECUTED, as_version=4)
    shown = [
        "".join(output.get("data", {}).get("text/markdown", "") for output in cell.outputs) for cell in executed.cells
    ]
    assert "Not run: isolation" in shown[3] and "Cure: say weak" in shown[3] and "needs `best`" in shown[4]
    assert (folder / "later").exists() and (folder / "tables" / "loop.csv").read_text().split() == [
        "claim,n",
        "not",
        "tested,1",
    ]
    page = report.build_report(tmp_path).read_text(encoding="utf-8")
    assert "Not run: isolation" in page and "This notebook failed" not in page
    assert not manifest.is_current(folder, record["fingerprint"]), "where it can be run, it is not up to date"


def test_a_weak_run_is_whole_and_carries_a_banner(notebook, tmp_path):
    (outcome,) = runner.run_notebooks([notebook], output=tmp_path, parameters={"isolation": "weak"})
    assert outcome.status == "ok" and outcome.not_run == {}
    assert "Weak isolation" not in report.build_report(tmp_path).read_text(encoding="utf-8")
    filed(outcome.job.folder / "ledger.sqlite", ("resource limits",))
    assert "Weak isolation: candidates were not kept from files" in report.build_report(tmp_path).read_text("utf-8")


def test_other_errors_are_shown_as_ever(capsys):
    from IPython.core.interactiveshell import InteractiveShell

    shell, noted = InteractiveShell(), []
    guard = not_run.NotRun(shell, lambda cell, why: noted.append(why["line"]))
    shell.set_custom_exc((IsolationError, NameError), guard.handle)
    shell.events.register("post_run_cell", guard.after_cell)
    shell.user_ns |= {"IsolationError": IsolationError, "a": 1}
    assert shell.run_cell("a = b = 2; raise IsolationError('isolation: no', 'none')").success
    assert shell.run_cell("c = a").success and noted == [
        "a = b = 2; raise IsolationError('isolation: no', 'none')",
        "c = a",
    ]
    for code in ("undefined", "def f():\n    return g\nf()", "1 / 0", "import math\nmath.a"):
        assert not shell.run_cell(code).success
    assert shell.run_cell("a = 1\na").success and shell.run_cell("b = a").success, "made after all"
    assert len(noted) == 2 and "NameError" in capsys.readouterr().out


def test_claims_of_a_loop_that_was_not_run_wait_for_it():
    said = paper_claims.not_run("The loop was not run here: isolation.")
    pooled = {"B-cycle-1-valid", "B-mean-accuracy", "B-peak-valid", "B-novel-total"}
    assert pooled <= set(said)
    counted = ("B-first-epoch-guide", "B-first-epoch-architecture")
    guide = {claim: paper_claims.Measured(paper_claims.Estimate(0.5, 0.4, 0.6, 10)) for claim in counted}
    table = claims_table("B", guide | said).set_index("claim_id")
    assert (table.loc[list(said), "verdict"] == "not yet run").all()
    assert table.loc[list(said), "note"].str.contains("not run here: isolation").all()
