"""An engine behind a process boundary: its own GIL, its own CUDA context, its own crash.

What lives here: the front's side of calls: placing them in shared memory and telling the process. What must not: the
process itself, when it starts, hangs or dies (lifecycle.py), batching and running (process_main.py does both, with the
same core as the inline engine), and asyncio.

Who owns what
- Request bodies lie in the pool shared with the front; only the front allocates there and frees there. The rows of a
  request are held until the process has said that it is done with it, cancelled or not.
- Results lie in a pool that only the process allocates from; a result slab is released, by a record, when the last
  view of it here was dropped.
- `marks[slot]` is set by the process just before the model may see the request. So after a crash it is known exactly
  which calls may have started, and the others are provably safe to retry; so are those that are withdrawn before
  (withdrawals.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...codec import CodecError, check_body
from ...protocol import Status
from .api import Failure, HealthState, Prepared, Request
from .call_preparer import CallPreparer
from .lifecycle import Lifecycle
from .records import CANCEL, REQUEST
from .redaction import without_folders

if TYPE_CHECKING:
    from ...codec import Resolved
    from ...gpu import Slab, SlabPool
    from .spec import ModelSpec

__all__ = ["ProcessEngine"]


class ProcessEngine(Lifecycle):
    """`spec`'s model in a process of its own; options are Lifecycle's."""

    def __init__(self, spec: ModelSpec, pool: SlabPool, wake: Callable[[Any], object], **options: Any) -> None:
        super().__init__(spec, pool, wake, **options)
        self._preparer = CallPreparer(spec, self._memory)

    @property
    def queue_depth(self) -> int:
        """Requests waiting: in flight, and not marked as started by the process."""
        waiting = self._in_flight.count
        if waiting and self._instance is not None:
            waiting -= self._instance.worker.marks.tobytes().count(1)
        return max(0, waiting)

    @property
    def busy(self) -> bool:
        """See Engine.busy."""
        return self._in_flight.count > 0

    @property
    def in_use(self) -> int:
        """Bytes of the pool held for requests in flight and for metadata on its way to the process."""
        return self._memory.in_use + (0 if self._instance is None else self._instance.signatures.in_use)

    @property
    def short_of_memory(self) -> bool:
        """See Engine.short_of_memory."""
        return self._instance is not None and self._instance.leases.eager

    def prepare(self, resolved: Resolved, meta: bytes, dims: bytes) -> Prepared:
        """See Engine.prepare. The process does the same again from the same bytes."""
        return self._preparer.prepare(resolved, meta, dims)

    def submit(self, prepared: Prepared, body: memoryview, slab: Slab | None, request: Request) -> Failure | None:
        """See Engine.submit. The process learns of it at the next `step()`."""
        instance = self._instance
        if instance is None or self._state is not HealthState.SERVING:
            return _refuse(
                slab, request, Status.UNAVAILABLE, f"the model is not ready: {without_folders(self._detail)}"
            )
        in_flight = self._in_flight
        free = in_flight.free
        if not free:
            text = f"{in_flight.capacity} requests are in flight, at most so many may be; try again later"
            return _refuse(slab, request, Status.RESOURCE_EXHAUSTED, text)
        if prepared.unchecked:
            try:
                check_body(prepared.resolved, body)
            except CodecError as error:
                return _refuse(slab, request, Status.INVALID_ARGUMENT, str(error))
        number = prepared.number
        if number not in instance.signatures.known and not instance.signatures.send(prepared):
            text = "no memory for the metadata of the call; try again later"
            return _refuse(slab, request, Status.RESOURCE_EXHAUSTED, text)
        request.rows = prepared.rows
        request.prepared = prepared
        if slab is not None:
            self._memory.adopt(prepared, slab, request)
        elif not self._memory.place(prepared, body, request):
            text = f"no memory for a body of {prepared.body_length} bytes; try again later"
            return _refuse(None, request, Status.RESOURCE_EXHAUSTED, text)
        block: Any = request.block
        if len(free) == in_flight.capacity:
            self._progress = self._clock()
        slot = free.pop()
        instance.worker.marks[slot] = 0
        # Never full: it has room for every slot twice, and everything but requests can wait.
        instance.worker.to_engine.push(
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
        in_flight.pending[slot] = request
        request.slot = slot
        if not self._woken:
            self._woken = True
            self._wake(self)
        return None

    def cancel(self, request: Request) -> bool:
        """See Engine.cancel. The memory is held until the process has confirmed, or finished the batch."""
        if request.done:
            return False
        request.done = True
        return self._withdraw(request)

    def expire(self, now: float) -> list[Failure]:
        """Fail what is past its deadline, also while the process is busy."""
        late: dict[bool, list[Request]] = {True: [], False: []}
        for request in self._in_flight.late(now):
            late[self._withdraw(request)].append(request)
        text = "the deadline passed before the result"
        return [
            Failure(requests, Status.DEADLINE_EXCEEDED, text, started=not waited)
            for waited, requests in late.items()
            if requests
        ]

    def trim(self) -> None:
        """Give the idle block back to the pool, and result memory back to the process."""
        self._memory.trim()
        if self._instance is not None and self._instance.leases.released:
            self.wake_once()

    def _withdraw(self, request: Request) -> bool:
        """Have the process leave it out; whether it certainly has not begun with it."""
        instance = self._instance
        if instance is None or not self._in_flight.holds(request):
            return False
        waited = instance.worker.withdrawals.withdraw(request.slot)
        request.started = instance.worker.marks[request.slot] == 1
        instance.tell(CANCEL, slot=request.slot)
        return waited


def _refuse(slab: Slab | None, request: Request, status: Status, message: str) -> Failure:
    if slab is not None:
        slab.release()
    return Failure([request], status, message, started=False)
