"""The micro benchmarks: what a call costs in each part of it, in instructions (``worker.py`` says what a case is).

What lives here: calls. What must not: counting, and the ends of the connection (``ends.py``).
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
import uvloop

from bench.micro.ends import Buffer, ClientEnd, MemoryTransport, ServerEnd, receive, serve
from bench.micro.worker import Case, End, Round
from tensorwire.clients import aio, aio_driver, blocking, blocking_dialler
from tensorwire.clients.aio_wire import Wire
from tensorwire.clients.url import Address
from tensorwire.codec import MetadataCache, TensorSpec, decode_metadata, dtype_by_name, encode_metadata
from tensorwire.protocol.header import HEADER
from tensorwire.protocol.records import SignedRecords
from tensorwire.protocol.signing import make_mac

CALLS = 512
BATCH = 32
"""Small calls in one read."""
IN_FLIGHT = 64
SMALL = {"x": np.ones((1, 16), np.float32)}
IMAGE = {"x": np.ones((1, 150_528), np.float32)}
"""602,112 bytes."""
BIG = {"x": np.ones((1, 4 << 20), np.float32)}
"""16 MiB."""


def small_call() -> Round:
    """One call in flight: 64 bytes there and back."""
    server = ServerEnd()
    client = ClientEnd(server)

    def run(end: End) -> None:
        core, link, written = client.core, client.link, server.written
        protocol, turn = server.protocol, server.loop.turn
        requests: list[bytes] = []
        end("", 1)
        for _ in range(CALLS):
            core.infer("echo", SMALL, "", None, False, 0, 0.0)
            requests.append(b"".join(link.data_to_send(0.0)))
        end("client: submit", CALLS)
        for request in requests:
            protocol.get_buffer(-1)[: len(request)] = request
            protocol.buffer_updated(len(request))
            turn()
        end("server: one call a read", CALLS)
        for reply in written:
            link.next_buffer()[: len(reply)] = reply
            link.received(len(reply), 0.0)
        end("client: reply", CALLS)
        written.clear()

    return run


def many_small_calls() -> Round:
    """Many calls in one read."""
    server = ServerEnd()
    client = ClientEnd(server)

    def run(end: End) -> None:
        core, link, written = client.core, client.link, server.written
        protocol, turn = server.protocol, server.loop.turn
        requests: list[bytes] = []
        for _ in range(CALLS // BATCH):
            for _ in range(BATCH):
                core.infer("echo", SMALL, "", None, False, 0, 0.0)
            requests.append(b"".join(link.data_to_send(0.0)))
        end("", 1)
        for request in requests:
            protocol.get_buffer(-1)[: len(request)] = request
            protocol.buffer_updated(len(request))
            turn()
        end(f"server: {BATCH} calls a read", CALLS)
        for reply in written:
            link.next_buffer()[: len(reply)] = reply
            link.received(len(reply), 0.0)
        end(f"client: {BATCH} replies a read", CALLS)
        written.clear()

    return run


def large_call(model: str, inputs: dict[str, Any], size: str, calls: int) -> Round:
    """One large call at a time; its bytes stay where they are (``ends.Pipe``)."""
    server = ServerEnd()
    client = ClientEnd(server)

    def run(end: End) -> None:
        core, link = client.core, client.link
        for _ in range(calls):
            end("", 1)
            core.infer(model, inputs, "", None, False, 0, 0.0)
            pieces: list[Buffer] = []
            while buffers := link.data_to_send(0.0):
                pieces += buffers
            end(f"client: submit {size}", 1)
            serve(server, pieces)
            end(f"server: {size}", 1)
            receive(link, server.take())
            end(f"client: reply to {size}", 1)

    return run


def header() -> Round:
    """The frame header, 32 bytes."""

    def run(end: End) -> None:
        pack, unpack = HEADER.pack, HEADER.unpack_from
        end("", 1)
        for number in range(CALLS):
            unpack(pack(162, 5, 0, 1, number, 0, 0, 72, 18, 0))
        end("header: pack and unpack", CALLS)

    return run


def records() -> Round:
    """The tag of one record: a small call's 162 bytes, and a chunk of 256 KiB."""
    chunk = bytes(262_144)

    def run(end: End) -> None:
        for name in ("hmac-sha256", "aes-256-gmac"):
            mac = make_mac(name, bytes(32))
            layer = SignedRecords(mac)
            frame = HEADER.pack(130, 5, 0, 1, 1, 0, 0, 48, 18, 0) + bytes(130)
            head = HEADER.pack(len(chunk), 6, 0, 2, 1, 0, 0, 0, 0, 0)
            end("", 1)
            for _ in range(CALLS):
                layer.seal([frame], len(frame))
            end(f"{name}: a record of 162 bytes", CALLS)
            for _ in range(BATCH):
                layer.seal([head, chunk], len(head) + len(chunk))
            end(f"{name}: a record of 256 KiB", BATCH)

    return run


