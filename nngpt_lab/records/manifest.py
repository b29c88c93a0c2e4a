"""What a run was: the record beside its results, and the fingerprint that says whether it still holds.

``manifest.json`` is written last and in one step, so its presence means that the run ended. It names nothing of the
machine but its hardware and software: no host, no user, no absolute path, because manifests are published.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from nngpt_lab.ground import paths
from nngpt_lab.ground.files import replacing
from nngpt_lab.ground.hashing import sha256_file, sha256_json

FILENAME, EXECUTED = "manifest.json", "executed.ipynb"
CRATE = "ro-crate-metadata.json"  # of exports.py
LEDGER = "ledger.sqlite"  # what a run continues by
CALLS = ".calls.jsonl"  # every call that worked in a run's folder
RESULTS = (FILENAME, EXECUTED, CRATE, "executed.html", "contents.json", "tables", "figures")  # what a new run replaces
SOURCES = ("*.py", "*.toml", "*.txt", "*.md", "*.sql")  # what a result depends on: code, claims, prompts
FOLDERS = re.compile(r"(?<![\w.>~:/])/(?:[^\s/'\"]+/)+")  # of an absolute path inside a text; not of a URL or of 1/2
ALSO_RECORDED = ("nngpt-lab", "ipykernel", "ipython", "matplotlib", "nbclient")  # decide outputs, but come indirectly


def notebook_sha256(notebook) -> str:
    """Hash of a notebook's cells: kind, tags and source. Saved outputs and run counts do not change what a run does."""
    return sha256_json([[cell.cell_type, cell.metadata.get("tags", []), cell.source] for cell in notebook.cells])


@functools.cache
def code_sha256() -> str:
    """Hash of the package's sources, names included."""
    files = sorted({path for pattern in SOURCES for path in paths.PACKAGE.rglob(pattern)})
    return sha256_json([[path.relative_to(paths.PACKAGE).as_posix(), sha256_file(path)] for path in files])


def fingerprint(notebook, parameters: dict[str, Any], data: Mapping[str, str]) -> str:
    """One hash over what determines a run: notebook, parameters (profile and seed among them), code and ``data``."""
    chosen = {name: value for name, value in parameters.items() if name != "output"}  # where is not what
    return sha256_json([notebook_sha256(notebook), chosen, code_sha256(), data])


@dataclass(frozen=True)
class Cell:
    """A code cell that was started: its number as Jupyter shows it, its source, its seconds, the first line that it
    wrote to stderr (empty if none), and the kind and message of the error that ended it, if any."""

    index: int
    source: str
    seconds: float
    warning: str
    error: tuple[str, str] | None = None


def cells(folder: Path) -> list[Cell]:
    """The cells that the executed notebook in ``folder`` began, timed by papermill; none if it is unreadable."""
    import nbformat

    try:
        notebook = nbformat.read(folder / EXECUTED, as_version=4)
    except Exception:  # killed while writing: nbformat raises many kinds for half a file
        return []
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    begun = []
    for index, cell in enumerate(code, start=1):
        times = cell.metadata.get("papermill", {})
        if times.get("start_time"):
            stderr = "".join(output.text for output in cell.outputs if output.get("name") == "stderr")
            warning = next((line.strip()[:200] for line in stderr.splitlines() if line.strip()), "")
            error = next(((o.ename, o.evalue) for o in cell.outputs if o.output_type == "error"), None)
            begun.append(Cell(index, cell.source, round(times.get("duration") or 0, 2), warning, error))
    return begun


def portable_name(notebook: Path) -> str:
    """The notebook's path within the checkout, or only its name when it lies elsewhere."""
    root = paths.checkout()
    return notebook.relative_to(root).as_posix() if root and notebook.is_relative_to(root) else notebook.name


def display(path: Path) -> str:
    """``path`` as a reader at the prompt would write it: relative when it lies below the working directory."""
    with contextlib.suppress(ValueError, OSError):
        return str(path.relative_to(Path.cwd()))
    return str(path)


