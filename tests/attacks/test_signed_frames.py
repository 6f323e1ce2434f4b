"""Every frame type in every state of a signed connection, in records and outside of them; records that are none.

The peer is an insider here: he has the key, so each of his tags is right, and only the other rules stand in his way.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from functools import partial
from itertools import repeat

import pytest

from tensorwire.protocol import (
    Authenticated,
    Closed,
    ErrorCode,
    Event,
    FrameType,
    Message,
    MessageAborted,
    Ready,
    Status,
    pack_extension,
)
from tensorwire.protocol.header import END_STREAM, HEADER_SIZE, MORE
from tensorwire.protocol.limits import PREFACE
from tests.attacks.signed import SUITES, End, Insider, Sealer, client, flipped, plain, records_of, server
from tests.protocol.wiring import READY

pytestmark = pytest.mark.parametrize("suite", SUITES)

T = FrameType
KINDS = range(20)
LARGEST = 32 + 1024 + 65536 + 65536  # bytes of a frame that is no chunk (SPEC 19.4)
CHUNK = 16384


class Stage:
    """One end brought to a state by an honest peer, and the peer's next record."""

    def __init__(self, end: End, sealer: Sealer) -> None:
        self.end, self.sealer = end, sealer
        self.before = len(end.events)

    def feed(self, data: bytes) -> list[Event]:
        self.end.feed(data)
        return self.end.events[self.before :]


class Patient(End):
    """A server's owner who thinks about it before he accepts."""

    def _note(self, events: list[Event]) -> list[Event]:
        self.events += events
        return events


def server_at(suite: str, state: str) -> Stage:
    """States of 9.1 in which a server reads: hello, auth, ready (not accepted yet), open."""
    hello = client(suite).said()
    end = server(suite, kind=Patient if state == "ready" else End)
    twin = server(suite)
    twin.feed(hello)
    insider = Insider(hello[len(PREFACE) :], twin.said())
    end.feed(hello[: len(PREFACE)] if state == "hello" else hello)
    end.said()
    if state in ("ready", "open"):
        end.feed(insider.auth())
        end.said()
    return Stage(end, insider.sealer(suite, "client"))


def client_at(suite: str, state: str) -> Stage:
    """States in which a client reads: welcome, ready, open; it has stream 1 open."""
    end = client(suite)
    end.connection.open(b"m", b"", [], 0, flags=0)
    hello = end.said()
    theirs = server(suite)
    theirs.feed(hello)
    welcome = theirs.said()
    insider = Insider(hello[len(PREFACE) :], welcome)
    sealer = insider.sealer(suite, "server")
    if state in ("ready", "open"):
        end.feed(welcome)
        end.said()
    if state == "open":
        end.feed(sealer.seal(plain(T.READY, READY)))
    return Stage(end, sealer)


STAGES: dict[str, Callable[[str], Stage]] = {
    f"{bring.__name__[:6]} {state}": partial(bring, state=state)
    for bring, states in ((server_at, ("hello", "auth", "ready", "open")), (client_at, ("welcome", "ready", "open")))
    for state in states
}
# SPEC 6.1 and 9.1: what the peer may say in a record. Before its keys are agreed on there are no records.
ALLOWED = {
    "server hello": set(),
    "server auth": set(),
    "server ready": {T.OPEN, T.DATA, T.CANCEL, T.PING, T.CLOSE},
    "server open": {T.OPEN, T.DATA, T.CANCEL, T.PING, T.PONG, T.CLOSE},
    "client welcome": set(),
    "client ready": {T.READY, T.CLOSE},
    "client open": {T.DATA, T.END, T.PING, T.PONG, T.GOAWAY, T.CLOSE},
}
# Of the plain frames only these are frames of the handshake; a CLOSE of that time is a hint, and ends the connection.
PLAIN = {"server hello": {T.HELLO, T.CLOSE}, "server auth": {T.AUTH, T.CLOSE}, "client welcome": {T.WELCOME, T.CLOSE}}
SIGNED = {"server ready", "server open", "client ready", "client open"}


def sample(kind: int, seq: int = 0) -> bytes:
    """A frame of this type that is right where the type is."""
    match kind:
        case T.READY:
            return plain(kind, READY)
        case T.OPEN:
            return plain(kind, b"m", b"body", stream_id=1, flags=END_STREAM)
        case T.DATA:
            return plain(kind, b"m", b"body", stream_id=1, flags=END_STREAM, seq=seq)
        case T.END | T.CANCEL:
            return plain(kind, stream_id=1)
        case T.PING | T.PONG:
            return plain(kind, body=b"12345678")
        case _:
            return plain(kind)


