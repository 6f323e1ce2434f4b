"""What a call is while it runs: :class:`Call`.

Plain data and its one transition (open -> done). Not here: when that happens (``core``), and how a caller waits for it
(a client puts what it needs for that into ``waiter`` and gives ``notify``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any, Final, final

from ..codec import Encoded
from .errors import TensorwireError
from .results import Result, request_id

FOREVER: Final = float("inf")

UNARY: Final = 0
"""One message out, one back."""
STREAM: Final = 1
"""One message out, any number back."""
PING: Final = 2
"""No stream at all: a PING frame and its PONG."""
CONNECT: Final = 3
"""Nothing is sent: done as soon as there is a connection."""


class Carrier(ABC):
    """What a call sees of the connection that carries it: ``link.Link``."""

    __slots__ = ("connection_id", "finished")

    def __init__(self) -> None:
        self.connection_id = b""
        """Given by the server; b"" until the handshake is done."""
        self.finished = False
        """Nothing more will come of it: send what is still to be sent, then close the socket."""

    @abstractmethod
    def abandon(self, call: Call) -> None:
        """Forget a call that ended on this side; late frames of it are dropped."""


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
        self.link: Carrier | None = None
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
        """Set the call's outcome: a result (None for a stream's or a ping's end)."""
        self.outcome = result
        self.finished_at = now
        self.finished = True
        self.encoded = None
        if self.waiter is not None:
            self.notify(self)

    def fail(self, error: TensorwireError, now: float) -> None:
        """Set the call's outcome: an error."""
        self.error = error
        self.finish(None, now)

    def add_reply(self, result: Result) -> None:
        """Add another reply of a stream."""
        if self.replies is None:
            self.replies = deque()
        self.replies.append(result)
        if self.waiter is not None:
            self.notify(self)

    def take_reply(self) -> Result | None:
        """Return the next reply of a stream; None where there is none, for now or, once ``finished``, for good.

        Raises what the stream failed with, after its replies.
        """
        if self.replies:
            return self.replies.popleft()
        if self.error is not None:
            raise self.error
        return None
