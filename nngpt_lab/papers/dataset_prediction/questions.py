"""Paper C's questions: on which of two data sets does a network do better? Built as published, split as it should be.

A question is one architecture and two data sets, both with records at the same epoch (5 in the paper). Its label
follows the paper: ``norm_acc(m, d) = acc(m, d) / max over m' of acc(m', d)`` at that epoch, rounded to four digits;
the data set with the higher value wins, a tie goes to the first.

Source: nn-gpt 1.0.6, ``ab/gpt/util/lemur_enrichment.py`` (join and labels) and ``ab/nn/util/db/Read.py`` of nn-dataset
2.1.2 (best row per task, data set, metric, architecture and epoch). The published join orders the two data sets by the
records' primary keys (``d1.id < d2.id``), which are hashes: the order is arbitrary, and it is rebuilt here exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations, groupby
from operator import itemgetter

import numpy as np
import pandas as pd

from nngpt_lab.statistics import intervals

EPOCH = 5
CODE_CHARACTERS = 2000

DATASETS = {
    "celeba-gender": (162770, 64, 3, 2),
    "cifar-10": (50000, 32, 3, 10),
    "cifar-100": (50000, 32, 3, 100),
    "imagenette": (9469, 224, 3, 10),
    "mnist": (60000, 28, 1, 10),
    "places365": (1803460, 256, 3, 365),
    "svhn": (73257, 32, 3, 10),
}
"""Training images, side in px, channels, classes: nn-gpt's ``dataset_meta.json``, which the metadata prompt shows."""


def _trials(records: pd.DataFrame) -> pd.DataFrame:
    """Image-classification records of the seven data sets at epoch 5."""
    wanted = (records["task"] == "img-classification") & (records["metric"] == "acc") & (records["epoch"] == EPOCH)
    columns = ["dataset", "architecture", "id", "accuracy"]
    chosen = records.loc[wanted & records["dataset"].isin(list(DATASETS)), columns]
    return chosen.astype({"dataset": str, "architecture": str})


def best_records(records: pd.DataFrame) -> pd.DataFrame:
    """The best record per data set and architecture at epoch 5, with its normalised accuracy: dataset, architecture,
    id, accuracy, normalised. Of records that tie for best (the published join keeps all) the smallest id is kept."""
    rows = _trials(records).sort_values(["accuracy", "id"], ascending=[False, True])
    best = rows.drop_duplicates(["dataset", "architecture"]).sort_values(["architecture", "dataset"], ignore_index=True)
    top = best.groupby("dataset")["accuracy"].transform("max")
    return best.assign(normalised=(best["accuracy"] / top).round(4))


def build_questions(records: pd.DataFrame, architectures: pd.DataFrame) -> pd.DataFrame:
    """All questions, one row each.

    Columns: architecture, family, group (architectures that are the same program up to names share one: they must not
    straddle a split), dataset_1, dataset_2 (published order), pair (the two names, sorted), norm_1, norm_2, answer
    (data set), first_wins (bool), tie (bool).
    """
    rows = []
    best = best_records(records)[["architecture", "id", "dataset", "normalised"]].itertuples(index=False, name=None)
    for name, entries in groupby(sorted(best), key=itemgetter(0)):
        rows += [(name, d1, d2, n1, n2) for (*_, d1, n1), (*_, d2, n2) in combinations(entries, 2)]
    questions = pd.DataFrame(rows, columns=["architecture", "dataset_1", "dataset_2", "norm_1", "norm_2"])
    facts = architectures.set_index("name").loc[questions["architecture"]]
    first_wins = questions["norm_1"] >= questions["norm_2"]
    return questions.assign(
        family=facts["family"].to_numpy(),
        group=facts["nameless_hash"].fillna(facts["code_hash"]).to_numpy(),
        pair=[" / ".join(sorted(p)) for p in zip(questions["dataset_1"], questions["dataset_2"], strict=True)],
        answer=np.where(first_wins, questions["dataset_1"], questions["dataset_2"]),
        first_wins=first_wins,
        tie=questions["norm_1"] == questions["norm_2"],
    )


def drawn(questions: pd.DataFrame, architectures: int, rng: np.random.Generator) -> pd.DataFrame:
    """The questions about so many architectures, drawn at random; all if there are no more."""
    names = np.sort(questions["architecture"].unique())
    if architectures >= len(names):
        return questions
    return questions[questions["architecture"].isin(rng.choice(names, architectures, replace=False))]


