"""LoRA in a few lines each, on matrices small enough to look at; the walkthrough ``lora`` tells the story.

A layer with frozen weights W (out, in) gets two small matrices, A (r, in) and B (out, r), and computes with

    W + (alpha / r) B A

Nothing here is used by the lab's tuning (``lora.py``, which leaves this to peft): it is what peft is held against.
Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models" (arXiv 2106.09685), section 4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from nngpt_lab.ground.errors import UsageError
from nngpt_lab.statistics.plots import line, whole_numbers
from nngpt_lab.statistics.style import COLOURS, MUTED, OTHER, OURS, new_figure


def update(a: Tensor, b: Tensor, alpha: float) -> Tensor:
    """What is added to the weights: (alpha / r) B A, shape (out, in), of A (r, in) and B (out, r)."""
    if a.shape[0] != b.shape[1]:
        raise UsageError(f"A of shape {tuple(a.shape)} and B of shape {tuple(b.shape)} do not fit", "use one rank")
    return alpha / a.shape[0] * b @ a


def forward(x: Tensor, weight: Tensor, a: Tensor, b: Tensor, alpha: float) -> Tensor:
    """The layer's output (n, out) of x (n, in), without ever making a matrix of W's size: x goes through A, then B."""
    return x @ weight.T + alpha / a.shape[0] * (x @ a.T) @ b.T


def gradients(x: Tensor, upstream: Tensor, a: Tensor, b: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Gradients of the loss for A and B by the chain rule, as autograd finds them.

    ``upstream`` is the loss's gradient for the layer's output, (n, out). With G = upstream^T x, the gradient that W
    would get, they are (alpha / r) B^T G and (alpha / r) G A^T: as long as B is zero, A's is zero too.
    """
    full = upstream.T @ x
    scale = alpha / a.shape[0]
    return scale * b.T @ full, scale * full @ a.T


