"""Paper C's claims, from LEMUR's records and the baselines, and from a run of language models.

Whether code carries a signal is asked where names carry none, of each model by itself. A model that fails the positive
control, a prompt from which the answer can be read off, has not understood the task: whatever it scores on code says
nothing about code. The paper's peaks can be reproduced or refuted by a run of its own protocol only; any other adds a
note that says what happened there.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from nngpt_lab.ground.formatting import bracketed
from nngpt_lab.papers.dataset_prediction.answers import FIRST
from nngpt_lab.papers.dataset_prediction.questions import published_counts
from nngpt_lab.statistics import claims, intervals
from nngpt_lab.statistics.claims import Measured
from nngpt_lab.statistics.intervals import Estimate

CONTROL = "scores"
SIGNAL = {"balanced": "C-code-signal", "balanced within family": "C-reads-more"}  # question set -> what it judges
PEAKS = {  # claim -> the paper's model and prompt
    "C-normalised-7b": ("DeepSeek-Coder-7B", "scores"),
    "C-code-7b": ("DeepSeek-Coder-7B", "code"),
    "C-metadata-7b": ("DeepSeek-Coder-7B", "metadata"),
    "C-code-1.3b": ("DeepSeek-Coder-1.3B", "code"),
}


def code_signal(models: pd.DataFrame, weights: Mapping[str, int]) -> pd.DataFrame:
    """Does code carry the signal? A verdict for every tuned model, on questions that names cannot answer: the scale
    ladder, the smallest model first.

    ``models``: of ``answers.models_table``, whose readout over both orders decides; ``weights``: how many each model
    has. Columns: model, weights, prompt, split, question_set, n (answers), programs, accuracy, low, high (per cent),
    control, control_low, control_high (the same model's accuracy from the scores prompt, on this split or else another;
    nan if it was not asked), verdict.
    """
    tuned = models[(models["state"] == "tuned") & (models["readout"] == "both orders")]
    controls = tuned[(tuned["prompt"] == CONTROL) & (tuned["question_set"] == "balanced")]
    registered, rows = claims.load_claims(), []
    asked = tuned[tuned["prompt"].isin(("code", "code_metadata")) & tuned["question_set"].isin(SIGNAL)]
    for row in asked.itertuples():
        own = controls[controls["answerer"] == row.answerer].sort_values(
            "split", key=lambda split, here=row.split: split != here, kind="stable"
        )
        control = [float(own[name].iloc[0]) if len(own) else np.nan for name in ("accuracy", "low", "high")]
        claim = registered[SIGNAL[row.question_set]]
        said = claims.verdict(claim, Estimate(row.accuracy, row.low, row.high, row.programs))
        said = said if control[1] > claim.value else claims.UNTESTED  # a control that was not asked was not passed
        numbers = (row.n, row.programs, row.accuracy, row.low, row.high, *control)
        rows.append((row.answerer, weights[row.answerer], row.prompt, row.split, row.question_set, *numbers, said))
    columns = ["model", "weights", "prompt", "split", "question_set", "n", "programs", "accuracy", "low", "high"]
    table = pd.DataFrame(rows, columns=[*columns, "control", "control_low", "control_high", "verdict"])
    return table.sort_values("weights", kind="stable", ignore_index=True)


def signal_sentence(signal: pd.DataFrame, split: str, question_set: str = "balanced") -> str:
    """What the models read in code alone there, for the note of a claim; empty if none was asked."""
    asked = (signal["split"] == split) & (signal["prompt"] == "code") & (signal["question_set"] == question_set)
    said = [
        f"{row.model} {_text(Estimate(row.accuracy, row.low, row.high, row.n))}: {row.verdict}"
        + (f" (positive control {row.control:.1f} %)" if np.isfinite(row.control) else "")
        for row in signal[asked].itertuples()
    ]
    return f"Language models, tuned: {'; '.join(said)}." if said else ""


def facts(questions: pd.DataFrame) -> dict[str, float]:
    """What need only be counted, by the fact's id."""
    code, metadata = published_counts("code only"), published_counts("metadata")
    return {
        "C-datasets": len({*questions["dataset_1"], *questions["dataset_2"]}),
        "C-three-answers": code[0] - metadata[0],
    }


