"""Vectors of HELLO, WELCOME, AUTH, READY and their entries (SPEC 9)."""

from __future__ import annotations

import struct

from tests.vectors.case import Step, Vector, closed, do, expect, receive, refused, sends, vector
from tests.vectors.wire import (
    AUTH,
    AUTH_FRAME,
    AUTHENTICATION,
    CLOSE,
    DATA,
    FEATURE,
    FRAME,
    HANDSHAKE,
    HELLO,
    HELLO_ENTRIES,
    MAC,
    NOT_TENSORWIRE,
    OPEN,
    PING,
    PONG,
    PREFACE,
    READY,
    READY_FRAME,
    TOO_LARGE,
    VERSION,
    WELCOME,
    WELCOME_ENTRIES,
    entry,
    frame,
    hello,
    limits,
    ready_payload,
    region,
    u16s,
    welcome,
)

_OFFER = u16s(0x0A0A)


def _bad_hello(name: str, section: str, code: int, frame_bytes: bytes) -> Vector:
    return refused(name, section, "server", code, PREFACE, frame_bytes, start="connected")


def _good_hello(name: str, section: str, frame_bytes: bytes) -> Vector:
    return vector(name, section, "server", receive(PREFACE, frame_bytes), expect(), sends(welcome()), start="connected")


def hello_entries() -> list[Vector]:
    """HELLO and how it is refused. Draft, though the sections are stable: each HELLO carries the draft number."""
    raw = region(HELLO_ENTRIES)
    first = entry(1, HELLO_ENTRIES[1])
    swapped = entry(2, HELLO_ENTRIES[2]) + first + raw[len(first) + 8 :]
    found = [
        _good_hello("the preface and HELLO are answered by WELCOME", "2.1", hello()),
        _good_hello("unknown entries are ignored", "9.2", hello(t14=b"", t99=b"\xff" * 40, t65535=b"x")),
        _good_hello("without the optional AGENT", "9.3", hello(t9=None)),
        _good_hello("WELCOME's own entry types are unknown in HELLO", "9.3", hello(t10=bytes(3), t13=b"x")),
        _good_hello("a wide range of versions", "9.4", hello(t1=u16s(1, 65535))),
        _good_hello("every random feature number", "9.5", hello(t4=u16s(*(n * 0x1000 + 0xA0A for n in range(16))))),
        _good_hello("no feature at all, not even the random one", "9.5", hello(t4=b"")),
        _good_hello("unknown MAC numbers are ignored", "9.5", hello(t6=b"\xfe\x00\x01")),
        _good_hello("the greatest chunk", "9.6", hello(t8=limits(1 << 20, 0, 1 << 20))),
        _good_hello("a region of 4096 bytes", "9.2", hello(t99=bytes(4096 - 4 - len(raw)))),
        _bad_hello("a region of 4097 bytes", "9.2", TOO_LARGE, hello(t99=bytes(4097 - 4 - len(raw)))),
        _bad_hello("a body of one byte", "6.2", 2, frame(HELLO, meta=raw, body=b"x")),
        _bad_hello("HELLO on a stream", "6.2", 2, frame(HELLO, stream=1, meta=raw)),
        _bad_hello("no entries", "9.3", HANDSHAKE, frame(HELLO)),
        _bad_hello("out of order", "9.2", HANDSHAKE, frame(HELLO, meta=swapped)),
        _bad_hello("an entry twice", "9.2", HANDSHAKE, frame(HELLO, meta=first + raw)),
        _bad_hello("half an entry header at the end", "9.2", HANDSHAKE, frame(HELLO, meta=raw + b"\x63\x00")),
        _bad_hello(
            "an entry that runs past the end", "9.2", HANDSHAKE, frame(HELLO, meta=raw + b"\x63\x00\x05\x00xxxx")
        ),
        _bad_hello("an entry of 65535 bytes", "9.2", HANDSHAKE, frame(HELLO, meta=raw + b"\x63\x00\xff\xff")),
        _bad_hello("versions 2..3", "9.4", VERSION, hello(t1=u16s(2, 3))),
        _bad_hello("versions 0..0", "9.4", VERSION, hello(t1=u16s(0, 0))),
        _bad_hello("versions 3..1", "9.4", VERSION, hello(t1=u16s(3, 1))),
        _bad_hello("another draft", "9.4", VERSION, hello(t2=struct.pack("<I", 2))),
        _bad_hello("no draft", "9.4", VERSION, hello(t2=struct.pack("<I", 0))),
        _bad_hello("a required feature that the server has not", "9.5", FEATURE, hello(t4=u16s(4, 0x0A0A), t5=u16s(4))),
        _bad_hello("a required feature that is not offered", "9.5", HANDSHAKE, hello(t4=_OFFER, t5=u16s(4))),
        _bad_hello("no common MAC", "9.5", MAC, hello(t6=b"\x02\xfe")),
        _bad_hello("a key at a server that has none", "9.7", AUTHENTICATION, hello(t7=b"k")),
    ]
    for kind in (1, 2, 3, 4, 6, 8):
        found.append(_bad_hello(f"without entry {kind}", "9.3", HANDSHAKE, hello(**{f"t{kind}": None})))
    for kind, value in (
        (1, bytes(3)),
        (1, bytes(5)),
        (2, bytes(3)),
        (3, bytes(31)),
        (3, bytes(33)),
        (4, bytes(3)),
        (5, b"\x01"),
        (6, b""),
        (7, b""),
        (7, bytes(65)),
        (8, bytes(15)),
        (8, bytes(17)),
        (9, b""),
        (9, b"x" * 129),
    ):
        name = f"entry {kind} of {len(value)} bytes"
        found.append(_bad_hello(name, "9.3", HANDSHAKE, hello(**{f"t{kind}": value})))
    for chunk in (0, 16383, (1 << 20) + 1, 2**32 - 1):
        found.append(_bad_hello(f"chunk {chunk}", "9.6", HANDSHAKE, hello(t8=limits(chunk, 0, 1 << 20))))
    return found


