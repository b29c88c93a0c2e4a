"""Attacks against layers: each fails with everything on, and gets through once all layers of its row are off.

So no attack fails for a reason of its own, a misspelt call or a canary that is not there. Where a row names several
layers, each of them alone stops the attack, too. An attack gets through if it sets ``value`` to True, and ``evidence``,
where there is one, holds outside as well.
"""

from __future__ import annotations

import ctypes
import os
import re
import socket
import subprocess
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from nngpt_lab.ground import isolation
from nngpt_lab.sandbox import confine, parent
from nngpt_lab.sandbox.parent import Limits, Sandbox, layers_here
from nngpt_lab.sandbox.status import Status
from tests.helpers.waiting import wait_for

if not confine.LINUX or len(layers_here()) < 17:
    pytest.skip("not all layers are here", allow_module_level=True)

LIMITS = Limits(wall_seconds=60, cpu_seconds=60, memory_mib=256, processes=24, file_mib=16, output_kib=256)
N, L, S, P, R, W, E = "namespaces", "landlock", "seccomp", "privileges", "resource limits", "watch", "environment"
OFF = {  # what the zygote does without; namespaces, watch and environment are the parent's matter
    L: "confine.landlock_abi = lambda: 0",
    S: "confine.seccomp_works = lambda: False",
    P: "confine.drop_root = confine.drop_capabilities = lambda: None",
    R: "confine.limit = lambda *_: None",
    W: "task.written = lambda folder: 0",
}


@dataclass(frozen=True)
class Attack:
    """``layers``: what stops it, each alone. ``possible``: whether this machine lets anyone do it."""

    layers: str
    code: str
    evidence: Callable[[Any], bool] = field(default=lambda place: True)
    possible: Callable[[Any], bool] = field(default=lambda place: True)


def row(*layers: str, **more: Any) -> Callable[[str], Attack]:
    return lambda code: Attack(" ".join(layers), code, **more)


def libc(call: str) -> str:
    """Code that makes a call of libc's, and gets through if that does."""
    return f"import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nvalue = libc.{call} >= 0"


KEY = "P['home'] + '/.ssh/id_rsa'"
VICTIM = "P['home'] + '/victim'"
INODE_FLAGS = """
import fcntl, os, struct
file = os.open(P['home'] + '/victim', os.O_ACCMODE)  # neither to read nor to write: Landlock lets it pass
before = struct.unpack('i', fcntl.ioctl(file, 0x80086601, bytes(4)))[0]
fcntl.ioctl(file, 0x40086602, struct.pack('i', before ^ 0x80))  # FS_NOATIME_FL
value = struct.unpack('i', fcntl.ioctl(file, 0x80086601, bytes(4)))[0] != before
"""


def holds_flags(place: Any) -> bool:
    """Whether the file system has flags at all."""
    try:
        space = {"P": {"home": str(place.home)}}
        exec(INODE_FLAGS, space)
        return space["value"]
    except OSError:
        return False


def holds_attributes(place: Any) -> bool:
    try:
        os.setxattr(place.home / "other", "user.canary", b"1")
        return True
    except OSError:
        return False


def has_io_uring(place: Any) -> bool:
    return ctypes.CDLL(None).syscall(425, 8, ctypes.create_string_buffer(256)) >= 0


def struck(place: Any) -> bool:
    return place.struck()


