"""The reference: a uvloop BufferedProtocol that reads a known number of bytes and writes a known number back.

It carries as many bytes as our frames do and understands none of them. A small reply is bytes that were ready before;
a big echo is received whole and sent back; the bytes of an image go through a receive buffer of BUFFER bytes.
"""

from __future__ import annotations

import asyncio
from functools import partial

import uvloop

from bench.harness import announce

from .raw_client import PREFACE, RAW_CANNOT, RAW_WORKS, caller, callers, check, native, pattern

__all__ = ["CANNOT", "WORKS", "caller", "callers", "check", "native", "serve"]

WORKS, CANNOT = (*RAW_WORKS, "O", "S"), RAW_CANNOT
#: bytes of a connection's receive buffer: what uvloop hints at, and what the targets were measured against
BUFFER = 1 << 16


class Echo(asyncio.BufferedProtocol):
    """Answers every request of a connection in the sizes that its preface gives."""

    def __init__(self, buffer: int) -> None:
        self.buffer = memoryview(bytearray(buffer))
        self.request = self.got = 0
        self.echo = False
        self.reply = b""
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.buffer[self.got :] if self.echo else self.buffer

    def buffer_updated(self, n: int) -> None:
        if not self.request:
            n = self.start(n)
        self.got += n
        if self.echo:
            if self.got == self.request:  # one is in flight: the buffer is free again once its reply was read
                self.got = 0
                self.transport.write(self.buffer)
            return
        calls, self.got = divmod(self.got, self.request)
        if calls:
            self.transport.writelines([self.reply] * calls)

    def start(self, n: int) -> int:
        """Take the preface; return how many bytes came after it."""
        self.request, reply, echo = PREFACE.unpack_from(self.buffer)
        self.reply, self.echo = pattern(reply), bool(echo)
        rest = bytes(self.buffer[PREFACE.size : n])
        if self.echo:
            self.buffer = memoryview(bytearray(self.request))
            self.buffer[: len(rest)] = rest
        return len(rest)


def serve(buffer: int = BUFFER) -> None:
    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(partial(Echo, buffer), "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()[:2]
        announce(f"{host}:{port}")
        await server.serve_forever()

    uvloop.run(main())
