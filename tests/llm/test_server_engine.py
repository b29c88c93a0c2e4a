"""A model on a server: what is sent, what becomes of the answers (against a stand-in), and what is refused."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import threading
from dataclasses import replace

import pytest

from nngpt_lab.candidates.ledger import Ledger
from nngpt_lab.ground.errors import DataError, LabError, UsageError
from nngpt_lab.llm import adapters, models, server_engine
from nngpt_lab.llm.server_engine import Answer, Refused, Server, parse
from nngpt_lab.papers.architecture_loop import design as architectures
from nngpt_lab.papers.architecture_loop.lab import open_lab
from nngpt_lab.papers.augmentation_search.prompting import profile_studies
from nngpt_lab.papers.dataset_prediction import design as datasets
from nngpt_lab.study import proposals
from nngpt_lab.study.lab import check
from tests.helpers.stand_in_server import StandIn, served
from tests.helpers.tiny_model import save_tiny
from tests.helpers.waiting import LIMIT

SETTINGS = {"temperature": 0.8, "top_p": 0.9, "top_k": 50, "max_tokens": 24}
ASKED = [[{"role": "user", "content": f"question {number}"}] for number in range(6)]


def echo(body: dict) -> tuple[str, int, str]:
    return f"{body['messages'][-1]['content']} by {body['model']}", 7, "stop"


@pytest.fixture
def stand_in():
    with served(StandIn(echo)) as server:
        yield server


@pytest.fixture
def waits(monkeypatch):
    """How long a busy server would be waited for."""
    slept: list[float] = []
    monkeypatch.setattr(server_engine.time, "sleep", slept.append)
    return slept


def answers(server: Server, asked=ASKED, at_once: int = 3) -> list[Answer]:
    found = dict(server.chats(asked, range(len(asked)), SETTINGS, at_once))
    return [found[place] for place in range(len(asked))]


def test_answers_belong_to_their_questions_whatever_order_they_come_in(stand_in):
    first_may_end = threading.Event()

    def late_first(body):
        if "question 0" in body["messages"][-1]["content"]:
            assert first_may_end.wait(20)
        return echo(body)

    stand_in.write = late_first
    chats = Server("tiny", stand_in.url).chats(ASKED, range(6), SETTINGS, 3)
    come = [next(chats) for _ in range(5)]
    assert 0 not in dict(come)  # given on while the first is still being written
    first_may_end.set()
    found = dict([*come, *chats])
    assert [found[place] for place in range(6)] == [Answer(f"question {i} by tiny", 7, True) for i in range(6)]


def test_a_request_says_what_the_interface_has_and_no_more(stand_in):
    answers(Server("tiny", stand_in.url))
    bodies = sorted(stand_in.bodies("/v1/chat/completions"), key=lambda body: body["messages"][0]["content"])
    assert [body["messages"] for body in bodies] == ASKED
    seeds = [body.pop("seed") for body in bodies]
    assert len(set(seeds)) == 6 and all(0 <= seed < 2**31 for seed in seeds)
    rest = {"model": "tiny", "stream": False, "temperature": 0.8, "top_p": 0.9, "max_tokens": 24}
    assert all(body | {"messages": None} == rest | {"messages": None} for body in bodies)
    answers(Server("tiny", stand_in.url, top_k=True), ASKED[:1])
    assert stand_in.bodies("/v1/chat/completions")[-1]["top_k"] == 50


def test_a_text_that_the_limit_cut_and_one_of_unknown_length(stand_in):
    stand_in.write = lambda body: ("x", None, "length")
    assert answers(Server("tiny", stand_in.url), ASKED[:1]) == [Answer("x", None, False)]


def test_a_busy_server_is_asked_again(stand_in, waits):
    stand_in.refusals = [(429, {}), (503, {"Retry-After": "7"}), (503, {})]
    assert answers(Server("tiny", stand_in.url), ASKED[:1]) == [Answer("question 0 by tiny", 7, True)]
    assert waits == [1, 7, 4]


def test_a_server_that_stays_busy_is_given_up(stand_in, waits):
    stand_in.refusals = [(503, {})] * 20
    with pytest.raises(LabError, match="answered 503"):
        answers(Server("tiny", stand_in.url), ASKED[:1])
    assert waits == list(server_engine.WAITS)


def test_any_other_refusal_is_named_at_once(stand_in, waits):
    stand_in.refusals = [(400, {})]
    with pytest.raises(LabError, match=r"answered 400 .*said so") as caught:
        answers(Server("tiny", stand_in.url), ASKED[:1])
    assert not waits and pickle.loads(pickle.dumps(caught.value)).cause == caught.value.cause
    assert isinstance(caught.value, Refused)
    stand_in.answer = lambda path, body: (200, {}, {"choices": []})
    with pytest.raises(LabError, match="another form"):
        answers(Server("tiny", stand_in.url), ASKED[:1])


def test_a_server_that_is_dead_or_lacks_the_model_is_told_before_any_work(stand_in):
    models.check(f"local/tiny@{stand_in.url}")
    with pytest.raises(UsageError, match=r"no model 'tin'.*(\n.*)*did you mean 'tiny'"):
        models.check(f"local/tin@{stand_in.url}")
    stand_in.models = []  # some servers list nothing
    models.check(f"local/tin@{stand_in.url}")
    with served(StandIn(echo)) as other:
        pass
    with pytest.raises(DataError, match="does not answer"):
        models.check(f"local/tiny@{other.url}")


def test_the_key_is_sent_and_written_nowhere(stand_in, monkeypatch):
    name = f"local/tiny@{stand_in.url}?api_key_env=SOME_KEY"
    monkeypatch.delenv("SOME_KEY", raising=False)
    with pytest.raises(UsageError, match="SOME_KEY is empty"):
        models.check(name)
    monkeypatch.setenv("SOME_KEY", "very secret")
    coder = models.load(name)
    answers(coder.server, ASKED[:1])
    assert {headers["Authorization"] for _, _, headers in stand_in.asked} == {"Bearer very secret"}
    assert "secret" not in repr(coder) and "secret" not in json.dumps(coder.identity)
    assert coder.identity["texts"] == "not repeatable" and coder.identity["url"] == stand_in.url
    stand_in.refusals = [(401, {})]
    with pytest.raises(LabError) as caught:
        answers(coder.server, ASKED[:1])
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("local/m@http://user:pass@host/v1", "is no address"),
        ("local/m@http:///v1", "is no address"),
        ("local/m@http://host/v1?api_key=abc", "did you mean 'api_key_env'"),
        ("local/m", "there is no model"),
    ],
)
def test_an_address_that_is_none(name, message):
    with pytest.raises(UsageError, match=message) as caught:
        models.find(name)
    assert "pass" not in str(caught.value)


def test_names_may_hold_what_servers_call_their_models():
    assert parse("local/qwen2.5-coder:0.5b@http://h:1/v1/") == Server("qwen2.5-coder:0.5b", "http://h:1/v1")
    assert parse("local//models/a@b@https://h/v1?top_k=yes&weights=/w") == Server(
        "/models/a@b", "https://h/v1", "", True, "/w"
    )
    assert parse("nano-coder") is None


# ------------------------------------------------------------------------------------------------------- in the loops


def design(name: str):
    return replace(architectures.SMOKE, coder=name, batch=2)


def write(stand_in, tmp_path, name, coder=None, count=3) -> tuple[list[str], list[float]]:
    with (
        Ledger(tmp_path / "ledger.sqlite") as ledger,
        open_lab(design(name), ledger, tmp_path, workers=1, progress=False) as lab,
    ):
        model = (coder or (lambda base: base))(lab.coder)
        proposed = proposals.write(lab, "run", ASKED[:count], range(count), lambda: model)
        texts = [sample.candidate.text for _, sample in sorted(proposed)]
        return texts, proposals.count_tokens(lab, texts)


def test_a_loop_samples_from_it_and_asks_for_no_text_twice(stand_in, tmp_path):
    first = write(stand_in, tmp_path, f"local/tiny@{stand_in.url}")
    assert first == ([f"question {i} by tiny" for i in range(3)], [7, 7, 7])
    stand_in.write = lambda body: pytest.fail("asked again")
    assert write(stand_in, tmp_path, f"local/tiny@{stand_in.url}") == first


def test_a_stopped_loop_asks_for_what_is_missing_alone(stand_in, tmp_path):
    name = f"local/tiny@{stand_in.url}"
    with (
        Ledger(tmp_path / "ledger.sqlite") as ledger,
        open_lab(replace(design(name), batch=4), ledger, tmp_path, workers=1, progress=False) as lab,
    ):
        stopped = proposals.write(lab, "run", ASKED[:4], range(4), lambda: lab.coder)
        first = dict(next(stopped) for _ in range(2))
        stopped.close()
        before = len(stand_in.bodies("/v1/chat/completions"))
        held = set(ledger.texts("run"))
        rest = dict(proposals.write(lab, "run", ASKED[:4], range(4), lambda: lab.coder))
    asked = [body["messages"][-1]["content"] for body in stand_in.bodies("/v1/chat/completions")[before:]]
    assert held == set(first) and sorted(rest) == [0, 1, 2, 3]
    assert {f"question {place}" for place in set(range(4)) - held} <= set(asked)
    assert not {f"question {place}" for place in held} & set(asked)


def test_whoever_wants_no_more_answers_waits_for_none(stand_in, tmp_path):
    """Another process: it ends although its server has two answers to go."""
    never = threading.Event()
    stand_in.write = lambda body: (body["messages"][-1]["content"] == "now" or never.wait(LIMIT)) and echo(body)
    code = f"""
from nngpt_lab.llm.server_engine import Server
asked = [[{{"role": "user", "content": text}}] for text in ("now", "never", "never")]
chats = Server("tiny", {stand_in.url!r}).chats(asked, range(3), {{"max_tokens": 5}}, 3)
print(next(chats)[1].text)
chats.close()
"""
    try:
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT, check=False)
    finally:
        never.set()
    assert (ended.returncode, ended.stdout) == (0, "now by tiny\n"), ended.stderr


def test_an_adapter_is_pushed_under_a_new_name_each_time_and_taken_off(stand_in, tmp_path):
    stand_in.lora, weights = True, save_tiny(tmp_path / "weights")
    name = f"local/tiny@{stand_in.url}?weights={weights}"
    recipe = replace(design(name).recipe, layers=None, targets=("q_proj",))
    texts, tokens = write(stand_in, tmp_path, name, lambda base: adapters.add_adapter(base, recipe, 0))
    loaded, unloaded = (stand_in.bodies(f"/v1/{way}load_lora_adapter") for way in ("", "un"))
    names = [body["lora_name"] for body in loaded]
    assert len(set(names)) == 2 and names == [body["lora_name"] for body in unloaded]  # one for each batch
    assert texts == [f"question {i} by {names[i // 2]}" for i in range(3)]
    assert tokens == [len(models.load(weights).tokenizer(text)["input_ids"]) for text in texts]


def test_what_it_cannot_do_is_refused_before_any_work(stand_in, tmp_path):
    name, arms = f"local/tiny@{stand_in.url}", architectures.ARMS
    check(design(name), "cpu", [arms["no tuning"], arms["random search"]])
    with pytest.raises(UsageError, match=r"arm 'loop' tunes it.*(\n.*)*weights="):
        check(design(name), "cpu", list(arms.values()))
    with_weights = design(f"{name}?weights={save_tiny(tmp_path / 'weights')}")
    with pytest.raises(UsageError, match=r"takes no adapters.*(\n.*)*VLLM_ALLOW_RUNTIME_LORA_UPDATING"):
        check(with_weights, "cpu", [arms["loop"]])
    stand_in.lora = True
    check(with_weights, "cpu", [arms["loop"]])
    with pytest.raises(UsageError, match="likelihoods"):
        check(replace(datasets.SMOKE, coders=(name,)), "cpu")
    with pytest.raises(UsageError, match="cannot be tuned"):
        adapters.add_adapter(models.load(name), design(name).recipe, 0)


def test_the_prompting_study_asks_it_untuned(stand_in, tmp_path):
    name = f"local/tiny@{stand_in.url}"
    nano, other = profile_studies("gpu", f"nano-coder, {name}", samples=2)
    assert (nano.design.coder, other.design.coder) == ("nano-coder", name)
    assert nano.epochs > 0 and other.epochs == 0 and other.samples == 2
    assert other.design.prompt == "transform_direct"
