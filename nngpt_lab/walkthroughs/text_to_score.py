"""From a text to a score: three texts station by station, and published code down the same path in numbers.

Published networks and functions stand in for a model's answers, so the path can be tried without any language model.
Their novelty is recorded but not enforced: a published network is evaluated even where the check would reject it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from nngpt_lab.candidates import pool
from nngpt_lab.candidates.ledger import Ledger
from nngpt_lab.candidates.novelty import NoveltyIndex
from nngpt_lab.candidates.outcome import Kind, Outcome
from nngpt_lab.candidates.protocols import Protocol, get_protocol
from nngpt_lab.candidates.proxy import Evaluator, Proxy
from nngpt_lab.candidates.screening import Screened, screen
from nngpt_lab.corpora import architectures, augmentations
from nngpt_lab.ground.formatting import words
from nngpt_lab.ground.hashing import sha256_json
from nngpt_lab.ground.settings import choose
from nngpt_lab.sandbox.status import Status
from nngpt_lab.walkthroughs import evaluations


def adjusted(
    name: str,
    *,
    parameters: int | None,
    train_images: int | None = None,
    batch: int | None = None,
    minutes: float | None = None,
) -> Protocol:
    """A protocol with another size; None keeps its own, but for ``parameters`` where None sets no limit.

    The changed protocol has a hash of its own, so its scores are never mixed with others'.
    """
    seconds = None if minutes is None else 60 * minutes
    changes: dict[str, Any] = {"train_limit": train_images, "batch": batch, "wall_seconds": seconds}
    changes = {field: value for field, value in changes.items() if value is not None}
    return replace(get_protocol(name), max_parameters=parameters, **changes)


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
    rows = list(_static_stations(screened))
    if screened.status == Status.OK:
        rows += _evaluation_stations(evaluator.evaluate(screened.candidate, seed), evaluator.proxy)
    return pd.DataFrame(rows, columns=["station", "verdict", "what it found"])


def _static_stations(screened: Screened):
    lines = screened.candidate.code.count("\n") + bool(screened.candidate.code)
    size = f"{lines} lines of code in {len(screened.candidate.text):,} characters of answer"
    yield "extract", screened.source.value, size
    if screened.status == Status.NO_CODE:
        return
    held = screened.status in (Status.OK, Status.DUPLICATE)
    yield "contract", "holds" if held else screened.status.value, "" if held else screened.message
    if screened.match is not None:
        nearest, jaccard = screened.match.nearest, screened.match.jaccard
        verdict = "duplicate" if screened.match.duplicate else "new"
        yield "novelty", verdict, f"nearest: {nearest}, Jaccard {jaccard:.2f}" if nearest else "nothing alike was seen"


def _evaluation_stations(outcome: Outcome, proxy: Proxy):
    layers = f"{len(outcome.isolation)} layers: {', '.join(outcome.isolation)}" if outcome.isolation else "no isolation"
    stopped = outcome.status == Status.FORBIDDEN
    yield "sandbox", "stopped it" if stopped else "nothing forbidden", layers
    stages = ", ".join(f"{name} {value:.2f} s" for name, value in outcome.seconds.items())
    size = f"{outcome.parameters:,} parameters; " if outcome.parameters else ""
    yield "one epoch", "done" if outcome.status == Status.OK else "failed", outcome.message or f"{size}{stages}"
    images = f"{len(proxy.labels):,} {proxy.protocol.part} images that the child saw without labels"
    yield "score", f"{outcome.score:.3f}" if outcome.score is not None else "none", images
    yield "ledger", outcome.status.value, f"filed under protocol {outcome.protocol_hash[:10]}, seed {outcome.seed}"


def published_architectures(size: int, rng: np.random.Generator) -> pd.DataFrame:
    """``size`` LEMUR networks that have a recorded CIFAR-10 accuracy, as equal a number as possible from each family.

    Columns: name, group (family), code, recorded.
    """
    lemur = architectures.load()
    recorded = evaluations.recorded_accuracy(lemur.records)
    table = lemur.architectures.rename(columns={"family": "group"})[["name", "group", "code"]]
    table = table.astype({"name": str, "group": str}).join(recorded, on="name").dropna(subset="recorded")
    return _sample(table, size, rng)


def published_functions(size: int, rng: np.random.Generator) -> pd.DataFrame:
    """``size`` of paper A's augmentation functions, the 43 LLM-written ones among them in proportion to their number of
    groups (1, 2 or 3 operations; llm).

    Columns: name, group, code, recorded (null where the authors recorded no score).
    """
    table = augmentations.load().functions.rename(columns={"score": "recorded"})
    count = table["n_operations"].map(lambda n: f"brute force, {n:.0f} operation{'s' * (n != 1)}")
    table = table.assign(group=count.where(table["source"] == "brute_force", "LLM-written"))
    return _sample(table[["name", "group", "code", "recorded"]].astype({"name": str}), size, rng)


def _sample(table: pd.DataFrame, size: int, rng: np.random.Generator) -> pd.DataFrame:
    chosen = evaluations.stratified_names(table["name"], table["group"], size, rng)
    return table[table["name"].isin(chosen)].sort_values("name").reset_index(drop=True)


def send(
    table: pd.DataFrame, kind: Kind, proxy: Proxy, ledger: Ledger, run: str, seed: int, workers: int
) -> pd.DataFrame:
    """Send published code (columns name, group, code, recorded) down the path; what came of each, as a data frame.

    Columns beside the given ones: ``novelty`` (what the check against the others before it says), ``nearest``,
    ``status``, ``score``, ``parameters``, ``message``, ``seconds``. What the ledger holds is not computed again; its
    samples are filed under ``run`` and a hash of the names, as another draw is another run.
    """
    run = f"{run} {sha256_json(list(table['name']))[:8]}"
    index, screened = NoveltyIndex(), []
    for position, row in enumerate(tqdm(table.itertuples(), "screened", len(table), leave=False, disable=None)):
        checked = screen(row.code, kind, index, row.name)
        ledger.add_sample(run, position, checked.candidate, checked.status, checked.message, checked.source.value)
        screened.append(checked)
    sound = [text for text in screened if text.status in (Status.OK, Status.DUPLICATE)]
    outcomes = pool.evaluate([text.candidate for text in sound], proxy, ledger, seeds=(seed,), workers=workers)
    by_code = dict(zip((text.candidate.code for text in sound), outcomes, strict=True))
    rows = [_result(text, by_code.get(text.candidate.code)) for text in screened]
    return pd.concat([table, pd.DataFrame(rows, index=table.index)], axis=1)


def _result(screened: Screened, outcome: Outcome | None) -> dict:
    match = screened.match
    row = {"novelty": None, "nearest": None, "status": screened.status.value, "score": np.nan, "parameters": np.nan}
    row |= {"message": screened.message, "seconds": 0.0}
    if match is not None:
        row |= {"novelty": "duplicate" if match.duplicate else "new", "nearest": match.nearest}
    if outcome is not None:
        row |= {"status": outcome.status.value, "score": outcome.score, "parameters": outcome.parameters}
        row |= {"message": outcome.message, "seconds": outcome.seconds.get("total", np.nan)}
    return row


def describe(protocol: Protocol) -> pd.DataFrame:
    """A protocol as a table of its fields."""
    rows = [(words(name), "none" if value is None else str(value)) for name, value in protocol.as_dict().items()]
    return pd.DataFrame(rows, columns=["field", "value"])
