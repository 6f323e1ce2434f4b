"""Every frame type in every state, every length at its boundaries, every stream id that is not the next."""

from __future__ import annotations

import socket

import pytest

from tensorwire.protocol import ErrorCode, FrameType, pack_extension
from tensorwire.protocol.header import END_STREAM, MORE
from tests.attacks.conftest import Target, check_log
from tests.attacks.peer import (
    AUTH,
    CANCEL,
    CLOSE,
    DATA,
    ECHO,
    ECHO_BODY,
    ECHO_EXT,
    END,
    LIMIT,
    OPEN,
    PING,
    Raw,
    big,
    call,
    chunk,
    dims,
    frame,
    greeting,
    metadata,
)

pytestmark = [pytest.mark.timeout(LIMIT), pytest.mark.xdist_group("attacks")]

KINDS = range(20)
BOUNDARIES = (0, 1, 2**31 - 1, 2**31, 2**31 + 1, 2**32 - 1)
CHUNK = 262144
COLUMNS = 65536  # a row of 256 KiB: one chunk
KIB64 = 65536


@pytest.mark.parametrize("state", ["hello", "auth"])
def test_before_authentication_every_other_frame_closes(target: Target, state: str) -> None:
    allowed = {"hello": FrameType.HELLO, "auth": FrameType.AUTH}[state]
    for kind in KINDS:
        if kind in (allowed, CLOSE):
            continue
        with Raw(target.address, hands=False) as peer:
            first = greeting()
            peer.send((first[:8] if state == "hello" else first) + frame(kind, stream_id=1, flags=END_STREAM))
            closed = peer.closed_with()
            assert closed.text, kind
            assert closed.aux != ErrorCode.TIMEOUT, kind


def test_after_authentication_every_frame_is_answered_or_closes_and_none_is_forgotten(target: Target) -> None:
    for kind in KINDS:
        with Raw(target.address) as peer:
            peer.send(frame(kind, stream_id=1, flags=END_STREAM))
            answer = peer.receive()
            if kind == OPEN:  # no metadata: the call is refused, the connection is not
                assert answer.kind == END
                assert peer.works(2)
            else:
                assert answer.kind == CLOSE, kind
                assert answer.text
                assert peer.rest() == []


@pytest.mark.parametrize("field", ["length", "meta_len"])
@pytest.mark.parametrize("kind", [OPEN, DATA, CANCEL, PING, CLOSE, FrameType.HELLO])
def test_lengths_are_refused_by_the_header_alone(target: Target, kind: int, field: str) -> None:
    caps = {KIB64 - 1, KIB64, KIB64 + 1, 2 * KIB64 + 1023, 2 * KIB64 + 1024, 2 * KIB64 + 1025}
    for value in sorted({*BOUNDARIES, *caps, 2**24}):
        with Raw(target.address) as peer:
            stream_id = 0 if kind in (PING, CLOSE) else 1
            flags = END_STREAM if kind == OPEN else 0
            meta_len = value if field == "meta_len" else 0
            peer.send(frame(kind, stream_id=stream_id, flags=flags, length=value, meta_len=meta_len))
            peer.socket.shutdown(socket.SHUT_WR)  # what is within bounds must not be waited for for ever
            for answer in peer.rest():
                assert answer.kind in (CLOSE, END)


@pytest.mark.parametrize("ext_len", [1, 2, 1023, 1024, 1025, 65535])
def test_the_length_of_the_extension(target: Target, ext_len: int) -> None:
    with Raw(target.address) as peer:
        peer.send(frame(OPEN, flags=END_STREAM, stream_id=1, length=ext_len, ext_len=ext_len) + bytes(ext_len))
        assert peer.closed_with().aux in (ErrorCode.EXTENSION, ErrorCode.TOO_LARGE)


@pytest.mark.parametrize("stream_id", [0, 1, 3, 2**32, 2**63, 2**64 - 1])
def test_a_stream_id_that_is_not_the_next(target: Target, stream_id: int) -> None:
    with Raw(target.address) as peer:
        assert peer.works(1)
        peer.send(call(stream_id))
        closed = peer.closed_with()
        assert closed.aux == ErrorCode.STREAM
        assert "the next stream is 2" in closed.text


