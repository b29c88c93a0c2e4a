"""Which of two networks does better on one data set: what a user of paper C's predictor would ask.

The questions come from the same records as paper C's (best of trials at epoch 5), and so do their controls: what can be
answered from the families alone, or from how long the code is and how many layers it names.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from nngpt_lab.papers.dataset_prediction.answers import FIRST
from nngpt_lab.papers.dataset_prediction.baselines import TOKEN, graded
from nngpt_lab.papers.dataset_prediction.division import VALIDATION_SHARE, Parts
from nngpt_lab.papers.dataset_prediction.questions import CODE_CHARACTERS, best_records

TEST_SHARE = 0.2  # of the programs
SIZES = ["characters", "layers"], ["characters_2", "layers_2"]


def build_parts(
    records: pd.DataFrame, architectures: pd.DataFrame, rng: np.random.Generator, train: int, validation: int, test: int
) -> Parts:
    """So many questions to train on, to pick the epoch by and to test on, as many of each data set; no program is in
    two parts.

    Columns: architecture, architecture_2, dataset, pair (the data set again), group (programs that are the same up to
    names; of the first network), family, family_2, characters, characters_2, layers, layers_2, norm_1, norm_2,
    first_wins, dataset_1, dataset_2 (the letters A and B, of which one is the answer). Ties are left out.
    """
    facts = architectures.set_index("name").rename(columns={"layer_calls": "layers"}).astype({"family": str})
    facts["group"] = facts["nameless_hash"].fillna(facts["code_hash"])
    best = best_records(records).join(facts[["group", "family", "characters", "layers"]], on="architecture")
    programs = rng.permutation(np.sort(best["group"].unique()))
    tested = round(TEST_SHARE * len(programs))
    held = tested + round(VALIDATION_SHARE * (len(programs) - tested))
    sides = (programs[held:], train), (programs[tested:held], validation), (programs[:tested], test)
    parts = []
    for place, (side, count) in enumerate(sides):
        table = _pairs(best[best["group"].isin(side)], count, rng)
        table.index += place * 10**6  # an index that no other part has
        parts.append(table.assign(first=np.arange(len(table)) < FIRST, sampled=True))
    return Parts(*parts)


def _pairs(best: pd.DataFrame, count: int, rng: np.random.Generator) -> pd.DataFrame:
    datasets = sorted(name for name, group in best.groupby("dataset") if group["group"].nunique() > 1)
    tables = []
    for place, dataset in enumerate(datasets):
        group = best[best["dataset"] == dataset].reset_index(drop=True)
        wanted = count // len(datasets) + (place < count % len(datasets))
        ends = rng.integers(0, len(group), (20 * wanted + 20, 2))
        first, second = (group.iloc[column].reset_index(drop=True) for column in ends.T)
        usable = (first["group"] != second["group"]) & (first["normalised"] != second["normalised"])
        usable &= ~pd.DataFrame(np.sort(ends, axis=1)).duplicated()
        tables.append(first.join(second.add_suffix("_2"))[usable].head(wanted))
    table = pd.concat(tables, ignore_index=True).rename(columns={"normalised": "norm_1", "normalised_2": "norm_2"})
    first_wins = table["norm_1"] > table["norm_2"]
    return table.assign(pair=table["dataset"], dataset_1="A", dataset_2="B", first_wins=first_wins)


def family(train: pd.DataFrame, test: pd.DataFrame, code: Mapping[str, str]) -> np.ndarray:
    """Bradley-Terry strengths of the families on each data set."""
    names = sorted({*train["dataset"] + train["family"], *train["dataset"] + train["family_2"]})
    column = {name: i for i, name in enumerate(names)}

    def features(questions: pd.DataFrame) -> sparse.csr_array:
        sides = [(questions["dataset"] + questions[f]).map(column) for f in ("family", "family_2")]
        shape, every = (len(questions), len(names)), np.arange(len(questions))
        first, second = (
            sparse.csr_array((side.notna().to_numpy(float), (every, side.fillna(0).astype(int))), shape=shape)
            for side in sides
        )
        return first - second

    return _logistic(features(train), features(test), train)


def size(train: pd.DataFrame, test: pd.DataFrame, code: Mapping[str, str]) -> np.ndarray:
    """Differences in log length of the code and in log number of layer calls, with a slope for each data set."""
    datasets = sorted(train["dataset"].unique())

    def features(questions: pd.DataFrame) -> np.ndarray:
        first, second = (np.log1p(questions[names].to_numpy(float)) for names in SIZES)
        inside = [(questions["dataset"] == dataset).to_numpy(float) for dataset in datasets]
        return np.column_stack([gap * asked for gap in (first - second).T for asked in inside])

    return _logistic(features(train), features(test), train)


def code_words(train: pd.DataFrame, test: pd.DataFrame, code: Mapping[str, str]) -> np.ndarray:
    """Difference in TF-IDF of the first 2,000 characters."""
    seen = sorted({*train["architecture"], *train["architecture_2"]})
    words = TfidfVectorizer(token_pattern=TOKEN, ngram_range=(1, 2), min_df=2, max_features=1000, sublinear_tf=True)
    words.fit(code[name][:CODE_CHARACTERS] for name in seen)

    def features(questions: pd.DataFrame) -> sparse.csr_matrix:
        first, second = (
            words.transform(code[name][:CODE_CHARACTERS] for name in questions[column])
            for column in ("architecture", "architecture_2")
        )
        return first - second

    return _logistic(features(train), features(test), train)


CONTROLS = {"family": family, "code length and layers": size, "code words": code_words}


def answer_controls(train: pd.DataFrame, test: pd.DataFrame, code: Mapping[str, str]) -> pd.DataFrame:
    """Every control's answers: columns baseline, question, group, pair, correct (0.5 where it has no opinion)."""
    tables = []
    for name, control in CONTROLS.items():
        correct = graded(control(train, test, code), test)
        facts = {"question": test.index, "group": test["group"].to_numpy(), "pair": test["pair"].to_numpy()}
        tables.append(pd.DataFrame({"baseline": name, **facts, "correct": correct}))
    return pd.concat(tables, ignore_index=True)


def _logistic(features, tested, train: pd.DataFrame) -> np.ndarray:
    """P(first wins); no intercept, so that swapping the networks flips the answer."""
    model = LogisticRegression(fit_intercept=False, max_iter=500).fit(features, train["first_wins"])
    return model.predict_proba(tested)[:, 1]