def outputs(folder: Path) -> dict[str, str]:
    """Relative path and SHA-256 of every file the run left. Not the manifest itself, hidden files, what SQLite
    keeps beside a ledger, or ``*.html``: pages are rendered later, by the report, and may change without the run."""
    passing = (".html", "-wal", "-shm")
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(passing))
    names = (path.relative_to(folder) for path in sorted(files))
    kept = (name for name in names if not any(part.startswith(".") for part in name.parts))
    return {name.as_posix(): sha256_file(folder / name) for name in kept if name != Path(FILENAME)}


def not_run(folder: Path) -> dict[str, dict[str, str]]:
    """The cells that were not run, by number: first line, cause and cure. Empty, as ever, if it cannot be read."""
    try:
        return json.loads((folder / "contents.json").read_text(encoding="utf-8")).get("not_run", {})
    except (OSError, ValueError, AttributeError):
        return {}


def clear(folder: Path) -> None:
    """Remove what an unfinished or failed run left, its manifest first. A ledger stays: runs resume by it."""
    for part in (folder / name for name in RESULTS):
        shutil.rmtree(part) if part.is_dir() else part.unlink(missing_ok=True)


def read(folder: Path) -> dict[str, Any] | None:
    """The manifest in ``folder``, or None when there is none that can be read."""
    try:
        record = json.loads((folder / FILENAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def changed_files(folder: Path, record: Mapping[str, Any]) -> list[str]:
    """Files that are gone, or whose bytes are not the ones ``record`` vouches for."""
    known = ((name, digest, folder / name) for name, digest in sorted(record.get("outputs", {}).items()))
    return [name for name, digest, path in known if not path.is_file() or sha256_file(path) != digest]


def is_current(folder: Path, wanted: str) -> bool:
    """Whether ``folder`` holds a complete, successful run with that fingerprint, its files unchanged since."""
    record = read(folder) or {}
    same = (record.get("status"), record.get("fingerprint")) == ("ok", wanted)
    return same and not changed_files(folder, record)


def write(folder: Path, record: dict[str, Any]) -> None:
    """Write the manifest atomically: a reader sees the whole of it or none."""
    text = json.dumps(without_machine_paths(record, folder), indent=1, default=str)
    with replacing(folder / FILENAME) as file:
        file.write(f"{text}\n".encode())


def without_machine_paths(value: Any, folder: Path) -> Any:
    """``value`` with this machine's folders replaced, in every string of it, by what they are for or by ``<path>``.

    >>> without_machine_paths("no file /data/mine/x.csv, see https://arxiv.org/abs/1 or 1/2", Path("results"))
    'no file <path>/x.csv, see https://arxiv.org/abs/1 or 1/2'
    """
    if isinstance(value, dict):
        return {without_machine_paths(key, folder): without_machine_paths(item, folder) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_machine_paths(item, folder) for item in value]
    if not isinstance(value, str):
        return value
    value = _named_places(value, folder)
    return f"<path>/{Path(value).name}" if Path(value).is_absolute() else FOLDERS.sub("<path>/", value)


def _named_places(text: str, folder: Path) -> str:
    """``text`` with the folders that are known replaced by what they are for."""
    known = [(folder, "<results>"), (paths.PACKAGE.parent, "<lab>"), (sys.prefix, "<python>"), (Path.home(), "~")]
    for place, name in sorted(known, key=lambda pair: len(str(pair[0])), reverse=True):  # the innermost folder first
        if len(str(place)) > 1:  # a home of "/" would eat every slash
            text = text.replace(str(place), name)
    return text


def hide_places(folder: Path) -> None:
    """Take the folders of this machine that are known out of what the executed notebook in ``folder`` shows as text,
    and out of its parameters: run by hand, it then writes where any notebook does."""
    import nbformat

    try:
        notebook = nbformat.read(folder / EXECUTED, as_version=4)
    except Exception:  # not there, or half a file
        return
    for cell in notebook.cells:
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.source = re.sub(r"^output = .*$", "output = ''", cell.source, flags=re.MULTILINE)
            cell.source = _named_places(cell.source, folder)
        for output in cell.get("outputs", []):
            data, traceback = output.get("data", {}), output.get("traceback", [])
            output.update({key: _named_places(output[key], folder) for key in ("text", "evalue") if key in output})
            output.update({"traceback": [_named_places(line, folder) for line in traceback]} if traceback else {})
            data.update({key: _named_places(data[key], folder) for key in data if key.startswith("text/")})
    notebook.metadata.pop("papermill", None)  # the paths of input and output
    with contextlib.suppress(OSError), replacing(folder / EXECUTED) as file:
        file.write(nbformat.writes(notebook).encode())


def note_call(folder: Path) -> list[dict[str, Any]]:
    """Note that a call begins in a run's ``folder``; all calls until now, this one last: started, commit, dirty,
    code_sha256, device, cores. What was stopped and continued, or run again on what was there, may come from several
    commits and machines."""
    started = datetime.now(UTC).isoformat(timespec="seconds")
    machine = {key: value for key, value in hardware().items() if key in ("device", "cores")}
    call = {"started": started, **_git_state(), "code_sha256": code_sha256(), **machine}
    with (folder / CALLS).open("a", encoding="utf-8") as file:
        file.write(f"{json.dumps(call)}\n")
    calls = []
    for line in (folder / CALLS).read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):  # killed while writing
            calls.append(json.loads(line))
    return calls


def provenance(data: Mapping[str, str]) -> dict[str, Any]:
    """Commit, data, software and hardware of a run; ``data``: SHA-256 by name."""
    return {
        **_git_state(),
        "code_sha256": code_sha256(),
        "data": dict(data),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": package_versions(),
        **hardware(),
    }


def _git_state() -> dict[str, Any]:
    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, timeout=30, check=True)
        return done.stdout.strip()

    if root := paths.checkout():
        with contextlib.suppress(OSError, subprocess.SubprocessError):  # no git, or a checkout without its history
            return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    return {"commit": None, "dirty": None}


