"""A signed session with somebody in the middle who has no key: the recorded bytes in any order, changed in any way.

May be refused with: CLOSE and a Closed event, as the connection; `received` and `receive_eof` raise nothing.

Invariants:
- whatever comes, the events are the first of those that were really sent, in their order, and then at most the end of
  the connection: nothing else is ever told, no message that was changed, moved or repeated;
- the orderly end is told only of the whole session, byte for byte; before signing, anybody can say CLOSE;
- however the bytes are cut, the events are the same (codes of our own errors aside), and all memory comes back.

Input: 1 byte of mode, 1 byte n, n & 15 sizes of reads, then the stream with its runs (fuzz/streams.py). Mode: bit 0 the
role, bit 1 the MAC, bit 2 large bodies, bit 3 whether the handshake is over before.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import cycle, islice
from random import Random

from fuzz import keyed, streams
from fuzz.peers import Peer, Transcript
from fuzz.target import Havoc, Target

CLIENT, GMAC, LARGE, BEGUN = 1, 2, 4, 8
MOST_READS = 64


def check(data: bytes) -> None:
    if len(data) < 2:
        return
    mode, count = data[0], data[1] & 15
    sizes = [size + 1 if size < 128 else (size - 127) * 512 for size in data[2 : 2 + count]] or [1]
    stream = streams.expand(data[2 + count :])
    recorded = _recorded(mode)
    truth = recorded.seen if mode & CLIENT else recorded.served
    whole, split = _seen(mode, stream, []), _seen(mode, stream, sizes)
    assert whole == split, f"the events depend on how bytes are cut:\n{whole}\n{split}"
    told = [event for event in whole if event[0] != "aborted"]
    *before, end = told
    assert end[0] in {"closed", "refused"}
    assert before == truth[: len(before)], f"what was never sent was told: {before}"
    pieces = recorded.down if mode & CLIENT else recorded.up
    honest = b"".join(pieces[_greeting(mode) :] if mode & BEGUN else pieces)
    hint = not before and not mode & BEGUN
    assert end != truth[-1] or hint or stream.startswith(honest), "an orderly end was told that was not said"


def _recorded(mode: int) -> keyed.Recorded:
    return keyed.recorded(keyed.MACS[mode & GMAC and 1], mode & LARGE != 0)


def _greeting(mode: int) -> int:
    """Pieces of the handshake that this role hears: HELLO and AUTH, or WELCOME."""
    return 1 if mode & CLIENT else 2


def _seen(mode: int, stream: bytes, sizes: list[int]) -> Transcript:
    mac = keyed.MACS[mode & GMAC and 1]
    peer: Peer = keyed.caller(mac, mode & LARGE != 0) if mode & CLIENT else keyed.server_of(mac, mode & LARGE != 0)
    if mode & BEGUN:
        recorded = _recorded(mode)
        for piece in (recorded.down if mode & CLIENT else recorded.up)[: _greeting(mode)]:
            peer.feed(piece)
    peer.feed(stream, islice(cycle(sizes), MOST_READS) if sizes else ())
    peer.finish()
    *before, end = peer.seen
    return [*before, end if end[2] else ("refused",)]  # a chunk's header may be refused before its tag is


@cache
def catalogue() -> tuple[bytes, ...]:
    """Pieces to put in: of both directions, both MACs, and another session with the same key."""
    pieces: set[bytes] = set()
    for mac in keyed.MACS[:2]:
        for large in (False, True):
            for recorded in (keyed.recorded(mac, large), keyed.recorded(mac, large, again=True)):
                pieces |= {keyed.packed(piece) for piece in (*recorded.up, *recorded.down)}
    return tuple(sorted(pieces))


def seeds() -> Iterator[bytes]:
    for mode in range(16):
        recorded = _recorded(mode)
        pieces = recorded.down if mode & CLIENT else recorded.up
        stream = keyed.packed(b"".join(pieces[_greeting(mode) :] if mode & BEGUN else pieces))
        yield bytes((mode, 3, 31, 0, 200)) + stream
        yield bytes((mode, 0)) + stream[:-1]


def mutate(data: bytes, most: int, random: Random, havoc: Havoc) -> bytes:
    """A quarter of the time anything, else records are moved, repeated, left out, changed in one place or put in."""
    if len(data) < 2 or random.random() < 0.25:
        return havoc(data, most)
    head = 2 + (data[1] & 15)
    start, stream = data[:head], data[head:]
    if random.random() < 0.1:
        start = bytes((random.randrange(16), random.randrange(16)))
        start += random.randbytes(start[1])
    pieces = _pieces(start[0], stream) or [random.choice(catalogue())]
    for _ in range(random.randint(1, 2)):
        at = random.randrange(len(pieces))
        match random.randrange(7):
            case 0:
                pieces.insert(at, random.choice(catalogue()))
            case 1:
                pieces[at] = random.choice(catalogue())
            case 2 if len(pieces) > 1:
                del pieces[at]
            case 3:
                pieces.insert(at, random.choice(pieces))
            case 4:
                other = random.randrange(len(pieces))
                pieces[at], pieces[other] = pieces[other], pieces[at]
            case 5 if pieces[at]:
                changed = bytearray(pieces[at])
                changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
                pieces[at] = bytes(changed)
            case _:
                pieces[at] = havoc(pieces[at], len(pieces[at]) + 32) if pieces[at] else b"\0"
    return (start + b"".join(pieces))[:most]


def _pieces(mode: int, stream: bytes) -> list[bytes]:
    """The stream in pieces: the handshake's frames, if they are to come, then records."""
    if mode & BEGUN:
        return streams.records(stream)
    frames = streams.cut(stream)
    count = 1 if mode & CLIENT else 3  # the preface is one
    plain = b"".join(frames[:count])
    return [*frames[:count], *streams.records(stream[len(plain) :])]


TARGET = Target(
    name="signed",
    check=check,
    seeds=seeds,
    dictionary=(streams.PREFACE, streams.RUN, *(size.to_bytes(4, "little") for size in (31, 32, 40, 16416, 65537))),
    max_bytes=4096,
    base_bytes=40 << 20,
    bytes_per_byte=1024,
    mutate=mutate,
)
