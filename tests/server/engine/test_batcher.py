"""The rules of what runs next, as properties over arbitrary queues and as examples."""

from __future__ import annotations

from math import inf
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorwire.server.engine.api import Request
from tensorwire.server.engine.batcher import Plan, Rules, commit, expired, plan
from tensorwire.server.engine.queue import Queue

BUCKETS: list[Any] = [SimpleNamespace(bucket=object()) for _ in range(3)]
ALONE: Any = SimpleNamespace(bucket=None)


def make(
    stream: int,
    rows: int = 1,
    *,
    bucket: int = 0,
    priority: int = 0,
    principal: int = 0,
    deadline: float = inf,
    arrived: float = 0.0,
) -> Request:
    request = Request(stream, arrived, priority=priority, principal=principal, deadline=deadline)
    request.rows = rows
    request.prepared = ALONE if bucket < 0 else BUCKETS[bucket]
    return request


def queue_of(*requests: Request) -> Queue:
    queue = Queue()
    for request in requests:
        queue.push(request)
    return queue


def take(queue: Queue, now: float, rules: Rules) -> Plan:
    planned = plan(queue, now, rules)
    if planned.requests or planned.expired:
        commit(queue, planned)
    return planned


def ids(planned: Plan) -> list[int]:
    return [request.stream_id for request in planned.requests]


requests_strategy: st.SearchStrategy[list[dict[str, Any]]] = st.lists(
    st.builds(
        dict,
        rows=st.integers(1, 8),
        bucket=st.integers(-1, 2),
        priority=st.integers(0, 2),
        principal=st.integers(0, 3),
        deadline=st.one_of(st.just(inf), st.integers(1, 20).map(float)),
    ),
    max_size=40,
)


def build(items: list[dict[str, Any]]) -> list[Request]:
    return [make(stream, arrived=stream / 100, **item) for stream, item in enumerate(items)]


def bucket_of(request: Request) -> object:
    return request.prepared.bucket if request.prepared is not None else None


@given(requests_strategy, st.integers(1, 8), st.integers(0, 20), st.sampled_from([0.05, 1.0, inf]), st.booleans())
def test_every_plan_keeps_the_rules(
    items: list[dict[str, Any]], max_rows: int, now: int, starvation: float, one_principal: bool
) -> None:
    queue = queue_of(*build(items))
    before = list(queue)
    rules = Rules(max_rows, starvation=starvation, one_principal=one_principal)
    planned = plan(queue, float(now), rules)

    assert list(queue) == before, "planning changes nothing"
    assert len(set(map(id, planned.requests))) == len(planned.requests)
    assert planned.rows == sum(request.rows for request in planned.requests)
    assert all(request.deadline > now for request in planned.requests)
    if len(planned.requests) > 1:
        assert planned.rows <= max_rows
        assert bucket_of(planned.requests[0]) is not None
        assert len({id(bucket_of(request)) for request in planned.requests}) == 1
    if max_rows == 1:
        assert len(planned.requests) <= 1, "every call alone, whatever its rows"
    if one_principal:
        assert len({request.principal for request in planned.requests}) <= 1
    late = [request for request in before if request.deadline <= now]
    if len(late) < len(before):
        assert planned.requests, "an idle model never waits while there is work"
    assert sorted(map(id, planned.expired)) == sorted(map(id, late)) == sorted(map(id, expired(queue, float(now))))


@given(requests_strategy, st.integers(1, 8), st.sampled_from([0.05, inf]), st.booleans())
def test_every_request_comes_out_exactly_once(
    items: list[dict[str, Any]], max_rows: int, starvation: float, one_principal: bool
) -> None:
    requests = build(items)
    queue = queue_of(*requests)
    seen: list[Request] = []
    now = 0.0
    while len(queue):
        waiting = len(queue)
        planned = take(queue, now, Rules(max_rows, starvation=starvation, one_principal=one_principal))
        seen += planned.requests + planned.expired
        assert len(queue) == waiting - len(planned.requests) - len(planned.expired)
        assert planned.requests or planned.expired
        now += 1.0
    assert sorted(r.stream_id for r in seen) == [r.stream_id for r in requests]
    assert not any(r.queued for r in requests)
    assert not queue.arrivals


