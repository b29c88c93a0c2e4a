"""Attacks on the score: whatever a candidate does, it gets what its predictions deserve against labels it never saw.

The candidates here run as ``test_proxy.py``'s do. What they find out they tell by raising it.
"""

from __future__ import annotations

import inspect
import textwrap
from dataclasses import replace

import numpy as np
import pytest

from nngpt_lab.candidates import proxy
from nngpt_lab.candidates.ledger import Ledger
from nngpt_lab.sandbox import parcels
from nngpt_lab.sandbox.status import Status
from tests.candidates import test_proxy
from tests.candidates.test_training import network

HOLDOUT, TRAIN, candidate, evaluate = test_proxy.HOLDOUT, test_proxy.TRAIN, test_proxy.candidate, test_proxy.evaluate
digits, evaluator = test_proxy.digits, test_proxy.evaluator
FRAMES = """
import sys

def found(name):
    frame = sys._getframe(1)
    while name not in frame.f_locals:
        frame = frame.f_back
    return frame.f_locals[name]
"""
MADE_UP = np.arange(HOLDOUT) % 10


# --- labels -------------------------------------------------------------------------------------------------------


def test_no_label_to_score_against_is_sent(evaluator, digits, monkeypatch):
    """Neither in what every child shares nor in what one is told; in no integer or float type, whole or in a row."""
    sent = {}
    run = evaluator.sandbox.run
    monkeypatch.setattr(
        evaluator.sandbox, "run", lambda *args, **more: sent.update(args=args, more=more) or run(*args, **more)
    )
    assert evaluate(evaluator, network()).status == Status.OK
    told = b"".join(bytes(chunk) for chunk in parcels.pack(sent["args"], digits.arrays()))
    assert set(sent["more"]) == {"expect"} and set(sent["more"]["expect"]) == {"logits"}
    types = ("i8", "i4", "i2", "u1", "f4", "f8")
    held = [digits.labels.astype(kind).tobytes() for kind in types] + [str(digits.labels[:20].tolist())[1:-1].encode()]
    assert not any(labels[: len(labels) // 4] in told for labels in held)
    assert digits.images["train_labels"][:300].tobytes() in told  # what the search finds if it is there


def search(lengths):
    """Everything reachable from modules, frames and the collector that looks like so many labels, by length."""
    import gc
    import sys

    import numpy
    import torch

    kinds, seen, hits = (numpy.ndarray, torch.Tensor, list, tuple, bytes, bytearray, memoryview), set(), {}
    queue = [list(sys.modules.values()), list(sys._current_frames().values()), gc.get_objects()]
    while queue:
        held = queue.pop()
        if id(held) in seen:
            continue
        seen.add(id(held))
        if isinstance(held, kinds) and getattr(held, "ndim", 1) == 1 and len(held) in lengths:
            values = set(held.tolist() if hasattr(held, "tolist") else filter(lambda x: type(x) is int, held))
            if len(values) == 10 and values <= set(range(10)):
                hits[len(held)] = hits.get(len(held), 0) + 1
        queue += gc.get_referents(held)
    return hits


def test_a_search_through_the_childs_objects_finds_the_training_labels_alone(evaluator):
    source = textwrap.dedent(inspect.getsource(search))
    code = network(top=source, learn=f"raise KeyError(str(search({{{TRAIN}, {HOLDOUT}}})))")
    message = evaluate(evaluator, code).message
    assert message.startswith(f"KeyError: '{{{TRAIN}: ") and f"{HOLDOUT}:" not in message, message


def test_the_published_labels_cannot_be_looked_up(evaluator):
    """The digits are part of scikit-learn, which lies among the packages that a child may read."""
    if "mount namespace" not in evaluator.sandbox.isolation:
        pytest.skip("without a mount namespace a file that is read cannot be hidden")
    learn = "from sklearn.datasets import load_digits; raise KeyError(str(load_digits().target.shape))"
    message = evaluate(evaluator, network(learn=learn)).message
    assert "digits.csv" in message and "1797" not in message


@pytest.mark.parametrize("part", ["holdout", "test"])
def test_images_of_the_other_part_are_not_sent(digits, part):
    protocols = {"holdout": digits.protocol, "test": digits.protocol.for_test()}
    sent = {name: proxy.prepare(protocol).arrays()["predict_images"] for name, protocol in protocols.items()}
    absent = {image.tobytes() for image in sent["test" if part == "holdout" else "holdout"]}
    assert len(absent) > 100
    for images in (digits.images["train_images"], sent[part]):
        assert not absent & {image.tobytes() for image in images}


# --- predictions --------------------------------------------------------------------------------------------------


def deserved(digits, predictions) -> float:
    return float((predictions == digits.labels).mean())


def test_training_on_the_images_to_predict_with_made_up_labels_teaches_the_made_up_labels(evaluator, digits):
    learn = """
        images, labels = found("images")["predict_images"], torch.arange(143) % 10
        inputs = found("prepares")[1](images)
        for step in range(400):
            self.zero_grad()
            self.loss(self(inputs), labels).backward()
            with torch.no_grad():  # by hand: steps of an optimizer would be counted, and there are no batches
                for weight in self.parameters():
                    weight -= 0.004 * (1 - step / 400) * weight.grad.sign()
        train_data = []
    """
    init = "self.fc = nn.Sequential(nn.Linear(192, 256), nn.ReLU(), nn.Linear(256, 10))"
    outcome = evaluate(evaluator, network(top=FRAMES, learn=learn, init=init))
    assert outcome.score == deserved(digits, MADE_UP) < 0.25  # it has learnt them by heart, for nothing


def test_a_candidate_that_patches_predict_is_scored_on_the_labels(evaluator, digits):
    learn = """
        from nngpt_lab.candidates import training
        training.predict = lambda *_: torch.nn.functional.one_hot(torch.arange(143) % 10).float()
    """
    assert evaluate(evaluator, network(learn=learn)).score == deserved(digits, MADE_UP)


def forging(value: str, logits: str) -> str:
    """A candidate that writes the answer itself and leaves."""
    learn = f"""
        import functools, os, sys
        import numpy as np
        from nngpt_lab.sandbox.parcels import pack
        logits, nan, inf = np.eye(10, dtype="f4")[np.arange(143) % 10], float("nan"), float("inf")
        sys.set_int_max_str_digits(0)
        for chunk in pack({{"status": "ok", "value": {value}, "message": "", "traceback": ""}}, {{"logits": {logits}}}):
            os.write(3, chunk)
        os._exit(0)
    """
    return network(learn=learn)


FORGED = {
    "as many": ("logits", Status.OK),
    "a column more": ("np.eye(11, dtype='f4')[np.arange(143) % 10]", Status.SHAPE),
    "the training set's": ("np.zeros((1295, 10), 'f4')", Status.SHAPE),
    "one row less": ("logits[1:]", Status.SHAPE),
    "labels instead": ("np.arange(143) % 10", Status.SHAPE),
    "of higher precision": ("logits.astype('f8')", Status.SHAPE),
    "one nan": ("np.where(np.arange(1430).reshape(143, 10) == 77, nan, logits).astype('f4')", Status.NON_FINITE),
    "infinite": ("logits * inf", Status.NON_FINITE),
    "endless": ("np.zeros((10**6, 10), 'f4')", Status.FORBIDDEN),
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_logits(evaluator, digits, name):
    logits, status = FORGED[name]
    outcome = evaluate(evaluator, forging("None", logits))
    assert (outcome.status, outcome.score) == (status, deserved(digits, MADE_UP) if status == Status.OK else None)


def test_a_forged_status_is_a_failure_at_best(evaluator):
    code = forging("None", "logits").replace('"status": "ok"', '"status": "duplicate", "score": 1.0')
    outcome = evaluate(evaluator, code)
    assert outcome.score is None and outcome.status != Status.OK


# --- what it says of itself ---------------------------------------------------------------------------------------

LIES = {
    "nothing": "None",
    "a list": "[1, 2]",
    "text": "'excellent'",
    "no numbers": "{'parameters': 'few', 'seconds': {'train': 'fast', 'load': None, 'predict': [1]}}",
    "no table": "{'parameters': {}, 'seconds': 3.5}",
    "truth": "{'parameters': True, 'seconds': {'train': True, 'load': False}}",
    "nan": "{'parameters': nan, 'seconds': {'train': nan, 'load': inf, 'predict': -inf}}",
    "negative": "{'parameters': -1, 'seconds': {'train': -1.0, 'load': -5}}",
    "huge": "{'parameters': 10**400, 'seconds': {'train': 10**400, 'load': 10**19, 'predict': 2**63}}",
    "other stages": "{'parameters': 2**63, 'seconds': {'total': 0.0, 'score': 1, **{str(i): 1 for i in range(9999)}}}",
    "fractions": "{'parameters': 1.5, 'seconds': {}}",
    "a score": "{'score': 1.0, 'status': 'ok', 'labels': list(range(143))}",
}


@pytest.mark.parametrize("name", LIES)
def test_lies_are_left_out(evaluator, digits, name, tmp_path):
    code = forging(LIES[name], "logits")
    outcome = evaluate(evaluator, code)
    assert (outcome.status, outcome.score) == (Status.OK, deserved(digits, MADE_UP))
    assert outcome.parameters is None and list(outcome.seconds) == ["total"] and outcome.seconds["total"] > 0.01
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.add_protocol(digits.protocol_hash, digits.record)
        assert ledger.add_outcome(candidate(code), outcome)
        assert ledger.outcome(candidate(code).code_hash, digits.protocol_hash, 0) == outcome


def test_plausible_numbers_are_kept_as_its_word(evaluator):
    lie = "{'parameters': 0, 'seconds': {'train': 0, 'load': 1e18, 'predict': 0.5}}"
    outcome = evaluate(evaluator, forging(lie, "logits"))
    assert outcome.parameters == 0
    assert {**outcome.seconds, "total": 0} == {"train": 0, "load": 1e18, "predict": 0.5, "total": 0}


@pytest.mark.parametrize(
    "value", ["10**5000", "'x' * (1 << 21)", "'\\ud800'", "functools.reduce(lambda held, _: [held], range(900), 1)"]
)
def test_values_that_cannot_be_read_end_in_a_status(evaluator, value):
    outcome = evaluate(evaluator, forging(value, "logits"))
    assert outcome.status in (Status.OK, Status.CRASH, Status.FORBIDDEN, Status.SHAPE), outcome


# --- the next one -------------------------------------------------------------------------------------------------

SABOTAGE = """
    import builtins, random, sys
    import numpy as np
    from nngpt_lab.candidates import parcels, proxy, training, worker
    for module in (torch, torch.nn.functional, torch.Tensor, np, random, training, worker, parcels):
        for name in dir(module):
            if not name.startswith("__"):
                try: setattr(module, name, None)
                except Exception: pass
    builtins.len = lambda x: 0
    sys.modules.clear()
"""


def test_the_next_candidate_finds_everything_as_it_was(evaluator):
    before = replace(evaluate(evaluator, network()), seconds={})
    assert evaluate(evaluator, network(learn=SABOTAGE)).status != Status.OK
    assert evaluate(evaluator, network(learn="open('left', 'w').write('x')")).status == Status.OK
    assert evaluate(evaluator, network(learn="open('left')")).status == Status.CRASH  # no such file
    assert replace(evaluate(evaluator, network()), seconds={}) == before
