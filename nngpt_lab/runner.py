"""Runs notebooks: papermill underneath, with what papermill lacks.

* Everything that can be refused is refused before the first kernel starts, for all notebooks of a call. A parameter
  must exist in at least one of them, and goes to those that have it.
* A run leaves a manifest, written last; a notebook whose manifest still holds is not run again, so that repeating an
  interrupted command continues it.
* A cell that only shows (a figure, a table) and fails does not end its notebook, whose loop may have taken hours: the
  rest goes on, and the manifest says ``incomplete``.
* A failed notebook is kept and told in three lines; the others still run.
* A call may have a limit in minutes. What runs then is interrupted as by Ctrl-C, so that what it had finished is kept.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import math
import os
import re
import shlex
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from nngpt_lab import doctor
from nngpt_lab.candidates import ledger
from nngpt_lab.corpora import artifacts
from nngpt_lab.ground import paths, progress
from nngpt_lab.ground.errors import UsageError
from nngpt_lab.ground.isolation import described
from nngpt_lab.ground.processes import carried, side_by_side
from nngpt_lab.parameters import (
    OWN_OPTIONS,
    also_read,
    check_names,
    check_own_claims,
    check_values,
    convert,
    read_notebook,
    read_parameters,
)
from nngpt_lab.records import manifest, run_folders
from nngpt_lab.records.profiles import Profile, get_profile

KERNEL_LOG = ".kernel.log"  # of the kernel's process, not of the notebook; tells why a kernel died or never came up
PROGRESS = ".progress.json"  # how far the cell that runs is
NOTEBOOK_GIB = 3  # of memory for each notebook that runs beside others; the most that one of the demo took is 2
AGAIN_SECONDS = 60  # an interrupt that finds the kernel between two cells is lost: it is sent again
START_SECONDS = 600  # for a kernel on a loaded machine
SHOWS = re.compile(r"\bresults\.(figure|table)\(")  # a cell after which a notebook can go on, whatever it raised
ENDING = {"KeyboardInterrupt", "LabError", "UsageError", "DataError", "BusyError", "SandboxError"}  # whatever it shows
MADE_BY_A_RUN = {"injected-parameters", "papermill-error-cell-tag"}  # tags of cells that an executed notebook has more
KERNEL_ENVIRONMENT = {
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # without it cuBLAS is not deterministic, and it must be set before CUDA is
    "JUPYTER_PREFER_ENV_PATH": "1",  # a kernel that starts kernels takes this environment's, not the user's
}


@dataclass(frozen=True)
class Job:
    """One notebook with everything decided: what is run, with which parameters (``defaults``: the notebook's own), into
    which folder. ``again`` is the command that repeats it."""

    notebook: Path
    content: Any  # nbformat.NotebookNode
    parameters: dict[str, Any]
    defaults: dict[str, Any]
    folder: Path
    again: str


@dataclass(frozen=True)
class RunOutcome:
    """How a job ended: ``ok``, ``up to date``, ``failed``, ``incomplete`` when only figures or tables failed or cells
    were ``not_run``, or ``stopped`` when its time was up; then ``left`` says how much there is still to do. ``warned``:
    numbers of the cells that wrote to stderr. ``isolation``: in a phrase, of the candidates that were run, if any."""

    job: Job
    status: str
    seconds: float = 0.0
    error: dict[str, Any] | None = None
    warned: tuple[int, ...] = ()
    left: str = ""
    not_run: dict[str, dict[str, str]] = field(default_factory=dict)
    isolation: str = ""

    def lines(self) -> list[str]:
        """What to tell the user: one line, or three for a failure (where, what, what next)."""
        name, folder = self.job.notebook.stem, self.job.folder
        if self.status == "stopped":
            return [f"stopped  {name}  {self.seconds:.1f} s  {self.left}", f"  go on: {self.job.again}"]
        if self.error is None:
            took = "up to date" if self.status == "up to date" else f"{self.seconds:.1f} s"
            warned = f"  warnings in cells {', '.join(map(str, self.warned))}" if self.warned else ""
            confined = f"  {self.isolation}" if self.isolation else ""
            ended = "incomplete" if self.not_run else "ok"
            lines = [f"{ended}  {name}  {took}  {manifest.display(folder)}{confined}{warned}"]
            for why in list(self.not_run.values())[:1]:
                lines += [f"  not run: cells {', '.join(self.not_run)}: {why['cause']}", f"  cure: {why['cure']}"]
            return lines
        cell = self.error["cell"]
        where = self.error["line"] if cell is None else f"in cell [{cell}]: {self.error['line']}"
        return [
            f"{self.status}  {name}  {self.seconds:.1f} s  {where}",
            f"  {self.error['type']}: {self.error['message']}",
            f"  see {manifest.display(folder / manifest.EXECUTED)}; again: {self.job.again}",
        ]


def run_notebooks(
    notebooks: Sequence[Path],
    profile: str = "smoke",
    seed: int = 0,
    parameters: dict[str, Any] | None = None,
    output: Path | str | None = None,
    force: bool = False,
    on_done: Callable[[RunOutcome], None] = lambda outcome: None,
    minutes: float | None = None,
    together: int = 1,
) -> list[RunOutcome]:
    """Run notebooks, each into a folder of its own in ``output/<stem>/``; the outcomes in the order of their ends.

    Args:
        parameters: values by name; a text is converted to the type that the notebook's parameters cell gives.
        output: folder that holds one folder per notebook; default ``results/<profile>``.
        force: run again even what is up to date.
        on_done: called with each outcome as it comes.
        minutes: stop then, at the next safe point; the same call continues, also where the folder was copied to.
        together: how many run at a time, each in a process of its own; 1: one after the other, in this process.

    Raises:
        UsageError: something given is wrong; BusyError: another process is working in one of the folders; nothing was
            started.
    """
    if minutes is not None and not minutes > 0:
        raise UsageError(f"a run of {minutes:g} minutes does nothing", "give a number above 0, or none")
    jobs = prepare(notebooks, get_profile(profile), seed, parameters or {}, output)
    outcomes = []
    with contextlib.ExitStack() as locks:
        for job in jobs:  # all before the first starts: a second run must fail now, not in ten minutes
            job.folder.mkdir(exist_ok=True)
            locks.enter_context(run_folders.hold(job.folder))
        deadline = math.inf if minutes is None else time.monotonic() + 60 * minutes
        calls = [(job, force, deadline, place if together > 1 else 0) for place, job in enumerate(jobs)]
        with contextlib.closing(side_by_side(_run_and_link, calls, together)) as ended:
            for outcome in ended:
                outcomes.append(outcome)
                on_done(outcome)
    return outcomes


def at_a_time(notebooks: int) -> int:
    """How many notebooks this machine carries at a time: as it has cores, and GiB of free memory for each."""
    return carried(min(notebooks, manifest.usable_cores()), NOTEBOOK_GIB)


def prepare(
    notebooks: Sequence[Path], profile: Profile, seed: int, given: dict[str, Any], output: Path | str | None
) -> list[Job]:
    """Check everything about a call and decide its jobs; starts nothing."""
    notebooks = list(dict.fromkeys(Path(notebook).resolve() for notebook in notebooks))
    if len({notebook.stem for notebook in notebooks}) < len(notebooks):
        raise UsageError(
            "two of the notebooks have one name and would share a results folder",
            "run each with an --output of its own",
        )
    contents = {notebook: read_notebook(notebook) for notebook in notebooks}
    parameters = {notebook: read_parameters(contents[notebook], notebook.name) for notebook in notebooks}
    check_names(given, parameters)
    results, jobs = paths.results_folder(profile.name, output), []
    for notebook, known in parameters.items():
        own = {name: convert(name, given[name], parameter) for name, parameter in known.items() if name in given}
        check_values(notebook, own, profile)
        defaults = {name: parameter.default for name, parameter in known.items()}
        check_own_claims(notebook, defaults | own)
        changed = {name: value for name, value in own.items() if value != defaults[name]}
        folder = results / notebook.stem / run_folders.name(seed, changed)
        values = defaults | own | {"profile": profile.name, "seed": seed, "output": str(folder)}
        again = rerun_command(notebook, profile.name, seed, own, results if output else None)
        jobs.append(Job(notebook, contents[notebook], values, defaults, folder, again))
    device = str(given.get("device"))  # in a notebook of the user's it may mean anything
    doctor.check_hardware(profile.on(device) if re.fullmatch(r"cpu|cuda(:\d+)?", device) else profile)
    for job in jobs:
        run_folders.check_ours(job.folder)
        doctor.check_writable(job.folder.parent)
        run_folders.claim(job.notebook, job.folder.parent)
    return jobs


def _run_and_link(job: Job, force: bool, deadline: float, place: int) -> RunOutcome:
    try:
        return _run(job, force, deadline, place)
    finally:
        run_folders.link_latest(job.folder.parent)


def _run(job: Job, force: bool, deadline: float, place: int) -> RunOutcome:
    """``place``: the line of its progress bar."""
    data = artifacts.hashes() | also_read(job.parameters, job.notebook.parent)
    mark = manifest.fingerprint(job.content, job.parameters, data)
    if not force and manifest.is_current(job.folder, mark):
        warnings = (manifest.read(job.folder) or {}).get("warnings", ())
        return RunOutcome(job, "up to date", warned=tuple(warning["cell"] for warning in warnings))
    if time.monotonic() >= deadline:
        return RunOutcome(job, "stopped", left="not begun")
    run_folders.set_aside(job.folder)
    manifest.clear(job.folder)
    calls = manifest.note_call(job.folder)
    started, clock = datetime.now(UTC), time.perf_counter()
    ended = _execute(job, deadline, place)
    seconds = round(time.perf_counter() - clock, 2)
    manifest.hide_places(job.folder)
    cells = manifest.cells(job.folder)
    if ended and time.monotonic() >= deadline:  # interrupted; an error of its own will come again
        return RunOutcome(job, "stopped", seconds, left=_left(job, len(cells)))
    failures = [_error(cell.index, cell.source, *cell.error) for cell in cells if cell.error]
    not_run, layers = manifest.not_run(job.folder), ledger.isolation_in(job.folder / manifest.LEDGER)
    error = ended or next(iter(failures), None)
    status = "failed" if ended else "incomplete" if failures or not_run else "ok"
    warnings = [{"cell": cell.index, "line": cell.warning} for cell in cells if cell.warning]
    record = {
        "status": status,
        "notebook": manifest.portable_name(job.notebook),
        "profile": job.parameters["profile"],
        "seed": job.parameters["seed"],
        "parameters": {name: value for name, value in job.parameters.items() if name not in OWN_OPTIONS},
        "started": started.isoformat(timespec="seconds"),
        "seconds": seconds,
        "cells": [{"index": cell.index, "seconds": cell.seconds} for cell in cells],
        "warnings": warnings,
        "error": error,
        "failures": failures,
        "not_run": not_run,
        "isolation": layers,
        "fingerprint": mark,
        "notebook_sha256": manifest.notebook_sha256(job.content),
        **manifest.provenance(data),
        "calls": calls,
        "outputs": manifest.outputs(job.folder),
    }
    try:
        manifest.write(job.folder, record)
    except OSError as full:
        why = f"{full.strerror or full}; make room there, and the same command continues"
        error, status = _error(None, "its manifest could not be written", type(full).__name__, why), "failed"
    warned, confined = tuple(warning["cell"] for warning in warnings), "" if layers is None else described(layers)
    return RunOutcome(job, status, seconds, error, warned, not_run=not_run, isolation=confined)


def _left(job: Job, begun: int) -> str:
    """What is still to do, as far as the notebook said."""
    cells = (
        sum(cell.cell_type == "code" and bool(cell.source.strip()) for cell in job.content.cells) + 1
    )  # the injected
    noted = progress.read(job.folder / PROGRESS)
    return ", ".join(
        [f"cell {begun} of {cells}", *(f"{title}: {done} of {all}" for title, (done, all) in noted.items())]
    )


@contextlib.contextmanager
def _interrupted_at(deadline: float, kernels: Sequence[Any]) -> Iterator[None]:
    """Interrupt those kernels at the deadline, as Ctrl-C would."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(max(0.0, deadline - time.monotonic())):
            if time.monotonic() < deadline:
                continue
            for pid in filter(None, [getattr(kernel.provisioner, "pid", None) for kernel in kernels]):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGINT)
            if over.wait(AGAIN_SECONDS):  # not sooner: one that falls before a cell's reply takes the reply with it
                return

    watcher = threading.Thread(target=watch, daemon=True)
    if deadline < math.inf:
        watcher.start()
    try:
        yield
    finally:
        over.set()


