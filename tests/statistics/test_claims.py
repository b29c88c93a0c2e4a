"""Verdicts follow from a claim's test and our interval, and no row goes missing."""

from __future__ import annotations

import math

import pytest

from nngpt_lab.statistics import claims
from nngpt_lab.statistics.claims import Claim, Measured, claims_table, load_claims, readable, verdict
from nngpt_lab.statistics.intervals import Estimate, wilson

CLAIMS = load_claims()
YES, NO, MAYBE = "reproduced", "not reproduced", "inconclusive"


def claim_of(test: str) -> Claim:
    return Claim("x", "A", "text", 50, "%", "P", "source", test)


@pytest.mark.parametrize(
    ("test", "low", "high", "expected"),
    [
        ("equal", 40, 60, YES), ("equal", 50, 60, YES), ("equal", 40, 50, YES), ("equal", 50, 50, YES),
        ("equal", 50.01, 60, NO), ("equal", 40, 49.99, NO),
        ("at_least", 50, 60, YES), ("at_least", 50.01, 60, YES), ("at_least", 49.99, 60, MAYBE),
        ("at_least", 40, 50, MAYBE), ("at_least", 40, 49.99, NO),
        ("at_most", 40, 50, YES), ("at_most", 40, 50.01, MAYBE), ("at_most", 50, 60, MAYBE), ("at_most", 50.01, 60, NO),
    ],
)  # fmt: skip
def test_verdicts_at_the_edges(test, low, high, expected):
    assert verdict(test, 50, Estimate((low + high) / 2, low, high, 10)) == expected


@pytest.mark.parametrize("test", claims.TESTS)
@pytest.mark.parametrize("nothing", [None, wilson(0, 0).scaled(100), Estimate(math.nan, math.nan, math.nan, 0)])
def test_no_data_is_no_verdict(test, nothing):
    """The interval of an empty sample holds every value: it must not pass for a reproduction, nor for a failure."""
    assert verdict(test, 50, nothing) == "not tested"


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)
def test_every_claim_is_complete(claim):
    assert claim.paper in "ABCD" and claim.id.startswith(f"{claim.paper}-")
    assert claim.grade in claims.GRADES and claim.test in claims.TESTS
    assert claim.source and claim.claim and isinstance(claim.value, int | float)
    assert claim.reason is None or len(claim.reason) > 20


def read_claims(package, *extra: str):
    room = package / "papers" / "some_paper"
    room.mkdir(parents=True)
    (room / "claims.toml").write_text('[reasons]\nloop = "Needs the loop."\n' + "".join(extra))
    return load_claims(package)


ROW = '[[claim]]\nid = "{}"\npaper = "A"\nclaim = "c"\nvalue = 1\nunit = ""\ngrade = "{}"\nsource = "s"\ntest = "{}"\n'


@pytest.mark.parametrize(
    "rows",
    [
        [ROW.format("a", "P", "equal"), ROW.format("a", "P", "equal")],
        [ROW.format("a", "Z", "equal")],
        [ROW.format("a", "P", "about")],
    ],
)
def test_a_file_that_breaks_its_rules_is_refused(tmp_path, rows):
    with pytest.raises(ValueError, match="a is there twice or has"):
        read_claims(tmp_path, *rows)


def test_an_unknown_reason_is_refused(tmp_path):
    with pytest.raises(KeyError, match="loup"):
        read_claims(tmp_path, ROW.format("a", "P", "equal"), 'untested = "loup"\n')


def test_reasons_are_resolved(tmp_path):
    assert read_claims(tmp_path, ROW.format("a", "P", "equal"), 'untested = "loop"\n')["a"].reason == "Needs the loop."


def everything_measured(paper: str, estimate: Estimate) -> dict[str, Measured]:
    return {key: Measured(estimate) for key, claim in CLAIMS.items() if claim.paper == paper and claim.reason is None}


