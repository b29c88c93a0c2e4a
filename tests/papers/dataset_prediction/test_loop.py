"""Paper C's experiment with a random model of some thousand weights: what is asked, divided, kept and resumed."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from nngpt_lab.ground.errors import UsageError
from nngpt_lab.llm.likelihood import log_likelihoods
from nngpt_lab.llm.models import Coder
from nngpt_lab.llm.prompts import encode, files, prompt
from nngpt_lab.papers.dataset_prediction import answers as paper_answers
from nngpt_lab.papers.dataset_prediction import asking, division
from nngpt_lab.papers.dataset_prediction import loop as dp
from nngpt_lab.papers.dataset_prediction.design import DESIGNS, PROMPTS, SMOKE
from nngpt_lab.papers.dataset_prediction.inputs import View, alterations
from nngpt_lab.papers.dataset_prediction.lab import Lab, Run
from nngpt_lab.papers.dataset_prediction.questions import DATASETS
from nngpt_lab.study.design import resized
from tests.helpers.single_thread import one_thread  # noqa: F401

TEMPLATE = (
    "{% for message in messages %}{{ '<' + message['role'] + '>' + message['content'] + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
RUN = Run("code", "architectures", "a fifth", "balanced", seed=0)
DESIGN = replace(
    SMOKE,
    recipe=replace(SMOKE.recipe, rank=2, batch=4),
    epochs=2,
    train=8,
    validation=6,
    test=6,
    view=View(60),
    batch=4,
)


def new_coder(context: int = 2048) -> Coder:
    """A random Llama over bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate(["</s>", *alphabet])}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="</s>")
    tokenizer.chat_template = TEMPLATE
    sizes = {"vocab_size": 257, "hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 24}
    config = LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=context)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).eval()
    model.generation_config.eos_token_id = 0
    return Coder(model, tokenizer, "tiny", {"name": "tiny"})


@pytest.fixture(scope="module")
def questions() -> pd.DataFrame:
    rng, rows = np.random.default_rng(0), []
    for i in range(60):
        for first, second in combinations(("cifar-10", "cifar-100", "mnist", "svhn"), 2):
            norms = rng.random(2).round(4)
            wins = bool(norms[0] >= norms[1])
            rows.append({"architecture": f"net-{i}", "family": f"family-{i % 4}", "group": f"g{i // 2}"}
                        | {"dataset_1": first, "dataset_2": second, "pair": f"{first} / {second}", "norm_1": norms[0]}
                        | {"norm_2": norms[1], "first_wins": wins, "answer": first if wins else second})  # fmt: skip
    return pd.DataFrame(rows).assign(near_duplicates=lambda q: "n" + q["group"].str[1:-1])


@pytest.fixture
def lab(questions, tmp_path) -> Lab:
    return new_lab(questions, tmp_path)


def new_lab(questions: pd.DataFrame, folder: Path, design=DESIGN, context: int = 2048) -> Lab:
    code = {f"net-{i}": f"class Net{i}:\n    width = {8 * i}\n    depth = {i}\n" for i in range(60)}
    return Lab(design, new_coder(context), folder, questions, code, progress=False)


# ----------------------------------------------------------------------------------------------------------- questions


@pytest.mark.parametrize("split", division.ALL_SPLITS)
@pytest.mark.parametrize("question_set", ["all", "balanced"])
def test_the_three_parts_keep_what_the_split_promises(questions, split, question_set):
    for part in division.folds(DESIGN, questions, split, 0):
        this = replace(RUN, split=split, part=part, question_set=question_set)
        parts = division.divide(replace(DESIGN, train=60, validation=20, test=30), questions, this)
        train, validation, test = parts.train, parts.validation, parts.test
        if split == "published":
            assert set(test.index) <= set(train.index) and set(validation.index) <= set(train.index)
        else:
            column = "near_duplicates" if split == "near-duplicates" else "group"
            assert not set(train[column]) & set(validation[column])
            assert split == "dataset" or not set(train[column]) & set(test[column])
        if split == "families":
            assert set(test["family"]) == {part} and part not in set(train["family"])
        if split == "dataset":
            assert ((test["dataset_1"] == part) | (test["dataset_2"] == part)).all()
            assert not ((train["dataset_1"] == part) | (train["dataset_2"] == part)).any()
        assert len(train) <= 60 and len(validation) <= 20 and 0 < test["sampled"].sum() <= 30
        if question_set == "balanced":
            for questions_of in (validation, test[test["sampled"]]) + ((train,) if split != "published" else ()):
                wins = questions_of.groupby(["pair", "answer"]).size().unstack(fill_value=0)
                won = {tuple(row[row > 0]) for _, row in wins.iterrows()}
                assert all(len(counts) == 2 and counts[0] == counts[1] for counts in won)


