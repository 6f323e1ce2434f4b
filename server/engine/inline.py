"""An engine on the front's loop, for models that cost less than handing them to another process (about 100 us).

What lives here: the Engine interface over EngineCore and BatchMemory, and when the loop should step. What must not:
asyncio; the loop's turn is asked for by `wake`, its timer by `call_later`.
"""

from __future__ import annotations

import time
from math import inf
from typing import TYPE_CHECKING, Any

from ...codec import CodecError, check_body
from ...protocol.alarm import Alarm
from ...protocol.status import Status
from .api import Failure, Health, HealthState, Sink
from .backends import LoadError
from .batch_memory import BatchMemory
from .call_preparer import CallPreparer
from .core import EngineCore

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...codec import Resolved
    from ...gpu import Slab, SlabPool
    from .api import BatchResult, Prepared, Request
    from .spec import ModelSpec

__all__ = ["InlineEngine"]

STALLED_AFTER = 10.0
"""Seconds that requests may wait without a batch being finished before the engine is called stalled."""


class InlineEngine:
    """An Engine (by its methods: compiled, as what every call passes through is).

    `wake(engine)` is called once when work appears; answer it by calling `step()` soon, not from within.

    `call_later(delay, callback)` is the loop's; needed only for models with max_wait.
    """

    def __init__(
        self,
        spec: ModelSpec,
        pool: SlabPool,
        wake: Callable[[InlineEngine], object],
        call_later: Callable[[float, Callable[[], None]], Any] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.spec = spec
        self.sink: Sink = _no_sink
        self.effective_max_batch = 0
        self.batch_with = ""
        self.remarks: tuple[str, ...] = ()
        self.labels: tuple[str, ...] = ()
        self._wake = wake
        self._clock = clock
        # One for the batch that waits, however many requests join it.
        self._alarm = None if call_later is None else Alarm(call_later, clock, self._wait_over)
        self._memory = BatchMemory(pool, max(1, spec.max_batch))
        self._core = EngineCore(spec, self._memory.release, clock=clock)
        self._queue = self._core.queue
        self._preparer = CallPreparer(spec, self._memory)
        self._room = 0  # requests that may wait: none before there is a model
        self._woken = False
        self._state = HealthState.UNLOADED
        self._detail = "not started"
        self._busy_since = 0.0

    @property
    def queue_depth(self) -> int:
        """Requests waiting."""
        return self._queue.count

    @property
    def in_use(self) -> int:
        """Bytes of the pool held for requests not yet finished."""
        return self._memory.in_use

    def descriptors(self) -> tuple[int, ...]:
        """None: it is on the loop."""
        return ()

    def on_readable(self, descriptor: int) -> None:
        """See Engine.on_readable."""
        del descriptor

    @property
    def short_of_memory(self) -> bool:
        """See Engine.short_of_memory: the results of this one are the collector's."""
        return False

    @property
    def warm_up_seconds(self) -> dict[int, float]:
        """Seconds of the fastest batch at warm-up, by its rows; empty if it was not measured."""
        return self._core.warm_up.seconds

    def start(self) -> None:
        """Load and warm up; blocks. Raises LoadError."""
        self._state, self._detail = HealthState.LOADING, ""
        try:
            self._core.load()
        except LoadError as error:
            self._state, self._detail = HealthState.FAILED, str(error)
            raise
        self.effective_max_batch = self._core.effective_max_batch
        self.batch_with, self.remarks = self._core.warm_up.batch_with, self._core.warm_up.remarks
        self.labels = self._core.labels
        self._core.last_progress = self._clock()
        self._state = HealthState.SERVING
        self._room = self.spec.max_queue

    def stop(self) -> None:
        """Unload; what is queued fails UNAVAILABLE through the sink. Idempotent."""
        self._state, self._detail = HealthState.UNLOADED, "stopped"
        self._room = 0
        if self._alarm is not None:
            self._alarm.cancel()
        failures = self._core.close(f"model {self.spec.name!r} is being unloaded")
        self._memory.trim()
        if failures:
            self.sink([*failures])

    @property
    def busy(self) -> bool:
        """See Engine.busy."""
        return False

    def prepare(self, resolved: Resolved, meta: bytes, dims: bytes) -> Prepared:
        """Check a call against the signature. Raises SignatureError."""
        return self._preparer.prepare(resolved, meta, dims)

    def submit(self, prepared: Prepared, body: memoryview, slab: Slab | None, request: Request) -> Failure | None:
        """Queue one request (see Engine.submit)."""
        queue = self._queue
        if queue.count >= self._room or prepared.unchecked:
            refusal = self._refusal(prepared, body, request)
            if refusal is not None:
                if slab is not None:
                    slab.release()
                return refusal
        request.prepared = prepared
        request.rows = prepared.rows
        if slab is not None:
            self._memory.adopt(prepared, slab, request)
        elif not self._memory.place(prepared, body, request):
            message = f"no memory for a body of {prepared.body_length} bytes; try again later"
            return Failure([request], Status.RESOURCE_EXHAUSTED, message, started=False)
        if not queue.count:
            self._busy_since = request.arrived
        queue.push(request)
        if not self._woken:
            self._woken = True
            self._wake(self)
        return None

    def step(self) -> None:
        """Run one batch and hand what came of it to the sink; ask to be called again if more waits."""
        self._woken = False
        core = self._core
        try:
            core.step(self._clock(), self.sink)
        finally:
            if self._queue.count:
                self._again(core.next_step)

    def cancel(self, request: Request) -> bool:
        """Forget the request (see Engine.cancel)."""
        waited = self._core.cancel(request)
        if waited and not self._queue.count:
            self._core.last_progress = self._clock()
        return waited

    def expire(self, now: float) -> list[Failure]:
        """Take out queued requests whose deadline has passed."""
        return self._core.expire(now)

    def trim(self) -> None:
        """Give idle memory back."""
        self._memory.trim()
        self._core.trim()

    def health(self) -> Health:
        """Report the state now."""
        depth = self._queue.count
        state = self._state
        last = self._core.last_progress
        if state is HealthState.SERVING:
            if not depth:
                state = HealthState.IDLE
            elif self._clock() - max(last, self._busy_since) > STALLED_AFTER:
                state = HealthState.STALLED
        return Health(state, last, depth, self._detail)

    def _again(self, when: float) -> None:
        if self._woken:
            return
        if self._alarm is not None and self._clock() < when < inf:
            self._alarm.set(when)
        else:
            self._woken = True
            self._wake(self)

    def _wait_over(self, now: float) -> None:
        """Run the batch that has waited for others as long as it may."""
        del now
        if not self._woken:
            self._woken = True
            self._wake(self)

    def _refusal(self, prepared: Prepared, body: memoryview, request: Request) -> Failure | None:
        if self._state is not HealthState.SERVING:
            message = f"model {self.spec.name!r} is not serving: {self._state.name.lower()}"
            return Failure([request], Status.UNAVAILABLE, message, started=False)
        if self._queue.count >= self._room:
            message = f"{self._queue.count} requests are queued, at most {self._room} may be; try again later"
            return Failure([request], Status.RESOURCE_EXHAUSTED, message, started=False)
        try:
            check_body(prepared.resolved, body)
        except CodecError as error:
            return Failure([request], Status.INVALID_ARGUMENT, str(error), started=False)
        return None


def _no_sink(results: list[BatchResult | Failure]) -> None:
    del results
