"""The admin port answers GET, one page per connection, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tensorwire.server.front.admin import MAX_REQUEST_BYTES, AdminServer, Page

PAGES: dict[str, Callable[[], Page]] = {
    "/healthz": lambda: Page(b"ok\n"),
    "/readyz": lambda: Page(b"loading\n", status=503),
}


def ask(request: bytes) -> bytes:
    async def run() -> bytes:
        server = AdminServer(PAGES)
        await server.listen("127.0.0.1", 0)
        host, _, port = server.url.removeprefix("http://").rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(request)
        answer = await reader.read()
        writer.close()
        server.close()
        return answer

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("request_bytes", "status", "body"),
    [
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", b"200 OK", b"ok\n"),
        (b"GET /healthz?verbose=1 HTTP/1.1\r\n\r\n", b"200 OK", b"ok\n"),
        (b"HEAD /healthz HTTP/1.1\r\n\r\n", b"200 OK", b""),
        (b"GET /readyz HTTP/1.1\r\n\r\n", b"503 Service Unavailable", b"loading\n"),
        (b"POST /healthz HTTP/1.1\r\n\r\n", b"405 Method Not Allowed", b"this port only answers GET\n"),
        (b"GET /other HTTP/1.1\r\n\r\n", b"404 Not Found", b"no such page; there are /healthz, /readyz\n"),
        (b"\x89TWP\r\n\x1a\n\r\n\r\n", b"400 Bad Request", b"not an HTTP request\n"),
    ],
)
def test_each_request_gets_its_answer(request_bytes: bytes, status: bytes, body: bytes) -> None:
    answer = ask(request_bytes)
    assert answer.startswith(b"HTTP/1.1 " + status + b"\r\n")
    assert answer.partition(b"\r\n\r\n")[2] == body


def test_a_request_without_end_is_cut_off() -> None:
    assert ask(b"GET /" + b"x" * (2 * MAX_REQUEST_BYTES)).startswith(b"HTTP/1.1 400")
