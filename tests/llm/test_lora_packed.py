"""LoRA with a step's examples in one row: the same losses and gradients as in padded rows, and what a GPU needs."""

from __future__ import annotations

import itertools
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from nngpt_lab.ground.errors import DataError, LabError, UsageError
from nngpt_lab.llm import adapters, checkpoint, lora, passes
from nngpt_lab.llm.catalogue import GIB, MODELS
from nngpt_lab.llm.models import Coder
from nngpt_lab.llm.recipe import Recipe
from nngpt_lab.papers.architecture_loop import design as paper_b
from nngpt_lab.study import lab
from tests.helpers.lora_coders import (  # noqa: F401
    CPU,
    EXAMPLES,
    RECIPE,
    STILL,
    draw,
    gradient,
    one_thread,
    same,
    sum_of,
    weights,
)

CUDA = torch.device("cuda")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
SHAPE = {
    "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "max_position_embeddings": 128, "tie_word_embeddings": True, "pad_token_id": 0,
    "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
WINDOW = 6  # shorter than most examples
MODELS_BY_KIND = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=WINDOW)),
    "gemma3": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(
            **SHAPE, head_dim=8, sliding_window=WINDOW,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        )
    ),
    "qwen2": lambda: Qwen2ForCausalLM(
        Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1)
    ),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=8)),
}  # fmt: skip


