"""What a model prints, as lines of the log: a flood of them is no flood of log.

What lives here: cutting bytes into lines, and how many of them a second. What must not: where the bytes come from.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from ...protocol import safe_text
from .log import log
from .quota import Quota

#: Characters of one line that reach the log.
LINE_LENGTH: Final = 1000
#: Lines of one model in a second; a line costs the loop some 30 us, others are counted only.
LINES_PER_SECOND: Final = 100


class Printed:
    """The output of whatever `label` names. `clock` gives monotonic seconds."""

    def __init__(self, label: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._label = label
        self._rest = b""
        self._quota = Quota(LINES_PER_SECOND, clock)

    def take(self, piece: bytes) -> None:
        """Log the lines that these bytes complete; a line that grows too long counts as complete."""
        self.tell()
        quota = self._quota
        *lines, rest = (self._rest + piece).split(b"\n", quota.room)
        quota.room -= len(lines)
        if not quota.room:
            quota.left_out += rest.count(b"\n")
            rest = rest[rest.rfind(b"\n") + 1 :]
        for line in lines:
            self._log(line)
        if len(rest) > LINE_LENGTH:
            if quota.take():
                self._log(rest)
            rest = b""
        self._rest = rest

    def end(self, piece: bytes = b"") -> None:
        """Nothing comes after these bytes: log the last lines of them, which may say why, and what was left out."""
        lines = (self._rest + piece).removesuffix(b"\n").split(b"\n")
        self._rest = b""
        self._quota.left_out += max(0, len(lines) - LINES_PER_SECOND)
        self._tell(self._quota.renew(early=True))
        for line in lines[-LINES_PER_SECOND:]:
            if line:
                self._log(line)

    def tell(self) -> None:
        """Say how many lines were left out, once their second is over."""
        self._tell(self._quota.renew())

    def _tell(self, left_out: int) -> None:
        if left_out:
            log.warning(f"{self._label}: {left_out} more lines that it printed are left out here")

    def _log(self, line: bytes) -> None:
        text = printable(line[: 2 * LINE_LENGTH].decode("utf-8", "backslashreplace"))
        log.info(f"{self._label}: {text}")


def printable(text: str) -> str:
    """Return one line of at most about LINE_LENGTH characters without a key, for logs and error texts."""
    return safe_text.printable(safe_text.masked(text), LINE_LENGTH, " ...")
