"""One timer of an event loop, made to keep its word: it rings once, and never before its moment.

Loops' timers may fire early (uvloop counts whole milliseconds, from the last one that began), late, and, by a callback
that was on its way when its timer was set anew, once more. Whoever keeps time needs one rule for all of that, and one
place that knows whether the timer is set: here. No clock: both the loop's `call_later` and the clock are arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any, Final

GRAIN: Final = 0.001
"""Seconds by which a loop's timer may be early: so much more than what is left is asked for after it was."""


class Alarm:
    """Calls `ring(now)` once, at `moment` or later. `call_later(delay, callback)` and `clock()` are the loop's.

    `moment` is what it is set for, in seconds by the clock; inf while it is not set, also during `ring`.
    """

    __slots__ = ("_call_later", "_clock", "_ring", "_timer", "moment")

    def __init__(
        self,
        call_later: Callable[[float, Callable[[], None]], Any],
        clock: Callable[[], float],
        ring: Callable[[float], object],
    ) -> None:
        self._call_later = call_later
        self._clock = clock
        self._ring = ring
        self._timer: Any = None
        self.moment = inf

    def set(self, moment: float) -> None:
        """Ring at `moment`, in place of what was set before; nothing is done where that is the same."""
        if moment != self.moment:
            self.moment = moment
            self._start(moment - self._clock())

    def cancel(self) -> None:
        """Do not ring."""
        self.moment = inf
        self._stop()

    def _start(self, delay: float) -> None:
        self._stop()
        self._timer = self._call_later(max(0.0, delay), self._fired)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fired(self) -> None:
        """Ring if it is time: the timer fired, or one that was replaced did, and only the clock tells which."""
        if self.moment == inf:
            return
        now = self._clock()
        if now < self.moment:
            self._start(self.moment - now + GRAIN)
            return
        self.cancel()
        self._ring(now)
