"""The one-epoch proxy as a whole, on the digits, in confined processes: scores, seeds, and how each candidate ends.

Attacks on the score are in ``test_proxy_attacks.py``, augmentations in ``test_proxy_augmentations.py``.
"""

from __future__ import annotations

import json
import os
import pickle
import random
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from nngpt_lab.candidates import pool, proxy, training
from nngpt_lab.candidates.ledger import Ledger
from nngpt_lab.candidates.outcome import CROWDED, Candidate, Kind, Outcome
from nngpt_lab.candidates.protocols import get_protocol
from nngpt_lab.ground import hashing
from nngpt_lab.ground.errors import UsageError
from nngpt_lab.llm import slots
from nngpt_lab.sandbox import confine, parcels, parent
from nngpt_lab.sandbox.parent import SandboxError
from nngpt_lab.sandbox.status import Status
from nngpt_lab.sandbox.task import status_of
from tests.candidates import test_training

if not confine.LINUX:
    pytest.skip("the sandbox confines on Linux only", allow_module_level=True)

network, one_thread = test_training.network, test_training.one_thread
TRAIN, HOLDOUT, TEST = 1295, 143, 359


@pytest.fixture(scope="module")
def digits():
    return proxy.prepare("digits")


@pytest.fixture(scope="module")
def evaluator(digits):
    with digits.evaluator() as evaluator:
        yield evaluator


def candidate(code: str, kind: Kind = Kind.ARCHITECTURE) -> Candidate:
    return Candidate(code, code, kind)


def evaluate(evaluator, code: str, seed: int = 0) -> Outcome:
    """An outcome that JSON can hold, too."""
    outcome = evaluator.evaluate(candidate(code), seed)
    assert json.dumps(asdict(outcome), allow_nan=False)
    assert (outcome.seed, outcome.protocol_hash) == (seed, evaluator.proxy.protocol_hash)
    assert outcome.device == "cpu, 1 thread"
    return outcome


# --- scores -------------------------------------------------------------------------------------------------------


def from_scratch(digits: proxy.Proxy, seed: int) -> float:
    """The same epoch written down plainly, as a reader of the protocol would."""
    first, _, order = (int(word) for word in np.random.SeedSequence(seed).generate_state(3))
    mean, std = (torch.tensor(part).view(1, 3, 1, 1) for part in digits.norm)
    train, predict = (torch.from_numpy(digits.images[f"{part}_images"]) for part in ("train", "predict"))
    labels = torch.from_numpy(digits.images["train_labels"])
    random.seed(first)
    torch.manual_seed(first)
    layer = nn.Linear(3 * 64, 10)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.01, momentum=0.9)
    shuffled = torch.randperm(TRAIN, generator=torch.Generator().manual_seed(order))

    def logits(images):
        return layer(nn.functional.avg_pool2d((images.float() / 255 - mean) / std, 4).flatten(1))

    for part in shuffled.split(16):
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits(train[part]), labels[part]).backward()
        optimizer.step()
    return float((logits(predict).argmax(1).numpy() == digits.labels).mean())


@pytest.mark.parametrize("seed", [0, 1])
def test_a_score_is_the_accuracy_of_one_plain_epoch(evaluator, digits, seed):
    outcome = evaluate(evaluator, network(), seed)
    assert outcome.status == Status.OK and outcome.score > 0.7, outcome
    assert outcome.score == from_scratch(digits, seed) and outcome.parameters == 1930
    assert set(outcome.seconds) == {"load", "train", "predict", "total"}
    assert 0 < sum(outcome.seconds[stage] for stage in proxy.STAGES) < outcome.seconds["total"] < 60
    assert "landlock files" in outcome.isolation or "user namespace" in outcome.isolation


def test_equal_seeds_give_equal_outcomes_and_others_do_not(evaluator):
    code = network(init="self.fc = nn.Sequential(nn.Dropout(prm['dropout']), nn.Linear(3 * 64, 10))")
    outcomes = [replace(evaluate(evaluator, code, seed), seconds={}) for seed in (0, 0, 1, 2, 3, 4, 5)]
    assert outcomes[0] == outcomes[1]
    scores = [outcome.score for outcome in outcomes[1:]]
    assert np.std(scores) > 0 and len({outcome.seed for outcome in outcomes}) == 6


