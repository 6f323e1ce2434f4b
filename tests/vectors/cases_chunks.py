"""Vectors of messages above 64 KiB and their chunks (SPEC 7)."""

from __future__ import annotations

from tests.vectors.case import (
    Event,
    Vector,
    accepted,
    closed,
    do,
    ended,
    expect,
    message,
    opened,
    receive,
    refused,
    vector,
)
from tests.vectors.cases_streams import open_
from tests.vectors.wire import (
    CALM,
    CANCEL,
    DATA,
    END,
    END_STREAM,
    EXTENSION,
    FRAME,
    MORE,
    OPEN,
    STREAM,
    TOO_LARGE,
    body_length,
    dims,
    frame,
)

_CANCELLED: Event = {"event": "cancelled", "stream": 1}
_ABORTED: Event = {"event": "message_aborted", "stream": 1}

SIZE = 65537
_FIRST = b"\x11" * 16384
_REST = b"\x22" * (SIZE - 4 * 16384)


def head(
    stream: int = 1,
    size: int = SIZE,
    *,
    flags: int = END_STREAM | MORE,
    ext: bytes | None = None,
    meta: bytes = b"",
    body: bytes = b"",
) -> bytes:
    """The first frame of a chunked OPEN."""
    return frame(OPEN, stream=stream, flags=flags, ext=body_length(size) if ext is None else ext, meta=meta, body=body)


def chunk(body: bytes, *, stream: int = 1, last: bool = False, **fields: int) -> bytes:
    """A chunk; the last one carries END_STREAM."""
    flags = fields.pop("flags", END_STREAM if last else MORE)
    return frame(DATA, stream=stream, flags=flags, seq=fields.pop("seq", 0), body=body, **fields)  # type: ignore[arg-type]


def _chunks(stream: int = 1) -> list[bytes]:
    return [*(chunk(_FIRST, stream=stream) for _ in range(4)), chunk(_REST, stream=stream, last=True)]


