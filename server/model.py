"""One version of one model as it is served: what it is, where it runs, and what is known of its calls.

What lives here: the record that a name leads to, and accounting for what its engine finished. What must not: names and
versions (registry.py), how the engine came to be (model_loader.py), replies (front/reply_encoder.py).
"""

from __future__ import annotations

from .engine.api import BatchResult, Engine, Failure
from .engine.spec import ModelSpec
from .latency_estimate import LatencyEstimate
from .model_stats import AnyRequest, ModelStats


class Model:
    """One version of one model with its engine, and what is counted about it.

    placement: where the engine runs, `inline` or `process`. latency: how long its batches take.
    """

    __slots__ = ("engine", "latency", "placement", "spec", "stats")

    def __init__(self, spec: ModelSpec, engine: Engine, placement: str, stats: ModelStats) -> None:
        self.spec = spec
        self.engine = engine
        self.placement = placement
        self.stats = stats
        self.latency = LatencyEstimate()

    @property
    def own_process(self) -> bool:
        """Whether the model runs in a process of its own."""
        return self.placement == "process"

    def count(self, results: list[BatchResult | Failure], replied: list[AnyRequest], now: float) -> None:
        """Account for what the engine finished at `now`, and for the calls whose replies are on their way."""
        for result in results:
            if isinstance(result, BatchResult):
                self.stats.batch_done(result.batch_rows)
                self.latency.batch_done(result.copied_out - result.planned, now)
        self.stats.replied(replied, now)
