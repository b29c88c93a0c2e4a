"""A user's own images: both layouts, a split that is fixed by content, and what is refused."""

import hashlib
import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from nngpt_lab.corpora import images, own_images
from nngpt_lab.ground.errors import DataError, UsageError


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    """The user's folder of data sets, and an empty cache."""
    monkeypatch.setenv("NNGPT_LAB_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("NNGPT_LAB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def picture(seed: int, size=(20, 16), mode: str = "RGB") -> bytes:
    shape = (size[1], size[0], 3) if mode == "RGB" else size[::-1]
    pixels = np.random.default_rng(seed).integers(0, 255, shape, dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels, mode).save(file, "PNG")
    return file.getvalue()


def class_folders(folder, count: int = 30, classes=("cat", "dog", "eel"), **options) -> None:
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            (folder / name / f"{i}.png").write_bytes(picture(1000 * number + i, **options))


def test_class_folders_become_tensors_with_a_test_part_fixed_by_content(data):
    class_folders(data / "pets")
    before = images.load("pets")
    assert before.classes == 3
    assert before.train_images.shape[1:] == (3, 16, 16)
    assert before.train_labels.unique().tolist() == [0, 1, 2]
    assert 5 <= len(before.test_labels) <= 35  # a fifth of 90
    assert images.load("pets").content_hash == before.content_hash
    tested = {image.numpy().tobytes() for image in before.test_images}
    (data / "pets" / "cat" / "0.png").rename(data / "pets" / "cat" / "renamed.png")
    (data / "pets" / "dog" / "new.png").write_bytes(picture(99_999))
    (data / "pets" / "eel" / "copy.png").write_bytes((data / "pets" / "eel" / "3.png").read_bytes())
    after = images.load("pets")
    assert after.content_hash != before.content_hash
    assert tested <= {image.numpy().tobytes() for image in after.test_images}
    trained = {image.numpy().tobytes() for image in (*after.train_images, *after.holdout_images)}
    assert not trained & {image.numpy().tobytes() for image in after.test_images}


def test_a_test_folder_and_grey_images_of_any_size(data):
    class_folders(data / "grey" / "train", 4, ("a", "b"), size=(200, 100), mode="L")
    class_folders(data / "grey" / "test", 2, ("a", "b"), size=(70, 90), mode="L")
    made = images.load("grey", holdout_fraction=0)
    assert made.train_images.shape == (8, 1, 64, 64)
    assert made.test_images.shape == (4, 1, 64, 64)
    assert images.is_here("grey")


@pytest.mark.parametrize("labels", [["x", "y"], [3, 7]])
def test_parquet_in_the_hubs_layout(data, labels):
    (data / "hub" / "data").mkdir(parents=True)
    for part, count in (("train-00000-of-00001", 10), ("test-00000-of-00001", 4)):
        cells = [{"bytes": picture(i, (12, 12)), "path": None} for i in range(count)]
        table = pa.table({"image": cells, "label": [labels[i % 2] for i in range(count)]})
        pq.write_table(table, data / "hub" / "data" / f"{part}.parquet")
    made = images.load("hub", holdout_fraction=0)
    assert made.train_images.shape == (10, 3, 12, 12)
    assert made.test_labels.tolist() == [0, 1, 0, 1]


def test_licence_and_hash_are_told(data):
    class_folders(data / "pets", 2)
    assert own_images.find("pets").licence == "not stated"
    (data / "pets" / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n")
    assert own_images.find("pets").licence == "cc-by-4.0"
    (data / "pets" / "LICENSE").write_text("MIT License\n\nmore")
    first = own_images.find("pets")
    assert (first.licence, len(first.sha256)) == ("MIT License", 64)
    (data / "pets" / "cat" / "0.png").write_bytes(picture(5))
    assert own_images.find("pets").sha256 != first.sha256


def test_what_cannot_be_used_is_said(data, monkeypatch):
    class_folders(data / "pets", 2)
    (data / "empty").mkdir()
    class_folders(data / "one", 20, ("a",))
    class_folders(data / "torn", 4)
    (data / "torn" / "cat" / "0.png").write_bytes(b"nothing")
    class_folders(data / "other" / "train", 2, ("a", "b"))
    class_folders(data / "other" / "test", 2, ("a", "c"))
    class_folders(data / "few", 20, ("a", "b"))
    (data / "few" / "lone").mkdir()
    held = next(data for data in map(picture, range(100)) if int(hashlib.sha256(data).hexdigest()[:8], 16) % 5 == 0)
    (data / "few" / "lone" / "0.png").write_bytes(held)  # the only one of its class is a test image
    for name, kind, message in (
        ("few", DataError, r"\['lone'\], which train lacks once a fifth is held out: give each class more images"),
        ("pest", UsageError, "did you mean 'pets'"),
        ("../pets", UsageError, "there are no images"),
        ("empty", UsageError, "holds no training images"),
        ("one", DataError, "train has 1 class and there are"),
        ("torn", DataError, "0.png is no image"),
        ("other", DataError, "which train lacks"),
    ):
        with pytest.raises(kind, match=message):
            images.check(name)
    monkeypatch.delenv("NNGPT_LAB_DATA")
    with pytest.raises(UsageError, match=r"NNGPT_LAB_DATA is not set\n.*holds pets/.*the lab knows digits"):
        images.check("pets")
    with pytest.raises(UsageError, match="did you mean 'cifar-10'"):
        images.check("cifar10")
