"""Paper A's augmentation functions (arXiv 2601.03808) and their scores, as two tables.

Source: the wheel ``nn-gpt==1.0.6``, folder ``ab/gpt/brute/trans``.

``functions``, one row per source file:
    name; source (``brute_force``: the 6,000 of ``out_gen``; ``llm``: the 43 functions ``A<epoch>B<index>`` that the
    tuned LLM wrote, committed without scores); code, code_hash; status (``ok``, ``shape``, ``crash``, ``unscored``,
    ``syntax``, ``contract``); score (one-epoch CIFAR-10 test accuracy in [0, 1] of a LEMUR ResNet; null unless the
    status is ok: a failure is a status, not 0.0); error (last line of the recorded traceback); operations (names, in
    order, without the fixed tail); parameters (JSON: one object per operation); n_operations; resize (side in px of the
    fixed ``Resize``); has_tail (whether Resize, ToTensor and Normalize end the pipeline); batch, lr, momentum,
    duration (ns), uid; llm_epoch, llm_index.

``five_epochs``, one row per file of ``result_epoch1`` (1,807 of the functions, which its records say ran for 5 epochs):
    name, code_hash, epochs, score, duration (ns).

``issues``: as in :mod:`nngpt_lab.corpora.architectures`.

The recorded learning rate is 0.01, batch 64, momentum 0.9, one epoch; which ResNet was trained is not recorded.
"""

from __future__ import annotations

import ast
import json
import re
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from nngpt_lab.corpora import artifacts, compiled
from nngpt_lab.corpora.architectures import Issues
from nngpt_lab.corpora.code import code_hash

VERSION = 1
FOLDER = "ab/gpt/brute/trans/"
TAIL = ("Resize", "ToTensor", "Normalize")
OPERATIONS = (
    "CenterCrop", "ColorJitter", "GaussianBlur", "Grayscale", "Pad", "RandomAdjustSharpness", "RandomAffine",
    "RandomAutocontrast", "RandomCrop", "RandomEqualize", "RandomGrayscale", "RandomHorizontalFlip", "RandomInvert",
    "RandomPerspective", "RandomPosterize", "RandomResizedCrop", "RandomRotation", "RandomSolarize",
    "RandomVerticalFlip",
)  # fmt: skip
"""The 19 variable operations of the authors' generator (``GenerateTransform.py``)."""


@dataclass(frozen=True)
class Augmentations:
    """Paper A's tables as data frames; columns are described in this module's docstring."""

    functions: pd.DataFrame
    five_epochs: pd.DataFrame
    issues: pd.DataFrame

    @property
    def brute_force(self) -> pd.DataFrame:
        """The 6,000 brute-force functions, scored and failed alike."""
        return self.functions[self.functions["source"] == "brute_force"].reset_index(drop=True)

    @property
    def llm(self) -> pd.DataFrame:
        """The 43 committed LLM-generated functions."""
        return self.functions[self.functions["source"] == "llm"].reset_index(drop=True)


def load() -> Augmentations:
    """Paper A's functions from the cache; fetched and compiled on first use (seconds)."""
    names = [field.name for field in fields(Augmentations)]
    tables = compiled.load_or_compile("augmentations", VERSION, artifacts.NNGPT, names, compile_tables)
    return Augmentations(**{name: table.to_pandas() for name, table in tables.items()})


@dataclass(frozen=True)
class Pipeline:
    """What a transform's source says it does: operations in order, each with its literal parameters."""

    operations: tuple[str, ...]
    parameters: tuple[dict, ...]
    resize: int | None
    has_tail: bool


def parse_pipeline(code: str) -> Pipeline:
    """Read ``transform(norm)``'s ``Compose([...])`` from the syntax tree, without running it.

    Positional arguments get the keys ``"0"``, ``"1"``, ...; a value that is no literal is kept as its source text.
    Raises SyntaxError if the source does not parse and ValueError if it has no ``transform`` that returns a list of
    operations in ``Compose``.
    """
    functions = [n for n in ast.parse(code).body if isinstance(n, ast.FunctionDef) and n.name == "transform"]
    composes = [node for function in functions for node in ast.walk(function)
                if isinstance(node, ast.Call) and _name(node) == "Compose"]  # fmt: skip
    if not composes or not composes[0].args or not isinstance(composes[0].args[0], ast.List):
        raise ValueError("there is no transform(norm) that returns Compose([...])")
    steps = [(_name(step), _arguments(step)) for step in composes[0].args[0].elts]
    names = tuple(name for name, _ in steps)
    has_tail = names[-len(TAIL) :] == TAIL
    sizes = [value for name, arguments in steps[-len(TAIL) :] if name == "Resize" for value in arguments.values()]
    size = sizes[0][:1] if sizes and isinstance(sizes[0], tuple | list) else sizes[:1]
    resize = size[0] if size and isinstance(size[0], int) else None
    variable = steps[: -len(TAIL)] if has_tail else steps
    return Pipeline(tuple(n for n, _ in variable), tuple(a for _, a in variable), resize, has_tail)


def _name(step: ast.expr) -> str:
    function = step.func if isinstance(step, ast.Call) else step
    return function.attr if isinstance(function, ast.Attribute) else ast.unparse(function)


def _arguments(step: ast.expr) -> dict:
    if not isinstance(step, ast.Call):
        return {}
    given = {str(i): value for i, value in enumerate(step.args)} | {k.arg or "**": k.value for k in step.keywords}
    return {name: _literal(value) for name, value in given.items()}


