"""Figures of chain of thought against direct prompting; each takes a table of ``prompting_tables.py``.

Direct is blue with circles, chain of thought orange with squares; bars and bands are 95 % intervals. Every setting (a
model; zero-shot, few-shot or tuned) is a row, so that the two styles of a setting stand one above the other.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from nngpt_lab.papers.augmentation_search.answer_forms import TYPES
from nngpt_lab.papers.augmentation_search.prompting_tables import SETTING, setting
from nngpt_lab.papers.augmentation_search.rationales import STYLES
from nngpt_lab.statistics.plots import legend_below, name_rows, no_data, points, rows_of, stack, whole_numbers
from nngpt_lab.statistics.style import COLOURS, OURS, new_figure

LOOKS = {
    "direct": {"color": OURS, "marker": "o", "label": "direct"},
    "cot": {"color": COLOURS[1], "marker": "s", "label": "chain of thought"},
}
TYPE_COLOURS = (OURS, COLOURS[9], COLOURS[3], COLOURS[1], "#bdbdbd", "#636363")
TYPE_HATCHES = ("", "//", "", "//", "", "..")
TYPE_LOOKS = {kind: {"label": kind, "facecolor": colour, "hatch": hatch}
              for kind, colour, hatch in zip(TYPES, TYPE_COLOURS, TYPE_HATCHES, strict=True)}  # fmt: skip
PERCENT = FuncFormatter(lambda value, _: f"{100 * value:.4g}")  # axes' titles carry the sign
OFFSET = {"direct": -0.13, "cot": 0.13}


def valid_rate(arms: pd.DataFrame) -> Figure:
    """Share of valid answers in each arm, with Wilson intervals (``arm_table``)."""
    figure, ax = _dots(arms, "valid")
    ax.set(xlabel="valid, % of the samples", xlim=(-0.03, 1.03), title="Valid answers (bar: Wilson interval)")
    ax.xaxis.set_major_formatter(PERCENT)
    return figure


def tokens_per_valid(arms: pd.DataFrame) -> Figure:
    """New tokens per valid function in each arm, with bootstrap intervals (``arm_table``)."""
    figure, ax = _dots(arms, "tokens_per_valid")
    ax.set(xlabel="new tokens per valid function", title="What a valid function costs (bar: bootstrap interval)")
    ax.set_xlim(left=0)
    return figure


def accuracy(arms: pd.DataFrame, rows: pd.DataFrame) -> Figure:
    """Accuracy of the trained functions in each arm: every one of ``rows`` (of ``described``; pale), their mean and its
    bootstrap interval."""
    figure, ax = _dots(arms, "mean")
    settings = _settings(arms)
    for style in STYLES:
        part = rows[rows["style"] == style].dropna(subset="score")
        ax.scatter(part["score"], _places(part, settings) + 2 * OFFSET[style], color=LOOKS[style]["color"], marker="|",
                   s=40, linewidth=0.8, alpha=0.35, zorder=1)  # fmt: skip
    ax.set(xlabel="accuracy on the holdout, %", title="Accuracy of the trained functions (bar: bootstrap interval)")
    ax.xaxis.set_major_formatter(PERCENT)
    return figure


def answer_types(types: pd.DataFrame) -> Figure:
    """Stacked bars of the types of answers, one bar an arm (``type_table``)."""
    settings = _settings(types)
    types = types.assign(place=2 * _places(types, settings) + types["style"].map(STYLES.index))
    shares = types.pivot(index="place", columns="type", values="share").reset_index(drop=True)
    arms = types.drop_duplicates("place").sort_values("place")
    labels = [f"{settings[arm.model, arm.shots, arm.tuned]}, {arm.style} (n = {arm.sampled:,})"
              for arm in arms.itertuples()]  # fmt: skip
    figure, ax = new_figure(width=9, height=1.7 + 0.34 * len(shares))
    stack(ax, shares, TYPE_LOOKS)
    name_rows(ax, labels)
    ax.set(xlabel="share of the answers, %", xlim=(0, 1), title="How the answers are")
    ax.xaxis.set_major_formatter(PERCENT)
    legend_below(figure, ncols=3)
    return figure


def per_epoch(epochs: pd.DataFrame) -> Figure:
    """Valid share and mean accuracy per LLM epoch of the tuned arms, a row of panels per model (``epoch_table``).
    Thick: mean over the seeds; thin: each seed. The first epoch is sampled before any tuning."""
    tuned = epochs[epochs["tuned"].astype(bool)].assign(valid=lambda table: table["valid"] / table["sampled"])
    models = list(dict.fromkeys(tuned["model"]))
    rows = max(len(models), 1)
    figure, axes = new_figure(rows, 2, width=9, height=0.7 + 2.8 * rows, squeeze=False)
    if not models:
        no_data(axes[0, 0], "no arm was tuned")
        return figure
    for model, (left, right) in zip(models, axes, strict=True):
        part = tuned[tuned["model"] == model]
        for ax, name, label in ((left, "valid", "valid, % of the samples"), (right, "mean", "mean accuracy, %")):
            for style in STYLES:
                _seeds(ax, part[part["style"] == style], name, LOOKS[style])
            ax.set(xlabel="LLM epoch", ylabel=label, title=f"{model}, tuned", xlim=(0.5, tuned["epoch"].max() + 0.5))
            whole_numbers(ax.xaxis)
            ax.yaxis.set_major_formatter(PERCENT)
        left.set_ylim(-0.03, 1.03)
    legend_below(figure)
    return figure


def _seeds(ax: Axes, part: pd.DataFrame, name: str, look: dict) -> None:
    for _, run in part.groupby("seed"):
        ax.plot(run["epoch"], run[name], color=look["color"], linewidth=0.8, alpha=0.4)
    ax.plot(part.groupby("epoch")[name].mean(), markersize=4.5, linewidth=2, **look)


def _dots(arms: pd.DataFrame, name: str) -> tuple[Figure, Axes]:
    """A row per setting, a dot with its interval per style; an arm without a number says so."""
    settings = _settings(arms)
    figure, ax = new_figure(width=9, height=1.5 + 0.62 * len(settings))
    for style in STYLES:
        part = arms[arms["style"] == style].replace(np.inf, np.nan)
        places = _places(part, settings) + OFFSET[style]
        points(ax, places, part, name, horizontal=True, markersize=7, zorder=3, **LOOKS[style])
        for place in places[part[name].isna()]:
            ax.annotate("none", (0.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=8,
                        color=LOOKS[style]["color"])  # fmt: skip
    name_rows(ax, list(settings.values()))
    legend_below(figure, ncols=2)
    return figure, ax


def _settings(table: pd.DataFrame) -> dict[tuple, str]:
    """The settings with their names, in the table's order: model by model, each zero-shot, few-shot, tuned."""
    keys = table[SETTING].drop_duplicates().itertuples(index=False, name=None)
    return {(model, *how): f"{model}, {setting(*how)}" for model, *how in keys}


def _places(table: pd.DataFrame, settings: dict[tuple, str]) -> np.ndarray:
    """The row of each arm's setting."""
    keys = table[SETTING].itertuples(index=False, name=None)
    return rows_of([settings[key] for key in keys], list(settings.values()))
