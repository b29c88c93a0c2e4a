"""More figures of paper B's loop: distributions, novelty, failures, likeness to the corpus, time.

As in ``figures.py``: tables in, Figures out, fractions drawn in per cent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from nngpt_lab.papers.architecture_loop.figures import HOLLOW, PAPER_LABEL, cycle_axis, legend_below, look, say
from nngpt_lab.papers.architecture_loop.lemur_overview import CYCLES
from nngpt_lab.papers.architecture_loop.novelty_figures import COLOUR_OF, MARKER_OF
from nngpt_lab.papers.architecture_loop.tables import LOOP, arms
from nngpt_lab.statistics.style import COLOURS, MUTED, OURS, PAPER, error_bars, new_figure, reference_line
from nngpt_lab.study.run_state import STAGES

STATUSES = {
    "ok": ("trained", "#dce9f3", ""),
    "non_finite": ("loss not finite", COLOURS[9], ""),
    "no_code": ("no code", "#4d4d4d", ""),
    "syntax": ("does not parse", COLOURS[3], ""),
    "contract": ("breaks the contract", COLOURS[1], "//"),
    "duplicate": ("duplicate", COLOURS[6], ".."),
    "parameters": ("too many parameters", COLOURS[4], "\\\\"),
    "shape": ("shapes do not fit", COLOURS[2], "++"),
    "out_of_memory": ("out of memory", COLOURS[5], "xx"),
    "timeout": ("too slow", COLOURS[8], ""),
    "forbidden": ("forbidden", "#000000", ""),
    "crash": ("crash", COLOURS[7], "--"),
}
"""Label, colour and hatch of each status, in the order of the stack."""
STAGE_LOOKS = {"sampling": (COLOURS[0], ""), "evaluation": (COLOURS[1], "//"), "selection": ("#4d4d4d", ""),
               "tuning": (COLOURS[9], "..")}  # fmt: skip


def ridgelines(candidates: pd.DataFrame, threshold: float | None = None, arm: str = LOOP) -> Figure:
    """Distribution of one arm's accuracies, a ridge a cycle, the first at the top; over all seeds.

    Ridges are Gaussian kernel densities, reflected at 0 and 1 so that none lies outside, with one bandwidth for all
    cycles and the same area for each; the tick under a ridge is a network, the thick one the median. A cycle without a
    trained network is an empty line.
    """
    rows = candidates[candidates["arm"] == arm]
    scores = {cycle: part["score"].dropna().to_numpy() for cycle, part in rows.groupby("cycle")}
    figure, ax = new_figure(width=9, height=1.6 + 0.3 * max(len(scores), 3))
    x = np.linspace(0, 1, 400)
    width = _bandwidth(list(scores.values()))
    ridges = {cycle: _density(values, x, width) for cycle, values in scores.items()}
    tallest = max((ridge.max() for ridge in ridges.values()), default=0) or 1
    shades = sns.color_palette("crest", max(len(scores), 2))
    for place, (cycle, values) in enumerate(scores.items()):
        top = place - 1.9 * ridges[cycle] / tallest
        if len(values):
            ax.fill_between(100 * x, place, top, color=shades[place], alpha=0.85, linewidth=0, zorder=place + 2)
            ax.plot(100 * x, top, color="white", linewidth=1, zorder=place + 2)
            ax.vlines(100 * values, place, place + 0.14, color="black", linewidth=0.6, zorder=100)
            ax.vlines(100 * np.median(values), place, place + 0.26, color="black", linewidth=2.6, zorder=100)
        ax.annotate(f"n = {len(values)}", (1.01, place), xycoords=("axes fraction", "data"), fontsize=8, va="center")
    if threshold is not None:
        reference_line(ax, 100 * threshold, "threshold", MUTED, vertical=True)
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


def novel(cycles: pd.DataFrame) -> Figure:
    """Novel networks per cycle (of 100 samples, beside the paper's) and in all, per arm; faint lines are single seeds.

    ``cycles``: arm, seed, cycle, sampled, novel, cumulative_novel (``cycle_table``).
    """
    figure, (left, right) = new_figure(1, 2, width=9.5, height=4.2)
    cycles = cycles.assign(rate=100 * cycles["novel"] / cycles["sampled"])
    for arm in arms(cycles):
        part, style = cycles[cycles["arm"] == arm], look(arm)
        for ax, name in ((left, "rate"), (right, "cumulative_novel")):
            ax.plot(part.groupby("cycle")[name].mean(), label=arm, **style)
            if ax is right and part["seed"].nunique() > 1:
                for _, run in part.groupby("seed"):
                    ax.plot(run["cycle"], run[name], color=style["color"], linewidth=0.7, alpha=0.4)
    rate = 100 * CYCLES["novel"] / CYCLES["generated"]
    left.plot(CYCLES["cycle"], rate, label=PAPER_LABEL, **HOLLOW)
    cycle_axis(left, max(22, cycles["cycle"].max()))
    cycle_axis(right, cycles["cycle"].max())
    left.set(title="Novel per cycle", ylabel="novel networks per 100 samples", ylim=(0, None))
    right.set(title="Novel so far", ylabel="novel networks", ylim=(0, 1.05 * max(cycles["cumulative_novel"].max(), 1)))
    legend_below(figure, left)
    return figure


def failures(table: pd.DataFrame, arm: str = LOOP) -> Figure:
    """How one arm's samples ended, per cycle, as stacked areas (``failure_table``)."""
    wide = 100 * table[table["arm"] == arm].pivot(index="cycle", columns="status", values="share").fillna(0)
    found = [status for status in STATUSES if status in wide and wide[status].any()]
    figure, ax = new_figure(width=9, height=4.2)
    base = np.zeros(len(wide))
    for status in found:
        label, colour, hatch = STATUSES[status]
        top = base + wide[status].to_numpy()
        style = {"facecolor": colour, "edgecolor": "white", "hatch": hatch, "linewidth": 0.6, "label": label}
        if len(wide) > 1:
            ax.fill_between(wide.index, base, top, **style)
        else:
            ax.bar(wide.index, top - base, 0.6, bottom=base, **style)
        base = top
    cycle_axis(ax, int(wide.index.max()))
    if len(wide) > 1:
        ax.set_xlim(wide.index.min(), wide.index.max())
    ax.set(ylabel="samples, %", ylim=(0, 100), title="How the samples ended")
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside right center", frameon=False)  # as they are stacked
    return figure


def novelty_sensitivity(table: pd.DataFrame, marks: Mapping[str, tuple[int, float]] | None = None) -> Figure:
    """How many of the networks over the threshold count as novel, a map per form; ``marks`` frames settings.

    ``table``: form, shingle, threshold, passed, novel (``candidates.memorisation.novelty_sensitivity``); ``marks``:
    (shingle, threshold) by form.
    """
    forms, passed = list(dict.fromkeys(table["form"])), int(table["passed"].max())
    heights = table["shingle"].groupby(table["form"]).nunique().max()
    figure, axes = new_figure(1, len(forms), width=2.6 * len(forms) + 0.6, height=1.9 + 0.45 * heights, squeeze=False)
    for ax, form in zip(axes[0], forms, strict=True):
        counts = table[table["form"] == form].pivot(index="shingle", columns="threshold", values="novel")
        sns.heatmap(counts, ax=ax, annot=True, fmt="d", cmap="Blues", vmin=0, vmax=max(passed, 1), cbar=False,
                    linewidths=1)  # fmt: skip
        ax.set(title=form, xlabel="", ylabel="")
        ax.set_xticks(np.arange(counts.shape[1]) + 0.5, [f"{threshold:.2f}" for threshold in counts.columns])
        ax.tick_params(axis="y", rotation=0)
        shingle, threshold = (marks or {}).get(form, (None, None))
        if shingle in counts.index and threshold in counts.columns:
            corner = counts.columns.get_loc(threshold) + 0.04, counts.index.get_loc(shingle) + 0.04
            ax.add_patch(Rectangle(corner, 0.92, 0.92, fill=False, edgecolor=PAPER, linewidth=2, zorder=4))
    axes[0, 0].set_ylabel("tokens in a shingle")
    figure.supxlabel("Jaccard index from which a network is a duplicate", fontsize=10)
    figure.suptitle(f"Novel networks by setting, of {passed} over the accuracy threshold (framed: the run's setting)",
                    fontsize=12)  # fmt: skip
    return figure


def neighbours(table: pd.DataFrame, arm: str = LOOP, threshold: tuple[str, float] = ("nn_dup", 0.90)) -> Figure:
    """Likeness of an arm's accepted networks to their nearest in the corpus, and how many are copies, per cycle.

    ``table``: as ``memorisation_table`` returns. ``threshold``: form and Jaccard index from which the run's filter
    sees a duplicate.
    """
    part = table[table["arm"] == arm]
    figure, (left, right) = new_figure(1, 2, width=9.5, height=4.2, gridspec_kw={"width_ratios": (1.7, 1)})
    for form, rows in part.groupby("form", sort=False):
        colour, marker = COLOUR_OF.get(form, MUTED), MARKER_OF.get(form, "P")
        left.plot(rows["cycle"], rows["median"], color=colour, marker=marker, markersize=4.5, label=form)
        left.fill_between(rows["cycle"], rows["lower_quartile"], rows["upper_quartile"], color=colour, alpha=0.13,
                          linewidth=0)  # fmt: skip
    reference_line(left, threshold[1], f"a duplicate in {threshold[0]}", MUTED)
    copies = part.drop_duplicates("cycle")
    for name, label, marker, shift in (("verbatim", "verbatim", "o", -0.1), ("renamed", "but for names", "s", 0.1)):
        error_bars(right, copies["cycle"] + shift, 100 * copies[name], 100 * copies[f"{name}_low"],
                   100 * copies[f"{name}_high"], color=OURS if name == "verbatim" else COLOURS[1], fmt=marker,
                   label=label)  # fmt: skip
    last = int(table["cycle"].max()) if len(table) else 1
    for ax in (left, right):
        cycle_axis(ax, last)
    left.set(title="Nearest network of the corpus (median, quartiles)", ylabel="Jaccard index", ylim=(0, 1.02))
    right.set(title="Copies of the corpus", ylabel="accepted networks, %", ylim=(-2, 102))
    if len(part):
        right.legend(loc="upper right")
        legend_below(figure, left)
    else:
        say(left, "no network was accepted")
    return figure


def stages(cycles: pd.DataFrame, arm: str = LOOP) -> Figure:
    """Wall-clock time by stage: an arm's seconds per cycle (mean over seeds), and the share of each arm's whole time.

    ``cycles``: arm, seed, cycle and ``<stage>_seconds`` (``cycle_table``).
    """
    names = [f"{stage}_seconds" for stage in STAGES]
    figure, (left, right) = new_figure(1, 2, width=9.5, height=4, gridspec_kw={"width_ratios": (1.5, 1)})
    per_cycle = cycles[cycles["arm"] == arm].groupby("cycle")[names].mean()
    _stack(left, per_cycle, horizontal=False)
    cycle_axis(left, int(cycles["cycle"].max()))
    left.set(title=f"Seconds per cycle, {arm}", ylabel="seconds")
    order = arms(cycles)
    whole = cycles.groupby("arm")[names].sum().loc[order]
    _stack(right, 100 * whole.div(whole.sum(axis=1).replace(0, np.nan), axis=0).fillna(0), horizontal=True)
    right.set_yticks(range(len(order)), order)
    right.set(title="Share of the wall time", xlabel="%", xlim=(0, 100), ylim=(len(order) - 0.4, -0.6))
    legend_below(figure, left)
    return figure


def _stack(ax: Axes, table: pd.DataFrame, horizontal: bool) -> None:
    places = np.arange(len(table)) if horizontal else table.index.to_numpy()
    base = np.zeros(len(table))
    for stage in STAGES:
        colour, hatch = STAGE_LOOKS[stage]
        values = table[f"{stage}_seconds"].to_numpy(float)
        style = {"color": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0.4, "label": stage}
        if horizontal:
            ax.barh(places, values, 0.7, left=base, **style)
        else:
            ax.bar(places, values, 0.8, bottom=base, **style)
        base += values
    ax.grid(False, axis="y" if horizontal else "x")
