"""Connections for the fuzz targets: each role brought to where the input wants it, by a real handshake.

What lives here: making, feeding and reading out a connection, and what holds of it whatever comes. What must not:
which bytes come.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from functools import cache
from typing import Any

from tensorwire.protocol import (
    Authenticated,
    Cancelled,
    Closed,
    Config,
    Connection,
    Ended,
    Event,
    GoAway,
    Limits,
    Message,
    MessageAborted,
    Pong,
    Ready,
    Refusal,
    Refused,
    Role,
    Status,
)
from tensorwire.protocol.limits import RECEIVE_BUFFER

from . import streams
from .streams import HEADER, PREFACE

LIMITS = Limits(chunk=16384, max_streams=4, max_message=1 << 20, max_control=4096, max_abuse=20)
NONCE = bytes(range(32))
READY = b"\x80"
POISON = b"\xee" * RECEIVE_BUFFER
BUFFER = memoryview(bytearray(RECEIVE_BUFFER))  # one for all connections, as in a server
POOL = 1 << 20  # bytes that one connection may hold in unfinished bodies
NOW = 1000.0
WELCOME, AUTH, CLOSE = 2, 3, 15
KEY_ID, SECRET = b"alice", bytes(range(0x40, 0x60))
Transcript = list[tuple[Any, ...]]


class Start(IntEnum):
    """Where a connection stands when the input begins."""

    FIRST_BYTE = 0
    HALF_WAY = 1  # server: before AUTH; client: before READY
    OPEN = 2
    CALLING = 3  # server: as OPEN; client: four calls are under way


class Peer:
    """One connection under test, its memory and what has come out of it."""

    def __init__(self, client: bool, most: int = POOL, *, config: Config | None = None, nonce: bytes = NONCE) -> None:
        self.most = most
        self.held: dict[int, list[int]] = {}
        self.seen: Transcript = []
        self.sent = bytearray()
        self.connection = Connection(
            config or Config(Role.CLIENT if client else Role.SERVER, limits=LIMITS),
            nonce=nonce,
            now=NOW,
            reserve=self._reserve,
            receive_buffer=BUFFER,
            connection_id=b"" if client else bytes(8),
            boot_id=b"" if client else bytes(16),
            secret_of=None if client else secret_of,
        )

    def _reserve(
        self, stream_id: int, _flags: int, _priority: int, _aux: int, _ext: bytes, _meta: bytes, length: int
    ) -> memoryview | Refusal:
        assert length <= LIMITS.max_message, f"a body of {length} bytes is above max_message"
        if length + sum(map(sum, self.held.values())) > self.most:
            return Refusal(Status.RESOURCE_EXHAUSTED, "no memory")
        self.held.setdefault(stream_id, []).append(length)
        return memoryview(bytearray(length))

    def feed(self, data: bytes, sizes: Iterable[int] = ()) -> list[Event]:
        """Give it bytes as a socket would, each read cut to the next of `sizes`; the events, told and released."""
        events: list[Event] = []
        reads = iter(sizes)
        view = memoryview(data)
        while view and not self.connection.closed:
            room = self.connection.next_buffer()
            assert len(room), "next_buffer gave no room"
            n = min(len(room), len(view), next(reads, len(view)))
            room[:n] = view[:n]
            view = view[n:]
            found = self.connection.received(n, NOW)
            for event in found:
                self._tell(event)
            events += found
            BUFFER[:] = POISON  # nothing of this connection may live in it between reads
        return events

    def _tell(self, event: Event) -> None:
        """Note an event by value, and give back the memory that it returns."""
        assert not (self.seen and self.seen[-1][0] == "closed"), f"{event} follows Closed"
        if isinstance(event, Message):
            if event.owned:
                self._release(event.stream_id, len(event.body))
            fields = (event.seq, event.flags, event.priority, event.aux, event.ext, event.meta, bytes(event.body))
            self.seen.append(("message", event.stream_id, *fields))
        elif isinstance(event, MessageAborted):
            self._release(event.stream_id, None)
            self.seen.append(("aborted", event.stream_id))
        elif isinstance(event, Closed):
            self.seen.append(("closed", int(event.code), event.remote))
        elif isinstance(event, Ended):
            said = (event.stream_id, int(event.status), event.not_started, event.detail, event.ext)
            self.seen.append(("ended", *said))
        elif isinstance(event, Refused):
            self.seen.append(("refused", event.stream_id, int(event.status)))
        elif isinstance(event, Cancelled):
            self.seen.append(("cancelled", event.stream_id))
        elif isinstance(event, GoAway):
            self.seen.append(("goaway", event.last_stream_id, int(event.code), event.detail))
        elif isinstance(event, Pong | Ready):
            self.seen.append((type(event).__name__, bytes(event.payload)))
        else:
            assert isinstance(event, Authenticated), f"an event of no documented kind: {event!r}"
            self.seen.append(("authenticated", event.hello.agent, event.hello.limits))

    def _release(self, stream_id: int, length: int | None) -> None:
        """Memory comes back once, and to the stream that it was reserved for."""
        lengths = self.held.get(stream_id)
        assert lengths, f"stream {stream_id} gives back memory that it does not have"
        assert length in (None, lengths[0]), f"stream {stream_id}: {length} bytes of body, {lengths[0]} were reserved"
        del lengths[0]

    def collect(self, budget: int = 1 << 20) -> None:
        """Take what it has to send."""
        while buffers := self.connection.data_to_send(budget):
            for buffer in buffers:
                self.sent += buffer

    def finish(self) -> None:
        """The peer's stream ends; then nothing is held, nothing more is reported, and what was sent is whole frames."""
        was_closed = self.connection.closed
        for event in self.connection.receive_eof(NOW):
            self._tell(event)
        assert self.connection.closed
        assert was_closed or self.seen[-1][0] == "closed", "the end of the stream was not reported"
        assert not any(self.held.values()), f"memory of streams {self.held} was never given back"
        assert self.connection.received(0, NOW) == []
        assert self.connection.receive_eof(NOW) == []
        self.collect()
        check_frames(opened(bytes(self.sent), self.connection.mac))


