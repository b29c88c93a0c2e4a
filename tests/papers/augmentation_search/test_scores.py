"""Paper A's analyses on a corpus whose operation effects and noise are known."""

from __future__ import annotations

import json
from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from nngpt_lab.corpora.augmentations import OPERATIONS
from nngpt_lab.ground.errors import UsageError
from nngpt_lab.papers.augmentation_search import scores

EFFECTS = dict(zip(OPERATIONS, np.linspace(-0.06, 0.06, len(OPERATIONS)), strict=True))
NOISE_SD = 0.01


def function(name, score, operations=("Pad",), status="ok") -> dict:
    row = {"code_hash": name, "score": score, "status": status, "operations": list(operations)}
    return row | {"n_operations": len(operations), "parameters": json.dumps([{"p": 1}] * len(operations))}


def corpus(rng: np.random.Generator, repeats: int = 2, extra_sd: float = 0.0) -> pd.DataFrame:
    """Every single, pair and triple of operations (triples thinned), each code scored ``repeats`` times."""
    triples = list(combinations(OPERATIONS, 3))[::4]
    rows = []
    for ops in [(op,) for op in OPERATIONS] + list(combinations(OPERATIONS, 2)) + triples:
        true = 0.4 + sum(EFFECTS[op] for op in ops) + rng.normal(0, extra_sd)
        rows += [function("-".join(ops), true + rng.normal(0, NOISE_SD), ops) for _ in range(repeats)]
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def functions():
    return corpus(np.random.default_rng(0))


def test_operation_effects_are_recovered(functions):
    found = scores.operation_effects(functions).set_index("operation")
    truth = pd.Series(EFFECTS).reindex(found.index)
    assert np.abs(found["effect"] - truth).max() < 0.004
    inside = (found["effect_low"] <= truth) & (truth <= found["effect_high"])
    assert inside.sum() >= 16  # 19 intervals of 95 %
    assert list(found.index) == list(truth.sort_values(ascending=False).index)
    assert (found["mean_with"] - found["mean_without"]).to_list() == pytest.approx(found["difference"].to_list())


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")  # most operations do not occur here
def test_effects_separate_operations_that_occur_together():
    """Pad is harmless but keeps bad company: alone it looks harmful, with the others held fixed it does not."""
    rng = np.random.default_rng(1)
    sets = [("Pad", "RandomInvert")] * 150 + [("RandomInvert",)] * 50 + [("Pad",)] * 50 + [("Grayscale",)] * 250
    rows = [function(i, 0.4 - 0.1 * ("RandomInvert" in s) + rng.normal(0, 0.01), s) for i, s in enumerate(sets)]
    row = scores.operation_effects(pd.DataFrame(rows)).set_index("operation").loc["Pad"]
    assert row["difference_high"] < -0.04
    fit = scores.fit_operations(pd.DataFrame(rows))
    assert fit.params["RandomInvert"] - fit.params["Pad"] == pytest.approx(-0.1, abs=0.01)


def test_replicates_do_not_pass_for_independent_evidence(functions):
    """Writing every function down four more times must not narrow the intervals."""
    once, often = (scores.operation_effects(f) for f in (functions, pd.concat([functions] * 5, ignore_index=True)))
    width = [(f["effect_high"] - f["effect_low"]).mean() for f in (once, often)]
    assert width[1] == pytest.approx(width[0], rel=0.05)


def test_noise_is_recovered(functions):
    found = scores.noise(functions, np.random.default_rng(0), 300)
    assert found.within_sd.low < NOISE_SD < found.within_sd.high
    assert (found.codes, found.rows) == (functions["code_hash"].nunique(), len(functions))
    between = np.var([0.4 + sum(EFFECTS[op] for op in h.split("-")) for h in functions["code_hash"].unique()], ddof=1)
    truth = between / (between + NOISE_SD**2)
    assert found.reliability.low - 0.01 < truth < found.reliability.high + 0.01
    assert found.reliability.low <= found.reliability.value <= found.reliability.high


