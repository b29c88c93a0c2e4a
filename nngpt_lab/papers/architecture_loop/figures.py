"""Figures of paper B's loop: each takes a table of ``tables.py`` and returns a ``matplotlib`` Figure.

Fractions in the tables are drawn in per cent. Bands and bars are 95 % intervals. The paper's recovered cycles are
hollow diamonds: in the same axes where these mean the same thing, in a panel of their own where they do not (accuracy
on another data set). Arms and lines differ in marker and dashes, not in colour alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nngpt_lab.papers.architecture_loop.lemur_overview import CYCLES, wilson_cycles
from nngpt_lab.papers.architecture_loop.tables import LOOP, MEASURES, SHARES, arms
from nngpt_lab.statistics.style import COLOURS, MUTED, OURS, PAPER, error_bars, new_figure

PAPER_LABEL = "paper B (CIFAR-10, 7B)"
HOLLOW = {"color": PAPER, "markerfacecolor": "white", "marker": "D", "markersize": 6, "linestyle": "none", "zorder": 5}
LOOKS = {
    LOOP: {"color": OURS, "marker": "o", "linestyle": "-", "linewidth": 2.2, "zorder": 4},
    "no tuning": {"color": COLOURS[1], "marker": "s", "linestyle": "--"},
    "shuffled scores": {"color": COLOURS[2], "marker": "^", "linestyle": "-."},
    "no novelty filter": {"color": COLOURS[4], "marker": "D", "linestyle": ":"},
    "random pairs": {"color": COLOURS[5], "marker": "v", "linestyle": (0, (5, 1, 1, 1, 1, 1))},
    "random search": {"color": "black", "marker": "x", "linestyle": (0, (1, 3))},
}
LINES = [LOOKS[LOOP], LOOKS["no tuning"], LOOKS["shuffled scores"]]  # of one arm's several lines
BESIDE = {"width_ratios": (3, 1.25)}


def look(arm: str, number: int | None = None) -> dict:
    """How an arm is drawn; one that :data:`LOOKS` does not know is grey, or drawn as the arm of that ``number``."""
    style = LOOKS.get(arm, {"color": MUTED, "marker": "P", "linestyle": "-"})
    if arm not in LOOKS and number is not None:
        style = list(LOOKS.values())[number % len(LOOKS)]
    return {"markersize": 4.5, "linewidth": 1.4, **style}


# ----------------------------------------------------------------------------------------------------- rates per cycle


def valid_rate(cycles: pd.DataFrame) -> Figure:
    """Share of the samples that run, per cycle and arm, with the loop's Wilson band and the paper's cycles.

    ``cycles``: arm, cycle, valid, valid_low, valid_high (``pooled_cycles``).
    """
    figure, ax = new_figure(width=9, height=4.2)
    for arm in arms(cycles):
        part = cycles[cycles["arm"] == arm]
        _line(ax, part, "valid", arm, look(arm), band=arm == LOOP or cycles["arm"].nunique() == 1)
    paper = wilson_cycles()
    error_bars(ax, paper["cycle"], paper["valid"], paper["valid_low"], paper["valid_high"], label=PAPER_LABEL, fmt="",
               **HOLLOW)  # fmt: skip
    cycle_axis(ax, max(cycles["cycle"].max(), 22))
    ax.set(ylabel="samples that run, %", ylim=(0, 102), title="Valid samples per cycle (band: Wilson interval)")
    legend_below(figure, ax)
    return figure


def accuracy(cycles: pd.DataFrame, arm: str = LOOP, same_data: bool = False) -> Figure:
    """Best, mean and median accuracy of one arm per cycle, with bootstrap bands for mean and median.

    ``cycles``: as ``pooled_cycles`` returns. ``same_data``: the candidates were trained on CIFAR-10, as the paper's, so
    that its cycles stand in the same axes.
    """
    part = cycles[cycles["arm"] == arm]
    figure, ax, beside = _with_paper(same_data)
    names = {"best": "best", "mean": "mean", "median": "median"}
    for (name, label), style in zip(names.items(), (LINES[1], LINES[0], LINES[2]), strict=True):
        _line(ax, part, name, label, {"markersize": 4.5, **style}, band=name != "best")
    for name, marker in (("best", "s"), ("mean", "o")):
        style = {**HOLLOW, "marker": marker, "linestyle": ":", "linewidth": 1}
        (beside or ax).plot(CYCLES["cycle"], CYCLES[name], label=f"{name}, {PAPER_LABEL}", **style)
        if beside:
            away = 8 if name == "best" else -16
            beside.annotate(name, (22, CYCLES[name].iloc[-1]), xytext=(0, away), textcoords="offset points",
                            ha="center", fontsize=9, color=PAPER)  # fmt: skip
    cycle_axis(ax, 22 if same_data else cycles["cycle"].max())
    trained = part[part["trained"] > 0]
    unit = "seeds" if len(trained) and (trained["unit"] == "seeds").all() else "candidates"
    ax.set(ylabel="accuracy after one epoch, %", ylim=(0, 102))
    bands = f"bands: bootstrap over {unit}" if part["mean_low"].notna().any() else "too few networks for intervals"
    ax.set_title(f"Accuracy per cycle ({bands})")
    if not len(trained):
        say(ax, "nothing was trained")
    legend_below(figure, ax)
    return figure


def shares(cycles: pd.DataFrame, labels: Sequence[str], arm: str = LOOP, same_data: bool = False) -> Figure:
    """Share of one arm's trained networks at or over each threshold, with Wilson bands.

    Args:
        cycles: as ``pooled_cycles`` returns.
        labels: what the three thresholds are, e.g. "40 %" or "0.71 (80 % quantile of the base model)".
        same_data: as for :func:`accuracy`.
    """
    part = cycles[cycles["arm"] == arm]
    figure, ax, beside = _with_paper(same_data)
    for name, label, style in zip(SHARES, labels, LINES, strict=True):
        _line(ax, part, name, f"at least {label}", {"markersize": 4.5, **style}, band=True)
    paper = wilson_cycles()
    error_bars(beside or ax, paper["cycle"], paper["over_40"], paper["over_40_low"], paper["over_40_high"],
               label=f"at least 40 %, {PAPER_LABEL}", fmt="", **HOLLOW)  # fmt: skip
    cycle_axis(ax, 22 if same_data else cycles["cycle"].max())
    if beside:
        beside.set_xlabel("cycle (share at or over 40 %)")
    if not part["trained"].any():
        say(ax, "nothing was trained")
    ax.set(ylabel="share of trained networks, %", ylim=(-2, 102), title="Over the thresholds (bands: Wilson interval)")
    legend_below(figure, ax)
    return figure


def controls_per_cycle(cycles: pd.DataFrame, measure: str = "mean", label: str = "mean accuracy") -> Figure:
    """One measure per cycle, one line per arm; a band where there is one arm or for the loop.

    ``cycles``: as ``pooled_cycles`` returns; ``measure``: one of its columns that is a fraction.
    """
    figure, ax = new_figure(width=9, height=4.4)
    for number, arm in enumerate(arms(cycles)):
        band = arm == LOOP and f"{measure}_low" in cycles
        _line(ax, cycles[cycles["arm"] == arm], measure, arm, look(arm, number), band=band)
    cycle_axis(ax, cycles["cycle"].max())
    ax.set(ylabel=f"{label}, %", title=f"{label.capitalize()} per cycle (band: 95 % interval of the loop)")
    legend_below(figure, ax)
    return figure


def differences(table: pd.DataFrame, title: str) -> Figure:
    """Differences with intervals, a panel per measure: rows of ``controls_table`` or of ``rise_table``.

    Filled: paired over seeds. Hollow: within the run. A cross has no interval.
    """
    key = "control" if "control" in table else "arm"
    names = list(dict.fromkeys(table[key]))
    figure, axes = new_figure(1, len(MEASURES), width=11, height=1.9 + 0.36 * len(names), sharey=True)
    for ax, (measure, label) in zip(axes, MEASURES.items(), strict=True):
        ax.axvline(0, color="black", linewidth=0.8)
        for row in table[table["measure"] == measure].itertuples():
            y, paired = names.index(getattr(row, key)), row.method.startswith("paired")
            values = [[100 * value] for value in (row.difference, row.difference_low, row.difference_high)]
            bounded = np.isfinite(values[1:]).all()
            style = {"color": OURS, "markersize": 6, "fmt": ("o" if bounded else "x")}
            if not bounded:
                values = values[:1] * 3
            error_bars(ax, [y], *values, horizontal=True, markerfacecolor=OURS if paired else "white", **style)
        reach = _reach(table[table["measure"] == measure])
        ax.set(xlim=(-reach, reach), ylim=(max(len(names), 1) - 0.5, -0.5))
        ax.set_title(label.replace(", ", ",\n"), fontsize=9.5)
        ax.xaxis.set_major_locator(MaxNLocator(3, symmetric=True))
    axes[0].set_yticks(range(len(names)), names)
    if not names:
        say(axes[len(axes) // 2], "nothing to compare")
    figure.supxlabel("points of accuracy or of share; filled: paired over seeds, hollow: within the run, "
                     "cross: no interval", fontsize=9)  # fmt: skip
    figure.suptitle(title, fontsize=12)
    return figure


# ------------------------------------------------------------------------------------------------------------- helpers


def _line(ax: Axes, table: pd.DataFrame, name: str, label: str, style: dict, band: bool) -> None:
    """A column in per cent over the cycles, and its interval as a band."""
    table = table.sort_values("cycle")
    ax.plot(table["cycle"], 100 * table[name].astype(float), label=label, **style)
    if band:
        low, high = 100 * table[f"{name}_low"].astype(float), 100 * table[f"{name}_high"].astype(float)
        known = table[name].notna()  # no band where there is no value: a Wilson interval of nothing holds everything
        ax.fill_between(table["cycle"], low, high, where=known, color=style["color"], alpha=0.18, linewidth=0)


def _with_paper(same_data: bool) -> tuple[Figure, Axes, Axes | None]:
    """One pair of axes, or two with the paper's beside ours."""
    if same_data:
        figure, ax = new_figure(width=9, height=4.2)
        return figure, ax, None
    figure, (ax, beside) = new_figure(1, 2, width=9, height=4.2, sharey=True, gridspec_kw=BESIDE)
    cycle_axis(beside, 22)
    beside.set_xticks(CYCLES["cycle"])
    beside.set_title(PAPER_LABEL, color=PAPER)
    return figure, ax, beside


def cycle_axis(ax: Axes, last: int) -> None:
    """Whole cycles from 1 to ``last``."""
    ax.set(xlabel="cycle", xlim=(0.5, last + 0.5))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, nbins=12))


def legend_below(figure: Figure, ax: Axes) -> None:
    """The lines' names below all axes."""
    handles, labels = ax.get_legend_handles_labels()
    ncols = 4 if sum(map(len, labels[:4])) < 80 else 2
    figure.legend(handles, labels, loc="outside lower center", ncols=ncols, frameon=False, handlelength=3.5)


def say(ax: Axes, text: str) -> None:
    """A remark in the middle of axes that have nothing to show."""
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", color=MUTED)


def _reach(rows: pd.DataFrame) -> float:
    columns = ["difference", "difference_low", "difference_high"]
    values = np.abs(rows[columns].to_numpy(float))
    finite = values[np.isfinite(values)]
    return 1.15 * 100 * max(finite.max(initial=0), 0.01)
