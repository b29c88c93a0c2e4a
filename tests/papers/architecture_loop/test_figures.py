"""The loop's figures draw the numbers of their tables, and stand every run however small or empty."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from nngpt_lab.papers.architecture_loop import figures, layer_diagram, novelty_figures, tables
from nngpt_lab.papers.architecture_loop.lemur_overview import CYCLES
from nngpt_lab.sandbox.status import Status
from nngpt_lab.study import looks
from tests.helpers.loop_candidates import ALL_ARMS, frame, row, runs

THRESHOLDS = (0.5, 0.4, 0.3)
LABELS = ("50 %", "40 %", "30 %")


def rendered(figure: Figure) -> Figure:
    assert isinstance(figure, Figure)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a layout that collapses or a number that is none, fails here
        figure.draw_without_rendering()
    return figure


def lines(ax) -> dict:
    """Drawn lines by label."""
    return {line.get_label(): line for line in ax.lines}


def legend(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def texts(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


def likeness(candidates: pd.DataFrame) -> pd.DataFrame:
    accepted = tables.accepted_table(candidates)
    forms = [accepted.assign(form=form, verbatim=False, renamed=False) for form in ("nn_dup", "structure")]
    return tables.memorisation_table(pd.concat(forms))


def sensitivity() -> pd.DataFrame:
    rows = [
        (form, shingle, threshold, 40, 10 * i + j)
        for form in ("nn_dup", "structure")
        for i, shingle in enumerate((1, 10))
        for j, threshold in enumerate((0.8, 0.9))
    ]
    return pd.DataFrame(rows, columns=["form", "shingle", "threshold", "passed", "novel"])


def everything(candidates: pd.DataFrame) -> dict[str, Figure]:
    rng = np.random.default_rng(0)
    cycles = tables.cycle_table(candidates, THRESHOLDS, "demo", "digits")
    pooled = tables.pooled_cycles(candidates, THRESHOLDS, rng, 50)
    controls = tables.controls_table(candidates, THRESHOLDS)
    rise = tables.rise_table(candidates, THRESHOLDS)
    return {
        "valid": figures.valid_rate(pooled),
        "accuracy": figures.accuracy(pooled),
        "accuracy, same data": figures.accuracy(pooled, same_data=True),
        "shares": figures.shares(pooled, LABELS),
        "shares, same data": figures.shares(pooled, LABELS, same_data=True),
        "controls per cycle": figures.controls_per_cycle(pooled),
        "controls": figures.differences(controls, "The loop minus each control"),
        "rise": figures.differences(rise, "The last cycles minus the first"),
        "ridges": figures.ridgelines(candidates, 0.5),
        "novel": figures.novel(cycles),
        "failures": figures.failures(tables.failure_table(candidates)),
        "neighbours": figures.neighbours(likeness(candidates), ("nn_dup", 0.90)),
        "stages": figures.stages(cycles),
    }


@pytest.fixture(scope="module")
def pooled():
    return tables.pooled_cycles(runs(dead=(3,)), THRESHOLDS, np.random.default_rng(0), 50)


RUNS = {
    "six arms, three seeds": lambda: runs(),
    "one arm, one seed, two cycles, six samples": lambda: runs(("loop",), 1, 2, 6),
    "one cycle": lambda: runs(("loop", "no tuning"), 1, 1, 6),
    "nothing valid": lambda: runs(("loop", "no tuning"), 1, 2, 6, dead=(1, 2)),
    "first cycle dead": lambda: runs(("loop",), 3, 2, 6, dead=(1,)),
    "one network": lambda: frame([row(score=0.5), row(cycle=2)]),
}


@pytest.mark.parametrize("name", RUNS)
def test_every_figure_of_every_run_can_be_drawn(name):
    for figure in everything(RUNS[name]()).values():
        rendered(figure)


def test_valid_rate_draws_each_arm_and_the_papers_cycles(pooled):
    figure = rendered(figures.valid_rate(pooled))
    ax = figure.axes[0]
    loop = pooled[pooled["arm"] == "loop"]
    assert lines(ax)["loop"].get_ydata() == pytest.approx(100 * loop["valid"])
    assert legend(figure) == [*ALL_ARMS, figures.PAPER_LABEL]
    paper = ax.containers[0].lines[0]
    assert list(paper.get_xdata()) == [1, 10, 18, 22]
    assert paper.get_ydata() == pytest.approx(100 * CYCLES["valid"] / CYCLES["generated"])
    assert paper.get_markerfacecolor() == "white" and paper.get_linestyle() == "None"
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert band.max() == pytest.approx(100 * loop["valid_high"].max())


def test_every_loop_figure_draws_the_line_of_independent_samples(pooled):
    candidates = runs(("loop",))
    alone, first = tables.independent(candidates, THRESHOLDS), candidates[candidates["cycle"] == 1]
    shares = figures.shares(pooled, LABELS, alone=alone)
    for figure, value in (
        (figures.valid_rate(pooled, alone), first["status"].isin(["ok", "non_finite"]).mean()),
        (figures.accuracy(pooled, alone=alone), first["score"].mean()),
        (shares, (first["score"].dropna() >= THRESHOLDS[0]).mean()),
    ):
        drawn = [line for line in rendered(figure).axes[0].lines if alone.label in str(line.get_label())]
        assert drawn[0].get_ydata()[0] == pytest.approx(100 * value)
        assert any(alone.label in text for text in legend(figure))


def test_arms_differ_without_colour():
    shown = looks.arm_looks(pd.DataFrame({"arm": [*ALL_ARMS, "an arm of mine"]}))
    mine = shown.pop("an arm of mine")
    styles = [(look["marker"], str(look["linestyle"])) for look in shown.values()]
    assert len(set(styles)) == len({marker for marker, _ in styles}) == len(ALL_ARMS)
    assert mine["marker"] not in {marker for marker, _ in styles}


def test_the_paper_stands_beside_unless_the_data_are_the_same(pooled):
    beside = rendered(figures.accuracy(pooled))
    assert len(beside.axes) == 2 and len(beside.axes[0].lines) == 3
    assert lines(beside.axes[1])[f"mean, {figures.PAPER_LABEL}"].get_ydata() == pytest.approx(CYCLES["mean"])
    inside = rendered(figures.accuracy(pooled, same_data=True))
    assert len(inside.axes) == 1 and len(inside.axes[0].lines) == 5


def test_a_cycle_without_networks_is_a_gap_without_a_band(pooled):
    ax = rendered(figures.shares(pooled, LABELS)).axes[0]
    drawn = lines(ax)["at least 50 %"].get_ydata()
    assert np.flatnonzero(np.isnan(drawn)).tolist() == [2]
    for band in ax.collections:
        assert not any(((path.vertices[:, 0] > 2) & (path.vertices[:, 0] < 4)).any() for path in band.get_paths())


def test_differences_over_one_seed_are_crossed():
    for seeds, marker in ((3, "o"), (1, "x")):
        table = tables.controls_table(runs(("loop", "no tuning"), seeds=seeds), THRESHOLDS)
        figure = rendered(figures.differences(table, "title"))
        points = [ax.containers[0].lines[0] for ax in figure.axes]
        assert [point.get_xdata()[0] for point in points] == pytest.approx(100 * table["difference"])
        assert [point.get_marker() for point in points] == [marker] * 5
        for ax, line in zip(figure.axes, table.itertuples(), strict=True):
            low, high = ax.get_xlim()
            assert low < np.nanmin([0, 100 * line.difference_low]) and high > np.nanmax([0, 100 * line.difference_high])


def test_ridges_have_one_area_and_lie_between_0_and_1():
    x = np.linspace(0, 1, 2001)
    for values in (np.array([0.0, 0.02, 0.5]), np.array([0.99]), np.linspace(0, 1, 40)):
        ridge = figures._density(values, x, 0.05)
        assert ((ridge[1:] + ridge[:-1]) / 2).sum() * (x[1] - x[0]) == pytest.approx(np.sqrt(2 * np.pi), rel=1e-3)


def test_ridges_show_every_network_of_one_arm():
    candidates = runs(dead=(3,))
    ax = rendered(figures.ridgelines(candidates, 0.5)).axes[0]
    trained = candidates.query("arm == 'loop'").dropna(subset="score").groupby("cycle").size()
    assert texts(ax) == [*(f"n = {trained.get(cycle, 0)}" for cycle in range(1, 9)), "threshold"]


def test_novel_networks_are_counted_per_100_samples_beside_the_papers():
    candidates = runs(("loop",), seeds=2, samples=10)
    cycles = tables.cycle_table(candidates, THRESHOLDS, "demo", "digits")
    left, right = rendered(figures.novel(cycles)).axes
    assert lines(left)["loop"].get_ydata() == pytest.approx(10 * cycles.groupby("cycle")["novel"].mean())
    assert lines(left)[figures.PAPER_LABEL].get_ydata()[0] == pytest.approx(100 / 150)
    assert lines(right)["loop"].get_ydata()[-1] == cycles.query("cycle == 8")["cumulative_novel"].mean()
    assert len(right.lines) == 3


def test_failures_add_up_and_every_status_has_a_name():
    assert set(figures.STATUSES) == {status.value for status in Status}
    table = tables.failure_table(runs())
    figure = rendered(figures.failures(table))
    tops = [area.get_paths()[0].vertices[:, 1].max() for area in figure.axes[0].collections]
    assert tops[-1] == pytest.approx(100)
    assert legend(figure)[-1] == "trained" and len(legend(figure)) == table["status"].nunique()


def test_sensitivity_writes_every_count_and_frames_the_runs_setting():
    figure = rendered(novelty_figures.novelty_sensitivity(sensitivity(), {"nn_dup": (10, 0.9), "structure": (7, 0.9)}))
    assert [texts(ax) for ax in figure.axes] == [["0", "1", "10", "11"]] * 2
    assert [len(ax.patches) for ax in figure.axes] == [1, 0]
    assert figure.axes[0].patches[0].get_xy() == pytest.approx((1.04, 1.04))


def test_stages_stack_to_the_whole():
    cycles = tables.cycle_table(runs(("loop", "no tuning"), seeds=2), THRESHOLDS, "demo", "digits")
    left, right = rendered(figures.stages(cycles)).axes
    tops = [bar.get_y() + bar.get_height() for bar in left.containers[-1]]
    assert tops == pytest.approx([10.0] * 8)
    assert [bar.get_width() for bar in right.containers[0]] == pytest.approx([40.0, 40.0])


# --------------------------------------------------------------------------------------------------------------- layers

NET = r"""
import torch.nn as nn
class Net(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(c, 8, kernel_size=(3, 3)), nn.ReLU(inplace=True), nn.MaxPool2d(2))
        self.head = torch.nn.Linear(8 * 4, 10, **more); self.loss = nn.CrossEntropyLoss()
        nn.init.zeros_(self.head.bias); self.pattern = "\d"
