"""Does an edit land where it belongs? True edits, corrupted as models corrupt them, through four appliers.

A true edit turns one published network into another. Its diff is then damaged in one of the ways of
:data:`CORRUPTIONS`, and handed to

* GNU ``patch`` with fuzz 0 and with fuzz 2, its default: how much context it may ignore;
* the rules of the authors' code, written anew from their description: ``patch``; where that fails, delete and insert
  at the stated line numbers *without comparing a line*; where the result does not parse, drop what looks odd;
* ours (``application.py``), which was tuned on another generator (``tests/papers/delta_search/noise.py``).

Where the lines of the damaged diff still say where it belongs, the only right result is the true one (``apply``). Where
it removes a line that is not there, or is cut off, the right answer is to refuse (``refuse``). Where its lines stand in
two places (``by number``), only the stated line number tells them apart: half of these numbers are true, and half point
at the wrong one, as when the file has changed since the model looked.
"""

from __future__ import annotations

import copy
import difflib
import functools
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from nngpt_lab.corpora.code import UNREADABLE, parse
from nngpt_lab.ground.processes import in_processes
from nngpt_lab.ground.seeds import generator
from nngpt_lab.papers.delta_search import application
from nngpt_lab.papers.delta_search.edits import Refused, read
from nngpt_lab.papers.delta_search.mutations import random_mutation
from nngpt_lab.statistics.intervals import wilson

LONGEST = 80  # lines of a true edit's diff; longer ones no model is asked for
LARGEST = 12_000  # characters of a network: what fits the authors' 4,096 tokens beside an answer
RESULTS = ("right", "refused", "wrong")


@dataclass
class Damaged:
    """A diff in the making: per hunk its first old and new line, from 1, and its (mark, text) lines.

    ``right``: the only right result; None: to be refused. ``miscount``: added to the header's counts; ``cut``: the
    share of the text that is kept, and then no closing tag.
    """

    base: list[str]
    right: list[str] | None
    hunks: list[list[tuple[str, str]]]
    starts: list[tuple[int, int]]
    miscount: list[tuple[int, int]] = field(default_factory=list)
    unmarked: bool = False
    cut: float = 1.0

    def answer(self) -> str:
        lines = ["--- baseline.py", "+++ improved.py"]
        for number, (hunk, (old, new)) in enumerate(zip(self.hunks, self.starts, strict=True)):
            wrong = self.miscount[number] if self.miscount else (0, 0)
            counts = [sum(mark != other for mark, _ in hunk) + more for other, more in zip("+-", wrong, strict=True)]
            lines.append(f"@@ -{old},{counts[0]} +{new},{counts[1]} @@")
            lines += [text if self.unmarked and mark == " " else mark + text for mark, text in hunk]
        text = "\n".join(lines) + "\n"
        return f"<delta>\n{text}</delta>" if self.cut == 1 else f"<delta>\n{text[: int(self.cut * len(text))]}"


def undamaged(before: str, after: str) -> Damaged:
    """The true diff, three lines of context."""
    old, new = before.split("\n"), after.split("\n")
    hunks, starts = [], []
    for group in difflib.SequenceMatcher(None, old[:-1], new[:-1]).get_grouped_opcodes(3):
        hunk = []
        for tag, a, b, c, d in group:
            if tag == "equal":
                hunk += [(" ", line) for line in old[a:b]]
            else:
                hunk += [("-", line) for line in old[a:b]] + [("+", line) for line in new[c:d]]
        hunks.append(hunk)
        starts.append((group[0][1] + 1, group[0][3] + 1))
    return Damaged(old, new, hunks, starts)


# ---- what models do to a diff ----------------------------------------------------------------------------------------


def _shift_numbers(case: Damaged, rng: np.random.Generator) -> None:
    case.starts = [
        (max(1, old + int(rng.choice([-1, 1]) * rng.integers(1, 21))), max(1, new + int(rng.integers(-20, 21))))
        for old, new in case.starts
    ]


MISCOUNTS = (-2, -1, 1, 2, 5)


def _miscount(case: Damaged, rng: np.random.Generator) -> None:
    case.miscount = [(int(rng.choice(MISCOUNTS)), int(rng.choice(MISCOUNTS))) for _ in case.hunks]


def _outer(hunk: Sequence[tuple[str, str]]) -> tuple[int, int]:
    """How many context lines stand above the first change and below the last."""
    changed = [number for number, (mark, _) in enumerate(hunk) if mark != " "]
    return changed[0], len(hunk) - 1 - changed[-1]


