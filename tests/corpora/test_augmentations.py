"""Paper A's functions read from source without running it, and their recorded outcomes."""

from __future__ import annotations

import json
import re
import zipfile

import pytest

from nngpt_lab.corpora import augmentations
from nngpt_lab.corpora.augmentations import OPERATIONS, parse_pipeline

TAIL = "transforms.Resize((64, 64)), transforms.ToTensor(), transforms.Normalize(*norm)"


def source(steps: str, tail: str = TAIL) -> str:
    return (
        "import torchvision.transforms as transforms\n\ndef transform(norm):\n"
        f"    return transforms.Compose([{steps}{', ' if steps and tail else ''}{tail}])\n"
    )


@pytest.mark.parametrize(
    ("steps", "operations", "parameters"),
    [
        ("transforms.RandomCrop(28)", ("RandomCrop",), ({"0": 28},)),
        ("transforms.RandomCrop(size=28, padding=4)", ("RandomCrop",), ({"size": 28, "padding": 4},)),
        ("transforms.Pad((1, 2), fill=(0, 0, 255))", ("Pad",), ({"0": (1, 2), "fill": (0, 0, 255)},)),
        ("transforms.RandomRotation(-15)", ("RandomRotation",), ({"0": -15},)),
        ("transforms.RandomCrop(size=side // 2)", ("RandomCrop",), ({"size": "side // 2"},)),
        ("transforms.Pad(padding={1, 2})", ("Pad",), ({"padding": "{1, 2}"},)),
        ("transforms.Pad(padding={[]: 2})", ("Pad",), ({"padding": "{[]: 2}"},)),
        ("Grayscale(3), T.v2.RandomInvert()", ("Grayscale", "RandomInvert"), ({"0": 3}, {})),
        ("transforms.RandomCrop(**options)", ("RandomCrop",), ({"**": "options"},)),
        ("augment", ("augment",), ({},)),
        ("", (), ()),
    ],
)
def test_operations_and_parameters(steps, operations, parameters):
    pipeline = parse_pipeline(source(steps))
    assert (pipeline.operations, pipeline.parameters) == (operations, parameters)
    assert pipeline.has_tail and pipeline.resize == 64
    json.dumps(pipeline.parameters)


@pytest.mark.parametrize(
    ("resize", "side"),
    [("(64, 64)", 64), ("32", 32), ("size=(48, 96)", 48), ("[16, 16]", 16), ("side", None), ("", None), ("()", None)],
)
def test_resize(resize, side):
    tail = TAIL.replace("(64, 64)", resize, 1)
    assert parse_pipeline(source("transforms.Pad(1)", tail)).resize == side


def test_without_the_tail_nothing_is_cut_off():
    tail = "transforms.ToTensor(), transforms.Resize(64), transforms.Normalize(*norm)"
    pipeline = parse_pipeline(source("transforms.Pad(1)", tail))
    assert not pipeline.has_tail
    assert pipeline.operations == ("Pad", "ToTensor", "Resize", "Normalize")
    assert not parse_pipeline(source("transforms.Pad(1)", "")).has_tail


def test_an_earlier_resize_is_an_operation():
    pipeline = parse_pipeline(source("transforms.Resize(128), transforms.CenterCrop(100)"))
    assert pipeline.operations == ("Resize", "CenterCrop") and pipeline.resize == 64


@pytest.mark.parametrize(
    "code",
    [
        "",
        "x = 1",
        source("").replace("Compose", "Sequence"),
        source("").replace("def transform", "def other"),
        "def transform(norm):\n    return Compose()\n",
        "def transform(norm):\n    return Compose(steps)\n",
    ],
)
def test_code_without_the_contract(code):
    with pytest.raises(ValueError, match="Compose"):
        parse_pipeline(code)


def test_code_that_does_not_parse():
    with pytest.raises(SyntaxError):
        parse_pipeline("def transform(norm:\n")


def test_parsing_runs_nothing(tmp_path):
    marker = tmp_path / "ran"
    parse_pipeline(f"open({str(marker)!r}, 'w')\n" + source(f"Pad(open({str(marker)!r}, 'w'))"))
    assert not marker.exists()


@pytest.mark.parametrize("steps", [("RandomCrop", "Pad"), ("Grayscale",), ("RandomInvert", "RandomInvert", "Pad")])
def test_agrees_with_a_regular_expression(steps):
    code = source(", ".join(f"transforms.{name}(1)" for name in steps))
    counted = re.findall(r"transforms\.([A-Z]\w+)\(", code.partition("Compose")[2])
    assert (*parse_pipeline(code).operations, *augmentations.TAIL) == tuple(counted)


# ---- a tiny wheel ----------------------------------------------------------------------------------------------------

