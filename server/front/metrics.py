"""What the server counts, and how Prometheus reads it.

The hot path only adds plain integers to the objects here; everything that costs time (labels, sums of buckets, text)
happens when /metrics is read. Names follow Prometheus: `tensorwire_` prefix, base units, `_total` for counters.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from ...protocol import Status

if TYPE_CHECKING:
    from .call import Call

LATENCY_BOUNDS: tuple[float, ...] = (
    *(50e-6, 100e-6, 200e-6, 500e-6, 1e-3, 2e-3, 5e-3, 10e-3, 20e-3, 50e-3),
    *(0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0),
)
"""Upper bounds in seconds of server time per call: 1-2-5 steps from a small inline model to a slow generator."""

BATCH_BOUNDS: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Upper bounds in rows per batch."""


class ModelStats:
    """Counts of one model version."""

    __slots__ = ("batch_buckets", "batch_rows", "by_status", "latency_buckets", "latency_sum", "model", "version")

    def __init__(self, model: str, version: str) -> None:
        self.model = model
        self.version = version
        self.by_status = [0] * len(Status)
        self.latency_buckets = [0] * (len(LATENCY_BOUNDS) + 1)
        self.latency_sum = 0.0
        self.batch_buckets = [0] * (len(BATCH_BOUNDS) + 1)
        self.batch_rows = 0

    def call_done(self, status: int, seconds: float) -> None:
        """One call ended `seconds` after its first byte."""
        self.by_status[status] += 1
        self.latency_buckets[bisect_left(LATENCY_BOUNDS, seconds)] += 1
        self.latency_sum += seconds

    def replied(self, calls: list[Call], now: float) -> None:
        """These calls were answered OK at `now`."""
        buckets = self.latency_buckets
        total = first_byte = seconds = 0.0
        bucket = 0
        for call in calls:
            if call.first_byte != first_byte:  # those of one read came at once
                first_byte = call.first_byte
                seconds = now - first_byte
                bucket = bisect_left(LATENCY_BOUNDS, seconds)
            buckets[bucket] += 1
            total += seconds
        self.by_status[0] += len(calls)
        self.latency_sum += total

    def batch_done(self, rows: int) -> None:
        """One batch of `rows` rows ran."""
        self.batch_buckets[bisect_left(BATCH_BOUNDS, rows)] += 1
        self.batch_rows += rows


class Metrics:
    """Counts of one loop. `gauges` are read at scrape time only."""

    __slots__ = (
        "authentications",
        "bytes_in",
        "bytes_out",
        "cache_hits",
        "cache_misses",
        "connections_accepted",
        "connections_dropped",
        "gauges",
        "models",
        "registry",
    )

    def __init__(self) -> None:
        self.authentications: dict[str, int] = {}
        self.bytes_in = 0
        self.bytes_out = 0
        self.cache_hits = 0
        self.cache_misses = 0
        self.connections_accepted = 0
        self.connections_dropped: dict[str, int] = {}
        self.gauges: Callable[[], Iterator[Metric]] = lambda: iter(())
        self.models: dict[tuple[str, str], ModelStats] = {}
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self)

    def model(self, name: str, version: str) -> ModelStats:
        """The counts of one model version; they go on when it is loaded again."""
        return self.models.setdefault((name, version), ModelStats(name, version))

    def dropped(self, reason: str) -> None:
        """One connection was closed by us, for `reason` (a short fixed word)."""
        self.connections_dropped[reason] = self.connections_dropped.get(reason, 0) + 1

    def authentication(self, outcome: str) -> None:
        """One connection was `accepted`, or ended before that for a reason that is a short fixed word."""
        self.authentications[outcome] = self.authentications.get(outcome, 0) + 1

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self.registry)

    def collect(self) -> Iterator[Metric]:
        """Called by prometheus_client for each scrape."""
        for name, help_text, value in (
            ("tensorwire_received_bytes", "Bytes read from connections.", self.bytes_in),
            ("tensorwire_sent_bytes", "Bytes handed to connections.", self.bytes_out),
            ("tensorwire_signature_cache_hits", "Calls whose signature was known.", self.cache_hits),
            ("tensorwire_signature_cache_misses", "Calls whose metadata had to be decoded.", self.cache_misses),
            ("tensorwire_connections_accepted", "Connections accepted.", self.connections_accepted),
        ):
            yield counter(name, help_text, value)
        for name, help_text, label, counts in (
            (
                "tensorwire_connections_dropped",
                "Connections closed by the server, by reason.",
                "reason",
                self.connections_dropped,
            ),
            (
                "tensorwire_authentications",
                "Connections that were accepted, or ended before that, by outcome.",
                "outcome",
                self.authentications,
            ),
        ):
            family = CounterMetricFamily(name, help_text, labels=[label])
            for word, count in counts.items():
                family.add_metric([word], count)
            yield family
        yield from self._model_metrics()
        yield from self.gauges()

    def _model_metrics(self) -> Iterator[Metric]:
        labels = ["model", "version"]
        requests = CounterMetricFamily("tensorwire_requests", "Calls ended, by status.", labels=[*labels, "status"])
        latency = HistogramMetricFamily(
            "tensorwire_request_seconds", "Server time of a call, first byte read to reply queued.", labels=labels
        )
        batches = HistogramMetricFamily("tensorwire_batch_rows", "Rows per batch.", labels=labels)
        for stats in self.models.values():
            names = [stats.model, stats.version]
            for status in Status:
                if stats.by_status[status]:
                    requests.add_metric([*names, status.name], stats.by_status[status])
            latency.add_metric(names, _buckets(LATENCY_BOUNDS, stats.latency_buckets), stats.latency_sum)
            batches.add_metric(names, _buckets(BATCH_BOUNDS, stats.batch_buckets), stats.batch_rows)
        yield from (requests, latency, batches)


def counter(name: str, help_text: str, value: float) -> Metric:
    """A counter without labels."""
    return CounterMetricFamily(name, help_text, value=value)


def gauge(name: str, help_text: str, value: float) -> Metric:
    """A gauge without labels."""
    return GaugeMetricFamily(name, help_text, value=value)


def _buckets(bounds: tuple[float, ...], counts: list[int]) -> list[tuple[str, float]]:
    buckets: list[tuple[str, float]] = []
    total = 0
    for bound, count in zip((*bounds, float("inf")), counts, strict=True):
        total += count
        buckets.append(("+Inf" if bound == float("inf") else f"{bound:g}", total))
    return buckets
