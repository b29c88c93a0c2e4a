"""Which questions a run trains on, picks its epoch by, and is tested on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pandas as pd

from nngpt_lab.ground.errors import UsageError
from nngpt_lab.ground.seeds import generator
from nngpt_lab.papers.dataset_prediction.answers import FIRST
from nngpt_lab.papers.dataset_prediction.design import KEY, Design
from nngpt_lab.papers.dataset_prediction.lab import Run
from nngpt_lab.papers.dataset_prediction.questions import QUESTION_SETS, SPLITS, Split, held_out_architectures

VALIDATION_SHARE = 0.15  # of the training part's programs


@dataclass(frozen=True)
class Parts:
    """Questions to train on, to pick the epoch by, and to test on (with columns ``first`` and ``sampled``)."""

    train: pd.DataFrame
    validation: pd.DataFrame
    test: pd.DataFrame


def held_out_near_duplicates(questions: pd.DataFrame, rng: np.random.Generator) -> Iterator[Split]:
    """As held-out architectures, but near-duplicates stay together, too (column near_duplicates)."""
    yield from held_out_architectures(questions.assign(group=questions["near_duplicates"]), rng)


ALL_SPLITS = SPLITS | {"near-duplicates": held_out_near_duplicates}


def folds(design: Design, questions: pd.DataFrame, split: str, seed: int) -> list[str]:
    """Names of a split's folds, those with most test questions first, as many as the design runs."""
    if split not in ALL_SPLITS:
        raise UsageError(f"there is no split {split!r}", f"use one of {', '.join(ALL_SPLITS)}")
    split_folds = list(ALL_SPLITS[split](questions, generator(KEY, "split", seed)))
    largest_first = sorted(split_folds, key=lambda fold: -len(fold.test))
    return [fold.part for fold in largest_first][: design.parts]


def fold_of(questions: pd.DataFrame, this: Run) -> Split:
    """The whole fold that a run draws its questions from."""
    folds_of_split = ALL_SPLITS[this.split](questions, generator(KEY, "split", this.seed))
    return next(fold for fold in folds_of_split if fold.part == this.part)


def divide(design: Design, questions: pd.DataFrame, this: Run) -> Parts:
    """The questions of one run. Programs of the validation part are not trained on, but where nothing is held out.

    The first 30 test questions in the order of the table stand for the paper's own choice (``[:test_nn]``): they are of
    few architectures. The others are drawn at random; in a balanced set both names of every pair win equally often in
    each of the three parts. Without a hold-out ("published") the tested questions are among those trained on.
    """
    fold = fold_of(questions, this)
    rng = generator(KEY, "questions", this.seed, this.split, this.part, this.question_set)
    questions_of, train = this.question_set, fold.train
    sampled = draw(fold.test, design.test, rng, questions_of)
    first = (sampled if QUESTION_SETS[questions_of] else fold.test).head(FIRST)
    test = fold.test.loc[sorted({*first.index, *sampled.index})]
    test = test.assign(first=test.index.isin(first.index), sampled=test.index.isin(sampled.index))
    if this.split == "published":
        others = draw(train.drop(test.index), max(0, (design.train or len(train)) - len(test)), rng, questions_of)
        train = train.loc[sorted({*test.index, *others.index})]
        return Parts(train, draw(train, design.validation, rng, questions_of), test)
    programs = np.sort(train["group"].unique())
    held = rng.choice(programs, max(1, round(VALIDATION_SHARE * len(programs))), replace=False)
    inside = train["group"].isin(held)
    validation = draw(train[inside], design.validation, rng, questions_of)
    return Parts(draw(train[~inside], design.train, rng, questions_of), validation, test)


def draw(questions: pd.DataFrame, most: int | None, rng: np.random.Generator, question_set: str) -> pd.DataFrame:
    """At most so many questions at random; of a balanced set in couples of a pair (and family): each name wins one."""
    if not (within := list(QUESTION_SETS[question_set])):
        count = len(questions) if most is None else min(most, len(questions))
        return questions.iloc[np.sort(rng.choice(len(questions), count, replace=False))]
    couples: list[tuple] = []
    for _, group in questions.groupby(within):
        sides = [rng.permutation(side.index.to_numpy()) for _, side in group.groupby("answer")]
        couples += list(zip(*sides, strict=False)) if len(sides) == 2 else []
    count = len(couples) if most is None else min(most // 2, len(couples))
    chosen = rng.choice(len(couples), count, replace=False) if couples else []
    return questions.loc[sorted(chain.from_iterable(couples[i] for i in chosen))]
