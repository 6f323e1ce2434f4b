"""The two ends of the stateful machine: a real `Connection` each, with its memory, its wire and a reader of that wire.

What lives here: what an owner must do (give memory, take it back, move bytes) and an independent reading of the frames
on the wire, by struct alone. What must not: rules and invariants; those are machine.py's.
"""

from __future__ import annotations

import random
import struct
from collections import deque
from collections.abc import Callable

from tensorwire.protocol import (
    Closed,
    Config,
    Connection,
    Event,
    Limits,
    Message,
    MessageAborted,
    Pong,
    Refusal,
    Role,
    Status,
)

HEADER = struct.Struct("<IBBHQIIIHH")
OPEN, DATA, END, CANCEL, CLOSE = 5, 6, 7, 8, 15
END_STREAM, MORE, WANT_TIMING = 1, 2, 4
PREFACE_SIZE = 8
POOL = 400_000
"""Bytes of big bodies that an end holds at once; above it messages are refused."""
LIMITS = Limits(
    chunk=16384, max_streams=8, max_message=140_000, handshake_timeout=4.0, ping_interval=5.0, ping_timeout=5.0
)
POISON = 0xEE
_SEED = random.Random(7).randbytes(1 << 20)


def body(up: bool, stream: int, seq: int, size: int) -> bytes:
    """The body of a message: bytes that no other message has at the same places."""
    at = (stream * 7919 + seq * 104_729 + up * 331) % (len(_SEED) - size)
    return _SEED[at : at + size]


class Memory:
    """The big bodies of one end: what was given, and that nobody writes to it once it came back."""

    def __init__(self) -> None:
        self.used = 0
        self.known: set[int] = set()  # streams that the owner has heard of by being asked for memory
        self._given: dict[int, deque[bytearray]] = {}
        self._back: list[bytearray] = []

    def reserve(self, stream: int, _f: int, _p: int, _a: int, _e: bytes, _m: bytes, size: int) -> memoryview | Refusal:
        """Memory for a body, or a refusal when the pool is used up."""
        if self.used + size > POOL:
            return Refusal(Status.RESOURCE_EXHAUSTED, "the pool is used up")
        self.known.add(stream)
        memory = bytearray(size)
        self._given.setdefault(stream, deque()).append(memory)
        self.used += size
        return memoryview(memory)

    def back(self, stream: int, filled: memoryview | None) -> None:
        """The oldest reservation of the stream comes back, filled or given up."""
        memory = self._given[stream].popleft()
        assert filled is None or filled.obj is memory, f"stream {stream}: the body is not in the memory given for it"
        self.used -= len(memory)
        memory[:] = bytes([POISON]) * len(memory)
        self._back.append(memory)

    def check(self) -> None:
        """Nothing was written to memory that had come back."""
        for memory in self._back:
            assert memory.count(POISON) == len(memory), "memory that was given back has been written to"
        self._back.clear()


class Tap:
    """Reads the frames that one end sends, as they leave it.

    complete: (stream, seq) of each message in the order in which their last bytes left. ended: streams whose terminal
    left. over: streams that their sender may send no chunk of any more.
    """

    def __init__(self, up: bool) -> None:
        self.up = up
        self.complete: list[tuple[int, int]] = []
        self.ended: set[int] = set()
        self.over: set[int] = set()
        self.closed = False
        self._skip = PREFACE_SIZE if up else 0
        self._rest = b""
        self._opened = 0
        self._seq: dict[int, int] = {}
        self._chunked: dict[int, bool] = {}  # stream -> END_STREAM of the message whose chunks are on the way
        self._cancelled: set[int] = set()

    def feed(self, data: bytes) -> None:
        """Bytes that leave the end."""
        data = self._rest + data
        at = self._skip
        while len(data) - at >= HEADER.size:
            length, kind, _, flags, stream, seq, *_ = HEADER.unpack_from(data, at)
            if len(data) - at < HEADER.size + length:
                break
            assert not self.closed, f"a frame of type {kind} after CLOSE"
            self._frame(kind, flags, stream, seq)
            at += HEADER.size + length
        self._skip = max(0, at - len(data))
        self._rest = data[at:]

    @property
    def within_a_frame(self) -> bool:
        """Whether the last frame is cut: an end may never stop there."""
        return bool(self._rest)

    def _frame(self, kind: int, flags: int, stream: int, seq: int) -> None:
        if kind == CLOSE:
            self.closed = True
        if not stream or kind not in {OPEN, DATA, END, CANCEL}:
            return
        assert stream not in self.ended, f"type {kind} on stream {stream} after its terminal"
        assert stream not in self._cancelled, f"type {kind} on stream {stream} after its CANCEL"
        if kind == OPEN:
            self._opened += 1
            assert (stream, seq) == (self._opened, 0), f"OPEN {stream} seq {seq}, expected {self._opened}"
        elif self.up:
            assert stream <= self._opened, f"type {kind} on stream {stream}, which is not open"
        if kind == CANCEL:
            self._cancelled.add(stream)
        elif kind == END:
            self.ended.add(stream)
        elif stream in self._chunked and kind == DATA:
            self._chunk(flags, stream, seq)
        else:
            expected = self._seq.get(stream, 0)
            assert seq == expected, f"stream {stream}: message {seq} where {expected} is due"
            self._seq[stream] = seq + 1
            if flags & MORE:
                self._chunked[stream] = bool(flags & END_STREAM)
            else:
                self._done(stream, seq, bool(flags & END_STREAM))

    def _chunk(self, flags: int, stream: int, seq: int) -> None:
        assert stream not in self.over, f"a chunk of stream {stream} was begun after its end was known"
        assert seq == self._seq[stream] - 1, f"stream {stream}: chunk of message {seq}"
        if not flags & MORE:
            last = self._chunked.pop(stream)
            assert last == bool(flags & END_STREAM), (
                f"stream {stream}: END_STREAM differs between first frame and chunk"
            )
            self._done(stream, seq, last)

    def _done(self, stream: int, seq: int, last: bool) -> None:
        self.complete.append((stream, seq))
        if last and not self.up:
            self.ended.add(stream)


