"""Two runs side by side: what differs in how they were made, in their verdicts, their numbers and their figures.

The interval of a difference is that of two independent estimates (Zou & Donner 2008: the ends' distances, added in
quadrature). Runs on the same published data are not independent: it is then too wide, never too narrow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from nngpt_lab.ground import paths
from nngpt_lab.ground.errors import UsageError
from nngpt_lab.ground.formatting import bracketed, present, show, slug
from nngpt_lab.ground.names import did_you_mean
from nngpt_lab.records import manifest, run_folders
from nngpt_lab.report import Section, page, read_contents, read_csv, read_figure, write

SAID = ("notebook", "profile", "seed", "status", "commit", "device", "started", "seconds")  # of a manifest
INTERVALS = (("{}_low", "{}_high"), ("ci_low", "ci_high"), ("low", "high"))  # how tables call the ends of a column
NUMBERS = ["table", "row", "number", "a", "b", "difference", "low", "high"]
VERDICTS = ["claim_id", "verdict_a", "verdict_b", "ours_a", "ours_b", "difference", "low", "high"]


@dataclass(frozen=True)
class Comparison:
    """What two runs have in common and apart.

    Attributes:
        a, b: the run folders.
        parameters: columns setting, a, b; those that differ.
        verdicts: columns :data:`VERDICTS`, a claim a row; ``difference`` is b minus a, nan where one was not measured.
        numbers: columns :data:`NUMBERS`, of all tables but the claims: numbers that differ, and all that have an
            interval (``low`` and ``high`` are nan where there is none).
        same: how many numbers without an interval are equal.
        only: tables and figures that only one of the runs has, with which.
    """

    a: Path
    b: Path
    parameters: pd.DataFrame
    verdicts: pd.DataFrame
    numbers: pd.DataFrame
    same: int
    only: list[tuple[str, str]]


def all_runs(folder: Path) -> pd.DataFrame:
    """Every run below a results folder: columns run (its name for :func:`find_run`), status, started, seconds, and
    what was given that is not the notebook's own."""
    rows = []
    for notebook in run_folders.notebooks(folder):
        newest = run_folders.latest(notebook)
        for run in run_folders.runs(notebook) or ([notebook] if (notebook / manifest.FILENAME).is_file() else []):
            record = manifest.read(run) or {}
            given = {key: value for key, value in record.get("parameters", {}).items() if value not in (None, "")}
            name = run.relative_to(folder).as_posix() + " *" * (run == newest)
            started = str(record.get("started", ""))[:16].replace("T", " ")
            told = ", ".join(f"{key} {value}" for key, value in given.items())
            rows.append((name, run_folders.status(run), started, str(record.get("seconds", "")), told))
    return pd.DataFrame(rows, columns=["run", "status", "started", "seconds", "parameters"])


def find_run(name: str, folder: Path) -> Path:
    """The folder of a run: a path, or its name below ``folder``; of a notebook's folder the latest run. UsageError
    where there is none, or nothing was left there."""
    given = [Path(name).expanduser(), folder / name, paths.results_root() / name]
    there = next((path.resolve() for path in given if path.is_dir()), None)
    if there is None:
        known = [run.removesuffix(" *") for run in all_runs(folder)["run"]]
        cure = f"{did_you_mean(name, known)}`nngpt-lab runs` lists those of {manifest.display(folder)}"
        raise UsageError(f"there is no run {name!r}", cure + run_folders.elsewhere(folder))
    run = there if (there / "tables").is_dir() else run_folders.latest(there)
    if run is None or not (run / "tables").is_dir():
        raise UsageError(f"{manifest.display(there)} holds no results of a run", "name the folder of a run")
    return run


def compare(a: Path, b: Path) -> Comparison:
    """Read both runs; nothing is written."""
    mine, other = ({path.stem: path for path in (run / "tables").glob("*.csv")} for run in (a, b))
    tables = [(name, _read(mine[name]), _read(other[name])) for name in sorted(mine.keys() & other.keys() - {"claims"})]
    numbers: list[list] = []
    same = 0
    for name, first, second in tables:
        rows, equal = _numbers(name, first, second)
        numbers, same = numbers + rows, same + equal
    claims = _verdicts(*(_read(run / "tables" / "claims.csv") for run in (a, b)))
    figures = [{path.stem for path in (run / "figures").glob("*.png")} for run in (a, b)]
    only = [(f"table {name}", "a" if name in mine else "b") for name in sorted(mine.keys() ^ other.keys())]
    only += [(f"figure {name}", "a" if name in figures[0] else "b") for name in sorted(figures[0] ^ figures[1])]
    return Comparison(a, b, _parameters(a, b), claims, pd.DataFrame(numbers, columns=NUMBERS), same, only)


