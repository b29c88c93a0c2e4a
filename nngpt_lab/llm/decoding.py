"""How the next token is chosen from a model's scores, and when a text ends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from nngpt_lab.ground.errors import LabError, UsageError
from nngpt_lab.llm.prompts import end_of_turn

if TYPE_CHECKING:
    from nngpt_lab.llm.models import Coder


@dataclass(frozen=True)
class Decoding:
    """How the next token is chosen, in this order, which is transformers' own.

    Attributes:
        temperature: what logits are divided by; 0 takes the most probable token (greedy).
        top_k: only that many most probable tokens; 0 for all.
        top_p: only the most probable tokens that together reach this probability, above 0; 1 for all.
        max_new_tokens: tokens after which a text is cut.

    Other settings of a model's ``generation_config`` (a repetition penalty, say) are not used.
    """

    temperature: float
    top_k: int
    top_p: float
    max_new_tokens: int

    def __post_init__(self):
        if not 0 <= self.temperature < float("inf"):
            raise UsageError(f"a temperature of {self.temperature} means nothing", "use 0 (greedy) or more")
        if self.top_k < 0:
            raise UsageError(f"top_k {self.top_k} is negative", "use 0 for all tokens, or how many to keep")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top_p {self.top_p} is no probability to reach", "use more than 0 and at most 1 (all)")
        if self.max_new_tokens < 1:
            raise UsageError(f"{self.max_new_tokens} new tokens make no text", "use at least 1")


def probabilities(logits: torch.Tensor, decoding: Decoding) -> tuple[torch.Tensor, torch.Tensor]:
    """The distribution that a token is drawn from, by transformers' rules: temperature (above 0), then top-k, then
    top-p. Of tokens that tie for the k-th place as many are kept as make k (transformers keeps them all).

    ``logits`` (rows, vocabulary) give probabilities (rows, k), the most probable first and 0 for those cut by top-p,
    and their tokens (rows, k).
    """
    scores = logits.float() / decoding.temperature
    if decoding.top_k:
        scores, tokens = scores.topk(min(decoding.top_k, scores.shape[-1]))
    else:
        scores, tokens = scores.sort(descending=True)
    shares = scores.softmax(-1)
    if decoding.top_p < 1:
        before = shares.cumsum(-1) - shares
        shares = shares.masked_fill(before >= decoding.top_p, 0.0)
        shares /= shares.sum(-1, keepdim=True)
    return shares, tokens


@torch.inference_mode()
def choose(logits: torch.Tensor, decoding: Decoding, draws: Sequence[float] | torch.Tensor) -> torch.Tensor:
    """One token for each row of ``logits`` (rows, vocabulary): int64 (rows,); -1 where logits are no numbers.
    ``draws``: for each row a number in [0, 1), the point of the cumulative distribution whose token is taken. Where
    they lie on the logits' device, the host has no part in the choice."""
    best, token = logits.max(-1)
    if decoding.temperature > 0:
        shares, tokens = probabilities(logits, decoding)
        # In the order of the tokens: two that are almost tied change places by rounding, and with them what is drawn
        if tokens.shape[-1] == logits.shape[-1]:  # all tokens: to put each in its place is cheaper than to sort
            tokens, shares = None, torch.empty_like(shares).scatter_(-1, tokens, shares)
        else:
            tokens, order = tokens.sort(-1)
            shares = shares.gather(-1, order)
        reached = shares.cumsum(-1)
        points = torch.as_tensor(draws, dtype=shares.dtype, device=shares.device)[:, None] * reached[:, -1:]
        place = (reached <= points).sum(-1, keepdim=True)
        last = (reached < reached[:, -1:]).sum(-1, keepdim=True)  # a draw just below 1 rounds to 1
        place = place.minimum(last)
        token = (place if tokens is None else tokens.gather(-1, place))[:, 0]
    return torch.where(best.isfinite(), token, -1)


def refuse_diverged(tokens: Iterable[int], name: str) -> None:
    """A LabError if a token that :func:`choose` gave for the model ``name`` is none."""
    if -1 in tokens:
        raise LabError(f"{name}'s scores are not numbers", "its weights have diverged: tune at a lower rate")


@dataclass
class Row:
    """A text that is being written: its prompt, its tokens so far, and its own random draws."""

    index: int
    prompt: Sequence[int]
    seed: int
    room: int  # new tokens that it may have
    ids: list[int] = field(default_factory=list)
    ended: bool = False

    def __post_init__(self):
        # NumPy mixes all bits of a seed; torch's CPU generator drops those above the 32nd. One draw a token, so what a
        # text has drawn does not depend on how long others are.
        self.draws = np.random.default_rng(self.seed).random(self.room)

    def append(self, token: int, ends: frozenset[int]) -> None:
        self.ids.append(token)
        self.ended = token in ends

    @property
    def done(self) -> bool:
        return self.ended or len(self.ids) == self.room


def end_tokens(coder: Coder) -> frozenset[int]:
    """The tokens that end an answer: all those of the model's ``generation_config``, the tokenizer's, and what the chat
    template writes there, which is what tuning teaches."""
    configured = getattr(coder.model.generation_config, "eos_token_id", None)
    configured = configured if isinstance(configured, list | tuple) else [configured]
    taught = end_of_turn(coder.tokenizer) if coder.tokenizer.chat_template else None
    return frozenset(int(token) for token in (*configured, coder.tokenizer.eos_token_id, taught) if token is not None)
