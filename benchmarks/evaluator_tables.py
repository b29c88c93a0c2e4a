"""The tables of evaluator.py, from one row per network, subset and repeat."""

from __future__ import annotations

import numpy as np
import pandas as pd

CHECKS = ("pylint", "trial run at 224 px")  # what the authors' evaluator does and ours does not
STAGES = (*CHECKS, "data loader", "build", "train", "predict", "other")


def throughput(rows: pd.DataFrame) -> pd.DataFrame:
    """Candidates per hour by group and subset."""
    out = []
    for (group, images), part in rows.groupby(["group", "images"]):
        shares = part.groupby("repeat")[["theirs_wall", "ours_wall", *(f"theirs: {stage}" for stage in CHECKS)]].sum()
        ratios = shares["theirs_wall"] / shares["ours_wall"]
        bare = (shares["theirs_wall"] - shares.iloc[:, 2:].sum(axis=1)) / shares["ours_wall"]
        hourly = 3600 / part[["theirs_wall", "ours_wall"]].mean()
        cpu = part[["theirs_cpu", "ours_cpu"]].mean()
        out.append(
            {
                "group": group, "networks": part["network"].nunique(), "training images": images,
                "theirs, per hour": f"{hourly['theirs_wall']:.0f}", "ours, per hour": f"{hourly['ours_wall']:.0f}",
                "ratio": f"{hourly['ours_wall'] / hourly['theirs_wall']:.1f}",
                "by repeat": ", ".join(f"{ratio:.1f}" for ratio in ratios),
                "without their checks": f"{bare.mean():.1f}",
                "CPU s each, theirs": f"{cpu['theirs_cpu']:.1f}", "ours": f"{cpu['ours_cpu']:.1f}",
                "CPU ratio": f"{cpu['theirs_cpu'] / cpu['ours_cpu']:.1f}",
            }
        )  # fmt: skip
    return pd.DataFrame(out)


def stages(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean seconds per candidate by stage."""
    out = []
    for (group, images), part in rows.groupby(["group", "images"]):
        for side in ("theirs", "ours"):
            names = [f"{side}: {stage}" for stage in (*STAGES, "total")]
            means = part.reindex(columns=names).mean()
            values = {n.split(": ")[1]: "" if np.isnan(v) else f"{v:.2f}" for n, v in means.items()}
            out.append({"group": group, "training images": images, "who": side} | values)
    return pd.DataFrame(out)


def per_network(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean times and accuracies of each network, for the first subset of its group."""
    out = []
    for (group, network), part in rows.groupby(["group", "network"], sort=False):
        part = part[part["images"] == part["images"].iloc[0]]
        row = part.mean(numeric_only=True)
        out.append(
            {
                "group": group[:3], "network": network[:24], "family": part["family"].iloc[0],
                "parameters": f"{row['parameters']:,.0f}",
                "theirs, s": f"{row['theirs: total']:.1f}", "ours, s (of one worker)": f"{row['ours: total']:.2f}",
                "theirs, accuracy": f"{row['theirs_accuracy']:.3f}", "ours, accuracy": f"{row['ours_accuracy']:.3f}",
            }
        )  # fmt: skip
    return pd.DataFrame(out)


def accuracies(rows: pd.DataFrame) -> pd.DataFrame:
    """Paired differences of accuracy, ours minus theirs, over networks and repeats."""
    out = []
    for (group, images), part in rows.groupby(["group", "images"]):
        difference = (part["ours_accuracy"] - part["theirs_accuracy"]).dropna()
        by_network = difference.groupby(part["network"]).mean()  # repeats of a network are not independent of it
        error = by_network.std() / np.sqrt(len(by_network))
        out.append(
            {
                "group": group, "training images": images, "pairs": len(difference),
                "theirs, mean": f"{part['theirs_accuracy'].mean():.4f}",
                "ours, mean": f"{part['ours_accuracy'].mean():.4f}", "mean difference": f"{difference.mean():+.4f}",
                "SD of a pair": f"{difference.std():.4f}", "standard error, networks": f"{error:.4f}",
            }
        )  # fmt: skip
    return pd.DataFrame(out)


def extrapolated(rows: pd.DataFrame, images: int = 50_000) -> pd.DataFrame:
    """Fixed and per-image seconds of the whole machine per candidate, from two subsets, and the ratio at full size."""
    out = []
    for group, part in rows.groupby("group"):
        if part["images"].nunique() < 2:
            continue
        row, whole = {"group": group}, {}
        for side in ("theirs", "ours"):
            slope, fixed = np.polyfit(part["images"], part[f"{side}_wall"], 1)
            whole[side] = fixed + slope * images
            row |= {f"{side}, fixed s": f"{fixed:.2f}", f"{side}, s per 1,000 images": f"{1000 * slope:.2f}"}
        out.append(row | {f"ratio at {images:,} images": f"{whole['theirs'] / whole['ours']:.1f}"})
    return pd.DataFrame(out)
