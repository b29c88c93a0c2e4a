"""Image data sets: the split is a real split, the same bytes come out of every source, and damage is named."""

from __future__ import annotations

import errno
import io
import logging
import os
import urllib.error
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nngpt_lab.corpora import images
from nngpt_lab.ground import paths
from nngpt_lab.ground.errors import DataError, UsageError

PARTS = ("train", "holdout", "test")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("NNGPT_LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("NNGPT_LAB_DATA", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **options):
        raise urllib.error.URLError("[Errno -3] Temporary failure in name resolution")

    monkeypatch.setattr("urllib.request.urlopen", refuse)


@pytest.fixture
def data(tmp_path, monkeypatch) -> Path:
    """An empty folder that NNGPT_LAB_DATA names."""
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("NNGPT_LAB_DATA", str(folder))
    return folder


def pixels(n: int, channels: int = 3, side: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, channels, side, side), dtype=np.uint8)


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0).squeeze()).save(buffer, "PNG")
    return buffer.getvalue()


def write_part(file: Path, blobs: list[bytes], columns: dict, image_column: str = "img") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    cells = [{"bytes": blob, "path": None} for blob in blobs]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({image_column: pa.array(cells, kind), **columns}), file)


def write_tiny(root: Path, name: str = "cifar-10", label: str = "label", image: str = "img", n: int = 40) -> dict:
    """A tiny data set with 20 training images of each of two classes; returns the arrays it was made of."""
    spec, arrays = images.SPECS[name], {}
    for seed, part in enumerate(("train", "test")):
        arrays[part] = pixels(n, spec.channels, spec.side, seed), np.arange(n) % 2
        write_part(root / name / f"{part}.parquet", [png(x) for x in arrays[part][0]], {label: arrays[part][1]}, image)
    return arrays


def rows(tensor: torch.Tensor) -> list[bytes]:
    return [row.numpy().tobytes() for row in tensor]


# -------------------------------------------------------------------------------------------------------- digits


def test_digits_shapes_types_and_values(cache):
    data = images.load("digits")
    for part in PARTS:
        pictures, labels = getattr(data, f"{part}_images"), getattr(data, f"{part}_labels")
        assert pictures.dtype == torch.uint8 and pictures.shape == (len(labels), 1, 8, 8)
        assert labels.dtype == torch.int64 and labels.unique().tolist() == list(range(10))
    assert (len(data.train_labels), len(data.holdout_labels), len(data.test_labels)) == (1295, 143, 359)
    assert (data.classes, data.train_images.min(), data.train_images.max()) == (10, 0, 255)
    scaled = data.train_images.double() / 255
    assert data.mean == pytest.approx((scaled.mean().item(),), rel=1e-12)
    assert data.std == pytest.approx((scaled.std(correction=0).item(),), rel=1e-12)
    assert not cache.exists()  # the embedded default touches no disk


def test_digits_parts_are_disjoint_and_complete():
    from sklearn.datasets import load_digits

    data = images.load("digits")
    everything = [row for part in PARTS for row in rows(getattr(data, f"{part}_images"))]
    published = np.rint(load_digits().images * 255 / 16).astype(np.uint8)
    assert sorted(everything) == sorted(row.tobytes() for row in published)  # 1,797 distinct images, each used once
    assert len(set(everything)) == len(everything) == 1797


def test_the_seed_moves_the_holdout_and_never_the_test_set():
    first, again, other = (images.load("digits", seed=seed) for seed in (0, 0, 1))
    assert first.content_hash == again.content_hash != other.content_hash
    assert torch.equal(first.holdout_images, again.holdout_images)
    assert not torch.equal(first.holdout_images, other.holdout_images)
    assert torch.equal(first.test_images, other.test_images) and torch.equal(first.test_labels, other.test_labels)
    both = [sorted(rows(x.train_images) + rows(x.holdout_images)) for x in (first, other)]
    assert both[0] == both[1]


def test_the_holdout_is_stratified():
    data = images.load("digits", holdout_fraction=0.25)
    held, trained = data.holdout_labels.bincount(), data.train_labels.bincount()
    assert (held - 0.25 * (held + trained)).abs().max() <= 0.5


def test_no_holdout_gives_the_whole_training_set():
    data = images.load("digits", holdout_fraction=0)
    assert len(data.holdout_labels) == 0 and len(data.train_labels) == 1438


def test_no_global_random_state_is_read_or_moved():
    torch.manual_seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = images.load("digits").content_hash
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002
    torch.manual_seed(4)
    assert images.load("digits").content_hash == first


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 4), max_size=80), st.floats(0, 1, exclude_max=True), st.integers(0, 2**32))
def test_any_stratified_cut_is_a_partition_with_the_right_counts(labels, fraction, seed):
    labels = np.array(labels, dtype=np.int64)
    rest, cut = images._stratified(labels, fraction, np.random.default_rng(seed))
    assert sorted(rest.tolist() + cut.tolist()) == list(range(len(labels)))
    for label in set(labels.tolist()):
        assert (labels[cut.numpy()] == label).sum() == round(fraction * (labels == label).sum())


