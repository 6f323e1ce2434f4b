"""The open calls of one connection, and that each of them gets exactly one end.

What lives here: replies noted, failures, deadlines, cancels, the words of an error. What must not: how calls come
(session.py), what is written when (transport.py).
"""

from __future__ import annotations

from math import inf
from time import monotonic
from typing import TYPE_CHECKING

from ...protocol import Connection, Status, pack_extension
from .call import Call, microseconds

if TYPE_CHECKING:
    from ..model import Model
    from .audit import Audit
    from .timers import Timers

MAX_DETAIL_BYTES = 1024


class CallTable:
    """Calls by stream. Every method only queues on `connection`; the caller flushes."""

    __slots__ = ("_audit", "_timers", "calls", "connection")

    def __init__(self, timers: Timers, connection: Connection, audit: Audit | None) -> None:
        self._audit = audit
        self._timers = timers
        self.connection = connection
        self.calls: dict[int, Call] = {}

    @property
    def name(self) -> str:
        """The connection's name in logs and request ids."""
        return self.connection.connection_id.hex()

    def replied(self, calls: list[Call]) -> None:
        """Their replies are queued; whoever queued them counts them, when they are on their way."""
        open_calls = self.calls
        for call in calls:
            call.done = True
            del open_calls[call.stream_id]
            if call.deadline != inf:
                self._timers.finished()

    def fail(self, call: Call, status: Status, message: str, *, started: bool) -> None:
        """End `call` with an error."""
        self.replied([call])
        self._end_call(call, status, message, started=started)

    def expire(self, call: Call) -> None:
        """End `call`, whose deadline has passed, wherever it is."""
        started = call.take_back()
        where = call.where(seen=started)
        del self.calls[call.stream_id]
        allowed = (call.deadline - call.first_byte) * 1e3
        text = f"the deadline of {allowed:.1f} ms passed {where}"
        self._end_call(call, Status.DEADLINE_EXCEEDED, text, started=started)

    def cancel(self, call: Call, status: Status = Status.CANCELLED, message: str = "cancelled by the caller") -> None:
        """End `call`, wherever it is; its caller has given it up, unless another reason is given."""
        started = call.take_back()
        self.fail(call, status, message, started=started)

    def give_up(self) -> None:
        """Nobody waits for any of them any more."""
        now = monotonic()
        for call in self.calls.values():
            started = call.take_back()
            if self._audit is not None:
                self._audit.ended(call, Status.CANCELLED, started, now)
            call.route.model.stats.call_done(Status.CANCELLED, now - call.first_byte)
            if call.deadline != inf:
                self._timers.finished()
        self.calls.clear()

    def end(
        self,
        stream_id: int,
        status: Status,
        message: str,
        model: Model | None = None,
        *,
        not_started: bool = True,
        ext: bytes = b"",
        asked: tuple[str, str] = ("", ""),
    ) -> None:
        """End a stream that is no open call. `model` counts it as a call that never got in; `asked` is the name and
        version of what it wanted, where that is no model.
        """
        if model is not None:
            model.stats.call_done(status, 0.0)
            asked = (model.spec.name, model.spec.version)
        if self._audit is not None:
            self._audit.refused(self, stream_id, status, asked, not not_started)
        self.connection.end(stream_id, status, self.detail(stream_id, message), not_started, ext)

    def detail(self, stream_id: int, message: str) -> str:
        """The text of an error: what happened, and the request id that both sides can look for."""
        request_id = f" [request {self.name}-{stream_id}]"
        room = MAX_DETAIL_BYTES - len(request_id)
        return message.encode("utf-8", "replace")[:room].decode("utf-8", "ignore") + request_id

    def _end_call(self, call: Call, status: Status, message: str, *, started: bool) -> None:
        now = monotonic()
        seconds = now - call.first_byte
        call.route.model.stats.call_done(status, seconds)
        if self._audit is not None:
            self._audit.ended(call, status, started, now)
        ext = b""
        if call.want_timing:
            receive = microseconds(call.arrived - call.first_byte)
            ext = pack_extension(timing=(receive, 0, 0, 0, 0, 0, microseconds(seconds)))
        self.connection.end(call.stream_id, status, self.detail(call.stream_id, message), not started, ext)
