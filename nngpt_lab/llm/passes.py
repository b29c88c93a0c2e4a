"""Examples to tune on, and a step's examples in one packed row: what goes through the model in one pass on a GPU.

A pass of a small model takes as long for 800 tokens as for 8,000: starting its kernels takes longer than their work. So
the examples of an optimizer step lie one behind another in one row, however the recipe cuts it into micro-batches, and
nothing is padded.

* Positions count from 0 for each example, and attention stays within it: torch's ``varlen_attn`` on CUDA in 16 bits
  (torch 2.11 and later), one call of SDPA per example elsewhere.
* An example's loss and gradient are those of padded rows but for rounding. Dropout draws other masks for another cut,
  so that a checkpoint keeps to the cut that it was made with.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional
from transformers import AttentionInterface

from nngpt_lab.ground.errors import UsageError
from nngpt_lab.llm.catalogue import GIB, HEADROOM, memory_gib

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from nngpt_lab.llm.recipe import Recipe

log = logging.getLogger(__name__)

ATTENTION = "nngpt_lab_packed"  # its name in transformers, which makes no mask for an attention that it does not know
KINDS = ("gemma3_text", "llama", "mistral", "qwen2", "qwen3")  # tested; attention is causal, at most within a window
HALF = (torch.bfloat16, torch.float16)

MOST_TOKENS = 32_768  # more do not make a GPU faster
SHARE = 0.6  # of the card for model and pass; the rest for memory in pieces, and candidates that train meanwhile
LOGITS = 32_768  # a pass has so many for each of its tokens at most
LOGIT_BYTES = 12  # in 16 bits, in 32, and the gradient
# What the backward pass keeps of a layer for each token: so many bytes for each number of the hidden state and of the
# feed-forward part, with adapters on all its projections (summed over autograd's saved tensors in bfloat16)
HIDDEN_BYTES, FEED_FORWARD_BYTES, KEPT_BYTES = 40, 10, 2


@dataclass(frozen=True)
class Example:
    """A training text: prompt and response as tokens. The loss is that of ``ids[prompt_length:]``."""

    ids: tuple[int, ...]
    prompt_length: int

    def __post_init__(self):
        if not 1 <= self.prompt_length < len(self.ids):
            raise UsageError(
                f"an example of {len(self.ids)} tokens has a prompt of {self.prompt_length}",
                "prompt and response have at least one token each; encode with prompts.encode_pair",
            )

    @property
    def response_tokens(self) -> int:
        return len(self.ids) - self.prompt_length


# ---------------------------------------------------------------------------------------------------------- the row


def packed_row(batch: Sequence[Example], device: torch.device) -> tuple[torch.Tensor, list[int], dict[str, Any]]:
    """Token ids, (1, tokens), on the CPU; where each example begins; what the decoder needs to know beside them."""
    lengths = [len(example.ids) for example in batch]
    edges = list(itertools.accumulate(lengths, initial=0))
    ids = torch.cat([torch.tensor(example.ids) for example in batch])[None]
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    borders = torch.tensor(edges, dtype=torch.int32).to(device)
    known = {"position_ids": positions.to(device), "cu_seq_lens_q": borders, "max_length_q": max(lengths)}
    return ids, edges[:-1], known


def cut(examples: Sequence[Example], tokens: int, vocabulary: int) -> Iterator[list[Example]]:
    """The examples in passes of at most so many tokens, and of response tokens whose logits have room; one at least."""
    most = max(1, tokens * LOGITS // vocabulary)
    batch: list[Example] = []
    read = scored = 0
    for example in examples:
        read, scored = read + len(example.ids), scored + example.response_tokens
        if batch and (read > tokens or scored > most):
            yield batch
            batch, read, scored = [], len(example.ids), example.response_tokens
        batch.append(example)
    if batch:
        yield batch


# ----------------------------------------------------------------------------------------------------------- memory


def card_bytes(device: torch.device) -> int:
    """The memory of a CUDA device that this process may take, whatever is in use."""
    part = getattr(torch.cuda, "get_per_process_memory_fraction", lambda _: 1)(device.index)  # torch 2.8 and later
    return int(part * torch.cuda.mem_get_info(device)[1])


def most_tokens(config: PretrainedConfig, total: int, weights: int, checkpointing: bool) -> int:
    """How many tokens a pass may have, in whole thousands, on a card of ``total`` bytes with a model of ``weights``."""
    layers, hidden = config.num_hidden_layers, config.hidden_size
    layer = HIDDEN_BYTES * hidden + FEED_FORWARD_BYTES * config.intermediate_size
    kept = layer + layers * KEPT_BYTES * hidden if checkpointing else layers * layer
    kept += LOGIT_BYTES * min(LOGITS, config.vocab_size)
    room = (SHARE * total - weights) / kept
    return min(MOST_TOKENS, max(1024, int(room) // 1024 * 1024))


def least_bytes(recipe: Recipe, parameters: int, embeddings: int, four_bit: bool) -> float:
    """What tuning takes on a GPU at least: weights, adapter, optimizer, and what one example of the most tokens keeps.

    Roughly, for a model that need not be here: layers times hidden size is about the root of twice its weights without
    embeddings (within a quarter for all of the catalogue), and a feed-forward part is at least 2.7 times as wide.
    """
    weights = memory_gib(parameters, embeddings, four_bit=four_bit) * GIB / HEADROOM
    width = (2 * (parameters - embeddings)) ** 0.5
    adapter = 2.5 * width * recipe.rank * len(recipe.targets)  # a projection's two sides have about 2.5 hidden sizes
    state = 16 if recipe.optimizer == "adamw" else 10  # bytes: the number, its gradient, two moments
    kept = KEPT_BYTES if recipe.gradient_checkpointing else 0.75 * (HIDDEN_BYTES + 2.7 * FEED_FORWARD_BYTES)
    return weights + state * adapter + kept * width * recipe.max_length


# -------------------------------------------------------------------------------------------------------- attention


@contextlib.contextmanager
def attention_within_examples(decoder: torch.nn.Module) -> Iterator[None]:
    """The decoder attends within the examples of a packed row; afterwards as before."""
    config = decoder.config
    before = config._attn_implementation
    config._attn_implementation = ATTENTION
    try:
        yield
    finally:
        config._attn_implementation = before


def obstacle(decoder: torch.nn.Module) -> str:
    """Why a model's examples cannot be packed; empty if they can."""
    config = decoder.config
    if config.model_type not in KINDS:
        return f"a model of type {config.model_type!r} may look beyond an example"
    if getattr(config, "attention_dropout", 0) or getattr(config, "use_bidirectional_attention", False):
        return "its attention has dropout, or looks ahead"
    if getattr(config, "attn_logit_softcapping", None):
        return "its attention is capped"
    return ""