def test_noise_pools_degrees_of_freedom():
    rows = [function("a", 0.1), function("a", 0.3), function("b", 0.2), function("b", 0.2), function("b", 0.5)]
    found = scores.noise(pd.DataFrame([*rows, function("c", 0.9)]), np.random.default_rng(0), 10)
    assert found.within_sd.value == pytest.approx(np.sqrt((0.02 + 0.06) / 3))
    assert (found.codes, found.rows) == (2, 5)


def test_without_replicates_there_is_no_noise_estimate():
    found = scores.noise(pd.DataFrame([function("a", 0.1), function("b", 0.2)]), np.random.default_rng(0), 10)
    assert found.codes == 0 and np.isnan(found.within_sd.value)
    table = scores.replicate_noise(pd.DataFrame([function("a", 0.1), function("b", 0.2)]), np.random.default_rng(0), 9)
    assert list(table["n_operations"]) == ["1", "all"]


def normal_runs(rng, true_sd, within_sd, n):
    """First run and re-run of n pairs: their gaps."""
    true = rng.normal(0, true_sd, (n, 2))
    return [np.diff(true + rng.normal(0, within_sd, (n, 2)))[:, 0] for _ in range(2)]


@pytest.mark.parametrize(("true_sd", "within_sd"), [(0.03, 0.01), (0.01, 0.02)])
def test_flip_probability_against_simulation(true_sd, within_sd):
    first, again = normal_runs(np.random.default_rng(2), true_sd, within_sd, 400_000)
    reliability = true_sd**2 / (true_sd**2 + within_sd**2)
    for gap in (0.002, 0.01, 0.03):
        near = np.abs(np.abs(first) - gap) < 0.001
        simulated = (np.sign(first[near]) != np.sign(again[near])).mean()
        assert scores.flip_probability(gap, within_sd, reliability) == pytest.approx(simulated, abs=0.015)
    assert scores.flip_probability(0, within_sd, reliability) == 0.5


def test_pair_flips_agree_with_the_model_where_it_holds():
    rng = np.random.default_rng(3)
    true = rng.normal(0.4, 0.03, 150)
    functions = pd.DataFrame([function(str(i), t + rng.normal(0, 0.015)) for i, t in enumerate(true) for _ in "ab"])
    found = scores.pair_flips(functions, rng, 60)
    assert ((found["observed_low"] <= found["model"]) & (found["model"] <= found["observed_high"])).sum() >= 7
    assert found["observed"].iloc[0] > 0.4 and found["observed"].iloc[-1] < 0.05


def test_the_curve_of_the_codes_scored_again_is_theirs_and_not_the_corpus():
    """Half the corpus is scored once and differs more: only the curve of the other half fits what is observed."""
    rng = np.random.default_rng(7)
    again = [function(f"r{i}", t + rng.normal(0, 0.02)) for i, t in enumerate(rng.normal(0.4, 0.01, 150)) for _ in "ab"]
    once = [function(f"o{i}", t) for i, t in enumerate(rng.normal(0.4, 0.1, 150))]
    found = scores.pair_flips(pd.DataFrame(again + once), rng, 60)[1:5]  # bins with many pairs
    for name, inside in (("model", True), ("model_corpus", False)):
        fits = (found["observed_low"] <= found[name]) & (found[name] <= found["observed_high"])
        assert fits.all() == inside, name