def test_a_network_that_does_not_learn_scores_what_chance_gives(evaluator):
    score = evaluate(evaluator, network(learn="train_data = []")).score
    assert abs(score - 0.1) < 4 * (0.1 * 0.9 / HOLDOUT) ** 0.5


def test_seeds_differ_by_as_much_as_a_small_holdout_lets_expect(digits):
    """In process, as twenty children would. Binomial noise at 88 % of 143 images is 2.7 points; seeds share images."""
    payload = {"code": network(), "network": "", "norm": digits.norm, "classes": 10, "device": "cpu"}
    payload["protocol"] = digits.protocol.as_dict()
    logits = [training.train_and_predict(payload | {"seed": seed}, digits.images)[1]["logits"] for seed in range(20)]
    scores = [float((part.argmax(1) == digits.labels).mean()) for part in logits]
    assert 0.004 < np.std(scores, ddof=1) < 0.03 and 0.8 < np.mean(scores) < 0.95, scores


@pytest.mark.parametrize("compiled", ["self.fc = torch.compile(self.fc)", "self.compile()"])
def test_a_network_that_is_compiled_is_trained_eagerly(evaluator, compiled):
    """No compiler may start in the sandbox, and what it would make of a network differs from machine to machine."""
    assert evaluate(evaluator, network(learn=compiled)).score == evaluate(evaluator, network()).score


def test_chance_is_no_failure_and_no_failure_is_a_score(evaluator):
    """All classes equal: class 0 everywhere, as torch.max has it in the authors' metric."""
    outcome = evaluate(evaluator, network(learn="train_data = []", forward="return torch.zeros(len(x), 10)"))
    assert outcome.score == (evaluator.proxy.labels == 0).mean()


def test_seeds_that_are_none_are_refused(evaluator):
    assert evaluator.evaluate(candidate(network()), np.int64(0)).score == evaluate(evaluator, network()).score
    with pytest.raises(UsageError, match="seed"):
        evaluator.evaluate(candidate(network()), -1)
    with pytest.raises(UsageError, match="augmentation"):
        evaluator.evaluate(candidate("def transform(norm): return print", Kind.AUGMENTATION), 0)


# --- how candidates end -------------------------------------------------------------------------------------------

