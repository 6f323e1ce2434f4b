"""The connection: every type in every state, roles, calls of the owner, time, and the end."""

from __future__ import annotations

import pytest

from fuzz.strategies_frames import CANCEL, DATA, END_STREAM, INLINE_BODY, MIN_CHUNK, MORE, OPEN, body_length, frame
from tensorwire.protocol import (
    Authenticated,
    Cancelled,
    Closed,
    Config,
    Connection,
    Ended,
    ErrorCode,
    Event,
    FrameType,
    GoAway,
    Limits,
    LocalError,
    Message,
    Pong,
    Ready,
    Role,
    State,
    Status,
)
from tensorwire.protocol.limits import NO_NEW_STREAMS, PREFACE
from tensorwire.protocol.states import RECEIVES
from tests.protocol.wiring import (
    BOOT_ID,
    CONNECTION_ID,
    READY,
    feed,
    make_client,
    make_server,
    open_pair,
    pump,
    wire_bytes,
)

T = FrameType
TOTAL = INLINE_BODY + 3 * MIN_CHUNK


def code_of(events: list[Event]) -> ErrorCode | None:
    """Code of the Closed event that ends `events`, if one does."""
    return events[-1].code if events and isinstance(events[-1], Closed) else None


def connection_in(role: Role, state: State) -> Connection:
    """A connection in the given state; an open client has called stream 1, an open server has stream 1 open."""
    client, server = make_client(), make_server()
    hello = wire_bytes(client)
    if role is Role.SERVER:
        if state >= State.HELLO:
            feed(server, PREFACE)
        if state >= State.AUTH:
            feed(server, hello[8:])
        if state >= State.READY:
            feed(server, frame(T.AUTH))
        if state >= State.OPEN:
            server.accept(READY)
        if state in {State.READY, State.OPEN}:
            feed(server, frame(OPEN, 1))
        if state is State.CLOSED:
            server.close(ErrorCode.SHUTDOWN)
        assert server.state is state
        return server
    if state >= State.READY:
        feed(server, hello)
        feed(client, wire_bytes(server))
    if state >= State.OPEN:
        feed(client, frame(T.READY, meta=READY))
        client.open(b"", b"", [], 0)
    if state is State.CLOSED:
        client.close(ErrorCode.SHUTDOWN)
    assert client.state is state
    return client


def plausible(kind: int, role: Role) -> bytes:
    """A frame of this type that is fine where the type is."""
    if kind in {T.HELLO, T.WELCOME}:
        client, server = make_client(), make_server()
        hello = wire_bytes(client)
        feed(server, hello)
        return hello[8:] if kind == T.HELLO else wire_bytes(server)
    if kind == T.READY:
        return frame(T.READY, meta=READY)
    if kind == OPEN:
        return frame(OPEN, 2, END_STREAM)
    if kind == DATA:
        return frame(DATA, 1, 0, 1 if role is Role.SERVER else 0)
    if kind in {T.END, CANCEL}:
        return frame(kind, 1, aux=13 if kind == T.END else 0)
    if kind in {T.PING, T.PONG}:
        return frame(kind, body=bytes(8))
    return frame(kind)


STATES = [
    *((Role.SERVER, s) for s in (State.HELLO, State.AUTH, State.READY, State.OPEN)),
    *((Role.CLIENT, s) for s in (State.WELCOME, State.READY, State.OPEN)),
]


