"""Where a model runs: makes its engine, ties it to the loop, and waits until it is loaded.

`inline` runs on the loop, `process` in a process of its own, `auto` is measured: a model stays on the loop only if one
call costs less than handing it over would, if its code does nothing that concerns a whole process, and if it loads
there. Which model a name leads to is registry.py's.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from math import inf
from typing import TYPE_CHECKING

from ..gpu import SlabPool
from .engine.api import Engine, HealthState
from .engine.backends import LoadError
from .engine.process import ProcessEngine
from .engine.spec import ModelSpec
from .engine.worker import Surroundings

if TYPE_CHECKING:
    from .engine.inline import InlineEngine

logger = logging.getLogger("tensorwire.engine")

INLINE_BELOW = 100e-6
"""Seconds of one batch, measured at warm-up, below which a model runs on the loop: about what a hand-over costs."""


class PlacementError(Exception):
    """A model cannot be loaded; the message says which and why."""


STALLED_AFTER = 30.0
"""Seconds without an answer after which a model with calls counts as stalled."""


Attach = Callable[[Engine, str], None]
"""Called with a new engine and its placement before it starts: sets its sink."""

Wake = Callable[["InlineEngine | ProcessEngine"], None]
"""Sees to it that the engine is stepped soon."""


class Placer:
    """Makes engines: `loop` watches descriptors and timers, `wake` steps them, `timeout` is seconds to load one.

    `busy()` is around everything that may keep the loop for long. `run_limit` (seconds) and `result_bytes` are for
    models that do not say themselves.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        pool: SlabPool,
        wake: Wake,
        timeout: float,
        busy: Callable[[], AbstractContextManager[object]] = nullcontext,
        *,
        run_limit: float = 120.0,
        result_bytes: int = 256 << 20,
    ) -> None:
        self._run_limit = run_limit
        self._result_bytes = result_bytes
        self._loop = loop
        self._busy = busy
        self._surroundings = Surroundings.now()
        self._wake = wake
        self._pool = pool
        self._timeout = timeout

    async def place(self, spec: ModelSpec, asked: str, attach: Attach) -> None:
        """Load `spec` where `asked` ("inline", "process", "auto") says. Raises PlacementError."""
        if asked == "inline":
            self._inline(spec, attach)
            return
        engine = await self._process(spec, attach)
        if asked != "auto" or choose_placement(spec, engine.warm_up, engine.effective_max_batch) != "inline":
            return
        if engine.habits:
            text = "model stays in a process of its own, cheap as it is: its code %s (%s/%s)"
            logger.info(text, " and ".join(engine.habits), spec.name, spec.version)
            return
        try:
            self._inline(spec, attach)
        except PlacementError as error:  # such as one that runs an event loop: there can be none within ours
            logger.warning("model stays in a process of its own, since on the loop it does not load: %s", error)
            attach(engine, "process")
            return
        self.remove(engine)

    def remove(self, engine: Engine) -> None:
        """Stop an engine and take it from the loop."""
        for descriptor in engine.descriptors():
            self._loop.remove_reader(descriptor)
        engine.stop()

    def _inline(self, spec: ModelSpec, attach: Attach) -> None:
        process = os.getpid()
        with self._busy():
            from .engine.inline import InlineEngine  # brings the backends, and torch with them: only where wanted

            engine = InlineEngine(spec, self._pool, self._wake, self._loop.call_later)
            attach(engine, "inline")
            try:
                engine.start()
            except LoadError as error:
                raise PlacementError(f"model {spec.name} version {spec.version}: {error}") from error
            finally:
                if os.getpid() != process:  # the model forked, and forgot to end the child: there is one server
                    os._exit(1)

    async def _process(self, spec: ModelSpec, attach: Attach) -> ProcessEngine:
        changed = asyncio.Event()
        run_limit = self._run_limit if spec.run_limit is None else spec.run_limit
        engine = ProcessEngine(
            spec,
            self._pool,
            self._wake,
            load_timeout=self._timeout,
            stall_timeout=min(STALLED_AFTER, run_limit),
            kill_after=run_limit,
            result_bytes=self._result_bytes if spec.result_bytes is None else spec.result_bytes,
            surroundings=self._surroundings,
            on_change=lambda _engine: changed.set(),
        )
        attach(engine, "process")
        engine.start()
        for descriptor in engine.descriptors():
            self._loop.add_reader(descriptor, engine.on_readable, descriptor)
        while engine.health().state is HealthState.LOADING:  # the engine gives up by itself after `timeout`
            changed.clear()
            await changed.wait()
        health = engine.health()
        if not health.ready:
            self.remove(engine)
            raise PlacementError(f"model {spec.name} version {spec.version}: {health.detail}")
        return engine


def choose_placement(spec: ModelSpec, seconds: Mapping[int, float], effective_max_batch: int) -> str:
    """`inline` or `process` for a model that leaves the choice to us, from what warm-up measured in a process.

    `seconds` are those of the fastest batch by its rows. What counts is the largest batch that will be run: that is how
    long everybody on the loop would wait for it. Without figures, or on a device, it stays in its process.
    """
    rows = max((rows for rows in seconds if rows <= effective_max_batch), default=0)
    cheap = seconds.get(rows, inf) < INLINE_BELOW
    return "inline" if cheap and spec.device == "cpu" else "process"
