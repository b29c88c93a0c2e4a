"""Is this source new? Canonical form -> set of shingles -> MinHash and LSH -> exact Jaccard near the threshold.

A candidate is compared with the corpus, the run so far and its own batch. When is for the caller to say: paper B's loop
asks at admission, of networks that were trained::

    index = NoveltyIndex(PAPER_B)
    index.add_many(names, codes)  # the corpus, once: then save() and load()
    match = index.check_and_add("candidate-1", code)  # added unless match.duplicate; see match.nearest, match.jaccard

**Hashing.** A token is hashed by BLAKE2b to 64 bits (stable between runs and machines, unlike ``hash``), a shingle is a
sum of its tokens' hashes with one odd multiplier per position. Sets and exact Jaccard use these 64 bits: among a
million distinct shingles any collision has probability 3e-8, where CRC-32 would give about a hundred. MinHash uses the
upper 32 bits and equals ``datasketch.MinHash(scheme="affine32")`` bit for bit (a test holds that).

**Retrieval.** Bands as ``datasketch.MinHashLSH`` chooses them. A pair of similarity J is retrieved with probability
1 - (1 - J^r)^b, and what is not retrieved counts as new. With the published 0.85 and 256 permutations (b 13, r 19) that
is 0.85 at J = 0.90 and 0.998 at 0.95; ``CAREFUL`` retrieves at 0.75 (b 21, r 12): 0.999 at J = 0.90. Of LEMUR's 15,352
pairs with J >= 0.90 in nn_dup form ``PAPER_B`` misses 2.2 % (other seeds: up to 9.9 %), ``CAREFUL`` none. Beyond two
standard errors the estimate decides: it misjudged 13 of the 64,409 pairs with J > 0.80.

**Cost.** LEMUR in nn_dup form: 24 s on one core, of which 20 s for the form; a query of it takes 2 to 4 ms.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
from datasketch import MinHash, MinHashLSH

from nngpt_lab.candidates import canonical
from nngpt_lab.corpora.code import no_collection
from nngpt_lab.ground.errors import DataError, UsageError
from nngpt_lab.ground.files import replacing
from nngpt_lab.ground.processes import in_processes

FORMAT = 1  # version of the saved file's layout
HASH_BYTES = 32
PARALLEL_FROM = 2_000  # sources; below, starting processes costs more than it saves
CHUNK = 2_048  # shingles permuted at once: 2 MB with 256 permutations, which stays in the cache


@dataclass(frozen=True)
class NoveltySettings:
    """When two sources count as near-duplicates.

    Attributes:
        form: name of a canonical form, a key of ``canonical.FORMS``.
        shingle: tokens in a shingle, from 1.
        permutations: length of a MinHash signature; the error of an estimate is sqrt(J (1 - J) / permutations).
        lsh_threshold: similarity at which LSH is tuned to retrieve, in (0, 1).
        jaccard_threshold: a source is a duplicate if its Jaccard index with another is at least this, in (0, 1].
        seed: of the MinHash permutations.
    """

    form: str
    shingle: int
    permutations: int
    lsh_threshold: float
    jaccard_threshold: float
    seed: int = 1

    def __post_init__(self):
        if self.form not in canonical.FORMS:
            raise UsageError(f"there is no canonical form {self.form!r}", f"use one of {', '.join(canonical.FORMS)}")
        thresholds = 0 < self.lsh_threshold < 1 and 0 < self.jaccard_threshold <= 1
        if self.shingle < 1 or self.permutations < 2 or not thresholds:
            raise UsageError(f"{self} means nothing", "use shingles from 1, permutations from 2, thresholds up to 1")

    @property
    def margin(self) -> float:
        """Two standard errors of an estimate at the decision threshold: nearer than that, Jaccard is exact."""
        return 2 * math.sqrt(self.jaccard_threshold * (1 - self.jaccard_threshold) / self.permutations)


PAPER_B = NoveltySettings("nn_dup", shingle=10, permutations=256, lsh_threshold=0.85, jaccard_threshold=0.90)
"""Paper B as it reports its novelty check (papers.md, B.1); the same numbers as nn-dup's ``consts/settings.py``."""
AUTHORS_LOOP = NoveltySettings("raw_tokens", shingle=7, permutations=128, lsh_threshold=0.85, jaccard_threshold=0.85)
"""Generation in the authors' loop (nn-gpt, ``nn_sftcodegen_rag.py``: ``near_dup_threshold`` 0.85, on the estimate)."""
STRUCTURE = NoveltySettings("structure", shingle=1, permutations=256, lsh_threshold=0.85, jaccard_threshold=0.90)
"""nn-dup's structural stage (``JACCARD_THRESH_STRUCT`` 0.90), with our rename-proof fingerprint as a bag."""
CAREFUL = replace(PAPER_B, lsh_threshold=0.75)
"""Paper B's decision without the duplicates that its retrieval misses; not a published setting."""
EACH_FORM = {rule.form: rule for rule in (AUTHORS_LOOP, PAPER_B, replace(PAPER_B, form="ast_nameless"), STRUCTURE)}
"""A setting for each canonical form, whose own threshold says what is a duplicate there."""


