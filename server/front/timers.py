"""The timers of one loop: one heap of moments, one armed timer of the loop, lazy deletion.

An entry is a moment and what to do then. A call that ends early leaves its entry in the heap; it is dropped when its
moment comes, or earlier when more than half of the heap is dead. So a call costs one push (0.3 us) and no timer of the
loop. What happens to a call whose deadline has passed is decided by its target, not here.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Protocol

from ...protocol.alarm import Alarm

SLACK = 64
"""Dead entries that are always tolerated before the heap is rebuilt: below it a rebuild costs more than it frees."""


class Expiring(Protocol):
    """What can expire: `done` means that its entry is dead, `expired` is called once otherwise."""

    @property
    def done(self) -> bool:
        """Whether nothing is left to expire."""

    def expired(self, now: float, /) -> None:
        """Act: the moment has come."""


class TimerHandle(Protocol):
    """The part of an event loop's timer handle that is used."""

    def cancel(self) -> None:
        """Do not fire."""


class Timer:
    """A moment in a connection's life: calls `action(now)` once unless it is cancelled before."""

    __slots__ = ("_action", "done")

    def __init__(self, action: Callable[[float], None]) -> None:
        self._action = action
        self.done = False

    def expired(self, now: float) -> None:
        """Act: the moment has come."""
        self.done = True
        self._action(now)


class Timers:
    """A heap of (moment, target). `call_later(delay, callback)` and `clock()` are the loop's, or a test's."""

    __slots__ = ("_alarm", "_heap", "_live", "_serial")

    def __init__(
        self, call_later: Callable[[float, Callable[[], None]], TimerHandle], clock: Callable[[], float]
    ) -> None:
        self._alarm = Alarm(call_later, clock, self._fire)
        self._heap: list[tuple[float, int, Expiring]] = []
        self._serial = 0
        self._live = 0

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, moment: float, target: Expiring) -> None:
        """Call `target.expired(now)` at `moment` (monotonic seconds) unless it is done by then."""
        self._serial += 1
        self._live += 1
        heappush(self._heap, (moment, self._serial, target))
        if moment < self._alarm.moment:
            self._alarm.set(moment)

    def finished(self) -> None:
        """Count an entry as dead: its target is done before its moment."""
        self._live -= 1
        if len(self._heap) > SLACK + 2 * self._live:
            self._heap = [entry for entry in self._heap if not entry[2].done]
            heapify(self._heap)
            self._live = len(self._heap)

    def cancel(self, timer: Timer | None) -> None:
        """Have this timer, if there is one, not fire any more."""
        if timer is not None and not timer.done:
            timer.done = True
            self.finished()

    def close(self) -> None:
        """Drop every entry and the timer."""
        self._heap.clear()
        self._live = 0
        self._alarm.cancel()

    def _fire(self, now: float) -> None:
        heap = self._heap
        try:
            while heap and heap[0][0] <= now:
                target = heappop(heap)[2]
                if not target.done:
                    self._live -= 1
                    target.expired(now)
                    heap = self._heap
        finally:  # a target that raises must not keep the others waiting for ever
            heap = self._heap
            while heap and heap[0][2].done:
                heappop(heap)
            if heap and heap[0][0] < self._alarm.moment:
                self._alarm.set(heap[0][0])
