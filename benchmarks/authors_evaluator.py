"""The authors' side of evaluator.py: their own `ab.nn.api.check_nn`, timed by stage; started by that script.

It runs under the Python of an environment in which nn-dataset is installed, and needs nothing of the lab there. Each
line of standard input is a candidate as JSON (``code``, ``prm``, ``seed``), each line of the answer what came of it
(``accuracy``, ``message``, ``seconds`` by stage). What the authors' code prints goes to standard error.

Their code is not changed. Around it stand: a stand-in for ``torchvision.datasets.CIFAR10`` that holds the benchmark's
images (so that theirs saves the seconds which the real class takes to check and unpickle its archive for every
candidate), a clock around their functions, and a seed.
"""

from __future__ import annotations

import functools
import json
import math
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torchvision
from torch.utils.data import dataloader

TASK = ("img-classification", "cifar-10", "acc")


class Images(torchvision.datasets.CIFAR10):
    """CIFAR10 with other images, which are in memory already."""

    parts: ClassVar[dict[bool, tuple[np.ndarray, np.ndarray]]] = {}  # by train: uint8 (N, H, W, 3), labels int64 (N,)

    def __init__(self, root: str, train: bool = True, transform: Callable | None = None, download: bool = False):
        self.data, targets = self.parts[train]
        self.targets, self.transform, self.target_transform = targets.tolist(), transform, None


class Clock:
    """Wall-clock seconds by stage; time in an inner stage counts for that one alone."""

    def __init__(self):
        self.seconds: Counter[str] = Counter()
        self._stack: list[str] = []
        self._last = 0.0

    def around(self, owner: Any, name: str, stage: str) -> None:
        """Put the clock around ``owner.name``."""
        function = getattr(owner, name)

        @functools.wraps(function)
        def timed(*args, **kwargs):
            self._turn(lambda: self._stack.append(stage))
            try:
                return function(*args, **kwargs)
            finally:
                self._turn(self._stack.pop)

        setattr(owner, name, timed)

    def _turn(self, change: Callable[[], object]) -> None:
        now = time.perf_counter()
        if self._stack:
            self.seconds[self._stack[-1]] += now - self._last
        change()
        self._last = now


def watch(clock: Clock) -> None:
    """Divide a call of ``check_nn`` into stages; what remains of it is ``other``."""
    from ab.nn.util import CodeEval, Train

    clock.around(CodeEval, "run_pylint", "pylint")
    clock.around(CodeEval, "analyze_complexity", "pylint")
    clock.around(CodeEval, "dynamic_evaluation", "trial run at 224 px")
    clock.around(Train, "load_dataset", "data loader")
    clock.around(dataloader.DataLoader, "__iter__", "data loader")
    clock.around(dataloader._BaseDataLoaderIter, "__next__", "data loader")
    clock.around(dataloader._MultiProcessingDataLoaderIter, "_shutdown_workers", "data loader")
    clock.around(Train.Train, "__init__", "build")
    clock.around(Train.Train, "train_n_eval", "train")
    clock.around(Train.Train, "eval", "predict")
    clock.around(Train, "release_memory", "other")
    clock.around(Train, "train_new", "other")


def evaluate(check_nn: Callable, clock: Clock, request: dict[str, Any]) -> dict[str, Any]:
    """One candidate through ``check_nn`` with its defaults, but not saved to the data base."""
    from ab.nn.util.Exception import AccuracyException

    seed = request["seed"]
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  the candidate's own draws come from there
    torch.manual_seed(seed)
    clock.seconds.clear()
    accuracy, message, start = None, "", time.perf_counter()
    try:
        _, accuracy, _, _ = check_nn(request["code"], *TASK, request["prm"], save_to_db=False)
    except AccuracyException as error:  # raised below 12 %, after all the work
        accuracy = error.accuracy
    except Exception as error:
        message = f"{type(error).__name__}: {error}"[:300]
    seconds = dict(clock.seconds) | {"total": time.perf_counter() - start}
    finite = accuracy is not None and math.isfinite(accuracy)
    return {"accuracy": float(accuracy) if finite else None, "message": message, "seconds": seconds}


def main(images: str) -> None:
    """Serve candidates until the input ends; ``images`` is an .npz file with the two parts."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.path.insert(0, str(Path.cwd()))  # the authors import candidates from a folder below the working directory
    with np.load(images) as arrays:
        for part in ("train", "test"):
            Images.parts[part == "train"] = arrays[f"{part}_images"], arrays[f"{part}_labels"]
    torchvision.datasets.CIFAR10 = Images
    from ab.nn.api import check_nn  # builds the data base in the working directory unless it is there

    clock = Clock()
    watch(clock)
    about = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    print(json.dumps(about), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(evaluate(check_nn, clock, json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
