"""One round of one peer, in its client process: the first reply is checked, the load is made, a Sample goes back.

A peer says how one call is made; how calls are put under way and timed is here and in the load engine of `tensorwire
bench`, the same for all. A peer offers one or more of

- ``caller(work, address)``: context manager; a function that makes one blocking call and returns the reply;
- ``callers(work, address)``: async context manager; one function a connection that starts one call, an awaitable;
- ``pipeline(work, address)``: context manager; ``send`` and ``receive`` of a blocking client, replies in order;
- ``native(work, address, calls)``: a Sample, made by a load generator in C;
- ``run(work, address, calls)``: a Sample, of a peer that makes no calls over a socket at all;
- ``isolation(work, address, calls)``: a Sample of the model's own time.

``check(work, reply)`` replaces the comparison of arrays for peers that carry no arrays.
"""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any

import numpy as np
import uvloop

from . import works
from .processes import cpu_seconds
from .works import Work

PERCENTILES = (50.0, 90.0, 99.0, 99.9)
WARM_UP = 200


class MissingError(Exception):
    """What a peer or a figure needs is not here; the message says what, and how to get it."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One round of one peer: calls (or rows), the wall time in seconds, latency percentiles in microseconds.

    ``value`` is the figure itself where it is neither a rate nor the median.
    """

    calls: int
    elapsed: float
    percentiles: dict[str, float] = field(default_factory=dict)
    server_cpu: float = 0.0
    value: float | None = None

    def figure(self, work: Work) -> float:
        """Return the figure that is compared, in the work's unit."""
        if self.value is not None:
            return self.value
        if work.unit == "us":
            return self.percentiles["50"]
        rate = self.calls / self.elapsed
        return rate * work.request_bytes / 1e6 if work.unit == "MB/s" else rate


@dataclass(frozen=True, slots=True)
class Target:
    """What a client process measures: a work at a server, with so many calls or for so many seconds."""

    work: Work
    address: str
    server_pid: int
    calls: int
    seconds: float

    @property
    def warm_up(self) -> int:
        """Calls before the timed ones."""
        return max(self.work.in_flight, min(WARM_UP, self.calls // 10))


def named(latencies_us: Any) -> dict[str, float]:
    """Return the percentiles of latencies in microseconds: nearest rank, so each one was measured."""
    values = np.percentile(np.asarray(latencies_us, np.float64), PERCENTILES, method="inverted_cdf")
    return {f"{percent:g}": float(value) for percent, value in zip(PERCENTILES, values, strict=True)}


def sampled(report: Any, server_cpu: float) -> Sample:
    """Return a Sample of a load engine's Report."""
    return Sample(report.completed, report.elapsed, named(report.latencies * 1e6), server_cpu)


def measure(module: str, target: Target) -> Sample:
    """Run one round. Raises WrongReplyError when the first reply is not what the work asks for."""
    from .harness import load

    peer, work = load(module), target.work
    works.expected(work)  # before connections are open: the first time may take seconds, and servers close idle ones
    if work.kind == "memory":
        from .memory import idle_connections

        return idle_connections(peer, target)
    for name, chosen in (("native", work.native), ("isolation", work.kind == "isolation"), ("run", True)):
        if chosen and hasattr(peer, name):
            before = cpu_seconds(target.server_pid)
            sample: Sample = getattr(peer, name)(work, target.address, target.calls)
            return replace(sample, server_cpu=cpu_seconds(target.server_pid) - before)
    if work.in_flight == 1 and hasattr(peer, "caller"):
        return one_at_a_time(peer, target)
    if hasattr(peer, "callers"):
        return uvloop.run(many(peer, target))
    return pipelined(peer, target)


def check(peer: ModuleType, work: Work, reply: Any) -> None:
    """Compare a first reply with what is right."""
    getattr(peer, "check", works.check)(work, reply)


def one_at_a_time(peer: ModuleType, target: Target) -> Sample:
    """Blocking calls, one after the other."""
    from tensorwire.clients.cli.load import run_calls

    with peer.caller(target.work, target.address) as call:
        check(peer, target.work, call())
        run_calls(call, target.warm_up)
        before = cpu_seconds(target.server_pid)
        report = run_calls(call, target.calls)
        return sampled(report, cpu_seconds(target.server_pid) - before)


def pipelined(peer: ModuleType, target: Target) -> Sample:
    """A blocking client that keeps calls in flight."""
    from tensorwire.clients.cli.load import run_pipeline

    with peer.pipeline(target.work, target.address) as (send, receive):
        send()
        check(peer, target.work, receive())
        run_pipeline(send, receive, in_flight=target.work.in_flight, requests=target.warm_up)
        before = cpu_seconds(target.server_pid)
        report = run_pipeline(send, receive, in_flight=target.work.in_flight, requests=target.calls)
        return sampled(report, cpu_seconds(target.server_pid) - before)


async def many(peer: ModuleType, target: Target) -> Sample:
    """Asyncio callers in a closed loop, or an open loop at a rate."""
    from tensorwire.clients.cli.load import Schedule, run_load

    work = target.work
    async with peer.callers(work, target.address) as sends:
        for send in sends:
            check(peer, work, await send())
        if work.kind == "open":
            schedule = Schedule(work.rate, work.in_flight, duration=2 * target.seconds, warmup=target.seconds / 2)
        else:
            await run_load(sends, Schedule(concurrency=work.in_flight, requests=target.warm_up))
            schedule = Schedule(concurrency=work.in_flight, requests=target.calls)
        before = cpu_seconds(target.server_pid)
        report = await run_load(sends, schedule)
        return sampled(report, cpu_seconds(target.server_pid) - before)


@contextlib.contextmanager
def each_once(peer: ModuleType, work: Work, address: str, count: int) -> Any:
    """Hold ``count`` connections of a blocking client open, each after one checked call."""
    with contextlib.ExitStack() as stack:
        for _ in itertools.repeat(None, count):
            if hasattr(peer, "caller"):
                check(peer, work, stack.enter_context(peer.caller(work, address))())
            else:
                send, receive = stack.enter_context(peer.pipeline(work, address))
                send()
                check(peer, work, receive())
        yield
