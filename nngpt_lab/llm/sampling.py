"""From prompts to texts: many at a time, each from a seed of its own.

A sample's text depends on its model, prompt, decoding and seed, and not on what is sampled beside it or on the size of
the batch. So a loop that was stopped samples what is missing and has the same texts, and a text can be had again alone.
(In float32 up to rounding: a batch of another size adds up in another order, and a draw that falls within about 1e-6 of
the border between two tokens can go the other way. In bfloat16 that is no longer rare.)

    coder = models.load("nano-coder")
    texts = sample(coder, prompts, seeds, Decoding(temperature=0.2, top_k=50, top_p=0.9, max_new_tokens=600))

    for index, sample in stream(coder, prompts, seeds, decoding):  # as they end: evaluate while others are written
        ...

``decoding.py`` chooses tokens. On a GPU ``slots.py`` keeps a fixed number of texts at work, each step one CUDA graph,
if the model's states are one key and value per token and its attention is torch's. On a CPU, and for other models,
``kv_cache.py`` keeps a batch full that grows and shrinks. Both give the same texts, up to rounding. An
unmerged LoRA adapter costs a small model a fifth of its speed or more: ``with merged(coder): ...``. Texts of a model on
a server come through ``server_engine.py``.
"""

from __future__ import annotations

import contextlib
import logging
import math
import operator
import time
from collections import Counter, deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from nngpt_lab.ground.errors import LabError, UsageError
from nngpt_lab.ground.progress import bar_hidden
from nngpt_lab.llm import slots
from nngpt_lab.llm.decoding import Decoding, Row, choose, end_tokens, refuse_diverged
from nngpt_lab.llm.kv_cache import open_batch

if TYPE_CHECKING:
    from nngpt_lab.llm.models import Coder

logger = logging.getLogger(__name__)

ENGINES = ("auto", "joining", "slots")


@dataclass(frozen=True)
class Sample:
    """One text: the new tokens' text, without special tokens; what it was drawn from; how many tokens were written, the
    end token included; and whether one ended it (False where the length limit cut it)."""

    text: str
    seed: int
    new_tokens: int
    finished: bool


def sample(
    coder: Coder, prompts: Sequence[Sequence[int]], seeds: Sequence[int], decoding: Decoding, **options: Any
) -> list[Sample]:
    """The samples of all prompts, in the order of the prompts; arguments and errors as for :func:`stream`."""
    samples = dict(stream(coder, prompts, seeds, decoding, **options))
    return [samples[index] for index in range(len(prompts))]


def stream(
    coder: Coder,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    decoding: Decoding,
    *,
    batch_size: int = 32,
    engine: str = "auto",
    progress: bool = True,
) -> Generator[tuple[int, Sample]]:
    """Yield (index of the prompt, its sample) as samples end; what was yielded is safe when the rest is interrupted.

    Args:
        coder: model and tokenizer; LoRA adapters are used as they are, not merged.
        prompts: token ids, each prompt as the model is to read it (chat template applied).
        seeds: one for each prompt, 0 or more, of any size. Equal prompts with equal seeds give equal texts.
        decoding: how tokens are chosen. Where prompt and new tokens exceed the model's context, fewer are written.
        batch_size: texts written at a time: a matter of speed and memory, not of what they say.
        engine: ``slots`` or ``joining`` (this module's head), by default as suits device and model.
        progress: show samples and tokens per second on a terminal; both are logged in any case.

    Raises:
        UsageError: before any work. LabError: the model's scores are not numbers, or a GPU's memory is full.
    """
    if engine not in ENGINES:
        raise UsageError(f"there is no engine {engine!r}", f"use one of {', '.join(ENGINES)}")
    rows = _rows(coder, prompts, seeds, decoding, batch_size)
    write = _write
    if engine == "slots" or (engine == "auto" and coder.device.type == "cuda"):
        able = slots.possible(coder.model)
        if engine == "slots" and not able:
            raise UsageError(f"{coder.name}'s architecture does not fit into slots", "leave out the engine")
        write = partial(_write_in_slots, must=engine == "slots") if able else _write
    return _metered(write(coder, rows, decoding, batch_size), coder, len(rows), progress)


