"""Watches of the health of models (SPEC 16): one message at once and one per change, until the client or we end them.

What lives here: when a watch looks and that it ends. What must not: what it sees and how that is sent
(service_calls.py).
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from ...codec import HealthReport, State
from ...protocol import Status
from .audit import Audit
from .call_table import CallTable
from .timers import Timers

WATCH_INTERVAL = 0.2
"""Seconds between looks at a watched model; a prober that wants it faster calls instead of watching."""

MAX_WATCHES = 16
"""Watches open on one connection: each looks at every model it asked for five times a second."""

_SERVICE = ("$health", "")  # what a watch is in the audit log


class HealthWatch:
    """One open watch: calls `look(now)` every WATCH_INTERVAL, and `tell(report)` with what changed."""

    __slots__ = ("_last", "_look", "_tell", "_timers", "done")

    def __init__(
        self, timers: Timers, look: Callable[[float], HealthReport], tell: Callable[[HealthReport], object]
    ) -> None:
        self._timers = timers
        self._look = look
        self._tell = tell
        self._last: list[tuple[State, str]] = []
        self.done = False

    def expired(self, now: float) -> None:
        """Look again, tell the client if something changed, and ask to be called in WATCH_INTERVAL seconds."""
        self._timers.add(now + WATCH_INTERVAL, self)
        report = self._look(now)
        states = [(health.state, health.detail) for health in report.models]
        if states != self._last:
            self._last = states
            self._tell(report)

    def stop(self) -> None:
        """Look no more: the stream is over."""
        self.done = True
        self._timers.finished()


class HealthWatches:
    """The watches of one connection by stream, whose ends are said by `calls`."""

    __slots__ = ("_audit", "_calls", "_timers", "open")

    def __init__(self, timers: Timers, calls: CallTable, audit: Audit | None) -> None:
        self._timers = timers
        self._calls = calls
        self._audit = audit
        self.open: dict[int, HealthWatch] = {}

    def add(
        self, stream_id: int, look: Callable[[float], HealthReport], tell: Callable[[HealthReport], object]
    ) -> None:
        """Begin a watch, which tells something at once."""
        watch = self.open[stream_id] = HealthWatch(self._timers, look, tell)
        watch.expired(monotonic())

    def cancel(self, stream_id: int) -> None:
        """End the watch of this stream, if it is one: its client has given it up."""
        watch = self.open.pop(stream_id, None)
        if watch is not None:
            watch.stop()
            self._say_end(stream_id, Status.CANCELLED, "cancelled by the caller")

    def end_all(self, status: Status, message: str) -> None:
        """End all of them; the caller flushes."""
        for stream_id, watch in self.open.items():
            watch.stop()
            self._say_end(stream_id, status, message)
        self.open.clear()

    def give_up(self) -> None:
        """Stop all of them: nobody waits any more."""
        for stream_id, watch in self.open.items():
            watch.stop()
            if self._audit is not None:
                self._audit.refused(self._calls.info, stream_id, Status.CANCELLED, _SERVICE, started=True)
        self.open.clear()

    def _say_end(self, stream_id: int, status: Status, message: str) -> None:
        self._calls.end(stream_id, status, message, not_started=False, asked=_SERVICE)
