"""What the connections of one loop share: limits, the receive buffer, deadlines, counts, and the way back from engines.

One Front per loop. It holds no protocol rule and no model; sessions.py speaks for one connection, registry.py knows
models.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

from prometheus_client.core import GaugeMetricFamily, Metric

from ...protocol import Config, ErrorCode, Limits, Role
from ...protocol.signing import available_macs
from ..engine.api import BatchResult, Failure
from ..logs import get_logger, lost_lines
from .admission import Admission
from .busy_poll import BusyPoll
from .handshake_throttle import HandshakeThrottle
from .listener_policy import ListenerPolicy, unbound
from .metrics import Metrics, counter, gauge
from .principals import Principals
from .reply_encoder import ReplyEncoder
from .service_calls import ServiceCalls
from .timers import Timer, Timers
from .transport import CapturingTransport, ConnectionTransport

if TYPE_CHECKING:
    from ...gpu import SlabPool
    from ...protocol.capture import CaptureWriter
    from ..engine.inline import InlineEngine
    from ..engine.process import ProcessEngine
    from ..keys import KeyStore
    from ..model import Model
    from ..registry import Registry
    from ..settings import Settings
    from .audit import Audit
    from .call import Call
    from .session import Session

RECEIVE_BUFFER_BYTES = 256 << 10
"""Shared by all connections of the loop: one read takes thousands of small calls, and an idle connection holds none."""


ALONE = 16
"""Reads in a row from one connection after which its calls do not wait for those that others may send in the turn."""

PRESSED = 0.25
"""Seconds that a peer may let its replies wait while an engine waits for the memory they hold: else `write_timeout`,
which is long, would be the time that one who does not read can stop a model for everybody."""

FAULTS = frozenset(
    (
        *("authentication", "certificate", "extension", "frame", "handshake", "not_tensorwire", "plaintext"),
        *("protocol", "stream", "timeout", "tls", "tls_handshake", "too_large"),
    )
)
"""Ends of a handshake that count as failures of its source: the peer did what no good client does. Not those where both
sides merely disagree (version, feature, mac), nor what another peer's flood brings about (too_many_pending)."""

WRITE_BUDGET = 256 << 10
"""Bytes asked of a connection at a time, at least: one chunk of the largest usual size. As many as the kernel may keep
unsent where those are more: between smaller writes a fast reader runs dry, however much may lie there."""

LOG_LINES = 10
"""Lines per second about connections we closed: a flood of strangers must not become a flood of log."""