def opened(stage: Stage, suite: str, name: str) -> None:
    """A server has stream 1 open, so that DATA and CANCEL have something to be about."""
    if name in ("server ready", "server open"):
        stage.feed(stage.sealer.seal(plain(T.OPEN, b"m", stream_id=1)))
        stage.before = len(stage.end.events)


def ended(stage: Stage) -> tuple[list[Event], Closed]:
    """The peer's stream ends: what the end was told since `stage.before`, and with what it closed."""
    stage.end.end_of_stream()
    *events, closed = stage.feed(b"")
    assert isinstance(closed, Closed)
    return events, closed


@pytest.mark.parametrize("name", STAGES)
def test_every_frame_type_in_a_record_in_every_state(suite: str, name: str) -> None:
    for kind in KINDS:
        stage = STAGES[name](suite)
        if kind in (T.DATA, T.CANCEL):
            opened(stage, suite, name)
        stage.feed(stage.sealer.seal(sample(kind, seq=int(name.startswith("server")))))
        events, closed = ended(stage)
        if kind in ALLOWED[name]:
            text = "" if kind == T.CLOSE else "the connection ended without CLOSE"
            assert closed == Closed(ErrorCode.NO_ERROR, text, remote=True), kind
        else:
            assert events == [], kind
            assert name not in SIGNED or closed.code in (ErrorCode.PROTOCOL, ErrorCode.FRAME), kind
            assert name not in SIGNED or not closed.remote, kind


@pytest.mark.parametrize("name", STAGES)
def test_every_frame_type_outside_of_a_record_in_every_state(suite: str, name: str) -> None:
    """Once records are due nothing else is heard; before, only the handshake, and it needs its proof."""
    for kind in KINDS:
        stage = STAGES[name](suite)
        stage.feed(sample(kind))
        events, closed = ended(stage)
        assert events == [], kind
        if name in SIGNED:
            assert closed.code is ErrorCode.FRAME, kind  # n, the length of the frame, is less than a frame's
            assert not closed.remote
        elif kind not in PLAIN[name]:
            assert closed.code in (ErrorCode.PROTOCOL, ErrorCode.FRAME, ErrorCode.NOT_TENSORWIRE), kind


@pytest.mark.parametrize("name", sorted(SIGNED))
def test_a_close_that_is_not_signed_is_not_believed(suite: str, name: str) -> None:
    """It would be a truncation that looks orderly: with a text it is read as a record, and the tag is wrong."""
    for close in (plain(T.CLOSE), plain(T.CLOSE, b"the server is going away, all is well, goodbye")):
        stage = STAGES[name](suite)
        stage.feed(close + bytes(100))
        closed = ended(stage)[1]
        assert not closed.remote
        assert closed.code in (ErrorCode.FRAME, ErrorCode.AUTHENTICATION)


# ---- records ----


def refusal(suite: str, name: str, data: Callable[[Sealer], bytes]) -> ErrorCode:
    """What a record that breaks the rules is refused with; nothing of it may be told."""
    stage = STAGES[name](suite)
    events = stage.feed(data(stage.sealer))
    assert [type(event) for event in events] == [Closed]
    assert isinstance(events[0], Closed)
    assert not events[0].remote
    return events[0].code


PING = plain(T.PING, body=b"12345678")
both = pytest.mark.parametrize("name", ["server open", "client open"])


@both
@pytest.mark.parametrize("size", [0, 1, 16, 31])
def test_a_record_that_is_less_than_a_frame(suite: str, name: str, size: int) -> None:
    assert refusal(suite, name, lambda sealer: sealer.seal(bytes(size))) is ErrorCode.FRAME
    assert refusal(suite, name, lambda _: size.to_bytes(4, "little")) is ErrorCode.FRAME  # and it is not waited for