@contextlib.contextmanager
def merged(coder: Coder) -> Iterator[None]:
    """Add LoRA adapters to float32 weights while sampling, and put the very same weights back afterwards.

    The texts are those of the unmerged model up to float32 rounding (see this module's head). Weights of 16 bits or
    fewer would lose small changes, and a matrix that two layers share (tied embeddings) would change the other layer as
    well, so those stay unmerged. Do not tune or save inside.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [layer for layer in coder.model.modules() if isinstance(layer, BaseTunerLayer)]
    held = Counter(id(weight) for module in coder.model.modules() for weight in module._parameters.values())
    shared = {key for key, layers_with_it in held.items() if layers_with_it > 1}
    layers = [layer for layer in layers if not (layer.merged or layer.disable_adapters)]
    layers = [layer for layer in layers if shared.isdisjoint(map(id, layer.get_base_layer().parameters()))]
    weights = [weight for layer in layers for weight in layer.get_base_layer().parameters()]
    if not weights or any(weight.dtype != torch.float32 for weight in weights):
        yield
        return
    kept = [weight.detach().clone() for weight in weights]  # unmerging subtracts, which leaves a rounding error
    try:
        with torch.no_grad():
            for layer in layers:
                layer.merge()
        yield
    finally:
        with torch.no_grad():
            for layer in layers:
                layer.unmerge()
            for weight, before in zip(weights, kept, strict=True):
                weight.copy_(before)


def _rows(coder: Coder, prompts: Sequence, seeds: Sequence[int], decoding: Decoding, batch_size: int) -> list[Row]:
    """Check everything and say what is to be written."""
    if batch_size < 1:
        raise UsageError(f"a batch of {batch_size} writes nothing", "use a batch size of at least 1")
    if len(seeds) != len(prompts):
        raise UsageError(f"{len(prompts)} prompts and {len(seeds)} seeds", "give one seed for each prompt")
    config = coder.model.config.get_text_config(decoder=True)
    context, vocabulary = getattr(config, "max_position_embeddings", None), config.vocab_size
    rows = []
    for index, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
        if not len(prompt):
            raise UsageError(
                f"prompt {index} is empty", "a model continues at least one token: encode the prompt first"
            )
        if context and len(prompt) >= context:
            cause = f"prompt {index} has {len(prompt)} tokens and {coder.name} reads at most {context}, answer included"
            raise UsageError(cause, "shorten the prompt, or take a model with a longer context")
        if min(prompt) < 0 or max(prompt) >= vocabulary:
            cause = f"prompt {index} has tokens outside the model's vocabulary of {vocabulary}"
            raise UsageError(cause, "encode it with this coder's own tokenizer")
        if operator.index(seed) < 0:
            raise UsageError(f"seed {seed} of prompt {index} is negative", "use seeds of 0 or more")
        room = min(decoding.max_new_tokens, context - len(prompt)) if context else decoding.max_new_tokens
        rows.append(Row(index, prompt, int(seed), room))
    if cut := sum(row.room < decoding.max_new_tokens for row in rows):
        logger.warning("%d of %d texts have room for less than max_new_tokens=%d in %s's context of %d tokens",
                       cut, len(rows), decoding.max_new_tokens, coder.name, context)  # fmt: skip
    return rows


def _write(coder: Coder, rows: list[Row], decoding: Decoding, batch_size: int) -> Generator[Row]:
    """Yield rows as they are done. Each turn either reads new prompts or writes one more token of every live row."""
    if not rows:
        return
    batch, ends = open_batch(coder.model, [row.prompt for row in rows], min(batch_size, len(rows))), end_tokens(coder)
    # Longest first, as the cache needs it; equal prompts side by side, so that one reading serves several
    waiting = deque(sorted(rows, key=lambda row: (-len(row.prompt), tuple(row.prompt), row.index)))
    live: list[Row] = []
    worthwhile = max(1, batch_size // 16)  # a turn for one newcomer would hold up all others
    while waiting or live:
        room = batch_size - len(live)
        if waiting and (not live or (batch.joins and room >= worthwhile)):
            turn = [waiting.popleft() for _ in range(min(room, len(waiting)))]
            live += turn
            logits = batch.admit([row.prompt for row in turn])
        else:
            turn = live
            logits = batch.step([row.ids[-1] for row in live])
        tokens = choose(logits, decoding, [row.draws[len(row.ids)] for row in turn]).tolist()
        refuse_diverged(tokens, coder.name)
        for row, token in zip(turn, tokens, strict=True):
            row.append(token, ends)
        if done := [place for place, row in enumerate(live) if row.done]:
            yield from (live[place] for place in done)
            kept = _without(len(live), done)
            batch.keep(kept)
            live = [live[place] for place in kept]


def _write_in_slots(
    coder: Coder, rows: list[Row], decoding: Decoding, batch_size: int, must: bool = True
) -> Generator[Row]:
    """The same by ``slots.py``; unless it ``must`` be so, by :func:`_write` where slots cannot be had."""
    if not rows:
        return
    opened = None
    try:
        opened = slots.Slots(coder.model, rows, decoding, batch_size)
    except Exception as error:  # whatever this architecture makes of masks by hand, or a GPU whose memory is full
        if must:
            raise
        slots.warn_once(f"{coder.name} is sampled from in a batch that grows and shrinks, for want of slots: {error}")
        if isinstance(error, torch.cuda.OutOfMemoryError):
            batch_size = max(1, batch_size // 4)
    if opened is None:
        yield from _write(coder, rows, decoding, batch_size)
    else:
        yield from slots.write(opened, rows, end_tokens(coder), coder.name)


def _without(count: int, gone: Sequence[int]) -> list[int]:
    """The places 0 to count - 1 but those gone, whose gaps the last ones fill: few rows move.

    >>> _without(6, [1, 4])
    [0, 5, 2, 3]
    """
    places = list(range(count))
    for place in sorted(gone, reverse=True):
        places[place] = places[-1]
        places.pop()
    return places


def _metered(written: Generator[Row], coder: Coder, count: int, progress: bool) -> Generator[tuple[int, Sample]]:
    """Samples from rows; time them, without what the caller spends with a sample, show them, and leave the model as it
    was."""
    tokens, seconds = 0, 0.0
    training = coder.model.training
    coder.model.eval()  # no dropout
    bar = tqdm(desc="sampled", total=count, unit=" texts", disable=bar_hidden(progress), leave=False)
    with bar, contextlib.closing(written):  # so that memory is given back, whatever holds on to an error's traceback
        try:
            start = time.perf_counter()
            for row in written:
                ids = row.ids[:-1] if row.ended else row.ids  # the end token is no part of the text, special or not
                text = coder.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
                tokens += len(row.ids)
                seconds += time.perf_counter() - start
                bar.set_postfix_str(f"{tokens / seconds:,.0f} tokens/s", refresh=False)
                bar.update()
                yield row.index, Sample(text, row.seed, len(row.ids), row.ended)
                start = time.perf_counter()
        except torch.cuda.OutOfMemoryError as error:
            cure = "end what else uses the card, evaluate with fewer workers, or take a smaller model"
            raise LabError(f"{coder.name} takes more memory than {coder.device} has left: {error}", cure) from error
        finally:
            coder.model.train(training)
    logger.info("%s wrote %d texts of %d tokens in %.1f s: %.0f tokens/s",
                coder.name, count, tokens, seconds, tokens / seconds if seconds else math.nan)  # fmt: skip
