"""The life of one connection: its moments (handshake, frame, age, drain), and its end.

What lives here: when a connection has to be somewhere, and what goes with it. What must not: what becomes of its events
(session.py), whether it is let in at all (connection_table.py), bytes (transport.py).

A drain (SPEC 15) is GOAWAY and PING, a bounded time for the answer, by which every stream that the peer opened before
it knew has arrived, and the end when the last call is over.
"""

from __future__ import annotations

from math import inf
from time import monotonic

from ...protocol import Closed, Connection, ErrorCode, Status
from ...protocol.limits import NO_NEW_STREAMS
from .body_memory import BodyInMemory, BodyMemory
from .call_table import CallTable
from .context import Context
from .health_watch import HealthWatches
from .ports import ConnectionInfo, ConnectionObserver, Outlet
from .timers import Timer

DRAINING = "the server is draining; connect again, perhaps elsewhere"

EVERY_STREAM = (1 << 62) - 1
"""The last stream served while every one is: no connection opens as many, and it is compared as a machine word."""

DRAIN_GRACE = 0.25
"""Seconds that a peer with calls open has to answer the PING: a long way there and back, and a busy loop."""

IDLE_DRAIN_GRACE = 0.05
"""Seconds for a peer that waits for nothing: an idle blocking client reads, and answers, only before its next call.
What it may have sent just before is here by then; what comes later is refused as not started."""

KEY_LEAD = 30.0
"""Seconds before its key ends that a connection is drained: a client that has the next key by then loses no call."""

KEY_LEAST = 1.0
"""Seconds of its key below which a connection is not drained any more: who comes back has no other key."""

_OLD = "this connection is as old as one may be, or its key ends soon; connect again"
_PING = b"draining"