def test_times_fewer_counts_hits_of_the_same_operations():
    good, bad = ("Pad", "RandomRotation"), ("RandomInvert",)
    rows = [function(f"g{i}", 0.5 + i / 1000, good) for i in range(10)]  # three of these ten are the best 1 %
    rows += [function(f"b{i}", 0.3 if i % 2 else 0.45, bad) for i in range(290)]
    llm = pd.DataFrame([function(f"w{i}", np.nan, good[::-1]) for i in range(4)]).assign(llm_epoch=[1, 1, 2, 4])
    rng, corpus = np.random.default_rng(0), pd.DataFrame(rows)
    found = scores.times_fewer(corpus, llm, rng, 50).set_index("compared_with")
    assert found["times_fewer"].iloc[0] == pytest.approx((3 / 10) / (3 / 300))
    assert found["times_fewer"].iloc[1] == pytest.approx((3 / 10) / (3 / 155))  # 145 of the bad ones are accepted
    assert found["times_fewer"].iloc[4] == pytest.approx(30 * 4 / 40)  # four functions of 4 epochs with 10 each
    assert (found["n"] == 1).all()
    with pytest.raises(UsageError, match="Pad"):
        scores.times_fewer(corpus, llm.assign(operations=[["Pad"]] * 4), rng, 50)


def test_expected_pair_flip_against_simulation():
    """Published pairs drawn from a small corpus; each re-run's gap drawn from the model."""
    functions = pd.DataFrame([function(c, x) for c, x in [("a", 0.40), ("a", 0.41), ("b", 0.42), ("c", 0.45)]])
    within_sd, reliability = 0.01, 0.6
    rng, flips = np.random.default_rng(4), []
    better = {0: [2, 3], 1: [2, 3], 2: [3]}  # strictly better and another code; the best one has no target
    values = functions["score"].to_numpy()
    for _ in range(20_000):
        worse = rng.choice(list(better))
        gap = values[rng.choice(better[worse])] - values[worse]
        true = rng.normal(reliability * gap, within_sd * np.sqrt(2 * reliability))
        flips.append(true + rng.normal(0, within_sd * np.sqrt(2)) < 0)
    assert scores.expected_pair_flip(functions, within_sd, reliability) == pytest.approx(np.mean(flips), abs=0.012)


def with_failures() -> pd.DataFrame:
    rng = np.random.default_rng(5)
    rows = [function(str(i), x) for i, x in enumerate(rng.uniform(0.2, 0.6, 80))]
    return pd.DataFrame(rows + [function(f"f{i}", np.nan, status="shape") for i in range(20)])


def test_best_of_n_matches_monte_carlo_and_failures_cost_draws():
    functions, rng = with_failures(), np.random.default_rng(6)
    found = scores.best_of_n(functions, rng, 100).set_index("n")
    held = functions["score"].fillna(scores.CHANCE).to_numpy()
    for n in (1, 5, 20):
        best = np.array([rng.choice(held, n, replace=False).max() for _ in range(8000)])
        assert found.loc[n, "expected_best"] == pytest.approx(best.mean(), abs=0.008)
        low, high = np.quantile(best, [0.025, 0.975])
        assert (found.loc[n, "draw_low"], found.loc[n, "draw_high"]) == pytest.approx((low, high), abs=0.02)
    assert found.index.max() == 100 and found.loc[100, "expected_best"] == pytest.approx(held.max())
    assert found.loc[1, "expected_best"] < functions["score"].mean()
    assert found["expected_best"].is_monotonic_increasing
    assert (found["ci_low"] <= found["expected_best"]).all()


def test_candidates_needed():
    functions = with_failures()
    found = scores.candidates_needed(functions, within_sd=0.01).set_index("target")
    best = found.loc["best of the corpus"]
    assert (best["functions_at_or_above"], best["expected"], best["median"], best["for_95_percent"]) == (
        1,
        50.5,
        50,
        95,
    )
    threshold = found.loc["paper A's acceptance threshold"]
    hits = (functions["score"] >= 0.40).sum()
    assert (threshold["functions_at_or_above"], threshold["expected"]) == (hits, 101 / (hits + 1))
    assert found["score"].is_monotonic_increasing and found["expected"].is_monotonic_increasing


