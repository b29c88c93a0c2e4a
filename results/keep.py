"""Sets a finished run down as the reference.

    python results/keep.py results/demo/01_memorization_to_creativity/latest

Kept are manifest, captions, executed notebook, tables, figures, and what the run drew and measured, as Parquet, from
which every number can be counted again without the lab (``tests/recount/``):

``samples``      run, position, status, message, sampling_seed, code_hash and text of every sample, from the ledger
``evaluations``  code_hash, protocol_hash, seed, status, message, score, parameters, total_seconds of every evaluation
``answers``      paper C: run, file (``answers-03``: of outer epoch 3), question, swapped, log_odds, outcome, text

The table of commands in ``results/README.md`` follows. Nothing is kept of a run that did not end well, of a commit with
changes on top, or whose files are not those that its manifest vouches for; nor of one too large to commit. The old
reference goes only when the new one is complete.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import shlex
import shutil
import sqlite3
import sys
from pathlib import Path

import pandas as pd

from nngpt_lab.parameters import read_notebook, read_parameters

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "results" / "reference"
README = REFERENCE.with_name("README.md")
BEGIN, END = "<!-- runs -->", "<!-- end of runs -->"
PUBLISHED = ("from_text_to_score",)  # notebooks that evaluate others' code, none of which is committed: a hash names it
PARTS = ("manifest.json", "contents.json", "executed.ipynb", "tables", "figures")
MOST, MOST_OF_A_FILE = 16_000_000, 6_000_000  # bytes that a run and a file may have
LONGEST_MARKDOWN = 300_000  # bytes; the same table as CSV is kept in any case
QUERIES = {
    "samples": "SELECT run, position, status, message, sampling_seed, code_hash, text FROM samples ORDER BY 1, 2",
    "evaluations": "SELECT code_hash, protocol_hash, seed, status, message, score, parameters, total_seconds "
    "FROM evaluations ORDER BY 1, 2, 3",
}


def keep(run: Path, reference: Path = REFERENCE) -> Path:
    """Copy ``run``, a run's folder, to its place in ``reference``; SystemExit, and no change, if it may not be kept."""
    run = run.resolve()
    record = checked(run)
    place = reference / record["profile"] / Path(record["notebook"]).stem
    new, old = place.with_name(f".{place.name}-new"), place.with_name(f".{place.name}-old")
    for folder in (new, old):
        shutil.rmtree(folder, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        for part in PARTS:
            (shutil.copytree if (run / part).is_dir() else shutil.copy2)(run / part, new / part)
        for file in (new / "tables").glob("*.md"):
            if file.stat().st_size > LONGEST_MARKDOWN:
                file.unlink()
        for name, table in what_was_drawn(run).items():
            if place.name in PUBLISHED:
                table = table.drop(columns="text", errors="ignore")
            table.to_parquet(new / f"{name}.parquet", index=False, compression="zstd", compression_level=19)
        check_sizes(new)
        if place.exists():
            place.rename(old)
        new.rename(place)
    finally:
        for folder in (new, old):
            shutil.rmtree(folder, ignore_errors=True)
    return place


def checked(run: Path) -> dict:
    """The manifest of a run that may be kept."""
    try:
        record = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    except OSError:
        raise SystemExit(f"{run} holds no manifest: the run has not ended") from None
    if record["status"] != "ok":
        raise SystemExit(f"the run ended {record['status']!r}: repeat its command")
    if record["dirty"] is not False:
        raise SystemExit("the run's code is not that of a commit: commit, and run it again")
    for name, digest in record["outputs"].items():
        kept = name.startswith(("tables/", "figures/")) or name in PARTS
        if kept and (not (run / name).is_file() or hashlib.sha256((run / name).read_bytes()).hexdigest() != digest):
            raise SystemExit(f"{name} is not what the manifest vouches for: run it again")
    return record


def what_was_drawn(run: Path) -> dict[str, pd.DataFrame]:
    """Tables by name: the ledger's, and paper C's answers; none where the run has none."""
    tables = {}
    if (ledger := run / "ledger.sqlite").exists():
        with contextlib.closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as connection:
            tables = {name: pd.read_sql(query, connection) for name, query in QUERIES.items()}
    files = sorted(run.glob("datasets/*/*.parquet"))
    answers = [pd.read_parquet(file).assign(run=file.parent.name, file=file.stem) for file in files]
    if answers:
        tables["answers"] = pd.concat(answers, ignore_index=True)
    return {name: table for name, table in tables.items() if len(table)}


def check_sizes(folder: Path) -> None:
    """SystemExit with the largest files if the folder is too large to commit."""
    sizes = {file.relative_to(folder).as_posix(): file.stat().st_size for file in folder.rglob("*") if file.is_file()}
    largest = sorted(sizes, key=lambda name: -sizes[name])[:3]
    if sum(sizes.values()) > MOST or sizes[largest[0]] > MOST_OF_A_FILE:
        said = ", ".join(f"{name} {sizes[name] / 1e6:.1f} MB" for name in largest)
        raise SystemExit(f"{sum(sizes.values()) / 1e6:.1f} MB are too much to commit; the largest: {said}")


def with_commands(readme: str, reference: Path = REFERENCE) -> str:
    """``results/README.md`` with a row for each run that is kept: its command with what is not the notebook's default
    (a manifest does not tell what was given), its commit and minutes."""
    rows = ["| run | `nngpt-lab run` | commit | minutes |", "|---|---|---|---|"]
    for file in sorted(reference.glob("*/*/manifest.json")):
        record = json.loads(file.read_text(encoding="utf-8"))
        notebook = record["notebook"].removeprefix("notebooks/").removesuffix(".ipynb")
        known = read_parameters(read_notebook(ROOT / record["notebook"]), notebook)
        words = [notebook, "--profile", record["profile"], "--seed", str(record["seed"])]
        for name, value in record["parameters"].items():
            if name not in known or value != known[name].default:
                words += ["-p", name, "none" if value is None else str(value)]
        minutes = math.ceil(record["seconds"] / 60)
        rows.append(
            f"| `{file.parent.relative_to(reference)}` | `{shlex.join(words)}` | {record['commit'][:7]} | {minutes} |"
        )
    before, _, rest = readme.partition(BEGIN)
    return "\n".join([before + BEGIN, *rows, END]) + rest.partition(END)[2]


if __name__ == "__main__":
    if not sys.argv[1:]:
        raise SystemExit(__doc__)
    for argument in sys.argv[1:]:
        kept = keep(Path(argument))
        total = sum(file.stat().st_size for file in kept.rglob("*") if file.is_file())
        print(f"kept  {kept.relative_to(REFERENCE.parent)}  {total / 1e6:.1f} MB")
    README.write_text(with_commands(README.read_text(encoding="utf-8")), encoding="utf-8")
