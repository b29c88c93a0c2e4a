"""What the sandbox adds to a task: the same function called in process and in a warm sandbox, in turn.

    python benchmarks/sandbox.py

Two functions: one that does nothing, and the evaluator's own ``train_and_predict`` for a small network on a few digits.
An overhead is the difference of two neighbouring calls, so slow drifts of the machine cancel.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from nngpt_lab.candidates import proxy, small_network, training
from nngpt_lab.candidates.protocols import get_protocol
from nngpt_lab.ground.errors import LabError
from nngpt_lab.sandbox.parent import Sandbox
from nngpt_lab.sandbox.status import Status

GOAL_MS = 50
IMAGES = 256  # trained on


def nothing(payload: Any, arrays: Mapping[str, np.ndarray]) -> tuple[None, dict]:
    """The least that a task can do."""
    return None, {}


def small_task() -> tuple[dict[str, Any], dict[str, np.ndarray], dict]:
    """Payload, shared arrays and expected answer of ``train_and_predict``, as the evaluator sends them."""
    ready = proxy.prepare(replace(get_protocol("digits"), train_limit=IMAGES))
    code = Path(small_network.__file__).read_text(encoding="utf-8")
    payload = {"code": code, "network": "", "norm": ready.norm, "classes": ready.classes, "seed": 0, "device": "cpu"}
    payload["protocol"] = ready.protocol.as_dict()
    return payload, ready.arrays(), {"logits": ("float32", (len(ready.labels), ready.classes))}


def milliseconds(call: Callable[[], Any]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - start)


def compare(name: str, direct: Callable[[], Any], inside: Callable[[], Any], count: int) -> dict[str, Any]:
    """``count`` pairs of calls after a few to warm up."""
    for _ in range(5):
        direct(), inside()
    pairs = np.array([(milliseconds(direct), milliseconds(inside)) for _ in range(count)])
    extra = pairs[:, 1] - pairs[:, 0]
    median, late = np.median(extra), np.percentile(extra, 95)
    return {
        "task": name, "n": count, "in process, ms": f"{np.median(pairs[:, 0]):.1f}",
        "sandbox, ms": f"{np.median(pairs[:, 1]):.1f}", "overhead, median ms": f"{median:.1f}",
        "overhead, 95th percentile ms": f"{late:.1f}", f"under {GOAL_MS} ms": "yes" if median < GOAL_MS else "no",
    }  # fmt: skip


@click.command()
@click.option("--count", default=200, show_default=True, help="pairs of calls per task")
@click.option("--note", default="", help="a sentence for the result, on what else the machine did")
def main(count: int, note: str) -> None:
    """Overhead per task on a warm sandbox."""
    import pandas as pd  # here, as the zygote imports this file, and pandas would start a thread in it
    import torch
    from common import write_result

    torch.set_num_threads(1)  # as in the sandbox
    payload, arrays, expect = small_task()
    with Sandbox(setup=[proxy.TASK, "sandbox"], shared=arrays) as box:

        def inside(task: str, *arguments: Any, **options: Any) -> None:
            report = box.run(task, *arguments, **options)
            if report.status != Status.OK:
                raise LabError(f"{task} failed: {report.message}", "see above")

        rows = [
            compare("nothing", lambda: nothing({}, arrays), lambda: inside("sandbox:nothing", {}), count),
            compare(
                f"train_and_predict, {IMAGES} digits",
                lambda: training.train_and_predict(payload, arrays),
                lambda: inside("train_and_predict", payload, expect=expect),
                count,
            ),
        ]
        zygotes, layers = box.zygotes, box.isolation
    notes = [
        f"One task at a time, one thread, one zygote for all ({zygotes} started). Each task is a fresh process; the "
        "overhead holds sending it, two forks with their namespaces, confinement, the answer, and the first touch of "
        "each page that the process shares with its zygote.",
        "Medians of times and of paired differences. Isolation: " + ", ".join(layers) + ".",
        *filter(None, [note]),
    ]
    write_result("Sandbox: overhead per task", {"By task": pd.DataFrame(rows)}, notes, packages=("torch", "numpy"))


if __name__ == "__main__":
    main()
