"""Two cores joined back to back, and owners that behave: shared by the tests of this folder.

What lives here: moving bytes between connections, and copying events out of the receive buffer. No checks.
"""

from __future__ import annotations

from collections.abc import Iterable

from tensorwire.protocol import (
    Config,
    Connection,
    Event,
    Limits,
    Message,
    Reserve,
    Role,
)

CLIENT_NONCE = bytes(range(32))
SERVER_NONCE = bytes(range(32, 64))
CONNECTION_ID = b"\x5f\x0c\x1d\x2e\x3b\x4a\x59\x68"
BOOT_ID = bytes(range(16))
READY = b"\x80"


def make_client(
    limits: Limits | None = None, reserve: Reserve | None = None, now: float = 0.0, config: Config | None = None
) -> Connection:
    """A client before its first write."""
    return Connection(
        config or Config(Role.CLIENT, limits=limits or Limits()), nonce=CLIENT_NONCE, now=now, reserve=reserve
    )


def make_server(
    limits: Limits | None = None, reserve: Reserve | None = None, now: float = 0.0, config: Config | None = None
) -> Connection:
    """A server before its first byte."""
    return Connection(
        config or Config(Role.SERVER, limits=limits or Limits()),
        nonce=SERVER_NONCE,
        now=now,
        reserve=reserve,
        connection_id=CONNECTION_ID,
        boot_id=BOOT_ID,
    )


def wire_bytes(connection: Connection, budget: int = 1 << 20) -> bytes:
    """Everything the connection has to send, as one string."""
    out = bytearray()
    while buffers := connection.data_to_send(budget):
        for buffer in buffers:
            out += buffer
    return bytes(out)


def detach(event: Event) -> Event:
    """The same event, with a body that outlives the receive buffer."""
    if isinstance(event, Message):
        event.body = memoryview(bytes(event.body))
        event.owned = True
    return event


def feed(connection: Connection, data: bytes, sizes: Iterable[int] = (), now: float = 0.0) -> list[Event]:
    """Give bytes to a connection as a socket would, each read cut to the next of `sizes`; the events, detached."""
    events: list[Event] = []
    reads = iter(sizes)
    view = memoryview(data)
    while view:
        buffer = connection.next_buffer()
        n = min(len(buffer), len(view), next(reads, len(view)))
        buffer[:n] = view[:n]
        view = view[n:]
        events += [detach(event) for event in connection.received(n, now)]
        if connection.closed:
            break
    return events


def pump(client: Connection, server: Connection, now: float = 0.0) -> tuple[list[Event], list[Event]]:
    """Move bytes both ways until both are quiet; what the client saw and what the server saw."""
    seen: tuple[list[Event], list[Event]] = ([], [])
    while True:
        up, down = wire_bytes(client), wire_bytes(server)
        if not up and not down:
            return seen
        if up and not server.closed:
            seen[1].extend(feed(server, up, now=now))
        if down and not client.closed:
            seen[0].extend(feed(client, down, now=now))


def open_pair(
    *,
    client_limits: Limits | None = None,
    server_limits: Limits | None = None,
    client_reserve: Reserve | None = None,
    server_reserve: Reserve | None = None,
) -> tuple[Connection, Connection]:
    """A client and a server past their handshake."""
    client = make_client(client_limits, client_reserve)
    server = make_server(server_limits, server_reserve)
    feed(server, wire_bytes(client))
    feed(client, wire_bytes(server))
    feed(server, wire_bytes(client))
    server.accept(READY)
    feed(client, wire_bytes(server))
    return client, server
