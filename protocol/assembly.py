"""Messages that arrive in chunks: memory for the whole, each chunk checked and put in its place (SPEC 7).

The lower half of the receive path; reader.py, which finds the frames, builds on it. Here also stands what the receive
path asks of the connection, `Handler`, and of the owner, `Reserve`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from .errors import ErrorCode, ProtocolError
from .events import Event, Message, MessageAborted
from .frame_rules import FrameRules
from .header import END_STREAM, MORE, Header, check_message
from .limits import MIN_CHUNK
from .states import Action
from .status import Status
from .streams import Stream, Streams


@dataclass(frozen=True, slots=True)
class Refusal:
    """What `reserve` returns instead of memory: the status and text the peer gets; its bytes are discarded."""

    status: Status
    message: str


# (stream_id, flags, priority, aux, ext, meta, body_length) -> writable memory of exactly body_length bytes, or Refusal
Reserve = Callable[[int, int, int, int, bytes, bytes, int], "memoryview | Refusal"]


class Handler(ABC):
    """What the reader asks of the connection."""

    @abstractmethod
    def check_control(self, header: Header) -> None:
        """Refuse a control frame by its header alone; raises ProtocolError."""

    @abstractmethod
    def control(self, header: Header, ext: bytes, meta: bytes, body: bytes, events: list[Event]) -> bool:
        """Act on a whole control frame; False if nothing after it may be read."""

    @abstractmethod
    def refuse(self, stream_id: int, refusal: Refusal, events: list[Event]) -> None:
        """Tell the peer that its message is refused."""

    @abstractmethod
    def count_abuse(self) -> None:
        """Count a late or refused frame; raises ProtocolError (CALM) above the limit."""

    @abstractmethod
    def finished(self, stream_id: int) -> None:
        """Client: the server's last message of the stream is in."""


class Input(ABC):
    """Where the bytes of a connection go first: the Reader, or the record layer below it. tail: bytes kept of a frame
    or record that is not whole.
    """

    __slots__ = ("tail",)

    def __init__(self) -> None:
        self.tail = b""

    @property
    @abstractmethod
    def partial(self) -> bool:
        """Whether the bytes so far end within a frame, a record or a message."""

    @property
    @abstractmethod
    def exact(self) -> bool:
        """Whether the peer owes every byte of `next_buffer`."""

    @abstractmethod
    def next_buffer(self) -> memoryview:
        """Return writable memory for the next read; calling again before `received` gives the same place."""

    @abstractmethod
    def received(self, n: int, events: list[Event]) -> None:
        """Take `n` bytes written to the memory of `next_buffer`; raises ProtocolError."""

    @abstractmethod
    def abort_all(self, events: list[Event]) -> None:
        """Give up all that is unfinished: the connection is over."""


class Incoming:
    """A chunked message on its way in: `view` is the reserved memory, `filled` bytes of it are there.

    chunk_left: bytes of the current chunk still to come.
    chunk_head, chunk_size: header and bytes of the last chunk that a read ended in: the next has the same, most likely.
    aborted: nobody wants it any more, but its memory may still be under the next read.
    """

    __slots__ = (
        "aborted", "aux", "chunk_head", "chunk_left", "chunk_size", "ext", "filled", "flags", "meta", "priority", "seq",
        "stream", "stream_id", "total", "view",
    )  # fmt: skip

    def __init__(
        self,
        stream_id: int,
        stream: Stream,
        seq: int,
        flags: int,
        priority: int,
        aux: int,
        ext: bytes,
        meta: bytes,
        view: memoryview,
    ) -> None:
        self.stream_id = stream_id
        self.stream = stream
        self.seq = seq
        self.flags = flags
        self.priority = priority
        self.aux = aux
        self.ext = ext
        self.meta = meta
        self.view = view
        self.total = len(view)
        self.filled = 0
        self.chunk_left = 0
        self.chunk_head = b""
        self.chunk_size = 0
        self.aborted = False


