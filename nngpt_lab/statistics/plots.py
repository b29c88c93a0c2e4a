"""What the lab's figures are made of: points with intervals, lines with bands, stacks, heat maps, named rows, legends.

Every mark stands for a row of a table. The interval of column ``name`` is in ``name_low`` and ``name_high`` unless
``ends`` names two other columns; a missing interval is not drawn. ``scale=100`` draws fractions in per cent.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from nngpt_lab.statistics.style import MUTED, PAPER, new_figure

Ends = tuple[str, str]
"""The columns of an interval's low and high end."""


def panels(titles: Collection[str], width: float, height: float, **grid) -> tuple[Figure, list[Axes]]:
    """Panels side by side, one a title, with a common vertical axis; one without a title if there are none. ``width``:
    of the whole figure, inches."""
    grid = {"sharey": True, "squeeze": False, **grid}
    figure, axes = new_figure(1, max(len(titles), 1), width=width, height=height, **grid)
    for ax, title in zip(axes[0], titles, strict=False):
        ax.set_title(title, fontsize=10)
    return figure, list(axes[0])


def points(
    ax: Axes,
    at: Sequence[float] | pd.Series,
    table: pd.DataFrame,
    name: str,
    *,
    ends: Ends | None = None,
    scale: float = 1,
    horizontal: bool = False,
    looks: Sequence[dict[str, Any]] | None = None,
    **style,
) -> None:
    """Column ``name`` as points at the places ``at``, with intervals. ``horizontal``: the places are heights, and
    values run to the right. ``looks``: the style of each point, on top of ``style`` (that of ``Axes.errorbar``)."""
    if looks is not None:
        for i, (place, look) in enumerate(zip(at, looks, strict=True)):
            points(ax, [place], table[i : i + 1], name, ends=ends, scale=scale, horizontal=horizontal, **style | look)
        return
    value, low, high = _interval(table, name, ends, scale)
    lengths = np.clip([value - low, high - value], 0, None)
    style = {"marker": "o", "linestyle": "none", "markersize": 4, "linewidth": 1.2, "capsize": 2, **style}
    if horizontal:
        ax.errorbar(value, np.asarray(at), xerr=lengths, **style)
    else:
        ax.errorbar(np.asarray(at), value, yerr=lengths, **style)


def line(
    ax: Axes,
    table: pd.DataFrame,
    x: str,
    name: str,
    *,
    ends: Ends | None = None,
    scale: float = 1,
    band: bool = False,
    **style,
) -> None:
    """Column ``name`` over column ``x``, with its interval as a band; a gap where there is no value."""
    table = table.sort_values(x, kind="stable")
    (drawn,) = ax.plot(table[x], scale * table[name].astype(float), **style)
    if band:
        value, low, high = _interval(table, name, ends, scale)
        step = "post" if style.get("drawstyle") == "steps-post" else None
        ax.fill_between(table[x], low, high, where=np.isfinite(value), step=step, color=drawn.get_color(), alpha=0.16,
                        linewidth=0)  # fmt: skip


def lines(
    ax: Axes,
    table: pd.DataFrame,
    by: str,
    x: str,
    name: str,
    looks: Mapping[str, Mapping],
    bands: Collection[str] = (),
    **shared,
) -> None:
    """A :func:`line` for each group of column ``by`` that ``looks`` has a style for; ``bands``: groups with a band."""
    for group, look in looks.items():
        line(ax, table[table[by] == group], x, name, band=group in bands, **{"label": group, **look, **shared})


def stack(ax: Axes, table: pd.DataFrame, looks: Mapping[str, Mapping], horizontal: bool = True, **style) -> None:
    """A bar for each row of ``table``, at its index, made of the columns that ``looks`` has keywords of ``Axes.bar``
    for (label, facecolor, hatch), in its order."""
    draw = ax.barh if horizontal else ax.bar
    base = np.zeros(len(table))
    for name, look in looks.items():
        values = table[name].to_numpy(float)
        draw(table.index, values, 0.72, base, **{"edgecolor": "white", "linewidth": 0.5, **look, **style})
        base += values
    ax.grid(False, axis="y" if horizontal else "x")


