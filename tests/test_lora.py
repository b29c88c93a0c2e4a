"""LoRA: what the loss counts, that examples do not meet, accumulation, order, resume, adapters, the base's safety."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import PeftModel
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, get_cosine_schedule_with_warmup

from nngpt_lab.errors import DataError, LabError, UsageError
from nngpt_lab.llm import lora
from nngpt_lab.llm.lora import Example, Recipe
from nngpt_lab.llm.models import Coder

CPU = torch.device("cpu")
RECIPE = Recipe(rank=4, alpha=8, dropout=0.1, lr=1e-3, epochs=2, batch=2, accumulate=2, warmup=0, pad_to=8)
STILL = replace(RECIPE, dropout=0.0)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def new_coder(layers: int = 2) -> Coder:
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=48, max_position_embeddings=128, tie_word_embeddings=True, pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).eval()
        model.model.embed_tokens.weight.data.mul_(20)  # at the usual 0.02 all losses are log(64), whatever the input
    return Coder(model, None, "tiny", {})


def draw(*lengths: int, prompt: int = 3, seed: int = 0) -> list[Example]:
    rng = np.random.default_rng(seed)
    return [Example(tuple(rng.integers(1, 64, length).tolist()), prompt) for length in lengths]


EXAMPLES = draw(9, 30, 12, 25, 5, 17, 40)


def adapted(recipe: Recipe = RECIPE, seed: int = 0) -> Coder:
    """A coder whose adapter does something: B is zero at first, and A without gradient."""
    coder = lora.add_adapter(new_coder(), recipe, seed)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(1)
        for name, value in coder.model.named_parameters():
            if "lora_B" in name:
                value.normal_(0, 0.1)
    return coder


def weights(coder: Coder) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in coder.model.named_parameters() if value.requires_grad}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def sum_of(coder: Coder, batch: list[Example], pad_to: int = 8) -> torch.Tensor:
    return lora.loss_sum(*lora._decoder_and_head(coder), batch, pad_to, CPU)


def gradient(coder: Coder, value: torch.Tensor) -> torch.Tensor:
    return torch.cat([part.flatten() for part in torch.autograd.grad(value, list(lora._trainable(coder).values()))])


# --- the loss ---------------------------------------------------------------------------------------------------------


def test_the_loss_is_that_of_transformers_with_masked_prompt_labels():
    coder = adapted()
    for example in EXAMPLES:
        ids = torch.tensor([example.ids])
        labels = ids.clone()
        labels[:, : example.prompt_length] = -100
        expected = coder.model(input_ids=ids, labels=labels).loss * example.response_tokens
        got = sum_of(coder, [example])
        torch.testing.assert_close(got, expected)
        torch.testing.assert_close(gradient(coder, got), gradient(coder, expected), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("prompt", [1, 2, 8, 11])
def test_every_response_token_counts_and_no_prompt_token(prompt):
    """By hand, from the logits of the whole text: token t is predicted at t - 1, also the response's first and last."""
    coder = adapted()
    (example,) = draw(12, prompt=prompt)
    logp = functional.log_softmax(coder.model(torch.tensor([example.ids])).logits[0], -1)
    expected = -sum(logp[t - 1, example.ids[t]] for t in range(prompt, 12))
    torch.testing.assert_close(sum_of(coder, [example]), expected)


def test_the_first_prompt_token_is_never_a_label_of_the_row_before():
    """In the flattened batch, the position before a row's first token belongs to its neighbour."""
    coder = adapted()
    a, b = draw(16, 16, prompt=1)  # pad_to 8: nothing between the rows
    torch.testing.assert_close(sum_of(coder, [a, b]), sum_of(coder, [a]) + sum_of(coder, [b]))


def test_examples_never_see_each_other_or_the_padding():
    coder = adapted()
    alone = [sum_of(coder, [example]) for example in EXAMPLES]
    for pad_to in (1, 8, 64):
        torch.testing.assert_close(sum_of(coder, EXAMPLES, pad_to), sum(alone), rtol=1e-6, atol=1e-4)
    for k, example in enumerate(EXAMPLES):  # the neighbours' content changes nothing of an example's part
        others = [replace(e, ids=tuple(1 + (t + 5) % 63 for t in e.ids)) for e in EXAMPLES]
        others[k] = example
        rest = others[:k] + others[k + 1 :]
        part = sum_of(coder, others) - sum(sum_of(coder, [e]) for e in rest)
        torch.testing.assert_close(part, alone[k], rtol=1e-5, atol=1e-3)
        batched = gradient(coder, sum_of(coder, others))
        single = gradient(coder, sum(sum_of(coder, [e]) for e in others))
        torch.testing.assert_close(batched, single, rtol=1e-4, atol=1e-3)


