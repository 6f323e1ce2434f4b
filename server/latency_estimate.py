"""How long a call would wait, and whether that is known well enough to refuse it at the door.

A refusal must be right: it is given only when the model's batches have been regular for a while and even their fast
estimate is too late. Pure arithmetic, no clock of its own.
"""

from __future__ import annotations

MIN_BATCHES = 32
"""Batches seen before an estimate counts as solid."""

FRESH = 5.0
"""Seconds after which the last batch says nothing about the next one."""

_WEIGHT = 0.125  # of the newest batch, as TCP's round trip estimator


class LatencyEstimate:
    """Smoothed seconds per batch of one model, with their mean deviation."""

    __slots__ = ("_batches", "_last", "deviation", "mean")

    def __init__(self) -> None:
        self._batches = 0
        self._last = 0.0
        self.mean = 0.0
        self.deviation = 0.0

    def batch_done(self, seconds: float, now: float) -> None:
        """Learn that one batch took `seconds` from leaving the queue to its results."""
        if self._batches == 0:
            self.mean = seconds
        error = seconds - self.mean
        self.mean += _WEIGHT * error
        self.deviation += _WEIGHT * (abs(error) - self.deviation)
        self._batches += 1
        self._last = now

    def least(self, batches_ahead: int, now: float) -> float:
        """Return the least seconds until a call with `batches_ahead` full batches before it is done; 0.0 if unknown."""
        if self._batches < MIN_BATCHES or now - self._last > FRESH or self.deviation > 0.25 * self.mean:
            return 0.0
        return (batches_ahead + 1) * (self.mean - 2 * self.deviation)
