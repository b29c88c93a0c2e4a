"""What a wheel installs works without a checkout: its notebooks, its templates, and the reference's tables."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile

import pytest

from nngpt_lab.ground.paths import checkout
from nngpt_lab.sandbox import parent

ROOT = checkout()
pytestmark = pytest.mark.skipif(ROOT is None, reason="needs the source checkout")
ASK = """
import json
from nngpt_lab import registry
from nngpt_lab.cli import find_notebook
from nngpt_lab.ground import paths
tables = paths.reference_folder() / "demo" / "01_memorization_to_creativity" / "tables"
print(json.dumps([
    paths.checkout() is None,
    find_notebook("00").is_relative_to(paths.PACKAGE),
    (tables / "cycles_pooled.csv").is_file(),
    int((registry.claims().verdict != "not yet run").sum()),
]))
"""
COMMANDS = """
from nngpt_lab.cli import cli
for line in ("new mine", "run mine.ipynb", "report --profile smoke", "runs --profile smoke"):
    print("-----")
    cli.main(line.split(), standalone_mode=False)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A wheel, built and unpacked, and an environment in which Python finds it first."""
    place = tmp_path_factory.mktemp("wheel")
    build = "import sys; from hatchling.build import build_wheel; build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(place)], cwd=ROOT, check=True, capture_output=True, timeout=120)
    zipfile.ZipFile(next(place.glob("*.whl"))).extractall(place / "site")
    (place / "work").mkdir()

    def run(*arguments):
        environment = os.environ | {"PYTHONPATH": str(place / "site")}
        done = subprocess.run([sys.executable, *arguments], cwd=place / "work", env=environment, capture_output=True,
                              text=True, timeout=300)  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run, place


def test_it_knows_its_notebooks_and_the_reference_without_a_checkout(installed):
    no_checkout, own_notebook, table, judged = json.loads(installed[0]("-c", ASK))
    assert no_checkout and own_notebook and table and judged > 10
    assert (installed[1] / "site" / parent.NO_DRIVER.relative_to(ROOT) / "libcuda.so.1").is_file()


def test_a_notebook_runs_from_it_and_its_results_land_where_one_stands(installed):
    run, place = installed
    _, _, ran, reported, listed = run("-c", COMMANDS).split("-----")
    assert "ok  mine" in ran and "report" in reported and "mine" in listed
    folder = place / "work" / "results" / "smoke" / "mine" / "seed-0"
    record = json.loads((folder / "manifest.json").read_text())
    assert record["status"] == "ok" and record["commit"] is None
    assert (folder.parents[1] / "index.html").is_file()
