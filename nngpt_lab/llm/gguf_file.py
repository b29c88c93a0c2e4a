"""GGUF, llama.cpp's file format: what a file says of itself, and unpacking it into an ordinary folder.

Read by the format's published description (ggml, docs/gguf.md). The gguf package's own reader takes ten seconds for a
vocabulary of 150,000 tokens, and each of transformers' last versions makes another tokenizer of the same file; here all
make the same one.
"""

from __future__ import annotations

import functools
import logging
import mmap
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nngpt_lab.ground.errors import DataError, UsageError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

log = logging.getLogger(__name__)

ARCHITECTURES = ("llama", "qwen2", "qwen3")
NUMBERS = {**dict(enumerate("BbHhIif?")), 10: "Q", 11: "q", 12: "d"}  # the format's types, as struct names them
TEXT, ARRAY = 8, 9
ROLES = {"bos": "bos", "eos": "eos", "padding": "pad", "unknown": "unk"}  # of tokens: the file's name and transformers'
CONTROL, USER_DEFINED, UNUSED = 3, 4, 5  # types of tokens
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class GgufFile:
    """What a file says of itself: metadata by key (arrays are lists), and of each tensor its shape (as torch has it),
    the number of its type, and its first byte in the file."""

    path: Path
    about: dict[str, Any]
    tensors: dict[str, tuple[tuple[int, ...], int, int]]

    @property
    def architecture(self) -> str:
        return self.about.get("general.architecture", "")

    def own(self, key: str, default: Any = None) -> Any:
        """A value of the architecture's own: ``own("block_count")``."""
        return self.about.get(f"{self.architecture}.{key}", default)

    def token(self, role: str) -> int | None:
        """Number of the token of a role: bos, eos, eot, padding, unknown."""
        return self.about.get(f"tokenizer.ggml.{role}_token_id")

    def identity(self) -> dict[str, str | None]:
        """What names the model: its name, its architecture, and how its weights were packed."""
        import gguf

        packed = self.about.get("general.file_type")
        known = [kind.name for kind in gguf.LlamaFileType if kind == packed]
        name = self.about.get("general.name")
        return {"name": name, "architecture": self.architecture, "file_type": known[0] if known else str(packed)}

    def count(self) -> tuple[int, int]:
        """How many weights it holds, and how many of them are embeddings."""
        sizes = {name: prod(shape) for name, (shape, _, _) in self.tensors.items()}
        return sum(sizes.values()), sizes.get("token_embd.weight", 0) + sizes.get("output.weight", 0)


