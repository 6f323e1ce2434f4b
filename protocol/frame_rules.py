"""What may arrive on a connection, as one value by the features that it negotiated (SPEC 3.2, 4 and 9.5).

Here lives which types, flags and extension items are taken where, and what was found good by these rules before. A
feature that lets more arrive adds a row to `_EXTENDED`; connections with the same rules share one value, and with it
what it remembers.
"""

from __future__ import annotations

from typing import Final

from .errors import ErrorCode, ProtocolError
from .extension import (
    BODY_LENGTH,
    CLIENT_DATA,
    DIMS,
    ITEM_NAMES,
    PLACE_NAMES,
    QUEUE_ESTIMATE,
    RETRY_AFTER,
    SERVER_DATA,
    SERVER_LAST,
    TIMING,
    TRACE,
    Extension,
    parse_extension,
)
from .header import CONTROL_RULES, DATA_FLAGS, END, MORE, OPEN, OPEN_FLAGS, ControlRule, FrameType
from .limits import INLINE_BODY, Role
from .repeated_frames import RepeatDetector
from .states import RECEIVES, State

# IDEMPOTENCY_KEY and SESSION are drafts: no feature that allows them can be negotiated yet.
_ITEMS: Final[dict[int, frozenset[int]]] = {
    OPEN: frozenset((DIMS, BODY_LENGTH, TRACE)),
    CLIENT_DATA: frozenset((DIMS, BODY_LENGTH)),
    SERVER_DATA: frozenset((DIMS, BODY_LENGTH)),
    SERVER_LAST: frozenset((DIMS, BODY_LENGTH, TIMING)),
    END: frozenset((TIMING, RETRY_AFTER, QUEUE_ESTIMATE)),
}
_HEADS_KEPT: Final = 1024
_HEAD_BYTES: Final = 512


class FrameRules:
    """What may arrive on connections with the same features.

    open_flags, data_flags: flags of OPEN and DATA. unary_flags: those of an OPEN that needs no chunk. items: items by
    the place where an extension stands. receives: types by the receiver's role and state; known_types: all of them.
    control: fields by control frame. metered: whether bytes of bodies are counted, as flow control wants it (SPEC 12).

    heads: extension and metadata of one-frame messages, as they stood together in a frame, per place: found valid once,
    and the same two objects from then on, which know their hashes. Pure facts about bytes; bounded in entries and in
    bytes per entry, and started anew when full. repeated_calls, repeated_replies: the same of whole frames.
    """

    __slots__ = (
        "_large_heads", "control", "data_flags", "heads", "items", "known_types", "metered", "open_flags", "receives",
        "repeated_calls", "repeated_replies", "unary_flags",
    )  # fmt: skip

    def __init__(
        self,
        *,
        open_flags: int = OPEN_FLAGS,
        data_flags: int = DATA_FLAGS,
        items: dict[int, frozenset[int]] = _ITEMS,
        receives: dict[tuple[Role, State], frozenset[FrameType]] = RECEIVES,
        control: dict[int, ControlRule] = CONTROL_RULES,
        metered: bool = False,
    ) -> None:
        self.metered = metered
        self.open_flags = open_flags
        self.data_flags = data_flags
        self.unary_flags = open_flags & ~MORE
        self.items = items
        self.receives = receives
        self.known_types: frozenset[FrameType] = frozenset().union(*receives.values())
        self.control = control
        self.heads: dict[int, dict[bytes, tuple[bytes, bytes]]] = {place: {} for place in items}
        self._large_heads: dict[int, dict[bytes, tuple[bytes, bytes, int]]] = {place: {} for place in items}
        self.repeated_calls = RepeatDetector()
        self.repeated_replies = RepeatDetector()

    def checked_extension(self, place: int, ext: bytes) -> Extension:
        """Parse, and refuse items that may not stand at this place; raises ProtocolError (EXTENSION)."""
        parsed = parse_extension(ext)
        stray = parsed.types - self.items[place]
        if stray:  # guard: extension-stray-item
            raise ProtocolError(
                ErrorCode.EXTENSION,
                f"item {ITEM_NAMES[min(stray)]} on {PLACE_NAMES[place]}: not allowed or not negotiated",
            )
        return parsed

    def check_extension(self, place: int, ext: bytes) -> None:
        """Validate the extension of a one-frame message; raises ProtocolError (EXTENSION)."""
        if self.checked_extension(place, ext).body_length is not None:
            raise ProtocolError(ErrorCode.EXTENSION, f"BODY_LENGTH on {PLACE_NAMES[place]} without MORE")

    def split_head(self, place: int, head: bytes, ext_len: int) -> tuple[bytes, bytes]:
        """Split extension and metadata of a one-frame message, and remember short ones; raises ProtocolError.

        Look in `heads` first; what is found there counts only if its extension has `ext_len` bytes.
        """
        pair = head[:ext_len], head[ext_len:]
        if ext_len:
            self.check_extension(place, pair[0])
        if len(head) <= _HEAD_BYTES:
            heads = self.heads[place]
            if len(heads) >= _HEADS_KEPT:
                heads.clear()
            heads[head] = pair
        return pair

    def split_large_head(self, place: int, head: bytes, ext_len: int) -> tuple[bytes, bytes, int]:
        """Do the same for the first frame of a chunked message, with its BODY_LENGTH; raises ProtocolError."""
        heads = self._large_heads[place]
        known = heads.get(head)
        if known is not None and len(known[0]) == ext_len:
            return known
        ext = head[:ext_len]
        total = self.checked_extension(place, ext).body_length
        if total is None or total <= INLINE_BODY:
            raise ProtocolError(
                ErrorCode.EXTENSION, f"MORE with BODY_LENGTH {total}: chunks are for bodies above {INLINE_BODY} bytes"
            )
        found = ext, head[ext_len:], total
        if len(head) <= _HEAD_BYTES:
            if len(heads) >= _HEADS_KEPT:
                heads.clear()
            heads[head] = found
        return found


BASE_RULES: Final = FrameRules()
# Features -> rules that let more arrive; none is built, so all connections share one value.
_EXTENDED: Final[dict[tuple[int, ...], FrameRules]] = {}


def rules_for(features: tuple[int, ...]) -> FrameRules:
    """Return the rules of connections that agreed on these features."""
    return _EXTENDED.get(features, BASE_RULES)
