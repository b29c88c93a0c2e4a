"""A fixture for modules that run small models: with one thread, as in the loops and in a candidate's own process."""

from __future__ import annotations

import pytest

from nngpt_lab.llm import models


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    with models.one_thread():
        yield