def heat_map(
    ax: Axes, table: pd.DataFrame, form: str, low: float, high: float, framed: Collection[tuple[int, int]] = ()
) -> None:
    """A number in every cell of ``table``, on a colour from ``low`` to ``high``; cells (row, column) may be framed."""
    sns.heatmap(table, ax=ax, annot=True, fmt=form, cmap="Blues", vmin=low, vmax=high, cbar=False, linewidths=1)
    ax.set(xlabel="", ylabel="")
    ax.tick_params(rotation=0)
    for row, column in framed:
        ax.add_patch(Rectangle((column + 0.04, row + 0.04), 0.92, 0.92, fill=False, edgecolor="black", linewidth=2,
                               zorder=4))  # fmt: skip


def reference_line(
    ax: Axes, value: float, text: str, colour: str = PAPER, vertical: bool = False, place: str = "above"
) -> None:
    """A dashed line at ``value`` with its label: ``above`` or ``below`` it inside the axes, or to the right of them.

    To the right the label stands a little higher (``right``) or lower (``right below``) than the line, so that two
    lines that lie close do not print over each other. A vertical line has its label at its top.
    """
    halo = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.5}
    look = {"textcoords": "offset points", "fontsize": 8, "color": colour, "bbox": halo}
    if vertical:
        ax.axvline(value, color=colour, linestyle="--", linewidth=1, zorder=1)
        ax.annotate(text, (value, 1), xycoords=("data", "axes fraction"), xytext=(3, -3), va="top", ha="left", **look)
        return
    ax.axhline(value, color=colour, linestyle="--", linewidth=1, zorder=1)
    offset, side, va = {
        "above": ((-2, 2), "right", "bottom"),
        "below": ((-2, -2), "right", "top"),
        "right": ((4, -4), "left", "bottom"),
        "right below": ((4, 4), "left", "top"),
    }[place]
    ax.annotate(text, (1, value), xycoords=("axes fraction", "data"), xytext=offset, va=va, ha=side, **look)


def name_rows(ax: Axes, names: Sequence[str], above: float = 0.5, **text) -> None:
    """The rows 0, 1, ... from the top down, with their names; ``above``: room over the first, for a line's label."""
    ax.set_yticks(range(len(names)), names, **text)
    ax.set_ylim(max(len(names), 1) - 0.5, -above)


def rows_of(values: Iterable[str], names: Sequence[str]) -> np.ndarray:
    """The row of each value: its number in ``names``."""
    return np.array([names.index(value) for value in values], float)


def side_by_side(count: int, step: float) -> np.ndarray:
    """Shifts, around 0, of marks that stand beside each other at one place."""
    return step * (np.arange(count) - (count - 1) / 2)


def whole_numbers(axis: Axis) -> None:
    axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, nbins=12))


def legend_below(figure: Figure, ax: Axes | None = None, ncols: int | None = None, **style) -> Legend:
    """The legend of ``ax`` (of the first axes) below all axes."""
    handles, labels = (ax or figure.axes[0]).get_legend_handles_labels()
    ncols = ncols or (4 if sum(map(len, labels[:4])) < 80 else 2)
    return figure.legend(handles, labels, loc="outside lower center", ncols=ncols, frameon=False, **style)


def legend_right(figure: Figure, upwards: bool = False) -> None:
    """The legend of the first axes to the right of all axes; ``upwards``: the first entry at the bottom."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, reverse=upwards)


def no_data(ax: Axes, text: str) -> None:
    """Says in the middle of the axes why they are empty."""
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", color=MUTED)


def _interval(table: pd.DataFrame, name: str, ends: Ends | None, scale: float) -> list[np.ndarray]:
    """Values, low and high ends."""
    return [scale * table[column].to_numpy(float) for column in (name, *(ends or (f"{name}_low", f"{name}_high")))]
