"""Sampling in slots: the texts of the sampler that grows and shrinks, and a step that a CUDA graph can hold."""

import contextlib
import functools
import itertools
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM
from transformers.cache_utils import DynamicCache
from transformers.integrations import sdpa_attention

from nngpt_lab.ground.errors import LabError, UsageError
from nngpt_lab.llm import sampling, slots
from nngpt_lab.llm.decoding import Decoding, Row
from nngpt_lab.llm.models import Coder
from nngpt_lab.llm.sampling import Sample, sample, stream
from tests.helpers.single_thread import one_thread  # noqa: F401
from tests.llm.test_sampling import (
    ARCHITECTURES,
    DRAWN,
    END,
    GREEDY,
    NAMES,
    PROMPTS,
    SEEDS,
    TWO_LAYERS,
    WITHOUT_KERNELS,
    made,
    prompts_of,
    read_tokens,
)

ARCHITECTURES |= {"qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**TWO_LAYERS))}
PLAIN = [name for name in ARCHITECTURES if "hybrid" not in name]
MODELS = [(name, False) for name in PLAIN] + [(name, True) for name in PLAIN if name != "gpt2"]
SHORT = [replace(decoding, max_new_tokens=12) for decoding in (GREEDY, DRAWN)]
ALL = Decoding(temperature=0.9, top_k=0, top_p=1, max_new_tokens=12)
on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


class Tape(TorchDispatchMode):
    """What a CUDA graph is, on a CPU: the calls of one step, with their tensors and numbers, done again as they were.

    A call that a graph cannot hold, because its result goes to the host or its shape depends on numbers, is refused.
    """

    ASKS = ("_local_scalar_dense", "item", "nonzero", "masked_select", "_unique2", "equal", "is_nonzero")

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix("aten::")
        by_mask = name in ("index", "index_put_") and any(
            isinstance(part, torch.Tensor) and part.dtype == torch.bool for part in args[1]
        )
        if name in self.ASKS or by_mask:
            raise RuntimeError(f"{name} asks the host")
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result

    def replay(self):
        for func, args, kwargs, result in self.calls:
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)

    def reset(self):
        self.calls.clear()


def taped(step, forward):
    with Tape() as tape:
        step()
    return tape


@pytest.fixture
def on_tape(monkeypatch):
    monkeypatch.setattr(slots, "record", taped)


def coder_with_ends(name: str = "llama", lora: bool = False) -> Coder:
    coder = made(name, lora)
    coder.model.generation_config.eos_token_id = [END, *range(20, 40)]
    return coder


@pytest.fixture(scope="module")
def llama() -> Coder:
    return made()


def in_slots(coder: Coder, decoding: Decoding = DRAWN, count: int = 4, **options):
    return sample(coder, PROMPTS, SEEDS, decoding, batch_size=count, engine="slots", progress=False, **options)


@functools.cache
def joining(name: str, lora: bool, decoding: Decoding) -> list[Sample]:
    """What the sampler that joins texts in one batch writes, for all tests that compare with it."""
    return sample(coder_with_ends(name, lora), PROMPTS, SEEDS, decoding, engine="joining", progress=False)


@pytest.mark.parametrize(("name", "lora"), MODELS)
def test_texts_are_those_of_the_joining_batch(name, lora, monkeypatch):
    coder = coder_with_ends(name, lora)
    for decoding, look, count in itertools.product(SHORT, (1, 8), (1, 4, 32)):
        monkeypatch.setattr(slots, "LOOK", look)
        assert in_slots(coder, decoding, count) == joining(name, lora, decoding)
    lengths = {one.new_tokens for decoding in SHORT for one in joining(name, lora, decoding)}
    assert len(lengths) > 2  # texts end at different times


@pytest.mark.parametrize(("name", "lora"), MODELS)
def test_step_that_was_recorded_gives_the_same_texts(name, lora, on_tape):
    coder = coder_with_ends(name, lora)
    for decoding in (*SHORT, ALL):
        assert in_slots(coder, decoding) == joining(name, lora, decoding)


def test_tape_refuses_a_step_that_asks_the_host_and_shows_one_that_takes_from_it(on_tape, monkeypatch):
    coder, choose = coder_with_ends(), slots.choose
    with monkeypatch.context() as patch:
        patch.setattr(slots, "choose", lambda logits, *rest: choose(logits, *rest) + int(logits.isnan().any()))
        with pytest.raises(RuntimeError, match="asks the host"):
            in_slots(coder)
    steps = []

    def counted(logits, decoding, draws):
        steps.append(1)
        return choose(logits, decoding, draws * (len(steps) > 20))  # a number of the host: a tape keeps its first

    expected = in_slots(coder)
    monkeypatch.setattr(slots, "choose", counted)
    assert in_slots(coder) != expected


