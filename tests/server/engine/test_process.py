"""The process engine with real processes: results, crashes, hangs, cancels, and memory that always comes back."""

from __future__ import annotations

import gc
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tensorwire.codec import SignatureError, decode_arrays, decode_metadata, resolve
from tensorwire.protocol import Status
from tensorwire.server.engine import lifecycle
from tensorwire.server.engine.api import BatchResult, Failure, HealthState
from tests.server.engine.conftest import Said
from tests.server.engine.process_front import MODEL, Front, write_model

CRASHES = {1: "SIGKILL", 2: "SIGSEGV", 3: "status 3"}


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Front]]:
    fronts: list[Front] = []

    def build(toml: str = "", model: str = MODEL, max_batch: int = 8, width: int = 4, **options: Any) -> Front:
        front = Front(write_model(tmp_path, toml, model, max_batch, width), **options)
        fronts.append(front)
        return front

    yield build
    for front in fronts:
        front.engine.stop()


Make = Callable[..., Front]


# results


def test_a_call_comes_back_computed(make: Make) -> None:
    front = make().ready()
    request = front.submit([1, 2, 3, 4])
    assert front.rows(request) == [[2, 4, 6, 8]]
    assert front.health()[0] == "IDLE"
    front.assert_memory_is_back()


def test_calls_that_wait_together_run_as_one_batch(make: Make) -> None:
    front = make().ready()
    slow = front.submit([-7, 0, 0, 0])
    front.turn()
    requests = [front.submit([n, n, n, n]) for n in range(8)]
    front.rows(slow)
    assert [front.rows(request) for request in requests] == [[[2 * n] * 4] for n in range(8)]
    answer = front.answer(requests[0])
    assert isinstance(answer, BatchResult)
    assert answer.requests == requests
    assert answer.batch_rows == 8


def test_a_process_knows_its_model_by_the_names_of_links_and_starts_again_with_the_same_folder(tmp_path: Path) -> None:
    model = MODEL.replace("def build():", "def build(spec):").replace("x * 2", "x * 0 + int(spec.version) + 100")
    for number in (100, 200):
        write_model(tmp_path / f"store{number}", model=model.replace("100", str(number)))
    link = tmp_path / "M" / "prod" / "7"
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "store100" / "double" / "1")
    front = Front(link).ready()
    try:
        assert front.rows(front.submit([1, 2, 3, 4])) == [[107] * 4]
        link.unlink()
        link.symlink_to(tmp_path / "store200" / "double" / "1")
        front.answer(front.submit([-3, 0, 0, 0]))
        front.until(lambda: front.engine.restarts and front.engine.health().ready)
        assert front.rows(front.submit([1, 2, 3, 4])) == [[107] * 4]
    finally:
        front.engine.stop()


def test_the_stamps_of_a_batch_are_in_order_and_on_this_clock(make: Make) -> None:
    front = make().ready()
    before = time.monotonic()
    answer = front.answer(front.submit([1, 2, 3, 4]))
    assert isinstance(answer, BatchResult)
    stamps = [before, answer.planned, answer.copied_in, answer.computed, answer.copied_out, time.monotonic()]
    assert stamps == sorted(stamps)


def test_a_body_that_came_in_a_slab_is_used_there(make: Make) -> None:
    front = make(width=1024, max_batch=64).ready()
    rows = np.arange(32 * 1024, dtype=np.float32).reshape(32, 1024)
    request = front.submit(x=rows, slab=True)
    assert front.rows(request) == (rows * 2).tolist()
    front.assert_memory_is_back()


def test_many_calls_of_many_sizes_all_come_back_right(make: Make) -> None:
    front = make().ready()
    random = np.random.default_rng(0)
    expected = {}
    for turn in range(120):
        rows = random.integers(0, 99, (int(random.integers(1, 9)), 4)).astype(np.float32)
        request = front.submit(x=rows, slab=bool(turn % 5 == 0))
        expected[request] = (rows * 2).tolist()
        if turn % 7 == 0:
            front.turn(0)
        while front.engine.queue_depth > 40:
            front.turn()
    for request, rows in expected.items():
        assert front.rows(request) == rows
    front.assert_memory_is_back()


