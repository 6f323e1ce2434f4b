"""Vectors of whole small sessions, bytes each way (SPEC 9.1, appendix A), and of extension regions (SPEC 4)."""

from __future__ import annotations

import struct

from tests.vectors.case import PRELUDE, Vector, closed, do, ended, expect, message, receive, sends, vector
from tests.vectors.wire import (
    CANCEL,
    CLOSE,
    DATA,
    END,
    END_STREAM,
    GOAWAY,
    MORE,
    NO_NEW_STREAMS,
    NOT_STARTED,
    OPEN,
    PING,
    PONG,
    SHUTDOWN,
    WANT_TIMING,
    body_length,
    dims,
    frame,
    item,
    metadata,
    parts,
)

_X = struct.pack("<3f", 1.0, 2.0, 3.0)
_Y = struct.pack("<3f", 2.0, 4.0, 6.0)
_TIMING = item(6, struct.pack("<7I", 12, 30, 0, 4, 150, 5, 210))
CALL = frame(OPEN, stream=1, flags=END_STREAM | WANT_TIMING, aux=250_000, ext=dims(1, 3), meta=metadata(), body=_X)
REPLY = frame(DATA, stream=1, flags=END_STREAM, ext=dims(1, 3) + _TIMING, meta=metadata("1"), body=_Y)
BYE = frame(CLOSE)


def _open(meta: bytes, ext: bytes, body: bytes, flags: int, deadline: int = 0) -> dict[str, object]:
    return do("open", metadata=meta.hex(), extension=ext.hex(), body=parts(body), flags=flags, deadline_us=deadline)


def _reply(stream: int, meta: bytes, ext: bytes, body: bytes, flags: int = END_STREAM) -> dict[str, object]:
    return do("send", stream=stream, metadata=meta.hex(), extension=ext.hex(), body=parts(body), flags=flags)


def sessions() -> list[Vector]:
    """From the preface to CLOSE."""
    return [*_unary(), *_large(), *_trouble()]


def _unary() -> list[Vector]:
    sent = message(1, want_timing=True, aux=250_000, ext=dims(1, 3), meta=metadata(), body=_X)
    got = message(1, ext=dims(1, 3) + _TIMING, meta=metadata("1"), body=_Y)
    return [
        vector(
            "a unary call with timing, at the server",
            "A",
            "server",
            *PRELUDE["server"],
            receive(CALL),
            expect(sent),
            _reply(1, metadata("1"), dims(1, 3) + _TIMING, _Y),
            sends(REPLY),
            receive(BYE),
            expect(closed(0, remote=True)),
            start="connected",
        ),
        vector(
            "a unary call with timing, at the client",
            "A",
            "client",
            *PRELUDE["client"],
            _open(metadata(), dims(1, 3), _X, END_STREAM | WANT_TIMING, 250_000),
            sends(CALL),
            receive(REPLY),
            expect(got),
            do("close", code=0, detail=""),
            sends(BYE),
            start="connected",
        ),
    ]


def _large() -> list[Vector]:
    body = b"\xab" * 40000
    size = 16384 * 5
    big = b"\xcd" * size
    pieces = [
        frame(DATA, stream=1, flags=MORE if n < 4 else END_STREAM, body=big[n * 16384 : (n + 1) * 16384])
        for n in range(5)
    ]
    first = frame(DATA, stream=1, flags=END_STREAM | MORE, ext=dims(5, 4096) + body_length(size), meta=metadata("1"))
    call = frame(OPEN, stream=1, flags=END_STREAM, ext=dims(5, 2000), meta=metadata(), body=body)
    received = message(1, ext=dims(5, 4096) + body_length(size), meta=metadata("1"), body=big)
    upload = frame(OPEN, stream=1, flags=END_STREAM | MORE, ext=dims(5, 4096) + body_length(size), meta=metadata())
    return [
        vector(
            "a reply in chunks, at the server",
            "7.2",
            "server",
            *PRELUDE["server"],
            receive(call),
            expect(message(1, ext=dims(5, 2000), meta=metadata(), body=body)),
            _reply(1, metadata("1"), dims(5, 4096), big),
            sends(first, *pieces),
            start="connected",
        ),
        vector(
            "a reply in chunks, at the client",
            "7.2",
            "client",
            *PRELUDE["client"],
            _open(metadata(), dims(5, 2000), body, END_STREAM),
            sends(call),
            receive(first, *pieces),
            expect(received),
            start="connected",
        ),
        vector(
            "a request in chunks, at the client",
            "7.2",
            "client",
            *PRELUDE["client"],
            _open(metadata(), dims(5, 4096), big, END_STREAM),
            sends(upload, *pieces),
            start="connected",
        ),
    ]


