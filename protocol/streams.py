"""Streams: what is open on a connection, and how each comes to its next state by the tables of states.py (SPEC 8).

A unary call whose messages are one frame each never becomes a `Stream`: it is an entry of `Streams.unary` from OPEN
to its terminal, which is what makes the small path cheap. Nothing at all is kept of a closed stream: ids rise one by
one, so an id that is not above the last and not open is closed.

A second message of a stream needs no more than is here and in two tables beside: its receiving half counts in
`received`, and the message that arrives in chunks is assembly.py's; its sending half counts in `sent`, and what is
not written yet is writer.py's. What one half may still take or give (SPEC 12) belongs beside these numbers.
"""

from __future__ import annotations

from .errors import ErrorCode, LocalError, ProtocolError
from .header import END_STREAM
from .limits import Role
from .states import OWN_MOVES, PEER_MOVES, Action, StreamState


class Stream:
    """One open stream that is more than a one-frame unary call, with its two halves.

    received: messages of the peer so far; sent: messages of this side so far. Each is the seq of the next one.
    received_bytes: of the peer's bodies, where they are metered; a unary call in one frame has none.
    """

    __slots__ = ("priority", "received", "received_bytes", "sent", "state")

    def __init__(self, state: StreamState, priority: int, received: int, sent: int) -> None:
        self.state = state
        self.priority = priority
        self.received = received
        self.received_bytes = 0
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

    def begin(self, stream_id: int, flags: int, priority: int) -> Stream:
        """Keep a stream whose OPEN, with these flags, was received (server) or is sent (client)."""
        state = StreamState.HALF_CLOSED if flags & END_STREAM else StreamState.OPEN
        stream = self.open[stream_id] = self._first_message(state, priority)
        return stream

    def get(self, stream_id: int) -> Stream | None:
        """Return the stream, from now on kept as a `Stream`; None if it is not open."""
        stream = self.open.get(stream_id)
        if stream is None and stream_id in self.unary:
            stream = self._first_message(StreamState.HALF_CLOSED, self.unary.pop(stream_id))
            self.open[stream_id] = stream
        return stream

    def _first_message(self, state: StreamState, priority: int) -> Stream:
        return Stream(state, priority, 0, 1) if self.client else Stream(state, priority, 1, 0)

    def ending(self, stream_id: int) -> Stream:
        """Return the stream that an END names; raises ProtocolError if its terminal was there before."""
        stream = self.get(stream_id)
        if stream is None:
            raise ProtocolError(ErrorCode.STREAM, f"END of stream {stream_id} after its terminal")
        return stream

    # ---- moves ----

    def peer_acts(self, stream_id: int, stream: Stream, action: Action) -> None:
        """Move to the state that the peer's action leads to, and forget a closed stream; raises ProtocolError."""
        state = PEER_MOVES.get((stream.state, action))
        if state is None:
            raise ProtocolError(
                ErrorCode.STREAM,
                f"stream {stream_id} is {stream.state.name.lower()}: {action.name.lower()} is not allowed",
            )
        stream.state = state
        if state is StreamState.CLOSED:
            del self.open[stream_id]

    def own_move(self, stream_id: int, stream: Stream | None, action: Action) -> StreamState:
        """Return the state that this side's action leads to; raises LocalError where it may not be done."""
        role = Role.CLIENT if self.client else Role.SERVER
        state = None if stream is None else OWN_MOVES[role].get((stream.state, action))
        if state is None:
            where = "not open" if stream is None else stream.state.name.lower()
            raise LocalError(f"stream {stream_id} is {where}: {action.name.lower()} cannot be sent")
        return state

    def written(self, stream_id: int) -> None:
        """Forget a stream whose terminal is written, or replaced by END; nothing is done for any other."""
        stream = self.open.get(stream_id)
        if stream is not None and stream.state is StreamState.FINISHING:
            del self.open[stream_id]

    def clear(self) -> None:
        """Forget everything: the connection is over."""
        self.unary.clear()
        self.open.clear()
