"""No file that a child can open holds the labels: not on this machine, nor wherever a copy may lie."""

from __future__ import annotations

import gzip
import io
import os
import sys
import zipfile
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from nngpt_lab.sandbox import confine, readable
from nngpt_lab.sandbox.parent import Limits, Sandbox

if not confine.landlock_abi():
    pytest.skip("no Landlock in this kernel", allow_module_level=True)

LIMITS = Limits(wall_seconds=600, cpu_seconds=120, memory_mib=2048, output_kib=256)
CODE = (".py", ".pyc", ".pyi", ".so", ".h", ".hpp", ".cuh", ".a", ".o", ".cmake", ".html", ".js", ".map")
DATA = {  # where labels have been found, or would be looked for
    "sklearn/datasets/data/digits.csv.gz": "digits",
    "sklearn/datasets/data/iris.csv": "digits",
    "elsewhere/cifar-10/train.parquet": "Parquet",
    "elsewhere/labels.npy": "array",
    "elsewhere/labels.npz": "array",
    "elsewhere/digits.pkl": "pickle",
    "torchvision/MNIST/raw/t10k-labels-idx1-ubyte": "MNIST's",
    "torchvision/cifar-10-batches-py/test_batch": "CIFAR's",
    "torchvision/cifar-10-batches-bin/data_batch_1.bin": "CIFAR's",
    "torchvision/svhn/test_32x32.mat": "SVHN's",
    "all.tar.gz": "archive",
    "mine/anything": "in the user's folder of data",
    "cache/anything.py": "in the cache",
}
KEPT = (
    "sklearn/__init__.py",
    "sklearn/datasets/__init__.py",
    "sklearn/datasets/data.py",
    "torchvision/model.json",
    "x.py",
)


@pytest.fixture
def copies(tmp_path, monkeypatch):
    """A folder of packages like Debian's, with copies of data among the code."""
    folder = tmp_path / "dist-packages"
    for name in (*DATA, *KEPT):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("canary", encoding="ascii")
    (tmp_path / "outside").write_text("canary", encoding="ascii")
    (folder / "link.py").symlink_to(tmp_path / "outside")
    (folder / "twice").symlink_to(folder / "sklearn")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("NNGPT_LAB_DATA", str(folder / "mine"))
    monkeypatch.setenv("NNGPT_LAB_CACHE", str(folder / "cache"))
    return folder


READ = """
value = {}
for name in P["names"]:
    try:
        value[name] = open(f"{P['folder']}/{name}").read()
    except OSError as error:
        value[name] = error.errno
"""


def test_copies_among_packages_cannot_be_read_and_code_can(copies):
    through_links = ["link.py", "twice/datasets/data/digits.csv.gz"]
    names = [*DATA, *KEPT, *through_links, "twice/__init__.py"]
    with Sandbox(LIMITS, "tests.helpers.attack_task") as sandbox:
        said = sandbox.run("execute", {"code": READ, "folder": str(copies), "names": names}).value
        listed = sandbox.run("execute", {"code": f"import os\nvalue = os.listdir({str(copies)!r})"}).value
    assert {name: said[name] for name in (*DATA, *through_links)} == dict.fromkeys((*DATA, *through_links), 13)
    assert {name: said[name] for name in (*KEPT, "twice/__init__.py")} == dict.fromkeys(
        (*KEPT, "twice/__init__.py"), "canary"
    )
    assert "sklearn" in listed, "an import looks for names"


SEARCH = """
import gzip, os
needles = [bytes.fromhex(needle) for needle in P["needles"]]
opened, found, tried, kept_from = 0, [], 0, []
for root in P["roots"]:
    for folder, _, names in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)
            if name.endswith(tuple(P["code_suffixes"])):
                continue
            tried += 1
            try:
                with open(path, "rb") as file:
                    opened += 1
                    text = file.read(4 << 20)
            except OSError:
                kept_from += [name]
                continue
            if text[:2] == b"\\x1f\\x8b":
                text = gzip.decompress(text)
            if any(needle in text for needle in needles) or text[:4] in (b"PAR1", b"\\x93NUM"):
                found.append(path)
value = [tried, opened, found, 'digits.csv.gz' in kept_from]
"""


def needles() -> list[str]:
    """The digits' labels, as they would lie in a file: text of the first images, and arrays of each kind."""
    target = load_digits().target
    kinds = ("u1", "<i2", "<i4", "<i8", "<f4", "<f8")
    return [b"0,0,5,13,9,1,0,0,0,0,13,15".hex(), *(target[:100].astype(kind).tobytes().hex() for kind in kinds)]


def test_the_search_finds_labels_where_they_are(tmp_path):
    target = load_digits().target
    np.save(tmp_path / "labels", target)
    (tmp_path / "raw").write_bytes(target.astype("u1").tobytes())
    (tmp_path / "text.txt.gz").write_bytes(gzip.compress(b"0,0,5,13,9,1,0,0,0,0,13,15,10"))
    space = {"P": {"roots": [str(tmp_path)], "needles": needles(), "code_suffixes": CODE}}
    exec(SEARCH, space)
    assert space["value"][:2] == [3, 3] and len(space["value"][2]) == 3


def test_no_file_that_a_child_can_open_holds_the_labels():
    """Everywhere below the folders of which anything may be read, and in every Python's packages beside them."""
    others = {Path(prefix, "lib") for prefix in (sys.prefix, sys.base_prefix, "/usr")}
    roots: list[str] = []
    for root in sorted(set(chain(*readable.places(), *(map(str, other.glob("python3*")) for other in others)))):
        if not (roots and root.startswith(f"{roots[-1]}/")):
            roots.append(root)
    with Sandbox(LIMITS, "tests.helpers.attack_task") as sandbox:
        report = sandbox.run("execute", {"code": SEARCH, "roots": roots, "needles": needles(), "code_suffixes": CODE})
    tried, opened, found, kept_from_a_copy = report.value
    assert tried > opened > 1000 and kept_from_a_copy and found == [], found


def test_the_list_is_short_enough_to_be_made_for_each_sandbox():
    places, listed = readable.places()
    assert len(places) < 5000 and set(listed) & set(map(os.path.realpath, sys.path))


def test_a_zipped_standard_library_is_read_as_it_is(tmp_path):
    with zipfile.ZipFile(path := tmp_path / "python.zip", "w") as archive:
        archive.writestr("x.py", io.StringIO("1").read())
    assert readable.without_data(str(path)) == ((str(path),), ())
