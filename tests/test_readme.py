"""README quotes the reference run: every number of its first table is that run's, to the digits shown."""

import json
import re

import pandas as pd
import pytest

from nngpt_lab.analysis.claims import load_claims
from nngpt_lab.formatting import show_estimate
from nngpt_lab.paths import checkout

ROOT = checkout()
pytestmark = pytest.mark.skipif(ROOT is None, reason="needs the source checkout")
REFERENCE = ROOT / "results" / "reference" / "demo" if ROOT else None
QUOTED = ("C-chance", "C-code-signal", "C-code-signal-unseen", "B-first-epoch-guide", "A-semantic-cues")


def first_screen() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8").partition("```")[0]


def reference_claims() -> pd.DataFrame:
    files = sorted(REFERENCE.glob("*/tables/claims.csv"))
    return pd.concat([pd.read_csv(file, dtype=str) for file in files]).set_index("claim_id")


@pytest.mark.parametrize("claim", QUOTED)
def test_quoted_number_is_the_reference_runs(claim):
    row = reference_claims().loc[claim]
    value, interval = show_estimate(row["our_value"], row["ci_low"], row["ci_high"])
    quoted = f"{value}% [{interval.replace(' to ', ', ')}]"
    # README may say % or points between value and interval
    plain = re.sub(r"\s*(?:%|points)?\s*\[", "% [", first_screen())
    assert quoted in plain, f"README's first screen does not say {quoted} for {claim}"


def test_quoted_verdicts_are_the_reference_runs():
    claims = reference_claims()
    said = re.findall(r"\*\*(reproduced|not reproduced|inconclusive|not tested)\*\*", first_screen())
    rows = [*QUOTED[:3], "C-code-7b", QUOTED[3], "B-cycle-18-mean", *QUOTED[4:], "A-600x"]
    assert said == list(claims.loc[rows, "verdict"])


def test_what_a_language_model_reads_in_code_is_the_reference_runs():
    table = pd.read_csv(REFERENCE / "03_code_to_prediction" / "tables" / "code_signal.csv")
    row = table[table["prompt"] == "code"].iloc[0]
    accuracy = f"{row['accuracy']:.1f} % [{row['low']:.1f}, {row['high']:.1f}] of {row['n']} answers"
    assert accuracy in first_screen() and f"{row['control']:.1f} %, too" in first_screen()
    assert row["verdict"] == "not tested at this scale"


def test_the_loops_difference_is_the_reference_runs():
    table = pd.read_csv(REFERENCE / "01_memorization_to_creativity" / "tables" / "controls.csv", dtype=str)
    for control in ("no tuning", "shuffled scores"):
        row = table[(table["control"] == control) & (table["measure"] == "mean")].iloc[0]
        assert f"{in_points(row).replace(' [', ' points [')}" in first_screen()
        assert row["method"] == "paired t over seeds" and f"{row['n']} seeds" in first_screen()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for control, measure in (("no tuning", "valid"), ("shuffled scores", "valid"), ("no tuning", "best"),
                             ("shuffled scores", "best")):  # fmt: skip
        row = table[(table["control"] == control) & (table["measure"] == measure)].iloc[0]
        assert in_points(row).replace(" [", " points [") in readme or in_points(row) in readme, (control, measure)


def in_points(row: pd.Series) -> str:
    """A difference as README writes it, ``+2.2 [-7.9, 12.4]``."""
    value, low, high = (100 * float(row[name]) for name in ("difference", "difference_low", "difference_high"))
    return f"{value:+.1f} [{low:.1f}, {high:.1f}]"


def test_what_is_left_without_the_code_is_the_reference_runs():
    table = pd.read_csv(REFERENCE / "03_code_to_prediction" / "tables" / "input_ablations.csv")
    found = table[table["split"] == "published"].set_index("condition")
    plain, other, none, masked = (
        found.loc[name] for name in ("as asked", "another network", "no code", "names masked")
    )
    quoted = f"{plain['accuracy']:.1f} % [{plain['accuracy_low']:.1f}, {plain['accuracy_high']:.1f}] from code, "
    quoted += f"{other['accuracy']:.1f} % from another network's code, {none['accuracy']:.1f} % from none; "
    assert f"{quoted}with the names masked {masked['accuracy']:.1f} %" in first_screen()


def test_reference_manifests_name_a_clean_commit():
    for file in sorted(REFERENCE.glob("*/manifest.json")):
        manifest = json.loads(file.read_text())
        assert manifest["status"] == "ok" and manifest["commit"] and manifest["dirty"] is False, file.parent.name


def test_reference_covers_every_claim():
    assert set(reference_claims().index) == set(load_claims())


def test_first_screen_has_the_two_commands_and_a_figure_that_exists():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "python -m pip install -e . && nngpt-lab demo" in readme
    assert 'python -m pip install -e ".[test]" && python -m pytest' in readme
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", readme):
        assert (ROOT / link).exists(), link


def test_the_example_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)[1]
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.count("Status.OK") == 3
