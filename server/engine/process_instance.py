"""One instance of an engine process as the front holds it, and what is true of that instance alone.

What lives here: the worker with all that belongs to the instance, and handing records over to it. What must not: when
an instance begins or ends, and what becomes of calls then (lifecycle.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .records import RELEASE
from .result_leases import ResultLeases
from .result_reader import ResultReader
from .signature_sync import SignatureSync
from .worker import Worker

if TYPE_CHECKING:
    from ...gpu import SlabPool
    from .inflight import InFlight

__all__ = ["ProcessInstance"]


class ProcessInstance:
    """`wake()` asks for a `hand_over()` soon. `failure_reason` is set when the process has been condemned."""

    def __init__(self, worker: Worker, pool: SlabPool, in_flight: InFlight, wake: Callable[[], object]) -> None:
        self.worker = worker
        self.leases = ResultLeases(wake)
        self.signatures = SignatureSync(pool, self.tell)
        self.results = ResultReader(worker, in_flight, self.leases, self.signatures.read)
        self.failure_reason = ""
        self.retry = True
        self._overflow: deque[tuple[Any, ...]] = deque()
        self._wake = wake

    def tell(
        self, kind: int, *, slot: int = 0, number: int = 0, start: int = 0, capacity: int = 0, offset: int = 0
    ) -> None:
        """Anything but a request, to the process; waits its turn here if the ring is full."""
        record = (kind, 0, 0, slot, number, 0, start, capacity, offset, 0, 0.0, 0.0, 0.0)
        if self._overflow or not self.worker.to_engine.push(*record):
            self._overflow.append(record)
        self._wake()

    def hand_over(self) -> None:
        """Announce everything that was pushed, with one system call."""
        ring = self.worker.to_engine
        released = self.leases.released
        while released and ring.push(RELEASE, 0, 0, 0, 0, 0, 0, 0, released[0], 0, 0.0, 0.0, 0.0):
            released.popleft()
        overflow = self._overflow
        while overflow and ring.push(*overflow[0]):
            overflow.popleft()
        ring.publish()

    def close(self) -> None:
        """Give everything of this instance back, once the process is reaped. Views of results stay valid."""
        self.signatures.close()
        self.leases.close()
        self.worker.close()
