"""doctor: a verdict on every profile, a cure beside every "no"."""

import contextlib
import functools
import json
import sys
from types import SimpleNamespace

import pytest

from nngpt_lab import doctor
from nngpt_lab.corpora import artifacts
from nngpt_lab.ground import paths
from nngpt_lab.records import manifest
from nngpt_lab.records.profiles import PROFILES
from nngpt_lab.sandbox import parent
from nngpt_lab.sandbox.child import layers
from nngpt_lab.sandbox.parcels import Report
from nngpt_lab.sandbox.status import Status


@pytest.fixture
def cpu_only(monkeypatch):
    monkeypatch.setattr(manifest, "cuda_devices", list)
    monkeypatch.setattr(doctor, "free_gib", lambda folder: 100.0)


def by_name(checks: list[doctor.Check]) -> dict[str, doctor.Check]:
    return {check.name: check for check in checks}


def test_every_no_has_its_cure_and_every_profile_a_verdict(cpu_only):
    checks = doctor.examine()
    assert [check.name for check in checks if check.ok is False and not check.cure] == []
    assert [check.name for check in checks if check.group == "profiles"] == list(PROFILES)
    assert {"software", "hardware", "folders", "data", "isolation", "profiles"} == {check.group for check in checks}


def test_without_a_gpu(cpu_only):
    checks = by_name(doctor.examine())
    assert [checks[name].ok for name in PROFILES] == [True, True, False, False]
    assert "CUDA" in checks["gpu"].value
    assert "NVIDIA" in checks["gpu"].cure


def test_with_a_gpu(monkeypatch):
    monkeypatch.setattr(manifest, "cuda_devices", lambda: [{"name": "Some GPU", "memory_gib": 12.0}])
    monkeypatch.setattr(doctor, "free_gib", lambda folder: 100.0)
    checks = by_name(doctor.examine())
    assert checks["CUDA"].value == "Some GPU, 12.0 GiB"
    assert (checks["gpu"].ok, checks["paper"].ok) == (True, False)
    assert "the largest here has 12.0 GiB" in checks["paper"].value


def test_published_data_present_or_not(cpu_only, monkeypatch):
    monkeypatch.setattr(artifacts, "is_present", lambda artifact: artifact is artifacts.LEMUR)
    checks = by_name(doctor.examine())
    assert (checks["nn-dataset"].ok, checks["nn-gpt"].ok) == (True, False)
    assert checks["nn-gpt"].cure == "nngpt-lab fetch nn-gpt"
    assert checks["smoke"].ok is True  # it fetches them
    assert "fetched first" in checks["smoke"].value


def test_a_missing_package_makes_even_smoke_impossible(cpu_only, monkeypatch):
    monkeypatch.setattr(manifest, "package_versions", lambda names: {"torch": "2.9", "papermill": None})
    checks = doctor.examine()
    assert by_name(checks)["packages"].cure == "pip install papermill"
    assert not doctor.smoke_is_possible(checks)


def test_a_folder_that_cannot_be_written_makes_smoke_impossible(cpu_only, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NNGPT_LAB_CACHE", str(tmp_path / "file" / "cache"))
    checks = doctor.examine()
    assert by_name(checks)["cache"].ok is False
    assert not doctor.smoke_is_possible(checks)


def test_image_data_sets(cpu_only, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "data_folder", lambda: tmp_path)
    assert by_name(doctor.examine())["images"].ok is False
    (tmp_path / "cifar-10").mkdir()
    for part in ("train", "test"):
        (tmp_path / "cifar-10" / f"{part}.parquet").touch()
    assert by_name(doctor.examine())["images"].value == "NNGPT_LAB_DATA holds cifar-10"


def test_text_is_aligned_and_json_says_the_same(cpu_only):
    checks = doctor.examine()
    text = doctor.as_text(checks)
    marked = [line for line in text.splitlines() if line.startswith(("  yes", "  no ", "  -  "))]
    assert len(marked) == len(checks)
    width = max(len(check.name) for check in checks)
    assert all(line[7:].startswith(f"{check.name:{width}}  ") for line, check in zip(marked, checks, strict=True))
    said = json.loads(doctor.as_json(checks))
    assert said["smoke_possible"] is True
    assert [check["name"] for check in said["checks"]] == [check.name for check in checks]


def with_layers(monkeypatch, *layers: str) -> dict[str, doctor.Check]:
    """What doctor says where a sandbox has these layers alone, and CUDA's driver may not name its threads."""
    refused = Report(Status.FORBIDDEN, message="name the main thread: ENOENT")
    sandbox = SimpleNamespace(isolation=layers, run=lambda task, payload: refused)
    monkeypatch.setattr(parent, "Sandbox", lambda **options: contextlib.nullcontext(sandbox))
    return by_name(list(doctor._isolation()))


def test_isolation_elsewhere_is_not_available(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    checks = with_layers(monkeypatch, "process group", "closed descriptors")
    whole, least = checks.pop("sandbox"), checks.pop("minimum")
    assert {check.value for check in checks.values()} == {"not available on darwin"}
    assert whole.value.startswith("2 of 17 layers"), "what there is elsewhere is asked of the sandbox itself"
    assert least.value.startswith("candidates are not run: they could not be kept from files (landlock files, seccomp)")
    assert "--isolation weak" in least.cure


@pytest.mark.skipif(sys.platform != "linux", reason="Linux features")
def test_isolation_that_is_missing_has_cures(monkeypatch):
    assert doctor.CURES.keys() <= set(layers({"namespaces": True, "landlock": 7, "seccomp": True}))
    checks = with_layers(monkeypatch, "process group")
    for name in doctor.CURES:
        assert checks[name].ok is False
        assert checks[name].cure
    assert (
        checks["CUDA's driver"].value == "does not start: name the main thread: ENOENT" and checks["CUDA's driver"].cure
    )


def test_a_child_that_cannot_import_torch_means_no_device(monkeypatch):
    manifest.cuda_devices.cache_clear()
    monkeypatch.setattr("ctypes.util.find_library", lambda name: "libcuda.so.1")
    monkeypatch.setattr(manifest, "PROBE_CUDA", "raise ImportError('torch')")
    assert manifest.cuda_devices() == []
    manifest.cuda_devices.cache_clear()


def test_the_sandbox_says_what_it_would_do_without(cpu_only, monkeypatch):
    whole = by_name(list(doctor._isolation()))["sandbox"]
    assert whole.ok is True or "without" in whole.value
    without = functools.partial(parent.Sandbox, namespaces=False)
    monkeypatch.setattr(parent, "Sandbox", without)
    part = by_name(list(doctor._isolation()))["sandbox"]
    assert part.ok is False and "pid namespace" in part.value and part.cure


def test_a_sandbox_that_does_not_start_is_reported(cpu_only, monkeypatch):
    monkeypatch.setattr(parent, "Sandbox", functools.partial(parent.Sandbox, require=["a moat"]))
    (stopped,) = doctor._isolation()
    assert stopped.ok is False and "a moat" in stopped.value and stopped.cure
    assert doctor.cuda_stand_in().ok is False
