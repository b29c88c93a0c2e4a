"""Formats and their strict application: what is written is read back, and bad input has a typed outcome."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nngpt_lab.candidates import contract
from nngpt_lab.papers.delta_search import application
from nngpt_lab.papers.delta_search.application import Rung, apply, apply_answer
from nngpt_lab.papers.delta_search.edits import FORMATS, Outcome, Refused, read, wrapped
from tests.papers.delta_search.noise import noisy_edits

BASE = """import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 16, 3, padding=1)
        self.b = nn.ReLU()
        self.c = nn.Linear(16, 10)

    def forward(self, x):
        x = self.b(self.a(x))
        x = x.mean((2, 3))
        return self.c(x)
"""
WIDER = BASE.replace("16", "32")
GELU = BASE.replace("nn.ReLU()", "nn.GELU()")
HUNK = """@@ -7,5 +7,5 @@
         super().__init__()
         self.a = nn.Conv2d(3, 16, 3, padding=1)
-        self.b = nn.ReLU()
+        self.b = nn.GELU()
         self.c = nn.Linear(16, 10)
"""


def outcome(answer: str, form: str = "unified_diff", base: str = BASE, **more) -> Outcome:
    return apply_answer(base, answer, form, **more).outcome


WRITERS = [name for name in FORMATS if name != "typed_mutation"]


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize("after", [WIDER, GELU], ids=["two hunks", "one hunk"])
def test_what_a_format_writes_it_reads_and_applies(form, after):
    applied = apply_answer(BASE, FORMATS[form].write(BASE, after, 1), form)
    assert (applied.outcome, applied.code) == (Outcome.APPLIED, after)
    assert set(applied.rungs) <= {Rung.EXACT} and not applied.repaired


LINES = st.lists(
    st.sampled_from(["a = 1", "b = 2", "    c = 3", "", ")", "d = 4", "e = (", "f"]), min_size=1, max_size=12
)


@given(LINES, LINES, st.sampled_from(["unified_diff", "numberless_diff", "search_replace"]))
def test_an_undamaged_edit_is_applied_right_or_refused_as_ambiguous(before, after, form):
    """Any two texts: never another result than the true one."""
    before, after = ("\n".join(lines) + "\n" for lines in (before, after))
    try:
        code, _ = apply(before, read(FORMATS[form].write(before, after, 3), form))
    except Refused as refused:
        assert refused.outcome in (Outcome.AMBIGUOUS, Outcome.NO_OP, Outcome.NO_EDIT, Outcome.CONTEXT_ABSENT)
        assert before == after or refused.outcome != Outcome.NO_OP
    else:
        assert code == after


def test_the_ladder_is_right_on_the_edits_it_was_tuned_on_and_never_in_the_wrong_place():
    right = wanted = 0
    for edit in noisy_edits(150, 1):
        wanted += edit.after is not None
        try:
            code, _ = apply(edit.before, read(edit.answer, "unified_diff"))
        except Refused:
            continue
        kept = [[line for line in text.split("\n") if line.strip()] for text in (code, edit.after or "")]
        assert kept[0] == kept[1], edit.answer  # of two blank lines side by side either may be the one that goes
        right += 1
    assert right >= 0.9 * wanted


# ---- the rungs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "rung"),
    [
        (lambda text: text.replace("-7,5 +7,5", "-2,5 +90,5"), Rung.EXACT),
        (lambda text: text.replace("3, 16", "3,  16"), Rung.WHITESPACE),
        (lambda text: text.replace("        self", "\t\tself"), Rung.WHITESPACE),
        (lambda text: text.replace("        ", "    "), Rung.REINDENTED),
        (lambda text: text.replace("super().__init__()", "super().__init_()"), Rung.NEAR),
        (
            lambda text: text.replace(" super().__init__()", " self.dropout = nn.Dropout(0.5)"),
            Rung.NEAR,
        ),
        (lambda text: text.replace("         self.c = nn.Linear(16, 10)\n", "         # the head\n"), Rung.NEAR),
    ],
    ids=["numbers", "spaces", "tabs", "re-indented", "misspelt", "invented above", "invented below"],
)
def test_a_damaged_hunk_is_found_at_the_strictest_rung_that_has_it(change, rung):
    applied = apply_answer(BASE, wrapped(change(HUNK)), "unified_diff")
    assert (applied.outcome, applied.code.expandtabs(4), applied.rungs) == (Outcome.APPLIED, GELU, (rung,))


def test_lines_that_lost_their_mark_are_context():
    applied = apply_answer(BASE, wrapped(HUNK.replace("\n         ", "\n        ")), "unified_diff")
    assert applied.code == GELU


def test_a_header_that_miscounts_is_repaired_and_counted():
    applied = apply_answer(BASE, wrapped(HUNK.replace("-7,5 +7,5", "-7,2 +7,9")), "unified_diff")
    assert (applied.code, applied.repaired) == (GELU, 1)


def test_an_edit_never_removes_a_line_that_it_does_not_name():
    """What the authors' rules do here is to remove the line that stands at the stated number."""
    answer = wrapped(HUNK.replace("-        self.b = nn.ReLU()", "-        self.x = nn.ReLU()"))
    assert outcome(answer) == Outcome.DELETION_ABSENT


