"""A call is refused at the door only when the estimate is solid."""

from __future__ import annotations

import pytest

from tensorwire.server.latency_estimate import FRESH, MIN_BATCHES, LatencyEstimate


def regular(batches: int, seconds: float = 0.010) -> LatencyEstimate:
    estimate = LatencyEstimate()
    for _ in range(batches):
        estimate.batch_done(seconds, now=50.0)
    return estimate


def test_nothing_is_known_after_a_few_batches() -> None:
    assert regular(MIN_BATCHES - 1).least(10, now=50.0) == 0.0


def test_regular_batches_give_the_time_of_those_ahead_and_its_own() -> None:
    assert regular(MIN_BATCHES).least(4, now=50.0) == pytest.approx(0.050)


def test_an_old_estimate_is_none() -> None:
    assert regular(MIN_BATCHES).least(4, now=50.0 + FRESH + 0.1) == 0.0


def test_irregular_batches_give_none() -> None:
    estimate = LatencyEstimate()
    for number in range(100):
        estimate.batch_done(0.001 if number % 2 else 0.100, now=50.0)
    assert estimate.least(4, now=50.0) == 0.0
