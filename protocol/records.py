"""The seam between frames and the bytes of the connection (SPEC 11).

Frames know nothing of records. The writer hands each batch of whole frames to `seal`; the reader parses only bytes
that a layer has released. With MAC `none` a batch is its own record: `PlainRecords` adds and checks nothing. A signed
layer wraps the same batch in {u32 length, frames, tag} and releases a received record once its tag is verified.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

Buffer = bytes | memoryview


class RecordLayer(ABC):
    """One direction of a record layer; holds the direction's key and counter."""

    @abstractmethod
    def seal(self, frames: list[Buffer], nbytes: int) -> list[Buffer]:
        """The buffers of one record around whole frames of `nbytes` bytes in all."""


class PlainRecords(RecordLayer):
    """MAC `none`: frames follow each other directly."""

    def seal(self, frames: list[Buffer], nbytes: int) -> list[Buffer]:  # noqa: ARG002 - the interface's
        """The frames themselves."""
        return frames
