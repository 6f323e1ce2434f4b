"""Any file that ``tensorwire decode`` reads, to rows: our own captures, pcap and pcapng.

What lives here: which kind of file it is, and what is told at its end. What must not: the formats themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from ....protocol.capture import MAGIC, CapturedFrame, CaptureError, read_records_after_magic, split_records
from ....protocol.captured_handshake import SecretFor
from ....protocol.header import FrameType
from ....protocol.limits import PREFACE
from .connections import CLIENT, SERVER, Connections, Row
from .packets import LINK_TYPES, Fragment, parse_packet
from .pcap import is_packet_file, read_packets

_MAX_NAMES = 65_536  # connections whose number is remembered
_FROM_CLIENT = {FrameType.HELLO, FrameType.AUTH, FrameType.OPEN, FrameType.CANCEL}
_FROM_SERVER = {FrameType.WELCOME, FrameType.READY, FrameType.END, FrameType.GOAWAY}


class Rows:
    """The rows of a file, to be taken once; CaptureError after what could be read. Then `remarks` is filled."""

    def __init__(self, file: BinaryIO, port: int | None = None, secret_for: SecretFor | None = None) -> None:
        self._file = file
        self._port = port
        self._secret_for = secret_for
        self.remarks: list[str] = []

    def __iter__(self) -> Iterator[Row]:
        magic = self._file.read(len(MAGIC))
        if magic == MAGIC:
            return self._own(split_records(read_records_after_magic(self._file), self._secret_for))
        if is_packet_file(magic):
            return self._packets(magic)
        if magic[:2] == b"\x1f\x8b" or magic[:4] == b"\x28\xb5\x2f\xfd":
            raise CaptureError("this file is compressed: unpack it first (gunzip, unzstd)")
        raise CaptureError(
            "this is no capture file: record one with --capture FILE (ours), or with tcpdump -w or dumpcap -w"
        )

    def _own(self, frames: Iterator[CapturedFrame]) -> Iterator[Row]:
        numbers: dict[bytes, int] = {}
        client_is_remote: dict[bytes, bool] = {}
        count = 0
        for frame in frames:
            name = frame.connection_id
            if name not in numbers:
                count += 1
                numbers[name] = count
                if len(numbers) > _MAX_NAMES:
                    oldest = next(iter(numbers))
                    del numbers[oldest]
                    client_is_remote.pop(oldest, None)
            by_client = _by_client(frame)
            if name not in client_is_remote and by_client is not None:
                client_is_remote[name] = frame.received == by_client
            sender = ""
            if name in client_is_remote:
                sender = CLIENT if frame.received == client_is_remote[name] else SERVER
            yield Row(frame.time_us, 0, numbers[name], sender, frame.piece)

    def _packets(self, magic: bytes) -> Iterator[Row]:
        connections = Connections(self._port, self._secret_for)
        packets = fragments = other_links = 0
        failure: CaptureError | None = None
        try:
            for packet in read_packets(self._file, magic):
                packets += 1
                other_links += packet.link_type not in LINK_TYPES
                segment = parse_packet(packet.link_type, packet.data)
                if isinstance(segment, Fragment):
                    fragments += 1
                elif segment is not None:
                    yield from connections.add(segment, packet.time_us, packet.number)
        except CaptureError as error:
            failure = error
        yield from connections.finish()
        self._remark(connections, packets, fragments, other_links)
        if failure is not None:
            raise failure

    def _remark(self, connections: Connections, packets: int, fragments: int, other_links: int) -> None:
        """Return what was not read, and why."""
        if not connections.selected:
            where = "" if self._port is None else f" of port {self._port}"
            self.remarks.append(f"no tensorwire connection{where} in {packets} packets")
        if connections.left_out:
            self.remarks.append(
                f"left out {connections.left_out} TCP connections that do not begin with tensorwire's preface; if their"
                " start was not captured, --port PORT reads them from the first frame that can be told"
            )
        if connections.tls:
            self.remarks.append(
                f"{connections.tls} TCP connections look like TLS, whose contents no capture of packets shows: record "
                "them with --capture, of 'tensorwire send' or of the server"
            )
        if fragments:
            self.remarks.append(f"left out {fragments} fragments of IP packets: their TCP bytes count as missing")
        if other_links:
            known = ", ".join(map(str, sorted(LINK_TYPES)))
            self.remarks.append(f"left out {other_links} packets of link types other than {known}")


def _by_client(frame: CapturedFrame) -> bool | None:
    """Whether only a client sends this, or only a server; None if both may."""
    piece = frame.piece
    if piece.header is None:
        return True if piece.body == PREFACE and not piece.problem else None
    if piece.problem:
        return None
    kind = piece.header[1]
    return kind in _FROM_CLIENT if kind in _FROM_CLIENT or kind in _FROM_SERVER else None


__all__ = ["Rows"]
