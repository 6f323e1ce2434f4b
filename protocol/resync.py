"""Where frames or records begin again in bytes whose framing is lost (SPEC 3.2 and 11.2).

Here lives the search, for what reads captures: a record is looked for at every byte, a frame where a run of bytes
begins, since senders write whole frames. What is found is plausible, not proven. Work grows with the bytes and no
faster, whatever they say, and no more is kept than the greatest record of several frames.
"""

from __future__ import annotations

import re
from collections import deque
from typing import Final

from .capture_splitter import header_problem
from .errors import ProtocolError
from .extension import parse_extension
from .header import DATA, HEADER, HEADER_SIZE, OPEN, Header
from .limits import MAX_CHUNK, PREFACE, RECORD_BATCH
from .records import PREFIX, PREFIX_SIZE, RECORD_HEAD
from .signing import TAG_SIZE

_LEAST_METADATA: Final = 8
_IDENTIFIER: Final = b"TWM1"  # of a FlatBuffer's metadata, behind its first 4 bytes (SPEC 18.1)
_unpack = HEADER.unpack_from
# What every record's n and first header have: the bytes that cannot be anything but small.
_CANDIDATE: Final = re.compile(
    rb"(?=..[\x00-\x10]\x00"  # n
    rb"..[\x00-\x10]\x00[\x01-\x08\x0b-\x0d\x0f].[\x00-\x3f]\x00"  # length, type, priority, flags
    rb".{16}..[\x00\x01]\x00.[\x00-\x04]\x00\x00)",  # stream_id, seq, aux; meta_len, ext_len, reserved
    re.DOTALL,
)
_BUDGET: Final = 4096  # headers behind the first of a record that are looked at: two records of the most frames
_BYTES_PER_STEP: Final = 32  # bytes that give one more


