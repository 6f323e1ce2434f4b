"""Connections with a key for the fuzz targets: what honest ones say, and what somebody who has the key can add.

What lives here: recordings of honest sessions, and proofs and records for bytes that a target made up. What must not:
which bytes come, and what is right about what comes of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from tensorwire.protocol import Config, ErrorCode, ProtocolError, Role
from tensorwire.protocol.frame_builder import control_frame
from tensorwire.protocol.handshake import pack_entries, parse_entries, with_proof
from tensorwire.protocol.header import HEADER_SIZE
from tensorwire.protocol.limits import PREFACE
from tensorwire.protocol.records import SignedRecords
from tensorwire.protocol.signing import CLIENT_RECORD, SERVER_RECORD, KeySchedule, make_mac, transcript

from . import streams
from .peers import AUTH, KEY_ID, LIMITS, NONCE, READY, SECRET, WELCOME, Peer, Transcript, secret_of

MACS = ("hmac-sha256", "aes-256-gmac", "none")
SERVER_NONCE = NONCE[::-1]
NONCE_ENTRY, KEY_ID_ENTRY, PROOF = 3, 7, 13
BIG = 70_000
_NO_PROOF = bytes(32)
_ZEROS = re.compile(rb"\0{600,}")


def keyed(client: bool, macs: tuple[str, ...], *, keyless: bool = False, nonce: bytes = b"") -> Peer:
    """A peer with the key; `keyless`: a server that takes others too."""
    if client:
        config = Config(Role.CLIENT, limits=LIMITS, mac_algorithms=macs, key_id=KEY_ID, secret=SECRET)
    else:
        config = Config(Role.SERVER, limits=LIMITS, mac_algorithms=macs, keyless=keyless)
    return Peer(client, config=config, nonce=nonce or (NONCE if client else SERVER_NONCE))


# ---- insiders ----


def proven(frame: bytes, keys: KeySchedule) -> bytes:
    """WELCOME or AUTH with the right PROOF in its place; a frame without one stays as it is."""
    try:
        proof = parse_entries(frame[HEADER_SIZE:]).get(PROOF, b"")
    except ProtocolError:
        return frame
    if len(proof) != len(_NO_PROOF):
        return frame
    right = keys.server_proof() if frame[4] == WELCOME else keys.client_proof(with_proof(frame, _NO_PROOF))
    return with_proof(frame, right)


def schedule(hello: bytes, welcome: bytes) -> KeySchedule | None:
    """The keys of a handshake, given its frames; None if one of them is not read that far by anybody."""
    try:
        ours, theirs = (parse_entries(frame[HEADER_SIZE:])[NONCE_ENTRY] for frame in (hello, welcome))
        zeroed = with_proof(welcome, _NO_PROOF)
    except (ProtocolError, ValueError, KeyError):
        return None
    secret, _ = secret_of(parse_entries(hello[HEADER_SIZE:]).get(KEY_ID_ENTRY, KEY_ID))
    return KeySchedule(secret, ours, theirs, transcript(hello, zeroed, b""))


def sealed(keys: KeySchedule, mac: str, client: bool, frames: bytes) -> bytes:
    """Frames of the client or of the server, however wrong, each in a record with the right tag."""
    if mac == "none":
        return frames
    records = SignedRecords(make_mac(mac, keys.key(CLIENT_RECORD if client else SERVER_RECORD)))
    pieces = [frame for frame in streams.cut(frames) if len(frame) >= HEADER_SIZE]
    return b"".join(bytes(part) for piece in pieces for part in records.seal([piece], len(piece)))


def auth_frame() -> bytes:
    """AUTH with a place for its proof."""
    return control_frame(AUTH, meta=pack_entries([(PROOF, _NO_PROOF)]))


# ---- recordings ----


@dataclass(frozen=True, slots=True)
class Recorded:
    """An honest session: what each side said, in pieces (frames of the handshake, then records), and was told."""

    up: tuple[bytes, ...]
    down: tuple[bytes, ...]
    served: Transcript
    seen: Transcript


def server_of(mac: str, large: bool, again: bool = False) -> Peer:
    """The server of a recording, before its first byte."""
    return keyed(False, (mac,), nonce=_other(SERVER_NONCE, large, again))


def _other(nonce: bytes, large: bool, again: bool) -> bytes:
    """No two recordings have the same nonces, as no two sessions have."""
    return bytes((nonce[0] ^ (large | again << 1),)) + nonce[1:]


def caller(mac: str, large: bool, again: bool = False) -> Peer:
    """A client with its calls open."""
    peer = keyed(True, (mac,), nonce=_other(NONCE, large, again))
    for body in [BIG, BIG] if large else [1, 2, 3]:
        peer.connection.open(b"m", b"", [bytes(body)], body)
    if not large:
        peer.connection.open(b"m", b"", [], 0, flags=0)
    return peer


@cache
def recorded(mac: str, large: bool, again: bool = False) -> Recorded:
    """Three small calls, a conversation and an end; or two calls with large bodies each way. `again`: the same in
    another session, with other nonces.
    """
    client, server = caller(mac, large, again), server_of(mac, large, again)
    said: tuple[list[bytes], list[bytes]] = ([], [])

    def flow() -> None:
        while True:
            for speaker, listener, pieces in ((client, server, said[0]), (server, client, said[1])):
                speaker.sent.clear()
                speaker.collect()
                pieces += cut(bytes(speaker.sent), first=not pieces, client=speaker is client)
                listener.feed(bytes(speaker.sent))
            if not client.connection.outbound_bytes and not server.connection.outbound_bytes:
                return

    flow()
    server.connection.accept(READY)
    flow()
    if large:
        for stream_id in (1, 2):
            server.connection.send(stream_id, b"m", b"", [bytes(BIG)], BIG)
    else:
        for stream_id in (1, 2, 4):
            server.connection.send(stream_id, b"m", b"", [b"reply"], 5, flags=int(stream_id != 4))
            client.connection.ping(bytes(8))
            flow()
        client.connection.send(4, b"m", b"", [b"more"], 4, flags=0)
        client.connection.cancel(3)
    flow()
    for peer in (client, server):
        peer.connection.close(ErrorCode.SHUTDOWN, "goodbye")
        peer.sent.clear()
        peer.collect()
    ends = bytes(client.sent), bytes(server.sent)
    up, down = (*said[0], ends[0]), (*said[1], ends[1])
    server.feed(ends[0])
    hearing = server_of(mac, large, again), caller(mac, large, again)
    for peer, pieces in zip(hearing, (up, down), strict=True):
        for piece in pieces:
            peer.feed(piece)
        assert peer.seen[-1][0] == "closed", "the recording is not heard to its end"
        assert peer.seen[-1][2], "the recording is refused"
    return Recorded(up, down, hearing[0].seen, hearing[1].seen)


def cut(sent: bytes, *, first: bool, client: bool) -> list[bytes]:
    """What a side has sent, in pieces; `first`: it begins with the handshake."""
    pieces: list[bytes] = []
    if first and sent:
        size = (len(PREFACE) if client else 0) + HEADER_SIZE
        size += int.from_bytes(sent[size - HEADER_SIZE : size - HEADER_SIZE + 4], "little")
        pieces, sent = [sent[:size]], sent[size:]
    if client and sent[4:5] == bytes((AUTH,)) and sent[:4] == (36).to_bytes(4, "little"):
        pieces.append(sent[: HEADER_SIZE + 36])
        sent = sent[HEADER_SIZE + 36 :]
    return pieces + streams.records(sent)


def packed(data: bytes) -> bytes:
    """The same with runs for long zeros, so that an input of a target is short."""
    return _ZEROS.sub(lambda found: streams.run(b"\0", len(found[0])), data)
