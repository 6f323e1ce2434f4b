"""One direction of a captured connection that may be signed: frames, and from some point on records of frames.

Here lives what capture_splitter.py lacks: where records begin and end, and whether their tags are right, where the keys
are known (captured_handshake.py). Of a record its bytes are kept only where its tag is checked.
"""

from __future__ import annotations

from hmac import compare_digest
from typing import Final

from .capture_splitter import Piece, Record, Splitter
from .captured_handshake import BAD, GOOD, NOT_CAPTURED, NOT_CHECKED, Handshake
from .errors import ProtocolError
from .header import HEADER, MAX_FRAME, Buffer, FrameType
from .limits import MAX_CHUNK, PREFACE
from .records import CROSSES_RECORD, PREFIX_SIZE, RECORD_HEAD, check_record_size, check_together
from .resync import Resync, SearchBudget
from .signing import TAG_SIZE, Mac, RunningTag, holds_chunk

_PART: Final = 16384  # bytes that are searched at a time
_HANDSHAKE: Final = {FrameType.HELLO, FrameType.WELCOME, FrameType.AUTH}
_CROSSES: Final = f"FRAME: {CROSSES_RECORD}"


class SignedSplitter:
    """Takes the bytes of one direction in order and gives the pieces they make: of a record its frames, then itself.

    The pieces of a record come when its tag has come. Framing that is lost is found again (`Resync`); tags cannot be
    checked from there on, since nobody knows how many records went by. `lost`: why the bytes begin in the middle.
    """

    __slots__ = (
        "_budget", "_counter", "_epoch", "_frames", "_guessed", "_handshake", "_head", "_held", "_left", "_mac",
        "_nbytes", "_running", "_seek", "_signed", "_text",
    )  # fmt: skip

    def __init__(self, handshake: Handshake, lost: str = "") -> None:
        self._handshake = handshake
        self._epoch = handshake.epoch
        self._budget = SearchBudget()
        self._start()
        if lost:
            self._lose(lost)

    def _start(self) -> None:
        """Begin: bytes are frames."""
        self._frames = Splitter()
        self._signed = False  # bytes are records
        self._guessed = False  # which is known by their looks alone
        self._mac: Mac | None = None
        self._counter: int | None = 0  # None: not known
        self._seek: Resync | None = None  # while framing is lost
        self._next_record()

    def _next_record(self) -> None:
        self._head = bytearray()  # n, later the tag
        self._nbytes = self._left = 0
        self._held: list[Piece] = []  # of the record that arrives
        self._text: bytearray | None = None  # what its tag covers, as far as it must be kept
        self._running: RunningTag | None = None

    # ---- bytes in ----

    def feed(self, data: Buffer) -> list[Piece]:
        """Return the pieces that these bytes complete. They follow all earlier ones; a write may have begun here."""
        pieces: list[Piece] = []
        view = memoryview(data)
        self._budget.refill(len(view))
        if self._epoch != self._handshake.epoch:
            pieces += self.finish()
            self._epoch = self._handshake.epoch
            self._start()
        self._read(view, pieces, run=True)
        return pieces

    def skip(self, count: int) -> list[Piece]:
        """Pass over `count` bytes that are not in the capture."""
        pieces: list[Piece] = []
        self._end_search(pieces)
        if self._seek is not None:
            self._seek.skip(count)
        elif not self._signed:
            behind = self._frames.skip(count, pieces)
            if behind:
                self._lose(self._frames.broken, self._frames.head, behind)
        elif 0 < count <= self._left:  # a record can be followed across a gap; its tag cannot be checked
            self._frames.skip(count, self._held)
            self._left -= count
            self._cannot_check()
        else:
            pieces += self._cut_record()
            self._lose(f"{count} bytes are missing in the capture", b"", count)
        return pieces

    def finish(self) -> list[Piece]:
        """Return what is unfinished: no more bytes come."""
        pieces: list[Piece] = []
        self._end_search(pieces)
        if self._seek is not None:
            if self._seek.lost:
                self._report_lost(self._seek, pieces)
        elif self._signed:
            pieces += self._cut_record()
        else:
            pieces += self._frames.finish()
        return pieces

    def _read(self, view: memoryview, pieces: list[Piece], *, run: bool = False) -> None:
        """Use all of `view`. `run`: a write may have begun with it."""
        todo = [view]
        while todo:
            view = todo.pop()
            while view:
                if self._seek is not None:  # by parts: what was found is read before more is copied
                    part, view = view[:_PART], view[_PART:]
                    rest = self._seek.feed(part, run=run)
                    run = False
                    if rest is not None:
                        self._found(self._seek, pieces)
                        todo.append(view)
                        view = memoryview(rest)
                elif self._signed:
                    view = view[self._take(view, pieces) :]
                else:
                    view = view[self._take_frame(view, pieces) :]
                    if self._frames.broken:
                        todo.append(view)
                        view = memoryview(self._frames.head)
                        self._lose(self._frames.broken)

    def _end_search(self, pieces: list[Piece]) -> None:
        """Read what is found in the last bytes, which no others follow."""
        while self._seek is not None:
            rest = self._seek.finish()
            if rest is None:
                break
            self._found(self._seek, pieces)
            self._read(memoryview(rest), pieces)

    def _take_frame(self, view: memoryview, pieces: list[Piece]) -> int:
        """Use bytes of `view` as far as the end of the next preface or handshake frame; how many."""
        frames, at = self._frames, 0
        while at < len(view) and not frames.broken:
            head, count = frames.head, len(pieces)
            used = frames.take(view[at:], pieces)
            part, at = view[at : at + used], at + used
            if len(pieces) > count and (pieces[-1].header is None or pieces[-1].header[1] in _HANDSHAKE):
                pieces[-1] = self._see(pieces[-1], head + bytes(part))
                break
        return at

    # ---- frames before the seal ----

    def _see(self, piece: Piece, frame: bytes) -> Piece:
        """Look at a piece outside records; those of the handshake tell what comes."""
        if piece.header is None:
            if piece.body == PREFACE and not piece.problem:
                self._handshake.begin()
                self._epoch = self._handshake.epoch
                self._frames.strict = False
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
            self._frames.feed(part, self._held)
            self._left -= len(part)
            self._cover(part)
            return len(part)
        wanted = TAG_SIZE if self._nbytes else PREFIX_SIZE
        if not self._nbytes and self._head[:PREFIX_SIZE] == PREFACE[:PREFIX_SIZE]:
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
        elif self._head != PREFACE[:PREFIX_SIZE]:
            self._begin_record(pieces)
        return n

    def _begin_record(self, pieces: list[Piece]) -> None:
        nbytes = int.from_bytes(self._head[:PREFIX_SIZE], "little")
        try:
            check_record_size(nbytes, MAX_CHUNK)
        except ProtocolError as error:
            pieces += self._cut_record()
            self._lose(f"{error.code.name}: {error.message}", nbytes.to_bytes(PREFIX_SIZE, "little"))
            return
        self._nbytes = self._left = nbytes
        self._text = self._head if self._mac is not None else None
        self._head = bytearray()

    def _cover(self, part: memoryview) -> None:
        """Let bytes of the record count for its tag."""
        if self._running is not None:
            self._running.update(part)
            return
        text, mac = self._text, self._mac
        if text is None or mac is None:
            return
        need = max(RECORD_HEAD - len(text), 0)
        text += part[:need]
        if len(text) == RECORD_HEAD and need and holds_chunk(HEADER.unpack_from(text, PREFIX_SIZE), self._nbytes):
            self._running = mac.begin(bytes(text))
            self._running.update(part[need:])
        elif self._nbytes > MAX_FRAME and need and len(text) == RECORD_HEAD:
            self._cannot_check()
        else:
            text += part[need:]

    def _cannot_check(self) -> None:
        """Pass over the tag of a record of which something is not there."""
        if self._mac is not None and self._text is not None and self._running is None:
            self._mac.tag(b"", ())  # counts it
        self._text = None
        self._running = None

    def _end_record(self, pieces: list[Piece]) -> None:
        tag, check = bytes(self._head), NOT_CAPTURED if self._guessed else NOT_CHECKED
        if self._running is not None:
            check = GOOD if compare_digest(self._running.finish(), tag) else BAD
        elif self._text is not None and self._mac is not None:
            check = GOOD if compare_digest(self._mac.tag(bytes(self._text), ()), tag) else BAD
        problem = ""
        for piece in self._frames.finish():
            problem = _CROSSES
            self._held.append(piece._replace(cut=True))
        if self._frames.broken:
            problem = self._frames.broken if self._frames.gap else _CROSSES
            self._held.append(Piece(None, body=self._frames.head, problem=self._frames.broken, cut=True))
            self._frames = Splitter()
        first = next((piece.header for piece in self._held if piece.header is not None), None)
        if not problem and first is not None:
            try:
                check_together(self._nbytes, first)
            except ProtocolError as error:
                problem = f"{error.code.name}: {error.message}"
        pieces += self._held
        pieces.append(Piece(None, body=tag, problem=problem, check=check, record=Record(self._counter, self._nbytes)))
        self._counter = None if self._counter is None else self._counter + 1
        self._next_record()

    def _cut_record(self) -> list[Piece]:
        """Give what there is of the record that arrived in part; nothing behind it can be checked."""
        pieces = [piece._replace(cut=True) for piece in [*self._held, *self._frames.finish()]]
        if self._nbytes or self._head:
            have = (PREFIX_SIZE + self._nbytes - self._left if self._nbytes else 0) + len(self._head)
            text = f"cut off: {have} bytes of a record are in the capture"
            pieces.append(Piece(None, body=b"", problem=text, cut=True))
        self._mac = None
        self._counter = None
        self._frames = Splitter()
        self._next_record()
        return pieces

    # ---- framing lost and found ----

    def _lose(self, reason: str, start: bytes = b"", count: int = 0) -> None:
        """Begin a search: framing is lost with `start`, and `count` bytes that are not there."""
        seek = Resync(reason, frames=not self._signed, records=not self._handshake.plain, budget=self._budget)
        seek.lost, seek.lost_start = len(start) + count, start
        self._seek = seek

    def _found(self, seek: Resync, pieces: list[Piece]) -> None:
        """End the search: framing holds again."""
        self._report_lost(seek, pieces)
        self._seek = None
        if seek.signed:
            self._cut_record()
            self._guessed = not self._handshake.mac
            self._signed = True
        elif not self._signed:
            self._frames = Splitter(strict=not self._handshake.plain)

    def _report_lost(self, seek: Resync, pieces: list[Piece]) -> None:
        text, what = seek.reason, "records" if self._signed else "frames"
        if seek.lost:
            text += f"; {seek.lost} bytes could not be read as {what}"
        pieces.append(Piece(None, body=seek.lost_start, problem=text))


__all__ = ["SignedSplitter"]
