"""The report: what it must say of good, partial and broken results, and how it behaves in a browser."""

from __future__ import annotations

import csv
import html
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pandas as pd
import pytest
from nbformat import v4

from nngpt_lab.ground.errors import UsageError
from nngpt_lab.records.results import Results
from nngpt_lab.report import SIGNS_OF_TESTS, build_report, graded, made_in

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
HOSTILE = "<script>document.title = 'taken over'</script>"
MANIFEST = {
    "status": "ok", "commit": "0123456789abcdef0123", "dirty": True, "started": "2026-01-07T10:30:00+00:00",
    "seconds": 95.4, "device": "cpu (a laptop)", "python": "3.12.1", "seed": 7, "profile": "demo",
}  # fmt: skip
CLAIMS = [
    # claim_id, claim, paper_value, our_value, ci_low, ci_high, n, unit, grade, verdict, note
    ("b-valid", "Valid share at cycle 1", 44.0, None, None, None, None, "%", "P", "not tested", "Needs a GPU. " * 12),
    ("b-best", "Best one-epoch accuracy", 63.98, 9.5, 8.25, 10.5, 3, "%", "P", "not reproduced", HOSTILE),
    ("b-mean", "Mean accuracy over cycles", 42.32, 41.987654, 41.2, 42.9, 118000, "%", "C", "reproduced", ""),
    ("b-dup", "Rank correlation with later epochs", 0.6, 0.55, 0.3, 0.8, 25, "", "I", "inconclusive", "wide interval"),
    ("b-hours", "Training hours", "unknown", None, None, None, None, "", "I", "not tested", "never stated"),
]  # fmt: skip
FIELDS = ("claim_id", "claim", "paper_value", "our_value", "ci_low", "ci_high", "n", "unit", "grade", "verdict", "note")


