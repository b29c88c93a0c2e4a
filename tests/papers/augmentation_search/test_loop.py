"""Paper A's live loop: its stations as pure functions; the whole loop with the nano coder; killed and resumed."""

import contextlib
import dataclasses
import os
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest

from nngpt_lab.candidates.ledger import Ledger
from nngpt_lab.candidates.outcome import Kind
from nngpt_lab.candidates.screening import Screened, screen
from nngpt_lab.corpora.augmentations import parse_pipeline
from nngpt_lab.corpora.code import code_hash
from nngpt_lab.ground.errors import LabError, UsageError
from nngpt_lab.llm.prompts import prompt
from nngpt_lab.papers.augmentation_search import archive as archives
from nngpt_lab.papers.augmentation_search import checks, loop
from nngpt_lab.papers.augmentation_search.design import ARMS, DEMO, DESIGNS, GPU, PAPER, SMOKE
from nngpt_lab.papers.augmentation_search.generator import function, generate
from nngpt_lab.papers.augmentation_search.lab import Lab, open_lab
from nngpt_lab.papers.augmentation_search.pairs import pair_examples
from nngpt_lab.papers.augmentation_search.prompting import styled
from nngpt_lab.sandbox.status import Status
from nngpt_lab.study.design import get_arms
from tests.helpers.killed import adapters, content, run_until, samples

HALF = function("RandomInvert(p=0.5)")
SAME = HALF.replace("RandomInvert(p=0.5)", "RandomInvert(p = 0.5)") + "\n# the same\n"


def corpus(size: int = 40) -> pd.DataFrame:
    """A stand-in for the published functions, whose recorded scores rise with their number; the last one failed."""
    codes = sorted({generate(np.random.default_rng(k)) for k in range(size)})
    table = pd.DataFrame({"name": [f"{k:03d}" for k in range(len(codes))], "code": codes})
    operations = [parse_pipeline(code).operations for code in codes]
    scores = np.linspace(0.2, 0.6, len(codes))
    scores[-1] = np.nan
    return table.assign(code_hash=[code_hash(code) for code in codes], operations=operations, score=scores)


def archive(size: int = 6) -> pd.DataFrame:
    table = corpus().head(size)
    return table.assign(status="ok", score=np.linspace(0.31, 0.79, size))


def rng():
    return np.random.default_rng(0)


# -------------------------------------------------------------------------------------------------------------- archive


def test_the_start_is_drawn_from_all_ranges_of_scores():
    table = corpus().dropna(subset="score")
    drawn = archives.stratified(table, 10, rng())
    assert drawn["score"].is_monotonic_increasing and drawn["code_hash"].is_unique and len(drawn) == 10
    assert drawn["score"].iloc[0] < 0.25 and drawn["score"].iloc[-1] > 0.55
    assert len(archives.stratified(table, 99, rng())) == len(table)
    shuffled = table.sample(frac=1, random_state=1)
    pd.testing.assert_frame_equal(archives.stratified(shuffled, 10, rng()), drawn)
    assert not archives.stratified(table, 10, np.random.default_rng(1))["code"].equals(drawn["code"])


def test_the_threshold_is_an_accuracy_or_a_quantile():
    table = pd.DataFrame({"score": [0.1, 0.2, 0.3, 0.4, 0.5, np.nan]})
    assert archives.threshold(PAPER, table) == 0.40
    assert archives.threshold(DEMO, table) == pytest.approx(0.3)
    with pytest.raises(LabError, match="only 1 of 2"):
        archives.threshold(DEMO, table.tail(2))


# ---------------------------------------------------------------------------------------------------------------- texts


def test_questions_show_two_different_functions_with_their_accuracies():
    design = dataclasses.replace(DEMO, samples=30)
    table = archive()
    asked = [messages[-1]["content"] for messages in loop.questions(design, table, rng())]
    assert len(asked) == 30 and asked == [m[-1]["content"] for m in loop.questions(design, table, rng())]
    for text in asked:
        shown = [code for code in table["code"] if code in text]
        assert len(shown) == 2 or any(a != b and a in b for a in table["code"] for b in shown)
        assert "(accuracy 0." in text and "$" not in text
    better_first = [text.split("accuracy ")[1][:4] > text.split("accuracy ")[2][:4] for text in asked]
    assert 0 < sum(better_first) < 30  # no order between them