def read(path: Path) -> GgufFile:
    """What a file says of itself, checked. UsageError: not GGUF, or an architecture or scaled positions that cannot be
    unpacked here; DataError: cut short."""
    state = path.stat()
    return _read(path.resolve(), state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _read(path: Path, size: int, _changed: int) -> GgufFile:
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise UsageError(f"{path} is not a GGUF file", "give the .gguf file itself; a download page is not one")
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                found, end = _parse(path, _Cursor(data, 4))
        except (struct.error, KeyError, ValueError, OverflowError, MemoryError) as error:
            raise _cut(path) from error
    if end > size:
        raise _cut(path)
    if found.architecture not in ARCHITECTURES:
        cause = f"{path} holds a model of architecture {found.architecture!r}, which is not unpacked here"
        raise UsageError(cause, f"use one of {', '.join(ARCHITECTURES)}; or load it as a folder of safetensors")
    if found.own("rope.scaling.type", "none") not in ("none", "linear") or "rope_freqs.weight" in found.tensors:
        cause = f"{path} scales its positions in a way that is not unpacked here (only linearly is)"
        raise UsageError(cause, "load the model as a folder of safetensors")
    return found


def _cut(path: Path) -> DataError:
    return DataError(f"{path} is damaged or cut short", "copy it again, and compare its SHA-256 with the original's")


class _Cursor:
    """A place in the file, and what stands there; little-endian, as all versions of the format from 2 on."""

    def __init__(self, data: mmap.mmap, place: int):
        self.data, self.place = data, place

    def numbers(self, kind: str, count: int = 1) -> tuple:
        form = f"<{count}{kind}"
        values = struct.unpack_from(form, self.data, self.place)
        self.place += struct.calcsize(form)
        return values

    def text(self) -> str:
        (length,) = self.numbers("Q")
        (written,) = self.numbers("s", length)
        return written.decode("utf-8", "replace")

    def value(self, kind: int) -> Any:
        if kind == TEXT:
            return self.text()
        if kind == ARRAY:
            (of,), (count,) = self.numbers("I"), self.numbers("Q")
            return list(self.numbers(NUMBERS[of], count)) if of in NUMBERS else [self.value(of) for _ in range(count)]
        return self.numbers(NUMBERS[kind])[0]


def _parse(path: Path, cursor: _Cursor) -> tuple[GgufFile, int]:
    """The file's facts, and how many bytes it must have."""
    import gguf

    (version,), (tensors, values) = cursor.numbers("I"), cursor.numbers("Q", 2)
    if not 2 <= version <= 3:
        raise UsageError(f"{path} is of version {version} of GGUF", "convert it anew with a llama.cpp of today")
    about = {}
    for _ in range(values):
        key = cursor.text()
        about[key] = cursor.value(*cursor.numbers("I"))
    placed = {}
    for _ in range(tensors):
        name = cursor.text()
        shape = cursor.numbers("Q", *cursor.numbers("I"))
        placed[name] = (shape[::-1], *cursor.numbers("I"), *cursor.numbers("Q"))
    alignment = about.get("general.alignment", 32)
    start = -(-cursor.place // alignment) * alignment
    placed = {name: (shape, kind, start + offset) for name, (shape, kind, offset) in placed.items()}
    return GgufFile(path, about, placed), max(first + _bytes(gguf, *rest) for *rest, first in placed.values())


def _bytes(gguf: Any, shape: tuple[int, ...], kind: int) -> int:
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)]
    return prod(shape) // block * size


# ---------------------------------------------------------------------------------------------------------- unpacking


def check(path: Path) -> None:
    """Raise the error that ``unpack`` would."""
    file = read(path)
    tensor_names(file, configuration(file))
    if missing := {"tokenizer.ggml.model", "tokenizer.ggml.tokens"} - file.about.keys():
        raise UsageError(f"{path} lacks {min(missing)}, and so a tokenizer", "take a file that a chat model came in")


def unpack(path: Path, target: Path, dtype: torch.dtype) -> None:
    """Write the model in a GGUF file as an ordinary folder: safetensors of that type, configuration and tokenizer. An
    answer ends at the file's end token, its end of a turn, or its padding (as Qwen's own generation_config has it)."""
    from safetensors.torch import save_file
    from transformers import GenerationConfig

    file = read(path)
    config, words = configuration(file), tokenizer(file)  # what may fail before what takes long
    config.dtype = dtype
    target.mkdir()
    weights = {theirs: _weight(file, own, dtype) for own, theirs in tensor_names(file, config).items()}
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(target)
    bos, eos, eot, pad = (file.token(role) for role in ("bos", "eos", "eot", "padding"))
    ends = sorted({end for end in (eos, eot, pad) if end is not None})
    GenerationConfig(bos_token_id=bos, eos_token_id=ends, pad_token_id=pad).save_pretrained(target)
    words.save_pretrained(target)


def configuration(file: GgufFile) -> PreTrainedConfig:
    """The model's configuration, as transformers has it."""
    from transformers import AutoConfig

    values = {
        "vocab_size": file.tensors["token_embd.weight"][0][0],
        "hidden_size": file.own("embedding_length"),
        "intermediate_size": file.own("feed_forward_length"),
        "num_hidden_layers": file.own("block_count"),
        "num_attention_heads": file.own("attention.head_count"),
        "num_key_value_heads": file.own("attention.head_count_kv", file.own("attention.head_count")),
        "max_position_embeddings": file.own("context_length"),
        "rms_norm_eps": file.own("attention.layer_norm_rms_epsilon"),
        "rope_theta": file.own("rope.freq_base", 10_000.0),
        "tie_word_embeddings": "output.weight" not in file.tensors,
    }
    if head := file.own("attention.key_length"):
        values["head_dim"] = head
    if file.own("rope.scaling.type", "none") == "linear":
        values["rope_scaling"] = {"rope_type": "linear", "factor": file.own("rope.scaling.factor")}
    ids = {f"{ours}_token_id": file.token(role) for role, ours in ROLES.items() if ours != "unk"}
    return AutoConfig.for_model(file.architecture, **values, **ids)


