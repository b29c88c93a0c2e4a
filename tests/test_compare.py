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
from tests.test_report import browser, needs_chromium, open_page  # noqa: F401


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
    said = {"status": "ok", "profile": "smoke", "seed": 0, "started": "2026-01-01T00:00:00+00:00", "device": "cpu (A)"}
    manifest.write(folder, said | {"parameters": {"cycles": 3, "arms": None, "device": None}} | record)
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    a = leave_run(folder / "nb" / "seed-0", 2.0)
    given = {"cycles": 9, "arms": None, "device": None}
    b = leave_run(folder / "nb" / "seed-0-cycles-9-1f2e3d", 10.0, parameters=given, device="cpu (B)")
    (b / "tables" / "only.csv").write_text("x\n1\n")
    return a, b


def test_parameters_verdicts_and_numbers(two):
    found = compare.compare(*two)
    assert found.parameters.to_numpy().tolist() == [["device", "cpu (A)", "cpu (B)"], ["cycles", 3, 9]]
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
    apart, others = text.partition('id="numbers"')[2].split('id="others"')
    assert "1 of 2 numbers with an interval differ beyond it" in apart
    assert "<td>loop</td>" in apart and "<td>none</td>" not in apart and "<details" not in apart
    assert "<td>none</td>" in others.partition("<details")[2]  # what does not differ is folded away
    assert "Only in <b>b</b>: table only." in text
    assert "default-src &#39;none&#39;" in text
    assert "https://" not in text.partition("</style>")[2].replace("http://www.w3.org", "")


@needs_chromium
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_its_window(two, tmp_path, open_page, width):  # noqa: F811
    """Also where a run's folder has a name of 100 characters that cannot be broken at a blank."""
    long = tmp_path / ("a_name_" * 15)
    long.symlink_to(two[1])
    page = open_page(compare.write_page(compare.compare(two[0], long), tmp_path / "c.html"), width)
    assert page.troubles == [] and page.evaluate("document.documentElement.scrollWidth") <= width
    assert not page.get_by_role("cell", name="none", exact=True).is_visible()


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


def test_where_a_profile_has_no_runs_the_one_that_has_is_named(two, monkeypatch):
    """``run`` makes a smoke run where nothing is said; what reads results looks at demo."""
    root = two[0].parents[2]
    two[0].parents[1].rename(root / "smoke")
    monkeypatch.setattr(paths, "results_root", lambda: root)
    try:
        for command in (["runs"], ["report"], ["prune"], ["compare", "nb/seed-0", "nb"]):
            said = lab(*command)
            assert said.exit_code == 2 and "there are runs of --profile smoke" in said.stderr, command
        assert lab("runs", "--profile", "smoke").exit_code == 0
        assert "there are runs" not in lab("prune", root / "smoke" / "nothing").stderr
    finally:
        (root / "smoke").rename(two[0].parents[1])


def test_the_command(two, tmp_path):
    result = lab("compare", *two, "--html", tmp_path / "c.html")
    assert result.exit_code == 0
    assert "A-x" in result.stdout
    assert "8 [3, 13]" in result.stdout
    assert (tmp_path / "c.html").is_file()
    assert lab("compare", two[0], tmp_path / "nothing").exit_code == 2
    assert lab("runs", tmp_path).exit_code == 2
