"""Paper A's search replayed on its corpus: "evaluating" a function is looking its recorded score up (2601.03808).

    runs = search(get_replay("demo"), augmentations.load().brute_force, folder)
    table = replay_tables.needed(runs)

For each seed a universe of functions is drawn and put into random order. Its first ``n0`` are the start set: evaluated,
and all that a method may learn from. Each method then ranks the others by its guess, and they are evaluated in that
order. So nothing is trained but the rankers, and a search of thousands of evaluations takes seconds.

What this shows and what not: whether scores of few functions, passed to a model as better/worse pairs, tell it which
others are good. It does not show whether the model would have written them: here it chooses among what is there.
"""

from __future__ import annotations

import copy
import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, starmap
from pathlib import Path

import numpy as np
import pandas as pd
from joblib import delayed
from tqdm import tqdm

from nngpt_lab.corpora.augmentations import OPERATIONS
from nngpt_lab.ground.errors import UsageError
from nngpt_lab.ground.files import replacing
from nngpt_lab.ground.hashing import sha256_json
from nngpt_lab.ground.names import named
from nngpt_lab.ground.processes import parallel
from nngpt_lab.ground.progress import bar_hidden
from nngpt_lab.ground.seeds import SCHEME, generator
from nngpt_lab.llm.models import one_thread
from nngpt_lab.papers.augmentation_search import replay_tables
from nngpt_lab.papers.augmentation_search import scores as paper_scores
from nngpt_lab.papers.augmentation_search.pairs import distinct, rename_operations, split
from nngpt_lab.papers.augmentation_search.rankers import RANKERS, LanguageModel, Task, features

log = logging.getLogger(__name__)

RIDGE, TUNED, SHUFFLED = "ridge regression", "LLM, tuned", "LLM, shuffled pairs"
METHODS: dict[str, tuple[str, ...]] = {  # which ranker's numbers, and whose are taken away from them
    RIDGE: ("ridge",),
    "nearest neighbours": ("neighbours",),
    "Parzen estimator": ("tpe",),
    "fewest operations": ("fewest",),
    TUNED: ("tuned", "base"),
    SHUFFLED: ("shuffled", "base"),
    "LLM, tuned over shuffled": ("tuned", "shuffled"),
    "LLM, tuned (likelihood)": ("tuned",),
    "LLM, shuffled (likelihood)": ("shuffled",),
    "LLM, untuned (likelihood)": ("base",),
}
"""A likelihood alone mostly says how short and how common a text is; a difference of two, what tuning changed."""


SLOW = frozenset({"tpe", "base", "tuned", "shuffled"})
QUICK = frozenset({"ridge", "fewest"})  # done sooner than a universe is sent to another process


@dataclass(frozen=True)
class Replay:
    """One size of the replay.

    Attributes:
        seeds: draws of universe and start set: 0, 1, ...; as many as make an interval of a mean, since one is cheap.
        slow_seeds: only the first so many for :data:`SLOW` rankers, whose every draw takes seconds to a minute.
        start_sizes: functions evaluated before a method ranks; smaller start sets begin larger ones.
        methods: of :data:`METHODS`.
        universe: functions that a search is held in, of the 5,337 with code of their own; None: all of them.
        tpe_evaluations: how many functions the Parzen estimator evaluates after the start set.
        llm: the model, and how it is tuned.
        ordering_seeds, slow_ordering_seeds: of the ordering: draws, and how many of them for :data:`SLOW` rankers.
        ordering_start, ordering_tests: of the ordering: functions learnt from; functions tested.
    """

    seeds: int = 200
    slow_seeds: int = 10
    start_sizes: tuple[int, ...] = (50, 100, 500)
    methods: tuple[str, ...] = tuple(METHODS)
    universe: int | None = 2000
    tpe_evaluations: int = 300
    llm: LanguageModel = LanguageModel()  # noqa: RUF009 (frozen)
    ordering_seeds: int = 100
    slow_ordering_seeds: int = 5
    ordering_start: int = 500
    ordering_tests: int = 500

    def __post_init__(self):
        for name in self.methods:
            named("method", name, METHODS)
        sizes = (self.seeds, self.slow_seeds, self.tpe_evaluations, self.ordering_tests)
        if (
            min(*sizes, self.ordering_seeds, self.slow_ordering_seeds) < 1
            or min(*self.start_sizes, self.ordering_start) < 10
        ):
            raise UsageError("a replay's sizes are too small", "seeds count from 1, start sets from 10 functions")

    def of_seed(self, seed: int, slow_seeds: int | None = None) -> tuple[str, ...]:
        """The methods of this draw; ``slow_seeds``: as many draws have the slow ones, else :attr:`slow_seeds`."""
        slow = self.slow_seeds if slow_seeds is None else slow_seeds
        return tuple(name for name in self.methods if seed < slow or SLOW.isdisjoint(METHODS[name]))


