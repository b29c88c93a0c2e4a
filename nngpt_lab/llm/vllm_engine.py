"""Sampling through vLLM, for ``sampling.stream(..., engine="vllm")``: worth its start on a GPU with many long texts.

Written against vLLM's documented interface for offline inference (``LLM.generate`` with ``TokensPrompt``,
``SamplingParams`` and ``LoRARequest``, of 0.8 and later) and tested against a stand-in; it has not been run, because no
machine at hand had both vLLM and a GPU.

vLLM draws from generators of its own: a seed gives another text than the engine ``transformers`` does, and the scores'
rounding depends on what is computed together, so that texts can differ between runs.
"""

from __future__ import annotations

import importlib.util
import itertools
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from nngpt_lab.ground.errors import UsageError
from nngpt_lab.ground.seeds import derive
from nngpt_lab.llm.decoding import Decoding, Row, end_tokens

if TYPE_CHECKING:
    from nngpt_lab.llm.models import Coder

MEMORY_SHARE = 0.5  # of the device, for vLLM's weights and cache; the model that is tuned lies there too

_engines: dict[tuple[str, int], Any] = {}  # by weights and LoRA rank: one takes a minute to start
_adapters = itertools.count(1)  # vLLM knows an adapter by its number: each cycle's weights get a new one


def check(coder: Coder) -> None:
    """A UsageError where vLLM cannot be used."""
    if importlib.util.find_spec("vllm") is None:
        raise UsageError(
            "the engine 'vllm' needs vLLM, which is not installed", "pip install vllm, or use another engine"
        )
    if not torch.cuda.is_available():
        raise UsageError("the engine 'vllm' needs a CUDA device", "use the engine 'transformers' on this machine")
    if not _weights(coder):
        cause = f"vLLM cannot read {coder.name}: it was not loaded from a folder or the hub in transformers' format"
        raise UsageError(cause, "save it with save_pretrained and load that folder, or use the engine 'transformers'")


def write(coder: Coder, rows: list[Row], decoding: Decoding, batch_size: int) -> Iterator[Row]:
    """Yield rows as ``sampling`` does, but all at the end; vLLM itself keeps ``batch_size`` texts at work."""
    import vllm

    if not rows:
        return
    ends = end_tokens(coder)
    settings = [
        vllm.SamplingParams(
            temperature=decoding.temperature,
            top_k=decoding.top_k or -1,
            top_p=decoding.top_p,
            max_tokens=row.room,
            seed=derive("vllm", row.seed),
            stop_token_ids=sorted(ends),
            detokenize=False,
        )
        for row in rows
    ]
    prompts = [{"prompt_token_ids": [int(token) for token in row.prompt]} for row in rows]
    engine = _engine(vllm, coder, batch_size)
    with tempfile.TemporaryDirectory() as folder:
        results = engine.generate(prompts, settings, lora_request=_adapter(coder, folder), use_tqdm=False)
    for row, result in zip(rows, results, strict=True):
        answer = result.outputs[0]
        row.ids, row.ended = list(answer.token_ids), answer.finish_reason == "stop"
        if row.ended and not (row.ids and row.ids[-1] in ends):
            row.ids.append(min(ends))  # a version that drops the end token: it was written all the same
        yield row


def _engine(vllm: Any, coder: Coder, batch_size: int) -> Any:
    """The engine for this coder's weights, started if there is none."""
    rank = _rank(coder)
    key = (_weights(coder), rank)
    if key not in _engines:
        lora = {"enable_lora": True, "max_lora_rank": max(8, rank)} if rank else {}
        dtype = str(coder.dtype).removeprefix("torch.")
        _engines[key] = vllm.LLM(
            model=key[0], dtype=dtype, max_num_seqs=batch_size, gpu_memory_utilization=MEMORY_SHARE,
            enable_prefix_caching=True, **lora,
        )  # fmt: skip
    return _engines[key]


def _adapter(coder: Coder, folder: str) -> Any:
    """The coder's LoRA weights as they are now, in a form that vLLM reads; None if it has none."""
    if not _rank(coder):
        return None
    from vllm.lora.request import LoRARequest

    coder.model.save_pretrained(folder)
    number = next(_adapters)
    return LoRARequest(f"adapter-{number}", number, folder)


def _rank(coder: Coder) -> int:
    """Rank of the active LoRA adapter; 0 for none."""
    configs = getattr(coder.model, "peft_config", None)
    return configs[coder.model.active_adapter].r if configs else 0


def _weights(coder: Coder) -> str:
    """The folder or the hub's name of the base weights; empty if they have neither."""
    model = coder.model.get_base_model() if hasattr(coder.model, "get_base_model") else coder.model
    return model.config.name_or_path or ""
