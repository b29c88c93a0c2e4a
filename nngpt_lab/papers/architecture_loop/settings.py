"""What the loop owes to its settings: one of them changed at a time, everything else as in the design."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from nngpt_lab.candidates.novelty import PAPER_B
from nngpt_lab.ground.names import named
from nngpt_lab.papers.architecture_loop import loop
from nngpt_lab.papers.architecture_loop.base_model import sample_base_model, thresholds
from nngpt_lab.papers.architecture_loop.design import ARMS, Design
from nngpt_lab.papers.architecture_loop.lab import known_index, open_lab
from nngpt_lab.records.results import Results
from nngpt_lab.study.design import resized
from nngpt_lab.study.lab import opened

# What is changed, and to what; the design's own value is the run that the others are compared with.
AXES: dict[str, tuple[str, tuple]] = {
    "temperature": ("How freely the model writes.", (0.7, 0.9, 1.3)),
    "threshold": ("Which quantile of the base model's accuracies selects.", (0.5, 0.9)),
    "rank": ("Rank of the adapter; alpha stays equal to it, as published.", (4, 128)),
    "epochs": ("Passes over the pairs in each cycle.", (1, 5)),
    "novelty": ("From which Jaccard index on a network is known; paper: paper B's form and threshold.", (0.9, "paper")),
}


def changed(design: Design, axis: str, value: Any) -> Design:
    """The design with another value of one of :data:`AXES`."""
    if axis == "rank":
        return replace(design, recipe=replace(design.recipe, rank=value, alpha=value))
    if axis == "novelty":
        known = PAPER_B if value == "paper" else replace(design.novelty, jaccard_threshold=value)
        return replace(design, novelty=known)
    own = resized(design, **{{"epochs": "lora_epochs"}.get(axis, axis): value})
    return replace(own, name=design.name)


def variations(design: Design, axes: Sequence[str]) -> Iterator[tuple[str, Design]]:
    """The design itself, called ``loop``, then every variation, called by its setting and value."""
    yield "loop", design
    for axis in axes:
        for value in named("setting", axis, AXES)[1]:
            if (other := changed(design, axis, value)) != design:
                yield f"{axis} {value}", other


def run_settings(
    results: Results, design: Design, axes: Sequence[str], seeds: Sequence[int], workers: int = 2
) -> tuple[pd.DataFrame, tuple[float, ...]]:
    """Run the loop under every variation with every seed, or read back what was run: the candidates, with the
    variation's name as ``arm``, and the design's thresholds.

    Thresholds are those of the design's own base model for all, so that an accuracy means the same everywhere; only the
    variations of ``threshold`` take another quantile of it.
    """
    named_designs, tables = list(variations(design, axes)), []
    with opened(results, "loops", open_lab, design, workers) as lab:
        base = sample_base_model(lab)
        for name, other in lab.bar(named_designs, "settings"):
            limits = thresholds(replace(design, thresholds=other.thresholds), base)
            fixed = replace(other, thresholds=limits, base_samples=0)
            same = fixed.novelty == design.novelty
            known = lab.known if same else known_index(design.corpus, lab.corpus, fixed.novelty)
            for seed in seeds:
                rows = loop.run(replace(lab, design=fixed, known=known), ARMS["loop"], seed, limits[0])
                tables.append(rows.assign(arm=name))
        return pd.concat(tables, ignore_index=True), thresholds(design, base)
