"""From a text to a candidate worth training, and the three texts that the walkthrough follows."""

import pytest

from nngpt_lab.candidates.extract import Source
from nngpt_lab.candidates.novelty import NoveltyIndex
from nngpt_lab.candidates.outcome import Kind
from nngpt_lab.candidates.screening import example, screen
from nngpt_lab.ground.errors import UsageError
from nngpt_lab.sandbox.status import Status

GOOD = example("good")


def test_a_sound_answer_passes_every_station():
    screened = screen(GOOD, Kind.ARCHITECTURE, NoveltyIndex(), "first", prompt_hash="p", sampling_seed=7)
    assert (screened.status, screened.source, screened.message) == (Status.OK, Source.FENCE, "")
    assert not screened.match.duplicate
    candidate = screened.candidate
    assert (candidate.text, candidate.prompt_hash, candidate.sampling_seed) == (GOOD, "p", 7)
    assert candidate.code.startswith("import torch") and "```" not in candidate.code


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("I am sorry, I cannot do that.", Status.NO_CODE),
        ("", Status.NO_CODE),
        ("```python\nclass Net(nn.Module:\n```", Status.SYNTAX),
        ("```python\nclass Net:\n    pass\n```", Status.CONTRACT),
        (f"{GOOD[: GOOD.index('def learn')]}```", Status.CONTRACT),  # cut off, as by a limit on tokens
        ("\ufeff\x00\ud800", Status.NO_CODE),
    ],
)
def test_each_failure_has_its_status_and_its_reason(text, status):
    screened = screen(text, Kind.ARCHITECTURE, NoveltyIndex(), "x")
    assert screened.status == status and screened.message
    assert screened.match is None, "novelty is asked only of what keeps the contract"


def test_a_batch_is_compared_with_itself_before_any_training():
    index = NoveltyIndex()
    relaid = GOOD.replace("    def ", "    # a comment\n\n    def ")
    first = screen(GOOD, Kind.ARCHITECTURE, index, "first")
    again = screen(relaid, Kind.ARCHITECTURE, index, "second")
    assert (first.status, again.status) == (Status.OK, Status.DUPLICATE)
    assert "first" in again.message and again.match.nearest == "first"
    assert len(index) == 1, "a duplicate makes nothing else a duplicate"


def test_without_an_index_novelty_is_not_asked_about():
    assert screen(GOOD, Kind.ARCHITECTURE).match is None


def test_code_longer_than_any_published_is_not_parsed():
    text = "```python\n" + "x = 1\n" * 40_000 + "class Net:\n    pass\n```"
    screened = screen(text, Kind.ARCHITECTURE)
    assert screened.status == Status.CONTRACT and "characters" in screened.message


def test_an_unknown_example_names_those_there_are():
    with pytest.raises(UsageError) as error:
        example("../good")
    assert "attack, good, subtle" in error.value.cure
