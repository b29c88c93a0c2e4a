"""A fixture for modules that run small models: with one thread, as in the loops and in a candidate's own process."""

from __future__ import annotations

import pytest

from nngpt_lab.papers.architecture_loop import lab


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    with lab.one_thread():
        yield