class SearchBudget:
    """Headers behind the first of a record that all searches in one direction may still look at."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = _BUDGET

    def refill(self, nbytes: int) -> None:
        """Give what these bytes, which have arrived, are worth."""
        self.left += max(nbytes // _BYTES_PER_STEP, 1)


class Resync:
    """Takes bytes and finds the first place where framing holds again. Then it is of no more use.

    frames, records: which of the two may begin. budget: the owner refills it. signed: whether records begin at the
    place. lost, lost_start: the bytes before.
    """

    __slots__ = (
        "_at",
        "_budget",
        "_frames",
        "_from",
        "_need",
        "_over",
        "_pos",
        "_records",
        "_starts",
        "_window",
        "lost",
        "lost_start",
        "reason",
        "signed",
    )  # fmt: skip

    def __init__(self, reason: str, *, frames: bool, records: bool, budget: SearchBudget) -> None:
        self.reason = reason
        self._budget = budget
        self.signed = False
        self.lost = 0
        self.lost_start = b""
        self._frames = frames
        self._records = records
        self._window = bytearray()  # bytes that may still be something
        self._starts: deque[int] = deque()  # places in it where runs begin
        self._from = 0  # in it: no record begins before
        self._at = -1  # a record may begin here, -1 if none may
        self._pos = 0  # the next of its headers to look at
        self._need = 0  # bytes of the window without which nothing more can be said
        self._over = False

    def feed(self, data: memoryview, *, run: bool = True) -> bytes | None:
        """Return what follows from the place on, None until it is found. `run`: a write may have begun with `data`."""
        if run and bytes(data[: len(PREFACE)]) == PREFACE:
            self._drop(len(self._window))
            self._records = self.signed = False
            return bytes(data)
        if self._frames and run and len(data) >= HEADER_SIZE:
            self._starts.append(len(self._window))
        self._window += data
        if len(self._window) < self._need:
            return None
        place = self._search()
        if place < 0:
            self._trim()
            return None
        self._drop(place)
        return bytes(self._window)

    def skip(self, count: int) -> None:
        """Pass over `count` bytes, behind the last ones, that are not in the capture."""
        self.lost += count

    def finish(self) -> bytes | None:
        """Return what is found in the last bytes, which no others follow."""
        self._over = True
        place = self._search()
        self._over = False
        self._drop(len(self._window) if place < 0 else place)
        if place >= 0:
            return bytes(self._window)
        self._at, self._from, self._need = -1, 0, 0
        self._starts.clear()
        return None

    # ---- the search ----

    def _search(self) -> int:
        """Find where in the window framing holds, -1 if that is not known yet."""
        while True:
            if self._at < 0:
                found = _CANDIDATE.search(self._window, self._from) if self._records else None
                limit = len(self._window) if found is None else found.start()
                while self._starts and self._starts[0] < limit:
                    start = self._starts.popleft()
                    if self._frame_begins(start):
                        return start
                if found is None:
                    self._from = max(self._from, len(self._window) - RECORD_HEAD + 1)
                    return -1
                self._at = found.start()
                self._pos = self._at + PREFIX_SIZE
            verdict = self._record_begins()
            if verdict is None and self._over:
                verdict = self._is_whole()
            if verdict is None:
                return -1
            if verdict:
                self.signed = True
                return self._at
            self._from = self._at + 1
            self._at, self._need = -1, 0

    def _frame_begins(self, at: int) -> bool:
        header = _unpack(self._window, at)
        return plausible(header) and self._content_holds(at, header)

    def _content_holds(self, at: int, header: Header) -> bool:
        """Tell whether extension and metadata of a frame are what they must be, as far as they are there."""
        ext_len, meta_len = header[8], header[7]
        meta_at = at + HEADER_SIZE + ext_len
        if ext_len and len(self._window) >= meta_at:
            try:
                parse_extension(bytes(self._window[at + HEADER_SIZE : meta_at]))
            except ProtocolError:
                return False
        named = header[1] in {OPEN, DATA} and meta_len and len(self._window) >= meta_at + _LEAST_METADATA
        return not named or self._window[meta_at + 4 : meta_at + _LEAST_METADATA] == _IDENTIFIER

    def _record_begins(self) -> bool | None:
        """Tell whether the candidate is a record; None while more bytes must come.

        Its frames fill it, and behind its tag nothing has come yet or another record begins. One that is too large to
        be kept is judged by its head: its frame fills it.
        """
        at, window = self._at, self._window
        nbytes = self._nbytes(at)
        stop = at + PREFIX_SIZE + nbytes
        if nbytes > RECORD_BATCH:
            return head_begins_record(window, at)
        while self._pos < stop:
            pos = self._pos
            if stop - pos < HEADER_SIZE:
                return False
            if not self._have(pos + HEADER_SIZE):
                return None
            header = _unpack(window, pos)
            if pos + HEADER_SIZE + header[0] > stop or not plausible(header):
                return False
            if not self._have(pos + HEADER_SIZE + header[8] + min(header[7], _LEAST_METADATA)):
                return None
            if not self._content_holds(pos, header):
                return False
            if pos > at + PREFIX_SIZE:
                if self._budget.left <= 0:  # guard: capture-walks
                    return False
                self._budget.left -= 1
            self._pos = pos + HEADER_SIZE + header[0]
        end = self._end(at)
        if len(window) == end:
            return True
        if not self._have(end + RECORD_HEAD if len(window) > end else end):
            return None
        return head_begins_record(window, end)

    def _is_whole(self) -> bool:
        """Tell whether all of the candidate is there and was found good."""
        at = self._at
        return self._pos == at + PREFIX_SIZE + self._nbytes(at) and len(self._window) >= self._end(at)

    def _nbytes(self, at: int) -> int:
        nbytes: int = PREFIX.unpack_from(self._window, at)[0]
        return nbytes

    def _end(self, at: int) -> int:
        return at + PREFIX_SIZE + self._nbytes(at) + TAG_SIZE

    def _have(self, size: int) -> bool:
        self._need = size
        return len(self._window) >= size

    # ---- the window ----

    def _trim(self) -> None:
        """Give up what cannot be the beginning of anything."""
        size = self._from if self._at < 0 else self._at
        if self._starts:
            size = min(size, self._starts[0])
        if size:
            self._drop(size)
            self._from = max(self._from - size, 0)
            self._need = max(self._need - size, 0)
            self._pos -= size
            self._at = self._at - size if self._at >= 0 else -1
            self._starts = deque(start - size for start in self._starts)

    def _drop(self, size: int) -> None:
        if len(self.lost_start) < HEADER_SIZE:
            self.lost_start += bytes(self._window[: min(size, HEADER_SIZE - len(self.lost_start))])
        self.lost += size
        del self._window[:size]


def plausible(header: Header) -> bool:
    """Whether a header that nothing vouches for may be one: right in every field, OPEN the first of its stream and with
    metadata, DATA with metadata or a chunk. Zeros behind a few small numbers would else be frames.
    """
    _, kind, _, flags, _, seq, _, meta_len, ext_len, _ = header
    if kind == OPEN and (seq or meta_len < _LEAST_METADATA):
        return False
    if kind == DATA and meta_len < _LEAST_METADATA and (meta_len or ext_len or not flags):
        return False
    return not header_problem(header)


def head_begins_record(window: bytearray, at: int) -> bool:
    """Tell whether n and the header behind it fit: the frame fills the record, or others may follow."""
    nbytes: int = PREFIX.unpack_from(window, at)[0]
    header = _unpack(window, at + PREFIX_SIZE)
    frame = HEADER_SIZE + header[0]
    rest = nbytes - frame
    alone = rest == 0 and nbytes <= HEADER_SIZE + MAX_CHUNK
    return (alone or (nbytes <= RECORD_BATCH and rest >= HEADER_SIZE)) and plausible(header)


__all__ = ["Resync", "SearchBudget", "head_begins_record", "plausible"]
