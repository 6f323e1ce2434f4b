"""The attacker's side: a bare socket, frames made field by field, and no rule kept unless the attack needs it."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple, Self

from tensorwire.codec import FREE, TensorSpec, dtype_by_name, encode_metadata
from tensorwire.protocol import Config, Connection, FrameType, Role, pack_extension
from tensorwire.protocol.header import END_STREAM, HEADER, HEADER_SIZE, MORE
from tests.support.wire import TIMEOUT

SOAK = os.environ.get("TENSORWIRE_SOAK") == "1"
"""Whether the attacks are made at the size that is promised, which takes minutes each (make soak)."""

LIMIT = 3000 if SOAK else 120  # seconds for one test


def size(usual: int, whole: int) -> int:
    """How many: `whole` when soaking, else as many as a test of every day may take."""
    return whole if SOAK else usual


OPEN, DATA, END = int(FrameType.OPEN), int(FrameType.DATA), int(FrameType.END)
CANCEL, PING, CLOSE = int(FrameType.CANCEL), int(FrameType.PING), int(FrameType.CLOSE)
FLOAT = dtype_by_name("float32")
BYTES = dtype_by_name("uint8")


class Frame(NamedTuple):
    """One frame of the server."""

    kind: int
    flags: int
    stream_id: int
    aux: int
    meta: bytes

    @property
    def text(self) -> str:
        return self.meta.decode()


def frame(
    kind: int,
    *,
    length: int | None = None,
    priority: int = 0,
    flags: int = 0,
    stream_id: int = 0,
    seq: int = 0,
    aux: int = 0,
    meta_len: int | None = None,
    ext_len: int | None = None,
    reserved: int = 0,
    ext: bytes = b"",
    meta: bytes = b"",
    body: bytes = b"",
) -> bytes:
    """Any frame; lengths are true unless given."""
    length = len(ext) + len(meta) + len(body) if length is None else length
    meta_len = len(meta) if meta_len is None else meta_len
    ext_len = len(ext) if ext_len is None else ext_len
    header = HEADER.pack(length, kind, priority, flags, stream_id, seq, aux, meta_len, ext_len, reserved)
    return header + ext + meta + body


def dims(*sizes: int) -> bytes:
    """The value of a DIMS item."""
    return struct.pack(f"<{len(sizes)}Q", *sizes)


def metadata(model: str, name: str = "x", ndim: int = 2) -> bytes:
    """Metadata of one float32 tensor whose dimensions are all free."""
    return encode_metadata(model, "", [TensorSpec(name, FLOAT, (FREE,) * ndim)])


ECHO = metadata("echo")
ECHO_EXT = pack_extension(dims=dims(1, 4))
ECHO_BODY = struct.pack("<4f", 1, 2, 3, 4)


def call(stream_id: int, *, meta: bytes = ECHO, ext: bytes = ECHO_EXT, body: bytes = ECHO_BODY, **fields: int) -> bytes:
    """One small call; a good one unless told otherwise."""
    return frame(OPEN, flags=END_STREAM, stream_id=stream_id, ext=ext, meta=meta, body=body, **fields)


def big(stream_id: int, columns: int, *, rows: int = 1, model: str = "wide", aux: int = 0) -> bytes:
    """The first frame of a call whose body of rows x columns float32 comes in chunks."""
    ext = pack_extension(dims=dims(rows, columns), body_length=4 * rows * columns)
    return frame(OPEN, flags=END_STREAM | MORE, stream_id=stream_id, ext=ext, meta=metadata(model), aux=aux)


def chunk(stream_id: int, body: bytes, *, flags: int = MORE, seq: int = 0) -> bytes:
    """One chunk of a body."""
    return frame(DATA, flags=flags, stream_id=stream_id, seq=seq, body=body)


def service(stream_id: int, name: str, payload: bytes) -> bytes:
    """One service call."""
    meta = encode_metadata(name, "", [TensorSpec("payload", BYTES, (FREE,))])
    return call(stream_id, meta=meta, ext=pack_extension(dims=dims(len(payload))), body=payload)


def greeting() -> bytes:
    """Preface and HELLO of an honest client."""
    client = Connection(Config(role=Role.CLIENT), nonce=os.urandom(32), now=0.0)
    return b"".join(map(bytes, client.data_to_send()))


AUTH = frame(FrameType.AUTH)


class Raw:
    """A socket that has shaken hands, unless told not to."""

    def __init__(
        self, address: tuple[str, int], *, hands: bool = True, receive_buffer: int = 0, source: str = ""
    ) -> None:
        self.socket = socket.socket()
        self.socket.settimeout(TIMEOUT)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._buffer = b""
        try:
            if source:
                self.socket.bind((source, 0))
            self.socket.connect(address)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if hands:
                self.send(greeting() + AUTH)
                assert [self.receive().kind for _ in range(2)] == [FrameType.WELCOME, FrameType.READY]
        except BaseException:
            self.socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """All of it."""
        self.socket.sendall(data)

    def receive(self) -> Frame:
        """The server's next frame. Raises EOFError at the end."""
        length, kind, _, flags, stream_id, _, aux, meta_len, ext_len, _ = HEADER.unpack(self._read(HEADER_SIZE))
        rest = self._read(length)
        return Frame(kind, flags, stream_id, aux, rest[ext_len : ext_len + meta_len])

    def rest(self) -> list[Frame]:
        """Every frame until the server closes, which it must."""
        return list(self._until_end())

    def closed_with(self) -> Frame:
        """The CLOSE that the server ends with."""
        last = self.rest()[-1]
        assert last.kind == CLOSE
        return last

    def works(self, stream_id: int) -> bool:
        """Whether the connection still answers a good call; frames of other streams are passed over."""
        self.send(call(stream_id))
        while (answer := self.receive()).stream_id != stream_id:
            pass
        return answer.kind == DATA

    def reset(self) -> None:
        """Close with RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def _until_end(self) -> Iterator[Frame]:
        with suppress(EOFError, ConnectionResetError):
            while True:
                yield self.receive()

    def _read(self, count: int) -> bytes:
        while len(self._buffer) < count:
            piece = self.socket.recv(1 << 16)
            if not piece:
                raise EOFError
            self._buffer += piece
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken
