"""The prompt with a skeleton, and the tables of what models make of either prompt."""

import re

import pandas as pd
import pytest

from nngpt_lab.candidates import contract
from nngpt_lab.candidates.outcome import Candidate, Kind
from nngpt_lab.candidates.protocols import get_protocol
from nngpt_lab.candidates.proxy import prepare
from nngpt_lab.llm.prompts import prompt
from nngpt_lab.papers.architecture_loop.prompt_validity import causes, endings, validity
from nngpt_lab.sandbox.status import Status
from nngpt_lab.study.design import resized

LAYERS = "self.net = nn.Sequential(nn.Flatten(), nn.LazyLinear(out_shape[0]))"


def test_the_skeleton_filled_with_one_layer_keeps_the_contract_and_trains():
    skeleton = re.search(r"```python\n(.*?)```", prompt("architecture_skeleton").user, re.DOTALL)[1]
    assert contract.check(skeleton, Kind.ARCHITECTURE).status != Status.OK  # there is something to fill in
    first, second = re.findall(r"# FILL IN.*", skeleton)
    code = skeleton.replace(first, LAYERS).replace(second, "return self.net(x)")
    assert contract.check(code, Kind.ARCHITECTURE).status == Status.OK
    with prepare(resized(get_protocol("digits-loop"), train_limit=64)).evaluator() as evaluator:
        outcome = evaluator.evaluate(Candidate(code, code, Kind.ARCHITECTURE), seed=0)
    assert outcome.status == Status.OK and outcome.score > 0


@pytest.fixture
def candidates() -> pd.DataFrame:
    rows = [
        ("m", "list", "ok", 0.5, ""),
        (
            "m",
            "list",
            "contract",
            None,
            "line 3: there is no f(): define it; it returns y; line 7: no method g(x): add",
        ),
        ("m", "list", "contract", None, "there is no f(): define it"),
        ("m", "list", "syntax", None, "line 2: the code does not parse: expected a block after a function on line 1"),
        ("m", "file", "ok", 0.3, ""),
        ("m", "file", "ok", 0.7, ""),
    ]
    return pd.DataFrame(rows, columns=["model", "prompt", "status", "score", "message"])


def test_validity_counts_what_ran(candidates):
    table = validity(candidates).set_index("prompt")
    assert table["valid"].to_dict() == {"list": 0.25, "file": 1.0}
    assert table.loc["file", ["n", "best", "mean"]].tolist() == [2, 0.7, 0.5]
    assert table.loc["list", "valid_low"] < 0.25 < table.loc["list", "valid_high"]


def test_causes_are_counted_each_whatever_the_line(candidates):
    told = causes(candidates).set_index(["status", "cause"])["count"]
    assert told.to_dict() == {
        ("contract", "there is no f()"): 2,
        ("contract", "no method g(x)"): 1,
        ("syntax", "the code does not parse: expected a block after a function"): 1,
    }
    assert endings(candidates).axes[0].get_xlim() == (0, 100)
