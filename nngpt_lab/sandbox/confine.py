"""What the Linux kernel offers to lock a process up, called through ctypes; each call names its manual page.

Functions confine *the calling process* and raise OSError when the kernel refuses; the caller decides whether to go on
with less. Layers, from the outside in: namespaces (no network, no other processes, a private disk of limited size),
resource limits, no capabilities, Landlock (which files), seccomp (which system calls). Most attacks meet two.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import resource
import signal
import struct
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

LINUX = sys.platform == "linux"
_libc: Any = ctypes.CDLL(None, use_errno=True) if LINUX else None

# include/uapi/linux/sched.h (man 7 namespaces) and sys/mount.h (man 2 mount)
NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
NEWCGROUP, NEWTIME = 0x2000000, 0x80
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_PRIVATE = 2, 4, 8, 0x4000, 0x40000
NOBODY = 65534  # the kernel's overflow uid: owns nothing


def _check(result: int) -> int:
    """The result of a libc call, or the OSError that errno stands for."""
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _prctl(option: int, *values: int) -> int:
    padded = [ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[:4]]
    return _check(_libc.prctl(option, *padded))


def _syscall(number: int, *values) -> int:
    return _check(_libc.syscall(ctypes.c_long(number), *values))


# --- processes ----------------------------------------------------------------------------------------------------


def die_with_parent() -> None:
    """SIGKILL for this process when the one that forked it dies (man 2 PR_SET_PDEATHSIG)."""
    if LINUX:
        _prctl(1, signal.SIGKILL)


def adopt_orphans() -> None:
    """Orphaned descendants become children of this process, so that none escapes (man 2 PR_SET_CHILD_SUBREAPER)."""
    _prctl(36, 1)


def hide_memory() -> None:
    """No core dumps, no access to this process's memory through /proc or ptrace (man 2 PR_SET_DUMPABLE)."""
    _prctl(4, 0)


def descendants(pid: int) -> list[int]:
    """Process ids below ``pid``, as far as /proc knows now; empty where /proc has no ``children`` files."""
    below: list[int] = []
    pending = [pid]
    while pending:
        for thread in _listing(f"/proc/{pending.pop()}/task"):
            try:
                children = Path(thread, "children").read_text(encoding="ascii")
            except OSError:
                continue
            pending += map(int, children.split())
            below += map(int, children.split())
    return below