@both
@pytest.mark.parametrize("size", [LARGEST + 1, 2**20 + 33, 2**24, 2**31 - 1, 2**31, 2**32 - 1])
def test_a_record_above_its_cap_is_refused_before_a_byte_of_it_comes(suite: str, name: str, size: int) -> None:
    tracemalloc.start()
    try:
        assert refusal(suite, name, lambda _: size.to_bytes(4, "little")) is ErrorCode.TOO_LARGE
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@both
def test_small_frames_together_are_64_kib_at_most(suite: str, name: str) -> None:
    many = PING * (65536 // len(PING))
    stage = STAGES[name](suite)
    assert stage.feed(stage.sealer.seal(many)) == []
    assert refusal(suite, name, lambda sealer: sealer.seal(many + PING)) is ErrorCode.TOO_LARGE


@both
def test_a_frame_ends_where_its_record_ends(suite: str, name: str) -> None:
    """A frame that goes on in the next record, or bytes behind the last frame: FRAME, whatever comes next."""
    for cut in (*range(32, len(PING)), len(PING) + 1, len(PING) + 31):
        stage = STAGES[name](suite)
        frames = PING + PING
        events = stage.feed(stage.sealer.seal(frames[:cut]) + stage.sealer.seal(frames[cut:]))
        assert [type(event) for event in events] == [Closed], cut
        closed = events[0]
        assert isinstance(closed, Closed)
        assert closed.code is ErrorCode.FRAME, cut


@both
def test_a_chunk_fills_its_record(suite: str, name: str) -> None:
    """The header of a chunk and n say the same, or it is refused; so whole, and so byte for byte."""
    kind, place = (T.OPEN, 1) if name == "server open" else (T.DATA, 1)
    ext = pack_extension(body_length=70_000)
    first = plain(kind, body=ext + b"m", stream_id=place, flags=MORE)
    first = first[:24] + (1).to_bytes(4, "little") + len(ext).to_bytes(2, "little") + first[30:]
    chunk = plain(T.DATA, body=bytes(CHUNK), stream_id=place, flags=MORE)
    for more in (-1, 1, 16):
        for step in (1, 1 << 20):
            stage = STAGES[name](suite)
            stage.feed(stage.sealer.seal(first))
            frames = chunk[:more] if more < 0 else chunk + bytes(more)
            stage.end.feed(stage.sealer.seal(frames), repeat(step))
            events = [event for event in stage.feed(b"") if not isinstance(event, Ready)]
            assert [event for event in events if isinstance(event, Message)] == []
            closed = events[-1]
            assert isinstance(closed, Closed)
            assert closed.code in (ErrorCode.FRAME, ErrorCode.TOO_LARGE)
            assert not stage.end.places
    stage = STAGES[name](suite)
    stage.feed(stage.sealer.seal(first))
    assert stage.feed(stage.sealer.seal(chunk)) == []


def test_records_of_an_honest_end_keep_to_the_sizes(suite: str) -> None:
    """What the page asks of a sender: 65,536 bytes of small frames, or one frame, in a record."""
    stage = server_at(suite, "open")
    for number in range(1, 301):
        stage.feed(stage.sealer.seal(plain(T.OPEN, b"m", stream_id=number, flags=END_STREAM)))
    connection = stage.end.connection
    for number in range(1, 301):
        body = bytes(65536 if number % 100 == 0 else 3000)
        connection.send(number, b"m", b"", [body], len(body))
    stage.feed(stage.sealer.seal(PING * 1000))
    for record in records_of(stage.end.said()):
        size = len(record) - 20
        header = HEADER_SIZE + int.from_bytes(record[4:8], "little")
        assert size <= 65536 or size == header


def test_what_the_server_says_to_a_refused_client_is_signed(suite: str) -> None:
    """Nobody in between can make up a refusal once WELCOME was believed: the client takes it from a record only."""
    stage = client_at(suite, "ready")
    refusal_text = b"authentication: unknown key, wrong secret, or a key that is not valid now"
    events = stage.feed(stage.sealer.seal(plain(T.CLOSE, refusal_text)))
    assert [type(event) for event in events] == [Closed]
    assert isinstance(events[0], Closed)
    assert events[0].remote


def test_nothing_is_told_of_a_server_that_has_not_seen_auth(suite: str) -> None:
    stage = server_at(suite, "auth")
    stage.feed(stage.sealer.seal(sample(T.OPEN)) * 3)
    assert not stage.end.has(Authenticated)
    assert not stage.end.has(Message)


# ---- frames that look like a chunk ----


@pytest.mark.parametrize("size", [CHUNK, 40_000, 65536, 65537, 100_000])
@pytest.mark.parametrize("name", ["server open", "client open"])
def test_a_message_without_metadata_is_no_chunk_however_it_is_cut(suite: str, name: str, size: int) -> None:
    """Its header is one of a chunk, but no message is under way: inline it is a message, above that it is too large."""
    told = []
    for step in (1, 1000, 1 << 20):
        stage = STAGES[name](suite)
        if name == "server open":
            stage.feed(stage.sealer.seal(plain(T.OPEN, b"m", stream_id=1)))
            stage.before = len(stage.end.events)
        frame = plain(T.DATA, body=b"x" * size, stream_id=1, flags=END_STREAM, seq=int(name == "server open"))
        stage.end.feed(stage.sealer.seal(frame), repeat(step))
        told.append(stage.feed(b""))
        (event,) = told[-1]
        if size <= 65536:
            assert isinstance(event, Message)
            assert bytes(event.body) == b"x" * size
        else:
            assert isinstance(event, Closed)
            assert event.code is ErrorCode.TOO_LARGE
    assert told[0] == told[1] == told[2]


@pytest.mark.parametrize("when", ["between chunks", "within a chunk"])
def test_the_rest_of_a_body_that_nobody_wants_is_signed_too(suite: str, when: str) -> None:
    """The server ends a call while its body comes: what is still on its way is dropped, but only with right tags."""

    def bytes_of(stage: Stage) -> list[bytes]:
        ext = pack_extension(body_length=70_000)
        first = plain(T.OPEN, body=ext + b"m", stream_id=1, flags=MORE | END_STREAM)
        first = first[:24] + (1).to_bytes(4, "little") + len(ext).to_bytes(2, "little") + first[30:]
        sizes = (CHUNK, CHUNK, CHUNK, CHUNK, 70_000 - 4 * CHUNK)
        flags = (MORE, MORE, MORE, MORE, END_STREAM)
        chunks = [plain(T.DATA, body=bytes(s), stream_id=1, flags=f) for s, f in zip(sizes, flags, strict=True)]
        return [stage.sealer.seal(frame) for frame in (first, *chunks, PING, plain(T.CLOSE, b"done"))]

    def heard(step: int, wrong: tuple[int, int] | None) -> list[Event]:
        stage = server_at(suite, "open")
        pieces = bytes_of(stage)
        if wrong:
            pieces[wrong[0]] = flipped(pieces[wrong[0]], wrong[1])
        whole, cut = b"".join(pieces), len(pieces[0]) + len(pieces[1]) + (0 if when == "between chunks" else 5000)
        stage.end.feed(whole[:cut])
        stage.end.connection.end(1, Status.INTERNAL, "broken")
        stage.end.feed(whole[cut:], repeat(step))
        stage.end.end_of_stream()
        assert not stage.end.places
        return stage.feed(b"")

    for step in (100, 5000, 1 << 20):
        assert heard(step, None) == [MessageAborted(1), Closed(ErrorCode.NO_ERROR, "done", remote=True)]
        for record in (2, 3, 5):
            size = {5: 20 + 32 + 70_000 - 4 * CHUNK}.get(record, 20 + 32 + CHUNK)
            for bit in (8 * 4000, 8 * size - 1, 8 * size - 128, 8 * (20 + HEADER_SIZE)):
                closed = heard(step, (record, bit))[-1]
                assert isinstance(closed, Closed)
                assert closed.code is ErrorCode.AUTHENTICATION, (record, bit)


@pytest.mark.parametrize("size", [65537, LARGEST - 32, 2**20])
def test_a_late_chunk_above_its_cap_is_refused_before_a_byte_of_it_comes(suite: str, size: int) -> None:
    """Of a stream that this side has finished with; the peer keeps its side open and sends nothing more."""
    stage = server_at(suite, "open")
    stage.feed(stage.sealer.seal(plain(T.OPEN, b"m", stream_id=1, flags=END_STREAM)))
    stage.end.connection.end(1, Status.INTERNAL, "broken")
    stage.before = len(stage.end.events)
    head = plain(T.DATA, stream_id=1)
    (closed,) = stage.feed((32 + size).to_bytes(4, "little") + size.to_bytes(4, "little") + head[4:])
    assert isinstance(closed, Closed)
    assert closed.code is ErrorCode.TOO_LARGE


@both
def test_what_follows_close_is_not_heard(suite: str, name: str) -> None:
    """In the same record, and in records of their own with right tags."""
    close = plain(T.CLOSE, b"goodbye")
    stage = STAGES[name](suite)
    events = stage.feed(stage.sealer.seal(close + PING + plain(T.PONG, body=b"12345678")) + stage.sealer.seal(PING))
    assert events == [Closed(ErrorCode.NO_ERROR, "goodbye", remote=True)]
    assert stage.end.said() == b""
    stage = STAGES[name](suite)
    events = stage.feed(stage.sealer.seal(close) + stage.sealer.seal(bytes(40)) + bytes(1000))
    assert events == [Closed(ErrorCode.NO_ERROR, "goodbye", remote=True)]
