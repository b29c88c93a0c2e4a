"""Chain of thought against direct prompting: what an answer counts as, and the paired tests by hand."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nngpt_lab.ground.errors import UsageError
from nngpt_lab.papers.augmentation_search import prompting_figures, prompting_tables
from nngpt_lab.papers.augmentation_search.answer_forms import FORMS, TYPES, answer_type, form, found_by_authors, reasons
from nngpt_lab.study import comparison

CODE = "import torchvision.transforms as T\n\ndef transform(norm):\n    return T.Compose([T.ToTensor()])"
BROKEN = CODE.replace("])", "]")
TAGGED = f"<tr>{CODE}</tr>"
REASONED = f"Reference 1 uses Pad and reaches 0.52. So keep Pad.\n{TAGGED}"


def rng():
    return np.random.default_rng(0)


# --------------------------------------------------------------------------------------------------------- one answer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (TAGGED, "tags alone"),
        (f"\n{TAGGED}\n", "tags alone"),
        (f"<tr>{BROKEN}</tr>", "tags alone"),
        (f"Reference 1 uses Pad.\n{TAGGED}", "text, then tags"),
        (f"{TAGGED}\nI hope this helps you.", "otherwise wrapped"),
        (f"Here it is:\n```python\n{CODE}\n```", "otherwise wrapped"),
        (f"```python\n{CODE}\n```", "otherwise wrapped"),
        (CODE, "otherwise wrapped"),
        (f"<tr>{CODE}", "otherwise wrapped"),
        (f"{TAGGED}\n{TAGGED}", "otherwise wrapped"),
        (f"<tr>... code ...</tr>\n{TAGGED}", "otherwise wrapped"),
        ("I cannot do that.", "nothing found"),
        ("", "nothing found"),
    ],
)
def test_forms(text, expected):
    assert form(text) == expected


@pytest.mark.parametrize(
    ("text", "style", "valid", "tokens", "expected"),
    [
        (TAGGED, "direct", True, 40, "clean"),
        (TAGGED, "cot", True, 40, "clean"),
        (f"First crop.\n{TAGGED}", "cot", True, 40, "clean"),
        (f"First crop.\n{TAGGED}", "direct", True, 40, "wrapped in noise"),
        (f"```python\n{CODE}\n```", "cot", True, 40, "wrapped in noise"),
        (f"{TAGGED}\n" + "and so on " * 40, "direct", True, 200, "wrapped in noise"),  # a run-on costs no valid answer
        (f"<tr>{BROKEN}</tr>", "direct", False, 40, "bad code"),
        (TAGGED, "direct", False, 40, "bad code"),
        (f"Well:\n```\n{BROKEN}\n```", "cot", False, 40, "bad code in noise"),
        ("No.", "cot", False, 3, "no answer"),
        (f"<tr>{CODE[:60]}", "direct", False, 199, "cut off"),
        ("word " * 200, "cot", False, 200, "cut off"),
    ],
)
def test_types(text, style, valid, tokens, expected):
    assert answer_type(text, style, valid, tokens, 200) == expected


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="<tr>/`\n def transform(norm):x"), st.booleans())
def test_any_text_has_one_form_and_one_type(text, valid):
    assert form(text) in FORMS and {type(found_by_authors(text)), type(reasons(text))} == {bool}
    assert answer_type(text, "direct", valid, 10, 100) in TYPES


def test_what_the_authors_would_have_found():
    assert found_by_authors(f"Well:\n{TAGGED}\nbye") and found_by_authors(f"{TAGGED}\n{TAGGED}")
    assert found_by_authors("As asked:\n" + CODE[CODE.index("def") :])  # the fallback of their first version ...
    assert not found_by_authors(f"As asked:\n{CODE}")  # ... which loses the imports
    assert found_by_authors(f"<tr>\n```python\n{CODE}\n```\n</tr>")
    assert not found_by_authors(f"{TAGGED}\nRespond in this format: <tr>... code ...</tr>")
    assert not found_by_authors(f"Look:\n```python\n{CODE}\n```\nIt pads each image.")
    assert not found_by_authors("nothing")


def test_reasoning_is_words_before_the_code_or_instead_of_it():
    assert reasons(REASONED) and reasons("The first reference works because it crops.")
    assert reasons(f"The first reference works because it crops.\n```python\n{CODE}\n```")
    for text in (TAGGED, f"Here is the code:\n{TAGGED}", f"{TAGGED}\nThis pads each image by two pixels.", ""):
        assert not reasons(text)
    assert reasons(f"<think>it should pad each image a little</think>{TAGGED}")


# ------------------------------------------------------------------------------------------------------------- tables


def answer(style="direct", valid=True, score=0.5, tokens=10, seed=0, epoch=1, position=0, **other) -> dict:
    row = {"model": "m", "style": style, "shots": 2, "tuned": False, "seed": seed, "epoch": epoch, "position": position}
    text = (REASONED if style == "cot" else TAGGED).replace(CODE, CODE if valid else BROKEN)
    row |= {"text": text, "tokens": tokens, "limit": 100, "valid": valid}
    return row | {"status": "ok" if valid else "syntax", "score": score if valid else np.nan} | other


def table(*rows: dict) -> pd.DataFrame:
    return prompting_tables.described(pd.DataFrame(rows))


def test_both_styles_are_cut_at_the_same_tokens():
    direct = [answer(position=i, tokens=10) for i in range(4)]
    cot = [answer("cot", position=i, tokens=tokens) for i, tokens in enumerate((15, 30, 25, 30))]
    rows = table(*cot, *direct)
    assert set(rows["budget"]) == {40}
    assert rows.groupby("style")["within"].sum().to_dict() == {"cot": 1, "direct": 4}  # 15 <= 40 < 15 + 30


def test_a_failed_answer_spends_tokens_too():
    rows = table(answer(valid=False, tokens=35), answer(position=1, tokens=10), answer("cot", tokens=40))
    assert rows.set_index(["style", "position"])["within"].to_dict() == {
        ("direct", 0): False,
        ("direct", 1): False,
        ("cot", 0): True,
    }


def test_epochs_by_hand():
    rows = table(
        answer(score=0.4),
        answer(position=1, valid=False),
        answer(epoch=2, valid=False),
        answer(epoch=3, score=0.6),
        answer(epoch=3, position=1, score=0.3, text=REASONED),
    )
    found = prompting_tables.epoch_table(rows, "smoke").set_index("epoch")
    assert found["sampled"].tolist() == [2, 1, 2] and found["valid"].tolist() == [1, 0, 2]
    assert found["best_so_far"].tolist() == [0.4, 0.4, 0.6] and found["reasoned"].tolist() == [0, 0, 1]
    assert found.loc[1, "tokens_per_valid"] == 20 and np.isnan(found.loc[2, "tokens_per_valid"])
    assert np.isnan(found.loc[2, "mean"]) and found.loc[3, "mean"] == pytest.approx(0.45)


def test_a_copy_is_valid_but_not_new():
    rows = table(answer(status="duplicate", score=np.nan), answer(position=1))
    assert rows["valid"].tolist() == [True, True] and rows["new"].tolist() == [False, True]
    assert set(rows["type"]) == {"clean"}


def test_types_and_failures_add_up():
    rows = table(
        answer(),
        answer(position=1, valid=False),
        answer("cot"),
        answer("cot", position=1, valid=False, status="shape"),
    )
    types, failures = prompting_tables.type_table(rows), prompting_tables.failure_table(rows)
    for found in (types, failures):
        assert (found.groupby("style")["count"].sum() == 2).all()
    assert set(types["type"]) == set(TYPES) and list(failures["status"].unique()) == ["ok", "syntax", "shape"]
    assert types.query("style == 'cot' and type == 'bad code'")["count"].item() == 1


def test_what_is_written_before_any_tuning_is_left_out():
    rows = pd.DataFrame([answer(), answer(tuned=True), answer(tuned=True, epoch=2)])
    assert prompting_tables.after_tuning(rows)[["tuned", "epoch"]].to_numpy().tolist() == [[False, 1], [True, 2]]


def test_an_answer_that_is_there_twice_or_no_answer_at_all_is_refused():
    with pytest.raises(UsageError, match="twice"):
        table(answer(), answer())
    with pytest.raises(UsageError, match="no answers"):
        prompting_tables.described(pd.DataFrame())


# -------------------------------------------------------------------------------------------------------- paired tests


def outcomes(both: int, only_direct: int, only_cot: int, neither: int, **other) -> list[dict]:
    pattern = [(True, True)] * both + [(True, False)] * only_direct + [(False, True)] * only_cot
    pattern += [(False, False)] * neither
    return [
        answer(style, valid, position=i, **other)
        for i, pair in enumerate(pattern)
        for style, valid in zip(("direct", "cot"), pair, strict=True)
    ]


def one_test(rows: pd.DataFrame, measure: str, method: str = "") -> pd.Series:
    found = prompting_tables.paired_tests(rows)
    found = found[(found["measure"] == measure) & found["method"].str.startswith(method)]
    assert len(found) == 1
    return found.iloc[0]


def test_mcnemar_by_hand():
    test = one_test(table(*outcomes(20, 9, 1, 10)), "valid")
    assert (test["n"], test["only_direct"], test["only_cot"]) == (40, 9, 1)
    assert test["difference"] == pytest.approx(8 / 40)
    assert test["p_value"] == pytest.approx(2 * (1 + 10) / 2**10)  # two-sided: at most one of ten coins
    first, second = 10 / 42, 2 / 42  # Bonett and Price (2012): one is added to both discordant cells
    reach = 1.959964 * np.sqrt((first + second - (first - second) ** 2) / 42)
    assert (test["difference_low"], test["difference_high"]) == pytest.approx(
        (first - second - reach, first - second + reach), abs=1e-6
    )


def test_only_common_samples_are_paired():
    rows = table(*outcomes(3, 1, 0, 0), answer(position=9), answer("cot", valid=False, position=8))
    assert one_test(rows, "valid")["n"] == 4


def test_over_three_seeds_the_seed_is_the_unit():
    scores = {0: (0.5, 0.4), 1: (0.7, 0.5), 2: (0.6, 0.3)}
    rows = [
        answer(style, seed=seed, score=score)
        for seed, pair in scores.items()
        for style, score in zip(("direct", "cot"), pair, strict=True)
    ]
    test = one_test(table(*rows), "mean")
    reach = 4.302653 * 0.1 / np.sqrt(3)
    assert (test["method"], test["n"]) == (comparison.PAIRED, 3)
    assert (test["difference"], test["difference_low"], test["difference_high"]) == pytest.approx(
        (0.2, 0.2 - reach, 0.2 + reach), abs=1e-6
    )
    equal = one_test(table(*rows), "valid", "paired, but")
    assert equal["difference"] == 0 and np.isnan(equal["difference_low"])


def test_one_seed_has_an_interval_that_finds_a_clear_difference_and_only_that():
    draws = np.random.default_rng(1)
    rows = [answer(s, position=i, score=0.5 + 0.01 * draws.random()) for i in range(30) for s in ("direct", "cot")]
    test = one_test(table(*rows), "mean")
    assert (
        test["difference_low"] < test["difference"] < test["difference_high"]
        and test["difference_low"] < 0 < test["difference_high"]
    )
    worse = [row | {"score": row["score"] - 0.1 * (row["style"] == "cot")} for row in rows]
    assert one_test(table(*worse), "mean")["difference_low"] > 0.09
    assert one_test(table(*worse), "mean")["method"] == comparison.WELCH


def test_few_scores_have_no_interval():
    test = one_test(table(*outcomes(3, 0, 0, 5)), "mean")
    assert np.isnan(test["difference_low"]) and test["method"] == comparison.TOO_FEW_SAMPLES


# ------------------------------------------------------------------------------------------------------------ verdicts


def verdict(rows: list[dict], part: str) -> str:
    found = prompting_tables.verdicts(prompting_tables.paired_tests(table(*rows)))
    row = found.set_index("part").loc[part]
    return f"{row['verdict']}: {row['note']}".removesuffix(": ")


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((20, 12, 1, 7), "reproduced"),
        ((20, 1, 12, 7), "not reproduced"),
        ((20, 4, 3, 13), "inconclusive"),
        ((900, 2, 2, 96), "no effect"),
        ((1, 4, 0, 1), "inconclusive"),  # the interval leaves out zero, but four coins can all fall alike
        ((0, 0, 0, 8), "not tested: both zero"),
    ],
)
def test_verdicts_on_validity(counts, expected):
    assert verdict(outcomes(*counts), "fewer valid answers") == expected


def test_verdicts_on_accuracy():
    assert verdict(outcomes(0, 8, 0, 8), "lower accuracy") == "not tested: no number in one style"
    rows = outcomes(30, 0, 0, 0)
    worse = [row | {"score": row["score"] - 0.1 * (row["style"] == "cot") + 0.001 * row["position"]} for row in rows]
    assert verdict(worse, "lower accuracy") == "reproduced"


def test_a_model_that_does_not_reason_when_asked_tests_nothing():
    rows = [row | {"text": TAGGED} for row in outcomes(20, 12, 1, 7)]
    found = prompting_tables.verdicts(prompting_tables.paired_tests(table(*rows)))
    assert set(found["verdict"]) == {"not tested"} and set(found["note"]) == {"few answers reason"}
    assert set(found["reasoned_cot"]) == {0}


def test_tuned_models_are_judged_over_seeds():
    rows = [row for seed in range(3) for row in outcomes(10, 4 * seed, 0, 10 - 4 * seed, seed=seed, tuned=True)]
    tests = prompting_tables.paired_tests(table(*rows))
    assert tests[tests["measure"] == "valid"]["method"].to_list() == [comparison.PAIRED]  # McNemar would find one
    assert verdict(rows, "fewer valid answers") == "inconclusive"
    assert (
        verdict([row for row in rows if row["seed"] < 2], "fewer valid answers") == "not tested: two seeds: no interval"
    )


# -------------------------------------------------------------------------------------------------------------- figures


@pytest.mark.parametrize("rows", [outcomes(6, 2, 1, 3), outcomes(0, 0, 0, 2), outcomes(3, 1, 0, 0, tuned=True)])
def test_figures_of_anything(rows):
    described = table(*rows)
    arms, epochs = prompting_tables.arm_table(described, rng(), 50), prompting_tables.epoch_table(described, "smoke")
    made = [
        prompting_figures.valid_rate(arms),
        prompting_figures.tokens_per_valid(arms),
        prompting_figures.accuracy(arms, described),
        prompting_figures.answer_types(prompting_tables.type_table(described)),
        prompting_figures.per_epoch(epochs),
    ]
    for figure in made:
        figure.canvas.draw()


def test_a_figure_shows_the_tables_numbers():
    arms = prompting_tables.arm_table(table(*outcomes(6, 2, 0, 2)), rng(), 50)
    axis = prompting_figures.valid_rate(arms).axes[0]
    shown = sorted(float(line.get_xdata()[0]) for line in axis.lines if len(line.get_xdata()) == 1)
    assert {0.6, 0.8} <= {round(value, 6) for value in shown}