def test_it_is_away_from_a_request_until_its_answer(make: Make) -> None:
    front = make().ready()
    seen = [front.engine.busy]
    request = front.submit(x=np.ones((1, 4), np.float32))
    seen.append(front.engine.busy)
    front.rows(request)
    assert [*seen, front.engine.busy] == [False, True, False]


def test_reply_views_stay_unchanged_while_held_and_go_back_when_dropped(make: Make) -> None:
    front = make(width=4096, result_bytes=1 << 20).ready()
    held = [front.submit([n] * 4096) for n in range(8)]
    kept = [front.rows(request) for request in held]
    views = list(front.outcome)
    for n in range(200):  # far more than fits at once
        assert front.rows(front.submit([n] * 4096))[0][0] == 2 * n
        del front.outcome[len(views) :]
    assert [front.rows(request) for request in held] == kept


def test_a_process_without_result_memory_waits_until_views_are_dropped(make: Make) -> None:
    front = make(width=16384, max_batch=1, result_bytes=1 << 20).ready()
    requests = [front.submit([n] * 16384) for n in range(40)]
    front.until(lambda: len(front.outcome) >= 8)
    for _ in range(5):
        front.turn(0.02)
    assert len(front.outcome) < 16
    done: list[float] = []
    while len(done) < len(requests):
        front.until(lambda: front.outcome)
        answer = front.outcome.pop(0)
        assert isinstance(answer, BatchResult)
        done.append(np.frombuffer(answer.outputs[0], np.float32)[0])
        del answer
    assert done == [2 * n for n in range(40)]


def test_outputs_larger_than_the_result_memory_fail_alone(make: Make) -> None:
    front = make(width=16384, max_batch=32, result_bytes=1 << 20).ready()
    big = front.submit(x=np.ones((32, 16384), np.float32), slab=True)
    assert front.failure(big).status is Status.RESOURCE_EXHAUSTED
    assert front.rows(front.submit([1] * 16384))[0][0] == 2


OPAQUE = """
backend = "python"
engine = "process"
[[inputs]]
name = "text"
kind = "string"
shape = [-1]
[[outputs]]
name = "text"
kind = "string"
shape = [-1]
"""

UPPER = """
import numpy as np

def build():
    return lambda inputs: {"text": np.array([str(each).upper() for each in inputs["text"]], object)}
"""


def test_strings_travel_both_ways(make: Make) -> None:
    front = make(OPAQUE, UPPER).ready()
    request = front.submit(text=np.array(["one", "zwölf", ""], object))
    answer = front.answer(request)
    assert isinstance(answer, BatchResult)
    assert answer.encoded is not None
    encoded = answer.encoded
    resolved = resolve(decode_metadata(encoded.meta), encoded.dims)
    arrays = decode_arrays(resolved, b"".join(encoded.buffers))
    assert list(arrays["text"]) == ["ONE", "ZWÖLF", ""]
    front.assert_memory_is_back()


# refusals


def test_a_call_that_does_not_fit_the_model_is_refused_before_it_leaves(make: Make) -> None:
    front = make().ready()
    with pytest.raises(SignatureError):
        front.prepare(x=np.zeros((1, 5), np.float32))


def test_before_ready_calls_are_refused_as_not_started(make: Make) -> None:
    front = make()
    front.engine.start()
    failure = front.failure(front.submit([1, 2, 3, 4]))
    assert (failure.status, failure.started) == (Status.UNAVAILABLE, False)
    assert front.health()[0] == "LOADING"


def test_a_refused_slab_goes_back(make: Make) -> None:
    front = make()
    front.failure(front.submit([1, 2, 3, 4], slab=True))
    front.assert_memory_is_back()


