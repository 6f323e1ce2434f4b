"""Vectors of the preface, the header and the single frames (SPEC 2, 3, 6, 10)."""

from __future__ import annotations

from tests.vectors.case import (
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
    sends,
    vector,
)
from tests.vectors.wire import (
    AUTH,
    AUTH_FRAME,
    CALM,
    CANCEL,
    CLOSE,
    CREDIT,
    DATA,
    END,
    END_STREAM,
    EXTENSION,
    FRAME,
    GOAWAY,
    HELLO,
    IDEMPOTENT,
    KEY_UPDATE,
    MORE,
    NO_NEW_STREAMS,
    NOT_STARTED,
    NOT_TENSORWIRE,
    OPEN,
    PING,
    PONG,
    PREFACE,
    PROTOCOL,
    RATE,
    READY,
    READY_FRAME,
    RESUMABLE,
    RESUME,
    SHUTDOWN,
    STREAM,
    TOO_LARGE,
    WANT_TIMING,
    WELCOME,
    dims,
    frame,
    hello,
    item,
    metadata,
    welcome,
)

_FOREIGN = (
    ("an HTTP/1 request", "10.1", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
    ("an HTTP/2 preface", "10.1", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    ("a TLS ClientHello", "10.1", bytes.fromhex("16030102000100")),
    ("an SSH banner", "10.1", b"SSH-2.0-x\r\n"),
    ("zeros", "2.3", bytes(64)),
    ("a frame without preface", "2.1", frame(PING, body=bytes(8))),
    ("the preface with LF for CR LF", "2.1", PREFACE.replace(b"\r\n", b"\n") + bytes(32)),
    ("the preface through a 7-bit channel", "2.1", bytes(b & 0x7F for b in PREFACE) + bytes(32)),
    ("the preface with its last byte wrong", "2.3", PREFACE[:7] + b"\x0b" + bytes(32)),
)


def preface() -> list[Vector]:
    """Stable: the first bytes of a connection."""
    return [
        refused(name, section, "server", NOT_TENSORWIRE, first, start="connected") for name, section, first in _FOREIGN
    ]


_CAP = dims(*range(31)) * 4 + item(1, b"\x07" + bytes(15))  # 4 x 250 + 18 = 1018 bytes


def header() -> list[Vector]:
    """Every header field at and over its bounds."""
    server = "server"
    found = [
        accepted("the smallest OPEN", "6.3", server, frame(OPEN, stream=1, flags=END_STREAM), events=(message(1),)),
        accepted(
            "metadata, extension and body at their caps",
            "19.4",
            server,
            frame(OPEN, stream=1, flags=END_STREAM, ext=_CAP, meta=bytes(65536), body=b"\x5a" * 65536),
            events=(message(1, ext=_CAP, meta=bytes(65536), body=b"\x5a" * 65536),),
        ),
        accepted(
            "aux and priority at their greatest",
            "3.5",
            server,
            frame(OPEN, stream=1, flags=END_STREAM | WANT_TIMING, aux=2**32 - 1, priority=255),
            events=(message(1, want_timing=True, aux=2**32 - 1, priority=255),),
        ),
        refused("reserved is 1", "3.1", server, FRAME, frame(OPEN, stream=1, flags=END_STREAM, reserved=1)),
        refused("reserved is 65535", "3.1", server, FRAME, frame(PING, body=bytes(8), reserved=65535)),
    ]
    for kind in (0, CREDIT, RATE, RESUME, KEY_UPDATE, 17, 255):
        found.append(refused(f"type {kind} is unknown", "6.1", server, FRAME, frame(kind, stream=1)))
        unknown = frame(kind, stream=1)
        found.append(refused(f"type {kind} is unknown to a client", "6.1", "client", FRAME, unknown, before=opened()))
    for flag in (IDEMPOTENT, RESUMABLE, NOT_STARTED, *(1 << bit for bit in range(6, 16))):
        bad = frame(OPEN, stream=1, flags=flag | END_STREAM)
        found.append(refused(f"OPEN with flag 0x{flag:04x}", "3.3", server, FRAME, bad))
    for flag in (WANT_TIMING, NOT_STARTED, 0x8000):
        opening = frame(OPEN, stream=1)
        bad = frame(DATA, stream=1, seq=1, flags=flag)
        found.append(
            vector(
                f"DATA with flag 0x{flag:04x}",
                "3.3",
                server,
                receive(opening, bad),
                expect(message(1, end_stream=False), closed(FRAME)),
            )
        )
    for size in (65537, 2**31 - 1, 2**31, 2**32 - 1):
        bad = frame(OPEN, stream=1, length=size, meta_len=size)
        found.append(refused(f"meta_len {size} is over its cap", "3.2", server, TOO_LARGE, bad))
        bad = frame(OPEN, stream=1, length=size)
        found.append(refused(f"a body of {size} in one frame", "7.1", server, TOO_LARGE, bad))
    for size in (1025, 65535):
        bad = frame(OPEN, stream=1, length=size, ext_len=size)
        found.append(refused(f"ext_len {size} is over its cap", "3.2", server, TOO_LARGE, bad))
    for length, meta_len, ext_len in ((0, 1, 0), (0, 0, 1), (9, 8, 2), (65535, 65536, 0)):
        bad = frame(OPEN, stream=1, length=length, meta_len=meta_len, ext_len=ext_len)
        name = f"length {length} below meta_len {meta_len} + ext_len {ext_len}"
        found.append(refused(name, "3.2", server, FRAME, bad))
    return found


def frames() -> list[Vector]:
    """Each control frame: its fields, its direction, its state."""
    return [*_control_fields(), *_directions(), *_items(), *_meanings()]


_VALUES = {3: bytes(16), 4: bytes(24), 5: bytes(25), 6: bytes(28), 7: bytes(4), 8: bytes(4)}


def _items() -> list[Vector]:
    """Items on frames that may not carry them."""
    found = []
    for kind in (3, 4, 6, 7, 8):
        bad = frame(OPEN, stream=1, ext=item(kind, _VALUES[kind]))
        found.append(refused(f"OPEN with item {kind}", "4.4", "server", EXTENSION, bad))
    for kind in (3, 4, 5, 6, 7, 8):
        bad = frame(DATA, stream=1, seq=1, ext=item(kind, _VALUES[kind]))
        steps = (receive(frame(OPEN, stream=1), bad), expect(message(1, end_stream=False), closed(EXTENSION)))
        found.append(vector(f"DATA of the client with item {kind}", "4.4", "server", *steps))
    for kind in (3, 4, 5, 6, 7, 8):
        bad = frame(DATA, stream=1, ext=item(kind, _VALUES[kind]))
        found.append(
            refused(f"a reply that is not the last with item {kind}", "4.4", "client", EXTENSION, bad, before=opened())
        )
    for kind in (3, 4, 5, 7, 8):
        bad = frame(DATA, stream=1, flags=END_STREAM, ext=item(kind, _VALUES[kind]))
        found.append(refused(f"the last reply with item {kind}", "4.4", "client", EXTENSION, bad, before=opened()))
    for kind in (2, 3, 4, 5):
        bad = frame(END, stream=1, aux=13, ext=item(kind, _VALUES.get(kind, bytes(8))))
        found.append(refused(f"END with item {kind}", "4.4", "client", EXTENSION, bad, before=opened()))
    return found


def _control_fields() -> list[Vector]:
    found = []
    for size in (0, 7, 9, 65536):
        found.append(refused(f"PING with {size} bytes", "6.9", "server", FRAME, frame(PING, body=bytes(size))))
    for field in ({"stream": 1}, {"seq": 1}, {"aux": 1}, {"flags": 1}, {"priority": 1}):
        name = next(iter(field))
        bad = frame(PING, body=bytes(8), **field)  # type: ignore[arg-type]
        found.append(refused(f"PING with {name}", "6.2", "server", FRAME, bad))
        if name not in {"stream", "aux"}:
            bad = frame(END, **({"stream": 1} | field))  # type: ignore[arg-type]
            found.append(refused(f"END with {name}", "6.5", "client", FRAME, bad, before=opened()))
        if name != "stream":
            bad = frame(CANCEL, **({"stream": 1} | field))  # type: ignore[arg-type]
            found.append(refused(f"CANCEL with {name}", "6.6", "server", FRAME, bad))
    body = frame(CANCEL, stream=1, body=b"x")
    found.append(refused("CANCEL with a body", "6.6", "server", FRAME, body))
    for kind, role in ((PING, "server"), (PING, "client"), (CANCEL, "server"), (END, "client")):
        for size in (65537, 2**32 - 1):  # the caps of bodies are those of OPEN and DATA alone
            bad = frame(kind, stream=0 if kind == PING else 1, aux=13 if kind == END else 0, length=size)
            before = opened() if role == "client" else ()
            name = f"type {kind} with a body of {size} bytes, at the {role}"
            found.append(refused(name, "3.2", role, FRAME, bad, before=before))
    long = b"x" * 1025
    found += [
        refused("PING with metadata", "5.1", "server", TOO_LARGE, frame(PING, meta=b"x", body=bytes(8))),
        refused("PING with extension", "5.1", "server", TOO_LARGE, frame(PING, ext=dims(1), body=bytes(8))),
        refused("CLOSE with 1025 bytes of text", "19.4", "server", TOO_LARGE, frame(CLOSE, meta=long)),
        refused("CLOSE on a stream", "6.12", "server", FRAME, frame(CLOSE, stream=1)),
        refused(
            "END with 1025 bytes of detail",
            "19.4",
            "client",
            TOO_LARGE,
            frame(END, stream=1, aux=13, meta=long),
            before=opened(),
        ),
        refused("END with a body", "6.5", "client", FRAME, frame(END, stream=1, aux=13, body=b"x"), before=opened()),
        refused("END with status 17", "19.1", "client", FRAME, frame(END, stream=1, aux=17), before=opened()),
        refused(
            "END with OK and NOT_STARTED",
            "6.5",
            "client",
            FRAME,
            frame(END, stream=1, flags=NOT_STARTED),
            before=opened(),
        ),
        refused(
            "END with DIMS", "4.4", "client", EXTENSION, frame(END, stream=1, aux=13, ext=dims(1)), before=opened()
        ),
    ]
    return found


def _directions() -> list[Vector]:
    found = []
    for kind in (WELCOME, READY, END, GOAWAY, HELLO, AUTH):
        bad = frame(kind, stream=1 if kind == END else 0, meta=b"" if kind in {END, GOAWAY} else b"\x80")
        found.append(refused(f"type {kind} at an open server", "6.1", "server", PROTOCOL, bad))
    for kind in (OPEN, CANCEL, HELLO, AUTH, WELCOME, READY):
        bad = frame(kind, stream=1 if kind in {OPEN, CANCEL} else 0, meta=b"" if kind in {OPEN, CANCEL} else b"\x80")
        found.append(refused(f"type {kind} at an open client", "6.1", "client", PROTOCOL, bad, before=opened()))
    for kind in (AUTH, OPEN, DATA, CANCEL, PING, PONG, GOAWAY, END, READY, WELCOME):
        bad = frame(
            kind, stream=1 if kind in {OPEN, DATA, CANCEL, END} else 0, body=bytes(8) if kind in {PING, PONG} else b""
        )
        found.append(refused(f"type {kind} before HELLO", "9.1", "server", PROTOCOL, PREFACE, bad, start="connected"))
    for kind in (OPEN, DATA, CANCEL, PING, HELLO):
        bad = frame(kind, stream=1 if kind in {OPEN, DATA, CANCEL} else 0, body=bytes(8) if kind == PING else b"")
        name = f"type {kind} before AUTH"
        found.append(refused(name, "9.1", "server", PROTOCOL, PREFACE, hello(), bad, start="connected"))
    for kind in (READY, DATA, END, PING, GOAWAY):
        bad = frame(kind, stream=1 if kind in {DATA, END} else 0, body=bytes(8) if kind == PING else b"")
        found.append(refused(f"type {kind} before WELCOME", "9.1", "client", PROTOCOL, bad, start="connected"))
    for kind in (DATA, END, PING, GOAWAY, WELCOME):
        bad = frame(kind, stream=1 if kind in {DATA, END} else 0, body=bytes(8) if kind == PING else b"")
        found.append(refused(f"type {kind} before READY", "9.1", "client", PROTOCOL, welcome(), bad, start="connected"))
    return found


def _meanings() -> list[Vector]:
    text = "too many"
    retry = item(7, (5000).to_bytes(4, "little")) + item(8, (7000).to_bytes(4, "little"))
    ping, pong = frame(PING, body=b"12345678"), frame(PONG, body=b"12345678")
    last = frame(GOAWAY, stream=1, aux=SHUTDOWN, meta=b"bye")
    return [
        vector(
            "PING is answered while a stream is open",
            "15.3",
            "server",
            receive(frame(OPEN, stream=1)),
            expect(message(1, end_stream=False)),
            receive(ping),
            expect(),
            sends(pong),
        ),
        vector(
            "the client answers PING",
            "15.3",
            "client",
            *opened(),
            sends(frame(OPEN, stream=1, flags=END_STREAM)),
            receive(ping),
            expect(),
            sends(pong),
        ),
        vector("a server answers PING when idle", "15.3", "server", receive(ping), expect(), sends(pong)),
        vector("a client answers PING when idle", "15.3", "client", receive(ping), expect(), sends(pong)),
        accepted(
            "a PONG that nobody asked for is no error",
            "15.3",
            "server",
            pong,
            events=({"event": "pong", "payload": b"12345678".hex()},),
        ),
        vector(
            "END with retry_after, queue estimate and detail",
            "6.5",
            "client",
            *opened(),
            receive(frame(END, stream=1, aux=8, flags=NOT_STARTED, ext=retry, meta=text.encode())),
            expect(ended(1, 8, not_started=True, detail=text, ext=retry)),
        ),
        *(
            vector(
                f"a call whose time is over, {words}",
                "13.3",
                "client",
                *opened(),
                receive(frame(END, stream=1, aux=4, flags=flags, meta=text.encode())),
                expect(ended(1, 4, not_started=bool(flags), detail=text)),
            )
            for words, flags in (("known not to have started", NOT_STARTED), ("started or perhaps started", 0))
        ),
        vector(
            "a kind of call that the server does not serve",
            "8.7",
            "client",
            *opened(flags=0),
            receive(frame(END, stream=1, aux=12, flags=NOT_STARTED)),
            expect(ended(1, 12, not_started=True)),
        ),
        vector("END with OK", "6.5", "client", *opened(), receive(frame(END, stream=1)), expect(ended(1, 0))),
        vector(
            "GOAWAY: open no new streams",
            "6.10",
            "client",
            *opened(),
            receive(frame(GOAWAY, stream=NO_NEW_STREAMS, aux=SHUTDOWN)),
            expect({"event": "goaway", "last_stream": NO_NEW_STREAMS, "code": SHUTDOWN, "detail": ""}),
        ),
        vector(
            "GOAWAY may only lower the last stream",
            "6.10",
            "client",
            *opened(),
            receive(last),
            expect({"event": "goaway", "last_stream": 1, "code": SHUTDOWN, "detail": "bye"}),
            receive(frame(GOAWAY, stream=2)),
            expect(closed(STREAM)),
        ),
        accepted("CLOSE, orderly", "6.12", "server", frame(CLOSE), events=(closed(0, remote=True),)),
        accepted(
            "CLOSE with a code and text",
            "6.12",
            "client",
            frame(CLOSE, aux=CALM, meta=b"slow down"),
            events=(closed(CALM, remote=True),),
        ),
        vector(
            "the owner closes",
            "6.12",
            "server",
            do("close", code=SHUTDOWN, detail="bye"),
            sends(frame(CLOSE, aux=SHUTDOWN, meta=b"bye")),
        ),
        vector(
            "the owner pings",
            "6.9",
            "client",
            do("ping", payload=b"abcdefgh".hex()),
            sends(frame(PING, body=b"abcdefgh")),
        ),
        refused("READY twice", "9.1", "client", PROTOCOL, READY_FRAME),
        refused("AUTH twice", "9.1", "server", PROTOCOL, AUTH_FRAME),
        vector(
            "unary call: metadata passes unread",
            "5.3",
            "server",
            receive(frame(OPEN, stream=1, flags=END_STREAM, ext=dims(1, 3), meta=metadata(), body=bytes(12))),
            expect(message(1, ext=dims(1, 3), meta=metadata(), body=bytes(12))),
        ),
        refused(
            "MORE on OPEN with an inline body",
            "7.2",
            "server",
            FRAME,
            frame(OPEN, stream=1, flags=MORE, ext=item(2, (70000).to_bytes(8, "little")), body=b"x"),
        ),
    ]
