"""Where things are. Every path of the lab comes from here, so that nothing depends on the working directory.

Two environment variables move things: ``NNGPT_LAB_CACHE`` (published data and what is compiled from it; default: the
user's cache folder) and ``NNGPT_LAB_DATA`` (image data sets that the user already has; no default).
"""

from __future__ import annotations

import os
from pathlib import Path

from nngpt_lab.ground.errors import DataError

PACKAGE = Path(__file__).resolve().parents[1]


def checkout() -> Path | None:
    """The source checkout this package runs from, or None when it was installed as a wheel."""
    root = PACKAGE.parent
    return root if (root / "pyproject.toml").is_file() and (root / "notebooks").is_dir() else None


def notebooks_folder() -> Path:
    """The folder of the lab's own notebooks: the checkout's, or the copies inside an installed wheel."""
    root = checkout()
    return root / "notebooks" if root else PACKAGE / "notebooks"


def results_root() -> Path:
    """``results/`` of the checkout, or of the working directory when the package was installed as a wheel."""
    return (checkout() or Path.cwd()) / "results"


def reference_folder() -> Path:
    """The committed reference runs: the checkout's, or the few tables of them that an installed wheel carries."""
    return results_root() / "reference" if checkout() else PACKAGE / "reference"


def results_folder(profile: str, output: str | Path | None = None) -> Path:
    """Folder that holds one sub-folder per notebook: ``output`` if given, else ``results/<profile>``."""
    return Path(output).expanduser().resolve() if output else results_root() / profile


def cache_folder() -> Path:
    """The user's cache for published data; created if missing. DataError where it cannot be."""
    if chosen := os.environ.get("NNGPT_LAB_CACHE"):
        folder = Path(chosen).expanduser().resolve()
    else:
        import platformdirs

        folder = platformdirs.user_cache_path("nngpt-lab", appauthor=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        cure = "let NNGPT_LAB_CACHE name a folder that you may write to"
        raise DataError(f"the cache folder {folder} cannot be written: {error.strerror}", cure) from error
    return folder


def data_folder() -> Path | None:
    """The folder ``NNGPT_LAB_DATA`` names (image data sets), or None when the variable is not set."""
    chosen = os.environ.get("NNGPT_LAB_DATA")
    return Path(chosen).expanduser().resolve() if chosen else None
