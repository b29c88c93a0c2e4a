"""Is accuracy after one epoch a good guide to accuracy later? The audit that papers A and B lack.

Four kinds of unit, from the loosest to the strictest comparison; each answers a question of its own:

``best_of_trials``
    one point per architecture: its best trial at epoch 1 against its best trial at epoch e (what LEMUR's own interface
    returns); trials differ in learning rate, batch, momentum and transform.
``one_run``
    one point per architecture: one run, chosen by the smallest record id at epoch 1 (a hash, so an arbitrary but
    repeatable choice), against the same run at epoch e. Part of what is predicted is whether the hyperparameters work.
``hyperparameters``
    as ``one_run``, after what the hyperparameters explain of the ranks is taken away from both.
``fixed_protocol``
    as ``one_run``, but only runs that share one protocol: within each data set, the most frequent setting of (batch,
    lr, momentum, dropout, transform). Here only the architecture differs, as in paper B's loop.

Near copies are not independent: intervals resample clusters of them (:func:`lemur_overview.near_copies`). Architectures
trained longer were mostly chosen for it, so the longest horizon speaks of that selection, not of all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from joblib import delayed
from sklearn.model_selection import KFold

from nngpt_lab.corpora.architectures import PROTOCOL, one_run_per_epoch
from nngpt_lab.ground.processes import parallel
from nngpt_lab.ground.seeds import derive, generator
from nngpt_lab.papers.architecture_loop.what_decides import explained_by_hyperparameters
from nngpt_lab.statistics import intervals
from nngpt_lab.statistics.rank_bootstrap import rank_bootstrap, spearmans

LONG = 50  # most longer runs in LEMUR stop here
LEAST = 30  # architectures below which a correlation is not reported
ADJUSTED = "hyperparameters"
GAP_EDGES = np.array([0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 1.0])


def best_per_epoch(records: pd.DataFrame) -> pd.DataFrame:
    """Best accuracy per data set and architecture (rows) and epoch (columns): unit ``best_of_trials``."""
    return records.pivot_table(index=["dataset", "architecture"], columns="epoch", values="accuracy", aggfunc="max")


def fixed_protocol_per_epoch(records: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """As :func:`one_run_per_epoch` under each data set's most frequent protocol; also that protocol, as a table.

    The protocol is the one with which most architectures were seen both at epoch 1 and at epoch 5.
    """
    keys = records[PROTOCOL].fillna(-1)
    keyed = records.assign(protocol=pd.util.hash_pandas_object(keys, index=False))
    unit = ["dataset", "protocol", "architecture"]
    first = keyed.loc[keyed["epoch"] == 1, unit].drop_duplicates()
    both = keyed.loc[keyed["epoch"] == 5, unit].drop_duplicates().merge(first, on=unit)
    at_five = both.groupby(["dataset", "protocol"])["architecture"].nunique()
    common = at_five.sort_values(kind="stable").groupby("dataset").tail(1).rename("architectures").reset_index()
    kept = keyed.merge(common, on=["dataset", "protocol"])
    named = kept.drop_duplicates("dataset").sort_values("dataset")[["dataset", *PROTOCOL, "architectures"]]
    return one_run_per_epoch(kept), named


def adjusted_per_epoch(records: pd.DataFrame, seed: int) -> pd.DataFrame:
    """As :func:`one_run_per_epoch` at epochs 1 and 5, but ranks within data set and epoch, from 0 to 1, minus what the
    run's hyperparameters predict of them: boosted trees, each architecture predicted from the others (five folds)."""
    wide = one_run_per_epoch(records)[[1, 5]].dropna()
    first = records[records["epoch"] == 1].sort_values("id").drop_duplicates(["dataset", "architecture"])
    used = first.set_index(["dataset", "architecture"])[PROTOCOL].reindex(wide.index)
    tables = []
    for dataset, table in wide.groupby(level="dataset"):
        if len(table) < LEAST:
            continue
        ranks, own = table.rank(pct=True), derive("paper B", "hyperparameters", seed, dataset) % 2**32
        folds = KFold(5, shuffle=True, random_state=own)
        said = [explained_by_hyperparameters(used.loc[table.index], ranks[epoch], folds) for epoch in ranks]
        tables.append(ranks - np.column_stack(said))
    return pd.concat(tables)


