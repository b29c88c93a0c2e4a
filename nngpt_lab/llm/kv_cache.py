"""What a model remembers of each text that it is writing: keys and values, kept so that a batch stays full.

``generate`` pads a batch once, appends one column per step by copying all it has (``torch.cat``) and goes on computing
rows that have ended. Here a row that has ended gives its place to the next prompt ("continuous batching", Yu et al.
2022, Orca), a step writes its column in place, and a prompt's shared beginning is computed once.

    column      0 1 2 3 4 5 6 7 8 | next
    row 0       . . p p p p n n n | n        p: prompt, n: new token, .: masked
    row 1       . . . . . p p p n | n        a later and shorter prompt, placed to end at the current column

A row's tokens lie side by side and every row ends at the same column, so a model sees ordinary left padding: an
attention mask, and position ids that count a row's own tokens. Longest prompts come first, so a newcomer always fits.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

SPARE_COLUMNS = 256  # a full buffer is copied into one with this much room: one copy in 256 steps, at most 256 unused
PLAIN_LAYERS = (DynamicLayer, DynamicSlidingWindowLayer)  # one key and one value per token: a place can be reused


def open_batch(model: torch.nn.Module, prompts: Sequence[Sequence[int]], rows: int) -> JoiningBatch | PaddedBatch:
    """A batch of up to ``rows`` of these prompts, all to be admitted later; one that rows can join while others are at
    work where the architecture allows it."""
    forward = Forward(model)
    if layers := plain_layers(forward.config):
        return JoiningBatch(forward, prompts, rows, len(layers))
    return PaddedBatch(forward)


def plain_layers(config: Any) -> list[DynamicLayer]:
    """The layers of this architecture's own cache if all are plain, else none."""
    layers = DynamicCache(config=config).layers
    return layers if all(type(layer) in PLAIN_LAYERS for layer in layers) else []


class Forward:
    """A causal LM's forward pass, whatever its arguments are called in this architecture and release."""

    def __init__(self, model: torch.nn.Module):
        # peft puts its adapters into the base model's own layers: calling that model saves a wrapper per step
        self.model = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.config = self.model.config.get_text_config(decoder=True)
        self.device = self.model.get_input_embeddings().weight.device
        self.takes = inspect.signature(self.model.forward).parameters
        self._cache = "cache" if "cache" in self.takes else "past_key_values"  # the name before transformers 5.24

    def __call__(self, ids: Tensor, positions: Tensor, mask: Any, cache: Cache) -> Tensor:
        """Logits of each row's next token, (rows, vocabulary); arguments as of :meth:`logits`."""
        return self.logits(ids, cache, attention_mask=mask, position_ids=positions, logits_to_keep=1)[:, -1]

    def logits(self, ids: Tensor, cache: Cache, **known) -> Tensor:
        """Read ``ids`` (rows, new) behind what ``cache`` holds, and add them to it; logits (rows, new, vocabulary).
        Arguments that not every architecture takes (``known``) are left out where this one lacks them."""
        return self._read(ids, cache, known).logits

    def states(self, ids: Tensor, cache: Cache, **known) -> Tensor:
        """The same of a decoder without a head: its last hidden states, (rows, new, width)."""
        return self._read(ids, cache, known).last_hidden_state

    def _read(self, ids: Tensor, cache: Cache, known: dict[str, Any]) -> Any:
        known = {name: value for name, value in known.items() if name in self.takes} | {self._cache: cache}
        with _without_cudnn(self.device):
            return self.model(input_ids=ids.to(self.device), use_cache=True, **known)


@contextlib.contextmanager
def _without_cudnn(device: torch.device) -> Iterator[None]:
    """Without cuDNN's attention, which torch prefers on an H100: it plans anew for each length, and a cache grows."""
    backend = torch.backends.cuda
    if device.type != "cuda" or not getattr(backend, "cudnn_sdp_enabled", bool)():
        yield
        return
    backend.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        backend.enable_cudnn_sdp(True)


@dataclass
class Window:
    """The part of the buffers that is in use, shared by all layers: rows [0, rows), columns [start, end)."""

    rows: int = 0
    start: int = 0
    end: int = 0


