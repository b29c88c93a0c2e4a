"""What paper D's comparison needs, opened together: model, published networks with their scores, parents, pool."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from nngpt_lab.candidates import pool
from nngpt_lab.candidates.ledger import Ledger
from nngpt_lab.candidates.outcome import Candidate, Kind
from nngpt_lab.corpora import architectures, narrow
from nngpt_lab.ground.errors import LabError
from nngpt_lab.ground.seeds import generator
from nngpt_lab.llm import models
from nngpt_lab.papers.delta_search.design import KEY, Design
from nngpt_lab.papers.delta_search.parents import loads_weights
from nngpt_lab.papers.delta_search.targets import best_at
from nngpt_lab.study.lab import Bench, open_bench
from nngpt_lab.study.proposals import count_tokens

Lab = Bench[Design]
"""What all runs of a design share; its ``corpus`` is what :func:`published` gives."""
AGAIN = 1000  # added to a run's seed, where a network is trained once more to see how far a score moves by itself
CHARACTERS = 3.0  # a token has at least so many, where there is no tokenizer to count them


@contextlib.contextmanager
def open_lab(design: Design, ledger: Ledger, folder: Path, device: str, workers: int, coder=None) -> Iterator[Lab]:
    """The lab; the model is on ``device``, and so are the candidates of the paper's own protocol. Those of a digits
    protocol take a second on a CPU core and are trained there, beside the model."""
    candidates = "cpu" if design.protocol.startswith("digits") else device
    coder = coder or models.load(design.coder, device, four_bit=design.four_bit)
    corpus = functools.partial(published, design.corpus)
    with open_bench(design, corpus, ledger, folder, device=candidates, workers=workers, coder=coder) as lab:
        yield lab


def published(corpus: str) -> pd.DataFrame:
    """Networks with their best recorded accuracy on CIFAR-10 after one epoch, by name; none that loads trained weights.

    Columns name, family, base, code, accuracy, parameters (null where unknown), new: whether the nano coder did not
    learn from it; parents are drawn from these. ``corpus``: ``lemur``, or ``narrow``: at reduced width, with the
    accuracy of the network that it is a narrow copy of.
    """
    best = best_at(architectures.load(), 1).query("dataset == 'cifar-10'").rename(columns={"architecture": "name"})
    table = best.assign(parameters=None, new=True)[["name", "family", "base", "code", "accuracy", "parameters", "new"]]
    if corpus == "narrow":
        small = narrow.load().assign(new=lambda rows: rows["part"] != "train")
        table = table[["name", "base", "accuracy"]].merge(small, on="name", validate="1:1")
    table = table[~table["code"].map(loads_weights)].sort_values("name")
    return table.astype({"name": str, "family": str, "parameters": "Int64"}).reset_index(drop=True)


@dataclass(frozen=True)
class Parent:
    """A network to be edited; ``score`` under the run's seed, ``again`` under another one (fractions)."""

    name: str
    code: str
    score: float
    again: float


def parents(lab: Lab, seed: int) -> list[Parent]:
    """The pool of one seed, the same for all formats and arms: networks drawn at random, of those whose whole source
    fits the token budget and which keep the protocol's limit of weights; trained with two seeds.

    LabError if none of them can be trained.
    """
    design, most = lab.design, lab.proxy.protocol.max_parameters
    allowed = lab.corpus[lab.corpus["new"]]
    if most is not None:
        allowed = allowed[allowed["parameters"].isna() | (allowed["parameters"] <= most)]
    drawn = allowed.iloc[generator(KEY, "parents", seed).permutation(len(allowed))]
    room, rows = design.decoding.max_new_tokens - 16, []  # a fence and the end take some
    for row in drawn.itertuples():
        if length(lab, row.code) <= room:
            rows.append(row)
        if len(rows) == design.parents:
            break
    candidates = [Candidate("", row.code, Kind.ARCHITECTURE) for row in rows]
    seeds = (seed, AGAIN + seed)
    outcomes = pool.evaluate(candidates, lab.proxy, lab.ledger, seeds=seeds, pool=lab.pool, progress=False)
    scores = [(outcomes[2 * i].score, outcomes[2 * i + 1].score) for i in range(len(rows))]
    trained = [Parent(row.name, row.code, *both) for row, both in zip(rows, scores, strict=True) if None not in both]
    if not trained:
        raise LabError("no network of the pool can be trained", "raise parents, or take another protocol")
    return trained


def length(lab: Lab, text: str) -> float:
    """Tokens of a text."""
    return count_tokens(lab, [text])[0] if lab.coder.tokenizer is not None else len(text) / CHARACTERS