@given(requests_strategy, st.integers(1, 8))
def test_within_a_principal_earliest_deadline_first(items: list[dict[str, Any]], max_rows: int) -> None:
    for item in items:
        item |= {"priority": 0, "principal": 0, "bucket": 0}
    queue = queue_of(*build(items))
    planned = plan(queue, 0.0, Rules(max_rows, starvation=inf))
    order = sorted(queue, key=lambda request: (request.deadline, request.stream_id))
    assert planned.requests == order[: len(planned.requests)]


@given(requests_strategy, st.integers(1, 8))
def test_the_most_urgent_class_goes_first(items: list[dict[str, Any]], max_rows: int) -> None:
    requests = build(items)
    planned = plan(queue_of(*requests), 0.0, Rules(max_rows, starvation=inf))
    if requests:
        assert planned.requests[0].priority == max(request.priority for request in requests)
        priorities = [request.priority for request in planned.requests]
        assert priorities == sorted(priorities, reverse=True)


def test_one_principal_is_first_come_first_served() -> None:
    queue = queue_of(*(make(n) for n in range(10)))
    planned = take(queue, 0.0, Rules(4))
    assert ids(planned) == [0, 1, 2, 3]
    assert planned.prefix is not None, "the fast path"
    assert ids(take(queue, 0.0, Rules(4))) == [4, 5, 6, 7]
    assert ids(take(queue, 0.0, Rules(4))) == [8, 9]


def test_mixed_shapes_gather_their_own_kind() -> None:
    queue = queue_of(*(make(n, bucket=n % 2) for n in range(8)))
    assert ids(take(queue, 0.0, Rules(4))) == [0, 2, 4, 6]
    assert ids(take(queue, 0.0, Rules(4))) == [1, 3, 5, 7]


def test_a_call_put_off_for_its_size_does_not_join_another_shape() -> None:
    queue = queue_of(make(0, rows=4, bucket=1, principal=2), make(1, principal=1), make(2, principal=1))
    rules = Rules(8, quantum=1)
    assert ids(take(queue, 0.0, rules)) == [1, 2]
    assert ids(take(queue, 0.0, rules)) == [0]


def test_a_call_without_bucket_runs_alone() -> None:
    queue = queue_of(make(0, bucket=-1), make(1, bucket=-1), make(2))
    assert ids(take(queue, 0.0, Rules(8))) == [0]
    assert ids(take(queue, 0.0, Rules(8))) == [1]
    assert ids(take(queue, 0.0, Rules(8))) == [2]


def test_a_call_larger_than_the_measured_batch_runs_alone() -> None:
    queue = queue_of(make(0, rows=16), make(1))
    assert ids(take(queue, 0.0, Rules(4))) == [0]
    assert ids(take(queue, 0.0, Rules(4))) == [1]


def test_principals_that_share_no_batch_take_turns_with_whole_ones() -> None:
    queue = queue_of(*(make(n, principal=1 + n % 2) for n in range(16)))
    rules = Rules(4, starvation=inf, one_principal=True)
    batches = [take(queue, 0.0, rules).requests for _ in range(4)]
    assert [len(batch) for batch in batches] == [4, 4, 4, 4]
    turns = [{request.principal for request in batch} for batch in batches]
    assert turns in ([{1}, {2}, {1}, {2}], [{2}, {1}, {2}, {1}])


def test_one_principal_fills_its_batch_from_its_lower_classes_alone() -> None:
    queue = queue_of(make(0, principal=1, priority=2), make(1, principal=2, priority=1), make(2, principal=1))
    assert ids(take(queue, 0.0, Rules(4, one_principal=True))) == [0, 2]
    assert ids(take(queue, 0.0, Rules(4, one_principal=True))) == [1]


def test_a_call_that_runs_alone_is_not_made_to_wait_for_others() -> None:
    assert ids(plan(queue_of(make(0, arrived=10.0)), 10.0, Rules(1, max_wait=1.0))) == [0]


def test_a_waiting_class_is_served_after_the_starvation_bound() -> None:
    rules = Rules(1, starvation=1.0)
    queue = queue_of(make(0, priority=0, arrived=0.0))
    served_at = None
    stream = 1
    for tick in range(30):
        now = tick / 10
        for _ in range(3):  # more urgent work than there is room for, for ever
            queue.push(make(stream, priority=5, arrived=now))
            stream += 1
        planned = take(queue, now, rules)
        if ids(planned) == [0]:
            served_at = now
            break
    assert served_at == pytest.approx(1.1)


