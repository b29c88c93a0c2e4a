"""Sampling: the tokens that `generate` gives, texts that depend on their seeds alone, and what fails."""

import functools
import logging
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    Lfm2Config,
    Lfm2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
)

from nngpt_lab.ground.errors import LabError, UsageError
from nngpt_lab.llm import kv_cache, prompts
from nngpt_lab.llm import models as coders
from nngpt_lab.llm.adapters import quiet
from nngpt_lab.llm.decoding import Decoding, end_tokens
from nngpt_lab.llm.models import Coder
from nngpt_lab.llm.sampling import Sample, merged, sample, stream
from tests.helpers.lora_coders import new_coder
from tests.helpers.single_thread import one_thread  # noqa: F401

VOCABULARY, END = 256, 3
GREEDY = Decoding(temperature=0, top_k=0, top_p=1, max_new_tokens=24)
DRAWN = Decoding(temperature=0.9, top_k=50, top_p=0.9, max_new_tokens=24)
SMALL = {"vocab_size": VOCABULARY, "bos_token_id": None, "eos_token_id": END, "pad_token_id": 0}
TWO_LAYERS = SMALL | {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
                      "num_key_value_heads": 2, "max_position_embeddings": 128}  # fmt: skip
ONE_SLIDES = ["sliding_attention", "full_attention"]
ARCHITECTURES = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**TWO_LAYERS)),
    "mistral, window 8": lambda: MistralForCausalLM(MistralConfig(**TWO_LAYERS, sliding_window=8)),
    "gemma, window 8 in one layer": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(**TWO_LAYERS, head_dim=8, sliding_window=8, layer_types=ONE_SLIDES)
    ),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**SMALL, n_embd=32, n_layer=2, n_head=4, n_positions=128)),
    "lfm2, hybrid": lambda: Lfm2ForCausalLM(
        Lfm2Config(**TWO_LAYERS, layer_types=["conv", "full_attention"], block_auto_adjust_ff_dim=False)
    ),
}
WITHOUT_KERNELS = pytest.mark.transformers_warns  # of running the hybrid's convolutions without a package of its own
NAMES = [name for name in ARCHITECTURES if "hybrid" not in name or not transformers.__version__.startswith("4.")]


def param(name: str, *values):
    return pytest.param(name, *values, marks=WITHOUT_KERNELS if "hybrid" in name else ())


def tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, by byte-level BPE without merges; 0 to 3 are special."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())[: VOCABULARY - 4]
    special = ["<pad>", "<user>", "<assistant>", "<end>"]
    raw = Tokenizer(models.BPE({token: i for i, token in enumerate([*special, *letters])}, []))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="<end>",
                                   additional_special_tokens=special[1:3])  # fmt: skip


def made(name: str = "llama", lora: bool = False) -> Coder:
    """A random model whose answers are varied: large weights, and a bias towards no token."""
    torch.manual_seed(0)
    model = ARCHITECTURES[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    if lora:
        targets = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj", "gate_proj"]
        with quiet():
            model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, lora_dropout=0.5, target_modules=targets))
        model.eval()
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if "lora_B" in key:
                    parameter.normal_(std=0.3)
    return Coder(model, tokenizer(), name, {})


@pytest.fixture(scope="module")
def llama() -> Coder:
    return made()


def prompts_of(lengths, head: int = 5) -> list[list[int]]:
    """Random prompts of these lengths with a common beginning."""
    rng = np.random.default_rng(0)
    beginning = rng.integers(4, VOCABULARY, head)
    tails = (rng.integers(4, VOCABULARY, max(0, length - head)) for length in lengths)
    return [[int(token) for token in (*beginning, *tail)][:length] for length, tail in zip(lengths, tails, strict=True)]


PROMPTS = prompts_of([7, 30, 12, 12, 6, 21, 9, 30, 8, 17])
SEEDS = list(range(100, 100 + len(PROMPTS)))


def generated(coder: Coder, prompt: list[int], decoding: Decoding = GREEDY) -> list[int]:
    """What ``generate`` writes, greedily."""
    with torch.inference_mode():
        ids = torch.tensor([prompt])
        answer = coder.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False,
                                      max_new_tokens=decoding.max_new_tokens)  # fmt: skip
    return answer[0, len(prompt) :].tolist()


def text_of(coder: Coder, ids: list[int]) -> str:
    return coder.tokenizer.decode([token for token in ids if token not in end_tokens(coder)], skip_special_tokens=True)


