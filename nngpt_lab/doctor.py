"""What this machine can do, and which profiles that allows; beside each "no" stands its cure.

Cheap on purpose: packages are looked up, not imported, and torch is asked about CUDA in a child process.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nngpt_lab.ground import paths
from nngpt_lab.ground.errors import DataError, LabError, UsageError
from nngpt_lab.ground.isolation import lacking
from nngpt_lab.records import manifest
from nngpt_lab.records.profiles import PROFILES, Profile

MIN_PYTHON = (3, 11)
DATA_SETS = ("cifar-10", "cifar-100", "svhn", "mnist", "fashion-mnist")
RESULTS_DISK_GIB = 0.2  # figures, tables and executed notebooks of all papers


@dataclass(frozen=True)
class Check:
    """One thing looked at. ``ok`` is None where there is nothing to judge; ``cure`` says what to do about a "no"."""

    group: str
    name: str
    ok: bool | None
    value: str
    cure: str = ""


def _judge(group: str, name: str, ok: bool, yes: str, no: str, cure: str) -> Check:
    """A check that says ``yes``, or ``no`` with its cure."""
    return Check(group, name, True, yes) if ok else Check(group, name, False, no, cure)


def examine() -> list[Check]:
    """Everything ``nngpt-lab doctor`` shows, in order; the profiles, which depend on the rest, come last."""
    checks = [*_software(), *_hardware(), *_folders(), *_data(), *_isolation()]
    return checks + [_profile(profile, checks) for profile in PROFILES.values()]


def smoke_is_possible(checks: list[Check]) -> bool:
    return next(check.ok for check in checks if (check.group, check.name) == ("profiles", "smoke")) is True


def as_json(checks: list[Check]) -> str:
    return json.dumps({"smoke_possible": smoke_is_possible(checks), "checks": [asdict(c) for c in checks]}, indent=1)


def as_text(checks: list[Check]) -> str:
    """The checks as an aligned table, a blank line between groups."""
    marks = {True: "yes", False: "no", None: "-"}
    width = max(len(check.name) for check in checks)
    lines, group = [], None
    for check in checks:
        if check.group != group:
            lines += ["", check.group]
            group = check.group
        lines.append(f"  {marks[check.ok]:3}  {check.name:{width}}  {check.value}")
        if check.cure:
            lines.append(f"       {'':{width}}  cure: {check.cure}")
    return "\n".join(lines[1:])


def check_hardware(profile: Profile) -> None:
    """Refuse a profile whose CUDA device this machine lacks. Only then is torch asked: it takes seconds."""
    if not profile.device.startswith("cuda"):
        return
    devices, number = manifest.cuda_devices(), profile.device.partition(":")[2]
    if number and devices and int(number) >= len(devices):
        names = ", ".join(f"cuda:{place} ({device['name']})" for place, device in enumerate(devices))
        raise UsageError(f"there is no device {profile.device!r} here", f"use one of {names}")
    memory = max((each["memory_gib"] for each in (devices[int(number) :][:1] if number else devices)), default=0)
    if not memory or memory < profile.gpu_memory_gib:
        here = f"the largest here has {memory} GiB" if memory else "torch finds none here"
        wanted = f" with {profile.gpu_memory_gib} GiB" if profile.gpu_memory_gib else ""
        raise UsageError(
            f"profile {profile.name!r} needs a CUDA device{wanted}, and {here}",
            "use --profile smoke or demo without --device, or see `nngpt-lab doctor`",
        )


def check_disk(profile: Profile) -> None:
    """Refuse a profile whose data do not fit on the cache's disk. Once the data are there, there is nothing to fit."""
    free = free_gib(paths.cache_folder())
    if free < profile.disk_gib and not all(check.ok for check in _artifacts()):
        raise UsageError(
            f"profile {profile.name!r} needs {profile.disk_gib} GiB in the cache folder, which has {free:.1f} GiB free",
            "free some, or point NNGPT_LAB_CACHE at a larger disk",
        )


def check_writable(folder: Path, cure: str = "choose another folder with --output DIR") -> None:
    """Create ``folder`` and try to write in it; a UsageError when that cannot be done."""
    probe = folder / f".writable-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise UsageError(f"cannot write to {manifest.display(folder)}: {error.strerror}", cure) from error


def free_gib(folder: Path) -> float:
    """Free disk, GiB, where ``folder`` is or would be created."""
    return shutil.disk_usage(_existing(folder)).free / 2**30


