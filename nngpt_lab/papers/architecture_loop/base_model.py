"""The untuned model's own networks: where a design's thresholds are quantiles, they are quantiles of their accuracies.

base = sample_base_model(lab)                # samples and trains, minutes on a CPU; once, before the first run
limits = thresholds(lab.design, base)        # only computes
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np
import pandas as pd

from nngpt_lab.ground.errors import LabError
from nngpt_lab.ground.hashing import sha256_json
from nngpt_lab.ground.seeds import SCHEME, derive
from nngpt_lab.llm.prompts import identity
from nngpt_lab.papers.architecture_loop.design import KEY, Design
from nngpt_lab.papers.architecture_loop.lab import Lab
from nngpt_lab.papers.architecture_loop.pairs import messages
from nngpt_lab.study.proposals import score, write

FEWEST = 4  # trained networks below which a quantile means nothing


def sample_base_model(lab: Lab) -> pd.DataFrame:
    """``Design.base_samples`` networks of the untuned model, written and trained or read back from the ledger: a row
    each, as :func:`score` gives; none where thresholds are accuracies."""
    design, count = lab.design, lab.design.base_samples
    if not count:
        return pd.DataFrame()
    asked = [messages(design, "base model", i) for i in range(count)]
    seeds = [derive(KEY, "sampling", "base model", i) for i in range(count)]
    key = [
        lab.coder.identity,
        identity(design.prompt),
        design.fields,
        vars(design.decoding),
        design.batch,
        count,
        SCHEME,
    ]
    name = f"{sha256_json(key)[:10]} base model"

    def counted():
        with contextlib.closing(write(lab, name, asked, seeds, lambda: lab.coder)) as written:
            yield from lab.bar(written, "samples of the base model, for the thresholds", count)

    return score(lab, counted(), seed=0)[1]


def thresholds(design: Design, base: pd.DataFrame) -> tuple[float, ...]:
    """The accuracies of ``Design.thresholds``: themselves, or quantiles of the accuracies of ``base``; a LabError if
    too few networks of the base model can be trained for a quantile to mean anything."""
    if not design.base_samples:
        return design.thresholds
    scores = base["score"].dropna()
    if len(scores) < FEWEST:
        raise LabError(
            f"only {len(scores)} of {design.base_samples} samples of the base model can be trained",
            "raise Design.base_samples, or use thresholds that are accuracies",
        )
    return tuple(float(np.quantile(scores, quantile)) for quantile in design.thresholds)


def threshold_labels(design: Design, limits: Sequence[float]) -> list[str]:
    """What each threshold is, for a legend."""
    if not design.base_samples:
        return [f"{100 * value:.0f} %" for value in limits]
    quantiles = zip(limits, design.thresholds, strict=True)
    return [f"{100 * value:.1f} % ({100 * quantile:.0f} % quantile of the base model)" for value, quantile in quantiles]