def recorded(
    accuracies: pd.DataFrame, code_over_family: Estimate, first: int, signal: pd.DataFrame
) -> dict[str, Measured]:
    """What records, counts and baselines say, by the claim's id.

    ``accuracies``: of ``baselines.summarise``; ``code_over_family``: accuracy with code and names minus that with
    family and names, points, held-out architectures; ``first``: of how many architectures the first 30 questions are;
    ``signal``: of :func:`code_signal`, for the notes.
    """

    def accuracy(split: str, question_set: str, baseline: str) -> Estimate:
        keys = {"split": split, "question_set": question_set, "baseline": baseline, "part": "all parts"}
        row = accuracies.loc[(accuracies[list(keys)] == pd.Series(keys)).all(axis=1)].iloc[0]
        return Estimate(row["accuracy"], row["ci_low"], row["ci_high"], int(row["programs"]))

    where, within = "architectures", "balanced within family"
    by_family = _text(accuracy(where, "balanced", "family_and_names"), n=False)
    boosting = _text(accuracy(where, within, "code_boosting"), n=False)
    return {
        "C-chance": Measured(accuracy(where, "all", "names")),
        "C-code-signal": Measured(
            accuracy(where, "balanced", "code_and_names"),
            f"TF-IDF, no LLM; balanced set, held-out architectures. The family's name alone gives {by_family}.",
        ).noted(signal_sentence(signal, where)),
        "C-reads-more": Measured(
            accuracy(where, within, "code_and_names"),
            f"TF-IDF, no LLM; balanced within family and pair, held-out architectures. Boosting gives {boosting}.",
        ).noted(signal_sentence(signal, where, within)),
        "C-code-signal-unseen": Measured(
            accuracy("families", "balanced", "code_and_names"),
            "TF-IDF, no LLM; balanced set, each family held out in turn.",
        ).noted(signal_sentence(signal, "families")),
        "C-code-beats-names": Measured(code_over_family),
        "C-code-over-metadata": _code_over_metadata(first),
    }


def _code_over_metadata(architectures: int) -> Measured:
    """From the paper's counts: both prompts were asked the same questions, but which each had right is not published.
    The interval is the widest that any pairing of the two counts allows."""
    (code, n), (metadata, _) = published_counts("code only"), published_counts("metadata")
    split = min(metadata, n - code)  # at most so many were right by metadata alone
    paired = [intervals.difference_of_paired_proportions(code - metadata + k, k, n).scaled(100) for k in (0, split)]
    needed = intervals.sample_size_for_difference(code / n, metadata / n)
    return Measured(
        paired[1],
        f"From the paper's own counts, on the same {n} questions: had metadata no answer right that code had wrong, "
        f"[{paired[0].low:.1f}, {paired[0].high:.1f}]; shown is the widest that the counts allow. The {n} questions "
        f"are of {architectures} architectures, so even that is too narrow. To tell 80 from 70 % takes {needed} "
        "answers per prompt.",
    )


def peaks(epochs: pd.DataFrame, published: bool) -> dict[str, Measured]:
    """The paper's peaks, by the claim's id: best epoch of the text readout on the first 30 questions as published, from
    ``answers.epochs_table``. ``published``: whether the run is one of the paper's own protocol and models."""
    asked = epochs[
        (epochs["readout"] == "text") & (epochs["on"] == f"first {FIRST}") & (epochs["split"] == "published")
    ]
    measured = {}
    for key, (model, prompt) in PEAKS.items():
        rows = asked[asked["prompt"] == prompt]
        rows = rows[rows["model"] == model] if published else rows
        if len(rows):
            best = rows.loc[rows["accuracy"].idxmax()]
            peak = intervals.wilson(best["correct"], int(best["n"])).scaled(100)
            note = f"Best of {rows['epoch'].max()} epochs, picked on the questions it is scored on, as published."
            scaled = f"Our scaled run: {best['model']} reaches {_text(peak)}."
            measured[key] = Measured(peak, note) if published else Measured(None, scaled)
    return measured


