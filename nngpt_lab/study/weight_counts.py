"""How many weights LEMUR's networks have: counted once and shipped beside this file, so that nobody need run them.

    python -m nngpt_lab.study.weight_counts     # counts anew, some ten minutes on two cores

Every source is run in the sandbox, at 32 px and 10 classes as paper B trains it. The file holds names, hashes of the
code and counts, no source.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

import pandas as pd
from joblib import cpu_count
from tqdm import tqdm

from nngpt_lab.candidates.protocols import get_protocol
from nngpt_lab.corpora import architectures
from nngpt_lab.corpora.code import code_hash
from nngpt_lab.ground.errors import DataError
from nngpt_lab.ground.progress import bar_hidden
from nngpt_lab.sandbox.parent import Limits, Sandbox
from nngpt_lab.sandbox.status import Status

FILE = Path(__file__).with_name("weight_counts.parquet")
CLASSES = 10


def load(sources: pd.DataFrame) -> pd.DataFrame:
    """LEMUR's sources (columns name, family, code_hash) with their counts: columns name, family, weights (null where
    none could be counted, ``reason`` says why), reason. DataError if the file is of other sources."""
    counts = pd.read_parquet(FILE).astype({"weights": "Int64"})
    table = sources[["name", "family", "code_hash"]].merge(counts, on=["name", "code_hash"], how="left")
    if table["reason"].isna().any():
        raise DataError("the counted weights are of other sources", f"count anew: python -m {__spec__.name}")
    return table.drop(columns="code_hash")


def by_family(counts: pd.DataFrame, most: int) -> pd.DataFrame:
    """Columns family, networks, counted, median (weights), within and share (per cent of those counted) of ``most``."""
    rows = []
    for family, part in [*counts.groupby("family"), ("all", counts)]:
        known = part["weights"].dropna().astype(int)
        within = int((known <= most).sum())
        rows.append((family, len(part), len(known), known.median(), within, 100 * within / max(1, len(known))))
    return pd.DataFrame(rows, columns=["family", "networks", "counted", "median", "within", "share"])


def keep_limit(codes: pd.Series, corpus: str, most: int | None) -> pd.Series:
    """Which sources of a corpus are known to have at most so many weights; all if there is no limit. Of ``narrow`` all,
    too: its networks are LEMUR's at a sixteenth of their width."""
    if most is None or corpus != "lemur":
        return pd.Series(True, index=codes.index)
    counts = pd.read_parquet(FILE, columns=["code_hash", "weights"])
    allowed = set(counts.loc[counts["weights"] <= most, "code_hash"])
    return codes.map(lambda code: code_hash(code) in allowed)


def count(sources: pd.DataFrame) -> pd.DataFrame:
    """Count the weights of every source (columns name, code, code_hash); columns name, code_hash, weights, reason."""
    protocol = {"protocol": get_protocol("paper-b").as_dict(), "classes": CLASSES}
    limits = Limits(wall_seconds=60, cpu_seconds=60, memory_mib=4096)
    free: SimpleQueue[Sandbox] = SimpleQueue()

    def counted(code: str) -> tuple[int | None, str]:
        sandbox = free.get()
        try:
            report = sandbox.run("weights", {"code": code} | protocol)
        finally:
            free.put(sandbox)
        if report.status != Status.OK:
            return None, report.status.value
        return (int(report.value), "") if type(report.value) is int else (None, "no number")

    sandboxes = [Sandbox(limits, "nngpt_lab.candidates.training") for _ in range(cpu_count())]
    try:
        for sandbox in sandboxes:
            free.put(sandbox)
        with ThreadPoolExecutor(len(sandboxes)) as threads:
            found: Iterator = threads.map(counted, sources["code"])
            results = list(tqdm(found, "weights", len(sources), unit=" networks", disable=bar_hidden()))
    finally:
        for sandbox in sandboxes:
            sandbox.close()
    table = sources[["name", "code_hash"]].assign(
        weights=pd.array([number for number, _ in results], dtype="Int64"), reason=[reason for _, reason in results]
    )
    return table.reset_index(drop=True)


if __name__ == "__main__":
    table = count(architectures.load().architectures)
    table.to_parquet(FILE, index=False, compression="zstd")
    print(json.dumps({"counted": int(table["weights"].notna().sum()), "of": len(table)}))