def ended_at(coder: Coder, count: int) -> list[int]:
    """End tokens such that several of the greedy answers end early, at different places, and others do not."""
    answers = [generated(coder, prompt) for prompt in PROMPTS]
    return sorted({answer[place] for answer, place in zip(answers, range(3, 3 + count), strict=False)})


@pytest.fixture
def short_buffers(monkeypatch):
    """Buffers that are full after a few steps, so that tests see them renewed."""
    monkeypatch.setattr(kv_cache, "SPARE_COLUMNS", 3)


@pytest.mark.parametrize(("name", "lora"), [*(param(name, False) for name in NAMES), ("llama", True)])
def test_greedy_is_generate_token_for_token(name, lora, short_buffers):
    coder = made(name, lora)
    coder.model.generation_config.eos_token_id = [END, *ended_at(coder, 4)]
    expected = [generated(coder, prompt) for prompt in PROMPTS]
    assert len({len(answer) for answer in expected}) > 2  # rows end at different times
    for batch_size in (1, 4, 32):
        samples = sample(coder, PROMPTS, SEEDS, GREEDY, batch_size=batch_size, progress=False)
        assert [one.new_tokens for one in samples] == [len(answer) for answer in expected]
        assert [one.text for one in samples] == [text_of(coder, answer) for answer in expected]
        assert [one.finished for one in samples] == [answer[-1] in end_tokens(coder) for answer in expected]


@pytest.mark.parametrize("name", [param(name) for name in NAMES])
def test_text_depends_on_its_seed_alone(name, short_buffers):
    coder = made(name)
    coder.model.generation_config.eos_token_id = [END, *range(20, 28)]
    alone = sample(coder, PROMPTS, SEEDS, DRAWN, batch_size=1, progress=False)
    assert len({one.text for one in alone}) == len(alone)
    assert len({one.new_tokens for one in alone}) > 2  # rows end at different times
    order = np.random.default_rng(1).permutation(len(PROMPTS))
    for batch_size in (3, 8, 64):
        assert sample(coder, PROMPTS, SEEDS, DRAWN, batch_size=batch_size, progress=False) == alone
        shuffled = sample(coder, [PROMPTS[i] for i in order], [SEEDS[i] for i in order], DRAWN,
                          batch_size=batch_size, progress=False)  # fmt: skip
        assert shuffled == [alone[i] for i in order]
    assert sample(coder, PROMPTS[4:5], SEEDS[4:5], DRAWN, progress=False) == alone[4:5]


def test_one_prompt_many_seeds(llama):
    same = sample(llama, [PROMPTS[1]] * 12, [5, 6] * 6, DRAWN, batch_size=5, progress=False)
    assert len({one.text for one in same}) == 2
    assert same[0] == sample(llama, PROMPTS[1:2], [5], DRAWN, progress=False)[0]


def test_seeds_that_differ_in_high_bits_differ(llama):
    seeds = [7, 7 + 2**32, 7 + 2**64, 7 + 2**200]
    assert len({one.text for one in sample(llama, [PROMPTS[0]] * 4, seeds, DRAWN, progress=False)}) == 4


def test_longer_limit_continues_the_same_text(llama):
    longer = Decoding(DRAWN.temperature, DRAWN.top_k, DRAWN.top_p, 60)
    for short, long in zip(*(sample(llama, PROMPTS, SEEDS, d, progress=False) for d in (DRAWN, longer)), strict=True):
        assert long.text.startswith(short.text.rstrip("�"))


def test_global_generators_are_neither_read_nor_moved(llama):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = sample(llama, PROMPTS[:3], SEEDS[:3], DRAWN, progress=False)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert sample(llama, PROMPTS[:3], SEEDS[:3], DRAWN, progress=False) == first


def test_rows_are_given_as_they_end_and_one_ending_does_not_wait_for_all(llama):
    decoding = Decoding(0, 0, 1, 30)
    lengths = [100, 5, 5, 5]  # the first has room for 28 tokens only
    seen = [index for index, _ in stream(llama, prompts_of(lengths), range(4), decoding, batch_size=2, progress=False)]
    assert sorted(seen) == [0, 1, 2, 3]
    coder = made()
    coder.model.generation_config.eos_token_id = [END, generated(coder, PROMPTS[0])[2]]
    first = next(iter(stream(coder, PROMPTS, SEEDS, Decoding(0, 0, 1, 90), progress=False)))
    assert first[1].finished