def test_few_samples_refer_to_different_functions():
    asked = loop.questions(dataclasses.replace(DEMO, samples=6), archive(), rng())
    firsts = [messages[-1]["content"].split("accuracy ")[1][:4] for messages in asked]
    assert len(set(firsts)) == 6


@pytest.mark.parametrize("design", DESIGNS.values(), ids=lambda design: design.name)
def test_every_design_can_ask(design):
    small = dataclasses.replace(design, samples=2)
    assert len(loop.questions(small, archive(), rng())) == 2
    assert prompt(design.pair_prompt).fields == {"accuracy", "transform_code"}


# --------------------------------------------------------------------------------------------------------------- checks


def test_layout_and_comments_make_no_difference_but_parameters_do():
    assert checks.read(HALF).code_hash == checks.read(SAME).code_hash
    assert checks.read(HALF).code_hash != checks.read(function("RandomInvert(p=0.6)")).code_hash
    assert checks.read(HALF).operations == ("RandomInvert",) and checks.read(HALF).parameters == '[{"p": 0.5}]'


@pytest.mark.parametrize(
    "code",
    [
        HALF.replace("transforms.Resize((64, 64)), ", ""),
        HALF.replace("(64, 64)", "(128, 128)"),
        HALF.replace(", transforms.Normalize(*norm)", ""),
        "def transform(norm):\n    return lambda image: image",
        "def transform(norm):\n    steps = []\n    return transforms.Compose(steps)",
        HALF.replace("p=0.5", "p=" + "not " * 900 + "1"),
    ],
    ids=["no Resize", "another side", "no Normalize", "no Compose", "no list", "too deep to be written out"],
)
def test_what_lacks_the_structure_is_a_contract_failure_and_says_so(code):
    assert checks.read(code) is None
    (_, one), *rest = checks.new_ones(iterator([code]), {})
    assert one.status in (Status.CONTRACT, Status.SYNTAX) and not rest
    assert "Resize((64, 64)), ToTensor, Normalize" in one.message or one.status == Status.SYNTAX


def iterator(codes):
    yield from ((place, screen(code, Kind.AUGMENTATION)) for place, code in enumerate(codes))


def test_what_was_there_before_the_epoch_is_not_evaluated_again():
    seen = {checks.read(HALF).code_hash: True}
    found = [one.status for _, one in checks.new_ones(iterator([SAME, function(), "nothing"]), seen)]
    assert found == [Status.DUPLICATE, Status.OK, Status.NO_CODE]


def judged(codes, scores, seen=None, limit=0.5):
    screened = [one for _, one in checks.new_ones(iterator(codes), seen or {})]
    rows = pd.DataFrame({"position": range(len(codes)), "code_hash": [s.candidate.code_hash for s in screened]})
    rows = rows.assign(status=[s.status.value for s in screened], score=scores, parameters=pd.NA, tokens=9)
    seen = {} if seen is None else seen
    return checks.judge(rows, screened, seen, corpus(), limit), seen, screened


def test_of_equal_functions_of_one_epoch_the_first_counts():
    table, seen, _ = judged([HALF, function(), SAME], [0.6, 0.4, 0.6])
    assert table["status"].tolist() == ["ok", "ok", "duplicate"]
    assert table["score"].tolist()[:2] == [0.6, 0.4] and np.isnan(table["score"][2])
    assert table["accepted"].tolist() == [True, False, False] and table["valid"].tolist() == [True] * 3
    assert seen == {checks.read(HALF).code_hash: True, checks.read(function()).code_hash: True}


def test_a_copy_is_as_valid_as_what_it_copies():
    broken, known = function("CenterCrop(size=30)"), corpus()
    seen = {checks.read(broken).code_hash: False, known["code_hash"][0]: True}
    table, _, _ = judged([broken, known["code"][0]], [np.nan, np.nan], seen)
    assert table["status"].tolist() == ["duplicate"] * 2 and table["valid"].tolist() == [False, True]
    assert table["copy"].tolist() == [False, True] and table["known_sequence"].tolist()[1]
    assert not table["accepted"].any()


