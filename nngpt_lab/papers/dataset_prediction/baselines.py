"""Baselines that paper C lacks: what can be answered without any language model, and without reading the code.

Every baseline is trained on the training questions of a split and returns, for each test question, P(first data set
wins). The order of the two names carries no information (it is a hash), and every baseline answers alike when they are
swapped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pandas as pd
from joblib import delayed
from scipy import sparse
from scipy.special import expit
from sklearn.decomposition import TruncatedSVD
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from nngpt_lab.corpora.architectures import family_of
from nngpt_lab.ground.hashing import sha256_json
from nngpt_lab.ground.processes import parallel
from nngpt_lab.ground.progress import bar_hidden, noted
from nngpt_lab.ground.seeds import SCHEME, derive, generator
from nngpt_lab.papers.dataset_prediction.answers import accuracy
from nngpt_lab.papers.dataset_prediction.questions import (
    CODE_CHARACTERS,
    DATASETS,
    QUESTION_SETS,
    SPLITS,
    Split,
    balanced,
)
from nngpt_lab.statistics import intervals
from nngpt_lab.statistics.intervals import Estimate
from nngpt_lab.study.kept import kept

NAMES = tuple(DATASETS)
TOKEN = r"[A-Za-z_]\w*|\d+"  # identifiers and numbers: widths and kernel sizes are what tells networks apart
VERSION = 2  # of what these baselines answer; kept answers of another one are not read
BINS = 31  # of each of boosting's features; with 255 it is no better, and four times as slow
TOLERANCE = 1e-4  # on a balanced set the loss is so flat that at 1e-3 a fit ends before its first step


def chance(train: pd.DataFrame, test: pd.DataFrame, code: CodeFeatures, seed: int) -> np.ndarray:
    """A fair coin per question."""
    return generator("paper C", "chance", seed).integers(0, 2, len(test)).astype(float)


def frequent_winner(train: pd.DataFrame, test: pd.DataFrame, code: CodeFeatures, seed: int) -> np.ndarray:
    """The data set that wins more of its questions, whatever the other one is; one never seen wins half of them."""
    rate = _win_rates(train)
    return expit((test["dataset_1"].map(rate).fillna(0.5) - test["dataset_2"].map(rate).fillna(0.5)).to_numpy())


def names(train: pd.DataFrame, test: pd.DataFrame, code: CodeFeatures, seed: int) -> np.ndarray:
    """Of these two names the one that won more often (Laplace-smoothed; a pair never seen: the frequent winner)."""
    return _pair_prior(train, test, ["pair"], fallback=frequent_winner(train, test, code, seed))


def family_and_names(train: pd.DataFrame, test: pd.DataFrame, code: CodeFeatures, seed: int) -> np.ndarray:
    """As names, within the architecture's family: does code say more than its family?"""
    return _pair_prior(train, test, ["pair", "family"], fallback=names(train, test, code, seed))


def metadata(train: pd.DataFrame, test: pd.DataFrame, code: CodeFeatures, seed: int) -> np.ndarray:
    """Logistic regression on differences of log images, log side, channels and log classes, without an intercept:
    swapping the names flips the answer."""
    scaler = StandardScaler().fit(_metadata(NAMES))

    def features(questions: pd.DataFrame) -> np.ndarray:
        return scaler.transform(_metadata(questions["dataset_1"])) - scaler.transform(_metadata(questions["dataset_2"]))

    model = LogisticRegression(fit_intercept=False).fit(features(train), train["first_wins"])
    return model.predict_proba(features(test))[:, 1]


def code_logistic(train: pd.DataFrame, test: pd.DataFrame, code: CodeFeatures, seed: int) -> np.ndarray:
    """TF-IDF of the code -> which of the seven data sets wins, restricted to the two offered: the prompt's own task."""
    features = code.fit(train)
    rows, answers, weights = _count_answers(train, code)
    model = LogisticRegression(max_iter=200, tol=TOLERANCE).fit(features[rows], answers, sample_weight=weights)
    return _restrict(model.predict_proba(features[code.rows_of(test)]), model.classes_, test)


