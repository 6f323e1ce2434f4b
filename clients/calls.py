"""What a call is while it runs: :class:`Call`; and the half of it that takes many replies: :class:`ReplyQueue`.

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

ON_STREAM: Final = 0
"""One message out, on a stream of its own; ``replies`` says whether one comes back or any number."""
PING: Final = 1
"""No stream at all: a PING frame and its PONG."""
CONNECT: Final = 2
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
class ReplyQueue:
    """The replying half of a call that may have any number of replies: those that nobody has taken yet."""

    __slots__ = ("waiting",)

    def __init__(self) -> None:
        self.waiting: deque[Result] = deque()

    def add(self, call: Call, result: Result) -> None:
        """Add a reply and wake who waits for it."""
        self.waiting.append(result)
        if call.waiter is not None:
            call.notify(call)

    def take(self, call: Call) -> Result | None:
        """Return the next reply; None where there is none, for now or, once ``call`` is finished, for good.

        Raises what the call failed with, after its replies.
        """
        if self.waiting:
            return self.waiting.popleft()
        if call.error is not None:
            raise call.error
        return None


@final
class Call:
    """One call from its start to its one outcome: a result or an error.

    It has two halves. The sending half is ``encoded``, its one message, which it keeps for as long as it may have to be
    sent again. The replying half is ``replies``: None for a call that has one reply, which is its outcome.
    """

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
        self,
        kind: int,
        started_at: float,
        deadline: float,
        notify: Callable[[Call], None],
        waiter: Any,
        replies: ReplyQueue | None = None,
    ) -> None:
        self.kind = kind
        self.started_at = started_at
        self.deadline = deadline
        """Absolute, on the monotonic clock; ``FOREVER`` where there is none."""
        self.notify = notify
        """Called with the call when it is done, or has another of many replies, if there is a ``waiter``."""
        self.waiter = waiter
        """What ``notify`` wakes; the client's own business."""
        self.replies = replies
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

    @property
    def has_news(self) -> bool:
        """True where there is an outcome or a reply to take."""
        return self.finished or (self.replies is not None and len(self.replies.waiting) > 0)

    @property
    def request_id(self) -> str:
        """The name of this call in the server's log, "" while it has none."""
        return request_id(self.link.connection_id, self.stream_id) if self.link is not None else ""

    def finish(self, result: Result | None, now: float) -> None:
        """Set the call's outcome: a result (None at the end of many replies, or of a ping)."""
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
