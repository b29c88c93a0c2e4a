"""The scale ladder of a loop: what is registered, what is judged, and what a failed control takes back."""

from __future__ import annotations

import numpy as np
import pytest

from nngpt_lab.llm.catalogue import MODELS
from nngpt_lab.study import ladder
from tests.helpers.loop_candidates import runs


@pytest.fixture(scope="module")
def samples():
    return runs(seeds=3, cycles=8)


def scale_ladder(samples, coder, published):
    return ladder.scale_ladder(ladder.loop_rung(samples, "cycle"), coder, published)


def rung(table, model):
    return table.set_index("model").loc[model]


def test_every_registered_model_stands_there_and_one_was_run(samples):
    table = scale_ladder(samples, "nano-coder", "DeepSeek-Coder-7B")
    assert table["model"].tolist() == [*ladder.RUNGS, "DeepSeek-Coder-7B"]
    assert table["weights"].tolist() == [MODELS[model].parameters for model in table["model"]]
    assert table["state"].tolist() == [ladder.JUDGED] + [ladder.NOT_RUN] * 4
    assert table.loc[1:, ["rise", "valid", "n"]].isna().all(axis=None)


def test_a_rung_is_the_last_cycles_minus_the_first_paired_by_seed(samples):
    row = rung(scale_ladder(samples, "SmolLM2-135M", "DeepSeek-Coder-7B"), "SmolLM2-135M")
    loop = samples[samples["arm"] == "loop"]
    late = loop[loop["cycle"] >= 4]
    means = [part.groupby("seed")["score"].mean() for part in (late, loop[loop["cycle"] == 1])]
    assert row["rise"] == pytest.approx((means[0] - means[1]).mean())
    assert row["rise_low"] < row["rise"] < row["rise_high"] and row["n"] == 3
    assert row["valid"] == pytest.approx(late["status"].eq("ok").mean())
    assert row["valid_low"] > ladder.CONTROL


def test_a_model_of_which_little_runs_is_not_judged(samples):
    fails = samples.assign(status=np.where(samples["position"] % 3 == 0, samples["status"], "syntax"))
    row = rung(scale_ladder(fails, "nano-coder", "DeepSeek-Coder-7B"), "nano-coder")
    assert row["valid"] < ladder.CONTROL and row["state"] == ladder.FAILED


@pytest.mark.parametrize("arms", [("no tuning",), ("loop",)])
def test_without_a_loop_or_a_second_cycle_nothing_was_run(arms):
    one_cycle = runs(arms=arms, seeds=1, cycles=8 if arms == ("no tuning",) else 1)
    table = scale_ladder(one_cycle, "nano-coder", "DeepSeek-Coder-7B")
    assert set(table["state"]) == {ladder.NOT_RUN}
    ladder.scale_ladder_figure(table)


def test_the_figure_greys_what_failed_and_crosses_what_was_not_run(samples):
    table = scale_ladder(samples, "nano-coder", "DeepSeek-Coder-7B")
    figure = ladder.scale_ladder_figure(table)
    crosses = [line for line in figure.axes[0].lines if line.get_marker() == "x"]
    assert [line.get_xdata()[0] for line in crosses] == table["weights"][1:].tolist()
