"""Starting is cheap: the package and its command line import nothing heavy."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "pandas", "papermill", "matplotlib", "psutil")


def loaded_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["nngpt_lab", "nngpt_lab.cli"])
def test_the_command_line_imports_nothing_heavy(module):
    assert not loaded_after(f"import {module}") & set(HEAVY)


@pytest.mark.parametrize("module", ["corpora", "corpora.artifacts", "runner", "records.manifest", "doctor"])
def test_no_module_below_the_notebooks_imports_torch(module):
    assert not loaded_after(f"import nngpt_lab.{module}") & {"torch", "transformers"}


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["demo", "--help"]])
def test_help_imports_nothing_heavy(arguments):
    call = f"from nngpt_lab.cli import cli; cli({arguments!r}, standalone_mode=False)"
    loaded = loaded_after(call)
    assert "click" in loaded
    assert not loaded & set(HEAVY)


def test_python_dash_m_is_the_command():
    done = subprocess.run([sys.executable, "-m", "nngpt_lab", "--help"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0
    for verb in ("demo", "run", "fetch", "report", "doctor", "Exit codes"):
        assert verb in done.stdout
