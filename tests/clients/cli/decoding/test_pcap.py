"""pcap and pcapng files: both byte orders, both clocks, and damage that is told with its place."""

from __future__ import annotations

import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorwire.clients.cli.decoding.pcap import Packet, is_packet_file, read_packets
from tensorwire.protocol.capture import CaptureError
from tests.support.packets import START_US, block, pcap, pcapng

PACKETS = [(START_US, b"first packet"), (START_US + 1, b"x"), (START_US + 2_000_003, b"")]
EXPECTED = [Packet(n + 1, time, 1, data) for n, (time, data) in enumerate(PACKETS)]


def read(raw: bytes) -> list[Packet]:
    file = io.BytesIO(raw)
    return list(read_packets(file, file.read(8)))


def read_to_the_error(raw: bytes) -> tuple[list[Packet], str]:
    """The packets before the error, and its text, "" if there was none."""
    found: list[Packet] = []
    file = io.BytesIO(raw)
    try:
        found.extend(read_packets(file, file.read(8)))
    except CaptureError as error:
        return found, str(error)
    return found, ""


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("nanoseconds", [False, True])
@pytest.mark.parametrize("write", [pcap, pcapng])
def test_packets_come_back_with_their_times(write: object, order: str, nanoseconds: bool) -> None:
    raw: bytes = write(PACKETS, order=order, nanoseconds=nanoseconds)  # type: ignore[operator]
    assert is_packet_file(raw[:8])
    assert read(raw) == EXPECTED


@pytest.mark.parametrize("write", [pcap, pcapng])
def test_a_file_cut_anywhere_gives_its_whole_packets_and_says_where(write: object) -> None:
    raw: bytes = write(PACKETS[:2])  # type: ignore[operator]
    for cut in range(8, len(raw)):
        found, error = read_to_the_error(raw[:cut])
        assert found == EXPECTED[: len(found)]
        assert not error or (f"at byte {cut}," in error and "cut off" in error)


def test_a_length_that_no_packet_has_is_refused_before_it_is_read() -> None:
    raw = pcap([])
    for claimed in (0xFFFFFFFF, (16 << 20) + 1):
        with pytest.raises(CaptureError, match=f"claims {claimed} bytes"):
            read(raw + struct.pack("<IIII", 1, 1, claimed, claimed))


def test_pcapng_interfaces_have_their_own_link_types_and_clocks() -> None:
    section = block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1))
    binary = block(1, struct.pack("<HHI", 101, 0, 0) + struct.pack("<HHB3x", 9, 1, 0x80 | 10))
    offset = block(1, struct.pack("<HHI", 1, 0, 0) + struct.pack("<HHq", 14, 8, 100))
    one = block(6, struct.pack("<IIIII", 0, 0, 2048, 3, 3) + b"abc")
    two = block(6, struct.pack("<IIIII", 1, 0, 7, 3, 3) + b"def")
    simple = block(3, struct.pack("<I", 3) + b"ghi")
    found = read(section + binary + offset + one + two + simple)
    assert found == [Packet(1, 2_000_000, 101, b"abc"), Packet(2, 100_000_007, 1, b"def"), Packet(3, 0, 101, b"ghi")]


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (block(6, struct.pack("<IIIII", 3, 0, 0, 0, 0)), "interface 3"),
        (block(1, struct.pack("<HHI", 1, 0, 0)) + block(6, struct.pack("<IIIII", 0, 0, 0, 9, 9) + b"abc"), "claims 9"),
        (block(6, b"abc"), "too short"),
        (block(1, b"abc"), "too short"),
        (struct.pack("<II", 7, 8), "block of 8 bytes"),
        (struct.pack("<II", 7, 13), "block of 13 bytes"),
        (struct.pack("<II", 7, 0x7FFFFFFC), "claims"),
        (struct.pack("<II", 0x0A0D0D0A, 28) + b"abcd", "no pcapng section"),
        (block(1, struct.pack("<HHI", 1, 0, 0)) * 1025, "1024 interfaces"),
    ],
)
def test_damaged_pcapng_blocks_are_refused(raw: bytes, text: str) -> None:
    with pytest.raises(CaptureError, match=text):
        read(pcapng([])[:28] + raw)


@given(st.binary(max_size=300), st.booleans())
def test_property_any_bytes_are_packets_or_a_capture_error(data: bytes, ng: bool) -> None:
    for raw in (data, (pcapng([]) if ng else pcap([])) + data):
        if is_packet_file(raw[:8]):
            assert read_to_the_error(raw)[1].isprintable()
