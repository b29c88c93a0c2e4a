"""Builds the site: executed notebooks, claims, replication notes, how things are made, and the API, to read from disk.

    python docs/make_site.py [--pdf] [--output build/site]

Pages come from ``docs/``, from ``results/reference/`` and from docstrings; no notebook is run. Those in ``docs/site/``
are templates: what they say in numbers is looked up in the reference runs' tables while the site is built. A reference
without ``executed.ipynb``, as those of before it was kept, becomes a page of its captions, tables and figures.
``--pdf`` prints the replication notes with the Chromium that is there.
"""

from __future__ import annotations

import argparse
import html
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Container
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
import nbformat
import numpy as np
import pandas as pd
from draw_house import FLOOR, FLOORS, modules, room_of
from nbformat.v4 import new_markdown_cell

from nngpt_lab.ground.formatting import bracketed, format_column, show, show_estimate, words
from nngpt_lab.report import Section, graded, opening, read_csv
from nngpt_lab.statistics.claims import BOUNDS, VERDICTS, adjusted, load_claims, load_facts
from nngpt_lab.statistics.intervals import Estimate

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "results" / "reference"
COPIED = ("CHANGELOG.md", "CONTRIBUTING.md", "docs/*.md", "docs/house.*")
ROWS_SHOWN = 15  # of each table of a reference without its notebook; the whole of it is one link away
NOT_HERE = "(not in these runs)"  # what a note says where no reference run has the number


@dataclass(frozen=True)
class Run:
    """One reference run: a folder ``results/reference/<profile>/<notebook>``."""

    folder: Path

    @property
    def place(self) -> str:
        return f"{self.folder.parent.name}/{self.folder.name}"

    @cached_property
    def record(self) -> dict[str, Any]:
        return json.loads((self.folder / "manifest.json").read_text(encoding="utf-8"))

    @cached_property
    def contents(self) -> dict[str, dict[str, dict[str, Any]]]:
        return json.loads((self.folder / "contents.json").read_text(encoding="utf-8"))

    @cached_property
    def notebook(self) -> nbformat.NotebookNode:
        """As it was executed; as it stands in ``notebooks/`` today where that was not kept."""
        kept = self.folder / "executed.ipynb"
        return nbformat.read(kept if kept.exists() else ROOT / self.record["notebook"], as_version=4)

    @property
    def executed(self) -> bool:
        return (self.folder / "executed.ipynb").exists()

    @property
    def title(self) -> str:
        return opening(self.notebook)[0]

    def table(self, name: str) -> pd.DataFrame:
        """A table, every cell as it was written; a table without rows if the run has none of this name."""
        file = self.folder / "tables" / f"{name}.csv"
        return read_csv(file) if file.exists() else pd.DataFrame()

    @property
    def provenance(self) -> str:
        """Commit, machine and parameters in two sentences, and where the files are."""
        section = Section(self.place, "", "", "", record=self.record)
        given = ", ".join(f"`{key}={value}`" for key, value in self.record["parameters"].items()
                          if value not in (None, ""))  # fmt: skip
        return f"*{', '.join(text for text, _ in section.provenance)}.* {f'Parameters: {given}.' if given else ''}"


# --- claims ----------------------------------------------------------------------------------------------------------


def judged(runs: list[Run]) -> list[dict[str, Any]]:
    """Every registered claim: a row for each run that measured it, judged by today's rule, else one with the reason."""
    known, rows = load_claims(), {}
    for run in runs:
        table = run.table("claims")
        if "margin" not in table:  # made before this claim was split in two, whose other half keeps the name
            table = table.replace({"B-first-epoch-guide": "B-first-epoch-architecture"})
        found = {row["claim_id"]: row for row in table.to_dict("records") if row.get("claim_id") in known}
        for paper in sorted({known[key].paper for key in found}):
            family = [(key, claim, estimate(found.get(key))) for key, claim in known.items() if claim.paper == paper]
            verdicts = adjusted([(claim, ours) for _, claim, ours in family])
            for (key, claim, ours), (word, _) in zip(family, verdicts, strict=True):
                if ours is not None:
                    measured = claim_row(claim, word, found[key]) | {"run": run, "table": origin(run, found[key])}
                    rows.setdefault(key, []).append(measured)
    for key, claim in known.items():
        rows.setdefault(key, [claim_row(claim, "not yet run" if claim.awaits else "not tested")])
    told = (row for key in known for row in rows[key])
    return sorted(told, key=lambda row: (not row["ours"], row["paper"]))


