"""The rules of a client, without I/O: both clients are thin drivers of :class:`ClientCore` and its links.

``ClientCore`` lives as long as the client: it encodes calls, keeps those that wait for a connection, knows when to
dial, to retry and to give up. ``Link`` (``link``) is one connection with the calls it carries: bytes in, outcomes out.
The clock is an argument everywhere. Not here: sockets, threads, event loops.

What is promised (SPEC, outcomes): every call gets exactly one outcome. A call is repeated by itself only where the
server provably did not start it; a call that was under way when its connection went is UNKNOWN
(:class:`ConnectionLost`).
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Mapping
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Any, Final

from ..codec import CodecError, Encoder
from ..protocol import Flag, pack_extension
from .calls import CONNECT, FOREVER, ON_STREAM, PING, Call, ReplyQueue
from .errors import (
    AuthenticationError,
    ClientClosed,
    ConnectFailed,
    ConnectionLost,
    InvalidInput,
    InvalidKey,
    LocalCancelled,
    LocalDeadlineExceeded,
    TensorwireError,
)
from .keys import Credentials
from .link import CLOSED_UNDER, END_STREAM, Link, LinkOwner
from .retry import CALL_BACKOFF, DIAL_BACKOFF, MAX_ATTEMPTS
from .url import Address

if TYPE_CHECKING:
    from ..protocol import Config
    from ..protocol.capture import CaptureWriter

ASK_TIMING: Final = int(Flag.END_STREAM | Flag.WANT_TIMING)
MAX_REPLY = 4 << 30
"""Bytes of one reply that are accepted unless the client is told otherwise: a lying length must not take all memory."""
CONNECT_TIMEOUT = 10.0
"""Seconds for name lookup, connection and handshake, unless the client is told otherwise."""
INTERRUPTED: Final = "the client was interrupted in the middle of a change, and gave up its connections"
STALE_TIMERS: Final = 256
"""Finished calls whose timers may lie about in the heap before it is swept."""
EXTENSIONS_KEPT: Final = 1024


class ClientCore(LinkOwner):
    """Everything a client knows beyond its sockets. Not thread-safe: the driver serialises.

    ``notify`` is called with a call that is done or has another reply; ``new_waiter`` makes each call's ``waiter``;
    ``credentials`` has the key of every connection, none for the anonymous.
    """

    def __init__(
        self,
        notify: Callable[[Call], None],
        new_waiter: Callable[[], Any] | None = None,
        *,
        address: str = "",
        credentials: Credentials | None = None,
        wait_for_ready: bool = False,
        max_reply: int = MAX_REPLY,
        capture: CaptureWriter | None = None,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        super().__init__(max_reply, capture)
        self._notify = notify
        self._new_waiter = new_waiter
        self.address = address
        self.wait_for_ready = wait_for_ready
        self.closed = False
        self.changing = False
        """Whether something may be half changed, so that an exception of a signal handler's leaves nothing to rely on;
        kept for a driver that can be interrupted (see :meth:`interrupted`), which says when it is not."""
        self.welcome = b""
        self._entropy = entropy
        self._encoder = Encoder()
        self._extensions: dict[bytes, bytes] = {}
        self._timers: list[tuple[float, int, Call]] = []
        self._timer_count = 0
        self._links = 0
        self._dial_at = 0.0
        self._dial_attempt = 0
        self._dial_error = ""
        self._dial_kind: type[TensorwireError] = ConnectFailed
        self._dial_cause: BaseException | None = None
        self.credentials = Credentials(Address(host="localhost"), "") if credentials is None else credentials
        self._config: Config | None = None

    # --- calls -------------------------------------------------------------------------------------------------------

    def infer(
        self,
        model: str,
        inputs: Mapping[str, Any],
        version: str,
        deadline: float | None,
        timing: bool,
        priority: int,
        now: float,
        replies: ReplyQueue | None = None,
    ) -> Call:
        """Start a call: encode it and queue it, or keep it until there is a connection.

        ``deadline`` is in seconds from ``now``; the driver then owes a :meth:`watch`, once the bytes are on their way.
        ``replies`` is for a call that may have many.
        Raises :class:`InvalidInput` before anything is sent.
        """
        try:
            encoded = self._encoder.encode(model, version, inputs)
        except CodecError as error:
            raise InvalidInput(str(error)) from error
        if not 0 <= priority <= 255:
            raise InvalidInput(f"priority is {priority}, expected 0 to 255")
        call = self._new_call(ON_STREAM, deadline, now, replies)
        call.encoded = encoded
        call.priority = priority
        call.flags = ASK_TIMING if timing else END_STREAM
        dims = encoded.dims
        if dims:
            ext = self._extensions.get(dims)
            call.ext = self._extension(dims) if ext is None else ext
        link = self.link
        if link is not None and len(link.calls) < link.room and call.deadline > now:
            self.changing = True
            link.open(call, now)
        else:
            self._start(call, now)
        return call

    def control(self, kind: int, deadline: float | None, now: float) -> Call:
        """Start a call without a stream: a PING, done when the PONG is back, or CONNECT, done when there is a
        connection. The driver owes a :meth:`watch` as for :meth:`infer`.
        """
        call = self._new_call(kind, deadline, now)
        self._start(call, now)
        return call

    def watch(self, call: Call) -> None:
        """Keep the deadline of a call that was just started."""
        if call.deadline != FOREVER and not call.finished:
            self._arm(call.deadline, call)

    def cancel(self, call: Call, now: float) -> None:
        """Give a call up and tell the server; nothing happens where it is done already."""
        if not call.finished:
            self._drop(call)
            call.fail(LocalCancelled("cancelled by the caller", request_id=call.request_id), now)

    def _start(self, call: Call, now: float) -> None:
        if self.closed:
            raise ClientClosed("this client is closed: connect again")
        if call.deadline <= now:
            raise LocalDeadlineExceeded("the deadline had passed before the call was sent", not_started=True)
        if self.link is None and now < self._dial_at and not self.wait_for_ready:
            raise self._not_connected(self._dial_error)
        self.changing = True
        self._again(call, now)

    def _new_call(self, kind: int, deadline: float | None, now: float, replies: ReplyQueue | None = None) -> Call:
        waiter = None if self._new_waiter is None else self._new_waiter()
        if deadline is None:
            return Call(kind, now, FOREVER, self._notify, waiter, replies)
        if not deadline < FOREVER:
            raise InvalidInput(f"deadline is {deadline!r}, expected seconds from now, or None for no deadline")
        return Call(kind, now, now + deadline, self._notify, waiter, replies)

    def _extension(self, dims: bytes) -> bytes:
        if len(self._extensions) >= EXTENSIONS_KEPT:
            self._extensions.clear()
        ext = self._extensions[dims] = pack_extension(dims=dims)
        return ext

    def _drop(self, call: Call) -> None:
        """Forget a call that is about to fail here; the server is told if it knows of it."""
        link = call.link
        if link is not None:
            link.abandon(call)

    # --- time --------------------------------------------------------------------------------------------------------

    def next_timer(self) -> float:
        """When :meth:`run_timers` has something to do; ``FOREVER`` for never."""
        timers = self._timers
        when = FOREVER
        while timers:
            if not timers[0][2].finished:
                when = timers[0][0]
                break
            heappop(timers)
        link = self.link
        if link is not None and link.timed:
            due = link.next_deadline()
            if due is not None and due < when:
                return due
        return when

    def run_timers(self, now: float) -> None:
        """Fail what is past its deadline, send again what was to be retried."""
        timers = self._timers
        while timers and timers[0][0] <= now:
            when, _, call = timers[0]
            if call.finished:
                pass
            elif call.deadline <= when:
                self._expire(call, now)
            else:
                self._again(call, now)
            heappop(timers)  # last, so that at every moment the call is found somewhere
        if self.link is not None:
            self.link.handle_timeout(now)

    def _arm(self, when: float, call: Call) -> None:
        """One heap for all calls; finished ones stay in it until they are due or too many."""
        timers = self._timers
        self._timer_count += 1
        heappush(timers, (when, self._timer_count, call))
        if len(timers) > STALE_TIMERS and self._timer_count % STALE_TIMERS == 0:
            timers[:] = [entry for entry in timers if not entry[2].finished]
            heapify(timers)

    def _expire(self, call: Call, now: float) -> None:
        started = call.link is not None
        name = call.request_id
        self._drop(call)
        given = call.deadline - call.started_at
        where = "no answer" if started else f"no connection to {self.address}"
        if not started and self._dial_error:
            where += f" ({self._dial_error})"
        message = f"{where} within the deadline of {given:.3g} s"
        if call.kind == CONNECT:
            call.fail(self._not_connected(message), now)
        else:
            call.fail(LocalDeadlineExceeded(message, request_id=name, not_started=not started), now)

    # --- retries -----------------------------------------------------------------------------------------------------

    def retry_or_fail(self, call: Call, error: TensorwireError, now: float, wait: bool) -> None:
        """Send a call that provably did not start again if the rules allow it, else fail it with ``error``."""
        call.attempts += 1
        allowed = self.throttle.refused()
        delay = 0.0
        if wait:
            delay = max(CALL_BACKOFF.delay(call.attempts - 1), error.retry_after or 0.0)
        if not allowed or self.closed or call.attempts >= MAX_ATTEMPTS or now + delay >= call.deadline:
            call.fail(error, now)
        elif delay:
            self._arm(now + delay, call)
            call.link = None  # only now: until then it is found by the link that it was on
        else:
            self._again(call, now)

    def _again(self, call: Call, now: float) -> None:
        link = self.link
        if link is not None and link.has_room:
            link.open(call, now)
        else:
            self.waiting.append(call)
            call.link = None

    # --- connections -------------------------------------------------------------------------------------------------

    def next_dial(self) -> float:
        """When the driver should make a connection: ``FOREVER`` where nothing waits for one."""
        if self.link is not None or self.closed or all(call.finished for call in self.waiting):
            return FOREVER
        return self._dial_at

    def read_key(self) -> None:
        """Ask for the key: before every connection is made, by one thread, without the driver's lock.

        Raises :class:`InvalidKey`, :class:`ConnectFailed`: they go to :meth:`key_failed`.
        """
        self._config = self.credentials.config()

    def key_failed(self, error: TensorwireError, now: float) -> None:
        """There is no key to connect with, or TLS failed. Calls fail, or wait where another try may do."""
        lasting = isinstance(error, InvalidKey | InvalidInput | AuthenticationError)
        self.dial_failed(error.message, now, lasting=lasting, kind=type(error), cause=error.__cause__)

    def dialled(self, now: float, binding: bytes = b"") -> Link:
        """Make the link to drive over a connected socket. ``binding``: see ``Connection``; b"" without TLS."""
        config = self._config or self.credentials.config()
        self.link = link = Link(self, config, self._entropy(32), self._links, now, binding)
        self._links += 1
        return link

    def dial_failed(
        self,
        reason: str,
        now: float,
        *,
        lasting: bool = False,
        kind: type[TensorwireError] = ConnectFailed,
        cause: BaseException | None = None,
    ) -> None:
        """No connection could be made. Calls fail with ``kind``, or wait for the next try (``wait_for_ready``, unless
        ``lasting``).
        """
        self.link = None
        self._dial_error = reason
        self._dial_kind = kind
        self._dial_cause = cause
        self._dial_at = now + DIAL_BACKOFF.delay(self._dial_attempt)
        self._dial_attempt += 1
        if self.wait_for_ready and not lasting:
            return
        waiting, self.waiting = self.waiting, deque()
        for call in waiting:
            if not call.finished:
                call.fail(self._not_connected(reason), now)

    def orphaned(self, calls: list[Call], error: TensorwireError, now: float) -> None:
        """Fail the calls of a connection that is over, each with its own copy of ``error``."""
        for call in calls:
            if not call.finished:
                call.fail(type(error)(error.message, request_id=call.request_id, not_started=call.kind == PING), now)

    def link_ready(self, welcome: bytes) -> None:
        """Note that the handshake is done; what waits goes out once all that came with READY was heard."""
        self.welcome = welcome
        self._dial_attempt = 0
        self._dial_at = 0.0
        self._dial_error = ""
        self._dial_kind = ConnectFailed
        self._dial_cause = None

    def open_waiting(self, link: Link, now: float) -> None:
        """Open what waits, as far as the server takes it."""
        waiting = self.waiting
        while waiting and link.has_room:
            call = waiting.popleft()
            if not call.finished:
                link.open(call, now)

    def close(self, now: float) -> None:
        """End the client: what is open fails, the connection is told."""
        if self.closed:
            return
        self.closed = True
        waiting, self.waiting = self.waiting, deque()
        retried, self._timers = [entry[2] for entry in self._timers], []
        for call in (*waiting, *retried):
            if not call.finished and call.link is None:
                call.fail(ClientClosed(CLOSED_UNDER, not_started=True), now)
        if self.link is not None:
            self.link.close(CLOSED_UNDER, now)

    def interrupted(self, now: float) -> None:
        """End every call, since a change was broken off; nothing of it is used again. The driver has dropped its
        connections.
        """
        if self.link is not None:
            self.link.lost(INTERRUPTED, now)
            self.link = None
        waiting, self.waiting = self.waiting, deque()
        retried, self._timers = [entry[2] for entry in self._timers], []
        for call in (*waiting, *retried):
            self.strayed(call, now)
        self._dial_attempt, self._dial_at = 0, 0.0  # whatever failed, it was not the server
        self.changing = False

    def strayed(self, call: Call, now: float) -> None:
        """Fail ``call`` if it still has no outcome, where nothing is left that could bring one."""
        if not call.finished:
            call.fail(ConnectionLost(f"{INTERRUPTED}; whether the model ran the call is unknown"), now)

    def _not_connected(self, reason: str) -> TensorwireError:
        error = self._dial_kind(f"cannot connect to {self.address}: {reason}", not_started=True)
        error.__cause__ = self._dial_cause
        return error