def tensor_names(file: GgufFile, config: PreTrainedConfig) -> dict[str, str]:
    """The file's name of each tensor -> transformers' name; an error if the two do not cover one another."""
    import gguf
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    config.architectures = [type(model).__name__]
    kind = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == file.architecture)
    known = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
    names = {known.get_name(name, (".weight", ".bias")) or name: name for name in model.state_dict()}
    if config.tie_word_embeddings:
        del names["output.weight"]
    if wrong := sorted(names.keys() ^ file.tensors.keys()):
        cause = f"{file.path} is no {file.architecture} that transformers knows: {', '.join(wrong[:3])}"
        raise UsageError(cause, "load the model as a folder of safetensors")
    return names


def _weight(file: GgufFile, name: str, dtype: torch.dtype) -> torch.Tensor:
    import gguf
    import numpy as np
    import torch

    shape, kind, first = file.tensors[name]
    packed = np.memmap(file.path, np.uint8, "r", first, (_bytes(gguf, shape, kind),))
    rows = gguf.quants.dequantize(packed.reshape(*shape[:-1], -1), gguf.GGMLQuantizationType(kind))
    weight = torch.from_numpy(np.array(rows, np.float32)).to(dtype)
    heads = {"attn_q": "attention.head_count", "attn_k": "attention.head_count_kv"}.get(name.split(".")[-2])
    if heads and file.architecture == "llama":  # there the two halves of each head are interleaved
        weight = weight.unflatten(0, (file.own(heads, file.own("attention.head_count")), -1, 2)).transpose(1, 2)
        weight = weight.flatten(0, 2).contiguous()
    return weight


def tokenizer(file: GgufFile) -> PreTrainedTokenizerBase:
    """The file's tokenizer, with its chat template and special tokens."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    about, pre = file.about, file.about.get("tokenizer.ggml.pre", "default")
    words = about["tokenizer.ggml.tokens"]
    special = {f"{ours}_token": words[file.token(role)] for role, ours in ROLES.items() if file.token(role) is not None}
    if about["tokenizer.ggml.model"] == "gpt2" and pre in ("smollm", "qwen2"):
        backend = _byte_level(about, pre)
    else:
        log.info("%s splits text as %r does: its tokenizer is what transformers makes of it", file.path.name, pre)
        made = AutoTokenizer.from_pretrained(file.path.parent, gguf_file=file.path.name)
        backend = made.backend_tokenizer
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=about.get("tokenizer.chat_template"),
        model_max_length=file.own("context_length"),
        clean_up_tokenization_spaces=False,
        **special,
    )


def _byte_level(about: dict[str, Any], pre: str) -> Any:
    """Byte-pair encoding of bytes, split first as the published tokenizers do (their tokenizer.json)."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    words = about["tokenizer.ggml.tokens"]
    kinds = about.get("tokenizer.ggml.token_type") or [1] * len(words)
    vocabulary = {word: i for i, (word, kind) in enumerate(zip(words, kinds, strict=True)) if kind != UNUSED}
    merges = [tuple(merge.split(" ")) for merge in about["tokenizer.ggml.merges"]]
    backend = Tokenizer(models.BPE(vocabulary, merges))
    level = pre_tokenizers.ByteLevel
    if pre == "qwen2":
        backend.normalizer = normalizers.NFC()
        split = pre_tokenizers.Split(Regex(QWEN2_SPLIT), "isolated")
        backend.pre_tokenizer = pre_tokenizers.Sequence([split, level(add_prefix_space=False, use_regex=False)])
    else:
        digits = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, level(add_prefix_space=False)])
    backend.decoder = decoders.ByteLevel()
    for kind, add in ((CONTROL, backend.add_special_tokens), (USER_DEFINED, backend.add_tokens)):
        add([AddedToken(word, normalized=False) for word, own in zip(words, kinds, strict=True) if own == kind])
    return backend
