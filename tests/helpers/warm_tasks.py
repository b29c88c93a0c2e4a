"""What a zygote imports for the tests of warm children: a trusted function that warms them, and what they then do."""

from __future__ import annotations

import os
import threading

import numpy as np

from tests.sandbox.test_parent import benign, execute  # noqa: F401  tasks by name


def warm(payload, shared):
    """The trusted function: a number of its own, and what it was called with."""
    print("nobody reads this")
    os.environ["WARMED"] = str(int(os.environ.get("WARMED", 0)) + 1)
    if payload.get("fails"):
        raise RuntimeError("the driver does not start")
    if payload.get("cpu"):
        while sum(os.times()[:2]) < payload["cpu"]:
            pass
    event, count = threading.Event(), payload.get("threads", 0)
    for _ in range(count):
        threading.Thread(target=event.wait, daemon=True).start()
    held = np.ones(payload.get("mib", 0) << 17)
    return None, {"ready": np.array(shared["images"]) * payload["factor"], "held": held}
