"""Image data sets for one-epoch training: uint8 tensors with a fixed train / selection-holdout / test split.

The whole data set is one tensor per part, small enough to live on the device (CIFAR-10: 184 MB as uint8), so a training
run costs no loader and no worker processes. ``digits`` comes with scikit-learn and needs no download. The others are
looked for in this order; a name that is not in ``SPECS`` is a user's own (:mod:`nngpt_lab.corpora.own_images`):

1. Parquet files that the user has, in the hub's layout: ``$NNGPT_LAB_DATA/<name>/{train,test}.parquet``;
2. the copy that an earlier load compiled into ``<cache>/images/<name>.npz``;
3. torchvision's download.

Decoding 60,000 PNGs takes seconds and reading the compiled copy 0.2 s, so 1 and 3 are compiled once.

The test set is the published one (``digits`` has none: see ``_digits``) and does not depend on the seed. The holdout,
on which candidates are selected, is cut out of the training set.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import io
import logging
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from nngpt_lab.corpora import own_images
from nngpt_lab.ground import paths
from nngpt_lab.ground.cache import read_or_make
from nngpt_lab.ground.errors import DataError, UsageError
from nngpt_lab.ground.files import replacing
from nngpt_lab.ground.names import did_you_mean

log = logging.getLogger(__name__)

COMPILED_VERSION = 1  # raise it when the meaning of a compiled file changes; older ones are then compiled again
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS}


@dataclass(frozen=True)
class Spec:
    """What a data set looks like: classes, channels, height = width in pixels, and its class in torchvision, if any."""

    classes: int
    channels: int
    side: int
    torchvision: str | None


SPECS = {
    "digits": Spec(10, 1, 8, None),
    "cifar-10": Spec(10, 3, 32, "CIFAR10"),
    "cifar-100": Spec(100, 3, 32, "CIFAR100"),
    "svhn": Spec(10, 3, 32, "SVHN"),
    "mnist": Spec(10, 1, 28, "MNIST"),
    "fashion-mnist": Spec(10, 1, 28, "FashionMNIST"),
}


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set in three parts. Images are uint8 tensors (N, C, H, W), labels int64 tensors (N,) in [0, classes).

    Attributes:
        train_images, train_labels: what candidates are trained on.
        holdout_images, holdout_labels: what candidates are selected on; cut out of the published training set.
        test_images, test_labels: the published test set; read once, at the end.
        classes: number of classes.
        mean, std: per channel over the train part, of pixels scaled to [0, 1]; std with denominator N.
        content_hash: sha256 over all pixels, labels and the split; equal hashes mean equal data.
    """

    train_images: torch.Tensor
    train_labels: torch.Tensor
    holdout_images: torch.Tensor
    holdout_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    content_hash: str


def load(name: str, *, seed: int = 0, holdout_fraction: float = 0.1) -> ImageData:
    """Load a data set and cut its holdout, stratified by class, from the training set.

    ``name``: one of ``SPECS``, or of a user's own folder below ``NNGPT_LAB_DATA``. ``seed`` is of the holdout; it never
    moves the test set. ``holdout_fraction`` 0.1 leaves 45,000 of CIFAR-10's 50,000 training images, so one-epoch
    accuracies stay comparable with the papers', and holds out 5,000: a standard error of 0.7 points at 50 % accuracy,
    well below the several points between good and mean candidates. 0 gives an empty holdout and the papers' full
    training set.

    UsageError: unknown name, fraction out of [0, 1); DataError: the files are damaged or lack a column, or cannot be
    downloaded.
    """
    if not 0 <= holdout_fraction < 1:
        raise UsageError(f"holdout_fraction is {holdout_fraction}", "use a share of the training set, in [0, 1)")
    raw = _digits() if name == "digits" else _published(name) if name in SPECS else _own(name)
    classes = SPECS[name].classes if name in SPECS else int(raw.train_labels.max()) + 1
    train, holdout = _stratified(raw.train_labels, holdout_fraction, np.random.default_rng(seed))
    mean, std = _mean_std(raw, train)
    images, labels = torch.from_numpy(raw.train_images), torch.from_numpy(raw.train_labels)
    return ImageData(
        train_images=images[train],
        train_labels=labels[train],
        holdout_images=images[holdout],
        holdout_labels=labels[holdout],
        test_images=torch.from_numpy(raw.test_images),
        test_labels=torch.from_numpy(raw.test_labels),
        classes=classes,
        mean=mean,
        std=std,
        content_hash=_sha256(raw.digest.encode(), train.numpy(), holdout.numpy()),
    )


