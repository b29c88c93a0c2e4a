"""What paper A's loop needs, opened together: model, published functions, evaluator pool."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

import pandas as pd

from nngpt_lab.candidates.ledger import Ledger
from nngpt_lab.corpora import augmentations
from nngpt_lab.corpora.code import code_hash, tidy
from nngpt_lab.papers.augmentation_search.design import Design
from nngpt_lab.study.lab import Bench, open_bench

Lab = Bench[Design]
"""What all runs of a design share; its ``corpus`` is what :func:`known_functions` gives."""


def open_lab(design: Design, ledger: Ledger, folder: Path, **options) -> AbstractContextManager[Lab]:
    """Everything that the runs of a design share; arguments and errors as of :func:`open_bench`."""
    return open_bench(design, known_functions, ledger, folder, **options)


def known_functions() -> pd.DataFrame:
    """Paper A's 6,000 functions, tidied, one row per program: name, code, code_hash, operations, score (recorded
    accuracy; null if the authors' run failed)."""
    table = augmentations.load().brute_force.sort_values("name")
    table = table.assign(code=[tidy(code) for code in table["code"]], operations=table["operations"].map(tuple))
    table = table.assign(code_hash=table["code"].map(code_hash)).drop_duplicates("code_hash")
    return table[["name", "code", "code_hash", "operations", "score"]].reset_index(drop=True)
