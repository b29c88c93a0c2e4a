"""Figures of ``notebooks/ablations/novelty``: each takes a table of ``novelty_audit.py``, returns a Figure.

Shares come as fractions and are drawn in per cent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from nngpt_lab.candidates.novelty import PAPER_B
from nngpt_lab.statistics.plots import heat_map, legend_below, lines, name_rows, panels, reference_line, side_by_side
from nngpt_lab.statistics.style import COLOURS, MUTED, OTHER, OURS, PAPER, new_figure

FORM_LOOKS = {
    "raw_tokens": {"color": COLOURS[1], "marker": "s"},
    "nn_dup": {"color": COLOURS[3], "marker": "o"},
    "ast_nameless": {"color": COLOURS[0], "marker": "D"},
    "structure": {"color": COLOURS[2], "marker": "^"},
}


def change_similarities(table: pd.DataFrame) -> Figure:
    """Jaccard index of a source with each changed version (rows) under each setting (columns); duplicates are framed.

    ``table``: kind, change, form, shingle, threshold, jaccard, duplicate; one row per change and setting, in the order
    to draw. A gap separates the kinds, which are named at the right.
    """
    setting = [f"{row.form}\n{_runs(row.shingle)}\nfrom {row.threshold:.2f}" for row in table.itertuples()]
    table = table.assign(setting=setting)
    cells = table.set_index(["change", "setting"])[["jaccard", "duplicate"]].unstack()
    changes, settings = list(dict.fromkeys(table["change"])), list(dict.fromkeys(setting))
    values, duplicate = (cells[name].loc[changes, settings] for name in ("jaccard", "duplicate"))
    figure, ax = new_figure(width=9, height=1.6 + 0.34 * len(changes))
    heat_map(ax, values, ".2f", low=0.5, high=1.0, framed=np.argwhere(duplicate.to_numpy(bool)))
    kinds = table.drop_duplicates("change")["kind"].reset_index(drop=True)
    for kind, rows in kinds.groupby(kinds, sort=False).groups.items():
        ax.axhline(rows[0], color="white", linewidth=4)
        ax.annotate(kind.replace(" ", "\n"), (1.01, np.mean(rows) + 0.5), xycoords=("axes fraction", "data"),
                    va="center", fontsize=9)  # fmt: skip
    ax.set_title("Jaccard index of a network with a changed version of itself (framed: a duplicate)")
    return figure


def share_kept_surface(table: pd.DataFrame, marks: Mapping[str, tuple[int, float]]) -> Figure:
    """Share kept of one corpus, per cent, over threshold and shingle length, one map per form (``sensitivity``).
    ``marks``: the setting to frame, (shingle, threshold) by form."""
    table = table.assign(share_kept=100 * table["share_kept"])
    return _setting_maps(table, "share_kept", ".0f", 100, marks, "a source")


def novelty_sensitivity(table: pd.DataFrame, marks: Mapping[str, tuple[int, float]]) -> Figure:
    """How many of the networks over the threshold count as novel (``memorisation.novelty_sensitivity``), a map per
    form; ``marks`` as above."""
    passed = int(table["passed"].max())
    figure = _setting_maps(table, "novel", "d", max(passed, 1), marks, "a network")
    figure.suptitle(f"Novel networks by setting, of {passed} over the accuracy threshold (framed: the run's setting)",
                    fontsize=12)  # fmt: skip
    return figure


def share_kept_lines(table: pd.DataFrame, shingles: Mapping[str, int]) -> Figure:
    """Share kept over the threshold (``sensitivity``), one line per form at the given shingle length, one panel per
    corpus."""
    looks = {form: {**FORM_LOOKS[form], "markersize": 5, "label": f"{form}, {_runs(shingle)}"}
             for form, shingle in shingles.items()}  # fmt: skip
    shown = table[table["shingle"] == table["form"].map(shingles)]
    corpora = list(dict.fromkeys(table["corpus"]))
    figure, axes = panels(corpora, width=4.6 * len(corpora), height=3.8)
    for ax, corpus in zip(axes, corpora, strict=True):
        lines(ax, shown[shown["corpus"] == corpus], "form", "threshold", "share_kept", looks, scale=100)
        reference_line(ax, PAPER_B.jaccard_threshold, "paper B", MUTED, vertical=True)
        ax.set(xlabel="Jaccard index from which a source is a duplicate", ylim=(0, 109))
        ax.set_xticks(sorted(set(table["threshold"])))
    axes[0].set_ylabel("sources kept, %")
    legend_below(figure, ncols=len(shingles))
    return figure


def kept_by_family(table: pd.DataFrame, settings: Sequence[str]) -> Figure:
    """Share of each family that each setting keeps (columns family, sources, and one fraction per setting)."""
    figure, ax = new_figure(width=9, height=5)
    height = 0.8 / len(settings)
    for setting, shift, colour in zip(settings, side_by_side(len(settings), height), COLOURS, strict=False):
        place = np.arange(len(table)) + shift
        bars = ax.barh(place, 100 * table[setting], height=0.9 * height, color=colour, label=setting)
        ax.bar_label(bars, fmt="%.0f", padding=2, fontsize=7)
    name_rows(ax, [f"{row.family} ({row.sources:,})" for row in table.itertuples()])
    ax.set(xlabel="sources kept, %", title="How much of each family is new, by setting", xlim=(0, 105))
    legend_below(figure, ncols=len(settings))
    return figure


def estimate_against_exact(pairs: pd.DataFrame, threshold: float, permutations: int) -> Figure:
    """Error of the MinHash estimate over the exact Jaccard index of pairs, with two standard errors. Pairs that the
    estimate alone puts on the wrong side of ``threshold`` are red."""
    figure, ax = new_figure(width=8, height=4)
    wrong = (pairs["jaccard"] >= threshold) != (pairs["estimate"] >= threshold)
    for part, colour, label in ((pairs[~wrong], OURS, "right side"), (pairs[wrong], PAPER, "wrong side")):
        ax.scatter(part["jaccard"], part["estimate"] - part["jaccard"], s=6, alpha=0.4, linewidths=0, color=colour,
                   rasterized=True, label=f"estimate on the {label} of the threshold ({len(part):,})")  # fmt: skip
    x = np.linspace(pairs["jaccard"].min() if len(pairs) else 0.8, 1, 200)
    error = 2 * np.sqrt(x * (1 - x) / permutations)
    ax.plot(x, -error, color="black", linewidth=1)
    ax.plot(x, error, color="black", linewidth=1, label="two standard errors")
    reference_line(ax, threshold, "threshold", MUTED, vertical=True)
    ax.set(xlabel="exact Jaccard index", ylabel="estimate minus exact", title="How far MinHash is off")
    for handle in legend_below(figure, ncols=2, markerscale=2).legend_handles:
        handle.set_alpha(1)
    return figure


def retrieval(table: pd.DataFrame, threshold: float) -> Figure:
    """Share of the pairs that LSH retrieves over their Jaccard index: counted (a dot a seed), and in theory (lines)."""
    figure, ax = new_figure(width=8, height=4)
    for (tuned, part), colour in zip(table.groupby("lsh_threshold"), (OTHER, OURS, PAPER), strict=False):
        theory = part.drop_duplicates("jaccard").sort_values("jaccard")
        ax.plot(theory["jaccard"], 100 * theory["expected"], color=colour, label=f"tuned to {tuned:.2f}: theory")
        ax.scatter(part["jaccard"], 100 * part["share"], color=colour, s=16, alpha=0.6, linewidths=0, zorder=3,
                   label=f"tuned to {tuned:.2f}: counted")  # fmt: skip
    reference_line(ax, threshold, "a duplicate from here on", MUTED, vertical=True)
    ax.set(xlabel="exact Jaccard index of a pair", ylabel="pairs retrieved, %", ylim=(-2, 112),
           title="What LSH finds at all (what it does not find counts as new)")  # fmt: skip
    if len(table):
        ax.legend(loc="lower right", frameon=True, facecolor="white", edgecolor="none")
    return figure


def _runs(length: int) -> str:
    return "a bag" if length == 1 else f"runs of {length}"


def _setting_maps(
    table: pd.DataFrame, name: str, form: str, high: float, marks: Mapping[str, tuple[int, float]], what: str
) -> Figure:
    """Column ``name`` over threshold and shingle length, a map per form; ``marks``: the setting to frame by form."""
    forms = list(dict.fromkeys(table["form"]))
    heights = table.groupby("form")["shingle"].nunique().max()
    size = {"width": 2.7 * len(forms) + 0.6, "height": 1.9 + 0.45 * heights}
    figure, axes = panels(forms, sharey=False, **size)
    for ax, title in zip(axes, forms, strict=True):
        cells = table[table["form"] == title].pivot(index="shingle", columns="threshold", values=name)
        shingle, threshold = marks.get(title, (None, None))
        framed = np.argwhere(np.outer(cells.index == shingle, cells.columns == threshold))
        heat_map(ax, cells, form, low=0, high=high, framed=framed)
        ax.set_xticks(np.arange(len(cells.columns)) + 0.5, [f"{column:.2f}" for column in cells.columns])
    axes[0].set_ylabel("tokens in a shingle")
    figure.supxlabel(f"Jaccard index from which {what} is a duplicate", fontsize=10)
    return figure