def test_heads_that_share_keys_attend_as_one(monkeypatch):
    """As where transformers copies keys and values for each of them, which the newest no longer does."""
    coder, used = coder_with_ends(), []
    expected = sample(coder, PROMPTS, SEEDS, DRAWN, engine="joining", progress=False)
    monkeypatch.delattr(sdpa_attention, "pack_gqa", raising=False)
    attend = slots.functional.scaled_dot_product_attention
    counted = SimpleNamespace(scaled_dot_product_attention=lambda *a, **k: used.append(1) or attend(*a, **k))
    monkeypatch.setattr(slots, "functional", counted)
    assert in_slots(coder) == expected
    assert used
    assert coder.model.config._attn_implementation == "sdpa"


def test_each_prompt_is_read_once_and_alone(llama, monkeypatch):
    prompts = [*PROMPTS[:3], *PROMPTS[:3], *PROMPTS[:3]]
    read = read_tokens(llama, prompts, monkeypatch, engine="slots", batch_size=2)
    assert read == sum(map(len, PROMPTS[:3]))


@pytest.mark.parametrize("name", ["llama", "gpt2"])  # GPT-2 has no embedding of a position behind its context
def test_text_ends_with_the_context_and_its_slot_idles_within(name):
    coder, prompts = made(name), prompts_of([120, 127, 20, 60])
    expected = sample(coder, prompts, range(4), GREEDY, engine="joining", progress=False)
    assert [one.new_tokens for one in expected] == [8, 1, 24, 24]
    assert sample(coder, prompts, range(4), GREEDY, engine="slots", batch_size=3, progress=False) == expected


def test_text_does_not_depend_on_those_beside_it_in_bfloat16():
    coder = coder_with_ends()
    coder.model.bfloat16()
    full = in_slots(coder, count=8)
    some = [1, 5, 9]  # with the longest, so that there are as many columns
    alone = sample(coder, [PROMPTS[i] for i in some], [SEEDS[i] for i in some], DRAWN, batch_size=8, engine="slots",
                   progress=False)  # fmt: skip
    assert alone == [full[i] for i in some]


def test_slot_is_wiped_before_it_is_filled():
    states = SimpleNamespace(keys=torch.ones(1, 2, 3, 4), values=torch.ones(1, 2, 3, 4))
    layer = slots.SlotLayer(states, torch.zeros(2, dtype=torch.long), 8)
    layer.keys[:], layer.values[:] = float("nan"), float("nan")
    layer.place(1, states)
    for part in (layer.keys, layer.values):
        assert (part[1, :, :3] == 1).all() and (part[1, :, 3:] == 0).all()
        assert part[0].isnan().all()


def test_runs_that_were_no_work_leave_no_trace(llama):
    rows = [Row(0, PROMPTS[0], 1, 5), Row(1, PROMPTS[1], 1, 9)]
    opened = slots.Slots(llama.model, rows, DRAWN, 3)
    assert opened.count == 3
    for buffer in (opened._tokens, opened._positions, opened._written):
        assert buffer.tolist() == [0] * 3


@pytest.mark.parametrize("decoding", [GREEDY, DRAWN], ids=["greedy", "drawn"])
def test_diverged_weights_are_an_error(decoding, on_tape):
    coder = made()
    with torch.no_grad():
        coder.model.lm_head.weight[9] = float("nan")
    with pytest.raises(LabError, match="not numbers"):
        in_slots(coder, decoding)


def test_scores_that_stop_to_be_numbers_end_the_stream_after_what_was_done(monkeypatch):
    coder, choose, calls = coder_with_ends(), slots.choose, []
    expected = in_slots(coder)

    def broken(logits, *rest):
        calls.append(1)
        return choose(logits * float("nan") if len(calls) > 20 else logits, *rest)

    monkeypatch.setattr(slots, "choose", broken)
    given = []
    with pytest.raises(LabError, match="not numbers"):
        given.extend(stream(coder, PROMPTS, SEEDS, DRAWN, batch_size=4, engine="slots", progress=False))
    assert given and all(one == expected[index] for index, one in given)


def test_interrupted_stream_has_given_what_was_done_and_leaves_model_and_memory_as_they_were(monkeypatch):
    coder, tapes, opened = coder_with_ends(), [], []
    expected = in_slots(coder)
    monkeypatch.setattr(slots, "record", lambda *a: tapes.append(taped(*a)) or tapes[-1])
    write = slots.write
    monkeypatch.setattr(slots, "write", lambda one, *rest: opened.append(one) or write(one, *rest))
    coder.model.train()
    texts = stream(coder, PROMPTS, SEEDS, DRAWN, batch_size=4, engine="slots", progress=False)
    index, first = next(texts)
    assert first == expected[index]
    assert not coder.model.training and tapes[0].calls and opened[0]._cache.layers
    assert not torch.is_inference_mode_enabled()
    texts.close()
    assert coder.model.training
    assert not tapes[0].calls and opened[0]._graph is None and not opened[0]._cache.layers


