"""The bytes of the wire, described a second time by struct alone, for the vectors.

What lives here: frames, entries, items and one hand-laid FlatBuffer, after SPEC.md. What must not: any import of
tensorwire, and any check: the vectors need wrong bytes too.
"""

from __future__ import annotations

import re
import struct

PREFACE = bytes.fromhex("895457500d0a1a0a")

HELLO, WELCOME, AUTH, READY, OPEN, DATA, END, CANCEL = range(1, 9)
CREDIT, RATE, PING, PONG, GOAWAY, RESUME, CLOSE, KEY_UPDATE = range(9, 17)
END_STREAM, MORE, WANT_TIMING, IDEMPOTENT, RESUMABLE, NOT_STARTED = 1, 2, 4, 8, 16, 32
NO_NEW_STREAMS = 2**64 - 1

# Connection error codes, SPEC 19.2
PROTOCOL, FRAME, TOO_LARGE, STREAM, EXTENSION, HANDSHAKE, VERSION, FEATURE, MAC = range(1, 10)
AUTHENTICATION, TIMEOUT, CALM, SHUTDOWN, INTERNAL, NOT_TENSORWIRE = range(10, 16)

Part = str | dict[str, object]
Parts = list[Part]


def frame(
    kind: int,
    *,
    stream: int = 0,
    flags: int = 0,
    seq: int = 0,
    aux: int = 0,
    priority: int = 0,
    ext: bytes = b"",
    meta: bytes = b"",
    body: bytes = b"",
    reserved: int = 0,
    length: int | None = None,
    meta_len: int | None = None,
    ext_len: int | None = None,
) -> bytes:
    """A frame (SPEC 3.1); the three lengths may be overridden with wrong ones."""
    return (
        struct.pack(
            "<IBBHQIIIHH",
            len(ext) + len(meta) + len(body) if length is None else length,
            kind,
            priority,
            flags,
            stream,
            seq,
            aux,
            len(meta) if meta_len is None else meta_len,
            len(ext) if ext_len is None else ext_len,
            reserved,
        )
        + ext
        + meta
        + body
    )


def item(kind: int, value: bytes) -> bytes:
    """An extension item (SPEC 4.1)."""
    return struct.pack("<BB", kind, len(value)) + value


def dims(*sizes: int) -> bytes:
    """A DIMS item of up to 31 sizes."""
    return item(1, struct.pack(f"<{len(sizes)}Q", *sizes))


def body_length(total: int) -> bytes:
    """A BODY_LENGTH item."""
    return item(2, struct.pack("<Q", total))


def entry(kind: int, value: bytes) -> bytes:
    """A handshake entry (SPEC 9.2)."""
    return struct.pack("<HH", kind, len(value)) + value


def u16s(*values: int) -> bytes:
    """Little-endian u16 values."""
    return struct.pack(f"<{len(values)}H", *values)


def limits(chunk: int, max_streams: int, max_message: int) -> bytes:
    """Value of the LIMITS entry (SPEC 9.6)."""
    return struct.pack("<IIQ", chunk, max_streams, max_message)


CLIENT_NONCE = bytes(range(32))
SERVER_NONCE = bytes(range(32, 64))
CONNECTION_ID = bytes.fromhex("5f0c1d2e3b4a5968")
BOOT_ID = bytes(range(0xB0, 0xC0))
CHUNK = 16384
MAX_STREAMS = 4
MAX_MESSAGE = 1 << 20

HELLO_ENTRIES: dict[int, bytes] = {
    1: u16s(1, 1),
    2: struct.pack("<I", 1),
    3: CLIENT_NONCE,
    4: u16s(0x0A0A),
    6: b"\x00",
    8: limits(CHUNK, 0, MAX_MESSAGE),
    9: b"vectors/1",
}
WELCOME_ENTRIES: dict[int, bytes] = {
    1: u16s(1, 1),
    2: struct.pack("<I", 1),
    3: SERVER_NONCE,
    4: b"",
    6: b"\x00",
    8: limits(CHUNK, MAX_STREAMS, MAX_MESSAGE),
    9: b"vectors/1",
    10: CONNECTION_ID,
    11: BOOT_ID,
}


def region(entries: dict[int, bytes], **changes: bytes | None) -> bytes:
    """Entries in ascending order; `t7=b"..."` sets entry 7, `t7=None` leaves it out."""
    merged = dict(entries)
    for name, value in changes.items():
        if value is None:
            merged.pop(int(name[1:]), None)
        else:
            merged[int(name[1:])] = value
    return b"".join(entry(kind, merged[kind]) for kind in sorted(merged))


def hello(**changes: bytes | None) -> bytes:
    """The client's HELLO frame, with changed entries."""
    return frame(HELLO, meta=region(HELLO_ENTRIES, **changes))


def welcome(**changes: bytes | None) -> bytes:
    """The server's WELCOME frame, with changed entries."""
    return frame(WELCOME, meta=region(WELCOME_ENTRIES, **changes))


def ready_payload() -> bytes:
    """msgpack of {"principal": "anonymous", "models": ["*"]} (SPEC 9.8)."""
    return b"\x82\xa9principal\xa9anonymous\xa6models\x91\xa1*"


READY_FRAME = frame(READY, meta=ready_payload())
AUTH_FRAME = frame(AUTH)


def metadata(version: str = "") -> bytes:
    """A FlatBuffer of codec/tensor.fbs, laid by hand: model "echo", one tensor "x", float32, shape (-1, -1).

    Where things lie, from the start: vtable of Metadata 8, Metadata 20, tensors 36, vtable of Tensor 44, Tensor 56,
    shape 76 (its i64 from 80), "x" 96, "echo" 104, version 116.
    """
    present = 1 if version else 0
    text = version.encode()
    return b"".join(
        (
            struct.pack("<I4s", 20, b"TWM1"),
            struct.pack("<5H2x", 10, 16, 4, 8 * present, 12),  # fields model, version, tensors at 4, 8, 12
            struct.pack("<iIII", 20 - 8, 104 - 24, (116 - 28) * present, 36 - 32),
            struct.pack("<II", 1, 56 - 40),
            struct.pack("<6H", 12, 16, 4, 8, 0, 12),  # fields name, dtype, (kind: default), shape at 4, 8, 12
            struct.pack("<iIBBHI", 56 - 44, 96 - 60, 2, 32, 1, 76 - 68),  # float32 is (2, 32, 1)
            struct.pack("<4xIqq", 2, -1, -1),
            struct.pack("<I4s", 1, b"x"),
            struct.pack("<I8s", 4, b"echo"),
            struct.pack(f"<I{len(text) // 4 * 4 + 4}s", len(text), text) if version else b"",
        )
    )


_RUN = re.compile(rb"(.)\1{255,}|(.{17})\2{15,}", re.DOTALL)


def parts(*pieces: bytes) -> Parts:
    """Bytes as the vectors hold them: hex strings, and what repeats for 256 bytes or more as {"byte", "times"}."""
    found: Parts = []
    for piece in pieces:
        at = 0
        for run in _RUN.finditer(piece):
            if run.start() > at:
                found.append(piece[at : run.start()].hex())
            repeated = run.group(1) or run.group(2)
            found.append({"byte": repeated.hex(), "times": len(run.group(0)) // len(repeated)})
            at = run.end()
        if at < len(piece):
            found.append(piece[at:].hex())
    return found
