"""Captured conversations: the file format, its writer and its reader.

A binary wire is read with `tensorwire decode`; this is what stands behind it. Nothing here takes part in a
connection; what the frames say, and as which text, is the command's.

File: 8 bytes of magic, then records {u32 length, u8 direction (0 received, 1 sent), 3 bytes zero, u64 time in
microseconds, 8 bytes connection id (zero if not known), bytes}. Little-endian. Bytes are as read and written: frames
may span records.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import BinaryIO, Final

from .capture_splitter import Piece
from .captured_handshake import Handshake, SecretFor
from .header import Buffer, Header
from .signed_capture_splitter import SignedSplitter

MAGIC: Final = b"TWCAP\r\n\x01"
_RECORD: Final = Struct("<IB3xQ8s")
_UNKNOWN_CONNECTION: Final = bytes(8)
_MAX_PART: Final = 1 << 20  # bytes of one record that are held at once
# Half connections followed at once, 66 KiB each at most, signed ones 132 KiB more; the longest unused goes first.
_MAX_DIRECTIONS: Final = 4096


class CaptureError(Exception):
    """The file is no capture, or is cut off within a record."""


class CaptureWriter:
    """Writes what connections receive and send to a file. Times are seconds on the caller's clock."""

    __slots__ = ("_file",)

    def __init__(self, target: str | Path | BinaryIO) -> None:
        if isinstance(target, (str, Path)):
            target = Path(target).open("wb")  # noqa: SIM115 - closed by close()
        self._file: BinaryIO = target
        self._file.write(MAGIC)

    def record(self, connection_id: bytes, *, received: bool, now: float, data: Buffer) -> None:
        """Add bytes that one connection received or sent at one moment."""
        raw = memoryview(data).cast("B") if memoryview(data).nbytes else memoryview(b"")
        name = connection_id if len(connection_id) == 8 else _UNKNOWN_CONNECTION
        self._file.write(_RECORD.pack(len(raw), 0 if received else 1, max(int(now * 1e6), 0), name))
        self._file.write(raw)

    def received(self, data: Buffer, now: float) -> None:
        """Add bytes received on the only connection."""
        self.record(_UNKNOWN_CONNECTION, received=True, now=now, data=data)

    def sent(self, data: Buffer, now: float) -> None:
        """Add bytes sent on the only connection."""
        self.record(_UNKNOWN_CONNECTION, received=False, now=now, data=data)

    def close(self) -> None:
        """Write what is buffered and close the file."""
        self._file.close()


@dataclass(frozen=True, slots=True)
class CaptureRecord:
    """Bytes that moved at one moment; time in microseconds."""

    connection_id: bytes
    received: bool
    time_us: int
    data: bytes


@dataclass(frozen=True, slots=True)
class CapturedFrame:
    """One piece of what a connection received or sent, and when its last byte moved."""

    connection_id: bytes
    received: bool
    time_us: int
    piece: Piece

    @property
    def header(self) -> Header | None:
        """The frame's header; None for bytes that are no frame (the preface, or a foreign peer's)."""
        return self.piece.header


def read_records(file: BinaryIO) -> Iterator[CaptureRecord]:
    """Read the records of a capture file, one after another; raises CaptureError."""
    if file.read(len(MAGIC)) != MAGIC:
        raise CaptureError("this is no capture file: record one with --capture FILE")
    yield from read_records_after_magic(file)


def read_records_after_magic(file: BinaryIO) -> Iterator[CaptureRecord]:
    """Read a file whose magic was read; a long record comes in parts, so that its length costs no memory."""
    at = len(MAGIC)
    number = 0
    while raw := file.read(_RECORD.size):
        number += 1
        if len(raw) < _RECORD.size:
            raise _cut_off(number, at + len(raw))
        length, direction, time_us, connection_id = _RECORD.unpack(raw)
        at += _RECORD.size
        while True:
            data = file.read(min(length, _MAX_PART))
            at += len(data)
            yield CaptureRecord(connection_id, direction == 0, time_us, data)
            if len(data) < min(length, _MAX_PART):
                raise _cut_off(number, at)
            length -= len(data)
            if not length:
                break


def _cut_off(number: int, at: int) -> CaptureError:
    return CaptureError(f"the capture ends within record {number}, at byte {at}: it was cut off while being written")


def read_frames(file: BinaryIO, secret_for: SecretFor | None = None) -> Iterator[CapturedFrame]:
    """Read the frames of a capture file in the order of their last bytes; raises CaptureError after the last one.

    Proofs and tags of a signed connection are checked where `secret_for` has its key.
    """
    return split_records(read_records(file), secret_for)


def split_records(records: Iterable[CaptureRecord], secret_for: SecretFor | None = None) -> Iterator[CapturedFrame]:
    """Split the records of a file into frames; CaptureError comes through, after the frames before it."""
    directions: dict[tuple[bytes, bool], SignedSplitter] = {}
    handshakes: dict[bytes, Handshake] = {}
    last: dict[tuple[bytes, bool], int] = {}
    failure: CaptureError | None = None
    try:
        for record in records:
            key = (record.connection_id, record.received)
            splitter = directions.pop(key, None)
            if splitter is None:
                handshake = handshakes.setdefault(record.connection_id, Handshake(secret_for, maybe_tls=True))
                splitter = SignedSplitter(handshake)
            directions[key] = splitter  # the last used stands last
            last[key] = record.time_us
            for piece in splitter.feed(record.data):
                yield CapturedFrame(*key, record.time_us, piece)
            if len(directions) > _MAX_DIRECTIONS:
                oldest = next(iter(directions))
                yield from _finish(directions, last, oldest)
                if (oldest[0], not oldest[1]) not in directions:
                    handshakes.pop(oldest[0], None)
    except CaptureError as error:
        failure = error
    for key in list(directions):
        yield from _finish(directions, last, key)
    if failure is not None:
        raise failure


def _finish(
    directions: dict[tuple[bytes, bool], SignedSplitter], last: dict[tuple[bytes, bool], int], key: tuple[bytes, bool]
) -> Iterator[CapturedFrame]:
    time_us = last.pop(key)
    for piece in directions.pop(key).finish():
        yield CapturedFrame(*key, time_us, piece)


__all__ = [
    "MAGIC", "CaptureError", "CaptureRecord", "CaptureWriter", "CapturedFrame", "read_frames", "read_records",
    "read_records_after_magic", "split_records",
]  # fmt: skip
