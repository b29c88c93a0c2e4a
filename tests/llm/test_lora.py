"""LoRA: what the loss counts, that examples do not meet, accumulation, order, length."""

from __future__ import annotations

import logging
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import get_cosine_schedule_with_warmup

from nngpt_lab.ground.errors import UsageError
from nngpt_lab.llm import adapters, lora
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
    coder, recipe = (
        adapted(STILL),
        replace(STILL, batch=7, accumulate=1, epochs=1, weight_decay=0.1, max_grad_norm=0.25),
    )
    before, count = weights(coder), sum(e.response_tokens for e in EXAMPLES)
    grad = gradient(coder, sum(sum_of(coder, [e]) for e in EXAMPLES) / count)
    curve = lora.tune(coder, EXAMPLES, recipe, 0, progress=False)
    assert curve["grad_norm"][0] == pytest.approx(float(grad.norm()), rel=1e-4)
    assert grad.norm() > 0.25
    grad = grad * 0.25 / (grad.norm() + 1e-6)
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
    coder = adapters.add_adapter(new_coder(), recipe, 0)
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
        coder = adapters.add_adapter(new_coder(), RECIPE, 5)
        curve = lora.tune(coder, EXAMPLES, RECIPE, 6, progress=False)
        assert torch.equal(torch.get_rng_state(), state)
        runs.append((weights(coder), curve.drop(columns="seconds")))
    assert same(runs[0][0], runs[1][0])
    assert runs[0][1].equals(runs[1][1])
    other = adapters.add_adapter(new_coder(), RECIPE, 5)
    lora.tune(other, EXAMPLES, RECIPE, 7, progress=False)
    assert not same(weights(other), runs[0][0])
    assert not same(
        weights(adapters.add_adapter(new_coder(), RECIPE, 8)), weights(adapters.add_adapter(new_coder(), RECIPE, 9))
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
        with adapters.quiet():  # transformers 5.24 calls it by another name; earlier ones know only this
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
