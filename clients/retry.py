"""When to try again: back-off, attempts and a throttle. Pure arithmetic; the clock and the dice are arguments.

Not here: whether a call *may* be repeated (``core`` knows what was started).
"""

from __future__ import annotations

import os
from collections.abc import Callable


def random() -> float:
    """Return a number from 0 to 1. The module ``random`` would cost every client a tenth of its import."""
    return int.from_bytes(os.urandom(4), "little") / 0xFFFFFFFF


class Backoff:
    """Exponential back-off with jitter: attempt 0 waits about ``first`` seconds, each next one twice as long, up to
    ``most``.
    """

    __slots__ = ("first", "most")

    def __init__(self, first: float, most: float) -> None:
        self.first = first
        self.most = most

    def delay(self, attempt: int, dice: Callable[[], float] = random) -> float:
        """Seconds to wait before try ``attempt + 1``: between half and the whole of the step, so that clients spread
        out.
        """
        step = min(self.most, self.first * 2.0 ** min(attempt, 30))
        return step * (0.5 + 0.5 * dice())


DIAL_BACKOFF = Backoff(first=0.05, most=5.0)
"""Between connection attempts: a restarting server is found within a tenth of a second, a dead one is not hammered."""

CALL_BACKOFF = Backoff(first=0.01, most=1.0)
"""Between the attempts of a call that was refused before it started."""

MAX_ATTEMPTS = 5
"""Tries of one call in all (gRPC's own limit)."""


class Throttle:
    """Stops retries where most calls fail, so that a server in trouble is not buried by repetitions.

    gRPC's rule: a bucket of ``capacity`` tokens; a refusal takes one, a success returns a tenth; below half no call is
    retried.
    """

    __slots__ = ("_capacity", "_tokens", "low")

    def __init__(self, capacity: float = 10.0) -> None:
        self._capacity = capacity
        self._tokens = capacity
        self.low = False
        """False while nothing was refused lately: then a success need not be counted."""

    def succeeded(self) -> None:
        """Count a call that was answered."""
        self._tokens = min(self._capacity, self._tokens + 0.1)
        self.low = self._tokens < self._capacity

    def refused(self) -> bool:
        """Count a call that was refused unstarted; true if it may be retried."""
        self._tokens = max(0.0, self._tokens - 1.0)
        self.low = True
        return self._tokens > self._capacity / 2
