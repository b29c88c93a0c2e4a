"""Paper B's loop: what a cycle spends its time on, and what it gains by training candidates while others are written.

The demo design from its first cycle on, in turns: as it is, and with all texts of a cycle written before the first is
trained. Both write the same texts and train the same networks.

    python benchmarks/loop.py                 # three runs each of 8 cycles of 16 samples
    python benchmarks/loop.py --samples 48
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
import pandas as pd
from common import in_turns, timed, write_result

from nngpt_lab.candidates.ledger import Ledger
from nngpt_lab.papers.architecture_loop import loop
from nngpt_lab.papers.architecture_loop.base_model import sample_base_model, thresholds
from nngpt_lab.papers.architecture_loop.design import ARMS, DESIGNS, Design
from nngpt_lab.papers.architecture_loop.lab import open_lab
from nngpt_lab.study.design import resized
from nngpt_lab.study.proposals import score
from nngpt_lab.study.run_state import STAGES

NOTES = (
    "`waiting` is the time that nothing but training went on; `sampling` includes training at its side. Shares are of "
    "the sum of the stages; the thresholds, which are found once a run, are not in it.",
    "Medians of the runs, ways in turn, each with a ledger of its own, so that nothing is taken over.",
)


def after_writing(bench, proposed, seed: int):
    """``proposals.score``, but only when all texts of the cycle are there."""
    texts = list(proposed)
    return score(bench, (text for text in texts), seed)


WAYS = {"one after the other": after_writing, "as it is": score}


def measured(design: Design, seed: int, workers: int, way: Callable) -> tuple[dict[str, float], pd.DataFrame]:
    """Seconds by stage and in all, and the run's rows."""
    loop.score = way
    with (
        tempfile.TemporaryDirectory() as folder,
        Ledger(Path(folder, "ledger.sqlite")) as ledger,
        open_lab(design, ledger, Path(folder), workers=workers, progress=False) as lab,
    ):
        limits = thresholds(design, sample_base_model(lab))
        seconds, rows = timed(lambda: loop.run(lab, ARMS["loop"], seed, limits[0]))
    return {"in all": seconds} | rows.groupby("cycle")[list(STAGES)].first().sum().to_dict(), rows


def compared(design: Design, seed: int, workers: int, repetitions: int) -> pd.DataFrame:
    """A row per way; the first is what the other is compared with."""
    ways = {name: partial(measured, design, seed, workers, way) for name, way in WAYS.items()}
    runs = in_turns(ways, repetitions)
    scores = [rows["score"] for results in runs.values() for _, rows in results]
    if not all(other.equals(scores[0]) for other in scores):
        raise click.ClickException("the ways trained different networks")
    medians = pd.DataFrame({name: pd.DataFrame([s for s, _ in results]).median() for name, results in runs.items()}).T
    shares = medians[list(STAGES)].div(medians[list(STAGES)].sum(axis=1), axis=0).map("{:.0%}".format)
    seconds = medians["in all"]
    shares.insert(0, "seconds", seconds.map("{:.1f}".format))
    shares.insert(1, "times the first", (seconds.iloc[0] / seconds).map("{:.2f}".format))
    return shares.rename(columns={"evaluation": "waiting"}).reset_index(names="loop")


@click.command()
@click.option("--cycles", default=8, show_default=True)
@click.option("--samples", default=16, show_default=True, help="Samples in a cycle.")
@click.option("--seed", default=0, show_default=True)
@click.option("--workers", default=2, show_default=True, help="Networks trained at a time.")
@click.option("--repetitions", default=3, show_default=True)
def main(cycles: int, samples: int, seed: int, workers: int, repetitions: int) -> None:
    """Seconds of the loop by stage."""
    design = resized(DESIGNS["nano"], cycles=cycles, samples=samples)
    tables = {"Time by stage": compared(design, seed, workers, repetitions)}
    setting = f"Design `{design.name}`, {cycles} cycles of {samples} samples, seed {seed}, {workers} workers."
    title, packages = "Paper B's loop: where the time goes", ("torch", "transformers", "peft")
    write_result(title, tables, (setting, *NOTES), packages=packages)


if __name__ == "__main__":
    main()
