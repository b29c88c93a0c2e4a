"""Made-up runs of the loop, for the tests of its tables and figures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from nngpt_lab.sandbox.status import Status

FAILURES = [Status.NO_CODE.value, Status.SYNTAX.value, Status.CONTRACT.value, Status.SHAPE.value, Status.CRASH.value]
ALL_ARMS = ("loop", "no tuning", "shuffled scores", "no novelty filter", "random pairs", "random search")


def row(**values) -> dict:
    """A sample that failed, unless ``values`` say otherwise; a score makes it a trained one."""
    one = {"arm": "loop", "seed": 0, "cycle": 1, "position": 0, "code_hash": "a", "tokens": 10, "status": "syntax"}
    one |= {"score": np.nan, "parameters": pd.NA, "nearest": None, "jaccard": np.nan, "passed": False, "novel": None}
    one |= {"accepted": False, "sampling": 4.0, "evaluation": 3.0, "selection": 0.5, "tuning": 2.5}
    if "score" in values:
        one |= {"status": "ok", "parameters": 1000, "nearest": "net", "jaccard": 0.6}
    return one | values


def frame(rows: Sequence[dict]) -> pd.DataFrame:
    """Rows as ``architecture_design.run`` returns them."""
    types = {"novel": "boolean", "parameters": "Int64", "score": float, "jaccard": float}
    return pd.DataFrame(rows).astype(types)


def runs(
    arms: Sequence[str] = ALL_ARMS, seeds: int = 3, cycles: int = 8, samples: int = 12, dead: Sequence[int] = ()
) -> pd.DataFrame:
    """Runs in which the loop gets better and the controls do not; in the cycles of ``dead`` nothing is valid."""
    rng, rows = np.random.default_rng(0), []
    for arm in arms:
        for seed in range(seeds):
            for cycle in range(1, cycles + 1):
                rise = 0.3 * cycle / cycles if arm == "loop" else 0.0
                for position in range(samples):
                    place = {"arm": arm, "seed": seed, "cycle": cycle, "position": position}
                    place |= {"code_hash": f"{arm} {seed} {cycle} {position}", "tokens": int(rng.integers(50, 500))}
                    if cycle in dead or rng.random() > 0.5 + rise:
                        rows.append(row(**place, status=str(rng.choice(FAILURES))))
                        continue
                    score = float(np.clip(rng.normal(0.4 + rise, 0.1), 0, 1))
                    novel = bool(rng.random() < 0.7) if score >= 0.5 else None
                    rows.append(row(**place, score=score, passed=score >= 0.5, novel=novel, accepted=bool(novel)))
    return frame(rows)
