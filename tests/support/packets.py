"""TCP packets and the files that hold them, made by struct alone: what tcpdump would have written.

What lives here: link layers, IPv4, IPv6, TCP, pcap and pcapng. What must not: reading them, and any line of tensorwire.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass, field

FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10
NULL, ETHERNET, RAW, SLL, SLL2 = 0, 1, 101, 113, 276
START_US = 1_700_000_000_000_000

Packet = tuple[int, bytes]  # microseconds, bytes from the link layer on


def link_header(link_type: int, ipv6: bool, vlan: bool = False) -> bytes:
    """What stands before the IP header."""
    kind = 0x86DD if ipv6 else 0x0800
    if link_type == ETHERNET:
        return bytes(12) + (struct.pack(">HH", 0x8100, 5) if vlan else b"") + struct.pack(">H", kind)
    if link_type == SLL:
        return struct.pack(">HHH8sH", 0, 772, 6, bytes(8), kind)
    if link_type == SLL2:
        return struct.pack(">HHIHBB8s", kind, 0, 1, 772, 0, 6, bytes(8))
    return struct.pack("<I", 30 if ipv6 else 2) if link_type == NULL else b""


def ip_packet(source: str, target: str, payload: bytes, *, flags: int = 0, total: int | None = None) -> bytes:
    """An IPv4 or IPv6 packet of TCP. `total` overrides the length that IPv4 declares."""
    a, b = ipaddress.ip_address(source), ipaddress.ip_address(target)
    if a.version == 6:
        return struct.pack(">IHBB", 6 << 28, len(payload), 6, 64) + a.packed + b.packed + payload
    length = 20 + len(payload) if total is None else total
    return struct.pack(">BBHHHBBH", 0x45, 0, length, 1, flags, 64, 6, 0) + a.packed + b.packed + payload


@dataclass
class Conversation:
    """One TCP connection being written down. `packets` may be cut, reordered and dropped afterwards."""

    link_type: int = ETHERNET
    client: tuple[str, int] = ("127.0.0.1", 50_000)
    server: tuple[str, int] = ("127.0.0.1", 7411)
    mss: int = 1400
    client_seq: int = 1000
    server_seq: int = 0xFFFFFF00  # wraps soon
    now_us: int = START_US
    vlan: bool = False
    packets: list[Packet] = field(default_factory=list)

    def handshake(self) -> Conversation:
        """SYN, SYN ACK, ACK."""
        self.segment(True, b"", SYN)
        self.segment(False, b"", SYN | ACK)
        self.segment(True, b"", ACK)
        return self

    def send(self, from_client: bool, data: bytes, *sizes: int) -> Conversation:
        """Bytes from one side, in segments of these sizes and then of the greatest."""
        cuts = iter(sizes)
        while data:
            n = next(cuts, self.mss)
            self.segment(from_client, data[:n])
            data = data[n:]
        return self

    def close(self) -> Conversation:
        """FIN of both sides."""
        self.segment(True, b"", FIN | ACK)
        self.segment(False, b"", FIN | ACK)
        self.segment(True, b"", ACK)
        return self

    def segment(self, from_client: bool, data: bytes, flags: int = PSH | ACK) -> None:
        """One segment; sequence numbers go on by themselves."""
        source, target = (self.client, self.server) if from_client else (self.server, self.client)
        seq, ack = (self.client_seq, self.server_seq) if from_client else (self.server_seq, self.client_seq)
        ack = ack if flags & ACK else 0
        tcp = struct.pack(">HHIIBBHHH", source[1], target[1], seq, ack, 5 << 4, flags, 65535, 0, 0) + data
        step = len(data) + bool(flags & (SYN | FIN))
        if from_client:
            self.client_seq = (seq + step) & 0xFFFFFFFF
        else:
            self.server_seq = (seq + step) & 0xFFFFFFFF
        lead = link_header(self.link_type, ":" in source[0], self.vlan)
        self.packets.append((self.now_us, lead + ip_packet(source[0], target[0], tcp)))
        self.now_us += 10


def pcap(
    packets: list[Packet], link_type: int = ETHERNET, *, order: str = "<", nanoseconds: bool = False, snap: int = 262144
) -> bytes:
    """A pcap file; packets above `snap` bytes are cut."""
    magic, units = (0xA1B23C4D, 1000) if nanoseconds else (0xA1B2C3D4, 1)
    out = [struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, snap, link_type)]
    for time_us, data in packets:
        seconds, us = divmod(time_us, 1_000_000)
        out += [struct.pack(f"{order}IIII", seconds, us * units, len(data[:snap]), len(data)), data[:snap]]
    return b"".join(out)


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    """A pcapng block."""
    body += bytes(-len(body) % 4)
    length = struct.pack(f"{order}I", len(body) + 12)
    return struct.pack(f"{order}I", kind) + length + body + length


def pcapng(packets: list[Packet], link_type: int = ETHERNET, *, order: str = "<", nanoseconds: bool = False) -> bytes:
    """A pcapng file of one section and one interface, with blocks between that a reader passes over."""
    options = struct.pack(f"{order}HHB3xHH", 9, 1, 9, 0, 0) if nanoseconds else b""
    out = [
        block(0x0A0D0D0A, struct.pack(f"{order}IHHq", 0x1A2B3C4D, 1, 0, -1), order),
        block(1, struct.pack(f"{order}HHI", link_type, 0, 262144) + options, order),
        block(4, bytes(4), order),
    ]
    for time_us, data in packets:
        high, low = divmod(time_us * (1000 if nanoseconds else 1), 1 << 32)
        out.append(block(6, struct.pack(f"{order}IIIII", 0, high, low, len(data), len(data)) + data, order))
    return b"".join([*out, block(5, bytes(12), order)])