@pytest.mark.parametrize("kind", [DATA, CANCEL])
@pytest.mark.parametrize("stream_id", [0, 2, 2**64 - 1])
def test_frames_of_streams_that_were_never_opened(target: Target, kind: int, stream_id: int) -> None:
    with Raw(target.address) as peer:
        assert peer.works(1)
        peer.send(frame(kind, stream_id=stream_id))
        assert peer.closed_with().aux == ErrorCode.STREAM


EXTENSIONS = {
    "dims-twice": b"\x01\x08" + dims(1) + b"\x01\x08" + dims(4),
    "dims-empty": b"\x01\x00",
    "dims-odd": b"\x01\x07" + bytes(7),
    "past-the-end": b"\x01\xff" + bytes(8),
    "cut": b"\x01",
    "unknown": b"\x7f\x01\x00",
    "descending": b"\x02\x08" + dims(70000) + b"\x01\x08" + dims(1),
    "length-without-more": pack_extension(dims=dims(1, 4), body_length=16),
    "timing": pack_extension(timing=(0,) * 7),
}


@pytest.mark.parametrize("name", EXTENSIONS)
def test_extensions_that_are_none(target: Target, name: str) -> None:
    with Raw(target.address) as peer:
        peer.send(call(1, ext=EXTENSIONS[name]))
        assert peer.closed_with().aux == ErrorCode.EXTENSION


def first_frame(length: int | None) -> bytes:
    ext = pack_extension(dims=dims(1, COLUMNS), body_length=length)
    return frame(OPEN, flags=END_STREAM | MORE, stream_id=1, ext=ext, meta=metadata("wide"))


@pytest.mark.parametrize("length", [None, 0, 1, KIB64 - 1, KIB64])
def test_chunks_for_a_body_that_needs_none(target: Target, length: int | None) -> None:
    with Raw(target.address) as peer:
        peer.send(first_frame(length))
        assert peer.closed_with().aux == ErrorCode.EXTENSION


@pytest.mark.parametrize(
    "length", [KIB64 + 1, CHUNK - 1, CHUNK + 1, 2**31 - 1, 2**31 + 1, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1]
)
def test_a_body_length_that_the_shapes_do_not_give_is_refused_before_memory(target: Target, length: int) -> None:
    before = target.rss
    with Raw(target.address) as peer:
        peer.send(first_frame(length))
        refused = peer.receive()
        assert refused.kind == END
        assert str(length) in refused.text
        target.wait_pool(0, 0)
        assert peer.works(2)
    assert target.rss < before + (32 << 20)


CHUNKS = {
    "overrun": chunk(1, bytes(CHUNK), flags=MORE) + chunk(1, bytes(CHUNK + 64), flags=END_STREAM),
    "too-large": frame(DATA, flags=MORE, stream_id=1, length=CHUNK + 1),
    "2^31": frame(DATA, flags=MORE, stream_id=1, length=2**31),
    "2^32-1": frame(DATA, flags=MORE, stream_id=1, length=2**32 - 1),
    "empty": chunk(1, b""),
    "dribble": chunk(1, b"x"),
    "early-end": chunk(1, bytes(CHUNK), flags=END_STREAM),
    "no-end": chunk(1, bytes(CHUNK)) + chunk(1, bytes(CHUNK)),
    "metadata": frame(DATA, flags=MORE, stream_id=1, meta=ECHO, body=bytes(KIB64)),
    "seq": chunk(1, bytes(CHUNK), seq=1),
    "other-stream": chunk(2, bytes(CHUNK)),
    "stream-0": chunk(0, bytes(CHUNK)),
    "after-the-end": chunk(1, bytes(CHUNK)) + chunk(1, bytes(CHUNK), flags=END_STREAM) + chunk(2, bytes(CHUNK)),
}


@pytest.mark.parametrize("name", CHUNKS)
def test_chunks_that_do_not_belong_there(target: Target, name: str) -> None:
    with Raw(target.address) as peer:
        peer.send(big(1, COLUMNS, rows=2) + CHUNKS[name])
        closed = peer.closed_with()
        assert closed.text
        assert closed.aux != ErrorCode.TIMEOUT  # by what it is, not because the rest of it did not come
    target.wait_pool(0, 0)


