"""What is like the call, or reply, before it is taken without a second look: never what another look would refuse."""

from __future__ import annotations

import pytest

from fuzz.strategies_frames import DATA, END_STREAM, HEADER, OPEN, frame
from tensorwire.protocol import (
    Connection,
    ErrorCode,
    Event,
    Limits,
    LocalError,
    Message,
    ReplyForm,
    Status,
    pack_extension,
)
from tensorwire.protocol.frame_rules import BASE_RULES
from tests.protocol.wiring import feed, make_client, make_server, open_pair, wire_bytes

EXT = pack_extension(dims=bytes(16))
META = b"some metadata"
BODY = bytes(range(64))


def forget() -> None:
    """As if no call and no reply had come yet."""
    BASE_RULES.repeated_calls.template = BASE_RULES.repeated_replies.template = None


def remembers() -> bool:
    return BASE_RULES.repeated_calls.template is not None


def call(stream_id: int, deadline: int = 0, body: bytes = BODY) -> bytes:
    return frame(OPEN, stream_id, END_STREAM, aux=deadline, ext=EXT, meta=META, body=body)


def reply(stream_id: int, body: bytes = BODY) -> bytes:
    return frame(DATA, stream_id, END_STREAM, ext=EXT, meta=META, body=body)


def seen(connection: Connection, events: list[Event]) -> list[object]:
    """All that an owner, and the peer, can tell of it."""
    told: list[object] = [
        (e.stream_id, e.seq, e.flags, e.priority, e.aux, e.ext, e.meta, bytes(e.body), e.owned)
        if isinstance(e, Message)
        else repr(e)
        for e in events
    ]
    return [*told, connection.closed, wire_bytes(connection)]


def waiting_client(calls: int) -> Connection:
    client = open_pair()[0]
    for _ in range(calls):
        client.open(META, EXT, [BODY], len(BODY))
    wire_bytes(client)
    return client


