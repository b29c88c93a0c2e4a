"""LoRA: trl's SFTTrainer and ours on the same model, examples and recipe, in one process, float32 on the CPU.

Loss: both take full-batch steps without dropout from the same adapter, so that the order of the examples does not
matter, and each step's loss and the adapter at the end are compared. Speed: an epoch each, in turns; tokens are those
of the examples, padding not counted. The model has the nano coder's shape and random weights; neither changes speed.

    python -m pip install --target peers --no-deps trl datasets dill multiprocess xxhash
    PYTHONPATH=peers python benchmarks/lora.py
"""

from __future__ import annotations

import importlib.util
import logging
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import click
import numpy as np
import pandas as pd
import torch
from common import in_turns, rate_table, timed, write_result
from tokenizers import Tokenizer
from tokenizers import models as token_models
from transformers import PreTrainedTokenizerFast, PrinterCallback
from transformers.utils.logging import disable_progress_bar

from nngpt_lab.ground.errors import UsageError
from nngpt_lab.llm import adapters, lora
from nngpt_lab.llm.lora import Example
from nngpt_lab.llm.models import Coder
from nngpt_lab.llm.recipe import Recipe
from nngpt_lab.walkthroughs.pretraining import Architecture, new_model

VOCABULARY, PROMPT, LENGTHS = 4096, 20, (300, 800)
RECIPE = Recipe(epochs=1, warmup=0, lr=1e-4)
SETTINGS = {  # trl's default, then the papers'
    "8 examples at once": replace(RECIPE, batch=8, accumulate=1),
    "1 at once, 8 accumulated": replace(RECIPE, batch=1, accumulate=8),
}


def new_coder(seed: int) -> Coder:
    """A model of the nano coder's shape, and a tokenizer that knows its special tokens and no other."""
    vocabulary = {"<|pad|>": 0, "<|end|>": 1} | {f"t{i}": i for i in range(2, VOCABULARY)}
    tokenizer = Tokenizer(token_models.WordLevel(vocabulary, unk_token="<|pad|>"))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|end|>")
    return Coder(new_model(fast, Architecture(), seed).eval(), fast, "nano shape", {})


def draw(count: int, seed: int) -> list[Example]:
    """Examples of random tokens; lengths are uniform."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(LENGTHS[0], LENGTHS[1] + 1, count)
    return [Example(tuple(rng.integers(2, VOCABULARY, length).tolist()), PROMPT) for length in lengths]


# --- the two sides: each tunes the coder's adapter and returns seconds and the losses of its steps --------------------


def ours(coder: Coder, examples: Sequence[Example], recipe: Recipe, seed: int) -> tuple[float, list[float]]:
    seconds, curve = timed(lambda: lora.tune(coder, examples, recipe, seed, progress=False))
    return seconds, curve["loss"].tolist()


def theirs(coder: Coder, examples: Sequence[Example], recipe: Recipe, seed: int) -> tuple[float, list[float]]:
    """SFTTrainer; making it and preparing the data are not timed."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    rows = [
        {"input_ids": list(e.ids), "labels": [-100] * e.prompt_length + list(e.ids[e.prompt_length :])}
        for e in examples
    ]
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder, use_cpu=True, bf16=False, gradient_checkpointing=False, seed=seed,
            per_device_train_batch_size=recipe.batch, gradient_accumulation_steps=recipe.accumulate,
            num_train_epochs=recipe.epochs, learning_rate=recipe.lr, lr_scheduler_type="cosine",
            weight_decay=recipe.weight_decay, max_grad_norm=recipe.max_grad_norm, optim="adamw_torch_fused",
            max_length=None, dataset_kwargs={"skip_prepare_dataset": True}, packing=False,
            save_strategy="no", report_to="none", logging_steps=1, logging_strategy="steps", disable_tqdm=True,
        )  # fmt: skip
        trainer = SFTTrainer(
            coder.model, config, train_dataset=Dataset.from_list(rows), processing_class=coder.tokenizer
        )
        trainer.remove_callback(PrinterCallback)
        seconds, _ = timed(trainer.train)
    return seconds, [step["loss"] for step in trainer.state.log_history if "loss" in step]