def test_scores_by_operations():
    rows = [function("a", 0.3), function("b", 0.5), function("c", np.nan, status="shape")]
    rows += [function("d", 0.4, ("Pad", "Grayscale")), function("e", 0.2, ("Pad", "Grayscale"))]
    found = scores.scores_by_operations(pd.DataFrame(rows), np.random.default_rng(0), 20).set_index("n_operations")
    assert list(found.index) == ["1", "2", "all"]
    assert list(found["functions"]) == [3, 2, 5] and list(found["failed"]) == [1, 0, 1]
    assert found["mean"].to_list() == pytest.approx([0.4, 0.3, 0.35])  # a failure is not a score of zero
    assert found["share_40"].to_list() == [50, 50, 50]  # 0.40 itself is accepted


def test_operation_use_compares_like_with_like():
    rng = np.random.default_rng(7)
    brute = [function(i, rng.uniform(0.4, 0.6), rng.choice(OPERATIONS, 2, replace=False)) for i in range(400)]
    singles = [function(f"s{i}", 0.99, ("Pad",)) for i in range(200)]  # these three would triple the share of Pad
    rejected = [function(f"r{i}", 0.399, ("Pad", "RandomCrop")) for i in range(200)]
    failed = [function(f"f{i}", np.nan, ("Pad", "RandomCrop"), "shape") for i in range(200)]
    llm = pd.DataFrame([function(f"l{i}", np.nan, ("RandomInvert", "Pad")) for i in range(40)])
    groups = scores.comparable(pd.DataFrame(singles + rejected + failed + brute), llm)
    assert {name: len(group) for name, group in groups.items()} == {"llm": 40, "corpus": 400, "best_tenth": 40}
    assert groups["best_tenth"]["score"].min() >= groups["corpus"]["score"].quantile(0.9)
    found = scores.operation_use(groups).set_index("operation")
    assert found.loc["RandomInvert", "llm"] == 100 and found.loc["Grayscale", "llm"] == 0
    assert found.loc["Pad", "corpus"] == pytest.approx(200 / 19, abs=5)
    assert found.loc["RandomInvert", "p_holm"] < 1e-6
    assert (found["p_holm"] >= found["p_value"]).all()
    assert found["corpus"].sum() == pytest.approx(200) == found["best_tenth"].sum()


def test_predicted_scores_are_those_of_the_additive_model(functions):
    groups = {
        "best": pd.DataFrame([function("x", np.nan, OPERATIONS[-2:])] * 3),
        "all": functions,
    }
    found = scores.predicted_scores(functions, groups, np.random.default_rng(0), 50).set_index("group")
    truth = 0.4 + EFFECTS[OPERATIONS[-1]] + EFFECTS[OPERATIONS[-2]]
    assert found.loc["best", "predicted"] == pytest.approx(truth, abs=0.005)
    assert np.isnan(found.loc["best", "recorded"])
    assert found.loc["all", "predicted"] == pytest.approx(found.loc["all", "recorded"], abs=1e-6)


def test_five_epoch_pairs_match_by_code_and_average_replicates():
    once = pd.DataFrame([function("a", 0.1), function("a", 0.3), function("b", 0.5), function("c", 0.6)])
    later = pd.DataFrame({"code_hash": ["b", "a", "z", "b"], "score": [0.7, 0.8, 0.9, 0.9]})
    found = scores.five_epoch_pairs(once, later).sort_values("one_epoch")
    assert np.allclose(found[["one_epoch", "five_epochs"]], [[0.2, 0.8], [0.5, 0.8]])


def test_most_replicated_codes_come_first_with_readable_labels():
    rows = [function("few", 0.1)] + [function("many", x, ("Pad", "Grayscale")) for x in (0.2, 0.3)]
    found = scores.most_replicated(pd.DataFrame(rows), codes=1)
    assert found["score"].to_list() == [0.2, 0.3]
    assert set(found["label"]) == {"Pad(p=1) + Grayscale(p=1)"}