@dataclass(frozen=True)
class Horizon:
    """Accuracies at epoch 1 and at ``epoch`` of the architectures that have both: ``pairs`` has shape (n, 2)."""

    dataset: str
    epoch: int
    pairs: np.ndarray
    clusters: np.ndarray


def horizons(wide: pd.DataFrame, clusters: pd.Series) -> Iterator[Horizon]:
    """Epochs 2 to 5 and the longest well covered, per data set. ``clusters``: label by architecture name."""
    for dataset, table in wide.groupby(level="dataset"):
        table = table.dropna(subset=[1]).droplevel("dataset")
        covered = [epoch for epoch in sorted(table) if 1 < epoch <= LONG and table[epoch].count() >= LEAST]
        for epoch in (epoch for epoch in covered if epoch <= 5 or epoch == covered[-1]):
            pairs = table[[1, epoch]].dropna()
            yield Horizon(dataset, int(epoch), pairs.to_numpy(), clusters.reindex(pairs.index).to_numpy(str))


def audit(wides: dict[str, pd.DataFrame], clusters: pd.Series, seed: int, resamples: int) -> pd.DataFrame:
    """Rank correlations between epoch 1 and later, per unit, data set and epoch; the bootstrap resamples ``clusters``.

    Columns: unit, dataset, epoch, n (architectures), clusters, spearman(_low, _high), kendall(_low, _high),
    top_decile_kept(_low, _high) (of the best tenth at epoch 1, the share still in the best tenth), mean_first,
    mean_later.
    """
    cells = [(unit, horizon) for unit, wide in wides.items() for horizon in horizons(wide, clusters)]
    rng = generator("paper B", "proxy audit", seed)
    streams = rng.spawn(len(cells))  # one stream per cell: the result ignores the core count
    jobs = (delayed(_audit_cell)(*cell, rng, resamples) for cell, rng in zip(cells, streams, strict=True))
    return pd.DataFrame(parallel(-1)(jobs))


def _audit_cell(unit: str, horizon: Horizon, rng: np.random.Generator, resamples: int) -> dict:
    pairs = horizon.pairs
    row = {"unit": unit, "dataset": horizon.dataset, "epoch": horizon.epoch, "n": len(pairs)}
    row["clusters"] = len(np.unique(horizon.clusters))
    for name, estimate in rank_bootstrap(pairs, rng, resamples, horizon.clusters).items():
        row |= estimate.columns(name)
    return row | {"mean_first": pairs[:, 0].mean(), "mean_later": pairs[:, 1].mean()}


def pair_order(wide: pd.DataFrame, unit: str, clusters: pd.Series) -> pd.DataFrame:
    """How often the better of two at epoch 1 is still the better later, by their gap at epoch 1. Columns: unit,
    dataset, epoch, gap_low, gap_high, pairs, still_better, ci_low, ci_high (jackknife over clusters), n
    (architectures)."""
    rows = []
    for horizon in horizons(wide, clusters):
        if horizon.epoch in (5, LONG):
            bins = intervals.pair_agreement(*horizon.pairs.T, GAP_EDGES, horizon.clusters)
            key = {"unit": unit, "dataset": horizon.dataset, "epoch": horizon.epoch}
            rows.append(pd.DataFrame({**key, **bins, "n": len(horizon.pairs)}))
    return pd.concat(rows, ignore_index=True)


def configuration_ranks(wide: pd.DataFrame, configurations: pd.DataFrame) -> pd.DataFrame:
    """Mean CIFAR-10 accuracy per generated FractalNet configuration at epochs 1 and 5, with both ranks (1 is best).

    ``configurations``: columns name, blocks, columns (:func:`lemur_overview.fractal_configurations`). Columns: blocks,
    columns, n, mean_first, mean_later, rank_first, rank_later, spearman_within (rank correlation among the variants of
    one configuration).
    """
    pairs = wide.loc["cifar-10"][[1, 5]].dropna().set_axis(["first", "later"], axis=1)
    table = pairs.join(configurations.set_index("name"), how="inner")
    rows = []
    for (blocks, columns), group in table.groupby(["blocks", "columns"]):
        first, later = group["first"], group["later"]
        within = intervals.spearman(group[["first", "later"]].to_numpy()) if len(group) >= 10 else np.nan
        rows.append((blocks, columns, len(group), first.mean(), later.mean(), within))
    names = ["blocks", "columns", "n", "mean_first", "mean_later", "spearman_within"]
    means = pd.DataFrame(rows, columns=names)
    ranks = {f"rank_{e}": means[f"mean_{e}"].rank(ascending=False).astype(int) for e in ("first", "later")}
    return means.assign(**ranks).sort_values("rank_later", ignore_index=True)


