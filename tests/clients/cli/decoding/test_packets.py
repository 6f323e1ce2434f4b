"""Packets to TCP segments: every link type and both IP versions, and nothing raised on any bytes."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorwire.clients.cli.decoding.packets import FRAGMENT, LINK_TYPES, SYN, Segment, parse_packet
from tests.support.packets import ETHERNET, NULL, RAW, SLL, SLL2, Conversation, ip_packet


def only(conversation: Conversation) -> Segment:
    segment = parse_packet(conversation.link_type, conversation.packets[-1][1])
    assert isinstance(segment, Segment)
    return segment


@pytest.mark.parametrize("ends", [("10.0.0.1", "10.0.0.2"), ("::1", "fe80::2")])
@pytest.mark.parametrize("link_type", [ETHERNET, NULL, RAW, SLL, SLL2])
def test_a_segment_is_found_behind_every_link_header(link_type: int, ends: tuple[str, str]) -> None:
    conversation = Conversation(link_type, (ends[0], 5000), (ends[1], 7411))
    conversation.segment(True, b"", SYN)
    assert only(conversation).flags == SYN
    conversation.segment(True, b"payload")
    segment = only(conversation)
    assert (segment.payload, segment.length, segment.seq) == (b"payload", 7, 1001)
    assert str(segment.source) == (f"[{ends[0]}]:5000" if ":" in ends[0] else f"{ends[0]}:5000")
    assert segment.target.port == 7411


def test_vlan_tags_and_padding_are_passed_over() -> None:
    conversation = Conversation(vlan=True)
    conversation.segment(True, b"payload")
    assert only(conversation).payload == b"payload"
    time_us, data = conversation.packets[0]
    conversation.packets = [(time_us, data + bytes(9))]
    assert only(conversation).payload == b"payload"


def test_a_packet_cut_by_the_snap_length_says_what_it_had() -> None:
    conversation = Conversation()
    conversation.segment(True, bytes(1000))
    segment = parse_packet(ETHERNET, conversation.packets[0][1][:100])
    assert isinstance(segment, Segment)
    assert (len(segment.payload), segment.length) == (46, 1000)


def test_a_packet_whose_ip_length_was_left_to_the_network_card_ends_with_the_packet() -> None:
    tcp = struct.pack(">HHIIBBHHH", 1, 2, 3, 4, 5 << 4, 16, 0, 0, 0) + bytes(100)
    segment = parse_packet(RAW, ip_packet("1.2.3.4", "1.2.3.5", tcp, total=0))
    assert isinstance(segment, Segment)
    assert segment.length == 100


def test_ipv6_extension_headers_are_followed_and_fragments_told() -> None:
    tcp = struct.pack(">HHIIBBHHH", 1, 2, 3, 4, 5 << 4, 16, 0, 0, 0) + b"end"
    whole = ip_packet("::1", "::2", bytes((60, 0)) + bytes(6) + bytes((6, 1)) + bytes(14) + tcp)
    segment = parse_packet(RAW, whole[:6] + b"\x00" + whole[7:])
    assert isinstance(segment, Segment)
    assert segment.payload == b"end"
    assert parse_packet(RAW, whole[:6] + b"\x2c" + whole[7:]) is FRAGMENT
    assert parse_packet(RAW, ip_packet("1.2.3.4", "1.2.3.5", tcp, flags=0x2000)) is FRAGMENT


def test_what_is_no_tcp_is_none() -> None:
    assert parse_packet(ETHERNET, bytes(12) + b"\x08\x06" + bytes(28)) is None  # ARP
    assert parse_packet(9999, bytes(100)) is None
    udp = ip_packet("1.2.3.4", "1.2.3.5", bytes(20))
    assert parse_packet(RAW, udp[:9] + b"\x11" + udp[10:]) is None


@given(st.sampled_from(sorted(LINK_TYPES)), st.binary(max_size=120), st.integers(0, 60))
def test_property_any_bytes_give_a_segment_or_nothing(link_type: int, data: bytes, keep: int) -> None:
    conversation = Conversation(link_type, ("::1", 1), ("::2", 2))
    conversation.segment(True, b"payload")
    for raw in (data, conversation.packets[0][1][:keep] + data):
        found = parse_packet(link_type, raw)
        if isinstance(found, Segment):
            assert len(found.payload) <= found.length
            str(found.source)