"""


def test_layers_are_read_in_the_order_of_the_text():
    layers = layer_diagram.layers_of(NET)
    assert layers == [
        "Conv2d(…, 8, kernel_size=(3, 3))",
        "ReLU()",
        "MaxPool2d(2)",
        "Linear(…, 10, …)",
    ]


@pytest.mark.parametrize(
    "code", ["", "def", "\0", "x = 1", "(" * 5000, "nn.Linear(" + "-" * 3000 + "1)", "nn.X('$\\x$', '${')"]
)
def test_no_text_is_too_strange_to_be_read(code):
    rendered(layer_diagram.layer_diagram(layer_diagram.layers_of(code)))


def test_a_diagram_writes_layers_and_their_arguments():
    figure = rendered(layer_diagram.layer_diagram(["Conv2d(3, 8)", "ReLU()"]))
    assert [text for text in texts(figure.axes[0]) if text] == ["Conv2d", "3, 8", "ReLU"]
    assert legend(figure) == ["convolution", "activation, other"]


def test_a_long_network_leaves_out_its_middle_and_says_so():
    layers = [f"Linear({i}, {i + 1})" for i in range(100)]
    found = texts(rendered(layer_diagram.layer_diagram(layers)).axes[0])
    assert "61 more layers" in found and "0, 1" in found and "99, 100" in found and "50, 51" not in found
    assert found.count("Linear") == layer_diagram.MOST - 1
