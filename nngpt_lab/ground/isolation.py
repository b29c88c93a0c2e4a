"""The least that must confine a candidate, and what the user said about running with less.

A candidate's code is hostile until proven otherwise, so isolation fails closed: below :data:`MINIMUM` none runs, unless
the user wrote ``weak`` himself, as ``--isolation weak`` or as a notebook's parameter.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from nngpt_lab.ground.errors import LabError
from nngpt_lab.ground.names import named

MINIMUM = {  # what must be kept from a candidate: layers, as a sandbox names them, that do so
    "files": ("landlock files", "seccomp"),
    "the network": ("network namespace", "seccomp"),  # the namespace alone leaves the machine's local sockets
    "other processes": ("pid namespace",),
}
CHOICES = {"minimum": "nothing runs below the stated minimum", "weak": "candidates run with whatever there is"}
VARIABLE = "NNGPT_LAB_ISOLATION"  # in the environment, so that processes that this one starts know it, too
CURE = (
    "see `nngpt-lab doctor`: a Linux machine of your own, a virtual machine or WSL 2 has what it takes; or trust the "
    "model's code with all that you may do here: --isolation weak, in a notebook isolation = 'weak'"
)


class IsolationError(LabError):
    """This machine cannot confine a candidate as it must be, so none was run."""

    exit_code = 7


def choose(value: str) -> None:
    """Say for this process, and for those that it starts, whether candidates may run below the minimum."""
    named("isolation", value, CHOICES)
    os.environ[VARIABLE] = value


def is_weak() -> bool:
    """Whether the user said that candidates may run with whatever layers there are."""
    return os.environ.get(VARIABLE) == "weak"


def lacking(layers: Iterable[str]) -> list[str]:
    """What these layers leave open, each with the layers that would close it; nothing at or above the minimum."""
    held = set(layers)
    missing = {what: [layer for layer in needed if layer not in held] for what, needed in MINIMUM.items()}
    return [f"{what} ({', '.join(names)})" for what, names in missing.items() if names]


def require(layers: Iterable[str]) -> None:
    """IsolationError below the minimum, unless the user said ``weak``."""
    if (open_to_it := lacking(layers)) and not is_weak():
        raise IsolationError(f"isolation: this machine cannot keep a candidate from {', '.join(open_to_it)}", CURE)


def described(layers: Iterable[str]) -> str:
    """In a phrase, for logs and reports.

    >>> described(["landlock files", "seccomp"])
    'weak isolation: candidates were not kept from the network (network namespace), other processes (pid namespace)'
    """
    held = sorted(layers)
    if open_to_it := lacking(held):
        return f"weak isolation: candidates were not kept from {', '.join(open_to_it)}"
    return f"isolation: {len(held)} layers"
