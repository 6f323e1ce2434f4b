"""What a call is while it runs and what it gives back: :class:`Call`, :class:`Result`, :class:`Timing`.

Plain data and its one transition (open -> done). Not here: when that happens (``core``), and how a caller waits for it
(a client puts what it needs for that into ``waiter`` and gives ``notify``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from ..codec import Encoded
from .errors import TensorwireError

if TYPE_CHECKING:
    from .link import Link

FOREVER = float("inf")

UNARY = 0
"""One message out, one back."""
STREAM = 1
"""One message out, any number back."""
PING = 2
"""No stream at all: a PING frame and its PONG."""
CONNECT = 3
"""Nothing is sent: done as soon as there is a connection."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Where a call's time went, in microseconds. All but the last are the server's own measurements (SPEC 14)."""

    receive: int
    """From the first byte of the request to its last."""
    queue: int
    """Waiting for the engine."""
    batch_wait: int
    """Waiting for the batch to fill; 0 unless the model sets ``max_wait``."""
    copy_in: int
    """Request rows into the device's batch."""
    compute: int
    """The model itself."""
    copy_out: int
    """Results back into the reply."""
    server_total: int
    """From the first byte of the request to the hand-over of the reply to the socket."""
    round_trip: int
    """As this client saw it: from the call to the decoded reply."""


class Result(dict[str, Any]):
    """A reply: output name -> read-only numpy array (or ``RaggedArray``), with what else came along."""

    __slots__ = ("connection_id", "model", "model_version", "stream_id", "timing")

    model: str
    """Name of the model that answered."""
    model_version: str
    """Version of the model that answered."""
    timing: Timing | None
    """Present where the call asked for it."""
    connection_id: bytes
    stream_id: int

    @property
    def request_id(self) -> str:
        """The name of this call in the server's log."""
        return request_id(self.connection_id, self.stream_id)


def request_id(connection_id: bytes, stream_id: int) -> str:
    """How both sides name a call: the connection's id in hex, a dash, the stream id."""
    return f"{connection_id.hex()}-{stream_id}"


@final
class Call:
    """One call from its start to its one outcome: a result or an error."""

    __slots__ = (
        "attempts",
        "deadline",
        "encoded",
        "error",
        "ext",
        "finished",
        "finished_at",
        "flags",
        "kind",
        "link",
        "notify",
        "opened_at",
        "outcome",
        "priority",
        "replies",
        "started_at",
        "stream_id",
        "waiter",
    )

    def __init__(
        self, kind: int, started_at: float, deadline: float, notify: Callable[[Call], None], waiter: Any
    ) -> None:
        self.kind = kind
        self.started_at = started_at
        self.deadline = deadline
        """Absolute, on the monotonic clock; ``FOREVER`` where there is none."""
        self.notify = notify
        """Called with the call when it is done, or when a stream has another reply, if there is a ``waiter``."""
        self.waiter = waiter
        """What ``notify`` wakes; the client's own business."""
        self.encoded: Encoded | None = None
        """The message, with views of the caller's arrays; let go of once the call is done."""
        self.ext = b""
        self.flags = 0
        self.priority = 0
        self.attempts = 0
        self.link: Link | None = None
        """The connection that carries it, or None while it waits for one."""
        self.stream_id = 0
        self.opened_at = 0.0
        self.finished_at = 0.0
        self.finished = False
        self.outcome: Result | None = None
        self.error: TensorwireError | None = None
        self.replies: deque[Result] | None = None
        """Replies of a stream that nobody has taken yet."""

    @property
    def request_id(self) -> str:
        """The name of this call in the server's log, "" while it has none."""
        return request_id(self.link.connection_id, self.stream_id) if self.link is not None else ""

    def finish(self, result: Result | None, now: float) -> None:
        """The call's outcome is a result (None for a stream's or a ping's end)."""
        self.outcome = result
        self.finished_at = now
        self.finished = True
        self.encoded = None
        if self.waiter is not None:
            self.notify(self)

    def fail(self, error: TensorwireError, now: float) -> None:
        """The call's outcome is an error."""
        self.error = error
        self.finish(None, now)

    def add_reply(self, result: Result) -> None:
        """A stream has another reply."""
        if self.replies is None:
            self.replies = deque()
        self.replies.append(result)
        if self.waiter is not None:
            self.notify(self)

    def take_reply(self) -> Result | None:
        """The next reply of a stream; None where there is none, for now or, once ``finished``, for good.

        Raises what the stream failed with, after its replies.
        """
        if self.replies:
            return self.replies.popleft()
        if self.error is not None:
            raise self.error
        return None
