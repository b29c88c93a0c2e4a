"""Paper A's archive: the functions that a run starts with, and those that join it.

The model's references and training pairs are drawn from it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from nngpt_lab.candidates import pool
from nngpt_lab.candidates.outcome import Candidate, Kind
from nngpt_lab.candidates.screening import Screened
from nngpt_lab.corpora.code import code_hash, tidy
from nngpt_lab.ground.errors import LabError
from nngpt_lab.ground.seeds import generator
from nngpt_lab.papers.augmentation_search.design import KEY, Design
from nngpt_lab.papers.augmentation_search.lab import Lab

FEWEST = 4  # scored functions without which there is nothing to refer to


def start_archive(lab: Lab, seed: int) -> pd.DataFrame:
    """The corpus functions that a run starts with, scored by the design's protocol with the run's seed: name, code,
    code_hash, operations, recorded (the authors' accuracy), status, score (null unless ok)."""
    scored = lab.corpus.dropna(subset="score")
    drawn = stratified(scored, lab.design.start, generator(KEY, "start", seed))
    candidates = [Candidate("", code, Kind.AUGMENTATION) for code in drawn["code"]]
    outcomes = pool.evaluate(candidates, lab.proxy, lab.ledger, seeds=(seed,), pool=lab.pool, progress=lab.progress)
    scores = np.array([outcome.score for outcome in outcomes], float)  # None becomes nan
    drawn = drawn.rename(columns={"score": "recorded"})
    return drawn.assign(status=[outcome.status.value for outcome in outcomes], score=scores)


def stratified(functions: pd.DataFrame, count: int, rng: np.random.Generator) -> pd.DataFrame:
    """``count`` functions (all if there are no more), one from each of as many slices of the recorded scores."""
    ordered = functions.sort_values(["score", "name"], ignore_index=True)
    edges = np.linspace(0, len(ordered), min(count, len(ordered)) + 1).astype(int)
    return ordered.iloc[rng.integers(edges[:-1], edges[1:])].reset_index(drop=True)


def threshold(design: Design, archive: pd.DataFrame) -> float:
    """The accuracy from which a function joins the archive; a LabError if too few of the start's functions can be
    scored to go on with."""
    scores = archive["score"].dropna()
    if len(scores) < FEWEST:
        raise LabError(
            f"only {len(scores)} of {len(archive)} corpus functions can be scored with protocol {design.protocol!r}",
            "raise the design's start, or look at their statuses in the ledger",
        )
    return float(np.quantile(scores, design.threshold)) if design.relative else design.threshold


def joining(rows: pd.DataFrame, screened: Sequence[Screened]) -> pd.DataFrame:
    """The accepted rows as rows of the archive."""
    accepted = rows[rows["accepted"]]
    codes = [tidy(screened[position].candidate.code) for position in accepted["position"]]
    named = accepted[["status", "score"]].assign(name=accepted["code_hash"].str[:10], code=codes)
    return named.assign(code_hash=[code_hash(code) for code in codes], operations=accepted["operations"])
