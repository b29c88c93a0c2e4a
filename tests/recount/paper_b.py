"""First-epoch accuracy as a guide to epoch 5, from LEMUR's records."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from tests.recount.interval import Found
from tests.recount.published import SEVEN, TRAINED_WITH, configuration


def one_run(records: pd.DataFrame) -> pd.DataFrame:
    """Accuracy at epochs 1 and 5 (columns) of one run per data set and architecture: of the runs seen at epoch 1 that
    with the smallest key in the authors' data base."""
    table = records[records["dataset"].isin(SEVEN)].sort_values("id")
    key = ["dataset", "name"]
    chosen = table[table["epoch"] == 1].drop_duplicates(key)[[*key, "uid"]]
    both = table.merge(chosen, on=[*key, "uid"]).drop_duplicates([*key, "epoch"])
    return both.pivot(index=key, columns="epoch", values="accuracy").dropna()


def by_dataset(records: pd.DataFrame) -> pd.Series:
    """Spearman's correlation of epoch 1 with 5, where hyperparameters differ from run to run."""
    return one_run(records).groupby(level="dataset").apply(lambda own: stats.spearmanr(own[1], own[5]).statistic)


def same_protocol(records: pd.DataFrame, sources: pd.Series, draws: int = 1000) -> tuple[Found, int, int]:
    """The same on CIFAR-10 among architectures that were trained alike, in the way that most of them were; its interval
    resamples configurations, whose variants are near copies. Also how many networks and configurations these are."""
    own = records[records["dataset"] == "cifar-10"]
    way = own.groupby(TRAINED_WITH, dropna=False).ngroup()
    seen = pd.crosstab([way, own["name"]], own["epoch"]).gt(0)
    most = seen[seen[1] & seen[5]].groupby(level=0).size().idxmax()
    pairs = one_run(own[way == most]).droplevel("dataset")
    labels = [configuration(sources[name]) or name for name in pairs.index]
    code, names = pd.factorize(np.array(labels))
    members = [np.flatnonzero(code == label) for label in range(len(names))]
    values, rng = pairs.to_numpy(), np.random.default_rng(0)
    found = []
    for _ in range(draws):
        rows = np.concatenate([members[i] for i in rng.integers(0, len(names), len(names))])
        found.append(stats.spearmanr(*values[rows].T).statistic)
    estimate = Found(stats.spearmanr(*values.T).statistic, *np.nanquantile(found, [0.025, 0.975]))
    return estimate, len(pairs), len(names)
