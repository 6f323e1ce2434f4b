"""One connection's side of the server: events of the protocol core in, submissions to engines and replies out.

What lives here: what becomes of each event. What must not: whether a call is taken (admission.py), its end
(call_table.py), bytes and sockets (transport.py), the rules of the protocol (protocol/), models (engines).
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
)
from ...protocol.header import END_STREAM, WANT_TIMING
from .admission import certainly_late
from .body_memory import BodyMemory
from .call import Call, Refuse, Route, body_length_text
from .call_table import CallTable
from .credentials import Credentials
from .drain import DRAINING, Drain
from .timers import Timer

if TYPE_CHECKING:
    from .front import Front
    from .listener_policy import ListenerPolicy
    from .service_calls import HealthWatch
    from .transport import ConnectionTransport

EVERY_STREAM = (1 << 62) - 1
"""The last stream served while every one is: no connection opens as many, and it is compared as a machine word."""

KEY_LEAD = 30.0
"""Seconds before its key ends that a connection is drained: a client that has the next key by then loses no call."""

KEY_LEAST = 1.0
"""Seconds of its key below which a connection is not drained any more: who comes back has no other key."""

WATCHED = ("$health", "")  # the service call that a watch is

_NOT_KNOWN = (
    "authentication: a key that was revoked or has ended, or a certificate whose principal has no valid key or another "
    "one than this; check both with whoever runs the server"
)
_REVOKED = "authentication: the key was revoked or has ended; ask whoever runs the server for another"
_OLD = "this connection is as old as one may be, or its key ends soon; connect again"
_ONE_MESSAGE = "a call is one message here: set END_STREAM on its first frame"


class Session(CallTable):
    """One connection from its HELLO to its end. `behind`: so many replies wait to be read that no more are kept."""

    __slots__ = (
        "_age",
        "_authenticated",
        "_bodies",
        "_door",
        "_drain",
        "_farewell",
        "_frame_began",
        "_frame_timer",
        "_front",
        "_last_stream",
        "_lost",
        "_now",
        "_routes",
        "_timer",
        "_transport",
        "_unfinished",
        "behind",
        "credentials",
        "ended",
        "peer",
        "principal",
        "since",
        "watches",
    )

    def __init__(self, front: Front, transport: ConnectionTransport, door: ListenerPolicy) -> None:
        self._transport = transport
        self._door = door
        self._now = monotonic()
        self.credentials = Credentials(front.keys, insecure=front.settings.insecure)
        connection = Connection(
            door.config,
            nonce=os.urandom(32),
            now=self._now,
            reserve=self._reserve,
            receive_buffer=front.receive_buffer,
            connection_id=os.urandom(8),
            boot_id=front.boot_id,
            secret_of=None if front.keys is None else self.credentials.secret_of,
            binding=door.binding(),
        )
        super().__init__(front.timers, connection, front.audit)
        self._front = front
        self.peer: tuple[str, int] = ("", 0)  # address and port; none of a Unix socket
        self.since = self._now
        self.ended = ""  # why we closed, in one of a few fixed words
        self.principal = front.principals.anonymous
        self._routes = self.principal.routes
        self.watches: dict[int, HealthWatch] = {}
        self._bodies: BodyMemory | None = None  # made with the first big body: idle connections are many
        self._authenticated = False
        self.behind = False
        self._lost = False
        self._last_stream = EVERY_STREAM
        self._unfinished = 0
        self._frame_began = self._now
        self._frame_timer: Timer | None = None
        self._timer: Timer | None = None
        self._age: Timer | None = None
        self._farewell = DRAINING
        self._drain: Drain | None = None

    # -- events ----------------------------------------------------------------------------------------------------

    def opened(self) -> None:
        """The connection was admitted: its handshake is timed from now on."""
        self._arm()

    def received(self, nbytes: int, now: float) -> None:
        """`nbytes` bytes are where the core wanted them."""
        self._front.metrics.bytes_in += nbytes
        self._now = now
        ext = meta = b""
        route: Route | None = None  # of the call before this one, which most are like
        hits = 0
        for event in self.connection.received(nbytes, now):
            if type(event) is Message and not event.owned:
                if event.meta is not meta or event.ext is not ext:
                    ext, meta, route = event.ext, event.meta, None
                elif route is not None:
                    hits += 1
                route = self._message(event, now, route)
            else:
                route = None
                self._other(event, now)
                if self._lost:  # the last call of a draining connection ended: nothing after it is served
                    break
        self._front.metrics.cache_hits += hits
        if self._lost:
            return
        unfinished = self.connection.unfinished
        if unfinished:
            if not self._unfinished or unfinished != self._unfinished + nbytes:  # not the frame of the last read
                self._frame_began = now
            if self._frame_timer is None:
                self._watch_frame()
        self._unfinished = unfinished
        if self.connection.outbound_bytes:
            self._transport.flush()

    def _watch_frame(self) -> None:
        """One timer for all frames: it stays armed when the frame is whole, and then looks for a later one."""
        self._frame_timer = Timer(self._frame_late)
        self._front.timers.add(self._frame_began + self._front.settings.body_timeout, self._frame_timer)

    def _frame_late(self, now: float) -> None:
        self._frame_timer = None
        if not self._unfinished or not self._authenticated:
            return
        if self._transport.reading_paused:  # it is we who do not take the rest
            self._frame_began = now
        if self._frame_began + self._front.settings.body_timeout > now:
            self._watch_frame()
            return
        detail = f"a frame was not complete after {self._front.settings.body_timeout:.1f} s"
        self._front.connection_dropped("body_timeout", self, detail)
        self.close(ErrorCode.TIMEOUT, detail)

    def received_eof(self, now: float) -> None:
        """The peer has closed its side."""
        for event in self.connection.receive_eof(now):
            self._other(event, now)

    def _message(self, message: Message, now: float, route: Route | None) -> Route | None:
        """Take one call of one frame; returns its route. This is the hot path: no call but to the cache, the engine and
        the heap. `route`: that of the call just before, if this one has its very metadata.
        """
        stream_id = message.stream_id
        flags = message.flags
        if message.seq or not flags & END_STREAM:
            if not message.seq:
                self.end(stream_id, Status.UNIMPLEMENTED, _ONE_MESSAGE)
            return None
        body = message.body
        if route is None:
            route = self._routes.get((message.ext, message.meta))
            if route is None:
                route = self._find_route(message)
                if route is None:
                    return None
            else:
                self._front.metrics.cache_hits += 1
        if len(body) != route.body_length:
            text = body_length_text(len(body), route.body_length)
            self.end(stream_id, Status.INVALID_ARGUMENT, text, route.model)
            return route
        if stream_id > self._last_stream:
            self.end(stream_id, Status.UNAVAILABLE, self._farewell, route.model)
            return route
        call = Call(stream_id, self, now, route, message.priority, self.principal.number, flags & WANT_TIMING != 0)
        aux = message.aux
        if aux:
            call.deadline = now + aux * 1e-6
            late = certainly_late(call)
            if late is not None:
                self.end(stream_id, Status.DEADLINE_EXCEEDED, late[0], route.model, ext=late[1])
                return route
        failure = route.submit(route.prepared, body, None, call)
        if failure is not None:
            self.end(stream_id, failure.status, failure.message, route.model, not_started=not failure.started)
            return route
        self.calls[stream_id] = call
        if aux:
            self._front.timers.add(call.deadline, call)
        return route

    def _other(self, event: Event, now: float) -> None:
        if isinstance(event, Message):
            self._body_complete(event, now)
        elif isinstance(event, Cancelled):
            self._cancelled(event.stream_id)
        elif isinstance(event, MessageAborted):
            self._aborted(event.stream_id)
        elif isinstance(event, Authenticated):
            if not self._authenticated and not self._come_in():
                self._front.connection_dropped("authentication", self, _NOT_KNOWN)
                self.close(ErrorCode.AUTHENTICATION, _NOT_KNOWN)
                return
            self._front.handshake_over(self)
            if not self.connection.closed:  # else what came with AUTH has ended it: the next event says how
                self.connection.accept(self._front.services.ready(self.principal))
            self._arm()
        elif isinstance(event, Pong):
            if self._drain is not None:
                self._drain.answered(event.payload, now)
        elif isinstance(event, Closed):
            if not event.remote:
                self._front.connection_dropped(ErrorCode(event.code).name.lower(), self, event.detail)
            self._over()
            self._transport.close()
        elif isinstance(event, Refused):  # already answered by the core
            if self._audit is not None:
                self._audit.refused_by_core(self, event.stream_id, event.status)
        else:
            self._front.connection_dropped("unexpected_event", self, type(event).__name__)

    # -- who calls -------------------------------------------------------------------------------------------------

    def _come_in(self) -> bool:
        """The peer has proven its key, if it has one: from now on its calls are its principal's. False: it is nobody.

        Comes before the first call, which may arrive with AUTH: a big one is asked about before its event.
        """
        named = self.credentials.principal()
        if named is None:
            return False
        self.principal = self._front.principals.enter(*named)
        self._routes = self.principal.routes
        self._authenticated = True
        self._limit_age(self._now)
        return True

    def keys_changed(self, now: float) -> None:
        """Go on, if what it came in with is still good. (In the handshake: that is seen at its end.)"""
        if not self._authenticated:
            return
        named = self.credentials.principal()
        if named is None or named[0] != self.principal.name:
            self._revoke()
        else:
            self._limit_age(now)

    def _revoke(self) -> None:
        """Its key is gone: end every call with that, then the connection."""
        if self._lost:
            return
        for call in list(self.calls.values()):
            self.cancel(call, Status.UNAUTHENTICATED, _REVOKED)
        self.end_watches(Status.UNAUTHENTICATED, _REVOKED)
        self._front.connection_dropped("revoked", self, _REVOKED)
        self.close(ErrorCode.AUTHENTICATION, _REVOKED)

    def _limit_age(self, now: float) -> None:
        """See to it that the peer connects again before its key ends, with the next one if it has it by then."""
        front = self._front
        if self.principal is front.principals.anonymous:
            return
        left = self.credentials.left()
        if left is None:
            return
        lasts = self.since + front.settings.session_seconds - now
        if KEY_LEAST < left < inf:
            lasts = min(lasts, max(left - KEY_LEAD, left / 2))
        front.timers.cancel(self._age)
        self._age = Timer(self._grown_old)
        front.timers.add(now + max(0.0, lasts), self._age)

    def _grown_old(self, _now: float) -> None:
        self._farewell = _OLD
        self.drain()

    # -- admission -------------------------------------------------------------------------------------------------

    def _find_route(self, message: Message) -> Route | None:
        """The route of a call of one frame that the cache does not know; None if the call was answered here."""
        self._front.metrics.cache_misses += 1
        try:
            found = self._front.admission.route(
                self.principal, message.ext, message.meta, self.connection.connection_id
            )
            if isinstance(found, Route):
                return found
            self._front.services.call(self, message.stream_id, found, message.body)
        except Refuse as refusal:
            self.end(message.stream_id, refusal.status, refusal.message, refusal.model, asked=refusal.asked)
        return None

    def _reserve(
        self, stream_id: int, flags: int, priority: int, aux: int, ext: bytes, meta: bytes, body_length: int
    ) -> memoryview | Refusal:
        """Decide about a big message before its body is read: memory for all of it, or a refusal."""
        try:
            route = self._big_route(stream_id, flags, ext, meta, body_length)
            if self._bodies is None:
                front = self._front
                self._bodies = BodyMemory(front.admission, front.timers, front.settings.body_timeout, self._body_late)
            slab = self._bodies.reserve(stream_id, route, body_length, self._now)
        except Refuse as refusal:
            model, asked = refusal.model, refusal.asked
            if model is not None:
                model.stats.call_done(refusal.status, 0.0)
                asked = (model.spec.name, model.spec.version)
            if self._audit is not None:
                self._audit.refused_body(self, stream_id, refusal.status, asked)
            return Refusal(refusal.status, self.detail(stream_id, refusal.message))
        call = Call(stream_id, self, self._now, route, priority, self.principal.number, flags & WANT_TIMING != 0)
        call.slab = slab
        self.calls[stream_id] = call
        if aux:
            call.deadline = self._now + aux * 1e-6
            self._front.timers.add(call.deadline, call)
        return slab.view

    def _big_route(self, stream_id: int, flags: int, ext: bytes, meta: bytes, body_length: int) -> Route:
        if not self._authenticated and not self._come_in():
            raise Refuse(Status.UNAUTHENTICATED, _NOT_KNOWN)
        if not flags & END_STREAM:
            raise Refuse(Status.UNIMPLEMENTED, _ONE_MESSAGE)
        if stream_id > self._last_stream:
            raise Refuse(Status.UNAVAILABLE, self._farewell)
        route = self._routes.get((ext, meta))
        if route is not None:
            self._front.metrics.cache_hits += 1
            return route
        self._front.metrics.cache_misses += 1
        found = self._front.admission.route(self.principal, ext, meta, self.connection.connection_id)
        if isinstance(found, Route):
            return found
        raise Refuse(Status.INVALID_ARGUMENT, f"a service call fits in one frame; sent {body_length} bytes")

    def _body_complete(self, message: Message, now: float) -> None:
        """A big body is in its slab."""
        stream_id = message.stream_id
        slab = None if self._bodies is None else self._bodies.take(stream_id)
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
        slab = None if self._bodies is None else self._bodies.take(stream_id)
        if slab is not None:
            slab.release()

    def _body_late(self, detail: str) -> None:
        self._front.connection_dropped("body_timeout", self, detail)
        self.close(ErrorCode.TIMEOUT, detail)

    @property
    def descriptor(self) -> int:
        """Of its socket, -1 if that is closed or about to be."""
        return self._transport.descriptor

    def call_expired(self, call: Call) -> None:
        """The deadline of `call` has passed."""
        self.expire(call)
        self.flush()

    def _cancelled(self, stream_id: int) -> None:
        call = self.calls.get(stream_id)
        if call is not None:
            self.cancel(call)
            return
        watch = self.watches.pop(stream_id, None)
        if watch is not None:
            watch.stop()
            self.end(stream_id, Status.CANCELLED, "cancelled by the caller", not_started=False, asked=WATCHED)

    # -- the end of the connection ---------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write what is queued, and close if the last call of a draining connection is over."""
        if self._lost:
            return
        self._transport.flush()
        if not self.calls and self._last_stream != EVERY_STREAM:
            self.close(ErrorCode.NO_ERROR, "drained")

    def drain(self) -> None:
        """Tell the peer that no new streams are taken; close when its calls are over."""
        if self._lost or self._drain is not None:
            return
        if not self._authenticated:
            self.close(ErrorCode.SHUTDOWN, DRAINING)
            return
        idle = not self.calls and not self.watches
        self._drain = Drain(
            self.connection, self._front.timers, self._last_stream_known, monotonic(), self._farewell, idle=idle
        )
        self._transport.flush()

    def _last_stream_known(self, _now: float) -> None:
        """Every stream the peer opened before it heard of the drain has arrived: none above is served."""
        self._last_stream = self.connection.last_stream_id
        self.end_watches(Status.UNAVAILABLE, self._farewell)
        self.connection.goaway(self._last_stream, ErrorCode.SHUTDOWN, self._farewell)
        self.flush()

    def end_watches(self, status: Status, message: str) -> None:
        """No watch goes on; the caller flushes."""
        for stream_id, watch in self.watches.items():
            watch.stop()
            self.end(stream_id, status, message, not_started=False, asked=WATCHED)
        self.watches.clear()

    def close(self, code: ErrorCode, detail: str) -> None:
        """Close the connection; calls in flight get no answer."""
        if self._lost:
            return
        self.connection.close(code, detail)
        self._over()
        self._transport.close()

    def abort(self, reason: str) -> None:
        """Drop the connection without a word; `reason` is one of a few fixed words."""
        self._transport.abort(reason)

    def count_unread(self) -> None:
        """A large reply was queued: see whether there is room for another."""
        self._transport.count_unread()

    def crowded(self) -> bool:
        """Whether so much waits to be read that a reply may keep no more memory than its own bytes."""
        return self._front.unread > self._front.reply_room // 8

    def gives_way(self, since: float) -> bool:
        """Whether its peer has let replies wait since then."""
        return self._transport.gives_way(since)

    def lost(self) -> None:
        """The socket is gone. What was still to be sent is dropped now: until the collector finds the connection, it
        would hold the memory of replies.
        """
        self._over()
        self.connection.close(ErrorCode.NO_ERROR, "")
        while self.connection.data_to_send():
            pass
        self._front.forget(self)

    def _over(self) -> None:
        """Nobody waits any more: take every call from its engine and give its memory back."""
        if self._lost:
            return
        self._lost = True
        self.give_up()
        if self._bodies is not None:
            self._bodies.close()
        for stream_id, watch in self.watches.items():
            watch.stop()
            if self._audit is not None:
                self._audit.refused(self, stream_id, Status.CANCELLED, WATCHED, started=True)
        self.watches.clear()
        self._front.timers.cancel(self._timer)
        self._front.timers.cancel(self._frame_timer)
        self._front.timers.cancel(self._age)
        if self._drain is not None:
            self._drain.close()

    # -- timers ----------------------------------------------------------------------------------------------------

    def _arm(self) -> None:
        self._front.timers.cancel(self._timer)
        self._timer = None
        moment = self.connection.next_deadline()
        if moment is not None:
            self._timer = Timer(self._timer_fired)
            self._front.timers.add(moment, self._timer)

    def _timer_fired(self, now: float) -> None:
        self._now = now
        for event in self.connection.handle_timeout(now):
            self._other(event, now)
        if not self._lost:
            self._transport.flush()
            self._arm()

    @property
    def drained(self) -> bool:
        """Whether it was told that no new streams are taken."""
        return self._drain is not None

    @property
    def authenticated(self) -> bool:
        """Whether the handshake is over."""
        return self._authenticated
