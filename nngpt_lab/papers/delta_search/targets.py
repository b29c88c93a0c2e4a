"""How long are the diffs that paper D's models are tuned on? Pairs of published networks, drawn as published.

A training target is the unified diff (difflib, three lines of context) from one network to another of the same data
set, task, metric and epoch that did better. Here a network counts once, with its best recorded accuracy at the epoch.
Three ways to draw a pair, for the paper does not say which:

================== ====================================================================================
``pair uniform``   any two networks; the better one is the target
``baseline first`` any network that a better one exists for, then any better one
``limit one``      the authors' own query (nn-dataset 2.1.2, ``db/Query.py``): any network, then the *first* better
                   one that SQLite meets. The query names no order; its index leads through the names
================== ====================================================================================
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import pandas as pd

from nngpt_lab.corpora.architectures import Lemur, classification
from nngpt_lab.ground import paths
from nngpt_lab.ground.processes import in_processes
from nngpt_lab.ground.seeds import generator
from nngpt_lab.papers.delta_search.edits import diff_lines
from nngpt_lab.statistics.intervals import Estimate, percentile_interval, resample_counts, widened

NARROW = "ast-dimension-AlexNet"
POOLS = ("all of CIFAR-10", "within a family", NARROW)
SCHEMES = ("pair uniform", "baseline first", "limit one")
EPOCHS = (1, 5)
SHORT, LIMIT = 50, 1024
"""Lines that the paper reports at most; tokens that its models may write."""


def best_at(lemur: Lemur, epoch: int) -> pd.DataFrame:
    """Best accuracy of every network at an epoch: dataset, architecture, accuracy, family, base, code."""
    records = classification(lemur.records[lemur.records["epoch"] == epoch])
    best = records.groupby(["dataset", "architecture"], as_index=False)["accuracy"].max()
    known = lemur.architectures[["name", "family", "base", "code"]].rename(columns={"name": "architecture"})
    return best.merge(known, on="architecture")


def pool_of(best: pd.DataFrame, pool: str) -> pd.DataFrame:
    """A pool's networks, by name, with a column ``group``: pairs are drawn within it."""
    networks = best[best["dataset"] == "cifar-10"].sort_values("architecture", ignore_index=True)
    if pool == NARROW:
        networks = networks[networks["base"] == NARROW].reset_index(drop=True)
    return networks.assign(group=networks["family"] if pool == POOLS[1] else "one")


def draw(networks: pd.DataFrame, scheme: str, count: int, rng: np.random.Generator) -> np.ndarray:
    """``count`` pairs (baseline, target) as rows of ``networks``, shape (count, 2)."""
    group, accuracy = pd.factorize(networks["group"])[0], networks["accuracy"].to_numpy()
    members = [np.flatnonzero(group == number) for number in range(group.max() + 1)]
    if scheme == "pair uniform":
        return _uniform_pairs(members, accuracy, count, rng)
    better = [np.sort(accuracy[each]) for each in members]
    open_ = np.flatnonzero(accuracy < np.array([each[-1] for each in better])[group])
    baselines = rng.choice(open_, count)
    if scheme == "limit one":
        return np.column_stack([baselines, first_better(accuracy, group)[baselines]])
    targets = []
    for baseline in baselines:
        own = members[group[baseline]]
        order = own[np.argsort(accuracy[own], kind="stable")]
        start = np.searchsorted(better[group[baseline]], accuracy[baseline], side="right")
        targets.append(order[rng.integers(start, len(order))])
    return np.column_stack([baselines, targets])


