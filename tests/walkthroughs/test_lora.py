"""LoRA by hand: equal to peft and autograd to float precision, and exact where it says so."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pandas as pd
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from nngpt_lab.ground.errors import UsageError
from nngpt_lab.llm import adapters, lora
from nngpt_lab.llm.recipe import PROJECTIONS
from nngpt_lab.walkthroughs import lora as hand
from tests.helpers.lora_coders import EXAMPLES, STILL, new_coder, one_thread  # noqa: F401

ALPHA = 6.0


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def matrices(rank: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, ...]:
    """x (5, 6), W (4, 6), A (rank, 6), B (4, rank)."""
    source = generator(rank)
    return tuple(torch.randn(*shape, generator=source, dtype=dtype) for shape in ((5, 6), (4, 6), (rank, 6), (4, rank)))


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_the_short_way_is_the_long_way(rank):
    x, weight, a, b = matrices(rank)
    torch.testing.assert_close(hand.forward(x, weight, a, b, ALPHA), x @ (weight + hand.update(a, b, ALPHA)).T)
    assert torch.linalg.matrix_rank(hand.update(a, b, ALPHA)) == rank


def test_update_by_hand():
    a, b = torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [3.0, -1.0]])
    assert torch.equal(hand.update(a, b, 4.0), torch.tensor([[2.0, 4.0], [6.0, 10.0]]))
    with pytest.raises(UsageError, match="do not fit"):
        hand.update(a, torch.zeros(2, 3), 1.0)


@pytest.mark.parametrize("rank", [1, 3])
def test_gradients_are_autograds(rank):
    x, weight, a, b = matrices(rank)
    a.requires_grad_()
    b.requires_grad_()
    y = hand.forward(x, weight, a, b, ALPHA)
    upstream = torch.randn(y.shape, generator=generator(9), dtype=y.dtype)
    y.backward(upstream)
    grad_a, grad_b = hand.gradients(x, upstream, a.detach(), b.detach(), ALPHA)
    torch.testing.assert_close(a.grad, grad_a)
    torch.testing.assert_close(b.grad, grad_b)
    assert weight.grad is None
    assert not hand.gradients(x, upstream, a.detach(), torch.zeros_like(b), ALPHA)[0].any()


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_forward_and_merging_are_pefts(rank):
    x, weight, a, b = matrices(rank, torch.float32)
    base = nn.Sequential(OrderedDict(layer=nn.Linear(6, 4, bias=False)))
    model = get_peft_model(base, LoraConfig(r=rank, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=["layer"]))
    layer = model.base_model.model.layer
    assert not layer.lora_B["default"].weight.any()  # it starts at zero
    for theirs, ours in ((layer.base_layer, weight), (layer.lora_A["default"], a), (layer.lora_B["default"], b)):
        theirs.weight.data.copy_(ours)
    torch.testing.assert_close(model(x), hand.forward(x, weight, a, b, ALPHA))
    model.merge_adapter()
    torch.testing.assert_close(layer.base_layer.weight, weight + hand.update(a, b, ALPHA))


def test_counts_are_pefts():
    coder = new_coder()
    shapes = hand.linear_shapes(coder.model, PROJECTIONS)
    table = hand.counts(shapes, STILL.rank)
    assert len(table) == 14 and set(table["layer"].str.rpartition(".")[2]) == set(PROJECTIONS)
    trainable, _ = adapters.add_adapter(coder, STILL, 0).model.get_nb_trainable_parameters()
    assert table["adapter"].sum() == trainable


def test_an_adapter_of_break_even_rank_is_as_large_as_its_layer():
    table = hand.counts({"square": (8, 8), "flat": (64, 256)}, 4)
    assert table["break_even"].tolist() == [4, 51.2]
    assert table["share"].tolist() == [1, pytest.approx(4 / 51.2)]
    with pytest.raises(UsageError, match="rank 0"):
        hand.counts({}, 0)


def test_base_weights_have_their_names_and_bits_with_an_adapter_on():
    coder = new_coder()
    before = hand.base_weights(coder.model)
    assert before.keys() == dict(coder.model.named_parameters()).keys()
    tuned = adapters.add_adapter(coder, STILL, 0)
    lora.tune(tuned, EXAMPLES, STILL, 0, progress=False)
    after = hand.base_weights(tuned.model)
    assert hand.same_bits(before, after)
    assert hand.same_bits(before, hand.base_weights(adapters.remove_adapter(tuned).model))


def test_one_changed_bit_and_one_missing_name_are_seen():
    before = {"a": torch.ones(3), "b": torch.zeros(2)}
    changed = {name: value.clone() for name, value in before.items()}
    changed["a"][1] = 1 + 2**-23
    assert hand.same_bits(before, before)
    assert not hand.same_bits(before, before | {"b": -before["b"]})  # 0 and -0 are equal numbers
    assert not hand.same_bits(before, {name: value.double() for name, value in before.items()})
    assert not hand.same_bits(before, changed) and not hand.same_bits(before, {"a": before["a"]})


def test_base_weights_are_copies():
    coder = new_coder()
    before = hand.base_weights(coder.model)
    with torch.no_grad():
        next(coder.model.parameters()).add_(1)
    assert not hand.same_bits(before, hand.base_weights(coder.model))


def test_merging_loses_more_in_fewer_bits():
    weight = torch.randn(40, 40, generator=generator())
    added = 1e-3 * torch.randn(40, 40, generator=generator(1))
    table = hand.merging(weight, added, (torch.float64, torch.float32, torch.bfloat16)).set_index("type")
    assert table["error"].is_monotonic_increasing and table["lost"].is_monotonic_increasing
    assert table.loc["bfloat16", "lost"] > 0.3 > 0.01 > table.loc["float32", "lost"]
    assert table.loc["float32", "difference"] > 0  # subtracting does not bring the same bits back


def test_an_update_too_small_for_a_type_is_lost_in_it():
    weight = torch.ones(2, 2)
    added = torch.tensor([[1e-9, 1e-9], [0.5, 0.0]])  # in float16, 1e-9 is zero before it is added
    table = hand.merging(weight, added, (torch.float64, torch.float32, torch.float16)).set_index("type")
    assert table["lost"].tolist() == pytest.approx([0, 2 / 3, 2 / 3])


def test_merging_nothing_loses_nothing():
    table = hand.merging(torch.ones(2, 2), torch.zeros(2, 2), (torch.float32,))
    assert table.loc[0, ["lost", "error", "back", "difference"]].tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_low_rank_target(rank):
    target = hand.low_rank(6, 9, rank, generator())
    assert torch.linalg.matrix_rank(target) == rank
    with pytest.raises(UsageError, match="cannot have rank"):
        hand.low_rank(6, 9, 7, generator())


def test_best_error_is_what_the_singular_values_leave():
    target = torch.diag(torch.tensor([3.0, 2.0, 1.0]))
    assert [hand.best_error(target, rank) for rank in range(4)] == pytest.approx([1, 5 / 14, 1 / 14, 0])


def test_adapters_learn_what_their_rank_allows_and_no_more():
    target = hand.low_rank(12, 16, 3, generator())
    table = hand.rank_against_fit(target, (1, 2, 3, 5), 150, 0.1, generator(1))
    last = table.groupby("rank").last()
    assert (table.groupby("rank")["error"].first() == 1).all()  # B is zero
    assert (last["error"] > last["best"] - 1e-6).all()
    assert last["error"].tolist() == pytest.approx(last["best"].tolist(), abs=2e-3)
    assert last.loc[2, "best"] > 0.01 > 1e-9 > last.loc[3, "best"]


def test_same_seed_same_curve():
    target = hand.low_rank(6, 8, 2, generator())
    one, other = (hand.learn(target, 2, 20, 0.1, generator(3)) for _ in range(2))
    assert np.array_equal(one, other)


def test_figures_show_every_curve():
    table = hand.rank_against_fit(hand.low_rank(6, 8, 2, generator()), (1, 2), 10, 0.1, generator(1))
    legend = hand.draw_rank_against_fit(table, 2).axes[0].get_legend()
    assert [text.get_text() for text in legend.texts] == ["r = 1", "r = 2"]
    curve = pd.DataFrame({"step": [1, 2, 3, 4], "epoch": [0, 0, 1, 1], "loss": [2.0, 1.0, 1.5, 0.5]})
    losses = pd.DataFrame({"tuned_on": [True, False, True], "before": [2.0, 2, 1], "after": [1.0, 2, 1]})
    left, right = hand.draw_tuning(curve, losses).axes
    assert left.lines[0].get_ydata().tolist() == [1.5, 1.0] and len(left.collections) == 1
    assert len(right.lines) == 4  # three texts and the line at zero
