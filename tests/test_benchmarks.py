"""The benchmark for a GPU, tried without one."""

import importlib.util
import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from nngpt_lab.ground import paths

SCRIPT = paths.PACKAGE.parent / "benchmarks" / "gpu.py"


@pytest.mark.slow  # six processes that import torch, a minute and a half
@pytest.mark.skipif(not SCRIPT.is_file(), reason="benchmarks lie in a checkout")
def test_every_row_of_the_gpu_benchmark_works_on_a_tiny_model_and_a_cpu():
    done = subprocess.run([sys.executable, str(SCRIPT), "--dry-run", "--minutes", "20"], capture_output=True, text=True)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert done.returncode == 0, (done.stderr, lines)
    assert [line["row"] for line in lines] == ["answers", "sampling", "lora", "lora_paper", "evaluator", "loop"]
    assert all(len(line["rates"]) == 2 and min(line["rates"].values()) > 0 for line in lines)
    same = {line["row"]: line["same"] for line in lines}
    assert float(same["answers"].split()[-1]) < 1e-4 and same["sampling"] == "2 of 2 texts equal"
    assert same["evaluator"] == "2 of 2 scores equal" and same["loop"] == "2 of 2 scores equal"


@pytest.fixture
def benchmark(monkeypatch):
    """The script as a module."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    spec = importlib.util.spec_from_file_location("benchmark_gpu", SCRIPT)
    monkeypatch.setitem(sys.modules, spec.name, module := importlib.util.module_from_spec(spec))
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow  # two processes that import torch
@pytest.mark.skipif(not SCRIPT.is_file(), reason="benchmarks lie in a checkout")
def test_a_row_that_fails_costs_no_other(benchmark):
    failed, ran = benchmark.run_rows(["nothing", "answers"], ["--dry-run"], 20)
    assert "failed" in failed and "rates" in ran


@pytest.mark.skipif(not SCRIPT.is_file(), reason="benchmarks lie in a checkout")
def test_rows_of_the_gpu_benchmark_that_fail_leave_what_was_measured(benchmark, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "prepare", lambda protocol: None)
    monkeypatch.setattr("common.RESULTS", tmp_path)
    monkeypatch.setattr(benchmark, "RESULTS", tmp_path)
    measured = {"row": "loop", "unit": "candidates/h", "rates": {"plain": 2.0, "fast": 6.0}, "same": "", "note": ""}

    def called(answer: dict, *given: str) -> int:
        monkeypatch.setattr(benchmark, "run_rows", lambda names, *rest: [answer | {"row": name} for name in names])
        return CliRunner().invoke(benchmark.main, given, standalone_mode=False).exit_code

    assert called(measured) == 0 and called(measured, "--rows", "loop, evaluator") == 0
    kept = {file.name: file.read_text() for file in sorted(tmp_path.iterdir())}
    assert list(kept) == ["gpu-evaluator-loop.md", "gpu.md"] and "fast: 6.0" in kept["gpu.md"]
    for rows in ((), ("--rows", "evaluator,loop")):
        assert called({"failed": "no card"}, *rows) == 1
    assert {file.name: file.read_text() for file in sorted(tmp_path.iterdir())} == kept
    assert called({"failed": "no card"}, "--rows", "lora") == 1 and "no card" in (tmp_path / "gpu-lora.md").read_text()


@pytest.mark.skipif(not SCRIPT.is_file(), reason="benchmarks lie in a checkout")
def test_gpu_benchmark_refuses_a_row_that_it_does_not_have(benchmark):
    refused = CliRunner().invoke(benchmark.main, ["--rows", "answers,nothing"])
    assert refused.exit_code == 2 and "no row nothing; there are answers, sampling" in " ".join(refused.output.split())
