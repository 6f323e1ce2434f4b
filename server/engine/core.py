"""Queue, batcher and executor of one model, driven by whoever owns the thread: the loop (inline.py) or a child process.

What lives here: the life of a placed request: queued, planned, run, its memory given back, its failure worded. What
must not: asyncio, waiting, placing bodies (batch_memory.py), anything that knows where the caller is.

When the model raises on a batch of more than one request, each request of it is run once more, alone, so that one
caller's bad input does not fail its neighbours. So a model may see a request twice, and only then.
"""

from __future__ import annotations

import time
from math import inf
from typing import TYPE_CHECKING

from ...protocol.status import Status
from .api import BatchResult, Failure
from .backends import LoadError, load_backend
from .bad_input import BadInput
from .batch_memory import runs_of
from .batcher import Rules, commit, expired, plan
from .executor import Executor, WarmUp
from .faults import Faults
from .inputs import BodyError
from .outputs import OutputError
from .queue import Queue
from .redaction import is_ctrl_c, one_line, raised, without_folders

if TYPE_CHECKING:
    from collections.abc import Callable

    from .api import Request
    from .batch_memory import Run
    from .blocks import Block
    from .spec import ModelSpec

__all__ = ["EngineCore"]

MESSAGE_LENGTH = 300
"""Characters of a model's own error text that reach a caller."""

Outcome = BatchResult | Failure


class EngineCore:
    """One model instance. Not loaded until `load()`; all methods on one thread.

    `release(block, rows)` is called when rows are done with, whatever became of them; `starting(requests)` just before
    the model may see these: what it gives back is left out, without an answer. `allocate(nbytes)` gives host memory for
    outputs that come from a device (default: plain memory; pinned memory copies faster). `faults`: what it raised.
    """

    def __init__(
        self,
        spec: ModelSpec,
        release: Callable[[Block, int], object],
        *,
        clock: Callable[[], float] = time.monotonic,
        allocate: Callable[[int], memoryview] | None = None,
        starting: Callable[[list[Request]], list[Request]] | None = None,
    ) -> None:
        self.spec = spec
        self.queue = Queue()
        self.rules = Rules(max(1, spec.max_batch), spec.max_wait)
        self.warm_up = WarmUp(0, {})
        self.labels: tuple[str, ...] = ()
        self.last_progress = 0.0
        self.next_step = inf
        self._release = release
        self._clock = clock
        self._allocate = allocate
        self._starting = starting
        self._executor: Executor | None = None
        self.faults = Faults(f"{spec.name}/{spec.version}", clock)

    @property
    def loaded(self) -> bool:
        """Whether the model is there to run."""
        return self._executor is not None

    @property
    def effective_max_batch(self) -> int:
        """Rows per batch as measured at warm-up; 0 until loaded."""
        return self.warm_up.effective_max_batch

    def load(self) -> None:
        """Load and warm up; takes as long as the model does. Raises LoadError."""
        backend = load_backend(self.spec)
        executor = Executor(self.spec, backend, self._clock, self._allocate)
        try:
            self.warm_up = executor.warm_up()
        except LoadError:
            executor.close()
            raise
        self.labels = backend.labels
        warm_up = self.warm_up
        one_principal = warm_up.batch_with == "principal"
        self.rules = Rules(warm_up.effective_max_batch, self.spec.max_wait, one_principal=one_principal)
        self._executor = executor

    def submit(self, request: Request) -> None:
        """Queue a request whose rows are in place (`prepared`, `rows`, `block`, `start` are set)."""
        self.queue.push(request)

    def cancel(self, request: Request) -> bool:
        """Take a queued request out and give its memory back; True if it was queued. One that runs goes on."""
        request.done = True
        if not self.queue.remove(request):
            return False
        self._give_back(runs_of([request]))
        return True

    def expire(self, now: float) -> list[Failure]:
        """Fail queued requests whose deadline has passed."""
        late = expired(self.queue, now)
        if not late:
            return []
        self.queue.remove_all(late)
        return [self._late(late)]

    def step(self, now: float, sink: Callable[[list[Outcome]], object]) -> None:
        """Plan and run at most one batch; what came of it goes to `sink`, and then the memory of its rows back.

        Afterwards `next_step` is when to call again: now or earlier if more waits, inf if nothing does.
        """
        queue = self.queue
        planned = plan(queue, now, self.rules)
        results: list[Outcome] = []
        requests = planned.requests
        if requests or planned.expired:
            commit(queue, planned)
            if planned.expired:
                results.append(self._late(planned.expired))
        rows = planned.rows
        if requests and self._starting is not None:
            withdrawn = self._starting(requests)
            if withdrawn:
                self._give_back(runs_of(withdrawn))
                requests = [request for request in requests if request not in withdrawn]
                rows = sum([request.rows for request in requests])
        if requests:
            runs = runs_of(requests)
            self._run(requests, runs, rows, now, results)
            if self._executor is not None:
                inputs = self._executor.inputs
                lent = inputs.lent
                inputs.lent = None
                if lent is not None and not lent.is_ours():
                    inputs.leave(lent)
        try:
            if results:
                sink(results)
        finally:
            if requests:
                self._give_back(runs)
                self.last_progress = self._clock()
            self.next_step = (
                planned.wait_until if not requests and planned.wait_until < inf else now if queue.count else inf
            )

    def close(self, message: str) -> list[Failure]:
        """Unload; what is queued fails UNAVAILABLE, not started, with this message. Idempotent."""
        waiting = list(self.queue)
        failures = []
        if waiting:
            self.queue.remove_all(waiting)
            self._give_back(runs_of(waiting))
            failures.append(Failure(waiting, Status.UNAVAILABLE, message, started=False))
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.close()
        return failures

    def trim(self) -> None:
        """Drop memory kept between batches, and tell what was not told yet."""
        self.faults.tell()
        if self._executor is not None:
            self._executor.trim()

    def _run(self, requests: list[Request], runs: list[Run], rows: int, now: float, results: list[Outcome]) -> None:
        executor = self._executor
        if executor is None:
            results.append(Failure(requests, Status.UNAVAILABLE, "the model is not loaded", started=False))
            return
        try:
            results.append(executor.run(requests, runs, rows, now))
        except OutputError as wrong:  # each has a name of its own: compiled, one name has one type
            message = str(wrong)[:MESSAGE_LENGTH]
            self.faults.note(message)
            results.append(Failure(requests, Status.INTERNAL, message, started=True))
        except BodyError as malformed:
            results.append(Failure(requests, Status.INVALID_ARGUMENT, str(malformed)[:MESSAGE_LENGTH], started=False))
        except BaseException as error:  # a model may raise anything; the engine lives on
            if is_ctrl_c(error):
                raise
            if len(requests) == 1:
                if issubclass(type(error), BadInput):
                    status, message = Status.INVALID_ARGUMENT, one_line(error, MESSAGE_LENGTH)
                else:
                    status, message = Status.INTERNAL, raised(error, MESSAGE_LENGTH)
                    self.faults.note(message, error)
                # guard: folders-in-error
                results.append(Failure(requests, status, without_folders(message), started=True))
                return
            for request in requests:
                self._run([request], runs_of([request]), request.rows, now, results)

    def _late(self, requests: list[Request]) -> Failure:
        self._give_back(runs_of(requests))
        message = "the deadline passed while the request was queued"
        return Failure(requests, Status.DEADLINE_EXCEEDED, message, started=False)

    def _give_back(self, runs: list[Run]) -> None:
        for block, _, rows in runs:
            self._release(block, rows)
