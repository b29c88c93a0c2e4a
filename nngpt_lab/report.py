"""``results/<profile>/`` as one HTML page: what was found and what the papers claim first, then each notebook without
its code: text, tables and figures in its own order.

The page carries its figures, style and script in itself and asks no network: its content security policy allows no
request, and no script but its own, whatever a notebook's output holds. The same results give the same bytes.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import logging
import re
import struct
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from nngpt_lab.candidates.ledger import isolation_in
from nngpt_lab.ground import paths
from nngpt_lab.ground.errors import UsageError
from nngpt_lab.ground.formatting import format_column, number, present, show, show_estimate, slug, words
from nngpt_lab.ground.isolation import described, lacking
from nngpt_lab.records import manifest, run_folders
from nngpt_lab.records.profiles import PROFILES
from nngpt_lab.records.results import PNG_DPI
from nngpt_lab.registry import PAPERS
from nngpt_lab.statistics.claims import BOUNDS, DECIDED, UNTESTED, VERDICTS, WAITING, load_claims

SIGNS = dict(zip(VERDICTS, "✓✗≠0?…–", strict=True))  # in the page's order
UNJUDGED = (WAITING, UNTESTED)
FINDINGS = 2  # on each paper, at most
SIGNS_OF_TESTS = BOUNDS | {"at_most": "≤ "}  # the last in old tables
FILES_SHOWN = 5  # of those that are not as the manifest says; a reference run lacks hundreds
ROWS_SHOWN = 12  # of each table; the whole of it is one link away
LARGEST_SVG = 400_000  # bytes; a figure of many thousand points is smaller, and faster to show, as PNG
# What is shown of a manifest, whichever version wrote it
SHOWN = {"commit", "device", "dirty", "profile", "python", "seconds", "seed", "started", "status"}
BANNER = "papermill-error-cell-tag"  # of a cell that papermill adds
FOLDER_MARKS = ("contents.json", "manifest.json", "executed.ipynb", "tables", "figures")  # any of them: a notebook's


@dataclass
class Item:
    """Text of a notebook (``html``), or a figure (``src``) or table (``columns``, ``rows``) with its caption and files;
    ``label`` numbers these."""

    anchor: str = ""
    words: str = ""
    caption: str = ""
    links: list[tuple[str, str]] = field(default_factory=list)
    label: str = ""
    html: str = ""
    src: str = ""
    width: int = 0
    height: int = 0
    columns: list[tuple[str, str]] = field(default_factory=list)
    rows: list[list[tuple[str, str]]] = field(default_factory=list)
    total: int = 0


@dataclass
class Section:
    """One notebook's run: what it says about itself, its text, figures and tables, and what is wrong with it.
    ``address``: of its folder, as seen from the report; ``headings``: anchor and words."""

    name: str
    anchor: str
    address: str
    title: str
    record: dict[str, Any] | None = None
    problems: list[str] = field(default_factory=list)
    parts: list[Item] = field(default_factory=list)
    headings: list[tuple[str, str]] = field(default_factory=list)
    links: list[tuple[str, str]] = field(default_factory=list)

    @property
    def figures(self) -> list[Item]:
        return [part for part in self.parts if part.src]

    @property
    def short(self) -> str:
        """The title without its subtitle."""
        return re.split(r": | — | – ", self.title)[0]

    @property
    def failed(self) -> bool:
        record = self.record or {"status": "ok"}  # a loop that was not run has not failed
        return record["status"] not in ("ok", "incomplete") or self.incomplete

    @property
    def incomplete(self) -> bool:
        """Whether it went to its end, but without some figures or tables."""
        record = self.record or {}
        return record.get("status") == "incomplete" and bool(record.get("failures"))

    @property
    def error(self) -> str:
        """What went wrong in a failed notebook (:attr:`failed`), and in which cells, where those had numbers."""
        record = self.record or {}
        if not (errors := record.get("failures") or [error for error in [record.get("error")] if error]):
            return "The manifest does not say what stopped it."
        return "\n\n".join(
            f"{error['type']}: {error['message']}"
            + (f"\nin cell [{error['cell']}]: {error['line']}" if error["cell"] is not None else "")
            for error in errors
        )

    @property
    def warnings(self) -> list[dict[str, Any]]:
        """Cell and first line of what the notebook wrote to stderr; none in a manifest of before they were recorded."""
        return (self.record or {}).get("warnings", [])

    @property
    def notice(self) -> str:
        """What a reader of the claims table must know about the numbers of this notebook; mostly nothing."""
        if self.incomplete:
            return "some of its figures or tables failed."
        if self.failed:
            return "this notebook failed; its claims may be missing or come from part of the run."
        by_hand = "run by hand, no manifest vouches for its numbers."
        return by_hand if self.record is None else " ".join(self.problems)

    @property
    def provenance(self) -> list[tuple[str, bool]]:
        """The manifest in one line: texts, each with whether it is a warning."""
        record = self.record
        if record is None:
            return []
        commit = (f"commit {record['commit'][:10]}" if record["commit"] else "commit unknown", False)
        dirty = [("with uncommitted changes", True)] if record["dirty"] else []
        started = record["started"][:16].replace("T", " ") + " UTC"  # runner.py writes ISO 8601
        machine = [started, f"{record['seconds']:,.0f} s", f"profile {record['profile']}"]
        machine += [f"seed {record['seed']}", record["device"], f"Python {record['python']}"]
        return [commit, *dirty, *((text, False) for text in machine), *made_in(record.get("calls", []))]


def made_in(calls: Sequence[Mapping[str, Any]]) -> list[tuple[str, bool]]:
    """What a reader must know of a run that several calls made (``manifest.note_call``), a warning if their code was
    not the same; nothing of one call."""
    if len(calls) < 2:
        return []
    commits = list(dict.fromkeys(str(call["commit"])[:10] for call in calls))
    machines = list(dict.fromkeys(call["device"] for call in calls))
    parts = [f"{name} {', '.join(each)}" for name, each in (("of", commits), ("on", machines)) if len(each) > 1]
    return [(" ".join([f"in {len(calls)} calls", *parts]), len({call["code_sha256"] for call in calls}) > 1)]


def build_report(folder: Path) -> Path:
    """Write ``index.html`` in ``folder``, and ``executed.html`` beside each notebook there; return the former's path.

    Of a notebook's runs in a results folder (``results/<profile>``) the latest is shown; a folder with one run's files
    in itself, as earlier versions left them, is shown as it is. UsageError: nothing to report there, or no permission
    to write there.
    """
    folder = Path(folder)
    shown = {notebook: run_folders.latest(notebook) or notebook for notebook in run_folders.notebooks(folder)}
    places = {run: notebook for notebook, run in shown.items() if any((run / mark).exists() for mark in FOLDER_MARKS)}
    if not places:
        cure = "run `nngpt-lab demo` first, or name a results folder"
        raise UsageError(f"there are no results in {manifest.display(folder)}", cure + run_folders.elsewhere(folder))
    sections = [read_section(run, notebook) for run, notebook in places.items()]
    count: Counter[str] = Counter()
    for item in (part for section in sections for part in section.parts if not part.html):
        count[kind := "Figure" if item.src else "Table"] += 1
        item.label = f"{kind} {count[kind]}"
    claims = [claim for place, section in zip(places, sections, strict=True) for claim in read_claims(place, section)]
    papers, counts = sorted({claim["paper"] for claim in claims} - {""}), Counter(claim["verdict"] for claim in claims)
    profiles = sorted({str(section.record["profile"]) for section in sections if section.record})
    profile = ", ".join(profiles) or folder.resolve().name
    text = page(
        "report.html.j2",
        sections=sections,
        claims=sorted(claims, key=lambda claim: not claim["tested"]),  # tested first, else as the notebooks say
        tested=sum(claim["tested"] for claim in claims),
        counts=counts,
        unjudged=UNJUDGED,
        verdicts=[*SIGNS, *sorted(set(counts) - set(SIGNS))],
        papers={paper: PAPERS[paper][1].partition(":")[0] if paper in PAPERS else "" for paper in papers},
        findings=[finding(paper, claims, sections) for paper in papers],
        published=PAPERS,
        profile=profile,
        purpose=PROFILES[profile].purpose if profile in PROFILES else "",
    )
    return write(folder / "index.html", text)


def finding(paper: str, claims: list[dict[str, Any]], sections: list[Section]) -> dict[str, Any]:
    """Of a paper the claims that are decided most firmly (the smallest p after Holm), each with a figure of its own;
    where none is decided, the first that was judged. The figure is the one that ``claims.toml`` names; the notebook's
    first for a claim that none is named for."""
    known, here = load_claims(), {section.anchor: section.figures for section in sections}
    of_paper = [each for each in claims if each["paper"] == paper]
    judged = [each for each in of_paper if each["tested"] and each["ours"][1]]
    decided = [each for each in judged if each["verdict"] in DECIDED]
    chosen: list[tuple[dict[str, Any], Item | None]] = []
    for claim in sorted(decided, key=p_value) or judged[:1]:
        name = words(known[claim["claim_id"]].figure) if claim["claim_id"] in known else ""
        figure = next((each for each in here[claim["section"]] if each.words == name or not name), None)
        if len(chosen) < FINDINGS and figure not in [other for _, other in chosen]:
            chosen.append((claim, figure))
    return {"paper": paper, "claims": of_paper, "chosen": chosen}


def p_value(claim: dict[str, Any]) -> float:
    """After Holm; 1 where none was computed."""
    return value if (value := number(claim["p_holm"])) is not None else 1.0


# --- one notebook's folder ---------------------------------------------------------------------------------------


def read_section(folder: Path, notebook: Path) -> Section:
    """Everything of one notebook's run but its claims; writes its ``executed.html`` on the way."""
    title, address = words(re.sub(r"^\d+[_-]", "", notebook.name)), folder.relative_to(notebook.parent).as_posix()
    section = Section(notebook.name, slug(notebook.name), address, title)
    section.record = manifest.read(folder)
    if section.record is None and (folder / manifest.FILENAME).exists():
        section.problems.append("manifest.json cannot be read.")
    elif section.record is not None and (missing := sorted(SHOWN - section.record.keys())):
        section.record = None
        section.problems.append(f"manifest.json lacks {', '.join(missing)}, so it is left out: run the notebook again.")
    changed = manifest.changed_files(folder, section.record or {})
    gone = [name for name in changed if not (folder / name).exists()]  # a reference keeps no ledgers, say
    altered = sorted({*changed} - {*gone})
    for what, names in (("Changed since the run", altered), ("Not here, though the run wrote them", gone)):
        more = f" and {len(names) - FILES_SHOWN} more" if len(names) > FILES_SHOWN else ""
        if names:
            section.problems.append(f"{what}: {', '.join(names[:FILES_SHOWN])}{more}.")
    began = str((manifest.read(folder) or {}).get("started", ""))
    for run in run_folders.runs(notebook):
        later = manifest.read(run) or {}
        if later.get("status") == "failed" and str(later.get("started", "")) > began:
            section.problems.append(f"A later run failed: {run.name}.")
    section.problems += isolation_problems(folder, section.record or {})
    cells, items = read_notebook(folder, section), {}
    for kind, name, said in read_contents(folder, section):
        try:
            if kind == "figures":
                items[kind, name] = read_figure(folder, section, name, said["caption"])
            elif name != "claims":  # they are the page's first table
                items[kind, name] = read_table(folder, section, name, said)
        except (OSError, ValueError, struct.error) as error:
            section.problems.append(f"{kind}/{name} cannot be shown ({type(error).__name__}).")
    section.parts = in_order(section, cells, items)
    section.links += existing(folder, section, {"claims.csv": "tables/claims.csv", "manifest.json": manifest.FILENAME})
    return section