def test_a_full_queue_refuses_and_recovers(make: Make) -> None:
    front = make().ready()
    slow = front.submit([-7, 0, 0, 0])
    front.turn()
    requests = [front.submit([n, 0, 0, 0]) for n in range(200)]
    refused = [each for each in front.outcome if isinstance(each, Failure)]
    assert refused
    assert {(each.status, each.started) for each in refused} == {(Status.RESOURCE_EXHAUSTED, False)}
    front.rows(slow)
    for request in requests:
        front.answer(request)
    assert front.rows(front.submit([5, 0, 0, 0])) == [[10, 0, 0, 0]]
    front.assert_memory_is_back()


def test_a_full_pool_refuses_and_recovers(make: Make) -> None:
    front = make(width=16384, max_batch=8, pool_bytes=1 << 20).ready()
    first = front.submit([-7.0] + [0.0] * 16383)
    front.turn()
    others = [front.submit([n] * 16384) for n in range(40)]
    refused = [each for each in front.outcome if isinstance(each, Failure)]
    assert refused
    assert refused[0].status is Status.RESOURCE_EXHAUSTED
    for request in (first, *others):
        front.answer(request)
    front.outcome.clear()
    assert front.rows(front.submit([1] * 16384))[0][0] == 2
    front.assert_memory_is_back()


# failures of the model


def test_a_model_that_raises_fails_its_batch_and_serves_on(make: Make) -> None:
    front = make().ready()
    failure = front.failure(front.submit([-5, 0, 0, 0]))
    assert failure.started
    assert failure.status is Status.INTERNAL
    assert front.rows(front.submit([1, 0, 0, 0])) == [[2, 0, 0, 0]]
    front.assert_memory_is_back()


OPTIONAL = """
backend = "python"
engine = "process"
max_batch = 8
[[inputs]]
name = "factor"
dtype = "float32"
shape = [-1]
optional = true
[[inputs]]
name = "x"
dtype = "float32"
shape = [-1, 4]
[[outputs]]
name = "y"
dtype = "float32"
shape = [-1, 4]
"""


def test_optional_inputs_may_be_left_out(make: Make) -> None:
    model = """
def build():
    def run(inputs):
        factor = inputs["factor"] if "factor" in inputs else 2
        return {"y": (inputs["x"].T * factor).T}
    return run
"""
    front = make(OPTIONAL, model).ready()
    x, factor = np.ones((2, 4), np.float32), np.array([3, 5], np.float32)
    requests = []
    for _ in range(2):
        requests += [front.submit(x=x), front.submit(x=x, factor=factor), front.submit(factor=factor, x=x)]
    for request, rows in zip(requests, [[2, 2], [3, 5], [3, 5]] * 2, strict=True):
        assert front.rows(request) == [[row] * 4 for row in rows]
    front.assert_memory_is_back()


def test_a_model_refuses_one_call_and_its_neighbours_are_answered(make: Make) -> None:
    model = """
import tensorwire
def build():
    def run(inputs):
        if (inputs["x"] == 13).any():
            raise tensorwire.BadInput("13 is unlucky")
        return {"y": inputs["x"] * 2}
    return run
"""
    front = make(model=model).ready()
    requests = [front.submit([value, 0, 0, 0]) for value in (1, 13, 3)]
    assert front.rows(requests[0]) == [[2, 0, 0, 0]]
    assert front.rows(requests[2]) == [[6, 0, 0, 0]]
    failure = front.failure(requests[1])
    assert (failure.status, failure.message, failure.started) == (Status.INVALID_ARGUMENT, "13 is unlucky", True)
    front.assert_memory_is_back()