class End:
    """One end: its connection, its memory, and the bytes that it sent and the other has not received yet."""

    def __init__(self, role: Role, now: float, buffer: memoryview) -> None:
        self.role = role
        self.memory = Memory()
        self.tap = Tap(up=role is Role.CLIENT)
        self.wire = bytearray()
        self.closed: Closed | None = None
        self.last_byte = now
        self.shaking = True  # the handshake is not done
        self.order = 0  # how far in the other's tap its messages have been dispatched
        self.pings = 0
        self.pongs = 0
        self._buffer = buffer
        self.connection = Connection(
            Config(role, limits=LIMITS),
            nonce=bytes(32),
            now=now,
            reserve=self.memory.reserve,
            receive_buffer=buffer,
            connection_id=b"" if role is Role.CLIENT else bytes(8),
            boot_id=b"" if role is Role.CLIENT else bytes(16),
        )

    def flush(self, budget: int) -> None:
        """What the end has to send goes on its wire."""
        before = self.connection.outbound_bytes
        buffers = self.connection.data_to_send(budget)
        assert bool(before) >= bool(buffers), "bytes were sent that outbound_bytes did not count"
        data = b"".join(buffers)
        self.tap.feed(data)
        assert not self.tap.within_a_frame, "data_to_send gave a part of a frame"
        self.wire += data

    def read(self, source: End, most: int, now: float, between: Callable[[], None] | None) -> list[Event]:
        """One read from the other's wire; `between` is what the owner does while the read is under way."""
        buffer = self.connection.next_buffer()
        size = min(most, len(buffer), len(source.wire))
        assert len(buffer), "next_buffer gave no room"
        assert self.connection.next_buffer() == buffer, "next_buffer is not idempotent"
        buffer[:size] = source.wire[:size]
        del source.wire[:size]
        if between is not None:
            between()
        if size:
            self.last_byte = now
        return self.connection.received(size, now)

    def poison(self) -> None:
        """Nothing of a connection lives in the receive buffer between its calls."""
        self._buffer[:] = _POISONED

    def take(self, event: Event, source: End) -> None:
        """What every owner does with an event: memory comes back, the order is that of the wire, Closed is the last."""
        assert self.closed is None, f"{event} after {self.closed}"
        if isinstance(event, Message):
            place = (event.stream_id, event.seq)
            assert place in source.tap.complete, f"{place} was dispatched before it was sent whole"
            at = source.tap.complete.index(place)
            assert at >= self.order, f"{place} was dispatched out of the order of the wire"
            self.order = at + 1
            if event.owned:
                self.memory.back(event.stream_id, event.body)
        elif isinstance(event, MessageAborted):
            self.memory.back(event.stream_id, None)
        elif isinstance(event, Pong):
            number = int.from_bytes(event.payload, "little")
            assert number == 0 or self.pongs < number <= self.pings, f"PONG {number} after {self.pongs}"
            self.pongs = number or self.pongs
        elif isinstance(event, Closed):
            self.closed = event


_POISONED = bytes([POISON]) * (1 << 18)
