"""Paper A's training pairs: a worse function as the question, a better one as the answer (arXiv 2601.03808).

As published [C]: each function is the question once; its answer is drawn uniformly from the functions with other code
and a strictly higher score. So a function is the better one of a pair the more often the higher it ranks: among many,
one that beats a share r of the others is drawn with density -log(1 - r). That is all a model can learn here, and it is
enough to rank by.

The control has the scores shuffled among the functions beforehand: the same texts, no information.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from nngpt_lab.ground.errors import UsageError
from nngpt_lab.llm.lora import Example
from nngpt_lab.llm.prompts import encode_pair, prompt
from nngpt_lab.papers.augmentation_search.rationales import answer
from nngpt_lab.papers.augmentation_search.scores import scored

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def draw_pairs(
    functions: pd.DataFrame, rng: np.random.Generator, count: int | None = None, *, shuffled: bool = False
) -> pd.DataFrame:
    """Better/worse pairs among the functions that have a score: worse_code, worse_score, better_code, better_score.

    A code may have several rows, one per run. ``count``: how many pairs; where there are fewer questions, they are gone
    through again with new answers, so that rows are fewer only if no pair is left to draw. None: each question once, as
    published. ``shuffled``: scores change places among the functions first.
    """
    if count is not None and count < 1:
        raise UsageError(f"{count} pairs cannot be drawn", "count starts from 1")
    table = scored(functions)
    if shuffled:
        table = table.assign(score=rng.permutation(table["score"]))
    passes = [_one_pass(table, rng)]
    while count is not None and sum(map(len, passes)) < count and len(passes[-1]):
        passes.append(_one_pass(table, rng))
    return pd.concat(passes, ignore_index=True)[:count]


def _one_pass(table: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Each code once as the worse one, in random order, with a better one drawn for it; none for the best."""
    codes, scores = table["code_hash"].to_numpy(), table["score"].to_numpy()
    pairs = []
    for worse in rng.permutation(table.drop_duplicates("code_hash").index.to_numpy()):
        better = np.flatnonzero((scores > scores[worse]) & (codes != codes[worse]))
        if len(better):
            pairs.append((worse, rng.choice(better)))
    rows = np.array(pairs, dtype=int).reshape(-1, 2).T
    sides = [table[["code", "score"]].iloc[side].reset_index(drop=True) for side in rows]
    return sides[0].add_prefix("worse_").join(sides[1].add_prefix("better_"))


def distinct(functions: pd.DataFrame) -> pd.DataFrame:
    """One row per code, the first one: a code scored again stands with its first score."""
    return functions.drop_duplicates("code_hash").reset_index(drop=True)


def split(functions: pd.DataFrame, test_share: float, rng: np.random.Generator) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Functions to learn from, and functions none of whose sets of operations was learnt from.

    Equal code has equal operations, so no tested code was learnt from either. Sets are drawn until they hold at least
    ``test_share`` of the functions, for one, two and three operations separately. Order and parameters are not part of
    a set.
    """
    if not 0 < test_share < 1:
        raise UsageError(f"test_share is {test_share}", "it lies between 0 and 1")
    sets = functions["operations"].map(lambda used: tuple(sorted(set(used))))
    tested: set[tuple[str, ...]] = set()
    for _, group in sets.groupby(functions["n_operations"]):
        counts = group.value_counts().sort_index()
        drawn = counts.iloc[rng.permutation(len(counts))]
        before = drawn.cumsum() - drawn
        tested.update(drawn.index[before < test_share * len(group)])
    is_test = sets.isin(tested)
    return functions[~is_test].reset_index(drop=True), functions[is_test].reset_index(drop=True)


def rename_operations(functions: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    """The functions with operations called otherwise, in ``code`` and ``operations``; scores and the tail stay. The
    code is for reading only: it does not run."""
    calls = re.compile(rf"\b({'|'.join(map(re.escape, names))})\(")
    code = [calls.sub(lambda call: f"{names[call[1]]}(", text) for text in functions["code"]]
    operations = [[names.get(name, name) for name in used] for used in functions["operations"]]
    return functions.assign(code=code, operations=operations)


def question(form: str, code: str, score: float) -> list[dict[str, str]]:
    """The messages that show a function and its accuracy; ``form``: a prompt with fields transform_code, accuracy."""
    return prompt(form).messages(transform_code=code, accuracy=f"{score:.2f}")


def pair_examples(tokenizer: PreTrainedTokenizerBase, pairs: pd.DataFrame, form: str, style: str) -> list[Example]:
    """Training texts: of each pair the worse function asks, the better one answers in a style of ``rationales.py``."""
    examples = []
    for pair in pairs.itertuples():
        response = answer(style, [(pair.worse_code, pair.worse_score)], pair.better_code)
        ids, length = encode_pair(tokenizer, question(form, pair.worse_code, pair.worse_score), response)
        examples.append(Example(tuple(ids), length))
    return examples
