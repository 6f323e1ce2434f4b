"""Every byte of a body is counted once, as it arrives, whatever becomes of it: credit will be taken by it (SPEC 12)."""

from __future__ import annotations

from typing import Any

import pytest

from tensorwire.protocol import Connection, Message, MessageAborted, Refusal, Status
from tensorwire.protocol.frame_rules import FrameRules
from tensorwire.protocol.header import DATA, HEADER, HEADER_SIZE, OPEN
from tests.protocol.test_signing import MACS, client, server, shake
from tests.protocol.wiring import feed, wire_bytes

CHUNK = 16384
LARGE = 5 * CHUNK + 9
REFUSED = 6 * CHUNK


def reserve(_stream: int, _flags: int, _priority: int, _aux: int, _ext: bytes, _meta: bytes, nbytes: int) -> Any:
    """Memory for all but one length."""
    return Refusal(Status.RESOURCE_EXHAUSTED, "no") if nbytes == REFUSED else memoryview(bytearray(nbytes))


def pair(mac: str) -> tuple[Connection, Connection]:
    one, other = client(mac, reserve=reserve), server(mac, reserve=reserve)
    shake(one, other)
    inner: list[Any] = [one, other]
    for connection in inner:
        connection._reader.follow(FrameRules(metered=True))
    return one, other


def body_bytes(data: bytes, mac: str) -> int:
    """Bytes of bodies in what was sent."""
    frames, at = b"", 0
    while mac != "none" and at < len(data):
        n = int.from_bytes(data[at : at + 4], "little")
        frames += data[at + 4 : at + 4 + n]
        at += 4 + n + 16
    frames, at, total = frames or data, 0, 0
    while at < len(frames):
        length, kind, *_, meta_len, ext_len, _ = HEADER.unpack_from(frames, at)
        total += length - meta_len - ext_len if kind in {OPEN, DATA} else 0
        at += HEADER_SIZE + length
    return total


def counted(connection: Connection) -> int:
    inner: Any = connection
    count: int = inner._reader.body_bytes
    return count


@pytest.mark.parametrize("mac", MACS)
@pytest.mark.parametrize("cut", [97, CHUNK, 1 << 20])
def test_bodies_of_calls_and_of_streams(mac: str, cut: int) -> None:
    one, other = pair(mac)
    for size in (0, 100, 100, 100, 100, 200, LARGE, REFUSED, 100):
        one.open(b"m", b"", [bytes(size)], size)
    stream = one.open(b"m", b"", [b"first"], 5, flags=0)
    for size in (3, LARGE, 0, 7):
        one.send(stream, b"m", b"", [bytes(size)], size, flags=0)
    data = wire_bytes(one)
    events = feed(other, data, [cut] * (len(data) // cut + 1))
    assert sum(isinstance(event, Message) for event in events) == 13
    assert counted(other) == body_bytes(data, mac) > 2 * LARGE + REFUSED
    inner: Any = other
    assert inner._streams.open[stream].received_bytes == 5 + 3 + LARGE + 7


@pytest.mark.parametrize("mac", MACS)
@pytest.mark.parametrize("cut", [97, CHUNK, 1 << 20])
@pytest.mark.parametrize("there", [0, 1, 3000, CHUNK + 40])
def test_bodies_that_nobody_wants_any_more(mac: str, cut: int, there: int) -> None:
    one, other = pair(mac)
    one.open(b"m", b"", [bytes(LARGE)], LARGE)
    one.open(b"m", b"", [bytes(LARGE)], LARGE, flags=0)
    data = wire_bytes(one)
    feed(other, data[:there], [cut] * (there // cut + 1))
    for stream in (1, 2):
        if there > CHUNK:
            other.end(stream, Status.INTERNAL)
    events = feed(other, data[there:], [cut] * (len(data) // cut + 1))
    assert sum(isinstance(event, Message) for event in events) == (0 if there > CHUNK else 2)
    assert sum(isinstance(event, MessageAborted) for event in events) == (2 if there > CHUNK else 0)
    assert counted(other) == body_bytes(data, mac) == 2 * LARGE


@pytest.mark.parametrize("mac", MACS)
@pytest.mark.parametrize("cut", [97, CHUNK, 1 << 20])
@pytest.mark.parametrize("cancelled", [False, True])
def test_bodies_of_replies(mac: str, cut: int, cancelled: bool) -> None:
    one, other = pair(mac)
    for _ in range(6):
        one.open(b"m", b"", [], 0)
    feed(other, wire_bytes(one))
    for stream, size in enumerate((100, 100, 100, LARGE, REFUSED, LARGE), 1):
        other.send(stream, b"m", b"", [bytes(size)], size)
    data = wire_bytes(other)
    half = len(data) // 2
    feed(one, data[:half], [cut] * (half // cut + 1))
    if cancelled:
        one.cancel(4)
        one.cancel(6)
    feed(one, data[half:], [cut] * (half // cut + 2))
    assert counted(one) == body_bytes(data, mac)