class Front:
    """The shared state of one loop's connections."""

    def __init__(
        self,
        settings: Settings,
        loop: asyncio.AbstractEventLoop,
        registry: Registry,
        pool: SlabPool,
        capture: CaptureWriter | None = None,
        keys: KeyStore | None = None,
    ) -> None:
        self.settings = settings
        self.loop = loop
        self.registry = registry
        self.pool = pool
        self.metrics = Metrics()
        self.metrics.gauges = self._gauges
        self.timers = Timers(loop.call_later, monotonic)
        self.receive_buffer = memoryview(bytearray(RECEIVE_BUFFER_BYTES))
        self.boot_id = os.urandom(16)
        self.audit: Audit | None = None
        self.throttle = HandshakeThrottle(
            settings.penalty_failures, settings.penalty_window, settings.penalty_seconds, settings.exempt_networks
        )
        self.keys = keys
        self.principals = Principals(settings)
        self.sessions: set[Session] = set()
        self._pending: dict[Session, None] = {}  # in the handshake, the oldest first
        self.write_budget = max(WRITE_BUDGET, settings.low_water)
        self.draining = False
        self.forked = False
        self._empty = asyncio.Event()
        self.reading = False
        self.woken: list[InlineEngine | ProcessEngine] = []
        self._turn_comes = False
        self._last_reader: ConnectionTransport | None = None
        self.reader: ConnectionTransport | None = None  # which connection was read last, and since when it alone
        self.reader_since = 0.0
        self._streak = 0
        self.spin = BusyPoll(settings.spin, loop.call_soon, registry.works_apart, monotonic)
        self.admission = Admission(registry, pool)
        self.services = ServiceCalls(self)
        self.unread = 0  # bytes of replies that wait in connections above high water
        self.reply_room = pool.nbytes // 2  # of which one connection may have half; an eighth is a crowd
        self._pressed: Timer | None = None
        self._capture = capture
        self._log = get_logger("front")
        self._log_second = 0.0
        self._log_lines = 0
        registry.on_change = self._engine_changed

    # -- connections -----------------------------------------------------------------------------------------------

    def door(
        self, kind: str, binding: Callable[[], bytes] = unbound, principals: Mapping[str, str] | None = None
    ) -> ListenerPolicy:
        """A way in as the settings have it: with a key, or without where the operator or a certificate says so."""
        settings = self.settings
        keyless = settings.insecure or bool(principals)
        macs = () if self.keys is None else tuple(name for name in available_macs() if name != "none")
        limits = Limits(
            max_message=settings.message_limit,
            max_streams=settings.max_streams,
            handshake_timeout=settings.handshake_timeout,
            max_nuisance=settings.control_frames,
            max_control=int(settings.control_bytes),
        )
        macs += ("none",) if keyless else ()
        config = Config(role=Role.SERVER, limits=limits, mac_algorithms=macs, keyless=keyless)
        return ListenerPolicy(config, binding, kind, principals or {})

    def make_protocol(self, door: ListenerPolicy) -> ConnectionTransport:
        """The asyncio protocol of a new connection that came by `door`."""
        return ConnectionTransport(self, door) if self._capture is None else CapturingTransport(self, door)

    def admit(self, session: Session) -> bool:
        """Take a new connection in; False if there are too many, or its source is refused."""
        settings = self.settings
        self.metrics.connections_accepted += 1
        if self.throttle.refused(session.peer[0], monotonic()):
            self.metrics.dropped("penalty")
            return False
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
        """A pending connection is authenticated: `session.principal` is who it is."""
        self._pending.pop(session, None)
        self.metrics.authentication("accepted")
        self.throttle.succeeded(session.peer[0])
        if self.audit is not None:
            self.audit.authenticated(session)

    def descriptors(self) -> list[int]:
        """Of the sockets of all connections."""
        return [descriptor for session in self.sessions if (descriptor := session.descriptor) >= 0]

    def _turned_away(self, session: Session, reason: str, *, fault: bool) -> None:
        """A pending connection is over."""
        self.metrics.authentication(reason)
        if self.audit is not None:
            self.audit.turned_away(session, reason)
        seconds = self.throttle.failed(session.peer[0], monotonic()) if fault else 0.0
        if seconds:
            self._log.warning(
                "source refused for a while: too many of its handshakes failed",
                source=session.peer[0],
                seconds=seconds,
                reason=reason,
            )

    def forget(self, session: Session) -> None:
        """A connection is gone."""
        if session in self.sessions:
            self.sessions.remove(session)
            self.principals.leave(session.principal, session.connection.connection_id)
            self._pending.pop(session, None)
            reason = session.ended or ("drained" if self.draining or session.drained else "peer_closed")
            if not session.authenticated:
                if not session.ended:  # who has had a WELCOME, and leaves, has cost us something
                    self._turned_away(session, reason, fault=not self.draining and session.connection.version > 0)
            elif self.audit is not None:
                self.audit.disconnected(session, reason)
            if not self.sessions:
                self._empty.set()

    def connection_dropped(self, reason: str, session: Session, detail: str = "") -> None:
        """Count and log that we closed a connection; `reason` is one of a few fixed words."""
        self.metrics.dropped(reason)
        if not session.ended:
            session.ended = reason
            if not session.authenticated:
                self._turned_away(session, reason, fault=reason in FAULTS)
        now = monotonic()
        if now - self._log_second >= 1.0:
            self._log_second, self._log_lines = now, 0
        self._log_lines += 1
        if self._log_lines <= LOG_LINES:
            peer = session.peer[0] or None
            self._log.info("connection closed", reason=reason, connection=session.name, peer=peer, detail=detail)
        elif self._log_lines == LOG_LINES + 1:
            self._log.info("more connections closed; see tensorwire_connections_dropped_total")

    def record(self, session: Session, *, received: bool, data: bytes | memoryview) -> None:
        """Write bytes of one connection to the capture file."""
        if self._capture is None:
            return
        try:
            self._capture.record(session.connection.connection_id, received=received, now=monotonic(), data=data)
        except OSError as error:
            self._capture = None
            self._log.error("the capture cannot be written and ends here", error=error.strerror)

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
            try:
                engine.step()
            except BaseException:  # the others were promised their turn, and will not ask for it again
                if self.forked:  # Ctrl-C in a model's child: the loop, which it shares with its parent, must not see it
                    os._exit(1)
                self.woken = woken[woken.index(engine) + 1 :] + self.woken
                self._schedule()
                raise
            if engine.short_of_memory and self._pressed is None:
                self._press(monotonic())

    def attach(self, model: Model) -> None:
        """Deliver what the engine of `model` finishes: its sink is here from now on."""
        model.engine.sink = partial(self.complete, model, ReplyEncoder(model.spec.name, model.spec.version))

    def complete(self, model: Model, encoder: ReplyEncoder, results: list[BatchResult | Failure]) -> None:
        """What an engine finished: queue the replies, then write once per connection."""
        if self.forked:  # a model's child that came back from its call: the parent answers
            os._exit(1)
        now = monotonic()
        touched: set[Session] = set()
        replied: list[Call] = []
        for result in results:
            if isinstance(result, BatchResult):
                before = len(replied)
                encoder.deliver(result, now, touched, replied)
                if self.audit is not None:
                    self.audit.replied(model, encoder, result, replied[before:], now)
            else:
                for request in result.requests:
                    session = request.session
                    if not request.done:
                        session.fail(request, result.status, result.message, started=result.started)
                        touched.add(session)
        for session in touched:
            session.flush()
        model.count(results, replied, now)
        if model.own_process:
            self.spin.stir()

    def _press(self, now: float) -> None:
        self._pressed = Timer(self._release)
        self.timers.add(now + PRESSED, self._pressed)

    def _release(self, now: float) -> None:
        """An engine waited for the memory of replies. If one still does, peers that let theirs wait are dropped."""
        self._pressed = None
        if not any(model.engine.short_of_memory for model in self.registry.all()):
            return
        for session in list(self.sessions):
            if session.gives_way(now - PRESSED):
                session.abort("write_timeout")
        self._press(now)

    def _engine_changed(self) -> None:
        for principal in self.principals.all():
            principal.routes.clear()

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
        yield counter("tensorwire_penalties", "Times that a source was refused for a while.", self.throttle.imposed)
        yield gauge("tensorwire_penalty_sources", "Sources whose failed handshakes are remembered.", len(self.throttle))
        yield counter("tensorwire_log_lines_lost", "Lines of the log that nobody took.", lost_lines())
        if self.audit is not None:
            file = self.audit.file
            yield counter("tensorwire_audit_lines", "Lines written to the audit log.", file.written)
            lost = file.lost + self.audit.left_out
            yield counter("tensorwire_audit_lines_lost", "Lines that the audit log could not take.", lost)
        yield gauge("tensorwire_calls", "Calls in flight.", sum(len(session.calls) for session in self.sessions))
        yield counter("tensorwire_spin_seconds", "Seconds of looking for bytes instead of sleeping.", self.spin.spent)
        yield gauge("tensorwire_pool_bytes", "Size of the shared memory pool.", self.pool.nbytes)
        yield gauge("tensorwire_pool_used_bytes", "Pool memory in use.", self.pool.in_use)
        known = sum(len(principal.routes) for principal in self.principals.all())
        yield gauge("tensorwire_signature_cache_entries", "Known call signatures.", known)
        labels = ["model", "version"]
        depth = GaugeMetricFamily("tensorwire_queue_depth", "Calls waiting for a batch.", labels=labels)
        ready = GaugeMetricFamily("tensorwire_model_ready", "1 if new calls are expected to succeed.", labels=labels)
        for model in self.registry.all():
            names = [model.spec.name, model.spec.version]
            depth.add_metric(names, model.engine.queue_depth)
            ready.add_metric(names, float(model.engine.health().ready))
        yield depth
        yield ready