SIDES = {"trl SFTTrainer": theirs, "ours": ours}


def with_adapter(side, folder: Path, examples: Sequence[Example], recipe: Recipe) -> tuple[float, list[float], dict]:
    """``side`` on a fresh copy of model and adapter: its seconds, its losses, the adapter at the end."""
    coder = adapters.load_adapter(new_coder(0), folder)
    for module in coder.model.modules():  # peft keeps the dropout that the adapter was saved with
        if isinstance(module, torch.nn.Dropout):
            module.p = recipe.dropout
    seconds, losses = side(coder, examples, recipe, 0)
    weights = {name: value.detach().clone() for name, value in coder.model.named_parameters() if "lora_" in name}
    return seconds, losses, weights


def same_loss(folder: Path, count: int, steps: int) -> tuple[pd.DataFrame, str]:
    """Loss by step of both sides, for full-batch steps without dropout; and how far the adapters are apart after it."""
    examples = draw(count, 1)
    recipe = replace(RECIPE, batch=count // 2, accumulate=2, epochs=steps, dropout=0.0)
    runs = {name: with_adapter(side, folder, examples, recipe) for name, side in SIDES.items()}
    left, right = (weights for _, _, weights in runs.values())
    weights = max(float((left[name] - right[name]).abs().max()) for name in left)
    moved = max(float(value.abs().max()) for name, value in right.items() if "lora_B" in name)  # B began at zero
    table = pd.DataFrame({"step": range(1, steps + 1)} | {name: losses for name, (_, losses, _) in runs.items()})
    table["difference"] = (table["trl SFTTrainer"] - table["ours"]).abs()
    return table, f"largest difference of an adapter weight after {steps} steps: {weights:.1e} (B moved by {moved:.1e})"


def speed(folder: Path, count: int, repeats: int) -> pd.DataFrame:
    """Tokens per second of both sides, in turns; medians."""
    examples = draw(count, 2)
    tokens = sum(len(example.ids) for example in examples)
    tables = {}
    for setting, recipe in SETTINGS.items():
        for side in SIDES.values():  # warm up
            with_adapter(side, folder, examples[: recipe.batch * recipe.accumulate], recipe)
        ways = {name: partial(with_adapter, side, folder, examples, recipe) for name, side in SIDES.items()}
        rates = {name: [tokens / run[0] for run in runs] for name, runs in in_turns(ways, repeats).items()}
        tables[setting] = rate_table("who", "tokens/s", rates).assign(examples=count)
    return pd.concat(tables, names=["setting"]).reset_index(level="setting")


@click.command()
@click.option("--examples", default=48, show_default=True, help="of the speed runs")
@click.option("--repeats", default=3, show_default=True)
@click.option("--threads", default=2, show_default=True)
def main(examples: int, repeats: int, threads: int) -> None:
    """Loss and speed of trl's SFTTrainer and of ours."""
    if importlib.util.find_spec("trl") is None:
        raise UsageError("trl is not installed", "the head of this file says how")
    torch.set_num_threads(threads)
    warnings.filterwarnings("ignore")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        adapter = Path(folder) / "adapter"
        adapters.save_adapter(adapters.add_adapter(new_coder(0), RECIPE, 0), adapter)
        losses, note = same_loss(adapter, 8, 4)
        tables = {"Speed": speed(adapter, examples, repeats), "Loss": losses}
    notes = (
        f"Examples of {LENGTHS[0]} to {LENGTHS[1]} tokens, the first {PROMPT} without loss; rank 32 on all seven "
        f"projections, dropout 0.05, AdamW (fused), float32, {threads} threads. One epoch; medians of {repeats} runs.",
        "SFTTrainer: its defaults, but without bfloat16 and gradient checkpointing, as ours; its data are "
        "tokenised and masked beforehand, and the time is that of train() alone.",
        f"Loss: full-batch steps of 8 examples in two micro-batches, no dropout, the same adapter; {note}.",
    )
    packages = ("torch", "transformers", "peft", "trl", "accelerate")
    write_result("LoRA: SFTTrainer and ours", tables, notes, packages=packages)


if __name__ == "__main__":
    main()