def isolation_problems(folder: Path, record: dict[str, Any]) -> list[str]:
    """What a reader must know of how candidates were confined: that they were not as they should be, or not run."""
    layers = record.get("isolation") or isolation_in(folder / manifest.LEDGER)
    problems = [f"{described(layers).capitalize()}."] if layers is not None and lacking(layers) else []
    for why in list(manifest.not_run(folder).values())[:1]:
        problems.append(f"Not run: {why['cause']}. Cure: {why['cure']}.")
    return problems


def read_notebook(folder: Path, section: Section) -> list[Any]:
    """The executed notebook's cells, none where it cannot be read; it is also written as a page of its own, and gives
    the section its title."""
    import nbformat

    path = folder / "executed.ipynb"
    if not path.is_file():
        section.problems.append("There is no executed notebook here.")
        return []
    try:
        notebook = nbformat.read(path, as_version=4)
    except Exception as error:  # nbformat raises whatever its JSON and its schema raise
        section.problems.append(f"executed.ipynb cannot be read ({type(error).__name__}).")
        return []
    section.title = opening(notebook)[0] or section.title
    body = notebook_body(notebook)
    back = "../" * (section.address.count("/") + 1) + f"index.html#{section.anchor}"
    write(folder / "executed.html", page("executed.html.j2", title=section.title, back=back, body=body))
    section.links += existing(folder, section, {"executed notebook": "executed.html", "as .ipynb": "executed.ipynb"})
    return notebook.cells