def held(pid: int) -> tuple[int, int]:
    """Bytes of a process's memory that are not a file's (anonymous and shared), and its threads (man 5 proc)."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0, 0
    wanted = ("RssAnon", "RssShmem", "Threads")
    values = {name: int(rest.split()[0]) for name, _, rest in (x.partition(":") for x in lines) if name in wanted}
    return (values.get("RssAnon", 0) + values.get("RssShmem", 0)) << 10, values.get("Threads", 0)


def _listing(folder: str) -> list[str]:
    try:
        return [entry.path for entry in os.scandir(folder)]
    except OSError:
        return []


def other_threads() -> list[str]:
    """Names of this process's threads beside its first, as Linux knows them. Those that end within two seconds do not
    count: a library may just have made its pool smaller."""
    for _ in range(20):
        tasks = [Path(task) for task in _listing("/proc/self/task")]
        others = [task for task in tasks if task.name != Path("/proc/self").readlink().name]
        if not others:
            break
        time.sleep(0.1)
    names = []
    for task in others:
        with contextlib.suppress(OSError):
            names.append((task / "comm").read_text().strip())
    return sorted(names)


def kill_below(*known: int) -> None:
    """Kill and reap everything below this process, ``known`` children with their groups. Process 1 of a PID namespace
    does it by one call, which no fork bomb outruns; others repeat it until even the adopted orphans are gone."""
    first = os.getpid() == 1
    while True:
        if first:
            _quietly(os.kill, -1, signal.SIGKILL)
        else:
            for pid in known:
                _quietly(os.killpg, pid, signal.SIGKILL)
            for pid in (*known, *descendants(os.getpid())):
                _quietly(os.kill, pid, signal.SIGKILL)
        known = ()  # once reaped, their numbers may be given to others
        try:
            while os.waitpid(-1, 0 if first else os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.002)


def _quietly(call, *values) -> None:
    with contextlib.suppress(OSError):  # it is already gone
        call(*values)


# --- namespaces ---------------------------------------------------------------------------------------------------


def enter_namespaces() -> None:
    """New user, PID, mount, network, IPC and host name namespaces for this process's children (man 7 user_namespaces).

    The next fork makes process 1 of the PID namespace; when that dies the kernel kills everything in it. The network is
    empty, its loopback down. A user namespace gives RLIMIT_NPROC its own count, and root a second user to hand on."""
    ready, go = os.pipe()
    pid, uid, gid = os.getpid(), os.geteuid(), os.getegid()
    mapper = os.fork()
    if mapper == 0:  # the maps of a user namespace that maps more than oneself are written from outside it
        os.close(go)
        os._exit(_write_maps(pid, uid, gid) if os.read(ready, 1) else 1)
    os.close(ready)
    try:
        _check(_libc.unshare(NEWUSER | NEWPID | NEWNS | NEWNET | NEWIPC | NEWUTS))
        os.write(go, b"1")
    finally:
        os.close(go)
        _, status = os.waitpid(mapper, 0)
    if status != 0:
        raise PermissionError(errno.EPERM, "user namespace without maps")
    _check(_libc.mount(b"none", b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None))


def _write_maps(pid: int, uid: int, gid: int) -> int:
    """0 if the maps could be written; nobody comes along if the caller is root and has a nobody to hand on."""
    try:
        Path(f"/proc/{pid}/setgroups").write_text("deny", encoding="ascii")
        Path(f"/proc/{pid}/gid_map").write_text(f"{gid} {gid} 1", encoding="ascii")
        users = Path(f"/proc/{pid}/uid_map")
        if uid == 0:
            with contextlib.suppress(OSError):
                users.write_text(f"0 0 1\n{NOBODY} {NOBODY} 1", encoding="ascii")
                return 0
        users.write_text(f"{uid} {uid} 1", encoding="ascii")
    except OSError:
        return 1
    return 0


def fork_into_pid_namespace(home: int) -> int:
    """Fork a child that is process 1 of a fresh PID namespace; ``home`` is a descriptor of this process's own one, to
    return to, so that the next call starts another (man 2 setns, man 7 pid_namespaces)."""
    _check(_libc.unshare(NEWPID))
    pid = os.fork()
    if pid:
        _check(_libc.setns(home, NEWPID))
    return pid


def private_disk(folder: str, mib: int) -> None:
    """A mount and IPC namespace of one's own with a fresh tmpfs of at most ``mib`` on ``folder`` (man 5 tmpfs). It
    lives in memory and vanishes with the namespace's last process, so there is nothing to clean up."""
    _check(_libc.unshare(NEWNS | NEWIPC))
    options = f"size={mib}m,nr_inodes=4096,mode=0700"
    flags = ctypes.c_ulong(MS_NOSUID | MS_NODEV | MS_NOEXEC)
    _check(_libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", flags, options.encode()))


def own_network() -> None:
    """A network of one's own, as empty as the one before: local sockets have their names there (man 7 unix)."""
    _check(_libc.unshare(NEWNET))


def own_processes() -> bool:
    """A /proc of the caller's own PID namespace; False where it is refused, as in a container that masks parts of it.
    In the /proc of an outer namespace a thread is not found under its own number and cannot be named; CUDA's driver
    (570 and later) does not start (error 304) when it cannot name its threads."""
    flags = ctypes.c_ulong(MS_NOSUID | MS_NODEV | MS_NOEXEC)
    return _libc.mount(b"proc", b"/proc", b"proc", flags, None) == 0


def namespaces_work(folder: str) -> bool:
    """Whether all of the above is allowed here; tried in a child, because half of it cannot be undone."""
    if not LINUX:
        return False
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            enter_namespaces()
            inner = os.fork()
            if inner == 0:
                home = os.open("/proc/self/ns/pid", os.O_RDONLY)
                os.waitpid(fork_into_pid_namespace(home) or os._exit(0), 0)
                private_disk(folder, 1)
                os._exit(0)
            code = os.waitpid(inner, 0)[1]
        except BaseException:
            code = 1
        os._exit(1 if code else 0)
    return os.waitpid(pid, 0)[1] == 0


# --- limits and rights --------------------------------------------------------------------------------------------


def limit(name: str, soft: int, hard: int | None = None) -> None:
    """Set a resource limit (man 2 setrlimit), never above the hard limit already in force; unknown names pass."""
    kind = getattr(resource, f"RLIMIT_{name}", None)
    if kind is None:
        return
    ceiling, wanted = resource.getrlimit(kind)[1], (soft, soft if hard is None else hard)
    if ceiling != resource.RLIM_INFINITY:
        wanted = (min(wanted[0], ceiling), min(wanted[1], ceiling))
    resource.setrlimit(kind, wanted)


def address_space() -> int:
    """Bytes of address space that this process has mapped (man 5 proc: statm); 0 where that cannot be read."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    except OSError:
        return 0


def tasks_of(uid: int) -> int:
    """Threads that run under a user id now: what RLIMIT_NPROC counts outside a user namespace of one's own."""
    total = 0
    for folder in _listing("/proc"):
        with contextlib.suppress(OSError):
            if Path(folder).name.isdigit() and Path(folder).stat().st_uid == uid:
                total += len(_listing(f"{folder}/task"))
    return total


def drop_root() -> None:
    """Make nobody the *real* user of a root process. The kernel counts processes by real user and counts none for root,
    so without this RLIMIT_NPROC would limit nothing; the effective user stays, so that an interpreter below /root can
    still be read (man 2 setresuid). The way back is closed by :func:`filter_syscalls`."""
    if os.geteuid() == 0:
        with contextlib.suppress(OSError):  # a container whose root may not, or which knows no nobody
            os.setresuid(NOBODY, 0, 0)


def drop_capabilities() -> None:
    """No capability of any kind, in any set, ever again (man 2 capset, PR_SET_NO_NEW_PRIVS)."""
    _prctl(38, 1)
    header = struct.pack("=Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this thread
    _check(_libc.capset(header, bytes(24)))


# --- files: Landlock ----------------------------------------------------------------------------------------------
# https://docs.kernel.org/userspace-api/landlock.html; include/uapi/linux/landlock.h. The three calls have the same
# numbers on every architecture but alpha.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE = 1 << 1, 1 << 2, 1 << 3, 1 << 14
_EXECUTE, _MAKE_DEVICES, _IOCTL_DEV = 1 << 0, 1 << 6 | 1 << 11, 1 << 15
_FILE_RIGHTS = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV  # all that a rule on a file may name


def landlock_abi() -> int:
    """Landlock's ABI version, 0 where there is none."""
    try:
        return _syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(1)) if LINUX else 0
    except OSError:
        return 0


def file_rules() -> int:
    """A descriptor of rules by which nothing on the disk may be touched, until :func:`allow_files` names something.
    From ABI 4 no TCP, from ABI 6 no abstract sockets and no signals outside."""
    abi = landlock_abi()
    network, scopes = (3 if abi >= 4 else 0), (3 if abi >= 6 else 0)
    attributes = struct.pack("=QQQ", _handled(), network, scopes)[: 8 if abi < 4 else 16 if abi < 6 else 24]
    return _syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0))


