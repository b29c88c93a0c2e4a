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
from scipy.special import expit

from nngpt_lab.papers.dataset_prediction.questions import DATASETS
from nngpt_lab.statistics import intervals
from nngpt_lab.statistics.intervals import Estimate

CELL = ["model", "prompt", "split", "question_set"]
RUN = [*CELL, "part", "seed"]
OUTCOMES = ("first", "second", "both", "neither")
SAID_FIRST = {"first": 1.0, "second": 0.0}  # nan for the others
FIRST = 30  # the paper's N
DEGRADED = ("cifar-10", "cifar-100", "svhn")  # on these, the paper says, metadata does worse than code


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
        there = [_has_word(form(said), form(name)) for name in names]
        if any(there):
            return "both" if all(there) else OUTCOMES[there.index(True)]
    return "neither"


def _blanks(text: str) -> str:
    return re.sub(r"[-_]", " ", text)


def _has_word(text: str, name: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text) is not None


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
    said = written["outcome"].map(SAID_FIRST)
    tables = [written[kept].assign(readout="text", chance_first=np.nan, said_first=said)]
    for readout, odds in (("likelihood", published["log_odds"].to_numpy()), ("both orders", both)):
        tables.append(published[kept].assign(readout=readout, chance_first=expit(odds), said_first=likelier(odds)))
    table = pd.concat([table for table in tables if len(table)], ignore_index=True)
    right = 1 - (table["said_first"] - table["first_wins"].astype(float)).abs()
    return table.assign(correct=right.fillna(0.0))


def likelier(log_odds):
    """1 where the first name is likelier, 0 where the second is, 0.5 for a tie."""
    return (np.sign(log_odds) + 1) / 2


def picked_epochs(decided: pd.DataFrame) -> pd.DataFrame:
    """The tuned epoch with the most right answers on validation, by the readout over both orders, which has the least
    noise; the last of equals: columns of a run and epoch. Epoch 0, the untuned model, is never picked."""
    held = decided[(decided["subset"] == "validation") & (decided["readout"] == "both orders") & (decided["epoch"] > 0)]
    score = held.groupby([*RUN, "epoch"])["correct"].mean().reset_index()
    best = score.sort_values(["correct", "epoch"], ascending=False).drop_duplicates(RUN)
    return best[[*RUN, "epoch"]].sort_values(RUN, ignore_index=True)


def at_picked(decided: pd.DataFrame, picked: pd.DataFrame) -> pd.DataFrame:
    """The random test sample's decisions at the epoch that validation picked."""
    return decided[(decided["subset"] == "test") & decided["sampled"]].merge(picked, on=[*RUN, "epoch"])