def in_order(section: Section, cells: list[Any], items: dict[tuple[str, str], Item]) -> list[Item]:
    """Text, tables and figures as the notebook has them; at the end what no cell names. An item's cell calls
    ``results.table`` or ``results.figure`` and holds its name in quotes."""
    waiting, parts = dict(items), []
    texts = [cell for cell in cells if cell.cell_type == "markdown"]
    deeper = 2 if sum(bool(re.search(r"^# ", cell.source, re.MULTILINE)) for cell in texts) > 1 else 1  # it has parts
    for cell in cells:
        if cell.cell_type == "markdown" and BANNER not in cell.metadata.get("tags", []):
            parts.append(Item(html=prose(section, cell.source, deeper)))
        elif cell.cell_type == "code":
            places = {
                key: cell.source.find(f'"{key[1]}"') for key in waiting if f"results.{key[0][:-1]}(" in cell.source
            }
            parts += [waiting.pop(key) for key in sorted(places, key=lambda key: places[key]) if places[key] >= 0]
    return [*parts, *waiting.values()]


def prose(section: Section, text: str, deeper: int) -> str:
    """A notebook's Markdown as HTML below the section's title, which it leaves out: headings so many levels deeper, the
    upper ones with anchors. A link to a file beside the notebook keeps its words alone."""
    text = re.sub(r"!?\[([^\]]*)\]\((?!https://|#)[^)]*\)", r"\1", text)
    title = [] if section.headings else [section.title]
    lines = [line for line in text.splitlines() if re.sub(r"^# |[`*]", "", line) not in title]
    html = markdown(re.sub(r"^#+ ", lambda mark: "#" * deeper + mark[0], "\n".join(lines), flags=re.MULTILINE))

    def anchored(heading: re.Match) -> str:
        anchor = f"{section.anchor}-part-{len(section.headings) + 1}"
        section.headings.append((anchor, unescape(re.sub(r"<[^>]*>", "", heading[2]))))
        return f'<h{heading[1]} id="{anchor}">'

    return re.sub(r"<h([34])>(?=(.*?)</h)", anchored, html)


