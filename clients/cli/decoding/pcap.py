"""Packets of pcap and pcapng files, which tcpdump, dumpcap and Wireshark write; in order, one at a time.

What lives here: the two file formats, in either byte order. What must not: what is inside a packet. pcapng is
draft-ietf-opsawg-pcapng, pcap is draft-ietf-opsawg-pcap; blocks that hold no packets are read over.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct, unpack_from
from typing import BinaryIO, NamedTuple

from ....protocol.capture import CaptureError

MAX_BLOCK = 16 << 20
"""Bytes of one packet or block. Wireshark takes packets of up to 256 KiB, and USB ones of 128 MiB that hold no TCP."""
_MAX_INTERFACES = 1024
_PCAP = {
    b"\xd4\xc3\xb2\xa1": ("<", 1),
    b"\xa1\xb2\xc3\xd4": (">", 1),
    b"\x4d\x3c\xb2\xa1": ("<", 1000),
    b"\xa1\xb2\x3c\x4d": (">", 1000),
}
"""pcap's magic number -> (byte order, units of its fraction in a microsecond)."""
_SECTION, _INTERFACE, _SIMPLE, _ENHANCED = 0x0A0D0D0A, 1, 3, 6
_SECTION_MAGIC = b"\x0a\x0d\x0d\x0a"
_TSRESOL, _TSOFFSET = 9, 14


class Packet(NamedTuple):
    """One packet: its number in the file from 1, when it was seen (microseconds), its link type and captured bytes."""

    number: int
    time_us: int
    link_type: int
    data: bytes


def is_packet_file(magic: bytes) -> bool:
    """Whether these first 8 bytes begin a pcap or pcapng file."""
    return magic[:4] in _PCAP or magic[:4] == _SECTION_MAGIC


def read_packets(file: BinaryIO, magic: bytes) -> Iterator[Packet]:
    """Read the packets of a file, behind its first 8 bytes, `magic`. CaptureError says where it is damaged."""
    source = _Source(file, magic)
    return _read_pcap(source) if magic[:4] in _PCAP else _read_pcapng(source)


class _Source:
    """A file that is only read forwards; knows where it is and which packet it reads, for errors."""

    def __init__(self, file: BinaryIO, first: bytes) -> None:
        self._file = file
        self._first = first
        self.at = 0
        self.packet = 0

    def take(self, size: int) -> bytes:
        """Exactly `size` bytes. CaptureError at the end of the file."""
        if size > MAX_BLOCK:
            raise self.error(f"claims {size} bytes, which no packet has: the file is damaged")
        data = self._first[:size]
        self._first = self._first[size:]
        if len(data) < size:
            data += self._file.read(size - len(data))
        self.at += len(data)
        if len(data) < size:
            raise self.error("is cut off there: the file ends within it")
        return data

    def at_end(self) -> bool:
        """Whether the file ends here."""
        if not self._first:
            self._first = self._file.read(1)
        return not self._first

    def error(self, what: str) -> CaptureError:
        """Make an error that says where."""
        where = f"what follows packet {self.packet}" if self.packet else "the start of the file"
        return CaptureError(f"{where}, at byte {self.at}, {what}")


def _read_pcap(source: _Source) -> Iterator[Packet]:
    header = source.take(24)
    order, per_us = _PCAP[header[:4]]
    link_type = unpack_from(f"{order}I", header, 20)[0] & 0xFFFF  # the upper bits tell of a checksum behind each packet
    record = Struct(f"{order}IIII")
    while not source.at_end():
        seconds, fraction, captured, _ = record.unpack(source.take(16))
        data = source.take(captured)
        source.packet += 1
        yield Packet(source.packet, seconds * 1_000_000 + fraction // per_us, link_type, data)


class _Interface(NamedTuple):
    """An interface of a pcapng section; `resolution` is ticks per second."""

    link_type: int
    snap_length: int
    resolution: int
    offset: int


def _read_pcapng(source: _Source) -> Iterator[Packet]:
    order = "<"
    interfaces: list[_Interface] = []
    while not source.at_end():
        kind, length = source.take(4), source.take(4)
        if kind == _SECTION_MAGIC:
            magic = source.take(4)
            if magic not in {b"\x4d\x3c\x2b\x1a", b"\x1a\x2b\x3c\x4d"}:
                raise source.error("is no pcapng section: the file is damaged")
            order = "<" if magic[0] == 0x4D else ">"
            interfaces.clear()
            taken = 12
        else:
            taken = 8
        size: int = unpack_from(f"{order}I", length)[0]
        if size < taken + 4 or size % 4:
            raise source.error(f"is a block of {size} bytes: the file is damaged")
        body = source.take(size - taken - 4)
        source.take(4)
        number = unpack_from(f"{order}I", kind)[0]
        if number == _INTERFACE:
            if len(interfaces) >= _MAX_INTERFACES:
                raise source.error(f"is one more than {_MAX_INTERFACES} interfaces: the file is damaged")
            interfaces.append(_interface(source, order, body))
        elif number in {_ENHANCED, _SIMPLE}:
            source.packet += 1
            yield _packet(source, order, number, body, interfaces)


def _interface(source: _Source, order: str, body: bytes) -> _Interface:
    if len(body) < 8:
        raise source.error("is an interface block too short for one: the file is damaged")
    link_type, _, snap_length = unpack_from(f"{order}HHI", body)
    resolution, offset, at = 1_000_000, 0, 8
    while at + 4 <= len(body):
        code, size = unpack_from(f"{order}HH", body, at)
        value = body[at + 4 : at + 4 + size]
        if code == _TSRESOL and len(value) == 1:
            resolution = 1 << (value[0] & 0x7F) if value[0] & 0x80 else 10 ** value[0]
        elif code == _TSOFFSET and len(value) == 8:
            offset = unpack_from(f"{order}q", value)[0]
        at += 4 + size + -size % 4
    return _Interface(link_type, snap_length, resolution, offset)


def _packet(source: _Source, order: str, number: int, body: bytes, interfaces: list[_Interface]) -> Packet:
    head = 20 if number == _ENHANCED else 4
    if len(body) < head:
        raise source.error("is a packet block too short for one: the file is damaged")
    index, high, low, captured = unpack_from(f"{order}IIII", body) if number == _ENHANCED else (0, 0, 0, 0)
    if index >= len(interfaces):
        raise source.error(f"is a packet of interface {index}, which the file does not describe: it is damaged")
    interface = interfaces[index]
    if number == _SIMPLE:
        captured = min(unpack_from(f"{order}I", body)[0], interface.snap_length or MAX_BLOCK)
    if captured > len(body) - head:
        raise source.error(f"claims {captured} bytes in a block that has {len(body) - head}: the file is damaged")
    time_us = ((high << 32) + low) * 1_000_000 // interface.resolution + interface.offset * 1_000_000
    return Packet(source.packet, time_us, interface.link_type, body[head : head + captured])


__all__ = ["MAX_BLOCK", "Packet", "is_packet_file", "read_packets"]
