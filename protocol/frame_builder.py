"""Frames that the core makes by itself, control frames as bytes (SPEC 6), and the form that like replies share.

OPEN and DATA are made where they are sent, in calls.py and writer.py, since they are the hot path.
"""

from __future__ import annotations

from struct import Struct

from .errors import LocalError
from .header import DATA, END_STREAM, HEADER, HEADER_SIZE
from .limits import INLINE_BODY, MAX_DETAIL, MAX_EXTENSION, MAX_METADATA

_pack = HEADER.pack
_ID_BEGINS, _ID_ENDS = 8, 16  # where the stream id lies in a header


class ReplyForm:
    """Replies of one frame that differ in their stream and their body's bytes alone: all else is laid out once.

    The frame on a stream is `pack(begin(priority), stream_id, rest)` and behind it the body. Raises LocalError for what
    is too long for one frame.
    """

    __slots__ = ("_begins", "body_length", "ext", "meta", "nbytes", "pack", "rest")

    def __init__(self, meta: bytes, ext: bytes, body_length: int) -> None:
        if body_length > INLINE_BODY:
            raise LocalError(f"a body of {body_length} bytes does not fit in one frame: at most {INLINE_BODY}")
        if len(meta) > MAX_METADATA or len(ext) > MAX_EXTENSION:
            raise too_long_error(len(meta), len(ext))
        self.meta = meta
        self.ext = ext
        self.body_length = body_length
        self.nbytes = HEADER_SIZE + len(meta) + len(ext) + body_length
        self.rest = self._header(0)[_ID_ENDS:] + ext + meta
        self.pack = Struct(f"<{_ID_BEGINS}sQ{len(self.rest)}s").pack
        self._begins: dict[int, bytes] = {}

    def begin(self, priority: int) -> bytes:
        """Return what comes before the stream id."""
        found = self._begins.get(priority)
        if found is None:
            found = self._begins[priority] = self._header(priority)[:_ID_BEGINS]
        return found

    def _header(self, priority: int) -> bytes:
        length = self.nbytes - HEADER_SIZE
        return _pack(length, DATA, priority, END_STREAM, 0, 0, 0, len(self.meta), len(self.ext), 0)


def too_long_error(meta_len: int, ext_len: int) -> LocalError:
    """Make the error for a message whose metadata or extension is above the protocol's bounds."""
    return LocalError(
        f"{meta_len} bytes of metadata and {ext_len} of extension; at most {MAX_METADATA} and {MAX_EXTENSION}"
    )


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
    """Build a whole control frame."""
    length = len(ext) + len(meta) + len(body)
    return b"".join((_pack(length, kind, 0, flags, stream_id, 0, aux, len(meta), len(ext), 0), ext, meta, body))


def text_frame(kind: int, stream_id: int, code: int, detail: str) -> bytes:
    """Build a control frame with a text for a person in its metadata."""
    return control_frame(kind, stream_id=stream_id, aux=code, meta=encode_detail(detail))


def encode_detail(detail: str) -> bytes:
    """Encode as at most MAX_DETAIL bytes of UTF-8, cut between characters."""
    raw = detail.encode("utf-8", "replace")
    return raw if len(raw) <= MAX_DETAIL else raw[:MAX_DETAIL].decode("utf-8", "ignore").encode()
