"""Peers that speak something else get one line, the same however their bytes arrive."""

from __future__ import annotations

import pytest

from tensorwire.protocol import Closed, ErrorCode
from tensorwire.protocol.foreign import HTTP_ANSWER, LINE
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
    assert wire_bytes(server) == (HTTP_ANSWER if data in HTTP else LINE)
    assert server.closed


def test_the_answer_is_short_and_a_whole_http_response() -> None:
    assert len(LINE) <= 200
    assert LINE.endswith(b"\r\n")
    head, body = HTTP_ANSWER.split(b"\r\n\r\n")
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
