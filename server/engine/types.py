"""The objects that cross the boundary between the front and an engine; `api.py` says by which calls.

What lives here: Request, Prepared, BatchResult, Failure, Health. What must not: behaviour. They are made
for every call or batch, so this module is one of those that are compiled (setup.py).

All times are seconds on the monotonic clock of the machine, comparable between processes.
"""

from __future__ import annotations

from enum import IntEnum
from math import inf
from typing import TYPE_CHECKING

from .blocks import Block, Bucket

if TYPE_CHECKING:
    from ...codec import Encoded, Resolved
    from ...protocol import Status

__all__ = ["BatchResult", "Failure", "Health", "HealthState", "OutputSignature", "Prepared", "Request"]

OutputSignature = tuple[tuple[str, str, tuple[int, ...], int], ...]
"""(name, the codec's dtype name, row_shape, row_bytes) of each output; row_shape leaves out the batch axis.

An engine gives the same object again while its outputs keep their shapes, so that what follows from it can be kept.
"""


class Request:
    """One call, from its OPEN to its terminal. Made once per stream by the front.

    Its two halves: what was received is rows `start` to `start + rows` of `block`; its reply is the BatchResult that
    names it, and with it the request is over.

    `priority` is a class, higher is more urgent. `principal` is a small integer that stands for who pays. `deadline` is
    absolute (inf: none). `rows`, `block`, `start`, `slot`, `prepared`, `queued` and `started` belong to the engine.
    """

    __slots__ = (
        "arrived",
        "block",
        "deadline",
        "done",
        "first_byte",
        "prepared",
        "principal",
        "priority",
        "queued",
        "rows",
        "slot",
        "start",
        "started",
        "stream_id",
        "want_timing",
    )

    def __init__(
        self,
        stream_id: int,
        arrived: float,
        priority: int = 0,
        principal: int = 0,
        deadline: float = inf,
        first_byte: float = 0.0,
        want_timing: bool = False,
    ) -> None:
        self.stream_id = stream_id
        self.arrived = arrived
        self.priority = priority
        self.principal = principal
        self.deadline = deadline
        self.first_byte = first_byte
        self.want_timing = want_timing
        self.queued = False
        self.slot = -1
        self.started = False
        self.done = False
        # Set by the engine at submit; until then there is nothing to release.
        self.rows = 0
        self.start = 0
        self.block: Block | None = None
        self.prepared: Prepared | None = None


class Prepared:
    """What an engine worked out about one (metadata, dims) pair, so that the next call with it costs one lookup.

    `rows` is the number of batch rows (1 for a model without batch axis), `body_length` the bytes of the body.
    `bucket` is the batching bucket, None for a request that runs alone. `parts` are (offset, nbytes) of each
    input in the body, in the model's order of inputs. `number` is unique within the engine. `unchecked`: the bytes
    of each body must be looked at, too (padding, bools, offsets).
    """

    __slots__ = ("body_length", "bucket", "dims", "meta", "number", "parts", "resolved", "rows", "unchecked")

    def __init__(
        self,
        number: int,
        rows: int,
        bucket: Bucket | None,
        parts: tuple[tuple[int, int], ...],
        resolved: Resolved,
        meta: bytes,
        dims: bytes,
    ) -> None:
        self.number = number
        self.rows = rows
        self.body_length = resolved.body_length
        self.unchecked = resolved.unchecked
        self.bucket = bucket
        self.parts = parts
        self.resolved = resolved
        self.meta = meta
        self.dims = dims


class BatchResult:
    """The outcome of one batch that ran. `requests` are in row order; request k has `requests[k].rows` rows.

    `outputs` are flat bytes, C order, of what `signature` lists; row i is `[i * row_bytes : (i + 1) * row_bytes]`.
    `encoded` is set instead for one request that ran alone and whose outputs have no batch axis
    (strings, ragged, fixed shapes). `batch_rows` counts all rows. The stamps are in the order they are passed:
    planned (taken from the queue), copied_in (inputs are where the model reads them), computed, copied_out
    (outputs are where the front reads them).
    """

    __slots__ = (
        "batch_rows",
        "computed",
        "copied_in",
        "copied_out",
        "encoded",
        "outputs",
        "planned",
        "requests",
        "signature",
    )

    def __init__(
        self,
        requests: list[Request],
        signature: OutputSignature,
        outputs: list[memoryview],
        batch_rows: int,
        planned: float,
        copied_in: float,
        computed: float,
        copied_out: float,
        encoded: Encoded | None = None,
    ) -> None:
        self.requests = requests
        self.signature = signature
        self.outputs = outputs
        self.batch_rows = batch_rows
        self.planned = planned
        self.copied_in = copied_in
        self.computed = computed
        self.copied_out = copied_out
        self.encoded = encoded


class Failure:
    """Requests that end with `status`. `message` is safe to send: escaped, capped, without paths.

    `started` says whether the model may have seen them; only False makes a retry provably safe.
    """

    __slots__ = ("message", "requests", "started", "status")

    def __init__(self, requests: list[Request], status: Status, message: str, started: bool) -> None:
        self.requests = requests
        self.status = status
        self.message = message
        self.started = started


class HealthState(IntEnum):
    """What a model is doing, judged by its progress and not by its process being alive."""

    LOADING = 0
    IDLE = 1
    SERVING = 2
    STALLED = 3
    UNLOADED = 4
    FAILED = 5


class Health:
    """State of one engine. `last_progress` is when a batch last finished (0.0: never); `detail` is for people."""

    __slots__ = ("detail", "last_progress", "queue_depth", "state")

    def __init__(self, state: HealthState, last_progress: float, queue_depth: int, detail: str = "") -> None:
        self.state = state
        self.last_progress = last_progress
        self.queue_depth = queue_depth
        self.detail = detail

    @property
    def ready(self) -> bool:
        """Whether new calls are expected to succeed."""
        return self.state in (HealthState.IDLE, HealthState.SERVING)
