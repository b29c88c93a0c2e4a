"""LEMUR's counted weights: what is shipped, that it can be counted again, and that tuning pairs keep the limit."""

from types import SimpleNamespace

import pandas as pd
import pytest

from nngpt_lab.corpora import architectures
from nngpt_lab.ground.errors import DataError
from nngpt_lab.papers.architecture_loop.design import PAPER
from nngpt_lab.papers.architecture_loop.runs import described
from nngpt_lab.study import weight_counts

LIMIT = 500_000


@pytest.fixture(scope="module")
def sources() -> pd.DataFrame:
    return architectures.load().architectures


def test_of_every_network_there_is_a_count_or_a_reason(sources):
    counts = weight_counts.load(sources)
    assert len(counts) == len(sources) == 10_482
    assert (counts["weights"].isna() == (counts["reason"] != "")).all()
    table = weight_counts.by_family(counts, LIMIT).set_index("family")
    assert table.loc["all", ["counted", "within"]].tolist() == [10_452, 1280]
    within = {"rag": 764, "FractalNet": 360, "alt": 103, "hand-written": 27, "rl": 26, "ast": 0, "ga": 0, "ga-mut": 0}
    assert table["within"].drop("all").to_dict() == within


def test_counted_again_they_are_the_same(sources):
    """The smallest of each family, and two that cannot be counted."""
    shipped = weight_counts.load(sources)
    names = [shipped.loc[rows["weights"].idxmin(), "name"] for _, rows in shipped.groupby("family")]
    names += [shipped.loc[shipped["reason"] == reason, "name"].iloc[0] for reason in ("forbidden", "shape")]
    again = weight_counts.count(sources[sources["name"].isin(names)]).merge(
        shipped, on="name", suffixes=("", "_shipped")
    )
    assert len(again) == len(names)
    assert again["weights"].equals(again["weights_shipped"]) and again["reason"].equals(again["reason_shipped"])


def test_other_sources_are_refused(sources):
    changed = sources.head(3).assign(code_hash="0" * 64)
    with pytest.raises(DataError, match="of other sources"):
        weight_counts.load(changed)


def test_tuning_pairs_keep_the_protocols_limit(sources):
    codes = sources["code"].head(2000)
    kept, counts = weight_counts.keep_limit(codes, "lemur", LIMIT), weight_counts.load(sources)["weights"].head(2000)
    assert kept.equals((counts <= LIMIT).fillna(False).astype(bool).rename("code"))
    assert weight_counts.keep_limit(codes, "lemur", None).all() and weight_counts.keep_limit(codes, "narrow", 1).all()


def test_the_design_table_says_how_many_networks_are_left(sources, monkeypatch):
    """Of one in forty of LEMUR: those within the limit that keep the contract, which is most of them."""
    some = sources.iloc[::40]
    monkeypatch.setattr(architectures, "load", lambda: SimpleNamespace(architectures=some))
    table = described(PAPER).set_index("setting")["value"]
    within = int(weight_counts.keep_limit(some["code"], "lemur", LIMIT).sum())
    assert within / 2 < int(table["left for corpus pairs"].split()[0].replace(",", "")) <= within