def _lose_context(case: Damaged, rng: np.random.Generator) -> None:
    for number, hunk in enumerate(case.hunks):
        above, below = (int(rng.integers(0, size + 1)) for size in _outer(hunk))
        if above + below == sum(mark != "+" for mark, _ in hunk):  # the last line that says where
            above = below = 0
        case.hunks[number] = hunk[above : len(hunk) - below]
        old, new = case.starts[number]
        case.starts[number] = (old + above, new + above)


INVENTED = (
    "self.stage_{0} = self._make_stage({0})",
    "hidden_{0} = self.project(hidden)",
    "# block {0} of the backbone",
    "if self.use_aux_{0}:",
    "scale_{0} = float(prm.get('scale_{0}', 1))",
    "return self.head_{0}(features)",
)


def _invent_context(case: Damaged, rng: np.random.Generator) -> None:
    for hunk in case.hunks:
        above, below = _outer(hunk)
        places = [*range(min(above, rng.integers(1, 3))), *range(len(hunk) - min(below, rng.integers(1, 3)), len(hunk))]
        for place in places:
            text = INVENTED[rng.integers(len(INVENTED))].format(rng.integers(10, 99))
            indent = len(hunk[place][1]) - len(hunk[place][1].lstrip())
            hunk[place] = (" ", " " * indent + text)


def _misspell(text: str, rng: np.random.Generator) -> str:
    """One letter of a word twice, left out or another: as when a long name is written from memory."""
    places = [match.start() for match in re.finditer(r"[A-Za-z_]", text)]
    place = places[rng.integers(len(places))]
    letter = chr(ord("a") + int(rng.integers(26)))
    return text[:place] + ("", text[place] * 2, letter)[rng.integers(3)] + text[place + 1 :]


def _misspell_marked(case: Damaged, rng: np.random.Generator, mark: str) -> bool:
    known = {" ".join(line.split()) for line in case.base}
    done = False
    for hunk in case.hunks:
        places = [i for i, (own, text) in enumerate(hunk) if own == mark and len(text.strip()) >= 8]
        if places:
            place = places[rng.integers(len(places))]
            text = _misspell(hunk[place][1], rng)
            if " ".join(text.split()) not in known:
                hunk[place] = (mark, text)
                done = True
    return done


def _misspell_context(case: Damaged, rng: np.random.Generator) -> bool:
    return _misspell_marked(case, rng, " ")


def _misspell_removed(case: Damaged, rng: np.random.Generator) -> bool:
    case.right = None
    return _misspell_marked(case, rng, "-")


def _invent_removed(case: Damaged, rng: np.random.Generator) -> None:
    hunk = case.hunks[rng.integers(len(case.hunks))]
    above, _ = _outer(hunk)
    hunk.insert(above, ("-", f"        self.dropout_{rng.integers(10, 99)} = nn.Dropout(0.{rng.integers(1, 9)})"))
    case.right = None


def _spaces(case: Damaged, rng: np.random.Generator) -> None:
    damage: tuple[Callable[[str], str], ...] = (
        lambda text: text + " " * int(rng.integers(1, 4)),
        lambda text: text.replace("    ", "\t"),
        lambda text: re.sub(r"(?<=\S) = ", "  =  ", text),
        lambda text: text.replace(", ", ",  "),
    )
    for hunk in case.hunks:
        way = damage[rng.integers(len(damage))]
        hunk[:] = [(mark, way(text) if mark != "+" else text) for mark, text in hunk]


def _indent(case: Damaged, rng: np.random.Generator) -> None:
    for hunk in case.hunks:
        least = min((len(text) - len(text.lstrip()) for _, text in hunk if text.strip()), default=0)
        shift = int(rng.choice([2, 4, 8] if least < 4 else [-4, 4, 8]))
        hunk[:] = [
            (mark, (" " * shift + text if shift > 0 else text[-shift:]) if text.strip() else text)
            for mark, text in hunk
        ]


def _lose_blank_lines(case: Damaged, rng: np.random.Generator) -> bool:
    before = [list(hunk) for hunk in case.hunks]
    for hunk in case.hunks:
        hunk[:] = [line for line in hunk if line[0] != " " or line[1].strip()]
    return before != case.hunks and all(any(mark != "+" for mark, _ in hunk) for hunk in case.hunks)


def _lose_marks(case: Damaged, rng: np.random.Generator) -> None:
    case.unmarked = True


