"""Sampling on a GPU: a fixed number of texts at a time, and the whole step, choice included, as one CUDA graph.

A step of a small model is a thousand kernels and more, and starting one from Python takes longer than it runs. A CUDA
graph starts them all at once, but it can only do again what was recorded, on the same memory. So nothing here moves:
each text has a slot, a row of buffers that stay where they are, and no two slots need to be at the same column.

    column      0 1 2 3 4 5 6 7 8 9
    slot 0      p p p p n n n + . .      p: prompt, n: new token, +: written next, .: masked
    slot 1      p p n n n n n n n +

The draws of a text are copied to its slot with its prompt, by the choice that ``kv_cache``'s batches use too. The host
looks every few steps. A text that ended in between goes on unseen until then, and its slot is given to the next one.
Each prompt is read alone and without padding, and all slots are computed in every step: so the arithmetic of a text
depends on the number of slots and of columns, and not on what is written beside it.

On a CPU, where kernels start at once, idle slots and masked columns make this the slower way.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer
from transformers.integrations import sdpa_attention

from nngpt_lab.llm.decoding import Decoding, Row, choose, refuse_diverged
from nngpt_lab.llm.kv_cache import Forward, plain_layers
from nngpt_lab.llm.passes import card_bytes

logger = logging.getLogger(__name__)
warn_once = functools.cache(logger.warning)

LOOK = 8  # steps between two looks of the host, each of which waits for the GPU
ROUND = 16  # columns come in so many: CUDA's attention wants masks aligned
MEMORY_SHARE = 0.25  # of a GPU's memory that this process may take: the number of slots shall not depend on the hour
WARM_RUNS = 3  # before a step is recorded: libraries choose kernels and take memory when they are first called
PACKED = "nngpt_lab_packed_heads"  # what transformers shall call our attention
KINDS = {"full_attention", "sliding_attention"}  # of layers whose masks are made here


def possible(model: torch.nn.Module) -> bool:
    """Whether this architecture's keys, values and masks are such that slots can hold them."""
    forward = Forward(model)
    config = forward.config
    masked = config._attn_implementation == "sdpa" and "position_ids" in forward.takes  # others see what they like
    return masked and set(getattr(config, "layer_types", None) or ()) <= KINDS and bool(plain_layers(config))


class SlotLayer(DynamicLayer):
    """One layer's keys and values, (slots, heads, width, dimension), of heads, dimension and dtype as ``states``; a
    step writes each row at its own of the ``positions`` (slots,), which all layers share."""

    def __init__(self, states: Any, positions: Tensor, width: int):
        super().__init__()
        self.keys, self.values = (
            part.new_zeros(len(positions), part.shape[1], width, part.shape[3]) for part in (states.keys, states.values)
        )
        self.is_initialized = True
        self._positions = positions[:, None, None, None]

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Write a step's states, (slots, heads, 1, dimension); all that the slots hold, masked or not."""
        for held, new in ((self.keys, key_states), (self.values, value_states)):
            held.scatter_(2, self._positions.expand_as(new), new)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        return 0  # positions and masks are given; what transformers would derive from this goes unused

    def place(self, slot: int, states: Any) -> None:
        """Fill a slot with a prompt's states, and with zeros behind: what is masked still counts when it holds NaN."""
        for held, read in ((self.keys, states.keys), (self.values, states.values)):
            held[slot].zero_()
            held[slot, :, : read.shape[2]] = read[0]


