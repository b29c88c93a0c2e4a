"""What paper A's 6,000 scored functions say by themselves: operations, noise, and what random search already finds.

Every function here takes ``functions`` as :mod:`nngpt_lab.corpora.augmentations` gives them. Scores are one-epoch
CIFAR-10 accuracies in [0, 1].
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import statsmodels.api as sm
from scipy import stats

from nngpt_lab.corpora.augmentations import OPERATIONS
from nngpt_lab.ground.errors import UsageError
from nngpt_lab.statistics import intervals
from nngpt_lab.statistics.intervals import Estimate

FLIP_EDGES = np.array([0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15])
BEST_OF = (1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 300, 600, 1000, 2000, 3000, 6000)
ACCEPTED = 0.40  # the authors' threshold for a function to enter the training pool
CHANCE = 0.1  # accuracy of a network that never trained: what a search holds while every draw has failed


def scored(functions: pd.DataFrame) -> pd.DataFrame:
    """Only the functions with a score."""
    return functions[functions["status"] == "ok"].reset_index(drop=True)


def scores_by_operations(functions: pd.DataFrame, rng: np.random.Generator, resamples: int) -> pd.DataFrame:
    """Scores by number of variable operations, and for all together.

    Columns: n_operations ("1", "2", "3", "all"), functions, failed, mean(_low, _high), sd, median, best, share_40 (per
    cent at or above paper A's acceptance threshold of 0.40, with Wilson interval).
    """
    groups = [(str(k), group) for k, group in functions.groupby("n_operations")] + [("all", functions)]
    rows = []
    for name, group in groups:
        values = scored(group)["score"].to_numpy()
        mean = intervals.bootstrap(values, np.mean, rng, resamples)
        share = intervals.wilson((values >= ACCEPTED).sum(), len(values)).scaled(100)
        row = {"n_operations": name, "functions": len(group), "failed": len(group) - len(values)}
        row |= mean.columns("mean") | {"sd": values.std(ddof=1), "median": np.median(values), "best": values.max()}
        rows.append(row | share.columns("share_40"))
    return pd.DataFrame(rows)


def parameter_values(operations: Iterable[str], parameters: str) -> Iterator[tuple[str, str, Any]]:
    """Operation, parameter and value, in order; the parts of a pair are parameters of their own (``scale[0]``).

    ``parameters``: JSON, one object per operation.
    """
    for operation, given in zip(operations, json.loads(parameters), strict=True):
        for name, value in given.items():
            if isinstance(value, list):
                yield from ((operation, f"{name}[{i}]", part) for i, part in enumerate(value))
            else:
                yield operation, name, value


def operation_indicators(functions: pd.DataFrame) -> pd.DataFrame:
    """One row per function, one 0/1 column per operation of :data:`OPERATIONS`."""
    return pd.DataFrame({op: [float(op in used) for used in functions["operations"]] for op in OPERATIONS})


def fit_operations(functions: pd.DataFrame):
    """Least squares of score on operation indicators; errors clustered by code, since replicates are not independent.

    The intercept is a pipeline with no variable operation (an extrapolation: every function has at least one).
    """
    usable = scored(functions)
    design = sm.add_constant(operation_indicators(usable))
    clusters = usable["code_hash"].astype("category").cat.codes
    return sm.OLS(usable["score"].to_numpy(), design).fit(cov_type="cluster", cov_kwds={"groups": clusters})


def operation_effects(functions: pd.DataFrame) -> pd.DataFrame:
    """Effect of each operation on the score, alone and with the others held fixed; accuracy points (0.01 = 1 point).

    Columns: operation, n, mean_with, mean_without, difference(_low, _high) (Welch), effect(_low, _high) (regression on
    all operations, which separates those that occur together).
    """
    usable = scored(functions)
    used, fit = operation_indicators(usable), fit_operations(functions)
    bounds = fit.conf_int()
    rows = []
    for operation in OPERATIONS:
        inside = usable["score"][used[operation] == 1]
        outside = usable["score"][used[operation] == 0]
        welch = intervals.difference_of_means(inside, outside)
        low, high = bounds.loc[operation]
        effect = Estimate(fit.params[operation], low, high, len(usable))
        row = {"operation": operation, "n": len(inside), "mean_with": inside.mean(), "mean_without": outside.mean()}
        rows.append(row | welch.columns("difference") | effect.columns("effect"))
    return pd.DataFrame(rows).sort_values("effect", ascending=False, ignore_index=True)


@dataclass(frozen=True)
class Noise:
    """One-epoch noise, from codes scored more than once.

    Attributes:
        within_sd: SD of re-runs of one code (accuracy), pooled over codes, with interval over codes.
        reliability: share of the variance between distinct codes that is not noise.
        codes, rows: replicated codes, and their scores.
    """

    within_sd: Estimate
    reliability: Estimate
    codes: int
    rows: int


def replicates(functions: pd.DataFrame) -> list[np.ndarray]:
    """Scores of each code that was scored more than once, in the order of the codes' hashes."""
    groups = scored(functions).groupby("code_hash")["score"]
    return [values.to_numpy() for _, values in groups if len(values) > 1]


def reliability(functions: pd.DataFrame, within_sd: float) -> float:
    """Share of the variance between these functions' codes that is not noise; each by its first score."""
    return float(1 - within_sd**2 / scored(functions).drop_duplicates("code_hash")["score"].var())


def noise(functions: pd.DataFrame, rng: np.random.Generator, resamples: int) -> Noise:
    """Within-code SD and reliability. Distinct codes enter the total variance once, by their first score."""
    groups = replicates(functions)
    squares = np.array([[((g - g.mean()) ** 2).sum(), len(g) - 1] for g in groups])
    within = intervals.bootstrap(squares, lambda s: np.sqrt(s[:, 0].sum() / s[:, 1].sum()), rng, resamples)
    return Noise(within, within.mapped(lambda sd: reliability(functions, sd)), len(groups), sum(map(len, groups)))


def replicate_noise(functions: pd.DataFrame, rng: np.random.Generator, resamples: int) -> pd.DataFrame:
    """One-epoch noise by number of operations and for all.

    Columns: n_operations, replicated_codes, scores, within_sd(_low, _high), total_sd, reliability(_low, _high).
    """
    groups = [(str(k), group) for k, group in functions.groupby("n_operations")] + [("all", functions)]
    rows = []
    for name, group in groups:
        spread, total = noise(group, rng, resamples), scored(group).drop_duplicates("code_hash")["score"].std()
        row = {"n_operations": name, "replicated_codes": spread.codes, "scores": spread.rows}
        row |= spread.within_sd.columns("within_sd") | {"total_sd": total}
        rows.append(row | spread.reliability.columns("reliability"))
    return pd.DataFrame(rows)


def flip_probability(gap: np.ndarray, within_sd: float, reliability: float) -> np.ndarray:
    """P(the order of a pair flips when both are run again | the gap seen), if true scores and noise are normal.

    With true difference t ~ N(0, 2 s_t**2) and gap d = t + noise: t | d has mean ``reliability * d`` and variance
    ``2 * within_sd**2 * reliability``; the re-run's gap adds noise of variance ``2 * within_sd**2``.
    """
    return stats.norm.cdf(-reliability * np.abs(gap) / (within_sd * np.sqrt(2 * (1 + reliability))))


def pair_flips(functions: pd.DataFrame, rng: np.random.Generator, resamples: int) -> pd.DataFrame:
    """How often a better/worse pair flips on a re-run, by the gap first seen: observed in replicates, and by the model.

    Observed: for each replicated code draw two of its scores, one as the first run and one as the re-run, and compare
    all pairs of codes; the interval resamples codes. Columns: gap_low, gap_high, pairs (per draw), observed(_low,
    _high), model (normal noise, for the same codes, at the middle of the bin), model_corpus (for the whole corpus).
    """
    groups, spread = replicates(functions), noise(functions, rng, resamples=2)
    within_sd, again = spread.within_sd.value, functions[functions["code_hash"].duplicated(keep=False)]
    draws, pairs = [], []
    for _ in range(resamples):
        chosen = np.unique(rng.integers(0, len(groups), len(groups)))  # a code twice would be paired with itself
        first, second = np.array([rng.choice(groups[i], 2, replace=False) for i in chosen]).T
        agreement = intervals.pair_agreement(first, second, FLIP_EDGES)
        draws.append(1 - agreement["still_better"])
        pairs.append(agreement["pairs"])
    low, high = np.transpose([intervals.percentile_interval(column) for column in np.array(draws).T])
    table = pd.DataFrame({"gap_low": FLIP_EDGES[:-1], "gap_high": FLIP_EDGES[1:]})
    return table.assign(
        pairs=np.mean(pairs, axis=0).round(),
        observed=np.nanmean(draws, axis=0),
        observed_low=low,
        observed_high=high,
        model=flip_probability(table.mean(axis=1), within_sd, reliability(again, within_sd)),
        model_corpus=flip_probability(table.mean(axis=1), within_sd, spread.reliability.value),
    )


def expected_pair_flip(functions: pd.DataFrame, within_sd: float, reliability: float) -> float:
    """Share of paper A's training pairs expected to flip on a re-run, under the normal model.

    A pair is drawn as published: a baseline uniformly, then a target uniformly among strictly better, different code.
    """
    usable = scored(functions)
    scores, codes = usable["score"].to_numpy(), usable["code_hash"].astype("category").cat.codes.to_numpy()
    shares = []
    for score, code in zip(scores, codes, strict=True):
        better = scores[(scores > score) & (codes != code)]
        if len(better):
            shares.append(flip_probability(better - score, within_sd, reliability).mean())
    return float(np.mean(shares))


def best_of_n(functions: pd.DataFrame, rng: np.random.Generator, resamples: int) -> pd.DataFrame:
    """Random search over the corpus, exactly: the best score among n functions drawn without replacement.

    A failed function costs a draw and scores nothing. Columns: n, expected_best, ci_low, ci_high (bootstrap over
    functions: another corpus of this size from the same generator), draw_low, draw_high (where the best of one search
    falls in 95 of 100).
    """
    scores = np.sort(functions["score"].fillna(CHANCE).to_numpy())
    size = len(scores)
    sizes = [n for n in BEST_OF if n <= size]
    weights = np.array([intervals.best_of_n_weights(size, n) for n in sizes])
    again = np.array([weights @ np.sort(rng.choice(scores, size)) for _ in range(resamples)])
    table = pd.DataFrame({"n": sizes, "expected_best": weights @ scores})
    for end, level in (("low", 0.025), ("high", 0.975)):
        drawn = [min(np.searchsorted(cumulative, level), size - 1) for cumulative in weights.cumsum(axis=1)]
        table[f"ci_{end}"], table[f"draw_{end}"] = np.quantile(again, level, axis=0), scores[drawn]
    return table[["n", "expected_best", "ci_low", "ci_high", "draw_low", "draw_high"]]


def candidates_needed(functions: pd.DataFrame, within_sd: float) -> pd.DataFrame:
    """Candidates that random search evaluates until it first reaches a score: the yardstick for "600 times fewer".

    Columns: target, score, functions_at_or_above, expected, median, for_95_percent (draws without replacement, exact).
    """
    scores = functions["score"].fillna(CHANCE).to_numpy()
    best = scores.max()
    targets = {"paper A's acceptance threshold": ACCEPTED}
    targets |= {f"quantile {q:g}": np.quantile(scores, q) for q in (0.5, 0.9, 0.99, 0.999)}
    targets |= {f"within {n} noise SD of the best": best - k * within_sd for n, k in (("two", 2), ("one", 1))}
    rows = []
    for target, score in (targets | {"best of the corpus": best}).items():
        hits = int((scores >= score).sum())
        row = {"target": target, "score": score, "functions_at_or_above": hits}
        row |= {"expected": intervals.expected_draws(len(scores), hits)}
        row |= {"median": intervals.draws_for(0.5, len(scores), hits)}
        rows.append(row | {"for_95_percent": intervals.draws_for(0.95, len(scores), hits)})
    return pd.DataFrame(rows).sort_values("score", ignore_index=True)


def comparable(brute_force: pd.DataFrame, llm: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The groups that the LLM's functions may be compared with: ``llm``, ``corpus`` and its ``best_tenth`` by score.

    The corpus is cut to functions with as many operations as the LLM's have (2 or 3), since the more operations a
    function has the likelier it uses any, and to scores from 0.40 up, since the authors keep an LLM function only when
    it reached that: without the cut the filter alone would look like learning.
    """
    sizes = llm["n_operations"].unique()
    corpus = scored(brute_force)
    corpus = corpus[corpus["n_operations"].isin(sizes) & (corpus["score"] >= ACCEPTED)].reset_index(drop=True)
    best = corpus.nlargest(len(corpus) // 10, "score").reset_index(drop=True)
    return {"llm": llm, "corpus": corpus, "best_tenth": best}


def operation_use(groups: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Share of functions that use each operation, in the groups of :func:`comparable`: operation, llm(_low, _high),
    corpus(_low, _high), best_tenth(_low, _high) in per cent with Wilson intervals; p_value (Fisher, LLM against
    corpus), p_holm (corrected for 19 tests)."""
    rows = []
    for operation in OPERATIONS:
        row: dict[str, Any] = {"operation": operation}
        counts = {name: sum(operation in used for used in group["operations"]) for name, group in groups.items()}
        for name, count in counts.items():
            row |= intervals.wilson(count, len(groups[name])).scaled(100).columns(name)
        table = [[counts[g], len(groups[g]) - counts[g]] for g in ("llm", "corpus")]
        rows.append(row | {"p_value": stats.fisher_exact(table).pvalue})
    frame = pd.DataFrame(rows)
    frame["p_holm"] = sm.stats.multipletests(frame["p_value"], method="holm")[1]
    return frame.sort_values("llm", ascending=False, ignore_index=True)


def predicted(brute_force: pd.DataFrame, groups: dict[str, pd.DataFrame]) -> dict[str, np.ndarray]:
    """Score that each function's operations alone predict (the additive regression): nothing is trained again."""
    fit = fit_operations(brute_force)
    designs = {name: sm.add_constant(operation_indicators(g), has_constant="add") for name, g in groups.items()}
    return {name: np.asarray(fit.predict(design)) for name, design in designs.items()}


def predicted_scores(brute_force: pd.DataFrame, groups: dict[str, pd.DataFrame], rng, resamples: int) -> pd.DataFrame:
    """Mean predicted score of each group: group, n, predicted(_low, _high), recorded (mean score where the group has
    scores)."""
    rows = []
    for name, values in predicted(brute_force, groups).items():
        mean = intervals.bootstrap(values, np.mean, rng, resamples)
        recorded = groups[name]["score"].mean()
        rows.append({"group": name, "n": mean.n} | mean.columns("predicted") | {"recorded": recorded})
    return pd.DataFrame(rows)


TARGETS = "tuning targets"


def target_shares(scores: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """How often each function is the target of a pair drawn as published, shape (n,), sum 1.

    A baseline is drawn uniformly, then a target uniformly among those of different code that score strictly higher. A
    model that copies what it is tuned to write writes functions in these shares.
    """
    shares = np.zeros(len(scores))
    for score, code in zip(scores, codes, strict=True):
        better = (scores > score) & (codes != code)
        shares[better] += 1 / max(better.sum(), 1)
    return shares / shares.sum()


def cues(brute_force: pd.DataFrame, groups: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """How much better the LLM's choice of operations is than what it could have copied: predicted score, points.

    Against accepted corpus functions as they are, and weighted as tuning targets (:func:`target_shares`), both of as
    many operations as the LLM's. Columns: against, n (functions of the LLM), difference(_low, _high): t interval over
    these; what they are compared with is known completely.
    """
    values, corpus = predicted(brute_force, groups), groups["corpus"]
    shares = target_shares(corpus["score"].to_numpy(), corpus["code_hash"].to_numpy())
    against = {"corpus": values["corpus"].mean(), TARGETS: shares @ values["corpus"]}
    found = {name: intervals.t_interval(values["llm"] - mean).scaled(100) for name, mean in against.items()}
    return pd.DataFrame([{"against": name, "n": one.n} | one.columns("difference") for name, one in found.items()])


ASKED = 10  # functions that the authors' loop asks for in an LLM epoch (TuneTransformGen.py, TEST_NN)


def times_fewer(brute_force: pd.DataFrame, llm: pd.DataFrame, rng: np.random.Generator, resamples: int) -> pd.DataFrame:
    """How many times fewer functions like the LLM's than others one must evaluate to meet one of the corpus' best 1 %.

    Every operation set of the LLM's functions is in the corpus, with other parameters: its recorded scores stand for
    what was never published. A share of hits by another is how many times fewer evaluations until the first hit.

    Returns:
        compared_with (what is evaluated instead), share (of it among the best 1 %, per cent), share_llm, n (distinct
        operation sets of the LLM's, which the bootstrap resamples), times_fewer(_low, _high). In the last row the
        LLM's share is of all that it was asked for: it wrote at least :data:`ASKED` functions in each LLM epoch up to
        the last that is committed, and those below 40 % are not. UsageError if a set is not in the corpus.
    """
    corpus, sets = brute_force.assign(score=brute_force["score"].fillna(CHANCE)), {}
    hit = corpus["score"] >= corpus["score"].quantile(0.99)
    for used, reached in hit.groupby(corpus["operations"].map(frozenset)):
        sets[used] = reached.mean()
    own = llm["operations"].map(frozenset)
    if missing := set(own) - set(sets):
        raise UsageError(f"no recorded function uses {', '.join(sorted(min(missing, key=sorted)))}", "leave it out")
    found = intervals.cluster_mean(own.map(sets).to_numpy(), own.map(sorted).map(" ".join), rng, resamples)
    accepted = corpus["score"] >= ACCEPTED
    targets = target_shares(corpus["score"][accepted].to_numpy(), corpus["code_hash"][accepted].to_numpy())
    kept = len(llm) / (ASKED * llm["llm_epoch"].max())
    others = {
        "any function": (hit.mean(), 1.0),
        "accepted functions (40 % and more), as the LLM's are": (hit[accepted].mean(), 1.0),
        "accepted functions of one operation": (hit[accepted & (corpus["n_operations"] == 1)].mean(), 1.0),
        "tuning targets: copying them": (targets @ hit[accepted], 1.0),
        "any function; the LLM's that were not kept count": (hit.mean(), kept),
    }
    rows = []
    for name, (share, part) in others.items():
        row = {"compared_with": name, "share": 100 * share, "share_llm": 100 * part * found.value, "n": found.n}
        rows.append(row | found.scaled(part / share if share else np.nan).columns("times_fewer"))
    return pd.DataFrame(rows)


def five_epoch_pairs(brute_force: pd.DataFrame, five_epochs: pd.DataFrame) -> pd.DataFrame:
    """One- and five-epoch score of the functions that have both (columns one_epoch, five_epochs), matched by code; one
    scored more than once enters with the mean of its scores."""
    once = scored(brute_force).groupby("code_hash")["score"].mean().rename("one_epoch")
    later = five_epochs.groupby("code_hash")["score"].mean().rename("five_epochs")
    return pd.concat([once, later], axis=1, join="inner").reset_index(drop=True)


def most_replicated(functions: pd.DataFrame, codes: int = 12) -> pd.DataFrame:
    """Scores of the codes scored most often; columns label (operations and parameters), score."""
    usable = scored(functions)
    counts = usable["code_hash"].value_counts().sort_index().sort_values(ascending=False, kind="stable")
    rank = {code: i for i, code in enumerate(counts.index[:codes])}
    chosen = usable[usable["code_hash"].isin(rank)].sort_values("code_hash", key=lambda column: column.map(rank))
    labels = [_label(*row) for row in zip(chosen["operations"], chosen["parameters"], strict=True)]
    return chosen.assign(label=labels)[["label", "score"]].reset_index(drop=True)


def _label(operations, parameters: str) -> str:
    """``RandomCrop(size=28) + Grayscale(num_output_channels=3)``, from the table's columns."""
    steps = zip(operations, json.loads(parameters), strict=True)
    return " + ".join(f"{name}({', '.join(f'{k}={v}' for k, v in given.items())})" for name, given in steps)
