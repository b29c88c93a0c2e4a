"""Decoding: the distribution that transformers' rules give, and draws from it."""

import numpy as np
import pytest
import torch
from transformers.generation.logits_process import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from nngpt_lab.ground.errors import UsageError
from nngpt_lab.llm.decoding import Decoding, choose, probabilities


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("top_k", [0, 1, 50, 10_000])
@pytest.mark.parametrize("temperature", [0.2, 1.0, 1.7])
def test_distribution_is_that_of_transformers_warpers(temperature, top_k, top_p):
    logits = torch.randn(32, 256, generator=torch.Generator().manual_seed(0)) * 3
    scores = TemperatureLogitsWarper(temperature)(None, logits)
    if top_k:
        scores = TopKLogitsWarper(top_k)(None, scores)
    if top_p < 1:
        scores = TopPLogitsWarper(top_p)(None, scores)
    shares, tokens = probabilities(logits, Decoding(temperature, top_k, top_p, 1))
    ours = torch.zeros_like(logits).scatter(1, tokens, shares)
    theirs = scores.softmax(-1)
    assert torch.equal(ours > 0, theirs > 0)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("top_k", [5, 0])  # some tokens, and all: two ways to the same
def test_frequencies_follow_the_distribution(top_k):
    logits = torch.tensor([[2.0, 1.0, 0.5, 0.0, -1.0, -9.0]])
    decoding = Decoding(temperature=0.8, top_k=top_k, top_p=0.95, max_new_tokens=1)
    draws, n = np.random.default_rng(0).random(40_000), 40_000
    counts = torch.bincount(choose(logits.expand(n, -1), decoding, draws), minlength=6).double()
    shares, tokens = probabilities(logits, decoding)
    expected = torch.zeros(6).scatter(0, tokens[0], shares[0]).double() * n
    assert (counts[expected == 0] == 0).all()
    used = expected > 0
    assert used.sum() == 4
    statistic = ((counts - expected)[used] ** 2 / expected[used]).sum()
    assert statistic < 16.3  # chi-squared with 3 degrees of freedom, p = 0.001


@pytest.mark.parametrize("top_k", [3, 0])
def test_draws_at_the_ends_take_the_first_and_the_last_kept_token(top_k):
    logits = torch.tensor([[0.0, 3.0, 1.0, 2.0]]).expand(2, -1)
    decoding = Decoding(1.0, top_k, 0.85, 1)  # keeps 1 and 3
    assert choose(logits, decoding, [0.0, np.nextafter(1, 0)]).tolist() == [1, 3]


@pytest.mark.parametrize(
    "change", [{"temperature": -0.1}, {"temperature": float("nan")}, {"top_p": 0}, {"top_p": 1.1}, {"top_k": -1},
               {"max_new_tokens": 0}],
)  # fmt: skip
def test_decoding_that_means_nothing(change):
    with pytest.raises(UsageError):
        Decoding(**{"temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": 10} | change)
