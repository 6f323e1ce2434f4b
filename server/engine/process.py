"""An engine behind a process boundary: its own GIL, its own CUDA context, its own crash.

What lives here: the front's side: placing requests in shared memory, telling the process, turning its answers into
results, and what happens when it hangs or dies. What must not: batching and running (child.py does both, with the same
core as the inline engine), and asyncio: the front watches `descriptors()` and calls `on_readable`.

Who owns what
- Request bodies lie in the pool shared with the front; only the front allocates there and frees there. The rows of a
  request are held until the process has said that it is done with it, cancelled or not.
- Results lie in a pool that only the process allocates from; a result slab is released, by a record, when the last
  view of it here was dropped.
- `marks[slot]` is set by the process just before the model may see the request. So after a crash it is known exactly
  which calls may have started, and the others are provably safe to retry.

Times of life
- Crash: everything in flight fails UNAVAILABLE, memory returns, the process starts again after 0.1 s, doubling up to
  10 s, and back to 0.1 s once it has served for 10 s.
- Hang: with requests in flight and none finished for `stall_timeout` the health is STALLED; after `kill_after` without
  progress the process is killed, which is a crash as above.
- A model that fails to load says why (`health().detail`) and is not tried again unless it has loaded before.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import subprocess
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

import msgpack
import numpy as np

from ...codec import CodecError, Encoded, check_body
from ...protocol import Status
from .api import BatchResult, Engine, Failure, Health, HealthState, OutputArray, Prepared, Request, Sink
from .control import ChannelError
from .prepare import Preparer
from .records import (
    CANCEL,
    CANCELLED,
    ENCODED,
    FORGET,
    PREPARE,
    PREPARED,
    RELEASE,
    REQUEST,
    RESULT,
    SHORT,
    SIGNATURE,
    OutputSignature,
    output_places,
)
from .ring import RingError
from .slots import Slots
from .timer import TimerDescriptor
from .worker import Worker, printable

if TYPE_CHECKING:
    from ...codec import Resolved
    from ...gpu import Slab, SlabPool
    from .spec import ModelSpec

logger = logging.getLogger("tensorwire.engine")

#: Seconds before the first restart, at most, and of serving after which the next crash starts over at the first.
BACK_OFF_FIRST: Final = 0.1
BACK_OFF_MOST: Final = 10.0
BACK_OFF_RESET: Final = 10.0
#: Seconds an idle process gets to leave by itself at stop(); it takes a few milliseconds.
STOP_GRACE: Final = 2.0
#: Call signatures the process keeps. Beyond it the oldest is forgotten, and sent again when it comes back.
MAX_PREPARED: Final = 4096
#: Released results wait for the next wake-up of the process, unless so many (or so much) of them wait.
RELEASE_COUNT: Final = 64


class ProcessEngine(Engine):
    """`spec`'s model in a process of its own. All methods on one thread.

    `wake(engine)` is called once when there is something to hand over; answer it by calling `step()` soon (in the next
    turn of the loop), which costs one system call for everything submitted by then. Times in seconds.
    `on_change(engine)`, if given, is called when the state of health may have changed.
    """

    def __init__(
        self,
        spec: ModelSpec,
        pool: SlabPool,
        wake: Callable[[ProcessEngine], object],
        *,
        stall_timeout: float = 30.0,
        kill_after: float = 120.0,
        load_timeout: float = 300.0,
        result_bytes: int = 256 << 20,
        on_change: Callable[[ProcessEngine], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.spec = spec
        self.sink: Sink = _no_sink
        self.effective_max_batch = 0
        self.warm_up: dict[str, Any] = {}
        self.restarts = 0
        self._pool = pool
        self._wake = wake
        self._clock = clock
        self._on_change = on_change
        self._stall_timeout = stall_timeout
        self._kill_after = max(kill_after, stall_timeout)
        self._load_timeout = load_timeout
        self._result_bytes = result_bytes
        self._capacity = spec.max_queue + 2 * max(1, spec.max_batch)
        self._slots = Slots(pool, max(1, spec.max_batch))
        self._preparer = Preparer(spec, self._slots, self)
        self._worker: Worker | None = None
        self._state = HealthState.UNLOADED
        self._detail = "not started"
        self._stopped = False
        self._ever_ready = False
        self._back_off = BACK_OFF_FIRST
        self._since = 0.0  # when the present state began
        self._progress = 0.0  # when a request last finished, or the first of a busy period came
        self._finished = 0.0  # when a batch last finished
        self._woken = False
        self._eager = False  # the process waits for result memory: releases do not wait
        self._pending: list[Request | None] = [None] * self._capacity
        self._free: list[int] = list(range(self._capacity))
        self._introduced: OrderedDict[int, Slab | None] = OrderedDict()
        self._signatures: dict[int, OutputSignature] = {}
        self._overflow: deque[tuple[Any, ...]] = deque()
        self._released: deque[int] = deque()
        self._leases: dict[int, _Lease] = {}
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._timer = TimerDescriptor()
        self._cold = select.epoll()
        self._cold.register(self._timer.fileno(), select.EPOLLIN)

    # what the front calls

    @property
    def queue_depth(self) -> int:
        """Requests waiting: in flight, and not marked as started by the process."""
        waiting = self._capacity - len(self._free)
        if waiting and self._worker is not None:
            waiting -= self._worker.marks.tobytes().count(1)
        return max(0, waiting)

    @property
    def in_use(self) -> int:
        """Bytes of the pool held for requests in flight and for metadata on its way to the process."""
        return self._slots.in_use + sum(slab.nbytes for slab in self._introduced.values() if slab is not None)

    def start(self) -> None:
        """Start the process and return; `health()` says when it is ready, or why it is not."""
        if self._worker is None and not self._stopped:
            if self.spec.device != "cpu":
                self._pool.hold_pages()  # it will be pinned over there
            self._spawn()

    def stop(self) -> None:
        """End the process: at once with requests in flight (they fail), else within STOP_GRACE. Idempotent."""
        if self._stopped:
            return
        self._stopped = True
        worker = self._worker
        if worker is not None:
            if self._state is HealthState.SERVING and len(self._free) == self._capacity:
                worker.channel.send("stop")
                with contextlib.suppress(subprocess.TimeoutExpired):
                    worker.process.wait(STOP_GRACE)
            self._bury("the model is being unloaded")
        self._become(HealthState.UNLOADED, "stopped")
        self._slots.trim()
        self._cold.close()
        self._timer.close()
        os.close(self._event)

    def prepare(self, resolved: Resolved, meta: bytes, dims: bytes) -> Prepared:
        """See Engine.prepare. The process does the same again from the same bytes."""
        return self._preparer.prepare(resolved, meta, dims)

    def submit(self, prepared: Prepared, body: memoryview, slab: Slab | None, request: Request) -> Failure | None:
        """See Engine.submit. The process learns of it at the next `step()`."""
        worker = self._worker
        if worker is None or self._state is not HealthState.SERVING:
            return self._refuse(slab, request, Status.UNAVAILABLE, f"the model is not ready: {self._detail}")
        if not self._free:
            text = f"{self._capacity} requests are in flight, at most so many may be; try again later"
            return self._refuse(slab, request, Status.RESOURCE_EXHAUSTED, text)
        if prepared.resolved.unchecked:
            try:
                check_body(prepared.resolved, body)
            except CodecError as error:
                return self._refuse(slab, request, Status.INVALID_ARGUMENT, str(error))
        number = prepared.number
        if number not in self._introduced and not self._introduce(prepared):
            return self._refuse(
                slab, request, Status.RESOURCE_EXHAUSTED, "no memory for the call's metadata; try again later"
            )
        request.rows = prepared.rows
        request.prepared = prepared
        if slab is not None:
            self._slots.adopt(prepared, slab, request)
        elif not self._slots.place(prepared, body, request):
            text = f"no memory for a body of {prepared.body_length} bytes; try again later"
            return self._refuse(None, request, Status.RESOURCE_EXHAUSTED, text)
        block: Any = request.block
        free = self._free
        if len(free) == self._capacity:
            self._progress = self._clock()
        slot = free.pop()
        worker.marks[slot] = 0
        # Never full: it has room for every slot twice, and everything but requests can wait.
        worker.to_engine.push(
            REQUEST,
            request.priority,
            0,
            slot,
            number,
            request.principal,
            request.start,
            block.capacity,
            block.slab.offset,
            len(block.memory),
            request.deadline,
            request.arrived,
            request.first_byte,
        )
        self._pending[slot] = request
        request.slot = slot
        if not self._woken:
            self._woken = True
            self._wake(self)
        return None

    def cancel(self, request: Request) -> None:
        """See Engine.cancel. The memory is held until the process has confirmed, or finished the batch."""
        if not request.done:
            request.done = True
            self._withdraw(request)

    def expire(self, now: float) -> list[Failure]:
        """Fail what is past its deadline, also while the process is busy.

        `started` is True: that the process has not begun with them at this very moment cannot be known from here.
        """
        late = [r for r in self._pending if r is not None and not r.done and r.deadline <= now]
        for request in late:
            self._withdraw(request)
        return [Failure(late, Status.DEADLINE_EXCEEDED, "the deadline passed before the result", True)] if late else []

    def trim(self) -> None:
        """Give the idle block back to the pool and idle results back to the process."""
        self._slots.trim()
        if self._released:
            self._wake_once()

    def health(self) -> Health:
        """SERVING turns into IDLE with nothing in flight and into STALLED without progress."""
        state = self._state
        if state is HealthState.SERVING:
            if len(self._free) == self._capacity:
                state = HealthState.IDLE
            elif self._clock() - self._progress > self._stall_timeout:
                state = HealthState.STALLED
        detail = self._detail
        if state is HealthState.STALLED:
            detail = f"no request finished for {self._clock() - self._progress:.1f} s"
        return Health(state, self._finished, self.queue_depth, detail)

    def step(self) -> None:
        """Hand over what was submitted since the last time, with one system call."""
        self._woken = False
        worker = self._worker
        if worker is None:
            return
        ring = worker.to_engine
        released = self._released
        while released and ring.push(RELEASE, 0, 0, 0, 0, 0, 0, 0, released[0], 0, 0.0, 0.0, 0.0):
            released.popleft()
        overflow = self._overflow
        while overflow and ring.push(*overflow[0]):
            overflow.popleft()
        ring.publish()

    def descriptors(self) -> tuple[int, ...]:
        """The same two for the whole life of the engine: results, and everything that is rare."""
        return self._event, self._cold.fileno()

    def on_readable(self, descriptor: int) -> None:
        """Results arrived, or (the other descriptor) a message, output, the timer or the end of the process."""
        if self._stopped:
            return
        if descriptor == self._event:
            self._collect()
            return
        for ready, _ in self._cold.poll(0):
            self._on_cold(ready)

    # results

    def _collect(self) -> None:
        worker = self._worker
        if worker is None:
            return
        try:
            outcome = self._read_results(worker)
        except (RingError, LookupError, ValueError, TypeError, msgpack.UnpackException) as error:
            self._replace(worker, error)
            return
        if outcome:
            self.sink(outcome)

    def _read_results(self, worker: Worker) -> list[BatchResult | Failure]:
        outcome: list[BatchResult | Failure] = []
        for record in worker.to_front.read():
            kind, _, signature, count, rows, offset, nbytes, planned, copied_in, computed, copied_out = record
            if kind == RESULT:
                layout = self._signatures[signature]
                places, _ = output_places(count, rows, layout)
                data = self._lease(worker, offset, nbytes)
                requests = self._finish(worker, data[: 4 * count].cast("I").tolist())
                outputs = tuple(
                    OutputArray(name, dtype, row_shape, data[start : start + size], row_bytes)
                    for (name, dtype, row_shape, row_bytes), (start, size) in zip(layout, places, strict=True)
                )
                outcome.append(BatchResult(requests, outputs, rows, planned, copied_in, computed, copied_out))
            elif kind == ENCODED:
                data = self._lease(worker, offset, 64 + nbytes + signature + count)
                requests = self._finish(worker, [data[:4].cast("I")[0]])
                end = 64 + nbytes
                meta_length, dims_length = signature, count
                meta = bytes(data[end : end + meta_length])
                dims = bytes(data[end + meta_length : end + meta_length + dims_length])
                encoded = Encoded(meta, dims, [data[64:end]], nbytes)
                outcome.append(BatchResult(requests, (), rows, planned, copied_in, computed, copied_out, encoded))
            elif kind == CANCELLED:
                self._finish(worker, [count])
            elif kind == PREPARED:
                self._forget_slab(count)
            elif kind == SIGNATURE:
                self._learn(signature, bytes(worker.results.view(offset, nbytes)))
                self._tell(RELEASE, offset=offset)
            elif kind == SHORT:
                self._eager = True
                if self._released:
                    self._wake_once()
            else:
                raise RingError(f"a record of kind {kind}")
        return outcome

    def _finish(self, worker: Worker, slots: list[int]) -> list[Request]:
        """These requests are over: their slots and their rows are free again."""
        pending = self._pending
        requests = [request for slot in slots if (request := pending[slot]) is not None]
        if len(requests) != len(slots) or len(set(slots)) != len(slots):  # before any change: no call may get lost
            raise RingError("an answer to a request that is not in flight")
        marks = worker.marks
        block: Any = None
        rows = 0
        for slot, request in zip(slots, requests, strict=True):
            pending[slot] = None
            request.slot = -1
            request.started = marks[slot] == 1
            marks[slot] = 0
            if request.block is not block:
                if rows:
                    self._slots.release(block, rows)
                block, rows = request.block, 0
            rows += request.rows
            request.block = None
        if rows:
            self._slots.release(block, rows)
        self._free += slots
        self._progress = self._finished = self._clock()
        return requests

    def _lease(self, worker: Worker, offset: int, nbytes: int) -> memoryview:
        """A result slab; the process gets it back when the last view of it is gone."""
        owner = np.frombuffer(worker.results.view(offset, nbytes), np.uint8)
        lease = _Lease(owner, _lease_dropped)
        lease.engine = self
        lease.worker = worker
        lease.offset = offset
        self._leases[id(lease)] = lease
        return owner.data

    def _release(self, lease: _Lease) -> None:
        """Called from wherever the last view was dropped, the garbage collector included: note it, no more."""
        self._leases.pop(id(lease), None)
        if lease.worker is self._worker and not self._stopped:
            self._released.append(lease.offset)
            if self._eager or len(self._released) >= RELEASE_COUNT:
                self._wake_once()

    def _learn(self, number: int, raw: bytes) -> None:
        layout: OutputSignature = tuple(
            (str(name), str(dtype), tuple(map(int, row_shape)), int(row_bytes))
            for name, dtype, row_shape, row_bytes in msgpack.unpackb(raw)
        )
        self._signatures[number] = layout

    # telling the process

    def _introduce(self, prepared: Prepared) -> bool:
        """Send what a number stands for, ahead of the first request that uses it. False: the pool is full."""
        meta, dims = prepared.meta, prepared.dims
        slab = self._pool.allocate(len(meta) + len(dims))
        if slab is None:
            return False
        slab.view[: len(meta)] = meta
        slab.view[len(meta) :] = dims
        if len(self._introduced) >= MAX_PREPARED:
            oldest, unread = self._introduced.popitem(last=False)
            if unread is not None:  # it has not even been read: too many new ones at once
                self._introduced[oldest] = unread
                slab.release()
                return False
            self._tell(FORGET, number=oldest)
        self._introduced[prepared.number] = slab
        self._tell(PREPARE, number=prepared.number, start=len(meta), capacity=len(dims), offset=slab.offset)
        return True

    def _withdraw(self, request: Request) -> None:
        slot = request.slot
        if slot >= 0 and self._pending[slot] is request:
            self._tell(CANCEL, slot=slot)

    def _forget_slab(self, number: int) -> None:
        slab = self._introduced.get(number)
        if slab is not None:
            self._introduced[number] = None
            slab.release()

    def _tell(
        self, kind: int, *, slot: int = 0, number: int = 0, start: int = 0, capacity: int = 0, offset: int = 0
    ) -> None:
        """Anything but a request; waits its turn here if the ring is full."""
        worker = self._worker
        record = (kind, 0, 0, slot, number, 0, start, capacity, offset, 0, 0.0, 0.0, 0.0)
        if worker is None:
            return
        if self._overflow or not worker.to_engine.push(*record):
            self._overflow.append(record)
        self._wake_once()

    def _wake_once(self) -> None:
        if not self._woken:
            self._woken = True
            self._wake(self)

    def _refuse(self, slab: Slab | None, request: Request, status: Status, message: str) -> Failure:
        if slab is not None:
            slab.release()
        return Failure([request], status, message, False)

    # life and death

    def _spawn(self) -> None:
        try:
            worker = Worker(self.spec, self._pool, self._event, self._capacity, self._result_bytes)
        except OSError as error:
            self._become(HealthState.FAILED, f"its process cannot be started: {error.strerror}")
            self._retry_later()
            return
        self._worker = worker
        for descriptor in worker.descriptors:
            self._cold.register(descriptor, select.EPOLLIN)
        self._timer.once(self._load_timeout)
        self._become(HealthState.LOADING, "loading")

    def _on_cold(self, descriptor: int) -> None:
        if descriptor == self._timer.fileno():
            self._timer.clear()
            self._on_timer()
        worker = self._worker
        if worker is None:
            return
        channel, output, pidfd = worker.descriptors
        if descriptor == channel:
            self._on_messages(worker)
        elif descriptor == output:
            if not worker.log_output():
                self._cold.unregister(output)
        elif descriptor == pidfd:
            self._on_death()

    def _on_timer(self) -> None:
        if self._worker is None:
            self.restarts += 1
            self._spawn()
        elif self._state is HealthState.LOADING:
            self._ever_ready = False
            self._bury(f"not loaded after {self._load_timeout:g} s")
            self._become(HealthState.FAILED, f"not loaded after {self._load_timeout:g} s")
        elif len(self._free) < self._capacity and self._clock() - self._progress > self._kill_after:
            logger.error("%s: no progress for %g s: it is killed", self._worker.label, self._kill_after)
            self._on_death("hung")

    def _on_messages(self, worker: Worker) -> None:
        try:
            messages = worker.channel.receive()
            for message in messages:
                self._on_message(worker, message)
        except (ChannelError, RingError, LookupError, ValueError, TypeError) as error:
            self._replace(worker, error)
            return
        if worker.channel.ended and self._worker is worker:
            self._on_death()

    def _on_message(self, worker: Worker, message: dict[str, Any]) -> None:
        kind = message["kind"]
        if kind == "failure":
            requests = self._finish(worker, list(message["slots"]))
            text, started = printable(message["message"]), bool(message["started"])
            self.sink([Failure(requests, Status(message["status"]), text, started)])
        elif kind == "ready":
            self.effective_max_batch = int(message["effective_max_batch"])
            self.warm_up = message
            self._ever_ready = True
            self._timer.every(min(1.0, self._stall_timeout / 4))
            self._become(HealthState.SERVING, "")
        elif kind == "failed":
            self._fail_to_load(worker, printable(message["message"]))
        else:
            raise ChannelError(f"a message of kind {printable(kind)}")

    def _fail_to_load(self, worker: Worker, text: str) -> None:
        logger.error("%s: cannot be loaded: %s", worker.label, text)
        self._bury(text)
        self._become(HealthState.FAILED, text)
        if self._ever_ready:
            self._retry_later()

    def _on_death(self, why: str = "") -> None:
        served = self._clock() - self._since if self._state is HealthState.SERVING else 0.0
        if served >= BACK_OFF_RESET:
            self._back_off = BACK_OFF_FIRST
        how = self._bury("")
        self._become(HealthState.FAILED, f"its process {why + ' and ' if why else ''}{how}")
        self._retry_later()

    def _replace(self, worker: Worker, error: Exception) -> None:
        """It no longer says what can be: nothing more of it is believed."""
        logger.error("%s: what it says makes no sense (%s); it is killed", worker.label, printable(str(error)))
        self._on_death("spoke nonsense")

    def _retry_later(self) -> None:
        if self._stopped:
            return
        logger.warning("%s: %s; next start in %g s", self.spec.name, self._detail, self._back_off)
        self._timer.once(self._back_off)
        self._back_off = min(2 * self._back_off, BACK_OFF_MOST)

    def _bury(self, why: str) -> str:
        """The process ends here: take what it finished, fail the rest, give all memory back."""
        worker = self._worker
        if worker is None:
            return ""
        worker.kill()
        how = worker.reap()
        outcome: list[BatchResult | Failure] = []
        with contextlib.suppress(RingError, LookupError, ValueError, TypeError, msgpack.UnpackException):
            outcome = self._read_results(worker)
        outcome += self._fail_all(worker, why or f"the model's process {how}")
        for descriptor in worker.descriptors:
            with contextlib.suppress(OSError):
                self._cold.unregister(descriptor)
        self._timer.off()
        self._worker = None
        for slab in self._introduced.values():
            if slab is not None:
                slab.release()
        self._introduced.clear()
        self._signatures.clear()
        self._overflow.clear()
        self._released.clear()
        self._eager = False
        worker.close()
        if outcome:
            self.sink(outcome)
        return how

    def _fail_all(self, worker: Worker, why: str) -> list[BatchResult | Failure]:
        requests = self._finish(worker, [slot for slot, request in enumerate(self._pending) if request is not None])
        requests.sort(key=attrgetter("arrived"))
        started = [request for request in requests if request.started]
        waiting = [request for request in requests if not request.started]
        failures: list[BatchResult | Failure] = []
        if started:
            failures.append(Failure(started, Status.UNAVAILABLE, f"{why} while it ran this call", True))
        if waiting:
            failures.append(Failure(waiting, Status.UNAVAILABLE, f"{why} before it began this call: try again", False))
        return failures

    def _become(self, state: HealthState, detail: str) -> None:
        self._state = state
        self._detail = detail
        self._since = self._clock()
        if self._on_change is not None:
            self._on_change(self)


class _Lease(weakref.ref[Any]):
    """One result slab with views out; held by the engine, or it would die without calling back."""

    __slots__ = ("engine", "offset", "worker")
    engine: ProcessEngine
    worker: Worker
    offset: int


def _lease_dropped(lease: weakref.ref[Any]) -> None:
    if isinstance(lease, _Lease):
        lease.engine._release(lease)  # noqa: SLF001 - the callback of the engine's own object


def _no_sink(outcome: list[BatchResult | Failure]) -> None:
    """Before the front has set one there are no requests either."""
    del outcome