@pytest.mark.parametrize("raised", ["asyncio.CancelledError", "GeneratorExit", "KeyboardInterrupt", "SystemExit(3)"])
def test_a_model_may_raise_anything_and_its_process_lives(make: Make, raised: str) -> None:
    model = f"""
import asyncio
def build():
    def run(inputs):
        if (inputs["x"] == 13).any():
            raise {raised}
        return {{"y": inputs["x"] * 2}}
    return run
"""
    front = make(model=model).ready()
    requests = [front.submit([value, 0, 0, 0]) for value in (1, 13, 3)]
    assert front.rows(requests[0]) == [[2, 0, 0, 0]]
    assert front.rows(requests[2]) == [[6, 0, 0, 0]]
    failure = front.failure(requests[1])
    assert failure.status is Status.INTERNAL
    assert failure.message.startswith(f"model raised {raised.removeprefix('asyncio.').partition('(')[0]}: ")
    assert front.engine.restarts == 0
    front.assert_memory_is_back()


KEEPING = """
kept = []
def build():
    def run(inputs):
        x = inputs["x"]
        kept.append(x)
        if (x == 13).all():
            raise ValueError("a 13")
        wrong = sum(k[0, 0] != n or k[0, -1] != n for n, k in enumerate(kept))
        return {"y": x + x.dtype.type(1000 * wrong)}
    return run
"""


@pytest.mark.parametrize("first", [0, 13])
def test_memory_that_the_model_keeps_is_not_used_again_while_its_process_lives(make: Make, first: int) -> None:
    """The model answers how many of the inputs that it has kept are not what they were."""
    width = 1 << 15
    model = KEEPING if not first else KEEPING.replace("enumerate(kept)", "enumerate(kept, 13)")
    front = make(model=model, width=width).ready()
    for value in range(first, first + 5):
        request = front.submit([value] * width, slab=True)
        if value == 13:
            assert front.failure(request).message == "model raised ValueError: 'a 13'"
        else:
            assert set(front.rows(request)[0]) == {value}
        front.until(lambda: front.pool.in_use == 1 << 17)
    front.engine.stop()
    gc.collect()
    slabs = []
    while (slab := front.pool.allocate(1 << 17)) is not None:
        slabs.append(slab)
    assert len(slabs) == front.pool.nbytes >> 17


def test_a_repetition_in_the_process_sees_what_was_sent(make: Make) -> None:
    model = """
import numpy as np
mine = np.zeros((8, 4096), np.float32)
def build():
    def run(inputs):
        x = inputs["x"]
        x -= 10
        if np.isnan(x).any():
            raise ValueError("a NaN")
        return {"y": np.add(x, 0, out=mine[:len(x)])}
    return run
"""
    front = make(model=model, width=4096).ready()
    requests = [front.submit([value] * 4096) for value in (1, float("nan"), 3, 4)]
    for request, value in zip(requests, (1, None, 3, 4), strict=True):
        if value is None:
            assert front.failure(request).message == "model raised ValueError: 'a NaN'"
        else:
            assert set(front.rows(request)[0]) == {value - 10}
    front.assert_memory_is_back()


@pytest.mark.parametrize("code", CRASHES)
def test_a_crash_fails_what_ran_as_started_and_what_waited_as_not_started(make: Make, code: int) -> None:
    front = make().ready()
    slow = front.submit([-7, 0, 0, 0])
    front.turn()
    deadly = [front.submit([-code, n, 0, 0]) for n in range(8)]
    waiting = [front.submit([n, 0, 0, 0], slab=n % 2 == 0) for n in range(8)]
    front.rows(slow)
    started, unstarted = front.failure(deadly[0]), front.failure(waiting[0])
    assert started.requests == deadly
    assert started.started
    assert not unstarted.started
    assert sorted(each.stream_id for each in unstarted.requests) == [each.stream_id for each in waiting]
    assert {started.status, unstarted.status} == {Status.UNAVAILABLE}
    assert CRASHES[code] in started.message
    front.assert_memory_is_back()
    assert front.health()[0] == "FAILED"
    front.until(lambda: front.engine.health().ready)
    assert front.engine.restarts == 1
    assert front.rows(front.submit([3, 0, 0, 0])) == [[6, 0, 0, 0]]


