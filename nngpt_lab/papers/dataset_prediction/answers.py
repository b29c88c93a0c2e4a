"""What a language model's answers to paper C's questions are worth: from texts and likelihoods to tables.

A question offers two data sets, the first and the second in the published order, and is asked in that order and in the
other. Three readouts of the same model:

text          greedy text in the published order, matched against the two names; "both" and "neither" are wrong
likelihood    which name, ended as an answer ends, has the higher total log-likelihood (published order)
both orders   the same by the mean of the log-odds over the two orders, so that the order of the names cannot decide

Input is a frame of answers, one row per question, order and epoch: model, prompt, split, part, question_set, seed,
epoch, subset (validation or test), question, swapped, log_odds (nats, first over second), outcome (first, second, both,
neither), group (equal programs share one), pair, dataset_1, dataset_2, first_wins, first (one of the test part's first
30, the paper's N), sampled (in the random test sample).
"""

from __future__ import annotations

import re
from itertools import product

import numpy as np
import pandas as pd

from nngpt_lab.papers.dataset_prediction.questions import DATASETS
from nngpt_lab.statistics import intervals
from nngpt_lab.statistics.intervals import Estimate

CELL = ["model", "prompt", "split", "question_set"]
RUN = [*CELL, "part", "seed"]
READOUTS = ("text", "likelihood", "both orders")
OUTCOMES = ("first", "second", "both", "neither")
FIRST = 30  # the paper's N


def match(text: str, first: str, second: str) -> str:
    """Which of two names a text answers: ``first``, ``second``, ``both`` or ``neither``; letters' case is ignored.

    In this order: the text is the name; it has the name as a whole word; the same with "-" and "_" as blanks. The first
    of these that finds a name decides; a thought (up to ``</think>``) is no part of the answer.

    >>> match("CIFAR-100", "cifar-10", "cifar-100"), match("cifar_10 or cifar-100", "cifar-10", "cifar-100")
    ('second', 'second')
    """
    said = text.rpartition("</think>")[2].strip().lower()
    names = [first.lower(), second.lower()]
    if said in names:
        return OUTCOMES[names.index(said)]
    for form in (str, _blanks):
        found = [_has_word(form(said), form(name)) for name in names]
        if any(found):
            return "both" if all(found) else OUTCOMES[found.index(True)]
    return "neither"


def _blanks(text: str) -> str:
    return re.sub(r"[-_]", " ", text)


def _has_word(text: str, name: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text) is not None


# ----------------------------------------------------------------------------------------------------------- decisions


def decisions(answers: pd.DataFrame) -> pd.DataFrame:
    """One row per question and readout: the columns of ``answers`` without its readings, and readout, chance_first (the
    probability of the first name, nan for text), said_first (nan if neither or both), correct (0, 1; 0.5 for a tie)."""
    kept = answers.columns.difference(["swapped", "log_odds", "outcome", "text"], sort=False).tolist()
    keys = [*RUN, "epoch", "subset", "question"]
    keys += ["condition"] if "condition" in answers else []
    mean_odds = answers.groupby(keys)["log_odds"].mean()
    published = answers[~answers["swapped"]]
    both = published[keys].merge(mean_odds, left_on=keys, right_index=True, how="left")["log_odds"].to_numpy()
    written = published[published["outcome"] != ""]  # not every question is answered in text, too
    said = written["outcome"].map({"first": 1.0, "second": 0.0})
    tables = [written[kept].assign(readout="text", chance_first=np.nan, said_first=said)]
    for readout, odds in (("likelihood", published["log_odds"].to_numpy()), ("both orders", both)):
        side = (np.sign(odds) + 1) / 2
        tables.append(published[kept].assign(readout=readout, chance_first=_sigmoid(odds), said_first=side))
    table = pd.concat([table for table in tables if len(table)], ignore_index=True)
    right = 1 - (table["said_first"] - table["first_wins"].astype(float)).abs()
    return table.assign(correct=right.fillna(0.0))


