"""What engines have to say to whoever runs the server: one way out, which no model can close.

What lives here: that way. What must not: where it leads (logs.py has the server's log, process_main.py the front), what
is said. Not the standard library's logging: that is one for the whole process, and models silence and direct it as they
like.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

__all__ = ["Write", "log"]

Write = Callable[[str, str, str], object]
"""Takes a level ("info", "warning" or "error"), one line, and the traceback that belongs to it ("": none)."""


class _Log:
    """`write` is set by the process that has a log of its own; until then lines go to the standard library."""

    def __init__(self) -> None:
        self.write: Write = _by_logging

    def info(self, line: str) -> None:
        """Say what is as it may be."""
        self.write("info", line, "")

    def warning(self, line: str) -> None:
        """Say what somebody should know."""
        self.write("warning", line, "")

    def error(self, line: str, traceback: str = "") -> None:
        """Say what is wrong, and where."""
        self.write("error", line, traceback)


def _by_logging(level: str, line: str, traceback: str) -> None:
    number = logging.getLevelNamesMapping()[level.upper()]
    logging.getLogger("tensorwire.engine").log(number, "%s", f"{line}\n{traceback}" if traceback else line)


log: Final = _Log()
