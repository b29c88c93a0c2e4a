"""Verdicts follow from a claim's test and our interval, and no row goes missing."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from nngpt_lab.statistics import claims
from nngpt_lab.statistics.claims import (
    Claim,
    Measured,
    claims_table,
    facts_table,
    load_claims,
    load_facts,
    readable,
    verdict,
)
from nngpt_lab.statistics.intervals import Estimate, cluster_mean, t_interval, wilson

CLAIMS, FACTS = load_claims(), load_facts()
YES, NO, MAYBE, NONE, WRONG = "reproduced", "not reproduced", "inconclusive", "no effect", "wrong comparator"


def claim_of(test: str, **more) -> Claim:
    """About 50 %, with a margin of 2 points, judged from 10 units up."""
    facts = {"id": "A-x", "paper": "A", "claim": "text", "value": 50, "margin": 2, "unit": "%", "grade": "P"}
    return Claim(**facts | {"source": "s", "test": test, "least": 10, "units": "programs"} | more)


@pytest.mark.parametrize(
    ("test", "low", "high", "expected"),
    [
        # equal: ours is the paper's within the margin; a wide interval decides nothing
        ("equal", 48, 52, YES), ("equal", 50, 50, YES), ("equal", 40, 60, MAYBE), ("equal", 47.99, 52, MAYBE),
        ("equal", 48, 52.01, MAYBE), ("equal", 52.01, 60, NO), ("equal", 40, 47.99, NO), ("equal", 52, 60, MAYBE),
        ("equal", 40, 48, MAYBE),
        ("comparator", 48, 52, YES), ("comparator", 81, 83, WRONG), ("comparator", 20, 30, WRONG),
        ("comparator", 40, 60, MAYBE),
        # effect: one as large as the margin, or evidence that there is none, or the other way round
        ("effect", 52, 60, YES), ("effect", 51.99, 60, MAYBE), ("effect", 45, 55, MAYBE), ("effect", 49, 52, MAYBE),
        ("effect", 48.8, 51.3, NONE), ("effect", 50.1, 51.9, NONE), ("effect", 48.01, 51.99, NONE),
        ("effect", 48, 51.99, NO), ("effect", 40, 45, NO), ("effect", 40, 51, NO), ("effect", 40, 52, MAYBE),
        ("at_least", 48, 60, YES), ("at_least", 47.99, 60, MAYBE), ("at_least", 40, 48, MAYBE),
        ("at_least", 40, 47.99, NO), ("at_least", 1000, 2000, YES),
    ],
)  # fmt: skip
def test_verdicts_at_the_edges(test, low, high, expected):
    assert verdict(claim_of(test), Estimate((low + high) / 2, low, high, 10)) == expected


@pytest.mark.parametrize("test", claims.TESTS)
@pytest.mark.parametrize("nothing", [None, wilson(0, 0).scaled(100), Estimate(math.nan, math.nan, math.nan, 0)])
def test_no_data_is_no_verdict(test, nothing):
    """The interval of an empty sample holds every value: it must not pass for a reproduction, nor for a failure."""
    assert verdict(claim_of(test), nothing) == "not tested"
    assert verdict(claim_of(test, awaits="loop"), nothing) == "not yet run"


@pytest.mark.parametrize("test", claims.TESTS)
def test_fewer_units_than_registered_and_values_without_interval_decide_nothing(test):
    assert verdict(claim_of(test), Estimate(90, 89, 91, 9)) == "not tested"
    assert verdict(claim_of(test), Estimate(90, 89, 91, 10)) != "not tested"
    for ends in ((math.nan, math.nan), (math.nan, 91), (89, math.inf)):
        assert verdict(claim_of(test), Estimate(90, *ends, 10)) == MAYBE


# ------------------------------------------------------------------------- planted data: the answer is known beforehand


def planted(effect: float, n: int = 400, seed: int = 0) -> np.ndarray:
    """Two arms of paired scores in per cent, shape (2, n), the first better by ``effect`` points."""
    rng = np.random.default_rng(seed)
    common = rng.normal(60, 5, n)
    return np.stack([common + effect + rng.normal(0, 4, n), common + rng.normal(0, 4, n)])


DIFFERENCE = {"value": 0, "unit": "points"}


def judged(arms: np.ndarray, test: str = "effect", **more) -> str:
    return verdict(claim_of(test, **DIFFERENCE | more), t_interval(arms[0] - arms[1]))


def test_a_planted_effect_is_found_and_its_reverse_refuted():
    assert judged(planted(5)) == YES
    assert judged(planted(5)[::-1]) == NO  # arms swapped
    assert judged(planted(-5)) == NO  # sign flipped


def test_no_planted_effect_is_evidence_of_none_and_few_units_are_not():
    assert judged(planted(0)) == NONE
    assert judged(planted(0.5)) == NONE  # there, but too small to matter
    assert judged(planted(0, n=10, seed=1)) == MAYBE
    assert judged(planted(5, n=9)) == "not tested"  # a unit dropped below what was registered
    assert judged(planted(2)) == MAYBE  # right at the margin


def test_shuffled_labels_lose_a_planted_effect():
    arms = planted(5)
    swap = np.random.default_rng(1).random(arms.shape[1]) < 0.5
    assert judged(np.where(swap, arms[::-1], arms)) == NONE


def test_a_planted_level_is_told_from_one_beyond_the_margin():
    values = planted(0)[:1] - 60
    for shift, expected in ((0, YES), (1, YES), (-1, YES), (5, NO), (-5, NO), (2, MAYBE)):
        assert judged(np.stack([values[0] + shift, 0 * values[0]]), "equal") == expected
    for shift, expected in ((0, YES), (9, YES), (-1, YES), (-2, MAYBE), (-5, NO)):
        assert judged(np.stack([values[0] + shift, 0 * values[0]]), "at_least") == expected
    assert judged(np.stack([values[0] + 32, 0 * values[0]]), "comparator") == WRONG


SPOILT = {
    "nothing": lambda arms: arms,
    "sign flipped": lambda arms: -arms,
    "arms swapped": lambda arms: arms[::-1],
    "a seed dropped": lambda arms: arms[:, 1:],
    "labels shuffled": lambda arms: np.where(np.random.default_rng(1).random(arms.shape[1]) < 0.5, arms[::-1], arms),
}
KINDS = {  # of a claim about an advantage of 5 points, and what becomes of it; "effect" claims any of 2 or more
    "effect": (0, YES, NO, NO, "not tested", NONE),
    "at_least": (5, YES, NO, NO, "not tested", NO),
    "equal": (5, YES, NO, NO, "not tested", NO),
    "comparator": (5, YES, WRONG, WRONG, "not tested", WRONG),
}


@pytest.mark.parametrize("test", KINDS)
def test_every_kind_of_claim_is_judged_by_what_was_planted(test):
    """Over seeds, as a loop's differences are; as many as were registered, so that one less is too few."""
    value, *expected = KINDS[test]
    claim, arms = claim_of(test, value=value, unit="points", least=400, units="runs"), planted(5)
    found = [t_interval(np.subtract(*spoil(arms))) for spoil in SPOILT.values()]
    assert [claims.adjusted([(claim, one)])[0][0] for one in found] == expected


