"""What connections share: who is let in, the way back from engines, and what is said of those we closed."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from tensorwire.protocol import Status
from tensorwire.server.engine.api import Failure
from tensorwire.server.front.connection_table import LOG_LINES
from tests.server.front.harness import Client, Harness


def test_connections_beyond_the_limit_are_dropped_and_counted() -> None:
    harness = Harness(("max_connections", "2"))
    clients = [Client(harness) for _ in range(3)]
    assert [client.wire.aborted for client in clients] == [False, False, True]
    assert harness.front.metrics.connections_dropped == {"too_many_connections": 1}
    clients[0].protocol.connection_lost(None)
    assert not Client(harness).wire.aborted


def test_the_replies_of_one_batch_leave_in_one_write_per_connection() -> None:
    harness = Harness()
    clients = [harness.client(), harness.client()]
    for client in clients * 3:
        client.open("m")
    writes: list[bytes] = []
    for client in clients:
        client.wire.write = writes.append
    harness.finish(*harness.engine.taken)
    assert len(writes) == 2
    assert harness.model.stats.by_status[Status.OK] == 6
    assert harness.model.stats.batch_rows == 6


def test_a_batch_and_a_failure_may_come_together() -> None:
    harness = Harness()
    client = harness.client()
    streams = [client.open("m"), client.open("m")]
    harness.finish(harness.engine.taken[0])
    harness.fail(Failure([harness.engine.taken[1]], Status.INTERNAL, "model raised", started=True))
    assert [event.stream_id for event in client.read()] == streams  # type: ignore[attr-defined]


def test_a_flood_of_strangers_is_not_a_flood_of_log(caplog: pytest.LogCaptureFixture) -> None:
    harness = Harness()
    with caplog.at_level(logging.INFO):
        for _ in range(5 * LOG_LINES):
            client = Client(harness)
            client.feed(b"GET / HTTP/1.1\r\n\r\n")
    assert sum(harness.front.metrics.connections_dropped.values()) == 5 * LOG_LINES
    assert len(caplog.records) <= LOG_LINES + 1


@pytest.mark.parametrize(
    ("flags", "budget"),
    [((), 1 << 20), ((("host", "0.0.0.0"),), 256 << 10), ((("unsent_low_water", "4KiB"),), 256 << 10)],
)
def test_a_connection_is_asked_for_what_the_kernel_may_keep_unsent_and_for_a_chunk_at_least(
    flags: tuple[tuple[str, str], ...], budget: int
) -> None:
    assert Harness(*flags).front.context.write_budget == budget


def test_an_engine_that_raises_does_not_cost_the_others_their_turn() -> None:
    """They were told that their turn comes, and do not ask for it again."""
    harness = Harness()
    steps: list[str] = []

    def engine(name: str, error: Exception | None = None) -> Any:
        def step() -> None:
            steps.append(name)
            if error is not None:
                raise error

        return SimpleNamespace(step=step, short_of_memory=False)

    for each in (engine("first"), engine("broken", RuntimeError("a fault")), engine("last")):
        harness.front.dispatcher.wake(each)
    with pytest.raises(RuntimeError, match="a fault"):
        harness.loop.soon.pop(0)()
    assert steps == ["first", "broken"]
    harness.loop.soon.pop(0)()
    assert steps == ["first", "broken", "last"]