def _execute(job: Job, deadline: float, place: int) -> dict[str, Any] | None:
    """Run the notebook, saving it after every cell; the error that ended it early, or None. What a cell that only shows
    has raised stands in the notebook alone."""
    import papermill

    logging.getLogger("papermill").addHandler(logging.NullHandler())  # the outcome says what its log would say again
    # papermill formats output paths, so braces are doubled
    executed = str(job.folder / manifest.EXECUTED).replace("{", "{{").replace("}", "}}")
    shape = "{desc}  {n_fmt}/{total_fmt} cells  {elapsed}"
    kernels: list[Any] = []
    ended: list[dict[str, Any]] = []
    (job.folder / PROGRESS).unlink(missing_ok=True)
    bar = {"desc": job.notebook.stem, "bar_format": shape, "leave": False, "disable": None, "position": place}
    try:
        with (job.folder / KERNEL_LOG).open("wb") as log, _interrupted_at(deadline, kernels):
            execute = functools.partial(
                papermill.execute_notebook,
                _injected(job),
                executed,
                kernel_name="python3",
                language="python",
                progress_bar=bar,
                cwd=str(job.notebook.parent),  # as in JupyterLab and nbval
                kernel_manager_class=_this_python(log, job.folder / PROGRESS, kernels),
                start_timeout=START_SECONDS,
                allow_errors=True,
                on_cell_error=_ends_unless_it_only_shows(ended),
            )
            twice_if_it_never_began(execute)
    except papermill.PapermillExecutionError:
        return ended[0] if ended else None
    except KeyboardInterrupt:  # what nbclient's tasks still wait for will not come, and asyncio would say so of each
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        raise
    except Exception as error:  # a kernel that died or never came up must not stop the other notebooks
        last = (manifest.cells(job.folder) or [manifest.Cell(0, "(before the first)", 0.0, "")])[-1]
        hint = f"(often: out of memory; what the kernel last said is in {manifest.display(job.folder / KERNEL_LOG)})"
        if isinstance(error, OSError):
            hint = "(make room or choose another --output; the same command continues)"
        return _error(last.index, last.source, type(error).__name__, f"{error} {hint}")
    return None