def _bad_welcome(name: str, section: str, code: int, frame_bytes: bytes) -> Vector:
    return refused(name, section, "client", code, frame_bytes, start="connected")


def handshake() -> list[Vector]:
    """WELCOME, AUTH and READY."""
    raw = region(WELCOME_ENTRIES)
    to_auth = (sends(PREFACE, hello()), receive(welcome()), expect(), sends(AUTH_FRAME))
    good: tuple[tuple[str, str, bytes], ...] = (
        ("unknown entries in WELCOME are ignored", "9.2", welcome(t14=b"x", t4096=bytes(9))),
        ("WELCOME without AGENT", "9.3", welcome(t9=None)),
        ("HELLO's own entry types are unknown in WELCOME", "9.3", welcome(t5=b"x", t7=bytes(99))),
    )
    found = [
        vector(
            name,
            section,
            "client",
            sends(PREFACE, hello()),
            receive(frame_bytes),
            expect(),
            sends(AUTH_FRAME),
            start="connected",
        )
        for name, section, frame_bytes in good
    ]
    found += [
        vector(
            "the whole handshake of a client",
            "9.1",
            "client",
            *to_auth,
            receive(READY_FRAME),
            expect({"event": "ready", "payload": ready_payload().hex()}),
            start="connected",
        ),
        vector(
            "the whole handshake of a server",
            "9.1",
            "server",
            receive(PREFACE, hello()),
            sends(welcome()),
            receive(AUTH_FRAME),
            expect({"event": "authenticated"}),
            do("accept", ready=ready_payload().hex()),
            sends(READY_FRAME),
            start="connected",
        ),
        vector(
            "calls follow AUTH at once",
            "9.1",
            "server",
            receive(PREFACE, hello()),
            sends(welcome()),
            _pipelined(),
            *_pipelined_outcome(),
            start="connected",
            accept_at_once=True,
        ),
        vector(
            "a bad frame behind AUTH: the server need not say READY before CLOSE",
            "9.1",
            "server",
            receive(PREFACE, hello()),
            sends(welcome()),
            receive(AUTH_FRAME, frame(17)),
            expect({"event": "authenticated"}, closed(FRAME)),
            start="connected",
        ),
        vector(
            "CLOSE in place of READY, for a bad frame behind AUTH",
            "9.1",
            "client",
            *to_auth,
            receive(frame(CLOSE, aux=FRAME, meta=b"type 17: unknown")),
            expect(closed(FRAME, remote=True)),
            start="connected",
        ),
        vector(
            "a PING behind AUTH is answered behind READY",
            "9.1",
            "server",
            receive(PREFACE, hello()),
            sends(welcome()),
            receive(AUTH_FRAME, frame(PING, body=b"12345678")),
            expect({"event": "authenticated"}),
            sends(),
            do("accept", ready=ready_payload().hex()),
            sends(READY_FRAME, frame(PONG, body=b"12345678")),
            start="connected",
        ),
        vector(
            "the server refuses by CLOSE",
            "9.7",
            "client",
            *to_auth,
            receive(frame(15, aux=AUTHENTICATION, meta=b"no")),
            expect(closed(AUTHENTICATION, remote=True)),
            start="connected",
        ),
        vector(
            "the server refuses the version in words",
            "9.4",
            "client",
            sends(PREFACE, hello()),
            receive(frame(15, aux=VERSION, meta=b"version: client speaks 1..1, server speaks 2..2")),
            expect(closed(VERSION, remote=True)),
            start="connected",
        ),
        _bad_welcome("an HTTP server", "10.4", NOT_TENSORWIRE, b"HTTP/1.1 400 Bad Request\r\nServer: x\r\n\r\n"),
        _bad_welcome("an SSH server", "10.4", NOT_TENSORWIRE, b"SSH-2.0-OpenSSH_9.6p1 and some more\r\n"),
        _bad_welcome("a TLS server", "10.4", NOT_TENSORWIRE, bytes.fromhex("160303007a02000076") + bytes(118)),
        _bad_welcome("a region of 4097 bytes", "9.2", TOO_LARGE, welcome(t99=bytes(4097 - 4 - len(raw)))),
        _bad_welcome("no entries", "9.3", HANDSHAKE, frame(WELCOME)),
        _bad_welcome("version 2, never offered", "9.4", VERSION, welcome(t1=u16s(2, 2))),
        _bad_welcome("version range that is no choice", "9.3", HANDSHAKE, welcome(t1=u16s(1, 2))),
        _bad_welcome("another draft", "9.4", VERSION, welcome(t2=struct.pack("<I", 2))),
        _bad_welcome("a feature never offered", "9.5", FEATURE, welcome(t4=u16s(4))),
        _bad_welcome("the random feature chosen", "9.5", FEATURE, welcome(t4=_OFFER)),
        _bad_welcome("a MAC never offered", "9.5", MAC, welcome(t6=b"\x01")),
        _bad_welcome("two MACs chosen", "9.3", HANDSHAKE, welcome(t6=b"\x00\x01")),
        _bad_welcome("max_streams 0", "9.6", HANDSHAKE, welcome(t8=limits(16384, 0, 1 << 20))),
        _bad_welcome("chunk below the least", "9.6", HANDSHAKE, welcome(t8=limits(16383, 4, 1 << 20))),
        refused(
            "AUTH with half an entry",
            "9.2",
            "server",
            HANDSHAKE,
            PREFACE,
            hello(),
            frame(AUTH, meta=b"\x0d\x00"),
            start="connected",
        ),
        refused("HELLO twice", "9.1", "server", 1, PREFACE, hello(), hello(), start="connected"),
        vector(
            "READY without payload",
            "6.2",
            "client",
            *to_auth,
            receive(frame(READY)),
            expect(closed(HANDSHAKE)),
            start="connected",
        ),
        vector(
            "READY over its cap",
            "6.2",
            "client",
            *to_auth,
            receive(frame(READY, length=65537, meta_len=65537)),
            expect(closed(TOO_LARGE)),
            start="connected",
        ),
        vector(
            "DATA in place of READY",
            "9.1",
            "client",
            *to_auth,
            receive(frame(DATA, stream=1)),
            expect(closed(1)),
            start="connected",
        ),
    ]
    for kind in (1, 2, 3, 4, 6, 8, 10, 11):
        name = f"WELCOME without entry {kind}"
        found.append(_bad_welcome(name, "9.3", HANDSHAKE, welcome(**{f"t{kind}": None})))
    for kind, size in ((1, 2), (2, 5), (3, 16), (4, 1), (6, 0), (8, 12), (10, 7), (10, 9), (11, 8), (11, 17)):
        name = f"WELCOME with entry {kind} of {size} bytes"
        found.append(_bad_welcome(name, "9.3", HANDSHAKE, welcome(**{f"t{kind}": b"\x01" * size})))
    return found


def _pipelined() -> Step:
    return receive(AUTH_FRAME, frame(OPEN, stream=1, flags=1, body=b"early"))


def _pipelined_outcome() -> tuple[Step, ...]:
    """The owner accepts, and only then is the call handed out."""
    early = {
        "event": "message",
        "stream": 1,
        "seq": 0,
        "end_stream": True,
        "want_timing": False,
        "priority": 0,
        "aux": 0,
        "extension": "",
        "metadata": [],
        "body": [b"early".hex()],
    }
    return (
        expect({"event": "authenticated"}, early),
        sends(READY_FRAME),
    )
