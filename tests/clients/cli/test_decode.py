"""``tensorwire decode`` as it is called: which file, which rows, lines and JSON, and no traceback on anything."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from fuzz.strategies_frames import client_streams
from tensorwire.clients.cli.failures import ExitCode
from tensorwire.clients.cli.group import cli
from tensorwire.protocol.capture import MAGIC, CaptureWriter
from tests.support.packets import Conversation, pcap, pcapng
from tests.support.sessions import small_session
from tests.support.together import each
from tests.support.vector_sessions import vector_sessions

SMALL = small_session()


def conversation(session: list[tuple[bool, bytes]], port: int = 50_000) -> Conversation:
    made = Conversation(client=("127.0.0.1", port)).handshake()
    for from_client, data in session:
        made.send(from_client, data)
    return made.close()


def own(session: list[tuple[bool, bytes]], *, client: bool = True) -> bytes:
    file = io.BytesIO()
    writer = CaptureWriter(file)
    for n, (from_client, data) in enumerate(session):
        writer.record(b"12345678", received=from_client != client, now=n * 1e-5, data=data)
    return file.getvalue()


def decode(raw: bytes, *args: str) -> Any:
    return CliRunner().invoke(cli, ["decode", "-", *args], prog_name="tensorwire", input=raw)


def lines(raw: bytes, *args: str) -> list[str]:
    result = decode(raw, *args)
    assert result.exit_code == 0, (result.output, result.exception)
    found: list[str] = result.stdout.splitlines()
    return found


def objects(raw: bytes, *args: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines(raw, "--json", *args)]


PACKETS = pcap(conversation(SMALL).packets)


def test_a_session_reads_as_one_line_per_frame() -> None:
    shown = [line[13:] for line in lines(PACKETS)]
    assert shown[:2] == ["#1 - client 127.0.0.1:50000, server 127.0.0.1:7411", "#1 > PREFACE"]
    text = "\n".join(shown)
    for expected in (
        "#1 > HELLO versions=[1,1] draft=1 features=[2570] required=[] macs=[none] chunk=16384",
        "#1 < WELCOME version=1 draft=1 features=[] mac=none",
        "connection_id=5f0c1d2e3b4a5968",
        "#1 < READY principal=anonymous models=['*']",
        "#1 > OPEN stream=1 priority=1 END_STREAM+WANT_TIMING deadline=250000us echo x:float32[1,3]",
        "#1 < DATA stream=1 priority=1 END_STREAM echo@1 y:float32[1,3] timing=receive:12us,queue:30us",
        "#1 > OPEN stream=2 priority=1 words t:string[3] n:int64[] body=136",
        "#1 < PONG payload=3132333435363738",
        "#1 > CANCEL stream=2",
        r"#1 > OPEN stream=3 priority=1 END_STREAM 'no\x1b[31m such\nmodel' x:float32[1,3] body=12",
        "#1 < END stream=3 NOT_STARTED status=NOT_FOUND retry_after_us=1500 queue_estimate_us=2500",
        "#1 < GOAWAY last=all code=SHUTDOWN 'draining'",
        "#1 > CLOSE code=NO_ERROR",
    ):
        assert expected in text


def test_every_kind_of_file_gives_the_same_frames() -> None:
    def frames(raw: bytes) -> list[dict[str, Any]]:
        extra = {"time_us", "packet"}
        return [{k: v for k, v in row.items() if k not in extra} for row in objects(raw) if "frame" in row]

    expected = frames(PACKETS)
    assert len(expected) == 17
    assert frames(pcapng(conversation(SMALL).packets)) == expected
    assert frames(own(SMALL)) == expected
    assert frames(own(SMALL, client=False)) == expected


def test_json_is_one_object_per_line_with_numbers_and_names() -> None:
    found = next(row for row in objects(PACKETS) if row.get("frame") == "OPEN")
    assert found["packet"] == 8
    assert found["type"] == 5
    assert found["flags"] == ["END_STREAM", "WANT_TIMING"]
    assert (found["length"], found["ext_len"], found["meta_len"], found["body_len"]) == (169, 45, 112, 12)
    (tensor,) = found["tensors"]
    assert tensor == {
        "name": "x", "type": "float32[1, 3]", "dtype": "float32", "kind": "DENSE", "shape": [1, 3], "bytes": 12,
    }  # fmt: skip


def test_rows_are_chosen_by_connection_stream_port_and_limit() -> None:
    both = pcap(conversation(SMALL).packets + conversation(SMALL, 50_001).packets)
    assert {row["connection"] for row in objects(both)} == {1, 2}
    assert {row["connection"] for row in objects(both, "--connection", "2")} == {2}
    assert {row["stream"] for row in objects(both, "--stream", "2")} == {2}
    assert len([row for row in objects(both, "--limit", "3") if "frame" in row]) == 3
    result = decode(both, "--port", "80")
    assert result.stdout == ""
    assert result.stderr == "-: no tensorwire connection of port 80 in 44 packets\n"


@pytest.mark.parametrize("port", [7413, 443])
def test_what_looks_like_tls_is_said_to_and_nothing_found_is_exit_code_1(port: int) -> None:
    hello = bytes.fromhex("1603010200010001fc0303")
    made = Conversation(server=("127.0.0.1", port)).handshake().send(True, hello).send(False, hello).close()
    for args in ((), ("--port", str(port))):
        result = decode(pcap(made.packets), *args)
        assert result.exit_code == ExitCode.REMOTE
        assert "1 TCP connections look like TLS" in result.stderr


def test_rows_of_which_none_is_chosen_are_exit_code_1() -> None:
    for args in (("--stream", "99"), ("--connection", "9")):
        result = decode(own(SMALL), *args)
        assert result.exit_code == ExitCode.REMOTE
        assert result.stderr == "-: no frame to show\n"


def test_contents_of_tensors_are_never_shown() -> None:
    raw = pcap(conversation([(True, data.replace(b"hiyou", b"QZQZQ")) for _, data in SMALL]).packets)
    assert b"QZQZQ" in raw
    for args in ((), ("--json",)):
        assert "QZQZQ" not in decode(raw, *args).output
        assert b"QZQZQ".hex() not in decode(raw, *args).output


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "this is no capture file"),
        (b"this is no capture", "tcpdump -w"),
        (b"\x1f\x8b\x08\x00whatever", "compressed"),
        (PACKETS[:10], "at byte 10, is cut off there"),
        (PACKETS[:-1], "what follows packet 21"),
        (own(SMALL)[:-1], "within record 16"),
    ],
)
def test_a_file_that_is_none_or_is_cut_is_told_in_one_line(raw: bytes, message: str) -> None:
    result = decode(raw)
    assert result.exit_code == ExitCode.USAGE
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_cut_file_is_read_as_far_as_it_goes() -> None:
    result = decode(PACKETS[:-100])
    assert "OPEN stream=3" in result.stdout


def test_a_file_that_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["decode", str(tmp_path / "absent")], prog_name="tensorwire")
    assert result.exit_code == ExitCode.USAGE
    assert "No such file" in result.stderr


def check_output(raw: bytes) -> None:
    for args in ((), ("--json",)):
        result = decode(raw, *args)
        assert result.exception is None or isinstance(result.exception, SystemExit), (args, result.exception)
        assert result.exit_code in {0, ExitCode.REMOTE, ExitCode.USAGE}
        for line in result.stdout.splitlines():
            assert line.isprintable()
            assert line.isascii()
            if "--json" in args:
                json.loads(line)
            else:
                assert len(line) <= 1000


@each("session", vector_sessions())
def test_every_vector_reads_as_a_capture_and_as_packets(session: list[tuple[bool, bytes]]) -> None:
    check_output(own(session))
    check_output(pcap(conversation(session).packets))


@given(client_streams(), client_streams(), st.integers(1, 70_000))
def test_property_any_frames_become_short_printable_lines(up: bytes, down: bytes, mss: int) -> None:
    session = [*SMALL[:4], (True, up), (False, down)]
    check_output(own(session))
    made = Conversation(mss=max(mss, (len(up) + len(down)) // 50 + 1)).handshake()
    for from_client, data in session:
        made.send(from_client, data)
    check_output(pcap([packet for packet in made.packets if len(packet[1]) < 262144]))


@given(st.sampled_from((b"", MAGIC, pcap([]), pcapng([]), PACKETS[: len(PACKETS) // 2])), st.binary(max_size=500))
def test_property_any_bytes_are_a_file_or_one_line_of_error(start: bytes, data: bytes) -> None:
    check_output(start + data)


@given(st.data())
def test_property_a_session_with_changed_bytes_never_ends_in_a_traceback(data: st.DataObject) -> None:
    n = data.draw(st.integers(0, len(SMALL) - 1))
    from_client, raw = SMALL[n]
    changed = bytearray(raw)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    check_output(pcap(conversation([*SMALL[:n], (from_client, bytes(changed)), *SMALL[n + 1 :]]).packets))