ENDINGS = {
    "no code": ("", Status.NO_CODE, "no code"),
    "syntax": ("class Net(:", Status.SYNTAX, "parse"),
    "syntax that only compiling finds": (network(top="return"), Status.SYNTAX, "outside function"),
    "contract": (network().replace("def learn", "def study"), Status.CONTRACT, "learn"),
    "parameters": (network(init="self.fc = nn.Linear(10**5, 10**5)"), Status.PARAMETERS, "500,000"),
    "shape": (network(init="self.fc = nn.Linear(100, 10)"), Status.SHAPE, "mat1 and mat2"),
    "classes": (network(init="self.fc = nn.Linear(192, 11)"), Status.SHAPE, "(16, 11)"),
    "several outputs": (
        network(forward="y = self.fc(x[:, :, ::4, ::4].flatten(1))\nreturn y if self.training else (y, x)"),
        Status.SHAPE,
        "tuple",
    ),
    "weights of nan": (
        network(learn="with torch.no_grad(): self.fc.weight.fill_(float('nan'))"),
        Status.NON_FINITE,
        "not finite",
    ),
    "an attribute": (network(forward="return self.gone(x)"), Status.CRASH, "'gone'"),
    "a missing module": (network(top="import no_such_module.layers"), Status.CRASH, "no_such_module"),
    "hyperparameters": (network(hyperparameters="return {'lr'} | dict(momentum=1)['mom']"), Status.CRASH, "'mom'"),
    "exit": (network(learn="raise SystemExit"), Status.CRASH, "SystemExit"),
    "quitting": (network(learn="import os\nos._exit(0)"), Status.CRASH, ""),
    "a signal": (network(learn="import ctypes\nctypes.string_at(0)"), Status.CRASH, "SIGSEGV"),
    "writing": (network(learn="open('/tmp/x', 'w')"), Status.FORBIDDEN, "/tmp/x"),
    "weights from a hub": (
        network(init="self.f = torch.hub.load('pytorch/vision', 'resnet18', weights='DEFAULT')"),
        Status.FORBIDDEN,
        "",
    ),
    "weights from torchvision": (
        network(top="import torchvision", init="self.f = torchvision.models.squeezenet1_1(weights='DEFAULT')"),
        Status.FORBIDDEN,
        "",
    ),
    "a tokenizer": (
        network(top="import transformers", learn="transformers.AutoTokenizer.from_pretrained('bert-base-uncased')"),
        Status.FORBIDDEN,
        "",
    ),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_endings(evaluator, name):
    code, status, text = ENDINGS[name]
    outcome = evaluate(evaluator, code)
    assert outcome.status == status and text in outcome.message, outcome
    assert outcome.score is None and (status in (Status.NO_CODE, Status.SYNTAX) or outcome.message)
    assert 'File "/' not in outcome.traceback  # nothing of this machine


@pytest.mark.parametrize("learn", ["torch.ones(1 << 31)", "while True: self.all = [torch.ones(1 << 22), *self.all]"])
def test_memory(evaluator, learn, monkeypatch):
    monkeypatch.setattr(evaluator.sandbox, "limits", replace(evaluator.sandbox.limits, memory_mib=512))
    outcome = evaluate(evaluator, network(learn=f"self.all = []\n{learn}"))
    assert outcome.status == Status.OUT_OF_MEMORY and outcome.message, outcome


def test_a_crash_shows_the_candidates_line(evaluator):
    code = network(
        learn="for inputs, labels in train_data:\n    loss = self.loss(self(inputs), labels).item().backward()"
    )
    outcome = evaluate(evaluator, code)
    line = next(number for number, text in enumerate(code.splitlines(), 1) if ".item()" in text)
    assert outcome.status == Status.CRASH and "AttributeError: 'float'" in outcome.message
    assert f'File "candidate.py", line {line}, in learn' in outcome.traceback
    assert "loss = self.loss(self(inputs), labels).item().backward()" in outcome.traceback


def test_a_shape_names_the_candidates_line(evaluator):
    code = network(init="self.fc = nn.Sequential(nn.Sequential(nn.Linear(100, 10)))")
    line = next(number for number, text in enumerate(code.splitlines(), 1) if "self.fc(nn.f" in text)
    assert f"candidate.py, line {line}: " in evaluate(evaluator, code).message


@pytest.mark.parametrize("piece", ["top", "init", "learn", "forward"])
def test_never_ending(evaluator, piece, monkeypatch):
    monkeypatch.setattr(evaluator.sandbox, "limits", replace(evaluator.sandbox.limits, wall_seconds=1))
    outcome = evaluate(evaluator, network(**{piece: "while True: pass" + "\nreturn x" * (piece == "forward")}))
    assert outcome.status == Status.TIMEOUT and 1 <= outcome.seconds["total"] < 20, outcome


def test_limits_are_the_protocols(digits):
    short = replace(digits, protocol=replace(digits.protocol, wall_seconds=0.2, memory_mib=77))
    limits = short.evaluator().sandbox.limits
    assert (limits.wall_seconds, limits.memory_mib) == (0.2, 77) and limits.cpu_seconds >= 1


def test_a_banner_is_no_failure(evaluator):
    loud = network(top="print('=' * 60)\nimport sys, warnings\nwarnings.warn('old')\nprint('x', file=sys.stderr)")
    assert evaluate(evaluator, loud).score == evaluate(evaluator, network()).score


def test_endless_banners_are_forbidden(evaluator):
    assert evaluate(evaluator, network(learn="while True: print('=' * 1000)")).status == Status.FORBIDDEN


# --- a proxy's data -----------------------------------------------------------------------------------------------


def test_what_is_sent(digits):
    shapes = {name: (array.dtype.str, array.shape) for name, array in digits.arrays().items()}
    assert shapes == {
        "train_images": ("|u1", (TRAIN, 3, 32, 32)),
        "train_labels": ("<i8", (TRAIN,)),
        "predict_images": ("|u1", (HOLDOUT, 3, 32, 32)),
    }
    assert len(proxy.prepare(digits.protocol.for_test()).arrays()["predict_images"]) == TEST
    assert len(digits.norm[0]) == len(digits.norm[1]) == 3


def test_a_ledger_holds_one_record_for_scores_that_can_be_compared(digits, tmp_path):
    renamed = proxy.prepare(replace(digits.protocol, name="mine", source="a typo less"))
    assert renamed.protocol_hash == digits.protocol_hash == hashing.sha256_json(digits.record)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        for some in (digits, renamed, proxy.prepare(digits.protocol.for_test())):
            ledger.add_protocol(some.protocol_hash, some.record)
        assert len(ledger.table("protocols")) == 2


def test_a_limited_training_set_is_a_fixed_part_of_the_whole(digits):
    few, same = (proxy.prepare(replace(digits.protocol, train_limit=100)) for _ in range(2))
    assert few.protocol_hash == same.protocol_hash != digits.protocol_hash
    whole = [image.tobytes() for image in _train(digits)[0]]
    places = [whole.index(image.tobytes()) for image in _train(few)[0]]
    assert places == sorted(set(places)) and np.array_equal(_train(digits)[1][places], _train(few)[1])
    assert np.array_equal(*(_train(some)[0] for some in (few, same))) and len(_train(few)[1]) == 100
    assert np.array_equal(few.labels, digits.labels)


def _train(some: proxy.Proxy) -> tuple[np.ndarray, np.ndarray]:
    return some.images["train_images"], some.images["train_labels"]


def test_a_pickled_proxy_leaves_its_images_behind_and_works_with_a_shared_parcel(evaluator, digits):
    pickled = pickle.dumps(digits)
    assert len(pickled) < 20_000
    copy = pickle.loads(pickled)
    with pytest.raises(UsageError, match="images"):
        copy.evaluator()
    shared = parcels.parcel(None, digits.arrays())
    with copy.open(shared) as other:
        assert other.evaluate(candidate(network()), 0).score == evaluate(evaluator, network()).score
    os.close(shared)


def test_bad_choices_are_refused_before_anything_starts(digits):
    for choice in ({"device": "cuda:99"}, {"device": "tpu"}, {"protocol": "digit"}):
        with pytest.raises(UsageError):
            proxy.prepare(**({"protocol": digits.protocol} | choice))
    with pytest.MonkeyPatch.context() as patch:  # a machine with one card
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "device_count", lambda: 1)
        for device in ("cuda:1", "cuda0", "cuda:x", "cuda:-1"):
            with pytest.raises(UsageError, match=f"no device '{device}' here"):
                proxy.prepare(digits.protocol, device=device)
    with pytest.raises(UsageError, match="holdout"):
        proxy.prepare(replace(digits.protocol, holdout_fraction=0.0))
    assert get_protocol("digits") == digits.protocol


