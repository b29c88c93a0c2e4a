"""What a notebook takes, and whether what was given fits: names, types, and values by the tables that the code uses.

All of it is decided before anything starts.
"""

from __future__ import annotations

import ast
import contextlib
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from nngpt_lab.candidates.protocols import PROTOCOLS, get_protocol
from nngpt_lab.ground import paths
from nngpt_lab.ground.errors import UsageError
from nngpt_lab.ground.hashing import sha256_file, sha256_json
from nngpt_lab.ground.isolation import CHOICES
from nngpt_lab.ground.names import did_you_mean, named
from nngpt_lab.llm.prompts import check_fields, prompt
from nngpt_lab.records import manifest
from nngpt_lab.records.profiles import Profile

KINDS: dict[type | None, str] = {
    str: "a text", int: "a whole number", float: "a number", bool: "true or false", dict: "a dictionary",
    list: "a list", tuple: "a list in parentheses",
}  # fmt: skip
ANNOTATIONS = {kind.__name__: kind for kind in (int, float, str, bool)}
EXAMPLES: dict[type | None, Any] = {int: 10, float: 0.5, bool: True}  # of a value to give, where None is the default
OWN_OPTIONS = ("profile", "seed", "output")  # parameters every notebook has, set by options of their own


@dataclass(frozen=True)
class Parameter:
    """A line of a parameters cell: ``name: kind | None = default``; ``optional`` says whether None is allowed. Without
    an annotation the default's type is the kind. Where neither says one, any literal will do."""

    default: Any
    kind: type | None
    optional: bool = False

    def allows(self, value: Any) -> bool:
        """Whether it can have this value, as it is. Numbers are finite: a manifest is JSON."""
        if value is None or self.kind is None:
            return self.optional
        return type(value) is self.kind and repr(value) not in ("nan", "inf", "-inf")


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
    """Names, types and defaults of the cell tagged ``parameters``, read without running it. UsageError if there is not
    exactly one such cell, a line of it is neither ``name = literal`` nor ``name: type = literal``, or one of
    ``profile``, ``seed``, ``output`` is missing."""
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
    separated by commas; a path has a slash, or is a GGUF or text file's."""
    parts = ((part, Path(part.strip()).expanduser()) for part in text.split(","))
    return ",".join(
        str(path.resolve()) if ("/" in part or path.suffix.lower() in (".gguf", ".txt")) and path.exists() else part
        for part, path in parts
    )


def _read_literal(text: str, kind: type | None) -> Any:
    """``text`` read as ``kind``, or unchanged, for the caller to refuse, when it cannot be."""
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
        return kind(text) if kind in (int, float) else ast.literal_eval(text)
    return text


# --- values -----------------------------------------------------------------------------------------------------------

COUNTS = ("alpha", "altered", "batch", "corpus", "cycles", "edits", "epochs", "examples", "functions", "live_seeds",
          "llm_seeds", "loop_seeds", "lora_epochs", "minutes", "networks", "pairs", "parameters", "rank", "repeats",
          "resamples", "sample", "samples", "seeds", "texts", "train_images", "workers")  # fmt: skip
LEAST = dict.fromkeys(COUNTS, 1) | {"policy_seeds": 0, "test": 4, "train": 4}
LEAST_THERE = {("minhash", "repeats"): 2}  # notebooks that need more of what others need one of
LISTS = ("axes", "coder", "prompts")  # of names, separated by commas, each of which is run
SEVERAL_MODELS = ("03_code_to_prediction", "cot_vs_direct", "network_prompts")
CHANGED = ("rank", "lr", "lora_epochs", "temperature", "threshold")  # of a paper's design
LARGEST_HASHED = 16 * 2**20  # bytes


def check_values(notebook: Path, given: dict[str, Any], profile: Profile) -> None:
    """A UsageError for what one of the lab's own notebooks would refuse, too, but only once it runs: no such model,
    arm, protocol, prompt, ..., or a count that is too small. In a user's notebook a name may mean anything."""
    if not notebook.is_relative_to(paths.notebooks_folder()):
        return
    tables = dict(TABLES)
    if notebook.stem.startswith("03"):
        tables["prompts"] = lambda names, profile: _questions(names, None, profile)
    if notebook.stem.startswith("04"):
        tables["arms"] = partial(_arms, "04")
    if notebook.stem not in SEVERAL_MODELS:
        tables["coder"] = _coder
    least = LEAST | {name: number for (stem, name), number in LEAST_THERE.items() if stem == notebook.stem}
    for name, value in given.items():
        if isinstance(value, str) and name in tables:
            _check_list(name, value)
            tables[name](value, profile)
        elif type(value) is int and value < least.get(name, value):
            raise UsageError(f"{name} takes a whole number from {least[name]} up, not {value}", f"say -p {name} 8")
        elif type(value) is float and name in LEAST and value <= 0:
            raise UsageError(f"{name} takes a number above 0, not {value:g}", f"say -p {name} 0.5")
    _resized(notebook, given, profile)


def _check_list(name: str, value: str) -> None:
    """A UsageError if a list names one thing twice: the same would be run again, and counted twice."""
    parts = [part.strip() for part in value.split(",") if part.strip()] if name in LISTS else []
    if twice := next((part for place, part in enumerate(parts) if part in parts[:place]), None):
        raise UsageError(f"{name} names {twice!r} twice", f"say -p {name} {','.join(dict.fromkeys(parts))}")