def test_table_has_every_claim_of_its_papers_in_order():
    measured = everything_measured("B", Estimate(0.5, 0.4, 0.6, 7)) | everything_measured(
        "D", Estimate(0.5, 0.4, 0.6, 7)
    )
    table = claims_table("BD", measured)
    assert list(table.columns) == claims.COLUMNS
    assert table["claim_id"].to_list() == [key for key, claim in CLAIMS.items() if claim.paper in "BD"]
    row = table.set_index("claim_id").loc["B-first-epoch-guide"]
    assert row[["test", "paper_value", "our_value", "ci_low", "ci_high", "n"]].to_list() == [
        *("at_least", 0.0, 0.5, 0.4, 0.6, 7)
    ]
    assert (row["verdict"], row["note"]) == (YES, "")


def test_an_untested_claim_has_its_reason_and_no_numbers():
    table = claims_table("B", everything_measured("B", Estimate(0.5, 0.4, 0.6, 7))).set_index("claim_id")
    row = table.loc["B-cycle-18-mean"]
    assert row["verdict"] == "not tested" and "published protocol" in row["note"]
    assert row[["our_value", "ci_low", "ci_high", "n"]].isna().all()
    assert set(table["verdict"]) <= set(claims.VERDICTS)


def test_a_note_is_added_to_the_reason():
    measured = everything_measured("B", Estimate(0.5, 0.4, 0.6, 7)) | {"B-cycle-18-mean": Measured(None, "Soon.")}
    note = claims_table("B", measured).set_index("claim_id").loc["B-cycle-18-mean", "note"]
    assert note == f"{CLAIMS['B-cycle-18-mean'].reason} Soon."


def test_a_claim_without_measurement_or_reason_is_an_error():
    measured = everything_measured("B", Estimate(0.5, 0.4, 0.6, 7))
    measured.pop("B-first-epoch-guide")
    with pytest.raises(ValueError, match="'B-first-epoch-guide' was not measured"):
        claims_table("B", measured)


@pytest.mark.parametrize("slip", ["B-first-epoch-gide", "B-first-epochguide"])
def test_a_measurement_of_no_claim_names_the_nearest(slip):
    with pytest.raises(ValueError, match=f"no claim '{slip}' of paper B: did you mean 'B-first-epoch-guide'"):
        claims_table("B", {slip: Measured(Estimate(0.5, 0.4, 0.6, 7))})


def test_a_measurement_of_another_papers_claim_is_an_error():
    with pytest.raises(ValueError, match="there is no claim 'C-datasets' of paper B"):
        claims_table("B", {"C-datasets": Measured(Estimate(7, 7, 7, 7))})


def test_readable_shows_whole_sentences_tested_first_and_the_same_each_time():
    ours = Estimate(82.14513, 81.11, 83.06, 18824)
    measured = {key: Measured(ours, "a note " * 40) for key, claim in load_claims().items() if claim.paper == "C"}
    measured["C-code-7b"] = Measured(None)
    table = claims_table("C", measured)
    html = readable(table).to_html()
    assert "a note " * 39 in html
    assert "82.1\u202f% (81.1 to 83.1)" in html
    assert "≥ 50\u202f%" in html
    assert html.rindex(">reproduced<") < html.index(">not tested<")
    assert html == readable(table).to_html()
    assert ">nan<" not in html and "NA&gt;" not in html


def test_notes_are_added():
    found = Estimate(1, 0, 2, 3)
    assert Measured(None).noted("b") == Measured(None, "b")
    assert Measured(found, "a.").noted("b.") == Measured(found, "a. b.") and Measured(None, "a.").noted("").note == "a."


def test_a_share_says_what_it_allows_at_the_papers_own_n():
    share = CLAIMS["C-code-7b"]
    low, high = (100 * end for end in (wilson(24, 30).low, wilson(24, 30).high))
    assert share.at_its_own_n() == f"At n = 30 the paper's own value allows {low:.1f} to {high:.1f} %."
    assert (
        share.at_its_own_n()
        in claims_table("C", everything_measured("C", Estimate(60, 50, 70, 9)))
        .set_index("claim_id")
        .loc["C-code-7b", "note"]
    )
    assert CLAIMS["B-cycle-18-mean"].at_its_own_n() == "" and CLAIMS["D-spearman-qwen"].at_its_own_n() == ""
