"""Vectors of single records: counter, frames and tag by themselves (SPEC 11.5, 11.6)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from tests.vectors.mac import hmac_sha256
from tests.vectors.record_parts import (
    CHUNK_SIZE,
    CLIENT,
    MOST,
    RECORD_LABELS,
    SERVER,
    chunk_frame,
    open_frame,
    session_of,
)
from tests.vectors.sealed import GMAC, HMAC, Session, aad_length, flipped, gmac, pattern, tag_of, u32
from tests.vectors.signed_case import Test, tag_test
from tests.vectors.wire import CLOSE, DATA, END_STREAM, PING, frame


def _plain_records() -> Iterator[tuple[str, str, bytes]]:
    """(what it is, flag, frames) of records that any sender may write."""
    yield "one frame without a body", "Normal", open_frame()
    yield "one small frame", "Normal", open_frame(body=b"hello")
    yield "a PING", "Normal", frame(PING, body=b"01234567")
    yield "an orderly CLOSE", "Normal", frame(CLOSE)
    yield "two small frames", "Normal", open_frame(body=b"one") + open_frame(2, body=b"two")
    yield "a frame of exactly 65,536 bytes", "Shape", open_frame(body=pattern(65536 - 32))
    yield "small frames of exactly 65,536 bytes", "Shape", open_frame(body=pattern(32768 - 32)) * 2
    yield "one frame of 65,537 bytes", "Shape", open_frame(body=pattern(65536 - 32), meta=b"m")
    yield "one frame with all that it may hold", "Shape", open_frame(body=pattern(65536), meta=pattern(65536, 5))
    yield "a chunk frame of 16,384 bytes", "Chunk", chunk_frame(16384)
    yield "a chunk frame of 16,385 bytes", "Chunk", chunk_frame(16385)
    yield "a chunk frame of 262,144 bytes", "Chunk", chunk_frame(CHUNK_SIZE)
    yield "a chunk frame of 1,048,576 bytes", "Chunk", chunk_frame(MOST - 32)
    yield "a last chunk of 16,383 bytes is all plaintext", "Chunk", chunk_frame(16383, flags=END_STREAM)
    yield "a last chunk of one byte", "Chunk", chunk_frame(1, flags=END_STREAM)
    yield "an inline DATA of 16,384 bytes counts as a chunk frame", "Chunk", chunk_frame(16384, flags=END_STREAM)
    yield "an OPEN of 16,384 bytes does not", "Chunk", open_frame(body=pattern(16384))
    meta = frame(DATA, stream=1, meta=b"m", body=pattern(16384))
    yield "a DATA of 16,384 bytes with metadata does not", "Chunk", meta
    ext = frame(DATA, stream=1, ext=bytes((1, 8)) + bytes(8), body=pattern(16384))
    yield "a DATA of 16,384 bytes with extension does not", "Chunk", ext
    yield "two chunk frames in one record do not", "Chunk", chunk_frame(16384) + chunk_frame(16384, start=9)
    yield (
        "a chunk frame and a small frame in one record do not",
        "Chunk",
        chunk_frame(16384) + frame(PING, body=bytes(8)),
    )


def singles(session: Session, side: str) -> Iterator[Test]:
    mac, key = session.mac, session.key(RECORD_LABELS[side])
    for comment, flag, frames in _plain_records():
        yield tag_test(comment, flag, mac, key, 0, frames)
    small = open_frame(body=b"hello")
    for counter in (1, 2, 255, 256, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1):
        yield tag_test(f"counter {counter}", "Counter", mac, key, counter, small)
        yield tag_test(f"a chunk, counter {counter}", "Counter", mac, key, counter, chunk_frame(16384))
    yield from _wrong_tags(session, side, 7, small, "one small frame")
    yield from _wrong_tags(session, side, 7, chunk_frame(16384), "a chunk")


def _wrong_tags(session: Session, side: str, counter: int, frames: bytes, what: str) -> Iterator[Test]:
    mac, key = session.mac, session.key(RECORD_LABELS[side])
    covered = u32(len(frames)) + frames
    right = tag_of(mac, key, counter, covered)

    def wrong(comment: str, flag: str, tag: bytes) -> Test:
        return tag_test(f"{what}: {comment}", flag, mac, key, counter, frames, tag=tag)

    for at in range(16):
        yield wrong(f"byte {at} of the tag", "Tag", flipped(right, at, at % 8))
    yield wrong("a tag of zeros", "Tag", bytes(16))
    yield wrong("the tag backwards", "Tag", right[::-1])
    for at in (0, 4, 8, 9, 20, 31, 36, -1):
        name = f"byte {at} of the record" if at >= 0 else "the last byte of the record"
        yield wrong(f"{name} was changed", "Tag", tag_of(mac, key, counter, flipped(covered, at, 3)))
    for other in (counter - 1, counter + 1, 0, counter + 2**32, counter << 56):
        yield wrong(f"the tag of counter {other}", "Counter", tag_of(mac, key, other, covered))
    back = RECORD_LABELS[CLIENT if side == SERVER else SERVER]
    yield wrong("the other direction's key", "Reflection", tag_of(mac, session.key(back), counter, covered))
    yield wrong("the key of a proof", "Suite", tag_of(mac, session.key("client proof"), counter, covered))
    another = session_of(GMAC if mac == HMAC else HMAC)
    other_key = another.key(RECORD_LABELS[side])
    yield wrong("the other suite, this key", "Suite", tag_of(another.mac, key, counter, covered))
    yield wrong("the other suite and its key", "Suite", tag_of(another.mac, other_key, counter, covered))
    spliced = session.welcome_but(t3=bytes(32)).key(RECORD_LABELS[side])
    yield wrong("the key of another session", "Splice", tag_of(mac, spliced, counter, covered))
    yield from (wrong(*odd) for odd in _odd_tags(mac, key, counter, covered))


def _odd_tags(mac: str, key: bytes, counter: int, covered: bytes) -> Iterator[tuple[str, str, bytes]]:
    """Tags that a misreading of 11.5 and 11.6 makes."""
    count, frames = struct.pack("<Q", counter), covered[4:]
    if mac == HMAC:
        whole = hmac_sha256(key, count + covered)
        yield "the last 16 bytes of the MAC", "Suite", whole[16:]
        yield "no counter under the tag", "Counter", hmac_sha256(key, covered)[:16]
        yield "no length under the tag", "Length", hmac_sha256(key, count + frames)[:16]
        yield "a counter of 4 bytes", "Counter", hmac_sha256(key, count[:4] + covered)[:16]
        yield "a big-endian counter", "Counter", hmac_sha256(key, count[::-1] + covered)[:16]
        yield "the counter behind the record", "Counter", hmac_sha256(key, covered + count)[:16]
        return
    aad = aad_length(frames)
    body = covered[len(covered) - aad :] if aad else frames[32:]
    yield "no length under the tag", "Length", gmac(key, counter, frames[: len(frames) - aad], body if aad else b"")
    yield "all of it AAD", "Suite", gmac(key, counter, b"", covered)
    yield "the two parts exchanged", "Suite", gmac(key, counter, body, covered[: len(covered) - len(body)])
    if aad:
        yield "all of it plaintext", "Chunk", gmac(key, counter, covered, b"")
    else:
        yield "its body AAD, as if it were a chunk", "Chunk", gmac(key, counter, covered[:36], body)
    swapped = struct.unpack("<Q", struct.pack(">Q", counter))[0]
    yield "a big-endian counter", "Counter", gmac(key, swapped, *_halves(covered, aad))


def _halves(covered: bytes, aad: int) -> tuple[bytes, bytes]:
    return covered[: len(covered) - aad], covered[len(covered) - aad :]