def test_a_process_killed_from_outside_is_replaced(make: Make) -> None:
    front = make().ready()
    before = front.pid
    os.kill(before, signal.SIGKILL)
    front.until(lambda: front.health()[0] == "FAILED")
    front.until(lambda: front.engine.health().ready)
    assert front.pid != before
    assert front.rows(front.submit([1, 0, 0, 0])) == [[2, 0, 0, 0]]


def test_results_published_before_a_crash_are_delivered(make: Make) -> None:
    front = make().ready()
    results, rare = front.engine.descriptors()
    good = front.submit([1, 0, 0, 0])
    front.hand_over()
    assert select.select([results], [], [], 30)[0]
    bad = front.submit([-1, 0, 0, 0])
    front.hand_over()
    assert select.select([front.worker.pidfd], [], [], 30)[0]
    front.engine.on_readable(rare)
    assert front.rows(good) == [[2, 0, 0, 0]]
    assert front.failure(bad).started


def test_whenever_it_is_killed_every_call_is_answered_once_and_memory_comes_back(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "BACK_OFF_MOST", 0.1)
    front = make(max_batch=4)
    front.engine.start()
    random = np.random.default_rng(3)
    for _ in range(6):
        front.until(lambda: front.engine.health().ready)
        front.outcome.clear()
        requests = []
        kill_at = int(random.integers(0, 60))
        for turn in range(60):
            requests += [front.submit([n, 0, 0, 0], slab=n == 3) for n in range(int(random.integers(1, 6)))]
            if turn % 9 == 8:
                front.engine.cancel(requests[-1])
            if turn == kill_at:
                os.kill(front.pid, signal.SIGKILL)
            front.turn(0)
        front.until(lambda: front.engine.in_use == 0)
        answers = [request for each in front.outcome for request in each.requests]
        assert len(answers) == len(set(answers))
        assert set(requests) - set(answers) <= {request for request in requests if request.done}
        for each in front.outcome:
            if isinstance(each, BatchResult):
                assert np.frombuffer(each.outputs[0], np.float32).reshape(-1, 4)[:, 0].max() <= 8
        front.assert_memory_is_back()
    assert front.engine.restarts >= 5


def test_a_storm_of_crashes_leaves_no_memory_descriptor_or_child_behind(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "BACK_OFF_FIRST", 0.01)
    monkeypatch.setattr(lifecycle, "BACK_OFF_MOST", 0.01)
    front = make()
    front.engine._back_off = 0.01
    front.ready()
    prepared, body = front.prepare(x=np.ones((1, 4), np.float32))
    descriptors, mappings = _held()
    killed = []
    for _ in range(10):
        front.until(lambda: front.engine.health().ready)
        for n in range(40):
            front.submit([n, 0, 0, 0], slab=n % 3 == 0)
            front.turn(0)
        killed.append(front.pid)
        os.kill(front.pid, signal.SIGKILL)
        front.until(lambda: not front.engine.health().ready)
        front.until(lambda: front.engine.in_use == 0)
        front.outcome.clear()
    front.until(lambda: front.engine.health().ready)
    assert front.rows(front.submit_prepared(prepared, body)) == [[2, 2, 2, 2]], "what was prepared before still holds"
    front.outcome.clear()
    front.assert_memory_is_back()
    assert _held() == (descriptors, mappings)
    assert not [pid for pid in killed if Path(f"/proc/{pid}").exists()], "reaped, not only dead"


def _held() -> tuple[int, int]:
    """Open descriptors and mappings of shared memory of this process."""
    gc.collect()
    maps = Path("/proc/self/maps").read_text()
    return sum(1 for _ in Path("/proc/self/fd").iterdir()), maps.count("tensorwire")


