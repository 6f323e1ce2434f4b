"""Streams: their states as a table, and the tables of what is open on a connection (SPEC 8).

A unary call whose messages are one frame each never becomes a `Stream`: it is an entry of `Streams.unary` from OPEN
to its terminal, which is what makes the small path cheap. Nothing at all is kept of a closed stream: ids rise one by
one, so an id that is not above the last and not open is closed.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from .errors import ErrorCode, ProtocolError


class StreamState(IntEnum):
    """State of an open stream. Idle and closed ones are not kept.

    FINISHING is the server's own: its terminal is queued but not written, because it is chunked or waits for chunks.
    """

    OPEN = 0
    HALF_CLOSED = 1
    CANCELLED = 2
    FINISHING = 3
    CLOSED = 4


class Action(IntEnum):
    """What a side does on a stream: the columns of the table in SPEC 8.3."""

    MESSAGE = 0  # client
    LAST_MESSAGE = 1  # client
    CANCEL = 2  # client
    REPLY = 3  # server
    TERMINAL = 4  # server: DATA with END_STREAM, or END


# Missing entries are errors of whoever acts: a connection error of the peer, a LocalError of the owner.
TRANSITIONS: Final[dict[tuple[StreamState, Action], StreamState]] = {
    (StreamState.OPEN, Action.MESSAGE): StreamState.OPEN,
    (StreamState.OPEN, Action.LAST_MESSAGE): StreamState.HALF_CLOSED,
    (StreamState.OPEN, Action.CANCEL): StreamState.CANCELLED,
    (StreamState.OPEN, Action.REPLY): StreamState.OPEN,
    (StreamState.OPEN, Action.TERMINAL): StreamState.CLOSED,
    (StreamState.HALF_CLOSED, Action.CANCEL): StreamState.CANCELLED,
    (StreamState.HALF_CLOSED, Action.REPLY): StreamState.HALF_CLOSED,
    (StreamState.HALF_CLOSED, Action.TERMINAL): StreamState.CLOSED,
    (StreamState.CANCELLED, Action.CANCEL): StreamState.CANCELLED,
    (StreamState.CANCELLED, Action.REPLY): StreamState.CANCELLED,
    (StreamState.CANCELLED, Action.TERMINAL): StreamState.CLOSED,
    # The client does not know yet that the terminal is on its way: what it sends is late.
    (StreamState.FINISHING, Action.MESSAGE): StreamState.FINISHING,
    (StreamState.FINISHING, Action.LAST_MESSAGE): StreamState.FINISHING,
    (StreamState.FINISHING, Action.CANCEL): StreamState.CLOSED,
    (StreamState.FINISHING, Action.TERMINAL): StreamState.CLOSED,
}


class Stream:
    """One open stream that is more than a one-frame unary call. received, sent: messages so far, in each direction."""

    __slots__ = ("priority", "received", "sent", "state")

    def __init__(self, state: StreamState, priority: int, received: int, sent: int) -> None:
        self.state = state
        self.priority = priority
        self.received = received
        self.sent = sent


class Streams:
    """What is open on one connection.

    unary: stream id -> priority of calls whose one-frame request is complete and which have no reply yet.
    open: all other open streams. last_id: the last id opened; 0 before the first.
    """

    __slots__ = ("client", "last_id", "open", "unary")

    def __init__(self, client: bool) -> None:
        self.client = client
        self.last_id = 0
        self.unary: dict[int, int] = {}
        self.open: dict[int, Stream] = {}

    def __len__(self) -> int:
        return len(self.unary) + len(self.open)

    def get(self, stream_id: int) -> Stream | None:
        """The stream, from now on kept as a `Stream`; None if it is not open."""
        stream = self.open.get(stream_id)
        if stream is None and stream_id in self.unary:
            received, sent = (0, 1) if self.client else (1, 0)
            stream = Stream(StreamState.HALF_CLOSED, self.unary.pop(stream_id), received, sent)
            self.open[stream_id] = stream
        return stream

    def ending(self, stream_id: int) -> Stream:
        """The stream that an END names; raises ProtocolError if its terminal was there before."""
        stream = self.get(stream_id)
        if stream is None:
            raise ProtocolError(ErrorCode.STREAM, f"END of stream {stream_id} after its terminal")
        return stream

    def peer_acts(self, stream_id: int, stream: Stream, action: Action) -> None:
        """Move to the state that the peer's action leads to, and forget a closed stream; raises ProtocolError."""
        state = TRANSITIONS.get((stream.state, action))
        if state is None:
            raise ProtocolError(
                ErrorCode.STREAM,
                f"stream {stream_id} is {stream.state.name.lower()}: {action.name.lower()} is not allowed",
            )
        stream.state = state
        if state is StreamState.CLOSED:
            del self.open[stream_id]

    def clear(self) -> None:
        """Forget everything: the connection is over."""
        self.unary.clear()
        self.open.clear()