@dataclass(frozen=True)
class Match:
    """The nearest source that was found (None if none was retrieved), and the verdict. ``jaccard``: the similarity that
    the verdict rests on, counted on the sets if ``exact`` (near the threshold, and for equal sets), else the MinHash
    estimate of the pair, ``estimated``; a ``duplicate`` reaches the threshold."""

    nearest: str | None
    jaccard: float
    estimated: float
    exact: bool
    duplicate: bool


@dataclass(frozen=True)
class Sketch:
    """A source as the index sees it: sorted distinct shingle hashes (n,) uint64, MinHash (permutations,) uint32."""

    shingles: np.ndarray
    signature: np.ndarray

    @property
    def digest(self) -> bytes:
        """Equal for two sources if and only if their sets of shingles are."""
        return hashlib.blake2b(self.shingles.tobytes(), digest_size=16).digest()


@lru_cache(maxsize=1 << 18)
def _hash64(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


@lru_cache(maxsize=64)
def _multipliers(length: int) -> tuple[np.uint64, ...]:
    return tuple(np.uint64(_hash64(f"position {i}") | 1) for i in range(length))


def shingle_hashes(tokens: Sequence[str], length: int) -> np.ndarray:
    """Sorted distinct 64-bit hashes of all runs of ``length`` tokens, as (n,) uint64. Fewer tokens than that are one
    shingle, as in nn-dup and the authors' loop; no tokens are the empty set."""
    return shingles_of(token_hashes(tokens), length)


def token_hashes(tokens: Sequence[str]) -> np.ndarray:
    """The tokens' 64-bit hashes in their order, as (n,) uint64."""
    return np.array([_hash64(token) for token in tokens], np.uint64)


def shingles_of(hashes: np.ndarray, length: int) -> np.ndarray:
    """:func:`shingle_hashes`, from the tokens' hashes."""
    if not len(hashes):
        return hashes
    length = min(length, len(hashes))
    runs = len(hashes) - length + 1
    total = np.zeros(runs, np.uint64)
    for i, multiplier in enumerate(_multipliers(length)):
        total += hashes[i : i + runs] * multiplier  # modulo 2^64
    return np.unique(total)


@lru_cache(maxsize=16)
def permutations(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """datasketch's maps h -> a h + b mod 2^32 (scheme affine32): a odd, b, each (count,) uint32."""
    a, b = MinHash(num_perm=count, seed=seed, scheme="affine32").permutations
    return a, b


def minhash(shingles: np.ndarray, count: int, seed: int) -> np.ndarray:
    """MinHash signature (count,) uint32 of a set of 64-bit hashes; all ones for the empty set.

    The MurmurHash3 finaliser goes first, then each permutation keeps its smallest value: the arithmetic of
    ``datasketch.MinHash(num_perm=count, seed=seed, scheme="affine32")`` on the hashes' upper 32 bits, which hashes
    member by member and takes five times as long.
    """
    a, b = permutations(count, seed)
    h = (shingles >> np.uint64(32)).astype(np.uint32)
    for shift, multiplier in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        h = (h ^ (h >> np.uint32(shift))) * np.uint32(multiplier)
    h ^= h >> np.uint32(16)
    signature = np.full(count, np.iinfo(np.uint32).max, np.uint32)
    for start in range(0, len(h), CHUNK):
        signature = np.minimum(signature, (h[start : start + CHUNK, None] * a + b).min(axis=0))
    return signature


def sketch(form: canonical.Canonical, settings: NoveltySettings) -> Sketch:
    """Shingles and signature of a source in canonical form."""
    shingles = shingle_hashes(form.tokens, settings.shingle)
    return Sketch(shingles, minhash(shingles, settings.permutations, settings.seed))


@no_collection()
def sketch_code(code: str, settings: NoveltySettings) -> Sketch:
    """:func:`sketch` of a source as it is."""
    return sketch(canonical.FORMS[settings.form].canonical(code), settings)


def jaccard(query: np.ndarray, others: Sequence[np.ndarray]) -> np.ndarray:
    """Exact Jaccard index of one set with each of m others (arrays of distinct values), as (m,); 1 for two empty ones.
    One hash table for all: a quarter of the time that ``np.intersect1d`` takes for them in turn."""
    ends = np.cumsum([0, *map(len, others)])
    hits = np.append(0, np.cumsum(pd.Series(np.concatenate(others)).isin(query)))
    common, sizes = np.diff(hits[ends]), np.diff(ends)
    union = len(query) + sizes - common
    return np.where(union > 0, common / np.maximum(union, 1), 1.0)


@lru_cache(maxsize=64)
def bands(threshold: float, count: int) -> tuple[int, int]:
    """How many bands of how many rows ``datasketch.MinHashLSH`` uses for this threshold."""
    lsh = MinHashLSH(threshold=threshold, num_perm=count)
    return lsh.b, lsh.r


class NoveltyIndex:
    """Sources seen so far. Equal sets of shingles share a row, named after the first that came.
    ``datasketch.MinHashLSH`` finds the rows that share a band; it is built again on loading, so nothing is pickled."""

    def __init__(self, settings: NoveltySettings = PAPER_B):
        self.settings = settings
        self._rows: dict[str, int] = {}  # name of every source -> its row
        self._names: list[str] = []  # row -> the first source with this set
        self._sketches: list[Sketch] = []
        self._by_digest: dict[bytes, int] = {}
        shape = bands(settings.lsh_threshold, settings.permutations)  # integrals of a tenth of a second, taken once
        self._lsh = MinHashLSH(num_perm=settings.permutations, params=shape)

    def __len__(self) -> int:
        """Sources added, equal ones included."""
        return len(self._rows)

    def add_many(self, names: Iterable[str], codes: Iterable[str]) -> None:
        """Add sources without asking whether they are new; on all cores where there are many. Adds nothing, and raises
        UsageError if a name is there already or comes twice, ValueError if lengths differ."""
        names, codes = list(names), list(codes)
        self._check_names(names)
        if len(codes) != len(names):
            raise ValueError(f"{len(names)} names for {len(codes)} sources")
        sketches = in_processes(partial(sketch_code, settings=self.settings), codes, "sketched", PARALLEL_FROM)
        for name, sketched in zip(names, sketches, strict=True):
            self._add(name, sketched)

    def query(self, code: str) -> Match:
        """The nearest source by Jaccard index, among those that LSH retrieves; the first added among equals."""
        return self.match(sketch_code(code, self.settings))

    def check_and_add(self, name: str, code: str) -> Match:
        """Query, and add if it is new: called in order, it compares a batch with the corpus, the run and itself. A
        duplicate is not added, so it makes nothing else a duplicate. UsageError if the name is taken."""
        self._check_names([name])
        sketched = sketch_code(code, self.settings)
        match = self.match(sketched)
        if not match.duplicate:
            self._add(name, sketched)
        return match

    def nearest(self, code: str) -> Match:
        """The nearest of all sources by exact Jaccard index, however far it is: LSH is not asked. O(sources)."""
        if not self._sketches:
            return Match(None, 0.0, 0.0, exact=True, duplicate=False)
        query = sketch_code(code, self.settings)
        counted = jaccard(query.shingles, [known.shingles for known in self._sketches])
        best = int(np.argmax(counted))
        estimated, value = float((self._sketches[best].signature == query.signature).mean()), float(counted[best])
        return Match(self._names[best], value, estimated, True, value >= self.settings.jaccard_threshold)

    def match(self, query: Sketch) -> Match:
        """As :meth:`query`, for a sketch made with the same settings."""
        if (row := self._by_digest.get(query.digest)) is not None:
            return Match(self._names[row], 1.0, 1.0, exact=True, duplicate=True)
        rows = sorted(self._lsh.query(_as_minhash(query.signature)))  # in order of insertion
        if not rows:
            return Match(None, 0.0, 0.0, exact=False, duplicate=False)
        signatures = np.array([self._sketches[row].signature for row in rows])
        estimates = (signatures == query.signature).mean(axis=1)
        threshold, margin = self.settings.jaccard_threshold, self.settings.margin
        best = int(np.argmax(estimates))  # the first of equals
        value, exact = float(estimates[best]), False
        # The best estimate may lie clearly above the threshold, clearly below, or so near that counting decides.
        if value <= threshold + margin and (near := np.flatnonzero(estimates >= threshold - margin)).size:
            counted = jaccard(query.shingles, [self._sketches[rows[i]].shingles for i in near])
            best, value, exact = int(near[np.argmax(counted)]), float(counted.max()), True
        name = self._names[rows[best]]
        return Match(name, value, float(estimates[best]), exact, value >= threshold)

    def _check_names(self, names: Sequence[str]) -> None:
        if taken := [name for name, count in Counter(names).items() if count > 1 or name in self._rows]:
            raise UsageError(f"there is a source named {taken[0]!r} already", "give every source a name of its own")

    def _add(self, name: str, sketched: Sketch) -> None:
        row = self._by_digest.setdefault(sketched.digest, len(self._names))
        self._rows[name] = row
        if row == len(self._names):
            self._names.append(name)
            self._sketches.append(sketched)
            self._lsh.insert(row, _as_minhash(sketched.signature), check_duplication=False)

    def save(self, path: Path) -> None:
        """Write the index as ``.npz`` and its BLAKE2b hash, atomically: a reader sees the old file or the whole new."""
        arrays = {
            "signatures": np.array([sketched.signature for sketched in self._sketches], "<u4"),
            "shingles": np.concatenate([np.zeros(0, "<u8"), *(sketched.shingles for sketched in self._sketches)]),
            "ends": np.cumsum([len(sketched.shingles) for sketched in self._sketches], dtype="<i8"),
        }
        header = _made_with(self.settings) | {"names": list(self._rows), "rows": list(self._rows.values())}
        text = np.frombuffer(json.dumps(header, sort_keys=True).encode(), np.uint8)
        buffer = io.BytesIO()
        np.savez(buffer, header=text, **arrays)
        with replacing(path) as file:
            file.write(buffer.getvalue() + hashlib.blake2b(buffer.getvalue(), digest_size=HASH_BYTES).digest())

    @classmethod
    def load(cls, path: Path, settings: NoveltySettings = PAPER_B) -> Self:
        """Read what :meth:`save` wrote; never unpickles. DataError if the file is missing, damaged, or was made with
        other settings or by another version (of the layout, of the canonical forms, or of Python, whose ``ast.unparse``
        the forms rely on)."""
        try:
            content = path.read_bytes()
            content, digest = content[:-HASH_BYTES], content[-HASH_BYTES:]
            if hashlib.blake2b(content, digest_size=HASH_BYTES).digest() != digest:  # before any parser sees a byte
                raise ValueError("its content does not match its hash")
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            header = json.loads(arrays["header"].tobytes())
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"the novelty index {path} cannot be read: {error}", "build and save it again") from error
        for key, wanted in _made_with(settings).items():
            if header.get(key) != wanted:
                made = f"the novelty index {path} was made with {key} {header.get(key)}, not {wanted}"
                raise DataError(made, "load it with what it was made with, or build and save it again")
        index = cls(settings)
        sets = np.split(arrays["shingles"], arrays["ends"][:-1])
        for name, row in zip(header["names"], header["rows"], strict=True):
            index._add(name, Sketch(sets[row], arrays["signatures"][row]))
        return index


def _as_minhash(signature: np.ndarray) -> MinHash:
    """A signature as datasketch's index takes it."""
    return MinHash(hashvalues=signature, permutations=permutations(len(signature), 1), scheme="affine32")


def _made_with(settings: NoveltySettings) -> dict:
    versions = {"format": FORMAT, "canonical": canonical.VERSION, "python": list(sys.version_info[:2])}
    return versions | {"settings": asdict(settings)}
