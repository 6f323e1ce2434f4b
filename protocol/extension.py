"""The extension region: small fixed-layout items, packed and parsed (SPEC 4).

Here lives the byte layout. What an item means belongs to its user; which frame may carry which item is
frame_rules.py's.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from .errors import ErrorCode, ProtocolError
from .header import DATA, END, OPEN

DIMS: Final = 1
BODY_LENGTH: Final = 2
IDEMPOTENCY_KEY: Final = 3
SESSION: Final = 4
TRACE: Final = 5
TIMING: Final = 6
RETRY_AFTER: Final = 7
QUEUE_ESTIMATE: Final = 8

ITEM_NAMES: Final = (
    "", "DIMS", "BODY_LENGTH", "IDEMPOTENCY_KEY", "SESSION", "TRACE", "TIMING", "RETRY_AFTER", "QUEUE_ESTIMATE",
)  # fmt: skip
ITEM_SIZES: Final[dict[int, int]] = {
    BODY_LENGTH: 8, IDEMPOTENCY_KEY: 16, SESSION: 24, TRACE: 25, TIMING: 28, RETRY_AFTER: 4, QUEUE_ESTIMATE: 4,
}  # fmt: skip
# Where an extension stands decides which items it may hold; DATA has three cases.
CLIENT_DATA: Final = DATA
SERVER_DATA: Final = 64 + DATA
SERVER_LAST: Final = 128 + DATA
PLACE_NAMES: Final[dict[int, str]] = {
    OPEN: "OPEN", CLIENT_DATA: "DATA of a client", SERVER_DATA: "DATA before the last", SERVER_LAST: "DATA", END: "END",
}  # fmt: skip

MAX_DIMS_ITEM: Final = 248  # bytes: 31 dims of 8 bytes are the most that a u8 length holds
_U64: Final = Struct("<Q")
_U32: Final = Struct("<I")
_TIMING: Final = Struct("<7I")
_SESSION: Final = Struct("<16sQ")


class Extension:
    """The parsed items of one extension; absent items are empty or None.

    dims: u64 values as raw little-endian bytes. body_length: bytes. idempotency_key: 16 bytes.
    session: (16 bytes, state_seq). trace: 25 bytes. timing: seven durations in microseconds.
    retry_after, queue_estimate: microseconds.
    """

    __slots__ = (
        "body_length", "dims", "idempotency_key", "queue_estimate", "retry_after", "session", "timing", "trace",
        "types",
    )  # fmt: skip

    def __init__(self) -> None:
        self.dims: bytes = b""
        self.body_length: int | None = None
        self.idempotency_key: bytes = b""
        self.session: tuple[bytes, int] | None = None
        self.trace: bytes = b""
        self.timing: tuple[int, ...] | None = None
        self.retry_after: int | None = None
        self.queue_estimate: int | None = None
        self.types: frozenset[int] = frozenset()


def pack_extension(
    dims: bytes = b"",
    body_length: int | None = None,
    idempotency_key: bytes = b"",
    session: tuple[bytes, int] | None = None,
    trace: bytes = b"",
    timing: tuple[int, ...] | None = None,
    retry_after: int | None = None,
    queue_estimate: int | None = None,
) -> bytes:
    """Pack items in ascending order; units as in `Extension`. Raises ValueError for a wrong size."""
    parts = pack_dims(dims) if dims else b""
    if body_length is not None:
        parts += b"\x02\x08" + _U64.pack(body_length)
    if idempotency_key:
        parts += _item(IDEMPOTENCY_KEY, idempotency_key)
    if session is not None:
        parts += _item(SESSION, session[0] + _U64.pack(session[1]))
    if trace:
        parts += _item(TRACE, trace)
    if timing is not None:
        parts += b"\x06\x1c" + _TIMING.pack(*timing)
    if retry_after is not None:
        parts += b"\x07\x04" + _U32.pack(retry_after)
    if queue_estimate is not None:
        parts += b"\x08\x04" + _U32.pack(queue_estimate)
    return parts


def pack_dims(dims: bytes) -> bytes:
    """Pack DIMS items for u64 values given as raw bytes; more than 31 dims take several items."""
    if len(dims) % 8:
        raise ValueError(f"dims are u64 values; {len(dims)} bytes are not a multiple of 8")
    if len(dims) <= MAX_DIMS_ITEM:
        return bytes((DIMS, len(dims))) + dims
    return b"".join(_raw_item(DIMS, dims[at : at + MAX_DIMS_ITEM]) for at in range(0, len(dims), MAX_DIMS_ITEM))


def _raw_item(kind: int, value: bytes) -> bytes:
    return bytes((kind, len(value))) + value


def _item(kind: int, value: bytes) -> bytes:
    if len(value) != ITEM_SIZES[kind]:
        raise ValueError(f"{ITEM_NAMES[kind]} is {ITEM_SIZES[kind]} bytes, not {len(value)}")
    return _raw_item(kind, value)


def insert_body_length(ext: bytes, body_length: int) -> bytes:
    """Return the same extension with a BODY_LENGTH item at its place in the order."""
    at = 0
    while at < len(ext) and ext[at] < BODY_LENGTH:
        at += 2 + ext[at + 1]
    return ext[:at] + b"\x02\x08" + _U64.pack(body_length) + ext[at:]


def parse_extension(ext: bytes) -> Extension:
    """Parse an extension region; raises ProtocolError (EXTENSION) for unknown, unordered or misshapen items."""
    parsed = Extension()
    types: set[int] = set()
    dims: list[bytes] = []
    at, last, total = 0, 0, len(ext)
    while at < total:
        if at + 2 > total or at + 2 + ext[at + 1] > total:
            raise ProtocolError(ErrorCode.EXTENSION, f"extension of {total} bytes: the item at {at} runs past its end")
        kind, size = ext[at], ext[at + 1]
        if kind < last or (kind == last and (kind != DIMS or len(dims[-1]) < MAX_DIMS_ITEM)):  # guard: extension-order
            raise ProtocolError(
                ErrorCode.EXTENSION,
                f"extension item {kind} follows {last}; ascending order, none twice (DIMS only after 31 dims)",
            )
        value = ext[at + 2 : at + 2 + size]
        if kind == DIMS and size and size % 8 == 0:
            dims.append(value)
        else:
            _set_item(parsed, kind, value)
        types.add(kind)
        last = kind
        at += 2 + size
    parsed.dims = dims[0] if len(dims) == 1 else b"".join(dims)
    parsed.types = frozenset(types)
    return parsed


def _set_item(parsed: Extension, kind: int, value: bytes) -> None:
    expected = ITEM_SIZES.get(kind)
    if expected is None and kind != DIMS:
        raise ProtocolError(ErrorCode.EXTENSION, f"extension item {kind} is unknown or was not negotiated")
    if len(value) != expected:
        wanted = "a multiple of 8, not 0" if kind == DIMS else f"{expected}"
        raise ProtocolError(ErrorCode.EXTENSION, f"{ITEM_NAMES[kind]} is {len(value)} bytes; expected {wanted}")
    if kind == BODY_LENGTH:
        parsed.body_length = int(_U64.unpack(value)[0])
    elif kind == IDEMPOTENCY_KEY:
        parsed.idempotency_key = value
    elif kind == SESSION:
        parsed.session = _SESSION.unpack(value)
    elif kind == TRACE:
        parsed.trace = value
    elif kind == TIMING:
        parsed.timing = _TIMING.unpack(value)
    elif kind == RETRY_AFTER:
        parsed.retry_after = int(_U32.unpack(value)[0])
    else:
        parsed.queue_estimate = int(_U32.unpack(value)[0])
