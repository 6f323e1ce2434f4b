"""The calls of one connection, as this side makes and answers them: open, send, cancel, end (SPEC 7 and 8).

The lower half of a connection: it owns the tables of streams, the reader and the writer, and turns what the owner
says into frames. What the peer's control frames do is control.py's; bytes and time are connection.py's. Halves of one
object, by inheritance, so that a small call goes through no more hands than it must.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from .assembly import Handler, Input, Refusal, Reserve
from .errors import ErrorCode, LocalError, ProtocolError
from .events import Event, Refused
from .extension import insert_body_length
from .frame_builder import control_frame, encode_detail, too_long_error
from .frame_rules import BASE_RULES
from .header import (
    CANCEL,
    DATA,
    END,
    END_STREAM,
    HEADER,
    HEADER_SIZE,
    MORE,
    NOT_STARTED,
    OPEN,
    Buffer,
    FrameType,
    type_name,
)  # fmt: skip
from .limits import INLINE_BODY, MAX_EXTENSION, MAX_METADATA, Config, Role
from .reader import Reader
from .states import MOVES, NOT_WHILE_DRAINING, SENDS, Action, State, StreamState
from .status import Status
from .streams import Stream, Streams
from .writer import Outgoing, Writer

# Members by names of their own: the look-up in the class costs the hot path ten times as much.
_SERVER: Final = Role.SERVER
_pack = HEADER.pack
_join = b"".join


class Calls(Handler):
    """What the owner of a connection can say on streams.

    state, closed: where the connection stands. _sends: types of frames that may be sent there. _goaway: last stream id
    of the last GOAWAY, sent (server) or received (client). _refused: streams that the last `received` ended by itself:
    its owner may hear of an earlier message of one, and answer it, before it hears of that.
    """

    __slots__ = (
        "_goaway",
        "_input",
        "_reader",
        "_refused",
        "_sends",
        "_streams",
        "_writer",
        "closed",
        "config",
        "role",
        "state",
    )

    def __init__(self, config: Config, buffer: memoryview, reserve: Reserve) -> None:
        server = config.role is Role.SERVER
        limits = config.limits
        self.config = config
        self.role = config.role
        self.closed = False
        self._enter(State.PREFACE if server else State.WELCOME)
        self._streams = Streams(client=not server)
        self._writer = Writer(fifo=not server, finished=self._streams.written)
        self._reader = Reader(
            self, self._streams, buffer, reserve, limits.max_streams if server else 0, limits.max_message, BASE_RULES
        )
        self._input: Input = self._reader  # a RecordReader below it once a MAC was agreed on
        self._goaway: int | None = None
        self._refused: set[int] | None = None  # made when needed: idle connections are many

    # ---- states ----

    def _enter(self, state: State) -> None:
        """Be in this state, which says what may be sent."""
        self.state = state
        self._sends = SENDS[self.role, state]

    def _moved(self, kind: FrameType) -> None:
        """Go where this frame, sent or received, leads to."""
        self._enter(MOVES[self.state, kind])

    def _draining(self, last_stream_id: int) -> None:
        """Take in a GOAWAY, sent or received: no stream is opened from now on."""
        self._goaway = last_stream_id
        self._sends = self._sends - NOT_WHILE_DRAINING

    def _not_sent(self, kind: int) -> LocalError:
        """Make the error for a frame that may not be sent now."""
        where = "closed" if self.closed else f"in state {self.state.name}"
        draining = " and draining" if self._goaway is not None else ""
        advice = "; accept() comes first" if self.role is _SERVER and self.state < State.OPEN else ""
        role = self.role.name.lower()
        return LocalError(f"{type_name(kind)} cannot be sent: the {role}'s connection is {where}{draining}{advice}")

    # ---- the client's calls ----

    def open(
        self,
        meta: bytes,
        ext: bytes,
        body: Sequence[Buffer],
        body_length: int,
        flags: int = END_STREAM,
        priority: int = 0,
        deadline_us: int = 0,
    ) -> int:
        """Open a stream with its first message and return its id; before Ready it is held and sent right after AUTH.

        body: flat byte buffers of body_length bytes in all, not copied. deadline_us: remaining time, 0 = none.
        Raises LocalError after GOAWAY or when closed.
        """
        if OPEN not in self._sends:
            raise self._not_sent(OPEN)
        streams = self._streams
        stream_id = streams.last_id + 1
        if body_length <= INLINE_BODY:
            meta_len, ext_len = len(meta), len(ext)
            if meta_len > MAX_METADATA or ext_len > MAX_EXTENSION:
                raise too_long_error(meta_len, ext_len)
            length = meta_len + ext_len + body_length
            header = _pack(length, OPEN, priority, flags, stream_id, 0, deadline_us, meta_len, ext_len, 0)
            self._writer.queue_small(stream_id, priority, _join((header, ext, meta)), body, HEADER_SIZE + length)
            if flags & END_STREAM:
                streams.unary[stream_id] = priority
            else:
                streams.begin(stream_id, flags, priority)
        else:
            self._large(OPEN, stream_id, 0, flags, priority, deadline_us, meta, ext, body, body_length)
            streams.begin(stream_id, flags, priority)
        streams.last_id = stream_id
        return stream_id

    def cancel(self, stream_id: int) -> None:
        """Give a stream up (client); idempotent. Nothing more of it is reported; it stays open until its terminal."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.state is StreamState.CANCELLED:
            return
        stream.state = self._streams.own_move(stream_id, stream, Action.CANCEL)
        self._reader.abort(stream_id)
        self._writer.drop(stream_id)
        self._writer.queue_small(stream_id, 0, control_frame(CANCEL, stream_id=stream_id), (), HEADER_SIZE)

    # ---- both sides' calls ----

    def send(
        self,
        stream_id: int,
        meta: bytes,
        ext: bytes,
        body: Sequence[Buffer],
        body_length: int,
        flags: int = END_STREAM,
    ) -> None:
        """Send the next message of an open stream; from the server END_STREAM ends the call with success.

        body: as for `open`. Raises LocalError if the stream is not open for it.
        """
        priority = self._streams.unary.get(stream_id, -1)
        if priority >= 0 and flags == END_STREAM and body_length <= INLINE_BODY and self.role is _SERVER:
            meta_len, ext_len = len(meta), len(ext)
            if meta_len > MAX_METADATA or ext_len > MAX_EXTENSION or DATA not in self._sends:
                raise too_long_error(meta_len, ext_len) if DATA in self._sends else self._not_sent(DATA)
            del self._streams.unary[stream_id]
            length = meta_len + ext_len + body_length
            header = _pack(length, DATA, priority, END_STREAM, stream_id, 0, 0, meta_len, ext_len, 0)
            self._writer.queue_small(stream_id, priority, _join((header, ext, meta)), body, HEADER_SIZE + length)
            return
        self._send(stream_id, meta, ext, body, body_length, flags)

    def replies(self, stream_ids: list[int], priority: int, frames: list[Buffer], nbytes: int) -> bool:
        """End calls of one class with success (server), as `send` does, at a third of its cost.

        frames: the replies as a ReplyForm packs them and their bodies, nbytes in all and 64 KiB at most, or one reply.
        False, and nothing was done, where they are not all of calls that came in one frame and are open: `send` each.
        """
        unary = self._streams.unary
        if DATA not in self._sends or self.role is not _SERVER:
            return False
        for taken, stream_id in enumerate(stream_ids):
            if unary.pop(stream_id, -1) < 0:  # guard: replies-once
                for before in stream_ids[:taken]:
                    unary[before] = priority
                return False
        self._writer.queue_frames(priority, frames, nbytes)
        return True

    def _send(
        self, stream_id: int, meta: bytes, ext: bytes, body: Sequence[Buffer], body_length: int, flags: int
    ) -> None:
        """Any message but a small unary reply."""
        if self.closed:
            return
        if DATA not in self._sends:
            raise self._not_sent(DATA)
        last = flags & END_STREAM
        if self.role is _SERVER:
            action = Action.TERMINAL if last else Action.REPLY
        else:
            action = Action.LAST_MESSAGE if last else Action.MESSAGE
        stream = self._streams.get(stream_id)
        if stream is None:
            self._was_refused(stream_id, action)
            return
        state = self._streams.own_move(stream_id, stream, action)
        seq, priority = stream.sent, stream.priority
        if body_length <= INLINE_BODY:
            if len(meta) > MAX_METADATA or len(ext) > MAX_EXTENSION:
                raise too_long_error(len(meta), len(ext))
            length = len(meta) + len(ext) + body_length
            header = _pack(length, DATA, priority, last, stream_id, seq, 0, len(meta), len(ext), 0)
            self._writer.queue_small(stream_id, priority, _join((header, ext, meta)), body, HEADER_SIZE + length)
        else:
            self._large(DATA, stream_id, seq, last, priority, 0, meta, ext, body, body_length)
        stream.sent = seq + 1
        stream.state = state
        if state is StreamState.FINISHING:
            self._reader.abort(stream_id)
            if stream_id not in self._writer.active:
                self._streams.written(stream_id)

    def _was_refused(self, stream_id: int, action: Action) -> None:
        """Let the owner act on a stream that the last `received` ended by itself; any other that is not open raises."""
        if self._refused is None or stream_id not in self._refused:
            self._streams.own_move(stream_id, None, action)

    def _large(
        self,
        kind: int,
        stream_id: int,
        seq: int,
        flags: int,
        priority: int,
        aux: int,
        meta: bytes,
        ext: bytes,
        body: Sequence[Buffer],
        body_length: int,
    ) -> None:
        """Queue a message above INLINE_BODY: first frame, then chunks as the writer's turn comes."""
        outgoing = Outgoing(stream_id, seq, flags & END_STREAM, priority, body, body_length)
        ext = insert_body_length(ext, body_length)
        if len(meta) > MAX_METADATA or len(ext) > MAX_EXTENSION:
            raise too_long_error(len(meta), len(ext))
        length = len(meta) + len(ext)
        header = _pack(length, kind, priority, flags | MORE, stream_id, seq, aux, len(meta), len(ext), 0)
        self._writer.queue_chunked(_join((header, ext, meta)), outgoing)

    # ---- the server's calls ----

    def end(
        self, stream_id: int, status: Status | int, detail: str = "", not_started: bool = False, ext: bytes = b""
    ) -> None:
        """End a stream with a status; unsent chunks of its replies are dropped. Raises LocalError if it is not open."""
        if self.closed:
            return
        if END not in self._sends:
            raise self._not_sent(END)
        stream = self._streams.get(stream_id)
        if stream is None:
            self._was_refused(stream_id, Action.TERMINAL)
            return
        self._streams.own_move(stream_id, stream, Action.TERMINAL)
        self._end(stream_id, stream, status, detail, not_started, ext)

    def _end(
        self, stream_id: int, stream: Stream, status: Status | int, detail: str, not_started: bool, ext: bytes
    ) -> None:
        frame = self._ended(stream_id, stream, status, detail, not_started, ext)
        self._writer.queue_small(stream_id, stream.priority, frame, (), len(frame))

    def _ended(
        self, stream_id: int, stream: Stream, status: Status | int, detail: str, not_started: bool, ext: bytes
    ) -> bytes:
        """Close a stream of the server's; returns its END."""
        self._reader.abort(stream_id)
        self._writer.drop(stream_id)
        stream.state = StreamState.FINISHING
        self._streams.written(stream_id)
        # SPEC 6.5: a call that has sent a reply, or that succeeded, has started.
        flags = NOT_STARTED if not_started and status and not stream.sent else 0
        text = encode_detail(detail)
        return control_frame(END, stream_id=stream_id, flags=flags, aux=int(status), ext=ext, meta=text)

    def _queue_control_reply(self, frame: bytes) -> None:
        """Queue an answer that costs the peer next to nothing; raises ProtocolError (CALM) if too many wait unread."""
        writer = self._writer
        writer.queue_control(frame)
        if writer.control_bytes > self.config.limits.max_control:  # guard: ping-flood
            raise ProtocolError(
                ErrorCode.CALM, f"{writer.control_bytes} bytes of answers wait unread; read them, or ask for fewer"
            )

    # ---- Handler: what the reader asks ----

    def refuse(self, stream_id: int, refusal: Refusal, events: list[Event]) -> None:
        """Refuse a message that gets no memory: END (server) or CANCEL (client); its chunks are dropped as late."""
        if self.role is Role.CLIENT:
            self.cancel(stream_id)
        else:
            stream = self._streams.get(stream_id) or self._streams.begin(stream_id, 0, 0)
            if self._refused is None:
                self._refused = set()
            self._refused.add(stream_id)
            first = stream.received == 1
            frame = self._ended(stream_id, stream, refusal.status, refusal.message, first, b"")
            if stream.sent:  # END goes behind the replies
                self._writer.queue_small(stream_id, stream.priority, frame, (), len(frame))
            else:
                self._queue_control_reply(frame)
            self.count_abuse()
        events.append(Refused(stream_id, refusal.status))

    def finished(self, stream_id: int) -> None:
        """Client: the terminal is in, so unsent chunks of the stream, and what waits behind them, are dropped."""
        self._writer.drop(stream_id)
