"""The novelty index: exact where it says so, equal to datasketch and to brute force, safe to save, fair in a batch."""

from __future__ import annotations

import hashlib
import io
import os
import random
import subprocess
import sys
from dataclasses import asdict, replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nngpt_lab.candidates import canonical, novelty
from nngpt_lab.candidates.novelty import (
    AUTHORS_LOOP,
    CAREFUL,
    EACH_FORM,
    PAPER_B,
    NoveltyIndex,
    NoveltySettings,
    bands,
    jaccard,
    minhash,
    shingle_hashes,
    sketch_code,
)
from nngpt_lab.ground.errors import DataError, UsageError
from nngpt_lab.papers.architecture_loop.novelty_audit import sensitivity

WORDS = NoveltySettings("raw_tokens", shingle=1, permutations=128, lsh_threshold=0.5, jaccard_threshold=0.90)
"""Sources are bags of words here, so that a test can set the Jaccard index of two of them to any fraction."""


def words(numbers) -> str:
    return " ".join(f"w{i}" for i in numbers)


def pair(common: int, each: int, seed: int) -> tuple[str, str]:
    """Two sources of ``each`` distinct words with ``common`` shared ones."""
    drawn = random.Random(seed).sample(range(10**6), 2 * each - common)
    return words(drawn[:each]), words(drawn[:common] + drawn[each:])


def families(count: int, seed: int = 0) -> dict[str, str]:
    """Sources in families of mutants: from nearly equal to hardly alike."""
    rng = random.Random(seed)
    codes = {}
    for family in range(count // 10):
        base = [rng.randrange(60) for _ in range(rng.randrange(80, 200))]
        for member in range(10):
            mutant = list(base)
            for _ in range(rng.choice([0, 1, 1, 2, 3, 5, 20])):
                mutant[rng.randrange(len(mutant))] = rng.randrange(60)
            codes[f"f{family:03d}-{member}"] = words(mutant)
    return codes


@cache
def runs(source: str, length: int) -> frozenset[tuple[str, ...]]:
    split = source.split()
    return frozenset(tuple(split[i : i + length]) for i in range(max(len(split) - length, 0) + 1))


def brute_force(a: str, b: str, shingle: int) -> float:
    """Jaccard index on sets of tuples of words: shares no code with the index."""
    one, other = runs(a, shingle), runs(b, shingle)
    return len(one & other) / len(one | other)


def test_published_settings():
    assert tuple(asdict(PAPER_B).values()) == ("nn_dup", 10, 256, 0.85, 0.90, 1)
    assert tuple(asdict(AUTHORS_LOOP).values()) == ("raw_tokens", 7, 128, 0.85, 0.85, 1)


@pytest.mark.parametrize(
    "wrong",
    [{"form": "text"}, {"shingle": 0}, {"permutations": 1}, {"lsh_threshold": 1.0}, {"jaccard_threshold": 0.0}],
)
def test_settings_that_mean_nothing_are_refused(wrong):
    with pytest.raises(UsageError):
        replace(PAPER_B, **wrong)


# --- hashing and MinHash ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 7, 300, 5_000])
@pytest.mark.parametrize(("count", "seed"), [(256, 1), (128, 1), (64, 7)])
def test_signatures_are_datasketchs(size, count, seed):
    datasketch = pytest.importorskip("datasketch", minversion="2.0")
    shingles = np.random.default_rng(size).integers(0, 1 << 64, size, dtype=np.uint64)
    reference = datasketch.MinHash(count, seed=seed, scheme="affine32", hashfunc=lambda value: value)
    reference.update_batch([int(value) >> 32 for value in shingles])
    assert np.array_equal(minhash(shingles, count, seed), reference.hashvalues)


@pytest.mark.parametrize("share", [0.5, 0.85, 0.9, 0.95])
def test_the_estimate_is_unbiased(share):
    """Over 150 independent pairs: mean error within four of its standard errors, spread as in theory."""
    each, repeats, count = 400, 150, 128
    common = round(2 * each * share / (1 + share))
    truth = common / (2 * each - common)
    rng = np.random.default_rng(0)
    errors = np.empty(repeats)
    for i in range(repeats):
        values = rng.integers(0, 1 << 64, 2 * each - common, dtype=np.uint64)
        a, b = values[:each], np.concatenate([values[:common], values[each:]])
        errors[i] = (minhash(a, count, i) == minhash(b, count, i)).mean() - truth
    error = np.sqrt(truth * (1 - truth) / count)
    assert abs(errors.mean()) < 4 * error / np.sqrt(repeats)
    assert errors.std() == pytest.approx(error, rel=0.25)


@given(st.lists(st.sampled_from("abcde"), max_size=30), st.integers(1, 6))
def test_shingles_are_the_set_of_runs(tokens, length):
    runs = {tuple(tokens[i : i + length]) for i in range(max(len(tokens) - length, 0) + 1)} if tokens else set()
    assert len(shingle_hashes(tokens, length)) == len(runs)


@given(st.sets(st.integers(0, 20)), st.lists(st.sets(st.integers(0, 20)), min_size=1, max_size=5))
def test_jaccard_is_that_of_sets(query, others):
    arrays = [np.array(sorted(one), np.uint64) for one in (query, *others)]
    expected = [len(query & other) / len(query | other) if query | other else 1 for other in others]
    assert jaccard(arrays[0], arrays[1:]).tolist() == expected


# --- retrieval and verdict -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [replace(WORDS, lsh_threshold=t, shingle=3) for t in (0.5, 0.85)])
def test_retrieval_is_datasketchs(settings):
    datasketch = pytest.importorskip("datasketch", minversion="2.0")
    codes = families(200)
    index = NoveltyIndex(settings)
    index.add_many(codes, codes.values())
    reference = datasketch.MinHashLSH(threshold=settings.lsh_threshold, num_perm=settings.permutations)
    sketches = [novelty.sketch_code(code, settings) for code in codes.values()]
    theirs = [datasketch.MinHash(hashvalues=one.signature, scheme="affine32") for one in sketches]
    for name, one in zip(codes, theirs, strict=True):
        reference.insert(name, one)
    firsts = set(index._names)  # equal sets share a row here, and not there
    for their in theirs:
        assert {index._names[row] for row in index._lsh.query(their)} == firsts & set(reference.query(their))


@pytest.mark.parametrize(
    ("settings", "similarity", "expected"),
    [(PAPER_B, 0.90, 0.848), (PAPER_B, 0.95, 0.998), (CAREFUL, 0.90, 0.999), (AUTHORS_LOOP, 0.85, 0.461)],
)
def test_recall_of_the_published_retrieval(settings, similarity, expected):
    """The documented share of pairs at a similarity that LSH retrieves: by formula, and on 300 simulated pairs."""
    count, rows = bands(settings.lsh_threshold, settings.permutations)
    assert 1 - (1 - similarity**rows) ** count == pytest.approx(expected, abs=0.001)
    rng = np.random.default_rng(3)
    each, found, repeats = 285, 0, 300
    common = round(2 * each * similarity / (1 + similarity))
    for i in range(repeats):
        values = rng.integers(0, 1 << 64, 2 * each - common, dtype=np.uint64)
        a, b = (minhash(s, settings.permutations, i) for s in (values[:each], np.r_[values[:common], values[each:]]))
        found += (a == b)[: count * rows].reshape(count, rows).all(axis=1).any()
    assert found / repeats == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / repeats) + 0.01)


