"""What LEMUR holds (families, sizes, copies), and the four cycles of paper B that could be recovered."""

from __future__ import annotations

import re
from itertools import product

import pandas as pd
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportions_ztest

from nngpt_lab.statistics import intervals

CYCLES = pd.DataFrame(
    [
        (1, 66, 150, 28.06, 47.78, 1, 49, 1),
        (10, 112, 208, 37.70, 55.48, 35, 92, 18),
        (18, 123, 208, 50.99, 63.98, 91, 94, 38),
        (22, 87, 208, 49.48, 57.62, 65, 70, 30),
    ],
    columns=["cycle", "valid", "generated", "mean", "best", "over_40", "trained", "novel"],
)
"""Paper B, cycles 1, 10, 18 and 22. mean, best (per cent) and novel are published; the counts are the ones that give
its published percentages (grade I): valid of generated, and over_40 of trained at or above 40 % after one epoch."""

LEVELS = {"code_hash": "same text", "ast_hash": "same program", "nameless_hash": "same up to names"}


def wilson_cycles() -> pd.DataFrame:
    """:data:`CYCLES` with rates in per cent and Wilson intervals: valid(_low, _high), over_40(_low, _high)."""
    rows = []
    for cycle in CYCLES.to_dict("records"):
        valid = intervals.wilson(cycle["valid"], cycle["generated"]).scaled(100)
        over = intervals.wilson(cycle["over_40"], cycle["trained"]).scaled(100)
        row = {key: cycle[key] for key in ("cycle", "generated", "trained", "mean", "best", "novel")}
        rows.append(row | valid.columns("valid") | over.columns("over_40"))
    return pd.DataFrame(rows)


def between_cycles() -> pd.DataFrame:
    """Rates of later recovered cycles minus those of earlier ones, from the paper's own counts.

    Columns: measure, earlier, later (cycles), difference(_low, _high) in points (Newcombe), z (two-proportion z test),
    p_holm (over all rows). Samples are taken as independent, as far as is known: one run, one seed.
    """
    rows, cycles = [], CYCLES.set_index("cycle")
    for (measure, hits, of), (earlier, later) in product(
        (("valid", "valid", "generated"), ("at least 40 %", "over_40", "trained")), ((1, 18), (18, 22), (1, 22))
    ):
        counts = [int(cycles.loc[cycle, name]) for cycle in (later, earlier) for name in (hits, of)]
        difference = intervals.difference_of_proportions(*counts).scaled(100)
        z, p = proportions_ztest(counts[::2], counts[1::2])
        row = {"measure": measure, "earlier": earlier, "later": later} | difference.columns("difference")
        rows.append(row | {"z": z, "p_holm": p})
    table = pd.DataFrame(rows)
    return table.assign(p_holm=multipletests(table["p_holm"], method="holm")[1])


def sizes_by_family(architectures: pd.DataFrame, records: pd.DataFrame) -> pd.DataFrame:
    """Per family: how many sources, how many with records, and the medians of their sizes.

    Columns: family, architectures, with_records, records, median_lines, median_characters, median_layer_calls (calls of
    ``nn.<Layer>`` in the text; parameter counts would mean running third-party code).
    """
    per_name = records["architecture"].astype(str).value_counts()
    recorded = architectures.assign(records=architectures["name"].map(per_name).fillna(0).astype(int))
    table = recorded.groupby("family").agg(
        architectures=("name", "size"),
        with_records=("records", lambda counts: int((counts > 0).sum())),
        records=("records", "sum"),
        median_lines=("lines", "median"),
        median_characters=("characters", "median"),
        median_layer_calls=("layer_calls", "median"),
    )
    return table.sort_values("architectures", ascending=False).reset_index()


def duplicate_structure(architectures: pd.DataFrame) -> pd.DataFrame:
    """How many sources repeat another of their family, at three levels of likeness.

    Columns: family, level (:data:`LEVELS`), sources, distinct, redundant (per cent of sources beyond the first of each
    kind), largest (size of the largest set of copies); the last rows count over all families.
    """
    rows = []
    for family, group in [*architectures.groupby("family"), ("all", architectures)]:
        for column, level in LEVELS.items():
            hashes = group[column].fillna(group["code_hash"])  # a source that does not parse is like nothing but itself
            counts = hashes.value_counts()
            rows.append((family, level, len(group), len(counts), 100 * (1 - len(counts) / len(group)), counts.max()))
    return pd.DataFrame(rows, columns=["family", "level", "sources", "distinct", "redundant", "largest"])


def fractal_configurations(architectures: pd.DataFrame) -> pd.DataFrame:
    """Blocks (``N``) and columns (``num_columns``) of each generated FractalNet, read from its text.

    The generator varies these two over a small grid, and within each cell the layers of the basic block: some 35
    variants that differ in two or three lines. Columns: name, blocks, columns.
    """
    fractal = architectures[architectures["family"] == "FractalNet"]
    pattern = r"^\s*N\s*=\s*(?P<blocks>\d+)\s*$[\s\S]*?^\s*num_columns\s*=\s*(?P<columns>\d+)\s*$"
    counts = fractal["code"].str.extract(pattern, re.M)
    return fractal[["name"]].join(counts).dropna().astype({"blocks": int, "columns": int})


def near_copies(architectures: pd.DataFrame) -> pd.Series:
    """A cluster label per architecture name: architectures known to be near copies of one another share it.

    Generated FractalNets share their configuration; others are together when they are the same program up to names.
    This is the least that must be kept together, not all there is.
    """
    label = architectures["nameless_hash"].fillna(architectures["code_hash"]).set_axis(architectures["name"])
    configurations = fractal_configurations(architectures).set_index("name")
    named = [f"FractalNet {row.blocks} x {row.columns}" for row in configurations.itertuples()]
    label.loc[configurations.index] = named
    return label
