"""What decides a network's accuracy after five epochs: how it is trained, or what it is? And can its text tell?"""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge
from sklearn.model_selection import BaseCrossValidator, GroupKFold, cross_val_predict
from threadpoolctl import threadpool_limits

from nngpt_lab.corpora.architectures import PROTOCOL
from nngpt_lab.statistics import intervals
from nngpt_lab.statistics.intervals import Estimate
from nngpt_lab.statistics.rank_bootstrap import rank_bootstrap

FOLDS = 5
LEAST = 30  # networks of a family below which a correlation is not reported
SHARES = ("hyperparameters", "architecture", "rest")
TOKEN = r"[A-Za-z_]\w*|\d+"  # identifiers and numbers


def explained_by_hyperparameters(
    runs: pd.DataFrame, y: pd.Series, folds: BaseCrossValidator, clusters: np.ndarray | None = None
) -> np.ndarray:
    """What boosted trees predict of ``y``, shape (runs,), from the columns ``PROTOCOL`` of the runs of other folds."""
    x = runs[PROTOCOL].assign(transform=runs["transform"].astype("category").cat.codes)
    trees = HistGradientBoostingRegressor(max_iter=40, max_leaf_nodes=15, max_bins=31, random_state=0)
    with threadpool_limits(1):  # beside one other job two threads took 53 s for what one does in 3
        return cross_val_predict(trees, x, y, cv=folds, groups=clusters)


def variance_shares(
    records: pd.DataFrame, clusters: pd.Series, rng: np.random.Generator, resamples: int, epoch: int = 5
) -> pd.DataFrame:
    """Of the variance of accuracy over all runs at ``epoch``: what hyperparameters, and what architectures make of it.

    ``hyperparameters``: R2 of boosted trees on runs of architectures that they never saw. ``architecture``: of what
    these leave, the component between architectures, by analysis of variance (Searle, Casella & McCulloch 1992, ch. 3),
    so that runs' noise is not counted as theirs. ``rest``: noise, and what needs both to be known. ``clusters`` (label
    by architecture): near copies are in one fold, and are resampled together. Columns: dataset, runs, architectures,
    clusters, and :data:`SHARES` with ``_low`` and ``_high``, in per cent; the intervals take the trees as given.
    """
    runs = records[records["epoch"] == epoch].sort_values("id").drop_duplicates(["dataset", "architecture", "uid"])
    rows = []
    for dataset, part in runs.groupby("dataset"):
        cluster = clusters.reindex(part["architecture"]).to_numpy(str)
        y = part["accuracy"] - part["accuracy"].mean()
        left = y - explained_by_hyperparameters(part, y, GroupKFold(FOLDS), cluster)
        of_architecture = left.groupby(part["architecture"])
        sums = pd.DataFrame({"runs": 1.0, "y": y, "yy": y**2, "left": left, "leftleft": left**2})
        sums["architectures"] = 1 / of_architecture.transform("size")
        sums["means"] = of_architecture.transform("sum") ** 2 * sums["architectures"] ** 2
        sums["sizes"] = 1 / sums["architectures"]
        sums = sums.groupby(cluster).sum()
        counts = intervals.resample_counts(rng, len(sums), resamples)
        drawn = _shares(pd.DataFrame(counts @ sums.to_numpy(), columns=sums.columns))
        value = _shares(sums.sum().to_frame().T)
        row = {"dataset": dataset, "runs": len(part), "architectures": len(of_architecture), "clusters": len(sums)}
        for name in SHARES:
            ends = intervals.percentile_interval(drawn[name].to_numpy())
            row |= Estimate(float(value[name].item()), *ends, len(sums)).scaled(100).columns(name)
        rows.append(row)
    return pd.DataFrame(rows)


def _shares(sums: pd.DataFrame) -> pd.DataFrame:
    """The three shares, a row for each row of sums over runs; ``means`` adds up, over the architectures, the squared
    sum of what is left of an architecture's runs by their number, ``sizes`` the squared numbers."""
    n, k = sums["runs"], sums["architectures"]
    total = sums["yy"] - sums["y"] ** 2 / n
    within = (sums["leftleft"] - sums["means"]) / (n - k)
    between = (sums["means"] - sums["left"] ** 2 / n) / (k - 1)
    component = ((between - within) / ((n - sums["sizes"] / n) / (k - 1))).clip(lower=0)
    hyperparameters, architecture = 1 - sums["leftleft"] / total, component / (total / (n - 1))
    return pd.DataFrame({"hyperparameters": hyperparameters, "architecture": architecture,
                         "rest": 1 - hyperparameters - architecture})  # fmt: skip


def surrogate(
    accuracy: pd.Series, architectures: pd.DataFrame, clusters: pd.Series, rng: np.random.Generator, resamples: int
) -> pd.DataFrame:
    """How well ridge regression on TF-IDF of the text ranks networks by ``accuracy``: within a family, and of one never
    learnt from.

    ``clusters`` (label by architecture): near copies are never on both sides, and are resampled together. Columns:
    family, n (networks), clusters; within, across: Spearman's correlation of predicted and recorded accuracy, each with
    ``_low`` and ``_high`` (bootstrap over clusters, predictions as given). Families of :data:`LEAST` and more.
    """
    facts = architectures.set_index("name").loc[accuracy.index]
    family, cluster = facts["family"].to_numpy(str), clusters.reindex(accuracy.index).to_numpy(str)
    vectorizer = TfidfVectorizer(token_pattern=TOKEN, ngram_range=(1, 2), min_df=5, max_features=5000,
                                 sublinear_tf=True)  # fmt: skip
    x, y, rows = vectorizer.fit_transform(facts["code"]), accuracy.to_numpy(), []
    for name, n in pd.Series(family).value_counts().items():
        inside = np.flatnonzero(family == name)
        others = np.flatnonzero((family != name) & ~np.isin(cluster, cluster[inside]))
        if n < LEAST:
            continue
        within = cross_val_predict(Ridge(), x[inside], y[inside], cv=GroupKFold(FOLDS), groups=cluster[inside])
        across = Ridge().fit(x[others], y[others]).predict(x[inside])
        row = {"family": name, "n": n, "clusters": len(np.unique(cluster[inside]))}
        for column, said in (("within", within), ("across", across)):
            ranked = rank_bootstrap(np.column_stack([said, y[inside]]), rng, resamples, cluster[inside], ["spearman"])
            row |= ranked["spearman"].columns(column)
        rows.append(row)
    return pd.DataFrame(rows)