def test_restarts_back_off(make: Make) -> None:
    front = make().ready()
    for expected in (0.1, 0.2, 0.4):
        front.until(lambda: front.engine.health().ready)
        died = time.monotonic()
        os.kill(front.pid, signal.SIGKILL)
        front.until(lambda: front.health()[0] == "FAILED")
        front.until(lambda: front.health()[0] == "LOADING")
        assert time.monotonic() - died >= expected


def test_a_hang_is_stalled_then_killed_and_replaced(make: Make) -> None:
    front = make(stall_timeout=0.2, kill_after=0.6).ready()
    hung = front.submit([-4, 0, 0, 0])
    waiting = front.submit([1, 0, 0, 0])
    front.until(lambda: front.health()[0] == "STALLED")
    failure = front.failure(hung)
    assert failure.started
    assert "hung" in front.health()[1]
    front.failure(waiting)
    front.assert_memory_is_back()
    front.until(lambda: front.engine.health().ready)
    assert front.rows(front.submit([1, 0, 0, 0])) == [[2, 0, 0, 0]]


def test_a_timer_that_fires_before_its_time_is_only_set_again(make: Make) -> None:
    """Whether a process has loaded too slowly, or its next start is due, is the clock's to say, not the timer's."""
    front = make()
    engine = front.engine
    engine.start()
    engine._timer.once(0.0)
    front.until(lambda: front.health()[0] != "LOADING")
    assert front.health()[0] == "IDLE"
    for _ in range(2):  # the second back-off is 0.2 s, counted from the death
        died = time.monotonic()
        os.kill(front.pid, signal.SIGKILL)
        front.until(lambda: front.health()[0] == "FAILED")
        engine._timer.once(0.0)
        front.until(lambda: front.health()[0] == "LOADING")
        waited = time.monotonic() - died
        front.until(lambda: engine.health().ready)
    assert waited >= 0.2
    assert engine.restarts == 2


def test_an_idle_process_is_never_stalled(make: Make) -> None:
    front = make(stall_timeout=0.05, kill_after=0.1).ready()
    pid = front.pid
    for _ in range(6):
        front.turn(0.05)
        assert front.health()[0] == "IDLE"
    assert front.pid == pid


# loading


@pytest.mark.parametrize(
    "model", ["def build():\n    raise RuntimeError('no such weights')", "raise RuntimeError('no such weights')"]
)
def test_a_model_that_cannot_be_loaded_says_why_and_is_not_tried_again(make: Make, model: str) -> None:
    front = make(model=model)
    front.engine.start()
    front.until(lambda: front.health()[0] == "FAILED")
    assert "no such weights" in front.health()[1]
    for _ in range(4):
        front.turn()
    assert front.engine.restarts == 0
    assert "no such weights" in front.failure(front.submit([1, 2, 3, 4])).message


def test_a_model_that_dies_while_it_loads_is_tried_again(make: Make) -> None:
    front = make(model="import os\nos._exit(7)")
    front.engine.start()
    front.until(lambda: front.engine.restarts >= 2)
    assert "status 7" in front.health()[1] or front.health()[0] == "LOADING"


def test_loading_is_bounded_in_time(make: Make) -> None:
    front = make(model="import time\ntime.sleep(3600)", load_timeout=0.3)
    front.engine.start()
    front.until(lambda: front.health()[0] == "FAILED")
    assert "0.3 s" in front.health()[1]


# cancel and deadlines


def test_a_queued_call_that_is_cancelled_never_runs(make: Make) -> None:
    front = make(max_batch=1).ready()
    slow = front.submit([-7, 0, 0, 0])
    front.turn()
    deadly = front.submit([-1, 0, 0, 0])
    after = front.submit([4, 0, 0, 0])
    front.turn(0)
    front.engine.cancel(deadly)
    front.engine.cancel(deadly)
    assert deadly.done
    front.rows(slow)
    assert front.rows(after) == [[8, 0, 0, 0]]
    assert not any(deadly in each.requests for each in front.outcome)
    front.until(lambda: front.engine.in_use == 0)
    front.assert_memory_is_back()