@dataclass(frozen=True, eq=False)
class _Raw:
    """A data set as published: arrays, and what makes a warm load cheap.

    ``moments`` (N, C, 2) holds each training image's sum of pixels and of their squares, so that the mean and std of
    any split are exact without reading the pixels; ``digest`` is the sha256 of all four arrays.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    moments: np.ndarray
    digest: str


def _raw(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> _Raw:
    arrays = [np.ascontiguousarray(a, kind) for images, labels in (train, test)
              for a, kind in ((images, np.uint8), (labels, np.int64))]  # fmt: skip
    images = arrays[0]
    squares = np.einsum("nchw,nchw->nc", images, images, dtype=np.int64)
    moments = np.stack([images.sum((2, 3), dtype=np.int64), squares], axis=-1)
    shapes = " ".join(str(array.shape) for array in arrays)
    return _Raw(*arrays, moments, _sha256(shapes.encode(), *arrays))


def _sha256(*parts: bytes | np.ndarray) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _stratified(labels: np.ndarray, fraction: float, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices (sorted int64) of the rest and of the ``fraction`` of each class that is cut out."""
    chosen = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        chosen[rng.permutation(members)[: round(fraction * len(members))]] = True
    return torch.from_numpy(np.flatnonzero(~chosen)), torch.from_numpy(np.flatnonzero(chosen))


