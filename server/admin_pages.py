"""The pages of the admin port: counts for Prometheus, probes, and the models that are served.

What lives here: what a page says. What must not: HTTP (front/admin.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial

from .front.admin import Page
from .front.connection_table import ConnectionTable
from .front.metrics import Metrics
from .registry import Registry


def admin_pages(metrics: Metrics, connections: ConnectionTable, registry: Registry) -> dict[str, Callable[[], Page]]:
    """Return the pages by path."""
    return {
        "/metrics": partial(_metrics, metrics),
        "/healthz": _healthz,
        "/readyz": partial(_readyz, connections, registry),
        "/models": partial(_models, registry),
    }


def _metrics(metrics: Metrics) -> Page:
    return Page(metrics.text(), "text/plain; version=0.0.4; charset=utf-8")


def _healthz() -> Page:
    return Page(b"ok\n")  # the loop answers: that is what this page is about


def _readyz(connections: ConnectionTable, registry: Registry) -> Page:
    states = {f"{m.spec.name}/{m.spec.version}": m.engine.health() for m in registry.all()}
    ready = bool(states) and all(health.ready for health in states.values()) and not connections.draining
    lines = [f"{name} {health.state.name.lower()}" for name, health in states.items()]
    if connections.draining:
        lines.append("draining")
    return Page(("\n".join(lines) + "\n").encode(), status=200 if ready else 503)


def _models(registry: Registry) -> Page:
    models = [
        {
            "name": m.spec.name,
            "version": m.spec.version,
            "engine": m.placement,
            "device": m.spec.device,
            "state": m.engine.health().state.name.lower(),
            "queued": m.engine.queue_depth,
            "max_batch": m.spec.max_batch,
            "effective_max_batch": m.engine.effective_max_batch,
            "batch_with": m.engine.batch_with,
        }
        for m in registry.all()
    ]
    return Page(json.dumps(models, indent=2).encode() + b"\n", "application/json")
