"""Chain of thought against direct prompting in numbers: validity, noise around answers, tokens, paired tests.

``answers`` is what ``prompting.py`` returns: one row per sample, with columns model, style
(``direct`` or ``cot``), shots (references in the prompt), tuned (whether the model is tuned in this style), seed, epoch
(LLM epoch, from 1), position, text (the model's own), tokens (new tokens), limit (how many it may have), status, valid,
score. An *arm* is a model, shots, tuned and a style; a *setting* is the two styles of a model with equal shots, tuned
or not, which share numbers of samples, seeds and, before any tuning, references. *Valid* is a function that ran, or a
copy of one that did: what an answer owes to its format must not depend on whether it is new.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from nngpt_lab.ground.errors import UsageError
from nngpt_lab.papers.augmentation_search.answer_forms import TYPES, answer_type, found_by_authors, reasons
from nngpt_lab.papers.augmentation_search.rationales import STYLES
from nngpt_lab.sandbox.status import Status
from nngpt_lab.statistics import intervals
from nngpt_lab.statistics.claims import OPEN, REPRODUCED, Claim, load_claims, verdict
from nngpt_lab.statistics.intervals import Estimate
from nngpt_lab.study.comparison import MCNEMAR, RESULT, Mean, Measure, PairedProportion, PairedRatio, Statistic, compare
from nngpt_lab.study.samples import over_runs

SETTING = ["model", "shots", "tuned"]  # within which the two styles are compared
ARM = ["model", "shots", "tuned", "style"]
SHARES = ["valid", "new", "authors", "reasoned"]
SAMPLE = [*SETTING, "seed", "epoch", "position"]
MEASURES: dict[str, Measure] = {
    "valid": PairedProportion("valid, of the samples", "valid"),
    "new": PairedProportion("valid and no copy, of the samples", "new"),
    "authors": PairedProportion("valid by the authors' extraction, of the samples", "authors"),
    "reasoned": PairedProportion("with words before the code, of the samples", "reasoned"),
    "mean": Mean("mean accuracy of the trained", lambda part: part["score"]),
    "best": Statistic("best accuracy", lambda part: part["score"].max()),
    "tokens_per_valid": PairedRatio("tokens per valid function", "tokens", "valid"),
    "within": Statistic("valid functions within the same tokens", lambda part: float(part["within"].sum())),
    "spread": Statistic("SD of the valid share over LLM epochs", lambda part: _spread(part)),
}
"""What the two styles are compared by."""


def described(answers: pd.DataFrame) -> pd.DataFrame:
    """The answers in the order of their arms and places, with columns reasoned (:func:`reasons`), type, new (valid and
    no copy), authors (valid, and found by the authors' extraction too), within (valid, and written within the budget),
    budget.

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


def epoch_table(rows: pd.DataFrame, profile: str) -> pd.DataFrame:
    """One row per arm, seed and LLM epoch: the table ``cot_vs_direct.csv``. ``rows``: as of :func:`described`.

    Returns:
        profile, model, style, shots, tuned, seed, epoch; sampled, valid, new, authors, within, reasoned (counts, see
        :func:`described`); mean, median, best (accuracy of those trained; nan without any), best_so_far; tokens,
        tokens_per_valid (nan without a valid one).
    """
    names, epochs = ["model", "style", "shots", "tuned", "seed", "epoch"], []
    for key, part in rows.groupby(names, sort=False):
        row = {"profile": profile, **dict(zip(names, key, strict=True)), "sampled": len(part)}
        row |= {name: int(part[name].sum()) for name in (*SHARES, "within")}
        row |= {"mean": part["score"].mean(), "median": part["score"].median(), "best": part["score"].max()}
        row |= {"best_so_far": np.nan, "tokens": int(part["tokens"].sum())}
        epochs.append(row | {"tokens_per_valid": MEASURES["tokens_per_valid"].value(part)})
    table = pd.DataFrame(epochs)
    table["best_so_far"] = table.groupby([*ARM, "seed"])["best"].transform(lambda best: best.cummax().ffill())
    return table


def arm_table(rows: pd.DataFrame, rng: np.random.Generator, resamples: int) -> pd.DataFrame:
    """One row per arm, over all seeds and LLM epochs, with 95 % intervals.

    Shares have Wilson intervals, which take all samples as independent. Means and ratios have t-intervals over
    seeds from three on, else bootstrap intervals over functions with a score and over samples (``samples.over_runs``).

    Returns:
        model, shots, tuned, style; seeds, sampled; valid, new, authors, reasoned, clean (shares of the samples), mean
        (accuracy of the trained), tokens_per_valid, each with ``_low`` and ``_high``; best; within, budget (sums over
        seeds: valid ones in the same tokens as the thriftier style's).
    """
    arms = []
    for key, part in rows.groupby(ARM, sort=False):
        row = {**dict(zip(ARM, key, strict=True)), "seeds": part["seed"].nunique(), "sampled": len(part)}
        for name, count in part[SHARES].assign(clean=part["type"] == "clean").items():
            row |= intervals.wilson(int(count.sum()), len(part)).columns(name)
        scores = [run.dropna().to_numpy() for _, run in part.groupby("seed")["score"] if run.count()]
        row |= over_runs(scores, np.mean, rng, resamples).columns("mean")
        costs = [run[["tokens", "valid"]].to_numpy(float) for _, run in part.groupby("seed")]
        row |= over_runs(costs, _ratio, rng, resamples).columns("tokens_per_valid")
        row |= {"best": part["score"].max(), "within": int(part["within"].sum())}
        arms.append(row | {"budget": int(part.groupby("seed")["budget"].first().sum())})
    return pd.DataFrame(arms)


def _ratio(rows: np.ndarray, axis: int) -> np.ndarray:
    """Sum of the first column by the sum of the second; nan where that is zero. ``rows``: (..., 2)."""
    above, below = np.moveaxis(rows.sum(axis), -1, 0)
    return np.divide(above, below, out=np.full(np.shape(below), np.nan), where=below > 0)


def type_table(rows: pd.DataFrame) -> pd.DataFrame:
    """How the answers of each arm are, every type in a row: the table ``answer_types.csv``, columns model, shots,
    tuned, style, type, count, sampled, share(_low, _high) (Wilson)."""
    return _counted(rows, ARM, "type", TYPES)


def failure_table(rows: pd.DataFrame) -> pd.DataFrame:
    """How the samples of each arm ended, LLM epoch by LLM epoch: columns model, shots, tuned, style, epoch, status,
    count, sampled, share(_low, _high) (Wilson). Only statuses that occur in a model's answers."""
    tables = []
    for _, part in rows.groupby("model", sort=False):
        occurring = [status.value for status in Status if status.value in set(part["status"])]
        tables.append(_counted(part, [*ARM, "epoch"], "status", occurring))
    return pd.concat(tables, ignore_index=True)


def _counted(rows: pd.DataFrame, keys: list[str], column: str, values: Sequence[str]) -> pd.DataFrame:
    """How many samples of each key have each value of a column, as a share of the key's samples."""
    table = []
    for key, part in rows.groupby(keys, sort=False):
        counts = part[column].value_counts()
        for value in values:
            count = int(counts.get(value, 0))
            row = dict(zip(keys, key, strict=True)) | {column: value, "count": count, "sampled": len(part)}
            table.append(row | intervals.wilson(count, len(part)).columns("share"))
    return pd.DataFrame(table)


def paired_tests(rows: pd.DataFrame) -> pd.DataFrame:
    """Direct minus chain of thought in each setting, by every measure: the table ``paired_tests.csv``.

    Only samples that both styles have (the same seed, epoch and position) are compared, as
    :mod:`nngpt_lab.study.comparison` says. Shares of untuned models have McNemar's exact test in any case, and over
    three seeds a paired t test, too; samples of one tuned model are not independent of each other. The p-values are
    not adjusted for their number.

    Returns:
        model, shots, tuned; measure, direct, cot (values), difference(_low, _high) (direct minus cot), n (pairs of
        samples, functions or seeds), method, p_value (nan without a test); only_direct, only_cot (samples valid in one
        style alone).
    """
    tests = []
    for key, part in rows.groupby(SETTING, sort=False):
        direct, cot = _common(part)
        if not len(direct):
            continue
        first, second = direct["valid"].to_numpy(), cot["valid"].to_numpy()
        alone = {"only_direct": int((first & ~second).sum()), "only_cot": int((second & ~first).sum())}
        for name, measure in MEASURES.items():
            untuned = not key[SETTING.index("tuned")]
            results = [compare(direct, cot, measure, independent=untuned)]
            if name in SHARES and untuned and results[0].method != MCNEMAR:
                results.insert(0, measure.within(direct, cot))
            for result in results:
                row = dict(zip(SETTING, key, strict=True)) | {"measure": name} | result.columns("direct", "cot")
                tests.append(row | {"p_value": result.p_value} | alone)
    columns = [*SETTING, "measure", "direct", "cot", *RESULT, "p_value", "only_direct", "only_cot"]
    return pd.DataFrame(tests, columns=columns)


def _common(part: pd.DataFrame) -> tuple[pd.DataFrame, ...]:
    """The samples of a setting that both styles have, style by style, in the same order."""
    direct, cot = (part[part["style"] == style].set_index(SAMPLE) for style in STYLES)
    both = direct.index.intersection(cot.index)
    return tuple(table.loc[both].reset_index() for table in (direct, cot))


def _spread(part: pd.DataFrame) -> float:
    """SD of the valid share over the LLM epochs of a run, mean over runs."""
    return part.groupby(["seed", "epoch"])["valid"].mean().groupby("seed").std().mean()


CLAIM = "chain of thought introduces syntactic noise and degrades performance; direct prompting is stable"
PARTS = {
    "valid": ("fewer valid answers", "A-chain-of-thought-valid", 1),
    "mean": ("lower accuracy", "A-chain-of-thought", 1),
    "spread": ("direct is steadier", "A-chain-of-thought-steady", -1),
}
"""Parts of the claim by measure: in words, as registered in ``claims.toml``, and on which side of zero direct minus
chain of thought should lie."""


def verdicts(tests: pd.DataFrame) -> pd.DataFrame:
    """The paper's claim, part by part, in each setting, by the rule of :mod:`nngpt_lab.statistics.claims`.

    Validity of untuned models is judged by McNemar's test, as their samples are independent; everything else over seeds
    where there are three. An effect with a p-value from 0.05 up is *inconclusive* whatever its interval says. *Not
    tested* is a setting where fewer than half of the answers asked to reason do so, and a part where both styles are at
    zero or there is no interval; ``note`` says which.

    Returns:
        model, shots, tuned, reasoned_direct, reasoned_cot (shares of the answers), part, verdict, note; difference
        (direct minus cot), difference_low, difference_high, n, method.
    """
    rows = []
    for key, part in tests.groupby(SETTING, sort=False):
        reasoned = part[part["measure"] == "reasoned"].iloc[0]
        for measure, (name, claim, sign) in PARTS.items():
            these = part[part["measure"] == measure]  # McNemar's comes first, the one over seeds last
            result = these.iloc[-1 if key[-1] else 0]
            word, note = _verdict(result, load_claims()[claim], sign, reasoned["cot"])
            row = dict(zip(SETTING, key, strict=True)) | {"reasoned_direct": reasoned["direct"]}
            row |= {"reasoned_cot": reasoned["cot"], "part": name, "verdict": word, "note": note}
            rows.append(row | dict(result[RESULT]))
    columns = [*SETTING, "reasoned_direct", "reasoned_cot", "part", "verdict", "note", *RESULT]
    return pd.DataFrame(rows, columns=columns)


def _verdict(result: pd.Series, claim: Claim, sign: int, reasoned: float) -> tuple[str, str]:
    if reasoned < 0.5:
        return "not tested", "few answers reason"
    if not np.isfinite(result["difference"]):
        return "not tested", "no number in one style"
    if not result["direct"] and not result["cot"]:
        return "not tested", "both zero"
    if not np.isfinite(result["difference_low"]):
        return "not tested", result["method"]
    difference = Estimate.of(result, "difference").scaled(100 * sign)
    word = verdict(claim, difference)
    return (OPEN if word == REPRODUCED and result["p_value"] >= 1 - intervals.LEVEL else word), ""


def setting(shots: int, tuned: bool) -> str:
    """A setting in words: ``zero-shot``, ``few-shot`` or ``tuned``."""
    return "tuned" if tuned else "few-shot" if shots else "zero-shot"