def _mean_std(raw: _Raw, train: torch.Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    pixels = len(train) * raw.train_images[0, 0].size
    first, second = (raw.moments[train.numpy()].sum(axis=0) / pixels).T
    return tuple((first / 255).tolist()), tuple((np.sqrt(second - first**2) / 255).tolist())


def _digits() -> _Raw:
    """scikit-learn's 1,797 digits, 8x8, its grey levels 0..16 spread over 0..255. They have no published test set; a
    fixed fifth (359), stratified by class, is set aside."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch.images[:, None] * (255 / 16)).astype(np.uint8)
    train, test = _stratified(bunch.target, 0.2, np.random.default_rng(0))
    return _raw(*((images[part.numpy()], bunch.target[part.numpy()]) for part in (train, test)))


def is_here(name: str) -> bool:
    """Whether :func:`load` needs no download."""
    return (
        name not in SPECS
        or name == "digits"
        or bool(_parquet_files(name))
        or (paths.cache_folder() / "images" / f"{name}.npz").exists()
    )


def check(name: str) -> None:
    """UsageError if there are no such images: neither in ``SPECS`` nor a user's own; DataError if the user's own cannot
    be read. They are read now, and kept."""
    if name not in SPECS:
        _own(name)


def _own(name: str) -> _Raw:
    """A user's own, from the copy that was compiled of these very files, or else compiled now."""
    try:
        source = own_images.find(name)
    except UsageError as error:
        cure = f"{error.cure}; {did_you_mean(name, SPECS)}the lab knows {', '.join(SPECS)}"
        raise UsageError(error.cause, cure) from error
    return _compiled(f"own-{name}", source.sha256, lambda copy: _raw(*own_images.read(source)))


def _published(name: str) -> _Raw:
    """From the compiled copy if it is up to date, else compiled now."""
    files = _parquet_files(name)
    stats = [file.stat() for file in files]

    def decoded(copy: Path) -> _Raw:
        if not files:
            return _from_torchvision(name, copy.parent / "downloads" / name)
        log.info("decoding the images of %s; done once", name)
        return _raw(*(_decode(file, SPECS[name]) for file in files))

    # Without files of the user's the key is only a version, with which the key of a copy from any source begins
    return _compiled(name, ";".join(f"{stat.st_size} {stat.st_mtime_ns}" for stat in stats), decoded)


def _compiled(name: str, key: str, made: Callable[[Path], _Raw]) -> _Raw:
    """The cache's copy of this ``key``, or what ``made`` gives, which then is the copy."""
    key = f"v{COMPILED_VERSION};{key}"

    def make(copy: Path, _: Path) -> _Raw:
        raw = made(copy)
        with replacing(copy) as file:
            np.savez(file, key=key, **vars(raw))
        return raw

    return read_or_make(f"images/{name}.npz", lambda copy: _read_compiled(copy, key), make)


def _read_compiled(compiled: Path, key: str) -> _Raw | None:
    """The compiled copy, or None when there is none, its key does not start with ``key``, or it is damaged, as the
    zip's own CRC finds when the arrays are read."""
    if not compiled.exists():
        return None
    try:
        with np.load(compiled) as file:
            if not str(file["key"]).startswith(key):
                return None
            arrays = [file[f] for f in ("train_images", "train_labels", "test_images", "test_labels", "moments")]
            return _Raw(*arrays, str(file["digest"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        log.warning("%s is damaged (%s); it is compiled again", compiled, error)
        return None


def _parquet_files(name: str) -> tuple[Path, ...]:
    """The user's Parquet files of this data set: train, test; empty when there are none."""
    root = paths.data_folder()
    if root is None:
        return ()
    if not root.is_dir():
        raise DataError(f"NNGPT_LAB_DATA names {root}, which is no folder", "correct it, or unset it to download")
    files = tuple(root / name / f"{part}.parquet" for part in ("train", "test"))
    missing = [file for file in files if not file.is_file()]
    if len(missing) == 1:
        raise DataError(
            f"{missing[0]} is missing", f"put it there, or remove {missing[0].parent} so that {name} is downloaded"
        )
    return () if missing else files


def _decode(file: Path, spec: Spec) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, C, H, W) and labels (N,) of one Parquet file in the hub's layout; DataError if it is not in it."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    cure = f"replace {file.parent} by an intact copy in the hub's Parquet layout, or remove it to download"
    try:
        with pq.ParquetFile(file) as parquet:
            image, label = (_column(file, parquet.schema_arrow.names, names)
                            for names in (("img", "image"), ("label", "fine_label")))  # fmt: skip
            table = parquet.read([image, label])
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file} cannot be read as Parquet: {error}", cure) from error
    labels = np.array(table[label].to_numpy())  # Arrow's own memory is read-only
    if table[label].null_count or not np.isin(labels, range(spec.classes)).all():
        raise DataError(f"{file}: column {label!r} has labels that are missing or not in 0..{spec.classes - 1}", cure)
    images = np.empty((len(labels), spec.channels, spec.side, spec.side), np.uint8)
    mode = "RGB" if spec.channels == 3 else "L"
    for row, cell in enumerate(table[image]):
        try:
            with Image.open(io.BytesIO(cell["bytes"].as_py())) as picture:
                pixels = np.asarray(picture.convert(mode)).reshape(spec.side, spec.side, spec.channels)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise DataError(
                f"{file}: row {row} of column {image!r} is no {spec.side}x{spec.side} image ({error})", cure
            ) from error
        images[row] = pixels.transpose(2, 0, 1)
    return images, labels


def _column(file: Path, have: list[str], wanted: tuple[str, str]) -> str:
    if column := next((name for name in wanted if name in have), None):
        return column
    raise DataError(f"{file} has no column {' or '.join(map(repr, wanted))}; it has {', '.join(have)}",
                    "rename the column, or use the hub's Parquet copy of the data set")  # fmt: skip


def _from_torchvision(name: str, folder: Path) -> _Raw:
    """Downloaded into ``folder``, which is removed once it is read; torchvision checks the archive's MD5."""
    import torchvision

    kind = getattr(torchvision.datasets, str(SPECS[name].torchvision))
    log.info("downloading %s with torchvision", name)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if name == "svhn":
            parts = [kind(str(folder), split=split, download=True) for split in ("train", "test")]
        else:
            parts = [kind(str(folder), train=train, download=True) for train in (True, False)]
    except (OSError, RuntimeError, http.client.HTTPException) as error:  # a wrong MD5 is a RuntimeError
        if getattr(error, "errno", None) in DISK_ERRORS:
            raise  # not the network's fault: the caller reports it as the cache's
        raise DataError(
            f"{name} cannot be downloaded: {error}",
            f"connect to the network and run again, or put {name}/train.parquet and test.parquet (the hub's Parquet "
            "layout) into a folder and set NNGPT_LAB_DATA to it; 'digits' needs no download",
        ) from error
    raw = _raw(*map(_arrays, parts))
    with contextlib.suppress(OSError):
        shutil.rmtree(folder)
    return raw


def _arrays(part) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, C, H, W) and labels of a torchvision data set; each of them stores its arrays in its own way."""
    images = np.asarray(part.data)
    labels = np.asarray(part.labels if hasattr(part, "labels") else part.targets)
    if images.ndim == 3:  # MNIST: N, H, W
        images = images[:, None]
    elif images.shape[-1] == 3:  # CIFAR: N, H, W, C; SVHN is N, C, H, W already
        images = images.transpose(0, 3, 1, 2)
    return images, labels
