"""The handshake with keys, both roles: HELLO, WELCOME, AUTH and READY of somebody without the key, and of an insider.

May be refused with: CLOSE and a Closed event, as the connection; `received` and `receive_eof` raise nothing.

Invariants:
Of somebody without the key:
- a server never authenticates a client, but one that said exactly what was recorded of an honest one, or, where it
  takes clients without a key, one that named none and no tags were agreed on;
- a client never takes a server for ready, but one that said exactly what was recorded (READY itself is signed only with
  a MAC); nothing is dispatched at a server that has not authenticated.
Of an insider, whose every proof and tag is right whatever else he says:
- what is accepted was offered: the MAC and the key are those of HELLO and WELCOME as they stand in the bytes;
- what the two would compute from the bytes is what the connection computed: its own proofs are right.
Of both: however the bytes are cut, the events are the same.

Input: 1 byte of mode, 1 byte n, n & 15 sizes of reads, then the peer's frames. Mode: bit 0 the role, bit 1 insider, bit
2 permissive (all MACs, no key needed), bits 3-4 the MAC.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import cycle, islice
from random import Random

from fuzz import keyed, streams
from fuzz.peers import KEY_ID, READY, WELCOME, Peer, Transcript
from fuzz.target import Havoc, Target
from tensorwire.protocol import FrameType, ProtocolError, State
from tensorwire.protocol.frame_builder import control_frame
from tensorwire.protocol.handshake import MAC_NAMES, pack_entries, parse_entries
from tensorwire.protocol.header import HEADER_SIZE
from tensorwire.protocol.limits import PREFACE

CLIENT, INSIDER, PERMISSIVE = 1, 2, 4
MOST_READS = 64
MAC, KEY = 6, 7  # entry types


def check(data: bytes) -> None:
    if len(data) < 2:
        return
    mode, count = data[0], data[1] & 15
    sizes = [size + 1 for size in data[2 : 2 + count]] or [1]
    stream = data[2 + count :]
    if mode & INSIDER:
        whole, split = _insider(mode, stream, []), _insider(mode, stream, sizes)
    else:
        whole, split = _stranger(mode, stream, []), _stranger(mode, stream, sizes)
    assert whole == split, f"the events depend on how bytes are cut:\n{whole}\n{split}"


def _mac(mode: int) -> str:
    return keyed.MACS[(mode >> 3 & 3) % 3]


def _peer(mode: int) -> Peer:
    mac = _mac(mode)
    macs = (mac, *(other for other in keyed.MACS if other != mac)) if mode & PERMISSIVE else (mac,)
    peer = keyed.keyed(mode & CLIENT != 0, macs, keyless=mode & PERMISSIVE != 0)
    peer.collect()
    return peer


def _feed(peer: Peer, data: bytes, sizes: list[int]) -> None:
    peer.feed(data, islice(cycle(sizes), MOST_READS) if sizes else ())


def _stranger(mode: int, stream: bytes, sizes: list[int]) -> Transcript:
    peer = _peer(mode)
    _feed(peer, stream, sizes)
    kinds = [event[0] for event in peer.seen]
    mac = peer.connection.mac
    if not {"Ready", "authenticated"} & set(kinds):
        assert not set(kinds) - {"closed"}, f"{kinds} before anybody was authenticated"
    elif mode & CLIENT:
        said = b"".join(_honest(mode)[1])
        assert stream.startswith(said), "a client took a server without the key for ready"
        assert mac == "none" or _ready_is(stream[len(said) :], mode), "READY was not signed"
    else:
        keyless = mode & PERMISSIVE and mac == "none" and KEY not in _entries_of(_first(stream))
        honest = any(stream.startswith(b"".join(_honest(mode & 7 | number << 3)[0])) for number in range(3))
        assert keyless or honest, "a client without the key was authenticated"
    peer.finish()
    return peer.seen


def _insider(mode: int, stream: bytes, sizes: list[int]) -> Transcript:
    """The frames of the stream, each PROOF mended, and behind the handshake records with right tags."""
    peer = _peer(mode)
    frames = [frame for frame in streams.cut(stream) if frame != PREFACE]
    client = mode & CLIENT != 0
    if client:
        hello = streams.cut(bytes(peer.sent))[1]
        welcome = frames[0] if frames else b""
        rest = frames[1:]
    else:
        hello = frames[0] if frames else b""
        _feed(peer, PREFACE + hello, sizes)
        peer.collect()
        welcome = bytes(peer.sent)
        rest = frames[1:]
    keys = keyed.schedule(hello, welcome) if welcome[4:5] == bytes((WELCOME,)) else None
    if keys is None:
        peer.finish()
        return peer.seen
    if client:
        _feed(peer, keyed.proven(welcome, keys), sizes)
    else:
        assert keyed.proven(welcome, keys) == welcome, "the server's own proof is wrong"
        said = bool(rest) and rest[0][4:5] == bytes((FrameType.AUTH,))
        _feed(peer, keyed.proven(rest.pop(0) if said else keyed.auth_frame(), keys), sizes)
    _check_agreed(peer, mode, hello, welcome)
    peer.sent.clear()
    peer.collect()
    if client and peer.connection.state is State.READY:
        auth = streams.cut(bytes(peer.sent))[0]
        assert keyed.proven(auth, keys) == auth, "the client's own proof is wrong"
    _feed(peer, keyed.sealed(keys, peer.connection.mac, not client, b"".join(rest)), sizes)
    peer.connection.receive_eof(0.0)
    return peer.seen


def _check_agreed(peer: Peer, mode: int, hello: bytes, welcome: bytes) -> None:
    """What a connection that goes on believes stands in the bytes."""
    connection = peer.connection
    if connection.closed or connection.state < State.AUTH:
        return
    offered, chosen = _entries_of(hello), _entries_of(welcome)
    assert MAC_NAMES[chosen[MAC][0]] == connection.mac
    assert chosen[MAC] in [offered[MAC][at : at + 1] for at in range(len(offered[MAC]))], "a MAC that was not offered"
    assert connection.mac in connection.config.mac_algorithms
    assert connection.config.version_min <= connection.version <= connection.config.version_max
    if not mode & CLIENT and any(event[0] == "authenticated" for event in peer.seen):
        assert offered.get(KEY) == KEY_ID, "somebody was authenticated for a key that is none"


def _first(stream: bytes) -> bytes:
    """The first frame."""
    frames = streams.cut(stream)
    return frames[1] if len(frames) > 1 and frames[0] == PREFACE else (frames or [b""])[0]


def _entries_of(frame: bytes) -> dict[int, bytes]:
    try:
        return parse_entries(frame[HEADER_SIZE:])
    except ProtocolError:
        return {}


@cache
def _honest(mode: int) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    """What the two say to each other before READY, with this configuration of the one under test."""
    mac = _mac(mode)
    macs = (mac, *(other for other in keyed.MACS if other != mac)) if mode & PERMISSIVE else (mac,)
    client = _peer(mode) if mode & CLIENT else keyed.keyed(True, (mac,))
    server = keyed.keyed(False, macs if not mode & CLIENT else (mac,), keyless=bool(mode & PERMISSIVE))
    client.collect()
    hello = bytes(client.sent)
    server.feed(hello)
    server.collect()
    welcome = bytes(server.sent)
    client.sent.clear()
    client.feed(welcome)
    client.collect()
    return (hello, bytes(client.sent)), (welcome,)


def _ready_is(rest: bytes, mode: int) -> bool:
    """Whether these bytes begin with the record of the honest server's READY."""
    hello, welcome = _honest(mode)[0][0][len(PREFACE) :], _honest(mode)[1][0]
    keys = keyed.schedule(hello, welcome)
    assert keys is not None
    ready = control_frame(FrameType.READY, meta=READY)
    return rest.startswith(keyed.sealed(keys, _mac(mode), False, ready))


