"""The requests an engine process has been given and not yet answered, each in a numbered slot.

What lives here: the table of slots, and giving rows back when requests are over. What must not: rings, processes.
A slot number means the same on both sides; `marks[slot]` is set by the process just before the model may see it.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any

from .api import Request
from .batch_memory import BatchMemory
from .withdrawals import Withdrawals

__all__ = ["InFlight", "NotInFlightError"]


class NotInFlightError(Exception):
    """An answer to a request that nobody asked, or that was answered before."""


class InFlight:
    """At most `capacity` requests. `free` are slots to take from (`pop`), `pending` is what lies in each."""

    def __init__(self, capacity: int, memory: BatchMemory) -> None:
        self.capacity = capacity
        self.free = list(range(capacity))
        self.pending: list[Request | None] = [None] * capacity
        self.withdrawals: Withdrawals | None = None  # those of the process that has them
        self._memory = memory

    @property
    def count(self) -> int:
        """Requests in flight."""
        return self.capacity - len(self.free)

    def holds(self, request: Request) -> bool:
        """Whether this request is in flight."""
        return request.slot >= 0 and self.pending[request.slot] is request

    def late(self, now: float) -> list[Request]:
        """Return requests past their deadline that nobody has given up yet."""
        return [r for r in self.pending if r is not None and not r.done and r.deadline <= now]

    def finish(self, marks: memoryview, slots: list[int], keeper: object = None) -> list[Request]:
        """Free the slots and rows of these, which are over; `started` says what the mark said. Raises NotInFlightError.

        With a `keeper` their memory is not free before that object is gone: the process has kept it.
        """
        if self.withdrawals is not None and self.withdrawals.count:
            self.withdrawals.over(slots)
        pending = self.pending
        requests = [request for slot in slots if (request := pending[slot]) is not None]
        if len(requests) != len(slots) or len(set(slots)) != len(slots):  # before any change: no call may get lost
            raise NotInFlightError("an answer to a request that is not in flight")
        block: Any = None
        rows = 0
        for slot, request in zip(slots, requests, strict=True):
            pending[slot] = None
            request.slot = -1
            request.started = marks[slot] == 1
            if keeper is not None and request.block is not None:
                request.block.left = [keeper]
            marks[slot] = 0
            if request.block is not block:
                if rows:
                    self._memory.release(block, rows)
                block, rows = request.block, 0
            rows += request.rows
            request.block = None
        if rows:
            self._memory.release(block, rows)
        self.free += slots
        return requests

    def finish_all(self, marks: memoryview) -> tuple[list[Request], list[Request]]:
        """Everything is over: what may have started, and what has not; each in order of arrival."""
        requests = self.finish(marks, [slot for slot, request in enumerate(self.pending) if request is not None])
        requests.sort(key=attrgetter("arrived"))
        return [r for r in requests if r.started], [r for r in requests if not r.started]