@pytest.mark.parametrize("test", ["effect", "at_least", "equal", "comparator"])
def test_answers_to_questions_of_programs_are_judged_by_what_was_planted(test):
    """A reader who is right about 60 % of the questions of each of 400 programs, several a program."""
    rng = np.random.default_rng(0)
    programs = np.repeat(np.arange(400), rng.integers(1, 20, 400))
    truth = rng.random(len(programs)) < 0.5
    said = np.where(rng.random(len(programs)) < 0.6, truth, ~truth)
    value = 50 if test == "effect" else 60
    claim = claim_of(test, value=value, margin=3, least=400)
    below = {"equal": NO, "at_least": NO, "comparator": WRONG, "effect": NO}[test]
    answers = {"planted": (said, YES), "turned round": (~said, below)}
    answers["labels shuffled"] = rng.permutation(said), NONE if test == "effect" else below
    for name, (given, expected) in answers.items():
        found = cluster_mean((given == truth).astype(float), programs, rng, 400).scaled(100)
        assert verdict(claim, found) == expected, name
    alone = cluster_mean((said == truth)[programs > 0].astype(float), programs[programs > 0], rng, 400).scaled(100)
    assert verdict(claim, alone) == "not tested"  # one program less than was registered


def test_the_rule_errs_as_seldom_as_it_says():
    """At the margin itself a true effect is called found, or absent, in 2.5 of 100 studies each, at most."""
    words = [judged(planted(2, n=30, seed=seed)) for seed in range(1000)]
    assert words.count(YES) <= 40 and words.count(NONE) + words.count(NO) <= 40  # 25 expected, SD 5
    assert words.count(MAYBE) >= 920