def add_notebook(folder: Path, name: str, paper: str, manifest: dict | None = None, rows: int = 40) -> Path:
    """One notebook's results as a run leaves them: tables, a figure, claims, executed notebook and manifest."""
    from matplotlib.figure import Figure

    results = Results(folder / name, "demo")
    plot = Figure(figsize=(9, 3))
    plot.subplots().plot([1, 2, 3], [1, 4, 9])
    results.figure(plot, "proxy_audit", "Rank correlation between epochs, <b>all</b> data sets.")
    results.table(pd.DataFrame({"data_set": ["mnist"] * rows, "n": range(rows), "rho": 0.123456}), "ranks", "Ranks.")
    claims = pd.DataFrame(CLAIMS, columns=FIELDS).assign(paper=paper)
    results.table(claims, "claims", "Claims.")
    write_notebook(folder / name, f"# The story of paper {paper}")
    if manifest:
        (folder / name / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder / name


def write_notebook(folder: Path, heading: str, hostile: str = "") -> None:
    """An executed notebook with the kinds of output that ours have."""
    image = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    outputs = [
        v4.new_output("stream", name="stdout", text="a line of " + "text " * 60 + "<b>\n"),
        v4.new_output("display_data", data={"image/png": image, "text/plain": "<Figure>"}),
        v4.new_output(
            "display_data", data={"text/html": f"<table class='dataframe'><tr><td>1</td></tr></table>{hostile}"}
        ),
        v4.new_output("error", ename="ValueError", evalue="no", traceback=["\x1b[31mValueError\x1b[0m: no"]),
    ]
    cells = [
        v4.new_markdown_cell(
            "<span>An Exception was encountered</span>", metadata={"tags": ["papermill-error-cell-tag"]}
        ),
        v4.new_markdown_cell(
            f"{heading}\n\nIt asks *whether* one epoch tells. {hostile}\n\n## Evidence\n\nNot the lead."
        ),
        v4.new_code_cell("import pandas as pd  # what we use\nprint('text')", execution_count=1, outputs=outputs),
    ]
    for place, cell in enumerate(cells):
        cell.id = f"cell-{place}"
    nbformat.write(v4.new_notebook(cells=cells), folder / "executed.ipynb")


class Links(HTMLParser):
    """Every address and every anchor of a page, and the text of its rows."""

    def __init__(self, path: Path):
        super().__init__()
        self.addresses, self.anchors = [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.anchors += [found["id"]] if "id" in found else []
        self.addresses += [found[key] for key in ("href", "src") if key in found]


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """Results of two notebooks, one in order, one run by hand; not to be changed."""
    made = tmp_path_factory.mktemp("results")
    add_notebook(made, "01_first", "B", MANIFEST)
    add_notebook(made, "02_second", "A")
    return made


@pytest.fixture
def folder(results: Path, tmp_path: Path) -> Path:
    """A copy of ``results`` that a test may break."""
    return shutil.copytree(results, tmp_path / "demo")


def text_of(folder: Path) -> str:
    return build_report(folder).read_text(encoding="utf-8")


def test_importing_the_report_imports_no_torch():
    code = "import sys, nngpt_lab.report; sys.exit('torch' in sys.modules or 'nbconvert' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_claims_come_first_and_tested_ones_before_the_rest(folder):
    page = text_of(folder)
    # The firmest finding on each paper stands before them, with its figure; all else comes after
    assert page.index('id="findings"') < page.index("<figure") < page.index('class="claims"')
    assert page.index('class="claims"') < page.index('<figure id="')
    verdicts = re.findall(r'<tr role="row" id="[^"]+" data-verdict="([^"]+)"', page)
    assert len(verdicts) == 2 * len(CLAIMS)
    assert verdicts[:6] == ["not reproduced", "reproduced", "inconclusive"] * 2
    assert set(verdicts[6:]) == {"not tested"}
    assert "<b>6 could be judged in this run</b>" in page


def test_the_firmest_finding_of_each_paper_comes_first_with_its_figure_and_arxiv(folder):
    page = text_of(folder).partition('<section id="findings"')[2].partition("</section>")[0]
    assert page.count("<h3>") == page.count("<figure>") == 2
    assert page.count("not reproduced") + page.count("</span> reproduced") >= 2
    assert page.count("https://arxiv.org/abs/") == 2
    assert "b-hours" not in page


@pytest.mark.parametrize(
    ("grade", "source", "shown"),
    [
        ("P", "2601.02997, abstract (1 of 49 by arithmetic)", "P"),
        ("P", "2601.02997; model card NNGPT-UniqueArch-Rag: 0.6398", "P"),
        ("P", "2605.04903, Table 16", "third-party notes"),
        ("P", "2601.03808, as reported by third-party notes", "third-party notes"),
        ("C", "nn-gpt, GenerateTransform.py", "C"),
        ("I", "2605.30103, cycle_data.csv (notes)", "I"),
    ],
)
def test_a_grade_says_where_only_notes_are_known(grade, source, shown):
    assert graded({"grade": grade, "source": source}) == shown


def test_a_finding_has_the_figure_that_its_claim_names_and_its_note_and_no_figure_twice(folder):
    tables, figures = folder / "01_first" / "tables", folder / "01_first" / "figures"
    rows = pd.read_csv(tables / "claims.csv").iloc[[1, 2, 3]]
    decided = rows.assign(claim_id=["B-first-epoch-guide", "B-rise", "B-novel-total"], verdict="reproduced",
                          p_holm=[0.001, 0.0, 0.01], note=["Firm.", "Firmest.", "Third."])  # fmt: skip
    decided.to_csv(tables / "claims.csv", index=False)
    for name in ("controls_per_cycle", "loop_novel"):
        for kind in ("svg", "png"):
            shutil.copy(figures / f"proxy_audit.{kind}", figures / f"{name}.{kind}")
    contents = json.loads((folder / "01_first" / "contents.json").read_text())
    contents["figures"] |= {"controls_per_cycle": {"caption": "Arms."}, "loop_novel": {"caption": "New."}}
    (folder / "01_first" / "contents.json").write_text(json.dumps(contents))

    def found() -> str:
        return text_of(folder).partition("<h3>Paper B")[2].partition("</section>")[0]

    page = found()
    assert page.index("Firmest.") < page.index('alt="Controls per cycle"') < page.index("Firm.")
    assert page.index("Firm.") < page.index('alt="Proxy audit"')
    assert "Third." not in page
    decided.assign(claim_id=["B-first-epoch-guide"] * 3, verdict=["reproduced", "inconclusive", "no effect"]).to_csv(
        tables / "claims.csv", index=False
    )
    assert (
        "Firm." in found() and found().count("<figure>") == 1
    )  # the third has the same figure, the second no decision
    decided.assign(verdict="inconclusive").to_csv(tables / "claims.csv", index=False)
    assert "Firm." in found() and found().count("<figure>") == 1  # where none is decided, the first
    decided.assign(verdict="not yet run", paper="D").to_csv(tables / "claims.csv", index=False)
    page = text_of(folder)
    assert (
        "its claims</a> was judged in this run. The first of 3," in page
        and "D: Delta-Based Neural Architecture" in page
    )


def test_a_source_links_to_arxiv(folder):
    add_notebook(folder, "01_first", "B", MANIFEST)
    claims = pd.read_csv(folder / "01_first" / "tables" / "claims.csv").assign(source="2601.02997, Table 2")
    claims.to_csv(folder / "01_first" / "tables" / "claims.csv", index=False)
    notes = '<span title="2601.02997, Table 2"><a href="https://arxiv.org/abs/2601.02997">third-party notes</a>'
    assert text_of(folder).count(notes) == 2  # of five claims, those of grade P


def test_a_long_list_of_changed_files_is_cut(folder):
    record = json.loads((folder / "01_first" / "manifest.json").read_text())
    gone = {f"gone-{place}": "0" for place in range(9)}
    (folder / "01_first" / "manifest.json").write_text(json.dumps(record | {"outputs": gone}))
    page = text_of(folder)
    assert "gone-4 and 4 more." in page
    assert "gone-5" not in page


def test_values_are_rounded_for_reading_and_kept_for_sorting(folder):
    page = text_of(folder)
    assert "42.0\u202f%" in page  # its interval, 1.7 wide, supports one decimal
    assert 'data-key="41.987654"' in page
    assert "118,000" in page
    assert "41.2 to 42.9" in page


def test_a_bound_is_marked():
    assert SIGNS_OF_TESTS == {"effect": "> ", "at_least": "≥ ", "at_most": "≤ "}


def test_what_the_results_say_is_escaped(folder):
    write_notebook(folder / "01_first", "# The story", HOSTILE)
    page = text_of(folder)
    assert HOSTILE not in page
    assert page.count("&lt;script&gt;document.title") >= 2  # notes and leads
    assert "&lt;b&gt;all&lt;/b&gt;" in page
    assert page.count("<script") == 1


def test_each_page_forbids_every_request_and_every_foreign_script(folder):
    index = build_report(folder)
    for path in (index, folder / "01_first" / "executed.html"):
        page = html.unescape(path.read_text(encoding="utf-8"))
        assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-" in page
        assert "cdnjs" not in page and "unpkg" not in page and "jsdelivr" not in page


def test_text_tables_and_figures_are_in_the_notebooks_order(folder):
    """Also where contents.json has them in another; what no cell names comes last, code is left out."""
    source = folder / "01_first" / "executed.ipynb"
    notebook = nbformat.read(source, as_version=4)
    texts = ["# Part I\n\nWhat *others* say: [here](other.ipynb), ![a picture](x.png), [there](https://arxiv.org).",
             "## 1. Evidence & all\n\nBefore the figure.", "## 1. Evidence & all\n\nBefore the table.",
             "Last."]  # fmt: skip
    calls = ["results.figure(plot,\n 'x' , \"proxy_audit\")", 'results.table(frame, "ranks", "A caption.")']
    parts = [v4.new_markdown_cell(texts[0]), v4.new_markdown_cell(texts[1]), v4.new_code_cell(calls[0]),
             v4.new_markdown_cell(texts[2]), v4.new_code_cell(calls[1]), v4.new_markdown_cell(texts[3])]  # fmt: skip
    notebook.cells += parts
    nbformat.write(notebook, source)
    page = text_of(folder)
    section = page.partition('<section id="01-first"')[2].partition("</section>")[0]
    order = ["The story of paper B</h2>", "<p>It asks <em>whether</em> one epoch tells.", "Not the lead",
             "<em>others</em> say: here, a picture, <a href=\"https://arxiv.org\">there</a>.", "Before the figure.",
             'id="01-first-figure-proxy-audit"', "Before the table.", 'id="01-first-table-ranks"', "Last."]  # fmt: skip
    assert [section.index(text) for text in order] == sorted(section.index(text) for text in order)
    assert "An Exception was encountered" not in section and "results.table" not in section
    assert section.count("The story of paper B") == 1
    assert '<h4 id="01-first-part-1">Evidence</h4>' in section and '<h3 id="01-first-part-2">Part I</h3>' in section
    contents = page.partition("<nav")[2].partition("</nav>")[0]
    assert contents.count("1. Evidence &amp; all</a>") == 2 and "Figure" not in contents.partition("paper A")[0]
    assert_links_resolve(folder / "index.html")


def test_without_its_notebook_a_section_has_its_figures_in_the_contents(folder):
    (folder / "01_first" / "executed.ipynb").unlink()
    assert "Figure 1: Proxy audit</a>" in text_of(folder).partition("<nav")[2].partition("</nav>")[0]


def test_numbers_have_the_digits_that_the_notebook_asked_for(tmp_path):
    results = Results(tmp_path / "01_first", "demo")
    frame = pd.DataFrame({"rho": [0.123456, 12.0], "p": [0.000123, 0.5], "n": [3, 12000]})
    results.table(frame, "few", "Few.", digits=1)
    results.table(frame, "many", "Many.", digits=4)
    page = text_of(tmp_path)
    for text in ("0.1</td>", "12.0</td>", "12,000</td>", "0.1235</td>", "12.0000</td>"):
        assert text in page, text
    assert page.count("0.00012</td>") == 1 and page.count("0.0001</td>") == 1  # not a 0 that it is not


def test_a_run_made_in_several_calls_says_of_which_code_and_where():
    call = {"commit": "aaaaaaaaaaaa", "code_sha256": "1", "device": "NVIDIA H200"}
    assert made_in([]) == made_in([call]) == []
    assert made_in([call, call]) == [("in 2 calls", False)]
    elsewhere = call | {"device": "cpu (x)"}
    assert made_in([call, elsewhere]) == [("in 2 calls on NVIDIA H200, cpu (x)", False)]
    changed = call | {"commit": "bbbbbbbbbbbb", "code_sha256": "2"}
    assert made_in([call, changed, call]) == [("in 3 calls of aaaaaaaaaa, bbbbbbbbbb", True)]


def test_provenance_tells_commit_dirt_time_and_machine(folder):
    page = text_of(folder)
    for text in ("commit 0123456789<", "with uncommitted changes", "2026-01-07 10:30 UTC", "95 s", "seed 7",
                 "cpu (a laptop)", "Python 3.12.1", "profile demo"):  # fmt: skip
        assert text in page, text
    assert page.count("no manifest vouches for these numbers") == 1  # 02_second


def test_warnings_of_a_run_are_shown(folder):
    assert "wrote warnings" not in text_of(folder)
    warnings = [{"cell": 3, "line": "<python>/x.py:3: FutureWarning: old name"}]
    add_notebook(folder, "01_first", "B", MANIFEST | {"warnings": warnings})
    assert "cell [3]: &lt;python&gt;/x.py:3: FutureWarning: old name" in text_of(folder)


def test_files_that_the_manifest_does_not_vouch_for_are_named(tmp_path):
    add_notebook(tmp_path, "01_first", "B", MANIFEST | {"outputs": {"tables/ranks.csv": "0" * 64}})
    assert "Changed since the run: tables/ranks.csv." in text_of(tmp_path)


def test_files_that_are_gone_are_not_said_to_have_changed(tmp_path):
    add_notebook(tmp_path, "01_first", "B", MANIFEST | {"outputs": {"ledger.sqlite": "0" * 64}})
    page = text_of(tmp_path)
    assert "Not here, though the run wrote them: ledger.sqlite." in page and "Changed since" not in page


def test_long_tables_are_cut_and_say_so(folder):
    page = text_of(folder)
    assert "First 12 of 40 rows." in page
    assert "0.123</td>" in page


def test_a_failed_notebook_shows_its_error_and_what_it_had_written(folder):
    error = {"type": "ValueError", "message": "no data", "cell": 3, "line": "load()"}
    add_notebook(folder, "03_third", "C", MANIFEST | {"status": "failed", "error": error})
    page = text_of(folder)
    assert "This notebook failed." in page
    assert "ValueError: no data\nin cell [3]: load()" in page
    assert 'id="03-third-figure-proxy-audit"' in page


def test_of_several_runs_the_latest_is_shown_and_a_later_failure_told(tmp_path):
    place = tmp_path / "01_first"
    for run, status, day in ("seed-0", "ok", 1), ("seed-1", "incomplete", 2), ("seed-2", "failed", 3):
        failures = [{"type": "KeyError", "message": "'a'", "cell": 9, "line": "results.figure(a)"}]
        record = {"status": status, "seed": day - 1, "started": f"2026-01-0{day}T10:30:00+00:00", "failures": failures}
        add_notebook(place, run, "B", MANIFEST | record)
        (place / run / "tables" / "ranks.csv").write_text(f"run\n{run}\n")
    page = text_of(tmp_path)
    assert "seed-1</td>" in page and "seed-0</td>" not in page and "seed 1<" in page
    assert "Some figures or tables of this notebook failed." in page
    assert "A later run failed: seed-2." in page and "KeyError: &#39;a&#39;\nin cell [9]: results.figure(a)" in page
    assert 'id="01-first-figure-proxy-audit"' in page
    assert_links_resolve(tmp_path / "index.html")
    assert_links_resolve(place / "seed-1" / "executed.html")


@pytest.mark.parametrize(
    "broken", ["contents.json", "executed.ipynb", "manifest.json", "tables/ranks.csv", "tables/claims.csv"]
)
@pytest.mark.parametrize("content", [None, b"", b"{\x00", b"[1]"])
def test_missing_and_broken_files_cost_only_themselves(folder, broken, content):
    path = folder / "01_first" / broken
    path.write_bytes(content) if content is not None else path.unlink()
    page = text_of(folder)
    assert "The story of paper A</h2>" in page  # the other notebook is whole
    assert 'id="01-first-figure-proxy-audit"' in page
    if broken == "contents.json":
        assert "captions are missing" in page
    assert_links_resolve(folder / "index.html")


def test_a_manifest_without_what_a_run_writes_is_left_out_and_named(tmp_path):
    add_notebook(tmp_path, "01_by_hand", "B", {"status": "ok", "profile": "demo"})
    build_report(tmp_path)
    assert "manifest.json lacks commit, device, dirty, python, seconds, seed, started" in text_of(tmp_path)


def test_an_empty_manifest_is_left_out_and_named(tmp_path):
    (add_notebook(tmp_path, "01_by_hand", "B") / "manifest.json").write_text("{}")
    assert "manifest.json lacks commit, device, dirty, profile" in text_of(tmp_path)


def test_no_claims_and_no_figures_is_still_a_page(tmp_path):
    write_notebook(Results(tmp_path / "01_first", "demo").folder, "# Bare")
    assert "No notebook here has written a claims table." in text_of(tmp_path)


def test_an_unplanned_verdict_and_missing_columns_are_shown(tmp_path):
    tables = Results(tmp_path / "01_first", "demo").folder / "tables"
    with (tables / "claims.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("claim_id", "claim", "verdict"), ("x", "A claim", "Disputed")])
    assert 'data-verdict="disputed"' in text_of(tmp_path)


@pytest.mark.parametrize(
    "make", [lambda path: None, lambda path: path.mkdir(), lambda path: (path / "x").mkdir(parents=True)]
)
def test_nothing_to_report_is_a_usage_error(tmp_path, make):
    make(tmp_path / "demo")
    with pytest.raises(UsageError, match="there are no results") as error:
        build_report(tmp_path / "demo")
    assert "nngpt-lab demo" in error.value.cure


def test_a_page_that_cannot_be_written_is_a_usage_error(folder):
    (folder / "index.html").mkdir()
    with pytest.raises(UsageError, match="cannot write"):
        build_report(folder)


def test_the_same_results_give_the_same_bytes(folder):
    pages = ("index.html", "01_first/executed.html")
    build_report(folder)
    before = [(folder / name).read_bytes() for name in pages]
    build_report(folder)
    assert [(folder / name).read_bytes() for name in pages] == before


def assert_links_resolve(path: Path) -> None:
    page = Links(path)
    assert len(page.anchors) == len(set(page.anchors)), "two elements share an id"
    for address in page.addresses:
        target = urlsplit(address)
        if target.scheme or target.netloc:
            assert target.scheme in ("data", "https")
            continue
        file = (path.parent / unquote(target.path)) if target.path else path
        assert file.is_file(), address
        if target.fragment and file.suffix == ".html":
            assert unquote(target.fragment) in Links(file).anchors, address


def test_every_link_and_anchor_resolves(folder):
    add_notebook(folder, "my own notebook", "D", MANIFEST)
    assert_links_resolve(build_report(folder))
    assert_links_resolve(folder / "01_first" / "executed.html")


# --- in a browser ------------------------------------------------------------------------------------------------

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium or chrome on this machine")


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra: test)")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync"]  # fmt: skip
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """Opens a file in a fresh window; errors, and requests that the policy let out, are in ``page.troubles``."""

    def is_remote(address: str) -> bool:
        return urlsplit(address).scheme not in ("file", "data")

    def open_file(path: Path, width: int = 1280, scheme: str = "light"):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.troubles = []
        page.on("console", lambda message: page.troubles.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: page.troubles.append(str(error)))
        page.on("requestfinished", lambda asked: page.troubles.append(asked.url) if is_remote(asked.url) else None)
        page.on("requestfailed", lambda asked: page.troubles.append(asked.url) if asked.failure != "csp" else None)
        page.goto(path.as_uri())
        return page

    yield open_file
    for context in browser.contexts:
        context.close()


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1000, 1280])
def test_pages_load_without_trouble_and_without_sideways_scrolling(folder, open_page, width, scheme):
    index = build_report(folder)
    backgrounds = {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 26)"}
    for path in (index, folder / "01_first" / "executed.html"):
        page = open_page(path, width, scheme)
        assert page.troubles == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == backgrounds[scheme]


