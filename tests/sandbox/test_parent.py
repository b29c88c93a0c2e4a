"""Attacks on the sandbox, one each. After every one a benign task must find everything as it was: see ``unharmed``.

Each attack is bounded, so that a sandbox that fails costs a red test and not the machine. The code runs as a language
model's would: as a string, executed by a trusted function of ours (:func:`execute`) in the confined process. How the
layers behave one by one, and without namespaces, is in ``test_confine.py``.
"""

from __future__ import annotations

import contextlib
import os
import socket
import textwrap
from pathlib import Path

import numpy as np
import pytest
from joblib.externals.loky import get_reusable_executor

from nngpt_lab.sandbox import confine
from nngpt_lab.sandbox.parent import Limits, Report, Sandbox
from nngpt_lab.sandbox.status import Status

if not confine.LINUX:
    pytest.skip("the sandbox confines on Linux only", allow_module_level=True)

LIMITS = Limits(wall_seconds=60, cpu_seconds=60, memory_mib=1024, processes=24, file_mib=16, output_kib=256)
SHORT = Limits(wall_seconds=1, cpu_seconds=60, memory_mib=1024, processes=24, file_mib=16, output_kib=256)
PREDICTIONS = {"predictions": ("float32", (8, 3))}


def execute(payload, arrays):
    """The trusted task: run the code and return what it left in ``value`` and ``out``."""
    space = {"arrays": arrays, "payload": payload, "__name__": "candidate"}
    exec(compile(payload["code"], "candidate", "exec"), space)
    return space.get("value"), space.get("out", {})


def benign(payload, arrays):
    """What a well-behaved candidate does: read, compute with torch, write, import something late."""
    import colorsys  # noqa: F401

    import torch

    Path("scratch").write_text("mine", encoding="ascii")
    left_over = sorted(set(os.listdir()) - {"scratch"})  # noqa: PTH208
    images = torch.from_numpy(np.array(arrays["images"]))
    product = torch.nn.functional.relu(torch.nn.Linear(4, 3)(images))
    clean = not hasattr(torch, "hacked") and len([0, 1]) == 2 and float(images.sum()) == 32
    return {"clean": clean, "left_over": left_over}, {"predictions": product.detach().numpy()}


@contextlib.contextmanager
def canary_box(*setup: str, **options):
    """A sandbox to attack, with an open descriptor and a variable outside that no task may find."""
    # joblib's workers, which other tests leave waiting, would leave in the middle of a count of processes and files
    get_reusable_executor(reuse=True).shutdown(wait=True, kill_workers=True)
    canary = os.open("/etc/hostname", os.O_RDONLY)
    os.set_inheritable(canary, True)
    os.environ["CANARY"] = "canary-in-the-environment"
    images = np.ones((8, 4), np.float32)
    with Sandbox(LIMITS, setup, shared={"images": images}, **options) as sandbox:
        sandbox.canary = canary
        yield sandbox
    os.close(canary)
    del os.environ["CANARY"]


@contextlib.contextmanager
def clean_afterwards(box):
    """After what is done within, the next task is clean, and no descriptor is left."""
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    yield
    report = box.run("benign", {}, expect=PREDICTIONS)
    assert (report.status, report.value) == (Status.OK, {"clean": True, "left_over": []}), report
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


@pytest.fixture(scope="module")
def box():
    with canary_box(__name__, "torch") as sandbox:
        yield sandbox


@pytest.fixture(autouse=True)
def unharmed(box):
    """After each attack: the next task is clean, no process is left, and no descriptor."""
    with clean_afterwards(box):
        yield
    below = confine.descendants(box._process.pid)
    assert len(below) == ("pid namespace" in box.isolation), below


def attack(box: Sandbox, code: str, limits: Limits | None = None, **payload) -> Report:
    return box.run("execute", {"code": textwrap.dedent(code), **payload}, limits=limits)


# --- never ending -------------------------------------------------------------------------------------------------