class TestStates:
    @pytest.mark.parametrize(("role", "state"), STATES)
    @pytest.mark.parametrize("kind", [*range(18), 255])
    def test_every_type_in_every_state(self, role: Role, state: State, kind: int) -> None:
        connection = connection_in(role, state)
        code = code_of(feed(connection, plausible(kind, role)))
        if kind in RECEIVES[role, state]:
            assert code is None or (kind == T.CLOSE and code is ErrorCode.NO_ERROR)
            return
        assert connection.closed
        unknown = kind in {0, T.CREDIT, T.RATE, T.RESUME, T.KEY_UPDATE, 17, 255}
        if state is State.WELCOME and unknown:
            assert code is ErrorCode.NOT_TENSORWIRE
            assert not any(data[4] == T.CLOSE for data in connection.data_to_send() if len(data) >= 32)
        else:
            assert code is (ErrorCode.FRAME if unknown else ErrorCode.PROTOCOL)

    @pytest.mark.parametrize("role", Role)
    def test_nothing_is_read_once_closed(self, role: Role) -> None:
        connection = connection_in(role, State.CLOSED)
        assert feed(connection, bytes(100)) == []
        assert connection.next_deadline() is None

    def test_the_last_bytes_of_a_refused_peer_are_close_with_the_reason(self) -> None:
        server = connection_in(Role.SERVER, State.OPEN)
        wire_bytes(server)
        (closed,) = feed(server, frame(OPEN, 7))
        assert isinstance(closed, Closed)
        assert wire_bytes(server) == frame(T.CLOSE, aux=ErrorCode.STREAM, meta=closed.detail.encode())
        assert "the next stream is 2" in closed.detail

    def test_frames_after_close_are_not_read(self) -> None:
        server = connection_in(Role.SERVER, State.OPEN)
        events = feed(server, frame(T.CLOSE, meta=b"bye") + frame(OPEN, 2))
        assert events == [Closed(ErrorCode.NO_ERROR, "bye", remote=True)]


class TestHandshakeOrder:
    def test_the_client_speaks_first_and_at_once(self) -> None:
        data = wire_bytes(make_client())
        assert data.startswith(PREFACE)
        assert data[8 + 4] == T.HELLO

    def test_calls_are_held_until_welcome_and_follow_auth_in_one_write(self) -> None:
        client, server = make_client(), make_server()
        first = client.open(b"m", b"", [b"1"], 1)
        second = client.open(b"m", b"", [bytes(TOTAL)], TOTAL)
        client.cancel(first)
        assert (first, second) == (1, 2)
        feed(server, wire_bytes(client))
        assert wire_bytes(client) == b""
        feed(client, wire_bytes(server))
        events = feed(server, wire_bytes(client))
        assert [type(e) for e in events] == [Authenticated, Message, Cancelled, Message]
        authenticated = events[0]
        assert isinstance(authenticated, Authenticated)
        assert authenticated.hello.features == (0x0A0A,)

    def test_the_server_answers_nothing_before_its_owner_accepts(self) -> None:
        client, server = make_client(), make_server(Limits(max_streams=1))
        client.open(b"", b"", [], 0)
        client.open(b"", b"", [], 0)
        feed(server, wire_bytes(client))
        feed(client, wire_bytes(server))
        feed(server, wire_bytes(client) + frame(T.PING, body=bytes(8)))
        assert wire_bytes(server) == b""
        with pytest.raises(LocalError, match="accept"):
            server.send(1, b"", b"", [], 0)
        server.accept(READY)
        seen = feed(client, wire_bytes(server))
        assert isinstance(seen[0], Ready)
        assert isinstance(seen[1], Ended)
        assert seen[1].not_started
        assert seen[2] == Pong(bytes(8))

    def test_what_both_sides_know_afterwards(self) -> None:
        client, server = open_pair(server_limits=Limits(chunk=65536, max_streams=7))
        assert client.connection_id == CONNECTION_ID
        assert client.boot_id == BOOT_ID
        assert client.version == server.version == 1
        assert client.peer_limits.max_streams == 7
        assert client._writer.chunk == server._writer.chunk == 65536
        assert client.request_id(17) == "5f0c1d2e3b4a5968-17"

    @pytest.mark.parametrize("options", [{"nonce": b"x"}, {"connection_id": b""}, {"boot_id": b"1"}])
    def test_ids_of_a_wrong_size_are_refused(self, options: dict[str, bytes]) -> None:
        good = {"nonce": bytes(32), "connection_id": bytes(8), "boot_id": bytes(16)}
        with pytest.raises(ValueError, match="nonce is 32 bytes"):
            Connection(Config(Role.SERVER), now=0.0, **(good | options))  # type: ignore[arg-type]

    def test_a_receive_buffer_must_hold_the_largest_frame(self) -> None:
        with pytest.raises(ValueError, match="receive_buffer"):
            Connection(Config(Role.CLIENT), now=0.0, nonce=bytes(32), receive_buffer=memoryview(bytearray(131072)))

    @pytest.mark.parametrize("wrong", [memoryview(bytes(262144)), memoryview(bytearray(262144)).cast("I")])
    def test_a_receive_buffer_is_writable_bytes(self, wrong: memoryview) -> None:
        with pytest.raises(ValueError, match="receive_buffer"):
            Connection(Config(Role.CLIENT), now=0.0, nonce=bytes(32), receive_buffer=wrong)

    def test_macs_that_are_not_there_are_refused_at_once(self) -> None:
        with pytest.raises(ValueError, match="only"):
            Connection(Config(Role.CLIENT, mac_algorithms=("blake3",)), now=0.0, nonce=bytes(32))


