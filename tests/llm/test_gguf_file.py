"""GGUF files: the model that comes out is the one that went in; what cannot be unpacked is told before any work."""

from __future__ import annotations

import logging
import shutil
import socket
from dataclasses import replace

import numpy as np
import pytest
import torch

from nngpt_lab.ground.errors import DataError, LabError, UsageError
from nngpt_lab.llm import gguf_file, models, prompts
from nngpt_lab.llm.decoding import end_tokens
from nngpt_lab.llm.models import check, load
from tests.helpers.tiny_gguf import WORDS, tiny_model, write_gguf

gguf = pytest.importorskip("gguf", reason="gguf is not installed: nothing can be unpacked here")

IDS = torch.tensor([[1, 40, 17, 3, 3, 29, 11, 8, 50, 2]])
MESSAGES = [{"role": "user", "content": "ab  12"}]


@pytest.fixture(autouse=True)
def own_cache_and_plenty_of_memory(monkeypatch, tmp_path):
    monkeypatch.setenv("NNGPT_LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(models, "free_memory_gib", lambda device: 1000.0)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny-q.gguf", tiny_model("Qwen2"))


@torch.inference_mode()
def logits(model):
    return model(IDS).logits


@pytest.mark.parametrize(
    ("kind", "settings", "more"),
    [
        ("Llama", {}, {}),
        ("Llama", {"tie_word_embeddings": True}, {}),
        ("Llama", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
         {"rope_scaling_type": gguf.RopeScalingType.LINEAR, "rope_scaling_factor": 4.0}),
        ("Qwen2", {"tie_word_embeddings": True}, {}),
        ("Qwen2", {"rms_norm_eps": 0.01}, {}),
        ("Qwen3", {"head_dim": 16}, {"key_length": 16, "value_length": 16}),
    ],
)  # fmt: skip
def test_the_logits_are_those_of_the_model_that_was_packed(tmp_path, kind, settings, more):
    model = tiny_model(kind, **settings)
    coder = load(write_gguf(tmp_path / "tiny.gguf", model, **more))
    assert type(coder.model) is type(model)
    assert torch.equal(logits(coder.model), logits(model))
    assert coder.model.num_parameters() == model.num_parameters() == models._count(tmp_path / "tiny.gguf")[0]


@pytest.mark.parametrize("packed", ["F16", "BF16", "Q8_0", "Q4_0"])
def test_packed_weights_become_what_the_gguf_package_makes_of_them(tmp_path, packed):
    model, kind = tiny_model("Llama"), gguf.GGMLQuantizationType[packed]
    unpacked = load(write_gguf(tmp_path / "tiny.gguf", model, packed=packed)).model.state_dict()
    for name, tensor in model.state_dict().items():
        again = tensor.numpy()
        if again.ndim == 2:
            again = gguf.quants.dequantize(gguf.quants.quantize(again, kind), kind)
        np.testing.assert_array_equal(unpacked[name].numpy(), again)


def test_the_tokenizer_is_the_files_own(tiny):
    coder = load(tiny)
    tokenizer = coder.tokenizer
    assert [tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token] == [
        "<|endoftext|>", "<|im_end|>", "<|endoftext|>"]  # fmt: skip
    assert tokenizer.tokenize("ab  12<tool><|im_start|>cd") == [
        "ab", "Ġ", "Ġ", "1", "2", "<tool>", "<|im_start|>", "cd"]  # fmt: skip
    assert len(tokenizer) == len(WORDS) - 1  # what stands for nothing is no token
    ids = prompts.encode(tokenizer, MESSAGES)
    assert tokenizer.decode(ids) == "<|im_start|>user\nab  12<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(ids, skip_special_tokens=True) == "user\nab  12\nassistant\n"
    assert end_tokens(coder) == {WORDS.index("<|im_end|>"), WORDS.index("<|endoftext|>")}


@pytest.mark.parametrize(("pre", "pieces"), [("qwen2", ["Ġ", "Ġab", "Ġ", "1"]), ("smollm", ["Ġ", "Ġab", "Ġ", "1"])])
def test_text_is_split_as_the_model_knows_it(pre, pieces):
    about = {"tokenizer.ggml.tokens": WORDS, "tokenizer.ggml.merges": []}
    split = gguf_file._byte_level(about, pre).pre_tokenizer.pre_tokenize_str
    assert [piece for piece, _ in split("  ab 12")][:4] == pieces
    told = [piece for piece, _ in split("x=y:\n\n  z")]
    assert told == {"qwen2": ["x", "=y", ":ĊĊ", "Ġ", "Ġz"], "smollm": ["x", "=", "y", ":", "ĊĊĠ", "Ġz"]}[pre]


