"""A notebook goes on where this machine may not run its loop: that cell, and each that needs what it makes, says so.

In a notebook's kernel an IsolationError is no error of the cell: it is shown with its cure. What the cell would have
assigned is gone then, also if an earlier cell assigned it, and a later cell that asks for it ends there: not run, too.
"""

from __future__ import annotations

import symtable
import sys
from collections.abc import Callable
from typing import Any

from nngpt_lab.ground.isolation import IsolationError

Note = Callable[[int, dict[str, str]], None]  # takes the cell's number, and its first line, cause and cure


class NotRun:
    """What was not run in this kernel, and the names that are lacking for it."""

    def __init__(self, shell: Any, note: Note):
        self.shell, self.note = shell, note
        self.lacking: set[str] = set()
        self.reason: IsolationError | None = None
        self.caught: BaseException | None = None

    def handle(self, shell: Any, kind: type, error: BaseException, traceback: Any, **_: Any) -> None:
        """Show an error that is one of isolation, or comes of one; any other as ever."""
        if isinstance(error, IsolationError):
            self.reason, text = error, f"**Not run: {error.cause}.** Cure: {error.cure}"
        elif isinstance(error, NameError) and error.name in self.lacking and self._in_cell(traceback):
            text = f"*Not run: isolation. This needs `{error.name}`, which a cell above would have made.*"
        else:
            shell.showtraceback((kind, error, traceback), running_compiled_code=True)
            return
        from IPython.display import Markdown, display

        display(Markdown(text))
        self.caught = error

    def _in_cell(self, traceback: Any) -> bool:
        while traceback.tb_next:
            traceback = traceback.tb_next
        return traceback.tb_frame.f_globals is self.shell.user_ns

    def after_cell(self, result: Any) -> None:
        """Take back what a cell that was not run has assigned, and let the notebook go on."""
        if result is None or self.caught is None or result.error_in_exec is not self.caught or self.reason is None:
            return
        code = self.shell.transform_cell(result.info.raw_cell)
        symbols = symtable.symtable(code, "cell", "exec").get_symbols()
        names = {symbol.get_name() for symbol in symbols if symbol.is_assigned()}
        for name in names:
            self.shell.user_ns.pop(name, None)
        self.lacking |= names
        result.error_in_exec, self.caught = None, None
        line = next(line.strip() for line in code.splitlines() if line.strip())
        why = {"line": line[:100], "cause": self.reason.cause, "cure": self.reason.cure}
        self.note(result.execution_count or 0, why)


def go_on(note: Note) -> None:
    """From now on, if this is a notebook's kernel. ``note`` is told of every cell that was not run."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is None:
        return
    for earlier in [call for call in shell.events.callbacks["post_run_cell"] if _is_ours(call)]:
        shell.events.unregister("post_run_cell", earlier)
    guard = NotRun(shell, note)
    shell.set_custom_exc((IsolationError, NameError), guard.handle)
    shell.events.register("post_run_cell", guard.after_cell)


def _is_ours(call: Any) -> bool:
    return isinstance(getattr(call, "__self__", None), NotRun)
