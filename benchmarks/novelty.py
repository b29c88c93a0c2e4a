"""Near-duplicates of LEMUR: nn-dup's lexical stage and our index on the same sources, one process and one thread each.

nn-dup 2.2.4 has no function for that stage, so its real pipeline ``curate_from_lemur`` runs, and is stopped by the log
message that announces the next stage; what it kept is read from its frame. Instead of its data base it is given LEMUR's
sources as one table, each with the best accuracy on record (which decides whom of a group it keeps). Ours takes the
sources in the order of the same preference, so that both keep the same one where they agree on what is a duplicate.

    python -m pip install --no-deps nn-dup==2.2.4
    python benchmarks/novelty.py                  # 2,000 sources, then all; each side gets 10 minutes of CPU time
    python benchmarks/novelty.py --minutes 40     # long enough for nn-dup to end on all
"""

from __future__ import annotations

import importlib.util
import math
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
import types
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import click
import numpy as np
import pandas as pd
from common import write_result

from nngpt_lab.candidates.novelty import CAREFUL, PAPER_B, NoveltyIndex, NoveltySettings, jaccard, sketch_code
from nngpt_lab.corpora import architectures
from nngpt_lab.ground.errors import UsageError

FRACTAL = 0.97  # nn-dup's threshold for its family "fractal"; 0.90 for all others
NEXT_STAGE, FIRST_STAGE = "[3]", "[1]"


@dataclass(frozen=True)
class Run:
    """One side's run; times in seconds, memory in MiB. The last three, nn-dup's alone: what it saw in a source."""

    wall: float
    cpu: float
    memory: float
    kept: frozenset[str]
    family: dict[str, str] = field(default_factory=dict)
    cluster: dict[str, int] = field(default_factory=dict)
    shingles: dict[str, int] = field(default_factory=dict)


def lemur(size: int, seed: int) -> pd.DataFrame:
    """``size`` LEMUR sources (0: all): name, code, accuracy (best on record), by name."""
    lemur = architectures.load()
    sources = lemur.architectures[["name", "code"]].sort_values("name", ignore_index=True)
    best = lemur.records.groupby("architecture", observed=True)["accuracy"].max()
    sources["accuracy"] = sources["name"].map(best)
    if size and size < len(sources):
        rows = np.random.default_rng(seed).choice(len(sources), size, replace=False)
        sources = sources.iloc[np.sort(rows)].reset_index(drop=True)
    return sources


# --- the two sides, each in a process of its own ----------------------------------------------------------------------


class Stop(Exception):
    """Raised out of nn-dup's pipeline where its lexical stage has ended."""


class Stages:
    """The logger that nn-dup is given: notes when the stages begin, and ends the run at the third."""

    def __init__(self):
        self.began = (0.0, 0.0)

    def info(self, message: str) -> None:
        if message.startswith(FIRST_STAGE):
            self.began = time.perf_counter(), time.process_time()
        if message.startswith(NEXT_STAGE):
            raise Stop

    warning = error = info


def nn_dup(sources: pd.DataFrame) -> Run:
    """nn-dup's exact and lexical stages with its own defaults."""
    _offer(sources.rename(columns={"name": "nn", "code": "nn_code"}))
    from ab.dup.preprocessing import curate_from_lemur

    stages = Stages()
    try:
        with tempfile.TemporaryDirectory() as folder:
            curate_from_lemur(Path(folder), logger=stages)
    except Stop as stop:
        wall, cpu = time.perf_counter() - stages.began[0], time.process_time() - stages.began[1]
        trace = stop.__traceback__
        while trace.tb_frame.f_code.co_name != curate_from_lemur.__name__:
            trace = trace.tb_next
        state = trace.tb_frame.f_locals
    names = {key: record["name"] for key, record in state["record_index"].items()}
    return Run(
        wall, cpu, _memory(), frozenset(names[key] for key in state["kept"]),
        family={names[key]: family for key, family in state["family_label_map"].items()},
        cluster={names[key]: i for i, group in enumerate(state["lsh_clusters"]) for key in group},
        shingles={names[key]: len(hashes) for key, hashes in state["shing"].items()},
    )  # fmt: skip


