"""Paper A's claims, from its published functions and scores, and from the replayed search."""

from __future__ import annotations

import numpy as np
import pandas as pd

from nngpt_lab.papers.augmentation_search import scores
from nngpt_lab.statistics import intervals
from nngpt_lab.statistics.claims import Measured
from nngpt_lab.statistics.intervals import Estimate


def recorded(
    corpus: pd.DataFrame, groups: dict[str, pd.DataFrame], needed: pd.DataFrame, replayed: str
) -> dict[str, Measured]:
    """What the published data say, by the claim's id.

    Args:
        corpus: the brute-force functions.
        groups: as ``scores.comparable`` returns them.
        needed: as ``scores.candidates_needed`` returns it.
        replayed: what the replayed search found, as ``replay_tables.sentence`` says it.
    """

    def share(condition: pd.Series) -> Estimate:
        return intervals.exact(100 * condition.mean(), len(condition))

    scored = scores.scored(corpus)
    protocol = (corpus["lr"] == 0.01) & (corpus["batch"] == 64) & np.isclose(corpus["momentum"], 0.9)
    draws = needed.set_index("target")["expected"]
    return {
        "A-functions": Measured(
            intervals.exact(len(corpus), len(corpus)),
            f"{len(scored):,} have a score, {corpus['code_hash'].nunique():,} are distinct; "
            f"{len(corpus) - len(scored)} failures are stored as 0.0.",
        ),
        "A-one-to-three": Measured(share(corpus["n_operations"].between(1, 3))),
        "A-fixed-tail": Measured(share(corpus["has_tail"] & (corpus["resize"] == 64))),
        "A-operations": Measured(intervals.exact(corpus["operations"].explode().nunique(), len(corpus))),
        "A-protocol": Measured(share(protocol)),
        "A-semantic-cues": _semantic_cues(corpus, groups),
        "A-600x": Measured(
            None,
            f"Yardstick: random search needs {draws['best of the corpus']:,.0f} draws on average for the very "
            f"best score, {draws['within one noise SD of the best']:.0f} to come within one noise SD of it, "
            f"{draws['within two noise SD of the best']:.0f} within two. {replayed}",
        ),
    }


def _semantic_cues(corpus: pd.DataFrame, groups: dict[str, pd.DataFrame]) -> Measured:
    """Do the LLM's functions use operations that score better than those of accepted corpus functions?"""
    predicted = scores.predicted(corpus, groups)
    gain, over_best = (
        intervals.difference_of_means(predicted["llm"], predicted[other]).scaled(100)
        for other in ("corpus", "best_tenth")
    )
    return Measured(
        gain,
        f"{len(groups['llm'])} functions against {len(groups['corpus']):,}. Tests the choice of operations, not "
        "measured accuracy: predicted from the corpus. Against the corpus' best tenth: "
        f"{over_best.value:+.1f} points.",
    )
