"""Vectors of records in a session: what one may hold, control frames in them (SPEC 11.1, 11.2)."""

from __future__ import annotations

from collections.abc import Iterator

from tests.vectors.case import Event, closed, do, ended, expect, message, receive, sends
from tests.vectors.cases_look_alikes import look_alikes
from tests.vectors.cases_record_chunks import bad_chunks, chunks
from tests.vectors.cases_tags import singles
from tests.vectors.cases_tampered import changed, cut, last_words, misplaced
from tests.vectors.record_parts import (
    CHUNK_SIZE,
    CLIENT,
    MOST,
    RECORD_LABELS,
    SERVER,
    open_case,
    open_frame,
    opens,
    session_of,
)
from tests.vectors.sealed import GMAC, HMAC, READY_PAYLOAD, Session, pattern, u32
from tests.vectors.signed_case import Group, Test, derived, group, prelude
from tests.vectors.wire import (
    CANCEL,
    CLOSE,
    DATA,
    END,
    END_STREAM,
    FRAME,
    GOAWAY,
    NO_NEW_STREAMS,
    OPEN,
    PING,
    PONG,
    SHUTDOWN,
    TOO_LARGE,
    frame,
)


def records() -> list[Group]:
    """For each suite: single records of each direction, then sessions at both roles."""
    found: list[Group] = []
    for mac in (HMAC, GMAC):
        session = session_of(mac)
        for side, label in RECORD_LABELS.items():
            found.append({
                "comment": f"{mac}, single records of the {side}",
                "type": "record",
                "mac": mac,
                "key": session.key(label).hex(),
                "tests": list(singles(session, side)),
            })  # fmt: skip
        tests = [
            *_shapes(session),
            *_bad_shapes(session),
            *chunks(session),
            *bad_chunks(session),
            *look_alikes(session),
        ]
        tests += [*changed(session), *misplaced(session), *cut(session), *last_words(session)]
        shown = {"handshake": derived(session), "prelude": prelude(session, READY_PAYLOAD)}
        found.append(group(f"{mac}, sessions", session, tests, shown=shown))
    return found


def _shapes(session: Session) -> Iterator[Test]:
    call = session.client
    yield open_case(
        "records 0, 1 and 2 of one small frame",
        "11.5",
        SERVER,
        "Normal",
        receive(call(0, open_frame(body=b"0")), call(1, open_frame(2, body=b"1")), call(2, open_frame(3, body=b"2"))),
        expect(message(1, body=b"0"), message(2, body=b"1"), message(3, body=b"2")),
    )
    first = open_frame(flags=0, body=pattern(608))
    hundred = [first, *(frame(DATA, stream=1, seq=n, body=pattern(608, n)) for n in range(1, 100))]
    yield open_case(
        "a hundred small frames in one record",
        "11.2",
        SERVER,
        "Shape",
        receive(call(0, *hundred)),
        expect(*(message(1, seq=n, end_stream=False, body=pattern(608, n or 1)) for n in range(100))),
    )
    half = pattern(32768 - 32)
    yield open_case(
        "two frames of together 65,536 bytes",
        "11.2",
        SERVER,
        "Shape",
        receive(call(0, open_frame(body=half), open_frame(2, body=half))),
        expect(message(1, body=half), message(2, body=half)),
    )
    inline, meta = pattern(65536), pattern(700, 4)
    yield open_case(
        "one frame of more than 65,536 bytes",
        "11.2",
        SERVER,
        "Shape",
        receive(call(0, open_frame(body=inline, meta=meta)), call(1, open_frame(2))),
        expect(message(1, body=inline, meta=meta), message(2)),
    )
    yield open_case(
        "replies, one frame of more than 65,536 bytes among them",
        "11.2",
        CLIENT,
        "Shape",
        *opens(1, 2),
        receive(
            session.server(1, frame(DATA, stream=1, flags=END_STREAM, body=inline, meta=meta)),
            session.server(2, frame(DATA, stream=2, flags=END_STREAM, body=b"small")),
        ),
        expect(message(1, body=inline, meta=meta), message(2, body=b"small")),
    )
    large = pattern(20000)
    yield open_case(
        "an inline message that is hashed as a chunk is",
        "11.6",
        CLIENT,
        "Chunk",
        *opens(1),
        receive(session.server(1, frame(DATA, stream=1, flags=END_STREAM, body=large))),
        expect(message(1, body=large)),
    )
    yield from _control(session)


