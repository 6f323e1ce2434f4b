"""The queue: order within a flow, counts, and no stale entries."""

from __future__ import annotations

from tensorwire.server.engine.api import Request
from tensorwire.server.engine.queue import COMPACT_FROM, Queue


def request(stream: int, **options: float) -> Request:
    made = Request(
        stream,
        float(stream),
        priority=int(options.get("priority", 0)),
        principal=int(options.get("principal", 0)),
        deadline=options.get("deadline", float("inf")),
    )
    made.rows = 1
    return made


def test_one_flow_keeps_the_order_of_arrival() -> None:
    queue = Queue()
    requests = [request(n) for n in range(5)]
    for each in requests:
        queue.push(each)
    flow = queue.only_flow
    assert flow is not None
    assert flow.requests == requests
    assert not flow.reordered
    queue.start_front(flow, flow.requests[:2])
    assert len(queue) == 3
    assert [r.queued for r in requests] == [False, False, True, True, True]


def test_an_earlier_deadline_goes_before_and_ties_keep_their_order() -> None:
    queue = Queue()
    for stream, deadline in enumerate([5.0, 9.0, 3.0, 5.0, float("inf"), 3.0]):
        queue.push(request(stream, deadline=deadline))
    flow = queue.only_flow
    assert flow is not None
    assert flow.reordered
    assert [r.stream_id for r in flow.requests] == [2, 5, 0, 3, 1, 4]


def test_flows_open_and_close_with_their_requests() -> None:
    queue = Queue()
    first, second = request(1, principal=1), request(2, principal=2, priority=3)
    queue.push(first)
    queue.push(second)
    assert queue.only_flow is None
    assert sorted(queue.classes) == [0, 3]
    assert queue.remove(first)
    assert [flow.principal for flow in queue.flows] == [2]
    assert sorted(queue.classes) == [3]


def test_an_idle_flow_makes_way_for_another_principal() -> None:
    queue = Queue()
    for principal in range(50):
        each = request(principal, principal=principal)
        queue.push(each)
        assert queue.only_flow is not None
        queue.start_front(queue.only_flow, queue.only_flow.requests[:1])
    assert len(list(queue.flows)) == 1
    assert len(queue.classes) == 1


def test_removing_twice_is_harmless() -> None:
    queue = Queue()
    only = request(1)
    queue.push(only)
    assert queue.remove(only)
    assert not queue.remove(only)
    assert len(queue) == 0


def test_cancelled_requests_leave_nothing_behind() -> None:
    """Open and cancel behind a request that stays: the order of arrival must not grow without bound."""
    queue = Queue()
    queue.push(request(0))
    for stream in range(1, 10_000):
        each = request(stream)
        queue.push(each)
        queue.remove(each)
    assert len(queue) == 1
    assert len(queue.arrivals) <= 2 * 1 + COMPACT_FROM + 1