def opening(notebook) -> tuple[str, str]:
    """First heading and first plain paragraph of a notebook's Markdown, papermill's error banner aside."""
    text = "\n\n".join(
        cell.source
        for cell in notebook.cells
        if cell.cell_type == "markdown" and BANNER not in cell.metadata.get("tags", [])
    )
    text = re.sub(r"^(#+ .*)$", r"\n\1\n", text, flags=re.MULTILINE)
    blocks = [block.strip() for block in re.split(r"\n\s*\n", text) if block.strip()]
    title = next((re.sub(r"[`*]", "", block.lstrip("# ")) for block in blocks if block.startswith("#")), "")
    lead = next((block for block in blocks if not re.match(r"#|>|\||```|<|!\[|[-*+] |\d+\. ", block)), "")
    return title, lead


def markdown(text: str) -> str:
    """Markdown as HTML; HTML inside it is shown, not obeyed."""
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    return MarkdownWithMath(renderer=IPythonRenderer(escape=True, exclude_anchor_links=True)).render(text)


def notebook_body(notebook) -> str:
    """The notebook's cells and outputs as HTML, without page, style or any script of nbconvert's."""
    from nbconvert import HTMLExporter

    shown = ["text/html", "text/markdown", "image/svg+xml", "image/png", "image/jpeg", "text/latex", "text/plain"]
    quiet = logging.getLogger("nngpt_lab.nbconvert")
    quiet.setLevel(logging.ERROR)  # or it warns of every figure that it has no alternative text
    exporter = HTMLExporter(template_name="basic", anchor_link_text="", log=quiet)
    exporter.register_preprocessor("nbconvert.preprocessors.HighlightMagicsPreprocessor", enabled=True)
    exporter.config.NbConvertBase.display_data_priority = shown
    return exporter.from_notebook_node(notebook)[0]