def test_what_is_accepted_joins_the_archive_tidied():
    table, _, screened = judged([SAME, function(), "prose"], [0.6, 0.4, np.nan])
    joined = archives.joining(table, screened)
    assert joined["code"].tolist() == [HALF] and joined["score"].tolist() == [0.6]
    assert joined["code_hash"].tolist() == [code_hash(HALF)] and joined["status"].tolist() == ["ok"]
    assert archives.joining(table[table["score"] < 0], screened).empty


def test_failures_keep_their_types_and_have_no_operations():
    table, _, _ = judged(["def transform(norm):\n    return (", "words"], [np.nan, np.nan])
    assert table["status"].tolist() == ["syntax", "no_code"]
    assert table["operations"].isna().all() and not table[["valid", "copy", "known_sequence"]].any(axis=None)


# ------------------------------------------------------------------------------------------------------------- designs


def test_published_numbers():
    decoding, recipe = PAPER.decoding, PAPER.recipe
    assert (PAPER.coder, PAPER.samples, PAPER.threshold, PAPER.relative) == ("OlympicCoder-7B", 10, 0.40, False)
    assert (decoding.temperature, decoding.top_k, decoding.top_p, decoding.max_new_tokens) == (0.8, 70, 0.9, 16384)
    assert (recipe.rank, recipe.alpha, recipe.dropout, recipe.lr, recipe.epochs) == (32, 32, 0.05, 1.5e-4, 3)
    assert (recipe.batch, recipe.accumulate, recipe.warmup, recipe.max_grad_norm) == (1, 8, 0.05, 1.0)
    assert recipe.targets == ("q_proj", "k_proj", "v_proj", "o_proj") and recipe.layers == tuple(range(24))
    assert (recipe.optimizer, PAPER.four_bit, PAPER.pairs_per_epoch) == ("paged_adamw_8bit", True, 4096)
    cot = styled(PAPER, "cot")
    assert (cot.style, cot.prompt) == ("cot", "transform_cot") and not GPU.four_bit


def test_the_hash_covers_what_changes_a_run_and_no_more():
    assert dataclasses.replace(DEMO, epochs=3, name="other", source="").hash() == DEMO.hash()
    assert dataclasses.replace(DEMO, samples=17).hash() != DEMO.hash()
    assert dataclasses.replace(DEMO, recipe=dataclasses.replace(DEMO.recipe, lr=0.1)).hash() != DEMO.hash()
    assert len({design.hash() for design in DESIGNS.values()}) == len(DESIGNS)


def test_nonsense_is_refused():
    for change in ({"style": "poem"}, {"samples": 0}, {"start": 3}, {"threshold": 40}):
        with pytest.raises(UsageError):
            dataclasses.replace(DEMO, **change)
    with pytest.raises(UsageError, match="did you mean 'nano-augment'"):
        DESIGNS["nano-augmnt"]
    for wrong in ("lop", "", "loop, none"):
        with pytest.raises(UsageError):
            get_arms(wrong, ARMS)


def test_arms_are_read_from_text_and_differ_in_one_thing():
    assert [arm.name for arm in get_arms("no tuning, loop", ARMS)] == ["loop", "no tuning"]
    assert get_arms("all", ARMS) == list(ARMS.values())
    same = dataclasses.replace(ARMS["no tuning"], name="loop", differs="the paper's loop", tuned=True)
    assert same == ARMS["loop"]


# ------------------------------------------------------------------------------------------------------- the whole loop

TINY = dataclasses.replace(SMOKE, epochs=2, start=4, samples=4)
COLUMNS = ["position", "code_hash", "tokens", "status", "score", "valid", "accepted", "copy", "operations"]


@contextlib.contextmanager
def opened(folder: Path):
    with (
        mock.patch("nngpt_lab.papers.augmentation_search.lab.known_functions", corpus),
        Ledger(folder / "ledger.sqlite") as ledger,
        open_lab(TINY, ledger, folder, workers=1, progress=False) as lab,
    ):
        yield lab


