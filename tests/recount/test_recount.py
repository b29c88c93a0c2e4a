"""The numbers of docs/findings.md, counted a second time: each is read out of its sentence, and compared."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pandas as pd
import pytest

from tests.recount import loops, paper_a, paper_b, paper_c, published
from tests.recount.interval import Found, clustered

pytestmark = pytest.mark.slow  # everything is read and counted a second time, half a minute of a core
HERE = Path(__file__).parent
ROOT = HERE.parents[1]
REFERENCE = ROOT / "results" / "reference" / "demo"
DATA = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Data, licences")[2]
TEXT = " ".join(((ROOT / "docs" / "findings.md").read_text(encoding="utf-8") + DATA).replace("*", "").split())
NUMBER = r"([+-]?\d+(?:\.\d+)?)"
WITH_INTERVAL = rf"{NUMBER}(?: %| points)?,? \[{NUMBER}, {NUMBER}\]"


def numbers(sentence: str) -> list[float]:
    """README's numbers in a sentence: ``#`` stands for a number, ``[#]`` for one with its interval (three numbers)."""
    pattern = re.escape(sentence).replace(r"\[\#\]", WITH_INTERVAL).replace(r"\#", NUMBER)
    found = re.findall(pattern, TEXT)
    assert len(found) == 1, f"README says {len(found)} times: {sentence}"
    return [float(number) for number in (found[0] if isinstance(found[0], tuple) else found)]


def assert_inside(sentence: str, ours: float) -> None:
    """The recount lies within the interval that README gives, read to the digits shown."""
    value, low, high = numbers(sentence)
    assert low - 0.05 <= ours <= high + 0.05, f"{sentence}: README {value} [{low}, {high}], recount {ours:.2f}"


def assert_same(sentence: str, *ours: Found | float) -> None:
    """README's numbers are the recount's, to the digits shown."""
    flat = [float(number) for one in ours for number in (one if isinstance(one, Found) else [one])]
    said = numbers(sentence)
    assert [f"{one:.1f}" for one in said] == [f"{one:.1f}" for one in flat], sentence


def test_the_recount_shares_no_code_with_the_lab():
    for file in HERE.glob("*.py"):
        nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
        names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        names += [node.module or "." for node in nodes if isinstance(node, ast.ImportFrom)]
        assert not [name for name in names if name.partition(".")[0] in ("nngpt_lab", "keep", "")], file.name


def had(read):
    try:
        return read()
    except RuntimeError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def lemur():
    return had(published.lemur)


@pytest.fixture(scope="module")
def functions():
    return had(published.functions)


@pytest.fixture(scope="module")
def questions(lemur):
    return paper_c.questions(*lemur)


# ---------------------------------------------------------------------------------------------------------------- data


def test_what_is_published(lemur, functions):
    assert f"LEMUR: {len(lemur[1]):,} architectures" in TEXT
    by_llm = functions["by_llm"]
    scored = functions["score"].notna()
    random = f"{(~by_llm).sum():,} augmentation functions, {scored.sum():,} with a score"
    assert f"{random}; {by_llm.sum()} of the LLM's, without" in TEXT
    assert not (scored & by_llm).any()
    assert f"{scored.sum():,} functions have a recorded score" in TEXT
    assert f"{len({name for used in functions['steps'] for name, _ in used})} operations" in TEXT


# ------------------------------------------------------------------------------------------------------------- paper C


def test_what_names_code_and_family_answer(lemur, questions):
    ours = paper_c.held_out_programs(questions, lemur[1])
    assert_inside("the two data sets' names alone give [#] on architectures never seen", ours["names"].value)
    assert_inside("TF-IDF of the code gives [#]", ours["code"].value)
    assert_inside("the family's name without code [#]", ours["family"].value)
    assert_inside("where the family says nothing either, [#]", ours["code within families"].value)


