"""Which of a cycle's networks become training pairs: first by their scores, then, at admission, by novelty.

As in paper B a network's novelty is judged after it was trained: against the corpus for every network that has a score,
and against what was accepted before for those that passed the threshold.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from nngpt_lab.candidates.novelty import NoveltyIndex
from nngpt_lab.candidates.screening import Screened


def choose(
    rows: pd.DataFrame,
    choice: str,
    threshold: float,
    rng: np.random.Generator,
    quota: int = 0,
    fallback: tuple[int, float] | None = None,
) -> pd.Series:
    """Which of a cycle's networks pass, before novelty (see :class:`Arm`).

    >>> rows = pd.DataFrame({"score": [0.1, 0.5, None, 0.6]})
    >>> choose(rows, "good", 0.5, np.random.default_rng(0)).tolist()
    [False, True, False, True]
    """
    scores = rows["score"].copy()
    trained = np.flatnonzero(scores.notna())
    if choice == "random":
        passed = np.zeros(len(rows), bool)
        passed[rng.permutation(trained)[:quota]] = True
        return pd.Series(passed, rows.index)
    if choice == "shuffled":
        scores.iloc[trained] = scores.iloc[rng.permutation(trained)].to_numpy()
    passed = scores >= threshold
    if fallback is not None and passed.sum() < fallback[0]:
        wanted, lowest = fallback
        best = scores[scores >= lowest].sort_values(ascending=False, kind="stable").index[:wanted]
        passed |= rows.index.isin(best)
    return passed


def admit(
    known: NoveltyIndex, accepted: NoveltyIndex, rows: pd.DataFrame, screened: Sequence[Screened], only_novel: bool
) -> pd.DataFrame:
    """Add the columns nearest, jaccard (in ``known``), novel and accepted; what is new is added to ``accepted``, in the
    order of positions, so that of two near copies in one cycle the first is new."""
    verdicts = []
    for row in rows.itertuples():
        code = screened[row.position].candidate.code
        match = known.query(code) if pd.notna(row.score) else None
        novel = None
        if row.passed and match:  # what passed has a score, so that it was looked up
            novel = not (match.duplicate or accepted.check_and_add(f"network {len(accepted)}", code).duplicate)
        verdicts.append(
            {
                "nearest": match.nearest if match else None,
                "jaccard": match.jaccard if match else np.nan,
                "novel": novel,
                "accepted": bool(row.passed and (novel or not only_novel)),
            }
        )
    table = pd.DataFrame(verdicts, index=rows.index).astype({"novel": "boolean"})
    return pd.concat([rows, table], axis=1)