def run_all(folder: Path, design=TINY, arms=("loop",), shared: Lab | None = None) -> pd.DataFrame:
    """Arms in a folder of their own; without a ``shared`` lab, whose model and evaluators are used, in a new one."""
    with (
        Ledger(folder / "ledger.sqlite") as ledger,
        contextlib.nullcontext(shared) if shared else opened(folder) as lab,
    ):
        own = dataclasses.replace(lab, design=design, ledger=ledger, folder=folder)
        return pd.concat([loop.run(own, ARMS[arm], 0) for arm in arms], ignore_index=True)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with opened(tmp_path_factory.mktemp("lab")) as lab:
        yield lab


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, shared):
    folder = tmp_path_factory.mktemp("live")
    return folder, run_all(folder, shared=shared)


def test_the_loop_runs_and_everything_is_in_the_ledger(undisturbed):
    folder, table = undisturbed
    assert len(table) == 8 and len(content(folder)["samples"]) == 8 and adapters(folder)
    assert (table["accepted"] <= table["valid"]).all() and table["tokens"].min() > 0
    assert table[["sampling", "evaluation", "selection", "tuning"]].notna().all(axis=None)
    assert (table["score"].notna() == (table["status"] == "ok")).all()


def test_arms_begin_alike(undisturbed, shared, tmp_path):
    (tmp_path / "ledger.sqlite").write_bytes((undisturbed[0] / "ledger.sqlite").read_bytes())
    others = run_all(tmp_path, arms=("no tuning", "shuffled pairs"), shared=shared)
    first = undisturbed[1].query("epoch == 1").set_index("position")["code_hash"]
    for _, part in others[others["epoch"] == 1].groupby("arm"):
        assert part.set_index("position")["code_hash"].equals(first)


def test_repeating_it_changes_nothing_and_does_nothing(undisturbed, shared):
    folder, table = undisturbed
    before, weights = content(folder), adapters(folder)
    again = run_all(folder, shared=shared)
    pd.testing.assert_frame_equal(again, table)  # the seconds too: they are those of the first time
    assert content(folder) == before and adapters(folder) == weights


@pytest.mark.skipif(os.name != "posix", reason="kill -9 is POSIX")
def test_with_more_epochs_it_goes_on_and_killed_it_resumes_to_the_same_ledger_and_adapters(
    undisturbed, shared, tmp_path
):
    run_all(tmp_path, dataclasses.replace(TINY, epochs=1), shared=shared)
    run_until(lambda: samples(tmp_path) > TINY.samples, __name__, tmp_path)  # in the second epoch, after tuning
    table = run_all(tmp_path, shared=shared)
    pd.testing.assert_frame_equal(table[COLUMNS], undisturbed[1][COLUMNS])
    assert content(tmp_path) == content(undisturbed[0])
    assert adapters(tmp_path) == adapters(undisturbed[0])


def test_pairs_teach_the_better_one_and_shuffled_ones_by_lot():
    seen = []
    for shuffled in (False, True):
        pairs = loop.draw_pairs(archive(), np.random.default_rng(1), shuffled=shuffled)
        by_code = archive().set_index("code")["score"]
        seen.append((by_code[pairs["better_code"]].to_numpy() > by_code[pairs["worse_code"]].to_numpy()).tolist())
    assert all(seen[0]) and not all(seen[1])


def test_an_example_asks_with_the_worse_and_answers_with_the_better(undisturbed):
    from nngpt_lab.llm import models

    tokenizer = models.load("nano-coder").tokenizer
    better = function("RandomCrop(size=30)")
    pair = pd.DataFrame({"worse_code": [HALF], "worse_score": 0.514, "better_code": better, "better_score": 0.6})
    for style, has_rationale in (("direct", False), ("cot", True)):
        (made,) = pair_examples(tokenizer, pair, DEMO.pair_prompt, style)
        asked, answered = (tokenizer.decode(made.ids[part]) for part in
                           (slice(made.prompt_length), slice(made.prompt_length, None)))  # fmt: skip
        assert "RandomInvert(p=0.5)" in asked and "(accuracy 0.51)" in asked and "RandomCrop" not in asked
        assert "RandomCrop(size=30)" in answered and ("Reference 1" in answered) == has_rationale


def test_screened_without_code_has_no_reading():
    one = Screened(screen("prose", Kind.AUGMENTATION).candidate, Status.NO_CODE, "", None)
    assert checks.read(one.candidate.code) is None