# -------------------------------------------------------------------------------------------------------------- Holm


def test_the_p_value_is_the_t_tests():
    values = planted(5, n=12)[0] - planted(5, n=12)[1]
    found = claims.p_value(claim_of("effect", **DIFFERENCE), t_interval(values))
    assert found == pytest.approx(stats.ttest_1samp(values, 2).pvalue)
    equal = claims.p_value(claim_of("equal", **DIFFERENCE, margin=9), t_interval(values))
    assert equal == pytest.approx(max(stats.ttest_1samp(values, edge).pvalue for edge in (-9, 9)))


def test_no_effect_has_the_p_value_of_both_its_sides():
    values = planted(0)[0] - planted(0)[1]
    found = claims.p_value(claim_of("effect", **DIFFERENCE), t_interval(values))
    assert found == pytest.approx(max(stats.ttest_1samp(values, edge).pvalue for edge in (-2, 2)))


def test_what_has_no_width_was_counted():
    assert claims.p_value(claim_of("equal"), Estimate(50, 50, 50, 10)) == 0


def students(reach: float, distance: float, n: int) -> float:
    """Two-sided level at which an interval of that reach on one side ends so far away."""
    t = stats.t(n - 1)
    return 2 * t.sf(distance / reach * t.ppf(0.975))


def test_the_p_value_goes_by_the_side_on_which_the_edge_lies():
    above, below = Estimate(55, 54, 57, 12), Estimate(44, 42, 45, 12)
    assert claims.p_value(claim_of("effect"), above) == pytest.approx(students(1, 3, 12))  # edge 52, below
    assert claims.p_value(claim_of("at_least"), below) == pytest.approx(students(1, 4, 12))  # edge 48, above
    # an effect refuted lies below 52, the edge that it misses, however far it is from 48
    assert claims.p_value(claim_of("effect"), below) == pytest.approx(students(1, 8, 12))
    # two runs have one degree of freedom
    assert claims.p_value(claim_of("effect", least=2), Estimate(55, 54, 57, 2)) == pytest.approx(students(1, 3, 2))


@pytest.mark.parametrize("towards", [-1, 1])
def test_no_effect_is_as_sure_as_its_less_sure_side(towards):
    nearly = Estimate(50 + towards * 0.5, 50 + towards * 0.5 - 1.2, 50 + towards * 0.5 + 1.2, 12)
    assert verdict(claim_of("effect"), nearly) == NONE
    assert claims.p_value(claim_of("effect"), nearly) == pytest.approx(students(1.2, 1.5, 12))


def just(p: float) -> Estimate:
    """An estimate above 52 whose p-value against 52 is ``p``, of 10 units."""
    t = stats.t(9)
    value = 52 + t.isf(p / 2) / t.isf(0.025)
    return Estimate(value, value - 1, value + 1, 10)


def test_a_family_is_judged_after_holm():
    effect = claim_of("effect")
    alone, family = claims.adjusted([(effect, just(0.03))]), [(effect, just(p)) for p in (0.03, 0.001, 0.02)]
    assert alone == [(YES, pytest.approx(0.03))]
    assert claims.adjusted(family) == [
        (YES, pytest.approx(0.04)), (YES, pytest.approx(0.003)), (YES, pytest.approx(0.04))]  # fmt: skip
    undecided = (effect, Estimate(52, 51, 53, 10))  # counts in the family
    words = claims.adjusted([*family, undecided, (effect, None)])
    assert [word for word, _ in words] == [MAYBE, YES, MAYBE, MAYBE, "not tested"]
    assert words[1][1] == pytest.approx(0.004) and np.isnan([words[3][1], words[4][1]]).all()
    assert words[0][1] == pytest.approx(0.06)  # said, although it decides nothing any more
    assert claims.adjusted([(effect, None)]) == [("not tested", pytest.approx(np.nan, nan_ok=True))]
    without_interval = (effect, Estimate(60, math.nan, math.nan, 10))  # counts, too, and takes no other's verdict
    words = claims.adjusted([(effect, just(0.02)), without_interval])
    assert words == [(YES, pytest.approx(0.04)), (MAYBE, pytest.approx(np.nan, nan_ok=True))]


