"""No number stands in README, docs/findings.md or a notebook's prose that nothing holds: a cell of a committed table, a
registered claim or fact, or a setting with its reason here. A value with its interval stands in one row of a table.

Whole numbers without a per cent sign or thousands (counts of cycles, seeds, cores) are left out. A notebook's captions
count as its prose; what they compute is no literal.
"""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nngpt_lab.ground.paths import PACKAGE, checkout

ROOT = checkout()
if ROOT is None:
    pytest.skip("needs the source checkout", allow_module_level=True)
NOTEBOOKS = sorted(ROOT.glob("notebooks/0[1-9]_*.ipynb"))
README = "\n".join((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/findings.md"))
SIGNED = r"[+-]?\d+(?:\.\d+)?"
TRIPLE = re.compile(rf"({SIGNED})(?: %| points| times fewer)? \[({SIGNED}), ({SIGNED})\]")
NUMBER = re.compile(r"(?<![\w.,/-])\d[\d,]*(?:\.\d+)?(?:\s?%)?(?![\w.]*\.\d|[\w-])")

LEVEL = "95"  # per cent, of every interval

COUNTED_ELSEWHERE: dict[str, str] = {}
"""Values that README takes from code newer than the reference runs, and says so. None once they are made anew."""

ALLOWED = {
    "README.md": {
        "+6.1": "counted by tests/recount", "6.1": "counted by tests/recount", "4.3": "the same", "2.1.2": "a version",
        "3.11": "of Python", "0.1": "%, the best that are searched for, and a version", "4.0": "a licence",
        "3.3": "M weights of the nano coder; and paper A's +3.3, counted by tests/recount", "2,000": "of a universe",
        "6,000": "a fact", "1,854": "networks, the same",
        "10,482": "counted by tests/recount", "5,982": "the same",
        "578,595": "records that tests/corpora/test_architectures.py counts",
    },
    "01_memorization_to_creativity": {
        "500,000": "weights, paper B's limit", "1,698": "initial pairs, 2601.02997", "3.3": "M weights, nano coder",
        "1.5": "times the range, of a whisker", "100": "%, all", "0.7": "points, one of 144 digits",
        "40": "%, paper B's threshold", "0.90": "paper B's rule",
        "53.8": "112 of 208", "2.04": "1 of 49",
    },
    "02_brute_force_to_semantic_insight": {
        "6,000": "a fact", "0.0": "what the authors file a failure as", "3.3": "M weights of the nano coder",
        "40": "%, the authors' threshold", "0.40": "the same",
        "1,807": "functions with a score at epoch 5 that tests/corpora/test_augmentations.py counts",
    },
    "03_code_to_prediction": {"1.3": "B weights, the paper's smaller model", "2,000": "characters, the paper's cut"},
    "04_delta_search": {
        "100": "%, by construction", "40": "%, the authors' threshold", "20": "%, what a format needs to be tested",
        **dict.fromkeys(("75.3", "72.1", "66.6", "65.8", "64.6", "66.1", "50.6", "42.3", "57.1", "54.4", "33.2"),
                        "2605.04903, quoted"),
    },
}  # fmt: skip
"""What prose may say that no table holds, and why."""

LOOP, SEARCH, DATASETS = "01_memorization_to_creativity", "02_brute_force_to_semantic_insight", "03_code_to_prediction"
CELLS = [  # notebook, table, rows, column, times, digits: single numbers of README and of notebooks' prose
    (DATASETS, "input_ablations", "split == 'published'", "accuracy", 1, 1),
    (DATASETS, "code_signal", "prompt == 'code'", "control", 1, 1),
    (LOOP, "proxy_audit", "unit == 'one_run' and epoch == 5", "spearman", 1, 2),
    (LOOP, "controls", "control == 'no tuning' and measure == 'valid'", "loop", 100, 0),
    (LOOP, "controls", "control == 'no tuning' and measure == 'valid'", "control_value", 100, 0),
    (LOOP, "cycles", "sampled > 0", "sampled", 1, None),
    (SEARCH, "replay_needed", "n0 == 50 and target == 'top 0.1%' and method.str[:3] == 'LLM'", "times_fewer", 1, 1),
    (SEARCH, "ordering", "test == 'held-out operations'", "oracle", 100, 1),
    (SEARCH, "best_of_n", "n in (10, 100, 6000)", "expected_best", 100, 0),
    ("04_delta_search", "live_formats", "form == 'whole_file' or arm == 're-run'", "worse", 1, 1),
    *[("cot_vs_direct", "paired_tests", "tuned and measure in ('valid', 'new')", style, 100, 1)
      for style in ("direct", "cot")],
]  # fmt: skip


def tables() -> dict[str, pd.DataFrame]:
    """The reference's tables by path, numbers only."""
    files = sorted(ROOT.glob("results/reference/*/*/tables/*.csv"))
    return {file.relative_to(ROOT).as_posix(): pd.read_csv(file).select_dtypes("number") for file in files}


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    """Value, low and high that stand side by side in a row of a table, as they are and as per cent; shape (n, 3)."""
    found = []
    for table in tables().values():
        lows = [place for place, name in enumerate(table.columns) if re.search(r"(^|_)low$", name) and place]
        found += [table.iloc[:, place - 1 : place + 2].to_numpy(float) for place in lows]
    side = np.concatenate([block for block in found if block.shape[1] == 3])
    side = side[np.isfinite(side).all(axis=1)]
    return np.concatenate([side, 100 * side])


@pytest.fixture(scope="module")
def pool() -> set[str]:
    """What :data:`CELLS` hold (digits None: their sum), and every number of a claim or fact."""
    held = set()
    for notebook, name, chosen, column, times, digits in CELLS:
        table = pd.read_csv(ROOT / "results" / "reference" / "demo" / notebook / "tables" / f"{name}.csv")
        values = times * table.query(chosen)[column]
        assert len(values), (name, chosen)
        held |= {f"{values.sum():,.0f}"} if digits is None else {f"{value:.{digits}f}" for value in values}
    text = " ".join(file.read_text(encoding="utf-8") for file in PACKAGE.glob("papers/*/claims.toml"))
    registered = {float(number.replace(",", "")) for number in re.findall(r"\d[\d,]*(?:\.\d+)?", text)}
    return held | {f"{number:.{digits}f}" for number in registered for digits in range(3)}


def prose(text: str) -> str:
    """Without code, links, tags, arXiv numbers and what has an interval; in one line."""
    text = re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)|<[^>]+>|\d{4}\.\d{5}", " ", text, flags=re.DOTALL)
    return TRIPLE.sub(" ", " ".join(text.split()))


def missing(name: str, text: str, pool: set[str]) -> list[str]:
    """Numbers with a fraction, per cent or thousands that nothing holds."""
    found = [
        number.strip("%\u202f ").rstrip(",")
        for number in NUMBER.findall(prose(text))
        if re.search(r"[.,%]\d|%", number)
    ]
    return sorted({number for number in found if number not in pool | {LEVEL, *ALLOWED.get(name, ())}})


def said_in(file: Path) -> str:
    """A notebook's markdown, and the texts in its code."""
    parts = []
    for cell in json.loads(file.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            code = re.sub(r"^%.*$", "", source, flags=re.MULTILINE)
            literals = [node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)]
            source = " ".join(text for text in literals if isinstance(text, str))
        parts.append(source)
    return "\n".join(parts)


def without_row(text: str, rows: np.ndarray) -> list[str]:
    """Values with an interval that no row of a table holds to the digits shown."""
    lost = []
    for said in TRIPLE.findall(" ".join(text.replace("*", "").split())):
        digits = len(said[0].partition(".")[2])
        near = np.abs(rows - np.array([float(number) for number in said])) <= 0.5 * 10.0**-digits + 1e-9
        key = f"{said[0]} [{said[1]}, {said[2]}]"
        if not near.all(axis=1).any() and key not in COUNTED_ELSEWHERE:
            lost.append(key)
    return lost


def test_each_interval_in_readme_is_a_row_of_a_table(rows):
    assert not without_row(README, rows)


def test_no_exception_outlives_its_reason(rows):
    said = [f"{value} [{low}, {high}]" for value, low, high in TRIPLE.findall(" ".join(README.split()))]
    assert set(COUNTED_ELSEWHERE) <= set(said)


def test_an_altered_value_or_end_is_found(rows):
    """Each of README's intervals, one digit changed in turn: no table holds it, but for a chance in a hundred."""
    said = [triple for triple in TRIPLE.findall(" ".join(README.replace("*", "").split())) if "." in triple[0]]
    altered = []
    for place in range(3):
        for triple in said:
            digits = len(triple[place].partition(".")[2])
            other = f"{float(triple[place]) + 2 * 10.0**-digits:.{digits}f}"
            changed = [other if i == place else number for i, number in enumerate(triple)]
            altered.append(f"{changed[0]} [{changed[1]}, {changed[2]}]")
    lost = [text for text in altered if without_row(text, rows)]
    assert len(said) > 20 and len(lost) >= 0.98 * len(altered)


def test_readmes_other_numbers_are_held_somewhere(pool):
    assert missing("README.md", README, pool) == []


@pytest.mark.parametrize("file", NOTEBOOKS, ids=[file.stem for file in NOTEBOOKS])
def test_numbers_in_prose_are_held_somewhere(file: Path, pool):
    assert missing(file.stem, said_in(file), pool) == []


def test_a_made_up_number_is_found(pool):
    assert missing("README.md", "It reaches 93.7 %, of 123,457 networks; 12.3456 times.", pool) == [
        "12.3456", "123,457", "93.7"]  # fmt: skip
    shares = [f"{share / 10:.1f}" for share in range(1000)]
    assert len(missing("README.md", " %, ".join(shares), pool)) > 850  # what holds everything would find nothing


def test_no_setting_outlives_its_sentence():
    texts = {file.stem: said_in(file) for file in NOTEBOOKS} | {"README.md": README}
    assert not [(name, number) for name, own in ALLOWED.items() for number in own if number not in texts[name]]
