"""The novelty check, examined: what it sees of a change, what retrieval misses, and settings beside each other.

:mod:`nngpt_lab.candidates.novelty` answers whether one source is new; this module asks how far its answers depend on
the setting, and how often they rest on an estimate that errs. It makes the tables of ``notebooks/ablations/novelty``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import product
from time import perf_counter

import numpy as np
import pandas as pd
from joblib import delayed

from nngpt_lab.candidates import canonical, novelty
from nngpt_lab.candidates.novelty import PAPER_B, NoveltyIndex, NoveltySettings, Sketch, sketch, sketch_code
from nngpt_lab.ground.errors import UsageError
from nngpt_lab.ground.processes import parallel


def draw(sources: pd.DataFrame, size: int, rng: np.random.Generator) -> dict[str, str]:
    """Codes by name of ``size`` rows drawn without replacement, in the order of the names; all of them for 0."""
    sources = sources.sort_values("name")
    if 0 < size < len(sources):
        sources = sources.iloc[np.sort(rng.choice(len(sources), size, replace=False))]
    return dict(zip(sources["name"], sources["code"], strict=True))


def edited(code: str, edits: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """``code`` after each edit by name; an edit maps regular expressions (of whole lines' text) to what replaces them.
    A UsageError if an expression matches nowhere: the edit would be no edit."""
    versions = {}
    for name, replacements in edits.items():
        text = code
        for pattern, new in replacements.items():
            text, count = re.subn(pattern, new, text, flags=re.MULTILINE)
            if not count:
                raise UsageError(f"the edit {name!r} finds no {pattern!r}", "choose an expression that the source has")
        versions[name] = text
    return versions


def similarities(code: str, versions: Mapping[str, str], settings: Sequence[NoveltySettings]) -> pd.DataFrame:
    """Likeness of ``code`` and its versions: change, form, shingle, jaccard (exact), estimate, threshold, duplicate."""
    rows = []
    for setting, (change, version) in product(settings, versions.items()):
        base, other, threshold = sketch_code(code, setting), sketch_code(version, setting), setting.jaccard_threshold
        exact = float(novelty.jaccard(base.shingles, [other.shingles])[0])
        row = {"change": change, "form": setting.form, "shingle": setting.shingle, "jaccard": exact}
        row |= {"estimate": float((base.signature == other.signature).mean())}
        rows.append(row | {"threshold": threshold, "duplicate": exact >= threshold})
    return pd.DataFrame(rows)


def sensitivity(
    corpora: Mapping[str, Mapping[str, str]],
    shingles: Mapping[str, Sequence[int]],
    thresholds: Sequence[float],
    jobs: int = -1,
) -> pd.DataFrame:
    """What is kept of each corpus under each setting: each source that is no near-duplicate of one kept before it.

    ``corpora``: codes by name, by corpus, compared in sorted order of the names with 256 permutations; retrieval is
    tuned 0.15 below the decision (recall 0.999 at 0.90). ``shingles``: lengths by form. ``jobs`` processes (-1: all
    cores) share the pairs of corpus and form. One row per corpus, form, shingle and threshold: ``kept`` (sources),
    ``share_kept``, ``fell_back`` (sources that do not parse), ``seconds`` (this setting alone, on one core).
    """
    tasks = product(corpora.items(), shingles.items())
    tables = parallel(jobs)(delayed(_sensitivity)(*corpus, *form, thresholds) for corpus, form in tasks)
    return pd.concat(tables, ignore_index=True)


def compare_settings(
    codes: Mapping[str, str], settings: Mapping[str, NoveltySettings], jobs: int = -1
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What whole settings keep of the same sources, each checked in sorted order against those kept before it: a row
    per setting (setting, its fields, sources, kept, share_kept, seconds on one core), and a row per source (name, and
    whether each setting kept it)."""
    names = sorted(codes)
    runs = parallel(jobs)(delayed(_keep)([codes[name] for name in names], rule) for rule in settings.values())
    rows = []
    for (label, rule), (kept, seconds) in zip(settings.items(), runs, strict=True):
        fields = {key: value for key, value in asdict(rule).items() if key != "seed"}
        counts = {"sources": len(names), "kept": sum(kept), "share_kept": sum(kept) / max(len(names), 1)}
        rows.append({"setting": label} | fields | counts | {"seconds": seconds})
    kept_by = {label: kept for label, (kept, _) in zip(settings, runs, strict=True)}
    return pd.DataFrame(rows), pd.DataFrame({"name": names} | kept_by)


def _keep(codes: Sequence[str], settings: NoveltySettings) -> tuple[list[bool], float]:
    start = perf_counter()
    index = NoveltyIndex(settings)
    kept = [not index.check_and_add(str(i), code).duplicate for i, code in enumerate(codes)]
    return kept, perf_counter() - start


def near_pairs(
    codes: Mapping[str, str],
    settings: NoveltySettings,
    lsh_thresholds: Sequence[float] = (),
    seeds: Sequence[int] = (),
    floor: float = 0.8,
    jobs: int = -1,
) -> pd.DataFrame:
    """All pairs of sources with a Jaccard index from ``floor`` up to, but without, 1, by counting every candidate.

    Sources with equal sets stand as one, since an equal set is found by its hash whatever LSH does. Each pair has one
    row per seed of the MinHash permutations (the setting's own, then ``seeds``): seed, first, second, jaccard, estimate
    (MinHash), and ``retrieved_at_<t>`` for the setting's LSH threshold and each of ``lsh_thresholds``. O(sets^2) at
    worst: about 10 s for LEMUR in nn_dup form (2,053 sets), and 3 s a seed.
    """
    names = sorted(codes)
    shingled = parallel(jobs, batch_size=100)(delayed(_shingles)(codes[name], settings) for name in names)
    distinct: dict[bytes, tuple[str, np.ndarray]] = {}
    for name, shingles in zip(names, shingled, strict=True):
        distinct.setdefault(shingles.tobytes(), (name, shingles))
    firsts = sorted(distinct.values(), key=lambda item: (len(item[1]), item[0]))
    labels, sets = np.array([name for name, _ in firsts], dtype=object), [shingles for _, shingles in firsts]
    a, b, exact = _pairs_from(sets, floor)
    tables = []
    for seed in dict.fromkeys((settings.seed, *seeds)):
        signatures = np.array([novelty.minhash(shingles, settings.permutations, seed) for shingles in sets])
        equal = signatures[a] == signatures[b]
        ends = {"seed": np.full(len(a), seed), "first": labels[a], "second": labels[b]}
        pairs = pd.DataFrame(ends | {"jaccard": exact, "estimate": equal.mean(axis=1)})
        for threshold in dict.fromkeys((settings.lsh_threshold, *lsh_thresholds)):
            pairs[f"retrieved_at_{threshold:.2f}"] = _share_a_band(equal, threshold)
        tables.append(pairs)
    return pd.concat(tables, ignore_index=True)


def _pairs_from(sets: Sequence[np.ndarray], floor: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices and Jaccard index of all pairs with ``floor`` <= J < 1; ``sets`` by ascending size. J is at most the
    ratio of the sizes, so each set is compared with those at most 1 / floor times as large."""
    sizes = np.array([len(shingles) for shingles in sets])
    pairs: list[tuple[np.ndarray, ...]] = [(np.zeros(0, int), np.zeros(0, int), np.zeros(0))]
    for i, shingles in enumerate(sets):
        last = int(np.searchsorted(sizes, sizes[i] / floor, side="right"))
        if last > i + 1:
            likeness = novelty.jaccard(shingles, sets[i + 1 : last])
            near = np.flatnonzero((likeness >= floor) & (likeness < 1))
            pairs.append((np.full(len(near), i), i + 1 + near, likeness[near]))
    return tuple(np.concatenate(column) for column in zip(*pairs, strict=True))


def _share_a_band(equal: np.ndarray, threshold: float) -> np.ndarray:
    """Whether LSH, tuned to ``threshold``, retrieves each of n pairs: (n, permutations) says where signatures agree."""
    count, rows = novelty.bands(threshold, equal.shape[1])
    return equal[:, : count * rows].reshape(-1, count, rows).all(axis=2).any(axis=1)


def retrieval(pairs: pd.DataFrame, permutations: int, step: float = 0.02) -> pd.DataFrame:
    """Of the pairs in each interval of Jaccard index, the share that LSH retrieves, and what theory expects.

    Columns lsh_threshold, seed, jaccard_low, jaccard_high, jaccard (mean of the pairs), pairs, retrieved, share,
    expected (mean of 1 - (1 - J^r)^b, with the b bands of r rows of that threshold). Intervals without pairs have no
    row. Pairs of one template share most of their shingles, so they are found or missed together: the spread between
    seeds, not the number of pairs, says how sure a share is.
    """
    edges, rows = np.round(np.arange(0.5, 1 + step / 2, step), 10), []
    bins = np.clip(np.searchsorted(edges, pairs["jaccard"], side="right") - 1, 0, len(edges) - 2)
    for column in pairs.filter(like="retrieved_at_"):
        threshold = float(column.removeprefix("retrieved_at_"))
        count, length = novelty.bands(threshold, permutations)
        for (seed, i), part in pairs.groupby(["seed", bins]):
            expected = 1 - (1 - part["jaccard"] ** length) ** count
            retrieved = int(part[column].sum())
            numbers = (part["jaccard"].mean(), len(part), retrieved, retrieved / len(part), expected.mean())
            rows.append((threshold, seed, edges[i], edges[i + 1], *numbers))
    columns = ["jaccard_low", "jaccard_high", "jaccard", "pairs", "retrieved", "share", "expected"]
    return pd.DataFrame(rows, columns=["lsh_threshold", "seed", *columns])


def errors_of_judgement(pairs: pd.DataFrame, settings: NoveltySettings) -> pd.DataFrame:
    """How many of the pairs are misjudged, one row per seed: by the estimate, and for want of being retrieved.

    Columns seed; pairs; duplicates (pairs that reach the threshold); estimate_alone (the estimate lies on the wrong
    side of the threshold); estimate_far (the same, more than two standard errors from it, where the index trusts the
    estimate); not_retrieved (duplicates that LSH does not find).
    """
    duplicate = pairs["jaccard"] >= settings.jaccard_threshold
    wrong = duplicate != (pairs["estimate"] >= settings.jaccard_threshold)
    far = (pairs["estimate"] - settings.jaccard_threshold).abs() > settings.margin
    retrieved = pairs[f"retrieved_at_{settings.lsh_threshold:.2f}"].astype(bool)
    counts = {"pairs": duplicate | True, "duplicates": duplicate, "estimate_alone": wrong}
    counts |= {"estimate_far": wrong & far, "not_retrieved": duplicate & ~retrieved}
    return pd.DataFrame(counts).groupby(pairs["seed"]).sum().astype(int).reset_index()


def _shingles(code: str, settings: NoveltySettings) -> np.ndarray:
    return novelty.shingle_hashes(canonical.FORMS[settings.form].tokens(code), settings.shingle)


def _sensitivity(
    corpus: str, codes: Mapping[str, str], form: str, lengths: Sequence[int], thresholds: Sequence[float]
) -> pd.DataFrame:
    names, rows, start = sorted(codes), [], perf_counter()
    sources = [canonical.FORMS[form].canonical(codes[name]) for name in names]
    form_seconds, fell_back = perf_counter() - start, sum(source.fell_back for source in sources)
    for shingle in lengths:
        start = perf_counter()
        settings = replace(PAPER_B, form=form, shingle=shingle)
        sketches = [sketch(source, settings) for source in sources]
        sketch_seconds = perf_counter() - start
        for threshold in thresholds:
            start = perf_counter()
            lsh = max(threshold - 0.15, 0.05)
            kept = _count_kept(names, sketches, replace(settings, lsh_threshold=lsh, jaccard_threshold=threshold))
            seconds = form_seconds + sketch_seconds + perf_counter() - start
            counts = {"kept": kept, "share_kept": kept / max(len(names), 1), "fell_back": fell_back, "seconds": seconds}
            rows.append({"corpus": corpus, "form": form, "shingle": shingle, "threshold": threshold} | counts)
    return pd.DataFrame(rows)


def _count_kept(names: Sequence[str], sketches: Sequence[Sketch], settings: NoveltySettings) -> int:
    index = NoveltyIndex(settings)
    for name, source in zip(names, sketches, strict=True):
        if not index.match(source).duplicate:
            index._add(name, source)
    return len(index)
