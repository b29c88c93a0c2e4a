"""LoRA fine-tuning, as a loop that can be read: peft holds the adapter (adapters.py), the rest stands here.

    coder = adapters.add_adapter(load("nano-coder"), recipe, seed=0)
    curve = tune(coder, examples, recipe, seed=0)               # one row per optimizer step
    adapters.save_adapter(coder, "adapter")                     # peft's own format
    coder = adapters.remove_adapter(coder)                      # the base, bit for bit as it was
    coder = adapters.load_adapter(coder, "adapter")             # goes on where tune stopped

What is decided here, and why:

* The loss is that of the response alone, ``ids[prompt_length:]``; only there are logits computed at all.
* A batch is padded on the right and needs no attention mask: under causal attention no token sees what comes after it,
  and examples lie in rows of their own. So an example's loss does not depend on its neighbours.
* A step's loss is the mean over the response tokens of the whole step, however it was cut into micro-batches. (The
  mean of the micro-batches' means would weigh a token by its neighbours' lengths.) trl and transformers do the same.
* Order and dropout depend on the seed and the step's number only, so that a checkpoint needs no state of a generator.
* On a GPU a step's examples lie in one row, one behind another (passes.py); that changes no loss but its rounding.
* The base stays as it was loaded, also in 4 bits: ``peft.prepare_model_for_kbit_training`` would turn its other weights
  into float32 for good, and the norms compute in float32 as they are. The adapter's own weights are float32.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import math
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from peft import PeftModel, helpers
from torch.nn import functional
from tqdm import tqdm

from nngpt_lab.ground.errors import LabError, UsageError
from nngpt_lab.ground.progress import bar_hidden
from nngpt_lab.ground.seeds import generator
from nngpt_lab.llm import checkpoint, passes
from nngpt_lab.llm.adapters import quiet, seeded
from nngpt_lab.llm.catalogue import GIB
from nngpt_lab.llm.models import Coder
from nngpt_lab.llm.passes import Example
from nngpt_lab.llm.recipe import Recipe

log = logging.getLogger(__name__)

COLUMNS = ("step", "epoch", "lr", "loss", "tokens", "response_tokens", "seconds", "grad_norm")
RESCALED = ("final_logit_softcapping", "logit_scale", "logits_scaling")  # configs whose logits are not head(hidden)
CACHE_TOKENS = 1024  # on a CPU a pass over about so many is fastest: little is padded, activations stay in the cache


def tune(
    coder: Coder,
    examples: Sequence[Example],
    recipe: Recipe,
    seed: int,
    *,
    checkpoints: str | Path | None = None,
    checkpoint_every: int = 50,
    packed: bool | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Tune the coder's adapter, in place.

    Args:
        coder: from ``adapters.add_adapter`` or ``load_adapter``.
        examples: in any order; it matters for nothing but the draw of the batches.
        recipe: its adapter fields are not read here.
        seed: of the order and of the dropout.
        checkpoints: a folder for this run alone. If it holds a checkpoint of the same examples, recipe and seed, tuning
            goes on from there to the same weights, bit for bit, as if never stopped; after the last step it only
            restores the result.
        checkpoint_every: optimizer steps between checkpoints; one more is written at the end.
        packed: a step's examples one behind another in one row (True), or padded rows, a pass per micro-batch (False).
            None: as the checkpoint began, else packed on a GPU that can, padded elsewhere. Losses are the same but for
            rounding and for the masks of dropout.
        progress: show a bar.

    Returns:
        One row per optimizer step: step (from 1), epoch (from 0), lr, loss (mean over the step's response tokens, in
        nats, dropout on, before the step), tokens and response_tokens (padding not counted), seconds, grad_norm
        (before clipping).

    Raises:
        UsageError: no trainable adapter, nothing to train on, an optimizer that cannot be had here, a model whose
            examples cannot be packed.
        DataError: the checkpoint is of another run.
        LabError: the loss is not finite, the adapter is then as after the last finite step; or a pass is too large for
            the GPU's memory, which the largest one shows before the first step.
    """
    parameters = _trainable(coder)
    head = decoder_and_head(coder)
    optimizer = _optimizer(coder, parameters, recipe)
    examples = fit(examples, recipe)
    steps = [step for epoch in range(recipe.epochs) for step in plan(examples, recipe, seed, epoch)]
    file = Path(checkpoints) / checkpoint.FILENAME if checkpoints else None
    room = _room(coder, recipe, packed, file)
    key = checkpoint.key(coder, examples, recipe, seed, room)
    rows = checkpoint.read(file, key, parameters, optimizer)
    per_epoch = len(steps) // recipe.epochs

    with (
        _training(coder, recipe, packed=room > 0),
        tqdm(total=len(steps), initial=len(rows), disable=bar_hidden(progress), unit="step") as bar,
    ):
        if coder.device.type == "cuda" and len(rows) < len(steps):
            _rehearse(coder, head, steps[len(rows) :], recipe, room)
        for number in range(len(rows), len(steps)):
            began = time.perf_counter()
            lr = learning_rate(number, len(steps), recipe)
            with seeded(coder.device, "dropout", seed, number):  # nn.Dropout only knows the global generator
                loss, norm = descend(head, parameters, optimizer, number, steps[number], lr, recipe, room)
            examples_seen = [example for batch in steps[number] for example in batch]
            tokens = sum(len(example.ids) for example in examples_seen)
            response_tokens = sum(example.response_tokens for example in examples_seen)
            seconds = time.perf_counter() - began
            rows.append((number + 1, number // per_epoch, lr, loss, tokens, response_tokens, seconds, norm))
            if file and (len(rows) == len(steps) or len(rows) % checkpoint_every == 0):
                checkpoint.write(file, key, parameters, optimizer, rows)
            bar.set_postfix(loss=f"{loss:.3f}")
            bar.update()
    return pd.DataFrame(rows, columns=COLUMNS)


def descend(
    head: tuple[torch.nn.Module, torch.nn.Module],
    parameters: Mapping[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    step: int,
    micro_batches: list[list[Example]],
    lr: float,
    recipe: Recipe,
    room: int = 0,
) -> tuple[float, float]:
    """One optimizer step: its loss in nats per response token, and the gradient's norm, both from before the step.

    Args:
        head: the model's decoder and output layer; see :func:`loss_sum`.
        step: its number, from 0.
        recipe: of which ``batch``, ``pad_to``, ``precision`` and ``max_grad_norm`` are read.
        room: most tokens of a packed pass, within ``passes.attention_within_examples``; 0: rows are padded.

    Raises:
        LabError: loss or norm is not finite; the parameters are then as they were.
    """
    loss = _accumulate_gradient(head, micro_batches, recipe, next(iter(parameters.values())).device, room)
    norm = float(torch.nn.utils.clip_grad_norm_(parameters.values(), recipe.max_grad_norm))
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise LabError(f"loss {loss}, gradient norm {norm} in step {step + 1}", "lower the learning rate")
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss, norm


def mean_loss(coder: Coder, examples: Sequence[Example], recipe: Recipe) -> float:
    """Mean loss per response token in nats, without dropout; with or without an adapter."""
    head = decoder_and_head(coder)
    examples = sorted(fit(examples, recipe), key=lambda example: len(example.ids))
    with torch.no_grad(), _autocast(coder.device, recipe):
        batches = _passes(_cut(examples, recipe.batch), recipe, coder.device)
        sums = [float(loss_sum(*head, batch, recipe.pad_to, coder.device)) for batch in batches]
    return sum(sums) / sum(example.response_tokens for example in examples)


def fit(examples: Sequence[Example], recipe: Recipe) -> list[Example]:
    """The examples, none longer than ``recipe.max_length``: longer ones lose their beginning, or are dropped."""
    limit, drop = recipe.max_length, recipe.too_long == "drop"
    if long := sum(len(example.ids) > limit for example in examples):
        fate = "are dropped" if drop else "lose their beginning"
        log.warning("%d of %d examples are longer than %d tokens and %s", long, len(examples), limit, fate)
        examples = [_keep_end(example, limit) for example in examples if not drop or len(example.ids) <= limit]
    if not examples:
        raise UsageError("there is nothing to train on", "pass examples; raise Recipe.max_length if all were dropped")
    return list(examples)


def _keep_end(example: Example, limit: int) -> Example:
    cut = max(0, len(example.ids) - limit)  # what is left of the response needs a token to be predicted from
    return Example(example.ids[cut:], max(1, example.prompt_length - cut))


def plan(examples: Sequence[Example], recipe: Recipe, seed: int, epoch: int) -> list[list[list[Example]]]:
    """The steps of an epoch: each a list of micro-batches, each a list of examples.

    Shuffled; sorted by length within pools of ``pool`` batches, so that little is padded (by length give or take a
    tenth, so that an example meets others in every epoch); cut into micro-batches, which are shuffled again, so that
    steps do not run from short to long.
    """
    rng = generator("order of examples", seed, epoch)
    keys = rng.uniform(0.9, 1.1, len(examples)) * [len(example.ids) for example in examples]
    batches: list[np.ndarray] = []
    for pool in _cut(rng.permutation(len(examples)), recipe.pool * recipe.batch):
        batches += _cut(pool[np.argsort(keys[pool])], recipe.batch)
    drawn = [[examples[i] for i in batches[position]] for position in rng.permutation(len(batches))]
    return _cut(drawn, recipe.accumulate)


def _cut(items, size: int) -> list:
    return [items[start : start + size] for start in range(0, len(items), size)]


def fill(order: Sequence[int], lengths: Sequence[int], room: int, most: int | None = None) -> Iterator[list[int]]:
    """Rows in ``order`` as batches of at most ``room`` tokens, each row as wide as the longest, and of at most ``most``
    rows; one row at least."""
    batch: list[int] = []
    longest = 0
    for row in map(int, order):
        longest = max(longest, lengths[row])
        if batch and ((len(batch) + 1) * longest > room or len(batch) == most):
            yield batch
            batch, longest = [], lengths[row]
        batch.append(row)
    if batch:
        yield batch


def _passes(batches: list[list[Example]], recipe: Recipe, device: torch.device) -> Iterator[list[Example]]:
    """The micro-batches as padded passes; on a CPU cut into smaller ones, which changes no sum but its rounding."""
    for batch in batches:
        longest = max(len(example.ids) for example in batch)
        yield from _cut(batch, max(1, CACHE_TOKENS // longest) if device.type == "cpu" else recipe.batch)


def learning_rate(step: int, total: int, recipe: Recipe) -> float:
    """Of step ``step`` (from 0) of ``total``; transformers' ``get_cosine_schedule_with_warmup``."""
    warmup = math.ceil(recipe.warmup * total) if recipe.warmup < 1 else int(recipe.warmup)
    if step < warmup:
        return recipe.lr * step / warmup
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def loss_sum(
    decoder: torch.nn.Module,
    head: torch.nn.Module,
    batch: Sequence[Example],
    pad_to: int,
    device: torch.device,
    packed: bool = False,
) -> torch.Tensor:
    """Cross-entropy in nats, summed over the response tokens of all examples of a batch, ``packed`` in one row, within
    ``passes.attention_within_examples``, or else in rows, padded to a multiple of ``pad_to``."""
    ids, begins, known = passes.packed_row(batch, device) if packed else _padded_rows(batch, pad_to)
    where = [torch.arange(e.prompt_length, len(e.ids)) + begin for e, begin in zip(batch, begins, strict=True)]
    labelled = torch.cat(where)
    labels, before = ids.flatten()[labelled].to(device), (labelled - 1).to(device)
    hidden = decoder(input_ids=ids.to(device), use_cache=False, **known).last_hidden_state
    logits = head(hidden.flatten(0, 1).index_select(0, before))  # a token is predicted where the one before it stands
    return functional.cross_entropy(logits.float(), labels, reduction="sum")


def _room(coder: Coder, recipe: Recipe, packed: bool | None, file: Path | None) -> int:
    """Most tokens of a packed pass; 0 for padded rows. A checkpoint's own cut goes before the device's."""
    begun = checkpoint.room_of(file)
    if packed is None and begun is not None:
        return begun
    decoder, _ = decoder_and_head(coder)
    obstacle = passes.obstacle(decoder)
    if packed and obstacle:
        raise UsageError(f"examples of {coder.name} cannot be packed: {obstacle}", "leave packed out")
    if packed is None and coder.device.type == "cuda":
        dtype = torch.bfloat16 if _in_bfloat16(coder.device, recipe) else coder.dtype
        packed = not obstacle and passes.fast(decoder, coder.device, dtype)
    if not packed:
        return 0
    if coder.device.type != "cuda":
        return begun or CACHE_TOKENS
    total, weights = passes.card_bytes(coder.device), sum(value.nbytes for value in coder.model.parameters())
    return begun or passes.most_tokens(decoder.config, total, weights, recipe.gradient_checkpointing)


def _rehearse(coder: Coder, head, steps: list[list[list[Example]]], recipe: Recipe, room: int) -> None:
    """Compute the largest pass once and drop its gradient: what does not fit the memory shows now, not after hours."""

    def size(batch: list[Example]) -> int:
        lengths = [len(example.ids) for example in batch]
        return sum(lengths) if room else len(lengths) * max(lengths)

    largest = max((one for step in steps for one in _cut_step(head, step, recipe, coder.device, room)), key=size)
    with seeded(coder.device, "rehearsal"):
        _accumulate_gradient(head, [largest], recipe, coder.device, room)
    coder.model.zero_grad(set_to_none=True)


def _padded_rows(batch: Sequence[Example], pad_to: int) -> tuple[torch.Tensor, Sequence[int], dict[str, Any]]:
    """Token ids, (examples, width); where each example begins in them; nothing that the decoder needs to know."""
    width = math.ceil(max(len(example.ids) for example in batch) / pad_to) * pad_to
    ids = torch.zeros(len(batch), width, dtype=torch.long)  # what pads does not matter: nothing looks at it
    for row, example in enumerate(batch):
        ids[row, : len(example.ids)] = torch.tensor(example.ids)
    return ids, range(0, ids.numel(), width), {}


def _cut_step(head, step: list[list[Example]], recipe: Recipe, device: torch.device, room: int) -> list[list[Example]]:
    """The passes of a step."""
    if room:
        return list(passes.cut([example for batch in step for example in batch], room, head[1].weight.shape[0]))
    return list(_passes(step, recipe, device))


def _accumulate_gradient(head, step: list[list[Example]], recipe: Recipe, device: torch.device, room: int) -> float:
    """Add up the gradient of the step's loss; return the loss."""
    count = sum(example.response_tokens for batch in step for example in batch)
    total = torch.zeros((), device=device)
    for batch in _cut_step(head, step, recipe, device, room):
        with _autocast(device, recipe):
            loss = loss_sum(*head, batch, recipe.pad_to, device, room > 0) / count
        loss.backward()
        total += loss.detach()
    return float(total)


def _trainable(coder: Coder) -> dict[str, torch.nn.Parameter]:
    parameters = {name: value for name, value in coder.model.named_parameters() if value.requires_grad}
    if not isinstance(coder.model, PeftModel) or not parameters:
        raise UsageError(
            f"{coder.name} has no adapter that can be trained", "use add_adapter, or load_adapter with trainable=True"
        )
    return parameters


def decoder_and_head(coder: Coder) -> tuple[torch.nn.Module, torch.nn.Module]:
    """What makes hidden states of tokens, and what makes logits of hidden states."""
    model = coder.model.get_base_model() if isinstance(coder.model, PeftModel) else coder.model
    if rescaled := [name for name in RESCALED if getattr(model.config, name, None)]:
        raise UsageError(f"{coder.name} changes its logits after its head ({rescaled[0]})", "take another model")
    inner = model.base_model  # in transformers 4 Gemma 3's is the model itself
    return (model.get_decoder() if inner is model else inner), model.get_output_embeddings()


def check(recipe: Recipe, device: str, size: tuple[int, int] | None = None, four_bit: bool = False) -> None:
    """A UsageError where the recipe cannot be had on the device, or the card has not the memory for a model of this
    ``size`` (weights and, of these, embeddings; None: not asked): to be known before hours of work."""
    _check_optimizer(recipe, device)
    if size is None or not device.startswith("cuda"):
        return
    least, there = passes.least_bytes(recipe, *size, four_bit), passes.card_bytes(torch.device(device))
    if least > there:
        asked = {"gradient_checkpointing=True": recipe.gradient_checkpointing, "four_bit=True": four_bit}
        cures = ["a smaller max_length", *(name for name, taken in asked.items() if not taken), "a smaller model"]
        raise UsageError(
            f"tuning takes {least / GIB:.1f} GiB at least, for one example of {recipe.max_length} tokens, and {device} "
            f"has {there / GIB:.1f} GiB",
            f"take {', '.join(cures[:-1])}, or {cures[-1]}",
        )


def _check_optimizer(recipe: Recipe, device: str) -> None:
    if recipe.optimizer == "adamw":
        return
    if not device.startswith("cuda"):
        raise UsageError(f"{recipe.optimizer} does not run on {device}", "Recipe(optimizer='adamw')")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UsageError(f"{recipe.optimizer} needs bitsandbytes", "pip install 'nngpt-lab[gpu]', or optimizer='adamw'")


def _optimizer(coder: Coder, parameters: dict[str, torch.nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    _check_optimizer(recipe, coder.device.type)
    settings = {"lr": recipe.lr, "weight_decay": recipe.weight_decay}
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(parameters.values(), fused=True, **settings)
    import bitsandbytes

    return bitsandbytes.optim.PagedAdamW8bit(parameters.values(), **settings)


@contextlib.contextmanager
def _training(coder: Coder, recipe: Recipe, packed: bool) -> Iterator[None]:
    """Training mode, gradient checkpointing and attention as asked for; all as before afterwards."""
    model = coder.model.get_base_model()
    try:
        coder.model.train()
        if recipe.gradient_checkpointing:
            with quiet():
                model.gradient_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
        with _repeatable(coder.device), _packing(coder, recipe) if packed else contextlib.nullcontext():
            yield
    except torch.cuda.OutOfMemoryError as error:
        raise LabError(
            f"tuning {coder.name} takes more memory than {coder.device} has left: {error}",
            "take Recipe(gradient_checkpointing=True), a smaller batch or max_length, four_bit=True, or end what else "
            "uses the card",
        ) from error
    finally:
        if recipe.gradient_checkpointing:
            model.disable_input_require_grads()
            with quiet():
                model.gradient_checkpointing_disable()
        coder.model.zero_grad(set_to_none=True)
        coder.model.eval()


@contextlib.contextmanager
def _packing(coder: Coder, recipe: Recipe) -> Iterator[None]:
    """Attention within examples; and no layer's input turned into the adapter's float32, only for autocast to turn it
    back (``disable_input_dtype_casting``: peft 0.15 and later)."""
    uncast = getattr(helpers, "disable_input_dtype_casting", contextlib.nullcontext)
    decoder, _ = decoder_and_head(coder)
    with (
        passes.attention_within_examples(decoder),
        uncast(coder.model) if _in_bfloat16(coder.device, recipe) else contextlib.nullcontext(),
    ):
        yield


@contextlib.contextmanager
def _repeatable(device: torch.device) -> Iterator[None]:
    """On CUDA the kernels whose sums do not depend on which thread came first, where there are such."""
    if device.type != "cuda":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else torch warns at every product of matrices
    asked = torch.are_deterministic_algorithms_enabled()
    only_warned = torch.is_deterministic_algorithms_warn_only_enabled()
    filling = torch.utils.deterministic
    filled = filling.fill_uninitialized_memory
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*deterministic.*", UserWarning)  # of those where there are none
            torch.use_deterministic_algorithms(True, warn_only=True)
            filling.fill_uninitialized_memory = False  # costs time, and nothing here reads what it has not written
            yield
    finally:
        torch.use_deterministic_algorithms(asked, warn_only=only_warned)
        filling.fill_uninitialized_memory = filled


def _in_bfloat16(device: torch.device, recipe: Recipe) -> bool:
    able = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return recipe.precision == "bfloat16" or (recipe.precision == "auto" and able)


def _autocast(device: torch.device, recipe: Recipe) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=_in_bfloat16(device, recipe))
