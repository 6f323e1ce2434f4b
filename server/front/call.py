"""The objects of one call on its way through the front: where it goes (Route), the call itself, and refusals.

A call has two halves. The receiving half is what its caller still sends: `receiving`, None once all of it is here, as
it is from the beginning for a call of one frame. The replying half is where its replies go: `target`, which is one and
the same object for all calls of a connection that have one reply. So a call of one message and one reply makes no
object but itself; a call with more of either brings its own half, and nobody else asks which it is.

Plain data with the little behaviour that deadlines need. Who makes them and when is admission.py and session.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import inf

from ...protocol import Status
from ..engine.api import Engine, Failure, Prepared, Request
from ..model import Model
from .ports import ConnectionInfo


class Refuse(Exception):  # noqa: N818 - an outcome, not an error: the caller gets `status` and `message`
    """A call that is not taken, found out on the slow path.

    model: the one it reached, for the counts. asked: model and version that it named and did not reach, for the audit
    log.
    """

    def __init__(
        self, status: Status, message: str, model: Model | None = None, asked: tuple[str, str] = ("", "")
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.model = model
        self.asked = asked


class Route:
    """Where the calls of one signature go: what the cache of the hot path holds.

    It is the only thing that keeps `engine.submit`: who clears the routes to a model has taken it from its callers.
    `most_ahead`: batches that a full queue is worth.
    """

    __slots__ = ("body_length", "engine", "model", "most_ahead", "prepared", "submit")

    def __init__(self, model: Model, prepared: Prepared) -> None:
        self.model = model
        self.engine: Engine = model.engine
        self.submit = model.engine.submit
        self.prepared = prepared
        self.body_length = prepared.body_length
        self.most_ahead = model.spec.max_queue // max(1, model.engine.effective_max_batch) + 2


class Receiving(ABC):
    """The half of a call that its caller still sends. It may outlive the call: memory goes when no read fills it."""

    __slots__ = ()

    @abstractmethod
    def complete(self, call: Call, now: float) -> Failure | None:
        """Hand `call` to its engine: a message of it is whole. Returns why it was not taken."""


class ReplyTarget(ABC):
    """The replying half of calls: where their replies, or their errors, go. Methods queue; `flush` writes.

    info: the connection that the calls came by.
    """

    __slots__ = ("info",)

    info: ConnectionInfo

    @abstractmethod
    def reply(self, call: Call, meta: bytes, ext: bytes, body: Sequence[bytes | memoryview], nbytes: int) -> None:
        """Queue the reply to `call`, its end. Raises LocalError or ValueError for what cannot be sent."""

    @abstractmethod
    def reply_together(
        self, calls: list[Call], stream_ids: list[int], frames: list[memoryview | bytes], nbytes: int
    ) -> bool:
        """Queue the replies to `calls`, which are neighbours in a batch, in `frames`; False if nothing was queued."""

    @abstractmethod
    def fail(self, call: Call, status: Status, message: str, *, started: bool) -> None:
        """End `call` with an error. `started`: whether the model may have seen it."""

    @abstractmethod
    def expire(self, call: Call) -> None:
        """End `call`, whose deadline has passed, and write that."""

    @abstractmethod
    def reply_limit_reached(self) -> bool:
        """Tell whether so many replies wait to be read that no more are kept."""

    @abstractmethod
    def over_reply_budget(self) -> bool:
        """Tell whether a reply may keep no more memory than its own bytes."""

    @abstractmethod
    def flush(self) -> None:
        """Write what is queued."""


class Call(Request):
    """A request on its way through the front: `route` says where to, `receiving` and `target` are its two halves."""

    __slots__ = ("receiving", "route", "target")

    def __init__(
        self,
        stream_id: int,
        target: ReplyTarget,
        now: float,
        route: Route,
        priority: int,
        principal: int,
        want_timing: bool,
    ) -> None:
        # What Request sets, written out: to ask it would cost a third more, and there is one of these per call.
        self.stream_id = stream_id
        self.target = target
        self.arrived = self.first_byte = now
        self.priority = priority
        self.principal = principal
        self.deadline = inf
        self.want_timing = want_timing
        self.queued = self.started = self.done = False
        self.slot = -1
        self.rows = self.start = 0
        self.block = None
        self.prepared = None
        self.route = route
        self.receiving: Receiving | None = None

    def expired(self, _now: float) -> None:
        """Tell the caller at once, whatever the engine is doing: the deadline has passed."""
        self.target.expire(self)

    def take_back(self) -> bool:
        """Take it from its engine, if it got there: nobody waits for it. Returns whether the model may have seen it."""
        seen = self.receiving is None and not self.route.engine.cancel(self)
        self.done = True
        return seen

    def where(self, *, seen: bool) -> str:
        """Say what the call was doing, for error texts; `seen`: whether the model may have seen it."""
        if self.receiving is not None:
            return "while its body was received"
        if not seen:
            return "while it was queued"
        return "while it ran" if self.started else "while it was queued or ran"


def body_length_text(sent: int, expected: int) -> str:
    """Word the error for a body that does not fit its metadata."""
    return f"body: sent {sent} bytes, expected {expected} for the shapes in the metadata"


def microseconds(seconds: float) -> int:
    """Return them as u32, what does not fit cut off."""
    return min(max(0, int(seconds * 1e6)), 0xFFFFFFFF)
