"""The frame header: layout, types, flags, and the static rules of each control frame (SPEC 3 and 6).

Here lives what can be said of a header without knowing the connection. OPEN and DATA are checked in the
reader's loop, by the same limits, since they are the hot path; every other type is checked by `CONTROL_RULES`.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from struct import Struct
from typing import Final, NamedTuple

from .errors import ErrorCode, ProtocolError
from .limits import INLINE_BODY, MAX_DETAIL, MAX_EXTENSION, MAX_HANDSHAKE, MAX_METADATA

# length, type, priority, flags, stream_id, seq, aux, meta_len, ext_len, reserved
HEADER: Final = Struct("<IBBHQIIIHH")
HEADER_SIZE: Final = 32
MAX_FRAME: Final = HEADER_SIZE + MAX_EXTENSION + MAX_METADATA + INLINE_BODY  # bytes of a frame that is no chunk

Buffer = bytes | memoryview


class FrameType(IntEnum):
    """Frame types by number."""

    HELLO = 1
    WELCOME = 2
    AUTH = 3
    READY = 4
    OPEN = 5
    DATA = 6
    END = 7
    CANCEL = 8
    CREDIT = 9
    RATE = 10
    PING = 11
    PONG = 12
    GOAWAY = 13
    RESUME = 14
    CLOSE = 15
    KEY_UPDATE = 16


class Flag(IntFlag):
    """Frame flags by bit."""

    END_STREAM = 0x01
    MORE = 0x02
    WANT_TIMING = 0x04
    IDEMPOTENT = 0x08
    RESUMABLE = 0x10
    NOT_STARTED = 0x20


# Plain integers for the hot path: an enum member costs a lookup and a slower comparison.
OPEN: Final = 5
DATA: Final = 6
END: Final = 7
CANCEL: Final = 8
END_STREAM: Final = 0x01
MORE: Final = 0x02
WANT_TIMING: Final = 0x04
IDEMPOTENT: Final = 0x08
RESUMABLE: Final = 0x10
NOT_STARTED: Final = 0x20
OPEN_FLAGS: Final = END_STREAM | MORE | WANT_TIMING  # IDEMPOTENT and RESUMABLE are drafts, not negotiated yet
DATA_FLAGS: Final = END_STREAM | MORE


class ControlRule(NamedTuple):
    """What a control frame may carry; whatever is not named must be zero."""

    flags: int = 0
    stream_id: bool = False
    aux: bool = False
    max_extension: int = 0
    max_metadata: int = 0
    body: int = 0


CONTROL_RULES: Final[dict[int, ControlRule]] = {
    FrameType.HELLO: ControlRule(max_metadata=MAX_HANDSHAKE),
    FrameType.WELCOME: ControlRule(max_metadata=MAX_HANDSHAKE),
    FrameType.AUTH: ControlRule(max_metadata=MAX_HANDSHAKE),
    FrameType.READY: ControlRule(max_metadata=MAX_METADATA),
    FrameType.END: ControlRule(
        NOT_STARTED, stream_id=True, aux=True, max_extension=MAX_EXTENSION, max_metadata=MAX_DETAIL
    ),
    FrameType.CANCEL: ControlRule(stream_id=True),
    FrameType.PING: ControlRule(body=8),
    FrameType.PONG: ControlRule(body=8),
    FrameType.GOAWAY: ControlRule(stream_id=True, aux=True, max_metadata=MAX_DETAIL),
    FrameType.CLOSE: ControlRule(aux=True, max_metadata=MAX_DETAIL),
}


def type_name(kind: int) -> str:
    """Return the name of a frame type, or its number where it has none."""
    try:
        return FrameType(kind).name
    except ValueError:
        return f"type {kind}"


Header = tuple[int, int, int, int, int, int, int, int, int, int]  # the fields of HEADER in order


def _refused(kind: int, code: ErrorCode, text: str) -> ProtocolError:
    """Make the error, with the frame's name: looked up only now, since that costs as much as a small call."""
    return ProtocolError(code, f"{type_name(kind)}: {text}")


def check_control(rule: ControlRule, header: Header) -> None:
    """Refuse a control header whose lengths or fields its rule does not allow; raises ProtocolError (SPEC 3.2)."""
    length, kind, priority, flags, stream_id, seq, aux, meta_len, ext_len, reserved = header
    if ext_len > rule.max_extension or meta_len > rule.max_metadata:  # guard: length-bomb-stranger
        raise _refused(
            kind,
            ErrorCode.TOO_LARGE,
            f"{ext_len} bytes of extension and {meta_len} of metadata;"
            f" at most {rule.max_extension} and {rule.max_metadata}",
        )
    body = length - ext_len - meta_len
    if body != rule.body:
        raise _refused(kind, ErrorCode.FRAME, f"length {length} leaves {body} bytes of body, not {rule.body}")
    stray = flags & ~rule.flags or priority or seq or reserved
    if stray or (aux and not rule.aux) or (stream_id and not rule.stream_id):
        raise _refused(kind, ErrorCode.FRAME, "a field or flag that this type does not use is not zero")


def check_message(header: Header, allowed_flags: int) -> None:
    """Refuse an OPEN or DATA header, not a chunk's, on its own merits; raises ProtocolError (SPEC 3.2)."""
    length, kind, _, flags, _, _, aux, meta_len, ext_len, reserved = header
    body = length - meta_len - ext_len
    if meta_len > MAX_METADATA or ext_len > MAX_EXTENSION:  # guard: length-bomb-metadata
        raise _refused(
            kind,
            ErrorCode.TOO_LARGE,
            f"{ext_len} bytes of extension and {meta_len} of metadata; at most {MAX_EXTENSION} and {MAX_METADATA}",
        )
    if body < 0:
        raise _refused(
            kind, ErrorCode.FRAME, f"length {length} is less than its extension {ext_len} and metadata {meta_len}"
        )
    if body > INLINE_BODY:  # guard: length-bomb-frame
        raise _refused(kind, ErrorCode.TOO_LARGE, f"{body} bytes of body in one frame; above {INLINE_BODY} send chunks")
    if reserved or flags & ~allowed_flags or (aux and kind == DATA):  # guard: reserved-bits
        raise _refused(kind, ErrorCode.FRAME, "a field or flag that this type does not use is not zero")


def check_first(header: Header) -> None:
    """Refuse a body beside MORE, once all else of the header is good; raises ProtocolError (SPEC 7.2)."""
    length, kind, _, flags, _, _, _, meta_len, ext_len, _ = header
    body = length - meta_len - ext_len
    if flags & MORE and body:
        raise _refused(kind, ErrorCode.FRAME, f"{body} bytes of body beside MORE; a first frame has none")