def code_boosting(
    train: pd.DataFrame, test: pd.DataFrame, code: CodeFeatures, seed: int, rounds: int = 40
) -> np.ndarray:
    """The same with gradient-boosted trees on 30 singular vectors of the TF-IDF matrix."""
    features = code.fit(train)
    rows, answers, weights = _count_answers(train, code)
    svd = TruncatedSVD(min(30, features.shape[1] - 1), random_state=seed).fit(features[np.unique(rows)])
    training, tested = (svd.transform(features[each]) for each in (rows, code.rows_of(test)))
    # Binned here, since the classifier's own weighted quantiles take as long as its trees, which are no better for them
    edges = np.quantile(np.repeat(training, weights, axis=0), np.linspace(0, 1, BINS + 1)[1:-1], axis=0).T
    training, tested = (
        np.column_stack([np.searchsorted(*pair) for pair in zip(edges, values.T, strict=True)])
        for values in (training, tested)
    )
    settings = {"max_iter": rounds, "max_leaf_nodes": 15, "max_bins": BINS, "early_stopping": False}
    model = HistGradientBoostingClassifier(**settings, random_state=seed)
    with threadpool_limits(1):  # threads that wait for one another are slower on any machine that is not idle
        model.fit(training, answers, sample_weight=weights)
        return _restrict(model.predict_proba(tested), model.classes_, test)


def code_and_names(train: pd.DataFrame, test: pd.DataFrame, code: CodeFeatures, seed: int) -> np.ndarray:
    """A Bradley-Terry model whose strengths depend on the code, plus names.

    P(first wins) = sigmoid(s(code, first) - s(code, second) + b(pair)) with s linear in TF-IDF per data set.
    """
    features = code.fit(train)
    model = LogisticRegression(fit_intercept=False, max_iter=200, tol=TOLERANCE)
    model.fit(_bradley_terry(train, features[code.rows_of(train)]), train["first_wins"])
    return model.predict_proba(_bradley_terry(test, features[code.rows_of(test)]))[:, 1]


Baseline = Callable[..., np.ndarray]  # (train, test, code features, seed) -> P(first wins)
BASELINES: dict[str, Baseline] = {
    f.__name__: f
    for f in (chance, frequent_winner, names, metadata, family_and_names, code_logistic, code_boosting, code_and_names)
}


def answer_all(
    questions: pd.DataFrame,
    code: Mapping[str, str],
    seeds: int,
    seed: int,
    folder: Path,
    rounds: int = 40,
) -> pd.DataFrame:
    """Every baseline's answers under every split, on all questions and on the balanced ones.

    ``code`` is the source by architecture; ``folder`` keeps a file per fold, so that a call that was stopped goes on
    where it was; ``rounds`` are those of boosting. A balanced set is cut from the training and from the test part of
    each split, so that names carry no information in either; within families only with architectures held out, as where
    whole families are, a test part has one. Only held-out architectures are others with every seed; elsewhere seeds
    could only draw other balanced sets of the same programs, so there is one. Columns: split, part (the fold),
    question_set, seed, baseline, question (index in ``questions``), group, pair, correct (1, 0, or 0.5 for a baseline
    without an opinion).
    """
    texts = {name: code[name] for name in sorted(questions["architecture"].unique())}
    asked = pd.util.hash_pandas_object(questions).tolist()
    folder = folder / sha256_json([VERSION, SCHEME, rounds, seed, texts, asked])[:12]
    jobs: dict[Path, tuple[str, str, int, Split]] = {}
    for split, question_set in product(SPLITS, QUESTION_SETS):
        if question_set == "balanced within family" and split != "architectures":
            continue
        for s in range(seeds if split == "architectures" else 1):
            rng = generator("paper C", "baselines' folds", seed, s)
            for number, part in enumerate(SPLITS[split](questions, rng)):
                part = Split(part.part, *(balanced(side, rng, question_set) for side in (part.train, part.test)))
                if len(part.test):
                    file = folder / f"{split}-{question_set}-{s}-{number:02d}.parquet".replace(" ", "-")
                    jobs[file] = (split, question_set, s, part)
    missing = {file: job for file, job in jobs.items() if not file.exists()}
    features = CodeFeatures(texts)
    calls = (delayed(kept)(file, partial(_answer, *job, features, seed, rounds)) for file, job in missing.items())
    done = noted(parallel(-1, return_as="generator_unordered")(calls), "baselines", len(missing))
    for _ in tqdm(done, "baselines", total=len(missing), unit=" folds", disable=bar_hidden(), leave=False):
        pass
    return pd.concat(map(pd.read_parquet, jobs), ignore_index=True)