ENDLESS = {
    "python": "while True: pass",
    "inside a C call": "pow(3, 10**9)",
    "inside C with signals blocked": """
        import signal
        signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 64))
        sum(iter(int, 1))
    """,
    "inside torch": "import torch\nx = torch.ones(1500, 1500)\nwhile True: x @ x",
    "asleep": "import time\ntime.sleep(600)",
    "catching everything": """
        while True:
            try:
                while True: pass
            except BaseException:
                pass
    """,
    "ignoring signals": """
        import signal, time
        for number in range(1, 65):
            try: signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError): pass
        time.sleep(600)
    """,
    "in a finally": "try: raise SystemExit\nfinally:\n  while True: pass",
    "in another thread": "import threading\nthreading.Thread(target=lambda: [0 for _ in iter(int, 1)]).run()",
}


@pytest.mark.parametrize("name", ENDLESS)
def test_endless(box, name):
    report = attack(box, ENDLESS[name], SHORT)
    assert (report.status, report.killed) == (Status.TIMEOUT, True), report


def test_cpu_time_is_limited_even_if_the_warning_is_ignored(box):
    limits = Limits(wall_seconds=60, cpu_seconds=1, memory_mib=1024)
    report = attack(box, "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass", limits)
    assert (report.status, report.killed) == (Status.TIMEOUT, False), report


# --- bombs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["x = bytearray(4 << 30)", "import torch\nx = torch.ones(1 << 30)"])
def test_memory_bomb(box, code):
    assert attack(box, code).status == Status.OUT_OF_MEMORY


def test_memory_bomb_shared_by_many_processes(box):
    code = """
        import os, time
        for _ in range(6):
            if os.fork() == 0:
                held = bytearray(b"x") * (600 << 20)
                time.sleep(60)
        time.sleep(60)
    """
    report = attack(box, code)
    assert (report.status, report.killed) == (Status.OUT_OF_MEMORY, True), report


def test_fork_bomb(box):
    code = """
        import os, time
        for _ in range(300):
            if os.fork() == 0:
                time.sleep(60)
    """
    assert attack(box, code).status == Status.FORBIDDEN


def test_thread_bomb(box):
    code = """
        import threading, time
        for _ in range(300):
            threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    """
    assert attack(box, code).status == Status.FORBIDDEN


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_huge_output(box, stream):
    report = attack(box, f"import sys\nfor _ in range(2000): sys.{stream}.write('x' * 100000)")
    assert (report.status, report.killed) == (Status.FORBIDDEN, True), report
    assert len(report.output) < 10000


def test_huge_answer(box):
    code = "import os\nfor _ in range(2000): os.write(3, b'x' * 100000)"
    assert attack(box, code).status == Status.FORBIDDEN


def test_filling_the_disk(box):
    code = """
        for number in range(20):
            with open(f"file{number}", "wb") as file:
                file.write(bytes(10 << 20))
    """
    assert attack(box, code).status == Status.FORBIDDEN


# --- files --------------------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path):
    """A home and a cache with something to steal and to spoil."""
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "id_rsa").write_text("canary", encoding="ascii")
    (tmp_path / ".cache").mkdir()
    yield tmp_path
    assert (tmp_path / ".ssh" / "id_rsa").read_text(encoding="ascii") == "canary"
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".cache", ".ssh", "id_rsa"]


