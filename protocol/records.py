"""The seam between frames and the bytes of the connection: what is sent (SPEC 11.1 and 11.2).

Frames know nothing of records. The writer hands each batch of whole frames to `seal`. With MAC `none` a batch is its
own record: `PlainRecords` adds nothing. `SignedRecords` wraps the same batch in {u32 length, frames, tag}. The
receiving side is record_reader.py's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from struct import Struct
from typing import Final

from .header import HEADER, HEADER_SIZE, Buffer
from .limits import MIN_CHUNK
from .signing import TAG_SIZE, Mac, holds_chunk

PREFIX: Final = Struct("<I")  # n, the bytes of a record's frames
PREFIX_SIZE: Final = 4
RECORD_HEAD: Final = PREFIX_SIZE + HEADER_SIZE  # n and the first header
BETWEEN_CHUNKS: Final = TAG_SIZE + RECORD_HEAD  # bytes between those of two chunks


class RecordLayer(ABC):
    """The sending direction of a record layer."""

    @abstractmethod
    def seal(self, frames: list[Buffer], nbytes: int) -> list[Buffer]:
        """The buffers of one record around whole frames of `nbytes` bytes in all: small ones of at most 65,536 bytes
        together, or a single frame. The first buffer begins with a frame's header.
        """


class PlainRecords(RecordLayer):
    """MAC `none`: frames follow each other directly."""

    def seal(self, frames: list[Buffer], nbytes: int) -> list[Buffer]:  # noqa: ARG002 - the interface's
        """The frames themselves."""
        return frames


class SignedRecords(RecordLayer):
    """Frames with a tag behind them. The bytes of a chunk stay where they are; all else is joined, once."""

    def __init__(self, mac: Mac) -> None:
        self._mac = mac

    def seal(self, frames: list[Buffer], nbytes: int) -> list[Buffer]:
        """n, the frames, the tag."""
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
