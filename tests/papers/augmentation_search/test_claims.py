"""What the published functions say to each claim that needs no run of the loop."""

from nngpt_lab.papers.augmentation_search import claims as paper_claims
from nngpt_lab.papers.augmentation_search import scores
from nngpt_lab.statistics.claims import claims_table


def test_the_published_data_decide_what_they_can(augmentation_corpus):
    corpus = augmentation_corpus.brute_force
    groups = scores.comparable(corpus, augmentation_corpus.llm)
    needed = scores.candidates_needed(corpus, within_sd=0.02)
    measured = paper_claims.recorded(corpus, groups, needed, "Replayed, it took 9.")
    table = claims_table("A", measured).set_index("claim_id")
    ours = table["our_value"].astype(float).round(1)
    assert ours.dropna().to_dict() == {
        "A-functions": 6000,
        "A-one-to-three": 100,
        "A-fixed-tail": 100,
        "A-operations": 19,
        "A-protocol": 100,
        "A-semantic-cues": 6.1,
    }
    failed = (corpus["status"] != "ok").sum()
    assert f"{6000 - failed:,} have a score" in table.loc["A-functions", "note"]
    assert f"{failed} failures are stored as 0.0" in table.loc["A-functions", "note"]
    assert table.loc["A-600x", "note"].endswith("within two. Replayed, it took 9.")
    assert "43 functions against" in table.loc["A-semantic-cues", "note"]