def _literal(value: ast.expr):
    try:
        literal = ast.literal_eval(value)
        json.dumps(literal)  # a set or bytes are literals too, but the table holds JSON
        return literal
    except (ValueError, TypeError):
        return ast.unparse(value)


def status_of(error: str) -> str:
    """The typed status of a recorded failure: ``shape`` when an operation met an image of the wrong size."""
    return "shape" if "is larger than input image size" in error else "crash"


def compile_tables(wheel: Path) -> dict[str, pa.Table]:
    """Compile the wheel's augmentation functions and scores into tables."""
    issues = Issues()
    with zipfile.ZipFile(wheel) as archive:
        scored = _read_folder(archive, "out_gen/", ".py")
        results = _read_folder(archive, "result_gen/", ".json")
        later = _read_folder(archive, "dataset_epoch1/", ".py")
        five = _read_folder(archive, "result_epoch1/", ".json")
    generated = {name: code for name, code in later.items() if re.fullmatch(r"A\d+B\d+", name)}
    rows = [_function_row(name, code, "brute_force", results.get(name), issues) for name, code in scored.items()]
    rows += [_function_row(name, code, "llm", None, issues) for name, code in generated.items()]
    if orphans := sorted(results.keys() - scored.keys()):
        issues.add("score without a function", orphans[0], kept=False, count=len(orphans))
    extra = {code_hash(code) for name, code in later.items() if name not in generated} - {r["code_hash"] for r in rows}
    if extra:
        reason = "distinct function of dataset_epoch1 without a one-epoch score"
        issues.add(reason, min(extra), kept=False, count=len(extra))
    return {
        "functions": pa.Table.from_pylist(rows, schema=FUNCTION),
        "five_epochs": _five_epochs(five, later, issues),
        "issues": issues.table(),
    }


def _read_folder(archive: zipfile.ZipFile, folder: str, ending: str) -> dict[str, str]:
    names = [n for n in archive.namelist() if n.startswith(FOLDER + folder) and n.endswith(ending)]
    return {n[len(FOLDER + folder) : -len(ending)]: archive.read(n).decode() for n in sorted(names)}


def _function_row(name: str, code: str, source: str, result: str | None, issues: Issues) -> dict:
    row: dict[str, Any] = {"name": name, "source": source, "code": code, "code_hash": code_hash(code)}
    row["status"] = "unscored"
    if source == "llm":
        row["llm_epoch"], row["llm_index"] = (int(n) for n in re.findall(r"\d+", name))
    try:
        pipeline = parse_pipeline(code)
        row |= {"operations": list(pipeline.operations), "n_operations": len(pipeline.operations)}
        row |= {"resize": pipeline.resize, "has_tail": pipeline.has_tail, "parameters": json.dumps(pipeline.parameters)}
    except (SyntaxError, ValueError) as error:
        row |= {"status": "syntax" if isinstance(error, SyntaxError) else "contract", "error": str(error)}
        issues.add(f"function that cannot be read: {row['status']}", name, kept=True)
    if result is not None:
        row |= _score(json.loads(result))
    elif source == "brute_force":
        issues.add("brute-force function without a score", name, kept=True)
    if row["status"] in ("shape", "crash"):
        issues.add(f"recorded failure, stored by the authors as accuracy 0.0: {row['status']}", name, kept=True)
    return row


def _score(record: dict) -> dict:
    """The recorded outcome. The authors store a failure as accuracy 0.0 beside an error; here it has a status."""
    common = {k: record.get(k) for k in ("batch", "lr", "momentum", "duration", "uid")}
    if "error" in record or not record.get("accuracy"):
        error = record.get("error", "accuracy 0.0 without an error text").strip()
        return common | {"status": status_of(error), "score": None, "error": error.splitlines()[-1]}
    return common | {"status": "ok", "score": float(record["accuracy"])}


FUNCTION = pa.schema({
    "name": pa.string(), "source": pa.string(), "code": pa.string(), "code_hash": pa.string(), "status": pa.string(),
    "score": pa.float64(), "error": pa.string(), "operations": pa.list_(pa.string()), "parameters": pa.string(),
    "n_operations": pa.int16(), "resize": pa.int16(), "has_tail": pa.bool_(), "batch": pa.int32(), "lr": pa.float64(),
    "momentum": pa.float64(), "duration": pa.int64(), "uid": pa.string(), "llm_epoch": pa.int16(),
    "llm_index": pa.int16(),
})  # fmt: skip


def _five_epochs(results: dict[str, str], codes: dict[str, str], issues: Issues) -> pa.Table:
    rows = []
    for name, text in results.items():
        record = json.loads(text)
        if name not in codes:
            issues.add("five-epoch score without a function", name, kept=False)
        elif "error" in record or not record.get("accuracy"):
            issues.add("five-epoch run that failed", name, kept=False)
        else:
            row = {"name": name, "code_hash": code_hash(codes[name]), "epochs": record.get("epoch")}
            rows.append(row | {"score": float(record["accuracy"]), "duration": record.get("duration")})
    kinds = {"name": pa.string(), "code_hash": pa.string(), "epochs": pa.int64()}
    kinds |= {"score": pa.float64(), "duration": pa.int64()}
    return pa.Table.from_pylist(rows, schema=pa.schema(kinds))
