"""Figures of paper A's live loop are drawn from full tables and from hardly any."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from nngpt_lab.papers.augmentation_search import figures
from nngpt_lab.papers.augmentation_search import tables as live
from tests.helpers.live_candidates import policies, row, runs, start

RUNS = {
    "three seeds": runs(),
    "one seed": runs(arms=["loop", "no tuning"], seeds=1, epochs=2),
    "an arm of another name": runs(arms=["hotter"], seeds=1),
    "nothing trained": pd.DataFrame([row(), row(position=1)]),
}


def drawn(figure) -> str:
    FigureCanvasAgg(figure).draw()
    texts = [text.get_text() for ax in figure.axes for text in (*ax.texts, ax.title, *ax.get_yticklabels())]
    texts += [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    return " ".join(texts)


@pytest.mark.parametrize("candidates", RUNS.values(), ids=RUNS)
def test_epochs_and_search(candidates):
    pooled = live.pooled_epochs(candidates, np.random.default_rng(0), 20)
    said = drawn(figures.epochs(pooled, 0.5))
    assert all(arm in said for arm in candidates["arm"].unique()) and "threshold" in said
    said = drawn(figures.search(live.search_curve(candidates), 0.6))
    assert "best of the start" in said and ("nothing was trained" in said) == bool(candidates["score"].isna().all())


@pytest.mark.parametrize("candidates", RUNS.values(), ids=RUNS)
def test_operation_use(candidates):
    arm = candidates["arm"].iloc[0]
    said = drawn(figures.operation_use(live.operation_shift(candidates, start()), arm))
    assert "RandomSolarize" in said and f"{arm}, last third (n = " in said


def test_policies():
    said = drawn(figures.policies(live.policy_table(policies())))
    assert "1 epoch" in said and "5 epochs" in said and "no augmentation" in said
    assert drawn(figures.policies(live.policy_table(policies(seeds=1, epochs=[1]))))
    nothing = policies().head(0)
    assert "no policies" in drawn(figures.policies(live.policy_table(nothing)))
