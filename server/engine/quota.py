"""So many log lines a second, and a count of what is above it.

What lives here: the counting. What must not: lines.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from math import inf

__all__ = ["Quota"]


class Quota:
    """`most` a second: `room` is what is left of it, `left_out` what did not fit. `clock` gives monotonic seconds."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._second = -inf
        self.room = most
        self.left_out = 0

    @property
    def over(self) -> float:
        """When the second is over."""
        return self._second + 1.0

    def take(self) -> bool:
        """Take room for one; False: it is left out."""
        if self.room:
            self.room -= 1
            return True
        self.left_out += 1
        return False

    def renew(self, *, early: bool = False) -> int:
        """Begin another second if the last one is over, or in any case; returns how many were left out before it."""
        now = self._clock()
        if now < self.over and not early:
            return 0
        self._second = now
        self.room = self._most
        left_out, self.left_out = self.left_out, 0
        return left_out
