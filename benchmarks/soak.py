"""2,000 candidates, good, broken and hostile, through pool and ledger: do processes, descriptors or memory grow?

    python benchmarks/soak.py

Reads LEMUR from the lab's cache (`nngpt-lab fetch`). After a warm-up of 200 candidates the means of the first and of
the last quarter of all readings are compared; each reading is taken while no candidate is at work.
"""

from __future__ import annotations

import contextlib
import resource
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pandas as pd
import psutil
from common import write_result
from tqdm import tqdm

from nngpt_lab.candidates.ledger import Ledger
from nngpt_lab.candidates.outcome import Candidate, Kind
from nngpt_lab.candidates.pool import LocalPool
from nngpt_lab.candidates.protocols import get_protocol
from nngpt_lab.candidates.proxy import prepare
from nngpt_lab.candidates.screening import EXAMPLES, example, screen
from nngpt_lab.corpora import architectures

PROTOCOL = replace(get_protocol("digits"), train_limit=320, wall_seconds=4.0, memory_mib=512)
HOSTILE = {  # what the constructor does first
    "endless loop": "while True: pass",
    "memory bomb": "hoard = [bytearray(1 << 26) for _ in range(1 << 10)]",
    "fork bomb": "import os\n        while True: os.fork()",
    "thread bomb": "import threading as t, time\n        while True: t.Thread(target=time.sleep, args=(60,)).start()",
    "daemon left behind": "import os, time\n        if os.fork() == 0:\n            os.setsid(); time.sleep(600)",
    "disk filled": "open('big', 'wb').write(bytes(1 << 28))",
    "output flood": "while True: print('x' * 4096)",
    "exit": "import os; os._exit(0)",
    "segmentation fault": "import ctypes; ctypes.string_at(0)",
    "descriptors": "self.files = [open('/dev/null') for _ in range(100_000)]",
}


def candidates(count: int, rng: np.random.Generator) -> Iterator[tuple[str, Candidate, int]]:
    """Label, candidate and seed: in turn one of LEMUR's networks, a text of the walkthrough, something hostile."""
    good = screen(example("good"), Kind.ARCHITECTURE).candidate.code
    texts = [screen(example(path.stem), Kind.ARCHITECTURE).candidate.code for path in sorted(EXAMPLES.glob("*.md"))]
    start = "        self.device = device\n"
    attacks = {name: good.replace(start, f"{start}        {line}\n", 1) for name, line in HOSTILE.items()}
    table = architectures.load().architectures
    published = table["code"].to_numpy()[rng.permutation(len(table))]
    names = list(attacks)
    for i in range(count):
        if i % 4 == 3:
            name = names[i // 4 % len(names)]
            label, code = name, attacks[name]
        elif i % 4 == 1:
            label, code = "walkthrough text", texts[i // 4 % len(texts)]
        else:
            label, code = "LEMUR network", published[i % len(published)]
        yield label, Candidate(code, code, Kind.ARCHITECTURE), i


def reading(done: int) -> dict[str, float]:
    """What the driver and everything below it hold now."""
    me = psutil.Process()
    below = me.children(recursive=True)
    own = [process for process in below if "nngpt_lab" in " ".join(process.cmdline())]
    return {
        "candidates": done,
        "processes": len(below),
        "threads": threading.active_count(),
        "descriptors": me.num_fds(),
        "children's descriptors": sum(process.num_fds() for process in own),
        "driver MiB": me.memory_info().rss / 2**20,
        "children MiB": sum(process.memory_info().rss for process in own) / 2**20,
        "temporary folders": len(list(Path(tempfile.gettempdir()).glob("nngpt-sandbox-*"))),
        "shared memory": sum(path.startswith("/memfd") for path in open_files()),
    }


def open_files() -> Iterator[str]:
    """What the driver's descriptors point to."""
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the descriptor that lists the folder
            yield str(link.readlink())


def soak(count: int, workers: int, every: int, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Readings, and how each sort of candidate ended."""
    proxy, readings, ended = prepare(PROTOCOL), [], Counter()
    with tempfile.TemporaryDirectory() as folder, Ledger(Path(folder, "ledger.sqlite")) as ledger:
        ledger.add_protocol(proxy.protocol_hash, proxy.record)
        with LocalPool(proxy, workers) as pool, tqdm(total=count, unit=" candidates") as bar:
            jobs = list(candidates(count, np.random.default_rng(seed)))
            labels = {seed: label for label, _, seed in jobs}
            for start in range(0, count, every):
                for (candidate, number), outcome in pool.map((job[1], job[2]) for job in jobs[start : start + every]):
                    ledger.add_outcome(candidate, outcome)
                    ended[labels[number], outcome.status.value] += 1
                    bar.update()
                readings.append(reading(start + every))
            assert len(ledger.table("evaluations")) == count, "a candidate was lost or counted twice"
    rows = [(label, status, number) for (label, status), number in sorted(ended.items())]
    return pd.DataFrame(readings), pd.DataFrame(rows, columns=["candidate", "status", "count"])


def growth(readings: pd.DataFrame, warm_up: int) -> pd.DataFrame:
    """First and last quarter after the warm-up, by quantity."""
    steady = readings[readings["candidates"] > warm_up].drop(columns="candidates")
    quarter = max(1, len(steady) // 4)
    first, last = steady.head(quarter).mean(), steady.tail(quarter).mean()
    table = pd.DataFrame({"first quarter": first, "last quarter": last, "growth": last - first, "most": steady.max()})
    return table.round(1).rename_axis("quantity").reset_index()


@click.command()
@click.option("--candidates", "count", default=2000, show_default=True)
@click.option("--workers", default=2, show_default=True)
@click.option("--every", default=50, show_default=True, help="Candidates between two readings.")
@click.option("--seed", default=0, show_default=True)
def main(count: int, workers: int, every: int, seed: int) -> None:
    """Whether processes, descriptors or memory grow."""
    readings, ended = soak(count, workers, every, seed)
    notes = [
        f"{count} candidates, one quarter of them hostile, {workers} workers, a reading every {every} candidates, "
        "the first 200 left out as warm-up; every candidate is in the ledger once.",
        f"Limits of a candidate: {PROTOCOL.wall_seconds:g} s, {PROTOCOL.memory_mib} MiB; 320 training images.",
        f"Most memory of any process at any time: {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10} MiB.",
        "Shared memory counts the parcels that the driver holds open. A daemon that a candidate left behind is killed "
        "with its namespace; such a candidate may well have a score.",
    ]
    tables = {"Growth": growth(readings, 200), "How they ended": ended, "Readings": readings.round(1)}
    write_result("Soak: does anything grow?", tables, notes, packages=("torch", "numpy"))


if __name__ == "__main__":
    main()
