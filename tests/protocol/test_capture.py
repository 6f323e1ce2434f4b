"""Captures: the file round trip, and no more memory than a file is worth."""

from __future__ import annotations

import contextlib
import io
import struct
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.strategies_frames import END, OPEN, frame
from tensorwire.protocol.capture import MAGIC, CaptureError, CaptureWriter, read_frames, read_records
from tests.protocol.wiring import CONNECTION_ID


def captured(*pieces: tuple[bool, bytes]) -> io.BytesIO:
    file = io.BytesIO()
    writer = CaptureWriter(file)
    for n, (received, data) in enumerate(pieces):
        writer.record(CONNECTION_ID, received=received, now=n * 0.001, data=data)
    file.seek(0)
    return file


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "session.twcap"
    writer = CaptureWriter(path)
    writer.received(memoryview(b"abc"), 1.5)
    writer.sent(b"", 2.0)
    writer.record(CONNECTION_ID, received=False, now=2.5, data=b"xyz")
    writer.close()
    with path.open("rb") as file:
        records = [(r.connection_id, r.received, r.time_us, r.data) for r in read_records(file)]
    assert records == [
        (bytes(8), True, 1_500_000, b"abc"),
        (bytes(8), False, 2_000_000, b""),
        (CONNECTION_ID, False, 2_500_000, b"xyz"),
    ]


def test_frames_may_span_records() -> None:
    data = frame(OPEN, 1, 1, body=b"hello") + frame(END, 1)
    split = captured(*((True, data[n : n + 1]) for n in range(len(data))))
    pieces = [f.piece for f in read_frames(split)]
    assert pieces == [f.piece for f in read_frames(captured((True, data)))]
    assert [piece.header[1] for piece in pieces if piece.header] == [OPEN, END]


def test_a_long_record_comes_in_parts_and_no_length_is_believed() -> None:
    file = io.BytesIO(MAGIC + struct.pack("<IB3xQ8s", 3 << 20, 1, 5, bytes(8)) + bytes(3 << 20))
    assert [len(r.data) for r in read_records(file)] == [1 << 20] * 3
    claims = io.BytesIO(MAGIC + struct.pack("<IB3xQ8s", 0xFFFFFFFF, 1, 5, bytes(8)) + b"abc")
    tracemalloc.start()
    with pytest.raises(CaptureError, match="record 1, at byte 35"):
        list(read_records(claims))
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_what_a_cut_capture_holds_comes_before_the_error() -> None:
    file = io.BytesIO(captured((True, frame(OPEN, 1, body=b"hello")), (True, frame(END, 1)[:20])).getvalue()[:-3])
    frames = read_frames(file)
    seen = [next(frames), next(frames)]
    assert seen[1].piece.cut
    with pytest.raises(CaptureError, match="record 2"):
        next(frames)
    assert [f.header[1] for f in seen if f.header] == [OPEN]


def test_many_connections_take_bounded_memory() -> None:
    """A name is cheap to write: the longest unused connection is finished when there are too many."""
    file = io.BytesIO()
    writer = CaptureWriter(file)
    for n in range(6000):
        writer.record(n.to_bytes(8, "big"), received=True, now=1.0, data=frame(OPEN, 1)[:20])
    file.seek(0)
    frames = read_frames(file)
    first = next(frames)
    assert first.connection_id == bytes(8)
    assert first.piece.cut
    assert sum(1 for _ in frames) == 5999


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_frames_or_a_capture_error(data: bytes) -> None:
    for raw in (data, MAGIC + data):
        with contextlib.suppress(CaptureError):
            list(read_frames(io.BytesIO(raw)))


@pytest.mark.parametrize("raw", [b"", b"GIF89a..", b"TWCAP\r\n\x01" + bytes(5), b"TWCAP\r\n\x01" + b"\xff" * 24])
def test_other_or_cut_files_are_refused(raw: bytes) -> None:
    with pytest.raises(CaptureError):
        list(read_records(io.BytesIO(raw)))
