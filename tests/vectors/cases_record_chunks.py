"""Vectors of large messages in records: a chunk's record, right and wrong (SPEC 11.6, 11.7)."""

from __future__ import annotations

from collections.abc import Iterator

from tests.vectors.case import closed, do, ended, expect, message, receive, sends
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
from tests.vectors.sealed import Session, flipped
from tests.vectors.signed_case import Test
from tests.vectors.wire import AUTHENTICATION, DATA, END, END_STREAM, PING, body_length, frame, parts

_SIZES: dict[str, tuple[int, ...]] = {
    "chunks of 16,384 bytes": (16384,) * 5,
    "a chunk of 262,144 bytes and a last one of 4,096": (CHUNK_SIZE, 4096),
    "a chunk of 262,144 bytes and a last one of 16,383": (CHUNK_SIZE, 16383),
    "a last chunk of one byte": (16384,) * 4 + (1,),
    "two chunks of 262,144 bytes": (CHUNK_SIZE, CHUNK_SIZE),
}


def chunks(session: Session) -> Iterator[Test]:
    for name, sizes in _SIZES.items():
        pieces, body = chunk_frames(sizes)
        up = [session.client(n, data) for n, data in enumerate((first_frame(len(body)), *pieces))]
        event = message(1, ext=body_length(len(body)), body=body)
        yield open_case(f"{name}, at the server", "11.6", SERVER, "Chunk", receive(*up), expect(event))
        down = [session.server(n, data) for n, data in enumerate((first_frame(len(body), kind=DATA), *pieces), 1)]
        yield open_case(f"{name}, at the client", "11.6", CLIENT, "Chunk", *opens(1), receive(*down), expect(event))
    pieces, body = chunk_frames((CHUNK_SIZE, 4096))
    opening = do("open", metadata="", extension="", body=parts(body), flags=END_STREAM)
    out = [session.client(n, data) for n, data in enumerate((first_frame(len(body)), *pieces))]
    yield open_case("a client sends in chunks", "11.6", CLIENT, "Chunk", opening, sends(*out))
    reply = do("send", stream=1, metadata="", extension="", body=parts(body), flags=END_STREAM)
    out = [session.server(n, data) for n, data in enumerate((first_frame(len(body), kind=DATA), *pieces), 1)]
    yield open_case(
        "a server replies in chunks",
        "11.6",
        SERVER,
        "Chunk",
        *(receive(session.client(0, open_frame())), expect(message(1)), reply, sends(*out)),
    )
    yield from _woven(session)


def _woven(session: Session) -> Iterator[Test]:
    """Chunks among other things."""
    (one, first), (two, second) = chunk_frames((16384,) * 5), chunk_frames((16384,) * 5, 2)
    heads = (first_frame(len(first)), first_frame(len(second), 2))
    woven = [*heads, *(piece for pair in zip(one, two, strict=True) for piece in pair)]
    whole = [message(n, ext=body_length(len(body)), body=body) for n, body in ((1, first), (2, second))]
    apart = [session.client(n, data) for n, data in enumerate(woven)]
    yield open_case("chunks of two streams in turn", "7.7", SERVER, "Chunk", receive(*apart), expect(*whole))
    together = session.client(0, *heads) + b"".join(
        session.client(n, *pair) for n, pair in enumerate(zip(one, two, strict=True), 1)
    )
    yield open_case("two chunks in each record", "11.2", SERVER, "Chunk", receive(together), expect(*whole))
    ping = frame(PING, body=b"01234567")
    mixed = [heads[0], one[0], ping, one[1] + open_frame(2, body=b"small"), one[2], one[3] + ping, one[4]]
    between = [session.client(n, data) for n, data in enumerate(mixed)]
    yield open_case(
        "a PING and a small call between chunks, in records with them and without",
        "7.7",
        SERVER,
        "Chunk",
        *(receive(*between), expect(message(2, body=b"small"), whole[0])),
    )
    down = [session.server(n, data) for n, data in enumerate((first_frame(len(first), kind=DATA), *one), 1)]
    cancel = do("cancel", stream=1)
    yield open_case(
        "chunks of a cancelled stream are dropped, their tags hold",
        "8.4",
        CLIENT,
        "Chunk",
        *(*opens(1), receive(*down[:2]), expect(), cancel, receive(*down[2:4]), expect(ABORTED)),
        *(receive(*down[4:]), expect(), receive(session.server(7, frame(PING, body=bytes(8)))), expect()),
    )
    yield open_case(
        "CANCEL while half a chunk is there: the record is read to its end",
        "8.4",
        CLIENT,
        "Chunk",
        *(*opens(1), receive(*down[:2], down[2][:9000]), expect(), cancel, receive(down[2][9000:]), expect(ABORTED)),
        *(receive(*down[3:5], session.server(6, frame(END, stream=1, aux=1))), expect()),
    )
    yield open_case(
        "END in place of the remaining chunks",
        "7.7",
        CLIENT,
        "Chunk",
        *(*opens(1), receive(*down[:3]), expect()),
        *(receive(session.server(4, frame(END, stream=1, aux=13))), expect(ABORTED, ended(1, 13))),
    )


