"""What a tuning leaves on the way: adapter, optimizer and losses so far, from which it goes on to the same weights."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from nngpt_lab.ground.errors import DataError
from nngpt_lab.ground.files import replacing
from nngpt_lab.ground.seeds import SCHEME
from nngpt_lab.llm.models import Coder
from nngpt_lab.llm.passes import Example
from nngpt_lab.llm.recipe import Recipe

log = logging.getLogger(__name__)

FILENAME = "checkpoint.pt"
PACKED = " packed "  # between a checkpoint's key and the most tokens of a pass


def key(coder: Coder, examples: Sequence[Example], recipe: Recipe, seed: int, room: int) -> str:
    """What a checkpoint belongs to; ``room``: most tokens of a packed pass, 0 for padded rows."""
    digest = hashlib.sha256(json.dumps([coder.name, asdict(recipe), seed, SCHEME]).encode())
    for example in examples:
        digest.update(np.array([example.prompt_length, *example.ids, -1], dtype=np.int64).tobytes())
    return digest.hexdigest() + (f"{PACKED}{room}" if room else "")


def room_of(path: Path | None) -> int | None:
    """Most tokens of a packed pass in the run that wrote a checkpoint, 0 for padded rows; None without a checkpoint."""
    if path is None or not path.is_file():
        return None
    written = torch.load(path, map_location="cpu", weights_only=True)["key"]
    return int(written.partition(PACKED)[2] or 0)


def write(
    path: Path, key: str, parameters: Mapping[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer, rows: list
) -> None:
    """Write what :func:`read` reads: at any instant there is the old checkpoint or the new one."""
    weights = {name: value.detach() for name, value in parameters.items()}
    state = {"key": key, "weights": weights, "optimizer": optimizer.state_dict(), "rows": rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        torch.save(state, file)


def read(
    path: Path | None, key: str, parameters: Mapping[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer
) -> list:
    """Restore parameters and optimizer, and return the rows; none where there is no checkpoint. DataError if it belongs
    to another run."""
    if path is None or not path.is_file():
        return []
    state = torch.load(path, map_location="cpu", weights_only=True)
    if state["key"] != key or state["weights"].keys() != parameters.keys():
        raise DataError(f"{path} is of other examples, another recipe, seed or model", "name another folder")
    with torch.no_grad():
        for name, value in parameters.items():
            value.copy_(state["weights"][name])
    optimizer.load_state_dict(state["optimizer"])
    log.info("tuning goes on after step %d", len(state["rows"]))
    return state["rows"]