@pytest.mark.parametrize(("common", "each", "duplicate"), [(180, 190, True), (179, 190, False), (181, 190, True)])
def test_the_verdict_is_exact_at_the_threshold(common, each, duplicate):
    """J = 0.900, 0.891 and 0.910 with estimates scattered by 0.027: counting decides."""
    exact = 0
    for seed in range(40):
        a, b = pair(common, each, seed)
        index = NoveltyIndex(WORDS)
        index.add_many(["a"], [a])
        match = index.query(b)
        assert match.nearest == "a"
        if abs(match.estimated - WORDS.jaccard_threshold) <= WORDS.margin:
            assert match.exact and match.jaccard == pytest.approx(common / (2 * each - common))
            assert match.duplicate == duplicate
        exact += match.exact
    assert exact >= 34  # 95 % of the estimates lie within two standard errors


def test_far_from_the_threshold_the_estimate_decides():
    a, b = pair(140, 200, 0)  # J = 0.54
    index = NoveltyIndex(replace(WORDS, lsh_threshold=0.3))
    index.add_many(["a"], [a])
    match = index.query(b)
    assert (match.exact, match.duplicate, match.jaccard) == (False, False, match.estimated)
    assert match.jaccard == pytest.approx(140 / 260, abs=0.15)


@pytest.mark.parametrize("shingle", [1, 4])
def test_answers_are_those_of_brute_force(shingle):
    """With wide retrieval, every verdict on 150 mutants, and every exact value, is that of all pairs counted."""
    settings = replace(WORDS, shingle=shingle, lsh_threshold=0.4, jaccard_threshold=0.8, permutations=256)
    codes, queries = families(150), families(150, seed=0) | families(50, seed=1)
    index = NoveltyIndex(settings)
    index.add_many(codes, codes.values())
    for query in queries.values():
        truth = {name: brute_force(query, code, shingle) for name, code in codes.items()}
        match, best = index.query(query), max(truth.values())
        if match.exact:
            assert match.jaccard == pytest.approx(truth[match.nearest]) == pytest.approx(best)
        elif match.nearest:
            assert match.estimated == pytest.approx(truth[match.nearest], abs=0.15)
        assert match.duplicate == (best >= settings.jaccard_threshold)