# ------------------------------------------------------------------------------------------------- what is registered


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)
def test_every_claim_is_complete(claim):
    assert claim.paper in "ABCD" and claim.id.startswith(f"{claim.paper}-")
    assert claim.source and claim.claim and claim.units and isinstance(claim.value, int | float)
    assert (not claim.reason) or len(claim.reason) > 20
    assert not (claim.awaits and claim.untested)


@pytest.mark.parametrize("fact", FACTS.values(), ids=FACTS)
def test_every_fact_is_complete_and_no_claim(fact):
    assert fact.id.startswith(f"{fact.paper}-") and fact.fact and fact.source and fact.grade in claims.GRADES
    assert fact.id not in CLAIMS


ROW = """[[claim]]
id = "{}"
paper = "A"
claim = "c"
value = 1
unit = ""
grade = "{}"
source = "s"
test = "{}"
margin = {}
least = {}
units = "runs"
"""


def read(*rows: str) -> dict[str, Claim]:
    return claims.parse('[reasons]\nloop = "Needs the loop."\n' + "".join(rows))[0]


@pytest.mark.parametrize(
    "rows",
    [
        [ROW.format("a", "P", "equal", 1, 3), ROW.format("a", "P", "equal", 1, 3)],
        [ROW.format("a", "Z", "equal", 1, 3)],
        [ROW.format("a", "P", "about", 1, 3)],
        [ROW.format("a", "P", "equal", 0, 3)],
        [ROW.format("a", "P", "equal", 1, 0)],
    ],
)
def test_a_file_that_breaks_its_rules_is_refused(rows):
    with pytest.raises(ValueError, match=r"an id is there twice|a has an unknown test or grade, or no margin or n"):
        read(*rows)


def test_a_file_may_hold_one_kind_alone_and_a_claim_of_one_unit():
    assert claims.parse("") == ({}, {})
    assert read(ROW.format("a", "P", "equal", 1, 1))["a"].least == 1
    with pytest.raises(ValueError, match=r"an id is there twice: a, a$"):
        read(ROW.format("a", "P", "equal", 1, 3), ROW.format("a", "P", "equal", 1, 3))


def test_a_claim_without_a_margin_is_refused():
    with pytest.raises(TypeError, match="margin"):
        read(ROW.format("a", "P", "equal", 1, 3).replace("margin = 1\n", ""))


def test_an_unknown_reason_is_refused():
    with pytest.raises(KeyError, match="loup"):
        read(ROW.format("a", "P", "equal", 1, 3), 'untested = "loup"\n')


@pytest.mark.parametrize(("key", "word"), [("awaits", "not yet run"), ("untested", "not tested")])
def test_reasons_are_resolved(key, word):
    claim = read(ROW.format("a", "P", "equal", 1, 3), f'{key} = "loop"\n')["a"]
    assert claim.reason == "Needs the loop." and verdict(claim, None) == word


def everything_measured(paper: str, estimate: Estimate) -> dict[str, Measured]:
    return {key: Measured(estimate) for key, claim in CLAIMS.items() if claim.paper == paper and not claim.reason}


def test_table_has_every_claim_of_its_papers_in_order():
    measured = everything_measured("B", Estimate(0.5, 0.4, 0.6, 70)) | everything_measured(
        "D", Estimate(0.5, 0.4, 0.6, 70)
    )
    table = claims_table("BD", measured)
    assert list(table.columns) == claims.COLUMNS
    assert table["claim_id"].to_list() == [key for key, claim in CLAIMS.items() if claim.paper in "BD"]
    row = table.set_index("claim_id").loc["B-first-epoch-guide"]
    assert row[["test", "paper_value", "our_value", "ci_low", "ci_high", "n"]].to_list() == [
        *("effect", 0.0, 0.5, 0.4, 0.6, 70)
    ]
    assert (row["verdict"], row["note"]) == (YES, "")
    family = [(claim, measured[key].estimate) for key, claim in CLAIMS.items() if key in measured]
    holm = {claim.id: p for (claim, _), (_, p) in zip(family, claims.adjusted(family), strict=True)}
    assert 0 < row["p_holm"] == holm["B-first-epoch-guide"]


