"""Figures of paper B's loop: each takes a table of ``tables.py`` and returns a ``matplotlib`` Figure.

Fractions in the tables are drawn in per cent. Bands and bars are 95 % intervals. The paper's recovered cycles are
hollow diamonds: in the same axes where these mean the same thing, in a panel of their own where they do not (accuracy
on another data set). Arms and lines differ in marker and dashes, not in colour alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nngpt_lab.papers.architecture_loop.lemur_overview import CYCLES, wilson_cycles
from nngpt_lab.papers.architecture_loop.novelty_figures import FORM_LOOKS
from nngpt_lab.papers.architecture_loop.tables import MEASURES, SHARES
from nngpt_lab.statistics import plots
from nngpt_lab.statistics.style import COLOURS, MUTED, OURS, PAPER, new_figure
from nngpt_lab.study.budget import Independent
from nngpt_lab.study.looks import STYLES, UNKNOWN, arm_looks
from nngpt_lab.study.samples import LOOP, arms

PAPER_LABEL = "paper B (CIFAR-10, 7B)"
HOLLOW = {"color": PAPER, "markerfacecolor": "white", "marker": "D", "markersize": 6, "linestyle": "none", "zorder": 5}
LINES = [{"markersize": 4.5, **style} for style in STYLES[:3]]  # of one arm's several lines
STATUSES = {
    "ok": {"label": "trained", "facecolor": "#dce9f3"},
    "non_finite": {"label": "loss not finite", "facecolor": COLOURS[9]},
    "no_code": {"label": "no code", "facecolor": "#4d4d4d"},
    "syntax": {"label": "does not parse", "facecolor": COLOURS[3]},
    "contract": {"label": "breaks the contract", "facecolor": COLOURS[1], "hatch": "//"},
    "duplicate": {"label": "duplicate", "facecolor": COLOURS[6], "hatch": ".."},
    "parameters": {"label": "too many parameters", "facecolor": COLOURS[4], "hatch": "\\\\"},
    "shape": {"label": "shapes do not fit", "facecolor": COLOURS[2], "hatch": "++"},
    "out_of_memory": {"label": "out of memory", "facecolor": COLOURS[5], "hatch": "xx"},
    "timeout": {"label": "too slow", "facecolor": COLOURS[8]},
    "forbidden": {"label": "forbidden", "facecolor": "#000000"},
    "crash": {"label": "crash", "facecolor": COLOURS[7], "hatch": "--"},
    "overtrained": {"label": "trained for longer", "facecolor": COLOURS[0], "hatch": "oo"},
}
"""Name and look of each status, in the order of the stack."""
STAGE_LOOKS = {
    "sampling_seconds": {"label": "sampling", "facecolor": COLOURS[0]},
    "evaluation_seconds": {"label": "evaluation", "facecolor": COLOURS[1], "hatch": "//"},
    "selection_seconds": {"label": "selection", "facecolor": "#4d4d4d"},
    "tuning_seconds": {"label": "tuning", "facecolor": COLOURS[9], "hatch": ".."},
}


# ----------------------------------------------------------------------------------------------------- rates per cycle


def valid_rate(cycles: pd.DataFrame, alone: Independent | None = None) -> Figure:
    """Share of the samples that run, per cycle and arm (``pooled_cycles``), with the loop's Wilson band and the paper's
    cycles. ``alone``: a line to beat."""
    figure, ax = new_figure(width=9, height=4.2)
    looks = arm_looks(cycles)
    plots.lines(ax, cycles, "arm", "cycle", "valid", looks, bands=looks if len(looks) == 1 else [LOOP], scale=100)
    paper = wilson_cycles()
    plots.points(ax, paper["cycle"], paper, "valid", label=PAPER_LABEL, **HOLLOW)
    _to_beat(ax, alone, "valid")
    cycle_axis(ax, max(cycles["cycle"].max(), 22))
    ax.set(ylabel="samples that run, %", ylim=(0, 102), title="Valid samples per cycle (band: Wilson interval)")
    plots.legend_below(figure)
    return figure


def accuracy(cycles: pd.DataFrame, same_data: bool = False, alone: Independent | None = None) -> Figure:
    """The loop's best, mean and median accuracy per cycle, with bands for mean and median.

    ``cycles``: as ``pooled_cycles`` returns. ``same_data``: the candidates were trained on CIFAR-10, as the paper's, so
    that its cycles stand in the same axes. ``alone``: lines to beat.
    """
    part = cycles[cycles["arm"] == LOOP]
    figure, ax, beside = _with_paper(cycles, same_data)
    plots.line(ax, part, "cycle", "best", scale=100, label="best", **LINES[1])
    plots.line(ax, part, "cycle", "mean", scale=100, band=True, label="mean", **LINES[0])
    plots.line(ax, part, "cycle", "median", scale=100, band=True, label="median", **LINES[2])
    _to_beat(ax, alone, "mean", "best")
    for name, marker, away in (("best", "s", 8), ("mean", "o", -16)):
        style = {**HOLLOW, "marker": marker, "linestyle": ":", "linewidth": 1}
        plots.line(beside, CYCLES, "cycle", name, label=f"{name}, {PAPER_LABEL}", **style)
        if beside is not ax:
            beside.annotate(name, (22, CYCLES[name].iloc[-1]), xytext=(0, away), textcoords="offset points",
                            ha="center", fontsize=9, color=PAPER)  # fmt: skip
    trained = part[part["trained"] > 0]
    by_seed = len(trained) and (trained["unit"] == "seeds").all()
    bands = (
        f"bands: {'t-interval over seeds' if by_seed else 'bootstrap over candidates'}"
        if part["mean_low"].notna().any()
        else "too few networks for intervals"
    )
    ax.set(ylabel="accuracy after one epoch, %", ylim=(0, 102), title=f"Accuracy per cycle ({bands})")
    if not len(trained):
        plots.no_data(ax, "nothing was trained")
    plots.legend_below(figure)
    return figure


def shares(
    cycles: pd.DataFrame, labels: Sequence[str], same_data: bool = False, alone: Independent | None = None
) -> Figure:
    """Share of the loop's trained networks at or over each threshold, with Wilson bands; arguments as of
    :func:`accuracy`, and ``labels``: what the three thresholds are (``base_model.threshold_labels``).
    """
    part = cycles[cycles["arm"] == LOOP]
    figure, ax, beside = _with_paper(cycles, same_data)
    for name, label, style in zip(SHARES, labels, LINES, strict=True):
        plots.line(ax, part, "cycle", name, scale=100, band=True, label=f"at least {label}", **style)
    _to_beat(ax, alone, SHARES[0])
    paper = wilson_cycles()
    plots.points(beside, paper["cycle"], paper, "over_40", label=f"at least 40 %, {PAPER_LABEL}", **HOLLOW)
    if beside is not ax:
        beside.set_xlabel("cycle (share at or over 40 %)")
    if not part["trained"].any():
        plots.no_data(ax, "nothing was trained")
    ax.set(ylabel="share of trained networks, %", ylim=(-2, 102), title="Over the thresholds (bands: Wilson interval)")
    plots.legend_below(figure)
    return figure


def controls_per_cycle(cycles: pd.DataFrame) -> Figure:
    """Mean accuracy per cycle (``pooled_cycles``) with intervals: the loop beside each control, a panel a control."""
    looks, others = arm_looks(cycles, numbered=True), [arm for arm in arms(cycles) if arm != LOOP]
    rows, columns = -(-max(len(others), 1) // 3), min(max(len(others), 1), 3)
    size = {"width": 3.8 + 2.6 * columns, "height": 1.2 + 2.6 * rows}
    figure, axes = new_figure(rows, columns, **size, sharex=True, sharey=True, squeeze=False)
    for ax, other in zip(axes.flat, others or [LOOP], strict=False):
        shown = {arm: looks[arm] for arm in dict.fromkeys((LOOP, other)) if arm in looks}
        plots.lines(ax, cycles, "arm", "cycle", "mean", shown, bands=shown, scale=100)
        ax.set_title(other, fontsize=10)
        ax.tick_params(labelbottom=True)
        cycle_axis(ax, cycles["cycle"].max())
    for ax in axes.flat[len(others) :] if others else ():
        ax.set_visible(False)
    if cycles["mean"].isna().all():
        plots.no_data(axes[0, 0], "nothing was trained")
    by_seed = (cycles.loc[cycles["trained"] > 0, "unit"] == "seeds").all()
    unit = "t-interval over seeds" if by_seed else "bootstrap over these networks"
    figure.suptitle(f"Mean accuracy per cycle (solid: the loop; bands: {unit})", fontsize=11)
    figure.supylabel("mean accuracy, %", fontsize=10)
    return figure


def differences(table: pd.DataFrame, title: str) -> Figure:
    """Differences with intervals, a panel per measure: rows of ``controls_table`` or of ``rise_table``.

    A cross has no interval, as with one seed or two.
    """
    key = "control" if "control" in table else "arm"
    names = list(dict.fromkeys(table[key]))
    titles = [measure.label.replace(", ", ",\n") for measure in MEASURES.values()]
    figure, axes = plots.panels(titles, width=11, height=1.9 + 0.36 * len(names))
    for ax, measure in zip(axes, MEASURES, strict=True):
        part = table[table["measure"] == measure]
        bounded = part[["difference_low", "difference_high"]].notna().all(axis=1)
        looks = [{"marker": "o" if known else "x"} for known in bounded]
        ax.axvline(0, color="black", linewidth=0.8)
        plots.points(ax, plots.rows_of(part[key], names), part, "difference", scale=100, horizontal=True, looks=looks,
                     color=OURS, markersize=6)  # fmt: skip
        values = part[["difference", "difference_low", "difference_high"]].to_numpy(float)
        reach = 115 * np.max(np.abs(values), initial=0.01, where=np.isfinite(values))
        ax.set_xlim(-reach, reach)
        ax.xaxis.set_major_locator(MaxNLocator(3, symmetric=True))
    plots.name_rows(axes[0], names)
    if not names:
        plots.no_data(axes[len(axes) // 2], "nothing to compare")
    figure.supxlabel("points of accuracy or of share; paired over seeds, cross: no interval", fontsize=9)
    figure.suptitle(title, fontsize=12)
    return figure


def novel(cycles: pd.DataFrame) -> Figure:
    """Novel networks per cycle (of 100 samples, beside the paper's) and in all, per arm (``cycle_table``); faint lines
    are single seeds."""
    figure, (left, right) = new_figure(1, 2, width=9.5, height=4.2)
    cycles = cycles.assign(rate=100 * cycles["novel"] / cycles["sampled"])
    mean = cycles.groupby(["arm", "cycle"], as_index=False)[["rate", "cumulative_novel"]].mean()
    looks = arm_looks(cycles)
    plots.lines(left, mean, "arm", "cycle", "rate", looks)
    plots.lines(right, mean, "arm", "cycle", "cumulative_novel", looks)
    for (arm, _), run in cycles.groupby(["arm", "seed"]):
        if cycles.loc[cycles["arm"] == arm, "seed"].nunique() > 1:
            right.plot(run["cycle"], run["cumulative_novel"], color=looks[arm]["color"], linewidth=0.7, alpha=0.4)
    left.plot(CYCLES["cycle"], 100 * CYCLES["novel"] / CYCLES["generated"], label=PAPER_LABEL, **HOLLOW)
    cycle_axis(left, max(22, cycles["cycle"].max()))
    cycle_axis(right, cycles["cycle"].max())
    left.set(title="Novel per cycle", ylabel="novel networks per 100 samples", ylim=(0, None))
    right.set(title="Novel so far", ylabel="novel networks", ylim=(0, 1.05 * max(cycles["cumulative_novel"].max(), 1)))
    plots.legend_below(figure)
    return figure


# ------------------------------------------------------------------------- distributions, failures, likeness, time


def ridgelines(candidates: pd.DataFrame, threshold: float) -> Figure:
    """Distribution of the loop's accuracies, a ridge a cycle, the first at the top; over all seeds.

    Ridges are Gaussian kernel densities, reflected at 0 and 1 so that none lies outside, with one bandwidth for all
    cycles and the same area for each; the tick under a ridge is a network, the thick one the median. A cycle without a
    trained network is an empty line.
    """
    rows = candidates[candidates["arm"] == LOOP]
    scores = {cycle: part["score"].dropna().to_numpy() for cycle, part in rows.groupby("cycle")}
    figure, ax = new_figure(width=9, height=1.6 + 0.3 * max(len(scores), 3))
    x = np.linspace(0, 1, 400)
    width = _bandwidth(list(scores.values()))
    ridges = [_density(values, x, width) for values in scores.values()]
    tallest = max((ridge.max() for ridge in ridges), default=0) or 1
    shades = sns.color_palette("crest", max(len(scores), 2))
    for place, (values, ridge) in enumerate(zip(scores.values(), ridges, strict=True)):
        if len(values):
            top = place - 1.9 * ridge / tallest
            ax.fill_between(100 * x, place, top, color=shades[place], alpha=0.85, linewidth=0, zorder=place + 2)
            ax.plot(100 * x, top, color="white", linewidth=1, zorder=place + 2)
            ax.vlines(100 * values, place, place + 0.14, color="black", linewidth=0.6, zorder=100)
            ax.vlines(100 * np.median(values), place, place + 0.26, color="black", linewidth=2.6, zorder=100)
        ax.annotate(f"n = {len(values)}", (1.01, place), xycoords=("axes fraction", "data"), fontsize=8, va="center")
    plots.reference_line(ax, 100 * threshold, "threshold", MUTED, vertical=True)
    ax.set_yticks(range(len(scores)), scores)
    ax.grid(False, axis="y")
    ax.set(xlim=(0, 100), ylim=(max(len(scores) - 1, 1) + 0.4, -2.1), ylabel="cycle")
    ax.set(xlabel="accuracy after one epoch, %", title="Accuracies per cycle (ticks: networks; thick: median)")
    return figure


def _bandwidth(groups: Sequence[np.ndarray]) -> float:
    """Silverman's rule within a cycle, for all cycles; at least one point of accuracy."""
    spreads = [group.std(ddof=1) * len(group) ** -0.2 for group in groups if len(group) > 1]
    return max(0.9 * float(np.median(spreads)) if spreads else 0.0, 0.01)


def _density(values: np.ndarray, x: np.ndarray, width: float) -> np.ndarray:
    if not len(values):
        return np.zeros_like(x)
    centres = np.concatenate([values, -values, 2 - values])
    return np.exp(-(((x[:, None] - centres) / width) ** 2) / 2).sum(axis=1) / (len(values) * width)


def failures(table: pd.DataFrame) -> Figure:
    """How the samples of the loop, or without one of the first arm, ended, per cycle, as stacked areas
    (``failure_table``)."""
    shown = LOOP if LOOP in set(table["arm"]) else table["arm"].iloc[0]
    wide = 100 * table[table["arm"] == shown].pivot(index="cycle", columns="status", values="share").fillna(0)
    seen = [status for status in STATUSES if status in wide and wide[status].any()]
    figure, ax = new_figure(width=9, height=4.2)
    cycle_axis(ax, int(wide.index.max()))
    if len(wide) > 1:
        for area, status in zip(ax.stackplot(wide.index, wide[seen].T), seen, strict=True):
            area.set(**STATUSES[status], edgecolor="white", linewidth=0.6)
        ax.set_xlim(wide.index.min(), wide.index.max())
    else:
        plots.stack(ax, wide, {status: STATUSES[status] for status in seen}, horizontal=False)
    ax.set(ylabel="samples, %", ylim=(0, 100), title=f"How the samples ended: {shown}")
    plots.legend_right(figure, upwards=True)  # as they are stacked
    return figure


def neighbours(table: pd.DataFrame, threshold: tuple[str, float]) -> Figure:
    """Likeness of the loop's accepted networks to their nearest in the corpus, and how many are copies, per cycle
    (``memorisation_table``). ``threshold``: form and Jaccard index from which the run's filter sees a duplicate."""
    part = table[table["arm"] == LOOP]
    figure, (left, right) = new_figure(1, 2, width=9.5, height=4.2, width_ratios=(1.7, 1))
    looks = {form: FORM_LOOKS.get(form, UNKNOWN) for form in dict.fromkeys(part["form"])}
    plots.lines(left, part, "form", "cycle", "median", looks, bands=looks, ends=("lower_quartile", "upper_quartile"),
                markersize=4.5)  # fmt: skip
    plots.reference_line(left, threshold[1], f"a duplicate in {threshold[0]}", MUTED, place="below")
    copies = part.drop_duplicates("cycle")
    plots.points(right, copies["cycle"] - 0.1, copies, "verbatim", scale=100, color=OURS, label="verbatim")
    plots.points(right, copies["cycle"] + 0.1, copies, "renamed", scale=100, color=COLOURS[1], marker="s",
                 label="but for names")  # fmt: skip
    for ax in (left, right):
        cycle_axis(ax, int(table["cycle"].max()) if len(table) else 1)
    left.set(title="Nearest network of the corpus (median, quartiles)", ylabel="Jaccard index", ylim=(0, 1.02))
    right.set(title="Copies of the corpus", ylabel="accepted networks, %", ylim=(-2, 102))
    if len(part):
        right.legend(loc="upper right")
        plots.legend_below(figure)
    else:
        plots.no_data(left, "no network was accepted")
    return figure


def stages(cycles: pd.DataFrame) -> Figure:
    """Wall-clock time by stage: the loop's seconds per cycle (mean over seeds), and shares of each arm's whole time
    (``cycle_table``)."""
    seconds, order = list(STAGE_LOOKS), arms(cycles)
    figure, (left, right) = new_figure(1, 2, width=9.5, height=4, width_ratios=(1.5, 1))
    plots.stack(left, cycles[cycles["arm"] == LOOP].groupby("cycle")[seconds].mean(), STAGE_LOOKS, horizontal=False)
    cycle_axis(left, int(cycles["cycle"].max()))
    left.set(title=f"Seconds per cycle, {LOOP}", ylabel="seconds")
    whole = cycles.groupby("arm")[seconds].sum().loc[order].reset_index(drop=True)
    plots.stack(right, 100 * whole.div(whole.sum(axis=1).replace(0, np.nan), axis=0).fillna(0), STAGE_LOOKS)
    plots.name_rows(right, order)
    right.set(title="Share of the wall time", xlabel="%", xlim=(0, 100))
    plots.legend_below(figure)
    return figure


def cycle_axis(ax: Axes, last: int) -> None:
    ax.set(xlabel="cycle", xlim=(0.5, last + 0.5))
    plots.whole_numbers(ax.xaxis)


def _to_beat(ax: Axes, alone: Independent | None, *names: str) -> None:
    """What as many independent samples of the untuned model give, as thin lines; of several the last is dotted."""
    if alone is None:
        return
    for name, dash in zip(names, ("--", ":"), strict=False):
        what = "" if len(names) == 1 else f"{name}, "
        ax.axhline(100 * alone.values[name], color="black", linestyle=dash, linewidth=0.9, zorder=1.5,
                   label=f"{what}{alone.label}")  # fmt: skip


def _with_paper(cycles: pd.DataFrame, same_data: bool) -> tuple[Figure, Axes, Axes]:
    """Axes for our cycles and for the paper's: the same, or the paper's beside ours."""
    if same_data:
        figure, ax = new_figure(width=9, height=4.2)
        cycle_axis(ax, 22)
        return figure, ax, ax
    figure, (ax, beside) = new_figure(1, 2, width=9, height=4.2, sharey=True, width_ratios=(3, 1.25))
    cycle_axis(ax, cycles["cycle"].max())
    cycle_axis(beside, 22)
    beside.set_xticks(CYCLES["cycle"])
    beside.set_title(PAPER_LABEL, color=PAPER)
    return figure, ax, beside