class TestCalls:
    def test_unary(self) -> None:
        client, server = open_pair()
        assert client.open(b"meta", b"", [b"bo", memoryview(b"dy")], 4, priority=3, deadline_us=99) == 1
        _, seen = pump(client, server)
        assert seen == [Message(1, 0, END_STREAM, 3, 99, b"", b"meta", memoryview(b"body"), owned=True)]
        server.send(1, b"reply", b"", [b"x"], 1)
        seen, _ = pump(client, server)
        assert seen == [Message(1, 0, END_STREAM, 3, 0, b"", b"reply", memoryview(b"x"), owned=True)]
        assert client.open_streams == server.open_streams == 0

    def test_both_sides_stream(self) -> None:
        client, server = open_pair()
        client.open(b"", b"", [b"0"], 1, flags=0)
        client.send(1, b"", b"", [b"1"], 1, flags=0)
        client.send(1, b"", b"", [bytes(TOTAL)], TOTAL, flags=END_STREAM)
        with pytest.raises(LocalError, match="half_closed"):
            client.send(1, b"", b"", [], 0)
        _, seen = pump(client, server)
        assert [(e.seq, len(e.body), e.end_stream) for e in seen if isinstance(e, Message)] == [
            (0, 1, False),
            (1, 1, False),
            (2, TOTAL, True),
        ]
        for n in range(4):
            server.send(1, b"", b"", [bytes(TOTAL) if n == 1 else b"r"], TOTAL if n == 1 else 1, flags=int(n == 3))
        with pytest.raises(LocalError, match="finishing"):
            server.send(1, b"", b"", [], 0)
        replies, _ = pump(client, server)
        assert [(e.seq, len(e.body), e.end_stream) for e in replies if isinstance(e, Message)] == [
            (0, 1, False),
            (1, TOTAL, False),
            (2, 1, False),
            (3, 1, True),
        ]
        assert client.open_streams == server.open_streams == 0

    def test_the_server_may_end_a_stream_that_the_client_still_feeds(self) -> None:
        client, server = open_pair()
        client.open(b"", b"", [bytes(40 * MIN_CHUNK)], 40 * MIN_CHUNK)
        feed(server, b"".join(map(bytes, client.data_to_send(1))))
        server.end(1, Status.NOT_FOUND, "no such model", not_started=True)
        seen, at_server = pump(client, server)
        assert seen == [Ended(1, Status.NOT_FOUND, True, "no such model", b"")]
        assert [type(e).__name__ for e in at_server] == ["MessageAborted"]
        assert client.outbound_bytes == 0
        with pytest.raises(LocalError):
            server.end(1, Status.NOT_FOUND)

    def test_cancel_is_heard_once_and_answered_by_one_end(self) -> None:
        client, server = open_pair()
        client.open(b"", b"", [], 0)
        client.cancel(1)
        client.cancel(1)
        client.cancel(99)
        _, seen = pump(client, server)
        assert [type(e) for e in seen] == [Message, Cancelled]
        assert client.open_streams == server.open_streams == 1
        server.end(1, Status.CANCELLED)
        assert pump(client, server) == ([], [])
        assert client.open_streams == server.open_streams == 0

    def test_cancel_that_crosses_the_reply_is_dropped(self) -> None:
        client, server = open_pair()
        client.open(b"", b"", [], 0)
        pump(client, server)
        client.cancel(1)
        server.send(1, b"", b"", [b"r"], 1)
        assert pump(client, server) == ([], [])
        assert client.open_streams == server.open_streams == 0

    @pytest.mark.parametrize("into", [0, 32, 33, 5000])
    def test_cancel_in_the_middle_of_the_last_chunk_of_a_reply_ends_the_stream(self, into: int) -> None:
        client, server = open_pair()
        client.open(b"", b"", [], 0)
        pump(client, server)
        server.send(1, b"", b"", [bytes(70_000)], 70_000)
        data = wire_bytes(server)
        first = 32 + 10  # header and BODY_LENGTH
        feed(client, data[: first + into])
        client.cancel(1)
        assert [type(e).__name__ for e in feed(client, data[first + into :])] == ["MessageAborted"]
        assert client.open_streams == 0

    def test_cancel_of_a_large_upload_stops_it(self) -> None:
        client, server = open_pair()
        client.open(b"", b"", [bytes(1 << 22)], 1 << 22)
        feed(server, b"".join(map(bytes, client.data_to_send(1))))
        client.cancel(1)
        data = wire_bytes(client)
        assert len(data) < 10_000
        assert [type(e).__name__ for e in feed(server, data)] == ["MessageAborted", "Cancelled"]

    def test_not_started_is_not_claimed_after_a_reply_or_beside_ok(self) -> None:
        client, server = open_pair()
        client.open(b"", b"", [], 0)
        client.open(b"", b"", [], 0)
        pump(client, server)
        server.send(1, b"", b"", [], 0, flags=0)
        server.end(1, Status.INTERNAL, not_started=True)
        server.end(2, Status.OK, not_started=True)
        seen, _ = pump(client, server)
        assert [e.not_started for e in seen if isinstance(e, Ended)] == [False, False]

    def test_a_long_detail_is_cut_between_characters(self) -> None:
        client, server = open_pair()
        client.open(b"", b"", [], 0)
        pump(client, server)
        server.end(1, Status.INTERNAL, "ä" * 1000)
        seen, _ = pump(client, server)
        assert isinstance(seen[0], Ended)
        assert seen[0].detail == "ä" * 512

    def test_metadata_or_extension_over_the_cap_is_the_callers_error_and_costs_no_stream(self) -> None:
        client, _server = open_pair()
        for meta, ext in ((bytes(65537), b""), (b"", bytes(1025))):
            with pytest.raises(LocalError, match="at most"):
                client.open(meta, ext, [], 0)
        with pytest.raises(ValueError, match="body_length"):
            client.open(b"", b"", [b"x"], TOTAL)
        assert client.last_stream_id == 0

    def test_roles_are_kept(self) -> None:
        client, server = open_pair()
        with pytest.raises(LocalError):
            server.open(b"", b"", [], 0)
        client.open(b"", b"", [], 0)
        with pytest.raises(LocalError):
            client.end(1, Status.OK)
        pump(client, server)
        with pytest.raises(LocalError):
            server.cancel(1)
        assert wire_bytes(server) == b""
        with pytest.raises(LocalError, match="accept"):
            client.accept(READY)

    def test_cancel_is_sent_once(self) -> None:
        client, _ = open_pair()
        client.open(b"", b"", [], 0)
        wire_bytes(client)
        client.cancel(1)
        client.cancel(1)
        assert wire_bytes(client) == frame(CANCEL, 1)

    def test_nothing_is_sent_on_a_call_whose_last_message_is_out(self) -> None:
        client, _ = open_pair()
        client.open(b"", b"", [], 0)
        with pytest.raises(LocalError, match="half_closed"):
            client.send(1, b"", b"", [], 0)
        with pytest.raises(LocalError, match="not open"):
            client.send(2, b"", b"", [], 0)

    def test_a_large_call_is_closed_for_its_client_as_its_flags_say(self) -> None:
        client, _ = open_pair()
        client.open(b"", b"", [bytes(TOTAL)], TOTAL, flags=END_STREAM)
        with pytest.raises(LocalError, match="half_closed"):
            client.send(1, b"", b"", [], 0)
        client.open(b"", b"", [bytes(TOTAL)], TOTAL, flags=0)
        client.send(2, b"", b"", [], 0)

    def test_a_large_terminal_that_is_queued_cannot_be_ended_once_more(self) -> None:
        client, server = open_pair()
        client.open(b"", b"", [], 0)
        pump(client, server)
        server.send(1, b"", b"", [bytes(TOTAL)], TOTAL)
        with pytest.raises(LocalError, match="finishing"):
            server.end(1, Status.INTERNAL)
        (reply,), _ = pump(client, server)
        assert isinstance(reply, Message)
        assert len(reply.body) == TOTAL

    def test_a_large_reply_waits_for_accept_too(self) -> None:
        server = connection_in(Role.SERVER, State.READY)
        with pytest.raises(LocalError, match="accept"):
            server.send(1, b"", b"", [bytes(TOTAL)], TOTAL)

    @pytest.mark.parametrize(("meta", "ext"), [(bytes(65537), b""), (b"", bytes(1016)), (b"", bytes(1026))])
    @pytest.mark.parametrize("size", [0, TOTAL])
    def test_caps_hold_for_later_messages_and_large_ones(self, meta: bytes, ext: bytes, size: int) -> None:
        client, _ = open_pair()
        client.open(b"", b"", [], 0, flags=0)
        if size or len(ext) != 1016:  # 1016 and BODY_LENGTH are too much together
            with pytest.raises(LocalError, match="at most"):
                client.send(1, meta, ext, [bytes(size)], size)
            client.send(1, b"", b"", [], 0)  # nothing was queued or counted

    def test_goaway_and_accept_are_the_servers(self) -> None:
        client, server = open_pair()
        with pytest.raises(LocalError, match="server's"):
            client.goaway(0, ErrorCode.SHUTDOWN)
        with pytest.raises(LocalError, match="state is OPEN"):
            server.accept(READY)

    def test_a_closed_connection_swallows_late_answers(self) -> None:
        client, server = open_pair()
        client.open(b"", b"", [], 0)
        pump(client, server)
        server.close(ErrorCode.SHUTDOWN)
        server.send(1, b"", b"", [], 0)
        server.end(1, Status.OK)
        seen, _ = pump(client, server)
        assert seen == [Closed(ErrorCode.SHUTDOWN, "", remote=True)]
        with pytest.raises(LocalError, match="closed"):
            client.open(b"", b"", [], 0)


