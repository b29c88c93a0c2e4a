"""The nano coder's vocabulary, its batches, and that training can be stopped and resumed."""

import numpy as np
import pytest
import torch

from nngpt_lab.llm.lora import Example
from nngpt_lab.walkthroughs import pretraining
from nngpt_lab.walkthroughs.pretraining import Architecture, Schedule

CODE = "class Net(nn.Module):\n\n    def __init__(self):\n        self.a = nn.Conv2d(3, 128, kernel_size=3)\n" * 3
TINY = Architecture(vocabulary=400, width=32, layers=2, heads=4, kv_heads=2, feed_forward=48, context=128)


@pytest.fixture(scope="module")
def tokenizer():
    return pretraining.train_tokenizer([CODE] * 4, TINY.vocabulary)


@pytest.fixture
def documents():
    rng = np.random.default_rng(0)
    return [Example(tuple(rng.integers(4, 300, length).tolist()), 3) for length in range(10, 60, 2)]


def new_model(tokenizer):
    return pretraining.new_model(tokenizer, TINY, seed=0)


@pytest.mark.parametrize(
    "text", [CODE, "", "\n\n\n", "x=1000000.5\n\t# Größe 你好\n", "nn.\nnn.Linear", "a  b   \n  7"]
)
def test_any_text_comes_back(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_numbers_and_layers_keep_tokens_of_their_own(tokenizer):
    pieces = [
        tokenizer.decode([index]) for index in tokenizer("self.a = nn.Conv2d(3, 128, kernel_size=3)")["input_ids"]
    ]
    assert [piece for piece in pieces if any(c.isdigit() for c in piece)] == ["nn.Conv2d(", "3", "128", "3"]


def test_the_vocabulary_is_deterministic(tokenizer):
    again = pretraining.train_tokenizer([CODE] * 4, TINY.vocabulary)
    assert again.get_vocab() == tokenizer.get_vocab()


def test_chat_template(tokenizer):
    asked = [{"role": "user", "content": "Write."}]
    text = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    assert text == "<|user|>Write.<|end|><|assistant|>"
    whole = tokenizer.apply_chat_template([*asked, {"role": "assistant", "content": "x"}], tokenize=False)
    assert whole == text + "x<|end|>"


def test_batches_hold_every_document_once_and_keep_to_their_size(documents):
    drawn = pretraining.batches(documents, 128, np.random.default_rng(0))
    assert sorted(len(document.ids) for rows in drawn for document in rows) == [len(one.ids) for one in documents]
    assert all(len(rows) * max(len(document.ids) for document in rows) <= 128 for rows in drawn)
    assert drawn != pretraining.batches(documents, 128, np.random.default_rng(1))


def test_training_lowers_the_loss_and_is_repeatable(tokenizer, documents, tmp_path):
    first, second = new_model(tokenizer), new_model(tokenizer)
    schedule = Schedule(tokens_per_batch=256, epochs=12, lr=1e-2, warmup=2)
    curve = pretraining.pretrain(first, documents, schedule, seed=0, folder=tmp_path / "first")
    assert curve["loss"].iloc[-1] < 0.8 * curve["loss"].iloc[0]
    pretraining.pretrain(second, documents, schedule, seed=0, folder=tmp_path / "second")
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_a_stopped_training_goes_on_to_the_same_weights(tokenizer, documents, tmp_path):
    whole, stopped = new_model(tokenizer), new_model(tokenizer)
    schedule = Schedule(tokens_per_batch=256, epochs=3, warmup=2)
    pretraining.pretrain(whole, documents, schedule, seed=0, folder=tmp_path / "whole")
    curve = pretraining.pretrain(stopped, documents, schedule, seed=0, folder=tmp_path, minutes=0)
    assert curve["epoch"].max() == 0
    resumed = new_model(tokenizer)
    curve = pretraining.pretrain(resumed, documents, schedule, seed=0, folder=tmp_path)
    assert curve["epoch"].max() == 2
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_learning_rate():
    schedule = Schedule(lr=1.0, warmup=10)
    rates = [pretraining.learning_rate(step, 110, schedule) for step in range(110)]
    assert (
        rates[0] == pytest.approx(0.1)
        and max(rates) == pytest.approx(1.0)
        and rates[-1] == pytest.approx(0.1, abs=0.01)
    )
