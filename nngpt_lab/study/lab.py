"""What all runs of a design share, opened together; and what a run is: an arm and a seed, with a folder of its own."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import pandas as pd
import torch
from tqdm import tqdm

from nngpt_lab.candidates.ledger import Ledger
from nngpt_lab.candidates.pool import Pool, open_pool
from nngpt_lab.candidates.proxy import Proxy, prepare
from nngpt_lab.ground import isolation, progress
from nngpt_lab.ground.errors import UsageError
from nngpt_lab.ground.hashing import sha256_json
from nngpt_lab.ground.processes import carried, side_by_side
from nngpt_lab.ground.progress import bar_hidden, noted
from nngpt_lab.llm import lora, models
from nngpt_lab.llm.catalogue import GIB
from nngpt_lab.llm.models import Coder, one_thread
from nngpt_lab.llm.server_engine import Server
from nngpt_lab.records.results import Results
from nngpt_lab.sandbox.parent import layers_here
from nngpt_lab.sandbox.status import VALID
from nngpt_lab.study.design import Arm, Design, LoopDesign
from nngpt_lab.study.run_state import RunState

ALONE = 2  # workers of a run that goes on beside others: their candidates, while its model writes and is tuned
RUN_GIB = 2  # of memory for each such run, beside a model, its gradients and optimizer
D = TypeVar("D", bound=Design)
L = TypeVar("L", bound=LoopDesign)
B = TypeVar("B", bound="Bench")


@dataclass(frozen=True)
class Lab(Generic[D]):
    """What all runs of a design share: ``coder``, the base model, bare between runs; ``folder`` of adapters and
    records, a folder a run; ``progress``: whether bars are shown, on a terminal only in any case."""

    design: D
    coder: Coder
    folder: Path
    progress: bool = field(default=True, kw_only=True)

    def bar(self, items: Iterable, title: str, total: int | None = None) -> tqdm:
        """A progress bar over ``items``; ``total``: how many they are, where they have no length."""
        total = len(items) if total is None else total  # type: ignore[arg-type]
        return tqdm(noted(items, title, total), title, total, leave=False, disable=bar_hidden(self.progress))


@dataclass(frozen=True)
class Bench(Lab[L]):
    """A lab that trains and scores what its model writes: what scores candidates and the processes that do it, the
    ledger of every sample and outcome, and ``corpus``, what was published before, as its paper's ``lab.py`` says."""

    proxy: Proxy
    pool: Pool
    ledger: Ledger
    corpus: pd.DataFrame


def check(design: Any, device: str, arms: Sequence[Arm] = ()) -> None:
    """Whether the models of a design can be loaded and tuned on a device, and a served one by these ``arms``: the
    errors of ``models.check`` and ``lora.check`` that would come later, before any work."""
    for coder in getattr(design, "coders", None) or (design.coder,):
        named = models.find(coder)
        if tunable := not isinstance(named, Server) or bool(named.weights):
            lora.check(design.recipe, device)  # needs no look at the model, which may be asked of the hub
        model = models.check(coder, device, four_bit=design.four_bit)
        if isinstance(model, Server):
            _check_served(design, model, arms)
        if tunable:
            lora.check(design.recipe, device, models.size(model), design.four_bit)


def _check_served(design: Any, server: Server, arms: Sequence[Arm]) -> None:
    """A UsageError where a server's model cannot do what the design asks of it."""
    where, others = f"{server.model} is on a server", "take the model's name, folder or GGUF file"
    if hasattr(design, "coders"):
        raise UsageError(f"{where}, and answers are read as likelihoods, which no server gives", others)
    if tuned := [arm.name for arm in arms if arm.tuned]:
        if not server.weights:
            cure = f"name its weights, too (?weights=FOLDER), leave out arms that tune, or {others}"
            raise UsageError(f"{where}, and the arm {tuned[0]!r} tunes it", cure)
        server.check_adapters()


