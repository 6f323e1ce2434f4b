"""Peers that speak something else: what they are told, and when (SPEC 10).

Here live the preface check and the one helpful line. No byte of the peer's is repeated to it.
"""

from __future__ import annotations

from typing import Final

from .limits import PREFACE

HTTP_METHODS: Final = (b"GET ", b"POST", b"PUT ", b"HEAD", b"DELE", b"OPTI", b"PATC", b"CONN", b"TRAC", b"PRI ")
LINE: Final = (
    b"This port speaks tensorwire (tw://), not HTTP or TLS. Use a tensorwire client: tensorwire.connect(url).\r\n"
)
HTTP_ANSWER: Final = (
    b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n"
    % len(LINE)
) + LINE


def foreign_answer(first: bytes) -> tuple[bytes, str] | None:
    """The answer to a client's first bytes and what it seems to speak; None while they may be tensorwire or HTTP."""
    if PREFACE.startswith(first[: len(PREFACE)]):
        return None
    start = first[:4]
    if start in HTTP_METHODS:
        return HTTP_ANSWER, "the peer speaks HTTP"
    if any(method.startswith(start) for method in HTTP_METHODS):
        return None
    return LINE, "the peer sent no tensorwire preface"


def printable_start(first: bytes) -> str:
    """The first bytes of a foreign server, escaped and capped, for an error text."""
    return ascii(bytes(first[:32]))[1:]
