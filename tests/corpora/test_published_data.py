"""Golden facts of the published data itself (about 114 MB, fetched into the user's cache once).

A change here means that the compilers read the same wheels differently: raise the table's VERSION and say why.
"""

from __future__ import annotations

import json
import re
import zipfile

from nngpt_lab.corpora import artifacts, augmentations
from nngpt_lab.papers.augmentation_search.scores import scored
from nngpt_lab.papers.dataset_prediction import questions as paper_questions


def test_lemur_sizes(lemur):
    assert (len(lemur.architectures), len(lemur.records)) == (10_482, 578_595)
    assert lemur.architectures["name"].is_unique and lemur.architectures["parses"].all()


def test_lemur_issues(lemur):
    counts = dict(zip(lemur.issues["reason"], lemur.issues["count"], strict=True))
    assert counts["record file with an empty list"] == 13_375
    assert counts["record without dropout"] == 204_092 == lemur.records["dropout"].isna().sum()
    assert counts["record without momentum"] == 10_760 == lemur.records["momentum"].isna().sum()
    assert counts["record that repeats another's architecture, epoch and hyperparameters"] == 431
    assert counts["architecture without any record"] == 2_671
    assert len(counts) == 7


def test_lemur_likeness_is_nested(lemur):
    """Each level of likeness merges more: text, program, program up to names."""
    distinct = [lemur.architectures[name].nunique() for name in ("code_hash", "ast_hash", "nameless_hash")]
    assert distinct == [10_476, 9_897, 9_887]
    for finer, coarser in (("code_hash", "ast_hash"), ("ast_hash", "nameless_hash")):
        assert lemur.architectures.groupby(finer)[coarser].nunique().max() == 1


def test_lemur_records_are_those_of_the_wheel(lemur):
    """One record file, read here by hand: every row of the table and nothing else."""
    chosen = lemur.records.iloc[123_456]
    unit = ["task", "dataset", "metric", "architecture", "epoch"]
    rows = lemur.records[(lemur.records[unit] == chosen[unit]).all(axis=1)]
    folder = "_".join(chosen[key] for key in unit[:-1])
    with zipfile.ZipFile(artifacts.fetch(artifacts.LEMUR)) as archive:
        trials = json.loads(archive.read(f"ab/nn/stat/train/{folder}/{chosen['epoch']}.json"))
    assert sorted(rows["accuracy"]) == sorted(trial["accuracy"] for trial in trials)
    assert sorted(rows["uid"]) == sorted(trial["uid"] for trial in trials)


def test_augmentation_counts(augmentation_corpus):
    functions = augmentation_corpus.functions
    assert functions.groupby(["source", "status"]).size().to_dict() == {
        ("brute_force", "ok"): 5_982,
        ("brute_force", "shape"): 18,
        ("llm", "unscored"): 43,
    }
    assert augmentation_corpus.brute_force["code_hash"].nunique() == 5_337
    assert len(augmentation_corpus.five_epochs) == 1_807
    assert functions["score"].isna().sum() == 18 + 43 and scored(functions)["score"].gt(0).all()


def test_nineteen_operations(augmentation_corpus):
    used = {operation for operations in augmentation_corpus.brute_force["operations"] for operation in operations}
    assert used == set(augmentations.OPERATIONS) and len(used) == 19


def test_operations_agree_with_a_regular_expression(augmentation_corpus):
    """The syntax tree and a regular expression that knows nothing of it read the same operations."""
    constructor = re.compile(r"(?<!\w)(?:transforms\.)(\w+)\s*\(")
    for row in augmentation_corpus.functions.itertuples():
        body = row.code[row.code.index("def transform") :]
        found = [name for name in constructor.findall(body) if name != "Compose"]
        tail = list(augmentations.TAIL) if row.has_tail else []
        assert found == [*row.operations, *tail], row.name


def test_questions(lemur):
    questions = paper_questions.build_questions(lemur.records, lemur.architectures)
    assert len(questions) == 19_314
    assert questions["architecture"].nunique() == 1_942
    assert questions["pair"].nunique() == 21