def turned(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


BITS = (HEADER.size + len(EXT) + len(META)) * 8


@pytest.mark.parametrize("role", ["server", "client"])
def test_every_turned_bit_is_judged_as_if_nothing_had_come_before(role: str) -> None:
    another = call if role == "server" else reply
    alike = another(1) + another(2) + another(3)
    for bit in range(BITS):
        told = []
        for fast in (True, False):
            connection = open_pair()[1] if role == "server" else waiting_client(6)
            forget()
            events = seen(connection, feed(connection, alike))
            if not fast:
                forget()
            events += seen(connection, feed(connection, turned(another(4), bit) + another(5)))
            told.append(events)
        assert told[0] == told[1], f"bit {bit} of the header, extension and metadata"


def test_like_calls_keep_their_own_ids_deadlines_and_bodies() -> None:
    server = open_pair()[1]
    forget()
    bodies = [bytes([n]) * 64 for n in range(1, 7)]
    events = feed(server, b"".join(call(n, deadline=n * 1000, body=bodies[n - 1]) for n in range(1, 7)))
    assert remembers()
    got = [(e.stream_id, e.aux, bytes(e.body), e.ext, e.meta) for e in events if isinstance(e, Message)]
    assert got == [(n, n * 1000, bodies[n - 1], EXT, META) for n in range(1, 7)]


def test_a_call_on_one_connection_is_known_on_the_next_one_with_its_own_ids() -> None:
    forget()
    first, second = open_pair()[1], open_pair()[1]
    feed(first, call(1) + call(2) + call(3))
    (message,) = feed(second, call(1))
    assert isinstance(message, Message)
    (message,) = feed(first, call(4))
    assert isinstance(message, Message)
    (closed,) = feed(second, call(3))
    assert "the next stream is 2" in repr(closed)


def test_calls_that_take_turns_do_not_make_a_memory_each() -> None:
    forget()
    server = open_pair()[1]
    feed(server, call(1) + call(2) + call(3))
    known = BASE_RULES.repeated_calls.template
    other = [frame(OPEN, n, END_STREAM, meta=b"of another model") for n in range(5, 12, 2)]
    events = feed(server, b"".join(call(n) + other[at] for at, n in enumerate(range(4, 11, 2))))
    assert [e.meta for e in events if isinstance(e, Message)] == [META, b"of another model"] * 4
    assert BASE_RULES.repeated_calls.template is known
    feed(server, frame(OPEN, 12, END_STREAM, meta=b"of another model"))
    assert BASE_RULES.repeated_calls.template is not known


def test_no_more_streams_are_opened_than_may_be() -> None:
    forget()
    server = open_pair(server_limits=Limits(max_streams=3))[1]
    events = feed(server, b"".join(call(n) for n in range(1, 6)))
    assert [type(e).__name__ for e in events] == ["Message"] * 3 + ["Refused"] * 2
    for event in events[:3]:
        assert isinstance(event, Message)
        server.end(event.stream_id, Status.INTERNAL)
    assert [type(e).__name__ for e in feed(server, call(6) + call(7))] == ["Message"] * 2


def test_a_reply_comes_once() -> None:
    forget()
    client = waiting_client(4)
    assert len(feed(client, reply(2) + reply(1) + reply(4))) == 3
    (closed,) = feed(client, reply(4))
    assert "after its terminal" in repr(closed)


def test_nothing_is_taken_before_ready() -> None:
    forget()
    feed(open_pair()[1], call(1) + call(2) + call(3))
    assert remembers()
    told = []
    for known in (True, False):
        server = make_server()
        feed(server, wire_bytes(make_client()))  # AUTH is still to come
        if not known:
            forget()
        told.append(seen(server, feed(server, call(1))))
    assert told[0] == told[1]
    assert "Closed" in str(told[0])


# ---- replies of one form ----


def of_form(form: ReplyForm, priority: int, *stream_ids: int) -> list[bytes | memoryview]:
    heads = [form.pack(form.begin(priority), stream_id, form.rest) for stream_id in stream_ids]
    return [part for head in heads for part in (head, BODY[:10], memoryview(BODY)[10:])]


@pytest.mark.parametrize("priority", [0, 3])
def test_replies_of_a_form_are_the_same_bytes_as_send(priority: int) -> None:
    form = ReplyForm(META, EXT, len(BODY))
    sent = []
    for use_form in (True, False):
        server = open_pair()[1]
        feed(server, b"".join(frame(OPEN, n, END_STREAM, priority=priority, meta=META, body=BODY) for n in (1, 2, 3)))
        if use_form:
            assert server.replies([3, 1], priority, of_form(form, priority, 3, 1), 2 * form.nbytes)
        else:
            for stream_id in (3, 1):
                server.send(stream_id, META, EXT, [BODY], len(BODY))
        assert server.outbound_bytes == 2 * form.nbytes
        sent.append(wire_bytes(server))
        server.send(2, META, EXT, [BODY], len(BODY))
    assert sent[0] == sent[1]
    assert len(sent[0]) == 2 * form.nbytes


def test_replies_of_a_form_are_all_queued_or_none() -> None:
    """Not those on a stream that is over, that came in chunks, or that is none of this side's to answer."""
    form = ReplyForm(META, EXT, len(BODY))
    server = open_pair()[1]
    feed(server, call(1) + call(2) + frame(OPEN, 3, 0, ext=EXT, meta=META, body=BODY))
    assert server.replies([1], 0, of_form(form, 0, 1), form.nbytes)
    wire_bytes(server)
    for stream_ids in ([2, 1], [1], [2, 3], [2, 9]):
        assert not server.replies(stream_ids, 0, of_form(form, 0, *stream_ids), form.nbytes * len(stream_ids))
    assert wire_bytes(server) == b""
    assert server.replies([2], 0, of_form(form, 0, 2), form.nbytes)
    client = waiting_client(1)
    assert not client.replies([1], 0, of_form(form, 0, 1), form.nbytes)
    server.close(ErrorCode.NO_ERROR, "")
    assert not server.replies([2], 0, of_form(form, 0, 2), form.nbytes)


def test_replies_behind_others_begin_a_record_of_their_own_where_one_would_be_too_long() -> None:
    form = ReplyForm(b"m", b"", 30_000)
    server = open_pair()[1]
    feed(server, b"".join(frame(OPEN, n, END_STREAM, meta=META, body=BODY) for n in (1, 2, 3, 4)))
    body = bytes(30_000)
    for pair in ([1, 2], [3, 4]):
        frames: list[bytes | memoryview] = []
        for n in pair:
            frames += [form.pack(form.begin(0), n, form.rest), body]
        assert server.replies(pair, 0, frames, 2 * form.nbytes)
    lane = server._writer.base
    assert ([nbytes for _, nbytes in lane.full], lane.nbytes) == ([2 * form.nbytes], 2 * form.nbytes)


def test_a_form_that_does_not_fit_in_one_frame_is_refused() -> None:
    with pytest.raises(LocalError, match="does not fit in one frame"):
        ReplyForm(META, EXT, 65537)
    with pytest.raises(LocalError, match="bytes of metadata"):
        ReplyForm(bytes(1 << 20), EXT, 1)
