"""Runs notebooks: papermill underneath, with what papermill lacks.

* Everything that can be refused is refused before the first kernel starts, for all notebooks of a call. A parameter
  must exist in at least one of them, and goes to those that have it.
* A run leaves a manifest, written last; a notebook whose manifest still holds is not run again, so that repeating an
  interrupted command continues it.
* A failed notebook is kept and told in three lines; the others still run.
* A call may have a limit in minutes. What runs then is interrupted as by Ctrl-C, so that what it had finished is kept.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import json
import logging
import math
import os
import shlex
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from nngpt_lab import doctor
from nngpt_lab.corpora import artifacts
from nngpt_lab.ground import paths, progress
from nngpt_lab.ground.errors import BusyError, UsageError
from nngpt_lab.ground.names import did_you_mean
from nngpt_lab.records import manifest
from nngpt_lab.records.profiles import Profile, get_profile

KERNEL_LOG = ".kernel.log"  # of the kernel's process, not of the notebook; tells why a kernel died or never came up
LOCK, HOLDER = ".lock", ".lock-holder.json"
PROGRESS = ".progress.json"  # how far the cell that runs is
AGAIN_SECONDS = 60  # an interrupt that finds the kernel between two cells is lost: it is sent again
KINDS: dict[type | None, str] = {
    str: "a text", int: "a whole number", float: "a number", bool: "true or false", dict: "a dictionary",
    list: "a list", tuple: "a list in parentheses",
}  # fmt: skip
ANNOTATIONS = {kind.__name__: kind for kind in (int, float, str, bool)}
EXAMPLES: dict[type | None, Any] = {int: 10, float: 0.5, bool: True}  # of a value to give, where None is the default
OWN_OPTIONS = ("profile", "seed", "output")  # parameters every notebook has, set by options of their own
KERNEL_ENVIRONMENT = {
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # without it cuBLAS is not deterministic, and it must be set before CUDA is
    "JUPYTER_PREFER_ENV_PATH": "1",  # a kernel that starts kernels takes this environment's, not the user's
}


@dataclass(frozen=True)
class Parameter:
    """A line of a parameters cell: ``name: kind | None = default``; ``optional`` says whether None is allowed.

    Without an annotation the default's type is the kind. Where neither says one, any literal will do.
    """

    default: Any
    kind: type | None
    optional: bool = False

    def allows(self, value: Any) -> bool:
        """Whether it can have this value, as it is. Numbers are finite: a manifest is JSON."""
        if value is None or self.kind is None:
            return self.optional
        return type(value) is self.kind and repr(value) not in ("nan", "inf", "-inf")


@dataclass(frozen=True)
class Job:
    """One notebook with everything decided: what is run, with which parameters, into which folder. ``again`` is the
    command that repeats it."""

    notebook: Path
    content: Any  # nbformat.NotebookNode
    parameters: dict[str, Any]
    folder: Path
    again: str


@dataclass(frozen=True)
class RunOutcome:
    """How a job ended: ``ok``, ``failed``, ``up to date``, or ``stopped`` when its time was up; then ``left`` says how
    much there is still to do. ``warned``: numbers of the cells that wrote to stderr."""

    job: Job
    status: str
    seconds: float = 0.0
    error: dict[str, Any] | None = None
    warned: tuple[int, ...] = ()
    left: str = ""

    def lines(self) -> list[str]:
        """What to tell the user: one line, or three for a failure (where, what, what next)."""
        name, folder = self.job.notebook.stem, self.job.folder
        if self.status == "stopped":
            return [f"stopped  {name}  {self.seconds:.1f} s  {self.left}", f"  go on: {self.job.again}"]
        if self.error is None:
            took = "up to date" if self.status == "up to date" else f"{self.seconds:.1f} s"
            warned = f"  warnings in cells {', '.join(map(str, self.warned))}" if self.warned else ""
            return [f"ok  {name}  {took}  {manifest.display(folder)}{warned}"]
        return [
            f"failed  {name}  {self.seconds:.1f} s  in cell [{self.error['cell']}]: {self.error['line']}",
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
) -> list[RunOutcome]:
    """Run notebooks one after the other into ``output/<stem>/``.

    Args:
        notebooks: paths of notebooks, each with one cell tagged ``parameters``.
        profile: name of a profile.
        seed: seed of everything random, 0 or more.
        parameters: values by name; a text is converted to the type that the notebook's parameters cell gives.
        output: folder that holds one folder per notebook; default ``results/<profile>``.
        force: run again even what is up to date.
        on_done: called with each outcome as it comes.
        minutes: stop then, at the next safe point; the same call continues, also where the folder was copied to.

    Raises:
        UsageError: something given is wrong; nothing was started.
        BusyError: another process is working in one of the folders; nothing was started.
    """
    jobs = prepare(notebooks, get_profile(profile), seed, parameters or {}, output)
    outcomes = []
    with contextlib.ExitStack() as locks:
        for job in jobs:  # all before the first starts: a second run must fail now, not in ten minutes
            locks.enter_context(hold(job.folder))
        deadline = math.inf if minutes is None else time.monotonic() + 60 * minutes
        for job in jobs:
            outcomes.append(_run(job, force, deadline))
            on_done(outcomes[-1])
    return outcomes


def prepare(
    notebooks: Sequence[Path], profile: Profile, seed: int, given: dict[str, Any], output: Path | str | None
) -> list[Job]:
    """Check everything about a call and decide its jobs; starts nothing."""
    notebooks = list(dict.fromkeys(Path(notebook).resolve() for notebook in notebooks))
    if len({notebook.stem for notebook in notebooks}) < len(notebooks):
        raise UsageError("two of the notebooks have one name and would share a results folder", "run them separately")
    contents = {notebook: read_notebook(notebook) for notebook in notebooks}
    parameters = {notebook: read_parameters(contents[notebook], notebook.name) for notebook in notebooks}
    check_names(given, parameters)
    results, jobs = paths.results_folder(profile.name, output), []
    for notebook, known in parameters.items():
        own = {name: convert(name, given[name], parameter) for name, parameter in known.items() if name in given}
        folder = results / notebook.stem
        defaults = {name: parameter.default for name, parameter in known.items()}
        values = defaults | own | {"profile": profile.name, "seed": seed, "output": str(folder)}
        again = rerun_command(notebook, profile.name, seed, own, results if output else None)
        jobs.append(Job(notebook, contents[notebook], values, folder, again))
    doctor.check_hardware(profile.on("cpu") if given.get("device") == "cpu" else profile)
    for job in jobs:
        doctor.check_writable(job.folder)
    return jobs


# --- what a notebook takes, and whether what was given fits -----------------------------------------------------------


def read_notebook(path: Path):
    """The notebook as nbformat 4, or a UsageError when it cannot be read."""
    import nbformat

    shown = manifest.display(path)
    try:
        return nbformat.read(path, as_version=4)
    except OSError as error:
        raise UsageError(f"cannot read {shown}: {error.strerror}", "give the path of a notebook") from error
    except Exception as error:  # nbformat raises many kinds for what is not a notebook
        raise UsageError(f"{shown} is not a Jupyter notebook", "open it in JupyterLab to repair it") from error


def read_parameters(notebook, name: str) -> dict[str, Parameter]:
    """Names, types and defaults of the cell tagged ``parameters``, read without running it.

    Raises:
        UsageError: there is not exactly one such cell, a line of it is neither ``name = literal`` nor
            ``name: type = literal``, or one of ``profile``, ``seed``, ``output`` is missing.
    """
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(cells) != 1:
        raise UsageError(
            f"{name} has {len(cells) or 'no'} cell{'s' * (len(cells) > 1)} tagged 'parameters'",
            "tag exactly one (JupyterLab: the gear at the right, Cell Tags)",
        )
    where = f"the parameters cell of {name}"
    try:
        statements = ast.parse(cells[0].source).body
    except SyntaxError as error:
        raise UsageError(f"{where} is not Python: {error.msg}", "mend it in JupyterLab") from error
    parameters = dict(_parameter(statement, where) for statement in statements)
    if missing := ", ".join(option for option in OWN_OPTIONS if option not in parameters):
        raise UsageError(f"{where} lacks {missing}", 'it must hold profile = "smoke", seed = 0 and output = ""')
    return parameters


def _parameter(statement: ast.stmt, where: str) -> tuple[str, Parameter]:
    """One line of a parameters cell (an error says which, by ``where``): the name and what it may be."""
    try:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                default = ast.literal_eval(value)
                return name, Parameter(default, None if default is None else type(default), default is None)
            case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation, value=ast.expr() as value):
                default, written = ast.literal_eval(value), ast.unparse(annotation)
            case _:
                raise ValueError("no assignment of one value to one name")
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"{where} holds more than plain values: {ast.unparse(statement)}",
            "write one `name = literal` or `name: type = literal` a line there and compute in the next cell",
        ) from error
    kind, *others = [part for part in written.split(" | ") if part != "None"] or [written]
    said = f"{where} gives {name!r} the type {written}"
    if others or kind not in ANNOTATIONS:
        raise UsageError(said, f"use {', '.join(ANNOTATIONS)}, each alone or with `| None`")
    default = float(default) if kind == "float" and type(default) is int else default
    parameter = Parameter(default, ANNOTATIONS[kind], optional="None" in written)
    if not parameter.allows(default):
        raise UsageError(f"{said} and the value {default!r}", "change one of them in JupyterLab")
    return name, parameter


def check_names(given: dict[str, Any], parameters: dict[Path, dict[str, Parameter]]) -> None:
    """Refuse a parameter that none of the notebooks has, and those that have an option of their own."""
    known = sorted({name for own in parameters.values() for name in own if name not in OWN_OPTIONS})
    for name in given:
        if name in OWN_OPTIONS:
            raise UsageError(f"{name!r} is not set with -p", f"use --{name} {given[name]}")
        if name not in known:
            notebooks = ", ".join(notebook.stem for notebook in parameters)
            choice = f"it takes {', '.join(known)}" if known else "it takes no parameters of its own"
            raise UsageError(f"{notebooks} has no parameter {name!r}", did_you_mean(name, known) + choice)


def convert(name: str, given: Any, parameter: Parameter) -> Any:
    """``given`` as the parameter takes it; a text, as the command line gives it, is read as its type.

    >>> convert("epochs", "3", Parameter(5, int)), convert("resamples", "none", Parameter(None, int, optional=True))
    (3, None)
    """
    kind, value = parameter.kind, given
    if isinstance(value, str) and parameter.optional and value.lower() == "none":
        return None
    if isinstance(value, str):
        value = _absolute(value) if kind is str else _read_literal(value, kind)
    if kind is float and type(value) is int:
        value = float(value)
    if kind in (list, tuple) and isinstance(value, list | tuple):
        value = kind(value)
    if not parameter.allows(value):
        example = EXAMPLES.get(kind, "NAME") if parameter.default is None else parameter.default
        raise UsageError(
            f"parameter {name!r} takes {KINDS.get(kind, 'a value')} ({kind and kind.__name__}), not {given!r}",
            f"for example -p {name} {shlex.quote(str(example))}" + f", or -p {name} none" * parameter.optional,
        )
    return value


def _absolute(text: str) -> str:
    """Paths to what is there, made absolute, since a notebook runs in its own folder; all else as it is. Several may be
    separated by commas; a path has a slash, or is a GGUF file's."""
    parts = ((part, Path(part.strip()).expanduser()) for part in text.split(","))
    return ",".join(
        str(path.resolve()) if ("/" in part or path.suffix.lower() == ".gguf") and path.exists() else part
        for part, path in parts
    )


