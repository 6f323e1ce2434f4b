"""How long a drain waits for calls that are on their way, and that a connection over says no more."""

from __future__ import annotations

import pytest

from tensorwire.protocol import ErrorCode, GoAway
from tensorwire.server.front import session_lifetime as module
from tensorwire.server.front.session_lifetime import DRAIN_GRACE, IDLE_DRAIN_GRACE, SessionLifetime
from tests.server.front.harness import Client, Harness


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> Harness:
    made = Harness()
    monkeypatch.setattr(module, "monotonic", lambda: made.loop.now)
    return made


def draining(harness: Harness, *, idle: bool = False) -> tuple[Client, SessionLifetime]:
    """A connection that was told of a drain, and has read that."""
    client = harness.client()
    if not idle:
        client.open("m")
    lifetime: SessionLifetime = client.protocol._session.lifetime
    lifetime.drain()
    assert last_streams(client) == [(1 << 64) - 1]
    return client, lifetime


def last_streams(client: Client) -> list[int]:
    return [event.last_stream_id for event in client.read() if isinstance(event, GoAway)]


@pytest.mark.parametrize(("idle", "grace"), [(False, DRAIN_GRACE), (True, IDLE_DRAIN_GRACE)])
def test_without_an_answer_it_waits_for_the_grace(harness: Harness, idle: bool, grace: float) -> None:
    client, _ = draining(harness, idle=idle)
    harness.loop.advance(0.9 * grace)
    assert last_streams(client) == []
    harness.loop.advance(0.2 * grace)
    assert last_streams(client) == [0 if idle else 1]


def test_it_is_over_once(harness: Harness) -> None:
    client, lifetime = draining(harness)
    lifetime.pong(b"else    ", harness.loop.now)
    assert last_streams(client) == []
    client.write()  # the answer to its PING
    assert last_streams(client) == [1]
    client.core.ping(b"draining")
    client.write()
    lifetime.pong(b"draining", harness.loop.now)
    lifetime.drain()
    harness.loop.advance(10)
    assert last_streams(client) == []


def test_a_closed_one_says_nothing(harness: Harness) -> None:
    client, lifetime = draining(harness)
    lifetime.close(ErrorCode.SHUTDOWN, "the end")
    client.read()
    lifetime.pong(b"draining", harness.loop.now)
    harness.loop.advance(10)
    assert last_streams(client) == []
    assert len(harness.timers) == 0
