"""The reference: a uvloop BufferedProtocol that reads a known number of bytes and writes a known number back.

It carries the same number of bytes as our frames do, understands none of them, and its client is a bare socket (one in
flight) or an asyncio protocol with one future a call (many in flight). Nothing above the socket is paid for.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import struct
import time
from collections import deque

import uvloop

from bench.harness import Sample, announce, closed_loop
from bench.works import Work

NAME = "raw uvloop echo"
#: what our frames add to the tensor bytes of a small call: header, extension, metadata of a request and of a reply
REQUEST_FRAME, REPLY_FRAME = 162, 170


class Echo(asyncio.BufferedProtocol):
    """Answers ``reply`` bytes for every ``request`` bytes; both come in the first 8 bytes of a connection."""

    def __init__(self) -> None:
        self.buffer = memoryview(bytearray(1 << 18))
        self.request = self.got = 0
        self.reply = b""
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.buffer

    def buffer_updated(self, n: int) -> None:
        if not self.request:
            self.request, reply = struct.unpack_from("<II", self.buffer)
            self.reply = bytes(reply)
            n -= 8
        self.got += n
        calls, self.got = divmod(self.got, self.request)
        if calls:
            self.transport.writelines([self.reply] * calls)


def serve() -> None:
    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()[:2]
        announce(f"{host}:{port}")
        await server.serve_forever()

    uvloop.run(main())


def connect(address: str) -> socket.socket:
    host, port = address.split(":")
    sock = socket.create_connection((host, int(port)))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def sizes(work: Work) -> tuple[int, int]:
    return work.request_bytes + REQUEST_FRAME, work.reply_bytes + REPLY_FRAME


def one_in_flight(work: Work, address: str, calls: int, spin: bool = False) -> Sample:
    """Time a bare blocking socket: one send, receives until the reply is whole; ``spin``: without sleeping."""
    request, reply = sizes(work)
    payload, into = bytes(request), memoryview(bytearray(reply))
    with connect(address) as sock:
        sock.sendall(struct.pack("<II", request, reply))

        def call() -> None:
            sock.sendall(payload)
            got = 0
            while got < reply:
                got += sock.recv_into(into[got:])

        def call_spinning() -> None:
            sock.sendall(payload)
            got = 0
            while got < reply:
                with contextlib.suppress(BlockingIOError):
                    got += sock.recv_into(into[got:], 0, socket.MSG_DONTWAIT)

        return closed_loop(call_spinning if spin else call, calls, warmup=100)


class RawClient(asyncio.BufferedProtocol):
    """One future a call, resolved in order; all writes of a turn leave together, as in our asyncio client."""

    def __init__(self, request: int, reply: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.buffer = memoryview(bytearray(1 << 18))
        self.payload, self.reply, self.got = bytes(request), reply, 0
        self.waiting: deque[asyncio.Future[None]] = deque()
        self.queued = 0
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.transport.write(struct.pack("<II", len(self.payload), self.reply))

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.buffer

    def buffer_updated(self, n: int) -> None:
        calls, self.got = divmod(self.got + n, self.reply)
        for _ in range(calls):
            self.waiting.popleft().set_result(None)

    def call(self) -> asyncio.Future[None]:
        if not self.queued:
            self.loop.call_soon(self.flush)
        self.queued += 1
        future = self.loop.create_future()
        self.waiting.append(future)
        return future

    def flush(self) -> None:
        self.transport.writelines([self.payload] * self.queued)
        self.queued = 0


async def many_in_flight(work: Work, address: str, calls: int) -> Sample:
    host, port = address.split(":")
    request, reply = sizes(work)
    transport, client = await asyncio.get_running_loop().create_connection(
        functools.partial(RawClient, request, reply), host, int(port)
    )
    latencies: list[float] = []
    clock = time.perf_counter

    async def worker(count: int) -> None:
        for _ in range(count):
            before = clock()
            await client.call()
            latencies.append(clock() - before)

    begin = clock()
    await asyncio.gather(*(worker(calls // work.in_flight) for _ in range(work.in_flight)))
    elapsed = clock() - begin
    transport.close()
    return Sample(latencies, elapsed)


def measure(work: Work, address: str, calls: int) -> Sample:
    if work.in_flight == 1:
        return one_in_flight(work, address, calls)
    return uvloop.run(many_in_flight(work, address, calls))