@WITHOUT_KERNELS
@pytest.mark.skipif("lfm2, hybrid" not in NAMES, reason="transformers before 5 has no common cache for hybrids")
def test_architectures_with_other_states_are_refused():
    coder = made("lfm2, hybrid")
    with pytest.raises(UsageError, match="does not fit into slots"):
        stream(coder, PROMPTS, SEEDS, GREEDY, engine="slots")


def test_attention_that_makes_masks_of_its_own_is_refused(llama, monkeypatch):
    assert slots.possible(llama.model)
    with monkeypatch.context() as patch:
        patch.setattr(llama.model.config, "_attn_implementation", "flash_attention_2")
        assert not slots.possible(llama.model)
    monkeypatch.setattr(llama.model.config, "layer_types", ["chunked_attention"] * 2, raising=False)
    assert not slots.possible(llama.model)


@pytest.mark.parametrize(
    ("device", "engine", "used"),
    [("cpu", "auto", False), ("cuda", "auto", True), ("cuda", "joining", False), ("cpu", "slots", True)],
)
def test_engine_follows_device_and_wish(llama, device, engine, used, monkeypatch):
    opened = []
    monkeypatch.setattr(Coder, "device", torch.device(device))  # what is asked; the model stays where it is
    monkeypatch.setattr(slots, "Slots", lambda *a, new=slots.Slots: opened.append(1) or new(*a))
    sample(llama, PROMPTS, SEEDS, GREEDY, engine=engine, progress=False)
    assert bool(opened) == used
    assert sample(llama, [], [], GREEDY, engine=engine, progress=False) == []


def test_an_interrupt_between_steps_gives_memory_back_while_its_traceback_is_held(monkeypatch):
    coder, opened, write = coder_with_ends(), [], slots.write
    monkeypatch.setattr(slots, "write", lambda one, *rest: opened.append(one) or write(one, *rest))

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(coder.tokenizer, "decode", interrupted, raising=False)
    with pytest.raises(KeyboardInterrupt) as held:
        in_slots(coder)
    assert held.tb and opened and not opened[0]._cache.layers


def test_a_full_card_is_tried_with_fewer_texts_and_then_named(llama, monkeypatch):
    def full(*_, **__):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    sizes, write = [], sampling._write
    monkeypatch.setattr(slots, "record", full)
    monkeypatch.setattr(Coder, "device", torch.device("cuda"))
    monkeypatch.setattr(sampling, "_write", lambda *a: sizes.append(a[-1]) or write(*a))
    expected = sample(llama, PROMPTS, SEEDS, DRAWN, engine="joining", progress=False)
    assert sample(llama, PROMPTS, SEEDS, DRAWN, progress=False, batch_size=32) == expected
    assert sizes == [32, 8]
    monkeypatch.setattr(LlamaForCausalLM, "forward", full)
    with pytest.raises(LabError, match="more memory than cuda has left"):
        sample(llama, PROMPTS, SEEDS, DRAWN, progress=False)


def test_model_that_slots_cannot_hold_after_all_is_sampled_from_as_before(llama, monkeypatch, caplog):
    def broken(*_):
        raise TypeError("no masks of four dimensions")

    expected = sample(llama, PROMPTS, SEEDS, DRAWN, progress=False)
    monkeypatch.setattr(slots, "record", broken)
    with pytest.raises(TypeError):
        in_slots(llama)
    monkeypatch.setattr(Coder, "device", torch.device("cuda"))
    slots.warn_once.cache_clear()
    for _ in range(2):
        assert sample(llama, PROMPTS, SEEDS, DRAWN, progress=False) == expected
    assert caplog.text.count("no masks of four dimensions") == 1


class Graph:
    """Stands in for what torch has for CUDA graphs."""

    fails = False

    def __init__(self, monkeypatch):
        self.log = []
        stream = SimpleNamespace(wait_stream=lambda other: self.log.append("wait"))
        monkeypatch.setattr(slots, "_side_stream", lambda device: stream)
        for name, value in {"CUDAGraph": lambda: self, "graph": self.graph, "stream": self.stream,
                            "current_stream": lambda device: stream, "default_generators": [self]}.items():  # fmt: skip
            monkeypatch.setattr(torch.cuda, name, value)

    def clone_state(self):
        return "as it was"

    def graphsafe_set_state(self, state):
        self.log.append(state)

    @contextlib.contextmanager
    def stream(self, stream):
        self.log.append("enter")
        yield
        self.log.append("leave")

    @contextlib.contextmanager
    def graph(self, graph, stream, capture_error_mode):
        assert graph is self and capture_error_mode == "thread_local"
        self.log.append("record")
        yield
        if self.fails:
            raise RuntimeError("a step that waits cannot be captured")