def _answer(
    split: str, question_set: str, s: int, part: Split, code: CodeFeatures, seed: int, rounds: int
) -> pd.DataFrame:
    """All baselines' answers to one fold: together, so that its questions are sent to a process once."""
    facts = {"question": part.test.index, "group": part.test["group"].to_numpy(), "pair": part.test["pair"].to_numpy()}
    tables, own_seed = [], derive("paper C", "baselines", seed, s) % 2**32  # scikit-learn takes 32 bits
    for name, baseline in BASELINES.items():
        size = {"rounds": rounds} if baseline is code_boosting else {}
        correct = graded(baseline(part.train, part.test, code, own_seed, **size), part.test)
        key = {"split": split, "part": part.part, "question_set": question_set, "seed": s, "baseline": name}
        tables.append(pd.DataFrame({**key, **facts, "correct": correct}))
    return pd.concat(tables, ignore_index=True)


def graded(probability: np.ndarray, questions: pd.DataFrame) -> np.ndarray:
    """1 for a right answer, 0 for a wrong one, 0.5 for none; ``probability`` is that the first one wins."""
    return np.where(probability == 0.5, 0.5, (probability > 0.5) == questions["first_wins"].to_numpy())


def summarise(answers: pd.DataFrame, rng: np.random.Generator, resamples: int) -> pd.DataFrame:
    """Accuracy per split, part, baseline and question set; ``part`` "all parts" pools the folds. Columns: these, n
    (answers, all seeds), programs (those that differ in more than names), accuracy, ci_low, ci_high (per cent;
    bootstrap over programs), seeds."""
    in_parts = answers[answers["split"].isin(["families", "dataset"])]
    parts = pd.concat([answers.assign(part="all parts"), in_parts], ignore_index=True)
    keys = ["split", "part", "baseline", "question_set"]
    rows = []
    for key, group in parts.groupby(keys, sort=False):
        mean = accuracy(group, rng, resamples)
        row = dict(zip(keys, key, strict=True)) | {"n": len(group), "programs": mean.n}
        row |= mean.columns("accuracy", "ci_low", "ci_high")
        rows.append(row | {"seeds": group["seed"].nunique()})
    return pd.DataFrame(rows)


def by_dataset(answers: pd.DataFrame, rng: np.random.Generator, resamples: int) -> pd.DataFrame:
    """Accuracy on the questions that name each data set; columns dataset, baseline, n, accuracy, ci_low, ci_high."""
    rows = []
    for dataset, baseline in product(sorted(NAMES), dict.fromkeys(answers["baseline"])):
        named = answers["pair"].map(lambda pair, name=dataset: name in pair.split(" / "))
        these = answers[named & (answers["baseline"] == baseline)]
        mean = accuracy(these, rng, resamples)
        row = {"dataset": dataset, "baseline": baseline, "n": len(these)}
        rows.append(row | mean.columns("accuracy", "ci_low", "ci_high"))
    return pd.DataFrame(rows)


