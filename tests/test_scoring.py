"""A user's own files: what ``score`` and ``novelty`` say of them, and what they refuse before anything runs."""

import json

import pytest

from nngpt_lab import scoring
from nngpt_lab.candidates.outcome import Kind, Outcome
from nngpt_lab.candidates.protocols import TWINS, get_protocol, protocol_for
from nngpt_lab.ground.errors import UsageError
from nngpt_lab.sandbox import confine
from nngpt_lab.sandbox.status import Status
from tests.candidates.test_adapter import TRANSFORM, plain
from tests.test_cli import lab

PRETRAINED = plain("Other").replace("nn.Linear(width, num_classes)", "torch.hub.load('a', 'b', pretrained=True)")


@pytest.fixture
def mine(tmp_path):
    """A folder of networks, one of which is a near copy of another."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.py").write_text(plain())
    (tmp_path / "b.py").write_text(plain().replace("self.block", "self.first"))
    (tmp_path / "deep" / "c.py").write_text(PRETRAINED)
    return tmp_path


@pytest.fixture
def known(monkeypatch):
    """One published source of each kind."""
    monkeypatch.setattr(scoring, "published", lambda kind: scoring.indices({"published": plain("Old")}))


@pytest.fixture
def evaluated(monkeypatch):
    """No process is started: the second of two seeds of what asks for weights fails."""

    def evaluate(candidates, proxy, ledger, *, seeds, workers):
        outcomes = []
        for candidate in candidates:
            for seed in seeds:
                failed = "hub.load" in candidate.code and seed
                word, score = (Status.FORBIDDEN, None) if failed else (Status.OK, 0.5 + seed / 10)
                outcomes.append(Outcome(word, score, seed, parameters=100, message="no network" if failed else ""))
        return outcomes

    monkeypatch.setattr(scoring, "evaluate", evaluate)
    monkeypatch.setattr(scoring.isolation, "require", lambda layers: None)


def test_each_file_has_status_score_weights_and_neighbours(mine, known, evaluated, tmp_path):
    (mine / "d.py").write_text(TRANSFORM)
    sources = scoring.python_files(mine)
    assert list(sources) == ["a.py", "b.py", "d.py", "deep/c.py"]
    first, _, turned, failed = scoring.score(sources, "digits", range(3), tmp_path / "ledger.sqlite")
    assert (first.status, first.scores, first.parameters, first.adapted) == ("ok", [0.5, 0.6, 0.7], 100, True)
    assert first.mean == pytest.approx(0.6)
    assert first.low < first.mean < first.high
    assert {each.form: each.jaccard == 1 for each in first.neighbours}["structure"]
    assert (turned.kind, turned.protocol, turned.adapted) == ("augmentation", "digits-augmentation", False)
    assert (failed.status, failed.scores, failed.low) == ("forbidden", [0.5], None)
    assert failed.message == "seed 1: no network"
    assert ["hub.load" in call for call in failed.pretrained] == [True]


def test_the_command_prints_it_and_exits_with_1_where_a_file_has_no_score(mine, known, evaluated):
    sound = lab("score", mine / "a.py", "--ledger", mine / "l.sqlite")
    assert sound.exit_code == 0
    assert sound.stdout.startswith("ok  a.py  60.0 % [")
    assert "contract written by the lab" in sound.stdout
    assert "nn_dup: Jaccard" in sound.stdout
    both = lab("score", mine, "--json", "--ledger", mine / "l.sqlite")
    assert both.exit_code == 1
    rows = json.loads(both.stdout)
    assert [row["status"] for row in rows] == ["ok", "ok", "forbidden"]
    assert {"file", "mean", "low", "high", "parameters", "pretrained", "neighbours"} <= rows[0].keys()
    assert rows[0]["neighbours"][0].keys() == {"form", "nearest", "jaccard", "duplicate"}


def test_two_modules_in_a_file_are_told_apart_or_not_scored(mine, known, evaluated):
    (mine / "two.py").write_text(plain() + plain("Other"))
    result = lab("score", mine / "two.py", "--ledger", mine / "l.sqlite")
    assert result.exit_code == 1
    assert "any of Mine, Other could be the network: say which with --net NAME" in result.stdout
    assert lab("score", mine / "two.py", "--net", "Other", "--ledger", mine / "l.sqlite").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.py"], "there is no"),
        (["."], "there is no Python file below"),
        (["a.py", "--protocol", "digts"], "did you mean 'digits'?"),
        (["a.py", "--protocol", "paper-b-code"], "use one of paper-a"),
        (["a.py", "--seeds", "0"], "--seeds"),
        (["a.py", "--device", "tpu"], "there is no device 'tpu' here"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(tmp_path, monkeypatch, known, arguments, message):
    monkeypatch.chdir(tmp_path)
    if arguments[0] == "a.py":
        (tmp_path / "a.py").write_text(TRANSFORM)
    result = lab("score", *arguments, "--ledger", tmp_path / "l.sqlite")
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


def test_novelty_of_a_folder_against_another(mine, known, tmp_path):
    rows = json.loads(lab("novelty", mine, "--json").stdout)
    assert [row["file"] for row in rows] == ["a.py", "b.py", "deep/c.py"]
    assert "nn_dup" in rows[1]["repeats"]  # attributes have lower-case names, which that form does not see
    assert "raw_tokens" not in rows[0]["repeats"]
    other = tmp_path / "other"
    other.mkdir()
    (other / "x.py").write_text(plain())
    said = lab("novelty", mine / "a.py", "--against", other).stdout
    assert "raw_tokens: Jaccard 1.00 with x.py  near copy" in said
    assert "new in raw_tokens form: 0 of 1" in said


def test_a_file_that_holds_no_code_is_neither_new_nor_known(mine, known):
    (mine / "bad.py").write_text("class Net(:\n")
    (mine / "empty.py").write_text("# nothing yet\n")
    rows = {row["file"]: row for row in json.loads(lab("novelty", mine, "--json").stdout)}
    assert {name for name, row in rows.items() if row["no_code"]} == {"bad.py", "empty.py"}
    said = lab("novelty", mine).stdout
    assert "left out: it does not parse" in said and "left out: it is empty" in said
    assert said.splitlines()[-1].split(" (")[0].endswith("of 3")


def test_an_interval_ends_where_accuracies_do():
    """A t-interval of three scores can reach below 0 and above 1."""
    row = scoring.Scored("a.py", "architecture", "digits")
    scoring._fill(row, [Outcome(Status.OK, score, seed) for seed, score in enumerate((0.02, 0.1, 0.9))])
    assert (row.low, row.high) == (0, 1)


def test_every_twin_is_on_the_same_images():
    for own, twin in TWINS.items():
        assert get_protocol(own).images == get_protocol(twin).images
        assert protocol_for(twin, Kind.ARCHITECTURE).name == own
    with pytest.raises(UsageError, match="does not score augmentations"):
        protocol_for("paper-b-code", Kind.AUGMENTATION)


@pytest.mark.skipif(not confine.LINUX, reason="the sandbox confines on Linux only")
def test_a_plain_network_is_trained_in_the_sandbox(tmp_path):
    sources = {"a.py": plain()}
    (row,) = scoring.score(sources, "digits-loop", [0], tmp_path / "l.sqlite", workers=1, novelty=False)
    assert (row.status, row.message, row.low) == ("ok", "", None)
    assert row.parameters == 4 * 3 * 9 + 4 + 4 * 10 + 10
    (again,) = scoring.score(sources, "digits-loop", [0], tmp_path / "l.sqlite", workers=1, novelty=False)
    assert again == row
