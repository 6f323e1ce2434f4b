"""One transport of the asyncio client, under TLS or not, and the link it drives: bytes in and out.

On Python 3.11 without uvloop, the part of a big body that the socket does not take at once is copied once by asyncio
(at most a chunk at a time); elsewhere nothing is. Not here: futures, and which connection a call goes to
(``aio_driver``).
"""

from __future__ import annotations

import asyncio
import ssl
import sys
import time
from abc import ABC, abstractmethod
from typing import cast

from .errors import AuthenticationError
from .fork_guard import parents
from .link import Link
from .sockets import tune_tcp
from .tls import binding_of, describe

JOIN = 65536
"""Bytes up to which the buffers of one write are joined: copying them costs less than handing over each."""
HIGH_WATER = 1 << 20
"""Unsent bytes in the transport above which no more are given to it."""

monotonic = time.monotonic


class WireOwner(ABC):
    """What a wire asks of its client, upwards. Implemented by ``aio_driver.Driver``."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop

    @abstractmethod
    def wire_made(self, wire: Wire, binding: bytes = b"") -> Link:
        """Return the link that a connected transport is to drive."""

    @abstractmethod
    def wire_lost(self, wire: Wire) -> None:
        """Forget a transport that is gone."""

    @abstractmethod
    def settle(self, wire: Wire) -> None:
        """Answer, keep time, reconnect, after bytes came in."""


class Wire(asyncio.BufferedProtocol):
    """One transport and the link it drives."""

    __slots__ = ("__weakref__", "_joins", "_owner", "_paused", "_transport", "gone", "link", "scheduled")

    link: Link
    _transport: asyncio.Transport

    def __init__(self, owner: WireOwner) -> None:
        self._owner = owner
        self._paused = False
        self._joins = sys.version_info < (3, 12) and not type(owner.loop).__module__.startswith("uvloop")
        self.scheduled = False
        self.gone: asyncio.Future[None] = owner.loop.create_future()

    # --- called by the transport -------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Make the link, which says its first words."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER)
        if transport.get_extra_info("peername") and not isinstance(transport.get_extra_info("peername"), (str, bytes)):
            tune_tcp(transport.get_extra_info("socket"))
        parents.add(self)
        tls = transport.get_extra_info("ssl_object")
        binding, problem = b"", ""
        if tls is not None:
            try:
                binding = binding_of(tls)
            except AuthenticationError as error:
                problem = error.message
        self.link = self._owner.wire_made(self, binding)
        if problem:  # guard: tls-binding-known
            self.link.lost(problem, monotonic())
            self._transport.abort()
        else:
            self.flush()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - the core knows better
        """Where the next bytes go."""
        return self.link.next_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes came in."""
        self.link.received(nbytes, monotonic())
        self._owner.settle(self)

    def eof_received(self) -> bool:
        """Note that the server sends no more; false lets the transport close."""
        self.link.eof(monotonic())
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """End the link: the transport is gone, for whatever reason."""
        reason = getattr(exc, "strerror", None) or (str(exc) if exc else "the server closed the connection")
        if isinstance(exc, ssl.SSLError):
            reason = describe(exc)
        self.link.lost(reason, monotonic())
        self._owner.wire_lost(self)
        if not self.gone.done():
            self.gone.set_result(None)

    def pause_writing(self) -> None:
        """Give the transport no more for now."""
        self._paused = True

    def resume_writing(self) -> None:
        """Give the transport more."""
        self._paused = False
        self.flush()

    def fileno(self) -> int:
        """Return the socket's descriptor, -1 where it may have been closed: see ``fork_guard``."""
        return -1 if self._transport.is_closing() else int(self._transport.get_extra_info("socket").fileno())

    # --- writing -----------------------------------------------------------------------------------------------------

    def schedule(self) -> None:
        """Write at the end of this turn of the loop, together with whatever else it starts."""
        if not self.scheduled:
            self.scheduled = True
            self._owner.loop.call_soon(self.flush)

    def flush(self) -> None:
        """Give the transport what the link has to say, until one of them has enough."""
        self.scheduled = False
        link, transport, now = self.link, self._transport, monotonic()
        while not self._paused:
            buffers = link.data_to_send(now)
            if not buffers:
                if link.finished:
                    transport.close()
                return
            if len(buffers) == 1:
                transport.write(buffers[0])
            elif sum(map(len, buffers)) <= JOIN:
                transport.write(b"".join(buffers))
            elif self._joins:
                for buffer in buffers:
                    transport.write(buffer)
            else:
                transport.writelines(buffers)
