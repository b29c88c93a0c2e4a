"""The rules of the house: imports run downwards, no paper knows another, no circle of files.

The floors and the reading of imports are those of ``docs/draw_house.py``. A file imports from its own room and from
lower floors, never from a room beside it.
"""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter

import draw_house
import pytest
from draw_house import FLOOR, room_of


@pytest.fixture(scope="module")
def modules() -> dict:
    """Every module, parsed; not while tests are collected, which each worker does."""
    return draw_house.modules()


@pytest.fixture(scope="module")
def imports(modules) -> dict[str, set[str]]:
    return draw_house.lab_imports(modules)


def test_every_module_has_a_room(imports):
    assert [name for name in imports if room_of(name) is None] == ["", "papers"]


def test_imports_run_downwards(imports):
    def allowed(name: str, other: str) -> bool:
        here, there = room_of(name), room_of(other)
        if not here or not there or here == there:
            return True
        verbs = FLOOR[here] == FLOOR[there] == 0  # those of the command line know each other
        return verbs or FLOOR[there] > FLOOR[here]

    upward = [
        f"{name} imports {other}" for name in imports for other in sorted(imports[name]) if not allowed(name, other)
    ]
    assert not upward, f"{', '.join(upward)}: hand the value in, or move what both need down"


def test_there_is_no_circle_of_files(imports):
    try:
        list(TopologicalSorter(imports).static_order())
    except CycleError as error:
        pytest.fail(f"a circle of files: {' -> '.join(error.args[1])}")


def test_the_picture_shows_todays_imports(modules, imports):
    words = draw_house.in_words(draw_house.purposes(modules), draw_house.arrows(imports))
    assert (draw_house.HERE / "house.txt").read_text(encoding="utf-8") == words, "run: python docs/draw_house.py"
