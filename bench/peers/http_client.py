"""Bare HTTP/1.1 clients for the peers that speak it: a fixed request head, and of the reply only status and length.

They favour the server: no HTTP library costs its caller as little. HTTP/1.1 has one call in flight on a connection, so
64 in flight are 64 connections. Also how a server that takes a port
rather than a socket says that it is ready.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator

import numpy as np

from bench import native_tools, works
from bench.harness import announce
from bench.measure import Sample
from bench.works import Array, Work

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
#: seconds that servers leave an idle connection open; uvicorn's own 5 are less than a round on a busy machine
KEEP_ALIVE = 120
#: what every peer here does, and why not the rest
HTTP_WORKS = ("A", "B", "C", "D", "E", "F")
HTTP_CANNOT = {
    "B.native.8": "HTTP/1.1 has one call in flight a connection: as B.native.1, on 64 connections",
    "C.native.1": "HTTP/1.1 has one call in flight a connection: see C.native.8",
    "E.64x1": "HTTP/1.1 has one call in flight a connection: see E.8x8, on 64 connections",
}


def head_of(work: Work, address: str) -> bytes:
    """Return the head of every request."""
    return (
        f"POST /{work.model} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/octet-stream\r\n"
        f"Content-Length: {work.request_bytes}\r\n\r\n"
    ).encode()


def reply_size(received: bytearray) -> tuple[int, int] | None:
    """Return where the body begins and its length, once the head is whole. Raises RuntimeError unless it is a 200."""
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return None
    found = LENGTH.search(received, 0, end + 2)
    if not received.startswith(b"HTTP/1.1 200") or found is None:
        status = bytes(received[:200]).partition(b"\r")[0].decode(errors="replace")
        raise RuntimeError(f"the server answered {status!r}, expected 200 with a content-length")
    return end + 4, int(found[1])


@contextlib.contextmanager
def caller(work: Work, address: str) -> Iterator[Callable[[], Array]]:
    """A blocking socket, kept alive; the body is received into its place."""
    array, head = works.request(work), head_of(work, address)
    body = array.data.cast("B")
    host, port = address.split(":")
    with socket.create_connection((host, int(port))) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def call() -> Array:
            sent = sock.sendmsg([head, body]) - len(head)
            if sent < len(body):
                sock.sendall(body[sent:])
            received = bytearray()
            while (size := reply_size(received)) is None:
                if not (part := sock.recv(1 << 16)):
                    raise ConnectionResetError("the server closed the connection")
                received += part
            start, length = size
            reply = bytearray(length)
            got = len(received) - start
            reply[:got] = received[start:]
            view = memoryview(reply)
            while got < length:
                if not (n := sock.recv_into(view[got:])):
                    raise ConnectionResetError("the server closed the connection")
                got += n
            return np.frombuffer(reply, np.float32)

        yield call


class HttpClient(asyncio.Protocol):
    """One call in flight."""

    def __init__(self, head: bytes, body: memoryview) -> None:
        self.head, self.body, self.received = head, body, bytearray()
        self.waiting: asyncio.Future[Array] | None = None
        self.loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_exception(exc or ConnectionResetError("the server closed the connection"))

    def data_received(self, data: bytes) -> None:
        self.received += data
        try:
            size = reply_size(self.received)
        except RuntimeError as error:
            self.finish(error)
            return
        if size is not None and len(self.received) - size[0] >= size[1]:
            self.finish(np.frombuffer(self.received, np.float32, size[1] // 4, size[0]))

    def finish(self, outcome: Array | Exception) -> None:
        """Answer the one call."""
        waiting, self.waiting, self.received = self.waiting, None, bytearray()
        if waiting is None or waiting.done():
            return
        if isinstance(outcome, Exception):
            waiting.set_exception(outcome)
        else:
            waiting.set_result(outcome)

    def call(self) -> asyncio.Future[Array]:
        self.waiting = self.loop.create_future()
        self.transport.writelines([self.head, self.body])
        return self.waiting


@contextlib.asynccontextmanager
async def callers(work: Work, address: str) -> AsyncIterator[list[Callable[[], asyncio.Future[Array]]]]:
    """As many connections as calls in flight: the load engine gives each caller one of them."""
    array, head = works.request(work), head_of(work, address)
    host, port = address.split(":")
    loop = asyncio.get_running_loop()
    made: deque[HttpClient] = deque()
    for _ in range(max(work.connections, work.in_flight)):
        _, client = await loop.create_connection(lambda: HttpClient(head, array.data.cast("B")), host, int(port))
        made.append(client)
    try:
        yield [client.call for client in made]
    finally:
        for client in made:
            client.transport.abort()


def native(work: Work, address: str, calls: int) -> Sample:
    """h2load with HTTP/1.1."""
    body = works.request(work).tobytes()
    header = ("-H", "content-type: application/octet-stream")
    return native_tools.h2load(f"http://{address}/{work.model}", body, calls, work.in_flight, 1, "--h1", *header)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def announce_when_ready(port: int) -> None:
    """Announce once the network answers: some fronts listen before their workers do. Returns at once."""
    request = b"POST /mlp HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 3136\r\n\r\n" + bytes(3136)

    def ask() -> None:
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)) as sock:
                sock.sendall(request)
                if sock.recv(64).startswith(b"HTTP/1.1 200"):
                    break
            time.sleep(0.1)
        announce(f"127.0.0.1:{port}")

    threading.Thread(target=ask, daemon=True).start()
