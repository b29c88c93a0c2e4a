"""How far long work is: a bar for those who look on, a file for whoever stops the process from outside (``runner``)."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
VARIABLE = "NNGPT_LAB_PROGRESS"  # names the file; without it nothing is written
SERVED = "JPY_SESSION_NAME"  # Jupyter's servers name the open notebook so to its kernel; papermill and nbval do not


def bar_hidden(asked: bool = True) -> bool | None:
    """What tqdm calls ``disable``. Shown are bars on a terminal and in a notebook that somebody has open; not in a log,
    nor in a notebook that is executed as a file, where they would stand as what went wrong."""
    if not asked:
        return True
    is_open = "ipykernel" in sys.modules and SERVED in os.environ and VARIABLE not in os.environ
    return False if is_open else None  # None: tqdm looks for a terminal


def note(title: str, done: int, total: int) -> None:
    """Remember that ``done`` of ``total`` are done of what ``title`` names."""
    if total and (place := os.environ.get(VARIABLE)):
        Path(place).write_text(json.dumps({**read(place), title: [done, total]}), encoding="utf-8")


def noted(items: Iterable[T], title: str, total: int) -> Iterator[T]:
    """The items, each noted as done when the next one is asked for."""
    for done, item in enumerate(items):
        note(title, done, total)
        yield item
    note(title, total, total)


def read(place: str | Path) -> dict[str, list[int]]:
    """What was noted in a file: done and total by title; empty if there is none, or half a one."""
    try:
        return json.loads(Path(place).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