class PlacedLayer(DynamicLayer):
    """One layer's keys and values in buffers (rows, heads, columns, dimension), of which the model sees the window. It
    keeps all columns of a layer with a sliding window too; the model's mask hides the old ones."""

    def __init__(self, window: Window, rows: int):
        super().__init__()
        self.keys: Any
        self.values: Any
        self._window, self._rows = window, rows

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Write the step's states behind the window; what the model attends to. The batch moves the window's end."""
        window, stop = self._window, self._window.end + key_states.shape[-2]
        self.keys[: window.rows, :, window.end : stop] = key_states
        self.values[: window.rows, :, window.end : stop] = value_states
        seen = slice(window.rows), slice(None), slice(window.start, stop)
        return self.keys[seen], self.values[seen]

    def get_seq_length(self) -> int:
        return self._window.end - self._window.start

    def place(self, rows: Sequence[int], keys: Tensor, values: Tensor) -> None:
        """Write prompts' states (rows, heads, length, dimension) so that they end where the window does."""
        if self.keys is None:  # zeros, because a masked column still counts when it holds NaN
            columns = self._window.end + SPARE_COLUMNS
            self.keys, self.values = (
                part.new_zeros(self._rows, part.shape[1], columns, part.shape[3]) for part in (keys, values)
            )
            self.is_initialized = True
        place = slice(self._window.end - keys.shape[-2], self._window.end)
        self.keys[rows, :, place], self.values[rows, :, place] = keys, values

    def move(self, rows: Iterable[tuple[int, int]]) -> None:
        """Copy rows, given as (to, from)."""
        for to, source in rows:
            self.keys[to], self.values[to] = self.keys[source], self.values[source]

    def renew(self) -> None:
        """Copy the window's columns to the front of a buffer that has room behind them."""
        window = self._window
        columns = window.end - window.start
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = old.new_zeros(*old.shape[:2], columns + SPARE_COLUMNS, old.shape[3])
            new[: window.rows, :, :columns] = old[: window.rows, :, window.start : window.end]
            setattr(self, name, new)


