"""What is counted about one model version: calls by status and latency, batches by rows.

The hot path adds plain integers here; sums of buckets and text are made when /metrics is read (front/metrics.py).
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TypeVar

from ..protocol import Status
from .engine.types import Request

LATENCY_BOUNDS: tuple[float, ...] = (
    *(50e-6, 100e-6, 200e-6, 500e-6, 1e-3, 2e-3, 5e-3, 10e-3, 20e-3, 50e-3),
    *(0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0),
)
"""Upper bounds in seconds of server time per call: 1-2-5 steps from a small inline model to a slow generator."""

BATCH_BOUNDS: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Upper bounds in rows per batch."""


AnyRequest = TypeVar("AnyRequest", bound=Request)


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
        """Count a call that ended `seconds` after its first byte."""
        self.by_status[status] += 1
        self.latency_buckets[bisect_left(LATENCY_BOUNDS, seconds)] += 1
        self.latency_sum += seconds

    def replied(self, calls: list[AnyRequest], now: float) -> None:
        """Count these calls as answered OK at `now`."""
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
        """Count a batch of `rows` rows that ran."""
        self.batch_buckets[bisect_left(BATCH_BOUNDS, rows)] += 1
        self.batch_rows += rows