def seeds() -> Iterator[bytes]:
    for mode in range(24):
        up, down = _honest(mode)
        ready = control_frame(FrameType.READY, meta=READY)
        opened = streams.HEADER.pack(2, 5, 0, 1, 1, 0, 0, 1, 0, 0) + b"mb"
        stream = b"".join(down) + ready if mode & CLIENT else b"".join(up) + opened
        yield bytes((mode, 3, 31, 0, 100)) + stream
    for mode in (0, 4, 2, 6):  # a client without a key
        hello = _entries_of(_first(_honest(mode)[0][0]))
        hello = {kind: value for kind, value in hello.items() if kind != KEY} | {MAC: b"\0"}
        yield bytes((mode, 0)) + PREFACE + _frame(FrameType.HELLO, hello) + control_frame(FrameType.AUTH)


def _frame(kind: int, entries: dict[int, bytes]) -> bytes:
    return control_frame(kind, meta=pack_entries(sorted(entries.items())))


VALUES = (b"", b"\0", b"\1", b"\2", b"\0\1\2", b"\1\0\1\0", b"\1\0\2\0", bytes(16), bytes(32), KEY_ID, b"nobody")


def mutate(data: bytes, most: int, random: Random, havoc: Havoc) -> bytes:
    """A quarter of the time anything, else the entries of one frame are changed and its lengths made true."""
    if len(data) < 2 or random.random() < 0.25:
        return havoc(data, most)
    head = 2 + (data[1] & 15)
    start, stream = data[:head], data[head:]
    if random.random() < 0.15:
        start = bytes((random.randrange(32), random.randrange(16)))
        start += random.randbytes(start[1])
    frames = streams.cut(stream)
    places = [at for at, frame in enumerate(frames) if len(frame) >= HEADER_SIZE]
    if not places:
        return havoc(data, most)
    at = random.choice(places)
    entries = _entries_of(frames[at])
    for _ in range(random.randint(1, 2)):
        kind = random.choice((*entries, *range(1, 14), 0x0A0A, 0xFFFF))
        match random.randrange(5):
            case 0:
                entries.pop(kind, None)
            case 1:
                entries[kind] = random.choice(VALUES)
            case 2 if entries.get(kind):
                changed = bytearray(entries[kind])
                changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
                entries[kind] = bytes(changed)
            case 3 if entries.get(kind):
                entries[kind] = havoc(entries[kind], 40)
            case _:
                entries[kind] = entries.get(kind, b"") + random.randbytes(random.randint(0, 4))
    frames[at] = _frame(frames[at][4], entries)
    if random.random() < 0.1:
        frames[at] = frames[at][:4] + bytes((random.randrange(17),)) + frames[at][5:]
    return (start + b"".join(frames))[:most]


TARGET = Target(
    name="handshake",
    check=check,
    seeds=seeds,
    dictionary=(streams.PREFACE, *(pack_entries([(kind, bytes(size))]) for kind, size in ((6, 1), (7, 5), (13, 32)))),
    max_bytes=2048,
    base_bytes=16 << 20,
    bytes_per_byte=1024,
    mutate=mutate,
)
