"""What an edit that changes nothing would score: parents' levels, and the published columns beside them."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from nngpt_lab.corpora.architectures import Lemur
from nngpt_lab.papers.delta_search.targets import best_at
from nngpt_lab.statistics.intervals import bootstrap, wilson

ADMITTED = 0.40
"""One-epoch accuracy from which paper D admits a network."""
DATASETS = ("cifar-10", "cifar-100", "mnist", "svhn", "imagenette", "celeba-gender")
PRETRAINED = re.compile(
    r"pretrained\s*=\s*True|(?<![\w.])weights\s*=\s*(?!None\b)['\"\w]|load_state_dict\s*\(|from_pretrained\s*\(|torch\.hub"
)
"""What a source says where it loads weights that were trained before."""
WORDS = ("pretrained", "weights", "load_state_dict", "torch.hub")  # a plain search is a hundred times quicker
PUBLISHED = pd.DataFrame(
    [
        ("DeepSeek-Coder-7B", 75.3, 65.8, 30.4),
        ("Qwen2.5-Coder-7B", 72.1, 64.6, 31.4),
        ("Mistral-7B", 66.6, 66.1, 49.5),
        ("whole networks (paper B)", 50.6, 42.3, np.nan),
    ],
    columns=["arm", "valid", "mean_accuracy", "lines"],
)
"""2605.04903, Table 3 (grade P). The last row is of CIFAR-10 alone, the others of six data sets."""
IN_TWO_PAPERS = pd.DataFrame(
    [
        ("what LoRA is tuned on in each cycle", "always the static LEMUR corpus (pp. 3-4, 8)",
         "LEMUR and all that was accepted (pp. 2-3)", "P", "no"),
        ("admitted, DeepSeek", "88 of 627 (p. 8)", "83 (pull request nn-dataset#204)", "P, C", "no"),
        ("admitted, Qwen", "51 of 590 (p. 8)", "51 (pull request)", "P, C", "yes"),
        ("admitted, Mistral", "68 of 556 (p. 8)", "68 (pull request)", "P, C", "yes"),
        ("trained networks", "2,354 of 3,300", "mean apply rate .7133, so 2,353.9", "P", "yes"),
        ("trained networks by model", "75.3, 72.1, 66.6 % of 1,100", "828 + 793 + 733 = 2,354 fit exactly", "I", "yes"),
        ("quality over the cycles", "monotone in expectation (companion's abstract)",
         "mean accuracy falls in 9, 12 and 12 of 21 transitions (its own rows)", "P", "no"),
        ("Spearman, epochs 1 and 50, Mistral", ".926 (Table 16)",
         "within MNIST (n 9) about .75, within CelebA (n 6) about .83", "P", "no"),
        ("gain of validity over whole networks", "ratio 1.41 observed", "ratio 2.23 predicted (pp. 4-8)", "P", "no"),
    ],
    columns=["what", "paper_d", "companion_or_pull_request", "grade", "agree"],
)  # fmt: skip
"""Where paper D (2605.04903), its companion (2605.30103) and the published list of networks speak of the same thing.
Counts of published files and texts: facts, not claims; the companion's own rows are known through notes on it."""


def loads_weights(code: str) -> bool:
    """Whether a source says that it loads weights that were trained before."""
    return any(word in code for word in WORDS) and bool(PRETRAINED.search(code))


def levels(lemur: Lemur, rng: np.random.Generator, resamples: int) -> pd.DataFrame:
    """One-epoch accuracy of LEMUR's networks by data set, per cent; a network counts with its best record. Columns
    dataset, networks, median, mean (with interval over networks), best, admitted (networks at or above 40 %),
    admitted_share (with Wilson's interval), pretrained: sources that load trained weights."""
    best, rows = best_at(lemur, 1), []
    for dataset in DATASETS:
        part = best[best["dataset"] == dataset]
        accuracy = 100 * part["accuracy"].to_numpy()
        over = int((accuracy >= 100 * ADMITTED).sum())
        row = {"dataset": dataset, "networks": len(part), "median": np.median(accuracy)}
        row |= bootstrap(accuracy, np.mean, rng, resamples).columns("mean") | {"best": accuracy.max(), "admitted": over}
        row |= wilson(over, len(part)).scaled(100).columns("admitted_share")
        rows.append(row | {"pretrained": sum(map(loads_weights, part["code"]))})
    return pd.DataFrame(rows)


def beside_identity(levels: pd.DataFrame) -> pd.DataFrame:
    """Paper D's two columns with the identity arm's: an edit that changes nothing is valid, and as good as its parent.
    Two rows of ours: parents of CIFAR-10 alone, and the six data sets with equal weight (the paper's mix is
    unknown)."""
    means = levels.set_index("dataset")["mean"]
    ours = [("identity, CIFAR-10 parents", 100.0, means["cifar-10"], 0.0),
            ("identity, six data sets, equal weight", 100.0, means.mean(), 0.0)]  # fmt: skip
    return pd.concat([PUBLISHED, pd.DataFrame(ours, columns=PUBLISHED.columns)], ignore_index=True)
