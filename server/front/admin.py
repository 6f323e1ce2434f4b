"""The admin port: a few read-only pages over HTTP/1.1, for probes and Prometheus.

It answers GET and HEAD, one request per connection, and takes nothing from the request but the path. Commands that
change the server do not belong here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass

MAX_REQUEST_BYTES = 8192
"""Bytes of request line and headers; what curl and Prometheus send is under 1 KiB."""

REQUEST_TIMEOUT = 5.0
"""Seconds a client has to send its request and to read the answer."""

_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}


@dataclass(frozen=True, slots=True)
class Page:
    """One answer."""

    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    status: int = 200


class AdminServer:
    """Serves `pages` (path -> function that makes the page)."""

    def __init__(self, pages: dict[str, Callable[[], Page]]) -> None:
        self._pages = pages
        self._server: asyncio.Server | None = None
        self.url = ""

    async def listen(self, host: str, port: int) -> None:
        """Start; `url` tells where, also for port 0."""
        self._server = await asyncio.start_server(self._serve, host, port, limit=MAX_REQUEST_BYTES)
        address, bound = self._server.sockets[0].getsockname()[:2]
        self.url = f"http://[{address}]:{bound}" if ":" in address else f"http://{address}:{bound}"

    def descriptors(self) -> list[int]:
        """Return those of the listening sockets; connections here last a moment."""
        return [] if self._server is None else [each.fileno() for each in self._server.sockets]

    def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            async with asyncio.timeout(REQUEST_TIMEOUT):
                try:
                    head = await reader.readuntil(b"\r\n\r\n")
                except asyncio.LimitOverrunError:
                    head = b""
                writer.write(self._answer(head))
                await writer.drain()
        writer.close()

    def _answer(self, head: bytes) -> bytes:
        method, _, rest = head.partition(b"\r\n")[0].decode("ascii", "replace").partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        if not path.startswith("/"):
            page = Page(b"not an HTTP request\n", status=400)
        elif method not in ("GET", "HEAD"):
            page = Page(b"this port only answers GET\n", status=405)
        elif path in self._pages:
            page = self._pages[path]()
        else:
            page = Page(f"no such page; there are {', '.join(sorted(self._pages))}\n".encode(), status=404)
        lines = (
            f"HTTP/1.1 {page.status} {_REASONS[page.status]}",
            f"Content-Type: {page.content_type}",
            f"Content-Length: {len(page.body)}",
            "Connection: close",
            "",
            "",
        )
        return "\r\n".join(lines).encode() + (b"" if method == "HEAD" else page.body)
