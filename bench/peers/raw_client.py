"""The clients of the peers that carry bytes and understand none: raw echo, C epoll echo, blocking sockets.

A connection begins with the sizes of its requests and replies, and whether a reply is the request itself (big echoes)
or bytes that are ready (everything else, counted only). Nothing above the socket is paid for. Not here: servers.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any

from bench import native_tools, works
from bench.measure import Sample
from bench.works import Work, WrongReplyError

#: what our frames add to the tensor bytes of a small call: header, extension, metadata of a request and of a reply
REQUEST_FRAME, REPLY_FRAME = 162, 170
#: request bytes, reply bytes, 1 where the reply is the request
PREFACE = struct.Struct("<III")
#: works of every raw server; its Python client keeps many calls in flight only in B and C
RAW_WORKS = ("A", "B", "C", "D", "F")
RAW_CANNOT = {"E": "has no model and makes no batches"}


def message_sizes(work: Work) -> tuple[int, int, int]:
    """Return what the preface says. A big echo carries the tensor alone, so that request and reply are the same."""
    if work.model == "bytes":
        return work.request_bytes, work.reply_bytes, 1
    return work.request_bytes + REQUEST_FRAME, work.reply_bytes + REPLY_FRAME, 0


def pattern(size: int) -> bytes:
    """Return the bytes that a server has ready as its reply."""
    return bytes(range(256)) * (size // 256) + bytes(range(size % 256))


def payload(work: Work) -> bytes:
    """Return the bytes of one request."""
    return works.request(work).tobytes().ljust(message_sizes(work)[0], b"\0")


def check(work: Work, reply: Any) -> None:
    """Compare a reply, byte by byte."""
    _, size, echo = message_sizes(work)
    if reply != (payload(work) if echo else pattern(size)):
        raise WrongReplyError(f"work {work.key}: the {len(reply)} bytes of the reply are not the {size} expected ones")


def connect(address: str) -> socket.socket:
    """Connect without Nagle's delay."""
    host, port = address.split(":")
    sock = socket.create_connection((host, int(port)))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


@contextlib.contextmanager
def caller(work: Work, address: str, spin: bool = False) -> Iterator[Callable[[], memoryview]]:
    """A bare blocking socket: one send, receives until the reply is whole; ``spin``: without sleeping."""
    sizes = message_sizes(work)
    message, reply = payload(work), memoryview(bytearray(sizes[1]))
    size = len(reply)
    with connect(address) as sock:
        sock.sendall(PREFACE.pack(*sizes))

        def call() -> memoryview:
            sock.sendall(message)
            got = 0
            while got < size:
                if not (n := sock.recv_into(reply[got:])):
                    raise ConnectionResetError("the server closed the connection")
                got += n
            return reply

        def call_spinning() -> memoryview:
            sock.sendall(message)
            got = 0
            while got < size:
                with contextlib.suppress(BlockingIOError):
                    got += sock.recv_into(reply[got:], 0, socket.MSG_DONTWAIT)
            return reply

        yield call_spinning if spin else call


class RawClient(asyncio.BufferedProtocol):
    """One future a call, resolved in order. ``batched``: all writes of a turn of the loop leave together."""

    def __init__(self, work: Work, batched: bool) -> None:
        self.loop = asyncio.get_running_loop()
        self.buffer = memoryview(bytearray(1 << 18))
        self.sizes, self.payload, self.batched = message_sizes(work), payload(work), batched
        self.reply, self.got, self.queued = self.sizes[1], 0, 0
        self.first: bytearray | None = bytearray()
        self.waiting: deque[asyncio.Future[bytes]] = deque()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.transport.write(PREFACE.pack(*self.sizes))

    def connection_lost(self, exc: Exception | None) -> None:
        for future in self.waiting:
            if not future.done():
                future.set_exception(exc or ConnectionResetError("the server closed the connection"))

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.buffer

    def buffer_updated(self, n: int) -> None:
        if self.first is not None:  # only the first reply is looked at
            self.first += self.buffer[:n]
        calls, self.got = divmod(self.got + n, self.reply)
        for _ in range(calls):
            self.waiting.popleft().set_result(b"" if self.first is None else bytes(self.first[: self.reply]))
            self.first = None

    def call(self) -> asyncio.Future[bytes]:
        future = self.loop.create_future()
        self.waiting.append(future)
        if not self.batched:
            self.transport.write(self.payload)
            return future
        if not self.queued:
            self.loop.call_soon(self.flush)
        self.queued += 1
        return future

    def flush(self) -> None:
        self.transport.writelines([self.payload] * self.queued)
        self.queued = 0


@contextlib.asynccontextmanager
async def callers(
    work: Work, address: str, batched: bool = False
) -> AsyncIterator[list[Callable[[], asyncio.Future[bytes]]]]:
    """One protocol a connection."""
    host, port = address.split(":")
    loop = asyncio.get_running_loop()
    made = [
        await loop.create_connection(partial(RawClient, work, batched), host, int(port))
        for _ in range(work.connections)
    ]
    try:
        yield [client.call for _, client in made]
    finally:
        for transport, _ in made:
            transport.abort()


def native(work: Work, address: str, calls: int) -> Sample:
    """clients/c/load's raw-load, which checks the first reply of each connection itself."""
    request, reply, echo = message_sizes(work)
    options = ["--address", address, "--request", request, "--reply", reply, *(["--echo"] if echo else [])]
    numbers = ["--connections", work.connections, "--in-flight", work.in_flight // work.connections, "--calls", calls]
    return native_tools.load("raw-load", *options, *numbers)