class Assembly(Input):
    """The unfinished messages of one connection.

    rules: what may arrive. chunk: largest chunk accepted, bytes. deferred: events for the next `received`, of memory
    that may be under a read. current: the message whose chunk the next read fills. _skip: bytes of a frame still to
    come that nobody wants. metered: whether bytes of bodies are counted.
    body_bytes: how many have arrived on the connection, while they are.
    """

    __slots__ = (
        "_handler", "_incoming", "_max_message", "_reserve", "_skip", "_streams", "body_bytes", "buffer", "chunk",
        "current", "deferred", "metered", "rules",
    )  # fmt: skip

    def __init__(
        self,
        handler: Handler,
        streams: Streams,
        buffer: memoryview,
        reserve: Reserve,
        max_message: int,
        rules: FrameRules,
    ) -> None:
        super().__init__()
        self._handler = handler
        self._streams = streams
        self.buffer = buffer
        self._reserve = reserve
        self._max_message = max_message
        self.chunk = MIN_CHUNK
        self.deferred: list[Event] = []
        self._incoming: dict[int, Incoming] = {}
        self.current: Incoming | None = None
        self._skip = 0
        self.rules = rules
        self.metered = rules.metered
        self.body_bytes = 0

    def _begin(self, header: Header, head: bytes, place: int, events: list[Event]) -> None:
        """Get memory for all of a chunked message, whose first frame this is."""
        _, _, priority, flags, stream_id, seq, aux, _, ext_len, _ = header
        ext, meta, total = self.rules.split_large_head(place, head, ext_len)
        if total > self._max_message:
            text = f"the body is {total} bytes; at most {self._max_message} are accepted"
            self._handler.refuse(stream_id, Refusal(Status.RESOURCE_EXHAUSTED, text), events)
            return
        memory = self._reserve(stream_id, flags & ~MORE, priority, aux, ext, meta, total)
        if isinstance(memory, Refusal):
            self._handler.refuse(stream_id, memory, events)
            return
        if memory.nbytes != total or memory.format != "B" or memory.ndim != 1 or memory.readonly:
            raise ValueError(f"reserve must return {total} writable bytes, not {memory.nbytes} of {memory.format!r}")
        stream = self._streams.open[stream_id]
        self._incoming[stream_id] = Incoming(stream_id, stream, seq, flags & ~MORE, priority, aux, ext, meta, memory)

    def _check_chunk(self, incoming: Incoming, header: Header) -> None:
        """Refuse a chunk that disagrees with its message, and what is none; raises ProtocolError (SPEC 7.3 to 7.6)."""
        length, _, _, flags, stream_id, seq, aux, meta_len, ext_len, reserved = header
        left = incoming.total - incoming.filled
        if meta_len or ext_len or seq != incoming.seq:  # a message, with a message's caps: too early
            check_message(header, self.rules.data_flags)
            raise ProtocolError(
                ErrorCode.STREAM,
                f"stream {stream_id}: message {seq} begins, or a chunk of it has metadata, while {left} bytes of"
                f" message {incoming.seq} are still to come",
            )
        if length > self.chunk:  # guard: length-bomb-chunk
            raise self._above_chunk(length)
        if reserved or flags & ~self.rules.data_flags or aux or not length:
            raise ProtocolError(ErrorCode.FRAME, "chunk: empty, or a field or flag that it does not use is not zero")
        expected = MORE if length < left else incoming.flags & END_STREAM
        if length > left or flags != expected:
            raise ProtocolError(
                ErrorCode.STREAM,
                f"stream {stream_id}: chunk of {length} bytes with flags 0x{flags:x} where {left} bytes are to come",
            )
        if length < MIN_CHUNK and length < left:  # guard: chunk-dribble
            raise ProtocolError(ErrorCode.CALM, f"chunk of {length} bytes; all but the last have at least {MIN_CHUNK}")

    def _above_chunk(self, length: int) -> ProtocolError:
        return ProtocolError(ErrorCode.TOO_LARGE, f"chunk of {length} bytes; at most {self.chunk} were agreed")

    def _chunk_received(self, current: Incoming, n: int, events: list[Event]) -> int:
        """Count bytes that went straight into a message; moves what was read past the chunk to the buffer's front."""
        left = current.chunk_left
        if n < left:
            self.fill(current, n)
            current.chunk_left = left - n
            if current.aborted:
                self._skip = self.release(current, events)
            return 0
        over = n - left
        self.fill(current, left)
        if over:
            head = current.view[current.filled : current.filled + over].tobytes()
            size = current.chunk_size
            # As the chunk before, which was good, and not the last one: good too.
            # guard: alike-chunk
            if head == current.chunk_head and size < current.total - current.filled and not current.aborted:
                current.chunk_left = size
                return 0
            self.buffer[:over] = head
        current.chunk_left = 0
        self.current = None
        if current.aborted:
            events.append(MessageAborted(current.stream_id))
        elif current.filled == current.total:
            self._complete(current, events)
        return over

    def _copy(self, incoming: Incoming, at: int, size: int, events: list[Event]) -> None:
        """Copy bytes of a chunk that were read together with other frames to their place."""
        filled = incoming.filled
        incoming.view[filled : filled + size] = self.buffer[at : at + size]
        self.fill(incoming, size)
        if incoming.filled == incoming.total:
            self._complete(incoming, events)

    def fill(self, incoming: Incoming, n: int) -> None:
        """Take in that `n` bytes of a body lie in the memory of their message."""
        incoming.filled += n
        if self.metered:
            self.body_arrived(incoming.stream, n)

    def body_arrived(self, stream: Stream | None, n: int) -> None:
        """Count `n` bytes of bodies, here and nowhere else: this is where credit is to be taken (SPEC 12.2).

        Those that are dropped count as soon as that is known. stream: None for a call and a reply in one frame each,
        and for a stream that is closed.
        """
        if self.metered:
            self.body_bytes += n
            if stream is not None:
                stream.received_bytes += n

    def release(self, current: Incoming, events: list[Event]) -> int:
        """Give back the memory of an aborted message under a read; returns the bytes of its chunk to be dropped."""
        self.current = None
        events.append(MessageAborted(current.stream_id))
        self.body_arrived(current.stream, current.chunk_left)
        return current.chunk_left

    def _complete(self, incoming: Incoming, events: list[Event]) -> None:
        stream_id, flags = incoming.stream_id, incoming.flags
        del self._incoming[stream_id]
        if self._streams.client:
            stream = self._streams.open[stream_id]
            self._streams.peer_acts(stream_id, stream, Action.TERMINAL if flags & END_STREAM else Action.REPLY)
            if flags & END_STREAM:
                self._handler.finished(stream_id)
        events.append(
            Message(
                stream_id,
                incoming.seq,
                flags,
                incoming.priority,
                incoming.aux,
                incoming.ext,
                incoming.meta,
                incoming.view,
                owned=True,
            )
        )

    # ---- giving up ----

    def abort(self, stream_id: int, events: list[Event] | None = None) -> None:
        """Give up an unfinished incoming message of this stream, if there is one.

        Without `events` the MessageAborted comes with the next `received`: the memory may be under a read right now.
        """
        incoming = self._incoming.pop(stream_id, None)
        if incoming is None:
            return
        if events is not None:
            events.append(MessageAborted(stream_id))
        elif incoming is self.current:
            incoming.aborted = True
            last = incoming.filled + incoming.chunk_left == incoming.total and incoming.flags & END_STREAM
            if last and self._streams.client:  # the terminal's header is in: nothing more will come of this stream
                self._streams.open.pop(stream_id, None)
        else:
            self.deferred.append(MessageAborted(stream_id))

    def abort_all(self, events: list[Event]) -> None:
        """Give up every unfinished message: the connection is over."""
        current = self.current
        if current is not None and current.aborted:
            events.append(MessageAborted(current.stream_id))
        self.current = None
        self._skip = 0
        events += self.deferred
        self.deferred.clear()
        events += [MessageAborted(stream_id) for stream_id in self._incoming]  # guard: aborted-by-tag
        self._incoming.clear()
