"""The benchmark for a GPU, tried without one."""

import json
import subprocess
import sys

import pytest

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


@pytest.mark.slow  # two processes that import torch
@pytest.mark.skipif(not SCRIPT.is_file(), reason="benchmarks lie in a checkout")
def test_a_row_that_fails_costs_no_other():
    command = [sys.executable, str(SCRIPT), "--dry-run", "--rows", "nothing,answers", "--minutes", "20"]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert done.returncode == 1 and "failed" in lines[0] and "rates" in lines[1]