# ------------------------------------------------------------------------------------------- Parquet and its copy


@pytest.mark.parametrize(
    ("name", "label", "image"),
    [("cifar-10", "label", "img"), ("cifar-100", "fine_label", "img"), ("mnist", "label", "image")],
)
def test_the_hubs_parquet_layout(data, no_network, name, label, image):
    arrays = write_tiny(data, name, label, image)
    loaded = images.load(name, holdout_fraction=0.2)
    assert torch.equal(loaded.test_images, torch.from_numpy(arrays["test"][0]))  # order and channels as published
    assert torch.equal(loaded.test_labels, torch.from_numpy(arrays["test"][1]))
    given_rows = [row.tobytes() for row in arrays["train"][0]]
    assert sorted(rows(loaded.train_images) + rows(loaded.holdout_images)) == sorted(given_rows)
    assert loaded.holdout_labels.bincount().tolist() == [4, 4]
    scaled = loaded.train_images.double() / 255
    assert loaded.mean == pytest.approx(scaled.mean((0, 2, 3)).tolist(), rel=1e-12)
    assert loaded.std == pytest.approx(scaled.std((0, 2, 3), correction=0).tolist(), rel=1e-12)
    assert loaded.classes == images.SPECS[name].classes


def test_decoded_once_also_when_the_source_is_gone(data, no_network, monkeypatch):
    write_tiny(data)
    cold = images.load("cifar-10")
    monkeypatch.setattr(images, "_decode", lambda *a: pytest.fail("decoded again"))
    warm = images.load("cifar-10")
    assert warm.content_hash == cold.content_hash and warm.mean == cold.mean
    assert torch.equal(warm.train_images, cold.train_images) and torch.equal(warm.test_labels, cold.test_labels)
    monkeypatch.delenv("NNGPT_LAB_DATA")
    assert images.load("cifar-10").content_hash == cold.content_hash


def test_a_changed_source_is_compiled_again(data, no_network):
    write_tiny(data)
    before = images.load("cifar-10")
    write_tiny(data, n=60)
    after = images.load("cifar-10")
    assert len(after.test_labels) == 60 and after.content_hash != before.content_hash


