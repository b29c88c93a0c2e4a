"""What a notebook leaves behind: full precision for machines, rounded for readers, the same bytes twice."""

from __future__ import annotations

import json

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from nngpt_lab.ground import paths
from nngpt_lab.ground.errors import UsageError
from nngpt_lab.records.results import Results, open_results

FRAME = pd.DataFrame({"name": ["a", "b"], "value": [1 / 3, 2e-9], "n": pd.array([5, None], dtype="Int64")})


def test_a_table_is_written_twice(tmp_path):
    shown = Results(tmp_path, "smoke").table(FRAME, "shares", "Shares, in parts.", digits=2)
    back = pd.read_csv(tmp_path / "tables" / "shares.csv", dtype={"n": "Int64"})
    pd.testing.assert_frame_equal(back, FRAME, check_exact=True)
    text = (tmp_path / "tables" / "shares.md").read_text(encoding="utf-8")
    assert text.startswith("Shares, in parts.\n\n|") and "0.33" in text and "0.333" not in text
    assert "nan" not in text.lower() and "<NA>" not in text
    assert shown["value"].to_list() == [0.33, 0.0]
    assert FRAME["value"][0] == 1 / 3  # the caller's table is left alone


def draw():
    figure = Figure(figsize=(2, 2))
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], label="a line", marker="o")
    axes.fill_between([0, 1], [0, 1], hatch="//")
    axes.set_title("Ä title")
    axes.legend()
    return figure


def test_a_figure_saved_twice_has_the_same_bytes(tmp_path):
    files = []
    for run in ("first", "second"):
        figure = draw()
        assert Results(tmp_path / run, "smoke").figure(figure, "line", "A line.") is figure
        files.append([(tmp_path / run / "figures" / f"line.{kind}").read_bytes() for kind in ("svg", "png")])
    assert files[0] == files[1]
    svg, png = files[0]
    assert b"<svg" in svg and b"<dc:date>" not in svg and png.startswith(b"\x89PNG")


def test_saving_leaves_matplotlibs_settings_alone(tmp_path):
    before = dict(matplotlib.rcParams)
    Results(tmp_path, "smoke").figure(draw(), "line", "A line.")
    assert dict(matplotlib.rcParams) == before


def contents(folder) -> dict:
    return json.loads((folder / "contents.json").read_text(encoding="utf-8"))


def test_contents_keep_the_order_they_were_made_in(tmp_path):
    results = Results(tmp_path, "smoke")
    for name in ("zebra", "ape", "newt"):
        results.table(FRAME, name, f"The {name}.")
    results.figure(draw(), "line", "Größe.")
    results.table(FRAME, "ape", "The ape again.")
    found = contents(tmp_path)
    assert list(found["tables"]) == ["zebra", "ape", "newt"] and list(found["figures"]) == ["line"]
    assert found["tables"]["ape"]["caption"] == "The ape again." and found["figures"]["line"]["caption"] == "Größe."


def test_a_new_run_forgets_the_old_contents_and_its_manifest(tmp_path):
    Results(tmp_path, "smoke").table(FRAME, "old", "Old.")
    (tmp_path / "manifest.json").write_text("{}")
    again = Results(tmp_path, "smoke")
    assert not (tmp_path / "manifest.json").exists()  # before anything is replaced
    again.table(FRAME, "new", "New.")
    assert list(contents(tmp_path)["tables"]) == ["new"]


def test_where_results_go(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "results_root", lambda: tmp_path / "results")
    assert open_results("01_story", "demo").folder == tmp_path / "results" / "demo" / "01_story" / "by-hand"
    chosen = open_results("01_story", "demo", str(tmp_path / "elsewhere"))
    assert chosen.folder == tmp_path / "elsewhere" and chosen.profile.name == "demo"


def test_an_unknown_profile_makes_no_folder(tmp_path):
    with pytest.raises(UsageError, match="did you mean 'demo'"):
        Results(tmp_path / "new", "dmeo")
    assert not (tmp_path / "new").exists()


def test_one_seed_has_the_reference_beside_it(tmp_path, monkeypatch):
    """Only rows without an interval, each its own; nothing where no reference was committed."""
    results = Results(tmp_path / "01" / "seed-0", "smoke")
    keys = {"control": ["a", "b", "c"], "measure": "mean"}
    frame = pd.DataFrame(keys | {"difference": 0.1, "difference_low": [np.nan, 0.0, np.nan]}, index=[3, 1, 2])
    monkeypatch.setattr("nngpt_lab.ground.paths.results_root", lambda: tmp_path)
    alone = results.beside_reference(frame, "controls", ["control", "measure"])
    assert alone[["reference", "reference_low", "reference_high", "reference_n"]].isna().all(axis=None)
    place = tmp_path / "reference" / "demo" / "01" / "tables"
    place.mkdir(parents=True)
    found = {"difference": [0.5, 0.6], "difference_low": 0.4, "difference_high": 0.7, "n": 3}
    pd.DataFrame({"control": ["b", "a"], "measure": "mean"} | found).to_csv(place / "controls.csv", index=False)
    beside = results.beside_reference(frame, "controls", ["control", "measure"])
    assert beside.loc[3, ["reference", "reference_low", "reference_n"]].to_list() == [0.6, 0.4, 3]
    assert beside.loc[[1, 2], "reference"].isna().all()
    assert list(beside.index) == [3, 1, 2] and list(beside)[: len(frame.columns)] == list(frame)
    none = results.beside_reference(frame.iloc[:0], "controls", ["control", "measure"])
    assert none.empty and "reference" in none
