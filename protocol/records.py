"""The seam between frames and the bytes of the connection: what is sent (SPEC 11.1 and 11.2).

Frames know nothing of records. The writer hands each batch of whole frames to `seal`. With MAC `none` a batch is its
own record: `PlainRecords` adds nothing. `SignedRecords` wraps the same batch in {u32 length, frames, tag}. The
receiving side is record_reader.py's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from struct import Struct
from typing import Final

from .errors import ErrorCode, ProtocolError
from .header import HEADER, HEADER_SIZE, MAX_FRAME, Buffer, Header
from .limits import MIN_CHUNK, RECORD_BATCH
from .signing import TAG_SIZE, Mac, holds_chunk

PREFIX: Final = Struct("<I")  # n, the bytes of a record's frames
PREFIX_SIZE: Final = 4
RECORD_HEAD: Final = PREFIX_SIZE + HEADER_SIZE  # n and the first header
CROSSES_RECORD: Final = "a frame does not end where its record ends"
BETWEEN_CHUNKS: Final = TAG_SIZE + RECORD_HEAD  # bytes between those of two chunks


def check_record_size(nbytes: int, chunk: int) -> None:
    """Refuse an n that no record has where chunks are at most `chunk` bytes; raises ProtocolError (SPEC 11.2)."""
    if nbytes < HEADER_SIZE:  # guard: short-record
        raise ProtocolError(ErrorCode.FRAME, f"record of {nbytes} bytes; a frame has {HEADER_SIZE} at least")
    most = max(MAX_FRAME, HEADER_SIZE + chunk)
    if nbytes > most:  # guard: length-bomb-record
        raise ProtocolError(ErrorCode.TOO_LARGE, f"record of {nbytes} bytes; at most {most}")


def check_together(nbytes: int, first: Header) -> None:
    """Refuse a record of several frames, the first with this header, that is too large; raises ProtocolError."""
    if nbytes > RECORD_BATCH and first[0] != nbytes - HEADER_SIZE:  # guard: frames-in-record
        raise ProtocolError(
            ErrorCode.TOO_LARGE, f"record of {nbytes} bytes of several frames; at most {RECORD_BATCH} together"
        )


class RecordLayer(ABC):
    """The sending direction of a record layer."""

    @abstractmethod
    def seal(self, frames: list[Buffer], nbytes: int) -> list[Buffer]:
        """Return the buffers of one record around whole frames of `nbytes` bytes in all.

        Small ones of at most 65,536 bytes together, or a single frame. The first buffer begins with a frame's header.
        """


class PlainRecords(RecordLayer):
    """MAC `none`: frames follow each other directly."""

    def seal(self, frames: list[Buffer], nbytes: int) -> list[Buffer]:  # noqa: ARG002 - the interface's
        """Return the frames themselves."""
        return frames


class SignedRecords(RecordLayer):
    """Frames with a tag behind them. The bytes of a chunk stay where they are; all else is joined, once."""

    def __init__(self, mac: Mac) -> None:
        self._mac = mac

    def seal(self, frames: list[Buffer], nbytes: int) -> list[Buffer]:
        """Put n before the frames and the tag behind them."""
        first = frames[0]
        size = PREFIX.pack(nbytes)
        if (
            nbytes >= HEADER_SIZE + MIN_CHUNK
            and len(first) == HEADER_SIZE
            and holds_chunk(HEADER.unpack(first), nbytes)
        ):
            text = size + first
            chunk = frames[1:]
            return [text, *chunk, self._mac.tag(text, chunk)]
        text = b"".join((size, *frames))
        return [text, self._mac.tag(text, ())]
