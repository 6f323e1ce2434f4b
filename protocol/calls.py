"""The calls of one connection, as this side makes and answers them: open, send, cancel, end (SPEC 7 and 8).

The lower half of a connection: it owns the tables of streams, the reader and the writer, and turns what the owner
says into frames. What the peer's control frames do is control.py's; bytes and time are connection.py's. Halves of one
object, by inheritance, so that a small call goes through no more hands than it must.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from .assembly import Handler, Refusal, Reserve
from .errors import ErrorCode, LocalError, ProtocolError
from .events import Event, Refused
from .extension import insert_body_length
from .frame_builder import control_frame, encode_detail, too_long_error
from .header import CANCEL, DATA, END, END_STREAM, HEADER, HEADER_SIZE, MORE, NOT_STARTED, OPEN, Buffer
from .limits import INLINE_BODY, MAX_EXTENSION, MAX_METADATA, Config, Role
from .reader import Reader
from .states import State
from .status import Status
from .streams import TRANSITIONS, Action, Stream, Streams, StreamState
from .writer import Outgoing, Writer

# Members by names of their own: the look-up in the class costs the hot path ten times as much.
_CLIENT: Final = Role.CLIENT
_SERVER: Final = Role.SERVER
_OPEN: Final = State.OPEN
_pack = HEADER.pack
_join = b"".join


class Calls(Handler):
    """What the owner of a connection can say on streams.

    state, closed: where the connection stands. _goaway: last stream id of the last GOAWAY, sent (server) or received
    (client). _refused: streams that the last `received` ended by itself: its owner may hear of an earlier message of
    one, and answer it, before it hears of that.
    """

    __slots__ = ("_goaway", "_reader", "_refused", "_streams", "_writer", "closed", "config", "role", "state")

    def __init__(self, config: Config, buffer: memoryview, reserve: Reserve) -> None:
        server = config.role is Role.SERVER
        limits = config.limits
        self.config = config
        self.role = config.role
        self.state = State.PREFACE if server else State.WELCOME
        self.closed = False
        self._streams = Streams(client=not server)
        self._writer = Writer(fifo=not server, finished=self._written)
        self._reader: Reader = Reader(
            self, self._streams, buffer, reserve, limits.max_streams if server else 0, limits.max_message
        )
        self._goaway: int | None = None
        self._refused: set[int] | None = None  # made when needed: idle connections are many

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
        if self.closed or self._goaway is not None or self.role is not _CLIENT:
            raise LocalError("no stream can be opened: the connection is closed, draining, or a server's")
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
                streams.open[stream_id] = Stream(StreamState.OPEN, priority, 0, 1)
        else:
            self._large(OPEN, stream_id, 0, flags, priority, deadline_us, meta, ext, body, body_length)
            state = StreamState.HALF_CLOSED if flags & END_STREAM else StreamState.OPEN
            streams.open[stream_id] = Stream(state, priority, 0, 1)
        streams.last_id = stream_id
        return stream_id

    def cancel(self, stream_id: int) -> None:
        """Give a stream up (client); idempotent. Nothing more of it is reported; it stays open until its terminal."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.state is StreamState.CANCELLED:
            return
        stream.state = TRANSITIONS[stream.state, Action.CANCEL]
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
            if meta_len > MAX_METADATA or ext_len > MAX_EXTENSION or self.state is not _OPEN:
                raise too_long_error(meta_len, ext_len) if self.state is _OPEN else LocalError("accept() comes first")
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
        if self.state is not _OPEN or self.role is not _SERVER:
            return False
        for taken, stream_id in enumerate(stream_ids):
            if unary.pop(stream_id, -1) < 0:
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
        server = self.role is Role.SERVER
        if server and self.state is not State.OPEN:
            raise LocalError("accept() comes first")
        last = flags & END_STREAM
        if server:
            action = Action.TERMINAL if last else Action.REPLY
        else:
            action = Action.LAST_MESSAGE if last else Action.MESSAGE
        stream = self._streams.get(stream_id)
        if stream is None and self._refused is not None and stream_id in self._refused:
            return
        state = None if stream is None else TRANSITIONS.get((stream.state, action))
        if stream is None or state is None or stream.state is StreamState.FINISHING:
            where = "not open" if stream is None else stream.state.name.lower()
            raise LocalError(f"stream {stream_id} is {where}: {action.name.lower()} cannot be sent")
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
        self._move(stream_id, stream, state)

    def _move(self, stream_id: int, stream: Stream, state: StreamState) -> None:
        """Take a stream to the state that our own frame leads to."""
        if state is StreamState.CLOSED:
            self._reader.abort(stream_id)
            if stream_id in self._writer.active:
                state = StreamState.FINISHING  # until `_written`
            else:
                del self._streams.open[stream_id]
        stream.state = state

    def _written(self, stream_id: int) -> None:
        """The last chunk of a stream, and what waited behind it, is handed over."""
        stream = self._streams.open.get(stream_id)
        if stream is not None and stream.state is StreamState.FINISHING:
            del self._streams.open[stream_id]

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
        stream = self._streams.get(stream_id)
        if stream is None and self._refused is not None and stream_id in self._refused:
            return
        if stream is None or stream.state is StreamState.FINISHING or self.role is not Role.SERVER:
            raise LocalError(f"stream {stream_id} has no terminal to come")
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
        del self._streams.open[stream_id]
        # SPEC 6.5: a call that has sent a reply, or that succeeded, has started.
        flags = NOT_STARTED if not_started and status and not stream.sent else 0
        text = encode_detail(detail)
        return control_frame(END, stream_id=stream_id, flags=flags, aux=int(status), ext=ext, meta=text)

    def _queue_control_reply(self, frame: bytes) -> None:
        """Queue an answer that costs the peer next to nothing; raises ProtocolError (CALM) if too many wait unread."""
        writer = self._writer
        writer.queue_control(frame)
        if writer.control_bytes > self.config.limits.max_control:
            raise ProtocolError(
                ErrorCode.CALM, f"{writer.control_bytes} bytes of answers wait unread; read them, or ask for fewer"
            )

    # ---- Handler: what the reader asks ----

    def refuse(self, stream_id: int, refusal: Refusal, events: list[Event]) -> None:
        """A message that no memory is given to: END (server) or CANCEL (client), and its chunks are dropped as late."""
        if self.role is Role.CLIENT:
            self.cancel(stream_id)
        else:
            stream = self._streams.get(stream_id) or Stream(StreamState.OPEN, 0, 1, 0)
            self._streams.open[stream_id] = stream
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
