"""Errors that name their cause and their cure; each class carries the exit code a script can act on."""

from __future__ import annotations


class LabError(Exception):
    """Something the user can mend. ``cause`` says what is wrong, ``cure`` what to do about it.

    >>> print(UsageError("there is no profile 'dmeo'", "use one of smoke, demo, gpu, paper"))
    there is no profile 'dmeo'
      cure: use one of smoke, demo, gpu, paper
    """

    exit_code = 1

    def __init__(self, cause: str, cure: str):
        super().__init__(f"{cause}\n  cure: {cure}")
        self.cause, self.cure = cause, cure

    def __reduce__(self):  # a two-argument exception must say how to be unpickled (worker processes raise these)
        return type(self), (self.cause, self.cure)


class UsageError(LabError):
    """Bad input: unknown notebook, parameter, profile or value. Raised before any work starts."""

    exit_code = 2


class DataError(LabError):
    """Published data cannot be had or is not what was published."""

    exit_code = 3


class BusyError(LabError):
    """Another process is working on the same folder."""

    exit_code = 4
