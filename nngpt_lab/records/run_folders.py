"""Where a run of a notebook lies: ``results/<profile>/<notebook>/<run>/``, and ``latest`` beside the runs.

A run is a notebook, a profile, a seed and the parameters that were given; the same call is the same run and continues
it. Its folder is named after seed and parameters: ``seed-0``, or ``seed-0-cycles-3-b8e2d1``. What is run outside the
runner (in JupyterLab, say) goes to ``by-hand``. A finished run that is run again, because the code or the notebook has
changed, first sets its results aside: ``seed-0-before-20260107-103000``. Nothing but ``prune`` removes them.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from nngpt_lab.ground.errors import BusyError, UsageError
from nngpt_lab.ground.files import sizes_below
from nngpt_lab.ground.hashing import sha256_json
from nngpt_lab.records import manifest
from nngpt_lab.records.profiles import PROFILES

LATEST, BY_HAND, AGAIN = "latest", "by-hand", "-before-"
RUN = re.compile(rf"seed-\d+(-.*)?|{BY_HAND}")
FINISHED = ("ok", "incomplete")  # what a manifest says of a run that went to its notebook's end
LOCK, HOLDER = ".lock", ".lock-holder.json"
NOTEBOOK = ".notebook"  # which one writes here, as seen from this folder: another of its name must not
LONGEST = 40  # characters of a name that tell parameters; what tells runs apart is the hash behind them


def name(seed: int, given: Mapping[str, Any]) -> str:
    """A run's folder, from its seed and from those parameters that differ from the notebook's own. ``workers`` changes
    no result: a run may be continued with others.

    >>> name(0, {}), name(1, {"cycles": 3})
    ('seed-0', 'seed-1-cycles-3-8f1976')
    """
    chosen = {key: _portable(value) for key, value in sorted(given.items()) if key != "workers"}
    if not chosen:
        return f"seed-{seed}"
    said = " ".join(f"{key} {str(value).rpartition('/')[2]}" for key, value in chosen.items())
    text = re.sub(r"[^A-Za-z0-9.]+", "-", said).strip("-.")[:LONGEST].rstrip("-.")
    return f"seed-{seed}-{text}-{sha256_json(chosen)[:6]}"


def _portable(value: Any) -> Any:
    """A path below the working directory as it was typed there: a project that was moved continues its runs."""
    return manifest.display(Path(value)) if isinstance(value, str) and Path(value).is_absolute() else value


def notebooks(folder: Path) -> list[Path]:
    """The folders in a results folder, by name: one a notebook. None where there is no such folder."""
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def runs(notebook: Path) -> list[Path]:
    """The run folders of a notebook's results folder, by name."""
    there = sorted(notebook.iterdir()) if notebook.is_dir() else []
    return [path for path in there if RUN.fullmatch(path.name) and path.is_dir() and not path.is_symlink()]


def elsewhere(folder: Path) -> str:
    """What to add to a cure where a profile's results folder lacks a run: the profiles beside it that have some."""
    beside = [name for name in PROFILES if name != folder.name]
    full = [name for name in beside if any(runs(notebook) for notebook in notebooks(folder.parent / name))]
    return f"; there are runs of --profile {' and '.join(full)}" if full else ""


def status(run: Path) -> str:
    """``ok``, ``incomplete`` or ``failed``, as its manifest says; ``unfinished`` while there is none."""
    return str((manifest.read(run) or {}).get("status", "unfinished"))


def latest(notebook: Path) -> Path | None:
    """The run that stands for a notebook: the newest that finished, else the newest. None: there is none."""

    def age(run: Path) -> tuple[bool, str, float]:
        record = manifest.read(run) or {}
        return record.get("status") in FINISHED, str(record.get("started", "")), run.stat().st_mtime

    return max(runs(notebook), key=age, default=None)


def link_latest(notebook: Path) -> None:
    """Let ``latest`` point to the latest run: a link, or a file with its name where links cannot be made. A folder of
    that name, as copying makes one of a link, is only a copy, and gets out of the way."""
    run, link = latest(notebook), notebook / LATEST
    if run is None:
        return
    if link.is_dir() and not link.is_symlink():
        link.rename(free(notebook / f"{LATEST}-copied"))
    part = notebook / f".{LATEST}-{os.getpid()}"
    part.unlink(missing_ok=True)
    try:
        part.symlink_to(run.name, target_is_directory=True)
    except OSError:
        part.write_text(f"{run.name}\n", encoding="utf-8")
    part.replace(link)


