"""One direction of a captured connection that may be signed: frames, and from some point on records of frames.

Here lives what splitter.py lacks: where records begin and end, and whether their tags are right, where the keys are
known (captured_handshake.py). Of a record its bytes are kept only where its tag is checked.
"""

from __future__ import annotations

from hmac import compare_digest
from typing import Final

from .captured_handshake import BAD, GOOD, NOT_CHECKED, Handshake
from .header import HEADER, HEADER_SIZE, Header
from .limits import INLINE_BODY, MAX_CHUNK, MAX_EXTENSION, MAX_METADATA, PREFACE
from .records import Buffer
from .signing import TAG_SIZE, Mac, RunningTag, holds_chunk
from .splitter import Piece, Record, Splitter, header_problem

_PREFIX: Final = 4
_HEAD: Final = _PREFIX + HEADER_SIZE
_BATCH: Final = 65536
_LARGEST: Final = HEADER_SIZE + MAX_EXTENSION + MAX_METADATA + INLINE_BODY  # bytes of a frame that is no chunk
_MOST: Final = HEADER_SIZE + MAX_CHUNK


class SignedSplitter:
    """Takes the bytes of one direction in order and gives the pieces they make: of a record its frames, then itself.

    The pieces of a record come when its tag has come. Framing that is lost is found again as in `Splitter`; tags cannot
    be checked from there on, since nobody knows how many records went by.
    """

    __slots__ = (
        "_counter", "_epoch", "_frames", "_handshake", "_head", "_held", "_left", "_lost", "_lost_start", "_mac",
        "_nbytes", "_reason", "_running", "_signed", "_text",
    )  # fmt: skip

    def __init__(self, handshake: Handshake, lost: str = "") -> None:
        self._handshake = handshake
        self._epoch = handshake.epoch
        self._start(lost)

    def _start(self, lost: str = "") -> None:
        """Bytes are frames."""
        self._frames = Splitter(lost)
        self._signed = False
        self._mac: Mac | None = None
        self._counter: int | None = 0  # None: not known
        self._reason = ""
        self._lost = 0
        self._lost_start = b""
        self._next_record()

    def _next_record(self) -> None:
        self._head = bytearray()  # n, later the tag
        self._nbytes = self._left = 0
        self._held: list[Piece] = []  # of the record that arrives
        self._text: bytearray | None = None  # what its tag covers, as far as it must be kept
        self._running: RunningTag | None = None

    # ---- bytes in ----

    def feed(self, data: Buffer) -> list[Piece]:
        """The pieces that these bytes complete. They follow all earlier ones, and a write may have begun here."""
        pieces: list[Piece] = []
        view = memoryview(data)
        if self._epoch != self._handshake.epoch:
            pieces += self.finish()
            self._epoch = self._handshake.epoch
            self._start()
        if self._reason and not self._found_again(view, pieces):
            self._lose(view)
            return pieces
        while view:
            if self._signed:
                view = view[self._take(view, pieces) :]
                if self._reason:
                    self._lose(view)
                    break
            else:
                view = view[self._frames.feed_until(view, pieces, self._see) :]
        return pieces

    def skip(self, count: int) -> list[Piece]:
        """The next `count` bytes are not in the capture."""
        if not self._signed:
            return self._frames.skip(count)
        if self._reason:
            self._lost += count
            return []
        if 0 < count <= self._left:  # a record can be followed across a gap; its tag cannot be checked
            self._held += self._frames.skip(count)
            self._left -= count
            self._cannot_check()
            return []
        pieces = self._cut_record()
        self._reason = f"{count} bytes are missing in the capture"
        self._lost = count
        return pieces

    def finish(self) -> list[Piece]:
        """No more bytes come: what is unfinished."""
        if not self._signed:
            return self._frames.finish()
        pieces = self._cut_record()
        if self._lost:
            self._report_lost(pieces)
        return pieces

    # ---- frames before the seal ----

    def _see(self, piece: Piece, frame: bytes) -> Piece:
        """A piece outside records; those of the handshake tell what comes."""
        if piece.header is None:
            if piece.body == PREFACE and not piece.problem:
                self._handshake.begin()
                self._epoch = self._handshake.epoch
            return piece
        check, label = self._handshake.see(piece, frame)
        if label:
            self._signed = True
            self._mac = self._handshake.mac_of(label)
            self._frames = Splitter()
        return piece._replace(check=check)

    # ---- records ----

    def _take(self, view: memoryview, pieces: list[Piece]) -> int:
        """Use bytes of `view` for the record that arrives; how many."""
        if self._left:
            part = view[: self._left]
            self._held += self._frames.feed(part)
            self._left -= len(part)
            self._cover(part)
            return len(part)
        wanted = TAG_SIZE if self._nbytes else _PREFIX
        if not self._nbytes and self._head[:_PREFIX] == PREFACE[:_PREFIX]:
            wanted = len(PREFACE)
        n = min(wanted - len(self._head), len(view))
        self._head += view[:n]
        if len(self._head) < wanted:
            return n
        if self._nbytes:
            self._end_record(pieces)
        elif self._head == PREFACE:  # the owner of a capture has connected again
            self._start()
            pieces.append(self._see(Piece(None, body=PREFACE), b""))
        elif self._head != PREFACE[:_PREFIX]:
            self._begin_record(pieces)
        return n

    def _begin_record(self, pieces: list[Piece]) -> None:
        nbytes = int.from_bytes(self._head[:_PREFIX], "little")
        if not HEADER_SIZE <= nbytes <= _MOST:
            code = "FRAME" if nbytes < HEADER_SIZE else "TOO_LARGE"
            pieces += self._cut_record()
            self._reason = f"{code}: a record of {nbytes} bytes"
            self._lost, self._lost_start = _PREFIX, nbytes.to_bytes(_PREFIX, "little")
            return
        self._nbytes = self._left = nbytes
        self._text = self._head if self._mac is not None else None
        self._head = bytearray()

    def _cover(self, part: memoryview) -> None:
        """Bytes of the record for its tag."""
        if self._running is not None:
            self._running.update(part)
            return
        text, mac = self._text, self._mac
        if text is None or mac is None:
            return
        need = max(_HEAD - len(text), 0)
        text += part[:need]
        if len(text) == _HEAD and need and holds_chunk(HEADER.unpack_from(text, _PREFIX), self._nbytes):
            self._running = mac.begin(bytes(text))
            self._running.update(part[need:])
        elif self._nbytes > _LARGEST and need and len(text) == _HEAD:
            self._cannot_check()
        else:
            text += part[need:]

    def _cannot_check(self) -> None:
        """Something of the record is not there: its tag is passed over."""
        if self._mac is not None and self._text is not None and self._running is None:
            self._mac.tag(b"", ())  # counts it
        self._text = None
        self._running = None

    def _end_record(self, pieces: list[Piece]) -> None:
        tag, check = bytes(self._head), NOT_CHECKED
        if self._running is not None:
            check = GOOD if compare_digest(self._running.finish(), tag) else BAD
        elif self._text is not None and self._mac is not None:
            check = GOOD if compare_digest(self._mac.tag(bytes(self._text), ()), tag) else BAD
        problem = ""
        for piece in self._frames.finish():
            problem = "FRAME: a frame does not end where its record ends"
            self._held.append(piece._replace(cut=True))
        first = next((piece.header for piece in self._held if piece.header is not None), None)
        if not problem and self._nbytes > _BATCH and first is not None and first[0] != self._nbytes - HEADER_SIZE:
            problem = f"TOO_LARGE: several frames in a record of {self._nbytes} bytes"
        pieces += self._held
        pieces.append(Piece(None, body=tag, problem=problem, check=check, record=Record(self._counter, self._nbytes)))
        self._counter = None if self._counter is None else self._counter + 1
        self._next_record()

    def _cut_record(self) -> list[Piece]:
        """What there is of the record that arrived in part; nothing behind it can be checked."""
        pieces = [piece._replace(cut=True) for piece in [*self._held, *self._frames.finish()]]
        if self._nbytes or self._head:
            have = (_PREFIX + self._nbytes - self._left if self._nbytes else 0) + len(self._head)
            text = f"cut off: {have} bytes of a record are in the capture"
            pieces.append(Piece(None, body=b"", problem=text, cut=True))
        self._mac = None
        self._counter = None
        self._frames = Splitter()
        self._next_record()
        return pieces

    # ---- framing lost and found ----

    def _lose(self, view: memoryview) -> None:
        if not self._lost_start:
            self._lost_start = bytes(view[:HEADER_SIZE])
        self._lost += len(view)

    def _found_again(self, view: memoryview, pieces: list[Piece]) -> bool:
        if bytes(view[: len(PREFACE)]) != PREFACE and not _record_begins(view):
            return False
        self._report_lost(pieces)
        return True

    def _report_lost(self, pieces: list[Piece]) -> None:
        text = f"{self._reason}; {self._lost} bytes could not be read as records" if self._lost else self._reason
        pieces.append(Piece(None, body=self._lost_start, problem=text))
        self._reason, self._lost, self._lost_start = "", 0, b""


def _record_begins(view: memoryview) -> bool:
    """Whether these bytes may be a record: a possible n, and a header that is right in every field and fits in it."""
    if len(view) < _HEAD:
        return False
    nbytes = int.from_bytes(view[:_PREFIX], "little")
    header: Header = HEADER.unpack_from(view, _PREFIX)
    return HEADER_SIZE + header[0] <= nbytes <= _MOST and not header_problem(header)


__all__ = ["SignedSplitter"]
