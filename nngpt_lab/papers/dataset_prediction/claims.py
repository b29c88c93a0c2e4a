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
UNTESTED = claims.VERDICTS[-1]
PEAKS = {  # claim -> the paper's model and prompt
    "C-normalised-7b": ("DeepSeek-Coder-7B", "scores"),
    "C-code-7b": ("DeepSeek-Coder-7B", "code"),
    "C-metadata-7b": ("DeepSeek-Coder-7B", "metadata"),
    "C-code-1.3b": ("DeepSeek-Coder-1.3B", "code"),
}


def code_signal(models: pd.DataFrame, weights: Mapping[str, int]) -> pd.DataFrame:
    """Does code carry the signal? A verdict for every tuned model, on questions that names cannot answer: the scale
    ladder, the smallest model first.

    ``models`` is ``dataset_answers.models_table``'s; its readout over both orders decides. ``weights``: how many each
    model has. Columns: model, weights, prompt, split, n, accuracy, low, high (per cent), control, control_low,
    control_high (the same model's accuracy from the scores prompt, on this split or else another; nan if it was not
    asked), verdict on "above 50 %".
    """
    tuned = models[(models["state"] == "tuned") & (models["readout"] == "both orders")]
    tuned = tuned[tuned["question_set"] == "balanced"]
    controls, claim, rows = tuned[tuned["prompt"] == CONTROL], claims.load_claims()["C-code-signal"], []
    for row in tuned[tuned["prompt"].isin(("code", "code_metadata"))].itertuples():
        own = controls[controls["answerer"] == row.answerer].sort_values(
            "split", key=lambda split, here=row.split: split != here, kind="stable"
        )
        control = [float(own[name].iloc[0]) if len(own) else np.nan for name in ("accuracy", "low", "high")]
        said = claims.verdict(claim.test, claim.value, Estimate(row.accuracy, row.low, row.high, row.n))
        said = said if control[1] > claim.value else UNTESTED  # a control that was not asked was not passed
        numbers = (row.n, row.accuracy, row.low, row.high, *control)
        rows.append((row.answerer, weights[row.answerer], row.prompt, row.split, *numbers, said))
    columns = ["model", "weights", "prompt", "split", "n", "accuracy", "low", "high"]
    table = pd.DataFrame(rows, columns=[*columns, "control", "control_low", "control_high", "verdict"])
    return table.sort_values("weights", kind="stable", ignore_index=True)


def signal_sentence(signal: pd.DataFrame, split: str) -> str:
    """What the models read in code alone on a split, for the note of a claim; empty if none was asked there."""
    said = [
        f"{row.model} {_text(Estimate(row.accuracy, row.low, row.high, row.n))}: {row.verdict}"
        + (f" (positive control {row.control:.1f} %)" if np.isfinite(row.control) else "")
        for row in signal[(signal["split"] == split) & (signal["prompt"] == "code")].itertuples()
    ]
    return f"Language models, tuned: {'; '.join(said)}." if said else ""


def recorded(
    questions: pd.DataFrame, accuracies: pd.DataFrame, code_over_names: Estimate, signal: pd.DataFrame
) -> dict[str, Measured]:
    """What records, counts and baselines say, by the claim's id.

    Args:
        questions: as ``questions.build_questions`` returns them.
        accuracies: as ``baselines.summarise`` returns them.
        code_over_names: accuracy with code and names minus names alone, points, held-out architectures.
        signal: as :func:`code_signal` returns it, for the notes.
    """

    def accuracy(split: str, question_set: str, baseline: str) -> Estimate:
        keys = {"split": split, "question_set": question_set, "baseline": baseline, "part": "all parts"}
        row = accuracies.loc[(accuracies[list(keys)] == pd.Series(keys)).all(axis=1)].iloc[0]
        return Estimate(row["accuracy"], row["ci_low"], row["ci_high"], int(row["n"]))

    by_family = accuracy("architectures", "balanced", "family_and_names")
    code, metadata = published_counts("code only"), published_counts("metadata")
    difference = intervals.difference_of_proportions(*code, *metadata).scaled(100)
    needed = intervals.sample_size_for_difference(code[0] / code[1], metadata[0] / metadata[1])
    return {
        "C-datasets": Measured(
            intervals.exact(len({*questions["dataset_1"], *questions["dataset_2"]}), len(questions))
        ),
        "C-chance": Measured(accuracy("architectures", "all", "names")),
        "C-code-signal": Measured(
            accuracy("architectures", "balanced", "code_and_names"),
            "TF-IDF, no LLM; balanced set, held-out architectures. The family's name alone gives "
            f"{bracketed(by_family.value, by_family.low, by_family.high, ' %')}.",
        ).noted(signal_sentence(signal, "architectures")),
        "C-code-signal-unseen": Measured(
            accuracy("families", "balanced", "code_and_names"),
            "TF-IDF, no LLM; balanced set, each family held out in turn.",
        ).noted(signal_sentence(signal, "families")),
        "C-code-beats-names": Measured(code_over_names),
        "C-code-over-metadata": Measured(
            difference, f"From the paper's own counts. To tell them apart takes {needed} answers per prompt."
        ),
        "C-three-answers": Measured(intervals.exact(code[0] - metadata[0], code[1])),
    }


def peaks(epochs: pd.DataFrame, published: bool) -> dict[str, Measured]:
    """The paper's peaks, by the claim's id: best epoch of the text readout on the first 30 questions as published.

    Args:
        epochs: ``dataset_answers.epochs_table``'s.
        published: whether the run is one of the paper's own protocol and models.
    """
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


def celeba(per_dataset: pd.DataFrame, by_dataset: pd.DataFrame, published: bool) -> Measured:
    """The one number of the paper's tables by data set: metadata, questions with CelebA-Gender, as published.

    ``by_dataset``: as ``baselines.by_dataset`` returns it for held-out architectures; what names alone reach is noted.
    """
    rows = by_dataset[(by_dataset["dataset"] == "celeba-gender") & (by_dataset["baseline"] == "names")]
    names = f"Names alone reach {rows['accuracy'].iloc[0]:.1f} % on these questions (held-out architectures)."
    return _celeba(per_dataset, published).noted(names)


def _celeba(per_dataset: pd.DataFrame, published: bool) -> Measured:
    rows = per_dataset[(per_dataset["prompt"] == "metadata") & (per_dataset["dataset"] == "celeba-gender")]
    if published:
        rows = rows[(rows["model"] == PEAKS["C-metadata-7b"][0]) & (rows["split"] == "published")]
    if not len(rows):
        return Measured(None)
    row = rows.iloc[0]
    accuracy = Estimate(row["accuracy"], row["low"], row["high"], int(row["n"]))
    if published:
        return Measured(accuracy)
    where = f"{row['split']}, {row['question_set']} questions"
    return Measured(None, f"Our scaled run ({where}): {row['model']} reaches {_text(accuracy)}.")


def _text(estimate: Estimate) -> str:
    return f"{bracketed(estimate.value, estimate.low, estimate.high, ' %')}, n = {estimate.n}"