def test_what_is_cancelled_before_the_model_has_seen_it_is_certain_not_to_start(make: Make) -> None:
    front = make(max_batch=1).ready()
    running = front.submit([-7, 0, 0, 0])
    front.until(lambda: front.engine.queue_depth == 0)
    waiting = [front.submit([-1, 0, 0, 0]) for _ in range(20)]  # any of them would kill the process
    front.turn(0)
    assert [front.engine.cancel(request) for request in waiting] == [True] * 20
    assert not front.engine.cancel(running)
    assert running.started
    front.until(lambda: front.engine.in_use == 0)
    assert front.rows(front.submit([4, 0, 0, 0])) == [[8, 0, 0, 0]]
    assert front.engine.restarts == 0
    front.assert_memory_is_back()


def test_progress_is_counted_anew_from_a_restart(make: Make) -> None:
    front = make().ready()
    front.rows(front.submit([1, 0, 0, 0]))
    before = front.engine.health().last_progress
    os.kill(front.pid, signal.SIGKILL)
    front.until(lambda: front.health()[0] == "FAILED")
    assert front.engine.health().last_progress == before
    restarted = time.monotonic()
    front.until(lambda: front.engine.health().ready)
    assert front.engine.health().last_progress > restarted


def test_a_running_call_that_is_cancelled_keeps_its_memory_until_the_batch_is_over(make: Make) -> None:
    front = make().ready()
    request = front.submit([-7, 0, 0, 0], slab=True)
    front.turn(0.1)
    front.engine.cancel(request)
    assert front.engine.in_use > 0
    front.until(lambda: front.engine.in_use == 0)
    front.assert_memory_is_back()


def test_a_cancel_after_the_end_is_harmless(make: Make) -> None:
    front = make().ready()
    request = front.submit([1, 0, 0, 0])
    front.rows(request)
    front.engine.cancel(request)
    assert front.rows(front.submit([2, 0, 0, 0])) == [[4, 0, 0, 0]]


def test_a_call_past_its_deadline_is_failed_by_the_process(make: Make) -> None:
    front = make(max_batch=1).ready()
    slow = front.submit([-7, 0, 0, 0])
    front.turn()
    late = front.submit([1, 0, 0, 0], deadline=time.monotonic() + 0.05)
    front.rows(slow)
    failure = front.failure(late)
    assert failure.status is Status.DEADLINE_EXCEEDED
    assert not failure.started
    front.assert_memory_is_back()


def test_expire_fails_late_calls_while_the_process_is_busy(make: Make) -> None:
    front = make().ready()
    slow = front.submit([-7, 0, 0, 0])
    front.turn()
    now = time.monotonic()
    late = front.submit([1, 0, 0, 0], deadline=now + 0.05)
    assert front.engine.expire(now) == []
    (failure,) = front.engine.expire(now + 0.1)
    assert failure.requests == [late]
    assert failure.status is Status.DEADLINE_EXCEEDED
    assert not failure.started
    late.done = True
    front.rows(slow)
    front.until(lambda: front.engine.in_use == 0)
    front.assert_memory_is_back()


# the end


def test_stop_fails_what_is_in_flight_and_leaves_no_process(make: Make) -> None:
    front = make().ready()
    running = front.submit([-4, 0, 0, 0])
    front.turn(0.2)
    waiting = front.submit([1, 0, 0, 0])
    pid = front.pid
    front.engine.stop()
    front.engine.stop()
    assert front.health()[0] == "UNLOADED"
    answers = {request: each for each in front.outcome for request in each.requests}
    assert answers[running].started  # type: ignore[union-attr]
    assert not answers[waiting].started  # type: ignore[union-attr]
    assert not Path(f"/proc/{pid}").exists()
    assert front.pool.in_use == 0


def test_an_idle_process_leaves_by_itself(make: Make) -> None:
    front = make().ready()
    worker = front.worker
    front.engine.stop()
    assert worker.process.returncode == 0