# --- small and odd sources -------------------------------------------------------------------------------------------


def test_an_empty_index_finds_nothing():
    match = NoveltyIndex().query("x = 1")
    assert (match.nearest, match.jaccard, match.duplicate) == (None, 0, False)


def test_short_and_empty_sources():
    index = NoveltyIndex()
    index.add_many(["short", "empty"], ["x = 1", "# nothing"])
    assert index.query("y = 2").nearest == "short"  # nn_dup: ID = NUM, fewer than ten tokens
    assert index.query("").nearest == index.query("\n# only a comment").nearest == "empty"
    assert not index.query("x + 1").duplicate and not index.query("x = 1; y = 2").duplicate


def test_what_does_not_parse_is_compared_by_its_raw_tokens():
    index = NoveltyIndex()
    index.add_many(["broken"], ["def f(:"])
    assert index.query("def f( :") == novelty.Match("broken", 1.0, 1.0, True, True)


def test_names_are_unique():
    index = NoveltyIndex(WORDS)
    index.add_many(["a"], ["x"])
    for names, error in ((["b", "b"], UsageError), (["b", "a"], UsageError), (["b"], ValueError)):
        with pytest.raises(error):
            index.add_many(names, ["y", "z"])
    with pytest.raises(UsageError):
        index.check_and_add("a", "y")
    assert len(index) == 1 and not index.query("y").duplicate


# --- a batch ---------------------------------------------------------------------------------------------------------


def test_corpus_run_and_batch_are_compared_in_order():
    (a, near_a), (b, near_b), (c, near_c) = (pair(195, 200, seed) for seed in range(3))  # J = 0.95
    index = NoveltyIndex(WORDS)
    index.add_many(["corpus"], [a])
    assert index.check_and_add("run", b).nearest is None
    batch = {"1": near_a, "2": near_b, "3": c, "4": near_c, "5": c}
    found = {name: index.check_and_add(name, code).nearest for name, code in batch.items()}
    assert found == {"1": "corpus", "2": "run", "3": None, "4": "3", "5": "3"}
    assert len(index) == 3  # a duplicate is not added


def test_the_order_of_a_batch_decides_which_twin_is_kept():
    a, near = pair(195, 200, 0)
    for first, second in ((a, near), (near, a)):
        index = NoveltyIndex(WORDS)
        assert not index.check_and_add("first", first).duplicate
        assert index.check_and_add("second", second).nearest == "first"


def test_a_duplicate_makes_nothing_else_a_duplicate():
    base = list(range(200))
    a, b, c = (words(base[i * 8 :] + [1000 + j for j in range(i * 8)]) for i in range(3))  # a-b, b-c 0.92; a-c 0.85
    index = NoveltyIndex(WORDS)
    assert [index.check_and_add(name, code).duplicate for name, code in zip("abc", (a, b, c), strict=True)] == [
        False,
        True,
        False,
    ]


# --- bulk, saving, loading -------------------------------------------------------------------------------------------


def answers(index: NoveltyIndex) -> list[novelty.Match]:
    return [index.query(code) for code in families(60, seed=1).values()] + [
        index.query(c) for c in families(60).values()
    ]


@pytest.fixture
def saved(tmp_path):
    index = NoveltyIndex(replace(WORDS, shingle=2))
    codes = families(60)
    index.add_many(codes, codes.values())
    path = tmp_path / "index.npz"
    index.save(path)
    return index, path


def test_processes_agree_with_one(monkeypatch, saved):
    monkeypatch.setattr(novelty, "PARALLEL_FROM", 1)
    index = NoveltyIndex(saved[0].settings)
    index.add_many(families(60), families(60).values())
    assert answers(index) == answers(saved[0])


def test_a_loaded_index_answers_the_same_and_grows(saved):
    index, path = saved
    loaded = NoveltyIndex.load(path, index.settings)
    assert len(loaded) == len(index) and answers(loaded) == answers(index)
    assert loaded.check_and_add("new", "a b c d e f").nearest is None and loaded.query("a b c d e f").nearest == "new"
    assert list(path.parent.iterdir()) == [path]  # nothing is left beside it