def read_contents(folder: Path, section: Section) -> list[tuple[str, str, dict[str, Any]]]:
    """Kind, name and what was said of it (caption, digits), in the order they were made; where that list cannot be
    read, the files there, by name."""
    kinds = ("figures", "tables")
    try:
        contents = json.loads((folder / "contents.json").read_text(encoding="utf-8"))
        return [
            (kind, name, {**said, "caption": said["caption"]})
            for kind in kinds
            for name, said in contents[kind].items()
        ]
    except (OSError, ValueError, TypeError):
        section.problems.append("contents.json is missing or cannot be read: captions are missing.")
    names = {kind: sorted({path.stem for path in (folder / kind).glob("*.*")}) for kind in kinds}
    return [(kind, name, {"caption": ""}) for kind in kinds for name in names[kind]]


def read_figure(folder: Path, section: Section, name: str, caption: str) -> Item:
    """The figure as a data URI: SVG unless that is large. Its size is the PNG's, so that nothing jumps on loading."""
    svg, png = folder / "figures" / f"{name}.svg", folder / "figures" / f"{name}.png"
    pixels = png.read_bytes()
    kind, data = ("svg+xml", svg.read_bytes()) if svg.stat().st_size <= LARGEST_SVG else ("png", pixels)
    item = Item(f"{section.anchor}-figure-{slug(name)}", words(name), caption, existing(
        folder, section, {"SVG": f"figures/{name}.svg", "PNG": f"figures/{name}.png"}))  # fmt: skip
    item.src = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    item.width, item.height = (round(side * 96 / PNG_DPI) for side in struct.unpack_from(">II", pixels, 16))
    return item


def read_table(folder: Path, section: Section, name: str, said: dict[str, Any]) -> Item:
    """The first rows of a table, numbers with the digits that the notebook asked for."""
    path = folder / "tables" / f"{name}.csv"
    frame = read_csv(path)
    item = Item(f"{section.anchor}-table-{slug(name)}", words(name), said["caption"], existing(
        folder, section, {"CSV": f"tables/{name}.csv", "Markdown": f"tables/{name}.md"}))  # fmt: skip
    columns = [format_column(list(frame[column]), said.get("digits")) for column in frame]
    item.columns = [(str(name).replace("_", " "), kind) for name, (kind, _) in zip(frame, columns, strict=True)]
    shown = [[(cell, kind) for cell in cells[:ROWS_SHOWN]] for kind, cells in columns]
    item.rows, item.total = [list(row) for row in zip(*shown, strict=True)], len(frame)
    return item


