"""For tests and notebooks alike: one thread a worker, and no executed notebook holds a warning."""

from __future__ import annotations

import gc
import os
import signal
import sys

import nbval.kernel
import nbval.plugin
import pytest

from tests.helpers import forks
from tests.helpers.executed import warnings_in

if "PYTEST_XDIST_WORKER" in os.environ:  # a thread each: here and in all children
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
    os.environ.setdefault("LOKY_MAX_CPU_COUNT", "1")  # what ``workers`` left out means: a second process imports it all

if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):  # images set it: hundreds of processes would compile
    sys.dont_write_bytecode = False

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background job; children would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config):
    """nbval's kernels are forked, and started as the lab's: once more if they end before their first answer."""
    from nngpt_lab.runner import twice_if_it_never_began  # not before the number of threads is set

    if sys.platform == "linux" and not hasattr(config, "workerinput"):  # of workers, their controller has the server
        serving = forks.server()
        serving.__enter__()
        config.add_cleanup(lambda: serving.__exit__(None, None, None))

    start = nbval.kernel.start_new_kernel

    def started(*args, **options):
        with forks.kernels():
            return twice_if_it_never_began(lambda: start(*args, **options))

    nbval.kernel.start_new_kernel = started


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Five thousand tests and all that they import are collected without garbage collection, a quarter of the time, and
    are left out of it afterwards."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def pytest_ignore_collect(collection_path, config):
    """Notebook 02 runs through the command line, in tests/test_notebooks.py, and here only if it is asked for."""
    is_02 = collection_path.name == "02_brute_force_to_semantic_insight.ipynb"
    return True if is_02 and not any(collection_path.name in argument for argument in config.args) else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Fails a notebook's cell whose outputs, which nbval keeps in ``test_outputs``, hold a warning."""
    result = yield
    if warnings := list(warnings_in(getattr(item, "test_outputs", None) or ())):
        item.raise_cell_error("The cell's outputs hold a warning", "\n".join(warnings))
    return result
