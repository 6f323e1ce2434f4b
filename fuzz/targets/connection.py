"""The connection without I/O, both roles: any bytes, however they are cut.

May be refused with: CLOSE and a Closed event. `received`, `receive_eof`, `next_buffer` and `data_to_send` raise
nothing; what the owner asks for at the wrong time raises LocalError.

Invariants:
- however the bytes are cut, the events, the end and what is sent are the same (texts of our own errors aside);
- Closed is the last event, once; after it further bytes give no event;
- each body that was given memory comes back exactly once, as a message or as aborted; no more than the pool is held;
- nothing of a connection lives in the receive buffer between two reads: it is overwritten after each;
- what is sent is whole frames and nothing follows CLOSE.

Input: 1 byte of mode, 1 byte n, n & 15 sizes of reads, then the stream with its runs (fuzz/streams.py). Mode: bit 0 the
role, bits 1-2 where it starts, bit 3 whether the owner answers, bit 4 whether memory is short.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import cycle, islice
from random import Random

from fuzz import streams, vectors
from fuzz.peers import LIMITS, NOW, READY, Peer, Start, Transcript, started
from fuzz.target import Havoc, Target
from tensorwire.protocol import Authenticated, ErrorCode, LocalError, Message, Role, State, Status

CLIENT, ANSWERS, SHORT = 1, 8, 16
MOST_READS = 256  # then the rest comes at once: a stream of 400,000 single bytes would only show Python's slowness
MORE = streams.HEADER.pack(8, 11, 0, 0, 0, 0, 0, 0, 0, 0) + bytes(8)  # a PING
BIG = bytes(70_000)


def check(data: bytes) -> None:
    if len(data) < 2:
        return
    mode, count = data[0], data[1] & 15
    sizes = [size + 1 if size < 128 else (size - 127) * 512 for size in data[2 : 2 + count]] or [1]
    stream = streams.expand(data[2 + count :])
    if mode & ANSWERS:
        _answered(mode, sizes, stream)
        return
    whole, split = _seen(mode, stream, []), _seen(mode, stream, sizes)
    assert whole == split, f"the events depend on how bytes are cut:\n{whole}\n{split}"


def _start(mode: int) -> Peer:
    return started(mode & CLIENT != 0, Start(mode >> 1 & 3), 100_000 if mode & SHORT else 1 << 20)


def _seen(mode: int, stream: bytes, sizes: list[int]) -> tuple[Transcript, bytes]:
    """Events and frames of one run without an owner's answers; the texts of our own CLOSE are left out."""
    peer = _start(mode)
    peer.feed(stream, islice(cycle(sizes), MOST_READS) if sizes else ())
    closed = peer.connection.closed
    peer.feed(MORE)
    if closed:
        count = len(peer.seen)
        assert peer.connection.received(0, NOW) == []
        assert len(peer.seen) == count
    peer.finish()
    sent = bytes(peer.sent)
    own_close = closed and not peer.seen[-1][2]
    frames = streams.cut(sent)
    return peer.seen, b"".join(frames[:-1]) if own_close and frames else sent


def _answered(mode: int, script: list[int], stream: bytes) -> None:
    """The owner answers what it is told, as the script says, between reads; every answer may come at a wrong time."""
    peer = _start(mode)
    acts = cycle(script)
    for piece in _pieces(stream, script):
        for event in peer.feed(piece):
            if isinstance(event, Authenticated) and peer.connection.state is State.READY:
                peer.connection.accept(READY)
            stream_id = event.stream_id if isinstance(event, Message) else next(acts) % 6
            _act(peer, next(acts) % 11, stream_id)
    peer.finish()


def _pieces(stream: bytes, script: list[int]) -> Iterator[bytes]:
    at = 0
    for size in islice(cycle(script), MOST_READS):
        if at >= len(stream):
            return
        yield stream[at : at + size]
        at += size
    yield stream[at:]


def _act(peer: Peer, number: int, stream_id: int) -> None:
    connection = peer.connection
    server = connection.role is Role.SERVER
    try:
        match number:
            case 0:
                connection.send(stream_id, b"", b"", [b"x"], 1)
            case 1:
                connection.send(stream_id, b"", b"", [b"x"], 1, flags=0)
            case 2:
                connection.send(stream_id, b"", b"", [BIG], len(BIG))
            case 3:
                connection.send(stream_id, b"", b"", [BIG], len(BIG), flags=0)
            case 4 if server:
                connection.end(stream_id, Status.INTERNAL, "failed")
            case 4:
                connection.cancel(stream_id)
            case 5:
                connection.ping(bytes(8))
            case 6 if server:
                connection.goaway(connection.last_stream_id, ErrorCode.SHUTDOWN)
            case 6:
                connection.open(b"", b"", [BIG], len(BIG))
            case 7:
                connection.close(ErrorCode.SHUTDOWN)
            case 8:
                for buffer in connection.data_to_send(20_000):
                    peer.sent += buffer
            case 9:
                peer.collect()
            case _:
                pass
    except LocalError:
        pass
    assert connection.open_streams <= LIMITS.max_streams or not server


@cache
def catalogue() -> tuple[bytes, ...]:
    """Every frame that the vectors receive."""
    frames = {frame for _, _, stream in vectors.sessions() for frame in streams.cut(stream)}
    return tuple(sorted(frame for frame in frames if len(frame) <= 2048))


def seeds() -> Iterator[bytes]:
    for client, is_open, stream in vectors.sessions():
        if len(stream) > 6000:
            continue
        for start in (Start.OPEN, Start.CALLING) if is_open else (Start.FIRST_BYTE,):
            yield bytes((client | start << 1, 3, 31, 0, 200)) + stream
            yield bytes((client | start << 1 | ANSWERS, 4, 31, 2, 8, 140)) + stream


def mutate(data: bytes, most: int, random: Random, havoc: Havoc) -> bytes:
    """A third of the time anything, else whole frames are moved about and given other fields."""
    if len(data) < 2 or random.random() < 0.35:
        return havoc(data, most)
    head = 2 + (data[1] & 15)
    start, stream = data[:head], data[head:]
    if random.random() < 0.15:
        start = bytes((random.randrange(32), random.randrange(16)))
        start += random.randbytes(start[1])
    return (start + streams.mutated(stream, most - len(start), random, havoc, catalogue()))[:most]


TARGET = Target(
    name="connection",
    check=check,
    seeds=seeds,
    dictionary=(streams.PREFACE, streams.RUN, MORE, *(streams.run(b"\0", times) for times in (16384, 65536, 65537))),
    max_bytes=4096,
    # Two runs of an expanded stream and its events, the pool of each, and the large replies of the owner.
    base_bytes=40 << 20,
    bytes_per_byte=1024,
    mutate=mutate,
)
