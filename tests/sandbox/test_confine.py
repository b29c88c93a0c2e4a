"""The sandbox's layers one by one, and what holds where some are missing or where nobody is root."""

from __future__ import annotations

import errno
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nngpt_lab.ground import isolation
from nngpt_lab.sandbox import confine, task
from nngpt_lab.sandbox.parent import Sandbox
from nngpt_lab.sandbox.status import Status
from tests.sandbox import test_parent

if not confine.LINUX:
    pytest.skip("Linux confinement", allow_module_level=True)

ROOT = Path(confine.__file__).parents[2]
attack, SHORT = test_parent.attack, test_parent.SHORT


def confined(code: str) -> str:
    """What a fresh process prints that confines itself and is then asked something."""
    head = "import os, sys, json, ctypes\nfrom nngpt_lab.sandbox import confine\n"
    done = subprocess.run([sys.executable, "-c", head + code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# --- one layer at a time ------------------------------------------------------------------------------------------


@pytest.mark.skipif(not confine.landlock_abi(), reason="no Landlock in this kernel")
def test_landlock_alone_confines_files(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.write_text("canary", encoding="ascii")
    said = confined(f"""
confine.drop_capabilities()
rules = confine.file_rules()
confine.allow_files(rules, writable=[{str(inside)!r}])
confine.restrict_files(rules)
open({str(inside / "mine")!r}, "w").write("x")
for attempt in (lambda: open({str(outside)!r}), lambda: os.listdir("/"), lambda: os.unlink({str(outside)!r}),
                lambda: os.rename({str(outside)!r}, {str(inside / "moved")!r}),
                lambda: os.link({str(outside)!r}, {str(inside / "link")!r}),
                lambda: os.symlink({str(outside)!r}, {str(inside / "soft")!r}) or open({str(inside / "soft")!r})):
    try:
        attempt()
        print("got through")
    except OSError as error:
        print(error.errno)
""")
    assert set(said.split("\n")) <= {str(errno.EACCES), str(errno.EXDEV)}, said
    assert outside.read_text(encoding="ascii") == "canary"


@pytest.mark.skipif(not confine.seccomp_works(), reason="no seccomp filter for this machine")
def test_seccomp_alone_refuses_and_lets_live():
    said = confined("""
import socket, threading
confine.filter_syscalls()
for attempt in (socket.socket, lambda: os.kill(os.getppid(), 9), lambda: os.execv("/bin/true", ["x"]),
                lambda: os.unshare(0) if hasattr(os, "unshare") else os.chmod("/", 0)):
    try:
        attempt()
        print("got through")
    except PermissionError:
        print("refused")
thread = threading.Thread(target=print, args=("thread",))
thread.start()
thread.join()
pid = os.fork()
if pid == 0:
    os._exit(0)
print(os.waitpid(pid, 0)[1], open("/proc/self/status").read().count("Seccomp:\\t2"))
""")
    assert said.split("\n") == ["refused"] * 4 + ["thread", "0 1"]


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_is_well_formed(machine):
    """Every jump lands inside, the last instruction returns, and all calls that a table has are in it."""
    steps = [struct.unpack("=HBBI", step) for step in confine._filter(machine, 42)]
    assert len(steps) < 4096 and steps[-1] == (confine._RETURN, 0, 0, confine._PASS)
    for place, (code, true, false, _) in enumerate(steps):
        if code & 7 == 5:  # a jump
            assert place + 1 + max(true, false) < len(steps)
    words = confine._REFUSED.split()
    assert len(words) % 3 == 0 and len(set(words[::3])) == len(words) // 3
    for column in (1, 2):
        numbers = [int(number) for number in words[column::3] if int(number) >= 0]
        assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_decides_as_meant(machine):
    """A small interpreter of the filter, for both machines, since a test runs on one only."""
    kill, tgkill, clone, prctl, prlimit, ioctl, fcntl, *opens = confine._EXAMINED[machine]
    own = 42

    def decide(number: int, *arguments: int, arch: int = confine._AUDIT_ARCH[machine], cuda: bool = False) -> int:
        data = struct.pack("=IIQ6Q", number, arch, 0, *arguments, *[0] * (6 - len(arguments)))
        steps = [struct.unpack("=HBBI", step) for step in confine._filter(machine, own, cuda)]
        place = value = 0
        while True:
            code, true, false, k = steps[place]
            place += 1
            if code == confine._RETURN:
                return k
            if code == confine._LOAD:
                value = struct.unpack_from("=I", data, k)[0]
            elif code == confine._AND:
                value &= k
            else:
                tests = {confine._EQUAL: value == k, confine._AT_LEAST: value >= k, confine._ANY_BIT: value & k}
                place += true if tests[code] else false

    refuse, allow = confine._REFUSE, confine._PASS
    words = confine._REFUSED.split()
    numbers = [int(n) for n in words[1 if machine == "x86_64" else 2 :: 3] if int(n) >= 0]
    assert {decide(number) for number in numbers} == {refuse}
    assert decide(kill, own) == decide(tgkill, own, own) == allow
    assert {decide(call, pid) for call in (kill, tgkill) for pid in (1, 0, 2**64 - 1, 43)} == {refuse}
    assert decide(clone, 0x3D0F00) == decide(clone, 17) == allow  # a thread, a fork
    assert decide(clone, confine.NEWUSER | 17) == decide(clone, confine.NEWPID | 17) == refuse
    assert {decide(number) for number in confine._OUT_OF_REACH} == {confine._ABSENT}
    assert decide(prctl, 15) == allow and decide(prctl, 36) == decide(prctl, 1) == refuse
    assert decide(prlimit, 0) == allow and decide(prlimit, 7) == refuse
    changes = (0x5412, 0x541C, 0x40086602, 0x40087602, 0x401C5820, 0x40806685, 0x8901, 0x8902, 0x5452, 0xC0045877, 1)
    assert decide(ioctl, 0, 0x5413) == allow and {decide(ioctl, 0, request) for request in changes} == {refuse}
    for_cuda = {decide(ioctl, 0, request, cuda=True) for request in (0xC020462A, 0x30000001, 37, 0x5401)}
    assert for_cuda == {allow} and {decide(ioctl, 0, request, cuda=True) for request in changes[:-1]} == {refuse}
    assert {decide(fcntl, 0, command) for command in (0, 1, 2, 3, 4, 1030)} == {allow}
    signals_leases_watches_pipes = {decide(fcntl, 0, command) for command in (8, 10, 15, 1024, 1026, 1031)}
    assert signals_leases_watches_pipes == {refuse}
    for place, number in enumerate(opens):
        if number >= 0:
            before = [0] * (place + 1)  # open(path, flags), openat(folder, path, flags)
            assert {decide(number, *before, how) for how in (0, 1, 2, 0x241, 0x242, 0x80000)} == {allow}
            assert {decide(number, *before, how) for how in (3, 0x200, 0x203, 0x80200)} == {refuse}
    assert decide(3, arch=0x40000003) == confine._KILL
    assert {decide(number) for number in (1, 3, 8, 439)} == {allow}
    assert decide(470) == decide(9999) == confine._ABSENT


def test_resource_limits_never_rise():
    said = confined("""
import resource
confine.limit("NOFILE", 64)
confine.limit("NOFILE", 9999)
confine.limit("NO_SUCH_LIMIT", 1)
print(resource.getrlimit(resource.RLIMIT_NOFILE))
""")
    assert said == "(64, 64)"


def test_statuses_of_exceptions():
    def nested(outer, inner):
        outer.__cause__ = inner
        return outer

    cases = {
        Status.OUT_OF_MEMORY: [
            MemoryError(),
            RuntimeError("DefaultCPUAllocator: not enough"),
            OSError(12, "Cannot allocate memory"),
        ],
        Status.FORBIDDEN: [
            PermissionError(1, "x"),
            OSError(errno.ENOSPC, "x"),
            nested(ValueError(), PermissionError()),
            RuntimeError("can't start new thread"),
        ],
        Status.CRASH: [ValueError(), SystemExit(0), FileNotFoundError(2, "x"), task.Failure(Status.OK, "")],
        Status.SYNTAX: [SyntaxError()],
        Status.SHAPE: [task.Failure(Status.SHAPE, "")],
    }
    for status, errors in cases.items():
        assert {task.status_of(error) for error in errors} == {status}


# --- without namespaces -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weak():
    """The user said that candidates may run with whatever layers there are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(isolation.VARIABLE, "weak")
        yield


@pytest.fixture(scope="module")
def bare(weak):
    """As on a machine that refuses namespaces."""
    if not (confine.landlock_abi() and confine.seccomp_works()):
        pytest.skip("neither namespaces nor the rest")
    images = np.ones((8, 4), np.float32)
    with Sandbox(
        test_parent.LIMITS, ("tests.sandbox.test_parent", "torch"), shared={"images": images}, namespaces=False
    ) as sandbox:
        assert not any("namespace" in layer for layer in sandbox.isolation)
        yield sandbox


@pytest.fixture
def bystander():
    """Another process of the same user, which must outlive every attack."""
    process = subprocess.Popen(["sleep", "600"])
    yield process.pid
    assert process.poll() is None
    process.kill()
    process.wait()


SIGNALS = "import os\nos.kill(payload['bystander'], 9)"
NETWORK = "import socket\nsocket.create_connection(('127.0.0.1', 1))"
WRITES = "open('a', 'wb').write(bytes(15 << 20))\nopen('b', 'wb').write(bytes(15 << 20))\nimport time\ntime.sleep(60)"
ESCAPE = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.setsid()
        while True: time.sleep(0.01)
    os._exit(0)
time.sleep(0.2)
"""
FORKS = "import os, time\nfor _ in range(300):\n  if os.fork() == 0: time.sleep(60)"
BARE = {
    "signal": (SIGNALS, Status.FORBIDDEN),
    "network": (NETWORK, Status.FORBIDDEN),
    "read": ("open('/etc/passwd')", Status.FORBIDDEN),
    "other processes": ("open(f\"/proc/{payload['bystander']}/environ\")", Status.FORBIDDEN),
    "fill the disk": (WRITES, Status.FORBIDDEN),
    "fork bomb": (FORKS, Status.FORBIDDEN),
    "endless": ("while True: pass", Status.TIMEOUT),
    "daemon": (ESCAPE, Status.OK),
    "daemon and endless": (ESCAPE + "\nwhile True: pass", Status.TIMEOUT),
    "daemon and crash": (ESCAPE + "\nos._exit(1)", Status.CRASH),
    "locked folder": ("import os\nos.makedirs('x/y')\nos.umask(0)\nos.mkdir('x/z', 0)", Status.OK),
    "link out": ("import os\nos.symlink('/etc', 'x')\nos.symlink('/etc/passwd', 'y')", Status.OK),
}


@pytest.mark.parametrize("name", BARE)
def test_without_namespaces(bare, bystander, name):
    code, status = BARE[name]
    launcher = bare._process.pid
    limits = SHORT if status == Status.TIMEOUT else None
    report = attack(bare, code, limits, bystander=bystander)
    assert report.status == status, report
    survivors = confine.descendants(bare._process.pid if bare._process else launcher)
    assert not survivors
    after = bare.run("benign", {}, expect=test_parent.PREDICTIONS)
    assert (after.status, after.value) == (Status.OK, {"clean": True, "left_over": []}), after


# --- as nobody ----------------------------------------------------------------------------------------------------

UNPRIVILEGED = """
import json, sys
sys.path[:0] = json.loads(sys.argv[1])
from nngpt_lab.sandbox.parent import Limits, Sandbox
limits = Limits(wall_seconds=30, memory_mib=1024, processes=24)
codes = ["value = 1", "open('/etc/passwd')", "import os\\nos.kill(os.getppid(), 9)", "import socket\\nsocket.socket()",
         "import os, time\\nfor _ in range(300):\\n  if os.fork() == 0: time.sleep(60)", "open('x', 'w').write('x')"]
with Sandbox(limits, "tests.sandbox.test_parent") as sandbox:
    print(json.dumps([sandbox.isolation, [sandbox.run("execute", {"code": code}).status for code in codes]]))
"""


def check_unprivileged(command: list[str]) -> None:
    """Run the attacks of UNPRIVILEGED under a command, or skip where that cannot run this Python."""
    paths = json.dumps([str(ROOT)])
    nested = "import subprocess, sys, torch, pytest; subprocess.run([sys.executable, '-c', ''], check=True)"
    try:
        subprocess.run([*command, "-c", nested], check=True, capture_output=True, timeout=300, cwd="/")
    except (OSError, subprocess.SubprocessError):
        pytest.skip(f"{command[0]} cannot run this Python here")
    environment = {"PATH": os.environ["PATH"]}
    call = [*command, "-c", UNPRIVILEGED, paths]
    done = subprocess.run(call, capture_output=True, text=True, timeout=300, cwd="/", env=environment)
    assert done.returncode == 0, done.stderr
    isolation, statuses = json.loads(done.stdout)
    assert statuses == ["ok", "forbidden", "forbidden", "forbidden", "forbidden", "ok"], isolation


def test_as_root_of_a_container_that_knows_no_other_user():
    """The kernel never counts root's processes, and here it cannot become another; then the parent's count remains."""
    check_unprivileged(["unshare", "--user", "--map-root-user", sys.executable])


@pytest.mark.skipif(os.geteuid() != 0, reason="the whole suite runs unprivileged here already")
def test_as_nobody():
    check_unprivileged(
        ["setpriv", f"--reuid={confine.NOBODY}", f"--regid={confine.NOBODY}", "--clear-groups", sys.executable]
    )
