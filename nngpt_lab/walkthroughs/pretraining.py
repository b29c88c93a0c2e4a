"""Pretraining of the nano coder: a byte-pair vocabulary and a small Llama, from scratch.

Its vocabulary is unusual in one point. Text is split at numbers, layers and line ends only, so that a boilerplate line
becomes one token, while every number and every ``nn.Layer(`` keeps a token of its own. A network is then about 200
tokens long instead of 700, and what the model spends its tokens on is what differs between networks.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from nngpt_lab.ground.progress import bar_hidden
from nngpt_lab.llm import checkpoint, lora
from nngpt_lab.llm.lora import Example
from nngpt_lab.llm.recipe import Recipe

PAD, USER, ASSISTANT, END = "<|pad|>", "<|user|>", "<|assistant|>", "<|end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
# Where a token must end: around a number, around a layer's name with its bracket, and at the end of a line, whose break
# belongs to the next line's indent
NUMBER, LAYER = r"(?<![\w.])\d{1,3}", r"nn\.\w+\(?"
PIECES = rf"{NUMBER}|{LAYER}|\n* *(?:(?!nn\.|{NUMBER})[^\n])+|\n+ *"


@dataclass(frozen=True)
class Architecture:
    """Sizes of the model: 3.3 million parameters.

    Attributes:
        vocabulary: number of tokens; input and output embeddings are tied.
        width, layers, heads, kv_heads, feed_forward: as in LlamaConfig. Few key-value heads keep the cache small,
            which is what sampling on a CPU waits for.
        context: longest text in tokens.
    """

    vocabulary: int = 2048
    width: int = 256
    layers: int = 4
    heads: int = 8
    kv_heads: int = 2
    feed_forward: int = 704
    context: int = 2048


@dataclass(frozen=True)
class Schedule:
    """How it is trained: AdamW, linear warm-up, cosine decay to a tenth.

    Attributes:
        tokens_per_batch: upper bound on rows x longest row.
        epochs: passes over the documents.
        lr: peak learning rate.
        warmup: steps of linear warm-up.
        weight_decay: on matrices; none on norms.
        clip: largest norm of the gradient.
    """

    tokens_per_batch: int = 2048
    epochs: int = 3
    lr: float = 2e-3
    warmup: int = 100
    weight_decay: float = 0.1
    clip: float = 1.0


def train_tokenizer(texts: Sequence[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE vocabulary over ``texts``; deterministic. Every text can be encoded and decoded exactly."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(PIECES), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special, alphabet = [PAD, USER, ASSISTANT, END], pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


def new_model(tokenizer: PreTrainedTokenizerFast, architecture: Architecture, seed: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=architecture.width,
        num_hidden_layers=architecture.layers,
        num_attention_heads=architecture.heads,
        num_key_value_heads=architecture.kv_heads,
        intermediate_size=architecture.feed_forward,
        max_position_embeddings=architecture.context,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):  # transformers initialises from the global generator
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def batches(documents: Sequence[Example], tokens_per_batch: int, rng: np.random.Generator) -> list[list[Example]]:
    """Documents of like length together, each row one document from its start, batches in random order. Lengths are
    jittered before sorting, so that the same documents do not meet in every epoch."""
    lengths = np.array([len(document.ids) for document in documents])
    order = np.argsort(lengths * rng.uniform(0.9, 1.1, len(lengths)), kind="stable")
    filled = list(lora.fill(order, lengths, tokens_per_batch))
    return [[documents[index] for index in filled[place]] for place in rng.permutation(len(filled))]


def pretrain(
    model: LlamaForCausalLM,
    documents: Sequence[Example],
    schedule: Schedule,
    seed: int,
    folder: Path,
    minutes: float | None = None,
) -> pd.DataFrame:
    """Train in place: a row per step, step, epoch, lr, loss (nats per token), tokens (answers'), seconds since the
    start. ``folder``: for this run alone; a checkpoint is kept there after each epoch, and the one that is there goes
    on. ``minutes``: stop after the epoch in which this time has passed; None: no limit."""
    rng = np.random.default_rng(seed)
    epochs = [batches(documents, schedule.tokens_per_batch, rng) for _ in range(schedule.epochs)]
    steps = [(epoch, batch) for epoch, whole in enumerate(epochs) for batch in whole]
    recipe = Recipe(batch=len(documents), pad_to=1, precision="float32", max_grad_norm=schedule.clip)
    parameters, head = dict(model.named_parameters()), (model.model, model.lm_head)
    groups = [  # matrices decay, norms do not
        {"params": [value for value in parameters.values() if (value.dim() > 1) == decays], "weight_decay": decay}
        for decays, decay in ((True, schedule.weight_decay), (False, 0.0))
    ]
    optimizer = torch.optim.AdamW(groups, lr=schedule.lr, betas=(0.9, 0.95), fused=True)
    file, key = folder / checkpoint.FILENAME, folder.name
    rows = checkpoint.read(file, key, parameters, optimizer)
    began = time.monotonic() - (rows[-1]["seconds"] if rows else 0.0)
    model.train()
    with tqdm(total=len(steps), initial=len(rows), desc="pretraining", unit=" steps", disable=bar_hidden()) as bar:
        for step in range(len(rows), len(steps)):
            epoch, batch = steps[step]
            lr = learning_rate(step, len(steps), schedule)
            loss, _ = lora.descend(head, parameters, optimizer, step, [batch], lr, recipe)
            tokens = sum(document.response_tokens for document in batch)
            seconds = time.monotonic() - began
            rows.append({"step": step, "epoch": epoch, "lr": lr, "loss": loss, "tokens": tokens, "seconds": seconds})
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            bar.update()
            if batch is epochs[epoch][-1]:
                checkpoint.write(file, key, parameters, optimizer, rows)
                if minutes is not None and seconds > 60 * minutes:
                    break
    model.eval()
    return pd.DataFrame(rows)


def learning_rate(step: int, total: int, schedule: Schedule) -> float:
    """Linear from 0 to the peak over the warm-up, then a cosine to a tenth of the peak at ``total``."""
    if step < schedule.warmup:
        return schedule.lr * (step + 1) / schedule.warmup
    done = (step - schedule.warmup) / max(1, total - schedule.warmup)
    return schedule.lr * (0.1 + 0.9 * (1 + math.cos(math.pi * done)) / 2)