def test_mean_loss_is_over_tokens_and_leaves_out_dropout():
    coder = adapted()
    expected = sum(sum_of(coder, [e]).item() for e in EXAMPLES) / sum(e.response_tokens for e in EXAMPLES)
    assert lora.mean_loss(coder, EXAMPLES, RECIPE) == pytest.approx(expected, rel=1e-6)
    assert lora.mean_loss(coder, EXAMPLES, replace(RECIPE, batch=7)) == pytest.approx(expected, rel=1e-6)


def test_logits_that_change_after_the_head_are_refused():
    coder = adapted()
    coder.model.config.final_logit_softcapping = 30.0
    with pytest.raises(UsageError, match="final_logit_softcapping"):
        lora.tune(coder, EXAMPLES, RECIPE, 0, progress=False)


# --- steps ------------------------------------------------------------------------------------------------------------


def test_accumulation_weighs_tokens_not_micro_batches():
    """One step over the same four examples, cut in three ways, is the same step."""
    examples = draw(6, 40, 9, 33)
    tuned = []
    for batch, accumulate in ((4, 1), (2, 2), (1, 4)):
        coder, recipe = adapted(STILL), replace(STILL, batch=batch, accumulate=accumulate, epochs=3)
        curve = lora.tune(coder, examples, recipe, 0, progress=False)
        tuned.append((curve, weights(coder)))
    (first, expected), *others = tuned
    for curve, got in others:
        assert curve["loss"].to_numpy() == pytest.approx(first["loss"].to_numpy(), rel=1e-6)
        assert curve["grad_norm"].to_numpy() == pytest.approx(first["grad_norm"].to_numpy(), rel=1e-4)
        for name in expected:
            torch.testing.assert_close(got[name], expected[name], rtol=1e-4, atol=1e-5)


def test_a_step_reports_the_mean_over_its_tokens():
    """And not the mean of the examples' means, which is the classical mistake and differs here."""
    examples = draw(6, 40, 9, 33)
    coder = adapted(STILL)
    sums = np.array([sum_of(coder, [example]).item() for example in examples])
    counts = np.array([example.response_tokens for example in examples])
    loss = lora.tune(coder, examples, replace(STILL, batch=1, accumulate=4, epochs=1), 0, progress=False)["loss"][0]
    assert loss == pytest.approx(sums.sum() / counts.sum(), rel=1e-6)
    assert abs(loss - (sums / counts).mean()) > 1e-3


def test_passes_cut_a_batch_on_the_cpu_without_changing_the_step(monkeypatch):
    curves = []
    for tokens in (1, 48, 10_000):
        monkeypatch.setattr(lora, "CACHE_TOKENS", tokens)
        curves.append(lora.tune(adapted(STILL), EXAMPLES, replace(STILL, batch=7), 0, progress=False))
    for curve in curves[1:]:
        assert curve["loss"].to_numpy() == pytest.approx(curves[0]["loss"].to_numpy(), rel=1e-5)
    batches = [EXAMPLES[:4], EXAMPLES[4:]]
    for device in (CPU, torch.device("cuda")):
        assert [e for part in lora._passes(batches, RECIPE, device) for e in part] == EXAMPLES


def test_the_first_step_is_clipped_adamw_by_hand():
    coder, recipe = adapted(STILL), replace(STILL, batch=7, accumulate=1, epochs=1, weight_decay=0.1, max_grad_norm=0.5)
    before, count = weights(coder), sum(e.response_tokens for e in EXAMPLES)
    grad = gradient(coder, sum(sum_of(coder, [e]) for e in EXAMPLES) / count)
    curve = lora.tune(coder, EXAMPLES, recipe, 0, progress=False)
    assert curve["grad_norm"][0] == pytest.approx(float(grad.norm()), rel=1e-4)
    assert grad.norm() > 0.5
    grad = grad * 0.5 / (grad.norm() + 1e-6)
    old = torch.cat([value.flatten() for value in before.values()])
    new = torch.cat([value.flatten() for value in weights(coder).values()])
    expected = old * (1 - recipe.lr * 0.1) - recipe.lr * grad / (grad.abs() + 1e-8)
    sure = grad.abs() > 1e-5  # Adam's first step is the gradient's sign, which rounding decides near zero
    torch.testing.assert_close(new[sure], expected[sure], rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize(("warmup", "steps"), [(0, 7), (3, 10), (0.05, 40), (20, 8), (1, 1)])
def test_the_schedule_is_that_of_transformers(warmup, steps):
    recipe = replace(RECIPE, warmup=warmup)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=recipe.lr)
    schedule = get_cosine_schedule_with_warmup(optimizer, math.ceil(warmup * steps) if warmup < 1 else warmup, steps)
    for step in range(steps):
        assert lora.learning_rate(step, steps, recipe) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-15)
        optimizer.step()
        schedule.step()


