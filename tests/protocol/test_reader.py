"""The receive path: splits, large bodies in place, interleaving, lengths at their bounds."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.strategies_frames import (
    BOUNDARY_U32,
    CANCEL,
    DATA,
    END_STREAM,
    HEADER,
    INLINE_BODY,
    MIN_CHUNK,
    MORE,
    OPEN,
    PING,
    body_length,
    chunked,
    client_streams,
    frame,
    good_calls,
    splits,
)
from tensorwire.protocol import (
    Cancelled,
    Closed,
    Connection,
    Ended,
    ErrorCode,
    Event,
    Limits,
    LocalError,
    Message,
    MessageAborted,
    Refusal,
    Refused,
    Status,
    pack_extension,
)
from tests.protocol.wiring import SERVER_NONCE, feed, make_client, make_server, open_pair, pump, wire_bytes

TOTAL = INLINE_BODY + 2 * MIN_CHUNK + 100


def open_server(**options: object) -> Connection:
    return open_pair(server_reserve=options.get("reserve"), server_limits=options.get("limits"))[1]  # type: ignore[arg-type]


def read_exactly(connection: Connection, data: bytes) -> tuple[list[Event], list[int]]:
    """Feed as a fast socket would, and the sizes that were asked for."""
    asked: list[int] = []
    events: list[Event] = []
    view = memoryview(data)
    while len(view) > 0:
        buffer = connection.next_buffer()
        asked.append(len(buffer))
        n = min(len(buffer), len(view))
        buffer[:n] = view[:n]
        view = view[n:]
        events += connection.received(n, 0.0)
    return events, asked


def test_the_same_bytes_with_another_border_are_judged_anew() -> None:
    ext, meta = pack_extension(dims=bytes(8)), b"meta"
    server = open_server()
    events = feed(server, frame(OPEN, 1, END_STREAM, ext=ext, meta=meta) + frame(OPEN, 2, END_STREAM, meta=ext + meta))
    assert [(e.ext, e.meta) for e in events if isinstance(e, Message)] == [(ext, meta), (b"", ext + meta)]
    (closed,) = feed(server, frame(OPEN, 3, END_STREAM, ext=ext + meta))
    assert isinstance(closed, Closed)
    assert closed.code is ErrorCode.EXTENSION


class TestSplits:
    @settings(max_examples=150, deadline=None)
    @given(good_calls(), splits())
    def test_any_split_of_good_calls_gives_the_same_events(self, data: bytes, sizes: list[int]) -> None:
        whole, cut = open_server(), open_server()
        assert feed(cut, data, sizes) == feed(whole, data)
        assert not whole.closed
        assert wire_bytes(cut) == wire_bytes(whole)

    @settings(max_examples=300, deadline=None)
    @given(client_streams(), splits())
    def test_any_split_of_any_bytes_gives_the_same_events_and_answer(self, data: bytes, sizes: list[int]) -> None:
        whole, cut = open_server(), open_server()
        assert feed(cut, data, sizes) == feed(whole, data)
        assert wire_bytes(cut) == wire_bytes(whole)

    @settings(max_examples=200, deadline=None)
    @given(client_streams(), splits(60))
    def test_any_split_of_any_bytes_gives_a_client_the_same_events(self, data: bytes, sizes: list[int]) -> None:
        clients = [open_pair()[0] for _ in range(2)]
        for client in clients:
            for _n in range(3):
                client.open(b"", b"", [], 0)
            client.cancel(3)
        assert feed(clients[0], data, sizes) == feed(clients[1], data)
        assert wire_bytes(clients[0]) == wire_bytes(clients[1])

    @settings(max_examples=20, deadline=None)
    @given(good_calls())
    def test_byte_by_byte_gives_the_same_events(self, data: bytes) -> None:
        data = data[:5000]
        whole, cut = open_server(), open_server()
        assert feed(cut, data, [1] * len(data)) == feed(whole, data)

    def test_a_whole_handshake_byte_by_byte(self) -> None:
        client, server = make_client(), make_server()
        data = wire_bytes(client)
        assert feed(server, data, [1] * len(data)) == []
        answer = wire_bytes(server)
        assert feed(client, answer, [1] * len(answer)) == []

    def test_two_connections_share_one_receive_buffer(self) -> None:
        shared = memoryview(bytearray(262144))
        servers = []
        for _n in range(2):
            template = make_server()
            server = Connection(
                template.config,
                nonce=SERVER_NONCE,
                now=0.0,
                receive_buffer=shared,
                connection_id=template.connection_id,
                boot_id=template.boot_id,
            )
            client = make_client()
            feed(server, wire_bytes(client))
            feed(client, wire_bytes(server))
            feed(server, wire_bytes(client))
            server.accept(b"\x80")
            servers.append(server)
        big = bytes(range(256)) * 400
        data = frame(OPEN, 1, END_STREAM, body=b"abc") + b"".join(
            chunked(OPEN, 2, 0, big, [MIN_CHUNK], end_stream=True)
        )
        views = [memoryview(data), memoryview(data)]
        seen: list[list[Event]] = [[], []]
        while any(len(view) for view in views):
            for n, server in enumerate(servers):  # a piece to each in turn, with the shared buffer poisoned between
                if not len(views[n]):
                    continue
                buffer = server.next_buffer()
                size = min(len(buffer), len(views[n]), 3001)
                buffer[:size] = views[n][:size]
                views[n] = views[n][size:]
                for event in server.received(size, 0.0):
                    assert isinstance(event, Message)
                    event.body = memoryview(bytes(event.body))
                    seen[n].append(event)
                shared[:] = b"\xdd" * len(shared)
        assert seen[0] == seen[1]
        assert [bytes(e.body) for e in seen[0] if isinstance(e, Message)] == [b"abc", big]


class TestInPlace:
    def test_the_body_is_the_reserved_memory_itself(self) -> None:
        memory = bytearray(TOTAL)
        server = open_server(reserve=lambda *_: memoryview(memory))
        body = bytes(n % 251 for n in range(TOTAL))
        events, _asked = read_exactly(server, b"".join(chunked(OPEN, 1, 0, body, [MIN_CHUNK] * 9, end_stream=True)))
        (message,) = events
        assert isinstance(message, Message)
        assert message.owned
        assert message.end_stream
        address = np.frombuffer(memory, np.uint8).ctypes.data
        assert np.frombuffer(message.body, np.uint8).ctypes.data == address
        assert memory == body

    def test_chunks_are_read_straight_into_the_reservation_with_one_read_each(self) -> None:
        chunk = 65536
        total = 5 * chunk
        memory = bytearray(total)
        base = np.frombuffer(memory, np.uint8).ctypes.data
        server = open_server(reserve=lambda *_: memoryview(memory))
        frames = chunked(OPEN, 1, 0, bytes(total), [chunk] * 9, end_stream=True)
        feed(server, frames[0])
        view = memoryview(b"".join(frames[1:]))
        asked, places = [], []
        while len(view) > 0:
            buffer = server.next_buffer()
            asked.append(len(buffer))
            places.append(np.frombuffer(buffer, np.uint8).ctypes.data - base)
            n = len(buffer)
            buffer[:n] = view[:n]
            view = view[n:]
            server.received(n, 0.0)
        # header; then each chunk with the header behind it, but the last alone
        assert asked == [32, chunk + 32, chunk + 32, chunk + 32, chunk + 32, chunk][: len(asked)]
        assert places[1:] == [0, chunk, 2 * chunk, 3 * chunk, 4 * chunk]

    def test_reads_stay_exact_after_a_large_message_until_a_small_frame(self) -> None:
        server = open_server()
        frames = chunked(OPEN, 1, 0, bytes(TOTAL), [], end_stream=True)
        events, _asked = read_exactly(server, b"".join(frames))
        assert len(events) == 1
        assert len(server.next_buffer()) == len(frames[0]) + 32  # the next one begins as this one did
        small = frame(OPEN, 2, END_STREAM, body=b"x" * 500)
        events, asked = read_exactly(server, small)
        assert asked[0] == len(frames[0]) + 32
        assert asked[1] > 100_000
        assert len(events) == 1
        assert len(server.next_buffer()) == 262144

    def test_next_buffer_is_idempotent(self) -> None:
        server = open_server()
        data = b"".join(chunked(OPEN, 1, 0, bytes(TOTAL), [MIN_CHUNK] * 9, end_stream=True))
        for at in range(0, len(data), 10007):
            piece = memoryview(data)[at : at + 10007]
            while len(piece):
                first, again = server.next_buffer(), server.next_buffer()
                assert len(first) == len(again)
                n = min(len(again), len(piece))
                again[:n] = piece[:n]
                piece = piece[n:]
                server.received(n, 0.0)
        assert not server.closed

    @settings(max_examples=60, deadline=None)
    @given(splits(), st.randoms(use_true_random=False))
    def test_two_large_messages_and_small_calls_interleaved(self, sizes: list[int], order: st.DataObject) -> None:
        a, b = b"\xaa" * TOTAL, b"\xbb" * (TOTAL + 5)
        queues = [
            chunked(OPEN, 1, 0, a, [MIN_CHUNK, 30000], end_stream=True),
            chunked(OPEN, 2, 0, b, [20000, MIN_CHUNK], end_stream=True),
        ]
        data = queues[0].pop(0) + queues[1].pop(0)
        small = [frame(OPEN, n, END_STREAM, body=bytes([n])) for n in range(3, 8)]
        queues.append(small)
        while any(queues):
            data += order.choice([q for q in queues if q]).pop(0)  # type: ignore[attr-defined]
        server = open_server()
        got = {e.stream_id: bytes(e.body) for e in feed(server, data, sizes) if isinstance(e, Message)}
        assert got == {1: a, 2: b} | {n: bytes([n]) for n in range(3, 8)}

    def test_client_streaming_mixes_small_and_large_messages_of_one_stream(self) -> None:
        big = bytes(TOTAL)
        data = frame(OPEN, 1, body=b"0") + b"".join(chunked(DATA, 1, 1, big, [MIN_CHUNK], end_stream=False))
        data += frame(DATA, 1, 0, 2, body=b"2") + b"".join(chunked(DATA, 1, 3, big, [], end_stream=True))
        events = feed(open_server(), data, [999] * 1000)
        assert [(e.seq, len(e.body), e.end_stream) for e in events if isinstance(e, Message)] == [
            (0, 1, False),
            (1, TOTAL, False),
            (2, 1, False),
            (3, TOTAL, True),
        ]


class TestGivingUp:
    def test_cancel_before_the_body_is_complete_drops_the_reservation(self) -> None:
        server = open_server()
        frames = chunked(OPEN, 1, 0, bytes(TOTAL), [MIN_CHUNK] * 9, end_stream=True)
        events = feed(server, frames[0] + frames[1] + frame(CANCEL, 1))
        assert events == [MessageAborted(1), Cancelled(1)]
        server.end(1, Status.CANCELLED)
        assert feed(server, frames[2]) == []
        assert not server.closed

    @pytest.mark.parametrize("reads", [1, 100, 1 << 20])
    @pytest.mark.parametrize("into", [0, 1, 31, 32, 33, 5000, 16383 + 32])
    def test_end_in_mid_chunk_gives_the_memory_back_with_the_next_read_and_drops_the_rest(
        self, into: int, reads: int
    ) -> None:
        server = open_server()
        frames = chunked(OPEN, 1, 0, bytes(TOTAL), [MIN_CHUNK] * 9, end_stream=True)
        rest = b"".join(frames[1:])
        assert feed(server, frames[0] + rest[:into]) == []
        server.end(1, Status.DEADLINE_EXCEEDED, "late")
        events = feed(server, rest[into:] + frame(OPEN, 2, END_STREAM, body=b"next"), [reads] * 10)
        assert events[0] == MessageAborted(1)
        assert [e.stream_id for e in events if isinstance(e, Message)] == [2]
        assert len(events) == 2

    def test_memory_under_a_read_stays_reserved_until_that_read_is_in(self) -> None:
        memory = bytearray(TOTAL)
        server = open_server(reserve=lambda *_: memoryview(memory))
        frames = chunked(OPEN, 1, 0, bytes(TOTAL), [MIN_CHUNK] * 9, end_stream=True)
        feed(server, frames[0] + frames[1][:100])
        under_read = server.next_buffer()
        server.end(1, Status.INTERNAL)
        under_read[:50] = bytes(50)  # the socket still writes there
        assert server.received(50, 0.0) == [MessageAborted(1)]

    def test_a_refused_message_is_answered_and_its_bytes_are_dropped(self) -> None:
        server = open_server(reserve=lambda *_: Refusal(Status.RESOURCE_EXHAUSTED, "no memory"))
        data = b"".join(chunked(OPEN, 1, 0, bytes(TOTAL), [MIN_CHUNK], end_stream=True))
        events = feed(server, data + frame(OPEN, 2, END_STREAM), [777] * 1000)
        assert events[0] == Refused(1, Status.RESOURCE_EXHAUSTED)
        assert [type(e) for e in events] == [Refused, Message]
        assert server.open_streams == 1

    @pytest.mark.parametrize("size", [0, TOTAL])
    def test_an_answer_to_a_message_whose_stream_was_refused_in_the_same_read_is_dropped(self, size: int) -> None:
        server = open_server(limits=Limits(max_message=TOTAL - 1))
        first = frame(OPEN, 1)
        second = frame(DATA, 1, MORE, 1, ext=body_length(TOTAL))
        message, refused = feed(server, first + second)
        assert isinstance(message, Message)
        assert isinstance(refused, Refused)
        wire_bytes(server)
        server.end(1, Status.UNIMPLEMENTED)
        server.send(1, b"", b"", [bytes(size)], size)
        assert wire_bytes(server) == b""
        feed(server, frame(PING, body=bytes(8)))
        with pytest.raises(LocalError):
            server.end(1, Status.UNIMPLEMENTED)

    def test_a_refused_reply_cancels_the_call_and_nothing_more_is_heard_of_it(self) -> None:
        client, server = open_pair(client_reserve=lambda *_: Refusal(Status.RESOURCE_EXHAUSTED, "too big"))
        client.open(b"", b"", [], 0)
        pump(client, server)
        server.send(1, b"", b"", [bytes(TOTAL)], TOTAL)
        seen, at_server = pump(client, server)
        assert seen == [Refused(1, Status.RESOURCE_EXHAUSTED)]
        assert at_server == []  # the terminal was out already
        assert (client.open_streams, server.open_streams) == (0, 0)

    def test_a_body_above_max_message_is_refused_before_memory_is_asked_for(self) -> None:
        asked: list[int] = []

        def reserve(*arguments: object) -> memoryview:
            asked.append(int(str(arguments[-1])))
            return memoryview(bytearray(8))

        for total in (2**20 + 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1):
            server = open_pair(server_reserve=reserve, server_limits=Limits(max_message=2**20))[1]
            events = feed(server, frame(OPEN, 1, END_STREAM | MORE, ext=body_length(total)))
            assert events == [Refused(1, Status.RESOURCE_EXHAUSTED)]
        assert asked == []

    def test_the_default_reserve_refuses_what_there_is_no_memory_for(self) -> None:
        client, server = open_pair(client_limits=Limits(max_message=2**63))
        client.open(b"", b"", [], 0)
        pump(client, server)
        events = feed(client, frame(DATA, 1, END_STREAM | MORE, ext=body_length(2**62)))
        assert events == [Refused(1, Status.RESOURCE_EXHAUSTED)]

    def test_the_end_of_the_stream_gives_every_reservation_back(self) -> None:
        server = open_server()
        first = chunked(OPEN, 1, 0, bytes(TOTAL), [], end_stream=True)
        second = chunked(OPEN, 2, 0, bytes(TOTAL), [], end_stream=True)
        feed(server, first[0] + second[0] + first[1][:40])
        events = server.receive_eof(0.0)
        assert events[:2] == [MessageAborted(1), MessageAborted(2)]
        assert isinstance(events[2], Closed)
        assert "truncated" in events[2].detail
        assert server.receive_eof(0.0) == []

    def test_a_connection_error_gives_every_reservation_back(self) -> None:
        server = open_server()
        first = chunked(OPEN, 1, 0, bytes(TOTAL), [], end_stream=True)[0]
        events = feed(server, first + frame(OPEN, 9))
        assert events[0] == MessageAborted(1)
        assert isinstance(events[1], Closed)

    def test_closing_gives_reservations_back_with_the_next_read(self) -> None:
        server = open_server()
        feed(server, chunked(OPEN, 1, 0, bytes(TOTAL), [], end_stream=True)[0])
        server.close(ErrorCode.SHUTDOWN)
        assert server.received(0, 0.0) == [MessageAborted(1)]

    def test_end_in_mid_reply_aborts_it_at_the_client(self) -> None:
        client, server = open_pair()
        client.open(b"", b"", [], 0)
        pump(client, server)
        server.send(1, b"", b"", [bytes(10 * 262144)], 10 * 262144)
        for buffer in server.data_to_send(1):
            feed(client, bytes(buffer))
        for buffer in server.data_to_send(1):
            feed(client, bytes(buffer))
        feed(server, frame(CANCEL, 1))
        seen, _ = pump(client, server)
        assert seen == [MessageAborted(1), Ended(1, Status.CANCELLED, False, "cancelled by the client", b"")]


class TestLengths:
    @pytest.mark.parametrize("value", BOUNDARY_U32)
    @pytest.mark.parametrize("field", ["length", "meta_len", "body"])
    @pytest.mark.parametrize("kind", [1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 15])
    def test_every_length_at_its_bounds_is_taken_or_refused_without_memory(
        self, kind: int, field: str, value: int
    ) -> None:
        server = open_server()
        feed(server, frame(OPEN, 1, body=b""))
        length = value
        meta_len = value if field == "meta_len" else 0
        if field == "body":
            meta_len, length = 5, min(value + 5, 2**32 - 1)
        stream, seq = (2, 0) if kind == OPEN else (1, 1) if kind == DATA else (1 if kind in {7, 8, 13} else 0, 0)
        header = HEADER.pack(length, kind, 0, 0, stream, seq, 0, meta_len, 0, 0)
        tracemalloc.start()
        try:
            events = feed(server, header)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 100_000
        fits = kind in {OPEN, DATA} and meta_len <= 65536 and 0 <= length - meta_len <= 65536
        fits = fits or (kind in {8, 15} and length == 0) or (kind == 15 and meta_len == length <= 1024)
        fits = fits or (kind in {11, 12} and length == 8 and not meta_len)
        assert server.closed == (not fits or (kind == 15 and length == 0))
        if not fits:
            assert isinstance(events[-1], Closed)
            assert events[-1].code in {ErrorCode.TOO_LARGE, ErrorCode.FRAME, ErrorCode.PROTOCOL}

    @pytest.mark.parametrize("ext_len", [1, 1024, 1025, 65535])
    def test_extension_length_at_its_bounds(self, ext_len: int) -> None:
        server = open_server()
        feed(server, HEADER.pack(ext_len, OPEN, 0, 0, 1, 0, 0, 0, ext_len, 0))
        assert server.closed == (ext_len > 1024)

    @pytest.mark.parametrize(
        ("size", "code"),
        [
            (0, ErrorCode.FRAME),
            (1, ErrorCode.CALM),
            (MIN_CHUNK - 1, ErrorCode.CALM),
            (MIN_CHUNK, None),
            (262144, None),
            (262145, ErrorCode.TOO_LARGE),
            (2**31, ErrorCode.TOO_LARGE),
            (2**32 - 1, ErrorCode.TOO_LARGE),
        ],
    )
    def test_chunk_length_at_its_bounds(self, size: int, code: ErrorCode | None) -> None:
        server = open_server()
        feed(server, frame(OPEN, 1, END_STREAM | MORE, ext=body_length(2**20)))
        events = feed(server, HEADER.pack(size, DATA, 0, MORE, 1, 0, 0, 0, 0, 0))
        assert [e.code for e in events if isinstance(e, Closed)] == ([] if code is None else [code])

    @pytest.mark.parametrize("total", [0, 1, 65535, 65536])
    def test_chunks_are_for_bodies_above_the_inline_cap(self, total: int) -> None:
        events = feed(open_server(), frame(OPEN, 1, END_STREAM | MORE, ext=body_length(total)))
        assert isinstance(events[0], Closed)
        assert events[0].code is ErrorCode.EXTENSION

    @pytest.mark.parametrize(
        "bad",
        [
            frame(DATA, 1, 0, 0, body=bytes(MIN_CHUNK)),  # ends too early
            frame(DATA, 1, MORE, 0, body=bytes(INLINE_BODY + 1)),  # MORE on the last
            frame(DATA, 1, END_STREAM | MORE, 0, body=bytes(MIN_CHUNK)),  # END_STREAM in the middle
            frame(DATA, 1, 0, 0, body=bytes(INLINE_BODY + 1)),  # the first frame said END_STREAM
            frame(DATA, 1, END_STREAM, 0, body=bytes(INLINE_BODY + 2)),  # runs past
            frame(DATA, 1, MORE, 1, body=bytes(MIN_CHUNK)),  # another message's
            frame(DATA, 1, MORE, 0, meta=b"m", body=bytes(MIN_CHUNK)),
            frame(DATA, 1, END_STREAM, 1, body=b"small"),
        ],
    )
    def test_a_chunk_that_disagrees_with_its_message_is_a_stream_error_of_the_connection(self, bad: bytes) -> None:
        events = feed(open_server(), frame(OPEN, 1, END_STREAM | MORE, ext=body_length(INLINE_BODY + 1)) + bad)
        assert events[0] == MessageAborted(1)
        assert isinstance(events[1], Closed)
        assert events[1].code is ErrorCode.STREAM


class TestFloods:
    def test_late_frames_are_dropped_up_to_a_number_and_then_the_peer_is_asked_to_calm_down(self) -> None:
        server = open_server(limits=Limits(max_abuse=10))
        feed(server, frame(OPEN, 1))
        server.end(1, Status.INTERNAL)
        assert feed(server, frame(DATA, 1, 0, 1) * 10) == []
        (closed,) = feed(server, frame(DATA, 1, 0, 1))
        assert isinstance(closed, Closed)
        assert closed.code is ErrorCode.CALM

    def test_late_frames_over_a_long_time_are_no_flood(self) -> None:
        server = open_server(limits=Limits(max_abuse=10))
        feed(server, frame(OPEN, 1))
        server.end(1, Status.INTERNAL)
        for second in range(100):
            assert feed(server, frame(CANCEL, 1), now=2.0 * second) == []

    def test_streams_above_the_limit_are_refused_one_by_one(self) -> None:
        server = open_server(limits=Limits(max_streams=2))
        events = feed(server, b"".join(frame(OPEN, n, END_STREAM) for n in (1, 2, 3)))
        assert events[2] == Refused(3, Status.RESOURCE_EXHAUSTED)
        server.send(1, b"", b"", [], 0)
        assert isinstance(feed(server, frame(OPEN, 4, END_STREAM))[0], Message)

    def test_nothing_is_kept_of_closed_streams(self) -> None:
        server = open_server()
        for n in range(1, 2001):
            feed(server, frame(OPEN, n, END_STREAM))
            server.send(n, b"", b"", [], 0)
            wire_bytes(server)
        assert server.open_streams == 0
        assert len(server._streams.unary) == len(server._streams.open) == 0


@pytest.mark.parametrize("size", [20_000, 25_000, 33_000])
def test_a_chunk_like_the_one_before_is_judged_as_if_nothing_had_come_before(size: int) -> None:
    """Read to its end and with the next header, as its memory asks, or with all others at once."""
    total = 100_000
    opening = frame(OPEN, 1, END_STREAM | MORE, ext=body_length(total))
    like = HEADER.pack(size, DATA, 0, MORE, 1, 0, 0, 0, 0, 0)
    last = HEADER.pack(total - 3 * size, DATA, 0, END_STREAM, 1, 0, 0, 0, 0, 0)
    headers = [(like, like, like, last), (like, like, like, like), (like, like, last, last)]
    turned = [bytes(like[:at] + bytes([like[at] ^ 1 << bit]) + like[at + 1 :]) for at in range(32) for bit in range(8)]
    headers += [(like, like, other, last) for other in turned]
    for each in headers:
        chunks = b"".join(head + bytes([number]) * size for number, head in enumerate(each))[: 32 * 4 + total]
        told = []
        for exactly in (True, False):
            server = open_server()
            first = read_exactly(server, opening)[0] + read_exactly(server, chunks[:32])[0] if exactly else []
            rest = chunks[32:] if exactly else opening + chunks
            closed = server.closed
            events = first + (read_exactly(server, rest)[0] if exactly and not closed else feed(server, rest))
            whole = [bytes(event.body) for event in events if isinstance(event, Message)]
            told.append((whole, [event for event in events if not isinstance(event, Message)]))
        assert told[0] == told[1], each
    assert len(headers) == 259
