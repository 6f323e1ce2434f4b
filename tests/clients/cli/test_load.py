"""The load engine: schedules are kept, and time counts from the intended send."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tensorwire.clients.cli.load import LoadRun, Progress, Report, Schedule, run_calls, run_load, run_pipeline

from .virtual_time import run

Clock = Callable[[], float]


class Refused(Exception):
    pass


def sleeper(seconds: float) -> Callable[[], Any]:
    async def send() -> None:
        await asyncio.sleep(seconds)

    return send


def load(sends: list[Any], schedule: Schedule, **options: Any) -> Report:
    async def go(clock: Clock) -> Report:
        return await run_load(sends, schedule, clock=clock, **options)

    report: Report = run(go)
    return report


def test_an_open_loop_sends_at_its_rate_whatever_the_answers_take() -> None:
    report = load([sleeper(3.0)], Schedule(rate=100, concurrency=1000, duration=2.0))
    assert report.completed == 200
    assert report.percentile(50) == pytest.approx(3.0, abs=0.01)


def test_a_closed_loop_keeps_one_call_per_caller_in_flight() -> None:
    report = load([sleeper(0.1)], Schedule(concurrency=4, duration=1.0))
    assert report.completed in (40, 44)
    assert report.rate == pytest.approx(40, rel=0.05)


def test_a_stall_counts_against_every_call_that_was_due_meanwhile() -> None:
    """The mistake called coordinated omission: timing from the real send would show one slow call, not fifty."""

    async def go(clock: Clock) -> Report:
        free_at = 0.0

        async def one_at_a_time() -> None:
            nonlocal free_at
            takes = 1.0 if free_at == 0.0 else 0.0001
            free_at = max(free_at, clock()) + takes
            await asyncio.sleep(free_at - clock())

        return await run_load([one_at_a_time], Schedule(rate=100, concurrency=10_000, duration=2.0), clock=clock)

    report: Report = run(go)
    assert report.completed == 200
    assert 90 <= np.count_nonzero(report.latencies > 0.05) <= 110


def test_sends_wait_beyond_the_cap_on_calls_in_flight_and_their_wait_counts() -> None:
    report = load([sleeper(1.0)], Schedule(rate=10, concurrency=1, requests=5))
    assert report.completed == 5
    assert report.percentile(100) == pytest.approx(1.0 + 4 * 0.9, abs=0.01)
    assert report.lateness == pytest.approx(4 * 0.9, abs=0.01)


@pytest.mark.parametrize("rate", [None, 200.0])
def test_a_number_of_requests_ends_a_run(rate: float | None) -> None:
    assert load([sleeper(0.01)], Schedule(rate=rate, concurrency=3, requests=50)).completed == 50


def test_the_warm_up_is_not_recorded() -> None:
    report = load([sleeper(0.001)], Schedule(rate=100, concurrency=10, duration=1.0, warmup=1.0))
    assert report.completed == 100
    assert report.elapsed == pytest.approx(1.0, abs=0.02)


def test_sends_are_taken_in_turn() -> None:
    used = [0, 0]

    def counted(index: int) -> Callable[[], Any]:
        async def send() -> None:
            used[index] += 1
            await asyncio.sleep(0.001)

        return send

    load([counted(0), counted(1)], Schedule(rate=100, concurrency=10, requests=20))
    assert used == [10, 10]


@pytest.mark.parametrize("rate", [None, 100.0])
def test_a_counted_error_is_a_failed_call_and_no_latency(rate: float | None) -> None:
    async def refuse() -> None:
        await asyncio.sleep(0.01)
        raise Refused

    report = load([refuse], Schedule(rate=rate, concurrency=2, requests=10), counted=(Refused,))
    assert (report.completed, report.failed, report.errors) == (0, 10, {"Refused": 10})
    assert report.as_dict()["latency_us"] == {}


@pytest.mark.parametrize("rate", [None, 100.0])
def test_any_other_error_ends_the_run(rate: float | None) -> None:
    async def fail() -> None:
        await asyncio.sleep(0.01)
        raise ConnectionResetError("gone")

    with pytest.raises(ConnectionResetError):
        load([fail], Schedule(rate=rate, concurrency=2, duration=100.0), counted=(Refused,))


def test_progress_is_told_and_ends_at_one() -> None:
    seen: list[Progress] = []
    load([sleeper(0.01)], Schedule(rate=100, concurrency=10, duration=1.0), progress=seen.append)
    fractions = [progress.fraction for progress in seen]
    assert len(seen) >= 9
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert seen[-1].completed == 100


def test_a_cancelled_run_still_reports() -> None:
    async def go(clock: Clock) -> Report:
        load_run = LoadRun([sleeper(0.01)], Schedule(concurrency=1, duration=100.0), clock=clock)
        task = asyncio.create_task(load_run.run())
        await asyncio.sleep(1.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return load_run.report()

    report: Report = run(go)
    assert 90 <= report.completed <= 100


def test_a_percentile_is_a_latency_that_was_measured() -> None:
    report = Report(np.arange(1, 1001) / 1000, elapsed=1.0)
    assert [report.percentile(p) for p in (0.0, 50, 99, 99.9, 100)] == [0.001, 0.5, 0.99, 0.999, 1.0]


def test_json_holds_plain_numbers_in_microseconds() -> None:
    shown = Report(np.array([0.001, 0.003]), elapsed=2.0, errors={"X": 1}).as_dict()
    assert shown["requests"] == 2
    assert shown["failed"] == 1
    assert shown["requests_per_s"] == 1.0
    assert shown["latency_us"]["p50"] == 1000.0
    assert shown["latency_us"]["max"] == 3000.0
    assert all(type(value) is float for value in shown["latency_us"].values())


@pytest.mark.parametrize(
    "wrong",
    [{}, {"duration": 1.0, "requests": 1}, {"duration": 1.0, "concurrency": 0}, {"duration": 1.0, "rate": 0.0}],
)
def test_a_schedule_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"expected|give one of the two"):
        Schedule(**wrong)


def test_a_pipeline_keeps_its_calls_in_flight_and_times_each_from_its_send() -> None:
    clock, waiting, deepest = [0.0], 0, 0

    def send() -> None:
        nonlocal waiting, deepest
        waiting += 1
        deepest = max(deepest, waiting)

    def receive() -> None:
        nonlocal waiting
        waiting -= 1
        clock[0] += 1.0

    report = run_pipeline(send, receive, in_flight=4, requests=10, clock=lambda: clock[0])
    assert (deepest, waiting, report.completed, report.elapsed) == (4, 0, 10, 10.0)
    assert report.percentile(100) == 4.0


def test_calls_one_after_the_other_are_timed_each() -> None:
    clock, lasts = [0.0], iter((1.0, 5.0, 2.0))

    def call() -> None:
        clock[0] += next(lasts)

    report = run_calls(call, 3, clock=lambda: clock[0])
    assert report.latencies.tolist() == [1.0, 2.0, 5.0]
    assert report.rate == pytest.approx(3 / 8)