def test_the_curve_is_complete_and_tuning_learns():
    recipe = replace(RECIPE, epochs=15, lr=3e-2)
    coder = lora.add_adapter(new_coder(), recipe, 0)
    before = lora.mean_loss(coder, EXAMPLES, recipe)
    curve = lora.tune(coder, EXAMPLES, recipe, 0, progress=False)
    assert tuple(curve.columns) == lora.COLUMNS
    assert curve["step"].tolist() == list(range(1, 31))  # 7 examples: 4 batches, 2 steps an epoch
    assert curve["epoch"].tolist() == [epoch for epoch in range(15) for _ in range(2)]
    totals = curve.groupby("epoch")[["tokens", "response_tokens"]].sum()
    assert set(totals["tokens"]) == {sum(len(e.ids) for e in EXAMPLES)}
    assert set(totals["response_tokens"]) == {sum(e.response_tokens for e in EXAMPLES)}
    assert lora.mean_loss(coder, EXAMPLES, recipe) < 0.8 * before
    assert not coder.model.training


# --- order ------------------------------------------------------------------------------------------------------------


def test_every_epoch_has_every_example_once_in_batches_of_like_length():
    examples = draw(*np.random.default_rng(3).integers(10, 100, 203).tolist())
    recipe = replace(RECIPE, batch=4, accumulate=3, pool=8)
    plans = [lora.plan(examples, recipe, 0, epoch) for epoch in range(3)]
    for steps in plans:
        assert sorted(e.ids for step in steps for batch in step for e in batch) == sorted(e.ids for e in examples)
        assert all(len(step) <= 3 and all(len(batch) <= 4 for batch in step) for step in steps)
        padded = sum(len(batch) * max(len(e.ids) for e in batch) for step in steps for batch in step)
        assert padded < 1.15 * sum(len(e.ids) for e in examples)
    assert len({len(steps) for steps in plans}) == 1
    groups = [{frozenset(e.ids for e in batch) for step in steps for batch in step} for steps in plans]
    assert len(groups[0] & groups[1]) < 5  # other neighbours every epoch


def test_steps_do_not_run_from_short_to_long():
    examples = draw(*range(10, 110))
    firsts = []
    for seed in range(20):
        lengths = [np.mean([len(e.ids) for b in s for e in b]) for s in lora.plan(examples, RECIPE, seed, 0)]
        firsts.append(np.corrcoef(lengths, range(len(lengths)))[0, 1])
    assert abs(np.mean(firsts)) < 0.2


def test_the_order_follows_seed_and_epoch_alone():
    examples = draw(*range(20, 60))
    assert lora.plan(examples, RECIPE, 1, 2) == lora.plan(examples, RECIPE, 1, 2)
    assert lora.plan(examples, RECIPE, 1, 2) != lora.plan(examples, RECIPE, 1, 3)
    assert lora.plan(examples, RECIPE, 1, 2) != lora.plan(examples, RECIPE, 2, 2)


def test_examples_that_fit_one_pool_meet_others_in_every_epoch():
    examples, recipe = draw(*range(30, 46)), replace(RECIPE, batch=4, pool=8)
    groups = [
        {frozenset(e.ids for e in batch) for step in lora.plan(examples, recipe, 0, epoch) for batch in step}
        for epoch in range(5)
    ]
    assert len(set.union(*groups)) > 12  # of 20; 4 if batches were the same in all epochs


def test_same_seed_same_weights_and_the_global_generator_is_left_alone():
    runs = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        state = torch.get_rng_state()
        coder = lora.add_adapter(new_coder(), RECIPE, 5)
        curve = lora.tune(coder, EXAMPLES, RECIPE, 6, progress=False)
        assert torch.equal(torch.get_rng_state(), state)
        runs.append((weights(coder), curve.drop(columns="seconds")))
    assert same(runs[0][0], runs[1][0])
    assert runs[0][1].equals(runs[1][1])
    other = lora.add_adapter(new_coder(), RECIPE, 5)
    lora.tune(other, EXAMPLES, RECIPE, 7, progress=False)
    assert not same(weights(other), runs[0][0])
    assert not same(
        weights(lora.add_adapter(new_coder(), RECIPE, 8)), weights(lora.add_adapter(new_coder(), RECIPE, 9))
    )


