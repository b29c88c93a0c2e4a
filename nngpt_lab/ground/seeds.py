"""Seeds from keys: every random stream has a key of its own, and distinct keys have unrelated streams.

    seed = derive("paper B", "sampling", run_seed, cycle, position)     # a number, below 2**63
    rng = generator("paper B", "choice", run_seed, cycle)               # a numpy generator

numpy's own ``default_rng([5])`` and ``default_rng([5, 0])`` are the same stream, because SeedSequence fills up with
zeros. Here a key is written down part by part with its type and length, so that no two keys read alike, and hashed.
"""

from __future__ import annotations

import hashlib
from numbers import Integral

import numpy as np

SCHEME = 2
"""Version of this scheme. It enters the hash of every design, so that a resumed run mixes no samples of two schemes."""


def derive(*key: int | str) -> int:
    """A seed in [0, 2**63), which SQLite and torch can hold, from a key of whole numbers and words; TypeError if a part
    of the key is neither (bool is neither)."""
    return int.from_bytes(_digest(key)[:8], "big") >> 1


def generator(*key: int | str) -> np.random.Generator:
    """A generator seeded with 256 bits of the same hash; keys as in :func:`derive`."""
    return np.random.default_rng(int.from_bytes(_digest(key), "big"))


def _digest(key: tuple[int | str, ...]) -> bytes:
    digest = hashlib.sha256()
    for part in key:
        if isinstance(part, str):
            kind, content = b"s", part.encode()
        elif isinstance(part, Integral) and not isinstance(part, bool):
            kind, content = b"i", str(int(part)).encode()
        else:
            raise TypeError(f"a key is made of whole numbers and words, not of {part!r}")
        digest.update(kind + len(content).to_bytes(8, "big") + content)
    return digest.digest()
