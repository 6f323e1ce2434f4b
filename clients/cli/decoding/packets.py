"""A packet to the TCP segment in it: link layer, IPv4 or IPv6, TCP.

What lives here: headers of single packets. What must not: anything remembered from one packet to the next.
Checksums are not looked at: where they are computed by the network card they are wrong in every capture.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import NamedTuple

FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10

_NULL, _ETHERNET, _RAW, _LOOP, _SLL, _IPV4, _IPV6, _SLL2 = 0, 1, 101, 108, 113, 228, 229, 276
_RAW_OF_BSD = {12, 14}
_ETHERTYPE_IP, _ETHERTYPE_IPV6 = 0x0800, 0x86DD
_VLAN_TAGS = {0x8100, 0x88A8, 0x9100}
_TCP = 6
_IPV6_EXTENSIONS = {0, 43, 60}  # hop by hop, routing, destination: {next header, length in 8 bytes beyond the first 8}
_IPV6_FRAGMENT, _IPV6_AUTHENTICATION = 44, 51
_MAX_HEADERS = 8  # VLAN tags and IPv6 extension headers in a row

LINK_TYPES = {_NULL, _ETHERNET, _RAW, _LOOP, _SLL, _IPV4, _IPV6, _SLL2, *_RAW_OF_BSD}


class Endpoint(NamedTuple):
    """An address (4 or 16 bytes) and a port."""

    address: bytes
    port: int

    def __str__(self) -> str:
        if len(self.address) == 16:
            return f"[{ipaddress.IPv6Address(self.address)}]:{self.port}"
        return f"{ipaddress.IPv4Address(self.address)}:{self.port}"


class Segment(NamedTuple):
    """A TCP segment. `length` is what its payload had on the wire; `payload` may be shorter in a capture with a cap."""

    source: Endpoint
    target: Endpoint
    seq: int
    flags: int
    payload: bytes
    length: int


class Fragment:
    """What `parse_packet` gives for a fragment of an IP packet, which is not put together here."""


FRAGMENT = Fragment()


def parse_packet(link_type: int, data: bytes) -> Segment | Fragment | None:
    """Return the TCP segment in a packet; None where there is none, or where too little of it was captured to know."""
    try:
        at = _network_layer(link_type, data)
        if at is None:
            return None
        version = data[at] >> 4
        if version == 4:
            return _parse_ipv4(data, at)
        return _parse_ipv6(data, at) if version == 6 else None
    except (IndexError, struct.error):  # read past the end of what was captured
        return None


def _u16(data: bytes, at: int) -> int:
    number: int = struct.unpack_from(">H", data, at)[0]
    return number


def _network_layer(link_type: int, data: bytes) -> int | None:
    """Where the IP header begins; its own first bits say which IP it is."""
    if link_type in {_RAW, _IPV4, _IPV6} or link_type in _RAW_OF_BSD:
        return 0
    if link_type in {_NULL, _LOOP}:
        return 4
    if link_type == _ETHERNET:
        at = 12
    elif link_type == _SLL:
        at = 14
    elif link_type == _SLL2:
        return 20 if _u16(data, 0) in {_ETHERTYPE_IP, _ETHERTYPE_IPV6} else None
    else:
        return None
    for _ in range(_MAX_HEADERS):
        kind = _u16(data, at)
        if kind in {_ETHERTYPE_IP, _ETHERTYPE_IPV6}:
            return at + 2
        if kind not in _VLAN_TAGS:
            return None
        at += 4
    return None


def _parse_ipv4(data: bytes, at: int) -> Segment | Fragment | None:
    header = (data[at] & 0x0F) * 4
    if header < 20 or data[at + 9] != _TCP:
        return None
    if _u16(data, at + 6) & 0x3FFF:  # more fragments, or an offset
        return FRAGMENT
    total = _u16(data, at + 2)
    # A packet that the network card was to cut up may have 0 here, or be longer than 16 bits can say.
    end = at + total if total else len(data)
    return _parse_tcp(data, at + header, end, data[at + 12 : at + 16], data[at + 16 : at + 20])


def _parse_ipv6(data: bytes, at: int) -> Segment | Fragment | None:
    payload = _u16(data, at + 4)
    end = at + 40 + payload if payload else len(data)
    kind, inner = data[at + 6], at + 40
    for _ in range(_MAX_HEADERS):
        if kind == _TCP:
            return _parse_tcp(data, inner, end, data[at + 8 : at + 24], data[at + 24 : at + 40])
        if kind == _IPV6_FRAGMENT:
            return FRAGMENT
        if kind == _IPV6_AUTHENTICATION:
            kind, inner = data[inner], inner + (data[inner + 1] + 2) * 4
        elif kind in _IPV6_EXTENSIONS:
            kind, inner = data[inner], inner + (data[inner + 1] + 1) * 8
        else:
            return None
    return None


def _parse_tcp(data: bytes, at: int, end: int, source: bytes, target: bytes) -> Segment | None:
    if at + 20 > len(data):
        return None
    source_port, target_port, seq = struct.unpack_from(">HHI", data, at)
    start = at + (data[at + 12] >> 4) * 4
    length = end - start
    if start < at + 20 or length < 0:
        return None
    return Segment(
        Endpoint(source, source_port),
        Endpoint(target, target_port),
        seq,
        data[at + 13],
        data[start : min(end, len(data))],
        length,
    )


__all__ = ["ACK", "FIN", "FRAGMENT", "LINK_TYPES", "RST", "SYN", "Endpoint", "Fragment", "Segment", "parse_packet"]