def _repeat_block(case: Damaged, rng: np.random.Generator, numbers: str) -> bool:
    """The old lines of an only hunk stand in the file a second time, above."""
    (old, new), *others = case.starts
    hunk = case.hunks[0]
    block = [text for mark, text in hunk if mark != "+"]
    if others or len(block) < 3 or old < 3 or case.right is None:
        return False
    for place in rng.integers(0, old - 1, 10).tolist():  # somewhere where the file stays Python
        if _parses("\n".join([*case.base[:place], *block, *case.base[place:]])):
            break
    else:
        return False
    case.base[place:place] = block
    case.right[place:place] = block
    case.starts = [(old + len(block), new + len(block))]
    if numbers == "old":  # of a version in which the place was where the copy is now
        case.starts = [(place + 1, new)]
    return True


def _cut(case: Damaged, rng: np.random.Generator) -> None:
    case.cut, case.right = float(rng.uniform(0.4, 0.95)), None


Corruption = Callable[[Damaged, np.random.Generator], bool | None]
CORRUPTIONS: Mapping[str, Corruption] = {
    "none": lambda case, rng: None,
    "shifted numbers": _shift_numbers,
    "wrong counts": _miscount,
    "lost context": _lose_context,
    "invented context": _invent_context,
    "misspelt context": _misspell_context,
    "white space": _spaces,
    "re-indented": _indent,
    "lost blank lines": _lose_blank_lines,
    "lost context marks": _lose_marks,
    "repeated block, true numbers": functools.partial(_repeat_block, numbers="true"),
    "repeated block, old numbers": functools.partial(_repeat_block, numbers="old"),
    "misspelt deletion": _misspell_removed,
    "invented deletion": _invent_removed,
    "cut off": _cut,
}
"""What is done to a diff; False where this diff gives no occasion."""


@dataclass(frozen=True)
class Case:
    """One damaged answer; ``right`` None: to be refused."""

    corruption: str
    base: str
    answer: str
    right: str | None

    @property
    def wanted(self) -> str:
        by_number = self.corruption.startswith("repeated block")
        return "by number" if by_number else "refuse" if self.right is None else "apply"


def cases(networks: pd.DataFrame, count: int, seed: int) -> list[Case]:
    """``count`` damaged answers, each corruption equally often. A true edit is a pair of ``networks`` (columns base,
    code, characters) of one base whose diff has at most LONGEST lines, or, every second time, a network and a random
    typed mutation of it."""
    rng = generator("paper D", "applier audit", seed)
    short = networks[(networks["characters"] <= LARGEST) & ~networks["code"].str.contains("\r")]
    pool = [codes.to_numpy() for _, codes in short.groupby("base")["code"] if len(codes) > 1]
    sizes = np.array([len(codes) for codes in pool], float)
    found: list[Case] = []
    counts = dict.fromkeys(CORRUPTIONS, 0)
    while len(found) < count:
        before, after = (str(code) for code in rng.choice(pool[rng.choice(len(pool), p=sizes / sizes.sum())], 2, False))
        if len(found) % 2:
            mutation = random_mutation(before, rng)
            after = mutation[1] if mutation else before
        case = undamaged(before, after)
        if before == after or not before.endswith("\n") or not after.endswith("\n"):
            continue
        if sum(map(len, case.hunks)) > LONGEST:
            continue
        for name in sorted(counts, key=counts.__getitem__):  # the rarest so far that this edit gives occasion for
            damaged = copy.deepcopy(case)
            if CORRUPTIONS[name](damaged, rng) is not False:
                counts[name] += 1
                right = None if damaged.right is None else "\n".join(damaged.right)
                found.append(Case(name, "\n".join(damaged.base), damaged.answer(), right))
                break
    return found


# ---- four appliers: the edited source, or None for a refusal ---------------------------------------------------------

DELTA = re.compile(r"<delta>(.*?)</delta>", re.DOTALL)
LONE = re.compile(r"\s*(?:[()\[\]{},]+|nn\.\w+\(.*\),?)\s*$")


def ours(base: str, answer: str) -> str | None:
    try:
        return application.apply(base, read(answer, "unified_diff"))[0]
    except Refused:
        return None