class TestDrain:
    def test_no_stream_is_opened_after_goaway(self) -> None:
        client, server = open_pair()
        server.goaway(NO_NEW_STREAMS, ErrorCode.SHUTDOWN, "bye")
        server.ping(b"draining")
        seen, at_server = pump(client, server)
        assert seen == [GoAway(NO_NEW_STREAMS, ErrorCode.SHUTDOWN, "bye")]
        assert at_server == [Pong(b"draining")]
        with pytest.raises(LocalError, match="draining"):
            client.open(b"", b"", [], 0)

    def test_a_client_takes_the_same_or_a_lower_last_stream_and_refuses_a_higher_one(self) -> None:
        client = connection_in(Role.CLIENT, State.OPEN)
        events = feed(client, b"".join(frame(T.GOAWAY, n) for n in (9, 9, 4)))
        assert [e.last_stream_id for e in events if isinstance(e, GoAway)] == [9, 9, 4]
        assert code_of(feed(client, frame(T.GOAWAY, 5))) is ErrorCode.STREAM

    def test_the_last_stream_only_falls(self) -> None:
        _client, server = open_pair()
        server.goaway(5, ErrorCode.SHUTDOWN)
        with pytest.raises(LocalError, match="rise"):
            server.goaway(6, ErrorCode.SHUTDOWN)

    def test_close_lets_whole_frames_go_first_and_drops_chunks(self) -> None:
        client, server = open_pair()
        for _ in range(2):
            client.open(b"", b"", [], 0)
        pump(client, server)
        server.send(2, b"", b"", [bytes(1 << 21)], 1 << 21)
        server.send(1, b"", b"", [b"last"], 4)
        server.close(ErrorCode.SHUTDOWN, "bye")
        seen, _ = pump(client, server)
        assert [bytes(e.body) for e in seen if isinstance(e, Message)] == [b"last"]
        assert code_of(seen) is ErrorCode.SHUTDOWN


