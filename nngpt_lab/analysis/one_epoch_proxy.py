"""Is accuracy after one epoch a good guide to accuracy later? The audit that papers A and B lack.

Three kinds of unit, from the loosest to the strictest comparison:

``best_of_trials``  one point per architecture: its best trial at epoch 1 against its best trial at epoch e (what LEMUR's
                    own interface returns); trials differ in learning rate, batch, momentum and transform.
``one_run``         one point per architecture: one run, chosen by the smallest record id at epoch 1 (a hash, so an
                    arbitrary but repeatable choice), against the same run at epoch e.
``fixed_protocol``  as ``one_run``, but only runs that share one protocol: within each data set, the most frequent
                    setting of (batch, lr, momentum, dropout, transform). Here only the architecture differs, as in
                    paper B's loop.

Architectures trained longer were mostly chosen for it, so the longest horizon speaks of that selection, not of all.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from nngpt_lab.analysis import statistics

UNITS = ("best_of_trials", "one_run", "fixed_protocol")
PROTOCOL = ["batch", "lr", "momentum", "dropout", "transform"]
LONG = 50  # most longer runs in LEMUR stop here
LEAST = 30  # architectures below which a correlation is not reported
GAP_EDGES = np.array([0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 1.0])


def classification(records: pd.DataFrame) -> pd.DataFrame:
    """Image-classification records scored by accuracy: the only ones that papers A to C use."""
    wanted = (records["task"] == "img-classification") & (records["metric"] == "acc")
    columns = ["dataset", "architecture", "epoch", "accuracy", *PROTOCOL, "uid", "id"]
    return records.loc[wanted, columns].astype({"dataset": str, "architecture": str, "transform": str})


def best_per_epoch(records: pd.DataFrame) -> pd.DataFrame:
    """Best accuracy per data set and architecture (rows) and epoch (columns): unit ``best_of_trials``."""
    return records.pivot_table(index=["dataset", "architecture"], columns="epoch", values="accuracy", aggfunc="max")


def one_run_per_epoch(records: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of one arbitrary run per data set and architecture, by epoch: unit ``one_run``."""
    first = records[records["epoch"] == 1].sort_values("id")
    chosen = first.drop_duplicates(["dataset", "architecture"])[["dataset", "architecture", "uid"]]
    runs = records.merge(chosen, on=["dataset", "architecture", "uid"]).sort_values("id")
    runs = runs.drop_duplicates(["dataset", "architecture", "epoch"])  # 431 records repeat a run's hyperparameters
    return runs.pivot(index=["dataset", "architecture"], columns="epoch", values="accuracy")