def test_an_untested_claim_has_its_reason_and_no_numbers():
    table = claims_table("B", everything_measured("B", Estimate(0.5, 0.4, 0.6, 70))).set_index("claim_id")
    row = table.loc["B-cycle-18-mean"]
    assert row["verdict"] == "not yet run" and "published protocol" in row["note"]
    assert row[["our_value", "ci_low", "ci_high", "n", "p_holm"]].isna().all()
    assert pd.isna(table.loc["B-cycle-18-valid", "n"])  # the paper's own n is not ours
    assert set(table["verdict"]) <= set(claims.VERDICTS)


def test_a_note_is_added_to_the_reason():
    measured = everything_measured("B", Estimate(0.5, 0.4, 0.6, 70)) | {"B-cycle-18-mean": Measured(None, "Soon.")}
    note = claims_table("B", measured).set_index("claim_id").loc["B-cycle-18-mean", "note"]
    assert note == f"{CLAIMS['B-cycle-18-mean'].reason} Soon."


def test_a_claim_without_measurement_or_reason_is_an_error():
    measured = everything_measured("B", Estimate(0.5, 0.4, 0.6, 70))
    measured.pop("B-first-epoch-guide")
    with pytest.raises(ValueError, match="'B-first-epoch-guide' was not measured"):
        claims_table("B", measured)


@pytest.mark.parametrize("slip", ["B-first-epoch-gide", "B-first-epochguide"])
def test_a_measurement_of_no_claim_names_the_nearest(slip):
    with pytest.raises(ValueError, match=f"no claim '{slip}' of paper B: did you mean 'B-first-epoch-guide'"):
        claims_table("B", {slip: Measured(Estimate(0.5, 0.4, 0.6, 70))})


def test_a_measurement_of_another_papers_claim_is_an_error():
    with pytest.raises(ValueError, match="there is no claim 'C-chance' of paper B"):
        claims_table("B", {"C-chance": Measured(Estimate(7, 7, 7, 7))})


def test_readable_shows_whole_sentences_tested_first_and_the_same_each_time():
    ours = Estimate(82.14513, 81.11, 83.06, 18824)
    measured = {key: Measured(ours, "a note " * 40) for key, claim in load_claims().items() if claim.paper == "C"}
    measured["C-code-7b"] = Measured(None)
    table = claims_table("C", measured)
    html = readable(table).to_html()
    assert "a note " * 39 in html
    assert "#T_claims th {\n  text-align: left;\n}" in html
    assert "{\n  text-align: left;\n  vertical-align: top;\n  white-space: normal;\n}" in html
    assert "82.1\u202f% (81.1 to 83.1)" in html
    assert "> 50\u202f%" in html and "programs" in html
    assert html.rindex(">reproduced<") < html.index(">not yet run<")
    assert html == readable(table).to_html()
    assert ">nan<" not in html and "NA&gt;" not in html


def test_readable_has_a_row_a_claim():
    """Every cell as it is shown: what was not measured is blank, what has no interval has no brackets."""
    measured = {key: Measured(Estimate(82.14513, 81.11, 83.06, 18824)) for key in CLAIMS if key.startswith("C-")}
    measured |= {"C-code-7b": Measured(None), "C-reads-more": Measured(Estimate(60, math.nan, math.nan, 1200), "Why.")}
    shown = readable(claims_table("C", measured)).data
    assert list(shown) == ["verdict", "claim", "claimed", "margin", "ours", "n", "note"]
    rows = shown.set_index("claim")
    chance, more, waits = (rows.loc[CLAIMS[key].claim] for key in ("C-chance", "C-reads-more", "C-code-7b"))
    percent = "\u202f%"
    numbers = [f"50{percent}", "5", f"82.1{percent} (81.1 to 83.1)", "18,824 programs"]
    assert chance[["claimed", "margin", "ours", "n"]].to_list() == numbers
    numbers = [MAYBE, f"> 50{percent}", f"60{percent}", "1,200 programs", "No interval over 1200 programs. Why."]
    assert more[["verdict", "claimed", "ours", "n", "note"]].to_list() == numbers
    assert waits[["ours", "n"]].to_list() == ["", ""] and waits["note"].startswith(CLAIMS["C-code-7b"].reason)
    order = [key for key in CLAIMS if key.startswith("C-") and key != "C-code-7b"] + ["C-code-7b"]
    assert shown["claim"].to_list() == [CLAIMS[key].claim for key in order]  # the tested in the order of the file


