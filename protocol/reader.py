"""Bytes in, frames found, messages out (SPEC 3.2 and 8).

Small frames are read into a shared receive buffer and parsed in one loop, `_frames`, which is the hot path of the
whole system and kept in one piece. Once a message announces itself as chunked, the reader asks for exact reads: a
chunk's bytes go straight from the socket into the memory reserved for its message, together with the header after
it, which lands where the next chunk's bytes will overwrite it. A small frame leads back to full-size reads.

What is not here: chunked messages themselves (assembly.py, the lower half of this), and what control frames mean and
what refusing does (`Handler`, which is the connection).
"""

from __future__ import annotations

from typing import Final

from .assembly import Assembly, Handler, Incoming, Refusal, Reserve
from .errors import ErrorCode, ProtocolError
from .events import Event, Message
from .extension import CLIENT_DATA, SERVER_DATA, SERVER_LAST
from .frame_rules import FrameRules
from .header import (
    DATA,
    END_STREAM,
    HEADER,
    HEADER_SIZE,
    MORE,
    OPEN,
    Header,
    check_first,
    check_message,
)
from .limits import INLINE_BODY, MAX_EXTENSION, MAX_METADATA, MIN_CHUNK
from .records import CROSSES_RECORD
from .repeated_frames import FrameTemplate
from .states import Action, StreamState
from .status import Status
from .streams import Stream, Streams

_unpack_from = HEADER.unpack_from
# (type of OPEN, type of DATA) as the loop knows them; no frame has the type -1.
_NOT_READY: Final = (-1, -1)  # guard: before-authentication
_SERVER_READY: Final = (OPEN, DATA)
_CLIENT_READY: Final = (-1, DATA)
_NO_REPLIES: Final[dict[int, int]] = {}  # a server's, always empty
_NEVER: Final = 1 << 40  # bytes; more than any read has


