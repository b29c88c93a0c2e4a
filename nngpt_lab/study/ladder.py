"""The scale ladder: what a paper's method does with language models of several sizes, each beside a positive control.

The rungs are registered: they stand in the table before any of them is run. A rung is judged only if its positive
control holds, that enough of what the tuned model writes runs: of a model that cannot write what is asked for, its
accuracies say nothing about the method. Paper D says by its own rule what its rung is (``delta_search.tables.rung``);
paper C has a ladder of its own (``dataset_prediction.claims.code_signal``).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from nngpt_lab.llm import models
from nngpt_lab.llm.server_engine import Server
from nngpt_lab.sandbox.status import VALID
from nngpt_lab.statistics import intervals
from nngpt_lab.statistics.plots import panels, points, reference_line
from nngpt_lab.statistics.style import MUTED, OURS
from nngpt_lab.study.comparison import Mean, compare
from nngpt_lab.study.samples import LOOP

RUNGS = ("nano-coder", "SmolLM2-135M", "Qwen2.5-Coder-0.5B", "Qwen2.5-Coder-1.5B")
"""Below the paper's own model: a laptop's, a registry's, and what one GPU tunes in hours."""
CONTROL = 0.5  # the share of samples that must run, by the lower end of its interval
NOT_RUN, FAILED, JUDGED = "registered, not yet run", "control failed: says nothing", "control passed"
COLUMNS = ["model", "weights", "state", "rise", "rise_low", "rise_high", "n", "method", "valid", "valid_low",
           "valid_high"]  # fmt: skip


def scale_ladder(own: dict, coder: str, published: str) -> pd.DataFrame:
    """A row for each registered model, the paper's own (``published``) and the design's (``coder``), smallest first.
    That of ``coder``, whose runs these are, holds ``own``, as :func:`loop_rung` makes it.

    Returns :data:`COLUMNS`: rise is what the method changes, with the interval and n of :mod:`nngpt_lab.study.
    comparison`; valid is the positive control, with Wilson's interval. All are fractions.
    """
    rows = []
    for model in dict.fromkeys((*RUNGS, published, coder)):
        row = {"model": Path(model).name if "/" in model else model, "weights": _weights(model), "state": NOT_RUN}
        rows.append(row | (own if model == coder else {}))
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table.sort_values("weights", kind="stable", ignore_index=True)


def _weights(model: str) -> float:
    """How many weights a model has; nan for a server's that does not say."""
    found = models.find(model)
    return np.nan if isinstance(found, Server) and not found.weights else float(models.size(found)[0])


def loop_rung(samples: pd.DataFrame, step: str, last: int = 5) -> dict:
    """The rung of a loop: its mean accuracy in the ``last`` steps at the end minus that in the first; the control is
    the valid share of these last samples. Empty where nothing of the kind was run."""
    loop = samples[samples["arm"] == LOOP].assign(valid=samples["status"].isin(VALID))
    end = loop[step].max() if len(loop) else 0
    late, first = loop[loop[step].between(max(end - last + 1, 2), end)], loop[loop[step] == 1]
    if not len(late):
        return {}
    control = intervals.wilson(int(late["valid"].sum()), len(late))
    rise = compare(late, first, Mean("mean accuracy", lambda part: part["score"]))
    state = JUDGED if control.low > CONTROL else FAILED
    own = {"state": state, "n": rise.difference.n, "method": rise.method}
    return own | rise.difference.columns("rise") | control.columns("valid")


def scale_ladder_figure(
    ladder: pd.DataFrame,
    rise: str = "last steps minus first",
    valid: str = "of the last samples",
    least: float = CONTROL,
) -> Figure:
    """The rise and the positive control of each model by its number of weights; grey where the control failed, a cross
    where the model was not run. ``rise`` and ``valid`` name them, ``least`` is what the control must reach."""
    figure, (left, right) = panels(["what the method changes", "positive control"], width=9, height=3.6, sharey=False)
    for place, (_, row) in enumerate(ladder.iterrows()):
        colour = OURS if row["state"] == JUDGED else MUTED
        for ax, name in (left, "rise"), (right, "valid"):
            if row["state"] == NOT_RUN:
                ax.plot([row["weights"]], [0.03], "x", color=MUTED, transform=ax.get_xaxis_transform())
            else:
                points(ax, [row["weights"]], ladder[place : place + 1], name, scale=100, color=colour)
            style = {"rotation": 55, "fontsize": 7, "color": colour, "transform": ax.get_xaxis_transform()}
            ax.text(row["weights"], 0.07, row["model"], **style)
    reference_line(right, 100 * least, "must be over")
    left.axhline(0, color="black", linewidth=0.8)
    left.set(ylabel=f"{rise}, points")
    right.set(ylabel=f"valid, {valid}, %", ylim=(0, 100))
    for ax in (left, right):
        ax.set(xscale="log", xlabel="weights (log scale); x: not run", xlim=(1e6, 4e10))
    return figure
