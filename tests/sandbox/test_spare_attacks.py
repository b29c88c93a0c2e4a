"""Every attack on a child that got warm before its task came, as on any other."""

from __future__ import annotations

import pytest

from nngpt_lab.sandbox import confine
from tests.helpers.waiting import wait_for
from tests.sandbox.test_answers import *  # noqa: F403
from tests.sandbox.test_parent import *  # noqa: F403
from tests.sandbox.test_parent import canary_box, clean_afterwards

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def box():
    tasks = ("tests.helpers.warm_tasks", "tests.sandbox.test_parent", "torch")
    with canary_box(*tasks, warm=("warm", {"factor": 1})) as sandbox:
        yield sandbox


@pytest.fixture(autouse=True)
def unharmed(box):
    """As there, but that a spare waits: its supervisor and its task, beside the zygote."""
    with clean_afterwards(box):
        yield
    wait_for(lambda: len(confine.descendants(box._process.pid)) == 3 * ("pid namespace" in box.isolation))