def _existing(folder: Path) -> Path:
    """``folder``, or the nearest folder above it that is there."""
    return next(place for place in (folder, *folder.parents) if place.exists())


def _software() -> Iterator[Check]:
    wanted = ".".join(map(str, MIN_PYTHON))
    here = platform.python_version()
    yield _judge("software", "python", sys.version_info >= MIN_PYTHON, here, here, f"use Python {wanted} or newer")
    versions = manifest.package_versions(manifest.direct_dependencies() or ["torch"])
    missing = [name for name, version in versions.items() if version is None]
    every, lacking = f"all {len(versions)} that nngpt-lab needs", f"missing: {', '.join(missing)}"
    yield _judge("software", "packages", not missing, every, lacking, f"pip install {' '.join(missing)}")
    torch = versions.get("torch")
    yield _judge("software", "torch", bool(torch), torch or "", "not installed", "pip install torch")


def _hardware() -> Iterator[Check]:
    facts = manifest.hardware()
    yield Check("hardware", "processor", None, f"{manifest.processor_name()}, {facts['cores']} cores")
    yield Check("hardware", "memory", None, f"{facts['memory_gib']} GiB")
    devices = [f"{device['name']}, {device['memory_gib']} GiB" for device in manifest.cuda_devices()]
    cure = "an NVIDIA GPU with its driver, and a torch built for CUDA; smoke and demo need none"
    yield _judge("hardware", "CUDA", bool(devices), "; ".join(devices), "no device that torch can use", cure)


def _folders() -> Iterator[Check]:
    smoke = PROFILES["smoke"].disk_gib
    try:
        yield _folder("cache", paths.cache_folder(), smoke, "set NNGPT_LAB_CACHE to a folder you may write")
    except DataError as error:
        yield Check("folders", "cache", False, error.cause, error.cure)
    yield _folder("results", paths.results_root(), RESULTS_DISK_GIB, "use --output with a folder you may write")


def _folder(name: str, folder: Path, need: float, cure: str) -> Check:
    try:
        check_writable(_existing(folder), cure)
    except UsageError as error:
        return Check("folders", name, False, error.cause, cure)
    free = free_gib(folder)
    here = f"{folder}, {free:.1f} GiB free"
    return _judge("folders", name, free >= need, here, here, f"free {need} GiB, or {cure}")


def _artifacts() -> Iterator[Check]:
    from nngpt_lab.corpora import artifacts

    for name, artifact in artifacts.ARTIFACTS.items():
        about, fetch = f"({artifact.version}, {artifact.size_bytes / 1e6:.0f} MB)", f"nngpt-lab fetch {name}"
        here = artifacts.is_present(artifact)
        yield _judge("data", name, here, f"present {about}", f"not fetched yet {about}", fetch)


def _data() -> Iterator[Check]:
    try:
        yield from _artifacts()
    except (LabError, OSError) as error:
        yield Check("data", "published data", False, "cannot be looked at", " ".join(str(error).split()))
    folder = paths.data_folder()
    if folder is None:
        yield Check("data", "images", None, "NNGPT_LAB_DATA is not set: digits is built in, the rest is downloaded")
        return
    parts = ("train.parquet", "test.parquet")
    names = [name for name in DATA_SETS if all((folder / name / part).exists() for part in parts)]
    cure = "it must hold, for example, cifar-10/train.parquet and cifar-10/test.parquet"
    holds = f"NNGPT_LAB_DATA holds {', '.join(names)}"
    yield _judge("data", "images", bool(names), holds, "NNGPT_LAB_DATA holds no data set", cure)


NAMESPACES = "an administrator can allow namespaces (sysctl user.max_user_namespaces, AppArmor)"
WITHOUT = (
    "what the lines above lack: a Linux of your own, a virtual machine, WSL 2, or a container that may make namespaces "
    "(Docker: --security-opt seccomp=unconfined); what is recorded is shown all the same. Or trust the code of a model "
    "with all that you may do here: --isolation weak"
)
CURES = {  # of the sandbox's layers, those that a kernel may lack
    "user namespace": NAMESPACES,
    "network namespace": NAMESPACES,
    "landlock files": "Linux 5.13 or newer with landlock in the kernel's lsm= list",
    "landlock network": "Linux 6.7 or newer with landlock",
    "landlock scopes": "Linux 6.12 or newer with landlock",
    "seccomp": "a kernel with CONFIG_SECCOMP_FILTER",
}


