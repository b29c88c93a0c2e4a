"""What ranks paper A's functions in a replay: each ranker sees the scores of an evaluated start set and no others.

A ranker takes a :class:`Task` and gives one number per function, the higher the earlier it is evaluated; nan: never.
What is known of a function before it is run is its code; operations and parameters are read from it.

    ridge           ridge regression on operations and their parameters
    neighbours      k-nearest-neighbour regression on TF-IDF of the code
    tpe             tree-structured Parzen estimator (optuna), which alone goes on learning as it evaluates
    fewest          functions with fewer operations first
    base            log-likelihood of the function as an answer of the untuned model
    tuned           the same after tuning on better/worse pairs of the start set
    shuffled        the same after tuning on pairs whose scores changed places
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import optuna
import pandas as pd
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsRegressor

from nngpt_lab.corpora.augmentations import TAIL
from nngpt_lab.corpora.code import tidy
from nngpt_lab.ground.errors import UsageError
from nngpt_lab.ground.seeds import derive, generator
from nngpt_lab.llm import adapters, lora, models, sampling
from nngpt_lab.llm.likelihood import log_likelihoods, without_common_end
from nngpt_lab.llm.prompts import encode, encode_pair
from nngpt_lab.papers.augmentation_search.pairs import draw_pairs, pair_examples, question
from nngpt_lab.papers.augmentation_search.rationales import answer
from nngpt_lab.papers.augmentation_search.scores import parameter_values

ALPHAS = np.logspace(-3, 3, 13)
NEIGHBOURS = (1, 3, 5, 10, 20)
TOKEN = r"[A-Za-z_]\w*|\d+(?:\.\d+)?"
SLOTS, NOTHING = 3, "none"  # operations in a function, at most; a slot that stays empty
FORM = "transform_nano_train"  # the prompt that the model is tuned and asked with


@dataclass(frozen=True)
class LanguageModel:
    """The model that is tuned, on how many better/worse pairs of the start set, and how: the recipe's targets, rank and
    alpha are the paper's; the rest was chosen on a seed that no replay has, for many steps at little computation."""

    coder: str = "nano-coder"
    device: str = "cpu"
    pairs: int = 200
    recipe: lora.Recipe = lora.Recipe(  # noqa: RUF009 (frozen)
        lr=3e-3, epochs=2, batch=2, accumulate=1, warmup=0.1, targets=("q_proj", "k_proj", "v_proj", "o_proj")
    )


@dataclass(frozen=True)
class Task:
    """A universe of functions, some of them evaluated.

    Attributes:
        functions: one row per code: code, code_hash, status, score (nan where it failed), operations,
            n_operations, parameters.
        start: row numbers of those evaluated, in the order of their evaluation.
        seed: of whatever a ranker draws.
        tpe_evaluations: how many functions the Parzen estimator evaluates after the start set.
        read: :func:`features` of these functions where they have been read already, as they are for a whole corpus.
    """

    functions: pd.DataFrame
    start: np.ndarray
    seed: int
    tpe_evaluations: int = 500
    read: pd.DataFrame | None = None

    def __post_init__(self):
        if self.known["score"].notna().sum() < 2:
            raise UsageError("fewer than two functions of the start set have a score", "make the start set larger")

    @functools.cached_property
    def features(self) -> pd.DataFrame:
        """:func:`features` of the functions, as they were read or are now."""
        return features(self.functions) if self.read is None else self.read

    @property
    def known(self) -> pd.DataFrame:
        """The start set."""
        return self.functions.iloc[self.start]

    @property
    def labelled(self) -> tuple[np.ndarray, np.ndarray]:
        """Row numbers of the start set's functions that have a score, and these scores."""
        scores = self.known["score"].to_numpy()
        return self.start[~np.isnan(scores)], scores[~np.isnan(scores)]


# --------------------------------------------------------------------------------------------------------- regressions


def features(functions: pd.DataFrame) -> pd.DataFrame:
    """What a function's code says: 0/1 per operation, and each of its parameters between -0.5 and 0.5.

    A parameter is scaled by the range it has in ``functions`` and is 0 where its operation is absent, so that an
    operation's own coefficient is its effect at the middle of its ranges. Parameters that are text are 0/1.
    """
    rows = [_leaves(*row) for row in zip(functions["operations"], functions["parameters"], strict=True)]
    table = pd.DataFrame(rows, index=functions.index).sort_index(axis=1)
    numeric = [name for name in table if "." in name and "=" not in name]
    low, high = table[numeric].min(), table[numeric].max()
    table[numeric] = (table[numeric] - low) / (high - low).where(high > low, 1) - 0.5 * (high > low)
    return table.fillna(0.0)