def _control(session: Session) -> Iterator[Test]:
    ping, pong = frame(PING, body=b"question"), frame(PONG, body=b"question")
    answer: Event = {"event": "pong", "payload": b"question".hex()}
    for role, mine, peer, counters in (
        (SERVER, session.server, session.client, (1, 0)),
        (CLIENT, session.client, session.server, (0, 1)),
    ):
        yield open_case(
            f"a PING is answered in a record, at the {role}",
            "11.1",
            role,
            "Normal",
            *(receive(peer(counters[1], ping)), expect(), sends(mine(counters[0], pong))),
        )
        yield open_case(
            f"PING and PONG in records, at the {role}",
            "11.1",
            role,
            "Normal",
            *(do("ping", payload=b"question".hex()), sends(mine(counters[0], ping))),
            *(receive(peer(counters[1], pong)), expect(answer)),
        )
        yield open_case(
            f"a CLOSE in a record, at the {role}",
            "11.1",
            role,
            "Normal",
            *(receive(peer(counters[1], frame(CLOSE, meta=b"bye"))), expect(closed(0, remote=True))),
        )
    yield open_case(
        "CALL, CANCEL in one record",
        "11.2",
        SERVER,
        "Normal",
        receive(session.client(0, open_frame(body=b"x"), frame(CANCEL, stream=1))),
        expect(message(1, body=b"x"), {"event": "cancelled", "stream": 1}),
    )
    drain = frame(GOAWAY, stream=NO_NEW_STREAMS, aux=SHUTDOWN, meta=b"draining")
    told: Event = {"event": "goaway", "last_stream": NO_NEW_STREAMS, "code": SHUTDOWN, "detail": "draining"}
    yield open_case("GOAWAY in a record", "11.1", CLIENT, "Normal", receive(session.server(1, drain)), expect(told))
    yield open_case(
        "END in a record",
        "11.1",
        CLIENT,
        "Normal",
        *(*opens(1), receive(session.server(1, frame(END, stream=1, aux=5, meta=b"no such model")))),
        expect(ended(1, 5, detail="no such model")),
    )


def _bad_shapes(session: Session) -> Iterator[Test]:
    """Each with the right tag, so that nothing but the shape is wrong; and lengths that come before any tag."""
    for role, kind in ((SERVER, OPEN), (CLIENT, DATA)):
        one = frame(kind, stream=1, flags=END_STREAM, body=b"hello")
        two = frame(kind, stream=2, flags=END_STREAM, body=b"hello")
        for comment, frames in (
            ("no frame", b""),
            ("one byte", b"x"),
            ("31 bytes of a frame", one[:31]),
            ("a header whose body is not there", one[:32]),
            ("a frame cut one byte short", one[:-1]),
            ("a frame and a byte", one + b"\0"),
            ("a frame and 31 bytes", one + two[:31]),
            ("a frame and a header whose body is not there", one + two[:32]),
            ("a frame and another cut one byte short", one + two[:-1]),
            ("a frame, one of an unknown type, and a frame", one + frame(17) + two),
        ):
            data = session.client(0, frames) if role == SERVER else session.server(1, frames)
            before = opens(1, 2) if role == CLIENT else ()
            name = f"a record of {comment}, at the {role}"
            given = (message(1, body=b"hello"),) if frames.startswith(one) else ()
            yield open_case(name, "11.2", role, "Shape", *before, receive(data), expect(*given, closed(FRAME)))
    half, long = open_frame(body=pattern(32768 - 32)), open_frame(body=pattern(100))
    second = open_frame(2, body=pattern(32768 - 31))
    crossing = session.client(0, long[:60]) + session.client(1, long[60:])
    for comment, code, data in (
        ("two frames of together 65,537 bytes", TOO_LARGE, session.client(0, half, second)),
        (
            "a frame of 65,536 bytes and a byte",
            TOO_LARGE,
            session.client(0, open_frame(body=pattern(65536 - 32)), b"x"),
        ),
        ("a frame that goes on in the next record", FRAME, crossing),
    ):
        found = open_case(comment, "11.2", SERVER, "Shape", receive(data), expect(closed(code)))
        yield found | ({"any_close_code": True} if comment.endswith("and a byte") else {})
    for role, kind in ((SERVER, OPEN), (CLIENT, END)):
        start = receive(u32(132_129) + frame(kind, stream=1))
        name = f"a length of 132,129 and no chunk, at the {role}"
        yield open_case(name, "11.2", role, "Length", start, expect(closed(TOO_LARGE)))
    for n in (0, 1, 31, CHUNK_SIZE + 33, MOST + 1, 2**31, 2**32 - 1):
        code = FRAME if n < 32 else TOO_LARGE
        for role in (SERVER, CLIENT):
            name = f"a length of {n} is refused before any byte after it, at the {role}"
            yield open_case(name, "11.2", role, "Length", receive(u32(n)), expect(closed(code)))
