"""What one run keeps on the disk beside the ledger: its adapter, and the seconds of each cycle.

In its folder::

    <folder>/state.json       the last cycle that was tuned after, and the folder of its adapter
    <folder>/adapter-07/      peft's own format; older ones are deleted
    <folder>/cycle-07.json    wall-clock seconds by stage, written once: a resumed run reads a finished cycle back in
                              a moment, and that moment must not replace the time that the cycle really took
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Self, TypeVar

from nngpt_lab.ground.errors import DataError
from nngpt_lab.ground.files import replacing
from nngpt_lab.llm import adapters, lora
from nngpt_lab.llm.models import Coder
from nngpt_lab.study.samples import STAGES

log = logging.getLogger(__name__)
T = TypeVar("T")


class RunState:
    """The adapter of one run, continued from cycle to cycle. A context manager, which leaves the base model bare."""

    def __init__(self, coder: Coder, recipe: lora.Recipe, folder: Path, seed: int):
        self.folder, self._recipe, self._seed = folder, recipe, seed
        self._coder = coder
        self._loaded: str | None = None  # which adapter the coder wears
        folder.mkdir(parents=True, exist_ok=True)
        self._seconds, self._stage = dict.fromkeys(STAGES, 0.0), ""
        last = self._read("state.json")
        self.cycle: int = last.get("cycle", -1)
        self.adapter: str | None = last.get("adapter")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._wear(None)

    def coder(self, cycle: int) -> Coder:
        """The model that writes in ``cycle``: tuned after the one before. DataError if it is no longer there."""
        if self.cycle > cycle - 1:
            raise DataError(
                f"{self.folder.name} was tuned after cycle {self.cycle}, but samples of cycle {cycle} are missing",
                "the ledger is not the one of this folder: put it back, or delete the folder to begin again",
            )
        self._wear(self.adapter)
        return self._coder

    def tune(self, cycle: int, examples: Sequence[lora.Example], seed: int) -> None:
        """Tune after ``cycle``, unless that was done; without examples the adapter stays as it is."""
        if self.cycle >= cycle:
            return
        if examples:
            self._wear(self.adapter)
            if self._loaded is None:
                self._coder = adapters.add_adapter(self._coder, self._recipe, self._seed)
            self._loaded = adapter = f"adapter-{cycle:02d}"
            steps = self.folder / f"steps-{cycle:02d}"
            curve = lora.tune(self._coder, examples, self._recipe, seed, checkpoints=steps, progress=False)
            curve.to_csv(self.folder / f"loss-{cycle:02d}.csv", index=False)
            adapters.save_adapter(self._coder, self.folder / adapter)
        old, self.adapter, self.cycle = self.adapter, self._loaded if examples else self.adapter, cycle
        self._write("state.json", {"cycle": cycle, "adapter": self.adapter})
        shutil.rmtree(self.folder / f"steps-{cycle:02d}", ignore_errors=True)
        if old and old != self.adapter:
            shutil.rmtree(self.folder / old, ignore_errors=True)

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Count the seconds of a stage of this cycle. Those of a stage inside it count for the inner stage only."""
        outer, self._stage = self._stage, stage
        start = time.monotonic()
        try:
            yield
        finally:
            seconds = time.monotonic() - start
            self._seconds[stage] += seconds
            self._stage = outer
            if outer:
                self._seconds[outer] -= seconds

    def timed_steps(self, stage: str, steps: Generator[T]) -> Generator[T]:
        """The steps of an iterator, their seconds counted for a stage. Closing this one closes the iterator, too."""
        with contextlib.closing(steps):
            while True:
                with self.timed(stage):
                    step = next(steps, None)
                if step is None:
                    return
                yield step

    def end_cycle(self, cycle: int) -> dict[str, float]:
        """Seconds by stage of a finished cycle, as they were when it finished for the first time."""
        name = f"cycle-{cycle:02d}.json"
        if not (seconds := self._read(name)):
            self._write(name, seconds := self._seconds)
        self._seconds = dict.fromkeys(STAGES, 0.0)
        return seconds

    def _wear(self, adapter: str | None) -> None:
        if adapter == self._loaded:
            return
        if self._loaded is not None:
            self._coder = adapters.remove_adapter(self._coder)
        if adapter is not None:
            self._coder = adapters.load_adapter(self._coder, self.folder / adapter)
        self._loaded = adapter

    def _read(self, name: str) -> dict:
        """A record; empty if there is none, or only what a full or failing disk has left of one. A run then tunes again
        on what the ledger holds, which gives the same adapter."""
        path = self.folder / name
        try:
            record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        except ValueError:
            record = None
        if not isinstance(record, dict):
            log.warning("%s of run %s is damaged: what it said is found out again", name, self.folder.name)
            return {}
        return record

    def _write(self, name: str, values: dict) -> None:
        with replacing(self.folder / name) as file:
            file.write(f"{json.dumps(values)}\n".encode())