def allow_files(
    rules: int,
    readable: Iterable[str] = (),
    writable: Iterable[str] = (),
    devices: Iterable[str] = (),
    listed: Iterable[str] = (),
) -> None:
    """Name files and folders, each with all below it: ``readable`` to read, ``writable`` folders to change, ``devices``
    to open both ways and to truncate (so is a file of /proc opened), ``listed`` folders for names alone."""
    for path in readable:
        _allow(rules, path, _READ_FILE | _READ_DIR)
    for path in writable:
        _allow(rules, path, ~(_EXECUTE | _MAKE_DEVICES | _IOCTL_DEV))
    for path in devices:
        _allow(rules, path, _READ_FILE | _WRITE_FILE | _TRUNCATE | _IOCTL_DEV | _READ_DIR)
    for path in listed:
        _allow(rules, path, _READ_DIR)


def restrict_files(rules: int) -> None:
    """Hold this process and all that it forks to the rules, and close their descriptor. Nothing may be executed."""
    _syscall(_RESTRICT_SELF, ctypes.c_int(rules), ctypes.c_uint32(0))
    os.close(rules)


def _handled() -> int:
    """All rights to files that this kernel's Landlock knows."""
    return (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(landlock_abi(), 16)) - 1


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # what does not exist needs no rule
    try:
        if not Path(path).is_dir():
            rights &= _FILE_RIGHTS
        rule = struct.pack("=Qi", rights & _handled(), place)  # struct landlock_path_beneath_attr is packed
        _syscall(_ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(1), rule, ctypes.c_uint32(0))
    finally:
        os.close(place)