@pytest.mark.transformers_warns  # transformers 4 says of every such tokenizer that it keeps its "legacy" behaviour
def test_an_unknown_way_to_split_is_left_to_transformers(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "nngpt_lab"):
        coder = load(write_gguf(tmp_path / "tiny.gguf", tiny_model("Llama"), pre="llama-bpe"))
    assert "'llama-bpe'" in caplog.text
    assert coder.tokenizer.decode(prompts.encode(coder.tokenizer, MESSAGES)).endswith("<|im_start|>assistant\n")


def test_a_file_is_unpacked_once_for_each_type_and_told_by_its_contents(tiny, monkeypatch, tmp_path):
    unpacked, unpack = [], gguf_file.unpack
    monkeypatch.setattr(gguf_file, "unpack", lambda *given: (unpacked.append(given), unpack(*given)))
    first, again, half = load(tiny), load(str(tiny)), load(tiny, dtype="bfloat16")
    assert len(unpacked) == 2
    assert first.identity == again.identity == half.identity | {"dtype": "float32"}
    assert half.dtype == torch.bfloat16
    assert (first.name, first.identity["source"], len(first.identity["sha256"])) == ("tiny-q", "gguf", 64)
    assert first.identity["gguf"] == {"name": "Tiny", "architecture": "qwen2", "file_type": "ALL_F32"}
    other = load(write_gguf(tmp_path / "tiny-q.gguf", tiny_model("Llama"))).identity
    assert other["sha256"] != first.identity["sha256"] and len(unpacked) == 3


def test_nothing_is_asked_of_the_network(tiny, monkeypatch):
    def refuse(*_):
        pytest.fail("a connection was opened")

    for name in ("connect", "connect_ex", "bind", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    coder = load(tiny)
    folder = tiny.with_name("folder")
    coder.model.save_pretrained(folder)
    coder.tokenizer.save_pretrained(folder)
    assert torch.equal(logits(load(folder).model), logits(coder.model))


class TestBeforeAnyWork:
    @pytest.fixture(autouse=True)
    def nothing_is_unpacked(self, monkeypatch):
        monkeypatch.setattr(gguf_file, "unpack", lambda *given: pytest.fail("work was started before the error"))

    def test_a_file_of_another_kind(self, tmp_path):
        (tmp_path / "page.gguf").write_text("<html>not found</html>")
        with pytest.raises(UsageError, match="is not a GGUF file"):
            check(tmp_path / "page.gguf")

    def test_an_architecture_that_is_not_known(self, tmp_path):
        writer = gguf.GGUFWriter(tmp_path / "other.gguf", "mamba")
        writer.add_tensor("token_embd.weight", np.zeros((2, 32), np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        with pytest.raises(UsageError, match=r"'mamba'.*(\n.*)*llama, qwen2, qwen3"):
            load(tmp_path / "other.gguf")

    def test_positions_scaled_in_another_way(self, tmp_path):
        more = {"rope_scaling_type": gguf.RopeScalingType.YARN, "rope_scaling_factor": 4.0}
        with pytest.raises(UsageError, match="scales its positions"):
            load(write_gguf(tmp_path / "yarn.gguf", tiny_model("Llama"), **more))

    def test_tensors_that_the_architecture_does_not_have(self, tmp_path):
        with pytest.raises(UsageError, match=r"no llama that transformers knows: blk\.0\.attn_k\.bias"):
            load(write_gguf(tmp_path / "biased.gguf", tiny_model("Llama", attention_bias=True)))

    @pytest.mark.parametrize("key", ["tokenizer.ggml.tokens", "tokenizer.ggml.model"])
    def test_a_file_without_a_tokenizer(self, tiny, monkeypatch, key):
        whole = gguf_file.read(tiny)
        about = {name: value for name, value in whole.about.items() if name != key}
        monkeypatch.setattr(gguf_file, "read", lambda path: replace(whole, about=about))
        with pytest.raises(UsageError, match=f"lacks {key}"):
            check(tiny)

    def test_a_file_that_is_cut_short_anywhere(self, tiny, tmp_path):
        whole, cut = tiny.read_bytes(), tmp_path / "cut.gguf"
        for length in np.random.default_rng(0).integers(0, len(whole), 60):
            cut.write_bytes(whole[:length])
            with pytest.raises(LabError):
                check(cut)
        cut.write_bytes(whole[:-1])
        with pytest.raises(DataError, match="cut short"):
            check(cut)

    def test_a_disk_without_room(self, tiny, monkeypatch):
        monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 0))
        with pytest.raises(DataError, match=r"unpacking into tiny-q\S+ needs"):
            load(tiny)

    def test_no_package_to_unpack_with(self, tiny, monkeypatch):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(UsageError, match="needs the package gguf"):
            load(tiny)