def test_interrupted_stream_has_given_what_was_done_and_leaves_the_model_as_it_was(monkeypatch):
    coder = made()
    coder.model.generation_config.eos_token_id = [END, *ended_at(coder, 4)]
    whole = sample(coder, PROMPTS, SEEDS, GREEDY, progress=False)
    coder.model.train()
    forward, steps = LlamaForCausalLM.forward, []

    @functools.wraps(forward)
    def interrupted(self, *args, **kwargs):
        steps.append(1)
        if len(steps) > 20:
            raise KeyboardInterrupt
        assert not self.training
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(LlamaForCausalLM, "forward", interrupted)
    given = []
    with pytest.raises(KeyboardInterrupt):
        given.extend(stream(coder, PROMPTS, SEEDS, GREEDY, progress=False))
    assert 0 < len(given) < len(PROMPTS)
    assert all(one == whole[index] for index, one in given)
    assert coder.model.training


def test_consumer_is_not_in_inference_mode(llama):
    for _ in stream(llama, PROMPTS[:2], SEEDS[:2], GREEDY, progress=False):
        assert not torch.is_inference_mode_enabled()
        assert torch.is_grad_enabled()


def read_tokens(coder, prompts, monkeypatch, **options) -> int:
    """How many prompt tokens the model reads (passes of more than one token)."""
    count, forward = [], LlamaForCausalLM.forward

    @functools.wraps(forward)
    def counted(self, *args, input_ids, **kwargs):
        count.append(input_ids.numel() if input_ids.shape[1] > 1 else 0)
        return forward(self, *args, input_ids=input_ids, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(LlamaForCausalLM, "forward", counted)
        sample(coder, prompts, range(len(prompts)), Decoding(0, 0, 1, 2), progress=False, **options)
    return sum(count)


def test_what_prompts_share_is_read_once(llama, monkeypatch):
    prompts = prompts_of([30, 30, 30, 24], head=20)
    assert read_tokens(llama, prompts, monkeypatch) == 20 + 3 * 10 + 4
    assert read_tokens(llama, prompts[:1] * 9, monkeypatch, batch_size=2) == 29  # and nine times its last token


def test_end_tokens_are_all_of_the_configuration_and_the_tokenizers():
    coder = made()
    for configured, expected in ((None, {END}), (9, {9, END}), ([9, 11], {9, 11, END})):
        coder.model.generation_config.eos_token_id = configured
        assert end_tokens(coder) == expected


def test_the_end_of_turn_that_tuning_teaches_ends_a_text():
    coder = coders.load("nano-coder")
    coder.tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    template = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    coder.tokenizer.chat_template = template + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ids, _ = prompts.encode_pair(coder.tokenizer, [{"role": "user", "content": "write"}], "x = 1")
    assert ids[-1] == coder.tokenizer.convert_tokens_to_ids("<|im_end|>") != coder.tokenizer.eos_token_id
    assert end_tokens(coder) == {ids[-1], coder.tokenizer.eos_token_id}
    coder.tokenizer.chat_template = "{{ raise_exception('no') }}"
    assert end_tokens(coder) == {coder.tokenizer.eos_token_id}


def test_end_token_is_counted_but_not_in_the_text():
    coder = made()
    answer = generated(coder, PROMPTS[0])
    coder.model.generation_config.eos_token_id = answer[5]  # no special token of the tokenizer
    (one,) = sample(coder, PROMPTS[:1], [0], GREEDY, progress=False)
    cut = answer.index(answer[5]) + 1
    assert one == Sample(text_of(coder, answer[: cut - 1]), 0, cut, True)


def test_text_ends_with_the_context(llama, caplog):
    with caplog.at_level(logging.WARNING, "nngpt_lab.llm.sampling"):
        samples = sample(llama, prompts_of([120, 127, 20]), range(3), GREEDY, progress=False)
    assert [one.new_tokens for one in samples] == [8, 1, 24]
    assert not samples[0].finished
    assert "2 of 3 texts" in caplog.text


def test_texts_and_tokens_are_logged(llama, caplog):
    with caplog.at_level(logging.INFO, "nngpt_lab.llm.sampling"):
        samples = sample(llama, PROMPTS, SEEDS, GREEDY, progress=False)
    tokens = sum(one.new_tokens for one in samples)
    assert f"{len(PROMPTS)} texts of {tokens} tokens" in caplog.text and "tokens/s" in caplog.text


def test_nothing_to_sample(llama):
    assert sample(llama, [], [], GREEDY, progress=False) == []


def test_merged_adapter_samples_alike_and_leaves_the_same_bits():
    coder = made(lora=True)
    before = {name: weight.clone() for name, weight in coder.model.state_dict().items()}
    unmerged = sample(coder, PROMPTS, SEEDS, DRAWN, progress=False)
    with coder.model.disable_adapter(), merged(coder):
        assert sample(coder, PROMPTS, SEEDS, DRAWN, progress=False) != unmerged
    with merged(coder):
        inside = coder.model.state_dict()
        assert any(not torch.equal(inside[name], weight) for name, weight in before.items())
        assert sample(coder, PROMPTS, SEEDS, DRAWN, progress=False) == unmerged
    with pytest.raises(RuntimeError), merged(coder):
        raise RuntimeError
    after = coder.model.state_dict()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    assert sample(coder, PROMPTS, SEEDS, DRAWN, progress=False) == unmerged


@pytest.mark.parametrize("targets", [["embed_tokens"], ["q_proj", "embed_tokens"], ["q_proj", "lm_head"]])
def test_merging_leaves_a_matrix_that_another_layer_shares(targets):
    base = new_coder()
    config = LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM", init_lora_weights=False)
    with torch.random.fork_rng(), quiet(), warnings.catch_warnings():
        torch.manual_seed(0)
        warnings.simplefilter("ignore", UserWarning)  # peft's own, of tied weights
        model = get_peft_model(base.model, config).eval()
    ids, shared = torch.tensor([[3, 5, 7]]), model.get_input_embeddings().weight.detach().clone()
    with torch.inference_mode():
        plain = model(ids).logits
        with merged(replace(base, model=model)):
            moved = model(ids).logits
            assert ("q_proj" in targets) == any(layer.merged for layer in model.modules() if hasattr(layer, "merged"))
    assert torch.allclose(plain, moved, atol=1e-3) and torch.equal(shared, model.get_input_embeddings().weight)


def test_merged_changes_nothing_without_adapter_or_in_16_bits(llama):
    for coder in (llama, Coder(made(lora=True).model.bfloat16(), llama.tokenizer, "16 bits", {})):
        before = {name: weight.clone() for name, weight in coder.model.state_dict().items()}
        with merged(coder):
            assert all(torch.equal(coder.model.state_dict()[name], weight) for name, weight in before.items())


def test_diverged_weights_are_an_error():
    coder = made()
    with torch.no_grad():
        coder.model.lm_head.weight[9] = float("nan")
    for decoding in (GREEDY, DRAWN):
        with pytest.raises(LabError, match="not numbers"):
            sample(coder, PROMPTS, SEEDS, decoding, progress=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": [1]}, "seed"),
        ({"seeds": [-1] * 2}, "negative"),
        ({"prompts": [[5], []]}, "prompt 1 is empty"),
        ({"prompts": [[5], [5] * 128]}, "at most 128"),
        ({"prompts": [[5], [VOCABULARY]]}, "vocabulary"),
        ({"batch_size": 0}, "batch"),
        ({"engine": "tgi"}, "no engine 'tgi'"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_bad_input_is_named_before_any_work(llama, change, message, monkeypatch):
    monkeypatch.setattr(LlamaForCausalLM, "forward", lambda *_, **__: pytest.fail("worked"))
    arguments = {"prompts": [[5], [6]], "seeds": [1, 2], "decoding": GREEDY} | change
    with pytest.raises(UsageError, match=message):
        stream(llama, **arguments)


def test_newcomer_that_does_not_fit_is_refused(llama):
    batch = kv_cache.open_batch(llama.model, PROMPTS, 4)
    assert batch.joins
    batch.admit([PROMPTS[0]])
    with pytest.raises(ValueError, match="longest first"):
        batch.admit([PROMPTS[1]])
    with pytest.raises(ValueError, match="overwrite"):
        batch.admit([PROMPTS[0]])
        batch.keep([1, 0])


@WITHOUT_KERNELS
@pytest.mark.skipif("lfm2, hybrid" not in NAMES, reason="transformers before 5 has no common cache for hybrids")
def test_architectures_with_other_states_take_the_padded_batch():
    coder = made("lfm2, hybrid")
    assert not kv_cache.open_batch(coder.model, PROMPTS, 4).joins
