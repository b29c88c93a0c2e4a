"""LEMUR (arXiv 2504.10552): published architectures and their training records, as two tables.

Source: the wheel ``nn-dataset==2.1.2``, read straight from the zip (118,000 files are never unpacked).

``architectures``, one row per source file ``ab/nn/nn/<name>.py``:
    name, family, base, code, and the facts of :class:`nngpt_lab.corpora.code.CodeFacts`.

``records``, one row per element of ``ab/nn/stat/train/<task>_<dataset>_<metric>_<name>/<epoch>.json``:
    task, dataset, metric, architecture, epoch (from 1), accuracy (the metric's value; a share in [0, 1] for ``acc``),
    batch, lr, momentum, dropout, transform, duration (ns, from the start of training to this epoch's end), uid (the
    authors' hash of the hyperparameters), planned_epochs (the key ``epoch`` that some records carry: how many epochs
    the run was given), other (remaining hyperparameters as JSON), id (the authors' primary key, see
    :func:`record_id`).

``issues``: what was found odd on the way, by reason, with count, whether the row was kept, and an example.

A *trial* is one training run: same task, dataset, metric, architecture and uid. Its rows are one run seen after each
epoch: durations grow in proportion to the epoch (ratio of epoch 5 to 1: median 5.01).

Families follow the prefix that the authors' generators give to names: ``ga`` (a genetic algorithm over AlexNet-like
stacks) and ``ga-mut`` (its mutated offspring), ``alt`` (an LLM altered a given network; ``base`` keeps the variant:
alt-nn1, alt-nn2, ...), ``ast`` (mutations of AlexNet's syntax tree), ``rag`` (an LLM with retrieval), ``rl`` (an LLM
tuned with reinforcement learning), ``FractalNet`` (generated fractal topologies). All else is ``hand-written``: classic
networks and their variants (``base`` is the part before the first hyphen).
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePosixPath

import pandas as pd
import pyarrow as pa
from tqdm import tqdm

from nngpt_lab.corpora import artifacts, compiled
from nngpt_lab.corpora.code import CodeFacts, describe
from nngpt_lab.ground.processes import in_processes
from nngpt_lab.ground.progress import bar_hidden

VERSION = 2
CODE, RECORDS = "ab/nn/nn/", "ab/nn/stat/train/"
GENERATED = re.compile(r"(ga-mut|ga|alt|ast|rag|rl)-|(FractalNet)-[0-9a-f]{32}$")
COLUMNS = ("batch", "lr", "momentum", "dropout", "transform", "uid", "duration")  # what a record should have
KNOWN = {*COLUMNS, "accuracy", "epoch"}  # what is read of one; the rest goes into the column other


@dataclass(frozen=True)
class Lemur:
    """LEMUR's tables as data frames; columns are described in this module's docstring."""

    architectures: pd.DataFrame
    records: pd.DataFrame
    issues: pd.DataFrame


def load() -> Lemur:
    """LEMUR from the cache; fetched and compiled on first use (about a minute on two cores)."""
    names = [field.name for field in fields(Lemur)]
    tables = compiled.load_or_compile("lemur", VERSION, artifacts.LEMUR, names, compile_tables)
    return Lemur(**{name: table.to_pandas() for name, table in tables.items()})


def family_of(name: str) -> tuple[str, str]:
    """Family and base of an architecture's name.

    >>> family_of("ga-mut-17"), family_of("alt-nn1-00b41e0154a74cd210d41f8917916a7d"), family_of("ResNet-708bfd82")
    (('ga-mut', 'ga-mut'), ('alt', 'alt-nn1'), ('hand-written', 'ResNet'))
    """
    match = GENERATED.match(name)
    if not match:
        return "hand-written", name.split("-")[0]
    return match[1] or match[2], re.sub(r"-(\d+|[0-9a-f]{32})$", "", name)


def record_id(*values: str | float | None) -> str:
    """The primary key that the authors' data base gives a record: MD5 of the text of its ``values`` (transform, uid,
    task, dataset, metric, architecture, epoch, duration, accuracy) without white space.

    Paper C orders the two datasets of a question by it (``d1.id < d2.id``), so the published order can be rebuilt.
    Source: nn-dataset 2.1.2, ``ab/nn/util/db/Write.py`` (``save_stat``) and ``ab/nn/util/Util.py`` (``uuid4``).
    """
    return hashlib.md5("".join(str(list(values)).split()).encode()).hexdigest()


def compile_tables(wheel: Path) -> dict[str, pa.Table]:
    """Compile the wheel into the three tables. 105,000 small JSON files and 10,000 sources: about a minute."""
    issues = Issues()
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        sources = _sources(archive, [n for n in names if n.startswith(CODE) and n.endswith(".py")], issues)
        facts = in_processes(describe, list(sources.values()), "architectures")  # while the records are read
        records = _records(archive, [n for n in names if n.startswith(RECORDS) and n.endswith(".json")], issues)
    architectures = _architectures(sources, facts, issues)
    _cross_check(architectures, records, issues)
    return {"architectures": architectures, "records": records, "issues": issues.table()}


class Issues:
    """Counts what is odd, by reason, and keeps the first example of each."""

    def __init__(self):
        self.counts: Counter[tuple[str, bool]] = Counter()
        self.examples: dict[tuple[str, bool], str] = {}

    def add(self, reason: str, example: str, kept: bool, count: int = 1) -> None:
        self.counts[reason, kept] += count
        self.examples.setdefault((reason, kept), example)

    def table(self) -> pa.Table:
        keys = sorted(self.counts)
        columns = {"reason": [reason for reason, _ in keys], "count": [self.counts[key] for key in keys],
                   "kept": [kept for _, kept in keys], "example": [self.examples[key] for key in keys]}  # fmt: skip
        kinds = {"reason": pa.string(), "count": pa.int64(), "kept": pa.bool_(), "example": pa.string()}
        return pa.table(columns, schema=pa.schema(kinds))


def _records(archive: zipfile.ZipFile, names: list[str], issues: Issues) -> pa.Table:
    rows: list[dict] = []
    for name in tqdm(sorted(names), "training records", unit=" files", disable=bar_hidden(), leave=False):
        path = PurePosixPath(name)
        config = path.parent.name.split("_", 3)
        if len(config) != 4 or not path.stem.isdigit():
            issues.add("record file whose path is not <task>_<dataset>_<metric>_<name>/<epoch>.json", name, kept=False)
            continue
        key = dict(zip(("task", "dataset", "metric", "architecture"), config, strict=True), epoch=int(path.stem))
        rows += [row for trial in _trials(archive.read(name), name, issues) if (row := _row(key, trial, name, issues))]
    table = pa.Table.from_pylist(rows, schema=RECORD)
    encoded = [table[f.name].dictionary_encode() if f.name in DICTIONARY else table[f.name] for f in table.schema]
    return pa.table(encoded, names=table.column_names)


DICTIONARY = ("task", "dataset", "metric", "architecture", "transform", "other")
RECORD = pa.schema({
    "task": pa.string(), "dataset": pa.string(), "metric": pa.string(), "architecture": pa.string(),
    "epoch": pa.int16(), "accuracy": pa.float64(), "batch": pa.int32(), "lr": pa.float64(), "momentum": pa.float64(),
    "dropout": pa.float64(), "transform": pa.string(), "duration": pa.int64(), "uid": pa.string(),
    "planned_epochs": pa.int16(), "other": pa.string(), "id": pa.string(),
})  # fmt: skip


def _trials(data: bytes, name: str, issues: Issues) -> list:
    try:
        trials = json.loads(data)
    except ValueError:
        issues.add("record file that is not JSON", name, kept=False)
        return []
    if not isinstance(trials, list):
        issues.add("record file that does not hold a list", name, kept=False)
        return []
    if not trials:
        issues.add("record file with an empty list", name, kept=False)
    return trials


def _row(key: dict, trial: dict, name: str, issues: Issues) -> dict | None:
    """One record as a row, or None (and its reason counted) when it has no usable accuracy."""
    if not isinstance(trial, dict):
        issues.add("record that is not an object", name, kept=False)
        return None
    accuracy = trial.get("accuracy")
    if not isinstance(accuracy, int | float) or not math.isfinite(accuracy):
        issues.add("record without a finite accuracy", name, kept=False)
        return None
    if not 0 <= accuracy <= 1:
        issues.add("record with accuracy outside [0, 1]", name, kept=True)
    for column in COLUMNS:
        if trial.get(column) is None:
            issues.add(f"record without {column}", name, kept=True)
    planned = trial.get("epoch")
    if planned is not None and planned != key["epoch"]:
        issues.add("record whose key 'epoch' is not the file's epoch (read as planned_epochs)", name, kept=True)
    other = sorted(trial.keys() - KNOWN)
    return {
        **key,
        "accuracy": float(accuracy),
        **{column: trial.get(column) for column in COLUMNS},
        "planned_epochs": None if planned is None else int(planned),
        "other": json.dumps({name: trial[name] for name in other}) if other else None,
        "id": record_id(trial.get("transform"), trial.get("uid"), *key.values(), trial.get("duration"), accuracy),
    }


def _sources(archive: zipfile.ZipFile, names: list[str], issues: Issues) -> dict[str, str]:
    """Code by the architecture's name."""
    sources = {}
    for name in sorted(names):
        stem = PurePosixPath(name).stem
        if stem == "__init__":
            issues.add("package marker __init__.py, not an architecture", name, kept=False)
            continue
        try:
            sources[stem] = archive.read(name).decode()
        except UnicodeDecodeError:
            issues.add("source that is not UTF-8", name, kept=False)
    return sources