ATTACKS = {
    # --- files
    "read a key": row(L)(f"value = open({KEY}).read() == 'canary'"),
    "read it through a link": row(L)(f"import os\nos.symlink({KEY}, 'link')\nvalue = open('link').read() == 'canary'"),
    "list a home": row(L)("import os\nvalue = '.ssh' in os.listdir(P['home'])"),
    "read the users": row(L)("value = 'root' in open('/etc/passwd').read()"),
    "read the labels of the digits": row(L)("import gzip\nvalue = b'0,0,5,13' in gzip.open(P['labels']).read(99)"),
    "write to a home": row(L, evidence=lambda place: (place.home / "planted").exists())(
        "value = open(P['home'] + '/planted', 'w').write('x') == 1"
    ),
    "delete": row(L, evidence=lambda place: not (place.home / "victim").exists())(
        f"import os\nvalue = os.unlink({VICTIM}) is None"
    ),
    "rename": row(L)(f"import os\nos.rename({VICTIM}, P['home'] + '/moved')\nvalue = True"),
    "hard link": row(L)(f"import os\nos.link({VICTIM}, P['home'] + '/twice')\nvalue = True"),
    "empty a file by reading it": row(L, S)(
        f"import os\nos.open({VICTIM}, os.O_RDONLY | os.O_TRUNC)\nvalue = os.stat({VICTIM}).st_size == 0"
    ),
    "empty a file by name": row(L, S)(f"import os\nos.truncate({VICTIM}, 0)\nvalue = os.stat({VICTIM}).st_size == 0"),
    "change rights": row(S)(
        f"import os\nos.chmod({VICTIM}, 0o777)\nvalue = os.stat({VICTIM}).st_mode & 0o777 == 0o777"
    ),
    "change times": row(S)(f"import os\nos.utime({VICTIM}, (1, 1))\nvalue = os.stat({VICTIM}).st_mtime == 1"),
    "attributes of a file": row(S, possible=holds_attributes)(
        f"import os\nos.setxattr({VICTIM}, 'user.canary', b'1')\nvalue = True"
    ),
    "flags of an inode": row(S, possible=holds_flags)(INODE_FLAGS),
    "hold a lease": row(L, S)(f"import fcntl\nfcntl.fcntl(open({VICTIM}), 1024, fcntl.F_RDLCK)\nvalue = True"),
    "run a program": row(L, S)(
        "import os\npid = os.posix_spawn('/bin/true', ['true'], {})\nvalue = os.waitpid(pid, 0)[1] == 0"
    ),
    # --- network
    "connect to the network": row(N, L, S, evidence=lambda place: bool(place.tcp.accept()))(
        "import socket\nvalue = bool(socket.create_connection(tuple(P['tcp'])))"
    ),
    "send a datagram": row(N, S, evidence=lambda place: place.udp.recv(9) == b"canary")(
        "import socket\none = socket.socket(type=2)\nvalue = one.sendto(b'canary', tuple(P['udp'])) == 6"
    ),
    "a local socket by its path": row(S, evidence=lambda place: bool(place.path.accept()))(
        "import socket\nvalue = socket.socket(socket.AF_UNIX).connect(P['path']) is None"
    ),
    "a local socket by its name": row(N, L, S, evidence=lambda place: bool(place.name.accept()))(
        "import socket\nvalue = socket.socket(socket.AF_UNIX).connect('\\0' + P['name']) is None"
    ),
    "a datagram from a pair": row(S, evidence=lambda place: place.datagrams.recv(9) == b"canary")(
        "import socket\none, _ = socket.socketpair(type=2)\nvalue = one.sendto(b'canary', P['datagrams']) == 6"
    ),
    # --- other processes
    "kill": row(N, L, S, evidence=struck)("import os\nvalue = os.kill(P['bystander'], 9) is None"),
    "kill by a descriptor's owner": row(N, L, S, evidence=struck)("""
        import fcntl, os
        end, other = os.pipe()
        fcntl.fcntl(end, fcntl.F_SETOWN, P['bystander'])
        fcntl.fcntl(end, 10, 9)  # F_SETSIG
        fcntl.fcntl(end, fcntl.F_SETFL, os.O_ASYNC)
        value = os.write(other, b'x') == 1
    """),
    "kill by a descriptor's owner and ioctl": row(N, L, S, evidence=struck)("""
        import fcntl, os, struct
        end, other = os.pipe()
        fcntl.fcntl(end, 15, struct.pack('ii', 1, P['bystander']))  # F_SETOWN_EX
        fcntl.ioctl(end, 0x5452, struct.pack('i', 1))  # FIOASYNC: SIGIO, which ends who does not expect it
        value = os.write(other, b'x') == 1
    """),
    "slow another down": row(N, S, P, evidence=lambda place: os.getpriority(os.PRIO_PROCESS, place.bystander.pid) == 7)(
        "import os\nvalue = os.setpriority(os.PRIO_PROCESS, P['bystander'], 7) is None"
    ),
    "tie another to a core": row(N, S, P)("import os\nvalue = os.sched_setaffinity(P['bystander'], {0}) is None"),
    "limits of another": row(N, S, P)(libc("prlimit(P['bystander'], 7, None, ctypes.create_string_buffer(16))")),
    "environment of another": row(N, L, P)(
        "value = b'canary' in open(f\"/proc/{P['bystander']}/environ\", 'rb').read()"
    ),
    "memory shared with others": row(N, S)(libc("shmget(P['shared'], 4096, 0)")),
    # --- the kernel
    "a namespace of one's own": row(S)(libc("unshare(0x10000000)")),
    "a mount": row(L, S, P)("import os\nos.mkdir('m')\n" + libc("mount(b'none', b'm', b'tmpfs', 0, None)")),
    "watch a folder": row(S)(libc("inotify_add_watch(libc.inotify_init1(0), P['home'].encode(), 0x100)")),
    "watch a folder by its descriptor": row(L, S)(
        "import fcntl, os\nvalue = fcntl.fcntl(os.open(P['home'], os.O_RDONLY), fcntl.F_NOTIFY, fcntl.DN_CREATE) == 0"
    ),
    "watch all files": row(S)(libc("fanotify_init(0x200, 0)")),
    "asynchronous reading": row(S)(libc("syscall(206 if P['x86'] else 0, 8, ctypes.byref(ctypes.c_ulong(0)))")),
    "rings": row(S, R, possible=has_io_uring)(libc("syscall(425, 8, ctypes.create_string_buffer(256))")),
    "a file without a name": row(S)(libc("memfd_create(b'x', 0)")),
    "a key in the kernel": row(S)(libc("syscall(248 if P['x86'] else 217, b'user', b'canary', b'x', 1, -2)")),
    "be dumpable again": row(S)(libc("prctl(4, 1, 0, 0, 0)")),
    "outlive the supervisor": row(S)(libc("prctl(1, 0, 0, 0, 0)")),
    "another personality": row(S)(libc("personality(0xffffffff)")),
    # --- resources
    "memory": row(R, W)("import time\nheld = bytearray(b'x') * (400 << 20)\ntime.sleep(10)\nvalue = len(held) > 0"),
    "processes": row(R, W)("""
        import os, time
        pids = []
        for _ in range(40):
            pids.append(os.fork())
            if not pids[-1]:
                time.sleep(60)
        time.sleep(10)
        value = len(pids) == 40
    """),
    "a large file": row(N, R, W)("value = open('large', 'wb').write(bytes(32 << 20)) == 32 << 20"),
    "descriptors": row(R)("import os\nvalue = len([os.dup(0) for _ in range(300)]) == 300"),
    "timers": row(R)("""
        import ctypes
        libc, timer = ctypes.CDLL(None), ctypes.c_void_p()
        value = sum(libc.timer_create(1, None, ctypes.byref(timer)) == 0 for _ in range(500)) == 500
    """),
    "buffers of sockets": row(S)("""
        import socket
        pairs = [socket.socketpair() for _ in range(50)]
        for one, _ in pairs:
            one.setblocking(False)
        value = sum(one.send(bytes(100_000)) for one, _ in pairs) > 4 << 20
    """),
    # --- what is handed down
    "environment": row(E)("import os\nvalue = os.environ.get('CANARY') == 'canary'"),
}


