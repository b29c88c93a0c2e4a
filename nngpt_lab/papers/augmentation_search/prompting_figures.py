"""Figures of chain of thought against direct prompting; each takes a table of ``prompting_tables.py``.

Direct is blue with circles, chain of thought orange with squares; bars and bands are 95 % intervals. Every setting (a
model; zero-shot, few-shot or tuned) is a row, so that the two styles of a setting stand one above the other.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from nngpt_lab.papers.augmentation_search.prompting_tables import ARM, SETTING, STYLES, TYPES, setting
from nngpt_lab.statistics.style import COLOURS, MUTED, OURS, error_bars, new_figure

LOOKS = {
    "direct": {"color": OURS, "marker": "o", "label": "direct"},
    "cot": {"color": COLOURS[1], "marker": "s", "label": "chain of thought"},
}
TYPE_COLOURS = dict(zip(TYPES, (OURS, COLOURS[9], COLOURS[3], COLOURS[1], "#bdbdbd", "#636363"), strict=True))
TYPE_HATCHES = dict(zip(TYPES, ("", "//", "", "//", "", ".."), strict=True))
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
    """Accuracy of the trained functions in each arm: every one (pale), their mean and its bootstrap interval.

    ``rows``: as of ``described``.
    """
    figure, ax = _dots(arms, "mean")
    for y, key in enumerate(_settings(arms)):
        for style in STYLES:
            scores = rows.loc[_is(rows, key) & (rows["style"] == style), "score"].dropna()
            look = {"color": LOOKS[style]["color"], "marker": "|", "s": 40, "linewidth": 0.8, "alpha": 0.35}
            ax.scatter(scores, np.full(len(scores), y + 2 * OFFSET[style]), zorder=1, **look)
    ax.set(xlabel="accuracy on the holdout, %", title="Accuracy of the trained functions (bar: bootstrap interval)")
    ax.xaxis.set_major_formatter(PERCENT)
    return figure


def answer_types(types: pd.DataFrame) -> Figure:
    """Stacked bars of the types of answers, one bar an arm (``type_table``)."""
    arms = types[ARM].drop_duplicates().reset_index(drop=True)
    order = [(key, style) for key in _settings(arms) for style in STYLES if _row(arms, key, style) is not None]
    figure, ax = new_figure(width=9, height=1.7 + 0.34 * len(order))
    left = np.zeros(len(order))
    for kind in TYPES:
        part = types[types["type"] == kind]
        share = np.array([_row(part, *arm)["share"] for arm in order])
        ax.barh(range(len(order)), share, left=left, height=0.72, color=TYPE_COLOURS[kind], hatch=TYPE_HATCHES[kind],
                edgecolor="white", linewidth=0.6, label=kind)  # fmt: skip
        left += share
    sampled = [int(_row(types, *arm)["sampled"]) for arm in order]
    labels = [f"{_label(key)}, {style} (n = {n:,})" for (key, style), n in zip(order, sampled, strict=True)]
    ax.set_yticks(range(len(order)), labels)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set(xlabel="share of the answers, %", xlim=(0, 1), title="How the answers are")
    ax.xaxis.set_major_formatter(PERCENT)
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def per_epoch(epochs: pd.DataFrame) -> Figure:
    """Valid share and mean accuracy per LLM epoch of the tuned arms, a row of panels per model (``epoch_table``).

    Thick: mean over the seeds; thin: each seed. The first epoch is sampled before any tuning.
    """
    tuned = epochs[epochs["tuned"].astype(bool)].assign(valid=lambda table: table["valid"] / table["sampled"])
    models = list(dict.fromkeys(tuned["model"]))
    rows = max(len(models), 1)
    figure, axes = new_figure(rows, 2, width=9, height=0.7 + 2.8 * rows, squeeze=False)
    for model, pair in zip(models, axes, strict=False):
        for ax, name, label in zip(pair, ("valid", "mean"), ("valid, % of the samples", "mean accuracy, %"),
                                   strict=True):  # fmt: skip
            for style in STYLES:
                _seeds(ax, tuned[(tuned["model"] == model) & (tuned["style"] == style)], name, LOOKS[style])
            ax.set(xlabel="LLM epoch", ylabel=label, title=f"{model}, tuned")
            ax.set_xlim(0.5, tuned["epoch"].max() + 0.5)
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            ax.yaxis.set_major_formatter(PERCENT)
        pair[0].set_ylim(-0.03, 1.03)
    if not models:
        axes[0, 0].annotate("no arm was tuned", (0.5, 0.5), xycoords="axes fraction", ha="center", color=MUTED)
    else:
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def _seeds(ax: Axes, part: pd.DataFrame, name: str, look: dict) -> None:
    for _, one in part.groupby("seed"):
        ax.plot(one["epoch"], one[name], color=look["color"], linewidth=0.8, alpha=0.4)
    mean = part.groupby("epoch")[name].mean()
    ax.plot(mean.index, mean, markersize=4.5, linewidth=2, **look)


# -------------------------------------------------------------------------------------------------------------- helpers


def _dots(arms: pd.DataFrame, name: str) -> tuple[Figure, Axes]:
    """A row per setting, a dot with its interval per style; an arm without a number says so."""
    settings = _settings(arms)
    figure, ax = new_figure(width=9, height=1.5 + 0.62 * len(settings))
    for style in STYLES:
        found = [(y, _row(arms, key, style)) for y, key in enumerate(settings)]
        known = [(y + OFFSET[style], *row[[name, f"{name}_low", f"{name}_high"]]) for y, row in found
                 if row is not None and np.isfinite(row[name])]  # fmt: skip
        look = {"markersize": 7, **LOOKS[style]}
        marker = look.pop("marker")
        if known:
            y, value, low, high = (np.array(column, float) for column in zip(*known, strict=True))
            low, high = np.where(np.isfinite(low), low, value), np.where(np.isfinite(high), high, value)
            error_bars(ax, y, value, low, high, horizontal=True, fmt=marker, zorder=3, **look)
        else:
            ax.plot([], [], marker=marker, linestyle="none", **look)
        for y, row in found:
            if row is not None and not np.isfinite(row[name]):
                ax.annotate("none", (0.01, y + OFFSET[style]), xycoords=("axes fraction", "data"), va="center",
                            fontsize=8, color=look["color"])  # fmt: skip
    ax.set_yticks(range(len(settings)), [_label(key) for key in settings])
    ax.set_ylim(len(settings) - 0.5, -0.5)
    figure.legend(loc="outside lower center", ncols=2)
    return figure, ax


def _settings(table: pd.DataFrame) -> list[tuple]:
    """Settings in order of appearance of the model, then zero-shot, few-shot, tuned."""
    models = list(dict.fromkeys(table["model"]))
    found = table[SETTING].drop_duplicates().itertuples(index=False, name=None)
    return sorted(found, key=lambda key: (models.index(key[0]), bool(key[2]), key[1]))


def _label(key: tuple) -> str:
    return f"{key[0]}, {setting(key[1], key[2])}"


def _is(table: pd.DataFrame, key: tuple) -> pd.Series:
    return (table[SETTING] == list(key)).all(axis=1)


def _row(table: pd.DataFrame, key: tuple, style: str) -> pd.Series | None:
    """The first row of a setting and style."""
    found = table[_is(table, key) & (table["style"] == style)]
    return found.iloc[0] if len(found) else None