# --- system calls: seccomp ----------------------------------------------------------------------------------------
# man 2 seccomp, https://docs.kernel.org/userspace-api/seccomp_filter.html. A list of what is refused rather than of
# what is allowed: what torch and libc call changes with every release, and the list need not stand alone. Refusal is
# EPERM, which Python raises as PermissionError; only code for another instruction set is killed. Numbers: x86-64 and
# the generic table (aarch64) of the kernel's unistd.h; -1 where a table lacks the call.
_REFUSED = """
ptrace 101 117  process_vm_readv 310 270  process_vm_writev 311 271  process_madvise 440 440  kcmp 312 272
process_mrelease 448 448  pidfd_open 434 434  pidfd_getfd 438 438  pidfd_send_signal 424 424  perf_event_open 298 241
bpf 321 280  userfaultfd 323 282  keyctl 250 219  add_key 248 217  request_key 249 218  io_uring_setup 425 425
io_uring_enter 426 426  io_uring_register 427 427  unshare 272 97  setns 308 268  mount 165 40  umount2 166 39
pivot_root 155 41  chroot 161 51  fsopen 430 430  fsconfig 431 431  fsmount 432 432  fspick 433 433  move_mount 429 429
open_tree 428 428  mount_setattr 442 442  init_module 175 105  finit_module 313 273  delete_module 176 106
kexec_load 246 104  kexec_file_load 320 294  reboot 169 142  swapon 167 224  swapoff 168 225  acct 163 89
quotactl 179 60  quotactl_fd 443 443  syslog 103 116  settimeofday 164 170  clock_settime 227 112  adjtimex 159 171
clock_adjtime 305 266  sethostname 170 161  setdomainname 171 162  iopl 172 -1  ioperm 173 -1  modify_ldt 154 -1
open_by_handle_at 304 265  name_to_handle_at 303 264  execve 59 221  execveat 322 281  socket 41 198  connect 42 203
bind 49 200  listen 50 201  accept 43 202  accept4 288 242  memfd_create 319 279  memfd_secret 447 447  shmget 29 194
shmat 30 196  semget 64 190  msgget 68 186  mq_open 240 180  tkill 200 130  rt_sigqueueinfo 129 138  seccomp 317 277
rt_tgsigqueueinfo 297 240  chmod 90 -1  fchmod 91 52  fchmodat 268 53  fchmodat2 452 452  chown 92 -1  lchown 94 -1
fchown 93 55  fchownat 260 54  utime 132 -1  utimes 235 -1  futimesat 261 -1  utimensat 280 88  setxattr 188 5
lsetxattr 189 6  fsetxattr 190 7  removexattr 197 14  lremovexattr 198 15  fremovexattr 199 16  setxattrat 463 463
removexattrat 466 466  truncate 76 45  mknod 133 -1  mknodat 259 33  personality 135 92  fanotify_init 300 262
uselib 134 -1  setuid 105 146  setgid 106 144  setreuid 113 145  setregid 114 143  setresuid 117 147
setresgid 119 149  setgroups 116 159  setfsuid 122 151  setfsgid 123 152  move_pages 279 239  migrate_pages 256 238
vhangup 153 58  open_tree_attr 467 467
setpriority 141 140  ioprio_set 251 30  sched_setscheduler 144 119  sched_setparam 142 118  sched_setattr 314 274
sched_setaffinity 203 122  sync 162 81  syncfs 306 267  file_setattr 469 469  inotify_init 253 -1  inotify_init1 294 26
inotify_add_watch 254 27  fanotify_mark 301 263  io_setup 206 0  socketpair 53 199
"""
_FOR_CUDA = ("bind", "listen")  # its driver names a local socket that nobody connects to, and does not start without
_NEWEST = 469  # file_setattr, Linux 6.17: what comes after it was not judged, and is absent as on an older kernel
# Looked at more closely below: kill, tgkill, clone, prctl, prlimit64, ioctl, fcntl, open, openat.
_EXAMINED = {"x86_64": (62, 234, 56, 157, 302, 16, 72, 2, 257), "aarch64": (129, 131, 220, 167, 261, 29, 25, -1, 56)}
_OUT_OF_REACH = (435, 437)  # clone3, openat2: their flags lie in memory; libc then uses clone and openat
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # include/uapi/linux/audit.h
_PRCTL_ALLOWED = (3, 15, 16, 21, 23, 38, 39, 41, 42, 0x53564D41)  # names, queries, huge pages, no_new_privs, PR_SET_VMA
# Questions to a terminal, bytes to read, blocking, closing on exec. Others change a file's inode for good
# (FS_IOC_SETFLAGS, SETVERSION, ENABLE_VERITY), type into a terminal, or choose who gets a signal (FIOSETOWN).
_IOCTL_ALLOWED = (0x5401, 0x802C542A, 0x540F, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
_IOCTL_CUDA = (0x4600, 0)  # kinds of requests: those of NVIDIA's driver, of its unified memory
# Copies and flags of descriptors, locks, sizes. Others send signals (F_SETOWN, F_SETSIG), delay those who open a file
# (F_SETLEASE), watch folders (F_NOTIFY) or make pipes large.
_FCNTL_ALLOWED = (0, 1, 2, 3, 4, 5, 6, 7, 9, 36, 37, 38, 1025, 1030, 1032, 1034)
# An old Landlock lets a file that may be read be emptied (O_TRUNC); none judges access 3, which is for ioctl alone
_O_ACCMODE, _O_TRUNC = 3, 0x200
_OPEN_REFUSED = (_O_ACCMODE, _O_ACCMODE | _O_TRUNC, os.O_RDONLY | _O_TRUNC)
_NAMESPACE_FLAGS = NEWNS | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET | NEWCGROUP | NEWTIME
_KILL, _REFUSE, _ABSENT, _PASS = 0x80000000, 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS, 0x7FFF0000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06  # linux/filter.h, man bpf


def seccomp_works() -> bool:
    """Whether this kernel takes filters (it answers a null one with EFAULT) and the table above has its numbers."""
    if not LINUX or platform.machine() not in _AUDIT_ARCH:
        return False
    return _libc.prctl(22, ctypes.c_ulong(2), None, None, None) < 0 and ctypes.get_errno() == errno.EFAULT


def filter_syscalls(cuda: bool = False) -> None:
    """Refuse the system calls above from here on, in this process and all that it forks; with ``cuda`` all but those
    that its driver cannot do without."""
    program = b"".join(_filter(platform.machine(), os.getpid(), cuda))
    block = ctypes.create_string_buffer(program, len(program))
    handle = struct.pack("@HP", len(program) // 8, ctypes.addressof(block))  # struct sock_fprog
    _prctl(38, 1)
    _check(_libc.prctl(22, ctypes.c_ulong(2), handle, None, None))


def _filter(machine: str, own: int, cuda: bool = False) -> Iterator[bytes]:
    """The filter as BPF instructions. In struct seccomp_data the call's number lies at 0, the architecture at 4, the
    low half of argument n at 16 + 8n (both machines are little-endian)."""

    def step(code: int, value: int, true: int = 0, false: int = 0) -> bytes:
        return struct.pack("=HBBI", code, true, false, value)

    def when(number: int, *body: bytes) -> list[bytes]:  # otherwise jump over the body, with the number still loaded
        return [step(_EQUAL, number, 0, len(body)), *body]

    def only(values: Iterable[int], argument: int) -> list[bytes]:
        tests = [part for value in values for part in (step(_EQUAL, value, 0, 1), step(_RETURN, _PASS))]
        return [step(_LOAD, 16 + 8 * argument), *tests, step(_RETURN, _REFUSE)]

    kill, tgkill, clone, prctl, prlimit, ioctl, fcntl, *opens = _EXAMINED[machine]
    yield from (step(_LOAD, 4), step(_EQUAL, _AUDIT_ARCH[machine], 1, 0), step(_RETURN, _KILL), step(_LOAD, 0))
    if machine == "x86_64":  # the x32 table, where every call has a second number
        yield from (step(_AT_LEAST, 0x40000000, 0, 1), step(_RETURN, _REFUSE))
    yield from (step(_AT_LEAST, _NEWEST + 1, 0, 1), step(_RETURN, _ABSENT))
    words = _REFUSED.split()
    for name, number in zip(words[::3], map(int, words[1 if machine == "x86_64" else 2 :: 3]), strict=True):
        if cuda and name == "socket":  # AF_UNIX (1) and SOCK_SEQPACKET (5): the driver's own kind
            local = (step(_LOAD, 16), step(_EQUAL, 1, 1, 0), step(_RETURN, _REFUSE))
            yield from when(number, *local, step(_LOAD, 24), step(_AND, 0xF), *only([5], 1)[1:])
        elif cuda and name == "socketpair":  # whether the driver needs a stream was not tried; a datagram finds others
            yield from when(number, step(_LOAD, 24), step(_AND, 0xF), *only([1], 1)[1:])
        elif number >= 0 and not (cuda and name in _FOR_CUDA):
            yield from when(number, step(_RETURN, _REFUSE))
    yield from when(kill, *only([own], 0))
    yield from when(tgkill, *only([own], 0))
    yield from when(prctl, *only(_PRCTL_ALLOWED, 0))
    yield from when(prlimit, *only([0, own], 0))
    for number in _OUT_OF_REACH:
        yield from when(number, step(_RETURN, _ABSENT))
    yield from when(fcntl, *only(_FCNTL_ALLOWED, 1))
    refused = [part for how in _OPEN_REFUSED for part in (step(_EQUAL, how, 0, 1), step(_RETURN, _REFUSE))]
    for argument, number in enumerate(opens, start=1):
        if number >= 0:
            how = (step(_LOAD, 16 + 8 * argument), step(_AND, _O_ACCMODE | _O_TRUNC))
            yield from when(number, *how, *refused, step(_RETURN, _PASS))
    flags = [step(_LOAD, 16), step(_ANY_BIT, _NAMESPACE_FLAGS & ~0xFF, 0, 1), step(_RETURN, _REFUSE)]
    yield from when(clone, *flags, step(_RETURN, _PASS))
    kinds = [part for kind in _IOCTL_CUDA for part in (step(_EQUAL, kind, 0, 1), step(_RETURN, _PASS))] if cuda else []
    exact = only(_IOCTL_ALLOWED, 1)
    yield from when(ioctl, *exact[:-1], step(_AND, 0xFF00), *kinds, exact[-1])
    yield step(_RETURN, _PASS)
