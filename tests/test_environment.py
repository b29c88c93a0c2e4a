"""environment.yml installs what pyproject.toml asks for, and says why; what the sources import is declared."""

import ast
import json
import os
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from draw_house import imported

from nngpt_lab.cli import cli
from nngpt_lab.ground.paths import checkout

ROOT = checkout()
pytestmark = pytest.mark.skipif(ROOT is None, reason="needs the source checkout")
CONDA_NAMES = {"torch": "pytorch"}  # where conda-forge's name differs
CONDA_ONLY = {"python", "pip"}
COMPARED_WITH = {"ab", "datasets", "trl"}  # other people's code in benchmarks; benchmarks/README.md says how to get it
NEVER_IMPORTED = {
    "bitsandbytes": "transformers loads in 4 bits with it",
    "jupyterlab": "a program",
    "tabulate": "pandas writes Markdown with it",
    "gguf": "transformers reads SmolLM2's file with it",
}
LINE = re.compile(r"^ +- (?P<name>[\w.-]+)(?P<bound>[<>=]=[\w.]+)?  # (?P<reason>.{10,})$")


def conda_lines() -> list[str]:
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    return [line for line in text.partition("dependencies:")[2].splitlines() if line.strip() and "- pip:" not in line]


def conda_bounds() -> dict[str, str]:
    matches = (LINE.match(line) for line in conda_lines() if "-e ." not in line)
    return {match["name"]: match["bound"] or "" for match in matches}


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.mark.parametrize("line", conda_lines() if ROOT else [])
def test_every_line_has_a_reason(line):
    assert re.search(r"\S  # .{10,}", line)


def test_same_packages_with_the_same_lower_bounds():
    asked = dict(re.fullmatch(r"([\w.-]+)(>=[\w.]+)", line).groups() for line in project()["dependencies"])
    wanted = {CONDA_NAMES.get(name, name): bound for name, bound in asked.items()}
    assert {name: bound for name, bound in conda_bounds().items() if name not in CONDA_ONLY} == wanted


def test_same_python():
    assert conda_bounds()["python"] == project()["requires-python"]


def test_installs_the_lab_itself():
    assert conda_lines()[-1].strip().startswith("- -e .")


def test_the_environment_says_that_no_conda_has_solved_it():
    assert "# Not solved by conda: no channel can be reached" in (ROOT / "environment.yml").read_text(encoding="utf-8")


def test_binder_runs_a_command_that_there_is():
    """It is a program: repo2docker refuses one that may not be executed."""
    script = ROOT / "postBuild"
    command = script.read_text(encoding="utf-8").splitlines()[-1].split()
    assert os.access(script, os.X_OK) and command[0] in project()["scripts"] and command[1] in cli.commands


def code_of(file: Path) -> str:
    """A source's Python; of a notebook its code cells without lines for IPython."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".py":
        return text
    cells = ("".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "code")
    return "\n".join(line for cell in cells for line in cell.splitlines() if not line.startswith(("%", "!")))


def imported_distributions(*folders: str) -> dict[str, str]:
    """Which distribution each foreign import of the folders' sources comes from: the lower-case name, and one file."""
    installed = packages_distributions()
    files = [file for folder in folders for file in (ROOT / folder).rglob("*") if file.suffix in (".py", ".ipynb")]
    scripts = (file.stem for folder in ("benchmarks", "docs", "results") for file in (ROOT / folder).glob("*.py"))
    own = {"nngpt_lab", "tests", *scripts}
    names = {}
    for file in files:
        for module, _ in imported(ast.parse(code_of(file))):
            top = module.partition(".")[0]
            if top not in own | COMPARED_WITH | sys.stdlib_module_names:
                names[installed.get(top, [top])[0].lower()] = str(file.relative_to(ROOT))
    return names


def declared(*extras: str) -> set[str]:
    asked = project()["optional-dependencies"]
    lines = project()["dependencies"] + [line for extra in extras for line in asked[extra]]
    return {re.match(r"[\w.-]+", line)[0].lower() for line in lines}


@pytest.mark.parametrize(
    ("folders", "extras"),
    [
        (("nngpt_lab", "notebooks", "docs", "benchmarks"), ("cluster", "docs", "gpu")),
        (("tests",), ("cluster", "docs", "test")),
    ],
)
def test_what_is_imported_is_declared(folders, extras):
    missing = {name: file for name, file in imported_distributions(*folders).items() if name not in declared(*extras)}
    assert not missing, "declare these in pyproject.toml and environment.yml"


def test_what_is_declared_is_imported():
    used = imported_distributions("nngpt_lab", "notebooks").keys()
    assert declared("cluster", "gpu") - used == NEVER_IMPORTED.keys() - used


@pytest.mark.parametrize("line", (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if ROOT else [])
def test_constraints_are_exact_versions(line):
    assert line.startswith("# ") or re.fullmatch(r"[\w.-]+==[\w.]+", line)


def test_constraints_name_everything_the_lab_needs():
    constrained = re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(encoding="utf-8").lower(), re.M)
    assert declared("test", "cluster", "docs") - {"nngpt-lab"} <= set(constrained)