FILES = {
    "write to home": "open(payload['home'] + '/spoiled', 'w')",
    "write to the cache": "open(payload['home'] + '/.cache/spoiled', 'w')",
    "read a key": "value = open(payload['home'] + '/.ssh/id_rsa').read()",
    "list": "import os\nvalue = os.listdir(payload['home'])",
    "delete": "import os\nos.unlink(payload['home'] + '/.ssh/id_rsa')",
    "truncate": "import os\nos.truncate(payload['home'] + '/.ssh/id_rsa', 0)",
    "change rights": "import os\nos.chmod(payload['home'] + '/.ssh/id_rsa', 0o777)",
    "change times": "import os\nos.utime(payload['home'] + '/.ssh/id_rsa')",
    "symbolic link": "import os\nos.symlink(payload['home'] + '/.ssh/id_rsa', 'link')\nvalue = open('link').read()",
    "hard link": "import os\nos.link(payload['home'] + '/.ssh/id_rsa', payload['home'] + '/link')",
    "rename": "import os\nos.rename(payload['home'] + '/.ssh/id_rsa', payload['home'] + '/moved')",
    "read passwd": "value = open('/etc/passwd').read()",
    "write into the package": "import nngpt_lab\nopen(nngpt_lab.__file__, 'a')",
    "write into torch": "import torch\nopen(torch.__file__, 'a')",
    "parent's environment": "value = open(f\"/proc/{payload['parent']}/environ\").read()",
    "own environment at start": "value = open('/proc/self/environ').read()",
    "parent's memory": "open(f\"/proc/{payload['parent']}/mem\", 'rb')",
    "physical memory": "open('/dev/mem', 'rb')",
    "kernel memory": "open('/proc/kcore', 'rb')",
    "execute": "import subprocess\nsubprocess.run(['/bin/true'])",
    "execute by a call": "import os\nos.execv('/bin/sh', ['sh'])",
    "device": "import os, stat\nos.mknod('disk', stat.S_IFBLK | 0o600, os.makedev(8, 0))",
}


@pytest.mark.parametrize("name", FILES)
def test_files(box, home, name):
    report = attack(box, FILES[name], home=str(home), parent=os.getpid())
    absent = "FileNotFoundError" in report.message and name in ("physical memory", "kernel memory")
    assert absent or report.status == Status.FORBIDDEN, report
    assert "canary" not in str(report)


def test_hard_link_into_the_private_folder(box, home):
    report = attack(box, "import os\nos.link(payload['home'] + '/.ssh/id_rsa', 'link')", home=str(home))
    assert report.status in (Status.FORBIDDEN, Status.CRASH), report  # another file system, or not allowed


def test_environment_holds_nothing_of_ours(box):
    report = attack(box, "import os\nvalue = dict(os.environ)")
    assert "canary" not in str(report.value) and report.value["HOME"] != str(Path.home())


def test_descriptors_are_closed(box):
    code = """
        import os
        value = []
        for number in range(4096):
            try: os.fstat(number)
            except OSError: continue
            value.append(number)
    """
    assert attack(box, code).value == [0, 1, 2, 3]
    assert attack(box, "import os\nos.read(payload['canary'], 1)", canary=box.canary).status == Status.CRASH


def test_shared_arrays_stay_as_they_are(box):
    assert attack(box, "arrays['images'][0] = 7").status == Status.CRASH
    code = """
        import ctypes
        x = arrays["images"]
        place = x.ctypes.data & ~4095
        value = ctypes.CDLL(None).mprotect(ctypes.c_void_p(place), ctypes.c_size_t(4096), 3)
        ctypes.memset(x.ctypes.data, 0, x.nbytes)
    """
    assert attack(box, code).message == "killed by SIGSEGV"  # benign() then finds the ones it expects


# --- network ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6", "AF_UNIX", "abstract"])
def test_sockets(box, family, tmp_path):
    kind = socket.AF_UNIX if family == "abstract" else getattr(socket, family)
    address = {"abstract": f"\0canary-{os.getpid()}", "AF_UNIX": f"{tmp_path}/socket", "AF_INET": ("127.0.0.1", 0)}
    with socket.socket(kind, socket.SOCK_STREAM) as server:
        try:
            server.bind(address.get(family, ("::1", 0)))
        except OSError as error:
            pytest.skip(f"no {family} here: {error}")
        server.listen()
        server.setblocking(False)
        code = f"""
            import socket
            socket.socket({int(kind)}, socket.SOCK_STREAM).connect(eval(payload["address"]))
        """
        report = attack(box, code, address=repr(server.getsockname()))
        assert report.status == Status.FORBIDDEN, report
        with pytest.raises(BlockingIOError):
            server.accept()


