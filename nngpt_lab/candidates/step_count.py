"""Whether a candidate trained for longer than its protocol: one update of a weight for each batch handed out.

Batches are handed out once, but code that keeps them can train on them again. Steps of torch's optimizers are counted
here, in the candidate's own process: what updates weights by hand, or takes the count away, is not seen.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Protocol, Self

from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from nngpt_lab.sandbox.status import Status
from nngpt_lab.sandbox.task import Failure


class Handed(Protocol):
    """What hands out batches and counts them."""

    steps: int


class StepCount:
    """Stops at a step by which a weight was updated more often than batches were handed out; a context manager. Of
    steps within steps (one optimizer around another, a subclass that calls its parent) the innermost count, and of
    several optimizers each has its own weights."""

    def __init__(self) -> None:
        self.batches: list[Handed] = []
        self._taken: Counter[int] = Counter()
        self._open: list[tuple[Any, list[Any]]] = []  # steps that have begun: the optimizer, and those within
        self._excess = False

    def __enter__(self) -> Self:
        self._hooks = register_optimizer_step_pre_hook(self._before), register_optimizer_step_post_hook(self._after)
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _before(self, optimizer: Any, *_: Any) -> None:
        for _, within in self._open:
            within.append(optimizer)
        self._open.append((optimizer, []))

    def _after(self, optimizer: Any, *_: Any) -> None:
        while self._open:  # one that raised has not come to its end
            begun, within = self._open.pop()
            if begun is optimizer:
                break
        if not within:
            weights = [id(weight) for group in optimizer.param_groups for weight in group["params"]]
            self._taken.update(weights)
            self._excess |= any(self._taken[weight] > self._handed() for weight in weights)
            self.check()

    def _handed(self) -> int:
        return sum(batches.steps for batches in self.batches)

    def check(self) -> None:
        """Failure (overtrained) if a step too many was taken, whether or not the candidate went on."""
        if self._excess:
            message = f"it updates a weight more often than it was given batches ({self._handed()}): train on each once"
            raise Failure(Status.OVERTRAINED, message)
