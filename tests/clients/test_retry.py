"""Back-off and throttle."""

from __future__ import annotations

from tensorwire.clients.retry import Backoff, Throttle


def test_back_off_doubles_up_to_its_limit() -> None:
    backoff = Backoff(first=0.1, most=1.0)
    assert [backoff.delay(n, lambda: 1.0) for n in range(5)] == [0.1, 0.2, 0.4, 0.8, 1.0]
    assert backoff.delay(10_000, lambda: 1.0) == 1.0


def test_jitter_takes_at_most_half() -> None:
    assert Backoff(first=0.1, most=1.0).delay(0, lambda: 0.0) == 0.05


def test_a_throttle_allows_retries_until_half_of_its_tokens_are_gone() -> None:
    throttle = Throttle(capacity=10.0)
    assert [throttle.refused() for _ in range(6)] == [True, True, True, True, False, False]


def test_successes_fill_a_throttle_again() -> None:
    throttle = Throttle(capacity=10.0)
    for _ in range(20):
        throttle.refused()
    low = [throttle.low]
    for _ in range(200):
        throttle.succeeded()
    low.append(throttle.low)
    assert low == [True, False]
    assert throttle.refused()