def _offer(table: pd.DataFrame) -> None:
    """Put ``table`` where nn-dup looks for LEMUR: the real ``ab.nn.api`` would ask a model hub for its data base."""
    package, api = types.ModuleType("ab.nn"), types.ModuleType("ab.nn.api")
    package.api, api.data = api, lambda only_best_accuracy: table
    sys.modules |= {"ab.nn": package, "ab.nn.api": api}


def ours(sources: pd.DataFrame, settings: NoveltySettings) -> Run:
    """Every source checked against those kept so far, and added if it is new."""
    names, codes = preferred(sources)
    wall, cpu = time.perf_counter(), time.process_time()
    index = NoveltyIndex(settings)
    kept = [name for name, code in zip(names, codes, strict=True) if not index.check_and_add(name, code).duplicate]
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Run(wall, cpu, _memory(), frozenset(kept))


NN_DUP, OURS = "nn-dup, stages 1 and 2", "ours, PAPER_B"
SIDES = {NN_DUP: nn_dup, OURS: partial(ours, settings=PAPER_B), "ours, CAREFUL": partial(ours, settings=CAREFUL)}


def preferred(sources: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Names and codes in nn-dup's order of preference: best accuracy, then longest, then by name."""
    by_length = sources.assign(length=sources["code"].str.len())
    order = by_length.sort_values(["accuracy", "length", "name"], ascending=[False, False, True], na_position="last")
    return order["name"].tolist(), order["code"].tolist()


def _memory() -> float:
    """Peak of this process; nan where there is no /proc. (``ru_maxrss`` would be that of the process it came from.)"""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), math.nan)


class OutOfTime(BaseException):
    """Its CPU time is used up. No ``Exception``, so that no side takes it for one of its own."""


def in_process(side: Callable[[pd.DataFrame], Run], sources: pd.DataFrame, minutes: float) -> Run | None:
    """``side(sources)`` in a fresh process; None if it has used up ``minutes`` of CPU time."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=_limit, initargs=(round(60 * minutes),)) as process:
        try:
            return process.submit(side, sources).result()
        except OutOfTime:
            return None


def _limit(seconds: int) -> None:
    def stop(*_: object) -> None:
        raise OutOfTime

    signal.signal(signal.SIGXCPU, stop)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 60))


# --- why the kept sets differ -----------------------------------------------------------------------------------------


def reasons(sources: pd.DataFrame, theirs: Run, our: Run) -> Counter[tuple[str, str]]:
    """Number of sources by (kept by, reason), for those that only one side kept; by exact Jaccard on our tokens."""
    names, codes = preferred(sources)
    code_of = dict(zip(names, codes, strict=True))
    others = sorted(our.kept)
    kept_sets = [sketch_code(code_of[other], PAPER_B).shingles for other in others]
    counts: Counter[tuple[str, str]] = Counter()
    for name in sorted(theirs.kept ^ our.kept):
        own = sketch_code(code_of[name], PAPER_B).shingles
        likeness = dict(zip(others, jaccard(own, kept_sets), strict=True))
        near = {o: j for o, j in likeness.items() if o != name and j >= PAPER_B.jaccard_threshold}
        if theirs.shingles.get(name, len(own)) != len(own):
            reason = "nn-dup reads other tokens"
        elif name not in our.kept:
            reason = _why_only_theirs(name, near, theirs)
        elif near:
            reason = "our LSH did not retrieve its near-duplicate"
        else:
            reason = "like none that ours kept, but chained to one through others: nn-dup removes along chains"
        counts["ours" if name in our.kept else "nn-dup", reason] += 1
    return counts


def _why_only_theirs(name: str, near: dict[str, float], theirs: Run) -> str:
    family = theirs.family[name]
    same = {other: likeness for other, likeness in near.items() if theirs.family.get(other) == family}
    if not same:
        return "its near-duplicate is of another family: nn-dup compares within families only"
    if all(theirs.cluster.get(other, -1) != theirs.cluster.get(name, -2) for other in same):
        return "not retrieved by nn-dup's LSH"
    if family == "fractal" and max(same.values()) < FRACTAL:
        return "a FractalNet, which nn-dup calls a duplicate from 0.97 on"
    return "nn-dup keeps up to five of a group and family"


# --- the report -------------------------------------------------------------------------------------------------------


def compare(sources: pd.DataFrame, minutes: float) -> dict[str, list[dict]]:
    """Rows of the three tables for one set of sources, by the tables' headings."""
    runs = {who: in_process(side, sources, minutes) for who, side in SIDES.items()}
    theirs, our = runs[NN_DUP], runs[OURS]
    times = [_time_row(who, run, our, len(sources), minutes) for who, run in runs.items()]
    if theirs is None or our is None:
        return {"Time": times}
    both = theirs.kept & our.kept
    agreement = {
        "sources": len(sources), "kept by both": len(both), "only by nn-dup": len(theirs.kept - our.kept),
        "only by ours": len(our.kept - theirs.kept), "Jaccard": round(len(both) / len(theirs.kept | our.kept), 3),
    }  # fmt: skip
    why = [
        {"sources": len(sources), "kept only by": kept_by, "reason": reason, "count": count}
        for (kept_by, reason), count in sorted(reasons(sources, theirs, our).items())
    ]
    return {"Time": times, "Kept sets": [agreement], "Why they differ": why}