def _isolation() -> Iterator[Check]:
    """What a candidate's code would be confined by here, asked of a sandbox itself."""
    from nngpt_lab.sandbox.child import layers
    from nngpt_lab.sandbox.parent import Sandbox

    every = layers({"namespaces": True, "landlock": 7, "seccomp": True})
    try:
        with Sandbox() as sandbox:
            held = sandbox.isolation
    except (LabError, OSError) as error:
        yield Check("isolation", "sandbox", False, f"does not start: {error}", "no candidate can be evaluated here")
        return
    if sys.platform == "linux":
        import resource

        for layer, cure in CURES.items():
            yield _judge("isolation", layer, layer in held, "there", "not there", cure)
        limits = {"processes": resource.RLIMIT_NPROC, "open files": resource.RLIMIT_NOFILE}
        most = {name: resource.getrlimit(limit)[1] for name, limit in limits.items()}
        shown = ", ".join(f"{name} {'unlimited' if limit < 0 else limit}" for name, limit in most.items())
        yield Check("isolation", "resource limits", True, f"at most: {shown}")
        yield Check("isolation", "cgroup", None, _cgroup())
    else:
        names = (*CURES, "resource limits", "cgroup")
        yield from (Check("isolation", name, None, f"not available on {sys.platform}") for name in names)
    missing = [layer for layer in every if layer not in held]
    part = f"{len(held)} of {len(every)} layers; without {', '.join(missing)}"
    yield _judge("isolation", "sandbox", not missing, f"all {len(every)} layers", part, "what the lines above lack")
    open_to_it = f"candidates are not run: they could not be kept from {', '.join(lacking(held))}"
    yield _judge("isolation", "minimum", not lacking(held), "candidates may be run", open_to_it, WITHOUT)
    if sys.platform == "linux":
        yield cuda_stand_in()
    if manifest.cuda_devices():
        yield _tried_on_gpu("CUDA in it", "nngpt_lab.candidates.training", "get_ready", {"device": "cuda"})


def cuda_stand_in() -> Check:
    """Whether CUDA's driver could start where candidates run, tried without a GPU."""
    from nngpt_lab.sandbox.child import driver_places

    payload = {"folders": driver_places()}
    return _tried_on_gpu("CUDA's driver", "nngpt_lab.sandbox.driver_stand_in", "start", payload)


def _tried_on_gpu(name: str, module: str, task: str, payload: dict[str, Any]) -> Check:
    """A trusted task run as a candidate on a GPU would be."""
    from nngpt_lab.sandbox.parent import Sandbox

    cure = "evaluate with device='cpu'; a container must allow a /proc of one's own (Docker: systempaths=unconfined)"
    try:
        with Sandbox(setup=module, gpu=True) as sandbox:
            report = sandbox.run(task, payload)
    except (LabError, OSError) as error:
        return Check("isolation", name, False, f"the sandbox does not start: {error}", cure)
    started = f"starts, after {report.seconds:.1f} s"
    return _judge("isolation", name, report.status == "ok", started, f"does not start: {report.message[:200]}", cure)


def _cgroup() -> str:
    """Version and memory limit of this process's control group, for reading; a sandbox does not depend on it."""
    try:
        line = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()[-1]
        version, place = ("v2", line[3:]) if line.startswith("0::") else ("v1", "")
        limit = Path("/sys/fs/cgroup", place.lstrip("/"), "memory.max")
        return f"{version}, memory limit {limit.read_text(encoding='utf-8').strip() if limit.is_file() else 'none'}"
    except (OSError, IndexError):
        return "none"


def _profile(profile: Profile, checks: list[Check]) -> Check:
    """Whether this machine can run a profile: the first thing in its way, or how long it takes."""
    for check in checks:
        if check.group in ("software", "folders") and check.ok is False:
            return Check("profiles", profile.name, False, f"{check.name}: {check.value}", check.cure)
    try:
        check_hardware(profile)
        check_disk(profile)
    except UsageError as error:
        cuda = next(check for check in checks if check.name == "CUDA")
        return Check("profiles", profile.name, False, error.cause, cuda.cure or error.cure)
    fetch = any(check.group == "data" and check.ok is False and check.name != "images" for check in checks)
    first = " (the published data are fetched first)" if fetch else ""
    return Check("profiles", profile.name, True, f"{profile.purpose}{first}")
