"""The front of one loop, put together: what each part takes, and what is told of all of them to Prometheus.

Wiring and nothing else; no part knows this file.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from time import monotonic

from prometheus_client.core import GaugeMetricFamily, Metric

from ...gpu import SlabPool
from ...protocol.capture import CaptureWriter
from ..keys import KeyStore
from ..logs import lost_lines
from ..registry import Registry
from ..settings import Settings
from .admission import Admission
from .audit import Audit
from .body_memory import BodyPool
from .busy_poll import BusyPoll
from .connection_table import ConnectionTable
from .context import Context
from .dispatcher import Dispatcher
from .handshake_throttle import HandshakeThrottle
from .listener_policy import ListenerPolicy
from .metrics import Metrics, counter, gauge
from .principals import Principals
from .reply_budget import ReplyBudget
from .service_calls import ServiceCalls
from .timers import Timers
from .traffic_capture import TrafficCapture
from .transport import CapturingTransport, ConnectionTransport

RECEIVE_BUFFER_BYTES = 256 << 10
"""Shared by all connections of the loop: one read takes thousands of small calls, and an idle connection holds none."""

WRITE_BUDGET = 256 << 10
"""Bytes asked of a connection at a time, at least: one chunk of the largest usual size. As many as the kernel may keep
unsent where those are more: between smaller writes a fast reader runs dry, however much may lie there."""


class Front:
    """The parts of one loop. `timers` are the loop's; `audit`, `capture` and `keys` are None where there are none."""

    def __init__(
        self,
        settings: Settings,
        loop: asyncio.AbstractEventLoop,
        timers: Timers,
        registry: Registry,
        pool: SlabPool,
        *,
        audit: Audit | None = None,
        capture: CaptureWriter | None = None,
        keys: KeyStore | None = None,
    ) -> None:
        self.metrics = Metrics()
        self.metrics.gauges = self._gauges
        self.throttle = HandshakeThrottle(
            settings.penalty_failures, settings.penalty_window, settings.penalty_seconds, settings.exempt_networks
        )
        self.principals = Principals(settings)
        self.services = ServiceCalls(settings, registry, audit)
        self.context = Context(
            settings,
            loop,
            timers,
            self.metrics,
            admission=Admission(registry),
            audit=audit,
            body_pool=BodyPool(pool),
            boot_id=os.urandom(16),
            keys=keys,
            principals=self.principals,
            receive_buffer=memoryview(bytearray(RECEIVE_BUFFER_BYTES)),
            reply_budget=ReplyBudget(pool.nbytes // 2),
            service_calls=self.services,
            write_budget=max(WRITE_BUDGET, settings.low_water),
        )
        self.connections = ConnectionTable(self.context, self.throttle)
        busy_poll = BusyPoll(settings.spin, loop.call_soon, registry.works_apart, monotonic)
        self.dispatcher = Dispatcher(self.context, self.connections, busy_poll)
        self._registry = registry
        self._pool = pool
        self._capture = None if capture is None else TrafficCapture(capture)
        registry.on_change = self.principals.clear_routes

    def make_protocol(self, policy: ListenerPolicy) -> ConnectionTransport:
        """Make the asyncio protocol of a new connection to an address with this policy."""
        if self._capture is None:
            return ConnectionTransport(self.context, self.connections, self.dispatcher, policy)
        return CapturingTransport(self.context, self.connections, self.dispatcher, policy, self._capture)

    async def drain(self, seconds: float) -> bool:
        """Let nobody in, and wait at most `seconds` for open calls; False if some were cut."""
        self.services.draining = True
        return await self.connections.drain(seconds)

    def _gauges(self) -> Iterator[Metric]:
        connections, throttle, audit = self.connections, self.throttle, self.context.audit
        yield gauge("tensorwire_connections", "Open connections.", len(connections))
        yield gauge("tensorwire_connections_pending", "Connections in the handshake.", connections.pending)
        yield counter("tensorwire_penalties", "Times that a source was refused for a while.", throttle.imposed)
        yield gauge("tensorwire_penalty_sources", "Sources whose failed handshakes are remembered.", len(throttle))
        yield counter("tensorwire_log_lines_lost", "Lines of the log that nobody took.", lost_lines())
        if audit is not None:
            file = audit.file
            yield counter("tensorwire_audit_lines", "Lines written to the audit log.", file.written)
            lost = file.lost + audit.left_out
            yield counter("tensorwire_audit_lines_lost", "Lines that the audit log could not take.", lost)
        yield gauge("tensorwire_calls", "Calls in flight.", connections.open_calls)
        spent = self.dispatcher.busy_poll.spent
        yield counter("tensorwire_spin_seconds", "Seconds of looking for bytes instead of sleeping.", spent)
        yield gauge("tensorwire_pool_bytes", "Size of the shared memory pool.", self._pool.nbytes)
        yield gauge("tensorwire_pool_used_bytes", "Pool memory in use.", self._pool.in_use)
        known = sum(len(principal.routes) for principal in self.principals.all())
        yield gauge("tensorwire_signature_cache_entries", "Known call signatures.", known)
        labels = ["model", "version"]
        depth = GaugeMetricFamily("tensorwire_queue_depth", "Calls waiting for a batch.", labels=labels)
        ready = GaugeMetricFamily("tensorwire_model_ready", "1 if new calls are expected to succeed.", labels=labels)
        for model in self._registry.all():
            names = [model.spec.name, model.spec.version]
            depth.add_metric(names, model.engine.queue_depth)
            ready.add_metric(names, float(model.engine.health().ready))
        yield depth
        yield ready