def test_dropout_is_on_and_differs_between_steps(monkeypatch):
    """One example, all steps at learning rate zero: only dropout can make the losses differ."""
    monkeypatch.setattr(lora, "learning_rate", lambda *_: 0.0)
    recipe = replace(RECIPE, epochs=4)
    assert lora.tune(adapted(recipe), EXAMPLES[:1], recipe, 0, progress=False)["loss"].nunique() == 4
    recipe = replace(recipe, dropout=0.0)
    assert lora.tune(adapted(recipe), EXAMPLES[:1], recipe, 0, progress=False)["loss"].nunique() == 1


def test_gradient_checkpointing_changes_no_weight():
    runs = []
    for checkpointing in (False, True):
        coder, recipe = adapted(), replace(RECIPE, gradient_checkpointing=checkpointing)
        lora.tune(coder, EXAMPLES, recipe, 0, progress=False)
        assert not coder.model.get_base_model().is_gradient_checkpointing
        runs.append(weights(coder))
    for name in runs[0]:
        torch.testing.assert_close(runs[0][name], runs[1][name], rtol=1e-6, atol=1e-7)


def test_bfloat16_on_request_is_near_float32_and_keeps_the_adapter_in_float32():
    fine, rough = adapted(STILL), adapted(STILL)
    a = lora.tune(fine, EXAMPLES, STILL, 0, progress=False)["loss"].to_numpy()
    b = lora.tune(rough, EXAMPLES, replace(STILL, precision="bfloat16"), 0, progress=False)["loss"].to_numpy()
    assert b == pytest.approx(a, rel=2e-2)
    assert (a != b).all()
    assert {value.dtype for value in weights(rough).values()} == {torch.float32}


# --- length -----------------------------------------------------------------------------------------------------------


def test_long_examples_lose_their_beginning_and_are_counted(caplog):
    examples = [*draw(10, 6, prompt=4), *draw(30, prompt=28, seed=1), *draw(30, prompt=2, seed=2)]
    with caplog.at_level(logging.WARNING):
        fitted = lora.fit(examples, replace(RECIPE, max_length=8))
    assert "3 of 4 examples are longer than 8 tokens and lose their beginning" in caplog.text
    assert [e.ids for e in fitted] == [e.ids[-8:] for e in examples]
    # the third keeps its whole response; of the last only response is left, and its first token has no context
    assert [e.prompt_length for e in fitted] == [2, 4, 6, 1]


def test_long_examples_can_be_dropped_and_are_counted(caplog):
    recipe = replace(RECIPE, max_length=20, too_long="drop")
    with caplog.at_level(logging.WARNING):
        assert lora.fit(EXAMPLES, recipe) == [e for e in EXAMPLES if len(e.ids) <= 20]
    assert "3 of 7 examples are longer than 20 tokens and are dropped" in caplog.text
    with pytest.raises(UsageError, match="nothing to train on"):
        lora.tune(adapted(), EXAMPLES, replace(recipe, max_length=4), 0, progress=False)


def test_fitting_examples_are_not_touched(caplog):
    assert lora.fit(EXAMPLES, replace(RECIPE, max_length=40)) == EXAMPLES
    assert not caplog.records


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
    assert [path.name for path in (tmp_path / "run").iterdir()] == [lora.CHECKPOINT]


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
    before = (tmp_path / lora.CHECKPOINT).read_bytes()
    state = torch.load(tmp_path / lora.CHECKPOINT, weights_only=True)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="disk full"):
        patch.setattr(lora.torch, "save", torn)
        lora._save(tmp_path / lora.CHECKPOINT, state["key"], {}, torch.optim.SGD([torch.zeros(1)], 1.0), [])
    assert (tmp_path / lora.CHECKPOINT).read_bytes() == before


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


def base_state(coder: Coder) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in coder.model.state_dict().items()}