def test_what_code_answers_of_a_family_never_seen(lemur, questions):
    ours = paper_c.held_out_families(questions, lemur[1])
    assert_inside("the same on families never seen: [#]", ours.value)


@pytest.fixture(scope="module")
def answered(questions):
    kept = REFERENCE / "03_code_to_prediction" / "answers.parquet"
    return paper_c.decided(pd.read_parquet(kept), questions)


def test_what_our_tuned_model_answers_from_what_it_is_shown(answered):
    whole, other, none, masked = (
        paper_c.altered(answered, condition, "published-all-all")
        for condition in ("as-asked", "another-network", "no-code", "names-masked")
    )
    assert_inside("3.3 M weights reaches [#] from code", whole.value)
    said = numbers("reaches [#] from code, # % from another network's code, # % from none; with the names masked # %")
    assert said[0] == round(whole.value, 1)
    assert said[3:] == [pytest.approx(one.value, abs=0.051) for one in (other, none, masked)]
    assert [whole.low, whole.high] == pytest.approx(said[1:3], abs=1)


def test_what_our_tuned_model_reads_where_names_say_nothing(answered):
    found = {prompt: paper_c.tuned(answered, prompt, "architectures-a-fifth-balanced") for prompt in ("code", "scores")}
    code, low, high, answers = numbers("(3.3 M weights): [#] of # answers")
    ours = {prompt: clustered(100 * rows["right"], rows["program"]) for prompt, rows in found.items()}
    assert len(found["code"]) == answers and ours["code"].value == pytest.approx(code, abs=0.051)
    assert [ours["code"].low, ours["code"].high] == pytest.approx([low, high], abs=0.5)
    assert ours["scores"].value == pytest.approx(*numbers("but # %, too, where"), abs=0.051)


def test_how_many_programs_are_independent(questions):
    assert questions["program"].nunique() == pytest.approx(1741, rel=0.01)


def test_the_ceiling_depends_on_whose_labels_are_balanced(lemur, questions):
    """Half of the trials agrees with the other half on which data set is the better one in 59 % of the questions where
    the labels of all trials are balanced, which are those that are asked, and in 55 % where one half's own are."""
    both = paper_c.halves(lemur[0]).merge(questions, on=["name", "a", "b"])
    asked, own = (paper_c.agreement(both, label) for label in ("a_wins", "first"))
    assert asked == pytest.approx(59.1, abs=1.2) and paper_c.ceiling(asked) == pytest.approx(71.4, abs=1.5)
    assert own == pytest.approx(54.5, abs=1.0) and paper_c.ceiling(own) == pytest.approx(65.0, abs=1.5)


# ------------------------------------------------------------------------------------------------------------- paper B


def test_the_first_epoch_as_a_guide(lemur):
    found = paper_b.by_dataset(lemur[0])
    low, high = numbers("# to # on the seven data sets")
    assert (len(found), low, high) == (7, round(found.min(), 2), round(found.max(), 2))
    ours, networks, configurations = paper_b.same_protocol(*lemur)
    value, low, high, counted = numbers("as in the loop: [#] over # configurations")
    assert (value, counted) == (round(ours.value, 2), configurations) and networks == 964
    assert (ours.low, ours.high) == pytest.approx((low, high), abs=0.1)


# ------------------------------------------------------------------------------------------------------------- paper A


def test_the_llms_choice_of_operations(functions):
    ours = paper_a.cues(functions)
    assert_same("predicted accuracy [#] over copying", ours["tuning targets"])
    assert_same("(# over accepted corpus functions)", ours["corpus"].value)


def test_ridge_regression_searches(functions):
    """With 200 universes of its own. A ridge with a fixed penalty of 3 takes 3.8 times fewer, one with the best of 0.1,
    1 and 10 takes 4.2; the lab's penalty is chosen by the functions that are known."""
    both, ours = paper_a.ridge_search(functions)
    assert_inside("ridge regression evaluates # times fewer [#, #] than random order", ours.value)
    assert both.shape[1] == 200


