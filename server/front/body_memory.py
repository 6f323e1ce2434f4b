"""The big bodies of one connection that are on their way: their memory, and how long they may take.

A body has memory for all of it before its first byte comes, so a peer that stops half-way holds memory of everybody's
pool. Two things bound that: what unfinished bodies may hold (admission.py), and here the time each may take. A body
that is late ends its connection, because only then is its memory certainly under no read.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING

from .call import Route
from .timers import Timer

if TYPE_CHECKING:
    from ...gpu import Slab
    from .admission import Admission
    from .timers import Timers

BODY_RATE = 1 << 20
"""Bytes per second that a body must come at on top of `body_timeout`: 10 Mbit/s, so that dribbling holds no memory."""


class BodyMemory:
    """Memory of unfinished bodies by stream. `late(text)` is called when one takes too long, and closes all.

    timeout: seconds a body may take beside one per BODY_RATE bytes of it.
    """

    __slots__ = ("_admission", "_due", "_late", "_slabs", "_timeout", "_timer", "_timers", "held")

    def __init__(self, admission: Admission, timers: Timers, timeout: float, late: Callable[[str], None]) -> None:
        self._admission = admission
        self._timers = timers
        self._timeout = timeout
        self._late = late
        self._slabs: dict[int, tuple[Slab, float]] = {}  # stream -> memory, and the moment it must be full
        self._timer: Timer | None = None
        self._due = inf
        self.held = 0

    def __len__(self) -> int:
        return len(self._slabs)

    def reserve(self, stream_id: int, route: Route, body_length: int, now: float) -> Slab:
        """Memory for a whole body, due from now on. Raises Refuse."""
        slab = self._admission.memory(route, body_length, self.held)
        self.held += slab.room
        moment = now + self._timeout + body_length / BODY_RATE
        self._slabs[stream_id] = slab, moment
        if moment < self._due:
            self._arm(moment)
        return slab

    def take(self, stream_id: int) -> Slab | None:
        """The memory of a body that is complete or given up: the caller's from now on."""
        found = self._slabs.pop(stream_id, None)
        if found is None:
            return None
        nbytes = found[0].room
        self.held -= nbytes
        self._admission.receiving -= nbytes
        return found[0]

    def close(self) -> None:
        """The connection is over: give all memory back."""
        for stream_id in list(self._slabs):
            slab = self.take(stream_id)
            if slab is not None:
                slab.release()
        self._settle()

    def _arm(self, moment: float) -> None:
        self._settle()
        self._due = moment
        self._timer = Timer(self._fired)
        self._timers.add(moment, self._timer)

    def _settle(self) -> None:
        self._timers.cancel(self._timer)
        self._timer = None
        self._due = inf

    def _fired(self, now: float) -> None:
        """One timer serves all bodies: it stays armed for one that has long come, and then looks for the next."""
        self._timer = None
        self._due = inf
        if not self._slabs:
            return
        stream_id, (slab, moment) = min(self._slabs.items(), key=lambda item: item[1][1])
        if moment > now:
            self._arm(moment)
            return
        allowed = self._timeout + slab.nbytes / BODY_RATE
        self._late(f"stream {stream_id}: the body of {slab.nbytes} bytes was not complete after {allowed:.1f} s")
