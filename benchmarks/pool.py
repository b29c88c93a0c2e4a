"""How evaluation scales with workers: local threads and Ray actors, on the same networks with the same scores.

    python benchmarks/pool.py

The networks are LEMUR's, within paper B's limit of parameters, drawn at random and kept if they can be trained on
digits in a second or some; protocol ``digits``, one torch thread each. A pool is started and warmed up before its time
counts; the time includes writing a ledger.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import click
import numpy as np
import pandas as pd
from common import in_turns, write_result

from nngpt_lab.candidates.ledger import Ledger
from nngpt_lab.candidates.outcome import Candidate, Kind, Outcome
from nngpt_lab.candidates.pool import evaluate, open_pool
from nngpt_lab.candidates.proxy import Proxy, prepare
from nngpt_lab.corpora import architectures
from nngpt_lab.records import manifest
from nngpt_lab.sandbox.status import Status

SECONDS = (0.5, 4.0)  # of training: long enough to matter, short enough to repeat


@click.command()
@click.option("--count", default=16, show_default=True, help="Networks.")
@click.option("--repeats", default=3, show_default=True, help="Runs of each configuration; the median counts.")
@click.option("--workers", default=(1, 2, 4), multiple=True, show_default=True, help="Evaluations at a time.")
@click.option("--engines", default=("local", "ray"), multiple=True, show_default=True)
@click.option("--seed", default=0, show_default=True, help="Of the draw of networks.")
def main(count: int, repeats: int, workers: tuple[int, ...], engines: tuple[str, ...], seed: int) -> None:
    """Measure and write results/pool.md."""
    proxy = prepare("digits")
    candidates = networks(proxy, count, np.random.default_rng(seed))
    ways = {(engine, number): partial(measure, proxy, candidates, engine, number)
            for engine in engines for number in workers}  # fmt: skip
    runs, scores = [], set()
    for (engine, number), results in in_turns(ways, repeats).items():
        for start, seconds, outcomes in results:
            runs.append({"engine": engine, "workers": number, "start": start, "seconds": seconds})
            scores.add(tuple(outcome.score for outcome in outcomes))
    cores = manifest.usable_cores()
    notes = [
        f"{count} networks of LEMUR, one epoch on digits each; median of {repeats} interleaved runs.",
        f"Speed-up is over one local worker. Efficiency is the speed-up over min(workers, {cores} cores): more workers "
        "than cores can only fill gaps.",
        "Start is from nothing to the first result of each worker; it is paid once for a pool. Ray's includes starting "
        "a cluster of this machine alone.",
        f"Scores of all {len(runs)} runs are {'equal' if len(scores) == 1 else 'NOT EQUAL'}.",
    ]
    tables = {"By engine and workers": table(pd.DataFrame(runs), count, cores)}
    write_result("Evaluating on several workers", tables, notes, packages=("numpy", "ray", "torch"))


def networks(proxy: Proxy, count: int, rng: np.random.Generator) -> list[Candidate]:
    """Networks that can be trained in about the wanted time, here."""
    table = architectures.load().architectures.drop_duplicates("code_hash").sort_values("code_hash")
    chosen, impatient = [], replace(proxy, protocol=replace(proxy.protocol, wall_seconds=SECONDS[1]))
    with impatient.evaluator() as evaluator:
        for place in rng.permutation(len(table)):
            candidate = Candidate("", table["code"].iloc[place], Kind.ARCHITECTURE)
            outcome = evaluator.evaluate(candidate, 0)
            if outcome.status == Status.OK and outcome.seconds["total"] > SECONDS[0]:
                chosen.append(candidate)
            if len(chosen) == count:
                return chosen
    raise click.ClickException(f"only {len(chosen)} of {count} networks are that fast here")


def measure(proxy: Proxy, candidates: list[Candidate], engine: str, workers: int) -> tuple[float, float, list[Outcome]]:
    """Seconds to start, seconds to evaluate, outcomes."""
    begin = time.perf_counter()
    with open_pool(proxy, workers, engine) as pool, tempfile.TemporaryDirectory() as folder:
        list(pool.map((candidates[0], seed) for seed in range(1, workers + 1)))
        ready = time.perf_counter()
        with Ledger(Path(folder) / "ledger.sqlite") as ledger:
            outcomes = evaluate(candidates, proxy, ledger, pool=pool)
        return ready - begin, time.perf_counter() - ready, outcomes


def table(runs: pd.DataFrame, count: int, cores: int) -> pd.DataFrame:
    """One row per configuration."""
    rows = runs.groupby(["engine", "workers"], sort=False).median().reset_index()
    rate = count / rows["seconds"]
    speed_up = rate / rate[(rows["engine"] == "local") & (rows["workers"] == 1)].squeeze()
    return pd.DataFrame(
        {
            "engine": rows["engine"],
            "workers": rows["workers"],
            "start (s)": rows["start"].map("{:.1f}".format),
            "candidates/s": rate.map("{:.2f}".format),
            "speed-up": speed_up.map("{:.2f}".format),
            "efficiency": (speed_up / rows["workers"].clip(upper=cores)).map("{:.0%}".format),
        }
    )


if __name__ == "__main__":
    main()
