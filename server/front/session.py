"""One connection's side of the server: events of the protocol core in, submissions to engines and replies out.

Whether a call is taken is admission.py's, bytes and sockets are transport.py's, the protocol's rules are protocol/'s
and models are engines'. What is here: which call is where, and that each one gets exactly one end.
"""

from __future__ import annotations

import os
from math import inf
from time import monotonic
from typing import TYPE_CHECKING

from ...protocol import (
    Authenticated,
    Cancelled,
    Closed,
    Connection,
    ErrorCode,
    Event,
    Message,
    MessageAborted,
    Pong,
    Refusal,
    Refused,
    Status,
    pack_extension,
)
from ...protocol.header import END_STREAM, WANT_TIMING
from .admission import certainly_late
from .bodies import Bodies
from .calls import Call, Refuse, Route, SessionTimer, body_length_text, microseconds

if TYPE_CHECKING:
    from ..engine.api import Failure
    from ..registry import Served
    from .front import Front
    from .services import Watch
    from .transport import ConnectionTransport

NO_NEW_STREAMS = (1 << 64) - 1  # GOAWAY's stream id while the last one is not known yet
DRAIN_PING = b"draining"
DRAIN_GRACE = 0.25
"""Seconds a draining connection waits for the answer to its PING; an idle blocking client sends none."""

MAX_DETAIL_BYTES = 1024
_ONE_MESSAGE = "a call is one message here: set END_STREAM on its first frame"
_DRAINING = "the server is draining; connect again, perhaps elsewhere"


