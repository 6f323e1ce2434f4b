"""One direction of a captured connection, cut into frames: what stands behind `tensorwire decode`.

Here lives cutting and the checks that a header allows by itself, in bounded memory whatever the bytes say: bodies are
counted, not kept. It takes no part in a connection, judges no stream, and knows neither files nor packets. What is done
when framing is lost is signed_capture_splitter.py's.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from .errors import ErrorCode, ProtocolError
from .header import (
    CANCEL,
    CONTROL_RULES,
    DATA,
    DATA_FLAGS,
    END,
    HEADER,
    HEADER_SIZE,
    OPEN,
    OPEN_FLAGS,
    Header,
    check_control,
    check_first,
    check_message,
    type_name,
)
from .limits import MAX_CHUNK, MAX_EXTENSION, MAX_METADATA, PREFACE

BODY_START: Final = 32  # bytes of a body that are kept: the fixed bodies of control frames fit


class Record(NamedTuple):
    """A record whose frames came before (SPEC 11.2). number: of its direction, None where some before were lost."""

    number: int | None
    nbytes: int


class Piece(NamedTuple):
    """A frame, the preface, a record that has ended, or bytes that could not be read as any of these.

    header: None where this is no frame. body: its first bytes, at most BODY_START; of a record its tag. missing: bytes
    of the body that the capture lacks. problem: what is wrong, "" if nothing is. cut: the capture ends within this
    frame, or within its record. check: whether a tag or proof is right (captured_handshake), "" where there is none.
    record: this is one.
    """

    header: Header | None
    ext: bytes = b""
    meta: bytes = b""
    body: bytes = b""
    missing: int = 0
    problem: str = ""
    cut: bool = False
    check: str = ""
    record: Record | None = None


def header_problem(header: Header) -> str:
    """Say what is wrong with a header on its own (SPEC 3.2 without state), "" if nothing is."""
    kind, stream_id = header[1], header[4]
    try:
        if kind == DATA and not header[7] and not header[8]:
            _check_chunk(header)
        elif kind in {OPEN, DATA}:
            check_message(header, OPEN_FLAGS if kind == OPEN else DATA_FLAGS)
            check_first(header)
        elif kind in CONTROL_RULES:
            check_control(CONTROL_RULES[kind], header)
        else:
            return f"FRAME: {type_name(kind)} is unknown, or not built"
    except ProtocolError as error:
        return f"{error.code.name}: {error.message}"
    if not stream_id and kind in {OPEN, DATA, END, CANCEL}:
        return f"STREAM: {type_name(kind)} on stream 0"
    return ""


def _check_chunk(header: Header) -> None:
    """Check a DATA frame with nothing but a body: it may be a chunk, whose cap is higher and which may have MORE."""
    length, _, _, flags, _, _, aux, _, _, reserved = header
    if length > MAX_CHUNK:
        raise ProtocolError(ErrorCode.TOO_LARGE, f"DATA: {length} bytes of body; a chunk has at most {MAX_CHUNK}")
    if reserved or aux or flags & ~DATA_FLAGS:
        raise ProtocolError(ErrorCode.FRAME, "DATA: a field or flag that this type does not use is not zero")


def _framing_holds(header: Header) -> bool:
    """Tell whether the lengths can be followed; if not, a receiver closes: nothing behind them can be told apart."""
    length, meta_len, ext_len = header[0], header[7], header[8]
    body = length - meta_len - ext_len
    return ext_len <= MAX_EXTENSION and meta_len <= MAX_METADATA and 0 <= body <= MAX_CHUNK


class Splitter:
    """Takes the bytes of frames in order and gives the pieces they make.

    broken: why nothing behind can be read, "" while it can: a header with impossible lengths, or bytes that the capture
    lacks (then `gap` too). strict: whether a header must be right in every field, since it alone says that it is one.
    """

    __slots__ = ("_body_left", "_body_start", "_head", "_header", "_missing", "broken", "gap", "strict")

    def __init__(self, *, strict: bool = False) -> None:
        self._head = bytearray()  # header, extension and metadata of the frame that arrives
        self._header: Header | None = None
        self._body_left = 0
        self._body_start = b""
        self._missing = 0
        self.broken = ""
        self.gap = False
        self.strict = strict

    @property
    def head(self) -> bytes:
        """What has arrived of a frame but for its body; of a header that broke the framing all of it."""
        return bytes(self._head)

    def feed(self, data: memoryview, pieces: list[Piece]) -> int:
        """Use bytes for the frames they make, until the framing breaks; how many were used."""
        at = 0
        while at < len(data) and not self.broken:
            at += self.take(data[at:], pieces)
        return at

    def skip(self, count: int, pieces: list[Piece]) -> int:
        """Pass over `count` bytes that are not in the capture; returns how many lie behind the body that arrives.

        A body is only counted, so the frame can be followed across them; else the framing breaks.
        """
        total = count
        if self._body_left:
            inside = min(count, self._body_left)
            self._missing += inside
            self._body_left -= inside
            count -= inside
            if not self._body_left:
                pieces.append(self._finished())
        if count:
            if self._header is not None:
                pieces.append(self._cut())
            self.broken, self.gap = f"{total} bytes are missing in the capture", True
        return count

    def finish(self) -> list[Piece]:
        """Give what is unfinished: no more bytes come."""
        pieces: list[Piece] = []
        if self._header is not None:
            pieces.append(self._cut())
        elif self._head and not self.broken:
            text = f"cut off: {len(self._head)} of {HEADER_SIZE} bytes of a header are in the capture"
            pieces.append(Piece(None, body=bytes(self._head), problem=text, cut=True))
        self._reset()
        return pieces

    # ---- one frame ----

    def take(self, view: memoryview, pieces: list[Piece]) -> int:
        """Use bytes of `view` for the frame that arrives; how many."""
        if self._body_left:
            n = min(self._body_left, len(view))
            if len(self._body_start) < BODY_START and not self._missing:
                self._body_start += bytes(view[: min(n, BODY_START - len(self._body_start))])
            self._body_left -= n
            if not self._body_left:
                pieces.append(self._finished())
            return n
        wanted = self._wanted()
        n = min(wanted - len(self._head), len(view))
        self._head += view[:n]
        if len(self._head) < wanted:
            return n
        if self._header is None:
            self._begin(pieces)
        if self._header is not None and len(self._head) == self._wanted() and not self._body_left:
            self._measure_body(pieces)
        return n

    def _wanted(self) -> int:
        """Count the bytes that the head shall have: the preface's, the header's, then extension and metadata too."""
        if self._header is not None:
            return HEADER_SIZE + self._header[7] + self._header[8]
        return len(PREFACE) if len(self._head) < len(PREFACE) else HEADER_SIZE

    def _begin(self, pieces: list[Piece]) -> None:
        """Look at a head of 8 bytes or 32: the preface, or a header."""
        if self._head == PREFACE:
            pieces.append(Piece(None, body=PREFACE))
            self._reset()
        elif len(self._head) == HEADER_SIZE:
            header: Header = HEADER.unpack(self._head)
            holds = _framing_holds(header)
            problem = "" if holds and not self.strict else header_problem(header)
            if holds and not problem:
                self._header = header
            else:
                self.broken = problem or "no header of a frame"

    def _measure_body(self, pieces: list[Piece]) -> None:
        header = self._header
        if header is not None:
            self._body_left = header[0] - header[7] - header[8]
            if not self._body_left:
                pieces.append(self._finished())

    def _cut(self) -> Piece:
        """Give the frame that arrived in part."""
        header = self._header or HEADER.unpack(bytes(HEADER_SIZE))
        whole = HEADER_SIZE + header[0]
        have = whole - self._body_left - self._missing if self._body_left else len(self._head)
        text = f"cut off: {have} of {whole} bytes are in the capture"
        if len(self._head) < self._wanted():  # a part of an extension or of metadata says nothing
            piece = Piece(header, problem=text, cut=True)
            self._reset()
            return piece
        return self._finished()._replace(problem=text, cut=True)

    def _finished(self) -> Piece:
        header = self._header
        if header is None:  # not reached: only called with a frame at hand
            return Piece(None)
        meta_at = HEADER_SIZE + header[8]
        ext, meta = bytes(self._head[HEADER_SIZE:meta_at]), bytes(self._head[meta_at:])
        piece = Piece(header, ext, meta, self._body_start, self._missing, header_problem(header))
        self._reset()
        return piece

    def _reset(self) -> None:
        self._head.clear()
        self._header = None
        self._body_left = self._missing = 0
        self._body_start = b""


__all__ = ["BODY_START", "Piece", "Record", "Splitter", "header_problem"]
