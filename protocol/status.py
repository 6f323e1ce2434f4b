"""Status codes of calls: gRPC's seventeen, by name and number (SPEC 19.1).

Here lives the enum alone. What a status means to a caller (retry, raise, ignore) belongs to the clients.
"""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """How a call ended. The number travels in `aux` of END."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16