def pair_balance(questions: pd.DataFrame) -> pd.DataFrame:
    """Per pair of data sets, how often the more frequent winner wins: pair, n, usual_winner, share(_low, _high) in per
    cent (Wilson)."""
    rows = []
    for pair, group in questions.groupby("pair"):
        winner = group["answer"].value_counts().sort_index().idxmax()
        share = intervals.wilson((group["answer"] == winner).sum(), len(group)).scaled(100)
        rows.append({"pair": pair, "n": share.n, "usual_winner": winner} | share.columns("share"))
    return pd.DataFrame(rows).sort_values("share", ascending=False, ignore_index=True)


QUESTION_SETS: dict[str, tuple[str, ...]] = {
    "all": (),
    "balanced": ("pair",),
    "balanced within family": ("pair", "family"),
}
"""Within what both data sets of a pair win equally often. Where that is the pair, names carry nothing; where it is the
family, too, neither does knowing the family, so that a reader who beats a coin reads more than the family."""


def balanced(questions: pd.DataFrame, rng: np.random.Generator, question_set: str = "balanced") -> pd.DataFrame:
    """A random subset of the kind that :data:`QUESTION_SETS` says; all questions for ``all``."""
    if not (within := list(QUESTION_SETS[question_set])):
        return questions
    kept = []
    for _, group in questions.groupby(within):
        sides = [side.index.to_numpy() for _, side in group.groupby("answer")]
        if len(sides) == 2:
            k = min(map(len, sides))
            kept += [rng.choice(side, k, replace=False) for side in sides]
    return questions.loc[np.sort(np.concatenate(kept))] if kept else questions.iloc[:0]


@dataclass(frozen=True)
class Split:
    """One way to divide the questions: ``part`` names the fold, ``train`` and ``test`` are the questions themselves."""

    part: str
    train: pd.DataFrame
    test: pd.DataFrame


def published(questions: pd.DataFrame, rng: np.random.Generator) -> Iterator[Split]:
    """As published: no hold-out, so the test questions were trained on."""
    yield Split("all", questions, questions)


def held_out_architectures(questions: pd.DataFrame, rng: np.random.Generator, share: float = 0.2) -> Iterator[Split]:
    """A random fifth of the architectures is never trained on; programs that differ only in names stay together."""
    groups = np.sort(questions["group"].unique())
    held_out = rng.choice(groups, max(1, round(share * len(groups))), replace=False)
    inside = questions["group"].isin(held_out)
    yield Split("a fifth", questions[~inside], questions[inside])


def held_out_families(questions: pd.DataFrame, rng: np.random.Generator) -> Iterator[Split]:
    """Each family in turn is never trained on (and neither is a copy of one of its programs in another family)."""
    for family in sorted(questions["family"].unique()):
        test = questions[questions["family"] == family]
        train = questions[(questions["family"] != family) & ~questions["group"].isin(test["group"])]
        yield Split(family, train, test)


def held_out_dataset(questions: pd.DataFrame, rng: np.random.Generator) -> Iterator[Split]:
    """Each data set in turn is never trained on: questions that name it are the test."""
    for dataset in sorted({*questions["dataset_1"], *questions["dataset_2"]}):
        inside = (questions["dataset_1"] == dataset) | (questions["dataset_2"] == dataset)
        yield Split(dataset, questions[~inside], questions[inside])


SPLITS: dict[str, Callable[[pd.DataFrame, np.random.Generator], Iterator[Split]]] = {
    "published": published,
    "architectures": held_out_architectures,
    "families": held_out_families,
    "dataset": held_out_dataset,
}


