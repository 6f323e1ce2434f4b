"""What the connections of one loop share: limits, the receive buffer, deadlines, counts, and the way back from engines.

One Front per loop. It holds no protocol rule and no model; sessions.py speaks for one connection, registry.py knows
models.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any

from prometheus_client.core import GaugeMetricFamily, Metric

from ...codec import FairCache, Metadata
from ...protocol import Config, ErrorCode, Limits, Role
from ..engine.api import BatchResult, Failure
from .admission import Admission
from .calls import SessionTimer
from .deadlines import Deadlines
from .logs import get_logger
from .metrics import Metrics, gauge
from .services import Services
from .transport import CapturingTransport, ConnectionTransport

if TYPE_CHECKING:
    from ...gpu import SlabPool
    from ...protocol.capture import CaptureWriter
    from ..engine.inline import InlineEngine
    from ..engine.process import ProcessEngine
    from ..registry import Registry, Served
    from ..settings import Settings
    from .calls import Call, Route
    from .session import Session

RECEIVE_BUFFER_BYTES = 256 << 10
"""Shared by all connections of the loop: one read takes thousands of small calls, and an idle connection holds none."""


ALONE = 16
"""Reads in a row from one connection after which its calls do not wait for those that others may send in the turn."""

PRESSED = 0.25
"""Seconds that a peer may let its replies wait while an engine waits for the memory they hold: else `write_timeout`,
which is long, would be the time that one who does not read can stop a model for everybody."""

LOG_LINES = 10
"""Lines per second about connections we closed: a flood of strangers must not become a flood of log."""


@dataclass(frozen=True, slots=True)
class Door:
    """One way in: what holds for all connections of one listening address.

    config: what is negotiated with them: which MACs, and whether a key is needed. binding: called once for each new
    connection; the channel binding of its transport (SPEC 11.3), under TLS 32 bytes, else none. kind: tcp, unix or tls.
    principals: the common name of a client's certificate -> who it is taken for (TLS that asks for certificates).
    """

    config: Config
    binding: Callable[[], bytes]
    kind: str
    principals: Mapping[str, str] = field(default_factory=dict)

    def certified(self, certificate: Mapping[str, Any] | None) -> str:
        """Whom a client's certificate, as `ssl` gives it when it was verified, stands for; "" for nobody."""
        names = [
            value for part in (certificate or {}).get("subject", ()) for name, value in part if name == "commonName"
        ]
        return self.principals.get(names[0], "") if len(names) == 1 else ""


def unbound() -> bytes:
    """The channel binding of a transport that has none."""
    return b""


class Principal:
    """Who calls, and what is remembered for them. Without signing there is one, `anonymous`, and its connections share
    what is remembered: each owns what it brought, so that none can push out what another uses.
    """

    __slots__ = ("metadata", "name", "number", "routes")

    def __init__(self, name: str, number: int, settings: Settings) -> None:
        self.name = name
        self.number = number
        entries, nbytes = settings.cache_entries, int(settings.cache_bytes)
        self.routes: FairCache[tuple[bytes, bytes], Route] = FairCache(entries, nbytes)
        self.metadata: FairCache[bytes, Metadata] = FairCache(entries, nbytes)

    def leave(self, connection_id: bytes) -> None:
        """One of its connections is gone."""
        self.routes.leave(connection_id)
        self.metadata.leave(connection_id)


