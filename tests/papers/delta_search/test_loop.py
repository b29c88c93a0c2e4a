"""Paper D live: answers applied, retried and compared with their parents; the same again from the ledger."""

from __future__ import annotations

import dataclasses
from unittest import mock

import numpy as np
import pandas as pd
import pytest

from nngpt_lab.candidates.ledger import Ledger
from nngpt_lab.corpora.code import code_hash
from nngpt_lab.ground import paths
from nngpt_lab.ground.errors import UsageError
from nngpt_lab.llm.server_engine import Answer
from nngpt_lab.papers.delta_search import claims as paper_claims
from nngpt_lab.papers.delta_search import figures, lab, pairs, runs, tables
from nngpt_lab.papers.delta_search.design import ARMS, DEMO, DESIGNS, MUTATION, SMOKE, get_formats
from nngpt_lab.papers.delta_search.edits import FORMATS, Outcome
from nngpt_lab.records.results import Results
from nngpt_lab.statistics import claims
from nngpt_lab.study import comparison, ladder, proposals
from nngpt_lab.study.design import get_arms

NETWORK = (paths.PACKAGE / "candidates" / "small_network.py").read_text()
NETWORK = "import torch" + NETWORK.partition("import torch")[2].replace("from itertools import pairwise\n", "")
NETWORK = NETWORK.replace("pairwise(widths)", "zip(widths, widths[1:])")
PARENTS = [NETWORK.replace("16, 32, 64", f"{width}, 16, 8") for width in (4, 6, 8, 10)]
CHILD = {code: code.replace("16, 8)", "12, 8)") for code in PARENTS}
TINY = dataclasses.replace(SMOKE, samples=3, parents=4, retries=1, cycles=2, floor=0.0, decoding=dataclasses.replace(
    SMOKE.decoding, max_new_tokens=900))  # fmt: skip


def corpus(name: str, family: str | None = None) -> pd.DataFrame:
    """A stand-in for the published networks; the later, the better."""
    names = [f"net {k}" for k in range(len(PARENTS))]
    table = pd.DataFrame({"name": names, "family": "one", "code": PARENTS})
    return table.assign(accuracy=np.linspace(0.2, 0.6, len(names)), parameters=9000)


def scripted(bench, model, asked, seeds, places, decoding):
    """In place of a model: the first attempt is a fence that never closes, the second the right edit."""
    for place in places:
        code = next(code for code in PARENTS if code in asked[place][0]["content"])
        right = FORMATS[bench.design.form].write(code, CHILD[code], 3)
        yield place, Answer(right if len(asked[place]) > 1 else f"```python\n{code}", None, True)


def run(folder, formats=("whole_file", "unified_diff"), arms="no tuning, random mutation", writer=scripted, seeds=(0,)):
    with mock.patch.object(lab, "networks", corpus), mock.patch.object(proposals, "_sampled", writer):
        return runs.run_all(Results(folder, "smoke"), TINY, formats, get_arms(arms, ARMS), seeds, workers=1)


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    folder = tmp_path_factory.mktemp("delta")
    return run(folder), folder


def test_what_cannot_be_used_is_asked_for_again_and_the_first_attempt_is_kept_apart(live):
    rows = live[0].edits
    written = rows[rows["arm"] == "no tuning"]
    assert len(written) == 2 * TINY.cycles * TINY.samples
    assert not written["first_valid"].any() and set(written["first_outcome"]) == {Outcome.TRUNCATED.value}
    assert (written["attempts"] == 2).all() and (written["outcome"] == "ok").all() and written["valid"].all()
    assert (written["tokens"] > written["first_tokens"]).all()
    mutated = rows[rows["arm"] == "random mutation"]
    assert (mutated["attempts"] == 1).all() and mutated["valid"].any() and set(mutated["form"]) == {"typed_mutation"}


def test_every_format_edits_the_same_parents_and_a_child_is_compared_with_its_own(live):
    found, rows = live[0], live[0].edits
    keys = ["cycle", "position"]
    shown = [part.sort_values(keys)["parent"].tolist() for _, part in rows.groupby("form")]
    assert shown[0] == shown[1] == shown[2] and len(set(shown[0][:3])) == 3
    pool = found.parents.set_index("name")
    for row in rows[rows["valid"]].itertuples():
        assert row.parent_score == pool.loc[row.parent, "score"] and row.difference == row.score - row.parent_score
        assert row.parent_hash == code_hash(pool.loc[row.parent, "code"]) != row.code_hash
    same = rows[rows["arm"] == "no tuning"].groupby(keys)["code_hash"].nunique()
    assert (same == 1).all()  # the same edit in both formats, so the same child, which is trained once


