"""Vectors of records that were changed, moved, cut, or never were records (SPEC 11.5, 11.7)."""

from __future__ import annotations

from collections.abc import Iterator

from tests.vectors.case import Event, closed, do, expect, message, receive
from tests.vectors.record_parts import ABORTED, CLIENT, SERVER, chunk_frames, first_frame, open_case, open_frame, opens
from tests.vectors.sealed import Session, flipped, pattern, u32
from tests.vectors.signed_case import Test
from tests.vectors.wire import AUTHENTICATION, CLOSE, DATA, END, END_STREAM, FRAME, frame


def changed(session: Session) -> Iterator[Test]:
    small = open_frame(body=b"hello")
    sides = ((SERVER, session.client(0, small)), (CLIENT, session.server(1, frame(END, stream=1, aux=5, meta=b"no"))))
    over, malformed = expect(closed(AUTHENTICATION)), expect(closed(FRAME))
    for role, good in sides:
        before = opens(1) if role == CLIENT else ()
        places = (4, 7, 8, 9, 10, 12, 16, 20, 24, 32, 36, *range(len(good) - 16, len(good)))
        for at in places:
            what = f"byte {at} of the record" if at < len(good) - 16 else f"byte {at - len(good) + 16} of the tag"
            bad = receive(flipped(good, at, at % 8))
            yield open_case(f"{what} was changed, at the {role}", "11.7", role, "Tag", *before, bad, over)
        longer, shorter = u32(len(good) - 19) + good[4:], u32(len(good) - 21) + good[4:]
        yield open_case(
            f"the length is one more, at the {role}", "11.7", role, "Length", *before, receive(longer, good), over
        )
        yield open_case(
            f"the length is one less, at the {role}", "11.7", role, "Length", *before, receive(shorter), over
        )
        yield open_case(
            f"a record without its length, at the {role}",
            "11.2",
            role,
            "Length",
            *before,
            receive(good[4:], good),
            malformed,
        )
        yield open_case(
            f"a record without its tag, at the {role}", "11.2", role, "Tag", *before, receive(good[:-16], good), over
        )
    two = session.client(0, small, open_frame(2, body=b"more"))
    yield open_case("the second frame of a record was changed: none is given", "11.7", SERVER, "Tag",
                receive(flipped(two, -17)), over)  # fmt: skip
    merged = u32(len(small) * 2) + small + open_frame(2, body=b"hello") + session.client(0, small)[-16:]
    yield open_case("a frame was added to a record", "11.7", SERVER, "Tag", receive(merged), over)


def misplaced(session: Session) -> Iterator[Test]:
    calls = [open_frame(n, body=b"call") for n in (1, 2, 3)]
    good = [session.client(n, data) for n, data in enumerate(calls)]
    replies = [frame(DATA, stream=n, flags=END_STREAM, body=b"reply") for n in (1, 2)]
    answers = [session.server(n, data) for n, data in enumerate(replies, 1)]
    over = closed(AUTHENTICATION)
    other = session.welcome_but(t3=bytes(32))
    one, reply = message(1, body=b"call"), message(1, body=b"reply")
    at_server: tuple[tuple[str, str, tuple[Event, ...], tuple[bytes, ...]], ...] = (
        ("a record repeated", "Replay", (one,), (good[0], good[0])),
        ("a record left out", "Counter", (one,), (good[0], good[2])),
        ("the first record left out", "Counter", (), (good[1],)),
        ("two records exchanged", "Counter", (), (good[1], good[0])),
        ("the client's AUTH repeated", "Replay", (), (session.auth,)),
        ("the server's READY sent back", "Reflection", (), (session.ready,)),
        ("the server's record with this counter sent back", "Reflection", (one,), (good[0], answers[0])),
        ("a record of another session", "Splice", (), (other.client(0, calls[0]),)),
        ("a record of another session behind one of this", "Splice", (one,), (good[0], other.client(1, calls[1]))),
        ("frames without a record", "Suite", (), (calls[0] + bytes(32),)),
        ("frames without a record behind one", "Suite", (one,), (good[0], frame(CLOSE, meta=b"bye." * 10))),
    )
    for comment, flag, events, data in at_server:
        code = FRAME if comment == "frames without a record" else AUTHENTICATION
        yield open_case(comment, "11.5", SERVER, flag, receive(*data), expect(*events, closed(code)))
    at_client: tuple[tuple[str, str, tuple[Event, ...], tuple[bytes, ...]], ...] = (
        ("a reply repeated", "Replay", (reply,), (answers[0], answers[0])),
        ("READY repeated", "Replay", (), (session.ready,)),
        ("a reply left out", "Counter", (), (answers[1],)),
        ("two replies exchanged", "Counter", (), (answers[1], answers[0])),
        ("the client's call sent back", "Reflection", (), (good[1],)),
        ("a reply of another session", "Splice", (), (other.server(1, replies[0]),)),
    )
    for comment, flag, events, data in at_client:
        yield open_case(comment, "11.5", CLIENT, flag, *opens(1, 2), receive(*data), expect(*events, over))


