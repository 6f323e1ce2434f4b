"""Signed sessions for the attacks: honest ends with a key, what they say, and SPEC 11 once more, written from the page.

What lives here: ends, recordings, and the arithmetic of an insider who has a key and breaks other rules. What must
not: checks, and anything of tensorwire.protocol.signing.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tensorwire.protocol import (
    Authenticated,
    Closed,
    Config,
    Connection,
    ErrorCode,
    Event,
    FrameType,
    Limits,
    MessageAborted,
    Role,
    Status,
)
from tensorwire.protocol.handshake import pack_entries, parse_entries
from tensorwire.protocol.header import END_STREAM, HEADER, HEADER_SIZE
from tensorwire.protocol.limits import PREFACE
from tests.protocol.wiring import BOOT_ID, CLIENT_NONCE, CONNECTION_ID, READY, SERVER_NONCE, feed, wire_bytes

SUITES = ("hmac-sha256", "aes-256-gmac")
KEY_ID, SECRET = b"alice", bytes(range(0x40, 0x60))
MALLORY, MALLORYS = b"mallory", bytes(range(0x60, 0x80))
DUMMY = bytes(range(0x80, 0xA0))
LIMITS = Limits(chunk=16384, max_message=1 << 20)
LATE = 1000.0  # seconds: any handshake that has not ended is given up by then
MAC, NONCE, KEY_ID_ENTRY, PROOF = 6, 3, 7, 13  # entry types (SPEC 9.3)


def secret_of(key_id: bytes) -> tuple[bytes, bool]:
    """The keys that servers of this folder know; any other id has the dummy."""
    known = {KEY_ID: SECRET, MALLORY: MALLORYS}
    return (known[key_id], True) if key_id in known else (DUMMY, False)


class End:
    """One end of a connection with an owner that accepts, and keeps account of the memory that it gave.

    events: all so far. places: the memory of each unfinished body, by stream.
    """

    def __init__(self, connection_of: Callable[[End], Connection]) -> None:
        self.places: dict[int, memoryview] = {}
        self.events: list[Event] = []
        self.connection = connection_of(self)

    def reserve(self, *asked: object) -> memoryview:
        stream_id, size = asked[0], asked[-1]
        assert isinstance(stream_id, int)
        assert isinstance(size, int)
        assert stream_id not in self.places
        place = self.places[stream_id] = self.memory(size)
        return place

    def memory(self, size: int) -> memoryview:
        """Memory for one body."""
        return memoryview(bytearray(size))

    def feed(self, data: bytes, sizes: Iterable[int] = ()) -> list[Event]:
        """Give it bytes, each read cut to the next of `sizes`."""
        return [] if self.connection.closed else self._note(feed(self.connection, data, sizes))

    def end_of_stream(self) -> list[Event]:
        """The peer sends no more; the handshake, if it still waits, is given up."""
        return self._note(self.connection.receive_eof(0.0)) if not self.connection.closed else []

    def too_late(self) -> list[Event]:
        """So much time passes that nothing is still waited for."""
        return self._note(self.connection.handle_timeout(LATE))

    def said(self) -> bytes:
        """What it has to send."""
        return wire_bytes(self.connection)

    def _note(self, events: list[Event]) -> list[Event]:
        for event in events:
            if isinstance(event, Authenticated) and not self.connection.closed:
                self.connection.accept(READY)
            stream_id = getattr(event, "stream_id", 0)
            if isinstance(event, MessageAborted) or (getattr(event, "owned", False) and stream_id in self.places):
                del self.places[stream_id]
        self.events += events
        return events

    def has(self, kind: type[Event]) -> bool:
        """Whether it was told an event of this kind."""
        return any(isinstance(event, kind) for event in self.events)


def client(
    *macs: str, key_id: bytes = KEY_ID, secret: bytes = SECRET, nonce: bytes = CLIENT_NONCE, binding: bytes = b""
) -> End:
    """A client; without MACs one that has no key."""
    config = (
        Config(Role.CLIENT, limits=LIMITS, mac_algorithms=macs, key_id=key_id, secret=secret)
        if macs
        else Config(Role.CLIENT, limits=LIMITS, mac_algorithms=("none",))
    )
    return End(lambda end: Connection(config, nonce=nonce, now=0.0, reserve=end.reserve, binding=binding))


def server(
    *macs: str,
    keyless: bool = False,
    nonce: bytes = SERVER_NONCE,
    binding: bytes = b"",
    kind: type[End] = End,
) -> End:
    """A server that knows the keys of `secret_of`."""
    config = Config(Role.SERVER, limits=LIMITS, mac_algorithms=macs, keyless=keyless)
    return kind(
        lambda end: Connection(
            config,
            nonce=nonce,
            now=0.0,
            reserve=end.reserve,
            connection_id=CONNECTION_ID,
            boot_id=BOOT_ID,
            secret_of=secret_of,
            binding=binding,
        )
    )


# ---- frames and records as bytes ----


def plain(
    kind: int, meta: bytes = b"", body: bytes = b"", *, stream_id: int = 0, flags: int = 0, seq: int = 0
) -> bytes:
    """A frame."""
    return HEADER.pack(len(meta) + len(body), kind, 0, flags, stream_id, seq, 0, len(meta), 0, 0) + meta + body


def entries_of(frame: bytes) -> dict[int, bytes]:
    """The entries of a frame of the handshake."""
    return parse_entries(frame[HEADER_SIZE:])


def with_entries(frame: bytes, entries: dict[int, bytes]) -> bytes:
    """The same frame with other entries, whose lengths are true."""
    return plain(frame[4], pack_entries(sorted(entries.items())))


def frames_of(data: bytes) -> list[bytes]:
    """The frames that lie one behind the other."""
    found = []
    while data:
        size = HEADER_SIZE + HEADER.unpack_from(data)[0]
        found.append(data[:size])
        data = data[size:]
    return found


def records_of(data: bytes) -> list[bytes]:
    """The records that lie one behind the other, whole."""
    found = []
    while data:
        size = 4 + int.from_bytes(data[:4], "little") + 16
        found.append(data[:size])
        data = data[size:]
    return found


def flipped(data: bytes, bit: int) -> bytes:
    """The same bytes but for one bit."""
    changed = bytearray(data)
    changed[bit >> 3] ^= 1 << (bit & 7)
    return bytes(changed)


# ---- SPEC 11.3 to 11.6 ----


def _mac(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, hashlib.sha256).digest()


def _long(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data


def without_proof(frame: bytes) -> bytes:
    """The frame as it is hashed: 32 zero bytes in the place of PROOF."""
    entries = entries_of(frame)
    return with_entries(frame, entries | {PROOF: bytes(32)}) if PROOF in entries else frame


class Insider:
    """What somebody who has the secret can compute of a handshake; `hello` and `welcome` are frames."""

    def __init__(self, hello: bytes, welcome: bytes, secret: bytes = SECRET, binding: bytes = b"") -> None:
        self.hash = hashlib.sha256(
            PREFACE + _long(hello) + _long(without_proof(welcome)) + _long(binding)
        ).digest()  # fmt: skip
        self._prk = _mac(entries_of(hello)[NONCE] + entries_of(welcome)[NONCE], secret)

    def key(self, label: str) -> bytes:
        return _mac(self._prk, b"tensorwire 1 " + label.encode() + b"\0" + self.hash + b"\x01")

    def server_proof(self) -> bytes:
        return _mac(self.key("server proof"), self.hash)

    def auth(self, entries: dict[int, bytes] | None = None) -> bytes:
        """AUTH with the right proof."""
        entries = (entries or {}) | {PROOF: bytes(32)}
        frame = plain(FrameType.AUTH, pack_entries(sorted(entries.items())))
        return with_entries(frame, entries | {PROOF: _mac(self.key("client proof"), self.hash + _long(frame))})

    def sealer(self, suite: str, direction: str) -> Sealer:
        """For the records of `client` or `server`."""
        return Sealer(suite, self.key(f"{direction} record"))


@dataclass
class Sealer:
    """Makes records of whatever it is given, each with the right tag for its place."""

    suite: str
    key: bytes
    counter: int = 0

    def seal(self, frames: bytes, announced: int | None = None) -> bytes:
        """The record; `announced`: another length than the true one."""
        head = struct.pack("<I", len(frames) if announced is None else announced)
        counter = struct.pack("<Q", self.counter)
        self.counter += 1
        if self.suite == "hmac-sha256":
            return head + frames + _mac(self.key, counter + head + frames)[:16]
        chunk = b""
        if len(frames) >= HEADER_SIZE:
            length, kind, *_, meta_len, ext_len, _ = HEADER.unpack_from(frames)
            if kind == FrameType.DATA and not meta_len and not ext_len and length >= 16384:
                chunk = frames[HEADER_SIZE:] if HEADER_SIZE + length == len(frames) else b""
        rest = head + frames[: len(frames) - len(chunk)]
        return head + frames + AESGCM(self.key).encrypt(counter + bytes(4), rest, chunk)[-16:]


# ---- recordings ----


@dataclass
class Side:
    """What one side received in an honest session, piece by piece, and what it was told of each piece.

    fresh: makes an end that stands where this one stood before the first piece: same nonce, same calls.
    pieces: one frame of the handshake or one record each. truth: the events of each.
    """

    fresh: Callable[[], End]
    pieces: list[bytes] = field(default_factory=list)
    truth: list[list[Event]] = field(default_factory=list)

    @property
    def whole(self) -> bytes:
        """All bytes."""
        return b"".join(self.pieces)

    @property
    def last(self) -> Event:
        """The orderly end, which nobody may be told but by the whole session."""
        return self.truth[-1][-1]

    @property
    def signed(self) -> range:
        """The pieces that are records."""
        return range(2 if self.pieces[0].startswith(PREFACE) else 1, len(self.pieces))

    def events(self, count: int) -> list[Event]:
        """What the first `count` pieces say."""
        return [event for events in self.truth[:count] for event in events]

    def add(self, data: bytes) -> bytes:
        """Cut what was written into frames of the handshake and records, and keep them."""
        while data:
            if data.startswith(PREFACE):
                size = len(PREFACE) + HEADER_SIZE + HEADER.unpack_from(data, len(PREFACE))[0]
            elif not self.pieces or (len(self.pieces) == 1 and self.pieces[0].startswith(PREFACE)):
                size = HEADER_SIZE + HEADER.unpack_from(data)[0]
            else:
                size = len(records_of(data)[0])
            self.pieces.append(data[:size])
            data = data[size:]
        return b""


@dataclass
class Recording:
    """One session, as the server and as the client received it."""

    server: Side
    client: Side

    def side(self, name: str) -> Side:
        """By the name of who receives."""
        return self.server if name == "server" else self.client


class Conversation:
    """Two honest ends, and a note of all that goes over."""

    def __init__(self, ours: End, theirs: End, recording: Recording) -> None:
        self.ours, self.theirs, self.recording = ours, theirs, recording

    def flow(self) -> None:
        """Move bytes until both are quiet."""
        while True:
            up, down = self.ours.said(), self.theirs.said()
            self.recording.server.add(up)
            self.recording.client.add(down)
            self.theirs.feed(up)
            self.ours.feed(down)
            if not up and not down:
                return

    def finish(self) -> Recording:
        """Both say CLOSE as their last record; then what each side is told is noted from a second hearing."""
        self.ours.connection.close(ErrorCode.NO_ERROR, "goodbye")
        self.theirs.connection.close(ErrorCode.SHUTDOWN, "goodbye")
        self.recording.server.add(self.ours.said())
        self.recording.client.add(self.theirs.said())
        for side in (self.recording.server, self.recording.client):
            end = side.fresh()
            side.truth = [list(end.feed(piece)) for piece in side.pieces]
            assert isinstance(side.last, Closed)
            assert side.last.remote
            assert side.last.detail == "goodbye"
        return self.recording


CALLS = 14
BIG = {1: 70_000, 2: 81_920}  # bytes of each large body: the last chunk of one is short, that of the other full
_NONCES = (CLIENT_NONCE, SERVER_NONCE)


@cache
def small(suite: str, nonces: tuple[bytes, bytes] = _NONCES) -> Recording:
    """A session of 50 frames: unary calls, a conversation, cancel, ping, errors, an end on each side.

    The server does not ask for a PONG: a client owes none before READY, and the recording may be heard in one read.
    """

    def calling() -> End:
        end = client(suite, nonce=nonces[0])
        for number in range(CALLS):
            end.connection.open(b"m", b"", [bytes((number,))], 1)
        end.connection.open(b"m", b"", [], 0, flags=0)
        return end

    def serving() -> End:
        return server(suite, nonce=nonces[1])

    talk = Conversation(client(suite, nonce=nonces[0]), serving(), Recording(Side(serving), Side(calling)))
    ours, theirs = talk.ours.connection, talk.theirs.connection
    talk.flow()
    for number in range(CALLS):
        ours.open(b"m", b"", [bytes((number,))], 1)
        talk.flow()
    stream = ours.open(b"m", b"", [], 0, flags=0)
    talk.flow()
    for number in range(4):
        ours.send(stream, b"m", b"", [bytes((number,))], 1, flags=0)
        theirs.send(stream, b"m", b"", [bytes((number,))], 1, flags=0)
        talk.flow()
    for number in range(1, 5):
        theirs.send(number, b"m", b"", [b"reply"], 5)
        ours.ping(b"pingping")
        talk.flow()
    ours.cancel(5)
    talk.flow()
    theirs.end(5, Status.CANCELLED, "gone")
    theirs.end(6, Status.INTERNAL, "broken")
    talk.flow()
    theirs.send(7, b"m", b"", [b"one"], 3)  # two frames, one record
    theirs.send(8, b"m", b"", [b"two"], 3)
    ours.send(stream, b"m", b"", [], 0, flags=0)
    ours.send(stream, b"m", b"", [], 0, flags=END_STREAM)
    talk.flow()
    theirs.goaway(stream, ErrorCode.SHUTDOWN, "enough")
    talk.flow()
    theirs.send(stream, b"m", b"", [b"last"], 4)
    talk.flow()
    return talk.finish()


@cache
def large(suite: str) -> Recording:
    """Two calls, large each way, in chunks of 16,384, their records mixed."""

    def calling() -> End:
        end = client(suite)
        for number, size in BIG.items():
            end.connection.open(b"m", b"", [bytes((number,)) * size], size)
        return end

    talk = Conversation(client(suite), server(suite), Recording(Side(lambda: server(suite)), Side(calling)))
    talk.flow()
    for number, size in BIG.items():
        talk.ours.connection.open(b"m", b"", [bytes((number,)) * size], size)
    talk.flow()
    for number, size in BIG.items():
        talk.theirs.connection.send(number, b"m", b"", [bytes((number,)) * size], size)
    talk.flow()
    return talk.finish()
