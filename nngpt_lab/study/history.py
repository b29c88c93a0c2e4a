"""A search history that one can question: where did a network come from, and what do a loop's edits do?

    table = history(networks, codes)               # a row per network of one run, in the order of its writing
    chain = lineage(table, best)                   # from the first ancestor to the best network, edit by edit

A loop that edits networks records each one's parent. Where none is recorded (papers A and B write whole sources), the
parent is the nearest earlier network of the same run, if it shares half of the lines: a reading, not a record, and the
column ``origin`` says so. Two sources are as alike as their sets of lines (Jaccard; blank lines and indentation do not
count). A line is *re-introduced* if the parent lacks it and an earlier network of the run had it: the loop takes up
again what it had left.
"""

from __future__ import annotations

import ast
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, TypeGuard

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from nngpt_lab.corpora.code import UNREADABLE, is_layer, no_collection, parse
from nngpt_lab.ground.errors import UsageError
from nngpt_lab.statistics.plots import legend_below, line, name_rows, panels, whole_numbers
from nngpt_lab.statistics.style import COLOURS, OURS

NEAR = 0.5
RECORDED, NEAREST, FIRST = "recorded", "nearest earlier", "no ancestor"
KINDS = ("layer added", "layer removed", "layer exchanged", "argument", "wiring", "training", "nothing")
"""What an edit does to a network: to its layers, to their arguments, to what else builds or runs them, to the methods
that train it; or nothing that the program notices."""
NUMBERS = ["score", "reintroduced", "novelty_parent", "novelty_corpus", "novelty_step"]
COLUMNS = ["code_hash", "step", "score", "parent_hash", "origin", "kinds", "added", "removed", *NUMBERS[1:]]
CONTAINERS, LAYER = ("Sequential", "ModuleList", "ModuleDict"), "a layer"
TRAINING = ("train_setup", "learn", "supported_hyperparameters")


def lines_of(code: str) -> frozenset[str]:
    """The distinct lines that hold code."""
    return frozenset(line.strip() for line in code.splitlines() if line.strip() and not line.lstrip().startswith("#"))


@no_collection()
def edit_kinds(before: str, after: str) -> list[str]:
    """What an edit did, as some of :data:`KINDS`, in their order; empty if a source does not parse."""
    try:
        old, new = _anatomy(before), _anatomy(after)
    except UNREADABLE:
        return []
    found = set()
    gone, come = old["layers"] - new["layers"], new["layers"] - old["layers"]
    names = [_summed(part) for part in (gone, come)]
    more, fewer = (names[1] - names[0]).total(), (names[0] - names[1]).total()
    found |= {"layer exchanged"} if more and fewer else set()
    found |= {"layer added"} if more > fewer else set()
    found |= {"layer removed"} if fewer > more else set()
    found |= {"argument"} if names[0] & names[1] else set()
    found |= {"training"} if old["training"] != new["training"] else set()
    found |= {"wiring"} if old["rest"] != new["rest"] else set()
    return [kind for kind in KINDS if kind in (found or {"nothing"})]


def _summed(layers: Counter) -> Counter:
    """Layers by name alone."""
    total: Counter = Counter()
    for (name, _), count in layers.items():
        total[name] += count
    return total


def _anatomy(code: str) -> dict:
    """Layers (name and arguments), the methods that train, and what is left without either."""
    tree, training = parse(code), []
    layers: Counter = Counter()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name in TRAINING:
            training.append(ast.unparse(node))
            node.body = [ast.Pass()]
        elif _is_layer(node):
            arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
            layers[node.func.attr, ", ".join(map(ast.unparse, arguments))] += 1
    return {"layers": layers, "training": training, "rest": ast.unparse(_Emptied().visit(tree))}


def _is_layer(node: ast.AST) -> TypeGuard[Any]:
    return isinstance(node, ast.Call) and is_layer(node.func) and node.func.attr not in CONTAINERS


