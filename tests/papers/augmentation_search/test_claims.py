"""What the published functions say to each claim that needs no run of the loop."""

import numpy as np
import pytest

from nngpt_lab.papers.augmentation_search import claims as paper_claims
from nngpt_lab.papers.augmentation_search import scores
from nngpt_lab.statistics.claims import claims_table, facts_table


def test_the_published_data_decide_what_they_can(augmentation_corpus):
    corpus = augmentation_corpus.brute_force
    cues = scores.cues(corpus, scores.comparable(corpus, augmentation_corpus.llm))
    needed = scores.candidates_needed(corpus, within_sd=0.02)
    table = claims_table("A", paper_claims.recorded(cues, needed, "Replayed, it took 9.")).set_index("claim_id")
    assert table["our_value"].astype(float).round(1).dropna().to_dict() == {"A-semantic-cues": 3.3}
    note = table.loc["A-semantic-cues", "note"]
    assert "Over accepted corpus functions +6.1 points, of which copying tuning targets gives +2.8." in note
    assert table.loc["A-600x", "note"].endswith("within two. Replayed, it took 9.")


def test_the_facts_are_as_stated(augmentation_corpus):
    table = facts_table("A", paper_claims.facts(augmentation_corpus.brute_force)).set_index("fact_id")
    assert (table["agrees"] == "yes").all() and table.loc["A-operations", "counted"] == 19


def test_target_shares_are_those_of_drawn_pairs():
    values, codes = np.array([0.1, 0.2, 0.2, 0.4]), np.array(["a", "b", "c", "a"])
    drawn, rng = np.zeros(4), np.random.default_rng(0)
    for baseline in rng.integers(0, 4, 40_000):
        better = np.flatnonzero((values > values[baseline]) & (codes != codes[baseline]))
        if len(better):
            drawn[rng.choice(better)] += 1
    assert scores.target_shares(values, codes) == pytest.approx(drawn / drawn.sum(), abs=0.01)