def twice_if_it_never_began(start: Callable[[], Any]) -> Any:
    """Call ``start``, and once more where its kernel ended before its first answer. A kernel opens the ports that were
    found free a second before; another program may have taken one of them meanwhile."""
    try:
        return start()
    except RuntimeError as error:
        if "before replying" not in str(error):
            raise
        return start()


def _ends_unless_it_only_shows(ended: list[dict[str, Any]]) -> Callable[..., None]:
    """nbclient's hook for a cell that raised. It raises, and so ends the notebook, unless the cell hands a figure or a
    table to ``results``. An interrupt always ends it, and so does an error that the user has a cure for."""

    def hook(cell: Any, cell_index: int, execute_reply: dict[str, Any]) -> None:
        from nbclient.exceptions import CellExecutionError

        reply = execute_reply["content"]
        if not SHOWS.search(cell.source) or reply["ename"] in ENDING:
            ended.append(_error(cell.execution_count, cell.source, reply["ename"], reply["evalue"]))
            raise CellExecutionError.from_cell_and_msg(cell, reply)

    return hook


def _injected(job: Job):
    """The notebook with a cell that sets the parameters, as papermill would add it, in place of one that an executed
    notebook has already. Not papermill's own, which turns a tuple into a text and the numbers that are keys of a
    dictionary as well."""
    import nbformat

    content = nbformat.from_dict(json.loads(nbformat.writes(job.content)))
    content.cells = [cell for cell in content.cells if not MADE_BY_A_RUN & set(cell.metadata.get("tags", []))]
    where = next(i for i, cell in enumerate(content.cells) if "parameters" in cell.metadata.get("tags", []))
    lines = "\n".join(f"{name} = {value!r}" for name, value in job.parameters.items())
    cell = nbformat.v4.new_code_cell(f"# Parameters\n{lines}", metadata={"tags": ["injected-parameters"]})
    content.cells.insert(where + 1, cell)
    return content


