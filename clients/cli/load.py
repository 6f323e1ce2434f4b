"""The load engine: puts calls under way by a schedule and records how long each took *from its intended send*.

An open loop sends at a fixed rate whatever the answers do, as the world does; a closed loop keeps a number of callers
busy, each with one call in flight; a pipeline keeps a number of calls of a blocking client in flight. Both
`tensorwire bench` and the benchmark in `bench/` use it. Only asyncio and numpy are needed: what a call is, and what is
printed, is the business of others.
"""

from __future__ import annotations

import asyncio
import math
import time
from array import array
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

import numpy as np
import numpy.typing as npt

Send = Callable[[], Awaitable[Any]]
"""Starts one call. An asyncio future costs less here than a coroutine, which needs a task of its own."""

PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)
SPIN = 0.001
"""Seconds before an intended send in which the loop is polled instead of slept on: its timers tick in milliseconds."""
BURST = 32
"""Overdue sends in a row after which the loop gets a turn, so that a late sender still reads its answers."""
PROGRESS_INTERVAL = 0.1
"""Seconds between two reports of progress."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How load is made. Exactly one of ``duration`` and ``requests`` ends it.

    ``rate``: requests per second of an open loop, or None for a closed loop. ``concurrency``: callers of a closed loop;
    in an open loop the calls that may be in flight, beyond which sends wait (their time still counts from when they
    were due). ``warmup``: seconds at the beginning of which nothing is recorded.
    """

    rate: float | None = None
    concurrency: int = 1
    duration: float | None = None
    requests: int | None = None
    warmup: float = 0.0

    def __post_init__(self) -> None:
        if (self.duration is None) == (self.requests is None):
            raise ValueError("a schedule ends after a duration or after a number of requests: give one of the two")
        if self.concurrency < 1:
            raise ValueError(f"concurrency is {self.concurrency}, expected at least 1")
        if self.rate is not None and not 0 < self.rate < float("inf"):
            raise ValueError(f"rate is {self.rate}, expected more than 0 requests per second")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is: ``fraction`` of its end (0..1), seconds, calls done and failed so far."""

    fraction: float
    elapsed: float
    completed: int
    failed: int


@dataclass(frozen=True, slots=True)
class Report:
    """What a run showed. ``latencies``: seconds from the intended send, ascending, of the calls that succeeded.

    ``elapsed``: seconds that were recorded (warm-up excluded). ``errors``: name of the error -> how often.
    ``lateness``: the longest time in seconds by which a send of an open loop left after it was due: a large one says
    the *client* was the limit.
    """

    latencies: npt.NDArray[np.float64]
    elapsed: float
    errors: dict[str, int] = field(default_factory=dict)
    lateness: float = 0.0

    @property
    def completed(self) -> int:
        """Calls that succeeded."""
        return len(self.latencies)

    @property
    def failed(self) -> int:
        """Calls that failed."""
        return sum(self.errors.values())

    @property
    def rate(self) -> float:
        """Calls that succeeded, per second."""
        return self.completed / self.elapsed if self.elapsed > 0 else 0.0

    def percentile(self, percent: float) -> float:
        """Return the seconds that ``percent`` per cent of the calls did not exceed; NaN where none succeeded."""
        if not self.completed:
            return float("nan")
        return float(self.latencies[max(0, math.ceil(round(percent / 100 * self.completed, 6)) - 1)])

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON: latencies in microseconds."""
        named = {f"p{percent:g}": self.percentile(percent) * 1e6 for percent in PERCENTILES} if self.completed else {}
        extremes = (
            {"min": self.latencies[0] * 1e6, "mean": self.latencies.mean() * 1e6, "max": self.latencies[-1] * 1e6}
            if self.completed
            else {}
        )
        return {
            "requests": self.completed,
            "failed": self.failed,
            "errors": dict(self.errors),
            "elapsed_s": round(self.elapsed, 6),
            "requests_per_s": round(self.rate, 2),
            "latency_us": {name: round(float(value), 1) for name, value in {**named, **extremes}.items()},
            "max_lateness_us": round(self.lateness * 1e6, 1),
        }


