"""How long a drain waits for calls that are on their way."""

from __future__ import annotations

from typing import Any

import pytest

from tensorwire.server.front.drain import DRAINING, GRACE, IDLE_GRACE, Drain
from tensorwire.server.front.timers import Timers
from tests.server.front.harness import FakeLoop


class FakeConnection:
    """Notes what is said."""

    def __init__(self) -> None:
        self.said: list[object] = []

    def goaway(self, last_stream_id: int, code: int, detail: str) -> None:
        self.said.append(last_stream_id)

    def ping(self, payload: bytes) -> None:
        self.said.append(payload)


def drain(loop: FakeLoop, here: list[float], *, idle: bool = False) -> tuple[Drain, bytes]:
    connection: Any = FakeConnection()
    made = Drain(connection, Timers(loop.call_later, lambda: loop.now), here.append, loop.now, DRAINING, idle=idle)
    assert connection.said[0] == (1 << 64) - 1
    return made, connection.said[1]


@pytest.mark.parametrize(("idle", "grace"), [(False, GRACE), (True, IDLE_GRACE)])
def test_without_an_answer_it_waits_for_the_grace(idle: bool, grace: float) -> None:
    loop, here = FakeLoop(), list[float]()
    drain(loop, here, idle=idle)
    loop.advance(0.9 * grace)
    assert here == []
    loop.advance(0.2 * grace)
    assert here == [loop.now]


def test_it_is_over_once() -> None:
    loop, here = FakeLoop(), list[float]()
    made, ping = drain(loop, here)
    made.answered(b"else    ", 1.0)
    assert here == []
    made.answered(ping, 2.0)
    made.answered(ping, 3.0)
    loop.advance(10)
    assert here == [2.0]


def test_a_closed_one_says_nothing() -> None:
    loop, here = FakeLoop(), list[float]()
    made, ping = drain(loop, here)
    made.close()
    made.answered(ping, 2.0)
    loop.advance(10)
    assert here == []
