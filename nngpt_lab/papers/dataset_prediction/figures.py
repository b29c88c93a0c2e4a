"""Figures of paper C's language models: from the tables of ``dataset_answers.py``."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from nngpt_lab.papers.dataset_prediction.baseline_figures import SPLIT_TITLES
from nngpt_lab.papers.dataset_prediction.questions import DATASETS, PUBLISHED_RESULTS
from nngpt_lab.statistics.style import COLOURS, MUTED, OTHER, OURS, PAPER, error_bars, new_figure, reference_line

PROMPT_TITLES = {
    "scores": "normalised accuracies",
    "metadata": "metadata",
    "code": "code only",
    "code_metadata": "code and metadata",
    "networks": "two networks",
}
PUBLISHED_NAMES = {"scores": "normalised accuracy", "metadata": "metadata", "code": "code only"}
TITLES = SPLIT_TITLES | {"near-duplicates": "near-duplicates\nheld out together"}


def accuracy_per_epoch(epochs: pd.DataFrame, readout: str = "both orders") -> Figure:
    """Accuracy after each outer epoch, a panel per prompt, one line per model and cell, with the paper's peaks.

    Lines are means over seeds; bands are the mean of the seeds' Wilson intervals on all test questions.
    """
    shown = epochs[(epochs["readout"] == readout) & (epochs["on"] == "all")]
    prompts = [name for name in PROMPT_TITLES if name in set(shown["prompt"])]
    figure, axes = new_figure(1, len(prompts), width=max(5, 2.9 * len(prompts)), height=3.8, sharey=True, squeeze=False)
    lines = list(dict.fromkeys(zip(shown["model"], shown["split"], shown["question_set"], strict=True)))
    for ax, name in zip(axes[0], prompts, strict=True):
        part = shown[shown["prompt"] == name]
        for place, (model, split, question_set) in enumerate(lines):
            own = part[(part["model"] == model) & (part["split"] == split) & (part["question_set"] == question_set)]
            mean = own.groupby("epoch")[["accuracy", "low", "high"]].mean()
            colour = COLOURS[(place + place // 3) % len(COLOURS)]
            label = f"{model}, {_flat(split)}, {question_set}"
            ax.plot(mean.index, mean["accuracy"], "o-", markersize=3, color=colour, label=label)
            ax.fill_between(mean.index, mean["low"], mean["high"], color=colour, alpha=0.15, linewidth=0)
        for peak in PUBLISHED_RESULTS[PUBLISHED_RESULTS["prompt"] == PUBLISHED_NAMES.get(name)].itertuples():
            value = 100 * peak.correct / peak.n
            reference_line(ax, value, f"paper's peak, {peak.model}, n = {peak.n}")
        ax.axhline(50, color="black", linewidth=0.8)
        ax.set_title(PROMPT_TITLES[name], fontsize=10)
        ax.set(xlabel="outer epoch (0: untuned)", ylim=(-2, 103))
        ax.xaxis.get_major_locator().set_params(integer=True)
    axes[0, 0].set_ylabel("test accuracy, %")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", frameon=False, ncols=2)
    return figure


def models_and_baselines(table: pd.DataFrame, question_set: str = "balanced", readout: str = "both orders") -> Figure:
    """Models and baselines on the same test questions, a panel per split.

    Blue: tuned; light blue: untuned; grey: baselines trained on the whole training part, open: on the model's own
    questions.
    """
    shown = table[(table["question_set"] == question_set) & table["readout"].isin([readout, ""])]
    splits = list(dict.fromkeys(shown["split"]))
    models = shown[shown["readout"] != ""]
    rows = [(row.answerer, row.prompt) for row in models[["answerer", "prompt"]].drop_duplicates().itertuples()]
    rows += [(name, "") for name in dict.fromkeys(shown.loc[shown["readout"] == "", "answerer"])]
    size = {"width": max(6, 2.2 + 3 * len(splits)), "height": 1.4 + 0.3 * len(rows)}
    figure, axes = new_figure(1, len(splits), sharey=True, squeeze=False, **size)
    looks = {
        "tuned": {"color": OURS, "label": "tuned"},
        "untuned": {"color": OURS, "alpha": 0.35, "label": "untuned"},
        "the whole training part": {"color": MUTED, "label": "baseline, whole training part"},
        "the same questions": {"color": MUTED, "mfc": "white", "label": "baseline, the model's questions"},
    }
    for ax, split in zip(axes[0], splits, strict=True):
        for state, look in looks.items():
            part = shown[(shown["split"] == split) & (shown["state"] == state)]
            y = [rows.index((row.answerer, row.prompt)) for row in part.itertuples()]
            y = np.array(y) + (0.15 if state in ("untuned", "the same questions") else -0.15)
            error_bars(ax, y, part["accuracy"], part["low"], part["high"], horizontal=True, **look)
        ax.axvline(50, color="black", linewidth=0.8)
        ax.set_title(TITLES.get(split, split), fontsize=10)
        ax.set(xlabel="test accuracy, %")
    names = [f"{a}: {PROMPT_TITLES[p]}" if p else a.replace("_", " ") for a, p in rows]
    axes[0, 0].set_yticks(range(len(rows)), names)
    axes[0, 0].set_ylim(len(rows) - 0.4, -0.6)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", frameon=False, ncols=2)
    return figure


def order_consistency(table: pd.DataFrame) -> Figure:
    """How often the answer stays when the names change places, how often it is what stands first, and how often those
    that stay are right."""
    shown = table[table["n"] > 0].sort_values(["state", "prompt", "readout"], ascending=[False, True, True])
    labels = [
        f"{row.model}, {PROMPT_TITLES[row.prompt]}\n{row.state}, {row.readout}, {_flat(row.split)}, {row.question_set}"
        for row in shown.itertuples()
    ]
    panels = {
        "consistent": "same answer in both orders, %",
        "first_place": "names what stands first, %",
        "consistent_accuracy": "the consistent: right, %",
    }
    figure, axes = new_figure(1, 3, width=11, height=1.3 + 0.42 * len(shown), sharey=True)
    rows = np.arange(len(shown))
    colours = [OURS if state == "tuned" else MUTED for state in shown["state"]]
    for ax, (name, title) in zip(axes, panels.items(), strict=True):
        for y, colour in enumerate(colours):
            line = shown.iloc[y]
            error_bars(
                ax, [y], [line[name]], [line[f"{name}_low"]], [line[f"{name}_high"]], horizontal=True, color=colour
            )
        ax.axvline(50, color="black", linewidth=0.8)
        ax.set(xlabel=title, xlim=(-2, 102))
    axes[0].set_yticks(rows, labels, fontsize=8)
    axes[0].invert_yaxis()
    return figure


def ablations(table: pd.DataFrame) -> Figure:
    """Accuracy of a tuned model with altered inputs; the line is the unaltered input."""
    cells = list(table.groupby(["model", "prompt", "split", "question_set"], sort=False))
    conditions = list(dict.fromkeys(table["condition"]))
    width = max(6, 2 + 3.2 * len(cells))
    figure, axes = new_figure(
        1, len(cells), width=width, height=1.2 + 0.3 * len(conditions), sharey=True, squeeze=False
    )
    for ax, ((model, name, split, question_set), part) in zip(axes[0], cells, strict=True):
        part = part.set_index("condition").reindex(conditions)
        colours = [OTHER if condition == "as asked" else OURS for condition in conditions]
        for y, colour in enumerate(colours):
            line = part.iloc[y]
            error_bars(
                ax,
                [y],
                [line["accuracy"]],
                [line["accuracy_low"]],
                [line["accuracy_high"]],
                horizontal=True,
                color=colour,
            )
        ax.axvline(part.loc["as asked", "accuracy"], color=OTHER, linestyle="--", linewidth=1)
        ax.axvline(50, color="black", linewidth=0.8)
        ax.set_title(f"{model}, {PROMPT_TITLES[name]}\n{_flat(split)}, {question_set}", fontsize=10)
        ax.set(xlabel="test accuracy, %")
    axes[0, 0].set_yticks(range(len(conditions)), conditions)
    axes[0, 0].invert_yaxis()
    return figure


def per_dataset(table: pd.DataFrame, split: str, question_set: str) -> Figure:
    """Accuracy on the questions that name each data set, by model and prompt, in the paper's form."""
    shown = table[(table["split"] == split) & (table["question_set"] == question_set)].dropna(subset="accuracy")
    groups = list(dict.fromkeys(zip(shown["model"], shown["prompt"], strict=True)))
    names, width = sorted(DATASETS), 0.8 / max(1, len(groups))
    figure, ax = new_figure(width=9, height=4)
    for place, (model, name) in enumerate(groups):
        part = shown[(shown["model"] == model) & (shown["prompt"] == name)].set_index("dataset").reindex(names)
        x = np.arange(len(names)) + (place - (len(groups) - 1) / 2) * width
        colour = COLOURS[place % len(COLOURS)]
        ax.bar(x, part["accuracy"], width, color=colour, alpha=0.6, label=f"{model}, {PROMPT_TITLES[name]}")
        error_bars(ax, x, part["accuracy"], part["low"], part["high"], fmt="none", color="black", linewidth=0.8)
    x = names.index("celeba-gender")
    ax.plot([x - 0.42, x + 0.42], [90.9, 90.9], color=PAPER, linestyle="--", label="paper: 90.9 % (metadata)")
    ax.axhline(50, color="black", linewidth=0.8)
    ax.set_xticks(range(len(names)), names)
    ax.set(
        ylabel="test accuracy, %",
        ylim=(0, 103),
        title=f"Questions that name a data set ({_flat(split)}, {question_set})",
    )
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", frameon=False, ncols=3)
    return figure


