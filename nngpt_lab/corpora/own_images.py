"""A user's own images: ``$NNGPT_LAB_DATA/<name>/``, as Parquet in the hub's layout or as a folder of class folders.

Parquet: ``train*.parquet`` and, if there is a test part, ``test*.parquet``, in the folder or in ``data`` below it, with
a column of ``{bytes, path}`` and a column of labels. Folders: ``<class>/<image>``, or ``train/<class>/<image>`` beside
``test/<class>/<image>``. Where no test part is given, each image whose bytes' hash says so is one, a fifth of them:
images that are added or renamed later move no other one, and equal files are never on both sides.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nngpt_lab.ground import paths
from nngpt_lab.ground.errors import DataError, UsageError
from nngpt_lab.ground.hashing import sha256_file, sha256_json
from nngpt_lab.ground.names import did_you_mean

KINDS = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff"}
LARGEST = 64  # px; the protocols' networks are given 32 or 64
TEST_IN = 5  # one image in so many is a test image where the user has not said which
PARTS = ("train", "test")
LAYOUT = "<class>/<image>, train/<class>/<image> and test/<class>/<image>, or train.parquet and test.parquet"


@dataclass(frozen=True)
class Source:
    """Where a data set's images lie: train and test as Parquet files, or as image files in their class folders;
    ``test`` is empty where none was given. With a hash over names and bytes of all of them, and what the folder's
    LICENSE or README says first, or ``not stated``."""

    name: str
    train: tuple[Path, ...]
    test: tuple[Path, ...]
    parquet: bool
    sha256: str
    licence: str


def find(name: str) -> Source:
    """The images of that name. UsageError where ``NNGPT_LAB_DATA`` names no folder, or that has none of this name, or
    it holds no images."""
    root = paths.data_folder()
    if root is None or not root.is_dir():
        known = f"NNGPT_LAB_DATA names {root}, which is no folder" if root else "NNGPT_LAB_DATA is not set"
        raise UsageError(f"there are no images {name!r}: {known}", f"let it name the folder that holds {name}/")
    folder, there = root / name, sorted(path.name for path in root.iterdir() if path.is_dir())
    if not re.fullmatch(r"[\w.-]+", name) or not folder.is_dir():
        have = f"{root} has {', '.join(there) or 'no folder'}"
        raise UsageError(f"there are no images {name!r} in NNGPT_LAB_DATA", f"{did_you_mean(name, there)}{have}")
    tables = [sorted([*folder.glob(f"{part}*.parquet"), *folder.glob(f"data/{part}*.parquet")]) for part in PARTS]
    parted = (folder / "train").is_dir()
    places = [folder / part for part in PARTS] if parted else [folder, folder / "test of its own"]
    pictures = [sorted(path for path in place.glob("*/*") if path.suffix.lower() in KINDS) for place in places]
    train, test = tables if tables[0] else pictures
    if not train:
        raise UsageError(f"{folder} holds no training images", f"lay them out as {LAYOUT}")
    files = [(path.relative_to(folder).as_posix(), sha256_file(path)) for path in (*train, *test)]
    return Source(name, tuple(train), tuple(test), bool(tables[0]), sha256_json(files), _licence(folder))


def _licence(folder: Path) -> str:
    for file in sorted(folder.glob("LICEN[CS]E*")):
        if text := file.read_text(encoding="utf-8", errors="replace").strip():
            return text.splitlines()[0][:80]
    readme = folder / "README.md"
    if readme.is_file() and (said := re.search(r"^license:\s*(\S.*)$", readme.read_text("utf-8", "replace"), re.M)):
        return said[1][:80]
    return "not stated"


def read(source: Source) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Train and test: images uint8 (N, C, S, S) and labels int64 (N,), counted from 0 in the order of the class names.
    C is 1 where all images are grey, else 3. Each is cropped to its middle square; S is the median of their sides, but
    at most :data:`LARGEST` px. DataError: an image cannot be read, there are fewer than two classes, or a test class is
    in no training image."""
    parts = [list(_cells(source, files)) for files in (source.train, source.test)]
    if not source.test:
        held = [int(hashlib.sha256(data).hexdigest()[:8], 16) % TEST_IN == 0 for data, _, _ in parts[0]]
        parts = [[cell for cell, test in zip(parts[0], held, strict=True) if test == wanted] for wanted in (0, 1)]
    classes = sorted({label for _, label, _ in parts[0]})
    unknown = sorted({label for _, label, _ in parts[1]} - set(classes), key=str)
    if len(classes) < 2 or not parts[1] or unknown:
        cause = f"train has {len(classes)} class{'es' * (len(classes) != 1)} and there are {len(parts[1])} test images"
        if unknown:
            held_out = "" if source.test else " once a fifth is held out: give each class more images"
            cause = f"test has the classes {unknown[:3]}, which train lacks{held_out}"
        raise DataError(f"images {source.name!r}: {cause}", f"lay them out as {LAYOUT}, two classes or more")
    shapes = [_shape(data, where) for part in parts for data, _, where in part]
    side = min(LARGEST, max(1, int(np.median([min(size) for size, _ in shapes]))))
    mode = "L" if all(grey for _, grey in shapes) else "RGB"
    place = {label: number for number, label in enumerate(classes)}
    made = [
        (np.stack([_pixels(data, mode, side, where) for data, _, where in part]),
         np.array([place[label] for _, label, _ in part], np.int64))
        for part in parts
    ]  # fmt: skip
    return made[0], made[1]


def _cells(source: Source, files: tuple[Path, ...]) -> Iterator[tuple[bytes, str | int, str]]:
    """Bytes, label and place of every image."""
    if not source.parquet:
        yield from ((file.read_bytes(), file.parent.name, str(file)) for file in files)
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    for file in files:
        cure = f"lay {file.parent} out as {LAYOUT}"
        try:
            table = pq.read_table(file)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{file} cannot be read as Parquet: {error}", cure) from error
        have = table.column_names
        image, label = (
            next((name for name in wanted if name in have), "")
            for wanted in (("img", "image"), ("label", "fine_label"))
        )
        if not image or not label:
            raise DataError(f"{file} lacks a column img or image, or label; it has {', '.join(have)}", cure)
        for row, (cell, kind) in enumerate(zip(table[image].to_pylist(), table[label].to_pylist(), strict=True)):
            if kind is None or not isinstance(cell, dict) or not cell.get("bytes"):
                raise DataError(f"{file}: row {row} has no label, or no image of {{bytes, path}}", cure)
            yield cell["bytes"], kind, f"{file}, row {row}"


def _opened(data: bytes, where: str):
    from PIL import Image

    try:
        return Image.open(io.BytesIO(data))
    except (OSError, ValueError) as error:
        raise DataError(f"{where} is no image: {error}", "replace or remove it") from error


def _shape(data: bytes, where: str) -> tuple[tuple[int, int], bool]:
    """Width and height, and whether the image is grey; pixels are not decoded."""
    picture = _opened(data, where)
    return picture.size, picture.mode in ("1", "L", "I", "I;16", "F")


def _pixels(data: bytes, mode: str, side: int, where: str) -> np.ndarray:
    """The image's middle square, uint8 (C, side, side)."""
    from PIL import ImageOps

    picture = _opened(data, where)
    try:
        square = ImageOps.fit(picture.convert(mode), (side, side))
    except (OSError, ValueError) as error:
        raise DataError(f"{where} is no image: {error}", "replace or remove it") from error
    return np.asarray(square, np.uint8).reshape(side, side, -1).transpose(2, 0, 1)