class Place:
    """What attacks are after: a home, a bystander, and servers that wait to be reached."""

    def __init__(self, folder: Path):
        self.home = folder
        (folder / ".ssh").mkdir()
        for name in (".ssh/id_rsa", "victim", "other"):
            (folder / name).write_text("canary", encoding="ascii")
        self.bystander = subprocess.Popen(["sleep", "600"], env={"CANARY": "canary", "PATH": os.environ["PATH"]})
        self.tcp, self.udp = socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))
        self.path, self.name = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
        self.datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.path.bind(f"{folder}/socket")
        self.datagrams.bind(f"{folder}/datagrams")
        self.name.bind(f"\0canary-{os.getpid()}-{id(self)}")
        for server in (self.path, self.name):
            server.listen()
        self.servers = (self.tcp, self.udp, self.path, self.name, self.datagrams)
        for server in self.servers:
            server.settimeout(30)
        self.key = 0x15150000 | os.getpid() & 0xFFFF
        self.shared = ctypes.CDLL(None).shmget(self.key, 4096, 0o1600)

    def payload(self) -> dict[str, Any]:
        import sklearn

        labels = Path(sklearn.__file__).parent / "datasets" / "data" / "digits.csv.gz"
        return {
            "home": str(self.home),
            "labels": str(labels),
            "bystander": self.bystander.pid,
            "tcp": self.tcp.getsockname(),
            "udp": self.udp.getsockname(),
            "path": f"{self.home}/socket",
            "datagrams": f"{self.home}/datagrams",
            "name": f"canary-{os.getpid()}-{id(self)}",
            "shared": self.key,
            "x86": os.uname().machine == "x86_64",
        }

    def struck(self) -> bool:
        """Whether the bystander is dead, or has a signal before it that it has not looked at yet."""
        status = Path(f"/proc/{self.bystander.pid}/status").read_text(encoding="ascii")
        pending = re.findall(r"^(?:SigPnd|ShdPnd):\s*(\w+)", status, re.MULTILINE)
        return "State:\tZ" in status or any(int(signals, 16) for signals in pending)

    def close(self) -> None:
        self.bystander.kill()
        self.bystander.wait()
        for server in self.servers:
            server.close()
        ctypes.CDLL(None).shmctl(self.shared, 0, None)


