"""What all benchmarks share: calls that are timed, ways that take turns, and how a result is written down.

A result names the machine, the versions and the command that made it, because its numbers mean little elsewhere; what
travels is the ratio between rows of one run. It holds no date and no path, so that a repetition changes only numbers.

    from common import write_result  # Python puts a script's own folder on its path
"""

from __future__ import annotations

import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import pandas as pd

from nngpt_lab.records import manifest

RESULTS = Path(__file__).parent / "results"
Name, Result = TypeVar("Name"), TypeVar("Result")


def timed(call: Callable[[], Result]) -> tuple[float, Result]:
    """How many seconds a call takes, and what it returns."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def in_turns(ways: Mapping[Name, Callable[[], Result]], repetitions: int) -> dict[Name, list[Result]]:
    """What each way returned, by name; the ways take turns, so that a slow minute of the machine meets them all."""
    results: dict[Name, list[Result]] = {name: [] for name in ways}
    for _ in range(repetitions):
        for name, way in ways.items():
            results[name].append(way())
    return results


def rate_table(who: str, unit: str, rates: Mapping[str, Sequence[float]]) -> pd.DataFrame:
    """One row per way: the median of its rates, the extremes, and how many times the first way's median it is."""
    medians = {name: statistics.median(values) for name, values in rates.items()}
    first = next(iter(medians.values()))
    rows = [
        {who: name, unit: f"{medians[name]:,.0f}", "lowest, highest": f"{min(values):,.0f}, {max(values):,.0f}",
         "times the first": f"{medians[name] / first:.2f}"}
        for name, values in rates.items()
    ]  # fmt: skip
    return pd.DataFrame(rows)


def write_result(
    title: str, tables: Mapping[str, pd.DataFrame], notes: Iterable[str], packages: Iterable[str], name: str = ""
) -> None:
    """Write ``results/<name>.md`` and print it; the name left out is the script's.

    Args:
        title: the heading.
        tables: by their headings; the index is not shown.
        notes: sentences below the tables: how it was measured, what it does not show.
        packages: installed packages whose versions matter here, beside Python's.
    """
    parts = [f"# {title}"]
    for heading, table in tables.items():
        parts += [f"## {heading}", table.to_markdown(index=False)]
    parts += ["\n".join(f"* {note}" for note in notes), _circumstances(packages)]
    text = "\n".join(f"{part}\n" for part in parts)
    text = manifest.without_machine_paths(text, RESULTS)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name or Path(sys.argv[0]).stem}.md").write_text(text, encoding="utf-8")
    print(text)


def _circumstances(packages: Iterable[str]) -> str:
    """Machine, versions and command line, one line each."""
    machine = manifest.hardware()
    versions = {"python": platform.python_version()} | manifest.package_versions(packages)
    listed = ", ".join(f"{name} {version or '(missing)'}" for name, version in versions.items())
    command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    return (
        f"Machine: {machine['device']}, {machine['cores']} cores, {machine['memory_gib']} GiB  \n"
        f"Versions: {listed}  \nCommand: `{command}`  "
    )