def test_a_division_depends_on_the_seed_and_not_on_prompt_or_model(questions):
    one, same, other = (
        division.divide(DESIGN, questions, this)
        for this in (RUN, replace(RUN, prompt="metadata"), replace(RUN, seed=1))
    )
    pd.testing.assert_frame_equal(one.test, same.test)
    assert set(one.test.index) != set(other.test.index)


def test_the_first_thirty_are_the_tables_first_where_nothing_is_balanced(questions):
    this = replace(RUN, split="published", part="all", question_set="all")
    parts = division.divide(DESIGN, questions, this)
    assert parts.test.index[parts.test["first"]].tolist() == list(range(30))
    assert parts.test["sampled"].sum() == DESIGN.test


def test_an_unknown_split_is_named(questions):
    with pytest.raises(UsageError, match="no split 'papers'"):
        division.folds(DESIGN, questions, "papers", 0)


# ------------------------------------------------------------------------------------------------------------- prompts


@pytest.mark.parametrize("style", ["dataset", "dataset_nano"])
@pytest.mark.parametrize("name", PROMPTS)
def test_both_orders_ask_the_same_and_answer_with_the_same_names(questions, tmp_path, style, name):
    lab = new_lab(questions, tmp_path, replace(DESIGN, style=style))
    question = questions[questions["dataset_2"] == "svhn"].head(1)
    straight, swapped = asking.ask(lab, replace(RUN, prompt=name), question)
    first, second = question[["dataset_1", "dataset_2"]].iloc[0]
    for asked in (straight, swapped):
        read = [lab.coder.tokenizer.decode(text) for text in asked.texts]
        assert read[0].endswith(f"<assistant>{first}</s>") and read[1].endswith(f"<assistant>{second}</s>")
        prompts = {read[0].removesuffix(f"{first}</s>"), read[1].removesuffix(f"{second}</s>")}
        assert len(prompts) == 1
        assert prompts == {lab.coder.tokenizer.decode(asked.texts[0][: asked.prompt_length])}
        one, two = (first, second) if not asked.swapped else (second, first)
        text = prompts.pop()
        assert text.rindex(one) < text.rindex(two)
        if name == "scores":  # a score moves with its name
            norms = dict(zip((first, second), question[["norm_1", "norm_2"]].iloc[0], strict=True))
            assert text.index(str(norms[one])) < text.index(str(norms[two]))
        if "metadata" in name:
            assert text.index(str(DATASETS[one][0])) < text.rindex(str(DATASETS[two][0]))
        assert ("class Net" in text) == (not (style == "dataset_nano" and name == "metadata"))


def test_the_answers_norms_are_shown_by_the_scores_prompt_alone(questions, tmp_path):
    lab = new_lab(questions, tmp_path)
    for name in ("metadata", "code", "code_metadata"):
        assert not {"norm_acc_1", "norm_acc_2"} & prompt(f"dataset_{name}").fields
        (asked, _) = asking.ask(lab, replace(RUN, prompt=name), questions.head(1))
        assert str(questions["norm_1"].iloc[0]) not in lab.coder.tokenizer.decode(asked.texts[0])


