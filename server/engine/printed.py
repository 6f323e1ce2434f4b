"""What a model prints, as lines of the log: a flood of them is no flood of log.

What lives here: cutting bytes into lines, and how many of them a second. What must not: where the bytes come from.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from math import inf
from typing import Final

from ...protocol import safe_text

logger = logging.getLogger("tensorwire.engine")

#: Characters of one line that reach the log.
LINE_LENGTH: Final = 1000
#: Lines of one model in a second; a line costs the loop some 30 us, others are counted only.
LINES_PER_SECOND: Final = 100


class Printed:
    """The output of whatever `label` names. `clock` gives monotonic seconds."""

    def __init__(self, label: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._label = label
        self._clock = clock
        self._rest = b""
        self._second = -inf
        self._room = LINES_PER_SECOND
        self._left_out = 0

    def take(self, piece: bytes) -> None:
        """Log the lines that these bytes complete; a line that grows too long counts as complete."""
        self.tell()
        *lines, rest = (self._rest + piece).split(b"\n", self._room)
        self._room -= len(lines)
        if not self._room:
            self._left_out += rest.count(b"\n")
            rest = rest[rest.rfind(b"\n") + 1 :]
        for line in lines:
            self._log(line)
        if len(rest) > LINE_LENGTH:
            self._end(rest)
            rest = b""
        self._rest = rest

    def end(self, piece: bytes = b"") -> None:
        """Nothing comes after these bytes: log the last lines of them, which may say why, and what was left out."""
        lines = (self._rest + piece).removesuffix(b"\n").split(b"\n")
        self._rest = b""
        self._left_out += max(0, len(lines) - LINES_PER_SECOND)
        self._second = -inf
        self.tell()
        for line in lines[-LINES_PER_SECOND:]:
            if line:
                self._log(line)

    def tell(self) -> None:
        """Say how many lines were left out, once their second is over."""
        now = self._clock()
        if now - self._second < 1.0:
            return
        self._second = now
        self._room = LINES_PER_SECOND
        if self._left_out:
            logger.warning("%s: %d more lines that it printed are left out here", self._label, self._left_out)
            self._left_out = 0

    def _end(self, rest: bytes) -> None:
        if self._room:
            self._room -= 1
            self._log(rest)
        else:
            self._left_out += 1

    def _log(self, line: bytes) -> None:
        text = printable(line[: 2 * LINE_LENGTH].decode("utf-8", "backslashreplace"))
        logger.info("%s: %s", self._label, text)


def printable(text: str) -> str:
    """Return one line of at most about LINE_LENGTH characters without a key, for logs and error texts."""
    return safe_text.printable(safe_text.masked(text), LINE_LENGTH, " ...")