@pytest.mark.parametrize("turn", [0, 1])
def test_readable_keeps_the_files_order_of_many(turn):
    own = [key for key, claim in CLAIMS.items() if claim.paper == "B"]
    given = {key: Measured(Estimate(50, 40, 60, 2000)) for place, key in enumerate(own) if place % 2 == turn}
    given |= everything_measured("B", Estimate(0.5, 0.4, 0.6, 70))
    tested, waiting = [key for key in own if key in given], [key for key in own if key not in given]
    shown = readable(claims_table("B", given)).data
    assert len(own) > 16 and shown["claim"].to_list() == [CLAIMS[key].claim for key in (*tested, *waiting)]


def test_notes_are_added():
    found = Estimate(1, 0, 2, 3)
    assert Measured(None).noted("b") == Measured(None, "b")
    assert Measured(found, "a.").noted("b.") == Measured(found, "a. b.") and Measured(None, "a.").noted("").note == "a."


def test_a_share_says_what_it_allows_at_the_papers_own_n():
    share = CLAIMS["C-code-7b"]
    low, high = (100 * end for end in (wilson(24, 30).low, wilson(24, 30).high))
    many = claim_of("equal", n=1000).at_its_own_n()
    assert many == f"At n = 1000 the paper's own value allows {100 * wilson(500, 1000).low:.1f} to 53.1 %."
    assert share.at_its_own_n() == f"At n = 30 the paper's own value allows {low:.1f} to {high:.1f} %."
    assert (
        share.at_its_own_n()
        in claims_table("C", everything_measured("C", Estimate(60, 50, 70, 9)))
        .set_index("claim_id")
        .loc["C-code-7b", "note"]
    )
    assert CLAIMS["B-cycle-18-mean"].at_its_own_n() == "" and CLAIMS["D-spearman-qwen"].at_its_own_n() == ""


def test_facts_are_counted_and_stand_apart():
    counted = {key: fact.value for key, fact in FACTS.items() if fact.paper == "A"}
    table = facts_table("A", counted | {"A-operations": 18}).set_index("fact_id")
    assert list(facts_table("A", counted)) == claims.FACT_COLUMNS
    assert table.loc["A-operations", ["stated", "counted"]].to_list() == [19, 18]
    assert table["agrees"].to_dict() == {key: "no" if key == "A-operations" else "yes" for key in counted}
    assert not set(table.index) & set(CLAIMS)
    with pytest.raises(ValueError, match="there is no count of fact 'A-functions'"):
        facts_table("A", {key: value for key, value in counted.items() if key != "A-functions"})
    with pytest.raises(ValueError, match="there is no fact 'A-function' of paper A: did you mean 'A-functions'"):
        facts_table("A", counted | {"A-function": 1})


def test_a_measurement_of_too_few_or_of_one_says_so():
    few, one = Estimate(0.5, 0.4, 0.6, 3), Estimate(0.5, math.nan, math.nan, 40)
    measured = everything_measured("B", few) | {"B-first-epoch-architecture": Measured(one)}
    table = claims_table("B", measured).set_index("claim_id")
    assert "Judged from 30 clusters of near copies up, and these are 3." in table.loc["B-first-epoch-guide", "note"]
    enough = claims_table("B", everything_measured("B", Estimate(0.5, 0.4, 0.6, 30))).set_index("claim_id")
    assert enough.loc["B-first-epoch-guide", "note"] == ""
    assert "No interval over 40 configurations." in table.loc["B-first-epoch-architecture", "note"]
    assert table.loc["B-first-epoch-architecture", "verdict"] == MAYBE