def test_a_child_that_got_ready_first_predicts_the_same(evaluator, digits):
    payload = {"network": "", "norm": digits.norm, "classes": 10, "seed": 3, "device": "cpu"}
    payload |= {"code": network(), "protocol": replace(digits.protocol, flip=True, epochs=2).as_dict()}
    expect = {"logits": ("float32", (HOLDOUT, 10))}
    warm = ("get_ready", {"device": "cpu"})
    with parent.Sandbox(evaluator.sandbox.limits, proxy.TASK, shared=digits.arrays(), warm=warm) as sandbox:
        reports = [box.run("train_and_predict", payload, expect) for box in (evaluator.sandbox, sandbox, sandbox)]
    assert [report.status for report in reports] == [Status.OK] * 3, reports
    assert len({report.arrays["logits"].tobytes() for report in reports}) == 1


# --- on a GPU -----------------------------------------------------------------------------------------------------


def test_a_driver_that_does_not_start_is_no_candidates_fault(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(proxy, "_device_name", lambda device, threads: "a card whose driver does not start")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (80 * 2**30, 80 * 2**30))
    on_gpu = replace(digits, device="cuda")
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        with pytest.raises(SandboxError, match="CUDA does not start in the sandbox"):
            pool.evaluate([candidate(network())], on_gpu, ledger, workers=1, progress=False)
        assert ledger.table("evaluations").empty