def _read_literal(text: str, kind: type | None) -> Any:
    """``text`` read as ``kind``, or unchanged, for the caller to refuse, when it cannot be."""
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
        return kind(text) if kind in (int, float) else ast.literal_eval(text)
    return text


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Keep other processes out of ``folder``; a BusyError at once, naming the holder, when one is already there.

    The lock is the system's, so it dies with its process; the file beside it only says whose it is.
    """
    from filelock import FileLock, Timeout

    holder = folder / HOLDER
    try:
        with FileLock(folder / LOCK, timeout=0):
            started = datetime.now().astimezone().isoformat(timespec="seconds")
            holder.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "started": started}))
            try:
                yield
            finally:
                holder.unlink(missing_ok=True)
    except Timeout:
        try:
            who = "process {pid} on {host}, since {started}".format(**json.loads(holder.read_text()))
        except (OSError, ValueError, KeyError):
            who = "it has not said who it is"
        raise BusyError(
            f"another process is working in {manifest.display(folder)} ({who})",
            "wait for it, or choose another --output",
        ) from None


# --- running ----------------------------------------------------------------------------------------------------------


def _run(job: Job, force: bool, deadline: float) -> RunOutcome:
    mark = manifest.fingerprint(job.content, job.parameters, artifacts.hashes())
    if not force and manifest.is_current(job.folder, mark):
        warnings = (manifest.read(job.folder) or {}).get("warnings", ())
        return RunOutcome(job, "up to date", warned=tuple(warning["cell"] for warning in warnings))
    if time.monotonic() >= deadline:
        return RunOutcome(job, "stopped", left="not begun")
    manifest.clear(job.folder)
    started, clock = datetime.now(UTC), time.perf_counter()
    error = _execute(job, deadline)
    seconds, status = round(time.perf_counter() - clock, 2), "failed" if error else "ok"
    cells = manifest.cells(job.folder)
    if error and time.monotonic() >= deadline:  # interrupted; an error of its own will come again
        return RunOutcome(job, "stopped", seconds, left=_left(job, len(cells)))
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
        "fingerprint": mark,
        "notebook_sha256": manifest.notebook_sha256(job.content),
        **manifest.provenance(artifacts.hashes()),
        "outputs": manifest.outputs(job.folder),
    }
    manifest.write(job.folder, record)
    return RunOutcome(job, status, seconds, error, tuple(warning["cell"] for warning in warnings))


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
        wait = max(0.0, deadline - time.monotonic())
        while not over.wait(wait):
            pids = [getattr(kernel.provisioner, "pid", None) for kernel in kernels if time.monotonic() >= deadline]
            for pid in filter(None, pids):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGINT)
            wait = AGAIN_SECONDS

    watcher = threading.Thread(target=watch, daemon=True)
    if deadline < math.inf:
        watcher.start()
    try:
        yield
    finally:
        over.set()


def _execute(job: Job, deadline: float) -> dict[str, Any] | None:
    """Run the notebook, saving it after every cell; the error that stopped it, or None."""
    import papermill

    logging.getLogger("papermill").addHandler(logging.NullHandler())  # the outcome says what its log would say again
    # papermill formats output paths, so braces are doubled
    executed = str(job.folder / manifest.EXECUTED).replace("{", "{{").replace("}", "}}")
    shape = "{desc}  {n_fmt}/{total_fmt} cells  {elapsed}"
    kernels: list[Any] = []
    (job.folder / PROGRESS).unlink(missing_ok=True)
    bar = {"desc": job.notebook.stem, "bar_format": shape, "leave": False, "disable": None}
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
            )
            twice_if_it_never_began(execute)
    except papermill.PapermillExecutionError as error:
        return _error(error.exec_count, error.source, error.ename, error.evalue)
    except Exception as error:  # a kernel that died or never came up must not stop the other notebooks
        last = (manifest.cells(job.folder) or [manifest.Cell(0, "(before the first)", 0.0, "")])[-1]
        hint = f"(often: out of memory; what the kernel last said is in {manifest.display(job.folder / KERNEL_LOG)})"
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


def _injected(job: Job):
    """The notebook with a cell that sets the parameters, as papermill would add it. Not papermill's own, which turns a
    tuple into a text and the numbers that are keys of a dictionary as well."""
    import nbformat

    content = nbformat.from_dict(json.loads(nbformat.writes(job.content)))
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
    """The shell command that repeats a run."""
    words = ["nngpt-lab", "run", manifest.display(notebook), "--profile", profile, "--seed", seed]
    for name, value in parameters.items():
        words += ["-p", name, "none" if value is None else value]
    words += ["--output", manifest.display(output)] if output else []
    return shlex.join(map(str, words))
