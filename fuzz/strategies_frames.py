"""Hypothesis strategies for frames and sessions, shared by tests and fuzz targets.

What lives here: bytes that a client or server might send, right and wrong, made by struct alone. What must not: any
judgement on what a receiver makes of them.
"""

from __future__ import annotations

from struct import Struct

from hypothesis import strategies as st

HEADER = Struct("<IBBHQIIIHH")
OPEN, DATA, END, CANCEL, PING, PONG, CLOSE = 5, 6, 7, 8, 11, 12, 15
END_STREAM, MORE = 1, 2
MIN_CHUNK = 16384
INLINE_BODY = 65536

BOUNDARY_U32 = (0, 1, 31, 32, 1024, 1025, 65535, 65536, 65537, 262144, 262145, 2**31 - 1, 2**31, 2**32 - 1)
BOUNDARY_U64 = (0, 1, 2, 65536, 65537, 2**31, 2**32, 2**63, 2**64 - 2, 2**64 - 1)


def frame(
    kind: int,
    stream_id: int = 0,
    flags: int = 0,
    seq: int = 0,
    aux: int = 0,
    priority: int = 0,
    ext: bytes = b"",
    meta: bytes = b"",
    body: bytes = b"",
) -> bytes:
    """One frame whose lengths agree."""
    length = len(ext) + len(meta) + len(body)
    return HEADER.pack(length, kind, priority, flags, stream_id, seq, aux, len(meta), len(ext), 0) + ext + meta + body


def dims(*sizes: int) -> bytes:
    """A DIMS item."""
    return bytes((1, 8 * len(sizes))) + Struct(f"<{len(sizes)}Q").pack(*sizes)


def body_length(total: int) -> bytes:
    """A BODY_LENGTH item."""
    return b"\x02\x08" + total.to_bytes(8, "little")


def chunked(
    kind: int, stream_id: int, seq: int, body: bytes, sizes: list[int], end_stream: bool, meta: bytes = b""
) -> list[bytes]:
    """The first frame and the chunks of a message; sizes are used in turn, the last chunk takes the rest."""
    last = END_STREAM if end_stream else 0
    frames = [frame(kind, stream_id, last | MORE, seq, ext=body_length(len(body)), meta=meta)]
    at = 0
    for size in sizes:
        if len(body) - at <= size:
            break
        frames.append(frame(DATA, stream_id, MORE, seq, body=body[at : at + size]))
        at += size
    while len(body) - at > 262144:
        frames.append(frame(DATA, stream_id, MORE, seq, body=body[at : at + 262144]))
        at += 262144
    frames.append(frame(DATA, stream_id, last, seq, body=body[at:]))
    return frames


def headers() -> st.SearchStrategy[bytes]:
    """Headers with every field at its boundaries or anywhere."""
    u32 = st.sampled_from(BOUNDARY_U32) | st.integers(0, 2**32 - 1)
    return st.builds(
        HEADER.pack,
        u32,
        st.integers(0, 20) | st.integers(0, 255),
        st.integers(0, 255),
        st.sampled_from((0, 1, 2, 3, 4, 8, 16, 32, 64, 65535)) | st.integers(0, 65535),
        st.integers(0, 5) | st.sampled_from(BOUNDARY_U64),
        st.sampled_from((0, 0, 1, 2**32 - 1)),
        st.sampled_from((0, 0, 1, 2**32 - 1)),
        st.sampled_from((0, 0, 0, *BOUNDARY_U32)),
        st.sampled_from((0, 0, 0, 1, 10, 1024, 1025, 65535)),
        st.sampled_from((0, 0, 0, 1)),
    )


def wild_frames() -> st.SearchStrategy[bytes]:
    """Frames whose lengths agree and whose fields may be anything near the plausible."""
    return st.builds(
        frame,
        st.integers(0, 17),
        st.integers(0, 4) | st.sampled_from(BOUNDARY_U64),
        st.sampled_from((0, 1, 2, 3, 4, 5, 32)) | st.integers(0, 65535),
        st.integers(0, 3),
        st.sampled_from((0, 0, 1, 13, 17)),
        st.sampled_from((0, 0, 0, 7, 255)),
        st.sampled_from((b"", b"", dims(1), dims(2, 3), body_length(70000), b"\x01", b"\x09\x00"))
        | st.binary(max_size=24),
        st.binary(max_size=40),
        st.sampled_from((b"", bytes(8))) | st.binary(max_size=64),
    )


def client_streams() -> st.SearchStrategy[bytes]:
    """What follows AUTH in a session that begins plausibly: any frames, some with a bent header, some raw bytes."""
    pieces = st.one_of(wild_frames(), headers(), st.binary(max_size=64))
    return st.lists(pieces, max_size=12).map(b"".join)


@st.composite
def good_calls(draw: st.DrawFn) -> bytes:
    """Frames of a well-behaved client after AUTH: small, streamed, chunked and cancelled calls, interleaved."""
    queues: list[list[bytes]] = []
    opens: list[bytes] = []
    for stream_id in range(1, draw(st.integers(1, 6)) + 1):
        meta = draw(st.binary(max_size=20))
        shape = draw(st.sampled_from(("unary", "stream", "large", "cancel", "ping")))
        if shape == "large":
            size = draw(st.integers(INLINE_BODY + 1, INLINE_BODY + 3 * MIN_CHUNK))
            sizes = draw(st.lists(st.integers(MIN_CHUNK, 2 * MIN_CHUNK), max_size=4))
            frames = chunked(OPEN, stream_id, 0, bytes([stream_id]) * size, sizes, end_stream=True, meta=meta)
            if draw(st.booleans()):  # CANCEL in place of the rest
                frames = [*frames[: draw(st.integers(1, len(frames) - 1))], frame(CANCEL, stream_id)]
        elif shape == "stream":
            count = draw(st.integers(1, 4))
            frames = [frame(OPEN, stream_id, meta=meta)]
            frames += [frame(DATA, stream_id, int(n == count), n, body=b"x" * n) for n in range(1, count + 1)]
        else:
            body = draw(st.binary(max_size=200))
            frames = [frame(OPEN, stream_id, END_STREAM, ext=dims(len(body)), meta=meta, body=body)]
            if shape == "cancel":
                frames.append(frame(CANCEL, stream_id))
            elif shape == "ping":
                frames.append(frame(PING, body=bytes(8)))
        opens.append(frames[0])
        queues.append(frames[1:])
    return b"".join(_interleave(draw, opens, queues))


def _interleave(draw: st.DrawFn, opens: list[bytes], queues: list[list[bytes]]) -> list[bytes]:
    """OPENs in order, everything else of a stream after its OPEN, otherwise in any order."""
    out: list[bytes] = []
    opened = 0
    while opened < len(opens) or any(queues):
        ready = [n for n in range(opened) if queues[n]]
        if opened < len(opens):
            ready.append(-1)
        choice = draw(st.sampled_from(ready))
        if choice < 0:
            out.append(opens[opened])
            opened += 1
        else:
            out.append(queues[choice].pop(0))
    return out


def splits(max_size: int = 400) -> st.SearchStrategy[list[int]]:
    """Sizes of the first reads of a byte stream; what is left comes in one piece, as far as the buffer allows."""
    return st.lists(st.integers(1, 40) | st.integers(1, 70000), max_size=max_size)
