"""Where a call is, in words and for retries."""

from __future__ import annotations

from math import inf
from types import SimpleNamespace
from typing import Any

import pytest

from tensorwire.server.engine.types import Request
from tensorwire.server.front.call import Call, Route, microseconds

expired: list[Call] = []


def call(*, waited: bool = False, body: bool = False, started: bool = False) -> Call:
    route: Any = SimpleNamespace(engine=SimpleNamespace(cancel=lambda _request: waited))
    target: Any = SimpleNamespace(expire=expired.append)
    made = Call(1, target, 5.0, route, 0, 0, False)
    receiving: Any = SimpleNamespace()
    made.receiving = receiving if body else None
    made.started = started
    return made


@pytest.mark.parametrize(
    ("made", "where", "started"),
    [
        (call(body=True), "while its body was received", False),
        (call(waited=True), "while it was queued", False),
        (call(started=True), "while it ran", True),
        (call(), "while it was queued or ran", True),
    ],
)
def test_where_a_call_is_and_whether_it_may_have_started(made: Call, where: str, started: bool) -> None:
    seen = made.take_back()
    assert (made.where(seen=seen), seen, made.done) == (where, started, True)


def test_a_call_begins_as_any_request_does() -> None:
    other: Any = SimpleNamespace()
    made, like = Call(1, other, 5.0, other, 2, 3, want_timing=True), Request(1, 5.0, 2, 3, inf, 5.0, True)
    names = [name for name in dir(like) if not name.startswith("_")]
    assert len(names) == 15
    assert [getattr(made, name) for name in names] == [getattr(like, name) for name in names]


def test_a_deadline_goes_to_the_target() -> None:
    made = call()
    made.expired(1.0)
    assert expired[-1] is made


def test_a_route_knows_how_many_batches_a_full_queue_is_worth() -> None:
    engine = SimpleNamespace(effective_max_batch=0, submit=None)
    model: Any = SimpleNamespace(engine=engine, spec=SimpleNamespace(max_queue=100))
    prepared: Any = SimpleNamespace(body_length=4)
    assert Route(model, prepared).most_ahead == 102, "not loaded yet: one row at a time"
    engine.effective_max_batch = 50
    assert Route(model, prepared).most_ahead == 4


@pytest.mark.parametrize(("seconds", "wanted"), [(-1.0, 0), (0.5, 500_000), (1e9, 0xFFFFFFFF)])
def test_microseconds_fit_their_field(seconds: float, wanted: int) -> None:
    assert microseconds(seconds) == wanted