def _trouble() -> list[Vector]:
    call = frame(OPEN, stream=1, flags=END_STREAM, meta=metadata(), ext=dims(1, 0))
    called = message(1, meta=metadata(), ext=dims(1, 0))
    text = b"model 'echo': no such model"
    not_found = frame(END, stream=1, flags=NOT_STARTED, aux=5, meta=text)
    drain = frame(GOAWAY, stream=NO_NEW_STREAMS, aux=SHUTDOWN, meta=b"draining")
    last = frame(GOAWAY, stream=1, aux=SHUTDOWN, meta=b"draining")
    done = frame(DATA, stream=1, flags=END_STREAM)
    asked, answer = frame(PING, body=b"drain..."), frame(PONG, body=b"drain...")
    return [
        vector(
            "a call that is refused, at the server",
            "6.5",
            "server",
            *PRELUDE["server"],
            receive(call),
            expect(called),
            do("end", stream=1, status=5, detail=text.decode(), not_started=True, extension=""),
            sends(not_found),
            start="connected",
        ),
        vector(
            "a call that is refused, at the client",
            "6.5",
            "client",
            *PRELUDE["client"],
            _open(metadata(), dims(1, 0), b"", END_STREAM),
            sends(call),
            receive(not_found),
            expect(ended(1, 5, not_started=True, detail=text.decode())),
            start="connected",
        ),
        vector(
            "a call that is cancelled, at the client",
            "13.4",
            "client",
            *PRELUDE["client"],
            _open(metadata(), dims(1, 0), b"", END_STREAM),
            sends(call),
            do("cancel", stream=1),
            sends(frame(CANCEL, stream=1)),
            receive(frame(END, stream=1, aux=1)),
            expect(),
            start="connected",
        ),
        vector(
            "a server drains",
            "15.1",
            "server",
            *PRELUDE["server"],
            receive(call),
            expect(called),
            do("goaway", last_stream=NO_NEW_STREAMS, code=SHUTDOWN, detail="draining"),
            sends(drain),
            do("ping", payload=b"drain...".hex()),
            sends(asked),
            receive(answer),
            expect({"event": "pong", "payload": b"drain...".hex()}),
            do("goaway", last_stream=1, code=SHUTDOWN, detail="draining"),
            sends(last),
            _reply(1, b"", b"", b""),
            sends(done),
            do("close", code=0, detail=""),
            sends(BYE),
            start="connected",
        ),
    ]


def extensions() -> list[Vector]:
    """Regions on their own: bytes and what they say."""
    u32, u64 = struct.Struct("<I").pack, struct.Struct("<Q").pack
    full = dims(*range(31))
    trace = bytes(range(25))
    good: list[tuple[str, bytes, dict[str, object]]] = [
        ("no item", b"", {}),
        ("one dim", dims(7), {"dims": [7]}),
        ("the greatest dim", dims(2**64 - 1), {"dims": [2**64 - 1]}),
        ("33 dims in two items", full + dims(31, 32), {"dims": list(range(33))}),
        ("body length", body_length(70000), {"body_length": 70000}),
        ("trace", item(5, trace), {"trace": trace.hex()}),
        ("timing", _TIMING, {"timing": [12, 30, 0, 4, 150, 5, 210]}),
        (
            "retry after and queue estimate",
            item(7, u32(1)) + item(8, u32(2**32 - 1)),
            {"retry_after": 1, "queue_estimate": 2**32 - 1},
        ),
        (
            "dims, body length, trace",
            dims(0, 5) + body_length(65537) + item(5, trace),
            {"dims": [0, 5], "body_length": 65537, "trace": trace.hex()},
        ),
    ]
    bad: list[tuple[str, str, bytes]] = [
        ("a single byte", "4.3", b"\x01"),
        ("an item that runs past the end", "4.3", b"\x01\x08" + bytes(7)),
        ("a byte left over", "4.3", dims(1) + b"\x02"),
        ("type 0", "4.4", b"\x00\x00"),
        ("type 9", "4.4", item(9, b"x")),
        ("type 255", "4.4", item(255, b"")),
        ("DIMS of no dims", "4.4", item(1, b"")),
        ("DIMS of 7 bytes", "4.4", item(1, bytes(7))),
        ("DIMS of 255 bytes", "4.4", item(1, bytes(255))),
        ("BODY_LENGTH of 4 bytes", "4.4", item(2, bytes(4))),
        ("BODY_LENGTH of 9 bytes", "4.4", item(2, bytes(9))),
        ("BODY_LENGTH twice", "4.2", body_length(70000) * 2),
        ("TRACE of 24 bytes", "4.4", item(5, bytes(24))),
        ("TRACE before DIMS", "4.2", item(5, trace) + dims(1)),
        ("TIMING of 24 bytes", "4.4", item(6, bytes(24))),
        ("TIMING twice", "4.2", _TIMING * 2),
        ("RETRY_AFTER of 8 bytes", "4.4", item(7, u64(1))),
        ("QUEUE_ESTIMATE before RETRY_AFTER", "4.2", item(8, u32(1)) + item(7, u32(1))),
        ("DIMS again after a short DIMS", "4.2", dims(1) + dims(2)),
        ("DIMS on both sides of BODY_LENGTH", "4.2", dims(*range(31)) + body_length(70000) + dims(1)),
    ]
    return [
        {"name": name, "section": "4.2", "valid": True, "bytes": raw.hex(), "items": items} for name, raw, items in good
    ] + [
        {"name": name, "section": section, "valid": False, "bytes": raw.hex(), "code": 5} for name, section, raw in bad
    ]
