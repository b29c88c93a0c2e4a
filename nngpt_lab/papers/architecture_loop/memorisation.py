"""Does the loop design or remember? Accepted networks beside their nearest neighbours in the corpus.

Here every pair is counted: the novelty index of :mod:`nngpt_lab.candidates.novelty` finds neighbours by LSH and may
miss some, these tables do not. Nothing is run.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from joblib import delayed
from scipy import sparse

from nngpt_lab.candidates import canonical, novelty
from nngpt_lab.corpora.code import UNREADABLE, describe, no_collection, parse
from nngpt_lab.ground.errors import UsageError
from nngpt_lab.ground.processes import parallel

SHINGLES = {form: rule.shingle for form, rule in novelty.EACH_FORM.items()}
"""Tokens in a shingle by form: the authors' loop, paper B, ours beside it, and a bag."""
PART = 500  # corpus networks in one process at a time


Forms = dict[str, list[np.ndarray]]
"""Codes in canonical forms: by form, the hashes of each one's tokens in their order, (tokens,) uint64."""


def canonical_forms(codes: Sequence[str], forms: Iterable[str] = tuple(SHINGLES), jobs: int = -1) -> Forms:
    """Codes in every form, for both tables: all the work there is, about 10 ms of a core per network of LEMUR."""
    codes, names = list(codes), list(forms)
    starts = range(0, len(codes), PART)
    parts = parallel(jobs)(delayed(_hashes)(codes[i : i + PART], names) for i in starts)
    return {form: [row[place] for part in parts for row in part] for place, form in enumerate(names)}


def nearest_neighbours(
    accepted: pd.DataFrame,
    corpus: pd.DataFrame,
    shingles: Mapping[str, int] = SHINGLES,
    jobs: int = -1,
    known: Forms | None = None,
) -> pd.DataFrame:
    """The most similar network of the corpus for each accepted one, in each canonical form, by exact Jaccard index.

    Args:
        accepted: a column code; all other columns (arm, seed, cycle, code_hash, ...) are carried along.
        corpus: columns name and code. Among equals the first is nearest. UsageError if it is empty.
        shingles: tokens in a shingle, by form.
        jobs: processes (-1: all cores).
        known: the corpus in these forms and ``structure``, if they have been made.

    Returns:
        A row per accepted network and form: the columns of ``accepted`` without code, then form, nearest, jaccard,
        verbatim (the text of a corpus network, or its program up to comments, docstrings and layout) and renamed (not
        verbatim, but some corpus network's program up to the author's names).
    """
    if not len(corpus):
        raise UsageError("there is no corpus to compare with", "give the networks that were known before the loop")
    codes = list(dict.fromkeys(accepted["code"]))  # arms that share a network share work
    forms = dict.fromkeys([*shingles, "structure"])
    known = known or canonical_forms(corpus["code"], forms, jobs)
    ours = canonical_forms(codes, forms, jobs=1)
    bags = [tokens.tobytes() for tokens in ours["structure"]], [tokens.tobytes() for tokens in known["structure"]]
    tasks = [delayed(_nearest)(_sets(ours[form], n), _sets(known[form], n)) for form, n in shingles.items()]
    copies, *nearest = parallel(jobs)([delayed(_copies)(codes, list(corpus["code"]), *bags), *tasks])
    names, tables = corpus["name"].to_numpy(), []
    place = accepted["code"].map({code: i for i, code in enumerate(codes)}).to_numpy(int)
    for form, (rows, likeness) in zip(shingles, nearest, strict=True):
        table = accepted.drop(columns="code").assign(form=form, nearest=names[rows[place]], jaccard=likeness[place])
        tables.append(table.assign(verbatim=copies[place, 0], renamed=copies[place, 1]))
    return pd.concat(tables, ignore_index=True)


def novelty_sensitivity(
    passed: Sequence[str],
    corpus: Forms,
    shingles: Mapping[str, Sequence[int]],
    thresholds: Sequence[float],
    jobs: int = -1,
) -> pd.DataFrame:
    """How many of one run's networks over the accuracy threshold would be novel under each setting.

    In their order (``passed``, by cycle and position; runs do not know of each other): a network is novel if it reaches
    ``threshold`` with no network of the ``corpus`` (as of :func:`canonical_forms`) and with no novel one before it.
    Exact, so at the run's own setting the count may be a little below the run's, whose LSH misses some duplicates (see
    :mod:`nngpt_lab.candidates.novelty`). ``shingles``: tokens in a shingle, by form. Columns: form, shingle, threshold,
    passed, novel, share_novel; a row per setting.
    """
    counted = parallel(jobs)(
        delayed(_count_novel)(list(passed), corpus[form], form, lengths, thresholds)
        for form, lengths in shingles.items()
    )
    columns = ["form", "shingle", "threshold", "passed", "novel", "share_novel"]
    return pd.DataFrame([row for rows in counted for row in rows], columns=columns)


