"""A model small enough to be made, saved and loaded in milliseconds."""

from __future__ import annotations

from pathlib import Path

SIZES = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}


def save_tiny(folder: Path, seed: int = 0, kind: str = "Llama") -> Path:
    """A random model with a tokenizer of single characters that has no pad token."""
    import torch
    import transformers
    from tokenizers import Tokenizer
    from tokenizers.models import BPE

    config = getattr(transformers, f"{kind}Config")(**SIZES, num_key_value_heads=2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        getattr(transformers, f"{kind}ForCausalLM")(config).save_pretrained(folder)
    vocabulary = {character: index for index, character in enumerate(["</s>", *"abcdefgh"])}
    backend = Tokenizer(BPE(vocabulary, []))
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>").save_pretrained(folder)
    return folder