@needs_chromium
def test_a_hostile_notebook_neither_runs_scripts_nor_calls_home(folder, open_page):
    address = "https://lab.invalid/x"
    hostile = f"{HOSTILE}<script src='{address}.js'></script><img src='{address}.png' onerror='document.title = 1'>"
    write_notebook(folder / "01_first", "# The story", hostile)
    build_report(folder)
    page = open_page(folder / "01_first" / "executed.html")
    assert page.title() == "The story · executed notebook"
    assert all("Content Security Policy" in trouble for trouble in page.troubles)


@needs_chromium
def test_headers_sort_by_number_then_back(folder, open_page):
    page = open_page(build_report(folder))
    header = page.get_by_role("columnheader", name="Ours")
    column = "[...document.querySelectorAll('.claims tbody tr')].map(row => row.cells[4].dataset.key)"
    original = page.evaluate(column)
    header.get_by_role("button").click()
    values = page.evaluate(column)
    assert [float(value) for value in values[:6]] == [0.55, 0.55, 9.5, 9.5, 41.987654, 41.987654]
    assert values[6:] == [""] * 4  # nothing to sort by stays last, in either direction
    assert header.get_attribute("aria-sort") == "ascending"
    header.get_by_role("button").press("Enter")
    assert float(page.evaluate(column)[0]) == 41.987654 and page.evaluate(column)[6:] == [""] * 4
    assert header.get_attribute("aria-sort") == "descending"
    header.get_by_role("button").click()
    assert page.evaluate(column) == original


@needs_chromium
def test_filters_work_together_and_by_keyboard(folder, open_page):
    page = open_page(build_report(folder))
    page.get_by_role("radio", name="not reproduced").check(force=True)
    assert page.locator(".claims tbody tr:visible .verdict").all_inner_texts() == ["✗ not reproduced"] * 2
    assert page.get_by_role("status").inner_text() == "2 of 10 claims shown."
    page.get_by_role("radio", name="B: From Memorization to Creativity").check(force=True)
    assert page.locator(".claims tbody tr:visible").count() == 1
    page.keyboard.press("ArrowLeft")  # to the previous paper
    assert page.locator(".claims tbody tr:visible td:nth-child(2)").all_inner_texts() == ["A"]


@needs_chromium
def test_the_theme_switch_turns_the_page(folder, open_page):
    page = open_page(build_report(folder))
    page.get_by_role("button", name="Dark theme").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"
    assert page.get_by_role("button", name="Light theme").is_visible()