def paired_difference(answers: pd.DataFrame, a: str, b: str, rng: np.random.Generator, resamples: int) -> Estimate:
    """Accuracy of baseline ``a`` minus that of ``b`` on the same answers, points; bootstrap over equal programs."""
    sides = {name: answers[answers["baseline"] == name].set_index(["seed", "part", "question"]) for name in (a, b)}
    difference = sides[a]["correct"] - sides[b]["correct"]
    clusters = sides[a]["group"].reindex(difference.index)
    return intervals.cluster_mean(difference.to_numpy(float), clusters, rng, resamples).scaled(100)


BASE_FOLDS = 10


def unseen_bases(
    questions: pd.DataFrame, code: dict[str, str], seed: int, rng: np.random.Generator, resamples: int
) -> pd.DataFrame:
    """Does code say more than a family where there is more to a family than one generator? Hand-written networks,
    no relative of which was learnt from.

    The hand-written networks' bases (VGG, ResNet, ...) are held out, a tenth at a time; ``code_and_names`` learns from
    all other questions, balanced within family. Answers are weighted so that both names of a pair win equally often:
    among all these networks (``of all bases``: does code tell of a base that it never saw which data set suits it?), or
    within each base (``within a base``: does it tell variants of one base apart?). Columns: balanced, questions (that a
    balanced draw has), bases, accuracy, ci_low, ci_high (per cent, over bases).
    """
    base = questions["architecture"].map(lambda name: family_of(name)[1])
    written = questions["family"] == "hand-written"
    features = CodeFeatures({name: code[name] for name in questions["architecture"].unique()})
    draw, answered = generator("paper C", "unseen bases", seed), []
    bases = draw.permutation(np.sort(base[written].unique()))
    for fold in range(min(BASE_FOLDS, len(bases))):
        test = questions[written & base.isin(bases[fold::BASE_FOLDS])]
        train = questions.drop(test.index)
        train = balanced(train[~train["group"].isin(test["group"])], draw, "balanced within family")
        said = code_and_names(train, test, features, seed)
        answered.append(test.assign(base=base, correct=graded(said, test)))
    table, rows = pd.concat(answered), []
    for name, within in (("of all bases", ["pair"]), ("within a base", ["pair", "base"])):
        weight = balancing_weights(table, within)
        part, weight = table[weight > 0], weight[weight > 0]
        correct = part["correct"].to_numpy(float)
        mean = intervals.cluster_mean(correct, part["base"], rng, resamples, weight)
        mean = intervals.widened(mean).scaled(100)
        row = {"balanced": name, "questions": round(weight.sum()), "bases": mean.n}
        rows.append(row | mean.columns("accuracy", "ci_low", "ci_high"))
    return pd.DataFrame(rows)


def balancing_weights(questions: pd.DataFrame, within: list[str]) -> np.ndarray:
    """Weights, shape (questions,), under which both names of a pair win equally often within ``within``, and which add
    up to as many questions as a balanced draw has; 0 where one name always wins."""
    own = questions.groupby([*within, "answer"])["answer"].transform("size")
    other = questions.groupby(within)["answer"].transform("size") - own
    return (np.minimum(own, other) / own).to_numpy(float)


class CodeFeatures:
    """TF-IDF of each architecture's first 2,000 characters, weighted and selected by a split's training part only.

    Tokens (words and pairs of words) are counted once for all architectures; ``fit`` then keeps the 1,000 tokens that
    are most frequent in the training part, and takes document frequencies from there: the same as a vectoriser
    fitted on that part, without reading the text again.
    """

    def __init__(self, code: dict[str, str], size: int = 1000):
        self.index = {name: i for i, name in enumerate(sorted(code))}
        vectorizer = CountVectorizer(token_pattern=TOKEN, ngram_range=(1, 2), min_df=2)
        self.counts = vectorizer.fit_transform(code[name][:CODE_CHARACTERS] for name in self.index)
        self.size = size
        self._last: tuple[pd.DataFrame, sparse.csr_matrix] | None = None

    def rows_of(self, questions: pd.DataFrame) -> np.ndarray:
        """Row of each question's architecture."""
        return questions["architecture"].map(self.index).to_numpy()

    def fit(self, train: pd.DataFrame) -> sparse.csr_matrix:
        """TF-IDF of all architectures (rows), with vocabulary and weights of the training part's; kept until another
        part is asked for, as several baselines read it."""
        if self._last is not None and self._last[0] is train:
            return self._last[1]
        inside = self.counts[np.unique(self.rows_of(train))]
        documents = np.asarray((inside > 0).sum(axis=0)).ravel()
        usable = np.flatnonzero(documents >= 2)
        frequency = np.asarray(inside.sum(axis=0)).ravel()[usable]
        chosen = np.sort(usable[np.argsort(-frequency, kind="stable")[: self.size]])
        weighting = TfidfTransformer(sublinear_tf=True).fit(inside[:, chosen])
        self._last = train, weighting.transform(self.counts[:, chosen]).tocsr()
        return self._last[1]


