"""What the loop owes to its settings: one of them changed at a time, everything else as in the design."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from nngpt_lab.candidates.ledger import Ledger
from nngpt_lab.candidates.novelty import PAPER_B
from nngpt_lab.ground.errors import UsageError
from nngpt_lab.ground.names import did_you_mean
from nngpt_lab.papers.architecture_loop import loop
from nngpt_lab.papers.architecture_loop.base_model import sample_base_model, thresholds
from nngpt_lab.papers.architecture_loop.design import ARMS, Design
from nngpt_lab.papers.architecture_loop.lab import known_index, open_lab
from nngpt_lab.records.results import Results


def temperature(design: Design, value: float) -> Design:
    """How freely the model writes."""
    return replace(design, decoding=replace(design.decoding, temperature=value))


def threshold(design: Design, value: float) -> Design:
    """Which quantile of the base model's accuracies selects."""
    return replace(design, thresholds=(value, *design.thresholds[1:]))


def rank(design: Design, value: int) -> Design:
    """Rank of the adapter; alpha stays equal to it, as published."""
    return replace(design, recipe=replace(design.recipe, rank=value, alpha=value))


def epochs(design: Design, value: int) -> Design:
    """Passes over the pairs in each cycle."""
    return replace(design, recipe=replace(design.recipe, epochs=value))


def novelty(design: Design, value: float) -> Design:
    """From which Jaccard index on a network counts as known; "paper" is paper B's form and threshold."""
    if value == "paper":
        return replace(design, novelty=PAPER_B)
    return replace(design, novelty=replace(design.novelty, jaccard_threshold=value))


# What is changed, and to what; the design's own value is the run that the others are compared with.
AXES: dict[str, tuple[Callable[[Design, Any], Design], tuple]] = {
    "temperature": (temperature, (0.7, 0.9, 1.3)),
    "threshold": (threshold, (0.5, 0.9)),
    "rank": (rank, (4, 128)),
    "epochs": (epochs, (1, 5)),
    "novelty": (novelty, (0.9, "paper")),
}


def variations(design: Design, axes: Sequence[str]) -> Iterator[tuple[str, Design]]:
    """The design itself, called ``loop``, then every variation, called by its setting and value."""
    yield "loop", design
    for axis in axes:
        if axis not in AXES:
            raise UsageError(f"there is no setting {axis!r}", f"{did_you_mean(axis, AXES)}use {', '.join(AXES)}")
        change, values = AXES[axis]
        for value in values:
            if (changed := change(design, value)) != design:
                yield f"{axis} {value}", changed


def run_settings(
    results: Results, design: Design, axes: Sequence[str], seeds: Sequence[int], workers: int = 2
) -> tuple[pd.DataFrame, tuple[float, ...]]:
    """Run the loop under every variation with every seed, or read back what was run.

    Thresholds are those of the design's own base model for all, so that an accuracy means the same everywhere; only the
    variations of ``threshold`` take another quantile of it.

    Returns:
        The candidates, with the variation's name as ``arm``, and the design's thresholds.
    """
    named_designs, tables = list(variations(design, axes)), []
    with (
        Ledger(results.ledger_file) as ledger,
        open_lab(design, ledger, results.folder / "loops", device=results.profile.device, workers=workers) as lab,
    ):
        base = sample_base_model(lab)
        for name, changed in lab.bar(named_designs, "settings"):
            limits = thresholds(replace(design, thresholds=changed.thresholds), base)
            fixed = replace(changed, thresholds=limits, base_samples=0)
            same = fixed.novelty == design.novelty
            known = lab.known if same else known_index(design.corpus, lab.corpus, fixed.novelty)
            for seed in seeds:
                rows = loop.run(replace(lab, design=fixed, known=known), ARMS["loop"], seed, limits[0])
                tables.append(rows.assign(arm=name))
        return pd.concat(tables, ignore_index=True), thresholds(design, base)
