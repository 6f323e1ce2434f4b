"""What the server counts, and how Prometheus reads it.

The hot path only adds plain integers to the objects here; everything that costs time (labels, sums of buckets, text)
happens when /metrics is read. Names follow Prometheus: `tensorwire_` prefix, base units, `_total` for counters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from ...protocol import Status
from ..model_stats import BATCH_BOUNDS, LATENCY_BOUNDS, ModelStats


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
        """Return the counts of one model version; they go on when it is loaded again."""
        return self.models.setdefault((name, version), ModelStats(name, version))

    def dropped(self, reason: str) -> None:
        """Count a connection that was closed by us, for `reason` (a short fixed word)."""
        self.connections_dropped[reason] = self.connections_dropped.get(reason, 0) + 1

    def authentication(self, outcome: str) -> None:
        """Count a connection that was `accepted`, or ended before that, for a reason that is a short fixed word."""
        self.authentications[outcome] = self.authentications.get(outcome, 0) + 1

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)

    def collect(self) -> Iterator[Metric]:
        """Give everything to prometheus_client, which calls this for each scrape."""
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
    """Make a counter without labels."""
    return CounterMetricFamily(name, help_text, value=value)


def gauge(name: str, help_text: str, value: float) -> Metric:
    """Make a gauge without labels."""
    return GaugeMetricFamily(name, help_text, value=value)


def _buckets(bounds: tuple[float, ...], counts: list[int]) -> list[tuple[str, float]]:
    buckets: list[tuple[str, float]] = []
    total = 0
    for bound, count in zip((*bounds, float("inf")), counts, strict=True):
        total += count
        buckets.append(("+Inf" if bound == float("inf") else f"{bound:g}", total))
    return buckets