def test_what_edits_do_is_counted_for_the_valid_ones(live):
    types = tables.edit_types(live[0].edits, live[0].codes).set_index(["form", "arm", "cycle"])
    first = types.loc[("unified_diff", "no tuning", 1)]
    assert first["edits"] == TINY.samples and first["wiring"] == 100 and first["layer added"] == 0  # a number of a list
    assert ("typed_mutation", "random mutation", 1) in types.index
    assert tables.edit_types(live[0].edits.head(0), {}).empty


def test_a_run_is_read_back(live):
    def never(*_):
        raise AssertionError("the ledger holds every text")
        yield

    found, folder = live
    again = run(folder, writer=never)
    pd.testing.assert_frame_equal(again.edits, found.edits)
    with Ledger(folder / "ledger.sqlite") as ledger:
        samples = ledger.table("samples")
    assert samples["parent"].isin([code_hash(code) for code in PARENTS]).all()


def test_what_the_length_limit_cut_is_never_applied_however_short_and_whole_it_looks(tmp_path):
    """Also where the tokens cannot be counted again, or come out fewer; and again when it is read back."""

    def cut(*given):
        for place, answer in scripted(*given):
            yield place, dataclasses.replace(answer, finished=len(given[2][place]) < 2)

    found, again = (run(tmp_path, formats=["unified_diff"], arms="no tuning", writer=cut).edits for _ in range(2))
    assert set(found["outcome"]) == {Outcome.TRUNCATED.value} and not found["valid"].any()
    pd.testing.assert_frame_equal(found, again)


def test_no_edit_counts_that_the_model_did_not_write():
    code = PARENTS[0]
    assert pairs.edited(code, f"```python\n{CHILD[code]}\n```", "unified_diff").outcome == Outcome.WRONG_FORMAT
    assert pairs.edited(code, f"```python\n{code}\n```", "whole_file").outcome == Outcome.NO_OP
    absent = "<delta>\n--- a\n+++ b\n@@ -1,1 +1,1 @@\n-self.no = 1\n+self.no = 2\n</delta>"
    found = pairs.edited(code, absent, "unified_diff")
    assert found.status == "no_code" and found.candidate.code == "" and found.outcome.value in found.message
    broken = pairs.edited(code, "```python\nclass Net:\n  def\n```", "whole_file")
    assert broken.status == "syntax" and broken.outcome == Outcome.DOES_NOT_PARSE


def test_tuning_pairs_fit_the_budget_and_keep_or_lose_their_direction(tmp_path):
    with (
        mock.patch.object(lab, "networks", corpus),
        Ledger(tmp_path / "ledger.sqlite") as ledger,
        lab.open_lab(dataclasses.replace(TINY, examples=20), ledger, tmp_path, device="cpu", workers=1) as bench,
    ):
        texts = {}
        for name in ("static corpus", "shuffled targets"):
            examples = pairs.training(bench, ARMS[name], 0, 1, [])
            texts[name] = [bench.coder.tokenizer.decode(example.ids) for example in examples]
            assert len(examples) == 20
        worse = dict.fromkeys(texts, 0)
        for name, some in texts.items():
            for text in some:
                removed = int(text.split("\n-        widths = (in_shape[1], ")[1].split(",")[0])
                added = int(text.split("\n+        widths = (in_shape[1], ")[1].split(",")[0])
                worse[name] += added < removed  # the later networks are wider, and better
        assert worse["static corpus"] == 0 and 4 <= worse["shuffled targets"] <= 16
        parent = lab.Parent("p", PARENTS[0], 0.5, 0.5)
        grown = pairs.training(bench, ARMS["growing corpus"], 0, 2, [(parent, CHILD[PARENTS[0]])])
        assert "12, 8" in bench.coder.tokenizer.decode(grown[0].ids) and len(grown) == 20
        tight = dataclasses.replace(bench.design, decoding=dataclasses.replace(bench.design.decoding, max_new_tokens=9))
        assert pairs.training(dataclasses.replace(bench, design=tight), ARMS["static corpus"], 0, 1, []) == []