def test_the_base_is_bit_identical_after_add_tune_remove_for_several_arms():
    coder = new_coder()
    before, names = base_state(coder), [name for name, _ in coder.model.named_modules()]
    logits = coder.model(torch.tensor([EXAMPLES[0].ids])).logits
    first = None
    for _ in range(2):
        coder = lora.add_adapter(coder, RECIPE, 0)
        lora.tune(coder, EXAMPLES, RECIPE, 0, progress=False)
        first = first or weights(coder)
        assert same(weights(coder), first)  # the second arm does not feel the first
        coder = lora.remove_adapter(coder)
        assert same(base_state(coder), before)
        assert [name for name, _ in coder.model.named_modules()] == names
        assert torch.equal(coder.model(torch.tensor([EXAMPLES[0].ids])).logits, logits)


def test_a_fresh_adapter_changes_nothing_yet_and_only_it_is_trained():
    coder = new_coder()
    logits = coder.model(torch.tensor([EXAMPLES[0].ids])).logits
    coder = lora.add_adapter(coder, RECIPE, 0)
    assert torch.equal(coder.model(torch.tensor([EXAMPLES[0].ids])).logits, logits)
    assert len(weights(coder)) == 2 * 7 * 2  # A and B, seven projections, two layers
    assert all("lora_" in name for name in weights(coder))


def test_saved_in_pefts_format_and_read_by_peft_alone(tmp_path):
    coder = lora.add_adapter(new_coder(), RECIPE, 0)
    lora.tune(coder, EXAMPLES, RECIPE, 0, progress=False)
    lora.save_adapter(coder, tmp_path / "adapter")
    lora.save_adapter(coder, tmp_path / "adapter")  # over the old one
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {p.name for p in (tmp_path / "adapter").iterdir()}
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (4, 8, "tiny")
    theirs = PeftModel.from_pretrained(new_coder().model, tmp_path / "adapter").eval()
    ids = torch.tensor([EXAMPLES[1].ids])
    assert torch.equal(theirs(ids).logits, coder.model(ids).logits)


def test_a_loaded_adapter_is_tuned_on_as_if_it_had_stayed(tmp_path):
    coder = lora.add_adapter(new_coder(), RECIPE, 0)
    lora.tune(coder, EXAMPLES, RECIPE, 0, progress=False)
    lora.save_adapter(coder, tmp_path / "adapter")
    again = lora.load_adapter(new_coder(), tmp_path / "adapter")
    assert same(weights(again), weights(coder))
    for one in (coder, again):
        lora.tune(one, EXAMPLES, RECIPE, 1, progress=False)
    assert same(weights(again), weights(coder))


def test_an_adapter_that_is_not_trainable_is_refused(tmp_path):
    lora.save_adapter(lora.add_adapter(new_coder(), RECIPE, 0), tmp_path / "adapter")
    frozen = lora.load_adapter(new_coder(), tmp_path / "adapter", trainable=False)
    for coder in (frozen, new_coder()):
        with pytest.raises(UsageError, match="no adapter that can be trained"):
            lora.tune(coder, EXAMPLES, RECIPE, 0, progress=False)


def test_layers_that_the_model_lacks_are_left_out(caplog):
    def layers(recipe):
        with caplog.at_level(logging.INFO):
            coder = lora.add_adapter(new_coder(layers=3), recipe, 0)
        return sorted({int(name.split("layers.")[1].split(".")[0]) for name in weights(coder)})

    assert layers(Recipe(rank=2)) == [0, 1, 2]  # the papers' 0 to 23
    assert "has 3 layers" in caplog.text
    assert layers(Recipe(rank=2, layers=None)) == [0, 1, 2]
    assert layers(Recipe(rank=2, layers=(1, 7))) == [1]
    with pytest.raises(UsageError, match="has layers 0 to 2"):
        lora.add_adapter(new_coder(layers=3), Recipe(layers=(5, 6)), 0)


def test_misuse_is_named_before_any_work(tmp_path):
    with pytest.raises(UsageError, match="no layers called c_attn"):
        lora.add_adapter(new_coder(), replace(RECIPE, targets=("q_proj", "c_attn")), 0)
    base = new_coder()
    coder = lora.add_adapter(base, RECIPE, 0)
    with pytest.raises(UsageError, match="has an adapter already"):
        lora.add_adapter(coder, RECIPE, 0)
    with pytest.raises(UsageError, match="which another Coder now holds"):
        lora.add_adapter(base, RECIPE, 0)
    with pytest.raises(DataError, match="holds no adapter"):
        lora.load_adapter(new_coder(), tmp_path)
    for use in (lora.remove_adapter, lambda bare: lora.save_adapter(bare, tmp_path / "x")):
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
