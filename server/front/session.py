"""One connection's side of the server: events of the protocol core in, submissions to engines and replies out.

What lives here: what becomes of each event, and who calls. What must not: whether a call is taken (admission.py), its
end (call_table.py), the life of the connection (session_lifetime.py), bytes and sockets (transport.py), the rules of
the protocol (protocol/), models (engines).
"""

from __future__ import annotations

import os
from time import monotonic

from ...codec import Resolved
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
from .call import Call, Refuse, Route, body_length_text
from .call_table import CallTable
from .context import Context
from .credentials import Credentials
from .health_watch import HealthWatches
from .listener_policy import ListenerPolicy
from .ports import ConnectionInfo, ConnectionObserver, Outlet
from .session_lifetime import SessionLifetime

_NOT_KNOWN = (
    "authentication: a key that was revoked or has ended, or a certificate whose principal has no valid key or another "
    "one than this; check both with whoever runs the server"
)
_REVOKED = "authentication: the key was revoked or has ended; ask whoever runs the server for another"
_ONE_MESSAGE = "a call is one message here: set END_STREAM on its first frame"


class Session:
    """One connection from its HELLO to its end.

    calls, watches: what is open on it. principal: whose it is, the anonymous one before that is known.
    """

    __slots__ = (
        "_context", "_metrics", "_now", "_observer", "_open", "_routes", "_timers", "calls",
        "connection", "credentials", "info", "lifetime", "outlet", "principal", "watches",
    )  # fmt: skip

    def __init__(self, context: Context, outlet: Outlet, observer: ConnectionObserver, policy: ListenerPolicy) -> None:
        self._context = context
        self.outlet = outlet
        self._observer = observer
        self._metrics = context.metrics
        self._timers = context.timers
        self._now = monotonic()
        self.info = info = ConnectionInfo(os.urandom(8), self._now)
        self.credentials = Credentials(info, context.keys, insecure=context.settings.insecure)
        self.connection = connection = Connection(
            policy.config,
            nonce=os.urandom(32),
            now=self._now,
            reserve=self._reserve,
            receive_buffer=context.receive_buffer,
            connection_id=info.id,
            boot_id=context.boot_id,
            secret_of=None if context.keys is None else self.credentials.secret_of,
            binding=policy.binding(),
        )
        self.calls = calls = CallTable(context.timers, context.audit)
        self._open = calls.calls
        calls.attach(connection, outlet, info)
        self.watches = HealthWatches(context.timers, calls, context.audit)
        self.lifetime = SessionLifetime(context, connection, info, calls, self.watches, outlet, observer)
        self.principal = context.principals.anonymous
        self._routes = self.principal.routes

    # -- events ----------------------------------------------------------------------------------------------------

    def received(self, nbytes: int, now: float) -> None:
        """Act on what `nbytes` bytes, which are where the core wanted them, bring."""
        metrics = self._metrics
        metrics.bytes_in += nbytes
        self._now = now
        lifetime = self.lifetime
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
                if lifetime.over:  # the last call of a draining connection ended: nothing after it is served
                    break
        metrics.cache_hits += hits
        if lifetime.over:
            return
        unfinished = self.connection.unfinished
        if unfinished or lifetime.unfinished:
            lifetime.frame(unfinished, nbytes, now)
        if self.connection.outbound_bytes:
            self.outlet.flush()

    def received_eof(self, now: float) -> None:
        """Act on it that the peer has closed its side."""
        for event in self.connection.receive_eof(now):
            self._other(event, now)

    def lost(self) -> None:
        """End everything: the socket is gone."""
        self.lifetime.lost()
        self._context.principals.leave(self.principal, self.info.id)

    def _message(self, message: Message, now: float, route: Route | None) -> Route | None:
        """Take one call of one frame; returns its route.

        This is the hot path: no call but to the cache, the engine and the heap. `route`: that of the call just before,
        if this one has its very metadata.
        """
        stream_id = message.stream_id
        flags = message.flags
        if message.seq or not flags & END_STREAM:
            if not message.seq:
                self.calls.end(stream_id, Status.UNIMPLEMENTED, _ONE_MESSAGE)
            return None
        body = message.body
        if route is None:
            route = self._routes.get((message.ext, message.meta))
            if route is None:
                route = self._find_route(message)
                if route is None:
                    return None
            else:
                self._metrics.cache_hits += 1
        calls = self.calls
        if len(body) != route.body_length:
            text = body_length_text(len(body), route.body_length)
            calls.end(stream_id, Status.INVALID_ARGUMENT, text, route.model)
            return route
        if stream_id > self.lifetime.last_stream:
            calls.end(stream_id, Status.UNAVAILABLE, self.lifetime.farewell, route.model)
            return route
        call = Call(stream_id, calls, now, route, message.priority, self.principal.number, flags & WANT_TIMING != 0)
        aux = message.aux
        if aux:
            call.deadline = now + aux * 1e-6
            late = certainly_late(call)
            if late is not None:
                calls.end(stream_id, Status.DEADLINE_EXCEEDED, late[0], route.model, ext=late[1])
                return route
        failure = route.submit(route.prepared, body, None, call)
        if failure is not None:
            calls.end(stream_id, failure.status, failure.message, route.model, not_started=not failure.started)
            return route
        self._open[stream_id] = call
        if aux:
            self._timers.add(call.deadline, call)
        return route

    def _other(self, event: Event, now: float) -> None:
        if isinstance(event, Message):
            self._body_complete(event, now)
        elif isinstance(event, Cancelled):
            call = self._open.get(event.stream_id)
            if call is not None:
                self.calls.cancel(call)  # guard: cancel-once
            else:
                self.watches.cancel(event.stream_id)
        elif isinstance(event, MessageAborted):  # what becomes of the call is told by another event
            self.lifetime.drop_body(event.stream_id)
        elif isinstance(event, Authenticated):
            if not self.info.authenticated and not self._authenticate():
                self.lifetime.drop("authentication", ErrorCode.AUTHENTICATION, _NOT_KNOWN)
                return
            self._observer.authenticated(self.info)
            # guard: closed-in-handshake
            if not self.connection.closed:  # else what came with AUTH has ended it: the next event says how
                self.connection.accept(self._context.service_calls.ready(self.principal))
            self.lifetime.arm()
        elif isinstance(event, Pong):
            self.lifetime.pong(event.payload, now)
        elif isinstance(event, Closed):
            self.lifetime.closed(event)
        elif isinstance(event, Refused):  # already answered by the core
            if self._context.audit is not None:
                self._context.audit.refused_by_core(self.info, event.stream_id, event.status)
        else:
            self._observer.dropped(self.info, "unexpected_event", type(event).__name__)

    # -- who calls -------------------------------------------------------------------------------------------------

    def _authenticate(self) -> bool:
        """Make the connection its principal's: the peer has proven its key, if it has one. False: it is nobody.

        Comes before the first call, which may arrive with AUTH: a big one is asked about before its event.
        """
        named = self.credentials.principal()
        if named is None:
            return False
        self.principal = self._context.principals.enter(*named)
        self._routes = self.principal.routes
        self.info.principal = self.principal.name
        self.info.authenticated = True
        self._limit_age(self._now)
        return True

    def keys_changed(self, now: float) -> None:
        """Go on, if what it came in with is still good. (In the handshake: that is seen at its end.)"""
        if not self.info.authenticated or self.lifetime.over:
            return
        named = self.credentials.principal()
        if named is not None and named[0] == self.principal.name:  # guard: key-revoked-in-session
            self._limit_age(now)
            return
        for call in list(self._open.values()):  # its key is gone
            self.calls.cancel(call, Status.UNAUTHENTICATED, _REVOKED)
        self.watches.end_all(Status.UNAUTHENTICATED, _REVOKED)
        self.lifetime.drop("revoked", ErrorCode.AUTHENTICATION, _REVOKED)

    def _limit_age(self, now: float) -> None:
        if self.principal is not self._context.principals.anonymous:
            self.lifetime.limit_age(self.credentials.left(), now)

    # -- admission -------------------------------------------------------------------------------------------------

    def _find_route(self, message: Message) -> Route | None:
        """Find the route of a call of one frame that the cache does not know; None if it was answered here."""
        try:
            found = self._ask(message.ext, message.meta)
            if isinstance(found, Route):
                return found
            self._context.service_calls.call(self, message.stream_id, found, message.body)
        except Refuse as refusal:
            self.calls.refuse(message.stream_id, refusal)
        return None

    def _ask(self, ext: bytes, meta: bytes) -> Route | Resolved:
        """Have a signature worked out that the cache does not know. Raises Refuse."""
        self._metrics.cache_misses += 1
        return self._context.admission.route(self.principal, ext, meta, self.info.id)  # guard: cache-owner

    def _reserve(
        self, stream_id: int, flags: int, priority: int, aux: int, ext: bytes, meta: bytes, body_length: int
    ) -> memoryview | Refusal:
        """Decide about a big message before its body is read: memory for all of it, or a refusal."""
        try:
            route = self._big_route(stream_id, flags, ext, meta, body_length)
            body = self.lifetime.body_memory().reserve(stream_id, route, body_length, self._now)
        except Refuse as refusal:
            return self.calls.refuse_body(stream_id, refusal)
        number = self.principal.number
        call = Call(stream_id, self.calls, self._now, route, priority, number, flags & WANT_TIMING != 0)
        call.receiving = body
        self._open[stream_id] = call
        if aux:
            call.deadline = self._now + aux * 1e-6
            self._timers.add(call.deadline, call)
        return body.slab.view

    def _big_route(self, stream_id: int, flags: int, ext: bytes, meta: bytes, body_length: int) -> Route:
        if not self.info.authenticated and not self._authenticate():
            raise Refuse(Status.UNAUTHENTICATED, _NOT_KNOWN)
        if not flags & END_STREAM:
            raise Refuse(Status.UNIMPLEMENTED, _ONE_MESSAGE)
        if stream_id > self.lifetime.last_stream:
            raise Refuse(Status.UNAVAILABLE, self.lifetime.farewell)
        route = self._routes.get((ext, meta))
        if route is not None:
            self._metrics.cache_hits += 1
            return route
        found = self._ask(ext, meta)
        if isinstance(found, Route):
            return found
        raise Refuse(Status.INVALID_ARGUMENT, f"a service call fits in one frame; sent {body_length} bytes")

    def _body_complete(self, message: Message, now: float) -> None:
        """Hand a call to its engine: its big body is in its slab."""
        body = self.lifetime.take_body(message.stream_id)
        if body is None:
            return
        call = self._open.get(message.stream_id)
        if call is None:  # expired while its body was on the way
            body.slab.release()
            return
        failure = body.complete(call, now)
        if failure is not None:
            self.calls.fail(call, failure.status, failure.message, started=failure.started)
