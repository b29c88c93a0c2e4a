"""Figures of the pretraining walkthrough; each takes a table of ``walkthroughs/nano_coder_tables.py``."""

from __future__ import annotations

import html
from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure

from nngpt_lab.statistics.plots import legend_right, stack
from nngpt_lab.statistics.style import COLOURS, MUTED, OTHER, OURS, PAPER, new_figure

SOUND_COLOURS = {"train": OURS, "best": COLOURS[1], "reserved": OTHER}
REASON_COLOURS = ("#d9d9d9", "#bdbdbd", "#969696", "#737373", "#525252", "#353535", "#1c1c1c")
TOKEN_COLOURS = {"number": "#ffd27f", "layer": "#a8d5a2"}
ALTERNATING = ("#dbe9f6", "#f0f0f0")
FRAME = "white-space:pre-wrap;line-height:1.45;font-size:12px;font-family:monospace"
SMOOTH = 50  # steps


def tokens(pieces: Sequence[str], kinds: Sequence[str]) -> str:
    """A text as HTML, each token in a box: numbers orange, layers green, others in two alternating colours.

    A line break that begins a token is shown as a sign, so that it can be seen which line it belongs to.
    """
    spans = []
    for place, (piece, kind) in enumerate(zip(pieces, kinds, strict=True)):
        colour = TOKEN_COLOURS.get(kind, ALTERNATING[place % 2])
        text = html.escape(piece).replace("\n", "↵\n")
        style = f"background:{colour};color:#111;border-radius:2px;box-shadow:inset -1px 0 0 #fff"
        spans.append(f'<span style="{style}">{text}</span>')
    return f'<pre style="{FRAME}">{"".join(spans)}</pre>'


def split(parts: pd.DataFrame) -> Figure:
    """Stacked bars of the split: programs by family and part; reasons for leaving one out in greys."""
    rows = parts[parts["family"] != "all"].set_index("family").drop(columns="programs").iloc[::-1]
    greys = iter(REASON_COLOURS)
    looks = {name: {"label": name.replace("_", " "), "facecolor": SOUND_COLOURS.get(name) or next(greys, "black")}
             for name in rows.columns}  # fmt: skip
    figure, ax = new_figure(width=9, height=1 + 0.36 * len(rows))
    stack(ax, rows, looks)
    ax.set(xlabel="distinct programs", title="What becomes of LEMUR's networks")
    legend_right(figure)
    return figure


def lengths(table: pd.DataFrame) -> Figure:
    """Histogram of tokens per network, families stacked (``nano_coder_tables.lengths``)."""
    figure, ax = new_figure(width=8, height=3.2)
    order = list(table["family"].value_counts().index)
    clipped = table["tokens"].clip(upper=table["tokens"].quantile(0.99))
    groups = [clipped[table["family"] == family] for family in order]
    if groups:
        ax.hist(groups, bins=40, stacked=True, label=order, color=COLOURS[: len(order)])
        legend_right(figure)
    ax.set(xlabel="tokens per network (the longest hundredth at the right edge)", ylabel="networks")
    ax.set_title("How long a network is")
    return figure


def curve(table: pd.DataFrame, reserved: float | None = None) -> Figure:
    """Loss and learning rate by step (``pretraining.pretrain``); ``reserved``: loss on held-out networks at the end."""
    figure, (ax, below) = new_figure(2, 1, width=8, height=4.6, sharex=True, height_ratios=(3, 1))
    smooth = table["loss"].ewm(span=min(SMOOTH, max(2, len(table) // 4))).mean()
    ax.plot(table["step"], table["loss"], color=OURS, alpha=0.25, linewidth=0.8, label="each batch")
    ax.plot(table["step"], smooth, color=OURS, linewidth=2, label="moving average")
    if reserved is not None:
        ax.plot(table["step"].max(), reserved, "D", color=PAPER, label="reserved networks, at the end", clip_on=False)
    for step in table.loc[table["epoch"].diff() > 0, "step"]:
        for panel in (ax, below):
            panel.axvline(step, color=MUTED, linewidth=0.8, linestyle=":")
    ax.set(ylabel="nats per token", title="Pretraining (dotted: a new epoch)", ylim=(0, None))
    ax.legend()
    below.plot(table["step"], table["lr"], color=MUTED)
    below.set(xlabel="step", ylabel="learning rate", ylim=(0, None))
    return figure
