"""``nngpt-lab new NAME``: a notebook of one's own that runs, and its claims beside it."""

from __future__ import annotations

import re
from pathlib import Path

from nngpt_lab.ground.errors import UsageError

CLAIMS = """\
# What NAME claims, registered before the run that judges it; nngpt_lab/statistics/claims.py explains the keys.
[[claim]]
id = "NAME-centroids"
paper = "NAME"
claim = "Nearest centroids tell at least 85 % of the digits"
value = 85
unit = "%"
grade = "I"
source = "NAME.ipynb"
test = "at_least"
margin = 2
least = 3
units = "splits"
"""
CELLS = (
    ("md", "# NAME: a question in one line\n\nWhat is asked, of what, and what would answer it."),
    ("md", "`repeats`: how many splits; `own_claims`: the file with what is claimed, beside this notebook or by path."),
    (
        "parameters",
        'profile: str = "smoke"\nseed: int = 0\noutput: str = ""\nrepeats: int = 5\nown_claims: str = "NAME.toml"',
    ),
    (
        "code",
        "%matplotlib inline\nfrom pathlib import Path\n\nimport numpy as np\nimport pandas as pd\n\n"
        "from nngpt_lab.corpora import images\nfrom nngpt_lab.records.results import open_results\n"
        "from nngpt_lab.statistics import claims, intervals\nfrom nngpt_lab.statistics.style import new_figure\n\n"
        'results = open_results("NAME", profile, output)',
    ),
    ("md", "## The measurement\n\nPut your own in the place of this one; what takes long stands in a cell of its own."),
    (
        "code",
        "def right(split: int) -> float:\n"
        '    """Per cent of the holdout\'s digits whose nearest class mean is their own."""\n'
        '    data = images.load("digits", seed=split)\n'
        "    train = data.train_images.flatten(1).double().numpy()\n"
        "    held = data.holdout_images.flatten(1).double().numpy()\n"
        "    labels = data.train_labels.numpy()\n"
        "    centres = np.stack([train[labels == digit].mean(0) for digit in range(data.classes)])\n"
        "    nearest = ((held[:, None] - centres) ** 2).sum(2).argmin(1)\n"
        "    return 100 * float((nearest == data.holdout_labels.numpy()).mean())\n\n\n"
        "accuracy = np.array([right(seed + split) for split in range(repeats)])",
    ),
    (
        "code",
        'table = pd.DataFrame({"split": range(seed, seed + repeats), "accuracy": accuracy})\n'
        'results.table(table, "splits", "Digits told by the nearest centroid, per cent, split by split.", digits=1)',
    ),
    (
        "code",
        "figure, axes = new_figure()\naxes.plot(table[\"split\"], table[\"accuracy\"], \"o\")\n"
        'axes.set(xlabel="split", ylabel="right, per cent")\n'
        'results.figure(figure, "splits", "Digits told by the nearest centroid, a dot a split.")',
    ),
    ("md", "## Claims"),
    (
        "code",
        'measured = {"NAME-centroids": claims.Measured(intervals.t_interval(accuracy))}\n'
        'judged = claims.claims_table("NAME", measured, Path(own_claims))\n'
        'results.table(judged, "claims", "What was claimed, beside what was measured.")\nclaims.readable(judged)',
    ),
    ("md", "**What this cannot show.** Say here what no number above answers."),
)  # fmt: skip


def write_notebook(name: str, folder: Path) -> list[Path]:
    """Write ``name.ipynb`` and ``name.toml`` in a folder; return both. UsageError for a name that is no plain word, or
    where either is there already."""
    import nbformat

    if not re.fullmatch(r"[A-Za-z]\w*", name):
        raise UsageError(f"{name!r} cannot name a notebook", "use a letter, then letters, digits and underscores")
    files = [folder / f"{name}.ipynb", folder / f"{name}.toml"]
    if there := [file for file in files if file.exists()]:
        raise UsageError(f"{there[0]} is there already", "choose another name, or --folder")
    cells = []
    for place, (kind, text) in enumerate(CELLS):
        make = nbformat.v4.new_markdown_cell if kind == "md" else nbformat.v4.new_code_cell
        tags = {"tags": ["parameters"]} if kind == "parameters" else {}
        cells.append(make(text.replace("NAME", name), metadata=tags, id=f"cell-{place}"))
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, files[0])
        files[1].write_text(CLAIMS.replace("NAME", name), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write in {folder}: {error.strerror}", "choose another --folder") from error
    return files
