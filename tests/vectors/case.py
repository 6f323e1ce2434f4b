"""How a vector is written down: steps at one role, from a fresh connection or from an open one.

What lives here: the shape of a vector. What must not: bytes (wire.py) and the cases themselves (cases_*.py).
"""

from __future__ import annotations

from tests.vectors import wire
from tests.vectors.wire import Parts, parts

Step = dict[str, object]
Event = dict[str, object]
Vector = dict[str, object]


def receive(*pieces: bytes) -> Step:
    """Bytes that arrive from the peer; each piece is one string, for the reader's eye."""
    return {"receive": parts(*pieces)}


def expect(*events: Event) -> Step:
    """All events since the last `expect`."""
    return {"expect": list(events)}


def sends(*pieces: bytes) -> Step:
    """All bytes that the role under test has sent since the last `sends`."""
    return {"sends": parts(*pieces)}


def do(action: str, **arguments: object) -> Step:
    """Something that the role's owner asks of it."""
    return {"do": action, **arguments}


def closed(code: int, *, remote: bool = False) -> Event:
    """The connection is over."""
    return {"event": "closed", "code": code, "remote": remote}


def message(
    stream: int,
    seq: int = 0,
    *,
    end_stream: bool = True,
    want_timing: bool = False,
    priority: int = 0,
    aux: int = 0,
    ext: bytes = b"",
    meta: bytes = b"",
    body: bytes = b"",
) -> Event:
    """A whole message arrived."""
    return {
        "event": "message",
        "stream": stream,
        "seq": seq,
        "end_stream": end_stream,
        "want_timing": want_timing,
        "priority": priority,
        "aux": aux,
        "extension": ext.hex(),
        "metadata": parts(meta),
        "body": parts(body),
    }


def ended(stream: int, status: int, *, not_started: bool = False, detail: str = "", ext: bytes = b"") -> Event:
    """The server ended the stream with a status."""
    return {
        "event": "ended",
        "stream": stream,
        "status": status,
        "not_started": not_started,
        "detail": detail,
        "extension": ext.hex(),
    }


def vector(name: str, section: str, role: str, *steps: Step, start: str = "open", **more: object) -> Vector:
    """A vector; it is invalid if the role under test ends the connection because of what it received."""
    valid = not any(_ends_in_error(step) for step in steps)
    return {
        "name": name,
        "section": section,
        "role": role,
        "start": start,
        "valid": valid,
        **more,
        "steps": list(steps),
    }


def _ends_in_error(step: Step) -> bool:
    events = step.get("expect", [])
    return isinstance(events, list) and any(e["event"] == "closed" and not e["remote"] and e["code"] for e in events)


def refused(
    name: str, section: str, role: str, code: int, *pieces: bytes, start: str = "open", before: tuple[Step, ...] = ()
) -> Vector:
    """A vector whose bytes are a connection error with this code."""
    return vector(name, section, role, *before, receive(*pieces), expect(closed(code)), start=start)


def accepted(name: str, section: str, role: str, *pieces: bytes, events: tuple[Event, ...] = ()) -> Vector:
    """A vector whose bytes are fine on an open connection and give these events."""
    return vector(name, section, role, receive(*pieces), expect(*events))


def opened(streams: int = 1, flags: int = wire.END_STREAM) -> tuple[Step, ...]:
    """Steps of a client that has opened streams 1..n with empty bodies."""
    return tuple(do("open", metadata="", extension="", body=[], flags=flags) for _ in range(streams))


PRELUDE: dict[str, list[Step]] = {
    "server": [
        receive(wire.PREFACE, wire.hello()),
        sends(wire.welcome()),
        receive(wire.AUTH_FRAME),
        expect({"event": "authenticated"}),
        do("accept", ready=wire.ready_payload().hex()),
        sends(wire.READY_FRAME),
    ],
    "client": [
        sends(wire.PREFACE, wire.hello()),
        receive(wire.welcome()),
        sends(wire.AUTH_FRAME),
        receive(wire.READY_FRAME),
        expect({"event": "ready", "payload": wire.ready_payload().hex()}),
    ],
}
CONFIG: dict[str, object] = {
    "agent": "vectors/1",
    "client_nonce": wire.CLIENT_NONCE.hex(),
    "server_nonce": wire.SERVER_NONCE.hex(),
    "connection_id": wire.CONNECTION_ID.hex(),
    "boot_id": wire.BOOT_ID.hex(),
    "chunk": wire.CHUNK,
    "max_streams": wire.MAX_STREAMS,
    "max_message": wire.MAX_MESSAGE,
}

__all__ = ["CONFIG", "PRELUDE", "Event", "Parts", "Step", "Vector"]