@contextlib.contextmanager
def open_bench(
    design: L,
    corpus: Callable[[], pd.DataFrame],
    ledger: Ledger,
    folder: Path,
    *,
    device: str = "cpu",
    workers: int | None = None,
    progress: bool = True,
    coder: Coder | None = None,
) -> Iterator[Bench[L]]:
    """A bench for the runs of a design.

    Args:
        corpus: reads what was published before.
        ledger: where samples and outcomes are filed.
        folder: where adapters are kept.
        device: of the language model and of the candidates.
        workers: candidates trained at a time; None: as the machine carries (``pool.default_workers``).
        coder: a model that is loaded already, instead of the design's own.

    Raises:
        UsageError, DataError: model, device, memory or data are missing; before any work. IsolationError: no candidate
            may run here.
    """
    isolation.require(layers_here())
    if coder is None:
        check(design, device)  # before the corpus and the images are read
    proxy = prepare(design.scored_by(), device=device)
    published = corpus()
    coder = coder or models.load(design.coder, device, four_bit=design.four_bit)
    with open_pool(proxy, workers) as pool, one_thread():
        yield Bench(design, coder, Path(folder), proxy, pool, ledger, published, progress=progress)


@contextlib.contextmanager
def opened(
    results: Results,
    name: str,
    open_lab: Callable[..., AbstractContextManager[B]],
    design: Any,
    workers: int,
    **options,
) -> Iterator[B]:
    """A paper's lab for a notebook: with its ledger, a folder ``name`` among its results, and its profile's device."""
    options |= {"device": results.profile.device, "workers": workers}
    with Ledger(results.ledger_file) as ledger, open_lab(design, ledger, results.folder / name, **options) as lab:
        yield lab


def run_ahead(lab: Bench, open_lab: Callable, run: Callable[..., Any], calls: Sequence[tuple], workers: int) -> None:
    """Let runs that do not need each other go on side by side, if all is on a CPU, with workers for two or more.

    A run alone keeps few cores busy, since one step waits for another. What runs make lies in ledger and folders, where
    whoever repeats them one by one finds it: so nothing is returned, and with fewer workers nothing is done.

    Args:
        lab: whose ledger, folder and device they share.
        open_lab: opens a lab like it; ``run`` takes that and a call's values but for the first, which is its design.
            Both are functions of a module, as each call has a process of its own.
    """
    if lab.coder.server or "cuda" in (lab.coder.device.type, torch.device(lab.proxy.device).type):
        return  # one model serves all
    weights = sum(value.nbytes for value in lab.coder.model.parameters()) / GIB
    together = carried(min(len(calls), workers // ALONE), RUN_GIB + 3 * weights)
    if together < 2:
        return
    alone = functools.partial(_alone, open_lab, run, lab.ledger.path, lab.folder, lab.proxy.device, workers // together)
    ended = noted(side_by_side(alone, calls, together), "runs", len(calls))
    for _ in tqdm(ended, "runs", len(calls), leave=False, disable=bar_hidden(lab.progress)):
        pass


def _alone(
    open_lab: Callable, run: Callable[..., Any], file: Path, folder: Path, device: str, workers: int, *call: Any
) -> None:
    """A call of :func:`run_ahead`, in its own process."""
    os.environ.pop(progress.VARIABLE, None)  # how far all are is for the parent to say
    design, *rest = call
    with (
        Ledger(file) as ledger,
        open_lab(design, ledger, folder, device=device, workers=workers, progress=False) as lab,
    ):
        run(lab, *rest)


class Run:
    """A training from the bare model on. All that is drawn in it follows from its seed and from keys."""

    seed: int

    def name(self, lab: Any) -> str:
        """Its folder's name, and what the ledger files under: changes with all that the run's texts depend on."""
        raise NotImplementedError

    def folder(self, lab: Lab) -> Path:
        return lab.folder / self.name(lab)

    def state(self, lab: Lab) -> RunState:
        """Its adapter as the last call left it, or none yet."""
        return RunState(lab.coder, lab.design.recipe, self.folder(lab), self.seed)


@dataclass(frozen=True)
class ArmRun(Run):
    """One arm and one seed."""

    arm: Arm
    seed: int

    def name(self, lab: Bench) -> str:
        identity = sha256_json([lab.design.hash(), lab.coder.identity, lab.proxy.protocol_hash])[:10]
        return f"{identity} {self.arm.name} seed {self.seed}".replace(" ", "-")


def summary(tables: Sequence[pd.DataFrame]) -> dict[str, str]:
    """What stands beside a loop's progress bar: its last cycle, and the best and the accepted of all cycles."""
    last, everything = tables[-1], pd.concat(tables)
    return {
        "valid": f"{last['status'].isin(VALID).mean():.0%}",
        "mean": f"{last['score'].mean():.2f}",
        "best so far": f"{everything['score'].max():.2f}",
        "accepted": f"{everything['accepted'].sum()}",
    }