class TestTime:
    @pytest.mark.parametrize("role", Role)
    def test_a_silent_handshake_is_given_up(self, role: Role) -> None:
        make = make_client if role is Role.CLIENT else make_server
        connection = make(Limits(handshake_timeout=2.0), now=100.0)
        assert connection.next_deadline() == 102.0
        assert connection.handle_timeout(101.9) == []
        assert code_of(connection.handle_timeout(102.0)) is ErrorCode.TIMEOUT
        assert connection.closed

    def test_a_stranger_that_says_nothing_is_answered_nothing(self) -> None:
        server = make_server(Limits(handshake_timeout=2.0))
        assert code_of(server.handle_timeout(2.0)) is ErrorCode.TIMEOUT
        assert wire_bytes(server) == b""

    def test_no_timer_is_wanted_once_open(self) -> None:
        client, server = open_pair()
        assert client.next_deadline() is None
        assert server.next_deadline() is None

    def test_a_peer_that_answers_no_ping_is_given_up_while_calls_are_open(self) -> None:
        client, server = open_pair(client_limits=Limits(ping_interval=10.0, ping_timeout=5.0))
        assert client.next_deadline() is None
        client.open(b"", b"", [], 0)
        wire_bytes(client)
        assert client.next_deadline() == 10.0
        assert client.handle_timeout(10.0) == []
        assert client.next_deadline() == 15.0
        feed(server, frame(OPEN, 1, END_STREAM) + wire_bytes(client))
        feed(client, wire_bytes(server), now=14.0)
        assert client.next_deadline() == 24.0
        client.handle_timeout(24.0)
        assert code_of(client.handle_timeout(29.0)) is ErrorCode.TIMEOUT