def test_a_chunk_of_a_stream_that_has_none_to_come_changes_nothing_on_another(target: Target) -> None:
    with Raw(target.address) as peer:
        peer.send(big(1, COLUMNS) + call(2) + chunk(2, bytes(KIB64)))
        while (answer := peer.receive()).stream_id == 2:
            pass
        assert answer.kind == CLOSE  # stream 2 was whole


def test_one_byte_at_a_time_is_the_same(target: Target) -> None:
    with Raw(target.address, hands=False) as peer:
        for byte in greeting() + AUTH + call(1) + call(2, ext=b"\x01\x08" + dims(4)):
            peer.send(bytes((byte,)))
        kinds = [peer.receive().kind for _ in range(4)]
        assert kinds[:2] == [FrameType.WELCOME, FrameType.READY]
        assert set(kinds[2:]) == {DATA, END}


def test_flags_priority_and_reserved_bits(target: Target) -> None:
    for flags in (0x10, 0x20, 0x40, 0x8000, 0xFFFF):
        with Raw(target.address) as peer:
            peer.send(frame(OPEN, flags=flags, stream_id=1, ext=ECHO_EXT, meta=ECHO, body=ECHO_BODY))
            assert peer.closed_with().aux == ErrorCode.FRAME
    with Raw(target.address) as peer:
        peer.send(call(1, reserved=1))
        assert peer.closed_with().aux == ErrorCode.FRAME
    with Raw(target.address) as peer:
        for stream_id in range(1, 257):
            peer.send(call(stream_id, priority=256 - stream_id))
        assert {peer.receive().kind for _ in range(256)} == {DATA}


@pytest.mark.parametrize("value", [2 * KIB64 + 1025, 2**24, 2**31 - 1, 2**31, 2**31 + 1, 2**32 - 1])
@pytest.mark.parametrize("field", ["body", "metadata"])
def test_a_length_over_its_cap_is_refused_before_a_byte_of_it_comes(target: Target, field: str, value: int) -> None:
    """The peer keeps its side open and sends nothing more: who waits for the rest waits for ever."""
    with Raw(target.address) as peer:
        peer.socket.settimeout(5)
        meta_len = value if field == "metadata" else 0
        peer.send(frame(OPEN, flags=END_STREAM, stream_id=1, length=value, meta_len=meta_len))
        assert peer.closed_with().aux == ErrorCode.TOO_LARGE


@pytest.mark.parametrize("value", [4097, 65535, 2**31, 2**32 - 1])
@pytest.mark.parametrize("kind", [FrameType.HELLO, FrameType.AUTH])
def test_a_stranger_may_announce_4_kib_and_no_more(target: Target, kind: FrameType, value: int) -> None:
    with Raw(target.address, hands=False) as peer:
        peer.socket.settimeout(1)  # before the handshake is given up for its time
        first = greeting()
        peer.send((first[:8] if kind == FrameType.HELLO else first) + frame(kind, length=value, meta_len=value))
        assert peer.closed_with().aux == ErrorCode.TOO_LARGE


LAST = {
    "unknown-type": frame(99),
    "no-next-id": call(7),
    "call-and-garbage": call(1) + b"\xff" * 64,
    "close": frame(CLOSE, aux=1),
    "second-auth": AUTH,
    "second-hello": greeting()[8:],
    "body-and-garbage": big(1, COLUMNS) + b"\xff" * 64,
    "cancel-and-garbage": call(1) + frame(CANCEL, stream_id=1) + b"\xff" * 64,
}


@pytest.mark.parametrize("name", LAST)
@pytest.mark.parametrize("pieces", [1, 2])
def test_what_ends_a_connection_may_come_in_one_read_with_its_handshake(target: Target, name: str, pieces: int) -> None:
    """The connection is over before the server has looked at AUTH: it says why, and raises nothing."""
    with Raw(target.address, hands=False) as peer:
        first = greeting() + AUTH
        if pieces == 2:
            peer.send(greeting())
            assert peer.receive().kind == FrameType.WELCOME
            first = AUTH
        peer.send(first + LAST[name])
        answers = peer.rest()
        assert name == "close" or answers[-1].kind == CLOSE
    check_log(target)