class Reader(Assembly):
    """Turns received bytes into events. One per connection; the buffer may be shared by all connections of a loop.

    tail: bytes of an incomplete small frame, kept between calls. large: what came last has chunks. closed: nothing more
    may be read. _head: bytes that the last large message had before
    its first chunk's own: the next one has as many, most likely, and is begun with one read. halt: what comes behind
    the control frame that is being handled are no frames.
    """

    __slots__ = (
        "_head",
        "_max_streams",
        "_open",
        "_open_heads",
        "_ready_kinds",
        "_repeats",
        "_reply_heads",
        "_start",
        "_unary",
        "_unary_flags",
        "_unary_replies",
        "closed",
        "halt",
        "large",
    )

    def __init__(
        self,
        handler: Handler,
        streams: Streams,
        buffer: memoryview,
        reserve: Reserve,
        max_streams: int,
        max_message: int,
        rules: FrameRules,
    ) -> None:
        super().__init__(handler, streams, buffer, reserve, max_message, rules)
        self.follow(rules)
        self._max_streams = max_streams
        self._ready_kinds: tuple[int, int] = _NOT_READY
        self._unary = streams.unary
        self._open = streams.open
        self._unary_replies = streams.unary if streams.client else _NO_REPLIES
        self.large = False
        self._head = HEADER_SIZE
        self._start = 0
        self.halt = False
        self.closed = False

    def follow(self, rules: FrameRules) -> None:
        """Take what these rules allow from now on."""
        self.rules = rules
        self.metered = rules.metered
        self._unary_flags = rules.unary_flags
        self._open_heads = rules.heads[OPEN]
        self._reply_heads = rules.heads[SERVER_LAST]
        self._repeats = rules.repeated_replies if self._streams.client else rules.repeated_calls

    def ready(self) -> None:
        """Allow OPEN (server) and DATA from now on."""
        self._ready_kinds = _CLIENT_READY if self._streams.client else _SERVER_READY

    @property
    def assembling(self) -> bool:
        """Whether a message in chunks is under way."""
        return bool(self._incoming)

    @property
    def partial(self) -> bool:
        """Whether the bytes so far end within a frame or a message."""
        return bool(self.tail or self._skip or self._incoming or self.current is not None)

    # ---- where bytes go ----

    @property
    def exact(self) -> bool:
        """Whether the peer owes every byte of `next_buffer`: the rest of a chunk, and the header that must follow."""
        return self.current is not None

    def next_buffer(self) -> memoryview:
        """Return writable memory for the next read; calling again before `received` gives the same place."""
        current = self.current
        if current is not None:
            stop = current.filled + current.chunk_left
            if stop + HEADER_SIZE <= current.total:
                stop += HEADER_SIZE  # the next header, to be overwritten by the bytes it announces
            return current.view[current.filled : stop]
        tail = self.tail
        self._start = start = len(tail)
        if start:
            self.buffer[:start] = tail
        if self.large:
            if start < HEADER_SIZE:
                return self.buffer[start : HEADER_SIZE if self._incoming else self._head]
            header = _unpack_from(tail)
            if header[3] & MORE:
                return self.buffer[start : HEADER_SIZE + header[0] + HEADER_SIZE]
            self.large = False
        return self.buffer[start:] if start else self.buffer

    def received(self, n: int, events: list[Event]) -> None:
        """Take `n` bytes written to the memory of `next_buffer`; raises ProtocolError."""
        pos = 0
        if self.current is not None:
            end = self._chunk_received(self.current, n, events)
        else:
            end = self._start + n
            self._start = 0
        self.tail = b""
        if self.deferred:
            self.flush_deferred(events)
        if self._skip:
            pos = min(self._skip, end)
            self._skip -= pos
        if end > pos:
            pos = self._frames(pos, end, events)
            if pos < end:
                self.tail = self.buffer[pos:end].tobytes()

    # ---- frames ----

    def _frames(self, pos: int, end: int, events: list[Event]) -> int:
        """Parse what lies in the buffer from pos to end; returns where the first incomplete frame starts."""
        buffer = self.buffer
        open_kind, data_kind = self._ready_kinds
        large = self.large
        first = len(events)
        repeats = self._repeats
        template = repeats.template
        size = _NEVER if template is None or data_kind != DATA else template.size  # guard: alike-before-ready
        while end - pos >= HEADER_SIZE:
            if template is not None and end - pos >= size:
                after = self._take_matching(template, pos, end, events)
                if after > pos:
                    repeats.matched(template)
                    pos = after
                    large = False
                    continue
                size = _NEVER
            header = _unpack_from(buffer, pos)
            length, kind, priority, flags, stream_id, seq, aux, meta_len, ext_len, reserved = header
            meta_at = pos + HEADER_SIZE + ext_len
            body_at = meta_at + meta_len
            next_at = pos + HEADER_SIZE + length
            if kind == open_kind:
                if (
                    meta_len > MAX_METADATA
                    or ext_len > MAX_EXTENSION
                    or not body_at <= next_at <= body_at + INLINE_BODY
                    or reserved
                    or flags & ~self._unary_flags
                ):
                    check_message(header, self.rules.open_flags)
                if stream_id != self._streams.last_id + 1 or seq:  # guard: stream-id-next
                    raise self._bad_id(stream_id, seq)
                if flags & MORE:
                    check_first(header)
                    if next_at > end:
                        break
                    self._streams.last_id = stream_id
                    self._head = HEADER_SIZE + length + HEADER_SIZE
                    self._begin_open(header, buffer[pos + HEADER_SIZE : body_at].tobytes(), events)
                    large = True
                    pos = next_at
                    continue
                if next_at > end:
                    break
                self._streams.last_id = stream_id
                head = buffer[pos + HEADER_SIZE : body_at].tobytes()
                pair = self._open_heads.get(head)
                if pair is None or len(pair[0]) != ext_len:
                    pair = self.rules.split_head(OPEN, head, ext_len)
                ext, meta = pair
                pos = next_at
                large = False
                if len(self._unary) + len(self._open) >= self._max_streams:  # guard: too-many-streams
                    self.body_arrived(None, next_at - body_at)
                    self._too_many(stream_id, events)
                    continue
                if flags & END_STREAM:
                    self._unary[stream_id] = priority
                else:
                    self._streams.begin(stream_id, flags, priority)
                events.append(Message(stream_id, 0, flags, priority, aux, ext, meta, buffer[body_at:next_at], False))
                if flags & END_STREAM:
                    template = repeats.observe(header, ext, meta)
                    size = _NEVER if template is None else template.size
            elif kind == data_kind:
                if (
                    flags == END_STREAM
                    and stream_id in self._unary_replies
                    and meta_len <= MAX_METADATA
                    and ext_len <= MAX_EXTENSION
                    and body_at <= next_at <= body_at + INLINE_BODY
                    and not (reserved or seq or aux)
                ):
                    if next_at > end:
                        break
                    head = buffer[pos + HEADER_SIZE : body_at].tobytes()
                    pair = self._reply_heads.get(head)
                    if pair is None or len(pair[0]) != ext_len:
                        pair = self.rules.split_head(SERVER_LAST, head, ext_len)
                    ext, meta = pair
                    pos = next_at
                    large = False
                    del self._unary_replies[stream_id]
                    events.append(Message(stream_id, 0, flags, priority, 0, ext, meta, buffer[body_at:next_at], False))
                    template = repeats.observe(header, ext, meta)
                    size = _NEVER if template is None else template.size
                    continue
                incoming = self._incoming.get(stream_id)
                if incoming is not None:
                    self._check_chunk(incoming, header)
                    large = True
                    incoming.chunk_left = max(next_at - end, 0)
                    if next_at > end:
                        incoming.chunk_head = buffer[pos : pos + HEADER_SIZE].tobytes()
                        incoming.chunk_size = length
                        self.current = incoming
                        next_at = end
                    self._copy(incoming, pos + HEADER_SIZE, next_at - pos - HEADER_SIZE, events)
                    pos = next_at
                    continue
                stream = self._streams.get(stream_id)
                if stream is None or stream.state >= StreamState.CANCELLED:
                    self._late_data(header, stream)
                    large = False
                    if next_at > end:
                        self._skip = next_at - end
                        next_at = end
                    pos = next_at
                    continue
                check_message(header, self.rules.data_flags)
                self._check_seq(stream, header)
                check_first(header)
                if next_at > end:
                    break
                large = self._data(stream, header, pos + HEADER_SIZE, events)
                pos = next_at
            else:
                self._handler.check_control(header)
                if next_at > end:
                    break
                ext = buffer[pos + HEADER_SIZE : meta_at].tobytes()
                meta = buffer[meta_at:body_at].tobytes()
                body = buffer[body_at:next_at].tobytes()
                pos = next_at
                large = False
                if not self._handler.control(header, ext, meta, body, events):
                    return end
                if self.halt:  # guard: frames-behind-auth
                    break
                open_kind, data_kind = self._ready_kinds
        self.large = large
        if self.metered:
            self._meter(events, first)
        return pos

    def _meter(self, events: list[Event], first: int) -> None:
        """Count the bodies of the messages in one frame each among the events from `first` on."""
        for event in events[first:]:
            if isinstance(event, Message) and not event.owned:
                self.body_arrived(self._open.get(event.stream_id), len(event.body))

    # ---- verified spans, of the record layer below ----

    def parse_whole(self, pos: int, stop: int, events: list[Event]) -> None:
        """Take frames that fill the buffer from `pos` to `stop`; raises ProtocolError."""
        parsed = self._frames(pos, stop, events)
        if not self.closed and (parsed != stop or self.current is not None or self._skip):  # guard: frame-in-record
            raise ProtocolError(ErrorCode.FRAME, CROSSES_RECORD)

    def chunk_of(self, header: Header) -> Incoming | None:
        """Return the message under way to which this header of a chunk belongs; raises ProtocolError (SPEC 7.3 to 7.6).

        None: of a stream that this side has finished with, most likely; `late_chunk_verified` judges it.
        """
        incoming = self._incoming.get(header[4])
        if incoming is not None:
            self._check_chunk(incoming, header)  # guard: chunk-before-tag
        # guard: length-bomb-late-chunk
        elif header[0] > max(self.chunk, INLINE_BODY):  # a chunk or a message: nobody knows any more (SPEC 8.4)
            raise self._above_chunk(header[0])
        return incoming

    def is_message(self, header: Header) -> bool:
        """Tell whether a chunk's header is that of a whole message: its stream waits for one, and for no chunk."""
        stream_id = header[4]
        if stream_id in self._incoming:
            return False
        stream = self._open.get(stream_id)
        return stream_id in self._unary if stream is None else stream.state < StreamState.CANCELLED

    def chunk_verified(self, current: Incoming, events: list[Event]) -> None:
        """Take the bytes of a chunk in its message's memory: only now they count for the message."""
        self.current = None
        if current.filled == current.total:
            self._complete(current, events)

    def late_chunk_verified(self, header: Header) -> None:
        """Judge a chunk that nobody kept; raises ProtocolError."""
        self._late_data(header, self._streams.get(header[4]))

    def flush_deferred(self, events: list[Event]) -> None:
        """Tell of memory that was under a read when it was given up."""
        if self.deferred:
            events += self.deferred
            self.deferred.clear()

    # ---- frames, looked at closely ----

    def _take_matching(self, template: FrameTemplate, pos: int, end: int, events: list[Event]) -> int:
        """Take the frames from `pos` on that are like that one; returns where the first other frame starts."""
        streams = self._streams
        unary = self._unary
        buffer = self.buffer
        opens = not streams.client
        slots_left = self._max_streams - len(self._open)
        last_id = streams.last_id
        size, body, unpack = template.size, template.body, template.unpack
        before, behind = template.before, template.behind
        flags, priority, ext, meta = template.flags, template.priority, template.ext, template.meta
        while end - pos >= size:
            fields: tuple[bytes, int, int, int, bytes] = unpack(buffer, pos)
            found, stream_id, seq, aux, rest = fields
            if found != before or rest != behind or seq:  # guard: alike-call
                break
            if opens:
                if stream_id != last_id + 1 or len(unary) >= slots_left:  # guard: alike-call-stream
                    break
                streams.last_id = last_id = stream_id
                unary[stream_id] = priority
            else:
                if aux or stream_id not in unary:  # guard: alike-reply
                    break
                del unary[stream_id]
            tensors = buffer[pos + body : pos + size]
            events.append(Message(stream_id, 0, flags, priority, aux, ext, meta, tensors, False))
            pos += size
        return pos

    def _bad_id(self, stream_id: int, seq: int) -> ProtocolError:
        expected = self._streams.last_id + 1
        return ProtocolError(
            ErrorCode.STREAM, f"OPEN of stream {stream_id}, seq {seq}; the next stream is {expected}, its first seq 0"
        )

    def _too_many(self, stream_id: int, events: list[Event]) -> None:
        text = f"{self._max_streams} streams are open, as many as one connection may have; wait for some to end"
        self._handler.refuse(stream_id, Refusal(Status.RESOURCE_EXHAUSTED, text), events)

    def _begin_open(self, header: Header, head: bytes, events: list[Event]) -> None:
        """Reserve memory for an OPEN with MORE, or refuse it."""
        _, _, priority, flags, stream_id, _, _, _, _, _ = header
        if len(self._streams) >= self._max_streams:
            self.rules.checked_extension(OPEN, head[: header[8]])
            self._too_many(stream_id, events)
            return
        self._streams.begin(stream_id, flags, priority)
        self._begin(header, head, OPEN, events)

    def _check_seq(self, stream: Stream, header: Header) -> None:
        stream_id, seq = header[4], header[5]
        if seq != stream.received:
            raise ProtocolError(
                ErrorCode.STREAM, f"stream {stream_id}: DATA has seq {seq}; the next message is {stream.received}"
            )
        if stream.state is not StreamState.OPEN and not self._streams.client:
            raise ProtocolError(ErrorCode.STREAM, f"stream {stream_id}: DATA after END_STREAM")

    def _data(self, stream: Stream, header: Header, at: int, events: list[Event]) -> bool:
        """Take a whole first frame on an open stream; returns whether its message goes on in chunks."""
        length, _, priority, flags, stream_id, seq, _, meta_len, ext_len, _ = header
        last = flags & END_STREAM
        client = self._streams.client
        place = CLIENT_DATA if not client else SERVER_LAST if last else SERVER_DATA
        head = self.buffer[at : at + ext_len + meta_len].tobytes()
        if flags & MORE:
            stream.received += 1
            if last and not client:
                self._streams.peer_acts(stream_id, stream, Action.LAST_MESSAGE)
            self._begin(header, head, place, events)
            return True
        pair = self.rules.heads[place].get(head)
        if pair is None or len(pair[0]) != ext_len:
            pair = self.rules.split_head(place, head, ext_len)
        ext, meta = pair
        stream.received += 1
        if client:
            action = Action.TERMINAL if last else Action.REPLY
        else:
            action = Action.LAST_MESSAGE if last else Action.MESSAGE
        self._streams.peer_acts(stream_id, stream, action)
        if client and last:
            self._handler.finished(stream_id)
        body = self.buffer[at + ext_len + meta_len : at + length]
        events.append(Message(stream_id, seq, flags, priority, 0, ext, meta, body, owned=False))
        return False

    def _late_data(self, header: Header, stream: Stream | None) -> None:
        """Drop DATA of a stream that this side has finished with, once its header is checked (SPEC 8.4).

        Other DATA comes here too, to be refused: no message of its stream is under way, so it has a message's caps.
        """
        length, _, _, flags, stream_id, _, aux, meta_len, ext_len, reserved = header
        client = self._streams.client
        if stream is None:
            late = not client and 0 < stream_id <= self._streams.last_id
        else:
            late = client or stream.state is not StreamState.CANCELLED
        if not late or meta_len or ext_len:
            check_message(header, self.rules.data_flags)
        elif length > max(self.chunk, INLINE_BODY):
            raise self._above_chunk(length)
        elif reserved or flags & ~self.rules.data_flags or aux:
            raise ProtocolError(ErrorCode.FRAME, "DATA: a field or flag that this type does not use is not zero")
        if stream is None:
            if not 0 < stream_id <= self._streams.last_id:
                raise ProtocolError(ErrorCode.STREAM, f"DATA on stream {stream_id}, which was never opened")
            if client:
                raise ProtocolError(ErrorCode.STREAM, f"DATA on stream {stream_id} after its terminal")
        elif stream.state is StreamState.CANCELLED:
            if not client:
                raise ProtocolError(ErrorCode.STREAM, f"DATA on stream {stream_id} after CANCEL")
            if flags == END_STREAM:
                self._streams.peer_acts(stream_id, stream, Action.TERMINAL)
        self.body_arrived(stream, length - meta_len - ext_len)
        if not client and length < MIN_CHUNK:  # a full chunk is paid for by its bytes
            self._handler.count_abuse()

    def abort_all(self, events: list[Event]) -> None:
        """Give up every unfinished message and the frame that has begun: the connection is over."""
        super().abort_all(events)
        self.closed = True
        self.tail = b""
        self.large = False
