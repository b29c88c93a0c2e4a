"""Figures of paper C: of its questions and baselines, and of its language models (tables of ``answers.py``).

Shares come in per cent. The black line at 50 % is the paper's chance level.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nngpt_lab.papers.dataset_prediction.answers import CELL
from nngpt_lab.papers.dataset_prediction.questions import DATASETS, PUBLISHED_RESULTS, QUESTION_SETS
from nngpt_lab.statistics import plots
from nngpt_lab.statistics.style import COLOURS, MUTED, OTHER, OURS, PAPER, new_figure

SPLIT_TITLES = {
    "published": "as published\n(no hold-out)",
    "architectures": "held-out\narchitectures",
    "families": "held-out\nfamilies",
    "dataset": "held-out\ndata set",
    "near-duplicates": "near-duplicates\nheld out together",
}
SET_TITLES = {
    "all": "all questions",
    "balanced": "balanced\n(names carry nothing)",
    "balanced within family": "balanced within family\n(nor does the family)",
}
PROMPT_TITLES = {
    "scores": "normalised accuracies",
    "metadata": "metadata",
    "code": "code only",
    "code_metadata": "code and metadata",
    "networks": "two networks",
}
PUBLISHED_NAMES = {"scores": "normalised accuracy", "metadata": "metadata", "code": "code only"}
BOUNDS = ("low", "high")


# --------------------------------------------------------------------------------------------- questions and baselines


def pair_balance(balance: pd.DataFrame) -> Figure:
    """Per pair of data sets, how often the usual winner wins: what knowing the two names is worth."""
    figure, ax = new_figure(height=5.6)
    rows = np.arange(len(balance))
    ax.barh(rows, balance["share"], color=OURS, alpha=0.6)
    plots.points(ax, rows, balance, "share", horizontal=True, color="black", marker="")
    plots.reference_line(ax, 50, "the paper's chance level", vertical=True)
    plots.name_rows(ax, [f"{row.pair}  (n = {row.n:,})" for row in balance.itertuples()], above=1.3)
    ax.set(xlabel="questions won by the usual winner, %", xlim=(0, 102), title="The answer is mostly in the two names")
    return figure


def published_results(results: pd.DataFrame, names: tuple[float, float, float]) -> Figure:
    """Paper C's peaks with Wilson intervals at their n, against what names alone reach (value, low, high; per cent)."""
    figure, ax = new_figure(width=9, height=3.6)
    ax.axhspan(names[1], names[2], color=MUTED, alpha=0.25, linewidth=0)
    plots.reference_line(ax, names[0], f"names alone:\n{names[0]:.1f} %", "black", place="right")
    plots.reference_line(ax, 50, "the paper's\nchance level", MUTED, place="right")
    plots.points(ax, range(len(results)), results, "accuracy", ends=("ci_low", "ci_high"), color=PAPER, markersize=6)
    labels = [f"{row.prompt}, {row.model}\n{row.correct} of {row.n}" for row in results.itertuples()]
    ax.set_xticks(range(len(results)), labels)
    ax.set(ylabel="accuracy, %", ylim=(40, 103), xlim=(-0.5, len(results) - 0.5),
           title="Paper C's peaks, with the interval that their n allows")  # fmt: skip
    return figure


def baselines(table: pd.DataFrame, ceilings: Mapping[str, float]) -> Figure:
    """Accuracy of every baseline under every split, a row of panels per question set.

    ``ceilings``: what a perfect reader reaches, per cent, by question set; drawn where names say nothing. Crosses: 50 %
    by construction. Who was never trained on a data set's name says it always or never; of the questions with it
    that are balanced, or that are asked once with either name held out, that is right in half.
    """
    whole = table[table["part"] == "all parts"]
    order = list(dict.fromkeys(whole["baseline"]))
    splits = [split for split in SPLIT_TITLES if split in set(whole["split"])]
    figure, axes = new_figure(3, len(splits), width=11, height=9, sharey=True, sharex="row", squeeze=False)
    for row, (question_set, label) in zip(axes, SET_TITLES.items(), strict=True):
        for ax, split in zip(row, splits, strict=True):
            part = whole[(whole["split"] == split) & (whole["question_set"] == question_set)].set_index("baseline")
            ax.set_visible(len(part) > 0)
            part = part.reindex(order)
            forced = (part["accuracy"] == 50) if split == "dataset" else part["accuracy"].isna()
            looks = [{"color": OURS if name.startswith("code") else MUTED, "marker": "x" if forced[name] else "o"}
                     for name in order]  # fmt: skip
            plots.points(
                ax, range(len(order)), part, "accuracy", ends=("ci_low", "ci_high"), horizontal=True, looks=looks
            )
            _chance(ax)
            if question_set != "all":
                plots.reference_line(
                    ax, ceilings[question_set], f"ceiling {ceilings[question_set]:.0f} %", vertical=True
                )
        row[0].set(xlim=(40, 92 if question_set == "all" else 75))
        row[splits.index("architectures")].set_visible(True)
        first = next(ax for ax in row if ax.get_visible())
        first.set_ylabel(label)
        first.tick_params(labelleft=True)
    for ax, split in zip(axes[0], splits, strict=True):
        ax.set_title(SPLIT_TITLES[split], fontsize=10)
    plots.name_rows(axes[0, 0], [name.replace("_", " ") for name in order])
    figure.supxlabel("accuracy, %  (blue: reads the code)", fontsize=10)
    return figure


