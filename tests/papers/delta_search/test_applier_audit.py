"""The audit: cases with a known place, appliers as described, and the ladder's promise on a generator it never saw."""

from __future__ import annotations

import ast
import shutil
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from nngpt_lab.papers.delta_search import applier_audit as audits
from nngpt_lab.papers.delta_search.applier_audit import CORRUPTIONS, authors, by_numbers, cases, ours, patch
from nngpt_lab.papers.delta_search.edits import wrapped
from tests.papers.delta_search import noise
from tests.papers.delta_search.test_edits import BASE, GELU, HUNK

needs_patch = pytest.mark.skipif(not shutil.which("patch"), reason="GNU patch is not on this machine")
FILES = "--- baseline.py\n+++ improved.py\n"


@pytest.fixture(scope="module")
def found(lemur):
    networks = lemur.architectures
    return cases(networks[networks["parses"]], 150, seed=3)


def test_every_corruption_is_there_and_the_right_result_is_known(found):
    counts = Counter(case.corruption for case in found)
    assert set(counts) == set(CORRUPTIONS) and max(counts.values()) - min(counts.values()) <= 6
    assert all(case.base != case.right for case in found)
    assert {case.wanted for case in found if case.right is None} == {"refuse"}


def test_what_the_ladder_promises_holds_on_a_generator_it_was_not_tuned_on(found):
    results = [(case.wanted, case.right, ours(case.base, case.answer)) for case in found]
    assert not [1 for _, right, result in results if result is not None and result != right]
    kept = [result == right for wanted, right, result in results if wanted == "apply"]
    assert sum(kept) >= 0.85 * len(kept)  # the notebook's goal is 90 % of 1,000; these are 100


def test_the_two_generators_share_no_code():
    def imports(module) -> set[str]:
        tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
        return {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}

    assert not any("delta_search" in name for name in imports(noise))
    assert not any(name.startswith("tests") for name in imports(audits))


@needs_patch
def test_patch_ignores_context_by_its_fuzz_alone():
    answer = wrapped(FILES + HUNK)
    assert patch(BASE, answer, 0) == patch(BASE, answer, 2) == GELU
    invented = answer.replace(" super().__init__()", " self.stage = 1")
    assert patch(BASE, invented, 0) is None and patch(BASE, invented, 2) == GELU


@needs_patch
def test_the_authors_rules_remove_a_line_that_the_edit_does_not_name():
    answer = wrapped(FILES + HUNK.replace("-        self.b = nn.ReLU()", "-        self.x = nn.ReLU()"))
    assert authors(BASE, answer) == GELU and ours(BASE, answer) is None


def test_by_numbers_looks_at_no_line():
    assert by_numbers("a\nb\nc\n", "@@ -2,1 +2,1 @@\n-z\n+w\n@@ -3,1 +3,2 @@\n c\n+d\n") == "a\nw\nc\nd\n"


def test_without_patch_ours_alone_is_left_and_the_reason_is_said(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    left, reason = audits.appliers()
    assert list(left) == ["ours"] and "patch" in reason


def test_shares_count_what_was_wanted():
    rows = [("x", "apply", "ours", result) for result in ("right", "right", "refused", "wrong")]
    rows += [("y", "refuse", "ours", result) for result in ("refused", "wrong")]
    table = audits.summarise(pd.DataFrame(rows, columns=["corruption", "wanted", "applier", "result"]))
    every = table[table["corruption"] == "all"].set_index("wanted")
    assert every.loc["apply", ["n", "right", "refused", "wrong", "done"]].tolist() == [4, 2, 1, 1, 50.0]
    assert every.loc["refuse", ["n", "done"]].tolist() == [2, 50.0]
