"""What a call gives back: :class:`Result`, :class:`Timing`.

Not compiled, so that both are in every build what they seem: with their docstrings, to be copied and pickled. Not here:
how they come about (``replies``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Timing:
    """Where a call's time went, in microseconds. All but the last are the server's own measurements (SPEC 14)."""

    receive: int
    """From the first byte of the request to its last."""
    queue: int
    """Waiting for the engine."""
    batch_wait: int
    """Waiting for the batch to fill; 0 unless the model sets ``max_wait``."""
    copy_in: int
    """Request rows into the device's batch."""
    compute: int
    """The model itself."""
    copy_out: int
    """Results back into the reply."""
    server_total: int
    """From the first byte of the request to the hand-over of the reply to the socket."""
    round_trip: int
    """As this client saw it: from the call to the decoded reply."""


class Result(dict[str, Any]):
    """A reply: output name -> read-only numpy array (or ``RaggedArray``), with what else came along."""

    __slots__ = ("connection_id", "model", "model_version", "stream_id", "timing")

    model: str
    """Name of the model that answered."""
    model_version: str
    """Version of the model that answered."""
    timing: Timing | None
    """Present where the call asked for it."""
    connection_id: bytes
    stream_id: int

    @property
    def request_id(self) -> str:
        """The name of this call in the server's log."""
        return request_id(self.connection_id, self.stream_id)


def request_id(connection_id: bytes, stream_id: int) -> str:
    """How both sides name a call: the connection's id in hex, a dash, the stream id."""
    return f"{connection_id.hex()}-{stream_id}"