def secret_of(key_id: bytes) -> tuple[bytes, bool]:
    """The one key that servers know, and the dummy that nobody has."""
    return (SECRET, True) if key_id == KEY_ID else (bytes(32), False)


def opened(sent: bytes, mac: str) -> bytes:
    """What a connection has sent, as plain frames: with a MAC its records begin behind AUTH or WELCOME."""
    frames = streams.cut(sent)
    count = next((count for count, frame in enumerate(frames, 1) if frame[4] in {WELCOME, AUTH}), len(frames))
    if mac == "none" or count == len(frames):
        return sent
    plain = b"".join(frames[:count])
    for record in streams.records(sent[len(plain) :]):
        assert len(record) == 20 + int.from_bytes(record[:4], "little"), "a record that was sent is not whole"
        plain += record[4:-16]
    return plain


def check_frames(sent: bytes) -> None:
    """What a connection sends is its preface or whole frames, of types that exist, and nothing after CLOSE."""
    at = len(PREFACE) if sent.startswith(PREFACE) else 0
    if not at and sent.startswith((b"This port", b"HTTP/1.1 400")):
        return
    while at < len(sent):
        fields = HEADER.unpack_from(sent, at)
        at += HEADER.size + fields[0]
        assert at <= len(sent), "a frame that was sent is not whole"
        assert 1 <= fields[1] <= CLOSE, f"a frame of type {fields[1]} was sent"
        assert fields[7] + fields[8] <= fields[0]
        assert fields[1] != CLOSE or at == len(sent), "something was sent after CLOSE"


@cache
def greetings() -> tuple[bytes, bytes, bytes, bytes]:
    """What each side says before the first call: HELLO, WELCOME, AUTH, READY."""
    client, server = Peer(client=True), Peer(client=False)
    said = []
    for speaker, listener in ((client, server), (server, client), (client, server)):
        speaker.sent.clear()
        speaker.collect()
        said.append(bytes(speaker.sent))
        listener.feed(said[-1])
    server.connection.accept(READY)
    server.sent.clear()
    server.collect()
    client.feed(bytes(server.sent))
    assert client.connection.state == server.connection.state, "the prelude of the fuzz targets does not open"
    return said[0], said[1], said[2], bytes(server.sent)


def started(client: bool, start: Start, most: int = POOL) -> Peer:
    """A peer of this role, as far as `start` says."""
    peer = Peer(client, most)
    hello, welcome, auth, ready = greetings()
    if start is Start.FIRST_BYTE:
        return peer
    peer.feed(welcome if client else hello)
    if start is Start.HALF_WAY:
        return peer
    if client:
        peer.feed(ready)
    else:
        peer.feed(auth)
        peer.connection.accept(READY)
    if client and start is Start.CALLING:
        peer.connection.open(b"", b"", [], 0)
        peer.connection.open(b"", b"", [], 0, flags=0)
        peer.connection.open(b"", b"", [bytes(70_000)], 70_000)
        peer.connection.open(b"", b"", [], 0)
        peer.connection.cancel(4)
    return peer
