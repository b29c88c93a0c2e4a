"""Tables that a run keeps as files, so that a run which was stopped goes on where it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from nngpt_lab.ground.files import replacing


def kept(file: Path, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """The table of a Parquet file, which is made and written first if it is not there. Its name says what it holds."""
    if not file.exists():
        table = make()
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as whole:
            table.to_parquet(whole, index=False)
    return pd.read_parquet(file)
