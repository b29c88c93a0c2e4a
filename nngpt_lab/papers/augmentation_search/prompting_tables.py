"""Chain of thought against direct prompting in numbers: validity, noise around answers, tokens, paired tests.

``answers`` is what ``prompting.py`` returns: one row per sample, with columns model, style
(``direct`` or ``cot``), shots (references in the prompt), tuned (whether the model is tuned in this style), seed, epoch
(LLM epoch, from 1), position, text (the model's own), tokens (new tokens), limit (how many it may have), status, valid,
score. An *arm* is a model, shots, tuned and a style; a *setting* is the two styles of a model with equal shots, tuned
or not, which share numbers of samples, seeds and, before any tuning, references. *Valid* is a function that ran, or a
copy of one that did: what an answer owes to its format must not depend on whether it is new.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from scipy import stats

from nngpt_lab.ground.errors import UsageError
from nngpt_lab.papers.augmentation_search.answer_forms import TYPES, answer_type, form, found_by_authors, reasons
from nngpt_lab.sandbox.status import Status
from nngpt_lab.statistics import intervals

STYLES = ("direct", "cot")
SETTING = ["model", "shots", "tuned"]  # within which the two styles are compared
ARM = ["model", "shots", "tuned", "style"]
SHARES = ["valid", "new", "authors", "reasoned"]
SAMPLE = [*SETTING, "seed", "epoch", "position"]
SEEDS = 3  # from so many on, a run is the unit
FEWEST = 5  # functions with a score: a bootstrap of fewer promises far too much


# ------------------------------------------------------------------------------------------------------------ answers


def described(answers: pd.DataFrame) -> pd.DataFrame:
    """The answers in the order of their arms and places, with columns form, reasoned (:func:`reasons`), type, new
    (valid and no copy), authors (valid, and found by the authors' extraction too), within (valid, and written within
    the budget), budget.

    The *budget* of a seed is the number of tokens that the style which writes less has written at its end; the other
    style is cut there, after its last answer that fits.
    """
    if not len(answers):
        raise UsageError("there are no answers", "run at least one arm")
    if answers.duplicated([*SAMPLE, "style"]).any():
        raise UsageError("an answer is there twice", "concatenate each run once")
    order = {"model": list(dict.fromkeys(answers["model"])).index, "style": STYLES.index}
    keys = [*ARM, "seed", "epoch", "position"]
    rows = answers.sort_values(
        keys, ignore_index=True, key=lambda column: column.map(order.get(column.name, lambda x: x))
    )
    rows["form"] = [form(text) for text in rows["text"]]
    rows["reasoned"] = [reasons(text) for text in rows["text"]]
    facts = zip(rows["text"], rows["style"], rows["valid"], rows["tokens"], rows["limit"], strict=True)
    rows["type"] = [answer_type(*fact) for fact in facts]
    rows["valid"] = rows["valid"].astype(bool)
    rows["new"] = rows["valid"] & (rows["status"] != Status.DUPLICATE.value)
    rows["authors"] = rows["valid"] & np.array([found_by_authors(text) for text in rows["text"]])
    totals = rows.groupby([*ARM, "seed"])["tokens"].sum()
    rows = rows.join(totals.groupby([*SETTING, "seed"]).min().rename("budget"), on=[*SETTING, "seed"])
    rows["within"] = rows["valid"] & (rows.groupby([*ARM, "seed"])["tokens"].cumsum() <= rows["budget"])
    return rows


def after_tuning(answers: pd.DataFrame) -> pd.DataFrame:
    """The answers without those that the tuned arms wrote in their first LLM epoch, before any tuning."""
    return answers[~answers["tuned"].astype(bool) | (answers["epoch"] > 1)].reset_index(drop=True)


# ------------------------------------------------------------------------------------------------------------- tables


def epoch_table(rows: pd.DataFrame, profile: str) -> pd.DataFrame:
    """One row per arm, seed and LLM epoch: the table ``cot_vs_direct.csv``. ``rows``: as of :func:`described`.

    Returns:
        profile, model, style, shots, tuned, seed, epoch; sampled, valid, new, authors, within, reasoned (counts, see
        :func:`described`); mean, median, best (accuracy of those trained; nan without any), best_so_far; tokens,
        tokens_per_valid (nan without a valid one).
    """
    found = []
    for key, part in rows.groupby(["model", "style", "shots", "tuned", "seed", "epoch"], sort=False):
        names = ["model", "style", "shots", "tuned", "seed", "epoch"]
        row = {"profile": profile, **dict(zip(names, key, strict=True)), "sampled": len(part)}
        row |= {name: int(part[name].sum()) for name in (*SHARES, "within")}
        row |= {"mean": part["score"].mean(), "median": part["score"].median(), "best": part["score"].max()}
        row |= {"best_so_far": np.nan, "tokens": int(part["tokens"].sum())}
        found.append(row | {"tokens_per_valid": _ratio(row["tokens"], row["valid"])})
    table = pd.DataFrame(found)
    table["best_so_far"] = table.groupby([*ARM, "seed"])["best"].transform(lambda best: best.cummax().ffill())
    return table


def arm_table(rows: pd.DataFrame, rng: np.random.Generator, resamples: int) -> pd.DataFrame:
    """One row per arm, over all seeds and LLM epochs, with 95 % intervals.

    Shares have Wilson intervals, which take all samples as independent. Means and ratios have bootstrap intervals over
    seeds from three on, else over samples; they are nan with fewer than five functions that have a score.

    Returns:
        model, shots, tuned, style; seeds, sampled; valid, new, authors, reasoned, clean (shares of the samples), mean
        (accuracy of the trained), tokens_per_valid, each with ``_low`` and ``_high``; best; within, budget (sums over
        seeds: valid ones in the same tokens as the thriftier style's).
    """
    found = []
    for key, part in rows.groupby(ARM, sort=False):
        row = {**dict(zip(ARM, key, strict=True)), "seeds": part["seed"].nunique(), "sampled": len(part)}
        for name, count in part[SHARES].assign(clean=part["type"] == "clean").items():
            row |= intervals.wilson(int(count.sum()), len(part)).columns(name)
        row |= _bootstrapped(part, "mean", rng, resamples).columns("mean")
        row |= _bootstrapped(part, "tokens_per_valid", rng, resamples).columns("tokens_per_valid")
        row |= {"best": part["score"].max(), "within": int(part["within"].sum())}
        found.append(row | {"budget": int(part.groupby("seed")["budget"].first().sum())})
    return pd.DataFrame(found)


def type_table(rows: pd.DataFrame) -> pd.DataFrame:
    """How the answers of each arm are: the table ``answer_types.csv``; every type has a row.

    Columns model, shots, tuned, style, type, count, sampled, share, low, high (Wilson).
    """
    return _counted(rows, ARM, "type", TYPES)


def failure_table(rows: pd.DataFrame) -> pd.DataFrame:
    """How the samples of each arm ended, LLM epoch by LLM epoch: columns model, shots, tuned, style, epoch, status,
    count, sampled, share, low, high (Wilson). Only statuses that occur in a model's answers."""
    known = [status.value for status in Status]
    tables = [
        _counted(part, [*ARM, "epoch"], "status", [one for one in known if one in set(part["status"])])
        for _, part in rows.groupby("model", sort=False)
    ]
    return pd.concat(tables, ignore_index=True)


def _counted(rows: pd.DataFrame, keys: list[str], column: str, values) -> pd.DataFrame:
    found = []
    for key, part in rows.groupby(keys, sort=False):
        counts = part[column].value_counts()
        for value in values:
            share = intervals.wilson(int(counts.get(value, 0)), len(part))
            found.append((*key, value, int(counts.get(value, 0)), len(part), share.value, share.low, share.high))
    return pd.DataFrame(found, columns=[*keys, column, "count", "sampled", "share", "low", "high"])


# --------------------------------------------------------------------------------------------------------- paired tests

MEASURES = {
    "valid": "valid, of the samples",
    "new": "valid and no copy, of the samples",
    "authors": "valid by the authors' extraction, of the samples",
    "reasoned": "with words before the code, of the samples",
    "mean": "mean accuracy of the trained",
    "best": "best accuracy",
    "tokens_per_valid": "tokens per valid function",
    "within": "valid functions within the same tokens",
    "spread": "SD of the valid share over LLM epochs",
}
MCNEMAR = "McNemar over samples (interval: Bonett and Price)"
PAIRED = "paired t over seeds"
EQUAL = "equal in all seeds: no interval"
BOOTSTRAP = "bootstrap over paired samples; does not cover the seed"
NOTHING = "no interval: too few seeds or functions"
TEST = ["measure", "direct", "cot", "difference", "low", "high", "p_value", "n", "method"]


def paired_tests(rows: pd.DataFrame, rng: np.random.Generator, resamples: int) -> pd.DataFrame:
    """Direct minus chain of thought in each setting, by every measure: the table ``paired_tests.csv``.

    Validity has McNemar's exact test over samples of the same seed, epoch and position, and everything has a paired t
    test over seeds where there are three; samples of one tuned model are not independent of each other, so where both
    are there, the t test is the one that covers another run. The p-values are not adjusted for their number.

    Returns:
        model, shots, tuned; measure, direct, cot (values), difference (direct minus cot), low, high, p_value (nan for a
        bootstrap), n (pairs of samples, or seeds), method; only_direct, only_cot (samples valid in one style alone).
    """
    tables = []
    for key, part in rows.groupby(SETTING, sort=False):
        pairs = _pairs(part)
        if not len(pairs):
            continue
        discordant = int((pairs["valid_direct"] & ~pairs["valid_cot"]).sum())
        found = pd.DataFrame(list(_tests(part, pairs, rng, resamples)), columns=TEST)
        found = found.assign(only_direct=discordant, only_cot=int((pairs["valid_cot"] & ~pairs["valid_direct"]).sum()))
        tables.append(found.assign(**dict(zip(SETTING, key, strict=True))))
    columns = [*SETTING, *TEST, "only_direct", "only_cot"]
    return pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)