@functools.lru_cache(maxsize=8)  # the authors' rules begin with the same call
def patch(base: str, answer: str, fuzz: int) -> str | None:
    """GNU patch; a hunk that fails fails the whole."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "baseline.py").write_text(base, encoding="utf-8", newline="")
        command = ["patch", "-u", "--quiet", "--force", f"--fuzz={fuzz}", "-r", "-", "-o", "-", "baseline.py"]
        done = subprocess.run(command, input=diff_of(answer).encode(), cwd=folder, capture_output=True, timeout=20)
    return done.stdout.decode() if done.returncode == 0 else None


def diff_of(answer: str) -> str:
    """The diff in an answer, as the authors look for it: between tags, or from what looks like one on."""
    if match := DELTA.search(answer):
        return match[1].strip("\n") + "\n"
    start = re.search(r"^(?:--- |@@)", answer, re.MULTILINE)
    return answer[start.start() :].strip("\n") + "\n" if start else ""


def authors(base: str, answer: str) -> str | None:
    """The authors' rules (nn-gpt at 3d11ae2bc), from their description; none of their retries and full-code fallback.

    A diff needs a line that begins with ``---`` and one with ``@@``. Then ``patch`` with its default fuzz; then by
    numbers alone; each as it is, then without what looks odd, until one parses.
    """
    diff = diff_of(answer)
    if not all(re.search(rf"^{mark}", diff, re.MULTILINE) for mark in ("---", "@@")):
        return None
    patched = patch(base, answer, 2)
    for result in (patched, by_numbers(base, diff) if patched is None or not _parses(patched) else None):
        for text in (result, result and "\n".join(line for line in result.split("\n") if not LONE.match(line))):
            if text and _parses(text):
                return text
    return None


def by_numbers(base: str, diff: str) -> str:
    """Delete and insert at the stated lines, whatever stands there."""
    lines, position, offset = base.split("\n"), 0, 0
    for line in diff.split("\n"):
        if header := re.match(r"@@ -(\d+)", line):
            position = int(header[1]) - 1 + offset
        elif line.startswith(("---", "+++")):
            continue
        elif line.startswith("-"):
            del lines[position : position + 1]
            offset -= 1
        elif line.startswith("+"):
            lines.insert(position, line[1:])
            position, offset = position + 1, offset + 1
        else:
            position += 1
    return "\n".join(lines)


def _parses(code: str) -> bool:
    try:
        parse(code)
    except UNREADABLE:
        return False
    return True


APPLIERS: Mapping[str, Callable[[str, str], str | None]] = {
    "GNU patch, fuzz 0": functools.partial(patch, fuzz=0),
    "GNU patch, fuzz 2": functools.partial(patch, fuzz=2),
    "the authors' rules": authors,
    "ours": ours,
}


def appliers() -> tuple[dict[str, Callable[[str, str], str | None]], str]:
    """Those that this machine has, and what is missing, as a sentence: without ``patch`` only ours is left."""
    if shutil.which("patch"):
        return dict(APPLIERS), ""
    return {"ours": ours}, "This machine has no GNU patch: it, and the authors' rules, which call it, are left out."


def audit(found: Sequence[Case]) -> pd.DataFrame:
    """Every case through every applier. Columns corruption, wanted (``apply``, ``refuse``, ``by number``),
    applier, result."""
    rows = [row for rows in in_processes(_results, list(found), "applier audit", few=50) for row in rows]
    return pd.DataFrame(rows, columns=["corruption", "wanted", "applier", "result"])


def _results(case: Case) -> list[tuple[str, str, str, str]]:
    rows = []
    for name, applier in appliers()[0].items():
        result = applier(case.base, case.answer)
        kind = "refused" if result is None else "right" if result == case.right else "wrong"
        rows.append((case.corruption, case.wanted, name, kind))
    return rows


def summarise(results: pd.DataFrame) -> pd.DataFrame:
    """Counts and shares of what each applier did, over what was wanted and by corruption (``all`` first): wanted,
    corruption, applier, n, right, refused, wrong, and done, done_low, done_high: the share that was treated as wanted,
    per cent, with Wilson's interval."""
    results = pd.concat([results.assign(corruption="all"), results])
    counts = results.groupby(["wanted", "corruption", "applier", "result"], sort=False).size().unstack(fill_value=0)
    counts = counts.reindex(columns=list(RESULTS), fill_value=0).reset_index()
    counts.insert(3, "n", counts[list(RESULTS)].sum(axis=1))
    done = np.where(counts["wanted"] == "refuse", counts["refused"], counts["right"])
    shares = [wilson(hit, n).scaled(100).columns("done") for hit, n in zip(done, counts["n"], strict=True)]
    return pd.concat([counts, pd.DataFrame(shares)], axis=1)
