"""Made-up runs of paper A's live loop, for the tests of its tables and figures."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pandas as pd

from nngpt_lab.corpora.augmentations import OPERATIONS

ALL_ARMS = ("loop", "no tuning", "shuffled pairs", "random generator")


def row(**values) -> dict:
    """A sample that failed, unless ``values`` say otherwise; a score makes it a trained one."""
    one = {"arm": "loop", "seed": 0, "epoch": 1, "position": 0, "code_hash": "a", "tokens": 10, "status": "syntax"}
    one |= {"score": np.nan, "valid": False, "accepted": False, "copy": False, "known_sequence": False}
    one |= {"operations": None, "parameters": None}
    one |= {"sampling": 4.0, "evaluation": 3.0, "selection": 0.5, "tuning": 2.5}
    if "score" in values:
        one |= {"status": "ok", "valid": True, "operations": ("RandomInvert",), "parameters": '[{"p": 0.5}]'}
    return one | values


def runs(arms: Sequence[str] = ALL_ARMS, seeds: int = 3, epochs: int = 6, samples: int = 10) -> pd.DataFrame:
    """Runs in which the loop gets better and turns to flips with growing p; the controls stay as they are."""
    rng, rows = np.random.default_rng(0), []
    for arm in arms:
        for seed in range(seeds):
            for epoch in range(1, epochs + 1):
                rise = epoch / epochs if arm == "loop" else 0.0
                for position in range(samples):
                    place = {"arm": arm, "seed": seed, "epoch": epoch, "position": position}
                    if position == samples - 1:
                        rows.append(row(**place))
                        continue
                    name = "RandomHorizontalFlip" if rng.random() < rise else str(rng.choice(OPERATIONS))
                    parameters = json.dumps([{"p": round(0.4 * rng.random() + 0.5 * rise, 2)}])
                    score = float(np.clip(rng.normal(0.5 + 0.3 * rise, 0.1), 0, 1))
                    made = {"operations": (name,), "parameters": parameters, "accepted": score > 0.5}
                    rows.append(row(**place, score=score, code_hash=f"{len(rows)}", **made))
    return pd.DataFrame(rows)


def start(seeds: int = 3, size: int = 20) -> pd.DataFrame:
    """Functions to start with, whose scores follow the recorded ones."""
    rng, rows = np.random.default_rng(1), []
    for seed in range(seeds):
        for k in range(size):
            recorded = 0.2 + 0.4 * k / size
            one = {"seed": seed, "code_hash": f"start {seed} {k}", "operations": (OPERATIONS[k % 19],)}
            score = recorded + 0.2 + 0.02 * rng.normal() if k else np.nan
            rows.append(one | {"recorded": recorded, "status": "ok" if k else "shape", "score": score})
    return pd.DataFrame(rows)


def policies(seeds: int = 3, epochs: Sequence[int] = (1, 5)) -> pd.DataFrame:
    """Policies, and a found function that is better than none by 0.05 on each seed."""
    rows = []
    for count in epochs:
        for policy, level in (("no augmentation", 0.6), ("RandAugment", 0.4), ("best of loop", 0.65)):
            for seed in range(seeds if policy != "best of loop" else max(seeds - 1, 1)):
                rows.append((policy, count, 1000 + seed, "ok", level + 0.05 * count + 0.01 * seed))
        rows.append(("AutoAugment", count, 1000, "crash", np.nan))
    return pd.DataFrame(rows, columns=["policy", "epochs", "seed", "status", "score"])