def set_aside(run: Path) -> None:
    """Move a finished run's results to a folder of their own, with a manifest that vouches for what was moved. What a
    run continues by (its ledger, its adapters) stays. Does nothing where no run has finished."""
    record = manifest.read(run) or {}
    if record.get("status") not in FINISHED:
        return
    stamp = re.sub(r"[-:]", "", str(record.get("started", "")))[:15].replace("T", "-")
    place = free(run.with_name(f"{run.name.partition(AGAIN)[0]}{AGAIN}{stamp}"))
    place.mkdir()
    for part in manifest.RESULTS:
        if part != manifest.FILENAME and (run / part).exists():
            (run / part).rename(place / part)
    moved = {file: digest for file, digest in record.get("outputs", {}).items() if (place / file).exists()}
    manifest.write(place, record | {"outputs": moved})
    (run / manifest.FILENAME).unlink()


def free(path: Path) -> Path:
    """``path``, or the first of ``path-2``, ``path-3``, ... that is not there."""
    tries, number = path, 1
    while tries.exists():
        number += 1
        tries = path.with_name(f"{path.name}-{number}")
    return tries


def claim(notebook: Path, folder: Path) -> None:
    """Note that this notebook writes to this results folder. UsageError if another one does, which has its name."""
    note, here = folder / NOTEBOOK, os.path.relpath(notebook, folder)
    with contextlib.suppress(OSError):
        known = note.read_text(encoding="utf-8").strip()
        if known not in ("", here) and (folder / known).exists() and not (folder / known).samefile(notebook):
            raise UsageError(
                f"{manifest.display(folder)} holds results of another notebook of this name",
                "choose another --output, or give one of the two another name",
            )
    note.write_text(f"{here}\n", encoding="utf-8")


def check_ours(run: Path) -> None:
    """A UsageError if a run would clear something in its folder and nothing shows that the lab made it."""
    traces = (manifest.FILENAME, manifest.CALLS, manifest.LEDGER, LOCK, "contents.json")
    cleared = [part for part in manifest.RESULTS if (run / part).exists()]
    if cleared and not any((run / trace).exists() for trace in traces):
        cause = f"{manifest.display(run)} holds {cleared[0]}, which is not of a run, and a run would clear it"
        raise UsageError(cause, "choose another --output, or move it")


def prunable(notebook: Path) -> list[Path]:
    """Runs that may go: those that the same call has replaced, and those that failed before the newest finished one
    began. Other seeds and parameters are other runs, and stay; so does what has no manifest: a call may continue it."""
    keep = latest(notebook)
    if keep is None or status(keep) not in FINISHED:
        return []
    began = {run: str((manifest.read(run) or {}).get("started", "")) for run in runs(notebook)}
    failed = [run for run, when in began.items() if status(run) == "failed" and when <= began[keep]]
    aside = {run: notebook / run.name.partition(AGAIN)[0] for run in began if AGAIN in run.name}
    replaced = [run for run, by in aside.items() if status(by) in FINISHED]
    return sorted({*failed, *replaced} - {keep})


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Keep other processes out of ``folder``; a BusyError at once, naming the holder, when one is already there. The
    lock is the system's, so it dies with its process; the file beside it only says whose it is."""
    from filelock import FileLock, Timeout

    holder = folder / HOLDER
    try:
        with FileLock(folder / LOCK, timeout=0):
            started = datetime.now().astimezone().isoformat(timespec="seconds")
            holder.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "started": started}))
            try:
                yield
            finally:
                holder.unlink(missing_ok=True)
    except Timeout:
        try:
            who = "process {pid} on {host}, since {started}".format(**json.loads(holder.read_text()))
        except (OSError, ValueError, KeyError):
            who = "it has not said who it is"
        raise BusyError(
            f"another process is working in {manifest.display(folder)} ({who})",
            "wait for it, or choose another --output",
        ) from None


def size(run: Path) -> int:
    return sum(sizes_below(run))


def remove(run: Path) -> bool:
    """Delete a run's folder; False if a process is working there."""
    try:
        with hold(run):
            shutil.rmtree(run)
    except BusyError:
        return False
    return True