def courses(epochs: pd.DataFrame) -> dict[str, Measured]:
    """Whether the 7B model rises steadily and the 1.3B one fluctuates more, by the claim's id, from
    ``answers.epochs_table`` of a run of the published protocol. Each seed is one course over the tuned epochs, on all
    test questions: one has no interval."""
    asked = epochs[(epochs["readout"] == "text") & (epochs["on"] == "all") & (epochs["split"] == "published")]
    asked = asked[(asked["prompt"] == "code") & (asked["epoch"] > 0)].sort_values("epoch")
    by_model = {model: rows.groupby("seed") for model, rows in asked.groupby("model")}
    large, small = (by_model.get(PEAKS[key][0]) for key in ("C-code-7b", "C-code-1.3b"))
    measured = {}
    if large is not None:
        rises = [intervals.spearman(run[["epoch", "accuracy"]].to_numpy(float)) for _, run in large]
        measured["C-7b-steady"] = Measured(intervals.t_interval(np.array(rises)))
    if large is not None and small is not None:
        jumps = [model["accuracy"].apply(lambda run: run.diff().std()) for model in (small, large)]
        difference = (jumps[0] - jumps[1]).dropna().to_numpy()
        measured["C-1.3b-fluctuates"] = Measured(intervals.t_interval(difference))
    return measured


def celeba(per_dataset: pd.DataFrame, by_dataset: pd.DataFrame, published: bool) -> Measured:
    """The one number of the paper's tables by data set: metadata, questions with CelebA-Gender, as published; what
    names alone reach (``baselines.by_dataset``, held-out architectures) is noted."""
    rows = by_dataset[(by_dataset["dataset"] == "celeba-gender") & (by_dataset["baseline"] == "names")]
    reached = f"Names alone reach {rows['accuracy'].iloc[0]:.1f} % of all held-out questions with this data set"
    names = f"{reached}; of balanced ones half, by construction."
    return _celeba(per_dataset, published).noted(names)


def _celeba(per_dataset: pd.DataFrame, published: bool) -> Measured:
    rows = per_dataset[(per_dataset["prompt"] == "metadata") & (per_dataset["dataset"] == "celeba-gender")]
    rows = _of_the_7b_as_published(rows) if published else rows
    if not len(rows):
        return Measured(None)
    row = rows.iloc[0]
    accuracy = Estimate(row["accuracy"], row["low"], row["high"], int(row["n"]))
    if published:
        return Measured(accuracy)
    where = f"{row['split']}, {row['question_set']} questions"
    return Measured(None, f"Our scaled run ({where}): {row['model']} reaches {_text(accuracy)}.")


def metadata_degrades(code_over_metadata: pd.DataFrame, published: bool) -> Measured:
    """Code minus metadata where the paper says that metadata does worse.

    ``code_over_metadata``: as ``answers.code_over_metadata`` returns it.
    """
    rows = code_over_metadata[code_over_metadata["named"] != "others"]
    rows = _of_the_7b_as_published(rows) if published else rows
    if not len(rows):
        return Measured(None)
    row = rows.iloc[0]
    difference = Estimate.of(row, "difference", "programs")
    if published:
        return Measured(difference)
    said = bracketed(difference.value, difference.low, difference.high, " points")
    where = f"{row['split']}, {row['question_set']} questions, n = {row['n']}"
    return Measured(None, f"Our scaled run ({where}): {row['model']} {said}.")


def _of_the_7b_as_published(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[(rows["model"] == PEAKS["C-code-7b"][0]) & (rows["split"] == "published")]


def _text(estimate: Estimate, n: bool = True) -> str:
    return bracketed(estimate.value, estimate.low, estimate.high, " %") + (f", n = {estimate.n}" if n else "")
