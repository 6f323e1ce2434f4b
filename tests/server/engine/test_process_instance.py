"""What is told to a process keeps its order, also when its ring is full."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tensorwire.gpu import SlabPool
from tensorwire.server.engine.batch_memory import BatchMemory
from tensorwire.server.engine.inflight import InFlight
from tensorwire.server.engine.process_instance import ProcessInstance
from tensorwire.server.engine.records import CANCEL, RELEASE, TO_ENGINE
from tensorwire.server.engine.ring import Ring


class Harness:
    def __init__(self) -> None:
        pool = SlabPool(1 << 20)
        self.ring = Ring(TO_ENGINE, 4)
        self.other = Ring(TO_ENGINE, 4, self.ring.fd, self.ring.event)
        self.wakes = 0
        worker: Any = SimpleNamespace(to_engine=self.ring)
        self.instance = ProcessInstance(worker, pool, InFlight(4, BatchMemory(pool, 1)), self._wake)

    def _wake(self) -> None:
        self.wakes += 1


@pytest.fixture
def harness() -> Iterator[Harness]:
    made = Harness()
    yield made
    made.other.close()
    made.ring.close()


def test_nothing_is_seen_before_it_is_handed_over(harness: Harness) -> None:
    harness.instance.tell(CANCEL, slot=3)
    assert (harness.other.read(), harness.wakes) == ([], 1)
    harness.instance.hand_over()
    assert [(record[0], record[3]) for record in harness.other.read()] == [(CANCEL, 3)]


def test_what_finds_the_ring_full_waits_its_turn(harness: Harness) -> None:
    for slot in range(10):
        harness.instance.tell(CANCEL, slot=slot)
    seen = []
    for _ in range(4):
        harness.instance.hand_over()
        seen += [record[3] for record in harness.other.read()]
    assert seen == list(range(10))


def test_released_results_are_told_with_the_next_turn(harness: Harness) -> None:
    harness.instance.leases.lease(memoryview(bytearray(64)), 4096)
    harness.instance.hand_over()
    assert [(record[0], record[8]) for record in harness.other.read()] == [(RELEASE, 4096)]
