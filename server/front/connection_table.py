"""The connections of one loop: who is let in, why they end, and how all of them are drained.

What lives here: limits on connections, sources that fail, what is said of those we close. What must not: what happens
on one (session.py), when its peer has to be somewhere (session_lifetime.py).
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from time import monotonic

from ...protocol import ErrorCode
from ..logs import get_logger
from .context import Context
from .handshake_throttle import HandshakeThrottle
from .ports import ConnectionInfo, ConnectionObserver
from .session import Session

PENALISED = frozenset(
    (
        *("authentication", "certificate", "extension", "frame", "handshake", "not_tensorwire", "plaintext"),
        *("protocol", "stream", "timeout", "tls", "tls_handshake", "too_large"),
    )
)
"""Ends of a handshake that count as failures of its source: the peer did what no good client does. Not those where both
sides merely disagree (version, feature, mac), nor what another peer's flood brings about (too_many_pending)."""

LOG_LINES = 10
"""Lines per second about connections we closed: a flood of strangers must not become a flood of log."""


class ConnectionTable(ConnectionObserver):
    """Every open connection. `draining`: none is let in any more."""

    def __init__(self, context: Context, throttle: HandshakeThrottle) -> None:
        settings = context.settings
        self._max_connections: int = settings.max_connections
        self._max_pending: int = settings.max_pending
        self._metrics = context.metrics
        self._audit = context.audit
        self._throttle = throttle
        self.sessions: dict[ConnectionInfo, Session] = {}
        self._pending: dict[ConnectionInfo, Session] = {}  # in the handshake, the oldest first
        self.draining = False
        self._empty = asyncio.Event()
        self._log = get_logger("front")
        self._log_second = 0.0
        self._log_lines = 0

    def __len__(self) -> int:
        return len(self.sessions)

    @property
    def pending(self) -> int:
        """Connections in the handshake."""
        return len(self._pending)

    @property
    def open_calls(self) -> int:
        """Calls in flight."""
        return sum(len(session.calls.calls) for session in self.sessions.values())

    def admit(self, session: Session) -> bool:
        """Take a new connection in; False if there are too many, or its source is refused."""
        info = session.info
        self._metrics.connections_accepted += 1
        if self._throttle.refused(info.peer[0], monotonic()):  # guard: penalty-at-accept
            self._metrics.dropped("penalty")
            return False
        if len(self.sessions) >= self._max_connections or self.draining:
            self._metrics.dropped("draining" if self.draining else "too_many_connections")
            return False
        if len(self._pending) >= self._max_pending:  # guard: flood-of-connections
            oldest = next(iter(self._pending))
            self._pending.pop(oldest).outlet.abort("too_many_pending")
        self.sessions[info] = session
        self._pending[info] = session
        session.lifetime.arm()  # guard: slow-authentication
        return True

    # -- as ConnectionObserver -------------------------------------------------------------------------------------

    def authenticated(self, info: ConnectionInfo) -> None:
        """Take note that a handshake is over: the connection is its principal's."""
        self._pending.pop(info, None)
        self._metrics.authentication("accepted")
        self._throttle.succeeded(info.peer[0])  # guard: penalty-forgotten
        if self._audit is not None:
            self._audit.authenticated(info)

    def dropped(self, info: ConnectionInfo, reason: str, detail: str = "") -> None:
        """Count and log that we close a connection; `reason` is one of a few fixed words."""
        self._metrics.dropped(reason)
        if not info.ended:
            info.ended = reason
            if not info.authenticated:
                self._refused(info, reason, fault=reason in PENALISED)  # guard: penalty-by-flood
        now = monotonic()
        if now - self._log_second >= 1.0:
            self._log_second, self._log_lines = now, 0
        self._log_lines += 1
        if self._log_lines <= LOG_LINES:  # guard: log-flood
            peer = info.peer[0] or None
            self._log.info("connection closed", reason=reason, connection=info.name, peer=peer, detail=detail)
        elif self._log_lines == LOG_LINES + 1:
            self._log.info("more connections closed; see tensorwire_connections_dropped_total")

    def forget(self, info: ConnectionInfo) -> None:
        """Take a connection out that is gone."""
        if self.sessions.pop(info, None) is None:
            return
        self._pending.pop(info, None)
        reason = info.ended or ("drained" if self.draining or info.draining else "peer_closed")
        if not info.authenticated:
            if not info.ended:  # who has had a WELCOME, and leaves, has cost us something
                self._refused(info, reason, fault=not self.draining and info.greeted)  # guard: penalty-after-welcome
        elif self._audit is not None:
            self._audit.disconnected(info, reason)
        if not self.sessions:
            self._empty.set()

    def _refused(self, info: ConnectionInfo, reason: str, *, fault: bool) -> None:
        """Take note that a pending connection is over."""
        self._metrics.authentication(reason)
        if self._audit is not None:
            self._audit.turned_away(info, reason)
        seconds = self._throttle.failed(info.peer[0], monotonic()) if fault else 0.0
        if seconds:
            self._log.warning(
                "source refused for a while: too many of its handshakes failed",
                source=info.peer[0],
                seconds=seconds,
                reason=reason,
            )

    # -- all of them -----------------------------------------------------------------------------------------------

    def descriptors(self) -> list[int]:
        """Return those of the sockets."""
        found = [session.outlet.descriptor() for session in self.sessions.values()]
        return [descriptor for descriptor in found if descriptor >= 0]

    def drop_stalled(self, since: float) -> None:
        """Drop every connection whose peer has let replies wait since then."""
        for session in list(self.sessions.values()):
            if session.outlet.stalled_since(since):
                session.outlet.abort("write_timeout")

    async def drain(self, seconds: float) -> bool:
        """Say goodbye to all connections and wait at most `seconds` for calls; False if some were cut."""
        self.draining = True
        for session in list(self.sessions.values()):
            session.lifetime.drain()
        if self.sessions:
            self._empty.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), seconds)
        clean = not self.sessions
        for session in list(self.sessions.values()):
            session.lifetime.close(ErrorCode.SHUTDOWN, "the server stops; drain_timeout is over")
        if not clean:
            await asyncio.sleep(0.05)  # let the last words leave
        return clean
