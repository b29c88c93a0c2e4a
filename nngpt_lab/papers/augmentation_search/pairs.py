"""Paper A's training pairs: a worse function as the question, a better one as the answer (arXiv 2601.03808).

As published [C]: each function is the question once; its answer is drawn uniformly from the functions with other code
and a strictly higher score. So a function is the better one of a pair the more often the higher it ranks: among many,
one that beats a share r of the others is drawn with density -log(1 - r). That is all a model can learn here, and it is
enough to rank by.

One-epoch scores are noisy, so some pairs would turn round if both were run again. Beside the published draw stand three
others: pairs that are likely to flip left out, pairs weighted by how sure their order is, and scores shuffled among the
functions beforehand, which is the control: the same texts, no information.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from nngpt_lab.corpora.code import tidy
from nngpt_lab.ground.errors import UsageError
from nngpt_lab.ground.names import named
from nngpt_lab.llm.lora import Example
from nngpt_lab.llm.prompts import encode_pair, prompt
from nngpt_lab.papers.augmentation_search.scores import Noise, flip_probability, scored

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

COLUMNS = ("worse_code", "worse_score", "better_code", "better_score", "flip")


def draw_pairs(
    functions: pd.DataFrame,
    rng: np.random.Generator,
    count: int | None = None,
    *,
    shuffled: bool = False,
    noise: Noise | None = None,
    most_flips: float | None = None,
    weighted: bool = False,
) -> pd.DataFrame:
    """Better/worse pairs among the functions that have a score.

    Args:
        functions: columns code, code_hash, status, score; a code may have several rows, one per run.
        rng: of all draws.
        count: how many pairs; where there are fewer questions, they are gone through again with new answers. None: each
            question once, as published.
        shuffled: scores change places among the functions first.
        noise: of the scores; what ``flip`` is computed from.
        most_flips: leave out pairs that are likelier to flip than this, in (0, 0.5].
        weighted: draw the pairs once more, with replacement, in proportion to 1 - 2 * flip, so that a pair whose
            order is a coin toss weighs nothing.

    Returns:
        worse_code, worse_score, better_code, better_score, flip (probability that the pair's order flips when both are
        run again; nan without ``noise``). Fewer rows than ``count`` only if no pair is left to draw.

    Raises:
        UsageError: ``most_flips`` or ``weighted`` without ``noise``, or a number out of range.
    """
    if noise is None and (most_flips is not None or weighted):
        raise UsageError("pairs cannot be chosen by their flips without the noise", "pass noise")
    if (count is not None and count < 1) or (most_flips is not None and not 0 < most_flips <= 0.5):
        raise UsageError(f"count {count}, most_flips {most_flips}: out of range", "1 <= count, 0 < most_flips <= 0.5")
    table = scored(functions)
    if shuffled:
        table = table.assign(score=rng.permutation(table["score"]))
    passes: list[pd.DataFrame] = []
    while count is None or sum(map(len, passes)) < count:
        pairs = _one_pass(table, rng, noise)
        passes.append(pairs if most_flips is None else pairs[pairs["flip"] <= most_flips])
        if count is None or passes[-1].empty:
            break
    pairs = pd.concat(passes, ignore_index=True).head(count if count is not None else len(table))
    if weighted and len(pairs):
        sureness = 1 - 2 * pairs["flip"].to_numpy()
        pairs = pairs.iloc[rng.choice(len(pairs), len(pairs), p=sureness / sureness.sum())].reset_index(drop=True)
    return pairs


def _one_pass(table: pd.DataFrame, rng: np.random.Generator, noise: Noise | None) -> pd.DataFrame:
    """Each code once as the worse one, in random order, with a better one drawn for it; none for the best."""
    codes, scores = table["code_hash"].to_numpy(), table["score"].to_numpy()
    pairs = []
    for worse in rng.permutation(table.drop_duplicates("code_hash").index.to_numpy()):
        better = np.flatnonzero((scores > scores[worse]) & (codes != codes[worse]))
        if len(better):
            pairs.append((worse, rng.choice(better)))
    worse, better = np.array(pairs, dtype=int).reshape(-1, 2).T
    gap = scores[better] - scores[worse]
    flip = np.nan if noise is None else flip_probability(gap, noise.within_sd.value, noise.reliability.value)
    texts = table["code"].to_numpy()
    return pd.DataFrame(
        {
            "worse_code": texts[worse],
            "worse_score": scores[worse],
            "better_code": texts[better],
            "better_score": scores[better],
            "flip": flip,
        },
        columns=COLUMNS,
    )


# -------------------------------------------------------------------------------------------------------------- splits


def distinct(functions: pd.DataFrame) -> pd.DataFrame:
    """One row per code, the first one: a code scored again stands with its first score."""
    return functions.drop_duplicates("code_hash").reset_index(drop=True)


def split(functions: pd.DataFrame, test_share: float, rng: np.random.Generator) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Functions to learn from, and functions none of whose sets of operations was learnt from.

    Equal code has equal operations, so no tested code was learnt from either. Sets are drawn until they hold at least
    ``test_share`` of the functions, for one, two and three operations separately. Order and parameters are not part of
    a set.

    Raises:
        UsageError: ``test_share`` is not between 0 and 1.
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
    """The functions with operations called otherwise, in ``code`` and ``operations``; scores and the tail stay.

    The code is for reading only: it does not run.
    """
    calls = re.compile(rf"\b({'|'.join(map(re.escape, names))})\(")
    code = [calls.sub(lambda call: f"{names[call[1]]}(", text) for text in functions["code"]]
    operations = [[names.get(name, name) for name in used] for used in functions["operations"]]
    return functions.assign(code=code, operations=operations)


# -------------------------------------------------------------------------------------------------------------- texts


@dataclass(frozen=True)
class Style:
    """How a pair becomes a text.

    Attributes:
        prompt: fields accuracy and transform_code.
        tidied: code as ``ast.unparse`` lays it out, which is all that the nano coder ever saw.
        digits: of the accuracy; None: as recorded.
    """

    prompt: str
    tidied: bool
    digits: int | None

    def question(self, code: str, score: float) -> list[dict[str, str]]:
        """The messages that show the worse function and its accuracy."""
        accuracy = str(score) if self.digits is None else f"{score:.{self.digits}f}"
        return prompt(self.prompt).messages(accuracy=accuracy, transform_code=self._layout(code))

    def answer(self, code: str) -> str:
        """The better function as the answer."""
        return f"<tr>{self._layout(code)}</tr>"

    def _layout(self, code: str) -> str:
        return _tidied(code) if self.tidied else code


_tidied = functools.lru_cache(maxsize=2**14)(tidy)  # a search asks for each function again and again


STYLES = {
    "nano": Style("transform_nano_train", tidied=True, digits=2),
    "direct": Style("transform_direct_train", tidied=False, digits=None),
}


def get_style(name: str) -> Style:
    """The style of that name; a UsageError that names the nearest one if there is none."""
    return named("style", name, STYLES)


def pair_examples(tokenizer: PreTrainedTokenizerBase, pairs: pd.DataFrame, style: str) -> list[Example]:
    """Training texts of pairs, in their order: the worse code and its accuracy ask, ``<tr>better</tr>`` answers."""
    form = get_style(style)
    examples = []
    for pair in pairs.itertuples():
        asked = form.question(pair.worse_code, pair.worse_score)
        ids, length = encode_pair(tokenizer, asked, form.answer(pair.better_code))
        examples.append(Example(tuple(ids), length))
    return examples
