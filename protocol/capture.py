"""Captured conversations: the file format, its writer and reader, and one line of text per frame.

A binary wire is read with `tensorwire decode`; this is what stands behind it. Nothing here takes part in a
connection, and whatever came from a peer is escaped and capped before it becomes text.

File: 8 bytes of magic, then records {u32 length, u8 direction (0 received, 1 sent), 3 bytes zero, u64 time in
microseconds, 8 bytes connection id (zero if not known), bytes}. Little-endian. Bytes are as read and written: frames
may span records.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import BinaryIO, Final

from . import handshake
from .errors import ProtocolError, error_code
from .extension import parse_extension
from .header import END, HEADER, HEADER_SIZE, OPEN, Flag, FrameType, Header, type_name
from .limits import NO_NEW_STREAMS, PREFACE
from .records import Buffer
from .status import Status

MAGIC: Final = b"TWCAP\r\n\x01"
_RECORD: Final = Struct("<IB3xQ8s")
_UNKNOWN_CONNECTION: Final = bytes(8)
_MAX_TEXT: Final = 200  # characters of a peer's text in one line
_MAX_DIMS: Final = 16


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
    """One frame of a capture; `header` is None for bytes that are no frame (the preface, or a foreign peer's)."""

    connection_id: bytes
    received: bool
    time_us: int
    header: Header | None
    ext: bytes
    meta: bytes
    body: bytes


def read_records(file: BinaryIO) -> Iterator[CaptureRecord]:
    """The records of a capture file, one after another; raises CaptureError."""
    if file.read(len(MAGIC)) != MAGIC:
        raise CaptureError("this is no capture file: record one with --capture FILE")
    while raw := file.read(_RECORD.size):
        if len(raw) < _RECORD.size:
            raise CaptureError("the capture ends within a record: it was cut off while being written")
        length, direction, time_us, connection_id = _RECORD.unpack(raw)
        data = file.read(length)
        if len(data) < length:
            raise CaptureError("the capture ends within a record: it was cut off while being written")
        yield CaptureRecord(connection_id, direction == 0, time_us, data)


def read_frames(file: BinaryIO) -> Iterator[CapturedFrame]:
    """The frames of a capture file in the order of their last bytes; raises CaptureError."""
    pending: dict[tuple[bytes, bool], bytearray] = {}
    for record in read_records(file):
        buffer = pending.setdefault((record.connection_id, record.received), bytearray())
        if record.data.startswith(PREFACE):  # a new connection under the same name
            buffer.clear()
            pending.pop((record.connection_id, not record.received), None)
        buffer += record.data
        yield from _split(record, buffer)
    for (connection_id, received), rest in pending.items():
        if rest:
            yield CapturedFrame(connection_id, received, 0, None, b"", b"", bytes(rest))


def _split(record: CaptureRecord, buffer: bytearray) -> Iterator[CapturedFrame]:
    """Take whole frames from the front of `buffer`."""
    if buffer.startswith(PREFACE):
        del buffer[: len(PREFACE)]
        yield CapturedFrame(record.connection_id, record.received, record.time_us, None, b"", b"", PREFACE)
    while len(buffer) >= HEADER_SIZE:
        header: Header = HEADER.unpack_from(buffer)
        size = HEADER_SIZE + header[0]
        if len(buffer) < size:
            return
        meta_at = HEADER_SIZE + header[8]
        body_at = meta_at + header[7]
        yield CapturedFrame(
            record.connection_id,
            record.received,
            record.time_us,
            header,
            bytes(buffer[HEADER_SIZE:meta_at]),
            bytes(buffer[meta_at:body_at]),
            bytes(buffer[body_at:size]),
        )
        del buffer[:size]


# ---- text ----


def printable(raw: bytes, limit: int = _MAX_TEXT) -> str:
    """Text of a peer in ASCII quotes, control characters escaped, at most `limit` bytes of it."""
    shown = ascii(raw[:limit].decode("utf-8", "backslashreplace"))
    return shown + ("..." if len(raw) > limit else "")


def format_frame(frame: CapturedFrame, start_us: int = 0) -> str:
    """One line: seconds since start_us, direction (< received, > sent), connection, type, fields that are set."""
    arrow = "<" if frame.received else ">"
    name = "" if frame.connection_id == _UNKNOWN_CONNECTION else f" {frame.connection_id.hex()}"
    lead = f"{max(frame.time_us - start_us, 0) / 1e6:12.6f} {arrow}{name}"
    if frame.header is None:
        if frame.body == PREFACE:
            return f"{lead} PREFACE"
        return f"{lead} {len(frame.body)} bytes that are no whole frame: {printable(frame.body, 32)}"
    return f"{lead} {' '.join([type_name(frame.header[1]), *_fields(frame.header), *_content(frame, frame.header)])}"


def _fields(header: Header) -> Iterator[str]:
    """Header fields that are not zero."""
    _, kind, priority, flags, stream_id, seq, aux, _, _, reserved = header
    if stream_id:
        yield "last=all" if kind == FrameType.GOAWAY and stream_id == NO_NEW_STREAMS else f"stream={stream_id}"
    if seq:
        yield f"seq={seq}"
    if priority:
        yield f"priority={priority}"
    if flags:
        known = [flag.name or "" for flag in Flag if flags & flag]
        rest = flags & ~sum(Flag)
        yield "+".join([*known, *([f"0x{rest:x}"] if rest else [])])
    if kind == END:
        yield f"status={Status(aux).name if aux in set(Status) else aux}"
    elif kind in {FrameType.CLOSE, FrameType.GOAWAY}:
        yield f"code={error_code(aux).name}"
    elif aux:
        yield f"deadline={aux}us" if kind == OPEN else f"aux={aux}"
    if reserved:
        yield f"reserved={reserved}"


def _content(frame: CapturedFrame, header: Header) -> Iterator[str]:
    """Extension, metadata and body, in short."""
    kind = header[1]
    if frame.ext:
        yield _extension_text(frame.ext)
    if kind in {FrameType.HELLO, FrameType.WELCOME, FrameType.AUTH}:
        yield _entries_text(kind, frame.meta)
    elif kind in {END, FrameType.CLOSE, FrameType.GOAWAY}:
        if frame.meta:
            yield printable(frame.meta)
    elif frame.meta:
        yield f"meta={len(frame.meta)}"
    if kind in {FrameType.PING, FrameType.PONG}:
        yield printable(frame.body, 8)
    elif frame.body:
        yield f"body={len(frame.body)}"


def _extension_text(ext: bytes) -> str:
    try:
        items = parse_extension(ext)
    except ProtocolError as error:
        return f"ext={len(ext)} ({error.message})"
    parts: list[str] = []
    if items.dims:
        dims = Struct(f"<{len(items.dims) // 8}Q").unpack(items.dims)
        parts.append("dims=" + ",".join(map(str, dims[:_MAX_DIMS])) + (",..." if len(dims) > _MAX_DIMS else ""))
    if items.body_length is not None:
        parts.append(f"body_length={items.body_length}")
    if items.idempotency_key:
        parts.append(f"idempotency_key={items.idempotency_key.hex()}")
    if items.session is not None:
        parts.append(f"session={items.session[0].hex()}:{items.session[1]}")
    if items.trace:
        parts.append(f"trace={items.trace.hex()}")
    if items.timing is not None:
        parts.append("timing_us=" + "/".join(map(str, items.timing)))
    if items.retry_after is not None:
        parts.append(f"retry_after={items.retry_after}us")
    if items.queue_estimate is not None:
        parts.append(f"queue_estimate={items.queue_estimate}us")
    return " ".join(parts)


def _entries_text(kind: int, meta: bytes) -> str:
    try:
        if kind == FrameType.HELLO:
            hello = handshake.parse_hello(meta)
            return (
                f"versions={hello.version_min}..{hello.version_max} draft={hello.draft} features={list(hello.features)}"
                f" required={list(hello.features_required)} macs={list(hello.macs)} chunk={hello.limits.chunk}"
                f" agent={printable(hello.agent.encode())}"
            )
        if kind == FrameType.WELCOME:
            welcome = handshake.parse_welcome(meta)
            return (
                f"version={welcome.version} draft={welcome.draft} features={list(welcome.features)} mac={welcome.mac}"
                f" connection={welcome.connection_id.hex()} chunk={welcome.limits.chunk}"
                f" max_streams={welcome.limits.max_streams} agent={printable(welcome.agent.encode())}"
            )
        return f"entries={sorted(handshake.parse_entries(meta))}"
    except ProtocolError as error:
        return f"meta={len(meta)} ({error.message})"


__all__ = [
    "CaptureError", "CaptureRecord", "CaptureWriter", "CapturedFrame", "format_frame", "printable", "read_frames",
    "read_records",
]  # fmt: skip
