"""Paper A's claims, from its published functions and scores, and from the replayed search."""

from __future__ import annotations

import numpy as np
import pandas as pd

from nngpt_lab.papers.augmentation_search import scores
from nngpt_lab.statistics.claims import Measured
from nngpt_lab.statistics.intervals import Estimate


def facts(corpus: pd.DataFrame) -> dict[str, float]:
    """What need only be counted of the brute-force functions, by the fact's id."""
    protocol = (corpus["lr"] == 0.01) & (corpus["batch"] == 64) & np.isclose(corpus["momentum"], 0.9)
    return {
        "A-functions": len(corpus),
        "A-one-to-three": 100 * corpus["n_operations"].between(1, 3).mean(),
        "A-fixed-tail": 100 * (corpus["has_tail"] & (corpus["resize"] == 64)).mean(),
        "A-operations": corpus["operations"].explode().nunique(),
        "A-protocol": 100 * protocol.mean(),
    }


def recorded(cues: pd.DataFrame, needed: pd.DataFrame, replayed: str) -> dict[str, Measured]:
    """What the published data say, by the claim's id; ``replayed``: what the replayed search found, as
    ``replay_tables.sentence`` says it."""
    draws = needed.set_index("target")["expected"]
    over = cues.set_index("against")
    targets, corpus = over.loc[scores.TARGETS], over.loc["corpus"]
    return {
        "A-semantic-cues": Measured(
            Estimate.of(targets, "difference"),
            "Tests the choice of operations, not measured accuracy: predicted from the corpus, by operations alone. "
            f"Over accepted corpus functions {corpus['difference']:+.1f} points, of which copying tuning targets gives "
            f"{corpus['difference'] - targets['difference']:+.1f}.",
        ),
        "A-600x": Measured(
            None,
            f"Yardstick: random search needs {draws['best of the corpus']:,.0f} draws on average for the very "
            f"best score, {draws['within one noise SD of the best']:.0f} to come within one noise SD of it, "
            f"{draws['within two noise SD of the best']:.0f} within two. {replayed}",
        ),
    }
