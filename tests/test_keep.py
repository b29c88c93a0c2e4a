"""What a finished run keeps as the reference: the texts, statuses and scores behind its numbers."""

from __future__ import annotations

import hashlib
import json

import pandas as pd
import pytest

from nngpt_lab.candidates.ledger import Ledger
from nngpt_lab.candidates.outcome import Candidate, Kind
from nngpt_lab.corpora import architectures, augmentations
from nngpt_lab.ground.paths import checkout
from nngpt_lab.sandbox.status import Status

if checkout() is None:
    pytest.skip("needs the source checkout", allow_module_level=True)
import keep


@pytest.fixture
def run(tmp_path):
    """A finished run with a table, a figure, two samples and paper C's answers."""
    run = tmp_path / "demo" / "my_notebook" / "seed-0"
    files = {"tables/t.csv": "a\n1\n", "tables/t.md": "a" * 400_000, "figures/f.svg": "<svg/>", "contents.json": "{}"}
    for name, text in (files | {"executed.ipynb": "{}"}).items():
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(text)
    with Ledger(run / "ledger.sqlite") as ledger:
        for position, text in enumerate(("class Net: pass", "nothing")):
            ledger.add_sample("loop-seed-0 cycle 01", position, Candidate(text, Kind.ARCHITECTURE, text), Status.OK, "")
    answers = pd.DataFrame({"question": [7], "swapped": [False], "log_odds": [0.5], "text": ["svhn"]})
    (run / "datasets" / "nano-coder-code").mkdir(parents=True)
    answers.to_parquet(run / "datasets" / "nano-coder-code" / "answers-03.parquet")
    outputs = {name: hashlib.sha256((run / name).read_bytes()).hexdigest() for name in (*files, "executed.ipynb")}
    record = {"status": "ok", "dirty": False, "profile": "demo", "notebook": "notebooks/my_notebook.ipynb"}
    (run / "manifest.json").write_text(json.dumps(record | {"outputs": outputs}))
    return run


def test_texts_statuses_and_answers_are_kept(run, tmp_path):
    kept = keep.keep(run, tmp_path / "reference")
    assert kept == tmp_path / "reference" / "demo" / "my_notebook"
    assert {file.name for file in kept.iterdir()} == {*keep.PARTS, "samples.parquet", "answers.parquet"}
    samples, answers = (pd.read_parquet(kept / f"{name}.parquet") for name in ("samples", "answers"))
    assert samples["text"].to_list() == ["class Net: pass", "nothing"] and samples["status"].to_list() == ["ok", "ok"]
    assert answers[["run", "file", "question"]].iloc[0].to_list() == ["nano-coder-code", "answers-03", 7]
    assert (kept / "tables" / "t.csv").exists() and not (kept / "tables" / "t.md").exists()  # too long to be read


def change(run, **values):
    record = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps(record | values))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda run: change(run, status="incomplete"), "ended 'incomplete'"),
        (lambda run: change(run, dirty=True), "not that of a commit"),
        (lambda run: (run / "tables" / "t.csv").write_text("a\n2\n"), "t.csv is not what"),
        (lambda run: (run / "manifest.json").unlink(), "has not ended"),
    ],
)
def test_what_may_not_be_kept_leaves_the_old_reference_alone(run, tmp_path, spoil, said):
    before = keep.keep(run, tmp_path / "reference")
    spoil(run)
    with pytest.raises(SystemExit, match=said):
        keep.keep(run, tmp_path / "reference")
    assert (before / "tables" / "t.csv").read_text() == "a\n1\n"


def test_a_run_too_large_to_commit_is_refused_and_names_its_files(run, tmp_path, monkeypatch):
    monkeypatch.setattr(keep, "MOST_OF_A_FILE", 3)
    with pytest.raises(SystemExit, match="too much to commit"):
        keep.keep(run, tmp_path / "reference")
    assert list((tmp_path / "reference" / "demo").iterdir()) == []


def test_a_newer_run_replaces_the_older_one_whole(run, tmp_path):
    place = keep.keep(run, tmp_path / "reference")
    (place / "tables" / "gone.csv").write_text("")
    assert keep.keep(run, tmp_path / "reference") == place and not (place / "tables" / "gone.csv").exists()


def test_code_of_others_is_kept_by_its_hash_alone(run, tmp_path, monkeypatch):
    monkeypatch.setattr(keep, "PUBLISHED", ("my_notebook",))
    kept = pd.read_parquet(keep.keep(run, tmp_path / "reference") / "samples.parquet")
    assert "text" not in kept and kept["code_hash"].notna().all()


def test_no_text_of_the_published_corpora_is_committed():
    functions = augmentations.load()
    tables = (architectures.load().architectures, functions.brute_force, functions.llm)
    published = {code_hash for table in tables for code_hash in table["code_hash"]}
    for file in sorted(keep.REFERENCE.glob("*/*/samples.parquet")):
        kept = pd.read_parquet(file)
        assert "text" not in kept or not published & set(kept["code_hash"]), file


def test_readme_names_the_command_of_every_run_that_is_kept():
    readme = keep.README.read_text(encoding="utf-8")
    assert keep.with_commands(readme) == readme, (
        "results/README.md is older than a manifest: python results/keep.py writes it"
    )


def test_command_leaves_out_defaults_and_only_these(tmp_path):
    run = tmp_path / "demo" / "from_text_to_score"
    run.mkdir(parents=True)
    given = {"isolation": "minimum", "workers": None, "networks": 720, "parameters": 500_000, "corpus": None}
    record = {"notebook": "notebooks/walkthroughs/from_text_to_score.ipynb", "profile": "demo", "seed": 3}
    record |= {"seconds": 61, "commit": "abc" * 9, "parameters": given | {"protocol": "a b", "gone": 1}}
    (run / "manifest.json").write_text(json.dumps(record))
    table = keep.with_commands(f"before {keep.BEGIN} an older table {keep.END} after", tmp_path)
    command = "--profile demo --seed 3 -p networks 720 -p corpus none -p protocol 'a b' -p gone 1"
    assert f"| `demo/from_text_to_score` | `walkthroughs/from_text_to_score {command}` | abcabca | 2 |" in table
    assert table.startswith("before ") and table.endswith(" after") and "older" not in table
