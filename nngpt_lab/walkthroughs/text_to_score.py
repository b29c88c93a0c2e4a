"""From a text to a score: three texts station by station, and published code down the same path in numbers.

Published networks and functions stand in for a model's answers, so the path can be tried without any language model.
Their novelty is recorded but not enforced: a published network is evaluated even where the check would reject it.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from tqdm import tqdm

from nngpt_lab.candidates.ledger import Ledger
from nngpt_lab.candidates.novelty import NoveltyIndex
from nngpt_lab.candidates.outcome import Kind, Outcome
from nngpt_lab.candidates.proxy import Evaluator, Proxy
from nngpt_lab.candidates.screening import screen
from nngpt_lab.corpora import architectures, augmentations
from nngpt_lab.ground.hashing import sha256_json
from nngpt_lab.ground.progress import bar_hidden
from nngpt_lab.ground.settings import choose
from nngpt_lab.sandbox.status import Status
from nngpt_lab.walkthroughs import evaluations


def corpus_index(size: int | None, rng: np.random.Generator) -> NoveltyIndex:
    """``size`` of LEMUR's networks (None: all) under paper B's novelty settings; all take 15 s."""
    table = architectures.load().architectures.sort_values("name")
    if (size := choose("corpus", size, len(table))) < len(table):
        table = table.iloc[np.sort(rng.choice(len(table), size, replace=False))]
    index = NoveltyIndex()
    index.add_many(table["name"], table["code"])
    return index


def stations(text: str, name: str, kind: Kind, index: NoveltyIndex, evaluator: Evaluator, seed: int) -> pd.DataFrame:
    """What each station says of one text: columns station, verdict and what it found. It ends where the text does."""
    screened = screen(text, kind, index, name)
    code, match = screened.candidate.code, screened.match
    lines = code.count("\n") + bool(code)
    rows = [("extract", screened.source.value, f"{lines} lines of code in {len(text):,} characters of answer")]
    if screened.status != Status.NO_CODE:
        held = screened.status in (Status.OK, Status.DUPLICATE)
        rows.append(("contract", "holds" if held else screened.status.value, "" if held else screened.message))
    if match is not None:
        alike = f"nearest: {match.nearest}, Jaccard {match.jaccard:.2f}" if match.nearest else "nothing alike was seen"
        rows.append(("novelty", "duplicate" if match.duplicate else "new", alike))
    if screened.status == Status.OK:
        rows += _evaluation_stations(evaluator.evaluate(screened.candidate, seed), evaluator.proxy)
    return pd.DataFrame(rows, columns=["station", "verdict", "what it found"])


def _evaluation_stations(outcome: Outcome, proxy: Proxy):
    layers = f"{len(outcome.isolation)} layers: {', '.join(outcome.isolation)}" if outcome.isolation else "no isolation"
    yield "sandbox", "stopped it" if outcome.status == Status.FORBIDDEN else "nothing forbidden", layers
    stages = ", ".join(f"{name} {value:.2f} s" for name, value in outcome.seconds.items())
    size = f"{outcome.parameters:,} parameters; " if outcome.parameters else ""
    yield "one epoch", "done" if outcome.status == Status.OK else "failed", outcome.message or f"{size}{stages}"
    images = f"{len(proxy.labels):,} {proxy.protocol.part} images that the child saw without labels"
    yield "score", f"{outcome.score:.3f}" if outcome.score is not None else "none", images
    yield "ledger", outcome.status.value, f"filed under protocol {outcome.protocol_hash[:10]}, seed {outcome.seed}"


def published_architectures(size: int, rng: np.random.Generator) -> pd.DataFrame:
    """``size`` LEMUR networks that have a recorded CIFAR-10 accuracy, as equal a number as possible from each family.

    Columns: name, group (family), code, recorded (after epoch 1, of the run with the smallest id). Runs differ in
    learning rate, batch, image size and augmentation, so ``recorded`` is a rank to compare with, no target.
    """
    lemur = architectures.load()
    runs = architectures.one_run_per_epoch(architectures.classification(lemur.records))
    recorded = runs.loc["cifar-10", 1].dropna().rename("recorded")
    table = lemur.architectures.rename(columns={"family": "group"})[["name", "group", "code"]]
    table = table.astype({"name": str, "group": str}).join(recorded, on="name").dropna(subset="recorded")
    return evaluations.stratified(table, "group", size, rng)


def published_functions(size: int, rng: np.random.Generator) -> pd.DataFrame:
    """``size`` of paper A's augmentation functions, as equal a number as possible from each group (those of 1, 2 and 3
    operations, and the 43 LLM-written ones): name, group, code, recorded (null where the authors recorded no score)."""
    table = augmentations.load().functions.rename(columns={"score": "recorded"})
    count = table["n_operations"].map(lambda n: f"brute force, {n:.0f} operation{'s' * (n != 1)}")
    table = table.assign(group=count.where(table["source"] == "brute_force", "LLM-written"))
    table = table[["name", "group", "code", "recorded"]].astype({"name": str})
    return evaluations.stratified(table, "group", size, rng)


def send(
    table: pd.DataFrame, kind: Kind, proxy: Proxy, ledger: Ledger, run: str, seed: int, workers: int
) -> pd.DataFrame:
    """Send published code (columns name, group, code, recorded) down the path; what came of each, as a data frame.

    Columns beside the given ones: ``novelty`` (what the check against the others before it says), ``nearest``,
    ``status``, ``score``, ``parameters``, ``message``, ``seconds``. What the ledger holds is not computed again; its
    samples are filed under ``run`` and a hash of the names, as another draw is another run.
    """
    run = f"{run} {sha256_json(list(table['name']))[:8]}"
    index, sound = NoveltyIndex(), {}
    rows: list[tuple] = []
    for row in tqdm(table.itertuples(), "screened", len(table), leave=False, disable=bar_hidden()):
        checked = screen(row.code, kind, index, row.name)
        ledger.add_sample(run, len(rows), checked.candidate, checked.status, checked.message, checked.source.value)
        if checked.status in (Status.OK, Status.DUPLICATE):
            sound[row.Index] = checked.candidate.code
        match = checked.match
        novelty = (None, None) if match is None else ("duplicate" if match.duplicate else "new", match.nearest)
        rows.append((*novelty, checked.status.value, np.nan, pd.NA, checked.message, 0.0))
    columns = ["novelty", "nearest", "status", "score", "parameters", "message", "seconds"]
    sent = pd.DataFrame(rows, columns=columns, index=table.index).astype({"parameters": "Int64"})
    trained = evaluations.evaluated(pd.Series(sound, dtype=object), proxy, ledger, workers, seed)
    return table.join(trained.combine_first(sent)[columns])
