"""The table of requests in flight: slots come back, rows come back, and no request is lost or answered twice."""

from __future__ import annotations

from math import inf

import pytest

from tensorwire.gpu import SlabPool
from tensorwire.server.engine.api import Request
from tensorwire.server.engine.batch_memory import BatchMemory
from tensorwire.server.engine.blocks import Block
from tensorwire.server.engine.inflight import InFlight, NotInFlightError


class Table:
    """Four slots, each request with one row of a block that fills a slab."""

    def __init__(self) -> None:
        self.pool = SlabPool(1 << 20)
        self.marks = memoryview(bytearray(4))
        self.slots = BatchMemory(self.pool, 1)
        self.table = InFlight(4, self.slots)

    def add(self, arrived: float = 0.0, deadline: float = inf) -> Request:
        request = Request(0, arrived, deadline=deadline)
        slab = self.pool.allocate(64)
        assert slab is not None
        request.block = Block(None, slab.view, 1, (), slab)
        request.block.live = request.rows = 1
        request.slot = self.table.free.pop()
        self.table.pending[request.slot] = request
        return request


def test_finished_requests_free_their_slots_and_their_memory() -> None:
    t = Table()
    first, second = t.add(), t.add()
    assert t.table.count == 2
    slots = [second.slot, first.slot]
    assert t.table.finish(t.marks, slots) == [second, first]
    assert t.table.count == 0
    assert t.pool.in_use == 0
    assert first.slot == -1


def test_started_is_what_the_mark_says_and_the_mark_is_cleared() -> None:
    t = Table()
    first, second = t.add(), t.add()
    t.marks[second.slot] = 1
    t.table.finish(t.marks, [first.slot, second.slot])
    assert (first.started, second.started) == (False, True)
    assert bytes(t.marks) == bytes(4)


def test_everything_is_over_in_order_of_arrival_and_apart_by_started() -> None:
    t = Table()
    requests = [t.add(arrived=3 - n) for n in range(4)]
    for request in requests[:2]:
        t.marks[request.slot] = 1
    started, waiting = t.table.finish_all(t.marks)
    assert started == [requests[1], requests[0]]
    assert waiting == [requests[3], requests[2]]
    assert t.pool.in_use == 0


@pytest.mark.parametrize("answer", ["free", "twice", "outside"])
def test_an_impossible_answer_changes_nothing(answer: str) -> None:
    t = Table()
    request = t.add()
    slots = {"free": [request.slot, t.table.free[0]], "twice": [request.slot] * 2, "outside": [request.slot, 4]}[answer]
    with pytest.raises((NotInFlightError, IndexError)):
        t.table.finish(t.marks, slots)
    assert t.table.holds(request)
    assert t.pool.in_use > 0


def test_late_are_those_past_their_deadline_and_not_given_up() -> None:
    t = Table()
    late, given_up, _ = t.add(deadline=1.0), t.add(deadline=1.0), t.add(deadline=3.0)
    given_up.done = True
    assert t.table.late(2.0) == [late]
