"""The rules of the house: imports run downwards, no paper knows another, no circle of files.

The floors, from the roof down. A file imports from its own room and from lower floors, never from a room beside it.
Imports are read from the sources, those inside functions and for type checkers included.
"""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter

import pytest

from nngpt_lab.ground import paths

FLOORS = (
    ("cli", "doctor", "report", "runner", "__main__"),
    ("papers.architecture_loop", "papers.augmentation_search", "papers.dataset_prediction", "walkthroughs"),
    ("study",),
    ("candidates", "llm"),
    ("corpora", "sandbox"),
    ("records", "statistics"),
    ("ground",),
)
ROOMS = [room for floor in FLOORS for room in floor]
FLOOR = {room: number for number, floor in enumerate(FLOORS) for room in floor}


def modules() -> dict[str, ast.Module]:
    """Every module by its dotted name below ``nngpt_lab``, parsed."""
    found = {}
    for path in sorted(paths.PACKAGE.rglob("*.py")):
        parts = path.relative_to(paths.PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


MODULES = modules()


def imports(tree: ast.Module) -> set[str]:
    """The lab's modules that a module imports."""
    named = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            named |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports are not used"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            named |= {name if name.removeprefix("nngpt_lab.") in MODULES else node.module for name in whole}
    return {name.removeprefix("nngpt_lab.") for name in named if name.startswith("nngpt_lab.")}


IMPORTS = {name: imports(tree) - {name} for name, tree in MODULES.items()}


def room(module: str) -> str | None:
    """The room that a module stands in; None for the package's own ``__init__`` and for ``papers``, which are empty."""
    return next((room for room in ROOMS if module == room or module.startswith(f"{room}.")), None)


def test_every_module_has_a_room():
    assert [name for name in MODULES if room(name) is None] == ["", "papers"]


@pytest.mark.parametrize("name", [name for name in MODULES if room(name)])
def test_imports_run_downwards(name):
    here = room(name)
    upward = [
        other
        for other in sorted(IMPORTS[name])
        if room(other) and room(other) != here and FLOOR[room(other)] <= FLOOR[here]
    ]
    if FLOOR[here] == 0:  # the verbs of the command line know each other
        upward = [other for other in upward if FLOOR[room(other)] > 0]
    assert not upward, f"{name} imports {', '.join(upward)}: hand the value in, or move what both need down"


def test_there_is_no_circle_of_files():
    try:
        list(TopologicalSorter(IMPORTS).static_order())
    except CycleError as error:
        pytest.fail(f"a circle of files: {' -> '.join(error.args[1])}")
