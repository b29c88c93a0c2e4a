"""What fails late fails first: a bench that lacks something says so before anything is read or loaded."""

from dataclasses import replace

import pytest

from nngpt_lab.ground.errors import UsageError
from nngpt_lab.llm import models
from nngpt_lab.papers.architecture_loop.design import DESIGNS
from nngpt_lab.study.lab import open_bench


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