def _count_answers(train: pd.DataFrame, code: CodeFeatures) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Feature row, answer and count: equal answers of one architecture are counted instead of repeated."""
    counts = train.groupby(["architecture", "answer"]).size().reset_index(name="count")
    return code.rows_of(counts), counts["answer"].to_numpy(), counts["count"].to_numpy()


def _restrict(probabilities: np.ndarray, classes: np.ndarray, test: pd.DataFrame) -> np.ndarray:
    """P(first) among the two names offered; a name the classifier never saw has probability 0."""
    column = {name: i for i, name in enumerate(classes)}
    padded = np.hstack([probabilities, np.zeros((len(probabilities), 1))])
    every = np.arange(len(test))
    first, second = (
        padded[every, test[d].map(column).fillna(len(classes)).astype(int)] for d in ("dataset_1", "dataset_2")
    )
    return np.divide(first, first + second, out=np.full(len(test), 0.5), where=first + second > 0)


def _bradley_terry(questions: pd.DataFrame, features: sparse.csr_matrix) -> sparse.csr_matrix:
    """Rows: TF-IDF in the first name's block, minus TF-IDF in the second's; then one signed column per pair. Swapping
    the names flips the sign of the row, and the model has no intercept: it cannot learn the order."""
    sign = [
        (questions["dataset_1"] == d).to_numpy(float) - (questions["dataset_2"] == d).to_numpy(float) for d in NAMES
    ]
    blocks = [sparse.diags_array(column) @ features for column in sign]
    pairs = [f"{a} / {b}" for a, b in combinations(sorted(NAMES), 2)]
    forward = np.where(questions["dataset_1"] < questions["dataset_2"], 1.0, -1.0)
    column = pd.Categorical(questions["pair"], categories=pairs).codes
    prior = sparse.csr_array((forward, (np.arange(len(questions)), column)), shape=(len(questions), len(pairs)))
    return sparse.hstack([*blocks, prior], format="csr")


def _metadata(datasets) -> np.ndarray:
    images, side, channels, classes = np.array([DATASETS[d] for d in datasets], dtype=float).T
    return np.column_stack([np.log(images), np.log(side), channels, np.log(classes)])


def _win_rates(train: pd.DataFrame) -> dict[str, float]:
    seen = pd.concat([train["dataset_1"], train["dataset_2"]]).value_counts()
    won = train["answer"].value_counts()
    return {name: won.get(name, 0) / count for name, count in seen.items()}


def _pair_prior(train: pd.DataFrame, test: pd.DataFrame, keys: list[str], fallback: np.ndarray) -> np.ndarray:
    """Smoothed share of wins of the alphabetically first name within ``keys``, turned to the question's order."""
    first_name_wins = (train["dataset_1"] < train["dataset_2"]) == train["first_wins"]
    counts = first_name_wins.groupby([train[k] for k in keys]).agg(["sum", "size"])
    share = ((counts["sum"] + 1) / (counts["size"] + 2)).rename("share")
    prior = test[keys].merge(share, left_on=keys, right_index=True, how="left")["share"].reindex(test.index).to_numpy()
    turned = np.where(test["dataset_1"] < test["dataset_2"], prior, 1 - prior)
    return np.where(np.isnan(prior), fallback, turned)
