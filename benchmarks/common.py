"""What all benchmarks share: ways that take turns, and how a result is written down.

A result names the machine, the versions and the command that made it, because its numbers mean little elsewhere; what
travels is the ratio between rows of one run. It holds no date and no path, so that a repetition changes only numbers.

    from common import write_result  # Python puts a script's own folder on its path
"""

from __future__ import annotations

import platform
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import pandas as pd

from nngpt_lab.records import manifest

RESULTS = Path(__file__).parent / "results"
Name, Result = TypeVar("Name"), TypeVar("Result")


def in_turns(ways: Mapping[Name, Callable[[], Result]], repetitions: int) -> dict[Name, list[Result]]:
    """What each way returned, by name; the ways take turns, so that a slow minute of the machine meets them all."""
    results: dict[Name, list[Result]] = {name: [] for name in ways}
    for _ in range(repetitions):
        for name, way in ways.items():
            results[name].append(way())
    return results


def write_result(
    name: str,
    title: str,
    table: pd.DataFrame | Mapping[str, pd.DataFrame],
    notes: str | Iterable[str] = (),
    *,
    packages: Iterable[str] = ("numpy",),
) -> None:
    """Write ``results/<name>.md`` and print it.

    Args:
        name: file name without its suffix, as a rule the script's own.
        title: the heading.
        table: one table, or several by their headings; the index is not shown.
        notes: sentences below the tables: how it was measured, what it does not show.
        packages: installed packages whose versions matter here, beside Python's.
    """
    tables = {"": table} if isinstance(table, pd.DataFrame) else dict(table)
    parts = [f"# {title}"]
    for heading, rows in tables.items():
        parts += [f"## {heading}"] if heading else []
        parts += [rows.to_markdown(index=False)]
    parts += [notes if isinstance(notes, str) else "\n".join(f"* {note}" for note in notes)]
    parts += [_circumstances(packages)]
    text = "\n".join(f"{part}\n" for part in parts if part)
    text = manifest.without_machine_paths(text, RESULTS)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")
    print(text)


def _circumstances(packages: Iterable[str]) -> str:
    """Machine, versions and command line, one line each."""
    machine = manifest.hardware()
    versions = {"python": platform.python_version()} | manifest.package_versions(packages)
    command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    lines = {
        "Machine": f"{machine['device']}, {machine['cores']} cores, {machine['memory_gib']} GiB",
        "Versions": ", ".join(f"{name} {version or '(missing)'}" for name, version in versions.items()),
        "Command": f"`{command}`",
    }
    return "\n".join(f"{name}: {value}  " for name, value in lines.items())