def test_downloads_are_forbidden_rather_than_broken(box):
    code = "import torch\ntorch.hub.load_state_dict_from_url('https://download.pytorch.org/models/x.pth')"
    assert attack(box, code).status == Status.FORBIDDEN


# --- processes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["payload['parent']", "-payload['group']", "-1", "0", "1", "os.getppid()"])
@pytest.mark.parametrize("number", [9, 19])
def test_kill(box, target, number):
    report = attack(box, f"import os\nos.kill({target}, {number})", parent=os.getpid(), group=os.getpgrp())
    assert report.status == Status.FORBIDDEN, report


@pytest.mark.parametrize("ending", ["value = 'left'", "time.sleep(600)", "os._exit(1)", "ctypes.string_at(0)"])
def test_daemonised_grandchildren_die(box, ending, tmp_path):
    code = """
        import ctypes, os, signal, time
        for number in range(3):
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    os.setsid()
                    for number in (1, 2, 15): signal.signal(number, signal.SIG_IGN)
                    while True: time.sleep(0.01)
                os._exit(0)
        time.sleep(0.2)
    """
    report = attack(box, textwrap.dedent(code) + ending, SHORT if "600" in ending else None)
    assert (report.status == Status.OK) == ("left" in ending)  # the fixture then counts processes


CTYPES = {
    "ptrace": "ptrace(16, payload['parent'], None, None)",
    "process_vm_writev": "process_vm_writev(payload['parent'], None, 0, None, 0, 0)",
    "unshare": "unshare(0x10000000)",
    "setns": "setns(3, 0)",
    "mount": "mount(b'none', b'/', b'tmpfs', 0, None)",
    "bpf": "syscall(321, 0, None, 0)",
    "io_uring_setup": "syscall(425, 8, ctypes.create_string_buffer(256))",
    "memfd_create": "memfd_create(b'x', 0)",
    "shmget": "shmget(0, 4096, 0o1600)",
    "keep children past the parent": "prctl(36, 1, 0, 0, 0)",
    "be dumpable again": "prctl(4, 1, 0, 0, 0)",
    "be root again": "setresuid(0, 0, 0)",
    "limits of another": "prlimit(payload['parent'], 7, None, ctypes.create_string_buffer(16))",
    "a new namespace by clone": "syscall(56, 0x10000000 | 17, None, None, None, None)",
}


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="some calls are made by number")
@pytest.mark.parametrize("name", CTYPES)
def test_ctypes(box, name):
    code = f"""
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        value = [libc.{CTYPES[name]}, ctypes.get_errno()]
    """
    assert attack(box, code, parent=os.getpid()).value == [-1, 1]  # EPERM


def test_the_old_instruction_set_is_killed(box):
    code = """
        import ctypes, mmap
        place = mmap.mmap(-1, 4096, prot=7)
        place.write(bytes.fromhex("b814000000cd80c3"))  # mov eax, 20 (getpid); int 0x80; ret
        ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(place)))()
    """
    if os.uname().machine != "x86_64":
        pytest.skip("x86 code")
    assert attack(box, code).status in (Status.FORBIDDEN, Status.CRASH)


def test_raising_limits(box):
    code = "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))"
    assert attack(box, code).status in (Status.FORBIDDEN, Status.CRASH)


def test_monkey_patching_dies_with_the_task(box):
    code = """
        import builtins, sys, torch
        torch.hacked = True
        torch.nn.Linear.forward = lambda self, x: x * 0
        builtins.len = lambda x: 7
        sys.modules["numpy"] = None
        import nngpt_lab.sandbox.task as worker
        worker.status_of = lambda *_: "ok"
        worker.os._exit = lambda code: None
    """
    assert attack(box, code).status in (Status.OK, Status.CRASH)