def linear_shapes(model: nn.Module, targets: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Shapes (out, in) of the linear layers whose last name is one of ``targets``, by full name."""
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    return {name: tuple(layer.weight.shape) for name, layer in layers.items() if name.rpartition(".")[2] in targets}


def counts(shapes: Mapping[str, tuple[int, int]], rank: int) -> pd.DataFrame:
    """Weights of each layer and of its adapter: layer, out, in, weights, adapter, share (adapter over weights), and
    break_even: the rank from which on an adapter is larger than what it adapts, out * in / (out + in)."""
    if rank < 1:
        raise UsageError(f"an adapter of rank {rank} has no weights", "use a rank from 1")
    table = pd.DataFrame([(name, *shape) for name, shape in shapes.items()], columns=["layer", "out", "in"])
    weights, sides = table["out"] * table["in"], table["out"] + table["in"]
    return table.assign(weights=weights, adapter=rank * sides, share=rank * sides / weights, break_even=weights / sides)


def base_weights(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all weights that no adapter added, by the names they had before peft wrapped them."""
    return {
        name.replace("base_model.model.", "").replace(".base_layer.", "."): value.detach().clone()
        for name, value in model.named_parameters()
        if "lora_" not in name
    }


def same_bits(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    """Whether two sets of weights have the same names and, bit for bit, the same values."""
    bits = [  # as numbers, 0 would equal -0
        {name: (value.dtype, value.flatten().view(torch.uint8).numpy().tobytes()) for name, value in weights.items()}
        for weights in (first, second)
    ]
    return bits[0] == bits[1]


def merging(weight: Tensor, added: Tensor, types: Sequence[torch.dtype]) -> pd.DataFrame:
    """What is lost where an update is added to weights and taken away again, by number type.

    Columns: type; lost, the share of weights that the update leaves as they are though it is not zero there; error,
    the largest difference between the merged weights and the exact sum of the two in this type; back, the share of
    weights that have the same value again after the update was subtracted; difference, the largest one left then.
    """
    rows = []
    for kind in types:
        low, small = weight.to(kind), added.to(kind)
        merged = low + small
        back = merged - small
        unchanged = (merged == low)[added != 0].double().mean().item() if added.any() else 0.0
        error = (merged.double() - (low.double() + small.double())).abs().max().item()
        left = (back.double() - low.double()).abs().max().item()
        name = str(kind).removeprefix("torch.")
        rows.append((name, unchanged, error, (back == low).double().mean().item(), left))
    return pd.DataFrame(rows, columns=["type", "lost", "error", "back", "difference"])


def low_rank(rows: int, columns: int, rank: int, generator: torch.Generator) -> Tensor:
    """A random matrix (rows, columns) of the given rank whose entries have variance 1 on average."""
    if not 1 <= rank <= min(rows, columns):
        raise UsageError(f"a matrix of {rows} x {columns} cannot have rank {rank}", "use 1 to the shorter side")
    left, right = torch.randn(rows, rank, generator=generator), torch.randn(rank, columns, generator=generator)
    return left @ right / rank**0.5


def best_error(target: Tensor, rank: int) -> float:
    """The smallest share of the target's squared entries that any matrix of this rank leaves unexplained, from the
    singular values beyond the first ``rank`` (Eckart & Young 1936)."""
    squares = torch.linalg.svdvals(target.double()) ** 2
    return float(squares[rank:].sum() / squares.sum())


def learn(target: Tensor, rank: int, steps: int, lr: float, generator: torch.Generator) -> np.ndarray:
    """Learn an update B A (alpha = r) that equals ``target``; what is left unexplained before each step and after all.

    Starts as LoRA does, A random and B zero, and descends with Adam, whose learning rate falls along half a cosine.
    Returns shares of the target's squared entries, (steps + 1,).
    """
    rows, columns = target.shape
    a = nn.Parameter(torch.randn(rank, columns, generator=generator) / columns**0.5)
    b = nn.Parameter(torch.zeros(rows, rank))
    optimizer = torch.optim.Adam([a, b], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    whole, errors = (target**2).sum(), []
    for step in range(steps + 1):
        loss = ((update(a, b, rank) - target) ** 2).sum() / whole
        errors.append(loss.item())
        if step < steps:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return np.array(errors)


def rank_against_fit(
    target: Tensor, ranks: Sequence[int], steps: int, lr: float, generator: torch.Generator
) -> pd.DataFrame:
    """Learning curves of adapters of several ranks: rank, step (from 0), error, best (what the rank allows at all)."""
    tables = [
        pd.DataFrame({"rank": rank, "step": range(steps + 1), "error": learn(target, rank, steps, lr, generator)})
        .assign(best=best_error(target, rank)) for rank in ranks
    ]  # fmt: skip
    return pd.concat(tables, ignore_index=True)


def draw_rank_against_fit(table: pd.DataFrame, target_rank: int) -> Figure:
    """Curves of :func:`rank_against_fit`, errors below 1e-6 drawn there; dashed: the least error that a rank allows."""
    floor = 1e-6
    figure, ax = new_figure(width=8, height=4)
    for (rank, part), colour in zip(table.groupby("rank"), COLOURS, strict=False):
        ax.plot(part["step"], 100 * part["error"].clip(lower=floor), color=colour, label=f"r = {rank}")
        if part["best"].iloc[0] > floor:
            ax.axhline(100 * part["best"].iloc[0], color=colour, linestyle="--", linewidth=1)
    ax.set_yscale("log")
    ax.set(xlabel="step", ylabel="of the target not learnt, %",
           title=f"A target of rank {target_rank}, learnt by adapters of rank r")  # fmt: skip
    ax.legend(loc="center right", frameon=True, facecolor="white", edgecolor="none", title="dashed: best possible")
    return figure


def draw_tuning(curve: pd.DataFrame, losses: pd.DataFrame) -> Figure:
    """Left the loss of each step (dots) and its mean by epoch (line; ``curve`` of ``lora.tune``), right that of each
    text before and after tuning (``losses``: tuned_on (bool), before, after; nats per token of the answer)."""
    figure, (left, right) = new_figure(1, 2, width=9, height=3.8, sharey=True)
    left.scatter(curve["step"], curve["loss"], color=MUTED, s=12, label="a step")
    by_epoch = curve.groupby("epoch")[["step", "loss"]].mean()
    line(left, by_epoch, "step", "loss", color=OURS, marker="o", markersize=4, label="mean of an epoch")
    whole_numbers(left.xaxis)
    left.set(xlabel="step", ylabel="loss, nats per token", title="While tuning")
    left.legend(loc="upper right")
    for tuned, colour, label in ((True, OURS, "tuned on"), (False, OTHER, "not tuned on")):
        part = losses[losses["tuned_on"] == tuned]
        lines = right.plot([0, 1], part[["before", "after"]].to_numpy().T, color=colour, marker="o", markersize=4)
        lines[0].set_label(label)
    right.set_xticks([0, 1], ["before", "after"])
    right.set(xlim=(-0.3, 1.3), title="Each network, before and after", ylim=(0, None))
    right.axhline(0, color=MUTED, linewidth=0.8)
    right.legend(loc="lower left")
    return figure
