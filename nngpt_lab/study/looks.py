"""How arms are drawn: an arm keeps its colour, marker and dashes in all figures; none differs by colour alone."""

from __future__ import annotations

import pandas as pd

from nngpt_lab.statistics.style import COLOURS, MUTED, OURS
from nngpt_lab.study.samples import LOOP, arms

STYLES = (
    {"color": OURS, "marker": "o", "linestyle": "-", "linewidth": 2.2, "zorder": 4},
    {"color": COLOURS[1], "marker": "s", "linestyle": "--"},
    {"color": COLOURS[2], "marker": "^", "linestyle": "-."},
    {"color": COLOURS[4], "marker": "D", "linestyle": ":"},
    {"color": COLOURS[5], "marker": "v", "linestyle": (0, (5, 1, 1, 1, 1, 1))},
    {"color": "black", "marker": "x", "linestyle": (0, (1, 3))},
)
LOOKS = {
    LOOP: STYLES[0],
    "no tuning": STYLES[1],
    "shuffled scores": STYLES[2],
    "shuffled pairs": STYLES[2],
    "no novelty filter": STYLES[3],
    "random pairs": STYLES[4],
    "random search": STYLES[5],
    "random generator": STYLES[5],
}
UNKNOWN = {"color": MUTED, "marker": "P", "linestyle": "-"}


def arm_looks(table: pd.DataFrame, numbered: bool = False) -> dict[str, dict]:
    """The styles of a table's arms (column arm), in order of appearance, the loop first. An arm that :data:`LOOKS` does
    not know is grey, or, where ``numbered``, has the style of its place."""
    looks = {}
    for number, arm in enumerate(arms(table)):
        other = STYLES[number % len(STYLES)] if numbered else UNKNOWN
        looks[arm] = {"markersize": 4.5, "linewidth": 1.4, **LOOKS.get(arm, other)}
    return looks
