"""Records in, verified spans out: the receiving side of signing (SPEC 11.2, 11.5 and 21).

Nothing of a record is acted on before its tag has passed; then the span of its frames goes to the connection's Reader.
One look is taken before: at the header of a chunk of a message under way, whose bytes then go straight from the socket
into the message's own memory, where they count for nothing until the tag, which comes last, is right. It stands below
the Reader once a MAC was agreed on.
"""

from __future__ import annotations

from hmac import compare_digest
from typing import Final

from .assembly import Incoming, Input
from .errors import ErrorCode, ProtocolError
from .events import Event
from .header import HEADER, MAX_FRAME, MORE, Buffer, Header
from .reader import Reader
from .records import BETWEEN_CHUNKS, PREFIX, PREFIX_SIZE, RECORD_HEAD, check_record_size, check_together
from .signing import TAG_SIZE, Mac, RunningTag, holds_chunk

_unpack_from = HEADER.unpack_from
_NO_CHUNK: Final[tuple[Buffer, ...]] = ()


class RecordReader(Input):
    """Cuts bytes into records with tags of `mac`, checks them, and hands what they hold to `reader`.

    _prefix: n and header of the chunk that is coming in. _chunk_start: where its bytes begin in its message. _running:
    its tag, where nobody keeps its bytes; _skip: how many are still to come then. _tag_due: all of it is there, but for
    the tag. _head: bytes that stood before the last large message's first chunk. _large: what came last has chunks.
    """

    __slots__ = (
        "_buffer", "_chunk_start", "_head", "_large", "_mac", "_prefix", "_reader", "_running", "_skip", "_start",
        "_tag_due",
    )  # fmt: skip

    def __init__(self, reader: Reader, mac: Mac) -> None:
        super().__init__()
        self._reader = reader
        self._buffer = reader.buffer
        self._mac = mac
        self._running: RunningTag | None = None
        self._prefix = b""
        self._chunk_start = 0
        self._start = 0
        self._skip = 0
        self._head = RECORD_HEAD
        self._large = False
        self._tag_due = False
        reader.halt = True

    def begin(self, events: list[Event]) -> None:
        """Take the bytes that came behind the last frame before the records; raises ProtocolError."""
        reader = self._reader
        rest, reader.tail = reader.tail, b""
        reader.halt = False
        self._buffer[: len(rest)] = rest
        self._records(len(rest), events)

    @property
    def partial(self) -> bool:
        """Whether the bytes so far end within a record or a message."""
        return bool(self.tail or self._skip or self._tag_due or self._reader.partial)

    @property
    def exact(self) -> bool:
        """Whether the peer owes every byte of `next_buffer`: of a chunk, and what stands before the next."""
        return self._reader.current is not None and not self._tag_due

    # ---- where bytes go ----

    def next_buffer(self) -> memoryview:
        """Return writable memory for the next read; calling again before `received` gives the same place."""
        reader = self._reader
        current = reader.current
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
            return self._buffer[start : TAG_SIZE + (RECORD_HEAD if reader.assembling else self._head)]
        if self._large and not self._skip:
            if start < RECORD_HEAD:
                return self._buffer[start : RECORD_HEAD if reader.assembling else self._head]
            nbytes: int = PREFIX.unpack_from(tail)[0]
            if _unpack_from(tail, PREFIX_SIZE)[3] & MORE and nbytes <= MAX_FRAME:
                return self._buffer[start : PREFIX_SIZE + nbytes + BETWEEN_CHUNKS]
            self._large = False
        return self._buffer[start:] if start else self._buffer

    def received(self, n: int, events: list[Event]) -> None:
        """Take `n` bytes written to the memory of `next_buffer`; raises ProtocolError."""
        reader = self._reader
        current = reader.current
        if current is not None and not self._tag_due:
            end = max(0, n - current.chunk_left)
            reader.fill(current, n - end)
            current.chunk_left -= n - end
            self._tag_due = current.chunk_left == 0
            if end:
                self._buffer[:end] = current.view[current.filled : current.filled + end]
        else:
            end = self._start + n
            self._start = 0
        self.tail = b""
        reader.flush_deferred(events)
        if current is not None and current.aborted:
            self._drop_rest(current, events)
        self._records(end, events)

    # ---- records ----

    def _records(self, end: int, events: list[Event]) -> None:
        """Read what lies in the buffer up to `end`: the rest of a chunk, its tag, records; raises ProtocolError."""
        buffer, mac, reader = self._buffer, self._mac, self._reader
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
                if end - pos >= PREFIX_SIZE:
                    check_record_size(PREFIX.unpack_from(buffer, pos)[0], reader.chunk)
                break
            nbytes: int = PREFIX.unpack_from(buffer, pos)[0]
            check_record_size(nbytes, reader.chunk)
            header = _unpack_from(buffer, pos + PREFIX_SIZE)
            stop = pos + PREFIX_SIZE + nbytes
            chunk = holds_chunk(header, nbytes)
            if stop + TAG_SIZE <= end:
                if chunk:
                    tag = mac.tag(buffer[pos : pos + RECORD_HEAD], (buffer[pos + RECORD_HEAD : stop],))
                else:
                    tag = mac.tag(buffer[pos:stop], _NO_CHUNK)
                if not compare_digest(tag, buffer[stop : stop + TAG_SIZE]):  # guard: record-tag
                    raise _wrong_tag()
                check_together(nbytes, header)
                reader.parse_whole(pos + PREFIX_SIZE, stop, events)
                if reader.closed:  # guard: after-close
                    return
                self._large = reader.large
                if self._large:
                    self._head = PREFIX_SIZE + nbytes + BETWEEN_CHUNKS
                pos = stop + TAG_SIZE
            elif chunk and not reader.is_message(header):  # guard: message-as-chunk
                pos = self._begin_chunk(header, pos, end)
            elif nbytes > MAX_FRAME:
                raise ProtocolError(
                    ErrorCode.TOO_LARGE, f"record of {nbytes} bytes that is no chunk; at most {MAX_FRAME}"
                )
            else:
                break
        if pos < end:
            self.tail = buffer[pos:end].tobytes()

    def _begin_chunk(self, header: Header, pos: int, end: int) -> int:
        """Put a chunk that is not all there into its message's memory, or nowhere; returns where its bytes end."""
        reader, length = self._reader, header[0]
        incoming = reader.chunk_of(header)
        self._prefix = self._buffer[pos : pos + RECORD_HEAD].tobytes()
        pos += RECORD_HEAD
        if incoming is None:  # judged once its tag has passed
            self._running = self._mac.begin(self._prefix)
            self._skip = length
            return pos
        here = min(length, end - pos)
        filled = incoming.filled
        incoming.view[filled : filled + here] = self._buffer[pos : pos + here]
        self._chunk_start = filled
        reader.fill(incoming, here)
        incoming.chunk_left = length - here
        self._tag_due = here == length
        reader.current = incoming
        self._large = True
        return pos + here

    def _pass_over(self, pos: int, end: int) -> int:
        """Let bytes of a chunk that nobody keeps count for its tag only."""
        here = min(self._skip, end - pos)
        if self._running is not None:
            self._running.update(self._buffer[pos : pos + here])
        self._skip -= here
        self._tag_due = self._skip == 0
        return pos + here

    def _check_chunk_tag(self, tag: memoryview, events: list[Event]) -> None:
        """Check the tag of a chunk that came in pieces: only now its bytes count."""
        running, self._running = self._running, None
        current = self._reader.current
        self._tag_due = False
        if running is not None:
            if not compare_digest(running.finish(), tag):  # guard: unwanted-tag
                raise _wrong_tag()
            if self._prefix:
                self._reader.late_chunk_verified(_unpack_from(self._prefix, PREFIX_SIZE))
        elif current is not None:
            chunk = current.view[self._chunk_start : current.filled]
            if not compare_digest(self._mac.tag(self._prefix, (chunk,)), tag):  # guard: body-tag
                raise _wrong_tag()
            self._reader.chunk_verified(current, events)

    def _drop_rest(self, current: Incoming, events: list[Event]) -> None:
        """Give back the memory of a message that nobody wants any more; the tag of its chunk goes on."""
        self._running = self._mac.begin(self._prefix)
        self._running.update(current.view[self._chunk_start : current.filled])
        self._prefix = b""  # its header was judged as it came
        self._skip = self._reader.release(current, events)

    def abort_all(self, events: list[Event]) -> None:
        """Give up every unfinished message and the record that has begun: the connection is over."""
        self._reader.abort_all(events)
        self.tail = b""
        self._skip = 0
        self._large = False
        self._tag_due = False
        self._running = None


def _wrong_tag() -> ProtocolError:
    return ProtocolError(
        ErrorCode.AUTHENTICATION,
        "a record's tag is wrong: its bytes were changed, lost, repeated or put in another order",
    )
