"""TLS between a socket and its connection: ciphertext below, the same transport as of a plain socket above.

It is a layer of our own, on `ssl.SSLObject`, since uvloop's keeps 256 KiB for each connection, tells nobody of
handshakes that fail or do not end, sends no alerts, cannot close one direction, and hides what the kernel did not take.
Here the connection is admitted, counted and timed from accept on, as a plain one is. No protocol rule here.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, cast

from ...protocol import ErrorCode
from ...protocol.limits import PREFACE
from ..tls import Certificates
from .transport import ConnectionTransport

CIPHERTEXT_BYTES = 256 << 10
"""Bytes of one read, in a buffer that all connections share: what is read is handed to OpenSSL at once."""

_TLS_HANDSHAKE = 0x16  # the first byte of every ClientHello
_TEXT = "this port speaks tensorwire over TLS alone: use tws:// in the address"
_LINE = b"This port speaks tensorwire over TLS (tws://). Use a tensorwire client: tensorwire.connect(url).\r\n"


class TlsLayer(asyncio.BufferedProtocol, asyncio.Transport):
    """The protocol of an accepted socket, and the transport of `above`, whose bytes it seals and opens."""

    def __init__(self, above: ConnectionTransport, context: ssl.SSLContext, buffer: memoryview) -> None:
        super().__init__()
        self._above = above
        self._buffer = buffer
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._begun = False
        self._established = False
        self._plain = False
        self._ended = False
        self._shut = False
        self._paused = False

    # -- from the socket -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin: the socket was accepted, the connection counts, and its time runs."""
        self._raw = cast("asyncio.Transport", transport)
        self._above.connection_made(self)  # guard: tls-handshake-timed

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - there is one buffer for all
        """Return where ciphertext goes."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take ciphertext that is there; once our side is closed, it is counted and thrown away."""
        if self._shut:
            self._above.buffer_updated(nbytes)
            return
        if not self._begun:
            self._begun = True
            if self._buffer[0] != _TLS_HANDSHAKE:  # guard: plaintext-to-tls
                self._no_tls(self._buffer[: min(nbytes, len(PREFACE))].tobytes())
                return
        self._incoming.write(self._buffer[:nbytes])
        if self._established or self._shake():
            self._pull()

    def eof_received(self) -> bool:
        """Pass it on that the peer has closed its side, with or without a word of TLS."""
        return self._above.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of everything, also what OpenSSL holds: the socket is gone."""
        self._shut = True
        self._above.connection_lost(exc)
        del self._tls, self._incoming, self._outgoing

    def pause_writing(self) -> None:
        """Pass it on that the kernel takes no more for now."""
        self._above.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on that the kernel has taken all."""
        self._above.resume_writing()

    # -- TLS -------------------------------------------------------------------------------------------------------

    def _no_tls(self, first: bytes) -> None:
        """Answer a peer that does not begin with TLS, in its own words or in ours, and end."""
        if PREFACE.startswith(first):
            self._plain = True  # so that CLOSE reaches it
        else:
            self._raw.write(_LINE)
        self._above.refuse("plaintext", ErrorCode.HANDSHAKE, _TEXT)

    def _shake(self) -> bool:
        """Go on with the handshake; true once it is over and the client's certificate, if any is wanted, will do."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._push()
            return False
        except ssl.SSLError as error:
            self._push()  # the alert, which tells the peer
            self._above.refuse("tls_handshake", ErrorCode.HANDSHAKE, f"TLS handshake: {_reason(error)}")
            return False
        self._established = True
        self._push()
        return self._above.secured(self._tls.getpeercert())

    def _pull(self) -> None:
        """Open what came and hand it on, as far as it is wanted now."""
        above = self._above
        try:
            while not self._paused and not self._shut and (self._incoming.pending or self._tls.pending()):
                filled = self._fill(above.get_buffer(-1))
                if filled:
                    above.buffer_updated(filled)
                elif not self._ended:
                    break  # the rest of a record is still to come
                if self._ended:
                    above.eof_received()
                    self._raw.close()
                    return
        except ssl.SSLError as error:
            # guard: tls-forged-bytes
            self._established = False  # no more can be said
            self._push()  # but for the alert
            above.refuse("tls", ErrorCode.INTERNAL, f"TLS: {_reason(error)}")
        else:
            self._push()

    def _fill(self, buffer: memoryview) -> int:
        """Read until `buffer` is full or nothing is left; how many bytes. OpenSSL gives one record at a time."""
        filled, size = 0, len(buffer)
        with suppress(ssl.SSLWantReadError):
            while filled < size and (self._incoming.pending or self._tls.pending()):
                nbytes = cast("int", self._tls.read(size - filled, cast("bytearray", buffer[filled:])))
                if not nbytes:
                    self._ended = True
                    break
                filled += nbytes
        return filled

    def _push(self) -> None:
        if self._outgoing.pending:
            self._raw.write(self._outgoing.read())

    # -- the transport of what stands above ------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Seal and send. What is said before there is TLS goes nowhere."""
        self.writelines((data,))

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """Seal and send several buffers."""
        if self._shut:
            return
        if self._plain:
            self._raw.writelines(list(list_of_data))
        elif self._established:  # guard: words-before-tls
            for data in list_of_data:
                sent = self._tls.write(data)
                while sent < len(data):  # one record at a time
                    sent += self._tls.write(memoryview(data)[sent:])
            self._push()

    def write_eof(self) -> None:
        """Say that no more follows, in TLS and to the kernel; what comes from now on is thrown away."""
        if self._shut:
            return
        self._shut = True
        if self._established:
            with suppress(ssl.SSLError):  # it wants to read the peer's answer, which we do not wait for
                self._tls.unwrap()
            self._push()
        self._raw.write_eof()

    def pause_reading(self) -> None:
        """Hand on nothing for now, and read nothing."""
        self._paused = True
        self._raw.pause_reading()

    def resume_reading(self) -> None:
        """Go on, first with what was read before."""
        self._paused = False
        self._raw.resume_reading()
        if self._incoming.pending or self._tls.pending():
            asyncio.get_running_loop().call_soon(self._pull_again)

    def _pull_again(self) -> None:
        if not self._shut:
            self._pull()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Do as the socket's own transport does."""
        self._raw.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        """Return the bytes that the kernel did not take, sealed."""
        return self._raw.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Do as the socket's own transport does."""
        return self._raw.get_extra_info(name, default)

    def is_closing(self) -> bool:
        """Tell whether the socket is closed or about to be."""
        return self._raw.is_closing()

    def close(self) -> None:
        """Close the socket when all is sent."""
        self._raw.close()

    def abort(self) -> None:
        """Close the socket at once; what was read and not handed on yet is dropped."""
        self._shut = True
        self._raw.abort()


def tls_connections(
    certificates: Certificates, make_protocol: Callable[[], ConnectionTransport]
) -> Callable[[], TlsLayer]:
    """Make the protocols of accepted sockets: each keeps the certificate that is current when it is accepted, to which
    the channel binding that `make_protocol` asks for belongs.
    """
    buffer = memoryview(bytearray(CIPHERTEXT_BYTES))
    return lambda: TlsLayer(make_protocol(), certificates.served.context, buffer)


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).lower().replace("_", " ")
