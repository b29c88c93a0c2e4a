"""The registered claims with the verdicts of a run, as a table to work with, and in the forms that papers take.

import nngpt_lab
table = nngpt_lab.claims()            # pandas: the newest results, or those of a folder
table[table.verdict == "reproduced"]
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from nngpt_lab import __version__
from nngpt_lab.ground import paths
from nngpt_lab.ground.errors import UsageError
from nngpt_lab.ground.formatting import show, show_estimate
from nngpt_lab.records import manifest, run_folders
from nngpt_lab.statistics.claims import COLUMNS, WAITING, load_claims

PAPERS = {  # by the letter that claims use: arXiv number, title, authors
    "A": ("2601.03808", "From Brute Force to Semantic Insight: Performance-Guided Data Transformation Design with LLMs",
          "Shrestha, Usha and Ignatov, Dmitry and Timofte, Radu"),
    "B": ("2601.02997", "From Memorization to Creativity: LLM as a Designer of Novel Neural Architectures",
          "Khalid, Waleed and Ignatov, Dmitry and Timofte, Radu"),
    "C": ("2605.03686", "From Code to Prediction: Fine-Tuning LLMs for NN Performance Classification in NNGPT",
          "Hanouneh, Mahmoud and Timofte, Radu and Ignatov, Dmitry"),
    "D": ("2605.04903", "Delta-Based Neural Architecture Search: LLM Fine-Tuning via Code Diffs",
          "Adhikari, Santosh Premi and Timofte, Radu and Ignatov, Dmitry"),
}  # fmt: skip
FOUND = ["verdict", "our_value", "ci_low", "ci_high", "n", "p_holm", "note", "run"]  # what a run adds


def claims(results: str | Path | None = None) -> pd.DataFrame:
    """Every registered claim, with what a results folder (``results/demo``) says of it: of each notebook its latest run
    counts. None: the newest of this machine's ``results/<profile>`` but ``smoke``, which judges nothing, or else the
    reference runs.

    A row per claim: claim_id, paper, claim, test, paper_value, unit, margin, least, units, grade, source; then
    :data:`FOUND`: ``verdict`` is "not yet run" where no run of the folder judged it, and ``run`` names which did.
    UsageError: the folder named holds no claims table.
    """
    folder = newest() if results is None else Path(results).expanduser()
    found = _judged(folder) if folder else {}
    if results is not None and not found:
        raise UsageError(f"no run below {folder} has a claims table", "name a results folder: results/demo, say")
    registered = [name for name in COLUMNS if name not in FOUND]
    rows = []
    for key, claim in load_claims().items():
        row = vars(claim) | {"claim_id": key, "paper_value": claim.value, "verdict": WAITING, "note": claim.note}
        rows.append({name: row.get(name) for name in (*registered, *FOUND)} | found.get(key, {}))
    table = pd.DataFrame(rows, columns=[*registered, *FOUND])
    numbers = ["our_value", "ci_low", "ci_high", "p_holm"]
    return table.assign(**{name: pd.to_numeric(table[name]) for name in numbers}, n=table["n"].astype("Int64"))


def newest() -> Path | None:
    """The results folder of a profile in which a claims table was written last; else the reference runs, if any. A run
    of ``smoke`` is too small to judge, and must not hide what judges: it comes last."""
    root = paths.results_root()
    own = [path for path in sorted(root.glob("*")) if path.is_dir() and path.name not in ("reference", "smoke")]
    own.sort(key=lambda folder: max(_latest(folder).values(), default=""), reverse=True)
    places = [*own, paths.reference_folder() / "demo", root / "smoke"]
    return next((folder for folder in places if _latest(folder)), None)


def _latest(folder: Path) -> dict[Path, str]:
    """The latest run of each notebook that has a claims table, and when it began."""
    runs = [run_folders.latest(notebook) or notebook for notebook in run_folders.notebooks(folder)]
    written = [run for run in runs if (run / "tables" / "claims.csv").is_file()]
    return {run: str((manifest.read(run) or {}).get("started", "")) or "unknown" for run in written}


def _judged(folder: Path) -> dict[str, dict]:
    judged = {}
    for run in _latest(folder):
        table = pd.read_csv(run / "tables" / "claims.csv").astype(object)
        table = table.where(table.notna(), None).assign(run=run.relative_to(folder).as_posix())
        for row in table.to_dict("records"):
            judged[str(row["claim_id"])] = {name: row[name] for name in FOUND if name in row}
    return judged


def latex(table: pd.DataFrame) -> str:
    """The claims as a LaTeX table (packages booktabs and longtable): paper, claim, claimed, ours, n, verdict."""
    rows = []
    for row in table.to_dict("records"):
        ours, low, high = ("" if pd.isna(row[name]) else str(row[name]) for name in ("our_value", "ci_low", "ci_high"))
        value, interval = show_estimate(ours, low, high, row["unit"])
        ours = f"{value} [{interval}]" if interval else value
        n = "" if pd.isna(row["n"]) else show(str(row["n"]))
        claimed = show(str(row["paper_value"]), row["unit"])
        rows.append((f"{row['paper']}~\\cite{{nngpt-{row['paper']}}}", *map(_escaped, (row["claim"], claimed, ours, n)),
                     _escaped(row["verdict"])))  # fmt: skip
    names = ["Paper", "Claim", "Claimed", "Ours", "$n$", "Verdict"]
    look = {"index": False, "escape": False, "longtable": True, "column_format": "lp{6cm}rrrl"}
    return pd.DataFrame(rows, columns=names).to_latex(**look)


SPECIAL = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\u202f": r"\,",
    "≥": r"$\ge$", "≤": r"$\le$",
}  # fmt: skip


def _escaped(text: str) -> str:
    return "".join(SPECIAL.get(character, character) for character in text)


def bibtex(commit: str | None = None) -> str:
    """The papers, and this lab at ``commit`` (None: this checkout's)."""
    commit = commit or manifest.provenance({})["commit"]
    entries = []
    for key, (number, title, authors) in PAPERS.items():
        fields = {"title": title, "author": authors, "year": "2026", "eprint": number, "archivePrefix": "arXiv"}
        lines = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items())
        entries.append(f"@misc{{nngpt-{key},\n{lines}\n}}\n")
    note = f",\n  note = {{commit {commit[:10]}}}" if commit else ""
    lab = "@software{nngpt-lab,\n  title = {nngpt-lab: a reproducibility lab for the NNGPT papers},\n"
    return "\n".join([*entries, f"{lab}  version = {{{__version__}}},\n  year = {{2026}}{note}\n}}\n"])