def test_results_outlive_the_engine(make: Make) -> None:
    front = make().ready()
    request = front.submit([1, 2, 3, 4])
    front.answer(request)
    front.engine.stop()
    gc.collect()
    assert front.rows(request) == [[2, 4, 6, 8]]


def test_sigterm_finishes_the_queue_first(make: Make) -> None:
    front = make(max_batch=1).ready()
    requests = [front.submit([-7, 0, 0, 0]), front.submit([2, 0, 0, 0]), front.submit([3, 0, 0, 0])]
    front.turn(0.1)
    os.kill(front.pid, signal.SIGTERM)
    assert [front.rows(request)[0][0] for request in requests] == [-14, 4, 6]
    front.until(lambda: front.health()[0] == "FAILED")
    assert "status 0" in front.health()[1]


def test_sigint_is_the_fronts_business(make: Make) -> None:
    front = make().ready()
    os.kill(front.pid, signal.SIGINT)
    assert front.rows(front.submit([1, 0, 0, 0])) == [[2, 0, 0, 0]]


ORPHAN = """
import sys, time
sys.path[:0] = {path!r}
from pathlib import Path
from tests.server.engine.conftest import Said
from tests.server.engine.process_front import Front
front = Front(Path({folder!r})).ready()
print(front.pid, flush=True)
front.submit([-4, 0, 0, 0])
front.turn(0.2)
time.sleep(3600)
"""


def test_no_process_survives_its_front(tmp_path: Path) -> None:
    script = ORPHAN.format(path=sys.path, folder=str(write_model(tmp_path)))
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as front:
        assert front.stdout is not None
        child = int(front.stdout.readline())
        pidfd = os.pidfd_open(child)
        front.kill()
        assert select.select([pidfd], [], [], 10)[0], "the engine process outlived its front"
        os.close(pidfd)


def test_what_the_model_prints_reaches_the_log_with_its_name(make: Make, said: list[Said]) -> None:
    front = make().ready()
    front.rows(front.submit([-6, 0, 0, 0]))
    front.until(lambda: ("info", "double/1: hello from the model", "") in said)


def test_what_the_model_raises_is_one_record_with_its_traceback_and_the_rest_a_number(
    make: Make, said: list[Said]
) -> None:
    front = make().ready()
    for _ in range(5):
        front.failure(front.submit([-5, 0, 0, 0]))

    def told() -> int:
        left_out = [re.fullmatch(r"double/1: (\d+) more like it left out", record.line) for record in said]
        return sum(int(match[1]) if match else 1 for match in left_out)

    front.until(lambda: told() == 5)
    assert {record.level for record in said} == {"error"}
    assert said[0].line == "double/1: model raised ValueError: 'the model says no'"
    assert "model.py" in said[0].traceback
    assert said[0].traceback.endswith("ValueError: 'the model says no'\n")


def test_the_models_environment_has_no_settings_of_the_server(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORWIRE_KEY", "secret")
    front = make(model="import os\nraise RuntimeError('key is ' + os.environ.get('TENSORWIRE_KEY', 'hidden'))")
    front.engine.start()
    front.until(lambda: front.health()[0] == "FAILED")
    assert "key is hidden" in front.health()[1]


def test_health_changes_are_announced(make: Make) -> None:
    seen: list[HealthState] = []
    front = make(on_change=lambda engine: seen.append(engine.health().state)).ready()
    front.engine.stop()
    assert seen == [HealthState.LOADING, HealthState.IDLE, HealthState.UNLOADED]


def test_nonsense_from_the_process_ends_it_and_loses_no_call(make: Make) -> None:
    front = make().ready()
    request = front.submit([-4, 0, 0, 0])
    front.turn(0.2)
    worker = front.worker
    os.eventfd_write(worker.to_front.event, 1 << 40)
    failure = front.failure(request)
    assert failure.started
    front.until(lambda: front.engine.health().ready)