@pytest.mark.parametrize("case", ["recorded", "failed", "quantised"])
def test_recording_and_what_is_done_without(case, monkeypatch, caplog):
    graph = Graph(monkeypatch)
    graph.fails = case == "failed"
    slots.warn_once.cache_clear()
    monkeypatch.setattr(slots, "_not_recorded", [])
    forward = SimpleNamespace(device=torch.device("cuda", 0), model=SimpleNamespace(is_quantized=case == "quantised"))
    for again in range(2):
        graph.log.clear()
        result = slots.record(lambda: graph.log.append("step"), forward)
        warm = ["wait", "enter", *["step"] * slots.WARM_RUNS]
        ends = {
            "recorded": [*warm, "record", "step", "leave", "wait"],
            "failed": [*warm, "record", "step", "as it was", "wait"],
        }
        tried = ends.get(case, []) if case == "recorded" or not again else []  # a failure is not repeated
        assert graph.log == ["step", *tried]
        assert result is (graph if case == "recorded" else None)
    assert len(caplog.records) == (case != "recorded")


def test_slots_follow_a_gpus_memory(monkeypatch):
    states = DynamicCache()
    states.update(torch.zeros(1, 2, 3, 64, dtype=torch.bfloat16), torch.zeros(1, 2, 3, 64, dtype=torch.bfloat16), 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 2**30))
    fraction = {"raising": False}  # torch 2.8 and later
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda index: 1.0, **fraction)
    a_slot = 1024 * 2 * 2 * 64 * 2  # columns, keys and values, heads, dimension, bytes
    assert slots._most_slots(states, 1024, torch.device("cuda")) == 2**28 // a_slot
    assert slots._most_slots(states, 2**30, torch.device("cuda")) == 1
    assert slots._most_slots(states, 1024, torch.device("cpu")) > 10_000
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda index: 0.25, **fraction)
    assert slots._most_slots(states, 1024, torch.device("cuda")) == 2**26 // a_slot  # one of four runs on the card


def on_gpu(dtype: torch.dtype) -> Coder:
    coder = coder_with_ends()
    coder.model.to("cuda", dtype)
    return coder


@on_cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("decoding", [GREEDY, DRAWN, ALL], ids=["greedy", "top", "all"])
def test_graph_is_the_step_token_for_token(dtype, decoding, monkeypatch):
    coder, graphs, record = on_gpu(dtype), [], slots.record
    monkeypatch.setattr(slots, "record", lambda *a: graphs.append(record(*a)) or graphs[-1])
    replayed = in_slots(coder, decoding)
    assert graphs[0] is not None
    monkeypatch.setattr(slots, "record", lambda step, forward: step())
    assert in_slots(coder, decoding) == replayed


@on_cuda
def test_sixteen_slots_in_use_write_what_three_write():
    coder = on_gpu(torch.bfloat16)
    prompts, seeds = (PROMPTS * 3)[:24], list(range(24))
    full = sample(coder, prompts, seeds, DRAWN, batch_size=16, engine="slots", progress=False)
    some = [1, 5, 9]
    alone = sample(coder, [prompts[i] for i in some], [seeds[i] for i in some], DRAWN, batch_size=16, engine="slots",
                   progress=False)  # fmt: skip
    assert alone == [full[i] for i in some]


@on_cuda
def test_on_cuda_slots_are_chosen_and_leave_no_memory_behind():
    coder = on_gpu(torch.float32)
    before = torch.backends.cuda.cudnn_sdp_enabled()
    expected = sample(coder, PROMPTS, SEEDS, DRAWN, engine="joining", progress=False)
    torch.cuda.empty_cache()
    reserved = []
    for _ in range(3):
        assert sample(coder, PROMPTS, SEEDS, DRAWN, batch_size=4, progress=False) == expected
        reserved.append(torch.cuda.memory_reserved())
    assert reserved[1] == reserved[2]
    assert torch.backends.cuda.cudnn_sdp_enabled() == before


@on_cuda
def test_step_that_cannot_be_recorded_is_done_and_random_numbers_can_be_had_after(monkeypatch, caplog):
    coder, choose = on_gpu(torch.float32), slots.choose
    monkeypatch.setattr(slots, "_not_recorded", [])
    expected = in_slots(coder)
    slots.warn_once.cache_clear()
    monkeypatch.setattr(slots, "choose", lambda logits, *rest: choose(logits, *rest) + int(logits.isnan().any()))
    assert in_slots(coder) == expected
    assert "could not be recorded" in caplog.text
    assert torch.nn.functional.dropout(torch.ones(2, device="cuda")).isfinite().all()