def estimate(row: dict[str, str] | None) -> Estimate | None:
    if row is None or not row["our_value"]:
        return None
    return Estimate(*(float(row[key] or "nan") for key in ("our_value", "ci_low", "ci_high")), int(float(row["n"])))


def claim_row(claim: Any, verdict: str, row: dict[str, str] | None = None) -> dict[str, Any]:
    """What the page and the notes show of a claim."""
    unit = claim.unit
    claimed = BOUNDS.get(claim.test, "") + show(str(claim.value), unit)
    shown = vars(claim) | {
        "grade": graded(vars(claim)),
        "claimed": claimed,
        "verdict": verdict,
        "ours": "",
        "run": None,
    }
    if row is None:
        return shown | {"note": " ".join([claim.reason, claim.note]).strip()}
    value, interval = show_estimate(row["our_value"], row["ci_low"], row["ci_high"], unit)
    ours = f"{value} [{interval.replace(' to ', ', ')}]" if interval else value
    earlier = "" if row["claim"] == claim.claim else f" The run judged it in an earlier wording: “{row['claim']}”."
    return shown | {"ours": ours, "measured": show(row["n"]), "note": f"{row['note']}{earlier}".strip()}


def origin(run: Run, row: dict[str, str]) -> str:
    """The table of the run that holds the claim's number and interval, as they are or as shares; else its claims."""
    wanted = [float(row[key]) for key in ("our_value", "ci_low", "ci_high") if row[key]]
    for name in run.contents["tables"]:
        numbers = run.table(name).apply(pd.to_numeric, errors="coerce").to_numpy(float)
        for scale in (1, 100):
            hits = [np.isclose(scale * numbers, value, rtol=1e-9, atol=0).any(axis=1) for value in wanted]
            if name != "claims" and np.logical_and.reduce(hits).any():
                return name
    return "claims"


# --- pages -----------------------------------------------------------------------------------------------------------


def add_run(run: Run, source: Path) -> None:
    """The run's page in ``source``: its executed notebook, or what was kept of an older one."""
    page = source / "notebooks" / run.place
    page.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(run.folder / "figures", page / "figures", ignore=shutil.ignore_patterns("*.svg"))
    if run.executed:
        nbformat.write(readable(run), page.with_suffix(".ipynb"))
        return
    title, lead = opening(run.notebook)
    parts = [f"# {title}", lead, run.provenance]
    parts.append("This run is older than the keeping of executed notebooks: these are its tables and figures. "
                 "The text around them is today's and may differ in detail.")  # fmt: skip
    for name, item in run.contents["figures"].items():
        parts.append(f"## {words(name)}\n\n![{words(name)}]({page.name}/figures/{name}.png)\n\n{item['caption']}")
    for name, item in run.contents["tables"].items():
        parts.append(f"## Table: {words(name).lower()}\n\n{item['caption']}\n\n{raw(table_html(run, name))}")
    page.with_suffix(".md").write_text("\n\n".join(parts), encoding="utf-8")


def raw(text: str) -> str:
    return f"```{{raw}} html\n{text}\n```"


def anchor(name: str) -> str:
    return f'<span id="table-{name}"></span>'