def bad_chunks(session: Session) -> Iterator[Test]:
    pieces, body = chunk_frames((CHUNK_SIZE, 4096))
    head = receive(session.client(0, first_frame(len(body))))
    good = session.client(1, pieces[0])
    over = (ABORTED, closed(AUTHENTICATION))

    def bad(comment: str, flag: str, *data: bytes, code: int = AUTHENTICATION) -> Test:
        return open_case(comment, "11.7", SERVER, flag, head, receive(*data), expect(ABORTED, closed(code)))

    for name, at in (("first", 36), ("middle", 36 + CHUNK_SIZE // 2), ("last", 36 + CHUNK_SIZE - 1)):
        yield bad(f"the {name} byte of a chunk was changed", "Chunk", flipped(good, at))
    yield bad("the last byte of a chunk's tag", "Tag", flipped(good, -1))
    yield bad("the first byte of a chunk's tag", "Tag", flipped(good, -16))
    yield bad("a chunk's priority was changed", "Tag", flipped(good, 9))
    for name, at in (("flags", 10), ("stream", 12), ("seq", 20), ("aux", 24)):  # what 7.3 forbids may be seen first
        yield bad(f"a chunk's {name} was changed", "Tag", flipped(good, at)) | {"any_close_code": True}
    yield bad("a chunk with the tag of the next counter", "Counter", session.client(2, pieces[0]))
    yield bad("the last chunk comes first", "Counter", session.client(2, pieces[1]), good)
    yield bad("a chunk a second time", "Replay", session.client(0, pieces[0]))
    yield bad("a chunk under the other direction's key", "Reflection", session.server(1, pieces[0]))
    spliced = session.welcome_but(t3=bytes(32)).client(1, pieces[0])
    yield bad("a chunk of another session", "Splice", spliced)
    small, whole = chunk_frames((16384,) * 5)
    records = [session.client(n, data) for n, data in enumerate((first_frame(len(whole)), *small))]
    for comment, flag, order in (
        ("two chunks exchanged", "Counter", (0, 2, 1)),
        ("a chunk left out", "Counter", (0, 1, 3)),
        ("a chunk repeated", "Replay", (0, 1, 1)),
        ("the first frame repeated", "Replay", (0, 0)),
    ):
        data = [records[n] for n in order]
        yield open_case(comment, "11.5", SERVER, flag, receive(*data), expect(*over))
    down = [session.server(n, data) for n, data in enumerate((first_frame(len(whole), kind=DATA), *small), 1)]
    yield open_case(
        "a chunk of a cancelled stream whose tag is wrong",
        "11.7",
        CLIENT,
        "Chunk",
        *(*opens(1), receive(*down[:2]), expect(), do("cancel", stream=1), receive(down[2]), expect(ABORTED)),
        *(receive(flipped(down[3], -1)), expect(closed(AUTHENTICATION))),
    )
    yield open_case(
        "the last chunk's tag is wrong: the message is not given",
        "11.7",
        CLIENT,
        "Chunk",
        *(*opens(1), receive(*down[:5], flipped(down[5], -1)), expect(*over)),
    )
