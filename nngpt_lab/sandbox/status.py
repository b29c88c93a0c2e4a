"""How a hostile task ended, by type."""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    """How a candidate ended. Everything but ``OK`` is a failure, in the order in which it can happen."""

    OK = "ok"
    NO_CODE = "no_code"  # the text holds nothing that looks like code
    SYNTAX = "syntax"  # it does not parse
    CONTRACT = "contract"  # it lacks what the protocol asks for (class, method, signature)
    DUPLICATE = "duplicate"  # too like the corpus, the run so far or the same batch
    PARAMETERS = "parameters"  # more parameters than the protocol allows
    SHAPE = "shape"  # sizes do not fit: in a layer, an operation, or the predictions
    OUT_OF_MEMORY = "out_of_memory"
    TIMEOUT = "timeout"
    NON_FINITE = "non_finite"  # loss or predictions are nan or infinite
    FORBIDDEN = "forbidden"  # it tried what the sandbox does not allow
    CRASH = "crash"  # any other error of its own
    OVERTRAINED = "overtrained"  # it trained longer than the protocol says, in the child's own count


VALID = (Status.OK.value, Status.NON_FINITE.value)
"""A *valid* candidate ran: its loss may have been infinite, but nothing in its code failed."""
