"""LEMUR's compiler on a tiny wheel with one file of every odd kind, and the cache of compiled tables."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
import zipfile

import pyarrow as pa
import pytest

from nngpt_lab.corpora import architectures, artifacts, compiled
from nngpt_lab.ground import paths

TABLES = ("architectures", "records", "issues")

ACC = "ab/nn/stat/train/img-classification_cifar-10_acc_"
CODE = "ab/nn/nn/"
GOOD = {
    **{"accuracy": 0.5, "batch": 64, "lr": 0.01, "momentum": 0.9, "dropout": 0.2},
    **{"transform": "norm_flip", "uid": "u1", "duration": 7},
}
TRIALS = [  # what each record lacks, or has too much of
    GOOD,
    GOOD | {"uid": "u2", "accuracy": float("nan")},
    GOOD | {"uid": "u3", "accuracy": None},
    GOOD | {"uid": "u4", "accuracy": 1.5},
    {k: v for k, v in GOOD.items() if k not in ("momentum", "dropout")} | {"uid": "u5"},
    GOOD | {"epoch": 9, "uid": "u6", "patience": 3},
    GOOD,  # repeats the first
    "no object",
]
FILES = {
    f"{ACC}Net/1.json": json.dumps(TRIALS),
    f"{ACC}Net/2.json": json.dumps([GOOD | {"accuracy": 1}]),
    f"{ACC}alt-nn1-{'a' * 32}/1.json": "[]",
    f"{ACC}Ghost_with_underscores/1.json": json.dumps([GOOD]),
    f"{ACC}Net/3.json": "{not json",
    f"{ACC}Net/4.json": json.dumps({"accuracy": 0.5}),
    f"{ACC}Net/best.json": json.dumps([GOOD]),
    "ab/nn/stat/train/odd-name/1.json": json.dumps([GOOD]),
    "ab/nn/stat/run/elsewhere/1.json": json.dumps([GOOD]),
    f"{CODE}Net.py": "import torch.nn as nn\nx = nn.ReLU()\n",
    f"{CODE}alt-nn1-{'a' * 32}.py": "x = 1\n",
    f"{CODE}Broken.py": "def (\n",
    f"{CODE}Latin.py": "# caf\xe9".encode("latin-1"),
    f"{CODE}__init__.py": "",
    f"{CODE}notes.txt": "no code",
}
EXPECTED = {  # reason: (count, kept)
    "record file with an empty list": (1, False),
    "record file that is not JSON": (1, False),
    "record file that does not hold a list": (1, False),
    "record file whose path is not <task>_<dataset>_<metric>_<name>/<epoch>.json": (2, False),
    "record that is not an object": (1, False),
    "record without a finite accuracy": (2, False),
    "record with accuracy outside [0, 1]": (1, True),
    "record without momentum": (1, True),
    "record without dropout": (1, True),
    "record whose key 'epoch' is not the file's epoch (read as planned_epochs)": (1, True),
    "record that repeats another's architecture, epoch and hyperparameters": (1, True),
    "package marker __init__.py, not an architecture": (1, False),
    "source that is not UTF-8": (1, False),
    "source that does not parse": (1, True),
    "architecture without any record": (2, True),
    "architecture with records but no source": (1, True),
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    path = tmp_path_factory.mktemp("wheel") / "tiny-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in FILES.items():
            archive.writestr(name, content)
    return path


@pytest.fixture(scope="module")
def tables(wheel):
    return architectures.compile_tables(wheel)


def test_every_oddity_is_counted_once_under_its_reason(tables):
    issues = tables["issues"].to_pylist()
    assert {row["reason"]: (row["count"], row["kept"]) for row in issues} == EXPECTED
    assert all(row["example"] for row in issues)


def test_no_record_vanishes(tables):
    """Rows plus what was dropped, by reason, is what lies in the well-formed record files."""
    held = [json.loads(FILES[f"{ACC}{name}"]) for name in ("Net/1.json", "Net/2.json", "Ghost_with_underscores/1.json")]
    dropped = sum(n for reason, (n, kept) in EXPECTED.items() if reason.startswith("record ") and "file" not in reason
                  and not kept)  # fmt: skip
    assert tables["records"].num_rows + dropped == sum(map(len, held)) == 10


def test_no_source_vanishes(tables):
    sources = [name for name in FILES if name.startswith(CODE) and name.endswith(".py")]
    assert tables["architectures"].num_rows + 2 == len(sources)  # without __init__.py and the one not UTF-8


def test_a_record_keeps_its_values(tables):
    rows = {(r["architecture"], r["epoch"], r["uid"]): r for r in tables["records"].to_pylist()}
    row = rows["Net", 1, "u6"]
    assert {k: row[k] for k in GOOD} == GOOD | {"uid": "u6"}
    assert (row["task"], row["dataset"], row["metric"]) == ("img-classification", "cifar-10", "acc")
    assert (row["planned_epochs"], json.loads(row["other"])) == (9, {"patience": 3})
    lacking = rows["Net", 1, "u5"]
    assert lacking["momentum"] is None and lacking["dropout"] is None and lacking["other"] is None
    assert rows["Net", 2, "u1"]["accuracy"] == 1.0  # an integer in the file
    assert rows["Ghost_with_underscores", 1, "u1"]["accuracy"] == 0.5


def test_an_unparsable_source_keeps_its_text(tables):
    broken = next(r for r in tables["architectures"].to_pylist() if r["name"] == "Broken")
    assert (broken["parses"], broken["ast_hash"], broken["code"]) == (False, None, "def (\n")


@pytest.mark.parametrize(
    ("name", "family", "base"),
    [
        ("ga-mut-17", "ga-mut", "ga-mut"),
        ("ga-127", "ga", "ga"),
        (f"alt-nn12-{'0f' * 16}", "alt", "alt-nn12"),
        (f"ast-dimension-{'0f' * 16}", "ast", "ast-dimension"),
        (f"rag-{'0f' * 16}", "rag", "rag"),
        ("rl-bb-3", "rl", "rl-bb"),
        (f"FractalNet-{'0f' * 16}", "FractalNet", "FractalNet"),
        ("FractalNet", "hand-written", "FractalNet"),
        ("ResNet-708bfd82", "hand-written", "ResNet"),
        ("AlexNet", "hand-written", "AlexNet"),
        ("gaNet", "hand-written", "gaNet"),
        ("ragged-1", "hand-written", "ragged"),
    ],
)
def test_family_rules(name, family, base):
    assert architectures.family_of(name) == (family, base)


def test_record_id_of_a_hand_worked_example():
    literal = "['norm_256_flip','u1','img-classification','cifar-10','acc','Net',5,123456789,0.8251]"
    mine = architectures.record_id(
        "norm_256_flip", "u1", "img-classification", "cifar-10", "acc", "Net", 5, 123456789, 0.8251
    )
    assert mine == hashlib.md5(literal.encode()).hexdigest()


def test_record_id_in_the_table_is_that_of_the_json_values(tables):
    row = next(r for r in tables["records"].to_pylist() if (r["epoch"], r["architecture"]) == (2, "Net"))
    literal = "['norm_flip','u1','img-classification','cifar-10','acc','Net',2,7,1]"  # accuracy 1, not 1.0
    assert row["id"] == hashlib.md5(literal.encode()).hexdigest()


# ---- the cache of compiled tables ------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NNGPT_LAB_CACHE", str(tmp_path))
    return tmp_path / "tables"


@pytest.fixture
def compile_once(wheel, cache, monkeypatch):
    """A compiler of the tiny wheel that counts its calls, and loads through the cache."""
    calls = []

    def compiler(path):
        calls.append(path)
        return architectures.compile_tables(path)

    monkeypatch.setattr(artifacts, "fetch", lambda artifact: wheel)
    return calls, lambda version=1: compiled.load_or_compile("tiny", version, artifacts.LEMUR, TABLES, compiler)


def test_round_trip_through_the_cache(compile_once, tables, cache):
    calls, load = compile_once
    fresh, cached = load(), load()
    assert len(calls) == 1
    for name, table in tables.items():
        assert cached[name].equals(fresh[name]) and cached[name].equals(table), name
    assert [p.name for p in cache.iterdir() if not p.name.endswith(".lock")] == [
        f"tiny-{artifacts.LEMUR.sha256[:12]}-v1"
    ]


def test_load_gives_data_frames(wheel, cache, monkeypatch):
    monkeypatch.setattr(artifacts, "fetch", lambda artifact: wheel)
    lemur = architectures.load()
    assert (len(lemur.architectures), len(lemur.records), len(lemur.issues)) == (3, 7, len(EXPECTED))
    assert str(lemur.records["architecture"].dtype) == "category"


def flip_a_byte_of_data(data: bytes) -> bytes:
    return data[:60] + bytes([data[60] ^ 0xFF]) + data[61:]


@pytest.mark.parametrize("damage", [flip_a_byte_of_data, lambda d: d[: len(d) // 2], lambda d: b""])
@pytest.mark.parametrize("table", ["architectures", "records"])
def test_a_damaged_file_is_compiled_again(compile_once, cache, caplog, damage, table):
    calls, load = compile_once
    sound = load()
    file = next(cache.rglob(f"{table}.parquet"))
    file.write_bytes(damage(file.read_bytes()))
    with caplog.at_level(logging.WARNING):
        again = load()
    assert len(calls) == 2 and "damaged" in caplog.text
    assert again[table].equals(sound[table])
    load()
    assert len(calls) == 2  # and the file is sound again


@pytest.mark.parametrize("table", TABLES)
def test_a_missing_file_is_compiled_again(compile_once, cache, table):
    calls, load = compile_once
    sound = load()
    next(cache.rglob(f"{table}.parquet")).unlink()
    assert load()[table].equals(sound[table]) and len(calls) == 2


def test_another_version_is_compiled_beside_the_old_one(compile_once, cache):
    calls, load = compile_once
    load(1), load(2), load(1)
    assert len(calls) == 2
    assert sorted(p.name[-2:] for p in cache.iterdir() if p.is_dir()) == ["v1", "v2"]


def test_a_compiler_that_fails_leaves_no_folder(cache, monkeypatch, wheel):
    monkeypatch.setattr(artifacts, "fetch", lambda artifact: wheel)

    def fails(path):
        raise KeyError("broken")

    with pytest.raises(KeyError):
        compiled.load_or_compile("tiny", 1, artifacts.LEMUR, TABLES, fails)
    assert not [p for p in cache.iterdir() if p.is_dir()]


def test_an_interrupted_write_leaves_nothing_that_is_read(compile_once, cache, monkeypatch):
    calls, load = compile_once
    write = compiled.pq.write_table

    def stops_at_the_second(table, where, **options):
        if where.name != "architectures.parquet":
            raise KeyboardInterrupt
        write(table, where, **options)

    monkeypatch.setattr(compiled.pq, "write_table", stops_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        load()
    monkeypatch.setattr(compiled.pq, "write_table", write)
    assert set(load()) == {"architectures", "records", "issues"} and len(calls) == 2
    assert len([p for p in cache.iterdir() if p.is_dir()]) == 1  # the leftover is gone


def test_compiled_tables_have_the_users_own_permissions(compile_once, cache, tmp_path):
    """A cache that several users share: the folder is as readable as any folder this user makes."""
    compile_once[1]()
    (tmp_path / "ordinary").mkdir()
    made = next(p for p in cache.iterdir() if p.is_dir())
    assert made.stat().st_mode == (tmp_path / "ordinary").stat().st_mode


TWO_PROCESSES = """
import pathlib, sys, time
import pyarrow as pa
from nngpt_lab.corpora import artifacts, compiled
artifacts.fetch = lambda artifact: None

def compiler(path):
    with open(sys.argv[1], "a") as log:
        log.write("compiled\\n")
    time.sleep(0.5)
    return {"t": pa.table({"x": [1, 2, 3]})}

print(compiled.load_or_compile("slow", 1, artifacts.LEMUR, "t", compiler)["t"]["x"].to_pylist())
"""


def test_two_processes_compile_once(tmp_path):
    log = tmp_path / "calls"
    environment = os.environ | {"NNGPT_LAB_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(paths.PACKAGE.parent)}
    command = [sys.executable, "-c", TWO_PROCESSES, str(log)]
    children = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [child.communicate(timeout=300)[0] for child in children] == ["[1, 2, 3]\n"] * 2
    assert log.read_text() == "compiled\n"


def test_an_unwritable_cache_is_a_data_error(cache, monkeypatch, wheel):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(artifacts, "fetch", lambda artifact: wheel)
    monkeypatch.setattr(compiled.pq, "write_table", full)
    with pytest.raises(artifacts.DataError, match="NNGPT_LAB_CACHE"):
        compiled.load_or_compile("tiny", 1, artifacts.LEMUR, "t", lambda path: {"t": pa.table({"x": [1]})})
    assert not [p for p in cache.iterdir() if p.is_dir()]
