"""What the vectors of records have in common: the session, its frames, and the shape of a case (SPEC 11.2).

What lives here: honest frames in chunks and small. What must not: cases.
"""

from __future__ import annotations

from tests.vectors.case import Event, Step, do
from tests.vectors.sealed import Session, pattern
from tests.vectors.signed_case import Test, case
from tests.vectors.wire import DATA, END_STREAM, MORE, OPEN, body_length, frame, limits

SERVER, CLIENT = "server", "client"
CHUNK_SIZE = 262144
MAX_MESSAGE = 1 << 20
MOST = 1_048_608  # bytes of the longest frames of a record (11.2)
RECORD_LABELS = {CLIENT: "client record", SERVER: "server record"}
ABORTED: Event = {"event": "message_aborted", "stream": 1}


def session_of(mac: str) -> Session:
    return Session(
        mac=mac,
        offers=(mac,),
        hello_changes={"t8": limits(CHUNK_SIZE, 0, MAX_MESSAGE)},
        welcome_changes={"t8": limits(CHUNK_SIZE, 4, MAX_MESSAGE)},
    )


def open_frame(stream: int = 1, *, flags: int = END_STREAM, body: bytes = b"", meta: bytes = b"") -> bytes:
    return frame(OPEN, stream=stream, flags=flags, meta=meta, body=body)


def chunk_frame(size: int, *, stream: int = 1, flags: int = MORE, start: int = 1) -> bytes:
    return frame(DATA, stream=stream, flags=flags, body=pattern(size, start))


def open_case(comment: str, section: str, role: str, flag: str, *steps: Step) -> Test:
    """A test of a session behind its handshake."""
    return case(comment, section, role, flag, *steps, start="open")


def opens(*streams: int) -> tuple[Step, ...]:
    """A client opens streams; their records have the counters 0, 1, ..."""
    return tuple(do("open", metadata="", extension="", body=[], flags=END_STREAM) for _ in streams)


def first_frame(size: int, stream: int = 1, kind: int = OPEN) -> bytes:
    return frame(kind, stream=stream, flags=END_STREAM | MORE, ext=body_length(size))


def chunk_frames(sizes: tuple[int, ...], stream: int = 1) -> tuple[list[bytes], bytes]:
    """The chunks of a message, and its body; each chunk counts up from another byte."""
    found, body = [], b""
    for n, size in enumerate(sizes):
        flags = END_STREAM if n == len(sizes) - 1 else MORE
        data = pattern(size, 16 * stream + 3 * n)
        found.append(frame(DATA, stream=stream, flags=flags, body=data))
        body += data
    return found, body
