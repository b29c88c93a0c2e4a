"""MinHash and LSH in a few lines each, on sets small enough to look at; the walkthrough ``minhash`` tells the story.

Nothing here is fast, and nothing is used by the lab's novelty check (``candidates/novelty.py``): it is what that check
and ``datasketch`` are held against. Sources: Broder 1997, "On the resemblance and containment of documents" (shingles,
minima of permutations); Leskovec, Rajaraman & Ullman, "Mining of Massive Datasets", chapter 3 (bands).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from fractions import Fraction
from itertools import permutations, product

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from nngpt_lab.ground.errors import UsageError
from nngpt_lab.statistics.intervals import wilson
from nngpt_lab.statistics.plots import points, reference_line
from nngpt_lab.statistics.style import COLOURS, MUTED, OURS, new_figure


def shingles(tokens: Sequence[str], length: int) -> list[tuple[str, ...]]:
    """The distinct runs of ``length`` tokens, in order of first appearance; fewer tokens than that are one run."""
    if length < 1:
        raise UsageError(f"a shingle of {length} tokens means nothing", "use shingles from 1 token")
    if not tokens:
        return []
    length = min(length, len(tokens))
    return list(dict.fromkeys(tuple(tokens[i : i + length]) for i in range(len(tokens) - length + 1)))


def jaccard(first: Sequence[Hashable], second: Sequence[Hashable]) -> Fraction:
    """Shared members over all members, exactly; 1 for two empty sets."""
    a, b = set(first), set(second)
    return Fraction(len(a & b), len(a | b)) if a | b else Fraction(1)


def membership(first: Sequence[tuple[str, ...]], second: Sequence[tuple[str, ...]]) -> pd.DataFrame:
    """All runs of two sets with the number that stands for each: number, shingle, first, second, shared."""
    union = list(dict.fromkeys([*first, *second]))
    a, b = ([shingle in members for shingle in union] for members in (set(first), set(second)))
    table = pd.DataFrame({"number": range(len(union)), "shingle": map(" ".join, union), "first": a, "second": b})
    return table.assign(shared=table["first"] & table["second"])


def signatures(first: np.ndarray, second: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Smallest rank of each set under each permutation, as (2, permutations). ``first``, ``second``: whether each of n
    elements belongs to the set, bool (n,); ``ranks``: one permutation of 0 ... n - 1 a row, (permutations, n)."""
    return np.stack([ranks[:, first].min(axis=1), ranks[:, second].min(axis=1)])


def share_over_all_permutations(first: Sequence[int], second: Sequence[int]) -> Fraction:
    """The share of *all* orders of the union in which the two sets have the same first element; n! steps.

    Each element of the union comes first equally often, and both sets have it if and only if it is shared: so this is
    the Jaccard index, not nearly but exactly.
    """
    union = sorted({*first, *second})
    if not 0 < len(union) <= 8:
        raise UsageError(f"all orders of {len(union)} elements are not tried", "use 1 to 8 elements")
    orders = list(permutations(union))
    equal = sum(
        min(first, key=order.index, default=None) == min(second, key=order.index, default=None) for order in orders
    )
    return Fraction(equal, len(orders))


