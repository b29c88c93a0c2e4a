"""The proxy audit on records whose truth is known."""

from __future__ import annotations

import hashlib

import joblib
import numpy as np
import pandas as pd
import pytest

from nngpt_lab.corpora.architectures import classification
from nngpt_lab.papers.architecture_loop import proxy_audit as proxy


def record(architecture, epoch, accuracy, dataset="cifar-10", **given) -> dict:
    row = {"task": "img-classification", "dataset": dataset, "metric": "acc", "architecture": architecture}
    row |= {"epoch": epoch, "accuracy": accuracy, "batch": 64, "lr": 0.01, "momentum": 0.9, "dropout": np.nan}
    row |= {"transform": "norm", "uid": "u0"} | given
    return row | {"id": hashlib.md5(repr(sorted(row.items())).encode()).hexdigest()}


def runs(later, n=60, seed=0, **given) -> list[dict]:
    """One run per architecture: accuracy at epoch 1 is uniform, at epochs 2 to 5 what ``later`` makes of it."""
    first = np.random.default_rng(seed).uniform(0.1, 0.6, n)
    return [
        record(f"net-{i}", epoch, value if epoch == 1 else later(i, value), **given)
        for i, value in enumerate(first)
        for epoch in (1, 2, 5)
    ]


def wides_of(rows: list[dict]) -> dict[str, pd.DataFrame]:
    records = classification(pd.DataFrame(rows))
    fixed, _ = proxy.fixed_protocol_per_epoch(records)
    return {
        "best_of_trials": proxy.best_per_epoch(records),
        "one_run": proxy.one_run_per_epoch(records),
        "fixed_protocol": fixed,
    }


def audit(rows: list[dict], clusters: pd.Series | None = None, seed: int = 0, resamples: int = 20) -> pd.DataFrame:
    return proxy.audit(wides_of(rows), alone(rows) if clusters is None else clusters, seed, resamples)


def alone(rows: list[dict]) -> pd.Series:
    """Every architecture is its own cluster."""
    names = sorted({row["architecture"] for row in rows})
    return pd.Series(names, index=names)


NOISE = np.random.default_rng(9).uniform(0, 1, 60)


@pytest.mark.parametrize(
    ("later", "low", "high"),
    [
        (lambda i, x: np.sqrt(x), 1, 1),  # a perfect proxy: any increasing function
        (lambda i, x: 1 - x, -1, -1),
        (lambda i, x: NOISE[i], -0.3, 0.3),
        (lambda i, x: x + 0.3 * NOISE[i], 0.6, 0.95),
    ],
)
def test_known_truths(later, low, high):
    found = audit(runs(later))
    assert set(found["unit"]) == {"best_of_trials", "one_run", "fixed_protocol"} and set(found["epoch"]) == {2, 5}
    assert (found["n"] == 60).all()
    assert found["spearman"].between(low - 1e-12, high + 1e-12).all()
    assert (found["spearman_low"] <= found["spearman_high"]).all()
    if low == high:
        assert np.allclose(found["kendall"], low) and np.allclose(found["top_decile_kept"], max(low, 0))


def test_result_depends_on_neither_row_order_nor_cores():
    rows = runs(lambda i, x: x + NOISE[i], lr=0.1) + runs(lambda i, x: x, seed=1, uid="u1", dataset="svhn")
    expected = audit(rows, seed=3)
    shuffled = [rows[i] for i in np.random.default_rng(1).permutation(len(rows))]
    pd.testing.assert_frame_equal(audit(shuffled, seed=3), expected)
    with joblib.parallel_config(backend="sequential"):
        pd.testing.assert_frame_equal(audit(rows, seed=3), expected)
    assert not audit(rows, seed=4).equals(expected)


def test_copies_of_one_program_are_not_independent_evidence():
    """Sixty networks that are copies of ten: the interval is that of ten."""
    rows = runs(lambda i, x: x + 0.5 * NOISE[i])
    copies = pd.Series({f"net-{i}": f"program-{i % 10}" for i in range(60)})
    values = {(row["architecture"], row["epoch"]): row["accuracy"] for row in rows}
    copied = [row | {"accuracy": values[f"net-{int(row['architecture'][4:]) % 10}", row["epoch"]]} for row in rows]
    clustered, naive = audit(copied, copies, resamples=300), audit(copied, resamples=300)
    assert (clustered["clusters"] == 10).all() and (naive["clusters"] == 60).all()
    assert clustered["spearman"].to_list() == naive["spearman"].to_list()
    width = [(f["spearman_high"] - f["spearman_low"]).mean() for f in (clustered, naive)]
    assert width[0] > 1.7 * width[1]


def test_only_classification_by_accuracy_counts():
    rows = [record("a", 1, 0.5), record("b", 1, 0.5) | {"metric": "bleu"}, record("c", 1, 0.5) | {"task": "txt"}]
    assert list(classification(pd.DataFrame(rows))["architecture"]) == ["a"]


def two_trials() -> pd.DataFrame:
    """Two runs of one architecture: one is better at epoch 1, the other at epoch 5."""
    fast = [record("net", 1, 0.6, uid="fast"), record("net", 5, 0.62, uid="fast")]
    slow = [record("net", 1, 0.2, uid="slow", lr=0.001), record("net", 5, 0.9, uid="slow", lr=0.001)]
    return classification(pd.DataFrame(fast + slow))


