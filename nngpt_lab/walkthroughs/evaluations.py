"""What came of evaluating candidates: statuses, the reasons for failures, and agreement with recorded accuracies.

A frame of evaluations has one row per candidate: ``name``, ``group`` (family or kind of input), ``status``, ``score``,
``message``, ``parameters``, ``seconds``; where it is known, ``recorded`` (the accuracy that the authors published).
"""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from nngpt_lab.candidates import pool
from nngpt_lab.candidates.ledger import Ledger
from nngpt_lab.candidates.outcome import Candidate
from nngpt_lab.candidates.proxy import Proxy
from nngpt_lab.ground.seeds import generator
from nngpt_lab.sandbox.status import Status
from nngpt_lab.statistics import intervals
from nngpt_lab.statistics.plots import legend_right, reference_line, stack
from nngpt_lab.statistics.style import COLOURS, MUTED, new_figure

LEAST = 10  # candidates below which a group's correlation is not reported
FIRST_SENTENCE = 110  # characters of a message that tell one reason from another
VARIABLE_PARTS = (
    (re.compile(r"0x[0-9a-f]+|\b[0-9a-f]{8,}\b"), "…"),
    (re.compile(r"\d[\d,.]*(?:e[+-]?\d+)?"), "#"),
    (re.compile(r"#(?:\s*[,x×]\s*#)+"), "#"),
)


def stratified(table: pd.DataFrame, group: str, size: int, rng: np.random.Generator) -> pd.DataFrame:
    """``size`` rows (all if there are fewer), as equal as possible a number from each group; sorted by name."""
    shuffled = table.sort_values("name").iloc[rng.permutation(len(table))]
    turn = shuffled.groupby(group).cumcount()  # first one of each group, then a second of each, ...
    chosen = shuffled.assign(turn=turn).sort_values(["turn", group]).head(size)
    return chosen.drop(columns="turn").sort_values("name", ignore_index=True)


def evaluated(codes: pd.Series, proxy: Proxy, ledger: Ledger, workers: int | None, seed: int = 0) -> pd.DataFrame:
    """What came of each code: status, score, parameters, message, seconds; with the index of ``codes``. What the ledger
    holds is not computed again."""
    candidates = [Candidate("", code, proxy.protocol.kind) for code in codes]
    outcomes = pool.evaluate(candidates, proxy, ledger, seeds=(seed,), workers=workers)
    columns = ["status", "score", "parameters", "message", "seconds"]
    rows = [(o.status.value, o.score, o.parameters, o.message, o.seconds.get("total", np.nan)) for o in outcomes]
    return pd.DataFrame(rows, columns=columns, index=codes.index).astype({"score": float, "parameters": "Int64"})


def status_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Candidates by group (rows) and status (columns, in the order in which they can happen), and the share ok."""
    counts = pd.crosstab(frame["group"], frame["status"])
    table = counts[[status.value for status in Status if status.value in counts]].copy()
    table.loc["all"] = table.sum()
    table.insert(0, "candidates", table.sum(axis=1))
    table["ok_share"] = table.get("ok", 0) / table["candidates"]
    return table.reset_index()


def reason(message: str) -> str:
    """A message without what varies from case to case (numbers, sizes, hashes), to count by."""
    text = message.split("\n")[0]
    for pattern, sign in VARIABLE_PARTS:
        text = pattern.sub(sign, text)
    return text if len(text) <= FIRST_SENTENCE else text[: FIRST_SENTENCE - 1] + "…"


def failure_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Every failure by status and reason: how many, and the first example by name."""
    failed = frame[frame["status"] != Status.OK.value].sort_values("name")
    keyed = failed.assign(reason=failed["message"].map(reason))
    keyed["status"] = pd.Categorical(keyed["status"], [status.value for status in Status])
    groups = keyed.groupby(["status", "reason"], observed=True)
    table = groups.agg(candidates=("name", "size"), example=("name", "first")).reset_index()
    table = table.sort_values(["status", "candidates", "reason"], ascending=[True, False, True], ignore_index=True)
    return table.astype({"status": str})


def novelty_table(frame: pd.DataFrame) -> pd.DataFrame:
    """By group: candidates that were checked, near-duplicates of an earlier one, and the share that is new."""
    duplicate = frame.dropna(subset="novelty").set_index("group")["novelty"] == "duplicate"
    counts = duplicate.groupby("group").agg(candidates="size", duplicates="sum")
    counts.loc["all"] = counts.sum()
    counts["new_share"] = 1 - counts["duplicates"] / counts["candidates"]
    return counts.reset_index()


def agreement(frame: pd.DataFrame, seed: int, resamples: int) -> pd.DataFrame:
    """Spearman's correlation of our score with the recorded accuracy, over all and within each group: group, n,
    spearman with its bootstrap interval (low, high). Groups with fewer than ``LEAST`` are left out."""
    known = frame.dropna(subset=["score", "recorded"])
    rows = []
    for place, (group, part) in enumerate([("all", known), *known.groupby("group")]):
        if len(part) >= LEAST:
            pairs, rng = part[["score", "recorded"]].to_numpy(float), generator("agreement", seed, place)
            estimate = intervals.bootstrap(pairs, intervals.spearman, rng, resamples)
            rows.append((group, estimate.n, estimate.value, estimate.low, estimate.high))
    return pd.DataFrame(rows, columns=["group", "n", "spearman", "low", "high"])


def recorded_against_ours(frame: pd.DataFrame, ours: str) -> Figure:
    """Scatter of our one-epoch score (``ours`` names its data) over the recorded one, coloured by group."""
    known = frame.dropna(subset=["score", "recorded"])
    figure, ax = new_figure(width=7, height=4.6)
    for colour, (group, part) in zip(COLOURS, known.groupby("group"), strict=False):
        ax.scatter(part["recorded"], part["score"], s=16, alpha=0.75, color=colour, label=f"{group} ({len(part)})")
    ax.axhline(0.1, color=MUTED, linewidth=1, linestyle="--", zorder=1)
    reference_line(ax, 0.1, "chance", MUTED, vertical=True)
    ax.set(xlabel="recorded accuracy after epoch 1, CIFAR-10 (one run of the authors')", xlim=(0, None))
    ax.set(ylabel=f"our accuracy after one epoch, {ours}", ylim=(0, None))
    if len(known):
        legend_right(figure)
    return figure


def statuses(table: pd.DataFrame) -> Figure:
    """Stacked bars of a :func:`status_table`: how the candidates of each group ended, as shares."""
    shares = table[table["group"] != "all"].set_index("group").iloc[::-1]
    shares = shares.drop(columns="ok_share").div(shares["candidates"], axis=0).drop(columns="candidates")
    failures = iter([*COLOURS, "#444444", "#bbaa00"])
    looks = {name: {"label": name.replace("_", " "), "facecolor": "#d9d9d9" if name == "ok" else next(failures)}
             for name in shares.columns}  # fmt: skip
    figure, ax = new_figure(width=8, height=0.8 + 0.36 * len(shares))
    stack(ax, shares, looks)
    ax.set(xlabel="share of candidates", xlim=(0, 1))
    legend_right(figure)
    return figure
