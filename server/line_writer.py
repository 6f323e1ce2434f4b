"""Lines on their way to a file or a pipe, written by a thread of its own: who takes them may be slow, calls not.

Lines of one batch are written by one write. What cannot be written is lost, counted and, once it can be written again,
told by a line that stands for those that are missing. What a line says is audit.py's and logs.py's.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread

CLOSE_TIMEOUT = 2.0
"""Seconds that the end of the server waits for the last lines."""


class LineWriter:
    """Writes to `descriptor`, which it owns from now on; its lines wait in at most `most` bytes.

    `lost_line(lines)` is the line that stands for so many. Everything but the thread's own methods may be
    called on any thread, and in a signal handler.
    """

    def __init__(self, descriptor: int, name: str, most: int, lost_line: Callable[[int], str]) -> None:
        self._descriptor = descriptor
        self._most = most
        self._lost_line = lost_line
        self._queue: SimpleQueue[tuple[bytes, int] | None] = SimpleQueue()
        self._given = 0  # bytes, by the loop
        self._refused = 0  # lines
        self._taken = 0  # bytes, by the thread: each of the two counts what it alone writes
        self._failed = 0  # lines
        self._told = 0
        self._torn = False
        self._process = os.getpid()
        self.written = 0  # lines
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def lost(self) -> int:
        """Lines that could not be written since the start."""
        return self._refused + self._failed

    def write(self, data: bytes, lines: int) -> None:
        """Have whole lines written soon; they are lost if too many wait already."""
        if os.getpid() != self._process:  # a model's child: it has no such thread, and nobody waits for it
            with suppress(OSError):
                os.write(self._descriptor, data)
            return
        if self._given - self._taken + len(data) > self._most:  # guard: slow-disk
            self._refused += lines
            return
        self._given += len(data)
        self._queue.put((data, lines))

    def close(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Write what waits, unless that takes longer than `timeout` seconds."""
        self._queue.put(None)
        self._thread.join(timeout)
        if not self._thread.is_alive():
            os.close(self._descriptor)

    # -- the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            data, lines = item
            if data:
                self._append(data, lines)
                self._taken += len(data)
            else:
                self._told_to_reopen()
        if self.lost > self._told:  # the last chance to say so
            self._append(b"", 0)

    def _append(self, data: bytes, lines: int) -> None:
        lost = self.lost
        head = b"\n" if self._torn else b""  # guard: line-cut-off
        if lost > self._told:  # guard: audit-gap
            head += self._lost_line(lost - self._told).encode()
        whole = head + data
        done = 0
        try:
            while done < len(whole):
                done += os.write(self._descriptor, whole[done:])
        except OSError as error:  # guard: full-disk
            self._torn = whole[done - 1 : done] != b"\n" if done else self._torn
            whole_lines = max(0, whole[:done].count(b"\n") - head.count(b"\n"))
            self.written += whole_lines
            self._failed += lines - whole_lines
            self._on_failure(error)
            return
        self._torn = False
        self._told = lost
        self.written += lines
        self._on_success(caught_up=bool(head))

    def _on_failure(self, error: OSError) -> None:
        """Act on it that lines were lost just now."""

    def _on_success(self, *, caught_up: bool) -> None:
        """Act on it that lines were written; `caught_up`: after one about those that are missing."""

    def _told_to_reopen(self) -> None:
        """Act on an empty batch."""