def _time_row(who: str, run: Run | None, our: Run | None, sources: int, minutes: float) -> dict:
    row = {"sources": sources, "who": who}
    if run is None:
        at_least = f"over {60 * minutes / our.cpu:.0f}" if our else ""
        return row | {"CPU, s": f"over {60 * minutes:.0f}, stopped", "times ours": at_least}
    ratio = f"{run.cpu / our.cpu:.1f}" if our else ""
    share = f"{100 * len(run.kept) / sources:.1f}"
    return row | {"wall, s": f"{run.wall:.1f}", "CPU, s": f"{run.cpu:.1f}", "times ours": ratio,
                  "peak memory, MiB": f"{run.memory:.0f}", "kept": len(run.kept), "kept, %": share}  # fmt: skip


TITLE = "Novelty: nn-dup and ours on LEMUR"
NOTES = (
    "Each side: one process, one thread; data loaded and modules imported before the clock starts. nn-dup's time is "
    "that of its stages 1 (equal texts) and 2 (lexical); ours does both at once. Ratios are of CPU time, which other "
    "work on the machine disturbs less.",
    "Both: 10-token shingles, 256 permutations, LSH 0.85, Jaccard 0.90. nn-dup counts the Jaccard index of all pairs "
    "of an LSH cluster, and clusters grow along chains, so its time grows with the square of the largest; ours "
    "compares with what it kept. CAREFUL retrieves from 0.75 on: no published setting, but it misses almost nothing.",
    "nn-dup runs with its defaults: FractalNets are duplicates from 0.97 on, only sources of one family (by name and "
    "key words) are compared, and up to five of a group and family stay.",
    "nn-dup's README reports 10,323 distinct sources, of which its lexical stage removed 8,939 (13.4 % kept), on its "
    "own state of LEMUR. Sources here: nn-dataset 2.1.2, one row a source, with its best accuracy on record.",
)


@click.command()
@click.option("--sizes", multiple=True, type=int, default=(2000, 0), show_default=True, help="sources; 0: all of LEMUR")
@click.option("--minutes", default=10.0, show_default=True, help="of CPU time, after which a side is stopped")
@click.option("--seed", default=0, show_default=True, help="of the samples")
def main(sizes: tuple[int, ...], minutes: float, seed: int) -> None:
    """Time and kept sets of nn-dup's lexical stage and of ours."""
    if importlib.util.find_spec("ab.dup") is None:
        raise UsageError("nn-dup is not installed", "python -m pip install --no-deps nn-dup==2.2.4")
    os.environ["TQDM_DISABLE"] = "1"  # read when tqdm is imported: by the children
    tables: dict[str, list[dict]] = {}
    for size in sizes:
        for heading, rows in compare(lemur(size, seed), minutes).items():
            tables.setdefault(heading, []).extend(rows)
        frames = {heading: pd.DataFrame(rows).fillna("") for heading, rows in tables.items() if rows}
        write_result(TITLE, frames, NOTES, packages=("nn-dup", "datasketch", "numpy"))  # what is done, stays


if __name__ == "__main__":
    main()
