"""The rules of the house: imports run downwards, no paper knows another, no circle of files.

The floors and the reading of imports are those of ``docs/draw_house.py``. A file imports from its own room and from
lower floors, never from a room beside it.
"""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter

import draw_house
import pytest
from draw_house import FLOOR, room_of

MODULES = draw_house.modules()
IMPORTS = draw_house.lab_imports(MODULES)


def test_every_module_has_a_room():
    assert [name for name in IMPORTS if room_of(name) is None] == ["", "papers"]


@pytest.mark.parametrize("name", [name for name in IMPORTS if room_of(name)])
def test_imports_run_downwards(name):
    here = room_of(name)
    upward = [
        other
        for other in sorted(IMPORTS[name])
        if room_of(other) and room_of(other) != here and FLOOR[room_of(other)] <= FLOOR[here]
    ]
    if FLOOR[here] == 0:  # the verbs of the command line know each other
        upward = [other for other in upward if FLOOR[room_of(other)] > 0]
    assert not upward, f"{name} imports {', '.join(upward)}: hand the value in, or move what both need down"


def test_there_is_no_circle_of_files():
    try:
        list(TopologicalSorter(IMPORTS).static_order())
    except CycleError as error:
        pytest.fail(f"a circle of files: {' -> '.join(error.args[1])}")


def test_the_picture_shows_todays_imports():
    words = draw_house.in_words(draw_house.purposes(MODULES), draw_house.arrows(IMPORTS))
    assert (draw_house.HERE / "house.txt").read_text(encoding="utf-8") == words, "run: python docs/draw_house.py"
