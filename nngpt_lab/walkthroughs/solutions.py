"""Exercises of the teaching notebooks: hints, a check of the reader's answer, and solutions that show when asked.

They are not in the notebooks, because JupyterLab unfolds every output on Run All.

    exercises = Exercises("minhash")
    exercises.ask(2)                 # with what the answer is computed from, where a notebook has that
    exercises.check(2, your_answer)
    exercises.hint(2)
    exercises.solution(2)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from nngpt_lab.candidates import novelty
from nngpt_lab.ground.errors import UsageError
from nngpt_lab.ground.names import named
from nngpt_lab.statistics.claims import Claim, verdict
from nngpt_lab.statistics.intervals import Estimate, best_of_n_weights, expected_draws
from nngpt_lab.walkthroughs.minhash import retrieval

CLOSE = 0.01  # of a right number that is no count: as near as an answer must be


@dataclass(frozen=True)
class Exercise:
    """``solve`` computes the answer from what was handed to ``ask``; ``lesson`` is said once it is there. ``read``
    turns an answer, from the same data, into what is compared: a number, a word or a dictionary of them."""

    hint: str
    solve: Callable[..., Any]
    lesson: str
    read: Callable[..., Any] = lambda answer, **data: answer


class Exercises:
    """The exercises of one notebook, by number. Nothing it does raises because of an answer."""

    def __init__(self, notebook: str):
        self._exercises = named("notebook with exercises", notebook, NOTEBOOKS)
        self._asked: dict[int, dict[str, Any]] = {}

    def ask(self, number: int, **data: Any) -> None:
        """Hand over what an exercise's answer is computed from."""
        self._find(number)
        self._asked[number] = data

    def hint(self, number: int) -> None:
        """Print a first step."""
        print(self._find(number).hint)

    def check(self, number: int, answer: Any) -> None:
        """Print how far the answer is right, without giving it away."""
        exercise, data = self._find(number), self._data(number)
        if _is_open(answer):
            print(f"Exercise {number}: nothing answered yet. hint({number}) gives a first step.")
            return
        right = _by_name(exercise.read(exercise.solve(**data), **data))
        try:
            given = _by_name(exercise.read(answer, **data))
            found = {name: _compared(given.get(name), value) for name, value in right.items()}
        except Exception as error:  # whatever a reader may have written
            print(f"Exercise {number}: this answer cannot be read ({type(error).__name__}: {error}).")
            return
        if not right.keys() & given.keys():
            print(f"Exercise {number}: answer with {', '.join(f'{name!r}: ...' for name in right)} in braces.")
            return
        if set(found.values()) == {"right"}:
            print(f"Exercise {number}: right. {exercise.lesson}")
        else:
            print(f"Exercise {number}: not yet. " + "; ".join(f"{name}: {word}" for name, word in found.items()))

    def solution(self, number: int) -> None:
        """Print a solution as code, what it gives, and what follows."""
        exercise, data = self._find(number), self._data(number)
        print(inspect.getsource(exercise.solve))
        for name, value in _by_name(exercise.read(exercise.solve(**data), **data)).items():
            print(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")
        print(f"\n{exercise.lesson}")

    def _find(self, number: int) -> Exercise:
        if number not in self._exercises:
            raise UsageError(f"there is no exercise {number}", f"choose one of {', '.join(map(str, self._exercises))}")
        return self._exercises[number]

    def _data(self, number: int) -> dict[str, Any]:
        if number not in self._asked:
            raise UsageError(f"exercise {number} was not asked yet", "run the cells above this one first")
        return self._asked[number]


def _is_open(answer: Any) -> bool:
    parts = list(answer.values()) if isinstance(answer, dict) else [answer]
    return all(part is None or part is ... for part in parts)


def _by_name(answer: Any) -> dict[Any, Any]:
    return dict(answer) if isinstance(answer, Mapping) else {"your answer": answer}


def _compared(given: Any, right: Any) -> str:
    if given is None or given is ...:
        return "nothing yet"
    if isinstance(right, str):
        return "right" if str(given).strip().lower() == right else "another one"
    if isinstance(right, bool):
        return "right" if bool(given) is right else "look again"
    if np.isclose(float(given), right, rtol=CLOSE if isinstance(right, float) else 0):
        return "right"
    return "too high" if given > right else "too low"


# --- the tour ---------------------------------------------------------------------------------------------------------


def best_of_many(base: np.ndarray) -> dict[int, float]:
    ordered = np.sort(base)  # the k-th smallest is the best of n with the k-th weight
    return {n: float(best_of_n_weights(len(ordered), n) @ ordered) for n in (2, 4, 6) if n <= len(ordered)}


def good_enough(scores: np.ndarray, noise: float) -> float:
    hits = int((scores >= scores.max() - 2 * noise).sum())
    return expected_draws(len(scores), hits)


def usual_winners(train: pd.DataFrame, test: pd.DataFrame, even: pd.DataFrame) -> pd.Series:
    return train.groupby("pair")["answer"].agg(lambda answers: answers.value_counts().sort_index().idxmax())


def shares_right(answer: Any, train: pd.DataFrame, test: pd.DataFrame, even: pd.DataFrame) -> dict[str, float]:
    """Right answers, per cent, of a dictionary, a Series or a function from a pair to a name."""
    told = answer if callable(answer) else dict(answer).get
    parts = {"all questions": test, "balanced ones": even}
    return {name: 100 * float((part["pair"].map(told) == part["answer"]).mean()) for name, part in parts.items()}


def verdicts_by_rule(four_runs: pd.DataFrame) -> dict[str, str]:
    claim = Claim(id="tour", paper="-", claim="above the control", value=0, margin=2, unit="points", grade="I",
                  source="tour", test="effect", least=3, units="seeds")  # fmt: skip
    return {row.run: verdict(claim, Estimate(row.difference, row.low, row.high, 5)) for row in four_runs.itertuples()}


TOUR = {
    1: Exercise(
        "With networks sorted by accuracy, the expected best of n is a weighted mean of them: "
        "intervals.best_of_n_weights(len(base), n) @ base.",
        best_of_many,
        "The best grows with the number of draws although the model learns nothing. So the best network of cycle 18 "
        "says little unless cycle 1 had as many draws; the lab compares means, valid rates and shares over a "
        "threshold, at equal numbers of samples.",
    ),
    2: Exercise(
        "Count the functions with a score of at least scores.max() - 2 * noise, then ask "
        "intervals.expected_draws(len(scores), hits).",
        good_enough,
        'A six-hundredth of that is less than one candidate. "600 times" can only mean ten candidates an epoch beside '
        "a corpus of six thousand: that compares budgets, not what they find.",
    ),
    3: Exercise(
        'Group train by "pair" and take the most frequent "answer" of each. A dictionary, a Series or a function '
        "will do.",
        usual_winners,
        "The names alone do about as well as the paper's 80 %. Where names cannot help, whatever a model gets right "
        "above a half is the code's: that is the question to ask of any model, and notebook 03 asks it.",
        shares_right,
    ),
    4: Exercise(
        "Mark -2 and 2 on a line and draw each interval. Which reach across 2? Of those wholly below it, which lie "
        "wholly above -2?",
        verdicts_by_rule,
        "A wide interval around 0 shows nothing, a narrow one shows that there is nothing. Without a margin, written "
        "down before the run, the two look alike.",
    ),
}  # fmt: skip

# --- the walkthroughs -------------------------------------------------------------------------------------------------


def one_token_changed() -> int:
    # The changed token stands in k shingles. Of n shingles n - k stay, and n + k are there together.
    k, threshold = 10, 0.90
    return next(n for n in range(k, 1000) if (n - k) / (n + k) >= threshold)


def bands_for_copies() -> dict[str, int]:
    rows = np.arange(1, 129)
    bands = 256 // rows  # what is left over is not looked at
    enough = retrieval(0.90, bands, rows) >= 0.99
    best = np.argmin(np.where(enough, retrieval(0.70, bands, rows), np.inf))
    return {"bands": int(bands[best]), "rows": int(rows[best])}


def adapter_of_k_proj() -> dict[str, float]:
    matrix, per_rank = 64 * 256, 64 + 256  # weights of the matrix, and of its adapter for each rank
    return {"share": 32 * per_rank / matrix, "from rank": matrix // per_rank + 1}


def starts_that_learn() -> dict[str, bool]:
    # Each matrix's gradient has the other one as a factor: with both at zero neither ever moves.
    return {"A and B zero": False, "A zero, B random": True}


MINHASH = {
    1: Exercise(
        "How many shingles hold the changed token? So many are lost and as many are new; all others are shared.",
        one_token_changed,
        "A text of N tokens has n = N - k + 1 shingles, and the index is (n - k) / (n + k): any shorter network counts "
        "as new once a single token in its middle differs.",
    ),
    2: Exercise(
        "Try all lengths: rows = np.arange(1, 129), bands = 256 // rows. Keep those with hand.retrieval(0.90, bands, "
        "rows) from 0.99 up, and of them the one with the smallest hand.retrieval(0.70, bands, rows).",
        bands_for_copies,
        f"datasketch cuts {novelty.bands(0.85, 256)} (bands, rows) for 0.85. Shorter bands miss fewer copies and look "
        "at more pairs.",
    ),
}  # fmt: skip
LORA = {
    1: Exercise(
        "An adapter of rank r has r weights for each row and for each column of the matrix.",
        adapter_of_k_proj,
        "The share is r (64 + 256) / (64 * 256); it is 1 at r = 51.2, so from rank 52 on the matrix itself is cheaper.",
    ),
    2: Exercise(
        "Look at hand.gradients: which of the two matrices stands in the gradient of A, and which in that of B?",
        starts_that_learn,
        "If both are zero, so are both gradients, for ever. One zero is enough to change nothing at first: with B "
        "random and A zero, A moves first. hand.gradients(inputs, upstream, a, b, alpha) shows both.",
    ),
}  # fmt: skip
NOTEBOOKS = {"00_tour": TOUR, "minhash": MINHASH, "lora": LORA}
