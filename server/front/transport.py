"""One accepted socket on the loop: moves bytes between the kernel, the protocol core and the session.

The core says where the next bytes go (the loop's size hint is ignored), small frames land in one buffer that all
connections of the loop share, big bodies in their slab. Reading stops for two reasons and resumes when neither holds:
this connection had its 256 KiB of the turn (1 MiB where it is alone), or its peer does not read what we write, which is
socket_outlet.py's. No protocol rule here.
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
from .session import Session
from .socket_outlet import TURN, SocketOutlet
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

_NOBODY = (
    "certificate: the common name of the client's certificate stands for no principal here; ask whoever runs the "
    "server to add it to tls_principals"
)
_POISON = b"\xdb"


class ConnectionTransport(SocketOutlet):
    """The asyncio side of one connection: a BufferedProtocol by its methods, which is what uvloop asks for. Not by
    inheritance: a class on top of an interpreted one cannot be compiled.
    """

    __slots__ = ("_dispatcher", "_poison", "_policy", "_read_size", "_session")

    def __init__(
        self, context: Context, connections: ConnectionTable, dispatcher: Dispatcher, policy: ListenerPolicy
    ) -> None:
        super().__init__(context, connections)
        self._dispatcher = dispatcher
        self._policy = policy
        self._budget = READ_BUDGET
        self._read_size = READ_FIRST
        self._poison: bool = context.settings.poison
        self._session = Session(context, self, connections, policy)
        self.attach(self._session.connection, self._session.info)

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

    def secured(self, certificate: Mapping[str, Any] | None) -> bool:
        """Take note, under TLS now, whom the client's certificate stands for; False: nobody, and it is refused."""
        if self._policy.principals:
            name = self._session.credentials.certified = self._policy.certified(certificate)
            if not name:  # guard: unmapped-certificate
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
        if self._session.info.authenticated:  # guard: strangers-keep-awake
            dispatcher.busy_poll.stir()
        if dispatcher.reader is not self:
            dispatcher.reader = self
            dispatcher.reader_since = now
        if self._budget <= 0:
            alone = now - dispatcher.reader_since > ALONE_SECONDS
            self._budget = ALONE_BUDGET if alone else READ_BUDGET
            self.pause(TURN)
            self._context.loop.call_soon(self.resume, TURN)

    def _fit_reads(self, nbytes: int, seconds: float) -> None:
        """Read less at a time, and let the others have their turn, if these bytes took long; more if they did not."""
        if seconds > TURN_SECONDS:  # guard: costly-calls
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
        self.gone()
        self._session.lost()


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