def check_own_claims(notebook: Path, values: dict[str, Any]) -> None:
    """UsageError if the file that a notebook's ``own_claims`` names, as in the template, holds no claims."""
    if isinstance(file := values.get("own_claims"), str) and file:
        from nngpt_lab.statistics.claims import read_own

        read_own(notebook.parent / file)


def _resized(notebook: Path, given: dict[str, Any], profile: Profile) -> None:
    """Refuse what the design of a paper's notebook refuses: a rank of 0, a prompt with a field that is not filled."""
    chosen = {name: given[name] for name in (*CHANGED, "prompt") if given.get(name) is not None}
    if not chosen:
        return
    from nngpt_lab.study.design import resized

    number = notebook.stem[:2]
    own = _designs(number if number in ("02", "03") else "01")
    fields: tuple[str, ...] = ()
    if number == "02":
        design, fields = own.DESIGNS[profile.augmentation_search.design], own.FIELDS
    elif number == "03":
        design = own.DESIGNS[profile.dataset_prediction.design]
    else:
        design = own.DESIGNS[profile.architecture_loop.design]
        fields = tuple(own.filled(design))
    if "prompt" in chosen:
        check_fields(chosen["prompt"], fields)
    resized(design, **chosen)


def also_read(values: dict[str, Any], beside: Path) -> dict[str, str]:
    """What a run reads of the user's own, by what it is, with a hash of its content: images, with their licence, prompt
    files, claims and models. ``beside``: the folder that relative paths are seen from. A run is not up to date when any
    of them has changed."""
    read = {}
    for name, value in values.items():
        if name == "images" and value:
            from nngpt_lab.corpora import own_images
            from nngpt_lab.corpora.images import SPECS

            if value not in SPECS:
                source = own_images.find(value)
                read[f"images {value}, licence: {source.licence}"] = source.sha256
        for part in value.split(",") if isinstance(value, str) and name != "output" else ():
            path = beside / part.strip()
            if not Path(part.strip()).is_absolute() and path.suffix not in (".toml", ".txt"):
                continue  # a name
            if path.is_file() and path.stat().st_size <= LARGEST_HASHED:
                read[f"{name} {path.name}"] = sha256_file(path)
            elif path.exists():  # a model: gigabytes
                files = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
                stats = [(each.name, each.stat().st_size, each.stat().st_mtime_ns) for each in files]
                read[f"{name} {path.name} (sizes and times)"] = sha256_json(stats)
    return read


def _coders(names: str, profile: Profile) -> None:
    from nngpt_lab.llm import models

    for name in () if names == "all" else names.split(","):
        found = models.find(name.strip())
        if isinstance(found, Path):
            models.check_files(found)
            models.check_template(found)


def _coder(name: str, profile: Profile) -> None:
    if "," in name or name == "all":
        raise UsageError(f"coder is one model here, not {name!r}", "run the notebook once for each")
    _coders(name, profile)


def _protocol(kind: str, name: str, profile: Profile) -> None:
    if get_protocol(name).kind.value != kind:
        own = ", ".join(each.name for each in PROTOCOLS.values() if each.kind.value == kind)
        raise UsageError(f"protocol {name!r} is not for {kind}s", f"use one of {own}")


def _designs(number: str) -> Any:
    """The design module of the paper whose notebook has this number; imported only here, for it takes seconds."""
    from nngpt_lab.papers.architecture_loop import design as architectures
    from nngpt_lab.papers.augmentation_search import design as augmentations
    from nngpt_lab.papers.dataset_prediction import design as questions
    from nngpt_lab.papers.delta_search import design as edits

    return {"01": architectures, "02": augmentations, "03": questions, "04": edits}[number]


def _arms(number: str, names: str, profile: Profile) -> None:
    from nngpt_lab.study.design import get_arms

    get_arms(names, _designs(number).ARMS)


def _axes(names: str, profile: Profile) -> None:
    from nngpt_lab.papers.architecture_loop.settings import AXES

    for name in names.split(","):
        named("setting", name.strip(), AXES)


def _images(name: str, profile: Profile) -> None:
    from nngpt_lab.corpora import images

    images.check(name)


def _replay(name: str, profile: Profile) -> None:
    from nngpt_lab.papers.augmentation_search.replay import get_replay

    get_replay(name)


def _prompts(names: str, profile: Profile) -> None:
    own = _designs("01")
    for name in names.split(","):
        check_fields(name.strip(), own.filled(own.DESIGNS[profile.architecture_loop.design]))


def _questions(prompts: str | None, splits: str | None, profile: Profile) -> None:
    own = _designs("03")
    own.narrowed(own.DESIGNS[profile.dataset_prediction.design], None, prompts, splits)


TABLES: dict[str, Callable[[str, Profile], Any]] = {
    "arms": partial(_arms, "01"),
    "augmentation_protocol": partial(_protocol, "augmentation"),
    "axes": _axes,
    "coder": _coders,
    "device": lambda device, profile: profile.on(device),
    "formats": lambda names, profile: _designs("04").get_formats(names),
    "images": _images,
    "isolation": lambda choice, profile: named("isolation", choice, CHOICES),
    "live_arms": partial(_arms, "02"),
    "prompt": lambda name, profile: prompt(name),
    "prompts": _prompts,
    "protocol": partial(_protocol, "architecture"),
    "replay": _replay,
    "splits": lambda names, profile: _questions(None, names, profile),
}