_FULL = LanguageModel()
REPLAYS = {
    "smoke": Replay(1, 1, (50,), universe=80, tpe_evaluations=10, ordering_seeds=1, ordering_start=30,
                    ordering_tests=20, llm=replace(_FULL, pairs=16, recipe=replace(_FULL.recipe, epochs=1))),
    "demo": Replay(200, 1, (50,), (RIDGE, "fewest operations", TUNED, SHUFFLED, "LLM, untuned (likelihood)"),
                   ordering_seeds=20, slow_ordering_seeds=1, ordering_start=100, ordering_tests=60,
                   llm=replace(_FULL, pairs=16)),
    "full": Replay(),
}  # fmt: skip


def get_replay(name: str) -> Replay:
    """The replay of that name; a UsageError that names the nearest one if there is none."""
    return named("replay", name, REPLAYS)


# ------------------------------------------------------------------------------------------------------------- search


def search(settings: Replay, functions: pd.DataFrame, folder: Path, workers: int = 1) -> list[replay_tables.Run]:
    """Every method's search with every seed and start set, or what an earlier call left of them, in this order: start
    sizes, seeds, methods. More seeds, start sizes or methods go on from what is there.

    ``functions``: as ``augmentations.load().brute_force``; a code scored again stands with its first score. ``folder``:
    holds one file per universe, start set and ranker; delete it to begin again. ``workers``: processes, each of one
    thread: the numbers do not depend on how many there are. UsageError if the universe has no more functions than a
    start set.
    """
    table = distinct(functions)
    size = min(settings.universe or len(table), len(table))
    if size <= max(settings.start_sizes):
        raise UsageError(f"a start set is as large as the universe of {size}", "draw a larger universe")
    kept = _folder(
        folder, settings, table, "search, features of the corpus", settings.universe, settings.tpe_evaluations
    )
    keys = [(n0, seed) for n0 in settings.start_sizes for seed in range(settings.seeds)]
    read = features(table)  # scaled by the whole corpus, once for all universes
    tasks = [_task(table, read, size, n0, seed, settings.tpe_evaluations) for n0, seed in keys]
    stems = [f"start-{n0:04d}-seed-{seed:03d}" for n0, seed in keys]
    methods = [settings.of_seed(seed) for _, seed in keys]
    ranked = _rank_all(tasks, stems, methods, settings, kept, workers, "replay")
    return [
        _run(method, n0, seed, task, scores)
        for (n0, seed), task, chosen, scores in zip(keys, tasks, methods, ranked, strict=True)
        for method in chosen
    ]


def _task(table: pd.DataFrame, read: pd.DataFrame, size: int, n0: int, seed: int, tpe_evaluations: int) -> Task:
    drawn = generator("paper A", "universe", seed, len(table)).permutation(len(table))[:size]
    universe, read = (part.iloc[drawn].reset_index(drop=True) for part in (table, read))
    return Task(universe, np.arange(n0), seed, tpe_evaluations, read)


def _run(method: str, n0: int, seed: int, task: Task, ranked: dict[str, np.ndarray]) -> replay_tables.Run:
    """The start set, then the others by the method's guess; of equal ones, whichever the draw put first."""
    guess = guesses(method, ranked)
    others = np.setdiff1d(np.flatnonzero(~np.isnan(guess)), task.start)
    order = np.concatenate([task.start, others[np.argsort(-guess[others], kind="stable")]])
    scores = task.functions["score"].to_numpy(float)
    return replay_tables.Run(method, n0, seed, scores[order], scores)


def guesses(method: str, ranked: dict[str, np.ndarray]) -> np.ndarray:
    """A method's guess for each function, the higher the better, from its rankers' numbers."""
    first, *taken = METHODS[method]
    return ranked[first] - sum(ranked[name] for name in taken)


# ----------------------------------------------------------------------------------------------------------- ordering

PLAIN, RENAMED, MASKED = "held-out operations", "names exchanged", "names masked"
PARAMETERS = "only parameters differ"


