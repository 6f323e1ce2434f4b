"""The objects of one call on its way through the front: where it goes (Route), the call itself, and refusals.

Plain data with the little behaviour that deadlines need. Who makes them and when is admission.py and session.py.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from ...protocol import Status
from ..engine.api import Engine, Prepared, Request

if TYPE_CHECKING:
    from ...gpu import Slab
    from ..model import Model
    from .session import Session


class Refuse(Exception):  # noqa: N818 - an outcome, not an error: the caller gets `status` and `message`
    """A call that is not taken, found out on the slow path. `model` is the model it reached, for the counts; `asked`
    model and version that it named and did not reach, for the audit log.
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


class Call(Request):
    """A request on its way through the front: `route` says where to, `slab` is memory its body is being read into."""

    __slots__ = ("route", "slab")

    def __init__(
        self,
        stream_id: int,
        session: Session,
        now: float,
        route: Route,
        priority: int,
        principal: int,
        want_timing: bool,
    ) -> None:
        # What Request sets, written out: to ask it would cost a third more, and there is one of these per call.
        self.stream_id = stream_id
        self.session = session
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
        self.slab: Slab | None = None

    def expired(self, _now: float) -> None:
        """Its deadline has passed: the caller is told at once, whatever the engine is doing."""
        self.session.call_expired(self)

    def take_back(self) -> bool:
        """Nobody waits for it now: take it from its engine, if it got there. Whether the model may have seen it."""
        seen = self.slab is None and not self.route.engine.cancel(self)
        self.done = True
        return seen

    def where(self, *, seen: bool) -> str:
        """What the call was doing, for error texts; `seen`: whether the model may have seen it."""
        if self.slab is not None:
            return "while its body was received"
        if not seen:
            return "while it was queued"
        return "while it ran" if self.started else "while it was queued or ran"


def body_length_text(sent: int, expected: int) -> str:
    """The error for a body that does not fit its metadata."""
    return f"body: sent {sent} bytes, expected {expected} for the shapes in the metadata"


def microseconds(seconds: float) -> int:
    """As u32, what does not fit cut off."""
    return min(max(0, int(seconds * 1e6)), 0xFFFFFFFF)