def _sigmoid(log_odds: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(log_odds, -500, 500)))


def picked_epochs(decided: pd.DataFrame) -> pd.DataFrame:
    """Columns of a run and epoch: the tuned epoch with the most right answers on validation, the last of equals.

    By the readout over both orders, which has the least noise. Epoch 0, the untuned model, is never picked.
    """
    held = decided[(decided["subset"] == "validation") & (decided["readout"] == "both orders") & (decided["epoch"] > 0)]
    score = held.groupby([*RUN, "epoch"])["correct"].mean().reset_index()
    best = score.sort_values(["correct", "epoch"], ascending=False).drop_duplicates(RUN)
    return best[[*RUN, "epoch"]].sort_values(RUN, ignore_index=True)


def at_picked(decided: pd.DataFrame, picked: pd.DataFrame) -> pd.DataFrame:
    """The random test sample's decisions at the epoch that validation picked."""
    return decided[(decided["subset"] == "test") & decided["sampled"]].merge(picked, on=[*RUN, "epoch"])


# -------------------------------------------------------------------------------------------------------------- tables


def epochs_table(decided: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of each epoch on the test questions, on the first 30 (the paper's N) and on all that were asked.

    Columns: model, prompt, split, question_set, seed, epoch, readout, on, n, correct, accuracy, low, high (per cent;
    Wilson, which takes questions as independent). Folds of a split are pooled.
    """
    test = decided[decided["subset"] == "test"]
    parts = [test[test["first"]].assign(on=f"first {FIRST}"), test[test["sampled"]].assign(on="all")]
    keys, rows = [*CELL, "seed", "epoch", "readout", "on"], []
    for key, group in pd.concat(parts).groupby(keys, sort=True):
        share = intervals.wilson(group["correct"].sum(), len(group)).scaled(100)
        rows.append((*key, len(group), group["correct"].sum(), share.value, share.low, share.high))
    return pd.DataFrame(rows, columns=[*keys, "n", "correct", "accuracy", "low", "high"])


def peaks_table(
    decided: pd.DataFrame, picked: pd.DataFrame, rng: np.random.Generator, resamples: int, on: str = "all"
) -> pd.DataFrame:
    """The best epoch on test, which the paper reports, beside the epoch picked on validation: what a peak owes to luck.

    Per run (folds apart): n, epochs, peak and peak_epoch (test), picked_accuracy and picked_epoch (validation),
    luck_if_equal: how far the best of so many independent epochs of equal accuracy would lie above that accuracy, an
    upper bound, since epochs resemble each other; optimism: mean over bootstrap samples of the questions of the best
    epoch's accuracy on the sample minus that on the questions left out. All in per cent or points; both orders.
    """
    test = decided[(decided["subset"] == "test") & (decided["epoch"] > 0) & (decided["readout"] == "both orders")]
    test = test[test["sampled" if on == "all" else "first"]]
    chosen = picked.set_index(RUN)["epoch"]
    rows = []
    for key, group in test.groupby(RUN, sort=True):
        table = group.pivot_table(index="question", columns="epoch", values="correct")
        means, correct = table.mean(), table.to_numpy()
        luck = rng.binomial(len(table), means.mean(), size=(resamples, len(means))).max(1) / len(table) - means.mean()
        optimism = _optimism(correct, rng, resamples)
        row = {"on": on, "n": len(table), "epochs": len(means), "peak": 100 * means.max(), "peak_epoch": means.idxmax()}
        row |= {"picked_accuracy": 100 * means[chosen[key]], "picked_epoch": chosen[key]}
        row |= {"luck_if_equal": 100 * luck.mean(), "optimism": 100 * optimism}
        rows.append(dict(zip(RUN, key, strict=True)) | row)
    return pd.DataFrame(rows)


def _optimism(correct: np.ndarray, rng: np.random.Generator, resamples: int) -> float:
    """Of picking the best column: its mean on a bootstrap sample of the rows minus that on the rows left out."""
    n = len(correct)
    weights = intervals.resample_counts(rng, n, resamples)
    out = weights == 0
    usable = out.any(1)
    inside, outside = weights[usable] @ correct / n, out[usable] @ correct / out[usable].sum(1, keepdims=True)
    best, every = inside.argmax(1), np.arange(usable.sum())
    return float((inside[every, best] - outside[every, best]).mean())


def models_table(
    decided: pd.DataFrame, baselines: pd.DataFrame, picked: pd.DataFrame, rng: np.random.Generator, resamples: int
) -> pd.DataFrame:
    """Models and baselines on the same test questions, seeds and folds pooled.

    ``baselines`` has the columns split, part, question_set, seed, question, group, baseline, trained_on (``the same
    questions`` as the model, or ``the whole training part``) and correct. Columns: split, question_set, answerer,
    prompt, readout, state (untuned, tuned, or what a baseline was trained on), n, accuracy, low, high (per cent,
    bootstrap over groups), seeds.
    """
    asked = decided[(decided["subset"] == "test") & decided["sampled"]]
    tuned = at_picked(decided, picked).assign(state="tuned")
    models = pd.concat([asked[asked["epoch"] == 0].assign(state="untuned"), tuned])
    others = baselines.rename(columns={"trained_on": "state", "baseline": "model"}).assign(prompt="", readout="")
    keys = ["split", "question_set", "model", "prompt", "readout", "state"]
    rows = []
    for key, group in pd.concat([models, others]).groupby(keys, sort=False):
        mean = _accuracy(group, rng, resamples)
        rows.append((*key, mean.n, mean.value, mean.low, mean.high, group["seed"].nunique()))
    table = pd.DataFrame(rows, columns=[*keys, "n", "accuracy", "low", "high", "seeds"])
    return table.rename(columns={"model": "answerer"}).sort_values(["split", "question_set"], kind="stable")


RIVALS = ("names", "family_and_names", "code_and_names")


def against_baselines(
    decided: pd.DataFrame, baselines: pd.DataFrame, picked: pd.DataFrame, rng: np.random.Generator, resamples: int
) -> pd.DataFrame:
    """Each tuned model (both orders) against names, family and names, code and names; ``best`` marks the best of these.

    Paired by question, fold and seed. Columns: model, prompt, split, question_set, baseline, trained_on, best, n,
    difference(_low, _high) in points (bootstrap over groups), only_model, only_baseline, p (exact McNemar, which takes
    questions as independent; the interval does not).
    """
    tuned = at_picked(decided, picked)
    tuned = tuned[tuned["readout"] == "both orders"]
    place = ["split", "part", "question_set", "seed", "question"]
    rows = []
    for cell, group in tuned.groupby(CELL, sort=True):
        found = []
        rivals = baselines[baselines["baseline"].isin(RIVALS)]
        for (name, trained_on), rival in rivals.groupby(["baseline", "trained_on"], sort=False):
            pairs = group.merge(rival[[*place, "correct"]], on=place, suffixes=("", "_other"))
            if len(pairs):
                compared = paired(pairs["correct"], pairs["correct_other"], pairs["group"], rng, resamples)
                row = {"baseline": name, "trained_on": trained_on, "accuracy": 100 * pairs["correct_other"].mean()}
                found.append(dict(zip(CELL, cell, strict=True)) | row | compared)
        best = max((row["accuracy"] for row in found), default=None)
        first = next((row for row in found if row["accuracy"] == best), None)
        rows += [row | {"best": row is first} for row in found]
    renamed = {"only_first": "only_model", "only_second": "only_baseline"}
    return pd.DataFrame(rows).rename(columns=renamed)


def order_swap(answers: pd.DataFrame, picked: pd.DataFrame) -> pd.DataFrame:
    """What the order of the two names does, at the picked epoch and untuned, by text and by likelihood.

    Columns: model, prompt, split, question_set, readout, state, n (questions that have an answer in both orders),
    consistent(_low, _high): the same data set in both orders; first_place(_low, _high): answers that name what stands
    first, 50 for a model without a bias; consistent_accuracy(_low, _high); unanswered: texts with both names or
    neither, of all asked. Per cent, Wilson.
    """
    test = answers[(answers["subset"] == "test") & answers["sampled"]]
    states = [test[test["epoch"] == 0].assign(state="untuned")]
    states.append(test.merge(picked, on=[*RUN, "epoch"]).assign(state="tuned"))
    rows = []
    for (*cell, state), group in pd.concat(states).groupby([*CELL, "state"], sort=True):
        by_odds = (np.sign(group["log_odds"]) + 1) / 2
        written = group[group["outcome"] != ""]
        by_text = written["outcome"].map({"first": 1.0, "second": 0.0})
        for readout, asked, said in (
            ("text", written, by_text),
            ("likelihood", group, by_odds.where(by_odds != 0.5)),
        ):
            keys = [*RUN, "question", "first_wins", "swapped"]
            orders = asked.assign(said=said).set_index(keys)["said"].unstack("swapped")
            orders = orders.reindex(columns=[False, True]).dropna()
            row = dict(zip(CELL, cell, strict=True)) | {"readout": readout, "state": state}
            rows.append(row | _order_numbers(orders) | {"unanswered": 100 * said.isna().mean()})
    return pd.DataFrame(rows)


def _order_numbers(orders: pd.DataFrame) -> dict[str, float]:
    straight, swapped = orders[False], orders[True]
    same = straight == swapped
    first_wins = orders.index.get_level_values("first_wins").to_numpy(bool)
    right = (straight == first_wins)[same]
    named_first = straight.sum() + (1 - swapped).sum()
    consistent = intervals.wilson(same.sum(), len(orders)).scaled(100).columns("consistent")
    first_place = intervals.wilson(named_first, 2 * len(orders)).scaled(100).columns("first_place")
    accuracy = intervals.wilson(right.sum(), len(right)).scaled(100).columns("consistent_accuracy")
    return {"n": len(orders)} | consistent | first_place | accuracy


def ablations_table(altered: pd.DataFrame, rng: np.random.Generator, resamples: int) -> pd.DataFrame:
    """Every altered input against the unaltered one, on the same questions and the same tuned model.

    ``altered`` are decisions with a column condition, ``as asked`` among them. Columns: model, prompt, split,
    question_set, condition, n, accuracy(_low, _high), difference(_low, _high) to the unaltered in points (bootstrap
    over groups), only_unaltered, only_altered, p (exact McNemar), changed (answers that became another name, per cent).
    """
    decided = altered[altered["readout"] == "both orders"]
    place, rows = [*RUN, "question"], []
    for cell, group in decided.groupby(CELL, sort=True):
        plain = group[group["condition"] == "as asked"][[*place, "correct", "said_first"]]
        for condition, part in group.groupby("condition", sort=False):
            pairs = part.merge(plain, on=place, suffixes=("", "_plain"))
            mean = _accuracy(pairs, rng, resamples)
            row = dict(zip(CELL, cell, strict=True)) | {"condition": condition} | mean.columns("accuracy")
            row |= paired(pairs["correct"], pairs["correct_plain"], pairs["group"], rng, resamples)
            row |= {"changed": 100 * (pairs["said_first"] != pairs["said_first_plain"]).mean()}
            rows.append(row)
    return pd.DataFrame(rows).rename(columns={"only_first": "only_altered", "only_second": "only_unaltered"})


def paired(a: pd.Series, b: pd.Series, clusters: pd.Series, rng: np.random.Generator, resamples: int) -> dict:
    """Accuracy of ``a`` minus that of ``b`` on the same questions.

    n, difference(_low, _high) in points, only_first and only_second (questions that one alone has right; a tie is half
    right and counts for neither), p (exact McNemar; nan if ties are all that differs).
    """
    a, b = a.to_numpy(float), b.to_numpy(float)
    gap = intervals.cluster_mean(a - b, clusters, rng, resamples).scaled(100)
    alone = int(((a == 1) & (b == 0)).sum()), int(((a == 0) & (b == 1)).sum())
    p = intervals.mcnemar(*alone) if sum(alone) or (a == b).all() else np.nan
    row = {"n": gap.n} | gap.columns("difference")
    return row | {"only_first": alone[0], "only_second": alone[1], "p": p}


def per_dataset(decided: pd.DataFrame, picked: pd.DataFrame, rng: np.random.Generator, resamples: int) -> pd.DataFrame:
    """Accuracy (both orders) on the questions that name each data set; seeds and folds pooled.

    Columns: model, prompt, split, question_set, dataset, n, accuracy, low, high (per cent, bootstrap over groups).
    """
    tuned = at_picked(decided, picked)
    rows = []
    for (cell, group), dataset in product(_by_cell(tuned), sorted(DATASETS)):
        named = group[(group["dataset_1"] == dataset) | (group["dataset_2"] == dataset)]
        mean = _accuracy(named, rng, resamples)
        rows.append((*cell, dataset, mean.n, mean.value, mean.low, mean.high))
    return pd.DataFrame(rows, columns=[*CELL, "dataset", "n", "accuracy", "low", "high"])


def pair_confusion(decided: pd.DataFrame, picked: pd.DataFrame) -> pd.DataFrame:
    """Per pair of data sets (names sorted): how often the first name is right and how often it is said.

    Columns: model, prompt, split, question_set, pair, n, right, said (per cent, of the pair's first name), accuracy,
    low, high (per cent, Wilson).
    """
    tuned = at_picked(decided, picked)
    rows = []
    for cell, group in _by_cell(tuned):
        turned = group["dataset_1"] > group["dataset_2"]
        right, said = group["first_wins"] ^ turned, (group["said_first"] - turned).abs()
        for pair, index in group.groupby("pair").groups.items():
            share = intervals.wilson(group.loc[index, "correct"].sum(), len(index)).scaled(100)
            means = 100 * right[index].mean(), 100 * said[index].mean()
            rows.append((*cell, pair, share.n, *means, share.value, share.low, share.high))
    return pd.DataFrame(rows, columns=[*CELL, "pair", "n", "right", "said", "accuracy", "low", "high"])


def calibration(decided: pd.DataFrame, picked: pd.DataFrame, bins: int = 5) -> pd.DataFrame:
    """How often answers are right that are given with so much confidence: the likelier name's share of the two.

    Bins hold equally many answers. Columns: model, prompt, split, question_set, confidence (mean of the bin), n,
    accuracy, low, high (all per cent, Wilson), brier (mean squared error of the probability, whole cell).
    """
    tuned = at_picked(decided, picked)
    rows = []
    for cell, group in _by_cell(tuned):
        sure = group["chance_first"].where(group["chance_first"] >= 0.5, 1 - group["chance_first"])
        brier = ((group["chance_first"] - group["first_wins"].astype(float)) ** 2).mean()
        order = np.argsort(sure.to_numpy(), kind="stable")
        for index in np.array_split(order, min(bins, len(order))):
            share = intervals.wilson(group["correct"].iloc[index].sum(), len(index)).scaled(100)
            rows.append((*cell, 100 * sure.iloc[index].mean(), share.n, share.value, share.low, share.high, brier))
    return pd.DataFrame(rows, columns=[*CELL, "confidence", "n", "accuracy", "low", "high", "brier"])


def _by_cell(tuned: pd.DataFrame):
    return tuned[tuned["readout"] == "both orders"].groupby(CELL, sort=True)


def _accuracy(group: pd.DataFrame, rng: np.random.Generator, resamples: int) -> Estimate:
    clusters = group["group"].to_numpy()
    return intervals.cluster_mean(group["correct"].to_numpy(float), clusters, rng, resamples).scaled(100)