def chunks() -> list[Vector]:
    """Messages above 64 KiB."""
    whole = _FIRST * 4 + _REST
    with_dims = dims(4096, 4) + body_length(SIZE)
    whole_event = message(1, ext=body_length(SIZE), body=whole)
    mixed = [piece for pair in zip(_chunks(1), _chunks(2), strict=True) for piece in pair]
    ping = frame(11, body=bytes(8))
    small = frame(DATA, stream=1, seq=1, flags=END_STREAM, body=b"small")
    cancel = frame(CANCEL, stream=1)
    found = [
        accepted("a body of 65,537 in five chunks", "7.2", "server", head(), *_chunks(), events=(whole_event,)),
        accepted(
            "dims and metadata stand on the first frame",
            "7.2",
            "server",
            head(ext=with_dims, meta=b"meta"),
            *_chunks(),
            events=(message(1, ext=with_dims, meta=b"meta", body=whole),),
        ),
        accepted(
            "chunks of two streams and a PING interleave",
            "7.7",
            "server",
            head(),
            head(2),
            *mixed[:5],
            ping,
            *mixed[5:],
            events=(whole_event, message(2, ext=body_length(SIZE), body=whole)),
        ),
        accepted(
            "a small call between two chunks",
            "7.7",
            "server",
            head(),
            *_chunks()[:2],
            open_(2, body=b"small"),
            *_chunks()[2:],
            events=(message(2, body=b"small"), whole_event),
        ),
        accepted(
            "the body is the chunks in order",
            "7.4",
            "server",
            head(),
            chunk(_FIRST),
            chunk(b"\x33" * 16384),
            chunk(_FIRST),
            chunk(b"\x44" * 16384),
            chunk(b"\x55", last=True),
            events=(
                message(1, ext=body_length(SIZE), body=(_FIRST + b"\x33" * 16384 + _FIRST + b"\x44" * 16384 + b"\x55")),
            ),
        ),
        accepted(
            "a later message in chunks",
            "7.2",
            "server",
            open_(1, flags=0),
            frame(DATA, stream=1, seq=1, flags=END_STREAM | MORE, ext=body_length(SIZE)),
            *(chunk(_FIRST, seq=1) for _ in range(4)),
            chunk(_REST, seq=1, last=True),
            events=(message(1, end_stream=False), message(1, 1, ext=body_length(SIZE), body=whole)),
        ),
        vector(
            "a reply in chunks",
            "7.2",
            "client",
            *opened(),
            receive(frame(DATA, stream=1, flags=END_STREAM | MORE, ext=body_length(SIZE)), *_chunks()),
            expect(message(1, ext=body_length(SIZE), body=whole)),
        ),
        vector(
            "CANCEL in place of the remaining chunks",
            "7.7",
            "server",
            receive(head(), *_chunks()[:2]),
            expect(),
            receive(cancel),
            expect(_ABORTED, _CANCELLED),
        ),
        vector(
            "END in place of the remaining chunks",
            "7.7",
            "client",
            *opened(),
            receive(frame(DATA, stream=1, flags=END_STREAM | MORE, ext=body_length(SIZE)), _chunks()[0]),
            expect(),
            receive(frame(END, stream=1, aux=13)),
            expect(_ABORTED, ended(1, 13)),
        ),
        vector(
            "the stream ends by truncation",
            "15.5",
            "server",
            receive(head(), _chunks()[0][:1000]),
            do("eof"),
            expect(_ABORTED, closed(0, remote=True)),
            any_close_code=True,
        ),
        vector(
            "no memory: refused, its chunks dropped, the connection lives",
            "7.9",
            "server",
            receive(head()),
            expect({"event": "refused", "stream": 1, "status": 8}),
            receive(*_chunks()),
            expect(),
            receive(open_(2, body=b"next")),
            expect(message(2, body=b"next")),
            reserve="refuse",
        ),
        vector(
            "above max_message: refused, not fatal",
            "7.9",
            "server",
            receive(head(size=(1 << 20) + 1)),
            expect({"event": "refused", "stream": 1, "status": 8}),
        ),
    ]
    first = receive(head())
    heads: tuple[tuple[str, str, int, tuple[bytes, ...]], ...] = (
        ("MORE without BODY_LENGTH", "7.2", EXTENSION, (head(ext=b""),)),
        ("BODY_LENGTH without MORE", "7.2", EXTENSION, (head(flags=END_STREAM),)),
        ("BODY_LENGTH 0", "7.2", EXTENSION, (head(size=0),)),
        ("BODY_LENGTH 65,536 belongs in one frame", "7.2", EXTENSION, (head(size=65536),)),
        ("a body on the first frame", "7.2", FRAME, (head(body=b"x"),)),
    )
    for name, section, code, pieces in heads:
        found.append(refused(name, section, "server", code, *pieces))
    bad: tuple[tuple[str, str, int, tuple[bytes, ...]], ...] = (
        ("a chunk without a byte", "7.3", FRAME, (chunk(b""),)),
        ("a chunk over the negotiated size", "7.3", TOO_LARGE, (chunk(bytes(16385)),)),
        ("a chunk under 16 KiB that is not the last", "7.6", CALM, (chunk(b"x"),)),
        ("a chunk with metadata", "7.3", STREAM, (frame(DATA, stream=1, flags=MORE, meta=b"x", body=_FIRST),)),
        ("a chunk with extension", "7.3", STREAM, (frame(DATA, stream=1, flags=MORE, ext=dims(1), body=_FIRST),)),
        ("a chunk with aux", "7.3", FRAME, (chunk(_FIRST, aux=1),)),
        ("a chunk with another seq", "7.3", STREAM, (chunk(_FIRST, seq=1),)),
        ("DATA with another seq is no chunk", "7.3", STREAM, (chunk(bytes(16385), seq=1, flags=0),)),
        (
            "DATA with metadata is no chunk",
            "7.3",
            STREAM,
            (frame(DATA, stream=1, flags=END_STREAM, meta=b"x", body=bytes(65536)),),
        ),
        ("DATA with another seq and without a byte", "7.3", STREAM, (chunk(b"", seq=1, flags=0),)),
        ("DATA with another seq over the inline cap", "3.2", TOO_LARGE, (chunk(bytes(65537), seq=1, flags=0),)),
        (
            "a message between the chunks",
            "7.7",
            STREAM,
            (chunk(_FIRST), frame(DATA, stream=1, seq=1, flags=MORE, ext=body_length(SIZE))),
        ),
        ("END_STREAM on a middle chunk", "7.5", STREAM, (chunk(_FIRST, flags=MORE | END_STREAM),)),
        ("END_STREAM missing on the last chunk", "7.5", STREAM, (*_chunks()[:4], chunk(_REST, flags=0))),
        ("the last chunk comes early", "7.4", STREAM, (chunk(_FIRST, last=True),)),
        ("MORE on the chunk that is the last", "7.4", STREAM, (*_chunks()[:4], chunk(_REST, flags=MORE))),
        ("a chunk past BODY_LENGTH", "7.4", STREAM, (*_chunks()[:4], chunk(_REST + b"x", last=True))),
    )
    for name, section, code, pieces in bad:
        found.append(vector(name, section, "server", first, receive(*pieces), expect(_ABORTED, closed(code))))
    for name, section, code, pieces in bad:
        if name.startswith("DATA with"):
            first_reply = frame(DATA, stream=1, flags=END_STREAM | MORE, ext=body_length(SIZE))
            steps = (*opened(), receive(first_reply), receive(*pieces), expect(_ABORTED, closed(code)))
            found.append(vector(f"{name}, in a reply", section, "client", *steps))
    found.append(
        vector(
            "a chunk after the last",
            "7.4",
            "server",
            receive(head(flags=MORE), *(chunk(_FIRST) for _ in range(4)), chunk(_REST, flags=0), chunk(_REST, flags=0)),
            expect(message(1, end_stream=False, ext=body_length(SIZE), body=whole), closed(STREAM)),
        )
    )
    found.append(
        vector(
            "a small reply between the chunks of a reply",
            "7.7",
            "client",
            *opened(),
            receive(frame(DATA, stream=1, flags=MORE, ext=body_length(SIZE)), _chunks()[0], small),
            expect(_ABORTED, closed(STREAM)),
        )
    )
    return found