def _pairs(part: pd.DataFrame) -> pd.DataFrame:
    """One row per sample that both styles have, columns with the endings ``_direct`` and ``_cot``."""
    direct, cot = (part[part["style"] == style].set_index(SAMPLE) for style in STYLES)
    wanted = [*SHARES, "tokens", "score"]
    return direct[wanted].add_suffix("_direct").join(cot[wanted].add_suffix("_cot"), how="inner").reset_index()


def _tests(part: pd.DataFrame, pairs: pd.DataFrame, rng: np.random.Generator, resamples: int) -> Iterator[tuple]:
    by_seed = {
        style: pd.DataFrame({seed: values(one) for seed, one in part[part["style"] == style].groupby("seed")}).T
        for style in STYLES
    }
    for measure in MEASURES:
        if measure in SHARES:
            yield measure, *_mcnemar(pairs[f"{measure}_direct"], pairs[f"{measure}_cot"])
        seeds = pd.concat([by_seed[style][measure] for style in STYLES], axis=1, keys=STYLES).dropna()
        if len(seeds) >= SEEDS:
            yield measure, *_t_test(seeds["direct"], seeds["cot"])
        elif measure not in SHARES:
            direct, cot = (values(part[part["style"] == style])[measure] for style in STYLES)
            low = high = np.nan
            trained = min(pairs["score_direct"].count(), pairs["score_cot"].count())
            if measure in ("mean", "tokens_per_valid") and trained >= FEWEST:
                low, high = _paired_bootstrap(pairs, measure, rng, resamples)
            method = BOOTSTRAP if np.isfinite(low) else NOTHING
            yield measure, direct, cot, direct - cot, low, high, np.nan, len(pairs), method


