"""Memory for the big bodies of calls: what those that are on their way may hold, and how long they may take.

A body has memory for all of it before its first byte comes, so a peer that stops half-way holds memory of everybody's
pool. Two things bound that: what unfinished bodies may hold (BodyPool, one per loop), and the time each may take
(BodyMemory, one per connection that has any). A body that is late ends its connection, because only then is its memory
certainly under no read.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from ...gpu import Slab, SlabPool
from ...protocol import Status
from ..engine.api import Failure
from .call import Call, Receiving, Refuse, Route, body_length_text
from .timers import Timer, Timers

BODY_RATE = 1 << 20
"""Bytes per second that a body must come at on top of `body_timeout`: 10 Mbit/s, so that dribbling holds no memory."""


class BodyPool:
    """What unfinished bodies of one loop hold of its pool: `receiving` bytes."""

    __slots__ = ("_pool", "receiving")

    def __init__(self, pool: SlabPool) -> None:
        self._pool = pool
        self.receiving = 0

    def take(self, route: Route, body_length: int, held: int) -> Slab:
        """Return memory for a whole body before its first byte is read; its connection has `held` bytes.

        Who takes it gives the slab's `room` back to `receiving` once the body is complete or given up. Raises Refuse.
        """
        if body_length != route.body_length:  # guard: length-bomb-body
            raise Refuse(Status.INVALID_ARGUMENT, body_length_text(body_length, route.body_length), route.model)
        pool = self._pool
        taken = pool.room(body_length)
        if held + taken > pool.nbytes // 2:  # guard: half-bodies-of-one
            raise _no_memory(
                route,
                body_length,
                f"{held} bytes are held by this connection's unfinished bodies, at most {pool.nbytes // 2} may be",
            )
        if self.receiving + taken > pool.nbytes // 4 * 3:  # guard: half-bodies-of-all
            raise _no_memory(
                route,
                body_length,
                f"{self.receiving} bytes are held by unfinished bodies, at most {pool.nbytes // 4 * 3} may be",
            )
        slab = pool.allocate(body_length)
        if slab is None:
            raise _no_memory(route, body_length, f"{pool.in_use} of {pool.nbytes} bytes are in use")
        self.receiving += taken
        return slab


class BodyInMemory(Receiving):
    """The receiving half of a call whose body is read into `slab`, which must be full at the moment `due`."""

    __slots__ = ("due", "slab")

    def __init__(self, slab: Slab, due: float) -> None:
        self.slab = slab
        self.due = due

    def complete(self, call: Call, now: float) -> Failure | None:
        """Hand `call` to its engine with the slab, which is full."""
        call.receiving = None
        call.arrived = now
        route = call.route
        return route.submit(route.prepared, self.slab.view, self.slab, call)


class BodyMemory:
    """Memory of unfinished bodies by stream. `late(text)` is called when one takes too long, and closes all.

    timeout: seconds a body may take beside one per BODY_RATE bytes of it.
    """

    __slots__ = ("_bodies", "_due", "_late", "_pool", "_timeout", "_timer", "_timers", "held")

    def __init__(self, pool: BodyPool, timers: Timers, timeout: float, late: Callable[[str], None]) -> None:
        self._pool = pool
        self._timers = timers
        self._timeout = timeout
        self._late = late
        self._bodies: dict[int, BodyInMemory] = {}
        self._timer: Timer | None = None
        self._due = inf
        self.held = 0

    def __len__(self) -> int:
        return len(self._bodies)

    def reserve(self, stream_id: int, route: Route, body_length: int, now: float) -> BodyInMemory:
        """Take memory for a whole body, due from now on. Raises Refuse."""
        slab = self._pool.take(route, body_length, self.held)
        self.held += slab.room
        body = self._bodies[stream_id] = BodyInMemory(slab, now + self._timeout + body_length / BODY_RATE)
        if body.due < self._due:
            self._arm(body.due)
        return body

    def take(self, stream_id: int) -> BodyInMemory | None:
        """Hand over a body that is complete or given up: its memory is the caller's from now on."""
        body = self._bodies.pop(stream_id, None)
        if body is None:
            return None
        nbytes = body.slab.room
        self.held -= nbytes
        self._pool.receiving -= nbytes
        return body

    def close(self) -> None:
        """Give all memory back: the connection is over."""
        for stream_id in list(self._bodies):
            body = self.take(stream_id)
            if body is not None:
                body.slab.release()
        self._disarm()

    def _arm(self, moment: float) -> None:
        self._disarm()
        self._due = moment
        self._timer = Timer(self._fired)
        self._timers.add(moment, self._timer)

    def _disarm(self) -> None:
        self._timers.cancel(self._timer)
        self._timer = None
        self._due = inf

    def _fired(self, now: float) -> None:
        """Look for the next body: one timer serves all, and stays armed for one that has long come."""
        self._timer = None
        self._due = inf
        if not self._bodies:
            return
        stream_id, body = min(self._bodies.items(), key=lambda item: item[1].due)
        if body.due > now:  # guard: slow-body
            self._arm(body.due)
            return
        nbytes = body.slab.nbytes
        allowed = self._timeout + nbytes / BODY_RATE
        self._late(f"stream {stream_id}: the body of {nbytes} bytes was not complete after {allowed:.1f} s")


def _no_memory(route: Route, body_length: int, why: str) -> Refuse:
    text = f"no memory for a body of {body_length} bytes in the server's pool: {why}; try again later"
    return Refuse(Status.RESOURCE_EXHAUSTED, text, route.model)
