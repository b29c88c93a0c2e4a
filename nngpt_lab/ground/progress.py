"""How far long work is, said in a file, for whoever stops the process from outside (``runner``)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
VARIABLE = "NNGPT_LAB_PROGRESS"  # names the file; without it nothing is written


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
