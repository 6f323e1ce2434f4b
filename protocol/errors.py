"""Errors of the core: which code the peer is told, and whose fault it was.

`ProtocolError` is the peer's fault and never leaves `Connection.received`: it becomes a CLOSE frame and a
`Closed` event. `LocalError` is the caller's fault and is raised at the call. Nothing else is raised here.
"""

from __future__ import annotations

from enum import IntEnum


class ErrorCode(IntEnum):
    """Why a connection ends. The number travels in `aux` of CLOSE and GOAWAY (SPEC 19.2)."""

    NO_ERROR = 0
    PROTOCOL = 1
    FRAME = 2
    TOO_LARGE = 3
    STREAM = 4
    EXTENSION = 5
    HANDSHAKE = 6
    VERSION = 7
    FEATURE = 8
    MAC = 9
    AUTHENTICATION = 10
    TIMEOUT = 11
    CALM = 12
    SHUTDOWN = 13
    INTERNAL = 14
    NOT_TENSORWIRE = 15


def error_code(number: int) -> ErrorCode:
    """Return the code of a number from the wire; an unknown one counts as PROTOCOL."""
    try:
        return ErrorCode(number)
    except ValueError:
        return ErrorCode.PROTOCOL


class ProtocolError(Exception):
    """The peer broke a rule of the connection; `code` is what CLOSE tells it, `message` says what was wrong."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class LocalError(Exception):
    """This side asked for what the state of the connection or stream does not allow; nothing was queued."""