def diff(code: str, neighbour: str, context: int = 3) -> str:
    """What must change in ``neighbour`` to give ``code``: a unified diff, both tidied by ``ast.unparse``, so without
    comments and layout. A source that does not parse stays as it is."""
    before, after = _tidy(neighbour).splitlines(), _tidy(code).splitlines()
    lines = difflib.unified_diff(before, after, "nearest in the corpus", "accepted", n=context, lineterm="")
    return "\n".join(lines)


def _tidy(code: str) -> str:
    try:
        return ast.unparse(parse(code))
    except UNREADABLE:
        return code


def _nearest(sets: Sequence[np.ndarray], known: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Row in ``known`` of the set nearest to each of ``sets``, and their Jaccard index, each (len(sets),)."""
    firsts: dict[bytes, tuple[int, np.ndarray]] = {}  # LEMUR holds five sources to a distinct set
    for row, shingles in enumerate(known):
        firsts.setdefault(shingles.tobytes(), (row, shingles))
    rows, distinct = zip(*firsts.values(), strict=True)
    likeness = _likeness(sets, distinct)
    return np.array(rows)[likeness.argmax(1)], likeness.max(1)


def _likeness(sets: Sequence[np.ndarray], known: Sequence[np.ndarray]) -> np.ndarray:
    """Exact Jaccard index of each set with each known one, (len(sets), len(known)); 1 for two empty ones."""
    every = np.unique(np.concatenate([np.zeros(0, np.uint64), *sets]))

    def members(some: Sequence[np.ndarray]) -> sparse.csr_array:
        """(len(some), len(every)): 1 where a set has a member of ``sets``."""
        row, value = np.repeat(np.arange(len(some)), sizes(some)), np.concatenate([every[:0], *some])
        column = np.searchsorted(every, value)
        inside = np.append(every, 0)[column] == value
        inside &= column < len(every)
        ones = np.ones(int(inside.sum()))
        return sparse.csr_array((ones, (row[inside], column[inside])), shape=(len(some), len(every)))

    def sizes(some: Sequence[np.ndarray]) -> np.ndarray:
        return np.array([len(shingles) for shingles in some], int)

    common = (members(sets) @ members(known).T).toarray()
    union = sizes(sets)[:, None] + sizes(known) - common
    return np.where(union > 0, common / np.maximum(union, 1), 1.0)


def _count_novel(
    passed: list[str], corpus: list[np.ndarray], form: str, lengths: Sequence[int], thresholds: Sequence[float]
) -> list[tuple]:
    rows, hashes = [], canonical_forms(passed, [form], jobs=1)[form]
    for length in lengths:
        sets = _sets(hashes, length)
        nearest = _nearest(sets, _sets(corpus, length))[1] if corpus else np.zeros(len(sets))
        likeness = _likeness(sets, sets)
        for threshold in thresholds:
            novel: list[int] = []
            for i in np.flatnonzero(nearest < threshold):
                if not (likeness[i][novel] >= threshold).any():
                    novel.append(i)
            share = len(novel) / len(passed) if passed else np.nan
            rows.append((form, length, threshold, len(passed), len(novel), share))
    return rows


@no_collection()
def _hashes(codes: Sequence[str], forms: Sequence[str]) -> list[list[np.ndarray]]:
    """By code and form: a code's forms one after the other, so that it is parsed once for several."""
    return [[novelty.token_hashes(canonical.FORMS[form].tokens(code)) for form in forms] for code in codes]


def _sets(hashes: Sequence[np.ndarray], length: int) -> list[np.ndarray]:
    return [novelty.shingles_of(tokens, length) for tokens in hashes]


def _copies(
    codes: Sequence[str], corpus: Sequence[str], bags: Sequence[bytes], corpus_bags: Sequence[bytes]
) -> np.ndarray:
    """(len(codes), 2) bool: verbatim, and the same up to names only. Renaming leaves a bag of calls as it is, so only
    what shares one is compared."""
    wanted = set(bags)
    known = [describe(code) for code, bag in zip(corpus, corpus_bags, strict=True) if bag in wanted]
    text, program, nameless = (
        {getattr(facts, level) for facts in known} - {None} for level in ("code_hash", "ast_hash", "nameless_hash")
    )
    copies = np.zeros((len(codes), 2), bool)
    for i, facts in enumerate(map(describe, codes)):
        verbatim = facts.code_hash in text or facts.ast_hash in program
        copies[i] = verbatim, not verbatim and facts.nameless_hash in nameless
    return copies