def test_an_empty_index_is_saved_and_loaded(tmp_path):
    NoveltyIndex().save(tmp_path / "empty.npz")
    assert len(NoveltyIndex.load(tmp_path / "empty.npz")) == 0


def test_other_settings_or_versions_are_refused(saved, monkeypatch):
    index, path = saved
    with pytest.raises(DataError, match="settings"):
        NoveltyIndex.load(path, replace(index.settings, seed=2))
    for module, name in ((novelty, "FORMAT"), (canonical, "VERSION")):
        with monkeypatch.context() as patch, pytest.raises(DataError, match=f"{name.lower()[:6]}|canonical"):
            patch.setattr(module, name, 99)
            NoveltyIndex.load(path, index.settings)


def test_damage_is_found(saved):
    index, path = saved
    whole = path.read_bytes()
    flips = np.linspace(0, len(whole) - 1, 100).astype(int)
    damaged = [whole[:i] + bytes([whole[i] ^ 0x55]) + whole[i + 1 :] for i in flips]
    for content in [*damaged, b"", b"garbage", whole[:-1], whole[: len(whole) // 2], whole + b"\0"]:
        path.write_bytes(content)
        with pytest.raises(DataError, match="hash") as caught:
            NoveltyIndex.load(path, index.settings)
        assert caught.value.cure == "build and save it again"
    path.unlink()
    with pytest.raises(DataError, match="No such file"):
        NoveltyIndex.load(path, index.settings)


def test_nothing_is_unpickled(saved):
    index, path = saved
    buffer = io.BytesIO()
    np.savez(buffer, header=np.array([{"names": []}], object))
    path.write_bytes(buffer.getvalue() + hashlib.blake2b(buffer.getvalue(), digest_size=novelty.HASH_BYTES).digest())
    with pytest.raises(DataError, match="pickle"):
        NoveltyIndex.load(path, index.settings)


def test_another_process_builds_the_same_file_and_needs_no_torch(tmp_path):
    """Neither the hash seed of Python nor anything else of a process enters the index."""
    program = (
        "import sys; from pathlib import Path; from nngpt_lab.candidates.novelty import NoveltyIndex\n"
        "index = NoveltyIndex(); index.add_many('ab', ['def f(): return {1, 2}', 'class Net(Module): y = Z()'])\n"
        "index.save(Path(sys.argv[1])); print('torch' in sys.modules)"
    )
    hashes = set()
    for seed in "12":
        call = [sys.executable, "-c", program, tmp_path / "index.npz"]
        done = subprocess.run(
            call, env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == "False"
        hashes.add(hashlib.sha256((tmp_path / "index.npz").read_bytes()).hexdigest())
    assert len(hashes) == 1


# --- sensitivity -----------------------------------------------------------------------------------------------------


def test_sensitivity_is_greedy_keep_first():
    codes = families(60)
    table = sensitivity({"made": codes}, {"raw_tokens": [1, 4], "structure": [1, 4]}, [0.7, 0.9], jobs=1)
    assert table[["form", "shingle", "threshold"]].apply(tuple, axis=1).is_unique and len(table) == 8
    for row in table[table["form"] == "raw_tokens"].itertuples():
        kept = []
        for name in sorted(codes):
            if all(brute_force(codes[name], other, row.shingle) < row.threshold for other in kept):
                kept.append(codes[name])
        assert row.kept == pytest.approx(len(kept), abs=1) and row.share_kept == row.kept / len(codes)
    assert (table.loc[table["form"] == "structure", "fell_back"] == 60).all()  # bags of words do not parse
    assert (table["seconds"] > 0).all()


@pytest.mark.parametrize("form", EACH_FORM)
def test_the_nearest_is_counted_however_far_it_is(form):
    index = NoveltyIndex(EACH_FORM[form])
    assert (index.nearest("x = 1").nearest, index.nearest("x = 1").duplicate) == (None, False)
    codes = {
        name: "\n".join(
            ["import torch.nn as nn", *(f"y = nn.Linear({i}, {i + 1})(x)" for i in range(start, start + 40))]
        )
        for name, start in (("far", 900), ("near", 20), ("query", 0))
    }
    query = codes.pop("query")
    index.add_many(codes, codes.values())
    sets = {name: set(sketch_code(code, index.settings).shingles.tolist()) for name, code in codes.items()}
    own = set(sketch_code(query, index.settings).shingles.tolist())
    best = max(sets, key=lambda name: len(own & sets[name]) / len(own | sets[name]))
    match = index.nearest(query)
    assert match.exact
    assert match.jaccard == len(own & sets[best]) / len(own | sets[best])
    assert index.nearest(codes["far"]).jaccard == 1
