"""Models by name: every error before any work, and nothing loaded that could hold code."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from nngpt_lab.corpora import artifacts
from nngpt_lab.ground.errors import DataError, UsageError
from nngpt_lab.llm import catalogue, models, weights
from nngpt_lab.llm.catalogue import MODELS, memory_gib
from nngpt_lab.llm.models import check, load
from tests.helpers.tiny_model import SIZES, save_tiny

NANO = MODELS["nano-coder"]
PLENTY = 1000.0


@pytest.fixture(autouse=True)
def plenty_of_memory_and_no_network(monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(models, "free_memory_gib", lambda device: PLENTY)
    for name in ("snapshot_download", "get_hf_file_metadata"):
        monkeypatch.setattr(huggingface_hub, name, lambda *a, **k: pytest.fail("the network was used"))


@pytest.fixture
def nothing_is_loaded(monkeypatch):
    import transformers

    def refuse(*args, **options):
        pytest.fail("work was started before the error")

    monkeypatch.setattr(weights, "folder", refuse)
    for name in ("AutoModelForCausalLM", "AutoTokenizer"):
        monkeypatch.setattr(getattr(transformers, name), "from_pretrained", refuse)


# ---------------------------------------------------------------------------------------------------------- the table


@pytest.mark.parametrize("spec", MODELS.values(), ids=MODELS)
def test_every_entry_is_whole(spec):
    assert spec.kind in ("package", "wheel", "hub")
    assert spec.licence and spec.source and 0 < spec.embeddings < spec.parameters
    if spec.kind == "hub":
        assert re.fullmatch(r"[\w-]+/[\w.-]+", spec.location)
        assert spec.revision == "main" or re.fullmatch(r"[0-9a-f]{40}", spec.revision)
    if spec.kind == "wheel":
        assert spec.revision == artifacts.MODEL_WHEELS[spec.location].version
    size = spec.parameters, spec.embeddings
    assert memory_gib(*size, four_bit=True) < memory_gib(*size, "bfloat16") == memory_gib(*size, "float32") / 2


def test_the_papers_model_fits_a_24_gb_device_whole_and_an_8_gb_one_in_4_bits():
    spec = MODELS["DeepSeek-Coder-7B"]
    assert 13 < memory_gib(spec.parameters, spec.embeddings, "bfloat16") < 22
    assert 4 < memory_gib(spec.parameters, spec.embeddings, four_bit=True) < 7


def test_a_model_wheel_is_not_part_of_what_every_demo_downloads():
    assert not artifacts.MODEL_WHEELS.keys() & artifacts.ARTIFACTS.keys()


def test_the_table_needs_neither_torch_nor_transformers():
    code = "import sys; from nngpt_lab.llm.catalogue import MODELS; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "huggingface_hub"} & set(loaded)


# ---------------------------------------------------------------------------------------------- errors before any work


@pytest.mark.usefixtures("nothing_is_loaded")
class TestBeforeAnyWork:
    @pytest.mark.parametrize("act", [check, load])
    def test_an_unknown_name_names_the_nearest(self, act):
        with pytest.raises(UsageError, match="did you mean 'nano-coder'"):
            act("nano-codr")

    def test_a_folder_that_is_not_there_is_an_unknown_name(self, tmp_path):
        with pytest.raises(UsageError, match="there is no model"):
            load(tmp_path / "absent")

    def test_a_folder_without_safetensors_is_refused(self, tmp_path):
        (tmp_path / "config.json").write_text("{}")
        (tmp_path / "pytorch_model.bin").write_bytes(b"a pickle, which can hold code")
        with pytest.raises(UsageError, match=r"safetensors are wanted"):
            load(tmp_path)

    def test_an_adapter_is_not_a_model(self, tmp_path):
        (tmp_path / "adapter_config.json").write_text("{}")
        with pytest.raises(UsageError, match="an adapter"):
            load(tmp_path)

    def test_too_little_memory(self, monkeypatch):
        monkeypatch.setattr(models, "free_memory_gib", lambda device: 8.0)
        with pytest.raises(UsageError, match=r"30\.9 GiB of memory in float32, and cpu has 8\.0 GiB.*(\n.*)*four_bit"):
            load("DeepSeek-Coder-7B")

    def test_a_folder_needs_what_its_files_hold(self, monkeypatch, tmp_path):
        folder = save_tiny(tmp_path)
        total, embeddings = models._count(folder)
        assert embeddings == 2 * SIZES["vocab_size"] * SIZES["hidden_size"]
        monkeypatch.setattr(models, "free_memory_gib", lambda device: catalogue.HEADROOM * total * 4 / 2**30 - 1e-9)
        with pytest.raises(UsageError, match="of memory in float32"):
            load(folder)
        assert check(folder, dtype="bfloat16") == folder

    @pytest.mark.parametrize("device", ["cuda", "cuda:3"])
    def test_cuda_asked_for_but_absent(self, monkeypatch, device):
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
        with pytest.raises(UsageError, match="no CUDA device"):
            load("nano-coder", device)

    def test_a_cuda_device_beyond_the_last(self, monkeypatch):
        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
        monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
        with pytest.raises(UsageError, match="cuda:2 was asked for, and this machine has 2"):
            load("nano-coder", "cuda:2")

    @pytest.mark.parametrize("device", ["tpu", "cuda:first", ""])
    def test_what_is_no_device(self, device):
        with pytest.raises(UsageError, match="not a device"):
            load("nano-coder", device)

    def test_4_bits_need_cuda(self):
        with pytest.raises(UsageError, match="4 bits on cpu"):
            load("nano-coder", four_bit=True)

    def test_4_bits_need_bitsandbytes(self, monkeypatch):
        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
        monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(UsageError, match=r"needs bitsandbytes.*(\n.*)*nngpt-lab\[gpu\]"):
            load("nano-coder", "cuda", four_bit=True)

    @pytest.mark.parametrize("dtype", ["int8", "float64", "torch.float"])
    def test_a_type_that_models_are_not_loaded_in(self, dtype):
        with pytest.raises(UsageError, match="cannot be loaded in"):
            load("nano-coder", dtype=dtype)

    def test_weights_that_were_not_installed(self, monkeypatch, tmp_path):
        monkeypatch.setattr(weights, "package_folder", lambda spec: tmp_path / "absent")
        with pytest.raises(DataError, match="not part of this installation"):
            load("nano-coder")

    def test_a_wheel_that_nothing_here_can_unpack(self, monkeypatch, tmp_path):
        monkeypatch.setenv("NNGPT_LAB_CACHE", str(tmp_path))
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(UsageError, match="needs the package gguf"):
            load("SmolLM2-135M")

    @pytest.mark.parametrize(
        ("damage", "kind", "why"),
        [
            (
                lambda at: (at / "config.json").write_text("<html>"),
                UsageError,
                "no model's configuration",
            ),
            (lambda at: [file.unlink() for file in at.glob("tokenizer*")], UsageError, "holds no tokenizer"),
            (lambda at: (at / "model.safetensors").write_bytes(b"\x09" * 40), DataError, "damaged or cut short"),
        ],
    )
    def test_a_folder_that_is_not_whole(self, tmp_path, damage, kind, why):
        folder = save_tiny(tmp_path)
        damage(folder)
        for act in (check, models.check_files):
            with pytest.raises(kind, match=why):
                act(folder)

    def test_code_that_comes_with_a_model_is_never_run(self, tmp_path):
        folder = save_tiny(tmp_path / "model")
        ran = tmp_path / "ran"
        (folder / "evil.py").write_text(f"open({str(ran)!r}, 'w')\nclass Config: pass\nclass Model: pass\n")
        auto = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
        (folder / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": auto}))
        with pytest.raises(UsageError, match="never run"):
            load(folder)
        assert not ran.exists()


def test_code_beside_a_known_architecture_is_not_run_either(tmp_path):
    folder = save_tiny(tmp_path / "model")
    ran, config = tmp_path / "ran", folder / "config.json"
    (folder / "evil.py").write_text(f"open({str(ran)!r}, 'w')\nclass Config: pass\nclass Model: pass\n")
    auto = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    config.write_text(json.dumps(json.loads(config.read_text()) | {"auto_map": auto}))
    assert type(load(folder).model).__name__ == "LlamaForCausalLM"
    assert not ran.exists()


# ------------------------------------------------------------------------------------------------------------ a folder


def test_a_folder_is_loaded_ready_to_use(tmp_path):
    import torch

    coder = load(str(save_tiny(tmp_path / "tuned")))
    assert (coder.name, coder.device.type, coder.dtype) == ("tuned", "cpu", torch.float32)
    assert not coder.model.training
    assert coder.tokenizer.pad_token_id is not None
    assert load(tmp_path / "tuned", dtype=torch.bfloat16).dtype == torch.bfloat16


def test_the_identity_changes_with_the_weights_and_with_nothing_else(tmp_path):
    first, same, other = (load(save_tiny(tmp_path / str(i) / "m", seed)).identity for i, seed in enumerate((1, 1, 2)))
    assert first == same
    assert first["files"]["tokenizer.json"] == other["files"]["tokenizer.json"]
    assert first["files"]["model.safetensors"] != other["files"]["model.safetensors"]
    json.dumps(first)
    assert load(tmp_path / "0" / "m", dtype="bfloat16").identity == first | {"dtype": "bfloat16"}


def test_only_a_model_with_a_chat_template_can_be_asked(tmp_path):
    from transformers import AutoTokenizer

    folder = save_tiny(tmp_path)
    with pytest.raises(UsageError, match="has no chat template"):
        models.check_template(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = "{{ messages[0].content }}"
    tokenizer.save_pretrained(folder)
    models.check_template(folder)
    models.check_template(weights.package_folder(NANO))
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": "as older releases save it"}))
    models.check_template(folder)


def test_the_nano_coder_is_what_the_table_says():
    if not (weights.package_folder(NANO) / "config.json").is_file():
        pytest.skip("the nano coder has not been pretrained yet: llm/nano_coder is absent")
    coder = load(NANO.name)
    assert coder.model.num_parameters() == NANO.parameters
    assert models._count(weights.package_folder(NANO)) == (NANO.parameters, NANO.embeddings)
    assert coder.tokenizer.chat_template
    assert len(coder.identity["files"]["model.safetensors"]) == 64
