"""The open calls of one connection, and that each of them gets exactly one end.

What lives here: replies noted, failures, deadlines, cancels, the words of an error. What must not: how calls come
(session.py), what is written when (transport.py).

The table is of one connection at a time, and can be taken from it: `detach` when that is lost, `attach` to the next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from time import monotonic

from ...protocol import Connection, Refusal, Status, pack_extension
from ...protocol.header import END_STREAM
from ..model import Model
from .audit import Audit
from .call import Call, Refuse, ReplyTarget, microseconds
from .ports import ConnectionInfo, Outlet
from .timers import Timers

MAX_DETAIL_BYTES = 1024

LARGE = 64 << 10
"""Bytes of a reply after which the replies that wait are counted."""


class CallTable(ReplyTarget):
    """Calls by stream. Every method but `flush` and `expire` only queues on `connection`; the caller flushes.

    when_empty: called by `flush` when no call is open; set once no new one is taken.
    """

    __slots__ = ("_attached", "_audit", "_outlet", "_timers", "calls", "connection", "when_empty")

    def __init__(self, timers: Timers, audit: Audit | None) -> None:
        self._audit = audit
        self._timers = timers
        self._attached = False
        self.calls: dict[int, Call] = {}
        self.when_empty: Callable[[], None] | None = None

    def attach(self, connection: Connection, outlet: Outlet, info: ConnectionInfo) -> None:
        """Have what ends the calls said on this connection from now on."""
        self.connection = connection
        self._outlet = outlet
        self.info = info
        self._attached = True

    def detach(self) -> None:
        """Write nothing any more: the connection is over."""
        self._attached = False

    # -- as ReplyTarget --------------------------------------------------------------------------------------------

    def reply(self, call: Call, meta: bytes, ext: bytes, body: Sequence[bytes | memoryview], nbytes: int) -> None:
        """Queue the reply to `call`, its end. Raises LocalError or ValueError for what cannot be sent."""
        self.connection.send(call.stream_id, meta, ext, body, nbytes, END_STREAM)
        self._finish(call)
        if nbytes > LARGE:
            self._outlet.count_unread()

    def reply_together(
        self, calls: list[Call], stream_ids: list[int], frames: list[memoryview | bytes], nbytes: int
    ) -> bool:
        """Queue the replies to `calls`, which are neighbours in a batch, in `frames`; False if nothing was queued."""
        if not self.connection.replies(stream_ids, calls[0].priority, frames, nbytes):
            return False
        for call in calls:
            self._finish(call)
        return True

    def fail(self, call: Call, status: Status, message: str, *, started: bool) -> None:
        """End `call` with an error. `started`: whether the model may have seen it."""
        self._finish(call)
        self._end_call(call, status, message, started=started)

    def expire(self, call: Call) -> None:
        """End `call`, whose deadline has passed, wherever it is, and write that."""
        started = call.take_back()
        where = call.where(seen=started)
        del self.calls[call.stream_id]
        allowed = (call.deadline - call.first_byte) * 1e3
        text = f"the deadline of {allowed:.1f} ms passed {where}"
        self._end_call(call, Status.DEADLINE_EXCEEDED, text, started=started)
        self.flush()

    def reply_limit_reached(self) -> bool:
        """Tell whether so many replies wait to be read that no more are kept."""
        return self._outlet.reply_limit_reached

    def over_reply_budget(self) -> bool:
        """Tell whether a reply may keep no more memory than its own bytes."""
        return self._outlet.over_reply_budget()

    def flush(self) -> None:
        """Write what is queued, and say so if no call is open any more."""
        if not self._attached:
            return
        self._outlet.flush()
        if not self.calls and self.when_empty is not None:
            self.when_empty()

    # -- for the session -------------------------------------------------------------------------------------------

    def cancel(self, call: Call, status: Status = Status.CANCELLED, message: str = "cancelled by the caller") -> None:
        """End `call`, wherever it is; its caller has given it up, unless another reason is given."""
        started = call.take_back()
        self.fail(call, status, message, started=started)

    def give_up(self) -> None:
        """Take every call from its engine: nobody waits for any of them any more."""
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
        """End a stream that is no open call.

        model: counts it as a call that never got in. asked: name and version of what it wanted, where that is no model.
        """
        if model is not None:
            model.stats.call_done(status, 0.0)
            asked = (model.spec.name, model.spec.version)
        if self._audit is not None:
            self._audit.refused(self.info, stream_id, status, asked, not not_started)
        self.connection.end(stream_id, status, self.detail(stream_id, message), not_started, ext)

    def refuse(self, stream_id: int, refusal: Refuse) -> None:
        """End a stream whose call is not taken."""
        self.end(stream_id, refusal.status, refusal.message, refusal.model, asked=refusal.asked)

    def refuse_body(self, stream_id: int, refusal: Refuse) -> Refusal:
        """Take note of a big call that is not taken; returns what the core has to answer."""
        model, asked = refusal.model, refusal.asked
        if model is not None:
            model.stats.call_done(refusal.status, 0.0)
            asked = (model.spec.name, model.spec.version)
        if self._audit is not None:
            self._audit.refused_body(self.info, stream_id, refusal.status, asked)
        return Refusal(refusal.status, self.detail(stream_id, refusal.message))

    def detail(self, stream_id: int, message: str) -> str:
        """Word an error: what happened, and the request id that both sides can look for."""
        request_id = f" [request {self.info.name}-{stream_id}]"
        most = MAX_DETAIL_BYTES - len(request_id)
        return message.encode("utf-8", "replace")[:most].decode("utf-8", "ignore") + request_id

    def _finish(self, call: Call) -> None:
        """Take `call` from the table: its end is queued, or about to be."""
        call.done = True
        del self.calls[call.stream_id]
        if call.deadline != inf:
            self._timers.finished()

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
