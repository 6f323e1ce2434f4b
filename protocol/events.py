"""What the core tells its owner, in wire order: one object per message or turn of events, never per chunk.

Plain `__slots__` classes, since frozen dataclasses cost three times as much to make on the hot path.
"""

from __future__ import annotations

from .errors import ErrorCode
from .handshake import Hello
from .header import END_STREAM
from .status import Status


class Event:
    """Base of all events; compares by value, for tests."""

    __slots__: tuple[str, ...] = ()

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and all(getattr(self, n) == getattr(other, n) for n in _fields(self))

    def __repr__(self) -> str:
        shown = ", ".join(f"{n}={_short(getattr(self, n))}" for n in _fields(self))
        return f"{type(self).__name__}({shown})"

    __hash__ = None  # type: ignore[assignment]


def _fields(event: Event) -> tuple[str, ...]:
    """Names of an event's fields; a compiled class has no __slots__ but a list of its own."""
    kind = type(event)
    names: tuple[str, ...] = getattr(kind, "__mypyc_attrs__", None) or getattr(kind, "__slots__")  # noqa: B009 - the compiler knows no such attribute
    return names


def _short(value: object) -> str:
    if isinstance(value, (bytes, memoryview)) and len(value) > 16:
        return f"<{len(value)} bytes>"
    return repr(bytes(value) if isinstance(value, memoryview) else value)


class Message(Event):
    """One whole message: OPEN (seq 0 from the client) or DATA.

    body: bytes of the message. `owned` False: a view of the receive buffer, to be used before control returns to the
    reader; True: the memory that `reserve` gave for it, filled.
    """

    __slots__ = ("aux", "body", "ext", "flags", "meta", "owned", "priority", "seq", "stream_id")

    def __init__(
        self,
        stream_id: int,
        seq: int,
        flags: int,
        priority: int,
        aux: int,
        ext: bytes,
        meta: bytes,
        body: memoryview,
        owned: bool,
    ) -> None:
        self.stream_id = stream_id
        self.seq = seq
        self.flags = flags
        self.priority = priority
        self.aux = aux
        self.ext = ext
        self.meta = meta
        self.body = body
        self.owned = owned

    @property
    def end_stream(self) -> bool:
        """Whether this is the sender's last message on the stream."""
        return self.flags & END_STREAM != 0


class MessageAborted(Event):
    """Memory reserved for a message of this stream will not be filled: its owner releases it."""

    __slots__ = ("stream_id",)

    def __init__(self, stream_id: int) -> None:
        self.stream_id = stream_id


class Refused(Event):
    """The core refused a message (no memory, too many streams): the peer was told, its bytes are discarded."""

    __slots__ = ("status", "stream_id")

    def __init__(self, stream_id: int, status: Status) -> None:
        self.stream_id = stream_id
        self.status = status


class Ended(Event):
    """Client: the server ended the stream with a status (END), or GOAWAY says it never started."""

    __slots__ = ("detail", "ext", "not_started", "status", "stream_id")

    def __init__(self, stream_id: int, status: Status, not_started: bool, detail: str, ext: bytes) -> None:
        self.stream_id = stream_id
        self.status = status
        self.not_started = not_started
        self.detail = detail
        self.ext = ext


class Cancelled(Event):
    """Server: the client gave the stream up. The owner answers with `end`, unless a terminal already left."""

    __slots__ = ("stream_id",)

    def __init__(self, stream_id: int) -> None:
        self.stream_id = stream_id


class Authenticated(Event):
    """Server: the client is who it says; the owner calls `accept`, or `close` to refuse it."""

    __slots__ = ("hello",)

    def __init__(self, hello: Hello) -> None:
        self.hello = hello


class Ready(Event):
    """Client: the server accepted; payload is a msgpack map, opaque here."""

    __slots__ = ("payload",)

    def __init__(self, payload: bytes) -> None:
        self.payload = payload


class Pong(Event):
    """The answer to `ping`, with its 8 bytes."""

    __slots__ = ("payload",)

    def __init__(self, payload: bytes) -> None:
        self.payload = payload


class GoAway(Event):
    """The server drains; streams above `last_stream_id` have not started (2^64-1: only no new ones, please)."""

    __slots__ = ("code", "detail", "last_stream_id")

    def __init__(self, last_stream_id: int, code: ErrorCode, detail: str) -> None:
        self.last_stream_id = last_stream_id
        self.code = code
        self.detail = detail


class Closed(Event):
    """The connection is over: send what `data_to_send` still gives, then close the socket. Always the last event.

    remote: the peer closed, or its stream ended; else this side did, for the reason in code and detail.
    """

    __slots__ = ("code", "detail", "remote")

    def __init__(self, code: ErrorCode, detail: str, remote: bool) -> None:
        self.code = code
        self.detail = detail
        self.remote = remote
