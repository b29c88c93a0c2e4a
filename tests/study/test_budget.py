"""The line of independent samples, and the best by seeds and steps, on samples whose answer is counted by hand."""

from __future__ import annotations

import warnings
from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from nngpt_lab.study import budget


def samples(scores: dict[tuple[str, int, int], list[float]]) -> pd.DataFrame:
    """By arm, seed and cycle: the scores of its samples; nan was not trained."""
    rows = [
        {"arm": arm, "seed": seed, "cycle": cycle, "position": i, "score": score, "valid": np.isfinite(score)}
        for (arm, seed, cycle), given in scores.items()
        for i, score in enumerate(given)
    ]
    return pd.DataFrame(rows)


LOOP = {("loop", 0, 1): [0.1, np.nan], ("loop", 0, 2): [0.5, 0.3], ("loop", 1, 1): [0.2, 0.4], ("loop", 1, 2): [0.3, 0]}
ALONE = {("no tuning", seed, cycle): [0.1 * (seed + cycle), np.nan] for seed in (0, 1) for cycle in (1, 2)}


def test_independent_samples_are_the_arms_that_never_changes_or_the_loops_first_step():
    both, one = samples(LOOP | ALONE), samples(LOOP)
    assert set(budget.independent_samples(both, "cycle", "no tuning")["arm"]) == {"no tuning"}
    first = budget.independent_samples(one, "cycle", "no tuning")
    assert set(first["cycle"]) == {1} and len(first) == 4


def test_the_line_is_the_mean_of_the_pool_and_the_expected_best_of_a_step():
    line = budget.independent(samples(LOOP), "cycle", None, {"over": 0.2})
    assert line.n == 4 and "n = 4" in line.label
    assert line.values["valid"] == 0.75 and line.values["over"] == pytest.approx(2 / 3)
    assert line.values["mean"] == pytest.approx(0.7 / 3) and line.values["median"] == pytest.approx(0.2)
    pairs = [max(pair) for pair in combinations([0.1, 0, 0.2, 0.4], 2)]  # a cycle has two samples
    assert line.values["best"] == pytest.approx(np.mean(pairs))


def test_the_surface_is_the_mean_over_all_choices_of_runs():
    table = budget.surface(samples(LOOP | ALONE), "cycle", "no tuning").set_index(["seeds", "cycle"])
    assert table["evaluated"].to_dict() == {(1, 1): 2, (1, 2): 4, (2, 1): 4, (2, 2): 8}
    assert table.loc[(1, 1), "best"] == pytest.approx((0.1 + 0.4) / 2)
    assert table.loc[(1, 2), "best"] == pytest.approx((0.5 + 0.4) / 2)
    assert table.loc[(2, 1), "best"] == 0.4 and table.loc[(2, 2), "best"] == 0.5
    pool = [0.1, 0.2, 0.2, 0.3, 0, 0, 0, 0]
    assert table.loc[(1, 1), "independent"] == pytest.approx(np.mean([max(pair) for pair in combinations(pool, 2)]))
    assert table.loc[(2, 2), "independent"] == pytest.approx(0.3)


def test_what_was_not_drawn_independently_is_not_compared():
    table = budget.surface(samples(LOOP), "cycle").set_index(["seeds", "cycle"])
    assert np.isnan(table.loc[(2, 2), "independent"]) and np.isfinite(table.loc[(2, 1), "independent"])


@pytest.mark.parametrize("given", [LOOP | ALONE, LOOP, ALONE, {("loop", 0, 1): [np.nan]}])
def test_the_figure_frames_what_beats_independent_samples(given):
    table = budget.surface(samples(given), "cycle", "no tuning")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = budget.surface_figure(table, "cycle")
        figure.draw_without_rendering()
    assert len(figure.axes[0].patches) == (table["best"] > table["independent"]).sum()
