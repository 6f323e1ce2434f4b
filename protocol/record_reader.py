"""Records in, frames out: the receiving side of signing (SPEC 11.2, 11.5 and 21).

Nothing of a record is acted on before its tag has passed. One look is taken before: at the header of a chunk of a
message under way, whose bytes then go straight from the socket into the message's own memory, where they count for
nothing until the tag, which comes last, is right. It follows on the connection's `Reader` once a MAC was agreed on.
"""
# ruff: noqa: SLF001 - it takes over what the Reader has

from __future__ import annotations

from hmac import compare_digest
from typing import Final

from .assembly import Incoming
from .errors import ErrorCode, ProtocolError
from .events import Event, MessageAborted
from .header import HEADER, HEADER_SIZE, MAX_FRAME, MORE, Buffer, Header
from .limits import INLINE_BODY, RECORD_BATCH
from .reader import Reader
from .records import BETWEEN_CHUNKS, PREFIX, RECORD_HEAD
from .signing import TAG_SIZE, Mac, RunningTag, holds_chunk
from .states import StreamState

_unpack_from = HEADER.unpack_from
_NO_CHUNK: Final[tuple[Buffer, ...]] = ()


class RecordReader(Reader):
    """A Reader whose bytes come in records, with tags of `mac`.

    _text: n and header of the chunk that is coming in. _from: where its bytes begin in its message. _running: its tag,
    where nobody keeps its bytes. _tag_due: all of it is there, but for the tag. _over: nothing more may be read.
    """

    __slots__ = ("_from", "_mac", "_over", "_running", "_tag_due", "_text")

    def __init__(self, plain: Reader, mac: Mac) -> None:
        """What reads behind the last frame of `plain`."""
        super().__init__(
            plain._handler,
            plain._streams,
            plain._buffer,
            plain._reserve,
            plain._max_streams,
            plain._max_message,
            plain.rules,
        )
        plain.halt = True
        self.chunk = plain.chunk
        self._head = RECORD_HEAD
        self._mac = mac
        self._running: RunningTag | None = None
        self._text = b""
        self._from = 0
        self._tag_due = False
        self._over = False

    def begin(self, rest: bytes, events: list[Event]) -> None:
        """Take the bytes that came behind the last frame before the records; raises ProtocolError."""
        self._buffer[: len(rest)] = rest
        self._records(len(rest), events)

    @property
    def partial(self) -> bool:
        """Whether the bytes so far end within a record or a message."""
        return bool(self.tail or self._skip or self._incoming or self._current is not None or self._tag_due)

    @property
    def exact(self) -> bool:
        """Whether the peer owes every byte of `next_buffer`: of a chunk, and what stands before the next."""
        return self._current is not None and not self._tag_due

    # ---- where bytes go ----

    def next_buffer(self) -> memoryview:
        """Writable memory for the next read; calling again before `received` gives the same place."""
        current = self._current
        if current is not None and not self._tag_due:
            stop = current.filled + current.chunk_left
            if stop + BETWEEN_CHUNKS <= current.total:
                stop += BETWEEN_CHUNKS  # tag and the next record's head, to be overwritten by the bytes it announces
            return current.view[current.filled : stop]
        tail = self.tail
        self._start = start = len(tail)
        if start:
            self._buffer[:start] = tail
        if self._tag_due:
            return self._buffer[start : TAG_SIZE + (RECORD_HEAD if self._incoming else self._head)]
        if self._large and not self._skip:
            if start < RECORD_HEAD:
                return self._buffer[start : RECORD_HEAD if self._incoming else self._head]
            nbytes: int = PREFIX.unpack_from(tail)[0]
            if _unpack_from(tail, 4)[3] & MORE and nbytes <= MAX_FRAME:
                return self._buffer[start : 4 + nbytes + BETWEEN_CHUNKS]
            self._large = False
        return self._buffer[start:] if start else self._buffer

    def received(self, n: int, events: list[Event]) -> None:
        """Take `n` bytes written to the memory of `next_buffer`; raises ProtocolError."""
        current = self._current
        if current is not None and not self._tag_due:
            left = current.chunk_left
            end = max(0, n - left)
            current.filled += n - end
            current.chunk_left = left - (n - end)
            self._tag_due = current.chunk_left == 0
            if end:
                self._buffer[:end] = current.view[current.filled : current.filled + end]
        else:
            end = self._start + n
            self._start = 0
        self.tail = b""
        if self.deferred:
            events += self.deferred
            self.deferred.clear()
        if current is not None and current.aborted:
            self._let_go(current, events)
        self._records(end, events)

    # ---- records ----

    def _records(self, end: int, events: list[Event]) -> None:
        """What lies in the buffer up to `end`: the rest of a chunk, its tag, records; raises ProtocolError."""
        buffer, mac = self._buffer, self._mac
        pos = 0
        while True:
            if self._skip:
                pos = self._pass_over(pos, end)
            if self._tag_due:
                if end - pos < TAG_SIZE:
                    break
                self._check_chunk_tag(buffer[pos : pos + TAG_SIZE], events)
                pos += TAG_SIZE
            if end - pos < RECORD_HEAD:
                if end - pos >= 4:
                    self._check_size(PREFIX.unpack_from(buffer, pos)[0])
                break
            nbytes: int = PREFIX.unpack_from(buffer, pos)[0]
            self._check_size(nbytes)
            header = _unpack_from(buffer, pos + 4)
            stop = pos + 4 + nbytes
            chunk = holds_chunk(header, nbytes)
            if stop + TAG_SIZE <= end:
                if chunk:
                    tag = mac.tag(buffer[pos : pos + RECORD_HEAD], (buffer[pos + RECORD_HEAD : stop],))
                else:
                    tag = mac.tag(buffer[pos:stop], _NO_CHUNK)
                if not compare_digest(tag, buffer[stop : stop + TAG_SIZE]):
                    raise _wrong_tag()
                if nbytes > RECORD_BATCH and header[0] != nbytes - HEADER_SIZE:
                    raise ProtocolError(
                        ErrorCode.TOO_LARGE,
                        f"record of {nbytes} bytes of several frames; at most {RECORD_BATCH} together",
                    )
                parsed = self._frames(pos + 4, stop, events)
                if self._over:
                    return
                if parsed != stop or self._current is not None or self._skip:
                    raise ProtocolError(ErrorCode.FRAME, "a frame does not end where its record ends")
                if self._large:
                    self._head = 4 + nbytes + BETWEEN_CHUNKS
                pos = stop + TAG_SIZE
            elif chunk and not self._is_message(header):
                pos = self._begin_chunk(header, pos, end)
            elif nbytes > MAX_FRAME:
                raise ProtocolError(
                    ErrorCode.TOO_LARGE, f"record of {nbytes} bytes that is no chunk; at most {MAX_FRAME}"
                )
            else:
                break
        if pos < end:
            self.tail = buffer[pos:end].tobytes()

    def _check_size(self, nbytes: int) -> None:
        if nbytes < HEADER_SIZE:
            raise ProtocolError(ErrorCode.FRAME, f"record of {nbytes} bytes; a frame has {HEADER_SIZE} at least")
        if nbytes > max(MAX_FRAME, HEADER_SIZE + self.chunk):
            raise ProtocolError(
                ErrorCode.TOO_LARGE, f"record of {nbytes} bytes; at most {max(MAX_FRAME, HEADER_SIZE + self.chunk)}"
            )

    def _is_message(self, header: Header) -> bool:
        """Whether this header of a chunk is that of a whole message: its stream waits for one, and for no chunk."""
        stream_id = header[4]
        if stream_id in self._incoming:
            return False
        stream = self._open.get(stream_id)
        return stream_id in self._unary if stream is None else stream.state < StreamState.CANCELLED

    def _begin_chunk(self, header: Header, pos: int, end: int) -> int:
        """A chunk that is not all there: to its message's memory, or nowhere; returns where its bytes so far end."""
        length = header[0]
        incoming = self._incoming.get(header[4])
        if incoming is not None:
            self._check_chunk(incoming, header)
        elif length > max(self.chunk, INLINE_BODY):  # a chunk or a message: nobody knows any more (SPEC 8.4)
            raise ProtocolError(ErrorCode.TOO_LARGE, f"chunk of {length} bytes; at most {self.chunk} were agreed")
        self._text = self._buffer[pos : pos + RECORD_HEAD].tobytes()
        pos += RECORD_HEAD
        if incoming is None:  # of a stream that this side has finished with: judged once its tag has passed
            self._running = self._mac.begin(self._text)
            self._skip = length
            return pos
        here = min(length, end - pos)
        filled = incoming.filled
        incoming.view[filled : filled + here] = self._buffer[pos : pos + here]
        self._from = filled
        incoming.filled = filled + here
        incoming.chunk_left = length - here
        self._tag_due = here == length
        self._current = incoming
        self._large = True
        return pos + here

    def _pass_over(self, pos: int, end: int) -> int:
        """Bytes of a chunk that nobody keeps: they count for its tag only."""
        here = min(self._skip, end - pos)
        if self._running is not None:
            self._running.update(self._buffer[pos : pos + here])
        self._skip -= here
        self._tag_due = self._skip == 0
        return pos + here

    def _check_chunk_tag(self, tag: memoryview, events: list[Event]) -> None:
        """The tag of a chunk that came in pieces: only now its bytes count."""
        running, current = self._running, self._current
        self._tag_due = False
        self._running = self._current = None
        if running is not None:
            if not compare_digest(running.finish(), tag):
                raise _wrong_tag()
            if self._text:
                header = _unpack_from(self._text, 4)
                self._late_data(header, self._streams.get(header[4]))
        elif current is not None:
            chunk = current.view[self._from : current.filled]
            if not compare_digest(self._mac.tag(self._text, (chunk,)), tag):
                self._current = current  # its memory is given back with the connection
                raise _wrong_tag()
            if current.filled == current.total:
                self._complete(current, events)

    def _let_go(self, current: Incoming, events: list[Event]) -> None:
        """Nobody wants the message whose chunk is coming in any more: its memory goes back, the tag goes on."""
        self._running = self._mac.begin(self._text)
        self._running.update(current.view[self._from : current.filled])
        self._text = b""  # its header was judged as it came
        self._skip = current.chunk_left
        self._current = None
        events.append(MessageAborted(current.stream_id))

    def abort_all(self, events: list[Event]) -> None:
        """Give up every unfinished message and the record that has begun: the connection is over."""
        super().abort_all(events)
        self._over = True
        self._tag_due = False
        self._running = None


def _wrong_tag() -> ProtocolError:
    return ProtocolError(
        ErrorCode.AUTHENTICATION,
        "a record's tag is wrong: its bytes were changed, lost, repeated or put in another order",
    )
