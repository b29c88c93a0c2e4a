"""How likely a model finds given texts: what several begin with is read once, and its keys and values serve them all.

Texts that begin alike are a group (the questions about one network, say). The beginnings of several groups are read in
one pass, and so are the ends of all their texts: shorter ones are padded behind, where under causal attention no token
sees it, and a mask hides a beginning's padding from the ends. Logits are made where a token is scored and nowhere else,
in float32: those of bfloat16 move a difference of two texts by up to 0.04.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional
from transformers.cache_utils import DynamicCache, DynamicLayer

from nngpt_lab.ground.errors import UsageError
from nngpt_lab.llm.kv_cache import Forward, common_prefix
from nngpt_lab.llm.lora import decoder_and_head, fill
from nngpt_lab.llm.models import Coder

TOKENS = {"cpu": 2048, "cuda": 16_384}  # read in one pass: more do not make a CPU faster
LOGITS = 2**28  # numbers at a time, 1 GiB in float32

Ids = Sequence[int]
Head = tuple[torch.Tensor, torch.Tensor | None]  # weight and bias, in float32


@dataclass(frozen=True)
class End:
    """What a text says behind its group's beginning, with that one's last token before it: whose it is (``group``,
    ``row``), the group's row in the cache and how many tokens of it are its own (``read``), and the first token that
    counts, of those after the end's first one."""

    group: int
    row: int
    beginning: int
    read: int
    ids: Ids
    first: int


def log_likelihoods(coder: Coder, texts: Sequence[Ids]) -> np.ndarray:
    """log P(text | the beginning that all texts share), in nats, one per text: one group of :func:`by_group`. For one
    text alone that beginning is all but its last token."""
    return by_group(coder, [texts])[0] if texts else np.zeros(0)


@torch.inference_mode()
def by_group(
    coder: Coder, groups: Sequence[Sequence[Ids]], starts: Sequence[Sequence[int]] | None = None, rows: int = 256
) -> list[np.ndarray]:
    """log P(text from its start on | what stands before), in nats: an array per group, a number per text.

    Args:
        coder: with or without an adapter; ``with sampling.merged(coder)`` is faster.
        groups: texts as token ids; those of a group share their first token at least.
        starts: the first token of each text that counts. None: the first one that the group does not share, since what
            its texts share would add the same to each.
        rows: texts at most in a pass.

    Raises:
        UsageError: texts of a group do not begin alike, or the model changes its logits after its head.
    """
    decoder, head = decoder_and_head(coder)
    bias = getattr(head, "bias", None)
    in_full = head.weight.float(), None if bias is None else bias.float()  # once: a copy, unless it is float32 already
    forward, room = Forward(decoder), TOKENS["cpu" if coder.device.type == "cpu" else "cuda"]
    shared = [_shared(texts) for texts in groups]
    starts = starts or [[common] * len(texts) for common, texts in zip(shared, groups, strict=True)]
    results = [np.zeros(len(texts)) for texts in groups]
    for members in _passes(forward, shared, room, rows):
        read = [shared[group] - 1 for group in members]  # the last shared token is read with the ends
        cache = DynamicCache(config=forward.config)
        if any(read):
            begun = [groups[g][0][: max(1, length)] for g, length in zip(members, read, strict=True)]
            forward.states(_padded(begun), cache)
        ends = [
            End(group, row, place, read[place], text[read[place] :], starts[group][row] - shared[group])
            for place, group in enumerate(members)
            for row, text in enumerate(groups[group])
        ]
        widths = [len(end.ids) for end in ends]
        for batch in fill(np.argsort(widths, kind="stable"), widths, room, rows):
            chosen = [ends[i] for i in batch]
            for end, value in zip(chosen, _score(forward, in_full, cache, chosen), strict=True):
                results[end.group][end.row] = value
    return results


def _shared(texts: Sequence[Ids]) -> int:
    """How many tokens the texts begin with alike, less than any has; a UsageError if there is none."""
    shared = min(common_prefix(texts), min(map(len, texts)) - 1)
    if shared < 1:
        raise UsageError("the texts do not begin with the same token", "put the same prompt before each")
    return shared


def _passes(forward: Forward, shared: Sequence[int], room: int, rows: int) -> Iterator[list[int]]:
    """Groups whose beginnings are read together: one at a time where a layer forgets old tokens, for there the padding
    would push some out."""
    order = np.argsort(shared, kind="stable")
    remembers = all(type(layer) is DynamicLayer for layer in DynamicCache(config=forward.config).layers)
    return fill(order, shared, room, rows if remembers else 1)


def _padded(texts: Sequence[Ids]) -> torch.Tensor:
    """Token ids, (texts, longest). What pads a text is its last token: transformers warns of others, nothing looks."""
    longest = max(map(len, texts))
    return torch.tensor([[*text, *[text[-1]] * (longest - len(text))] for text in texts])


def _score(forward: Forward, head: Head, cache: DynamicCache, ends: Sequence[End]) -> np.ndarray:
    """Sum of log-probabilities of the tokens of each end that count; the cache holds the beginnings, and keeps them."""
    ids, columns, past = _padded([end.ids for end in ends]), cache.get_seq_length(), copy.deepcopy(cache)
    if columns:
        past.batch_select_indices(torch.tensor([end.beginning for end in ends], device=forward.device))
    read, places, known = torch.tensor([[end.read] for end in ends]), torch.arange(ids.shape[1] - 1), {}
    if min(end.read for end in ends) < columns:
        everything = torch.arange(columns + len(places))
        known["attention_mask"] = ((everything < read) | (everything >= columns)).long().to(forward.device)
        known["position_ids"] = (read + places).to(forward.device)
    hidden = forward.states(ids[:, :-1], past, **known)
    first, last = torch.tensor([[end.first, len(end.ids) - 1] for end in ends]).T[:, :, None]
    row, column = ((places >= first) & (places < last)).nonzero(as_tuple=True)
    losses = _losses(head, hidden[row.to(forward.device), column.to(forward.device)], ids[row, column + 1])
    return -torch.zeros(len(ends), dtype=torch.double).index_add_(0, row, losses).numpy()


def _losses(head: Head, states: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy in float32 of each state's next token, (states,), so many at a time as memory has room for."""
    at_a_time = max(1, LOGITS // len(head[0]))
    losses = [
        functional.cross_entropy(functional.linear(some.float(), *head), label.to(some.device), reduction="none")
        for some, label in zip(states.split(at_a_time), labels.split(at_a_time), strict=True)
    ]
    return torch.cat(losses).double().cpu()


def without_common_end(texts: Sequence[Sequence[int]], keep: int = 0) -> list[Sequence[int]]:
    """The texts without the tokens that all end with, except the first ``keep`` of these."""
    end = common_prefix([text[::-1] for text in texts])
    return [text[: len(text) - max(0, end - keep)] for text in texts]