def values(part: pd.DataFrame) -> dict[str, float]:
    """The value of every measure of :data:`MEASURES` for some rows of one arm; nan where there is none."""
    shares = part.groupby(["seed", "epoch"])["valid"].mean().groupby("seed").std().mean()
    return {
        **{name: part[name].mean() for name in SHARES},
        "mean": part["score"].mean(),
        "best": part["score"].max(),
        "tokens_per_valid": _ratio(part["tokens"].sum(), part["valid"].sum()),
        "within": float(part["within"].sum()),
        "spread": shares,
    }


def _mcnemar(direct: pd.Series, cot: pd.Series) -> tuple:
    """Exact test of the discordant pairs; the difference with the adjusted Wald interval of Bonett and Price (2012)."""
    n, only = len(direct), (int((direct & ~cot).sum()), int((cot & ~direct).sum()))
    p_value = stats.binomtest(only[0], sum(only)).pvalue if sum(only) else 1.0
    first, second = ((count + 1) / (n + 2) for count in only)
    reach = stats.norm.ppf((1 + intervals.LEVEL) / 2)
    reach *= np.sqrt(max(first + second - (first - second) ** 2, 0) / (n + 2))
    low, high = max(first - second - reach, -1), min(first - second + reach, 1)
    return direct.mean(), cot.mean(), (only[0] - only[1]) / n, low, high, p_value, n, MCNEMAR


