"""What a notebook gets of paper A's live loop: all arms and seeds, policies, and the same again from the ledger."""

import dataclasses
from unittest import mock

import pandas as pd
import pytest

from nngpt_lab.ground.errors import DataError
from nngpt_lab.papers.augmentation_search import lab, runs
from nngpt_lab.papers.augmentation_search.design import ARMS
from nngpt_lab.papers.augmentation_search.generator import POLICIES
from nngpt_lab.records.results import Results
from tests.papers.augmentation_search.test_loop import TINY, corpus

SMALLER = dataclasses.replace(TINY, epochs=1, samples=3)


def run(folder):
    with mock.patch.object(lab, "known_functions", corpus):
        return runs.run_arms(
            Results(folder, "smoke"),
            SMALLER,
            [ARMS["random generator"]],
            [0, 1],
            workers=1,
            policy_seeds=1,
            policy_epochs=(1,),
        )


def test_everything_is_run_once(tmp_path):
    first, again = run(tmp_path), run(tmp_path)
    pd.testing.assert_frame_equal(first.candidates, again.candidates)
    pd.testing.assert_frame_equal(first.policies, again.policies)
    assert set(first.candidates["seed"]) == {0, 1} and set(first.start["seed"]) == {0, 1}
    assert set(first.thresholds) == {0, 1} and len(first.start) == 2 * SMALLER.start
    assert first.candidates["tokens"].sum() == 0
    names = first.policies["policy"]
    assert set(names) == {*POLICIES, "best of random generator", "best of start"}
    assert (names == "best of random generator").sum() == 2 and len(names) == 4 + 2 + 2
    found = first.policies[names == "best of random generator"]
    best = first.candidates.loc[first.candidates.groupby("seed")["score"].idxmax(), "code_hash"]
    assert found["code_hash"].tolist() == best.tolist() and found["seed"].tolist() == [1000, 1001]


def test_the_corpus_is_tidied_and_holds_each_program_once():
    try:
        table = lab.known_functions()
    except DataError as error:
        pytest.skip(f"the published data cannot be had: {error.cause}")
    assert table["code_hash"].is_unique and table["name"].is_monotonic_increasing
    assert 5000 < table["score"].notna().sum() < len(table) <= 6000
    assert all(isinstance(used, tuple) for used in table["operations"])
