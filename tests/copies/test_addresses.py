"""Which memory tensor bytes go through: the caller's own on the way out, on the way in that which the socket filled.

Real clients and a real server that overwrites its receive buffer after every read. The server's own part, which is in
another process there, is looked at in this one.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import uvloop

import tensorwire
from bench.micro.ends import ClientEnd, Pipe, ServerEnd
from tensorwire.clients import aio, aio_driver, aio_wire, blocking_dialler
from tensorwire.clients.sockets import dial
from tests.copies.places import Span, covered, span
from tests.support.server import ServerProcess

Array = np.ndarray[Any, Any]
IMAGE, HUGE = 602_112, 64 << 20
POISON = 0xDB


class Watched:
    """What was handed to the system, and what it was asked to fill."""

    def __init__(self) -> None:
        self.sent: list[Span] = []
        self.filled: list[Span] = []
        self.shared: memoryview | None = None
        """The receive buffer of small frames: the first memory that was asked for."""

    def fills(self, buffer: memoryview, size: int) -> None:
        """So many bytes came into this buffer."""
        self.shared = buffer if self.shared is None else self.shared
        self.filled.append(span(buffer[:size]) if size else (0, 0))

    def poison(self) -> None:
        """Overwrite the receive buffer, as soon as nobody may look at it any more."""
        if self.shared is not None:
            self.shared[:] = bytes([POISON]) * len(self.shared)

    def forget(self) -> None:
        self.sent.clear()
        self.filled.clear()


class WatchedSocket:
    """A real socket of the blocking client. The receive buffer is poisoned before each next read."""

    def __init__(self, sock: socket.socket, watched: Watched) -> None:
        self._sock = sock
        self._watched = watched

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def sendmsg(self, buffers: list[Any], *arguments: Any) -> int:
        self._watched.sent += [span(buffer) for buffer in buffers]
        return self._sock.sendmsg(buffers, *arguments)

    def recv_into(self, buffer: memoryview, *arguments: Any) -> int:
        shared = self._watched.shared
        if shared is not None and span(buffer)[1] == span(shared)[1] and len(buffer) == len(shared):
            self._watched.poison()  # nothing of it is kept: the whole of it may be filled
        size = self._sock.recv_into(buffer, *arguments)
        self._watched.fills(buffer, size)
        return size


class WatchedWire(aio_wire.Wire):
    """A wire of the asyncio client that overwrites the receive buffer after every callback."""

    watched: Watched

    def get_buffer(self, sizehint: int) -> memoryview:
        self.buffer = super().get_buffer(sizehint)
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.watched.fills(self.buffer, nbytes)
        super().buffer_updated(nbytes)
        self.watched.poison()

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        watched = self.watched

        class Transport:
            def __getattr__(self, name: str) -> Any:
                return getattr(transport, name)

            def write(self, data: Any) -> None:
                watched.sent.append(span(data))
                transport.write(data)

            def writelines(self, buffers: list[Any]) -> None:
                watched.sent.extend(span(buffer) for buffer in buffers)
                transport.writelines(buffers)

        self._transport = Transport()  # type: ignore[assignment]


def tensor(nbytes: int) -> Array:
    return np.arange(nbytes // 4, dtype=np.float32).reshape(1, -1)


def blocking_calls(url: str, watched: Watched, inputs: list[Array]) -> list[Array]:
    """The replies of the blocking client; what is noted is of the last call."""

    def watched_dial(*arguments: Any) -> Any:
        return WatchedSocket(dial(*arguments), watched)

    with patch.object(blocking_dialler, "dial", watched_dial), tensorwire.connect(url) as client:
        replies = []
        for x in inputs:
            watched.forget()
            replies.append(client.infer("echo", {"x": x})["y"])
        noted = list(watched.sent), list(watched.filled)
        watched.poison()
    watched.sent, watched.filled = noted
    return replies


def asyncio_calls(url: str, watched: Watched, inputs: list[Array]) -> list[Array]:
    """The same of the asyncio client, on uvloop."""

    class Wire(WatchedWire):
        pass

    Wire.watched = watched

    async def run() -> list[Array]:
        async with await aio.connect(url) as client:
            replies = []
            for x in inputs:
                watched.forget()
                replies.append((await client.infer("echo", {"x": x}))["y"])
            noted = list(watched.sent), list(watched.filled)
        watched.sent, watched.filled = noted
        return replies

    with patch.object(aio_driver, "Wire", Wire), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())


CLIENTS = pytest.mark.parametrize("calls", [blocking_calls, asyncio_calls])


def url(server: ServerProcess) -> str:
    return "tw://{}:{}".format(*server.address)


@CLIENTS
@pytest.mark.parametrize("nbytes", [IMAGE, HUGE])
def test_a_large_tensor_is_sent_from_the_callers_memory_and_received_into_the_replys(
    poisoned_server: ServerProcess, calls: Any, nbytes: int
) -> None:
    watched = Watched()
    x = tensor(nbytes)
    *_, y = calls(url(poisoned_server), watched, [x, x])
    assert np.array_equal(y, x)
    assert covered(span(x), watched.sent) == nbytes, "every byte was handed over where the caller has it"
    assert covered(span(y), watched.filled) == nbytes, "every byte was received where the caller gets it"


@CLIENTS
def test_a_small_tensor_is_copied_out_of_the_receive_buffer(poisoned_server: ServerProcess, calls: Any) -> None:
    watched = Watched()
    x = tensor(1024)
    *_, y = calls(url(poisoned_server), watched, [x, x])
    assert np.array_equal(y, x)
    assert covered(span(y), watched.filled) == 0
    assert watched.shared is not None
    assert covered(span(y), [span(watched.shared)]) == 0


def test_the_blocking_client_hands_over_small_tensors_where_they_are(poisoned_server: ServerProcess) -> None:
    watched = Watched()
    x = tensor(1024)
    blocking_calls(url(poisoned_server), watched, [x, x])
    assert covered(span(x), watched.sent) == 1024


@CLIENTS
def test_nothing_returned_changes_when_the_receive_buffers_are_overwritten(
    poisoned_server: ServerProcess, calls: Any
) -> None:
    sizes = [4, 64, 1024, 65_536, 65_540, IMAGE, 4, 65_536, 1 << 20, 1024]
    inputs = [tensor(size) + index for index, size in enumerate(sizes)]
    watched = Watched()
    replies = calls(url(poisoned_server), watched, inputs)
    assert watched.shared is not None
    assert bytes(watched.shared[-16:]) == bytes([POISON]) * 16, "it was overwritten"
    for x, y in zip(inputs, replies, strict=True):
        assert np.array_equal(x, y)


@pytest.mark.parametrize("nbytes", [IMAGE, HUGE])
def test_the_models_input_is_the_slab_that_the_socket_filled(nbytes: int) -> None:
    server = ServerEnd()
    client = ClientEnd(server)
    seen: list[Span] = []
    core: Any = server.engines["echo"]._core

    def echo(inputs: dict[str, Array]) -> dict[str, Array]:
        seen.append(span(inputs["x"]))
        return {"y": inputs["x"]}

    core._executor._backend._model = echo
    for _ in range(2):
        client.core.infer("echo", {"x": tensor(nbytes)}, "", None, False, 0, 0.0)
        pieces: list[bytes | memoryview] = []
        while buffers := client.link.data_to_send(0.0):
            pieces += buffers
        filled: list[Span] = []
        pipe = Pipe(pieces)
        while pipe:
            buffer = server.protocol.get_buffer(-1)
            size = pipe.read_into(buffer)
            filled.append(span(buffer[:size]))
            server.protocol.buffer_updated(size)
            server.loop.turn()
        written = [span(buffer) for buffer in server.written]
        server.written.clear()
    assert covered(seen[-1], filled) == nbytes, "every byte of the input is where the socket put it"
    assert covered(seen[-1], written) == nbytes, "and leaves from there, since the model gave it back as it is"
