"""Sampling: one prompt at a time through transformers' `generate`, in its batches, and as the lab does it.

All write from the same prompts with the same decoding, in turn, and are measured in new tokens per second of wall time,
the reading of the prompts included. The lab draws otherwise than `generate`, so texts differ; tokens are counted as
written, up to the end token of each text.

    python benchmarks/sampling.py                                  # the nano coder, on as many threads as torch takes
    python benchmarks/sampling.py --model FOLDER --texts 16 --alone 2 --new-tokens 100 --repetitions 1
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial

import click
import pandas as pd
import torch
from common import in_turns, rate_table, timed, write_result

from nngpt_lab.llm import models, prompts
from nngpt_lab.llm.adapters import add_adapter
from nngpt_lab.llm.decoding import Decoding, end_tokens
from nngpt_lab.llm.models import Coder
from nngpt_lab.llm.recipe import Recipe
from nngpt_lab.llm.sampling import merged, sample

NOTES = (
    "Median of the repetitions, methods in turn. `generate` gets what the lab's sampler gets: the same prompts as "
    "token ids, temperature, top-k, top-p and end tokens; its batches are padded on the left.",
    "A batch of `generate` goes on until its longest text has ended. In ours a text that has ended makes room for "
    "the next.",
    "LoRA: rank 32 on all seven projections of every layer. `merged` adds it to the weights while sampling and puts "
    "the same weights back afterwards.",
)


def encoded(coder: Coder, count: int, name: str) -> list[list[int]]:
    """Prompts that differ in their last words, as a loop's do."""
    asked = prompts.prompt(name)
    limits = (100_000 + 5_000 * number for number in range(count))
    return [prompts.encode(coder.tokenizer, asked.messages(dataset="CIFAR-10", max_parameters=n)) for n in limits]


@torch.inference_mode()
def generated(coder: Coder, ids: list[list[int]], decoding: Decoding, batch_size: int) -> int:
    """New tokens that ``generate`` writes."""
    written, ends = 0, end_tokens(coder)
    for start in range(0, len(ids), batch_size):
        part = {"input_ids": ids[start : start + batch_size]}
        padded = coder.tokenizer.pad(part, padding_side="left", return_tensors="pt").to(coder.device)
        torch.manual_seed(start)
        texts = coder.model.generate(
            input_ids=padded["input_ids"], attention_mask=padded["attention_mask"], do_sample=True,
            temperature=decoding.temperature, top_k=decoding.top_k, top_p=decoding.top_p,
            max_new_tokens=decoding.max_new_tokens, eos_token_id=sorted(ends),
            pad_token_id=coder.tokenizer.pad_token_id,
        )  # fmt: skip
        for text in texts[:, padded["input_ids"].shape[1] :].tolist():
            written += next((place + 1 for place, token in enumerate(text) if token in ends), len(text))
    return written


def sampled(coder: Coder, ids: list[list[int]], decoding: Decoding, batch_size: int, engine: str = "auto") -> int:
    """New tokens that the lab's sampler writes."""
    samples = sample(coder, ids, range(len(ids)), decoding, batch_size=batch_size, engine=engine, progress=False)
    return sum(text.new_tokens for text in samples)


def measured(ways: dict[str, Callable[[], int]], repetitions: int) -> pd.DataFrame:
    """One row per way of sampling; the first is what the others are compared with."""
    runs = in_turns({name: partial(timed, way) for name, way in ways.items()}, repetitions)
    rates = {name: [tokens / seconds for seconds, tokens in results] for name, results in runs.items()}
    return rate_table("sampling", "new tokens/s", rates)


@click.command()
@click.option("--model", default="nano-coder", show_default=True, help="A name of llm/models.py, or a folder.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--prompt", "name", default="architecture_nano", show_default=True)
@click.option("--texts", default=128, show_default=True, help="Texts that the batched ways write.")
@click.option("--alone", default=12, show_default=True, help="Texts that are written one at a time, which is slow.")
@click.option("--batch", "batches", multiple=True, default=(16, 32, 64), show_default=True)
@click.option("--temperature", default=0.8, show_default=True)
@click.option("--new-tokens", default=600, show_default=True, help="Length limit of a text.")
@click.option("--repetitions", default=3, show_default=True)
def main(
    model: str, device: str, name: str, texts: int, alone: int, batches: tuple[int, ...], temperature: float,
    new_tokens: int, repetitions: int,
) -> None:  # fmt: skip
    """New tokens per second, by way of sampling."""
    coder = models.load(model, device)
    decoding = Decoding(temperature, top_k=50, top_p=0.9, max_new_tokens=new_tokens)
    ids, widest = encoded(coder, texts, name), max(batches)
    sampled(coder, ids[:2], decoding, 2)  # the first call of any kernel is slow
    ways = {
        "generate, one prompt at a time": lambda: generated(coder, ids[:alone], decoding, 1),
        f"generate, batches of {widest}": lambda: generated(coder, ids, decoding, widest),
        "ours, one at a time": lambda: sampled(coder, ids[:alone], decoding, 1),
    } | {f"ours, {size} at a time": lambda size=size: sampled(coder, ids, decoding, size) for size in batches}
    if device.startswith("cuda"):
        joining = partial(sampled, coder, ids, decoding, widest, "joining")
        ways[f"ours, {widest} at a time, without slots"] = joining
    tables, parameters = {"Base model": measured(ways, repetitions)}, coder.model.num_parameters()
    tuned = add_adapter(coder, Recipe(layers=None), seed=0)  # costs as much as one that changes something

    def adapted(context: Callable[[Coder], contextlib.AbstractContextManager]) -> int:
        with context(tuned):
            return sampled(tuned, ids, decoding, widest)

    contexts = {"unmerged": contextlib.nullcontext, "merged": merged}
    ways = {f"{name}, {widest} at a time": partial(adapted, context) for name, context in contexts.items()}
    tables["With a LoRA adapter"] = measured(ways, repetitions)
    setting = (
        f"{coder.name}, {parameters / 1e6:.1f} M parameters, {coder.dtype}, {coder.device}; {torch.get_num_threads()} "
        f"threads. {texts} prompts of {min(map(len, ids))} to {max(map(len, ids))} tokens ({alone} where one at "
        f"a time), up to {new_tokens} new tokens; temperature {temperature}, top-k 50, top-p 0.9."
    )
    title = "Sampling: texts one at a time, in batches, and in batches that stay full"
    write_result(title, tables, (setting, *NOTES), packages=("torch", "transformers", "peft"))


if __name__ == "__main__":
    main()