def adapted(kind: str = "llama", recipe: Recipe = STILL, dtype=torch.float32, device=CPU, make=None) -> Coder:
    """A small model of a kind whose adapter does something."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = (make or MODELS_BY_KIND[kind])().to(device, dtype).eval()
        model.get_input_embeddings().weight.data.mul_(20)
        coder = adapters.add_adapter(Coder(model, None, kind, {}), recipe, 0)
        for name, value in coder.model.named_parameters():
            if "lora_B" in name:
                value.data.normal_(0, 0.1)
    return coder


def packed_sum(coder: Coder, batch) -> torch.Tensor:
    decoder, head = lora.decoder_and_head(coder)
    with passes.attention_within_examples(decoder):
        return lora.loss_sum(decoder, head, batch, 1, coder.device, packed=True)


# --- the same loss ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MODELS_BY_KIND)
def test_loss_and_every_gradient_are_those_of_padded_rows(kind):
    coder = adapted(kind, dtype=torch.float64)
    for value in lora._trainable(coder).values():
        value.data = value.data.double()
    padded, packed = sum_of(coder, EXAMPLES), packed_sum(coder, EXAMPLES)
    torch.testing.assert_close(packed, padded, rtol=1e-6, atol=0)  # cross-entropy itself is in float32
    expected = gradient(coder, padded)
    assert float(expected.abs().max()) > 1
    torch.testing.assert_close(gradient(coder, packed), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", MODELS_BY_KIND)
def test_an_example_has_the_same_loss_alone_and_packed(kind):
    coder = adapted(kind)
    alone = [sum_of(coder, [example]).item() for example in EXAMPLES]
    assert packed_sum(coder, EXAMPLES).item() == pytest.approx(sum(alone), rel=1e-6)
    for k in range(len(EXAMPLES)):  # other texts before and after it, of the same lengths
        others = [replace(e, ids=tuple(1 + (t + 5) % 63 for t in e.ids)) for e in EXAMPLES]
        rest = sum(sum_of(coder, [e]).item() for e in others[:k] + others[k + 1 :])
        others[k] = EXAMPLES[k]
        assert packed_sum(coder, others).item() - rest == pytest.approx(alone[k], rel=1e-5, abs=1e-3)


@pytest.mark.parametrize("kind", ["mistral", "gemma3", "qwen2"])
def test_a_window_matters_in_these_tests(kind, monkeypatch):
    coder, real = adapted(kind), passes._by_example
    expected = packed_sum(coder, EXAMPLES).item()
    monkeypatch.setattr(passes, "_by_example", lambda q, k, v, scale, _, *rest: real(q, k, v, scale, None, *rest))
    assert packed_sum(coder, EXAMPLES).item() != pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("batch", "accumulate"), [(1, 4), (4, 1), (2, 2)])
def test_tuning_packed_is_tuning_padded(batch, accumulate, checkpointing):
    recipe = replace(STILL, batch=batch, accumulate=accumulate, gradient_checkpointing=checkpointing, warmup=1)
    runs = []
    for packed in (False, True):
        coder = adapted(recipe=recipe)
        runs.append((lora.tune(coder, EXAMPLES, recipe, 0, packed=packed, progress=False), weights(coder)))
    (padded, expected), (curve, got) = runs
    counts = ["step", "epoch", "tokens", "response_tokens"]
    assert curve[counts].equals(padded[counts])
    assert curve["loss"].to_numpy() == pytest.approx(padded["loss"].to_numpy(), rel=1e-5)
    assert curve["grad_norm"].to_numpy() == pytest.approx(padded["grad_norm"].to_numpy(), rel=1e-4)
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], rtol=1e-3, atol=1e-5)


def test_a_step_is_one_pass_unless_memory_cuts_it(monkeypatch):
    sizes, real = [], lora.loss_sum
    monkeypatch.setattr(lora, "loss_sum", lambda *args: sizes.append(len(args[2])) or real(*args))
    recipe = replace(STILL, batch=1, accumulate=7, epochs=1)
    lora.tune(adapted(), EXAMPLES, recipe, 0, packed=True, progress=False)
    assert sizes == [7]
    monkeypatch.setattr(lora, "CACHE_TOKENS", 45)
    lora.tune(adapted(), EXAMPLES, recipe, 0, packed=True, progress=False)
    assert len(sizes) > 3
    assert sum(sizes[1:]) == 7


def test_passes_keep_to_their_tokens_and_logits():
    lengths = np.random.default_rng(0).integers(5, 60, 50).tolist()
    examples = draw(*lengths, prompt=2)
    for tokens, vocabulary in ((1, 10), (100, 10), (100, 2 * passes.LOGITS)):
        cut = list(passes.cut(examples, tokens, vocabulary))
        assert [e for batch in cut for e in batch] == examples
        several = [batch for batch in cut if len(batch) > 1]
        assert all(sum(len(e.ids) for e in batch) <= tokens for batch in several)
        assert all(sum(e.response_tokens for e in batch) * vocabulary <= tokens * passes.LOGITS for batch in several)
    assert len(list(passes.cut(examples, 100, 10))) < len(list(passes.cut(examples, 100, 2 * passes.LOGITS))) < 50
    assert len(list(passes.cut(examples, 10**6, 10))) == 1


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("base", [torch.float32, torch.bfloat16])
def test_autocast_without_casts_of_inputs_changes_no_loss_but_its_rounding(base, checkpointing):
    recipe = replace(STILL, precision="bfloat16", gradient_checkpointing=checkpointing)
    curves = [
        lora.tune(adapted(dtype=base), EXAMPLES, recipe, 0, packed=packed, progress=False)["loss"].to_numpy()
        for packed in (False, True)
    ]
    assert curves[1] == pytest.approx(curves[0], rel=1e-2)


def test_inputs_are_cast_again_afterwards():
    coder, recipe = adapted(), replace(STILL, precision="bfloat16")
    with lora._training(coder, recipe, packed=True):
        assert not any(module.cast_input_dtype_enabled for module in coder.model.modules() if _is_adapter(module))
    assert all(module.cast_input_dtype_enabled for module in coder.model.modules() if _is_adapter(module))


def _is_adapter(module: torch.nn.Module) -> bool:
    return hasattr(module, "cast_input_dtype_enabled")


# --- what is packed, and when -----------------------------------------------------------------------------------------


def test_attention_is_as_before_after_an_error(monkeypatch):
    coder = adapted()
    config = lora.decoder_and_head(coder)[0].config
    before = config._attn_implementation
    monkeypatch.setattr(lora, "learning_rate", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        lora.tune(coder, EXAMPLES, STILL, 0, packed=True, progress=False)
    assert config._attn_implementation == before != passes.ATTENTION
    lora.mean_loss(coder, EXAMPLES, STILL)


def test_on_a_cpu_rows_are_padded_unless_asked():
    assert lora._room(adapted(), STILL, None, None) == lora._room(adapted(), STILL, False, None) == 0
    assert lora._room(adapted(), STILL, True, None) == lora.CACHE_TOKENS


def gpt2() -> GPT2LMHeadModel:
    shape = {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
    return GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=None, eos_token_id=None))


def dropping() -> LlamaForCausalLM:
    return LlamaForCausalLM(LlamaConfig(**SHAPE, attention_dropout=0.1))


@pytest.mark.parametrize(("make", "targets"), [(gpt2, ("c_proj",)), (dropping, ("q_proj",))])
@pytest.mark.filterwarnings("ignore:fan_in_fan_out")
def test_a_model_that_may_look_elsewhere_is_padded(make, targets):
    recipe = replace(STILL, targets=targets)
    coder = adapted(make.__name__, recipe, make=make)
    with pytest.raises(UsageError, match="cannot be packed"):
        lora.tune(coder, EXAMPLES, recipe, 0, packed=True, progress=False)
    lora.tune(coder, EXAMPLES[:2], replace(recipe, epochs=1), 0, progress=False)


class Stop(Exception):
    pass


@pytest.mark.parametrize("packed", [False, True])
def test_a_stopped_run_keeps_its_cut(tmp_path, monkeypatch, packed):
    recipe = replace(RECIPE, epochs=2)  # with dropout: its masks follow the cut
    monkeypatch.setattr(lora, "CACHE_TOKENS", 45)
    whole = adapted(recipe=recipe)
    expected = lora.tune(whole, EXAMPLES, recipe, 0, packed=packed, progress=False)
    with monkeypatch.context() as patch, pytest.raises(Stop):
        calls, real = itertools.count(), lora.descend

        def stopping(*args):
            if next(calls) == 2:
                raise Stop
            return real(*args)

        patch.setattr(lora, "descend", stopping)
        coder = adapted(recipe=recipe)
        lora.tune(coder, EXAMPLES, recipe, 0, packed=packed, checkpoints=tmp_path, checkpoint_every=1, progress=False)
    with pytest.raises(DataError):
        lora.tune(adapted(recipe=recipe), EXAMPLES, recipe, 0, packed=not packed, checkpoints=tmp_path, progress=False)
    monkeypatch.setattr(lora, "CACHE_TOKENS", 45 if not packed else 10_000)  # a machine with another cut
    resumed = adapted(recipe=recipe)
    curve = lora.tune(resumed, EXAMPLES, recipe, 0, checkpoints=tmp_path, progress=False)
    assert curve.drop(columns="seconds").equals(expected.drop(columns="seconds"))
    assert same(weights(resumed), weights(whole))


# --- a GPU, as far as a machine without one can tell ------------------------------------------------------------------


@pytest.mark.parametrize("kind", MODELS_BY_KIND)
def test_the_kernel_gets_what_it_takes(kind, monkeypatch):
    """Tokens first, as many heads of keys as of queries, 16 bits, int32 edges; on tensors without numbers."""
    if passes._kernel() is None:
        pytest.skip("this torch has no varlen_attn")
    seen, real = [], passes._kernel()

    def kernel(*args, **options):
        seen.append((args, options))
        return real(*args, **options)

    monkeypatch.setattr(passes, "_kernel", lambda: kernel)
    coder = adapted(kind, dtype=torch.bfloat16)
    decoder, head = lora.decoder_and_head(coder)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        coder.model.to("cuda")
        with passes.attention_within_examples(decoder):
            loss = lora.loss_sum(decoder, head, EXAMPLES, 1, CUDA, packed=True)
    assert loss.shape == ()
    assert len(seen) == 3
    total = sum(len(e.ids) for e in EXAMPLES)
    for (q, k, v, edges, edges_k, longest, longest_k), _ in seen:
        assert q.shape == k.shape == v.shape == (total, 4, 8)
        assert q.is_cuda
        assert q.dtype == k.dtype == v.dtype == torch.bfloat16
        assert q.stride(-1) == k.stride(-1) == v.stride(-1) == 1
        assert edges is edges_k
        assert edges.dtype == torch.int32
        assert edges.shape == (len(EXAMPLES) + 1,)
        assert longest == longest_k == 40
    windows = [options["window_size"] for _, options in seen]
    near, far = (WINDOW - 1, 0), (-1, 0)
    assert windows == {
        "mistral": [near] * 3, "gemma3": [near, far, near], "qwen2": [far, near, near]
    }.get(kind, [far] * 3)  # fmt: skip


@pytest.mark.parametrize("base", [torch.float32, torch.bfloat16])
def test_under_autocast_attention_is_of_one_type_of_16_bits(base, monkeypatch):
    """In a float32 model queries and keys are float32 after their rotation, values are not."""
    types, real = set(), passes._by_example
    monkeypatch.setattr(passes, "_by_example", lambda *args: types.add(tuple(x.dtype for x in args[:3])) or real(*args))
    with torch.autocast("cpu", torch.bfloat16):
        packed_sum(adapted(dtype=base), EXAMPLES)
    assert types == {(torch.bfloat16,) * 3}


@pytest.mark.parametrize("wrong", [None, "late", "broken"])
def test_a_kernel_is_held_against_sdpa_before_it_is_used(wrong, monkeypatch, caplog):
    def kernel(q, k, v, edges, _, *longest, scale, window_size):
        if wrong == "broken":
            raise RuntimeError("no kernel image is available")
        window = None if window_size == (-1, 0) else window_size[0] + (2 if wrong == "late" else 1)
        rows = (x.transpose(0, 1)[None] for x in (q, k, v))
        return passes._by_example(*rows, scale, window, edges, 0)[0]

    monkeypatch.setattr(passes, "_kernel", lambda: kernel)
    passes._kernel_is_right.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert passes._kernel_is_right("cpu", torch.bfloat16, 8) == (wrong is None)
    assert len(caplog.records) == (wrong is not None)
    passes._kernel_is_right.cache_clear()


def test_the_largest_pass_is_rehearsed_and_leaves_nothing(monkeypatch):
    seen, real, coder = [], lora.loss_sum, adapted(recipe=RECIPE)
    monkeypatch.setattr(lora, "loss_sum", lambda *args: seen.append(args[2]) or real(*args))
    decoder, head = lora.decoder_and_head(coder)
    state = torch.get_rng_state()
    for room in (0, 60):
        with lora._training(coder, RECIPE, packed=room > 0):
            steps = [[EXAMPLES[:1], EXAMPLES[1:2]], [EXAMPLES[5:6]]]
            lora._rehearse(coder, (decoder, head), steps, replace(RECIPE, batch=1), room)
            assert all(value.grad is None for value in coder.model.parameters())
    assert seen == [EXAMPLES[1:2], EXAMPLES[:2]]  # of 30 tokens; of 9 and 30
    assert torch.equal(torch.get_rng_state(), state)


def test_gradients_of_a_gpu_are_asked_to_repeat_while_tuning_only(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.get_deterministic_debug_mode(), torch.utils.deterministic.fill_uninitialized_memory
    with pytest.raises(ZeroDivisionError), lora._repeatable(CUDA):
        assert torch.is_deterministic_algorithms_warn_only_enabled()
        raise ZeroDivisionError
    assert before == (torch.get_deterministic_debug_mode(), torch.utils.deterministic.fill_uninitialized_memory)


def test_too_little_memory_is_told_with_a_cure(monkeypatch):
    def full(*_):
        raise torch.cuda.OutOfMemoryError("tried to allocate 20 GiB")

    coder = adapted()
    monkeypatch.setattr(lora, "loss_sum", full)
    with pytest.raises(LabError, match="takes more memory") as told:
        lora.tune(coder, EXAMPLES, STILL, 0, packed=True, progress=False)
    assert "gradient_checkpointing" in told.value.cure
    assert not coder.model.training


def test_tokens_of_a_pass_follow_the_card():
    qwen = Qwen2Config(
        vocab_size=151_936, hidden_size=896, num_hidden_layers=24, intermediate_size=4864, num_attention_heads=14,
        num_key_value_heads=2,
    )  # fmt: skip
    rooms = [passes.most_tokens(qwen, gib * GIB, GIB, False) for gib in (2, 16, 24, 40, 80, 140)]
    assert rooms == sorted(rooms)
    assert (rooms[0], rooms[-1]) == (1024, passes.MOST_TOKENS)
    assert all(room % 1024 == 0 for room in rooms)
    assert passes.most_tokens(qwen, 16 * GIB, GIB, True) > passes.most_tokens(qwen, 16 * GIB, GIB, False)


def test_the_memory_of_a_designs_tuning_is_asked_before_any_work(monkeypatch):
    spec = MODELS["DeepSeek-Coder-7B"]
    monkeypatch.setattr(lab.models, "check", lambda *_, **__: spec)
    monkeypatch.setattr(lora, "_check_optimizer", lambda *_: None)  # bitsandbytes need not be here
    for gib, changes, cure in (
        (24, {}, None),
        (12, {}, "four_bit=True"),
        (24, {"gradient_checkpointing": False}, "gradient_checkpointing=True"),
        (140, {"gradient_checkpointing": False}, None),
    ):
        monkeypatch.setattr(passes, "card_bytes", lambda _, gib=gib: gib * GIB)
        design = replace(paper_b.PAPER, recipe=replace(paper_b.PAPER.recipe, **changes))
        if cure is None:
            lab.check(design, "cuda")
        else:
            with pytest.raises(UsageError, match="tuning takes") as told:
                lab.check(design, "cuda")
            assert cure in told.value.cure
    lab.check(paper_b.DEMO, "cpu")


def test_a_process_that_shares_the_card_counts_its_own_part_of_the_memory(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (10 * GIB, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda _: 0.25, raising=False)
    assert passes.card_bytes(torch.device("cuda")) == 20 * GIB
    monkeypatch.delattr(torch.cuda, "get_per_process_memory_fraction")  # before torch 2.8
    assert passes.card_bytes(torch.device("cuda")) == 80 * GIB


# --- on a GPU ---------------------------------------------------------------------------------------------------------


@needs_cuda
@pytest.mark.parametrize("kind", MODELS_BY_KIND)
def test_on_a_gpu_packed_is_padded_to_rounding(kind):
    coder = adapted(kind, dtype=torch.bfloat16, device=CUDA)
    decoder, head = lora.decoder_and_head(coder)
    if not passes.fast(decoder, CUDA, torch.bfloat16):
        pytest.skip("no kernel for this card")
    with torch.autocast("cuda", torch.bfloat16):
        padded = lora.loss_sum(decoder, head, EXAMPLES, 8, coder.device)
        packed = packed_sum(coder, EXAMPLES)
    torch.testing.assert_close(packed, padded, rtol=1e-2, atol=0)
    a, b = gradient(coder, packed), gradient(coder, padded)
    assert float(torch.cosine_similarity(a, b, dim=0)) > 0.99


@needs_cuda
def test_on_a_gpu_tuning_is_packed_learns_and_repeats_to_the_last_bit(tmp_path):
    recipe, runs = replace(RECIPE, epochs=3, lr=1e-2), []
    for folder in ("a", "b"):
        coder = adapted(recipe=recipe, dtype=torch.bfloat16, device=CUDA)
        curve = lora.tune(coder, EXAMPLES, recipe, 0, checkpoints=tmp_path / folder, progress=False)
        assert checkpoint.room_of(tmp_path / folder / checkpoint.FILENAME) > 0
        runs.append((curve.drop(columns="seconds"), weights(coder)))
    assert runs[0][0].equals(runs[1][0])
    assert same(runs[0][1], runs[1][1])
    assert runs[0][0]["loss"].iloc[-2:].mean() < runs[0][0]["loss"].iloc[:2].mean()