def when_to_stop(
    records: pd.DataFrame, clusters: pd.Series, seed: int, resamples: int, epochs: Sequence[int] = (1, 2, 5, 10, 20)
) -> pd.DataFrame:
    """Spearman's correlation of each of ``epochs`` with epoch :data:`LONG`, over the runs that went so far.

    A run is compared with itself later. The runs of one architecture, and of its near copies, are one cluster. Columns:
    dataset, epoch, runs, clusters, spearman(_low, _high). Data sets with at least :data:`LEAST` clusters.
    """
    own = records.sort_values("id").drop_duplicates(["dataset", "architecture", "uid", "epoch"])
    own = own[own["epoch"].isin([*epochs, LONG])]
    wide = own.pivot(index=["dataset", "architecture", "uid"], columns="epoch", values="accuracy").dropna()
    rng, rows = generator("paper B", "when to stop", seed), []
    for dataset, runs in wide.groupby(level="dataset"):
        cluster = clusters.reindex(runs.index.get_level_values("architecture")).to_numpy(str)
        row = {"dataset": dataset, "runs": len(runs), "clusters": len(np.unique(cluster))}
        for epoch in epochs if row["clusters"] >= LEAST else ():
            ranked = rank_bootstrap(runs[[epoch, LONG]].to_numpy(), rng, resamples, cluster, ["spearman"])
            rows.append(row | {"epoch": epoch} | ranked["spearman"].columns("spearman"))
    return pd.DataFrame(rows)


def free_proxy(ranks: pd.DataFrame, rng: np.random.Generator, resamples: int) -> pd.DataFrame:
    """What ranks configurations as epoch 5 does: numbers read from their text for nothing, or one epoch of training?

    ``ranks``: as :func:`configuration_ranks` returns them. Columns: proxy, n (configurations), spearman(_low, _high);
    the last row is the first proxy's minus that of training, over the same resamples.
    """
    later, n = ranks["mean_later"], len(ranks)
    proxies = {"blocks": "number of blocks", "columns": "number of columns", "mean_first": "one epoch of training"}
    pairs = {name: np.column_stack([ranks[column], later]) for column, name in proxies.items()}
    counts = intervals.resample_counts(rng, n, resamples)
    found = {name: (intervals.spearman(both), spearmans(both, counts)) for name, both in pairs.items()}
    (blocks, of_blocks), _, (training, of_training) = found.values()
    found["blocks minus training"] = blocks - training, of_blocks - of_training
    rows = []
    for name, (value, draws) in found.items():
        estimate = intervals.Estimate(value, *intervals.percentile_interval(draws), n)
        rows.append({"proxy": name, "n": n} | estimate.columns("spearman"))
    return pd.DataFrame(rows)


def best_at_one_epoch(records: pd.DataFrame, families: pd.Series) -> pd.DataFrame:
    """Best CIFAR-10 accuracy after one epoch of each architecture, and its family: columns architecture, accuracy,
    family."""
    first = records[(records["dataset"] == "cifar-10") & (records["epoch"] == 1)]
    best = first.groupby("architecture")["accuracy"].max().reset_index()
    return best.assign(family=families.reindex(best["architecture"]).to_numpy())


def one_epoch_by_family(best: pd.DataFrame, rng: np.random.Generator, resamples: int) -> pd.DataFrame:
    """What :func:`best_at_one_epoch` gives, by family. Columns: family, n, mean(_low, _high), median, best, and
    share_40, share_35, share_30 (per cent at or above, each with a Wilson interval)."""
    rows = []
    for family, values in best.groupby("family")["accuracy"]:
        mean = intervals.bootstrap(values.to_numpy(), np.mean, rng, resamples)
        row = {"family": family, "n": mean.n} | mean.columns("mean")
        row |= {"median": values.median(), "best": values.max()}
        for threshold in (0.40, 0.35, 0.30):
            share = intervals.wilson((values >= threshold).sum(), mean.n).scaled(100)
            row |= share.columns(f"share_{threshold * 100:.0f}")
        rows.append(row)
    return pd.DataFrame(rows).sort_values("n", ascending=False, ignore_index=True)
