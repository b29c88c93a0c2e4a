"""environment.yml installs what pyproject.toml asks for, and says why."""

import re
import tomllib

import pytest

from nngpt_lab.ground.paths import checkout

ROOT = checkout()
pytestmark = pytest.mark.skipif(ROOT is None, reason="needs the source checkout")
CONDA_NAMES = {"torch": "pytorch"}  # where conda-forge's name differs
CONDA_ONLY = {"python", "pip"}
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