RUN = {"batch": 64, "lr": 0.01, "momentum": 0.9, "duration": 5, "uid": "u"}
SHAPE = "Traceback\n  ...\nValueError: Required crop size (40, 40) is larger than input image size (32, 32)\n"
FILES = {
    "out_gen/Good.py": source("transforms.Pad(1), transforms.RandomCrop(28)"),
    "out_gen/TooLarge.py": source("transforms.RandomCrop(40)"),
    "out_gen/Crashed.py": source("transforms.Pad(-9)"),
    "out_gen/Zero.py": source("transforms.Pad(0)"),
    "out_gen/Unscored.py": source("transforms.Pad(2)"),
    "out_gen/Syntax.py": "def transform(:",
    "out_gen/NoCompose.py": "def transform(norm):\n    return norm\n",
    "result_gen/Good.json": json.dumps(RUN | {"accuracy": 0.41}),
    "result_gen/TooLarge.json": json.dumps({"accuracy": 0.0, "error": SHAPE}),
    "result_gen/Crashed.json": json.dumps({"accuracy": 0.0, "error": "Traceback\nTypeError: no"}),
    "result_gen/Zero.json": json.dumps(RUN | {"accuracy": 0.0}),
    "result_gen/Orphan.json": json.dumps(RUN | {"accuracy": 0.3}),
    "dataset_epoch1/A3B12.py": source("transforms.RandomInvert()"),
    "dataset_epoch1/Good.py": source("transforms.Pad(1), transforms.RandomCrop(28)"),
    "dataset_epoch1/New.py": source("transforms.Pad(7)"),
    "result_epoch1/Good.json": json.dumps({"accuracy": 0.7, "epoch": 5, "duration": 50}),
    "result_epoch1/New.json": json.dumps({"accuracy": 0.0, "error": "TypeError"}),
    "result_epoch1/Nobody.json": json.dumps({"accuracy": 0.6}),
}


def compile_files(folder, files):
    wheel = folder / "tiny.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in files.items():
            archive.writestr(augmentations.FOLDER + name, content)
    return augmentations.compile_tables(wheel)


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    return compile_files(tmp_path_factory.mktemp("wheel"), FILES)


@pytest.fixture(scope="module")
def functions(tables):
    return {row["name"]: row for row in tables["functions"].to_pylist()}


@pytest.mark.parametrize(
    ("name", "status", "score"),
    [
        ("Good", "ok", 0.41),
        ("TooLarge", "shape", None),
        ("Crashed", "crash", None),
        ("Zero", "crash", None),
        ("Unscored", "unscored", None),
        ("Syntax", "syntax", None),
        ("NoCompose", "contract", None),
        ("A3B12", "unscored", None),
    ],
)
def test_a_failure_is_a_status_and_never_a_score(functions, name, status, score):
    assert (functions[name]["status"], functions[name]["score"]) == (status, score)


def test_values_of_a_scored_function(functions):
    row = functions["Good"]
    assert {k: row[k] for k in RUN} == RUN
    assert row["operations"] == ["Pad", "RandomCrop"] and row["n_operations"] == 2
    assert json.loads(row["parameters"]) == [{"0": 1}, {"0": 28}]
    assert functions["TooLarge"]["error"].startswith("ValueError: Required crop size")


def test_functions_of_the_llm_know_their_epoch(functions):
    row = functions["A3B12"]
    assert (row["source"], row["llm_epoch"], row["llm_index"]) == ("llm", 3, 12)
    assert "New" not in functions  # nor do other files of that folder pass for functions with a score


def test_issues(tables):
    issues = {row["reason"]: (row["count"], row["kept"]) for row in tables["issues"].to_pylist()}
    assert issues == {
        "recorded failure, stored by the authors as accuracy 0.0: shape": (1, True),
        "recorded failure, stored by the authors as accuracy 0.0: crash": (2, True),
        "brute-force function without a score": (3, True),
        "function that cannot be read: syntax": (1, True),
        "function that cannot be read: contract": (1, True),
        "score without a function": (1, False),
        "distinct function of dataset_epoch1 without a one-epoch score": (1, False),
        "five-epoch score without a function": (1, False),
        "five-epoch run that failed": (1, False),
    }


def test_five_epochs(tables):
    (row,) = tables["five_epochs"].to_pylist()
    assert (row["name"], row["epochs"], row["score"], row["duration"]) == ("Good", 5, 0.7, 50)


def test_no_five_epoch_scores_still_make_a_table(tmp_path):
    tables = compile_files(tmp_path, {k: v for k, v in FILES.items() if not k.startswith("result_epoch1")})
    assert tables["five_epochs"].num_rows == 0 and "score" in tables["five_epochs"].column_names


def test_the_two_sources_are_told_apart(tables):
    data = augmentations.Augmentations(**{name: table.to_pandas() for name, table in tables.items()})
    assert len(data.brute_force) == 7 and list(data.llm["name"]) == ["A3B12"]
    assert len(set(OPERATIONS)) == 19
