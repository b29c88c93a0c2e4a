"""What paper D's comparison needs, opened together: model, published networks with their scores, parents, pool."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from nngpt_lab.candidates import pool
from nngpt_lab.candidates.ledger import Ledger
from nngpt_lab.candidates.outcome import Candidate, Kind
from nngpt_lab.corpora import architectures, narrow
from nngpt_lab.ground.errors import LabError
from nngpt_lab.ground.seeds import generator
from nngpt_lab.llm import models
from nngpt_lab.llm.models import Coder
from nngpt_lab.papers.delta_search.design import KEY, Design
from nngpt_lab.papers.delta_search.parents import loads_weights
from nngpt_lab.papers.delta_search.targets import best_at
from nngpt_lab.study.lab import Bench, open_bench
from nngpt_lab.study.proposals import count_tokens
from nngpt_lab.study.weight_counts import keep_limit

Lab = Bench[Design]
"""What all runs of a design share; its ``corpus`` is what :func:`networks` gives."""
SCOUT, MOST = 2000, 8  # added to a seed where it is seen whether a network learns; how many are drawn for a parent
AGAIN = 1000  # added to a run's seed, where a network is trained once more to see how far a score moves by itself
CHARACTERS = 3.0  # a token has at least so many, where there is no tokenizer to count them


@contextlib.contextmanager
def open_lab(
    design: Design, ledger: Ledger, folder: Path, *, device: str, coder: Coder | None = None, **options
) -> Iterator[Lab]:
    """The lab; the model is on ``device``, and so are the candidates of the paper's own protocol. Those of a digits
    protocol take a second on a CPU core and are trained there, beside the model."""
    candidates = "cpu" if design.protocol.startswith("digits") else device
    coder = coder or models.load(design.coder, device, four_bit=design.four_bit)
    corpus = functools.partial(networks, design.corpus, design.family)
    with open_bench(design, corpus, ledger, folder, device=candidates, coder=coder, **options) as lab:
        yield lab


def networks(corpus: str, family: str | None = None) -> pd.DataFrame:
    """Published networks, by name; none that loads trained weights. ``corpus``: ``lemur``, or ``narrow``: at reduced
    width. Columns name, family, code, accuracy (the best recorded on CIFAR-10 after one epoch, of ``narrow`` that of
    the network that it is a narrow copy of; null if there is none), and of ``narrow`` parameters, too."""
    lemur = architectures.load()
    best = best_at(lemur, 1).query("dataset == 'cifar-10'").rename(columns={"architecture": "name"})
    table = narrow.load() if corpus == "narrow" else lemur.architectures[["name", "family", "code"]]
    table = table[table["family"] == family] if family else table
    table = table[~table["code"].map(loads_weights)].merge(best[["name", "accuracy"]], on="name", how="left")
    return table.sort_values("name", ignore_index=True)


@dataclass(frozen=True)
class Parent:
    """A network to be edited; ``score`` under the run's seed, ``again`` under another one (fractions)."""

    name: str
    code: str
    score: float
    again: float


def parents(lab: Lab, seed: int) -> list[Parent]:
    """The pool of one seed, the same for all formats and arms: networks drawn at random, of those whose whole source
    fits the token budget, which keep the protocol's limit of weights, and which learn.

    Whether one learns is seen from a training with a seed of its own (``Design.floor``), so that what it is then
    measured with, twice, owes nothing to luck that chose it. LabError if none does.
    """
    design, allowed = lab.design, within_limit(lab)
    room, found = design.decoding.max_new_tokens - 16, []  # a fence and the end take some
    drawn = allowed.iloc[generator(KEY, "parents", seed).permutation(len(allowed))[: MOST * design.parents]]
    fitting = [row for row in drawn.itertuples() if length(lab, row.code) <= room]
    for start in range(0, len(fitting), design.parents):
        some = fitting[start : start + design.parents]
        learnt = _scores(lab, some, SCOUT + seed)
        some = [row for row, score in zip(some, learnt, strict=True) if score is not None and score >= design.floor]
        scores = zip(some, _scores(lab, some, seed), _scores(lab, some, AGAIN + seed), strict=True)
        found += [Parent(row.name, row.code, own, again) for row, own, again in scores if own and again]
        if len(found) >= design.parents:
            break
    if not found:
        cause = f"of {len(fitting)} networks that fit {room} tokens none reaches {100 * design.floor:.0f} %"
        raise LabError(cause, "raise parents or the token budget, or take another protocol")
    return found[: design.parents]


def _scores(lab: Lab, rows: Sequence[Any], seed: int) -> list[float | None]:
    """Accuracies of networks under a seed, None where one cannot be trained."""
    candidates = [Candidate("", row.code, Kind.ARCHITECTURE) for row in rows]
    outcomes = pool.evaluate(candidates, lab.proxy, lab.ledger, seeds=(seed,), pool=lab.pool, progress=False)
    return [outcome.score for outcome in outcomes]


def within_limit(lab: Lab) -> pd.DataFrame:
    """The corpus's networks that are known to keep the protocol's limit of weights: tuned on larger ones a model writes
    larger ones, and none of its edits can be trained."""
    limit, corpus = lab.proxy.protocol.max_parameters, lab.corpus
    kept = keep_limit(corpus["code"], lab.design.corpus, limit)
    if limit is not None and "parameters" in corpus:
        kept &= corpus["parameters"] <= limit
    return corpus[kept].reset_index(drop=True)


def length(lab: Lab, text: str) -> float:
    return count_tokens(lab, [text])[0] if lab.coder.tokenizer is not None else len(text) / CHARACTERS
