"""CUDA's driver could start in the sandbox, and each of the mends that let it is needed. No GPU is."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

from nngpt_lab.sandbox import parent
from nngpt_lab.sandbox.parent import Sandbox, SandboxError
from nngpt_lab.sandbox.status import Status

STAND_IN = "nngpt_lab.sandbox.driver_stand_in"
LAYERS = 17

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="CUDA in a sandbox is a matter of Linux")

TAKEN_AWAY = {  # what the zygote does without -> what the driver then is refused
    "confine.own_processes = lambda: False": {"name the main thread", "name another thread"},
    "confine._TRUNCATE = 0": {"name the main thread", "name another thread"},
    "confine._FOR_CUDA = ()": {"name a local socket"},
    "refuse_all = confine.filter_syscalls; confine.filter_syscalls = lambda cuda: refuse_all()": {
        "name a local socket"
    },
}


def test_a_driver_would_start_in_a_spare_and_its_candidate_find_it_so(tmp_path, monkeypatch):
    warm = (f"{STAND_IN}:start", {"folders": []})
    with Sandbox(setup=STAND_IN, gpu=True, warm=warm) as sandbox:
        reports = [sandbox.run("start", {"folders": []}) for _ in range(3)]  # it starts here beside the next spare
        if len(reports[0].isolation) < LAYERS:
            pytest.skip(f"only {len(reports[0].isolation)} of {LAYERS} layers here")
    assert [report.status for report in reports] == [Status.OK] * 3
    (tmp_path / "taken_away.py").write_text("from nngpt_lab.sandbox import confine\nconfine._FOR_CUDA = ()\n")
    monkeypatch.syspath_prepend(tmp_path)
    with (
        Sandbox(setup=(STAND_IN, "taken_away"), gpu=True, warm=warm) as sandbox,
        pytest.raises(SandboxError, match="gets ready: name a local socket"),
    ):
        sandbox.run("start", {})


def refused(*extra: str, gpu: bool = True, folders: tuple[str, ...] = ()) -> set[str]:
    """What the stand-in says was refused, without the reasons; skips where a layer is lacking, which would refuse."""
    with Sandbox(setup=[STAND_IN, *extra], gpu=gpu) as sandbox:
        report = sandbox.run("start", {"folders": folders})
        if len(report.isolation) < LAYERS:
            pytest.skip(f"only {len(report.isolation)} of {LAYERS} layers here")
    assert report.status == (Status.FORBIDDEN if report.message else Status.OK)
    return {reason.partition(":")[0] for reason in report.message.split("; ") if reason}


def test_a_driver_would_start_with_all_layers():
    assert refused() == set()


def test_a_candidate_on_a_cpu_may_do_none_of_it():
    assert refused(gpu=False) >= {"name the main thread", "name another thread", "name a local socket"}


@pytest.mark.parametrize("mend", TAKEN_AWAY)
def test_it_would_not_without_each_of_the_mends(mend, tmp_path, monkeypatch):
    (tmp_path / "taken_away.py").write_text(f"from nngpt_lab.sandbox import child, confine\n{mend}\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert refused("taken_away") == TAKEN_AWAY[mend]


@pytest.fixture
def driver_folder(tmp_path, monkeypatch):
    """A library of that name in a folder that no task may read otherwise, as installers choose them."""
    source = find_spec("_ctypes").origin
    folder = tmp_path / "driver"
    folder.mkdir()
    shutil.copy(source, folder / "libcuda.so.1")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(folder))
    return folder


def test_the_driver_s_own_folder_can_be_read(driver_folder, tmp_path, monkeypatch):
    assert refused(folders=(str(driver_folder),)) == set()
    (tmp_path / "taken_away.py").write_text("from nngpt_lab.sandbox import child\nchild.driver_places = lambda: []\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert refused("taken_away", folders=(str(driver_folder),)) == {f"read {driver_folder}"}


DRIVER = """
#include <pthread.h>
#include <string.h>
#include <unistd.h>
static void *handle_events(void *nothing) { for (;;) pause(); return nothing; }
int cuInit(unsigned flags) {  /* "no device", and yet a thread that stays, as the real one has */
  pthread_t thread;
  pthread_create(&thread, 0, handle_events, 0);
  return 100;
}
int cuDriverGetVersion(int *version) { *version = 99000; return 0; }
int cuGetExportTable(const void **table, const void *id) { return 100; }
static int no_device(void) { return 100; }
int cuGetProcAddress_v2(const char *name, void **found, int version, unsigned long long flags, int *status) {
  if (status) *status = 0;
  if (!strcmp(name, "cuInit")) *found = cuInit;
  else if (!strcmp(name, "cuDriverGetVersion")) *found = cuDriverGetVersion;
  else if (!strcmp(name, "cuGetExportTable")) *found = cuGetExportTable;
  else if (!strcmp(name, "cuGetProcAddress")) *found = cuGetProcAddress_v2;
  else *found = no_device;
  return 0;
}
int cuGetProcAddress(const char *name, void **found, int version, unsigned long long flags) {
  return cuGetProcAddress_v2(name, found, version, flags, 0);
}
"""


@pytest.mark.skipif(torch.version.cuda is None or not shutil.which("cc"), reason="needs torch for CUDA and a compiler")
def test_a_candidate_on_the_cpu_of_a_machine_with_a_driver_does_not_start_it(tmp_path, monkeypatch):
    """torch counts the cards before its first backward pass, also where none is visible, and the zygote takes one."""
    (tmp_path / "driver.c").write_text(DRIVER)
    library = ["-o", str(tmp_path / "libcuda.so.1"), str(tmp_path / "driver.c")]
    subprocess.run(["cc", "-shared", "-fPIC", *library, "-lpthread"], check=True)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    with Sandbox(setup="nngpt_lab.candidates.training") as sandbox:
        assert sandbox.isolation
    monkeypatch.setattr(parent, "NO_DRIVER", tmp_path)
    with pytest.raises(SandboxError, match="starts threads when imported"):
        Sandbox(setup="nngpt_lab.candidates.training").start()


OTHER_SOCKETS = """
import errno, os, socket
def try_out(payload, shared):
    open_to_it = []
    for family, kind in ((1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 5), (10, 1), (16, 3), (17, 3), (1, 5 | 0x80000)):
        try:
            socket.socket(family, kind).close()
            open_to_it.append([family, kind])
        except OSError:
            pass
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as one, socket.socket(1, 5) as two:
        two.bind(b"\\0nobody-connects")
        two.listen(1)
        calls = {"connect": lambda: one.connect(b"\\0nobody-connects"), "memfd": lambda: os.memfd_create("x")}
        for what, call in calls.items():
            try:
                call()
                open_to_it.append(what)
            except PermissionError:
                pass
    return open_to_it, {}
"""


def test_the_driver_gets_no_more_than_it_needs(tmp_path, monkeypatch):
    (tmp_path / "other_sockets.py").write_text(OTHER_SOCKETS)
    monkeypatch.syspath_prepend(tmp_path)
    with Sandbox(setup="other_sockets", gpu=True) as sandbox:
        report = sandbox.run("try_out", {})
    if "seccomp" not in report.isolation:
        pytest.skip("no seccomp here")
    assert (report.status, report.value) == (Status.OK, [[1, 5 | 0x80000]])  # its own kind, closed on exec
