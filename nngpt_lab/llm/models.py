"""Language models by name: what each one is, whether it can be loaded here, and loading it.

    coder = load("nano-coder")
    coder = load("DeepSeek-Coder-7B", "cuda", four_bit=True)
    coder = load("my/tuned/folder")                              # what save_pretrained wrote
    coder = load("qwen2.5-coder-0.5b-instruct-q4_k_m.gguf")      # unpacked into the cache, once
    coder = load("local/qwen@http://127.0.0.1:8000/v1")          # a server's (server_engine.py): it writes, no more

Everything that can be known to go wrong is said before any work starts: an unknown name, too little memory, a model
that is neither here nor to be had, a gated one. No code that comes with a model is ever run (``trust_remote_code`` is
off), and weights are read from safetensors or GGUF only, which cannot hold code.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nngpt_lab.ground.errors import DataError, UsageError
from nngpt_lab.ground.names import did_you_mean
from nngpt_lab.llm import gguf_file, server_engine, weights
from nngpt_lab.llm.catalogue import BYTES, GIB, MODELS, ModelSpec, memory_gib
from nngpt_lab.llm.server_engine import Server

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SAVED = "save it with save_pretrained (which writes safetensors)"
TOKENIZERS = ("tokenizer", "vocab", "tekken")  # how the names of a tokenizer's files begin


@dataclass(frozen=True)
class Coder:
    """A loaded causal language model.

    Attributes:
        model: in eval mode, on ``device``.
        tokenizer: with a pad token; callers pad for themselves, its padding side means nothing.
        name: of its spec, of its folder, of its GGUF file without the ending, or as its server calls it.
        identity: what a manifest needs to tell two models apart: name, source, revision (wheel version or hub
            commit), licence, dtype, and SHA-256 of the files where no commit pins them; a GGUF file's own metadata.
        server: writes its texts instead of ``model``. Model and tokenizer are None then, unless the server's name says
            where the same weights are on this machine.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    identity: dict[str, Any]
    server: Server | None = None

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype


def check(
    name_or_folder: str | Path,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype | None = None,
    four_bit: bool = False,
) -> ModelSpec | Path | Server:
    """Whether a model can be loaded: what it is, or the error that ``load`` would raise, before any work.

    Arguments are those of :func:`load`. A model that is not here yet has the hub asked whether it may be had; nothing
    is downloaded.

    Raises:
        UsageError: unknown name, not a model's folder or GGUF file, CUDA asked for but absent, 4-bit where it cannot
            be, a part not installed, too little memory.
        DataError: not in the hub's cache and the hub cannot be reached or does not have it, or gated; a GGUF file
            that is cut short; a server that does not answer.
    """
    model = find(name_or_folder)
    if isinstance(model, Server):
        model.check()
        if model.weights:
            check(model.weights, device, dtype, four_bit)
        return model
    _check_device(str(device), four_bit)
    name = dtype_name(dtype, str(device))
    counts = size(model)
    needed, spare = memory_gib(*counts, name, four_bit), memory_gib(*counts, four_bit=True)
    free = free_memory_gib(str(device))
    if needed > free:
        smaller = f"load it with four_bit=True ({spare:.1f} GiB, on CUDA), " if not four_bit else ""
        raise UsageError(
            f"{name_or_folder} needs {needed:.1f} GiB of memory in {'4 bits' if four_bit else name}, and {device} has "
            f"{free:.1f} GiB free",
            f"{smaller}end what else uses the memory, or take a smaller model",
        )
    if isinstance(model, ModelSpec):
        weights.check(model)
    else:
        check_files(model)
    return model


def load(
    name_or_folder: str | Path,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype | None = None,
    four_bit: bool = False,
) -> Coder:
    """Load a model, fetching it first if need be.

    Args:
        name_or_folder: a name of :data:`MODELS`, a folder that ``save_pretrained`` wrote, a GGUF file, or a served
            model (:mod:`server_engine`).
        device: ``cpu``, ``cuda`` or ``cuda:<n>``.
        dtype: ``float32``, ``bfloat16`` or ``float16``; by default float32 on the CPU and bfloat16 on CUDA (float16
            where the device has no bfloat16).
        four_bit: the papers' quantisation (NF4, double, computing in bfloat16); CUDA and the extra ``gpu``.

    Raises:
        UsageError, DataError: see :func:`check`; before any work.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    source = check(name_or_folder, device, dtype, four_bit)
    if isinstance(source, Server):
        own = load(source.weights, device, dtype, four_bit) if source.weights else Coder(None, None, "", {})
        identity = source.identity() | {"weights": own.identity or None}
        return replace(own, name=source.model, identity=identity, server=source)
    kind = dtype_name(dtype, str(device))
    folder = weights.folder(source, kind)
    options: dict[str, Any] = {"dtype": getattr(torch, kind), "use_safetensors": True}
    if four_bit:
        options["device_map"] = {"": str(device)}
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    with without_bars():
        model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False, local_files_only=True, **options)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model = (model if four_bit else model.to(device)).eval()
    identity = weights.identity(source, folder) | {"dtype": "nf4" if four_bit else kind}
    return Coder(model, tokenizer, identity["name"], identity)


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """No bar for reading or writing weights: in a notebook it would be kept as the cell's output."""
    from transformers.utils import logging as bars

    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()


