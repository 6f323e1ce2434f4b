"""How a connection learns that the server drains (SPEC 15): GOAWAY and PING, and a bounded time for the answer.

What lives here: how long to wait for calls that were sent before the peer knew. What must not: what becomes of them
(session.py), how long the server waits for the work itself (front.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ...protocol import Connection, ErrorCode
from .timers import Timer

if TYPE_CHECKING:
    from .timers import Timers

DRAINING = "the server is draining; connect again, perhaps elsewhere"

GRACE = 0.25
"""Seconds that a peer with calls open has to answer the PING: a long way there and back, and a busy loop."""

IDLE_GRACE = 0.05
"""Seconds for a peer that waits for nothing: an idle blocking client reads, and answers, only before its next call.
What it may have sent just before is here by then; what comes later is refused as not started."""

_PING = b"draining"
_NO_NEW_STREAMS = (1 << 64) - 1


class Drain:
    """farewell: why, for the peer. all_here(now) is called once: every stream that the peer opened before it heard of
    the drain has arrived.
    """

    __slots__ = ("_all_here", "_timer", "_timers")

    def __init__(
        self,
        connection: Connection,
        timers: Timers,
        all_here: Callable[[float], None],
        now: float,
        farewell: str,
        *,
        idle: bool,
    ) -> None:
        self._timers = timers
        self._all_here = all_here
        self._timer = Timer(all_here)
        connection.goaway(_NO_NEW_STREAMS, ErrorCode.SHUTDOWN, farewell)
        connection.ping(_PING)
        timers.add(now + (IDLE_GRACE if idle else GRACE), self._timer)

    def answered(self, payload: bytes, now: float) -> None:
        """A PONG came."""
        if payload == _PING and not self._timer.done:
            self.close()
            self._all_here(now)

    def close(self) -> None:
        """Wait no longer."""
        self._timers.cancel(self._timer)