def test_two_equal_places_are_one_too_many_unless_the_order_decides():
    twice = "a\nx\nb\ny\na\nx\nb\nz\n"
    assert outcome(wrapped("@@ -5 +5 @@\n a\n-x\n+w\n b"), base=twice) == Outcome.AMBIGUOUS
    after_y = wrapped("@@\n b\n-y\n+v\n a\n@@\n x\n+w\n b\n z")
    assert apply(twice, read(after_y, "unified_diff"))[0] == "a\nx\nb\nv\na\nx\nw\nb\nz\n"


def test_new_lines_beside_lines_left_out_have_no_place():
    assert outcome(
        wrapped("@@\n a = 1\n b = 2\n+x = 9\n d = 4\n e = 5"), base="a = 1\nb = 2\nc = 3\nd = 4\ne = 5\n"
    ) == (Outcome.AMBIGUOUS)


# ---- typed outcomes -------------------------------------------------------------------------------------------------

FORWARD = "@@ Net.forward\ndef forward(self, x):\n    return self.c(self.a(x).mean((2, 3)))\n"
BAD = {
    "nothing": ("", "unified_diff", Outcome.NO_EDIT),
    "prose": ("I would make it wider.", "unified_diff", Outcome.NO_EDIT),
    "empty tags": ("<delta>\n</delta>", "unified_diff", Outcome.NO_EDIT),
    "prose in tags": (wrapped("make it wider"), "unified_diff", Outcome.WRONG_FORMAT),
    "no end": (f"<delta>\n{HUNK}", "unified_diff", Outcome.TRUNCATED),
    "no end of a fence": (f"```diff\n{HUNK}", "unified_diff", Outcome.TRUNCATED),
    "two fences": (f"```diff\n{HUNK}```\nor\n```diff\n{HUNK}```", "unified_diff", Outcome.WRONG_FORMAT),
    "two files": (wrapped(f"--- a.py\n+++ a.py\n{HUNK}--- b.py\n+++ b.py\n{HUNK}"), "unified_diff",
                  Outcome.SEVERAL_FILES),
    "above the folder": (wrapped(f"--- ../../a.py\n+++ a.py\n{HUNK}"), "unified_diff", Outcome.OUTSIDE),
    "absolute": (wrapped(f"--- a.py\n+++ /etc/passwd\n{HUNK}"), "unified_diff", Outcome.OUTSIDE),
    "10 MB": (wrapped("@@\n-a\n" * 1_500_000), "unified_diff", Outcome.TOO_LARGE),
    "binary": (wrapped("GIT binary patch\nliteral 12\nzcmZ"), "unified_diff", Outcome.BINARY),
    "null bytes": (wrapped(HUNK + "\x00"), "unified_diff", Outcome.BINARY),
    "overlap": (wrapped(HUNK + HUNK), "unified_diff", Outcome.OVERLAP),
    "context alone": (wrapped(HUNK.replace("\n-", "\n ").replace("+        self.b = nn.GELU()\n", "")), "unified_diff",
                      Outcome.NO_OP),
    "same line": (wrapped(HUNK.replace("GELU", "ReLU")), "unified_diff", Outcome.NO_OP),
    "other file": (wrapped("@@ -1,2 +1,3 @@\n def add(a, b):\n+    # sum\n     return a + b"), "unified_diff",
                   Outcome.CONTEXT_ABSENT),
    "no place": (wrapped("@@ -7 +7 @@\n+        self.d = nn.ReLU()"), "unified_diff", Outcome.CONTEXT_ABSENT),
    "no Python": (wrapped(HUNK.replace("nn.GELU()", "nn.GELU(")), "unified_diff", Outcome.DOES_NOT_PARSE),
    "search without end": (wrapped("<<<<<<< SEARCH\na\n======="), "search_replace", Outcome.TRUNCATED),
    "search in two places": (wrapped("<<<<<<< SEARCH\na\n=======\nb\n>>>>>>> REPLACE"), "search_replace",
                             Outcome.DELETION_ABSENT),
    "block unknown": (wrapped(FORWARD.replace("Net.", "Model.")), "whole_block", Outcome.CONTEXT_ABSENT),
    "block twice": (wrapped(FORWARD + FORWARD), "whole_block", Outcome.OVERLAP),
    "block of another name": (wrapped(FORWARD.replace("def forward", "def learn")), "whole_block",
                              Outcome.WRONG_FORMAT),
    "block no Python": (wrapped(FORWARD.replace("return", "retrun")), "whole_block", Outcome.DOES_NOT_PARSE),
    "mutation unknown": (wrapped("colour 1 red"), "typed_mutation", Outcome.WRONG_FORMAT),
    "mutation in prose": (wrapped("Make layer 1 wider."), "typed_mutation", Outcome.WRONG_FORMAT),
    "layer unknown": (wrapped("width 9 32"), "typed_mutation", Outcome.CONTEXT_ABSENT),
    "layer of another kind": (wrapped("kernel 2 5"), "typed_mutation", Outcome.CONTEXT_ABSENT),
    "file cut off": ("```python\nclass Net(nn.Module):", "whole_file", Outcome.TRUNCATED),
    "no file": ("It is good as it is.", "whole_file", Outcome.NO_EDIT),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_has_a_typed_outcome(name):
    answer, form, wanted = BAD[name]
    assert outcome(answer, form) == wanted


def test_the_token_limit_and_ancestors_are_told_from_outside():
    assert outcome(wrapped(HUNK), complete=False) == Outcome.TRUNCATED
    assert (
        outcome(wrapped(HUNK), ancestors=[GELU.replace("import torch\n", "import torch  # old\n")]) == Outcome.REVERTS
    )


def test_line_breaks_and_the_missing_one_at_the_end_are_the_files_own():
    windows = BASE.replace("\n", "\r\n")
    assert apply_answer(windows, wrapped(HUNK).replace("\n", "\r\n"), "unified_diff").code == GELU.replace("\n", "\r\n")
    assert apply_answer(windows, wrapped(HUNK), "unified_diff").code == GELU.replace("\n", "\r\n")
    bare = BASE.rstrip("\n")
    assert apply_answer(bare, wrapped(HUNK + "\\ No newline at end of file\n"), "unified_diff").code == GELU.rstrip(
        "\n"
    )


@pytest.mark.parametrize("old", ["\n" * 90_000, "x\n" * 60_000, "".join(f"line {i}\n" for i in range(15_000))])
def test_work_is_bounded_for_the_largest_answer(old, monkeypatch):
    """As large as an answer may be, against a file as large: the near rung, which costs most, is not climbed."""
    cells = []
    original = application.Alignment
    monkeypatch.setattr(application, "Alignment", lambda *given: cells.append(given[1].size) or original(*given))
    hunk = "".join(f" {line}\n" for line in old.split("\n")[: contract.MAX_CHARACTERS // 16])
    assert outcome(wrapped(f"@@\n{hunk}+new\n odd\n"), base=old) in (Outcome.CONTEXT_ABSENT, Outcome.TOO_LARGE)
    assert all(size <= application.MAX_CELLS for size in cells)


@given(st.text(max_size=300), st.sampled_from(sorted(FORMATS)))
def test_any_text_has_an_outcome(text, form):
    for answer in (text, wrapped(text), wrapped(f"@@ -1 +1 @@\n{text}"), wrapped(f"@@ Net.forward\n{text}")):
        applied = apply_answer(BASE, answer, form)
        assert (applied.outcome == Outcome.APPLIED) <= (applied.code is not None)
