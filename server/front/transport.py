"""One accepted socket on the loop: moves bytes between the kernel, the protocol core and the session.

Reading: the core says where the next bytes go (the loop's size hint is ignored), small frames land in one buffer that
all connections of the loop share, big bodies in their slab. Reading stops for two reasons and resumes when neither
holds: this connection had its 256 KiB of the turn (1 MiB where it is alone), or its peer does not read what we write.
Writing: every write is tried at once, so that what is left to do after a reply is done while it travels; what the
kernel does not take waits in the core, by priority, and above high water nothing more is read. No protocol rule here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from time import monotonic
from typing import Any, cast

from ...protocol import ErrorCode
from .connection_table import ConnectionTable
from .context import Context
from .dispatcher import Dispatcher
from .listener_policy import ListenerPolicy
from .ports import Outlet
from .session import Session
from .timers import Timer
from .traffic_capture import TrafficCapture

READ_BUDGET = 256 << 10
"""Bytes one connection is read before the others have their turn: libuv would otherwise read a busy peer up to 32 times
in a row, which made p99 of the other connections 70 ms instead of 10."""

ALONE_BUDGET = 1 << 20
"""The same where no other connection was heard of for ALONE_SECONDS: stopping and going on costs four system calls."""

ALONE_SECONDS = 0.01

TURN_SECONDS = 0.01
"""Seconds that the bytes of one read may keep the loop. Calls with unknown signatures or errors cost a hundred times
what others do: a peer that sends them is read in small pieces, and the others have their turn between them."""

MAX_READ = 2 << 20  # bytes; more than any read asks for
READ_LEAST = 4 << 10
READ_FIRST = 16 << 10
"""Bytes of the smallest and of the first read of a connection; twice as many after each that was full and quick."""

LINGER = 1.0
"""Seconds a connection that we close is still read (and thrown away), so that unread bytes do not turn our last words
into a reset before the peer has seen them."""

SHUTDOWN_LINGER = 0.1
"""The same when the server itself ends: an idle peer, which does not read, shall not hold it up for long."""

LINGER_BYTES = 16 << 20
"""Bytes thrown away at most meanwhile: more than both kernels hold. Who sends on does not listen, and was read at
400 MB/s in the others' time."""

JOIN_BELOW = 64 << 10
"""Bytes that wait, up to which they are joined for one write."""

_NOBODY = (
    "certificate: the common name of the client's certificate stands for no principal here; ask whoever runs the "
    "server to add it to tls_principals"
)
_TURN, _WRITE = 1, 2  # the two reasons to stop reading
_POISON = b"\xdb"