class Slots:
    """The buffers, the step, and on CUDA the graph that repeats it, for a model for which :func:`possible` holds. Of
    all ``rows`` to be written the longest decides the number of columns; ``most``: slots, if a GPU's memory allows it.

    Raises whatever an architecture makes of masks and states that it does not expect, or a GPU whose memory is full:
    before any work.
    """

    @torch.inference_mode()
    def __init__(self, model: torch.nn.Module, rows: Sequence[Row], decoding: Decoding, most: int):
        self._forward, self._decoding = Forward(model), decoding
        device, config = self._forward.device, self._forward.config
        longest, room = max(len(row.prompt) + row.room for row in rows), max(row.room for row in rows)
        width = -(-longest // ROUND) * ROUND
        self._prompt = min(tuple(row.prompt) for row in rows)  # the first that will be asked for
        self._states, self._logits = self._read(self._prompt)  # it shows the shape of states
        self.count = max(2, min(most, _most_slots(self._states, width, device)))  # of one row CUDA's sums vary
        self._tokens, self._positions, self._written, self._chosen = (
            torch.zeros(self.count, dtype=torch.long, device=device) for _ in range(4)
        )
        self._draws = torch.zeros(self.count, room, dtype=torch.float64, device=device)
        self._taken = torch.zeros(LOOK, self.count, dtype=torch.long, device=device)
        self._columns, self._last = torch.arange(width, device=device), longest - 1
        windows = [getattr(layer, "sliding_window", None) for layer in plain_layers(config)]
        self._windows = dict(zip(getattr(config, "layer_types", None) or ["all"] * len(windows), windows, strict=False))
        self._cache = Cache(layers=[SlotLayer(read, self._positions, width) for read in self._states.layers])
        self._graph = record(self.step, self._forward)
        for buffer in (self._tokens, self._positions, self._written):  # as before the runs that were no work
            buffer.zero_()

    def step(self) -> None:
        """Write each slot's token into the cache and choose its next one, all on the device: nothing comes from the
        host and nothing goes there, or a graph would repeat it as it once was."""
        tokens, positions = self._tokens[:, None], self._positions[:, None]
        with _packed_heads(self._forward.config):
            logits = self._forward(tokens, positions, self._mask(), self._cache)
        draws = self._draws.gather(1, self._written[:, None])[:, 0]
        self._chosen.copy_(choose(logits, self._decoding, draws))
        self._tokens.copy_(self._chosen.clamp(min=0))  # -1 says that scores are no numbers, and is no token to read
        self._positions.add_(1).clamp_(max=self._last)  # a text that ended goes on at its slot's end
        self._written.add_(1).clamp_(max=self._draws.shape[1] - 1)

    def steps(self, count: int) -> list[list[int]]:
        """Do up to LOOK steps; the tokens of each, one per slot."""
        with torch.inference_mode():
            for taken in self._taken[:count]:
                self.step() if self._graph is None else self._graph.replay()
                taken.copy_(self._chosen)
            return self._taken[:count].tolist()

    @torch.inference_mode()
    def admit(self, rows: Mapping[int, Row]) -> dict[int, int]:
        """Read rows' prompts into their slots; each slot's first token. Of equal ones side by side one is read."""
        first = []
        for slot, row in rows.items():
            if tuple(row.prompt) != self._prompt:
                self._states, self._logits = self._read(row.prompt)
                self._prompt = tuple(row.prompt)
            for layer, read in zip(self._cache.layers, self._states.layers, strict=True):
                layer.place(slot, read)
            self._draws[slot, : row.room] = torch.from_numpy(row.draws)
            self._positions[slot], self._written[slot] = len(row.prompt), min(1, row.room - 1)
            twice = self._logits.expand(2, -1), self._decoding, self._draws[slot, :1].expand(2)
            first.append(choose(*twice)[0])
            self._tokens[slot] = first[-1].clamp(min=0)
        return dict(zip(rows, torch.stack(first).tolist(), strict=True))

    def close(self) -> None:
        """Give the memory back: what a graph holds can be used by nothing else, tuning least of all."""
        self._cache = self._states = DynamicCache()
        if self._graph is not None:
            self._graph.reset()
            self._graph = None
        if self._forward.device.type == "cuda":
            with contextlib.suppress(RuntimeError) if _not_recorded else contextlib.nullcontext():
                torch.cuda.empty_cache()

    def _read(self, prompt: Sequence[int]) -> tuple[DynamicCache, Tensor]:
        """A prompt's states and the logits of what follows it, (1, vocabulary)."""
        ids, states = torch.tensor([list(prompt)], device=self._forward.device), DynamicCache()
        positions = torch.arange(ids.shape[1], device=ids.device)[None]
        logits = self._forward(ids, positions, None, states)
        return states, logits

    def _mask(self) -> Tensor | dict[str, Tensor]:
        """What is added to the scores of (slots, 1, 1, width): 0, or minus infinity where nothing shall be seen; by
        kind of layer where there are several. transformers passes four dimensions on as they are."""
        columns, here = self._columns, self._positions[:, None, None, None]
        nothing = self._cache.layers[0].keys.new_zeros(self.count, 1, 1, len(columns))
        masks = {}
        for kind, window in self._windows.items():
            hidden = columns > here
            if window is not None:
                hidden = hidden | (columns <= here - window)
            masks[kind] = nothing.masked_fill(hidden, float("-inf"))
        return masks if len(masks) > 1 else next(iter(masks.values()))


def write(slots: Slots, rows: Iterable[Row], ends: frozenset[int], name: str) -> Iterator[Row]:
    """Yield rows as they are done; those of equal prompts are begun one after the other, so that it is read once.
    LabError if the scores of the model (called ``name``) are not numbers."""
    waiting = deque(sorted(rows, key=lambda row: (tuple(row.prompt), row.index)))
    free, live = list(range(slots.count))[::-1], dict[int, Row]()
    try:
        while waiting or live:
            turns: list[Mapping[int, int]]
            newcomers = {free.pop(): waiting.popleft() for _ in range(min(len(free), len(waiting)))}
            if newcomers:
                live |= newcomers
                turns = [slots.admit(newcomers)]
            else:
                most = max(row.room - len(row.ids) for row in live.values())
                turns = [dict(enumerate(tokens)) for tokens in slots.steps(min(LOOK, most))]
            for tokens in turns:
                group = [slot for slot in live if slot in tokens]
                refuse_diverged((tokens[slot] for slot in group), name)
                for slot in group:
                    live[slot].append(tokens[slot], ends)
                done = [slot for slot in group if live[slot].done]
                free += done
                yield from [live.pop(slot) for slot in done]
    finally:
        slots.close()


_not_recorded: list[str] = []
"""Errors of recordings in this process. After one, torch's allocator believes that recording goes on (pytorch#180395):
every further try keeps memory for good, and ``empty_cache`` may refuse. So one is enough."""


def record(step: Callable[[], None], forward: Forward) -> torch.cuda.CUDAGraph | None:
    """The step as a CUDA graph; None where there is none: on a CPU, with 4 bits, or where a step asks the host. It runs
    the step a few times in any case, so that one which cannot run at all fails here."""
    step()
    device = forward.device
    if device.type != "cuda":
        return None
    if _not_recorded:
        return None
    if getattr(forward.model, "is_quantized", False):
        warn_once("quantised weights are sampled from without a CUDA graph, which is slow")
        return None
    stream, graph, generator = _side_stream(device), torch.cuda.CUDAGraph(), torch.cuda.default_generators[device.index]
    numbers = generator.clone_state()
    stream.wait_stream(torch.cuda.current_stream(device))
    try:
        with torch.cuda.stream(stream):
            for _ in range(WARM_RUNS):
                step()
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                step()
    except RuntimeError as error:
        _not_recorded.append(str(error))
        generator.graphsafe_set_state(numbers)  # as it is, it believes that recording goes on, and refuses
        warn_once(f"a step could not be recorded as a CUDA graph, and sampling is slow: {error}")
        return None
    finally:
        torch.cuda.current_stream(device).wait_stream(stream)
    return graph


@functools.cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """One for all calls: cuBLAS keeps memory of its own for each stream that it has seen."""
    return torch.cuda.Stream(device)


def _most_slots(states: DynamicCache, width: int, device: torch.device) -> int:
    """How many slots a GPU has memory for; ``states`` are any text's."""
    if device.type != "cuda":
        return 2**30
    parts = [part for layer in states.layers for part in (layer.keys, layer.values)]
    bytes_a_slot = width * sum(part.shape[1] * part.shape[3] * part.element_size() for part in parts)
    return max(1, int(MEMORY_SHARE * card_bytes(device)) // bytes_a_slot)


# ----------------------------------------------------------------------------- attention where transformers copies keys


def _attend(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling=None, **_) -> tuple:
    """SDPA of one query per row, (slots, heads, 1, dimension): heads that share keys become queries of one head."""
    packed = query.reshape(*key.shape[:2], -1, query.shape[3])
    answers = functional.scaled_dot_product_attention(packed, key, value, attn_mask=mask, scale=scaling)
    return answers.reshape(len(query), 1, query.shape[1], -1), None


AttentionInterface.register(PACKED, _attend)


@contextlib.contextmanager
def _packed_heads(config: Any) -> Iterator[None]:
    """Without copies of keys and values for each head that shares them, which transformers makes where a mask is given:
    at seven heads the copies take longer than all the rest. The newest releases pack by themselves."""
    if config._attn_implementation != "sdpa" or hasattr(sdpa_attention, "pack_gqa"):
        yield
        return
    config._attn_implementation = PACKED
    try:
        yield
    finally:
        config._attn_implementation = "sdpa"