def existing(folder: Path, section: Section, files: dict[str, str]) -> list[tuple[str, str]]:
    """Text and address, relative to the report, of those files that exist."""
    return [(text, quote(f"{section.address}/{name}")) for text, name in files.items() if (folder / name).is_file()]


def read_csv(path: Path) -> pd.DataFrame:
    """A CSV with every cell as the text that was written, empty where there is none."""
    return pd.read_csv(path, dtype=str, keep_default_na=False)


# --- claims ------------------------------------------------------------------------------------------------------


def read_claims(folder: Path, section: Section) -> list[dict[str, Any]]:
    """The notebook's claims, a column that its table lacks being empty; none where it wrote no claims table."""
    path = folder / "tables" / "claims.csv"
    if not path.is_file():
        return []
    try:
        rows = read_csv(path).to_dict("records")
    except (OSError, ValueError) as error:
        section.problems.append(f"tables/claims.csv cannot be read ({type(error).__name__}).")
        return []
    claims: list[dict[str, Any]] = [defaultdict(str, {key: present(row[key]) for key in row}) for row in rows]
    for place, claim in enumerate(claims, 1):
        verdict = claim["verdict"].lower().replace(" at this scale", "") or "not tested"
        claim |= {
            "anchor": f"{section.anchor}-claim-{place}",
            "section": section.anchor,
            "verdict": verdict,
            "tested": verdict not in UNJUDGED,
            "grade": graded(claim),
            "arxiv": (re.match(r"\d{4}\.\d{5}", claim["source"]) or [""])[0],
            "bound": SIGNS_OF_TESTS.get(claim["test"], ""),
            "ours": show_estimate(*(claim[key] for key in ("our_value", "ci_low", "ci_high", "unit"))),
            "plot": interval_plot(*(number(claim[key]) for key in ("our_value", "ci_low", "ci_high", "paper_value"))),
        }
    return claims


def graded(claim: dict[str, Any]) -> str:
    """P, C or I. Of the papers only the abstracts were at hand: what else a paper states (P) is known from the authors'
    model card or from others' notes."""
    known = claim["grade"] != "P" or re.search("abstract|model card", claim["source"])
    return claim["grade"] if known else "third-party notes"


def interval_plot(
    ours: float | None, low: float | None, high: float | None, paper: float | None
) -> dict[str, float | None] | None:
    """Where dot, interval and tick stand on a line 112 wide, or None where there is nothing to compare."""
    places = {"ours": ours, "low": low, "high": high, "paper": paper}
    known = [value for value in places.values() if value is not None]
    if ours is None or (low is None) != (high is None) or min(known) == max(known):
        return None
    scale = 100 / (max(known) - min(known))
    return {key: None if value is None else round(6 + (value - min(known)) * scale, 1) for key, value in places.items()}


# --- pages -------------------------------------------------------------------------------------------------------


@functools.cache
def templates():
    """The Jinja environment of the report's templates; every value is escaped unless a template says otherwise."""
    import jinja2

    loader = jinja2.FileSystemLoader(paths.PACKAGE / "templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"slug": slug, "show": show, "icon": lambda verdict: SIGNS.get(verdict, "·")}
    return environment


def page(template: str, **values: Any) -> str:
    """A whole page. The policy names the hash of the one script that may run, and allows no request at all."""
    style, script = ((paths.PACKAGE / "templates" / name).read_text("utf-8") for name in ("style.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return templates().get_template(template).render(style=style, script=script, policy=policy, **values)


def write(path: Path, text: str) -> Path:
    """Write a page, and say what to do where that is not allowed."""
    try:
        path.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise UsageError(
            f"cannot write {manifest.display(path)}: {error.strerror}", "make the folder writable, or copy it"
        ) from error
    return path
