"""Small whole sessions as bytes, for what reads captures: made by both cores, so that they are what is really sent.

What lives here: (from the client, bytes) pairs in wire order. What must not: packets, files, checks.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tensorwire.codec import Encoder, Ready
from tensorwire.protocol import Config, Connection, ErrorCode, Limits, Role, Status, pack_extension
from tensorwire.protocol.header import END_STREAM, WANT_TIMING
from tensorwire.protocol.limits import NO_NEW_STREAMS

Piece = tuple[bool, bytes]

_TIMING = (12, 30, 0, 4, 150, 5, 210)
TRACE = bytes(range(25))
KEY_ID, SECRET = b"session", bytes(range(0x40, 0x60))


class Session:
    """A client and a server core; what they send is kept in order. With a `mac`, they sign."""

    def __init__(self, chunk: int = 16384, mac: str = "") -> None:
        limits = Limits(chunk=chunk)
        config = Config(Role.CLIENT, agent="session/1", limits=limits)
        allowed = Config(Role.SERVER, agent="session/1", limits=limits)
        if mac:
            config = replace(config, mac_algorithms=(mac,), key_id=KEY_ID, secret=SECRET)
            allowed = replace(allowed, mac_algorithms=(mac,), keyless=False)
        self.client = Connection(config, nonce=bytes(range(32)), now=0.0, reserve=_reserve)
        self.server = Connection(
            allowed,
            nonce=bytes(range(32, 64)),
            now=0.0,
            reserve=_reserve,
            connection_id=bytes.fromhex("5f0c1d2e3b4a5968"),
            boot_id=bytes(range(16)),
            secret_of=(lambda key_id: (SECRET, key_id == KEY_ID)) if mac else None,
        )
        self.encoder = Encoder()
        self.pieces: list[Piece] = []
        self.exchange()
        self.server.accept(Ready("anonymous", server_name="tensorwire", limits={"max_message": 1 << 30}).pack())
        self.exchange()

    def exchange(self) -> None:
        """Move bytes until both sides are quiet."""
        while self._move(True) or self._move(False):
            pass

    def _move(self, from_client: bool) -> bool:
        sender, receiver = (self.client, self.server) if from_client else (self.server, self.client)
        data = b"".join(bytes(buffer) for buffer in sender.data_to_send())
        if data:
            self.pieces.append((from_client, data))
        view = memoryview(data)
        while view and not receiver.closed:
            buffer = receiver.next_buffer()
            n = min(len(buffer), len(view))
            buffer[:n] = view[:n]
            view = view[n:]
            receiver.received(n, 0.0)
        return bool(data)

    def call(self, model: str, arrays: dict[str, object], *, flags: int = END_STREAM, deadline_us: int = 0) -> int:
        """Open a stream."""
        encoded = self.encoder.encode(model, "", arrays)
        ext = pack_extension(dims=encoded.dims, trace=TRACE if deadline_us else b"")
        buffers = [memoryview(buffer) for buffer in encoded.buffers]
        stream = self.client.open(encoded.meta, ext, buffers, encoded.body_length, flags, 1, deadline_us)
        self.exchange()
        return stream

    def answer(self, stream: int, model: str, arrays: dict[str, object], *, last: bool = True) -> None:
        """One message of the server."""
        encoded = self.encoder.encode(model, "1", arrays)
        ext = pack_extension(dims=encoded.dims, timing=_TIMING if last else None)
        buffers = [memoryview(buffer) for buffer in encoded.buffers]
        self.server.send(stream, encoded.meta, ext, buffers, encoded.body_length, END_STREAM if last else 0)
        self.exchange()


def _reserve(*arguments: object) -> memoryview:
    return memoryview(bytearray(int(str(arguments[-1]))))


def small_session(mac: str = "") -> list[Piece]:
    """Every built frame type, several streams, all kinds of tensors, an error, and an orderly end."""
    session = Session(mac=mac)
    x = np.arange(3, dtype=np.float32).reshape(1, 3)
    first = session.call("echo", {"x": x}, flags=END_STREAM | WANT_TIMING, deadline_us=250_000)
    session.answer(first, "echo", {"y": x * 2})
    second = session.call("words", {"t": np.array(["hi", "", "you"]), "n": np.int64(7)}, flags=0)
    session.answer(second, "words", {"y": np.zeros((0, 4), np.uint8)}, last=False)
    session.client.ping(b"12345678")
    session.exchange()
    session.client.cancel(second)
    session.exchange()
    session.server.end(second, Status.CANCELLED, "cancelled by the client")
    third = session.call("no\x1b[31m such\nmodel", {"x": x})
    refusal = pack_extension(timing=_TIMING, retry_after=1500, queue_estimate=2500)
    session.server.end(third, Status.NOT_FOUND, "no\x1b[31m such\nmodel", not_started=True, ext=refusal)
    session.exchange()
    session.server.goaway(NO_NEW_STREAMS, ErrorCode.SHUTDOWN, "draining")
    session.exchange()
    session.client.close(ErrorCode.NO_ERROR)
    session.exchange()
    return session.pieces


def big_session(nbytes: int = 602_112, chunk: int = 262_144, mac: str = "") -> list[Piece]:
    """A call and a reply whose bodies are chunked, with a small call between."""
    session = Session(chunk, mac)
    image = np.zeros((1, 3, nbytes // 12), np.float32)
    first = session.call("classifier", {"image": image})
    second = session.call("echo", {"x": np.zeros((1,), np.uint8)})
    session.answer(second, "echo", {"y": np.zeros((1,), np.uint8)})
    session.answer(first, "classifier", {"mask": image})
    session.client.close(ErrorCode.NO_ERROR)
    session.exchange()
    return session.pieces
