"""The site: it is built from the reference runs without a warning, its links are whole, and it looks as it should."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import make_site
import nbformat
import pytest
from nbformat import v4

pytestmark = [
    pytest.mark.slow,  # Sphinx reads and writes some thirty pages: 20 s. CI builds the API of all rooms, too (.ci/run)
    pytest.mark.skipif(not make_site.REFERENCE.is_dir(), reason="needs the source checkout"),
]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
RUN = make_site.Run(make_site.REFERENCE / "demo" / "03_code_to_prediction")
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site of the reference runs, one of which has an executed notebook; with the API of one room."""
    made = tmp_path_factory.mktemp("site")
    reference = shutil.copytree(make_site.REFERENCE, made / "reference")
    run = reference / "demo" / "03_code_to_prediction"
    script = "<script>document.title = 'taken'</script>"
    hostile = {"text/html": script, "application/javascript": "1", "text/plain": "3"}
    links = "See [another](01_memorization_to_creativity.ipynb) or [none](x.ipynb)."
    cells = [
        v4.new_markdown_cell(f"# A story\n\nIts lead. {links}"),
        v4.new_markdown_cell("# Part I\n\n## Evidence"),
        v4.new_code_cell('results.table(baselines, "baselines", "Caption.")', outputs=[
            v4.new_output("display_data", data={"image/png": PIXEL, "image/svg+xml": "<svg/>", "text/plain": "figure"}),
            v4.new_output("display_data", data=hostile)]),
    ]  # fmt: skip
    nbformat.write(v4.new_notebook(cells=cells, metadata={"language_info": {"name": "python"}}), run / "executed.ipynb")
    return make_site.build(made / "out", reference, rooms=("ground",)).parent


class Addresses(HTMLParser):
    """Every address, anchor and script of a page."""

    def __init__(self, page: Path):
        super().__init__()
        self.addresses, self.anchors = [], set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.anchors |= {found["id"]} if "id" in found else set()
        self.addresses += [found[key] for key in ("href", "src") if found.get(key) and found.get("rel") != "canonical"]


def test_every_link_leads_somewhere_and_no_page_needs_the_network(site):
    pages = {page: Addresses(page) for page in site.rglob("*.html") if "_static" not in page.parts}
    assert len(pages) > 25
    for page, found in pages.items():
        for address in found.addresses:
            parts = urlsplit(address)
            if parts.scheme in ("http", "https", "data", "mailto"):
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            assert target.exists(), f"{page.relative_to(site)}: {address}"
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].anchors, f"{page.relative_to(site)}: {address}"
        remote = re.findall(r'<(?:script|img|link)[^>]+(?:src|href)="(?:https?:)?//[^"]+"', page.read_text("utf-8"))
        assert not remote, page.relative_to(site)


def test_an_executed_notebook_is_shown_without_scripts(site):
    text = (site / "notebooks/demo/03_code_to_prediction.html").read_text(encoding="utf-8")
    assert "taken" not in text and "<svg/>" not in text and "image/png" not in text
    assert text.index('id="table-baselines"') < text.index("Caption.")
    assert "<h1>A story" in text and "<h2>Part I" in text and "<h3>Evidence" in text
    assert 'href="01_memorization_to_creativity.html">another' in text and "or none." in text
    assert RUN.record["commit"][:10] in text


def test_numbers_of_the_notes_are_the_tables(site):
    claims = {row["id"]: row for row in make_site.judged([RUN])}
    note = (site / "notes/paper_c.html").read_text(encoding="utf-8")
    for claim, verdict in (("C-chance", "wrong comparator"), ("C-code-signal-unseen", "no effect")):
        ours = claims[claim]["ours"].replace(", ", ",\u00a0")  # an interval is not broken into two lines
        assert ours in note and claims[claim]["verdict"] == verdict in note
    assert claims["C-chance"]["table"] == "baselines" and claims["C-code-7b"]["verdict"] == "not yet run"
    for page in ("paper_a", "paper_b", "paper_c"):
        assert make_site.NOT_HERE not in (site / f"notes/{page}.html").read_text(encoding="utf-8"), page


def test_a_row_that_is_not_there_or_not_alone_is_said_to_be_absent():
    number = make_site.template_values([RUN])["number"]
    table = "03_code_to_prediction/input_ablations"
    found = number(table, "accuracy", " %", split="published", condition="no code")
    assert re.fullmatch(r"\d\d\.\d % \[\d\d\.\d, \d\d\.\d\]", found)
    assert number(table, "accuracy", split="published") == make_site.NOT_HERE
    assert number(table, "accuracy", split="none") == number("04_x/y", "z") == make_site.NOT_HERE


# --- in a browser ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra: test)")
    if CHROMIUM is None:
        pytest.skip("no chromium or chrome on this machine")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=flags)
        yield browser
        browser.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_pages_fit_their_window_and_ask_nothing_of_the_network(site, browser, width, scheme):
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    troubles = []
    page.on("request", lambda asked: troubles.append(asked.url) if asked.url.startswith("http") else None)
    page.on("requestfailed", lambda asked: troubles.append(asked.url))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    for name in ("index", "claims", "contest", "notes/paper_b", "docs/log", "docs/architecture", "api/ground",
                 "notebooks/demo/01_memorization_to_creativity", "notebooks/demo/03_code_to_prediction"):  # fmt: skip
        page.goto((site / f"{name}.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        assert page.title() != "taken" and troubles == [], name
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", background)[:3])) < 200) == (scheme == "dark"), name
    page.close()


def test_claims_are_filtered_and_lead_to_the_cell(site, browser):
    page = browser.new_page()
    page.goto((site / "claims.html").as_uri())
    rows = page.locator("#claims tbody tr:visible")
    whole = rows.count()
    page.locator("select[name=paper]").select_option("C")
    page.locator("select[name=verdict]").select_option("wrong comparator")
    assert rows.count() == 1 < whole and page.locator("#shown").inner_text() == f"1 of {whole} claims"
    rows.get_by_role("link").click()
    assert page.url.endswith("03_code_to_prediction.html#table-baselines")
    page.goto((site / "claims.html").as_uri() + "#c-chance")
    assert page.locator("#c-chance details[open]").count() == 1
    page.locator("input[name=words]").fill("cycle 18")
    texts = [text.lower() for text in rows.all_text_contents()]
    assert 0 < len(texts) < whole and all("cycle" in text and "18" in text for text in texts)
    page.close()
