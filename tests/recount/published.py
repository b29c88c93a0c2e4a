"""The two published wheels, read straight from the zip: records and sources of LEMUR, paper A's functions and scores.

A wheel is taken from where the lab keeps it, or fetched from the package index by name, version and hash.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pandas as pd
import platformdirs

WHEELS = {
    "nn_dataset": ("nn-dataset==2.1.2", "1f0b66a4f4de80a27b44a502112d4436eac1f97361ea3aae3266a550f01b07de"),
    "nn_gpt": ("nn-gpt==1.0.6", "ad594a1592830c35e8f00ab3802c99fdaaf0b96e67730d8da7ba70a6ed8aaa6a"),
}
SEVEN = ("celeba-gender", "cifar-10", "cifar-100", "imagenette", "mnist", "places365", "svhn")
TRAINED_WITH = ["batch", "lr", "momentum", "dropout", "transform"]


def wheel(name: str) -> zipfile.ZipFile:
    """The wheel of that name, its hash checked; a RuntimeError where it can neither be found nor fetched."""
    requirement, sha256 = WHEELS[name]
    kept = os.environ.get("NNGPT_LAB_CACHE") or platformdirs.user_cache_path("nngpt-lab", appauthor=False)
    folder = Path(kept) / "artifacts"
    file = folder / f"{name}-{requirement.partition('==')[2]}-py3-none-any.whl"
    if not file.is_file():
        download = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), requirement]
        done = subprocess.run(download, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{requirement} cannot be had: {done.stderr[-300:]}")
    if hashlib.sha256(file.read_bytes()).hexdigest() != sha256:
        raise RuntimeError(f"{file.name} is not what was published")
    return zipfile.ZipFile(file)


# -------------------------------------------------------------------------------------------------------------- LEMUR


def family(name: str) -> str:
    """What made an architecture, as its name's beginning says."""
    for made_by in ("ga-mut", "ga", "alt", "ast", "rag", "rl"):
        if name.startswith(f"{made_by}-"):
            return made_by
    return "FractalNet" if re.fullmatch(r"FractalNet-[0-9a-f]{32}", name) else "hand-written"


def lemur(epochs: tuple[int, ...] = (1, 5)) -> tuple[pd.DataFrame, pd.Series]:
    """Image-classification records of some epochs, one row each, and the source of every architecture by name.

    Columns: dataset, name, epoch, accuracy, uid, id (the primary key in the authors' data base: MD5 of the row's text),
    and what the run was trained with.
    """
    rows = []
    with wheel("nn_dataset") as archive:
        for path in archive.namelist():
            if path.startswith("ab/nn/stat/train/img-classification_") and path.endswith(".json"):
                _, dataset, metric, name = path.split("/")[-2].split("_", 3)
                epoch = int(path.split("/")[-1].removesuffix(".json"))
                if metric == "acc" and epoch in epochs:
                    rows += [_record(run, dataset, name, epoch) for run in json.loads(archive.read(path))]
        sources = {path.split("/")[-1].removesuffix(".py"): archive.read(path).decode(errors="replace")
                   for path in archive.namelist() if re.fullmatch(r"ab/nn/nn/[^_][^/]*\.py", path)}  # fmt: skip
    return pd.DataFrame(rows), pd.Series(sources, name="code")


def _record(run: dict, dataset: str, name: str, epoch: int) -> dict:
    key = [run.get("transform"), run.get("uid"), "img-classification", dataset, "acc", name, epoch]
    text = "".join(str([*key, run.get("duration"), run["accuracy"]]).split())
    row = {"dataset": dataset, "name": name, "epoch": epoch, "accuracy": run["accuracy"], "uid": run.get("uid")}
    used = {column: run.get(column) for column in TRAINED_WITH}
    return row | used | {"id": hashlib.md5(text.encode()).hexdigest()}


def same_program(source: str) -> str:
    """A hash that sources share which differ in comments, layout or the names of their own variables only: each name
    that the source defines or assigns is replaced by its place among them."""
    bare = re.sub(r'"""[\s\S]*?"""|#[^\n]*', "", source)
    own: dict[str, str] = {}
    for name in re.findall(r"\b(?:def|class|for)\s+(\w+)|(\w+)\s*=(?!=)", bare):
        own.setdefault(name[0] or name[1], f"v{len(own)}")
    words = " ".join(own.get(word, word) for word in re.findall(r"\w+|[^\s\w]", bare))
    return hashlib.md5(words.encode()).hexdigest()


def configuration(source: str) -> str | None:
    """Blocks and columns of a generated FractalNet; its variants are near copies."""
    blocks, columns = (re.search(rf"^\s*{word}\s*=\s*(\d+)\s*$", source, re.M) for word in ("N", "num_columns"))
    return f"{blocks[1]} x {columns[1]}" if blocks and columns else None


# ------------------------------------------------------------------------------------------------------------ paper A


def functions() -> pd.DataFrame:
    """Paper A's 6,000 functions and the 43 by the LLM: code, score (nan: failed or unscored), by_llm, steps (a list of
    operation and arguments, the fixed tail left out)."""
    rows = []
    with wheel("nn_gpt") as archive:
        folder, names = "ab/gpt/brute/trans/", set(archive.namelist())
        for path in sorted(names):
            if path.startswith(f"{folder}out_gen/") and path.endswith(".py"):
                result = path.replace("/out_gen/", "/result_gen/").replace(".py", ".json")
                found = json.loads(archive.read(result)) if result in names else {}
                score = found.get("accuracy") if "error" not in found else None
                rows.append({"code": archive.read(path).decode(), "score": score or None, "by_llm": False})
            elif re.fullmatch(rf"{folder}dataset_epoch1/A\d+B\d+\.py", path):
                rows.append({"code": archive.read(path).decode(), "score": None, "by_llm": True})
    table = pd.DataFrame(rows).astype({"score": float})
    return table.assign(steps=[steps(code) for code in table["code"]])


def steps(code: str) -> list[tuple[str, dict]]:
    """The operations of a ``transforms.Compose`` before its last three, with what each is called with."""
    compose = next(node for node in ast.walk(ast.parse(code))
                   if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Compose"))  # fmt: skip
    return [(ast.unparse(call.func).split(".")[-1], {key.arg: _value(key.value) for key in call.keywords})
            for call in compose.args[0].elts[:-3]]  # fmt: skip


def _value(node: ast.expr):
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)
