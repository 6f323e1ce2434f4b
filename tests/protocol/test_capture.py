"""Captures: the file round trip, and one safe line per frame."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given, settings

from fuzz.strategies_frames import END, OPEN, client_streams, frame
from tensorwire.protocol import Status, pack_extension
from tensorwire.protocol.capture import (
    CaptureError,
    CaptureWriter,
    format_frame,
    read_frames,
    read_records,
)
from tests.protocol.wiring import CONNECTION_ID, READY, feed, make_client, make_server, wire_bytes


def captured(*pieces: tuple[bool, bytes]) -> io.BytesIO:
    file = io.BytesIO()
    writer = CaptureWriter(file)
    for n, (received, data) in enumerate(pieces):
        writer.record(CONNECTION_ID, received=received, now=n * 0.001, data=data)
    file.seek(0)
    return file


def lines(file: io.BytesIO) -> list[str]:
    return [format_frame(f) for f in read_frames(file)]


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


def test_a_session_reads_as_one_line_per_frame() -> None:
    client, server = make_client(), make_server()
    pieces: list[tuple[bool, bytes]] = []

    def up() -> None:
        pieces.append((False, wire_bytes(client)))
        feed(server, pieces[-1][1])

    def down() -> None:
        pieces.append((True, wire_bytes(server)))
        feed(client, pieces[-1][1])

    up()
    down()
    ext = pack_extension(bytes(range(1, 9)) + bytes(8), timing=None)
    client.open(b"meta", ext, [b"body"], 4, priority=2, deadline_us=250)
    client.open(b"", b"", [bytes(100_000)], 100_000)
    up()
    server.accept(READY)
    server.end(1, Status.NOT_FOUND, "no\x1b[31m such\nmodel", not_started=True)
    down()
    shown = [line[13:] for line in lines(captured(*pieces))]
    assert shown[0] == f"> {CONNECTION_ID.hex()} PREFACE"
    assert "HELLO versions=1..1 draft=1 features=[2570]" in shown[1]
    assert f"WELCOME version=1 draft=1 features=[] mac=0 connection={CONNECTION_ID.hex()}" in shown[2]
    assert shown[3].endswith("AUTH entries=[]")
    assert shown[4].endswith(
        "OPEN stream=1 priority=2 END_STREAM deadline=250us dims=578437695752307201,0 meta=4 body=4"
    )
    assert shown[5].endswith("OPEN stream=2 END_STREAM+MORE body_length=100000")
    assert shown[6].endswith("DATA stream=2 END_STREAM body=100000")
    assert shown[7].endswith("READY meta=1")
    assert shown[8].endswith(r"END stream=1 NOT_STARTED status=NOT_FOUND 'no\x1b[31m such\nmodel'")


def test_frames_may_span_records() -> None:
    data = frame(OPEN, 1, 1, body=b"hello") + frame(END, 1)
    split = captured(*((True, data[n : n + 1]) for n in range(len(data))))
    assert [line[13:] for line in lines(split)] == [line[13:] for line in lines(captured((True, data)))]


@settings(max_examples=200, deadline=None)
@given(client_streams())
def test_any_bytes_become_short_printable_lines(data: bytes) -> None:
    for line in lines(captured((True, data))):
        assert line.isprintable()
        assert line.isascii()
        assert len(line) < 1200


@pytest.mark.parametrize("raw", [b"", b"GIF89a..", b"TWCAP\r\n\x01" + bytes(5), b"TWCAP\r\n\x01" + b"\xff" * 24])
def test_other_or_cut_files_are_refused(raw: bytes) -> None:
    with pytest.raises(CaptureError):
        list(read_records(io.BytesIO(raw)))