def test_ridge_regression_orders(functions):
    ours, most = paper_a.ridge_ordering(functions)
    assert_inside("ridge is right in [#] of the pairs", ours.value)
    assert numbers("(noise allows # %)")[0] == pytest.approx(most, abs=0.6)


def test_how_many_pairs_flip(functions):
    """One in five of the pairs over the whole corpus, one in four in the pool that is trained on."""
    assert paper_a.flips(functions) == pytest.approx(0.207, abs=0.01)
    assert paper_a.flips(functions, least=paper_a.ACCEPTED) == pytest.approx(0.246, abs=0.01)


# --------------------------------------------------------------------------------------------------------- live loops


def table(notebook: str, name: str) -> pd.DataFrame:
    return pd.read_csv(REFERENCE / notebook / "tables" / f"{name}.csv")


def test_paper_bs_loop():
    ours = loops.controls(table("01_memorization_to_creativity", "cycles"))
    plain, shuffled, unfiltered = "no tuning", "shuffled scores", "no novelty filter"
    assert_same("cycles lie [#] over the same loop without tuning", ours[plain, "mean"])
    assert_same("without tuning, [#] over tuning on shuffled scores", ours[shuffled, "mean"])
    assert_same("from 41 to 87 % ([#])", ours[plain, "valid"])
    assert_same("cannot be told ([#] over shuffled ones)", ours[shuffled, "valid"])
    assert_same("accuracy: [#] over shuffled scores", ours[shuffled, "mean"])
    assert_same("shuffled scores, [#] over random valid networks", ours["random pairs", "mean"])
    assert_same("The best of a cycle rises, too: [#] over no tuning", ours[plain, "best"])
    assert_same("over no tuning, [#] over shuffled scores. The novelty", ours[shuffled, "best"])
    assert_same("the valid rate is [#] with it", ours[unfiltered, "valid"])
    assert_same("falls cannot be told ([#]).", ours[unfiltered, "over"])


def test_paper_as_loop():
    ours = loops.live(table("02_brute_force_to_semantic_insight", "live_epochs"))
    assert_same("the functions that the loop writes score [#] over the same model", ours["no tuning", "mean"])
    assert_same("from the scores: [#] over tuning on shuffled pairs", ours["shuffled pairs", "mean"])
    assert_same("and [#] over the authors' generator", ours["random generator", "mean"])
    assert_same("([#] over shuffled pairs), because", ours["shuffled pairs", "best"])


def test_chain_of_thought():
    ours = loops.styles(table("cot_vs_direct", "cot_vs_direct"))
    shares = [ours[f"valid {style}"].value for style in ("direct", "cot")]
    assert_same("# % of the direct answers are valid, # % of those with a rationale first", *shares)
    assert_same("rationale first, [#], 3 seeds", ours["valid"])
    assert_same("new ones are # and # %", *(ours[f"new {style}"].value for style in ("direct", "cot")))
    assert_same("more accurate cannot be told ([#])", ours["mean"])


def test_cycles_are_counted_from_the_texts():
    """Each text, status and score that the reference kept, against the table of its cycles."""
    folder = REFERENCE / "01_memorization_to_creativity"
    if not (folder / "samples.parquet").exists():
        pytest.skip("this reference run is older than results/keep.py, which keeps texts and scores")
    kept = [pd.read_parquet(folder / f"{name}.parquet") for name in ("samples", "evaluations")]
    ours, theirs = loops.cycles_from_texts(*kept), table("01_memorization_to_creativity", "cycles")
    both = ours.merge(theirs, on=["arm", "seed", "cycle"], suffixes=("", " in the table"))
    assert len(both) == len(theirs)
    for column in ("sampled", "valid", "trained", "mean", "best"):
        pd.testing.assert_series_equal(
            both[column], both[f"{column} in the table"], check_names=False, check_dtype=False, rtol=1e-9
        )