class ConnectionTransport(Outlet):
    """The asyncio side of one connection: a BufferedProtocol by its methods, which is what uvloop asks for. Not by
    inheritance: a class on top of an interpreted one cannot be compiled.
    """

    __slots__ = (
        "_budget",
        "_closing",
        "_connection",
        "_connections",
        "_context",
        "_dispatcher",
        "_high_water",
        "_linger",
        "_linger_until",
        "_paused",
        "_paused_at",
        "_poison",
        "_policy",
        "_read_size",
        "_session",
        "_stall",
        "_transport",
        "_unread",
        "_write_paused",
    )

    def __init__(
        self, context: Context, connections: ConnectionTable, dispatcher: Dispatcher, policy: ListenerPolicy
    ) -> None:
        super().__init__()
        self._context = context
        self._connections = connections
        self._dispatcher = dispatcher
        self._policy = policy
        self._high_water = int(context.settings.write_high_water)
        self._budget = READ_BUDGET
        self._read_size = READ_FIRST
        self._paused = 0
        self._write_paused = False
        self._paused_at = 0.0
        self._unread = 0
        self._closing = False
        self._stall: Timer | None = None
        self._linger: Timer | None = None
        self._linger_until = 0.0
        self._poison = context.settings.poison
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)  # set by connection_made, before any use
        self._session = Session(context, self, connections, policy)
        self._connection = self._session.connection

    # -- reading ---------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask to be admitted."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=0)  # every write is tried at once
        name = self._transport.get_extra_info("peername")
        if isinstance(name, tuple):  # a Unix socket has none
            self._session.info.peer = (str(name[0]), int(name[1]))
        if not self._connections.admit(self._session):
            self._closing = True
            self._transport.abort()

    def descriptor(self) -> int:
        """Return that of the socket, -1 if it is closed or about to be."""
        if self._transport.is_closing():
            return -1
        return int(self._transport.get_extra_info("socket").fileno())

    def secured(self, certificate: Mapping[str, Any] | None) -> bool:
        """Take note, under TLS now, whom the client's certificate stands for; False: nobody, and it is refused."""
        if self._policy.principals:
            name = self._session.credentials.certified = self._policy.certified(certificate)
            if not name:
                self.refuse("certificate", ErrorCode.AUTHENTICATION, _NOBODY)
                return False
        return True

    def refuse(self, reason: str, code: ErrorCode, detail: str) -> None:
        """Close, and say why as far as the peer can be told; `reason` is one of a few fixed words, and is counted."""
        self._session.lifetime.drop(reason, code, detail)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - the loop always hints 64 KiB; the core knows
        """Return where the next bytes go."""
        if self._closing:
            return self._context.receive_buffer
        buffer = self._connection.next_buffer()
        return buffer if len(buffer) <= self._read_size else buffer[: self._read_size]

    def buffer_updated(self, nbytes: int) -> None:
        """Act on `nbytes` bytes that are there."""
        if self._closing:
            self._budget -= nbytes
            if self._budget < 0:
                self._transport.abort()
            return
        dispatcher = self._dispatcher
        now = monotonic()
        dispatcher.reading = True
        try:
            self._session.received(nbytes, now)
        finally:
            dispatcher.reading = False
        if self._poison:
            poison(self._context.receive_buffer)
        if dispatcher.woken:
            dispatcher.read_over(self)
        self._budget -= nbytes
        if nbytes >= READ_LEAST:
            self._fit_reads(nbytes, monotonic() - now)
        if self._session.info.authenticated:
            dispatcher.busy_poll.stir()
        if dispatcher.reader is not self:
            dispatcher.reader = self
            dispatcher.reader_since = now
        if self._budget <= 0:
            alone = now - dispatcher.reader_since > ALONE_SECONDS
            self._budget = ALONE_BUDGET if alone else READ_BUDGET
            self._pause(_TURN)
            self._context.loop.call_soon(self._resume, _TURN)

    def _fit_reads(self, nbytes: int, seconds: float) -> None:
        """Read less at a time, and let the others have their turn, if these bytes took long; more if they did not."""
        if seconds > TURN_SECONDS:
            self._read_size = max(READ_LEAST, min(self._read_size, nbytes) // 2)
            self._budget = 0
        elif nbytes >= self._read_size:
            self._read_size = min(2 * nbytes, MAX_READ)

    def eof_received(self) -> bool:
        """Close, as the peer has closed its side."""
        if not self._closing:
            self._session.received_eof(monotonic())
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - how it ended makes no difference
        """End everything: the socket is gone."""
        self._closing = True
        for timer in (self._stall, self._linger):
            self._context.timers.cancel(timer)
        self._stall = self._linger = None
        self._context.reply_budget.waiting -= self._unread
        self._unread = 0
        self._session.lost()

    def _pause(self, reason: int) -> None:
        if not self._paused:
            self._transport.pause_reading()
        self._paused |= reason

    def _resume(self, reason: int) -> None:
        if self._paused & reason:
            self._paused &= ~reason
            if not self._paused and not self._transport.is_closing():
                self._transport.resume_reading()

    # -- writing ---------------------------------------------------------------------------------------------------

    @property
    def unsent(self) -> int:
        """Bytes waiting in the transport."""
        return self._transport.get_write_buffer_size()

    def reading_paused(self) -> bool:
        """Tell whether the peer is not read, for one reason or the other."""
        return self._paused != 0

    def flush(self) -> None:
        """Write what the core has queued, until nothing is left or the kernel takes no more."""
        connection = self._connection
        budget = self._context.write_budget
        while not self._write_paused:
            waiting = connection.outbound_bytes
            if not waiting:
                break
            buffers = connection.data_to_send(budget)
            if not buffers:
                return
            self._write(buffers, join=waiting <= JOIN_BELOW)
        if self._write_paused and connection.outbound_bytes > self._high_water:
            self._pause(_WRITE)
            self.count_unread()
        elif self._unread:
            self.count_unread()

    def count_unread(self) -> None:
        """Take stock of the replies that wait for a peer that does not keep up, and whether it may have more."""
        waiting = self._connection.outbound_bytes
        if waiting <= self._high_water:
            waiting = 0
        budget = self._context.reply_budget
        budget.waiting += waiting - self._unread
        self._unread = waiting
        self.reply_limit_reached = budget.limit_reached(waiting)

    def over_reply_budget(self) -> bool:
        """Tell whether so much waits in all that a reply may keep no more memory than its own bytes."""
        return self._context.reply_budget.over()

    def stalled_since(self, since: float) -> bool:
        """Tell whether replies wait of which the peer has taken nothing to speak of since then."""
        return self._write_paused and self._paused_at <= since and self._unread > 0

    def _write(self, buffers: list[bytes | memoryview], *, join: bool) -> None:
        """Write; small ones joined: the loop takes 0.7 us for each buffer it is given."""
        metrics = self._context.metrics
        if join:
            joined = b"".join(buffers)
            metrics.bytes_out += len(joined)
            self._transport.write(joined)
        else:
            metrics.bytes_out += sum(map(len, buffers))
            self._transport.writelines(buffers)

    def pause_writing(self) -> None:
        """Keep what follows in the core, by priority: the kernel takes no more for now. The peer has some time."""
        self._write_paused = True
        self._paused_at = monotonic()
        self._stall = Timer(self._stalled)
        self._context.timers.add(self._paused_at + self._context.settings.write_timeout, self._stall)

    def resume_writing(self) -> None:
        """Go on: the kernel has taken all that the transport had."""
        self._write_paused = False
        if self._stall is not None and not self._stall.done:
            self._stall.done = True
            self._context.timers.finished()
        self._stall = None
        if not self._closing:
            self.flush()
        if self._connection.outbound_bytes <= self._high_water:
            self._resume(_WRITE)

    def _stalled(self, _now: float) -> None:
        self.abort("write_timeout")

    # -- closing ---------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Send what is queued, then close; for a while the peer's unread bytes are still read and dropped."""
        if self._closing:
            return
        self._closing = True
        self._budget = LINGER_BYTES
        while self._connection.outbound_bytes:
            buffers = self._connection.data_to_send(self._context.write_budget)
            if not buffers:
                break
            self._write(buffers, join=False)
        if self._transport.is_closing():
            return
        self._transport.write_eof()
        self._linger_on(monotonic())

    def abort(self, reason: str) -> None:
        """Drop the connection at once; `reason` is counted and logged."""
        self._connections.dropped(self._session.info, reason)
        self._transport.abort()

    def _linger_on(self, now: float) -> None:
        """Wait a while for the peer to close, too; longer for one that still reads what it has not got."""
        if self._linger is None:
            self._linger_until = now + self._context.settings.write_timeout
        elif not self.unsent or now >= self._linger_until:
            self._transport.abort()
            return
        self._linger = Timer(self._linger_on)
        self._context.timers.add(now + (SHUTDOWN_LINGER if self._connections.draining else LINGER), self._linger)


class CapturingTransport(ConnectionTransport):
    """The same, and every byte is written to the capture file: a class of its own so that others pay nothing."""

    __slots__ = ("_buffer", "_capture")

    def __init__(
        self,
        context: Context,
        connections: ConnectionTable,
        dispatcher: Dispatcher,
        policy: ListenerPolicy,
        capture: TrafficCapture,
    ) -> None:
        super().__init__(context, connections, dispatcher, policy)
        self._capture = capture

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where the next bytes go; remembered for the record."""
        self._buffer = super().get_buffer(sizehint)
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Record the bytes, then go on."""
        self._capture.record(self._session.info.id, received=True, data=self._buffer[:nbytes])
        super().buffer_updated(nbytes)

    def _write(self, buffers: list[bytes | memoryview], *, join: bool) -> None:
        for data in buffers:
            self._capture.record(self._session.info.id, received=False, data=data)
        super()._write(buffers, join=join)


def poison(buffer: memoryview) -> None:
    """Overwrite the shared receive buffer, so that whoever still looks at it sees nonsense."""
    buffer[:] = _POISON * len(buffer)