class LoadRun:
    """One run of load over ``sends``, taken in turn (one per connection). ``counted``: errors that are recorded as
    failed calls; any other error ends the run and is raised from :meth:`run`. ``report()`` may be asked at any time,
    also after a cancel.
    """

    def __init__(
        self,
        sends: Sequence[Send],
        schedule: Schedule,
        *,
        counted: tuple[type[Exception], ...] = (),
        progress: Callable[[Progress], None] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._sends = cycle(sends)
        self._schedule = schedule
        self._counted = counted
        self._progress = progress
        self._clock = clock
        self._latencies = array("d")
        self._errors: Counter[str] = Counter()
        self._lateness = 0.0
        self._started = self._record_from = self._last = 0.0
        self._sent = self._finished = self._in_flight = 0
        self._fatal: BaseException | None = None
        self._changed = asyncio.Event()

    async def run(self) -> Report:
        """Make the load, wait for its last answer, report."""
        self._started = self._last = self._clock()
        self._record_from = self._started + self._schedule.warmup
        ticker = asyncio.create_task(self._tick()) if self._progress else None
        try:
            await (self._closed_loop() if self._schedule.rate is None else self._open_loop(self._schedule.rate))
        finally:
            if ticker is not None:
                ticker.cancel()
        if self._fatal is not None:
            raise self._fatal
        self._show_progress(fraction=1.0)
        return self.report()

    def report(self) -> Report:
        """Return what is known so far."""
        latencies = np.sort(np.frombuffer(self._latencies, np.float64)) if self._latencies else np.empty(0)
        return Report(latencies, max(0.0, self._last - self._record_from), dict(self._errors), self._lateness)

    def _over(self, intended: float) -> bool:
        schedule = self._schedule
        if self._fatal is not None:
            return True
        if schedule.requests is not None:
            return self._sent >= schedule.requests
        return intended >= self._record_from + (schedule.duration or 0.0)

    async def _closed_loop(self) -> None:
        callers = [asyncio.create_task(self._caller(next(self._sends))) for _ in range(self._schedule.concurrency)]
        try:
            await asyncio.gather(*callers)
        finally:
            for caller in callers:
                caller.cancel()
            await asyncio.gather(*callers, return_exceptions=True)

    async def _caller(self, send: Send) -> None:
        """One caller of a closed loop. In one piece: what it costs is part of every call that is measured."""
        clock, append, counted = self._clock, self._latencies.append, self._counted
        requests, record_from = self._schedule.requests, self._record_from
        end = record_from + (self._schedule.duration or 0.0)
        intended = clock()
        while (intended < end if requests is None else self._sent < requests) and self._fatal is None:
            self._sent += 1
            try:
                await send()
            except counted as error:
                intended = self._done(intended, error)
                continue
            now = clock()
            if intended >= record_from:
                append(now - intended)
            self._finished += 1
            self._last = intended = now

    async def _open_loop(self, rate: float) -> None:
        start = self._started
        index = burst = 0
        while not self._over(intended := start + index / rate):
            if self._clock() < intended:
                await self._sleep_until(intended)
                burst = 0
            elif (burst := burst + 1) >= BURST:
                await asyncio.sleep(0)
                burst = 0
            while self._in_flight >= self._schedule.concurrency and self._fatal is None:
                await self._next_change()
            self._start_call(intended)
            index += 1
        while self._in_flight and self._fatal is None:
            await self._next_change()

    async def _sleep_until(self, due: float) -> None:
        while (left := due - self._clock()) > 0:  # noqa: ASYNC110 - a clock is what is waited for
            await asyncio.sleep(left - SPIN if left > SPIN else 0)

    async def _next_change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _start_call(self, intended: float) -> None:
        self._lateness = max(self._lateness, self._clock() - intended)
        self._sent += 1
        self._in_flight += 1
        call = asyncio.ensure_future(next(self._sends)())
        call.add_done_callback(lambda done: self._call_done(intended, done))

    def _call_done(self, intended: float, call: asyncio.Future[Any]) -> None:
        self._in_flight -= 1
        self._changed.set()
        if call.cancelled():
            return
        error = call.exception()
        if error is None or isinstance(error, self._counted):
            self._done(intended, error)
        else:
            self._fatal = self._fatal or error

    def _done(self, intended: float, error: BaseException | None) -> float:
        self._last = now = self._clock()
        self._finished += 1
        if intended >= self._record_from:
            if error is None:
                self._latencies.append(now - intended)
            else:
                self._errors[type(error).__name__] += 1
        return now

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(PROGRESS_INTERVAL)
            schedule, elapsed = self._schedule, self._clock() - self._started
            whole = schedule.requests or schedule.warmup + (schedule.duration or 0.0)
            self._show_progress(fraction=min(1.0, (self._finished if schedule.requests else elapsed) / whole))

    def _show_progress(self, fraction: float) -> None:
        if self._progress is not None:
            failed = sum(self._errors.values())
            self._progress(Progress(fraction, self._clock() - self._started, self._finished - failed, failed))


def run_pipeline(
    send: Callable[[], object],
    receive: Callable[[], object],
    *,
    in_flight: int,
    requests: int,
    clock: Callable[[], float] = time.perf_counter,
) -> Report:
    """Keep ``in_flight`` calls of a blocking client under way: ``send`` starts one, ``receive`` waits for the oldest.

    Any error ends the run and is raised.
    """
    latencies, sent_at = array("d"), deque[float]()
    started = clock()
    for _ in range(min(in_flight, requests)):
        sent_at.append(clock())
        send()
    for _ in range(requests - len(sent_at)):
        receive()
        now = clock()
        latencies.append(now - sent_at.popleft())
        sent_at.append(now)
        send()
    while sent_at:
        receive()
        latencies.append(clock() - sent_at.popleft())
    return Report(np.sort(np.frombuffer(latencies, np.float64)), clock() - started)


def run_calls(call: Callable[[], object], requests: int, clock: Callable[[], float] = time.perf_counter) -> Report:
    """Make ``requests`` blocking calls, one after the other. Any error ends the run and is raised."""
    latencies = array("d")
    started = before = clock()
    for _ in range(requests):
        call()
        now = clock()
        latencies.append(now - before)
        before = now
    return Report(np.sort(np.frombuffer(latencies, np.float64)), before - started)


async def run_load(sends: Sequence[Send], schedule: Schedule, **options: Any) -> Report:
    """Make the load that ``schedule`` describes with ``sends`` and report: see :class:`LoadRun` for the options."""
    return await LoadRun(sends, schedule, **options).run()