@pytest.fixture
def place(tmp_path):
    made = Place(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="module")
def boxes(tmp_path_factory):
    """A sandbox for each set of layers that are off, kept until the end of the module."""
    folder, opened = tmp_path_factory.mktemp("off"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv(isolation.VARIABLE, "weak")
        patch.setenv("CANARY", "canary")

        def get(off: frozenset[str]) -> Sandbox:
            if off not in opened:
                name = "off_" + "_".join(sorted(off)).replace(" ", "_")
                lines = ["from nngpt_lab.sandbox import confine, task", *(OFF[layer] for layer in off if layer in OFF)]
                (folder / f"{name}.py").write_text("\n".join(lines))
                with pytest.MonkeyPatch.context() as own:
                    if E in off:
                        scrubbed = parent._environment
                        own.setattr(parent, "_environment", lambda *given: scrubbed(*given) | {"CANARY": "canary"})
                    opened[off] = Sandbox(LIMITS, ("tests.helpers.attack_task", name), namespaces=N not in off)
                    opened[off].start()
            return opened[off]

        yield get
        for box in opened.values():
            box.close()


def gets_through(attack: Attack, off: frozenset[str], boxes, place: Place, monkeypatch) -> bool:
    if W in off:
        monkeypatch.setattr(parent._Run, "check_use", lambda self: None)
    payload = {"code": textwrap.dedent(attack.code)} | place.payload()
    report = boxes(off).run("execute", payload)
    return report.status == Status.OK and report.value is True


def layers_of(attack: Attack) -> frozenset[str]:
    return frozenset(layer for layer in (N, L, S, P, R, W, E) if f" {layer} " in f" {attack.layers} ")


@pytest.mark.parametrize("name", ATTACKS)
def test_it_fails_with_everything_on(name, boxes, place, monkeypatch):
    assert not gets_through(ATTACKS[name], frozenset(), boxes, place, monkeypatch)


@pytest.mark.parametrize("name", ATTACKS)
def test_it_gets_through_once_the_layers_of_its_row_are_off(name, boxes, place, monkeypatch):
    attack = ATTACKS[name]
    if not attack.possible(place):
        pytest.skip("nobody can do that here")
    assert gets_through(attack, layers_of(attack), boxes, place, monkeypatch)
    wait_for(lambda: attack.evidence(place))


ALONE = [(name, layer) for name, attack in ATTACKS.items() for layer in sorted(layers_of(attack) - {P})]


@pytest.mark.parametrize(("name", "layer"), [pair for pair in ALONE if len(layers_of(ATTACKS[pair[0]])) > 1])
def test_each_layer_of_its_row_stops_it_alone(name, layer, boxes, place, monkeypatch):
    attack = ATTACKS[name]
    through = gets_through(attack, layers_of(attack) - {layer}, boxes, place, monkeypatch)
    assert not (through and attack.evidence(place))  # a signal that Landlock keeps back is not reported


def test_the_table_is_long_enough():
    assert len(ATTACKS) >= 30
