"""The boundary between the front and an engine: the interface by which calls cross it; `types.py` has what crosses.

What lives here: the Engine base class, and the names of `types.py` for those who use both. What must not: I/O,
asyncio, torch, any scheduling or memory decision. The same objects serve an engine on the loop (inline.py) and one
behind a process boundary (process.py).

Ownership, in one place:

* a slab handed to `Engine.submit` belongs to the engine from that moment, also when submit refuses the request;
* the views in a BatchResult stay valid, and their bytes unchanged, until the last of them is dropped;
* `Request.done` is set by `Engine.cancel` and by whoever sends the terminal; an engine still lists such a request
  in its BatchResult (row positions depend on it) and the front skips it.

All times are seconds on the monotonic clock of the machine, comparable between processes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from .types import BatchResult, Failure, Health, HealthState, OutputSignature, Prepared, Request

if TYPE_CHECKING:
    from ...codec import Resolved
    from ...gpu import Slab
    from .spec import ModelSpec

__all__ = [
    "BatchResult",
    "Engine",
    "Failure",
    "Health",
    "HealthState",
    "OutputSignature",
    "Prepared",
    "Request",
    "Sink",
]


Sink = Callable[["list[BatchResult | Failure]"], None]


class Engine(Protocol):
    """One model instance: queue, batcher, executor. Called on the front's thread only.

    `sink` is set by the front before start(); it is called on the loop thread, never from within submit().
    `effective_max_batch` is measured at warm-up (0 until loaded): beyond it a batch brings no more rows per second.
    `batch_with` says whose calls share a batch ("anyone", "principal", "nobody"); `remarks` are for the log: what
    warm-up saw that the model's owner should know; `labels` are the classes that its outputs themselves name.
    """

    spec: ModelSpec
    sink: Sink
    effective_max_batch: int
    batch_with: str
    remarks: tuple[str, ...]
    labels: tuple[str, ...]

    @property
    @abstractmethod
    def queue_depth(self) -> int:
        """Requests waiting, not those running."""

    @property
    @abstractmethod
    def in_use(self) -> int:
        """Bytes of the pool held for requests not yet finished."""

    @abstractmethod
    def start(self) -> None:
        """Load and warm up the model. Inline: blocks until done, raises LoadError. Process: returns at once."""

    @abstractmethod
    def stop(self) -> None:
        """Unload. Requests still queued fail UNAVAILABLE, not started, through the sink. Idempotent."""

    @abstractmethod
    def prepare(self, resolved: Resolved, meta: bytes, dims: bytes) -> Prepared:
        """Check a call against the model's signature, once per distinct (meta, dims).

        Raises codec.SignatureError naming the field, what was sent and what is expected.
        """

    @abstractmethod
    def submit(self, prepared: Prepared, body: memoryview, slab: Slab | None, request: Request) -> Failure | None:
        """Queue one request. `body` has exactly `prepared.body_length` bytes.

        slab None: body is borrowed and copied before this returns. slab given: body lies in it from its first byte,
        and the engine owns it from now on, whatever is returned.
        Returns a Failure (RESOURCE_EXHAUSTED or UNAVAILABLE, not started) instead of queueing, never raises.
        """

    @abstractmethod
    def cancel(self, request: Request) -> bool:
        """Forget the request: out of the queue at once, or its result dropped if it runs. Sets done. Idempotent.

        True, once, if the model has certainly not seen it, and never will.
        """

    @abstractmethod
    def health(self) -> Health:
        """Report the state now, by forward progress."""

    @property
    def short_of_memory(self) -> bool:
        """Whether it waits for result memory, which replies that were not read yet hold."""
        return False

    @property
    def busy(self) -> bool:
        """Whether calls are with a process of its own."""
        return False

    def expire(self, now: float) -> list[Failure]:
        """Take queued requests whose deadline has passed out of the queue; for the front's deadline timer."""
        del now
        return []

    def trim(self) -> None:
        """Give idle memory back to the pool; for a front that has been quiet for a while."""
        return

    def descriptors(self) -> tuple[int, ...]:
        """File descriptors the loop should watch for reading (none for an engine on the loop)."""
        return ()

    def on_readable(self, descriptor: int) -> None:
        """One of `descriptors()` became readable."""
        del descriptor
