"""What runs next: a pure function of (queue, now), so that every rule of it is tested without time.

What lives here: `plan` and `commit`. What must not: a clock, memory, running anything; `plan` changes nothing at all.

The order, first rule first:

1. Requests whose deadline has passed are dropped.
2. A request that has waited longer than `starvation` seconds goes first, the longest waiting of them.
3. The highest priority class, strictly; lower classes fill what room it leaves.
4. Within a class, principals take turns by deficit round robin, counted in rows.
5. Within a principal, the earliest deadline, ties in order of arrival.

The first request taken decides the bucket; only calls of that bucket join it, up to `max_rows` rows, and where
`one_principal` is set only calls of its principal. A request with no bucket runs alone, and so does one with as many
rows as `max_rows`, or more: `max_rows` 1 means that every call runs alone. Batches are work-conserving: `plan` gives
what there is, unless `max_wait` asks to wait for more (then `Plan.wait_until` says how long: until the request that
came first has waited so long, and never past a deadline).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .api import Request
    from .blocks import Bucket
    from .queue import Flow, Queue

__all__ = ["Plan", "Rules", "commit", "expired", "plan"]

SCAN_LIMIT = 1024
"""Requests looked at for one batch, at most: a queue full of other shapes must not make planning slow."""


@dataclass(slots=True)
class Rules:
    """How one model batches. `max_rows` rows; `max_wait` and `starvation` seconds; `quantum` rows per turn.

    `one_principal`: calls of two principals never share a batch.
    """

    max_rows: int
    max_wait: float = 0.0
    starvation: float = 1.0
    quantum: int = 0
    one_principal: bool = False

    def __post_init__(self) -> None:
        self.quantum = self.quantum or max(1, self.max_rows // 4)


class Plan:
    """`requests` in row order, `rows` of them in all; `expired` to be failed; `wait_until` (inf: nothing to wait for).

    `prefix` is set when the requests are exactly the front of that flow; `turns` lists (flow, rows it may
    still take, whether it was served).
    """

    __slots__ = ("expired", "prefix", "requests", "rows", "turns", "wait_until")

    def __init__(self, requests: list[Request], rows: int, prefix: Flow | None = None) -> None:
        self.requests = requests
        self.rows = rows
        self.prefix = prefix
        self.expired: list[Request] = []
        self.turns: list[tuple[Flow, int, bool]] = []
        self.wait_until = inf


def plan(queue: Queue, now: float, rules: Rules) -> Plan:
    """Return the next batch at time `now` (monotonic seconds). Take it out of the queue with `commit`."""
    if not queue.count:
        return Plan([], 0)
    flow = queue.only_flow
    if flow is not None and not flow.reordered:
        requests = flow.requests
        if requests[0].deadline > now:  # sorted by deadline: none has expired
            chosen = _front(flow, rules)
            if chosen is not None:
                return _or_wait(chosen, queue, now, rules) if rules.max_wait else chosen
    chosen = _Choice(queue, now, rules).run()
    return _or_wait(chosen, queue, now, rules) if rules.max_wait else chosen


def commit(queue: Queue, plan: Plan) -> None:
    """Take what was planned, which starts now, and what expired out of the queue and note whose turn it was."""
    if plan.prefix is not None:
        queue.start_front(plan.prefix, plan.requests)
        return
    for request in plan.requests:
        request.started = True
    if plan.requests:
        for flow, deficit, served in plan.turns:
            queue.turn_over(flow, deficit, served)
    queue.remove_all([*plan.expired, *plan.requests])


def expired(queue: Queue, now: float) -> list[Request]:
    """Queued requests whose deadline is at or before `now`; flows are sorted by it, so this looks at no others."""
    late: list[Request] = []
    for flow in queue.flows:
        for request in flow.requests:
            if request.deadline > now:
                break
            late.append(request)
    return late


def _front(flow: Flow, rules: Rules) -> Plan | None:
    """Return the front of the only flow if it is all of one bucket (first come, first served), else None."""
    requests = flow.requests
    prepared = requests[0].prepared
    bucket = None if prepared is None else prepared.bucket
    if bucket is None:
        return Plan(requests[:1], requests[0].rows, flow)
    limit = rules.max_rows
    rows = count = 0
    for request in requests:
        if request.prepared is not prepared and _bucket(request) is not bucket:
            return None
        rows += request.rows
        count += 1
        if rows >= limit:
            if rows > limit and count > 1:
                rows -= request.rows
                count -= 1
            break
    return Plan(requests[:count], rows, flow)


def _bucket(request: Request) -> Bucket | None:
    return None if request.prepared is None else request.prepared.bucket


def _or_wait(chosen: Plan, queue: Queue, now: float, rules: Rules) -> Plan:
    """Return the plan, or the same with no requests and `wait_until` if the model wants to wait for a fuller batch.

    The wait is the queue's, not the chosen requests' alone: no other one may wait longer than `max_wait`, or past its
    deadline, for a batch that does not run yet.
    """
    requests = chosen.requests
    if not requests or chosen.rows >= rules.max_rows or _bucket(requests[0]) is None:
        return chosen
    until = queue.arrivals[0].arrived + rules.max_wait
    if now >= until or min(flow.requests[0].deadline for flow in queue.flows if flow.requests) <= until:
        return chosen
    waiting = Plan([], 0)
    waiting.expired = chosen.expired
    waiting.wait_until = until
    return waiting


class _Turn:
    """One flow while a plan is made: what it has left and the request that is next in it."""

    __slots__ = ("candidates", "deficit", "flow", "next", "served")

    def __init__(self, flow: Flow, candidates: Iterator[Request]) -> None:
        self.flow = flow
        self.deficit = flow.deficit
        self.candidates = candidates
        self.next: Request | None = None
        self.served = False

    def peek(self) -> Request | None:
        """Return the next candidate, not yet taken."""
        if self.next is None:
            self.next = next(self.candidates, None)
        return self.next


class _Choice:
    """One run of the rules over a queue it does not change."""

    def __init__(self, queue: Queue, now: float, rules: Rules) -> None:
        self._queue = queue
        self._now = now
        self._rules = rules
        self._plan = Plan([], 0)
        self._bucket: Bucket | None = None
        self._full = False
        self._first: Request | None = None
        self._budget = SCAN_LIMIT

    def run(self) -> Plan:
        chosen = self._plan
        chosen.expired = expired(self._queue, self._now)
        starved = self._starved()
        if starved is not None:
            self._first = starved
            self._take(starved)
        for priority in sorted(self._queue.classes, reverse=True):
            if self._full:
                break
            self._take_turns(self._queue.classes[priority])
        return chosen

    def _starved(self) -> Request | None:
        """Return the longest waiting request, if it waited too long. Arrivals are in order of time."""
        for request in self._queue.arrivals:
            if request.queued and request.deadline > self._now:
                return request if self._now - request.arrived > self._rules.starvation else None
        return None

    def _take_turns(self, flows: list[Flow]) -> None:
        """Deficit round robin until the batch is full or no flow has a request that fits."""
        turns = deque(_Turn(flow, self._candidates(flow)) for flow in flows)
        finished: list[_Turn] = []
        while turns and not self._full:
            current = turns.popleft()
            current.deficit += self._rules.quantum
            if self._serve(current) or self._full:
                turns.append(current)
            else:
                finished.append(current)
        self._plan.turns.extend((turn.flow, turn.deficit, turn.served) for turn in (*finished, *turns))

    def _serve(self, turn: _Turn) -> bool:
        """Take from one flow what its deficit allows; whether it has more that fits."""
        while not self._full:
            request = turn.peek()
            if request is None:
                return False
            if not self._joins(request):  # another flow has decided the bucket since
                turn.next = None
                continue
            if not self._fits(request):
                return False
            if request.rows > turn.deficit:
                return True
            turn.deficit -= request.rows
            turn.next = None
            turn.served = True
            self._take(request)
        return False

    def _candidates(self, flow: Flow) -> Iterator[Request]:
        """Return requests of the flow that could join, in its order; stops when too many others were looked at."""
        now = self._now
        apart = self._rules.one_principal
        for request in flow.requests:
            if self._budget <= 0 and self._plan.requests:
                return
            if apart and self._strange(request):
                return  # and so is the whole flow
            self._budget -= 1
            if request.deadline <= now or request is self._first:
                continue
            if self._joins(request):
                yield request

    def _joins(self, request: Request) -> bool:
        if not self._plan.requests:
            return True
        alike = self._bucket is not None and _bucket(request) is self._bucket
        return alike and not (self._rules.one_principal and self._strange(request))

    def _strange(self, request: Request) -> bool:
        """Whether it is of another principal than those that were taken."""
        taken = self._plan.requests
        return bool(taken) and taken[0].principal != request.principal  # guard: row-of-stranger

    def _fits(self, request: Request) -> bool:
        return not self._plan.requests or self._plan.rows + request.rows <= self._rules.max_rows

    def _take(self, request: Request) -> None:
        chosen = self._plan
        if not chosen.requests:
            self._bucket = _bucket(request)
        chosen.requests.append(request)
        chosen.rows += request.rows
        self._full = self._bucket is None or chosen.rows >= self._rules.max_rows
