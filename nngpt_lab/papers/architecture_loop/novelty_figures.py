"""Figures of ``notebooks/ablations/novelty``: each takes a table of ``novelty_audit.py``, returns a Figure.

Shares come as fractions and are drawn in per cent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from nngpt_lab.statistics.style import COLOURS, MUTED, OTHER, OURS, PAPER, new_figure, reference_line

COLOUR_OF = {"raw_tokens": COLOURS[1], "nn_dup": COLOURS[3], "ast_nameless": COLOURS[0], "structure": COLOURS[2]}
MARKER_OF = {"raw_tokens": "s", "nn_dup": "o", "ast_nameless": "D", "structure": "^"}
MAP = "Blues"


def change_similarities(table: pd.DataFrame) -> Figure:
    """Jaccard index of a source with each changed version (rows) under each setting (columns); duplicates are framed.

    ``table``: kind, change, form, shingle, threshold, jaccard, duplicate; one row per change and setting, in the order
    to draw. A gap separates the kinds, which are named at the right.
    """
    setting = [_setting(*row) for row in table[["form", "shingle", "threshold"]].itertuples(index=False)]
    table = table.assign(setting=setting)
    changes, settings = list(dict.fromkeys(table["change"])), list(dict.fromkeys(setting))
    values = table.pivot(index="change", columns="setting", values="jaccard").loc[changes, settings].to_numpy(float)
    framed = table.pivot(index="change", columns="setting", values="duplicate").loc[changes, settings].to_numpy(bool)
    figure, ax = new_figure(width=9, height=1.6 + 0.34 * len(changes))
    _heat_map(ax, values, "{:.2f}", low=0.5, high=1.0)
    for row, column in np.argwhere(framed):
        _frame(ax, row, column)
    kinds = table.drop_duplicates("change")["kind"].reset_index(drop=True)
    for kind, rows in kinds.groupby(kinds, sort=False).groups.items():
        ax.axhline(rows[0] - 0.5, color="white", linewidth=4)
        ax.annotate(
            kind.replace(" ", "\n"), (1.01, np.mean(rows)), xycoords=("axes fraction", "data"), va="center", fontsize=9
        )
    ax.set_xticks(range(len(settings)), settings)
    ax.set_yticks(range(len(changes)), changes)
    ax.set_title("Jaccard index of a network with a changed version of itself (framed: a duplicate)")
    return figure


def share_kept_surface(table: pd.DataFrame, marks: Mapping[str, tuple[int, float]]) -> Figure:
    """Share kept of one corpus, per cent, over threshold and shingle length, one map per form.

    ``table``: form, shingle, threshold, share_kept. ``marks``: the setting to frame, (shingle, threshold) by form.
    """
    forms = list(dict.fromkeys(table["form"]))
    figure, axes = new_figure(1, len(forms), width=2.9 * len(forms), height=3.4, squeeze=False)
    for ax, form in zip(axes[0], forms, strict=True):
        surface = 100 * table[table["form"] == form].pivot(index="shingle", columns="threshold", values="share_kept")
        _heat_map(ax, surface.to_numpy(), "{:.0f}", low=0, high=100)
        ax.set_xticks(range(surface.shape[1]), [f"{threshold:.2f}" for threshold in surface.columns])
        ax.set_yticks(range(surface.shape[0]), surface.index)
        ax.set_title(form)
        if form in marks and marks[form][0] in surface.index and marks[form][1] in surface.columns:
            _frame(ax, surface.index.get_loc(marks[form][0]), surface.columns.get_loc(marks[form][1]))
    axes[0, 0].set_ylabel("tokens in a shingle")
    figure.supxlabel("Jaccard index from which a source is a duplicate", fontsize=10)
    return figure


def share_kept_lines(table: pd.DataFrame, shingles: Mapping[str, int], threshold: float = 0.9) -> Figure:
    """Share kept over the threshold, one line per form at the given shingle length, one panel per corpus.

    ``table``: corpus, form, shingle, threshold, share_kept. The dashed line marks ``threshold``.
    """
    corpora = list(dict.fromkeys(table["corpus"]))
    figure, axes = new_figure(1, len(corpora), width=4.6 * len(corpora), height=3.8, sharey=True, squeeze=False)
    for ax, corpus in zip(axes[0], corpora, strict=True):
        for form, shingle in shingles.items():
            line = table[(table["corpus"] == corpus) & (table["form"] == form) & (table["shingle"] == shingle)]
            ax.plot(line["threshold"], 100 * line["share_kept"], color=COLOUR_OF[form], marker=MARKER_OF[form],
                    markersize=5, label=f"{form}, {_runs(shingle)}")  # fmt: skip
        reference_line(ax, threshold, "paper B", MUTED, vertical=True)
        ax.set(title=corpus, xlabel="Jaccard index from which a source is a duplicate", ylim=(0, 109))
        ax.set_xticks(sorted(set(table["threshold"])))
    axes[0, 0].set_ylabel("sources kept, %")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(shingles), frameon=False)
    return figure


def kept_by_family(table: pd.DataFrame, settings: Sequence[str]) -> Figure:
    """Share of each family that each setting keeps (columns family, sources, and one fraction per setting)."""
    figure, ax = new_figure(width=9, height=5)
    rows = np.arange(len(table))
    height = 0.8 / len(settings)
    for i, (setting, colour) in enumerate(zip(settings, COLOURS, strict=False)):
        place = rows + (i - (len(settings) - 1) / 2) * height
        bars = ax.barh(place, 100 * table[setting], height=0.9 * height, color=colour, label=setting)
        ax.bar_label(bars, fmt="%.0f", padding=2, fontsize=7)
    labels = [f"{family} ({n:,})" for family, n in table[["family", "sources"]].itertuples(index=False)]
    ax.set_yticks(rows, labels)
    ax.invert_yaxis()
    ax.set(xlabel="sources kept, %", title="How much of each family is new, by setting", xlim=(0, 105))
    figure.legend(loc="outside lower center", ncols=len(settings), frameon=False)
    return figure


def estimate_against_exact(pairs: pd.DataFrame, threshold: float, permutations: int) -> Figure:
    """Error of the MinHash estimate over the exact Jaccard index of pairs, with two standard errors.

    ``pairs``: jaccard, estimate. Pairs that the estimate alone puts on the wrong side of ``threshold`` are red.
    """
    figure, ax = new_figure(width=8, height=4)
    wrong = (pairs["jaccard"] >= threshold) != (pairs["estimate"] >= threshold)
    for part, colour, label in ((pairs[~wrong], OURS, "right side"), (pairs[wrong], PAPER, "wrong side")):
        ax.scatter(part["jaccard"], part["estimate"] - part["jaccard"], s=6, alpha=0.4, linewidths=0, color=colour,
                   rasterized=True, label=f"estimate on the {label} of the threshold ({len(part):,})")  # fmt: skip
    x = np.linspace(pairs["jaccard"].min() if len(pairs) else 0.8, 1, 200)
    error = 2 * np.sqrt(x * (1 - x) / permutations)
    for sign in (-1, 1):
        ax.plot(x, sign * error, color="black", linewidth=1, label="two standard errors" if sign > 0 else None)
    reference_line(ax, threshold, "threshold", MUTED, vertical=True)
    ax.set(xlabel="exact Jaccard index", ylabel="estimate minus exact", title="How far MinHash is off")
    legend = figure.legend(loc="outside lower center", ncols=2, frameon=False, markerscale=2)
    for handle in legend.legend_handles:
        handle.set_alpha(1)
    return figure


def retrieval(table: pd.DataFrame, threshold: float) -> Figure:
    """Share of the pairs that LSH retrieves over their Jaccard index: counted (a dot a seed), and in theory (lines).

    ``table``: lsh_threshold, seed, jaccard, share, expected.
    """
    figure, ax = new_figure(width=8, height=4)
    for (lsh_threshold, part), colour in zip(table.groupby("lsh_threshold"), (OTHER, OURS, PAPER), strict=False):
        theory = part.drop_duplicates("jaccard").sort_values("jaccard")
        ax.plot(
            theory["jaccard"], 100 * theory["expected"], color=colour, label=f"tuned to {lsh_threshold:.2f}: theory"
        )
        ax.scatter(part["jaccard"], 100 * part["share"], color=colour, s=16, alpha=0.6, linewidths=0, zorder=3,
                   label=f"tuned to {lsh_threshold:.2f}: counted")  # fmt: skip
    reference_line(ax, threshold, "a duplicate from here on", MUTED, vertical=True)
    ax.set(xlabel="exact Jaccard index of a pair", ylabel="pairs retrieved, %", ylim=(-2, 112),
           title="What LSH finds at all (what it does not find counts as new)")  # fmt: skip
    if len(table):
        ax.legend(loc="lower right", frameon=True, facecolor="white", edgecolor="none")
    return figure


def _runs(length: int) -> str:
    return "a bag" if length == 1 else f"runs of {length}"


def _setting(form: str, shingle: int, threshold: float) -> str:
    return f"{form}\n{_runs(shingle)}\nfrom {threshold:.2f}"


def _heat_map(ax: Axes, values: np.ndarray, text: str, low: float, high: float) -> None:
    """A map with a number in every cell, light on dark where it has to be; values are cut to [low, high] for colour."""
    ax.imshow(values, cmap=MAP, vmin=low, vmax=high, aspect="auto")
    ax.grid(False)
    for (row, column), value in np.ndenumerate(values):
        dark = (value - low) / (high - low) > 0.6
        ax.text(
            column, row, text.format(value), ha="center", va="center", fontsize=9, color="white" if dark else "black"
        )


def _frame(ax: Axes, row: int, column: int) -> None:
    ax.add_patch(Rectangle((column - 0.47, row - 0.44), 0.94, 0.88, fill=False, edgecolor=PAPER, linewidth=2, zorder=4))