@pytest.mark.parametrize("kind", ["truncated", "bit-flipped", "empty"])
def test_a_damaged_copy_is_compiled_again(cache, data, no_network, caplog, kind):
    write_tiny(data)
    good = images.load("cifar-10")
    compiled = cache / "images" / "cifar-10.npz"
    blob = bytearray(compiled.read_bytes())
    blob[len(blob) // 4] ^= 1  # among the training pixels
    compiled.write_bytes({"truncated": blob[: len(blob) // 2], "bit-flipped": blob, "empty": b""}[kind])
    with caplog.at_level(logging.WARNING):
        again = images.load("cifar-10")
    assert "damaged" in caplog.text
    assert torch.equal(again.train_images, good.train_images) and again.content_hash == good.content_hash
    caplog.clear()
    images.load("cifar-10")
    assert not caplog.text
    assert sorted(path.name for path in compiled.parent.iterdir()) == ["cifar-10.npz", "cifar-10.npz.lock"]


def real_cifar() -> Path | None:
    candidates = [os.environ.get("NNGPT_LAB_DATA"), paths.PACKAGE.parent.parent / "shared" / "data"]
    return next((Path(c) for c in candidates if c and Path(c, "cifar-10", "train.parquet").is_file()), None)


REAL_CIFAR = real_cifar()  # looked up before the fixture takes NNGPT_LAB_DATA away


@pytest.mark.skipif(REAL_CIFAR is None, reason="no CIFAR-10: neither NNGPT_LAB_DATA nor ../shared/data has cifar-10/")
def test_the_real_cifar_10(monkeypatch, no_network):
    monkeypatch.setenv("NNGPT_LAB_DATA", str(REAL_CIFAR))
    data = images.load("cifar-10")
    assert data.train_labels.bincount().tolist() == [4500] * 10
    assert data.holdout_labels.bincount().tolist() == [500] * 10
    assert data.test_labels.bincount().tolist() == [1000] * 10
    assert data.test_labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]  # the published order: cat, ship, ship, ...
    assert data.mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=1e-3)  # the values that everyone normalises by
    assert data.std == pytest.approx((0.2470, 0.2435, 0.2616), abs=1e-3)


# --------------------------------------------------------------------------------------------------- torchvision


class Downloads:
    """Stands in for a torchvision data set: takes its options, stores the arrays the way that it does."""

    def __init__(self, name: str, arrays: dict, monkeypatch):
        self.name, self.arrays, self.calls = name, arrays, 0
        monkeypatch.setattr(torchvision.datasets, images.SPECS[name].torchvision, self)

    def __call__(self, root: str, train: bool | None = None, split: str | None = None, download: bool = False):
        assert download and (split is None) == (self.name != "svhn")
        self.calls += 1
        Path(root, "archive").write_text("big")
        pictures, labels = self.arrays["train" if train or split == "train" else "test"]
        if self.name == "svhn":
            return SimpleNamespace(data=pictures, labels=labels)
        if self.name == "mnist":
            return SimpleNamespace(data=torch.from_numpy(pictures[:, 0]), targets=torch.from_numpy(labels))
        return SimpleNamespace(data=pictures.transpose(0, 2, 3, 1), targets=labels.tolist())


@pytest.mark.parametrize("name", ["cifar-10", "svhn", "mnist"])
def test_torchvision_and_parquet_give_the_same_data(cache, tmp_path, monkeypatch, name):
    arrays = write_tiny(tmp_path / "data", name)
    download = Downloads(name, arrays, monkeypatch)
    downloaded = images.load(name)
    assert torch.equal(downloaded.test_images, torch.from_numpy(arrays["test"][0]))
    images.load(name)
    assert download.calls == 2  # train and test, once each
    assert not list((cache / "images").rglob("archive"))  # what was downloaded is not kept beside what was compiled
    monkeypatch.setenv("NNGPT_LAB_DATA", str(tmp_path / "data"))
    copy = cache / "images" / f"{name}.npz"
    key = np.load(copy)["key"]
    local = images.load(name)
    assert local.content_hash == downloaded.content_hash and np.load(copy)["key"] != key  # read from the user's files


@pytest.mark.parametrize("name", [name for name in images.SPECS if name != "digits"])
def test_no_network(no_network, cache, name):
    with pytest.raises(DataError) as caught:
        images.load(name)
    assert f"{name} cannot be downloaded" in caught.value.cause
    assert "connect to the network" in caught.value.cure and "NNGPT_LAB_DATA" in caught.value.cure
    assert not (cache / "images" / f"{name}.npz").exists()


def test_a_full_disk_is_not_called_a_network_fault(monkeypatch):
    def refuse(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", refuse)
    with pytest.raises(DataError) as caught:
        images.load("cifar-10")
    assert "No space left" in caught.value.cause and "NNGPT_LAB_CACHE" in caught.value.cure


# --------------------------------------------------------------------------------------------------- wrong input


def test_an_unknown_name_gets_a_suggestion():
    with pytest.raises(UsageError) as caught:
        images.load("cifar10")
    assert "'cifar10'" in caught.value.cause and "did you mean 'cifar-10'?" in caught.value.cure


@pytest.mark.parametrize("fraction", [-0.1, 1, 1.5, float("nan")])
def test_a_fraction_out_of_range(fraction):
    with pytest.raises(UsageError, match="holdout_fraction"):
        images.load("digits", holdout_fraction=fraction)


def refused(cause: str, name: str = "cifar-10") -> None:
    with pytest.raises(DataError) as caught:
        images.load(name)
    assert cause in caught.value.cause, caught.value.cause
    assert caught.value.cure


def test_damaged_or_missing_parquet(data, no_network):
    write_tiny(data)
    train, test = (data / "cifar-10" / f"{part}.parquet" for part in ("train", "test"))
    blob = train.read_bytes()
    train.write_bytes(blob[: len(blob) // 2])
    refused("train.parquet cannot be read as Parquet")
    train.write_bytes(b"")
    refused("train.parquet cannot be read as Parquet")
    train.write_bytes(blob)
    test.unlink()
    refused("test.parquet is missing")


@pytest.mark.parametrize(
    ("column", "labels", "cause"),
    [
        ("klass", [0, 1], "no column 'label' or 'fine_label'; it has img, klass"),
        ("label", [0, None], "missing or not in 0..9"),
        ("label", [0, 10], "missing or not in 0..9"),
        ("label", [0, -1], "missing or not in 0..9"),
        ("label", ["cat", "dog"], "missing or not in 0..9"),
    ],
)
def test_wrong_labels(data, no_network, column, labels, cause):
    write_tiny(data)
    write_part(data / "cifar-10" / "test.parquet", [png(x) for x in pixels(2)], {column: labels})
    refused(cause)


@pytest.mark.parametrize("blob", [None, b"", b"no image", png(pixels(1)[0])[:500], png(pixels(1, side=28)[0])])
def test_wrong_images(data, no_network, blob):
    write_tiny(data)
    write_part(data / "cifar-10" / "test.parquet", [png(pixels(1)[0]), blob], {"label": [0, 1]})
    refused("row 1 of column 'img' is no 32x32 image")


def test_an_image_column_that_is_no_struct(data, no_network):
    write_tiny(data)
    pq.write_table(pa.table({"img": [b"1", b"2"], "label": [0, 1]}), data / "cifar-10" / "test.parquet")
    refused("row 0 of column 'img' is no 32x32 image")


def test_no_image_column(data, no_network):
    write_tiny(data)
    write_part(data / "cifar-10" / "test.parquet", [b""], {"label": [0]}, image_column="picture")
    refused("no column 'img' or 'image'; it has picture, label")


def test_a_data_folder_that_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("NNGPT_LAB_DATA", str(tmp_path / "nowhere"))
    refused("which is no folder")


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NNGPT_LAB_CACHE", str(tmp_path / "file" / "cache"))
    refused("cannot be written")