def table_html(run: Run, name: str) -> str:
    """The first rows of a table, numbers rounded column by column, and a link to all of it."""
    frame = run.table(name)
    digits = run.contents["tables"][name].get("digits")
    columns = [format_column(list(frame[column].head(ROWS_SHOWN)), digits) for column in frame]
    heads = "".join(f"<th>{html.escape(words(str(column)).lower())}</th>" for column in frame)
    rows = zip(*(cells for _, cells in columns), strict=True)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    shown = f"{min(ROWS_SHOWN, len(frame))} of {len(frame):,} rows; all of them: "
    link = f'<a href="../../reference/{run.place}/tables/{name}.csv">{name}.csv</a>'
    table = f'<table class="lab"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>'
    return f'{anchor(name)}<div class="wide" tabindex="0">{table}</div><p class="more">{shown}{link}</p>'


def readable(run: Run) -> nbformat.NotebookNode:
    """The executed notebook for the site: no scripts, PNG alone of pictures, an anchor before each table's cell, and
    its parts below its title where it has any."""

    def linked(found: re.Match) -> str:
        """A link to another notebook, if that one has a page here; else its text."""
        pages = list(run.folder.parent.glob(f"{Path(found[2]).name}/contents.json"))
        return f'<a href="{Path(found[2]).name}.html">{found[1]}</a>' if pages else found[1]

    notebook, cells = run.notebook, []
    waiting = dict.fromkeys(run.contents["tables"])
    parts = any(cell.source.startswith("# ") for cell in notebook.cells[1:] if cell.cell_type == "markdown")
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            safe = {"image/png", "text/html", "text/markdown", "text/plain"}
            for kind in list(data):
                if kind not in safe or (kind == "text/html" and "<script" in data[kind]):
                    del data[kind]
        if cell.cell_type == "code" and "results." in cell.source:
            here = [name for name in waiting if f'"{name}"' in cell.source]
            cells += [new_markdown_cell("".join(map(anchor, here)))] if here else []
            for name in here:
                del waiting[name]
        if cell.cell_type == "markdown":
            if parts and cell is not notebook.cells[0]:
                cell.source = re.sub(r"^(#+ )", r"#\1", cell.source, flags=re.MULTILINE)
            cell.source = re.sub(r"\[([^\]]*)\]\(([^)]*)\.ipynb\)", linked, cell.source)
            cell.source = re.sub(r"\]\((?:\.\./)+docs/(\w+)\.md\)", r"](../../docs/\1.md)", cell.source)
        cells.append(cell)
    cells.insert(1, new_markdown_cell(run.provenance + "".join(map(anchor, waiting))))
    notebook.cells = cells
    return notebook


def on_site(text: str) -> str:
    """A page of ``docs/`` whose links into the repository lead to the site's pages, or become plain text."""
    text = re.sub(r"\]\(\.\./results/reference/([^)]*\.png)\)", r"](../notebooks/\1)", text)
    table = r"\[([^]]*)\]\(\.\./results/reference/(\w+/\w+)/tables/(\w+)\.md\)"
    text = re.sub(table, r'<a href="../notebooks/\2.html#table-\3">\1</a>', text)
    return re.sub(r"\[([^]]*)\]\(\.\./(?:results|nngpt_lab|benchmarks|tests)/[^)]*\)", r"\1", text)


def add_api(source: Path, only: Container[str]) -> None:
    """A page for each room of the house (or some only), each of its modules with what its docstrings say."""
    rooms: dict[str, list[str]] = {}
    for name in sorted(modules()):
        if (room := room_of(name)) and room in only and not name.endswith("__main__"):
            rooms.setdefault("command line" if room in FLOORS[0] else room, []).append(name)
    (source / "api").mkdir()
    for room, names in rooms.items():
        parts = [f"{room}\n{'=' * len(room)}"]
        for name in names:
            title = f"nngpt_lab.{name}"
            parts.append(f"{title}\n{'-' * len(title)}\n\n.. automodule:: {title}")
        (source / "api" / f"{room}.rst").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