def _read(path: Path) -> pd.DataFrame:
    return read_csv(path) if path.is_file() else pd.DataFrame()


def _parameters(a: Path, b: Path) -> pd.DataFrame:
    records = [manifest.read(run) or {} for run in (a, b)]
    said: list[dict[str, Any]] = [  # a parameter that is called like what the manifest says, as device, says less
        record.get("parameters", {}) | {name: record.get(name) for name in SAID} for record in records
    ]
    names = list(dict.fromkeys([*SAID, *said[0], *said[1]]))
    for one in said:
        one["commit"] = (one["commit"] or "")[:10] or None
    rows = [(name, said[0].get(name), said[1].get(name)) for name in names]
    return pd.DataFrame([row for row in rows if row[1] != row[2]], columns=["setting", "a", "b"])


def _verdicts(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """Claims of either run, in their order."""
    first, second = (table.set_index("claim_id").to_dict("index") if len(table) else {} for table in (a, b))
    rows = []
    for claim in dict.fromkeys([*first, *second]):
        ours, theirs = first.get(claim, {}), second.get(claim, {})
        cells = [[_float(one.get(key)) for key in ("our_value", "ci_low", "ci_high")] for one in (ours, theirs)]
        words = [one.get("verdict", "(none)").removesuffix(" at this scale") for one in (ours, theirs)]
        rows.append([claim, *words, *(_shown(*each) for each in cells), *_difference(*cells)])
    return pd.DataFrame(rows, columns=VERDICTS)


def _numbers(table: str, a: pd.DataFrame, b: pd.DataFrame) -> tuple[list[list], int]:
    """Rows of :data:`NUMBERS`, and how many numbers without an interval are equal. Rows of the two tables belong
    together if they agree in all that is no number, or, where that does not tell them apart, in their place, too."""
    columns = [name for name in a if name in b]
    numeric = [name for name in columns if all(_is_numeric(part[name]) for part in (a, b))]
    keys = [name for name in columns if name not in numeric]
    ends = {name: pair for name in numeric if (pair := _ends(name, numeric))}
    others = {end for pair in ends.values() for end in pair}
    first, second = (dict(_keyed(part, keys)) for part in (a, b))
    rows, same = [], 0
    for key in [key for key in first if key in second]:
        for name in numeric:
            if name in others:
                continue
            pair = ends.get(name)
            cells = [[_float(row[column]) for column in (name, *(pair or ()))] for row in (first[key], second[key])]
            equal = cells[0][0] == cells[1][0] or all(math.isnan(cell[0]) for cell in cells)
            if equal and not pair:
                same += 1
            elif not all(math.isnan(cell[0]) for cell in cells):
                filled = [cell if pair else [cell[0], math.nan, math.nan] for cell in cells]
                label = ", ".join(part for part in key if part)
                rows.append([table, label, name, cells[0][0], cells[1][0], *_difference(*filled)])
    return rows, same


def _keyed(table: pd.DataFrame, keys: list[str]):
    """Each row's name in its table, and the row; a place is part of the name where the rest tells no row apart."""
    seen: dict[tuple, int] = {}
    for row in table.to_dict("records"):
        key = tuple(row[name] for name in keys)
        seen[key] = seen.get(key, 0) + 1
        yield (*key, f"#{seen[key]}" if seen[key] > 1 or not keys else ""), row


def _is_numeric(column: pd.Series) -> bool:
    cells = [cell for cell in column if present(cell)]
    return bool(cells) and all(not math.isnan(_float(cell)) for cell in cells)


def _ends(name: str, columns: list[str]) -> tuple[str, str] | None:
    """The columns that hold a number's interval. Ends without a name of their own are those of the column before."""
    for low, high in INTERVALS:
        pair = low.format(name), high.format(name)
        if set(pair) <= set(columns) and ("{}" in low or columns.index(pair[0]) == columns.index(name) + 1):
            return pair
    return None


def _float(text: Any) -> float:
    try:
        return float(text)
    except (TypeError, ValueError):
        return math.nan


def _difference(a: list[float], b: list[float]) -> tuple[float, float, float]:
    """b minus a, and its interval, from value, low and high of each."""
    value = b[0] - a[0]
    low = value - math.hypot(b[0] - b[1], a[2] - a[0])
    return value, low, value + math.hypot(b[2] - b[0], a[0] - a[1])


def _shown(value: float, low: float, high: float) -> str:
    if math.isnan(value):
        return ""
    return show(str(value)) if math.isnan(low) else f"{show(str(value))} [{show(str(low))}, {show(str(high))}]"


def lines(found: Comparison, most: int = 30) -> list[str]:
    """For a terminal: parameters and verdicts, then numbers whose interval excludes zero, ``most`` of them at most."""
    said = [f"a  {manifest.display(found.a)}", f"b  {manifest.display(found.b)}", ""]
    said += aligned(found.parameters.fillna("not given"), "no parameter differs")
    said += ["", *aligned(_readable(found.verdicts), "no claims")]
    apart, tested, _ = _parted(found.numbers)
    said += ["", f"{len(apart)} of {tested} numbers with intervals differ beyond them (unadjusted for their number)"]
    said += aligned(_readable(apart.head(most)), "")
    said += [f"... and {len(apart) - most} more, in the HTML"] * (len(apart) > most)
    plain = len(found.numbers) - tested
    said += ["", f"of numbers without an interval {plain:,} differ, {found.same:,} are equal"]
    return said + [f"only in {which}: {', '.join(names)}" for which, names in _only(found).items()]


def _parted(numbers: pd.DataFrame) -> tuple[pd.DataFrame, int, pd.DataFrame]:
    """The numbers that differ beyond their interval, how many have one, and the others."""
    beyond = (numbers["low"] > 0) | (numbers["high"] < 0)
    return numbers[beyond], int(numbers["low"].notna().sum()), numbers[~beyond]


def _only(found: Comparison) -> dict[str, list[str]]:
    """What only one of the runs has, by the run's letter."""
    return {letter: own for letter in "ab" if (own := [what for what, which in found.only if which == letter])}


def aligned(table: pd.DataFrame, otherwise: str = "") -> list[str]:
    """A table as lines of text; ``otherwise`` where it is empty."""
    if table.empty:
        return [otherwise] * bool(otherwise)
    return table.fillna("").astype(str).to_markdown(index=False, tablefmt="plain", disable_numparse=True).splitlines()


def _readable(table: pd.DataFrame) -> pd.DataFrame:
    """The same with numbers to four digits and the difference with its interval in one column."""
    shown = table.drop(columns=["difference", "low", "high"]).map(lambda cell: show(str(cell)) if cell == cell else "")
    cells = table[["difference", "low", "high"]].itertuples(index=False)
    return shown.assign(difference=[_told(*cell) for cell in cells])


def _told(value: float, low: float, high: float) -> str:
    if math.isnan(value):
        return ""
    return show(str(value)) if math.isnan(low) else bracketed(value, low, high, digits=".4g")


def write_page(found: Comparison, file: Path) -> Path:
    """The same as one HTML page that stands alone, with the runs' figures side by side; returns its path. UsageError
    where it cannot be written."""
    pairs: dict[str, list] = {}
    for which, run in (("a", found.a), ("b", found.b)):
        section = Section(which, which, manifest.display(run), which)
        for kind, name, said in read_contents(run, section):
            if kind == "figures" and (run / "figures" / f"{name}.png").is_file():
                pairs.setdefault(name, [None, None])["ab".index(which)] = read_figure(
                    run, section, name, said["caption"]
                )
    apart, tested, others = _parted(found.numbers)
    beyond = f"{len(apart):,} of {tested:,} numbers with an interval differ beyond it (unadjusted for their number)"
    tables = {
        "parameters": ("What was given differently", found.parameters.fillna("not given").astype(str)),
        "verdicts": ("Verdicts; difference: b minus a", _readable(found.verdicts)),
        "numbers": (f"{beyond}; difference: b minus a", _readable(apart)),
        "others": (f"The other {len(others):,}: numbers that differ, or have an interval", _readable(others)),
    }
    names = [manifest.display(run) for run in (found.a, found.b)]
    only = _only(found)
    text = page("compare.html.j2", names=names, tables=tables, pairs=pairs, only=only, same=found.same, slug=slug)
    file.parent.mkdir(parents=True, exist_ok=True)
    return write(file, text)