class Front:
    """The shared state of one loop's connections."""

    def __init__(
        self,
        settings: Settings,
        loop: asyncio.AbstractEventLoop,
        registry: Registry,
        pool: SlabPool,
        capture: CaptureWriter | None = None,
    ) -> None:
        self.settings = settings
        self.loop = loop
        self.registry = registry
        self.pool = pool
        self.metrics = Metrics()
        self.metrics.gauges = self._gauges
        self.deadlines = Deadlines(loop.call_later, monotonic)
        self.receive_buffer = memoryview(bytearray(RECEIVE_BUFFER_BYTES))
        self.boot_id = os.urandom(16)
        self.anonymous = Principal("anonymous", 0, settings)
        self.sessions: set[Session] = set()
        self._pending: dict[Session, None] = {}  # in the handshake, the oldest first
        self.draining = False
        self._empty = asyncio.Event()
        self.reading = False
        self.woken: list[InlineEngine | ProcessEngine] = []
        self._turn_comes = False
        self._last_reader: ConnectionTransport | None = None
        self.reader: ConnectionTransport | None = None  # which connection was read last, and since when it alone
        self.reader_since = 0.0
        self._streak = 0
        self.admission = Admission(registry, pool)
        self.services = Services(self)
        self.unread = 0  # bytes of replies that wait in connections above high water
        self.reply_room = pool.nbytes // 2  # of which one connection may have half; an eighth is a crowd
        self._pressed: SessionTimer | None = None
        self._capture = capture
        self._log = get_logger("front")
        self._log_second = 0.0
        self._log_lines = 0
        registry.on_change = self._engine_changed

    # -- connections -----------------------------------------------------------------------------------------------

    def door(
        self, kind: str, binding: Callable[[], bytes] = unbound, principals: Mapping[str, str] | None = None
    ) -> Door:
        """A way in as the settings have it."""
        settings = self.settings
        limits = Limits(
            max_message=settings.message_limit,
            max_streams=settings.max_streams,
            handshake_timeout=settings.handshake_timeout,
        )
        return Door(Config(role=Role.SERVER, limits=limits), binding, kind, principals or {})

    def make_protocol(self, door: Door) -> ConnectionTransport:
        """The asyncio protocol of a new connection that came by `door`."""
        return ConnectionTransport(self, door) if self._capture is None else CapturingTransport(self, door)

    def admit(self, session: Session) -> bool:
        """Take a new connection in; False if there are too many."""
        settings = self.settings
        self.metrics.connections_accepted += 1
        if len(self.sessions) >= settings.max_connections or self.draining:
            self.metrics.dropped("draining" if self.draining else "too_many_connections")
            return False
        if len(self._pending) >= settings.max_pending:
            oldest = next(iter(self._pending))
            del self._pending[oldest]
            oldest.abort("too_many_pending")
        self.sessions.add(session)
        self._pending[session] = None
        session.opened()
        return True

    def handshake_over(self, session: Session) -> None:
        """A pending connection is authenticated."""
        self._pending.pop(session, None)

    def forget(self, session: Session) -> None:
        """A connection is gone."""
        if session in self.sessions:
            self.sessions.remove(session)
            session.principal.leave(session.connection.connection_id)
            self._pending.pop(session, None)
            if not self.sessions:
                self._empty.set()

    def connection_dropped(self, reason: str, session: Session, detail: str = "") -> None:
        """Count and log that we closed a connection; `reason` is one of a few fixed words."""
        self.metrics.dropped(reason)
        now = monotonic()
        if now - self._log_second >= 1.0:
            self._log_second, self._log_lines = now, 0
        self._log_lines += 1
        if self._log_lines <= LOG_LINES:
            self._log.info("connection closed", reason=reason, connection=session.name, detail=detail)
        elif self._log_lines == LOG_LINES + 1:
            self._log.info("more connections closed; see tensorwire_connections_dropped_total")

    def record(self, session: Session, *, received: bool, data: bytes | memoryview) -> None:
        """Write bytes of one connection to the capture file."""
        if self._capture is not None:
            self._capture.record(session.connection.connection_id, received=received, now=monotonic(), data=data)

    # -- engines ---------------------------------------------------------------------------------------------------

    def wake(self, engine: InlineEngine | ProcessEngine) -> None:
        """Step `engine` soon: when the read that woke it is over, or in the next turn of the loop."""
        self.woken.append(engine)
        if not self.reading:
            self._schedule()

    def read_over(self, reader: ConnectionTransport) -> None:
        """A read has brought work. What comes in one turn shares batches, so engines are stepped once all connections
        were read; only where one connection alone was heard of for a while there is nobody to wait for.
        """
        if reader is not self._last_reader:
            self._last_reader = reader
            self._streak = 0
        self._streak += 1
        if self._streak > ALONE:
            self._step()
        else:
            self._schedule()

    def _schedule(self) -> None:
        if not self._turn_comes:
            self._turn_comes = True
            self.loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._turn_comes = False
        self._step()

    def _step(self) -> None:
        woken, self.woken = self.woken, []
        for engine in woken:
            engine.step()
            if engine.short_of_memory and self._pressed is None:
                self._press(monotonic())

    def complete(self, served: Served, results: list[BatchResult | Failure]) -> None:
        """What an engine finished: queue the replies, then write once per connection."""
        now = monotonic()
        touched: set[Session] = set()
        replied: list[Call] = []
        for result in results:
            if isinstance(result, BatchResult):
                served.replies.deliver(result, now, touched, replied)
            else:
                for request in result.requests:
                    session = request.session
                    if not request.done:
                        session.fail(request, result.status, result.message, started=result.started)
                        touched.add(session)
        for session in touched:
            session.flush()
        served.count(results, replied, now)

    def _press(self, now: float) -> None:
        self._pressed = SessionTimer(self._release)
        self.deadlines.add(now + PRESSED, self._pressed)

    def _release(self, now: float) -> None:
        """An engine waited for the memory of replies. If one still does, peers that let theirs wait are dropped."""
        self._pressed = None
        if not any(served.engine.short_of_memory for served in self.registry.all()):
            return
        for session in list(self.sessions):
            if session.gives_way(now - PRESSED):
                session.abort("write_timeout")
        self._press(now)

    def _engine_changed(self) -> None:
        self.anonymous.routes.clear()

    # -- drain -----------------------------------------------------------------------------------------------------

    async def drain(self, patience: float) -> bool:
        """Say goodbye to all connections and wait at most `patience` seconds for calls; False if some were cut."""
        self.draining = True
        for session in list(self.sessions):
            session.drain()
        if self.sessions:
            self._empty.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), patience)
        clean = not self.sessions
        for session in list(self.sessions):
            session.close(ErrorCode.SHUTDOWN, "the server stops; drain_timeout is over")
        if not clean:
            await asyncio.sleep(0.05)  # let the last words leave
        return clean

    # -- metrics ---------------------------------------------------------------------------------------------------

    def _gauges(self) -> Iterator[Metric]:
        yield gauge("tensorwire_connections", "Open connections.", len(self.sessions))
        yield gauge("tensorwire_connections_pending", "Connections in the handshake.", len(self._pending))
        yield gauge("tensorwire_calls", "Calls in flight.", sum(len(session.calls) for session in self.sessions))
        yield gauge("tensorwire_pool_bytes", "Size of the shared memory pool.", self.pool.nbytes)
        yield gauge("tensorwire_pool_used_bytes", "Pool memory in use.", self.pool.in_use)
        yield gauge("tensorwire_signature_cache_entries", "Known call signatures.", len(self.anonymous.routes))
        labels = ["model", "version"]
        depth = GaugeMetricFamily("tensorwire_queue_depth", "Calls waiting for a batch.", labels=labels)
        ready = GaugeMetricFamily("tensorwire_model_ready", "1 if new calls are expected to succeed.", labels=labels)
        for served in self.registry.all():
            names = [served.spec.name, served.spec.version]
            depth.add_metric(names, served.engine.queue_depth)
            ready.add_metric(names, float(served.engine.health().ready))
        yield depth
        yield ready
