"""Likelihoods are those of each text read alone, whatever is read beside it: in a group, and in several at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nngpt_lab.ground.errors import UsageError
from nngpt_lab.llm import likelihood
from nngpt_lab.llm.kv_cache import Forward
from nngpt_lab.llm.likelihood import by_group, log_likelihoods, without_common_end
from tests.llm.test_sampling import ARCHITECTURES, made

NAMES = [name for name in ARCHITECTURES if "hybrid" not in name]  # a hybrid's convolutions see what pads


@pytest.fixture(scope="module")
def coder():
    return made()


def group(*beginning: int, count: int = 5, seed: int = 0) -> list[tuple[int, ...]]:
    rng = np.random.default_rng(seed)
    return [(*beginning, *rng.integers(10, 200, 1 + i % 5).tolist()) for i in range(count)]


GROUPS = [
    group(5, 6, 7, 8, count=9),
    group(9, seed=1),
    group(*range(4, 40), seed=2),
    [(5, 9, 12)],
    group(*range(60, 71)),
]


def alone(coder, text, start: int) -> float:
    with torch.no_grad():
        logits = coder.model(torch.tensor([text])).logits[0].log_softmax(-1)
    return sum(float(logits[i - 1, text[i]]) for i in range(start, len(text)))


@pytest.mark.parametrize("room", [4, 40, 2048])
def test_a_group_is_read_as_each_text_alone(coder, monkeypatch, room):
    monkeypatch.setitem(likelihood.TOKENS, "cpu", room)
    given = GROUPS[0]
    assert log_likelihoods(coder, given) == pytest.approx([alone(coder, text, 4) for text in given], abs=1e-4)
    assert log_likelihoods(coder, given[::-1])[::-1] == pytest.approx(log_likelihoods(coder, given), abs=1e-4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("lora", "room", "rows", "logits"), [(False, 2048, 256, 2**28), (True, 70, 3, 600)])
def test_groups_read_together_are_as_each_text_alone(monkeypatch, name, lora, room, rows, logits):
    """600 logits are two tokens' worth of them."""
    monkeypatch.setitem(likelihood.TOKENS, "cpu", room)
    monkeypatch.setattr(likelihood, "LOGITS", logits)
    coder = made(name, lora and name != "gpt2")
    starts = [[len(text) - 1 for text in texts] for texts in GROUPS]
    for place, values in enumerate(by_group(coder, GROUPS, starts, rows)):
        expected = [alone(coder, text, len(text) - 1) for text in GROUPS[place]]
        assert values == pytest.approx(expected, abs=1e-4), (name, place)


def test_the_beginnings_of_several_groups_are_read_in_one_pass(coder, monkeypatch):
    passes, states = [], Forward.states

    def counted(self, ids, *rest, **known):
        passes.append(tuple(ids.shape))
        return states(self, ids, *rest, **known)

    monkeypatch.setattr(Forward, "states", counted)
    by_group(coder, GROUPS)
    assert passes[0] == (5, 35) and len(passes) == 2, passes
    passes.clear()
    by_group(made("mistral, window 8"), GROUPS)  # a window forgets what the padding would push out
    assert len(passes) == 9, "one for each group's ends, and one for each beginning of more than a token"


def test_texts_that_share_one_token_only_or_contain_one_another(coder):
    given = [(5, 9), (5, 10, 11), (5, 9, 12)]
    assert log_likelihoods(coder, given) == pytest.approx([alone(coder, text, 1) for text in given], abs=1e-4)
    assert log_likelihoods(coder, [(5, 9, 12)]) == pytest.approx([alone(coder, (5, 9, 12), 2)], abs=1e-4)
    assert len(log_likelihoods(coder, [])) == 0


def test_texts_without_a_common_beginning_are_refused(coder):
    with pytest.raises(UsageError, match="do not begin with the same"):
        log_likelihoods(coder, [(5, 6), (7, 6)])


def test_the_common_end_goes_except_for_its_first_tokens():
    given = [(1, 2, 7, 8, 9), (1, 7, 8, 9)]
    assert without_common_end(given) == [(1, 2), (1,)]
    assert without_common_end(given, 2) == [(1, 2, 7, 8), (1, 7, 8)]
    assert without_common_end(given, 9) == given
