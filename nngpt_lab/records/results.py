"""What a notebook leaves behind: tables as CSV and Markdown, figures as SVG and PNG, each with its caption.

Layout of one run's folder, ``results/<profile>/<notebook>/<run>/`` (``run_folders.py`` names it)::

    executed.ipynb  manifest.json                     (written by runner.py)
    executed.html, and index.html two folders up      (written by report.py)
    tables/<name>.csv  tables/<name>.md               full precision; rounded for reading
    figures/<name>.svg  figures/<name>.png
    contents.json                                     names, captions, digits in the order made; cells not run
    ledger.sqlite                                     every candidate evaluated, if any were (ledger.py)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from nngpt_lab.ground import paths
from nngpt_lab.ground.isolation import choose
from nngpt_lab.records import manifest, run_folders
from nngpt_lab.records.not_run import go_on
from nngpt_lab.records.profiles import Profile, get_profile

PNG_DPI = 150
REFERENCE = ("reference", "reference_low", "reference_high", "reference_n")
SVG_SALT = "nngpt-lab"  # fixed, so that the same figure gives the same file


class Results:
    """Writes one notebook's tables and figures, and remembers their captions for the report. Opening it sets a finished
    run's results aside: a manifest vouches for the tables beside it, and those are about to be replaced."""

    def __init__(self, folder: str | Path, profile: str, device: str | None = None):
        self.profile: Profile = get_profile(profile).on(device)
        self.folder = Path(folder)
        self._contents: dict[str, dict[str, dict[str, Any]]] = {"tables": {}, "figures": {}}
        run_folders.set_aside(self.folder)
        for part in self._contents:
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        (self.folder / manifest.FILENAME).unlink(missing_ok=True)
        go_on(lambda cell, why: self._note("not_run", str(cell), why))

    def table(self, frame: pd.DataFrame, name: str, caption: str, digits: int = 3) -> pd.DataFrame:
        """Write ``frame`` as CSV (full precision) and Markdown (``digits``); return it rounded, to show in a cell."""
        frame.to_csv(self.folder / "tables" / f"{name}.csv", index=False)
        rounded = frame.round(digits)
        blank = rounded.astype(object).where(rounded.notna(), None)  # or a missing whole number would print as <NA>
        text = blank.to_markdown(index=False, floatfmt=f".{digits}f", missingval="")
        (self.folder / "tables" / f"{name}.md").write_text(f"{caption}\n\n{text}\n", encoding="utf-8")
        self._note("tables", name, {"caption": caption, "digits": digits})
        return rounded

    def beside_reference(self, frame: pd.DataFrame, name: str, keys: list[str]) -> pd.DataFrame:
        """``frame``, rows ``keys`` with a difference, and beside those without an interval what the committed reference
        run of this notebook found in its table ``name``: columns reference(_low, _high, _n); blank where there is none.
        """
        found = dict(zip(("difference", "difference_low", "difference_high", "n"), REFERENCE, strict=True))
        file = paths.reference_folder() / "demo" / self.folder.parent.name / "tables" / f"{name}.csv"
        known = pd.read_csv(file) if file.exists() else pd.DataFrame(columns=[*keys, *found])
        known = known[[*keys, *found]].rename(columns=found)
        beside = frame[keys].astype(object).merge(known, on=keys, how="left")[[*REFERENCE]].set_index(frame.index)
        return frame.join(beside.where(frame["difference_low"].isna()).astype(float))

    def figure(self, figure, name: str, caption: str):
        """Save a matplotlib figure as SVG and PNG (reproducible bytes); return it, to show in a cell."""
        import matplotlib

        with matplotlib.rc_context({"svg.hashsalt": SVG_SALT, "svg.fonttype": "path"}):
            figure.savefig(self.folder / "figures" / f"{name}.svg", metadata={"Date": None}, bbox_inches="tight")
        figure.set_layout_engine("none")  # it is laid out; again for the PNG and the cell would take a quarter more
        figure.savefig(
            self.folder / "figures" / f"{name}.png", dpi=PNG_DPI, metadata={"Software": None}, bbox_inches="tight"
        )
        self._note("figures", name, {"caption": caption})
        return figure

    @property
    def ledger_file(self) -> Path:
        """Where the run's ledger lies, which a repeated run continues: what it holds is not computed again."""
        return self.folder / manifest.LEDGER

    @property
    def not_run(self) -> bool:
        """Whether a cell of this notebook was not run, for want of isolation."""
        return "not_run" in self._contents

    def _note(self, part: str, name: str, said: dict[str, Any]) -> None:
        self._contents.setdefault(part, {})[name] = said
        (self.folder / "contents.json").write_text(json.dumps(self._contents, indent=1) + "\n", encoding="utf-8")


def open_results(
    notebook: str, profile: str, output: str = "", device: str | None = None, isolation: str = "minimum"
) -> Results:
    """Results of ``notebook`` in ``output``, if the runner named one, else in ``results/<profile>/<notebook>/by-hand``;
    with ``device``, computed there instead of on the profile's own. ``isolation``: what candidates may be run with in
    this process (``ground.isolation.CHOICES``)."""
    choose(isolation)
    by_hand = paths.results_folder(profile) / notebook / run_folders.BY_HAND
    folder = Path(output).expanduser().resolve() if output else by_hand
    return Results(folder, profile, device)