def epochs_table(decided: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of each epoch on the test questions, on the first 30 (the paper's N) and on all that were asked.

    Columns: model, prompt, split, question_set, seed, epoch, readout, on, n, correct, accuracy, low, high (per cent;
    Wilson, which takes questions as independent). Folds of a split are pooled.
    """
    test = decided[decided["subset"] == "test"]
    parts = [test[test["first"]].assign(on=f"first {FIRST}"), test[test["sampled"]].assign(on="all")]
    keys, rows = [*CELL, "seed", "epoch", "readout", "on"], []
    for key, group in pd.concat(parts).groupby(keys, sort=True):
        share = _share(group["correct"])
        rows.append((*key, share.n, group["correct"].sum(), share.value, share.low, share.high))
    return pd.DataFrame(rows, columns=[*keys, "n", "correct", "accuracy", "low", "high"])


def peaks_table(decided: pd.DataFrame, picked: pd.DataFrame, rng: np.random.Generator, resamples: int) -> pd.DataFrame:
    """The best epoch on test, which the paper reports, beside the epoch picked on validation: what a peak owes to luck.

    Per run (folds apart): n, epochs, peak and peak_epoch (test), picked_accuracy and picked_epoch (validation),
    luck_if_equal: how far the best of so many independent epochs of equal accuracy would lie above that accuracy, an
    upper bound, since epochs resemble each other; optimism: mean over bootstrap samples of the questions of the best
    epoch's accuracy on the sample minus that on the questions left out. All in per cent or points; both orders.
    """
    test = decided[(decided["subset"] == "test") & decided["sampled"] & (decided["epoch"] > 0)]
    test = test[test["readout"] == "both orders"]
    chosen = picked.set_index(RUN)["epoch"]
    rows = []
    for key, group in test.groupby(RUN, sort=True):
        table = group.pivot_table(index="question", columns="epoch", values="correct")
        means = table.mean()
        luck = rng.binomial(len(table), means.mean(), size=(resamples, len(means))).max(1) / len(table) - means.mean()
        row = {"on": "all", "n": len(table), "epochs": len(means)}
        row |= {"peak": 100 * means.max(), "peak_epoch": means.idxmax()}
        row |= {"picked_accuracy": 100 * means[chosen[key]], "picked_epoch": chosen[key]}
        row |= {"luck_if_equal": 100 * luck.mean(), "optimism": 100 * _optimism(table.to_numpy(), rng, resamples)}
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
    prompt, readout, state (untuned, tuned, or what a baseline was trained on), n (answers), programs (groups among
    them), accuracy, low, high (per cent, bootstrap over groups), seeds.
    """
    asked = decided[(decided["subset"] == "test") & decided["sampled"]]
    tuned = at_picked(decided, picked).assign(state="tuned")
    models = pd.concat([asked[asked["epoch"] == 0].assign(state="untuned"), tuned])
    others = baselines.rename(columns={"trained_on": "state", "baseline": "model"}).assign(prompt="", readout="")
    keys = ["split", "question_set", "model", "prompt", "readout", "state"]
    rows = []
    for key, group in pd.concat([models, others]).groupby(keys, sort=False):
        mean = accuracy(group, rng, resamples)
        n = len(group), mean.n
        rows.append((*key, *n, mean.value, mean.low, mean.high, group["seed"].nunique()))
    table = pd.DataFrame(rows, columns=[*keys, "n", "programs", "accuracy", "low", "high", "seeds"])
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
    place, rows = ["split", "part", "question_set", "seed", "question"], []
    rivals = baselines[baselines["baseline"].isin(RIVALS)]
    for cell, group in _by_cell(decided, picked):
        compared = []
        for (name, trained_on), rival in rivals.groupby(["baseline", "trained_on"], sort=False):
            pairs = group.merge(rival[[*place, "correct"]], on=place, suffixes=("", "_other"))
            if len(pairs):
                row = {"baseline": name, "trained_on": trained_on, "accuracy": 100 * pairs["correct_other"].mean()}
                row |= paired(pairs["correct"], pairs["correct_other"], pairs["group"], rng, resamples)
                compared.append(dict(zip(CELL, cell, strict=True)) | row)
        best = max(compared, key=lambda row: row["accuracy"], default=None)  # the first of equals
        rows += [row | {"best": row is best} for row in compared]
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
    keys, rows = [*RUN, "question", "first_wins", "swapped"], []
    for (*cell, state), group in pd.concat(states).groupby([*CELL, "state"], sort=True):
        by_text = group.loc[group["outcome"] != "", "outcome"].map(SAID_FIRST)
        by_odds = likelier(group["log_odds"])
        for readout, said in (("text", by_text), ("likelihood", by_odds.where(by_odds != 0.5))):
            orders = group.assign(said=said).set_index(keys)["said"].unstack("swapped")
            orders = orders.reindex(columns=[False, True]).dropna()
            straight, swapped = orders[False], orders[True]
            same, right = straight == swapped, straight == orders.index.get_level_values("first_wins")
            row = dict(zip(CELL, cell, strict=True)) | {"readout": readout, "state": state, "n": len(orders)}
            row |= _share(same).columns("consistent")
            row |= _share(pd.concat([straight, 1 - swapped])).columns("first_place")
            row |= _share(right[same]).columns("consistent_accuracy")
            rows.append(row | {"unanswered": 100 * said.isna().mean()})
    return pd.DataFrame(rows)


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
            mean = accuracy(pairs, rng, resamples)
            row = dict(zip(CELL, cell, strict=True)) | {"condition": condition} | mean.columns("accuracy")
            row |= paired(pairs["correct"], pairs["correct_plain"], pairs["group"], rng, resamples)
            row |= intervals.exact(0.0, mean.n).columns("difference") if condition == "as asked" else {}
            row |= {"changed": 100 * (pairs["said_first"] != pairs["said_first_plain"]).mean()}
            rows.append(row)
    return pd.DataFrame(rows).rename(columns={"only_first": "only_altered", "only_second": "only_unaltered"})


def accuracy(answers: pd.DataFrame, rng: np.random.Generator, resamples: int) -> Estimate:
    """Mean of ``correct``, per cent; the bootstrap resamples groups, and n counts them."""
    correct = answers["correct"].to_numpy(float)
    return intervals.widened(intervals.cluster_mean(correct, answers["group"], rng, resamples)).scaled(100)


def paired(a: pd.Series, b: pd.Series, clusters: pd.Series, rng: np.random.Generator, resamples: int) -> dict:
    """Accuracy of ``a`` minus that of ``b`` on the same questions.

    n, programs (groups among them), difference(_low, _high) in points, only_first and only_second (questions that one
    alone has right; a tie is half right and counts for neither), p (exact McNemar; nan if ties are all that differs).
    """
    a, b = a.to_numpy(float), b.to_numpy(float)
    gap = intervals.cluster_mean(a - b, clusters, rng, resamples)
    if (a == b).all():  # no resample differs, but another sample of questions may
        gap = intervals.difference_of_paired_proportions(0, 0, gap.n)
    gap = gap.scaled(100)
    alone = int(((a == 1) & (b == 0)).sum()), int(((a == 0) & (b == 1)).sum())
    p = intervals.mcnemar(*alone) if sum(alone) or (a == b).all() else np.nan
    row = {"n": len(a), "programs": gap.n} | gap.columns("difference")
    return row | {"only_first": alone[0], "only_second": alone[1], "p": p}


def per_dataset(decided: pd.DataFrame, picked: pd.DataFrame, rng: np.random.Generator, resamples: int) -> pd.DataFrame:
    """Accuracy (both orders) on the questions that name each data set; seeds and folds pooled. Columns: model, prompt,
    split, question_set, dataset, n, accuracy, low, high (per cent, bootstrap over groups)."""
    rows = []
    for (cell, group), dataset in product(_by_cell(decided, picked), sorted(DATASETS)):
        named = group[(group["dataset_1"] == dataset) | (group["dataset_2"] == dataset)]
        mean = accuracy(named, rng, resamples)
        rows.append((*cell, dataset, len(named), mean.value, mean.low, mean.high))
    return pd.DataFrame(rows, columns=[*CELL, "dataset", "n", "accuracy", "low", "high"])


def code_over_metadata(
    decided: pd.DataFrame, picked: pd.DataFrame, rng: np.random.Generator, resamples: int
) -> pd.DataFrame:
    """Code's accuracy minus metadata's on the same questions that name CIFAR-10, CIFAR-100 or SVHN, and on the others.

    Columns: model, split, question_set, named, and those of :func:`paired`. No rows where either prompt was not asked.
    """
    tuned = _over_both_orders(decided, picked)
    keys = [name for name in (*RUN, "question") if name != "prompt"]
    code, metadata = (tuned[tuned["prompt"] == prompt] for prompt in ("code", "metadata"))
    both = code.merge(metadata[[*keys, "correct"]], on=keys, suffixes=("", "_metadata"))
    degraded = both["dataset_1"].isin(DEGRADED) | both["dataset_2"].isin(DEGRADED)
    both["named"] = np.where(degraded, ", ".join(DEGRADED), "others")
    rows, cell = [], ["model", "split", "question_set", "named"]
    for key, pairs in both.groupby(cell, sort=True):
        row = paired(pairs["correct"], pairs["correct_metadata"], pairs["group"], rng, resamples)
        rows.append(dict(zip(cell, key, strict=True)) | row)
    renamed = {"only_first": "only_code", "only_second": "only_metadata"}
    return pd.DataFrame(rows, columns=None if rows else [*cell, "difference"]).rename(columns=renamed)


def pair_confusion(decided: pd.DataFrame, picked: pd.DataFrame) -> pd.DataFrame:
    """Per pair of data sets (names sorted): how often the first name is right and how often it is said. Columns: model,
    prompt, split, question_set, pair, n, right, said (per cent, of the pair's first name), accuracy, low, high
    (Wilson)."""
    rows = []
    for cell, group in _by_cell(decided, picked):
        turned = group["dataset_1"] > group["dataset_2"]
        right, said = group["first_wins"] ^ turned, (group["said_first"] - turned).abs()
        for pair, index in group.groupby("pair").groups.items():
            share = _share(group.loc[index, "correct"])
            means = 100 * right[index].mean(), 100 * said[index].mean()
            rows.append((*cell, pair, share.n, *means, share.value, share.low, share.high))
    return pd.DataFrame(rows, columns=[*CELL, "pair", "n", "right", "said", "accuracy", "low", "high"])


def calibration(decided: pd.DataFrame, picked: pd.DataFrame) -> pd.DataFrame:
    """How often answers are right that are given with so much confidence: the likelier name's share of the two.

    Five bins hold equally many answers. Columns: model, prompt, split, question_set, confidence (mean of the bin), n,
    accuracy, low, high (all per cent, Wilson), brier (mean squared error of the probability, whole cell).
    """
    rows = []
    for cell, group in _by_cell(decided, picked):
        sure = group["chance_first"].where(group["chance_first"] >= 0.5, 1 - group["chance_first"])
        brier = ((group["chance_first"] - group["first_wins"].astype(float)) ** 2).mean()
        order = np.argsort(sure.to_numpy(), kind="stable")
        for index in np.array_split(order, min(5, len(order))):
            share = _share(group["correct"].iloc[index])
            rows.append((*cell, 100 * sure.iloc[index].mean(), share.n, share.value, share.low, share.high, brier))
    return pd.DataFrame(rows, columns=[*CELL, "confidence", "n", "accuracy", "low", "high", "brier"])


def _by_cell(decided: pd.DataFrame, picked: pd.DataFrame):
    """The tuned models' decisions over both orders, cell by cell."""
    return _over_both_orders(decided, picked).groupby(CELL, sort=True)


def _over_both_orders(decided: pd.DataFrame, picked: pd.DataFrame) -> pd.DataFrame:
    tuned = at_picked(decided, picked)
    return tuned[tuned["readout"] == "both orders"]


def _share(hits: pd.Series) -> Estimate:
    """Per cent, Wilson."""
    return intervals.wilson(hits.sum(), len(hits)).scaled(100)
