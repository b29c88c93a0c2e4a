"""What all tests share.

pyproject.toml makes FutureWarning and DeprecationWarning errors. transformers warns through its own logger as well,
which is watched here.
"""

from __future__ import annotations

import logging

import pytest
from hypothesis import HealthCheck, settings

from nngpt_lab.corpora import architectures, augmentations
from nngpt_lab.ground.errors import DataError

# Nothing depends on how long an example takes: on a busy machine any of them can be slow
settings.register_profile("no clock", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no clock")


class Records(logging.Handler):
    """Keeps the text of what is logged as a warning or worse."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


FROM_TRANSFORMERS = Records()
logging.getLogger("transformers").addHandler(FROM_TRANSFORMERS)


@pytest.fixture(autouse=True)
def transformers_has_nothing_to_warn_of(request):
    """Fails a test in which transformers logs a warning, unless it is marked ``transformers_warns``."""
    yield
    texts = FROM_TRANSFORMERS.texts.copy()
    FROM_TRANSFORMERS.texts.clear()
    assert not texts or request.node.get_closest_marker("transformers_warns"), texts


def load_or_skip(load):
    try:
        return load()
    except DataError as error:
        pytest.skip(f"the published data cannot be had: {error.cause}")


@pytest.fixture(scope="session")
def lemur() -> architectures.Lemur:
    """The published networks and their records."""
    return load_or_skip(architectures.load)


@pytest.fixture(scope="session")
def augmentation_corpus() -> augmentations.Augmentations:
    """The published augmentation functions."""
    return load_or_skip(augmentations.load)


@pytest.fixture
def no_kernel(monkeypatch):
    """Fails the test if anything is executed."""

    def refuse(*args, **kwargs):
        raise AssertionError("a kernel was about to start")

    monkeypatch.setattr("papermill.execute_notebook", refuse)