class _Emptied(ast.NodeTransformer):
    """Layers without name and arguments; in a list or a container's arguments they do not even count."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if _is_layer(node):
            return ast.Name(LAYER)
        if is_layer(node.func):
            node.args = self._others(node.args)
        return node

    def visit_List(self, node: ast.List) -> ast.AST:
        self.generic_visit(node)
        node.elts = self._others(node.elts)
        return node

    @staticmethod
    def _others(nodes: list[ast.expr]) -> list[ast.expr]:
        return [each for each in nodes if not (isinstance(each, ast.Name) and each.id == LAYER)]


class Known:
    """Sets of lines that a new one is compared with."""

    def __init__(self) -> None:
        self._sizes: list[int] = []
        self._holders: dict[str, list[int]] = {}

    def add(self, lines: frozenset[str]) -> None:
        for text in lines:
            self._holders.setdefault(text, []).append(len(self._sizes))
        self._sizes.append(len(lines))

    def nearest(self, lines: frozenset[str]) -> tuple[float, int] | None:
        """Likeness and number (from 0, as added) of the nearest, the first of equals; None if there is none."""
        if not self._sizes:
            return None
        shared, sizes = np.zeros(len(self._sizes)), np.array(self._sizes)
        for text in lines:
            shared[self._holders.get(text, [])] += 1
        likeness = shared / np.maximum(1, len(lines) + sizes - shared)
        return float(likeness.max()), int(likeness.argmax())


def history(networks: pd.DataFrame, codes: Mapping[str, str], corpus: Iterable[str] = ()) -> pd.DataFrame:
    """A row per distinct network of one run, in the order of its first writing; texts without code are left out.

    Args:
        networks: columns code_hash, step (cycle or LLM epoch), score (null if not trained) and, where it is recorded,
            parent_hash; in the order of writing.
        codes: source by code hash, parents that were not written in the run included.
        corpus: sources that were published before.

    Returns:
        code_hash, step, score, parent_hash, origin, kinds (text), added, removed (lines), reintroduced (share of the
        added ones; null without any), and novelty, one minus the likeness, against the parent, the nearest of the
        corpus, and the nearest earlier one of the step (null where there is none). Cost: about a millisecond a network.
    """
    published, run = Known(), Known()
    steps: dict[Any, Known] = {}
    for code in corpus:
        published.add(lines_of(code))
    written: list[str] = []
    ever: set[str] = set()
    rows = []
    for row in networks.drop_duplicates("code_hash").to_dict("records"):
        key, step, parent, origin = row["code_hash"], row["step"], row.get("parent_hash"), RECORDED
        own = lines_of(codes[key])
        if not own:
            continue
        if not isinstance(parent, str):
            near = run.nearest(own)
            parent, origin = (written[near[1]], NEAREST) if near and near[0] >= NEAR else (None, FIRST)
        before = lines_of(codes[parent]) if parent else frozenset()
        added, removed = own - before, before - own
        new = {"code_hash": key, "step": step, "score": row["score"], "parent_hash": parent, "origin": origin}
        new |= {"kinds": ", ".join(edit_kinds(codes[parent], codes[key])) if parent else ""}
        new |= {"added": len(added), "removed": len(removed)}
        new["reintroduced"] = len(added & ever) / len(added) if added and parent else None
        new["novelty_parent"] = 1 - len(own & before) / len(own | before) if parent else None
        for name, known in ("corpus", published), ("step", steps.setdefault(step, Known())):
            alike = known.nearest(own)
            new[f"novelty_{name}"] = 1 - alike[0] if alike else None
        rows.append(new)
        written.append(key)
        run.add(own)
        steps[step].add(own)
        ever |= own | before
    return pd.DataFrame(rows, columns=COLUMNS).astype(dict.fromkeys(NUMBERS, float))


def lineage(table: pd.DataFrame, code_hash: str) -> pd.DataFrame:
    """The rows of :func:`history` that lead to a network, the earliest first. UsageError if it is not there."""
    rows = table.set_index("code_hash", drop=False)
    if code_hash not in rows.index:
        raise UsageError(f"the history has no network {code_hash[:12]!r}", "name a code hash of its table")
    chain: list[str] = []
    while code_hash in rows.index and code_hash not in chain:
        chain.append(code_hash)
        code_hash = rows.loc[code_hash, "parent_hash"]
    return rows.loc[chain[::-1]].reset_index(drop=True)


def by_step(table: pd.DataFrame) -> pd.DataFrame:
    """What the edits of each step do: step, networks, edits, the share of edits of each of KINDS, of re-introduced
    lines among those added, and the mean novelties; per cent."""
    rows = []
    for step, part in table.groupby("step", sort=False):
        edits = part[part["parent_hash"].notna()]
        kinds = Counter(kind for text in edits["kinds"] for kind in text.split(", "))
        row = {"step": step, "networks": len(part), "edits": len(edits)}
        row |= {kind: 100 * kinds[kind] / len(edits) if len(edits) else np.nan for kind in KINDS}
        added = edits["added"].sum()
        row["reintroduced"] = 100 * (edits["reintroduced"] * edits["added"]).sum() / added if added else np.nan
        rows.append(row | {name: 100 * part[name].mean() for name in NUMBERS[2:]})
    return pd.DataFrame(rows)


def figure(steps: pd.DataFrame, chain: pd.DataFrame) -> Figure:
    """What edits do, step by step (:func:`by_step`), and the best network's ancestors (:func:`lineage`)."""
    drawn, (left, right) = panels(["what edits do", "the best network's ancestors"], 10, 3.8, sharey=False)
    for number, kind in enumerate(KINDS[:-1]):
        line(left, steps, "step", kind, color=COLOURS[number], marker="o", markersize=3, label=kind)
    line(left, steps, "step", "reintroduced", color="black", linestyle="--", label="re-introduced, of the added lines")
    left.set(xlabel="step", ylabel="share, %", ylim=(-2, 102))
    whole_numbers(left.xaxis)
    right.plot(100 * chain["score"], range(len(chain)), "o-", color=OURS)
    right.set(xlabel="accuracy, %")
    names = (f"step {step}: {kinds or origin}" for step, kinds, origin in chain[["step", "kinds", "origin"]].to_numpy())
    name_rows(right, [textwrap.fill(name, 34) for name in names], fontsize=7)
    legend_below(drawn, left)
    return drawn