def calibration(table: pd.DataFrame) -> Figure:
    """How often answers given with so much confidence are right; on the diagonal a probability means what it says."""
    figure, ax = new_figure(width=6.5, height=4.6)
    for place, ((model, name, split, question_set), part) in enumerate(
        table.groupby(["model", "prompt", "split", "question_set"], sort=False)
    ):
        label = f"{model}, {PROMPT_TITLES[name]}, {_flat(split)}, {question_set}"
        colour = COLOURS[place % len(COLOURS)]
        error_bars(
            ax, part["confidence"], part["accuracy"], part["low"], part["high"], fmt="o-", color=colour, label=label
        )
    ax.plot([50, 100], [50, 100], color="black", linewidth=0.8)
    ax.set(xlabel="confidence: share of the likelier name, %", ylabel="right, %", title="Confidence against accuracy")
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", frameon=False, ncols=1)
    return figure


def model_size(table: pd.DataFrame, parameters: Mapping[str, int], question_set: str = "balanced") -> Figure:
    """Accuracy of the tuned models (both orders) by their number of parameters, a panel per split."""
    shown = table[(table["state"] == "tuned") & (table["readout"] == "both orders")]
    shown = shown[(shown["question_set"] == question_set) & shown["answerer"].isin(list(parameters))]
    splits = list(dict.fromkeys(shown["split"]))
    width = max(5, 3.2 * len(splits))
    figure, axes = new_figure(1, len(splits), width=width, height=3.6, sharey=True, squeeze=False)
    prompts = [name for name in PROMPT_TITLES if name in set(shown["prompt"])]
    for ax, split in zip(axes[0], splits, strict=True):
        for place, name in enumerate(prompts):
            part = shown[(shown["split"] == split) & (shown["prompt"] == name)]
            part = part.assign(parameters=part["answerer"].map(parameters)).sort_values("parameters")
            x = part["parameters"] * 1.06 ** (place - (len(prompts) - 1) / 2)
            look = {"fmt": "o-", "color": COLOURS[place], "label": PROMPT_TITLES[name]}
            error_bars(ax, x, part["accuracy"], part["low"], part["high"], **look)
        ax.axhline(50, color="black", linewidth=0.8)
        ax.set_title(TITLES.get(split, split), fontsize=10)
        ax.set(xscale="log", xlabel="parameters")
    axes[0, 0].set_ylabel("test accuracy, %")
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="outside lower center", frameon=False, ncols=len(prompts)
    )
    return figure


def _flat(split: str) -> str:
    return TITLES.get(split, split).replace("\n", " ")
