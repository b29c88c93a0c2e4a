"""README quotes the reference run: every number of its first table is that run's, to the digits shown."""

import json
import re

import pandas as pd
import pytest

from nngpt_lab.ground.formatting import show_estimate
from nngpt_lab.ground.paths import checkout
from nngpt_lab.statistics.claims import load_claims

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
    rows = [*QUOTED[:3], "C-code-7b", QUOTED[3], "B-cycle-18-mean", *QUOTED[4:], "A-600x", "A-chain-of-thought"]
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


def test_the_replayed_search_is_the_reference_runs():
    folder = REFERENCE / "02_brute_force_to_semantic_insight" / "tables"
    table = pd.read_csv(folder / "replay_needed.csv")
    row = table[(table["n0"] == 50) & (table["target"] == "top 0.1%")].set_index("method")
    ridge, tuned, shuffled = (
        fewer(row.loc[name]) for name in ("ridge regression", "LLM, tuned", "LLM, shuffled pairs")
    )
    quoted = f"evaluates {ridge.replace(' [', ' times fewer [')} than random order, our tuned model {tuned}, "
    assert f"{quoted}tuned on shuffled pairs {shuffled}, {row['seeds'].max()} seeds" in first_screen()
    orders = pd.read_csv(folder / "ordering.csv").set_index(["test", "method"])
    held_out, likelihood = "held-out operations", "LLM, tuned (likelihood)"
    quoted = [(held_out, "ridge regression"), (held_out, likelihood), (held_out, "LLM, untuned (likelihood)")]
    for row in (*quoted, ("only parameters differ", likelihood)):
        value, low, high = (100 * orders.loc[row, f"accuracy{end}"] for end in ("", "_low", "_high"))
        assert f"{value:.1f} % [{low:.1f}, {high:.1f}]" in one_line(), row
    assert f"(noise allows {100 * orders.loc[held_out, 'oracle'].iloc[0]:.1f} %)" in one_line()


def fewer(row: pd.Series) -> str:
    return f"{row['times_fewer']:.1f} [{row['times_fewer_low']:.1f}, {row['times_fewer_high']:.1f}]"


def one_line() -> str:
    return " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())


def test_the_live_loops_difference_is_the_reference_runs():
    table = pd.read_csv(REFERENCE / "02_brute_force_to_semantic_insight" / "tables" / "controls.csv", dtype=str)
    means = table[table["measure"] == "mean"].set_index("control")
    best = table[table["measure"] == "best"].set_index("control")
    assert in_points(means.loc["no tuning"]).replace(" [", " points [") in one_line()
    for quoted in (means.loc["shuffled pairs"], means.loc["random generator"], best.loc["shuffled pairs"]):
        assert in_points(quoted) in one_line() and quoted["method"] == "paired t over seeds" and quoted["n"] == "3"


def test_chain_of_thought_is_the_reference_runs():
    tests = pd.read_csv(REFERENCE / "cot_vs_direct" / "tables" / "paired_tests.csv", dtype=str)
    tests = tests[(tests["tuned"] == "True") & (tests["method"] == "paired t over seeds")]
    rows = tests.rename(columns={"low": "difference_low", "high": "difference_high"}).set_index("measure")
    direct, cot = (
        [f"{100 * float(rows.loc[name, style]):.1f}" for name in ("valid", "new")] for style in ("direct", "cot")
    )
    assert f"{direct[0]} % of the direct answers are valid, {cot[0]} % of those" in first_screen()
    assert f"*new* ones are {direct[1]} and {cot[1]} %" in first_screen()
    for measure in ("valid", "mean"):
        assert in_points(rows.loc[measure]).replace(" [", " points [") in one_line()
    arms = pd.read_csv(REFERENCE / "cot_vs_direct" / "tables" / "arms.csv")
    smol = arms[arms["model"] == "SmolLM2-135M"]
    assert smol["valid"].eq(0).all() and f"no valid answer in {smol['sampled'].sum()}, in either style" in one_line()


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
