"""Vectors of records that hold a chunk by 11.6: messages that only look so, late and refused ones, and wrong ones.

Every tag here is right but where a comment says otherwise: what is shown is what a receiver makes of a good record.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.vectors.case import Event, closed, do, expect, message, receive, sends
from tests.vectors.record_parts import (
    ABORTED,
    CHUNK_SIZE,
    CLIENT,
    SERVER,
    chunk_frames,
    first_frame,
    open_case,
    open_frame,
    opens,
)
from tests.vectors.sealed import Session, flipped, pattern, u32
from tests.vectors.signed_case import Test
from tests.vectors.wire import (
    AUTHENTICATION,
    CALM,
    CANCEL,
    DATA,
    END,
    END_STREAM,
    FRAME,
    MORE,
    STREAM,
    TOO_LARGE,
    body_length,
    frame,
    parts,
)

_SIZES = (16384,) * 5
_TOTAL = sum(_SIZES)


def look_alikes(session: Session) -> Iterator[Test]:
    """What no one would guess from the header alone."""
    yield from _inline(session)
    yield from _late(session)
    yield from _refused(session)
    yield from _wrong(session)


def _inline(session: Session) -> Iterator[Test]:
    """Messages of 16,384 bytes and more without metadata."""
    for size in (16384, 20000, 65536):
        data = pattern(size)
        down = frame(DATA, stream=1, flags=END_STREAM, body=data)
        yield open_case(
            f"an inline reply of {size} bytes without metadata",
            "11.6",
            CLIENT,
            "Chunk",
            *(*opens(1), receive(session.server(1, down)), expect(message(1, body=data))),
        )
        reply = do("send", stream=1, metadata="", extension="", body=parts(data), flags=END_STREAM)
        yield open_case(
            f"a server sends an inline reply of {size} bytes without metadata",
            "11.6",
            SERVER,
            "Chunk",
            *(receive(session.client(0, open_frame())), expect(message(1)), reply, sends(session.server(1, down))),
        )
        up = [open_frame(flags=0), *(frame(DATA, stream=1, seq=n, body=pattern(size, n)) for n in (1, 2))]
        yield open_case(
            f"inline messages of {size} bytes on a stream of the client",
            "11.6",
            SERVER,
            "Chunk",
            receive(*(session.client(n, one) for n, one in enumerate(up))),
            expect(
                message(1, end_stream=False),
                *(message(1, n, end_stream=False, body=pattern(size, n)) for n in (1, 2)),
            ),
        )
    behind = frame(DATA, stream=1, seq=1, flags=END_STREAM, body=pattern(20000, 7))
    pieces, body = chunk_frames(_SIZES)
    pieces[-1] = frame(DATA, stream=1, body=body[-16384:])  # the stream goes on
    head = frame(DATA, stream=1, flags=MORE, ext=body_length(_TOTAL))
    both = (head, *pieces, behind)
    yield open_case(
        "an inline reply right behind one in chunks",
        "11.6",
        CLIENT,
        "Chunk",
        *(*opens(1), receive(*(session.server(n, one) for n, one in enumerate(both, 1)))),
        expect(
            message(1, end_stream=False, ext=body_length(_TOTAL), body=body),
            message(1, 1, body=pattern(20000, 7)),
        ),
    )


def _late(session: Session) -> Iterator[Test]:
    """DATA of a stream that the receiver has finished with: dropped, once its tag has passed (8.4, 11.7)."""
    large = frame(DATA, stream=1, seq=1, flags=END_STREAM, body=pattern(20000))
    cancelled: Event = {"event": "cancelled", "stream": 1}
    done = do("end", stream=1, status=1, detail="", not_started=False, extension="")
    begun = (
        receive(session.client(0, open_frame(flags=0), frame(CANCEL, stream=1))),
        expect(message(1, end_stream=False), cancelled),
    )
    next_call = receive(session.client(2, open_frame(2, body=b"next")))
    ended = (receive(session.client(0, open_frame(flags=0))), expect(message(1, end_stream=False)), done)
    yield open_case(
        "DATA of 20,000 bytes, late: the server has ended the stream",
        "11.7",
        SERVER,
        "Chunk",
        *(*ended, receive(session.client(1, large)), expect(), next_call, expect(message(2, body=b"next"))),
    )
    yield open_case(
        "DATA of 20,000 bytes, late, its tag wrong",
        "11.7",
        SERVER,
        "Chunk",
        *(*ended, receive(flipped(session.client(1, large), -1)), expect(closed(AUTHENTICATION))),
    )
    yield open_case(
        "DATA of 20,000 bytes behind the client's own CANCEL",
        "8.3",
        SERVER,
        "Chunk",
        *(*begun, receive(session.client(1, large)), expect(closed(STREAM))),
    )
    reply = frame(DATA, stream=1, flags=END_STREAM, body=pattern(20000))
    answer = session.server(2, frame(DATA, stream=2, flags=END_STREAM, body=b"next"))
    gone = (*opens(1, 2), do("cancel", stream=1))
    yield open_case(
        "a reply of 20,000 bytes to a cancelled call",
        "11.7",
        CLIENT,
        "Chunk",
        *(*gone, receive(session.server(1, reply)), expect(), receive(answer), expect(message(2, body=b"next"))),
    )
    yield open_case(
        "a reply of 20,000 bytes to a cancelled call, its tag wrong",
        "11.7",
        CLIENT,
        "Chunk",
        *(*gone, receive(flipped(session.server(1, reply), -9)), expect(closed(AUTHENTICATION))),
    )


def _refused(session: Session) -> Iterator[Test]:
    """Chunks of a message for which there is no memory: dropped, once their tags have passed (7.9)."""
    pieces, _ = chunk_frames(_SIZES)
    up = [session.client(n, one) for n, one in enumerate((first_frame(_TOTAL), *pieces))]
    refusal = (receive(up[0]), expect({"event": "refused", "stream": 1, "status": 8}))
    next_call = receive(session.client(6, open_frame(2, body=b"next")))
    yield open_case(
        "no memory: the chunks' tags are checked, their bytes dropped",
        "7.9",
        SERVER,
        "Chunk",
        *(*refusal, receive(*up[1:]), expect(), next_call, expect(message(2, body=b"next"))),
    ) | {"reserve": "refuse"}
    for comment, bad in (
        ("a chunk's tag is wrong", [up[1], flipped(up[2], -1)]),
        ("a chunk was changed", [up[1], flipped(up[2], 9000)]),
        ("a chunk was left out", [up[1], up[3]]),
    ):
        yield open_case(
            f"no memory, and {comment}",
            *("11.7", SERVER, "Chunk", *refusal, receive(*bad), expect(closed(AUTHENTICATION))),
        ) | {"reserve": "refuse"}


def _wrong(session: Session) -> Iterator[Test]:
    """Chunks that section 7 forbids; a receiver may see it before the tag has come."""
    head = receive(session.client(0, first_frame(_TOTAL)))
    full = pattern(16384)

    def chunk(body: bytes, *, flags: int = MORE, seq: int = 0, stream: int = 1, **more: int) -> bytes:
        return frame(DATA, stream=stream, flags=flags, seq=seq, body=body, **more)  # type: ignore[arg-type]

    for comment, section, code, one in (
        ("END_STREAM on a middle chunk", "7.5", STREAM, chunk(full, flags=MORE | END_STREAM)),
        ("the last chunk comes early", "7.4", STREAM, chunk(full, flags=END_STREAM)),
        ("a chunk past BODY_LENGTH", "7.4", STREAM, chunk(pattern(_TOTAL + 1), flags=END_STREAM)),
        ("MORE on the chunk that is the last", "7.4", STREAM, chunk(pattern(_TOTAL))),
        ("a chunk with another seq", "7.3", STREAM, chunk(full, seq=1)),
        ("a chunk with aux", "7.3", FRAME, chunk(full, aux=1)),
        ("a chunk with reserved bits", "7.3", FRAME, chunk(full, reserved=1)),
        ("a chunk of 16,383 bytes that is not the last", "7.6", CALM, chunk(pattern(16383))),
    ):
        data = receive(session.client(1, one))
        yield open_case(
            f"{comment}, in its record", section, SERVER, "Chunk", head, data, expect(ABORTED, closed(code))
        )
    for stream, name in ((2, "was never opened"), (0, "is the connection")):
        data = receive(session.client(0, chunk(full, stream=stream)))
        yield open_case(f"a chunk of a stream that {name}", "8.4", SERVER, "Chunk", data, expect(closed(STREAM)))
    over = u32(CHUNK_SIZE + 33) + chunk(pattern(CHUNK_SIZE + 1))[:32]
    yield open_case(
        "a chunk over the negotiated size is refused at its length",
        *("11.2", SERVER, "Length", receive(over), expect(closed(TOO_LARGE))),
    )
    reply = session.server(1, frame(DATA, stream=1, flags=END_STREAM, body=full), frame(END, stream=1, aux=5))
    yield open_case(
        "a second terminal in the record of the first",
        "8.5",
        CLIENT,
        "Shape",
        *(*opens(1), receive(reply), expect(message(1, body=full), closed(STREAM))),
    )


__all__ = ["look_alikes"]
