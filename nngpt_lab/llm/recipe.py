"""How a LoRA adapter is made and tuned, as data."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nngpt_lab.ground.errors import UsageError

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj", "gate_proj")


@dataclass(frozen=True)
class Recipe:
    """How an adapter is made and tuned. The defaults are paper B's and its code's (reference: 2601.02997).

    Attributes:
        rank, alpha, dropout: of the adapter; its product is scaled by alpha / rank.
        targets: names of the linear layers that get one.
        layers: numbers of the decoder layers that get one; those that a model does not have are left out. None: all.
        lr: peak learning rate.
        epochs: passes over the examples.
        batch: examples in a micro-batch, that is at once in memory.
        accumulate: micro-batches in an optimizer step.
        warmup: linear warm-up in steps, or as a share of all steps if below 1; then half a cosine down to 0. As in
            transformers, the first step of a warm-up has learning rate 0.
        weight_decay, max_grad_norm: of AdamW (betas 0.9, 0.999); norm that the gradient is clipped to.
        max_length: longest example in tokens.
        too_long: what happens to longer ones: ``truncate_left`` keeps the end (authors' code), ``drop`` leaves them
            out; both are counted in a warning.
        optimizer: ``adamw`` (torch), or the papers' ``paged_adamw_8bit`` (bitsandbytes, CUDA only).
        precision: of the computation: ``float32``, ``bfloat16``, or ``auto``: bfloat16 on CUDA devices that have it.
        gradient_checkpointing: compute activations twice to save memory; changes no result.
        pad_to: batches are padded to a multiple of this, tokens.
        pool: batches are made of similar lengths within pools of this many batches.
    """

    rank: int = 32
    alpha: float = 32
    dropout: float = 0.05
    targets: tuple[str, ...] = PROJECTIONS
    layers: tuple[int, ...] | None = tuple(range(24))
    lr: float = 1e-5
    epochs: int = 5
    batch: int = 1
    accumulate: int = 8
    warmup: float = 20
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    max_length: int = 4096
    too_long: str = "truncate_left"
    optimizer: str = "adamw"
    precision: str = "auto"
    gradient_checkpointing: bool = False
    pad_to: int = 16
    pool: int = 8

    def __post_init__(self):
        for field in ("rank", "epochs", "batch", "accumulate", "pad_to", "pool"):
            if getattr(self, field) < 1:
                raise UsageError(f"a recipe's {field} is {getattr(self, field)}", "it counts from 1")
        if not 0 <= self.dropout < 1 or self.warmup < 0 or self.weight_decay < 0 or not 0 < self.lr < math.inf:
            raise UsageError(
                f"dropout {self.dropout}, warmup {self.warmup}, weight_decay {self.weight_decay}, lr {self.lr}: one is "
                "out of range",
                "0 <= dropout < 1, 0 <= warmup, 0 <= weight_decay, 0 < lr",
            )
        if self.max_length < 2 or not self.max_grad_norm > 0 or not self.targets or self.layers == ():
            raise UsageError(
                "a recipe leaves nothing to train (max_length, max_grad_norm, targets or layers)",
                "max_length counts from 2, max_grad_norm is above 0, targets and layers are not empty",
            )
        for field, allowed in (
            ("too_long", ("truncate_left", "drop")),
            ("optimizer", ("adamw", "paged_adamw_8bit")),
            ("precision", ("auto", "float32", "bfloat16")),
        ):
            if getattr(self, field) not in allowed:
                raise UsageError(f"a recipe's {field} cannot be {getattr(self, field)!r}", f"use one of {allowed}")