def label_reliability(table: pd.DataFrame) -> Figure:
    """How often two halves of the trials give a question the same answer, per pair of data sets."""
    pairs = table[table["pair"] != "all"].sort_values("agreement", ascending=False)
    whole = table.loc[table["pair"] == "all", "agreement"].iloc[0]
    figure, ax = new_figure(height=5.6)
    plots.points(ax, range(len(pairs)), pairs, "agreement", horizontal=True, color=OURS)
    plots.reference_line(ax, whole, f"all questions: {whole:.1f} %", PAPER, vertical=True)
    plots.reference_line(ax, 50, "a coin", MUTED, vertical=True)
    plots.name_rows(ax, pairs["pair"], above=1.3)
    ax.set(xlabel="questions whose two labels agree, %", xlim=(40, 101), title="How reproducible the right answer is")
    return figure


# ----------------------------------------------------------------------------------------------------- language models


DASHES, MARKERS = ("-", "--", "-.", ":"), "os^DvPX"


def accuracy_per_epoch(epochs: pd.DataFrame, ceilings: Mapping[str, float]) -> Figure:
    """Accuracy after each outer epoch, a panel per prompt, one line per model and cell, with the paper's peaks.

    Both orders. Lines are means over seeds; bands are the mean of the seeds' Wilson intervals on all test questions.
    The ceiling is what noisy labels leave to a reader of code; there is none where the scores are shown.
    """
    shown = epochs[(epochs["readout"] == "both orders") & (epochs["on"] == "all")]
    shown = shown.assign(line=_names(shown, ["model", "split", "question_set"]))
    mean = shown.groupby(["prompt", "line", "epoch"], as_index=False)[["accuracy", *BOUNDS]].mean()
    looks = {
        name: {
            "color": COLOURS[(place + place // 3) % len(COLOURS)],
            "linestyle": DASHES[place % len(DASHES)],
            "marker": MARKERS[place % len(MARKERS)],
            "markersize": 4,
        }
        for place, name in enumerate(dict.fromkeys(shown["line"]))
    }
    prompts = [name for name in PROMPT_TITLES if name in set(shown["prompt"])]
    figure, axes = plots.panels([PROMPT_TITLES[name] for name in prompts], width=max(6, 3 * len(prompts)), height=4)
    for ax, name in zip(axes, prompts, strict=False):
        plots.lines(ax, mean[mean["prompt"] == name], "line", "epoch", "accuracy", looks, bands=looks, ends=BOUNDS)
        peaks = PUBLISHED_RESULTS[PUBLISHED_RESULTS["prompt"] == PUBLISHED_NAMES.get(name)]
        said = ["outer epoch (0: untuned)"]
        for peak, (dash, word) in zip(peaks.itertuples(), (("--", "dashed"), (":", "dotted")), strict=False):
            ax.axhline(100 * peak.correct / peak.n, color=PAPER, linestyle=dash, linewidth=1, zorder=1)
            said.append(f"{word}: paper's {peak.model}, {peak.correct} of {peak.n}")
        ax.set_xlabel("\n".join(said), fontsize=9)
        ax.axhline(50, color="black", linewidth=0.8)
        _ceilings(ax, shown.loc[shown["prompt"] == name, "question_set"] if name != "scores" else (), ceilings)
        ax.set(ylim=(-2, 103))
        plots.whole_numbers(ax.xaxis)
    axes[0].set_ylabel("test accuracy, %")
    plots.legend_below(figure, ncols=2)
    return figure


def models_and_baselines(table: pd.DataFrame, ceiling: float, question_set: str = "balanced") -> Figure:
    """Models (both orders) and baselines on the same test questions, a panel per split; dashed: the labels' ceiling.

    Blue: tuned; light blue: untuned; grey: baselines trained on the whole training part, open: on the model's own
    questions.
    """
    shown = table[(table["question_set"] == question_set) & table["readout"].isin(["both orders", ""])]
    names = [f"{row.answerer}: {PROMPT_TITLES[row.prompt]}" if row.readout else row.answerer.replace("_", " ")
             for row in shown.itertuples()]  # fmt: skip
    shown = shown.assign(name=names)
    order = list(shown.sort_values("readout", key=lambda readout: readout == "", kind="stable")["name"].unique())
    looks = {
        "tuned": (-0.15, {"color": OURS, "label": "tuned"}),
        "untuned": (0.15, {"color": OURS, "alpha": 0.35, "label": "untuned"}),
        "the whole training part": (-0.15, {"color": MUTED, "label": "baseline, whole training part"}),
        "the same questions": (0.15, {"color": MUTED, "mfc": "white", "label": "baseline, the model's questions"}),
    }
    figure, split_axes = _split_panels(shown, left=2.2, width=3, least=6, height=1.4 + 0.3 * len(order))
    for split, ax in split_axes.items():
        for state, (shift, look) in looks.items():
            part = shown[(shown["split"] == split) & (shown["state"] == state)]
            plots.points(
                ax, plots.rows_of(part["name"], order) + shift, part, "accuracy", ends=BOUNDS, horizontal=True, **look
            )
        _chance(ax)
        plots.reference_line(ax, ceiling, f"ceiling {ceiling:.0f} %", vertical=True)
        ax.set_xlabel("test accuracy, %")
    plots.name_rows(figure.axes[0], order)
    plots.legend_below(figure, ncols=2)
    return figure


def order_consistency(table: pd.DataFrame) -> Figure:
    """How often the answer stays when the names change places, how often it is what stands first, and how often those
    that stay are right."""
    shown = table[table["n"] > 0].sort_values(["state", "prompt", "readout"], ascending=[False, True, True])
    measures = {
        "consistent": "same answer in both orders, %",
        "first_place": "names what stands first, %",
        "consistent_accuracy": "the consistent: right, %",
    }
    looks = [{"color": OURS if state == "tuned" else MUTED} for state in shown["state"]]
    figure, axes = new_figure(1, 3, width=11, height=1.3 + 0.42 * len(shown), sharey=True)
    for ax, (name, label) in zip(axes, measures.items(), strict=True):
        plots.points(ax, range(len(shown)), shown, name, horizontal=True, looks=looks)
        _chance(ax)
        ax.set(xlabel=label, xlim=(-2, 102))
    labels = _names(shown, ["model", "prompt"]) + "\n" + _names(shown, ["state", "readout", "split", "question_set"])
    plots.name_rows(axes[0], labels, fontsize=8)
    return figure


def ablations(table: pd.DataFrame, ceilings: Mapping[str, float]) -> Figure:
    """Accuracy of a tuned model with altered inputs; the line is the unaltered input, another the labels' ceiling."""
    conditions = list(dict.fromkeys(table["condition"]))
    looks = [{"color": OTHER if condition == "as asked" else OURS} for condition in conditions]
    titles = _names(table, CELL[:2]) + "\n" + _names(table, CELL[2:])
    cells = list(table.groupby(titles, sort=False))
    width = max(6, 2 + 3.2 * len(cells))
    figure, axes = plots.panels([title for title, _ in cells], width=width, height=1.2 + 0.3 * len(conditions))
    for ax, (_, part) in zip(axes, cells, strict=False):
        _ceilings(ax, part["question_set"], ceilings, vertical=True)
        part = part.set_index("condition").reindex(conditions)
        plots.points(ax, range(len(conditions)), part, "accuracy", horizontal=True, looks=looks)
        ax.axvline(part.loc["as asked", "accuracy"], color=OTHER, linestyle="--", linewidth=1)
        _chance(ax)
        ax.set_xlabel("test accuracy, %")
    plots.name_rows(axes[0], conditions)
    return figure


def per_dataset(table: pd.DataFrame, split: str, question_set: str, ceilings: Mapping[str, float]) -> Figure:
    """Accuracy on the questions that name each data set, by model and prompt, in the paper's form, with the labels'
    ceiling."""
    shown = table[(table["split"] == split) & (table["question_set"] == question_set)].dropna(subset="accuracy")
    groups = list(shown.groupby(_names(shown, ["model", "prompt"]), sort=False))
    names, width = sorted(DATASETS), 0.8 / max(1, len(groups))
    figure, ax = new_figure(width=9, height=4)
    for place, ((label, part), shift) in enumerate(zip(groups, plots.side_by_side(len(groups), width), strict=True)):
        part, x = part.set_index("dataset").reindex(names), np.arange(len(names)) + shift
        ax.bar(x, part["accuracy"], width, color=COLOURS[place % len(COLOURS)], alpha=0.6, label=label)
        plots.points(ax, x, part, "accuracy", ends=BOUNDS, marker="", color="black", linewidth=0.8)
    paper = names.index("celeba-gender")
    ax.hlines(90.9, paper - 0.42, paper + 0.42, color=PAPER, linestyle="--", label="paper: 90.9 % (metadata)")
    ax.axhline(50, color="black", linewidth=0.8)
    _ceilings(ax, (question_set,), ceilings)
    ax.set_xticks(range(len(names)), names)
    title = f"Questions that name a data set ({_flat(split)}, {question_set})"
    ax.set(ylabel="test accuracy, %", ylim=(0, 103), title=title)
    plots.legend_below(figure, ncols=3)
    return figure


def calibration(table: pd.DataFrame) -> Figure:
    """How often answers given with so much confidence are right; on the diagonal a probability means what it says."""
    figure, ax = new_figure(width=6.5, height=4.6)
    for (label, part), colour in zip(table.groupby(_names(table, CELL), sort=False), cycle(COLOURS), strict=False):
        plots.points(ax, part["confidence"], part, "accuracy", ends=BOUNDS, linestyle="-", color=colour, label=label)
    ax.plot([50, 100], [50, 100], color="black", linewidth=0.8)
    ax.set(xlabel="confidence: share of the likelier name, %", ylabel="right, %", title="Confidence against accuracy")
    plots.legend_below(figure, ncols=1)
    return figure


def scale_ladder(signal: pd.DataFrame, ceilings: Mapping[str, float], question_set: str = "balanced") -> Figure:
    """What each tuned model reads in code alone, by its number of weights (``claims.code_signal``), a panel per split.

    ``ceilings``: what a perfect reader of the code reaches, per cent, by question set. Hollow: a model's positive
    control. One whose control does not clear 50 % is grey: it has not understood the task.
    """
    shown = signal[(signal["prompt"] == "code") & (signal["question_set"] == question_set)]
    figure, split_axes = _split_panels(shown, left=0, width=3.6, least=6, height=3.8)
    for split, ax in split_axes.items():
        for row in shown[shown["split"] == split].itertuples():
            colour = OURS if row.control_low > 50 else MUTED
            said = pd.DataFrame([row._asdict()])
            plots.points(ax, [row.weights], said, "control", color=colour, markerfacecolor="white", alpha=0.8)
            plots.points(ax, [row.weights], said, "accuracy", ends=BOUNDS, color=colour)
            ax.annotate(row.model, (row.weights, row.high), (0, 4), textcoords="offset points", ha="center", fontsize=7)
        plots.reference_line(ax, 50, "a coin")
        plots.reference_line(ax, ceilings[question_set], "ceiling: labels are noisy", MUTED)
        ax.set(xscale="log", xlabel="weights (log scale)", xlim=(1e6, 2e10), ylim=(30, 104))
    figure.axes[0].set_ylabel("test accuracy, %")
    return figure


def _split_panels(
    table: pd.DataFrame, left: float, width: float, least: float, height: float
) -> tuple[Figure, dict[str, Axes]]:
    """A panel for each split of a table, ``width`` inches each."""
    splits = list(dict.fromkeys(table["split"]))
    titles = [SPLIT_TITLES.get(split, split) for split in splits]
    figure, axes = plots.panels(titles, width=max(least, left + width * len(splits)), height=height)
    return figure, dict(zip(splits, axes, strict=False))


def _ceilings(ax: Axes, question_sets: Iterable[str], ceilings: Mapping[str, float], vertical: bool = False) -> None:
    """Lines at what noisy labels leave a perfect reader of code on each of the sets that are balanced."""
    sets = [name for name in dict.fromkeys(question_sets) if QUESTION_SETS.get(name)]
    for name, place in zip(sets, ("above", "below"), strict=False):
        plots.reference_line(ax, ceilings[name], f"ceiling, {name} {ceilings[name]:.0f} %", MUTED, vertical, place)


def _chance(ax: Axes) -> None:
    ax.axvline(50, color="black", linewidth=0.8)


def _names(table: pd.DataFrame, columns: Sequence[str]) -> pd.Series:
    """What the rows show, in words: the values of ``columns``, with commas."""
    words = table[list(columns)].astype(str)
    if "prompt" in words:
        words["prompt"] = words["prompt"].map(PROMPT_TITLES)
    if "split" in words:
        words["split"] = words["split"].map(_flat)
    return words.agg(", ".join, axis=1) if len(words) else pd.Series(dtype=str)


def _flat(split: str) -> str:
    return SPLIT_TITLES.get(split, split).replace("\n", " ")
