"""A GGUF file as llama.cpp's converter would write it, of a model small enough for a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 64, "rope_theta": 500.0}  # fmt: skip
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
WORDS = [*"abcdefghijklmnopqrstuvwxyz0123456789(){}:=_<|>ĠĊ", "ab", "cd", "ĠĠ", "12", "<tool>", *CONTROL, "[PAD0]"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LAYER = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
         "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
         "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}  # fmt: skip
OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def tiny_model(kind: str, **settings: Any) -> Any:
    """A random model of transformers' class ``<kind>ForCausalLM``, biases and norms not trivial either."""
    import torch
    import transformers

    config = getattr(transformers, f"{kind}Config")(vocab_size=len(WORDS), **SIZES | settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter), alpha=0.2)
    return model


def write_gguf(file: Path, model: Any, pre: str = "qwen2", packed: str = "F32", **more: Any) -> Path:
    """Write the model: its matrices packed as gguf's type of that name, ``more`` metadata of its architecture."""
    import gguf
    import numpy as np

    config, kind = model.config, model.config.model_type
    writer = gguf.GGUFWriter(file, kind)
    writer.add_name("Tiny")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for what, name in (("block_count", "num_hidden_layers"), ("context_length", "max_position_embeddings"),
                       ("embedding_length", "hidden_size"), ("feed_forward_length", "intermediate_size"),
                       ("head_count", "num_attention_heads"), ("head_count_kv", "num_key_value_heads"),
                       ("layer_norm_rms_eps", "rms_norm_eps")):  # fmt: skip
        getattr(writer, f"add_{what}")(getattr(config, name))
    writer.add_rope_freq_base(SIZES["rope_theta"])
    for key, value in more.items():
        getattr(writer, f"add_{key}")(value)
    _write_tokenizer(writer, pre)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        value = tensor.numpy()
        if kind == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = config.num_attention_heads if ".q_proj" in name else config.num_key_value_heads
            value = value.reshape(heads, 2, -1, value.shape[-1]).swapaxes(1, 2).reshape(value.shape)
        own = _name(name)
        own_type = gguf.GGMLQuantizationType[packed if value.ndim == 2 else "F32"]
        packed_value = gguf.quants.quantize(np.ascontiguousarray(value), own_type)
        writer.add_tensor(own, packed_value, raw_dtype=own_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _write_tokenizer(writer: Any, pre: str) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(WORDS)
    writer.add_token_types([3 if w in CONTROL else 4 if w == "<tool>" else 5 if "PAD" in w else 1 for w in WORDS])
    writer.add_token_merges(["a b", "c d", "Ġ Ġ", "1 2"])
    writer.add_bos_token_id(WORDS.index("<|endoftext|>"))
    writer.add_eos_token_id(WORDS.index("<|im_end|>"))
    writer.add_pad_token_id(WORDS.index("<|endoftext|>"))
    writer.add_chat_template(TEMPLATE)


def _name(name: str) -> str:
    base, _, kind = name.rpartition(".")
    if base in OUTSIDE:
        return f"{OUTSIDE[base]}.{kind}"
    _, _, layer, part = base.split(".", 3)
    return f"blk.{layer}.{LAYER[part]}.{kind}"