def test_masked_names_are_nowhere_to_be_read(questions, tmp_path):
    lab = new_lab(questions, tmp_path)
    masked = alterations(DESIGN.view, ())["names masked"]
    for name in PROMPTS:
        for asked in asking.ask(lab, replace(RUN, prompt=name), questions.head(6), masked):
            text = lab.coder.tokenizer.decode(asked.texts[0])
            assert not any(dataset in text for dataset in DATASETS)
            assert text.endswith(f"<assistant>{asked.names[0]}</s>")


def test_code_that_would_not_fit_is_cut_to_the_context(questions, tmp_path):
    lab = new_lab(questions, tmp_path, replace(DESIGN, view=View(None)), context=600)
    lab.code["net-0"] = "x" * 5000
    for asked in asking.ask(lab, RUN, questions.head(2)):
        assert max(map(len, asked.texts)) <= 600


def test_two_networks_change_places_and_letters_do_not(tmp_path, questions):
    lab = new_lab(questions, tmp_path)
    row = {"architecture": "net-1", "architecture_2": "net-2", "dataset": "mnist", "first_wins": True}
    straight, swapped = asking.ask(lab, replace(RUN, prompt="networks"), pd.DataFrame([row]))
    texts = [lab.coder.tokenizer.decode(asked.texts[0]) for asked in (straight, swapped)]
    assert "A: class Net1" in texts[0] and "B: class Net2" in texts[0] and texts[0].endswith("<assistant>A</s>")
    assert "A: class Net2" in texts[1] and "B: class Net1" in texts[1] and texts[1].endswith("<assistant>B</s>")


def test_every_design_has_its_prompts():
    for design in DESIGNS.values():
        assert {f"{design.style}_{name}" for name in (*design.prompts, "networks")} <= set(files())
        assert all(cell.split in division.ALL_SPLITS for cell in design.cells) and DESIGNS[design.name] is design
    with pytest.raises(UsageError, match="did you mean 'nano-c'"):
        DESIGNS["nano-d"]
    nano = DESIGNS["nano-c"]
    assert resized(nano) == nano and resized(nano, train=7, test=8, altered=9).altered == 9
    assert resized(nano, train=7, test=8).hash() == replace(nano, train=7, test=8).hash()


def test_a_design_with_another_number_of_epochs_continues_the_same_run():
    assert replace(DESIGN, epochs=9).hash() == DESIGN.hash() != replace(DESIGN, train=9).hash()
    assert replace(DESIGN, view=View(61)).hash() != DESIGN.hash()


# ------------------------------------------------------------------------------------------------------------- answers


def test_log_odds_are_those_of_whole_texts_read_one_by_one(lab, questions):
    asked = asking.ask(lab, RUN, questions.iloc[[0, 1, 2, 7, 30]])
    expected = []
    for one in asked:
        ends = []
        for text in one.texts:
            with torch.inference_mode():
                logits = lab.coder.model(torch.tensor([text])).logits[0].double().log_softmax(-1)
            places = range(one.prompt_length, len(text))
            ends.append(sum(float(logits[place - 1, text[place]]) for place in places))
        expected.append(ends[0] - ends[1])
    for batch in (1, 3, 100):
        assert asking.log_odds(lab.coder, asked, batch) == pytest.approx(expected, abs=1e-3)
    alone = log_likelihoods(lab.coder, list(asked[0].texts))
    assert alone[0] - alone[1] == pytest.approx(expected[0], abs=1e-3)


def test_a_run_has_every_question_in_every_epoch_and_is_read_back_as_it_was(lab, questions, monkeypatch):
    parts = division.divide(DESIGN, questions, RUN)
    first = dp.run(lab, RUN, parts)
    assert set(first["epoch"]) == {0, 1, 2}
    counts = first.groupby(["epoch", "subset"]).size()
    assert (counts.xs("test", level=1) == 2 * len(parts.test)).all()
    assert (counts.xs("validation", level=1) == 2 * len(parts.validation)).all()
    assert (first.loc[first["subset"] == "validation", "outcome"] == "").all()
    told = first[(first["subset"] == "test") & ~first["swapped"]]
    assert set(told["outcome"]) <= set(paper_answers.OUTCOMES)
    odds = first.pivot_table(index=["subset", "question", "swapped"], columns="epoch", values="log_odds")
    assert (odds[0] != odds[2]).any()  # tuning changed something
    monkeypatch.setattr(dp, "answer", None)  # whoever answers again fails
    pd.testing.assert_frame_equal(dp.run(lab, RUN, parts), first)