class TestFloods:
    def test_pings_whose_answers_are_not_read_end_in_calm(self) -> None:
        server = connection_in(Role.SERVER, State.OPEN)
        events = feed(server, frame(T.PING, body=bytes(8)) * 30_000)
        assert code_of(events) is ErrorCode.CALM
        assert server.outbound_bytes < 1_200_000

    def test_pings_whose_answers_are_read_are_fine(self) -> None:
        server = connection_in(Role.SERVER, State.OPEN)
        for _ in range(300):
            assert feed(server, frame(T.PING, body=bytes(8)) * 100) == []
            wire_bytes(server)

    def test_open_and_cancel_counts_until_the_work_ends(self) -> None:
        server = make_server(Limits(max_streams=3))
        feed(server, wire_bytes(make_client()) + frame(T.AUTH))
        server.accept(READY)
        events = feed(server, b"".join(frame(OPEN, n, END_STREAM) + frame(CANCEL, n) for n in range(1, 6)))
        assert [type(e).__name__ for e in events] == ["Message", "Cancelled"] * 3 + ["Refused"] * 2

    def test_answers_owed_are_counted_to_the_byte(self) -> None:
        server = make_server(Limits(max_control=400))
        feed(server, wire_bytes(make_client()) + frame(T.AUTH))
        server.accept(READY)
        assert feed(server, frame(T.PING, body=bytes(8)) * 10) == []
        assert code_of(feed(server, frame(T.PING, body=bytes(8)))) is ErrorCode.CALM

    def test_refusals_that_are_not_read_end_in_calm(self) -> None:
        server = make_server(Limits(max_streams=1, max_control=10_000))
        feed(server, wire_bytes(make_client()) + frame(T.AUTH))
        server.accept(READY)
        wire_bytes(server)
        events = feed(server, b"".join(frame(OPEN, n, END_STREAM) for n in range(1, 1000)))
        assert code_of(events) is ErrorCode.CALM
        assert server.outbound_bytes < 11_000

    @pytest.mark.parametrize("kind", ["refused stream", "late cancel", "late data", "second cancel"])
    def test_late_and_refused_frames_share_one_limit(self, kind: str) -> None:
        server = make_server(Limits(max_streams=1, max_abuse=5))
        feed(server, wire_bytes(make_client()) + frame(T.AUTH))
        server.accept(READY)
        feed(server, frame(OPEN, 1))
        if kind == "second cancel":
            feed(server, frame(CANCEL, 1))
        elif kind.startswith("late"):
            server.end(1, Status.INTERNAL)
        abuse = {"late data": frame(DATA, 1, 0, 1)}.get(kind, frame(CANCEL, 1))
        ids = iter(range(2, 99))
        for n in range(6):
            data = frame(OPEN, next(ids), END_STREAM) if kind == "refused stream" else abuse
            code = code_of(feed(server, data, now=9.0))
            assert code is (None if n < 5 else ErrorCode.CALM)

    @pytest.mark.parametrize(("moment", "calm"), [(10.0, True), (10.1, False)])
    def test_the_count_of_late_frames_begins_anew_after_ten_seconds(self, moment: float, calm: bool) -> None:
        server = make_server(Limits(max_abuse=5))
        feed(server, wire_bytes(make_client()) + frame(T.AUTH))
        server.accept(READY)
        feed(server, frame(OPEN, 1))
        server.end(1, Status.INTERNAL)
        assert feed(server, frame(CANCEL, 1) * 5, now=0.0) == []
        assert (code_of(feed(server, frame(CANCEL, 1), now=moment)) is ErrorCode.CALM) == calm


