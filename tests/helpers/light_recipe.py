"""A light stand-in for the proxy, used by several tests: a real sandbox, and a trusted task that needs no torch."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from nngpt_lab.candidates.outcome import Candidate, Kind, Outcome
from nngpt_lab.sandbox.parent import Limits, Sandbox, SandboxError
from nngpt_lab.sandbox.status import Status

BROKEN = Candidate("", "what the lab cannot handle", Kind.ARCHITECTURE)
LIMITS = Limits(wall_seconds=30, cpu_seconds=30, memory_mib=512, processes=16)


def execute(payload, arrays):
    """The trusted task: run the code, and return the score it set times a number that it cannot see."""
    space = {"__name__": "candidate"}
    exec(compile(payload["code"], "candidate", "exec"), space)
    return None, {"score": np.array([space["score"] * arrays["factors"][payload["seed"]]])}


def get_ready(payload, arrays):
    """What warms a child, if it is to be warm: it brings the factors anew."""
    if payload.get("fails"):
        raise RuntimeError("no driver")
    return None, {"factors": arrays["factors"] * 1.0}


class LightRecipe:
    """``log``: a file to which each evaluation that begins adds a line; ``warm``: as of a sandbox."""

    protocol_hash, record, device, gpu = "light", {"name": "light"}, "cpu", False

    def __init__(self, log: str = "", warm: tuple | None = None):
        self.log, self.warm = log, warm

    def arrays(self) -> dict[str, np.ndarray]:
        return {"factors": np.array([1.0, 0.5])}

    def open(self, shared: int) -> LightEvaluator:
        return LightEvaluator(Sandbox(LIMITS, __name__, shared=shared, warm=self.warm), self.log)


class LightEvaluator:
    def __init__(self, sandbox: Sandbox, log: str):
        self.sandbox, self.log = sandbox, log
        self.stop, self.close = sandbox.stop, sandbox.close

    def evaluate(self, candidate: Candidate, seed: int) -> Outcome:
        if self.log:
            with Path(self.log).open("a", encoding="ascii") as file:  # a short line arrives in one piece
                file.write(f"{os.getpid()} {candidate.code_hash} {seed}\n")
        if candidate == BROKEN:
            raise SandboxError("the lab failed", "mend it")
        payload = {"code": candidate.code, "seed": seed}
        report = self.sandbox.run("execute", payload, expect={"score": ("float64", (1,))})
        score = float(report.arrays["score"][0]) if report.status == Status.OK else None
        return Outcome(report.status, score, seed, "light", seconds={"total": report.seconds}, message=report.message)


def candidates(count: int, seconds: float = 0.05) -> list[Candidate]:
    """Some that score and some that fail, in three ways."""
    endings = ["", "", "", "1 / 0", "import socket; socket.socket()", "score = float('nan')"]
    codes = [f"import time\ntime.sleep({seconds})\nscore = 1 / {2 + i}\n{endings[i % 6]}" for i in range(count)]
    return [Candidate(code, code, Kind.ARCHITECTURE) for code in codes]
