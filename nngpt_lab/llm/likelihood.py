"""How likely a model finds given answers: one pass over what differs between them.

All texts begin alike (the prompt, and the answer's boilerplate), so that beginning is read once and its keys and values
serve every text. Texts of equal length are read together; what pads the shorter ones stands behind them, where under
causal attention no token sees it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional
from transformers.cache_utils import DynamicCache

from nngpt_lab.ground.errors import UsageError
from nngpt_lab.llm.kv_cache import Forward, common_prefix
from nngpt_lab.llm.lora import fill
from nngpt_lab.llm.models import Coder

CPU_TOKENS = 2048  # read at a time: more do not make a CPU faster
LOGITS = 2**28  # numbers at a time on a GPU, 1 GiB in float32


@torch.inference_mode()
def log_likelihoods(coder: Coder, texts: Sequence[Sequence[int]]) -> np.ndarray:
    """log P(text | the beginning that all texts share), in nats, one per text.

    A token that all texts share at the same place would add the same to each, so nothing is lost for comparing them.
    For one text alone that beginning is all but its last token.

    Args:
        coder: with or without an adapter; ``with sampling.merged(coder)`` is faster.
        texts: token ids, of which at least the first is shared by all.

    Raises:
        UsageError: the texts do not begin alike.
    """
    if not texts:
        return np.zeros(0)
    shared = min(common_prefix(texts), min(map(len, texts)) - 1)
    if shared < 1:
        raise UsageError("the texts do not begin with the same token", "put the same prompt before each")
    forward = Forward(coder.model)
    beginning = torch.tensor([texts[0][: shared - 1]], device=coder.device)  # its last token is read with the rest
    cache = DynamicCache(config=forward.config)
    if shared > 1:
        forward.logits(beginning, cache, logits_to_keep=1)
    result, lengths = np.zeros(len(texts)), [len(text) - shared for text in texts]
    room = CPU_TOKENS if coder.device.type == "cpu" else max(1, LOGITS // forward.config.vocab_size)
    for rows in fill(np.argsort(lengths, kind="stable"), lengths, room):
        result[rows] = _read(forward, cache, [texts[row][shared - 1 :] for row in rows])
    return result


def _read(forward: Forward, cache: DynamicCache, texts: list[Sequence[int]]) -> np.ndarray:
    """Sum of log-probabilities of each text after its first token, all of them behind the cached beginning."""
    width = max(map(len, texts))
    ids = torch.zeros(len(texts), width, dtype=torch.long)
    labels = torch.full((len(texts), width - 1), -100)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = torch.tensor(text)
        labels[row, : len(text) - 1] = ids[row, 1 : len(text)]
    past = copy.deepcopy(cache)
    if past.get_seq_length():
        past.batch_repeat_interleave(len(texts))
    logits = forward.logits(ids[:, :-1].to(forward.device), past).float()
    losses = functional.cross_entropy(logits.transpose(1, 2), labels.to(forward.device), reduction="none")
    return -losses.sum(1, dtype=torch.float64).cpu().numpy()


def without_common_end(texts: Sequence[Sequence[int]], keep: int = 0) -> list[Sequence[int]]:
    """The texts without the tokens that all end with, except the first ``keep`` of these."""
    end = common_prefix([text[::-1] for text in texts])
    return [text[: len(text) - max(0, end - keep)] for text in texts]
