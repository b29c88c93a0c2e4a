"""Two runs side by side: which numbers belong together, what their difference is, and how runs are named."""

import json
import math
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from nngpt_lab import compare
from nngpt_lab.ground import paths
from nngpt_lab.ground.errors import UsageError
from nngpt_lab.records import manifest
from nngpt_lab.records.results import Results
from tests.test_cli import lab


def leave_run(folder: Path, value: float, **record) -> Path:
    """A finished run: a claim, a table with an interval, one without, and a figure."""
    results = Results(folder, "smoke")
    claim = {"claim_id": "A-x", "verdict": "reproduced" if value < 5 else "inconclusive"}
    claims = pd.DataFrame([claim | {"our_value": value, "ci_low": value - 3, "ci_high": value + 4}])
    results.table(claims, "claims", "Claims.")
    arms = pd.DataFrame({"arm": ["loop", "none"], "mean": [value, 1.0], "mean_low": [value - 1, 0.5]})
    results.table(arms.assign(mean_high=[value + 1, 1.5], n=[3, 3]), "arms", "Means of the arms.")
    results.table(pd.DataFrame({"cycle": [1, 2, 3], "best": [1.0, value, 2.0]}), "cycles", "The best of each cycle.")
    figure, _ = plt.subplots(figsize=(1, 1))
    results.figure(figure, "curve", "A curve.")
    plt.close(figure)
    said = {"status": "ok", "profile": "smoke", "seed": 0, "started": "2026-01-01T00:00:00+00:00"}
    manifest.write(folder, said | {"parameters": {"cycles": 3, "arms": None}} | record)
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    a = leave_run(folder / "nb" / "seed-0", 2.0)
    b = leave_run(folder / "nb" / "seed-0-cycles-9-1f2e3d", 10.0, parameters={"cycles": 9, "arms": None})
    (b / "tables" / "only.csv").write_text("x\n1\n")
    return a, b


def test_parameters_verdicts_and_numbers(two):
    found = compare.compare(*two)
    assert found.parameters.to_numpy().tolist() == [["cycles", 3, 9]]
    claim = found.verdicts.iloc[0]
    assert (claim["verdict_a"], claim["verdict_b"], claim["difference"]) == ("reproduced", "inconclusive", 8)
    assert (claim["low"], claim["high"]) == (8 - 5, 8 + 5)  # 3 and 4 in quadrature, each way
    numbers = found.numbers.set_index(["table", "row", "number"])
    assert numbers.loc[("arms", "loop", "mean"), "low"] == pytest.approx(8 - math.sqrt(2))
    assert numbers.loc[("arms", "none", "mean"), "difference"] == 0
    assert found.numbers["table"].tolist() == ["arms", "arms", "cycles"]
    assert found.same == 2 + 2 + 3  # n of both arms; two bests; three numbers of cycles
    assert found.only == [("table only", "b")]


def test_a_run_beside_itself_does_not_differ(two):
    found = compare.compare(two[0], two[0])
    assert found.parameters.empty
    assert not found.numbers["difference"].any()
    assert "0 of 2 numbers with intervals differ" in "\n".join(compare.lines(found))


def test_the_interval_of_a_difference_holds_it_in_95_of_100_cases():
    rng, draws = np.random.default_rng(0), 4000
    a, b = rng.normal(1, 2, draws), rng.normal(4, 1, draws)
    reach = 1.96
    ends = [
        compare._difference([x, x - reach * 2, x + reach * 2], [y, y - reach, y + reach])
        for x, y in zip(a, b, strict=True)
    ]
    assert np.mean([low <= 3 <= high for _, low, high in ends]) == pytest.approx(0.95, abs=0.01)


def test_the_page_holds_figures_side_by_side_and_asks_no_network(two, tmp_path):
    text = compare.write_page(compare.compare(*two), tmp_path / "new" / "c.html").read_text("utf-8")
    assert text.count("<img") == 2
    assert "default-src &#39;none&#39;" in text
    assert "https://" not in text.partition("</style>")[2].replace("http://www.w3.org", "")


def test_runs_are_listed_and_named(two, monkeypatch):
    folder = two[0].parents[1]
    listed = lab("runs", folder).stdout
    assert "nb/seed-0" in listed
    assert "cycles 9" in listed
    names = [row["run"] for row in json.loads(lab("runs", folder, "--json").stdout)]
    assert sorted(name.removesuffix(" *") for name in names) == ["nb/seed-0", "nb/seed-0-cycles-9-1f2e3d"]
    assert compare.find_run("nb/seed-0", folder) == two[0]
    assert compare.find_run("nb", folder) in two
    monkeypatch.setattr(paths, "results_root", lambda: folder.parent)
    for name, message in (("nb/seed-9", "did you mean"), (str(folder), "holds no results")):
        with pytest.raises(UsageError, match=message):
            compare.find_run(name, folder)


def test_the_command(two, tmp_path):
    result = lab("compare", *two, "--html", tmp_path / "c.html")
    assert result.exit_code == 0
    assert "A-x" in result.stdout
    assert "8 [3, 13]" in result.stdout
    assert (tmp_path / "c.html").is_file()
    assert lab("compare", two[0], tmp_path / "nothing").exit_code == 2
    assert lab("runs", tmp_path).exit_code == 2
