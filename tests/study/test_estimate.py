"""What is said before a run starts: upper limits of the work, and an order of magnitude of the time."""

import re

import pytest

from nngpt_lab.ground.errors import UsageError
from nngpt_lab.papers.architecture_loop import design as b
from nngpt_lab.papers.architecture_loop import runs as b_runs
from nngpt_lab.papers.augmentation_search import design as a
from nngpt_lab.papers.augmentation_search import runs as a_runs
from nngpt_lab.papers.dataset_prediction import design as c
from nngpt_lab.papers.dataset_prediction import runs as c_runs
from nngpt_lab.study.design import resized
from nngpt_lab.study.estimate import expected

COUNTED = [
    (b_runs.work(b.DEMO, [b.ARMS["loop"], b.ARMS["no tuning"]], 3), 3 * 2 * 22 * 10 + 32),
    (a_runs.work(a.DEMO, [a.ARMS["loop"], a.ARMS["random generator"]], 2), 2 * a.DEMO.epochs * a.DEMO.samples),
]


@pytest.mark.parametrize(("work", "texts"), COUNTED)
def test_texts_are_those_of_the_arms_that_write(work, texts):
    assert work.texts == texts <= work.candidates and work.tuned > 0


def test_paper_cs_questions_are_asked_in_every_epoch():
    small = resized(c.DEMO, epochs=1, train=10, test=10)
    one, two, seeds = c_runs.work(small, 1), c_runs.work(resized(small, epochs=2), 1), c_runs.work(small, 3)
    assert two.tuned == 2 * one.tuned and seeds.tuned == 3 * one.tuned and two.texts == 1.5 * one.texts


def test_it_is_said_in_a_sentence_and_more_is_more():
    said = expected(COUNTED[0][0], "nano-coder", b.DEMO.recipe, "cpu")
    assert re.fullmatch(r"at most [\d,]+ texts of .* tokens, .* to tune on, .* to train; about .* GiB of disk", said)
    paper = expected(b_runs.work(b.PAPER, [b.ARMS["loop"]], 1), "DeepSeek-Coder-7B", b.PAPER.recipe, "cuda")
    assert int(re.search(r"about ([\d,]+) hours", paper)[1].replace(",", "")) > 10
    with pytest.raises(UsageError, match="no model"):
        expected(COUNTED[0][0], "nano-codr", b.DEMO.recipe, "cpu")
