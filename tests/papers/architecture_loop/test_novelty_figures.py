"""The novelty figures draw the numbers of their tables: every cell, bar, line and dot is read back."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from nngpt_lab.papers.architecture_loop import novelty_figures as figures
from nngpt_lab.statistics.style import OURS, PAPER

FORMS = ("raw_tokens", "nn_dup", "ast_nameless", "structure")
THRESHOLDS = (0.80, 0.90, 0.95)


def texts(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


def rendered(figure) -> Figure:
    figure.savefig(io.BytesIO(), format="svg")  # a layout that fails, fails here
    assert isinstance(figure, Figure)
    return figure


@pytest.fixture
def sensitivity():
    rows = [
        (corpus, form, shingle, threshold, 0.1 + 0.02 * i + 0.2 * j + 0.01 * shingle)
        for corpus in ("LEMUR", "augmentations")
        for j, form in enumerate(FORMS)
        for shingle in ((1, 10) if form == "structure" else (5, 10))
        for i, threshold in enumerate(THRESHOLDS)
    ]
    return pd.DataFrame(rows, columns=["corpus", "form", "shingle", "threshold", "share_kept"])


def test_changes_are_written_and_duplicates_framed():
    rows = [
        (kind, change, form, 10, 0.9, likeness, likeness >= 0.9)
        for form, shift in (("raw_tokens", 0.0), ("nn_dup", 0.2))
        for kind, change, likeness in (("text", "comments", 0.55 + shift), ("text", "names", 0.71 + shift))
    ]
    rows.append(("other network", "width", "raw_tokens", 10, 0.9, 0.98, True))
    rows.append(("other network", "width", "nn_dup", 10, 0.9, 1.0, True))
    columns = ["kind", "change", "form", "shingle", "threshold", "jaccard", "duplicate"]
    ax = rendered(figures.change_similarities(pd.DataFrame(rows, columns=columns))).axes[0]
    assert texts(ax)[:6] == ["0.55", "0.75", "0.71", "0.91", "0.98", "1.00"]
    assert texts(ax)[6:] == ["text", "other\nnetwork"]
    assert len(ax.patches) == 3
    assert [label.get_text() for label in ax.get_yticklabels()] == ["comments", "names", "width"]


def test_surface_has_a_cell_for_each_setting_and_frames_the_published_one(sensitivity):
    table = sensitivity[sensitivity["corpus"] == "LEMUR"]
    figure = rendered(figures.share_kept_surface(table, {"nn_dup": (10, 0.90), "structure": (7, 0.90)}))
    assert [ax.get_title() for ax in figure.axes] == list(FORMS)
    for ax, form in zip(figure.axes, FORMS, strict=True):
        part = table[table["form"] == form].sort_values(["shingle", "threshold"])
        assert texts(ax) == [f"{100 * share:.0f}" for share in part["share_kept"]]
        assert len(ax.patches) == (form == "nn_dup")  # structure has no runs of 7 here
    frame = figure.axes[1].patches[0]
    column, row = frame.get_x() + frame.get_width() / 2, frame.get_y() + frame.get_height() / 2
    assert (column, row) == pytest.approx((1.5, 1.5))  # the middle of the cell in the second column and row


def test_lines_are_the_shares_of_their_form(sensitivity):
    lengths = {"raw_tokens": 5, "nn_dup": 10, "ast_nameless": 10, "structure": 1}
    figure = rendered(figures.share_kept_lines(sensitivity, lengths))
    assert [ax.get_title() for ax in figure.axes] == ["LEMUR", "augmentations"]
    for ax in figure.axes:
        curves = [line for line in ax.get_lines() if len(line.get_xdata()) == len(THRESHOLDS)]
        for curve, (form, shingle) in zip(curves, lengths.items(), strict=True):
            part = sensitivity[(sensitivity["corpus"] == ax.get_title()) & (sensitivity["form"] == form)]
            part = part[part["shingle"] == shingle]
            assert curve.get_ydata() == pytest.approx(100 * part["share_kept"])
    assert len(figure.legends[0].get_texts()) == 4


def test_family_bars_are_as_long_as_their_share():
    table = pd.DataFrame({"family": ["ga", "rl"], "sources": [1015, 123], "paper": [0.0, 0.5], "loop": [0.8, 1.0]})
    ax = rendered(figures.kept_by_family(table, ["paper", "loop"])).axes[0]
    assert [bar.get_width() for bar in ax.patches] == pytest.approx([0, 50, 80, 100])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["ga (1,015)", "rl (123)"]


def test_estimates_on_the_wrong_side_are_red():
    pairs = pd.DataFrame({"jaccard": [0.85, 0.89, 0.91, 0.95], "estimate": [0.86, 0.92, 0.88, 0.94]})
    ax = rendered(figures.estimate_against_exact(pairs, 0.9, 256)).axes[0]
    right, wrong = ax.collections
    assert np.asarray(wrong.get_offsets())[:, 0].tolist() == [0.89, 0.91]
    assert np.asarray(right.get_offsets())[:, 1] == pytest.approx([0.01, -0.01])
    assert (to_hex(right.get_facecolor()[0]), to_hex(wrong.get_facecolor()[0])) == (OURS.lower(), PAPER.lower())
    upper = next(line for line in ax.get_lines() if line.get_label() == "two standard errors")
    x, y = upper.get_data()
    assert y == pytest.approx(2 * np.sqrt(x * (1 - x) / 256))


def test_retrieval_draws_what_was_counted_and_what_was_expected():
    rows = [(0.75, 1, 0.81, 0.9, 0.85), (0.75, 1, 0.95, 1.0, 1.0), (0.75, 2, 0.81, 0.7, 0.85), (0.75, 2, 0.95, 1, 1.0),
            (0.85, 1, 0.81, 0.3, 0.2), (0.85, 1, 0.95, 0.99, 0.99)]  # fmt: skip
    table = pd.DataFrame(rows, columns=["lsh_threshold", "seed", "jaccard", "share", "expected"])
    ax = rendered(figures.retrieval(table, 0.9)).axes[0]
    dots = [np.asarray(collection.get_offsets())[:, 1] for collection in ax.collections]
    assert dots[0] == pytest.approx([90, 100, 70, 100]) and dots[1] == pytest.approx([30, 99])
    curves = [line.get_ydata() for line in ax.get_lines()[:2]]
    assert curves[0] == pytest.approx([85, 100]) and curves[1] == pytest.approx([20, 99])


def test_no_pairs_make_an_empty_figure_not_an_error():
    nothing = pd.DataFrame({name: pd.Series(dtype=float) for name in ("jaccard", "estimate")})
    rendered(figures.estimate_against_exact(nothing, 0.9, 256))
    columns = ("lsh_threshold", "seed", "jaccard", "share", "expected")
    rendered(figures.retrieval(pd.DataFrame({name: pd.Series(dtype=float) for name in columns}), 0.9))