def test_a_run_that_was_interrupted_ends_as_if_it_had_not_been(questions, tmp_path, monkeypatch):
    parts = division.divide(DESIGN, questions, RUN)
    whole = dp.run(new_lab(questions, tmp_path / "whole"), RUN, parts)
    real, calls = dp.answer, []

    def stops(*args, **kwargs):
        calls.append(1)
        if len(calls) == 4:  # in epoch 1, after tuning
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    cut = new_lab(questions, tmp_path / "cut")
    monkeypatch.setattr(dp, "answer", stops)
    with pytest.raises(KeyboardInterrupt):
        dp.run(cut, RUN, parts)
    monkeypatch.setattr(dp, "answer", real)
    again = dp.run(new_lab(questions, tmp_path / "cut"), RUN, parts)
    pd.testing.assert_frame_equal(again, whole)


def test_altered_inputs_are_asked_of_the_epoch_that_validation_picked(lab, questions):
    parts = division.divide(DESIGN, questions, RUN)
    answers = dp.run(lab, RUN, parts)
    kept = {name: one for name, one in alterations(DESIGN.view, ()).items() if name in ("no code", "names masked")}
    altered = dp.run_altered(lab, RUN, parts, kept)
    assert set(altered["condition"]) == {"as asked", *kept}
    picked = paper_answers.picked_epochs(paper_answers.decisions(answers))["epoch"].iloc[0]
    wanted = answers[(answers["epoch"] == picked) & (answers["subset"] == "test") & answers["sampled"]]
    plain = altered[altered["condition"] == "as asked"]
    keys = ["question", "swapped"]
    np.testing.assert_allclose(plain.sort_values(keys)["log_odds"], wanted.sort_values(keys)["log_odds"], atol=1e-4)
    none = altered[altered["condition"] == "no code"].set_index(keys)["log_odds"]
    assert not np.allclose(none, plain.set_index(keys)["log_odds"].reindex(none.index))
    file = RUN.folder(lab) / f"altered-no-code-{parts.test['sampled'].sum()}.parquet"
    before = file.stat().st_mtime_ns
    dp.run_altered(lab, RUN, parts, kept)
    assert file.stat().st_mtime_ns == before


def test_a_better_epoch_makes_what_was_altered_before_it_void(lab, questions, monkeypatch):
    parts, scores = division.divide(DESIGN, questions, RUN), iter(range(100))
    short = replace(lab, design=replace(DESIGN, epochs=1))
    dp.run(short, RUN, parts)
    dp.run_altered(short, RUN, parts, {})
    kept = list(RUN.folder(lab).glob("altered-*"))
    assert len(kept) == 1
    monkeypatch.setattr(dp, "_right", lambda *_: -next(scores))  # what is asked first is best: the new epoch
    dp.run(lab, RUN, parts)
    assert not kept[0].exists()


def test_an_example_is_the_prompt_and_the_right_name(lab, questions):
    asked = asking.ask(lab, RUN, questions.head(4), swapped=(False,))
    for one, question in zip(asked, questions.head(4).itertuples(), strict=True):
        example = asking.example(one)
        said = lab.coder.tokenizer.decode(example.ids[example.prompt_length :])
        assert said == f"{question.answer}</s>"
        form = prompt("dataset_nano_code")
        shown = asking.show(lab, question)
        messages = form.messages(nn_code=shown.codes[0], dataset_1=question.dataset_1, dataset_2=question.dataset_2)
        assert example.ids[: example.prompt_length] == tuple(encode(lab.coder.tokenizer, messages))
