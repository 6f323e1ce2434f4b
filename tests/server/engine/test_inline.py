"""The engine on the loop: when it asks to be stepped, what it refuses, what it says of its health."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorwire.codec import SignatureError
from tensorwire.gpu import SlabPool
from tensorwire.protocol.status import Status
from tensorwire.server.engine.api import BatchResult, HealthState, Request
from tensorwire.server.engine.inline import STALLED_AFTER, InlineEngine
from tensorwire.server.engine.spec import ModelSpec
from tests.server.engine.helpers import ECHO_TOML, Harness, outputs_of, python_spec
from tests.support.timers import WORST, Unruly


def row(value: float = 1, rows: int = 1) -> dict[str, Any]:
    return {"x": np.full((rows, 16), value, np.float32)}


def test_it_asks_once_for_a_step_and_again_while_work_waits(tmp_path: Path) -> None:
    harness = Harness(python_spec(tmp_path))
    for _ in range(40):
        harness.submit(row())
    assert harness.wakes == 1
    harness.engine.step()
    assert harness.wakes == 2
    harness.engine.step()
    assert harness.wakes == 2
    assert [result.batch_rows for result in harness.results if isinstance(result, BatchResult)] == [32, 8]


def test_a_step_without_work_does_nothing(tmp_path: Path) -> None:
    harness = Harness(python_spec(tmp_path))
    harness.engine.step()
    assert harness.results == []
    assert harness.wakes == 0


def test_max_wait_asks_for_a_timer_not_for_turns(tmp_path: Path) -> None:
    now = [100.0]
    timers: list[float] = []
    spec = python_spec(tmp_path, ECHO_TOML.replace("max_batch = 32", "max_batch = 4\nmax_wait_ms = 500"))

    def call_later(delay: float, _callback: Callable[[], None]) -> SimpleNamespace:
        timers.append(now[0] + delay)
        return SimpleNamespace(cancel=lambda: None)

    harness = Harness(spec, clock=lambda: now[0], call_later=call_later)
    first = harness.submit(row(1), arrived=100.0)
    harness.engine.step()
    second = harness.submit(row(2), arrived=100.2)
    harness.engine.step()
    assert timers == [100.5]
    assert harness.results == []
    now[0] = 100.5
    harness.engine.step()
    (result,) = harness.results
    assert result.requests == [first, second]


def test_a_full_queue_refuses_and_says_so(tmp_path: Path) -> None:
    harness = Harness(python_spec(tmp_path, ECHO_TOML.replace("max_batch = 32", "max_batch = 32\nmax_queue = 3")))
    for _ in range(3):
        harness.submit(row())
    refusal = harness.try_submit(row(), harness.request())
    assert refusal is not None
    assert refusal.status is Status.RESOURCE_EXHAUSTED
    assert not refusal.started
    assert "3 requests are queued, at most 3" in refusal.message
    harness.run()
    harness.assert_all_memory_returned()


def test_too_many_rows_are_refused_by_name(tmp_path: Path) -> None:
    harness = Harness(python_spec(tmp_path))
    with pytest.raises(SignatureError, match="'x': sent 33 rows, expected at most 32"):
        harness.prepare(row(rows=33))


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"z": np.zeros((1, 16), np.float32)}, "'z'"),
        ({"x": np.zeros((1, 15), np.float32)}, r"float32\[1, 15\]"),
        ({"x": np.zeros((1, 16), np.float64)}, "float64"),
        ({"x": np.zeros((0, 16), np.float32)}, "0 rows"),
        ({}, "'x'"),
    ],
)
def test_a_call_that_does_not_fit_names_the_field(tmp_path: Path, arrays: dict[str, Any], words: str) -> None:
    harness = Harness(python_spec(tmp_path))
    with pytest.raises(SignatureError, match=words):
        harness.prepare(arrays)


def test_a_body_with_bytes_that_are_no_bool_is_refused(tmp_path: Path) -> None:
    toml = ECHO_TOML.replace("float32", "bool")
    harness = Harness(python_spec(tmp_path, toml))
    prepared, _ = harness.prepare({"x": np.zeros((1, 16), bool)})
    refusal = harness.engine.submit(prepared, memoryview(b"\x02" * 16), None, harness.request())
    assert refusal is not None
    assert refusal.status is Status.INVALID_ARGUMENT
    assert harness.engine.submit(prepared, memoryview(b"\x01" * 16), None, harness.request()) is None
    harness.run()
    harness.assert_all_memory_returned()


def test_before_start_and_after_stop_it_refuses(tmp_path: Path) -> None:
    harness = Harness(python_spec(tmp_path))
    prepared, body = harness.prepare(row())
    fresh = InlineEngine(harness.engine.spec, SlabPool(1 << 20), lambda _: None)
    for engine in (fresh, harness.engine):
        harness.engine.stop()
        refusal = engine.submit(prepared, body, None, Request(1, 0.0))
        assert refusal is not None
        assert refusal.status is Status.UNAVAILABLE
        assert engine.health().state is HealthState.UNLOADED


def test_health_is_judged_by_progress(tmp_path: Path) -> None:
    now = [100.0]
    harness = Harness(python_spec(tmp_path), clock=lambda: now[0])
    assert harness.engine.health().state is HealthState.IDLE
    harness.submit(row(), arrived=100.0)
    assert harness.engine.health().state is HealthState.SERVING
    now[0] += STALLED_AFTER + 1
    stalled = harness.engine.health()
    assert stalled.state is HealthState.STALLED
    assert not stalled.ready
    assert stalled.queue_depth == 1
    harness.run()
    healthy = harness.engine.health()
    assert healthy.state is HealthState.IDLE
    assert healthy.last_progress == now[0]


def test_requests_submitted_by_the_sink_are_not_lost(tmp_path: Path) -> None:
    harness = Harness(python_spec(tmp_path))
    follow_up: list[Request] = []

    def sink(results: list[Any]) -> None:
        harness.results.extend(results)
        if not follow_up:
            follow_up.append(harness.submit(row(9)))

    harness.engine.sink = sink
    harness.submit(row(1))
    harness.engine.step()
    assert harness.wakes == 2
    harness.engine.step()
    assert (outputs_of(harness.results, follow_up[0])["y"] == 9).all()


def test_thousands_of_calls_of_all_kinds_balance(tmp_path: Path) -> None:
    harness = Harness(python_spec(tmp_path, ECHO_TOML.replace("16]", "-1]")))
    rng = np.random.default_rng(0)
    sent: dict[int, tuple[Request, Any]] = {}
    done: set[int] = set()
    for step in range(2000):
        array = rng.random((int(rng.integers(1, 5)), int(rng.integers(1, 4))), np.float32)
        deadline = float("inf") if rng.random() < 0.7 else 1e12 + float(rng.random())
        request = harness.submit(
            {"x": array},
            adopt=bool(rng.random() < 0.2),
            priority=int(rng.integers(0, 2)),
            principal=int(rng.integers(0, 3)),
            deadline=deadline,
        )
        sent[request.stream_id] = request, array
        if rng.random() < 0.1:
            harness.engine.cancel(request)
            del sent[request.stream_id]
        if step % 50 == 49:
            for result in harness.run():
                for finished in result.requests:
                    assert finished.stream_id not in done
                    done.add(finished.stream_id)
                    got = outputs_of([result], finished)["y"]
                    np.testing.assert_array_equal(got, sent[finished.stream_id][1])
    assert done == set(sent)
    harness.assert_all_memory_returned()


MAX_WAIT = 0.005


@pytest.fixture(scope="module")
def waiting_spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    toml = ECHO_TOML.replace("max_batch = 32", "max_batch = 4\nmax_wait_ms = 5\nwarmup = false")
    return python_spec(tmp_path_factory.mktemp("models"), toml.replace("[-1, 16]", "[-1, -1]"))


calls = st.tuples(
    st.floats(0.0, 0.02),  # seconds after the one before
    st.integers(1, 3),  # width
    st.integers(0, 1),  # priority
    st.sampled_from([inf, 0.003, 0.02]),  # deadline
)


@given(st.randoms(use_true_random=False), st.lists(calls, min_size=1, max_size=25))
def test_under_unruly_timers_no_call_waits_longer_than_max_wait_and_a_timer(
    waiting_spec: ModelSpec, random: Random, arrivals: list[tuple[float, int, int, float]]
) -> None:
    loop = Unruly(random)

    def step_soon(engine: InlineEngine) -> None:
        loop.call_soon(engine.step)

    harness = Harness(waiting_spec, clock=loop.clock, call_later=loop.call_later)
    harness.engine._wake = step_soon
    ended: dict[int, list[float]] = {}

    def sink(results: list[Any]) -> None:
        for result in results:
            for request in result.requests:
                ended.setdefault(request.stream_id, []).append(loop.now)

    harness.engine.sink = sink
    requests = []
    for passes, width, priority, deadline in arrivals:
        loop.run(passes)
        x = np.ones((1, width), np.float32)
        requests.append(harness.submit({"x": x}, arrived=loop.now, priority=priority, deadline=loop.now + deadline))
    loop.run(1.0)
    for request in requests:
        (moment,) = ended[request.stream_id]
        assert moment <= request.arrived + MAX_WAIT + WORST
    assert loop.armed == 0
    assert loop.fires <= 8 * len(requests)
    harness.assert_all_memory_returned()


def test_a_timer_that_fires_early_is_armed_again(waiting_spec: ModelSpec) -> None:
    """uvloop counts whole milliseconds: its timer for 5 ms may fire after 4.1."""
    now = [100.0]
    timers: list[tuple[float, Callable[[], None]]] = []

    def call_later(delay: float, callback: Callable[[], None]) -> SimpleNamespace:
        timers.append((now[0] + delay, callback))
        return SimpleNamespace(cancel=lambda: None)

    harness = Harness(waiting_spec, clock=lambda: now[0], call_later=call_later)
    request = harness.submit({"x": np.ones((1, 2), np.float32)}, arrived=100.0)
    harness.engine.step()
    now[0] = 100.0041
    timers[0][1]()
    assert harness.results == []
    now[0] = timers[1][0]
    assert 100.005 <= now[0] <= 100.0065
    timers[1][1]()
    harness.engine.step()
    assert (outputs_of(harness.results, request)["y"] == 1).all()
