"""The nano coder: what it may learn from, how its documents look, and whether the shipped weights are the card's."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open

from nngpt_lab.candidates import pool, small_network
from nngpt_lab.candidates.outcome import Outcome
from nngpt_lab.candidates.screening import example
from nngpt_lab.corpora import architectures
from nngpt_lab.corpora.code import code_hash, describe, tidy
from nngpt_lab.corpora.narrow import CARD, SOUND
from nngpt_lab.ground.errors import UsageError
from nngpt_lab.llm import lora, models
from nngpt_lab.records.profiles import PROFILES
from nngpt_lab.sandbox.status import Status
from nngpt_lab.walkthroughs import nano_coder, nano_coder_tables, pretraining
from nngpt_lab.walkthroughs.pretraining import Architecture, Schedule

CODE = tidy(Path(small_network.__file__).read_text(encoding="utf-8"))
FUNCTION = "def transform(norm):\n    return transforms.Compose([transforms.RandomCrop({}), norm])"
TINY = Architecture(vocabulary=400, width=16, layers=1, heads=2, kv_heads=2, feed_forward=24)


def programs(count: int, reserved: bool = False) -> list[str]:
    """Hashes of which all, or none, are reserved."""
    hashes = (code_hash(str(number)) for number in range(100 * count))
    return [one for one in hashes if nano_coder.reserved(one) == reserved][:count]


def corpus_of(count: int, family: str = "a", **columns) -> pd.DataFrame:
    names = [f"{family}-{number:02d}" for number in range(count)]
    recorded = np.linspace(0.1, 0.9, count)
    base = {"name": names, "family": family, "program": programs(count), "recorded": recorded, "status": "ok"}
    return pd.DataFrame(base | {"code": CODE, "characters": len(CODE), "parameters": 1000} | columns)


# ------------------------------------------------------------------------------------------------------- what is LEMUR


@pytest.fixture
def lemur(monkeypatch):
    """Four sources: the second is the first but for a name, with an accuracy of its own; the last does not parse."""
    body = "class Net(nn.Module):\n    {} = nn.Linear(64, {})"
    codes = [body.format("layer", 128), body.format("other", 128), body.format("layer", 256), "class Net("]
    facts = [describe(code) for code in codes]
    table = pd.DataFrame({
        "name": ["ga-1", "ga-2", "rl-1", "rl-2"], "family": ["ga", "ga", "rl", "rl"], "code": codes,
        "nameless_hash": [fact.nameless_hash for fact in facts], "layer_calls": [fact.layer_calls for fact in facts],
        "parses": [fact.parses for fact in facts],
    })  # fmt: skip
    columns = ["architecture", "dataset", "epoch", "accuracy"]
    rows = [("ga-2", "cifar-10", 1, 0.5), ("ga-2", "cifar-10", 2, 0.9), ("ga-1", "cifar-10", 1, 0.3),
            ("rl-1", "mnist", 1, 0.99)]  # fmt: skip
    records = pd.DataFrame(rows, columns=columns).assign(task="img-classification", metric="acc")
    records = records.assign(**dict.fromkeys(("batch", "lr", "momentum", "dropout", "transform", "uid", "id"), 0))
    monkeypatch.setattr(architectures, "load", lambda: architectures.Lemur(table, records, pd.DataFrame()))


@pytest.mark.usefixtures("lemur")
class TestNarrowed:
    def test_sources_before_and_after(self):
        table = nano_coder.narrowed()
        assert list(table["name"]) == ["ga-1", "ga-2", "rl-1"]
        assert table["code"][0].endswith("nn.Linear(4, 8)") and table["code_before"][0].endswith("nn.Linear(64, 128)")
        assert (table["layer_calls"] == 1).all() and (table["layer_calls_before"] == 1).all()

    def test_copies_share_their_best_accuracy_after_one_epoch_on_cifar_10_and_one_is_kept(self):
        table = nano_coder.narrowed()
        assert table["recorded"].tolist()[:2] == [0.5, 0.5] and np.isnan(table["recorded"][2])
        kept = nano_coder.distinct(table)
        assert list(kept["name"]) == ["ga-1", "rl-1"]
        assert kept["program"].is_unique

    def test_a_sample_is_drawn_before_narrowing_from_all_families(self, monkeypatch):
        seen = []
        monkeypatch.setattr(nano_coder, "narrow", lambda code: seen.append(code) or code)
        assert sorted(nano_coder.narrowed(2, seed=0)["family"]) == ["ga", "rl"]
        assert len(seen) == 2
        assert len(nano_coder.narrowed(99)) == 3


# ----------------------------------------------------------------------------------------------------- what is held out


def test_the_best_tenth_of_each_family_is_held_out():
    corpus = pd.concat([corpus_of(20), corpus_of(20, "b", recorded=np.linspace(0.9, 0.95, 20))], ignore_index=True)
    part = nano_coder.split(corpus)
    best = corpus.loc[part == "best"]
    assert sorted(best["name"]) == ["a-18", "a-19", "b-18", "b-19"]
    assert (part.drop(best.index) == "train").all()


def test_a_network_without_a_recorded_accuracy_is_never_among_the_best():
    part = nano_coder.split(corpus_of(20, recorded=[np.nan] * 19 + [0.1]))
    assert part.tolist() == ["train"] * 19 + ["best"]


def test_a_tenth_is_reserved_by_hash_and_the_best_are_best_first():
    part = nano_coder.split(corpus_of(10, program=programs(10, reserved=True)))
    assert part.tolist() == ["reserved"] * 9 + ["best"]
    hashes = [code_hash(str(number)) for number in range(5000)]
    assert np.mean([nano_coder.reserved(one) for one in hashes]) == pytest.approx(0.1, abs=0.02)
    assert nano_coder.reserved("0000000a" + "f" * 56) and not nano_coder.reserved("0000000b" + "0" * 56)


def test_what_fails_keeps_its_reason_even_if_it_is_the_best_or_reserved():
    statuses = ["ok"] * 7 + ["shape", "parameters", "too long"]
    part = nano_coder.split(corpus_of(10, program=programs(5, True) + programs(5), status=statuses))
    assert part.tolist() == ["reserved"] * 5 + ["train", "best", "shape", "parameters", "too long"]


def test_the_split_does_not_depend_on_the_order_of_rows():
    corpus = corpus_of(30)
    shuffled = corpus.sample(frac=1, random_state=0)
    pd.testing.assert_series_equal(nano_coder.split(shuffled).sort_index(), nano_coder.split(corpus))


def test_functions_are_held_out_alike():
    codes = [FUNCTION.format(number) for number in range(200)]
    functions = pd.DataFrame({"code": codes, "score": np.linspace(10, 60, 200)})
    part = nano_coder.function_parts(functions)
    assert (part[180:] == "best").all() and (part[:180] != "best").all()
    expected = [nano_coder.reserved(describe(code).ast_hash) for code in codes[:180]]
    assert (part[:180] == "reserved").tolist() == expected and any(expected)


def test_what_is_too_long_is_not_run(monkeypatch):
    def evaluate(candidates, *_, **__):
        return [Outcome(Status.OK, 0.1, parameters=7) for _ in candidates]

    monkeypatch.setattr(pool, "evaluate", evaluate)
    checked = nano_coder.check(corpus_of(3, characters=[10, nano_coder.LONGEST + 1, 10]), None)
    assert checked["status"].tolist() == ["ok", "too long", "ok"]
    assert checked["parameters"].tolist() == [7, pd.NA, 7]


# ------------------------------------------------------------------------------------------------------------ documents


@pytest.fixture(scope="module")
def tokenizer():
    return pretraining.train_tokenizer([CODE, FUNCTION] * 3, 400)


def test_tidy_leaves_the_program_without_comments_and_docstrings():
    assert tidy('"""Text."""\nx = 1  # one\ndef f():\n    "Text."') == "x = 1\n\ndef f():\n    pass"


def test_a_network_answers_its_prompt(tokenizer):
    documents = nano_coder.architecture_documents([CODE] * 20, tokenizer, np.random.default_rng(0))
    asked = {tokenizer.decode(document.ids[: document.prompt_length]) for document in documents}
    form = r"<\|user\|>Design a network for (\S+) with at most 500000 parameters\.<\|end\|><\|assistant\|>"
    named = {re.fullmatch(form, text)[1] for text in asked}
    assert len(named) > 3 and named <= set(nano_coder.DATASETS)
    assert all(tokenizer.decode(one.ids[one.prompt_length :]) == f"```python\n{CODE}\n```<|end|>" for one in documents)
    assert documents == nano_coder.architecture_documents([CODE] * 20, tokenizer, np.random.default_rng(0))


def test_a_function_answers_two_others(tokenizer):
    codes = [FUNCTION.format(number) for number in range(5)]
    functions = pd.DataFrame({"code": codes, "score": [10.0, 20.123, 30.0, 40.0, 50.0]})
    documents = nano_coder.function_documents(functions, tokenizer, np.random.default_rng(0))
    for code, document in zip(codes, documents, strict=True):
        assert tokenizer.decode(document.ids[document.prompt_length :]) == f"<tr>{code}</tr><|end|>"
        asked = tokenizer.decode(document.ids[: document.prompt_length])
        shown = re.findall(r"\(accuracy ([\d.]+)\):\n<tr>(.*?)</tr>", asked, re.DOTALL)
        assert len(shown) == 2 and shown[0] != shown[1]
        assert all(float(score) == round(functions.set_index("code")["score"][text], 2) for score, text in shown)


def test_the_training_text_holds_the_training_part_alone():
    corpus = corpus_of(10).assign(code=[f"{CODE}\nmark = {number}" for number in range(100, 110)])
    corpus["part"] = ["train"] * 6 + ["best"] * 2 + ["reserved", "shape"]
    functions = pd.DataFrame(
        {"code": [FUNCTION.format(n) for n in range(6)], "score": 1.0, "part": ["train"] * 4 + ["best"] * 2}
    )
    text = nano_coder.training_text(corpus, functions, 400, count=3)
    sizes = {part: len(documents) for part, documents in text.networks.items()}
    assert (sizes, len(text.train)) == ({"train": 6, "reserved": 1, "best": 2}, 9)
    marks = [re.findall(r"mark = (\d+)", text.tokenizer.decode(document.ids)) for document in text.train]
    assert marks == [["100"], ["101"], ["102"], ["103"], ["104"], ["105"], [], [], []]


@pytest.mark.parametrize(("length", "count"), [(10, 3), (3, 10), (5, 5), (0, 4), (4, 0)])
def test_spread(length, count):
    places = nano_coder.spread(length, count)
    assert len(set(places)) == min(length, count) and places == sorted(places)
    assert all(0 <= place < length for place in places)


# -------------------------------------------------------------------------------------------------------------- recipes


def test_every_profile_has_a_recipe_and_none_leaves_it_as_it_is():
    for profile in PROFILES.values():
        assert (
            nano_coder.recipe(profile.walkthroughs.pretraining) == nano_coder.RECIPES[profile.walkthroughs.pretraining]
        )
    changed = nano_coder.recipe("nano-coder", networks=7, epochs=9)
    assert (changed.networks, changed.schedule.epochs, changed.functions) == (7, 9, nano_coder.FUNCTIONS)


@pytest.mark.parametrize("options", [{"networks": -1}, {"networks": 0}, {"epochs": 1.5}, {"epochs": True}])
def test_a_number_that_is_none_is_refused(options):
    with pytest.raises(UsageError, match="whole number"):
        nano_coder.recipe("tiny", **options)
    with pytest.raises(UsageError, match="use one of nano-coder, tiny"):
        nano_coder.recipe("huge")


def test_training_goes_on_from_its_own_checkpoint_only(tmp_path):
    corpus = corpus_of(4).assign(part="train")
    functions = pd.DataFrame({"code": [FUNCTION.format(0)], "score": 1.0, "part": "train"})
    text = nano_coder.training_text(corpus, functions, 400, count=0)
    recipe = nano_coder.Recipe(architecture=TINY, schedule=Schedule(epochs=1))
    model, curve = nano_coder.train(text, recipe, 0, tmp_path)
    again, same = nano_coder.train(text, recipe, 0, tmp_path)
    pd.testing.assert_frame_equal(curve, same)  # seconds too: nothing was trained again
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    for other in (nano_coder.Recipe(architecture=TINY, schedule=Schedule(epochs=2)), recipe):
        nano_coder.train(text, other, 1, tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


# --------------------------------------------------------------------------------------------------- tables and figures


def test_structure_counts_what_changed_and_what_is_left():
    statuses = ["ok"] * 6 + ["parameters"] * 2 + ["shape", "too long"]
    corpus = corpus_of(10, status=statuses)
    sources = corpus.assign(layer_calls_before=5, layer_calls=[5] * 9 + [6])
    table = nano_coder_tables.structure(pd.concat([sources, sources.iloc[:2]]), corpus).set_index("family")
    row = table.loc["all"]
    assert (row["sources"], row["programs"], row["changed"], row["checked"]) == (12, 10, 1, 9)
    assert (row["run"], row["under_500k"], row["parameters"]) == (6 / 9, 0.75, 1000)
    assert table.loc["a"].equals(row)


def test_parts_add_up():
    corpus = corpus_of(10).assign(part=["train"] * 5 + ["best"] + ["shape"] * 3 + ["crash"])
    table = nano_coder_tables.parts(corpus)
    assert list(table.columns) == ["family", "programs", "train", "best", "reserved", "shape", "crash"]
    assert table.iloc[-1].tolist() == ["all", 10, 5, 1, 0, 3, 1]


def test_the_vocabulary_is_counted_whole(tokenizer):
    pieces = nano_coder_tables.pieces(tokenizer, CODE)
    assert "".join(pieces) == CODE
    table = nano_coder_tables.vocabulary(tokenizer, [CODE])
    assert table["entries"].sum() == len(tokenizer) and table["share_of_tokens"].sum() == pytest.approx(1)
    assert [nano_coder_tables.kind(one) for one in ("128", "nn.Conv2d(", "\n    x = 1", "self.a", "(")] == [
        "number", "layer", "start of a line", "piece of a line", "byte or special"]  # fmt: skip


def test_tokens_are_drawn_escaped_and_in_order():
    shown = nano_coder_tables.draw_tokens(["\nx = ", "<b>", "&"], ["start of a line", "number", "layer"])
    text = re.sub(r"</?(pre|span)[^>]*>", "", shown)
    assert text == "↵\nx = &lt;b&gt;&amp;"


def test_figures_of_little_or_nothing():
    corpus = corpus_of(3).assign(part="shape")
    nothing = nano_coder_tables.lengths(None, corpus)
    one_step = pd.DataFrame({"step": [0], "epoch": 0, "lr": 0.1, "loss": 5.0})
    for figure in (
        nano_coder_tables.draw_split(nano_coder_tables.parts(corpus)),
        nano_coder_tables.draw_lengths(nothing),
        nano_coder_tables.draw_curve(one_step, 4.0),
    ):
        figure.canvas.draw()


def test_a_difference_shows_widths_alone():
    row = pd.Series(
        {
            "code_before": "# wide\na = nn.Linear(64, 10)\nb = 1\nc = 2\nd = 3",
            "code": "a = nn.Linear(4, 10)\nb = 1\nc = 2\nd = 3",
        }
    )
    lines = nano_coder_tables.difference(row).splitlines()
    assert [line for line in lines if line[0] in "+-"][2:] == ["-a = nn.Linear(64, 10)", "+a = nn.Linear(4, 10)"]


def test_answers_are_counted_against_what_was_learnt_and_held_out(monkeypatch):
    learnt, held_out, new = (CODE.replace("Net", "Other"), f"{CODE}\nx = 1", f"{CODE}\nx = 2")
    corpus = pd.DataFrame({
        "program": [describe(CODE).nameless_hash, describe(held_out).nameless_hash], "part": ["train", "best"],
    })  # fmt: skip
    texts = [f"```python\n{code}\n```" for code in (CODE, learnt, held_out, new)] + ["prose"]
    tried = pd.DataFrame({"text": texts, "finished": True, "contract": ["ok"] * 4 + ["no_code"],
                          "status": ["ok"] * 4 + ["no_code"]})  # fmt: skip
    table = nano_coder_tables.answers(tried, corpus)
    assert table["answers"].tolist() == [5, 4, 4, 3, 2, 1] and table["of"].tolist() == [5, 5, 5, 4, 4, 4]


# ---------------------------------------------------------------------------------------------------------- the weights


FOLDER = CARD.parent


@pytest.fixture(scope="module")
def card():
    return json.loads((FOLDER / "training.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def coder():
    torch.set_num_threads(1)
    return models.load("nano-coder")


def test_the_weights_ship_with_all_that_belongs_to_them():
    files = {path.name: path.stat().st_size for path in FOLDER.iterdir()}
    assert files.keys() >= {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json",
                            "training.json", "corpus.parquet", "curve.csv", "README.md"}  # fmt: skip
    assert sum(files.values()) < 20e6


def test_the_weights_are_float16():
    with safe_open(FOLDER / "model.safetensors", "pt") as tensors:
        kinds = {tensors.get_slice(key).get_dtype() for key in tensors.keys()}  # noqa: SIM118 (not a mapping)
    assert kinds == {"F16"}


def test_the_card_of_the_corpus_names_networks_and_holds_no_code():
    table = pd.read_parquet(CARD)
    assert list(table.columns) == ["name", "family", "part", "parameters"]
    assert table["name"].is_unique, "so no network is in two parts"
    for column in ("name", "family", "part"):
        assert table[column].str.len().max() < 100 and not table[column].str.contains(r"[\n=:]").any()


def test_the_card_keeps_to_the_rules(card):
    table = pd.read_parquet(CARD)
    assert (table["part"] == "train").sum() == card["documents"]["networks"]
    sound = table[table["part"].isin(SOUND)]
    assert sound["parameters"].between(1, 500_000).all()
    shares = sound["part"].value_counts(normalize=True)
    assert 0.02 < shares["best"] <= 0.1 and 0.05 < shares["reserved"] < 0.15
    left = (table["part"] == "parameters").sum()
    assert len(sound) / (len(sound) + left) >= 0.9, "the goal of narrowing: nine in ten under 500,000"


def test_the_model_is_of_the_size_that_the_table_of_models_says(coder, card):
    count = sum(parameter.numel() for parameter in coder.model.parameters())
    assert count == models.MODELS["nano-coder"].parameters == card["parameters"]
    assert coder.model.config.vocab_size == len(coder.tokenizer) == card["architecture"]["vocabulary"]


def test_the_loss_on_a_fixed_text_is_the_recorded_one(coder, card):
    document = nano_coder.fixed_document(coder.tokenizer)
    assert lora.mean_loss(coder, [document], nano_coder.EVALUATION) == pytest.approx(card["losses"]["fixed"], abs=1e-3)


@pytest.mark.parametrize("text", [CODE, example("good"), "x = 1\n\n\n\tÄ 你好  \n", FUNCTION])
def test_its_tokenizer_gives_every_text_back(coder, text):
    assert coder.tokenizer.decode(coder.tokenizer(text)["input_ids"]) == text


def test_at_least_half_of_its_answers_keep_the_contract(coder):
    written = nano_coder.answers(coder, 16)
    assert (written["contract"] == "ok").sum() >= 8


def test_numbers_of_the_model_card_are_those_of_the_training(card):
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    documents, losses, answers = card["documents"], card["losses"], card["answers"]
    numbers = [f"{value:,}" for value in (card["parameters"], *documents.values(), card["steps"])]
    numbers += [f"| {part} | {losses[part]:.3f} |" for part in ("train", "reserved", "best", "fixed")]
    numbers += [f"{answers['statuses']['ok']} of {answers['count']}", f"{answers['tokens']:.0f} tokens"]
    numbers += [f"{card['schedule']['epochs']} epochs", f"seed {card['seed']}", str(card["schedule"]["lr"])]
    assert [number for number in numbers if number not in text] == []


def test_the_card_has_the_hubs_form(card):
    """Read as the hub reads it: licence and library, and results by task, data and metric, those of the training."""
    from huggingface_hub import ModelCard

    data = ModelCard.load(FOLDER / "README.md", ignore_metadata_errors=False).data
    assert (data.license, data.library_name, data.pipeline_tag) == ("mit", "transformers", "text-generation")
    found = {result.dataset_split: result.metric_value for result in data.eval_results}
    assert found == {part: card["losses"][part] for part in ("reserved", "best")}
    assert {result.metric_type for result in data.eval_results} == {"cross_entropy"}


def test_the_split_of_the_model_card_is_that_of_the_corpus():
    table = nano_coder_tables.parts(pd.read_parquet(CARD))
    assert table.to_markdown(index=False) in (FOLDER / "README.md").read_text(encoding="utf-8")
