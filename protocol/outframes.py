"""Frames that the core makes by itself: control frames as bytes (SPEC 6).

OPEN and DATA are made where they are sent, in calls.py and writer.py, since they are the hot path.
"""

from __future__ import annotations

from .header import HEADER
from .limits import MAX_DETAIL

_pack = HEADER.pack


def control_frame(
    kind: int,
    *,
    stream_id: int = 0,
    flags: int = 0,
    aux: int = 0,
    ext: bytes = b"",
    meta: bytes = b"",
    body: bytes = b"",
) -> bytes:
    """A whole control frame."""
    length = len(ext) + len(meta) + len(body)
    return b"".join((_pack(length, kind, 0, flags, stream_id, 0, aux, len(meta), len(ext), 0), ext, meta, body))


def text_frame(kind: int, stream_id: int, code: int, detail: str) -> bytes:
    """A control frame with a text for a person in its metadata."""
    return control_frame(kind, stream_id=stream_id, aux=code, meta=detail_bytes(detail))


def detail_bytes(detail: str) -> bytes:
    """UTF-8 of at most MAX_DETAIL bytes, cut between characters."""
    raw = detail.encode("utf-8", "replace")
    return raw if len(raw) <= MAX_DETAIL else raw[:MAX_DETAIL].decode("utf-8", "ignore").encode()
