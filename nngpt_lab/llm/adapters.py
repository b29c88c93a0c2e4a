"""LoRA adapters on a loaded model: made, read, written and taken off again, all in peft's own format."""

from __future__ import annotations

import contextlib
import logging
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from nngpt_lab.ground.errors import DataError, UsageError
from nngpt_lab.ground.seeds import derive
from nngpt_lab.llm.models import Coder

if TYPE_CHECKING:
    from nngpt_lab.llm.recipe import Recipe

log = logging.getLogger(__name__)


def add_adapter(coder: Coder, recipe: Recipe, seed: int) -> Coder:
    """A fresh adapter on a model without one: A drawn with ``seed``, B zero, so the model's output is unchanged yet.
    The base's linear layers are wrapped in place: ``coder`` itself is spent until :func:`remove_adapter`. UsageError if
    there is an adapter already, or the model has none of the targets or layers."""
    _check_bare(coder)
    names = {name.rpartition(".")[2] for name, _ in coder.model.named_modules()}
    if missing := sorted(set(recipe.targets) - names):
        raise UsageError(f"{coder.name} has no layers called {', '.join(missing)}", "name its own in Recipe.targets")
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules=sorted(recipe.targets),
        layers_to_transform=_layers(coder, recipe),
        task_type="CAUSAL_LM",
    )
    with quiet(), seeded(coder.device, "adapter", seed):  # torch's initialisers draw from the global generator
        model = get_peft_model(coder.model, config)
    return replace(coder, model=model.eval())


def load_adapter(coder: Coder, folder: str | Path, trainable: bool = True) -> Coder:
    """The adapter that :func:`save_adapter` or peft wrote to ``folder``, on a model without one. DataError if the
    folder holds no adapter in safetensors, UsageError if there is an adapter already."""
    folder = Path(folder)
    _check_bare(coder)
    if not all((folder / name).is_file() for name in ("adapter_config.json", "adapter_model.safetensors")):
        raise DataError(
            f"{folder} holds no adapter: adapter_config.json and adapter_model.safetensors are wanted",
            "name a folder that save_adapter wrote",
        )
    # It is initialised before it is read; the caller's generator stays untouched
    with quiet(), seeded(coder.device, "adapter that is read"):
        model = PeftModel.from_pretrained(
            coder.model,
            str(folder),
            is_trainable=trainable,
            torch_device=str(coder.device),  # else the first card, whatever the model is on
        )
    return replace(coder, model=model.eval())


def save_adapter(coder: Coder, folder: str | Path) -> None:
    """Write the adapter as peft does (``adapter_config.json``, ``adapter_model.safetensors``): whole or not at all."""
    _check_adapted(coder)
    folder, part = Path(folder), Path(f"{folder}.part")
    shutil.rmtree(part, ignore_errors=True)
    config = coder.model.active_peft_config
    config.base_model_name_or_path = coder.name  # else the path of this machine's copy
    coder.model.save_pretrained(str(part), save_embedding_layers=False)  # "auto" would ask the hub
    (part / "README.md").unlink(missing_ok=True)  # peft's form to fill in, with the path of this machine's copy
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


def remove_adapter(coder: Coder) -> Coder:
    """The base without its adapter, which is not merged: weights and module names as they were loaded."""
    _check_adapted(coder)
    return replace(coder, model=coder.model.unload().eval())


def _layers(coder: Coder, recipe: Recipe) -> list[int] | None:
    if recipe.layers is None:
        return None
    count = coder.model.config.num_hidden_layers
    layers = sorted(layer for layer in set(recipe.layers) if 0 <= layer < count)
    if not layers:
        raise UsageError(f"{coder.name} has layers 0 to {count - 1}, the recipe none of them", "set Recipe.layers")
    if len(layers) < len(set(recipe.layers)):
        log.info("%s has %d layers; the recipe's others are left out", coder.name, count)
    return layers


def is_adapted(coder: Coder) -> bool:
    return isinstance(coder.model, PeftModel)


def _check_bare(coder: Coder) -> None:
    if coder.model is None:
        cure = "name its weights, too (?weights=FOLDER), or take a model's name, folder or GGUF file"
        raise UsageError(f"{coder.name} is on a server: it cannot be tuned here", cure)
    if is_adapted(coder):
        raise UsageError(f"{coder.name} has an adapter already", "take it off with remove_adapter")
    if hasattr(coder.model, "peft_config"):
        raise UsageError(
            f"this Coder of {coder.name} was given an adapter, which another Coder now holds",
            "go on with what add_adapter, load_adapter or remove_adapter returned",
        )


def _check_adapted(coder: Coder) -> None:
    if not is_adapted(coder):
        raise UsageError(f"{coder.name} has no adapter", "give it one with add_adapter or load_adapter")


@contextlib.contextmanager
def seeded(device: torch.device, *key: int | str) -> Iterator[None]:
    """Torch's global generators seeded by a key within, and afterwards as before."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(derive(*key))
        yield


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' notes that gradient checkpointing will get another name: peft uses the old one as well."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`\\w*gradient_checkpointing\\w*` is deprecated", FutureWarning)
        yield
