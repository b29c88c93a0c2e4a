"""What paper C's prompts show of a network, and what it is worth: inputs altered at test time, on a tuned model.

A model that reads the code should answer otherwise when the code says something else. What is altered here was not
altered in training, so a fall in accuracy can also mean that the model meets what it was not tuned on.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from nngpt_lab.candidates import canonical
from nngpt_lab.candidates.novelty import NoveltySettings, sketch
from nngpt_lab.corpora.code import UNREADABLE, NameEraser, is_layer, no_collection, parse
from nngpt_lab.papers.dataset_prediction.questions import CODE_CHARACTERS

FRAME = ("train_setup", "learn", "supported_hyperparameters")  # LEMUR's frame, much the same in all networks
CONTAINERS = ("Sequential", "ModuleList", "ModuleDict", "Module")  # no layers themselves


@dataclass(frozen=True)
class Shown:
    """What a prompt shows of a question: the architecture's code (and another's, if two are compared), two names."""

    architecture: str
    codes: tuple[str, ...]
    names: tuple[str, str]


@dataclass(frozen=True)
class View:
    """How much of a code is shown: where it is cut (None: nowhere), and whether only its calls of layers are
    (:func:`layer_calls`)."""

    characters: int | None = CODE_CHARACTERS
    layers: bool = False

    def __call__(self, code: str) -> str:
        return (layer_calls(code) if self.layers else code)[: self.characters]


Alteration = Callable[[Shown, Mapping[str, str], View, np.random.Generator], Shown]
"""(what is shown, code by architecture, view, rng) -> what is shown instead."""


@functools.lru_cache(maxsize=2**14)
@no_collection()
def layer_calls(code: str) -> str:
    """The code's calls of layers (``nn.Conv2d(...)``), one a line, in the order of the text, without containers and the
    functions of LEMUR's frame. What does not parse, or calls no layer, stays as it is."""
    try:
        tree = parse(code)
    except UNREADABLE:
        return code
    calls: list[ast.Call] = []
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef) and node.name in FRAME:
            continue
        if isinstance(node, ast.Call) and is_layer(node.func) and node.func.attr not in CONTAINERS:
            calls.append(node)
        waiting += ast.iter_child_nodes(node)
    calls.sort(key=lambda call: (call.lineno, call.col_offset))
    return "\n".join(ast.unparse(call).removeprefix("nn.") for call in calls) or code


def names_masked(shown: Shown, code: Mapping[str, str], view: View, rng: np.random.Generator) -> Shown:
    """The two data sets are called by two letters drawn at random, in the prompt and in the answer."""
    a, b = rng.choice(list("ABCDEFGH"), 2, replace=False).tolist()
    return replace(shown, names=(a, b))


def lines_shuffled(shown: Shown, code: Mapping[str, str], view: View, rng: np.random.Generator) -> Shown:
    lines = shown.codes[0].splitlines()
    return replace(shown, codes=("\n".join(lines[i] for i in rng.permutation(len(lines))),))


def another_network(shown: Shown, code: Mapping[str, str], view: View, rng: np.random.Generator) -> Shown:
    others = sorted(name for name in code if name != shown.architecture)
    return replace(shown, codes=(view(code[others[rng.integers(len(others))]]),))


def identifiers_renamed(shown: Shown, code: Mapping[str, str], view: View, rng: np.random.Generator) -> Shown:
    """Every name that the source binds becomes v0, v1, ...; layout becomes that of ``ast.unparse``. Cut afterwards."""
    return replace(shown, codes=(view(_renamed(code[shown.architecture])),))


def no_code(shown: Shown, code: Mapping[str, str], view: View, rng: np.random.Generator) -> Shown:
    return replace(shown, codes=("",))


def cut_at(characters: int | None) -> Alteration:
    """The code cut elsewhere than in training."""
    return lambda shown, code, view, rng: replace(
        shown, codes=(replace(view, characters=characters)(code[shown.architecture]),)
    )


@functools.lru_cache(maxsize=2**14)
def _renamed(code: str) -> str:
    try:
        tree = parse(code)
        NameEraser(ast.walk(tree)).erase()
        return ast.unparse(tree)
    except UNREADABLE:
        return code


def alterations(view: View, cuts: Sequence[int | None]) -> dict[str, Alteration]:
    """All alterations by their name; cuts at what is not the view's own."""
    return {
        "names masked": names_masked,
        "lines shuffled": lines_shuffled,
        "another network": another_network,
        "identifiers renamed": identifiers_renamed,
        "no code": no_code,
    } | {f"cut at {cut:,}" if cut else "not cut": cut_at(cut) for cut in cuts if cut != view.characters}


def distinct_views(questions: pd.DataFrame, code: Mapping[str, str], views: Mapping[str, View]) -> pd.DataFrame:
    """How many networks can be told apart by what is shown of them: view, architectures, distinct (different texts),
    share (per cent), commonest (questions whose text is the commonest one, per cent)."""
    counts, rows = questions["architecture"].value_counts().sort_index(), []
    for name, view in views.items():
        texts = pd.Series([view(code[a]) for a in counts.index])
        asked = counts.groupby(texts.to_numpy()).sum()
        share = 100 * len(asked) / len(counts)
        rows.append((name, len(counts), len(asked), share, 100 * asked.max() / asked.sum()))
    return pd.DataFrame(rows, columns=["view", "architectures", "distinct", "share", "commonest"])


def near_duplicates(code: Mapping[str, str], settings: NoveltySettings) -> dict[str, str]:
    """Group of each architecture: those that a chain of near-duplicates links share one. Near-duplicates are sources
    whose Jaccard index, exact and without MinHash, reaches ``settings.jaccard_threshold``."""
    names, form = sorted(code), canonical.FORMS[settings.form]
    sets = [sketch(form.canonical(code[name]), replace(settings, permutations=2)).shingles for name in names]
    _, column = np.unique(np.concatenate(sets), return_inverse=True)
    sizes = np.array([len(shingles) for shingles in sets])
    has = sparse.csr_array((np.ones(len(column)), column, np.concatenate([[0], sizes.cumsum()])))
    shared = (has @ has.T).tocoo()
    jaccard = shared.data / (sizes[shared.row] + sizes[shared.col] - shared.data)
    near = jaccard >= settings.jaccard_threshold
    links = sparse.csr_array((near[near], (shared.row[near], shared.col[near])), shape=shared.shape)
    _, group = connected_components(links, directed=False)
    first = {label: name for name, label in zip(reversed(names), reversed(group.tolist()), strict=True)}
    return {name: first[label] for name, label in zip(names, group.tolist(), strict=True)}
