"""Small models with adapters, and examples, for the tests of LoRA."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from nngpt_lab.llm import adapters, lora
from nngpt_lab.llm.lora import Example
from nngpt_lab.llm.models import Coder
from nngpt_lab.llm.recipe import Recipe
from tests.helpers.single_thread import one_thread  # noqa: F401

CPU = torch.device("cpu")
RECIPE = Recipe(rank=4, alpha=8, dropout=0.1, lr=1e-3, epochs=2, batch=2, accumulate=2, warmup=0, pad_to=8)
STILL = replace(RECIPE, dropout=0.0)


def new_coder(layers: int = 2) -> Coder:
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=48, max_position_embeddings=128, tie_word_embeddings=True, pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).eval()
        model.model.embed_tokens.weight.data.mul_(20)  # at the usual 0.02 all losses are log(64), whatever the input
    return Coder(model, None, "tiny", {})


def draw(*lengths: int, prompt: int = 3, seed: int = 0) -> list[Example]:
    rng = np.random.default_rng(seed)
    return [Example(tuple(rng.integers(1, 64, length).tolist()), prompt) for length in lengths]


EXAMPLES = draw(9, 30, 12, 25, 5, 17, 40)


def adapted(recipe: Recipe = RECIPE, seed: int = 0) -> Coder:
    """A coder whose adapter does something: B is zero at first, and A without gradient."""
    coder = adapters.add_adapter(new_coder(), recipe, seed)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(1)
        for name, value in coder.model.named_parameters():
            if "lora_B" in name:
                value.normal_(0, 0.1)
    return coder


def weights(coder: Coder) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in coder.model.named_parameters() if value.requires_grad}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def sum_of(coder: Coder, batch: list[Example], pad_to: int = 8) -> torch.Tensor:
    return lora.loss_sum(*lora.decoder_and_head(coder), batch, pad_to, CPU)


def gradient(coder: Coder, value: torch.Tensor) -> torch.Tensor:
    return torch.cat([part.flatten() for part in torch.autograd.grad(value, list(lora._trainable(coder).values()))])


def base_state(coder: Coder) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in coder.model.state_dict().items()}
