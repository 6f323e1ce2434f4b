"""Unfinished bodies: their memory is counted, each has its time, and one timer serves all of a connection."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from tensorwire.gpu import Slab, SlabPool
from tensorwire.server.front.body_memory import BODY_RATE, BodyMemory
from tensorwire.server.front.timers import Timers

BODY = 100_000


class FakePool:
    """Gives what is asked for."""

    def __init__(self) -> None:
        self.receiving = 0
        self.pool = SlabPool(1 << 24)

    def take(self, _route: Any, body_length: int, _held: int) -> Slab:
        self.receiving += self.pool.room(body_length)
        slab = self.pool.allocate(body_length)
        assert slab is not None
        return slab


class Harness:
    def __init__(self, timeout: float = 30.0) -> None:
        pool: Any = FakePool()
        self.now = 100.0
        self.armed: list[tuple[float, Callable[[], None]]] = []
        self.late: list[str] = []
        self.pool = pool
        self.timers = Timers(self._call_later, lambda: self.now)
        self.bodies = BodyMemory(self.pool, self.timers, timeout, self.late.append)

    def _call_later(self, delay: float, callback: Callable[[], None]) -> Any:
        entry = (self.now + delay, callback)
        self.armed.append(entry)
        return SimpleNamespace(cancel=lambda: self.armed.remove(entry) if entry in self.armed else None)

    def reserve(self, stream_id: int, nbytes: int = BODY) -> Slab:
        route: Any = None
        return self.bodies.reserve(stream_id, route, nbytes, self.now).slab

    def advance(self, seconds: float) -> None:
        self.now += seconds
        for entry in [entry for entry in self.armed if entry[0] <= self.now]:
            self.armed.remove(entry)
            entry[1]()


def taken(harness: Harness, stream_id: int) -> Slab | None:
    body = harness.bodies.take(stream_id)
    return None if body is None else body.slab


def test_memory_is_counted_from_the_reservation_until_it_is_taken() -> None:
    harness = Harness()
    slab = harness.reserve(1)
    assert harness.bodies.held == harness.pool.receiving == harness.pool.pool.room(BODY) == 131072
    assert taken(harness, 1) is slab
    assert taken(harness, 1) is None
    assert harness.bodies.held == harness.pool.receiving == 0


def test_a_body_that_does_not_come_is_late_after_its_time() -> None:
    harness = Harness()
    harness.reserve(1)
    harness.advance(30.0)
    assert harness.late == []
    harness.advance(BODY / BODY_RATE + 0.01)
    assert harness.late == [f"stream 1: the body of {BODY} bytes was not complete after 30.1 s"]


def test_a_body_that_came_in_time_is_never_late() -> None:
    harness = Harness()
    slab = harness.reserve(1)
    harness.bodies.take(1)
    harness.advance(100.0)
    assert harness.late == []
    slab.release()


def test_a_later_body_has_its_own_time() -> None:
    harness = Harness()
    harness.reserve(1)
    harness.advance(20.0)
    harness.bodies.take(1)
    harness.reserve(2)
    harness.advance(20.0)
    assert harness.late == []
    harness.advance(10.2)
    assert [text.split(":")[0] for text in harness.late] == ["stream 2"]


def test_a_small_body_behind_a_large_one_is_not_waited_for_longer() -> None:
    harness = Harness(1.0)
    harness.reserve(1, 3 << 20)
    harness.reserve(2)
    harness.advance(1.2)
    assert [text.split(":")[0] for text in harness.late] == ["stream 2"]


def test_one_timer_serves_any_number_of_bodies() -> None:
    harness = Harness()
    for stream_id in range(1, 1000):
        harness.reserve(stream_id).release()
        harness.bodies.take(stream_id)
    assert len(harness.timers) == 1


def test_close_gives_all_memory_back_and_leaves_no_timer() -> None:
    harness = Harness()
    for stream_id in (1, 2, 3):
        harness.reserve(stream_id)
    harness.bodies.close()
    assert harness.pool.pool.in_use == harness.pool.receiving == len(harness.bodies) == 0
    harness.advance(100.0)
    assert harness.late == []
