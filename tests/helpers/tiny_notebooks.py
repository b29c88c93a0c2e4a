"""Notebooks of a few lines, for what runs notebooks; and what is said where one is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
import pytest

from nngpt_lab import runner
from nngpt_lab.ground.errors import UsageError

HEADER = 'profile = "smoke"\nseed = 0\noutput = ""\n'
LAB = [sys.executable, "-m", "nngpt_lab"]
WRITES_A_TABLE = """
from pathlib import Path
table = Path(output, "tables", "t.csv")
table.parent.mkdir(exist_ok=True)
table.write_text(f"{profile},{seed}")
"""


def write_notebook(path: Path, *cells: str, parameters: str = "", header: str = HEADER) -> Path:
    """A notebook with a parameters cell and the given code cells."""
    first = nbformat.v4.new_code_cell(header + parameters, metadata={"tags": ["parameters"]})
    notebook = nbformat.v4.new_notebook(cells=[first, *map(nbformat.v4.new_code_cell, cells)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, path)
    return path


def run_notebook(notebook: Path, *arguments, **options) -> runner.RunOutcome:
    return runner.run_notebooks([notebook], *arguments, **options)[0]


def counting(counter: Path) -> str:
    """A cell that leaves one line for each time it is executed."""
    return f"with open({str(counter)!r}, 'a') as file: file.write('x\\n')"


def times(counter: Path) -> int:
    return len(counter.read_text().split()) if counter.exists() else 0


def refused(*notebooks: Path, output, **options) -> str:
    with pytest.raises(UsageError) as error:
        runner.run_notebooks(notebooks, output=output, **options)
    return str(error.value)
