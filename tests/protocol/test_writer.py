"""The order of sending: control, classes of priority, one chunk each in turn, streams in order."""

from __future__ import annotations

import numpy as np
import pytest

from tensorwire.protocol import Limits, Message, Status
from tensorwire.protocol.header import HEADER
from tensorwire.protocol.limits import RECORD_BATCH
from tests.protocol.wiring import feed, open_pair, pump

CHUNK = 16384


def frames_of(buffers: list[bytes | memoryview]) -> list[tuple[int, int, int, int]]:
    """(type, stream, flags, body length) of each frame."""
    data = b"".join(buffers)
    found = []
    at = 0
    while at < len(data):
        length, kind, _, flags, stream, _, _, meta_len, ext_len, _ = HEADER.unpack_from(data, at)
        found.append((kind, stream, flags, length - meta_len - ext_len))
        at += 32 + length
    return found


def server_with_calls(*priorities: int):  # type: ignore[no-untyped-def]
    """An open pair whose server owes one reply per priority, streams 1, 2, ..."""
    client, server = open_pair(server_limits=Limits(chunk=CHUNK))
    for priority in priorities:
        client.open(b"", b"", [], 0, priority=priority)
    pump(client, server)
    return client, server


def test_small_frames_go_before_chunks_and_chunks_take_turns() -> None:
    _, server = server_with_calls(0, 0, 0)
    big = bytes(5 * CHUNK)
    server.send(1, b"", b"", [big], len(big))
    server.send(2, b"", b"", [big], len(big))
    server.send(3, b"", b"", [b"s"], 1)
    order = [(kind, stream) for kind, stream, _, _ in frames_of(server.data_to_send(1 << 24))]
    assert order == [(6, 1), (6, 2), (6, 3), *[(6, 1), (6, 2)] * 5]


def test_a_small_reply_queued_later_overtakes_the_rest_of_a_large_one() -> None:
    _, server = server_with_calls(0, 0)
    big = bytes(9 * CHUNK)
    server.send(1, b"", b"", [big], len(big))
    first = frames_of(server.data_to_send(2 * CHUNK))
    server.send(2, b"", b"", [b"s"], 1)
    assert len(first) <= 4
    assert frames_of(server.data_to_send(1))[0][1] == 2


def test_higher_classes_go_first_chunks_included() -> None:
    _, server = server_with_calls(0, 9, 5)
    big = bytes(5 * CHUNK)
    server.send(1, b"", b"", [b"s"], 1)
    server.send(3, b"", b"", [b"s"], 1)
    server.send(2, b"", b"", [big], len(big))
    server.ping(bytes(8))
    assert [stream for _, stream, _, _ in frames_of(server.data_to_send(1 << 24))] == [0, *[2] * 6, 3, 1]


def test_a_client_opens_in_the_order_of_ids_whatever_the_class() -> None:
    client, _ = open_pair()
    for priority in (0, 9, 1):
        client.open(b"", b"", [], 0, priority=priority)
    assert [stream for _, stream, _, _ in frames_of(client.data_to_send())] == [1, 2, 3]


def test_frames_of_one_stream_wait_for_its_chunks() -> None:
    client, server = server_with_calls(0, 0)
    big = bytes(5 * CHUNK)
    server.send(1, b"", b"", [big], len(big), flags=0)
    server.send(1, b"", b"", [b"s"], 1, flags=0)
    server.send(1, b"", b"", [big], len(big), flags=0)
    server.send(1, b"", b"", [], 0, flags=1)
    server.send(2, b"", b"", [b"x"], 1)
    total = server.outbound_bytes
    out: list[bytes | memoryview] = []
    while buffers := server.data_to_send(1):
        out += buffers
    assert sum(map(len, out)) == total + 10 * 32  # a chunk's header is made when its turn comes
    assert server.outbound_bytes == 0
    assert [f for f in frames_of(out) if f[1] == 1] == [
        (6, 1, 2, 0), *[(6, 1, 2, CHUNK)] * 4, (6, 1, 0, CHUNK), (6, 1, 0, 1),
        (6, 1, 2, 0), *[(6, 1, 2, CHUNK)] * 4, (6, 1, 0, CHUNK), (6, 1, 1, 0),
    ]  # fmt: skip
    assert server.open_streams == 0
    assert client.open_streams == 2


@pytest.mark.parametrize("priority", [0, 3])
@pytest.mark.parametrize("budget", [1, 1 << 24])
def test_a_second_large_message_of_a_stream_follows_the_first_whole(priority: int, budget: int) -> None:
    client, server = open_pair()
    client.open(b"", b"", [b"0"], 1, flags=0, priority=priority)
    for n in (1, 2, 3):
        client.send(1, b"", b"", [bytes([n]) * 70_000], 70_000, flags=int(n == 3))
    data = b""
    while buffers := client.data_to_send(budget):
        data += b"".join(buffers)
    assert [(e.seq, len(e.body)) for e in feed(server, data) if isinstance(e, Message)] == [
        (0, 1), (1, 70_000), (2, 70_000), (3, 70_000),
    ]  # fmt: skip


def test_end_drops_chunks_and_what_waits_behind_them() -> None:
    _, server = server_with_calls(0)
    big = bytes(5 * CHUNK)
    server.send(1, b"", b"", [big], len(big), flags=0)
    server.send(1, b"", b"", [big], len(big), flags=0)
    server.data_to_send(1)
    server.end(1, Status.INTERNAL)
    assert [kind for kind, *_ in frames_of(server.data_to_send(1 << 24))] == [7]
    assert server.outbound_bytes == 0


@pytest.mark.parametrize("budget", [1, 100, RECORD_BATCH, 3 * RECORD_BATCH])
def test_a_budget_is_kept_to_about_one_batch_and_frames_stay_whole(budget: int) -> None:
    client, _ = open_pair()
    for _ in range(300):
        client.open(b"m" * 100, b"", [b"x" * 1000], 1000)
    seen = 0
    while buffers := client.data_to_send(budget):
        assert sum(map(len, buffers)) <= budget + RECORD_BATCH + 2000
        seen += len(frames_of(buffers))
    assert seen == 300
    assert client.outbound_bytes == 0


def test_no_byte_of_a_large_body_is_copied() -> None:
    client, _ = open_pair()
    array = np.arange(3 * 262144, dtype=np.uint8)
    parts = [array.data[:100_001], array.data[100_001:]]
    client.open(b"", b"", parts, array.nbytes)
    views = [b for b in client.data_to_send(1 << 24) if isinstance(b, memoryview)]
    assert sum(map(len, views)) == array.nbytes
    base, at = array.ctypes.data, 0
    for view in views:
        assert np.frombuffer(view, np.uint8).ctypes.data == base + at
        at += len(view)


def test_typed_and_empty_buffers_are_sent_as_their_bytes() -> None:
    client, server = open_pair()
    floats = np.ones(30_000, np.float32)
    client.open(b"", b"", [memoryview(b""), floats.data, b""], floats.nbytes)
    _, (message,) = pump(client, server)
    assert bytes(message.body) == floats.tobytes()  # type: ignore[attr-defined]


def test_nothing_queued_gives_nothing() -> None:
    client, _ = open_pair()
    assert client.data_to_send() == []
    client.data_to_send().append(b"stray")
    assert client.data_to_send() == []
