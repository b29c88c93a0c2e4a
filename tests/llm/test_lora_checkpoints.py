"""LoRA: resume from checkpoints, adapters on the disk, the base's safety, bad input."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from nngpt_lab.ground.errors import DataError, LabError, UsageError
from nngpt_lab.llm import adapters, checkpoint, lora
from nngpt_lab.llm.adapters import quiet
from nngpt_lab.llm.lora import Example
from nngpt_lab.llm.recipe import Recipe
from tests.helpers.lora_coders import (  # noqa: F401
    CPU,
    EXAMPLES,
    RECIPE,
    STILL,
    adapted,
    base_state,
    draw,
    gradient,
    new_coder,
    one_thread,
    same,
    sum_of,
    weights,
)

# --- checkpoints ------------------------------------------------------------------------------------------------------


class Stop(Exception):
    pass


def stop_at(monkeypatch, step: int) -> None:
    real = lora._accumulate_gradient
    calls = iter(range(1000))

    def stopping(*args):
        if next(calls) == step:
            raise Stop
        return real(*args)

    monkeypatch.setattr(lora, "_accumulate_gradient", stopping)


@pytest.mark.parametrize(("stop", "every"), [(0, 1), (1, 1), (3, 1), (5, 2), (3, 50)])
def test_a_stopped_run_goes_on_to_the_same_weights_bit_for_bit(tmp_path, monkeypatch, stop, every):
    recipe = replace(RECIPE, epochs=3, warmup=2)
    whole = adapted(recipe)
    expected = lora.tune(whole, EXAMPLES, recipe, 0, progress=False)
    options = {"checkpoints": tmp_path / "run", "checkpoint_every": every, "progress": False}
    with monkeypatch.context() as patch, pytest.raises(Stop):
        stop_at(patch, stop)
        lora.tune(adapted(recipe), EXAMPLES, recipe, 0, **options)
    torch.manual_seed(99)  # another process has another global generator
    resumed = adapted(recipe)
    curve = lora.tune(resumed, EXAMPLES, recipe, 0, **options)
    assert same(weights(resumed), weights(whole))
    assert curve.drop(columns="seconds").equals(expected.drop(columns="seconds"))
    assert [path.name for path in (tmp_path / "run").iterdir()] == [checkpoint.FILENAME]


def test_a_finished_run_is_restored_without_work(tmp_path, monkeypatch):
    first, again = adapted(), adapted()
    curve = lora.tune(first, EXAMPLES, RECIPE, 0, checkpoints=tmp_path, progress=False)
    stop_at(monkeypatch, 0)
    assert lora.tune(again, EXAMPLES, RECIPE, 0, checkpoints=tmp_path, progress=False).equals(curve)
    assert same(weights(first), weights(again))


def test_a_write_that_fails_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    def torn(state, file):
        file.write(b"half")
        raise OSError("disk full")

    lora.tune(adapted(), EXAMPLES, RECIPE, 0, checkpoints=tmp_path, progress=False)
    before = (tmp_path / checkpoint.FILENAME).read_bytes()
    state = torch.load(tmp_path / checkpoint.FILENAME, weights_only=True)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="disk full"):
        patch.setattr(torch, "save", torn)
        checkpoint.write(tmp_path / checkpoint.FILENAME, state["key"], {}, torch.optim.SGD([torch.zeros(1)], 1.0), [])
    assert (tmp_path / checkpoint.FILENAME).read_bytes() == before


@pytest.mark.parametrize("change", ["examples", "recipe", "seed"])
def test_a_checkpoint_of_another_run_is_refused(tmp_path, change):
    lora.tune(adapted(), EXAMPLES, RECIPE, 0, checkpoints=tmp_path, progress=False)
    examples = EXAMPLES[1:] if change == "examples" else EXAMPLES
    recipe = replace(RECIPE, lr=2e-3) if change == "recipe" else RECIPE
    with pytest.raises(DataError, match="another"):
        lora.tune(adapted(), examples, recipe, int(change == "seed"), checkpoints=tmp_path, progress=False)


def test_a_loss_that_is_not_finite_stops_before_the_adapter_is_spoilt():
    coder = adapted()
    coder.model.get_base_model().model.norm.weight.data[0] = math.nan
    before = weights(coder)
    with pytest.raises(LabError, match="step 1"):
        lora.tune(coder, EXAMPLES, RECIPE, 0, progress=False)
    assert same(weights(coder), before)
    assert not coder.model.training


# --- adapters ---------------------------------------------------------------------------------------------------------


def test_the_base_is_bit_identical_after_add_tune_remove_for_several_arms():
    coder = new_coder()
    before, names = base_state(coder), [name for name, _ in coder.model.named_modules()]
    logits = coder.model(torch.tensor([EXAMPLES[0].ids])).logits
    first = None
    for _ in range(2):
        coder = adapters.add_adapter(coder, RECIPE, 0)
        lora.tune(coder, EXAMPLES, RECIPE, 0, progress=False)
        first = first or weights(coder)
        assert same(weights(coder), first)  # the second arm does not feel the first
        coder = adapters.remove_adapter(coder)
        assert same(base_state(coder), before)
        assert [name for name, _ in coder.model.named_modules()] == names
        assert torch.equal(coder.model(torch.tensor([EXAMPLES[0].ids])).logits, logits)


def test_a_fresh_adapter_changes_nothing_yet_and_only_it_is_trained():
    coder = new_coder()
    logits = coder.model(torch.tensor([EXAMPLES[0].ids])).logits
    coder = adapters.add_adapter(coder, RECIPE, 0)
    assert torch.equal(coder.model(torch.tensor([EXAMPLES[0].ids])).logits, logits)
    assert len(weights(coder)) == 2 * 7 * 2  # A and B, seven projections, two layers
    assert all("lora_" in name for name in weights(coder))


def test_saved_in_pefts_format_and_read_by_peft_alone(tmp_path):
    coder = adapters.add_adapter(new_coder(), RECIPE, 0)
    lora.tune(coder, EXAMPLES, RECIPE, 0, progress=False)
    adapters.save_adapter(coder, tmp_path / "adapter")
    adapters.save_adapter(coder, tmp_path / "adapter")  # over the old one
    written = {path.name: path.read_bytes() for path in (tmp_path / "adapter").iterdir()}
    assert set(written) == {"adapter_config.json", "adapter_model.safetensors"}  # and no card that names a folder
    assert not any(str(place).encode() in written["adapter_config.json"] for place in (Path.home(), tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (4, 8, "tiny")
    with quiet():
        theirs = PeftModel.from_pretrained(new_coder().model, tmp_path / "adapter").eval()
    ids = torch.tensor([EXAMPLES[1].ids])
    assert torch.equal(theirs(ids).logits, coder.model(ids).logits)


def test_a_loaded_adapter_is_tuned_on_as_if_it_had_stayed(tmp_path):
    coder = adapters.add_adapter(new_coder(), RECIPE, 0)
    lora.tune(coder, EXAMPLES, RECIPE, 0, progress=False)
    adapters.save_adapter(coder, tmp_path / "adapter")
    with pytest.MonkeyPatch.context() as patch:  # where there is a card, peft would read everything onto the first
        patch.setattr("peft.peft_model.infer_device", lambda: "cuda")
        again = adapters.load_adapter(new_coder(), tmp_path / "adapter")
    assert same(weights(again), weights(coder))
    for one in (coder, again):
        lora.tune(one, EXAMPLES, RECIPE, 1, progress=False)
    assert same(weights(again), weights(coder))


def test_an_adapter_that_is_not_trainable_is_refused(tmp_path):
    adapters.save_adapter(adapters.add_adapter(new_coder(), RECIPE, 0), tmp_path / "adapter")
    frozen = adapters.load_adapter(new_coder(), tmp_path / "adapter", trainable=False)
    for coder in (frozen, new_coder()):
        with pytest.raises(UsageError, match="no adapter that can be trained"):
            lora.tune(coder, EXAMPLES, RECIPE, 0, progress=False)


def test_layers_that_the_model_lacks_are_left_out(caplog):
    def layers(recipe):
        with caplog.at_level(logging.INFO):
            coder = adapters.add_adapter(new_coder(layers=3), recipe, 0)
        return sorted({int(name.split("layers.")[1].split(".")[0]) for name in weights(coder)})

    assert layers(Recipe(rank=2)) == [0, 1, 2]  # the papers' 0 to 23
    assert "has 3 layers" in caplog.text
    assert layers(Recipe(rank=2, layers=None)) == [0, 1, 2]
    assert layers(Recipe(rank=2, layers=(1, 7))) == [1]
    with pytest.raises(UsageError, match="has layers 0 to 2"):
        adapters.add_adapter(new_coder(layers=3), Recipe(layers=(5, 6)), 0)


def test_misuse_is_named_before_any_work(tmp_path):
    with pytest.raises(UsageError, match="no layers called c_attn"):
        adapters.add_adapter(new_coder(), replace(RECIPE, targets=("q_proj", "c_attn")), 0)
    base = new_coder()
    coder = adapters.add_adapter(base, RECIPE, 0)
    with pytest.raises(UsageError, match="has an adapter already"):
        adapters.add_adapter(coder, RECIPE, 0)
    with pytest.raises(UsageError, match="which another Coder now holds"):
        adapters.add_adapter(base, RECIPE, 0)
    with pytest.raises(DataError, match="holds no adapter"):
        adapters.load_adapter(new_coder(), tmp_path)
    for use in (adapters.remove_adapter, lambda bare: adapters.save_adapter(bare, tmp_path / "x")):
        with pytest.raises(UsageError, match="has no adapter"):
            use(new_coder())
    with pytest.raises(UsageError, match="does not run on cpu"):
        lora.tune(coder, EXAMPLES, replace(RECIPE, optimizer="paged_adamw_8bit"), 0, progress=False)
    with pytest.raises(UsageError, match="nothing to train on"):
        lora.tune(coder, [], RECIPE, 0, progress=False)


@pytest.mark.parametrize(
    "change",
    [
        {"rank": 0}, {"epochs": 0}, {"batch": 0}, {"accumulate": 0}, {"dropout": 1.0}, {"lr": 0.0}, {"lr": math.nan},
        {"warmup": -1}, {"max_length": 1}, {"max_grad_norm": 0.0}, {"targets": ()}, {"layers": ()},
        {"too_long": "truncate"}, {"optimizer": "adam"}, {"precision": "float16"},
    ],
)  # fmt: skip
def test_recipes_that_cannot_be_are_refused(change):
    with pytest.raises(UsageError):
        replace(RECIPE, **change)


@pytest.mark.parametrize(("length", "prompt"), [(0, 0), (5, 0), (5, 5), (5, 6), (1, 1)])
def test_examples_without_prompt_or_response_are_refused(length, prompt):
    with pytest.raises(UsageError, match="at least one token each"):
        Example(tuple(range(length)), prompt)
