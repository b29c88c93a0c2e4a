"""A claim stood in claims.toml, test, margin and n included, before the run that judged it."""

from __future__ import annotations

import json
import subprocess
import tomllib

import pandas as pd
import pytest

from nngpt_lab.ground.paths import checkout
from nngpt_lab.statistics.claims import REGISTERED, UNTESTED, WAITING

ROOT = checkout()
RUNS = sorted(ROOT.glob("results/reference/*/*/tables/claims.csv")) if ROOT else []
pytestmark = pytest.mark.skipif(not RUNS, reason="needs the source checkout")


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this checkout has no such history: {done.stderr.strip()[:80]}")
    return done.stdout


def registered_at(commit: str) -> dict[str, dict]:
    """Every claim of that commit's files, as they stand there."""
    files = [name for name in git("ls-tree", "-r", "--name-only", commit).split() if name.endswith("claims.toml")]
    rows = [row for name in files for row in tomllib.loads(git("show", f"{commit}:{name}"))["claim"]]
    return {row["id"]: row | {"paper_value": row["value"]} for row in rows}


@pytest.mark.parametrize("file", RUNS, ids=[file.parents[1].name for file in RUNS])
def test_each_judged_claim_is_the_one_registered_at_the_commit_of_its_run(file):
    commit = json.loads((file.parents[1] / "manifest.json").read_text())["commit"]
    registered, table = registered_at(commit), pd.read_csv(file).set_index("claim_id")
    judged = table[~table["verdict"].isin([WAITING, UNTESTED])]
    columns = [column for column in REGISTERED if column in table]  # margins are younger than some runs
    assert len(judged) and len(columns) >= 4
    for key, row in judged.iterrows():
        there = {column: registered[key][column] for column in columns}
        assert row[columns].fillna("").to_dict() == there, key
