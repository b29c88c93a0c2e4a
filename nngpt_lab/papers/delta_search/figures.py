"""Figures of notebook 04: each takes a table of the room, returns a Figure."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from nngpt_lab.papers.delta_search.applier_audit import APPLIERS
from nngpt_lab.papers.delta_search.tables import AGAIN, UNTESTED
from nngpt_lab.papers.delta_search.targets import POOLS, SCHEMES, SHORT
from nngpt_lab.statistics.plots import legend_below, name_rows, panels, points, reference_line, side_by_side, stack
from nngpt_lab.statistics.style import COLOURS, MUTED, OURS, PAPER

WANTED = {"apply": "its lines say where", "refuse": "to be refused", "by number": "only the line number says where"}
LOOKS = {
    "right": {"facecolor": OURS, "label": "right place"},
    "refused": {"facecolor": MUTED, "label": "refused"},
    "wrong": {"facecolor": PAPER, "label": "wrong place"},
}


def audit(table: pd.DataFrame) -> Figure:
    """What each applier did with the damaged edits, per cent, by what was wanted (``applier_audit.summarise``)."""
    every = table[table["corruption"] == "all"]
    shown = [wanted for wanted in WANTED if wanted in set(every["wanted"])]
    figure, axes = panels([WANTED[wanted] for wanted in shown], width=10, height=2.6)
    names = [name for name in APPLIERS if name in set(every["applier"])]
    for ax, wanted in zip(axes, shown, strict=False):
        part = every[every["wanted"] == wanted].set_index("applier").loc[names].reset_index()
        part[list(LOOKS)] = 100 * part[list(LOOKS)].div(part["n"], axis=0)
        stack(ax, part, LOOKS)
        ax.set(xlabel=f"of {every.loc[every['wanted'] == wanted, 'n'].iloc[0]} edits, %", xlim=(0, 100))
    name_rows(axes[0], names)
    legend_below(figure)
    return figure


def target_lengths(table: pd.DataFrame) -> Figure:
    """Median lines of a training target with its interval, by pool and drawing scheme, a panel an epoch
    (``targets.summarise``); the scale is logarithmic."""
    epochs = list(dict.fromkeys(table["epoch"]))
    figure, axes = panels([f"epoch {epoch}" for epoch in epochs], width=9, height=3.2)
    for ax, epoch in zip(axes, epochs, strict=False):
        for scheme, shift, colour in zip(SCHEMES, side_by_side(len(SCHEMES), 0.22), COLOURS, strict=False):
            part = table[(table["epoch"] == epoch) & (table["scheme"] == scheme)]
            part = part.set_index("pool").loc[list(POOLS)].reset_index()
            points(ax, np.arange(len(POOLS)) + shift, part, "median", horizontal=True, color=colour, label=scheme)
        reference_line(ax, SHORT, "the paper's longest mean", PAPER, vertical=True)
        ax.set(xscale="log", xlabel="lines of the diff (median)")
    name_rows(axes[0], list(POOLS))
    legend_below(figure)
    return figure


def live(table: pd.DataFrame) -> Figure:
    """Validity and child minus parent of every format and arm (``tables.arm_table``). Grey: less than 20 % valid, which
    says nothing about the format; the grey band is the interval of a re-run."""
    figure, (left, right) = panels(["valid", "child minus its own parent"], width=10, height=1.2 + 0.24 * len(table))
    looks = [{"color": MUTED if state == UNTESTED else OURS} for state in table["state"]]
    places = np.arange(len(table), dtype=float)
    points(left, places - 0.15, table, "first_valid", horizontal=True, looks=looks, markerfacecolor="white")
    points(left, places + 0.15, table, "valid", horizontal=True, looks=looks)
    left.plot([], [], "o", color=OURS, markerfacecolor="white", label="first attempt")
    left.plot([], [], "o", color=OURS, label="after retries with the error")
    tested = table["state"] != UNTESTED
    shown = table.assign(**{name: table[name].where(tested) for name in ("difference", *ENDS)})
    points(right, places, shown, "difference", horizontal=True, color=OURS)
    again = table[table["arm"] == AGAIN].iloc[0]
    right.axvspan(again["difference_low"], again["difference_high"], color=MUTED, alpha=0.2, linewidth=0)
    right.axvline(0, color="black", linewidth=0.8)
    left.set(xlabel="of the samples, %", xlim=(-2, 102))
    right.set(xlabel="points of accuracy")
    rows = zip(table["form"], table["arm"], strict=True)
    names = [f"{arm}, {form.replace('_', ' ')}" if form else arm for form, arm in rows]
    name_rows(left, names, fontsize=8)
    legend_below(figure)
    return figure


ENDS = ("difference_low", "difference_high")
