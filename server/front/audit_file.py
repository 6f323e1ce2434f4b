"""The file that audit lines go to, written by a thread of its own (line_writer.py): a disk may keep a writer waiting.

What cannot be written is lost, counted, told in the server's log and, once it can be written again, by a line in the
file itself. What a line says is audit.py's.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from time import time

from ..line_writer import LineWriter
from ..logs import get_logger

MODE = 0o600  # guard: audit-mode
"""Mode of a new file: who called what is nobody else's business. The mode of a file that is there is left alone."""

MAX_WAITING = 8 << 20
"""Bytes that wait for a disk that does not keep up, some 30,000 calls; what comes above it is lost."""


class AuditFile(LineWriter):
    """An open audit log. Everything but the thread's own methods is called on the loop's thread."""

    def __init__(self, path: Path) -> None:
        """Open `path`, made if it is not there. Raises OSError."""
        self._path = path
        self._losing = False
        self._log = get_logger("audit")
        super().__init__(self._open(), "tensorwire-audit", MAX_WAITING, lost_line)

    def reopen(self) -> None:
        """Go on in the file that has the name by then; what was given before still goes to the old one."""
        self._queue.put((b"", 0))

    # -- the thread ------------------------------------------------------------------------------------------------

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, MODE)

    def _told_to_reopen(self) -> None:
        try:
            new = self._open()
        except OSError as error:
            self._log.error("audit log cannot be reopened; it goes on in the old file", error=str(error))
            return
        os.close(self._descriptor)
        self._descriptor = new
        self._torn = False

    def _on_failure(self, error: OSError) -> None:
        self._tell_loss(error.strerror or str(error))

    def _on_success(self, *, caught_up: bool) -> None:
        if caught_up:
            self._tell_loss("the disk did not keep up")
        elif self._losing:
            self._losing = False
            self._log.warning("audit log is written again", lost=self.lost)

    def _tell_loss(self, error: str) -> None:
        """Log it once, until nothing is lost any more."""
        if not self._losing:
            self._losing = True
            text = "audit log cannot be written: lines are lost, and counted in tensorwire_audit_lines_lost_total"
            self._log.error(text, error=error)


def stamp(moment: float) -> str:
    """Return a Unix time as RFC 3339 in UTC, to the microsecond."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def lost_line(lines: int, reason: str = "the disk") -> str:
    """Make the line that stands for lines that are missing."""
    return f'{{"time":"{stamp(time())}","event":"lost","lines":{lines},"reason":"{reason}"}}\n'
