"""What an idle connection costs: thousands of them wait for work that may never come."""

from __future__ import annotations

import gc
import tracemalloc

import pytest

from tensorwire.protocol import Config, Connection, Role
from tests.protocol.wiring import BOOT_ID, READY, SERVER_NONCE, feed, make_client, pump, wire_bytes

CONNECTIONS = 1000
BOUND = 2048  # bytes per idle connection; measured 1700 before the first call and 1860 after it


def idle_server(shared: memoryview, config: Config, calls: int) -> Connection:
    server = Connection(
        config, nonce=SERVER_NONCE, now=0.0, receive_buffer=shared, connection_id=bytes(8), boot_id=BOOT_ID
    )
    client = make_client()
    feed(server, wire_bytes(client))
    feed(client, wire_bytes(server))
    feed(server, wire_bytes(client))
    server.accept(READY)
    for _ in range(calls):
        stream_id = client.open(b"m", b"", [b"x"], 1)
        pump(client, server)
        server.send(stream_id, b"m", b"", [b"y"], 1)
    pump(client, server)
    return server


@pytest.mark.parametrize("calls", [0, 3])
def test_an_idle_server_connection_is_small(calls: int) -> None:
    shared, config = memoryview(bytearray(262144)), Config(Role.SERVER)
    idle_server(shared, config, calls)  # what is made once stays out of the count
    gc.collect()
    tracemalloc.start()
    try:
        kept = [idle_server(shared, config, calls) for _ in range(CONNECTIONS)]
        gc.collect()
        per_connection = tracemalloc.get_traced_memory()[0] / len(kept)
    finally:
        tracemalloc.stop()
    assert per_connection <= BOUND