def _architectures(sources: Mapping[str, str], facts: Iterable[CodeFacts], issues: Issues) -> pa.Table:
    rows = []
    for (name, code), fact in zip(sources.items(), facts, strict=True):
        if not fact.parses:
            issues.add("source that does not parse", name, kept=True)
        family, base = family_of(name)
        rows.append({"name": name, "family": family, "base": base, "code": code, **asdict(fact)})
    return pa.Table.from_pylist(rows)


def _cross_check(architectures: pa.Table, records: pa.Table, issues: Issues) -> None:
    """Count what the two tables say of each other: names without a partner, runs recorded twice."""
    recorded, sources = set(records["architecture"].unique().to_pylist()), set(architectures["name"].to_pylist())
    partners = {"architecture without any record": sources - recorded,
                "architecture with records but no source": recorded - sources}  # fmt: skip
    for reason, names in partners.items():
        if names:
            issues.add(reason, min(names), kept=True, count=len(names))
    key = ["task", "dataset", "metric", "architecture", "epoch", "uid"]
    counts = records.group_by(key).aggregate([("accuracy", "count")])["accuracy_count"].to_numpy()
    if repeated := int((counts - 1).sum()):
        issues.add("record that repeats another's architecture, epoch and hyperparameters", "same uid", True, repeated)


PROTOCOL = ["batch", "lr", "momentum", "dropout", "transform"]
"""What a record says of how its network was trained."""


def classification(records: pd.DataFrame) -> pd.DataFrame:
    """Image-classification records scored by accuracy: the only ones that papers A to C use."""
    wanted = (records["task"] == "img-classification") & (records["metric"] == "acc")
    columns = ["dataset", "architecture", "epoch", "accuracy", *PROTOCOL, "uid", "id"]
    return records.loc[wanted, columns].astype({"dataset": str, "architecture": str, "transform": str})


def one_run_per_epoch(records: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of one arbitrary run per data set and architecture, by epoch: unit ``one_run``."""
    first = records[records["epoch"] == 1].sort_values("id")
    chosen = first.drop_duplicates(["dataset", "architecture"])[["dataset", "architecture", "uid"]]
    runs = records.merge(chosen, on=["dataset", "architecture", "uid"]).sort_values("id")
    runs = runs.drop_duplicates(["dataset", "architecture", "epoch"])  # 431 records repeat a run's hyperparameters
    return runs.pivot(index=["dataset", "architecture"], columns="epoch", values="accuracy")
