"""What decides accuracy, on records whose truth is known; and the figures of LEMUR's records."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

from nngpt_lab.papers.architecture_loop import corpus_figures, lemur_overview, what_decides
from nngpt_lab.papers.architecture_loop import proxy_audit as proxy


def records(hyperparameters: float, architecture: float, rest: float, networks: int = 300, runs: int = 5):
    """Runs whose accuracy has these standard deviations by learning rate, by architecture, and by noise."""
    rng = np.random.default_rng(0)
    name = np.repeat(np.arange(networks), runs)
    step = rng.integers(0, 2, len(name))  # two learning rates: a mean of 0, a deviation of 1
    own = rng.permutation(np.linspace(-np.sqrt(3), np.sqrt(3), networks))[name]
    score = hyperparameters * (2 * step - 1) + architecture * own + rest * rng.standard_normal(len(name))
    table = pd.DataFrame({"dataset": "cifar-10", "architecture": [f"n{i}" for i in name], "epoch": 5})
    table = table.assign(accuracy=score, lr=0.01 * 10**step, batch=64, momentum=0.9, dropout=0.2, transform="norm")
    return table.assign(uid=np.arange(len(table)).astype(str), id=np.arange(len(table)).astype(str))


def shares(*deviations: float, copies: int = 1) -> pd.Series:
    table = records(*deviations)
    names = table["architecture"].unique()
    clusters = pd.Series([f"c{i // copies}" for i in range(len(names))], names)
    return what_decides.variance_shares(table, clusters, np.random.default_rng(1), 200).iloc[0]


@pytest.mark.parametrize("planted", [(0.7, 0.4, 0.6), (0.9, 0.0, 0.4), (0.0, 0.7, 0.7)])
def test_planted_shares_of_the_variance_are_found(planted):
    true, found = np.square(planted) / np.square(planted).sum(), shares(*planted)
    for name, share in zip(what_decides.SHARES, true, strict=True):
        assert found[name] == pytest.approx(100 * share, abs=4), name
        assert found[f"{name}_low"] <= 100 * share + 2 and 100 * share - 2 <= found[f"{name}_high"], name
    assert found[list(what_decides.SHARES)].sum() == pytest.approx(100)


def test_near_copies_are_one_cluster():
    one, ten = shares(0.7, 0.4, 0.6), shares(0.7, 0.4, 0.6, copies=30)
    assert (one["clusters"], ten["clusters"]) == (300, 10)
    assert (one["runs"], one["architectures"]) == (ten["runs"], ten["architectures"]) == (1500, 300)


def test_text_ranks_the_family_it_was_learnt_in_and_no_other():
    rng = np.random.default_rng(0)
    width = rng.integers(1, 9, 120)
    family = np.repeat(["tells", "opposite", "few"], [60, 55, 5])
    code = [f"layer_{w} " * 3 + f"{f} {f}" for w, f in zip(width, family, strict=True)]
    names = [f"n{i}" for i in range(120)]
    sign = np.where(family == "opposite", -1, 1)
    accuracy = pd.Series(sign * width / 10 + 0.01 * rng.standard_normal(120), names)
    networks = pd.DataFrame({"name": names, "family": family, "code": code})
    found = what_decides.surrogate(accuracy, networks, pd.Series(names, names), rng, 50).set_index("family")
    assert list(found.index) == ["tells", "opposite"]
    assert (found["within"] > 0.95).all() and (found["across"] < -0.8).all()
    assert (found["within_low"] <= found["within"]).all() and (found["within"] <= found["within_high"]).all()


def long_runs(noise: float) -> pd.DataFrame:
    rng = np.random.default_rng(2)
    final, rows = rng.uniform(0, 1, 40), []
    for epoch in (1, 5, 50):
        wrong = noise * (epoch == 1) * rng.standard_normal(40)
        rows.append(pd.DataFrame({"dataset": "svhn", "architecture": [f"n{i}" for i in range(40)], "uid": "u",
                                  "epoch": epoch, "accuracy": final + wrong}))  # fmt: skip
    table = pd.concat(rows, ignore_index=True)
    return table.assign(id=table.index.astype(str))


def test_the_order_is_settled_where_runs_keep_their_ranks():
    table = long_runs(0.3)
    clusters = pd.Series([f"c{i}" for i in range(40)], [f"n{i}" for i in range(40)])
    unfinished = table.iloc[:1].assign(uid="stopped")  # a run that never came to epoch 50 is no evidence
    found = proxy.when_to_stop(pd.concat([table, unfinished]), clusters, 0, 60, epochs=(1, 5)).set_index("epoch")
    assert found.loc[5, "spearman"] == 1 and 0.3 < found.loc[1, "spearman"] < 0.95
    assert (found["runs"] == 40).all() and (found["clusters"] == 40).all()
    assert found.loc[1, "spearman_low"] < found.loc[1, "spearman"] < found.loc[1, "spearman_high"]
    few = clusters.map(lambda name: name[:2])  # ten clusters
    assert proxy.when_to_stop(table, few, 0, 60, epochs=(1,)).empty


def test_a_free_proxy_beside_one_epoch_of_training():
    rng = np.random.default_rng(3)
    blocks = np.repeat(np.arange(1, 6), 6)
    ranks = pd.DataFrame({"blocks": blocks, "columns": np.tile(np.arange(1, 7), 5), "mean_first": rng.uniform(size=30)})
    ranks["mean_later"] = blocks + 0.1 * rng.uniform(size=30)
    found = proxy.free_proxy(ranks, rng, 300).set_index("proxy")
    assert found.loc["number of blocks", "spearman"] > 0.95 and abs(found.loc["number of columns", "spearman"]) < 0.4
    gap = found.loc["blocks minus training"]
    assert gap["spearman"] == pytest.approx(found["spearman"].iloc[0] - found.loc["one epoch of training", "spearman"])
    assert 0 < gap["spearman_low"] < gap["spearman"] < gap["spearman_high"]


def test_recovered_cycles_against_one_another():
    found = lemur_overview.between_cycles().set_index(["measure", "earlier", "later"])
    fall = found.loc[("valid", 18, 22)]
    share = (87 + 123) / (208 + 208)
    assert fall["z"] == pytest.approx((87 - 123) / 208 / np.sqrt(share * (1 - share) * 2 / 208))
    assert fall["difference"] == pytest.approx(100 * (87 - 123) / 208) and fall["difference_high"] < 0
    assert fall["p_holm"] < 0.01 < found.loc[("valid", 1, 22), "p_holm"]
    assert found.loc[("valid", 1, 22), "difference_low"] < 0 < found.loc[("valid", 1, 22), "difference_high"]


# -------------------------------------------------------------------------------------------------------------- figures

BOUNDS = {"low": -0.1, "high": 0.1}
SETS = ["celeba-gender", "cifar-10", "cifar-100", "imagenette", "mnist", "places365", "svhn"]


def bounded(table: pd.DataFrame, *names: str) -> pd.DataFrame:
    return table.assign(**{f"{name}_{end}": table[name] + by for name in names for end, by in BOUNDS.items()})


def figures() -> dict:
    every = pd.DataFrame([(d, u, e) for d in SETS for u in corpus_figures.UNIT_TITLES for e in (2, 5)])
    audit = every.set_axis(["dataset", "unit", "epoch"], axis=1).assign(n=1448, clusters=29, spearman=0.5)
    lows = np.tile([0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4], 7)
    order = pd.DataFrame({"dataset": np.repeat(SETS, 7), "gap_low": lows, "epoch": 5, "pairs": 500})
    order = pd.concat([order.assign(unit=unit) for unit in ("best_of_trials", "fixed_protocol")])
    order = order.assign(still_better=0.4, ci_low=0.02, ci_high=0.9)
    stop = pd.DataFrame([(d, e) for d in SETS for e in (1, 5, 20)], columns=["dataset", "epoch"])
    stop = stop.assign(runs=1000, clusters=50, spearman=0.8)
    grid = pd.DataFrame([(b, c) for b in range(1, 6) for c in range(1, 4)], columns=["blocks", "columns"])
    family = pd.DataFrame({"family": ["ga", "rag"], "n": 40, "clusters": 30, "within": 0.5, "across": 0.0})
    part = pd.DataFrame({"dataset": SETS, "runs": 10, "hyperparameters": 60.0, "architecture": 10.0, "rest": 30.0})
    return {
        "proxy_audit": corpus_figures.proxy_audit(bounded(audit, "spearman")),
        "pair_order": corpus_figures.pair_order(order),
        "when_to_stop": corpus_figures.when_to_stop(bounded(stop, "spearman")),
        "fast_learners": corpus_figures.fast_learners(grid.assign(mean_first=grid["columns"] / 9, mean_later=0.6)),
        "surrogate": corpus_figures.surrogate(bounded(family, "within", "across")),
        "variance_shares": corpus_figures.variance_shares(part),
    }


@pytest.fixture(scope="module")
def drawn() -> dict:
    found = figures()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for figure in found.values():
            figure.draw_without_rendering()
    return found


def test_data_sets_differ_without_colour():
    looks = corpus_figures._dataset_looks(pd.DataFrame({"dataset": SETS}))
    assert len({look["marker"] for look in looks.values()}) == len({str(look["linestyle"]) for look in looks.values()})
    assert len(looks) == len({look["marker"] for look in looks.values()}) == 7


@pytest.mark.parametrize("name", ["pair_order", "when_to_stop", "surrogate"])
def test_no_axis_hides_a_point_or_an_interval(drawn, name):
    for ax in drawn[name].axes:
        low, high = ax.get_xlim() if name == "surrogate" else ax.get_ylim()
        for container in ax.containers:
            marks = container.lines[0].get_xdata() if name == "surrogate" else container.lines[0].get_ydata()
            assert ((low <= np.asarray(marks, float)) & (np.asarray(marks, float) <= high)).all()
    for ax in drawn["pair_order"].axes:
        assert ax.get_ylim()[0] <= 2 and ax.get_ylim()[1] >= 100


def test_the_proxy_audit_says_how_many_networks_and_clusters_each_row_has(drawn):
    counts = [text.get_text() for text in drawn["proxy_audit"].axes[0].texts]
    assert counts[:7] == ["1,448 / 29"] * 7 and counts[7].startswith("networks")