def _t_test(direct: pd.Series, cot: pd.Series) -> tuple:
    difference = (direct - cot).to_numpy(float)
    found = intervals.t_interval(difference)
    equal = np.isnan(found.low)
    p_value = np.nan if equal else float(stats.ttest_1samp(difference, 0).pvalue)
    means = direct.mean(), cot.mean(), found.value
    return *means, found.low, found.high, p_value, found.n, EQUAL if equal else PAIRED


def _paired_bootstrap(pairs: pd.DataFrame, measure: str, rng: np.random.Generator, resamples: int):
    """Interval of the difference of two ratios of sums; a sample goes with its partner."""
    weights = intervals.resample_counts(rng, len(pairs), resamples)
    draws = [_ratios(weights, pairs, measure, f"_{style}") for style in STYLES]
    return intervals.percentile_interval(draws[0] - draws[1])


def _ratios(weights: np.ndarray, rows: pd.DataFrame, measure: str, ending: str = "") -> np.ndarray:
    """``mean`` or ``tokens_per_valid`` of each weighting of the rows; nan where there is nothing to divide by."""
    score = rows[f"score{ending}"]
    if measure == "mean":
        above, below = score.fillna(0), score.notna()
    else:
        above, below = rows[f"tokens{ending}"], rows[f"valid{ending}"]
    below = weights @ below.to_numpy(float)
    return np.divide(weights @ above.to_numpy(float), below, out=np.full(len(below), np.nan), where=below > 0)


def _bootstrapped(part: pd.DataFrame, measure: str, rng: np.random.Generator, resamples: int) -> intervals.Estimate:
    value, n = values(part)[measure], len(part)
    if part["score"].count() < FEWEST:
        return intervals.Estimate(value, np.nan, np.nan, n)
    groups = part.groupby("seed").ngroup().to_numpy() if part["seed"].nunique() >= SEEDS else np.arange(n)
    units = groups.max() + 1
    weights = intervals.resample_counts(rng, units, resamples)[:, groups]
    return intervals.Estimate(value, *intervals.percentile_interval(_ratios(weights, part, measure)), n)


# ------------------------------------------------------------------------------------------------------------- verdicts

CLAIM = "chain of thought introduces syntactic noise and degrades performance; direct prompting is stable"
CLAIMS = {"valid": ("fewer valid answers", 1), "mean": ("lower accuracy", 1), "spread": ("direct is steadier", -1)}


def verdicts(tests: pd.DataFrame) -> pd.DataFrame:
    """The paper's claim, part by part, in each setting: columns model, shots, tuned, reasoned_direct, reasoned_cot
    (shares of the answers), part, verdict, difference (direct minus cot), low, high, n, method.

    *Supported* and *contradicted* need an interval that leaves out zero and, where there is one, a p-value below 0.05.
    Validity of untuned models is judged by McNemar's test, as their samples are independent; everything else over seeds
    where there are three. *Not tested* is a setting where fewer than half of the answers asked to reason do so, *not
    testable* a part where both styles are at zero, or one of them gives no number.
    """
    found = []
    for key, part in tests.groupby(SETTING, sort=False):
        reasoned = part[part["measure"] == "reasoned"].iloc[0]
        for measure, (name, sign) in CLAIMS.items():
            these = part[part["measure"] == measure]  # McNemar's comes first, the one over seeds last
            row = these.iloc[-1 if key[-1] else 0]
            said = _verdict(row, sign) if reasoned["cot"] >= 0.5 else "not tested: few answers reason"
            head = (*key, reasoned["direct"], reasoned["cot"], name, said)
            found.append((*head, *row[["difference", "low", "high", "n", "method"]]))
    columns = [*SETTING, "reasoned_direct", "reasoned_cot", "part", "verdict"]
    return pd.DataFrame(found, columns=[*columns, "difference", "low", "high", "n", "method"])


def _verdict(row: pd.Series, sign: int) -> str:
    if not np.isfinite(row["difference"]):
        return "not testable: no number in one style"
    if not row["direct"] and not row["cot"]:
        return "not testable: both zero"
    if not np.isfinite(row["low"]):
        return "no interval"
    if row["low"] <= 0 <= row["high"] or row["p_value"] >= 1 - intervals.LEVEL:
        return "no difference shown"
    return "supported" if np.sign(row["difference"]) == sign else "contradicted"


# -------------------------------------------------------------------------------------------------------------- helpers


def setting(shots: int, tuned: bool) -> str:
    """A setting in words: ``zero-shot``, ``few-shot`` or ``tuned``."""
    return "tuned" if tuned else "few-shot" if shots else "zero-shot"


def _ratio(above: float, below: float) -> float:
    return float(above / below) if below else np.nan