class JoiningBatch:
    """The batch that this module's head draws, with room for so many rows and layers."""

    joins = True

    def __init__(self, forward: Forward, prompts: Sequence[Sequence[int]], rows: int, layers: int):
        self._forward = forward
        self._window = Window()
        self._cache = Cache(layers=[PlacedLayer(self._window, rows) for _ in range(layers)])
        self._lengths: list[int] = []  # tokens that each row has cached
        self._prefix = self._read_prefix(prompts)

    @torch.inference_mode()
    def admit(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Read prompts as new rows behind the others; logits of each one's next token, (prompts, vocabulary). Each
        distinct prompt is read once, those of one length together: a row's reading has no padding at all."""
        first, window = len(self._lengths), self._window
        rows_of: dict[tuple[int, ...], list[int]] = {}
        for row, prompt in enumerate(prompts, start=first):
            rows_of.setdefault(tuple(prompt), []).append(row)
        if not first:
            window.start, window.end = 0, max(map(len, prompts))
        elif max(map(len, prompts)) > window.end:
            raise ValueError("a prompt does not fit: admit the longest first")
        self._lengths += map(len, prompts)
        window.rows = len(self._lengths)
        logits: list[Tensor | None] = [None] * len(prompts)
        for _, alike in groupby(sorted(rows_of, key=len), key=len):
            group = list(alike)
            scores, states = self._read(group)
            rows = [row for prompt in group for row in rows_of[prompt]]
            source = [place for place, prompt in enumerate(group) for _ in rows_of[prompt]]
            for row, place in zip(rows, source, strict=True):
                logits[row - first] = scores[place]
            for layer, read in zip(self._cache.layers, states.layers, strict=True):
                layer.place(rows, read.keys[source], read.values[source])
        return torch.stack(logits)

    @torch.inference_mode()
    def step(self, tokens: Sequence[int]) -> Tensor:
        """Append one token to each row; logits of each one's next token, (rows, vocabulary)."""
        window, device = self._window, self._forward.device
        window.start = window.end - max(self._lengths)  # the columns of rows that are gone
        if window.end == self._cache.layers[0].keys.shape[2]:
            for layer in self._cache.layers:
                layer.renew()
            window.start, window.end = 0, window.end - window.start
        state = torch.tensor([tokens, self._lengths]).to(device)
        ids, positions = state[0, :, None], state[1, :, None]
        seen = window.end - window.start
        mask = torch.arange(seen + 1, device=device) >= seen - positions
        logits = self._forward(ids, positions, mask.long(), self._cache)
        window.end += 1
        self._lengths = [length + 1 for length in self._lengths]
        return logits

    @torch.inference_mode()
    def keep(self, rows: Sequence[int]) -> None:
        """Keep these rows, in this order; those that it leaves where they are cost nothing."""
        moves = [(to, source) for to, source in enumerate(rows) if to != source]
        if any(source < to or source < len(rows) for to, source in moves):
            raise ValueError(f"rows {rows} would overwrite each other")
        for layer in self._cache.layers:
            layer.move(moves)
        self._lengths = [self._lengths[row] for row in rows]
        self._window.rows = len(rows)

    @torch.inference_mode()
    def _read_prefix(self, prompts: Sequence[Sequence[int]]) -> DynamicCache | None:
        """The states of what all prompts begin with, less a token that each reads itself, to have its logits."""
        length = min(common_prefix(prompts), min(map(len, prompts)) - 1)
        if length == 0 or len(prompts) == 1:
            return None
        ids = torch.tensor([prompts[0][:length]], device=self._forward.device)
        states = DynamicCache()
        self._forward(ids, torch.arange(length, device=ids.device)[None], None, states)
        return states

    def _read(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, DynamicCache]:
        """Logits of the next token and states of prompts of one length."""
        states, done = DynamicCache(), 0
        if self._prefix is not None:
            done = self._prefix.get_seq_length()
            for index, layer in enumerate(self._prefix.layers):
                parts = (part.expand(len(prompts), -1, -1, -1) for part in (layer.keys, layer.values))
                states.update(*parts, index)
        ids = torch.tensor([prompt[done:] for prompt in prompts], device=self._forward.device)
        positions = torch.arange(done, done + ids.shape[1], device=ids.device).expand_as(ids)
        return self._forward(ids, positions, None, states), states


class PaddedBatch:
    """For architectures whose states are not one key and value per token (recurrent, compressed, hybrid): methods as of
    :class:`JoiningBatch`, on transformers' own cache; prompts are padded on the left and read together; the batch
    empties before others enter."""

    joins = False

    def __init__(self, forward: Forward):
        self._forward = forward

    @torch.inference_mode()
    def admit(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        width, device = max(map(len, prompts)), self._forward.device
        ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=device)
        lengths = torch.tensor([[len(prompt)] for prompt in prompts], device=device)
        self._mask = (torch.arange(width, device=device) >= width - lengths).long()
        self._cache = DynamicCache(config=self._forward.config)
        return self._forward(ids, (self._mask.cumsum(1) - 1).clamp(min=0), self._mask, self._cache)

    @torch.inference_mode()
    def step(self, tokens: Sequence[int]) -> Tensor:
        ids = torch.tensor(tokens, device=self._forward.device)[:, None]
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], dim=1)
        return self._forward(ids, self._mask.sum(1, keepdim=True) - 1, self._mask, self._cache)

    @torch.inference_mode()
    def keep(self, rows: Sequence[int]) -> None:
        index = torch.tensor(rows, dtype=torch.long, device=self._forward.device)
        self._mask = self._mask[index]
        self._cache.reorder_cache(index)


def common_prefix(sequences: Sequence[Sequence[int]]) -> int:
    """How many tokens all sequences begin with.

    >>> common_prefix([[1, 2, 3], [1, 2, 4, 5]])
    2
    """
    low, high = min(sequences, key=tuple), max(sequences, key=tuple)  # all others lie between them
    pairs = zip(low, high, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(low), len(high)))