def label_reliability(
    records: pd.DataFrame, questions: pd.DataFrame, rng: np.random.Generator, resamples: int
) -> pd.DataFrame:
    """How reproducible the labels are: the same question answered from one random half of the trials and the other.

    The label compares best-of-trials accuracies, and trials differ in hyperparameters. For every architecture and data
    set with at least two trials the trials are halved at random; the best of each half is normalised and the question
    labelled twice. Where the halves disagree, no reader of the code can be right about both; but the agreement r is no
    ceiling: who always names the likelier answer agrees with either half in up to (1 + sqrt(2 r - 1)) / 2 of cases.
    Columns: pair, questions, architectures, agreement(_low, _high) and ceiling(_low, _high), that very limit, in per
    cent, bootstrap over architectures. One row per question set of :data:`QUESTION_SETS`, the balanced ones weighted to
    what a balanced draw of all questions has, and one per pair.
    """
    trials = _trials(records).sort_values("id").sample(frac=1, random_state=rng)
    trials["half"] = trials.groupby(["dataset", "architecture"]).cumcount() % 2
    trials["normalised"] = trials["accuracy"] / trials.groupby("dataset")["accuracy"].transform("max")
    halves = trials.pivot_table("normalised", ["architecture", "dataset"], "half", aggfunc="max").dropna().reset_index()
    labelled = []
    for name, group in halves.groupby("architecture"):  # data sets in alphabetical order
        pairs = combinations(group[["dataset", 0, 1]].itertuples(index=False, name=None), 2)
        labelled += [(name, f"{a} / {b}", float((a0 >= b0) == (a1 >= b1))) for (a, a0, a1), (b, b0, b1) in pairs]
    agreed = pd.DataFrame(labelled, columns=["architecture", "pair", "agrees"])
    agreed = agreed.merge(questions[["architecture", "pair", "family", "answer"]], on=["architecture", "pair"])
    parts = [(name, agreed.assign(weight=_balancing(agreed, questions, within)))
             for name, within in QUESTION_SETS.items()]  # fmt: skip
    parts += [(pair, part.assign(weight=1.0)) for pair, part in agreed.groupby("pair")]
    rows = []
    for name, part in parts:
        agrees, architectures, weights = (part[column].to_numpy() for column in ("agrees", "architecture", "weight"))
        mean = intervals.widened(intervals.cluster_mean(agrees, architectures, rng, resamples, weights))
        ceiling = mean.mapped(_ceiling)
        row = {"pair": name, "questions": int((part["weight"] > 0).sum()), "architectures": mean.n}
        rows.append(row | mean.scaled(100).columns("agreement") | ceiling.scaled(100).columns("ceiling"))
    return pd.DataFrame(rows)


def _balancing(agreed: pd.DataFrame, questions: pd.DataFrame, within: tuple[str, ...]) -> pd.Series:
    """Weights that give the doubly labelled questions the composition of a balanced draw of all questions."""
    if not within:
        return pd.Series(1.0, agreed.index)
    sides = questions.groupby([*within, "answer"]).size().rename("side").reset_index()
    both = sides.groupby(list(within))["side"].agg(["min", "size"])
    drawn = both["min"].where(both["size"] == 2, 0).rename("drawn").reset_index()
    there = agreed.groupby([*within, "answer"])["agrees"].transform("size")
    return agreed.merge(drawn, on=list(within), how="left")["drawn"].to_numpy() / there


def _ceiling(agreement: float) -> float:
    """What a perfect reader reaches where two labels agree so often; each label is drawn by one probability."""
    return (1 + np.sqrt(max(2 * agreement - 1, 0))) / 2


PUBLISHED_RESULTS = pd.DataFrame(
    [
        ("normalised accuracy", "7B", 10, 10, "9"),
        ("code only", "7B", 24, 30, "15"),
        ("metadata", "7B", 21, 30, "8, 13"),
        ("code only", "1.3B", 21, 30, "22-23"),
    ],
    columns=["prompt", "model", "correct", "n", "peak_epoch"],
)
"""Paper C's peaks as counts (100, 80, 70 and 70 % of their N). The first prompt shows both scores."""


def published_results() -> pd.DataFrame:
    """Paper C's four peaks with Wilson intervals at their own n, per cent."""
    shares = [intervals.wilson(row.correct, row.n).scaled(100) for row in PUBLISHED_RESULTS.itertuples()]
    return PUBLISHED_RESULTS.join(pd.DataFrame([share.columns("accuracy", "ci_low", "ci_high") for share in shares]))


def published_counts(prompt: str, model: str = "7B") -> tuple[int, int]:
    """Right answers and N of one of the paper's peaks."""
    rows = PUBLISHED_RESULTS[(PUBLISHED_RESULTS["prompt"] == prompt) & (PUBLISHED_RESULTS["model"] == model)]
    return int(rows["correct"].iloc[0]), int(rows["n"].iloc[0])
