"""What an executed notebook's cells must not show."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

WARNING = re.compile(r"\b\w*Warning: .*")


def warnings_in(outputs: Iterable) -> Iterator[str]:
    """What a reader would see as a warning in a cell's outputs: anything on stderr, and Python's own anywhere."""
    for output in outputs:
        if output.output_type == "stream" and output.name == "stderr":
            yield output.text
        else:
            yield from WARNING.findall(output.get("text") or output.get("data", {}).get("text/plain", ""))