def _leaves(operations, parameters: str) -> dict[str, float]:
    """``{"Pad": 1, "Pad.padding": 3, "Pad.fill[0]": 17, "Pad.padding_mode=edge": 1}``."""
    values = dict.fromkeys(operations, 1.0)
    for operation, name, value in parameter_values(operations, parameters):
        if isinstance(value, str):
            values[f"{operation}.{name}={value}"] = 1.0
        else:
            values[f"{operation}.{name}"] = float(value)
    return values


def ridge(task: Task) -> np.ndarray:
    """Ridge regression on :func:`features`; its penalty by leave-one-out cross-validation."""
    rows, scores = task.labelled
    table = task.features.to_numpy()
    return RidgeCV(ALPHAS).fit(table[rows], scores).predict(table)


def neighbours(task: Task) -> np.ndarray:
    """Mean score of the nearest functions by cosine of TF-IDF over words and pairs of words; how many, by five-fold
    cross-validation. Word weights come from all code, which is known beforehand."""
    rows, scores = task.labelled
    words = TfidfVectorizer(token_pattern=TOKEN, ngram_range=(1, 2), lowercase=False)
    table = words.fit_transform(task.functions["code"])
    folds = min(5, len(rows))
    fewest = len(rows) - -(-len(rows) // folds)  # functions to learn from in the smallest fold
    grid = {"n_neighbors": [k for k in NEIGHBOURS if k <= fewest]}
    model = KNeighborsRegressor(metric="cosine", algorithm="brute", weights="distance")
    search = GridSearchCV(model, grid, cv=folds, scoring="neg_mean_squared_error").fit(table[rows], scores)
    return search.predict(table)


# ----------------------------------------------------------------------------------- tree-structured Parzen estimator


def tpe(task: Task) -> np.ndarray:
    """Minus the place at which optuna's TPE evaluates each function; nan for those that it does not get to.

    The space: three slots, each an operation or none, and the parameters of the chosen ones. A suggestion stands for
    the function not yet evaluated that is nearest to it by :func:`features`; what is reported back are that function's
    own operations, parameters and score. Failures are not reported. Parameters are sampled independently of each other,
    as in Bergstra et al. 2011: the sampler's multivariate variant was slower here and found less.
    """
    space = _Space(task.functions, task.features)
    sampler = optuna.samplers.TPESampler(seed=derive("paper A", "TPE", task.seed) % 2**32, multivariate=False)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=sampler, direction="maximize")
    scores = task.functions["score"].to_numpy()
    place, open_ = np.full(len(scores), np.nan), np.ones(len(scores), dtype=bool)
    for row in task.start:
        place[row], open_[row] = -np.inf, False
        space.report(study, row, scores[row])
    for number in range(min(task.tpe_evaluations, open_.sum())):
        trial = study.ask()
        row = space.nearest(trial, open_)
        study.tell(trial, state=optuna.trial.TrialState.FAIL)  # not this point is reported, but the one evaluated
        place[row], open_[row] = number, False
        space.report(study, row, scores[row])
    return -place


class _Space:
    """The functions as points of optuna's search space, and back."""

    def __init__(self, functions: pd.DataFrame, table: pd.DataFrame):
        self._table, self._column = table.to_numpy(), {name: i for i, name in enumerate(table)}
        self._used = [list(used)[:SLOTS] for used in functions["operations"]]
        self._names = tuple(sorted({name for used in self._used for name in used}))
        self._numeric = {name: [c for c in table if c.startswith(f"{name}.") and "=" not in c] for name in self._names}
        self._text = {name: [c for c in table if c.startswith(f"{name}.") and "=" in c] for name in self._names}

    def nearest(self, trial: optuna.Trial, open_: np.ndarray) -> int:
        """The open function that is nearest to what the sampler suggests; of several, the first."""
        point = np.zeros(len(self._column))
        for slot in range(SLOTS):
            name = trial.suggest_categorical(f"{slot}", self._choices(slot))
            if name == NOTHING:
                break
            point[self._column[name]] = 1
            for column in self._numeric[name]:
                point[self._column[column]] = trial.suggest_float(f"{slot} {column}", -0.5, 0.5)
            if self._text[name]:
                point[self._column[trial.suggest_categorical(f"{slot} {name}=", self._text[name])]] = 1
        rows = np.flatnonzero(open_)
        return int(rows[((self._table[rows] - point) ** 2).sum(1).argmin()])

    def report(self, study: optuna.Study, row: int, score: float) -> None:
        """Tell the study a function's score; nothing where it failed."""
        if np.isnan(score):
            return
        params: dict[str, str | float] = {}
        distributions: dict[str, BaseDistribution] = {}
        used = self._used[row]
        for slot, name in enumerate([*used, NOTHING][:SLOTS]):
            params[f"{slot}"], distributions[f"{slot}"] = name, CategoricalDistribution(self._choices(slot))
            for column in self._numeric.get(name, ()):
                params[f"{slot} {column}"] = float(self._table[row, self._column[column]])
                distributions[f"{slot} {column}"] = FloatDistribution(-0.5, 0.5)
            if options := self._text.get(name):
                params[f"{slot} {name}="] = next(c for c in options if self._table[row, self._column[c]])
                distributions[f"{slot} {name}="] = CategoricalDistribution(options)
        study.add_trial(optuna.trial.create_trial(params=params, distributions=distributions, value=score))

    def _choices(self, slot: int) -> tuple[str, ...]:
        return self._names if slot == 0 else (NOTHING, *self._names)