def metadata() -> Round:
    """The metadata of a call: found, and worked out where it is new."""
    raw = encode_metadata("echo", "", [TensorSpec("x", dtype_by_name("float32"), (-1, -1))])
    cache = MetadataCache()
    specs = decode_metadata(raw).tensors

    def run(end: End) -> None:
        get = cache.get
        get(raw)
        end("", 1)
        for _ in range(CALLS):
            get(raw)
        end("metadata: found in the cache", CALLS)
        for _ in range(BATCH):
            decode_metadata(raw)
        end("metadata: verify and decode", BATCH)
        for _ in range(BATCH):
            encode_metadata("echo", "", specs)
        end("metadata: build", BATCH)

    return run


class CannedSocket:
    """A socket whose peer answers at once: every call gets the reply that the first one got from a real server."""

    def __init__(self, server: ServerEnd) -> None:
        self._server = server
        self._template = bytearray()
        self._size = 0
        self._stream_id = 0
        self._pending = b""

    def sendmsg(self, buffers: list[Buffer], ancillary: tuple[()] = (), flags: int = 0) -> int:
        size = 0
        for buffer in buffers:
            size += len(buffer)
        if not self._size:
            self._server_answers(buffers)
        return size

    def recv_into(self, buffer: memoryview, nbytes: int = 0, flags: int = 0) -> int:
        if not self._size:
            data, self._pending = self._pending, b""
            buffer[: len(data)] = data
            return len(data)
        self._stream_id += 1
        self._template[8:16] = self._stream_id.to_bytes(8, "little")
        buffer[: self._size] = self._template
        return self._size

    def learn(self) -> None:
        """From now on the last reply is the answer to everything."""
        self._size = len(self._template)

    def setsockopt(self, *arguments: object) -> None:
        return None

    def close(self) -> None:
        return None

    def _server_answers(self, buffers: list[Buffer]) -> None:
        serve(self._server, [b"".join(buffers)])
        answer = b"".join(self._server.take())
        self._pending += answer
        self._template = bytearray(answer)
        self._stream_id = int.from_bytes(answer[8:16], "little")


def blocking_call() -> Round:
    """The blocking client's ``infer``, all but the system calls."""
    canned = CannedSocket(ServerEnd())
    with patch.object(blocking_dialler, "dial", lambda address, timeout, still: canned):
        client = blocking.Client(Address("localhost", 1))
        client.wait_connected(10.0)
    client.infer("echo", SMALL)
    canned.learn()

    def run(end: End) -> None:
        infer = client.infer
        end("", 1)
        for _ in range(CALLS):
            infer("echo", SMALL)
        end("blocking client: infer", CALLS)

    return run


class CannedTransport(MemoryTransport):
    """A transport whose peer answers in the next turn: as often as there are requests in what was written, the reply
    that the first one got from a real server.
    """

    def __init__(self, server: ServerEnd, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._server = server
        self._loop = loop
        self._request = self._last = 0
        self._replies = np.empty((IN_FLIGHT, 0), np.uint8)
        self._ids = np.arange(1, IN_FLIGHT + 1, dtype=np.uint64)
        self.protocol: Any = None
        self.write = self._answer
        self.reply = b""

    def _answer(self, data: Buffer) -> None:
        if not self._request:
            self._last = len(data)
            serve(self._server, [data])
            self.reply = b"".join(self._server.take())
            self._loop.call_soon(self._deliver, self.reply)
            return
        count = len(data) // self._request
        self._replies[:, 8:16] = self._ids[:, None].view(np.uint8)
        self._ids += np.uint64(count)
        self._loop.call_soon(self._deliver, self._replies[:count].data.cast("B"))

    def _deliver(self, reply: Buffer) -> None:
        self.protocol.get_buffer(-1)[: len(reply)] = reply
        self.protocol.buffer_updated(len(reply))

    def learn(self) -> None:
        """From now on the last reply is the answer to everything."""
        self._request = self._last
        self._replies = np.tile(np.frombuffer(self.reply, np.uint8), (IN_FLIGHT, 1))
        self._ids += np.frombuffer(self.reply, np.uint64, 1, 8)


def asyncio_call() -> Round:
    """The asyncio client on uvloop, many calls in flight, all but the system calls."""
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    transport = CannedTransport(ServerEnd(), loop)

    class Driver(aio_driver.Driver):
        async def _open_transport(self) -> None:
            transport.protocol = Wire(self)
            transport.protocol.connection_made(transport)

    async def connected() -> aio.Client:
        client = aio.Client(Address("localhost", 1))
        await client.wait_connected(10.0)
        transport.written.clear()
        await client.infer("echo", SMALL)
        return client

    with patch.object(aio, "Driver", Driver):
        client = loop.run_until_complete(connected())
    transport.learn()

    async def worker(count: int) -> None:
        for _ in range(count):
            await client.infer("echo", SMALL)

    async def load() -> None:
        await asyncio.gather(*(worker(CALLS // IN_FLIGHT) for _ in range(IN_FLIGHT)))

    def run(end: End) -> None:
        end("", 1)
        loop.run_until_complete(load())
        end(f"asyncio client: infer, {IN_FLIGHT} in flight", CALLS)

    return run


CASES: dict[str, Case] = {
    "small": small_call,
    "batch": many_small_calls,
    "blocking": blocking_call,
    "asyncio": asyncio_call,
    "image": partial(large_call, "first", IMAGE, "602,112 bytes", 1),
    "big": partial(large_call, "echo", BIG, "16 MiB", 1),
    "header": header,
    "records": records,
    "metadata": metadata,
}
