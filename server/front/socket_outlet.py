"""The writing half of an accepted socket: what leaves when, and how a connection is closed.

Every write is tried at once, so that what is left to do after a reply is done while it travels; what the kernel does
not take waits in the core, by priority, and above high water nothing more is read. Reading stops for two reasons (this
one, and transport.py's) and resumes when neither holds. No protocol rule here.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import cast

from ...protocol import Connection
from .connection_table import ConnectionTable
from .context import Context
from .ports import ConnectionInfo, Outlet
from .timers import Timer

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

TURN, WRITE = 1, 2  # the two reasons to stop reading: it had its share of the turn, or does not read itself


class SocketOutlet(Outlet):
    """Where the bytes of one connection leave: `attach` says whose they are, before any use."""

    __slots__ = (
        "_budget", "_closing", "_connection", "_connections", "_context", "_high_water", "_info", "_linger",
        "_linger_until", "_paused", "_paused_at", "_stall", "_transport", "_unread", "_write_paused",
    )  # fmt: skip

    _connection: Connection
    _info: ConnectionInfo

    def __init__(self, context: Context, connections: ConnectionTable) -> None:
        super().__init__()
        self._context = context
        self._connections = connections
        self._high_water = int(context.settings.write_high_water)
        self._budget = 0
        self._paused = 0
        self._write_paused = False
        self._paused_at = 0.0
        self._unread = 0
        self._closing = False
        self._stall: Timer | None = None
        self._linger: Timer | None = None
        self._linger_until = 0.0
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)  # set by connection_made, before any use

    def attach(self, connection: Connection, info: ConnectionInfo) -> None:
        """Send what this core has queued."""
        self._connection = connection
        self._info = info

    def descriptor(self) -> int:
        """Return that of the socket, -1 if it is closed or about to be."""
        if self._transport.is_closing():
            return -1
        return int(self._transport.get_extra_info("socket").fileno())

    def pause(self, reason: int) -> None:
        """Read no more for now."""
        if not self._paused:
            self._transport.pause_reading()
        self._paused |= reason

    def resume(self, reason: int) -> None:
        """Read again, unless another reason holds."""
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
            self.pause(WRITE)  # guard: slow-reader-pause
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
        self._context.timers.cancel(self._stall)
        self._stall = None
        if not self._closing:
            self.flush()
        if self._connection.outbound_bytes <= self._high_water:
            self.resume(WRITE)

    def _stalled(self, _now: float) -> None:
        self.abort("write_timeout")  # guard: slow-reader

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
        self._connections.dropped(self._info, reason)
        self._transport.abort()

    def gone(self) -> None:
        """Let go of everything: the socket is closed."""
        self._closing = True
        for timer in (self._stall, self._linger):
            self._context.timers.cancel(timer)
        self._stall = self._linger = None
        self._context.reply_budget.waiting -= self._unread
        self._unread = 0

    def _linger_on(self, now: float) -> None:
        """Wait a while for the peer to close, too; longer for one that still reads what it has not got."""
        if self._linger is None:
            self._linger_until = now + self._context.settings.write_timeout
        elif not self.unsent or now >= self._linger_until:
            self._transport.abort()
            return
        self._linger = Timer(self._linger_on)
        self._context.timers.add(now + (SHUTDOWN_LINGER if self._connections.draining else LINGER), self._linger)