def test_best_of_trials_mixes_runs_and_one_run_does_not():
    records = two_trials()
    best = proxy.best_per_epoch(records)
    assert list(best.loc[("cifar-10", "net"), [1, 5]]) == [0.6, 0.9]
    one = proxy.one_run_per_epoch(records).loc[("cifar-10", "net"), [1, 5]].to_list()
    chosen = records[records["epoch"] == 1].sort_values("id").iloc[0]["uid"]
    assert one == {"fast": [0.6, 0.62], "slow": [0.2, 0.9]}[chosen]


def test_one_run_follows_the_smallest_id_at_epoch_one():
    records = two_trials()
    for first in ("fast", "slow"):
        smallest = (records["uid"] == first) & (records["epoch"] == 1)
        forced = records.assign(id=np.where(smallest, "0", "f" + records["id"]))
        assert proxy.one_run_per_epoch(forced)[5].item() == {"fast": 0.62, "slow": 0.9}[first]


def test_a_run_recorded_twice_counts_once():
    rows = pd.DataFrame([record("net", 1, 0.5), record("net", 5, 0.7), record("net", 5, 0.8, duration=3)])
    wide = proxy.one_run_per_epoch(classification(rows))
    assert wide.shape == (1, 2) and wide[5].item() in (0.7, 0.8)


def test_fixed_protocol_is_the_most_shared_one_and_excludes_the_others():
    common = [record(f"n{i}", e, 0.1 * e, lr=0.01, uid="c") for i in range(4) for e in (1, 5)]
    rare = [record(f"n{i}", e, 0.15 * e, lr=0.1, uid="r") for i in range(3) for e in (1, 5)]
    repeated = [record("n0", e, 0.12 * e, lr=0.5, uid=f"many{k}") for k in range(9) for e in (1, 5)]
    wide, named = proxy.fixed_protocol_per_epoch(classification(pd.DataFrame(common + rare + repeated)))
    assert (wide[5] == 0.5).all() and len(wide) == 4
    assert (named["lr"].item(), named["architectures"].item()) == (0.01, 4)


def test_fixed_protocol_counts_architectures_seen_at_both_epochs():
    late = [record(f"late{i}", 5, 0.5, lr=0.1) for i in range(9)]  # many, but never seen at epoch 1
    both = [record(f"n{i}", e, 0.1 * e, lr=0.01) for i in range(4) for e in (1, 5)]
    _, named = proxy.fixed_protocol_per_epoch(classification(pd.DataFrame(late + both)))
    assert (named["lr"].item(), named["architectures"].item()) == (0.01, 4)


def test_missing_values_are_a_protocol_of_their_own():
    """Runs without a dropout rate share a protocol: a null equals a null."""
    rows = [record(f"n{i}", e, 0.1 * e, momentum=np.nan) for i in range(5) for e in (1, 5)]
    wide, _ = proxy.fixed_protocol_per_epoch(classification(pd.DataFrame(rows)))
    assert len(wide) == 5


def test_horizons_need_enough_architectures_and_stop_at_fifty():
    rows = [record(f"n{i}", e, i / 100 + e / 1000) for i in range(40) for e in (1, 2, 50, 60)]
    rows += [record(f"n{i}", 3, i / 100) for i in range(proxy.LEAST - 1)]
    found = proxy.horizons(proxy.best_per_epoch(pd.DataFrame(rows)), alone(rows))
    assert [(h.epoch, len(h.pairs), len(h.clusters)) for h in found] == [(2, 40, 40), (50, 40, 40)]


def test_pair_order_of_a_proxy_that_errs_on_small_gaps_only():
    """Within each of two well separated groups the order at epoch 5 is reversed; between them it holds."""
    rows = []
    for i in range(40):
        group, place = divmod(i, 20)
        rows += [record(f"n{i}", 1, 0.1 + 0.5 * group + 0.0002 * place)]
        rows += [record(f"n{i}", 5, 0.1 + 0.5 * group - 0.0002 * place)]
    wide = proxy.best_per_epoch(pd.DataFrame(rows))
    found = proxy.pair_order(wide, "best_of_trials", alone(rows)).set_index("gap_low")
    assert (found.loc[0, "still_better"], found.loc[0, "pairs"]) == (0, 2 * 190)
    assert (found.loc[0.4, "still_better"], found.loc[0.4, "pairs"]) == (1, 400)
    assert (found["n"] == 40).all()


def test_one_epoch_by_family():
    rows = [record(f"a{i}", 1, 0.30 + 0.02 * i) for i in range(10)] + [record("b0", 1, 0.9), record("a0", 1, 0.2)]
    families = pd.Series({f"a{i}": "first" for i in range(10)} | {"b0": "second", "unused": "third"})
    best = proxy.best_at_one_epoch(pd.DataFrame(rows), families)
    found = proxy.one_epoch_by_family(best, np.random.default_rng(0), 50).set_index("family")
    assert list(found.index) == ["first", "second"] and list(found["n"]) == [10, 1]
    assert found.loc["first", "mean"] == pytest.approx(0.39)  # the best trial of each, so 0.30 for a0
    assert found.loc["first", ["share_40", "share_30"]].to_list() == [50, 100]
    assert found.loc["first", "share_40_low"] < 50 < found.loc["first", "share_40_high"]