class TestTerminalStopsTheUpload:
    @pytest.mark.parametrize("size", [0, TOTAL])
    def test_no_chunk_is_begun_once_the_terminal_is_read(self, size: int) -> None:
        client, server = open_pair()
        client.open(b"", b"", [b"0"], 1, flags=0)
        client.send(1, b"", b"", [bytes(1 << 22)], 1 << 22)
        feed(server, b"".join(map(bytes, client.data_to_send(1))))
        server.send(1, b"", b"", [bytes(size)], size)
        (reply,) = feed(client, wire_bytes(server))
        assert isinstance(reply, Message)
        assert wire_bytes(client) == b""
        assert (client.outbound_bytes, client.open_streams) == (0, 0)


class TestDrafts:
    @pytest.mark.parametrize("flag", [0x08, 0x10, 0x20, 0x40, 0x8000])
    @pytest.mark.parametrize("extra", [0, END_STREAM, MORE])
    def test_flags_of_features_not_negotiated_are_errors(self, flag: int, extra: int) -> None:
        server = connection_in(Role.SERVER, State.OPEN)
        ext = body_length(TOTAL) if extra == MORE else b""
        assert code_of(feed(server, frame(OPEN, 2, flag | extra, ext=ext))) is ErrorCode.FRAME

    @pytest.mark.parametrize("item", [b"\x03\x10" + bytes(16), b"\x04\x18" + bytes(24), b"\x06\x1c" + bytes(28)])
    def test_items_of_features_not_negotiated_or_misplaced_are_errors(self, item: bytes) -> None:
        server = connection_in(Role.SERVER, State.OPEN)
        assert code_of(feed(server, frame(OPEN, 2, END_STREAM, ext=item))) is ErrorCode.EXTENSION