# ------------------------------------------------------------------------------------------------------ language model


class Writer:
    """A loaded model, and what it has read as tokens so far. Code is laid out as ``ast.unparse`` does it, which is all
    that the nano coder ever saw."""

    def __init__(self, llm: LanguageModel):
        self._llm, self._coder = llm, models.load(llm.coder, llm.device)
        self._answers: dict[str, tuple[int, ...]] = {}

    def likelihoods(self, task: Task, kind: str) -> np.ndarray:
        """Log-likelihood (nats) of each function as the answer to the start set's median function.

        ``kind``: ``base``, ``tuned`` or ``shuffled``. Counted from where answers differ up to where all end alike; the
        name of the first operation of the fixed tail counts, since writing it ends the list.
        """
        texts = self._texts(task)
        if kind == "base":
            return log_likelihoods(self._coder, texts)
        rng = generator("paper A", "replay pairs", task.seed)
        pairs = draw_pairs(task.known, rng, self._llm.pairs, shuffled=kind == "shuffled")
        pairs = pairs.assign(**{name: pairs[name].map(tidy) for name in ("worse_code", "better_code")})
        examples = pair_examples(self._coder.tokenizer, pairs, FORM, "direct")
        seed = derive("paper A", "replay tuning", task.seed)
        tuned = adapters.add_adapter(self._coder, self._llm.recipe, seed)
        try:
            lora.tune(tuned, examples, self._llm.recipe, seed, progress=False)
            with sampling.merged(tuned):
                return log_likelihoods(tuned, texts)
        finally:
            self._coder = adapters.remove_adapter(tuned)

    def _texts(self, task: Task) -> list[Sequence[int]]:
        known = task.known.dropna(subset="score").sort_values("score")
        middle = known.iloc[(len(known) - 1) // 2]
        asked = question(FORM, tidy(middle["code"]), middle["score"])
        prompt = tuple(encode(self._coder.tokenizer, asked))
        texts = [prompt + self._answer(asked, code) for code in task.functions["code"]]
        return without_common_end(texts, self._until_tail_begins(texts))

    def _answer(self, asked: list[dict[str, str]], code: str) -> tuple[int, ...]:
        """Tokens of an answer; they do not depend on what was asked."""
        if code not in self._answers:
            ids, length = encode_pair(self._coder.tokenizer, asked, answer("direct", [], tidy(code)))
            self._answers[code] = tuple(ids[length:])
        return self._answers[code]

    def _until_tail_begins(self, texts: list[tuple[int, ...]]) -> int:
        """How many tokens of the end that all texts share it takes to spell the tail's first name."""
        shared = texts[0][len(without_common_end(texts)[0]) :]
        spelt = (self._coder.tokenizer.decode(shared[:count]) for count in range(len(shared) + 1))
        return next((count for count, text in enumerate(spelt) if f"{TAIL[0]}(" in text), 0)


writer = functools.lru_cache(maxsize=1)(Writer)  # of this process: a model is loaded once

RANKERS: dict[str, Callable[[Task, LanguageModel], np.ndarray]] = {
    "ridge": lambda task, _: ridge(task),
    "neighbours": lambda task, _: neighbours(task),
    "tpe": lambda task, _: tpe(task),
    "fewest": lambda task, _: -task.functions["n_operations"].to_numpy(float),
    "base": lambda task, llm: writer(llm).likelihoods(task, "base"),
    "tuned": lambda task, llm: writer(llm).likelihoods(task, "tuned"),
    "shuffled": lambda task, llm: writer(llm).likelihoods(task, "shuffled"),
}