def _this_python(stderr: IO[bytes], noted: Path, started: list[Any]):
    """A kernel manager whose kernels run this very interpreter; their processes' own messages go to ``stderr``, how far
    they are to the file ``noted``, and they themselves to ``started``.

    A kernelspec called ``python3`` in the user's Jupyter folder wins over the environment's own and may point to
    another Python, one without this package or with other versions of everything the manifest vouches for.
    """
    import zmq
    from ipykernel.kernelspec import RESOURCES, get_kernel_dict
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpec
    from traitlets import default

    environment = {**KERNEL_ENVIRONMENT, progress.VARIABLE: str(noted)}

    class ThisPython(AsyncKernelManager):
        @default("transport_encryption")
        def _encrypted_where_it_can_be(self) -> str:  # other users of the machine could read a plain connection
            return "auto" if zmq.has("curve") else "disabled"

        def start_kernel(self, **options: Any):
            started.append(self)
            return super().start_kernel(stderr=stderr, **options)

        @property
        def kernel_spec(self) -> KernelSpec:
            return KernelSpec(resource_dir=RESOURCES, **{**get_kernel_dict(), "env": environment})

    return ThisPython


def _error(number: int | None, source: str, kind: str, message: str) -> dict[str, Any]:
    line = next((line.strip() for line in source.splitlines() if line.strip()), "")
    return {"cell": number, "line": line[:100], "type": kind, "message": " ".join(message.split())[:400]}


def rerun_command(notebook: Path, profile: str, seed: int, parameters: dict[str, Any], output: Path | None) -> str:
    words = ["nngpt-lab", "run", manifest.display(notebook), "--profile", profile, "--seed", seed]
    for name, value in parameters.items():
        words += ["-p", name, "none" if value is None else value]
    words += ["--output", manifest.display(output)] if output else []
    return shlex.join(map(str, words))
