"""What fails late fails first: a bench that lacks something says so before anything is read or loaded. Side by side."""

import contextlib
import pickle
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from nngpt_lab.candidates.ledger import Ledger
from nngpt_lab.candidates.outcome import Candidate, Kind
from nngpt_lab.ground.errors import UsageError
from nngpt_lab.llm import models
from nngpt_lab.llm.server_engine import Server
from nngpt_lab.papers.architecture_loop.design import DESIGNS
from nngpt_lab.sandbox.status import Status
from nngpt_lab.study import lab
from nngpt_lab.study.lab import open_bench, run_ahead


def must_not_be_called(*_, **__):
    pytest.fail("too early")


@pytest.mark.parametrize(("device", "missing"), [("cpu", "does not run on cpu"), ("cuda", "needs bitsandbytes")])
def test_an_optimizer_that_cannot_be_had_is_told_before_any_work(device, missing, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(models, "check", must_not_be_called)
    recipe = replace(DESIGNS["nano-smoke"].recipe, optimizer="paged_adamw_8bit")
    design = replace(DESIGNS["nano-smoke"], recipe=recipe)
    with (
        pytest.raises(UsageError, match=missing),
        open_bench(design, must_not_be_called, None, tmp_path, device=device),
    ):
        pass


def test_4_bits_on_a_cpu_are_refused_before_any_work(tmp_path):
    design = replace(DESIGNS["nano-smoke"], four_bit=True)
    with pytest.raises(UsageError, match="4 bit"), open_bench(design, must_not_be_called, None, tmp_path):
        pass


# --- runs side by side ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def bare_lab(design, ledger, folder, *, workers, **_):
    """A lab of a ledger alone; a module's function, since each run has a process of its own."""
    yield SimpleNamespace(design=design, ledger=ledger, folder=folder, workers=workers)


def noting_run(own, name):
    text = f"{name} of {own.design} with {own.workers} workers"
    own.ledger.add_sample(name, 0, Candidate(text, text, Kind.ARCHITECTURE), Status.OK, "")


def ahead(ledger, names, workers, server=None, device="cpu", model_on="cpu"):
    model = None if server else torch.nn.Linear(1, 1)  # as a served model's
    coder = SimpleNamespace(model=model, server=server, device=torch.device(model_on))
    own = SimpleNamespace(
        coder=coder, proxy=SimpleNamespace(device=device), ledger=ledger, folder=ledger.path.parent, progress=False
    )
    run_ahead(own, bare_lab, noting_run, [("a design", name) for name in names], workers)
    return ledger.table("samples")


def test_runs_share_the_workers_and_the_ledger(tmp_path, monkeypatch):
    asked = []

    def side_by_side(function, calls, together):  # processes are tested with it; here: what is handed to them
        asked.append(together)
        yield from (pickle.loads(pickle.dumps(function))(*call) for call in calls)

    monkeypatch.setattr(lab, "side_by_side", side_by_side)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        found = ahead(ledger, ["one", "two"], workers=5)
    assert asked == [2] and list(found["text"]) == [f"{name} of a design with 2 workers" for name in ("one", "two")]


def test_nothing_is_run_ahead_where_it_gains_nothing(tmp_path):
    served = Server("http://127.0.0.1:1/v1", "none")
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert ahead(ledger, ["one", "two"], workers=3).empty
        assert ahead(ledger, ["one"], workers=8).empty
        assert ahead(ledger, ["one", "two"], workers=8, device="cuda").empty
        assert ahead(ledger, ["one", "two"], workers=8, model_on="cuda").empty  # its candidates may be on a CPU
        assert ahead(ledger, ["one", "two"], workers=8, server=served).empty