def ordering(
    settings: Replay, functions: pd.DataFrame, folder: Path, rng: np.random.Generator, resamples: int, workers: int = 1
) -> pd.DataFrame:
    """How well each method orders pairs of functions whose sets of operations it never learnt from.

    Tests: ``held-out operations``; ``only parameters differ`` (those of its pairs with the same operations in the same
    order); ``names exchanged`` (learnt with the real names, tested on code in which each operation bears another one's:
    a method that goes by names falls to a half or below); ``names masked`` (learnt and tested with OP1, OP2, ...: what
    the names meant before tuning is gone, what the scores tell of them is not).

    Returns:
        One row per test, method and seed: columns of ``replay_tables.ordering``. Arguments are those of :func:`search`;
        ``rng`` and ``resamples`` are for the intervals.
    """
    within_sd = paper_scores.noise(functions, generator("paper A", "spread"), resamples=2).within_sd.value
    table = paper_scores.scored(distinct(functions))
    kept = _folder(folder, settings, table, "ordering", settings.ordering_start, settings.ordering_tests)
    settings = replace(settings, methods=tuple(m for m in settings.methods if "tpe" not in METHODS[m]))
    plain = [_ordering_task(table, settings, seed) for seed in range(settings.ordering_seeds)]
    masks = [_masked(task) for task in plain]
    stems = [f"{name}-seed-{seed:03d}" for name in ("plain", "masked") for seed in range(settings.ordering_seeds)]
    methods = [settings.of_seed(seed, settings.slow_ordering_seeds) for seed in range(settings.ordering_seeds)]
    ranked = _rank_all([*plain, *masks], stems, methods * 2, settings, kept, workers, "ordering")
    draws = Counter(method for own in methods for method in own)  # the interval of several is over these
    rows = []
    for seed, task in enumerate(plain):
        n0, tests = len(task.start), (len(task.functions) - len(task.start)) // 2
        tested = task.functions.iloc[n0 : n0 + tests]
        scores = tested["score"].to_numpy()
        sets = tested["operations"].map(lambda used: "+".join(sorted(used)))
        sequences = tested["operations"].map("+".join)
        parts = {PLAIN: (seed, n0, None), PARAMETERS: (seed, n0, sequences), RENAMED: (seed, n0 + tests, None),
                 MASKED: (seed + len(plain), n0, None)}  # fmt: skip
        for test, (of, begin, same) in parts.items():
            for method in methods[seed]:
                guess = guesses(method, ranked[of])[begin : begin + tests]
                within = resamples if draws[method] == 1 else 0
                values = replay_tables.ordering(scores, guess, sets, within_sd, rng, within, same)
                rows.append({"test": test, "method": method, "seed": seed} | values)
    return pd.DataFrame(rows)


def _ordering_task(table: pd.DataFrame, settings: Replay, seed: int) -> Task:
    """Functions to learn from, functions to test, and these once more with their operations' names exchanged."""
    rng = generator("paper A", "ordering", seed, len(table))
    learnt, tested = (part.iloc[rng.permutation(len(part))] for part in split(table, 0.25, rng))
    learnt, tested = learnt.head(settings.ordering_start), tested.head(settings.ordering_tests)
    cycle = rng.permutation(OPERATIONS).tolist()  # each name becomes the next one, so none keeps its own
    names = dict(zip(cycle, cycle[1:] + cycle[:1], strict=True))
    together = pd.concat([learnt, tested, rename_operations(tested, names)], ignore_index=True)
    return Task(together, np.arange(len(learnt)), seed)


def _masked(task: Task) -> Task:
    """The same without the exchanged ones, and operations called OP1, OP2, ..."""
    tests = (len(task.functions) - len(task.start)) // 2
    names = {name: f"OP{number}" for number, name in enumerate(OPERATIONS, 1)}
    masked = rename_operations(task.functions.iloc[: len(task.start) + tests], names)
    return replace(task, functions=masked)


def _folder(folder: Path, settings: Replay, table: pd.DataFrame, *decided_by) -> Path:
    """A folder named after all that decides a ranker's numbers, besides what its files are named after."""
    codes = sha256_json([table["code_hash"].tolist(), table["score"].astype(str).tolist()])
    llm = vars(settings.llm) | {"recipe": vars(settings.llm.recipe), "style": "nano"}  # a name that folders had, too
    return Path(folder) / sha256_json([codes, llm, SCHEME, *decided_by])[:12]


def _rank_all(
    tasks: Sequence[Task], stems: Sequence[str], methods: Sequence[Sequence[str]], settings: Replay, folder: Path,
    workers: int, title: str,
) -> list[dict[str, np.ndarray]]:  # fmt: skip
    """Each task's numbers by ranker. Files that are there are read; the others are made, and written at once."""
    folder.mkdir(parents=True, exist_ok=True)
    rankers = [sorted({ranker for method in chosen for ranker in METHODS[method]}) for chosen in methods]
    paths = [
        {ranker: folder / f"{stem}-{ranker}.npz" for ranker in named}
        for stem, named in zip(stems, rankers, strict=True)
    ]
    missing = [
        (task, ranker, settings.llm, path)
        for task, files in zip(tasks, paths, strict=True)
        for ranker, path in files.items()
        if not path.exists()
    ]
    quick = starmap(_rank, (job for job in missing if job[1] in QUICK))
    # Copies, since a task keeps its features when they are first asked for, and joblib's thread reads it meanwhile
    jobs = [delayed(_rank)(copy.copy(task), *rest) for task, *rest in missing if rest[0] not in QUICK]
    done = chain(quick, parallel(workers, batch_size=1, return_as="generator_unordered")(jobs))
    for _ in tqdm(done, title, len(missing), unit=" rankings", disable=bar_hidden(), leave=False):
        pass
    return [{ranker: np.load(path)["scores"] for ranker, path in files.items()} for files in paths]


def _rank(task: Task, ranker: str, llm: LanguageModel, path: Path) -> None:
    began = time.process_time()
    with one_thread():  # so that a number does not depend on the machine's cores
        scores = RANKERS[ranker](task, llm)
    seconds = time.process_time() - began  # of work, whatever else the machine does
    with replacing(path) as file:
        np.savez_compressed(file, scores=scores, seconds=seconds)
    log.info("%s: %.1f s", path.stem, seconds)
