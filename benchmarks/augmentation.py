"""Paper A's augmentation functions: image by image through PIL, and in batches, in one process and one thread.

The functions are rebuilt from their parsed parameters; the authors' code is not run. Both paths get the same CIFAR-10
images (digits, as 32 x 32 colour images, where there is no CIFAR-10) in the protocol's batches of 64.

    python benchmarks/augmentation.py                    # every operation alone, then 60 published functions
    python benchmarks/augmentation.py --functions 300
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from functools import partial

import click
import numpy as np
import pandas as pd
import torch
from common import in_turns, write_result
from torchvision import transforms

from nngpt_lab.candidates.batched_operations import resize
from nngpt_lab.candidates.batched_transforms import batch_pipeline, pil_pipeline
from nngpt_lab.corpora import augmentations, images
from nngpt_lab.ground.errors import DataError

TITLE = "Augmentation: PIL image by image against batches"
BATCH = 64
NOTES = (
    "CPU time per image of the whole pipeline with its fixed end (Resize to 64 px, ToTensor, Normalize), shortest of "
    "several repetitions; the two paths in turn, nothing loaded meanwhile. What an operation itself costs is its row "
    "less the row 'none'.",
    "Both paths do the same to an image, given the same draws: `tests/candidates/test_batched_operations.py`. The "
    "published functions are drawn at random among the 6,043, less the 18 that fail (a crop larger than its image).",
)


def pictures(count: int) -> tuple[torch.Tensor, str]:
    """uint8 (count, 3, 32, 32), and what they are."""
    try:
        data = images.load("cifar-10", holdout_fraction=0)
    except DataError:
        data = images.load("digits", holdout_fraction=0)
    chosen = data.train_images[:count]
    return resize(chosen.expand(-1, 3, -1, -1), 32, 32).contiguous(), data.name


def compose(operations: Iterable[Callable], norm: tuple) -> transforms.Compose:
    """Operations and the authors' fixed end."""
    return transforms.Compose(
        [*operations, transforms.Resize((64, 64)), transforms.ToTensor(), transforms.Normalize(*norm)]
    )


def made(row: pd.Series) -> list[Callable]:
    """A published function's operations."""
    given = json.loads(row["parameters"])
    return [getattr(transforms, name)(**kwargs) for name, kwargs in zip(row["operations"], given, strict=True)]


def seconds(transform: transforms.Compose, batches: tuple[torch.Tensor, ...], repetitions: int) -> list[float]:
    """CPU seconds for all batches: through PIL, batched."""
    batched, generator = batch_pipeline(transform), torch.Generator().manual_seed(0)
    if batched is None:
        raise RuntimeError(f"{transform} is not batched, and so there is nothing to compare")
    torch.manual_seed(0)
    paths = {"PIL": partial(pil_pipeline, transform), "batched": lambda part: batched(part, generator)}

    def all_batches(path: Callable) -> float:
        start = time.process_time()
        for part in batches:
            path(part)
        return time.process_time() - start

    runs = in_turns({name: partial(all_batches, path) for name, path in paths.items()}, repetitions)
    return [min(times) for times in runs.values()]


def by_operation(
    functions: pd.DataFrame, batches: tuple[torch.Tensor, ...], norm: tuple, repetitions: int
) -> pd.DataFrame:
    """One row per operation, with the parameters of the first published function that has it; first, none of them."""
    first_uses: dict[str, list[Callable]] = {"none": []}
    for _, row in functions.iterrows():
        for operation in made(row):
            first_uses.setdefault(type(operation).__name__, [operation])
    names = ["none", *sorted(first_uses.keys() - {"none"})]
    rows, microseconds = [], 1e6 / sum(map(len, batches))  # of an image
    for name in names:
        pil, batched = seconds(compose(first_uses[name], norm), batches, repetitions)
        times = f"{pil * microseconds:.0f}", f"{batched * microseconds:.0f}", f"{pil / batched:.1f}"
        rows.append((name, *times))
    return pd.DataFrame(rows, columns=["operation", "PIL, µs", "batched, µs", "times faster"])


def published(
    functions: pd.DataFrame, count: int, batches: tuple[torch.Tensor, ...], norm: tuple, repetitions: int
) -> dict:
    """One row for ``count`` random functions together."""
    rng = np.random.default_rng(0)
    usable = functions[functions["status"] != "shape"]
    rows = usable.iloc[np.sort(rng.choice(len(usable), count, replace=False))]
    taken = np.array([seconds(compose(made(row), norm), batches, repetitions) for _, row in rows.iterrows()])
    total = count * sum(map(len, batches))
    ratios = taken[:, 0] / taken[:, 1]
    low, middle, high = np.quantile(ratios, (0.05, 0.5, 0.95))
    return {"functions": count, "PIL, images/s": f"{total / taken[:, 0].sum():,.0f}",
            "batched, images/s": f"{total / taken[:, 1].sum():,.0f}",
            "times faster": f"{taken[:, 0].sum() / taken[:, 1].sum():.1f}",
            "by function: median (5 %, 95 %)": f"{middle:.1f} ({low:.1f}, {high:.1f})"}  # fmt: skip


@click.command()
@click.option("--functions", "count", default=60, show_default=True, help="Published functions to run.")
@click.option("--images", "n", default=512, show_default=True, help="Images for each.")
@click.option("--repetitions", default=3, show_default=True)
def main(count: int, n: int, repetitions: int) -> None:
    """CPU time per image on both paths."""
    torch.set_num_threads(1)
    tensors, name = pictures(n)
    batches, norm = tensors.split(BATCH), ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
    functions = augmentations.load().functions
    tables = {
        "Published functions": pd.DataFrame([published(functions, count, batches, norm, repetitions)]),
        "By operation": by_operation(functions, batches, norm, repetitions),
    }
    source = f"{n} images of {name}, 32 px, batches of {BATCH}; seeds fixed; 1 thread."
    write_result(TITLE, tables, (source, *NOTES), packages=("torch", "torchvision", "pillow"))


if __name__ == "__main__":
    main()