def test_no_deadline_is_not_starved_by_deadlines() -> None:
    rules = Rules(1, starvation=1.0)
    queue = queue_of(make(0, arrived=0.0))
    for tick in range(30):
        now = tick / 10
        for copy in range(2):
            queue.push(make(1 + 2 * tick + copy, deadline=now + 100, arrived=now))
        if ids(take(queue, now, rules)) == [0]:
            assert now == pytest.approx(1.1)
            return
    pytest.fail("never served")


def test_principals_share_a_batch_by_rows() -> None:
    queue = queue_of(*(make(n, principal=1) for n in range(100)), *(make(100 + n, principal=2) for n in range(100)))
    shares = {1: 0, 2: 0}
    for _ in range(5):
        for request in take(queue, 0.0, Rules(8, starvation=inf)).requests:
            shares[request.principal] += 1
    assert shares == {1: 20, 2: 20}


def test_a_batch_of_one_alternates_between_principals() -> None:
    queue = queue_of(*(make(n, principal=1) for n in range(4)), *(make(10 + n, principal=2) for n in range(4)))
    order = [take(queue, 0.0, Rules(1, starvation=inf)).requests[0].principal for _ in range(6)]
    assert order in ([1, 2] * 3, [2, 1] * 3)


def test_a_big_call_is_not_crowded_out_by_small_ones() -> None:
    queue = queue_of(make(0, rows=8, principal=2), *(make(1 + n, principal=1) for n in range(200)))
    for batches in range(20):
        if 0 in ids(take(queue, 0.0, Rules(8, starvation=inf))):
            assert batches < 10
            return
    pytest.fail("never served")


def test_more_principals_than_rows_all_get_their_turn() -> None:
    requests = [make(10 * p + n, principal=p) for p in range(12) for n in range(5)]
    queue = queue_of(*requests)
    served: set[int] = set()
    for _ in range(12):
        served |= {request.principal for request in take(queue, 0.0, Rules(4, starvation=inf)).requests}
    assert served == set(range(12))


def test_an_idle_model_waits_only_if_asked_to() -> None:
    queue = queue_of(make(0, arrived=10.0), make(1, arrived=10.5))
    assert ids(plan(queue, 10.5, Rules(4))) == [0, 1]
    waiting = plan(queue, 10.5, Rules(4, max_wait=1.0))
    assert ids(waiting) == []
    assert waiting.wait_until == 11.0
    assert ids(plan(queue, 11.0, Rules(4, max_wait=1.0))) == [0, 1]
    assert ids(plan(queue, 10.5, Rules(2, max_wait=1.0))) == [0, 1], "a full batch does not wait"


def test_waiting_never_costs_a_deadline() -> None:
    queue = queue_of(make(0, arrived=10.0, deadline=10.8))
    assert ids(plan(queue, 10.1, Rules(4, max_wait=1.0))) == [0]


def test_no_call_waits_longer_because_another_goes_first() -> None:
    """An idle model waits for the one that came first, whoever's turn it is: not for each that overtakes it anew."""
    queue = queue_of(make(0, arrived=10.0, bucket=0), make(1, arrived=10.9, bucket=1, priority=9))
    assert plan(queue, 10.9, Rules(4, max_wait=1.0)).wait_until == 11.0
    assert ids(take(queue, 11.0, Rules(4, max_wait=1.0))) == [1]
    assert ids(take(queue, 11.0, Rules(4, max_wait=1.0))) == [0]


def test_waiting_never_costs_the_deadline_of_one_whose_turn_it_is_not() -> None:
    queue = queue_of(make(0, arrived=10.0, bucket=0, deadline=10.8), make(1, arrived=10.1, bucket=1, priority=9))
    assert ids(take(queue, 10.1, Rules(4, max_wait=1.0))) == [1]
    assert ids(take(queue, 10.1, Rules(4, max_wait=1.0))) == [0]


def test_expired_requests_are_dropped_and_named() -> None:
    queue = queue_of(make(0, deadline=1.0), make(1, deadline=5.0), make(2))
    planned = take(queue, 2.0, Rules(8))
    assert [request.stream_id for request in planned.expired] == [0]
    assert ids(planned) == [1, 2]
    assert len(queue) == 0
