"""What a written function says, whether it is new, and what became of it.

Here, other than in paper B, what is not new is sorted out before it is trained: a copy, up to layout and comments, of a
corpus function or of one written before.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from nngpt_lab.candidates.screening import Screened
from nngpt_lab.corpora.augmentations import parse_pipeline
from nngpt_lab.corpora.code import code_hash, tidy
from nngpt_lab.papers.augmentation_search.generator import SIDE
from nngpt_lab.sandbox.status import VALID, Status

NO_TAIL = "the pipeline does not end with Resize(({0}, {0})), ToTensor, Normalize: close Compose's list with them"


@dataclass(frozen=True)
class Reading:
    """What a function's source says: the hash of the tidied code (layout and comments make no difference), the
    operations in order without the fixed tail, and JSON, one object per operation."""

    code_hash: str
    operations: tuple[str, ...]
    parameters: str


@functools.lru_cache(maxsize=2**14)
def read(code: str) -> Reading | None:
    """What a function says; None if it does not end with the fixed Resize, ToTensor and Normalize."""
    try:
        pipeline = parse_pipeline(code)
        if not pipeline.has_tail or pipeline.resize != SIDE:
            return None
        return Reading(code_hash(tidy(code)), pipeline.operations, json.dumps(pipeline.parameters))
    except (SyntaxError, ValueError, RecursionError):
        return None


def new_ones(proposed: Generator[tuple[int, Screened]], seen: Mapping[str, bool]) -> Generator[tuple[int, Screened]]:
    """The same texts, with the status contract where the structure is not kept, and duplicate where it is known."""
    with contextlib.closing(proposed):
        for place, sample in proposed:
            if sample.status == Status.OK:
                reading = read(sample.candidate.code)
                if reading is None:
                    sample = replace(sample, status=Status.CONTRACT, message=NO_TAIL.format(SIDE))
                elif reading.code_hash in seen:
                    message = "it is in the corpus or was written before"
                    sample = replace(sample, status=Status.DUPLICATE, message=message)
            yield place, sample


def judge(
    rows: pd.DataFrame, screened: Sequence[Screened], seen: dict[str, bool], corpus: pd.DataFrame, limit: float
) -> pd.DataFrame:
    """Add what :func:`loop.run` says of a sample; what is new is added to ``seen``, with whether it is valid. Of equal
    functions of one epoch the first by position counts, whichever was finished first."""
    kept = (Status.OK, Status.DUPLICATE)
    readings = [read(sample.candidate.code) if sample.status in kept else None for sample in screened]
    sequences, copies, rows = set(corpus["operations"]), set(corpus["code_hash"]), rows.drop(columns="parameters")
    facts = []
    for row, reading in zip(rows.itertuples(), readings, strict=True):
        status, value = row.status, row.score
        valid = status in VALID
        if reading is not None:
            if reading.code_hash in seen:
                status, value, valid = Status.DUPLICATE.value, np.nan, seen[reading.code_hash]
            seen.setdefault(reading.code_hash, valid)
        facts.append(
            {
                "status": status,
                "score": value,
                "valid": valid,
                "accepted": value >= limit,
                "copy": reading is not None and reading.code_hash in copies,
                "known_sequence": reading is not None and reading.operations in sequences,
                "operations": reading.operations if reading else None,
                "parameters": reading.parameters if reading else None,
            }
        )
    return rows.assign(**pd.DataFrame(facts, index=rows.index))