def direct_dependencies() -> list[str]:
    """Names of the packages that nngpt-lab itself asks for, without extras; empty when it is not installed."""
    try:
        required = metadata.requires("nngpt-lab") or []
    except metadata.PackageNotFoundError:
        return []
    return [re.findall(r"^[\w.-]+", line)[0] for line in required if "extra ==" not in line]


def package_versions(names: Iterable[str] | None = None) -> dict[str, str | None]:
    """Installed version of each package (None: missing), from metadata, so that nothing is imported."""
    versions: dict[str, str | None] = {}
    for name in sorted({*direct_dependencies(), *ALSO_RECORDED} if names is None else set(names)):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def hardware() -> dict[str, Any]:
    """What computes: the device torch would use, cores, threads (what OpenMP, and so torch, takes) and memory."""
    import psutil

    cores, devices, threads = usable_cores(), cuda_devices(), os.environ.get("OMP_NUM_THREADS", "")
    return {
        "device": devices[0]["name"] if devices else f"cpu ({processor_name()})",
        "cores": cores,
        "threads": int(threads) if threads.isdigit() else cores,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
    }


def usable_cores() -> int:
    """Cores this process may run on, which in a container or under a scheduler are fewer than the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor_name() -> str:
    """The processor's marketing name where the system tells, else its architecture."""
    with contextlib.suppress(OSError):
        cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        if line := re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE):
            return line[1].strip()
    return platform.processor() or platform.machine()


PROBE_CUDA = """
import json, torch
devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
print(json.dumps([{"name": d.name, "memory_gib": round(d.total_memory / 2**30, 1)} for d in devices]))
"""


@functools.cache
def cuda_devices() -> list[dict[str, Any]]:
    """Name and memory of each CUDA device that torch can use; empty when there is none or torch cannot say. A child
    process asks: importing torch costs seconds and a CUDA context costs device memory, which the notebooks need.
    (nvidia-smi knows neither CUDA_VISIBLE_DEVICES nor whether torch was built for CUDA.) Without the NVIDIA driver
    torch cannot have a device, and the question is saved."""
    from ctypes.util import find_library

    if not (find_library("cuda") or find_library("nvcuda") or Path("/dev/nvidiactl").exists()):
        return []
    try:
        done = subprocess.run([sys.executable, "-c", PROBE_CUDA], capture_output=True, text=True, timeout=120)
        return json.loads(done.stdout) if done.returncode == 0 else []
    except (OSError, subprocess.SubprocessError, ValueError):
        return []
