"""One direction of a capture cut into frames: whole, in parts, with gaps, and whatever the bytes say."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz.strategies_frames import (
    DATA,
    END,
    HEADER,
    MORE,
    OPEN,
    PING,
    body_length,
    client_streams,
    dims,
    frame,
)
from tensorwire.protocol.capture_splitter import Piece, header_problem
from tensorwire.protocol.captured_handshake import Handshake
from tensorwire.protocol.header import HEADER as OUR_HEADER
from tensorwire.protocol.limits import PREFACE
from tensorwire.protocol.signed_capture_splitter import SignedSplitter

CALL = frame(OPEN, 1, 1, ext=dims(2, 3), meta=b"meta", body=b"body")
CHUNK = frame(DATA, 1, MORE, body=bytes(range(256)) * 100)
GONE = frame(END, 1, aux=5, meta=b"no such model")


def pieces(*runs: bytes | int) -> list[Piece]:
    """What bytes, and numbers of bytes that are missing, give."""
    splitter = SignedSplitter(Handshake())
    found: list[Piece] = []
    for run in runs:
        found += splitter.skip(run) if isinstance(run, int) else splitter.feed(run)
    return found + splitter.finish()


def kinds(found: list[Piece]) -> list[int]:
    return [piece.header[1] for piece in found if piece.header]


def test_the_preface_and_frames_come_apart() -> None:
    found = pieces(PREFACE + CALL + GONE)
    assert found[0] == Piece(None, body=PREFACE)
    assert found[1] == Piece(HEADER.unpack_from(CALL), dims(2, 3), b"meta", b"body")
    assert found[2].meta == b"no such model"
    assert len(found) == 3


def test_a_split_anywhere_changes_nothing() -> None:
    data = PREFACE + CALL + CHUNK + GONE
    whole = pieces(data)
    assert pieces(*(data[n : n + 1] for n in range(len(data)))) == whole
    assert pieces(data[:50], data[50:]) == whole


def test_a_body_is_counted_and_its_first_bytes_kept() -> None:
    (found,) = pieces(CHUNK)
    assert found.body == bytes(range(32))
    assert found.problem == ""


def test_bytes_missing_within_a_body_are_counted_and_the_next_frame_is_found() -> None:
    found = pieces(CHUNK[:1000], 500, CHUNK[1500:] + GONE)
    assert kinds(found) == [DATA, END]
    assert [piece.missing for piece in found] == [500, 0]
    assert [piece.problem for piece in found] == ["", ""]


def test_bytes_missing_to_the_very_end_of_a_body_end_the_frame() -> None:
    found = pieces(CHUNK[:1000], len(CHUNK) - 1000, GONE)
    assert kinds(found) == [DATA, END]


def test_bytes_missing_beyond_a_body_lose_the_framing_until_a_header_begins_a_run() -> None:
    found = pieces(CHUNK[:1000], len(CHUNK), b"the rest of something", GONE)
    assert kinds(found) == [DATA, END]
    assert found[1].header is None
    assert "bytes are missing in the capture" in found[1].problem


def test_bytes_missing_within_a_header_or_metadata_lose_the_framing() -> None:
    for at in (0, 10, 35):
        found = pieces(CALL[:at], 5, CALL[at + 5 :], GONE)
        assert kinds(found)[-1] == END
        assert any("5 bytes are missing in the capture" in piece.problem for piece in found), at


def test_a_capture_that_begins_in_the_middle_starts_at_the_first_whole_header() -> None:
    splitter = SignedSplitter(Handshake(), "the start of the connection was not captured")
    assert splitter.feed(CHUNK[500:900]) == []
    found = splitter.feed(GONE)
    assert found[0].problem == ("the start of the connection was not captured; 400 bytes could not be read as frames")
    assert kinds(found) == [END]


@pytest.mark.parametrize("cut", [1, 31, 32, 33, 50, len(CALL) - 1])
def test_a_frame_that_is_cut_off_says_how_much_is_there(cut: int) -> None:
    (found,) = pieces(CALL[:cut])
    assert found.cut
    whole = 32 if cut < 32 else len(CALL)
    assert found.problem.startswith(f"cut off: {cut} of {whole} bytes")


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ((0, 0, 0, 0, 0, 0, 0, 0, 0, 0), "FRAME: type 0"),
        ((0, 17, 0, 0, 1, 0, 0, 0, 0, 0), "FRAME: type 17"),
        ((0, 9, 0, 0, 1, 0, 0, 0, 0, 0), "FRAME: CREDIT"),
        ((0, 8, 0, 0, 0, 0, 0, 0, 0, 0), "STREAM: CANCEL on stream 0"),
        ((0, 8, 0, 0, 1, 0, 0, 0, 0, 1), "FRAME: CANCEL"),
        ((0, 5, 0, 64, 1, 0, 0, 0, 0, 0), "FRAME: OPEN"),
        ((7, 11, 0, 0, 0, 0, 0, 0, 0, 0), "FRAME: PING"),
        ((65537, 5, 0, 1, 1, 0, 0, 0, 0, 0), "TOO_LARGE: OPEN"),
        ((1048577, 6, 0, 0, 1, 0, 0, 0, 0, 0), "TOO_LARGE: DATA"),
        ((1048576, 6, 0, 2, 1, 0, 0, 0, 0, 0), ""),
        ((10, 5, 0, 2, 1, 0, 0, 0, 10, 0), ""),
    ],
)
def test_a_header_is_judged_by_itself(fields: tuple[int, ...], problem: str) -> None:
    header = OUR_HEADER.unpack(HEADER.pack(*fields))
    found = header_problem(header)
    assert found.startswith(problem)
    assert bool(found) == bool(problem)


def test_an_impossible_length_takes_no_memory_and_ends_the_framing() -> None:
    wrong = HEADER.pack(0xFFFFFFFF, DATA, 0, 0, 1, 0, 0, 0, 0, 0)
    splitter = SignedSplitter(Handshake())
    tracemalloc.start()
    for _ in range(100):
        splitter.feed(wrong + bytes(100_000))
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    assert any("TOO_LARGE" in piece.problem for piece in splitter.finish())


def test_the_first_message_of_a_chunked_body_is_one_frame() -> None:
    first = frame(OPEN, 1, MORE, ext=body_length(100_000))
    assert kinds(pieces(first + CHUNK)) == [OPEN, DATA]


def test_ping_keeps_its_payload() -> None:
    assert pieces(frame(PING, body=b"12345678"))[0].body == b"12345678"


@given(client_streams() | st.binary(max_size=300), st.lists(st.integers(1, 40), max_size=30))
def test_property_every_byte_is_in_one_piece_however_it_is_split(data: bytes, sizes: list[int]) -> None:
    splitter = SignedSplitter(Handshake())
    found: list[Piece] = []
    rest = data
    for size in sizes:
        found += splitter.feed(rest[:size])
        rest = rest[size:]
    found += splitter.feed(rest) + splitter.finish()
    for piece in found:
        assert piece.problem.isascii()
        assert len(piece.body) <= 32
        if piece.header and not piece.problem:
            assert len(piece.ext) == piece.header[8]
            assert len(piece.meta) == piece.header[7]