def fast(decoder: torch.nn.Module, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether attention computed in ``dtype`` has a kernel here, and that kernel is right; the reason is logged."""
    if device.type != "cuda" or dtype not in HALF or _kernel() is None:
        log.info("examples are padded: no varlen_attn for %s on %s (CUDA, 16 bits, torch 2.11)", dtype, device)
        return False
    config = decoder.config
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return _kernel_is_right(str(device), dtype, dim)


@functools.cache
def _kernel() -> Callable[..., torch.Tensor] | None:
    """torch's ``varlen_attn`` where it is there and takes a scale and a window."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn if {"scale", "window_size"} <= inspect.signature(varlen_attn).parameters.keys() else None


@functools.cache
def _kernel_is_right(device: str, dtype: torch.dtype, dim: int) -> bool:
    """Whether the kernel gives what SDPA gives, forward and backward, with a window and without: tried on 12 tokens."""
    edges = torch.tensor([0, 5, 12], dtype=torch.int32, device=device)
    numbers = torch.arange(3 * 2 * 12 * dim, device=device).sin().view(3, 1, 2, 12, dim).to(dtype)
    try:
        for window in (None, 3):
            found = []
            for attend in (_by_kernel, _by_example):
                qkv = numbers.clone().requires_grad_()
                query, key, value = qkv.unbind()
                out = attend(query, key, value, dim**-0.5, window, edges, 7)
                out.float().square().sum().backward()
                found.append((out.detach().float(), qkv.grad.float()))
            for got, expected in zip(*found, strict=True):
                if not float((got - expected).norm()) < 0.05 * float(expected.norm()):
                    raise ArithmeticError("it computes something else")
    except Exception as error:  # whatever a kernel says that was not built for this card
        log.warning("examples are padded: varlen_attn does not work here (%s: %s)", type(error).__name__, error)
        return False
    return True


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    *,
    cu_seq_lens_q: torch.Tensor,
    max_length_q: int,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls: query (1, heads, tokens, dim), key and value with fewer heads perhaps; gives (1, tokens,
    heads, dim), and no weights. Under autocast the three come in several types, where rotation is done in float32; they
    leave in the one that autocast computes in."""
    group, kind = query.shape[1] // key.shape[1], query.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else query.dtype
    if group > 1:  # torch 2.11's kernel knows no groups
        key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    by_kernel = kind == "cuda" and dtype in HALF and _kernel() is not None
    attend = _by_kernel if by_kernel else _by_example
    return attend(query, key, value, scaling, sliding_window, cu_seq_lens_q, max_length_q), None


def _by_kernel(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float | None,
    window: int | None,
    edges: torch.Tensor,
    longest: int,
) -> torch.Tensor:
    """All examples at once. A window of n reaches n - 1 tokens back."""
    reach = (-1, 0) if window is None else (window - 1, 0)
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    kernel = _kernel()
    assert kernel is not None
    return kernel(q, k, v, edges, edges, longest, longest, scale=scale, window_size=reach)[None]


def _by_example(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float | None,
    window: int | None,
    edges: torch.Tensor,
    longest: int,
) -> torch.Tensor:
    bounds, parts = edges.tolist(), []
    for begin, end in itertools.pairwise(bounds):
        back = torch.arange(end - begin, device=query.device)
        back = back[:, None] - back
        near = None if window is None or window >= end - begin else (back >= 0) & (back < window)
        q, k, v = (x[:, :, begin:end] for x in (query, key, value))
        parts.append(
            functional.scaled_dot_product_attention(q, k, v, attn_mask=near, is_causal=near is None, scale=scale)
        )
    return torch.cat(parts, 2).transpose(1, 2)


AttentionInterface.register(ATTENTION, _attention)
