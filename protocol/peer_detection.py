"""Peers that speak something else: how they are known, what a client is told, and when (SPEC 10).

Here live the preface check, the one helpful line, and what a client makes of a server that is none. No byte of the
peer's is repeated to it.
"""

from __future__ import annotations

from typing import Final

from .header import HEADER_SIZE
from .limits import PREFACE
from .states import KNOWN_TYPES

HTTP_METHODS: Final = (b"GET ", b"POST", b"PUT ", b"HEAD", b"DELE", b"OPTI", b"PATC", b"CONN", b"TRAC", b"PRI ")
HINT: Final = (
    b"This port speaks tensorwire (tw://), not HTTP or TLS. Use a tensorwire client: tensorwire.connect(url).\r\n"
)
NOT_A_SERVER: Final = "the server does not speak tensorwire, check host and port"
HTTP_RESPONSE: Final = (
    b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n"
    % len(HINT)
) + HINT


def answer_foreign_client(first: bytes) -> tuple[bytes, str] | None:
    """Answer a client's first bytes, and say what it seems to speak; None while they may be tensorwire or HTTP."""
    if PREFACE.startswith(first[: len(PREFACE)]):
        return None
    start = first[:4]
    if start in HTTP_METHODS:
        return HTTP_RESPONSE, "the peer speaks HTTP"
    if any(method.startswith(start) for method in HTTP_METHODS):
        return None
    return HINT, "the peer sent no tensorwire preface"


def explain_foreign_server(first: bytes) -> str | None:
    """Say what is wrong with a server's first bytes; None while they may be the header of a frame.

    A TLS record (22 3 1 .. in a handshake, 21 3 1 .. in an alert) cannot be one: read as a length it is above 64 KiB.
    """
    if len(first) > 2 and 20 <= first[0] <= 23 and first[1] == 3 and 1 <= first[2] <= 4:
        return f"{NOT_A_SERVER}; it answered in TLS: {printable_start(first)}"
    if len(first) > 4 and first[4] not in KNOWN_TYPES:
        return f"{NOT_A_SERVER}; it sent {printable_start(first)}"
    return None


def printable_start(first: bytes) -> str:
    """Show the first bytes of a foreign server, escaped and capped, for an error text."""
    return ascii(bytes(first[:HEADER_SIZE]))[1:]
