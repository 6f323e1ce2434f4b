"""The standard streams of a server process: whoever reads them may be gone, slow or out of disk, and calls go on.

What lives here: the log and the one line of output on descriptors of their own, and what models that run on the loop
print. What must not: what a log line says (logs.py), and the output of models in processes (engine/worker.py).
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from .engine.printed import Printed
from .logs import LogFile

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

STANDARD = (0, 1, 2)


class _Sink(io.RawIOBase):
    """What is left of stdout or stderr for models: their lines go to the log, which keeps nobody waiting."""

    def __init__(self, descriptor: int, printed: Printed) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._printed = printed

    def writable(self) -> bool:
        """Say that it is."""
        return True

    def fileno(self) -> int:
        """Return the real descriptor, for children that are to write to it themselves."""
        return self._descriptor

    def write(self, data: ReadableBuffer, /) -> int:
        """Take all of it."""
        piece = bytes(data)
        self._printed.take(piece)
        return len(piece)


class StandardStreams:
    """`log` and `out` are where lines go, on descriptors of their own: a model may close 1 and 2. `printed` is what
    this process prints beside them.
    """

    def __init__(self) -> None:
        self.log = LogFile(os.dup(2), "tensorwire-log", terminal=os.isatty(2))
        self.out = LogFile(os.dup(1), "tensorwire-out")
        self.printed = {descriptor: Printed(name) for descriptor, name in ((1, "stdout"), (2, "stderr"))}

    def tell(self) -> None:
        """Say what was left out of what was printed."""
        for printed in self.printed.values():
            printed.tell()

    def close(self, timeout: float) -> None:
        """Write what waits; `timeout` seconds at most for each of the two."""
        for printed in self.printed.values():
            printed.end()
        self.out.lines.close(timeout)
        self.log.lines.close(timeout)


_GIVEN: list[object] = []
"""Streams that were sys.stdout or sys.stderr. A thread of a model may be in the middle of a print when they no longer
are, and CPython 3.11 holds no reference to what it prints to: what goes then is memory in use."""


@contextmanager
def standard_streams(timeout: float) -> Iterator[StandardStreams]:
    """Take stdout and stderr over, and give them back."""
    _open_all()
    streams = StandardStreams()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_stream(descriptor, printed) for descriptor, printed in streams.printed.items())
    _GIVEN.extend((sys.stdout, sys.stderr))
    try:
        yield streams
    finally:
        sys.stdout, sys.stderr = before
        streams.close(timeout)


def _open_all() -> None:
    """Open what is closed of the standard descriptors: else a socket would get its number, and what is printed.

    Raises OSError.
    """
    for descriptor in STANDARD:
        try:
            os.fstat(descriptor)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != descriptor:
                os.dup2(null, descriptor)
                os.close(null)


def _stream(descriptor: int, printed: Printed) -> TextIO:
    raw = _Sink(descriptor, printed)
    return io.TextIOWrapper(raw, "utf-8", "backslashreplace", line_buffering=True, write_through=True)  # type: ignore[type-var] # raw is what python -u gives, too