def fixed_protocol_per_epoch(records: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """As :func:`one_run_per_epoch` under each data set's most frequent protocol; also that protocol, as a table.

    The protocol is the one with which most architectures were seen both at epoch 1 and at epoch 5.
    """
    keys = records[PROTOCOL].fillna(-1)
    keyed = records.assign(protocol=pd.util.hash_pandas_object(keys, index=False))
    at_five = keyed[keyed["epoch"] == 5].groupby(["dataset", "protocol"])["architecture"].nunique()
    common = at_five.sort_values(kind="stable").groupby("dataset").tail(1).rename("architectures").reset_index()
    kept = keyed.merge(common, on=["dataset", "protocol"])
    named = kept.drop_duplicates("dataset").sort_values("dataset")[["dataset", *PROTOCOL, "architectures"]]
    return one_run_per_epoch(kept), named


def horizons(wide: pd.DataFrame) -> Iterator[tuple[str, int, np.ndarray]]:
    """(data set, epoch, array (n, 2) of accuracy at epoch 1 and there) for epochs 2 to 5 and the longest well covered."""
    for dataset, table in wide.groupby(level="dataset"):
        table = table.dropna(subset=[1])
        covered = table.notna().sum()
        longest = max((e for e in covered.index if e > 5 and e <= LONG and covered[e] >= LEAST), default=None)
        for epoch in [2, 3, 4, 5, *([longest] if longest else [])]:
            pairs = table[[1, epoch]].dropna().to_numpy()
            if len(pairs) >= LEAST:
                yield dataset, int(epoch), pairs


def audit(wides: dict[str, pd.DataFrame], seed: int, resamples: int) -> pd.DataFrame:
    """Rank correlations between epoch 1 and later, per unit, data set and epoch, with bootstrap intervals.

    Columns: unit, dataset, epoch, n, spearman(_low, _high), kendall(_low, _high), top_decile_kept(_low, _high) (of the
    best tenth at epoch 1, the share still in the best tenth), mean_first, mean_later.
    """
    cells = [(unit, *cell) for unit, wide in wides.items() for cell in horizons(wide)]
    streams = np.random.default_rng(seed).spawn(len(cells))  # one stream per cell: the result ignores the core count
    rows = Parallel(n_jobs=-1)(delayed(_audit_cell)(*cell, rng, resamples) for cell, rng in zip(cells, streams, strict=True))
    return pd.DataFrame(rows)


def _audit_cell(unit: str, dataset: str, epoch: int, pairs: np.ndarray, rng: np.random.Generator, resamples: int) -> dict:
    row = {"unit": unit, "dataset": dataset, "epoch": epoch, "n": len(pairs)}
    measures = {"spearman": statistics.spearman, "kendall": statistics.kendall, "top_decile_kept": statistics.top_share_kept}
    for name, measure in measures.items():
        estimate = statistics.bootstrap(pairs, measure, rng, resamples)
        row |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    return row | {"mean_first": pairs[:, 0].mean(), "mean_later": pairs[:, 1].mean()}


def pair_order(wide: pd.DataFrame, unit: str, epochs: tuple[int, ...] = (5, LONG)) -> pd.DataFrame:
    """How often the better of two at epoch 1 is still the better later, by their gap at epoch 1.

    Columns: unit, dataset, epoch, gap_low, gap_high, pairs, still_better, ci_low, ci_high, n (architectures).
    """
    rows = []
    for dataset, epoch, pairs in horizons(wide):
        if epoch in epochs:
            found = statistics.pair_agreement(pairs[:, 0], pairs[:, 1], GAP_EDGES)
            rows.append(pd.DataFrame({"unit": unit, "dataset": dataset, "epoch": epoch, "gap_low": found.low_edge,
                                      "gap_high": found.high_edge, "pairs": found.pairs, "still_better": found.agreement,
                                      "ci_low": found.ci_low, "ci_high": found.ci_high, "n": len(pairs)}))  # fmt: skip
    return pd.concat(rows, ignore_index=True)


def one_epoch_by_family(records: pd.DataFrame, families: pd.Series, rng: np.random.Generator, resamples: int,
                        dataset: str = "cifar-10") -> pd.DataFrame:  # fmt: skip
    """Best one-epoch accuracy per architecture, summarised by family. ``families``: family by architecture name.

    Columns: family, n, mean(_low, _high), median, best, and share_40, share_35, share_30 (per cent at or above, each with
    a Wilson interval).
    """
    first = records[(records["dataset"] == dataset) & (records["epoch"] == 1)]
    best = first.groupby("architecture")["accuracy"].max()
    rows = []
    for family, values in best.groupby(families.reindex(best.index).to_numpy()):
        mean = statistics.bootstrap(values.to_numpy(), np.mean, rng, resamples)
        row = {"family": family, "n": mean.n, "mean": mean.value, "mean_low": mean.low, "mean_high": mean.high,
               "median": values.median(), "best": values.max()}  # fmt: skip
        for threshold in (0.40, 0.35, 0.30):
            share = statistics.wilson((values >= threshold).sum(), mean.n).scaled(100)
            name = f"share_{threshold * 100:.0f}"
            row |= {name: share.value, f"{name}_low": share.low, f"{name}_high": share.high}
        rows.append(row)
    return pd.DataFrame(rows).sort_values("n", ascending=False, ignore_index=True)