# --- numbers in templates --------------------------------------------------------------------------------------------


def template_values(runs: list[Run]) -> dict[str, Any]:
    """What the pages in ``docs/site/`` may name: runs, claims, and functions that look a number up."""
    by_name = {run.folder.name: run for run in runs}  # of a notebook that ran at several profiles the last
    claims = judged(runs)
    by_id = {row["id"]: row for row in claims}

    def number(table: str, column: str, unit: str = "", scale: float = 1, digits: str = ".1f", **where: str) -> str:
        """A number with its interval, if its table has one: ``notebook/table``, column, and cells that name the row."""
        notebook, _, name = table.partition("/")
        frame = by_name[notebook].table(name) if notebook in by_name else pd.DataFrame()
        for key, wanted in where.items():
            frame = frame[frame[key] == wanted] if key in frame else frame.head(0)
        if column not in frame or len(frame) != 1 or not (row := frame.iloc[0])[column]:
            return NOT_HERE
        ends = [row.get(f"{column}_{end}", "") for end in ("low", "high")]
        value, *interval = (scale * float(text) for text in (row[column], *ends) if text)
        return bracketed(value, *interval, unit, digits) if len(interval) == 2 else f"{value:{digits}}{unit}"

    return {
        "runs": runs, "by_name": by_name, "claims": claims, "claim": by_id, "facts": load_facts(), "number": number,
        "verdicts": VERDICTS, "show": show, "fallback": NOT_HERE,
    }  # fmt: skip


def render(source: Path, runs: list[Run]) -> None:
    folder = ROOT / "docs" / "site"
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(folder), undefined=jinja2.StrictUndefined,
                                     trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    values = template_values(runs)
    for file in sorted(folder.rglob("*.md")):
        name = file.relative_to(folder).as_posix()
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(environment.get_template(name).render(values), encoding="utf-8")


def build(output: Path, reference: Path = REFERENCE, rooms: Container[str] = FLOOR) -> Path:
    """Build the site in ``output``, an empty folder or an older site, from the runs in ``reference``; its first page.

    ``rooms``: those whose API is shown; all of them take most of the time, since all of the lab must be imported.
    """
    runs = [Run(file.parent) for file in sorted(reference.glob("*/*/contents.json"))]
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary) / "source"
        for file in (file for pattern in COPIED for file in ROOT.glob(pattern)):
            (source / file.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, source / file.relative_to(ROOT))
        findings = source / "docs" / "findings.md"
        findings.write_text(on_site(findings.read_text(encoding="utf-8")), encoding="utf-8")
        for run in runs:
            add_run(run, source)
        add_api(source, rooms)
        render(source, runs)
        command = [sys.executable, "-m", "sphinx", "-b", "html", "-q", "-W", "--keep-going", "-c", ROOT / "docs"]
        subprocess.run([*command, "-d", Path(temporary) / "doctrees", source, output], check=True)
    for run in runs:
        tables = output / "reference" / run.place / "tables"
        shutil.copytree(run.folder / "tables", tables, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.md"))
    return output / "index.html"


def print_notes(output: Path) -> None:
    """Each replication note as PDF beside its page."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        raise SystemExit("--pdf needs Chromium or Chrome, and there is none; the site itself is built")
    for page in sorted((output / "notes").glob("*.html")):
        printed = f"--print-to-pdf={page.with_suffix('.pdf')}"
        subprocess.run([browser, "--headless", "--no-sandbox", "--no-pdf-header-footer", printed, page.as_uri()],
                       check=True, capture_output=True)  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "site")
    parser.add_argument("--pdf", action="store_true", help="print the replication notes as PDF, too")
    arguments = parser.parse_args()
    first = build(arguments.output.resolve())
    if arguments.pdf:
        print_notes(first.parent)
    print(f"open {first}")