class SessionLifetime:
    """One connection from its admission to its end.

    over: nothing is read or said any more. last_stream: the last one that is served. farewell: why no more are, for the
    peer. unfinished: bytes of a frame that is not whole.
    """

    __slots__ = (
        "_age_timer", "_bodies", "_calls", "_connection", "_context", "_drain_timer", "_frame_began", "_frame_timer",
        "_handshake_timer", "_info", "_observer", "_outlet", "_watches", "farewell", "last_stream", "over",
        "unfinished",
    )  # fmt: skip

    def __init__(
        self,
        context: Context,
        connection: Connection,
        info: ConnectionInfo,
        calls: CallTable,
        watches: HealthWatches,
        outlet: Outlet,
        observer: ConnectionObserver,
    ) -> None:
        self._context = context
        self._connection = connection
        self._info = info
        self._calls = calls
        self._watches = watches
        self._outlet = outlet
        self._observer = observer
        self._bodies: BodyMemory | None = None  # made with the first big body: idle connections are many
        self.over = False
        self.last_stream = EVERY_STREAM
        self.farewell = DRAINING
        self.unfinished = 0
        self._frame_began = info.since
        self._frame_timer: Timer | None = None
        self._handshake_timer: Timer | None = None
        self._age_timer: Timer | None = None
        self._drain_timer: Timer | None = None

    # -- what the core waits for: the handshake, a sign of life ----------------------------------------------------

    def arm(self) -> None:
        """Have the core called when it next wants to be: from admission on, and whenever that has changed."""
        self._context.timers.cancel(self._handshake_timer)
        self._handshake_timer = None
        moment = self._connection.next_deadline()
        if moment is not None:
            self._handshake_timer = Timer(self._timed_out)
            self._context.timers.add(moment, self._handshake_timer)

    def _timed_out(self, now: float) -> None:
        for event in self._connection.handle_timeout(now):
            if isinstance(event, Closed):  # nothing else comes of it
                self.closed(event)
        if not self.over:
            self._outlet.flush()
            self.arm()

    # -- a frame that does not become whole ------------------------------------------------------------------------

    def frame(self, unfinished: int, nbytes: int, now: float) -> None:
        """Take note that a read of `nbytes` bytes left a frame of which `unfinished` bytes are here, or none."""
        if unfinished:
            if not self.unfinished or unfinished != self.unfinished + nbytes:  # not the frame of the last read
                self._frame_began = now
            if self._frame_timer is None:
                self._time_frame()
        self.unfinished = unfinished

    def _time_frame(self) -> None:
        """Arm one timer for all frames: it stays armed when the frame is whole, and then looks for a later one."""
        self._frame_timer = Timer(self._frame_late)
        self._context.timers.add(self._frame_began + self._context.settings.body_timeout, self._frame_timer)

    def _frame_late(self, now: float) -> None:
        self._frame_timer = None
        if not self.unfinished or not self._info.authenticated:  # guard: slow-frame
            return
        # guard: slow-frame-paused
        if self._outlet.reading_paused():  # it is we who do not take the rest
            self._frame_began = now
        if self._frame_began + self._context.settings.body_timeout > now:
            self._time_frame()
            return
        self._body_late(f"a frame was not complete after {self._context.settings.body_timeout:.1f} s")

    def body_memory(self) -> BodyMemory:
        """Return the memory of its big bodies, each of which has its time."""
        if self._bodies is None:
            context = self._context
            timeout = context.settings.body_timeout
            self._bodies = BodyMemory(context.body_pool, context.timers, timeout, self._body_late)
        return self._bodies

    def take_body(self, stream_id: int) -> BodyInMemory | None:
        """Hand over a big body that is complete or given up."""
        return None if self._bodies is None else self._bodies.take(stream_id)

    def drop_body(self, stream_id: int) -> None:
        """Give the memory of a big body back that is given up."""
        body = self.take_body(stream_id)
        if body is not None:  # guard: cancelled-body
            body.slab.release()

    def _body_late(self, detail: str) -> None:
        """Close: what was to come did not in its time."""
        self.drop("body_timeout", ErrorCode.TIMEOUT, detail)

    # -- its age ---------------------------------------------------------------------------------------------------

    def limit_age(self, key_left: float | None, now: float) -> None:
        """See to it that the peer connects again before its key ends, with the next one if it has it by then.

        key_left: seconds until then, inf if it does not end, None if that is the moment that was told before.
        """
        if key_left is None:
            return
        lasts = self._info.since + self._context.settings.session_seconds - now
        if KEY_LEAST < key_left < inf:
            lasts = min(lasts, max(key_left - KEY_LEAD, key_left / 2))
        self._context.timers.cancel(self._age_timer)
        self._age_timer = Timer(self._max_age_reached)
        self._context.timers.add(now + max(0.0, lasts), self._age_timer)

    def _max_age_reached(self, _now: float) -> None:
        self.farewell = _OLD
        self.drain()

    # -- drain -----------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Tell the peer that no new streams are taken; close when its calls are over."""
        if self.over or self._info.draining:
            return
        if not self._info.authenticated:
            self.close(ErrorCode.SHUTDOWN, DRAINING)
            return
        self._info.draining = True
        idle = not self._calls.calls and not self._watches.open
        self._drain_timer = Timer(self._last_stream_known)
        self._connection.goaway(NO_NEW_STREAMS, ErrorCode.SHUTDOWN, self.farewell)
        self._connection.ping(_PING)
        self._context.timers.add(monotonic() + (IDLE_DRAIN_GRACE if idle else DRAIN_GRACE), self._drain_timer)
        self._outlet.flush()

    def pong(self, payload: bytes, now: float) -> None:
        """Go on with the drain, if this answers its PING: what the peer sent before is here."""
        if payload == _PING and self._drain_timer is not None and not self._drain_timer.done:
            self._context.timers.cancel(self._drain_timer)
            self._last_stream_known(now)

    def _last_stream_known(self, _now: float) -> None:
        """Serve no more: every stream the peer opened before it heard of the drain has arrived."""
        self.last_stream = self._connection.last_stream_id
        self._watches.end_all(Status.UNAVAILABLE, self.farewell)
        self._connection.goaway(self.last_stream, ErrorCode.SHUTDOWN, self.farewell)
        self._calls.when_empty = self._drained
        self._calls.flush()

    def _drained(self) -> None:
        self.close(ErrorCode.NO_ERROR, "drained")

    # -- the end ---------------------------------------------------------------------------------------------------

    def drop(self, reason: str, code: ErrorCode, detail: str) -> None:
        """Close for a fault of the peer's; `reason`, one of a few fixed words, is counted and logged."""
        self._observer.dropped(self._info, reason, detail)
        self.close(code, detail)

    def close(self, code: ErrorCode, detail: str) -> None:
        """Close the connection; calls in flight get no answer."""
        if self.over:
            return
        self._connection.close(code, detail)
        self._let_go()
        self._outlet.close()

    def closed(self, event: Closed) -> None:
        """Act on the core's word that the connection is over, for one side or the other."""
        if not event.remote:
            self._observer.dropped(self._info, ErrorCode(event.code).name.lower(), event.detail)
        self._let_go()
        self._outlet.close()

    def lost(self) -> None:
        """Drop what was still to be sent: the socket is gone, and until the collector finds the connection, it would
        hold the memory of replies.
        """
        self._let_go()
        connection, info = self._connection, self._info
        info.greeted = connection.version > 0
        info.streams = connection.last_stream_id
        connection.close(ErrorCode.NO_ERROR, "")  # guard: unread-of-lost
        while connection.data_to_send():
            pass
        self._observer.forget(info)

    def _let_go(self) -> None:
        """Take every call from its engine, and give all memory and timers back: nobody waits any more."""
        if self.over:
            return
        self.over = True
        self._calls.detach()
        self._calls.give_up()
        if self._bodies is not None:
            self._bodies.close()  # guard: half-closed
        self._watches.give_up()
        timers = self._context.timers
        timers.cancel(self._handshake_timer)
        timers.cancel(self._frame_timer)
        timers.cancel(self._age_timer)
        timers.cancel(self._drain_timer)
