"""The requests of one model that wait for a batch: what is queued, not what runs next (batcher.py).

What lives here: flows (one principal in one priority class) kept in deadline order, arrival order across them, and
their counts. What must not: a clock, memory, any choice between flows.

The common case, one principal in one class with deadlines in arrival order, is one list that is appended to and cut
at its front. Everything else costs a binary search per request.
"""

from __future__ import annotations

from bisect import insort
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .api import Request

__all__ = ["Flow", "Queue"]

COMPACT_FROM = 64
"""Entries of the arrival order that may be stale before it is worth rebuilding."""
MAX_DEFICIT = 1 << 20
"""Rows a flow can save up while others fill the batches; above any request, so that it is always enough for one."""


class Flow:
    """Requests of one principal in one priority class, earliest deadline first, ties in order of arrival.

    `deficit` is the rows this flow may still take in its turn (deficit round robin). `reordered` says that the order is
    not the order of arrival.
    """

    __slots__ = ("deficit", "principal", "priority", "reordered", "requests")

    def __init__(self, priority: int, principal: int) -> None:
        self.priority = priority
        self.principal = principal
        self.requests: list[Request] = []
        self.deficit = 0
        self.reordered = False


def _deadline(request: Request) -> float:
    return request.deadline


class Queue:
    """Requests waiting. `classes` lists the flows of each priority class in the order of their turns.

    `only_flow` is the flow that holds everything, None unless there is just one.
    """

    def __init__(self) -> None:
        self.classes: dict[int, list[Flow]] = {}
        self.count = 0
        self.arrivals: list[Request] = []
        self.only_flow: Flow | None = None
        self._flows: dict[tuple[int, int], Flow] = {}
        self._last: Flow | None = None

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Request]:
        return iter([request for flow in self._flows.values() for request in flow.requests])

    @property
    def flows(self) -> Iterable[Flow]:
        """All flows, in no order that means anything."""
        return self._flows.values()

    def push(self, request: Request) -> None:
        """Append a request that is in no queue."""
        flow = self._last
        if flow is None or flow.principal != request.principal or flow.priority != request.priority:
            flow = self._flow(request)
        requests = flow.requests
        if not requests or requests[-1].deadline <= request.deadline:
            requests.append(request)
        else:
            insort(requests, request, key=_deadline)
            flow.reordered = True
        self.arrivals.append(request)
        request.queued = True
        self.count += 1

    def remove(self, request: Request) -> bool:
        """Take one request out; False if it is not queued."""
        if not request.queued:
            return False
        flow = self._flows[request.priority, request.principal]
        flow.requests.remove(request)
        request.queued = False
        self._gone(flow, 1)
        return True

    def start_front(self, flow: Flow, taken: list[Request]) -> None:
        """Take out `taken`, which are the first of that flow, to run."""
        for request in taken:
            request.queued = False
            request.started = True
        del flow.requests[: len(taken)]
        if flow is self.only_flow and not flow.reordered and len(self.arrivals) == self.count:  # both are in one order
            del self.arrivals[: len(taken)]
        self._gone(flow, len(taken))

    def remove_all(self, requests: Iterable[Request]) -> None:
        """Take these out, all of them queued."""
        by_flow: dict[tuple[int, int], list[Request]] = {}
        for request in requests:
            by_flow.setdefault((request.priority, request.principal), []).append(request)
        for key, taken in by_flow.items():
            flow = self._flows[key]
            for request in taken:
                request.queued = False
            flow.requests = [request for request in flow.requests if request.queued]
            self._gone(flow, len(taken))

    def turn_over(self, flow: Flow, deficit: int, served: bool) -> None:
        """Keep the rows a flow may still take; a flow that was served goes to the back of its class."""
        flow.deficit = min(deficit, MAX_DEFICIT)
        turns = self.classes[flow.priority]
        if served:
            turns.remove(flow)
            turns.append(flow)

    def _gone(self, flow: Flow, count: int) -> None:
        """So many were taken out of that flow."""
        self.count -= count
        if not flow.requests:
            flow.deficit = 0
            flow.reordered = False
            if len(self._flows) > 1:
                self._close(flow)
        arrivals = self.arrivals
        if len(arrivals) == self.count:
            return
        stale = 0
        for request in arrivals:  # the front is kept clean: what was taken out is to be forgotten, with its memory
            if request.queued:
                break
            stale += 1
        del arrivals[:stale]
        if len(arrivals) > 2 * self.count + COMPACT_FROM:
            self.arrivals = [request for request in arrivals if request.queued]

    def _flow(self, request: Request) -> Flow:
        key = request.priority, request.principal
        flow = self._flows.get(key)
        if flow is None:
            idle = self._last
            flow = self._flows[key] = Flow(*key)
            self.classes.setdefault(request.priority, []).append(flow)
            if idle is not None and not idle.requests:
                self._close(idle)
            self.only_flow = flow if len(self._flows) == 1 else None
        self._last = flow
        return flow

    def _close(self, flow: Flow) -> None:
        self._flows.pop((flow.priority, flow.principal), None)
        turns = self.classes[flow.priority]
        turns.remove(flow)
        if not turns:
            del self.classes[flow.priority]
        if self._last is flow:
            self._last = next(iter(self._flows.values()), None)
        self.only_flow = next(iter(self._flows.values())) if len(self._flows) == 1 else None
