"""Every attack on a child that got warm before its task came, as on any other."""

from __future__ import annotations

import os

import numpy as np
import pytest

from nngpt_lab.sandbox import confine
from nngpt_lab.sandbox.parent import Sandbox
from nngpt_lab.sandbox.status import Status
from tests.helpers.waiting import wait_for
from tests.sandbox.test_answers import *  # noqa: F403
from tests.sandbox.test_parent import *  # noqa: F403
from tests.sandbox.test_parent import LIMITS, PREDICTIONS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def box():
    canary = os.open("/etc/hostname", os.O_RDONLY)
    os.set_inheritable(canary, True)
    os.environ["CANARY"] = "canary-in-the-environment"
    tasks = ("tests.helpers.warm_tasks", "tests.sandbox.test_parent", "torch")
    with Sandbox(
        LIMITS, tasks, shared={"images": np.ones((8, 4), np.float32)}, warm=("warm", {"factor": 1})
    ) as sandbox:
        sandbox.canary = canary
        yield sandbox
    os.close(canary)
    del os.environ["CANARY"]


@pytest.fixture(autouse=True)
def unharmed(box):
    """As there, but that a spare waits: its supervisor and its task, beside the zygote."""
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    yield
    report = box.run("benign", {}, expect=PREDICTIONS)
    assert (report.status, report.value) == (Status.OK, {"clean": True, "left_over": []}), report
    wait_for(lambda: len(confine.descendants(box._process.pid)) == 3 * ("pid namespace" in box.isolation))
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