def random_ranks(elements: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """``count`` random permutations of 0 ... elements - 1, as (count, elements)."""
    return rng.permuted(np.tile(np.arange(elements), (count, 1)), axis=1)


def pair_of_sets(similarity: float, union: int) -> tuple[np.ndarray, np.ndarray]:
    """Two sets, each as bool (union,), whose Jaccard index is ``similarity`` rounded to a multiple of 1 / union. What
    is not shared goes to the two in turn, so that neither holds the other unless one element alone is not shared."""
    element, common = np.arange(union), round(similarity * union)
    shared, even = element < common, element % 2 == 0
    return shared | even, shared | ~even


def equal_minima(similarity: float, count: int, union: int, rng: np.random.Generator) -> tuple[float, np.ndarray]:
    """The exact Jaccard index of a :func:`pair_of_sets`, and whether their minima agree under each permutation."""
    first, second = pair_of_sets(similarity, union)
    smallest = signatures(first, second, random_ranks(union, count, rng))
    return float(np.mean(first & second)), smallest[0] == smallest[1]


def simulate_error(
    similarity: float, counts: Sequence[int], repeats: int, union: int, rng: np.random.Generator
) -> pd.DataFrame:
    """How far estimates from ``counts`` permutations lie from the truth, ``repeats`` times each.

    Columns: jaccard (exact), permutations, repeats, mean (of the estimates), spread (their standard deviation) and
    theory, sqrt(J (1 - J) / permutations): the share of equal minima is a binomial proportion.
    """
    rows = []
    for count in counts:
        truth, equal = equal_minima(similarity, repeats * count, union, rng)
        estimates, theory = equal.reshape(repeats, count).mean(axis=1), np.sqrt(truth * (1 - truth) / count)
        rows.append((truth, count, repeats, estimates.mean(), estimates.std(ddof=1), theory))
    return pd.DataFrame(rows, columns=["jaccard", "permutations", "repeats", "mean", "spread", "theory"])


def banded(signature: np.ndarray, bands: int, rows: int) -> list[tuple[int, ...]]:
    """A signature cut into ``bands`` runs of ``rows`` numbers; what is left over is not used."""
    if bands * rows > len(signature):
        raise UsageError(f"{bands} bands of {rows} need more than {len(signature)} numbers", "use fewer or shorter")
    return [tuple(map(int, signature[i * rows : (i + 1) * rows])) for i in range(bands)]


def share_a_band(first: np.ndarray, second: np.ndarray, bands: int, rows: int) -> bool:
    """Whether two signatures agree in all numbers of at least one band: then LSH looks at the pair."""
    pairs = zip(banded(first, bands, rows), banded(second, bands, rows), strict=True)
    return any(of_first == of_second for of_first, of_second in pairs)


def retrieval(similarity: np.ndarray | float, bands: int, rows: int) -> np.ndarray | float:
    """Probability that LSH looks at a pair: 1 - (1 - J^rows)^bands, the S-curve."""
    return 1 - (1 - similarity**rows) ** bands


def simulate_retrieval(
    similarities: Sequence[float], cuts: dict[str, tuple[int, int]], repeats: int, rng: np.random.Generator
) -> pd.DataFrame:
    """The share of pairs that LSH looks at, for pairs of known similarity and random permutations.

    ``similarities`` of the pairs, rounded to twentieths: two sets have 20 members together; ``cuts``: (bands, rows) by
    name; ``repeats``: pairs of each similarity, each with permutations of its own. Columns: cut, bands, rows, jaccard,
    repeats, share with its Wilson interval (low, high), and theory.
    """
    table = []
    for (name, (bands, rows)), similarity in product(cuts.items(), similarities):
        truth, equal = equal_minima(similarity, repeats * bands * rows, 20, rng)
        looked_at = equal.reshape(repeats, bands, rows).all(axis=2).any(axis=1)
        share, theory = wilson(looked_at.sum(), repeats), retrieval(truth, bands, rows)
        table.append((name, bands, rows, truth, repeats, share.value, share.low, share.high, theory))
    columns = ["cut", "bands", "rows", "jaccard", "repeats", "share", "low", "high", "theory"]
    return pd.DataFrame(table, columns=columns)


def draw_error(table: pd.DataFrame) -> Figure:
    """The spread of estimates (:func:`simulate_error`) over the number of permutations: simulated and in theory."""
    figure, ax = new_figure(width=8, height=3.8)
    for (truth, part), colour in zip(table.groupby("jaccard"), (OURS, COLOURS[1], COLOURS[2]), strict=False):
        counts = np.geomspace(part["permutations"].min(), part["permutations"].max(), 100)
        ax.plot(counts, np.sqrt(truth * (1 - truth) / counts), color=colour, label=f"theory, J = {truth:.2f}")
        ax.scatter(part["permutations"], part["spread"], color=colour, s=24, zorder=3,
                   label=f"simulated, {part['repeats'].iloc[0]:,} estimates a dot")  # fmt: skip
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=2)
    ax.xaxis.set_major_formatter("{x:.0f}")
    ax.yaxis.set_major_formatter("{x:.3f}")
    reference_line(ax, 256, "paper B", MUTED, vertical=True)
    ax.set(xlabel="permutations", ylabel="standard deviation of the estimate",
           title="Four times the permutations, half the error")  # fmt: skip
    ax.legend(loc="lower left")
    return figure


def draw_retrieval(table: pd.DataFrame, threshold: float) -> Figure:
    """The S-curves of :func:`simulate_retrieval`; the dashed line marks from where on a pair is a duplicate."""
    figure, ax = new_figure(width=8, height=4)
    similarity = np.linspace(0, 1, 400)
    for (name, part), colour in zip(table.groupby("cut", sort=False), (COLOURS[2], OURS, COLOURS[1]), strict=False):
        bands, rows = part[["bands", "rows"]].iloc[0]
        label = f"{name}: {bands} bands of {rows}"
        ax.plot(similarity, 100 * retrieval(similarity, bands, rows), color=colour, label=label)
        points(ax, part["jaccard"], part, "share", ends=("low", "high"), scale=100, color=colour)
    reference_line(ax, threshold, "a duplicate\nfrom here on", MUTED, vertical=True)
    ax.set(xlabel="exact Jaccard index of a pair", ylabel="pairs looked at, %", ylim=(-3, 118), xlim=(0, 1.08),
           title="What LSH looks at at all")  # fmt: skip
    ax.set_xticks(np.arange(0, 1.01, 0.2))
    ax.legend(loc="upper left")
    return figure