@pytest.mark.parametrize(
    ("free", "total", "workers", "carried"),
    [(139, 140, 12, 12), (79, 80, 12, 11), (23, 24, 4, 3), (10.6, 24, 4, 1), (139, 140, 3, 3)],
)
def test_every_child_of_a_pool_has_a_share_of_what_is_free(free, total, workers, carried, digits, monkeypatch, caplog):
    monkeypatch.setattr(proxy, "_device_name", lambda device, threads: "a card")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free * 2**30, total * 2**30))
    with pool.open_pool(replace(digits, device="cuda"), workers=workers) as opened:
        share = total * opened._hosts[0]._proxy.gpu_fraction
        assert opened._workers == carried and share <= total / (carried + 1)
    assert pool.LEAST_GIB <= share <= (free - slots.MEMORY_SHARE * total) / carried - pool.CUDA_GIB
    assert ("candidates at a time instead of" in caplog.text) == (carried < workers)


def test_a_card_that_a_model_fills_is_told_before_any_work(digits, monkeypatch):
    monkeypatch.setattr(proxy, "_device_name", lambda device, threads: "a card")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (7 * 2**30, 24 * 2**30))
    with pytest.raises(UsageError, match=r"7\.0 of 24\.0 GiB free"):
        pool.open_pool(replace(digits, device="cuda"), workers=1)


ASKED = "CUDA out of memory. Tried to allocate {}. GPU 0 has a total capacity of 24 GiB of which 3.00 MiB is free."


@pytest.mark.parametrize(
    ("error", "crowded"),
    [
        (torch.OutOfMemoryError(ASKED.format("20.00 MiB")), True),
        (torch.OutOfMemoryError(ASKED.format("2.00 GiB")), False),  # with what it holds over its own share
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (MemoryError(), False),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory"), False),
        (ValueError("of another kind"), False),
    ],
)
def test_memory_that_others_took_is_told_from_what_a_candidate_asked_for(error, crowded, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=24 << 30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 3 << 30)
    for device, named in ("cuda:0", crowded), ("cpu", False):
        with pytest.raises(Exception) as caught, training.on_a_shared_card(torch.device(device), 4.7 / 24):
            raise error
        assert str(caught.value).startswith(CROWDED) == named
        assert status_of(caught.value) == status_of(error)


@pytest.mark.parametrize(("messages", "status", "runs"), [
    ([CROWDED, "ok"], Status.OK, 2),
    ([CROWDED] * 9, Status.OUT_OF_MEMORY, parent.TRIES),
    (["MemoryError: ", "ok"], Status.OUT_OF_MEMORY, 1),
])  # fmt: skip
def test_what_ran_out_of_memory_because_of_others_is_run_again(evaluator, messages, status, runs, monkeypatch):
    given = iter(messages)
    logits = np.zeros((HOLDOUT, 10), np.float32)
    count = []

    def run(task, payload, expect):
        count.append(message := next(given))
        if message == "ok":
            return parcels.Report(Status.OK, arrays={"logits": logits}, value={})
        return parcels.Report(Status.OUT_OF_MEMORY, message=message)

    monkeypatch.setattr(evaluator.sandbox, "run", run)
    assert evaluator.evaluate(candidate(network()), 0).status == status
    assert len(count) == runs


@pytest.mark.parametrize(("cores", "gib", "on_gpu"), [(16, 141, 12), (16, 16, 3), (6, 80, 3), (2, 80, 1), (1, 2, 1)])
def test_workers_left_out_follow_cores_and_the_cards_memory(cores, gib, on_gpu, monkeypatch):
    monkeypatch.setattr(pool, "cpu_count", lambda: cores)
    card = SimpleNamespace(total_memory=gib << 30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    assert (pool.default_workers("cpu"), pool.default_workers("cuda:0")) == (cores, on_gpu)


def test_only_a_child_on_a_gpu_sees_the_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    on_cpu, on_gpu = (parent._environment("/nowhere", gpu) for gpu in (False, True))
    assert on_cpu["CUDA_VISIBLE_DEVICES"] == "" and "CUBLAS_WORKSPACE_CONFIG" not in on_cpu
    assert (on_gpu["CUDA_VISIBLE_DEVICES"], on_gpu["CUBLAS_WORKSPACE_CONFIG"]) == ("3", ":4096:8")
