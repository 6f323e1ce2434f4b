"""Peers that speak something else get one line, the same however their bytes arrive."""

from __future__ import annotations

import pytest

from fuzz.strategies_frames import frame
from tensorwire.protocol import Closed, ErrorCode
from tensorwire.protocol.peer_detection import HINT, HTTP_RESPONSE
from tests.protocol.wiring import feed, make_client, make_server, wire_bytes

HTTP = [
    b"GET / HTTP/1.1\r\n\r\n",
    b"POST /x HTTP/1.1\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"DELETE / HTTP/1.1\r\n",
]
OTHER = [
    bytes.fromhex("1603010200010001fc0303") + bytes(50),
    b"SSH-2.0-OpenSSH_9\r\n",
    b"\x89TWP\n\x1a\n" + bytes(40),
    b"\x89TWP\r\n\x1a\r" + bytes(40),
    b"GETTING nowhere",
    b"\0" * 8,
]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
@pytest.mark.parametrize("data", HTTP + OTHER)
def test_one_line_and_a_close(data: bytes, size: int) -> None:
    server = make_server()
    (closed,) = feed(server, data, [size] * len(data))
    assert isinstance(closed, Closed)
    assert (closed.code, closed.remote) == (ErrorCode.NOT_TENSORWIRE, False)
    assert wire_bytes(server) == (HTTP_RESPONSE if data in HTTP else HINT)
    assert server.closed


def test_the_answer_is_short_and_a_whole_http_response() -> None:
    assert len(HINT) <= 200
    assert HINT.endswith(b"\r\n")
    head, body = HTTP_RESPONSE.split(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"Content-Length: %d" % len(body) in head


def test_half_a_preface_waits_for_the_rest() -> None:
    server = make_server()
    assert feed(server, b"\x89TWP\r\n") == []
    assert wire_bytes(server) == b""
    (closed,) = server.receive_eof(0.0)
    assert isinstance(closed, Closed)
    assert "truncated" in closed.detail


def test_a_client_names_a_server_that_is_none_and_does_not_answer_it() -> None:
    client = make_client()
    wire_bytes(client)
    (closed,) = feed(client, b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    assert isinstance(closed, Closed)
    assert closed.code is ErrorCode.NOT_TENSORWIRE
    assert "HTTP/1.1 400" in closed.detail
    assert wire_bytes(client) == b""


SERVERS = [
    (bytes.fromhex("15030100020246"), "TLS"),  # alert, protocol_version: its fifth byte is WELCOME's number
    (bytes.fromhex("15030300020232"), "TLS"),
    (bytes.fromhex("160303007a02000076") + bytes(118), "TLS"),
    (b"SSH-2.0-OpenSSH_9\r\n", "SSH-"),
    (b"220 mail ready\r\n", "220 "),
    (b"-ERR unknown command\r\n", "ERR"),
]


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(("data", "shown"), SERVERS)
def test_a_client_knows_a_foreign_server_before_a_whole_header_is_in(data: bytes, shown: str, size: int) -> None:
    client = make_client()
    wire_bytes(client)
    (closed,) = feed(client, data, [size] * len(data))
    assert isinstance(closed, Closed)
    assert (closed.code, closed.remote) == (ErrorCode.NOT_TENSORWIRE, False)
    assert "the server does not speak tensorwire" in closed.detail
    assert shown in closed.detail
    assert wire_bytes(client) == b""


def test_a_server_that_ends_within_its_first_header_is_foreign() -> None:
    client = make_client()
    assert feed(client, b"Hi\n\n") == []
    (closed,) = client.receive_eof(0.0)
    assert isinstance(closed, Closed)
    assert (closed.code, closed.remote) == (ErrorCode.NOT_TENSORWIRE, True)
    assert "Hi" in closed.detail


@pytest.mark.parametrize(
    ("state", "size"), [("welcome", 32), ("welcome", 40), ("ready", 8), ("ready", 31), ("ready", 33)]
)
def test_a_server_that_has_shown_a_header_is_cut_off_not_foreign(state: str, size: int) -> None:
    client, server = make_client(), make_server()
    feed(server, wire_bytes(client))
    data = wire_bytes(server)
    if state == "ready":
        feed(client, data)
        wire_bytes(client)
        data = frame(4, meta=b"\x80" * 9)
    feed(client, data[:size])
    (closed,) = client.receive_eof(0.0)
    assert isinstance(closed, Closed)
    assert (closed.code, closed.remote) == (ErrorCode.NO_ERROR, True)
    assert "truncated" in closed.detail


def test_a_server_that_ends_without_a_byte_is_not_called_foreign() -> None:
    (closed,) = make_client().receive_eof(0.0)
    assert isinstance(closed, Closed)
    assert closed.code is ErrorCode.NO_ERROR


def test_a_welcome_byte_by_byte_is_never_taken_for_foreign() -> None:
    client, server = make_client(), make_server()
    feed(server, wire_bytes(client))
    welcome = wire_bytes(server)
    assert feed(client, welcome[:-1], [1] * len(welcome)) == []
    (closed,) = client.receive_eof(0.0)
    assert isinstance(closed, Closed)
    assert closed.code is ErrorCode.NO_ERROR
    assert "truncated" in closed.detail
