"""Who sees how far long work is."""

import os
import re
import sys
from pathlib import Path

import pytest
from tqdm import tqdm

from nngpt_lab.ground import paths, progress


@pytest.fixture
def kernel(monkeypatch):
    """This process as a kernel that papermill or nbval started; its environment."""
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    for name in (progress.VARIABLE, progress.SERVED):
        monkeypatch.delenv(name, raising=False)
    return os.environ


def test_a_bar_is_shown_in_a_notebook_that_is_open(kernel, monkeypatch):
    assert progress.bar_hidden() is None
    jupyter = pytest.importorskip("jupyter_server.services.sessions.sessionmanager")  # JupyterLab brings it
    server = jupyter.SessionManager.__new__(jupyter.SessionManager)
    for name, value in server.get_kernel_env("a notebook.ipynb").items():  # what it gives its kernels
        monkeypatch.setenv(name, value)
    assert progress.bar_hidden() is False and progress.bar_hidden(False) is True
    monkeypatch.setenv(progress.VARIABLE, "how-far.json")  # the lab runs a notebook, from a notebook
    assert progress.bar_hidden() is None


def test_no_bar_in_what_such_a_notebook_starts(kernel, monkeypatch):
    monkeypatch.setenv(progress.SERVED, "a notebook.ipynb")
    monkeypatch.delitem(sys.modules, "ipykernel")
    assert progress.bar_hidden() is None


def test_a_log_shows_none(kernel, capsys):
    assert list(tqdm(range(3), disable=progress.bar_hidden())) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_every_bar_of_the_lab_asks_whether_it_is_seen():
    texts = {file: file.read_text(encoding="utf-8") for file in sorted(Path(paths.PACKAGE).rglob("*.py"))}
    bars = {file: len(re.findall(r"(?<![\w.])tqdm\(", text)) for file, text in texts.items()}
    asked = {file: text.count("disable=bar_hidden(") for file, text in texts.items()}
    assert sum(bars.values()) > 10
    assert {file.name for file in texts if bars[file] != asked[file]} == set()