def _uniform_pairs(
    members: Sequence[np.ndarray], accuracy: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    sizes = np.array([len(each) * (len(each) - 1.0) for each in members])
    pairs: list[tuple[int, int]] = []
    while len(pairs) < count:
        own = members[rng.choice(len(members), p=sizes / sizes.sum())]
        first, second = rng.choice(own, 2)
        if accuracy[first] != accuracy[second]:
            pairs.append((first, second) if accuracy[first] < accuracy[second] else (second, first))
    return np.array(pairs)


def first_better(accuracy: np.ndarray, group: np.ndarray) -> np.ndarray:
    """For every row the first row of its group that is better; -1 for the best."""
    found = np.full(len(accuracy), -1)
    for number in np.unique(group):
        own = np.flatnonzero(group == number)
        so_far = np.maximum.accumulate(accuracy[own])  # rises, so that the first better one can be searched for
        place = np.searchsorted(so_far, accuracy[own], side="right")
        found[own] = np.where(place < len(own), own[np.minimum(place, len(own) - 1)], -1)
    return found


def tokenizers() -> tuple[str, str]:
    """Files of the two tokenizers that tokens are counted with, the nano coder's and SmolLM2's; the latter is empty
    where that model was never loaded: a quarter of a gigabyte is not fetched to count tokens."""
    from nngpt_lab.llm import weights
    from nngpt_lab.llm.catalogue import MODELS

    larger = weights.unpacked_folder(MODELS["SmolLM2-135M"]) / "tokenizer.json"
    return str(paths.PACKAGE / "llm" / "nano_coder" / "tokenizer.json"), str(larger) if larger.is_file() else ""


@functools.cache
def _tokenizer(file: str):
    """One of each in each process."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(file)


def measure(files: tuple[str, str], pair: tuple[str, str]) -> tuple[float, ...]:
    """Of the diff between two sources: its lines, characters, and tokens of both tokenizers (nan without a file); of
    the target: lines and characters."""
    before, after = pair
    lines = diff_lines(before, after)
    text = "\n".join(lines)
    tokens = (len(_tokenizer(file).encode(text).ids) if file else math.nan for file in files)
    return len(lines), len(text), *tokens, after.count("\n") + 1, len(after)


MEASURES = ["lines", "characters", "tokens", "tokens_smollm2", "file_lines", "file_characters"]


def targets(lemur: Lemur, pairs: int, seed: int) -> pd.DataFrame:
    """About ``pairs`` targets, equally many of each epoch, pool and scheme. Columns epoch, pool, scheme, baseline,
    target, and MEASURES. Cost: about 3 ms a pair on one core."""
    each = max(2, pairs // (len(EPOCHS) * len(POOLS) * len(SCHEMES)))
    parts, texts = [], []
    for epoch in EPOCHS:
        best = best_at(lemur, epoch)
        for pool in POOLS:
            networks = pool_of(best, pool)
            for scheme in SCHEMES:
                drawn = draw(networks, scheme, each, generator("paper D", "targets", seed, epoch, pool, scheme))
                names, codes = networks["architecture"].to_numpy(), networks["code"].to_numpy()
                parts.append(pd.DataFrame({"epoch": epoch, "pool": pool, "scheme": scheme,
                                           "baseline": names[drawn[:, 0]], "target": names[drawn[:, 1]]}))  # fmt: skip
                texts += [(codes[first], codes[second]) for first, second in drawn]
    counted = in_processes(functools.partial(measure, tokenizers()), texts, "diffs")
    measured = pd.DataFrame(list(counted), columns=MEASURES)
    return pd.concat([pd.concat(parts, ignore_index=True), measured], axis=1)


def _within(tokens: pd.Series) -> pd.Series:
    """Whether they are within LIMIT; null where they were not counted."""
    return (tokens <= LIMIT).astype(float).where(tokens.notna())


SHARES: dict[str, Callable[[pd.DataFrame], pd.Series]] = {
    "longer_than_file": lambda table: table["lines"] > table["file_lines"],
    "at_most_50_lines": lambda table: table["lines"] <= SHORT,
    "within_1024_tokens": lambda table: _within(table["tokens"]),
    "within_1024_smollm2": lambda table: _within(table["tokens_smollm2"]),
}


def network_weights(part: pd.DataFrame, rng: np.random.Generator, resamples: int) -> Iterator[np.ndarray]:
    """How often each pair counts in a bootstrap that draws networks: as often as both of its networks, together."""
    code, names = pd.factorize(pd.concat([part["baseline"], part["target"]]))
    first, second = code[: len(part)], code[len(part) :]
    for _ in range(resamples):
        times = resample_counts(rng, len(names), 1)[0]
        weight = (times[first] * times[second]).astype(float)
        if weight.sum():
            yield weight


def median_over_networks(values: pd.Series, weights: Iterable[np.ndarray]) -> tuple[float, float]:
    """The interval of a median over pairs, whose weights :func:`network_weights` gives."""
    order = np.argsort(values.to_numpy(), kind="stable")
    ordered = values.to_numpy(float)[order]
    grown = (np.cumsum(weight[order]) for weight in weights)
    return percentile_interval(np.array([ordered[np.searchsorted(each, each[-1] / 2)] for each in grown]))


def share_saved(drawn: pd.DataFrame, pool: str, scheme: str, rng: np.random.Generator, resamples: int) -> Estimate:
    """By how much the diff has fewer lines than the network that it leads to, median over pairs of epoch 1, per cent;
    n counts networks."""
    part = drawn[(drawn["epoch"] == 1) & (drawn["pool"] == pool) & (drawn["scheme"] == scheme)]
    saved = 100 * (1 - part["lines"] / part["file_lines"])
    low, high = median_over_networks(saved, network_weights(part, rng, resamples))
    return Estimate(float(saved.median()), low, high, len({*part["baseline"], *part["target"]}))


def summarise(table: pd.DataFrame, rng: np.random.Generator, resamples: int) -> pd.DataFrame:
    """Lengths by epoch, pool and scheme: pairs, networks, q1, median, q3 (of the lines), characters_by_file, and SHARES
    in per cent, these and ``median`` with intervals. The bootstrap draws networks, not pairs: a pair counts as often as
    both of its networks."""
    rows = []
    for key, part in table.groupby(["epoch", "pool", "scheme"], sort=False):
        row = dict(zip(("epoch", "pool", "scheme"), key, strict=True))
        row |= {"pairs": len(part), "networks": len({*part["baseline"], *part["target"]})}
        row |= {"q1": part["lines"].quantile(0.25), "median": part["lines"].median()}
        weights = list(network_weights(part, rng, resamples))  # 8 bytes a pair and resample
        row["median_low"], row["median_high"] = median_over_networks(part["lines"], weights)
        row |= {"q3": part["lines"].quantile(0.75)}
        row["characters_by_file"] = float((part["characters"] / part["file_characters"]).median())
        hits = np.array([share(part).to_numpy(float) for share in SHARES.values()])
        draws = np.array([hits @ weight / weight.sum() for weight in weights])
        for name, hit, drawn in zip(SHARES, hits, draws.T, strict=True):
            estimate = widened(Estimate(float(hit.mean()), *percentile_interval(drawn), row["networks"]))
            row |= estimate.scaled(100).columns(name)
        rows.append(row)
    return pd.DataFrame(rows)


def limit_one(lemur: Lemur) -> pd.DataFrame:
    """Which targets the authors' query gives, over all baselines: epoch, pool, baselines, targets (how many),
    commonest, share (per cent). Enumerated: no interval."""
    rows = []
    for epoch in EPOCHS:
        best = best_at(lemur, epoch)
        for pool in POOLS:
            networks = pool_of(best, pool)
            found = first_better(networks["accuracy"].to_numpy(), pd.factorize(networks["group"])[0])
            counts = networks["architecture"].iloc[found[found >= 0]].value_counts()
            share = 100 * counts.iloc[0] / counts.sum()
            rows.append((epoch, pool, int(counts.sum()), len(counts), counts.index[0], share))
    return pd.DataFrame(rows, columns=["epoch", "pool", "baselines", "targets", "commonest", "share"])
