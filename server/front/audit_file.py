"""The file that audit lines go to, written by a thread of its own: a disk may keep a writer waiting, calls may not.

Lines of one batch are written by one write at the end of the file. What cannot be written is lost, counted, told in
the server's log and, once it can be written again, by a line in the file itself. What a line says is audit.py's.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from time import time

from .logs import get_logger

MODE = 0o600
"""Mode of a new file: who called what is nobody else's business. The mode of a file that is there is left alone."""

MAX_WAITING = 8 << 20
"""Bytes that wait for a disk that does not keep up, some 30,000 calls; what comes above it is lost."""

CLOSE_TIMEOUT = 2.0
"""Seconds that the end of the server waits for the last lines."""


class AuditFile:
    """An open audit log. Everything but the thread's own methods is called on the loop's thread."""

    def __init__(self, path: Path) -> None:
        """Open `path`, made if it is not there. Raises OSError."""
        self._path = path
        self._descriptor = self._open()
        self._queue: SimpleQueue[tuple[bytes, int] | None] = SimpleQueue()
        self._given = 0  # bytes, by the loop
        self._refused = 0  # lines
        self._taken = 0  # bytes, by the thread: each of the two counts what it alone writes
        self._failed = 0  # lines
        self._told = 0
        self._losing = False
        self._torn = False
        self.written = 0  # lines
        self._log = get_logger("audit")
        self._thread = Thread(target=self._run, name="tensorwire-audit", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> int:
        """Lines that could not be written since the start."""
        return self._refused + self._failed

    def write(self, data: bytes, lines: int) -> None:
        """Have whole lines written soon; they are lost if too many wait already."""
        if self._given - self._taken + len(data) > MAX_WAITING:
            self._refused += lines
            return
        self._given += len(data)
        self._queue.put((data, lines))

    def reopen(self) -> None:
        """Go on in the file that has the name by then; what was given before still goes to the old one."""
        self._queue.put((b"", 0))

    def close(self) -> None:
        """Write what waits, unless the disk takes too long for it."""
        self._queue.put(None)
        self._thread.join(CLOSE_TIMEOUT)
        if not self._thread.is_alive():
            os.close(self._descriptor)

    # -- the thread ------------------------------------------------------------------------------------------------

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, MODE)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            data, lines = item
            if data:
                self._append(data, lines)
                self._taken += len(data)
            else:
                self._change_file()

    def _change_file(self) -> None:
        try:
            new = self._open()
        except OSError as error:
            self._log.error("audit log cannot be reopened; it goes on in the old file", error=str(error))
            return
        os.close(self._descriptor)
        self._descriptor = new
        self._torn = False

    def _append(self, data: bytes, lines: int) -> None:
        lost = self.lost
        head = b"\n" if self._torn else b""
        if lost > self._told:
            head += lost_line(lost - self._told, "the disk").encode()
        whole = head + data
        done = 0
        try:
            while done < len(whole):
                done += os.write(self._descriptor, whole[done:])
        except OSError as error:
            self._torn = whole[done - 1 : done] != b"\n" if done else self._torn
            whole_lines = max(0, whole[:done].count(b"\n") - head.count(b"\n"))
            self.written += whole_lines
            self._failed += lines - whole_lines
            self._tell_loss(error.strerror or str(error))
            return
        self._torn = False
        self._told = lost
        self.written += lines
        if head:
            self._tell_loss("the disk did not keep up")
        elif self._losing:
            self._losing = False
            self._log.warning("audit log is written again", lost=lost)

    def _tell_loss(self, error: str) -> None:
        """Once, until nothing is lost any more."""
        if not self._losing:
            self._losing = True
            text = "audit log cannot be written: lines are lost, and counted in tensorwire_audit_lines_lost_total"
            self._log.error(text, error=error)


def stamp(moment: float) -> str:
    """A Unix time as RFC 3339 in UTC, microseconds."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def lost_line(lines: int, reason: str) -> str:
    """The line that stands for lines that are missing."""
    return f'{{"time":"{stamp(time())}","event":"lost","lines":{lines},"reason":"{reason}"}}\n'
