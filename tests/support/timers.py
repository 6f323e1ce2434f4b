"""Time as an enemy: timers that fire early, late, twice and out of order, in every way that is drawn.

`Unruly` is a loop with a clock that is told, for objects that take `call_later` and a clock. `unruly_loop` makes a real
loop of uvloop or asyncio whose timers behave so, for whole servers and clients over real sockets.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextvars import Context
from functools import partial
from heapq import heappop, heappush
from math import floor
from random import Random
from typing import Any, TypeVarTuple

import uvloop

from tensorwire.protocol.alarm import GRAIN

Values = TypeVarTuple("Values")

LATE = 0.02
"""Seconds by which a timer is late at most."""
COST = 1e-5
"""Seconds that the clock moves with each callback: work takes time, so a storm of timers is one that never ends."""
WORST = LATE + 4 * GRAIN
"""Seconds after its moment by which what waits for a timer must have happened: one that was early, and then one that
was late by all it may be."""


def misjudged(now: float, delay: float, random: Random) -> float:
    """When a timer for `delay` seconds from `now` fires: as uvloop has it, early, exactly, or late."""
    kind = random.randrange(4)
    if kind == 0:  # whole milliseconds from the last one that began: up to 1.5 ms early
        return max(now, (floor(now * 1000) + round(delay * 1000)) / 1000)
    if kind == 1:
        return max(now, now + delay - random.uniform(0.0, GRAIN))
    return now + delay if kind == 2 else now + delay + random.uniform(0.0, LATE)


class Timer:
    """An armed timer."""

    def __init__(self, callback: Callable[[], object]) -> None:
        self.callback = callback
        self.over = False

    def cancel(self) -> None:
        self.over = True


class Unruly:
    """A loop whose time passes in `run` only. `fires` counts timers that fired, a second firing as one more."""

    def __init__(self, random: Random, now: float = 1000.0) -> None:
        self.now = now
        self.fires = 0
        self.soon: list[Callable[[], object]] = []
        self._random = random
        self._timers: list[tuple[float, int, Timer]] = []
        self._strays: list[tuple[float, int, Timer]] = []
        self._count = 0

    def clock(self) -> float:
        return self.now

    def call_soon(self, callback: Callable[..., object], *arguments: Any) -> None:
        self.soon.append(lambda: callback(*arguments))

    def call_later(self, delay: float, callback: Callable[[], object]) -> Timer:
        timer = Timer(callback)
        self._count += 1
        when = misjudged(self.now, delay, self._random)
        heappush(self._timers, (when, self._count, timer))
        if not self._random.randrange(3):  # once more, cancelled or not: its callback was on its way
            self._count += 1
            heappush(self._strays, (when + self._random.uniform(0.0, LATE), self._count, timer))
        return timer

    @property
    def armed(self) -> int:
        """Timers that will fire for the first time."""
        return sum(not timer.over for _, _, timer in self._timers)

    def run(self, seconds: float) -> None:
        """Let so much time pass."""
        until = self.now + seconds
        while True:
            while self.soon:
                self._call(self.soon.pop(0))
            source = min((heap for heap in (self._timers, self._strays) if heap), default=None)
            if source is None or source[0][0] > until:
                self.now = max(self.now, until)
                return
            when, _, timer = heappop(source)
            if source is self._timers and timer.over:
                continue
            timer.over = True
            self.now = max(self.now, when)
            self.fires += 1
            self._call(timer.callback)

    def advance(self, seconds: float) -> None:
        """As `run`."""
        self.run(seconds)

    def _call(self, callback: Callable[[], object]) -> None:
        self.now += COST
        callback()


def unruly_loop(kind: str, seed: int) -> asyncio.AbstractEventLoop:
    """A loop of `kind` "uvloop" or "asyncio" that counts its timers' firings in `fires`."""
    random = Random(seed)

    def err(loop: Any, arm: Callable[..., Any], delay: float, callback: Any, arguments: Any) -> asyncio.TimerHandle:
        now = time.monotonic()

        def fire() -> None:
            loop.fires += 1
            callback(*arguments)
            # Once more, where the callback is ours: asyncio's own take it for an error.
            if "tensorwire" in getattr(callback, "__module__", "") and not random.randrange(3):
                arm(random.uniform(0.0, LATE), callback, *arguments)

        timer: asyncio.TimerHandle = arm(misjudged(now, max(0.0, delay), random) - now, fire)
        return timer

    class Uvloop(uvloop.Loop):
        """Its call_at asks its call_later."""

        fires = 0

        def call_later(
            self, delay: float, callback: Callable[[*Values], object], *args: *Values, context: Context | None = None
        ) -> asyncio.TimerHandle:
            arm = partial(super().call_later, context=context)
            return err(self, arm, delay, callback, args)

    class Asyncio(asyncio.SelectorEventLoop):
        """Its call_later asks its call_at."""

        fires = 0

        def call_at(
            self, when: float, callback: Callable[[*Values], object], *args: *Values, context: Context | None = None
        ) -> asyncio.TimerHandle:
            base = partial(super().call_at, context=context)

            def arm(delay: float, told: Any, *values: Any) -> Any:
                return base(self.time() + delay, told, *values)

            return err(self, arm, when - self.time(), callback, args)

    return Uvloop() if kind == "uvloop" else Asyncio()