def test_formats_differ_in_the_format_alone_and_unknown_ones_are_refused():
    hashes = {dataclasses.replace(DEMO, form=form).hash() for form in FORMATS}
    assert len(hashes) == len(FORMATS) and dataclasses.replace(DEMO, cycles=9).hash() == DEMO.hash()
    assert get_formats("all") == list(FORMATS) and get_formats("unified_diff, whole_file")[0] == "whole_file"
    with pytest.raises(UsageError, match="udiff"):
        get_formats("udiff")
    with pytest.raises(UsageError, match="whole_fil"):
        dataclasses.replace(DEMO, form="whole_fil")
    planned = list(runs.planned(list(FORMATS), list(ARMS.values())))
    assert (MUTATION, ARMS["static corpus"]) not in planned and planned.count((MUTATION, ARMS["no tuning"])) == 1
    assert all(design.name == name for name, design in DESIGNS.items())


# -------------------------------------------------------------------------------------------------------------- tables


def made_up(seeds: int = 3, valid: float = 0.8, gain: float = 0.1) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Edits of two formats: those of the diff gain, those of the whole file do not; and the pool of each seed."""
    rng, rows, pool = np.random.default_rng(0), [], []
    for seed in range(seeds):
        for k in range(12):
            pool.append({"seed": seed, "name": f"p{k}", "code": "", "score": 0.5, "again": 0.5 + rng.normal(0, 0.02)})
            for arm in ("static corpus", "no tuning"):
                for form in ("whole_file", "unified_diff"):
                    good = rng.random() < valid
                    score = 0.5 + rng.normal(gain if form == "unified_diff" else 0, 0.02) if good else np.nan
                    row = {"form": form, "arm": arm, "seed": seed, "cycle": 1, "position": k, "parent": f"p{k}"}
                    row |= {"parent_score": 0.5, "attempts": 1, "outcome": "ok" if good else "context absent"}
                    row |= {"score": score, "difference": score - 0.5, "valid": good, "tokens": 50}
                    rows.append(row | {f"first_{name}": row[name] for name in ("outcome", "valid", "tokens")})
    return pd.DataFrame(rows), pd.DataFrame(pool)


def test_an_arm_s_difference_is_over_seeds_and_stands_beside_the_nulls():
    table = tables.arm_table(*made_up()).set_index(["form", "arm"])
    same, again = table.loc[("", "identity")], table.loc[("", "re-run")]
    assert same[["valid", "difference", "better"]].tolist() == [100, 0, 0]
    assert again["difference_low"] < 0 < again["difference_high"] and again["better"] + again["worse"] < 12
    diff, whole = (table.loc[(form, "static corpus")] for form in ("unified_diff", "whole_file"))
    assert diff["difference"] == pytest.approx(10, abs=1) and diff["n"] == 3 and diff["better"] > 95
    assert diff["difference_low"] > 5 and whole["difference_low"] < 0 < whole["difference_high"]
    assert diff["tokens_per_valid"] == pytest.approx(50 / (diff["valid"] / 100))
    one = tables.arm_table(*made_up(seeds=1)).set_index(["form", "arm"]).loc[("unified_diff", "static corpus")]
    assert one["method"] == tables.OVER_PARENTS and one["n"] == round(12 * one["valid"] / 100)


def test_a_format_with_few_valid_edits_is_not_tested_and_says_nothing_of_the_paper():
    edits, pool = made_up(valid=0.1)
    arms = tables.arm_table(edits, pool)
    compared = tables.compared(edits, tables.ARM_PAIRS)
    own = arms[arms["arm"] == "static corpus"]
    assert set(own["state"]) == {tables.UNTESTED}
    assert set(compared.loc[compared["measure"] == "child minus parent", "state"]) == {tables.UNTESTED}
    assert set(compared.loc[compared["measure"] == "valid, first attempt", "state"]) == {tables.UNTESTED}
    said = paper_claims.measure(arms, compared, edits)
    assert said["D-improves"].estimate is None and said["D-improves"].note.endswith("not tested at this scale.")
    assert said["D-more-valid"].estimate is None and "-" not in said["D-more-valid"].note
    own = paper_claims.measure(arms, compared, edits, "qwen")  # the paper's own model that cannot is a finding
    assert own["D-more-valid"].estimate is not None and "D-improves" not in own
    assert figures.live(arms).axes


def test_that_tuning_teaches_a_format_is_tested_where_one_side_knows_it():
    learnt, bare = made_up()[0], made_up(valid=0.0)[0]
    edits = pd.concat([learnt[learnt["arm"] == "static corpus"], bare[bare["arm"] == "no tuning"]])
    compared = tables.compared(edits, tables.ARM_PAIRS)
    found = compared[compared["first"] == "static corpus"].set_index(["within", "measure"])
    assert found.loc[("unified_diff", "valid, first attempt"), "state"] == tables.TESTED
    assert found.loc[("unified_diff", "child minus parent"), "state"] == tables.UNTESTED
    assert found.loc[("unified_diff", "child minus parent"), ["n", "method"]].tolist() == [
        0,
        comparison.TOO_FEW_SEEDS[0],
    ]


def test_formats_and_arms_are_compared_sample_by_sample():
    edits, _ = made_up()
    compared = tables.compared(edits, tables.ARM_PAIRS).set_index(["within", "first", "second", "measure"])
    gain = compared.loc[("static corpus", "unified_diff", "whole_file", "child minus parent")]
    assert gain["difference"] == pytest.approx(0.1, abs=0.01) and gain["difference_low"] > 0.05 and gain["n"] == 3
    assert ("unified_diff", "static corpus", "no tuning", "child minus parent") in compared.index
    outcomes = tables.outcome_table(edits)
    assert (outcomes.groupby(["form", "arm", "attempt"])["count"].sum() == 36).all()


@pytest.mark.parametrize(("valid", "state"), [(0.8, ladder.JUDGED), (0.1, ladder.FAILED)])
def test_the_scale_ladder_has_diffs_minus_whole_files_and_greys_a_model_that_writes_neither(valid, state):
    edits, pool = made_up(valid=valid)
    # The diff is the lesser of both
    edits.loc[(edits["form"] == "unified_diff") & (edits["position"] == 0), ["first_valid", "valid"]] = False
    own = tables.rung(tables.arm_table(edits, pool), tables.compared(edits))
    table = ladder.scale_ladder(own, "SmolLM2-135M", "Qwen2.5-Coder-7B")
    row = table.set_index("model").loc["SmolLM2-135M"]
    shares = edits[edits["arm"] == "static corpus"].groupby("form")["first_valid"].mean()
    assert row["state"] == state and row["n"] == 3
    assert row["rise"] == pytest.approx(shares["unified_diff"] - shares["whole_file"])
    assert row["rise_low"] < row["rise"] < row["rise_high"]
    assert row["valid"] == pytest.approx(shares.min()) and row["valid_low"] < row["valid"] < row["valid_high"]
    assert table["state"].tolist().count(ladder.NOT_RUN) == 4
    figure = ladder.scale_ladder_figure(table, "diffs minus whole files", "the lesser", tables.LEAST)
    assert figure.axes[0].get_ylabel() == "diffs minus whole files, points"


@pytest.mark.parametrize("left", ["form == 'whole_file'", "form == 'unified_diff'", "arm == 'no tuning'"])
def test_a_run_without_both_tuned_formats_is_no_rung(left):
    edits, pool = made_up()
    edits = edits.query(left)
    assert tables.rung(tables.arm_table(edits, pool), tables.compared(edits)) == {}


def test_only_the_published_protocol_judges(lemur):
    edits, pool = made_up()
    arms, compared = tables.arm_table(edits, pool), tables.compared(edits, tables.ARM_PAIRS)
    note = claims.claims_table("D", paper_claims.measure(arms, compared, edits)).set_index("claim_id")
    assert set(note["verdict"]) == {claims.WAITING, claims.UNTESTED}
    assert "Our scaled comparison: 10." in note.loc["D-improves", "note"]
    own = claims.claims_table("D", paper_claims.measure(arms, compared, edits, "qwen")).set_index("claim_id")
    assert own.loc["D-improves", "verdict"] == claims.REPRODUCED and own.loc["D-valid-qwen", "our_value"] > 50
    assert own.loc["D-mean-qwen", "our_value"] == pytest.approx(60, abs=1) and own.loc["D-best-qwen", "n"] == 3
    assert own.loc["D-valid-mistral", "verdict"] == claims.WAITING
    mistral = dataclasses.replace(DESIGNS["paper-d"], coder="Mistral-7B")
    assert paper_claims.published(mistral) == "mistral" and paper_claims.published(DEMO) == ""
    assert paper_claims.published(dataclasses.replace(mistral, samples=9)) == ""
    lacking = paper_claims.measure(arms[arms["form"] != "unified_diff"], compared, edits)
    assert set(lacking) == set(paper_claims.OF_A_RUN) and all(each.estimate is None for each in lacking.values())