def cut(session: Session) -> Iterator[Test]:
    """The bytes end: calls without a verified end are not ended by it."""
    call = open_frame(body=pattern(300))
    good = session.client(0, call)
    reply = session.server(1, frame(DATA, stream=1, flags=END_STREAM, body=pattern(300)))
    ended = (do("eof"), expect(closed(0, remote=True)))
    for at in (1, 3, 4, 5, 20, 35, 36, 37, 200, len(good) - 17, len(good) - 16, len(good) - 15, len(good) - 1):
        yield open_case(
            f"the bytes end after {at} of a record", "11.7", SERVER, "Truncation", receive(good[:at]), *ended
        )
        yield open_case(
            f"the bytes end after {at} of a reply's record",
            *("11.7", CLIENT, "Truncation"),
            *(*opens(1), receive(reply[:at]), *ended),
        )
    yield open_case(
        "the bytes end between two records", "11.7", CLIENT, "Truncation", *opens(1, 2), receive(reply),
        expect(message(1, body=pattern(300))), *ended,
    )  # fmt: skip
    pieces, body = chunk_frames((16384,) * 5)
    out = [session.client(n, data) for n, data in enumerate((first_frame(len(body)), *pieces))]
    aborted = (do("eof"), expect(ABORTED, closed(0, remote=True)))
    for name, data in (
        ("in the middle of a chunk", [*out[:2], out[2][:8000]]),
        ("behind a chunk's body, before its tag", [*out[:2], out[2][:-16]]),
        ("within a chunk's tag", [*out[:2], out[2][:-1]]),
        ("before the last chunk", out[:5]),
        ("within the last chunk's tag", [*out[:5], out[5][:-1]]),
    ):
        yield open_case(f"the bytes end {name}", "11.7", SERVER, "Truncation", receive(*data), *aborted)


def last_words(session: Session) -> Iterator[Test]:
    """CLOSE is believed in a record only."""
    bye = session.server(1, frame(CLOSE))
    over = expect(closed(AUTHENTICATION))
    yield open_case(
        "an orderly end, verified",
        "11.1",
        CLIENT,
        "Normal",
        *(*opens(1), receive(bye), expect(closed(0, remote=True)), do("eof"), expect()),
    )
    yield open_case("a CLOSE whose tag is wrong", "11.7", CLIENT, "Tag", *opens(1), receive(flipped(bye, -1)), over)
    yield open_case(
        "a CLOSE without a record", "11.7", CLIENT, "Suite", *opens(1), receive(frame(CLOSE)), expect(closed(FRAME))
    )
    text = frame(CLOSE, meta=b"the server says goodbye, and means it")
    yield open_case("a CLOSE with a text, without a record", "11.7", CLIENT, "Suite", *opens(1), receive(text), over)
    yield open_case(
        "the client's own CLOSE sent back",
        "11.7",
        CLIENT,
        "Reflection",
        *(*opens(1), receive(session.client(1, frame(CLOSE))), over),
    )