class Session:
    """One connection from its HELLO to its end."""

    __slots__ = (
        "_authenticated",
        "_bodies",
        "_drain_timer",
        "_draining",
        "_front",
        "_last_stream",
        "_lost",
        "_now",
        "_routes",
        "_timer",
        "_transport",
        "calls",
        "connection",
        "name",
        "principal",
        "watches",
    )

    def __init__(self, front: Front, transport: ConnectionTransport) -> None:
        self._front = front
        self._transport = transport
        self._now = monotonic()
        connection_id = os.urandom(8)
        self.name = connection_id.hex()
        self.connection = Connection(
            front.config,
            nonce=os.urandom(32),
            now=self._now,
            reserve=self._reserve,
            receive_buffer=front.receive_buffer,
            connection_id=connection_id,
            boot_id=front.boot_id,
        )
        self.principal = front.anonymous
        self._routes = self.principal.routes
        self.calls: dict[int, Call] = {}
        self.watches: dict[int, Watch] = {}
        self._bodies = Bodies(front.admission, front.deadlines, front.settings.body_timeout, self._body_late)
        self._authenticated = False
        self._lost = False
        self._draining = False
        self._last_stream = NO_NEW_STREAMS
        self._timer: SessionTimer | None = None
        self._drain_timer: SessionTimer | None = None

    # -- events ----------------------------------------------------------------------------------------------------

    def opened(self) -> None:
        """The connection was admitted: its handshake is timed from now on."""
        self._arm()

    def received(self, nbytes: int, now: float) -> None:
        """`nbytes` bytes are where the core wanted them."""
        self._front.metrics.bytes_in += nbytes
        self._now = now
        for event in self.connection.received(nbytes, now):
            if type(event) is Message and not event.owned:
                self._message(event, now)
            else:
                self._other(event, now)
                if self._lost:  # the last call of a draining connection ended: nothing after it is served
                    return
        if self.connection.outbound_bytes:
            self._transport.flush()

    def received_eof(self, now: float) -> None:
        """The peer has closed its side."""
        for event in self.connection.receive_eof(now):
            self._other(event, now)

    def _message(self, message: Message, now: float) -> None:
        """Take one call of one frame. This is the hot path: no call but to the cache, the engine and the heap."""
        stream_id = message.stream_id
        flags = message.flags
        if message.seq or not flags & END_STREAM:
            if not message.seq:
                self.end(stream_id, Status.UNIMPLEMENTED, _ONE_MESSAGE)
            return
        body = message.body
        route = self._routes.get((message.ext, message.meta))
        if route is None:
            route = self._find_route(message)
            if route is None:
                return
        else:
            self._front.metrics.cache_hits += 1
        if len(body) != route.body_length:
            text = body_length_text(len(body), route.body_length)
            self.end(stream_id, Status.INVALID_ARGUMENT, text, route.served)
            return
        if self._draining and stream_id > self._last_stream:
            self.end(stream_id, Status.UNAVAILABLE, _DRAINING, route.served)
            return
        call = Call(stream_id, self, now, route, message.priority, self.principal.number, flags & WANT_TIMING != 0)
        aux = message.aux
        if aux:
            call.deadline = now + aux * 1e-6
            late = certainly_late(call)
            if late is not None:
                self.end(stream_id, Status.DEADLINE_EXCEEDED, late[0], route.served, ext=late[1])
                return
        failure = route.submit(route.prepared, body, None, call)
        if failure is not None:
            self._refused_by_engine(stream_id, failure, route.served)
            return
        self.calls[stream_id] = call
        if aux:
            self._front.deadlines.add(call.deadline, call)

    def _other(self, event: Event, now: float) -> None:
        if isinstance(event, Message):
            self._body_complete(event, now)
        elif isinstance(event, Cancelled):
            self._cancelled(event.stream_id)
        elif isinstance(event, MessageAborted):
            self._aborted(event.stream_id)
        elif isinstance(event, Authenticated):
            self._authenticated = True
            self._front.handshake_over(self)
            self.connection.accept(self._front.services.ready(self.principal))
            self._arm()
        elif isinstance(event, Pong):
            if self._draining and event.payload == DRAIN_PING:
                self._last_stream_known(now)
        elif isinstance(event, Closed):
            if not event.remote:
                self._front.connection_dropped(ErrorCode(event.code).name.lower(), self, event.detail)
            self._give_up_calls()
            self._transport.close()
        elif not isinstance(event, Refused):  # a refusal was already answered by the core
            self._front.connection_dropped("unexpected_event", self, type(event).__name__)

    # -- admission -------------------------------------------------------------------------------------------------

    def _find_route(self, message: Message) -> Route | None:
        """The route of a call of one frame that the cache does not know; None if the call was answered here."""
        self._front.metrics.cache_misses += 1
        try:
            found = self._front.admission.route(self.principal, message.ext, message.meta)
            if isinstance(found, Route):
                return found
            self._front.services.call(self, message.stream_id, found, message.body)
        except Refuse as refusal:
            self._refuse(message.stream_id, refusal)
        return None

    def _reserve(
        self, stream_id: int, flags: int, priority: int, aux: int, ext: bytes, meta: bytes, body_length: int
    ) -> memoryview | Refusal:
        """Decide about a big message before its body is read: memory for all of it, or a refusal."""
        try:
            route = self._big_route(stream_id, flags, ext, meta, body_length)
            slab = self._bodies.reserve(stream_id, route, body_length, self._now)
        except Refuse as refusal:
            if refusal.served is not None:
                refusal.served.stats.call_done(refusal.status, 0.0)
            return Refusal(refusal.status, self._detail(stream_id, refusal.message))
        call = Call(stream_id, self, self._now, route, priority, self.principal.number, flags & WANT_TIMING != 0)
        call.slab = slab
        self.calls[stream_id] = call
        if aux:
            call.deadline = self._now + aux * 1e-6
            self._front.deadlines.add(call.deadline, call)
        return slab.view

    def _big_route(self, stream_id: int, flags: int, ext: bytes, meta: bytes, body_length: int) -> Route:
        if not flags & END_STREAM:
            raise Refuse(Status.UNIMPLEMENTED, _ONE_MESSAGE)
        if self._draining and stream_id > self._last_stream:
            raise Refuse(Status.UNAVAILABLE, _DRAINING)
        route = self._routes.get((ext, meta))
        if route is not None:
            self._front.metrics.cache_hits += 1
            return route
        self._front.metrics.cache_misses += 1
        found = self._front.admission.route(self.principal, ext, meta)
        if isinstance(found, Route):
            return found
        raise Refuse(Status.INVALID_ARGUMENT, f"a service call fits in one frame; sent {body_length} bytes")

    def _body_complete(self, message: Message, now: float) -> None:
        """A big body is in its slab."""
        stream_id = message.stream_id
        slab = self._bodies.take(stream_id)
        if slab is None:
            return
        call = self.calls.get(stream_id)
        if call is None:  # expired while its body was on the way
            slab.release()
            return
        call.slab = None
        call.arrived = now
        route = call.route
        failure = route.submit(route.prepared, slab.view, slab, call)
        if failure is not None:
            self.fail(call, failure.status, failure.message, started=failure.started)

    def _aborted(self, stream_id: int) -> None:
        """The memory of a big body will not be filled; what becomes of the call is told by another event."""
        slab = self._bodies.take(stream_id)
        if slab is not None:
            slab.release()

    def _body_late(self, detail: str) -> None:
        self._front.connection_dropped("body_timeout", self, detail)
        self.close(ErrorCode.TIMEOUT, detail)

    # -- the ends of a call ----------------------------------------------------------------------------------------

    def replied(self, call: Call) -> None:
        """The reply of `call` is queued; the caller flushes, and counts it."""
        call.done = True
        del self.calls[call.stream_id]
        if call.deadline != inf:
            self._front.deadlines.finished()

    def fail(self, call: Call, status: Status, message: str, *, started: bool) -> None:
        """End `call` with an error; the caller flushes."""
        call.done = True
        del self.calls[call.stream_id]
        if call.deadline != inf:
            self._front.deadlines.finished()
        self._end_call(call, status, message, started=started)

    def call_expired(self, call: Call) -> None:
        """The deadline of `call` has passed."""
        where, started = call.where, call.may_have_started
        self._drop(call)
        del self.calls[call.stream_id]
        allowed = (call.deadline - call.first_byte) * 1e3
        text = f"the deadline of {allowed:.1f} ms passed {where}"
        self._end_call(call, Status.DEADLINE_EXCEEDED, text, started=started)
        self.flush()

    def _cancelled(self, stream_id: int) -> None:
        call = self.calls.get(stream_id)
        if call is not None:
            started = call.may_have_started
            self._drop(call)
            self.fail(call, Status.CANCELLED, "cancelled by the caller", started=started)
            return
        watch = self.watches.pop(stream_id, None)
        if watch is not None:
            watch.stop()
            self.end(stream_id, Status.CANCELLED, "cancelled by the caller", not_started=False)

    def _drop(self, call: Call) -> None:
        """Take the call from its engine, if it got there."""
        if call.slab is None:
            call.route.engine.cancel(call)
        call.done = True

    def _end_call(self, call: Call, status: Status, message: str, *, started: bool) -> None:
        seconds = monotonic() - call.first_byte
        call.route.served.stats.call_done(status, seconds)
        ext = b""
        if call.want_timing:
            receive = microseconds(call.arrived - call.first_byte)
            ext = pack_extension(timing=(receive, 0, 0, 0, 0, 0, microseconds(seconds)))
        self.end(call.stream_id, status, message, not_started=not started, ext=ext)

    def _refused_by_engine(self, stream_id: int, failure: Failure, served: Served) -> None:
        self.end(stream_id, failure.status, failure.message, served, not_started=not failure.started)

    def _refuse(self, stream_id: int, refusal: Refuse) -> None:
        self.end(stream_id, refusal.status, refusal.message, refusal.served)

    def end(
        self,
        stream_id: int,
        status: Status,
        message: str,
        served: Served | None = None,
        *,
        not_started: bool = True,
        ext: bytes = b"",
    ) -> None:
        """Queue END; `served` counts it as a call that never got in."""
        if served is not None:
            served.stats.call_done(status, 0.0)
        self.connection.end(stream_id, status, self._detail(stream_id, message), not_started, ext)

    def _detail(self, stream_id: int, message: str) -> str:
        """The text of an error: what happened, and the request id that both sides can look for."""
        request_id = f" [request {self.name}-{stream_id}]"
        room = MAX_DETAIL_BYTES - len(request_id)
        return message.encode("utf-8", "replace")[:room].decode("utf-8", "ignore") + request_id

    # -- the end of the connection ---------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write what is queued, and close if the last call of a draining connection is over."""
        if self._lost:
            return
        self._transport.flush()
        if self._draining and self._last_stream != NO_NEW_STREAMS and not self.calls:
            self.close(ErrorCode.NO_ERROR, "drained")

    def drain(self) -> None:
        """Tell the peer that no new streams are taken; close when its calls are over."""
        if self._lost or self._draining:
            return
        self._draining = True
        if not self._authenticated:
            self.close(ErrorCode.SHUTDOWN, "the server is draining")
            return
        self.connection.goaway(NO_NEW_STREAMS, ErrorCode.SHUTDOWN, "the server is draining")
        self.connection.ping(DRAIN_PING)
        self._drain_timer = SessionTimer(self._last_stream_known)
        self._front.deadlines.add(monotonic() + DRAIN_GRACE, self._drain_timer)
        self._transport.flush()

    def _last_stream_known(self, _now: float) -> None:
        """Every stream the peer opened before it heard of the drain has arrived: none above is served."""
        if self._lost or self._last_stream != NO_NEW_STREAMS:
            return
        self._last_stream = self.connection.last_stream_id
        self._settle(self._drain_timer)
        for stream_id, watch in self.watches.items():
            watch.stop()
            self.end(stream_id, Status.UNAVAILABLE, _DRAINING, not_started=False)
        self.watches.clear()
        self.connection.goaway(self._last_stream, ErrorCode.SHUTDOWN, "the server is draining")
        self.flush()

    def close(self, code: ErrorCode, detail: str) -> None:
        """Close the connection; calls in flight get no answer."""
        if self._lost:
            return
        self.connection.close(code, detail)
        self._give_up_calls()
        self._transport.close()

    def abort(self, reason: str) -> None:
        """Drop the connection without a word; `reason` is one of a few fixed words."""
        self._transport.abort(reason)

    def lost(self) -> None:
        """The socket is gone."""
        self._give_up_calls()
        self._front.forget(self)

    def _give_up_calls(self) -> None:
        """Nobody waits any more: take every call from its engine and give its memory back."""
        if self._lost:
            return
        self._lost = True
        now = monotonic()
        for call in self.calls.values():
            self._drop(call)
            call.route.served.stats.call_done(Status.CANCELLED, now - call.first_byte)
            if call.deadline != inf:
                self._front.deadlines.finished()
        self.calls.clear()
        self._bodies.close()
        for watch in self.watches.values():
            watch.stop()
        self.watches.clear()
        self._settle(self._timer)
        self._settle(self._drain_timer)

    # -- timers ----------------------------------------------------------------------------------------------------

    def _settle(self, timer: SessionTimer | None) -> None:
        if timer is not None and not timer.done:
            timer.done = True
            self._front.deadlines.finished()

    def _arm(self) -> None:
        self._settle(self._timer)
        self._timer = None
        moment = self.connection.next_deadline()
        if moment is not None:
            self._timer = SessionTimer(self._timer_fired)
            self._front.deadlines.add(moment, self._timer)

    def _timer_fired(self, now: float) -> None:
        self._now = now
        for event in self.connection.handle_timeout(now):
            self._other(event, now)
        if not self._lost:
            self._transport.flush()
            self._arm()

    @property
    def authenticated(self) -> bool:
        """Whether the handshake is over."""
        return self._authenticated
