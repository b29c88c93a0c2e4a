"""Draws the house from the imports: ``python docs/draw_house.py`` writes ``house.svg`` and ``house.txt`` beside it.

Floors are rows, and rooms are boxes with the first line of their ``__init__`` docstring. An arrow goes from a room to a
room that it imports; one that a chain of other arrows implies is left out of the picture, but stands in ``house.txt``,
which says everything in words. ``tests/test_house.py`` reads the imports with these functions, holds the rules, and
fails where ``house.txt`` is old.
"""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path

HERE = Path(__file__).parent
PACKAGE = HERE.parent / "nngpt_lab"
FLOORS = (  # from the roof down
    (
        "cli",
        "compare",
        "doctor",
        "exports",
        "new_notebook",
        "parameters",
        "registry",
        "report",
        "runner",
        "scoring",
        "__main__",
    ),
    (
        "papers.architecture_loop",
        "papers.augmentation_search",
        "papers.dataset_prediction",
        "papers.delta_search",
        "walkthroughs",
    ),
    ("study",),
    ("candidates", "llm"),
    ("corpora", "sandbox"),
    ("records", "statistics"),
    ("ground",),
)
FLOOR = {room: number for number, floor in enumerate(FLOORS) for room in floor}
VERBS = "cli, runner, scoring, compare, report, doctor"  # the roof is one box, since its files know each other
ROWS = ((VERBS,), *FLOORS[1:])
STEP = (0, 0.25, 0, 0.5, 0.27, 0.74, 0)  # from room to room along each row: unequal, so that arrows miss the boxes


def modules() -> dict[str, ast.Module]:
    """Every module by its dotted name below ``nngpt_lab``, parsed."""
    parsed = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        parsed[name] = ast.parse(path.read_text(encoding="utf-8"))
    return parsed


def imported(tree: ast.AST) -> Iterator[tuple[str, str | None]]:
    """Each import of a source, those inside functions and for type checkers included: the module, and the name taken
    from it (None for a plain ``import``)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level or node.module is None:
                raise ValueError(f"line {node.lineno}: relative imports are not used; write the whole name")
            yield from ((node.module, alias.name) for alias in node.names)


def lab_imports(parsed: Mapping[str, ast.Module]) -> dict[str, set[str]]:
    """For every module the lab's modules that it imports; itself left out."""
    imports = {}
    for name, tree in parsed.items():
        targets = set()
        for module, taken in imported(tree):
            whole = f"{module}.{taken}".removeprefix("nngpt_lab.")
            targets.add(whole if whole in parsed else module.removeprefix("nngpt_lab."))
        imports[name] = targets & parsed.keys() - {name, ""}
    return imports


def room_of(module: str) -> str | None:
    """The room that a module stands in; None for the package's own ``__init__`` and for ``papers``, which are empty."""
    return next((room for room in FLOOR if module == room or module.startswith(f"{room}.")), None)


def arrows(imports: Mapping[str, set[str]]) -> list[tuple[str, str]]:
    """Which room imports which, sorted from the roof down; the files of the roof count as one room."""

    def box(module: str) -> str | None:
        room = room_of(module)
        return VERBS if room in FLOORS[0] else room

    pairs = {(box(module), box(target)) for module, targets in imports.items() for target in targets}
    return sorted((high, low) for high, low in pairs if high and low and high != low)


def purposes(parsed: Mapping[str, ast.Module]) -> dict[str, str]:
    """Every room and what it is for: the first line of its ``__init__``'s docstring."""
    rooms = {room: ast.get_docstring(parsed[room]) for row in ROWS[1:] for room in row}
    missing = [room for room, text in rooms.items() if not text]
    if missing:
        raise ValueError(f"no docstring in the __init__.py of {', '.join(missing)}: say there what the room is for")
    return {VERBS: "What a user types."} | {room: text.splitlines()[0] for room, text in rooms.items() if text}


def in_words(rooms: Mapping[str, str], pairs: list[tuple[str, str]]) -> str:
    """All that the picture shows, two lines for each room. The text of ``house.txt``."""
    lines = []
    for room, purpose in rooms.items():
        imports = [low for high, low in pairs if high == room]
        lines.append(f"{room}: {purpose}\n    imports {', '.join(imports) or 'nothing of the lab'}\n")
    return "".join(lines)


def direct(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The arrows that no chain of other arrows implies."""

    def reachable(start: str) -> set[str]:
        below = {low for high, low in pairs if high == start}
        return below.union(*(reachable(room) for room in below))

    return [
        (high, low)
        for high, low in pairs
        if not any(low in reachable(between) for start, between in pairs if start == high and between != low)
    ]


def draw(rooms: Mapping[str, str], pairs: list[tuple[str, str]], file: Path) -> None:
    """The picture, in the format of the file's suffix."""
    import matplotlib.pyplot as plt
    from matplotlib.patches import Rectangle

    plt.rcParams |= {"svg.hashsalt": "house", "svg.fonttype": "none"}  # equal arrows give equal files; text stays text
    figure, axes = plt.subplots(figsize=(14, 10), layout="constrained")
    boxes, place = {}, {}
    for row, names in enumerate(ROWS):
        y = len(ROWS) - row
        for column, room in enumerate(names):
            x = 0.5 + (column - (len(names) - 1) / 2) * STEP[row]
            place[room] = x, y
            box = Rectangle((x - 0.115, y - 0.32), 0.23, 0.64, fc="white", ec=f"C{row}", lw=1.8, zorder=2)
            boxes[room] = axes.add_patch(box)
            axes.text(x, y + 0.21, room.removeprefix("papers."), ha="center", va="center", weight="bold", zorder=3)
            axes.text(x, y + 0.08, textwrap.fill(rooms[room], 38), ha="center", va="top", fontsize=8, zorder=3)
    for high, low in direct(pairs):
        ends = {"patchA": boxes[high], "patchB": boxes[low], "shrinkA": 0, "shrinkB": 0}
        colour = boxes[high].get_edgecolor()
        axes.annotate("", place[low], place[high], arrowprops=ends | {"arrowstyle": "-|>", "color": colour}, zorder=1)
    axes.set(xlim=(-0.13, 1.13), ylim=(0.6, len(ROWS) + 0.4))
    axes.axis("off")
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)
    plt.close(figure)


if __name__ == "__main__":
    parsed = modules()
    rooms, pairs = purposes(parsed), arrows(lab_imports(parsed))
    (HERE / "house.txt").write_text(in_words(rooms, pairs), encoding="utf-8")
    draw(rooms, pairs, HERE / "house.svg")