def dtype_name(dtype: str | torch.dtype | None, device: str) -> str:
    """``float32``, ``bfloat16`` or ``float16``, as asked or as suits the device."""
    if dtype is None and not device.startswith("cuda"):
        return "float32"
    if dtype is None:
        import torch

        return "bfloat16" if torch.cuda.get_device_capability(device)[0] >= 8 else "float16"
    name = str(dtype).removeprefix("torch.")
    if name not in BYTES:
        raise UsageError(f"a model cannot be loaded in {name!r}", f"use one of {', '.join(BYTES)}")
    return name


def size(model: ModelSpec | Path | Server) -> tuple[int, int]:
    """Weights of what :func:`check` found, and how many are embeddings; of a server's, those on this machine."""
    if isinstance(model, Server):
        return size(find(model.weights))
    return (model.parameters, model.embeddings) if isinstance(model, ModelSpec) else _count(model)


def free_memory_gib(device: str) -> float:
    """Memory that a model could take on the device now, GiB."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.mem_get_info(device)[0] / GIB
    import psutil

    return psutil.virtual_memory().available / GIB


# ------------------------------------------------------------------------------------------------- before any work


def find(name_or_folder: str | Path) -> ModelSpec | Path | Server:
    """What a name stands for; a UsageError if it stands for nothing. Neither hub nor server is asked."""
    name, folder = str(name_or_folder), Path(name_or_folder).expanduser()
    if isinstance(name_or_folder, str) and name in MODELS:
        return MODELS[name]
    if isinstance(name_or_folder, str) and (server := server_engine.parse(name)):
        return server
    if folder.is_file() and folder.suffix.lower() == ".gguf":
        weights.require_gguf(name)
        return folder
    if not folder.is_dir():
        if "," in name:
            raise UsageError(f"one model is wanted here, and {name!r} names several", "run it once for each")
        others = f"a model's folder or .gguf file, or {server_engine.FORM}"
        cure = f"{did_you_mean(name, MODELS)}use one of {', '.join(MODELS)}, {others}"
        raise UsageError(f"there is no model {name!r}", cure)
    if (folder / "adapter_config.json").is_file():
        raise UsageError(f"{folder} holds an adapter, not a model", "load its base model, then adapters.load_adapter")
    if not (folder / "config.json").is_file() or not list(folder.glob("*.safetensors")):
        raise UsageError(
            f"{folder} holds no model that can be loaded safely: config.json and *.safetensors are wanted",
            SAVED,
        )
    return folder


def _check_device(device: str, four_bit: bool) -> None:
    kind, _, index = device.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()):
        raise UsageError(f"{device!r} is not a device that models are loaded on", "use cpu, cuda or cuda:<n>")
    if four_bit and kind != "cuda":
        raise UsageError(f"a model cannot be loaded in 4 bits on {device}", "use a CUDA device, or four_bit=False")
    if kind == "cuda":
        import torch

        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(index or 0) >= count:
            here = f"this machine has {count}" if count else "torch finds no CUDA device here"
            raise UsageError(f"{device} was asked for, and {here}", "use cpu, or look at `nngpt-lab doctor`")
    if four_bit and importlib.util.find_spec("bitsandbytes") is None:
        raise UsageError("loading in 4 bits needs bitsandbytes", "pip install 'nngpt-lab[gpu]' (Linux)")


def check_files(place: Path) -> None:
    """UsageError or DataError if a model's folder or GGUF file cannot be loaded, as far as its headers tell."""
    if place.is_dir():
        _check_folder(place)
        _count(place)
    else:
        gguf_file.check(place)


def check_template(place: Path) -> None:
    """UsageError if the model in a folder or GGUF file cannot be asked: its files hold no chat template."""
    if place.is_dir():
        configs = (file.read_text("utf-8", "replace") for file in place.glob("tokenizer_config.json"))
        there = any(place.glob("chat_template.*")) or any('"chat_template"' in text for text in configs)
    else:
        there = "tokenizer.chat_template" in gguf_file.read(place).about
    if not there:
        cure = "use a model tuned to follow instructions, or save its tokenizer with a chat_template"
        raise UsageError(f"{place} has no chat template, so that nothing can be asked of it", cure)


def _check_folder(folder: Path) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as KNOWN

    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError) as error:
        raise UsageError(f"{folder / 'config.json'} is no model's configuration: {error}", SAVED) from error
    if kind not in KNOWN:
        raise UsageError(
            f"{folder} holds a model of type {kind!r}, which transformers has no language model for",
            "code that comes with a model is never run; use a model of a type that transformers knows",
        )
    if not any(file.name.startswith(TOKENIZERS) or file.suffix == ".model" for file in folder.iterdir()):
        raise UsageError(f"{folder} holds no tokenizer", "save the model's there, too, with its save_pretrained")


def _count(folder: Path) -> tuple[int, int]:
    """How many weights a folder or GGUF file holds, and how many of them are embeddings; only headers are read."""
    from safetensors import SafetensorError, safe_open

    if folder.is_file():
        return gguf_file.read(folder).count()
    total = embeddings = 0
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, "pt") as tensors:
                shapes = {key: tensors.get_slice(key).get_shape() for key in tensors.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise DataError(f"{file} is damaged or cut short: {error}", "copy it again and compare hashes") from error
        sizes = {key: prod(shape) for key, shape in shapes.items()}
        total += sum(sizes.values())
        embeddings += sum(size for key, size in sizes.items() if "embed" in key or "lm_head" in key)
    return total, embeddings


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """For a small model on a CPU a second thread gains little on an idle machine and costs much on a busy one; and the
    number of threads moves the last digits, so that texts would depend on the machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
